"""No answer, lost packets, time limits, Ctrl-C and SIGTERM at every step: a load ends soon, and a retry loads once.

What ends a wait goes on as it is: Ctrl-C is a KeyboardInterrupt, whatever the driver made of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import multiprocessing
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow, task
from prefect.exceptions import TerminationSignal
from prefect.utilities.timeout import timeout

from blocks.arrow.scan import Scan
from blocks.base.errors import AmbiguousError, TerminalError, TransientError
from blocks.base.interruption import interruptible
from blocks.base.retry import RetryPolicy
from blocks.credentials import AwsCredentials
from blocks.testing import FaultProxy, HttpFaultProxy
from connectors.duckdb import DuckDB
from connectors.postgres import Postgres
from connectors.s3 import S3Bucket
from integration_tests import test_bigquery, test_redshift, test_snowflake_faults
from integration_tests.standins.redshift import stand_in
from integration_tests.standins.snowflake import SnowflakeProxy
from integration_tests.stores import new_store, server_url
from integration_tests.test_load_faults import assert_loaded_once, block, eventually, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from blocks.arrow.rejects import Rejects
    from integration_tests.standins.postgres import Address, PostgresServer
    from integration_tests.standins.sftp import SftpServer

ENDS_IN_S = 10.0
ONCE = RetryPolicy(attempts=1)
ROWS = 20_000

each_step = pytest.mark.parametrize(
    "step",
    [
        pytest.param("SELECT attname", marks=pytest.mark.thorough),
        pytest.param("INSERT INTO .*_etl_loads", marks=pytest.mark.thorough),
        "COPY",
        pytest.param("UPDATE .*_etl_loads", marks=pytest.mark.thorough),
        pytest.param("COMMIT", marks=pytest.mark.thorough),
    ],
)


@pytest.fixture
def direct(pg_database: Address) -> Postgres:
    """The database without the proxy."""
    return postgres(pg_database)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres_server.host, postgres_server.port) as running:
        yield running


@pytest.fixture
def behind(pg_database: Address, proxy: FaultProxy) -> Postgres:
    """The same database as a loader sees it, through the proxy."""
    return postgres(pg_database.through(proxy.port))


def postgres(address: Address, **options: Any) -> Postgres:
    return block(address, retry=ONCE, **options)


# What ends a wait


def by_sigint(work: Callable[[], object], ready: Callable[[], None]) -> None:
    """Ctrl-C in the main thread, once it is `ready`."""

    def send() -> None:
        try:
            ready()
        finally:  # else nothing would end the work
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind it ignores Ctrl-C
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            work()
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)


def by_alarm(work: Callable[[], object], ready: Callable[[], None]) -> None:
    """As Prefect's `timeout_seconds` ends a flow, or a task that it calls: by an alarm in the main thread."""
    del ready
    with pytest.raises(TimeoutError), timeout(seconds=2):
        work()


