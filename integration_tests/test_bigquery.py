"""BigQuery: the promises of every warehouse, and what only this service has or gets wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import multiprocessing
import os
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.bigquery import SchemaField, retry

from blocks.arrow.scan import Scan
from blocks.base.errors import (
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    QualityError,
    SchemaError,
    TerminalError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.gcp import GcpCredentials
from blocks.testing.http_proxy import HttpFaultProxy, Request, Response
from blocks.warehouses.ledger import LEDGER, QUARANTINE
from blocks.warehouses.session import Script, Step
from connectors.bigquery import BigQuery
from connectors.bigquery.dialect import BigQueryDialect, schema_field
from connectors.bigquery.session import LOCK, ROWS_OF_A_FEW, BigQuerySession
from connectors.bigquery.statements import transaction
from connectors.gcs import GcsBucket
from connectors.local import LocalFiles
from connectors.s3 import S3Bucket
from integration_tests.standins.bigquery import PROJECT
from tests.contracts import warehouse as promises
from tests.contracts.incremental import *  # noqa: F403
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import OF_THE_KIT, count, opened, refused, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration_tests.standins.bigquery import BigQueryServer

SHOWN_ELSEWHERE = OF_THE_KIT | {
    "test_a_scan_is_read_batch_by_batch",
    "test_loaders_of_one_key_end_in_one_row",
}
"""Of the contract: the kit's own, and what takes seconds here, as DuckDB and PostgreSQL show it."""
CONTRACT_CASES = 1
"""Of each test of the contract: PostgreSQL shows all in every run."""
RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)

NULL_LISTS = {"list of int", "list of string", "list of decimal", "list of date"}
REFUSED_NAMES = ['say "hi"', "😀", "$1", "a?b", "a;--b", "{x}", "back\\slash", "new\nline"]

COMMITS = "BigQuery's DDL commits by itself: the new column stays, and is empty."
DATASETS = "A dataset has a name of letters, digits and _ only; test_tables_may_have_any_name goes as far as it can."
NOT_SQL = "BigQuery's strings and types are others; test_parameters_are_bound_in_bigquerys_sql has the same."
DECIMAL = "bqemulator casts a parameter to DECIMAL(18,3)."
DEVIATIONS = {
    "test_a_bad_row_undoes_all": COMMITS,
    "test_a_primary_key_is_kept[append]": "BigQuery enforces no key.",
    "test_tables_and_schemas_may_have_any_name": DATASETS,
    "test_parameters_are_bound_by_name[SELECT ':a', 'it''s :a', CAST(:a AS INTEGER)-parameters2-expected2]": NOT_SQL,
}
DEVIATIONS_OF_THE_STANDIN = {
    "test_a_table_name_may_hold_a_space": "the stand-in takes no space in the name of a table",
    "test_parameters_are_bound_by_name[SELECT CAST(:a AS DECIMAL(20, 4))-parameters9-expected9]": DECIMAL,
}
ACCOUNT: dict[str, Any] = json.loads(os.environ.get("ETL_TEST_BIGQUERY", "{}"))


@pytest.fixture(autouse=True)
def deviations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What BigQuery, or its stand-in, does otherwise than the promises have it."""
    known = DEVIATIONS if ACCOUNT else DEVIATIONS | DEVIATIONS_OF_THE_STANDIN
    if reason := known.get(request.node.name):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    monkeypatch.setattr(promises, "NAMES", [name for name in promises.NAMES if name not in REFUSED_NAMES])


@pytest.fixture
def standin(request: pytest.FixtureRequest) -> BigQueryServer:
    """The stand-in, for what a real account cannot be asked to do."""
    if ACCOUNT:
        pytest.skip("needs the stand-in")
    server: BigQueryServer = request.getfixturevalue("bigquery_server")
    return server


@pytest.fixture
def warehouse(request: pytest.FixtureRequest) -> Iterator[BigQuery]:
    """An empty dataset, of the stand-in or of the account that the environment names."""
    if not ACCOUNT:
        with contextlib.closing(block(request.getfixturevalue("bigquery_server"))) as made:
            yield made
        return
    with BigQuery(**{"retry": RETRY, **ACCOUNT, "dataset": f"etl_tests_{uuid.uuid4().hex}"}) as made:
        made.get_client().create_dataset(made.dataset)
        yield made
        made.get_client().delete_dataset(made.dataset, delete_contents=True)


def block(server: BigQueryServer, **options: Any) -> BigQuery:
    credentials = GcpCredentials(anonymous=True, endpoint_url=options.pop("url", server.url))
    fields = {"dataset": options.pop("dataset", None) or server.new_dataset(), "project": PROJECT, "retry": RETRY}
    return BigQuery(gcp_credentials=credentials, **{**fields, **options})


@pytest.fixture
def unsupported_types(request: pytest.FixtureRequest) -> set[str]:
    refused = {"duration", "large decimal"}
    # Their values hold nulls in the place of lists, which BigQuery would keep as empty ones: see the tests of arrays.
    return refused | NULL_LISTS if request.node.name.startswith("test_any_value") else refused


def tables_of(warehouse: BigQuery) -> set[str]:
    return {table.table_id for table in warehouse.get_client().list_tables(warehouse.dataset)}


# Names, parameters, types


@pytest.mark.parametrize("name", REFUSED_NAMES)
def test_a_column_of_another_name_is_refused(warehouse: BigQuery, name: str) -> None:
    """BigQuery's names have a set of signs; the plan already says which column has others."""
    for call in (warehouse.plan, warehouse.load):
        with pytest.raises(SchemaError, match="takes no column of the name"):
            call(pa.table({name: [1]}), "t")
    assert "t" not in tables_of(warehouse)


