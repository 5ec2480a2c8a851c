"""What datasets promise: the same write twice is there once, nothing half-written, partitions read back exactly."""

from __future__ import annotations

import datetime as dt
import io
import json
import threading

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.arrow.scan import Scan
from blocks.base.errors import InvalidInputError, NotFoundError, QualityError, SchemaError, TransientError
from blocks.files.options import CsvOptions
from blocks.stores import dataset_writer
from blocks.stores.dataset import scan, write_table
from connectors.local import LocalFiles, MemoryFiles

DAYS = [dt.date(2026, 4, day) for day in (28, 29, 30)]
ORDERS = pa.table(
    {
        "id": pa.array(range(9), pa.int64()),
        "date": pa.array(DAYS * 3, pa.date32()),
        "note": pa.array([f"note {row}" for row in range(9)]),
    }
)
SCHEMA = pa.schema([("id", pa.int32()), ("amount", pa.decimal128(9, 2))])


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return (MemoryFiles() if request.param == "memory" else LocalFiles(basepath=str(tmp_path))).objects


def keys(store, prefix=""):
    return [info.key for page in store.list(prefix) for info in page]


def put(store, **files):
    for key, content in files.items():
        store.put(key.replace("__", "/").replace("_csv", ".csv"), content)


def rows(found):
    return sorted(found.to_arrow().to_pylist(), key=str)


# Writing


def test_an_unknown_mode_writes_nothing() -> None:
    """Also one that other tools know; the message names ours."""
    store = MemoryFiles()
    store.write_table(ORDERS, "orders")
    before = {info.key: info.etag for page in store.objects.list() for info in page}
    with pytest.raises(InvalidInputError, match=r"Invalid mode 'overwrite': .*The choices: 'replace', "):
        store.write_table(ORDERS.slice(0, 1), "orders", mode="overwrite")
    assert before == {info.key: info.etag for page in store.objects.list() for info in page}


def test_one_file_without_partitions(store):
    """Without partition_by there is one file in the folder, and the report says so."""
    report = write_table(store, ORDERS, "lake/orders")
    assert keys(store) == ["lake/orders/part-0.parquet"] == [file.key for file in report.files]
    assert (report.rows_read, report.rows, report.rejected, report.quarantine) == (9, 9, {}, None)
    assert report.bytes == store.head("lake/orders/part-0.parquet").size
    assert scan(store, "lake/orders").to_arrow().equals(ORDERS)


def test_partitions_are_folders_and_come_back_as_columns(store):
    """Each value is a folder; reading gives the column again, in its type."""
    report = write_table(store, ORDERS, "orders", partition_by=["date"])
    assert keys(store) == [f"orders/date={day}/part-0.parquet" for day in DAYS]
    assert report.partitions == tuple(f"date={day}" for day in DAYS)
    found = scan(store, "orders")
    assert found.schema == pa.schema([("id", pa.int64()), ("note", pa.string()), ("date", pa.date32())])
    assert found.select(["id", "date", "note"]).to_arrow().sort_by("id").equals(ORDERS)


def test_a_polars_frame_can_be_partitioned_by_text(store):
    """Polars hands out its text as views, which Arrow itself cannot sort into partitions."""
    write_table(store, pl.DataFrame({"id": [1, 2, 3], "shop": ["a", "b", "a"]}), "lake", partition_by=["shop"])
    assert keys(store) == ["lake/shop=a/part-0.parquet", "lake/shop=b/part-0.parquet"]


def test_rows_keep_their_order_in_a_partition(store):
    """Within a partition the rows come as they came."""
    write_table(store, ORDERS, "orders", partition_by=["date"])
    assert scan(store, f"orders/date={DAYS[1]}").to_arrow()["id"].to_pylist() == [1, 4, 7]


