"""The pipeline as it is, on S3 and PostgreSQL over TLS, by names of saved blocks; and what becomes of secrets."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

from connectors.postgres import Postgres
from connectors.s3 import S3Bucket
from tests.etl_project import DAY, Project

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

TOML = """
[etl-s3-bucket.shop-raw]
bucket_name = "{raw}"
credentials = {{ block = "etl-aws-credentials/shop" }}

[etl-s3-bucket.shop-lake]
bucket_name = "{lake}"
bucket_folder = "shop"
credentials = {{ block = "etl-aws-credentials/shop" }}

[etl-aws-credentials.shop]
aws_access_key_id = {{ env = "SHOP_KEY_ID" }}
aws_secret_access_key = {{ env = "SHOP_SECRET" }}
endpoint_url = "{endpoint}"
verify = "{s3_ca}"

[etl-postgres.shop]
host = "localhost"
port = {port}
database = "{database}"
username = "{role}"
password = {{ env = "SHOP_PASSWORD" }}
{tls}
"""
BLOCKS = ["--source", "etl-s3-bucket/shop-raw", "--lake", "etl-s3-bucket/shop-lake", "--warehouse", "etl-postgres/shop"]


@pytest.fixture(scope="module")
def secrets(s3_server) -> dict[str, str]:
    """Values that must show up nowhere."""
    return {"password": f"canary-{uuid.uuid4().hex}", "secret key": s3_server.secret_key}


@pytest.fixture(scope="module")
def database(postgres_server, secrets):
    """A database in which a role with a secret password may create tables."""
    address, role = postgres_server.new_database(), f"loader_{uuid.uuid4().hex[:8]}"
    with address.connect() as connection:
        connection.execute(f"create role {role} login password '{secrets['password']}'")
        connection.execute(f"grant create, usage on schema public to {role}")
    yield address, role
    with address.connect() as connection:
        connection.execute(f"drop owned by {role}")
        connection.execute(f"drop role {role}")
    postgres_server.drop_database(address)


@pytest.fixture(scope="module")
def shop(tmp_path_factory, prefect_server, s3_server, database, secrets):
    """A folder with blocks.toml and the values that it takes from the environment; the day's file is in the bucket."""
    assert prefect_server
    address, role = database
    project = Project(tmp_path_factory.mktemp("shop") / "project")
    raw, lake = s3_server.make_bucket(), s3_server.make_bucket()
    project.write(Path("templates/data/source", project.source.name).read_bytes())
    s3_server.client().upload_file(str(project.source), raw, f"source/{project.source.name}")
    tls = f'ssl_mode = "verify-full"\nssl_root_cert = "{address.ca_file}"' if address.ca_file else ""
    (project.folder / "blocks.toml").write_text(
        TOML.format(
            raw=raw,
            lake=lake,
            endpoint=s3_server.tls_endpoint,
            s3_ca=s3_server.ca_file,
            port=address.port,
            database=address.database,
            role=role,
            tls=tls,
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_KEY_ID", s3_server.access_key)
        patch.setenv("SHOP_SECRET", secrets["secret key"])
        patch.setenv("SHOP_PASSWORD", secrets["password"])
        yield project


@pytest.fixture(scope="module")
def seen(shop) -> dict[str, str]:
    """The output of each command, in the order in which a user gives them."""
    commands = {
        "save": ["save", "blocks.toml"],
        "save again": ["save", "blocks.toml"],
        "check": [
            "check",
            "etl-aws-credentials/shop",
            "etl-s3-bucket/shop-raw",
            "etl-s3-bucket/shop-lake",
            "etl-postgres/shop",
        ],
        "run": ["run", "orders_pipeline", *BLOCKS],
        "run again": ["run", "orders_pipeline", *BLOCKS],
    }
    outputs = {}
    for name, arguments in commands.items():
        outcome = shop.etl(*arguments)
        assert outcome.code == 0, outcome.output
        outputs[name] = outcome.output
    return outputs


def test_blocks_are_saved_once(seen):
    """A second `etl save` of the same file changes nothing."""
    assert seen["save"].count("created") == 4
    assert seen["save again"].count("unchanged") == 4


def test_every_saved_block_passes_its_check(seen):
    """`etl check` proves each of them, the bare identity too."""
    assert seen["check"].count(" ok ") == 4


def test_a_changed_secret_is_saved_and_named_but_not_shown(shop, seen, secrets, monkeypatch):
    """Only the block whose value changed is updated; the line names the field."""
    assert seen
    monkeypatch.setenv("SHOP_PASSWORD", "another-canary")
    changed = shop.etl("save", "blocks.toml").output
    assert "updated (password)" in changed
    assert changed.count("unchanged") == 3
    assert Postgres.load("shop").password.get_secret_value() == "another-canary"
    monkeypatch.setenv("SHOP_PASSWORD", secrets["password"])
    back = shop.etl("save", "blocks.toml").output
    assert "canary" not in changed + back


def test_the_template_runs_unchanged_by_the_names_of_saved_blocks(seen):
    """The lake's file and the table hold the same rows, and a second run loads nothing."""
    assert "21 of 24 rows written by replace_partition" in seen["run"]
    assert "21 rows loaded by upsert (21 inserted)" in seen["run"]
    assert "already loaded" in seen["run again"]
    lake, warehouse = S3Bucket.load("shop-lake"), Postgres.load("shop")
    file = lake.scan(f"orders/date={DAY}/part-0.parquet").to_arrow()
    ((rows, amount),) = warehouse.fetch_all("select count(*), sum(amount) from orders")
    assert (rows, amount) == (file.num_rows, pc.sum(file["amount"]).as_py())
    assert warehouse.fetch_all("select row_count from _etl_loads") == [(21,)]


def test_connections_are_encrypted(database, secrets):
    """The block's own connection runs over TLS."""
    address, role = database
    if address.ca_file is None:
        pytest.skip("this PostgreSQL was built without TLS")
    warehouse = Postgres.load("shop")
    assert (warehouse.username, warehouse.password.get_secret_value()) == (role, secrets["password"])
    assert warehouse.fetch_all("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == [(True,)]


def test_no_command_prints_a_secret(seen, secrets):
    """Neither in what `etl` prints nor in what Prefect logs to the console."""
    assert not [(name, what) for name, text in seen.items() for what, value in secrets.items() if value in text]


def all_logs(client: SyncPrefectClient) -> list[Any]:
    """Also those of the tests before, to which the server has been given as well."""
    logs: list[Any] = []
    while page := client.read_logs(None, limit=200, offset=len(logs)):
        logs += page
    return logs


def test_the_api_gives_out_no_secret(seen, secrets):
    """Blocks are masked; runs, their parameters and their logs never held one."""
    assert seen
    APILogHandler().flush()
    with get_client(sync_client=True) as client:
        pages = {
            "blocks": client.read_block_documents(limit=200, offset=0, include_secrets=False),
            "block": [client.read_block_document_by_name("shop", "etl-postgres", include_secrets=False)],
            "runs": client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200),
            "logs": all_logs(client),
        }
        found = {name: json.dumps([each.model_dump(mode="json") for each in page]) for name, page in pages.items()}
        (document,) = pages["block"]
    assert document.data["password"] == "********"
    assert "etl-postgres/shop" in found["runs"]
    assert "rows loaded by upsert" in found["logs"]
    assert not [(page, what) for page, text in found.items() for what, value in secrets.items() if value in text]


def test_secrets_are_encrypted_at_rest(seen, secrets):
    """Neither Prefect's database nor its write-ahead log holds one in clear."""
    assert seen
    database = Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition("///")[2])
    files = [file for file in database.parent.iterdir() if file.name.startswith(database.name)]
    content = b"".join(file.read_bytes() for file in files)
    assert b"shop-lake" in content
    assert not [what for what, value in secrets.items() if value.encode() in content]


def test_no_file_of_prefect_holds_a_secret(seen, secrets):
    """Nor does anything else in Prefect's home, such as stored results."""
    assert seen
    files = [file for file in Path(os.environ["PREFECT_HOME"]).rglob("*") if file.is_file()]
    assert not [
        (file.name, what) for file in files for what, value in secrets.items() if value.encode() in file.read_bytes()
    ]
