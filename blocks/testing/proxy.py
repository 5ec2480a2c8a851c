"""A loopback TCP proxy with faults: it loses answers, goes silent, cuts streams and refuses connections on demand.

It reads enough of PostgreSQL's protocol to tie a fault to a statement; anything else passes through as bytes.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Self

T = TypeVar("T")
Direction = Literal["to_client", "to_server"]

CANCEL_REQUEST, SSL_REQUEST, GSS_REQUEST = 80877102, 80877103, 80877104
PROTOCOL_3 = 3
CHUNK_BYTES = 2**18
STARTUP_BYTES, HEADER_BYTES = 8, 5
"""Of a first message its length and code; of any other one its kind and length."""


@dataclass
class StatementFault:
    """What happens around a statement that matches."""

    kind: Literal["drop answer", "silence", "drop request", "hold back", "call"]
    pattern: str
    times: int
    skip: int
    action: Callable[[], object] | None = None

    def takes(self, statement: str) -> bool:
        """Whether this is the statement to strike at; counts it."""
        parts = [part.strip() for part in statement.split(";")]
        if self.times == 0 or not any(re.match(self.pattern, part, re.IGNORECASE | re.DOTALL) for part in parts):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass
class ByteFault:
    """A reset after so many bytes in one direction."""

    direction: Direction
    after_bytes: int
    times: int
    passed_bytes: int = 0


class FaultProxy:
    """Forwards connections on `127.0.0.1:port` to a server, with the faults asked for; a context manager.

    `pattern` is a regular expression matched at the start of a statement, whatever its case; `skip` lets that many
    matches pass first, and `times` is how often the fault strikes. Clients that prefer TLS are told that there is none.

    Attributes:
        log: The statements seen, in order, over all connections.
        faults_fired: What struck, in order, such as `"drop answer: COMMIT"`.
    """

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._statement_faults: list[StatementFault] = []
        self._byte_faults: list[ByteFault] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._links: set[asyncio.Task[None]] = set()
        self._open: set[Link] = set()
        self._listener: asyncio.Server | None = None
        self._released = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._struck = threading.Event()
        self._bytes_passed: dict[Direction, int] = {"to_client": 0, "to_server": 0}
        self.host = "127.0.0.1"
        self.port = 0
        self.log: list[str] = []
        self.faults_fired: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop_answer_to(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """Let the statement reach the server, wait until it has answered, keep the answer, and close both sides."""
        self._statement_faults.append(StatementFault("drop answer", pattern, times, skip))

    def silence_after(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """Let the statement reach the server, keep its answer, and leave both sides open without another byte."""
        self._statement_faults.append(StatementFault("silence", pattern, times, skip))

    def drop_request(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """Close both sides before the statement reaches the server."""
        self._statement_faults.append(StatementFault("drop request", pattern, times, skip))

    def hold_back(self, pattern: str, *, times: int = 1, skip: int = 0) -> None:
        """Close the client's side, and hand the statement to the server only on the next `release()`."""
        self._loop.call_soon_threadsafe(self._released.clear)
        self._statement_faults.append(StatementFault("hold back", pattern, times, skip))

    def call_before(self, pattern: str, action: Callable[[], object], *, times: int = 1, skip: int = 0) -> None:
        """Call a function in a thread while the statement waits, then hand it to the server."""
        self._statement_faults.append(StatementFault("call", pattern, times, skip, action))

    def clear_faults(self) -> None:
        """Forget the faults that have not struck, and reset the connections that have fallen silent."""
        self._statement_faults.clear()
        self._byte_faults.clear()
        self._run(self._end_silence())

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return sum(not link.is_left for link in self._open)

    @property
    def bytes_passed(self) -> dict[Direction, int]:
        """How many bytes went each way, over all connections."""
        return dict(self._bytes_passed)

    def release(self) -> None:
        """Hand what was held back to the server."""
        self._loop.call_soon_threadsafe(self._released.set)

    def reset_after_bytes(self, after_bytes: int, *, direction: Direction = "to_client", times: int = 1) -> None:
        """Reset both sides once so many bytes have passed, counted from now on over all connections."""
        self._byte_faults.append(ByteFault(direction, after_bytes, times))

    def freeze(self) -> None:
        """Pass no byte in either direction, on connections old and new, as a network that drops every packet."""
        self._loop.call_soon_threadsafe(self._flowing.clear)
        self.record("freeze")

    def thaw(self) -> None:
        """Pass on what was held up, and what comes."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    async def wait_flowing(self) -> None:
        """Return once bytes pass."""
        await self._flowing.wait()

    def refuse_connections(self) -> None:
        """Refuse new connections, as a server that is down; open ones live on."""
        self._run(self._stop_listening())

    def accept_connections(self) -> None:
        """Accept connections again, on the same port."""
        self._run(self._listen())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _close(self) -> None:
        await self._stop_listening()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _end_silence(self) -> None:
        for link in self._open:
            link.end_silence()

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._links.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
            link = Link(self, client_reader, client_writer, server_reader, server_writer)
            self._open.add(link)
            try:
                await link.run()
            finally:
                self._open.discard(link)
        except OSError:
            client_writer.transport.abort()
        except asyncio.CancelledError:
            pass  # the proxy closes; the streams' own callback would report a cancelled handler as an error
        finally:
            self._links.discard(task)

    def take_statement_fault(self, statement: str) -> StatementFault | None:
        """The fault that strikes at this statement, counted as spent."""
        self.log.append(statement)
        return next((fault for fault in self._statement_faults if fault.takes(statement)), None)

    def bytes_allowed(self, direction: Direction, wanted: int) -> int | None:
        """How many of `wanted` bytes still pass before a reset; None where no reset is due."""
        self._bytes_passed[direction] += wanted
        for fault in self._byte_faults:
            if fault.direction != direction or fault.times == 0:
                continue
            allowed = fault.after_bytes - fault.passed_bytes
            if wanted > allowed:
                fault.times -= 1
                fault.passed_bytes = 0
                self.record(f"reset: {fault.after_bytes} bytes {direction}")
                return allowed
            fault.passed_bytes += wanted
        return None

    def record(self, struck: str) -> None:
        """Write down that a fault struck."""
        self.faults_fired.append(struck)
        self._struck.set()

    def wait_for_fault(self, timeout_s: float = 10) -> None:
        """Return once a fault has struck.

        Raises:
            TimeoutError: None did in time.
        """
        if not self._struck.wait(timeout_s):
            raise TimeoutError(f"No fault struck within {timeout_s} s; statements seen: {self.log}")

    async def wait_released(self) -> None:
        """Return once `release()` was called."""
        await self._released.wait()


class Cut(Exception):  # noqa: N818 (a signal between the two directions of a link)
    """Ends a link: by a reset, or by closing it."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: FaultProxy,
        client_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client_reader, self._client = client_reader, client_writer
        self._server_reader, self._server = server_reader, server_writer
        self._is_postgres: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._fault: StatementFault | None = None
        self._fault_statement = ""
        self._asked = 0  # messages that the server answers with ReadyForQuery
        self._answered = 0  # ReadyForQuery messages seen
        self._answers_before_fault = 0
        self._last_was_execute = False
        self._is_silent = False
        self._silence_ended = asyncio.Event()

    @property
    def is_left(self) -> bool:
        """Whether the client has closed its side, or has lost it."""
        return self._client_reader.at_eof() or self._client.is_closing()

    def end_silence(self) -> None:
        """Reset both sides if one of them is kept waiting for ever."""
        self._silence_ended.set()

    async def run(self) -> None:
        """Forward both directions until either ends."""
        directions = [asyncio.create_task(self._to_server()), asyncio.create_task(self._to_client())]
        reset = True  # where the proxy itself closes
        try:
            done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            reset = any(isinstance(error := task.exception(), Cut) and error.reset for task in done)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            for writer in (self._client, self._server):
                if reset:
                    linger_zero = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
                    writer.transport.abort()
                else:
                    writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _to_server(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._pass_requests()
        if self._fault and self._fault.kind in ("silence", "hold back"):
            await self._silence_ended.wait()  # a client that gives up is not the end of the server's side
            raise Cut(reset=True)

    async def _pass_requests(self) -> None:
        if not await self._start():
            while data := await self._client_reader.read(CHUNK_BYTES):
                await self._forward("to_server", data)
            return
        while True:
            header = await self._client_reader.readexactly(HEADER_BYTES)
            (length,) = struct.unpack("!I", header[1:])
            payload = await self._client_reader.readexactly(length - 4)
            await self._from_client(header[:1], payload, header + payload)

    async def _start(self) -> bool:
        """Whether the client speaks PostgreSQL; its first message is forwarded, and TLS declined."""
        while True:
            try:
                header = await self._client_reader.readexactly(STARTUP_BYTES)
            except asyncio.IncompleteReadError as end:
                header = end.partial
            length, code = struct.unpack("!II", header) if len(header) == STARTUP_BYTES else (0, 0)
            if code in (SSL_REQUEST, GSS_REQUEST):
                self._client.write(b"N")
                continue
            known: bool = code == CANCEL_REQUEST or code >> 16 == PROTOCOL_3
            self._asked += known and code != CANCEL_REQUEST
            self._is_postgres.set_result(known)
            rest = await self._client_reader.readexactly(length - STARTUP_BYTES) if known else b""
            await self._forward("to_server", header + rest)
            return known

    async def _from_client(self, kind: bytes, payload: bytes, message: bytes) -> None:
        statement = self._statement(kind, payload)
        if statement is not None and self._fault is None:
            self._fault = self._proxy.take_statement_fault(statement)
            self._fault_statement = statement
            self._answers_before_fault = self._asked - self._answered
            if self._fault and self._fault.kind == "drop request":
                self._fired(self._fault)
                raise Cut
            if self._fault and self._fault.action is not None:
                action, self._fault = self._fault.action, None
                self._proxy.record(f"call: {statement}")
                await asyncio.to_thread(action)
            if self._fault and self._fault.kind == "hold back":
                self._fired(self._fault)
                self._client.close()
                await self._proxy.wait_released()
        if kind in (b"c", b"f") and self._last_was_execute:
            self._asked -= 1  # the server ignores a Sync that came while it was taking a COPY
        if kind in (b"Q", b"S", b"F"):
            self._asked += 1
        if not self._is_silent:
            await self._forward("to_server", message)

    def _statement(self, kind: bytes, payload: bytes) -> str | None:
        """The SQL that this message makes the server run."""
        if kind == b"P":
            name, sql, _ = payload.split(b"\0", 2)
            self._prepared[name] = _one_line(sql)
        elif kind == b"B":
            portal, name, _ = payload.split(b"\0", 2)
            self._portals[portal] = self._prepared.get(name, "")
        elif kind == b"Q":
            self._last_was_execute = False
            return _one_line(payload.rstrip(b"\0"))
        elif kind == b"E":
            self._last_was_execute = True
            return self._portals.get(payload.split(b"\0", 1)[0], "")
        return None

    async def _to_client(self) -> None:
        with contextlib.suppress(ConnectionError):
            if not await self._is_postgres:
                while data := await self._server_reader.read(CHUNK_BYTES):
                    await self._forward("to_client", data)
                return
            unread = bytearray()
            while data := await self._server_reader.read(CHUNK_BYTES):
                unread += data
                passed = bytearray()
                for kind, message in _complete_messages(unread):
                    if self._passes(kind):
                        passed += message
                        continue
                    if kind == b"Z":
                        await self._forward("to_client", bytes(passed))
                        await self._strike()
                await self._forward("to_client", bytes(passed))

    def _passes(self, kind: bytes) -> bool:
        """Whether the client is to see this message of the server."""
        self._answered += kind == b"Z"
        if self._fault is None:
            return True
        if self._answers_before_fault:
            self._answers_before_fault -= kind == b"Z"
            return True
        return kind in (b"G", b"W")  # without them a client would not send its COPY, and nothing would happen

    async def _strike(self) -> None:
        fault = cast("StatementFault", self._fault)
        if fault.kind == "silence":
            self._is_silent = True
            self._fired(fault)
            await self._silence_ended.wait()
            raise Cut(reset=True)
        if fault.kind == "drop answer":
            self._fired(fault)
        raise Cut

    def _fired(self, fault: StatementFault) -> None:
        self._proxy.record(f"{fault.kind}: {self._fault_statement}")

    async def _forward(self, direction: Direction, data: bytes) -> None:
        await self._proxy.wait_flowing()
        writer = self._client if direction == "to_client" else self._server
        allowed = self._proxy.bytes_allowed(direction, len(data))
        if data:
            writer.write(data if allowed is None else data[:allowed])
            await writer.drain()
        if allowed is not None:
            raise Cut(reset=True)


def _one_line(sql: bytes) -> str:
    return " ".join(sql.decode("utf-8", "replace").split())


def _complete_messages(unread: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """The whole messages at the start of `unread`, which is left with the rest."""
    position = 0
    while len(unread) - position >= HEADER_BYTES:
        (length,) = struct.unpack_from("!I", unread, position + 1)
        end = position + 1 + length
        if end > len(unread):
            break
        yield bytes(unread[position : position + 1]), bytes(unread[position:end])
        position = end
    del unread[:position]
