"""What a contract promises: each check counts as a plain loop would, in one pass, and nothing bad is committed."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import logging
import pickle
import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client

from blocks import ChecksFailedError, Contract, InvalidInputError, QualityError, Scan, SchemaError
from blocks.arrow.rejects import Rejects
from blocks.quality.unique import SeenKeys
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANARY = "4929-1234-CANARY"
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("amount", pa.float64()), ("status", pa.string())])
QUICK = settings(max_examples=40, deadline=None)


def orders(**changes: Any) -> Contract:
    asked = {"key": ["id"], "ranges": {"amount": (0, None)}, "allowed": {"status": ["new", "paid"]}}
    return Contract(**{"name": "orders", "schema": SCHEMA, **asked, **changes})


def rows_of(*rows: tuple[Any, ...]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], pa.schema(list(SCHEMA)).remove_metadata())


GOOD = rows_of((1, 1.5, "new"), (2, None, None), (3, 0.0, "paid"))
BAD = rows_of((1, 1.5, "new"), (1, -2.0, "new"), (None, 1.0, "lost"), (4, float("nan"), None), (1, 1.0, CANARY))


def found(report: Any) -> dict[str, int]:
    """How many rows break which check."""
    return {check.name: check.failed_rows for check in report.checks if not check.passed}


def in_batches(table: pa.Table, rows: int = 2, **options: Any) -> Scan:
    return Scan(table.schema, lambda _: table.to_batches(max_chunksize=rows), source="a source", **options)


# What is checked


def test_good_data_passes() -> None:
    """Null passes every check but not_null; each check is in the report, with the rows that it looked at."""
    report = orders().validate(GOOD)
    assert (report.passed, report.suite, report.rows, report.rows_quarantined) == (True, "orders", 3, 0)
    assert [check.name for check in report.checks] == [
        "schema", "type(id)", "not_null(id)", "type(amount)", "range(amount)", "type(status)", "allowed(status)",
        "unique(id)",
    ]  # fmt: skip
    assert {check.rows for check in report.checks[1:]} == {3}


def test_every_check_is_counted() -> None:
    """The report counts for each check the rows that break it; a NaN is in no range."""
    report = orders().validate(BAD, raise_on_failure=False)
    assert found(report) == {"not_null(id)": 1, "range(amount)": 2, "allowed(status)": 2, "unique(id)": 2}
    with pytest.raises(ChecksFailedError, match=r"range\(amount\): 2 of 5 rows, at least 0") as refused:
        orders().validate(BAD)
    assert found(refused.value.report) == found(report)


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        in_batches(GOOD),
        GOOD.to_reader(),
        GOOD.to_pandas(),
        pl.DataFrame(GOOD.to_pylist()),
        GOOD.to_pylist(),
    ],
    ids=["table", "scan", "reader", "pandas", "polars", "rows"],
)
def test_anything_tabular_is_taken(data: Any) -> None:
    """Whatever holds a table can be validated; pandas' missing values are nulls."""
    assert orders().validate(data).rows == 3


def test_a_table_of_a_warehouse_is_taken() -> None:
    """A scan of a table or a query is validated as it streams."""
    with DuckDB() as warehouse:
        warehouse.load(BAD, "t")
        assert orders().validate(warehouse.scan("t"), raise_on_failure=False).failures
        assert orders().validate(warehouse.scan_query("SELECT * FROM t LIMIT 1")).rows == 1


