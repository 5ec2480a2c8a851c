"""A block that nobody has any more is gone, with its client, its connections and its threads, however it was used."""

from __future__ import annotations

import contextlib
import functools
import gc
import resource
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks import ConnectorError, Contract
from blocks.base.retry import RetryPolicy
from blocks.cli.saved import block_types
from blocks.credentials import (
    AwsCredentials,
    AzureBlobStorageCredentials,
    DbtCloudCredentials,
    GcpCredentials,
    SnowflakeCredentials,
)
from connectors.aws_lambda import LambdaFunction
from connectors.aws_parameter import AwsParameter
from connectors.aws_secret import AwsSecret
from connectors.batch import BatchJob
from connectors.bigquery import BigQuery
from connectors.dbt import DbtProject
from connectors.dbt_cloud import DbtCloudJob
from connectors.duckdb import DuckDB
from connectors.ecs import EcsTask
from connectors.gcp_secret import GcpSecret
from connectors.glue import GlueJob
from connectors.great_expectations import DataQuality
from connectors.http import HttpFiles
from connectors.local import LocalFiles, MemoryFiles
from connectors.mysql import MySQL
from connectors.postgres import Postgres
from connectors.snowflake import Snowflake
from connectors.sqlalchemy import SqlAlchemyConnector
from integration_tests.standins.bigquery import PROJECT
from integration_tests.standins.redshift import RedshiftOnPostgres, stand_in
from integration_tests.standins.snowflake import PASSWORD, USER, fields, new_schema_name
from integration_tests.stores import new_store
from tests.http_server import FileServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.stores.object_store import ObjectStore
    from blocks.stores.readable_store import ReadableStore
    from blocks.warehouses.warehouse import Warehouse
    from connectors.redshift import Redshift

pytestmark = [
    # Not closed, on purpose: that is what these tests are about.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
]
ROWS = pa.table({"id": [1, 2, 3]})
ONCE = RetryPolicy(attempts=1)
GROWTH_BYTES = 100 * 2**20
MANY = 300


def store(kind: str, request: pytest.FixtureRequest) -> Callable[[], ObjectStore]:
    """Blocks over one folder."""
    first = new_store(kind, request)
    return lambda: type(first)(**first.model_dump(exclude={"credentials", "gcp_credentials"}), **identity(first))


def identity(block: Any) -> dict[str, Any]:
    """The credentials of a block, as a block of its own."""
    for name in ("credentials", "gcp_credentials"):
        if name in type(block).model_fields:
            known = getattr(block, name)
            return {name: type(known)(**{field: getattr(known, field) for field in type(known).model_fields})}
    return {}


def aws(request: pytest.FixtureRequest) -> AwsCredentials:
    url = request.getfixturevalue("aws_server").url
    return AwsCredentials(
        aws_access_key_id="id", aws_secret_access_key="secret", region_name="eu-west-1", endpoint_url=url
    )


def http(request: pytest.FixtureRequest) -> Callable[[], HttpFiles]:
    server = FileServer({"/rows.csv": b"id\n1\n2\n3\n"})
    request.addfinalizer(server.__exit__)
    server.__enter__()
    return lambda: HttpFiles(url=server.url)


def redshift(request: pytest.FixtureRequest) -> Callable[[], Redshift]:
    server = request.getfixturevalue("s3_server")
    stand_in(server.client(), request.getfixturevalue("monkeypatch"))
    fields = request.getfixturevalue("pg_database").fields()
    staging = store("s3", request)
    return lambda: RedshiftOnPostgres(
        **fields, ssl_mode="disable", staging=staging(), iam_role="arn:aws:iam::123456789012:role/x", retry=ONCE
    )


def snowflake_login(request: pytest.FixtureRequest) -> SnowflakeCredentials:
    server = request.getfixturevalue("snowflake_server")
    return SnowflakeCredentials(account="standin", user=USER, password=PASSWORD, **server.connection())


def snowflake(request: pytest.FixtureRequest) -> Callable[[], Snowflake]:
    name = new_schema_name()
    with Snowflake(credentials=snowflake_login(request), **fields("public")) as home:
        home.execute(f"CREATE SCHEMA {name}")
    return lambda: Snowflake(credentials=snowflake_login(request), **fields(name))


def bigquery(request: pytest.FixtureRequest) -> Callable[[], BigQuery]:
    server = request.getfixturevalue("bigquery_server")
    dataset = server.new_dataset()
    return lambda: BigQuery(
        gcp_credentials=GcpCredentials(anonymous=True, endpoint_url=server.url), dataset=dataset, project=PROJECT
    )


