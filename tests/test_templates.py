"""Templates run as they are, on the data that comes with them, and keep what their docstrings promise."""

from __future__ import annotations

import ast
import importlib
import inspect
import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect import Flow
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from blocks import NotFoundError, QualityError
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles, MemoryFiles
from templates import orders_pipeline as orders
from templates import watched_bucket as watched

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(orders.__file__).parent
TEMPLATES = sorted(FOLDER.glob("[!_]*.py"))
DAY = date(2026, 4, 30)
SOURCE = f"source/orders_{DAY}.csv"
PARTS = ("Install:", "Run:", "Promises:", "Change:")

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the template is run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def correct(folder: Path) -> Callable[..., Any]:
    """Loads the day from a copy of its file, after some of its text was replaced."""
    shutil.copytree(FOLDER / "data", folder / "data")

    def replace(*changes: tuple[str, str]) -> Any:
        file = folder / "data" / SOURCE
        text = file.read_text("utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text, "utf-8")
        return orders.orders_pipeline(DAY, source=LocalFiles(basepath=str(folder / "data")))

    return replace


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What the lake holds: size and time of each file."""
    paths = (path for path in (folder / "warehouse" / "orders").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def table() -> list[tuple[Any, ...]]:
    return orders.WAREHOUSE.fetch_all("select * from orders order by order_id")


def test_a_day_is_loaded_from_file_to_files_and_table(folder: Path) -> None:
    """Every row of the file is in the partition and in the table, or in the quarantine with its reason."""
    report = orders.orders_pipeline()
    assert report.ds == DAY
    assert report.files
    assert (report.files.rows_read, report.files.rows) == (24, 21)
    assert report.files.rejected == {"amount is missing": 1, "amount is not a number": 1, "too many fields": 1}
    assert (report.table.rows, report.table.inserted, report.table.updated) == (21, 21, 0)
    partition, quarantine = "orders/date=2026-04-30/part-0.parquet", "orders/_quarantine/date=2026-04-30.jsonl"
    assert {*files(folder)} == {f"warehouse/{partition}", f"warehouse/{quarantine}"}
    assert (report.files.files[0].key, report.files.quarantine) == (partition, quarantine)
    lake = orders.LAKE.read_table("orders")
    assert sorted(lake["order_id"].to_pylist()) == [row[0] for row in table()]
    assert sum(lake["amount"].to_pylist()) == Decimal("34172.31")
    assert orders.WAREHOUSE.fetch_one("select count(*), sum(amount), min(date), max(date) from orders") == (
        21,
        Decimal("34172.31"),
        DAY,
        DAY,
    )


def test_a_day_that_is_loaded_is_left_alone(folder: Path) -> None:
    """The second run says so, and neither a file nor a row changes."""
    first = orders.orders_pipeline()
    before = files(folder), table(), orders.WAREHOUSE.fetch_all("select * from _etl_loads")
    second = orders.orders_pipeline()
    assert second.table.already_loaded
    assert second.files is None
    assert second.table.rows == first.table.rows
    assert (files(folder), table(), orders.WAREHOUSE.fetch_all("select * from _etl_loads")) == before


def test_a_corrected_file_updates_its_orders(folder: Path, correct: Callable[..., Any]) -> None:
    """Values that were wrong are right, rows that could not be read are there, and nothing is there twice."""
    correct()
    report = correct(("paid,2094.30", "refunded,0.00"), ("n/a", "100.00"))
    assert (report.table.rows, report.table.inserted, report.table.updated) == (22, 1, 21)
    assert report.files.rejected == {"amount is missing": 1, "too many fields": 1}
    assert len(table()) == 22
    assert orders.WAREHOUSE.fetch_one("select status, amount from orders where order_id = 10314") == (
        "refunded",
        Decimal("0.00"),
    )
    assert orders.LAKE.read_table("orders").num_rows == 22
    assert len(files(folder)) == 2
    assert orders.WAREHOUSE.fetch_one("select count(*) from _etl_loads") == (2,)


def test_a_file_without_faults_leaves_no_quarantine(folder: Path, correct: Callable[..., Any]) -> None:
    """What an earlier version of the file had refused is gone once all of it is good."""
    correct()
    report = correct((",paid,\n", ",paid,1.00\n"), ("n/a", "100.00"), ("LILA-Supermercado, Inc.", "LILA-Supermercado"))
    assert (report.files.rows, report.files.rejected, report.files.quarantine) == (24, {}, None)
    assert [*files(folder)] == ["warehouse/orders/date=2026-04-30/part-0.parquet"]


def test_a_file_that_is_mostly_bad_changes_nothing(folder: Path, correct: Callable[..., Any]) -> None:
    """Above MAX_REJECTED neither target is touched."""
    correct()
    before = files(folder), table()
    with pytest.raises(QualityError, match="too many fields"):
        correct(("2026-04-30T1", "2026,04-30T1"))
    assert (files(folder), table()) == before


def test_a_day_without_a_file_is_named() -> None:
    """The error says which file is missing."""
    with pytest.raises(NotFoundError, match=r"orders_2026-05-01\.csv"):
        orders.orders_pipeline(date(2026, 5, 1))


def test_days_are_backfilled_together() -> None:
    """Each day is loaded once, however often and in whatever groups they are asked for."""
    orders.orders_pipeline(date(2026, 4, 29))
    reports = orders.orders_backfill(date(2026, 4, 28), DAY)
    assert [(report.table.rows, report.table.already_loaded) for report in reports] == [
        (23, False),
        (23, True),
        (21, False),
    ]
    assert all(report.table.already_loaded for report in orders.orders_backfill(date(2026, 4, 28), DAY))
    assert len(table()) == orders.LAKE.read_table("orders").num_rows == 67
    assert orders.WAREHOUSE.fetch_one("select count(*) from _etl_loads") == (3,)


def test_days_are_backfilled_in_processes_as_in_threads(folder: Path) -> None:
    """Tables, files and ledger are the same, whatever runs the tasks."""
    found = []
    for runner in (ThreadPoolTaskRunner(max_workers=2), ProcessPoolTaskRunner(max_workers=2)):
        backfill = orders.orders_backfill.with_options(task_runner=runner)
        reports = backfill(date(2026, 4, 28), DAY)
        lake = orders.LAKE.read_table("orders").sort_by("order_id")
        ledger = "select load_id, table_name, mode from _etl_loads order by load_id"
        found.append((table(), lake, orders.WAREHOUSE.fetch_all(ledger), [report.table.rows for report in reports]))
        orders.WAREHOUSE.close()
        shutil.rmtree(folder / "warehouse")
    assert found[0] == found[1]


def test_a_file_that_arrives_is_loaded_once_per_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is announced twice is loaded once; a version that was replaced is passed over."""
    shutil.copytree(FOLDER / "data", folder / "data")
    monkeypatch.setattr(watched, "SOURCE", LocalFiles(basepath=str(folder / "data")))  # what is passed by default
    first = watched.watched_bucket().files
    assert [file.key[-14:] for file in first] == ["2026-04-28.csv", "2026-04-29.csv", "2026-04-30.csv"]
    assert watched.watched_bucket().files == []
    loads = [watched.load_file(file.key, file.etag) for file in first]
    assert [load.table.rows for load in loads] == [23, 23, 21]
    again = watched.load_file(first[0].key, first[0].etag)
    assert again.table.already_loaded
    for _ in range(2):
        summary = watched.summarize(again.table.load_id)
    assert summary.already_loaded
    assert watched.WAREHOUSE.fetch_one("select sum(orders) from orders_by_city") == (67,)

    file = folder / "data" / first[0].key
    file.write_text(file.read_text("utf-8").replace("paid", "refunded"), "utf-8")
    (changed,) = watched.watched_bucket().files
    assert watched.load_file(changed.key, first[0].etag).table is None
    assert watched.load_file(changed.key, changed.etag).table.updated == 23
    assert watched.WAREHOUSE.fetch_one("select count(*) from orders") == (67,)
    assert watched.WAREHOUSE.fetch_one("select count(*) from orders where status = 'refunded'")[0] > 0


def test_blocks_are_passed_by_name(folder: Path) -> None:
    """The same flow runs on other blocks, which are saved."""
    source, lake, warehouse = LocalFiles(basepath=str(FOLDER / "data")), MemoryFiles(), DuckDB(path="other.duckdb")
    lake.write_path("kept", b"")
    source.save("raw", overwrite=True)
    lake.save("lake", overwrite=True)
    warehouse.save("shop", overwrite=True)
    report = orders.orders_pipeline(DAY, "etl-local-files/raw", "etl-memory-files/lake", "etl-duckdb/shop")
    assert report.table.rows == 21
    assert warehouse.fetch_one("select count(*) from orders") == (21,)
    assert lake.read_table("orders").num_rows == 21
    assert not (folder / "warehouse").exists()


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_template_can_be_read_and_owned(file: Path) -> None:
    """It is short, its docstring has five parts, its changes are marked, and it has a flow named like the file."""
    text = file.read_text("utf-8")
    assert text.count("\n") <= 160
    docstring = ast.get_docstring(ast.parse(text)) or ""
    places = [docstring.index(part) for part in PARTS]
    assert places == sorted(places)
    assert 0 < len(docstring.partition("\n")[0]) <= 120
    assert "# CHANGE" in text
    assert isinstance(vars(importlib.import_module(f"templates.{file.stem}"))[file.stem], Flow)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_the_form_of_a_deployment_explains_itself(file: Path) -> None:
    """Every parameter of every flow has a type and a description."""
    module = importlib.import_module(f"templates.{file.stem}")
    for flow in (value for value in vars(module).values() if isinstance(value, Flow)):
        assert flow.description
        for name, parameter in inspect.signature(flow.fn).parameters.items():
            assert parameter.annotation is not parameter.empty, (flow.name, name)
            assert flow.parameters.properties[name]["description"].strip(), (flow.name, name)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_the_form_of_a_run_has_fields_and_no_switches(file: Path) -> None:
    """A union is a switch between types there, which opens on None or on a type that has no form: `Saved`, `Day`."""
    module = importlib.import_module(f"templates.{file.stem}")
    for flow in (value for value in vars(module).values() if isinstance(value, Flow)):
        assert not [name for name, form in flow.parameters.properties.items() if "anyOf" in form], flow.name