UTC = dt.UTC
BERLIN = ZoneInfo("Europe/Berlin")
RANGES: list[tuple[pa.DataType, Any, Any, list[Any], list[Any]]] = [
    (pa.int8(), -3, 100, [-3, 0, 100, None], [-4, 101, 127]),
    (pa.uint64(), 1, 2**64 - 2, [1, 2**64 - 2], [0, 2**64 - 1]),
    (pa.float32(), 0.1, 0.5, [np.float32(0.1), 0.5], [np.nextafter(np.float32(0.1), np.float32(0)), float("nan")]),
    (pa.float64(), 0.1, None, [0.1, float("inf")], [-0.0, float("nan"), float("-inf")]),
    (pa.decimal128(12, 2), Decimal("0.01"), 10**9, [Decimal("0.01"), Decimal(10**9)], [Decimal("1000000000.01")]),
    (pa.decimal256(60, 4), 0.1, None, [Decimal("0.1"), Decimal("9e50")], [Decimal("0.0999")]),
    (pa.date32(), dt.date(2026, 1, 1), dt.date(2026, 12, 31), [dt.date(2026, 12, 31)], [dt.date(2027, 1, 1)]),
    (pa.date64(), dt.date(2026, 1, 1), None, [dt.date(2026, 1, 1)], [dt.date(2025, 12, 31)]),
    (pa.timestamp("us"), dt.datetime(2026, 1, 1), None, [dt.datetime(2026, 1, 1)], [dt.datetime(2025, 12, 31, 23)]),  # noqa: DTZ001
    (
        pa.timestamp("us", "Europe/Berlin"),
        dt.datetime(2026, 1, 1, tzinfo=BERLIN),
        dt.datetime(2026, 2, 1, tzinfo=UTC),
        [dt.datetime(2025, 12, 31, 23, tzinfo=UTC), dt.datetime(2026, 2, 1, 1, tzinfo=BERLIN)],
        [dt.datetime(2025, 12, 31, 22, 59, tzinfo=UTC), dt.datetime(2026, 2, 1, 0, 0, 1, tzinfo=UTC)],
    ),
    (pa.time64("us"), dt.time(8), dt.time(17), [dt.time(8), dt.time(17)], [dt.time(7, 59), dt.time(17, 0, 1)]),
    (pa.duration("us"), dt.timedelta(0), None, [dt.timedelta(0)], [dt.timedelta(microseconds=-1)]),
    (pa.string(), "b", "d", ["b", "cz", "d"], ["a", "da", ""]),
    (pa.binary(), b"b", None, [b"b"], [b"a"]),
    (pa.dictionary(pa.int8(), pa.string()), "b", None, ["b", None], ["a"]),
]


@pytest.mark.parametrize(("kind", "low", "high", "inside", "outside"), RANGES, ids=[str(case[0]) for case in RANGES])
def test_bounds_are_included_and_exact(kind: pa.DataType, low: Any, high: Any, inside: Any, outside: Any) -> None:
    """A bound belongs to its range, for every type that has an order, and is a value of the column's own type."""
    contract = Contract(name="c", schema=pa.schema([("x", kind)]), ranges={"x": (low, high)})
    data = pa.table({"x": pa.array([*inside, *outside], kind)})
    assert found(contract.validate(data, raise_on_failure=False)) == {"range(x)": len(outside)}


ALLOWED: list[tuple[pa.DataType, list[Any], list[Any], list[Any]]] = [
    (pa.int16(), [1, 2], [1, 2, None], [3]),
    (pa.bool_(), [True], [True, None], [False]),
    (pa.float64(), [0.0, float("nan")], [0.0, -0.0, float("nan"), None], [0.1]),
    (pa.float32(), [0.1], [0.1], [0.2]),
    (pa.decimal128(5, 2), [Decimal("1.10"), 2], [Decimal("1.1"), Decimal(2)], [Decimal("1.11")]),
    (pa.date32(), [dt.date(2026, 1, 1)], [dt.date(2026, 1, 1)], [dt.date(2026, 1, 2)]),
    (pa.string_view(), ["new", "a long text, longer than a view"], ["new", None], ["New", ""]),
    (pa.dictionary(pa.int8(), pa.string()), ["new"], ["new", None], ["old"]),
]


@pytest.mark.parametrize(("kind", "values", "good", "bad"), ALLOWED, ids=[str(case[0]) for case in ALLOWED])
def test_allowed_values_are_exact(kind: pa.DataType, values: Any, good: Any, bad: Any) -> None:
    """A value is one of those that are listed, or null; NaN where it is listed, and -0.0 is 0.0."""
    contract = Contract(name="c", schema=pa.schema([("x", kind)]), allowed={"x": values})
    data = pa.table({"x": pa.array([*good, *bad], kind)})
    assert found(contract.validate(data, raise_on_failure=False)) == {"allowed(x)": len(bad)}


