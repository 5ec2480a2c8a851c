"""The block of a PostgreSQL database: its fields, and the connections that it makes."""

from __future__ import annotations

import contextlib
import getpass
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote, urlencode

from pydantic import Field, SecretStr, field_validator

from blocks.arrow.parts import Division
from blocks.arrow.scan import Scan, parts_of
from blocks.base.addresses import Host  # noqa: TC001 (pydantic reads it)
from blocks.base.errors import ConnectorError, InvalidInputError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.warehouses.pooled_engine import PooledEngine
from connectors.postgres.adbc import WatchedConnection
from connectors.postgres.address import is_connection_string, resolve
from connectors.postgres.bulk_session import PostgresBulkSession
from connectors.postgres.database import AdbcDatabases
from connectors.postgres.held import PostgresHeldSession
from connectors.postgres.session import PostgresSession, setting
from connectors.postgres.snapshot import Snapshot, divide, held
from connectors.shared.libpq.block import Database, LibpqWarehouse, application_name
from connectors.shared.libpq.dialect import PostgresDialect, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from blocks.arrow.rejects import Rejects
    from blocks.warehouses.held import HeldSession
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
    _documentation_url: ClassVar[Any] = "https://www.postgresql.org/docs/current/libpq-connect.html"

    _scheme: ClassVar[str] = "postgres"
    _extra: ClassVar[str] = "postgres"

    host: Host | None = Field(
        default=None, description="The server's name or address. Defaults to PGHOST, then to localhost."
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="The server's port. Defaults to PGPORT, then to 5432."
    )
    database: Database | None = Field(
        default=None, description="The database. Defaults to PGDATABASE, then to postgres."
    )
    connection_string: SecretStr | None = Field(
        default=None,
        description="A URL such as postgresql://loader@db.example.com/shop, or libpq's keywords and values. Other "
        "fields come before what it says.",
    )
    service: str | None = Field(
        default=None,
        description="A service of the service file (PGSERVICEFILE, else ~/.pg_service.conf), for what no field and no "
        "connection string says. Defaults to PGSERVICE.",
    )
    ssl_cert: str | None = Field(
        default=None,
        description="File with the certificate by which this client logs in. Defaults to PGSSLCERT, then to "
        "~/.postgresql/postgresql.crt.",
    )
    ssl_key: str | None = Field(
        default=None,
        description="File with the key of that certificate. Defaults to PGSSLKEY, then to "
        "~/.postgresql/postgresql.key.",
    )
    ssl_key_password: SecretStr | None = Field(default=None, description="Password of that key, if it has one.")
    options: str | None = Field(
        default=None,
        description="Settings of each session, such as '-c work_mem=64MB'; poolers may refuse them. Defaults to "
        "PGOPTIONS.",
    )

    @field_validator("connection_string")
    @classmethod
    def _is_connection_string(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_connection_string(value.get_secret_value()):
            raise ValueError("is a URL such as postgresql://loader@db.example.com/shop, or host=... dbname=...")
        return value

    @property
    def dialect(self) -> Dialect:
        """The SQL of PostgreSQL."""
        return PostgresDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the server is reached, the login works and tables may be made in the schema."""
        with self._session() as session:
            standby, read_only = session.fetch(
                "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'"
            )[0]
        version, access = self._access("current_setting('server_version')", writes=not (standby or read_only))
        if standby:
            access += " It is a hot standby, which takes no writes: load into its primary."
        elif read_only:
            access += " Its transactions are read-only (default_transaction_read_only), so loads are refused."
        return f"{self.uri()} answers (PostgreSQL {version}); {access}"

    def get_client(self, client_type: Literal["engine", "connection"] | None = None, **options: Any) -> Any:
        """Open a psycopg connection, for everything that this block has no method for; the caller closes it.

        Behind a pooler it has the settings of its role: name tables with their schema there. `get_engine` and
        `get_connection` set the block's schema in each transaction.

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
        return _create_engine(self.model_copy(), **options) if options else self._engine.engine

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
        return PooledEngine(self, _create_engine(self.model_copy()))

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one of psycopg's that the engine met."""
        return error if isinstance(error, ConnectorError) else self.translate(error, "run a query")

    def dbt_output(self) -> dict[str, Any]:
        """This database as the output of a dbt profile; what is empty is found as libpq finds it.

        https://docs.getdbt.com/docs/core/connect-data-platform/postgres-setup
        """
        login = self._settings()
        output = {
            "type": "postgres",
            "host": login["host"],
            "port": int(login["port"]),
            "dbname": login["dbname"],
            "schema": self.schema_,
            "user": login.get("user") or os.environ.get("PGUSER") or getpass.getuser(),
            "password": SecretStr(login["password"]) if "password" in login else "",  # dbt asks for one; "" is none
            "sslmode": login["sslmode"],
            **{name: login.get(name) for name in ("sslcert", "sslkey", "sslrootcert")},
            "connect_timeout": self.connect_timeout_s,
            "keepalives_idle": 30,
            "application_name": "etl-blocks dbt",
        }
        return {name: value for name, value in output.items() if value is not None}

    def _connect(self) -> Session:
        return PostgresSession(self)

    def _connect_held(self) -> HeldSession:
        return PostgresHeldSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return PostgresBulkSession(self, load_id)

    def _division(self, table: str) -> Division[Scan]:
        @contextlib.contextmanager
        def opened(n: int) -> Iterator[list[Scan]]:
            with held(self, table) as snapshot:
                yield self._parts(table, n, snapshot, snapshot.id)

        def apart(n: int) -> list[Scan]:
            with held(self, table, shared=False) as snapshot:
                return self._parts(table, n, snapshot, None)

        return Division(opened, apart)

    def _parts(self, table: str, n: int, snapshot: Snapshot, shared: str | None) -> list[Scan]:
        """Return the parts of a table: of the snapshot that is `shared`, or without one as they are when read."""
        spans = divide(snapshot.tables(), n)
        schema = self.scan(table).schema
        columns = self.dialect.names(schema.names)
        queries = [" UNION ALL ".join(span.sql(columns) for span in part) for part in spans]
        return parts_of(
            [partial(self._read_part, sql, shared) for sql in queries],
            schema=schema,
            source=self.uri(table),
            query=f"table {table}",
            origins=[self.asset_key(table)],
        )

    def _read_part(self, sql: str, snapshot: str | None, _: Rejects | None) -> Iterator[pa.RecordBatch]:
        with contextlib.closing(PostgresBulkSession(self, None, snapshot)) as session:
            yield from session.stream(sql)[1]

    def transaction_settings(self, label: str = "") -> dict[str, str]:
        """Return what each transaction sets for itself, by the server's names.

        Nothing is set for a session, or when connecting: a pooler refuses it, or keeps it for whoever comes next.
        """
        return {
            "search_path": quoted(self.schema_),
            "TimeZone": "UTC",
            "lock_timeout": f"{max(1, round(self.lock_timeout_s * 1_000))}",
            "statement_timeout": f"{round((self.statement_timeout_s or 0) * 1_000)}",
            "application_name": application_name(label),
            # a client that vanished is noticed within a minute
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }

    def open_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection with the server's own settings; the caller closes it."""
        connection = super().connect_psycopg(label)
        connection.prepare_threshold = None  # a pooler may give the next transaction another server process
        return connection

    def connect_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection with the block's settings, where no pooler loses them; the caller closes it."""
        connection = self.open_psycopg(label)
        psycopg = require("psycopg", extra="postgres")
        try:
            self.settle(connection)
        except psycopg.Error as error:
            connection.close()
            raise self.translate(error, "connect to") from None
        return connection

    def settle(self, connection: Any) -> bool:
        """Give a connection the settings of the block for good; False where a pooler would not keep them.

        A server tells its clients the number of the process that serves them; a pooler tells them one of its own.
        """
        autocommit, connection.autocommit = connection.autocommit, True
        try:
            process = connection.execute("SELECT pg_backend_pid()").fetchone()[0]
            direct = bool(process == connection.info.backend_pid)
            if direct:
                connection.execute(setting(self.transaction_settings(), local=False))
        finally:
            connection.autocommit = autocommit
        return direct

    def connect_adbc(self, label: str = "") -> WatchedConnection:
        """Open a WatchedConnection of ADBC, whose transactions the caller begins and ends; and it closes it."""
        return WatchedConnection(
            self._with_databases(AdbcDatabases.connect),
            self.read_timeout_s,
            is_working=lambda pid, sql: self.is_working(label, pid=pid, sql=sql),
            terminate=lambda pid: self.terminate(label, pid),
        )

    def refresh_types(self, unknown: set[str]) -> bool:
        """Have the next ADBC connections know types that were made since; False if these are known to no driver."""
        return bool(self._with_databases(lambda databases: databases.refresh(unknown)))

    def _with_databases(self, call: Callable[[AdbcDatabases], Any]) -> Any:
        adbc = require("adbc_driver_manager", extra="postgres")
        try:
            return call(self._databases)
        except adbc.Error as error:
            raise self.translate(error, "connect to") from None

    @live
    def _databases(self) -> AdbcDatabases:
        return AdbcDatabases(f"postgresql://?{urlencode(self._settings(), quote_via=quote)}")  # it holds the password

    def _login(self) -> dict[str, str]:
        own = {
            "service": self.service,
            "sslcert": self.ssl_cert and str(Path(self.ssl_cert).expanduser()),
            "sslkey": self.ssl_key and str(Path(self.ssl_key).expanduser()),
            "sslpassword": self.ssl_key_password and self.ssl_key_password.get_secret_value(),
            "options": self.options,
        }
        given = super()._login() | {name: value for name, value in own.items() if value}
        return resolve(given, self.connection_string.get_secret_value() if self.connection_string else None)

    def _stands_for(self) -> str:
        return f"{super(LibpqWarehouse, self)._stands_for()} as {self._login().get('user')}"

    def _place(self) -> tuple[str, str, str]:
        login = self._login()
        return login["host"], login["port"], login["dbname"]

    def cache_identity(self) -> str:
        """Return what a cached result belongs to, wherever the address is from."""
        return f"{super().cache_identity()} {self.uri()}"


def _create_engine(block: Postgres, **options: Any) -> Any:
    """Return an engine whose connections, or transactions behind a pooler, have the settings of the block."""
    sqlalchemy = require("sqlalchemy", extra="postgres")
    defaults = {"creator": block.open_psycopg, "pool_pre_ping": True}
    engine = sqlalchemy.create_engine("postgresql+psycopg://", **(defaults | options))

    @sqlalchemy.event.listens_for(engine, "connect")  # type: ignore[untyped-decorator]
    def settle(connection: Any, record: Any) -> None:
        record.info["etl_settled"] = block.settle(connection)

    @sqlalchemy.event.listens_for(engine, "begin")  # type: ignore[untyped-decorator]
    def set_up(connection: Any) -> None:
        if not connection.info["etl_settled"]:
            connection.connection.dbapi_connection.execute(setting(block.transaction_settings()))

    return engine
