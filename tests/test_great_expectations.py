"""Great Expectations: what a suite says of data, wherever it is, and what is told of it."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import json
import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import flow_run
from pydantic import ValidationError

from blocks.arrow.rejects import AUDITED
from blocks.arrow.scan import Scan
from blocks.base.errors import InvalidInputError, NotFoundError, QualityError, TransientError, UnsupportedError
from blocks.base.retry import RetryPolicy
from blocks.quality.report import Audit, ChecksFailedError, QualityReport
from connectors.duckdb import DuckDB
from connectors.great_expectations import DataQuality, Expectation
from connectors.local import LocalFiles, MemoryFiles
from connectors.local.memory_client import MemoryStoreClient

for package in ("great_expectations", "duckdb_engine"):  # importing them takes seconds of each process that collects
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
pd = pytest.importorskip("pandas")

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
CANARY = "c4n4ry-value"
AMOUNT = Decimal("7654321.98")

ORDERS = pa.table(
    {
        "order_id": pa.array([1, 2, 2, None, 5, 6], pa.int64()),
        "amount": pa.array([Decimal(1), Decimal("2.50"), AMOUNT, Decimal(-4), None, Decimal(6)], pa.decimal128(12, 2)),
        "status": ["new", "paid", "paid", CANARY, "new", None],
        "email": ["a1@x.io", "b2@x.io", "c3@x.io", f"{CANARY}\\d", "e5@x.io", "100%"],
        "day": [dt.date(2026, 4, day) for day in range(1, 7)],
    }
)


def expect(kind: str, severity: str = "fail", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


EVERYTHING = [
    expect("column_values_to_not_be_null", "quarantine", column="order_id"),
    expect("column_values_to_be_unique", "quarantine", column="order_id"),
    expect("column_values_to_be_between", "quarantine", column="amount", min_value=0, max_value=1000),
    expect("column_values_to_be_between", "quarantine", column="day", min_value="2026-04-02"),
    expect("column_values_to_be_in_set", "quarantine", column="status", value_set=["new", "paid"]),
    expect("column_values_to_match_regex", "quarantine", column="email", regex=r"^[a-z]\d@x\.io$"),
    expect("column_values_to_not_match_regex", "quarantine", column="email", regex=r"^\d"),
    expect("column_value_lengths_to_be_between", "quarantine", column="email", max_value=8),
    expect("compound_columns_to_be_unique", "warn", column_list=["order_id", "status"]),
    expect("column_pair_values_to_be_equal", "quarantine", column_A="order_id", column_B="amount"),
    expect("column_values_to_be_null", "warn", column="status"),
    expect("table_row_count_to_be_between", min_value=6, max_value=6),
    expect("column_mean_to_be_between", column="amount", min_value=1_000_000),
    expect("column_sum_to_be_between", column="order_id", max_value=16),
    expect("column_unique_value_count_to_be_between", column="status", min_value=3, max_value=3),
    expect("column_max_to_be_between", "warn", column="amount", max_value=1000),
    expect("column_median_to_be_between", column="order_id", min_value=2, max_value=2),
    expect("column_to_exist", column="day"),
    expect("table_columns_to_match_set", column_set=["order_id", "amount", "status", "email", "day"]),
]
COUNTS = [1, 2, 2, 1, 1, 2, 1, 1, 2, 4, 5, None, None, None, None, None, None, None, None]
"""For how many rows each of them does not hold, whoever counts."""
BROKEN_QUIETLY = {
    "expect_column_max_to_be_between",
    "expect_column_values_to_be_null",
    "expect_compound_columns_to_be_unique",
}
REJECTED = {
    "column_values_to_not_be_null(order_id)": {4},
    "column_values_to_be_unique(order_id)": {2, 3},
    "column_values_to_be_between(amount)": {3, 4},
    "column_values_to_be_between(day)": {1},
    "column_values_to_be_in_set(status)": {4},
    "column_values_to_match_regex(email)": {4, 6},
    "column_values_to_not_match_regex(email)": {6},
    "column_value_lengths_to_be_between(email)": {4},
    "column_pair_values_to_be_equal(order_id, amount)": {2, 3, 4, 5},
}
"""The day of the month of each row that is rejected for a reason."""


def quality(*expectations: dict[str, Any], **fields: Any) -> DataQuality:
    return DataQuality(
        **{"suite_name": "orders", "expectations": list(expectations), "key": ["order_id", "day"], **fields}
    )


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDB]:
    with contextlib.closing(DuckDB(path=str(tmp_path_factory.mktemp("shop") / "shop.duckdb"))) as block:
        block.load(ORDERS, "orders")
        block.load(ORDERS, "Odd Table")
        yield block


@pytest.fixture(scope="module")
def bucket() -> MemoryFiles:
    block = MemoryFiles()
    block.write_table(ORDERS, "orders")
    return block


def places(warehouse: DuckDB, bucket: MemoryFiles) -> dict[str, tuple[Any, dict[str, str]]]:
    batches = ORDERS.to_batches(max_chunksize=2)
    return {
        "scan": (Scan(ORDERS.schema, lambda _: batches, source="batches of two"), {}),
        "reader": (pa.RecordBatchReader.from_batches(ORDERS.schema, batches), {}),
        "table": (warehouse, {"table": "orders"}),
        "odd table": (warehouse, {"table": "Odd Table"}),
        "query": (warehouse, {"query": "with o as (select * from orders) select * from o -- all;"}),
        "bucket": (bucket, {"prefix": "orders"}),
    }


def rejected_days(audit: Audit) -> dict[str, set[int]]:
    days: dict[str, set[int]] = {}
    for row in audit.rejected.to_pylist():
        days.setdefault(row["reason"].removeprefix("expect_"), set()).add(row["day"].day)
    return days


@pytest.mark.parametrize("place", ["scan", "reader", "table", "odd table", "query", "bucket"])
def test_the_same_suite_counts_the_same_everywhere(warehouse: DuckDB, bucket: MemoryFiles, place: str) -> None:
    """Tables, queries, scans and folders: the same rows fail, and their keys come with their own types."""
    data, where = places(warehouse, bucket)[place]
    audit = quality(*EVERYTHING, max_rejected=1).audit(data, **where)
    report = audit.report
    assert [check.failed_rows for check in report.checks] == COUNTS
    assert {check.check for check in report.warnings} == BROKEN_QUIETLY
    assert (report.passed, report.rows, report.rows_quarantined) == (True, 6, 6)
    assert audit.rejected.column_names == ["order_id", "day", "reason"]
    assert audit.rejected.schema.types == [pa.int64(), pa.date32(), pa.string()]
    assert audit.rejected.num_rows == 15
    assert rejected_days(audit) == REJECTED


def test_a_pandas_frame_counts_the_same() -> None:
    """It is checked as it is, in memory: bounds of other types than its values have cannot be compared with them."""
    frame = ORDERS.to_pandas(date_as_object=False).astype({"amount": float})
    frame.index = [7] * len(frame)
    audit = quality(*EVERYTHING, max_rejected=1).audit(frame, raise_on_failure=False)
    assert [check.failed_rows for check in audit.report.checks] == [*COUNTS[:3], None, *COUNTS[4:]]
    assert "could not be evaluated: Great Expectations could not evaluate it (" in audit.report.checks[3].detail
    assert {check.check for check in audit.report.warnings} == BROKEN_QUIETLY
    assert {name: days for name, days in REJECTED.items() if "day" not in name} == rejected_days(audit)
    assert audit.report.rows == 6


def test_a_polars_frame_and_dicts_are_taken() -> None:
    """Whatever holds a table is."""
    polars = pytest.importorskip("polars")
    suite = quality(expect("column_values_to_be_unique", column="a"), key=[])
    for data in (polars.DataFrame({"a": [1, 2]}), [{"a": 1}, {"a": 2}]):
        assert suite.validate(data).rows == 2


# The intents of prefect-great-expectations


NEWEST: dict[str, Any] = {"limit": 100, "sort": "ID_DESC"}
GOOD = [expect("column_values_to_be_between", column="amount", min_value=0)]
SMALL = pa.table({"order_id": [1, 2], "amount": [1.5, 2.5]})
BAD = pa.table({"order_id": [1, 2], "amount": [1.5, -2.5]})


@pytest.mark.usefixtures("prefect_server")
def test_in_a_flow_it_is_a_task_run_with_a_page() -> None:
    """By the name of a saved block: a failed validation raises and has its report; both leave an artifact."""
    quality(*GOOD, suite_name="Nightly orders").save("nightly", overwrite=True)

    own: list[str] = []

    @flow
    def nightly(data: str) -> QualityReport:
        own.append(flow_run.id)
        return DataQuality.load("nightly").validate(SMALL if data == "good" else BAD, run_name=f"run {data}")

    assert nightly("good").passed
    with pytest.raises(ChecksFailedError) as failed:
        nightly("bad")
    assert failed.value.report.failures[0].failed_rows == 1
    assert failed.value.report.run_name == "run bad"
    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_task_runs(**NEWEST) if str(run.flow_run_id) in own]
        ours = ArtifactFilter(key=ArtifactFilterKey(any_=["quality-nightly-orders"]))
        pages = [each.data for each in client.read_artifacts(artifact_filter=ours)]
    assert sorted(run.state_name for run in runs) == ["Completed", "Failed"]
    assert all(run.run_count == 1 for run in runs)  # a retry would not help
    assert sorted(page.splitlines()[0] for page in pages) == ["# Nightly orders: failed", "# Nightly orders: passed"]


def test_a_failure_raises_unless_told_otherwise() -> None:
    """By default; the block may say otherwise, and the call goes before the block."""
    loud, quiet = quality(*GOOD), quality(*GOOD, raise_on_failure=False)
    with pytest.raises(ChecksFailedError, match=r"orders does not hold for the data: .*\(amount\): 1 of 2 rows"):
        loud.validate(BAD)
    assert not loud.validate(BAD, raise_on_failure=False).passed
    assert not quiet.validate(BAD).passed
    with pytest.raises(ChecksFailedError):
        quiet.validate(BAD, raise_on_failure=True)


def test_a_run_has_a_name() -> None:
    """The given one, else the time."""
    assert quality(*GOOD).validate(SMALL, run_name="April").run_name == "April"
    assert quality(*GOOD).validate(SMALL).run_name.startswith("20")


def test_a_suite_has_a_severity_for_each() -> None:
    """Only `fail` refuses the data."""
    warns = quality(expect("column_values_to_be_between", "warn", column="amount", min_value=0)).validate(BAD)
    assert (warns.passed, len(warns.warnings)) == (True, 1)


# Suites from elsewhere


NEW = {
    "name": "shop",
    "id": "f6e8b8b0-0000-4000-8000-000000000000",
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "amount", "min_value": 0, "batch_id": "x"},
            "meta": {"owner": "ann"},
            "severity": "critical",
            "id": "f6e8b8b0-0000-4000-8000-000000000001",
            "description": "No refunds here.",
        },
        {"type": "expect_column_to_exist", "kwargs": {"column": "order_id"}, "meta": None, "severity": "info"},
    ],
    "meta": {"great_expectations_version": "1.24.1"},
    "notes": None,
}
OLD = {
    "expectation_suite_name": "shop",
    "data_asset_type": None,
    "expectations": [
        {
            "expectation_type": "expect_column_values_to_be_between",
            "kwargs": {"column": "amount", "min_value": 0},
            "meta": {"owner": "ann", "description": "No refunds here."},
        },
        {"expectation_type": "expect_column_to_exist", "kwargs": {"column": "order_id"}},
    ],
}


def test_a_suite_of_each_spelling_loads(tmp_path: Path) -> None:
    """Of Great Expectations 1.x and 0.x, as a dict or a file."""
    (tmp_path / "shop.json").write_text(json.dumps(NEW))
    new = DataQuality.from_suite(tmp_path / "shop.json", raise_on_failure=False)
    old = DataQuality.from_suite(OLD, raise_on_failure=False)
    assert new.suite_name == old.suite_name == "shop"
    assert [each.severity for each in new.expectations] == ["fail", "warn"]
    assert new.expectations[0] == old.expectations[0]
    assert new.expectations[0].meta == {"owner": "ann", "description": "No refunds here."}
    assert [check.passed for check in new.validate(BAD).checks] == [False, True]


@pytest.mark.parametrize("place", ["yaml", "answer", "list", "attributes"])
def test_a_suite_of_the_cloud_and_of_yaml_loads(tmp_path: Path, place: str) -> None:
    """What GX Cloud answers or exports, with what it keeps beside a suite, and a file of YAML."""
    suite = NEW | {
        "expectations": [each | {"created_at": "2026", "rendered_content": []} for each in NEW["expectations"]]
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(suite))
    given = {
        "yaml": tmp_path / "shop.yaml",
        "answer": {"data": suite | {"created_by_id": "x"}},
        "list": {"data": [suite]},
        "attributes": {"data": {"id": "x", "type": "expectation_suite", "attributes": {"suite": suite}}},
    }[place]
    assert DataQuality.from_suite(given) == DataQuality.from_suite(NEW)


def test_arguments_of_0_x_are_taken_or_refused_by_name() -> None:
    """Those that say how it was run, or nothing, are left out; those that change the verdict are refused."""
    (old, _) = OLD["expectations"]
    run = {"result_format": "BASIC", "include_config": True, "catch_exceptions": False, "auto": False, "mostly": None}
    taken = DataQuality.from_suite(OLD | {"expectations": [old | {"kwargs": old["kwargs"] | run}]})
    assert taken.expectations == DataQuality.from_suite(OLD).expectations[:1]
    for name in ("parse_strings_as_datetimes", "allow_cross_type_comparisons", "ties_okay"):
        refused = DataQuality.from_suite(OLD | {"expectations": [old | {"kwargs": old["kwargs"] | {name: True}}]})
        with pytest.raises(InvalidInputError, match=f"does not take these arguments: {name}"):
            refused.check()
    with pytest.raises(InvalidInputError, match=r"cannot be a block: expectations\.0\.colour"):
        DataQuality.from_suite(NEW | {"expectations": [old | {"colour": "red"}]})


def test_its_own_objects_are_taken_and_given_back() -> None:
    """A suite in Python goes in, comes out as it was, and a severity that it has no word for survives."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    unique = gxe.ExpectColumnValuesToBeUnique(column="order_id", severity="warning")
    suite = gx.ExpectationSuite(name="shop", expectations=[unique])
    block = DataQuality.from_suite(suite)
    assert block.expectations == [Expectation(**expect("column_values_to_be_unique", "warn", column="order_id"))]
    assert block.to_suite().expectations[0] == unique
    assert DataQuality(suite_name="shop", expectations=[unique]) == block
    strict = quality(expect("column_values_to_be_unique", "quarantine", column="order_id"))
    again = DataQuality.from_suite(strict.to_suite(), key=strict.key)
    assert again.expectations == strict.expectations


