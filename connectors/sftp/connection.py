"""One connection to an SFTP server, by asyncssh.

paramiko would need no event loop. But its SFTPClient is not for several threads, waits for each 32 KiB that it reads,
and does not send hard links, without which no write is conditional.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks.base.event_loop import EventLoop, Synchronous
from blocks.base.optional import lazy, require

if TYPE_CHECKING:
    import asyncssh
    from pydantic import SecretStr
else:
    asyncssh = lazy("asyncssh")

LOST = ("ConnectionLost", "SFTPConnectionLost", "SFTPNoConnection", "TimeoutError")
"""Errors after which a connection is of no use: it, or the server's process behind it, ended or does not answer."""


@dataclass(frozen=True)
class Login:
    """Where to log in, and how; what is None is as `ssh` has it on this machine."""

    host: str
    port: int
    username: str | None
    password: SecretStr | None
    private_key: SecretStr | None
    passphrase: SecretStr | None
    known_hosts: str | None
    read_timeout_s: float

    async def open(self) -> tuple[Any, Any]:
        """Open an SSH connection, and an SFTP session on it."""
        require("asyncssh", extra="sftp")
        options: dict[str, Any] = {}
        if self.username is not None:
            options["username"] = self.username
        if self.known_hosts is not None:
            options["known_hosts"] = asyncssh.import_known_hosts(self.known_hosts)
        if self.private_key is not None:
            passphrase = None if self.passphrase is None else self.passphrase.get_secret_value()
            options["client_keys"] = [asyncssh.import_private_key(self.private_key.get_secret_value(), passphrase)]
        if self.password is not None:
            options["password"] = self.password.get_secret_value()
            options.setdefault("client_keys", None)  # a server counts the keys that it refuses
        limits = {"connect_timeout": self.read_timeout_s, "login_timeout": self.read_timeout_s}
        alive = {"keepalive_interval": self.read_timeout_s / 2, "keepalive_count_max": 1}
        connection = await asyncssh.connect(self.host, self.port, **limits, **alive, **options)
        try:
            return connection, await connection.start_sftp_client(path_errors="surrogateescape")
        except BaseException:
            connection.abort()
            raise


class Connection(EventLoop):
    """An SSH connection with an SFTP session on it, which several threads may use."""

    def __init__(self, login: Login) -> None:
        super().__init__("sftp", ends_with=lambda error: type(error).__name__ in LOST, limit_s=login.read_timeout_s)
        try:
            self._ssh, self._sftp = self.run(login.open)
        except BaseException:
            self.close()
            raise
        self.before_closing(self._ssh.abort)

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return self.is_closed or self._ssh.is_closed()

    @property
    def files(self) -> SftpFiles:
        """What the server is asked."""
        return SftpFiles(self, self._sftp)


class SftpFiles(Synchronous):
    """asyncssh's requests, each waited for."""

    def open(self, path: str, mode: str) -> Any:
        """Open a file, whose own requests are waited for, too."""
        return Synchronous(self.loop, self.loop.run(self.target.open, path, mode))

    def rename(self, path: str, target: str) -> None:
        """Give a file another name, in place of the one that has it."""
        try:
            self.posix_rename(path, target)
        except asyncssh.SFTPOpUnsupported:
            self.loop.run(self.target.rename, path, target)  # by which some servers replace; others refuse to