def azure_login(request: pytest.FixtureRequest) -> AzureBlobStorageCredentials:
    server = request.getfixturevalue("azurite")
    return AzureBlobStorageCredentials(account_url=server.url, account_key=server.key)


def gcp(request: pytest.FixtureRequest) -> GcpCredentials:
    server = request.getfixturevalue("secret_manager")
    return GcpCredentials(access_token="owner", project=server.project, endpoint_url=server.url)


def dbt_cloud() -> DbtCloudCredentials:
    return DbtCloudCredentials(api_key="dbtc_x", account_id=1, api_endpoint="http://127.0.0.1:9", retry=ONCE)


MAKERS: dict[str, Callable[[pytest.FixtureRequest], Callable[[], Any]]] = {
    "etl-aws-credentials": lambda request: lambda: aws(request),
    "etl-aws-parameter": lambda request: lambda: AwsParameter(aws_credentials=aws(request), parameter_name="x"),
    "etl-aws-secret": lambda request: lambda: AwsSecret(aws_credentials=aws(request), secret_name="x"),
    "etl-azure-blob-container": functools.partial(store, "azure"),
    "etl-azure-blob-storage-credentials": lambda request: lambda: azure_login(request),
    "etl-batch-job": lambda request: (
        lambda: BatchJob(aws_credentials=aws(request), job_name="x", job_queue="x", job_definition="x", retry=ONCE)
    ),
    "etl-big-query": bigquery,
    "etl-data-quality": lambda _: (
        lambda: DataQuality(
            suite_name="rows",
            expectations=[{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}}],
        )
    ),
    "etl-dbt-cloud-credentials": lambda _: dbt_cloud,
    "etl-dbt-cloud-job": lambda _: lambda: DbtCloudJob(job_id=1, dbt_cloud_credentials=dbt_cloud(), retry=ONCE),
    "etl-dbt-project": lambda request: (
        lambda: DbtProject(project_dir=request.getfixturevalue("tmp_path"), target=DuckDB(), retry=ONCE)
    ),
    "etl-duckdb": lambda request: lambda: DuckDB(path=str(request.getfixturevalue("tmp_path") / "db")),
    "etl-ecs-task": lambda request: lambda: EcsTask(aws_credentials=aws(request), task_definition="x", retry=ONCE),
    "etl-gcp-credentials": lambda request: lambda: gcp(request),
    "etl-gcp-secret": lambda request: lambda: GcpSecret(gcp_credentials=gcp(request), secret_name="x"),
    "etl-gcs-bucket": functools.partial(store, "gcs"),
    "etl-glue-job": lambda request: lambda: GlueJob(aws_credentials=aws(request), job_name="x", retry=ONCE),
    "etl-http-files": http,
    "etl-lambda-function": lambda request: lambda: LambdaFunction(aws_credentials=aws(request), function_name="echo"),
    "etl-local-files": lambda request: lambda: LocalFiles(basepath=str(request.getfixturevalue("tmp_path"))),
    "etl-memory-files": lambda _: MemoryFiles,
    "etl-mysql": lambda request: lambda: MySQL(**request.getfixturevalue("maria_database").fields()),
    "etl-postgres": lambda request: (
        lambda: Postgres(**request.getfixturevalue("pg_database").fields(), ssl_mode="disable")
    ),
    "etl-redshift": redshift,
    "etl-s3-bucket": functools.partial(store, "s3"),
    "etl-sftp": functools.partial(store, "sftp"),
    "etl-snowflake": snowflake,
    "etl-snowflake-credentials": lambda request: lambda: snowflake_login(request),
    "etl-sqlalchemy-connector": lambda request: (
        lambda: SqlAlchemyConnector(connection_info=f"sqlite:///{request.getfixturevalue('tmp_path')}/db")
    ),
}
"""Of each type of block, what makes a fresh one with nothing in it that another one has."""


def use_store(block: ObjectStore) -> None:
    block.write_path("key", b"1")
    assert block.read_path("key") == b"1"
    block.write_table(ROWS, "rows")
    assert block.read_table("rows").num_rows == 3
    with contextlib.suppress(ConnectorError):
        block.read_path.with_options(retries=0)("missing")  # an error has the frames in which it arose


def use_files(block: ReadableStore) -> None:
    assert block.read_path("rows.csv").startswith(b"id")
    assert block.read_table("rows.csv").num_rows == 3
    with contextlib.suppress(ConnectorError):
        block.read_path.with_options(retries=0)("missing")


