"""Types that no schema declares: the rule of blocks/files/inference.py, wherever the file is cut."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from decimal import Decimal
from numbers import Number
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blocks import CsvOptions, InvalidInputError, SchemaError
from blocks.arrow.exact import cast_exactly
from connectors.duckdb import DuckDB
from connectors.local import MemoryFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = "blocks.files.text.BLOCK_BYTES"
SPELLED = [
    *["0", "1", "-7", "42", "007", "-0", "+5", " 5", "5 ", "9223372036854775807", "9223372036854775808", "0x1F"],
    *["1.5", "2.25", "1.10", "1.1", "1.0", "-0.5", "-0.00", ".5", "5.", "00.5", "1e5", "1.5e-7", "1E5", "2.50e+03"],
    *["0.1", "0.30000000000000004", "0.1234567890123456789", "12345678901234567.5", "1e400", "inf", "nan", "1,5"],
    *["true", "false", "True", "FALSE", "t", "yes", "2026-04-30", "2026-02-30", "30.04.2026", "12:00:00"],
    *["2026-04-30 12:00:00", "2026-04-30 12:00:00.5", "2026-04-30T12:00:00", "2026-04-30T12:00:00Z"],
    *["2026-04-30T12:00:00+02:00", "2026-04-30 12:00", "2026-04-30 12:00:00.1234567", "text", ""],
]
NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.floats(allow_nan=False).map(repr),
    st.decimals(-1000, 1000, places=2).map(str),
    st.decimals(-1000, 1000, places=3).map(lambda number: str(number).rstrip("0")),
)
TEXTS = st.one_of(st.sampled_from(SPELLED), NUMBERS)
COLUMNS = st.one_of(
    st.lists(TEXTS, max_size=12),
    st.sampled_from(SPELLED).flatmap(lambda one: st.lists(st.sampled_from([one, "", *SPELLED[:3]]), max_size=12)),
    st.lists(NUMBERS, max_size=12),
)


def scanned(parts: list[bytes], form: str, **options: Any) -> pa.Table:
    """Read parts of a folder as one table."""
    files = MemoryFiles()
    for number, part in enumerate(parts):
        files.write_path(f"parts/{number}.{form}", part)
    return files.scan("parts", **options).to_arrow()


def column_of(texts: list[str]) -> list[bytes]:
    """Write a column beside another, one record each, by Python's csv module."""
    out = []
    for text in texts:
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerow([text, "z"])
        out.append(file.getvalue().encode())
    return out


def parted(header: bytes, records: list[bytes], cuts: list[int], *, ended: bool) -> list[bytes]:
    """Spread records over files, each with the header, and with or without a last line end."""
    borders = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    files = [b"".join([header, *records[start:end]]) for start, end in itertools.pairwise(borders)]
    return [file if ended else file.removesuffix(b"\n") or file for file in files if file != header] or [header]


def is_its_text(value: Any, text: str) -> bool:  # noqa: PLR0911 (one type a line)
    """Tell whether a value is what the rule makes of its text, as Python sees it."""
    if value is None:
        return text == ""
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, int):
        return str(value) == text
    if isinstance(value, Decimal):
        return re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", text) is not None and value == Decimal(text)
    if isinstance(value, float):
        return Decimal(repr(value)) == Decimal(text)
    if isinstance(value, str):
        return value == text
    return str(value)[:10] == text[:10] or text.endswith("+02:00")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=COLUMNS)
