"""Snowflake: statements and reads by its own driver, loads by Parquet files on a temporary stage and COPY INTO.

Errors: `blocks.snowflake_credentials.SNOWFLAKE_ERRORS`, by number, SQLSTATE and class of the driver.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import itertools
import json
import re
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from prefect.context import FlowRunContext
from pydantic import Field, PrivateAttr

from blocks import errors
from blocks.arrow_types import cast_array, plain_type
from blocks.errors import (
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    TransientError,
    TypeLossError,
    UnsupportedError,
)
from blocks.ledger import Ledger, find_report
from blocks.load import LoadPlan, LoadReport
from blocks.operation import operation
from blocks.optional import lazy, require
from blocks.session import BulkSession, Session
from blocks.snowflake_credentials import SnowflakeCredentials, snowflake_error
from blocks.sql import Column, Dialect, bind
from blocks.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from typing import Self

    import pyarrow as pa
    import pyarrow.parquet as pq

    from blocks.object_store import ObjectStore
else:
    pa = lazy("pyarrow")
    pq = lazy("pyarrow.parquet")

SIMPLE = re.compile(r"[a-z_][a-z0-9_$]*")
SEMI_STRUCTURED = ("VARIANT", "OBJECT", "ARRAY", "MAP")
INTEGER_DIGITS = 19
"""Digits of the largest int64; a NUMBER of more is a decimal."""
DECIMAL_DIGITS = 38
PAUSE_S = 30
"""After a longer pause within a transaction it counts as lost: Snowflake may have aborted it, and what came next would
commit by itself. With `network_timeout_s` it stays below the 5 minutes after which that happens."""
UPLOADS = 4
"""Files of one load that are sent at the same time."""
TAG_CHARACTERS = 2_000

FILE_FORMATS = {
    "parquet": "TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE",
    "csv": "TYPE = CSV PARSE_HEADER = TRUE FIELD_OPTIONALLY_ENCLOSED_BY = '\"'",
    "json": "TYPE = JSON",
}

READS = re.compile(r"\s*(select|with|show|desc|describe|values|explain|list)\b", re.IGNORECASE)

LITERALS = r"""
    '(?:[^'\\]|\\.|'')*' | "(?:[^"]|"")*"     # strings and quoted names
    | --[^\n]* | //[^\n]* | /\*.*?\*/            # comments
    | (\$\$).*?\1                               # dollar-quoted strings