def test_tables_may_have_any_name(warehouse: BigQuery, standin: BigQueryServer) -> None:
    """`dataset.table` is taken as written, and tables of one name in two datasets are two tables."""
    other = standin.new_dataset()
    for name in ("select", "t1", "MixedCase", "_"):  # the stand-in takes no others
        warehouse.load(table_of([1, 2]), f"{other}.{name}", mode="upsert", key=["id"])
        warehouse.load(table_of([1]), name)
        assert (count(warehouse, name), count(warehouse, f"{other}.{name}")) == (1, 2)
        assert warehouse.table_schema(f"{PROJECT}.{other}.{name}").names == ["id", "day", "text"]


@pytest.mark.parametrize(
    ("query", "parameters", "expected"),
    [
        ("SELECT ':a', \":a\", 'it\\'s :a', CAST(:a AS INT64)", {"a": 1}, (":a", ":a", "it's :a", 1)),
        ("SELECT CAST(:a AS INT64) AS `x:a` -- :a", {"a": 1}, (1,)),
        ("SELECT :a + 1", {"a": Decimal("1.5")}, (Decimal("2.5"),)),
        ("SELECT :a", {"a": dt.datetime(2026, 4, 30, 1, 2, 3, 4, tzinfo=dt.UTC)}, None),
        ("SELECT :a", {"a": dt.datetime(2026, 4, 30, 1, 2, 3, 4)}, None),  # noqa: DTZ001
        ("SELECT CAST(2 AS INT64) IN UNNEST(:a)", {"a": [1, 2]}, (True,)),
    ],
)
def test_parameters_are_bound_in_bigquerys_sql(
    warehouse: BigQuery, query: str, parameters: dict[str, Any], expected: Any
) -> None:
    """Strings may be in any quotes and escaped with a backslash; each value has its own type."""
    assert warehouse.fetch_one(query, parameters) == (expected or tuple(parameters.values()))


ARRAYS_WITHOUT_NULLS = {
    "ints": pa.array([[1, -(2**63)], [], [0]], pa.list_(pa.int64())),
    "texts": pa.array([["", "ü'\""], ["NULL"], []], pa.list_(pa.string())),
    "decimals": pa.array([[Decimal("1.5000")], [], [Decimal("-2.0001")]], pa.list_(pa.decimal128(20, 4))),
    "days": pa.array([[dt.date.min], [dt.date.max], []], pa.list_(pa.date32())),
    "structs": pa.array([[{"a": 1, "b": None}], [], [{"a": None, "b": "x"}] * 2], None),
}


@pytest.mark.parametrize("storage", [True, False], ids=["storage API", "REST"])
def test_arrays_come_back(standin: BigQueryServer, storage: bool) -> None:
    """Arrays without nulls come back exactly, through either API."""
    url = standin.storage_url if storage else None
    with contextlib.closing(block(standin, storage_endpoint_url=url)) as warehouse:
        data = pa.table(ARRAYS_WITHOUT_NULLS)
        for times in (1, 2):
            warehouse.load(data, "t")
            assert warehouse.read_table("t").to_pylist() == data.to_pylist() * times
        assert warehouse.read_table("t").schema == warehouse.table_schema("t").remove_metadata() == data.schema


def test_null_arrays_are_refused(warehouse: BigQuery) -> None:
    """A null that BigQuery would turn into an empty array is an error that names the column, and nothing is loaded."""
    for values in ([[1], None], [[1, None], []]):
        with pytest.raises(SchemaError, match=r"'xs'.* keeps no NULL instead of an array"):
            warehouse.load(pa.table({"xs": pa.array(values, pa.list_(pa.int64()))}), "t")
    assert tables_of(warehouse) <= {LEDGER, QUARANTINE}


# Reading


def test_a_large_result_comes_through_the_storage_api(standin: BigQueryServer) -> None:
    """Tables and results of queries; with REST they are the same to the last row."""
    data = pa.table({"id": range(30_000), "größe x": [Decimal(n) / 100 for n in range(30_000)]})
    with HttpFaultProxy(standin.url) as proxy:
        rest = block(standin, url=proxy.url)
        storage = block(standin, url=proxy.url, dataset=rest.dataset, storage_endpoint_url=standin.storage_url)
        rest.load(data, "t")
        for read in (
            lambda warehouse: warehouse.read_table("t"),
            lambda warehouse: warehouse.scan_query("SELECT * FROM t WHERE id >= 0").to_arrow(),
            lambda warehouse: warehouse.read_table("t", ["id"]),
        ):
            answers = {}
            for name, warehouse in (("rest", rest), ("storage", storage)):
                proxy.log.clear()
                table = read(warehouse)
                pages = sum("/data?" in path or "pageToken" in path for _, path, _ in proxy.log)
                answers[name] = (table.sort_by(table.column_names[0]), pages)
            assert answers["rest"][0].equals(answers["storage"][0])
            assert answers["rest"][1] > 2 > answers["storage"][1]
        storage.close()