def test_a_pattern_is_of_the_whole_text() -> None:
    """A text that only holds a match, or ends in a line end after it, does not match."""
    contract = Contract(name="c", schema=pa.schema([("x", pa.string())]), patterns={"x": "[a-z]+|[0-9]+"})
    data = pa.table({"x": ["abc", "12", None, "abc1", "12\n", ""]})
    assert found(contract.validate(data, raise_on_failure=False)) == {"pattern(x)": 3}


@pytest.mark.parametrize(
    ("bounds", "count", "holds"), [((1, None), 0, False), ((1, None), 1, True), ((None, 2), 3, False)]
)
def test_the_number_of_rows(bounds: Any, count: int, *, holds: bool) -> None:
    """There may be too few rows and too many; both bounds are included."""
    report = orders(rows=bounds).validate(GOOD.slice(0, count), raise_on_failure=False)
    assert (report.passed, report.checks[-1].check) == (holds, "rows")
    assert f"found {count}" in report.checks[-1].detail


CELLS = {
    "key": st.none() | st.integers(0, 5),
    "name": st.none() | st.sampled_from(["a", "b", "a\0", "", "ä"]),
    "x": st.none() | st.sampled_from([0.0, -0.0, -1.5, 1.0, 10.0, float("nan"), float("inf")]),
    "status": st.none() | st.sampled_from(["new", "paid", "x"]),
}
SEVERITIES = st.sampled_from(["warn", "fail", "quarantine"])
TABLES = st.lists(st.fixed_dictionaries(CELLS), max_size=25)


@QUICK
@given(TABLES, st.fixed_dictionaries(dict.fromkeys(("not_null", "range", "allowed", "unique"), SEVERITIES)),
       st.integers(1, 9))  # fmt: skip
def test_verdicts_are_those_of_a_loop(rows: list[dict[str, Any]], severity: dict[str, str], size: int) -> None:
    """Whatever the data, its batches and the severities: each check counts what a plain loop over the rows counts, the
    same rows go on and the same are set aside, and both ways of checking agree.
    """
    schema = pa.schema([("key", pa.int32()), ("name", pa.string()), ("x", pa.float64()), ("status", pa.string())])
    contract = Contract(
        name="c", schema=schema, key=["key", "name"], ranges={"x": (-1, 10)}, allowed={"status": ["new", "paid"]},
        severity=severity,
    )  # fmt: skip
    counts: Counter[str] = Counter()
    seen, kept, aside = set(), [], []
    for row in rows:
        broken = [f"not_null({name})" for name in ("key", "name") if row[name] is None]
        broken += ["range(x)"] if row["x"] is not None and not -1 <= row["x"] <= 10 else []
        broken += ["allowed(status)"] if row["status"] == "x" else []
        kinds = {severity[name.partition("(")[0]] for name in broken}
        key = (row["key"], row["name"])
        if None not in key and "quarantine" not in kinds:
            broken += ["unique(key, name)"] if key in seen else []
            seen.add(key)
        kinds = {severity[name.partition("(")[0]] for name in broken}
        counts.update(broken)
        if "quarantine" in kinds:
            aside.append(row)
        elif "fail" not in kinds:
            kept.append(row)
    scan = in_batches(pa.Table.from_pylist(rows, schema=schema), size)
    report = contract.validate(scan, raise_on_failure=False)
    assert (found(report), report.rows_quarantined, report.rows) == (dict(counts), len(aside), len(rows))

    reports, rejects, streamed = [], Rejects(), []
    try:
        for batch in contract.enforce(scan, on_report=reports.append).batches(rejects):
            streamed += batch.to_pylist()
        assert report.passed
    except ChecksFailedError:
        assert not report.passed
    assert list(map(_sorted, streamed)) == list(map(_sorted, kept))
    refused = [_sorted(json.loads(json.loads(line)["row"])) for line in rejects.json_lines()]
    assert sorted(refused) == sorted(map(_sorted, aside))
    assert [each.checks for each in reports] == [report.checks]


