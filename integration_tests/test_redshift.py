"""Redshift: the promises of every warehouse, on PostgreSQL behind a stand-in of ours and a real S3 server.

README.md says what that cannot show, and how the same tests run on a real cluster or workgroup.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import json
import multiprocessing
import os
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pyarrow as pa
import pytest

from blocks.base.errors import (
    AccessDeniedError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.aws import AwsCredentials
from blocks.testing.http_proxy import whole_response
from blocks.testing.proxy import FaultProxy
from blocks.warehouses.ledger import LEDGER
from connectors.redshift import Redshift, session
from connectors.redshift.block import _hex_loader
from connectors.redshift.dialect import VARBYTE
from connectors.redshift.session import STAGING, _literal
from connectors.s3 import S3Bucket
from integration_tests.standins.redshift import RedshiftCursor, RedshiftOnPostgres, stand_in
from tests.contracts.incremental import *  # noqa: F403
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import (
    ARGUMENTS,
    CANARY,
    OF_THE_KIT,
    OddError,
    all_modes,
    count,
    failing,
    leak,
    make_table,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks.testing.http_proxy import Request, Response
    from blocks.warehouses.load import LoadReport, Mode
    from integration_tests.standins.aws import AwsServer
    from integration_tests.standins.postgres import Address, PostgresServer
    from integration_tests.standins.s3 import S3Server

SHOWN_ELSEWHERE = OF_THE_KIT | {
    "test_a_scan_is_read_batch_by_batch",
    "test_a_table_is_published_as_it_would_be_loaded",
    "test_any_value_comes_back_exactly",
    "test_columns_may_have_any_name",
    "test_loaders_of_one_key_end_in_one_row",
    "test_tables_and_schemas_may_have_any_name",
}
"""Of the contract: the kit's own, and what is PostgreSQL's, on which the stand-in is built."""
CONTRACT_CASES = 1
"""Of each test of the contract: PostgreSQL shows all in every run."""
RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)
ROLE = "arn:aws:iam::123456789012:role/redshift-reads-staging"

REAL = json.loads(os.environ.get("ETL_TEST_REDSHIFT", "null"))
"""The fields of a block for a real cluster or workgroup; see README.md."""
ON_POSTGRES_ONLY = {
    "test_a_primary_key_is_kept": "Redshift enforces no key",
    "test_no_error_shows_a_row": "Redshift has no CHECK, and enforces no UNIQUE",
    "test_tables_and_schemas_may_have_any_name": "the schemas would stay",
    "test_errors_of_redshift_are_told_apart": "Redshift has no DO",
    "test_loads_of_others_are_not_touched": "it needs no server",
}


@pytest.fixture(autouse=True)
def _suits_the_server(request: pytest.FixtureRequest) -> None:
    test = request.node.originalname
    if REAL and test in ON_POSTGRES_ONLY:
        pytest.skip(ON_POSTGRES_ONLY[test])


@pytest.fixture(scope="module")
def staging(request: pytest.FixtureRequest) -> S3Bucket:
    """The staging bucket, one for all tests."""
    folder = uuid.uuid4().hex
    if REAL:
        identity = AwsCredentials(**json.loads(os.environ.get("ETL_TEST_S3_CREDENTIALS", "{}")))
        name = os.environ["ETL_TEST_S3_BUCKET"]
        return S3Bucket(bucket_name=name, bucket_folder=f"etl-tests/{folder}", credentials=identity)
    server: S3Server = request.getfixturevalue("s3_server")
    keys = AwsCredentials(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        endpoint_url=server.endpoint,
        region_name=server.region,
    )
    return S3Bucket(bucket_name=server.make_bucket(), bucket_folder=folder, credentials=keys, retry=RETRY)


@pytest.fixture
def sent(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> type[RedshiftCursor]:
    """The stand-in; its `statements` are those that were sent, in Redshift's words."""
    if REAL:
        pytest.skip("it looks at what the stand-in saw")
    return stand_in(s3_server.client(), monkeypatch)


