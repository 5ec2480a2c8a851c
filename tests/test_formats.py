"""What the formats promise: every value comes back as it was, every bad row has its line and its reason."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import random
import string
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.arrow.columns import widened
from blocks.arrow.rejects import Rejects
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.credentials import SnowflakeCredentials
from blocks.files import parquet
from blocks.files.csv import CsvReader
from blocks.files.formats import COMPRESSIONS, detect, extension, open_scan, open_writer
from blocks.files.options import CsvOptions, ParquetOptions
from blocks.files.text import TextSource
from connectors.bigquery import BigQuery
from connectors.local import MemoryFiles
from connectors.snowflake import Snowflake

ORDERS = pa.schema(
    [
        pa.field("id", pa.int32(), nullable=False),
        pa.field("day", pa.date32()),
        pa.field("amount", pa.decimal128(8, 2)),
        pa.field("note", pa.string()),
    ]
)

# Values


def decimals(precision, scale):
    limit = Decimal(10) ** (precision - scale) - Decimal(10) ** -scale
    return st.decimals(-limit, limit, places=scale, allow_nan=False)


def moments(**limits):
    return st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), **limits)  # noqa: DTZ001


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
PLAIN = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False, allow_infinity=False),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
    pa.decimal128(12, 2): decimals(12, 2),
    pa.decimal128(38, 9): decimals(20, 9),
    pa.date32(): st.dates(),
    pa.time64("us"): st.times(),
    pa.timestamp("s"): moments().map(lambda moment: moment.replace(microsecond=0)),
    pa.timestamp("us"): moments(),
    pa.timestamp("us", "UTC"): moments(timezones=st.just(dt.UTC)),
    pa.timestamp("us", "Europe/Paris"): moments(timezones=st.just(dt.UTC)),
    pa.string(): TEXT,
    pa.large_string(): TEXT,
}
TYPED = PLAIN | {
    pa.binary(): st.binary(max_size=8),
    pa.binary(4): st.binary(min_size=4, max_size=4),
    pa.decimal256(50, 5): decimals(30, 5),
    pa.time32("ms"): st.times().map(lambda time: time.replace(microsecond=0)),
    pa.dictionary(pa.int32(), pa.string()): TEXT,
    pa.map_(pa.string(), pa.int64()): st.dictionaries(TEXT, st.integers(0, 9), max_size=3).map(
        lambda d: list(d.items())
    ),
}
NESTED = {
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-5, 5), max_size=3),
    pa.list_(pa.date32()): st.lists(st.dates(), max_size=3),
    pa.struct([("x", pa.float64()), ("y", pa.string())]): st.fixed_dictionaries(
        {"x": st.floats(allow_nan=False, allow_infinity=False), "y": st.none() | TEXT}
    ),
}
HELD = {
    "csv": PLAIN,
    "jsonl": PLAIN | NESTED,
    "parquet": TYPED | NESTED,
    "arrow": TYPED | NESTED,
    "arrows": TYPED | NESTED,
}
NAMES = st.text(string.ascii_letters + "_ é", min_size=1, max_size=8)


@st.composite
def tables(draw, form):
    held = HELD[form]
    columns = draw(st.dictionaries(NAMES, st.sampled_from(list(held)), min_size=1, max_size=4))
    rows = draw(st.integers(0, 6))
    data = {
        name: pa.array(draw(st.lists(st.none() | held[kind], min_size=rows, max_size=rows)), kind)
        for name, kind in columns.items()
    }
    return pa.table(data)


def written(table, form, **options):
    file = io.BytesIO()
    writer = open_writer(file, table.schema, format=form, **options)
    for batch in table.to_batches(max_chunksize=4):
        writer.write(batch)
    writer.close()
    return file.getvalue()


def read(content, form, schema=None, **options):
    return open_scan(lambda: io.BytesIO(content), source="a file", format=form, schema=schema, **options)


# Round trips


@pytest.mark.parametrize("form", HELD)
@settings(deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back(form, data):
    """Any table of any type that the format holds comes back equal, in every compression."""
    table = data.draw(tables(form))
    compression = data.draw(st.sampled_from(COMPRESSIONS[form]))
    content = written(table, form, compression=compression)
    scan = read(content, form, table.schema, compression=compression if form in {"csv", "jsonl"} else "none")
    assert scan.to_arrow().equals(table)


@pytest.mark.parametrize("form", ["parquet", "arrow", "arrows"])
@settings(deadline=None)
@given(data=st.data())
def test_typed_formats_keep_their_schema(form, data):
    """Parquet and Arrow files say their types themselves; but Parquet has no seconds, and gives milliseconds."""
    table = data.draw(tables(form))
    if form == "parquet":
        kinds = [pa.timestamp("ms") if kind == pa.timestamp("s") else kind for kind in table.schema.types]
        table = table.cast(pa.schema(zip(table.column_names, kinds, strict=True)))
    assert read(written(table, form), form).to_arrow().equals(table)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_csv_of_other_writers_is_read(rows):
    """What Python's own writer makes of any two texts is read as these texts, but an empty one is null."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("a", "b"), *rows])
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    got = read(file.getvalue().encode(), "csv", schema).to_arrow().to_pylist()
    assert [(row["a"] or "", row["b"] or "") for row in got] == rows


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_null_and_empty_text_differ(form):
    """A null is read as null, an empty text as an empty text."""
    table = pa.table({"a": pa.array([None, "", "NULL"]), "b": [1, 2, 3]})
    assert read(written(table, form), form, table.schema).to_arrow().equals(table)


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("csv", pa.array([[1]])),
        ("csv", pa.array([b"x"])),
        ("csv", pa.array(["a\0b"])),
        ("csv", pa.array([-(10**6)], pa.int32()).cast(pa.date32())),
        ("jsonl", pa.array([float("nan")])),
        ("jsonl", pa.array([[float("inf")]])),
        ("jsonl", pa.array([b"x"])),
        ("jsonl", pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))),
        ("parquet", pa.array([(1, 2, 3)], pa.month_day_nano_interval())),
    ],
)
def test_what_a_format_cannot_hold_is_refused(form, values):
    """A value that would come back as another one is an error that names the column, before it is written."""
    with pytest.raises(TypeLossError, match="'amount'"):
        written(pa.table({"amount": values}), form)


