"""A table of PostgreSQL in parts of one moment, and a load of parts that workers stage, one of which is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import cloudpickle
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from prefect import flow, task, unmapped
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from blocks import InvalidInputError, NotFoundError, Scan, StagedPart, TerminalError, UnsupportedError
from connectors.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration_tests.standins.postgres import Address

ROWS = 40_000
WORKER = """
import cloudpickle, sys
result = cloudpickle.load(open(sys.argv[1], "rb"))()
cloudpickle.dump(result, open(sys.argv[2], "wb"))
"""


@pytest.fixture
def warehouse(pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(**pg_database.fields())) as block:
        yield block


def total(parts: list[pa.Table]) -> int:
    return sum(pc.sum(part["amount"]).as_py() or 0 for part in parts)


def accounts(warehouse: Postgres) -> None:
    warehouse.execute("create table accounts (id bigint primary key, amount bigint)")
    warehouse.execute(f"insert into accounts select i, 1000 from generate_series(1, {ROWS}) as i")


@pytest.mark.parametrize("snapshot", [True, False])
def test_money_that_moves_is_counted_once(warehouse: Postgres, snapshot: bool) -> None:
    """The total of all parts is that of one moment; without the snapshot it is not."""
    accounts(warehouse)
    with warehouse.scan("accounts").partitions(4, snapshot=snapshot) as parts:
        first = parts[0].to_arrow()
        move = "update accounts set amount = amount + case when id <= :half then -7 else 7 end"
        writers = [threading.Thread(target=warehouse.execute, args=(move, {"half": ROWS // 2})) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        found = total([first, *(part.to_arrow() for part in parts[1:])])
    assert (found == ROWS * 1_000) is snapshot


def test_partitions_are_divided_too(warehouse: Postgres) -> None:
    """Their columns may stand in another order, and those that are read are the parent's."""
    warehouse.execute("create table p (id bigint, day int, amount numeric(9,2)) partition by list (day)")
    warehouse.execute("create table p0 (day int, amount numeric(9,2), id bigint)")
    warehouse.execute("alter table p attach partition p0 for values in (0)")
    warehouse.execute("create table p1 partition of p for values in (1)")
    warehouse.execute("insert into p select i, i % 2, i from generate_series(1, 5000) as i")
    scan = warehouse.scan("p")
    with scan.partitions(3) as parts:
        found = pa.concat_tables([part.to_arrow() for part in parts])
    assert found.schema == scan.schema
    assert found.sort_by("id") == scan.to_arrow().sort_by("id")


def test_what_has_no_pages_of_its_own_is_refused(warehouse: Postgres) -> None:
    """In one line, with what to do; and parts are read while their snapshot is held, and not later."""
    accounts(warehouse)
    warehouse.execute("create view v as select * from accounts")
    for name, error in (("v", UnsupportedError), ("nowhere", NotFoundError)):
        with pytest.raises(error), warehouse.scan(name).partitions(2):
            pass
    partitions = warehouse.scan("accounts").partitions(2)
    with pytest.raises(InvalidInputError, match="only within a context"):
        len(partitions)
    with partitions as parts:
        kept = list(parts)
    with pytest.raises(TerminalError, match=r"snapshot of this part .* is gone"):
        kept[0].to_arrow()


def test_a_killed_worker_costs_its_part(warehouse: Postgres, tmp_path: Path) -> None:
    """Two processes stage the parts of one snapshot, one is killed amid it; what was written since is in no part."""
    accounts(warehouse)

    def start(work: object, name: str) -> subprocess.Popen[bytes]:
        (tmp_path / name).write_bytes(cloudpickle.dumps(work))
        return subprocess.Popen([sys.executable, "-c", WORKER, tmp_path / name, tmp_path / f"{name}.out"])

    def stalled(batch: pa.RecordBatch) -> pa.RecordBatch:
        import pathlib
        import time

        pathlib.Path(begun).touch()
        time.sleep(600)
        return batch

    begun = str(tmp_path / "begun")
    with warehouse.scan("accounts").partitions(2) as parts:
        first, second = parts
        lost = start(lambda: warehouse.stage(first.map_batches(stalled, schema=first.schema), "copy"), "lost")
        done = start(lambda: warehouse.stage(second, "copy"), "second")
        assert done.wait(120) == 0
        while not os.path.exists(begun):  # noqa: PTH110 (as it is written in the worker)
            assert lost.poll() is None
        os.kill(lost.pid, signal.SIGKILL)
        lost.wait()
        warehouse.execute("update accounts set amount = amount + 1")
        again = start(lambda: warehouse.stage(first, "copy"), "first")
        assert again.wait(120) == 0
        staged = [cloudpickle.loads((tmp_path / f"{name}.out").read_bytes()) for name in ("first", "second")]
        report = warehouse.load(staged, "copy", mode="replace")
    assert (report.rows, report.inserted) == (ROWS, ROWS)
    assert warehouse.fetch_one("select count(distinct id), sum(amount) from copy") == (ROWS, ROWS * 1_000)
    assert warehouse.fetch_all("select relname from pg_class where relname like '\\_etl\\_part%'") == []
    assert warehouse.fetch_one("select count(*) from _etl_loads") == (1,)


@task
def stage_part(part: Scan, warehouse: Postgres) -> StagedPart:
    return warehouse.stage(part, "copy")


@flow
def copy_accounts(warehouse: Postgres) -> int:
    with warehouse.scan("accounts").partitions(3) as parts:
        staged = stage_part.map(parts, unmapped(warehouse)).result()
        return warehouse.load(staged, "copy", mode="replace").rows


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("runner", [ThreadPoolTaskRunner, ProcessPoolTaskRunner])
def test_a_flow_copies_a_table_in_parts(warehouse: Postgres, runner: type) -> None:
    """In threads as in processes."""
    accounts(warehouse)
    assert copy_accounts.with_options(task_runner=runner(max_workers=2))(warehouse) == ROWS
    assert warehouse.fetch_one("select count(distinct id), sum(amount) from copy") == (ROWS, ROWS * 1_000)