@example(texts=["+12345678901234567", "+12345678901234568"])
@example(texts=["1.10", "1.1"])
@example(texts=["1.0", "2.25", "3"])
@example(texts=["true", "1"])
@example(texts=["1e5", "123"])
def test_a_typed_value_is_its_text(texts):
    """Every value of CSV equals its text, and no two texts of doubles become one value."""
    table = scanned([b"".join([b"x,y\n", *column_of(texts)])], "csv")
    values = table["x"].to_pylist()
    assert all(is_its_text(value, text) for value, text in zip(values, texts, strict=True)), (table.schema, values)
    if pa.types.is_float64(table.schema.field("x").type):
        assert len({value for value in values if value is not None}) >= len({Decimal(t) for t in texts if t})
        assert len(set(texts) - {"", "-0.0", "0.0", "0"}) == len({v for v in values if v})


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(texts=COLUMNS, cuts=st.lists(st.integers(0, 12), max_size=2), ended=st.booleans(), block=st.integers(1, 80))
@example(texts=["1", "2", "x"], cuts=[], ended=True, block=8)
@example(texts=["", "", "5"], cuts=[], ended=False, block=8)
@example(texts=["2026-04-30", "2026-04-30", "x"], cuts=[1], ended=False, block=20)
def test_csv_cut_anywhere_is_the_whole_or_an_error(monkeypatch, texts, cuts, ended, block):
    """Wherever a block or a file ends: what a look at all of it gives, or an error with the column and the line."""
    header, records = b"x,y\n", column_of(texts)
    monkeypatch.setattr("blocks.files.csv.SAMPLED_RECORDS", 2)
    whole = scanned([header + b"".join(records)], "csv")
    files = parted(header, records, cuts, ended=ended)
    assert scanned(files, "csv") == whole  # of which every file is looked at to its end
    monkeypatch.setattr(BLOCK, block)
    cut, message = None, ""
    try:
        cut = scanned(files, "csv")
    except InvalidInputError as error:
        message = str(error)
    monkeypatch.undo()
    assert cut == whole if cut is not None else re.search(r"parts/\d\.csv line \d+: x .*declare a schema", message)
    assert not any(len(text) > 4 and text in message for text in texts)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["2026-04-30", "2026-04-30T12:00:00", "5", "x", ""]),
)  # fmt: skip
OBJECTS = st.dictionaries(
    st.sampled_from("ab"),
    st.one_of(VALUES, st.lists(VALUES, max_size=2), st.dictionaries(st.sampled_from("pq"), VALUES, max_size=2)),
    max_size=2,
)


def without_nulls(value: Any) -> Any:
    """Leave out what is null: a missing key is a null."""
    if isinstance(value, dict):
        kept = {key: inner for key, item in value.items() if (inner := without_nulls(item)) is not None}
        return kept or None
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def as_written(value: Any) -> Any:
    """Return a value in the form that JSON has for it, numbers by their digits."""
    if isinstance(value, dict):
        return {key: as_written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_written(item) for item in value]
    if isinstance(value, bool | str | None):
        return value
    return (
        Decimal(repr(value) if isinstance(value, float) else value) if isinstance(value, Number) else value.isoformat()
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(OBJECTS, min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 6), max_size=2),
    ended=st.booleans(),
    block=st.integers(1, 120),
)
@example(rows=[{"a": 1}, {"b": 2}], cuts=[1], ended=False, block=120)
@example(rows=[{"a": 1}, {"a": 2, "b": {"p": 3}}], cuts=[], ended=False, block=4)
@example(rows=[{"a": {"p": 1.5}}, {"a": {"p": 2**70}}], cuts=[], ended=True, block=4)
@example(rows=[{"a": 1.0}, {"a": 1.5}], cuts=[], ended=True, block=4)
@example(rows=[{"a": [2**70, 1]}, {"a": None}], cuts=[], ended=True, block=100)
def test_json_cut_anywhere_is_the_whole_or_an_error(monkeypatch, rows, cuts, ended, block):
    """Late keys, nested ones and long integers too: a value is there as it was written, or an error names its key."""
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    files = parted(b"", lines, cuts, ended=ended)
    monkeypatch.setattr(BLOCK, block)
    table, message = None, ""
    try:
        table = scanned(files, "jsonl")
    except (InvalidInputError, SchemaError) as error:
        message = str(error)
    monkeypatch.undo()
    if table is None:
        assert re.search(r"line \d+: [ab]|the key '[ab].*' is|column '[ab]'|any column", message), message
    else:
        assert [without_nulls(as_written(row)) for row in table.to_pylist()] == [
            without_nulls(as_written(row)) for row in rows
        ]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2"], pa.int64()),
        (["007"], pa.string()),
        (["+4912345"], pa.string()),
        (["1.10", "2.25"], pa.decimal128(18, 2)),
        (["1234567890123456789.12"], pa.decimal128(38, 2)),
        (["1.10", "1.1"], pa.string()),
        (["1.0", "2.25"], pa.float64()),
        (["1.5", "2"], pa.float64()),
        (["1.5", "999999999999998593"], pa.string()),
        (["999999999999998593"], pa.int64()),
        (["1.5e-7", "0.25"], pa.float64()),
        (["1e5", "123"], pa.string()),
        (["inf", "1.5"], pa.string()),
        (["true", "1"], pa.string()),
        (["true", "True"], pa.string()),
        (["2026-04-30", "30.04.2026"], pa.string()),
        (["2026-04-30 12:00:00", "2026-04-30 12:00:00.25"], pa.timestamp("us")),
        (["2026-04-30 12:00:00", "2026-04-30T12:00:00"], pa.string()),
        (["12:00:00"], pa.string()),
    ],
    ids=str,
)
def test_the_rule(texts, kind):
    """One line of the rule each."""
    assert scanned([b"x,y\n" + b"".join(column_of(texts))], "csv").schema.field("x").type == kind