def test_rewriting_gives_the_same_bytes():
    """A file holds no clock and no randomness: the same rows give the same bytes."""
    table = pa.table({"a": list(range(100)), "b": ["x"] * 100})
    for form, compressions in COMPRESSIONS.items():
        for compression in compressions:
            assert written(table, form, compression=compression) == written(table, form, compression=compression)


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw/orders.csv", ("csv", "none")),
        ("raw/orders.CSV.gz", ("csv", "gzip")),
        ("orders.jsonl.zst", ("jsonl", "zstd")),
        ("orders.json.bz2", ("json", "bz2")),
        ("orders.tsv.xz", ("csv", "xz")),
        ("orders.csv.zip", ("csv", "zip")),
        ("a.b/orders.parquet", ("parquet", "zstd")),
        ("orders.arrows", ("arrows", "none")),
    ],
)
def test_names_say_the_format(name, expected):
    """Format and compression come from the name's end."""
    assert detect(name) == expected


def test_a_name_without_format_says_what_to_pass():
    """The error lists the formats."""
    with pytest.raises(InvalidInputError, match="Pass format=, one of: csv, jsonl"):
        detect("orders.dat")
    with pytest.raises(InvalidInputError, match=r"'orders.xlsx' is a spreadsheet: save it as CSV"):
        detect("orders.xlsx")
    assert detect("orders", "csv", "gzip") == ("csv", "gzip")
    assert [extension("csv", "gzip"), extension("parquet", "zstd")] == [".csv.gz", ".parquet"]


def test_json_lines_have_one_name():
    """Whoever says "json" is told the word, where it is written, and of warehouses that read files themselves."""
    login = SnowflakeCredentials(account="a", user="u", password="p")
    bucket, snowflake = MemoryFiles(), Snowflake(credentials=login, database="d", schema="s")
    copied = {"load_id": "1", "file_format": "json"}
    for refused in (
        lambda: written(pa.table({"a": [1]}), "json"),
        lambda: BigQuery(dataset="d").copy_from(bucket, "raw", "t", **copied),
        lambda: BigQuery(dataset="d").create_external_table("t", bucket, "raw", file_format="json"),
        lambda: snowflake.copy_from(bucket, "raw", "t", storage_integration="i", **copied),
    ):
        with pytest.raises(InvalidInputError, match="'jsonl'"):
            refused()


