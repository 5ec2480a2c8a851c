"""DuckDB by SQLAlchemy, for tools that check data by SQL; and a DuckDB for a while, for data that is in no database.

duckdb-engine alone does not do for them: they fetch a result after its connection went back to the pool, whose
rollback empties it. Here each statement has a cursor of its own, which nothing else touches, and commits by itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocks.base.errors import ConnectorError, InvalidInputError, TerminalError
from blocks.base.optional import lazy, require
from blocks.warehouses.session import Feed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from blocks.arrow.scan import Scan
else:
    pa = lazy("pyarrow")

SETTINGS = ("TimeZone = 'UTC'", "enable_progress_bar = false", "python_enable_replacements = false")
TABLE = "data"
"""The table of a DuckDB for a while."""
THREADS = 1
"""Each thread of DuckDB keeps some of the data that it works on in memory."""


def create_engine(connect: Callable[[], Any], close: Callable[[Any], None]) -> Any:  # noqa: C901 (two small classes)
    """A SQLAlchemy engine over DuckDB; each statement commits by itself.

    Args:
        connect: Opens a connection of DuckDB.
        close: Closes it.
    """
    sqlalchemy = require("sqlalchemy", extra="great-expectations")
    duckdb_engine = require("duckdb_engine", extra="great-expectations")

    class Cursor(duckdb_engine.CursorWrapper):  # type: ignore[misc, name-defined]  # untyped
        def __init__(self, cursor: Any, connection: Any) -> None:
            super().__init__(cursor, connection)
            self._cursor = cursor
            self._rows: list[Any] = []
            self.description: list[tuple[Any, ...]] | None = None

        def execute(self, statement: str, parameters: Any = None, context: Any = None) -> None:
            """Runs the statement and takes its rows, which are fetched when the connection is closed already."""
            super().execute(statement, parameters, context)
            found = self._cursor.description
            # The types as text: SQLAlchemy keeps them, and DuckDB complains of its own at the end of Python.
            self.description = found and [(name, str(kind), *rest) for name, kind, *rest in found]
            self._rows = self._cursor.fetchall()[::-1] if found else []

        def fetchone(self) -> Any:
            return self._rows.pop() if self._rows else None

        def fetchmany(self, size: int | None = None) -> list[Any]:
            return [self._rows.pop() for _ in range(min(size or 1, len(self._rows)))]

        def fetchall(self) -> list[Any]:
            return self.fetchmany(len(self._rows))

        def close(self) -> None:
            self._cursor.close()

    class Connection(duckdb_engine.ConnectionWrapper):  # type: ignore[misc, name-defined]  # untyped
        def __init__(self, connection: Any) -> None:
            super().__init__(connection)
            self._connection = connection

        def cursor(self) -> Any:
            cursor = self._connection.cursor()
            for setting in SETTINGS:
                cursor.execute(f"SET {setting}")
            return Cursor(cursor, self)

        def begin(self) -> None:
            """Nothing: each statement is a transaction."""

        commit = rollback = begin

        def close(self) -> None:
            close(self._connection)
            self.closed = True

    engine = sqlalchemy.create_engine(
        "duckdb://",
        creator=lambda: Connection(connect()),
        poolclass=sqlalchemy.pool.NullPool,  # an idle connection would keep other processes from the file
    )
    # It takes itself for an old PostgreSQL, where a backslash in a string had to be doubled.
    engine.dialect._backslash_escapes = False  # noqa: SLF001 (duckdb-engine leaves it as it is in PostgreSQL's dialect)
    _let_go_at_exit()
    _engines.add(engine)
    return engine


_engines: weakref.WeakSet[Any] = weakref.WeakSet()


@functools.cache
def _let_go_at_exit() -> None:
    """Nothing. At the end of Python engines, duckdb-engine and SQLAlchemy's caches let go of DuckDB.

    What keeps it beyond that (a flow keeps the blocks of its module, and they their engines; pandas does, through
    pyarrow) makes DuckDB print a page of complaints to the screen of whoever waits for a report.
    """
    dialect = require("sqlalchemy.dialects.postgresql", extra="great-expectations").base.PGDialect
    caches = [each for each in vars(dialect).values() if hasattr(each, "cache_clear")]

    def let_go() -> None:
        for cache in caches:
            cache.cache_clear()
        for engine in _engines:
            vars(engine.dialect).clear()
            vars(engine).clear()
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "duckdb_engine":
                vars(module).clear()

    atexit.register(let_go)


@contextlib.contextmanager
def held(scan: Scan, columns: Sequence[str] | None, *, memory_limit: str) -> Iterator[Held]:
    """The scan's rows as the table `data` of a DuckDB file that is deleted afterwards; memory stays bounded.

    Args:
        scan: The data.
        columns: Only these of its columns, or all.
        memory_limit: The most memory DuckDB uses, such as "100MB"; what does not fit it keeps in the file.
    """
    duckdb = require("duckdb", extra="great-expectations")
    with tempfile.TemporaryDirectory(prefix="etl-quality-") as folder:
        config = {"memory_limit": memory_limit, "threads": THREADS, "temp_directory": str(Path(folder) / "spill")}

        def connect() -> Any:
            database = duckdb.connect(str(Path(folder) / "data.duckdb"), config=config)
            for setting in (*SETTINGS, "preserve_insertion_order = false"):
                database.execute(f"SET {setting}")
            return database

        try:
            writer = connect()
        except duckdb.Error:
            raise InvalidInputError(
                f"DuckDB does not take memory_limit {memory_limit!r}. Give a size such as '100MB'."
            ) from None
        with contextlib.closing(writer):
            _read(scan, scan.schema.names if columns is None else list(columns), writer)
        rows = Held(connect())  # opened anew: what reading took is given back before the checks begin
        try:
            yield rows
        finally:
            rows.close()


def _read(scan: Scan, columns: list[str], database: Any) -> None:
    """Nothing. Reads the scan into the table."""
    chosen = scan if columns == scan.schema.names else scan.select(columns)
    feed = Feed(chosen.schema, chosen.batches())
    database.register("_etl_feed", feed.reader())
    duckdb = require("duckdb", extra="great-expectations")
    try:
        database.execute(f"CREATE TABLE {TABLE} AS SELECT * FROM _etl_feed")
    except duckdb.Error as error:
        if feed.error is not None:
            raise feed.error from None
        raise translate(error, scan.source) from None
    finally:
        database.unregister("_etl_feed")
        pa.default_memory_pool().release_unused()


class Held:
    """The rows of a scan as a table of DuckDB."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def engine(self) -> Any:
        """A SQLAlchemy engine over it."""
        return create_engine(self._cursor, lambda cursor: cursor.close())

    def _cursor(self) -> Any:
        return self._database.cursor()

    def close(self) -> None:
        """Nothing. Closes the database, and lets go of it: Great Expectations may keep an engine."""
        self._database.close()
        self._database = None


def translate(error: BaseException, source: str) -> ConnectorError:
    """The error of this package for one of DuckDB's, without its words: they may hold a value."""
    name = type(error).__name__
    if name == "OutOfMemoryException":
        return TerminalError(f"Could not check {source}: DuckDB needs more memory. Raise memory_limit.")
    if name in ("BinderException", "CatalogException", "ConversionException", "InvalidInputException"):
        return InvalidInputError(f"Could not check {source}: DuckDB does not take it as it is ({name}).")
    return TerminalError(f"Could not check {source}: DuckDB failed with {name}.")
