"""Hive-style folders: the columns that they stand for, and the objects that are data."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.stores.client import ObjectInfo
    from blocks.stores.folder import StoreFolder
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

FOLDER_SUFFIX = "_$folder$"
"""How Hadoop's older clients mark folders."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The name of the partition of nulls; Hive's own."""


def data_objects(store: StoreFolder, folder: str) -> Iterator[ObjectInfo]:
    """List the objects below a folder that are data.

    Names that start with `_` or `.` are not, nor what is in such a folder; nor are empty objects that mark a folder:
    by its name, or by that with `_$folder$` behind it.
    """
    start = len(folder) + 1 if folder else 0
    folders: set[str] = set()
    empty: list[ObjectInfo] = []
    for page in store.list(folder):
        for info in page:
            parent = info.key.rpartition("/")[0]
            while parent and parent not in folders:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
            parts = info.key[start:].split("/")
            if any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts):
                continue
            if info.size:
                yield info
            elif not info.key.endswith(FOLDER_SUFFIX):
                empty.append(info)
    yield from (info for info in empty if info.key not in folders)


def hive_values(key: str) -> dict[str, str | None]:
    """Return the columns that the folders of a key stand for; None is null.

    >>> hive_values("orders/date=2026-04-30/part-0.parquet")
    {'date': '2026-04-30'}
    """
    pairs = [part.partition("=") for part in key.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, _, value in pairs}
