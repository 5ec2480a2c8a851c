"""What people have in hand: files as Excel, R, SAP and Spark write them, and what a wrong option says."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks import CsvOptions, JsonOptions
from blocks.arrow.rejects import Rejects
from blocks.base.errors import ConnectorError, InvalidInputError, SchemaError
from blocks.files.formats import open_scan
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles


def read(content: bytes | str, schema: pa.Schema | None = None, form: Any = "csv", **options: Any) -> pa.Table:
    data = content.encode() if isinstance(content, str) else content
    chosen = CsvOptions(**options) if options else None
    return open_scan(lambda: io.BytesIO(data), source="a.csv", format=form, schema=schema, options=chosen).to_arrow()


# Names


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (",a,b", ["column0", "a", "b"]),
        ("a,b,", ["a", "b", "column2"]),
        ("Report 2026,,", ["Report 2026", "column1", "column2"]),
        ('"",a,""', ["column0", "a", "column2"]),
        (",,", ["column0", "column1", "column2"]),
        ("column1,,a", ["column1", "column1_1", "a"]),
        ("a,a,a_1", ["a", "a_2", "a_1"]),
        ("a,A,b", ["a", "A", "b"]),
    ],
)
def test_every_column_has_a_name_of_its_own(header: str, names: list[str]) -> None:
    """A column without a name is called by its place, a repeated name gets a number."""
    assert read(f"{header}\n1,2,3\n").column_names == names


@given(st.lists(st.sampled_from(["", "a", "A", "a_1", "column0", "column1", "column1_1", " "]), min_size=2))
@settings(deadline=None)
def test_names_are_different_and_those_that_are_there_stay(header: list[str]) -> None:
    """Whatever the header is; where case does not count, they differ by more than case."""
    file = io.StringIO()
    csv.writer(file).writerows([header, ["x"] * len(header)])
    for case in (True, False):
        names = read(file.getvalue(), case_sensitive_names=case).column_names
        assert len({name if case else name.lower() for name in names}) == len(header)
        seen: set[str] = set()
        for name, given_name in zip(names, header, strict=True):
            alike = given_name if case else given_name.lower()
            assert name == given_name or not given_name or alike in seen
            seen.add(alike)


def test_a_repeated_name_of_a_schema_is_ambiguous() -> None:
    """Which of two columns is meant is never guessed; a schema that asks for both by their names is clear."""
    text, schema = "a,a,b\n1,2,3\n", pa.schema([("a", pa.int64())])
    with pytest.raises(SchemaError, match=r"a\.csv has these columns more than once: 'a'.*'a_1'"):
        read(text, schema)
    assert read(text, schema.append(pa.field("a_1", pa.int64()))).to_pylist() == [{"a": 1, "a_1": 2}]


def test_names_that_differ_by_case_are_refused_by_file_where_the_engine_takes_them_for_one(tmp_path: Any) -> None:
    """DuckDB does; the error has the file, the names and the option, with which they are loaded."""
    (tmp_path / "a.csv").write_text("ID,id\n1,2\n")
    with DuckDB() as warehouse:
        with pytest.raises(SchemaError, match=r"a\.csv.*'ID'.*'id'.*case_sensitive_names=False"):
            warehouse.load(LocalFiles(basepath=str(tmp_path)).scan("a.csv"), "t")
        renamed = LocalFiles(basepath=str(tmp_path)).scan("a.csv", options=CsvOptions(case_sensitive_names=False))
        warehouse.load(renamed, "t")
        assert warehouse.read_table("t").to_pylist() == [{"ID": 1, "id_1": 2}]


def test_what_pandas_writes_goes_in(tmp_path: Any) -> None:
    """An index without a name, into a warehouse, without an option."""
    (tmp_path / "a.csv").write_text(",city,sold\n0,Rome,1.50\n1,Oslo,2.25\n")
    with DuckDB() as warehouse:
        warehouse.load(LocalFiles(basepath=str(tmp_path)).scan("a.csv"), "t")
        assert warehouse.read_table("t").to_pylist()[1] == {"column0": 1, "city": "Oslo", "sold": Decimal("2.25")}


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("a,b\n1,2,\n3,4,\n", {"a": 1, "b": 2, "column2": None}),
        ('"a","b"\n"1",2,x\n"2",3,y\n', {"column0": 1, "a": 2, "b": "x"}),
        ("a;b\nfree text\n", {"a;b": "free text"}),
        ("a b\n1 2\n", {"a b": "1 2"}),
    ],
)
def test_header_and_rows_tell_the_columns(text: str, row: dict[str, Any]) -> None:
    """Delimiters at the end of rows, R's names of rows, and marks that separate nothing."""
    assert read(text).to_pylist()[0] == row


