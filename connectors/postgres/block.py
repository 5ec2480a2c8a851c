"""The block of a PostgreSQL database: its fields, and the connections that it makes."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr

from blocks.base import errors
from blocks.base.errors import ConnectorError
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.warehouses.warehouse import Warehouse
from connectors.postgres.bulk_session import PostgresBulkSession
from connectors.shared.libpq.dialect import PostgresDialect, quoted
from connectors.shared.libpq.errors import translate
from connectors.shared.libpq.session import PostgresSession

if TYPE_CHECKING:
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Dialect


class Postgres(Warehouse):
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

    host: str = Field(default="localhost", description="The server's name or address.")
    port: int = Field(default=5432, ge=1, le=65535, description="The server's port.")
    database: str = Field(default="postgres", description="The database.")
    username: str | None = Field(
        default=None, description="The role to log in as; empty means PGUSER, else the user of this process."
    )
    password: SecretStr | None = Field(
        default=None, description="Its password; empty means PGPASSWORD, else the password file, else none."
    )
    schema_: str = Field(
        default="public", alias="schema", description="The schema of tables that are named without one."
    )
    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="How much TLS is asked for; verify-full is the safe choice over a network."
    )
    ssl_root_cert: str | None = Field(
        default=None,
        description="File with the authorities' certificates, for verify-ca and verify-full.",
    )
    connect_timeout_s: int = Field(default=10, ge=1, description="Seconds to wait for a connection.")
    commit_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds to wait for the answer to COMMIT before the ledger is asked on another connection.",
    )

    def uri(self, table: str = "") -> str:
        """`postgres://host:port/database/schema.table`."""
        name = table if not table or "." in table or " " in table else f"{self.schema_}.{table}"
        return f"postgres://{self.host}:{self.port}/{self.database}" + (f"/{name}" if name else "")

    @property
    def dialect(self) -> Dialect:
        """The SQL of PostgreSQL."""
        return PostgresDialect()

    @operation
    def check(self) -> str:
        """One sentence that says that the server is reached, the login works and tables may be made in the schema."""
        with self._session() as session:
            user, version, usage, create = session.fetch(
                "SELECT current_user, current_setting('server_version'), "
                "has_schema_privilege(:name, 'USAGE'), has_schema_privilege(:name, 'CREATE')",
                {"name": self.schema_},
            )[0]
        if not usage:
            raise errors.AccessDeniedError(
                f"{user} may not use schema {self.schema_} in {self.uri()}. Grant it: GRANT USAGE, CREATE ON SCHEMA."
            )
        rights = "reads and writes" if create else "reads, and may not create tables,"
        return f"{self.uri()} answers (PostgreSQL {version}); {user} {rights} in schema {self.schema_}."

    def get_client(self) -> Any:
        """The block's SQLAlchemy engine, made at the first call, for everything that this block has no method for."""
        return self.get_engine()

    def _make_engine(self) -> Any:
        sqlalchemy = require("sqlalchemy", extra="postgres")
        return sqlalchemy.create_engine("postgresql+psycopg://", creator=self.connect_psycopg, pool_pre_ping=True)

    def engine_error(self, error: BaseException) -> ConnectorError:
        """The error of this package for one of psycopg's."""
        return error if isinstance(error, ConnectorError) else translate(error, "run a query", self.uri())

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
        return PostgresSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return PostgresBulkSession(self, load_id)

    def _settings(self, label: str = "") -> dict[str, str]:
        password = self.password.get_secret_value() if self.password else None
        settings = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.username,
            "password": password,
            "sslmode": self.ssl_mode,
            "sslrootcert": self.ssl_root_cert,
            "connect_timeout": str(self.connect_timeout_s),
            "application_name": f"etl-blocks {label}".strip()[:63],
            # a client or a server that vanished is noticed within a minute, on both ends
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
            "-c idle_in_transaction_session_timeout=600000 "
            f"-c timezone=UTC -c search_path={_option(self.schema_)}",
        }
        return {name: value for name, value in settings.items() if value}

    def connect_psycopg(self) -> Any:
        """A new psycopg connection; the caller closes it."""
        psycopg = require("psycopg", extra="postgres")
        try:
            return psycopg.connect(**self._settings())
        except psycopg.Error as error:
            raise translate(error, "connect to", self.uri()) from None

    def connect_adbc(self, label: str = "") -> Any:
        """A new ADBC connection that commits each statement; the caller closes it."""
        adbc = require("adbc_driver_postgresql.dbapi", extra="postgres")
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self._settings(label).items())
        try:
            return adbc.connect(f"postgresql://?{query}", autocommit=True)
        except adbc.Error as error:
            raise translate(error, "connect to", self.uri()) from None


def _option(value: str) -> str:
    """A value within libpq's `options`, where a blank and a backslash are escaped."""
    return quoted(value).replace("\\", "\\\\").replace(" ", "\\ ")