def by_thread(work: Callable[[], object], ready: Callable[[], None]) -> None:
    """As Prefect's `timeout_seconds` ends a submitted task: by an exception in its thread."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(by_alarm, work, ready).result()


each_end = pytest.mark.parametrize(
    "end", [by_sigint, *(pytest.param(end, marks=pytest.mark.thorough) for end in (by_alarm, by_thread))]
)
End = Any


@contextlib.contextmanager
def in_time(seconds: float = ENDS_IN_S) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + 2  # the two of `by_alarm`


def assert_nothing_runs(warehouse: Postgres) -> None:
    """The server is at work on nothing of ours."""
    active = (
        "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'etl-blocks%' AND state = 'active' "
        "AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    eventually(lambda: not warehouse.fetch_all(active), 10)


def held(data: pa.Table, reached: threading.Event) -> Scan:
    """Data whose source says nothing any more after half of it, the first time that it is read."""
    reads: list[int] = []

    def read(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        reads.append(1)
        for number, batch in enumerate(data.to_batches(max_chunksize=data.num_rows // 4)):
            if number == 2 and len(reads) == 1:
                reached.set()
                threading.Event().wait(60)
            yield batch

    return Scan(data.schema, read, source="a source")


# PostgreSQL


@each_step
@each_end
def test_a_load_without_an_answer_is_interrupted(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, step: str, end: End
) -> None:
    """At each step of it; the rows are there once, after a retry at the latest."""
    direct.load(table_of(0), "t", load_id="empty")
    proxy.silence_after(step)
    with in_time():
        end(lambda: behind.load(table_of(ROWS), "t", load_id="day"), proxy.wait_for_fault)
    assert_nothing_runs(direct)
    direct.load(table_of(ROWS), "t", load_id="day")
    assert_loaded_once(direct, ROWS, loads=2)


@each_end
def test_a_load_whose_source_is_silent_is_interrupted(direct: Postgres, end: End) -> None:
    """In the middle of the COPY, whose server is told; nothing was loaded."""
    direct.load(table_of(0), "t", load_id="empty")
    reached = threading.Event()
    with in_time():
        end(lambda: direct.load(held(table_of(ROWS), reached), "t", load_id="day"), reached.wait)
    assert_nothing_runs(direct)
    assert direct.fetch_one("SELECT count(*) FROM t") == (0,)
    direct.load(table_of(ROWS), "t", load_id="day")
    assert_loaded_once(direct, ROWS, loads=2)


@pytest.mark.parametrize("end", [pytest.param(by_sigint, marks=pytest.mark.thorough), by_alarm, by_thread])
@pytest.mark.parametrize("read", ["execute", "scan"])
def test_a_statement_is_cancelled_at_the_server(direct: Postgres, end: End, read: str) -> None:
    """By psycopg and by ADBC; the statement does not go on without us."""
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(99)%' AND pid <> pg_backend_pid()"

    def work() -> object:
        if read == "execute":
            return direct.execute("SELECT pg_sleep(99)")
        return direct.scan_query("SELECT 1 AS a, pg_sleep(99)::text AS b").to_arrow()

    def ready() -> None:
        eventually(lambda: Postgres(**direct.model_dump(exclude={"retry"})).fetch_all(running))

    with in_time():
        end(work, ready)
    assert_nothing_runs(direct)


def test_no_answer_ends_after_the_read_timeout(pg_database: Address, direct: Postgres, proxy: FaultProxy) -> None:
    """A load, and a statement, which are undone without their COMMIT: a transient error, and a retry loads once."""
    behind = postgres(pg_database.through(proxy.port), read_timeout_s=1, commit_timeout_s=1, connect_timeout_s=2)
    direct.load(table_of(0), "t", load_id="empty")
    for step in ("INSERT INTO .*_etl_loads", "COPY"):
        proxy.silence_after(step)
        with in_time(), pytest.raises(TransientError, match="no answer in 1 s"):
            behind.load(table_of(ROWS), "t", load_id="day")
    proxy.silence_after("INSERT INTO t")
    with in_time(), pytest.raises(TransientError, match="no answer in 1 s"):
        behind.execute("INSERT INTO t (id) SELECT 1 WHERE false")
    direct.load(table_of(ROWS), "t", load_id="day")
    assert_loaded_once(direct, ROWS, loads=2)


@pytest.mark.thorough
def test_lost_packets_end_after_the_read_timeout(pg_database: Address, direct: Postgres, proxy: FaultProxy) -> None:
    """From the middle of a COPY on nothing arrives on any connection; neither does the question whether it works."""
    behind = postgres(pg_database.through(proxy.port), read_timeout_s=1, connect_timeout_s=2)
    direct.load(table_of(0), "t", load_id="empty")

    def read(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(table_of(ROWS).to_batches(max_chunksize=ROWS // 4)):
            if number == 2:
                proxy.freeze()
            yield batch

    with in_time(), pytest.raises((TransientError, AmbiguousError)):
        behind.load(Scan(table_of(0).schema, read, source="a source"), "t", load_id="day")
    proxy.thaw()
    direct.load(table_of(ROWS), "t", load_id="day")
    assert_loaded_once(direct, ROWS, loads=2)


def test_a_server_at_work_is_waited_for(pg_database: Address) -> None:
    """A statement that takes longer than the read timeout is no silence: by psycopg and by ADBC."""
    patient = postgres(pg_database, read_timeout_s=0.2)
    patient.execute("SELECT pg_sleep(1)")
    assert patient.scan_query("SELECT 1 AS a, pg_sleep(1)::text AS b").to_arrow().num_rows == 1


def test_the_server_ends_a_statement_that_takes_too_long(pg_database: Address) -> None:
    """By psycopg and by ADBC: a terminal error, which another attempt would meet again."""
    strict = postgres(pg_database, statement_timeout_s=0.5)
    with in_time(), pytest.raises(Exception, match="statement timeout"):
        strict.execute("SELECT pg_sleep(30)")
    with in_time(), pytest.raises(Exception, match="statement timeout"):
        strict.scan_query("SELECT pg_sleep(30)::text AS b").to_arrow()


@pytest.mark.thorough
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_killed_takes_its_statement_along(direct: Postgres, sent: signal.Signals) -> None:
    """Outside of a flow SIGTERM ends a process without a word: the server looks after its client."""
    child = multiprocessing.get_context("spawn").Process(target=sleeps, args=(direct,))
    child.start()
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(99)%' AND pid <> pg_backend_pid()"
    eventually(lambda: direct.fetch_all(running), 60)
    os.kill(child.pid or 0, sent)
    with in_time():
        child.join()
        assert_nothing_runs(direct)


# Flows and tasks of Prefect's


def sleeps(warehouse: Postgres) -> None:
    warehouse.execute("SELECT pg_sleep(99)")


def in_a_flow(warehouse: Postgres, limit_s: float) -> None:
    """The operation is a task run of the flow."""
    flow(timeout_seconds=limit_s)(sleeps)(warehouse)


def in_a_task(warehouse: Postgres, limit_s: float) -> None:
    """The operation is a plain call in the task."""

    @flow
    def main() -> None:
        task(timeout_seconds=limit_s)(sleeps)(warehouse)

    main()


def in_a_submitted_task(warehouse: Postgres, limit_s: float) -> None:
    """The task runs in a thread."""

    @flow
    def main() -> None:
        task(timeout_seconds=limit_s)(sleeps).submit(warehouse).result()

    main()


def in_a_flow_that_submits(warehouse: Postgres, limit_s: float) -> None:
    """The flow ends in the main thread, and its task runs in others."""

    @flow(timeout_seconds=limit_s)
    def main() -> None:
        warehouse.execute.submit("SELECT pg_sleep(99)")
        task(sleeps).submit(warehouse).result()

    main()


def in_an_async_flow(warehouse: Postgres, limit_s: float) -> None:
    """The operation is awaited."""

    @flow(timeout_seconds=limit_s)
    async def main() -> None:
        await warehouse.execute.aio("SELECT pg_sleep(99)")

    asyncio.run(main())


@pytest.fixture
def left_open() -> Iterator[None]:
    """Collects the clients that Prefect leaves open when a flow ends early, while nothing minds."""
    yield
    gc.collect()


FLOWS = [in_a_flow, in_a_task, in_a_submitted_task, in_a_flow_that_submits, in_an_async_flow]


@pytest.mark.usefixtures("prefect_server", "left_open")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("run", [pytest.param(run, marks=pytest.mark.thorough) for run in FLOWS])
def test_a_time_limit_of_prefect_ends_a_statement(direct: Postgres, run: Callable[[Postgres, float], None]) -> None:
    """`timeout_seconds` of a flow and of a task, wherever the operation is called; the server is told."""
    with in_time(), pytest.raises(Exception, match="timed out"):
        run(direct, 2)
    assert_nothing_runs(direct)


@pytest.mark.usefixtures("prefect_server", "left_open")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "run",
    [in_a_flow, *(pytest.param(run, marks=pytest.mark.thorough) for run in FLOWS[2:])],
)
def test_a_signal_ends_a_flow(
    direct: Postgres, run: Callable[[Postgres, float], None], sent: signal.Signals, request: pytest.FixtureRequest
) -> None:
    """As a worker ends a flow run that is cancelled: by SIGTERM, at any place of it."""
    running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(99)%' AND pid <> pg_backend_pid()"

    def send() -> None:
        eventually(lambda: Postgres(**direct.model_dump(exclude={"retry"})).fetch_all(running))
        os.kill(os.getpid(), sent)

    # Prefect hands the signal on to the handler that was there before, and that would end this process.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    sender = threading.Thread(target=send)
    sender.start()
    with in_time(20), pytest.raises((KeyboardInterrupt, TerminationSignal)):
        run(direct, 60)
    sender.join()
    assert_nothing_runs(direct)


# DuckDB


@each_end
def test_duckdb_is_interrupted(tmp_path: Any, end: End) -> None:
    """A long statement, and a load whose source is silent; nothing was loaded, and another attempt loads once."""
    warehouse = DuckDB(path=str(tmp_path / "d.duckdb"), retry=ONCE)
    warehouse.load(table_of(0), "t", load_id="empty")
    long = "SELECT count(*) FROM range(10000000000) a WHERE a.range % 7 = 3"
    for read in (lambda: warehouse.fetch_all(long), lambda: warehouse.scan_query(long).to_arrow()):
        with in_time():
            end(read, lambda: time.sleep(0.5))
    reached = threading.Event()
    with in_time():
        end(lambda: warehouse.load(held(table_of(ROWS), reached), "t", load_id="day"), reached.wait)
    assert warehouse.fetch_one("SELECT count(*) FROM t") == (0,)
    warehouse.load(table_of(ROWS), "t", load_id="day")
    assert warehouse.fetch_one("SELECT count(*) FROM t") == (ROWS,)


def test_duckdb_ends_a_statement_that_takes_too_long() -> None:
    """A terminal error that names the field; the database goes on."""
    warehouse = DuckDB(statement_timeout_s=0.3)
    with in_time(), pytest.raises(TerminalError, match=r"longer than statement_timeout_s, 0\.3 s"):
        warehouse.fetch_all("SELECT count(*) FROM range(10000000000) a WHERE a.range % 7 = 3")
    assert warehouse.fetch_all("SELECT 1") == [(1,)]


# Object stores

CONTENT = os.urandom(9 * 2**20)
REQUESTS = {
    "s3": {"read": ("GET", "/key"), "write": ("PUT", "partNumber=2")},
    "gcs": {"read": ("GET", "%2Fkey.*alt=media"), "write": ("PUT", "upload_id")},
    "azure": {"read": ("GET", "/key$"), "write": ("PUT", "comp=block&")},
}
each_request = pytest.mark.parametrize(
    ("kind", "verb"),
    [
        pytest.param(kind, verb, marks=[] if (kind, verb) == ("s3", "write") else pytest.mark.thorough)
        for kind in REQUESTS
        for verb in ("read", "write")
    ],
)


@each_request
@each_end
def test_a_request_without_an_answer_is_interrupted(
    kind: str, verb: str, end: End, request: pytest.FixtureRequest
) -> None:
    """In the middle of a large object, whose parts are removed; then it is read or written as usual."""
    with HttpFaultProxy(server_url(kind, request)) as proxy:
        store = new_store(kind, request, url=proxy.url, retry=ONCE)
        store.write_path("key", CONTENT)
        proxy.stall(*REQUESTS[kind][verb], times=9)

        def work() -> object:
            return store.read_path("key") if verb == "read" else store.write_path("new", CONTENT)

        with in_time():
            end(work, lambda: eventually(lambda: proxy.faults_fired))
        assert [found["Key"] for found in store.list_objects()] == ["key"]
        if kind == "s3":
            assert "Uploads" not in store.get_client().list_multipart_uploads(Bucket=store.bucket_name)


@each_request
def test_silence_of_a_request_ends_after_the_read_timeout(kind: str, verb: str, request: pytest.FixtureRequest) -> None:
    """Not after that of each of the driver's own attempts; and a transient error says so."""
    with HttpFaultProxy(server_url(kind, request)) as proxy:
        patient = new_store(kind, request, url=proxy.url, retry=ONCE)
        patient.write_path("key", CONTENT)
        store = patient.model_copy(update={"read_timeout_s": 3})
        proxy.stall(*REQUESTS[kind][verb], times=9)
        with in_time(3 + ENDS_IN_S), pytest.raises(TransientError):
            store.read_path("key") if verb == "read" else store.write_path("new", CONTENT)


