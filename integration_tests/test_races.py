"""Two loaders at once, of different loads into one table: what comes of it is what one after the other would leave.

Each test forces an interleaving: one load is held at a step of its session while the other runs to its end, or until
it waits for the first. The same runs on every engine; what the stand-ins cannot show is in their docstrings.
"""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import random
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blocks.arrow.scan import as_scan
from blocks.base.errors import SchemaError, TransientError
from blocks.base.retry import RetryPolicy
from blocks.credentials.aws import AwsCredentials
from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials
from connectors.bigquery import BigQuery
from connectors.bigquery.session import BigQuerySession
from connectors.duckdb import DuckDB
from connectors.mysql import MySQL
from connectors.postgres import Postgres
from connectors.s3 import S3Bucket
from connectors.snowflake import Snowflake
from integration_tests.standins import snowflake
from integration_tests.standins.bigquery import PROJECT
from integration_tests.standins.redshift import RedshiftOnPostgres, stand_in
from tests.contracts.warehouse import ARGUMENTS, MODES, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blocks.warehouses.load import LoadReport, Mode
    from blocks.warehouses.warehouse import Warehouse
    from integration_tests.standins.mariadb import MariaAddress
    from integration_tests.standins.postgres import Address

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.2)
WAITS_S = 0.25
"""A load that has not ended by then waits for the other one."""
GIVES_UP_S = 60

Row = tuple[int, str, str]


# The engines


class Steps:
    """Counts the steps of a load's session, and holds it at one of them."""

    def __init__(self, hold_at: int | None = None) -> None:
        self.names: list[str] = []
        self.reached, self.released = threading.Event(), threading.Event()
        self._hold_at = hold_at

    def take(self, name: str) -> None:
        """Go on to the next step, and wait there if it is the one to hold at."""
        self.names.append(name)
        if len(self.names) - 1 == self._hold_at:
            self.reached.set()
            assert self.released.wait(GIVES_UP_S)


PRIMITIVES = (
    "execute",
    "fetch",
    "columns",
    "create_stage",
    "ingest",
    "begin",
    "claim",
    "lock_target",
    "upsert",
    "has_unique_key",
    "run_script",
    "commit",
)


def stepped(session: Any, steps: Steps) -> Any:
    """Let a session take a step before each thing that is asked of it."""

    def primitive(name: str) -> Callable[..., Any]:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            steps.take(name)
            return getattr(super(kind, self), name)(*arguments, **options)

        return call

    names = [name for name in PRIMITIVES if hasattr(session, name)]
    kind: Any = type(f"Stepped{type(session).__name__}", (type(session),), {n: primitive(n) for n in names})
    session.__class__ = kind
    return session


def stepping(block: Warehouse, steps: Steps) -> Warehouse:
    """Return a copy of the block whose loads take these steps."""
    found = block.model_copy()

    def connect(load_id: str | None = None) -> Any:
        session = block._connect_bulk(load_id)
        return stepped(session, steps) if load_id else session

    object.__setattr__(found, "_connect_bulk", connect)  # before the method of its class
    return found


@pytest.fixture
def postgres(pg_database: Address) -> Iterator[Postgres]:
    with Postgres(**pg_database.fields(), retry=RETRY) as block:
        yield block


@pytest.fixture
def redshift(request: pytest.FixtureRequest, pg_database: Address) -> Iterator[RedshiftOnPostgres]:
    server = request.getfixturevalue("s3_server")
    stand_in(server.client(), request.getfixturevalue("monkeypatch"))
    keys = AwsCredentials(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        endpoint_url=server.endpoint,
        region_name=server.region,
    )
    staging = S3Bucket(bucket_name=server.make_bucket(), credentials=keys, retry=RETRY)
    role = "arn:aws:iam::123456789012:role/redshift-reads-staging"
    options = {"ssl_mode": "disable", "staging": staging, "iam_role": role, "retry": RETRY}
    with RedshiftOnPostgres(**pg_database.fields(), **options) as block:
        yield block


