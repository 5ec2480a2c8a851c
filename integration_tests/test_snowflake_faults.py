"""Loads into Snowflake under faults: lost requests, lost answers, silence, kills. Each ends in exactly the rows."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from blocks.base.errors import AmbiguousError, TransientError
from blocks.base.retry import RetryPolicy
from blocks.warehouses.ledger import LEDGER
from connectors.snowflake import Snowflake
from integration_tests.standins.snowflake import PASSWORD, USER, Kind, SnowflakeProxy, fields, new_schema_name
from tests.contracts.warehouse import ARGUMENTS, all_modes, opened, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from blocks.warehouses.load import LoadReport, Mode
    from integration_tests.standins.snowflake import SnowflakeServer

RETRY = RetryPolicy(attempts=6, first_delay_s=0.01, max_delay_s=0.05)


class Impatient(Snowflake):
    """A block whose driver repeats a request for a second, and gives up."""

    _block_type_slug = "impatient-snowflake"

    def connect(self, load_id: str | None = None, **options: Any) -> Any:
        """A connection that does not wait long between its tries."""
        return super().connect(load_id, **{**options, "backoff_policy": quickly})


def quickly() -> Iterator[float]:
    return itertools.repeat(0.2)


def block(server: SnowflakeServer, schema: str, port: int | None = None, *, timeout_s: int = 20) -> Snowflake:
    login = {"account": "standin", "user": USER, "password": PASSWORD, **server.connection(port)}
    timeouts = {"network_timeout_s": timeout_s, "login_timeout_s": timeout_s, "read_timeout_s": timeout_s}
    return Impatient(credentials=login, **fields(schema), retry=RETRY, **timeouts)


@pytest.fixture
def proxy(snowflake_server: SnowflakeServer) -> Iterator[SnowflakeProxy]:
    with SnowflakeProxy(snowflake_server.url) as running:
        yield running


@pytest.fixture
def direct(snowflake_server: SnowflakeServer) -> Iterator[Snowflake]:
    """A schema without the proxy."""
    with new_schema(snowflake_server) as there:
        yield there


@pytest.fixture
def behind(snowflake_server: SnowflakeServer, direct: Snowflake, proxy: SnowflakeProxy) -> Snowflake:
    """The same schema as a loader sees it, through the proxy."""
    return block(snowflake_server, direct.schema_, proxy.port, timeout_s=1)


@contextlib.contextmanager
def new_schema(server: SnowflakeServer) -> Iterator[Snowflake]:
    home, there = block(server, "public"), block(server, new_schema_name())
    home.execute(f"CREATE SCHEMA {there.schema_}")
    yield there
    home.execute(f"DROP SCHEMA {there.schema_} CASCADE")


def assert_loaded_once(warehouse: Snowflake, size: int, *, loads: int = 1) -> None:
    found = warehouse.fetch_one("SELECT count(*), count(DISTINCT id), coalesce(sum(id), 0) FROM t")
    assert found == (size, size, size * (size - 1) // 2)
    assert warehouse.fetch_one(f"SELECT count(*) FROM {LEDGER}") == (loads,)


def rows_of(size: int) -> pa.Table:
    return table_of(list(range(size)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["drop answer", "cut answer"])
@all_modes
def test_the_answer_to_commit_is_lost(
    behind: Snowflake, direct: Snowflake, proxy: SnowflakeProxy, mode: Mode, kind: Kind
) -> None:
    """The load is reported as done, with one copy of its rows, and the report says how that is known."""
    direct.load(rows_of(0), "t")
    proxy.lose(kind, "^commit$")
    report = behind.load(rows_of(1_000), "t", mode=mode, **ARGUMENTS[mode])
    assert (report.rows, report.resolved_from_ledger, report.already_loaded) == (1_000, True, False)
    assert_loaded_once(direct, 1_000, loads=2)


def test_a_commit_that_does_not_arrive_is_made_again(
    behind: Snowflake, direct: Snowflake, proxy: SnowflakeProxy, snowflake_server: SnowflakeServer
) -> None:
    """The transaction that waits for it is aborted by its name, and the load runs again."""
    direct.load(rows_of(0), "t")
    proxy.lose("refuse", "^commit$")
    before = len(snowflake_server.statements())
    report = behind.load(rows_of(1_000), "t")
    assert (report.rows, report.resolved_from_ledger, report.already_loaded) == (1_000, False, False)
    assert_loaded_once(direct, 1_000, loads=2)
    statements = [sql for _, sql in snowflake_server.statements()[before:]]
    assert sum("SYSTEM$ABORT_TRANSACTION" in sql for sql in statements) <= 1
    assert "SHOW TRANSACTIONS" in statements


def test_a_ledger_that_cannot_be_read_is_said(behind: Snowflake, direct: Snowflake, proxy: SnowflakeProxy) -> None:
    """If nothing can be looked up the error is AmbiguousError with the load_id; calling again with it is safe."""
    direct.load(rows_of(0), "t")
    proxy.lose("drop answer", "^commit$")
    for _ in range(RETRY.attempts):
        proxy.lose("refuse", "SHOW TRANSACTIONS")
    with pytest.raises(AmbiguousError, match="load_id='monday'"):
        behind.load(rows_of(10), "t", load_id="monday")
    assert direct.load(rows_of(10), "t", load_id="monday").already_loaded
    assert_loaded_once(direct, 10, loads=2)


@pytest.mark.parametrize("kind", ["drop answer", "cut answer"])
def test_a_statement_that_may_have_run_is_said(
    behind: Snowflake, direct: Snowflake, proxy: SnowflakeProxy, kind: Kind
) -> None:
    """A statement whose answer is lost is not run again, and the error says that it may have happened."""
    direct.load(rows_of(0), "t")
    proxy.lose(kind, "^insert")
    with pytest.raises(AmbiguousError, match="may have run"):
        behind.execute("INSERT INTO t (id) VALUES (0)")
    assert direct.fetch_one("SELECT count(*) FROM t") == (1,)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("append", "drop answer"),
        ("append", "cut answer"),
        ("upsert", "drop answer"),
        ("upsert", "refuse"),
    ],
)
@pytest.mark.thorough
def test_every_request_may_be_lost(snowflake_server: SnowflakeServer, mode: Mode, kind: str) -> None:
    """Whichever request of a load is lost, before or after the service did it, the rows are there once."""

    def load(number: int | None) -> list[str]:
        with new_schema(snowflake_server) as direct, SnowflakeProxy(snowflake_server.url) as proxy:
            direct.execute("CREATE TABLE t (id NUMBER(19,0))")
            if number is not None:
                proxy.lose(kind, number=number)
            behind = block(snowflake_server, direct.schema_, proxy.port, timeout_s=1)
            report = behind.load(rows_of(50), "t", mode=mode, load_id="x", **ARGUMENTS[mode])
            assert report.rows == 50
            assert_loaded_once(direct, 50)
            return list(proxy.requests)

    stages = snowflake_server.stages()
    requests = load(None)
    assert "COMMIT" in requests
    with ThreadPoolExecutor(4) as pool:  # each waits for a second or two, as the driver does
        made = list(pool.map(load, range(len(requests))))
    assert [number for number, (_, then) in enumerate(zip(requests, made, strict=True)) if len(then) <= number] == []
    left = snowflake_server.stages()
    assert left == stages or kind == "refuse"  # a session whose end was not heard of ends by itself


def test_an_answer_that_is_cut_is_asked_for_again(behind: Snowflake, direct: Snowflake, proxy: SnowflakeProxy) -> None:
    """A query, a scan and a login whose answer ends in its middle: each is one of our errors, and passes."""
    direct.load(rows_of(100), "t")
    proxy.lose("cut answer", "^select count")
    assert behind.fetch_one("SELECT count(*) FROM t") == (100,)
    proxy.lose("cut answer", r"^select \* from .t.$")
    with pytest.raises(TransientError, match="connection was lost"):
        behind.scan("t").to_arrow()
    proxy.lose("cut answer", "login-request")
    assert behind.fetch_one("SELECT 7") == (7,)
    assert len(proxy.faults_fired) == 3


@pytest.mark.parametrize("at", ["a statement", "commit"])
def test_a_transaction_that_paused_is_made_again(direct: Snowflake, at: str) -> None:
    """After a pause (a machine that slept) nothing more is sent: the service may have aborted it, and would commit."""
    direct.load(rows_of(0), "t")
    times = [1_000.0]
    direct._clock = lambda: times[0]
    with contextlib.closing(direct._connect_bulk("monday")) as session:
        session.begin()
        session.execute("INSERT INTO t (id) VALUES (0)")
        times[0] += 31
        with pytest.raises(TransientError, match="paused for 31 s"):
            session.commit() if at == "commit" else session.execute("INSERT INTO t (id) VALUES (1)")
    assert_loaded_once(direct, 0)


def test_silence_ends(behind: Snowflake, proxy: SnowflakeProxy) -> None:
    """A service that takes a query and says nothing is given up after the block's timeouts, and asked again."""
    proxy.lose("stall", "^select 7$")
    started = time.monotonic()
    assert behind.fetch_one("SELECT 7") == (7,)
    assert proxy.faults_fired
    assert time.monotonic() - started < 20


