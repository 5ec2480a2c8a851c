"""Seconds that a fresh interpreter needs for an import, as a multiple of `import prefect`.

Each statement runs in turn with the others, so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 9
STATEMENTS = {
    "an empty interpreter": "pass",
    "import prefect": "import prefect",
    "a plain Prefect block": "from prefect.blocks.core import Block",
    "S3Bucket": "from connectors.s3 import S3Bucket",
    "Postgres": "from connectors.postgres import Postgres",
    "DuckDB": "from connectors.duckdb import DuckDB",
    "LocalFiles": "from connectors.local import LocalFiles",
}


def seconds(statement: str) -> float:
    """How long a fresh interpreter took."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the medians."""
    measured: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for name, statement in STATEMENTS.items():
        seconds(statement)  # compiles what was never compiled
        measured[name].clear()
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            measured[name].append(seconds(statement))
    base = statistics.median(measured["import prefect"])
    print(f"{'':24}{'median s':>10}{'x import prefect':>18}")
    for name, values in measured.items():
        median = statistics.median(values)
        print(f"{name:24}{median:10.3f}{median / base:18.2f}")


if __name__ == "__main__":
    main()
