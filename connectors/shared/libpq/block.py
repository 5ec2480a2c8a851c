"""LibpqWarehouse: the block of a database that speaks PostgreSQL's protocol."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr

from blocks.base import errors
from blocks.base.addresses import Host, is_this_machine
from blocks.base.names import Identity
from blocks.base.optional import require
from blocks.warehouses.warehouse import Warehouse
from connectors.shared.libpq.connection import TERMINATE, WORKING, ask, watched_connection
from connectors.shared.libpq.errors import translate

if TYPE_CHECKING:
    from blocks.base.errors import ConnectorError

LOST_AFTER_S = 60
"""How long a network may deliver nothing that was sent before the connection ends: as long as with keepalives."""


SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def check_database(name: str) -> str:
    """Return the name of a database.

    Raises:
        ValueError: It is a URL, which may hold a password, so that it is not shown.
    """
    if "://" in name:
        raise ValueError("is a name and not a URL; host, user and password have fields of their own")
    return name


Database = Annotated[Identity, AfterValidator(check_database)]


class LibpqWarehouse(Warehouse):
    """A database that is reached by libpq: its address, its login, and the connections made with them."""

    _first_fields: ClassVar[tuple[str, ...]] = ("host", "port", "database", "schema", "username", "password")
    _scheme: ClassVar[str]
    """How its address begins."""
    _extra: ClassVar[str]
    """The extra that installs its driver."""

    host: Host | None
    port: int | None
    database: Database | None
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
    ssl_mode: SslMode | None = Field(
        default=None,
        description="How much TLS to ask for. Recommended: verify-full, which alone verifies the server. "
        "Defaults to require, which takes any certificate, and on this machine to prefer.",
    )
    ssl_root_cert: str | None = Field(
        default=None, description="File with the certificates of the authorities, for verify-ca and verify-full."
    )
    connect_timeout_s: int = Field(default=10, ge=1, description="Seconds to wait for a connection. Defaults to 10.")
    read_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds without a byte from the server after which a connection counts as lost. A server that is "
        "still at work on a statement is waited for, however long that takes. Defaults to 300.",
    )
    statement_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that one statement may take before the server ends it. Defaults to no limit.",
    )
    lock_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="Seconds to wait for a lock that another session holds, on a table for example. Defaults to 900.",
    )
    commit_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds to wait for the answer to COMMIT before the ledger is read on another connection. "
        "Defaults to 120.",
    )

    def uri(self, table: str = "") -> str:
        """Return `scheme://host:port/database/schema.table`."""
        name = table if not table or "." in table else f"{self.schema_}.{table}"
        place = self._place()
        return "{}://{}:{}/{}".format(self._scheme, *place) + (f"/{name}" if name else "")

    @abstractmethod
    def _place(self) -> tuple[str, str, str]:
        """Return host, port and database."""

    def _stands_for(self) -> str:
        return f"{super()._stands_for()} as {self.username}"  # whom the server may show other rows

    def connect_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection; the caller closes it."""
        psycopg = require("psycopg", extra=self._extra)
        try:
            connection = watched_connection().connect(**self._settings(label))
        except psycopg.Error as error:
            raise self.translate(error, "connect to") from None
        connection.watch(self.read_timeout_s, lambda pid: self.is_working(label, pid=pid))
        return connection

    def is_working(self, label: str, *, pid: int = 0, sql: str = "") -> bool:
        """Ask the server, on another connection, whether it is at work on a statement that it has not answered.

        Args:
            label: That of the connection in question.
            pid: The process of the server that serves it, where that is known.
            sql: How the statement begins.
        """
        return ask(self._connect_aside, WORKING, name=application_name(label), pid=pid, sql=sql[:500])

    def terminate(self, label: str, pid: int) -> None:
        """End a connection that answers no more, so that it holds no locks; from another one, as far as that works."""
        ask(self._connect_aside, TERMINATE, name=application_name(label), pid=pid)

    def _connect_aside(self) -> Any:
        settings = self._settings() | {"connect_timeout": str(min(self.connect_timeout_s, 5))}
        return require("psycopg", extra=self._extra).connect(**settings)

    def translate(
        self, error: BaseException, action: str, *, ambiguous: bool = False, statement: str = ""
    ) -> ConnectorError:
        """Return the error of this package for one of the driver's."""
        return translate(error, action, self.uri(), ambiguous=ambiguous, statement=statement)

    def _settings(self, label: str = "") -> dict[str, Any]:
        """Return the settings of a connection, as libpq names them.

        https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
        """
        settings = self._login() | {
            "connect_timeout": str(self.connect_timeout_s),
            "application_name": application_name(label),
            # a server that vanished is noticed within a minute, also while something is sent to it
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "tcp_user_timeout": str(int(min(self.read_timeout_s, LOST_AFTER_S) * 1_000)),
        }
        host = settings.get("host") or settings.get("hostaddr") or ""
        here = all(is_this_machine(each) for each in host.split(","))
        return {"sslmode": "prefer" if here else "require"} | settings

    def _login(self) -> dict[str, str]:
        """Return where to connect to and how to log in, as far as the fields say it, as libpq names it."""
        settings = {
            "host": self.host,
            "port": self.port and str(self.port),
            "dbname": self.database,
            "user": self.username,
            "password": self.password.get_secret_value() if self.password else None,
            "sslmode": self.ssl_mode,
            "sslrootcert": self.ssl_root_cert and str(Path(self.ssl_root_cert).expanduser()),
        }
        return {name: value for name, value in settings.items() if value}

    def _verified(self) -> str:
        """Return a sentence that says what TLS protects the connection from."""
        settings = self._settings()
        with contextlib.closing(self.connect_psycopg()) as connection:
            encrypted = bool(connection.pgconn.ssl_in_use)
        mode = settings["sslmode"]
        authorities = settings.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or "~/.postgresql/root.crt"
        if not encrypted:
            return f"The connection is not encrypted (ssl_mode {mode})."
        if mode == "verify-full":
            return "The connection is encrypted, and the server's certificate and name are verified."
        if mode == "verify-ca" or (mode == "require" and Path(authorities).expanduser().exists()):
            return "The connection is encrypted and the server's certificate verified, but not its name (verify-full)."
        return f"The connection is encrypted, but the server is not verified (ssl_mode {mode}; use verify-full)."

    def _access(self, version: str, *, writes: bool = True) -> tuple[str, str]:
        """Return what the server answers to `version`, and what the login may do in the schema if the server `writes`.

        Raises:
            AccessDeniedError: It may not even use it.
        """
        verified = self._verified()
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
        rights = ("reads and writes" if create else "reads, and may not create tables,") if writes else "reads"
        return found, f"{user} {rights} in schema {self.schema_}. {verified}"


def application_name(label: str = "") -> str:
    """Return the name by which the server lists a connection."""
    return f"etl-blocks {label}".strip()[:63]