def test_tokens_that_expire_are_renewed(snowflake_server: SnowflakeServer, direct: Snowflake) -> None:
    """A session whose token expires amid a load goes on with a new one."""
    direct.load(opened(rows_of(1_000), snowflake_server.expire), "t")
    assert_loaded_once(direct, 1_000)


def test_a_session_that_is_gone_is_made_again(snowflake_server: SnowflakeServer, direct: Snowflake) -> None:
    """A session that the service ended amid a load costs a retry and no row."""
    ended: list[bool] = []

    def end_once() -> None:
        if not ended:
            ended.append(True)
            snowflake_server.expire(sessions=True)

    direct.load(opened(rows_of(1_000), end_once), "t")
    assert_loaded_once(direct, 1_000)


# Killed processes

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["connectors.snowflake", "integration_tests.standins.snowflake"])
MOMENTS: list[tuple[Mode, str]] = [
    ("append", "^select report"),
    ("append", "^copy into"),
    ("append", "^merge into ._etl_loads"),
    ("append", "^update ._etl_loads"),
    ("append", "^commit$"),
    ("upsert", "^merge into .t. "),
]


def load_in_a_process(warehouse: Snowflake, mode: Mode, load_id: str) -> None:
    warehouse.load(rows_of(1_000), "t", mode=mode, load_id=load_id, **ARGUMENTS[mode])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("moment", MOMENTS, ids=" at ".join)
def test_a_loader_is_killed(
    snowflake_server: SnowflakeServer, direct: Snowflake, proxy: SnowflakeProxy, moment: tuple[Mode, str]
) -> None:
    """After kill -9 the service hears nothing: the same load, called again, waits until its transaction is ended."""
    mode, statement = moment
    direct.load(rows_of(0), "t", load_id="first")
    proxy.lose("stall", statement)
    behind = block(snowflake_server, direct.schema_, proxy.port)
    process = processes.Process(target=load_in_a_process, args=(behind, mode, "monday"))
    process.start()
    try:
        pause = threading.Event()
        while not proxy.faults_fired:
            assert process.is_alive()
            pause.wait(0.02)
    finally:
        process.kill()
        process.join()
        process.close()
    report: LoadReport = direct.load(rows_of(1_000), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
    assert report.already_loaded == (statement == "^commit$")
    assert_loaded_once(direct, 1_000, loads=2)
