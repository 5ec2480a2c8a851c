"""A real HTTP server on loopback for tests of reading: what it says of its files, and what it lacks, can be chosen."""

from __future__ import annotations

import functools
import gzip
import itertools
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Self

LONG_AGO = 1_700_000_000.0
_stamps = itertools.count()


@dataclass
class Served:
    """A file, and when it was written."""

    content: bytes
    written: float = LONG_AGO
    stamp: int = field(default_factory=lambda: next(_stamps))


@dataclass
class Seen:
    """A request: its method, path with query, and headers."""

    method: str
    target: str
    headers: dict[str, str]


class FileServer:
    """Serves `files`, by their decoded paths; a context manager.

    Attributes:
        files: The files by path, such as "/orders.csv".
        ranges: Whether it answers a Range with the range.
        etags: Whether it sends "strong" or "weak" ETags, or none.
        dates: Whether it sends Last-Modified.
        preconditions: Whether it heeds If-Match and If-Unmodified-Since.
        framing: Whether it says the "length" of a body, sends it "chunked", or just closes the connection.
        coding: The Content-Encoding that it says; "gzip" is done, too, unless the file's name says so.
        redirects: From paths to addresses.
        authorized: Whether a request with these headers may read; by default anyone may.
        faults: What happens to the next requests, in order: takes the handler, and returns whether it has answered.
        cut_after: After how many bytes of a body the connections of the next answers end, in order.
        seen: The requests that came.
    """

    def __init__(self, files: dict[str, bytes] | None = None, *, context: ssl.SSLContext | None = None) -> None:
        self.files = {path: Served(content) for path, content in (files or {}).items()}
        self.ranges = True
        self.etags: str | None = "strong"
        self.dates = True
        self.preconditions = True
        self.framing = "length"
        self.coding = ""
        self.redirects: dict[str, str] = {}
        self.authorized: Callable[[dict[str, str]], bool] = lambda _: True
        self.faults: list[Callable[[Any], bool]] = []
        self.cut_after: list[int] = []
        self.seen: list[Seen] = []
        owner = self

        class Handler(_Handler):
            server_of_files = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "http" if context is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def write(self, path: str, content: bytes, *, written: float | None = None) -> None:
        """Replace a file; by default it was written now."""
        self.files[path] = Served(content, time.time() if written is None else written)

    def fail(self, status: int, **headers: str) -> None:
        """Answer the next request with that status."""

        def answer(handler: _Handler) -> bool:
            handler.answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, b"")
            return True

        self.faults.append(answer)

    def asked(self, name: str) -> list[str | None]:
        """Return a header of each request that came."""
        return [each.headers.get(name) for each in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_files: FileServer

    def do_GET(self) -> None:
        server = self.server_of_files
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.seen.append(Seen(self.command, self.path, headers))
        if server.faults and server.faults.pop(0)(self):
            return
        path = unquote(self.path.partition("?")[0])
        if path in server.redirects:
            self.answer(302, {"Location": server.redirects[path]}, b"")
        elif not server.authorized(headers):
            self.answer(401, {}, b"")
        elif path not in server.files:
            self.answer(404, {}, b"<html>no such file</html>")
        else:
            self._serve(path, server.files[path], headers)

    def _serve(self, path: str, file: Served, headers: dict[str, str]) -> None:
        server = self.server_of_files
        modified, content, says = formatdate(file.written, usegmt=True), file.content, {}
        etag = f'"{file.stamp:x}"'
        if server.etags:
            says["ETag"] = etag if server.etags == "strong" else f"W/{etag}"
        if server.dates:
            says["Last-Modified"] = modified
        if server.coding:
            says["Content-Encoding"] = server.coding
            content = _compressed(content) if server.coding == "gzip" and not path.endswith(".gz") else content
        changed = headers.get("if-match", etag) != etag or headers.get("if-unmodified-since", modified) != modified
        if server.preconditions and changed:
            self.answer(412, {}, b"")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked is None or not server.ranges:
            self.answer(200, says, content)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        if start >= len(content):
            self.answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        self.answer(206, says | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop])

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        """Send an answer, as the server frames its bodies."""
        server = self.server_of_files
        framing = server.framing if status in {200, 206} else "length"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if framing == "length":
            self.send_header("Content-Length", str(len(content)))
        elif framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        cut = server.cut_after.pop(0) if server.cut_after and status in {200, 206} else None
        for piece in _pieces(content if cut is None else content[:cut]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Keep quiet: the server's log is `seen`."""

    def handle(self) -> None:
        """Serve a connection; one that the client drops is no error."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True


@functools.lru_cache(maxsize=4)
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1)


def _pieces(content: bytes) -> Iterator[bytes]:
    yield from (content[at : at + 2**16] for at in range(0, len(content), 2**16))