# Lines that are no rows


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        ("a,b\n1,2\nTotal,2\n", {"skip_footer": 1}, [(1, 2)]),
        ("a,b\n1,2\nTotal\n\n \n", {"skip_footer": 1}, [(1, 2)]),
        ("a,b\r\n1,2\r\n-\r\nTotal", {"skip_footer": 2}, [(1, 2)]),
        ("sep=;\na;b\n1;2\n", {"skip_lines": 1, "delimiter": ";"}, [(1, 2)]),
        ('# x\n\n# "open\na,b\n# it\'s, "so\n1,2\n#\n3,4\n# end', {"comment": "#"}, [(1, 2), (3, 4)]),
        ("a,b\n1,2\n#5\n", {"comment": "%", "skip_footer": 1}, [(1, 2)]),
        ("a\n1\n#2\n\n#3\n4\n", {"comment": "#"}, [(1,), (None,), (4,)]),
    ],
)
def test_lines_that_are_no_rows_are_left_out(text: str, options: dict[str, Any], rows: list[tuple[Any, ...]]) -> None:
    """Comments wherever they are, whatever is in them; a footer; what a program writes above the header."""
    assert [tuple(row.values()) for row in read(text, **options).to_pylist()] == rows


def test_a_comment_within_quotes_is_text_and_lines_are_counted() -> None:
    """A line of a quoted field is no comment; a bad row behind comments has its own line."""
    text = 'a,b\n# one\n"x\n#y",2\n# two\n\nz,bad\n'
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    rejects = Rejects()
    scan = open_scan(
        lambda: io.BytesIO(text.encode()), source="a.csv", format="csv", schema=schema,
        options=CsvOptions(comment="#"), on_error="quarantine",
    )  # fmt: skip
    assert [row for batch in scan.batches(rejects) for row in batch.to_pylist()] == [{"a": "x\n#y", "b": 2}]
    assert ['"line": 7' in line for line in rejects.json_lines()] == [True]


