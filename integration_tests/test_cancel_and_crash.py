"""What docs/cancel-and-crash.md says: runs that are cancelled, suspended or killed, on Prefect's own server."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from prefect.exceptions import Pause

from connectors.duckdb import DuckDB
from integration_tests.test_load_faults import eventually
from integration_tests.test_served import api, deployed, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def left_open() -> Iterator[None]:
    """Collects the clients that Prefect leaves open, while nothing minds."""
    yield
    gc.collect()


SUSPENDED = """
from prefect import flow, task
from prefect.flow_runs import suspend_flow_run
from blocks import conclude
from connectors.duckdb import DuckDB

def load(rows, table):
    with DuckDB(path="w.duckdb") as warehouse:
        return warehouse.load(warehouse.scan_query(rows) if isinstance(rows, str) else rows, table)

@flow
def suspended(query: str):
    first = load([{"id": 1}, {"id": 2}], "t")
    task(load)([{"id": 3}], "t")
    if query:
        load(query, "t")
    suspend_flow_run(timeout=600)
    load([{"id": 4}], "t")
    return conclude(first)
"""


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("query", ["", "select 7 as id"])
def test_a_suspended_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """From its beginning: what it had loaded is recognized, in the flow and in a task, or else refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suspended.py").write_text(SUSPENDED)
    deployment = deployed("suspended.py", "suspended")
    run_id = api("POST", f"/deployments/{deployment}/create_flow_run", parameters={"query": query})["id"]
    with pytest.raises(Pause):  # which ends the process of a worker
        run(run_id)
    assert api("GET", f"/flow_runs/{run_id}")["state"]["name"] == "Suspended"
    api("POST", f"/flow_runs/{run_id}/resume")
    ended = run(run_id)
    with DuckDB(path="w.duckdb") as warehouse:
        found = [row[0] for row in warehouse.fetch_all("select id from t order by id")]
    if query:
        assert "this run has begun before" in (ended.message or "")
        assert found == [1, 2, 3, 7]
    else:
        assert ended.is_completed()
        assert "already loaded" in (ended.message or "")
        assert found == [1, 2, 3, 4]


WAITS = """
import time
from prefect.client.orchestration import get_client
from blocks.cli.command import start_server

start_server()
with get_client(sync_client=True) as client:
    print(str(client.api_url).rstrip("/"), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_a_killed_command_leaves_no_temporary_server(tmp_path: Path, sent: signal.Signals) -> None:
    """The server that `etl` has Prefect start, where there is no API to talk to, ends with the process."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-c", WAITS]
    home = {"PREFECT_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment | home, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            health = f"{process.stdout.readline().strip()}/health"
            assert httpx.get(health, timeout=60).status_code == 200
            process.send_signal(sent)
            process.wait(30)
        finally:
            process.kill()

    def is_gone() -> bool:
        try:
            httpx.get(health, timeout=1)
        except httpx.ConnectError:
            return True
        except httpx.HTTPError:
            return False
        return False

    eventually(is_gone, 30)