each_sftp_request = pytest.mark.parametrize("verb", ["read", pytest.param("write", marks=pytest.mark.thorough)])


@each_sftp_request
@each_end
def test_a_request_of_sftp_without_an_answer_is_interrupted(
    verb: str, end: End, sftp_server: SftpServer, request: pytest.FixtureRequest
) -> None:
    """In the middle of a large file, of which nothing stays; then it is read or written as usual."""
    store = new_store("sftp", request, retry=ONCE)
    store.write_path("key", CONTENT)
    sftp_server.strike("stall", verb, skip=2)

    def work() -> object:
        return store.read_path("key") if verb == "read" else store.write_path("new", CONTENT)

    with in_time():
        end(work, lambda: eventually(lambda: sftp_server.struck))
    assert [found["Key"] for found in store.list_objects()] == ["key"]
    assert store.sweep(older_than=dt.timedelta(days=-1)) == 0
    assert store.read_path("key") == CONTENT


@each_sftp_request
def test_silence_of_a_request_of_sftp_ends_after_the_read_timeout(
    verb: str, sftp_server: SftpServer, request: pytest.FixtureRequest
) -> None:
    """Also while the server still answers other requests; and a transient error says so."""
    store = new_store("sftp", request, retry=ONCE, read_timeout_s=3)
    store.write_path("key", CONTENT)
    sftp_server.strike("stall", verb, skip=2)
    with in_time(3 + ENDS_IN_S), pytest.raises(TransientError):
        store.read_path("key") if verb == "read" else store.write_path("new", CONTENT)
    assert [found["Key"] for found in store.list_objects()] == ["key"]


