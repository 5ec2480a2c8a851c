"""Names and numbers in signatures: the types that say what text can be a name, and what range a number has.

`blocks.base.arguments` checks them at the call, pydantic where they are fields of a block.
"""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import annotated_types
from pydantic import AfterValidator

if TYPE_CHECKING:
    from collections.abc import Sequence

Share = Annotated[float, annotated_types.Interval(ge=0, le=1)]
"""A share of rows, from 0 to 1."""
Count = Annotated[int, annotated_types.Ge(1)]
"""A number of which there is at least one."""
Key = str | PurePath
"""The key of an object, or the name of a folder, relative to the block's own; a path is its parts with slashes."""
Position = Annotated[int, annotated_types.Ge(0)]
"""A number of bytes to skip, for example."""


def check_name(name: str) -> str:
    """Return the name of a column, if a database can take it.

    Raises:
        ValueError: It cannot; the message says what about it.
    """
    if problem := text_problem(name, allowed="\t\n"):
        raise ValueError(problem)
    return name


def check_table(table: str) -> str:
    """Return the name of a table, `table` or `schema.table`, if a database can take it.

    Raises:
        ValueError: It cannot; the message says what about it.
    """
    if problem := text_problem(table, allowed="\t\n"):
        raise ValueError(problem)
    if "" in table.split("."):
        raise ValueError("has an empty part beside a dot")
    return table


def check_id(text: str) -> str:
    """Return the identity of a load, or the name of a schema, if it can be sent and kept.

    Raises:
        ValueError: It cannot; the message says what about it.
    """
    if problem := text_problem(text):
        raise ValueError(problem)
    if len(text) > LONGEST_ID:
        raise ValueError(f"is longer than {LONGEST_ID} characters")
    return text


def check_state(name: str) -> str:
    """Return the name of a state, if it leaves room for the number of a load.

    Raises:
        ValueError: It does not, or cannot be kept.
    """
    if len(check_id(name)) > LONGEST_ID - 20:
        raise ValueError(f"is longer than {LONGEST_ID - 20} characters")
    return name


def text_problem(text: str, *, allowed: str = "") -> str | None:
    r"""Return why a text cannot be a name, None where it can.

    >>> text_problem("a\0b")
    'has the control character U+0000'
    """
    if not text:
        return "is empty"
    if has_surrogates(text):
        return "has half of a surrogate pair, which is not a character"
    for char in text:
        if unicodedata.category(char) == "Cc" and char not in allowed:
            return f"has the control character U+{ord(char):04X}"
    return None


def key_text(key: Key) -> str:
    """Return a key as text.

    >>> key_text(PurePath("raw") / "a.csv")
    'raw/a.csv'
    """
    return key.as_posix() if isinstance(key, PurePath) else key


def key_texts(keys: Key | Sequence[Key]) -> str | list[str]:
    """Return a key, or each of several, as text."""
    return key_text(keys) if isinstance(keys, str | PurePath) else [key_text(key) for key in keys]


def short_digest(text: str) -> str:
    """Return a few characters that tell a text from others, where all of it would be too long.

    >>> short_digest("duckdb:///data/shop.duckdb/main.orders")
    'ac5bc8'
    """
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def has_surrogates(text: str) -> bool:
    """Tell whether a text cannot be sent at all, as it has a surrogate of UTF-16 on its own."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


LONGEST_ID = 600
"""So many characters of four bytes fit into an entry of PostgreSQL's indexes."""

Name = Annotated[str, AfterValidator(check_name)]
"""The name of a column."""
TableName = Annotated[str, AfterValidator(check_table)]
"""The name of a table, with or without its schema."""
Identity = Annotated[str, AfterValidator(check_id)]
"""A load_id, or the name of a schema or a database."""
StateName = Annotated[str, AfterValidator(check_state)]
"""The name of a state, under which loads read on."""
