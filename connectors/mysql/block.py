"""The block of a MySQL or MariaDB database: its fields, and the connections made with them."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr
from typing_extensions import override

from blocks.base.addresses import Host, is_this_machine
from blocks.base.live import live
from blocks.base.names import Identity  # noqa: TC001 (pydantic reads it)
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.warehouses.pooled_engine import PooledEngine
from blocks.warehouses.warehouse import Warehouse
from connectors.mysql.connection import SslMode, connection_class, tls_context
from connectors.mysql.dialect import MySQLDialect
from connectors.mysql.errors import translate
from connectors.mysql.held import MySQLHeldSession
from connectors.mysql.session import MySQLSession

if TYPE_CHECKING:
    from blocks.base.errors import ConnectorError
    from blocks.warehouses.held import HeldSession
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Dialect

SQL_MODE = (
    "STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_VALUE_ON_ZERO,"
    "NO_ENGINE_SUBSTITUTION"
)
"""https://dev.mysql.com/doc/refman/8.4/en/sql-mode.html"""
SETTINGS = {
    "sql_mode": f"'{SQL_MODE}'",
    "time_zone": "'+00:00'",
    "sql_safe_updates": "0",
    "sql_select_limit": "DEFAULT",
    "wait_timeout": "28800",  # the source of a load may pause
    "net_read_timeout": "600",
    "net_write_timeout": "600",  # and so may whoever reads a scan
}
"""What each session of ours sets for itself, whatever the server's defaults are."""
LONGEST_LOCK_S = 31_536_000
BUSY = ("Query", "Execute", "Prepare")
"""What the server calls a connection on which it is at work."""
WAITS_FOR_CLIENT = ("Writing to net", "Sending to client", "Reading from net", "Receiving from client")
"""States of such a connection in which the server waits for its client: while that waits for the server, it is lost."""
LOOK_S = 5


