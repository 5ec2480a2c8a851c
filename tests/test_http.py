"""HttpFiles on a real server: what every store promises whoever reads, and what servers lack or do wrong."""

from __future__ import annotations

import gzip
import logging
import os
import ssl
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import flow
from pydantic import ValidationError

from blocks import ObjectStore, ReadableStore, RetryPolicy
from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
)
from blocks.stores.ranged import OPEN_BUFFER_BYTES
from connectors.duckdb import DuckDB
from connectors.http import HttpFiles
from connectors.local import MemoryFiles
from tests.contracts.readable_store import *  # noqa: F403
from tests.contracts.readable_store import LARGE
from tests.http_server import LONG_AGO, FileServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.contracts.readable_store import Holding

AT_ONCE = RetryPolicy(first_delay_s=0)
NEVER = RetryPolicy(attempts=1)
KINDS: dict[str, dict[str, Any]] = {
    "ranges": {},
    "ranges by date": {"etags": None},
    "ranges without validators": {"etags": None, "dates": False},
    "ranges by weak etags": {"etags": "weak", "dates": False},
    "no ranges": {"ranges": False},
    "no ranges, chunked": {"ranges": False, "framing": "chunked"},
    "compressed on the way": {"coding": "gzip"},
    "no preconditions": {"preconditions": False},
}
"""Servers, by what they lack."""


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A server without files."""
    with FileServer() as server:
        yield server


@pytest.fixture(params=KINDS)
def holding(request: pytest.FixtureRequest, server: FileServer) -> Holding:
    vars(server).update(KINDS[request.param])

    def fill(objects: dict[str, bytes]) -> HttpFiles:
        for key, content in objects.items():
            server.write(f"/base/{key}", content, written=LONG_AGO)
        return HttpFiles(url=f"{server.url}/base/", retry=AT_ONCE)

    return fill


CONTRACT_CASES = 2
"""Of the kinds of servers each promise is shown on so many in every run, and on all with --thorough."""


def shown(error: BaseException) -> str:
    """An error with those that it came from."""
    return f"{error!r} {error.__cause__!r} {error.__context__!r}"


# Versions


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_amid_a_read_is_never_mixed(server: FileServer, kind: str) -> None:
    """What is read is one version, or the read is refused, also where the file keeps its length."""
    vars(server).update(KINDS[kind])
    files = HttpFiles(url=server.url, retry=NEVER)

    def change() -> None:
        server.write("/f", b"2" * LARGE)

    def from_file() -> bytes:
        with files.open("f") as file:
            start = file.read(OPEN_BUFFER_BYTES + 1)
            change()
            return start + file.read()

    def from_stream() -> bytes:
        chunks = files.objects.stream("f")
        start = next(chunks)
        change()
        return start + b"".join(chunks)

    for read in (from_file, from_stream):
        server.write("/f", b"1" * LARGE, written=LONG_AGO)
        try:
            content = read()
        except TransientError as error:
            assert "changed" in str(error)  # noqa: PT017 (one of two ends)
        else:
            assert content == b"1" * LARGE
        assert files.read_path("f") == b"2" * LARGE


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_replaced_since_it_was_listed_is_refused(server: FileServer, kind: str) -> None:
    """A settled scan reads the version that its identity is of, wherever the server tells versions apart."""
    vars(server).update(KINDS[kind])
    for content in (b"id\n1\n", b"id\n" + b"1\n" * OPEN_BUFFER_BYTES):
        server.write("/rows.csv", content, written=LONG_AGO)
        scan = HttpFiles(url=server.url, retry=NEVER).scan("rows.csv").settled()
        assert scan.provable == ("without" not in kind and "weak" not in kind)
        if scan.provable:
            scan.fingerprint()
            server.write("/rows.csv", content.replace(b"1", b"2"))
            with pytest.raises(TransientError, match="changed"):
                scan.to_arrow()


def test_a_date_of_this_second_proves_nothing(server: FileServer) -> None:
    """A file written a moment ago may be written again under the same date: it is read in one answer."""
    server.etags = None
    server.write("/f", b"1" * LARGE)
    files = HttpFiles(url=server.url)
    with files.open("f") as file:
        assert file.read(1) == b"1"
        server.files["/f"].content = b"2" * LARGE
        assert file.read() == b"1" * (LARGE - 1)
    server.write("/f", b"1" * LARGE, written=time.time() - 60)
    with files.open("f") as file:
        file.read(1)
        assert "bytes=0-1048575" in server.asked("range")


@pytest.mark.usefixtures("prefect_server")
def test_a_load_is_recognized_by_the_version(server: FileServer) -> None:
    """In a retried flow an append is not doubled; without a version of the file it is refused; a new version is new."""
    server.write("/data/orders.csv", b"id\n1\n", written=LONG_AGO)
    files = HttpFiles(url=server.url)
    attempts: list[int] = []

    with DuckDB() as warehouse:

        @flow(retries=1)
        def load() -> None:
            attempts.append(1)
            warehouse.load(files.scan("data/orders.csv"), "orders", mode="append")
            if len(attempts) % 2:
                raise RuntimeError("once")

        load()
        assert warehouse.fetch_all("select id from orders") == [(1,)]
        server.etags, server.dates = None, False
        with pytest.raises(InvalidInputError, match="load_id="):
            load()
        assert warehouse.fetch_one("select count(*) from orders") == (2,)


# What is asked, and what comes


def test_ranges_are_asked_for_where_they_help(server: FileServer) -> None:
    """Of a large Parquet file with one column wanted most stays where it is; what is read whole is one answer."""
    sink = pa.BufferOutputStream()
    blob = [os.urandom(1000) for _ in range(20_000)]
    pq.write_table(pa.table({"id": range(20_000), "blob": blob}), sink, compression="none")
    content = sink.getvalue().to_pybytes()
    server.write("/rows.parquet", content, written=LONG_AGO)
    files = HttpFiles(url=server.url)
    assert files.scan("rows.parquet", columns=["id"]).to_arrow().num_rows == 20_000
    spans = [text.removeprefix("bytes=").split("-") for text in server.asked("range") if text]
    assert sum(int(stop) - int(start) + 1 for start, stop in spans) < len(content) / 2
    before = len(server.seen)
    assert files.read_path("rows.parquet") == content
    assert len(server.seen) == before + 1


def test_a_file_without_ranges_is_read_as_far_as_it_is_needed(server: FileServer) -> None:
    """It comes in one answer, and of a large one only what is read is fetched."""
    server.ranges = False
    server.write("/f", b"1" * LARGE, written=LONG_AGO)
    with HttpFiles(url=server.url).open("f") as file:
        before = len(server.seen)
        assert file.read(10) == b"1" * 10
        file.seek(0)
        assert file.read(3) == b"111"
        assert len(server.seen) == before + 1


def test_a_connection_that_is_cut_goes_on_where_it_was(server: FileServer) -> None:
    """The rest of the same version is read; where versions cannot be told apart, the read starts anew, or fails."""
    content = os.urandom(LARGE)
    server.write("/f", content, written=LONG_AGO)
    files = HttpFiles(url=server.url, retry=NEVER)
    server.cut_after = [3 * 2**20, 2 * 2**20]
    assert files.read_path("f") == content
    assert server.asked("range")[0] is None
    assert all(etag == f'"{server.files["/f"].stamp:x}"' for etag in server.asked("if-match")[1:])
    server.etags, server.dates = None, False
    server.cut_after = [3 * 2**20]
    with pytest.raises(TransientError):
        files.read_path("f")
    server.cut_after = [3 * 2**20]
    assert HttpFiles(url=server.url, retry=AT_ONCE).read_path("f") == content


def test_a_cut_is_never_taken_for_the_end(server: FileServer) -> None:
    """Nor in chunks, nor of a compressed body; a server that does not say where a file ends is refused."""
    server.write("/f.csv", b"id\n" + b"1\n" * 100_000, written=LONG_AGO)
    files = HttpFiles(url=server.url, retry=NEVER)
    server.etags, server.dates, server.ranges = None, False, False
    for framing, coding in (("length", ""), ("chunked", ""), ("chunked", "gzip"), ("length", "gzip")):
        server.framing, server.coding, server.cut_after = framing, coding, [100]
        with pytest.raises(TransientError):
            files.read_path("f.csv")
    server.framing, server.coding = "close", ""
    with pytest.raises(UnsupportedError, match="Content-Length"):
        files.read_path("f.csv")


def test_a_wrong_range_is_refused(server: FileServer) -> None:
    """Another range than the one that was asked for, or one that does not say which it is."""
    server.write("/f", b"0123456789", written=LONG_AGO)
    files = HttpFiles(url=server.url, retry=NEVER)
    for headers in ({"Content-Range": "bytes 4-5/10"}, {}, {"Content-Range": "bytes 0-1"}):

        def lie(handler: Any, headers: dict[str, str] = headers) -> bool:
            handler.answer(206, headers, b"45")
            return True

        server.faults.append(lie)
        with pytest.raises(DamagedError):
            files.read_path("f", start=2, length=2)
    assert files.read_path("f", start=2, length=2) == b"23"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip"])
def test_a_files_own_compression_stays(server: FileServer, coding: str) -> None:
    """A .gz file that the server calls encoded is read as it is stored, and as rows; others are taken as they were."""
    content = gzip.compress(b"id\n1\n")
    server.write("/rows.csv.gz", content, written=LONG_AGO)
    server.write("/rows.csv", b"id\n2\n", written=LONG_AGO)
    server.coding = coding
    files = HttpFiles(url=server.url, retry=NEVER)
    assert files.read_path("rows.csv.gz") == content
    assert files.scan("rows.csv.gz").to_arrow()["id"].to_pylist() == [1]
    server.coding = "gzip"
    assert files.read_path("rows.csv") == b"id\n2\n"
    assert files.head_object("rows.csv").size == 5
    assert files.scan("rows.csv").to_arrow()["id"].to_pylist() == [2]
    assert {*server.asked("accept-encoding")} == {"identity"}
    server.coding = "br"
    with pytest.raises(UnsupportedError, match="br"):
        files.read_path("rows.csv")


def test_a_key_may_have_a_query(server: FileServer) -> None:
    """What follows a question mark is sent as it is written, and tells files apart."""
    server.write("/export", b"id\n1\n", written=LONG_AGO)
    files = HttpFiles(url=server.url, query={"key": "s3cret"})
    key = "export?day=2026-04-30&shop=a%20b c"
    assert files.scan(key, format="csv").to_arrow()["id"].to_pylist() == [1]
    assert {each.target for each in server.seen} == {"/export?day=2026-04-30&shop=a%20b%20c&key=s3cret"}
    assert files.uri(key) == f"{server.url}/export?day=2026-04-30&shop=a%20b%20c"
    days = [files.scan(f"export?day={day}", format="csv").fingerprint() for day in (1, 2)]
    assert days[0] != days[1]


def test_there_is_no_listing_and_no_write(server: FileServer) -> None:
    """A folder or a glob says what to write instead; what a server cannot do is no method of the block."""
    server.write("/a.csv", b"id\n1\n", written=LONG_AGO)
    files = HttpFiles(url=server.url)
    for keys in ("*.csv", "days/", "", "a/**"):
        with pytest.raises(UnsupportedError, match=r"Name each file"):
            files.scan(keys).to_arrow()
    missing = {"write_path", "list_objects", "delete_objects", "get_directory", "write_table", "sweep", "presigned_url"}
    assert not any(hasattr(files, name) for name in missing)
    assert isinstance(files, ReadableStore)
    assert not isinstance(files, ObjectStore)
    with pytest.raises(UnsupportedError):
        files.read_path("a.csv", version="1")


def test_a_file_goes_into_another_store(server: FileServer) -> None:
    """stream_from takes it, in bounded parts."""
    content = os.urandom(LARGE)
    server.write("/in/f", content, written=LONG_AGO)
    lake = MemoryFiles()
    assert lake.stream_from(HttpFiles(url=server.url), "in/f") == "f"
    assert lake.read_path("f") == content


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (401, AuthError),
        (403, AccessDeniedError),
        (404, NotFoundError),
        (410, NotFoundError),
        (405, UnsupportedError),
        (408, TransientError),
        (429, ThrottledError),
        (500, TransientError),
        (501, UnsupportedError),
        (503, TransientError),
        (522, TransientError),
        (204, TerminalError),
        (304, TerminalError),
        (418, TerminalError),
    ],
)
def test_an_answer_other_than_the_file_is_an_error(server: FileServer, status: int, kind: type[ConnectorError]) -> None:
    """Never content, whatever the page says."""
    server.write("/f", b"1", written=LONG_AGO)
    server.fail(status)
    with pytest.raises(kind, match=f"Could not read {server.url}/f: {status}"):
        HttpFiles(url=server.url, retry=NEVER).read_path("f")


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_when_to_come_again(server: FileServer, status: int) -> None:
    """Retry-After is heeded, and the read retried."""
    server.write("/f", b"1", written=LONG_AGO)
    server.fail(status, Retry_After="7")
    with pytest.raises(ThrottledError) as caught:
        HttpFiles(url=server.url, retry=NEVER).read_path("f")
    assert caught.value.retry_after_s == 7
    server.fail(status, Retry_After="0")
    server.fail(500)
    assert HttpFiles(url=server.url, retry=AT_ONCE).read_path("f") == b"1"


def test_a_server_that_does_not_answer_is_given_up(server: FileServer) -> None:
    """After read_timeout_s; and one that is not there at once."""
    server.write("/f", b"1", written=LONG_AGO)
    server.faults.append(lambda _: bool(time.sleep(1)))
    with pytest.raises(TransientError):
        HttpFiles(url=server.url, read_timeout_s=0.2, retry=NEVER).read_path("f")
    with pytest.raises(TransientError, match="reachable"):
        HttpFiles(url="http://127.0.0.1:9", retry=NEVER).check()
    with pytest.raises(TransientError):
        HttpFiles(url="https://no-such-host.invalid", retry=NEVER).check()


# Logins


def test_ways_to_log_in(server: FileServer) -> None:
    """By name and password, by token, by a header, by a field of the query; check says where none is accepted."""
    server.write("/f", b"1", written=LONG_AGO)
    ways: list[tuple[dict[str, Any], Callable[[dict[str, str]], bool]]] = [
        ({"username": "ü", "password": "p:w"}, lambda seen: seen.get("authorization") == "Basic w7w6cDp3"),
        ({"token": "t0ken"}, lambda seen: seen.get("authorization") == "Bearer t0ken"),
        ({"headers": {"X-Api-Key": "s3cret"}}, lambda seen: seen.get("x-api-key") == "s3cret"),
        ({"query": {"key": "s3cret"}}, lambda _: server.seen[-1].target.endswith("?key=s3cret")),
    ]
    for fields, authorized in ways:
        server.authorized = authorized
        files = HttpFiles(url=server.url, **fields)
        assert files.read_path("f") == b"1"
        assert "answers" in files.check()
        for wrong in (HttpFiles(url=server.url, retry=NEVER), HttpFiles(url=server.url, token="wrong", retry=NEVER)):
            with pytest.raises(AuthError, match="token"):
                wrong.read_path("f")
            with pytest.raises(AuthError):
                wrong.check()


@pytest.mark.parametrize(
    "fields", [{"username": "u", "token": "t"}, {"password": "hunter2"}, {"url": "https://h/?a=b"}]
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any]) -> None:
    """Without showing them."""
    with pytest.raises(ValidationError) as caught:
        HttpFiles(**{"url": "https://h", **fields})
    assert "hunter2" not in str(caught.value)


def test_credentials_need_encryption() -> None:
    """Over plain http to another machine nothing is sent, unless a field allows it; on this machine it may be."""
    with pytest.raises(InvalidInputError, match="allow_http"):
        HttpFiles(url="http://files.example.com", token="t0ken").read_path("f")
    with pytest.raises(TransientError):
        HttpFiles(url="http://no-such-host.invalid", retry=NEVER).check()
    with pytest.raises(TransientError):
        HttpFiles(url="http://no-such-host.invalid", token="t0ken", allow_http=True, retry=NEVER).check()


def test_a_redirect_takes_no_credentials_along(server: FileServer) -> None:
    """They go to the block's own server only, also when another one sends back to it."""
    login = {"token": "t0ken", "headers": {"X-Api-Key": "s3cret"}, "query": {"key": "s3cret"}}
    with FileServer({"/f": b"1"}) as other:
        server.redirects = {"/own": "/f", "/far": f"{other.url}/f", "/back": f"{other.url}/back", "/loop": "/loop"}
        other.redirects = {"/back": f"{server.url}/f"}
        server.write("/f", b"1", written=LONG_AGO)
        files = HttpFiles(url=server.url, retry=NEVER, **login)
        assert files.read_path("own") == b"1"
        assert server.asked("x-api-key") == ["s3cret", "s3cret"]
        assert files.read_path("far") == b"1"
        assert files.read_path("back") == b"1"
        assert server.asked("authorization")[-1] is None
        assert other.asked("x-api-key") == other.asked("authorization") == [None, None]
        assert not any("s3cret" in each.target for each in other.seen)
        with pytest.raises(TerminalError, match="redirected 10 times"):
            files.read_path("loop")


