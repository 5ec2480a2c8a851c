"""The servers and the proxy that the other tests lean on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import re
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import requests
from google.api_core.exceptions import BadRequest, Forbidden, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.oauth2.credentials import Credentials

from blocks.testing.http_proxy import HttpFaultProxy, whole_response
from blocks.testing.proxy import FaultProxy
from integration_tests.standins.postgres import Address, PostgresServer
from integration_tests.standins.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOST = (psycopg.OperationalError, "server closed the connection|consuming input failed|connection is lost|EOF detected")


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres_server.host, postgres_server.port) as running:
        yield running


@pytest.fixture
def behind(pg_database: Address, proxy: FaultProxy) -> Address:
    """A database with a table `t`, behind the proxy."""
    with pg_database.connect() as connection:
        connection.execute("create table t (id int)")
    return pg_database.through(proxy.port)


def rows(database: Address) -> int:
    with database.connect() as connection:
        return connection.execute("select count(*) from t").fetchone()[0]


def insert(database: Address, **options) -> None:
    with psycopg.connect(database.dsn(**options)) as connection:
        connection.execute("insert into t values (1)")


def test_postgres_asks_for_the_password(postgres_server):
    """A wrong password is refused."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres_server.address.connect(password="wrong")


def test_postgres_proves_who_it_is(postgres_server):
    """TLS is verified against the server's own authority, and fails against any other."""
    if postgres_server.ca_file is None:
        pytest.skip("this build of PostgreSQL has no TLS")
    verified = {"host": "localhost", "sslmode": "verify-full", "channel_binding": "require"}
    with postgres_server.address.connect(sslrootcert=str(postgres_server.ca_file), **verified) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        postgres_server.address.connect(sslrootcert="system", **verified)


def test_postgres_keeps_what_it_committed_through_a_crash():
    """A crash loses no committed row, and no more than the open transaction."""
    with PostgresServer() as server:
        with server.address.connect() as connection:
            connection.execute("create table t (id int)")
            connection.execute("insert into t values (1)")
            connection.execute("begin")
            connection.execute("insert into t values (2)")
            server.crash()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("commit")
        server.start()
        assert rows(server.address) == 1


def test_databases_are_strangers(postgres_server):
    """Each test's database is its own."""
    first, second = postgres_server.new_database(), postgres_server.new_database()
    with first.connect() as connection:
        connection.execute("create table t (id int)")
    with pytest.raises(psycopg.errors.UndefinedTable):
        rows(second)
    postgres_server.drop_database(first)
    postgres_server.drop_database(second)


def test_proxy_is_transparent(behind, proxy):
    """Without a fault everything arrives, and every statement is logged."""
    insert(behind)
    assert rows(behind) == 1
    assert proxy.log[:3] == ["BEGIN", "insert into t values (1)", "COMMIT"]
    assert proxy.faults_fired == []


def test_proxy_declines_tls(behind):
    """A client that prefers TLS goes on in clear text, and one that insists on it does not."""
    insert(behind, sslmode="prefer")
    with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
        insert(behind, sslmode="require")


def test_lost_answer_to_commit(pg_database, behind, proxy):
    """The rows are committed, the client hears of a dead connection, and the next attempt passes."""
    proxy.drop_answer_to("commit")
    with pytest.raises(LOST[0], match=LOST[1]):
        insert(behind)
    assert rows(pg_database) == 1
    assert proxy.faults_fired == ["drop answer: COMMIT"]
    insert(behind)
    assert rows(pg_database) == 2


def test_lost_answer_with_parameters(pg_database, behind, proxy):
    """Statements with bound parameters are recognised as well."""
    proxy.drop_answer_to(r"insert into t")
    with pytest.raises(LOST[0], match=LOST[1]), behind.connect() as connection:
        connection.execute("insert into t values (%s)", (1,))
    assert rows(pg_database) == 1