@given(st.lists(st.sampled_from(["1,2", "#c", "", '"#x",1', '"a\n#b",2', "3,#4"])), st.integers(1, 30))
@settings(deadline=None)
def test_comments_are_the_same_in_whatever_block(lines: list[str], block: int) -> None:
    """Blocks never split a comment into a row."""
    text = "a,b\n" + "\n".join(lines)
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    whole = read(text, schema, comment="#").to_pylist()
    expected = [line for line in lines if line and not line.startswith("#")]
    assert len(whole) == len(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocks.files.text.BLOCK_BYTES", block)
        patch.setattr("blocks.files.csv.SAMPLED_RECORDS", 2)
        assert read(text, schema, comment="#").to_pylist() == whole


# Numbers and times


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        ("1.234,50", {"decimal_point": ",", "thousands": "."}, "1234.50"),
        ("1,234,567", {"thousands": ","}, "1234567"),
        ("12,34,567.5", {"thousands": ","}, "1234567.5"),
        ("1 234,5", {"decimal_point": ",", "thousands": " "}, "1234.5"),
        ("1\u202f234\u00a0567", {"thousands": " "}, "1234567"),
        ("1'234", {"thousands": "'"}, "1234"),
        ("$1,234.50", {"thousands": ",", "number_marks": ("$",)}, "1234.50"),
        ("-$5", {"number_marks": ("$",)}, "-5"),
        ("1.234,56\u00a0\u20ac", {"decimal_point": ",", "thousands": ".", "number_marks": ("\u20ac",)}, "1234.56"),
        ("EUR 7", {"number_marks": ("EUR", "E")}, "7"),
        ("12.5 %", {"number_marks": ("%",)}, "12.5"),
        ("1.234,50-", {"decimal_point": ",", "thousands": ".", "minus": "trailing"}, "-1234.50"),
        ("(1,234.50)", {"thousands": ",", "minus": "parentheses"}, "-1234.50"),
        ("($5)", {"number_marks": ("$",), "minus": "parentheses"}, "-5"),
        ("+5", {}, "5"),
        ("1,23", {"thousands": ","}, None),
        ("1,2345", {"thousands": ","}, None),
        ("1.5", {"decimal_point": ",", "thousands": "."}, None),
        ("%", {"number_marks": ("%",)}, None),
        ("-5-", {"minus": "trailing"}, None),
        ("(5", {"minus": "parentheses"}, None),
    ],
)
def test_numbers_are_read_as_the_options_say(text: str, options: dict[str, Any], value: str | None) -> None:
    """As a decimal, a float and, where it is one, an integer; what is no number in this style is a bad row."""
    content = f'a,b\n"{text}",x\n'
    for kind in (pa.decimal128(18, 2), pa.float64(), pa.int64()):
        schema = pa.schema([("a", kind), ("b", pa.string())])
        if value is None or (kind == pa.int64() and "." in value):
            with pytest.raises(InvalidInputError, match="line 2: a is not a"):
                read(content, schema, **options)
        else:
            assert Decimal(str(read(content, schema, **options)["a"][0])) == Decimal(value)
    if value is not None and "+" not in text:
        inferred = read(content, **options)
        assert inferred["a"][0].as_py() == Decimal(value)


def test_only_numbers_are_respelled() -> None:
    """A text keeps its marks, points and spaces."""
    content, schema = "a\n(5) $1.234\n", pa.schema([("a", pa.string())])
    style = {"decimal_point": ",", "thousands": ".", "number_marks": ("$",), "minus": "parentheses"}
    assert read(content, schema, **style)["a"].to_pylist() == ["(5) $1.234"]
    assert read(content, **style)["a"].to_pylist() == ["(5) $1.234"]


@pytest.mark.parametrize(
    ("text", "epoch", "kind", "value"),
    [
        ("1777500000", "s", pa.timestamp("us", "UTC"), datetime(2026, 4, 29, 22, tzinfo=UTC)),
        ("1777500000.25", "s", pa.timestamp("ms"), datetime(2026, 4, 29, 22, 0, 0, 250_000)),  # noqa: DTZ001
        ("1777500000250", "ms", pa.timestamp("ms"), datetime(2026, 4, 29, 22, 0, 0, 250_000)),  # noqa: DTZ001
        ("-1000", "ms", pa.timestamp("s"), datetime(1969, 12, 31, 23, 59, 59)),  # noqa: DTZ001
        ("2026-04-30T00:00:00", "s", pa.timestamp("us"), datetime(2026, 4, 30)),  # noqa: DTZ001
        ("1777500000250", "ms", pa.timestamp("s"), None),
        ("1.5e9", "s", pa.timestamp("s"), None),
        ("99999999999999999999", "s", pa.timestamp("s"), None),
    ],
)
def test_numbers_are_timestamps_where_their_unit_is_given(text: str, epoch: str, kind: Any, value: Any) -> None:
    """Exactly, or the row is bad; without the unit a number is no timestamp."""
    content, schema = f"a\n{text}\n", pa.schema([("a", kind)])
    if value is None:
        with pytest.raises(InvalidInputError, match="line 2: a is not a timestamp"):
            read(content, schema, epoch=epoch)
    else:
        assert read(content, schema, epoch=epoch)["a"].to_pylist() == [value]
    if not text.startswith("2026-"):
        with pytest.raises(InvalidInputError, match="line 2: a is not a timestamp"):
            read(content, schema)


def test_dates_in_other_formats_need_no_schema() -> None:
    """`timestamp_formats` count where types are inferred, too."""
    assert read("d\n30.04.2026\n", timestamp_formats=("%d.%m.%Y",))["d"].to_pylist() == [date(2026, 4, 30)]


