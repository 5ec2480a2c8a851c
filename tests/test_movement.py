"""What a load and a write leave in a run: a page, an asset and a line with named fields."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.runtime import flow_run

from blocks import CsvOptions, NotFoundError, TerminalError, collect
from blocks.base import progress
from blocks.base.movement import Movement
from blocks.base.runs import SETTING
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from tests.documents import ROOT, blocks_of

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.schemas.objects import Artifact

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

ORDERS = pa.table({"id": [1, 2, 3], "amount": [10, 20, 30]})
FULLER = pa.table({"id": [3, 4], "amount": [31, 40], "city": ["Oslo", None]})


def pages(flow_run_id: str) -> list[Artifact]:
    """What a run has kept, in order."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
    return sorted(found, key=lambda each: each.created)


def told(asset: str, prefix: str, most: int = 1) -> list[dict[str, Any]]:
    """The events of an asset, the newest first, once the server has written so many down."""
    found: list[dict[str, Any]] = []
    for _ in range(200):
        with get_client(sync_client=True) as client:
            answer = client.request(
                "POST",
                "/events/filter",
                json={"filter": {"event": {"prefix": [prefix]}, "resource": {"id": [asset]}}},
            )
        found = answer.json()["events"]
        if len(found) >= most:
            break
        time.sleep(0.05)
    return found


def materialized(asset: str) -> list[dict[str, Any]]:
    """The events of an asset that Prefect keeps for it."""
    return told(asset, "prefect.asset.")


@pytest.mark.usefixtures("prefect_server")
def test_a_load_leaves_a_page_and_an_asset(tmp_path: Path) -> None:
    """Under one key per table, with what was moved, refused and changed, and what the rows came from."""
    files, warehouse = LocalFiles(basepath=str(tmp_path)), DuckDB(path=str(tmp_path / "w.duckdb"))
    (tmp_path / "orders.csv").write_text("id,amount\n1,10\n2,x\n3,30\n")
    schema = pa.schema({"id": pa.int64(), "amount": pa.int64()})

    @flow
    def loads() -> str:
        orders = files.scan("orders.csv", schema=schema, options=CsvOptions(), on_error="quarantine")
        written = files.write_table(orders, "lake/orders", partition_by=["id"], max_rejected=0.5)
        rows = files.scan([file.key for file in written.files])
        warehouse.load(rows, "orders", mode="upsert", key=["id"], load_id="day 1")
        warehouse.load(FULLER, "orders", mode="upsert", key=["id"], load_id="day 2")
        warehouse.load(FULLER, "orders", mode="upsert", key=["id"], load_id="day 2")
        warehouse.load(orders, "main.orders", load_id="it's", max_rejected=0.5)
        return str(flow_run.get_id())

    wrote, first, second, again, refused = pages(loads())
    assert wrote.key.startswith("write-lake-orders-")
    assert "3 rows" not in str(wrote.data)
    assert f"({(tmp_path / 'lake/orders/_quarantine/rows.jsonl').as_uri()})" in str(wrote.data)
    assert first.key == second.key == again.key == refused.key.replace("main-orders", "orders")
    assert first.key.startswith("load-orders-")
    assert f"`duckdb://{tmp_path}/w.duckdb/main.orders`" in str(first.data)
    assert "| From | `file://" + f"{tmp_path}/lake/orders` |" in str(first.data)
    assert 'ALTER TABLE "orders" ADD COLUMN "city"' in str(second.data)
    assert "2 rows loaded" in str(second.data)
    assert "already loaded, nothing changed" in str(again.data)
    assert "load_id = 'it''s'" in str(refused.data)
    assert "| Load ID | `day 1` |" in str(first.data)

    (event,) = materialized(f"file://{tmp_path}/lake/orders")[-1:]
    assert event["event"] in ("prefect.asset.materialization.succeeded", "prefect.asset.referenced")
    events = materialized(f"duckdb://{tmp_path}/w.duckdb/main.orders")
    made = next(each for each in events if each["payload"].get("load_id") == "day 1")
    related = {each["prefect.resource.id"]: each["prefect.resource.role"] for each in made["related"]}
    assert related[f"file://{tmp_path}/lake/orders"] == "asset"
    assert related["etl-duckdb"] == "asset-materialized-by"
    assert made["payload"]["rows"] == 2