@settings(deadline=None, max_examples=25)
@given(
    values=st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=6),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_partition_value_comes_back(values):
    """Texts with slashes, blanks and percent signs, numbers and nulls survive the way through folder names."""
    schema = pa.schema([("text", pa.string()), ("number", pa.int64()), ("flag", pa.bool_()), ("row", pa.int64())])
    columns = [*zip(*values, strict=True), range(len(values))]
    table = pa.table(
        [pa.array(list(column), field.type) for column, field in zip(columns, schema, strict=True)], schema
    )
    store = MemoryFiles().objects
    write_table(store, table, "base", partition_by=["text", "number", "flag"])
    assert scan(store, "base", schema=schema).to_arrow().sort_by("row").equals(table)


def test_the_same_write_twice_gives_the_same_files(store):
    """In every mode a second try changes nothing: the same keys, the same bytes."""
    for mode in ("replace", "replace_partition", "append"):
        first = write_table(store, ORDERS, mode, partition_by=["date"], mode=mode, load_id="2026-04-30/v1")
        content = {key: store.get(key) for key in keys(store, mode)}
        second = write_table(store, ORDERS, mode, partition_by=["date"], mode=mode, load_id="2026-04-30/v1")
        assert {key: store.get(key) for key in keys(store, mode)} == content
        assert second.files == first.files
        assert second.removed == 0


def test_append_adds_and_a_repeated_append_does_not(store):
    """Loads of different ids are there side by side, each once."""
    for load_id in ("a", "b", "a", "b"):
        write_table(store, ORDERS, "orders", mode="append", load_id=load_id)
    assert keys(store) == ["orders/part-a-0.parquet", "orders/part-b-0.parquet"]
    assert scan(store, "orders").to_arrow().num_rows == 18


def test_an_append_removes_what_its_dead_attempt_left(store):
    """Parts of the same load that this try did not write are removed; those of loads with a longer name are not."""
    write_table(store, ORDERS, "orders", mode="append", load_id="a-1")
    write_table(store, ORDERS, "orders", mode="append", load_id="a", partition_by=["date"])
    report = write_table(store, ORDERS.slice(0, 1), "orders", mode="append", load_id="a", partition_by=["date"])
    assert keys(store) == ["orders/date=2026-04-28/part-a-0.parquet", "orders/part-a-1-0.parquet"]
    assert report.removed == 2


def test_replace_leaves_nothing_else(store):
    """After a replace the folder holds the new rows only; its neighbours are untouched."""
    put(store, orders2__x_csv=b"id\n1\n")
    write_table(store, ORDERS, "orders", mode="append")
    write_table(store, ORDERS, "orders", partition_by=["date"])
    write_table(store, ORDERS.slice(0, 1), "orders", partition_by=["date"])
    assert keys(store) == ["orders/date=2026-04-28/part-0.parquet", "orders2/x.csv"]


def test_replace_partition_leaves_the_others(store):
    """Only the partitions that have rows are replaced, in all their files."""
    write_table(store, ORDERS, "orders", partition_by=["date"], mode="append", load_id="old")
    new = ORDERS.slice(1, 1)
    report = write_table(store, new, "orders", partition_by=["date"], mode="replace_partition")
    assert keys(store, "orders/date=2026-04-29") == ["orders/date=2026-04-29/part-0.parquet"]
    assert scan(store, "orders").to_arrow().num_rows == 7
    assert report.removed == 1


def test_many_partitions_are_replaced_by_one_listing(store, monkeypatch):
    """With many partitions the whole folder is listed once, and still only those that were written are cleaned."""
    monkeypatch.setattr(dataset_writer, "LISTED_ONE_BY_ONE", 1)
    write_table(store, ORDERS, "base/orders", partition_by=["date"], mode="append", load_id="old")
    report = write_table(store, ORDERS.slice(0, 2), "base/orders", partition_by=["date"], mode="replace_partition")
    assert report.removed == 2
    assert scan(store, "base/orders").to_arrow().num_rows == 5