def use_warehouse(block: Warehouse) -> None:
    block.load(ROWS, "rows", mode="replace")
    assert block.scan("rows").to_arrow().num_rows == 3
    assert block.fetch_one("select count(*) from rows") is not None
    with contextlib.suppress(ConnectorError):
        block.fetch_all.with_options(retries=0)("select nothing from nowhere")


def use(block: Any) -> None:
    """What each type is there for; where its service knows nothing of it, up to the error that says so."""
    if hasattr(block, "write_path"):
        use_store(block)
    elif hasattr(block, "read_path"):
        use_files(block)
    elif hasattr(block, "fetch_all"):
        use_warehouse(block)
    elif isinstance(block, DataQuality):
        assert block.validate(ROWS).passed
    elif isinstance(block, LambdaFunction):
        block.invoke(1)
    else:
        with contextlib.suppress(ConnectorError):
            block.check()


IN_EVERY_RUN = {"etl-duckdb", "etl-lambda-function", "etl-local-files", "etl-postgres", "etl-s3-bucket"}


@pytest.fixture(autouse=True)
def only_what_is_new() -> Iterator[None]:
    """The collector looks at what a test makes, and not at all that the process holds (a second each time)."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def settled() -> tuple[int, int]:
    """How many descriptors and threads this process has, once what ends has ended."""
    counts = []
    for _ in range(20):
        gc.collect()
        counts.append((sum(1 for _ in Path("/dev/fd").iterdir()), threading.active_count()))
        if counts[-1] == min(counts) and len(counts) > 3:
            break
        time.sleep(0.05)
    return min(each[0] for each in counts), min(each[1] for each in counts)


def resident_bytes() -> int:
    """How much memory this process has."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def test_every_type_of_block_is_here() -> None:
    """A new one is given a line, or this fails."""
    ours = {slug for slug, kind in block_types().items() if kind.__module__.startswith(("blocks.", "connectors."))}
    assert set(MAKERS) == ours


@pytest.mark.parametrize(
    "slug", [slug if slug in IN_EVERY_RUN else pytest.param(slug, marks=pytest.mark.thorough) for slug in MAKERS]
)
def test_a_block_is_freed(slug: str, request: pytest.FixtureRequest) -> None:
    """It ends with its last reference, closed or not, and so does what it opened."""
    make = MAKERS[slug](request)
    use(make())  # what a process keeps for all blocks is made once
    before = settled()
    left = []
    for _ in range(3):
        block = make()
        use(block)
        left.append(weakref.ref(block))
        del block
    after = settled()
    until = time.monotonic() + 10  # a thread that ends lets go of it a moment later
    while any(each() is not None for each in left) and time.monotonic() < until:
        after = settled()
    assert [each() for each in left] == [None] * 3
    grown = [now - then for now, then in zip(after, before, strict=True)]
    assert max(grown) < 3, "what a block leaks, three of them leak three times; Prefect may start a thread of its own"


def test_a_contract_is_freed() -> None:
    """It is no block, and holds keys while it is enforced."""
    contract = Contract(name="rows", schema=ROWS.schema)
    assert contract.enforce(ROWS).to_arrow().num_rows == 3
    left = weakref.ref(contract)
    del contract
    gc.collect()
    assert left() is None


def test_a_refused_identity_holds_no_client(request: pytest.FixtureRequest) -> None:
    """The reason that obstore forgets is kept, and not the frames in which it arose."""
    bucket: Any = new_store("s3", request).model_copy(
        update={"credentials": AwsCredentials(region_name="us-east-1"), "retry": ONCE}
    )
    with pytest.raises(ConnectorError):
        bucket.read_path("key")
    left = weakref.ref(bucket._client)
    del bucket
    gc.collect()
    assert left() is None


@pytest.mark.thorough
@pytest.mark.parametrize("slug", MAKERS)
def test_many_fresh_blocks_cost_no_memory(slug: str, request: pytest.FixtureRequest) -> None:
    """300 of them, each used: at most 100 MB more, and as many descriptors and threads as before."""
    make = MAKERS[slug](request)
    for _ in range(5):
        use(make())
    before, memory = settled(), resident_bytes()
    for _ in range(MANY):
        use(make())
    after, grown = settled(), resident_bytes() - memory
    print(f"\n{slug}: {grown / 1e6:.0f} MB, descriptors {before[0]} to {after[0]}, threads {before[1]} to {after[1]}")  # noqa: T201 (the figures to report)
    assert grown <= GROWTH_BYTES
    assert (after[0] <= before[0], after[1] <= before[1]) == (True, True)