"""


class Snowflake(Warehouse):
    """A schema of a Snowflake database.

    A name in lower case is Snowflake's unquoted one (`orders` is ORDERS there), in both directions; every other name is
    kept exactly as written. It is the rule of snowflake-sqlalchemy and dbt.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.snowflake import Snowflake

        warehouse = Snowflake.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL Snowflake"
    _block_type_slug: ClassVar[str] = "etl-snowflake"
    _logo_url: ClassVar[Any] = (
        "https://cdn.sanity.io/images/3ugk85nk/production/bd359de0b4be76c2254bd329fe3a267a1a3879c2-250x250.png"
    )
    _documentation_url: ClassVar[Any] = (
        "https://docs.snowflake.com/en/developer-guide/python-connector/python-connector"
    )

    credentials: SnowflakeCredentials = Field(description="Who logs in, and to which account.")
    database: str = Field(description="The database.")
    schema_: str = Field(
        default="public", alias="schema", description="The schema of tables that are named without one."
    )
    warehouse: str | None = Field(
        default=None, description="The virtual warehouse that computes; empty means the user's default."
    )
    role: str | None = Field(default=None, description="The role to work in; before the role of the credentials.")
    session_parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of each session, such as STATEMENT_TIMEOUT_IN_SECONDS; before this block's own.",
    )
    login_timeout_s: int = Field(default=60, ge=1, description="Seconds to wait for a login.")
    network_timeout_s: int = Field(
        default=240,
        ge=1,
        description="Seconds in which the driver repeats a request that gets no answer, then gives up. Less than the 5 "
        "minutes after which Snowflake may abort a transaction that it hears nothing of.",
    )
    socket_timeout_s: int = Field(
        default=90, ge=1, description="Seconds to wait for data of one answer; the service says something every 45."
    )
    lock_timeout_s: int = Field(
        default=900,
        ge=1,
        description="Seconds to wait for another load that is being applied in this schema. Snowflake itself ends one "
        "whose client has vanished, after 5 minutes.",
    )
    part_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Size of the Parquet files in which rows are sent; four go at a time."
    )

    _clock: Any = PrivateAttr(default=time.time)

    def uri(self, table: str = "") -> str:
        """`snowflake://account/database/schema.table`."""
        name = table if not table or "." in table or " " in table else f"{self.schema_}.{table}"
        return f"{self.credentials.place}/{self.database}" + (f"/{name}" if name else "")

    @property
    def dialect(self) -> Dialect:
        """The SQL of Snowflake."""
        return SnowflakeDialect()

    @operation
    def check(self) -> str:
        """One sentence that says that the account is reached, the login works and the schema can be used."""
        with self._session() as session:
            user, role, warehouse = session.fetch("SELECT current_user(), current_role(), current_warehouse()")[0]
            known = session.fetch(
                "SELECT count(*) FROM information_schema.schemata WHERE schema_name = :name",
                {"name": stored_name(self.schema_)},
            )[0][0]
        if not known:
            raise errors.NotFoundError(
                f"There is no schema {self.schema_} in {self.uri()} that role {role} may use. Create it or grant USAGE."
            )
        return f"{self.uri()} answers; {user} works in role {role}, schema {self.schema_} and warehouse {warehouse}."

    @operation
    def multiquery(
        self, queries: Sequence[str], parameters: Mapping[str, Any] | None = None, *, as_transaction: bool = True
    ) -> list[list[tuple[Any, ...]]]:
        """The rows of each statement in turn; all of them happen, or none does, unless `as_transaction` is false.

        A retry runs the transaction as a whole. A statement that shapes a table commits what came before it.

        Raises:
            AmbiguousError: The answer to COMMIT was lost; look before you run it again.
        """
        with self._session() as session, session.transaction() if as_transaction else contextlib.nullcontext():
            return [session.fetch(query, parameters) for query in queries]

    @operation
    def copy_from(
        self,
        bucket: ObjectStore,
        prefix: str,
        table: str,
        *,
        load_id: str,
        storage_integration: str,
        file_format: Literal["parquet", "csv", "json"] = "parquet",
    ) -> LoadReport:
        """What Snowflake copied straight from a folder of a bucket into a table that is there; no data passes here.

        Columns meet by name. Once for each `load_id`, as `load` does: the COPY runs in the transaction of the claim,
        and takes every file that is there then, also one that an earlier load took.

        Raises:
            NotFoundError: There is no such table, or no such storage integration.
            InvalidInputError: A file does not fit; nothing was copied.
        """
        statement = (
            f"COPY INTO {self.dialect.table(table)} FROM {_address(bucket, prefix)} "
            f"STORAGE_INTEGRATION = {self.dialect.name(storage_integration)} "
            f"FILE_FORMAT = ({FILE_FORMATS[file_format]}) "
            "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
        )

        def copy(session: BulkSession, load_id: str) -> LoadReport:
            return cast("SnowflakeSession", session).copy_once(statement, table, load_id)

        return self._once(load_id, copy)

    @operation
    def unload_to(
        self,
        bucket: ObjectStore,
        prefix: str,
        source: str,
        *,
        storage_integration: str,
        file_format: Literal["parquet", "csv"] = "parquet",
    ) -> list[str]:
        """The keys of the files that Snowflake wrote straight into a folder of a bucket; no data passes here.

        The folder holds the rows of `source` (a table, or a query) and nothing else afterwards: files of an earlier
        call are written over, or deleted with the identity of `bucket`. The same call twice leaves each row once.
        """
        query = source if re.search(r"\s", source.strip()) else f"SELECT * FROM {self.dialect.table(source)}"
        with contextlib.closing(SnowflakeSession(self)) as session:
            rows = session.rows(
                f"COPY INTO {_address(bucket, prefix)} FROM ({query}\n) "
                f"STORAGE_INTEGRATION = {self.dialect.name(storage_integration)} "
                f"FILE_FORMAT = (TYPE = {file_format.upper()}) HEADER = TRUE OVERWRITE = TRUE DETAILED_OUTPUT = TRUE"
            )
        written = {row["FILE_NAME"].rpartition("/")[2] for row in rows}
        keys = [item["Key"] for item in bucket.list_objects(prefix)]
        if stale := [key for key in keys if key.rpartition("/")[2] not in written]:
            bucket.delete_objects(stale)
        return sorted(set(keys) - set(stale))

    def get_client(self) -> Any:
        """A new `snowflake.connector` connection, for everything that this block has no method for. Close it."""
        return self.connect()

    def get_engine(self) -> Any:
        """A SQLAlchemy engine over connections of this block."""
        require("snowflake.sqlalchemy", extra="snowflake")
        sqlalchemy = require("sqlalchemy", extra="snowflake")
        make = functools.partial(self.connect, paramstyle="pyformat")  # in which snowflake-sqlalchemy writes
        return self._cached("engine", lambda: sqlalchemy.create_engine("snowflake://", creator=make))

    def engine_error(self, error: BaseException) -> ConnectorError:
        """The error of this package for one of the driver's."""
        if isinstance(error, ConnectorError):
            return error
        return snowflake_error("run a query", f"in {self.uri()}", error)

    def close(self) -> None:
        """Nothing. Disposes the SQLAlchemy engine; the next call makes it again."""
        with self._lock:
            if engine := self._live.pop("engine", None):
                engine.dispose()
        super().close()

    def get_connection(self, **options: Any) -> Any:
        """Prefect's name for `get_client`; `options` go to the driver's `connect`."""
        return self.connect(**options)

    def connect(self, load_id: str | None = None, **options: Any) -> Any:
        """A new connection whose query tag names the flow run and the load; the caller closes it."""
        run = FlowRunContext.get()
        tag = {
            "app": "etl-blocks",
            "flow_run": str(run.flow_run.id) if run and run.flow_run else None,
            "load_id": load_id and load_id[: TAG_CHARACTERS // 8],
        }
        parameters = {
            "QUERY_TAG": json.dumps({name: value for name, value in tag.items() if value}),
            "TIMEZONE": "UTC",
            "LOCK_TIMEOUT": self.lock_timeout_s,
            "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
        }
        arguments = {
            "database": _quoted(self.database),
            "schema": _quoted(self.schema_),
            "warehouse": self.warehouse,
            "role": self.role,
            "autocommit": True,
            "paramstyle": "qmark",
            "arrow_number_to_decimal": True,
            "client_session_keep_alive": load_id is not None or None,
            "application": "etl-blocks",
            "login_timeout": self.login_timeout_s,
            "network_timeout": self.network_timeout_s,
            "socket_timeout": self.socket_timeout_s,
            "session_parameters": parameters | self.session_parameters,
        }
        return self.credentials.get_client(**(arguments | options))

    def dbt_output(self) -> dict[str, Any]:
        """This schema as the output of a dbt profile.

        https://docs.getdbt.com/docs/core/connect-data-platform/snowflake-setup

        Raises:
            UnsupportedError: There are session_parameters, which a dbt profile has no place for.
        """
        if self.session_parameters:
            raise UnsupportedError(
                "A dbt profile has no session parameters. Set them for the user, or in the project's on-run-start hook."
            )
        output = self.credentials.dbt_output() | {
            "type": "snowflake",
            "database": self.database,
            "schema": self.schema_,
            "warehouse": self.warehouse,
            "role": self.role or self.credentials.role,
            "query_tag": json.dumps({"app": "etl-blocks dbt"}),
            "client_session_keep_alive": True,
            "connect_timeout": self.login_timeout_s,
        }
        return {name: value for name, value in output.items() if value is not None}

    def _connect(self) -> Session:
        return SnowflakeSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return SnowflakeSession(self, load_id)

    def lost_tries(self) -> dict[str, set[str]]:
        """By load, the names of the transactions of this process whose COMMIT was not answered."""
        return self._cached("lost", dict)


class SnowflakeDialect(Dialect):
    """Lower-case names are Snowflake's unquoted ones; every other name is kept as written."""

    literals: ClassVar[str] = LITERALS
    ddl_commits: ClassVar[bool] = True

    def name(self, name: str) -> str:
        """A quoted identifier.

        >>> SnowflakeDialect().names(["order", "Order", "a b"])
        '"ORDER", "Order", "a b"'
        """
        return _quoted(name)

    def known_as(self, stored: str) -> str:
        """How a name that Snowflake stores is written here.

        >>> SnowflakeDialect().known_as("ORDER_ID"), SnowflakeDialect().known_as("OrderId")
        ('order_id', 'OrderId')
        """
        return stored.lower() if SIMPLE.fullmatch(stored.lower()) and stored == stored.upper() else stored

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOLEAN",
            pa.int64(): f"NUMBER({INTEGER_DIGITS},0)",
            pa.float64(): "FLOAT",
            pa.string(): "VARCHAR",
            pa.binary(): "BINARY",
            pa.date32(): "DATE",
            pa.time64("us"): "TIME(6)",
            pa.timestamp("us"): "TIMESTAMP_NTZ(6)",
            pa.timestamp("us", "UTC"): "TIMESTAMP_TZ(6)",
            pa.json_(): "VARIANT",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A new column for an Arrow type."""
        if self.known_as(name) != name:
            raise errors.InvalidInputError(
                f"The name {name!r} would come back as {self.known_as(name)!r}: to Snowflake they are one. Use that."
            )
        stored = stored_type(kind)
        if sql_type := self._types.get(stored):
            return Column(name, sql_type, stored, stage_type="VARCHAR" if sql_type == "VARIANT" else None)
        if pa.types.is_decimal128(stored) and stored.scale >= 0:
            return Column(name, f"NUMBER({stored.precision},{stored.scale})", stored)
        raise TypeLossError(f"Snowflake has no type that holds every {kind}. Cast it, to text or JSON for example.")

    def staged(self, column: Column) -> str:
        """The value of a staged row; JSON arrives as text."""
        if column.sql_type == "VARIANT":
            return f"PARSE_JSON(s.{self.name(column.name)})"
        if column.sql_type.startswith(SEMI_STRUCTURED):
            return f"CAST(PARSE_JSON(s.{self.name(column.name)}) AS {column.sql_type})"
        return super().staged(column)

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """The statement that deletes the rows of every partition that the staged rows touch."""
        values = ", ".join(self.staged(column) for name in partition_by for column in columns if column.name == name)
        return (
            f"DELETE FROM {self.table(table)} WHERE ({self.names(partition_by)}) IN "
            f"(SELECT DISTINCT {values} FROM {self.name(stage)} AS s)"
        )

    def merge(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """The statement that updates the rows whose key is staged and inserts the others."""
        values = ", ".join(f"{self.staged(column)} AS {self.name(column.name)}" for column in columns)
        source = f"SELECT {values} FROM {self.name(stage)} AS s"
        names = [column.name for column in columns]
        same = " AND ".join(f"t.{self.name(name)} = s.{self.name(name)}" for name in key)
        rest = [name for name in names if name not in key] or names
        return (
            f"MERGE INTO {self.table(table)} AS t USING ({source}) AS s ON {same} "
            f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{self.name(n)} = s.{self.name(n)}' for n in rest)} "
            f"WHEN NOT MATCHED THEN INSERT ({self.names(names)}) VALUES ({self.names(names, 's.')})"
        )


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """The Arrow type in which Snowflake keeps values of `kind`: it has one integer and one float."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind) or isinstance(kind, pa.UuidType):
        return pa.string()
    if types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_decimal128(kind) and kind.scale == 0:
        return _number(kind.precision + (kind.precision == INTEGER_DIGITS), 0)
    if types.is_timestamp(kind) and kind.unit != "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind) and kind.unit != "ns":
        return pa.time64("us")
    return kind


def _number(precision: int, scale: int) -> pa.DataType:
    return pa.int64() if scale == 0 and precision <= INTEGER_DIGITS else pa.decimal128(precision, scale)


class SnowflakeSession(BulkSession):
    """One connection of the driver. What is temporary goes with it."""

    def __init__(self, block: Snowflake, load_id: str | None = None) -> None:
        self._block = block
        self._load_id = load_id
        self._name = f"etl_{uuid.uuid4().hex}"
        self._connection = block.connect(load_id)
        self._in_transaction = False
        self._last_s = 0.0

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows the statement changed."""
        with self._translated("run a statement", sql=sql), self._run(sql, parameters) as cursor:
            return -1 if cursor.rowcount is None else int(cursor.rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """The rows of a query."""
        with self._translated("run a query", sql=sql), self._run(sql, parameters) as cursor:
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The result of a query, in the batches in which the service hands it out."""
        with self._translated("run a query"):
            cursor = self._start(sql, parameters)
        known_as = self._block.dialect.known_as
        schema = pa.schema([(known_as(column.name), _result_type(column)) for column in cursor.description])

        def batches() -> Iterator[pa.RecordBatch]:
            with cursor, self._translated("read a result"):
                for table in cursor.fetch_arrow_batches():
                    for batch in table.to_batches():
                        yield _exact_batch(batch, schema)

        return schema, batches()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:  # noqa: ARG002
        """Append the batches to a table: Parquet files, sent while the next are written, and one COPY INTO."""
        dialect = self._block.dialect
        place = f"etl_files_{uuid.uuid4().hex}"
        self.execute(f"CREATE TEMPORARY STAGE {place}")
        kinds = [getattr(field.type, "storage_type", field.type) for field in schema]
        stored = pa.schema(list(zip(map(stored_name, schema.names), kinds, strict=True)))
        with tempfile.TemporaryDirectory(prefix="etl-snowflake-") as folder, Uploads(self, place) as uploads:
            for file in write_parts(Path(folder), stored, batches, self._block.part_bytes):
                uploads.add(*file)
        if not uploads.sent:
            return 0
        rows = self.rows(
            f"COPY INTO {dialect.table(table)} FROM @{place} "
            f"FILE_FORMAT = ({FILE_FORMATS['parquet']}) "
            "MATCH_BY_COLUMN_NAME = CASE_SENSITIVE ON_ERROR = ABORT_STATEMENT"
        )
        loaded = {row["file"].rpartition("/")[2]: int(row["rows_loaded"]) for row in rows if row["status"] == "LOADED"}
        if loaded != uploads.sent:
            wrong = sorted(name for name in uploads.sent if loaded.get(name) != uploads.sent[name])
            raise errors.TerminalError(
                f"{self._block.uri(table)}: of {len(uploads.sent)} files {len(wrong)} were not loaded as sent: "
                + ", ".join(f"{name} has {uploads.sent[name]} rows, {loaded.get(name, 0)} loaded" for name in wrong[:3])
            )
        return sum(loaded.values())

    def copy_once(self, statement: str, table: str, load_id: str) -> LoadReport:
        """What a COPY loaded, in one transaction with its row in the ledger, or what an earlier try had loaded."""
        ledger, started = Ledger(self._block.dialect), dt.datetime.now(dt.UTC)
        if (report := find_report(ledger, self, load_id)) is not None:
            return report.model_copy(update={"already_loaded": True})
        ledger.create(self)
        plan = LoadPlan(table=table, mode="append", creates_table=False, ddl=(), columns=())
        with self.transaction():
            ledger.claim(self, load_id, plan, started)
            rows = [row for row in self.rows(statement) if "rows_loaded" in row]
            if wrong := [row["file"] for row in rows if row["status"] != "LOADED"]:
                raise errors.TerminalError(
                    f"{self._block.uri(table)}: {len(wrong)} files were not loaded, {wrong[0]} first."
                )
            count = sum(int(row["rows_loaded"]) for row in rows)
            report = LoadReport(
                load_id=load_id,
                table=table,
                mode="append",
                rows=count,
                inserted=count,
                started_at=started,
                finished_at=dt.datetime.now(dt.UTC),
            )
            ledger.record(self, report)
        return report

    def put(self, path: Path, place: str) -> None:
        """Send a file to a stage; any thread may."""
        with self._translated("send a file to"), self._connection.cursor() as cursor:
            cursor.execute(
                f"PUT 'file://{path.as_posix()}' @{place} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE "
                "OVERWRITE = TRUE"
            )
            statuses = [row[6] for row in cursor.fetchall()]
        if statuses != ["UPLOADED"]:
            raise TransientError(f"Could not send {path.name} to {self._block.uri()}: {statuses}.")

    def columns(self, table: str) -> list[Column] | None:
        """The columns of a table that can be written."""
        try:
            rows = self.rows(f"DESCRIBE TABLE {self._block.dialect.table(table)}")
        except errors.NotFoundError:
            return None
        return [
            _described(self._block.dialect.known_as(row["name"]), row["type"], row["null?"] == "Y", row["default"])
            for row in rows
            if row["kind"] == "COLUMN"
        ]

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:  # noqa: ARG002
        """Insert the ledger row by a MERGE, whose lock on the ledger another load waits for.

        Snowflake does not enforce the ledger's key: the MERGE inserts nothing where another try has committed.
        """
        found = re.match(r"INSERT INTO (\S+) \((.*?)\)", sql)
        assert found  # noqa: S101 (the ledger's own statement)
        values = ", ".join(f":{name} AS {name}" for name in parameters)
        inserted = self.execute(
            f"MERGE INTO {found[1]} AS t USING (SELECT {values}) AS s ON t.load_id = s.load_id "
            f"WHEN NOT MATCHED THEN INSERT ({found[2]}) VALUES ({', '.join(f's.{name}' for name in parameters)})",
            parameters,
        )
        if not inserted:
            raise AlreadyExistsError(f"The ledger of {self._block.uri()} has the load.")

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table by one MERGE."""
        assert isinstance(dialect, SnowflakeDialect)  # noqa: S101 (this block's own)
        row = self.rows(dialect.merge(table, columns, key, self.stage))[0]
        return int(row["number of rows inserted"]), int(row["number of rows updated"])

    def end_other_tries(self, load_id: str) -> None:
        """Abort the transactions of this process whose COMMIT was not answered; other processes end themselves."""
        lost = self._block.lost_tries().get(load_id, set())
        for row in self.rows("SHOW TRANSACTIONS") if lost else ():
            if row["name"] in lost:
                self.fetch(f"SELECT SYSTEM$ABORT_TRANSACTION({int(row['id'])})")
        if lost and any(row["name"] in lost for row in self.rows("SHOW TRANSACTIONS")):
            raise TransientError(f"An earlier try of load {load_id} still runs in {self._block.uri()}.")

    def begin(self) -> None:
        """Start a transaction, under a name that no other has."""
        self.execute(f"BEGIN TRANSACTION NAME {self._name}")
        self._in_transaction = True

    def commit(self) -> None:
        """Commit it."""
        self._check_pause()
        self._in_transaction = False
        try:
            with self._translated("commit"), self._run("COMMIT", None):
                pass
        except TransientError as error:
            if self._load_id:
                self._block.lost_tries().setdefault(self._load_id, set()).add(self._name)
            raise AmbiguousError(f"{error} Its answer was lost.") from None

    def rollback(self) -> None:
        """Undo it."""
        if self._in_transaction:
            self._in_transaction = False  # which also lets ROLLBACK through after a pause
            with contextlib.suppress(ConnectorError), self._translated("roll back"), self._run("ROLLBACK", None):
                pass

    def close(self) -> None:
        """End the session, and with it what is temporary; Snowflake ends one that it hears nothing of."""
        with contextlib.suppress(self._error):
            self._connection.close(retry=False)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a statement by the names of their columns."""
        with self._translated("run a statement"), self._run(sql, None) as cursor:
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> contextlib.closing[Any]:
        return contextlib.closing(self._start(sql, parameters))

    def _start(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        values: list[Any] = []

        def placeholder(name: str) -> str:
            values.append(_bound((parameters or {})[name]))
            return "?"

        text = bind(sql, parameters, placeholder, literals=LITERALS) if parameters else sql
        self._check_pause()
        cursor = self._connection.cursor().execute(text, values or None)
        self._last_s = self._block._clock()  # noqa: SLF001 (its own block)
        return cursor

    def _check_pause(self) -> None:
        pause = self._block._clock() - self._last_s  # noqa: SLF001
        if self._in_transaction and pause > PAUSE_S:
            self.rollback()
            raise TransientError(f"The transaction in {self._block.uri()} paused for {pause:.0f} s; it is made again.")

    @property
    def _error(self) -> type[Exception]:
        error: type[Exception] = require("snowflake.connector", extra="snowflake").Error
        return error

    @contextlib.contextmanager
    def _translated(self, action: str, *, sql: str = "") -> Iterator[None]:
        try:
            yield
        except self._error as error:
            place = self._block.uri() if action.endswith(" to") else f"in {self._block.uri()}"
            known = snowflake_error(action, place, error)
            alone = sql and not READS.match(sql) and not self._in_transaction and self._load_id is None
            if alone and isinstance(known, TransientError) and _is_lost(error):
                known = AmbiguousError(f"{known} It may have run: look before you run it again.")
            raise known from None


class Uploads:
    """Files on their way to a stage, a few at a time; each is deleted once it is there.

    Attributes:
        sent: By name, how many rows are in each file that arrived.
    """

    def __init__(self, session: SnowflakeSession, place: str) -> None:
        self.sent: dict[str, int] = {}
        self._session = session
        self._place = place
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="etl-put")
        self._room = threading.Semaphore(UPLOADS)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._check(self._running)

    def add(self, path: Path, rows: int) -> None:
        """Send a file once there is room, and say which failed before."""
        self._room.acquire()
        self._check([future for future in self._running if future.done()])
        self._running.append(self._pool.submit(self._send, path, rows))

    def _send(self, path: Path, rows: int) -> None:
        try:
            self._session.put(path, self._place)
            self.sent[path.name] = rows
            path.unlink()
        finally:
            self._room.release()

    @staticmethod
    def _check(futures: Sequence[Future[None]]) -> None:
        for future in futures:
            future.result()


def write_parts(
    folder: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], part_bytes: int
) -> Iterator[tuple[Path, int]]:
    """Parquet files of about `part_bytes` and how many rows each has; columns are those of `schema` in order."""
    full = (batch for batch in batches if batch.num_rows)
    batch = next(full, None)
    for number in itertools.count():
        if batch is None:
            return
        path, rows = folder / f"part-{number:06d}.parquet", 0
        with (
            path.open("wb") as file,
            pq.ParquetWriter(file, schema, compression="snappy", store_schema=False) as writer,
        ):
            while batch is not None and file.tell() < part_bytes:
                writer.write_batch(pa.RecordBatch.from_arrays([_storage(column) for column in batch], schema=schema))
                rows += batch.num_rows
                batch = next(full, None)
        yield path, rows


