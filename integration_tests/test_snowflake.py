"""Snowflake: the promises of every warehouse, and what only this service has or gets wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from prefect import flow
from prefect.context import get_run_context

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.snowflake import SnowflakeCredentials
from blocks.warehouses.ledger import LEDGER
from connectors.local import LocalFiles
from connectors.s3 import S3Bucket
from connectors.snowflake import Snowflake
from integration_tests.standins.process import free_port
from integration_tests.standins.snowflake import (
    OAUTH_TOKEN,
    PASSWORD,
    READER,
    READER_PASSWORD,
    USER,
    fields,
    new_schema_name,
)
from templates.orders_pipeline import orders_pipeline
from tests.contracts.incremental import *  # noqa: F403
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import ARGUMENTS, CANARY, MODES, OF_THE_KIT, count, leak, make_table, rows, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks.warehouses.load import Mode
    from integration_tests.standins.snowflake import SnowflakeServer

SHOWN_ELSEWHERE = OF_THE_KIT | {
    "test_a_scan_is_read_batch_by_batch",
    "test_a_table_is_published_as_it_would_be_loaded",
    "test_loaders_of_one_key_end_in_one_row",
}
"""Of the contract: the kit's own, and what takes seconds here, as DuckDB and PostgreSQL show it."""
CONTRACT_CASES = 1
"""Of each test of the contract: PostgreSQL shows all in every run."""
DEVIATIONS = {
    "test_a_primary_key_is_kept[append]": "Snowflake does not enforce primary keys",
    **dict.fromkeys(
        [f"test_no_error_shows_a_row[{mode}]" for mode in MODES],
        "Snowflake has no CHECK and does not enforce UNIQUE; see test_no_error_shows_a_value",
    ),
    "test_a_bad_row_undoes_all": "DDL commits: the new column stays; see test_a_bad_row_undoes_all_rows",
}
STANDIN_DEVIATIONS = {
    "test_tables_and_schemas_may_have_any_name": "fakesnow sets its schema without quotes",
}


@pytest.fixture(autouse=True)
def known_deviation(request: pytest.FixtureRequest) -> None:
    known = DEVIATIONS if ACCOUNT else DEVIATIONS | STANDIN_DEVIATIONS
    if reason := known.get(request.node.name):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


def credentials(server: SnowflakeServer, **changes: Any) -> SnowflakeCredentials:
    login = {"account": "standin", "user": USER, "password": PASSWORD, **server.connection()}
    return SnowflakeCredentials(**{**login, **changes})


ACCOUNT = json.loads(os.environ.get("ETL_TEST_SNOWFLAKE", "{}"))
"""The fields of a Snowflake block over a real account, on which the same promises then run."""


@pytest.fixture
def snowflake_server(snowflake_server: SnowflakeServer) -> SnowflakeServer:
    if ACCOUNT:
        pytest.skip("a test of what only the stand-in shows")
    return snowflake_server


@pytest.fixture
def warehouse(request: pytest.FixtureRequest) -> Iterator[Snowflake]:
    name = new_schema_name()
    if ACCOUNT:
        options = {**ACCOUNT, "schema": name}
    else:
        login = credentials(request.getfixturevalue("snowflake_server"))
        options = {"credentials": login, **fields(name), "network_timeout_s": 20}
    with contextlib.closing(Snowflake(**options, retry=RETRY)) as block:
        home = block.model_copy(update={"schema_": "public"})
        home.execute(f"CREATE SCHEMA {name}")
        yield block
        home.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"large decimal", "duration"}


# What the deviations leave out


