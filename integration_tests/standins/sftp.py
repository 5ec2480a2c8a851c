"""SFTP: the server of asyncssh, in a process of its own; it speaks version 3 with OpenSSH's extensions."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
import pytest

from integration_tests.standins.process import HOST, free_port, listening, spawn, stop, wait

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Self

SERVER = Path(__file__).with_name("sftp_server.py")


class SftpServer:
    """A server on loopback with one user, who may log in by password or by key and starts in an empty folder."""

    username, password, passphrase = "loader", "correct horse", "battery staple"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="standin-sftp-"))
        self.files = self.folder / "files"
        self.files.mkdir()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def known_hosts(self) -> str:
        """What ssh-keyscan would print."""
        return f"[{HOST}]:{self.port} {self._host_key.export_public_key().decode()}"

    @property
    def private_key(self) -> str:
        """The user's key."""
        return self.key.export_private_key("openssh").decode()

    @property
    def encrypted_key(self) -> str:
        """The user's key, encrypted with the passphrase."""
        return self.key.export_private_key("pkcs8-pem", self.passphrase).decode()

    def __enter__(self) -> Self:
        self._host_key.write_private_key(self.folder / "host_key")
        self.key.write_public_key(self.folder / "user_key.pub")
        self.start()
        return self

    def start(self) -> None:
        """Start it, at the same port as before."""
        log = self.folder / "log.txt"
        command = [sys.executable, SERVER, HOST, self.port, self.folder, self.username, self.password]
        self.process = spawn(command, log=log)
        wait(listening(self.port), self.process, log=log)

    def strike(self, kind: str, request: str, *, skip: int = 0) -> None:
        """Have something happen to a request.

        Args:
            kind: "broken request" cuts the connection before it is done, "lost answer" after that; "stall" never
                answers it.
            request: The name of the server's method, or several with `|` between them.
            skip: How many such requests pass first.
        """
        (self.folder / "fired").unlink(missing_ok=True)
        new = self.folder / "new"
        new.write_text(f"{kind},{request},{skip}", "utf-8")
        new.rename(self.folder / "fault")

    @property
    def struck(self) -> str:
        """What has happened since, such as "lost answer: link"; "" is nothing."""
        fired = self.folder / "fired"
        return fired.read_text("utf-8") if fired.exists() else ""

    def stop(self) -> None:
        """Stop it, with all of its connections."""
        if self.process is not None:
            stop(self.process)

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sftp_server() -> Iterator[SftpServer]:
    """A server with a folder of its own."""
    with SftpServer() as server:
        yield server
