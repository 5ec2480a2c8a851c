"""Put the orders of a day into the table that people read only after they were checked: write, audit, publish.

Install:  etl-blocks with the extra great-expectations   (with other systems: with theirs, such as postgres)
Run:      python write_audit_publish.py                  (or: etl run write_audit_publish --ds 2026-04-30)
          python write_audit_publish.py serve            (every day, from the UI and the API of Prefect's server)

Promises: nobody sees a row that was not checked. The rows are written into a table of their own, audited there, and
published by one transaction, or not at all: when a check of severity `fail` does not hold the orders stay as they were,
and the table of the failed audit stays for a look. Rows for which a check of severity `quarantine` does not hold go to
the table `_etl_quarantine` with the reason, in the transaction that publishes the others. A run that is repeated,
retried or killed at any moment leaves every order in the table once.

Change: what is marked with CHANGE. Out of the box the source is the data beside this file and the warehouse a DuckDB
file; pass the names of saved blocks to use others, such as `--source etl-s3-bucket/raw --warehouse etl-postgres/prod`.
"""

import hashlib
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
from prefect import flow, task
from pydantic import BaseModel

from blocks import (
    Audit,
    CsvOptions,
    Day,
    LoadReport,
    ObjectStore,
    QualityReport,
    Saved,
    Warehouse,
    conclude,
    newest_day,
    resolve,
    retry_if_transient,
    scheduled_day,
)
from connectors.duckdb import DuckDB
from connectors.great_expectations import DataQuality, Expectation
from connectors.local import LocalFiles

SOURCE = LocalFiles(basepath=str(Path(__file__).parent / "data"))
WAREHOUSE = DuckDB(path="warehouse/warehouse.duckdb")

FILE = "source/orders_{ds}.csv"  # CHANGE: the key of a day's file
TABLE = "audited_orders"  # CHANGE: the table that people read
KEY = ["order_id"]  # CHANGE: what identifies a row
SCHEMA = pa.schema(  # CHANGE: the columns
    [
        ("order_id", pa.int64()),
        ("customer", pa.string()),
        ("city", pa.string()),
        ("ordered_at", pa.timestamp("us", "UTC")),
        ("status", pa.string()),
        ("amount", pa.decimal128(12, 2)),
    ]
)
CSV = CsvOptions(null_values=("", "NULL"))  # CHANGE: how the file is written down
MAX_REJECTED = 0.25  # CHANGE: the share of a day's rows that may be refused by the reader, and again by the audit


def expect(kind: str, severity: str = "fail", **kwargs: object) -> Expectation:
    """Return an expectation of Great Expectations with what follows where it does not hold."""
    return Expectation.model_validate({"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity})


CHECKS = DataQuality(
    suite_name="orders",
    key=KEY,
    max_rejected=MAX_REJECTED,
    expectations=[  # CHANGE: what has to hold: fail, quarantine (the rows), or warn
        expect("table_row_count_to_be_between", min_value=1),
        expect("column_values_to_be_unique", column="order_id"),
        expect("column_values_to_not_be_null", "quarantine", column="amount"),
        expect("column_values_to_be_between", "quarantine", column="amount", min_value=0),
        expect("column_values_to_be_in_set", "quarantine", column="status", value_set=["new", "paid", "shipped"]),
        expect("column_values_to_not_be_null", "warn", column="city"),
    ],
)


class Published(BaseModel):
    """What a run did with one day; `audit` is None where the day was published before."""

    ds: date
    audit: QualityReport | None = None
    table: LoadReport

    def __str__(self) -> str:
        return f"{self.ds}" + (f"\n  {self.audit}" if self.audit else "") + f"\n  {self.table}"


@task(task_run_name="find orders {ds}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def identify(ds: date, source: ObjectStore) -> tuple[str, str]:
    """Return the load's identity (the day and the version of its file) and the table for its rows until then."""
    info = source.head_object(FILE.format(ds=ds))
    load_id = f"{TABLE}/{ds}/{info.version or info.etag}"
    return load_id, f"{TABLE}__audit_{hashlib.sha256(load_id.encode()).hexdigest()[:12]}"


@task(task_run_name="stage orders {ds}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def write(ds: date, source: ObjectStore, warehouse: Warehouse, staged: str) -> LoadReport:
    """Load the day's rows into a table that nobody reads."""
    orders = source.scan(FILE.format(ds=ds), schema=SCHEMA, options=CSV, on_error="quarantine")
    return warehouse.load(orders, staged, mode="replace", max_rejected=MAX_REJECTED)


@task(task_run_name="audit {staged}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def audit(warehouse: Warehouse, staged: str) -> Audit:
    """Check the rows; where a check of severity `fail` does not hold, the run ends here."""
    return CHECKS.audit(warehouse, table=staged)


@task(task_run_name="publish {load_id}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def publish(warehouse: Warehouse, staged: str, audited: Audit, load_id: str) -> LoadReport:
    """Publish the rows in one transaction."""
    return warehouse.publish(
        staged, TABLE, mode="upsert", key=KEY, load_id=load_id, rejected=audited.rejected, max_rejected=MAX_REJECTED
    )


@flow
def write_audit_publish(
    ds: Day = None,
    source: Saved[ObjectStore] = None,
    warehouse: Saved[Warehouse] = None,
) -> Published:
    """Publish the orders of one day after they were checked.

    Args:
        ds: The day, such as 2026-04-30. Defaults to the day of the schedule; without one to the newest with a file.
        source: The store that holds the CSV files, such as etl-s3-bucket/raw. Defaults to the data beside this file.
        warehouse: The warehouse, such as etl-postgres/prod. Defaults to a DuckDB file.
    """
    source, warehouse = resolve(source or SOURCE, ObjectStore), resolve(warehouse or WAREHOUSE, Warehouse)
    ds = ds or scheduled_day() or newest_day(source, FILE)  # CHANGE: scheduled_day("Europe/Berlin"), the day before ...
    load_id, staged = identify(ds, source)
    report = None
    if done := warehouse.load_report(load_id):
        published = done.model_copy(update={"already_loaded": True})
    else:
        write(ds, source, warehouse, staged)
        audited = audit(warehouse, staged)
        report, published = audited.report, publish(warehouse, staged, audited, load_id)
    warehouse.drop_table(staged)
    return conclude(Published(ds=ds, audit=report, table=published))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        write_audit_publish.serve("daily", cron="0 6 * * *")  # CHANGE: when it runs, in UTC
    else:
        print(write_audit_publish())
