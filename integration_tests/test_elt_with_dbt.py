"""The template `elt_with_dbt` on DuckDB, on PostgreSQL by the name of a saved block, and on the stand-ins of clouds."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort

from blocks import ChecksFailedError, ConnectorError
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from integration_tests import test_bigquery, test_snowflake
from templates import elt_with_dbt as elt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks import Warehouse
    from connectors.bigquery import BigQuery
    from connectors.snowflake import Snowflake
    from integration_tests.standins.postgres import Address

LOADED = {"raw_customers": (67, 24), "raw_order_details": (2155, 0), "raw_orders": (654, 176), "raw_products": (77, 0)}
"""The rows of each file, and those that the quarantine has."""
CORRECTED = {"raw_customers": (91, 0), "raw_order_details": (2155, 0), "raw_orders": (830, 0), "raw_products": (77, 0)}
ROWS = {
    "delivery_by_carrier": 3,
    "dim_customers": 67,
    "dim_products": 77,
    "fct_order_lines": 1716,
    "fct_orders": 654,
    "product_history": 77,
    "revenue_by_country": 21,
    "revenue_by_month": 23,
}
NODES = {"model": 13, "seed": 2, "snapshot": 1, "test": 48}
ADDRESS = {"customers.csv": 4, "orders.csv": 9}
"""The field that holds commas where nothing is quoted."""


@dataclass
class Run:
    """A run of the template, and what the warehouse held after it."""

    report: elt.ShopReport
    flow_run_id: Any
    tables: dict[str, tuple[int, str]]
    quarantine: dict[tuple[str, str], int]
    loads: int
    revenue: Decimal


class Shop:
    """A folder with the shop's files, and a DuckDB file: what two runs did, and one with corrected files."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "shop"
        shutil.copytree(elt.DATA / "shop", self.source)
        self.warehouse = DuckDB(path=str(folder / "shop.duckdb"))
        self.pages = LocalFiles(basepath=str(folder / "quality"))
        self.installed = installed()
        self.revenue = revenue(self.source)
        self.runs = [self.run(), self.run()]

    @cached_property
    def corrected(self) -> Run:
        """A third run, after the files were corrected."""
        correct(self.source)
        return self.run()

    def run(self) -> Run:
        """Run the template on the files as they are."""
        source = LocalFiles(basepath=str(self.source))
        state = elt.elt_with_dbt(source, self.warehouse, self.pages, return_state=True)
        found = self.warehouse.fetch_all("select table_name, reason, count(*) from _etl_quarantine group by all")
        return Run(
            report=state.result(),
            flow_run_id=state.state_details.flow_run_id,
            tables=contents(self.warehouse),
            quarantine={(table, reason): count for table, reason, count in found},
            loads=self.warehouse.fetch_one("select count(*) from _etl_loads")[0],
            revenue=self.warehouse.fetch_one("select sum(net_amount) from fct_orders")[0],
        )


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the template is run."""
    folder = tmp_path_factory.mktemp("elt")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def shop(prefect_server: str, place: Path) -> Shop:
    assert prefect_server
    return Shop(place)


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """The shop's files as they are shipped."""
    shutil.copytree(elt.DATA / "shop", tmp_path / "shop")
    return LocalFiles(basepath=str(tmp_path / "shop"))


@pytest.fixture
def pages(tmp_path: Path) -> LocalFiles:
    return LocalFiles(basepath=str(tmp_path / "quality"))


def installed() -> dict[str, int]:
    """What is installed with the template, and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in elt.DATA.rglob("*")}


def contents(warehouse: Warehouse) -> dict[str, tuple[int, str]]:
    """Number of rows and checksum of each table that dbt fills; numbers count by their value."""
    return {table: checksum(warehouse, table) for table in ROWS}


def checksum(warehouse: Warehouse, table: str) -> tuple[int, str]:
    rows = warehouse.read_table(table)
    names = [name for name in rows.column_names if not name.startswith("dbt_")]  # those of a snapshot hold times
    texts = sorted("|".join(text(row[name]) for name in names) for row in rows.select(names).to_pylist())
    return len(texts), hashlib.sha256("\n".join([*names, *texts]).encode()).hexdigest()


def text(value: Any) -> str:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)


def lines_of(file: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file."""
    with file.open(encoding="utf-8", newline="") as opened:
        header, *rows = csv.reader(opened)
    return header, rows


