"""What `etl new --deploy` writes for containers, read by Docker's own tools; no container runtime is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from blocks.cli import main as etl

POOLS = Path(__file__).parents[1] / ".venv-pools/bin"

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not POOLS.exists(), reason="make .venv-pools/done: Docker Compose and Docker's parser"),
]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints."""
    done = subprocess.run([str(each) for each in command], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


def test_docker_reads_both_files(tmp_path: Path) -> None:
    """Docker Compose itself takes compose.yaml, and Docker's own parser the Dockerfile."""
    folder = tmp_path / "shop"
    assert etl(["new", "orders_pipeline", str(folder), "--deploy"]) == 0
    config = yaml.safe_load(run(POOLS / "docker-compose", "config", cwd=folder))
    assert set(config["services"]) == {"server", "server-database", "warehouse", "store", "worker", "setup"}
    code = "import dockerfile; print(*(each.cmd for each in dockerfile.parse_file('Dockerfile')))"
    instructions = run(POOLS / "python", "-c", code, cwd=folder).split()
    assert instructions == ["FROM", "RUN", "WORKDIR", "COPY", "RUN", "COPY", "USER", "CMD"]
