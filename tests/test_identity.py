"""The identity of loads that were given none: retried tasks and flow runs load each row once, whatever was retried."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pyarrow as pa
import pytest
from prefect import flow, get_client, task, unmapped
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings
from prefect.states import Pending, Scheduled
from prefect.task_runners import ThreadPoolTaskRunner

from blocks.arrow.load_id import Target, derive_load_id
from blocks.arrow.scan import Scan, as_scan
from blocks.base.errors import InvalidInputError, SchemaError, TransientError
from blocks.base.retry import RetryPolicy
from blocks.warehouses.load import Mode
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blocks.arrow.rejects import Rejects
    from blocks.warehouses.load import LoadReport
    from blocks.warehouses.session import BulkSession

pytestmark = pytest.mark.usefixtures("prefect_server")

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDB:
    return DuckDB(path=str(tmp_path / "test.duckdb"), retry=RETRY)


def frame(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def ids(warehouse: DuckDB) -> list[int]:
    return sorted(row[0] for row in warehouse.fetch_all("SELECT id FROM t"))


class Once:
    """Fails the first time that it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        """Nothing, or the failure."""
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("something else went wrong")


def test_a_retried_flow_run_loads_once(warehouse: DuckDB) -> None:
    """A flow that fails after its load, and is retried, finds its load done."""
    fail = Once()
    reports: list[LoadReport] = []

    @flow(retries=1)
    def pipeline() -> None:
        reports.append(warehouse.load(frame(1, 2), "t"))
        fail()

    pipeline()
    assert [report.already_loaded for report in reports] == [False, True]
    assert ids(warehouse) == [1, 2]


def test_a_retried_task_loads_once(warehouse: DuckDB) -> None:
    """A task that fails after its load, and is retried, finds its load done."""
    fail = Once()
    reports: list[LoadReport] = []

    @task(retries=1)
    def step() -> None:
        reports.append(warehouse.load(frame(1, 2), "t"))
        fail()

    @flow
    def pipeline() -> None:
        step()

    pipeline()
    assert [report.already_loaded for report in reports] == [False, True]
    assert ids(warehouse) == [1, 2]


def test_a_retried_task_of_its_own_loads_once(warehouse: DuckDB) -> None:
    """The same holds for a task that runs outside of a flow."""
    fail = Once()

    @task(retries=1)
    def step() -> None:
        warehouse.load(frame(1), "t")
        fail()

    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        step()
        step()
    assert ids(warehouse) == [1, 1]


@pytest.mark.parametrize("where", ["flow", "task"])
def test_a_loop_over_chunks_loads_all(warehouse: DuckDB, where: str) -> None:
    """Chunks that are loaded one after the other are loads of their own, equal ones too, and a retry repeats none."""
    fail = Once()

    def load_all() -> None:
        for chunk in (frame(1), frame(2), frame(1), frame(1)):
            warehouse.load(chunk, "t")
        fail()

    @flow(retries=1)
    def pipeline() -> None:
        (task(load_all) if where == "task" else load_all)()

    pipeline()
    assert fail.calls == 2
    assert ids(warehouse) == [1, 1, 1, 2]


def test_flow_runs_load_for_themselves(warehouse: DuckDB) -> None:
    """A second run of the same flow with the same data is another load."""

    @flow
    def pipeline() -> None:
        warehouse.load(frame(1), "t")

    pipeline()
    pipeline()
    assert ids(warehouse) == [1, 1]


def test_tables_and_modes_are_told_apart(warehouse: DuckDB) -> None:
    """The same data into another table, or in another mode, is another load."""

    @flow
    def pipeline() -> list[LoadReport]:
        return [
            warehouse.load(frame(1), "t"),
            warehouse.load(frame(1), "u"),
            warehouse.load(frame(1), "t", mode="replace"),
            warehouse.load(frame(1), "t"),
        ]

    assert not any(report.already_loaded for report in pipeline())
    assert ids(warehouse) == [1, 1]


def one_after_the_other(steps: list[Callable[[], Any]], order: list[int]) -> Callable[[int], None]:
    """A function that lets the numbered callers through in this order, whoever comes first."""
    turn = threading.Condition()
    waiting = list(order)

    def pass_in_turn(number: int) -> None:
        with turn:
            assert turn.wait_for(lambda: waiting[0] == number, timeout=20)
            steps[number]()
            waiting.pop(0)
            turn.notify_all()

    return pass_in_turn