# Warehouses behind a service


@pytest.mark.thorough
@pytest.mark.parametrize(
    "at", [("POST", "/jobs"), ("GET", "/queries/"), ("POST", "/upload/")], ids=["begin", "result", "upload"]
)
@each_end
def test_bigquery_is_interrupted(at: tuple[str, str], end: End, bigquery_server: Any) -> None:
    """Where a request is not answered; a retry loads once."""
    with HttpFaultProxy(bigquery_server.url) as proxy:
        direct = test_bigquery.block(bigquery_server)
        direct.load(table_of(0), "t", load_id="empty")
        with test_bigquery.block(bigquery_server, url=proxy.url, dataset=direct.dataset, retry=ONCE) as behind:
            proxy.stall(*at, times=9)
            with in_time():
                end(
                    lambda: behind.load(table_of(100), "t", load_id="day"),
                    lambda: eventually(lambda: proxy.faults_fired),
                )
            direct.load(table_of(100), "t", load_id="day")
            assert direct.fetch_one("SELECT count(*) FROM t") == (100,)


@pytest.mark.thorough
@pytest.mark.parametrize("at", [("POST", "/jobs"), ("GET", "/queries/")], ids=["begin", "result"])
def test_silence_of_bigquery_ends_after_the_read_timeout(at: tuple[str, str], bigquery_server: Any) -> None:
    """Also that of a query's result, for which Google's client would wait 120 s."""
    with HttpFaultProxy(bigquery_server.url) as proxy:
        fields = {"url": proxy.url, "retry": ONCE, "read_timeout_s": 3}
        with test_bigquery.block(bigquery_server, **fields) as behind:
            proxy.stall(*at, times=9)
            with in_time(3 + ENDS_IN_S), contextlib.suppress(TransientError):
                assert behind.fetch_all("SELECT 1") == [(1,)]  # a job whose beginning was not answered is looked up
            assert proxy.faults_fired