@pytest.mark.parametrize("number", range(3))
def test_lost_answer_to_each_statement_in_turn(pg_database, behind, proxy, number):
    """`skip` strikes at the n-th statement; only an answered COMMIT leaves the row."""
    proxy.drop_answer_to("", skip=number)
    with pytest.raises(LOST[0], match=LOST[1]):
        insert(behind)
    assert len(proxy.log) == number + 1
    assert rows(pg_database) == (number == 2)


def test_lost_answer_to_copy(pg_database, behind, proxy):
    """A COPY is sent whole before its answer is lost."""
    proxy.drop_answer_to("copy")
    with pytest.raises(LOST[0], match=LOST[1]), behind.connect() as connection, connection.cursor() as cursor:  # noqa: PT012, SIM117
        with cursor.copy("copy t from stdin") as copy:
            for number in range(1000):
                copy.write_row((number,))
    assert rows(pg_database) == 1000


def test_lost_answer_to_an_adbc_ingest(pg_database, behind, proxy):
    """ADBC's COPY goes in the extended protocol; its COMMIT is still the one that is struck."""
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    import pyarrow as pa

    proxy.drop_answer_to("commit")
    connection = dbapi.connect(behind.dsn())
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", pa.table({"id": pa.array(range(1000), pa.int32())}), mode="append") == 1000
    with pytest.raises(dbapi.Error):
        connection.commit()
    connection.close()
    assert rows(pg_database) == 1000
    assert proxy.faults_fired == ["drop answer: COMMIT"]


def test_lost_request(pg_database, behind, proxy):
    """A COMMIT that never arrived commits nothing."""
    proxy.drop_request("commit")
    with pytest.raises(LOST[0], match=LOST[1]):
        insert(behind)
    assert rows(pg_database) == 0


def test_commit_held_back(pg_database, behind, proxy):
    """The client is cut off first; the server commits when the proxy lets it."""
    proxy.hold_back("commit")
    with pytest.raises(LOST[0], match=LOST[1]):
        insert(behind)
    with pg_database.connect() as other:
        other.execute("set lock_timeout = 100")
        with pytest.raises(psycopg.errors.LockNotAvailable), other.transaction():
            other.execute("lock table t")
        proxy.release()
        other.execute("set lock_timeout = 10000")
        with other.transaction():
            other.execute("lock table t")
    assert rows(pg_database) == 1


def test_silence(pg_database, behind, proxy):
    """After COMMIT not a byte comes back and nothing closes: only the client's own patience ends it."""
    proxy.silence_after("commit")
    connection = psycopg.connect(behind.dsn())
    connection.execute("insert into t values (1)")
    connection.pgconn.send_query(b"COMMIT")
    connection.pgconn.flush()
    proxy.wait_for_fault()
    readable, _, _ = select.select([connection.fileno()], [], [], 0.1)
    assert readable == []
    assert rows(pg_database) == 1
    connection.close()


def test_reset_in_mid_stream(behind, proxy):
    """A connection is reset after so many bytes, and the next one passes."""
    proxy.reset_after_bytes(100_000)
    query = "select repeat('x', 1000) from generate_series(1, 1000)"
    with pytest.raises(psycopg.OperationalError), behind.connect() as connection:
        connection.execute(query)
    with behind.connect() as connection:
        assert len(connection.execute(query).fetchall()) == 1000
    assert proxy.faults_fired == ["reset: 100000 bytes to_client"]


def test_reset_while_sending(pg_database, behind, proxy):
    """The same on the way to the server: the COPY leaves nothing behind."""
    proxy.reset_after_bytes(100_000, direction="to_server")
    with pytest.raises(psycopg.OperationalError), behind.connect() as connection, connection.cursor() as cursor:  # noqa: PT012, SIM117
        with cursor.copy("copy t from stdin") as copy:
            for number in range(200_000):
                copy.write_row((number,))
    assert rows(pg_database) == 0


def test_refused_connections(behind, proxy):
    """A proxy that refuses looks like a closed port, until it accepts again on the same one."""
    proxy.refuse_connections()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        insert(behind)
    proxy.accept_connections()
    insert(behind)
    assert rows(behind) == 1


