"""Checks of arguments at the call, before anything is read or written."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def one_of(value: T, choices: Any, what: str) -> T:
    """Check that a value is one of a Literal's.

    >>> from typing import Literal
    >>> one_of("add", Literal["add", "fail"], "on_new_columns")
    'add'

    Raises:
        InvalidInputError: It is not; the error names the nearest one.
    """
    known = get_args(choices)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidInputError(f"Invalid {what} {value!r:.50}: {hint}The choices: {', '.join(map(repr, known))}.")


def names_of(value: Sequence[str], what: str) -> tuple[str, ...]:
    """Return names as a tuple.

    >>> names_of(["id", "day"], "key")
    ('id', 'day')

    Raises:
        InvalidInputError: It is a single text, whose letters would be taken for names, or holds something else.
    """
    if isinstance(value, str):
        raise InvalidInputError(f"{what} is a list of column names, not a single text: write {what}=[{value!r:.100}].")
    found = tuple(value)
    if odd := [name for name in found if not isinstance(name, str)]:
        raise InvalidInputError(f"{what} is a list of column names, and has a value of type {type(odd[0]).__name__}.")
    return found
