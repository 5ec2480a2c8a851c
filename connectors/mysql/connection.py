"""Connections of PyMySQL: how they are made, what a query will return, and how one is given up."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blocks.base.errors import InvalidInputError
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Sequence

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""A server that vanished is noticed within a minute, also while something is sent to it."""
PREPARE, CLOSE_PREPARED = 0x16, 0x19
"""https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_stmt_prepare.html"""


@functools.cache
def connection_class() -> Any:  # noqa: C901 (a class, defined where its driver is needed)
    """Return the class of the connections of a session: results come as bytes, as the server printed them."""
    connections = require("pymysql.connections", extra="mysql")
    protocol = require("pymysql.protocol", extra="mysql")

    class Connection(connections.Connection):  # type: ignore[misc, name-defined]
        """A connection of PyMySQL."""

        def connect(self, sock: Any = None) -> None:
            """Connect; what the server then takes for its answers is the business of whoever waits for them."""
            super().connect(sock)
            self._read_timeout = self._write_timeout = None
            if self._sock.family != socket.AF_UNIX:
                for name, value in KEEPALIVE.items():
                    if hasattr(socket, name):  # not all of them on macOS
                        self._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

        @property
        def encrypted(self) -> bool:
            """Whether TLS is in use."""
            return isinstance(self._sock, ssl.SSLSocket)

        @property
        def fields(self) -> Sequence[Any]:
            """The columns of the last result, as PyMySQL describes them; none where there was no result."""
            return getattr(self._result, "fields", None) or ()

        @property
        def rows(self) -> Sequence[tuple[bytes | None, ...]]:
            """The rows of the last result."""
            return self._result.rows or ()

        def describe(self, sql: str) -> Sequence[Any]:
            """Return the columns that a statement will have, without running it."""
            self._execute_command(PREPARE, sql)
            _, number, columns, parameters = struct.unpack_from("<BIHH", self._read_packet().get_all_data())
            for count, kind in ((parameters, protocol.MysqlPacket), (columns, protocol.FieldDescriptorPacket)):
                found = [self._read_packet(kind) for _ in range(count)]
                if count:
                    self._read_packet()  # the end of them
            self._execute_command(CLOSE_PREPARED, struct.pack("<I", number))
            return found

        def sever(self) -> None:
            """Wake whoever waits for an answer, which does not come any more, and forget what was not read."""
            if self._result is not None:
                self._result.unbuffered_active = False
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    return Connection


def tls_context(mode: SslMode, root_cert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """Return how TLS is to be spoken; None where the mode leaves that to the driver, or wants none.

    Raises:
        InvalidInputError: A file is not there, or holds something else.
    """
    if mode in ("disable", "prefer"):
        return None
    try:
        context = ssl.create_default_context(cafile=root_cert and str(Path(root_cert).expanduser()))
        if cert:
            context.load_cert_chain(str(Path(cert).expanduser()), key and str(Path(key).expanduser()))
    except OSError as error:  # ssl.SSLError is one
        raise InvalidInputError(
            f"A certificate could not be read ({error.strerror or type(error).__name__}). Check ssl_root_cert, "
            "ssl_cert and ssl_key."
        ) from None
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which the certificates that MySQL makes for itself do not pass
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if mode.startswith("verify") else ssl.CERT_NONE
    return context