@pytest.mark.parametrize("second", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("equal", [False, True], ids=["different frames", "equal frames"])
def test_mapped_tasks_may_run_in_any_order(warehouse: DuckDB, second: list[int], *, equal: bool) -> None:
    """Task runs over several frames load each of them once, also where a retry runs them in another order."""
    frames = [frame(1), frame(1), frame(1)] if equal else [frame(1), frame(2), frame(3)]
    fail, orders = Once(), [[0, 1, 2], second]
    turns: list[Callable[[int], None]] = []

    @task
    def load_in_turn(position: int) -> None:
        turns[-1](position)

    @flow(retries=1, task_runner=ThreadPoolTaskRunner(max_workers=3))
    def pipeline() -> None:
        order = orders[len(turns)]
        turns.append(one_after_the_other([lambda each=each: warehouse.load(each, "t") for each in frames], order))
        load_in_turn.map(range(3)).wait()
        fail()

    pipeline()
    assert fail.calls == 2
    assert ids(warehouse) == sorted(each["id"][0].as_py() for each in frames)


def test_a_flow_that_failed_half_way_loads_the_rest(warehouse: DuckDB) -> None:
    """Of several equal loads those that happened before the failure are not repeated, and the others happen."""
    fail = Once()

    @flow(retries=1)
    def pipeline() -> None:
        warehouse.load(frame(1), "t")
        warehouse.load(frame(1), "t")
        fail()
        warehouse.load(frame(1), "t")

    pipeline()
    assert ids(warehouse) == [1, 1, 1]


def test_a_flow_within_a_flow_loads_once(warehouse: DuckDB) -> None:
    """A retry of the outer flow does not repeat what the inner one loaded."""
    fail = Once()

    @flow
    def inner() -> None:
        warehouse.load(frame(1), "t")

    @flow(retries=1)
    def outer() -> None:
        inner()
        inner()
        fail()

    outer()
    assert ids(warehouse) == [1, 1]


def test_a_retried_flow_within_a_flow_loads_once(warehouse: DuckDB) -> None:
    """Nor does a retry of the inner flow alone."""
    fail = Once()

    @flow(retries=1)
    def inner() -> None:
        warehouse.load(frame(1), "t")
        fail()

    @flow
    def outer() -> None:
        inner()
        inner()

    outer()
    assert ids(warehouse) == [1, 1]


def shaky(number: int) -> Scan:
    """Data that proves what it is, and cannot be read the first time."""
    opened: list[int] = []

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        opened.append(1)
        yield from frame(number).to_batches()
        if len(opened) == 1:
            raise TransientError("the network blinked")

    return Scan(frame().schema, batches, source=f"source {number}", fingerprint=lambda: f"version {number}")


@pytest.mark.parametrize("how", ["submit", "map", "future"])
def test_futures_of_loads_are_retried_safely(warehouse: DuckDB, how: str) -> None:
    """Submitted and mapped loads keep their identity over the retries of their own task run and of the flow run."""
    fail = Once()

    @task
    def make(number: int) -> Scan:
        return shaky(number)

    @flow(retries=1)
    def pipeline() -> None:
        if how == "submit":
            warehouse.load.submit(shaky(1), "t").result()
        elif how == "map":
            warehouse.load.map([shaky(1), shaky(2)], unmapped("t")).result()
        else:
            warehouse.load.submit(make.submit(1), "t").result()
        fail()

    pipeline()
    assert fail.calls == 2
    assert ids(warehouse) == ([1, 2] if how == "map" else [1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_awaited_loads_are_retried_safely(warehouse: DuckDB) -> None:
    """The same holds for a load that an asynchronous flow awaits."""
    fail = Once()

    @flow(retries=1)
    async def pipeline() -> None:
        await warehouse.load.aio(shaky(1), "t")
        fail()

    asyncio.run(pipeline())
    gc.collect()  # Prefect leaves its client's sockets to the collector
    assert fail.calls == 2
    assert ids(warehouse) == [1]


class Watched(DuckDB):
    """Remembers which loads asked for a session."""

    _block_type_slug: ClassVar[str] = "etl-test-watched-duckdb"
    load_ids: ClassVar[list[str | None]] = []

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        self.load_ids.append(load_id)
        return super()._connect_bulk(load_id)


def test_the_tries_of_one_call_have_one_identity(tmp_path: Path) -> None:
    """In a script each call is a load of its own, and its retries are the same one."""
    warehouse, tries = Watched(path=str(tmp_path / "test.duckdb"), retry=RETRY), []

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        tries.append(1)
        yield from frame(1).to_batches()
        if len(tries) in (1, 2, 4):
            raise TransientError("the network blinked")

    scan = Scan(frame().schema, batches, source="a shaky source")
    Watched.load_ids.clear()
    first, second = warehouse.load(scan, "t"), warehouse.load(scan, "t")
    assert Watched.load_ids == [first.load_id] * 3 + [second.load_id] * 2
    assert first.load_id != second.load_id
    assert ids(warehouse) == [1, 1]


def test_the_content_of_data_is_its_identity() -> None:
    """Equal content in other memory, chunks or frames is the same data; other values, types or names are not."""
    chunks = pa.concat_tables([frame(1), frame(2)])
    same = [frame(1, 2), chunks, frame(0, 1, 2).slice(1), pa.RecordBatch.from_pydict({"id": [1, 2]})]
    other = [frame(2, 1), frame(1, 2).rename_columns(["x"]), frame(1, 2).cast(pa.schema({"id": pa.int32()})), frame(1)]
    found: dict[str, set[str]] = {"same": set(), "other": set()}

    @flow
    def pipeline() -> None:
        for name, group in (("same", same), ("other", other)):
            found[name] = {f"{as_scan(data).fingerprint()} {as_scan(data).schema}" for data in group}

    pipeline()
    assert len(found["same"]) == 1
    assert len(found["other"]) == len(other)
    assert not found["same"] & found["other"]


def test_ids_are_short_and_plain(warehouse: DuckDB) -> None:
    """A derived load_id fits into any engine's labels, whatever the table and the data are called."""

    @flow
    def pipeline() -> str:
        return derive_load_id(Target("t", "duckdb://x/" + "ü'" * 500), "append", as_scan(frame(1)), None)

    for load_id in (pipeline(), derive_load_id(Target("t", "duckdb://x/t"), "append", as_scan(frame(1)), None)):
        assert len(load_id) == 32
        assert load_id.isalnum()
    assert warehouse.load(frame(1), "t", load_id=load_id).load_id == load_id


# --- what is the same load: each line of the table in docs/loading.md, in each mode ---

MODES: tuple[Mode, ...] = get_args(Mode)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "append": {},
    "replace": {},
    "upsert": {"key": ["id"]},
    "replace_partition": {"partition_by": ["id"]},
}
all_modes = pytest.mark.parametrize("mode", MODES)
thorough = pytest.mark.thorough
other_modes = pytest.mark.parametrize("mode", ["append", *(pytest.param(mode, marks=thorough) for mode in MODES[1:])])
AGAIN = r"load_id="


def runs_twice(body: Callable[[], Any], *, where: str = "flow") -> None:
    """Run the body in a flow that fails after it once: as the flow, a task, or flows and tasks within."""
    fail = Once()

    def work() -> None:
        body()
        fail()

    @flow
    def inner() -> None:
        body()

    @flow
    def middle() -> None:
        inner()

    @task
    def nested() -> None:
        body()

    def outer() -> None:
        {"subflow": inner, "subflow two deep": middle, "nested task": nested}[
            where.removesuffix(" in a retried task")
        ]()
        fail()

    retried_task = where == "task" or where.endswith("task")
    fn = work if where in ("flow", "task") else outer

    @flow(retries=0 if retried_task else 1)
    def pipeline() -> None:
        (task(retries=1)(fn) if retried_task else fn)()

    pipeline()
    assert fail.calls == 2


WHERE = [
    "flow",
    pytest.param("task", marks=thorough),
    pytest.param("subflow", marks=thorough),
    "subflow two deep",
    "subflow in a retried task",
    pytest.param("subflow two deep in a retried task", marks=thorough),
    "nested task",
]


@other_modes
@pytest.mark.parametrize("where", WHERE)
def test_data_in_memory_is_recognised_wherever_the_run_begins_again(warehouse: DuckDB, mode: Mode, where: str) -> None:
    """A table in memory is known by its content, at whatever depth of flows and tasks, whichever of them is retried."""
    reports: list[LoadReport] = []
    runs_twice(lambda: reports.append(warehouse.load(frame(1, 2), "t", mode=mode, **ARGUMENTS[mode])), where=where)
    assert [report.already_loaded for report in reports] == [False, True]
    assert ids(warehouse) == [1, 2]


@all_modes
def test_files_are_recognised_by_name_and_version(warehouse: DuckDB, tmp_path: Path, mode: Mode) -> None:
    """Files are the same as long as nobody writes them; a plain flow over them needs no load_id."""
    raw = LocalFiles(basepath=str(tmp_path / "raw"))
    raw.write_path("a/1.csv", b"id\n1\n")
    reports: list[LoadReport] = []
    runs_twice(lambda: reports.append(warehouse.load(raw.scan("a/*.csv"), "t", mode=mode, **ARGUMENTS[mode])))
    assert [report.already_loaded for report in reports] == [False, True]
    assert ids(warehouse) == [1]


@other_modes
@pytest.mark.parametrize("change", ["a file is added", "a file is written again"])
def test_other_files_under_the_same_name_are_not_appended_twice(
    warehouse: DuckDB, tmp_path: Path, mode: Mode, change: str
) -> None:
    """Where a folder has changed since an earlier attempt appended it, the append is refused; other modes load it."""
    raw = LocalFiles(basepath=str(tmp_path / "raw"))
    raw.write_path("a/1.csv", b"id\n1\n")
    attempts = []

    def load() -> None:
        attempts.append(warehouse.load(raw.scan("a/"), "t", mode=mode, **ARGUMENTS[mode]))
        raw.write_path(
            "a/2.csv" if change == "a file is added" else "a/1.csv", b"id\n1\n" if "again" in change else b"id\n2\n"
        )

    if mode == "append":
        with pytest.raises(InvalidInputError, match=AGAIN):
            runs_twice(load)
        assert ids(warehouse) == [1]
    else:
        runs_twice(load)
        assert ids(warehouse) == ([1, 2] if change == "a file is added" else [1])


@other_modes
def test_sources_are_told_apart_by_where_they_are(warehouse: DuckDB, tmp_path: Path, mode: Mode) -> None:
    """Files of equal content in two folders are two loads, in whatever order they come, also with some left out."""
    stores = [LocalFiles(basepath=str(tmp_path / name)) for name in ("a", "b")]
    for store in stores:
        store.write_path("orders.csv", b"id\n1\n")
    orders, fail, loaded = [[stores[0]], [stores[1], stores[0]]], Once(), []

    @flow(retries=1)
    def pipeline() -> None:
        for store in orders[fail.calls]:
            report = warehouse.load(store.scan("orders.csv"), "t", mode=mode, **ARGUMENTS[mode])
            loaded.append(report.already_loaded)
        fail()

    pipeline()
    # A replace is done again where another came after it: what the run does with the table in between is done again.
    assert loaded == [False, False, mode != "replace"]
    assert ids(warehouse) == ([1, 1] if mode == "append" else [1])


@pytest.mark.parametrize("second", [[0, 1], [1, 0], [1]])
def test_tasks_are_told_apart_by_the_blocks_that_they_are_given(
    warehouse: DuckDB, tmp_path: Path, second: list[int]
) -> None:
    """Equal rows of two servers are two loads where a task takes the server's block: by its place, not its settings."""
    for name in ("a", "b"):
        DuckDB(path=str(tmp_path / f"{name}.duckdb")).load(frame(1), "orders")
    fail, orders = Once(), [[0], second]

    @task
    def copy(source: DuckDB) -> None:
        warehouse.load(pa.table({"id": [row[0] for row in source.fetch_all("select id from orders")]}), "t")

    @flow(retries=1)
    def pipeline() -> None:
        # An attempt that is made after somebody raised a setting, and gave the block another secret, is the same run.
        limit = f"{1 + fail.calls}GB"
        shards = [DuckDB(path=str(tmp_path / f"{name}.duckdb"), memory_limit=limit) for name in ("a", "b")]
        for future in [copy.submit(shards[number]) for number in orders[fail.calls]]:
            future.result()
        fail()

    pipeline()
    assert ids(warehouse) == [1, 1]


def live(warehouse: DuckDB) -> Scan:
    """What a table of the same database holds, which nothing proves."""
    return warehouse.scan_query("SELECT id FROM source WHERE id > :least", {"least": 0})


ONE_PASS = {
    "a query": live,
    "a table": lambda warehouse: warehouse.scan("source"),
    "a reader": lambda _: frame(1, 2).to_reader(),
    "a scan of one's own": lambda _: Scan(frame().schema, lambda _: frame(1, 2).to_batches(), source="an API"),
}


@all_modes
@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("a query", "flow"),
        *(
            pytest.param(kind, where, marks=thorough)
            for kind in ONE_PASS
            for where in ["flow", "task", "subflow in a retried task", "subflow two deep"]
        ),
    ],
)
def test_an_other_source_is_appended_once_and_replaced_again(
    warehouse: DuckDB, mode: Mode, where: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first attempt warns once, with the line to write; a second append is refused; the other modes run again."""
    DuckDB(path=warehouse.path).load(frame(1, 2), "source", load_id="source")
    reports: list[LoadReport] = []

    def load() -> None:
        reports.append(warehouse.load(ONE_PASS[kind](warehouse), "t", mode=mode, **ARGUMENTS[mode]))

    if mode != "append":
        runs_twice(load, where=where)
        assert [report.already_loaded for report in reports] == [False, False]
        assert reports[0].load_id != reports[1].load_id
    else:
        with pytest.raises(InvalidInputError, match=AGAIN):
            runs_twice(load, where=where)
    warnings = [
        record.getMessage()
        for record in caplog.records
        if AGAIN in record.getMessage() and record.levelname == "WARNING"
    ]
    assert len(warnings) == (1 if mode == "append" else 0)
    assert ids(warehouse) == [1, 2]


def test_the_line_to_write_is_made_of_the_flow_s_parameters(
    warehouse: DuckDB, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the parameters, and holds no value of them."""
    DuckDB(path=warehouse.path).load(frame(1), "source", load_id="source")

    @flow
    def pipeline(ds: str, shop: int) -> None:  # noqa: ARG001
        for _ in range(3):
            warehouse.load(live(warehouse), "t")

    pipeline("2026-04-30", 7)
    assert caplog.text.count('load_id=f"t/{ds}/{shop}"') == 1
    assert "2026-04-30" not in next(each for each in caplog.messages if AGAIN in each)
    assert ids(warehouse) == [1, 1, 1]


def test_a_given_load_id_decides(warehouse: DuckDB) -> None:
    """With it any source is loaded once, and nothing is said."""
    DuckDB(path=warehouse.path).load(frame(1), "source", load_id="source")
    runs_twice(lambda: warehouse.load(live(warehouse), "t", load_id="t/2026-04-30"))
    assert ids(warehouse) == [1]


def test_what_one_call_retries_is_one_load_of_an_other_source(warehouse: DuckDB) -> None:
    """The retries of a call, in a flow and in a task, are covered whatever the source is."""
    opened: list[int] = []

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        opened.append(1)
        yield from frame(1).to_batches()
        if len(opened) % 2:
            raise TransientError("the network blinked")

    @flow
    def pipeline() -> None:
        scan = Scan(frame().schema, batches, source="an API")
        warehouse.load(scan, "t")
        task(lambda: warehouse.load(scan, "t"))()

    pipeline()
    assert len(opened) == 4
    assert ids(warehouse) == [1, 1]


STATEMENTS = {
    "delete": lambda warehouse: warehouse.execute("DELETE FROM t"),
    "delete, quoted": lambda warehouse: warehouse.execute('DELETE FROM main."t" WHERE true'),
    "delete, many": lambda warehouse: warehouse.execute_many("DELETE FROM t WHERE id = :id", [{"id": 1}, {"id": 2}]),
    "delete returning": lambda warehouse: warehouse.fetch_all("DELETE FROM t RETURNING id"),
    "drop": lambda warehouse: warehouse.drop_table("t"),
    "another block": lambda warehouse: DuckDB(path=warehouse.path).execute("DELETE FROM t"),
}


@other_modes
@pytest.mark.parametrize("what", [pytest.param(what, marks=[thorough] * ("delete" in what)) for what in STATEMENTS])
def test_a_statement_on_the_table_ends_what_is_known_of_it(warehouse: DuckDB, mode: Mode, what: str) -> None:
    """After it a later attempt cannot tell whether rows are there: an append is refused, the other modes run again."""
    DuckDB(path=warehouse.path).load(frame(1), "t", load_id="before")

    def body() -> None:
        STATEMENTS[what](warehouse)
        warehouse.load(frame(1, 2), "t", mode=mode, **ARGUMENTS[mode])

    if mode == "append":
        with pytest.raises(InvalidInputError, match="a statement of this run changed the table"):
            runs_twice(body)
    else:
        runs_twice(body)
        assert ids(warehouse) == [1, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE IF NOT EXISTS t (id BIGINT)",
        "COMMENT ON TABLE t IS 'orders'",
        "ANALYZE t",
        "SELECT * FROM t",
        "WITH old AS (SELECT * FROM t) SELECT count(*) FROM old",
        "INSERT INTO log VALUES ('t is loaded')",
        "CREATE OR REPLACE TABLE other AS SELECT 1",
    ],
)
def test_what_changes_no_row_of_the_table_ends_nothing(warehouse: DuckDB, statement: str) -> None:
    """A table that is made where there is none, a comment, statistics, a query, another table's rows."""
    DuckDB(path=warehouse.path).execute("CREATE TABLE log (words VARCHAR)")
    DuckDB(path=warehouse.path).execute("CREATE TABLE t (id BIGINT)")
    reports: list[LoadReport] = []

    def body() -> None:
        warehouse.execute(statement)
        reports.append(warehouse.load(frame(1), "t"))

    runs_twice(body)
    assert [report.already_loaded for report in reports] == [False, True]
    assert ids(warehouse) == [1]