@pytest.fixture
def duckdb(tmp_path: Path) -> Iterator[DuckDB]:
    with DuckDB(path=str(tmp_path / "races.duckdb"), retry=RETRY) as block:
        yield block


@pytest.fixture(name="snowflake")
def snowflake_block(request: pytest.FixtureRequest) -> Iterator[Snowflake]:
    server, name = request.getfixturevalue("snowflake_server"), snowflake.new_schema_name()
    login = {"account": "standin", "user": snowflake.USER, "password": snowflake.PASSWORD, **server.connection()}
    options = {**snowflake.fields(name), "credentials": SnowflakeCredentials(**login), "network_timeout_s": 20}
    with Snowflake(**options, retry=RETRY) as block:
        block.model_copy(update={"schema_": "public"}).execute(f"CREATE SCHEMA {name}")
        yield block


@pytest.fixture
def bigquery(request: pytest.FixtureRequest) -> Iterator[BigQuery]:
    server = request.getfixturevalue("bigquery_server")
    login = GcpCredentials(anonymous=True, endpoint_url=server.url)
    with BigQuery(gcp_credentials=login, dataset=server.new_dataset(), project=PROJECT, retry=RETRY) as block:
        yield block


@pytest.fixture
def mysql(maria_database: MariaAddress) -> Iterator[MySQL]:
    with MySQL(**maria_database.fields(), retry=RETRY) as block:
        yield block


ENGINES = ("postgres", "redshift", "mysql", "duckdb", "snowflake", "bigquery")


@pytest.fixture(params=ENGINES)
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    found: Warehouse = request.getfixturevalue(request.param)
    return found


# What one after the other would leave


@dataclass(frozen=True)
class Load:
    """A load of one of the two loaders: ids of a partition, with a text that tells whose they are."""

    mode: Mode
    ids: tuple[int, ...]
    text: str
    day: str = "mon"
    publish: bool = False

    @property
    def rows(self) -> list[Row]:
        """What is loaded."""
        return [(number, self.day, self.text) for number in self.ids]

    def run(self, warehouse: Warehouse, table: str = "t") -> LoadReport:
        """Load them, or publish them from a table that holds them."""
        options = {"mode": self.mode, "load_id": f"{table}/{self.text}", **ARGUMENTS[self.mode]}
        if self.publish:
            return warehouse.publish(f"source_{self.text}", table, **options)
        return warehouse.load(data(self.rows), table, **options)

    def apply(self, table: list[Row]) -> tuple[list[Row], tuple[int, int, int]]:
        """Return what the table holds afterwards, and how many rows were inserted, updated and deleted."""
        if self.mode == "append":
            return table + self.rows, (len(self.rows), 0, 0)
        if self.mode == "replace":
            return self.rows, (len(self.rows), 0, len(table))
        if self.mode == "replace_partition":
            kept = [row for row in table if row[1] != self.day]
            return kept + self.rows, (len(self.rows), 0, len(table) - len(kept))
        kept = [row for row in table if row[0] not in self.ids]
        updated = len(table) - len(kept)
        return kept + self.rows, (len(self.rows) - updated, updated, 0)


def data(found: list[Row]) -> pa.Table:
    ids, days, texts = zip(*found, strict=True) if found else ((), (), ())
    schema = pa.schema({"id": pa.int64(), "day": pa.string(), "text": pa.string()})
    return pa.table([list(ids), list(days), list(texts)], schema=schema)


def content(warehouse: Warehouse, table: str = "t", columns: str = "id, day, text") -> list[tuple[Any, ...]]:
    return sorted(warehouse.fetch_all(f"SELECT {columns} FROM {warehouse.dialect.table(table)}"))


def counts(report: LoadReport) -> tuple[int, int, int]:
    return report.inserted, report.updated, report.deleted