@pytest.mark.parametrize(("form", "compression"), [("csv", "snappy"), ("parquet", "lz4"), ("arrow", "gzip")])
def test_unknown_compressions_are_refused(form, compression):
    """The error lists those that the format has."""
    with pytest.raises(InvalidInputError, match="Use one of"):
        written(pa.table({"a": [1]}), form, compression=compression)


# Bad rows of CSV

BAD = (
    b"id,day,amount,note\r\n"
    b"1,2026-04-30,1.50,x\r\n"
    b"\r\n"
    b'2,2026-04-30,1.50,"two\r\nlines"\r\n'
    b"3,2026-02-30,1,x\r\n"
    b"4,2026-04-30,1.239,x\r\n"
    b"5,2026-04-30,abc,x\r\n"
    b'6,2026-04-30,1,"x"y\r\n'
    b"seven,2026-04-30,1,x\r\n"
    b",2026-04-30,1,x\r\n"
    b"9,2026-04-30,1\r\n"
    b"10,2026-04-30,1,x,y\r\n"
    b"11,2026-04-30,1,\xff\r\n"
    b"99999999999,2026-04-30,1,x\r\n"
    b"1.5,2026-04-30,1,x\r\n"
    b"15,2026-04-30,1234567,x\r\n"
    b"16,2026-04-30,1,a\0b\r\n"
    b"17,,,"
)
REASONS = [
    (6, "day", "day is not a date"),
    (7, "amount", "amount has more than 2 decimals"),
    (8, "amount", "amount is not a number"),
    (9, None, "text after a quoted field"),
    (10, "id", "id is not a number"),
    (11, "id", "id is missing"),
    (12, None, "too few fields"),
    (13, None, "too many fields"),
    (14, "note", "not UTF-8"),
    (15, "id", "id is out of range"),
    (16, "id", "id is not an integer"),
    (17, "amount", "amount is out of range"),
    (18, None, "holds a NUL byte"),
]


def refused(scan):
    rejects = Rejects()
    rows = [row for batch in scan.batches(rejects) for row in batch.to_pylist()]
    return rows, [json.loads(line) for line in rejects.json_lines()]


def test_bad_rows_are_quarantined_with_line_and_reason():
    """Each bad row is kept as it stood, with the line on which it starts; the good ones around it arrive."""
    rows, bad = refused(read(BAD, "csv", ORDERS, on_error="quarantine"))
    assert [row["id"] for row in rows] == [1, 2, 17]
    assert rows[1]["note"] == "two\r\nlines"
    assert [(row["line"], row["column"], row["reason"]) for row in bad] == REASONS
    assert bad[1]["row"] == "4,2026-04-30,1.239,x"
    assert bad[8]["row"] == "11,2026-04-30,1,\\xff"


def test_a_bad_row_is_an_error_by_default():
    """The error says line, column and reason, and holds no value."""
    with pytest.raises(InvalidInputError, match=r"a file line 6: day is not a date") as caught:
        read(BAD, "csv", ORDERS).to_arrow()
    assert "2026" not in str(caught.value)


def test_quarantine_without_a_place_is_an_error():
    """Nothing is dropped unseen: to_arrow() has no quarantine."""
    with pytest.raises(InvalidInputError, match="on_error='quarantine' with"):
        read(BAD, "csv", ORDERS, on_error="quarantine").to_arrow()


def test_lines_are_right_across_blocks(monkeypatch):
    """Line numbers count physical lines, quoted line ends and blank lines too, in whatever block the row is."""
    monkeypatch.setattr("blocks.files.text.BLOCK_BYTES", 256)
    monkeypatch.setattr("blocks.files.csv.SAMPLED_RECORDS", 2)
    lines, expected = ["id,day,amount,note"], []
    for row in range(200):
        if row % 7 == 0:
            lines.append("")
        if row % 13 == 0:
            expected.append(len(lines) + 1)
        note = '"a ""quoted""\n\n word"' if row % 5 == 0 else "plain"
        lines += f"{row},2026-04-30,{'x' if row % 13 == 0 else '1.00'},{note}".split("\n")
    rows, bad = refused(read("\n".join(lines).encode(), "csv", ORDERS, on_error="quarantine"))
    assert [row["line"] for row in bad] == expected
    assert [row["id"] for row in rows] == [row for row in range(200) if row % 13]