def test_a_table_that_an_attempt_dropped_in_the_end_is_loaded_again(warehouse: DuckDB) -> None:
    """Its rows went with it: what loads it in the next attempt is not done already."""
    reports: list[LoadReport] = []

    def body() -> None:
        reports.append(warehouse.load(frame(1), "stage"))
        warehouse.publish("stage", "t", mode="upsert", key=["id"])
        warehouse.drop_table("stage")

    runs_twice(body)
    assert [report.already_loaded for report in reports] == [False, False]
    assert ids(warehouse) == [1]


def test_what_is_appended_after_a_replace_that_runs_again_is_appended_again(warehouse: DuckDB) -> None:
    """A replace of a live source empties the table once more, and the rows that came after it with it."""
    DuckDB(path=warehouse.path).load(frame(1), "source", load_id="source")

    def body() -> None:
        warehouse.load(live(warehouse), "t", mode="replace")
        warehouse.load(frame(2), "t")

    runs_twice(body)
    assert ids(warehouse) == [1, 2]


def test_a_queue_that_is_drained_is_not_drained_into_nothing(warehouse: DuckDB) -> None:
    """Load, then delete, by the same query: a later attempt cannot tell its rows from the earlier one's."""
    source = DuckDB(path=warehouse.path)
    source.load(frame(1, 2, 3, 4), "source", load_id="source")

    def body() -> None:
        warehouse.load(live(warehouse), "t")
        source.execute("DELETE FROM source")
        source.load(frame(5, 6), "source", load_id="later")

    with pytest.raises(InvalidInputError, match=AGAIN):
        runs_twice(body)
    assert ids(warehouse) == [1, 2, 3, 4]
    assert source.fetch_all("SELECT count(*) FROM source") == [(2,)]