def stored_name(name: str) -> str:
    """A name as Snowflake stores it.

    >>> stored_name("orders"), stored_name("Orders"), stored_name("größe")
    ('ORDERS', 'Orders', 'größe')
    """
    return name.upper() if SIMPLE.fullmatch(name) else name


def _quoted(name: str) -> str:
    return '"' + stored_name(name).replace('"', '""') + '"'


def _address(bucket: ObjectStore, prefix: str) -> str:
    """A folder of a bucket as the literal that COPY takes."""
    return _text(bucket.uri(prefix).replace("gs://", "gcs://", 1).rstrip("/") + "/")


def _text(value: str) -> str:
    """A text as a literal, for statements that take no parameters."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _bound(value: Any) -> Any:
    """A value as the driver binds it: a time with a zone keeps it."""
    if isinstance(value, dt.datetime):
        return ("TIMESTAMP_TZ" if value.tzinfo else "TIMESTAMP_NTZ", value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _is_lost(error: BaseException) -> bool:
    """Whether an error is the driver's own, so that the service may have done what it was asked to."""
    number = getattr(error, "errno", None)
    return number is None or number < 0 or f"{number:06d}".startswith(("25", "29", "58"))


def _result_type(column: Any) -> pa.DataType:
    """The Arrow type of a column of a result, by its declared type."""
    constants = require("snowflake.connector.constants", extra="snowflake")
    return _arrow_type(constants.FIELD_ID_TO_NAME[column.type_code], column.precision, column.scale, column.name)