def test_a_single_partition_can_be_written_by_its_folder(store):
    """A prefix that is a partition's own folder works like the partition; reading knows its column."""
    write_table(store, ORDERS.select(["id"]), "orders/date=2026-04-30")
    assert scan(store, "orders").to_arrow()["date"].to_pylist() == [DAYS[2]] * 9


def test_no_rows(store):
    """A replace with no rows keeps the schema; the other modes change nothing."""
    write_table(store, ORDERS, "orders", partition_by=["date"])
    empty = ORDERS.slice(0, 0)
    for mode in ("append", "replace_partition"):
        assert write_table(store, empty, "orders", partition_by=["date"], mode=mode).files == ()
    assert scan(store, "orders").to_arrow().num_rows == 9
    write_table(store, empty, "orders", partition_by=["date"])
    assert scan(store, "orders").to_arrow().equals(empty)


def test_large_data_is_many_parts_in_order(store):
    """A part that is full is followed by the next; all parts read as what was written."""
    table = pa.table({"id": list(range(100_000))})
    report = write_table(store, table.to_reader(5_000), "big", format="csv", compression="none", max_file_bytes=20_000)
    assert len(report.files) > 10
    assert {file.key for file in report.files} == set(keys(store))
    assert scan(store, "big", schema=table.schema).to_arrow().equals(table)


def test_unsorted_partitions_in_bounded_memory(store, monkeypatch):
    """Rows of many partitions in any order, more than are held at a time, make one file for each."""
    monkeypatch.setattr(dataset_writer, "SORT_BYTES", 1_000)
    table = pa.table({"id": list(range(600)), "part": [row * 7 % 10 for row in range(600)]})
    report = write_table(store, table.to_reader(50), "base", partition_by=["part"])
    assert len(report.partitions) == len(report.files) == 10
    found = scan(store, "base").to_arrow().sort_by("id")
    assert found.select(["id", "part"]).equals(table)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow", "arrows"])
def test_every_format(store, form):
    """A dataset can be written and read in each format."""
    write_table(store, ORDERS, "orders", format=form, compression="zstd")
    assert scan(store, "orders", schema=ORDERS.schema).to_arrow().equals(ORDERS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"partition_by": ["day"]}, SchemaError, "no column 'day' to partition by; the columns are 'id', 'date'"),
        ({"partition_by": ["id", "date", "note"]}, SchemaError, "no column would be left"),
        ({"prefix": "/"}, InvalidInputError, "a folder of its own"),
        ({"compression": "lz4"}, InvalidInputError, "Use one of: zstd"),
    ],
)
def test_a_write_that_cannot_work_writes_nothing(store, options, error, message):
    """The error comes before anything is written."""
    with pytest.raises(error, match=message):
        write_table(store, ORDERS, **({"prefix": "orders"} | options))
    assert keys(store) == []


def test_a_source_that_fails_leaves_the_old_files(store):
    """When the data breaks off, nothing of it is published."""
    write_table(store, ORDERS, "orders")

    def broken(_):
        yield from ORDERS.to_batches()
        raise TransientError("The connection was lost.")

    with pytest.raises(TransientError):
        write_table(store, Scan(ORDERS.schema, broken, source="a source"), "orders", partition_by=["date"])
    assert keys(store) == ["orders/part-0.parquet"]


# Bad rows

CSV = b"id,amount\n1,1.50\nx,1\n3,2.50\n4,1.239\n"


def test_bad_rows_go_to_the_quarantine(store):
    """The refused rows are in an object beside the load, with file line and reason; the report counts them."""
    put(store, raw__orders_csv=CSV)
    source = scan(store, "raw/orders.csv", schema=SCHEMA, on_error="quarantine")
    report = write_table(store, source, "lake/date=2026-04-30", max_rejected=0.5)
    assert report.quarantine == "lake/date=2026-04-30/_quarantine/rows.jsonl"
    assert report.rejected == {"id is not a number": 1, "amount has more than 2 decimals": 1}
    assert (report.rows_read, report.rows) == (4, 2)
    lines = [json.loads(line) for line in store.get(report.quarantine).splitlines()]
    assert lines[0] == {"line": 3, "column": "id", "reason": "id is not a number", "row": "x,1"}
    assert scan(store, "lake").to_arrow().num_rows == 2