def test_quotes_may_be_characters() -> None:
    """Where quote is None."""
    rows = read('a\tb\n5" pipe\t"x\n', delimiter="\t", quote=None).to_pylist()
    assert rows == [{"a": '5" pipe', "b": '"x'}]


# What goes wrong


@pytest.mark.parametrize("name", [" ", "a;b", "a b", "\t", "a|b\tc"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_quoted_name_may_hold_what_delimits_elsewhere(name: str, count: int) -> None:
    """A file of one column is read with its name, also one that we wrote."""
    text = "\n".join([f'"{name}"', *["1"] * count, ""])
    assert read(text).to_pydict() == {name: [1] * count}


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (b"a,b\n0,0\n1,\xe9,3\n", {}, "line 3: too many fields"),
        (b"a,b\n1\xe9\n", {}, "line 2: too few fields"),
        (b"a,b\n1,2\n3,4,5\n", {}, "line 3: too many fields.*has to be quoted.*skip_footer"),
        (b"name;price, net;n\nx;1,5;2\ny;2;3\n", {}, "line 3: too few fields.*By ';' header and rows have 3"),
        (b"a,b\n1,2\n", {"delimiter": ";"}, "has no ';', and 2 columns by ','"),
        (b"a;b\n1;2,5\n", {}, r"no ',', and 2 columns by ';'. Pass options=CsvOptions\(delimiter=';'\)"),
        (b"a\tb\n1\tx\n", {}, "2 columns by '.t'"),
        (b'"a" "b"\n"1" 2 x\n"2" 3 y\n', {}, "2 columns by ' '"),
        (b'a,b\n1,"5 inch\n2,x\n', {}, r"line 2: .*quote=None.*delimiter="),
        (b'a,b\n"x" y,2\n', {}, "line 2: text after a quoted field.*escape"),
        (b"a,b\nx,+\xe9\n", {}, "line 2: not UTF-8"),
    ],
)
def test_a_bad_row_says_what_to_do_about_it(text: bytes, options: dict[str, Any], words: str) -> None:
    """What fits the fault: never a schema for a row that is ragged, or wrong quotes for a wrong delimiter."""
    for schema in (None, pa.schema([("a", pa.string()), ("b", pa.string())])):
        if schema is not None and b"a,b" not in text:
            continue
        with pytest.raises(InvalidInputError, match=words) as caught:
            read(text, schema, **options)
        assert "declare a schema" not in str(caught.value)
        assert "\n" not in str(caught.value)


@given(
    st.binary(max_size=60),
    st.sampled_from(
        [
            {},
            {"comment": "#"},
            {"escape": "\\"},
            {"quote": None},
            {"skip_footer": 1},
            {"delimiter": ";"},
            {"header": False},
        ]
    ),
)
@settings(deadline=None)
def test_any_bytes_are_rows_or_an_error_of_ours(data: bytes, options: dict[str, Any]) -> None:
    """Nothing of Arrow's or Python's comes out of a CSV file, whatever is in it."""
    for schema in (None, pa.schema([("a", pa.int64()), ("b", pa.string())])):
        for content in (data, b"a,b\n" + data):
            try:
                read(content, schema, **options)
            except ConnectorError as error:
                assert "\n" not in str(error)  # noqa: PT017 (it need not be raised)


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": "rot13"},
        {"encoding": "hex"},
        {"encoding": "klingon"},
        {"thousands": "."},
        {"comment": ","},
        {"sep": ";"},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    """Where they are written down, not when the file is read."""
    with pytest.raises(ValidationError):
        CsvOptions(**options)


# JSON


def read_json(content: str | bytes, schema: pa.Schema | None = None, form: Any = "json", **options: Any) -> list[Any]:
    data = content.encode() if isinstance(content, str) else content
    chosen = JsonOptions(**options) if options else None
    scan = open_scan(lambda: io.BytesIO(data), source="a.json", format=form, schema=schema, options=chosen)
    return scan.to_arrow().to_pylist()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


OBJECTS = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b\n", 'c"', "[", "\\"]),
        st.none()
        | st.booleans()
        | st.text(max_size=5)
        | st.lists(st.sampled_from(["x,", "}]", "\\", '"']), max_size=2),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.integers(1, 40))
