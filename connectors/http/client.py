"""The files of an HTTP server, as the client of a store that is read.

A read is one answer wherever that will do: what comes in one answer is one version of the file, whatever the server can
do. It is several after a connection was cut, and where a large file is read out of order, and so only if the server
tells versions apart: each asks for the same one (`If-Match`, `If-Unmodified-Since`), and is compared with it.
https://www.rfc-editor.org/rfc/rfc9110
"""

from __future__ import annotations

import contextlib
import weakref
from email.utils import formatdate
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urlencode
from urllib.request import getproxies, proxy_bypass

from typing_extensions import override

from blocks.base.addresses import check_encrypted
from blocks.base.errors import (
    ConnectorError,
    InvalidInputError,
    TerminalError,
    TransientError,
    UnsupportedError,
    one_line,
)
from blocks.base.live import live
from blocks.base.optional import lazy
from blocks.stores.client import ReadClient
from blocks.stores.ranged import OPEN_BUFFER_BYTES
from connectors.http.answer import BEYOND_THE_END, PART, WHOLE, Answer
from connectors.http.errors import answer_error, raised_error
from connectors.http.spooled import spooled

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import httpx

    from blocks.stores.info import ObjectInfo, Page
    from connectors.http.login import Login
else:
    httpx = lazy("httpx")

REDIRECTS = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 10
REFUSED_OR_LATER = {401, 407, 408, 429}
AS_IT_IS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "etl-blocks"}


class HttpClient(ReadClient):
    """The files below an address of an HTTP server.

    Args:
        url: The address.
        login: What goes with each request to its server, and to no other one.
        allow_http: Whether that may go over a network without encryption.
        read_timeout_s: How long the server may go without an answer, or a byte of it.
    """

    def __init__(self, url: str, login: Login, *, allow_http: bool, read_timeout_s: float) -> None:
        super().__init__()
        self._base = url.rstrip("/")
        self._login, self._allow_http, self._read_timeout_s = login, allow_http, read_timeout_s

    @override
    def uri(self, key: str = "") -> str:
        """Return the file's address, without the fields of the query that the block adds."""
        path, mark, query = key.partition("?")
        return f"{self._base}/{quote(path, safe='/')}{mark}{quote(query, safe=_IN_QUERIES)}"

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        # By GET: a URL that is signed for GET, and many a program that answers, know no HEAD.
        self._refuse_version(version)
        with self._ask(key, 0, 1) as answer:
            if not answer.is_beyond_the_end:
                return answer.info()
        with self._ask(key) as answer:
            return answer.info()

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        self._refuse_version(version)
        with self._ask(key, start, length, if_match=if_match) as answer:
            content = b"".join(answer.chunks(start, length))
            if not answer.is_beyond_the_end:
                return content, answer.info()
        return b"", self.head(key)

    @override
    def stream(
        self, key: str, start: int = 0, length: int | None = None, *, version: str | None = None
    ) -> Iterator[bytes]:
        self._refuse_version(version)
        if length is not None and length <= 0:
            self.head(key)
            return
        yield from self._stream(key, start, length)

    @override
    def open(self, key: str, version: str | None = None, *, known: ObjectInfo | None = None) -> BinaryIO:
        """Open the file as a seekable one, read by ranges as they are needed, or kept in a temporary file meanwhile."""
        info = known or self.head(key, version)
        if info.etag is not None and info.size > OPEN_BUFFER_BYTES:
            with self._ask(key, 0, 1, if_match=info.etag) as answer:
                in_ranges = answer.is_part and answer.proof is not None
            if in_ranges:
                return super().open(key, known=info)
        return spooled(self._stream(key, if_match=info.etag))

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        raise UnsupportedError(
            f"Could not list {self.uri(prefix)}: an HTTP server has no listing. Name each file, such as "
            'scan([f"orders/{day}.csv" for day in days]).'
        )

    def status(self) -> int:
        """Return the status of the answer to a request for the address itself.

        Raises:
            AuthError: The server does not accept the login.
            TransientError: It cannot be reached, or cannot answer now.
        """
        with self._errors(self.uri()):
            response = self._send("", {"Range": "bytes=0-0"})
            response.close()
        if response.status_code in REFUSED_OR_LATER or response.is_server_error:
            raise answer_error(self.uri(), response)
        return response.status_code

    def _stream(
        self, key: str, start: int = 0, length: int | None = None, *, if_match: str | None = None
    ) -> Generator[bytes]:
        """Read one version of the file; a connection that was cut is made again, and the rest of the version read."""
        at, stop = start, None if length is None else start + length
        while True:
            begun = at
            try:
                with self._ask(key, at, None if stop is None else stop - at, if_match=if_match) as answer:
                    if_match = answer.proof
                    for chunk in answer.chunks(at, None if stop is None else stop - at):
                        at += len(chunk)
                        yield chunk
                    return
            except TransientError:
                if if_match is None or at == begun:
                    raise

    @contextlib.contextmanager
    def _ask(
        self, key: str, start: int = 0, length: int | None = None, *, if_match: str | None = None
    ) -> Iterator[Answer]:
        """Request a file, or a range of it; without a range where the server's ranges are of no use."""
        place, headers = self.uri(key), _condition(if_match)
        if start or length is not None:
            headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        while True:
            with self._errors(place), contextlib.closing(self._send(key, headers)) as response:
                if if_match is not None and response.status_code == 412:  # noqa: PLR2004 (precondition failed)
                    raise _changed(place)
                if response.status_code not in (WHOLE, PART, *([BEYOND_THE_END] if "Range" in headers else [])):
                    raise answer_error(place, response)
                answer = Answer(response, key, place)
                if answer.is_usable:
                    if if_match is not None and not answer.is_beyond_the_end and not answer.is_of(if_match):
                        raise _changed(place)
                    yield answer
                    return
            del headers["Range"]

    def _send(self, key: str, headers: dict[str, str]) -> httpx.Response:
        """Send a request, also to where the answer redirects it; the login goes to the block's own server only."""
        if self._login:
            check_encrypted(self._base, allow_http=self._allow_http)
        url = httpx.URL(self._address(key))
        own: tuple[str, str, int | None] | None = _origin(url)
        for _ in range(MOST_REDIRECTS):
            login = self._login.headers() if own == _origin(url) else {}
            request = httpx.Request(
                "GET",
                url,
                headers={**login, **AS_IT_IS, **headers},
                extensions={"timeout": httpx.Timeout(self._read_timeout_s).as_dict()},
            )
            response = self._transports.to(url).handle_request(request)
            response.request = request
            if response.status_code not in REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            target = url.join(response.headers["Location"])
            if url.scheme == "https" and target.scheme == "http" and not self._allow_http:
                raise TerminalError(
                    f"Could not read {self.uri(key)}: the server redirects to http://{target.host}, and anyone on the "
                    "network could change the file. Set allow_http=True where it is trusted."
                )
            own = own if own == _origin(target) else None
            url = target
        raise TerminalError(f"Could not read {self.uri(key)}: it was redirected {MOST_REDIRECTS} times.")

    def _address(self, key: str) -> str:
        query = key.partition("?")[2]
        if one_line(query) != query.strip():
            raise InvalidInputError(
                f"Could not read {self.uri(key)}: its query holds a secret, which would be shown in messages. Enter "
                "that field as the block's query."
            )
        fields = urlencode(self._login.query())
        return self.uri(key) + (f"{'&' if query else '?'}{fields}" if fields else "")

    @live
    def _transports(self) -> _Transports:
        return _Transports()

    @contextlib.contextmanager
    def _errors(self, place: str) -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "httpx":
                raise raised_error(place, error) from error
            raise


