"""Write, audit, publish: what readers of the table see while a day is checked, refused, published or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from blocks import ChecksFailedError, QualityError
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from templates import write_audit_publish as template

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks import Warehouse

DAY = date(2026, 4, 30)
HEADER = "order_id,customer,city,ordered_at,status,amount"
GOOD = [f"{number},Ann,Oslo,2026-04-30T07:00:00Z,paid,{number}.50" for number in range(1, 101)]
ODD = [
    "201,Ann,Oslo,2026-04-30T07:00:00Z,paid,-1.00",
    "202,Ann,Oslo,2026-04-30T07:00:00Z,lost,1.00",
    "203,Ann,,2026-04-30T07:00:00Z,lost,",
]
REASONS = {
    201: {"expect_column_values_to_be_between(amount)"},
    202: {"expect_column_values_to_be_in_set(status)"},
    203: {"expect_column_values_to_be_in_set(status)", "expect_column_values_to_not_be_null(amount)"},
}

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """Where the orders go."""
    if request.param == "duckdb":
        return DuckDB(path=str(tmp_path / "shop.duckdb"))
    return postgres(request)


def postgres(request: pytest.FixtureRequest) -> Postgres:
    return Postgres(**request.getfixturevalue("pg_database").fields(), ssl_mode="disable")


@pytest.fixture
def source(tmp_path: Path) -> LocalFiles:
    """Where the files come from."""
    return LocalFiles(basepath=str(tmp_path / "raw"))


def deliver(source: LocalFiles, lines: list[str]) -> None:
    source.write_path(template.FILE.format(ds=DAY), "\n".join([HEADER, *lines, ""]).encode())


def tables(warehouse: Warehouse) -> set[str]:
    """Tables of orders that are there."""
    found = warehouse.fetch_all("SELECT table_name FROM information_schema.tables")
    return {name for (name,) in found if name.startswith(template.TABLE)}


def state(warehouse: Warehouse) -> tuple[Any, ...] | None:
    return warehouse.fetch_one(f"SELECT count(*), sum(amount), min(amount) FROM {template.TABLE}")


@contextmanager
def reader(warehouse: Warehouse) -> Iterator[set[tuple[Any, ...] | None]]:
    """What somebody sees who looks all the time."""
    seen: set[tuple[Any, ...] | None] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            seen.add(state(warehouse))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_what_was_not_checked_is_not_seen(warehouse: Warehouse, source: LocalFiles) -> None:
    """A reader sees the day before and after it is published, never a row that a check refuses; those say why."""
    deliver(source, GOOD[:10])
    template.write_audit_publish(DAY, source, warehouse)
    before = state(warehouse)
    deliver(source, GOOD + ODD)
    with reader(warehouse) as seen:
        report = template.write_audit_publish(DAY, source, warehouse)
    assert report.audit
    assert (report.audit.passed, report.audit.rows_quarantined) == (True, 3)
    assert [str(each) for each in report.audit.warnings] == ["expect_column_values_to_not_be_null(city): 1 of 103 rows"]
    assert (report.table.rows, report.table.inserted, report.table.rows_rejected) == (100, 90, 3)
    assert seen <= {before, state(warehouse)}
    kept = warehouse.fetch_all(f"SELECT reason, row_text FROM _etl_quarantine WHERE table_name = '{template.TABLE}'")
    assert {json.loads(row)["order_id"]: set(reason.split("; ")) for reason, row in kept} == REASONS
    assert tables(warehouse) == {template.TABLE}
    again = template.write_audit_publish(DAY, source, warehouse)
    assert (again.table.already_loaded, again.audit, tables(warehouse)) == (True, None, {template.TABLE})


def test_bad_data_never_becomes_visible(warehouse: Warehouse, source: LocalFiles) -> None:
    """Where a check refuses the day the table stays as it was, for a reader too, until a corrected file comes."""
    deliver(source, GOOD[:10])
    template.write_audit_publish(DAY, source, warehouse)
    before = state(warehouse)
    deliver(source, GOOD + GOOD[:2])
    with (
        reader(warehouse) as seen,
        pytest.raises(ChecksFailedError, match=r"be_unique\(order_id\): 4 of 102") as caught,
    ):
        template.write_audit_publish(DAY, source, warehouse)
    assert [check.columns for check in caught.value.report.failures] == [("order_id",)]
    deliver(source, GOOD + [ODD[0].replace("201", str(number)) for number in range(300, 350)])
    with pytest.raises(QualityError, match=r"50 of 150"):
        template.write_audit_publish(DAY, source, warehouse)
    assert seen == {before} == {state(warehouse)}
    assert len(tables(warehouse)) == 3, "what was refused is there to be looked at"
    deliver(source, GOOD)
    assert template.write_audit_publish(DAY, source, warehouse).table.inserted == 90


KILLED = """
import sys
from blocks.warehouses.warehouse import Warehouse
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from templates import write_audit_publish as template

def stop(*args, **options):
    print("audited", flush=True)
    sys.stdin.read()

Warehouse.publish = stop
template.write_audit_publish({day!r}, LocalFiles(basepath={folder!r}), Postgres(**{fields!r}, ssl_mode="disable"))
"""


def test_a_kill_between_audit_and_publishing_leaves_the_old_data(
    request: pytest.FixtureRequest, source: LocalFiles, prefect_server: str
) -> None:
    """The next run publishes the day, the table of the killed one is gone then, and each refused row is kept once."""
    warehouse = postgres(request)
    deliver(source, GOOD[:10])
    template.write_audit_publish(DAY, source, warehouse)
    before = state(warehouse)
    deliver(source, [*GOOD, *ODD, "400,Ann,Oslo,2026-04-30T07:00:00Z,paid,a lot"])
    fields = request.getfixturevalue("pg_database").fields()
    code = KILLED.format(day=str(DAY), folder=str(source.basepath), fields=fields)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        text=True,
    ) as run:
        assert run.stdout
        assert "audited\n" in iter(run.stdout.readline, "")
        assert len(tables(warehouse)) == 2
        run.send_signal(signal.SIGKILL)
    assert state(warehouse) == before
    report = template.write_audit_publish(DAY, source, warehouse)
    assert (report.table.rows, report.table.inserted, report.table.rows_rejected) == (100, 90, 3)
    assert tables(warehouse) == {template.TABLE}
    assert warehouse.fetch_one("SELECT count(*), count(DISTINCT row_text) FROM _etl_quarantine") == (4, 4)
