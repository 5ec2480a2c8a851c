"""An SQLAlchemy engine over DuckDB, for tools that check data by SQL.

duckdb-engine alone does not do for them: they fetch a result after its connection went back to the pool, whose
rollback empties it. Here each statement has a cursor of its own, which nothing else touches, and commits by itself.
"""

from __future__ import annotations

import atexit
import copy
import functools
import sys
import weakref
from typing import TYPE_CHECKING, Any

from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = ("TimeZone = 'UTC'", "enable_progress_bar = false", "python_enable_replacements = false")


def create_engine(connect: Callable[[], Any], close: Callable[[Any], None]) -> Any:  # noqa: C901 (two small classes)
    """Create an SQLAlchemy engine over DuckDB; each statement commits by itself.

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
            """Run the statement and take its rows, which are fetched when the connection is closed already."""
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
            """Leave it: each statement is a transaction."""

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
    # It quotes reserved words only, and others cannot stand everywhere either: `at IS NULL`.
    preparer = engine.dialect.identifier_preparer
    preparer.reserved_words = preparer.reserved_words | keywords()
    release_duckdb_at_exit()
    _engines.add(engine)
    return engine


@functools.cache
def keywords() -> frozenset[str]:
    """Return the words that DuckDB's grammar knows."""
    with require("duckdb", extra="duckdb").connect() as connection:  # duckdb.execute is not for several threads
        return frozenset(
            word for (word,) in connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()
        )


def escaping_dialect(engine: Any) -> Any:
    """Return the dialect of the engine with a backslash that escapes in LIKE patterns, as it does in PostgreSQL's."""
    engine.connect().close()  # at the first connection the dialect learns what a copy has to know
    dialect = engine.dialect

    class Compiler(dialect.statement_compiler):  # type: ignore[misc, name-defined]  # untyped
        def visit_like_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
            return self._escaped(binary, super().visit_like_op_binary(binary, operator, **options))

        def visit_not_like_op_binary(self, binary: Any, operator: Any, **options: Any) -> str:
            return self._escaped(binary, super().visit_not_like_op_binary(binary, operator, **options))

        def _escaped(self, binary: Any, text: str) -> str:
            return text if binary.modifiers.get("escape") else rf"{text} ESCAPE '\'"

    escaping = copy.copy(dialect)
    escaping.statement_compiler = Compiler
    return escaping


_engines: weakref.WeakSet[Any] = weakref.WeakSet()


@functools.cache
def release_duckdb_at_exit() -> None:
    """Have the engines and duckdb-engine let go of DuckDB before Python ends.

    Otherwise DuckDB prints a page of "nanobind: leaked ..." after the report that somebody waits for. Python cannot
    collect what is part of a cycle through a map of rpds, which Prefect and Great Expectations import by way of
    jsonschema, and these cycles reach SQLAlchemy, all dialects that are registered with it, and the blocks of a flow's
    module with their engines: https://github.com/crate-py/rpds/issues/264
    """

    def release() -> None:
        for engine in _engines:
            vars(engine).clear()
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "duckdb_engine":
                vars(module).clear()

    atexit.register(release)
