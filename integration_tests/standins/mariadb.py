"""A real MariaDB from the system's package, for MySQL too: TLS, users with passwords, loopback only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymysql

from integration_tests.standins.process import free_port, listening, spawn, stop, wait, write_certificates

if TYPE_CHECKING:
    from typing import Self

INSTALL = "apt-get install --yes --no-install-recommends mariadb-server"
CONFIG = """
[mysqld]
datadir={folder}/data
socket={folder}/socket
pid-file={folder}/pid
bind-address=127.0.0.1
port={port}
skip-name-resolve
skip-log-bin
max_connections=200
innodb_buffer_pool_size=64M
ssl-ca={folder}/ca.pem
ssl-cert={folder}/server.pem
ssl-key={folder}/server.key
# A crash of the process loses nothing without these; only a crash of the machine would.
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
innodb_doublewrite=0
# The collation that tells neither case nor trailing spaces apart, as servers have it by default.
character-set-server=utf8mb4
collation-server=utf8mb4_general_ci
"""


def find_mariadb() -> str | None:
    """The program, None where it is not installed."""
    return shutil.which("mariadbd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


@dataclass(frozen=True)
class MariaAddress:
    """Where a database is, and who may use it."""

    host: str
    port: int
    user: str
    password: str
    database: str

    def fields(self) -> dict[str, Any]:
        """The same as fields of the `MySQL` block."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": self.password,
            "database": self.database,
        }

    def connect(self, **options: Any) -> pymysql.Connection:
        """A connection of PyMySQL that commits each statement."""
        login = {"host": self.host, "port": self.port, "user": self.user, "password": self.password}
        return pymysql.connect(**(login | {"autocommit": True, "charset": "utf8mb4"} | options))

    def through(self, port: int) -> MariaAddress:
        """The same database behind a proxy on loopback."""
        return replace(self, host="127.0.0.1", port=port)


class MariaServer:
    """One MariaDB server in a folder of its own; `with MariaServer() as server:` ends and removes it."""

    host = "127.0.0.1"
    user = "loader"
    password = "s3crét"

    def __init__(self) -> None:
        program = find_mariadb()
        if program is None:
            raise RuntimeError(f"No MariaDB here. Install it: {INSTALL}")
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="etl-mariadb-"))
        self._user_id = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self.port = free_port()
        self.ca_file, *_ = files = write_certificates(self._folder)
        (self._folder / "data").mkdir()
        config = self._folder / "config"
        config.write_text(CONFIG.format(folder=self._folder, port=self.port))
        for path in (self._folder, self._folder / "data", config, *files):
            self._own(path)
        self._run(
            "mariadb-install-db",
            f"--defaults-file={config}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def _own(self, path: Path) -> None:
        if self._user_id is not None:
            os.chown(path, self._user_id, self._user_id)

    def _run(self, *command: str) -> None:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            user=self._user_id,
            group=self._user_id,
            extra_groups=[] if self._user_id is not None else None,
        )

    def _connect_as_root(self) -> pymysql.Connection:
        return pymysql.connect(unix_socket=str(self._folder / "socket"), user="root", autocommit=True)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement as the server's superuser."""
        with self._connect_as_root() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @property
    def address(self) -> MariaAddress:
        """The server, as a user who may do all but administer it."""
        return MariaAddress(self.host, self.port, self.user, self.password, "")

    def new_database(self) -> MariaAddress:
        """An empty database of its own."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"create database {name}")
        return replace(self.address, database=name)

    def drop_database(self, address: MariaAddress) -> None:
        """Remove a database."""
        self.execute(f"drop database if exists {address.database}")

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        log = self._folder / "log"
        command = [self._program, f"--defaults-file={self._folder / 'config'}"]
        self._process = spawn(command, log=log, user=self._user_id)
        wait(listening(self.port), self._process, log=log)  # PyMySQL leaves a socket open that finds nobody
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGKILL is a crash, from which the next start recovers."""
        if self._process is not None:
            stop(self._process, sig=how)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and start it on the same port."""
        self.stop(how)
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.execute(f"create user {self.user}@'127.0.0.1' identified by '{self.password}'")
            self.execute(f"grant all on *.* to {self.user}@'127.0.0.1'")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
