"""Load each file that arrives in a folder of a bucket, once, and bring a summary up to date after each load, by events.

Install:  etl-blocks                          (with other systems: with their extras, such as s3 and postgres)
Run:      python watched_bucket.py            (announces what is new and loads it here; or: etl run watched_bucket)
          python watched_bucket.py serve      (the watcher every minute; its events start the loads, theirs the summary)

Promises: every version of every file is announced, also one that arrives while the watcher runs, or whose watcher was
killed. An event may come twice; a version is loaded once. A version that was replaced before it was loaded is passed
over, as the newer one is announced itself. A row that cannot be read goes to `_etl_quarantine` with its line and the
reason; above MAX_REJECTED nothing of that file is loaded.

Change: what is marked with CHANGE. Out of the box the bucket is the data beside this file and the warehouse a DuckDB
file. To use others put saved blocks in the place of SOURCE and WAREHOUSE, which the triggers name, too:
`SOURCE = S3Bucket.load("raw")`; or pass their names, such as `--source etl-s3-bucket/raw`.
"""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import flow, serve, task
from prefect.events import DeploymentEventTrigger
from pydantic import BaseModel

from blocks import (
    CsvOptions,
    LoadReport,
    ObjectInfo,
    ObjectStore,
    Saved,
    Warehouse,
    conclude,
    resolve,
    retry_if_transient,
)
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

SOURCE = LocalFiles(basepath=str(Path(__file__).parent / "data"))  # CHANGE: the bucket
FOLDER = "source"  # CHANGE: the folder that is watched
STATE = LocalFiles(basepath="warehouse")  # CHANGE: keeps which versions were announced; may be the bucket itself
WAREHOUSE = DuckDB(path="warehouse/warehouse.duckdb")  # CHANGE: the warehouse

TABLE = "orders"  # CHANGE: the table
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
CSV = CsvOptions(null_values=("", "NULL"))  # CHANGE: how the files are written down
MAX_REJECTED = 0.25  # CHANGE: the share of a file's rows that may be refused
SUMMARY = "orders_by_city"  # CHANGE: what follows a load
SUMMARIZE = "select city, count(*) as orders, sum(amount) as amount from orders group by city"


class Announced(BaseModel):
    """The versions of files that a run has announced, the oldest first."""

    files: list[ObjectInfo]

    def __str__(self) -> str:
        return "\n".join([f"{len(self.files)} new", *(f"  {file.key} ({file.size:,} bytes)" for file in self.files)])


class FileReport(BaseModel):
    """What became of one version of a file; `table` is None where a newer one has taken its place."""

    key: str
    table: LoadReport | None

    def __str__(self) -> str:
        return f"{self.key}\n  {self.table or 'replaced by a newer version, which is announced itself'}"


@flow
def watched_bucket(source: Saved[ObjectStore] = None, state: Saved[ObjectStore] = None) -> Announced:
    """Announce what is new in the folder, with the event `etl.object.created`.

    Args:
        source: The bucket, such as etl-s3-bucket/raw. Defaults to the data beside this file.
        state: Keeps what was announced, such as etl-s3-bucket/raw. Defaults to a local folder.
    """
    source, state = resolve(source or SOURCE, ObjectStore), resolve(state or STATE, ObjectStore)
    return conclude(Announced(files=source.announce_new_objects(FOLDER, state=state)))


@task(task_run_name="load {key}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def load(key: str, version: str, source: ObjectStore, warehouse: Warehouse) -> FileReport:
    """Load the file, if it is still that version; the identity of the load is the file's address and the version."""
    if source.head_object(key).etag != version:
        return FileReport(key=key, table=None)
    rows = source.scan(key, schema=SCHEMA, options=CSV, on_error="quarantine", glob=False)
    load_id = f"{source.uri(key)}@{version}"
    report = warehouse.load(rows, TABLE, mode="upsert", key=KEY, load_id=load_id, max_rejected=MAX_REJECTED)
    return FileReport(key=key, table=report)


@flow
def load_file(
    key: str, version: str, source: Saved[ObjectStore] = None, warehouse: Saved[Warehouse] = None
) -> FileReport:
    """Load one version of a file.

    Args:
        key: The file, as the event names it.
        version: Its version, as the event names it.
        source: The bucket, such as etl-s3-bucket/raw. Defaults to the data beside this file.
        warehouse: The warehouse, such as etl-postgres/prod. Defaults to a DuckDB file.
    """
    source, warehouse = resolve(source or SOURCE, ObjectStore), resolve(warehouse or WAREHOUSE, Warehouse)
    return conclude(load(key, version, source, warehouse))


@flow
def summarize(load_id: str, warehouse: Saved[Warehouse] = None) -> LoadReport:
    """Bring the summary up to date after a load.

    Args:
        load_id: The load that it follows, as the event names it.
        warehouse: The warehouse, such as etl-postgres/prod. Defaults to a DuckDB file.
    """
    warehouse = resolve(warehouse or WAREHOUSE, Warehouse)
    rows = warehouse.scan_query(SUMMARIZE)
    return conclude(warehouse.load(rows, SUMMARY, mode="replace", load_id=f"{SUMMARY}/{load_id}"))


ARRIVED = DeploymentEventTrigger(
    name="a file has arrived",
    expect={"etl.object.created"},
    match={"prefect.resource.id": f"{SOURCE.asset_key(FOLDER)}/*"},
    parameters={"key": "{{ event.payload.key }}", "version": "{{ event.payload.version }}"},
)
LOADED = DeploymentEventTrigger(
    name="orders were loaded",
    expect={"etl.table.loaded"},
    match={"prefect.resource.id": WAREHOUSE.asset_key(TABLE)},
    parameters={"load_id": "{{ event.payload.load_id }}"},
)

if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        deployments: list[Any] = [
            watched_bucket.to_deployment("every-minute", interval=60),  # CHANGE: how often
            load_file.to_deployment("on-arrival", triggers=[ARRIVED]),
            summarize.to_deployment("after-a-load", triggers=[LOADED]),
        ]
        serve(*deployments)
    else:  # what the triggers do, in this process
        for file in watched_bucket().files:
            loaded = load_file(file.key, file.etag or "")
            print(loaded)
            if loaded.table:
                print(summarize(loaded.table.load_id))
