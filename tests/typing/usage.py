"""The API as users write it. Never run: type checkers find that each expression has the type that is asserted here."""

from __future__ import annotations

import datetime as dt
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

from prefect import flow, task
from prefect.futures import PrefectFuture, PrefectFutureList

from blocks import (
    ConnectorBlock,
    ConnectorError,
    CsvOptions,
    JobFailedError,
    JobStatus,
    LoadPlan,
    LoadReport,
    ObjectInfo,
    ObjectStore,
    RetryPolicy,
    Scan,
    ThrottledError,
    Warehouse,
    WriteReport,
    operation,
    resolve,
    retry_if_transient,
)
from blocks.credentials import AwsCredentials, GcpCredentials
from connectors.dbt import DbtFailedError, DbtProject, DbtResult
from connectors.duckdb import DuckDB
from connectors.gcs import GcsBucket
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from connectors.s3 import S3Bucket

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from connectors.glue import GlueJob

Row = tuple[Any, ...]


def construct() -> None:
    """Blocks are built with the field names of Prefect's own collections."""
    credentials = AwsCredentials(region_name="eu-central-1", assume_role_arn="arn:aws:iam::1:role/loader")
    S3Bucket(bucket_name="raw", credentials=credentials, bucket_folder="orders", retry=RetryPolicy(attempts=3))
    Postgres(host="db.example.com", database="shop", username="loader", ssl_mode="verify-full")
    identity = GcpCredentials(service_account_file=Path("loader.json"))
    GcsBucket(bucket="raw", gcp_credentials=identity, bucket_folder="orders")
    LocalFiles(basepath="lake")
    DuckDB(path="warehouse.duckdb", memory_limit="2GB")


def saved() -> None:
    """A saved block has its class; `resolve` takes a block or a name, and gives what was asked for."""
    assert_type(S3Bucket.load("raw"), S3Bucket)
    assert_type(resolve("etl-s3-bucket/raw", ObjectStore), ObjectStore)
    assert_type(resolve(DuckDB(), Warehouse), Warehouse)


def saved_warehouse(source: Warehouse | str) -> None:
    """`load` on the class loads a saved block, on an instance it loads data."""
    assert_type(Postgres.load("prod"), Postgres)
    assert_type(Postgres.load("prod", validate=False), Postgres)
    assert_type(Postgres.load("prod").load([{"a": 1}], "t"), LoadReport)
    assert_type(resolve(source, Warehouse).load([{"a": 1}], "t"), LoadReport)


def objects(bucket: S3Bucket, other: LocalFiles) -> None:
    """Operations of object stores are called like the methods that they are."""
    assert_type(bucket.read_path("a.csv"), bytes)
    assert_type(bucket.read_path(Path("raw") / "a.csv"), bytes)
    assert_type(bucket.write_path("a.csv", b"", if_absent=True), str)
    assert_type(bucket.head_object("a.csv"), ObjectInfo)
    assert_type(bucket.head_object("a.csv", version="1").checksum, str | None)
    assert_type(bucket.read_path("a.csv", start=10, length=5), bytes)
    assert_type(bucket.exists("a.csv"), bool)
    assert_type(bucket.list_folders(), list[str])
    assert_type(bucket.list_versions("a.csv"), list[ObjectInfo])
    assert_type(bucket.get_directory("in", "out"), list[Path])
    assert_type(bucket.sweep(older_than=timedelta(hours=1)), int)
    assert_type(bucket.list_objects("orders"), list[dict[str, Any]])
    assert_type(bucket.stream_from(other, "a.csv"), str)
    assert_type(bucket.check(), str)


def scans(bucket: ObjectStore, schema: pa.Schema) -> None:
    """A scan is plain data: it is derived, read, or handed on."""
    orders = bucket.scan("orders/*.csv", schema=schema, options=CsvOptions(delimiter=";"), on_error="quarantine")
    assert_type(orders, Scan)
    assert_type(orders.map_batches(lambda batch: batch.slice(1)).select(["a"]), Scan)
    assert_type(orders.reject(lambda batch: batch["a"].is_null(), "a is missing"), Scan)
    frame: pd.DataFrame = orders.to_pandas()
    assert_type(bucket.write_table(frame, "lake", partition_by=["date"], mode="replace_partition"), WriteReport)


