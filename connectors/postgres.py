"""PostgreSQL 12 and newer: statements by psycopg, bulk in and out by ADBC (binary COPY), SQLAlchemy on request.

Errors: https://www.postgresql.org/docs/current/errcodes-appendix.html (SQLSTATE; `*` stands for the rest of a code)
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr

from blocks import errors
from blocks.arrow_types import plain_type
from blocks.errors import AmbiguousError, ConnectorError, TransientError, TypeLossError, lookup
from blocks.operation import operation
from blocks.optional import lazy, require
from blocks.scan import AHEAD_BYTES, read_ahead
from blocks.session import BulkSession, Feed, Session
from blocks.sql import Column, Dialect, bind
from blocks.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

ERRORS: dict[str, type[ConnectorError]] = {
    "01*": errors.TerminalError,
    "02*": errors.TerminalError,
    "03*": errors.InvalidInputError,
    "08*": errors.TransientError,
    "08007": errors.AmbiguousError,
    "08P01": errors.TerminalError,
    "09*": errors.TerminalError,
    "0A*": errors.UnsupportedError,
    "0B*": errors.InvalidInputError,
    "0F*": errors.InvalidInputError,
    "0L*": errors.AccessDeniedError,
    "0P*": errors.AccessDeniedError,
    "0Z*": errors.TerminalError,
    "10*": errors.InvalidInputError,
    "20*": errors.InvalidInputError,
    "21*": errors.InvalidInputError,
    "22*": errors.InvalidInputError,
    "23*": errors.InvalidInputError,
    "23505": errors.AlreadyExistsError,
    "24*": errors.InvalidInputError,
    "25*": errors.TerminalError,
    "25006": errors.TransientError,
    "25P03": errors.TransientError,
    "25P04": errors.TransientError,
    "26*": errors.InvalidInputError,
    "27*": errors.TerminalError,
    "28*": errors.AuthError,
    "2B*": errors.InvalidInputError,
    "2D*": errors.InvalidInputError,
    "2F*": errors.TerminalError,
    "34*": errors.InvalidInputError,
    "38*": errors.TerminalError,
    "39*": errors.TerminalError,
    "3B*": errors.InvalidInputError,
    "3D*": errors.NotFoundError,
    "3F*": errors.NotFoundError,
    "40*": errors.TransientError,
    "40003": errors.AmbiguousError,
    "42*": errors.InvalidInputError,
    "42501": errors.AccessDeniedError,
    "42701": errors.AlreadyExistsError,
    "42703": errors.NotFoundError,
    "42704": errors.NotFoundError,
    "42710": errors.AlreadyExistsError,
    "42883": errors.NotFoundError,
    "42P01": errors.NotFoundError,
    "42P04": errors.AlreadyExistsError,
    "42P06": errors.AlreadyExistsError,
    "42P07": errors.AlreadyExistsError,
    "44*": errors.InvalidInputError,
    "53*": errors.TransientError,
    "53100": errors.TerminalError,
    "54*": errors.InvalidInputError,
    "55*": errors.TerminalError,
    "55006": errors.TransientError,
    "55P03": errors.TransientError,
    "57*": errors.TerminalError,
    "57P01": errors.TransientError,
    "57P02": errors.TransientError,
    "57P03": errors.TransientError,
    "57P04": errors.NotFoundError,
    "57P05": errors.TransientError,
    "58*": errors.TerminalError,
    "58030": errors.TransientError,
    "72*": errors.InvalidInputError,
    "F0*": errors.TerminalError,
    "HV*": errors.TerminalError,
    "P0*": errors.TerminalError,
    "XX*": errors.TerminalError,
}

# Errors of the drivers themselves have no SQLSTATE. One of another class than these is a lost connection.
DRIVER_ERRORS: dict[str, type[ConnectorError]] = {
    "DataError": errors.InvalidInputError,
    "IntegrityError": errors.InvalidInputError,
    "InternalError": errors.InvalidInputError,
    "NotSupportedError": errors.UnsupportedError,
    "ProgrammingError": errors.InvalidInputError,
}

LOGIN = "Check username and password."
TLS = "Check ssl_mode and ssl_root_cert."

# What the server says before it knows the client's SQLSTATE protocol, that is while connecting; and what to do.
CONNECT_ERRORS: tuple[tuple[str, type[ConnectorError], str], ...] = (
    ("password authentication failed", errors.AuthError, LOGIN),
    ("no password supplied", errors.AuthError, LOGIN),
    ("role ", errors.AuthError, LOGIN),
    ("no pg_hba.conf entry", errors.AccessDeniedError, "The server's pg_hba.conf decides who may connect, and how."),
    ("permission denied", errors.AccessDeniedError, "Grant the role what it needs, or use another one."),
    ("certificate", errors.AuthError, TLS),
    ("does not support SSL", errors.AuthError, TLS),
    ("invalid sslmode", errors.InvalidInputError, TLS),
    ("database ", errors.NotFoundError, "Check the database's name."),
    ("starting up", errors.TransientError, ""),
    ("shutting down", errors.TransientError, ""),
    ("too many clients", errors.TransientError, ""),
    ("remaining connection slots", errors.TransientError, ""),
    ("FATAL", errors.TerminalError, ""),
    ("", errors.TransientError, "Are host and port right, and reachable from here?"),
)

NAME_BYTES = 63
"""PostgreSQL cuts a longer name without an error."""

FIRST_DAY = -2_440_588
"""PostgreSQL's first day (24 November 4714 BC), in days since 1970."""

