"""BigQuery without a server: statements, names, types, parameters, errors."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from blocks.base.errors import (
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    SchemaError,
    TerminalError,
    ThrottledError,
    TransientError,
    TypeLossError,
    UnsupportedError,
)
from blocks.credentials.gcp import GcpCredentials
from blocks.warehouses.session import Script, Step

bigquery = pytest.importorskip("google.cloud.bigquery")
exceptions = pytest.importorskip("google.api_core.exceptions")

from connectors.bigquery import BigQuery  # noqa: E402
from connectors.bigquery.dialect import BigQueryDialect, arrow_type, sql_type  # noqa: E402
from connectors.bigquery.errors import CLAIMED, ERRORS, UNEQUAL, job_error, safe_words, translate  # noqa: E402
from connectors.bigquery.files import check_nulls, parquet_files  # noqa: E402
from connectors.bigquery.jobs import labels_of  # noqa: E402
from connectors.bigquery.session import BigQuerySession  # noqa: E402
from connectors.bigquery.statements import bound, query_parameter, transaction  # noqa: E402

DIALECT = BigQueryDialect()
CANARY = "c4n4ry"
# https://cloud.google.com/bigquery/docs/error-messages#errortable
REASONS = [
    *("accessDenied", "attributeError", "backendError", "badRequest", "billingNotEnabled", "billingTierLimitExceeded"),
    *("blocked", "bytesBilledLimitExceeded", "duplicate", "internalError", "invalid", "invalidQuery", "invalidUser"),
    *("jobBackendError", "jobInternalError", "jobRateLimitExceeded", "notFound", "notImplemented", "quotaExceeded"),
    *("rateLimitExceeded", "resourceInUse", "resourcesExceeded", "responseTooLarge", "stopped", "tableUnavailable"),
    "timeout",
]
VALUES = [
    "Bad int64 value: c4n4ry",
    'Could not cast literal "c4n4ry" to type INT64 at [1:13]',
    "Invalid timestamp: 'c4n4ry'",
    "Error while reading data, error message: Could not convert value to integer; Value: c4n4ry, field: id",
    "Query error: Division by zero: c4n4ry / 0 at [1:1]",
    "Required field id cannot be null; row c4n4ry",
    "Syntax error: Unclosed string literal at [1:8] 'c4n4ry",
]


def block(**options: Any) -> BigQuery:
    credentials = GcpCredentials(anonymous=True, endpoint_url="http://127.0.0.1:1")
    return BigQuery(gcp_credentials=credentials, **{"project": "p", "dataset": "ds", **options})


def failed(reason: str, words: str) -> Any:
    return SimpleNamespace(job_id="etl_1", error_result={"reason": reason, "message": words})


# Errors


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_a_failed_job_is_known(reason: str) -> None:
    """Each has a class, and a message with the job, its place and no value of a row."""
    assert reason in ERRORS
    for words in VALUES:
        error = job_error(failed(reason, words), "bigquery://p/ds")
        assert type(error) is (TerminalError if reason == "timeout" else ERRORS[reason])
        assert CANARY not in str(error)
        assert "job etl_1 in bigquery://p/ds" in str(error)
        assert reason in str(error)


def test_what_is_worth_a_retry() -> None:
    """The service's own trouble and conflicts of transactions are tried again; quotas of the day are not."""
    transient = {reason for reason in REASONS if issubclass(ERRORS[reason], TransientError)}
    assert transient == {
        *("backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded"),
        *("rateLimitExceeded", "resourceInUse", "tableUnavailable", "timeout"),
    }
    assert ERRORS["jobRateLimitExceeded"] is ThrottledError
    for words in (
        "Transaction is aborted due to concurrent update against table p:ds.t. Transaction ID: abc",
        "Could not serialize access to table p:ds.t due to concurrent update",
        "An internal error occurred and the request could not be completed. Retrying the job may solve the problem.",
    ):
        assert isinstance(job_error(failed("invalidQuery", words), "bigquery://p/ds"), TransientError)
    assert isinstance(job_error(failed("invalidQuery", "Column already exists: x"), "x"), AlreadyExistsError)