@pytest.mark.parametrize("suite", ["/nowhere/shop.json", {"name": "x"}, 7])
def test_what_is_no_suite_is_refused(suite: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"is not a suite|Could not read a suite"):
        DataQuality.from_suite(suite)


# Quarantine


def test_rows_are_quarantined_up_to_a_share(warehouse: DuckDB) -> None:
    """More of them are an error, before their keys are fetched; a validation that does not raise only counts them."""
    suite = quality(expect("column_values_to_be_between", "quarantine", column="amount", min_value=0), max_rejected=0.2)
    audit = suite.audit(warehouse, table="orders")
    assert (audit.report.passed, audit.report.rows_quarantined, audit.rejected.num_rows) == (True, 1, 1)
    for call in (suite.audit, suite.validate):
        with pytest.raises(QualityError, match=r"1 of 6 rows would be quarantined .* allows 10.00%"):
            call(warehouse, table="orders", max_rejected=0.1)
    assert suite.validate(warehouse, table="orders", max_rejected=0, raise_on_failure=False).rows_quarantined == 1


def test_mostly_is_a_tolerance(warehouse: DuckDB) -> None:
    """What it lets pass is not quarantined."""
    suite = quality(expect("column_values_to_be_between", "quarantine", column="amount", min_value=0, mostly=0.5))
    audit = suite.audit(warehouse, table="orders")
    assert audit.rejected.num_rows == 0
    assert audit.rejected.schema.types == [pa.int64(), pa.date32(), pa.string()]


