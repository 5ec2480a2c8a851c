"""Prefect's names in async flows and tasks, as in its own collections, and the names that begin with `a`."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task

from blocks.base.errors import InvalidInputError
from connectors.aws_lambda import LambdaFunction
from connectors.aws_secret import AwsSecret
from connectors.bigquery import BigQuery
from connectors.duckdb import DuckDB
from connectors.gcp_secret import GcpSecret
from connectors.gcs import GcsBucket
from connectors.local import MemoryFiles
from connectors.s3 import S3Bucket
from connectors.snowflake import Snowflake

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    # Prefect leaves the sockets of its client to the collector where it runs an async flow
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

FOLDERS = "get_directory put_directory download_folder_to_path upload_from_folder"
OBJECTS = "read_path write_path download_object_to_path download_object_to_file_object upload_from_path"
BUCKET = f"{FOLDERS} {OBJECTS} upload_from_file_object"
NAMES = [
    (S3Bucket, f"{BUCKET} list_objects stream_from move_object"),
    (GcsBucket, f"{BUCKET} create_bucket get_bucket list_blobs list_folders upload_from_dataframe"),
    (AwsSecret, "read_secret write_secret delete_secret"),
    (GcpSecret, "read_secret write_secret delete_secret"),
    (LambdaFunction, "invoke"),
    (BigQuery, "execute execute_many fetch_one fetch_many fetch_all"),
]
"""What is awaitable in prefect-aws and prefect-gcp, whose other name for it begins with an `a`."""


@pytest.mark.parametrize(("kind", "names"), NAMES)
def test_the_names_that_begin_with_a_are_there(kind: Any, names: str) -> None:
    """Each of those of prefect-aws and prefect-gcp; prefect-snowflake's end in `_async`."""
    for name in names.split():
        assert getattr(kind, name).__doc__
        assert getattr(kind, f"a{name}").__doc__
    for name in NAMES[-1][1].split():
        assert getattr(Snowflake, f"{name}_async").__doc__


def test_prefects_names_are_awaited_in_async_flows_and_tasks() -> None:
    """`await bucket.write_path(...)`, gathered and as tasks of the loop, too; our own names are plain."""
    bucket, warehouse = MemoryFiles(), DuckDB()

    @task
    async def in_a_task() -> bytes:
        return await bucket.read_path("a")

    @flow
    async def pipeline() -> list[Any]:
        call = bucket.write_path("a", b"1")
        assert not bucket.exists("a")  # nothing is done before the await
        assert await call == "a"
        more = await asyncio.gather(bucket.read_path("a"), bucket.aread_path("a"), bucket.read_path.aio("a"))
        one = await asyncio.create_task(bucket.read_path("a"))
        assert (await warehouse.fetch_all("SELECT 7"), await warehouse.afetch_one("SELECT 7")) == ([(7,)], (7,))
        assert warehouse.load([{"id": 1}], "t").rows == 1
        return [*more, one, await in_a_task()]

    assert asyncio.run(pipeline()) == [b"1"] * 5


def test_elsewhere_they_are_plain_calls() -> None:
    """In scripts and notebooks, whose loop runs, in sync flows that these call, and in sync tasks of async flows."""
    bucket = MemoryFiles()
    bucket.write_path("a", b"1")

    @task
    def sync_task() -> bytes:
        return bucket.read_path("a")

    @flow
    def sync_flow() -> bytes:
        return bucket.read_path("a")

    @flow
    async def async_flow() -> list[bytes]:
        return [sync_task(), sync_flow(), bucket.read_path("a", _sync=True)]  # type: ignore[call-arg]

    async def script() -> list[bytes]:
        return [bucket.read_path("a"), sync_flow(), *await async_flow()]

    assert asyncio.run(script()) == [b"1"] * 5


def test_a_call_that_is_not_awaited_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """In the log with its line, and as what the run's next operation raises; once."""
    bucket = MemoryFiles()
    bucket.write_path("b", b"2")

    @flow
    async def pipeline() -> bytes:
        bucket.write_path("a", b"1")
        gc.collect()
        with pytest.raises(InvalidInputError, match=r"MemoryFiles.write_path\(\) in .* was not awaited"):
            await bucket.read_path("b")
        return await bucket.read_path("b")

    assert asyncio.run(pipeline()) == b"2"
    assert not bucket.exists("a")
    said = next(record for record in caplog.records if "was not awaited" in record.getMessage())
    assert said.levelno == logging.ERROR
    line = Path(__file__).read_text().split('bucket.write_path("a", b"1")\n        gc')[0].count("\n") + 1
    assert re.search(rf"write_path\(\) in {re.escape(__file__)}, line {line},", said.getMessage())


def test_a_run_that_ends_with_it_has_it_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    """No operation follows that could raise it; that of another run does not."""
    bucket = MemoryFiles()

    @flow
    async def pipeline() -> None:
        bucket.write_path("a", b"1")

    asyncio.run(pipeline())
    gc.collect()
    assert "was not awaited" in caplog.text
    assert not bucket.exists("a")