def _sorted(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))  # in which NaN is NaN


KEYS: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "int8": (pa.int8(), lambda n: n - 64),
    "uint64": (pa.uint64(), lambda n: 2**64 - 1 - n),
    "bool": (pa.bool_(), lambda n: n % 2 == 0),
    "float64": (pa.float64(), lambda n: (float("nan"), -0.0, 0.0, 1.5, float("inf"))[n % 5]),
    "decimal128": (pa.decimal128(38, 2), lambda n: Decimal(n) / 4),
    "decimal256": (pa.decimal256(76, 2), lambda n: Decimal(10) ** 70 + n),
    "date32": (pa.date32(), lambda n: dt.date(2026, 1, 1) + dt.timedelta(n)),
    "timestamp ns zoned": (pa.timestamp("ns", "UTC"), lambda n: n),
    "time64 ns": (pa.time64("ns"), lambda n: n),
    "duration": (pa.duration("s"), lambda n: dt.timedelta(seconds=n)),
    "string": (pa.string(), lambda n: f"k\0{n}"),
    "string view": (pa.string_view(), lambda n: f"longer than what a view has inline {n}"),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), str),
    "binary": (pa.binary(), lambda n: bytes([n, 255])),
    "uuid": (pa.uuid(), lambda n: n.to_bytes(16, "big")),
}


@pytest.mark.sampled(15)
@pytest.mark.parametrize(("kind", "value"), KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("other", [None, pa.int16()], ids=["alone", "with another"])
def test_repeats_are_exact(kind: pa.DataType, value: Callable[[int], Any], other: pa.DataType | None) -> None:
    """For each type of key: exactly the rows whose key came before are repeats, also where hashes collide and where
    nearly all words are in files.
    """
    numbers = np.random.default_rng(7).integers(0, 100, (12, 15)).tolist()
    kinds = [kind] + ([other] if other else [])
    seen: set[Any] = set()
    with SeenKeys(kinds, run_words=20, hash_bits=4) as keys:
        for batch in numbers:
            values = [value(number) for number in batch]
            others = [number % 3 for number in batch]
            columns = [pa.array(values, kind)] + ([pa.array(others, other)] if other else [])
            wanted = []
            for one, two in zip(values, others, strict=True):
                same = ("NaN" if one != one else one, two if other else None)  # noqa: PLR0124 (NaN)
                wanted.append(same in seen)
                seen.add(same)
            assert keys.repeats(columns).tolist() == wanted


@QUICK
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20), max_size=12), max_size=12))
def test_repeats_of_integers(batches: list[list[int]]) -> None:
    """The same for any integers, at the ends of their range too, and for batches of no rows."""
    seen: set[int] = set()
    with SeenKeys([pa.int64()], run_words=16) as keys:
        for batch in batches:
            wanted = [number in seen or number in batch[:place] for place, number in enumerate(batch)]
            assert keys.repeats([pa.array(batch, pa.int64())]).tolist() == wanted
            seen.update(batch)


def test_no_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keys need on disk is gone once they were checked, also where the reader of a stream stops early."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("blocks.quality.unique.RUN_WORDS", 10)
    data = pa.table({"id": range(100), "amount": [1.0] * 100, "status": ["new"] * 100})
    for key in (["id"], ["id", "status"]):
        contract = orders(key=key)
        assert contract.validate(in_batches(data, 7)).passed
        stream = contract.enforce(in_batches(data, 7)).batches()
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


# The schema


