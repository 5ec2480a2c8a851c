"""DuckDB, the embedded warehouse: a file, or memory. The default everywhere, no account needed.

Errors: https://duckdb.org/docs/stable/clients/python/reference (the exception classes)
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from blocks.arrow.types import cast_array, plain_type
from blocks.base import errors
from blocks.base.errors import (
    AlreadyExistsError,
    ConnectorError,
    NotFoundError,
    TransientError,
    TypeLossError,
    UnsupportedError,
)
from blocks.base.operation import operation
from blocks.base.optional import lazy, require
from blocks.warehouses.session import BulkSession, Feed, Session
from blocks.warehouses.sql import Column, Dialect, bind
from blocks.warehouses.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

ERRORS: dict[str, type[ConnectorError]] = {
    "BinderException": errors.InvalidInputError,
    "CatalogException": errors.NotFoundError,
    "ConnectionException": errors.TransientError,
    "ConstraintException": errors.InvalidInputError,
    "ConversionException": errors.InvalidInputError,
    "DataError": errors.InvalidInputError,
    "DatabaseError": errors.TerminalError,
    "DependencyException": errors.TerminalError,
    "Error": errors.TerminalError,
    "FatalException": errors.TerminalError,
    "HTTPException": errors.TransientError,
    "IOException": errors.TerminalError,
    "IntegrityError": errors.InvalidInputError,
    "InternalError": errors.TerminalError,
    "InternalException": errors.TerminalError,
    "InterruptException": errors.TerminalError,
    "InvalidInputException": errors.InvalidInputError,
    "InvalidTypeException": errors.InvalidInputError,
    "NotImplementedException": errors.UnsupportedError,
    "NotSupportedError": errors.UnsupportedError,
    "OperationalError": errors.TerminalError,
    "OutOfMemoryException": errors.TerminalError,
    "OutOfRangeException": errors.InvalidInputError,
    "ParserException": errors.InvalidInputError,
    "PermissionException": errors.AccessDeniedError,
    "ProgrammingError": errors.InvalidInputError,
    "ResourceInUseException": errors.TransientError,
    "SequenceException": errors.TerminalError,
    "SerializationException": errors.TerminalError,
    "SyntaxException": errors.InvalidInputError,
    "TransactionException": errors.TransientError,
    "TypeMismatchException": errors.InvalidInputError,
    "Warning": errors.TerminalError,
}

WORDS_HOLD_VALUES = {
    "ConstraintException": "a constraint would be violated",
    "ConversionException": "a value cannot become the column's type",
    "DataError": "a value does not fit",
    "IntegrityError": "a constraint would be violated",
    "InvalidInputException": "invalid input",
    "OutOfRangeException": "a value is out of range",
    "TransactionException": "another transaction changed the same thing",
    "TypeMismatchException": "a value has the wrong type",
}

BATCH_ROWS = 65_536

# DuckDB refuses to open a file that another thread of this process is just closing: opening and closing take turns.
_doors: defaultdict[str, Any] = defaultdict(threading.Lock)

# DuckDB has one writer: transactions of this process that write to one file take turns instead of failing.
_writers: defaultdict[str, Any] = defaultdict(threading.RLock)


class DuckDB(Warehouse):
    """A DuckDB database: a file, or memory that lives as long as this block.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.duckdb import DuckDB

        warehouse = DuckDB.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL DuckDB"
    _block_type_slug: ClassVar[str] = "etl-duckdb"
    _logo_url: ClassVar[Any] = "https://duckdb.org/images/logo-dl/DuckDB_Logo.png"
    _documentation_url: ClassVar[Any] = "https://duckdb.org/docs/"

    path: str = Field(
        default=":memory:", description="The database file, created where it does not exist, or ':memory:'."
    )
    read_only: bool = Field(default=False, description="Open the file for reading only; several processes may.")
    memory_limit: str | None = Field(
        default=None, description="The most memory DuckDB uses, such as '2GB'. DuckDB's own default is 80% of RAM."
    )

    def uri(self, table: str = "") -> str:
        """`duckdb://path/table`."""
        return f"duckdb://{self.path}" + (f"/{table}" if table else "")

    @property
    def dialect(self) -> Dialect:
        """The SQL of DuckDB."""
        return DuckDBDialect()

    @operation
    def check(self) -> str:
        """One sentence that says that the database opens and answers."""
        with self._session() as session:
            version = session.fetch("SELECT version()")[0][0]
        return f"{self.uri()} opens and answers (DuckDB {version})."

    def get_client(self) -> Any:
        """A new `duckdb.DuckDBPyConnection`, for everything that this block has no method for. Close it."""
        duckdb = require("duckdb", extra="duckdb")
        config: dict[str, Any] = {"memory_limit": self.memory_limit} if self.memory_limit else {}
        try:
            if self.path == ":memory:":
                return self._cached("database", lambda: duckdb.connect(":memory:", config=config)).cursor()
            if not self.read_only:
                Path(self.path).expanduser().parent.mkdir(parents=True, exist_ok=True)
            with _doors[self._file]:
                return duckdb.connect(self._file, read_only=self.read_only, config=config)
        except (duckdb.Error, OSError) as error:
            raise translate(error, "open", self.uri()) from None

    def get_engine(self) -> Any:
        """A SQLAlchemy engine of this database, for tools that check data by SQL. Each statement commits by itself."""
        from connectors.shared.duckdb_engine import create_engine

        return self._cached("engine", lambda: create_engine(self.get_client, self.close_client))

    def engine_error(self, error: BaseException) -> ConnectorError:
        """The error of this package for one of DuckDB's."""
        return translate(error, "run a query", self.uri())

    def dbt_output(self) -> dict[str, Any]:
        """This database as the output of a dbt profile. While dbt runs it has the file to itself.

        Raises:
            UnsupportedError: It is in memory, where dbt would find a database of its own, or may only be read.
        """
        if self.path == ":memory:":
            raise UnsupportedError(
                "dbt runs in a process of its own, which sees no ':memory:' of this one. Give a file."
            )
        if self.read_only:
            raise UnsupportedError(f"{self.uri()} is read_only, and dbt writes to its target.")
        Path(self._file).parent.mkdir(parents=True, exist_ok=True)
        settings = {"settings": {"memory_limit": self.memory_limit}} if self.memory_limit else {}
        return {"type": "duckdb", "path": self._file, "schema": "main", **settings}

    def writer_lock(self) -> Any:
        """The lock that a transaction of this process holds while it writes to this database."""
        if self.path == ":memory:":
            return self._cached("writer", threading.RLock)
        return _writers[self._file]

    def close_client(self, client: Any) -> None:
        """Close a client of `get_client`; the last one of this process closes the file."""
        with _doors[self._file] if self.path != ":memory:" else contextlib.nullcontext():
            client.close()

    @property
    def _file(self) -> str:
        return str(Path(self.path).expanduser().resolve())

    def _connect(self) -> Session:
        return DuckDBSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:  # noqa: ARG002 (nothing outlives the process)
        return DuckDBSession(self)


