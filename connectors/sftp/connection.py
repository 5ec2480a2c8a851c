"""One connection to an SFTP server, by asyncssh, whose event loop runs in a thread of the connection's.

paramiko would need no loop. But its SFTPClient is not for several threads, waits for each 32 KiB that it reads, and
does not send hard links, without which no write is conditional.
"""

from __future__ import annotations

import contextlib
import weakref
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anyio.from_thread import start_blocking_portal

from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

    from pydantic import SecretStr

T = TypeVar("T")

LOST = ("ConnectionLost", "SFTPConnectionLost", "SFTPNoConnection")
"""asyncssh's errors after which a connection is of no use: it, or the server's process behind it, ended."""


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
    timeout_s: float

    async def open(self) -> tuple[Any, Any]:
        """Open an SSH connection, and an SFTP session on it."""
        asyncssh = require("asyncssh", extra="sftp")
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
        connection = await asyncssh.connect(
            self.host,
            self.port,
            connect_timeout=self.timeout_s,
            login_timeout=self.timeout_s,
            keepalive_interval=self.timeout_s / 2,
            keepalive_count_max=1,
            **options,
        )
        try:
            return connection, await connection.start_sftp_client(path_errors="surrogateescape")
        except BaseException:
            connection.abort()
            raise


class Connection:
    """An SSH connection with an SFTP session on it, which several threads may use."""

    def __init__(self, login: Login) -> None:
        stack = contextlib.ExitStack()
        # Without a reference to this object: the connection ends with the last one who has it.
        self.close = weakref.finalize(self, stack.close)
        self._portal = stack.enter_context(start_blocking_portal(name="sftp"))
        try:
            self._ssh, self.sftp = self.run(login.open())
        except BaseException:
            self.close()
            raise
        stack.callback(self._portal.call, self._ssh.abort)

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return not self.close.alive or self._ssh.is_closed()

    def run(self, request: Coroutine[Any, Any, T]) -> T:
        """Send a request, and return its answer; a connection that turns out to be lost is closed."""
        value, error = self._settled(request)
        if error is None:
            return cast("T", value)
        if type(error).__name__ in LOST:
            self.close()
        try:
            raise error
        finally:
            del error  # it holds this frame, and so its caller's

    def _settled(self, request: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
        try:
            waiting: Future[tuple[T | None, Exception | None]] = self._portal.start_task_soon(_outcome, request)
            while not wait([waiting], timeout=1).done and self.close.alive:
                pass
            return waiting.result(timeout=0)
        except (RuntimeError, CancelledError, TimeoutError):
            request.close()
            return None, ConnectionAbortedError("the connection was closed")


async def _outcome(request: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """Return what a request returns or raises: without the traceback, in which asyncssh has a cycle."""
    try:
        return await request, None
    except Exception as error:  # noqa: BLE001 (raised where the answer is waited for)
        return None, error.with_traceback(None)