def test_a_schema_that_does_not_fit_is_said_column_by_column() -> None:
    """Missing columns, others, and types that could lose something are one failed check; no row is read."""
    data = Scan(
        pa.schema([("id", pa.string()), ("amount", pa.float64()), ("colour", pa.string())]),
        lambda _: pytest.fail("a row was read"),
        source="a source",
    )
    report = orders().validate(data, raise_on_failure=False)
    assert [check.check for check in report.checks] == ["schema"]
    for words in ("no column 'status'", "other columns: 'colour'", "'id' is string and cannot become int64"):
        assert words in report.checks[0].detail
    for use in (orders().validate, lambda data: orders().enforce(data).to_arrow(), lambda data: DuckDB().load(
        orders().enforce(data), "t")):  # fmt: skip
        with pytest.raises(ChecksFailedError, match="cannot become int64"):
            use(data)


def test_what_fits_is_given_the_declared_form() -> None:
    """Other orders and types that lose nothing are taken, and what streams on has the contract's order and types."""
    data = pa.table(
        {
            "status": pa.array(["new", "paid", None]).dictionary_encode(),
            "id": pa.array([1, 2, 3], pa.int8()),
            "amount": pa.array([1.5, None, 0], pa.float32()),
        }
    )
    streamed = orders().enforce(data)
    assert streamed.to_arrow() == rows_of((1, 1.5, "new"), (2, None, "paid"), (3, 0.0, None)).cast(SCHEMA)
    assert streamed.schema == SCHEMA


def test_other_columns_can_go_on() -> None:
    """Columns that the schema lacks are an error, are left out, or are kept after the others."""
    data = GOOD.add_column(0, "colour", [["red", "blue", None]])
    assert not orders().validate(data, raise_on_failure=False).passed
    assert orders(other_columns="ignore").enforce(data).to_arrow().column_names == SCHEMA.names
    kept = orders(other_columns="keep").enforce(data).to_arrow()
    assert (kept.column_names, kept["colour"].to_pylist()) == ([*SCHEMA.names, "colour"], ["red", "blue", None])


@pytest.mark.parametrize(
    ("values", "kind", "misfits"),
    [
        (pa.array([1, 300, None, 127, -129]), pa.int8(), 2),
        (pa.array([Decimal("1.25"), Decimal("1.20")]), pa.decimal128(12, 1), 1),
        (pa.array([1, 1_000], pa.timestamp("ns")), pa.timestamp("us"), 1),
    ],
    ids=["integers", "decimals", "nanoseconds"],
)
def test_values_that_do_not_fit_their_type(values: pa.Array, kind: pa.DataType, misfits: int) -> None:
    """A wider type is taken where its values fit; each value that does not is a failed row, and no null besides."""
    schema = pa.schema([pa.field("x", kind, nullable=values.null_count > 0)])
    data = pa.table({"x": values})
    assert found(Contract(name="c", schema=schema).validate(data, raise_on_failure=False)) == {"type(x)": misfits}
    rejects = Rejects()
    contract = Contract(name="c", schema=schema, severity={"type": "quarantine"})
    kept = pa.Table.from_batches(contract.enforce(data).batches(rejects), schema)
    assert (kept.num_rows, rejects.total) == (len(values) - misfits, misfits)
    assert list(rejects.reasons) == [f"x does not fit {kind}"]


def test_a_column_that_is_there_twice() -> None:
    """Two columns of one name cannot be told apart: that is an error, not a guess."""
    data = pa.table([[1], [2], [1.0], ["new"]], names=["id", "id", "amount", "status"])
    with pytest.raises(ChecksFailedError, match="more than one column 'id'"):
        orders().validate(data)