@settings(deadline=None)
def test_every_layout_of_objects_is_the_same_rows(objects: list[Any], indent: Any, ascii: bool, block: int) -> None:  # noqa: A002
    """One a line, as an array, or one after the other over several lines; in blocks of any size."""
    keys = dict.fromkeys(key for each in objects for key in each)
    schema = pa.schema([(key, pa.json_()) for key in keys])
    lines = "\n".join(json.dumps(each, ensure_ascii=ascii) for each in objects)
    expected = read_json(lines, schema, "jsonl")
    assert [{key: json.loads(text) for key, text in row.items() if text} for row in expected] == [
        {key: value for key, value in each.items() if value is not None} for each in objects
    ]
    array = json.dumps(objects, ensure_ascii=ascii, indent=indent)
    spread = " ".join(json.dumps(each, ensure_ascii=ascii, indent=indent) for each in objects)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocks.files.text.BLOCK_BYTES", block)
        for form, text in (
            ("json", lines),
            ("json", array),
            ("jsonl", array),
            ("json", f"  {array}\n"),
            ("json", spread),
        ):
            if text is spread and len(objects) > 1 and indent is None:
                continue  # several objects in one line are none
            got = read_json(text, schema, form)
            assert [{key: text and json.loads(text) for key, text in row.items()} for row in got] == [
                {key: text and json.loads(text) for key, text in row.items()} for row in expected
            ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"a": 1}, {"a": 2}', "it ends within a value"),
        ('[{"a": 1}]]', "a bracket is closed|something follows"),
        ('[{"a": 1}] x', "something follows the array"),
        ('[{"a": "x]', "it ends within a value"),
        ('[{"a": 1}, 5, {"a": 2}]', "object 2: not a JSON object"),
        ('[{"a": 1}, {"a": "x"}]', "the key 'a' is number and string.*pa.json_"),
        ('{\n"a": 1', "it ends within a value"),
        ("[" * 20_000 + "]" * 20_000, "not JSON objects|nested too deeply|not a JSON object"),
        ('{"a": ' * 20_000 + "1" + "}" * 20_000, "not JSON objects|nested too deeply|not a JSON object"),
        ("[]", "is empty"),
        ("x", "not JSON objects"),
    ],
)
def test_json_that_is_none_says_so(content: str, words: str) -> None:
    """What is cut short or not an object is an error that names the place, never fewer rows."""
    with pytest.raises(ConnectorError, match=words):
        read_json(content)


def test_mixed_values_are_kept_as_they_are_written() -> None:
    """As JSON, every value; as text, what is none; digits and spaces stay as they are in the file."""
    objects = [
        '{"a": 1.50, "b": "x"}',
        '{"a": {"k": [1, 2.0]}, "b": 12345678901234567890.10}',
        '{"a": "t", "b": null}',
        '{"b": true}',
    ]
    text = f"[{', '.join(objects)}]"
    rows = read_json(text, pa.schema([("a", pa.json_()), ("b", pa.string())]))
    assert [row["a"] for row in rows] == ["1.50", '{"k": [1, 2.0]}', '"t"', None]
    assert [row["b"] for row in rows] == ["x", "12345678901234567890.10", None, "true"]


