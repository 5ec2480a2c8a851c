"""Connections of ADBC whose calls can be interrupted, and end where the server says nothing any more.

The driver waits in C, without a limit of its own: so each call runs in a helper thread (`blocks.base.interruption`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from blocks.base.interruption import Calls
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

R = TypeVar("R")


class WatchedConnection:
    """A connection of ADBC's DB-API.

    Args:
        connection: The connection; it is closed with this one.
        read_timeout_s: How long the server may say nothing.
        is_working: Asks the server whether a process of it is at work on a statement.
        terminate: Ends a process of the server.
    """

    def __init__(
        self,
        connection: Any,
        read_timeout_s: float,
        *,
        is_working: Callable[[int, str], bool],
        terminate: Callable[[int], None],
    ) -> None:
        self._connection, self._terminate = connection, terminate
        self._sql, self._pid = "", 0
        self._left: list[Any] = []
        self.calls = Calls(
            cancel=connection.adbc_connection.cancel,
            disconnect=self._disconnect,
            timeout_s=read_timeout_s,
            is_working=lambda: is_working(self._pid, self._sql),
        )

    def run(self, call: Callable[[], R], sql: str = "") -> R:
        """Return what `call` returns; `sql` is how the statement begins that it runs."""
        self._sql = sql
        return self.calls.run(call)

    def cursor(self) -> WatchedCursor:
        """Open a cursor, a context manager."""
        return WatchedCursor(self, self._connection.cursor())

    def begin(self, settings: str, *, first: Sequence[str] = ()) -> None:
        """Start a transaction by a SELECT that makes its settings, after the statements that have to come `first`."""

        def begin() -> None:
            with self._connection.cursor() as cursor:
                for statement in first:
                    cursor.adbc_statement.set_sql_query(statement)
                    cursor.adbc_statement.execute_update()
                cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
                cursor.execute(f"{settings}, pg_backend_pid()")
                self._pid = cursor.fetchone()[-1]

        self.run(begin)

    def commit(self, timeout_s: float | None = None) -> None:
        """Commit a transaction. Neither an interruption nor the end of the wait calls it off."""
        self.calls.run(self._connection.commit, timeout_s=timeout_s, cancels=False)
        self._pid = 0

    def rollback(self) -> None:
        """Undo a transaction."""
        self.run(self._connection.rollback)
        self._pid = 0

    def close(self) -> None:
        """Close the connection.

        One that still waits for an answer is closed when that comes, or the network ends. Until then its transaction
        would hold its locks, so the server is told.
        """
        self.calls.close()
        if self.calls.lost and self._pid:
            self._terminate(self._pid)

    def close_cursor(self, cursor: Any) -> None:
        """Close a cursor of the connection; one that is in use by a call that was left behind goes with that."""
        if self.calls.lost:
            self._left.append(cursor)
        else:
            self.run(cursor.close)

    def _disconnect(self) -> None:
        for cursor in self._left:
            cursor.close()
        self._connection.close()


class WatchedCursor:
    """A cursor of ADBC's DB-API."""

    def __init__(self, connection: WatchedConnection, cursor: Any) -> None:
        self._connection, self._cursor = connection, cursor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close_cursor(self._cursor)

    @property
    def rowcount(self) -> int:
        """The number of rows that the last statement changed."""
        return int(self._cursor.rowcount)

    def set_options(self, **options: str) -> None:
        """Set options of the next statement."""
        self._cursor.adbc_statement.set_options(**options)

    def execute(self, sql: str, values: tuple[Any, ...] | None = None) -> None:
        """Run a statement."""
        self._connection.run(lambda: self._cursor.execute(sql, values), sql)

    def fetch(self, size: int | None = None) -> list[Any]:
        """Return the rows of the statement, at most `size`."""
        cursor = self._cursor
        return self._connection.run(lambda: list(cursor.fetchall() if size is None else cursor.fetchmany(size)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the result of the statement, as record batches.

        Errors of the reader that `fetch_record_batch` hands out would lack their SQLSTATE.
        https://github.com/apache/arrow-adbc/issues/1523
        """
        reader = self._cursor._results.reader  # noqa: SLF001
        while (batch := self._connection.run(lambda: next(reader, None))) is not None:
            yield batch

    def describe(self, sql: str, values: tuple[Any, ...] | None = None) -> pa.Schema:
        """Return the schema of a query's result."""
        return self._connection.run(lambda: self._cursor.adbc_execute_schema(sql, values), sql)

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], **where: Any) -> int:
        """Append the batches to a table by COPY, and return how many rows were sent."""
        fed = self._connection.calls.feed(batches)

        def copy() -> int:
            reader = pa.RecordBatchReader.from_batches(schema, fed)
            return int(self._cursor.adbc_ingest(table, reader, mode="append", **where))

        return self._connection.run(copy, "COPY ")
