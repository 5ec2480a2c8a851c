"""The servers and the proxy that the other tests lean on."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import psycopg
import pytest

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