def test_a_clean_write_removes_the_old_quarantine(store):
    """When the corrected data has no bad rows, those of the earlier try are gone."""
    put(store, raw__orders_csv=CSV)
    source = scan(store, "raw/orders.csv", schema=SCHEMA, on_error="quarantine")
    for mode in ("replace", "replace_partition", "append"):
        assert write_table(store, source, mode, mode=mode, load_id="x", max_rejected=0.5).quarantine
    put(store, raw__orders_csv=b"id,amount\n1,1.50\n")
    for mode in ("replace", "replace_partition", "append"):
        assert write_table(store, source, mode, mode=mode, load_id="x", max_rejected=0.5).quarantine is None
        assert len(keys(store, mode)) == 1


def test_a_correction_voids_the_quarantine_of_the_partitions_that_it_replaces(store):
    """Also where other partitions have good rows now; that of a write which other partitions have rows of stays."""

    def write(csv):
        put(store, raw__days_csv=csv)
        source = scan(
            store, "raw/days.csv", schema=pa.schema({"day": pa.string(), "n": pa.int64()}), on_error="quarantine"
        )
        return write_table(store, source, "lake", mode="replace_partition", partition_by=["day"], max_rejected=0.5)

    both = write(b"day,n\nmon,x\nmon,1\ntue,2\n").quarantine
    first = write(b"day,n\nmon,1\ntue,x\n").quarantine
    assert keys(store, "lake/_quarantine") == sorted([both, first])
    assert write(b"day,n\nmon,1\ntue,2\nwed,3\n").quarantine is None
    assert keys(store, "lake/_quarantine") == []


def test_too_many_bad_rows_write_nothing(store):
    """Above the allowed share nothing is written, and the error counts the reasons without a value."""
    put(store, raw__orders_csv=CSV)
    source = scan(store, "raw/orders.csv", schema=SCHEMA, on_error="quarantine")
    with pytest.raises(QualityError, match="2 of 4 rows were refused") as caught:
        write_table(store, source, "lake", max_rejected=0.4)
    assert "1.239" not in str(caught.value)
    assert keys(store) == ["raw/orders.csv"]


# Reading


def test_a_scan_touches_nothing_before_it_is_opened(store):
    """Describing data is no I/O; what is not there is an error when it is opened."""
    found = scan(store, "nothing/here")
    with pytest.raises(NotFoundError, match="nothing/here"):
        found.to_arrow()


def test_a_scan_is_told_apart_by_what_it_reads(store):
    """The same objects in the same version are the same data; a corrected file is other data."""
    put(store, raw__a_csv=b"id\n1\n", raw__b_csv=b"id\n2\n")
    for what in ("raw", ["raw/a.csv"], "raw/*.csv"):
        before = scan(store, what).fingerprint()
        assert before == scan(store, what).fingerprint()
        assert before != scan(store, what, where=[("id", "=", 1)]).fingerprint()
        put(store, raw__a_csv=b"id\n3\n")
        assert before != scan(store, what).fingerprint()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("raw/b.csv", [2]),
        ("raw", [1, 2, 3, 10, 4]),
        ("raw/", [1, 2, 3, 10, 4]),
        ("raw/*.csv", [1, 2, 3, 10]),
        ("raw/c-?.csv", [3]),
        ("raw/[a-b].csv", [1, 2]),
        ("raw/[!a]*.csv", [2, 3, 10]),
        ("raw/c[!x]10.csv", [10]),
        ("raw/**/*.csv", [1, 2, 3, 10, 4]),
        ("**/d.csv", [4]),
        (["raw/b.csv", "raw/a.csv"], [2, 1]),
        (["raw/b.csv", "raw/c*.csv"], [2, 3, 10]),
    ],
)
def test_keys_folders_and_globs(store, what, expected):
    """Files are read in the order of their names, numbers by value; names with `_` or `.` are no data."""
    put(store, raw__a_csv=b"id\n1\n", raw__b_csv=b"id\n2\n", raw__sub__d_csv=b"id\n4\n", raw2__e_csv=b"id\n5\n")
    for name, content in (("c-2", b"3"), ("c-10", b"10"), (".hidden", b"6"), ("_quarantine/x", b"7")):
        store.put(f"raw/{name}.csv", b"id\n" + content + b"\n")
    store.put("raw/_SUCCESS", b"")
    assert scan(store, what).to_arrow()["id"].to_pylist() == expected