class MySQL(Warehouse):
    """A MySQL 8 or MariaDB database, by PyMySQL.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.mysql import MySQL

        warehouse = MySQL.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL MySQL"
    _block_type_slug: ClassVar[str] = "etl-mysql"
    _documentation_url: ClassVar[Any] = "https://dev.mysql.com/doc/refman/8.4/en/"

    host: Host = Field(
        default="localhost",
        description="The server's name or address, or the path of a Unix socket. Defaults to localhost.",
    )
    port: int = Field(default=3306, ge=1, le=65535, description="The server's port. Defaults to 3306.")
    database: Identity = Field(description="The database of tables that are named without one.")
    username: str = Field(description="The user to log in as.")
    password: SecretStr | None = Field(default=None, description="The user's password. Defaults to none.")
    ssl_mode: SslMode | None = Field(
        default=None,
        description="How much TLS to ask for. Recommended: verify-full, which alone verifies the server. "
        "Defaults to require, which takes any certificate, and on this machine to prefer.",
    )
    ssl_root_cert: str | None = Field(
        default=None,
        description="File with the certificates of the authorities, for verify-ca and verify-full. Defaults to those "
        "of the system.",
    )
    ssl_cert: str | None = Field(
        default=None, description="File with the certificate by which this client logs in. Defaults to none."
    )
    ssl_key: str | None = Field(default=None, description="File with the key of that certificate. Defaults to none.")
    connect_timeout_s: int = Field(default=10, ge=1, description="Seconds to wait for a connection. Defaults to 10.")
    read_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds without a byte from the server after which a connection counts as lost. A server that is "
        "still at work on a statement is waited for, however long that takes. Defaults to 300.",
    )
    statement_timeout_s: float | None = Field(
        default=None, gt=0, description="Seconds that one statement may take before it is ended. Defaults to no limit."
    )
    lock_timeout_s: float = Field(
        default=900.0,
        gt=0,
        le=LONGEST_LOCK_S,
        description="Seconds to wait for a lock that another session holds, on a table for example. Defaults to 900.",
    )
    commit_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds to wait for the answer to COMMIT before the ledger is read on another connection. "
        "Defaults to 120.",
    )

    def uri(self, table: str = "") -> str:
        """Return `mysql://host:port/database.table`."""
        name = f".{table}" if table and "." not in table else ""
        database = table if "." in table else self.database
        return f"mysql://{self.host}:{self.port}/{database}{name}"

    @property
    def _database(self) -> str:
        return f"mysql://{self.host}:{self.port}"  # a statement may name the tables of all its databases

    def _stands_for(self) -> str:
        return f"{super()._stands_for()} as {self.username}"

    @property
    def dialect(self) -> Dialect:
        """The SQL of MySQL and MariaDB."""
        return MySQLDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the server is reached and the login works, and say how the way is secured."""
        with contextlib.closing(self.connect(connection_class())) as connection, self._session() as session:
            encrypted = connection.encrypted
            user, version, reads_only = session.fetch("SELECT current_user(), version(), @@read_only")[0]
        product = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        writes = " It takes no writes (read_only): load into its primary." if reads_only else ""
        return f"{self.uri()} answers ({product} {version}) to {user}.{writes} {self._verified(encrypted=encrypted)}"

    def _verified(self, *, encrypted: bool) -> str:
        """Return a sentence that says what TLS protects the connection from."""
        mode = self._ssl_mode
        if not encrypted:
            return f"The connection is not encrypted (ssl_mode {mode})."
        if mode == "verify-full":
            return "The connection is encrypted, and the server's certificate and name are verified."
        if mode == "verify-ca":
            return "The connection is encrypted and the server's certificate verified, but not its name (verify-full)."
        return f"The connection is encrypted, but the server is not verified (ssl_mode {mode}; use verify-full)."

    def get_client(self) -> Any:
        """Open a PyMySQL connection that commits each statement; the caller closes it."""
        return self.connect()

    def get_engine(self) -> Any:
        """Return the block's SQLAlchemy engine, made at the first call and disposed of when the block is closed."""
        return self._engine.engine

    @live
    def _engine(self) -> PooledEngine:
        block = self.model_copy()
        create_engine = require("sqlalchemy", extra="mysql").create_engine
        creator = {"creator": lambda: block.connect(autocommit=False), "pool_pre_ping": True}
        return PooledEngine(self, create_engine("mysql+pymysql://", **creator))

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one of PyMySQL's that the engine met."""
        return translate(error, "run a query", self.uri())

    def connect(self, kind: Any = None, **options: Any) -> Any:
        """Open a connection of PyMySQL with the settings of this block, which commits each statement.

        Args:
            kind: A class of its connections. Defaults to PyMySQL's own.
            options: Options of that class, before those of the block.
        """
        pymysql = require("pymysql", extra="mysql")
        context = tls_context(self._ssl_mode, self.ssl_root_cert, self.ssl_cert, self.ssl_key)
        settings: dict[str, Any] = {
            **({"unix_socket": self.host} if self.host.startswith("/") else {"host": self.host, "port": self.port}),
            "user": self.username,
            "password": self.password.get_secret_value().encode() if self.password else "",
            "database": self.database,
            "charset": "utf8mb4",
            "autocommit": True,
            "client_flag": require("pymysql.constants.CLIENT", extra="mysql").FOUND_ROWS,
            "connect_timeout": self.connect_timeout_s,
            "program_name": "etl-blocks",
            "ssl": context,
            "ssl_disabled": self._ssl_mode == "disable",
        }
        if kind is not None:  # which waits for answers in its own way, once it is connected
            settings |= {"read_timeout": self.connect_timeout_s, "write_timeout": self.connect_timeout_s}
        try:
            connection = (kind or pymysql.connections.Connection)(**(settings | options))
        except pymysql.Error as error:
            raise translate(error, "connect to", self.uri()) from None
        try:
            connection.query(self._settings)
            connection.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        except pymysql.Error as error:
            connection.close()
            raise translate(error, "connect to", self.uri()) from None
        return connection

    @property
    def _ssl_mode(self) -> SslMode:
        return self.ssl_mode or ("prefer" if is_this_machine(self.host) else "require")

    @property
    def _settings(self) -> str:
        wait_s = max(1, round(self.lock_timeout_s))
        settings = SETTINGS | {"lock_wait_timeout": f"{wait_s}", "innodb_lock_wait_timeout": f"{wait_s}"}
        return "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in settings.items())

    def cancel(self, number: int) -> None:
        """End what a connection runs; from another one, as far as that works."""
        self._ask(f"KILL QUERY {number}")

    def is_working(self, number: int) -> bool:
        """Ask the server, on another connection, whether it is at work on what this one waits for."""
        for row in self._ask("SHOW FULL PROCESSLIST"):
            if row[0] == number:
                return row[4] in BUSY and (row[6] or "") not in WAITS_FOR_CLIENT
        return False

    def _ask(self, question: str) -> list[Any]:
        """Return the rows of the answer, none where the server does not give one soon."""
        found: list[Any] = []

        def run() -> None:
            timeout_s = min(self.connect_timeout_s, LOOK_S)
            timeouts = dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), timeout_s)
            with (
                contextlib.suppress(Exception),
                contextlib.closing(self.connect(**timeouts)) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute(question)
                found.extend(cursor.fetchall())

        thread = threading.Thread(target=run, name="etl-look", daemon=True)
        thread.start()
        thread.join(LOOK_S)
        return list(found)

    @override
    def _connect(self) -> Session:
        return MySQLSession(self, alone=True)

    @override
    def _connect_held(self) -> HeldSession:
        return MySQLHeldSession(self)

    @override
    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return MySQLSession(self, load_id)
