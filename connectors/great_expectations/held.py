"""Data held in a temporary DuckDB while it is checked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from blocks.base.errors import ConnectorError, InvalidInputError, TerminalError
from blocks.base.optional import lazy, require
from blocks.base.temporary import TemporaryFolder
from blocks.warehouses.session import Feed
from connectors.shared.duckdb_engine import SETTINGS, create_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from blocks.arrow.scan import Scan
else:
    pa = lazy("pyarrow")

TABLE = "data"
"""The table of the temporary DuckDB."""

THREADS = 1
"""Each thread of DuckDB keeps some of the data that it works on in memory."""


@contextlib.contextmanager
def held(scan: Scan, columns: Sequence[str] | None, *, memory_limit: str) -> Iterator[Held]:
    """Hold the scan's rows as the table `data` of a DuckDB file that is deleted afterwards; memory stays bounded.

    Args:
        scan: The data.
        columns: Only these of its columns, or all.
        memory_limit: The most memory DuckDB uses, such as "100MB"; what does not fit it keeps in the file.
    """
    duckdb = require("duckdb", extra="great-expectations")
    with TemporaryFolder() as folder:
        config = {"memory_limit": memory_limit, "threads": THREADS, "temp_directory": str(folder / "spill")}

        def connect() -> Any:
            database = duckdb.connect(str(folder / "data.duckdb"), config=config)
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
    """Read the scan into the table."""
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
        """Create an SQLAlchemy engine over it."""
        return create_engine(self._cursor, lambda cursor: cursor.close())

    def _cursor(self) -> Any:
        return self._database.cursor()

    def close(self) -> None:
        """Close the database, and let go of it: Great Expectations may keep an engine."""
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
