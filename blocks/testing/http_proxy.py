"""A loopback HTTP proxy with faults: it refuses, loses, repeats, breaks off, flips bits and stalls on demand."""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

CHUNK_BYTES = 2**16
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
NO_BODY = {204, 304}


@dataclass
class Request:
    """What a client asks. `target` is path and query as they were sent; the body comes from the network as it is read.

    Attributes:
        upstream: The connection to the server that belongs to this client's connection.
    """

    method: str
    target: str
    headers: http.client.HTTPMessage
    body: Iterator[bytes]
    upstream: http.client.HTTPConnection

    @property
    def path(self) -> str:
        """The target without its query, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's fields, decoded."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    def read(self) -> bytes:
        """The whole body, which can still be forwarded."""
        content = b"".join(self.body)
        self.body = iter([content])
        return content


@dataclass
class Response:
    """What a client is told. Without a Content-Length header the body goes in chunks."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Iterable[bytes] = ()


def whole_response(status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
    """A response with this content and its length."""
    return Response(status, [*(headers or {}).items(), ("Content-Length", str(len(content)))], [content])


@dataclass
class Fault:
    """What happens to a request that matches."""

    kind: Literal[
        "refuse",
        "deny",
        "drop request",
        "drop answer",
        "repeat",
        "flip request",
        "flip answer",
        "reset answer",
        "reset request",
        "stall",
        "call",
    ]
    method: str
    path: str
    times: int
    skip: int
    response: Response | None = None
    after_bytes: int | None = None
    action: Callable[[], object] | None = None
    release: threading.Event = field(default_factory=threading.Event)

    def takes(self, request: Request) -> bool:
        """Whether this is the request to strike at; counts it."""
        found = re.fullmatch(self.method, request.method) and re.search(self.path, request.target)
        if self.times == 0 or not found:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class HttpFaultProxy:
    """Forwards HTTP/1.1 from `url` to a server, with the faults asked for; a context manager.

    A fault strikes at requests whose method matches `method` whole and whose path and query contain a match of `path`,
    both regular expressions. `skip` lets that many of them pass first; `times` is how often the fault strikes. Headers
    arrive as they were sent, Host too, so that signatures stay valid.

    Attributes:
        log: Method, path with query and status of each answer in order; status None where no answer was sent.
        faults_fired: What struck, in order, such as `"drop answer: PUT /bucket/key"`.
    """

    def __init__(self, upstream: str) -> None:
        address = urlsplit(upstream)
        if not address.hostname or not address.port:
            raise ValueError(f"{upstream!r} is not the URL of a server, such as http://127.0.0.1:9000.")
        self._upstream = (address.hostname, address.port)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._running = contextlib.ExitStack()
        self.host = "127.0.0.1"
        self.port = 0
        self.log: list[tuple[str, str, int | None]] = []
        self.faults_fired: list[str] = []
        self._open_connections: Callable[[], int] = int

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return self._open_connections()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        server = _Server((self.host, self.port), self)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="http-fault-proxy")
        thread.start()
        for end in (server.server_close, self.release, server.hang_up, thread.join, server.shutdown):
            self._running.callback(end)  # the last one is called first
        self._open_connections = server.open_connections
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def refuse(
        self,
        method: str,
        path: str,
        *,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """Answer with this status; the server never sees the request."""
        self._faults.append(Fault("refuse", method, path, times, skip, whole_response(status, body, headers)))

    def deny(
        self,
        method: str,
        path: str,
        *,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """Let the server do it, and answer with this status in place of its own."""
        self._faults.append(Fault("deny", method, path, times, skip, whole_response(status, body, headers)))

    def drop_request(self, method: str, path: str, *, times: int = 1, skip: int = 0) -> None:
        """Close the client's connection; the server never sees the request."""
        self._faults.append(Fault("drop request", method, path, times, skip))

    def repeat(self, method: str, path: str, *, times: int = 1, skip: int = 0) -> None:
        """Deliver the request twice, one after the other; the client gets the second answer."""
        self._faults.append(Fault("repeat", method, path, times, skip))

    def flip_bit(
        self, method: str, path: str, *, at: int = 0, in_request: bool = False, times: int = 1, skip: int = 0
    ) -> None:
        """Flip one bit of the body, in the byte at this position modulo the length; an empty body passes."""
        kind: Literal["flip request", "flip answer"] = "flip request" if in_request else "flip answer"
        self._faults.append(Fault(kind, method, path, times, skip, after_bytes=at))

    def call_before(
        self, method: str, path: str, action: Callable[[], object], *, times: int = 1, skip: int = 0
    ) -> None:
        """Call a function while the request waits, then hand it to the server."""
        self._faults.append(Fault("call", method, path, times, skip, action=action))

    def clear_faults(self) -> None:
        """Forget the faults that have not struck, and let go what stalls."""
        self.release()
        with self._lock:
            self._faults.clear()

    def release(self) -> None:
        """Let go of what stalls."""
        for fault in list(self._faults):
            fault.release.set()

    def drop_answer(self, method: str, path: str, *, times: int = 1, skip: int = 0) -> None:
        """Let the server do it, and close the client's connection without an answer."""
        self._faults.append(Fault("drop answer", method, path, times, skip))

    def reset_answer(self, method: str, path: str, *, after_bytes: int, times: int = 1, skip: int = 0) -> None:
        """Reset the client's connection after so many bytes of the answer's body. A shorter one passes."""
        self._faults.append(Fault("reset answer", method, path, times, skip, after_bytes=after_bytes))

    def reset_request(self, method: str, path: str, *, after_bytes: int, times: int = 1, skip: int = 0) -> None:
        """Reset the client's connection after so many bytes of the request's body, all of which the server got."""
        self._faults.append(Fault("reset request", method, path, times, skip, after_bytes=after_bytes))

    def clear(self) -> None:
        """Forget the faults that are left, and what struck."""
        with self._lock:
            self._faults.clear()
            self.faults_fired.clear()

    def stall(
        self,
        method: str,
        path: str,
        *,
        after_bytes: int | None = None,
        release: threading.Event | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """Let the server do it, and keep back its answer until the proxy closes or `release` is set.

        Before that the client gets so many bytes of the body; with None not even the headers.
        """
        fault = Fault("stall", method, path, times, skip, after_bytes=after_bytes)
        fault.release = release or fault.release
        self._faults.append(fault)

    def intercept(self, request: Request) -> Response | None:  # noqa: ARG002
        """The answer to a request that is not, or not plainly, forwarded; for subclasses, which may call `forward`."""
        return None

    def forward(self, request: Request) -> Response:
        """The server's answer, its body still to come."""
        upstream = request.upstream
        if upstream.sock is not None and select.select([upstream.sock], [], [], 0)[0]:
            upstream.close()  # the server hung up while nothing was asked
        upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in {"connection", "expect"}:
                upstream.putheader(name, value)
        upstream.endheaders()
        chunked = "Transfer-Encoding" in request.headers
        with contextlib.suppress(ConnectionError):  # a server that has seen enough answers, and closes
            for data in filter(None, request.body):
                upstream.send(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if chunked:
                upstream.send(b"0\r\n\r\n")
        answer = upstream.getresponse()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        return Response(answer.status, headers, _chunks(answer))

    def take_fault(self, request: Request) -> Fault | None:
        """Return the fault that strikes this request, and count it as spent."""
        with self._lock:
            return next((fault for fault in self._faults if fault.takes(request)), None)

    def record(self, fault: Fault, request: Request) -> None:
        """Note that it struck."""
        self.faults_fired.append(f"{fault.kind}: {request.method} {request.target}")

    def open_upstream(self) -> http.client.HTTPConnection:
        """A new connection to the server, made when it is used."""
        return http.client.HTTPConnection(*self._upstream)


class _Cut(Exception):  # noqa: N818 (a signal from within a body)
    """Ends a client's connection by a reset, or notes that the client has ended it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], proxy: HttpFaultProxy) -> None:
        self.proxy = proxy
        self._open: set[Any] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def open_connections(self) -> int:
        return len(self._open)

    def hang_up(self) -> None:
        """End the connections that are open, so that their threads come to an end."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._upstream = self.server.proxy.open_upstream()
        self._is_reset = False

    def finish(self) -> None:
        super().finish()
        self._upstream.close()
        if self._is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that resets an idle connection
            super().handle()

    def handle_expect_100(self) -> bool:
        return True  # said once the body is wanted

    def log_message(self, *_: object) -> None:
        """Nothing: the proxy has its own log."""

    def exchange(self) -> None:
        """Answer one request."""
        proxy = self.server.proxy
        target = self.requestline.split()[1]  # `self.path` has lost doubled slashes at its start
        headers = cast("http.client.HTTPMessage", self.headers)
        request = Request(self.command, target, headers, self._body(), self._upstream)
        fault = proxy.take_fault(request)
        self._has_begun = False
        try:
            response = self._answer(request, fault)
            if response is not None:
                self._send(request, response)
        except (_Cut, OSError, http.client.HTTPException):
            self._is_reset = self.close_connection = True
            self._upstream.close()
        if not self._has_begun:
            proxy.log.append((request.method, request.target, None))

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = exchange  # noqa: N815

    def _answer(self, request: Request, fault: Fault | None) -> Response | None:
        """The answer as the client is to get it, None if the connection is to be closed instead."""
        proxy = self.server.proxy
        if fault is None:
            return proxy.intercept(request) or proxy.forward(request)
        if fault.kind in {"refuse", "drop request"}:
            proxy.record(fault, request)
            self.close_connection |= fault.response is None
            return fault.response
        if fault.kind in {"call", "repeat", "flip request"}:
            self._prepare(fault, request)
        if fault.kind == "reset request":
            request.body = self._until(fault, request, request.body)
        response = proxy.intercept(request) or proxy.forward(request)
        if fault.kind in {"deny", "drop answer"}:
            for _ in response.body:
                pass
            proxy.record(fault, request)
            self.close_connection |= fault.response is None
            return fault.response
        if fault.kind == "flip answer":
            content = b"".join(response.body)
            response.body = [self._flipped(fault, request, content)]
        elif fault.kind == "stall" and fault.after_bytes is None:
            self._strike(fault, request)
        elif fault.kind in {"stall", "reset answer"}:
            response.body = self._until(fault, request, response.body)
        return response

    def _prepare(self, fault: Fault, request: Request) -> None:
        """Do what a fault does before the server gets the request, which it then gets."""
        proxy = self.server.proxy
        if fault.action is not None:
            proxy.record(fault, request)
            fault.action()
        elif fault.kind == "flip request":
            request.body = iter([self._flipped(fault, request, request.read())])
        else:
            proxy.record(fault, request)
            content = request.read()
            for _ in (proxy.intercept(request) or proxy.forward(request)).body:
                pass
            request.body = iter([content])

    def _flipped(self, fault: Fault, request: Request, content: bytes) -> bytes:
        if not content:
            return content
        self.server.proxy.record(fault, request)
        position = (fault.after_bytes or 0) % len(content)
        return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]

    def _until(self, fault: Fault, request: Request, body: Iterable[bytes]) -> Iterator[bytes]:
        """The body, with the fault striking where it is to."""
        left = fault.after_bytes
        for data in body:
            rest = data
            if left is not None and left <= len(data):
                yield data[:left]
                self._strike(fault, request)
                rest, left = data[left:], None
            elif left is not None:
                left -= len(data)
            yield rest

    def _strike(self, fault: Fault, request: Request) -> None:
        self.server.proxy.record(fault, request)
        if fault.kind != "stall":
            raise _Cut
        fault.release.wait()

    def _body(self) -> Iterator[bytes]:
        """The request's body, for which a client that waits to be asked is asked."""
        length = int(self.headers.get("Content-Length", 0))
        chunked = "Transfer-Encoding" in self.headers
        if (chunked or length) and self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if not chunked:
            yield from self._read(length)
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self._read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _read(self, length: int) -> Iterator[bytes]:
        while length:
            try:
                data = self.rfile.read1(min(length, CHUNK_BYTES))
            except OSError as error:
                raise _Cut from error
            if not data:
                raise _Cut
            length -= len(data)
            yield data

    def _send(self, request: Request, response: Response) -> None:
        for _ in request.body:
            pass  # what nobody read is in the way of the next request
        has_body = request.method != "HEAD" and response.status not in NO_BODY
        chunked = has_body and all(name.lower() != "content-length" for name, _ in response.headers)
        self.send_response_only(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self._has_begun = True
        self.server.proxy.log.append((request.method, request.target, response.status))
        self.end_headers()
        for data in filter(None, response.body):
            if has_body:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    with answer:
        while data := answer.read1(CHUNK_BYTES):
            yield data
        if answer.length:
            raise ConnectionResetError("The server broke off.")