class DuckDBDialect(Dialect):
    """Names are kept as written; DuckDB finds them whatever their case."""

    case_counts: ClassVar[bool] = False

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOLEAN",
            pa.int8(): "TINYINT",
            pa.int16(): "SMALLINT",
            pa.int32(): "INTEGER",
            pa.int64(): "BIGINT",
            pa.uint8(): "UTINYINT",
            pa.uint16(): "USMALLINT",
            pa.uint32(): "UINTEGER",
            pa.uint64(): "UBIGINT",
            pa.float32(): "FLOAT",
            pa.float64(): "DOUBLE",
            pa.string(): "VARCHAR",
            pa.binary(): "BLOB",
            pa.date32(): "DATE",
            pa.timestamp("us"): "TIMESTAMP",
            pa.timestamp("ns"): "TIMESTAMP_NS",
            pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
            pa.time64("us"): "TIME",
            pa.month_day_nano_interval(): "INTERVAL",
            pa.json_(): "JSON",
            pa.uuid(): "UUID",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A new column for an Arrow type."""
        stored = stored_type(kind)
        return Column(name, self._sql_type(stored), stored)

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal128(kind):
            return f"DECIMAL({kind.precision},{kind.scale})"
        if pa.types.is_list(kind):
            return f"{self._sql_type(kind.value_type)}[]"
        if pa.types.is_struct(kind):
            return f"STRUCT({', '.join(f'{self.name(field.name)} {self._sql_type(field.type)}' for field in kind)})"
        if pa.types.is_map(kind):
            return f"MAP({self._sql_type(kind.key_type)}, {self._sql_type(kind.item_type)})"
        raise TypeLossError(f"DuckDB has no type that holds every {kind}. Cast it, to text for example.")


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """The Arrow type in which DuckDB keeps values of `kind`."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind):
        return pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind) and kind.unit != "ns":
        return pa.time64("us")
    if types.is_duration(kind) and kind.unit != "ns":
        return pa.month_day_nano_interval()
    if types.is_list(kind):
        return pa.list_(stored_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, stored_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(stored_type(kind.key_type), stored_type(kind.item_type))
    return kind


class DuckDBSession(BulkSession):
    """One cursor. Staging happens before the transaction: rows that Arrow brought in are read after a commit."""

    def __init__(self, block: DuckDB) -> None:
        self._block = block
        self._connection = block.get_client()
        self._writer = block.writer_lock()
        self._in_transaction = False
        for setting in ("TimeZone = 'UTC'", "enable_progress_bar = false", "python_enable_replacements = false"):
            self.execute(f"SET {setting}")

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows the statement changed; -1 where DuckDB does not say."""
        with self._translated("run a statement"):
            rows = self._run(sql, parameters).fetchall()
        return rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 and isinstance(rows[0][0], int) else -1

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """The rows of a query."""
        with self._translated("run a query"):
            cursor = self._run(sql, parameters)
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The result of a query, streamed."""
        with self._translated("run a query"):
            bound, values = self._bound(sql, parameters)
            relation = self._connection.sql(bound, params=values)
            reader = relation.to_arrow_reader(BATCH_ROWS)
        types = map(str, relation.types)
        schema = pa.schema(
            [field.with_type(_exact(sql, field.type)) for sql, field in zip(types, reader.schema, strict=True)]
        )

        def batches() -> Iterator[pa.RecordBatch]:
            with self._translated("read a result"):
                for batch in reader:
                    arrays = [cast_array(array, field.type) for array, field in zip(batch, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, batches()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to a table."""
        feed = Feed(schema, batches)
        dialect = self._block.dialect
        target = dialect.name(table) if stage else dialect.table(table)
        self._connection.register("_etl_feed", feed.reader())
        try:
            return self.execute(f"INSERT INTO {target} ({dialect.names(schema.names)}) SELECT * FROM _etl_feed")
        except ConnectorError:
            if feed.error is not None:
                raise feed.error from None
            raise
        finally:
            self._connection.unregister("_etl_feed")

    def columns(self, table: str) -> list[Column] | None:
        """The columns of a table."""
        schema_name, _, name = table.rpartition(".")
        rows = self.fetch(
            "SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
            "WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(coalesce(:schema, current_schema())) "
            "AND lower(table_name) = lower(:name) ORDER BY column_index",
            {"schema": schema_name or None, "name": name},
        )
        if not rows:
            return None
        types = self.stream(f"SELECT * FROM {self._block.dialect.table(table)} LIMIT 0")[0]
        return [
            Column(column, sql_type, types.field(column).type, nullable, default is not None)
            for column, sql_type, nullable, default in rows
        ]

    def begin(self) -> None:
        """Start a transaction, once no other thread of this process writes to the file."""
        self._writer.acquire()
        self._in_transaction = True
        try:
            self.execute("BEGIN")
        except ConnectorError:
            self._end()
            raise

    def commit(self) -> None:
        """Commit it. DuckDB answers from within this process: a commit that fails was not made."""
        try:
            self.execute("COMMIT")
        finally:
            self._end()

    def rollback(self) -> None:
        """Undo it."""
        try:
            with contextlib.suppress(ConnectorError):
                self.execute("ROLLBACK")
        finally:
            self._end()

    def close(self) -> None:
        """Close the connection, and with the last one of the process the file."""
        self._block.close_client(self._connection)

    def _end(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            self._writer.release()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        bound, values = self._bound(sql, parameters)
        return self._connection.execute(bound, values)

    def _bound(self, sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
        if not parameters:
            return sql, None
        used: dict[str, Any] = {}

        def placeholder(name: str) -> str:
            used[name] = parameters[name]
            return f"${name}"

        return bind(sql, parameters, placeholder), used

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except require("duckdb", extra="duckdb").Error as error:
            raise translate(error, action, self._block.uri()) from None


def _exact(sql_type: str, kind: pa.DataType) -> pa.DataType:
    """The Arrow type of a column that DuckDB hands out as `kind`: it gives JSON and UUID as text."""
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    return {"JSON": pa.json_(), "UUID": pa.uuid()}.get(sql_type, kind)


def translate(error: BaseException, action: str, uri: str) -> ConnectorError:
    """The error of this package for one of DuckDB's or of the file system."""
    code, text = type(error).__name__, str(error).partition("\n")[0]
    kind = ERRORS.get(code, errors.TerminalError)
    words = WORDS_HOLD_VALUES.get(code, text.partition(": ")[2] or text)
    hint = ""
    if isinstance(error, PermissionError) or "ermission denied" in text:
        kind, hint = errors.AccessDeniedError, " The user of this process needs to write to that directory."
    elif isinstance(error, (FileExistsError, NotADirectoryError)):
        kind, hint = errors.InvalidInputError, " A part of the path is a file and would have to be a directory."
    elif isinstance(error, OSError) or "No such file" in text or "database does not exist" in text:
        kind = NotFoundError
    elif "read-only mode" in text:
        kind, words = errors.AccessDeniedError, "the database is open for reading only."
    elif "Could not set lock" in text:
        kind = TransientError
        words, hint = "another process has the file open for writing.", " Close it there, or open it read_only."
    elif code in ("ConstraintException", "CatalogException") and ("Duplicate key" in text or "already exists" in text):
        kind = AlreadyExistsError
    elif code == "CatalogException" and "conflict" in text:
        kind = TransientError
    if isinstance(error, OSError):
        words = error.strerror or words
    place = uri if action == "open" else f"in {uri}"
    return kind(f"Could not {action} {place}: {words.rstrip('.')}.{hint}")