@pytest.mark.thorough
def test_a_job_of_bigquery_is_cancelled(bigquery_server: Any) -> None:
    """One that is still running when its caller is interrupted."""
    asked: list[str] = []
    with test_bigquery.block(bigquery_server) as warehouse:
        session = warehouse._connect()
        job = session.jobs.start("SELECT 1", [], f"etl_{uuid.uuid4().hex}")  # type: ignore[attr-defined]
        job.result()
        running = SimpleNamespace(state="RUNNING", job_id=job.job_id, reload=lambda **_: asked.append("reload"))
        with HttpFaultProxy(bigquery_server.url) as proxy:
            behind = test_bigquery.block(bigquery_server, url=proxy.url, dataset=warehouse.dataset)
            waiting = behind._connect().jobs  # type: ignore[attr-defined]
            with pytest.raises(TimeoutError), timeout(seconds=2):
                interruptible(lambda: waiting.wait(running))
            assert any(path.split("?")[0].endswith(f"/{job.job_id}/cancel") for _, path, _ in proxy.log)
            behind.close()


@pytest.mark.thorough
@pytest.mark.parametrize("statement", ["^MERGE INTO", "^COPY INTO", "^INSERT INTO", "^COMMIT"])
@each_end
def test_snowflake_is_interrupted(statement: str, end: End, snowflake_server: Any) -> None:
    """Where a statement is not answered; a retry loads once."""
    with test_snowflake_faults.new_schema(snowflake_server) as direct, SnowflakeProxy(snowflake_server.url) as proxy:
        direct.load(table_of(0), "t", load_id="empty")
        behind = test_snowflake_faults.block(snowflake_server, direct.schema_, proxy.port, timeout_s=30)
        proxy.lose("stall", statement)
        with in_time():
            end(lambda: behind.load(table_of(100), "t", load_id="day"), lambda: eventually(lambda: proxy.faults_fired))
        direct.load(table_of(100), "t", load_id="day")
        assert direct.fetch_one("SELECT count(*), count(DISTINCT id) FROM t") == (100, 100)