@pytest.mark.parametrize("size", [16, 64, 100_000])
@settings(deadline=None)
@given(data=st.data())
def test_blocks_never_change_the_rows(size, data):
    """However the file is cut into blocks, the rows and the refused rows are the same."""
    fields = st.sampled_from(["1", "x", '"a"', '"a\nb"', '"q""q"', '5" x', '"j"k', "", '"\r\n"', "a\rb", '""'])
    rows = data.draw(st.lists(st.lists(fields, min_size=1, max_size=3).map(",".join), max_size=12))
    text = "a,b\n" + "".join(row + data.draw(st.sampled_from(["\n", "\r\n"])) for row in rows)
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])

    def outcome():
        try:
            return refused(read(text.encode(), "csv", schema, on_error="quarantine"))
        except InvalidInputError as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocks.files.csv.SAMPLED_RECORDS", 2)
        whole = outcome()
        patch.setattr("blocks.files.text.BLOCK_BYTES", size)
        assert outcome() == whole


LIKELY = st.text("0123456789-+.,eE:TZ xXnaif/\t", max_size=22)
SPELLED = st.one_of(
    LIKELY,
    st.sampled_from(
        ["true", "True", "tRUE", " true", "0", "1", "nan", "NaN", "-inf", "Infinity", "12:34", "12:34:56.1"]
    ),
    st.dates().map(str),
    st.datetimes().map(str),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.datetimes().map(lambda moment: f" {moment.isoformat(timespec='minutes')}"),
    st.integers(-(2**65), 2**65).map(str),
    decimals(12, 3).map(str),
    st.floats().map(str),
)
KINDS = [kind for kind in PLAIN if kind not in {pa.string(), pa.large_string()}]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("point", [".", ","])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(deadline=None)
@given(value=SPELLED)
def test_a_bad_neighbour_changes_nothing(kind, point, value):
    """A value is good or bad, and read as the same, whether or not its block has a bad row."""
    text = f'a,b\n"{value}",1\n'
    options = CsvOptions(decimal_point=point)
    schema = pa.schema([("a", kind), ("b", pa.int8())])
    alone, bad = refused(read(text.encode(), "csv", schema, on_error="quarantine", options=options))
    beside, worse = refused(read(f"{text}1,x\n".encode(), "csv", schema, on_error="quarantine", options=options))
    assert str(beside) == str(alone)
    assert len(worse) == len(bad) + 1


def test_many_bad_rows_are_found_fast():
    """A column that is wrong in every row costs no Arrow call per row."""
    text = b"id,day,amount,note\n" + b"".join(b"%d,2026-04-30,1.234,x\n" % row for row in range(50_000))
    rows, bad = refused(read(text, "csv", ORDERS, on_error="quarantine"))
    assert not rows
    assert {row["reason"] for row in bad} == {"amount has more than 2 decimals"}
    assert [row["line"] for row in bad] == list(range(2, 50_002))


# Whole files of CSV


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: no header"),
        (b"\n \n", "is empty: no header"),
        (b"id,day\n1,2\n", "lacks 'amount', 'note'; its columns are 'id', 'day'"),
        (b"id,id,day,amount,note\n", "more than once: 'id'"),
        (b"id,day,amount,n\xe9\n", "not UTF-8 text. Pass its encoding"),
        ("id,day\n".encode("utf-16"), "UTF-16"),
        (
            b'id,day,amount,note\n1,2026-04-30,1,ok\n2,2026-04-30,1,"open\n3,2026-04-30,1,x\n',
            "line 3: a row starts here",
        ),
        (gzip.compress(b"id\n", mtime=0), "gzip data, which its name does not say"),
    ],
)
def test_a_file_that_is_no_such_csv_says_so(content, message):
    """An error that is about the whole file is raised also where bad rows are allowed."""
    with pytest.raises((InvalidInputError, SchemaError), match=message):
        refused(read(content, "csv", ORDERS, on_error="quarantine"))


@pytest.mark.parametrize(
    "content", [gzip.compress(b"id\n" * 1_000, mtime=0)[:-9], b"no gzip", gzip.compress(b"id\n", mtime=0) + b"junk"]
)
def test_damaged_compression_is_an_error(content):
    """A file that was cut short is never read as a shorter one."""
    with pytest.raises(InvalidInputError, match="is not a valid gzip file"):
        read(content, "csv", pa.schema([("id", pa.string())]), compression="gzip").to_arrow()