def test_reading_goes_on_without_the_storage_api(warehouse: BigQuery, caplog: pytest.LogCaptureFixture) -> None:
    """An identity that may not use it reads through REST, and the log says why that is slow."""

    class Denying(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            """No, whatever was asked."""
            words = "Permission bigquery.readsessions.create denied"
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, words)
            )

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Denying()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    size = ROWS_OF_A_FEW + 1
    warehouse.load(pa.table({"id": range(size)}), "t")
    with warehouse.model_copy(update={"storage_endpoint_url": f"http://127.0.0.1:{port}"}) as denied:
        assert denied.read_table("t").num_rows == size
    server.stop(None).wait()
    assert "The Storage Read API is not used, and reading is slower" in caplog.text


def test_a_view_is_read_as_the_query_that_it_is(warehouse: BigQuery) -> None:
    """A table is read without a query; a view cannot be."""
    warehouse.load(table_of([1, 2]), "t")
    warehouse.execute("CREATE VIEW v AS SELECT id FROM t")
    assert warehouse.read_table("v").to_pydict() == warehouse.read_table("v", ["id"]).to_pydict() == {"id": [1, 2]}
    with pytest.raises(NotFoundError, match="no column 'nope'"):
        warehouse.read_table("t", ["nope"])


# Loading


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us", "UTC"), pa.timestamp("us")], ids=str)
def test_a_new_table_is_partitioned_by_day(warehouse: BigQuery, kind: pa.DataType) -> None:
    """The first date or time of partition_by makes the partitions, and replacing them leaves the others alone."""
    days = [dt.datetime(2026, 4, day, tzinfo=dt.UTC) for day in (28, 29, 30)]

    def data(shop: int, *which: int) -> pa.Table:
        moments = pa.array([days[n] for n in which], pa.timestamp("us", "UTC")).cast(pa.timestamp("us")).cast(kind)
        return pa.table({"at": moments, "shop": [shop] * len(which)})

    for shop, which in ((1, (0, 1, 1)), (2, (1, 2))):
        report = warehouse.load(data(shop, *which), "t", mode="replace_partition", partition_by=["at"])
    assert (report.inserted, report.deleted) == (2, 2)
    assert sorted(warehouse.fetch_all("SELECT shop FROM t")) == [(1,), (2,), (2,)]
    if not pa.types.is_date(kind):
        return  # the stand-in knows no TIMESTAMP_TRUNC there; the statement is in the unit tests
    partitioning = warehouse.get_client().get_table(f"{warehouse.dataset}.t").time_partitioning
    assert (partitioning.type_, partitioning.field) == ("DAY", "at")


