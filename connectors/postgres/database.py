"""The driver's database: it reads the server's types once, and all connections of a block share them.

That takes a connection of its own and the whole of `pg_attribute`: seconds where there are many tables.
https://github.com/apache/arrow-adbc/issues/1243
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from blocks.base.optional import require


class AdbcDatabases:
    """What a block opens its connections from: a database of the driver's, and a new one where types were made since.

    Args:
        uri: Where the server is and how to log in.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._current = AdbcDatabase(uri)
        self._unreadable: set[str] = set()

    def connect(self) -> Any:
        """Open a connection, whose transactions begin with their first statement; the caller closes it."""
        return self._current.connect()

    def refresh(self, unknown: set[str]) -> bool:
        """Read the types anew for those that a connection did not know; False where that was done for them before."""
        with self._lock:
            if unknown <= self._unreadable:
                return False
            self._unreadable |= unknown
            before, self._current = self._current, AdbcDatabase(self._uri)
        before.close()
        return True

    def close(self) -> None:
        """End the database, or leave that to its last connection."""
        self._current.close()


class AdbcDatabase:
    """What connections are opened from. It ends once it is closed and the last of them is.

    Args:
        uri: Where the server is and how to log in.
    """

    def __init__(self, uri: str) -> None:
        self._is_closed = True  # until it is open
        self._manager = require("adbc_driver_manager", extra="postgres")
        self._database = require("adbc_driver_postgresql", extra="postgres").connect(uri)
        self._lock = threading.Lock()
        self._users = 1
        self._is_closed = False

    def connect(self) -> Any:
        """Open a connection, whose transactions begin with their first statement; the caller closes it."""
        dbapi = require("adbc_driver_manager.dbapi", extra="postgres")
        with self._lock:
            self._users += 1
        try:
            return dbapi.Connection(_Share(self), self._manager.AdbcConnection(self._database))
        except BaseException:
            self.release()
            raise

    def close(self) -> None:
        """End it, or leave that to the last connection."""
        if not self._is_closed:
            self._is_closed = True
            self.release()

    __del__ = close

    def release(self) -> None:
        """Count one user less."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        with contextlib.suppress(self._manager.Error):
            self._database.close()


class _Share:
    """What a connection closes in place of the database."""

    def __init__(self, database: AdbcDatabase) -> None:
        self._database = database

    def close(self) -> None:
        self._database.release()
