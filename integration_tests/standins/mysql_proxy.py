"""A loopback proxy that reads enough of MySQL's protocol to strike at a statement; without TLS only.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing import Self

Fault = Literal["drop request", "drop answer", "silence"]

HEADER_BYTES, CHUNK_BYTES = 4, 2**16
QUERY = b"\x03"


class MySQLFaultProxy:
    """Forwards connections on `127.0.0.1:port` to a server; a context manager.

    Attributes:
        fired: The statements at which a fault struck.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._faults: list[tuple[Fault, str]] = []
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.fired: list[str] = []

    def strike(self, fault: Fault, pattern: str) -> None:
        """Strike once at a statement that begins with a pattern.

        `drop request` closes both sides before it reaches the server, `drop answer` once the server has answered, and
        `silence` keeps the answer, and both sides open.
        """
        self._faults.append((fault, pattern))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            end(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._open += [client, server]
                link = Link(self, client, server)
                for pump in (link.to_server, link.to_client):
                    threading.Thread(target=pump, daemon=True).start()

    def take(self, statement: str) -> Fault | None:
        """Return the fault that strikes at a statement, which is then spent."""
        for at, (fault, pattern) in enumerate(self._faults):
            if re.match(pattern, statement, re.IGNORECASE):
                del self._faults[at]
                self.fired.append(statement)
                return fault
        return None


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: MySQLFaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._fault: Fault | None = None

    def to_server(self) -> None:
        """Pass on what the client says."""
        with contextlib.suppress(OSError), self._client.makefile("rb") as stream:
            while len(header := stream.read(HEADER_BYTES)) == HEADER_BYTES:
                packet = stream.read(int.from_bytes(header[:3], "little"))
                if header[3] == 0 and packet[:1] == QUERY and self._fault is None:
                    self._fault = self._proxy.take(packet[1:].decode(errors="replace"))
                    if self._fault == "drop request":
                        break
                self._server.sendall(header + packet)
        self._close()

    def to_client(self) -> None:
        """Pass on what the server says."""
        with contextlib.suppress(OSError):
            while data := self._server.recv(CHUNK_BYTES):
                if self._fault == "drop answer":
                    break
                if self._fault is None:
                    self._client.sendall(data)
        self._close()

    def _close(self) -> None:
        for each in (self._client, self._server):
            end(each)


def end(each: socket.socket) -> None:
    """Close a socket, and wake whoever reads from it."""
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
