"""Redshift, as far as it needs no server: its fields, types and statements, and what is saved."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pyarrow as pa
import pytest
from prefect.client.orchestration import get_client
from pydantic import ValidationError

from blocks.base.block import resolve
from blocks.base.errors import InvalidInputError, TypeLossError
from blocks.credentials.aws import AwsCredentials
from connectors.local import LocalFiles
from connectors.redshift import Redshift
from connectors.redshift.dialect import RedshiftDialect, arrow_type
from connectors.s3 import S3Bucket

ROLE = "arn:aws:iam::123456789012:role/team/redshift"
BUCKET = "etl-s3-bucket/staging"


def redshift(**fields: Any) -> Redshift:
    return Redshift(**{"host": "h", "staging": BUCKET, **fields})


# The block


def test_its_fields_are_those_of_postgres() -> None:
    """With Redshift's own port, and with TLS."""
    block = redshift(username="etl", schema="shop")
    assert (block.port, block.ssl_mode, block.iam_role) == (5439, "require", "default")
    assert block.uri("orders") == "redshift://h:5439/dev/shop.orders"
    settings = block._settings("label")
    assert (settings["user"], settings["application_name"]) == ("etl", "etl-blocks label")
    assert "options" not in settings
    assert pickle.loads(pickle.dumps(block)) == block  # noqa: S301 (our own)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"staging": LocalFiles(basepath="x")}, "S3 only"),
        ({"iam_role": "redshift"}, "iam_role"),
        ({"iam_role": ROLE + "' CREDENTIALS '"}, "iam_role"),
        ({"password": "x", "cluster_identifier": "c"}, "give one of password"),
        ({"workgroup_name": "w", "cluster_identifier": "c"}, "give one of password"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    """A store that Redshift cannot read, a role that is none, and two ways to log in."""
    with pytest.raises(ValidationError, match=words):
        redshift(**fields)


@pytest.mark.parametrize("role", ["default", ROLE, f"{ROLE},{ROLE}", ROLE.replace("aws", "aws-cn", 1)])
def test_roles_are_taken(role: str) -> None:
    """The default one, one by its ARN, a chain of them, and those of other partitions."""
    assert redshift(iam_role=role).iam_role == role


@pytest.mark.usefixtures("prefect_server")
def test_a_saved_one_finds_its_bucket() -> None:
    """The bucket is a saved block, or the name of one; one that is not saved is refused, as its secrets would show."""
    keys = AwsCredentials(aws_access_key_id="id", aws_secret_access_key="c4n4ry")
    bucket = S3Bucket(bucket_name="my-staging", credentials=keys)
    with pytest.raises(InvalidInputError, match="Save the block in staging"):
        redshift(staging=bucket).save("shown")
    bucket.save("staging", overwrite=True)
    LocalFiles(basepath="x").save("local", overwrite=True)
    for staging in (bucket, BUCKET):
        redshift(staging=staging).save("warehouse", overwrite=True)
        with get_client(sync_client=True) as client:
            shown = client.read_block_document_by_name("warehouse", "etl-redshift", include_secrets=False)
        assert "c4n4ry" not in json.dumps(shown.data)
        loaded = resolve("etl-redshift/warehouse", Redshift)
        assert loaded.bucket() == bucket
        loaded.save("again", overwrite=True)
    with pytest.raises(InvalidInputError, match="reads from S3 only, and etl-local-files/local is"):
        redshift(staging="etl-local-files/local").bucket()


# Types


TYPES = [
    (pa.int8(), "smallint", pa.int16()),
    (pa.uint32(), "bigint", pa.int64()),
    (pa.uint64(), "decimal(20,0)", pa.decimal128(20, 0)),
    (pa.float16(), "double precision", pa.float64()),
    (pa.float32(), "double precision", pa.float64()),
    (pa.decimal128(38, 37), "decimal(38,37)", pa.decimal128(38, 37)),
    (pa.large_string(), "varchar(65535)", pa.string()),
    (pa.null(), "varchar(65535)", pa.string()),
    (pa.uuid(), "varchar(65535)", pa.string()),
    (pa.binary(16), "varbyte(16777216)", pa.binary()),
    (pa.date64(), "date", pa.date32()),
    (pa.timestamp("ms"), "timestamp", pa.timestamp("us")),
    (pa.timestamp("s", "Europe/Rome"), "timestamptz", pa.timestamp("us", "UTC")),
    (pa.time32("s"), "time", pa.time64("us")),
    (pa.json_(), "super", pa.json_()),
    (pa.timestamp("ns"), "timestamp", pa.timestamp("us")),
    (pa.time64("ns"), "time", pa.time64("us")),
    (pa.list_(pa.int64()), "super", pa.json_()),
    (pa.struct({"a": pa.int64()}), "super", pa.json_()),
    (pa.map_(pa.string(), pa.int64()), "super", pa.json_()),
]


@pytest.mark.parametrize(("kind", "sql_type", "stored"), TYPES, ids=str)
def test_types_have_a_column(kind: pa.DataType, sql_type: str, stored: pa.DataType) -> None:
    """What COPY cannot fill from Parquet is staged as text."""
    column = RedshiftDialect().column("x", kind)
    assert (column.sql_type, column.arrow_type) == (sql_type, stored)
    assert column.stage_type == ("varchar(65535)" if sql_type in ("time", "super") else None)


@pytest.mark.parametrize(
    "kind", [pa.decimal256(39, 0), pa.decimal128(38, 38), pa.duration("us"), pa.list_(pa.binary())], ids=str
)
def test_types_that_would_lose_something_are_refused(kind: pa.DataType) -> None:
    """More digits, spans of time, and lists of what JSON has no form for."""
    with pytest.raises(TypeLossError, match=r"Redshift has no type that holds every .* Cast it, to "):
        RedshiftDialect().column("x", kind)


@pytest.mark.parametrize(
    ("oid", "modifier", "kind"),
    [
        (16, -1, pa.bool_()),
        (21, -1, pa.int16()),
        (26, -1, pa.int64()),
        (700, -1, pa.float32()),
        (1082, -1, pa.date32()),
        (1083, -1, pa.time64("us")),
        (1114, -1, pa.timestamp("us")),
        (1184, -1, pa.timestamp("us", "UTC")),
        (1700, (12 << 16 | 2) + 4, pa.decimal128(12, 2)),
        (1700, -1, pa.decimal128(38, 9)),
        (4000, -1, pa.json_()),
        (6551, -1, pa.binary()),
        (1190, -1, pa.string()),
        (3000, -1, pa.string()),
    ],
)
def test_results_have_exact_types(oid: int, modifier: int, kind: pa.DataType) -> None:
    """By the numbers of Redshift; intervals, geometry and everything else come as text."""
    assert arrow_type(oid, modifier) == kind


# Statements


def test_names_are_quoted_and_whole() -> None:
    """They are kept as written; one that is too long is an error."""
    dialect = RedshiftDialect()
    assert dialect.table('shop."odd') == '"shop"."""odd"'
    assert dialect.name("x" * 127) == f'"{"x" * 127}"'
    with pytest.raises(InvalidInputError, match="longer than Redshift's 127 bytes"):
        dialect.name("ü" * 64)


def test_merge_casts_what_is_staged_as_text() -> None:
    """Neither MERGE nor DELETE knows an alias of its target; a table of another schema goes by its own name."""
    dialect = RedshiftDialect()
    kinds = {"id": pa.int64(), "at": pa.time64("us"), "doc": pa.json_()}
    columns = [dialect.column(name, kind) for name, kind in kinds.items()]
    assert dialect.merge("shop.s", columns, ["id"], "_etl_stage") == (
        'MERGE INTO "shop"."s" USING "_etl_stage" ON "s"."id" = "_etl_stage"."id" '
        'WHEN MATCHED THEN UPDATE SET "at" = CAST("_etl_stage"."at" AS time), "doc" = JSON_PARSE("_etl_stage"."doc") '
        'WHEN NOT MATCHED THEN INSERT ("id", "at", "doc") '
        'VALUES ("_etl_stage"."id", CAST("_etl_stage"."at" AS time), JSON_PARSE("_etl_stage"."doc"))'
    )
    assert dialect.delete_partitions("shop.s", columns, ["at"], "_etl_stage") == (
        'DELETE FROM "shop"."s" USING "_etl_stage" WHERE "s"."at" = CAST("_etl_stage"."at" AS time)'
    )
    assert dialect.truncate("shop.s") == 'DELETE FROM "shop"."s"'
    assert "PRIMARY KEY" not in dialect.create_table("t", columns, key=["id"])