@pytest.mark.usefixtures("prefect_server")
def test_a_load_tells_what_waits_for_it(tmp_path: Path) -> None:
    """By an event of the table with what was moved; one that is told again is the same event."""
    warehouse = DuckDB(path=str(tmp_path / "w.duckdb"))
    table = warehouse.asset_key("orders")

    @flow
    def loads() -> str:
        for day in (1, 2, 2):
            warehouse.load(FULLER, "orders", mode="upsert", key=["id"], load_id=f"day {day}")
        LocalFiles(basepath=str(tmp_path)).write_table(ORDERS, "lake")
        return str(flow_run.get_id())

    run_id = loads()
    second, first = told(table, "etl.", 2)
    assert [each["event"] for each in (first, second)] == ["etl.table.loaded"] * 2
    assert first["resource"] == {
        "prefect.resource.id": table,
        "prefect.resource.name": "orders",
        "etl.mode": "upsert",
        "etl.already-loaded": "false",
    }
    assert f"prefect.flow-run.{run_id}" in {each["prefect.resource.id"] for each in first["related"]}
    wanted = {"load_id": "day 1", "rows": 2, "inserted": 2, "updated": 0, "deleted": 0, "rejected": 0, "mode": "upsert"}
    assert wanted.items() <= first["payload"].items()
    assert {"bytes", "seconds", "schema_changes", "already_loaded"} <= set(first["payload"])
    assert "Oslo" not in str(first)
    assert second["payload"]["load_id"] == "day 2"
    (wrote,) = told(f"file://{tmp_path}/lake", "etl.")
    assert (wrote["event"], wrote["payload"]["rows"]) == ("etl.dataset.written", 3)
    assert len(told(table, "etl.", 2)) == 2  # the write was told last


@pytest.mark.usefixtures("prefect_server")
def test_a_load_is_shown_whatever_its_table_is_called(caplog: pytest.LogCaptureFixture) -> None:
    """Keys of pages and assets are made of any name that a table can have, and of any place."""
    names = ["a b", "заказы", "it's", 'say "x"', "100%", "a#b?c&d", "x" * 60, "tab\there", "[x](y)", "c|d", "😀"]

    @flow
    def loads() -> str:
        warehouse = DuckDB()
        for number, name in enumerate(names):
            warehouse.load(ORDERS, name, load_id=f"load {number}")
        return str(flow_run.get_id())

    assert len({page.key for page in pages(loads())}) == len(names)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("prefect_server")
def test_a_setting_leaves_out_pages_assets_and_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is the same."""
    monkeypatch.setenv(SETTING, "False")
    warehouse = DuckDB(path=str(tmp_path / "w.duckdb"))

    @flow
    def loads() -> str:
        warehouse.load(ORDERS, "orders")
        monkeypatch.delenv(SETTING)
        warehouse.load(ORDERS, "shown")
        return str(flow_run.get_id())

    assert [page.key.startswith("load-shown") for page in pages(loads())] == [True]
    assert told(warehouse.asset_key("shown"), "etl.")  # sent after what the other would have sent
    for events in ("etl.", "prefect.asset."):
        assert told(warehouse.asset_key("orders"), events, 0) == []


def test_outside_of_a_run_there_is_a_line_with_named_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No server is asked, and none is started; the fields are those of the page."""
    with caplog.at_level(logging.INFO):
        DuckDB(path=str(tmp_path / "w.duckdb")).load(ORDERS, "orders", load_id="day 1")
        LocalFiles(basepath=str(tmp_path)).write_table(ORDERS, "lake")
    loaded, wrote = [record for record in caplog.records if hasattr(record, "etl_event")]
    assert (loaded.etl_event, loaded.etl_name, loaded.etl_rows, loaded.etl_load_id) == ("load", "orders", 3, "day 1")
    assert (loaded.etl_inserted, loaded.etl_bytes, loaded.etl_already_loaded) == (3, 48, False)
    assert (wrote.etl_event, wrote.etl_files, wrote.etl_target) == ("write", 1, f"file://{tmp_path}/lake")
    assert json.loads(json.dumps(loaded.__dict__, default=str))["etl_seconds"] >= 0


