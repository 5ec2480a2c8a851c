"""Loads into PostgreSQL under faults: lost answers, silence, resets, crashes, kills. Each ends in exactly the rows."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.arrow.scan import Scan
from blocks.base.errors import AmbiguousError, ConnectorError, TransientError
from blocks.base.retry import RetryPolicy
from blocks.testing.proxy import FaultProxy
from blocks.warehouses.ledger import LEDGER
from blocks.warehouses.load import LoadReport
from connectors.postgres import Postgres, bulk_session
from integration_tests.standins.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from blocks.arrow.rejects import Rejects
    from blocks.warehouses.load import Mode
    from integration_tests.standins.postgres import Address

RETRY = RetryPolicy(attempts=6, first_delay_s=0.01, max_delay_s=0.05)
ARGUMENTS: dict[Mode, dict[str, Any]] = {
    "append": {},
    "replace": {},
    "upsert": {"key": ["id"]},
    "replace_partition": {"partition_by": ["day"]},
}
all_modes = pytest.mark.parametrize("mode", ARGUMENTS)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres_server.host, postgres_server.port) as running:
        yield running


@pytest.fixture
def behind(pg_database: Address, proxy: FaultProxy) -> Postgres:
    """The database as a loader sees it, through the proxy."""
    return block(pg_database.through(proxy.port))


@pytest.fixture
def direct(pg_database: Address) -> Postgres:
    """The same database without the proxy."""
    return block(pg_database)


def block(address: Address, **options: Any) -> Postgres:
    return Postgres(**address.fields(), ssl_mode="disable", **{"retry": RETRY, **options})


def table_of(size: int, *, text: str = "x") -> pa.Table:
    ids = pa.array(range(size), pa.int64())
    return pa.table({"id": ids, "day": pa.array(["mon"] * size), "text": pa.array([text] * size)})


def assert_loaded_once(warehouse: Postgres, size: int, *, loads: int = 1) -> None:
    table, ledger = warehouse.dialect.table(f"{warehouse.schema_}.t"), warehouse.dialect.table(LEDGER)
    found = warehouse.fetch_one(f"SELECT count(*), count(DISTINCT id), coalesce(sum(id), 0) FROM {table}")
    assert found == (size, size, size * (size - 1) // 2)
    assert warehouse.fetch_one(f"SELECT count(*) FROM {ledger}") == (loads,)


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Returns once the condition holds."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.01)


def waits_for_a_lock(warehouse: Postgres) -> bool:
    return warehouse.fetch_one("SELECT count(*) FROM pg_locks WHERE NOT granted") != (0,)


def interrupted(data: pa.Table, interrupt: Callable[[], None], *, batches: int = 4) -> Scan:
    """Data in the middle of which something happens, the first time that it is read."""
    reads: list[int] = []

    def read(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        reads.append(1)
        for number, batch in enumerate(data.to_batches(max_chunksize=data.num_rows // batches)):
            if number == batches // 2 and len(reads) == 1:
                interrupt()
            yield batch

    return Scan(data.schema, read, source="a source")


# Lost answers


@all_modes
def test_the_answer_to_commit_is_lost(behind: Postgres, direct: Postgres, proxy: FaultProxy, mode: Mode) -> None:
    """The load is reported as done, with one copy of its 100,000 rows, and the report says how that is known."""
    direct.load(table_of(0), "t")
    proxy.drop_answer_to("commit")
    report = behind.load(table_of(100_000), "t", mode=mode, **ARGUMENTS[mode])
    assert [fault.split(";")[0] for fault in proxy.faults_fired] == ["drop answer: COMMIT"]
    assert (report.rows, report.resolved_from_ledger, report.already_loaded) == (100_000, True, False)
    assert "the answer to COMMIT was lost and the commit was resolved from the ledger" in str(report)
    assert_loaded_once(direct, 100_000, loads=2)


@pytest.mark.thorough  # test_faults.py loses some in every run
@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("append", "drop_request"),
        ("upsert", "drop_answer_to"),
        ("append", "drop_answer_to"),
        ("upsert", "drop_request"),
    ],
)
def test_every_statement_may_be_lost(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, mode: Mode, fault: str
) -> None:
    """Whichever statement of a load is cut off, before or after the server ran it, the rows are there once."""

    def load(schema: str) -> LoadReport:
        direct.execute(f"CREATE SCHEMA {schema}")
        direct.execute(f"CREATE TABLE {schema}.t (id bigint)")
        through = behind.model_copy(update={"schema_": schema})
        return through.load(table_of(50), "t", mode=mode, load_id="x", **ARGUMENTS[mode])

    load("s")
    statements = list(proxy.log)
    assert any("COMMIT" in statement for statement in statements)
    for number, statement in enumerate(statements):
        getattr(proxy, fault)(".*", skip=number)
        proxy.faults_fired.clear()
        report = load(f"s{number}")
        assert len(proxy.faults_fired) == 1, statement
        assert report.rows == 50, statement
        assert_loaded_once(direct.model_copy(update={"schema_": f"s{number}"}), 50)


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["drop_answer_to", "drop_request"])
def test_every_statement_of_publishing_may_be_lost(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, fault: str
) -> None:
    """Whichever statement or answer is lost, the checked rows are published once, and the rejected ones kept once."""
    direct.load(table_of(10), "audited")
    rejected = pa.table({"id": pa.array([7], pa.int64()), "reason": ["it is odd"]})

    def publish(number: int) -> LoadReport:
        return behind.publish("audited", f"t{number}", load_id=f"number {number}", rejected=rejected)

    publish(-2)  # the first one also asks for the server's types
    proxy.log.clear()
    publish(-1)
    statements = list(proxy.log)
    assert any("COMMIT" in statement for statement in statements)
    for number, statement in enumerate(statements):
        getattr(proxy, fault)(".*", skip=number)
        proxy.faults_fired.clear()
        report = publish(number)
        assert len(proxy.faults_fired) == 1, statement
        assert (report.rows, report.rejected) == (9, {"it is odd": 1}), statement
        assert direct.fetch_one(f"SELECT count(*), sum(id) FROM t{number}") == (9, 38), statement
        assert direct.fetch_one("SELECT count(*) FROM _etl_quarantine") == (number + 3,), statement


@all_modes
def test_the_server_falls_silent_at_commit(behind: Postgres, direct: Postgres, proxy: FaultProxy, mode: Mode) -> None:
    """Without an answer to COMMIT the ledger is asked on another connection, after commit_timeout_s."""
    direct.load(table_of(0), "t")
    proxy.silence_after("commit")
    impatient = behind.model_copy(update={"commit_timeout_s": 0.2})
    report = impatient.load(table_of(1_000), "t", mode=mode, **ARGUMENTS[mode])
    assert len(proxy.faults_fired) == 1
    assert report.resolved_from_ledger
    assert_loaded_once(direct, 1_000, loads=2)


def test_a_commit_that_travels_is_stopped(behind: Postgres, direct: Postgres, proxy: FaultProxy) -> None:
    """A COMMIT that has not arrived when its client gave up is kept from arriving, and the load runs again."""
    direct.load(table_of(0), "t")
    proxy.hold_back("commit")
    report = behind.load(table_of(1_000), "t")
    proxy.release()
    assert len(proxy.faults_fired) == 1
    assert (report.resolved_from_ledger, report.already_loaded) == (False, False)
    assert_loaded_once(direct, 1_000, loads=2)


def test_a_ledger_that_cannot_be_read_is_said(behind: Postgres, direct: Postgres, proxy: FaultProxy) -> None:
    """If nothing can be looked up the error is AmbiguousError with the load_id; calling again with it is safe."""
    direct.load(table_of(0), "t")
    proxy.drop_answer_to("commit")
    proxy.drop_request("select pg_terminate_backend|copy .select pg_terminate_backend", times=100)
    with pytest.raises(AmbiguousError, match="load_id='monday'"):
        behind.load(table_of(10), "t", load_id="monday")
    assert direct.load(table_of(10), "t", load_id="monday").already_loaded
    assert_loaded_once(direct, 10, loads=2)


# Cut connections


@all_modes
def test_the_connection_is_reset_amid_the_rows(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, mode: Mode
) -> None:
    """A reset in the middle of COPY costs a retry and no row."""
    proxy.reset_after_bytes(1_000_000, direction="to_server")
    report = behind.load(table_of(100_000), "t", mode=mode, **ARGUMENTS[mode])
    assert proxy.faults_fired == ["reset: 1000000 bytes to_server"]
    assert (report.rows, report.already_loaded) == (100_000, False)
    assert_loaded_once(direct, 100_000)


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_the_backend_is_terminated_amid_the_rows(direct: Postgres, mode: Mode) -> None:
    """An administrator who ends the session costs a retry and no row."""
    others = "application_name LIKE 'etl-blocks _%' AND datname = current_database() AND pid <> pg_backend_pid()"
    ended = []

    def end() -> None:
        ended.extend(direct.fetch_all(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))

    report = direct.load(interrupted(table_of(100_000), end), "t", mode=mode, **ARGUMENTS[mode])
    assert ended == [(True,)]
    assert report.rows == 100_000
    assert_loaded_once(direct, 100_000)


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("append", "crash"),
        ("upsert", "restart"),
        pytest.param("append", "restart", marks=pytest.mark.thorough),
        pytest.param("upsert", "crash", marks=pytest.mark.thorough),
    ],
)
def test_the_server_goes_down_amid_the_rows(mode: Mode, how: str) -> None:
    """A server that crashes, or is stopped, and comes back costs a retry and no row."""
    with PostgresServer() as server:
        warehouse = block(server.address)

        def go_down() -> None:
            server.stop(signal.SIGQUIT if how == "crash" else signal.SIGINT)
            server.start()

        report = warehouse.load(interrupted(table_of(100_000), go_down), "t", mode=mode, **ARGUMENTS[mode])
        assert report.rows == 100_000
        assert_loaded_once(warehouse, 100_000)


def test_a_server_that_comes_late_is_waited_for(pg_database: Address, direct: Postgres, proxy: FaultProxy) -> None:
    """Two refused connections cost two retries."""
    attempts = []

    class Counting(Postgres):
        _block_type_slug = "counting-postgres"

        def connect_adbc(self, label: str = "") -> Any:
            attempts.append(1)
            if len(attempts) == 3:
                proxy.accept_connections()
            return super().connect_adbc(label)

    proxy.refuse_connections()
    warehouse = Counting(**pg_database.through(proxy.port).fields(), ssl_mode="disable", retry=RETRY)
    assert warehouse.load(table_of(10), "t").rows == 10
    assert len(attempts) == 3
    assert_loaded_once(direct, 10)


# Other tries of the same load


def claim(connection: psycopg.Connection[Any], load_id: str, report: str | None = None) -> None:
    connection.execute(
        "INSERT INTO _etl_loads (load_id, table_name, mode, report) VALUES (%s, 't', 'append', %s)", (load_id, report)
    )


@all_modes
def test_a_try_that_gives_up_lets_the_next_one_in(pg_database: Address, direct: Postgres, mode: Mode) -> None:
    """While another session holds the claim this load waits; when that one rolls back it proceeds at once."""
    direct.load(table_of(0), "t")
    with ThreadPoolExecutor() as pool, pg_database.connect() as other:
        with other.transaction(force_rollback=True):
            claim(other, "monday")
            waiting = pool.submit(direct.load, table_of(100), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
            eventually(lambda: waits_for_a_lock(direct))
            assert not waiting.done()
        report = waiting.result(timeout=20)
    assert (report.rows, report.already_loaded) == (100, False)
    assert_loaded_once(direct, 100, loads=2)


@all_modes
def test_a_try_that_commits_is_reported(pg_database: Address, direct: Postgres, mode: Mode) -> None:
    """While another session holds the claim this load waits; when that one commits it reports what that one did."""
    first = direct.load(table_of(0), "t", mode=mode, load_id="first", **ARGUMENTS[mode])
    done = first.model_copy(update={"load_id": "monday", "rows": 7})
    with ThreadPoolExecutor() as pool, pg_database.connect() as other:
        with other.transaction():
            claim(other, "monday", done.model_dump_json())
            waiting = pool.submit(direct.load, table_of(100), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
            eventually(lambda: waits_for_a_lock(direct))
        report = waiting.result(timeout=20)
    assert report == done.model_copy(update={"already_loaded": True})
    assert_loaded_once(direct, 0, loads=2)


# Killed processes

SIZE = 20_000
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["connectors.postgres", "integration_tests.standins.postgres"])


def load_in_a_process(warehouse: Postgres, mode: Mode, load_id: str, amid: Any, answers: Any) -> None:
    def stay() -> None:
        if amid is not None:
            amid.set()
            threading.Event().wait()

    report = warehouse.load(interrupted(table_of(SIZE), stay), "t", mode=mode, load_id=load_id, **ARGUMENTS[mode])
    answers.put(report.model_dump_json())


@contextlib.contextmanager
def loader(warehouse: Postgres, mode: Mode, load_id: str, amid: Any = None, answers: Any = None) -> Iterator[Any]:
    """Another process that loads the same rows; it stays in the middle of them where it is given an event to set."""
    process = processes.Process(target=load_in_a_process, args=(warehouse, mode, load_id, amid, answers))
    process.start()
    try:
        yield process
        process.join(60)
    finally:
        process.kill()
        process.join()
        process.close()


MOMENTS: list[tuple[Mode, str]] = [
    ("append", "select report"),
    ("append", "insert into ._etl_loads"),
    ("append", "copy .*from stdin"),
    ("append", "commit"),
    ("upsert", "copy .*from stdin"),
    ("upsert", "update ._etl_loads"),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=" at ".join)
def test_a_loader_vanishes(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, moment: tuple[Mode, str]
) -> None:
    """A loader is killed and its server hears nothing of it: the same load, called again, ends it after a while."""
    mode, statement = moment
    monkeypatch.setattr(bulk_session, "CLAIM_TIMEOUT_S", 0.3)
    direct.load(table_of(0), "t", load_id="first")
    proxy.silence_after(statement)
    with loader(behind, mode, "monday") as process:
        proxy.wait_for_fault(60)
        process.kill()
    report = direct.load(table_of(SIZE), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
    assert report.already_loaded == (statement == "commit")
    assert_loaded_once(direct, SIZE, loads=2)


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_killed_loader_is_run_again(direct: Postgres, mode: Mode) -> None:
    """After kill -9 in the middle of the rows the same load starts at once and loads each row once."""
    direct.load(table_of(0), "t", load_id="first")
    reached = processes.Event()
    with loader(direct, mode, "monday", reached) as process:
        assert reached.wait(60)
        process.kill()
    started = time.monotonic()
    assert direct.load(table_of(SIZE), "t", mode=mode, load_id="monday", **ARGUMENTS[mode]).rows == SIZE
    assert time.monotonic() - started < bulk_session.CLAIM_TIMEOUT_S
    assert_loaded_once(direct, SIZE, loads=2)


def test_two_processes_load_once(direct: Postgres) -> None:
    """Two processes with one load_id: one loads, the other says that it is loaded."""
    answers = processes.Queue()
    arguments = (direct, "append", "monday", None, answers)
    with loader(*arguments), loader(*arguments):
        reports = [LoadReport.model_validate_json(answers.get(timeout=60)) for _ in range(2)]
    assert sorted(report.already_loaded for report in reports) == [False, True]
    assert_loaded_once(direct, SIZE)


# Statements


CALLS: dict[str, tuple[str, list[Any]]] = {
    "execute": ("INSERT INTO t (id) VALUES (1)", []),
    "execute of a script": ("INSERT INTO t (id) VALUES (0); UPDATE t SET id = 1", []),
    "execute_many": ("INSERT INTO t (id) VALUES (:id)", [[{"id": 1}]]),
    "fetch_all": ("INSERT INTO t (id) VALUES (1) RETURNING id", []),
    "fetch_one of a function": ("SELECT create_order(1)", []),
    "fetch_one of a select into": ("SELECT 1 AS id INTO u", []),
    "fetch_all of a writing CTE": ("WITH n AS (INSERT INTO t (id) VALUES (1) RETURNING id) SELECT id FROM n", []),
    "fetch_all of an analyzed delete": ("EXPLAIN ANALYZE INSERT INTO t (id) VALUES (1)", []),
    "fetch_one of a parameter": ("SELECT create_order(:id)", [{"id": 1}]),
    "execute of a call": ("CALL new_order(1)", []),
}


@pytest.fixture
def orders(direct: Postgres) -> None:
    direct.execute("CREATE TABLE t (id int)")
    body = "LANGUAGE plpgsql AS 'BEGIN INSERT INTO t (id) VALUES (n); RETURN n; END'"
    direct.execute(f"CREATE FUNCTION create_order(n int) RETURNS int {body}")
    direct.execute("CREATE PROCEDURE new_order(n int) LANGUAGE sql AS 'INSERT INTO t (id) VALUES (n)'")


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("moment", ["begin", "insert|select (1|create)|with|explain|call", "commit"])
@pytest.mark.parametrize("call", CALLS)
def test_a_statement_happens_once(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, call: str, moment: str
) -> None:
    """Whichever answer is lost of a statement that writes, whatever it says, it happens once and the call succeeds."""
    statement, arguments = CALLS[call]
    proxy.drop_answer_to(moment)
    answer = getattr(behind, call.partition(" ")[0])(statement, *arguments)
    assert len(proxy.faults_fired) == 1
    table = "u" if "INTO u" in statement else "t"
    assert direct.fetch_all(f"SELECT id FROM {table}") == [(1,)]
    if "fetch" in call and "EXPLAIN" not in statement and table == "t":
        assert answer in ((1,), [(1,)])


@pytest.mark.usefixtures("orders")
def test_a_commit_of_a_statement_that_travels_is_stopped(behind: Postgres, direct: Postgres, proxy: FaultProxy) -> None:
    """The server is asked what became of the transaction, and ends it where it still waits for its COMMIT."""
    proxy.hold_back("commit")
    assert behind.fetch_one("SELECT create_order(1)") == (1,)
    proxy.release()
    assert len(proxy.faults_fired) == 1
    assert direct.fetch_all("SELECT id FROM t") == [(1,)]


@pytest.mark.usefixtures("orders")
@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_connection_lost_in_a_with_is_not_made_again(
    behind: Postgres, direct: Postgres, in_transaction: bool
) -> None:
    """One transient error says to run the block again, and so does each call after it; half of it is never repeated."""
    insert = "INSERT INTO t (id) VALUES (1)"
    with behind:
        process = behind.fetch_one("SELECT pg_backend_pid()")
        assert process is not None
        if in_transaction:
            behind.execute("BEGIN")
            behind.execute(insert)
        direct.fetch_all("SELECT pg_terminate_backend(:pid, 5000)", {"pid": process[0]})
        for _ in range(2):
            with pytest.raises(TransientError, match="Run the whole `with` block again"):
                behind.execute(insert)
    assert direct.fetch_all("SELECT id FROM t") == []
    assert behind.fetch_one("SELECT 1") == (1,)


@pytest.mark.usefixtures("orders")
def test_a_commit_in_a_with_happens_once(behind: Postgres, direct: Postgres, proxy: FaultProxy) -> None:
    """Where its answer is lost the server is asked: it did happen, and only what comes after it fails."""
    with behind:
        behind.execute("BEGIN")
        behind.execute("INSERT INTO t (id) VALUES (1)")
        proxy.drop_answer_to("commit")
        behind.execute("COMMIT")
        with pytest.raises(TransientError, match="what it had committed stays"):
            behind.fetch_one("SELECT 1")
    assert len(proxy.faults_fired) == 1
    assert direct.fetch_all("SELECT id FROM t") == [(1,)]


@pytest.mark.usefixtures("orders")
def test_a_transaction_that_nobody_can_be_asked_about_is_said(
    behind: Postgres, direct: Postgres, proxy: FaultProxy
) -> None:
    """AmbiguousError, and no second attempt."""
    proxy.drop_answer_to("commit")
    proxy.drop_request("select pg_xact_status", times=100)
    with pytest.raises(AmbiguousError, match=r"lost after it was sent\. Nor could the server be asked"):
        behind.execute("INSERT INTO t (id) VALUES (1)")
    assert direct.fetch_all("SELECT id FROM t") == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_reload_conf()",
        "SELECT a(1)",
        "SELECT * FROM v",
        "INSERT INTO watched (id) VALUES (1)",
        "DO 'BEGIN PERFORM pg_reload_conf(); END'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_what_acts_outside_of_its_transaction_is_not_run_blindly(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, statement: str
) -> None:
    """What a transaction does not undo may have happened: AmbiguousError, however deep the call is hidden."""
    direct.execute("CREATE FUNCTION b() RETURNS bool LANGUAGE sql RETURN pg_reload_conf()")
    direct.execute("CREATE FUNCTION a(n int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN b(); END'")
    direct.execute("CREATE VIEW v AS SELECT a(1)")
    direct.execute("CREATE TABLE watched (id int)")
    direct.execute("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM a(1); RETURN NEW; END'")
    direct.execute("CREATE TRIGGER g BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION f()")
    proxy.drop_answer_to(statement.partition(" ")[0] + "(?! set_config)")
    with pytest.raises(AmbiguousError, match=r"may have run (pg_reload_conf\(\)|a program), which acts outside of it"):
        behind.execute(statement)
    assert len(proxy.faults_fired) == 1


@pytest.mark.parametrize(
    ("statement", "fault_at"),
    [("VACUUM t", "vacuum"), ("INSERT INTO t (id) VALUES (1); COMMIT", "insert"), ("CALL committing()", "call")],
)
@pytest.mark.usefixtures("orders")
def test_what_no_transaction_holds_is_not_run_blindly(
    behind: Postgres, direct: Postgres, proxy: FaultProxy, statement: str, fault_at: str
) -> None:
    """If its answer is lost nobody knows whether it happened: AmbiguousError, and no second attempt."""
    direct.execute(
        "CREATE PROCEDURE committing() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t (id) VALUES (1); COMMIT; END'"
    )
    proxy.drop_answer_to(fault_at, skip=0 if "INSERT" in statement else 1)  # a transaction refuses it first
    with pytest.raises(AmbiguousError, match="the connection was lost after it was sent"):
        behind.execute(statement)
    assert len(proxy.faults_fired) == 1
    assert direct.fetch_all("SELECT id FROM t") == ([] if "VACUUM" in statement else [(1,)])


def test_what_cannot_have_happened_is_tried_again(behind: Postgres, direct: Postgres, proxy: FaultProxy) -> None:
    """A query, and a sequence whose COMMIT was not sent yet, are tried again by themselves."""
    direct.execute("CREATE TABLE t (id int)")
    proxy.drop_answer_to("select count")
    assert behind.fetch_all("SELECT count(*) FROM t") == [(0,)]
    proxy.drop_answer_to("insert", skip=2)
    behind.execute_many("INSERT INTO t (id) VALUES (:id)", [{"id": n} for n in range(5)])
    assert behind.fetch_one("SELECT count(*), sum(id) FROM t") == (5, 10)
    scan = behind.scan_query("SELECT * FROM generate_series(1, 600000) AS n")
    proxy.reset_after_bytes(4_000_000)
    with pytest.raises(TransientError):
        scan.to_arrow()
    proxy.reset_after_bytes(4_000_000)
    assert behind.load(scan, "u").rows == 600_000
    assert len(proxy.faults_fired) == 4


def test_faults_show_no_row_and_no_password(
    behind: Postgres, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """What is said about a lost connection holds neither data nor the password."""
    password = behind.password
    assert password is not None
    proxy.reset_after_bytes(100_000, direction="to_server", times=100)
    with pytest.raises(ConnectorError) as caught:
        behind.load(table_of(100_000, text="c4n4ry"), "t")
    said = f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert "c4n4ry" not in said
    assert password.get_secret_value() not in said
    assert behind.uri() in said
