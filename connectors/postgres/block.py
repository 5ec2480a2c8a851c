"""The block of a PostgreSQL database: its fields, and the connections that it makes."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from blocks.base.errors import ConnectorError, InvalidInputError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.warehouses.pooled_engine import PooledEngine
from connectors.postgres.adbc import WatchedConnection
from connectors.postgres.bulk_session import PostgresBulkSession
from connectors.shared.libpq.block import LibpqWarehouse
from connectors.shared.libpq.dialect import PostgresDialect, quoted
from connectors.shared.libpq.session import LibpqSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Dialect


class Postgres(LibpqWarehouse):
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

    _scheme: ClassVar[str] = "postgres"
    _extra: ClassVar[str] = "postgres"

    @property
    def dialect(self) -> Dialect:
        """The SQL of PostgreSQL."""
        return PostgresDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the server is reached, the login works and tables may be made in the schema."""
        version, access = self._access("current_setting('server_version')")
        return f"{self.uri()} answers (PostgreSQL {version}); {access}"

    def get_client(self, client_type: Literal["engine", "connection"] | None = None, **options: Any) -> Any:
        """Open a psycopg connection, for everything that this block has no method for; the caller closes it.

        Args:
            client_type: As with prefect-sqlalchemy: `engine` is `get_engine`, `connection` is `get_connection`.
            options: Those of the method that `client_type` names.
        """
        if client_type == "engine":
            return self.get_engine(**options)
        if client_type == "connection":
            return self.get_connection(**options)
        if client_type is not None or options:
            raise InvalidInputError("client_type is 'engine' or 'connection', and options need one of them.")
        return self.connect_psycopg()

    def get_engine(self, **options: Any) -> Any:
        """Return the block's SQLAlchemy engine, made at the first call and disposed of when the block is closed.

        Args:
            options: Options of `sqlalchemy.create_engine`. With any, the engine is new, and the caller disposes of it.
        """
        return _create_engine(self.connect_psycopg, **options) if options else self._engine.engine

    def get_connection(self, begin: bool = True, **options: Any) -> Any:
        """Open a connection of the engine, as a context manager; at its end it goes back to the pool.

        Args:
            begin: Whether it is one transaction, committed at the end and undone by an error.
            options: Options of `Engine.begin` or `Engine.connect`.
        """
        engine = self.get_engine()
        return engine.begin(**options) if begin else engine.connect(**options)

    @live
    def _engine(self) -> PooledEngine:
        return PooledEngine(self, _create_engine(self.model_copy().connect_psycopg))

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one of psycopg's that the engine met."""
        return error if isinstance(error, ConnectorError) else self.translate(error, "run a query")

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
        return LibpqSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return PostgresBulkSession(self, load_id)

    def _settings(self, label: str = "") -> dict[str, Any]:
        options = (
            "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
            f"-c idle_in_transaction_session_timeout=600000 -c lock_timeout={round(self.lock_timeout_s * 1_000)} "
            f"-c statement_timeout={round((self.statement_timeout_s or 0) * 1_000)} "
            f"-c timezone=UTC -c search_path={_option(self.schema_)}"
        )
        return super()._settings(label) | {"options": options}

    def connect_adbc(self, label: str = "") -> WatchedConnection:
        """Open a WatchedConnection of ADBC that commits each statement; the caller closes it."""
        adbc = require("adbc_driver_postgresql.dbapi", extra="postgres")
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self._settings(label).items())
        try:
            connection = adbc.connect(f"postgresql://?{query}", autocommit=True)
        except adbc.Error as error:
            raise self.translate(error, "connect to") from None
        return WatchedConnection(
            connection,
            self.read_timeout_s,
            is_working=lambda pid, sql: self.is_working(label, pid=pid, sql=sql),
            terminate=lambda pid: self.terminate(label, pid),
        )


def _create_engine(connect: Callable[[], Any], **options: Any) -> Any:
    sqlalchemy = require("sqlalchemy", extra="postgres")
    defaults = {"creator": connect, "pool_pre_ping": True}
    return sqlalchemy.create_engine("postgresql+psycopg://", **(defaults | options))


def _option(value: str) -> str:
    r"""Return a quoted name within libpq's `options`, where a space and a backslash are escaped.

    >>> print(_option("my schema"))
    "my\ schema"
    """
    return quoted(value).replace("\\", "\\\\").replace(" ", "\\ ")