# The contract itself

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a range of another type": ({"ranges": {"status": (0, None)}}, "no exact value of string"),
    "a fraction for an integer": ({"ranges": {"id": (0.5, None)}}, "no exact value of int64"),
    "a flag for an integer": ({"ranges": {"id": (True, None)}}, "no exact value of int64"),
    "out of the type": ({"ranges": {"id": (0, 2**70)}}, "no exact value of int64"),
    "nan": ({"ranges": {"amount": (float("nan"), None)}}, "no exact value of double"),
    "backwards": ({"ranges": {"id": (2, 1)}}, "ends before it begins"),
    "no bounds": ({"ranges": {"id": (None, None)}}, "minimum, maximum"),
    "one number": ({"ranges": {"id": 1}}, "minimum, maximum"),
    "no values": ({"allowed": {"status": []}}, "at least one value"),
    "a text for a list": ({"allowed": {"status": "new"}}, "at least one value"),
    "null allowed": ({"allowed": {"status": [None]}}, "no exact value of string"),
    "an unknown column": ({"ranges": {"amuont": (0, 1)}}, "Did you mean 'amount'"),
    "an unknown key": ({"key": ["ids"]}, "Did you mean 'id'"),
    "a key that is a text": ({"key": "id"}, "a list of columns"),
    "a pattern of numbers": ({"patterns": {"id": "1"}}, "pattern of 'id', which is int64"),
    "a broken pattern": ({"patterns": {"status": "(new"}}, "missing \\)"),
    "rows": ({"rows": (2, 1)}, "the least and the greatest number"),
    "an unknown check": ({"severity": {"uniqe": "warn"}}, "Did you mean 'unique'"),
    "a check that is not made": ({"severity": {"range(status)": "warn"}}, "no such check"),
    "an unknown severity": ({"severity": {"unique": "ignore"}}, "warn, fail, quarantine"),
    "rows set aside": ({"severity": {"rows": "quarantine"}}, "warn, fail"),
    "types as a warning": ({"severity": {"type(id)": "warn"}}, "fail, quarantine"),
    "no name": ({"name": ""}, "needs a name"),
    "other columns": ({"other_columns": "drop"}, "'keep', 'ignore', 'fail'"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_contract_is_refused_when_it_is_made(changes: dict[str, Any], words: str) -> None:
    """What could not be checked is an error before there is any data, and the error says where."""
    with pytest.raises(InvalidInputError, match=words):
        orders(**changes)


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        (pa.timestamp("us"), dt.datetime(2026, 1, 1, tzinfo=UTC)),
        (pa.timestamp("us", "UTC"), dt.datetime(2026, 1, 1)),  # noqa: DTZ001
        (pa.timestamp("s"), dt.datetime(2026, 1, 1, 0, 0, 0, 5)),  # noqa: DTZ001
        (pa.timestamp("us"), dt.date(2026, 1, 1)),
        (pa.date32(), dt.datetime(2026, 1, 1)),  # noqa: DTZ001
        (pa.date32(), "2026-01-01"),
        (pa.decimal128(5, 2), Decimal("0.001")),
        (pa.decimal128(5, 2), 10**6),
        (pa.float64(), "1"),
        (pa.bool_(), True),
        (pa.list_(pa.int64()), [1]),
    ],
    ids=str,
)
def test_a_bound_that_is_no_value_of_its_column(kind: pa.DataType, bound: Any) -> None:
    """Zones, fractions and times of day are not dropped from a bound; what has no order has no range."""
    with pytest.raises(InvalidInputError, match="'x'"):
        Contract(name="c", schema=pa.schema([("x", kind)]), ranges={"x": (bound, None)})


def test_a_schema_needs_columns_and_keys_need_values() -> None:
    """No column, one of them twice, or a key of lists: none of them can be checked."""
    for names in ([], ["a", "a"]):
        with pytest.raises(SchemaError):
            Contract(name="c", schema=pa.schema([(name, pa.int64()) for name in names]))
    with pytest.raises(InvalidInputError, match="cannot be part of a key"):
        Contract(name="c", schema=pa.schema([("a", pa.list_(pa.int64()))]), key=["a"])


def test_a_contract_is_plain_data() -> None:
    """It is equal to its copy from another process, cannot be changed, and shows what it asks."""
    contract = orders(patterns={"status": "[a-z]+"}, severity={"range": "warn"})
    copy = pickle.loads(pickle.dumps(contract))  # noqa: S301 (our own)
    assert copy == contract != orders()
    assert found(copy.validate(BAD, raise_on_failure=False)) == found(contract.validate(BAD, raise_on_failure=False))
    with pytest.raises(AttributeError):
        contract.name = "other"  # type: ignore[misc]
    assert "ranges={'amount': (0, None)}" in repr(contract)


