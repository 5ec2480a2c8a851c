"""The block of a database that SQLAlchemy has a dialect for: its address, and the connections to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from blocks.base.errors import ConnectorError, InvalidInputError, UnsupportedError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.warehouses.pooled_engine import PooledEngine
from blocks.warehouses.warehouse import Warehouse
from connectors.sqlalchemy.components import ConnectionComponents, components
from connectors.sqlalchemy.dialect import CONTENT, QueryDialect, SQLiteDialect
from connectors.sqlalchemy.errors import translate
from connectors.sqlalchemy.rows import Executed, Row
from connectors.sqlalchemy.session import Content, SqlAlchemyHeldSession, SqlAlchemySession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blocks.arrow.scan import Scan
    from blocks.base.names import Count
    from blocks.warehouses.held import HeldSession
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Parameters


class SqlAlchemyConnector(Warehouse):
    """A database by its SQLAlchemy dialect: SQLite, and any other to ask.

    SQLite is asked and loaded into. Any other database is asked, and written to by `execute` and `execute_many`; loads
    into PostgreSQL, Redshift, Snowflake, BigQuery and DuckDB are those of their own blocks.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.sqlalchemy import SqlAlchemyConnector

        database = SqlAlchemyConnector.load("BLOCK_NAME")
        database.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL SQLAlchemy Connector"
    _block_type_slug: ClassVar[str] = "etl-sqlalchemy-connector"
    _documentation_url: ClassVar[Any] = "https://docs.sqlalchemy.org/en/20/core/engines.html"

    connection_info: ConnectionComponents = Field(
        description="Components of the database's URL; or, in Python and files, the URL itself, such as "
        "sqlite:////srv/shop.db or mysql+pymysql://user:password@host/database."
    )
    connect_args: dict[str, Any] | None = Field(
        default=None, description="Further arguments for the driver's connect function; no place for secrets."
    )
    lock_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="Seconds to wait for another connection that writes to the file of SQLite. Defaults to 900.",
    )
    statement_timeout_s: float | None = Field(
        default=None, gt=0, description="Seconds that one statement may take before it is ended. Defaults to no limit."
    )

    @field_validator("connection_info", mode="before")
    @classmethod
    def _take_url(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return components(text) if isinstance(text, str) else value

    @field_validator("connection_info")
    @classmethod
    def _stays(cls, value: ConnectionComponents) -> ConnectionComponents:
        named = value.database or ":memory:"
        in_memory = ":memory:" in named or "mode=memory" in named or (value.query or {}).get("mode") == "memory"
        if value.backend == "sqlite" and in_memory:
            raise ValueError(
                "is a SQLite in memory, which would be gone after each call; give a file: sqlite:////tmp/shop.db"
            )
        return value

    @property
    def _is_sqlite(self) -> bool:
        return self.connection_info.backend == "sqlite"

    def uri(self, table: str = "") -> str:
        """`sqlite:///path/table`, or `dialect://host:port/database/table`."""
        info = self.connection_info
        host = f"{info.host or ''}{f':{info.port}' if info.port else ''}"
        return f"{info.backend}://{host}/{info.database or ''}" + (f"/{table}" if table else "")

    @property
    def dialect(self) -> SQLiteDialect | QueryDialect:
        """The SQL of the database."""
        if self._is_sqlite:
            return SQLiteDialect()
        return QueryDialect(self.connection_info.backend, self._quote)

    @live
    def _quote(self) -> str:
        return str(self.connection_info.create_url().get_dialect()().identifier_preparer.initial_quote)

    @operation
    def check(self) -> str:
        """Prove in one sentence that the database opens and answers."""
        query = "select 1 from dual" if self.connection_info.backend == "oracle" else "select 1"
        with self._session() as session:
            session.fetch(query)
        return f"{self.uri()} answers."

    def scan_since(self, *_: Any, **__: Any) -> Scan:
        """Refuse to read on: times and decimals are texts to SQLite, and their order is another one.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "SqlAlchemyConnector is no source of scan_since: load scan_query(sql, parameters) by mode='upsert', or "
            "read on from one of the other warehouses."
        )

    # --- Prefect's names ---

    def _take_text(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take SQLAlchemy's `text(...)` as a statement, with what is bound to it."""
        statement = arguments.get("operation")
        if statement is not None and not isinstance(statement, str):
            if not hasattr(statement, "text"):
                raise InvalidInputError("A statement is a text, or SQLAlchemy's text(...), not an expression of its.")
            binds = statement.compile().binds.items()
            bound = {name: each.effective_value for name, each in binds if not each.required}
            bound |= dict(arguments.get("parameters") or {})
            arguments = arguments | {"operation": statement.text, "parameters": bound if binds else None}
        return self._note_statement(arguments)

    @operation(prepare=_take_text, in_session=True, prefects=True)
    def execute(  # type: ignore[override]  # what it returns, and SQLAlchemy's text
        self, operation: Any, parameters: Parameters | None = None
    ) -> Executed:
        """Run one statement, text or SQLAlchemy's `text(...)`, and return how many rows it changed.

        It commits, unless it is within a transaction of a `with` block.

        Raises:
            AmbiguousError: The connection was lost after the statement was sent; look before you run it again.
        """
        with self._statement(operation) as session:
            return Executed(session.execute(*self._named(operation, parameters)))

    @operation(prepare=_take_text, in_session=True, prefects=True)
    def fetch_one(self, operation: Any, parameters: Parameters | None = None) -> Row | None:  # type: ignore[override]
        """Return the first row of a query, a tuple whose values have names; None where it has none.

        In a `with` block, the next row of the query with these parameters; after None it runs anew.
        """
        if held := self._held:
            return next(iter(held.take(*self._named(operation, parameters), 1)), None)
        with self._statement(operation) as session:
            return next(iter(session.fetch(*self._named(operation, parameters), size=1)), None)

    @operation(prepare=_take_text, in_session=True, prefects=True)
    def fetch_many(  # type: ignore[override]
        self, operation: Any, parameters: Parameters | None = None, size: Count = 1
    ) -> list[Row]:
        """Return the next `size` rows of a query, in a `with` block; none at the end, after which it runs anew.

        Raises:
            InvalidInputError: It is not in a `with` block, which keeps the place.
        """
        rows: list[Any] = Warehouse.fetch_many.fn(self, operation, parameters, size)
        return rows

    @operation(prepare=_take_text, in_session=True, prefects=True)
    def execute_many(self, operation: Any, seq_of_parameters: Sequence[Parameters]) -> None:  # type: ignore[override]
        """Run the statement once for each item, all in one transaction: the open one of a `with`, else its own."""
        Warehouse.execute_many.fn(self, operation, seq_of_parameters)

    @operation(prepare=_take_text, in_session=True, prefects=True)
    def fetch_all(self, operation: Any, parameters: Parameters | None = None) -> list[Row]:  # type: ignore[override]
        """Return all rows of a query: tuples whose values have names."""
        if held := self._held:
            return held.fetch_all(*self._named(operation, parameters))
        with self._statement(operation) as session:
            return session.fetch(*self._named(operation, parameters))

    def get_client(self, client_type: Literal["engine", "connection"] = "engine", **options: Any) -> Any:
        """Return the engine, or a new connection, as prefect-sqlalchemy does.

        Args:
            client_type: `engine` is `get_engine`, `connection` is `get_connection`.
            options: Those of the method that `client_type` names.
        """
        return self.get_engine(**options) if client_type == "engine" else self.get_connection(**options)

    def get_engine(self, **options: Any) -> Any:
        """Return the block's SQLAlchemy engine, made at the first call and disposed of when the block is closed.

        Args:
            options: Options of `sqlalchemy.create_engine`. With any, the engine is new, and the caller disposes of it.
        """
        return self._new_engine(**options) if options else self._engine.engine

    def get_connection(self, begin: bool = True, **options: Any) -> Any:
        """Open a connection of the engine, as a context manager; at its end it goes back to the pool.

        Args:
            begin: Whether it is one transaction, committed at the end and undone by an error.
            options: Options of `Engine.begin` or `Engine.connect`.
        """
        engine = self.get_engine()
        return engine.begin(**options) if begin else engine.connect(**options)

    def reset_connections(self) -> None:
        """Close the connections in the pool; the next call opens new ones. The name is Prefect's."""
        self.close()

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one that the engine met."""
        return error if isinstance(error, ConnectorError) else translate(error, "run a query", self.uri())

    # --- connections ---

    @live
    def _engine(self) -> PooledEngine:
        return PooledEngine(self, self._new_engine())

    @live
    def _sessions(self) -> PooledEngine:
        pool = require("sqlalchemy.pool", extra="sqlalchemy")
        engine = self._new_engine(poolclass=pool.NullPool)
        if self._is_sqlite:
            _settle(engine, round(self.lock_timeout_s * 1_000))
        return PooledEngine(self, engine)

    def _new_engine(self, **options: Any) -> Any:
        sqlalchemy = require("sqlalchemy", extra="sqlalchemy")
        connect_args = dict(self.connect_args or {})
        if self._is_sqlite:
            connect_args.setdefault("check_same_thread", False)
        try:
            return sqlalchemy.create_engine(
                self.connection_info.create_url(), **({"connect_args": connect_args} | options)
            )
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            raise translate(error, "find a driver", self.uri()) from None

    def open_connection(self) -> Any:
        """Open a connection for a session; the caller closes it."""
        if self._is_sqlite and (path := self.connection_info.database) and not path.startswith("file:"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self._sessions.engine.connect()

    def _connect(self) -> Session:
        return SqlAlchemySession(self)

    def _connect_held(self) -> HeldSession:
        return SqlAlchemyHeldSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:  # noqa: ARG002 (a lost session undoes itself)
        return SqlAlchemySession(self)


def _settle(engine: Any, busy_ms: int) -> None:
    """Leave it to us when a transaction begins, and have SQLite wait for its one writer."""
    sqlalchemy = require("sqlalchemy", extra="sqlalchemy")

    @sqlalchemy.event.listens_for(engine, "connect")  # type: ignore[untyped-decorator]
    def settle(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {busy_ms:d}")
        connection.create_aggregate(CONTENT, 1, Content)