def test_rows_outside_of_its_condition_stay(warehouse: DuckDB) -> None:
    """An expectation with a condition rejects only rows for which that is true."""
    paid = {"type": "comparison", "column": {"name": "status"}, "operator": "==", "parameter": "paid"}
    suite = quality(
        expect("column_values_to_be_between", "quarantine", column="order_id", min_value=100, row_condition=paid),
        max_rejected=1,
    )
    assert {row["day"].day for row in suite.audit(warehouse, table="orders").rejected.to_pylist()} == {2, 3}


def test_rows_that_cannot_be_named_are_an_error(warehouse: DuckDB) -> None:
    """Great Expectations counts duplicates over several columns in SQL, and does not say which rows they are."""
    suite = quality(
        expect("compound_columns_to_be_unique", "quarantine", column_list=["order_id", "status"]), max_rejected=1
    )
    with pytest.raises(UnsupportedError, match="does not hold for 2 rows, and Great Expectations names 0 of them"):
        suite.audit(warehouse, table="orders")


@pytest.mark.parametrize(
    "kind", ["column_mean_to_be_between", "column_values_to_be_of_type", "table_row_count_to_equal"]
)
def test_only_rows_can_be_quarantined(kind: str) -> None:
    with pytest.raises(ValidationError, match="does not check single rows"):
        quality(expect(kind, "quarantine", column="a"))


