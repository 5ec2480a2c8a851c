"""A session by PyMySQL: statements, results by Arrow, rows in by INSERT, and the transaction of a load.

* Rows are staged in a temporary table, which goes with the session: it takes neither a log nor a commit.
* A load holds two named locks of the server from its claim until it is committed: that of its load_id, by which a
  lost attempt is found and ended, and that of its table, so that loads into it come one after the other.
  https://dev.mysql.com/doc/refman/8.4/en/locking-functions.html
* Its transaction is REPEATABLE READ, whose locks keep the writes of others out of what it replaces, and nobody waits
  for them who reads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import re
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from blocks.arrow.parts import new_group
from blocks.base.errors import (
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.interruption import Calls, NoAnswerError, pause
from blocks.base.optional import lazy, require
from blocks.warehouses.parts import PREFIX
from blocks.warehouses.session import BulkSession
from blocks.warehouses.sql import Column, bind, strip_literals
from connectors.mysql.columns import check_kept, described, is_changed_unseen, is_generated
from connectors.mysql.dialect import MySQLDialect
from connectors.mysql.errors import translate
from connectors.mysql.literals import literal, rows_of
from connectors.mysql.reading import FLOAT, MAY_BE, arrow_type, exact_query, to_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")

T = TypeVar("T")

FIRST_ROWS, BATCH_ROWS, BATCH_BYTES = 64, 8_192, 4 * 2**20
"""A batch of a result has as many rows as make so many bytes, going by those before."""
SLICE_ROWS, SLICE_BYTES = 65_536, 8 * 2**20
"""So many rows, or bytes of them, are made SQL at once."""
STATEMENT_BYTES = 2 * 2**20
"""So many bytes of rows go in one INSERT, if the server's max_allowed_packet allows them."""
PACKET_SHARE = 4_096
"""What of max_allowed_packet is left for the beginning of a statement."""
READ_ONLY = 1792
"""The error of a statement that changes something in a transaction that only reads."""
SELECTS = ("select", "with", "values", "table")
QUERIES = (*SELECTS, "show", "desc", "describe", "explain")
ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)
END_POLLS, END_POLL_S = 200, 0.05


class Server(Protocol):
    """What a session needs of the block of its database."""

    database: str
    read_timeout_s: float
    statement_timeout_s: float | None
    lock_timeout_s: float
    commit_timeout_s: float

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def connect(self, kind: Any = None, **options: Any) -> Any:
        """Open a connection of a class; the caller closes it."""

    def cancel(self, number: int) -> None:
        """End what a connection runs; from another one, as far as that works."""

    def is_working(self, number: int) -> bool:
        """Ask the server, on another connection, whether it is at work on what this one waits for."""


