"""The names of the columns of a CSV file.

A column without a name is called column0, column1 and so on by its place from 0. A name that another column before it
has gets _1, _2 and so on behind it. Both are DuckDB's words.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def named(names: Sequence[str], *, case_sensitive: bool) -> list[str]:
    """Return a name for each column, all of them different.

    >>> named(["", "id", "ID", "id"], case_sensitive=False)
    ['column0', 'id', 'ID_1', 'id_2']

    Args:
        names: What the header says.
        case_sensitive: Whether names that differ only by case are different.
    """

    def alike(name: str) -> str:
        return name if case_sensitive else name.casefold()

    reserved, used = set(map(alike, names)), set[str]()
    numbers: dict[str, Iterator[int]] = {}
    found = []
    for place, name in enumerate(names):
        wanted = name or f"column{place}"
        if alike(wanted) in used or (not name and alike(wanted) in reserved):
            number = numbers.setdefault(alike(wanted), itertools.count(1))
            tried = (f"{wanted}_{count}" for count in number)
            wanted = next(each for each in tried if alike(each) not in reserved and alike(each) not in used)
        used.add(alike(wanted))
        found.append(wanted)
    return found