def _arrow_type(name: str, precision: int | None, scale: int | None, column: str) -> pa.DataType:
    kinds: dict[str, Callable[[], pa.DataType]] = {
        "FIXED": lambda: _number(DECIMAL_DIGITS if precision is None else precision, scale or 0),
        "REAL": pa.float64,
        "TEXT": pa.string,
        "DATE": pa.date32,
        "TIME": lambda: pa.time64("us"),
        "TIMESTAMP": lambda: pa.timestamp("us"),
        "TIMESTAMP_NTZ": lambda: pa.timestamp("us"),
        "TIMESTAMP_LTZ": lambda: pa.timestamp("us", "UTC"),
        "TIMESTAMP_TZ": lambda: pa.timestamp("us", "UTC"),
        "BOOLEAN": pa.bool_,
        "BINARY": pa.binary,
        "GEOGRAPHY": pa.string,
        "GEOMETRY": pa.string,
        **dict.fromkeys(SEMI_STRUCTURED, pa.json_),
    }
    if name not in kinds:
        raise errors.UnsupportedError(f"Column {column!r} is a {name}, which is not read. Cast it in the query.")
    return kinds[name]()


KINDS = {"NUMBER": "FIXED", "FLOAT": "REAL", "VARCHAR": "TEXT"}
"""What DESCRIBE TABLE calls otherwise than a result does."""