class MySQLSession(BulkSession):
    """A connection of PyMySQL.

    Args:
        server: The block of its database.
        load_id: The load that it is for.
        alone: Whether its statements are the caller's, so that one whose answer was lost is not to be run again.
    """

    def __init__(self, server: Server, load_id: str | None = None, *, alone: bool = False) -> None:
        from connectors.mysql.connection import connection_class

        self._server = server
        self._dialect = MySQLDialect()
        self._load_id = load_id
        self._alone = alone
        self._connection = server.connect(connection_class(), conv={}, use_unicode=False)
        number = self._connection.thread_id()
        self._calls = Calls(
            cancel=lambda: server.cancel(number),
            disconnect=self._connection.close,
            timeout_s=server.read_timeout_s,
            is_working=lambda: server.is_working(number),
        )
        self._in_transaction = self._is_unread = False
        self._has_staged_keys = False
        # as the tables of parts are named, so that one that a killed process leaves goes with what is left of these
        self.staged_keys = f"{PREFIX}{new_group(server.uri())}_keys_{uuid.uuid4().hex[:8]}"
        self._known: dict[str, dict[str, pa.DataType]] = {}

    # --- statements ---

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed, or found as they were to be."""
        return self._complete("run a statement", sql, parameters, int)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows; of a FLOAT the six digits that the server prints."""
        if size is not None:
            return self._fetch_some(sql, parameters, size)
        rows = self._complete(
            "run a query", sql, parameters, lambda _: (self._connection.fields, self._connection.rows)
        )
        return self._values(*rows)

    def _fetch_some(self, sql: str, parameters: Mapping[str, Any] | None, size: int) -> list[Any]:
        cursors = require("pymysql.cursors", extra="mysql")

        def read(_: int) -> tuple[Any, Any]:
            cursor = self._connection.cursor(cursors.SSCursor)
            cursor.execute(text)
            fields = self._connection.fields
            return fields, cursor.fetchmany(size) if fields else ()

        text = self._bound(sql, parameters)
        described = self._describe(text)[1] if first_word(text, self._dialect.literals) in SELECTS else None
        self._is_unread = True
        fields, rows = self._complete("run a query", sql, parameters, read, runs=False)
        if len(rows) < size:
            self._is_unread = False
        return self._values(fields, rows, described and described.types)

    def _values(
        self, fields: Sequence[Any], rows: Sequence[tuple[Any, ...]], kinds: Sequence[pa.DataType] | None = None
    ) -> list[Any]:
        if not rows:
            return []
        if kinds is None:
            kinds = [arrow_type(field) for field in fields] if self._is_unread else self._kinds(fields)
        return list(zip(*(array.to_pylist() for array in self._arrays(fields, kinds, rows)), strict=True))

    def _arrays(self, fields: Sequence[Any], kinds: Sequence[pa.DataType], rows: Sequence[Any]) -> list[pa.Array]:
        columns = zip(*rows, strict=True)
        return [
            to_array(values, field, field.name, kind)
            for values, field, kind in zip(columns, fields, kinds, strict=True)
        ]

    def _complete(
        self,
        action: str,
        sql: str,
        parameters: Mapping[str, Any] | None,
        read: Callable[[int], T],
        *,
        runs: bool = True,
    ) -> T:
        """Run a statement and return what `read` makes of the number of rows that it changed.

        A query of the caller's runs in a transaction that only reads, so that it may run again if its answer is lost,
        whatever functions it calls.
        """
        text = self._bound(sql, parameters)

        def run() -> T:
            return read(self._connection.query(text) if runs else 0)

        if not self._alone or self._in_transaction:
            with self._translated(action):
                return self._call(run)
        if first_word(text, self._dialect.literals) in QUERIES:
            with contextlib.suppress(_WritesError), self._reading(), self._translated(action):
                return self._call(run)
        with self._translated(action, sent=True):
            return self._call(run)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Within it, a transaction that only reads, of which one that was begun before is no part."""
        if self._in_transaction:
            yield
            return
        self._send("START TRANSACTION READ ONLY")
        try:
            yield
        finally:
            if self._is_usable():
                with contextlib.suppress(ConnectorError):
                    self._send("COMMIT")

    def _send(self, text: str) -> None:
        with self._translated("run a statement"):
            self._call(lambda: self._connection.query(text))

    def _call(self, call: Callable[[], T]) -> T:
        return self._calls.run(call, timeout_s=self._server.statement_timeout_s)

    def _bound(self, sql: str, parameters: Mapping[str, Any] | None) -> str:
        if not parameters:
            return sql
        return bind(sql, parameters, lambda name: literal(parameters[name]), literals=self._dialect.literals)

    # --- results by Arrow ---

    def describe(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Schema:
        """Return the schema of the result of a query, which is prepared for that and not run."""
        return self._describe(self._bound(sql, parameters))[1]

    def _describe(self, text: str) -> tuple[Sequence[Any], pa.Schema]:
        with self._translated("describe a query"):
            fields = self._call(lambda: self._connection.describe(text))
        kinds = self._kinds(fields)
        return fields, pa.schema([(field.name, kind) for field, kind in zip(fields, kinds, strict=True)])

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, which may not write, streamed row by row."""
        text = self._bound(sql, parameters)
        fields, schema = self._describe(text)
        if not fields:
            raise InvalidInputError("The statement is not a query: it has no columns. Run it by execute.")
        if any(field.type_code == FLOAT for field in fields):
            if ORDERED.search(strip_literals(text, self._dialect.literals)):
                raise UnsupportedError(
                    "The query has an ORDER BY, and a FLOAT among its columns, of which MySQL prints six digits. Cast "
                    "it in the query, by column + 0e0 or to DOUBLE."
                )
            text = exact_query(text, fields, [self._dialect.name(name) for name in schema.names])
        cursor = self._connection.cursor(require("pymysql.cursors", extra="mysql").SSCursor)

        def batches() -> Iterator[pa.RecordBatch]:
            size = FIRST_ROWS
            with self._reading(), self._translated("read a result"):
                self._is_unread = True
                self._call(lambda: cursor.execute(text))
                printed = self._connection.fields
                while rows := self._call(functools.partial(cursor.fetchmany, size)):
                    batch = pa.RecordBatch.from_arrays(self._arrays(printed, schema.types, rows), schema=schema)
                    yield batch
                    size = min(4 * size, BATCH_ROWS, max(BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1), 1))
                self._is_unread = False

        return schema, batches()

    def _kinds(self, fields: Sequence[Any]) -> list[pa.DataType]:
        """Return the Arrow types of the columns of a result, as their tables have them where those say more."""
        return [arrow_type(field, self._kind_in_table(field)) for field in fields]

    def _kind_in_table(self, field: Any) -> pa.DataType | None:
        if field.type_code not in MAY_BE or not field.db or not field.org_table:
            return None
        place = f"{self._dialect.name(field.db.decode())}.{self._dialect.name(field.org_table)}"
        if place not in self._known:
            self._known[place] = {}  # the columns of what describes columns are not looked up
            self._known[place] = {column.name: column.arrow_type for column in self._columns_of(place) or ()}
        return self._known[place].get(field.org_name)

    # --- rows in ---

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:  # noqa: ARG002
        """Append the batches to a table by INSERTs of many rows, and return how many rows these counted."""
        place = self._dialect.table(table)
        columns = {column.name: column for column in self._columns_of(place) or ()}
        opening = f"INSERT INTO {place} ({self._dialect.names(schema.names)}) VALUES (".encode()
        limit = int(self.fetch("SELECT @@max_allowed_packet")[0][0]) - PACKET_SHARE - len(opening)
        rows = count = 0
        for batch in itertools.chain.from_iterable(map(_slices, batches)):
            check_kept(batch, columns, rows + 1)
            for values in self._statements(rows_of(batch).to_pylist(), limit, rows + 1):
                with self._translated("insert rows"):
                    count += self._call(functools.partial(self._connection.query, opening + values + b")"))
            rows += batch.num_rows
        return count

    def _statements(self, rows: list[bytes], limit: int, first_row: int) -> Iterator[bytes]:
        """Yield the rows joined, as many together as go in one statement.

        Raises:
            InvalidInputError: A row alone is too long for the server.
        """
        most, start, size = min(STATEMENT_BYTES, limit), 0, 0
        for at, row in enumerate(rows):
            if len(row) > limit:
                raise InvalidInputError(
                    f"Row {first_row + at} of the data has {len(row)} bytes as SQL, more than {self._server.uri()} "
                    "takes in one statement. Raise max_allowed_packet on the server."
                )
            if at > start and size + len(row) > most:
                yield b"),(".join(rows[start:at])
                start, size = at, 0
            size += len(row) + 3
        if rows:
            yield b"),(".join(rows[start:])

    # --- tables ---

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table that can be written."""
        return self._columns_of(self._dialect.table(table))

    def _columns_of(self, place: str) -> list[Column] | None:
        rows = self._show_columns(place)
        if rows is None:
            return None
        is_json: dict[str, bool] = defaultdict(bool)
        if any(row["Type"] == "longtext" and row["Collation"] == "utf8mb4_bin" for row in rows):
            is_json |= dict.fromkeys(self._json_columns(place), True)
        return [described(row, is_json=is_json[row["Field"]]) for row in rows if not is_generated(row)]

    def _show_columns(self, place: str) -> list[dict[str, Any]] | None:
        """Return the rows of SHOW FULL COLUMNS, which knows temporary tables, too."""
        try:
            rows = self.fetch(f"SHOW FULL COLUMNS FROM {place}")
        except NotFoundError:
            return None
        names = ("Field", "Type", "Collation", "Null", "Key", "Default", "Extra", "Privileges", "Comment")
        # MySQL 8 gives its types as bytes
        texts = [[each.decode() if isinstance(each, bytes) else each for each in row] for row in rows]
        return [dict(zip(names, row, strict=True)) for row in texts]

    def _json_columns(self, place: str) -> list[str]:
        """Return the columns of which MariaDB checks that they are JSON, which is how it has that type."""
        if "mariadb" not in self._connection.get_server_info().lower():
            return []
        schema, name = self._schema_and_name(place)
        rows = self.fetch(
            "SELECT constraint_name FROM information_schema.check_constraints WHERE constraint_schema = :schema "
            "AND table_name = :name AND check_clause = CONCAT('json_valid(`', constraint_name, '`)')",
            {"schema": schema, "name": name},
        )
        return [row[0] for row in rows]

    def _schema_and_name(self, place: str) -> tuple[str, str]:
        parts = [part.replace("``", "`") for part in re.findall(r"`((?:[^`]|``)*)`", place)]
        return (parts[0] if len(parts) > 1 else self._server.database), parts[-1]

    def computed_columns(self, table: str) -> set[str]:
        """Return the columns that the server computes."""
        rows = self._show_columns(self._dialect.table(table)) or []
        return {row["Field"] for row in rows if is_generated(row)}

    def has_unique_key(self, table: str, key: Sequence[str]) -> bool:
        """Tell whether a unique index of the table is on just these columns, and on the whole of each."""
        schema, name = self._schema_and_name(self._dialect.table(table))
        rows = self.fetch(
            "SELECT index_name, column_name, sub_part IS NULL FROM information_schema.statistics "
            "WHERE table_schema = :schema AND table_name = :name AND non_unique = 0",
            {"schema": schema, "name": name},
        )
        indexes: dict[str, set[tuple[str, bool]]] = defaultdict(set)
        for index, column, whole in rows:
            indexes[index].add((column, bool(whole)))
        return {(column, True) for column in key} in indexes.values()

    def check_target(self, table: str) -> None:
        """Refuse a table whose engine knows no transactions, such as MyISAM's."""
        schema, name = self._schema_and_name(self._dialect.table(table))
        rows = self.fetch(
            "SELECT t.engine FROM information_schema.tables AS t JOIN information_schema.engines AS e "
            "ON e.engine = t.engine WHERE t.table_schema = :schema AND t.table_name = :name "
            "AND coalesce(e.transactions, 'NO') <> 'YES'",
            {"schema": schema, "name": name},
        )
        if rows:
            raise UnsupportedError(
                f"{self._server.uri(table)} is a table of {rows[0][0]}, which knows no transactions: a load could end "
                f"half done. Run: ALTER TABLE {self._dialect.table(table)} ENGINE=InnoDB."
            )

    # --- loads ---

    def index_stage(self, dialect: Dialect, columns: Sequence[Column], key: Sequence[str]) -> None:  # noqa: ARG002
        """Index the key of the staged rows: the table may have no index on it."""
        self.execute(self._dialect.index_stage(self.stage, columns, key))

    def create_stage(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> None:  # noqa: ARG002
        """Make a staging table, a temporary one but for the keys: MySQL opens such a one only once in a statement."""
        if table == self.staged_keys:
            self.execute(self._dialect.create_part(table, columns))
            self._has_staged_keys = True
        else:
            self.execute(self._dialect.create_stage(table, columns))

    def check_copied(self, dialect: Dialect, source: str, where: str, columns: Sequence[Column]) -> None:  # noqa: ARG002
        """Refuse rows of which a text, bytes or a float became another: a CHAR drops spaces, an ENUM takes numbers."""
        known = {column.name: column.sql_type for column in self.columns(source) or ()}
        rows = f"{self._dialect.table(source)} AS s{where}", f"{self._dialect.name(self.stage)} AS s"
        for column in columns:
            if column.sql_type == known.get(column.name) or not is_changed_unseen(column):
                continue
            before, after = (self.fetch(self._dialect.digest(column, each))[0][0] for each in rows)
            if before != after:
                raise SchemaError(
                    f"{self._server.uri(source)}, column {column.name!r}: a value does not fit the type of the table "
                    "that it is published into: it would be stored as another one. Correct it, or change the table's "
                    "column."
                )

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:
        """Take the locks of the load and of its table, and insert the ledger row."""
        for name in (self._load_lock(load_id), self._lock(f"table {parameters['table_name']}")):
            self._take(name)
        self.execute(sql, parameters)

    def _take(self, name: str) -> None:
        wait_s = self._server.lock_timeout_s
        if not self.fetch("SELECT GET_LOCK(:name, :wait_s)", {"name": name, "wait_s": math.ceil(wait_s)})[0][0]:
            raise TransientError(
                f"Another load has held its load_id or its table in {self._server.uri()} for {wait_s:g} s. Nothing was "
                "applied."
            )

    def _load_lock(self, load_id: str) -> str:
        return self._lock(f"load {load_id}")

    def _lock(self, what: str) -> str:
        """Return the name of a lock, which all databases of a server share."""
        return "etl-" + hashlib.sha256(f"{self._server.database} {what}".encode()).hexdigest()[:48]

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:  # noqa: ARG002
        """Update the rows whose key is staged, take these out of the stage, and insert the rest of it."""
        updated = self.execute(self._dialect.update_from_stage(table, columns, key, self.stage))
        self.execute(self._dialect.drop_known(table, columns, key, self.stage))
        return self.execute(self._dialect.insert(table, columns, self.stage)), updated

    def discard(self, table: str) -> None:
        """Drop a staging table; the next attempt may have another one."""
        if not self._is_usable():
            return
        if table != self.staged_keys:
            self.execute(f"DROP TEMPORARY TABLE IF EXISTS {self._dialect.name(table)}")
        elif self._has_staged_keys:
            self.execute(f"DROP TABLE IF EXISTS {self._dialect.name(table)}")

    def end_other_attempts(self, load_id: str) -> None:
        """End the connection that holds the lock of this load, and wait until the server has undone its transaction."""
        for _ in range(END_POLLS):
            number = self.fetch("SELECT IS_USED_LOCK(:name)", {"name": self._load_lock(load_id)})[0][0]
            if number is None:
                return
            with contextlib.suppress(ConnectorError):  # it has just ended
                self.execute(f"KILL {int(number)}")
            pause(END_POLL_S)
        raise TransientError(f"An earlier attempt of load {load_id} still runs in {self._server.uri()}.")

    def begin(self) -> None:
        """Start a transaction."""
        self._send("START TRANSACTION")
        self._in_transaction = True

    def commit(self) -> None:
        """Commit it, and wait for the answer no longer than the block allows."""
        self._in_transaction = False
        with self._translated("commit", sent=True):
            self._calls.run(
                lambda: self._connection.query("COMMIT"), timeout_s=self._server.commit_timeout_s, cancels=False
            )
        self._release()

    def rollback(self) -> None:
        """Undo it."""
        self._in_transaction = False
        if self._is_usable():
            with contextlib.suppress(ConnectorError):
                self._send("ROLLBACK")
                self._release()

    def _is_usable(self) -> bool:
        """Tell whether the connection takes statements; what was done on one that does not goes with it."""
        return bool(self._connection.open and not self._calls.lost and not self._is_unread)

    def _release(self) -> None:
        if self._load_id is not None:
            with contextlib.suppress(ConnectorError):
                self._send("DO RELEASE_ALL_LOCKS()")

    def close(self) -> None:
        """Close the connection, and with it all that is temporary; what was not read is not waited for."""
        if self._calls.lost or self._is_unread:
            self._connection.sever()
        with contextlib.suppress(require("pymysql", extra="mysql").Error):
            self._calls.close()

    @contextlib.contextmanager
    def _translated(self, action: str, *, sent: bool = False) -> Iterator[None]:
        """Translate errors.

        Args:
            action: What is being done.
            sent: Whether it may have happened where the connection was lost.
        """
        uri, started_s = self._server.uri(), time.monotonic()
        limit_s = self._server.statement_timeout_s
        try:
            yield
        except NoAnswerError:
            if limit_s and action != "commit" and time.monotonic() - started_s >= limit_s:
                raise TerminalError(
                    f"Could not {action} in {uri}: it took longer than statement_timeout_s, {limit_s:g} s."
                ) from None
            kind = AmbiguousError if sent else TransientError
            raise kind(f"Could not {action} in {uri}: the server did not answer in time.") from None
        except require("pymysql", extra="mysql").Error as error:
            if error.args and error.args[0] == READ_ONLY and not sent and not self._in_transaction and self._alone:
                raise _WritesError from None
            raise translate(error, action, uri, sent=sent) from None


def first_word(text: str, literals: str) -> str:
    """Return the word that tells what a statement is, in small letters."""
    words = strip_literals(text, literals).split(None, 1)
    return words[0].lower().lstrip("(") if words else ""


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch in slices whose rows as SQL fit into memory."""
    size = min(SLICE_ROWS, max(SLICE_BYTES * batch.num_rows // max(batch.nbytes, 1), 1))
    for start in range(0, batch.num_rows, size):
        yield batch.slice(start, size)


class _WritesError(Exception):
    """A query is not one that only reads."""
