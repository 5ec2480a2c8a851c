"""What a Scan promises: untouched until opened, re-opened from the start, bounded, and nothing dropped unseen."""

from __future__ import annotations

import gc
import json
import threading
import warnings

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blocks.arrow.rejects import Rejects
from blocks.arrow.scan import Scan, as_scan
from blocks.base.concurrency import read_ahead
from blocks.base.errors import InvalidInputError, QualityError

TABLE = pa.table({"id": [1, 2, 3, 4], "amount": [1.5, -1.0, None, 4.0]})


def counted(table=TABLE, chunk=2):
    """A scan, and the list of how often it was opened."""
    opened = []

    def batches(_):
        opened.append(1)
        return table.to_batches(max_chunksize=chunk)

    return Scan(table.schema, batches, source="a source"), opened


# Scan


def test_describing_opens_nothing():
    """Building, mapping, selecting and printing a scan read no data; each use reads it from the start."""
    scan, opened = counted()
    derived = scan.map_batches(lambda batch: batch, schema=TABLE.schema).select(["id"])
    assert (repr(derived), opened) == ("Scan(a source)", [])
    assert derived.to_arrow() == derived.to_arrow() == TABLE.select(["id"])
    assert len(opened) == 2


def test_a_schema_can_be_found_out_late():
    """A function as schema is called once, at the first look."""
    asked = []

    def find():
        asked.append(1)
        return TABLE.schema

    scan = Scan(find, lambda _: TABLE.to_batches(), source="a source")
    assert asked == []
    assert scan.to_arrow() == scan.to_arrow() == TABLE
    assert asked == [1]


def test_map_batches_finds_its_schema_on_no_rows():
    """What a function returns is found with an empty batch; the data stays unread."""
    scan, opened = counted()
    doubled = scan.map_batches(lambda batch: batch.append_column("double", pc.multiply(batch["amount"], 2)))
    assert doubled.schema.names == ["id", "amount", "double"]
    assert opened == []
    assert doubled.to_arrow()["double"].to_pylist() == [3.0, -2.0, None, 8.0]


def test_rejected_rows_are_kept_with_their_reason():
    """Rows that a rule refuses go to the rejects as JSON; null counts as not refused."""
    scan, _ = counted()
    rejects = Rejects()
    checked = scan.reject(lambda batch: pc.less(batch["amount"], 0), "amount is negative", column="amount")
    assert [row["id"] for batch in checked.batches(rejects) for row in batch.to_pylist()] == [1, 3, 4]
    assert [json.loads(line) for line in rejects.json_lines()] == [
        {"line": None, "column": "amount", "reason": "amount is negative", "row": '{"id": 2, "amount": -1.0}'}
    ]


def test_rows_of_a_polars_frame_can_be_refused():
    """Polars hands out its text as views, which Arrow itself cannot filter."""
    data = as_scan(pl.DataFrame({"id": [1, 2], "status": ["new", "lost"]}))
    assert data.schema.field("status").type == pa.large_string()
    checked = data.reject(lambda batch: pc.equal(batch["id"], 2), "status is lost", column="status")
    assert [row["status"] for batch in checked.batches(Rejects()) for row in batch.to_pylist()] == ["new"]


def test_rejected_rows_need_a_place():
    """Without rejects a refused row is an error that says the reason and no value."""
    scan, _ = counted()
    with pytest.raises(InvalidInputError, match="a source: amount is negative") as caught:
        scan.reject(lambda batch: pc.less(batch["amount"], 0), "amount is negative").to_arrow()
    assert "-1" not in str(caught.value)


def test_one_pass_data_is_read_once():
    """A second try on a stream that is used up is an error, and not an empty result."""
    scan = as_scan(TABLE.to_reader())
    assert not scan.reopenable
    assert scan.to_arrow() == TABLE
    with pytest.raises(InvalidInputError, match="can be read only once"):
        scan.to_arrow()


@pytest.mark.parametrize("make", [pa.table, pl.from_arrow, pa.Table.to_pandas])
def test_frames_are_scans_and_scans_are_frames(make):
    """pyarrow, polars and pandas frames are taken again and again, and a scan is taken by each of them."""
    scan = as_scan(make(TABLE))
    assert scan.reopenable
    assert scan.to_arrow() == scan.to_arrow()
    assert scan.to_arrow().to_pydict()["id"] == [1, 2, 3, 4]
    assert pa.table(scan).num_rows == pl.DataFrame(scan).height == len(scan.to_pandas()) == 4
    assert pd.DataFrame.from_arrow(scan)["id"].tolist() == [1, 2, 3, 4]


def test_duckdb_reads_a_scan():
    """A scan is a table for DuckDB, by its Arrow stream."""
    scan = as_scan(TABLE).to_reader()
    assert duckdb.from_arrow(scan).aggregate("sum(id)").fetchall() == [(10,)]