def test_a_header_alone_is_no_rows():
    """A file with a header and nothing else has the declared columns and no row."""
    table = read(b"id,day,amount,note\n", "csv", ORDERS).to_arrow()
    assert table.schema == ORDERS
    assert table.num_rows == 0


def test_extra_columns_are_ignored_or_fail():
    """Columns that the schema lacks are left out, or an error where the caller wants that."""
    content, schema = b"a,b\n1,2\n", pa.schema([("b", pa.int64())])
    assert read(content, "csv", schema).to_arrow().to_pylist() == [{"b": 2}]
    with pytest.raises(SchemaError, match="that the schema lacks: 'a'"):
        read(content, "csv", schema, extra_columns="fail").to_arrow()


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b"\xef\xbb\xbfa;b\n1;2,5\n", {"delimiter": ";", "decimal_point": ","}, (1, Decimal("2.5"))),
        ("# é\na,b\n1,2\n".encode("cp1252"), {"encoding": "cp1252", "skip_lines": 1}, (1, 2)),
        ("a,b\n1,2\n".encode("utf-16"), {"encoding": "utf-16"}, (1, 2)),
        (b"1,2\n", {"header": False}, (1, 2)),
        (b"2,1\n", {"header": False, "column_names": ("b", "a")}, (1, 2)),
        (b"x,y\n1,2\n", {"column_names": ("a", "b")}, (1, 2)),
        (b"a,b\nNULL,2\n", {"null_values": ("", "NULL")}, (None, 2)),
        (b'a,b\n"",2\n', {"quoted_nulls": True}, (None, 2)),
        (b"a,b\n'1',2\n", {"quote": "'"}, (1, 2)),
        (b"a,b\r1,2\r", {}, (1, 2)),
    ],
)
def test_csv_options(content, options, expected):
    """Each option reads what it is for."""
    schema = pa.schema([("a", pa.int64()), ("b", pa.decimal128(9, 2))])
    assert read(content, "csv", schema, options=CsvOptions(**options)).to_arrow().to_pylist() == [
        {"a": expected[0], "b": expected[1]}
    ]


def test_escapes():
    """An escaped quote, delimiter or line end is a character."""
    schema = pa.schema([("a", pa.string()), ("b", pa.int8())])
    scan = read(b'a,b\n"x\\"\ny",1\nx\\,y,2\n', "csv", schema, options=CsvOptions(escape="\\"))
    assert scan.to_arrow()["a"].to_pylist() == ['x"\ny', "x,y"]


def test_timestamp_formats():
    """Dates in other formats are read exactly, each column by the formats of its kind; 30 February is bad."""
    schema = pa.schema([("day", pa.date32()), ("at", pa.timestamp("us", "UTC"))])
    content = (
        b"day,at\n"
        b"30.4.2026,30.04.2026 01:02:03.5 +0200\n"
        b"30.2.2026,30.04.2026 01:02:03 +0200\n"
        b"2026-04-30,30.04.2026 01:02:03\n"
        b"1.4.2026,30.04.2026 01:02:60 Z\n"
    )
    formats = ("%d.%m.%Y", "%d.%m.%Y %H:%M:%S.%f %z", "%d.%m.%Y %H:%M:%S %z")
    options = CsvOptions(timestamp_formats=formats)
    rows, bad = refused(read(content, "csv", schema, options=options, on_error="quarantine"))
    at = dt.datetime(2026, 4, 29, 23, 2, 3, 500_000, tzinfo=dt.UTC)
    assert rows == [{"day": dt.date(2026, 4, 30), "at": at}]
    assert [row["reason"] for row in bad] == ["day is not a date", "day is not a date", "at is not a timestamp"]


@pytest.mark.parametrize("text", ["%d.%m.%y", "%Y-%m", "%Y-%m-%d %d", "%Y-%m-%d %M", "%Y-%m-%d %H:%S", "%Y-%m-%d %"])
def test_formats_that_lose_something_are_refused(text):
    """A format has to say the whole date, and no part of a time without the larger one."""
    with pytest.raises(ValueError, match="timestamp_formats"):
        CsvOptions(timestamp_formats=(text,))