def test_severities_by_check_by_column_and_by_default() -> None:
    """The name with its columns goes before the one without, and that before the default; where the default does not
    suit a check, it fails.
    """
    contract = orders(severity={"default": "quarantine", "range": "warn", "not_null(id)": "fail"}, rows=(1, None))
    checks = contract.validate(GOOD).checks
    assert {check.name: check.severity for check in checks} == {
        "schema": "fail", "type(id)": "quarantine", "not_null(id)": "fail", "type(amount)": "quarantine",
        "range(amount)": "warn", "type(status)": "quarantine", "allowed(status)": "quarantine",
        "unique(id)": "quarantine", "rows": "fail",
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_rows_of_any_layout_are_set_aside(kind: pa.DataType) -> None:
    """Text in each of Arrow's layouts (polars hands out views) can be quarantined, as a key with nulls too."""
    data = pa.table({"id": pa.array(["a", None, "b", "a"], kind)})
    contract = Contract(name="c", schema=data.schema, key=["id"], severity="quarantine")
    rejects = Rejects()
    assert [batch.to_pydict() for batch in contract.enforce(data).batches(rejects)] == [{"id": ["a", "b"]}]
    assert rejects.reasons == {"id is null": 1, "id comes in an earlier row": 1}


# Into a warehouse


def test_bad_rows_are_set_aside_and_the_rest_is_loaded(tmp_path: Path) -> None:
    """Quarantined rows come with the first check that they break; the others arrive, in a warehouse and in a bucket."""
    contract = orders(severity="quarantine")
    warehouse, bucket = DuckDB(path=str(tmp_path / "w.duckdb")), LocalFiles(basepath=str(tmp_path))
    report = warehouse.load(contract.enforce(BAD), "t", max_rejected=1)
    reasons = {
        "amount is out of range": 2,
        "id is null": 1,
        "status is none of the allowed values": 1,
    }
    assert (report.rows, report.rejected) == (1, reasons)
    refused = warehouse.fetch_all("SELECT column_name, reason FROM _etl_quarantine ORDER BY ALL")
    assert ("id", "id is null") in refused
    assert warehouse.fetch_all("SELECT * FROM t") == [(1, 1.5, "new")]
    repeats = pa.concat_tables([GOOD, GOOD])
    written = bucket.write_table(contract.enforce(in_batches(repeats)), "orders", max_rejected=0.5)
    assert (written.rows, written.rejected) == (3, {"id comes in an earlier row": 3})
    with pytest.raises(QualityError, match="max_rejected allows"):
        warehouse.load(contract.enforce(BAD), "t")
    with pytest.raises(InvalidInputError, match="id is null"):
        contract.enforce(rows_of((None, 1.0, "new"))).to_arrow()


@pytest.mark.parametrize("mode", ["append", "replace", "upsert"])
def test_a_failed_check_commits_nothing(tmp_path: Path, mode: Any) -> None:
    """A reader sees the old rows at every moment of the load and after it, although only the last row is bad."""
    warehouse = DuckDB(path=str(tmp_path / "w.duckdb"))
    warehouse.load(GOOD, "t")
    seen = []

    def batches(_: Rejects | None) -> Any:
        for batch in rows_of(*((n, 1.0, "new") for n in range(10, 2_000)), (2_001, -1.0, "new")).to_batches(500):
            seen.append(warehouse.fetch_all("SELECT count(*), sum(id) FROM t"))
            yield batch

    data = orders().enforce(Scan(GOOD.schema, batches, source="a source"))
    with pytest.raises(ChecksFailedError, match=r"range\(amount\): 1 of 1991 rows") as refused:
        warehouse.load(data, "t", mode=mode, key=["id"] if mode == "upsert" else (), load_id="the load")
    assert refused.value.report.rows == 1_991
    assert set(map(tuple, seen)) == {((3, 6),)}
    assert len(seen) == 4
    assert warehouse.fetch_all("SELECT count(*), sum(id) FROM t") == [(3, 6)]
    assert warehouse.load_report("the load") is None


def test_a_failed_check_writes_no_file(tmp_path: Path) -> None:
    """A bucket's dataset is as it was, too."""
    bucket = LocalFiles(basepath=str(tmp_path))
    bucket.write_table(GOOD, "orders")
    with pytest.raises(ChecksFailedError):
        bucket.write_table(orders().enforce(BAD), "orders")
    assert bucket.read_table("orders").equals(GOOD)


def test_each_try_is_checked_afresh() -> None:
    """A scan that is opened again starts with no key and no count; one that cannot be says so."""
    reports: list[Any] = []
    data = orders().enforce(in_batches(GOOD), on_report=reports.append)
    first = next(data.batches())
    assert first.num_rows == 2
    assert data.to_arrow() == data.to_arrow() == GOOD.cast(SCHEMA)
    assert {report.rows for report in reports} == {3}, "what read ahead of a try that was given up may report too"
    once = orders().enforce(GOOD.to_reader())
    once.to_arrow()
    with pytest.raises(InvalidInputError, match="read only once"):
        once.to_arrow()
    assert data.fingerprint() == in_batches(GOOD).fingerprint()


def test_warnings_go_on_and_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Rows that only a warning is about are loaded, nulls of a key among them; the log has one line with the counts."""
    with caplog.at_level(logging.INFO, "prefect.Contract"):
        data = orders(severity="warn").enforce(in_batches(BAD)).to_arrow()
    assert data.num_rows == 5
    assert data.schema.field("id").nullable
    logged = [record for record in caplog.records if record.name == "prefect.Contract"]
    assert [record.levelname for record in logged] == ["WARNING"]
    assert "range(amount): 2 of 5 rows" in logged[0].getMessage()


def test_no_value_of_a_row_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the report, nor its page, nor the error, nor the log holds a value of a row."""
    data = pa.table({"id": [CANARY] * 2, "amount": [987654.5] * 2, "n": [7654321] * 2})
    contract = Contract(
        name="c",
        schema=pa.schema([("id", pa.string()), ("amount", pa.float64()), ("n", pa.int8())]),
        key=["id"],
        ranges={"amount": (0, 1)},
        allowed={"id": ["a"]},
        patterns={"id": "a"},
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(ChecksFailedError) as refused:
        contract.validate(data)
    report = refused.value.report
    assert len(report.failures) == 5
    with pytest.raises(ChecksFailedError) as streamed:
        DuckDB().load(contract.enforce(data), "t")
    told = [refused.value, streamed.value, report.markdown(), report.model_dump_json(), repr(report), caplog.text]
    assert not re.search("CANARY|987654|7654321", "\n".join(map(str, told)))


# In a flow


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_run_keeps_the_report() -> None:
    """A contract is a parameter of a flow; its reports are artifacts of the run, those of a load's thread and of an
    async flow too.
    """

    @flow
    def checked(contract: Contract) -> int:
        contract.validate(BAD, raise_on_failure=False)
        with DuckDB() as warehouse:
            return warehouse.load(contract.enforce(GOOD), "t").rows

    @flow
    async def checked_async(contract: Contract) -> int:
        return checked.fn(contract)

    contract = orders(name="Orders of the shop")
    states = [checked(contract, return_state=True), asyncio.run(checked_async(contract, return_state=True))]
    gc.collect()  # Prefect leaves its client's sockets to the collector
    assert [state.result() for state in states] == [3, 3]
    with get_client(sync_client=True) as client:
        ours = {"sort": "CREATED_DESC", "artifacts": {"key": {"any_": ["orders-of-the-shop"]}}}
        pages = client.request("POST", "/artifacts/filter", json=ours).json()
    for state in states:
        kept = [page for page in reversed(pages) if page["flow_run_id"] == str(state.state_details.flow_run_id)]
        assert len(kept) == 2
        assert "| range(amount) | failed | 2 of 5 | at least 0 |" in kept[0]["data"]
        assert kept[1]["data"].startswith("# Orders of the shop: passed")
