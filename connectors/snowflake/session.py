"""One connection of the driver: statements, reads, loads, transactions, and what their failures mean.

Errors: `blocks.credentials.snowflake.SNOWFLAKE_ERRORS`, by number, SQLSTATE and class of the driver.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from blocks.arrow.casts import cast_array
from blocks.base import errors
from blocks.base.errors import AlreadyExistsError, AmbiguousError, ConnectorError, TransientError
from blocks.base.interruption import Calls, NoAnswerError
from blocks.base.optional import lazy, require
from blocks.base.temporary import TemporaryFolder
from blocks.credentials.snowflake import snowflake_error, transport_errors
from blocks.warehouses.session import BulkSession
from blocks.warehouses.sql import Column, Dialect, bind, strip_literals
from connectors.snowflake.dialect import LITERALS, SnowflakeDialect, arrow_type, described, stored_name
from connectors.snowflake.files import FILE_FORMATS, Uploads, write_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

PAUSE_S = 30
"""After a longer pause within a transaction it counts as lost: Snowflake may have aborted it, and what came next would
commit by itself. With `network_timeout_s` it stays below the 5 minutes after which that happens."""

READS = re.compile(
    r"[\s(]*(select|with|show|desc|describe|values|explain|list)\b(?!.*system\$)", re.IGNORECASE | re.DOTALL
)
"""What cannot write in Snowflake's grammar: neither its queries nor the functions in them do, but for the system's."""


class Account(Protocol):
    """What a session needs of the block of its schema."""

    part_bytes: int

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def connect(self, load_id: str | None = None) -> Any:
        """Open a connection of the driver; the caller closes it."""

    @property
    def lost_commits(self) -> dict[str, set[str]]:
        """By load, the names of the transactions of this process whose COMMIT was not answered."""


class SnowflakeSession(BulkSession):
    """One connection of the driver. What is temporary goes with it."""

    def __init__(self, account: Account, load_id: str | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._account = account
        self._dialect = SnowflakeDialect()
        self._clock = clock
        self._load_id = load_id
        self._name = f"etl_{uuid.uuid4().hex}"
        self._connection = account.connect(load_id)
        self._calls = Calls(cancel=self._cancel, disconnect=self._disconnect)
        self._in_transaction = False
        self._last_s = 0.0

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed."""
        with self._translated("run a statement", sql=sql), self._run(sql, parameters) as cursor:
            return -1 if cursor.rowcount is None else int(cursor.rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows."""
        with self._translated("run a query", sql=sql), self._run(sql, parameters) as cursor:
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, in the batches in which the service hands it out."""
        with self._translated("run a query"):
            cursor = self._start(sql, parameters)
        known_as = self._dialect.known_as
        schema = pa.schema([(known_as(column.name), _result_type(column)) for column in cursor.description])

        def batches() -> Iterator[pa.RecordBatch]:
            with cursor, self._translated("read a result"):
                for table in cursor.fetch_arrow_batches():
                    for batch in table.to_batches():
                        yield _exact_batch(batch, schema)

        return schema, batches()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:  # noqa: ARG002
        """Append the batches to a table: Parquet files, sent while the next are written, and one COPY INTO."""
        place = f"etl_files_{uuid.uuid4().hex}"
        self.execute(f"CREATE TEMPORARY STAGE {place}")
        kinds = [getattr(field.type, "storage_type", field.type) for field in schema]
        stored = pa.schema(list(zip(map(stored_name, schema.names), kinds, strict=True)))
        with (
            TemporaryFolder() as folder,
            Uploads(functools.partial(self.put, place=place)) as uploads,
        ):
            for file in write_parts(folder, stored, batches, self._account.part_bytes):
                uploads.add(*file)
        if not uploads.sent:
            return 0
        rows = self.rows(
            f"COPY INTO {self._dialect.table(table)} FROM @{place} "
            f"FILE_FORMAT = ({FILE_FORMATS['parquet']}) "
            "MATCH_BY_COLUMN_NAME = CASE_SENSITIVE ON_ERROR = ABORT_STATEMENT"
        )
        loaded = {row["file"].rpartition("/")[2]: int(row["rows_loaded"]) for row in rows if row["status"] == "LOADED"}
        if loaded != uploads.sent:
            wrong = sorted(name for name in uploads.sent if loaded.get(name) != uploads.sent[name])
            raise errors.TerminalError(
                f"{self._account.uri(table)}: of {len(uploads.sent)} files {len(wrong)} were not loaded as sent: "
                + ", ".join(f"{name} has {uploads.sent[name]} rows, {loaded.get(name, 0)} loaded" for name in wrong[:3])
            )
        return sum(loaded.values())

    def copy_files(self, statement: str, table: str) -> int:
        """Run a COPY of files into a table, and return how many rows they had."""
        rows = [row for row in self.rows(statement) if "rows_loaded" in row]
        if wrong := [row["file"] for row in rows if row["status"] != "LOADED"]:
            raise errors.TerminalError(
                f"{self._account.uri(table)}: {len(wrong)} files were not loaded, {wrong[0]} first."
            )
        return sum(int(row["rows_loaded"]) for row in rows)

    def put(self, path: Path, place: str) -> None:
        """Send a file to a stage; any thread may."""
        with self._translated("send a file to"), self._connection.cursor() as cursor:
            cursor.execute(
                f"PUT 'file://{path.as_posix()}' @{place} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE "
                "OVERWRITE = TRUE"
            )
            statuses = [row[6] for row in cursor.fetchall()]
        if statuses != ["UPLOADED"]:
            raise TransientError(f"Could not send {path.name} to {self._account.uri()}: {statuses}.")

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table that can be written."""
        try:
            rows = self.rows(f"DESCRIBE TABLE {self._dialect.table(table)}")
        except errors.NotFoundError:
            return None
        return [
            described(self._dialect.known_as(row["name"]), row["type"], row["null?"] == "Y", row["default"])
            for row in rows
            if row["kind"] == "COLUMN"
        ]

    def computed_columns(self, table: str) -> set[str]:
        """Return the columns that the service computes."""
        rows = self.rows(f"DESCRIBE TABLE {self._dialect.table(table)}")
        return {self._dialect.known_as(row["name"]) for row in rows if row["kind"] != "COLUMN"}

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:  # noqa: ARG002
        """Insert the ledger row by a MERGE, whose lock on the ledger another load waits for.

        Snowflake does not enforce the ledger's key: the MERGE inserts nothing where another attempt has committed.
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
            raise AlreadyExistsError(f"The ledger of {self._account.uri()} has the load.")

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:  # noqa: ARG002
        """Merge the staged rows into the table by one MERGE."""
        row = self.rows(self._dialect.merge(table, columns, key, self.stage))[0]
        return int(row["number of rows inserted"]), int(row["number of rows updated"])

    def end_other_attempts(self, load_id: str) -> None:
        """Abort the transactions of this process whose COMMIT was not answered; other processes end themselves."""
        lost = self._account.lost_commits.get(load_id, set())
        for row in self.rows("SHOW TRANSACTIONS") if lost else ():
            if row["name"] in lost:
                self.fetch(f"SELECT SYSTEM$ABORT_TRANSACTION({int(row['id'])})")
        if lost and any(row["name"] in lost for row in self.rows("SHOW TRANSACTIONS")):
            raise TransientError(f"An earlier attempt of load {load_id} still runs in {self._account.uri()}.")

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
                self._account.lost_commits.setdefault(self._load_id, set()).add(self._name)
            raise AmbiguousError(f"{error} Its answer was lost.") from None

    def rollback(self) -> None:
        """Undo it."""
        if self._in_transaction:
            self._in_transaction = False  # which also lets ROLLBACK through after a pause
            with contextlib.suppress(ConnectorError), self._translated("roll back"), self._run("ROLLBACK", None):
                pass

    def close(self) -> None:
        """End the session, and with it what is temporary; Snowflake ends one that it hears nothing of."""
        self._calls.close()

    def _cancel(self) -> None:
        """End what the session runs, by its number: that of a statement is not known before its first answer.

        https://docs.snowflake.com/en/sql-reference/functions/system_cancel_all_queries
        """
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT SYSTEM$CANCEL_ALL_QUERIES({self._connection.session_id})")

    def _disconnect(self) -> None:
        with contextlib.suppress(*self._error):
            self._connection.close(retry=False)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a statement by the names of their columns."""
        with self._translated("run a statement"), self._run(sql, None) as cursor:
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> contextlib.closing[Any]:
        return contextlib.closing(self._start(sql, parameters))

    def _start(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        values: list[Any] = []

        def placeholder(name: str) -> str:
            values.append(_bound(name, (parameters or {})[name]))
            return "?"

        text = bind(sql, parameters, placeholder, literals=LITERALS) if parameters else sql
        self._check_pause()
        cursor = self._calls.run(
            lambda: self._connection.cursor().execute(text, values or None), cancels=not text.startswith("COMMIT")
        )
        self._last_s = self._clock()
        return cursor

    def _check_pause(self) -> None:
        pause = self._clock() - self._last_s
        if self._in_transaction and pause > PAUSE_S:
            self.rollback()
            raise TransientError(
                f"The transaction in {self._account.uri()} paused for {pause:.0f} s; it is made again."
            )

    def _was_not_answered(self, error: BaseException) -> bool:
        """Tell whether an error is the driver's own, so that the service may have done what it was asked to."""
        if isinstance(error, OSError):
            return True
        number = getattr(error, "errno", None)
        return number is None or number < 0 or f"{number:06d}".startswith(("25", "29", "58"))

    @property
    def _error(self) -> tuple[type[Exception], ...]:
        return require("snowflake.connector", extra="snowflake").Error, *transport_errors()

    @contextlib.contextmanager
    def _translated(self, action: str, *, sql: str = "") -> Iterator[None]:
        try:
            yield
        except NoAnswerError:
            raise TransientError(f"The session in {self._account.uri()} was interrupted; it is opened again.") from None
        except self._error as error:
            place = self._account.uri() if action.endswith(" to") else f"in {self._account.uri()}"
            known = snowflake_error(action, place, error)
            alone = (
                sql
                and not READS.match(strip_literals(sql, LITERALS))
                and not self._in_transaction
                and self._load_id is None
            )
            if alone and isinstance(known, TransientError) and self._was_not_answered(error):
                known = AmbiguousError(f"{known} It may have run: look before you run it again.")
            raise known from None


def _bound(name: str, value: Any) -> Any:
    """Return a value as the driver binds it: a time with a zone keeps it.

    Raises:
        InvalidInputError: The driver binds no such value.
    """
    if isinstance(value, (list, tuple, set, dict)):
        raise errors.InvalidInputError(
            f"Parameter {name!r}: a {type(value).__name__} cannot be a parameter of Snowflake. Give it as JSON text, "
            "and take it apart by PARSE_JSON."
        )
    if isinstance(value, dt.datetime):
        return ("TIMESTAMP_TZ" if value.tzinfo else "TIMESTAMP_NTZ", value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _result_type(column: Any) -> pa.DataType:
    """Return the Arrow type of a column of a result, by its declared type."""
    constants = require("snowflake.connector.constants", extra="snowflake")
    return arrow_type(constants.FIELD_ID_TO_NAME[column.type_code], column.precision, column.scale, column.name)


def _exact_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of the driver in the declared types; what would lose something is an error."""
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
