"""`etl migrate`: the blocks that Prefect's collections save become ours.

`data/saved_by_prefect_collections.json` holds what the collections' own classes saved, in the versions that it names:
the fields of each document, which of them refer to another one, and of the schema what the server goes by.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client

from blocks import InvalidInputError, ObjectStore, Warehouse, resolve
from blocks.cli import main
from blocks.cli.counterparts import COUNTERPARTS, WITHOUT, Foreign, NoCounterpartError, choose, translated
from blocks.cli.saved import documents

if TYPE_CHECKING:
    from collections.abc import Iterator

SAVED = json.loads((Path(__file__).parent / "data" / "saved_by_prefect_collections.json").read_text("utf-8"))
DOCUMENTS = {f"{each['type']}/{each['name']}": each for each in SAVED["documents"]}
SECRETS = ("canary", "AKIA", "Y2FuYXJ5")
INCOMPLETE = {"bigquery-warehouse/bq": "dataset: Field required"}
"""What theirs do not say and ours have to know."""


def ours() -> dict[str, UUID]:
    """Every saved block of ours, by `slug/name`."""
    found = {f"{each.block_type.slug}/{each.name}": each.id for each in documents() if each.block_type}
    return {name: number for name, number in found.items() if name.startswith("etl-")}


@pytest.fixture(scope="module", autouse=True)
def theirs(prefect_server: str) -> Iterator[None]:
    """Their documents on a server that does not have their packages; what becomes of them is removed in the end."""
    assert prefect_server
    before = ours()
    ids: dict[str, UUID] = {}
    with get_client(sync_client=True) as client:

        def post(path: str, **body: Any) -> dict[str, Any]:
            made: dict[str, Any] = client.request("POST", f"/{path}/", json=body).json()
            return made

        listed = client.request("POST", "/block_types/filter", json={"limit": 200}).json()
        known_types = {each["slug"]: each["id"] for each in listed}  # a server brings some of them
        types: dict[str, str] = {}
        schemas: dict[str, dict[str, Any]] = {}

        def register(slug: str, takes: dict[str, list[str]], secret_fields: list[str]) -> None:
            inner = {
                field: [{"block_type_slug": kind, "block_schema_checksum": schemas[kind]["checksum"]} for kind in kinds]
                for field, kinds in takes.items()
            }
            fields = {"title": slug, "type": "object", "properties": {}, "block_type_slug": slug}
            fields |= {"secret_fields": secret_fields, "block_schema_references": inner}
            types[slug] = known_types.get(slug) or post("block_types", name=slug, slug=slug)["id"]
            schemas[slug] = post("block_schemas", fields=fields, block_type_id=types[slug])

        waiting = {each["type"]: (each["takes"], each["secret_fields"]) for each in SAVED["documents"]}
        while waiting:
            ready = [slug for slug, (takes, _) in waiting.items() if waiting.keys().isdisjoint(chain(*takes.values()))]
            for slug in ready:
                register(slug, *waiting.pop(slug))
        for place, each in DOCUMENTS.items():  # one that another refers to was saved before it
            references = {
                field: {"$ref": {"block_document_id": str(ids[other])}} for field, other in each["refers_to"].items()
            }
            made = post(
                "block_documents",
                name=each["name"],
                data=each["data"] | references,
                block_type_id=types[each["type"]],
                block_schema_id=schemas[each["type"]]["id"],
            )
            ids[place] = UUID(made["id"])
    yield
    with get_client(sync_client=True) as client:
        for number in (*ids.values(), *(number for name, number in ours().items() if name not in before)):
            client.delete_block_document(number)


def migrated(*arguments: str) -> dict[str, str]:
    """What `etl migrate` says of each block, and nothing secret anywhere."""
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(["migrate", *arguments])
    assert not [secret for secret in SECRETS if secret in output.getvalue() + errors.getvalue()]
    assert code == (1 if INCOMPLETE else 0)
    lines = [line for line in output.getvalue().splitlines() if not line.startswith(" ")]
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


@pytest.fixture(scope="module")
def done() -> dict[str, str]:
    """What `etl migrate --apply` said."""
    return migrated("--apply")


def test_a_look_saves_nothing():
    """Each block that has a counterpart is named with it, in every type that there is."""
    before = ours()
    planned = migrated()
    assert planned.keys() == DOCUMENTS.keys()
    assert {place.partition("/")[0] for place in planned} == COUNTERPARTS.keys() | WITHOUT.keys()
    assert ours() == before


@pytest.mark.thorough
def test_every_document_becomes_ours(done):
    """Under the same name, of a type of ours; what has no counterpart is named with the reason."""
    for place, outcome in done.items():
        slug, _, name = place.partition("/")
        if slug in WITHOUT:
            assert outcome == f"not migrated: {WITHOUT[slug]}."
        elif place in INCOMPLETE:
            assert outcome.startswith(f"not migrated: {INCOMPLETE[place]}")
        else:
            reference, what = outcome.split()
            assert what == "created"
            assert reference in ours()
            assert reference.partition("/")[2] == name


@pytest.mark.thorough
def test_values_and_secrets_arrive(done):
    """In the fields that mean the same: what was nested stays nested, what was a reference is one."""
    assert done
    block: Any = Block.load
    raw, lake, inline = (block(f"etl-s3-bucket/{name}") for name in ("raw", "lake", "inline"))
    assert (raw.bucket_name, raw.bucket_folder, raw.credentials.region_name) == ("raw", "in", "eu-central-1")
    assert raw.credentials.aws_secret_access_key.get_secret_value() == "canary-aws"
    assert (raw.credentials.assume_role_external_id, raw.credentials.assume_role_duration_s) == ("e1", 900)
    assert raw.credentials._block_document_name == "main"
    assert (lake.credentials.aws_access_key_id, lake.credentials.endpoint_url) == ("root", "http://localhost:9000")
    assert inline.credentials.aws_secret_access_key.get_secret_value() == "canary-inline"
    assert inline.credentials._block_document_name is None
    elsewhere = block("etl-aws-credentials/profile")
    assert (elsewhere.verify, elsewhere.endpoint_url, elsewhere.allow_http) == (False, "http://minio:9000", True)
    postgres, url, profile = (block(f"etl-postgres/{name}") for name in ("pg", "pgurl", "prof"))
    assert (postgres.uri(), postgres.ssl_mode) == ("postgres://db:5432/shop", "verify-full")
    assert postgres.password.get_secret_value() == "canary-pg"
    assert (url.host, url.username, url.ssl_mode) == ("db.example.com", "u", "require")
    assert url.password.get_secret_value() == "canary-url"
    assert (profile.schema_, profile.host) == ("analytics", "db")
    snowflake = block("etl-snowflake/sfc")
    assert snowflake.credentials.password.get_secret_value() == "canary-sf"
    assert snowflake.uri() == "snowflake://acc/d/s"
    assert block("etl-snowflake/op3").uri() == snowflake.uri()
    assert "canary" in block("etl-snowflake-credentials/sfkey").private_key.get_secret_value()
    assert block("etl-gcs-bucket/gcs").gcp_credentials.service_account_info.get_secret_value()["client_email"] == "a@b"
    job = block("etl-dbt-cloud-job/job")
    assert (job.job_id, job.timeout_s, job.git_branch, job.threads_override, job.cause) == (3, 60, "main", 2, "")
    project = block("etl-dbt-project/op")
    assert (str(project.project_dir), project.target) == ("proj", "etl-postgres/prof")
    assert (project.target_name, project.threads) == ("dev", 8)


@pytest.mark.thorough
def test_a_second_time_changes_nothing_that_is_there(done):
    """A block of ours that somebody has changed since is named, and left as it is."""
    saved = {place: outcome for place, outcome in done.items() if outcome.endswith("created")}
    changed: Any = Block.load("etl-aws-credentials/main")
    changed.region_name = "us-east-1"
    changed.save("main", overwrite=True)
    before = ours()
    again = migrated("--apply")
    assert ours() == before
    assert again.pop("aws-credentials/main").endswith("is there, and differs in region_name; left as it is")
    assert {place for place, outcome in again.items() if outcome.endswith("unchanged")} == saved.keys() & again.keys()
    bucket: Any = Block.load("etl-s3-bucket/raw")
    assert bucket.credentials.region_name == "us-east-1"


def test_names_of_theirs_say_what_to_write(capsys):
    """`etl check s3-bucket/raw` and a parameter with such a name: one line, no traceback."""
    line = "'s3-bucket/raw' is a block of another collection. Write 'etl-s3-bucket/raw', which 'etl migrate --apply' "
    with pytest.raises(InvalidInputError, match=line):
        resolve("s3-bucket/raw", ObjectStore)
    with pytest.raises(InvalidInputError, match=r"'snowflake-connector/sfc' is .* See 'etl migrate'"):
        resolve("snowflake-connector/sfc", Warehouse)
    assert main(["check", "s3-bucket/raw"]) == 1
    assert line in capsys.readouterr().out
    assert main(["run", "orders_pipeline", "--source", "s3-bucket/raw"]) == 1
    output = capsys.readouterr().err
    assert line in output.splitlines()[-1]
    assert "Traceback" not in output


# the tables


def test_the_page_has_every_type():
    """Ours and theirs, in docs/blocks-and-secrets.md."""
    page = (Path(__file__).parents[1] / "docs" / "blocks-and-secrets.md").read_text("utf-8")
    table = page.partition("| theirs | ours |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", table)) >= COUNTERPARTS.keys() | WITHOUT.keys()


def values(slug: str, **data: Any) -> dict[str, Any]:
    """The fields of our block for those of theirs."""
    return translated(*choose(Foreign(slug, "x", data)))[0]


def test_a_name_means_the_same_to_snowflake():
    """Without quotes its case says nothing, and ours takes a name in lower case for such a one."""
    taken = values("snowflake-connector", database="Shop", schema='"Raw Data"', warehouse="W")
    assert taken == {"database": "shop", "schema": "Raw Data", "warehouse": "W"}


def test_a_storage_account_may_have_its_signature_in_its_url():
    """Then it is a field of its own, which is masked."""
    taken = values("azure-blob-storage-credentials", account_url="https://a.blob.core.windows.net/?sv=1&sig=x")
    assert taken == {"account_url": "https://a.blob.core.windows.net", "sas_token": "sv=1&sig=x"}


def test_a_database_is_known_by_its_dialect():
    """From a URL as from components; what a URL quotes is unquoted."""
    url = "mysql+pymysql://loader:a%40b@db/shop?charset=utf8mb4&ssl_ca=/ca.pem"
    taken = values("sqlalchemy-connector", connection_info=url, fetch_size=1)
    assert taken == {
        "host": "db",
        "database": "shop",
        "username": "loader",
        "password": "a@b",
        "ssl_root_cert": "/ca.pem",
    }


def test_a_dbt_folder_is_found_from_where_dbt_ran():
    """Relative folders count from the working directory."""
    taken = values("dbt-core-operation", commands=["dbt build"], working_dir="/srv", project_dir="shop", env={"A": "b"})
    assert taken == {"project_dir": "/srv/shop", "environment": {"A": "b"}}
    assert values("dbt-core-operation", commands=["dbt build"]) == {"project_dir": "."}


@pytest.mark.parametrize(
    ("slug", "data", "reason"),
    [
        ("aws-credentials", {"assume_role_kwargs": {"Policy": "canary"}}, "nothing for its assume_role_kwargs.Policy"),
        ("sqlalchemy-connector", {"connection_info": "canary"}, "its connection_info is not a URL"),
        ("sqlalchemy-connector", {"connection_info": "postgresql://u:canary@h:port/d"}, "is not a URL"),
        ("sqlalchemy-connector", {"connection_info": "oracle://u:canary@h/d"}, "dialect oracle"),
        ("sqlalchemy-connector", {"connection_info": None}, "neither a URL nor components"),
        (
            "sqlalchemy-connector",
            {"connection_info": {"driver": "postgresql+psycopg2", "host": "a.b.redshift.amazonaws.com"}},
            "etl-redshift",
        ),
        (
            "sqlalchemy-connector",
            {"connection_info": "postgresql://h/d", "connect_args": {"passfile": "canary"}},
            "nothing for its connect_args.passfile",
        ),
        ("dbt-cli-target-configs", {"type": "spark", "schema": "x"}, "profiles_dir"),
        ("dbt-cli-postgres-target-configs", {"schema": "x"}, "its credentials is not a block"),
    ],
)
def test_what_nothing_stands_for_is_refused(slug, data, reason):
    """A setting that ours does not have is named, never left out in silence, and never with its value."""
    with pytest.raises(NoCounterpartError, match=reason) as caught:
        values(slug, **data)
    assert "canary" not in str(caught.value)