def test_a_run_that_replaces_twice_does_all_of_it_again(warehouse: DuckDB) -> None:
    """What it appended in between is there once, whatever an earlier attempt had done already."""

    def body() -> None:
        for number in (1, 3):
            warehouse.load(frame(number), "t", mode="replace")
            warehouse.load(frame(number + 1), "t")
            assert ids(warehouse) == [number, number + 1]

    runs_twice(body)
    assert ids(warehouse) == [3, 4]


def test_an_append_beside_partitions_that_are_replaced_again_is_refused(warehouse: DuckDB) -> None:
    """Which of its rows are still there nobody can tell."""
    DuckDB(path=warehouse.path).load(frame(1), "source", load_id="source")

    def body() -> None:
        warehouse.load(live(warehouse), "t", mode="replace_partition", partition_by=["id"])
        warehouse.load(frame(1, 2), "t")

    with pytest.raises(InvalidInputError, match="replaced partitions"):
        runs_twice(body)


@other_modes
def test_two_days_go_through_one_audit_table(warehouse: DuckDB, mode: Mode) -> None:
    """What `publish` reads is a live table: each day is published, and a second append is refused."""
    days = [[frame(1), frame(2)], [frame(2), frame(1)]]
    fail = Once()

    @flow(retries=1)
    def pipeline() -> None:
        for day in days[fail.calls]:
            warehouse.load(day, "audit", mode="replace")
            warehouse.publish("audit", "t", mode=mode, **ARGUMENTS[mode])
        fail()

    if mode == "append":
        with pytest.raises(InvalidInputError, match=AGAIN):
            pipeline()
        assert ids(warehouse) == [1, 2]
    else:
        pipeline()
        assert ids(warehouse) == ([1] if mode == "replace" else [1, 2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@other_modes
@pytest.mark.parametrize("how", ["pool", "executor"])
def test_a_thread_without_prefect_s_context_is_refused(warehouse: DuckDB, mode: Mode, how: str) -> None:
    """While a flow runs, a load from a thread that does not know it is refused at once, with the line to write."""
    arguments = {"mode": mode, **ARGUMENTS[mode]}
    reports: list[LoadReport] = []

    @flow
    def threads() -> None:
        with ThreadPoolExecutor() as pool:
            call = functools.partial(warehouse.load, frame(1), "t", **arguments)
            with pytest.raises(InvalidInputError, match=r"copy_context\(\)\.run"):
                pool.submit(call).result()
            reports.append(pool.submit(contextvars.copy_context().run, call).result())
            reports.append(pool.submit(call, load_id=f"given {mode}").result())

    @flow
    async def loop() -> None:
        call = functools.partial(warehouse.load, frame(1), "t", **arguments)
        run = asyncio.get_running_loop().run_in_executor
        with pytest.raises(InvalidInputError, match=r"copy_context\(\)\.run"):
            await run(None, call)
        reports.append(await run(None, contextvars.copy_context().run, call))
        reports.append(await asyncio.to_thread(call, load_id=f"given {mode}"))

    threads() if how == "pool" else asyncio.run(loop())
    gc.collect()
    assert len(reports) == 2


def test_a_thread_is_as_free_as_ever_where_no_flow_runs(warehouse: DuckDB) -> None:
    """A script, and a process whose flows have ended, load from any thread."""

    @flow
    def pipeline() -> None:
        pass

    pipeline()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda number: warehouse.load(frame(number), "t"), range(3)))
    assert ids(warehouse) == [0, 1, 2]