def test_server_that_is_away():
    """A proxy before a closed port closes what it accepted."""
    with FaultProxy("127.0.0.1", free_port()) as proxy, pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"host=127.0.0.1 port={proxy.port} user=nobody")


# HTTP


class Echo(BaseHTTPRequestHandler):
    """Notes what it gets, and answers with a size that the path asks for, in chunks where the path says so."""

    protocol_version = "HTTP/1.1"

    def answer(self):  # noqa: D102
        body = b"".join(self.chunks())
        note = (self.command, self.requestline.split()[1], hashlib.md5(body).hexdigest(), self.headers["Host"])  # noqa: S324
        self.server.got.append(note)
        content = b"x" * int(self.path.rpartition("/")[2])
        self.send_response(200)
        self.send_header("X-Own", "kept")
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        else:
            self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # who asked may be gone
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def chunks(self):  # noqa: D102
        if "Transfer-Encoding" not in self.headers:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, *_):
        """Nothing."""


class EchoServer(ThreadingHTTPServer):
    """Waits for its threads, and takes many connections at once."""

    daemon_threads = False
    request_queue_size = 128


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        server.got = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def http_proxy(echo) -> Iterator[HttpFaultProxy]:
    with HttpFaultProxy(f"http://127.0.0.1:{echo.server_port}") as running:
        yield running


@pytest.fixture
def http_client(http_proxy) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection(http_proxy.host, http_proxy.port, timeout=10)) as connection:
        yield connection


def ask(connection, method="GET", target="/10", body=None, **headers) -> tuple[int, bytes]:
    connection.request(method, target, body, headers, encode_chunked=True)
    with connection.getresponse() as answer:
        return answer.status, answer.read()