def test_the_scripts_own_errors_are_told_apart() -> None:
    """A load that the ledger has, and rows that got lost on the way, are not mistaken for a wrong query."""
    claimed = job_error(failed("invalidQuery", f"Query error: {CLAIMED} at [3:1]"), "bigquery://p/ds")
    unequal = job_error(failed("invalidQuery", f"Query error: {UNEQUAL} at [9:1]"), "bigquery://p/ds")
    assert (type(claimed), type(unequal)) == (AlreadyExistsError, TerminalError)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Not found: Table p:ds.t was not found in location EU", "Table p:ds.t was not found in location EU"),
        ("Unrecognized name: nothing at [1:8]", "unrecognized name: nothing at [1:8]"),
        ('Syntax error: Unexpected identifier "SELEKT" at [1:1]', "syntax error: Unexpected identifier"),
        ("Query exceeded limit for bytes billed: 100. 10485760 or higher required.", "10485760 or higher required"),
        ("Access Denied: Project p: User does not have bigquery.jobs.create permission", "bigquery.jobs.create"),
    ],
)
def test_words_without_values_are_passed_on(words: str, shown: str) -> None:
    """What is missing or not allowed is named."""
    assert shown in safe_words(words)


def test_errors_of_requests_hold_no_value() -> None:
    """The libraries' own exceptions, wrapped by a retry or not, lose the words that may hold one."""
    for words in VALUES:
        for status in (400, 403, 404, 409, 412, 429, 500, 503):
            error = exceptions.from_http_status(status, words, errors=[{"reason": "invalid", "message": words}])
            for wrapped in (error, exceptions.RetryError("Timeout of 10 s exceeded", error)):
                found = translate(wrapped, "run job etl_1 in bigquery://p/ds")
                assert isinstance(found, ConnectorError)
                assert CANARY not in str(found)
    lost = translate(ConnectionError("refused"), "run job etl_1 in bigquery://p/ds")
    assert isinstance(lost, TransientError)


# The block


def test_building_a_block_opens_nothing() -> None:
    """A block is made, shown and copied without a network; its dataset has to be a name."""
    made = block(labels={"team": "x"})
    assert made.uri("t") == "bigquery://p/ds.t"
    assert made.uri("other.t") == "bigquery://p/other.t"
    assert made.storage_client() is None
    with pytest.raises(ValueError, match="pattern"):
        block(dataset="no such name")


def test_a_job_is_labelled() -> None:
    """Labels are what BigQuery takes for one: small letters, digits, - and _, at most 63."""
    assert labels_of({"team": "x"}, "Ü/é 26" + "x" * 99) == {"team": "x", "etl_load": "____26" + "x" * 57}
    assert labels_of({}, None) == {}


# Statements


def columns(**types: pa.DataType) -> list[Any]:
    return [DIALECT.column(name, kind) for name, kind in types.items()]


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        (pa.date32(), " PARTITION BY `day` CLUSTER BY `shop`"),
        (pa.timestamp("us", "UTC"), " PARTITION BY TIMESTAMP_TRUNC(`day`, DAY) CLUSTER BY `shop`"),
        (pa.timestamp("us"), " PARTITION BY DATETIME_TRUNC(`day`, DAY) CLUSTER BY `shop`"),
        (pa.string(), " CLUSTER BY `shop`, `day`"),
        (pa.float64(), " CLUSTER BY `shop`"),
    ],
)
def test_a_new_table_is_partitioned(kind: pa.DataType, ending: str) -> None:
    """By day of the first date or time among partition_by; what else stands there sorts the table."""
    found = DIALECT.create_table("ds.t", columns(day=kind, shop=pa.int64()), partition_by=["shop", "day"])
    assert found.startswith("CREATE TABLE IF NOT EXISTS `ds`.`t` (`day` ")
    assert found.endswith(f"){ending}")


def test_a_key_sorts_a_new_table() -> None:
    """The key of an upsert is NOT NULL, and sorts by at most four columns; BigQuery enforces none."""
    key = list("abcde")
    found = DIALECT.create_table("t", columns(**dict.fromkeys("abcdef", pa.int64())), key=key, unique=True)
    assert "`e` INT64 NOT NULL, `f` INT64)" in found
    assert found.endswith(" CLUSTER BY `a`, `b`, `c`, `d`")


def test_staging_tables_go_by_themselves() -> None:
    """A stage expires after a day, and takes JSON as the text that load jobs can fill."""
    found = DIALECT.create_stage("s", columns(id=pa.int64(), j=pa.json_()))
    assert found == (
        "CREATE TABLE `s` (`id` INT64, `j` STRING) "
        "OPTIONS(expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR))"
    )
    assert "PARSE_JSON(s.`j`)" in DIALECT.insert("t", columns(j=pa.json_()), "s")
    assert DIALECT.truncate("t") == "DELETE FROM `t` WHERE TRUE"


