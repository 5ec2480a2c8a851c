"""The names of the columns of a CSV file.

A column without a name is called column0, column1 and so on by its place from 0, as DuckDB calls it; where another
column has that name, column0_1 and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks.arrow.columns import listed
from blocks.base.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def named(names: Sequence[str], source: str, *, rename_duplicates: bool) -> list[str]:
    """Return a name for each column.

    >>> named(["", "id", "ID", "id"], "a.csv", rename_duplicates=True)
    ['column0', 'id', 'ID_1', 'id_2']

    Args:
        names: What the header says.
        source: What messages call the file.
        rename_duplicates: Whether names that differ by nothing but case get a number behind them.

    Raises:
        SchemaError: Two columns have the same name.
    """
    if not rename_duplicates and (twice := _repeated(names)):
        raise SchemaError(
            f"{source} has these columns more than once: {listed(twice)}. Rename them in the file, name all columns by "
            "CsvOptions(column_names=(...)), or pass CsvOptions(rename_duplicates=True), which puts _1, _2 behind them."
        )
    taken = {name.casefold() for name in names}
    used: set[str] = set()
    found = []
    for place, name in enumerate(names):
        wanted = name or f"column{place}"
        is_free = wanted.casefold() not in (used if name else taken | used)
        if not is_free and (rename_duplicates or not name):
            wanted = next(each for each in _numbered(wanted) if each.casefold() not in taken | used)
        used.add(wanted.casefold())
        found.append(wanted)
    return found


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for name in filter(None, names):
        (twice if name in seen else seen).add(name)
    return sorted(twice)


def _numbered(name: str) -> Iterator[str]:
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1
