"""A session of SQLAlchemy: statements and rows anywhere, Arrow out, and with SQLite the transaction of a load."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from blocks.base.errors import AmbiguousError, ConnectorError, InvalidInputError, TerminalError, UnsupportedError
from blocks.base.interruption import Calls, NoAnswerError
from blocks.base.optional import lazy, require
from blocks.warehouses.held import HeldSession, RowsInMemory
from blocks.warehouses.session import BulkSession
from blocks.warehouses.sql import Column, bind, session_words
from connectors.sqlalchemy.dialect import QueryDialect, SQLiteDialect
from connectors.sqlalchemy.errors import translate
from connectors.sqlalchemy.rows import Row
from connectors.sqlalchemy.values import as_array, as_rows, bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.warehouses.held import Rows
    from blocks.warehouses.load import LoadPlan
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")

BATCH_ROWS = 16_384
ROWS_A_STATEMENT = 1_000
TYPES = "_etl_types"
"""The view of a query, by which SQLite tells what its columns were declared as."""


class Database(Protocol):
    """What a session needs of the block of its database."""

    statement_timeout_s: float | None

    @property
    def dialect(self) -> SQLiteDialect | QueryDialect:
        """The SQL of the database."""

    def uri(self, table: str = "") -> str:
        """Return where a table is."""

    def open_connection(self) -> Any:
        """Open a `sqlalchemy.Connection`."""


class SqlAlchemySession(BulkSession):
    """One connection. What is done outside of a transaction is committed at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._in_transaction = False
        with self._translated("connect"):
            self._connection = database.open_connection()
        driver = self._connection.connection.driver_connection
        self._calls = Calls(
            cancel=getattr(driver, "interrupt", lambda: None),
            disconnect=self._disconnect,
            timeout_s=database.statement_timeout_s,
        )

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed; -1 where the driver does not say."""

        def run() -> int:
            result = self._run(sql, parameters)
            changed = -1 if result.returns_rows else int(result.rowcount)
            result.close()
            self._settle()
            return changed

        with self._translated("run a statement", changes=True):
            return self._calls.run(run)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows, which have names."""

        def rows() -> list[Any]:
            result = self._run(sql, parameters)
            if not result.returns_rows:
                found = []
            else:
                names = tuple(result.keys())
                values = result.fetchall() if size is None else result.fetchmany(size)
                found = [Row(value, names) for value in values]
            result.close()
            self._settle()
            return found

        with self._translated("run a query"):
            return self._calls.run(rows)

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query, streamed. A column without a type has that of the values in its first rows."""

        def opened() -> tuple[Any, list[str], list[Any]]:
            result = self._run(sql, parameters, stream=True)
            return result, list(result.keys()), result.fetchmany(BATCH_ROWS)

        with self._translated("run a query"):
            kinds = self._calls.run(lambda: self._declared(sql, parameters))
            result, names, first = self._calls.run(opened)
            kinds = kinds or [None] * len(names)
            arrays = _arrays(first, names, kinds)
            schema = pa.schema([pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)])

        def batches() -> Iterator[pa.RecordBatch]:
            rows, done = first, arrays
            with self._translated("read a result"):
                while rows:
                    yield pa.RecordBatch.from_arrays(done, schema=schema)
                    rows = self._calls.run(lambda: result.fetchmany(BATCH_ROWS))
                    done = _arrays(rows, names, schema.types)
                self._calls.run(result.close)

        return schema, batches()

    def describe(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Schema:
        """Return the schema of a query by its first rows: a column without a declared type has that of its values."""
        return self.stream(sql, parameters)[0]

    def _declared(self, sql: str, parameters: Mapping[str, Any] | None) -> list[pa.DataType | None]:
        """Return the types that the columns of a query were declared with, as far as SQLite knows them."""
        dialect = self._database.dialect
        if not isinstance(dialect, SQLiteDialect) or not re.match(r"\s*(select|with|values)\b", sql, re.IGNORECASE):
            return []
        query = bind(sql, parameters or {}, lambda _: "NULL")  # a view takes no parameters
        self._run(f"CREATE TEMPORARY VIEW {TYPES} AS {query}", None).close()
        try:
            found = self._run(f"PRAGMA temp.table_info({TYPES})", None).fetchall()
        finally:
            self._run(f"DROP VIEW temp.{TYPES}", None).close()
            self._settle()
        return [dialect.arrow_type(row[2]) for row in found]

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to a table, by inserts of many rows in one transaction."""
        dialect = self._database.dialect
        target = dialect.name(table) if stage else dialect.table(table)
        marks = ", ".join("?" * len(schema.names))
        statement = f"INSERT INTO {target} ({dialect.names(schema.names)}) VALUES ({marks})"
        inserted = 0

        def insert(rows: list[tuple[Any, ...]]) -> int:
            result = self._connection.exec_driver_sql(statement, rows)
            return int(result.rowcount)

        with contextlib.nullcontext() if self._in_transaction else self.transaction():
            for batch in batches:
                rows = as_rows(batch)
                while some := list(itertools.islice(rows, ROWS_A_STATEMENT)):
                    with self._translated("insert rows"):
                        inserted += self._calls.run(partial(insert, some))
        return inserted

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table that can be written.

        Raises:
            UnsupportedError: It is not SQLite.
        """
        dialect = self._database.dialect
        if not isinstance(dialect, SQLiteDialect):
            raise dialect.no_loads()
        found = [
            Column(
                name, declared, dialect.arrow_type(declared) or pa.string(), not (required or key), default is not None
            )
            for _, name, declared, required, default, key, hidden in self._pragma("table_xinfo", table)
            if not hidden
        ]
        return found or None

    def computed_columns(self, table: str) -> set[str]:
        """Return the generated columns."""
        return {row[1] for row in self._pragma("table_xinfo", table) if row[6]}

    def check_target(self, table: str) -> None:
        """Refuse a table with a column in which SQLite makes numbers of texts, as in NUMERIC: 007 would be 7."""
        dialect = self._database.dialect
        for _, name, declared, *_ in self._pragma("table_xinfo", table):
            if isinstance(dialect, SQLiteDialect) and dialect.arrow_type(declared) is None:
                raise UnsupportedError(
                    f"{self._database.uri(table)}: column {name!r} is declared as {declared or 'nothing'}, where "
                    "SQLite decides by each value what it keeps. Declare it INTEGER, REAL, TEXT or DECIMAL_TEXT(p,s)."
                )

    def lock_target(self, dialect: Dialect, plan: LoadPlan) -> None:
        """Refuse times in a key that are written in another way, as they would equal none that a load brings.

        The transaction itself keeps other loads out.
        """
        if plan.creates_table or not isinstance(dialect, SQLiteDialect):
            return
        for column in self.columns(plan.table) or ():
            otherwise = dialect.written_otherwise(column)
            if otherwise is None or column.name not in (*plan.key, *plan.partition_by):
                continue
            if self.fetch(f"SELECT 1 FROM {dialect.table(plan.table)} WHERE {otherwise} LIMIT 1"):
                raise InvalidInputError(
                    f"{self._database.uri(plan.table)}: column {column.name!r}, by which rows are told apart, has "
                    f"values that are not written as a load writes {column.arrow_type}. Rewrite them first."
                )

    def has_unique_key(self, table: str, key: Sequence[str]) -> bool:
        """Tell whether a primary key or a unique index of the whole table is on just these columns."""
        wanted = sorted(name.lower() for name in key)
        if sorted(row[1].lower() for row in self._pragma("table_info", table) if row[5]) == wanted:
            return True
        schema = table.rpartition(".")[0]
        for _, index, unique, _, partial_index in self._pragma("index_list", table):
            columns = self._pragma("index_info", f"{schema}.{index}" if schema else index)
            if unique and not partial_index and sorted(str(row[2]).lower() for row in columns) == wanted:
                return True
        return False

    def _pragma(self, pragma: str, table: str) -> list[Any]:
        schema, _, name = table.rpartition(".")
        quoted = self._database.dialect.name
        return self.fetch(f"PRAGMA {quoted(schema) + '.' if schema else ''}{pragma}({quoted(name)})")

    def begin(self) -> None:
        """Start a transaction; in SQLite the one that writes, of which there is one at a time.

        Raises:
            TransientError: Another one has lasted for too long.
        """
        if isinstance(self._database.dialect, SQLiteDialect):
            self._begin("BEGIN IMMEDIATE")
        self._in_transaction = True

    def _begin(self, sql: str) -> None:
        with self._translated("begin a transaction in"):
            self._calls.run(lambda: self._connection.exec_driver_sql(sql).close())

    def commit(self) -> None:
        """Commit it.

        Raises:
            AmbiguousError: The answer was lost.
        """
        try:
            with self._translated("commit", changes=True):
                self._calls.run(self._connection.commit, cancels=False)
        finally:
            self._in_transaction = False

    def rollback(self) -> None:
        """Undo it."""
        self._in_transaction = False
        with contextlib.suppress(ConnectorError), self._translated("roll back"):
            self._calls.run(self._connection.rollback)

    def close(self) -> None:
        """Close the connection."""
        self._calls.close()

    def _disconnect(self) -> None:
        with contextlib.suppress(require("sqlalchemy", extra="sqlalchemy").exc.SQLAlchemyError):
            self._connection.close()

    def _settle(self) -> None:
        """Commit a statement that is in no transaction."""
        if not self._in_transaction:
            self._connection.commit()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None, *, stream: bool = False) -> Any:
        if isinstance(self._database.dialect, SQLiteDialect):  # which knows `:name` itself
            if parameters is not None:
                sql = bind(sql, parameters, lambda name: f":{name}")
            values = {name: bound(name, value) for name, value in (parameters or {}).items()}
            return self._connection.exec_driver_sql(sql, values)
        statement, values = _text(sql, parameters)
        options = {"stream_results": True} if stream else {}
        return self._connection.execute(statement, values, execution_options=options)

    @contextlib.contextmanager
    def _translated(self, action: str, *, changes: bool = False) -> Iterator[None]:
        sqlalchemy = require("sqlalchemy", extra="sqlalchemy")
        try:
            yield
        except NoAnswerError:
            raise TerminalError(
                f"Could not {action} in {self._database.uri()}: it took longer than statement_timeout_s, "
                f"{self._database.statement_timeout_s or 0:g} s."
            ) from None
        except sqlalchemy.exc.SQLAlchemyError as error:
            found = translate(error, action, self._database.uri())
            if changes and getattr(error, "connection_invalidated", False):
                raise AmbiguousError(f"{found} It may have happened: look before you run it again.") from None
            raise found from None


class SqlAlchemyHeldSession(SqlAlchemySession, HeldSession):
    """The session of a `with` block: each statement commits itself, but for those of a transaction of its user."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._begun = False
        self._is_sqlite = isinstance(database.dialect, SQLiteDialect)
        if not self._is_sqlite:
            with self._translated("connect"):
                self._connection = self._connection.execution_options(isolation_level="AUTOCOMMIT")

    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; its rows are kept here, as an open result would keep others from writing."""
        return RowsInMemory(self.fetch(sql, parameters))

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed; -1 where the driver does not say."""
        changed = super().execute(sql, parameters)
        words = session_words(sql, self._database.dialect.literals)
        if words.opens_transaction:
            self._begun = True
        elif words.first.startswith(("COMMIT", "END", "ROLLBACK")):
            self._begun = False
        return changed

    def begin(self) -> None:
        """Start a transaction."""
        self._begin("BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN")
        self._in_transaction = True

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open."""
        if self._is_sqlite:
            return bool(self._connection.connection.driver_connection.in_transaction)
        return self._begun

    def is_lost(self) -> bool:
        """Tell whether the connection is of no use any more."""
        return self._calls.lost or bool(self._connection.invalidated)

    def _settle(self) -> None:
        """Do nothing: a statement that is in no transaction has committed itself."""


def _text(sql: str, parameters: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Return the statement as SQLAlchemy's text, in which no other colon is a parameter."""
    used: dict[str, Any] = {}

    def mark(name: str) -> str:
        used[name] = (parameters or {})[name]
        return f"\0{name}\0"

    escaped = bind(sql, parameters, mark).replace(":", "\\:") if parameters else sql.replace(":", "\\:")
    statement = re.sub("\0(\\w+)\0", r":\1", escaped)
    return require("sqlalchemy", extra="sqlalchemy").text(statement), used


def _arrays(rows: Sequence[Any], names: Sequence[str], kinds: Sequence[pa.DataType | None]) -> list[pa.Array]:
    columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [[] for _ in names]
    return [as_array(values, kind, name) for values, kind, name in zip(columns, kinds, names, strict=True)]


class Content:
    """An aggregate for SQLite: the sum of the hashes of texts, which does not depend on their order."""

    def __init__(self) -> None:
        self._sum = 0

    def step(self, text: str | None) -> None:
        """Add a row."""
        digest = hashlib.blake2b((text or "").encode(), digest_size=8).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % 2**63

    def finalize(self) -> int:
        """Return the sum."""
        return self._sum