def test_several_files_are_loaded_while_the_next_is_made(warehouse: BigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load of several Parquet files has as many load jobs, and all of its rows."""
    monkeypatch.setattr("connectors.bigquery.files.PART_BYTES", 50_000)
    size = 200_000
    data = pa.table({"id": pa.array(range(size), pa.int64())})
    scan = Scan(data.schema, lambda _: iter(data.to_batches(max_chunksize=20_000)), source="a source")
    assert warehouse.load(scan, "t").rows == size
    assert warehouse.fetch_one("SELECT count(*), count(DISTINCT id) FROM t") == (size, size)
    kinds = [job.job_type for job in warehouse.get_client().list_jobs(max_results=30)]
    assert kinds.count("load") >= 4


def test_nothing_is_left_of_a_load(warehouse: BigQuery) -> None:
    """Neither of one that worked nor of one that failed."""
    warehouse.load(refused(1, table_of([1, 2])), "t", max_rejected=1)
    with pytest.raises(QualityError):
        warehouse.load(refused(3, table_of([1])), "t", max_rejected=0.1)
    assert tables_of(warehouse) == {"t", LEDGER, QUARANTINE}


def test_a_query_is_checked_and_limited(warehouse: BigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job carries the limit of bytes, the block's labels and the load's; the stand-in forgets those of queries."""
    limited = warehouse.model_copy(update={"maximum_bytes_billed": 10**9, "labels": {"team": "x"}})
    client, sent = limited.get_client(), []
    query = type(client).query

    def noted(self: Any, sql: str, config: Any, **options: Any) -> Any:
        sent.append(config)
        return query(self, sql, config, **options)

    monkeypatch.setattr(type(client), "query", noted)
    limited.load(table_of([1]), "t", load_id="Monday")
    listed = (job for job in client.list_jobs(max_results=20) if job.labels.get("team") == "x")
    loads = [job for job in listed if job.job_type == "load"]
    assert len(sent) > len(loads) >= 1
    assert all(job.labels == {"team": "x", "etl_load": "monday"} for job in [*sent, *loads])
    assert {config.maximum_bytes_billed for config in sent} == {10**9}


def test_the_cost_of_a_query_is_estimated(warehouse: BigQuery) -> None:
    """Nothing runs, and a wrong query is found out; the stand-in reads no bytes."""
    warehouse.execute("CREATE TABLE t (id INT64)")
    assert warehouse.estimate_bytes("SELECT * FROM t WHERE id = :id", {"id": 1}) == 0
    assert warehouse.estimate_bytes("INSERT INTO t (id) VALUES (1)") == 0
    assert count(warehouse) == 0
    with pytest.raises(NotFoundError, match="nowhere"):
        warehouse.estimate_bytes("SELECT * FROM nowhere")


def test_a_table_is_created_from_an_arrow_schema(warehouse: BigQuery) -> None:
    """Its columns come back as they would of a load; a table that is there stays, with its rows."""
    fields = {
        "id": pa.int64(),
        "at": pa.timestamp("us", "UTC"),
        "price": pa.decimal128(38, 9),
        "tags": pa.list_(pa.string()),
        "address": pa.struct({"street": pa.string(), "floors": pa.list_(pa.int64())}),
        "extra": pa.json_(),
        "ratio": pa.float32(),
    }
    schema = pa.schema(fields).set(0, pa.field("id", pa.int64(), nullable=False))
    warehouse.create_table("t", schema, partition_by=["at"], cluster_by=["id", "price"])
    warehouse.load(schema.empty_table(), "loaded")
    found = warehouse.get_client().get_table(f"{warehouse.dataset}.t")
    assert warehouse.table_schema("t").types == warehouse.table_schema("loaded").types
    assert [field.mode for field in found.schema][:4] == ["REQUIRED", "NULLABLE", "NULLABLE", "REPEATED"]
    assert (found.time_partitioning.type_, found.time_partitioning.field) == ("DAY", "at")
    assert found.clustering_fields == ["id", "price"]
    warehouse.load(pa.table({"id": [1]}), "t")
    warehouse.create_table("t", pa.schema({"other": pa.string()}))
    assert count(warehouse) == 1
    assert warehouse.table_schema("t").names == schema.names


@pytest.mark.parametrize(("digits", "name"), [((20, 4), "NUMERIC"), ((38, 10), "BIGNUMERIC")])
def test_a_decimal_keeps_its_digits(digits: tuple[int, int], name: str) -> None:
    """Precision and scale are sent; the stand-in takes them and forgets them."""
    field = schema_field(pa.field("price", pa.decimal128(*digits)), BigQueryDialect())
    assert field == SchemaField("price", name, precision=digits[0], scale=digits[1])


class BodyProxy(HttpFaultProxy):
    """Keeps what is sent to it."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.bodies: list[bytes] = []

    def intercept(self, request: Request) -> Response | None:  # noqa: D102
        self.bodies.append(request.read())
        return None


def test_an_external_table_is_over_the_files_of_a_folder(bigquery_server: BigQueryServer) -> None:
    """Its definition names format and folder; the stand-in takes it and makes a plain table of it."""
    with BodyProxy(bigquery_server.url) as proxy, block(bigquery_server, url=proxy.url) as behind:
        lake = GcsBucket(bucket="lake", bucket_folder="shop")
        behind.create_external_table("raw_orders", lake, "orders", file_format="csv")
        (sent,) = [json.loads(body) for body in proxy.bodies if b"raw_orders" in body]
        assert sent["externalDataConfiguration"] == {
            "sourceFormat": "CSV",
            "sourceUris": ["gs://lake/shop/orders/*"],
            "autodetect": True,
        }
        with pytest.raises(InvalidInputError, match="Google Cloud Storage only"):
            behind.create_external_table("t", LocalFiles(), "orders")


def test_a_table_is_created_from_googles_fields(warehouse: BigQuery) -> None:
    """As prefect-gcp's `bigquery_create_table` takes them."""
    fields = [SchemaField("number", "INTEGER", "REQUIRED"), SchemaField("text", "STRING"), SchemaField("day", "DATE")]
    warehouse.create_table("t", fields, partition_by=["day"])
    assert warehouse.get_client().get_table(f"{warehouse.dataset}.t").schema == fields
    for wrong in (["text"], ["nowhere"], ["day", "number"]):
        with pytest.raises(InvalidInputError, match="partition_by takes one column"):
            warehouse.create_table("other", fields, partition_by=wrong)
    with pytest.raises(SchemaError, match="takes no column of the name"):
        warehouse.create_table("other", pa.schema({"a?b": pa.string()}))
    assert tables_of(warehouse) == {"t"}


# Straight from Cloud Storage and into it

WRITERS: dict[str, Callable[[pa.Table, Path], object]] = {
    "parquet": pq.write_table,
    "csv": lambda data, path: data.select(data.column_names[::-1]).to_pandas().to_csv(path, index=False),
    "jsonl": lambda data, path: data.to_pandas().to_json(path, orient="records", lines=True),
}


def put(server: BigQueryServer, folder: str, ids: list[int], file_format: str = "parquet") -> None:
    """A file with these rows in a folder of the stand-in's Cloud Storage."""
    place = server.uris / folder
    place.mkdir(parents=True, exist_ok=True)
    WRITERS[file_format](table_of(ids), place / f"part-{len(list(place.iterdir()))}")


@pytest.mark.parametrize("file_format", WRITERS)
def test_files_are_copied_straight_from_a_bucket(
    warehouse: BigQuery, standin: BigQueryServer, file_format: Any
) -> None:
    """BigQuery reads the folder itself, once for each load_id, and a sibling of the folder is not read."""
    lake = f"raw_{warehouse.dataset}"
    bucket = GcsBucket(bucket=lake, bucket_folder="orders")
    for folder, ids in (("april", [1, 2]), ("april", [3]), ("april2", [9])):
        put(standin, f"{lake}/orders/{folder}", ids, file_format)
    warehouse.load(table_of([]), "t", load_id="first")
    arguments = {"load_id": "april's", "file_format": file_format}
    first = warehouse.copy_from(bucket, "april", "t", **arguments)
    again = warehouse.copy_from(bucket, "april/", "t", **arguments)
    assert (first.rows, first.inserted, first.already_loaded) == (3, 3, False)
    assert again == first.model_copy(update={"already_loaded": True})
    assert warehouse.load_report("april's") == first
    assert sorted(warehouse.fetch_all("SELECT id, day, text FROM t")) == [(n, "mon", "x") for n in (1, 2, 3)]
    assert warehouse.copy_from(bucket, "april", "t", load_id="once more", file_format=file_format).rows == 3
    assert (count(warehouse), count(warehouse, LEDGER)) == (6, 3)
    assert tables_of(warehouse) == {"t", LEDGER, QUARANTINE}
    jobs = [job for job in warehouse.get_client().list_jobs(max_results=50) if job.job_type == "load"]
    assert [job.source_uris for job in jobs if job.destination.dataset_id == warehouse.dataset][:2] == (
        [[f"gs://{lake}/orders/april/*"]] * 2
    )
    sent = jobs[0].to_api_repr()["configuration"]["load"]
    assert ("columnNameCharacterMap" in sent) == (file_format != "jsonl")  # the service refuses it there
    assert sent.get("sourceColumnMatch") == ("NAME" if file_format == "csv" else None)


def test_a_copy_that_fails_leaves_nothing(warehouse: BigQuery, standin: BigQueryServer) -> None:
    """Neither rows nor a row in the ledger, so that the same call works once the files are there."""
    lake = f"raw_{warehouse.dataset}"
    bucket = GcsBucket(bucket=lake)
    with pytest.raises(NotFoundError, match=r"There is no table bigquery://.*\.t\."):
        warehouse.copy_from(bucket, "april", "t", load_id="april")
    warehouse.load(table_of([0]), "t", load_id="first")
    with pytest.raises(ConnectorError):
        warehouse.copy_from(bucket, "april", "t", load_id="april")
    assert tables_of(warehouse) == {"t", LEDGER, QUARANTINE}
    assert_loaded_once(warehouse, 1)
    put(standin, f"{lake}/april", [1])
    assert warehouse.copy_from(bucket, "april", "t", load_id="april").rows == 1
    assert_loaded_once(warehouse, 2, loads=2)


def test_a_copy_needs_a_bucket_of_google(warehouse: BigQuery) -> None:
    """Another store, a folder whose name BigQuery would read as a pattern, and a load without a name are refused."""
    with pytest.raises(InvalidInputError, match="Google Cloud Storage only"):
        warehouse.copy_from(S3Bucket(bucket_name="raw"), "april", "t", load_id="x")
    with pytest.raises(InvalidInputError, match="wildcard"):
        warehouse.copy_from(GcsBucket(bucket="raw"), "a*", "t", load_id="x")
    with pytest.raises(InvalidInputError, match="load_id is empty"):
        warehouse.copy_from(GcsBucket(bucket="raw"), "april", "t", load_id="")


class Lake(LocalFiles):
    """The stand-in's folder of a bucket, under the bucket's address."""

    _block_type_slug = "test-bigquery-lake"

    def uri(self, key: str = "") -> str:
        """The address in the bucket."""
        return f"gs://{Path(self.basepath).name}/{key}"


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_rows_are_extracted_straight_into_a_bucket(
    warehouse: BigQuery, standin: BigQueryServer, file_format: Any
) -> None:
    """A folder holds the rows of the last call and nothing else, its neighbours are left alone."""
    bucket = Lake(basepath=str(standin.uris / f"lake_{warehouse.dataset}"))
    for key in ("orders/old.parquet", "orders2/kept.parquet"):
        bucket.write_path(key, b"old")
    warehouse.load(table_of([1, 2]), "t")
    warehouse.execute("CREATE VIEW v AS SELECT * FROM t")
    queries = ({"query": "SELECT * FROM t; "}, {"query": "SELECT * FROM t -- all of it"})
    for source in ({"table": "t"}, {"table": "t"}, {"table": "v"}, *queries):
        keys = warehouse.extract_to(bucket, "orders", **source, file_format=file_format)
        assert [item["Key"] for item in bucket.list_objects("orders")] == keys
        assert [key.endswith(f"-000000000000.{file_format}") for key in keys] == [True]
        assert sorted(bucket.read_table("orders").column("id").to_pylist()) == [1, 2]
    assert [item["Key"] for item in bucket.list_objects("orders2")] == ["orders2/kept.parquet"]
    jobs = [job for job in warehouse.get_client().list_jobs(max_results=20) if job.job_type == "extract"]
    assert jobs[0].destination_uris[0].startswith(f"gs://lake_{warehouse.dataset}/orders/")
    assert (jobs[0].destination_format, jobs[0].source.table_id) == (file_format.upper(), "t")


def test_an_extract_that_fails_deletes_nothing(warehouse: BigQuery, standin: BigQueryServer) -> None:
    """What the folder held is there still, also where the bucket is not Google's."""
    bucket = Lake(basepath=str(standin.uris / f"lake_{warehouse.dataset}"))
    bucket.write_path("orders/old.parquet", b"old")
    for source in ({"table": "nowhere"}, {"query": "SELECT * FROM nowhere"}):
        with pytest.raises(NotFoundError):
            warehouse.extract_to(bucket, "orders", **source)
    for neither_or_both in ({}, {"table": "t", "query": "SELECT * FROM t"}):
        with pytest.raises(InvalidInputError, match="either a table or query"):
            warehouse.extract_to(bucket, "orders", **neither_or_both)
    with pytest.raises(InvalidInputError, match="Google Cloud Storage only"):
        warehouse.extract_to(LocalFiles(basepath=bucket.basepath), "orders", "t")
    assert bucket.read_path("orders/old.parquet") == b"old"


# Faults

ARGUMENTS: dict[str, dict[str, Any]] = {"append": {}, "upsert": {"key": ["id"]}}


@pytest.fixture
def proxy(standin: BigQueryServer) -> Iterator[HttpFaultProxy]:
    with HttpFaultProxy(standin.url) as running:
        yield running


@pytest.fixture
def behind(warehouse: BigQuery, standin: BigQueryServer, proxy: HttpFaultProxy) -> Iterator[BigQuery]:
    """The dataset as a loader sees it, through the proxy."""
    with contextlib.closing(block(standin, url=proxy.url, dataset=warehouse.dataset)) as made:
        yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's client sends a request again at once."""
    quick = retry.DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.02)
    monkeypatch.setattr(retry, "DEFAULT_RETRY", quick)


