"""Small helpers that start and stop the stand-in servers: loopback only, ended by process id."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import ipaddress
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """`count` different ports on which nothing listens at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    """A port on which nothing listens at this moment."""
    return free_ports(1)[0]


def spawn(
    command: Sequence[str | Path | int],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """The started process, leader of its own group, ended at the latest with this interpreter.

    Args:
        command: The program and its arguments.
        log: Receives both outputs: a pipe that nobody reads would stop the server once it is full.
        env: Added to this process's environment.
        cwd: Its working directory.
        user: The user and group id to run under, for servers that refuse to run as root.
    """
    identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            **identity,
        )
    atexit.register(stop, process)
    return process


def wait(
    ready: Callable[[], object], process: subprocess.Popen[bytes], *, log: Path | None = None, timeout_s: float = 60
) -> None:
    """Returns once `ready()` no longer raises.

    Raises:
        RuntimeError: The process ended instead; the message holds the end of its log.
        TimeoutError: It was still raising after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} while starting.\n{tail}")
        try:
            ready()
        except Exception as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{process.args!r} was not ready after {timeout_s} s.") from error
            time.sleep(0.03)
        else:
            return


def listening(port: int) -> Callable[[], None]:
    """A `ready` for `wait`: a connection to the port is accepted."""

    def connect() -> None:
        socket.create_connection((HOST, port), timeout=1).close()

    return connect


def stop(process: subprocess.Popen[bytes], *, sig: int = signal.SIGTERM, grace_s: float = 10) -> None:
    """Ends the process and its group by id: with `sig`, and with SIGKILL when that does not help in time."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sig)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def write_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """The files of a new authority's certificate, and of a certificate and key that it signed for this host."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = dt.datetime.now(dt.UTC)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=2))
        )

    signing = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        builder(authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signing, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
    server = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), server_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    files[0].write_bytes(authority.public_bytes(pem))
    files[1].write_bytes(server.public_bytes(pem))
    key_bytes = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[2].write_bytes(key_bytes)
    files[2].chmod(0o600)
    return files
