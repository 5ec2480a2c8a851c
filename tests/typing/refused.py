"""Mistakes that a type checker finds before they run: every line marked as refused is an error, and no other line is.

Never run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks import CsvOptions, JobStatus, LoadReport, ObjectStore, RetryPolicy, Warehouse, operation, resolve
from blocks.credentials import AwsCredentials
from connectors.duckdb import DuckDB
from connectors.postgres import Postgres
from connectors.s3 import S3Bucket

if TYPE_CHECKING:
    from connectors.glue import GlueJob

ROWS = [{"a": 1}]


def fields() -> None:
    """A field that is missing, misspelt or of another type."""
    S3Bucket()  # refused
    S3Bucket(bucket="raw")  # refused
    DuckDB(path="warehouse.duckdb", memory="2GB")  # refused
    DuckDB(read_only="always")  # refused
    AwsCredentials(region="eu-central-1")  # refused
    RetryPolicy(tries=3)  # refused
    CsvOptions(delimeter=";")  # refused


def saved() -> None:
    """A saved block without its name, or taken for one of another class."""
    Postgres.load()  # refused
    S3Bucket.load()  # refused
    bucket: S3Bucket = Postgres.load("prod")  # refused
    resolve("etl-duckdb/prod")  # refused
    resolve(42, Warehouse)  # refused
    store: ObjectStore = resolve("etl-duckdb/prod", Warehouse)  # refused
    assert bucket is store


def objects(bucket: S3Bucket) -> None:
    """Calls of object stores."""
    bucket.read_path()  # refused
    bucket.read_path("a.csv", 10)  # refused
    bucket.read_path("a.csv", offset=10)  # refused
    bucket.write_path("a.csv", "text")  # refused
    bucket.write_path("a.csv", b"", if_absnt=True)  # refused
    bucket.write_path("a.csv", b"", metadata={"rows": 3})  # refused
    bucket.scan("a.csv", format="xml")  # refused
    bucket.scan("a.csv", on_error="skip")  # refused
    bucket.write_table(ROWS, "lake", mode="merge")  # refused
    bucket.stream_from("other", "a.csv")  # refused
    size: int = bucket.read_path("a.csv")  # refused
    assert size


def warehouses(warehouse: DuckDB) -> None:
    """Calls of warehouses."""
    warehouse.load(ROWS)  # refused
    warehouse.load(ROWS, "t", "append")  # refused
    warehouse.load(ROWS, "t", mode="merge")  # refused
    warehouse.load(ROWS, "t", on_new_columns="drop")  # refused
    warehouse.load(ROWS, "t", max_rejected="1 %")  # refused
    warehouse.load(ROWS, "t", loadid="orders")  # refused
    warehouse.load(ROWS, "t").row_count  # noqa: B018  # refused
    warehouse.plan(ROWS, "t", mode="overwrite")  # refused
    warehouse.fetch_all()  # refused
    warehouse.execute(b"select 1")  # refused


def tasks(bucket: S3Bucket, warehouse: DuckDB) -> None:
    """The same calls as tasks, and their options."""
    bucket.read_path.submit()  # refused
    bucket.write_path.submit("a.csv", "text")  # refused
    warehouse.load.submit(ROWS, mode="append")  # refused
    warehouse.load.submit(ROWS, "t", mode="merge")  # refused
    report: LoadReport = warehouse.load.submit(ROWS, "t")  # refused
    bucket.read_path.with_options(retires=0)  # refused
    bucket.read_path.with_options(retries=0)()  # refused
    bucket.read_path.later("a.csv")  # refused
    assert report


async def awaited(warehouse: DuckDB, job: GlueJob) -> None:
    """The same calls, awaited or not."""
    await warehouse.load(ROWS, "t")  # refused
    await warehouse.load.aio(ROWS)  # refused
    await warehouse.load.aio(ROWS, "t", mode="merge")  # refused
    status: JobStatus = job.run.aio()  # refused
    assert status


class Shelf(DuckDB):
    """A block of a user's."""

    @operation(prepare="_fix")  # refused
    def take(self, key: str) -> bytes:
        """An operation."""
        return key.encode()
