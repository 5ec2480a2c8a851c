"""Globs over keys: Python's `fnmatch` within a name, and `**` for any number of folders.

`*`, `?`, `[a-z]` and `[!a-z]` stand for characters of one name. `[[]`, `[*]` and `[?]` stand for these themselves;
Python's `glob.escape` writes them.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_FOLDERS = "**"


class Glob:
    """A pattern of keys.

    >>> pattern = Glob("a/**/report[[]*]-[!0].csv")
    >>> pattern.folder, pattern.matches("a/b/c/report[1]-1.csv"), pattern.matches("a/report[1]-0.csv")
    ('a', True, False)

    Raises:
        InvalidInputError: `**` is only a part of a name.
    """

    def __init__(self, text: str) -> None:
        names = text.split("/")
        if any(ANY_FOLDERS in re.sub(r"\[.*?\]", "", name) and name != ANY_FOLDERS for name in names):
            raise InvalidInputError(f"Invalid glob {text!r:.200}: '**' has to stand between slashes.")
        self.folder = re.split(r"[*?\[]", text)[0].rpartition("/")[0]
        self._names = [None if name == ANY_FOLDERS else re.compile(translate(name)) for name in names]

    def matches(self, key: str) -> bool:
        """Tell whether a key is one of these."""
        return _match(self._names, key.split("/"))


def _match(patterns: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    if not patterns or not names:
        return not patterns and not names
    first, *rest = patterns
    if first is None:
        # At the end it stands for what is in the folder, and not for the folder.
        return not rest or any(_match(rest, names[at:]) for at in range(len(names)))
    return first.match(names[0]) is not None and _match(rest, names[1:])
