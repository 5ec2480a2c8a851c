"""The identity of loads that were given none: retried tasks and flow runs load each row once, whatever was retried."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pytest
from prefect import flow, task, unmapped
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from blocks.arrow.load_id import Target, derive_load_id
from blocks.arrow.scan import Scan, as_scan
from blocks.base.errors import TransientError
from blocks.base.retry import RetryPolicy
from connectors.duckdb import DuckDB

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