def assert_loaded_once(warehouse: BigQuery, size: int, *, loads: int = 1) -> None:
    found = warehouse.fetch_one("SELECT count(*), count(DISTINCT id), COALESCE(sum(id), 0) FROM t")
    assert found == (size, size, size * (size - 1) // 2)
    assert count(warehouse, LEDGER) == loads


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("append", "drop_answer"),
        pytest.param("upsert", "refuse", marks=pytest.mark.thorough),
        pytest.param("append", "refuse", marks=pytest.mark.thorough),
        pytest.param("upsert", "drop_answer", marks=pytest.mark.thorough),
    ],
)
def test_every_request_may_be_lost(standin: BigQueryServer, proxy: HttpFaultProxy, mode: Any, fault: str) -> None:
    """Whichever request of a load is cut off, before or after the server did it, the rows are there once."""

    def load() -> tuple[BigQuery, Any]:
        made = block(standin, url=proxy.url)
        proxy.log.clear()
        return made, made.load(table_of(list(range(50))), "t", mode=mode, load_id="x", **ARGUMENTS[mode])

    load()
    requests = [f"{method} {path.partition('?')[0].rpartition('/v2/')[2]}" for method, path, _ in proxy.log]
    print(f"{mode}: {len(requests)} requests", *requests, sep="\n  ")  # noqa: T201 (for the notes)
    for number, request in enumerate(requests):
        getattr(proxy, fault)(".*", ".", skip=number, **({"status": 503} if fault == "refuse" else {}))
        proxy.faults_fired.clear()
        made, report = load()
        assert len(proxy.faults_fired) == 1, request
        assert report.rows == 50, request
        direct = block(standin, dataset=made.dataset)
        assert_loaded_once(direct, 50)
        assert {name for name in tables_of(direct) if not name.startswith(LOCK)} == {"t", LEDGER, QUARANTINE}, request
        made.close()


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", ["begin", "answer", "middle", "unavailable"])
def test_a_large_file_is_uploaded_in_pieces(
    behind: BigQuery, warehouse: BigQuery, proxy: HttpFaultProxy, fault: str
) -> None:
    """Whatever is lost of a resumable upload, its job runs once."""
    if fault == "begin":
        proxy.drop_answer("POST", "uploadType=resumable")
    elif fault == "answer":
        proxy.drop_answer("PUT", "upload_id")
    elif fault == "middle":
        proxy.reset_request("PUT", "upload_id", after_bytes=2**20)
    else:
        proxy.refuse("PUT", "upload_id", status=503)
    size = 12
    noise = [random.Random(n).randbytes(2**20) for n in range(size)]
    report = behind.load(pa.table({"id": range(size), "noise": noise}), "t")
    assert len(proxy.faults_fired) == 1
    assert report.rows == size
    assert_loaded_once(warehouse, size)
    assert warehouse.read_table("t").sort_by("id")["noise"].to_pylist() == noise