def test_a_glob_is_read_as_everywhere():
    """A set matches no slash, and `**` is a whole name; half of one is refused."""
    store = MemoryFiles().objects
    put(store, raw__a_csv=b"id\n1\n")
    with pytest.raises(NotFoundError):
        scan(store, "raw[!x]a.csv").to_arrow()
    with pytest.raises(InvalidInputError, match="between slashes"):
        scan(store, "raw/a**").to_arrow()


def test_different_files_are_united_by_name(store):
    """Without a schema a missing column is null and types widen where nothing is lost."""
    small, large = pa.table({"a": pa.array([1], pa.int32())}), pa.table({"b": ["x"], "a": pa.array([2**40])})
    for name, table in (("1", small), ("2", large)):
        file = io.BytesIO()
        pq.write_table(table, file)
        store.put(f"raw/{name}.parquet", file.getvalue())
    found = scan(store, "raw")
    assert found.schema == pa.schema([("a", pa.int64()), ("b", pa.string())])
    assert found.to_arrow().to_pylist() == [{"a": 1, "b": None}, {"a": 2**40, "b": "x"}]


def test_types_that_do_not_meet_are_an_error(store):
    """The error names the file and the column."""
    store.put("raw/a.jsonl", b'{"id":1}\n')
    store.put("raw/b.jsonl", b'{"id":"x"}\n')
    with pytest.raises(SchemaError, match=r"raw/b.jsonl: column 'id' is string, and int64 in the files before"):
        scan(store, "raw").to_arrow()
    put(store, raw__a_csv=b"id\n1\n", raw__b_csv=b"id\nx\n")  # where everything is text
    assert scan(store, "raw/*.csv").to_arrow()["id"].to_pylist() == ["1", "x"]
    declared = scan(store, "raw/*.csv", schema=pa.schema([("id", pa.string())]))
    assert declared.to_arrow()["id"].to_pylist() == ["1", "x"]


def test_a_file_without_a_declared_column_is_an_error(store):
    """With a schema every file has to have its columns."""
    put(store, raw__a_csv=b"id\n1\n", raw__b_csv=b"number\n1\n")
    with pytest.raises(SchemaError, match=r"raw/b.csv lacks 'id'; its columns are 'number'"):
        scan(store, "raw", schema=pa.schema([("id", pa.int64())])).to_arrow()


def test_a_column_of_the_file_beats_its_folder(store):
    """A column that is in the file is read from there, also where a folder has its name."""
    store.put("raw/date=2026-04/x.csv", b"id,date\n1,2026-04-30\n")
    store.put("raw/date=2026-05/x.csv", b"id,date\n1,2026-05-01\n")
    schema = pa.schema([("id", pa.int64()), ("date", pa.string())])
    assert scan(store, "raw", schema=schema).to_arrow()["date"].to_pylist() == ["2026-04-30", "2026-05-01"]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ([("date", "=", "2026-04-29")], [1, 4, 7]),
        ([("date", ">=", DAYS[1]), ("id", "<", 3)], [1, 2]),
        ([("date", "in", ["2026-04-29"]), ("note", "!=", "note 4")], [1, 7]),
        ([], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (pc.field("date") == DAYS[1], [1, 4, 7]),
    ],
)
def test_conditions(where, ids):
    """Only rows for which all conditions hold come."""
    store = MemoryFiles().objects
    write_table(store, ORDERS, "orders", partition_by=["date"])
    found = scan(store, "orders", schema=ORDERS.schema, where=where, columns=["id"])
    assert found.schema.names == ["id"]
    assert sorted(found.to_arrow()["id"].to_pylist()) == ids


