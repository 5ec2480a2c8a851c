"""The servers and the proxy that the other tests lean on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import psycopg
import pytest

from integration_tests.standins.http_proxy import HttpFaultProxy, whole_response
from integration_tests.standins.postgres import Address, PostgresServer
from integration_tests.standins.process import free_port
from integration_tests.standins.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

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