def correct(folder: Path) -> None:
    """Quote the addresses, and change the freight of one old order and the price of a product."""
    for file in folder.glob("*.csv"):
        header, rows = lines_of(file)
        at = ADDRESS.get(file.name, 0)
        for row in rows:
            more = len(row) - len(header)
            row[at : at + more + 1] = [",".join(row[at : at + more + 1])]
            if file.name == "orders.csv" and row[0] == "10249":
                row[header.index("freight")] = "99.00"
            if file.name == "products.csv" and row[0] == "1":
                row[header.index("unitPrice")] = "19.50"
        with file.open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([header, *rows])


def revenue(folder: Path) -> Decimal:
    """What the orders that can be read come to, by the files themselves."""
    header, orders = lines_of(folder / "orders.csv")
    known = {row[0] for row in orders if len(row) == len(header)}
    total = Decimal(0)
    for order, _, price, quantity, discount in lines_of(folder / "order-details.csv")[1]:
        if order in known:
            amount = Decimal(price) * Decimal(quantity) * (1 - Decimal(discount))
            total += amount.quantize(Decimal("0.01"), ROUND_HALF_UP)
    return total


def loaded(run: Run) -> dict[str, tuple[int, int]]:
    return {load.table: (load.rows, load.rows_rejected) for load in run.report.loads}


def task_runs(flow_run_id: Any, count: int) -> list[Any]:
    """The task runs of a flow run, once Prefect's API, which hears of them a little later, knows how each ended."""
    by_id = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_task_runs(flow_run_filter=by_id, limit=200, sort=TaskRunSort.NAME_ASC)
            if len(runs) >= count and all(run.state and run.state.is_final() for run in runs):
                return runs
            threading.Event().wait(0.05)
    raise TimeoutError(f"Prefect knows of {len(runs)} task runs")