def block(address: Address, staging: S3Bucket, **fields: Any) -> Redshift:
    return RedshiftOnPostgres(
        **address.fields(), ssl_mode="disable", staging=staging, iam_role=ROLE, retry=RETRY, **fields
    )


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, staging: S3Bucket) -> Iterator[Redshift]:
    if not REAL:
        request.getfixturevalue("sent")
        with contextlib.closing(block(request.getfixturevalue("pg_database"), staging)) as opened:
            yield opened
        return
    login = {"aws_credentials": staging.credentials, "retry": RETRY, **REAL}
    with Redshift(**login, staging=staging, schema=f"etl_test_{uuid.uuid4().hex}") as opened:
        opened.execute(f"CREATE SCHEMA {opened.schema_}")
        yield opened
        opened.execute(f"DROP SCHEMA {opened.schema_} CASCADE")


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"large decimal", "duration"}


# What is sent


def written(staging: S3Bucket) -> list[str]:
    """The keys in the staging bucket."""
    return [found["Key"] for found in staging.list_objects()]


def test_a_load_copies_exactly_its_parts(
    warehouse: Redshift, staging: S3Bucket, sent: type[RedshiftCursor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parquet parts, a manifest of them with their sizes, one COPY of it with the role; nothing of it stays."""
    monkeypatch.setattr(session, "PART_BYTES", 1)  # a part for each row group
    size = 250_000
    data = pa.table({"id": pa.array(range(size), pa.int64()), "text": [f"{number:<400}" for number in range(size)]})
    batches = data.to_batches(max_chunksize=10_000)
    report = warehouse.load(pa.Table.from_batches(batches), "t", load_id="x")
    assert (report.rows, report.inserted) == (size, size)
    (manifest,) = sent.manifests
    entries = manifest["entries"]
    assert len(entries) > 2
    folder = f"s3://{staging.bucket_name}/{staging.bucket_folder}/etl-redshift/"
    assert all(entry["url"].startswith(folder) and entry["mandatory"] is True for entry in entries)
    assert all(entry["meta"]["content_length"] > 0 for entry in entries)
    (copy,) = [statement for statement in sent.statements if statement.startswith("COPY")]
    assert copy.startswith(f'COPY "_etl_stage" FROM \'{folder}')
    assert copy.endswith(f"_etl_stage.manifest' IAM_ROLE '{ROLE}' FORMAT AS PARQUET MANIFEST")
    assert written(staging) == []
    assert warehouse.fetch_one("SELECT count(DISTINCT id), count(DISTINCT text) FROM t") == (size, size)


def test_the_default_role_is_a_word(warehouse: Redshift, sent: type[RedshiftCursor]) -> None:
    """Redshift's own default role has no ARN."""
    warehouse.model_copy(update={"iam_role": "default"}).load(table_of([1]), "t")
    assert any("' IAM_ROLE default FORMAT AS PARQUET MANIFEST" in statement for statement in sent.statements)


@all_modes
def test_a_load_is_one_transaction_under_a_lock(warehouse: Redshift, sent: type[RedshiftCursor], mode: Mode) -> None:
    """The lock comes first, so that the snapshot is taken after it, then the looks; and nothing in between commits."""
    warehouse.load(table_of([1, 2]), "t")
    sent.statements.clear()
    warehouse.load(table_of([2, 3]), "t", mode=mode, **ARGUMENTS[mode])
    start = sent.statements.index("BEGIN")
    assert sent.statements[-1] == "COMMIT"
    applied = sent.statements[start + 1 : -1]
    assert applied[:3] == [
        "SET statement_timeout TO 1800000",
        'LOCK TABLE "_etl_quarantine"',
        "RESET statement_timeout",
    ]
    assert applied[3].startswith('SELECT 1 FROM "_etl_loads" WHERE load_id = ')
    assert applied[4].startswith('INSERT INTO "_etl_loads"')
    assert applied[-1].startswith('UPDATE "_etl_loads"')
    merge = (
        'MERGE INTO "t" USING "_etl_stage" ON "t"."id" = "_etl_stage"."id" '
        'WHEN MATCHED THEN UPDATE SET "day" = "_etl_stage"."day", "text" = "_etl_stage"."text" '
        'WHEN NOT MATCHED THEN INSERT ("id", "day", "text") '
        'VALUES ("_etl_stage"."id", "_etl_stage"."day", "_etl_stage"."text")'
    )
    count_rows = 'SELECT count(*) FROM "t"'
    matching = f'{count_rows} JOIN "_etl_stage" ON "t"."id" = "_etl_stage"."id"'
    insert = 'INSERT INTO "t" ("id", "day", "text") SELECT s."id", s."day", s."text" FROM "_etl_stage" AS s'
    leaving = 'DELETE FROM "t" USING "_etl_stage" WHERE "t"."day" = "_etl_stage"."day"'
    if mode != "append":  # what replaces rows takes the place of what the same data had rejected
        assert applied.pop(5).startswith('SELECT count(*) FROM "_etl_loads" WHERE table_name = ')
    assert applied[5].startswith("SELECT attname, ")  # the table is planned again
    assert (
        applied[6:-1]
        == {
            "append": [insert],
            "replace": [count_rows, 'DELETE FROM "t"', insert],
            "upsert": [matching, count_rows, merge, count_rows],
            "replace_partition": [leaving, insert],
        }[mode]
    )
    assert not any("TRUNCATE" in text or "ON CONFLICT" in text for text in sent.statements)


def test_rows_that_the_server_did_not_count_are_missed(warehouse: Redshift, sent: type[RedshiftCursor]) -> None:
    """The rows that were sent are compared with what COPY says; where they differ nothing is applied."""
    warehouse.load(table_of([1]), "t")
    sent.counts_too_few = 1
    with pytest.raises(TerminalError, match=r"3 rows were sent and the server counted 2\. Nothing was committed"):
        warehouse.load(table_of([1, 2, 3]), "t")
    assert (count(warehouse), count(warehouse, LEDGER)) == (1, 1)


def test_sessions_are_set_up(warehouse: Redshift, sent: type[RedshiftCursor]) -> None:
    """Names are kept as written, times are in UTC, floats are printed whole, and the encoding has a name we know."""
    there = warehouse.model_copy(update={"schema_": 'my "odd" schema'})
    assert there.fetch_one("SELECT current_setting('timezone'), current_setting('application_name')") == (
        "UTC",
        "etl-blocks",
    )
    assert sent.statements[0] == (
        "SET enable_case_sensitive_identifier TO true; SET timezone TO 'UTC'; SET extra_float_digits TO 2; "
        'SET search_path TO "my ""odd"" schema"; RESET statement_timeout'
    )
    settings = there._settings()
    assert settings["client_encoding"] == "utf8"
    assert "options" not in settings
    with there.get_client() as client:
        assert client.prepare_threshold is None
        assert client.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.usefixtures("sent")
def test_no_connection_is_left(warehouse: Redshift) -> None:
    """Every call closes what it opened, also when it fails and when a scan is left half-way."""
    warehouse.load(table_of(list(range(100))), "t")
    next(iter(warehouse.scan_query("SELECT * FROM generate_series(1, 1000000)").batches()))
    next(iter(warehouse.scan_query("SELECT * FROM generate_series(1, :n)", {"n": 1_000_000}).batches()))
    with pytest.raises(NotFoundError):
        warehouse.read_table("nowhere")
    gone = S3Bucket(bucket_name="no-such-bucket", credentials=warehouse.bucket().credentials, retry=RETRY)  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        warehouse.model_copy(update={"staging": gone}).load(table_of([1]), "t", load_id="x")
    gc.collect()
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert any(not warehouse.fetch_all(f"{others} AND backend_type = 'client backend'") for _ in range(200))


# Parts in the bucket


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_load_that_fails_leaves_no_parts(warehouse: Redshift, staging: S3Bucket, mode: Mode) -> None:
    """Neither where the source fails, nor where the server refuses the rows."""
    with pytest.raises(OddError):
        warehouse.load(failing(table_of(list(range(100_000))), OddError("gone")), "t", mode=mode, **ARGUMENTS[mode])
    make_table(warehouse, table_of([]).schema, table="u", not_null=("day",))
    with pytest.raises(InvalidInputError):
        warehouse.load(pa.table({"id": [1], "day": pa.array([None], pa.string())}), "u")
    assert written(staging) == []


def test_parts_of_a_load_that_is_never_called_again_are_swept(
    warehouse: Redshift, staging: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any later load removes them once they are old, unless their session is still there; others stay."""
    monkeypatch.setattr(session, "LEFT_FOR", dt.timedelta())
    with warehouse._bulk_session("x") as running:
        for name in (running._name, "4711-20260430T120000000000"):
            staging.write_path(f"{running._load_folder('x')}/{name}/_etl_stage-0.parquet", b"PAR1")
        others = f"{STAGING}/0123456789abcdef/x/4711/_etl_stage-0.parquet"
        staging.write_path(others, b"PAR1")
        warehouse.load(table_of([1]), "t", load_id="another")
        assert sorted(key.split("/")[-2] for key in written(staging)) == sorted([running._name, "4711"])
    staging.delete_objects([others])


def test_parts_of_dead_tries_are_swept(warehouse: Redshift, staging: S3Bucket) -> None:
    """The next load of the same load_id removes what a killed one left, and not what one that runs has written."""
    with warehouse._bulk_session("x") as running, warehouse._bulk_session("y") as other:
        folder = running._load_folder("x")
        for name in (running._name, "4711-20260430T120000000000", "4711"):
            staging.write_path(f"{folder}/{name}/_etl_stage-0.parquet", b"PAR1")
        staging.write_path(f"{other._load_folder('y')}/4711/_etl_stage-0.parquet", b"PAR1")
        for _ in range(2):
            warehouse.load(table_of([1]), "t", load_id="x")
        left = written(staging)
        assert sorted(key.split("/")[-2] for key in left) == sorted([running._name, "4711"])
    assert warehouse.load(table_of([1]), "t", load_id="x").already_loaded
    warehouse.load(table_of([1]), "t", load_id="y")
    assert written(staging) == []


def test_loads_of_others_are_not_touched(warehouse: Redshift) -> None:
    """A load_id has a folder of its own for each server, database, schema and user."""
    others = [{"host": "elsewhere"}, {"database": "other"}, {"schema_": "other"}, {"username": "other"}]
    with warehouse._bulk_session("x") as session:
        folders = {session._load_folder("x")}
        for change in others:
            session._server = warehouse.model_copy(update=change)
            folders.add(session._load_folder("x"))
    assert len(folders) == len(others) + 1


# Errors


@pytest.mark.parametrize(
    ("message", "detail", "error", "words"),
    [
        ("1023", "Serializable isolation violation on table - 100167", TransientError, "1023"),
        ("could not complete because of conflict with concurrent transaction", "", TransientError, "conflict"),
        ("S3ServiceException:Access Denied,Status 403,Error AccessDenied", "", AccessDeniedError, "iam_role has to be"),
        ("User arn:aws:redshift:x is not authorized to assume IAM Role arn:y", "", AccessDeniedError, "s3:GetObject"),
        ("S3ServiceException:Please reduce your request rate.,Status 503,Error SlowDown", "", TransientError, "503"),
        ("Mandatory url is not present in manifest file.", "", TransientError, "Mandatory"),
        ("S3ServiceException:moved,Status 301,Error PermanentRedirect", "", InvalidInputError, "Redshift's region"),
        ("Spectrum Scan Error", "File 's3://x' has an incompatible Parquet schema for column", SchemaError, "Spectrum"),
        ("Invalid digit, Value 'c4n4ry', Pos 0, Type: Integer", "", TerminalError, "Invalid digit, Value"),
        ("out of leader node memory", "", TerminalError, "out of leader node memory"),
    ],
)
def test_errors_of_redshift_are_told_apart(
    warehouse: Redshift, message: str, detail: str, error: type[ConnectorError], words: str
) -> None:
    """Its own errors have SQLSTATE XX000 alone, so they go by their words; no value is in the message."""
    raising = f"RAISE EXCEPTION USING MESSAGE = {_literal(message)}, DETAIL = {_literal(detail)}, ERRCODE = 'XX000'"
    with pytest.raises(error, match=words) as caught:
        warehouse.model_copy(update={"retry": RetryPolicy(attempts=1)}).execute(f"DO $$ BEGIN {raising}; END $$")
    assert isinstance(caught.value, TransientError) == (error is TransientError)
    assert CANARY not in leak(caught.value)
    assert warehouse.uri() in str(caught.value)


@pytest.mark.usefixtures("sent")
def test_a_lock_that_is_held_too_long_is_said(
    warehouse: Redshift, pg_database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load waits for the loads before it, and not for ever."""
    monkeypatch.setattr(session, "CLAIM_TIMEOUT_S", 0.2)
    warehouse.load(table_of([1]), "t")
    with pg_database.connect() as other, other.transaction():
        other.execute("LOCK TABLE _etl_quarantine")
        with pytest.raises(TransientError, match=r"Another load into .* took longer than 0.2 s"):
            warehouse.model_copy(update={"retry": RetryPolicy(attempts=1)}).load(table_of([2]), "t")
    assert count(warehouse) == 1


# Types


@pytest.mark.parametrize("size", [65_535, 100])
def test_long_values_come_back(warehouse: Redshift, size: int) -> None:
    """A text of 64 KiB, a binary value of a million bytes, and a row of many columns; what is longer is refused."""
    columns = {f"c{i}": [i] for i in range(200)} if size == 100 else {}
    data = pa.table({"text": ["x" * size], "binary": [b"\x00\xff" * 500_000], **columns})
    warehouse.load(data, "t")
    assert warehouse.read_table("t").equals(data)
    with pytest.raises(InvalidInputError):
        warehouse.load(pa.table({"text": ["x" * 65_536]}), "t")
    assert count(warehouse) == 1


def test_floats_are_read_whole(warehouse: Redshift, sent: type[RedshiftCursor]) -> None:
    """A REAL is printed with 8 digits and has 9, so it is read by way of a DOUBLE; names may come twice."""
    warehouse.execute("CREATE TABLE t (id integer, x real)")
    values = pa.array([16777217 / 2**24, 0.1, 3.4028234663852886e38, float("nan"), None], pa.float32())
    warehouse.load(pa.table({"id": pa.array(range(5), pa.int32()), "x": values}), "t")
    found = warehouse.read_table("t").sort_by("id")
    assert found.schema == pa.schema({"id": pa.int32(), "x": pa.float32()})
    assert repr(found["x"].to_pylist()) == repr(values.to_pylist())
    assert any("q.c1::double precision" in statement for statement in sent.statements)
    twice = warehouse.scan_query("SELECT x AS n, id AS n FROM t WHERE id = 1").to_arrow()
    assert [column[0].as_py() for column in twice.columns] == [values[1].as_py(), 1]


def test_super_takes_json(warehouse: Redshift, sent: type[RedshiftCursor]) -> None:
    """JSON is staged as text and parsed by the server, also into a column that is there; statements get it as text."""
    data = pa.table({"id": [1, 2], "x": pa.array(['{"a": [1.5, null]}', None])})
    warehouse.execute("CREATE TABLE t (id bigint, x super)")
    for mode, key in (("append", ()), ("upsert", ("id",))):
        warehouse.load(data, "t", mode=mode, key=key)  # type: ignore[arg-type]
    assert [json.loads(text) if text else None for (text,) in warehouse.fetch_all("SELECT x FROM t ORDER BY id")] == [
        {"a": [1.5, None]},
        None,
    ]
    inserts = [statement for statement in sent.statements if statement.startswith(('INSERT INTO "t"', "MERGE"))]
    assert all("JSON_PARSE(" in statement for statement in inserts)
    stages = [statement for statement in sent.statements if "TEMPORARY" in statement]
    assert all('"x" varchar(65535)' in statement for statement in stages)


def test_varbyte_is_read_as_bytes() -> None:
    """Redshift prints it as hexadecimal digits."""
    loader = _hex_loader()(VARBYTE)
    assert loader.load(memoryview(b"00ff")) == b"\x00\xff"


# Who logs in


@pytest.fixture
def aws(aws_server: AwsServer, sent: type[RedshiftCursor]) -> AwsCredentials:  # noqa: ARG001 (not on a real server)
    aws_server.reset()
    return AwsCredentials(
        aws_access_key_id="key", aws_secret_access_key="secret", endpoint_url=aws_server.url, region_name="us-east-1"
    )


def test_aws_gives_a_login_for_a_cluster(
    warehouse: Redshift, pg_database: Address, aws: AwsCredentials, aws_server: AwsServer
) -> None:
    """The password lasts for an hour, serves all connections of that time, and is renewed before its end."""
    aws.get_client("redshift").create_cluster(
        ClusterIdentifier="shop", NodeType="ra3.large", MasterUsername="admin", MasterUserPassword="Passw0rd"
    )
    now = dt.datetime.now(dt.UTC)
    temporary = {"password": None, "username": "loader", "aws_credentials": aws, "cluster_identifier": "shop"}
    block = warehouse.model_copy(update=temporary)
    block._clock = lambda: now
    settings = block._settings()
    assert settings["user"] == "IAM:loader"
    with pg_database.connect() as admin:
        admin.execute(f"CREATE ROLE \"IAM:loader\" LOGIN PASSWORD '{settings['password']}'")
        try:
            assert block.fetch_one("SELECT current_user") == ("IAM:loader",)
            assert settings["password"] not in f"{block!r}{block.model_dump_json()}"
        finally:
            admin.execute('DROP ROLE "IAM:loader"')
    asked = aws_server.calls[""]
    now += dt.timedelta(minutes=56)
    assert block._settings()["password"] != settings["password"]
    assert aws_server.calls[""] == asked + 1
    lost = warehouse.model_copy(update={**temporary, "cluster_identifier": "lost"})
    with pytest.raises(NotFoundError, match=r"a login for lost.*Check cluster_identifier"):
        lost.fetch_one("SELECT 1")


def test_aws_gives_a_login_for_its_own_identity(
    warehouse: Redshift, aws: AwsCredentials, aws_server: AwsServer
) -> None:
    """Without a username the user is that of the IAM identity; moto has no such call, so the answer is AWS's."""
    answer = (
        '<GetClusterCredentialsWithIAMResponse xmlns="http://redshift.amazonaws.com/doc/2012-12-01/">'
        "<GetClusterCredentialsWithIAMResult><DbUser>IAMR:etl</DbUser><DbPassword>s3cret</DbPassword>"
        "<Expiration>2099-01-01T00:00:00Z</Expiration></GetClusterCredentialsWithIAMResult>"
        "</GetClusterCredentialsWithIAMResponse>"
    )
    asked = []

    def given(request: Request) -> Response:
        asked.append(parse_qs(request.read().decode()))
        return whole_response(200, answer.encode(), {"Content-Type": "text/xml"})

    aws_server._planned[""].append(given)
    fields = {"password": None, "username": None, "aws_credentials": aws, "cluster_identifier": "shop"}
    settings = warehouse.model_copy(update=fields)._settings()
    assert (settings["user"], settings["password"]) == ("IAMR:etl", "s3cret")
    assert asked[0]["Action"] == ["GetClusterCredentialsWithIAM"]
    assert asked[0]["DbName"] == [warehouse.database]


def test_aws_gives_a_login_for_a_workgroup(warehouse: Redshift, aws: AwsCredentials, aws_server: AwsServer) -> None:
    """A serverless workgroup has a service of its own, which moto lacks; a refusal names the right that it takes."""
    answer = {"dbUser": "IAMR:etl", "dbPassword": "s3cret", "expiration": 4_102_444_800}
    aws_server._planned["GetCredentials"].append(
        lambda _: whole_response(200, json.dumps(answer).encode(), {"Content-Type": "application/x-amz-json-1.1"})
    )
    fields = {"password": None, "username": None, "aws_credentials": aws, "workgroup_name": "shop"}
    settings = warehouse.model_copy(update=fields)._settings()
    assert (settings["user"], settings["password"]) == ("IAMR:etl", "s3cret")
    (asked,) = aws_server.requests["GetCredentials"]
    assert asked == {"workgroupName": "shop", "dbName": warehouse.database, "durationSeconds": 3600}
    aws_server.refuse_call("GetCredentials", "AccessDeniedException", "not authorized", status=400)
    with pytest.raises(AccessDeniedError, match="The identity needs redshift-serverless:GetCredentials"):
        warehouse.model_copy(update=fields).fetch_one("SELECT 1")


# Faults

FAULTS = ("drop_answer_to", "drop_request")


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres_server.host, postgres_server.port) as running:
        yield running


@pytest.fixture
def behind(
    pg_database: Address,
    proxy: FaultProxy,
    staging: S3Bucket,
    sent: type[RedshiftCursor],  # noqa: ARG001 (installed)
) -> Redshift:
    """The database as a loader sees it, through the proxy."""
    return block(pg_database.through(proxy.port), staging)


def assert_loaded_once(warehouse: Redshift, size: int, *, loads: int = 1) -> None:
    table, ledger = warehouse.dialect.table(f"{warehouse.schema_}.t"), warehouse.dialect.table(LEDGER)
    found = warehouse.fetch_one(f"SELECT count(*), count(DISTINCT id), coalesce(sum(id), 0) FROM {table}")
    assert found == (size, size, size * (size - 1) // 2)
    assert warehouse.fetch_one(f"SELECT count(*) FROM {ledger}") == (loads,)


CASES: list[tuple[Mode, str]] = [(mode, fault) for mode in ("append", "upsert") for fault in FAULTS]


@pytest.mark.parametrize(
    "case",
    [CASES[0], *(pytest.param(case, marks=pytest.mark.thorough) for case in CASES[1:])],
    ids=" ".join,
)
def test_every_statement_may_be_lost(
    behind: Redshift, warehouse: Redshift, proxy: FaultProxy, staging: S3Bucket, case: tuple[Mode, str]
) -> None:
    """Whichever statement of a load is cut off, before or after the server ran it, the rows are there once."""
    mode, fault = case
    data = table_of(list(range(50)))

    def load(schema: str) -> LoadReport:
        warehouse.execute(f"CREATE SCHEMA {schema}")
        warehouse.execute(f"CREATE TABLE {schema}.t (id bigint)")
        through = behind.model_copy(update={"schema_": schema})
        return through.load(data, "t", mode=mode, load_id="x", **ARGUMENTS[mode])

    load("s")
    statements = list(proxy.log)
    assert {"BEGIN", "COMMIT"} <= set(statements)
    for number, statement in enumerate(statements):
        getattr(proxy, fault)(".*", skip=number)
        proxy.faults_fired.clear()
        report = load(f"s{number}")
        assert len(proxy.faults_fired) == 1, statement
        assert report.rows == 50, statement
        assert_loaded_once(warehouse.model_copy(update={"schema_": f"s{number}"}), 50)
        assert written(staging) == [], statement


@all_modes
def test_the_server_falls_silent_at_commit(
    behind: Redshift, warehouse: Redshift, proxy: FaultProxy, staging: S3Bucket, mode: Mode
) -> None:
    """Without an answer to COMMIT the ledger is asked on another connection, after commit_timeout_s."""
    warehouse.load(table_of([]), "t")
    proxy.silence_after("commit")
    impatient = behind.model_copy(update={"commit_timeout_s": 0.2})
    report = impatient.load(table_of(list(range(1_000))), "t", mode=mode, **ARGUMENTS[mode])
    assert len(proxy.faults_fired) == 1
    assert report.resolved_from_ledger
    assert_loaded_once(warehouse, 1_000, loads=2)
    assert written(staging) == []


def test_a_commit_that_travels_is_stopped(
    behind: Redshift, warehouse: Redshift, proxy: FaultProxy, staging: S3Bucket
) -> None:
    """The session of a COMMIT that has not arrived is found by its parts and ended, and the load runs again."""
    warehouse.load(table_of([]), "t")
    proxy.hold_back("commit")
    report = behind.load(table_of(list(range(1_000))), "t")
    proxy.release()
    assert len(proxy.faults_fired) == 1
    assert (report.resolved_from_ledger, report.already_loaded) == (False, False)
    assert_loaded_once(warehouse, 1_000, loads=2)
    assert written(staging) == []


@pytest.mark.parametrize("statement", ["INSERT INTO t (id) VALUES (1)", "SELECT create_order(1)"])
def test_a_statement_that_writes_is_not_run_blindly(
    behind: Redshift, warehouse: Redshift, proxy: FaultProxy, statement: str
) -> None:
    """What was undone runs again; what became of a COMMIT without an answer nobody knows: AmbiguousError."""
    warehouse.execute("CREATE TABLE t (id int)")
    warehouse.execute(
        "CREATE FUNCTION create_order(n int) RETURNS int LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO t (id) VALUES (n); RETURN n; END'"
    )
    proxy.drop_answer_to("insert into t|select create_order")
    behind.fetch_all(statement)
    assert len(proxy.faults_fired) == count(warehouse) == 1
    proxy.drop_answer_to("commit")
    with pytest.raises(AmbiguousError, match="the connection was lost after it was sent"):
        behind.fetch_all(statement)
    assert count(warehouse) == 2
    proxy.drop_answer_to("truncate")
    with pytest.raises(AmbiguousError, match="the connection was lost after it was sent"):
        behind.execute("TRUNCATE t")


# Killed processes

SIZE = 20_000
processes = multiprocessing.get_context("forkserver")
MOMENTS: list[tuple[Mode, str]] = [
    ("append", "select report"),
    ("append", "copy"),
    ("append", "insert into ._etl_loads"),
    ("append", "commit"),
    ("upsert", "merge into"),
    ("upsert", "update ._etl_loads"),
]


def load_in_a_process(warehouse: Redshift, mode: Mode) -> None:
    assert isinstance(warehouse.staging, S3Bucket)
    stand_in(warehouse.staging.credentials.get_s3_client(), pytest.MonkeyPatch())
    warehouse.load(table_of(list(range(SIZE))), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])


def kill_a_loader(warehouse: Redshift, proxy: FaultProxy, mode: Mode, statement: str) -> None:
    """Have another process load, and end it by kill -9 when its server has run the statement."""
    proxy.silence_after(statement)
    process = processes.Process(target=load_in_a_process, args=(warehouse, mode))
    process.start()
    try:
        proxy.wait_for_fault(60)
    finally:
        process.kill()
        process.join()
        process.close()


async def cut(proxy: FaultProxy) -> None:
    """Close what the proxy has open, as the kernel does for a process that was killed."""
    for link in list(proxy._links):
        link.cancel()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("moment", MOMENTS, ids=" at ".join)
def test_a_killed_loader_is_run_again(
    behind: Redshift, warehouse: Redshift, proxy: FaultProxy, staging: S3Bucket, moment: tuple[Mode, str]
) -> None:
    """After kill -9 at a step the same load, called again, ends in each row once and leaves no part."""
    mode, statement = moment
    warehouse.load(table_of([]), "t", load_id="first")
    kill_a_loader(behind, proxy, mode, statement)
    assert bool(written(staging)) == (statement != "select report")
    proxy._run(cut(proxy))
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert any(not warehouse.fetch_all(f"{others} AND backend_type = 'client backend'") for _ in range(500))
    report = behind.load(table_of(list(range(SIZE))), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
    assert report.already_loaded == (statement == "commit")
    assert_loaded_once(warehouse, SIZE, loads=2)
    assert written(staging) == []


def test_a_loader_that_vanished_is_ended(
    behind: Redshift, warehouse: Redshift, proxy: FaultProxy, staging: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed loader of which its server hears nothing keeps the lock: the same load ends it after a while."""
    monkeypatch.setattr(session, "CLAIM_TIMEOUT_S", 1)
    warehouse.load(table_of([]), "t", load_id="first")
    kill_a_loader(behind, proxy, "append", "insert into ._etl_loads")
    report = behind.load(table_of(list(range(SIZE))), "t", load_id="monday")
    assert report.rows == SIZE
    assert_loaded_once(warehouse, SIZE, loads=2)
    assert written(staging) == []
