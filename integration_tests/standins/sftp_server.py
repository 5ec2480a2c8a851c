"""The process of the SFTP server: `sftp_server.py HOST PORT FOLDER USERNAME PASSWORD`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncssh

host, port, folder, username, password = sys.argv[1:]


class Logins(asyncssh.SSHServer):
    """Lets the one user in."""

    def password_auth_supported(self) -> bool:  # noqa: D102
        return True

    def validate_password(self, name: str, given: str) -> bool:  # noqa: D102
        return (name, given) == (username, password)


def files(channel: Any) -> asyncssh.SFTPServer:
    """The files of the user, who sees no others."""
    return asyncssh.SFTPServer(channel, chroot=str(Path(folder, "files")))


async def serve() -> None:
    """Serve until the process is stopped."""
    await asyncssh.listen(
        host,
        int(port),
        server_factory=Logins,
        server_host_keys=[str(Path(folder, "host_key"))],
        authorized_client_keys=str(Path(folder, "user_key.pub")),
        sftp_factory=files,
    )
    await asyncio.Event().wait()


asyncio.run(serve())
