"""A dbt project of many nodes, built by the command line of dbt and by DbtProject in a flow, in turn.

    python benchmarks/dbt.py [--nodes 525] [--rounds 3]

Printed are medians of the seconds from the call to its end, of the flow with its server running already, and what the
server's API has of the flow run afterwards: how many task runs, of which names and states.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun

THREADS = 4
TESTED = 21
"""One node in so many is a test."""


def make(folder: Path, nodes: int) -> None:
    """A project of so many nodes: views in chains of twenty, and a test of the last of each chain."""
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text("name: many\nversion: '1.0'\nprofile: many\n", "utf-8")
    (folder / "profiles.yml").write_text(
        f"many: {{target: dev, outputs: {{dev: {{type: duckdb, path: many.duckdb, threads: {THREADS}}}}}}}\n", "utf-8"
    )
    chains, length = nodes // TESTED, TESTED - 1
    tests = []
    for chain in range(chains):
        for place in range(length):
            source = f"{{{{ ref('m_{chain}_{place - 1}') }}}}" if place else "(select 1 as id)"
            (folder / "models" / f"m_{chain}_{place}.sql").write_text(f"select id from {source}", "utf-8")
        tests.append(f"  - name: m_{chain}_{length - 1}\n    columns: [{{name: id, data_tests: [not_null]}}]\n")
    (folder / "models" / "schema.yml").write_text("models:\n" + "".join(tests), "utf-8")


def by_command_line(folder: Path) -> float:
    """Build it with dbt."""
    started = time.perf_counter()
    command = [Path(sys.executable).with_name("dbt"), "build", "--quiet"]
    environment = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "0"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def in_a_flow(folder: Path) -> tuple[float, list[TaskRun]]:
    """Build it with DbtProject in a flow, and return the task runs that its server knows of."""
    from prefect import flow, get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.runtime import flow_run

    from connectors.dbt import DbtProject

    @flow
    def build() -> Any:
        DbtProject(project_dir=folder).build()
        return flow_run.id

    async def task_runs(of: Any) -> list[TaskRun]:
        found: list[TaskRun] = []
        async with get_client() as client:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[of]))
            while page := await client.read_task_runs(flow_run_filter=chosen, limit=200, offset=len(found)):
                found += page
        return found

    started = time.perf_counter()
    run_id = build()
    took = time.perf_counter() - started
    return took, asyncio.run(task_runs(run_id))


def main() -> None:
    """Print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=525)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.testing.utilities import prefect_test_harness

    theirs, ours, runs = [], [], []
    with tempfile.TemporaryDirectory() as name, prefect_test_harness(server_startup_timeout=180):
        for number in range(args.rounds):
            for kind in ("theirs", "ours"):
                folder = Path(name) / f"{kind}_{number}"
                make(folder, args.nodes)
                if kind == "theirs":
                    theirs.append(by_command_line(folder))
                else:
                    took, runs = in_a_flow(folder)
                    ours.append(took)
            print(f"  dbt build {theirs[-1]:.1f} s, DbtProject.build in a flow {ours[-1]:.1f} s", flush=True)
    first, other = statistics.median(theirs), statistics.median(ours)
    print(f"{args.nodes} nodes: dbt {first:.1f} s, in a flow {other:.1f} s, {other / first:.2f} x")
    print(f"task runs: {len(runs)}, states: {dict(Counter(run.state_name for run in runs))}")
    print("names: " + ", ".join(sorted(run.name for run in runs)[:5]) + ", ...")


if __name__ == "__main__":
    main()
