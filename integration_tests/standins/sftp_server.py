"""The process of the SFTP server: `sftp_server.py HOST PORT FOLDER USERNAME PASSWORD`."""

from __future__ import annotations

import asyncio
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

host, port, folder, username, password = sys.argv[1:]


class Logins(asyncssh.SSHServer):
    """Lets the one user in."""

    def password_auth_supported(self) -> bool:  # noqa: D102
        return True

    def validate_password(self, name: str, given: str) -> bool:  # noqa: D102
        return (name, given) == (username, password)


FAULT, FIRED = Path(folder, "fault"), Path(folder, "fired")
"""A line `kind request skip` in the first is what happens to such a request; the second has what has happened."""
armed: list[tuple[str, str, int]] = []


class Files(asyncssh.SFTPServer):
    """The files of the user, who sees no others; and what is asked to go wrong with a request."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel, chroot=str(Path(folder, "files")))

    def strike(self, request: str) -> str:
        """What is to happen to the request: "" is nothing."""
        if FAULT.exists():
            kind, name, skip = FAULT.read_text("utf-8").split(",")
            armed[:] = [(kind, name, int(skip))]
            FAULT.unlink()
        if not armed or request not in armed[0][1].split("|"):
            return ""
        kind, name, skip = armed.pop()
        if skip:
            armed.append((kind, name, skip - 1))
            return ""
        FIRED.write_text(f"{kind}: {request}", "utf-8")
        return kind

    async def end(self) -> None:
        """Cut the connection."""
        self.connection.abort()
        await asyncio.sleep(60)

    async def scandir(self, path: bytes) -> AsyncIterator[Any]:
        """List a folder."""
        kind = self.strike("scandir")
        if kind == "stall":
            await asyncio.sleep(60)
        elif kind:
            await self.end()
        async for each in super().scandir(path):
            yield each


def faulty(request: str) -> Any:
    """The method of that name, before or after which something may go wrong."""
    plain = getattr(asyncssh.SFTPServer, request)

    async def method(self: Files, *arguments: Any) -> Any:
        kind = self.strike(request)
        if kind == "stall":
            await asyncio.sleep(60)
        elif kind == "broken request":
            await self.end()
        answer = plain(self, *arguments)
        answer = await answer if inspect.isawaitable(answer) else answer
        if kind:
            await self.end()
        return answer

    return method


for each in ("open", "read", "write", "stat", "fstat", "remove", "mkdir", "rename", "posix_rename", "link", "close"):
    setattr(Files, each, faulty(each))


async def serve() -> None:
    """Serve until the process is stopped."""
    await asyncssh.listen(
        host,
        int(port),
        server_factory=Logins,
        server_host_keys=[str(Path(folder, "host_key"))],
        authorized_client_keys=str(Path(folder, "user_key.pub")),
        sftp_factory=Files,
    )
    await asyncio.Event().wait()


asyncio.run(serve())