def test_the_transactions_answer_is_lost_for_long(
    behind: BigQuery, warehouse: BigQuery, proxy: HttpFaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody answers any more, the error says so and holds the load_id; the same call again finds the load."""
    monkeypatch.setattr("connectors.bigquery.jobs.QUICK_RETRY_S", 0.05)
    warehouse.load(table_of([]), "t", load_id="first")
    impatient = behind.model_copy(update={"retry": RetryPolicy(attempts=2, first_delay_s=0.01)})

    def fail() -> None:
        proxy.drop_answer("POST", "/jobs", skip=1, times=100)  # the upload of the rows is the first
        proxy.refuse("GET", "/jobs/", status=503, times=1_000)

    with pytest.raises(AmbiguousError, match="load_id='monday'"):
        impatient.load(opened(table_of([0, 1]), fail), "t", load_id="monday")
    assert warehouse.load(table_of([0, 1]), "t", load_id="monday").already_loaded
    assert_loaded_once(warehouse, 2, loads=2)


def test_a_transaction_whose_end_nobody_saw_is_resolved(
    behind: BigQuery,
    warehouse: BigQuery,
    standin: BigQueryServer,
    proxy: HttpFaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the service answers again its job is waited for, and the ledger says what came of it."""
    monkeypatch.setattr("connectors.bigquery.jobs.QUICK_RETRY_S", 0.05)
    warehouse.load(table_of([]), "t", load_id="first")
    impatient = behind.model_copy(update={"retry": RetryPolicy(attempts=2, first_delay_s=0.01)})
    wait_for_others = BigQuerySession.end_other_attempts

    def answer_again(self: BigQuerySession, load_id: str) -> None:
        proxy._faults.clear()
        threading.Timer(0.2, standin.release).start()
        wait_for_others(self, load_id)

    def fail() -> None:
        standin.hold("BEGIN TRANSACTION")
        proxy.drop_answer("POST", "/jobs", skip=1, times=100)
        proxy.refuse("GET", "/jobs/", status=503, times=1_000)

    monkeypatch.setattr(BigQuerySession, "end_other_attempts", answer_again)
    report = impatient.load(opened(table_of([0, 1]), fail), "t", load_id="monday")
    assert (report.rows, report.resolved_from_ledger) == (2, True)
    assert_loaded_once(warehouse, 2, loads=2)


def test_a_conflict_of_transactions_costs_a_generation(warehouse: BigQuery) -> None:
    """A job that was seen to fail for a moment is followed by one of the next generation, on the same stage."""
    warehouse.load(table_of([]), "t", load_id="first")
    session = BigQuerySession(warehouse, "monday")
    job_id = session._job_id("monday", 0)
    warehouse.get_client().query("SELECT * FROM nowhere", job_id=job_id, job_retry=None).exception()
    report = warehouse.load(table_of([0, 1]), "t", load_id="monday")
    assert (report.rows, report.already_loaded) == (2, False)
    assert not warehouse.get_client().get_job(session._job_id("monday", 1)).error_result
    assert_loaded_once(warehouse, 2, loads=2)


def test_a_load_that_was_forgotten_can_be_loaded_again(warehouse: BigQuery) -> None:
    """Its job is there for as long as BigQuery keeps jobs; without its row in the ledger it says nothing."""
    for times in (1, 2, 3):
        assert not warehouse.load(table_of([0, 1]), "t", load_id="monday").already_loaded
        assert count(warehouse) == 2 * times
        assert warehouse.load(table_of([0, 1]), "t", load_id="monday").already_loaded
        warehouse.execute(f"DELETE FROM {LEDGER} WHERE load_id = 'monday'")


@pytest.mark.usefixtures("hurried")
@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["drop_answer", "refuse"])
def test_every_request_of_a_copy_may_be_lost(standin: BigQueryServer, proxy: HttpFaultProxy, fault: str) -> None:
    """Whichever request is cut off, before or after the server did it, the files' rows are there once."""

    def copy() -> tuple[BigQuery, Any]:
        made = block(standin, url=proxy.url)
        put(standin, f"{made.dataset}/april", [0, 1])
        block(standin, dataset=made.dataset).load(table_of([]), "t", load_id="first")
        proxy.log.clear()
        return made, made.copy_from(GcsBucket(bucket=made.dataset), "april", "t", load_id="x")

    copy()
    requests = list(proxy.log)
    for number, request in enumerate(requests):
        getattr(proxy, fault)(".*", ".", skip=number, **({"status": 503} if fault == "refuse" else {}))
        proxy.faults_fired.clear()
        made, report = copy()
        assert len(proxy.faults_fired) == 1, request
        assert report.rows == 2, request
        direct = block(standin, dataset=made.dataset)
        assert_loaded_once(direct, 2, loads=2)
        assert {name for name in tables_of(direct) if not name.startswith(LOCK)} == {"t", LEDGER, QUARANTINE}, request
        made.close()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("source", [{"table": "t"}, {"query": "SELECT * FROM t"}])