@pytest.mark.parametrize("target", ["/10", "/0", "/1000000", "/chunked/1000000", "//a%20b/..//c?x=%2F&y&/7"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_http_proxy_is_transparent(echo, http_proxy, http_client, method, target):
    """Bodies arrive both ways, as long as they are; path and Host are what the client sent; connections are kept."""
    body = bytes(range(256)) * 4000 if method == "PUT" else b""
    expected = b"" if method == "HEAD" else b"x" * int(target.rpartition("/")[2])
    note = (method, target, hashlib.md5(body).hexdigest(), f"127.0.0.1:{http_proxy.port}")  # noqa: S324
    for _ in range(2):
        assert ask(http_client, method, target, body) == (200, expected)
        own_port = http_client.sock.getsockname()[1]
    assert own_port == http_client.sock.getsockname()[1]
    assert echo.got == [note, note]
    assert http_proxy.log == [(method, target, 200)] * 2
    assert http_proxy.faults_fired == []


def test_http_proxy_passes_chunked_bodies(echo, http_client):
    """A body of unknown length arrives whole, also from a client that waits until it is asked for it."""
    parts = [b"a" * 10, b"b" * 100_000, b"c"]
    headers = {"Transfer-Encoding": "chunked", "Expect": "100-continue"}
    assert ask(http_client, "POST", "/0", iter(parts), **headers)[0] == 200
    assert echo.got[0][2] == hashlib.md5(b"".join(parts)).hexdigest()  # noqa: S324


def test_http_proxy_serves_many_clients(http_proxy):
    """A hundred connections at once are all answered."""

    def one(number):
        with contextlib.closing(http.client.HTTPConnection(http_proxy.host, http_proxy.port, timeout=30)) as connection:
            return len(ask(connection, "POST", f"/{number}", b"1" * number)[1])

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(one, range(100))) == list(range(100))


def test_http_refusal(echo, http_proxy, http_client):
    """The server never sees the request, whose body does not stand in the way of the next."""
    http_proxy.refuse("PUT", "^/5$", status=429, headers={"Retry-After": "1"}, body=b"slow", times=2, skip=1)
    answers = [ask(http_client, "PUT", "/5", b"1" * 100_000) for _ in range(4)]
    assert answers == [(200, b"xxxxx"), (429, b"slow"), (429, b"slow"), (200, b"xxxxx")]
    assert ask(http_client, "GET", "/5") == (200, b"xxxxx")
    assert len(echo.got) == 3
    assert http_proxy.faults_fired == ["refuse: PUT /5"] * 2


def test_http_denial(echo, http_proxy, http_client):
    """The server has done what the client is told has failed."""
    http_proxy.deny("PUT", "/5", status=500)
    assert ask(http_client, "PUT", "/5") == (500, b"")
    assert ask(http_client, "PUT", "/5") == (200, b"xxxxx")
    assert len(echo.got) == 2


def test_http_lost_answer(echo, http_proxy, http_client):
    """The server has done it, and the client hears nothing but the end of the connection."""
    http_proxy.drop_answer("PUT", "/5")
    with pytest.raises(http.client.RemoteDisconnected):
        ask(http_client, "PUT", "/5")
    assert len(echo.got) == 1
    assert ask(http_client, "PUT", "/5")[0] == 200
    assert http_proxy.log[0] == ("PUT", "/5", None)


@pytest.mark.parametrize("target", ["/1000000", "/chunked/1000000"])
def test_http_reset_while_answering(http_proxy, http_client, target):
    """The connection is reset in mid-body; a shorter answer passes."""
    http_proxy.reset_answer("GET", target, after_bytes=2**18)
    http_proxy.reset_answer("GET", "/10$", after_bytes=11)
    http_client.request("GET", target)
    answer = http_client.getresponse()
    assert answer.read(1000) == b"x" * 1000
    with pytest.raises(ConnectionResetError), answer:
        answer.read()
    http_client.close()
    assert ask(http_client) == (200, b"x" * 10)
    assert http_proxy.faults_fired == [f"reset answer: GET {target}"]


def test_http_reset_while_asking(echo, http_proxy, http_client):
    """The connection is reset while the body is sent, of which the server has a part."""
    http_proxy.reset_request("PUT", "/5", after_bytes=2**18)
    with pytest.raises(ConnectionError):
        ask(http_client, "PUT", "/5", b"1" * 10_000_000)
    assert http_proxy.faults_fired == ["reset request: PUT /5"]
    http_client.close()
    assert ask(http_client, "PUT", "/5", b"1")[0] == 200
    assert [note[2] for note in echo.got].count(hashlib.md5(b"1").hexdigest()) == 1  # noqa: S324


@pytest.mark.parametrize("after_bytes", [None, 0, 2**18])
def test_http_stall(echo, http_proxy, http_client, after_bytes):
    """A part of the answer comes, and the rest only when the test says so."""
    release = threading.Event()
    http_proxy.stall("GET", "/1000000", after_bytes=after_bytes, release=release)
    http_client.request("GET", "/1000000")
    if after_bytes is None:
        assert select.select([http_client.sock], [], [], 0.1)[0] == []
        release.set()
    with http_client.getresponse() as answer:
        begin = answer.read(after_bytes or 0)
        assert release.is_set() or select.select([http_client.sock], [], [], 0.1)[0] == []
        release.set()
        assert begin + answer.read() == b"x" * 1_000_000
    assert len(echo.got) == 1


def test_http_stall_ends_with_the_proxy(echo):
    """Closing the proxy ends what it kept waiting, and leaves no thread."""
    before = threading.active_count()
    with HttpFaultProxy(f"http://127.0.0.1:{echo.server_port}") as proxy:
        proxy.stall("GET", "")
        connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=10)
        idle = http.client.HTTPConnection(proxy.host, proxy.port, timeout=10)
        connection.request("GET", "/10")
        idle.connect()
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()
    idle.close()
    assert threading.active_count() <= before + 1  # the echo's own, for the connection that the proxy has just closed


def test_http_proxy_before_a_closed_port():
    """A server that is away looks like a connection that is reset."""
    with (
        HttpFaultProxy(f"http://127.0.0.1:{free_port()}") as proxy,
        contextlib.closing(http.client.HTTPConnection(proxy.host, proxy.port)) as connection,
        pytest.raises(ConnectionError),
    ):
        ask(connection)