def test_a_bad_row_undoes_all_rows(warehouse: Snowflake) -> None:
    """A row that the table refuses at the very end leaves its rows as they were; DDL commits, so a column may stay."""
    make_table(warehouse, table_of([]).schema, not_null=("id",))
    warehouse.load(table_of([1]), "t")
    with pytest.raises(InvalidInputError):
        warehouse.load(table_of([*range(2, 1_000), None]), "t", mode="replace")
    assert rows(warehouse, columns="id") == [(1,)]
    assert count(warehouse, LEDGER) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"id": pa.array([None], pa.int64()), "text": [CANARY]},
        {"id": [CANARY], "text": ["x"]},
        {"id": [10**12], "text": [CANARY]},
        {"id": [1, 1], "text": [CANARY] * 2},
    ],
    ids=["null", "type", "range", "key"],
)
def test_no_error_shows_a_value(
    warehouse: Snowflake, columns: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A value that a type, NOT NULL or a key check stops is in no message, no cause and no log line."""
    warehouse.execute("CREATE TABLE t (id NUMBER(9,0) NOT NULL, text VARCHAR)")
    with pytest.raises(ConnectorError) as caught:
        warehouse.load(pa.table(columns), "t", mode="upsert", key=["id"], allow_loss=["id"])
    assert CANARY not in leak(caught.value) + caplog.text
    assert not isinstance(caught.value, TransientError)
    assert count(warehouse) == 0


def test_a_sum_of_integers_is_a_decimal(warehouse: Snowflake) -> None:
    """NUMBER(38,0), Snowflake's INTEGER, is read in all its digits; a cast makes it an int64."""
    warehouse.load(table_of([1]), "t")
    wide = warehouse.scan_query("SELECT CAST(id + 3 AS NUMBER(38,0)) AS id, day, text FROM t")
    assert wide.schema.field("id").type == pa.decimal128(38, 0)
    assert "id" in warehouse.plan(wide, "t").checked
    warehouse.load(wide, "t")
    assert rows(warehouse, columns="id") == [(1,), (4,)]


# Names


def test_names_are_folded_by_one_rule(warehouse: Snowflake) -> None:
    """A lower-case name is Snowflake's unquoted one, in both directions; others are kept as written."""
    warehouse.load(pa.table({"order": [1], "OrderId": [2]}), "lines")
    assert warehouse.fetch_all('SELECT "ORDER", "OrderId" FROM LINES') == [(1, 2)]
    warehouse.execute("CREATE TABLE made_elsewhere (Id INTEGER, SELECTED BOOLEAN)")
    assert warehouse.table_schema("made_elsewhere").names == ["id", "selected"]
    assert warehouse.scan_query("SELECT Id AS Total FROM made_elsewhere").schema.names == ["total"]


def test_a_name_in_capitals_is_refused(warehouse: Snowflake) -> None:
    """It would come back in lower case, so the error says which name to use, for new columns and for old ones."""
    with pytest.raises(InvalidInputError, match="'ID' would come back as 'id'"):
        warehouse.load(pa.table({"ID": [1]}), "t")
    warehouse.load(pa.table({"id": [1]}), "t")
    with pytest.raises(SchemaError, match=r"'ID'.*'id'"):
        warehouse.load(pa.table({"ID": [1]}), "t")


# The service's own results


def test_rows_go_in_several_files(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """Files of the size asked for are sent, each result is compared, and no stage outlives the session."""
    small = warehouse.model_copy(update={"part_bytes": 100_000})
    stages = snowflake_server.stages()
    before = len(snowflake_server.statements())
    batches = [pa.record_batch({"id": range(n, n + 20_000)}) for n in range(0, 200_000, 20_000)]
    assert small.load(pa.Table.from_batches(batches), "t").rows == 200_000
    files = [sql for _, sql in snowflake_server.statements()[before:] if sql.startswith("PUT")]
    assert len(set(files)) > 3
    assert warehouse.fetch_one("SELECT count(*), count(DISTINCT id) FROM t") == (200_000, 200_000)
    assert snowflake_server.stages() == stages


@pytest.mark.usefixtures("prefect_server")
def test_the_query_tag_names_the_load(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """Every statement of a load can be found in the query history by load_id and flow run."""

    @flow
    def load() -> str:
        warehouse.load(table_of([1]), "t", load_id="monday's")
        return str(get_run_context().flow_run.id)

    before = len(snowflake_server.statements())
    run = load()
    tags = [json.loads(tag) for tag, sql in snowflake_server.statements()[before:] if "_ETL_STAGE" in sql]
    assert tags
    assert all(tag == {"app": "etl-blocks", "flow_run": run, "load_id": "monday's"} for tag in tags)


def test_the_statements_of_a_load_are_few(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """A load into a table that is there sends these statements and no others."""
    warehouse.load(table_of([1]), "t")

    def sent(mode: Mode) -> list[str]:
        before = len(snowflake_server.statements())
        warehouse.load(table_of([2]), "t", mode=mode, **ARGUMENTS[mode])
        texts = [sql for _, sql in snowflake_server.statements()[before:]]
        return [" ".join(re.sub(r"etl_\w+", "", sql.lower()).split()[:2]) for sql in texts]

    appended = sent("append")
    # the ledger is looked at, and the table again once the claim is made
    looks = "describe select select describe"
    work = "create create put put copy begin merge describe insert update commit"
    assert " ".join(word.split()[0] for word in appended) == f"{looks} {work}"
    assert len(sent("upsert")) == len(appended) + 3  # the key is looked at, and the ledger for rejected rows


def test_files_are_copied_straight_from_a_bucket(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """Snowflake reads the folder itself, once for each load_id, and a sibling of the folder is not read."""
    bucket = S3Bucket(bucket_name="raw", bucket_folder="orders")
    for folder, ids in (("orders/april", [1, 2]), ("orders/april2", [9])):
        place = snowflake_server.bucket("raw") / folder
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(ids), place / "part-0.parquet")
    make_table(warehouse, table_of([]).schema)
    arguments = {"storage_integration": "lake", "load_id": "april's"}
    first = warehouse.copy_from(bucket, "april", "t", **arguments)
    again = warehouse.copy_from(bucket, "april", "t", **arguments)
    assert (first.rows, first.inserted, first.already_loaded) == (2, 2, False)
    assert again == first.model_copy(update={"already_loaded": True})
    assert rows(warehouse, columns="id, day, text") == [(1, "mon", "x"), (2, "mon", "x")]
    assert warehouse.copy_from(bucket, "april", "t", storage_integration="lake", load_id="once more").rows == 2
    assert count(warehouse) == 4
    sent = [sql for _, sql in snowflake_server.statements() if "STORAGE_INTEGRATION" in sql]
    assert sent[0].startswith("""COPY INTO "T" FROM 's3://raw/orders/april/' STORAGE_INTEGRATION = "LAKE" """)


class Lake(LocalFiles):
    """The stand-in's folder of a bucket, under the bucket's address."""

    _block_type_slug = "test-lake"

    def uri(self, key: str = "") -> str:
        """The address in the bucket."""
        return f"s3://lake/{key}"


def test_rows_are_unloaded_straight_into_a_bucket(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """A folder holds the rows of the last call and nothing else, its neighbours are left alone."""
    bucket = Lake(basepath=str(snowflake_server.bucket("lake")))
    for key in ("orders/data_7_0_0.snappy.parquet", "orders2/kept.parquet"):
        bucket.write_path(key, b"old")
    warehouse.load(table_of([1, 2]), "t")
    for source in ({"table": "t"}, {"query": "SELECT * FROM t -- all of it"}):
        keys = warehouse.unload_to(bucket, "orders", **source, storage_integration="lake")
        assert keys == ["orders/data_0_0_0.snappy.parquet"]
        assert bucket.read_table("orders").column("ID").to_pylist() == [1, 2]
    assert [item["Key"] for item in bucket.list_objects("orders2")] == ["orders2/kept.parquet"]
    sent = [sql for _, sql in snowflake_server.statements() if sql.startswith("COPY INTO 's3://lake/orders/'")]
    assert sent[0].endswith(
        """STORAGE_INTEGRATION = "LAKE" FILE_FORMAT = (TYPE = PARQUET) HEADER = TRUE OVERWRITE = TRUE """
        "DETAILED_OUTPUT = TRUE"
    )


def test_several_statements_are_one_transaction(warehouse: Snowflake) -> None:
    """Either all of them happen or none; each has its rows."""
    warehouse.execute("CREATE TABLE t (id INTEGER NOT NULL)")
    inserts = ["INSERT INTO t (id) VALUES (:id)", "INSERT INTO t (id) VALUES (:id + 1)", "SELECT count(*) FROM t"]
    assert warehouse.multiquery(inserts, {"id": 1}) == [[(1,)], [(1,)], [(2,)]]
    broken = [*inserts[:2], "INSERT INTO t (id) VALUES (NULL)"]
    with pytest.raises(InvalidInputError):
        warehouse.multiquery(broken, {"id": 3})
    assert count(warehouse) == 2
    with pytest.raises(InvalidInputError):
        warehouse.multiquery(broken, {"id": 3}, as_transaction=False)
    assert count(warehouse) == 4


def test_the_orders_pipeline_runs(warehouse: Snowflake, prefect_server: object, tmp_path: Path) -> None:
    """A template that knows nothing of Snowflake fills it by the name of a saved block, once for each day."""
    assert prefect_server
    warehouse.save("standin", overwrite=True)
    lake = LocalFiles(basepath=str(tmp_path))
    first, again = (orders_pipeline(lake=lake, warehouse="etl-snowflake/standin") for _ in range(2))
    assert (first.table.already_loaded, again.table.already_loaded) == (False, True)
    kept = lake.read_table("orders", columns=["order_id", "amount"])
    found = warehouse.fetch_one("SELECT count(*), count(DISTINCT order_id), sum(amount) FROM orders")
    assert found == (kept.num_rows, kept.num_rows, pc.sum(kept["amount"]).as_py())
    assert again.table.rows == kept.num_rows


def test_prefects_documented_calls_run(warehouse: Snowflake) -> None:
    """What prefect-snowflake's documentation shows runs with parameters named in this package's form."""
    with warehouse as connector:
        connector.execute("CREATE TABLE IF NOT EXISTS customers (name varchar, address varchar);")
        connector.execute_many(
            "INSERT INTO customers (name, address) VALUES (:name, :address);",
            seq_of_parameters=[
                {"name": "Ford", "address": "Highway 42"},
                {"name": "Unknown", "address": "Space"},
                {"name": "Me", "address": "Myway 88"},
            ],
        )
        first = connector.fetch_many("SELECT * FROM customers ORDER BY name", size=2)
        assert first == [("Ford", "Highway 42"), ("Me", "Myway 88")]
        assert connector.fetch_many("SELECT * FROM customers ORDER BY name", size=2) == [("Unknown", "Space")]
        assert len(connector.fetch_all("SELECT * FROM customers")) == 3
    with warehouse.get_connection() as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchone() == (1,)


# Logging in


def test_other_ways_to_log_in(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """A token logs in; a wrong one, and a wrong password, are AuthError, and no message holds them."""
    oauth = credentials(snowflake_server, password=None, authenticator="oauth", token=OAUTH_TOKEN)
    assert "LOADER" in warehouse.model_copy(update={"credentials": oauth}).check()
    for broken in (
        credentials(snowflake_server, password="wr0ng"),
        credentials(snowflake_server, user="nobody", password="wr0ng"),
        credentials(snowflake_server, password=None, authenticator="oauth", token="wr0ng"),
    ):
        for call in (broken.check, warehouse.model_copy(update={"credentials": broken}).check):
            with pytest.raises(AuthError, match="Check user and password") as caught:
                call()
            assert "wr0ng" not in leak(caught.value)


def test_what_is_missing_is_named(warehouse: Snowflake, snowflake_server: SnowflakeServer) -> None:
    """An absent schema or database, a server that does not answer, and rights that lack, each say so."""
    with pytest.raises(NotFoundError, match="no schema nowhere"):
        warehouse.model_copy(update={"schema_": "nowhere"}).check()
    with pytest.raises(NotFoundError, match="does not have a current database"):
        warehouse.model_copy(update={"database": "nowhere"}).fetch_all("SELECT * FROM t")
    reader = credentials(snowflake_server, user=READER, password=READER_PASSWORD)
    with pytest.raises(AccessDeniedError, match=r"no ledger of loads .* may not create tables.*Grant"):
        warehouse.model_copy(update={"credentials": reader}).load(table_of([1]), "t")
    silent = credentials(snowflake_server, port=free_port())
    gone = warehouse.model_copy(update={"credentials": silent, "login_timeout_s": 1, "retry": RetryPolicy(attempts=1)})
    with pytest.raises(TransientError, match="standin"):
        gone.check()


def test_role_and_warehouse_are_those_of_the_block(warehouse: Snowflake) -> None:
    """They come before those of the credentials, and check says them."""
    said = warehouse.model_copy(update={"role": "analyst", "warehouse": "big_wh"}).check()
    assert "in role ANALYST" in said
    assert "warehouse BIG_WH" in said.upper().replace("WAREHOUSE BIG_WH", "warehouse BIG_WH")