def test_an_inferred_text_takes_no_number() -> None:
    """Only a schema makes texts of numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocks.files.text.BLOCK_BYTES", 8)
        with pytest.raises(InvalidInputError, match=r"line 3: a is not a text.*declare a schema"):
            read_json('{"a": "x"}\n{"a": "y"}\n{"a": 5}\n', form="jsonl")


def test_options_of_json() -> None:
    """Encoding, epochs (as numbers or texts) and formats, in lines and in arrays."""
    text = '{"d": "30.04.2026", "t": 1777500000.5, "n": "\u00e9"}'
    schema = pa.schema([("d", pa.date32()), ("t", pa.timestamp("ms", "UTC")), ("n", pa.string())])
    options = {"encoding": "utf-16", "epoch": "s", "timestamp_formats": ("%d.%m.%Y",)}
    for form, content in (
        ("jsonl", text),
        ("json", f"[{text}]"),
        ("jsonl", f"{text}\n{text.replace('1777500000.5', chr(34) + '1777500000.5' + chr(34))}"),
    ):
        for row in read_json(content.encode("utf-16"), schema, form, **options):
            assert row == {"d": date(2026, 4, 30), "t": datetime(2026, 4, 29, 22, 0, 0, 500_000, UTC), "n": "\u00e9"}
    assert read_json(text.encode("cp1252"), encoding="cp1252", timestamp_formats=("%d.%m.%Y",))[0]["d"] == date(
        2026, 4, 30
    )


# Files that say their types


def parquet_bytes(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="none", use_dictionary=False)
    return file.getvalue()


def arrow_bytes(table: pa.Table) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


@pytest.mark.parametrize(("form", "write"), [("parquet", parquet_bytes), ("arrow", arrow_bytes)])
def test_foreign_typed_files_are_rows_or_an_error_of_ours(form: str, write: Any) -> None:
    """Names twice, names and texts that are not UTF-8: by file and column; what is not asked for does not matter."""
    twice = write(pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "b"]))
    with pytest.raises(SchemaError, match=r"a\.csv has these columns more than once: 'a'"):
        read(twice, form=form)
    assert read(twice, pa.schema([("b", pa.int64())]), form).to_pylist() == [{"b": 3}]
    content = write(pa.table({"name": ["text"]}))
    for part, words in ((b"name", "not UTF-8"), (b"text", "column 'name' is text, and a value of it is not UTF-8")):
        with pytest.raises(InvalidInputError, match=words):
            read(content.replace(part, b"\xff\xfe\xfd\xfc"), form=form)


@pytest.mark.thorough
def test_a_wide_file_is_read_in_time() -> None:
    """20,000 columns: what is quadratic in them takes minutes."""
    text = ",".join(f"c{place}" for place in range(20_000)) + "\n" + ",".join(["1"] * 20_000)
    assert read(text).num_columns == 20_000


# Compression


@pytest.mark.parametrize(
    ("compression", "content"),
    [
        ("gzip", gzip.compress(b"a\n1\n", mtime=0) + b"\0" * 512),
        ("gzip", gzip.compress(b"a\n", mtime=0) + gzip.compress(b"1\n", mtime=0)),
        ("bz2", bz2.compress(b"a\n") + bz2.compress(b"1\n")),
        ("xz", lzma.compress(b"a\n1\n")),
        ("zip", zipped({"data/orders": b"a\n1\n"})),
        ("zip", zipped({"orders": b"a\n1\n", "__MACOSX/x": b"", "data/": b""})),
    ],
)
def test_compressed_files_are_read(compression: Any, content: bytes) -> None:
    """Whole, also where several streams follow each other or zeros fill up a block; cut short, they are an error."""

    def table(data: bytes) -> list[Any]:
        scan = open_scan(lambda: io.BytesIO(data), source="a", format="csv", compression=compression)
        return scan.to_arrow().to_pylist()

    assert table(content) == [{"a": 1}]
    stripped = content.rstrip(b"\0") if compression == "gzip" else content
    with pytest.raises(InvalidInputError, match=f"not a valid {compression} file"):
        table(stripped[:-7])


def test_a_zip_of_several_files_says_which() -> None:
    """Which one is meant is not guessed."""
    archive = io.BytesIO(zipped({"a": b"x", "b": b"y"}))
    scan = open_scan(lambda: archive, source="z", format="csv", compression="zip")
    with pytest.raises(InvalidInputError, match=r"zip archive of 2 files.*'a'.*'b'"):
        scan.to_arrow()


@pytest.mark.parametrize("compression", ["bz2", "xz", "zip"])
def test_data_that_is_compressed_without_a_name_for_it_says_how(compression: Any) -> None:
    """The error has the argument to pass."""
    contents = {"bz2": bz2.compress(b"a\n1\n"), "xz": lzma.compress(b"a\n1\n"), "zip": zipped({"a": b"a\n1\n"})}
    with pytest.raises(InvalidInputError, match=f"Pass compression='{compression}'"):
        read(contents[compression])