def test_http_interception(echo):
    """A subclass answers in the server's place, or looks at a body that is then forwarded."""

    class Guard(HttpFaultProxy):
        def intercept(self, request):
            if b"bad" in request.read():
                return whole_response(412, b"no", {"X-Query": request.query["x"], "X-Path": request.path})
            return None

    with (
        Guard(f"http://127.0.0.1:{echo.server_port}") as proxy,
        contextlib.closing(http.client.HTTPConnection(proxy.host, proxy.port)) as connection,
    ):
        connection.request("PUT", "/a%20b?x=%C3%BC", b"bad")
        with connection.getresponse() as answer:
            assert (answer.read(), answer.headers["X-Query"], answer.headers["X-Path"]) == (b"no", "ü", "/a%20b")
        assert ask(connection, "PUT", "/5", b"good")[0] == 200
    assert [note[2] for note in echo.got] == [hashlib.md5(b"good").hexdigest()]  # noqa: S324


# Google Cloud Storage


@pytest.fixture
def bucket(gcs_server) -> Iterator[Any]:
    """A client's view of a fresh bucket."""
    client = gcs_server.client()
    yield client.bucket(gcs_server.make_bucket())
    client.close()


def put(bucket, name="key", content=b"1", chunk_bytes=None, **options):
    """The object, written in one request or in chunks, without the client's own retries."""
    blob = bucket.blob(name, chunk_size=chunk_bytes)
    blob.upload_from_file(io.BytesIO(content), retry=None, **options)
    return blob


@pytest.mark.parametrize("chunk_bytes", [None, 2**18])
@pytest.mark.parametrize("name", ["key", "key/below", "//a b+ü%2F/..", "n" * 1024])
def test_gcs_keeps_objects(gcs_server, bucket, name, chunk_bytes):
    """Names that are folders of each other, odd and long ones; written in one request or in several."""
    content = os.urandom(2**20 + 17)
    put(bucket)
    blob = put(bucket, name, content, chunk_bytes, content_type="text/csv")
    assert blob.download_as_bytes(retry=None) == content
    assert blob.download_as_bytes(start=2**20, end=2**20 + 3, retry=None) == content[2**20 : 2**20 + 4]
    assert (blob.size, blob.content_type) == (len(content), "text/csv")
    assert {each.name for each in bucket.list_blobs(retry=None)} == {"key", name}
    assert gcs_server.open_uploads(bucket.name) == []