UNCONSTRAINED = (38, 9)
"""Precision and scale of a `numeric` that declares none; a value that needs more is an error, never rounded."""


class Postgres(Warehouse):
    """A PostgreSQL database.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.postgres import Postgres

        warehouse = Postgres.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL Postgres"
    _block_type_slug: ClassVar[str] = "etl-postgres"
    _logo_url: ClassVar[Any] = "https://www.postgresql.org/media/img/about/press/elephant.png"
    _documentation_url: ClassVar[Any] = "https://www.postgresql.org/docs/current/libpq-connect.html"

    host: str = Field(default="localhost", description="The server's name or address.")
    port: int = Field(default=5432, ge=1, le=65535, description="The server's port.")
    database: str = Field(default="postgres", description="The database.")
    username: str | None = Field(
        default=None, description="The role to log in as; empty means PGUSER, else the user of this process."
    )
    password: SecretStr | None = Field(
        default=None, description="Its password; empty means PGPASSWORD, else the password file, else none."
    )
    schema_: str = Field(
        default="public", alias="schema", description="The schema of tables that are named without one."
    )
    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="How much TLS is asked for; verify-full is the safe choice over a network."
    )
    ssl_root_cert: str | None = Field(
        default=None,
        description="File with the authorities' certificates, for verify-ca and verify-full.",
    )
    connect_timeout_s: int = Field(default=10, ge=1, description="Seconds to wait for a connection.")
    commit_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds to wait for the answer to COMMIT before the ledger is asked on another connection.",
    )

    def uri(self, table: str = "") -> str:
        """`postgres://host:port/database/schema.table`."""
        name = table if not table or "." in table or " " in table else f"{self.schema_}.{table}"
        return f"postgres://{self.host}:{self.port}/{self.database}" + (f"/{name}" if name else "")

    @property
    def dialect(self) -> Dialect:
        """The SQL of PostgreSQL."""
        return PostgresDialect()

    @operation
    def check(self) -> str:
        """One sentence that says that the server is reached, the login works and tables may be made in the schema."""
        with self._session() as session:
            user, version, usage, create = session.fetch(
                "SELECT current_user, current_setting('server_version'), "
                "has_schema_privilege(:name, 'USAGE'), has_schema_privilege(:name, 'CREATE')",
                {"name": self.schema_},
            )[0]
        if not usage:
            raise errors.AccessDeniedError(
                f"{user} may not use schema {self.schema_} in {self.uri()}. Grant it: GRANT USAGE, CREATE ON SCHEMA."
            )
        rights = "reads and writes" if create else "reads, and may not create tables,"
        return f"{self.uri()} answers (PostgreSQL {version}); {user} {rights} in schema {self.schema_}."

    def get_client(self) -> Any:
        """The block's SQLAlchemy engine, made at the first call, for everything that this block has no method for."""
        sqlalchemy = require("sqlalchemy", extra="postgres")
        return self._cached(
            "engine",
            lambda: sqlalchemy.create_engine("postgresql+psycopg://", creator=self.connect_psycopg, pool_pre_ping=True),
        )

    def get_engine(self) -> Any:
        """The engine of `get_client`."""
        return self.get_client()

    def engine_error(self, error: BaseException) -> ConnectorError:
        """The error of this package for one of psycopg's."""
        return error if isinstance(error, ConnectorError) else translate(error, "run a query", self.uri())

    def close(self) -> None:
        """Nothing. Disposes the SQLAlchemy engine; the next call makes it again."""
        with self._lock:
            if engine := self._live.pop("engine", None):
                engine.dispose()
        super().close()

    def dbt_output(self) -> dict[str, Any]:
        """This database as the output of a dbt profile; what is empty is found as libpq finds it.

        https://docs.getdbt.com/docs/core/connect-data-platform/postgres-setup
        """
        output = {
            "type": "postgres",
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "schema": self.schema_,
            "user": self.username or os.environ.get("PGUSER") or getpass.getuser(),
            "password": self.password or "",  # dbt asks for one; an empty one is none
            "sslmode": self.ssl_mode,
            "sslrootcert": self.ssl_root_cert,
            "connect_timeout": self.connect_timeout_s,
            "keepalives_idle": 30,
            "application_name": "etl-blocks dbt",
        }
        return {name: value for name, value in output.items() if value is not None}

    def _connect(self) -> Session:
        return PostgresSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return PostgresBulkSession(self, load_id)

    def _settings(self, label: str = "") -> dict[str, str]:
        password = self.password.get_secret_value() if self.password else None
        settings = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.username,
            "password": password,
            "sslmode": self.ssl_mode,
            "sslrootcert": self.ssl_root_cert,
            "connect_timeout": str(self.connect_timeout_s),
            "application_name": f"etl-blocks {label}".strip()[:63],
            # a client or a server that vanished is noticed within a minute, on both ends
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
            "-c idle_in_transaction_session_timeout=600000 "
            f"-c timezone=UTC -c search_path={_option(self.schema_)}",
        }
        return {name: value for name, value in settings.items() if value}

    def connect_psycopg(self) -> Any:
        """A new psycopg connection; the caller closes it."""
        psycopg = require("psycopg", extra="postgres")
        try:
            return psycopg.connect(**self._settings())
        except psycopg.Error as error:
            raise translate(error, "connect to", self.uri()) from None

    def connect_adbc(self, label: str = "") -> Any:
        """A new ADBC connection that commits each statement; the caller closes it."""
        adbc = require("adbc_driver_postgresql.dbapi", extra="postgres")
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self._settings(label).items())
        try:
            return adbc.connect(f"postgresql://?{query}", autocommit=True)
        except adbc.Error as error:
            raise translate(error, "connect to", self.uri()) from None


