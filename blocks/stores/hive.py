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

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The name of the partition of nulls; Hive's own."""


def data_objects(store: StoreFolder, folder: str) -> Iterator[ObjectInfo]:
    """List the objects below a folder, except those that start with `_` or `.` or are in such a folder."""
    start = len(folder) + 1 if folder else 0
    for page in store.list(folder):
        for info in page:
            parts = info.key[start:].split("/")
            if not any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts):
                yield info


def hive_values(key: str) -> dict[str, str | None]:
    """Return the columns that the folders of a key stand for; None is null.

    >>> hive_values("orders/date=2026-04-30/part-0.parquet")
    {'date': '2026-04-30'}
    """
    pairs = [part.partition("=") for part in key.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, _, value in pairs}