OPERATIONS: dict[str, Callable[..., object]] = {
    "upload": lambda blob, **met: put(blob.bucket, **met),
    "upload in chunks": lambda blob, **met: put(blob.bucket, content=b"1" * 2**19, chunk_bytes=2**18, **met),
    "get": lambda blob, **met: blob.reload(retry=None, **met),
    "download": lambda blob, **met: blob.download_as_bytes(retry=None, **met),
    "patch": lambda blob, **met: (setattr(blob, "content_type", "text/csv"), blob.patch(retry=None, **met)),
    "copy": lambda blob, **met: blob.bucket.copy_blob(blob.bucket.blob("other"), blob.bucket, "key", retry=None, **met),
    "rewrite": lambda blob, **met: blob.rewrite(blob.bucket.blob("other"), retry=None, **met),
    "compose": lambda blob, **met: blob.compose([blob.bucket.blob("other")] * 2, retry=None, **met),
    "delete": lambda blob, **met: blob.delete(retry=None, **met),
}
"""What takes a precondition."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_gcs_preconditions(bucket, name):
    """Each operation is refused when the object is another one, and done when it is the one that was meant."""
    put(bucket, "other")
    blob = put(bucket)
    generation = blob.generation
    for wrong in ({"if_generation_match": generation - 1}, {"if_metageneration_match": 7}):
        with pytest.raises(PreconditionFailed, match="pre-conditions"):
            OPERATIONS[name](blob, **wrong)
    OPERATIONS[name](blob, if_generation_match=generation)


def test_gcs_preconditions_on_sources(bucket):
    """A copy and a composition are refused when a source is another one."""
    source = put(bucket)
    other = source.generation - 1
    with pytest.raises(PreconditionFailed):
        bucket.copy_blob(source, bucket, "copy", if_source_generation_match=other, retry=None)
    with pytest.raises(PreconditionFailed):
        bucket.blob("sum").compose([source, source], if_source_generation_match=[None, other], retry=None)
    assert [each.name for each in bucket.list_blobs(retry=None)] == ["key"]


@pytest.mark.parametrize("chunk_bytes", [None, 2**18])
def test_gcs_race(gcs_server, bucket, chunk_bytes):
    """Of sixteen who create the object, delete it, or put theirs in its place at once, one wins."""

    def winners(operation):
        def one(number):
            client = gcs_server.client()
            try:
                operation(client.bucket(bucket.name), number)
            except (PreconditionFailed, NotFound):
                return False
            finally:
                client.close()
            return True

        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(one, range(16))).count(True)

    def write(bucket, number, generation=0):
        put(bucket, content=bytes([number]) * 2**19, chunk_bytes=chunk_bytes, if_generation_match=generation)

    assert winners(write) == 1
    first = bucket.get_blob("key").generation
    assert winners(lambda bucket, number: write(bucket, number, first)) == 1
    second = bucket.get_blob("key").generation
    assert winners(lambda bucket, _: bucket.blob("key").delete(if_generation_match=second, retry=None)) == 1


@pytest.fixture
def session(bucket) -> str:
    """The URL of a resumable upload of `key`."""
    return bucket.blob("key").create_resumable_upload_session(if_generation_match=0, retry=None)


def send(session, content=b"", start=None, total="*"):
    """Status and Range of the answer to a chunk, or to a question about the upload."""
    span = "*" if start is None else f"{start}-{start + len(content) - 1}"
    answer = requests.put(session, content, headers={"Content-Range": f"bytes {span}/{total}"}, timeout=30)
    return answer.status_code, answer.headers.get("Range")


def test_gcs_resumable_uploads(gcs_server, bucket, session):
    """The server says what it has; what comes twice counts once, a gap is refused, and only the end makes an object."""
    content = os.urandom(1000)
    assert send(session, total=1000) == (308, None)
    assert gcs_server.open_uploads(bucket.name) == ["key"]
    assert gcs_server.open_uploads(bucket.name, with_content=True) == []
    assert send(session, content[:600], 0) == (308, "bytes=0-599")
    assert send(session, total=1000) == send(session) == (308, "bytes=0-599")
    assert send(session, content[700:], 700, 1000)[0] == 503
    assert gcs_server.open_uploads(bucket.name, with_content=True) == ["key"]
    assert not bucket.blob("key").exists(retry=None)
    assert send(session, content[500:], 500, 1000)[0] == 200
    assert send(session, total=1000)[0] == 200
    assert gcs_server.open_uploads(bucket.name) == []
    assert bucket.blob("key").download_as_bytes(retry=None) == content


def test_gcs_keeps_a_part_of_a_broken_chunk(gcs_server, session):
    """Of a chunk that breaks off the server has a multiple of 256 KiB."""
    gcs_server.reset_request("PUT", re.escape(session.rpartition("=")[2]), after_bytes=700_000)
    with pytest.raises(requests.ConnectionError):
        send(session, b"1" * 2**20, 0)
    assert send(session) == (308, f"bytes=0-{2 * 2**18 - 1}")


def test_gcs_cancels_uploads(gcs_server, bucket, session):
    """A cancelled upload is gone."""
    assert requests.delete(session, timeout=30).status_code == 499
    assert send(session, b"1", 0, 1)[0] == 404
    assert gcs_server.open_uploads(bucket.name) == []


@pytest.mark.parametrize("chunk_bytes", [None, 2**18])
@pytest.mark.parametrize("declared", ["md5_hash", "crc32c"])
def test_gcs_checks_checksums(bucket, declared, chunk_bytes):
    """Content that is not what was declared does not become an object."""
    blob = bucket.blob("key", chunk_size=chunk_bytes)
    setattr(blob, declared, "AAAA")
    with pytest.raises(BadRequest, match="doesn't match calculated"):
        blob.upload_from_file(io.BytesIO(b"1" * 2**19), checksum=None, retry=None)
    assert not blob.exists(retry=None)


def test_gcs_reader(gcs_server, bucket):
    """Who may only read is told the permission that is missing."""
    put(bucket)
    options = {"api_endpoint": gcs_server.endpoint}
    client = storage.Client(gcs_server.project, Credentials("read-only"), client_options=options)
    reader = client.bucket(bucket.name)
    assert reader.blob("key").download_as_bytes(retry=None) == b"1"
    assert len(list(reader.list_blobs(retry=None))) == 1
    refused = {
        "objects.create": [
            lambda: put(reader, "new"),
            lambda: put(reader, "new", chunk_bytes=2**18),
            lambda: reader.copy_blob(reader.blob("key"), reader, "new", retry=None),
        ],
        "objects.delete": [lambda: reader.blob("key").delete(retry=None)],
        "objects.update": [lambda: reader.blob("key").patch(retry=None)],
        "buckets.get": [lambda: reader.reload(retry=None)],
    }
    for permission, attempts in refused.items():
        for attempt in attempts:
            with pytest.raises(Forbidden, match=f"does not have storage.{permission} access"):
                attempt()
    client.close()


def test_gcs_knows_its_tokens(gcs_server, bucket):
    """A token that nobody issued is refused, until it is issued."""
    put(bucket)
    url = f"{gcs_server.endpoint}/storage/v1/b/{bucket.name}/o/key"
    token = {"Authorization": "Bearer of-a-test"}
    refused = requests.get(url, headers=token, timeout=30)
    assert (refused.status_code, refused.json()["error"]["errors"][0]["reason"]) == (401, "authError")
    gcs_server.tokens.add("of-a-test")
    assert requests.get(url, headers=token, timeout=30).status_code == 200


def test_gcs_says_what_is_missing(bucket):
    """A bucket that is not there is told from an object that is not there."""
    nowhere = bucket.client.bucket("no-such-bucket")
    for ask in (lambda of: of.blob("key").reload(retry=None), lambda of: of.blob("key").download_as_bytes(retry=None)):
        with pytest.raises(NotFound, match=f"No such object: {bucket.name}/key"):
            ask(bucket)
        with pytest.raises(NotFound, match="The specified bucket does not exist"):
            ask(nowhere)
    for ask in (put, lambda of: list(of.list_blobs(retry=None)), lambda of: of.reload(retry=None)):
        with pytest.raises(NotFound, match="The specified bucket does not exist"):
            ask(nowhere)


def test_gcs_versions(gcs_server, bucket):
    """A versioned bucket keeps what was overwritten."""
    versioned = bucket.client.bucket(gcs_server.make_bucket(versioned=True))
    for content in (b"1", b"2"):
        put(versioned, content=content)
    kept = [each.download_as_bytes(retry=None) for each in versioned.list_blobs(versions=True, retry=None)]
    assert sorted(kept) == [b"1", b"2"]


def test_gcs_behind_another_proxy(gcs_server, bucket):
    """Uploads and downloads keep to the address that the client has, so that faults can be put before them."""
    with HttpFaultProxy(gcs_server.endpoint) as proxy:
        far = storage.Client("p", AnonymousCredentials(), client_options={"api_endpoint": proxy.url})
        blob = put(far.bucket(bucket.name), content=b"1" * 2**20, chunk_bytes=2**18)
        assert [status for *_, status in proxy.log] == [200, 308, 308, 308, 308, 200]
        assert len(blob.download_as_bytes(retry=None)) == 2**20
        assert {method for method, *_ in proxy.log[6:]} == {"GET"}
        far.close()