def test_the_transaction_of_a_load_is_one_script() -> None:
    """It fails where the ledger has the load, counts its rows, and puts the counts into the report."""
    now = dt.datetime(2026, 4, 30, tzinfo=dt.UTC)
    script = Script(
        "monday",
        (Step("UPDATE 1", "updated"), Step("INSERT 1", "inserted"), Step("INSERT 2")),
        7,
        {"load_id": "monday", "flow_run_id": None, "started_at": now, "report": '{"inserted":-1,"updated":-1}'},
    )
    sql, parameters = transaction(script, DIALECT)
    assert sql == "\n".join(
        [
            "DECLARE etl_inserted, etl_updated, etl_deleted INT64 DEFAULT 0;",
            "BEGIN TRANSACTION;",
            (
                "IF EXISTS (SELECT 1 FROM `_etl_loads` WHERE load_id = @load_id) "
                f"THEN RAISE USING MESSAGE = '{CLAIMED}'; END IF;"
            ),
            "UPDATE 1;",
            "SET etl_updated = @@row_count;",
            "INSERT 1;",
            "SET etl_inserted = @@row_count;",
            "INSERT 2;",
            f"IF etl_inserted + etl_updated <> @etl_rows THEN RAISE USING MESSAGE = '{UNEQUAL}'; END IF;",
            (
                "INSERT INTO `_etl_loads` (load_id, flow_run_id, started_at, report) VALUES (@load_id, NULL, "
                "@started_at, "
                "REPLACE(REPLACE(@report, '\"updated\":-1', CONCAT('\"updated\":', CAST(etl_updated AS STRING))), "
                "'\"inserted\":-1', CONCAT('\"inserted\":', CAST(etl_inserted AS STRING))));"
            ),
            "COMMIT TRANSACTION",
        ]
    )
    found = {parameter.name: (parameter.type_, parameter.value) for parameter in parameters}
    assert found["etl_rows"] == ("INT64", 7)
    assert found["load_id"] == ("STRING", "monday")
    assert found["started_at"] == ("TIMESTAMP", now)


def test_the_id_of_a_loads_job_is_fixed() -> None:
    """By dataset, load and generation, and by nothing else; the stage is each try's own."""
    one, other = BigQuerySession(block(), "monday"), BigQuerySession(block(), "monday")
    assert one._job_id("monday", 0) == other._job_id("monday", 0)
    assert one.stage != other.stage
    ids = {BigQuerySession(block(dataset=name))._job_id(load, 0) for name in ("a", "b") for load in ("x", "y")}
    assert len(ids | {one._job_id("monday", 1)}) == 5


def test_a_transaction_fetches_nothing() -> None:
    """Its statements are run when it is committed; one of none, or one that is undone, sends nothing."""
    session = BigQuerySession(block())
    with session.transaction():
        pass
    session.begin()
    assert session.execute("DELETE FROM t WHERE TRUE") == -1
    with pytest.raises(UnsupportedError, match="nothing can be fetched"):
        session.fetch("SELECT 1")
    session.rollback()
    session.commit()


# Parameters


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :a", "SELECT @a"),
        ("SELECT ':a', \":a\", `:a`, 'it\\'s :a', r':a', :a", "SELECT ':a', \":a\", `:a`, 'it\\'s :a', r':a', @a"),
        ("SELECT '''x' :a\n''', :a -- :a\n", "SELECT '''x' :a\n''', @a -- :a\n"),
        ("SELECT /* :a */ :a # :a", "SELECT /* :a */ @a # :a"),
        ("SELECT :none IS NULL, :a", "SELECT NULL IS NULL, @a"),
    ],
)
def test_parameters_are_named_as_bigquery_has_it(sql: str, expected: str) -> None:
    """Outside of strings, quoted names and comments; a null needs no type where it stands for itself."""
    text, parameters = bound(sql, {"a": 1, "none": None})
    assert text == expected
    assert [parameter.name for parameter in parameters] == ["a"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "BOOL"),
        (1, "INT64"),
        (1.5, "FLOAT64"),
        ("x", "STRING"),
        (b"x", "BYTES"),
        (Decimal("1.5"), "NUMERIC"),
        (Decimal("0." + "1" * 10), "BIGNUMERIC"),
        (Decimal(10) ** 30, "BIGNUMERIC"),
        (dt.date(2026, 4, 30), "DATE"),
        (dt.time(1), "TIME"),
        (dt.datetime(2026, 4, 30), "DATETIME"),  # noqa: DTZ001
        (dt.datetime(2026, 4, 30, tzinfo=dt.UTC), "TIMESTAMP"),
    ],
)
def test_a_parameter_has_the_type_of_its_value(value: Any, kind: str) -> None:
    """Lists become arrays of it."""
    assert query_parameter("a", value).type_ == kind
    assert query_parameter("a", [value, value]).array_type == kind


def test_a_parameter_that_bigquery_has_no_type_for_is_refused() -> None:
    """The message names it and shows no value."""
    for value in ({CANARY: 1}, [], [1, CANARY]):
        with pytest.raises(InvalidInputError, match="'a'") as caught:
            query_parameter("a", value)
        assert CANARY not in str(caught.value)