def test_rows_and_batches_are_scans():
    """A list of dicts and a single batch are data, too; a scan stays itself."""
    scan = as_scan(TABLE)
    assert as_scan(scan) is scan
    assert as_scan(TABLE.to_pylist()).to_arrow() == TABLE
    assert as_scan(TABLE.to_batches()[0]).to_arrow() == TABLE


@pytest.mark.parametrize("data", [None, 7, "orders.csv", [], [1, 2], [(1, 2)]])
def test_what_is_no_table_is_refused(data):
    """The error names the type and what would do."""
    with pytest.raises(InvalidInputError, match="is not tabular data"):
        as_scan(data)


def test_data_in_memory_is_told_apart_by_its_values():
    """The same values have the same fingerprint, however they lie in memory; other values or types have another."""
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert as_scan(TABLE).fingerprint() == as_scan(chunked).fingerprint()
    assert as_scan(TABLE).fingerprint() != as_scan(TABLE.slice(1)).fingerprint()
    smaller = TABLE.cast(pa.schema([("id", pa.int32()), ("amount", pa.float64())]))
    assert as_scan(TABLE).fingerprint() != as_scan(smaller).fingerprint()


# Rejects


def test_rejects_can_be_read_and_added_to_in_turn():
    """Reading the refused rows ends nothing: later ones follow, in their order."""
    rejects = Rejects()
    rejects.add("bad", "é\n", line=2)
    first = list(rejects.json_lines())
    rejects.add("worse", "b", line=3, column="id")
    assert list(rejects.json_lines())[:1] == first
    assert [json.loads(line)["row"] for line in rejects.json_lines()] == ["é\n", "b"]
    assert rejects.total == 2


def test_many_rejects_stay_out_of_memory_and_leave_no_file_open():
    """More refused rows than fit the bound wait in a file, which goes with the rejects."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rejects = Rejects()
        for row in range(2_000):
            rejects.add("bad", "x" * 1_000, line=row)
        assert sum(1 for _ in rejects.json_lines()) == 2_000
        del rejects
        gc.collect()


@pytest.mark.parametrize(
    ("bad", "good", "allowed", "fails"),
    [(0, 0, 0, False), (1, 9, 0.1, False), (1, 8, 0.1, True), (1, 0, 0.99, True), (5, 0, 1, False)],
)
def test_the_share_of_bad_rows_is_checked(bad, good, allowed, fails):
    """More refused rows than allowed are an error that counts them by reason."""
    rejects = Rejects()
    for _ in range(bad):
        rejects.add("id is missing", "1,2")
    if not fails:
        rejects.check(accepted=good, max_rejected=allowed, source="a.csv")
        return
    with pytest.raises(QualityError, match=rf"a.csv: {bad} of {bad + good} rows were refused \(id is missing: {bad}\)"):
        rejects.check(accepted=good, max_rejected=allowed, source="a.csv")


# Reading ahead


def test_reading_ahead_keeps_order_and_rows():
    """Everything comes, once, in order."""
    assert list(read_ahead(range(1_000), size=lambda _: 1, limit=3)) == list(range(1_000))


def test_reading_ahead_is_bounded():
    """The producer waits when it is far enough ahead."""
    produced = []
    waiting = threading.Event()

    def items():
        for item in range(10):
            produced.append(item)
            if item == 3:
                waiting.set()
            yield item

    ahead = read_ahead(items(), size=lambda _: 10, limit=30)
    assert next(ahead) == 0
    assert waiting.wait(10)
    assert len(produced) <= 5
    assert list(ahead) == list(range(1, 10))


def test_an_error_of_the_producer_reaches_the_consumer():
    """What came before the error comes first."""

    def items():
        yield 1
        raise ValueError("broken")

    ahead = read_ahead(items(), size=lambda _: 1, limit=10)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_an_error_of_opening_and_of_closing_reaches_the_consumer():
    """A stream that cannot even start, or end, raises and does not hang."""

    class Unopenable:
        def __iter__(self):
            raise ValueError("cannot open")

    def unclosable():
        try:
            yield 1
        finally:
            raise ValueError("cannot close")

    for items, message in ((Unopenable(), "cannot open"), (unclosable(), "cannot close")):
        with pytest.raises(ValueError, match=message):
            list(read_ahead(items, size=lambda _: 1, limit=1))


def test_a_consumer_that_stops_early_ends_the_producer():
    """The producer's clean-up has run, and its thread is gone, when the consumer is closed."""
    closed = []

    def items():
        try:
            yield from range(1_000)
        finally:
            closed.append(1)

    before = set(threading.enumerate())
    ahead = read_ahead(items(), size=lambda _: 1, limit=2)
    next(ahead)
    ahead.close()
    assert closed == [1]
    assert set(threading.enumerate()) <= before