def test_a_quarantine_needs_a_key() -> None:
    with pytest.raises(ValidationError, match="needs key"):
        quality(expect("column_values_to_be_unique", "quarantine", column="a"), key=[])


def test_only_audited_rows_are_published(tmp_path: Path) -> None:
    """A row that was changed under its key since is refused, also where the audit rejected none."""
    with contextlib.closing(DuckDB(path=str(tmp_path / "shop.duckdb"))) as shop:
        shop.load(ORDERS, "staged")
        suite = quality(*[each | {"severity": "quarantine"} for each in GOOD], max_rejected=1)
        for audited in (quality(), suite):
            audit = audited.audit(shop, table="staged")
            shop.execute("UPDATE staged SET amount = 1 + amount WHERE day = '2026-04-06'")
            with pytest.raises(InvalidInputError, match="staged was changed since it was audited"):
                shop.publish("staged", "orders", rejected=audit.rejected, max_rejected=1)
        again = suite.audit(shop, table="staged")
        assert shop.publish("staged", "orders", rejected=again.rejected, max_rejected=1).rows == 5


def test_a_table_that_changes_while_it_is_audited_is_audited_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a temporary error: nobody can tell which of its rows were seen."""
    original, left = MemoryStoreClient.put, [1]

    def put(self: MemoryStoreClient, key: str, *args: Any) -> Any:
        if left:
            left.pop()
            shop.execute("UPDATE staged SET amount = 0 WHERE day = '2026-04-06'")
        return original(self, key, *args)

    monkeypatch.setattr(MemoryStoreClient, "put", put)
    with contextlib.closing(DuckDB(path=str(tmp_path / "shop.duckdb"))) as shop:
        shop.load(ORDERS, "staged")
        suite = quality(docs=MemoryFiles(), retry=RetryPolicy(attempts=1))
        with pytest.raises(TransientError, match="was changed while it was checked"):
            suite.audit(shop, table="staged")
        assert AUDITED in suite.audit(shop, table="staged").rejected.schema.metadata


# What goes wrong


def test_check_names_the_nearest_type() -> None:
    """And says which argument does not fit."""
    assert quality(*GOOD).check() == "orders has 1 expectations, all of them known."
    with pytest.raises(InvalidInputError, match="Did you mean expect_column_values_to_be_unique"):
        quality(expect("column_values_to_be_uniqe", column="a")).check()
    with pytest.raises(InvalidInputError, match=r"does not take these arguments: .*colum"):
        quality(expect("column_values_to_be_unique", colum="a")).check()


def test_what_cannot_be_evaluated_fails_in_our_words(warehouse: DuckDB) -> None:
    """Each by itself; the others keep their results."""
    suite = quality(
        expect("column_values_to_be_between", column="nope", min_value=0),
        expect("column_values_to_be_between", column="status", min_value=0),
        expect("column_values_to_match_strftime_format", column="status", strftime_format="%Y"),
        *GOOD,
        raise_on_failure=False,
    )
    for data, where in ((ORDERS, {}), (warehouse, {"table": "orders"})):
        *broken, good = suite.validate(data, **where).checks
        assert good.failed_rows == 1
        reasons = [check.detail.partition("could not be evaluated: ")[2] for check in broken]
        assert reasons == [
            "there is no column nope",
            "it cannot be asked of a column of type VARCHAR",
            "it cannot be asked in SQL here; pass a pandas frame",
        ]


UNASKABLE = {
    "missing column": expect("column_values_to_be_between", column="nope", min_value=0),
    "numbers of text": expect("column_values_to_be_between", column="status", min_value=0),
    "parameter": expect("column_values_to_be_between", column="amount", min_value={"$PARAMETER": "least"}),
    "SQL only": expect("column_values_to_match_like_pattern", column="status", like_pattern="n%"),
    "pandas only": expect("column_values_to_match_strftime_format", column="status", strftime_format="%Y"),
    "no such condition": expect("column_values_to_be_unique", column="order_id", row_condition="nope > 1"),
    "another zone": expect("column_values_to_be_between", column="at", min_value="2026-01-01 00:00:00"),
}
ASKED_ANYWAY = {
    ("SQL only", "scan"),
    ("SQL only", "table"),
    ("pandas only", "frame"),
    ("another zone", "scan"),  # in SQL a bound without a zone is one in UTC
    ("another zone", "table"),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("place", ["frame", "scan", "table"])
@pytest.mark.parametrize("what", UNASKABLE)
def test_never_evaluated_is_never_passed(tmp_path: Path, place: str, what: str) -> None:
    """Whatever follows from a failure, an expectation that could not be asked refuses the data, and says why."""
    data = ORDERS.append_column("at", pa.array([dt.datetime(2026, 4, 1, tzinfo=dt.UTC)] * 6, pa.timestamp("us", "UTC")))
    with contextlib.closing(DuckDB(path=str(tmp_path / "shop.duckdb"))) as warehouse:
        warehouse.load(data, "orders")
        given, where = {"frame": (data.to_pandas(), {}), "scan": (data, {}), "table": (warehouse, {"table": "orders"})}[
            place
        ]
        for severity in ("quarantine", "warn", "fail"):
            suite = quality(UNASKABLE[what] | {"severity": severity}, raise_on_failure=False, max_rejected=1)
            report = suite.validate(given, **where)
            if (what, place) in ASKED_ANYWAY:
                assert report.checks[0].evaluated
                continue
            assert not report.passed
            assert (report.failures, report.warnings) == (report.checks, ())
            assert "could not be evaluated: " in str(report)
            assert "not evaluated" in report.markdown()
            with pytest.raises(ChecksFailedError, match="could not be evaluated"):
                suite.audit(given, **where, raise_on_failure=True)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("place", ["frame", "scan", "bucket", "table"])
@pytest.mark.parametrize(
    "expected",
    [
        expect("table_columns_to_match_ordered_list", column_list=["order_id", "amount", "status", "email"]),
        expect("table_columns_to_match_set", column_set=["order_id", "amount", "status", "email"]),
        expect("table_column_count_to_equal", value=4),
        expect("table_column_count_to_be_between", max_value=4),
        expect("column_to_exist", column="email", column_index=2),
    ],
    ids=lambda expected: expected["type"],
)
def test_the_columns_that_are_judged_are_those_of_the_data(
    warehouse: DuckDB, bucket: MemoryFiles, place: str, expected: dict[str, Any]
) -> None:
    """A column too many, or in another place, is seen also where the other expectations need few columns."""
    given, where = {"frame": (ORDERS.to_pandas(), {}), "scan": (ORDERS, {})}.get(place) or places(warehouse, bucket)[
        place
    ]
    others = expect("column_values_to_not_be_null", column="email")
    report = quality(expected, others, raise_on_failure=False).validate(given, **where)
    assert [check.check for check in report.failures] == [expected["type"]]


@pytest.mark.parametrize("place", ["frame", "scan", "table"])
def test_what_has_checked_nothing_says_so(warehouse: DuckDB, place: str) -> None:
    """No expectations, no rows, no row that meets the condition: the report and the log say it; it can be refused."""
    unique = expect("column_values_to_be_unique", column="order_id")
    of_none = unique | {"kwargs": {**unique["kwargs"], "row_condition": "order_id > 100"}}
    warehouse.load(ORDERS.slice(0, 0), "nothing", mode="replace")
    for rows, expectations, why in (
        (ORDERS, [], "the suite has no checks"),
        (ORDERS.slice(0, 0), [unique], "there are no rows"),
        (ORDERS, [of_none], "had no row to look at"),
    ):
        table = "orders" if rows.num_rows else "nothing"
        given, where = {"frame": (rows.to_pandas(), {}), "scan": (rows, {})}.get(place, (warehouse, {"table": table}))
        report = quality(*expectations).validate(given, **where)
        assert report.passed
        assert f"nothing was checked: {why}" in str(report).replace("expect_column_values_to_be_unique(order_id) ", "")
        with pytest.raises(QualityError, match="Rows are required"):
            quality(*expectations, require_rows=True).validate(given, **where)
    assert (
        quality(expect("column_values_to_not_be_null", column="day"), require_rows=True).validate(ORDERS).unused == ()
    )


def test_parameters_take_their_place(warehouse: DuckDB) -> None:
    """As in Great Expectations' own validation, also where rows are set aside."""
    suite = quality(
        expect("column_values_to_be_between", "quarantine", column="amount", min_value={"$PARAMETER": "least"}),
        max_rejected=1,
    )
    for given, where in ((ORDERS.to_pandas(), {}), (ORDERS, {}), (warehouse, {"table": "orders"})):
        audit = suite.audit(given, **where, parameters={"least": 3})
        assert rejected_days(audit) == {"column_values_to_be_between(amount)": {1, 2, 4}}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "condition",
    [
        'status == "paid"',
        'col("status") == "paid"',
        "status.notnull() and order_id in [2]",
        "order_id > 1 and order_id < 5",
        "1 < order_id <= 4",
        '(col("status").notNull()) & (`order_id` == 2)',
        '2 == order_id and status == "paid"',
        {"type": "comparison", "column": {"name": "status"}, "operator": "==", "parameter": "paid"},
    ],
    ids=str,
)
def test_a_condition_is_asked_of_any_data(warehouse: DuckDB, condition: Any) -> None:
    """Comparisons in the words of pandas or of Great Expectations, and its own conditions; each can be stored."""
    suite = quality(
        expect("column_values_to_be_unique", column="order_id", row_condition=condition), raise_on_failure=False
    )
    suite = DataQuality.model_validate_json(suite.model_dump_json())
    for given, where in ((ORDERS.to_pandas(), {}), (ORDERS, {}), (warehouse, {"table": "orders"})):
        (check,) = suite.validate(given, **where).checks
        assert (check.rows, check.failed_rows) == (2, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Great Expectations, on conditions that are texts
@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("condition", "parser"),
    [
        ('status.str.startswith("p")', "pandas"),
        ("status == email", "pandas"),
        ("status LIKE 'p%'", "spark"),
        ('col("status").notNull() and then some', "great_expectations"),
    ],
)
def test_a_condition_that_is_not_understood_is_said(warehouse: DuckDB, condition: str, parser: str) -> None:
    """It is not asked in part; pandas is asked what is written for it."""
    suite = quality(
        expect("column_values_to_be_unique", column="day", row_condition=condition, condition_parser=parser),
        raise_on_failure=False,
    )
    for place, given, where in (
        ("frame", ORDERS.to_pandas(), {}),
        ("scan", ORDERS, {}),
        ("table", warehouse, {"table": "orders"}),
    ):
        report = suite.validate(given, **where)
        if (place, parser) == ("frame", "pandas"):
            assert report.checks[0].evaluated
            continue
        assert (report.passed, "its row_condition is not one of comparisons" in str(report)) == (False, True)
    half = expect(
        "column_values_to_be_unique", column="day", row_condition="day >", condition_parser="great_expectations"
    )
    with pytest.raises(InvalidInputError, match="its row_condition is not one of comparisons"):
        quality(half).check()