def test_tables_of_one_name_have_pages_of_their_own() -> None:
    """The key holds where the table is; a name that Prefect cannot take in a key is told apart all the same."""
    asked: dict[str, Any] = {"verb": "load", "tool": "etl-x", "mode": "append", "rows": 1, "bytes": None, "seconds": 0}
    keys = [
        Movement(name=name, target=target, text="", **asked).key
        for name, target in [("orders", "a://1/orders"), ("orders", "a://2/orders"), ("заказы", "a://1/заказы")]
    ]
    assert len(set(keys)) == 3


SHIPPED = """
import json
from prefect.logging.configuration import setup_logging
from connectors.duckdb import DuckDB

setup_logging()
DuckDB(path="w.duckdb").load([{"id": 1}], "orders", load_id="day 1")
"""


def test_lines_are_shipped_as_json(tmp_path: Path) -> None:
    """By the configuration that the page shows: each line is an object with the named fields."""
    (file,) = [block for block in blocks_of(ROOT / "docs/what-a-run-shows.md") if block.file == "logging.yml"]
    (tmp_path / "logging.yml").write_text(file.text)
    done = subprocess.run(  # noqa: S603 (our own)
        [sys.executable, "-c", SHIPPED],
        env=os.environ | {"PREFECT_LOGGING_SETTINGS_PATH": "logging.yml", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = [json.loads(line) for line in done.stdout.splitlines() if "etl_event" in line]
    assert (line["etl_name"], line["etl_rows"], line["etl_load_id"], line["severity"]) == ("orders", 1, "day 1", "INFO")


def test_the_history_of_loads_is_a_page(tmp_path: Path) -> None:
    """The newest first, each table with its trend; none where there is no ledger yet."""
    warehouse = DuckDB(path=str(tmp_path / "w.duckdb"))
    assert warehouse.load_history().loads == ()
    for number in (1, 2, 3):
        warehouse.load(ORDERS.slice(0, number), "orders", load_id=f"day {number}")
    warehouse.load(ORDERS, "a|b", load_id="x")
    assert [each.load_id for each in warehouse.load_history().loads] == ["x", "day 3", "day 2", "day 1"]
    assert [each.rows for each in warehouse.load_history("orders", most=2).loads] == [3, 2]
    page = warehouse.load_history().markdown()
    assert "| orders | 3 |" in page
    assert "| 3 | ▃▅█ |" in page
    assert r"| a\|b | 1 |" in page


@pytest.mark.usefixtures("prefect_server")
def test_days_that_failed_are_named() -> None:
    """Each with the reason of the step that failed, and not that of what was never run after it."""

    @task
    def extract(day: int) -> int:
        if day == 2:
            raise NotFoundError("There is no file of that day.")
        return day

    @task
    def load(day: int) -> int:
        if day == 3:
            raise ValueError("a value of a row")
        return day * 10

    @flow
    def backfill(days: list[int]) -> list[int]:
        extracted = extract.map(days)
        return collect(days, extracted, load.map(extracted))

    assert backfill([1, 4]) == [10, 40]
    words = r"^2 of 4 failed, and the others are done: 2 \(There is no file of that day\), 3 \(ValueError\)\.$"
    with pytest.raises(TerminalError, match=words):
        backfill([1, 2, 3, 4])


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("total", [4, None])
def test_long_work_has_a_page_of_its_progress(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    """One that is brought up to date; short work has none."""

    @flow
    def works(every_s: float) -> str:
        monkeypatch.setattr(progress, "PAGE_EVERY_S", every_s)
        with progress.progress("main.orders", total=total) as tick:
            for _ in range(4):
                tick(1)
                time.sleep(0.1)
        return str(flow_run.get_id())

    assert pages(works(60)) == []
    (page,) = pages(works(0.05))
    assert page.key == "progress-main-orders"
    assert page.type == ("progress" if total else "markdown")
    assert page.data == (100 if total else page.description)
    assert f"main.orders: 4{' of 4' if total else ''} rows in" in str(page.description)