def test_types_are_inferred_with_sense():
    """Without a schema: leading zeros and overlong integers stay text, dates and timestamps are such."""
    content = (
        b"n,zip,long,price,day,at,zoned,flag,text,none\n"
        b"1,01234,12345678901234567890,1.5,2026-04-30,2026-04-30 01:02:03,2026-04-30T01:02:03Z,true,x,\n"
    )
    assert read(content, "csv").schema == pa.schema(
        [
            ("n", pa.int64()),
            ("zip", pa.string()),
            ("long", pa.string()),
            ("price", pa.decimal128(18, 1)),
            ("day", pa.date32()),
            ("at", pa.timestamp("us")),
            ("zoned", pa.timestamp("us", "UTC")),
            ("flag", pa.bool_()),
            ("text", pa.string()),
            ("none", pa.string()),
        ]
    )
    assert read(content, "csv").to_arrow().num_rows == 1


def test_a_wrong_guess_says_that_it_was_one(monkeypatch):
    """A value that does not fit an inferred type asks for a schema."""
    monkeypatch.setattr("blocks.files.text.BLOCK_BYTES", 8)
    monkeypatch.setattr("blocks.files.csv.SAMPLED_RECORDS", 2)
    with pytest.raises(InvalidInputError, match=r"line 8: a is not .*declare a schema"):
        read(b"a,b\n" + b"1,2\n" * 6 + b"x,2\n", "csv").to_arrow()


def test_an_endless_row_is_an_error_in_bounded_memory(monkeypatch):
    """A quote that is never closed does not pull the rest of the file into memory."""
    monkeypatch.setattr("blocks.files.text.BLOCK_BYTES", 64)
    monkeypatch.setattr("blocks.files.text.RECORD_BYTES", 256)
    with pytest.raises(InvalidInputError, match="line 2: a row starts here and does not end"):
        read(b'a,b\n1,"x\n' + b"2,y\n" * 10_000, "csv", pa.schema([("a", pa.int8())])).to_arrow()


def test_files_are_closed():
    """A reader that stops early, and one that fails, leave no file open."""
    files = []

    def opened():
        files.append(io.BytesIO(b"id\n" + b"1\n" * 1_000 + b"x\n"))
        return files[-1]

    reader = CsvReader(TextSource(opened, "a file"), CsvOptions())
    batches = reader.batches(pa.schema([("id", pa.int8())]), None, "fail")
    with pytest.raises(InvalidInputError):
        list(batches)
    assert all(file.closed for file in files)


# JSON Lines


def test_bad_lines_of_json():
    """A bad line is kept as it stood, with its number and a reason; blank lines do not count as rows."""
    content = (
        b'{"id":1,"day":"2026-04-30","amount":"1.50","note":"x"}\n'
        b"\n"
        b"nonsense\n"
        b"[1]\n"
        b'{"id":2,"day":"2026-02-30"}\n'
        b'{"id":3,"amount":1.239}\n'
        b'{"id":"4"}\n'
        b'{"day":null}\n'
        b'{"id":6,"note":"\xff"}\n'
        b'{"id":7}{"id":8}\n'
        b'{"id":99999999999}\n'
        b'{"id":10,"extra":{"a":1},"amount":2.5}'
    )
    rows, bad = refused(read(content, "jsonl", ORDERS, on_error="quarantine"))
    assert [(row["id"], row["amount"]) for row in rows] == [(1, Decimal("1.50")), (10, Decimal("2.50"))]
    assert [(row["line"], row["column"], row["reason"]) for row in bad] == [
        (3, None, "not JSON"),
        (4, None, "not a JSON object"),
        (5, "day", "day is not a date"),
        (6, "amount", "amount has more than 2 decimals or is out of range"),
        (7, "id", "id is not a number"),
        (8, "id", "id is missing"),
        (9, None, "not UTF-8"),
        (10, None, "not JSON"),
        (11, "id", "id is out of range"),
    ]
    with pytest.raises(InvalidInputError, match="a file line 3: not JSON"):
        read(content, "jsonl", ORDERS).to_arrow()


def test_json_types_are_inferred_with_sense():
    """Without a schema: times are times, an offset is kept, long integers keep their digits."""
    content = b'{"a":1,"b":1.5,"c":"2026-04-30","d":"2026-04-30T01:02:03+02:00","e":[null],"f":12345678901234567890}\n'
    scan = read(content, "jsonl")
    assert scan.schema == pa.schema(
        [
            ("a", pa.int64()),
            ("b", pa.float64()),
            ("c", pa.date32()),
            ("d", pa.timestamp("us", "UTC")),
            ("e", pa.list_(pa.string())),
            ("f", pa.decimal128(38, 0)),
        ]
    )
    assert scan.to_arrow()["f"].to_pylist() == [12345678901234567890]


