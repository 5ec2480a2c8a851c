"""A session by ADBC: Arrow in and out by binary COPY, and the transaction of a load."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from blocks.arrow.scan import AHEAD_BYTES
from blocks.base.concurrency import read_ahead
from blocks.base.errors import (
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.base.interruption import NoAnswerError, pause
from blocks.base.optional import lazy, require
from blocks.warehouses.session import BulkSession, Feed
from blocks.warehouses.sql import Column, Dialect
from connectors.postgres import versions
from connectors.postgres.literals import literal, with_literals
from connectors.postgres.reading import (
    as_text,
    check_fit,
    exact_batch,
    exact_type,
    is_numeric,
    kept_type,
    readable,
    unfit,
    unknown_types,
)
from connectors.postgres.session import setting
from connectors.postgres.snapshot import NO_SUCH_SNAPSHOT, lost_snapshot_error
from connectors.shared.libpq.dialect import PostgresDialect, quoted
from connectors.shared.libpq.errors import LockTimeoutError, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.warehouses.load import LoadPlan
    from blocks.warehouses.session import Versions
    from connectors.postgres.adbc import WatchedConnection, WatchedCursor
else:
    pa = lazy("pyarrow")

# ADBC counts the rows that it sent. Where triggers or row security may hold some back, they go through the stage,
# because INSERT counts those that arrived; and COPY knows nothing of rules.
RULE = "a rule"
BY_INSERT = f"""CASE
    WHEN EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid AND ev_type = '3') THEN '{RULE}'
    WHEN c.relkind NOT IN ('r', 'p') THEN 'no plain table'
    WHEN c.relrowsecurity THEN 'row security'
    WHEN EXISTS (
        SELECT FROM pg_trigger WHERE (tgrelid = c.oid OR tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid)))
        AND (tgtype & 4) <> 0 AND (tgtype & 66) <> 0 AND NOT tgisinternal
    ) THEN 'a trigger' END"""  # on INSERT; BEFORE or INSTEAD OF

# What the indexes of a type take for equal, named with its schema where that is not searched: citext's, for example.
EQUALS = """coalesce((
    SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_opclass AS oc
    JOIN pg_amop AS ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
    JOIN pg_operator AS o ON o.oid = ao.amopopr JOIN pg_namespace AS n ON n.oid = o.oprnamespace
    JOIN pg_am AS am ON am.oid = oc.opcmethod AND am.amname = 'btree'
    WHERE oc.opcdefault AND oc.opcintype = atttypid AND n.nspname <> 'pg_catalog'), '=')"""

# How many digits a column has, also where they are those of its domain.
DECLARED = """coalesce((
    SELECT format_type(t.typbasetype, t.typtypmod) FROM pg_type AS t WHERE t.oid = atttypid AND t.typtype = 'd'),
    format_type(atttypid, atttypmod))"""

ALTER_TIMEOUT_S = 1
CLAIM_TIMEOUT_S = 60
REPEATABLE_READ = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
READ_COMMITTED = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""What a load does once it has its lock sees what those before it committed; other levels are as of its begin."""
LOCK_WAIT_S, LONGEST_LOCK_WAIT_S = 0.5, 1.5
"""So long a lock that keeps readers out is waited for at a time; those who come meanwhile wait behind it. In the end it
is longer than the second after which PostgreSQL looks for a deadlock: of two that publish a table into itself."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Between two such waits readers pass."""
TRY_LOCK = """
DECLARE patience text := current_setting('lock_timeout');
BEGIN
    SET LOCAL lock_timeout = {wait};
    LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE;
    PERFORM set_config('lock_timeout', patience, true), set_config('etl.locked', 'yes', true);
EXCEPTION WHEN lock_not_available THEN
    PERFORM set_config('etl.locked', 'no', true);
END"""
"""A block, because ADBC does nothing more in a transaction in which a statement failed, not even to a savepoint."""
LOCKABLE = ("r", "p", "v")
"""Kinds of relations (`pg_class.relkind`) that LOCK TABLE takes: tables, partitioned ones and views."""
VERSIONED = ("r", "p", "m")
"""Kinds of relations whose rows are versions that never change: tables, partitioned ones and materialized views."""
HOLDERS = """
SELECT DISTINCT l.pid, a.usename::text, a.state, a.application_name
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND l.pid <> pg_backend_pid()
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (l.relation = to_regclass(:name) OR l.locktype = 'advisory' AND l.objsubid = 1
     AND (l.classid::bigint << 32 | l.objid::bigint) = :key)
ORDER BY l.pid LIMIT 3"""