class _Transports:
    """Connections to servers, past the proxies that the environment names.

    It is httpx without its client, which logs addresses as they are, with the secrets in them, and sends every header
    but one to wherever it is redirected.
    """

    def __init__(self) -> None:
        self._context = httpx.create_ssl_context()
        self._opened: dict[str | None, httpx.HTTPTransport] = {}
        self.close = weakref.finalize(self, _close, self._opened)  # httpx would leave open sockets to the collector

    def to(self, url: httpx.URL) -> httpx.HTTPTransport:
        """Return the connections to a server."""
        proxies = getproxies()
        proxy = None if proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")
        if proxy not in self._opened:
            try:
                made = httpx.HTTPTransport(verify=self._context, trust_env=False, proxy=proxy)
            except (ValueError, ImportError) as error:
                raise InvalidInputError(f"The proxy of the environment cannot be used: {error}") from error
            self._opened.setdefault(proxy, made)
        return self._opened[proxy]


def _close(opened: dict[str | None, httpx.HTTPTransport]) -> None:
    for transport in opened.values():
        transport.close()


_IN_QUERIES = "=&%+/?:@!$'()*,;~[]"
"""What stays as it is in the query of a key: it is written as a URL has it."""


def _condition(etag: str | None) -> dict[str, str]:
    """Return the header that asks for this version of a file only."""
    if etag is None:
        return {}
    if etag.startswith('"'):
        return {"If-Match": etag}
    return {"If-Unmodified-Since": formatdate(int(etag.partition("-")[0], 16), usegmt=True)}


def _changed(place: str) -> TransientError:
    return TransientError(f"{place} changed while it was read. Try again.")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
