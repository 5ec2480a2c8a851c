"""Flows as a worker runs them: loaded from their file, with parameters from the UI or the API, and on a schedule."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.flow_engine import load_flow, run_flow
from prefect.flows import Flow, load_flow_from_entrypoint

import templates
from blocks import InvalidInputError, conclude, newest_day, scheduled_day
from blocks.cli import main as etl
from connectors.duckdb import DuckDB
from connectors.local import MemoryFiles
from connectors.postgres import Postgres
from integration_tests.standins.prefect import prefect_server as own_server
from integration_tests.standins.process import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import FlowRun, State

TEMPLATES = [file.stem for file in sorted(Path(templates.__path__[0]).glob("[!_]*.py"))]

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the flows are."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gc.collect()  # Prefect leaves its clients' sockets to the collector


def api(method: str, path: str, **json: Any) -> Any:
    with get_client(sync_client=True) as client:
        return client.request(method, path, json=json).raise_for_status().json()


def run(flow_run_id: str) -> State[Any]:
    """Run it as the process that a worker starts does, and return how the API says that it ended."""
    with get_client(sync_client=True) as client:
        flow_run: FlowRun = client.read_flow_run(flow_run_id)
        run_flow(load_flow(flow_run), flow_run=flow_run, return_type="state")
        ended = client.read_flow_run(flow_run_id).state
    assert ended is not None
    return ended


def deployed(file: str, name: str, **options: Any) -> str:
    """The id of a deployment of the flow that a file of this folder holds."""
    loaded = load_flow_from_entrypoint(f"{file}:{name}")
    return str(loaded.to_deployment("s1", **options).apply())


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_copied_template_takes_its_parameters(name: str) -> None:
    """A worker loads it from its file, where Prefect cannot resolve annotations that were postponed."""
    assert etl(["new", name, "."]) == 0
    loaded = load_flow_from_entrypoint(f"{name}.py:{name}")
    assert isinstance(loaded, Flow)
    given = {"ds": "2026-04-30"} if "ds" in loaded.parameters.properties else {}
    parameters = loaded.validate_parameters(given)
    assert parameters.get("ds") in (None, date(2026, 4, 30))


def test_a_schedule_says_which_day_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    """The run is of the day of its schedule; a second one says in its state, and in the log, that it was loaded."""
    assert etl(["new", "orders_pipeline", "."]) == 0
    deployment = deployed("orders_pipeline.py", "orders_pipeline", cron="0 */12 * * *")
    api(
        "POST",
        f"/deployments/{deployment}/schedule",
        start_time="2026-04-28T23:00:00Z",
        end_time="2026-04-30T23:00:00Z",
        min_runs=4,
        max_runs=4,
    )
    runs = sorted(
        api("POST", "/flow_runs/filter", deployments={"id": {"any_": [deployment]}}),
        key=lambda each: each["expected_start_time"],
    )
    assert [each["expected_start_time"][:13] for each in runs] == [
        f"2026-04-{day}T{hour}" for day in (29, 30) for hour in ("00", "12")
    ]
    states = [run(each["id"]) for each in runs]
    assert all(state.is_completed() for state in states)
    messages = [state.message or "" for state in states]
    assert "2026-04-29; orders: 23 of 24 rows written" in messages[0]
    assert messages[1].startswith("2026-04-29; orders: already loaded")
    assert "2026-04-30; orders: 21 of 24 rows written" in messages[2]
    assert caplog.text.count("orders: already loaded") >= 2


def test_a_run_without_a_schedule_takes_the_newest_day(folder: Path) -> None:
    """That of the UI's button; what was delivered since is taken by the next one."""
    assert etl(["new", "orders_pipeline", "."]) == 0
    deployment = deployed("orders_pipeline.py", "orders_pipeline")
    older = folder / "data/source/orders_2026-04-30.csv"
    newest = older.rename(folder / "kept.csv")
    assert (run(api("POST", f"/deployments/{deployment}/create_flow_run")["id"]).message or "").startswith("2026-04-29")
    newest.rename(older)
    assert (run(api("POST", f"/deployments/{deployment}/create_flow_run")["id"]).message or "").startswith("2026-04-30")


