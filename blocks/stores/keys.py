"""Keys of objects and names of folders: the one place that checks them and joins them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from blocks.base.errors import InvalidInputError


def join_key(folder: str, key: str) -> str:
    """Return the whole key of `key` in `folder`: the one place where keys are checked.

    >>> join_key("base", "a/b.csv")
    'base/a/b.csv'

    Raises:
        InvalidInputError: It is empty, or could leave the folder, or could not be read back by every store.
    """
    if problem := _key_problem(key):
        raise InvalidInputError(f"Invalid key {key!r:.200}: {problem}. Keys look like 'folder/name.csv'.")
    return f"{folder}/{key}" if folder else key


def is_key(key: str) -> bool:
    """Tell whether methods take the key.

    >>> is_key("a/b.csv"), is_key("a//b.csv")
    (True, False)
    """
    return _key_problem(key) is None


def folder_prefix(folder: str) -> str:
    """Return what the keys of the objects in a folder start with: "" for the block's own, else ending in one slash.

    >>> folder_prefix("base"), folder_prefix("base/"), folder_prefix("")
    ('base/', 'base/', '')

    Raises:
        InvalidInputError: It could leave the block's folder.
    """
    name = folder.removesuffix("/")
    return "" if name in {"", "."} else join_key("", name) + "/"


def whole_folder(value: object) -> str:
    """Return the folder that a block stands for, without slashes around it; None is the whole bucket.

    >>> whole_folder("/raw/orders/")
    'raw/orders'

    Raises:
        ValueError: It is not a folder; pydantic makes a ValidationError of it.
    """
    if not isinstance(value, str | None):
        raise ValueError(f"a folder is a str, not {type(value).__name__}")  # noqa: TRY004 (pydantic's form)
    try:
        return folder_prefix((value or "").strip("/")).removesuffix("/")
    except InvalidInputError as error:
        raise ValueError(str(error)) from None


LONGEST_KEY = 1_024
"""The most bytes of a key on S3 and Google Cloud Storage."""

Folder = Annotated[str, BeforeValidator(whole_folder)]
"""The type of a block's field for the folder that it stands for; empty is the whole bucket."""


def _key_problem(key: object) -> str | None:  # noqa: PLR0911 (one rule a line)
    if not isinstance(key, str):
        return f"{type(key).__name__} instead of str"
    if any(ord(char) < 32 or ord(char) == 127 for char in key):  # noqa: PLR2004 (the ASCII control characters)
        return "control character"
    if any(0xD800 <= ord(char) <= 0xDFFF or ord(char) in {0xFFFE, 0xFFFF} for char in key):  # noqa: PLR2004
        return "code point that is not a character"
    if len(key.encode()) > LONGEST_KEY:
        return f"longer than {LONGEST_KEY} bytes"
    segments = key.split("/")
    if "" in segments:
        return "empty path segment"
    if "." in segments or ".." in segments:
        return "'.' and '..' could leave the folder"
    return None
