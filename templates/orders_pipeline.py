"""Move the orders of a day from a CSV file into a lake partition and a warehouse table.

Install:  etl-blocks                                (with other systems: with their extras, such as s3 and postgres)
Run:      python orders_pipeline.py                 (or: etl run orders_pipeline --ds 2026-04-30)
          python orders_pipeline.py serve           (every day, from the UI and the API of Prefect's server)

Promises: a run that is repeated, retried or killed half way leaves every order in the table once. A day whose file has
not changed is not loaded again; a corrected file updates its orders. A row that cannot be read is never dropped unseen:
it goes to `orders/_quarantine/` with its line and the reason, and above MAX_REJECTED nothing is loaded at all.

Change: what is marked with CHANGE. Out of the box the source is the data beside this file, the lake a local folder and
the warehouse a DuckDB file; pass the names of saved blocks to use others, such as
`--source etl-s3-bucket/raw --lake etl-s3-bucket/lake --warehouse etl-postgres/prod`.
"""

import sys
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow, task, unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel

from blocks import (
    CsvOptions,
    Day,
    LoadReport,
    ObjectStore,
    QualityError,
    Saved,
    Scan,
    Warehouse,
    WriteReport,
    collect,
    conclude,
    newest_day,
    resolve,
    retry_if_transient,
    scheduled_day,
)
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

SOURCE = LocalFiles(basepath=str(Path(__file__).parent / "data"))
LAKE = LocalFiles(basepath="warehouse")
WAREHOUSE = DuckDB(path="warehouse/warehouse.duckdb")

FILE = "source/orders_{ds}.csv"  # CHANGE: the key of a day's file
TABLE = "orders"  # CHANGE: the folder in the lake and the table in the warehouse
KEY = ["order_id"]  # CHANGE: what identifies a row
SCHEMA = pa.schema(  # CHANGE: the columns; one that is not nullable has to have a value
    [
        pa.field("order_id", pa.int64(), nullable=False),
        pa.field("customer", pa.string()),
        pa.field("city", pa.string()),
        pa.field("ordered_at", pa.timestamp("us", "UTC")),
        pa.field("status", pa.string()),
        pa.field("amount", pa.decimal128(12, 2), nullable=False),
    ]
)
CSV = CsvOptions(null_values=("", "NULL"))  # CHANGE: how the file is written down
MAX_REJECTED = 0.25  # CHANGE: the share of a day's rows that may be refused


class DayReport(BaseModel):
    """What a run did with one day; `files` is None where the day was loaded before."""

    ds: date
    files: WriteReport | None = None
    table: LoadReport

    def __str__(self) -> str:
        return f"{self.ds}" + (f"\n  {self.files}" if self.files else "") + f"\n  {self.table}"


@task(task_run_name="extract orders {ds}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def extract(ds: date, source: ObjectStore) -> tuple[Scan, str]:
    """Find the day's file, without reading it, and the load's identity: the day and the version of the file."""
    info = source.head_object(FILE.format(ds=ds))
    orders = source.scan(info.key, schema=SCHEMA, options=CSV, on_error="quarantine")
    return orders, f"{TABLE}/{ds}/{info.version or info.etag}"


@task(task_run_name="transform orders {ds}")
def transform(extracted: tuple[Scan, str], ds: date) -> tuple[Scan, str]:
    """Shape the rows as they are kept."""
    orders, load_id = extracted
    orders = orders.reject(lambda rows: pc.less(rows["amount"], 0), "amount is negative", column="amount")  # CHANGE
    return orders.map_batches(lambda rows: rows.append_column("date", pa.array([ds] * len(rows), pa.date32()))), load_id


@task(task_run_name="load orders {ds}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def load(ds: date, transformed: tuple[Scan, str], lake: ObjectStore, warehouse: Warehouse) -> DayReport:
    """Load both targets: the day's partition in the lake, and from it the rows in the table."""
    orders, load_id = transformed
    if done := warehouse.load_report(load_id):
        return DayReport(ds=ds, table=done.model_copy(update={"already_loaded": True}))
    files = lake.write_table(
        orders, TABLE, partition_by=["date"], mode="replace_partition", load_id=load_id, max_rejected=MAX_REJECTED
    )
    if not files.rows:
        raise QualityError(f"{orders.source} holds no orders. Nothing was loaded. Have it delivered again.")
    rows = lake.scan([file.key for file in files.files])
    return DayReport(ds=ds, files=files, table=warehouse.load(rows, TABLE, mode="upsert", key=KEY, load_id=load_id))


@flow
def orders_pipeline(
    ds: Day = None,
    source: Saved[ObjectStore] = None,
    lake: Saved[ObjectStore] = None,
    warehouse: Saved[Warehouse] = None,
) -> DayReport:
    """Load the orders of one day.

    Args:
        ds: The day, such as 2026-04-30. Defaults to the day of the schedule; without one to the newest with a file.
        source: The store that holds the CSV files, such as etl-s3-bucket/raw. Defaults to the data beside this file.
        lake: The store that gets the Parquet files, such as etl-s3-bucket/lake. Defaults to a local folder.
        warehouse: The warehouse that gets the table, such as etl-postgres/prod. Defaults to a DuckDB file.
    """
    source, lake = resolve(source or SOURCE, ObjectStore), resolve(lake or LAKE, ObjectStore)
    warehouse = resolve(warehouse or WAREHOUSE, Warehouse)
    ds = ds or scheduled_day() or newest_day(source, FILE)  # CHANGE: scheduled_day("Europe/Berlin"), the day before ...
    transformed = transform(extract(ds, source), ds)
    return conclude(load(ds, transformed, lake, warehouse))


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))  # type: ignore[arg-type]
def orders_backfill(
    start: date,
    end: date,
    source: Saved[ObjectStore] = None,
    lake: Saved[ObjectStore] = None,
    warehouse: Saved[Warehouse] = None,
) -> list[DayReport]:
    """Load the orders of each day from `start` to `end`, both included, several days at a time.

    Args:
        start: The first day.
        end: The last day.
        source: The store that holds the CSV files, such as etl-s3-bucket/raw. Defaults to the data beside this file.
        lake: The store that gets the Parquet files, such as etl-s3-bucket/lake. Defaults to a local folder.
        warehouse: The warehouse that gets the table, such as etl-postgres/prod. Defaults to a DuckDB file.
    """
    days = [start + timedelta(days=n) for n in range((end - start).days + 1)]
    extracted = extract.map(days, unmapped(resolve(source or SOURCE, ObjectStore)))
    transformed = transform.map(extracted, days)
    lake, warehouse = resolve(lake or LAKE, ObjectStore), resolve(warehouse or WAREHOUSE, Warehouse)
    loaded = load.map(days, transformed, unmapped(lake), unmapped(warehouse))
    return collect(days, extracted, transformed, loaded)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        orders_pipeline.serve("daily", cron="0 6 * * *")  # CHANGE: when it runs, in UTC
    else:
        print(orders_pipeline())
