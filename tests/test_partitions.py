"""A scan is divided into parts that have each row once, cross processes, and are loaded together or not at all."""

from __future__ import annotations

import pickle
import time
from typing import TYPE_CHECKING

import cloudpickle
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blocks import InvalidInputError, ParquetOptions, UnsupportedError
from blocks.arrow.scan import as_scan
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

if TYPE_CHECKING:
    from pathlib import Path

ROWS = pa.table({"id": range(10_000), "day": ["mon", "tue"] * 5_000})
ARGUMENTS = {"append": {}, "replace": {}, "upsert": {"key": ["id"]}, "replace_partition": {"partition_by": ["day"]}}


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """A large file of several row groups, and a folder of small ones of two formats."""
    store = LocalFiles(basepath=str(tmp_path / "lake"))
    store.write_table(ROWS, "one", options=ParquetOptions(row_group_rows=1_000))
    for number in range(7):
        store.write_table(ROWS.slice(number * 100, 100), f"many/n={number}", format="csv" if number % 2 else "parquet")
    return store


@pytest.mark.parametrize("key", ["one", "many", "many/**/*.csv"])
@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_parts_have_each_row_once(files, key, n):
    """In order, whatever is divided, in another process too, and what was made of the scan is made of each part."""
    scan = files.scan(key).map_batches(lambda batch: batch.filter(pc.field("id") != 3))
    parts = [pickle.loads(cloudpickle.dumps(part)) for part in scan.partitions(n)]  # noqa: S301 (our own)
    assert 1 <= len(parts) <= n
    assert pa.concat_tables([part.to_arrow() for part in parts]) == scan.to_arrow()
    assert [part.part.number for part in parts] == [*range(1, len(parts) + 1)]


def test_a_file_listed_twice_is_read_twice(files):
    """As it is without parts."""
    scan = files.scan(["many/n=0/part-0.parquet"] * 2)
    assert sum(part.to_arrow().num_rows for part in scan.partitions(2)) == scan.to_arrow().num_rows == 200


def test_what_cannot_be_divided_says_so():
    """And what to do instead."""
    for scan in (as_scan(ROWS), DuckDB().scan_query("select 1")):
        with pytest.raises(UnsupportedError, match=r"cannot be divided into parts.*scan_query"):
            len(scan.partitions(2))


@pytest.mark.parametrize("mode", ARGUMENTS)
def test_staged_parts_are_loaded_as_one(files, mode):
    """In each mode, once, and nothing is left over."""
    one, other = DuckDB(), DuckDB()
    for warehouse in (one, other):
        warehouse.load(ROWS.slice(0, 10), "t")
    scan = files.scan("one")
    staged = [one.stage(part, "t") for part in scan.partitions(3)]
    one.stage(scan.partitions(3)[0], "t")  # of a lost coordinator
    report = one.load(staged, "t", mode=mode, load_id="a", **ARGUMENTS[mode])
    alone = other.load(scan, "t", mode=mode, load_id="a", **ARGUMENTS[mode])
    counts = ("rows", "inserted", "updated", "deleted")
    assert [getattr(report, name) for name in counts] == [getattr(alone, name) for name in counts]
    assert one.load(staged, "t", mode=mode, load_id="a", **ARGUMENTS[mode]).already_loaded
    query = "select * from t order by all"
    assert one.fetch_all(query) == other.fetch_all(query)
    left = one.fetch_all("select table_name from information_schema.tables where table_name like '_etl_part%'")
    assert len(left) == 1  # the lost coordinator's: it is of another division, and younger than a day


def test_parts_are_loaded_all_or_none(files):
    """Parts that are missing, come twice, are of two divisions, or hold other rows by now are refused."""
    warehouse = DuckDB()
    parts, others = files.scan("one").partitions(2), files.scan("one").partitions(2)
    first, second = (warehouse.stage(part, "t") for part in parts)
    for staged, words in (
        ([first], "missing: 2"),
        ([first, second, second], "comes twice"),
        ([first, warehouse.stage(others[1], "t")], "two divisions"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            warehouse.load(staged, "t")
    with pytest.raises(InvalidInputError, match="was staged for t of"):
        warehouse.load([first, second], "other")
    warehouse.execute(f"delete from {second.table} where id = 9999")
    with pytest.raises(InvalidInputError, match="has 4999 rows, and 5000 were staged"):
        warehouse.load([first, second], "t")
    warehouse.execute(f"drop table {second.table}")
    with pytest.raises(InvalidInputError, match="is gone"):
        warehouse.load([first, second], "t")
    with pytest.raises(InvalidInputError, match="is not a part"):
        warehouse.stage(files.scan("one"), "t")


def test_what_a_lost_coordinator_left_goes_after_a_day(files):
    """By name, once no part was added to its load for so long; what is younger, or no part at all, stays."""
    warehouse = DuckDB()
    load, now = "0123456789abcdef", int(time.time())
    old = f"_etl_part_{now - 90_000:08x}_{load}_1_aaaaaaaa"
    kept = [
        f"_etl_part_{now - 90_000:08x}_{load[::-1]}_1_aaaaaaaa",
        f"_etl_part_{now - 60:08x}_{load[::-1]}_2_aaaaaaaa",
        "_etl_part_of_mine",
    ]
    for table in (old, old + "_r", *kept):
        warehouse.execute(f"create table {table} (id integer)")
    warehouse.load([warehouse.stage(part, "t") for part in files.scan("one").partitions(2)], "t")
    left = warehouse.fetch_all("select table_name from information_schema.tables where table_name like '_etl_part%'")
    assert {name for (name,) in left} == set(kept)