@pytest.mark.parametrize(
    "content",
    [b"null", b"null\n", b" null\n", b'null\n{"id":1}\n', b'{"id":1}\nnull', b'{"id":1}\n\r\n\t null \nnull\n'],
)
@pytest.mark.parametrize("schema", [None, pa.schema({"id": pa.int64()})], ids=["inferred", "declared"])
def test_a_null_line_is_a_bad_line(content, schema):
    """As `5` or `[1]` is: Arrow's reader takes it for a row of nulls, and dies of a block of such lines."""
    nulls = [line for line, text in enumerate(content.split(b"\n"), 1) if text.strip() == b"null"]
    if schema is None and b"id" not in content:
        with pytest.raises(InvalidInputError, match="not a JSON Lines file"):
            read(content, "jsonl").to_arrow()
        return
    rows, bad = refused(read(content, "jsonl", schema, on_error="quarantine"))
    assert rows == [{"id": 1}] * content.count(b"id")
    assert [(row["line"], row["reason"]) for row in bad] == [(line, "not a JSON object") for line in nulls]
    with pytest.raises(InvalidInputError, match=f"line {nulls[0]}: not a JSON object"):
        read(content, "jsonl", schema).to_arrow()


def test_a_key_that_inference_did_not_see_is_named():
    """Late keys, nested ones too, are an error with key and line, and never dropped; an unended last line counts."""
    assert read(b'{"a":1}\n{"a":2,"b":3}', "jsonl").schema.names == ["a", "b"]
    early = b'{"a":1,"s":{"x":1},"t":"%s"}\n' % (b"-" * 9_000) * 500  # more than what inference looks at
    for late, key in ((b'{"a":2,"b":3}', "b"), (b'{"a":2,"s":{"x":1,"y":[2]}}\n', "s.y")):
        with pytest.raises(InvalidInputError, match=f"line 501: {key} is a key that the schema lacks"):
            read(early + late, "jsonl").to_arrow()
        rows, bad = refused(read(early + late, "jsonl", on_error="quarantine"))
        assert (len(rows), [(row["line"], row["column"]) for row in bad]) == (500, [(501, key)])


def test_an_empty_json_file():
    """No line is no row where a schema is declared, and an error where the types are to be found."""
    assert read(b"", "jsonl", ORDERS).to_arrow().num_rows == 0
    with pytest.raises(InvalidInputError, match="is empty"):
        _ = read(b"", "jsonl").schema


# Parquet and Arrow


def test_parquet_is_cast_where_nothing_is_lost():
    """A declared schema widens and checks; what would lose a value is refused without showing it."""
    content = written(pa.table({"a": [1, 300], "b": ["x", "y"]}), "parquet")
    wide = pa.schema([("b", pa.large_string()), ("a", pa.decimal128(12, 2))])
    assert read(content, "parquet", wide).to_arrow().to_pylist()[1] == {"b": "y", "a": Decimal(300)}
    with pytest.raises(TypeLossError, match="'a' is int64, and a value of it does not fit int8") as caught:
        read(content, "parquet", pa.schema([("a", pa.int8())])).to_arrow()
    assert "300" not in str(caught.value)
    with pytest.raises(SchemaError, match="cannot become"):
        read(content, "parquet", pa.schema([("b", pa.date32())])).to_arrow()
    with pytest.raises(SchemaError, match="lacks 'c'"):
        read(content, "parquet", pa.schema([("c", pa.date32())])).to_arrow()