@pytest.mark.parametrize("place", ["frame", "scan", "table"])
def test_names_of_columns_count_as_they_are_written(warehouse: DuckDB, place: str) -> None:
    """`STATUS` is not `status`, neither as a column nor in a condition, in any place."""
    given, where = {"frame": (ORDERS.to_pandas(), {}), "scan": (ORDERS, {})}.get(
        place, (warehouse, {"table": "orders"})
    )
    report = quality(
        expect("column_values_to_be_in_set", "warn", column="STATUS", value_set=["new"]),
        expect("column_values_to_be_unique", column="order_id", row_condition='STATUS == "paid"'),
        expect("column_to_exist", column="STATUS"),
        expect("table_columns_to_match_set", column_set=["ORDER_ID"], exact_match=False),
        expect("table_columns_to_match_ordered_list", column_list=[name.upper() for name in ORDERS.column_names]),
        raise_on_failure=False,
    ).validate(given, **where)
    assert [(check.passed, check.evaluated) for check in report.checks] == [*[(False, False)] * 2, *[(False, True)] * 3]
    assert "there is no column STATUS (capitals count: there is status)" in str(report)


LIKE = pa.table({"text": ["a%", "a%b", "ab", "a_", "A%", "a\\", None], "at": [1, 2, 3, 4, 5, 6, None]})


