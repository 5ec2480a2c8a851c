"""A folder on an SFTP server, as the client of an object store."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from blocks.base.live import live
from blocks.stores.tree_client import Entry, Files, Kind, TreeClient
from connectors.sftp.connection import Connection
from connectors.sftp.errors import sftp_error

if TYPE_CHECKING:
    from blocks.base.errors import ConnectorError
    from connectors.sftp.connection import Login


class SftpStoreClient(TreeClient):
    """A folder on an SFTP server.

    Args:
        basepath: The folder: absolute, or relative to the folder in which the login starts.
        login: Where to log in, and how.
    """

    def __init__(self, basepath: str, login: Login) -> None:
        super().__init__(f"sftp://{login.host}:{login.port}", login.username, basepath)
        self._login = login

    @property
    @override
    def files(self) -> Files:
        with self._lock:
            if self._connection.is_lost:
                self.close()
            return self._connection.files

    @live
    def _connection(self) -> Connection:
        return Connection(self._login)

    @override
    def entry(self, found: Any) -> Entry:
        attrs = getattr(found, "attrs", found)  # a name's in a folder, or a file's
        mode = attrs.permissions or stat.S_IFREG
        kind: Kind = "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"
        return Entry(getattr(found, "filename", ""), kind, attrs.size, attrs.mtime)

    @override
    def error_of(self, verb: str, place: str, error: Exception) -> ConnectorError | None:
        is_drivers = isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "asyncssh"
        return sftp_error(verb, place, error) if is_drivers else None
