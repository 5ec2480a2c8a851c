"""LibpqWarehouse: the block of a database that speaks PostgreSQL's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SecretStr

from blocks.base import errors
from blocks.base.arguments import Identity  # noqa: TC001 (pydantic reads it)
from blocks.base.optional import require
from blocks.warehouses.warehouse import Warehouse
from connectors.shared.libpq.errors import translate

if TYPE_CHECKING:
    from blocks.base.errors import ConnectorError


class LibpqWarehouse(Warehouse):
    """A database that is reached by libpq: its address, its login, and the connections made with them."""

    _scheme: ClassVar[str]
    """How its address begins."""
    _extra: ClassVar[str]
    """The extra that installs its driver."""

    host: str = Field(default="localhost", description="The server's name or address. Defaults to localhost.")
    port: int = Field(default=5432, ge=1, le=65535, description="The server's port. Defaults to 5432.")
    database: Identity = Field(default="postgres", description="The database. Defaults to postgres.")
    username: str | None = Field(
        default=None, description="The role to log in as. Defaults to PGUSER, then to the user of this process."
    )
    password: SecretStr | None = Field(
        default=None, description="The role's password. Defaults to PGPASSWORD, then to the password file, then none."
    )
    schema_: Identity = Field(
        default="public",
        alias="schema",
        description="The schema of tables that are named without one. Defaults to public.",
    )
    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="How much TLS to ask for; use verify-full over a network. Defaults to prefer."
    )
    ssl_root_cert: str | None = Field(
        default=None, description="File with the certificates of the authorities, for verify-ca and verify-full."
    )
    connect_timeout_s: int = Field(default=10, ge=1, description="Seconds to wait for a connection. Defaults to 10.")
    commit_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds to wait for the answer to COMMIT before the ledger is read on another connection. "
        "Defaults to 120.",
    )

    def uri(self, table: str = "") -> str:
        """Return `scheme://host:port/database/schema.table`."""
        name = table if not table or "." in table else f"{self.schema_}.{table}"
        return f"{self._scheme}://{self.host}:{self.port}/{self.database}" + (f"/{name}" if name else "")

    def connect_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection; the caller closes it."""
        psycopg = require("psycopg", extra=self._extra)
        try:
            return psycopg.connect(**self._settings(label))
        except psycopg.Error as error:
            raise self.translate(error, "connect to") from None

    def translate(self, error: BaseException, action: str, *, ambiguous: bool = False) -> ConnectorError:
        """Return the error of this package for one of the driver's."""
        return translate(error, action, self.uri(), ambiguous=ambiguous)

    def _settings(self, label: str = "") -> dict[str, Any]:
        """Return the settings of a connection, as libpq names them.

        https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
        """
        settings = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.username,
            "password": self.password.get_secret_value() if self.password else None,
            "sslmode": self.ssl_mode,
            "sslrootcert": self.ssl_root_cert,
            "connect_timeout": str(self.connect_timeout_s),
            "application_name": f"etl-blocks {label}".strip()[:63],
            # a client or a server that vanished is noticed within a minute, on both ends
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
        }
        return {name: value for name, value in settings.items() if value}

    def _access(self, version: str) -> tuple[str, str]:
        """Return what the server answers to `version`, and what the login may do in the schema.

        Raises:
            AccessDeniedError: It may not even use it.
        """
        with self._session() as session:
            user, found, usage, create = session.fetch(
                f"SELECT current_user, {version}, has_schema_privilege(:name, 'USAGE'), "
                "has_schema_privilege(:name, 'CREATE')",
                {"name": self.schema_},
            )[0]
        if not usage:
            raise errors.AccessDeniedError(
                f"{user} may not use schema {self.schema_} in {self.uri()}. Grant it: GRANT USAGE, CREATE ON SCHEMA."
            )
        rights = "reads and writes" if create else "reads, and may not create tables,"
        return found, f"{user} {rights} in schema {self.schema_}."