@pytest.mark.parametrize("place", ["scan", "table"])
def test_a_backslash_escapes_in_like_patterns(place: str) -> None:
    """As in PostgreSQL, where DuckDB by itself has no escape; a given one goes before it. Keywords are names, too."""
    patterns = {r"a\%%": 2, r"a\_": 1, "a_": 4, r"a\\": 1, "a!%%": 0}
    with contextlib.closing(DuckDB()) as warehouse:
        warehouse.load(LIKE, "texts")
        given, where = (LIKE, {}) if place == "scan" else (warehouse, {"table": "texts"})
        report = quality(
            *(expect("column_values_to_match_like_pattern", column="text", like_pattern=each) for each in patterns),
            expect("column_values_to_not_match_like_pattern", column="text", like_pattern=r"a\%%"),
            expect("column_values_to_match_like_pattern_list", column="text", like_pattern_list=[r"a\%%", "A%"]),
            expect("column_values_to_match_like_pattern", column="text", like_pattern="a!%%", escape="!"),
            expect("column_values_to_be_between", column="at", min_value=3),
            raise_on_failure=False,
        ).validate(given, **where)
    assert [check.failed_rows for check in report.checks] == [*(6 - held for held in patterns.values()), 2, 3, 4, 2]


def test_a_frame_may_have_numbers_for_names() -> None:
    """They are texts in the suite and in the key."""
    frame = pd.DataFrame({0: [1, 2, 3], 1: [1, -1, 3]})
    suite = quality(
        expect("column_values_to_be_between", "quarantine", column="1", min_value=0), key=["0"], max_rejected=1
    )
    assert suite.audit(frame).rejected["0"].to_pylist() == [2]
    assert list(frame.columns) == [0, 1]