def test_conditions_on_folders_open_no_other_file(store):
    """Files in partitions that are ruled out are not opened: it does not matter that they are broken."""
    write_table(store, ORDERS, "orders", partition_by=["date"])
    store.put("orders/date=2026-04-30/part-0.parquet", b"broken")
    found = scan(store, "orders", schema=ORDERS.schema, where=[("date", "=", "2026-04-29")])
    assert found.to_arrow()["id"].to_pylist() == [1, 4, 7]


@pytest.mark.parametrize("where", [[("nope", "=", 1)], [("id", "=", "x")], [("id", "like", 1)], pc.field("nope") > 1])
def test_conditions_that_make_no_sense(store, where):
    """A condition on no column, of no type or no operator is an error."""
    write_table(store, ORDERS, "orders")
    with pytest.raises((SchemaError, InvalidInputError), match="where="):
        scan(store, "orders", where=where).to_arrow()


def test_only_folder_columns(store):
    """A scan of partition columns only has a row for each row of the files."""
    write_table(store, ORDERS, "orders", partition_by=["date"])
    assert scan(store, "orders", columns=["date"]).to_arrow().num_rows == 9


def test_a_folder_that_is_no_value_of_its_type(store):
    """The error names the key's folder and the type."""
    store.put("raw/date=soon/x.csv", b"id\n1\n")
    with pytest.raises(SchemaError, match=r"folder in .raw/date=soon/x.csv. is not a value of type date32"):
        scan(store, "raw", schema=ORDERS.schema.remove(2)).to_arrow()


def test_options_reach_the_files(store):
    """Format and options can be given where the name does not say them."""
    store.put("raw/orders.txt", b"id|amount\n1|2,50\n")
    options = CsvOptions(delimiter="|", decimal_point=",")
    found = scan(store, "raw/orders.txt", schema=SCHEMA, format="csv", options=options)
    assert str(found.to_arrow()["amount"].to_pylist()) == "[Decimal('2.50')]"
    store.put("tabs/orders.tsv", b"id\tamount\n1\t2.50\n")
    assert scan(store, "tabs", schema=SCHEMA).to_arrow() == found.to_arrow()
    with pytest.raises(InvalidInputError, match=r"'orders.txt' does not say its format"):
        scan(store, "raw").to_arrow()


def test_threads_end_with_the_scan(store):
    """A scan that is given up early leaves no thread behind."""
    put(store, raw__orders_csv=b"id\n" + b"1\n" * 100_000)
    before = set(threading.enumerate())
    batches = scan(store, "raw/orders.csv", schema=pa.schema([("id", pa.int8())])).batches()
    next(batches)
    batches.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("columns", [None, ["id"], ["note", "id"]])
def test_json_files_are_united_without_a_schema(store, columns):
    """Each file keeps its values, whatever keys the others have; a folder's column is beside them."""
    put(store, **{"o__day=1__1.jsonl": b'{"id":1}\n', "o__day=2__2.jsonl": b'{"id":2,"note":"x"}'})
    found = scan(store, "o", columns=columns).to_arrow()
    every = [{"id": 1, "note": None, "day": 1}, {"id": 2, "note": "x", "day": 2}]
    assert found.to_pylist() == [{name: row[name] for name in columns or row} for row in every]
    write_table(store, found, "copy", format="jsonl")
    assert scan(store, "copy").to_arrow().to_pylist() == found.to_pylist()
    put(store, **{"p__day=3__1.jsonl": b'{"id":3,"day":4}'})
    assert scan(store, "p").to_arrow().to_pylist() == [{"id": 3, "day": 4}]