def check_serial(
    before: list[Row], loads: tuple[Load, Load], reports: tuple[LoadReport, LoadReport], after: list[Any]
) -> None:
    """The table and both reports are as one order of the two loads leaves them."""
    outcomes = []
    for first, second in ((0, 1), (1, 0)):
        middle, counts_of_first = loads[first].apply(before)
        end, counts_of_second = loads[second].apply(middle)
        expected = {first: counts_of_first, second: counts_of_second}
        outcomes.append((sorted(end), expected[0], expected[1]))
    found = (after, counts(reports[0]), counts(reports[1]))
    assert found in outcomes, f"{found} is neither of {outcomes}"
    created = [statement for report in reports for statement in report.ddl if statement.startswith("CREATE")]
    assert len(created) == (0 if before else 1)


BEFORE: list[Row] = [(number, "mon" if number < 5 else "tue", "old") for number in range(1, 8)]


def two(mode: Mode, other: Mode, *, exists: bool, publish: bool = False) -> tuple[Load, Load]:
    """Two loads of one partition, which have keys in common where their modes can tell what becomes of them."""
    known = {"append": (21, 22), "upsert": (2, 11, 12)} if exists else {"append": (21, 22), "upsert": (11, 12, 13)}
    others = {"append": (23, 24), "upsert": (2, 12, 11, 14)} if exists else {"append": (23,), "upsert": (12, 11, 14)}
    return (
        Load(mode, known.get(mode, (11, 12)), "a", publish=publish),
        Load(other, others.get(other, (12, 13, 14)), "b"),
    )


def race(warehouse: Warehouse, loads: tuple[Load, Load], step: int, *, exists: bool, table: str) -> bool:
    """Hold the first load at this step while the second one runs; return False where the first has no such step."""
    if exists:
        warehouse.load(data(BEFORE), table, load_id=f"{table}/before")
    steps = Steps(step)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(loads[0].run, stepping(warehouse, steps), table)
        while not steps.reached.wait(0.01):
            if first.done():
                first.result()
                return False
        second = pool.submit(loads[1].run, warehouse, table)
        wait_for(second)
        steps.released.set()
        reports = first.result(GIVES_UP_S), second.result(GIVES_UP_S)
    check_serial(BEFORE if exists else [], loads, reports, content(warehouse, table))
    return True