def test_every_request_of_an_extract_may_be_lost(
    behind: BigQuery, warehouse: BigQuery, standin: BigQueryServer, proxy: HttpFaultProxy, source: dict[str, str]
) -> None:
    """Whichever answer is lost, the folder holds each row once."""
    bucket = Lake(basepath=str(standin.uris / f"lake_{warehouse.dataset}"))
    warehouse.load(table_of([1, 2]), "t")
    behind.extract_to(bucket, "orders", **source)
    for number, request in enumerate(list(proxy.log)):
        proxy.drop_answer(".*", ".", skip=number)
        behind.close()  # what it learned of the dataset is asked for again
        proxy.faults_fired.clear()
        behind.extract_to(bucket, "orders", **source)
        assert len(proxy.faults_fired) == 1, request
        assert sorted(bucket.read_table("orders").column("id").to_pylist()) == [1, 2], request


def script_of(load_id: str, rows: int) -> Any:
    started = dt.datetime(2026, 4, 30, tzinfo=dt.UTC)
    row = {"load_id": load_id, "table_name": "t", "mode": "append", "started_at": started, "report": "{}"}
    steps = (Step("INSERT INTO t (id, day, text) VALUES (7, 'mon', 'x')", "inserted"),)
    return transaction(Script(load_id, steps, rows, row), BigQueryDialect())


def test_the_script_itself_refuses_a_second_run(warehouse: BigQuery) -> None:
    """Also under another job id: the ledger's row, and a wrong number of rows, stop it, and nothing of it stays."""
    warehouse.load(table_of([0]), "t", load_id="first")
    session = BigQuerySession(warehouse)
    with pytest.raises(AlreadyExistsError, match="the ledger has this load"):
        session.jobs.run(*script_of("first", 1), ambiguous=True)
    with pytest.raises(TerminalError, match=r"differ in number\. Nothing was committed"):
        session.jobs.run(*script_of("second", 2), ambiguous=True)
    assert_loaded_once(warehouse, 1)
    session.jobs.run(*script_of("second", 1), ambiguous=True)
    assert (count(warehouse), count(warehouse, LEDGER)) == (2, 2)


