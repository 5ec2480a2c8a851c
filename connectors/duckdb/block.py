"""DuckDB, the embedded warehouse: a file, or memory. The default everywhere, no account needed.

Errors: https://duckdb.org/docs/stable/clients/python/reference (the exception classes)
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import override

from blocks.base.assets import asset_key
from blocks.base.errors import (
    ConnectorError,
    UnsupportedError,
)
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import lazy, require
from blocks.warehouses.warehouse import Warehouse
from connectors.duckdb.dialect import DuckDBDialect
from connectors.duckdb.errors import translate
from connectors.duckdb.held import DuckDBHeldSession
from connectors.duckdb.locks import Locks
from connectors.duckdb.memory import limit_memory
from connectors.duckdb.session import DuckDBSession

if TYPE_CHECKING:
    import pyarrow as pa

    from blocks.warehouses.held import HeldSession
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")


# DuckDB refuses to open a file that another thread of this process is just closing: opening and closing take turns.
_doors: defaultdict[str, Any] = defaultdict(threading.Lock)

# DuckDB has one writer: transactions of this process that write to one file take turns instead of failing.
_locks = Locks()


class DuckDB(Warehouse):
    """A DuckDB database: a file, or memory that lives as long as this block.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.duckdb import DuckDB

        warehouse = DuckDB.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL DuckDB"
    _block_type_slug: ClassVar[str] = "etl-duckdb"
    _documentation_url: ClassVar[Any] = "https://duckdb.org/docs/"

    path: str = Field(
        default=":memory:", description="The database file, created where it does not exist, or ':memory:'."
    )
    read_only: bool = Field(default=False, description="Open the file for reading only; several processes may.")
    lock_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="Seconds to wait for another load of this process that writes to the file. Defaults to 900.",
    )
    memory_limit: str | None = Field(
        default=None,
        description="The most memory that DuckDB uses, such as '2GB' or '80%'; what needs more goes through temporary "
        "files beside the database, or fails. Defaults to 1GB for a file, or 125MB per core where that is more, and to "
        "80% of the machine's memory for ':memory:'.",
    )
    statement_timeout_s: float | None = Field(
        default=None, gt=0, description="Seconds that one statement may take before it is ended. Defaults to no limit."
    )

    def uri(self, table: str = "") -> str:
        """`duckdb://path/table`."""
        return f"duckdb://{self.path}" + (f"/{table}" if table else "")

    @override
    def asset_key(self, table: str) -> str:
        """Return the key of a table as an asset in Prefect, with the whole path of the file and the schema."""
        path = self.path if self.path == ":memory:" else Path(self.path).resolve().as_posix()
        return asset_key(f"duckdb://{path}/{table if '.' in table else f'main.{table}'}")

    @property
    def dialect(self) -> Dialect:
        """The SQL of DuckDB."""
        return DuckDBDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the database opens and answers."""
        with self._session() as session:
            version = session.fetch("SELECT version()")[0][0]
        return f"{self.uri()} opens and answers (DuckDB {version})."

    def get_client(self) -> Any:
        """Open a `duckdb.DuckDBPyConnection`, for everything that this block has no method for.

        The caller closes it, by `close_client` where other threads open the same file.
        """
        duckdb = require("duckdb", extra="duckdb")
        try:
            if self.path == ":memory:":
                return self._in_memory.cursor()
            if not self.read_only:
                Path(self.path).expanduser().parent.mkdir(parents=True, exist_ok=True)
            with _doors[self._file]:
                client = duckdb.connect(self._file, read_only=self.read_only, config=self._config)
            if self.memory_limit is None:
                limit_memory(client)
        except (duckdb.Error, OSError) as error:
            raise translate(error, "open", self.uri()) from None
        return client

    def get_engine(self) -> Any:
        """Return the block's SQLAlchemy engine, made at the first call. Each statement commits by itself.

        It keeps no connection open, so there is nothing to dispose of.
        """
        return self._sql_engine

    @live
    def _sql_engine(self) -> Any:
        from connectors.shared.duckdb_engine import create_engine

        return create_engine(self.get_client, self.close_client)

    @live
    def _in_memory(self) -> Any:
        return require("duckdb", extra="duckdb").connect(":memory:", config=self._config)

    @live
    def _own_locks(self) -> Locks:
        return Locks()

    @live
    def _memory_id(self) -> str:
        return uuid.uuid4().hex

    def cache_identity(self) -> str:
        """Return what a cached result belongs to; a database in memory is one of its own for as long as it lives."""
        return super().cache_identity() + (self._memory_id if self.path == ":memory:" else "")

    @property
    def _config(self) -> dict[str, Any]:
        return {"memory_limit": self.memory_limit} if self.memory_limit else {}

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one of DuckDB's that the engine met."""
        return translate(error, "run a query", self.uri())

    def dbt_output(self) -> dict[str, Any]:
        """This database as the output of a dbt profile. While dbt runs it has the file to itself.

        Raises:
            UnsupportedError: It is in memory, where dbt would find a database of its own, or may only be read.
        """
        if self.path == ":memory:":
            raise UnsupportedError(
                "dbt runs in a process of its own, which sees no ':memory:' of this one. Give a file."
            )
        if self.read_only:
            raise UnsupportedError(f"{self.uri()} is read_only, and dbt writes to its target.")
        Path(self._file).parent.mkdir(parents=True, exist_ok=True)
        settings = {"settings": {"memory_limit": self.memory_limit}} if self.memory_limit else {}
        return {"type": "duckdb", "path": self._file, "schema": "main", **settings}

    def writer_lock(self, load_id: str | None = None) -> Any:
        """Return the lock that a transaction of this process holds while it writes to this database.

        With a `load_id`: the one that it holds while it does that load.
        """
        return self._lock_of("load", load_id) if load_id else self._lock_of()

    def creation_lock(self, table: str) -> Any:
        """Return the lock that a transaction of this process holds while it creates a table, before others see it."""
        schema, _, name = table.rpartition(".")
        return self._lock_of("table", (schema or "main").lower(), name.lower())

    def _lock_of(self, *what: str) -> Any:
        locks, file = (self._own_locks, "") if self.path == ":memory:" else (_locks, self._file)
        return locks.of(file, *what)

    def close_client(self, client: Any) -> None:
        """Close a connection of `get_client`; the last one of this process closes the file."""
        with _doors[self._file] if self.path != ":memory:" else contextlib.nullcontext():
            client.close()

    @property
    def _file(self) -> str:
        return str(Path(self.path).expanduser().resolve())

    def _connect(self) -> Session:
        return DuckDBSession(self)

    def _connect_held(self) -> HeldSession:
        return DuckDBHeldSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return DuckDBSession(self, load_id)