BATCH_BYTES = str(4 * 2**20)
END_POLLS, END_POLL_S = 200, 0.05


class BulkServer(Protocol):
    """What a bulk session needs of the block of its database."""

    schema_: str
    lock_timeout_s: float
    commit_timeout_s: float
    read_timeout_s: float

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def connect_adbc(self, label: str = "") -> WatchedConnection:
        """Open an ADBC connection, whose transactions the caller begins and ends; and it closes it."""

    def refresh_types(self, unknown: set[str]) -> bool:
        """Have the next ADBC connections know types that were made since; False if these are known to no driver."""

    def transaction_settings(self, label: str = "") -> Mapping[str, str]:
        """Return what each transaction sets for itself, by the server's names."""


class PostgresBulkSession(BulkSession):
    """An ADBC connection: Arrow in and out by binary COPY."""

    ingests_in_transaction: ClassVar[bool] = True
    reads_snapshots: ClassVar[bool] = True

    def __init__(self, server: BulkServer, load_id: str | None, snapshot: str | None = None) -> None:
        """Take what it needs of the block, the load that it is for, and the exported snapshot that it reads."""
        self._server = server
        self._snapshot = snapshot
        self._label = _label(load_id)
        self._settings = server.transaction_settings(self._label)
        self._connection = server.connect_adbc(self._label)
        self._in_transaction = False
        self._reads_only = False

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed."""
        with self._writing(), self._cursor("run a statement", sql) as cursor:
            cursor.execute(with_literals(sql, parameters))
            return int(cursor.rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows."""
        with self._reading(), self._cursor("run a query", sql) as cursor:
            cursor.set_options(**{"adbc.postgresql.use_copy": "false"})  # these are a few rows
            cursor.execute(with_literals(sql, parameters))
            return cursor.fetch(size)

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, streamed by COPY; alone, it is a transaction that only reads.

        Raises:
            InvalidInputError: The query writes. What reads a scan may read it again.
        """
        alone = not self._in_transaction
        if alone:
            self.begin(read_only=True)
        sql = with_literals(sql, parameters)
        described = self._describe("describe a query", sql)
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
            described = list(self._describe("describe a query", sql))[: len(names)]
        schema = pa.schema(
            [(field.name, kind or exact_type(field)) for field, kind in zip(described, exact, strict=True)]
        )

        def batches() -> Iterator[pa.RecordBatch]:
            # The driver decodes the next batches while numeric becomes decimal here.
            rows = self._copied(sql)
            with contextlib.closing(read_ahead(rows, size=lambda batch: batch.nbytes, limit=AHEAD_BYTES)) as ahead:
                for batch in ahead:
                    for flag, number in zip(batch.columns[len(schema) :], flagged, strict=True):
                        check_fit(flag, schema.field(number))
                    yield exact_batch(batch.columns[: len(schema)], schema)
            if alone:
                self.rollback()

        return schema, batches()

    def _describe(self, action: str, sql: str) -> pa.Schema:
        """Return what the driver knows of a query's columns; one that reads only may know more on a new connection."""
        with self._cursor(action, sql) as cursor:
            described = cursor.describe(sql)
        unknown = unknown_types(described)
        if unknown and self._reads_only and self._server.refresh_types(unknown):
            self.close()
            self._connection = self._server.connect_adbc(self._label)
            self.begin(read_only=True)
            return self._describe(action, sql)
        return described

    def _copied(self, sql: str) -> Iterator[pa.RecordBatch]:
        with self._cursor("read a result", sql) as cursor:
            cursor.set_options(**{"adbc.postgresql.batch_size_hint_bytes": BATCH_BYTES})
            cursor.execute(sql)
            yield from cursor.batches()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to a table by binary COPY."""
        feed = Feed(schema, batches)
        schema_name, _, name = table.rpartition(".")
        where: dict[str, Any] = {"temporary": True}
        if not stage:
            where = {"db_schema_name": schema_name or self._server.schema_}
        try:
            with self._cursor("stage the rows" if stage else f"copy into {table}", "COPY") as cursor:
                return cursor.ingest(name, schema, iter(feed), **where)
        except ConnectorError:
            if feed.error is not None:
                raise feed.error from None
            raise

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table that can be written.

        Raises:
            TransientError: It is being altered.
        """
        with self._reading():
            return self._columns(table)

    def _columns(self, table: str) -> list[Column] | None:
        dialect = PostgresDialect()
        rows = self.fetch(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, atthasdef OR attidentity <> '', "
            f"attgenerated <> '', {BY_INSERT}, {EQUALS}, {DECLARED} "
            "FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid "
            "WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            {"name": dialect.table(table)},
        )
        if not rows:
            return None
        with self._waiting(table):
            described = self._describe("describe a table", f"SELECT * FROM {dialect.table(table)}")
        if described.names != [row[0] for row in rows]:  # a lock of the load's own keeps that from happening
            raise TransientError(f"{self._server.uri(table)} was altered while it was described.")
        return [
            Column(
                name=name,
                sql_type=sql_type,
                arrow_type=pa.string() if readable(field) else exact_type(field),
                kept=None if readable(field) else kept_type(declared, exact_type(field)),
                nullable=nullable,
                has_default=has_default,
                stage_type="text" if readable(field) else sql_type if by_insert else None,
                any_decimal=sql_type == "numeric",
                equals=equals,
                staged_because=by_insert,
            )
            for row, field in zip(rows, described, strict=True)
            for name, sql_type, nullable, has_default, generated, by_insert, equals, declared in [row]
            if not generated
        ]

    def _content(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> list[str]:
        """Return what tells the rows of the table from other rows: where it can be, which versions of rows they are.

        That takes half the time of looking at their values (0.5 s for a million rows), and also tells of a value that
        was changed and changed back. https://www.postgresql.org/docs/current/ddl-system-columns.html
        """
        name = {"name": dialect.table(table)}
        found = self.fetch(
            "SELECT relkind::text, (SELECT string_agg(attnum::text, ',' ORDER BY attnum) FROM pg_attribute "
            "WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) "
            "FROM pg_class AS c WHERE oid = to_regclass(:name)",
            name,
        )
        kind, numbers = found[0] if found else ("", "")
        if kind not in VERSIONED:
            return super()._content(dialect, table, columns)
        version = "hashtextextended(concat_ws(',', tableoid::int8, ctid, xmin), 0)"
        rows = self.fetch(f"SELECT count(*), sum({version})::text FROM {dialect.table(table)}")[0]
        return [numbers, *map(str, rows)]

    def computed_columns(self, table: str) -> set[str]:
        """Return the columns that the server computes."""
        rows = self.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attgenerated <> ''",
            {"name": PostgresDialect().table(table)},
        )
        return {row[0] for row in rows}

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:
        """Insert the ledger row; another attempt that holds it is waited for, and ended if its client is gone."""
        wait_s = min(CLAIM_TIMEOUT_S, self._server.lock_timeout_s)
        self.execute(f"SET LOCAL lock_timeout = {_milliseconds(wait_s)}")
        try:
            self.execute(sql, parameters)
        except TransientError:
            self.rollback()
            self.end_other_attempts(load_id, silent_s=CLAIM_TIMEOUT_S)
            raise

    def alter(self, sql: str) -> None:
        """Change a table's shape without a long wait for its lock: a waiting ALTER blocks all that come after it."""
        with self.transaction():
            self.execute(f"SET LOCAL lock_timeout = {_milliseconds(ALTER_TIMEOUT_S)}")
            self.execute(sql)

    def lock_target(self, dialect: Dialect, plan: LoadPlan) -> None:
        """Lock the table, or its name where it is to be created, and bound the wait for every lock from here on.

        Loads that add rows keep only those out that alter, empty or rewrite the table. No lock here stops a reader but
        the one to alter or empty it.
        """
        name = dialect.table(plan.table)
        wait = {"wait": str(_milliseconds(self._server.lock_timeout_s)), "name": name}
        kind = "(SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:name))"
        lockable = self.fetch(f"SELECT set_config('lock_timeout', :wait, true), {kind}", wait)[0][1] in LOCKABLE
        if plan.creates_table:
            key = {"key": self._name_key(plan.table)}
            with self._waiting(plan.table):
                self.fetch("SELECT pg_advisory_xact_lock(:key)", key)
        elif lockable and (plan.mode == "replace" or plan.ddl):
            self._lock_out_readers(plan.table, name)
        elif lockable:
            by_index = plan.mode == "upsert" and self.has_unique_key(plan.table, plan.key)
            adds = plan.mode == "append" or by_index
            lock = f"ONLY {name} IN ROW EXCLUSIVE MODE" if adds else f"{name} IN SHARE ROW EXCLUSIVE MODE"
            with self._waiting(plan.table):
                self.execute(f"LOCK TABLE {lock}")

    def _lock_out_readers(self, table: str, name: str) -> None:
        """Lock the table against everybody.

        Whoever comes after a lock that waits has to wait behind it, readers too. So it waits for moments only, and
        lets them pass in between.
        """
        deadline = time.monotonic() + self._server.lock_timeout_s
        wait_s, pause_s = LOCK_WAIT_S, FIRST_PAUSE_S
        while True:
            left_s = deadline - time.monotonic()
            attempt = TRY_LOCK.format(name=name, wait=_milliseconds(min(wait_s, left_s)))
            self.execute("DO '" + attempt.replace("'", "''") + "'")
            if self.fetch("SELECT current_setting('etl.locked')")[0][0] == "yes":
                return
            if left_s < wait_s:
                raise self._locked(table)
            pause(random.uniform(pause_s / 2, pause_s))  # noqa: S311 (jitter, not a secret)
            wait_s, pause_s = min(wait_s * 1.2, LONGEST_LOCK_WAIT_S), min(pause_s * 2, LONGEST_PAUSE_S)

    @contextlib.contextmanager
    def _waiting(self, table: str) -> Iterator[None]:
        try:
            yield
        except LockTimeoutError:
            raise self._locked(table) from None

    def _locked(self, table: str) -> LockTimeoutError:
        """Undo the transaction, and return the error that says who holds the table, as far as the server tells."""
        self.rollback()
        found = self.fetch(HOLDERS, {"name": PostgresDialect().table(table), "key": self._name_key(table)})
        holders = "; ".join(
            f"pid {pid}, user {user}, {state}, {label or 'unnamed'}" for pid, user, state, label in found
        )
        return LockTimeoutError(
            f"Could not lock {self._server.uri(table)} within {self._server.lock_timeout_s:g} s. "
            f"{f'It is held by {holders}' if holders else 'Nobody holds it now'}. Nothing was applied."
        )

    def _name_key(self, table: str) -> int:
        """Return the number under which a table is locked that does not exist yet."""
        schema, _, name = table.rpartition(".")
        digest = hashlib.sha256(f"etl-blocks {schema or self._server.schema_}.{name}".encode()).digest()
        return int.from_bytes(digest[:8], signed=True)

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table: by its unique index on the key, else statement by statement.

        Rows go in by the order of their key, so that two upserts at once lock theirs in one order.

        Raises:
            UnsupportedError: The table has a rule, which would see the rows as they are after the upsert.
        """
        if any(column.staged_because == RULE for column in columns):
            raise UnsupportedError(
                f"{self._server.uri(table)} has a rule on INSERT, with which PostgreSQL does not merge rows. Make a "
                "trigger of the rule, or load with another mode."
            )
        if not self.has_unique_key(table, key):
            return super().upsert(dialect, table, columns, key)
        names = [column.name for column in columns if column.name not in key] or list(key)
        values = ", ".join(f"{dialect.name(name)} = excluded.{dialect.name(name)}" for name in names)
        rows = dialect.insert(table, columns, self.stage, f" ORDER BY {dialect.names(key, 's.')}")
        merge = (
            f"{rows} ON CONFLICT ({dialect.names(key)}) DO UPDATE SET {values} "
            "RETURNING (xmax = 0) AS inserted"  # xmax tells a fresh row from an updated one
        )
        counts = "SELECT count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted) FROM m"
        inserted, updated = self.fetch(f"WITH m AS ({merge}) {counts}")[0]
        return inserted, updated

    def end_other_attempts(self, load_id: str, *, silent_s: float = 0) -> None:
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
        raise TransientError(f"An earlier attempt of load {load_id} still runs in {self._server.uri()}.")

    def create_stage(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> None:
        """Make a staging table, in the transaction of the load: behind a pooler the next one may be elsewhere."""
        if not self._in_transaction:
            self.begin()
        self.execute(f"{dialect.create_stage(table, columns)} ON COMMIT DROP")

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within is of one moment."""
        self.begin(read_only=True, repeatable=True)
        try:
            yield
        finally:
            self.rollback()

    def versions(self, table: str) -> Versions | None:
        """Return the versions of the rows of a table; None for a view, a foreign table, and servers before 13."""
        query = versions.facts(self.fetch(versions.SERVER)[0])
        return versions.versions(self.fetch(query, {"table": PostgresDialect().table(table)})[0]) if query else None

    def begin(self, *, read_only: bool = False, repeatable: bool = False) -> None:
        """Start a transaction; one that began with the staging of the load goes on."""
        if self._in_transaction:
            return
        settings = {**self._settings, **({"transaction_read_only": "on"} if read_only else {})}
        first = [] if read_only else [READ_COMMITTED]
        if repeatable:
            first = [REPEATABLE_READ]
        if self._snapshot:
            first = [REPEATABLE_READ, f"SET TRANSACTION SNAPSHOT {literal(self._snapshot)}"]
        with self._translated("start a transaction"):
            self._in_transaction, self._reads_only = True, read_only
            try:
                self._connection.begin(setting(settings), first=first)
            except self._error as error:
                if self._snapshot and getattr(error, "sqlstate", None) in NO_SUCH_SNAPSHOT:
                    raise lost_snapshot_error(self._server.uri()) from None
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Within the transaction that is open, else within one that only reads, of which nothing is to be kept."""
        alone = not self._in_transaction
        self.begin(read_only=True)
        try:
            yield
        finally:
            if alone:
                self.rollback()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within the transaction that is open, else within one for just this, which may be done again."""
        alone = not self._in_transaction
        self.begin()
        try:
            yield
        except BaseException:
            if alone:
                self.rollback()
            raise
        if alone:
            self._in_transaction = False
            with self._translated("end a transaction"):
                self._connection.commit()

    def commit(self) -> None:
        """Commit it, and wait for the answer no longer than the block allows."""
        self._in_transaction = False
        with self._translated("commit", ambiguous=True):
            self._connection.commit(self._server.commit_timeout_s)

    def rollback(self) -> None:
        """Undo it."""
        if not self._in_transaction:
            return
        self._in_transaction = False
        with contextlib.suppress(ConnectorError), self._translated("roll back"):
            self._connection.rollback()

    def close(self) -> None:
        """Close the connection."""
        self.rollback()  # a pooler would close its own connection, too, on one that ends amid a transaction
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
            # and ON CONFLICT is refused where there is a rule on UPDATE
            "AND NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = i.indrelid AND ev_type = '2') "
            "GROUP BY i.indexrelid, i.indnkeyatts "
            "HAVING count(*) = i.indnkeyatts",
            {"name": PostgresDialect().table(table)},
        )
        return any(sorted(row[0]) == sorted(key) for row in rows)

    @contextlib.contextmanager
    def _cursor(self, action: str, statement: str) -> Iterator[WatchedCursor]:
        with self._translated(action, statement=statement), self._connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def _translated(self, action: str, *, ambiguous: bool = False, statement: str = "") -> Iterator[None]:
        try:
            yield
        except NoAnswerError:
            kind = AmbiguousError if ambiguous else TransientError
            limit_s = self._server.commit_timeout_s if ambiguous else self._server.read_timeout_s
            raise kind(f"Could not {action} in {self._server.uri()}: no answer in {limit_s:g} s.") from None
        except self._error as error:
            if self._reads_only and getattr(error, "sqlstate", None) == "25006":
                raise InvalidInputError(
                    f"Could not {action} in {self._server.uri()}: it writes, and a scan only reads, as it may be read "
                    "again. Run it by fetch_all or execute, or have it fill a table first."
                ) from None
            if getattr(error, "sqlstate", None) == "3F000" and "no schema has been selected" in str(error):
                raise NotFoundError(
                    f"There is no schema {self._server.schema_!r} in {self._server.uri()}, or this login may not use "
                    "it. Create it, or grant USAGE on it."
                ) from None
            raise translate(error, action, self._server.uri(), ambiguous=ambiguous, statement=statement) from None


def _label(load_id: str | None) -> str:
    """Return a short name of a load for `pg_stat_activity`, whatever its load_id looks like."""
    return hashlib.sha256(load_id.encode()).hexdigest()[:32] if load_id else ""


def _milliseconds(seconds: float) -> int:
    """Return a timeout as PostgreSQL has it, for which 0 means none."""
    return max(1, round(seconds * 1_000))