def test_a_retry_from_the_ui_is_the_same_run(warehouse: DuckDB) -> None:
    """It begins the same flow run again, in another process perhaps."""
    fail = Once()
    reports: list[LoadReport] = []

    @flow
    def pipeline() -> None:
        reports.append(warehouse.load(frame(1), "t"))
        fail()

    state = pipeline(return_state=True)
    with get_client(sync_client=True) as client:
        flow_run_id = state.state_details.flow_run_id
        assert flow_run_id is not None
        client.set_flow_run_state(flow_run_id, Scheduled(), force=True)
        client.set_flow_run_state(flow_run_id, Pending(), force=True)
        flow_run = client.read_flow_run(flow_run_id)
    run_flow(pipeline, flow_run=flow_run)
    assert [report.already_loaded for report in reports] == [False, True]
    assert ids(warehouse) == [1]


def test_parameters_are_described_alike_in_every_process() -> None:
    """Sets have no order of their own, and secrets take no part."""
    script = (
        "from blocks.base.runs import described\n"
        "from connectors.postgres import Postgres\n"
        "b = Postgres(host='h', password='geheim')\n"
        "print(described({'days': {'mon', 'tue', 'wed', 'thu'}, 'block': b, 'objects': [object(), print]}))"
    )
    found = {
        subprocess.run(  # noqa: S603 (our own)
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    assert "geheim" not in found.pop()


# --- datasets in object stores ---


@pytest.mark.parametrize("provable", [True, False])
def test_parts_of_a_dataset_are_appended_once(tmp_path: Path, *, provable: bool) -> None:
    """`write_table` tells appends apart as `load` does."""
    lake = LocalFiles(basepath=str(tmp_path / "lake"))

    def body() -> None:
        lake.write_table(frame(1) if provable else frame(1).to_reader(), "orders", mode="append")

    if provable:
        runs_twice(body)
    else:
        with pytest.raises(InvalidInputError, match=AGAIN):
            runs_twice(body)
    assert lake.read_table("orders/")["id"].to_pylist() == [1]


def test_a_changed_file_is_not_appended_twice_to_a_dataset(tmp_path: Path) -> None:
    """The names of the parts tell that an earlier attempt appended what the file held then."""
    raw, lake = (LocalFiles(basepath=str(tmp_path / name)) for name in ("raw", "lake"))
    raw.write_path("a.csv", b"id\n1\n")

    def body() -> None:
        lake.write_table(raw.scan("a.csv"), "orders", mode="append")
        raw.write_path("a.csv", b"id\n1\n2\n")

    with pytest.raises(InvalidInputError, match=AGAIN):
        runs_twice(body)
    assert lake.read_table("orders/")["id"].to_pylist() == [1]


# --- the ledger's versions ---

OLD = (
    "CREATE TABLE _etl_loads (load_id VARCHAR PRIMARY KEY, table_name VARCHAR, mode VARCHAR, row_count BIGINT, "
    "rejected_count BIGINT, flow_run_id VARCHAR, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, report VARCHAR)"
)


NOT_NULL_COLUMN = """
    ALTER TABLE _etl_loads ADD COLUMN epoch INTEGER DEFAULT 1;
    ALTER TABLE _etl_loads ALTER epoch SET NOT NULL;
    ALTER TABLE _etl_loads ALTER epoch DROP DEFAULT"""


def test_a_ledger_of_the_first_version_is_upgraded(warehouse: DuckDB) -> None:
    """It gets the columns that it lacks, its loads are known, and who does not know the columns still writes it."""
    old = warehouse.load(frame(1), "t", load_id="old")
    report = old.model_dump_json(exclude={"key", "partition_by"})
    warehouse.execute("DROP TABLE _etl_loads")
    warehouse.execute(OLD)
    insert = "INSERT INTO _etl_loads (load_id, table_name, mode, report) VALUES (:load_id, 't', 'append', :report)"
    warehouse.execute(insert, {"load_id": "old", "report": report})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: warehouse.load(frame(number), "t", load_id=f"new {number}"), range(2, 6)))
    assert warehouse.load(frame(1), "t", load_id="old").already_loaded
    warehouse.execute(insert, {"load_id": "by the old code", "report": report})
    assert warehouse.load(frame(6), "t", load_id="by the old code").already_loaded
    assert warehouse.load(frame(7), "t", load_id="after").rows == 1
    assert warehouse.fetch_all("SELECT version FROM _etl_loads WHERE load_id = 'after'") == [(3,)]
    assert ids(warehouse) == [1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE _etl_loads SET version = 4", "newer version"),
        (NOT_NULL_COLUMN, "newer version"),
        ("ALTER TABLE _etl_loads DROP COLUMN report", "lacks report"),
        ("DROP TABLE _etl_loads; CREATE TABLE _etl_loads (id INTEGER)", "lacks load_id"),
        ('UPDATE _etl_loads SET report = \'{"rows": "many"}\'', "cannot read its report"),
    ],
)
def test_a_ledger_that_cannot_be_written_is_refused_in_a_line(warehouse: DuckDB, statement: str, words: str) -> None:
    """One of a newer version, one without its columns, a report that nobody can read: nothing is loaded."""
    warehouse.load(frame(1), "t", load_id="before")
    for each in statement.split(";"):
        warehouse.execute(each)
    with pytest.raises(SchemaError, match=words) as caught:
        warehouse.load(frame(2), "t", load_id="before" if "report =" in statement else "after")
    assert "\n" not in str(caught.value)
    assert ids(warehouse) == [1]


@pytest.mark.parametrize("column", ["row_count", "flow_run_id", "finished_at", "call_id"])
def test_a_column_that_the_ledger_lacks_is_added(warehouse: DuckDB, column: str) -> None:
    """What somebody dropped comes back, empty in the rows that are there."""
    warehouse.load(frame(1), "t", load_id="before")
    warehouse.execute(f"ALTER TABLE _etl_loads DROP COLUMN {column}")
    warehouse.load(frame(2), "t", load_id="after")
    assert ids(warehouse) == [1, 2]


def test_the_ledger_can_be_made_beforehand(warehouse: DuckDB) -> None:
    """The statements make just what a load would."""
    for statement in warehouse.ledger_ddl():
        warehouse.execute(statement)
    before = warehouse.table_schema("_etl_loads")
    warehouse.load(frame(1), "t")
    other = DuckDB(path=f"{warehouse.path}.other")
    other.load(frame(1), "t")
    assert before == warehouse.table_schema("_etl_loads") == other.table_schema("_etl_loads")
