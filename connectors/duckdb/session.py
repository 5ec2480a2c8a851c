"""A session of DuckDB: statements, Arrow in and out, and the transaction of a load."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from blocks.arrow.casts import cast_array
from blocks.arrow.types import check_in_range
from blocks.base.errors import ConnectorError, TerminalError, TransientError
from blocks.base.interruption import SLICE_S, Calls, NoAnswerError, interruption
from blocks.base.optional import lazy, require
from blocks.warehouses.session import BulkSession, Feed, TableChangedError
from blocks.warehouses.sql import Column, bind
from connectors.duckdb.dialect import DuckDBDialect
from connectors.duckdb.errors import translate
from connectors.duckdb.reading import bounds, exact_type, readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.warehouses.load import LoadPlan
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")

BATCH_ROWS = 65_536


class Database(Protocol):
    """What a session needs of the block of its database."""

    lock_timeout_s: float
    statement_timeout_s: float | None

    def uri(self, table: str = "") -> str:
        """Return where a table is."""

    def get_client(self) -> Any:
        """Open a connection."""

    def close_client(self, client: Any) -> None:
        """Close it."""

    def writer_lock(self, load_id: str | None = None) -> Any:
        """Return the lock that a transaction holds while it writes; with a load_id, that of the load."""

    def creation_lock(self, table: str) -> Any:
        """Return the lock that a transaction holds while it creates a table."""


class DuckDBSession(BulkSession):
    """One cursor. Staging happens before the transaction: rows that Arrow brought in are read after a commit.

    Rows that are only added go straight into the table: nothing in that transaction reads them.
    """

    ingests_in_transaction: ClassVar[bool] = True

    def __init__(self, database: Database, load_id: str | None = None) -> None:
        self._database = database
        self._dialect = DuckDBDialect()
        self._connection = database.get_client()
        self._calls = Calls(
            cancel=self._connection.interrupt,
            disconnect=lambda: database.close_client(self._connection),
            timeout_s=database.statement_timeout_s,
        )
        self._load = database.writer_lock(load_id) if load_id else None
        self._writer = database.writer_lock()
        self._held: list[Any] = []
        for setting in ("TimeZone = 'UTC'", "enable_progress_bar = false", "python_enable_replacements = false"):
            self.execute(f"SET {setting}")

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed; -1 where DuckDB does not say."""
        with self._translated("run a statement"):
            rows = self._calls.run(lambda: self._run(sql, parameters).fetchall())
        return rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 and isinstance(rows[0][0], int) else -1

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows."""

        def rows() -> list[Any]:
            cursor = self._run(sql, parameters)
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

        with self._translated("run a query"):
            return self._calls.run(rows)

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, streamed."""
        with self._translated("run a query"):
            bound, values = self._bound(sql, parameters)
            relation = self._calls.run(lambda: self._connection.sql(bound, params=values))
            if any(casts := [readable(kind) for kind in relation.types]):
                query = self._cast(bound, casts, relation.columns)
                relation = self._calls.run(lambda: self._connection.sql(query, params=values))
            reader = self._calls.run(lambda: relation.to_arrow_reader(BATCH_ROWS))
        types = [str(kind) for kind in relation.types]
        if len(types) != len(reader.schema):
            raise TransientError(f"What is read from {self._database.uri()} was changed at the same time.")
        schema = pa.schema(
            [pa.field(field.name, exact_type(sql, field.type)) for sql, field in zip(types, reader.schema, strict=True)]
        )

        def batches() -> Iterator[pa.RecordBatch]:
            with self._translated("read a result"):
                while (batch := self._calls.run(lambda: next(reader, None))) is not None:
                    for array, field in zip(batch, schema, strict=True):
                        check_in_range(array, field.name, bounds)
                    arrays = [cast_array(array, field.type) for array, field in zip(batch, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, batches()

    def _cast(self, sql: str, casts: list[str | None], columns: list[str]) -> str:
        """Return the query with the columns cast that Arrow does not hold; their names may come twice."""
        names = [f"c{number}" for number in range(len(casts))]
        values = ", ".join(
            (f"CAST(q.{name} AS {cast})" if cast else f"q.{name}") + f" AS {self._dialect.name(column)}"
            for name, cast, column in zip(names, casts, columns, strict=True)
        )
        return f"SELECT {values} FROM ({sql}\n) AS q ({', '.join(names)})"

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to a table."""
        feed = Feed(schema, batches)
        target = self._dialect.name(table) if stage else self._dialect.table(table)
        self._connection.register("_etl_feed", feed.reader())
        try:
            return self.execute(f"INSERT INTO {target} ({self._dialect.names(schema.names)}) SELECT * FROM _etl_feed")
        except ConnectorError:
            if feed.error is not None:
                raise feed.error from None
            raise
        finally:
            if not self._calls.lost:
                # a transaction that failed takes no more statements, and gives the feed up with its rollback
                with contextlib.suppress(require("duckdb", extra="duckdb").TransactionException):
                    self._connection.unregister("_etl_feed")

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table that can be written."""
        schema_name, _, name = table.rpartition(".")
        rows = self.fetch(
            "SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
            "WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(coalesce(:schema, current_schema())) "
            "AND lower(table_name) = lower(:name) AND NOT is_generated ORDER BY column_index",
            {"schema": schema_name or None, "name": name},
        )
        if not rows:
            return None
        types = self.stream(f"SELECT * FROM {self._dialect.table(table)} LIMIT 0")[0]
        return [
            Column(column, sql_type, types.field(column).type, nullable, default is not None)
            for column, sql_type, nullable, default in rows
        ]

    def computed_columns(self, table: str) -> set[str]:
        """Return the generated columns."""
        schema_name, _, name = table.rpartition(".")
        rows = self.fetch(
            "SELECT column_name FROM duckdb_columns() WHERE is_generated AND database_name = current_database() "
            "AND lower(schema_name) = lower(coalesce(:schema, current_schema())) AND lower(table_name) = lower(:name)",
            {"schema": schema_name or None, "name": name},
        )
        return {row[0] for row in rows}

    def has_unique_key(self, table: str, key: Sequence[str]) -> bool:
        """Tell whether a primary key or a unique constraint of the table is on just these columns."""
        schema_name, _, name = table.rpartition(".")
        rows = self.fetch(
            "SELECT constraint_column_names FROM duckdb_constraints() "
            "WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE') AND database_name = current_database() "
            "AND lower(schema_name) = lower(coalesce(:schema, current_schema())) AND lower(table_name) = lower(:name)",
            {"schema": schema_name or None, "name": name},
        )
        return any(sorted(row[0]) == sorted(key) for row in rows)

    def begin(self) -> None:
        """Start a transaction, once no other thread of this process does this load or writes to the file.

        Raises:
            TransientError: Another one has done so for too long.
        """
        try:
            for lock in (self._load, self._writer):
                if lock is not None:
                    self._acquire(lock)
            self.execute("BEGIN")
        except BaseException:
            self._end()
            raise

    def lock_target(self, dialect: Dialect, plan: LoadPlan) -> None:  # noqa: ARG002 (the file is locked as a whole)
        """Let others write beside a load that only adds rows, which conflicts with none and may take its time.

        Its source may load into other tables, too. Where it creates the table, the others that would do so wait for it,
        and let go of the file before.
        """
        if plan.creates_table:
            creation = self._database.creation_lock(plan.table)
            if not creation.acquire(blocking=False):
                self.rollback()
                self._acquire(creation)
                self._end()
                raise TableChangedError(f"{self._database.uri(plan.table)} was created by another load meanwhile.")
            self._held.append(creation)
        if plan.mode == "append" and (plan.creates_table or not plan.ddl) and self._writer in self._held:
            self._held.remove(self._writer)
            self._writer.release()

    def _acquire(self, lock: Any) -> None:
        """Wait for a lock of this process, and hold it until the transaction ends.

        Raises:
            TransientError: Another thread has had it for too long.
        """
        mine, until = interruption(), time.monotonic() + self._database.lock_timeout_s
        while not lock.acquire(timeout=SLICE_S):
            mine.check()
            if time.monotonic() >= until:
                raise TransientError(
                    f"Another load of this process has written to {self._database.uri()} for "
                    f"{self._database.lock_timeout_s:g} s. Nothing was applied."
                )
        self._held.append(lock)

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
        try:
            self._calls.close()
        finally:
            self._end()

    def _end(self) -> None:
        while self._held:
            self._held.pop().release()

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
        except NoAnswerError:
            raise TerminalError(
                f"Could not {action} in {self._database.uri()}: it took longer than statement_timeout_s, "
                f"{self._database.statement_timeout_s or 0:g} s."
            ) from None
        except require("duckdb", extra="duckdb").Error as error:
            raise translate(error, action, self._database.uri()) from None
