"""A session by psycopg that loads through the staging bucket: its parts, the COPY, the claim, and their end."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from blocks.base.concurrency import Pool, result_of
from blocks.base.errors import AlreadyExistsError, AmbiguousError, NotFoundError, SchemaError, TransientError
from blocks.base.interruption import pause
from blocks.base.optional import lazy, require
from blocks.base.temporary import TemporaryFolder
from blocks.stores.client import WriteOptions
from blocks.warehouses.ledger import LEDGER, QUARANTINE, Ledger
from blocks.warehouses.session import BulkSession
from blocks.warehouses.sql import Column, Dialect, bind, strip_literals
from connectors.redshift.dialect import REAL, RedshiftDialect, arrow_type, stage_type
from connectors.shared.libpq.errors import LockTimeoutError
from connectors.shared.libpq.session import LibpqSession, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import pyarrow as pa

    from blocks.stores.object_store import ObjectStore
    from blocks.warehouses.load import LoadPlan
else:
    pa = lazy("pyarrow")

STAGING = "etl-redshift"
"""The folder of the staging bucket that holds the parts of loads, each load in a folder of its own."""
PART_BYTES = 64 * 2**20
PARTS_IN_FLIGHT = 4
BATCH_ROWS, CHUNK_ROWS = 8_192, 1_024
CLAIM_TIMEOUT_S = 1_800
END_POLLS, END_POLL_S = 200, 0.05
LEFT_FOR = dt.timedelta(days=1)
"""For how long the parts of another load's attempt stay, whose session is not listed."""

T = TypeVar("T")

QUERIES = {"select", "with", "values", "table", "show"}
CHANGES = {"insert", "update", "delete", "merge"}
"""Statements that begin so do not commit by themselves, as TRUNCATE, VACUUM and a procedure's do."""


class StagedServer(Server, Protocol):
    """What a session needs of the block of its database, and of the bucket through which data is loaded."""

    username: str | None
    schema_: str
    iam_role: str
    lock_timeout_s: float
    commit_timeout_s: float
    statement_timeout_s: float | None

    def bucket(self) -> ObjectStore:
        """Return the staging bucket."""