def test_a_key_that_the_data_lacks_is_named() -> None:
    """Before anything is evaluated."""
    suite = quality(expect("column_values_to_be_unique", "quarantine", column="order_id"), key=["nope"])
    for given in (ORDERS, ORDERS.to_pandas()):
        with pytest.raises(InvalidInputError, match="has no column nope, which key names"):
            suite.validate(given)


@pytest.mark.parametrize(
    ("data", "where"),
    [("frame", {"table": "orders"}), ("warehouse", {}), ("warehouse", {"table": "a", "query": "b"}), ("bucket", {})],
)
def test_arguments_have_to_fit(warehouse: DuckDB, bucket: MemoryFiles, data: str, where: dict[str, str]) -> None:
    given = {"frame": SMALL, "warehouse": warehouse, "bucket": bucket}[data]
    with pytest.raises(InvalidInputError, match="takes"):
        quality(*GOOD).validate(given, **where)


def test_a_missing_table_is_not_a_failed_check(warehouse: DuckDB) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        quality(*GOOD).validate(warehouse, table="nowhere")


def test_an_error_of_the_data_is_its_own() -> None:
    """What a scan raises while it is read comes through."""

    def fail(_: object) -> Iterator[pa.RecordBatch]:
        yield SMALL.to_batches()[0]
        raise NotFoundError("the second file is gone")

    with pytest.raises(NotFoundError, match="the second file is gone"):
        quality(*GOOD).validate(Scan(SMALL.schema, fail, source="files"))


# What is told


def all_that_is_told(suite: DataQuality, data: Any, caplog: pytest.LogCaptureFixture, **where: Any) -> str:
    with caplog.at_level(logging.DEBUG):
        report = suite.validate(data, **where, raise_on_failure=False)
        with pytest.raises(ChecksFailedError) as failed:
            suite.validate(data, **where)
    return "".join([str(report), report.markdown(), report.model_dump_json(), str(failed.value), caplog.text])


SECRETIVE = [
    *[{**each, "severity": "fail"} for each in EVERYTHING],
    expect("column_most_common_value_to_be_in_set", column="status", value_set=["paid"]),
    expect("column_distinct_values_to_be_in_set", column="status", value_set=["paid"]),
    expect("column_min_to_be_between", column="amount", min_value=0),
    expect(
        "column_quantile_values_to_be_between",
        column="amount",
        quantile_ranges={"quantiles": [1], "value_ranges": [[0, 1]]},
    ),
    expect("column_values_to_be_between", column="status", min_value=0),
]