def test_formats_are_inferred_too():
    """A column in one of timestamp_formats is a date or a timestamp; numbers have the decimal point of the file."""
    options = CsvOptions(delimiter=";", decimal_point=",", timestamp_formats=("%d.%m.%Y", "%d.%m.%Y %H:%M"))
    table = scanned([b"a;b;c;d\n1,50;30.04.2026;30.04.2026 12:00;1.5\n"], "csv", options=options)
    assert table.schema.types == [pa.decimal128(18, 2), pa.date32(), pa.timestamp("us"), pa.string()]


def test_a_null_of_mysql():
    r"""`\N` is null where the escape is a backslash, unless it is quoted, escaped itself or a part of a text."""
    text = b'x,y\n\\N,1\na\\,\\N,2\n"q,\\N,z",3\n\\\\N,4\n"",\\N'
    for nulls in [("",), ("\\N",)]:
        rows = scanned([text], "csv", options=CsvOptions(escape="\\", null_values=nulls)).to_pylist()
        assert [row["x"] for row in rows] == [None, "a,N", "q,N,z", "\\N", ""]
        assert [row["y"] for row in rows] == [1, 2, 3, 4, None]


@pytest.fixture
def warehouse() -> Iterator[DuckDB]:
    with DuckDB(path=":memory:") as warehouse:
        yield warehouse


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        ("double", ["1.10", "1.1"], [1.1, 1.1]),
        ("double", ["+4912345"], [4912345.0]),
        ("double", ["12.50", "13.25"], [12.5, 13.25]),
        ("double", ["1.5", "+12345678901234567"], 2),
        ("decimal(12,2)", ["1.5", "2.25"], [Decimal("1.50"), Decimal("2.25")]),
        ("decimal(12,2)", ["1.10", "2.255"], 2),
        ("bigint", ["12", "0x1F"], 2),
        ("boolean", ["true", "1", "FALSE"], [True, True, False]),
        ("varchar", ["1.10", "2.20"], ["1.10", "2.20"]),
        ("date", ["2026-04-30", "30.04.2026"], 2),
    ],
)
def test_a_table_of_another_type_takes_what_fits(warehouse, kind, texts, expected):
    """What was inferred from text becomes the type that the table has, or the row is named; nothing is loaded then."""
    files = MemoryFiles()
    files.write_path("x.csv", b"x,y\n" + b"".join(column_of(texts)))
    warehouse.execute(f"CREATE TABLE t (x {kind}, y varchar)")
    found = files.scan("x.csv").map_batches(lambda batch: batch)
    assert warehouse.plan(found, "t").losses == {}
    if isinstance(expected, list):
        warehouse.load(found, "t")
    else:
        with pytest.raises(SchemaError, match=f"Column 'x', row {expected} of the data") as caught:
            warehouse.load(found, "t")
        assert texts[expected - 1] not in str(caught.value)
    rows = [row[0] for row in warehouse.fetch_all("SELECT x FROM t")]
    assert rows == (expected if isinstance(expected, list) else [])


@given(number=st.floats(allow_nan=False, allow_infinity=False), zeros=st.integers(0, 3))
def test_a_float_is_exactly_its_text(number, zeros):
    """Zeros at the end change nothing; a digit more than the float has is refused."""
    text = f"{Decimal(repr(number)):f}"
    padded = text + ("0" * zeros if "." in text else "." + "0" * zeros)
    assert cast_exactly(pa.array([padded]), pa.float64()).to_pylist() == [number]
    if number:
        with pytest.raises(pa.ArrowInvalid):
            cast_exactly(pa.array([f"{padded}{'0' * 20}1" if "." in padded else f"{padded}.1"]), pa.float64())
