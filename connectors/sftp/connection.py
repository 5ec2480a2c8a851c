"""One connection to an SFTP server. asyncssh is asynchronous: its event loop runs in a thread of the connection's."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Coroutine

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

    async def open(self, opened: list[Any]) -> Any:
        """Open an SFTP session on a connection, which is put into `opened` as soon as it is there."""
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
        opened.append(connection)
        return await connection.start_sftp_client(path_errors="surrogateescape")


class Connection:
    """An SSH connection with an SFTP session on it, which several threads may use."""

    def __init__(self, login: Login) -> None:
        runner, ended, opened = asyncio.Runner(), asyncio.Event(), []
        self._loop = runner.get_loop()
        self._thread = threading.Thread(target=_serve, args=(runner, ended, opened), name="sftp", daemon=True)
        self._thread.start()
        self._opened = opened
        # Without a reference to this object: the connection ends with the last one who has it.
        self.close = weakref.finalize(self, self._loop.call_soon_threadsafe, ended.set)
        try:
            self.sftp = self.run(login.open(opened))
        except BaseException:
            self.close()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return not self.close.alive or self._opened[0].is_closed()

    def run(self, request: Coroutine[Any, Any, T]) -> T:
        """Send a request, and return its answer; a connection that turns out to be lost is closed.

        It goes without asyncio's futures, whose cycles would keep contents, and who asked, until they are collected.
        """
        outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        value, error = None, ConnectionAbortedError("the connection was closed")
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_send, request, outcome)
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                value, error = outcome.get(timeout=1)
                break
        else:
            request.close()
        if error is None:
            return value
        if type(error).__name__ in LOST:
            self.close()
        try:
            raise error
        finally:
            del error


def _serve(runner: asyncio.Runner, ended: asyncio.Event, opened: list[Any]) -> None:
    async def serve() -> None:
        await ended.wait()
        for connection in opened:
            connection.abort()
            await connection.wait_closed()

    with runner:
        runner.run(serve())


def _send(request: Coroutine[Any, Any, T], outcome: queue.SimpleQueue[tuple[Any, BaseException | None]]) -> None:
    async def answer() -> None:
        try:
            outcome.put((await request, None))
        except asyncio.CancelledError:
            outcome.put((None, ConnectionAbortedError("the connection was closed")))
        except BaseException as error:  # noqa: BLE001 (raised where the answer is waited for)
            outcome.put((None, error.with_traceback(None)))

    _tasks.add(task := asyncio.get_running_loop().create_task(answer()))
    task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Task[None]] = set()
"""The requests under way; event loops hold them weakly."""