def test_what_a_day_is() -> None:
    """Only dates count, and the newest of them; there is no schedule outside of a run."""
    store = MemoryFiles()
    for key in (
        "in/2026-04-30/a.csv",
        "in/2026-05-01/a.csv",
        "in/2026-13-01/a.csv",
        "in/latest/a.csv",
        "in/2027-01-01/b.csv",
    ):
        store.write_path(key, b"")
    assert newest_day(store, "in/{ds}/a.csv") == date(2026, 5, 1)
    with pytest.raises(FileNotFoundError, match=r"no file of any day at .*out/\{ds\}.csv"):
        newest_day(store, "out/{ds}.csv")
    with pytest.raises(InvalidInputError, match="has no place for the day"):
        newest_day(store, "in/a.csv")
    assert scheduled_day() is None
    assert conclude("done") == "done"


def test_a_called_flow_returns_its_report() -> None:
    """Only the run of a deployment, whose value nobody receives, ends with a state of ours."""

    @flow
    def called() -> str:
        return conclude("done")

    assert called() == "done"


FORM = """
from prefect import flow
from blocks import Warehouse, resolve
from connectors.duckdb import DuckDB
from connectors.postgres import Postgres

@flow
def form(warehouse: DuckDB, any_kind: str | Warehouse, other: Postgres | None = None):
    assert warehouse.fetch_all("select 1") == [(1,)]
    assert resolve(any_kind, Warehouse) == warehouse
"""


def test_a_run_form_takes_a_saved_block(folder: Path) -> None:
    """Picked in the UI (`$ref`), named, or handed over by a client; a field that there is not is refused at once."""
    (folder / "form.py").write_text(FORM)
    deployment = deployed("form.py", "form")
    warehouse = DuckDB(path=str(folder / "w.duckdb"))
    warehouse.save("picked", overwrite=True)
    Postgres(host="h", password="p").save("picked", overwrite=True)
    saved = DuckDB.load("picked")
    picked = {"$ref": {"block_document_id": str(saved._block_document_id)}}
    postgres = {"$ref": {"block_document_id": str(Postgres.load("picked")._block_document_id)}}
    for parameters in (
        {"warehouse": picked, "any_kind": picked, "other": postgres},
        {"warehouse": {"$ref": str(saved._block_document_id)}, "any_kind": "etl-duckdb/picked", "other": None},
        {"warehouse": picked, "any_kind": picked},
    ):
        started = api("POST", f"/deployments/{deployment}/create_flow_run", parameters=parameters)
        assert run(started["id"]).is_completed()
    for block in (warehouse, saved):
        started = run_deployment("form/s1", parameters={"warehouse": block, "any_kind": block}, timeout=0)
        assert run(str(started.id)).is_completed()
    with pytest.raises(Exception, match="409"):
        api(
            "POST",
            f"/deployments/{deployment}/create_flow_run",
            parameters={"warehouse": {"path": "x", "pth": "y"}, "any_kind": "x"},
        )


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the newest of everything that the wheel allows, without our constraints."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{wheel}[dbt,great-expectations,mlflow]"], check=True)
    return environment / "bin/python"


@pytest.mark.thorough
def test_every_template_is_copied_served_and_started(fresh: Path, tmp_path: Path) -> None:
    """As its first user does, in an environment that only our bounds describe; Prefect's lists are shown there too."""
    commands = fresh.parent
    with own_server(tmp_path / "home", fresh) as address:
        environment = {**os.environ, "PREFECT_API_URL": f"{address}/api", "PREFECT_HOME": str(tmp_path / "home")}
        for name in TEMPLATES:
            there = tmp_path / name
            subprocess.run([commands / "etl", "new", name, there], check=True)
            served = spawn([fresh, f"{name}.py", "serve"], log=tmp_path / f"{name}.log", env=environment, cwd=there)
            try:
                deadline = time.monotonic() + 120
                flow_name = name.replace("_", "-")
                while httpx.get(f"{address}/api/deployments/name/{flow_name}/daily").status_code != 200:
                    assert time.monotonic() < deadline, (tmp_path / f"{name}.log").read_text()
                    time.sleep(0.5)
                command = [commands / "prefect", "deployment", "run", f"{flow_name}/daily", "--watch"]
                done = subprocess.run(
                    command, env=environment, check=False, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, (tmp_path / f"{name}.log").read_text()
                assert "Completed" in done.stdout
            finally:
                stop(served)
        for what in ("block", "deployment", "work-pool", "flow-run", "automation"):
            subprocess.run([commands / "prefect", what, "ls"], env=environment, check=True)