def wait_for(future: Future[Any]) -> None:
    """Let it end, or wait for what is held."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait(WAITS_S)


def steps_of(warehouse: Warehouse, load: Load, table: str, *, exists: bool) -> list[str]:
    """The steps that the load takes alone, once there is a ledger."""
    warehouse.load(data([]), "first", load_id="first")
    if exists:
        warehouse.load(data(BEFORE), table, load_id=f"{table}/before")
    steps = Steps()
    load.run(stepping(warehouse, steps), table)
    return steps.names


def telling(steps: list[str]) -> list[int]:
    """The steps that tell most: the load is planned, staged, claimed, locked, applied."""
    last = len(steps) - 1 - steps[::-1].index("commit") if "commit" in steps else steps.index("run_script")
    named = [steps.index(name) for name in ("begin", "lock_target", "run_script") if name in steps]
    after_lock = [n + 1 for n in named if steps[n] == "lock_target"]
    return sorted({*named, *after_lock, last})


every_pair = list(itertools.product(MODES, MODES, (True, False)))
IN_EVERY_RUN = {
    *itertools.product(ENGINES, [("replace", "replace", False)]),
    *itertools.product(("postgres", "duckdb"), [("replace_partition", "replace_partition", True)]),
    ("postgres", ("upsert", "upsert", True)),
}
races = [
    pytest.param(engine, *pair, marks=() if (engine, pair) in IN_EVERY_RUN else pytest.mark.thorough)
    for engine, pair in itertools.product(ENGINES, every_pair)
]


@pytest.mark.parametrize(("warehouse", "mode", "other", "exists"), races, indirect=["warehouse"])
def test_two_loads_are_one_after_the_other(warehouse: Warehouse, mode: Mode, other: Mode, exists: bool) -> None:
    """Whatever a second load does while a first one is planned, staged, claimed or applied: the order is one of two."""
    loads = two(mode, other, exists=exists)
    for step in telling(steps_of(warehouse, loads[0], "alone", exists=exists)):
        assert race(warehouse, loads, step, exists=exists, table=f"t{step}")


@pytest.mark.thorough
@pytest.mark.parametrize(("mode", "other", "exists"), every_pair)
def test_the_same_at_every_step(warehouse: Warehouse, mode: Mode, other: Mode, exists: bool) -> None:
    """The first load is held before each single thing that it asks of the engine."""
    loads = two(mode, other, exists=exists)
    step = 0
    while race(warehouse, loads, step, exists=exists, table=f"t{step}"):
        step += 1
    assert step > len(telling(steps_of(warehouse, loads[0], "alone", exists=exists)))


@pytest.mark.thorough
@pytest.mark.parametrize(("mode", "other", "exists"), every_pair)
def test_a_published_table_is_one_of_the_two(warehouse: Warehouse, mode: Mode, other: Mode, exists: bool) -> None:
    """The same where the first load publishes its rows from a table."""
    loads = two(mode, other, exists=exists, publish=True)
    warehouse.load(data(loads[0].rows), "source_a", load_id="source")
    for step in telling(steps_of(warehouse, loads[0], "alone", exists=exists)):
        assert race(warehouse, loads, step, exists=exists, table=f"t{step}")


@pytest.mark.parametrize(
    ("mode", "exists"),
    [
        ("replace_partition", False),
        *(pytest.param(mode, True, marks=pytest.mark.thorough) for mode in ("replace", "upsert", "replace_partition")),
        *(pytest.param(mode, False, marks=pytest.mark.thorough) for mode in ("replace", "upsert")),
    ],
)
def test_transactions_of_bigquery_conflict(bigquery: BigQuery, bigquery_server: Any, mode: Mode, exists: bool) -> None:
    """A script that was begun before another one rewrote the table is aborted, and runs again; rows or none there."""
    before = BEFORE if exists else []
    bigquery.load(data(before), "t", load_id="before")
    loads = two(mode, mode, exists=exists)
    with ThreadPoolExecutor(1) as pool:
        bigquery_server.hold("BEGIN TRANSACTION")
        first = pool.submit(loads[0].run, bigquery)
        while not bigquery_server.held():
            assert not first.done()
        bigquery_server.hold("(?!)")  # nothing else
        reports = [loads[1].run(bigquery)]
        bigquery_server.release()
        reports.insert(0, first.result(GIVES_UP_S))
    middle, counts_of_second = loads[1].apply(before)
    end, counts_of_first = loads[0].apply(middle)
    assert content(bigquery) == sorted(end)
    assert [counts(report) for report in reports] == [counts_of_first, counts_of_second]
    session = BigQuerySession(bigquery, "t/a")
    aborted, done = (session.jobs.look_up(session._job_id("t/a", number)) for number in (0, 1))
    assert "concurrent update" in aborted.error_result["message"]
    assert done.error_result is None


@pytest.mark.thorough
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("mode", ["replace", "upsert", "replace_partition"])
def test_the_isolation_of_a_database_changes_nothing(postgres: Postgres, level: str, mode: Mode) -> None:
    """A load that waited for another one sees its rows, whatever level of isolation the database has by default."""
    name = postgres.fetch_one("SELECT current_database()")[0]
    postgres.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'")
    loads = two(mode, mode, exists=True)
    for step in telling(steps_of(postgres, loads[0], "alone", exists=True)):
        assert race(postgres, loads, step, exists=True, table=f"t{step}")


@pytest.mark.thorough
def test_two_that_publish_a_table_into_itself(postgres: Postgres) -> None:
    """Both have read it when they want it for themselves; they do not wait for each other."""
    postgres.load(data(BEFORE), "t", load_id="before")
    step = steps_of(postgres, Load("replace", (1,), "alone"), "alone", exists=True).index("lock_target")
    both = [Steps(step), Steps(step)]
    with ThreadPoolExecutor(2) as pool:
        loads = [
            pool.submit(stepping(postgres, steps).publish, "t", "t", mode="replace", load_id=str(number))
            for number, steps in enumerate(both)
        ]
        for steps in both:
            steps.reached.wait(GIVES_UP_S)
        for steps in both:
            steps.released.set()
        assert [load.result(GIVES_UP_S).deleted for load in loads] == [len(BEFORE)] * 2
    assert content(postgres) == BEFORE


# At random


def random_loads(seed: int, count: int) -> list[Load]:
    """Loads of all modes into a few partitions, with few keys, so that they meet."""
    dice = random.Random(seed)

    def load(number: int) -> Load:
        mode = dice.choice(("replace", "upsert", "replace_partition", "append"))
        day = dice.choice(("mon", "tue"))  # each with keys of its own, so that none is in the table twice
        ids = dice.sample((1, 2, 3, 4, 11, 12) if day == "mon" else (5, 6, 7, 15, 16), dice.randint(1, 4))
        ids = [100 * (number + 1) + each for each in ids] if mode == "append" else ids
        return Load(mode, tuple(ids), f"r{number}", day=day)

    return [load(number) for number in range(count)]


def orders(before: list[Row], loads: list[Load]) -> Iterator[tuple[list[Row], list[tuple[int, int, int]]]]:
    """What the table and the reports are for each order of the loads."""
    for order in itertools.permutations(range(len(loads))):
        table, found = before, [(0, 0, 0)] * len(loads)
        for number in order:
            table, found[number] = loads[number].apply(table)
        yield sorted(table), found


def race_at_random(warehouse: Warehouse, seed: int, run: Callable[[list[Load], str], list[LoadReport]]) -> None:
    """Three loads at once; the seed says which, and whether there is a table."""
    table, exists = f"t{seed}", seed % 2 == 0
    loads = random_loads(seed, 3)
    if exists:
        warehouse.load(data(BEFORE), table, load_id=f"{table}/before")
    reports = run(loads, table)
    found = content(warehouse, table), [counts(report) for report in reports]
    assert found in list(orders(BEFORE if exists else [], loads)), f"seed {seed}: {found}, {loads}"


SEEDS = [pytest.param(range(5)), pytest.param(range(5, 105), marks=pytest.mark.thorough)]


@pytest.mark.parametrize("seeds", SEEDS, ids=len)
@pytest.mark.parametrize("engine", ["postgres", "duckdb"])
def test_random_races(request: pytest.FixtureRequest, engine: str, seeds: range) -> None:
    """Three loads that start at one moment leave what some order of them leaves."""
    warehouse = request.getfixturevalue(engine)
    for seed in seeds:
        race_at_random(warehouse, seed, lambda loads, table: together(3, lambda n: loads[n].run(warehouse, table)))


def run_in_process(block: bytes, load: Load, table: str, start: Any) -> LoadReport:
    """Run a load in a process of its own, once all of them are there."""
    warehouse = pickle.loads(block)  # noqa: S301 (our own)
    start.wait(5 * GIVES_UP_S)
    return load.run(warehouse, table)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["postgres", "duckdb"])
def test_random_races_of_processes(request: pytest.FixtureRequest, engine: str) -> None:
    """The same where each loader is a process of its own; DuckDB's file is open in one of them at a time."""
    warehouse = request.getfixturevalue(engine)
    patient = RetryPolicy(attempts=200, first_delay_s=0.05, max_delay_s=0.2)
    block = pickle.dumps(warehouse.model_copy(update={"retry": patient}))
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(3, mp_context=context) as pool:

        def run(loads: list[Load], table: str) -> list[LoadReport]:
            start = manager.Barrier(3)
            futures = [pool.submit(run_in_process, block, load, table, start) for load in loads]
            return [future.result(6 * GIVES_UP_S) for future in futures]

        for seed in range(200, 204):
            race_at_random(warehouse, seed, run)


