"""Six checks of a table by a suite of Great Expectations, beside hand-written SQL and Great Expectations alone.

    python benchmarks/expectations.py [--rows 10000000] [--rounds 3] [--bad 2500000] [--only duckdb,quarantine]

Checked are: no null in the key, the key unique, a range, a list of values, a pattern, a mean. Each contender runs in a
process of its own, in turn, round after round; printed are medians of the seconds that checking took (imports and
connecting left out), the peak memory of the process, and the ratio to the first line. The last table is what it takes
to name many bad rows: `audit` with the keys of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the stand-in server

if TYPE_CHECKING:
    from collections.abc import Callable

PATTERN = r"^user[0-9]+@example\.com$"
ORDERS = """
    SELECT i AS id, CAST(CASE WHEN i % {rows} < {bad} THEN -1 ELSE i % 1000 END AS DECIMAL(12, 2)) AS amount,
        ['new', 'paid', 'shipped'][1 + i % 3] AS status, 'user' || i || '@example.com' AS email
    FROM range({rows}) AS t (i)
"""
BY_HAND = """
    SELECT count(*), count(*) FILTER (WHERE id IS NULL), count(*) FILTER (WHERE NOT amount BETWEEN 0 AND 1000),
        count(*) FILTER (WHERE status NOT IN ('new', 'paid', 'shipped')), count(*) FILTER (WHERE NOT {matches}),
        avg(amount), (SELECT count(*) FROM (SELECT id FROM orders GROUP BY id HAVING count(*) > 1) AS d)
    FROM orders
"""
EXPECTATIONS: list[dict[str, Any]] = [
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}},
    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
    {"type": "expect_column_values_to_be_between", "kwargs": {"column": "amount", "min_value": 0, "max_value": 1000}},
    {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "status", "value_set": ["new", "paid", "shipped"]},
    },
    {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "email", "regex": PATTERN}},
    {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "amount", "min_value": -1, "max_value": 1000}},
]


def quality(*, quarantine: bool = False) -> Any:
    """The suite, in our words; the range quarantines the rows that break it."""
    from connectors.great_expectations import DataQuality
    from connectors.great_expectations.engine import great_expectations

    great_expectations()  # imports are left out of every contender's time
    given = [dict(each) for each in EXPECTATIONS]
    if quarantine:
        given[2]["severity"] = "quarantine"
    return DataQuality(suite_name="orders", key=["id"], expectations=given, max_rejected=1.0)


def duckdb_block(folder: Path) -> Any:
    """The file of DuckDB."""
    from connectors.duckdb import DuckDB

    return DuckDB(path=str(folder / "orders.duckdb"))


def postgres_block(folder: Path) -> Any:
    """The server, whose port is in a file."""
    from connectors.postgres import Postgres

    port = int((folder / "port").read_text("ascii"))
    return Postgres(host="127.0.0.1", port=port, username="postgres", password="s3cret")


def by_hand(block: Callable[[Path], Any], matches: str) -> Callable[[Path], float]:
    """What one writes by hand: one statement."""

    def run(folder: Path) -> float:
        with block(folder) as warehouse:
            warehouse.fetch_one("SELECT 1")
            started = time.perf_counter()
            warehouse.fetch_all(BY_HAND.format(matches=matches))
            return time.perf_counter() - started

    return run


def validated(block: Callable[[Path], Any]) -> Callable[[Path], float]:
    """DataQuality.validate of the table."""

    def run(folder: Path) -> float:
        checks = quality()
        with block(folder) as warehouse:
            warehouse.fetch_one("SELECT 1")
            started = time.perf_counter()
            checks.validate(warehouse, table="orders", raise_on_failure=False)
            return time.perf_counter() - started

    return run


def frame_of(folder: Path) -> Any:
    """The rows as a pandas frame."""
    import duckdb

    with duckdb.connect(str(folder / "orders.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT * REPLACE (CAST(amount AS DOUBLE) AS amount) FROM orders").df()


def validated_frame(folder: Path) -> float:
    """DataQuality.validate of a frame."""
    checks, frame = quality(), frame_of(folder)
    started = time.perf_counter()
    checks.validate(frame, raise_on_failure=False)
    return time.perf_counter() - started


def plain(folder: Path) -> float:
    """Great Expectations by itself."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    frame = frame_of(folder)
    started = time.perf_counter()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    expectations = [get_expectation_impl(each["type"])(**each["kwargs"]) for each in EXPECTATIONS]
    suite = gx.ExpectationSuite(name="orders", expectations=expectations)
    batch.get_batch({"dataframe": frame}).validate(suite)
    return time.perf_counter() - started