def test_a_running_try_is_waited_for(warehouse: BigQuery, standin: BigQueryServer) -> None:
    """While the job of another try runs this one waits for it, and reports what it loaded."""
    warehouse.load(table_of([]), "t", load_id="first")
    standin.hold("BEGIN TRANSACTION")
    with ThreadPoolExecutor() as pool:
        tries = [pool.submit(warehouse.load, table_of([0, 1]), "t", load_id="monday") for _ in range(2)]
        eventually(standin.held)
        assert not any(each.done() for each in tries)
        standin.release()
        reports = [each.result(timeout=30) for each in tries]
    assert sorted(report.already_loaded for report in reports) == [False, True]
    assert_loaded_once(warehouse, 2, loads=2)


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Returns once the condition holds."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.02)


SIZE = 20_000
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["connectors.bigquery"])


def load_in_a_process(warehouse: BigQuery, mode: Any, amid: Any) -> None:
    def stay() -> None:
        if amid is not None:
            amid.set()
            threading.Event().wait()

    data = opened(table_of(list(range(SIZE))), stay)
    warehouse.load(data, "t", mode=mode, load_id="monday", **ARGUMENTS[mode])


@contextlib.contextmanager
def loader(warehouse: BigQuery, mode: Any, amid: Any = None) -> Iterator[Any]:
    """Another process that loads; it stays amid the rows where it is given an event to set."""
    process = processes.Process(target=load_in_a_process, args=(warehouse, mode, amid))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


@pytest.mark.parametrize("mode", ARGUMENTS)
def test_a_loader_is_killed_amid_the_rows(warehouse: BigQuery, mode: Any) -> None:
    """After kill -9 the same load starts at once and loads each row once."""
    warehouse.load(table_of([]), "t", load_id="first")
    reached = processes.Event()
    with loader(warehouse, mode, reached):
        assert reached.wait(60)
    report = warehouse.load(table_of(list(range(SIZE))), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
    assert (report.rows, report.already_loaded) == (SIZE, False)
    assert_loaded_once(warehouse, SIZE, loads=2)


STAGING, APPLYING = "_etl_stage_.*CREATE_NEVER|CREATE_NEVER.*_etl_stage_", "BEGIN TRANSACTION"


@pytest.mark.parametrize(
    ("mode", "moment"),
    [
        ("append", STAGING),
        ("upsert", APPLYING),
        pytest.param("append", APPLYING, marks=pytest.mark.thorough),
        pytest.param("upsert", STAGING, marks=pytest.mark.thorough),
    ],
)
def test_a_loader_is_killed_while_its_job_runs(
    warehouse: BigQuery, standin: BigQueryServer, mode: Any, moment: str
) -> None:
    """The server goes on without it: a transaction that it finishes is found, whatever else it does is nobody's."""
    warehouse.load(table_of([]), "t", load_id="first")
    standin.hold(moment)
    with loader(warehouse, mode):
        eventually(standin.held, 60)
    data, arguments = table_of(list(range(SIZE))), ARGUMENTS[mode]
    with ThreadPoolExecutor() as pool:
        again = pool.submit(warehouse.load, data, "t", mode=mode, load_id="monday", **arguments)
        standin.release()
        report = again.result(timeout=60)
    assert report.already_loaded == (moment == APPLYING)
    assert_loaded_once(warehouse, SIZE, loads=2)


@pytest.mark.usefixtures("hurried")
def test_a_statement_that_writes_runs_once(behind: BigQuery, warehouse: BigQuery, proxy: HttpFaultProxy) -> None:
    """If the answer to an INSERT, or to a whole sequence, is lost its job is found under its id."""
    warehouse.execute("CREATE TABLE t (id INT64)")
    proxy.drop_answer("POST", "/jobs")
    behind.execute("INSERT INTO t (id) VALUES (1)")
    proxy.drop_answer("POST", "/jobs")
    behind.execute_many("INSERT INTO t (id) VALUES (:id)", [{"id": 2}, {"id": 3}])
    assert len(proxy.faults_fired) == 2
    assert sorted(warehouse.fetch_all("SELECT id FROM t")) == [(1,), (2,), (3,)]


def test_a_server_that_is_gone_is_no_success(warehouse: BigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that may have run is ambiguous, a query is not; neither is taken for done."""
    monkeypatch.setattr("connectors.bigquery.jobs.QUICK_RETRY_S", 0.05)
    credentials = warehouse.gcp_credentials.model_copy(update={"endpoint_url": "http://127.0.0.1:1"})
    gone = warehouse.model_copy(
        update={"gcp_credentials": credentials, "location": "US", "retry": RetryPolicy(attempts=1)}
    )
    with pytest.raises(TransientError, match="bigquery://"):
        gone.fetch_all("SELECT 1")
    with pytest.raises(AmbiguousError, match="job etl_"):
        gone.execute("INSERT INTO t (id) VALUES (1)")
    with pytest.raises(AmbiguousError, match="job etl_"):
        gone.extract_to(GcsBucket(bucket="lake"), "orders", query="SELECT 1")
    with pytest.raises(TransientError):
        gone.check()
