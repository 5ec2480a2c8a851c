"""Hive-style folders: the columns that they stand for, and the objects that are data."""

from __future__ import annotations

import re
from glob import has_magic
from typing import TYPE_CHECKING
from urllib.parse import unquote

from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.stores.folder import ReadFolder
    from blocks.stores.info import ObjectInfo, Page
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

FOLDER_SUFFIX = "_$folder$"
"""How Hadoop's older clients mark folders."""
PART_NAME = re.compile(r"part-.*\d")
"""How the files of a dataset are called, by us as by Spark."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The name of the partition of nulls; Hive's own."""


def without_markers(pages: Iterable[Page]) -> Iterator[ObjectInfo]:
    """Return the objects of a listing that do not mark a folder; empty ones come last.

    An empty object marks one by its name, or by that with `_$folder$` behind it.
    """
    folders: set[str] = set()
    empty: list[ObjectInfo] = []
    for page in pages:
        for info in page:
            parent = info.key.rpartition("/")[0]
            while parent and parent not in folders:
                folders.add(parent)
                parent = parent.rpartition("/")[0]
            if info.size:
                yield info
            elif not info.key.endswith(FOLDER_SUFFIX):
                empty.append(info)
    yield from (info for info in empty if info.key not in folders)


def data_objects(store: ReadFolder, folder: str) -> Iterator[ObjectInfo]:
    """List the objects below a folder that are data.

    Names that start with `_` or `.` are not, nor what is in such a folder; nor are markers of folders.
    """
    start = len(folder) + 1 if folder else 0
    for info in without_markers(store.list(folder)):
        parts = info.key[start:].split("/")
        if not any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts):
            yield info


def dataset_of(key: str) -> str:
    """Return the folder of the dataset that a key, a folder or a glob is of; a key that is of none is itself.

    >>> dataset_of("orders/date=2026-04-30/part-0.parquet"), dataset_of("raw/orders_*.csv"), dataset_of("raw/a.csv")
    ('orders', 'raw', 'raw/a.csv')
    """
    parts = key.strip("/").split("/")
    for number, part in enumerate(parts):
        if "=" in part or has_magic(part) or (number == len(parts) - 1 and PART_NAME.match(part)):
            return "/".join(parts[:number])
    return "/".join(parts)


def hive_values(key: str) -> dict[str, str | None]:
    """Return the columns that the folders of a key stand for; None is null.

    >>> hive_values("orders/date=2026-04-30/part-0.parquet")
    {'date': '2026-04-30'}
    """
    pairs = [part.partition("=") for part in key.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, _, value in pairs}