def page_of(flow_run_id: Any) -> str:
    """The summary that is kept with a flow run."""
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(flow_run_id)]}, "key": {"any_": ["shop"]}}}
    with get_client(sync_client=True) as client:
        (kept,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    return str(kept["data"])


def test_files_become_tables(shop: Shop) -> None:
    """Each row of a file is in its table, or in the quarantine with its reason; dbt and the checks agree."""
    first = shop.runs[0]
    assert loaded(first) == LOADED
    assert first.quarantine == {("raw_customers", "too many fields"): 24, ("raw_orders", "too many fields"): 176}
    assert Counter(node.resource_type for node in first.report.dbt.nodes) == NODES
    assert first.report.dbt.passed
    assert [(node.name, node.failures) for node in first.report.dbt.warnings] == [("lines_without_an_order", 439)]
    assert [(each.suite, len(each.checks), each.passed) for each in first.report.checks] == [
        ("dim_customers", 4, True),
        ("fct_orders", 7, True),
    ]
    assert {table: rows for table, (rows, _) in first.tables.items()} == ROWS
    assert first.revenue == shop.revenue


def test_each_node_is_a_task_run(shop: Shop) -> None:
    """So are the loads, the build and the checks; each has its state."""
    nodes = {node.unique_id for node in shop.runs[0].report.dbt.nodes}
    runs = task_runs(shop.runs[0].flow_run_id, len(nodes) + 7)
    assert {run.name for run in runs} >= nodes
    loads = ["load raw_customers", "load raw_order_details", "load raw_orders", "load raw_products"]
    checks = ["validate dim_customers", "validate fct_orders"]
    assert sorted(run.name for run in runs if run.name not in nodes) == ["DbtProject.build", *loads, *checks]
    assert {run.state_type.value for run in runs} == {"COMPLETED"}


def test_a_summary_is_kept_with_the_run(shop: Shop) -> None:
    """It names the loads and what dbt did, and leads to the pages of the checks."""
    report = shop.runs[0].report
    page = page_of(shop.runs[0].flow_run_id)
    assert page == report.markdown()
    for said in ("176 quarantined in _etl_quarantine", "dbt build of shop_dbt", "7 of 7 checks hold"):
        assert said in page
        assert said in str(report)
    for check in report.checks:
        assert f"]({check.docs})" in page
        assert Path(unquote(urlparse(check.docs).path)).is_file()


def test_a_second_run_changes_nothing(shop: Shop) -> None:
    """No file is loaded again, and every table, the quarantine and the ledger are as they were."""
    first, second = shop.runs
    assert all(load.already_loaded for load in second.report.loads)
    assert second.report.dbt.counts == first.report.dbt.counts
    assert second.tables == first.tables
    assert (second.quarantine, second.loads) == (first.quarantine, first.loads)


@pytest.mark.thorough
def test_late_and_corrected_rows_arrive(shop: Shop) -> None:
    """Old orders that come late are added, one that changed is written again, and a former price is kept."""
    run = shop.corrected
    assert loaded(run) == CORRECTED
    assert run.report.dbt.counts == {"success": 16, "pass": 48}
    assert run.tables["fct_orders"][0] == 830
    assert run.revenue == revenue(shop.source) == Decimal("1265793.29")
    assert shop.warehouse.fetch_all("select freight from fct_orders where order_id = 10249") == [(Decimal("99.00"),)]
    history = (
        "select unit_price, dbt_valid_to is null from product_history where product_id = 1 order by dbt_valid_from"
    )
    assert shop.warehouse.fetch_all(history) == [(Decimal("18.00"), False), (Decimal("19.50"), True)]


def test_nothing_is_written_where_the_template_is_installed(shop: Shop) -> None:
    """No target folder, log or profile of dbt: an install may be read-only."""
    assert installed() == shop.installed


@pytest.fixture
def postgres(pg_database: Address) -> Iterator[Postgres]:
    """A database, saved under a name."""
    with contextlib.closing(Postgres(**pg_database.fields())) as warehouse:
        warehouse.save("elt-shop", overwrite=True)
        yield warehouse


@pytest.mark.thorough
def test_postgres_by_name_holds_the_same(shop: Shop, postgres: Postgres, files, pages, monkeypatch) -> None:
    """Row by row what DuckDB holds; where a check does not hold, the run fails after all is said."""
    few = {"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 10}}
    suites = Path(files.basepath)
    (suites / "fct_orders.json").write_text(json.dumps({"name": "few_orders", "expectations": [few]}))
    monkeypatch.setattr(elt, "SUITES", suites)
    state = elt.elt_with_dbt(files, "etl-postgres/elt-shop", pages, return_state=True)
    with pytest.raises(ChecksFailedError, match="few_orders does not hold"):
        state.result()
    page = page_of(state.state_details.flow_run_id)
    assert "few_orders: 0 of 1 checks hold" in page
    assert "16 success" in page
    assert contents(postgres) == shop.runs[0].tables


@pytest.mark.thorough
def test_a_second_run_on_postgres_changes_nothing(shop: Shop, postgres: Postgres, files, pages) -> None:
    """As on DuckDB."""
    for _ in range(2):
        report = elt.elt_with_dbt(files, "etl-postgres/elt-shop", pages)
        assert contents(postgres) == shop.runs[0].tables
    assert all(load.already_loaded for load in report.loads)


bigquery = test_bigquery.warehouse  # of the stand-in, or of the account that ETL_TEST_BIGQUERY names
snowflake = test_snowflake.warehouse  # the same with ETL_TEST_SNOWFLAKE


@pytest.mark.thorough
def test_bigquery_holds_the_same(shop: Shop, bigquery: BigQuery, files, pages) -> None:
    """Row by row what DuckDB holds, also after a second run."""
    for _ in range(2):
        report = elt.elt_with_dbt(files, bigquery, pages)
        assert report.dbt.passed
        assert contents(bigquery) == shop.runs[0].tables
    assert all(load.already_loaded for load in report.loads)


@pytest.mark.thorough
def test_snowflake_holds_the_same(shop: Shop, snowflake: Snowflake, files, pages) -> None:
    """Row by row what DuckDB holds. The stand-in has no temporary view with a schema, on which dbt's MERGE is built."""
    report = elt.elt_with_dbt(files, snowflake, pages)
    assert report.dbt.passed
    assert contents(snowflake) == shop.runs[0].tables
    if test_snowflake.ACCOUNT:
        assert elt.elt_with_dbt(files, snowflake, pages).dbt.passed
    else:
        with pytest.raises(ConnectorError) as failed:
            elt.elt_with_dbt(files, snowflake, pages)
        assert {node.name for node in failed.value.result.failures} == {"fct_orders", "product_history"}
    assert contents(snowflake) == shop.runs[0].tables
