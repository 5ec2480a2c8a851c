"""The orders pipeline where a service refuses: a clear line and exit code 1 each, and nothing half-written.

`pytest -s integration_tests/test_pipeline_services.py` prints what a user sees in each case.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from connectors.postgres import Postgres
from connectors.s3 import S3Bucket
from integration_tests.standins.process import HOST
from tests.etl_project import DAY, GOOD, Outcome, Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address
    from integration_tests.standins.s3 import S3Server

SECRET = "hunter2-of-a-service"
OBJECT = f"source/orders_{DAY}.csv"
RETRY = "retry = { attempts = 2, first_delay_s = 0.01 }"

# source, lake and warehouse by the names below; words of the message
CASES = {
    "wrong password": ("raw lake password", ["Could not connect to postgres://", "Check username and password"]),
    "unknown role": ("raw lake role", ["Could not connect to postgres://", "nobody-there", "Check username"]),
    "unknown database": ("raw lake database", ['"no-such-db" does not exist', "Check the database's name"]),
    "closed port of PostgreSQL": ("raw lake closed", ["postgres://", "Connection refused", "Are host and port"]),
    "unknown host of PostgreSQL": ("raw lake host", ["postgres://no-such-host.invalid", "Are host and port"]),
    "unknown bucket to read": ("nothing lake good", [f"s3://no-such-bucket/{OBJECT}", "NoSuchBucket", "Check bucket_"]),
    "unknown bucket to write": ("raw nothing good", ["Could not write s3://no-such-bucket/", "NoSuchBucket"]),
    "missing object": ("lake lake good", ["Could not read s3://", OBJECT, "NoSuchKey", "Check the key"]),
    "no permission to write": ("raw reader good", ["Could not write s3://", "AccessDenied", "needs s3:PutObject"]),
    "wrong secret": ("secret lake good", [OBJECT, "SignatureDoesNotMatch", "Check aws_secret_access_key"]),
    "unknown access key": ("key lake good", [OBJECT, "InvalidAccessKeyId", "Check aws_access_key_id"]),
    "closed port of S3": ("closed lake good", [OBJECT, "Could not connect", "Is endpoint_url right"]),
    "closed port of the lake": ("raw closed good", ["Could not write s3://", "Connection refused", "endpoint_url"]),
}


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, and which nobody else can take."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="module")
def database(postgres_server) -> Iterator[Address]:
    """A database with a role that may do nothing in it."""
    address = postgres_server.new_database()
    with address.connect() as connection:
        connection.execute(f"create role poor login password '{SECRET}'")
    yield address
    postgres_server.drop_database(address)
    with postgres_server.address.connect() as connection:
        connection.execute("drop role poor")


@pytest.fixture(scope="module")
def project(tmp_path_factory, prefect_server, s3_server, database, closed_port) -> Project:
    """A copy of the pipeline that waits for nothing, and saved blocks for it, right and wrong ones."""
    assert prefect_server
    project = Project(tmp_path_factory.mktemp("services") / "project")
    for task in ("extract", "load"):
        wait = " retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)\ndef "
        project.change(wait + task, wait.replace("10", "0") + task)
    raw, lake, late = (s3_server.make_bucket() for _ in range(3))
    s3_server.client().put_object(Bucket=raw, Key=OBJECT, Body=project.source.read_bytes())
    file = project.folder / "services.toml"
    file.write_text(buckets(s3_server, raw, lake, late, closed_port) + warehouses(database, closed_port))
    outcome = project.etl("save", file.name)
    file.unlink()
    assert outcome.code == 0, outcome.output
    assert SECRET not in outcome.output
    return project


def buckets(server: S3Server, raw: str, lake: str, late: str, closed_port: int) -> str:
    """The description of the buckets, each with the identity of the same name."""
    full = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    reader = {"aws_access_key_id": server.ro_access_key, "aws_secret_access_key": server.ro_secret_key}
    here = {"endpoint_url": server.endpoint}
    blocks = {
        "raw": (raw, full | here),
        "lake": (lake, full | here),
        "late": (late, full | here),
        "nothing": ("no-such-bucket", full | here),
        "reader": (lake, reader | here),
        "secret": (raw, full | here | {"aws_secret_access_key": SECRET}),
        "key": (raw, {"aws_access_key_id": "nobody", "aws_secret_access_key": SECRET} | here),
        "closed": (raw, full | {"endpoint_url": f"http://{HOST}:{closed_port}"}),
    }
    return "".join(
        f'[etl-s3-bucket.services-{name}]\nbucket_name = "{bucket}"\n{RETRY}\n'
        f'credentials = {{ block = "etl-aws-credentials/services-{name}" }}\n'
        f"[etl-aws-credentials.services-{name}]\n{fields(identity)}"
        for name, (bucket, identity) in blocks.items()
    )


def warehouses(database: Address, closed_port: int) -> str:
    """The description of the warehouses."""
    good = database.fields()
    blocks = {
        "good": good,
        "password": good | {"password": SECRET},
        "role": good | {"username": "nobody-there"},
        "database": good | {"database": "no-such-db"},
        "schema": good | {"schema": "no_such_schema"},
        "poor": good | {"username": "poor", "password": SECRET},
        "closed": good | {"port": closed_port},
        "host": good | {"host": "no-such-host.invalid"},
    }
    return "".join(f"[etl-postgres.services-{name}]\n{RETRY}\n{fields(block)}" for name, block in blocks.items())


def fields(values: dict[str, str | int]) -> str:
    """The fields as TOML."""
    return "".join(
        f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value}\n" for key, value in values.items()
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", CASES)
def test_a_service_that_refuses_is_named_and_nothing_is_written(case, project, s3_server, database):
    """One line says what was tried where, what the service said and what to do; no table, object or file is new."""
    blocks, words = CASES[case]
    before = state(s3_server, database)
    is_refused(case, run(project, blocks), words, s3_server)
    assert state(s3_server, database) == before
    assert not project.written()


def test_a_warehouse_that_refuses_late_leaves_a_whole_partition_and_a_later_run_finishes(
    project, s3_server, pg_database
):
    """The table comes after the lake: what cannot be made in it fails the run, and the same run again completes it."""
    is_refused(
        "role that may not create tables",
        run(project, "raw late poor"),
        ["there is no ledger of loads (_etl_loads) yet", "grant SELECT, INSERT and UPDATE"],
        s3_server,
    )
    is_refused(
        "unknown schema",
        run(project, "raw late schema"),
        ["There is no schema 'no_such_schema'", "Create it, or grant USAGE"],
        s3_server,
    )
    lake = S3Bucket.load("services-late")
    assert len(lake.read_table("orders/")) == len(GOOD)
    Postgres(**pg_database.fields()).save("services-late", overwrite=True)
    outcome = run(project, "raw late late")
    assert outcome.code == 0, outcome.output
    assert [each["Key"] for each in lake.list_objects("orders")] == [f"orders/date={DAY}/part-0.parquet"]
    assert Postgres.load("services-late").fetch_all("select count(*) from orders") == [(len(GOOD),)]


def run(project: Project, blocks: str) -> Outcome:
    """The pipeline from, to and into the saved blocks of these three names."""
    source, lake, warehouse = (f"services-{name}" for name in blocks.split())
    stores = ["--source", f"etl-s3-bucket/{source}", "--lake", f"etl-s3-bucket/{lake}"]
    return project.run("--ds", DAY, *stores, "--warehouse", f"etl-postgres/{warehouse}")


def is_refused(case: str, outcome: Outcome, words: list[str], server: S3Server) -> None:
    """The command failed with one line that holds the words; no traceback, no secret."""
    print(f"\n| {case} | {outcome.code} | {outcome.message} |")  # noqa: T201
    assert outcome.code == 1, outcome.output
    for word in words:
        assert word in outcome.message
    for hidden in ("Traceback", SECRET, server.secret_key, server.ro_secret_key):
        assert hidden not in outcome.output


def state(server: S3Server, database: Address) -> list[str]:
    """Every object, unfinished upload and table there is."""
    client = server.client()
    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"] if bucket["Name"].startswith("test-")]
    found = []
    for name in names:
        found += [f"{name}/{each['Key']}" for each in client.list_objects_v2(Bucket=name).get("Contents", [])]
        found += [f"{name}/{each['Key']}?" for each in client.list_multipart_uploads(Bucket=name).get("Uploads", [])]
    with database.connect() as connection:
        found += [row[0] for row in connection.execute("select relname from pg_stat_user_tables")]
    return found