class RedshiftSession(LibpqSession, BulkSession):
    """A psycopg connection, and a folder of the staging bucket where it loads."""

    _server: StagedServer

    def __init__(self, server: StagedServer, load_id: str | None = None) -> None:
        self._server = server
        self._dialect = RedshiftDialect()
        self._load_id = load_id or ""
        self._parts: list[str] = []
        self._commit_lost = False
        super().__init__(server, self._load_hash(load_id) if load_id else "")
        if load_id:
            try:
                self._sweep(load_id)
            except BaseException:
                self.close()
                raise

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, streamed row by row."""
        described = self._describe(sql, parameters)
        schema = pa.schema([(column.name, arrow_type(column.type_code, _modifier(column))) for column in described])
        if any(column.type_code == REAL for column in described):  # of 9 digits it prints 8; of 17, all
            names = [f"c{number}" for number in range(len(described))]
            values = ", ".join(
                f"q.{name}" + ("::double precision" if column.type_code == REAL else "")
                for name, column in zip(names, described, strict=True)
            )
            sql = f"SELECT {values} FROM ({sql}) AS q ({', '.join(names)})"

        def batches() -> Iterator[pa.RecordBatch]:
            size = CHUNK_ROWS if require("psycopg", extra="redshift").capabilities.has_stream_chunked() else 1
            with (
                self._translated("read a result"),
                self._connection.cursor() as cursor,
                contextlib.closing(cursor.stream(*_bound(sql, parameters), size=size)) as rows,
            ):
                while batch := list(itertools.islice(rows, BATCH_ROWS)):
                    columns = zip(*batch, strict=True)
                    arrays = [_array(values, field) for values, field in zip(columns, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, batches()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:  # noqa: ARG002
        """Write the batches as Parquet into the bucket, and copy exactly those files into the staging table."""
        bucket, folder = self._server.bucket(), f"{self._load_folder(self._load_id)}/{self._name}/{table}"
        entries = []
        for key, size in self._upload(folder, schema, batches):
            url = bucket.uri(key)
            entries.append({"url": url, "mandatory": True, "meta": {"content_length": size}})
        if not entries:
            return 0
        manifest = f"{folder}.manifest"
        self._parts.append(manifest)
        bucket.objects.put(manifest, json.dumps({"entries": entries}).encode())
        role = "default" if self._server.iam_role == "default" else _literal(self._server.iam_role)
        self.execute(
            f"COPY {self._dialect.name(table)} FROM {_literal(bucket.uri(manifest))} IAM_ROLE {role} "
            "FORMAT AS PARQUET MANIFEST"
        )
        return int(self.fetch("SELECT pg_last_copy_count()")[0][0])

    def _upload(self, folder: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> list[tuple[str, int]]:
        """Keys and sizes of the parts, which are written and uploaded at the same time."""
        from blocks.files.formats import open_writer

        wire = pa.schema([(f"c{number}", _wire_type(field.type)) for number, field in enumerate(schema)])
        bucket = self._server.bucket()
        uploads: list[Future[tuple[str, int]]] = []

        def upload(key: str, path: Path) -> tuple[str, int]:
            size = path.stat().st_size
            bucket.objects.put(key, path, WriteOptions(content_type="application/vnd.apache.parquet"))
            path.unlink()
            return key, size

        with TemporaryFolder() as temporary, Pool(PARTS_IN_FLIGHT) as pool:
            rows = filter(lambda batch: batch.num_rows, batches)
            for first in rows:
                key, path = f"{folder}-{len(uploads)}.parquet", temporary / str(len(uploads))
                with path.open("wb") as file:
                    writer = open_writer(file, wire, format="parquet", compression="snappy")
                    writer.write(_wire(first, wire))
                    while file.tell() < PART_BYTES and (batch := next(rows, None)) is not None:
                        writer.write(_wire(batch, wire))
                    writer.close()
                if len(uploads) >= PARTS_IN_FLIGHT:
                    result_of(uploads[-PARTS_IN_FLIGHT])
                self._parts.append(key)
                uploads.append(pool.submit(upload, key, path))
            return [result_of(done) for done in uploads]

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table, from the catalog: a query of the table itself would wait for its locks."""
        schema_name, _, name = table.rpartition(".")
        rows = self.fetch(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, atthasdef, atttypid::int, atttypmod "
            "FROM pg_attribute "
            "JOIN pg_class AS c ON c.oid = attrelid JOIN pg_namespace AS n ON n.oid = relnamespace "
            "WHERE nspname = :schema AND relname = :name AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            {"schema": schema_name or self._server.schema_, "name": name},
        )
        if not rows:
            return None
        types = [arrow_type(oid, modifier) for *_, oid, modifier in rows]
        return [
            Column(column, sql_type, kind, nullable, has_default, stage_type=stage_type(kind))
            for (column, sql_type, nullable, has_default, *_), kind in zip(rows, types, strict=True)
        ]

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:
        """Insert the ledger row once other loads of the schema have ended; end an attempt of this one that lasts."""
        dialect, wait_s = self._dialect, min(CLAIM_TIMEOUT_S, self._server.lock_timeout_s)
        try:
            self._lock(QUARANTINE, wait_s)
        except LockTimeoutError:
            self.end_other_attempts(load_id)
            raise TransientError(f"Another load into {self._server.uri()} took longer than {wait_s:g} s.") from None
        except NotFoundError:
            self.rollback()
            Ledger(dialect).create_quarantine(self)
            raise TransientError(f"{self._server.uri(QUARANTINE)} was dropped, and is made again.") from None
        look = f"SELECT 1 FROM {dialect.table(LEDGER)} WHERE load_id = :load_id"
        if self.fetch(look, {"load_id": load_id}):
            raise AlreadyExistsError(f"The ledger of {self._server.uri()} has load {load_id} already.")
        self.execute(sql, parameters)

    def lock_target(self, dialect: Dialect, plan: LoadPlan) -> None:  # noqa: ARG002 (the claim keeps other loads out)
        """Lock a table that is to be altered; a wait for those who use it ends in time."""
        if plan.ddl and not plan.creates_table:
            self._lock(plan.table, self._server.lock_timeout_s)

    def _lock(self, table: str, wait_s: float) -> None:
        """Lock a table until the transaction ends. Redshift has no timeout for locks, only one for statements.

        Raises:
            LockTimeoutError: It was not to be had in time; the transaction is undone.
        """
        self.execute(f"SET statement_timeout TO {max(1, round(wait_s * 1_000))}")
        with self._translated("lock a table"):
            try:
                self._connection.execute(f"LOCK TABLE {self._dialect.table(table)}")
            except require("psycopg.errors", extra="redshift").QueryCanceled:
                self.rollback()
                raise LockTimeoutError(
                    f"Could not lock {self._server.uri(table)} within {wait_s:g} s. Nothing was applied."
                ) from None
        self.execute(statement_timeout(self._server.statement_timeout_s))

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table, and count in the snapshot that the merge itself sees."""
        target, stage = dialect.table(table), dialect.name(self.stage)
        matches = self._dialect.matches(table, columns, key, self.stage)
        updated = self.fetch(f"SELECT count(*) FROM {target} JOIN {stage} ON {matches}")[0][0]
        before = self.fetch(f"SELECT count(*) FROM {target}")[0][0]
        self.execute(self._dialect.merge(table, columns, key, self.stage))
        return self.fetch(f"SELECT count(*) FROM {target}")[0][0] - before, updated

    def commit(self) -> None:
        """Commit it, and wait for the answer no longer than the block allows."""
        try:
            with self._connection.answering_within(self._server.commit_timeout_s):
                super().commit()
        except AmbiguousError:
            self._commit_lost = True
            raise

    def discard(self, table: str) -> None:
        """Remove the parts; only where a COMMIT was lost do they stay, and tell which session is to be ended."""
        if table == self.stage and self._parts and not self._commit_lost:
            self._remove(self._parts)

    def end_other_attempts(self, load_id: str) -> None:
        """End the sessions of other attempts of this load, and remove their parts."""
        own = self._name if self._parts else None
        attempts = {name: keys for name, keys in self._attempts(load_id).items() if name != own}
        for _ in range(END_POLLS):
            running = [pid for name, pid in self._running().items() if name in attempts] if attempts else []
            if not running:
                break
            for pid in running:
                self.fetch("SELECT pg_terminate_backend(:pid)", {"pid": pid})
            pause(END_POLL_S)
        else:
            raise TransientError(f"An earlier attempt of load {load_id} still runs in {self._server.uri()}.")
        self._remove(itertools.chain(*attempts.values()))

    def _sweep(self, load_id: str) -> None:
        """Remove what attempts whose session has ended left: of this load at once, of others after a day.

        Redshift lists a session late, so one of another load that it does not list may have begun just now.
        """
        folder, left = self._load_folder(load_id), dt.datetime.now(dt.UTC) - LEFT_FOR
        pages = self._server.bucket().objects.list(self._database_folder)
        found = [info for page in pages for info in page if info.key.startswith(folder) or info.last_modified < left]
        if found:
            running = self._running()
            self._remove(info.key for info in found if info.key.split("/")[-2] not in running)

    def _attempts(self, load_id: str) -> dict[str, list[str]]:
        """Return the keys of the parts of a load, by the name of the session that wrote them."""
        attempts: dict[str, list[str]] = {}
        for page in self._server.bucket().objects.list(self._load_folder(load_id)):
            for info in page:
                attempts.setdefault(info.key.split("/")[-2], []).append(info.key)
        return attempts

    def _remove(self, keys: Iterable[str]) -> None:
        self._server.bucket().objects.delete(keys)

    def _running(self) -> dict[str, int]:
        """Return the process of each session of this user by its name."""
        rows = self.fetch("SELECT session_id, start_time FROM sys_session_history WHERE status = 'active'")
        return {_session_name(pid, started): pid for pid, started in rows}

    @cached_property
    def _name(self) -> str:
        """What tells this session from all others: its process, which may be used again, and when it started."""
        pid = self.fetch("SELECT pg_backend_pid()")[0][0]
        return next((name for name, process in self._running().items() if process == pid), _session_name(pid, None))

    @property
    def _database_folder(self) -> str:
        """Where this user's loads into this database stage; those of others are not ours to sweep."""
        whose = f"{self._server.uri('_')} {self._server.username}"
        return f"{STAGING}/{hashlib.sha256(whose.encode()).hexdigest()[:16]}"

    def _load_folder(self, load_id: str) -> str:
        return f"{self._database_folder}/{self._load_hash(load_id)}"

    def _load_hash(self, load_id: str) -> str:
        """A load's short name, whatever its load_id looks like; that of another database or user has another one."""
        return hashlib.sha256(f"{self._server.uri('_')} {self._server.username} {load_id}".encode()).hexdigest()[:32]

    def _describe(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        with self._translated("describe a query"):
            described: Sequence[Any] = self._run(f"SELECT * FROM ({sql}) AS q LIMIT 0", parameters).description
        return described

    def _complete(self, action: str, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        """Run a statement and return its answer; alone, it commits once that is here.

        If the answer is lost, no COMMIT was sent, and Redshift undoes the statement: it can run again. What a query
        changes, Redshift refuses at first. It does not say what became of a transaction whose COMMIT was not answered.
        """
        # Of what a load does outside of its transaction nothing remains, or it may be done twice.
        if self._in_transaction or self._load_id:
            with self._translated(action):
                return read(self._run(sql, parameters))
        word = re.match(r"\W*(\w*)", strip_literals(sql, RedshiftDialect.literals))
        kind = word[1].lower() if word else ""
        if kind in QUERIES:
            with contextlib.suppress(_WritesError):
                return self._complete_in_transaction("BEGIN READ ONLY", action, sql, parameters, read)
        if kind in QUERIES | CHANGES:
            return self._complete_in_transaction("BEGIN", action, sql, parameters, read)
        with self._translated(action, sent=True):
            return read(self._run(sql, parameters))

    def _complete_in_transaction(
        self, begin: str, action: str, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]
    ) -> T:
        refused = require("psycopg.errors", extra="redshift").ReadOnlySqlTransaction
        with self._translated(action):
            self._connection.execute(begin)
            try:
                answer = read(self._run(sql, parameters))
            except refused:
                self.rollback()
                if begin != "BEGIN":
                    raise _WritesError from None
                raise
            except BaseException:
                self.rollback()
                raise
        if begin == "BEGIN":
            LibpqSession.commit(self)
        else:
            self.rollback()
        return answer

    def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        return self._connection.execute(*_bound(sql, parameters))


class _WritesError(Exception):
    """A query is not one that only reads."""


def statement_timeout(seconds: float | None) -> str:
    """Return the statement that limits, or stops limiting, the statements of a session."""
    return f"SET statement_timeout TO {max(1, round(seconds * 1_000))}" if seconds else "RESET statement_timeout"


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    try:
        if isinstance(field.type, pa.JsonType):
            return pa.ExtensionArray.from_storage(field.type, pa.array(values, field.type.storage_type))
        return pa.array(values, field.type)
    except pa.ArrowException:  # its words hold the value
        raise SchemaError(
            f"Column {field.name!r} holds a value that is not a {field.type}. Cast it in the query."
        ) from None


def _wire_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column in the parts."""
    return pa.string() if stage_type(kind) else kind


def _wire(batch: pa.RecordBatch, wire: pa.Schema) -> pa.RecordBatch:
    """Return the batch as it is written; columns are named by their place, because COPY goes by that."""
    plain = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in batch.columns]
    arrays = [array.cast(field.type) for array, field in zip(plain, wire, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=wire)


def _bound(sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    if not parameters:
        return sql, None
    return bind(sql.replace("%", "%%"), parameters, lambda name: f"%({name})s"), dict(parameters)


def _literal(text: str) -> str:
    r"""Return a text in SQL; Redshift takes a backslash for an escape.

    >>> _literal("it's a \\")
    "'it''s a \\\\'"
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _session_name(pid: int, started: dt.datetime | None) -> str:
    """Return a session's name in the bucket.

    >>> _session_name(7, dt.datetime(2026, 4, 30, 12, tzinfo=dt.UTC))
    '7-20260430T120000000000'
    """
    return f"{pid}-{started:%Y%m%dT%H%M%S%f}" if started else str(pid)


def _modifier(column: Any) -> int:
    """Return the modifier of the type of a result's column; psycopg shows what it means for a decimal."""
    return ((column.precision << 16) | column.scale) + 4 if column.precision else -1