# Loads that read what they write, and locks


def in_time(call: Callable[[], Any]) -> Any:
    """Return what the call returns, if that does not wait for itself."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call).result(GIVES_UP_S)
    finally:
        pool.shutdown(wait=False)


once_more = [pytest.param(mode, marks=pytest.mark.thorough) for mode in ("upsert", "replace_partition")]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("mode", ["append", "replace", "publish", *once_more])
def test_a_load_may_read_its_own_target(warehouse: Warehouse, mode: Any) -> None:
    """Also with a column that the target lacks, through another block and a function: it does not wait for itself."""
    warehouse.load(data(BEFORE), "t")
    warehouse.load(data([(number, "mon", "new") for number in (6, 7, 8, 9)]), "staging")
    t, staging = (warehouse.dialect.table(name) for name in ("t", "staging"))
    missing = f"NOT EXISTS (SELECT 1 FROM {t} AS t WHERE t.id = s.id)"
    query = f"SELECT s.id, s.day, s.text, 'x' AS extra FROM {staging} AS s WHERE {missing}"
    news = warehouse.model_copy().scan_query(query).map_batches(lambda batch: batch)
    if mode == "publish":
        warehouse.load(pa.table({"id": [0], "more": ["y"]}), "wider")
        report = in_time(lambda: warehouse.publish("wider", "t"))
        expected = sorted([*(row[0] for row in BEFORE), 0])
    else:
        report = in_time(lambda: warehouse.load(news, "t", mode=mode, **ARGUMENTS[mode]))
        kept = {"replace": [], "replace_partition": [5, 6, 7]}.get(mode, [row[0] for row in BEFORE])
        expected = sorted([*kept, 8, 9])
    assert len(report.ddl) == 1
    assert [number for (number,) in content(warehouse, columns="id")] == expected


@pytest.mark.parametrize("exists", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_source_may_load_into_another_table(warehouse: Warehouse, exists: bool) -> None:
    """Such as the rows that it leaves out: a load does not keep the loads of its own source out."""
    if exists:
        warehouse.load(data(BEFORE), "t")
    rows = data([(8, "mon", "new"), (9, "mon", "odd")])

    def leave_out(batch: pa.RecordBatch) -> pa.RecordBatch:
        odd = pc.equal(batch["text"], "odd")
        if batch.num_rows:
            warehouse.load(pa.Table.from_batches([batch]).filter(odd), "odd", load_id="odd")
        return batch.filter(pc.invert(odd))

    report = in_time(lambda: warehouse.load(as_scan(rows).map_batches(leave_out), "t", load_id="t"))
    assert (report.rows, content(warehouse, "odd")) == (1, [(9, "mon", "odd")])


@pytest.mark.parametrize(
    ("mode", "lock"),
    [
        pytest.param("append", "ACCESS EXCLUSIVE"),
        pytest.param("replace", "ACCESS SHARE"),
        pytest.param("upsert", "ROW EXCLUSIVE", marks=pytest.mark.thorough),
        pytest.param("replace_partition", "ROW EXCLUSIVE", marks=pytest.mark.thorough),
    ],
)
def test_a_lock_is_not_waited_for_for_ever(postgres: Postgres, mode: Mode, lock: str) -> None:
    """Who holds the table longer than lock_timeout_s is named, with the table; nothing is loaded."""
    postgres.load(data(BEFORE), "t")
    hasty = postgres.model_copy(update={"lock_timeout_s": 1.0, "retry": RetryPolicy(attempts=1)})
    with postgres.get_client() as other:
        process = other.info.backend_pid
        other.execute("SET application_name = 'a report'")
        other.execute(f"LOCK TABLE t IN {lock} MODE")
        with pytest.raises(TransientError, match=r"lock") as caught:
            in_time(lambda: hasty.load(data([(1, "mon", "a")]), "t", mode=mode, load_id="x", **ARGUMENTS[mode]))
    assert "public.t within 1 s" in str(caught.value)
    assert f"pid {process}, user " in str(caught.value)
    assert "a report" in str(caught.value)
    assert content(postgres) == BEFORE
    assert postgres.load_report("x") is None


@pytest.mark.thorough
@pytest.mark.parametrize("new_column", [False, True])
def test_readers_pass_a_load_that_waits(postgres: Postgres, new_column: bool) -> None:
    """While one reader keeps a load from emptying or altering the table, the readers after it are not stopped."""
    postgres.load(data(BEFORE), "t")
    rows = data([(8, "mon", "new")])
    mode: Mode = "append" if new_column else "replace"
    if new_column:
        rows = rows.append_column("extra", pa.array(["x"]))
    with postgres.get_client() as slow, postgres.get_client() as quick, ThreadPoolExecutor(1) as pool:
        quick.autocommit = True
        quick.execute("SET lock_timeout = '3s'")
        slow.execute("SELECT count(*) FROM t")
        waiting = pool.submit(postgres.load, rows, "t", mode=mode, load_id="x")
        tried = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 't'::regclass"
        waits = 0
        while waits < 3:
            waits += quick.execute(tried).fetchone()[0]
            assert quick.execute("SELECT count(*) FROM t").fetchone() == (len(BEFORE),)
            assert not waiting.done()
        slow.commit()
        assert waiting.result(GIVES_UP_S).inserted == 1


# The table's shape, changed by several at once


def test_loads_that_add_columns_at_once_all_succeed(warehouse: Warehouse) -> None:
    """Nine loads with one, two or three new columns: the columns are the union, and no row is lost."""
    warehouse.load(pa.table({"id": [0]}), "t", load_id="before")
    news = [names for size in (1, 2, 3) for names in itertools.combinations("abc", size)] + [("c", "a"), ("b",)]

    def load(number: int) -> LoadReport:
        columns = {name: [f"{name}{number}"] for name in news[number]}
        return warehouse.load(pa.table({"id": [number + 1], **columns}), "t", load_id=str(number))

    reports = together(len(news), load)
    statements = [statement for report in reports for statement in report.ddl]
    assert len(statements) == len(set(statements))
    if not warehouse.dialect.ddl_commits:  # there an attempt that failed afterwards may have made one
        assert len(statements) == 3
    assert set(warehouse.table_schema("t").names) == {"id", "a", "b", "c"}
    expected = {0: (None, None, None)}
    for number, names in enumerate(news):
        expected[number + 1] = tuple(f"{name}{number}" if name in names else None for name in "abc")
    found = warehouse.fetch_all(f"SELECT id, a, b, c FROM {warehouse.dialect.table('t')}")
    assert {row[0]: tuple(row[1:]) for row in found} == expected


CHANGES = {
    "dropped": "ALTER TABLE t DROP COLUMN text",
    "renamed": "ALTER TABLE t RENAME COLUMN text TO note",
    "added": "ALTER TABLE t ADD COLUMN number BIGINT",
}


@pytest.mark.parametrize(
    "change", ["dropped", *(pytest.param(each, marks=pytest.mark.thorough) for each in ("renamed", "added"))]
)
@pytest.mark.parametrize("mode", ["append", pytest.param("upsert", marks=pytest.mark.thorough)])
def test_a_column_that_changes_under_a_load(warehouse: Warehouse, mode: Mode, change: str) -> None:
    """A column dropped, renamed or added between the plan and the rows: the load fits the table, or says why not."""
    extra = pa.table({"id": [1], "day": ["mon"], "text": ["a"], "number": pa.array(["x1"], pa.string())})
    rows = extra if change == "added" else extra.drop_columns(["number"])
    steps = steps_of(warehouse, Load(mode, (1,), "alone"), "alone", exists=True)
    for step in sorted(steps.index(name) for name in ("create_stage", "begin", "run_script") if name in steps):
        warehouse.drop_table("t")
        warehouse.load(data([]), "t", load_id=f"before {step}")
        held = Steps(step)
        with ThreadPoolExecutor(1) as pool:
            options = {"mode": mode, "load_id": str(step), **ARGUMENTS[mode]}
            load = pool.submit(stepping(warehouse, held).load, rows, "t", **options)
            assert held.reached.wait(GIVES_UP_S)
            warehouse.execute(CHANGES[change])
            held.released.set()
            error = load.exception(GIVES_UP_S)
        assert error is None or isinstance(error, SchemaError), error
        expected = [] if error else [(1,)]
        assert content(warehouse, columns="id") == expected
        if not error:
            assert content(warehouse) == [(1, "mon", "a")]
