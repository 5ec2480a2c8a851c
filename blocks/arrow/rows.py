"""Rows as Python holds them: dictionaries, instances of classes with named values, and streams of either.

A row is a dictionary (or another mapping), a dataclass, a pydantic model, a named tuple, an attrs class, or a row of a
database driver that knows its columns, such as `sqlite3.Row`. A stream of rows (a generator, an iterator, a cursor)
can be read once and a load may have to read twice, so its rows are put on disk first, some thousand at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.arrow.casts import cast_batch
from blocks.arrow.frames import from_rows, table_of
from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy
from blocks.base.temporary import TemporaryFolder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

FIRST_ROWS, MOST_ROWS = 1_000, 50_000
"""How many rows are turned into a table at a time: few at first, then as many as `CHUNK_BYTES` have room for."""
CHUNK_BYTES = 16 * 2**20

TAKEN = (
    "a Scan, a pandas or polars frame, an Arrow table, a list or a generator of dictionaries, dataclasses, pydantic "
    "models or named tuples, a cursor of a database, a dictionary of lists, or anything else with __arrow_c_stream__"
)


def is_stream(data: object) -> bool:
    """Tell whether it gives rows one after the other, and only once; a cursor of the DB-API does."""
    return isinstance(data, Iterator) or is_cursor(data)


def is_cursor(data: object) -> bool:
    """Tell whether it is a cursor of the DB-API: https://peps.python.org/pep-0249/#cursor-objects."""
    return hasattr(data, "description") and hasattr(data, "fetchmany")


def is_rows(data: object) -> bool:
    """Tell whether it is a collection of rows in memory."""
    return isinstance(data, Sequence | ValuesView | set | frozenset) and not isinstance(data, str | bytes | bytearray)


def table_of_rows(rows: Iterable[Any], what: str) -> pa.Table:
    """Convert rows that are in memory.

    Args:
        rows: The rows.
        what: What they are in, for messages.

    Raises:
        InvalidInputError: There is none, one is no row, or a column has no one type.
    """
    found = [as_row(row, what) for row in rows]
    if not found:
        raise no_rows_error(what)
    return from_rows(found)


def as_row(row: Any, what: str) -> Mapping[str, Any]:
    """Return a row as names and values.

    Raises:
        InvalidInputError: Nobody knows the names of its values.
    """
    if isinstance(row, Mapping):
        return row
    if (values := _values(row)) is not None:
        return {name: _plain(value) for name, value in values.items()}
    name = type(row).__name__
    if isinstance(row, tuple | list):
        raise InvalidInputError(
            f"{what} is not tabular data: its rows are of type {name}, which names no columns. Pass dictionaries: "
            "[dict(zip(names, row)) for row in rows], or the cursor itself; for a query of a warehouse, pass "
            "warehouse.scan_query(sql)."
        )
    raise InvalidInputError(f"{what} is not tabular data: its values are of type {name}. Pass {TAKEN}.")


def _values(row: Any) -> Mapping[str, Any] | None:
    """Return the values of an instance by name, None where its class names none."""
    kind = type(row)
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    if hasattr(kind, "model_fields") and hasattr(row, "model_dump"):
        dumped: Mapping[str, Any] = row.model_dump()
        return dumped
    if isinstance(row, tuple) and hasattr(row, "_fields"):
        return dict(zip(row._fields, row, strict=True))
    if (attributes := getattr(kind, "__attrs_attrs__", None)) is not None:
        return {each.name: getattr(row, each.name) for each in attributes}
    if not isinstance(row, type) and hasattr(row, "keys") and hasattr(row, "__getitem__"):
        return {name: row[name] for name in row.keys()}  # noqa: SIM118 (sqlite3.Row iterates over its values)
    return None


