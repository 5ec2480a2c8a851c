"""Prefect's own commands in an environment with our dependencies: a pin of ours must not break what users type."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.testing.cli import invoke_and_assert

import templates

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Prefect leaves its clients' sockets to the collector."""
    yield
    gc.collect()


LISTS = (
    "artifact", "automation", "block", "block type", "concurrency-limit", "deployment", "flow", "flow-run",
    "global-concurrency-limit", "task-run", "variable", "work-pool", "work-queue",
)  # fmt: skip
FLOW = Path(templates.__path__[0]) / "orders_pipeline.py"


@pytest.mark.parametrize("what", LISTS)
def test_a_list_is_shown(what: str) -> None:
    """`prefect WHAT ls` asks the server with the arguments that Prefect's client sends."""
    invoke_and_assert([*what.split(), "ls"], expected_code=0)


def test_blocks_of_ours_are_registered_and_shown() -> None:
    """`prefect block register -m` and `prefect block type inspect`."""
    invoke_and_assert(["block", "register", "-m", "connectors.duckdb"], expected_code=0)
    invoke_and_assert(
        ["block", "type", "inspect", "etl-duckdb"], expected_code=0, expected_output_contains="etl-duckdb"
    )


def test_a_template_is_deployed_and_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prefect work-pool create`, `prefect deploy`, `prefect deployment run` and `prefect flow-run ls`."""
    monkeypatch.chdir(tmp_path)
    Path("orders_pipeline.py").write_bytes(FLOW.read_bytes())
    invoke_and_assert(["work-pool", "create", "ours", "--type", "process"], expected_code=0)
    deploy = [
        "--no-prompt",
        "deploy",
        "orders_pipeline.py:orders_pipeline",
        "-n",
        "daily",
        "-p",
        "ours",
        "--cron",
        "0 6 * * *",
    ]
    invoke_and_assert(deploy, expected_code=0, expected_output_contains="successfully created")
    invoke_and_assert(["deployment", "run", "orders-pipeline/daily"], expected_code=0)
    invoke_and_assert(["flow-run", "ls"], expected_code=0, expected_output_contains="orders-pipeline")
    invoke_and_assert(["deployment", "inspect", "orders-pipeline/daily"], expected_code=0)