class PostgresDialect(Dialect):
    """Names are quoted, so they are kept exactly as written: `Orders` is not `orders`."""

    indexes_keys: ClassVar[bool] = True

    def name(self, name: str) -> str:
        """A quoted identifier.

        Raises:
            InvalidInputError: PostgreSQL would cut it.
        """
        if len(name.encode()) > NAME_BYTES:
            raise errors.InvalidInputError(f"The name {name!r} is longer than PostgreSQL's {NAME_BYTES} bytes.")
        return super().name(name)

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "boolean",
            pa.int16(): "smallint",
            pa.int32(): "integer",
            pa.int64(): "bigint",
            pa.float32(): "real",
            pa.float64(): "double precision",
            pa.string(): "text",
            pa.binary(): "bytea",
            pa.date32(): "date",
            pa.timestamp("us"): "timestamp",
            pa.timestamp("us", "UTC"): "timestamptz",
            pa.time64("us"): "time",
            pa.month_day_nano_interval(): "interval",
            pa.json_(): "jsonb",
            pa.uuid(): "uuid",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A new column for an Arrow type."""
        stored = self._stored(kind)
        return Column(name, self._sql_type(stored), stored)

    def truncate(self, table: str) -> str:
        """The statement that empties the table."""
        return f"TRUNCATE {self.table(table)}"

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal(kind):
            return f"numeric({kind.precision},{kind.scale})"
        if pa.types.is_list(kind) and not pa.types.is_list(kind.value_type):  # its arrays are rectangles
            return f"{self._sql_type(kind.value_type)}[]"
        raise TypeLossError(f"PostgreSQL has no type that holds every {kind}. Cast it, to text or JSON for example.")

    def _stored(self, kind: pa.DataType) -> pa.DataType:  # noqa: C901, PLR0911 (one rule a line)
        kind, types = plain_type(kind), pa.types
        if types.is_null(kind):
            return pa.string()
        if types.is_int8(kind) or types.is_uint8(kind):
            return pa.int16()
        if types.is_uint16(kind):
            return pa.int32()
        if types.is_uint32(kind):
            return pa.int64()
        if types.is_uint64(kind):
            return pa.decimal128(20, 0)
        if types.is_float16(kind):
            return pa.float32()
        if types.is_timestamp(kind) and kind.unit != "ns":
            return pa.timestamp("us", kind.tz)
        if types.is_time(kind) and kind.unit != "ns":
            return pa.time64("us")
        if types.is_duration(kind) and kind.unit != "ns":
            return pa.month_day_nano_interval()
        if types.is_list(kind):
            return pa.list_(self._stored(kind.value_type))
        return kind


class PostgresSession(Session):
    """A psycopg connection: any statement, rows as Python values."""

    def __init__(self, block: Postgres) -> None:
        self._block = block
        self._connection = block.connect_psycopg()
        self._connection.autocommit = True
        self._in_transaction = False

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows the statement changed."""
        with self._translated("run a statement", sent=True):
            return int(self._run(sql, parameters).rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """The rows of a query, or of a statement that returns some."""
        with self._translated("run a query", sent=not _only_reads(sql)):
            cursor = self._run(sql, parameters)
            if cursor.description is None:
                return []
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def begin(self) -> None:
        """Start a transaction."""
        with self._translated("start a transaction"):
            self._connection.execute("BEGIN")
        self._in_transaction = True

    def commit(self) -> None:
        """Commit it."""
        self._in_transaction = False
        with self._translated("commit", sent=True):
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo it."""
        self._in_transaction = False
        with contextlib.suppress(ConnectorError), self._translated("roll back"):
            self._connection.rollback()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        if not parameters:
            return self._connection.execute(sql)
        bound = bind(sql.replace("%", "%%"), parameters, lambda name: f"%({name})s")
        return self._connection.execute(bound, dict(parameters))

    @contextlib.contextmanager
    def _translated(self, action: str, *, sent: bool = False) -> Iterator[None]:
        psycopg = require("psycopg", extra="postgres")
        try:
            yield
        except psycopg.Error as error:
            lost = self._connection.broken or self._connection.closed
            ambiguous = sent and lost and not self._in_transaction
            raise translate(error, action, self._block.uri(), ambiguous=ambiguous) from None


class PostgresBulkSession(BulkSession):
    """An ADBC connection: Arrow in and out by binary COPY."""

    ingests_in_transaction: ClassVar[bool] = True

    def __init__(self, block: Postgres, load_id: str | None) -> None:
        self._block = block
        self._connection = block.connect_adbc(_label(load_id))
        self._in_transaction = False

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows the statement changed."""
        with self._cursor("run a statement") as cursor:
            cursor.execute(*_numbered(sql, parameters))
            return int(cursor.rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """The rows of a query."""
        with self._cursor("run a query") as cursor:
            cursor.execute(*_numbered(sql, parameters))
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The result of a query, streamed by COPY."""
        sql, values = _numbered(sql, parameters)
        with self._cursor("describe a query") as cursor:
            described = cursor.adbc_execute_schema(sql, values)
        exact = [_exact(field) if _is_numeric(field.type) else None for field in described]
        casts = [_readable(field) or _as_text(field) for field in described]
        if any(casts):
            names = [f"c{number}" for number in range(len(casts))]  # those of the query may come twice
            columns = ", ".join(
                f"q.{name}" + (f"::{cast}" if cast else "") + f" AS {_quoted(field.name)}"
                for name, cast, field in zip(names, casts, described, strict=True)
            )
            sql = f"SELECT {columns} FROM ({sql}) AS q ({', '.join(names)})"
            with self._cursor("describe a query") as cursor:
                described = cursor.adbc_execute_schema(sql, values)
        schema = pa.schema([(field.name, kind or _exact(field)) for field, kind in zip(described, exact, strict=True)])

        def batches() -> Iterator[pa.RecordBatch]:
            rows = self._copied(sql) if values is None else self._fetched(sql, values)
            # The driver decodes the next batches while numeric becomes decimal here.
            with contextlib.closing(read_ahead(rows, size=lambda batch: batch.nbytes, limit=AHEAD_BYTES)) as ahead:
                for batch in ahead:
                    yield _exact_batch(batch, schema)

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
        where: dict[str, Any] = {"temporary": True} if stage else {"db_schema_name": schema_name or self._block.schema_}
        try:
            with self._cursor(f"copy into {table}") as cursor:
                return int(cursor.adbc_ingest(name, feed.reader(), mode="append", **where))
        except ConnectorError:
            if feed.error is not None:
                raise feed.error from None
            raise

    def columns(self, table: str) -> list[Column] | None:
        """The columns of a table that can be written."""
        dialect = self._block.dialect
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
                arrow_type=pa.string() if _readable(field) else _exact(field),
                nullable=nullable,
                has_default=has_default,
                stage_type="text" if _readable(field) else sql_type if swallows else None,
                any_decimal=sql_type == "numeric",
            )
            for (name, sql_type, nullable, has_default, generated, swallows), field in zip(rows, described, strict=True)
            if not generated
        ]

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:
        """Insert the ledger row; another try that holds it is waited for, and ended if its client is gone."""
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
        if not self._has_unique_index(dialect.table(table), key):
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
        """End the server's side of tries of this load whose client has said nothing for `silent_s` seconds."""
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
        raise TransientError(f"An earlier try of load {load_id} still runs in {self._block.uri()}.")

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
        answered.wait(self._block.commit_timeout_s)
        self._in_transaction = False
        with giving_up:
            self._abandoned = not outcome
        if self._abandoned:
            raise AmbiguousError(
                f"Could not commit in {self._block.uri()}: no answer in {self._block.commit_timeout_s:g} s."
            )
        if isinstance(outcome[0], self._error):
            raise translate(outcome[0], "commit", self._block.uri(), ambiguous=True) from None
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

    def _has_unique_index(self, table: str, key: Sequence[str]) -> bool:
        rows = self.fetch(
            "SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i "
            "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
            "WHERE i.indrelid = to_regclass(:name) AND i.indisunique AND i.indisvalid AND i.indimmediate "
            "AND i.indpred IS NULL AND i.indexprs IS NULL "
            # a partitioned table does not tell the rows that ON CONFLICT updated from those that it inserted
            "AND NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = i.indrelid) "
            "GROUP BY i.indexrelid, i.indnkeyatts "
            "HAVING count(*) = i.indnkeyatts",
            {"name": table},
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
            raise translate(error, action, self._block.uri()) from None


# ADBC counts the rows that it sent. Where triggers or row security may hold some back, they go through the stage,
# because INSERT counts those that arrived.
SWALLOWS = """c.relrowsecurity OR c.relkind NOT IN ('r', 'p') OR EXISTS (
    SELECT FROM pg_trigger WHERE (tgrelid = c.oid OR tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid)))
    AND (tgtype & 4) <> 0 AND (tgtype & 66) <> 0 AND NOT tgisinternal)"""  # on INSERT; BEFORE or INSTEAD OF

CLAIM_TIMEOUT_S = 60
FETCH_ROWS = 20_000
BATCH_BYTES = str(4 * 2**20)
END_POLLS, END_POLL_S = 200, 0.05


def _label(load_id: str | None) -> str:
    """A short name of a load for `pg_stat_activity`, whatever its load_id looks like."""
    return hashlib.sha256(load_id.encode()).hexdigest()[:32] if load_id else ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _numbered(sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, tuple[Any, ...] | None]:
    """The statement with `$1`, `$2` ... for its named parameters, and their values in that order."""
    if not parameters:
        return sql, None
    order: list[str] = []

    def placeholder(name: str) -> str:
        if name not in order:
            order.append(name)
        return f"${order.index(name) + 1}"

    bound = bind(sql, parameters, placeholder)
    return bound, tuple(parameters[name] for name in order)


def _only_reads(sql: str) -> bool:
    """Whether it is safe to run a statement again when its answer was lost.

    >>> _only_reads("select 1"), _only_reads("with d as (delete from t returning *) select * from d")
    (True, False)
    """
    words = re.findall(r"[a-z_]+", sql.lower())
    writes = {"insert", "update", "delete", "merge"}
    return bool(words) and words[0] in ("select", "with", "values", "table", "show") and writes.isdisjoint(words)


def _readable(field: pa.Field) -> str | None:
    """The type to which a column is cast where ADBC cannot read its own exactly; None where it can."""
    name = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if name in ("money", "oid"):
        return {"money": "numeric", "oid": "bigint"}[name]
    inner = field.type.value_type if pa.types.is_list(field.type) else field.type
    if isinstance(inner, pa.OpaqueType) and inner.type_name != "numeric":
        return "text[]" if pa.types.is_list(field.type) else "text"
    return "text" if pa.types.is_struct(inner) else None


def _is_numeric(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return isinstance(inner, pa.OpaqueType) and inner.type_name == "numeric"


def _as_text(field: pa.Field) -> str | None:
    """What the server makes of a NUMERIC; it is faster at writing text than ADBC is (1.8 s against 2.6 s in all)."""
    return ("text[]" if pa.types.is_list(field.type) else "text") if _is_numeric(field.type) else None


def _exact(field: pa.Field) -> pa.DataType:
    """The Arrow type of a column that ADBC reads: NUMERIC, which it hands out as text, becomes a decimal."""
    if isinstance(field.type, pa.OpaqueType):
        modifier = int((field.metadata or {}).get(b"POSTGRESQL:typmod", b"-1")) - 4
        precision, scale = UNCONSTRAINED
        if modifier >= 0:
            precision, scale = modifier >> 16, (modifier & 0x7FF ^ 1024) - 1024
        return (pa.decimal128 if precision <= UNCONSTRAINED[0] else pa.decimal256)(precision, scale)
    if pa.types.is_list(field.type):
        return pa.list_(_exact(field.type.value_field))
    return field.type


def _batches(cursor: Any) -> Iterator[pa.RecordBatch]:
    """The result in batches; errors of the reader that `fetch_record_batch` hands out would lack their SQLSTATE.

    https://github.com/apache/arrow-adbc/issues/1523
    """
    return iter(cursor._results.reader)  # noqa: SLF001


def _exact_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [_exact_array(array, field) for array, field in zip(batch.columns, schema, strict=True)], schema=schema
    )


def _exact_array(array: pa.Array, field: pa.Field) -> pa.Array:
    if pa.types.is_list(array.type):
        values = _exact_array(array.values, field.with_type(field.type.value_type))
        return pa.ListArray.from_arrays(array.offsets, values, type=field.type, mask=array.is_null())
    if not pa.types.is_decimal(field.type):
        if pa.types.is_timestamp(array.type) or pa.types.is_date32(array.type):
            _check_first_day(array, field.name)
        return array.cast(field.type)
    try:
        return (array.storage if isinstance(array.type, pa.OpaqueType) else array).cast(field.type)
    except pa.ArrowException:  # its words hold the value
        raise errors.SchemaError(
            f"Column {field.name!r} is a numeric with a value that is not a {field.type} (NaN, or more digits). "
            "Cast it in the query, to numeric(precision, scale) or to text."
        ) from None


def _check_first_day(array: pa.Array, name: str) -> None:
    """Nothing, or an error: ADBC adds the days from 1970 to 2000 to infinity, and the sum turns over."""
    ticks = pc.min(array.cast(pa.int32() if pa.types.is_date32(array.type) else pa.int64())).as_py()
    first = FIRST_DAY if pa.types.is_date32(array.type) else FIRST_DAY * 86_400_000_000
    if ticks is not None and ticks < first:
        raise errors.SchemaError(
            f"Column {name!r} holds infinity, or a time that is too late for a {array.type}. Cast it in the query, "
            "to text or by nullif(...)."
        )


def translate(error: BaseException, action: str, uri: str, *, ambiguous: bool = False) -> ConnectorError:
    """The error of this package for one of libpq's, as psycopg or ADBC hand it out."""
    code: str | None = getattr(error, "sqlstate", None)
    if ambiguous and action == "commit" and (code or "").startswith("57"):
        code = None  # the server was stopped, before or after it committed
    if code is not None:
        kind = lookup(ERRORS, code) or errors.TerminalError
        words = f"{_words(error, code)} (SQLSTATE {code}). {_hint(code)}".rstrip()
        return kind(f"Could not {action} {_place(action, uri)}: {words}")
    text = str(error)
    line = _first_line(text)
    if action == "connect to":
        kind, hint = next((kind, hint) for words, kind, hint in CONNECT_ERRORS if words in text)
        return kind(f"Could not {action} {uri}: {line}. {hint}".rstrip())
    if driver_kind := DRIVER_ERRORS.get(type(error).__name__):
        return driver_kind(f"Could not {action} {_place(action, uri)}: {line}.")
    if ambiguous:
        return AmbiguousError(f"Could not {action} {_place(action, uri)}: the connection was lost after it was sent.")
    return TransientError(f"Could not {action} {_place(action, uri)}: {line}.")


def _place(action: str, uri: str) -> str:
    return uri if action == "connect to" else f"in {uri}"


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "no reason given")
    return " ".join(line.rsplit("failed: ", 1)[-1].split()).rstrip(".")


def _words(error: BaseException, code: str) -> str:
    """The server's words, without row values: for data and constraint errors the name of the condition instead."""
    details = {name.decode() if isinstance(name, bytes) else name: value for name, value in _details(error)}
    if code.startswith(("22", "23")):
        names = require("psycopg.errors", extra="postgres")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", names.lookup(code).__name__).lower()
        for label, detail in (("constraint", "CONSTRAINT_NAME"), ("column", "COLUMN_NAME"), ("table", "TABLE_NAME")):
            if value := details.get(f"PG_DIAG_{detail}"):
                words += f", {label} {value.decode() if isinstance(value, bytes) else value}"
        return words
    primary = details.get("PG_DIAG_MESSAGE_PRIMARY", b"")
    return primary.decode() if isinstance(primary, bytes) else str(primary)


def _details(error: BaseException) -> list[tuple[Any, Any]]:
    if (diag := getattr(error, "diag", None)) is not None:  # psycopg
        names = ("message_primary", "constraint_name", "column_name", "table_name")
        return [(f"PG_DIAG_{name.upper()}", getattr(diag, name)) for name in names]
    return list(getattr(error, "details", None) or ())


def _hint(code: str) -> str:
    return {
        "28": LOGIN,
        "3D": "Check the database's name.",
        "3F": "Check the schema's name, or create it.",
        "42501": "Grant the role what it needs, or use another one.",
    }.get(code if code == "42501" else code[:2], "")


def _option(value: str) -> str:
    """A value within libpq's `options`, where a blank and a backslash are escaped."""
    return _quoted(value).replace("\\", "\\\\").replace(" ", "\\ ")