def test_int96_holds_every_year_and_drops_nothing():
    """Spark's timestamps read right in every year; nanoseconds, and years that they lack, are refused by the column."""
    old, far = dt.datetime(1600, 1, 1), dt.datetime(9999, 12, 31)  # noqa: DTZ001 (INT96 has no zone)

    def spark(values, form=None):
        file = io.BytesIO()
        table = pa.table(
            {"at": pa.array(values, form), "in": pa.array([[value] for value in values], form and pa.list_(form))}
        )
        pq.write_table(table, file, use_deprecated_int96_timestamps=True, store_schema=False)
        return file.getvalue()

    for schema in (None, pa.schema([("at", pa.timestamp("us")), ("in", pa.list_(pa.timestamp("us")))])):
        rows = read(spark([old, far, None]), "parquet", schema).to_arrow().to_pylist()
        assert rows == [{"at": value, "in": [value]} for value in (old, far, None)]
    fine = spark([1_700_000_000_123_456_789], pa.timestamp("ns"))
    nanoseconds = pa.schema([("at", pa.timestamp("ns"))])
    assert read(fine, "parquet", nanoseconds).to_arrow()["at"].cast(pa.int64()).to_pylist() == [
        1_700_000_000_123_456_789
    ]
    with pytest.raises(
        TypeLossError, match=r"'at' has a timestamp with nanoseconds. Declare it as pa.timestamp\('ns'\)"
    ):
        read(fine, "parquet").to_arrow()
    with pytest.raises(TypeLossError, match="'at' has a timestamp before 1678 or after 2262"):
        read(spark([old]), "parquet", nanoseconds).to_arrow()


@pytest.mark.parametrize("lost", [1, 500])
def test_a_parquet_file_has_the_rows_of_its_footer(lost):
    """A file whose pages hold fewer rows than its footer says is damaged, and is not read as what is left."""
    content = written(pa.table({"a": list(range(1_000))}), "parquet", compression="none")
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    kept = content.replace(footer, footer.replace(zigzag(1_000), zigzag(1_000 + lost)))
    with pytest.raises(InvalidInputError, match="is not a valid Parquet file"):
        read(kept, "parquet").to_arrow()


def zigzag(number):
    """Write an integer as Thrift's compact protocol does."""
    number <<= 1
    out = []
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("form", ["parquet", "arrow", "arrows"])
def test_damaged_files_are_errors(form):
    """A file that is cut short or something else says so."""
    whole = written(pa.table({"a": list(range(1_000))}), form)
    for content in (b"", b"something else", whole[:-100]):
        with pytest.raises(InvalidInputError, match="is not a valid"):
            read(content, form).to_arrow()


def test_row_groups_are_bounded_and_dictionaries_only_where_they_help():
    """Row groups end at the bound; a column that repeats itself has a dictionary, one that does not has none."""
    table = pa.table({"id": list(range(1_000)), "status": ["open", "paid"] * 500})
    content = written(table, "parquet", options=ParquetOptions(row_group_rows=400))
    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    assert [metadata.row_group(index).num_rows for index in range(3)] == [400, 400, 200]
    columns = [metadata.row_group(0).column(index) for index in range(2)]
    assert [column.has_dictionary_page for column in columns] == [False, True]
    assert all(column.is_stats_set and column.compression == "ZSTD" for column in columns)


def test_a_large_row_group_is_read_by_parts(monkeypatch):
    """Not even one column of it is ever in memory as a whole."""
    monkeypatch.setattr(parquet, "LARGE_GROUP_BYTES", 500_000)
    monkeypatch.setattr(parquet, "PART_BYTES", 10_000)
    table = pa.table({"id": pa.array(random.Random(1).sample(range(2**40), 100_000))})
    content = io.BytesIO()
    pq.write_table(table, content, row_group_size=table.num_rows, data_page_size=10_000, use_dictionary=False)
    sizes = []

    class Watched(io.BytesIO):
        def read(self, size=-1):
            data = super().read(size)
            sizes.append(len(data))
            return data

    reader = parquet.ParquetReader(lambda: Watched(content.getvalue()), "a file", "fail", None)
    assert pa.Table.from_batches(reader.batches(table.schema)).equals(table)
    assert sum(sizes) >= 800_000
    assert max(sizes) <= 200_000


def test_types_widen_only_without_loss():
    """Two files' types meet in one that holds both, or not at all."""
    assert widened(pa.int32(), pa.int64()) == pa.int64()
    assert widened(pa.null(), pa.string()) == pa.string()
    assert widened(pa.int32(), pa.float64()) == pa.float64()
    assert widened(pa.int64(), pa.float64()) == pa.float64()  # each value is looked at when it is read
    assert widened(pa.string(), pa.int64()) is None
    assert widened(pa.decimal128(5, 2), pa.decimal128(6, 3)) == pa.decimal128(6, 3)