@pytest.mark.thorough
@each_end
def test_redshift_is_interrupted(
    end: End, pg_database: Address, s3_server: Any, monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy
) -> None:
    """Where the COMMIT is not answered, and while a statement runs; a retry loads once."""
    cursors = stand_in(s3_server.client(), monkeypatch)
    keys = {"aws_access_key_id": s3_server.access_key, "aws_secret_access_key": s3_server.secret_key}
    account = AwsCredentials(**keys, endpoint_url=s3_server.endpoint, region_name=s3_server.region)
    staging = S3Bucket(bucket_name=s3_server.make_bucket(), credentials=account)
    direct = test_redshift.block(pg_database, staging)
    behind = test_redshift.block(pg_database.through(proxy.port), staging)
    assert cursors
    direct.load(table_of(0), "t", load_id="empty")
    with in_time():
        end(lambda: behind.execute("SELECT pg_sleep(99)"), lambda: time.sleep(1))
    assert_nothing_runs(postgres(pg_database))
    proxy.silence_after("COMMIT")
    with in_time():
        end(lambda: behind.load(table_of(100), "t", load_id="day"), proxy.wait_for_fault)
    direct.load(table_of(100), "t", load_id="day")
    assert direct.fetch_one("SELECT count(*), count(DISTINCT id) FROM t") == (100, 100)


@pytest.mark.thorough
def test_silence_and_long_statements_of_redshift(
    pg_database: Address, s3_server: Any, monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy
) -> None:
    """A cluster at work is waited for; one that says nothing is not, nor a statement that takes too long."""
    stand_in(s3_server.client(), monkeypatch)
    staging = S3Bucket(bucket_name="unused")
    hasty = {"read_timeout_s": 0.5, "retry": ONCE}
    test_redshift.block(pg_database, staging).model_copy(update=hasty).execute("SELECT pg_sleep(2)")
    proxy.silence_after("SELECT 7")
    behind = test_redshift.block(pg_database.through(proxy.port), staging).model_copy(update=hasty)
    with in_time(), pytest.raises(TransientError):
        behind.fetch_all("SELECT 7")
    limited = test_redshift.block(pg_database, staging, statement_timeout_s=0.5)
    with in_time(), pytest.raises(Exception, match="statement timeout"):
        limited.execute("SELECT pg_sleep(30)")