# Types


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.decimal128(12, 2), "NUMERIC(12,2)"),
        (pa.decimal128(38, 9), "NUMERIC(38,9)"),
        (pa.decimal128(38, 8), "BIGNUMERIC(38,8)"),
        (pa.decimal128(38, 38), "BIGNUMERIC(38,38)"),
        (pa.decimal256(76, 38), "BIGNUMERIC(76,38)"),
        (pa.uint64(), "NUMERIC(20,0)"),
        (pa.uuid(), "STRING"),
        (pa.list_(pa.struct({"a b": pa.date32()})), "ARRAY<STRUCT<`a b` DATE>>"),
    ],
)
def test_a_type_has_a_column_that_holds_it(kind: pa.DataType, expected: str) -> None:
    """Decimals go into NUMERIC where they fit, else into BIGNUMERIC."""
    assert DIALECT.column("x", kind).sql_type == expected


@pytest.mark.parametrize("kind", [pa.decimal256(39, 0), pa.decimal256(76, 39), pa.list_(pa.json_())], ids=str)
def test_a_type_without_a_column_is_refused(kind: pa.DataType) -> None:
    """Larger decimals, and JSON within arrays, which no load job can fill."""
    with pytest.raises(TypeLossError, match="no type that holds every"):
        DIALECT.column("x", kind)


def test_columns_are_described_as_arrow() -> None:
    """What BigQuery says of a column is its exact Arrow type, and its type in DDL."""
    field = bigquery.SchemaField
    for described, arrow, ddl in (
        (field("x", "NUMERIC"), pa.decimal128(38, 9), "NUMERIC"),
        (field("x", "NUMERIC", precision=12, scale=2), pa.decimal128(12, 2), "NUMERIC(12,2)"),
        (field("x", "BIGNUMERIC"), pa.decimal256(76, 38), "BIGNUMERIC"),
        (field("x", "STRING", max_length=9), pa.string(), "STRING(9)"),
        (field("x", "INTEGER", mode="REPEATED"), pa.list_(pa.int64()), "ARRAY<INT64>"),
        (
            field("x", "RECORD", fields=[field("a", "FLOAT")]),
            pa.struct({"a": pa.float64()}),
            "STRUCT<`a` FLOAT64>",
        ),
    ):
        assert (arrow_type(described), sql_type(described)) == (arrow, ddl)
    with pytest.raises(ConnectorError, match="'x' is of BigQuery's type INTERVAL; cast it"):
        arrow_type(field("x", "INTERVAL"))


@pytest.mark.parametrize("name", ["a`b", 'say "hi"', "a.b", "😀", "x" * 301, "new\nline", "", "_PARTITIONTIME"])
def test_a_name_that_bigquery_does_not_take_is_refused(name: str) -> None:
    """Before anything is sent, and the message says which one."""
    with pytest.raises(SchemaError, match="BigQuery"):
        DIALECT.column(name, pa.int64())


@pytest.mark.parametrize(
    "values",
    [[None], [[1, None]], [[1], None]],
    ids=str,
)
def test_a_null_array_is_refused(values: list[Any]) -> None:
    """BigQuery would keep it as an empty one; also within a struct."""
    with pytest.raises(SchemaError, match=r"'x'.* no NULL instead of an array"):
        check_nulls("x", pa.array(values, pa.list_(pa.int64())))
    inner = pa.array([{"a": value} for value in values], pa.struct({"a": pa.list_(pa.int64())}))
    with pytest.raises(SchemaError, match=r"'x\.a'"):
        check_nulls("x", inner)
    check_nulls("x", pa.array([[], [1]], pa.list_(pa.int64())))
    check_nulls("x", pa.array([None, {"a": []}], inner.type))


def test_files_are_made_as_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is whole once it has its size; those that come later are larger, and no batch is read ahead."""
    monkeypatch.setattr("connectors.bigquery.files.PART_BYTES", 10_000)
    monkeypatch.setattr("connectors.bigquery.files.PARTS_OF_A_SIZE", 2)
    batch = pa.RecordBatch.from_pydict({"id": list(range(5_000)), "j": [None] * 5_000})
    taken = []
    batches = (taken.append(number) or batch for number in itertools.count())
    files = parquet_files(batch.schema, batches)
    sizes, rows = [], 0
    for number, file, count in itertools.islice(files, 6):
        sizes.append(file.tell())
        rows += count
        assert (number, rows) == (len(sizes) - 1, len(taken) * 5_000)
        file.close()
    files.close()
    assert sizes[0] >= 10_000
    assert sizes[2] >= 20_000
    assert sizes[4] >= 40_000
    assert list(parquet_files(batch.schema, iter([batch.slice(0, 0)]))) == []