def audited(block: Callable[[Path], Any]) -> Callable[[Path], float]:
    """DataQuality.audit, with the key of each bad row."""

    def run(folder: Path) -> float:
        checks = quality(quarantine=True)
        with block(folder) as warehouse:
            warehouse.fetch_one("SELECT 1")
            started = time.perf_counter()
            audit = checks.audit(warehouse, table="orders", raise_on_failure=False)
            took = time.perf_counter() - started
        bad = int((folder / "bad").read_text("ascii"))
        if audit.rejected.num_rows != bad:
            raise RuntimeError(f"{audit.rejected.num_rows} rows are rejected, and {bad} are bad.")
        return took

    return run


CONTENDERS: dict[str, dict[str, Callable[[Path], float]]] = {
    "duckdb": {
        "SQL by hand": by_hand(duckdb_block, f"regexp_matches(email, '{PATTERN}')"),
        "DataQuality.validate": validated(duckdb_block),
    },
    "postgres": {
        "SQL by hand": by_hand(postgres_block, f"email ~ '{PATTERN}'"),
        "DataQuality.validate": validated(postgres_block),
    },
    "pandas": {"Great Expectations": plain, "DataQuality.validate": validated_frame},
    "quarantine": {"audit, DuckDB": audited(duckdb_block), "audit, PostgreSQL": audited(postgres_block)},
}


def make(folder: Path, rows: int, bad: int, *, in_postgres: bool) -> None:
    """Make the table in DuckDB, and where it is asked for in PostgreSQL."""
    import duckdb

    with duckdb.connect(str(folder / "orders.duckdb")) as connection:
        connection.execute(f"CREATE OR REPLACE TABLE orders AS {ORDERS.format(rows=rows, bad=bad)}")
    (folder / "bad").write_text(str(bad), "ascii")
    if in_postgres:
        with postgres_block(folder) as server, duckdb_block(folder) as database:
            server.drop_table("orders")
            server.load(database.scan("orders"), "orders", mode="append")
            server.execute("ANALYZE orders")


def peak_mb() -> float:
    """The most memory this process ever held; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 10**6 for line in lines if line.startswith("VmHWM")), 0.0)


def run(kind: str, rounds: int, folder: Path) -> None:
    """Let the contenders take turns, and print what came out."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS[kind]}
    for _ in range(rounds):
        for name, results in found.items():
            command = [sys.executable, __file__, "--contender", json.dumps([kind, name, str(folder)])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"  {name} failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            results.append(json.loads(done.stdout.strip().splitlines()[-1]))
    middle = {name: [statistics.median(each) for each in zip(*results, strict=True)] for name, results in found.items()}
    first = next(iter(middle.values()))
    for name, (took, peak) in ((name, each) for name, each in middle.items() if each):
        print(f"  {name:24} {took:6.2f} s  {took / first[0]:5.2f} x  {peak:6.0f} MB", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--bad", type=int, default=2_500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        kind, name, folder = json.loads(args.contender)
        took = CONTENDERS[kind][name](Path(folder))
        print(json.dumps([took, peak_mb()]))
        return
    from integration_tests.standins.postgres import PostgresServer

    kinds = args.only.split(",")
    with tempfile.TemporaryDirectory() as name, PostgresServer() as server:
        folder = Path(name)
        (folder / "port").write_text(str(server.port), "ascii")
        for kind in kinds:
            bad = args.bad if kind == "quarantine" else 0
            make(folder, args.rows, bad, in_postgres=kind in ("postgres", "quarantine"))
            print(f"{kind}: {args.rows:,} rows, {bad:,} bad", flush=True)
            run(kind, args.rounds, folder)


if __name__ == "__main__":
    main()