def test_no_secret_is_shown(server: FileServer, caplog: pytest.LogCaptureFixture) -> None:
    """Not in an error, a log, an address or a form of the block; a secret in a key is refused where it would be."""
    caplog.set_level(logging.INFO)
    login = {"token": "t0ken-t0ken", "headers": {"X-Api-Key": "s3cret-h"}, "query": {"key": "s3cret-q"}}
    files = HttpFiles(url=server.url, retry=NEVER, **login)
    server.redirects = {"/away": f"{server.url}/gone?sig=s3cret-r"}
    texts = [repr(files), str(files), files.uri("f"), str(files.model_dump()), repr(files.objects.client)]
    for key in ("missing", "away", "f?day=1&token=s3cret-k"):
        with pytest.raises(ConnectorError) as caught:
            files.read_path(key)
        texts.append(shown(caught.value))
    with pytest.raises(InvalidInputError, match="query"):
        files.read_path("f?X-Amz-Signature=abc")
    for wrong in ({"headers": {"X-Api-Key": "s3cret\nh"}}, {"headers": {"X s3cret": "1"}}, {"token": "s3cret-\xfc"}):
        with pytest.raises(InvalidInputError, match="headers or token") as caught:
            HttpFiles(url=server.url, retry=NEVER, **wrong).read_path("f")
        texts.append(shown(caught.value))
    texts.append(caplog.text)
    assert not [text for text in texts if "s3cret" in text or "t0ken-" in text]


def test_a_server_is_known_by_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody vouches for is refused; an authority of the environment's does."""
    write_certificates = pytest.importorskip("integration_tests.standins.process").write_certificates
    pytest.importorskip("cryptography")
    authority, certificate, key = write_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FileServer({"/f": b"1"}, context=context) as server, FileServer({"/f": b"2"}) as plain:
        with pytest.raises(TerminalError, match="SSL_CERT_FILE"):
            HttpFiles(url=server.url, retry=NEVER).read_path("f")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        files = HttpFiles(url=server.url, retry=NEVER, token="t0ken")
        assert files.read_path("f") == b"1"
        server.redirects = {"/down": f"{plain.url}/f"}
        with pytest.raises(TerminalError, match="allow_http"):
            files.read_path("down")
        assert plain.seen == []


def test_a_proxy_of_the_environment_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY, and NO_PROXY past it."""
    server.write("/f", b"1", written=LONG_AGO)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(TransientError):
        HttpFiles(url=server.url, retry=NEVER).read_path("f")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert HttpFiles(url=server.url, retry=NEVER).read_path("f") == b"1"
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "ftp://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match="proxy"):
        HttpFiles(url=server.url, retry=NEVER).read_path("f")