@pytest.mark.parametrize("place", ["pandas", "table"])
def test_no_value_is_told(
    warehouse: DuckDB, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Not in the report, its page, the error, the logs, nor in the Data Docs."""
    monkeypatch.setattr(logging.getLogger("prefect.DataQuality"), "propagate", True)
    suite = quality(*SECRETIVE, docs=LocalFiles(basepath=str(tmp_path)))
    data, where = {
        "pandas": (ORDERS.to_pandas(), {}),
        "table": (warehouse, {"table": "orders"}),
    }[place]
    told = all_that_is_told(suite, data, caplog, **where)
    pages = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.html"))
    assert "expect_column_values_to_be_in_set(status): 1 of 6 rows" in told
    assert "must belong to this set" in pages
    for text in (told, pages):
        assert CANARY not in text
        assert str(AMOUNT) not in text
        assert "Traceback" not in text


def test_docs_are_published_with_their_index_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the given folder; what never changes is sent once; samples are shown where that is wanted."""
    sent: list[str] = []
    original = MemoryStoreClient.put

    def put(self: MemoryStoreClient, key: str, *args: Any) -> Any:
        sent.append(key)
        return original(self, key, *args)

    monkeypatch.setattr(MemoryStoreClient, "put", put)
    bucket = MemoryFiles()
    suite = quality(*GOOD, docs=bucket, docs_prefix="site/", raise_on_failure=False)
    first = suite.validate(ORDERS, run_name="a/b")
    assert sent[-1] == "site/index.html"
    assert sent[0].startswith("site/static/")
    assert first.docs is not None
    assert first.docs.startswith(bucket.uri("site/validations/orders/a_b"))
    assert f"({first.docs})" in first.markdown()
    sent.clear()
    with_samples = suite.model_copy(update={"docs_samples": True})
    second = with_samples.validate(ORDERS, run_name="c")
    assert [key.split("/")[1] for key in sent] == ["expectations", "validations", "index.html"]
    page = next(key for key in sent if "validations" in key)
    assert second.docs == bucket.uri(page)
    assert b"-4" in bucket.read_path(page)


def test_a_verdict_does_not_need_its_docs(tmp_path: Path) -> None:
    """Where they cannot be published, that is a warning."""
    (tmp_path / "file").write_text("")
    suite = quality(*GOOD, docs=LocalFiles(basepath=str(tmp_path / "file")))
    assert suite.validate(SMALL).docs is None


@pytest.mark.usefixtures("prefect_server")
def test_a_saved_one_finds_its_bucket(tmp_path: Path) -> None:
    """It is saved by name or as a saved block; one that is not saved is refused, as its secrets would show."""
    bucket = LocalFiles(basepath=str(tmp_path))
    with pytest.raises(InvalidInputError, match="Save the block in docs"):
        quality(*GOOD, docs=bucket).save("shown")
    bucket.save("docs", overwrite=True)
    for docs in (bucket, "etl-local-files/docs"):
        quality(*EVERYTHING, docs=docs).save("orders", overwrite=True)
        loaded = DataQuality.load("orders")
        assert loaded.expectations == quality(*EVERYTHING).expectations
        assert loaded._bucket() == bucket


# Processes and threads


def test_two_validations_at_once_do_not_meet(warehouse: DuckDB) -> None:
    """Each sees its own data and suite, whatever context the caller uses beside them."""
    import great_expectations as gx

    own = gx.get_context(mode="ephemeral")
    few = quality(*EVERYTHING[:3], max_rejected=1)
    suites = [quality(expect("table_row_count_to_equal", value=rows), suite_name=f"s{rows}") for rows in range(1, 5)]
    data = [pa.table({"a": list(range(rows))}) for rows in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda suite, table: suite.validate(table), suites, data))
        tables = list(pool.map(lambda _: few.validate(warehouse, table="orders"), "ab"))
    assert [report.rows for report in reports] == list(range(1, 5))
    assert all([check.failed_rows for check in table.checks] == COUNTS[:3] for table in tables)
    assert gx.data_context.data_context.context_factory.project_manager.get_current_project() is own


def test_a_block_goes_to_another_process() -> None:
    """With all that it expects."""
    suite = quality(*EVERYTHING)
    assert pickle.loads(pickle.dumps(suite)) == suite  # noqa: S301


QUIET = """
import logging, socket, sys
logging.basicConfig(level=logging.INFO)
def refuse(self, address, *_):
    if self.family != socket.AF_UNIX:
        print("TALKS TO", address)
        raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = refuse
from connectors.great_expectations import DataQuality
assert "great_expectations" not in sys.modules
import pyarrow as pa
suite = DataQuality(suite_name="s", expectations=[
    {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "a"}, "severity": "quarantine"}
], key=["a"])
print(suite.validate(pa.table({"a": list(range(100))})).passed)
"""


@pytest.mark.thorough  # another import of it: 6 s
def test_nobody_is_told_that_it_is_used() -> None:
    """The import, a validation and the end of Python open no connection and print nothing; a block imports nothing."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", QUIET],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == ["True"], done.stderr
    assert "great_expectations" not in done.stderr
    assert "nanobind" not in done.stderr  # what DuckDB complains of at the end of Python