def _described(name: str, sql_type: str, nullable: bool, default: str | None) -> Column:
    """A column of a table, by what DESCRIBE TABLE says of it."""
    found = re.match(r"(\w+)(?:\((\d+)(?:, ?(\d+))?\))?", sql_type)
    assert found  # noqa: S101 (a type has a name)
    kind = KINDS.get(found[1], found[1])
    precision, scale = (int(part) if part else None for part in found.groups()[1:])
    by_text = kind in (*SEMI_STRUCTURED, "GEOGRAPHY", "GEOMETRY")
    return Column(
        name=name,
        sql_type=sql_type,
        arrow_type=_arrow_type(kind, precision, scale, name),
        nullable=nullable,
        has_default=default is not None,
        stage_type="VARCHAR" if by_text else None,
    )


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _exact_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of the driver in the declared types; what would lose something is an error."""
    columns = []
    for column, field in zip(batch.columns, schema, strict=True):
        try:
            columns.append(cast_array(column, field.type))
        except pa.ArrowException:  # its words hold the value
            raise errors.SchemaError(
                f"Column {field.name!r} holds a value that is no {field.type} (more digits, or nanoseconds). Cast it "
                "in the query, to NUMBER(38,0), TIMESTAMP_NTZ(6) or text for example."
            ) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)