def warehouses(warehouse: Warehouse) -> None:
    """Statements, queries and loads."""
    assert_type(warehouse.fetch_all("select :a", {"a": 1}), list[Row])
    assert_type(warehouse.fetch_one("select 1"), Row | None)
    assert_type(warehouse.fetch_many("select 1", size=10), list[Row])
    assert_type(warehouse.scan("orders"), Scan)
    assert_type(warehouse.plan([{"a": 1}], "t", mode="upsert", key=["a"]), LoadPlan)
    report = warehouse.load([{"a": 1}], "t", mode="append", load_id="orders/2026-04-30", max_rejected=0.01)
    assert_type(report, LoadReport)
    assert_type(report.rows, int)
    assert_type(report.rejected, dict[str, int])
    assert_type(warehouse.load_report("orders/2026-04-30"), LoadReport | None)
    orders = warehouse.scan_since("orders", cursor="updated_at", lag=dt.timedelta(minutes=5), until="2026-05-01")
    warehouse.load(orders.select(["id"]), "t", mode="upsert", key=["id"], state="t/by-update")
    assert_type([state.number for state in warehouse.states()], list[int])
    warehouse.set_state("t/by-update", dt.datetime(2026, 5, 1, tzinfo=dt.UTC))


def jobs(job: GlueJob, project: DbtProject) -> None:
    """Jobs are operations too, and their errors hold how they ended."""
    assert_type(job.run(), JobStatus)
    try:
        assert_type(project.build(select=["orders"]), DbtResult)
        assert_type(project.test("orders", exclude="slow", vars={"day": 1}, raise_on_failure=False), DbtResult)
        assert_type(project.ls(selector="nightly"), tuple[str, ...])
    except DbtFailedError as error:
        assert_type(error.result, DbtResult)


@flow
def futures(bucket: S3Bucket, warehouse: DuckDB, keys: list[str]) -> LoadReport:
    """In a flow an operation can be submitted and mapped, and a future knows what it will hold."""
    assert_type(bucket.read_path.submit("a.csv"), PrefectFuture[bytes])
    assert_type(bucket.read_path.map(keys), PrefectFutureList[bytes])
    assert_type(bucket.read_path.map(keys).result(), list[bytes])
    future = warehouse.load.submit([{"a": 1}], "t", mode="append")
    assert_type(future, PrefectFuture[LoadReport])
    return future.result()


async def awaited(bucket: S3Bucket, warehouse: DuckDB, job: GlueJob) -> None:
    """Every operation can be awaited."""
    assert_type(await bucket.read_path.aio("a.csv"), bytes)
    assert_type(await warehouse.load.aio([{"a": 1}], "t"), LoadReport)
    assert_type(await job.run.aio(), JobStatus)
    async with warehouse:
        assert_type(await warehouse.fetch_all.aio("select 1"), list[Row])


def options(bucket: S3Bucket, warehouse: Warehouse) -> None:
    """Task options for one call; the result keeps its type."""
    assert_type(bucket.read_path.with_options(retries=0)("a.csv"), bytes)
    assert_type(warehouse.load.with_options(name="load orders", timeout_seconds=60)([{"a": 1}], "t"), LoadReport)
    assert_type(bucket.read_path.with_options(retries=0).submit("a.csv"), PrefectFuture[bytes])


def closed() -> None:
    """Every block is a context manager, and keeps its type there."""
    with DuckDB() as warehouse:
        assert_type(warehouse, DuckDB)
    assert_type(DuckDB().close(), None)


def caught(error: ConnectorError) -> None:
    """What an error carries has a type where one class of error carries one type."""
    if isinstance(error, ThrottledError):
        assert_type(error.retry_after_s, float | None)
    if isinstance(error, JobFailedError):
        assert_type(error.result, Any)


@task(retries=2, retry_condition_fn=retry_if_transient)
def step(day: str) -> int:
    """A task of a user's retries what passes."""
    return len(day)


class Shelf(ConnectorBlock):
    """A block of a user's."""

    def check(self) -> str:
        """A method."""
        return "It is there."

    @operation
    def take(self, key: str, *, copies: int = 1) -> list[bytes]:
        """An operation."""
        return [key.encode()] * copies


def own(shelf: Shelf) -> None:
    """The operations of a user's block are as well typed as ours."""
    assert_type(shelf.take("a", copies=2), list[bytes])
    assert_type(shelf.take.submit("a"), PrefectFuture[list[bytes]])