def _plain(value: Any) -> Any:
    """Return a value with the instances in it as dictionaries."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return [_plain(each) for each in value]
    if isinstance(value, str | bytes | int | float | type(None)):
        return value
    values = _values(value)
    return value if values is None else _plain(values)


def no_rows_error(what: str, hint: str = "") -> InvalidInputError:
    """Return the error for data without rows that has no schema of its own."""
    return InvalidInputError(
        f"{what} is not tabular data: it has no rows, so its columns are not known. Where there may be none, pass a "
        f"table that has columns all the same: pyarrow.Table.from_pylist(rows, schema=...).{hint}"
    )


class Staged:
    """The rows of a stream, on disk for as long as the stream or a scan of it lives.

    Attributes:
        schema: The columns of all rows, in types that hold every value.
    """

    _of: ClassVar[dict[int, Staged]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._folder = TemporaryFolder()
        self._files: list[Path] = []
        self._schemas: list[pa.Schema] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._filling = threading.RLock()
        self._begun = self._complete = False
        self._kept: object = None

    @classmethod
    def of(cls, stream: Iterator[Any], source: str) -> Staged:
        """Return the rows of a stream, which are read now, or were before.

        Raises:
            InvalidInputError: The stream has no rows, or an earlier reading of it broke off.
        """
        with cls._lock:
            staged = cls._of.get(id(stream))
            if staged is None:
                staged = cls._of[id(stream)] = cls()
                try:
                    weakref.finalize(stream, cls._of.pop, id(stream), None)
                except TypeError:  # not every object can be watched; then nobody else may get its id if it breaks off
                    staged._kept = stream
        staged._fill(stream, source)
        if staged._kept is not None:  # it is at its end, and has no rows for whoever comes again
            cls._of.pop(id(stream), None)
        return staged

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Open a new stream of record batches of `schema`."""
        for file in self._files:
            with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as reader:
                for batch in reader:
                    yield cast_batch(_with_all(batch, self.schema), self.schema)

    def fingerprint(self) -> str:
        """Return a digest of the rows."""
        return self._digest.hexdigest()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of all rows."""
        from blocks.arrow.columns import widened

        kinds: dict[str, pa.DataType] = {}
        for schema in self._schemas:
            for field in schema:
                kind = widened(kinds.get(field.name, pa.null()), field.type)
                if kind is None:
                    raise InvalidInputError(
                        f"Column {field.name!r} has no one type: its values are {kinds[field.name]} in the first rows, "
                        f"and {field.type} in later ones. Convert them to one type before."
                    )
                kinds[field.name] = kind
        return pa.schema(list(kinds.items()))

    def _fill(self, stream: Iterator[Any], source: str) -> None:
        with self._filling:
            if self._complete:
                return
            if self._begun:
                raise InvalidInputError(
                    f"{source} is a {type(stream).__name__}, of which an earlier attempt has read a part, so it cannot "
                    "be read again. Pass a new one, or the rows in a list or a frame."
                )
            self._begun = True
            for table in _tables(stream, source):
                self._add(table)
            if not self._files:
                raise no_rows_error(
                    type(stream).__name__,
                    " Or it was read before: Prefect does so where it hashes the inputs of a task, unless the task has "
                    "cache_policy=NO_CACHE.",
                )
            self._complete = True

    def _add(self, table: pa.Table) -> None:
        file = self._folder.path / f"{len(self._files)}.arrows"
        with file.open("wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self._digest.update(file.read_bytes())
        self._files.append(file)
        if table.schema not in self._schemas:
            self._schemas.append(table.schema)


def _with_all(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with all columns of `schema`, null where it lacks one."""
    arrays = [
        batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)


def _tables(stream: Any, source: str) -> Iterator[pa.Table]:
    """Yield the rows of a stream as tables, of about `CHUNK_BYTES` each; a stream may be one of tables, too."""
    what = type(stream).__name__
    rows: list[Mapping[str, Any]] = []
    room, first_row = FIRST_ROWS, 1
    for item in _fetched(stream, source) if is_cursor(stream) else stream:
        if (table := None if isinstance(item, Mapping) else table_of(item)) is not None:
            if rows:
                yield from_rows(rows, first_row)
            first_row += len(rows) + table.num_rows
            rows = []
            yield table
            continue
        rows.append(as_row(item, what))
        if len(rows) >= room:
            table = from_rows(rows, first_row)
            room = max(FIRST_ROWS // 10, min(MOST_ROWS, room * CHUNK_BYTES // max(table.nbytes, 1)))
            first_row += len(rows)
            rows = []
            yield table
    if rows:
        yield from_rows(rows, first_row)


def _fetched(cursor: Any, source: str) -> Iterator[Any]:
    """Yield the rows of a cursor, those without names as dictionaries."""
    if not cursor.description:
        raise InvalidInputError(f"{source} is a cursor without a result. Run a query on it before.")
    names = [column[0] for column in cursor.description]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(f"The result of the cursor has more than one column {twice[0]!r}. Rename all but one.")
    while rows := _next_rows(cursor):
        for row in rows:
            yield dict(zip(names, row, strict=True)) if type(row) in (tuple, list) else row


def _next_rows(cursor: Any) -> list[Any]:
    try:
        return list(cursor.fetchmany(FIRST_ROWS))
    except sqlite3.ProgrammingError:
        raise InvalidInputError(
            "The cursor of sqlite3 is closed, or belongs to another thread, as in a flow. Connect "
            "with check_same_thread=False, or pass the rows: connection.row_factory = sqlite3.Row; cursor.fetchall()."
        ) from None
