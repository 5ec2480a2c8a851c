"""Ten million rows against a suite of Great Expectations: in PostgreSQL by its SQL, and as a Scan of Parquet.

`python -m integration_tests.campaigns.quality_scale [ROWS]` prints a line of JSON for each, with the seconds and the
peak of memory of the process that validates, which does nothing else. Great Expectations imports every driver that it
finds: with none installed but its own extra the peak is 75 MB lower.
"""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from connectors.great_expectations import DataQuality
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from integration_tests.standins.postgres import PostgresServer

if TYPE_CHECKING:
    from blocks.quality.report import QualityReport

ROOT = Path(__file__).parents[2]
ROWS = 10_000_000
BAD = 7
"""Rows whose amount is negative."""

ORDERS = """
    COPY (
        SELECT i AS id, i % 100000 AS customer, CAST(CASE WHEN i < {bad} THEN -1 ELSE i % 1000 END AS DECIMAL(12, 2))
            AS amount, ['new', 'paid', 'shipped'][1 + i % 3] AS status,
            TIMESTAMP '2026-01-01' + to_seconds(i % 1000000) AS ordered_at, 'user' || i || '@example.com' AS email
        FROM range({rows}) AS t (i)
    ) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 200000)
"""

QUALITY = DataQuality(
    suite_name="orders",
    key=["id"],
    memory_limit="72MB",  # what these checks need: of ten million keys of two columns, no two alike
    expectations=[
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}},
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "id"}},
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "amount", "min_value": 0, "max_value": 1000},
            "severity": "quarantine",
        },
        {
            "type": "expect_column_values_to_be_in_set",
            "kwargs": {"column": "status", "value_set": ["new", "paid", "shipped"]},
        },
        {
            "type": "expect_column_values_to_match_regex",
            "kwargs": {"column": "email", "regex": r"^user[0-9]+@example\.com$"},
        },
        {
            "type": "expect_column_mean_to_be_between",
            "kwargs": {"column": "amount", "min_value": 499, "max_value": 500},
        },
        {"type": "expect_column_stdev_to_be_between", "kwargs": {"column": "amount", "min_value": 1}},
        {"type": "expect_column_median_to_be_between", "kwargs": {"column": "amount", "min_value": 1}},
        {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": ["id", "customer"]}},
        {
            "type": "expect_column_unique_value_count_to_be_between",
            "kwargs": {"column": "customer", "max_value": 100000},
        },
    ],
)


def measure(data: Any, **where: Any) -> dict[str, Any]:
    """What the process that validated says of itself: `seconds` and `peak_mb`, and its report."""
    done = subprocess.run(
        [sys.executable, "-m", "integration_tests.campaigns.quality_scale", "validate"],
        input=pickle.dumps((data, where)),
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_orders(folder: Path, rows: int) -> None:
    """Nothing. A Parquet file of so many orders is in the folder."""
    with duckdb.connect() as connection:
        connection.execute(ORDERS.format(rows=rows, bad=BAD, path=folder / "orders.parquet"))


def validate() -> None:
    """Nothing. Validates what comes in, and prints what it took."""
    data, where = pickle.load(sys.stdin.buffer)  # noqa: S301 (of the parent)
    began = time.perf_counter()
    audit = QUALITY.audit(data, **where)
    report: QualityReport = audit.report
    print(
        json.dumps(
            {
                "source": report.source,
                "rows": report.rows,
                "seconds": round(time.perf_counter() - began, 1),
                "peak_mb": peak_mb(),
                "passed": report.passed,
                "rejected": audit.rejected.num_rows,
                "failed_rows": [check.failed_rows for check in report.checks],
            }
        )
    )


def peak_mb() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(rows: int) -> None:
    """Nothing. Prints what each took."""
    with tempfile.TemporaryDirectory() as name, PostgresServer() as server:
        folder = Path(name)
        write_orders(folder, rows)
        files = LocalFiles(basepath=str(folder))
        print(json.dumps(measure(files, prefix="orders.parquet")), flush=True)
        with Postgres(**server.new_database().fields()) as warehouse:
            warehouse.load(files.scan("orders.parquet"), "orders")
            print(json.dumps(measure(warehouse, table="orders")), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["validate"]:
        validate()
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else ROWS)
