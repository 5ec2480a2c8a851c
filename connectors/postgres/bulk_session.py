"""A session by ADBC: Arrow in and out by binary COPY, and the transaction of a load."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from blocks.arrow.scan import AHEAD_BYTES
from blocks.base.concurrency import read_ahead
from blocks.base.errors import AmbiguousError, ConnectorError, TransientError
from blocks.base.optional import lazy, require
from blocks.warehouses.session import BulkSession, Feed
from blocks.warehouses.sql import Column, Dialect, bind
from connectors.postgres.reading import as_text, check_fit, exact_batch, exact_type, is_numeric, readable, unfit
from connectors.shared.libpq.dialect import PostgresDialect, quoted
from connectors.shared.libpq.errors import translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

# ADBC counts the rows that it sent. Where triggers or row security may hold some back, they go through the stage,
# because INSERT counts those that arrived.
SWALLOWS = """c.relrowsecurity OR c.relkind NOT IN ('r', 'p') OR EXISTS (
    SELECT FROM pg_trigger WHERE (tgrelid = c.oid OR tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid)))
    AND (tgtype & 4) <> 0 AND (tgtype & 66) <> 0 AND NOT tgisinternal)"""  # on INSERT; BEFORE or INSTEAD OF

CLAIM_TIMEOUT_S = 60
FETCH_ROWS = 20_000
BATCH_BYTES = str(4 * 2**20)
END_POLLS, END_POLL_S = 200, 0.05


class BulkServer(Protocol):
    """What a bulk session needs of the block of its database."""

    schema_: str
    commit_timeout_s: float

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def connect_adbc(self, label: str = "") -> Any:
        """Open an ADBC connection; the caller closes it."""


class PostgresBulkSession(BulkSession):
    """An ADBC connection: Arrow in and out by binary COPY."""

    ingests_in_transaction: ClassVar[bool] = True

    def __init__(self, server: BulkServer, load_id: str | None) -> None:
        self._server = server
        self._connection = server.connect_adbc(_label(load_id))
        self._in_transaction = False

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed."""
        with self._cursor("run a statement") as cursor:
            cursor.execute(*_numbered(sql, parameters))
            return int(cursor.rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows."""
        with self._cursor("run a query") as cursor:
            cursor.execute(*_numbered(sql, parameters))
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, streamed by COPY."""
        sql, values = _numbered(sql, parameters)
        with self._cursor("describe a query") as cursor:
            described = cursor.adbc_execute_schema(sql, values)
        exact = [exact_type(field) if is_numeric(field.type) else None for field in described]
        casts = [readable(field) or as_text(field) for field in described]
        names = [f"q.c{number}" for number in range(len(described))]  # those of the query may come twice
        flags = [unfit(field, name) for field, name in zip(described, names, strict=True)]
        flagged = [number for number, flag in enumerate(flags) if flag]
        if any(casts) or flagged:
            columns = [
                (f"CASE WHEN {flag} THEN NULL ELSE {name} END" if flag else name)
                + (f"::{cast}" if cast else "")
                + f" AS {quoted(field.name)}"
                for name, cast, flag, field in zip(names, casts, flags, described, strict=True)
            ]
            columns += [f"coalesce({flags[number]}, false)" for number in flagged]
            known = ", ".join(name.removeprefix("q.") for name in names)
            sql = f"SELECT {', '.join(columns)} FROM ({sql}) AS q ({known})"
            with self._cursor("describe a query") as cursor:
                described = list(cursor.adbc_execute_schema(sql, values))[: len(names)]
        schema = pa.schema(
            [(field.name, kind or exact_type(field)) for field, kind in zip(described, exact, strict=True)]
        )

        def batches() -> Iterator[pa.RecordBatch]:
            rows = self._copied(sql) if values is None else self._fetched(sql, values)
            # The driver decodes the next batches while numeric becomes decimal here.
            with contextlib.closing(read_ahead(rows, size=lambda batch: batch.nbytes, limit=AHEAD_BYTES)) as ahead:
                for batch in ahead:
                    for flag, number in zip(batch.columns[len(schema) :], flagged, strict=True):
                        check_fit(flag, schema.field(number))
                    yield exact_batch(batch.columns[: len(schema)], schema)

        return schema, batches()

    def _copied(self, sql: str) -> Iterator[pa.RecordBatch]:
        with self._cursor("read a result") as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
            cursor.execute(sql)
            yield from _batches(cursor)

    def _fetched(self, sql: str, values: tuple[Any, ...]) -> Iterator[pa.RecordBatch]:
        """COPY takes no parameters; a cursor of the server does, and hands the rows out in parts as well."""
        self.begin()
        try:
            with self._cursor("read a result") as cursor:
                cursor.execute(f"DECLARE etl_scan NO SCROLL CURSOR FOR {sql}", values)
                cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
                rows = 1
                while rows:
                    cursor.execute(f"FETCH {FETCH_ROWS} FROM etl_scan")
                    rows = 0
                    for batch in _batches(cursor):
                        rows += batch.num_rows
                        yield batch
        finally:
            self.rollback()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to a table by binary COPY."""
        feed = Feed(schema, batches)
        schema_name, _, name = table.rpartition(".")
        where: dict[str, Any] = {"temporary": True}
        if not stage:
            where = {"db_schema_name": schema_name or self._server.schema_}
        try:
            with self._cursor(f"copy into {table}") as cursor:
                return int(cursor.adbc_ingest(name, feed.reader(), mode="append", **where))
        except ConnectorError:
            if feed.error is not None:
                raise feed.error from None
            raise

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table that can be written."""
        dialect = PostgresDialect()
        rows = self.fetch(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, atthasdef OR attidentity <> '', "
            f"attgenerated <> '', {SWALLOWS} FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid "
            "WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            {"name": dialect.table(table)},
        )
        if not rows:
            return None
        with self._cursor("describe a table") as cursor:
            described = cursor.adbc_execute_schema(f"SELECT * FROM {dialect.table(table)}")
        return [
            Column(
                name=name,
                sql_type=sql_type,
                arrow_type=pa.string() if readable(field) else exact_type(field),
                nullable=nullable,
                has_default=has_default,
                stage_type="text" if readable(field) else sql_type if swallows else None,
                any_decimal=sql_type == "numeric",
            )
            for (name, sql_type, nullable, has_default, generated, swallows), field in zip(rows, described, strict=True)
            if not generated
        ]

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:
        """Insert the ledger row; another attempt that holds it is waited for, and ended if its client is gone."""
        self.execute(f"SET LOCAL lock_timeout = '{CLAIM_TIMEOUT_S}s'")
        try:
            self.execute(sql, parameters)
        except TransientError:
            self.rollback()
            self.end_other_tries(load_id, silent_s=CLAIM_TIMEOUT_S)
            raise
        self.execute("SET LOCAL lock_timeout = 0")

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table: by its unique index on the key, else under a lock against writers."""
        if not self.has_unique_key(table, key):
            self.execute(f"LOCK TABLE {dialect.table(table)} IN SHARE ROW EXCLUSIVE MODE")
            return super().upsert(dialect, table, columns, key)
        names = [column.name for column in columns if column.name not in key] or list(key)
        values = ", ".join(f"{dialect.name(name)} = excluded.{dialect.name(name)}" for name in names)
        merge = (
            f"{dialect.insert(table, columns, self.stage)} ON CONFLICT ({dialect.names(key)}) DO UPDATE SET {values} "
            "RETURNING (xmax = 0) AS inserted"  # xmax tells a fresh row from an updated one
        )
        counts = "SELECT count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted) FROM m"
        inserted, updated = self.fetch(f"WITH m AS ({merge}) {counts}")[0]
        return inserted, updated

    def end_other_tries(self, load_id: str, *, silent_s: float = 0) -> None:
        """End the server's side of attempts of this load whose client has said nothing for `silent_s` seconds."""
        mine = (
            "application_name = :label AND pid <> pg_backend_pid() AND usename = current_user "
            f"AND (state = 'active' AND wait_event = 'ClientRead' OR state LIKE 'idle%' OR {silent_s} = 0) "
            f"AND state_change < now() - interval '{silent_s} seconds'"
        )
        label = {"label": f"etl-blocks {_label(load_id)}"}
        self.fetch(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}", label)
        for _ in range(END_POLLS):
            if not self.fetch(f"SELECT 1 FROM pg_stat_activity WHERE {mine}", label):
                return
            self.fetch(f"SELECT pg_sleep({END_POLL_S})")
        raise TransientError(f"An earlier try of load {load_id} still runs in {self._server.uri()}.")

    def begin(self) -> None:
        """Start a transaction."""
        with self._translated("start a transaction"):
            self._connection.adbc_connection.set_autocommit(False)
        self._in_transaction = True

    def commit(self) -> None:
        """Commit it, and wait for the answer no longer than the block allows."""
        outcome: list[BaseException | None] = []
        answered, giving_up = threading.Event(), threading.Lock()

        def run() -> None:
            error: BaseException | None = None
            try:
                self._connection.adbc_connection.commit()
            except BaseException as failure:  # noqa: BLE001 (handed to the caller, whatever it is)
                error = failure
            with giving_up:
                outcome.append(error)
                answered.set()
                if self._abandoned:
                    self._disconnect()

        threading.Thread(target=run, name="etl-commit", daemon=True).start()
        answered.wait(self._server.commit_timeout_s)
        self._in_transaction = False
        with giving_up:
            self._abandoned = not outcome
        if self._abandoned:
            raise AmbiguousError(
                f"Could not commit in {self._server.uri()}: no answer in {self._server.commit_timeout_s:g} s."
            )
        if isinstance(outcome[0], self._error):
            raise translate(outcome[0], "commit", self._server.uri(), ambiguous=True) from None
        if outcome[0] is not None:
            raise outcome[0]
        with self._translated("end a transaction"):
            self._connection.adbc_connection.set_autocommit(True)

    def rollback(self) -> None:
        """Undo it."""
        if not self._in_transaction:
            return
        self._in_transaction = False
        with contextlib.suppress(ConnectorError), self._translated("roll back"):
            self._connection.adbc_connection.rollback()
            self._connection.adbc_connection.set_autocommit(True)

    def close(self) -> None:
        """Close the connection; one that still waits for an answer is closed when that comes, or the network ends."""
        if not self._abandoned:
            self._disconnect()

    _abandoned = False

    def _disconnect(self) -> None:
        with contextlib.suppress(self._error):
            self._connection.close()

    @property
    def _error(self) -> type[Exception]:
        error: type[Exception] = require("adbc_driver_manager", extra="postgres").Error
        return error

    def has_unique_key(self, table: str, key: Sequence[str]) -> bool:
        """Tell whether a unique index of the table is on just these columns."""
        rows = self.fetch(
            "SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i "
            "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
            "WHERE i.indrelid = to_regclass(:name) AND i.indisunique AND i.indisvalid AND i.indimmediate "
            "AND i.indpred IS NULL AND i.indexprs IS NULL "
            # a partitioned table does not tell the rows that ON CONFLICT updated from those that it inserted
            "AND NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = i.indrelid) "
            "GROUP BY i.indexrelid, i.indnkeyatts "
            "HAVING count(*) = i.indnkeyatts",
            {"name": PostgresDialect().table(table)},
        )
        return any(sorted(row[0]) == sorted(key) for row in rows)

    @contextlib.contextmanager
    def _cursor(self, action: str) -> Iterator[Any]:
        with self._translated(action), self._connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise translate(error, action, self._server.uri()) from None


def _label(load_id: str | None) -> str:
    """Return a short name of a load for `pg_stat_activity`, whatever its load_id looks like."""
    return hashlib.sha256(load_id.encode()).hexdigest()[:32] if load_id else ""


def _numbered(sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, tuple[Any, ...] | None]:
    """Return the statement with `$1`, `$2` ... for its named parameters, and their values in that order."""
    if not parameters:
        return sql, None
    order: list[str] = []

    def placeholder(name: str) -> str:
        if name not in order:
            order.append(name)
        return f"${order.index(name) + 1}"

    bound = bind(sql, parameters, placeholder)
    return bound, tuple(parameters[name] for name in order)


def _batches(cursor: Any) -> Iterator[pa.RecordBatch]:
    """Return the result in batches; errors of the reader that `fetch_record_batch` hands out would lack their SQLSTATE.

    https://github.com/apache/arrow-adbc/issues/1523
    """
    return iter(cursor._results.reader)  # noqa: SLF001
