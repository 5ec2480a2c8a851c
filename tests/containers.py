"""What people hold rows in: each container, by name, and the rows that it stands for; and what is refused instead."""

from __future__ import annotations

import collections
import dataclasses
import sqlite3
import types
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@dataclasses.dataclass
class Point:
    """A dataclass."""

    id: int
    name: str | None


class Model(BaseModel):
    """A pydantic model."""

    id: int
    name: str | None


class Named(NamedTuple):
    """A named tuple."""

    id: int
    name: str | None


ROWS: list[dict[str, Any]] = [{"id": 1, "name": "ü"}, {"id": 2, "name": None}]
QUERY = "SELECT 1 AS id, 'ü' AS name UNION ALL SELECT 2, NULL ORDER BY 1"


def generated() -> Iterator[dict[str, Any]]:
    """Yield the rows."""
    yield from ROWS


async def awaited() -> AsyncIterator[dict[str, Any]]:
    """Yield the rows to whoever awaits them."""
    for row in ROWS:
        yield row


def sqlite_cursor(factory: Any = None) -> sqlite3.Cursor:
    """A cursor of Python's own driver."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = factory
    return connection.execute(QUERY)


CONTAINERS: dict[str, Callable[[], Any]] = {
    "list of dictionaries": lambda: ROWS,
    "tuple of dictionaries": lambda: tuple(ROWS),
    "deque of dictionaries": lambda: collections.deque(ROWS),
    "values of a dictionary": {1: ROWS[0], 2: ROWS[1]}.values,
    "list of mappings": lambda: [types.MappingProxyType(row) for row in ROWS],
    "list of dataclasses": lambda: [Point(**row) for row in ROWS],
    "list of pydantic models": lambda: [Model(**row) for row in ROWS],
    "list of named tuples": lambda: [Named(**row) for row in ROWS],
    "generator of dictionaries": generated,
    "generator of dataclasses": lambda: (Point(**row) for row in ROWS),
    "generator of frames": lambda: (pd.DataFrame([row]) for row in ROWS),
    "iterator of a list": lambda: iter(ROWS),
    "map": lambda: map(dict, ROWS),
    "dictionary of lists": lambda: {"id": [1, 2], "name": ["ü", None]},
    "dictionary of numpy arrays": lambda: {"id": np.array([1, 2]), "name": np.array(["ü", None])},
    "dictionary of columns": lambda: {"id": pl.Series([1, 2]), "name": pa.array(["ü", None])},
    "rows of sqlite3": lambda: sqlite_cursor(sqlite3.Row).fetchall(),
    "cursor of sqlite3": sqlite_cursor,
    "cursor of DuckDB": lambda: duckdb.connect().execute(QUERY),
    "pandas frame": lambda: pd.DataFrame(ROWS),
    "polars frame": lambda: pl.DataFrame(ROWS),
    "Arrow table": lambda: pa.Table.from_pylist(ROWS),
}
"""Each is those rows."""

COLUMNS: dict[str, Callable[[], Any]] = {
    "named pandas Series": lambda: pd.Series([1, 2], name="id"),
    "named polars Series": lambda: pl.Series("id", [1, 2]),
}
"""Each is the column `id` of those rows."""

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "list of tuples": (lambda: [(1, "x")], r"its rows are of type tuple, .*dict\(zip\(names, row\)\)"),
    "list of lists": (lambda: [[1, "x"]], "its rows are of type list"),
    "list of numbers": (lambda: [1, 2], "its values are of type int. Pass a Scan, .* a list or a generator of"),
    "generator of numbers": (
        lambda: (each for each in [1]),
        "generator is not tabular data: its values are of type int",
    ),
    "empty list": (list, r"it has no rows, .*from_pylist\(rows, schema=...\)"),
    "empty generator": (lambda: (each for each in [1] if not each), "generator is not tabular data: it has no rows"),
    "asynchronous generator": (awaited, r"Collect what comes asynchronously first"),
    "one dictionary": (lambda: ROWS[0], r"'id' is of type int, which is no list. .* one row as \[row\]"),
    "dictionary of lists of several lengths": (lambda: {"a": [1], "b": [1, 2]}, "not of one length"),
    "pandas Series without a name": (lambda: pd.Series([1]), r"no name, .* series.rename\('name'\)"),
    "text": (lambda: "orders.csv", r"str is not tabular data. .* LocalFiles\(\).scan\(path\)"),
    "number": (lambda: 7, "int is not tabular data. Pass a Scan"),
    "nothing": (lambda: None, "NoneType is not tabular data"),
    "cursor without a result": (lambda: sqlite3.connect(":memory:").cursor(), "cursor without a result"),
    "one column of Arrow": (lambda: pa.chunked_array([[1]]), "ChunkedArray is not tabular data"),
}
"""Each with the words of its refusal, which say what to pass."""

VALUES: dict[str, tuple[list[Any], Any]] = {
    "integers and floats": ([1, 2.5], [1.0, 2.5]),
    "decimals of several scales": ([Decimal("1.5"), Decimal("100.25")], [Decimal("1.5"), Decimal("100.25")]),
    "decimals and integers": ([Decimal("1.5"), 2], [Decimal("1.5"), Decimal(2)]),
    "dictionaries of several keys": ([{"a": 1}, {"b": 2}], [{"a": 1, "b": None}, {"a": None, "b": 2}]),
    "lists, one empty": ([[1], []], [[1], []]),
    "nanoseconds of pandas": ([pd.Timestamp(1_000), pd.Timestamp(2_000)], [pd.Timestamp(1_000), pd.Timestamp(2_000)]),
    "missing values of pandas": ([pd.NaT, pd.Timestamp("2026-04-30")], [None, pd.Timestamp("2026-04-30")]),
}
"""Columns of Python's values, and what they are once they were loaded."""
