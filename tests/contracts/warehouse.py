"""What every warehouse promises. Star-imported by a module that has the fixtures `warehouse` and `unsupported_types`.

`warehouse` is a block over an empty database; `unsupported_types` names the entries of `ARRAYS` that the engine has no
column type for, and that it has to refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import pickle
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any, get_args

import cloudpickle
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.blocks.core import Block

from blocks.arrow.casts import cast_array
from blocks.arrow.rejects import AUDITED
from blocks.arrow.scan import Scan, as_scan
from blocks.base.errors import (
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    QualityError,
    SchemaError,
    TransientError,
    TypeLossError,
    UnsupportedError,
)
from blocks.testing.moments import Strike, striking
from blocks.warehouses.ledger import LEDGER, QUARANTINE
from blocks.warehouses.load import Mode
from blocks.warehouses.parts import PREFIX
from blocks.warehouses.session import STAGE
from connectors.local import MemoryFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.arrow.rejects import Rejects
    from blocks.warehouses.warehouse import Warehouse

OF_THE_KIT = frozenset(
    {
        "test_a_column_that_must_be_there_is_missed",
        "test_a_column_without_values_is_text_and_says_so",
        "test_a_loss_can_be_allowed_by_name",
        "test_a_null_partition_is_refused",
        "test_a_plan_changes_nothing",
        "test_a_query_is_not_taken_for_a_table",
        "test_a_reader_cannot_be_read_twice",
        "test_a_session_belongs_to_its_task",
        "test_a_session_belongs_to_who_opened_it",
        "test_a_with_in_a_flow_is_one_session",
        "test_a_report_and_a_log_show_no_row",
        "test_a_source_that_fails_for_a_moment_is_read_again",
        "test_a_table_that_is_not_there_is_not_published",
        "test_a_value_that_does_not_fit_is_named",
        "test_an_ambiguous_table_is_not_upserted_into",
        "test_anything_with_an_arrow_stream_is_loaded",
        "test_arguments_that_do_not_fit_are_refused",
        "test_calls_in_a_script_are_loads_of_their_own",
        "test_columns_of_one_name_are_refused",
        "test_containers_of_rows_are_loaded",
        "test_keys_may_be_text_or_several_columns",
        "test_many_refused_rows_are_kept",
        "test_nanoseconds_are_cut_where_that_is_allowed",
        "test_new_columns_can_be_refused_or_left_out",
        "test_no_good_row_stays_behind_with_a_bad_one",
        "test_no_rows_are_loaded_too",
        "test_partitions_may_have_several_columns",
        "test_polars_frames_are_loaded",
        "test_rejected_rows_are_not_published",
        "test_rejected_rows_have_to_be_found",
        "test_rows_that_were_read_once_are_never_taken_for_none",
        "test_the_history_has_the_newest_load_first",
        "test_the_order_of_columns_means_nothing",
        "test_too_many_refused_rows_stop_the_load",
        "test_too_many_rejected_rows_stop_it",
        "test_types_that_lose_something_are_refused",
        "test_upsert_of_a_hundred_thousand_into_a_million",
        "test_what_only_a_session_keeps_is_refused_elsewhere",
    }
)
"""What the planner, the loader or a scan decides, whatever the engine: DuckDB and PostgreSQL show it in every run."""
MODES: tuple[Mode, ...] = get_args(Mode)
ARGUMENTS: dict[Mode, dict[str, Any]] = {
    "append": {},
    "replace": {},
    "upsert": {"key": ["id"]},
    "replace_partition": {"partition_by": ["day"]},
}
CANARY = "c4n4ry"

all_modes = pytest.mark.parametrize("mode", MODES)
quick = settings(
    max_examples=settings.default.max_examples // 10,  # each is four round trips to a server
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def table_of(ids: list[Any], day: str = "mon", text: str = "x") -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "day": [day] * len(ids), "text": [text] * len(ids)})


def rows(warehouse: Warehouse, table: str = "t", columns: str = "*") -> list[tuple[Any, ...]]:
    found = warehouse.fetch_all(f"SELECT {columns} FROM {warehouse.dialect.table(table)}")
    return sorted(found, key=repr)


def count(warehouse: Warehouse, table: str = "t") -> int:
    return int(warehouse.fetch_all(f"SELECT count(*) FROM {warehouse.dialect.table(table)}")[0][0])


def make_table(warehouse: Warehouse, schema: pa.Schema, *, table: str = "t", not_null: tuple[str, ...] = ()) -> None:
    columns = [warehouse.dialect.column(field.name, field.type) for field in schema]
    warehouse.execute(warehouse.dialect.create_table(table, columns, key=not_null, unique=False))


def tables(warehouse: Warehouse) -> set[str]:
    """The tables of its schema."""
    found = warehouse.fetch_all(warehouse.dialect.tables_of_schema)
    return {warehouse.dialect.known_as(name) for (name,) in found}


def kept(warehouse: Warehouse, kind: pa.DataType) -> bool:
    """Whether the engine has a column type for just this one; some have one integer, or one float."""
    return bool(warehouse.dialect.column("x", kind).arrow_type == kind)


def failing(data: pa.Table, error: BaseException, *, after_batches: int = 2) -> Scan:
    """Data whose source fails after so many batches."""

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        yield from data.to_batches(max_chunksize=max(1, data.num_rows // after_batches))
        raise error

    return Scan(data.schema, batches, source="a broken source")


def opened(data: pa.Table, on_open: Callable[[], None]) -> Scan:
    """Data that calls a function once its first batch was taken."""

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        yield data.slice(0, 1).to_batches()[0]
        on_open()
        yield from data.slice(1).to_batches()

    return Scan(data.schema, batches, source="a source")


def refused(rejected: int, data: pa.Table, text: str = "not-a-number") -> Scan:
    """Data of which some rows are refused while they are read."""

    def batches(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        assert rejects is not None
        for line in range(rejected):
            rejects.add("amount is no number", text, line=line + 2, column="amount")
        yield from data.to_batches()

    return Scan(data.schema, batches, source="a file")


# The four modes


def test_append_adds_the_rows(warehouse: Warehouse) -> None:
    """Append creates the table, then adds to it; equal rows are kept as often as they come."""
    first = warehouse.load(table_of([1, 2]), "t")
    second = warehouse.load(table_of([2, 3]), "t")
    assert rows(warehouse, columns="id") == [(1,), (2,), (2,), (3,)]
    assert (first.rows, first.inserted, first.updated, first.deleted) == (2, 2, 0, 0)
    assert (second.rows, second.inserted, second.updated, second.deleted) == (2, 2, 0, 0)
    assert first.ddl
    assert second.ddl == ()


def test_replace_leaves_the_new_rows_only(warehouse: Warehouse) -> None:
    """Replace counts what it deleted, and views of the table go on working."""
    warehouse.load(table_of([1, 2, 3]), "t", mode="replace")
    warehouse.execute("CREATE VIEW v AS SELECT id FROM t")
    report = warehouse.load(table_of([4, 5]), "t", mode="replace")
    assert rows(warehouse, columns="id") == rows(warehouse, "v") == [(4,), (5,)]
    assert (report.rows, report.inserted, report.updated, report.deleted) == (2, 2, 0, 3)


def test_upsert_updates_what_is_there_and_inserts_the_rest(warehouse: Warehouse) -> None:
    """A row whose key is there takes the new values; rows that the data does not mention stay."""
    first = warehouse.load(table_of([1, 2], text="old"), "t", mode="upsert", key=["id"])
    report = warehouse.load(table_of([2, 3], text="new"), "t", mode="upsert", key=["id"])
    assert rows(warehouse, columns="id, text") == [(1, "old"), (2, "new"), (3, "new")]
    assert (first.inserted, first.updated) == (2, 0)
    assert (report.rows, report.inserted, report.updated, report.deleted) == (2, 1, 1, 0)


def test_replace_partition_leaves_the_others_alone(warehouse: Warehouse) -> None:
    """Every partition that the data touches holds exactly the data's rows afterwards."""
    for day in ("mon", "tue", "wed"):
        warehouse.load(table_of([1, 2], day=day), "t", mode="replace_partition", partition_by=["day"])
    data = pa.concat_tables([table_of([7], day="tue"), table_of([8, 9], day="thu")])
    report = warehouse.load(data, "t", mode="replace_partition", partition_by=["day"])
    expected = [("mon", 1), ("mon", 2), ("thu", 8), ("thu", 9), ("tue", 7), ("wed", 1), ("wed", 2)]
    assert rows(warehouse, columns="day, id") == expected
    assert (report.rows, report.inserted, report.updated, report.deleted) == (3, 3, 0, 2)


def test_partitions_may_have_several_columns(warehouse: Warehouse) -> None:
    """Only the combinations that occur are replaced, not every mixture of their values."""
    schema = {"day": pa.date32(), "shop": pa.int64(), "x": pa.string()}
    monday, tuesday = dt.date(2026, 4, 27), dt.date(2026, 4, 28)

    def make(*items: tuple[dt.date, int, str]) -> pa.Table:
        return pa.Table.from_pylist([dict(zip(schema, item, strict=True)) for item in items], schema=pa.schema(schema))

    old = make((monday, 1, "old"), (monday, 2, "old"), (tuesday, 1, "old"), (tuesday, 2, "old"))
    new = make((monday, 1, "new"), (tuesday, 2, "new"))
    for data in (old, new):
        report = warehouse.load(data, "t", mode="replace_partition", partition_by=["day", "shop"])
    assert rows(warehouse, columns="x") == [("new",), ("new",), ("old",), ("old",)]
    assert report.deleted == 2


@all_modes
def test_no_rows_are_loaded_too(warehouse: Warehouse, mode: Mode) -> None:
    """Data without rows makes the table and a report; replace empties it, the other modes leave it as it was."""
    warehouse.load(table_of([]), "t", mode=mode, **ARGUMENTS[mode])
    warehouse.load(table_of([1]), "t")
    report = warehouse.load(table_of([]), "t", mode=mode, **ARGUMENTS[mode])
    assert count(warehouse) == (0 if mode == "replace" else 1)
    assert (report.rows, report.inserted, report.deleted) == (0, 0, 1 if mode == "replace" else 0)


def test_upsert_of_a_hundred_thousand_into_a_million(warehouse: Warehouse) -> None:
    """A large upsert ends in exactly the expected rows, with exact counts."""
    old = pa.array(range(1_000_000), pa.int64())
    new = pa.array(range(950_000, 1_050_000), pa.int64())
    warehouse.load(pa.table({"id": old, "n": old}), "t", mode="upsert", key=["id"])
    report = warehouse.load(pa.table({"id": new, "n": pc.negate(new)}), "t", mode="upsert", key=["id"])
    assert (report.inserted, report.updated) == (50_000, 50_000)
    facts = warehouse.fetch_one("SELECT count(*), count(DISTINCT id), sum(CASE WHEN n < 0 THEN 1 ELSE 0 END) FROM t")
    assert facts == (1_050_000, 1_050_000, 100_000)


def test_keys_may_be_text_or_several_columns(warehouse: Warehouse) -> None:
    """A row is told apart by all columns of its key together, whatever their types."""
    old = pa.table({"shop": ["a", "a", "B"], "nr": pa.array([Decimal(1), Decimal(2), Decimal(1)]), "n": [1, 2, 3]})
    new = pa.table({"shop": ["a", "A", "B"], "nr": pa.array([Decimal(1), Decimal(2), Decimal(2)]), "n": [7, 8, 9]})
    for data in (old, new):
        report = warehouse.load(data, "t", mode="upsert", key=["shop", "nr"])
    found = {(shop, int(nr)): n for shop, nr, n in rows(warehouse, columns="shop, nr, n")}
    assert found == {("a", 1): 7, ("a", 2): 2, ("B", 1): 3, ("A", 2): 8, ("B", 2): 9}
    assert (report.inserted, report.updated) == (2, 1)


def test_upsert_needs_no_index(warehouse: Warehouse) -> None:
    """A table that somebody made without a primary key can be upserted into."""
    make_table(warehouse, table_of([]).schema)
    warehouse.load(table_of([1, 2], text="old"), "t")
    report = warehouse.load(table_of([2, 3], text="new"), "t", mode="upsert", key=["id"])
    assert rows(warehouse, columns="id, text") == [(1, "old"), (2, "new"), (3, "new")]
    assert (report.inserted, report.updated) == (1, 1)


def test_upsert_of_keys_only(warehouse: Warehouse) -> None:
    """A table that has nothing but its key takes the new keys."""
    for ids in ([1, 2], [2, 3]):
        report = warehouse.load(pa.table({"id": ids}), "t", mode="upsert", key=["id"])
    assert rows(warehouse) == [(1,), (2,), (3,)]
    assert (report.inserted, report.updated) == (1, 1)


@all_modes
def test_a_primary_key_is_kept(warehouse: Warehouse, mode: Mode) -> None:
    """A table with a primary key takes the same keys again in every mode that replaces rows, and refuses doubles."""
    columns = [warehouse.dialect.column(field.name, field.type) for field in table_of([]).schema]
    warehouse.execute(warehouse.dialect.create_table("t", columns, key=["id"], unique=True))
    warehouse.load(table_of([1, 2, 3], text="old"), "t")
    if mode == "append":
        with pytest.raises(AlreadyExistsError):
            warehouse.load(table_of([3, 4], text="new"), "t")
        assert rows(warehouse, columns="id, text") == [(1, "old"), (2, "old"), (3, "old")]
        return
    for _ in range(2):
        report = warehouse.load(table_of([2, 3, 4], text="new"), "t", mode=mode, **ARGUMENTS[mode])
        assert report.rows == 3
    kept = [(1, "old")] if mode == "upsert" else []
    assert rows(warehouse, columns="id, text") == [*kept, (2, "new"), (3, "new"), (4, "new")]


def test_columns_that_the_data_lacks_keep_their_value(warehouse: Warehouse) -> None:
    """An upsert of some columns leaves the others as they were, and null in new rows."""
    warehouse.load(table_of([1, 2], text="old"), "t", mode="upsert", key=["id"])
    partial = pa.table({"text": ["new", "new"], "id": [2, 3]})
    warehouse.load(partial, "t", mode="upsert", key=["id"])
    assert rows(warehouse, columns="id, day, text") == [(1, "mon", "old"), (2, "mon", "new"), (3, None, "new")]


def test_an_ambiguous_table_is_not_upserted_into(warehouse: Warehouse) -> None:
    """Where the table itself holds the key twice, nothing is changed."""
    warehouse.load(table_of([1, 1], text="old"), "t")
    with pytest.raises(ConnectorError, match="more than once"):
        warehouse.load(table_of([1], text="new"), "t", mode="upsert", key=["id"])
    assert rows(warehouse, columns="text") == [("old",), ("old",)]


@pytest.mark.parametrize(
    ("ids", "words"), [([1, 2, 2], "1 values of the key .id. come more than once"), ([1, None], "1 rows have no value")]
)
def test_upsert_refuses_a_key_that_tells_nothing_apart(warehouse: Warehouse, ids: list[Any], words: str) -> None:
    """A key that comes twice, or is null, is an error before anything is changed."""
    warehouse.load(table_of([1], text="old"), "t", mode="upsert", key=["id"])
    with pytest.raises(InvalidInputError, match=words):
        warehouse.load(table_of(ids), "t", mode="upsert", key=["id"])
    assert rows(warehouse, columns="id, text") == [(1, "old")]
    assert count(warehouse, LEDGER) == 1


def test_a_null_partition_is_refused(warehouse: Warehouse) -> None:
    """Rows without a partition would be doubled by the next load, so they are an error."""
    data = pa.table({"id": [1, 2], "day": ["mon", None]})
    with pytest.raises(InvalidInputError, match="1 rows have no value in day"):
        warehouse.load(data, "t", mode="replace_partition", partition_by=["day"])
    assert "t" not in tables(warehouse)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "upsert"}, "needs key"),
        ({"mode": "replace_partition"}, "needs partition_by"),
        ({"mode": "upsert", "key": ["nope"]}, "nope"),
        ({"mode": "replace_partition", "partition_by": ["nope"]}, "nope"),
        ({"mode": "merge"}, "Invalid mode 'merge'"),
        ({"load_id": ""}, "load_id is empty"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(warehouse: Warehouse, arguments: dict[str, Any], words: str) -> None:
    """The message names the argument, and nothing is made."""
    with pytest.raises(InvalidInputError, match=words):
        warehouse.load(table_of([1]), "t", **arguments)
    assert "t" not in tables(warehouse)


# Once and only once


@all_modes
def test_a_load_id_is_loaded_once(warehouse: Warehouse, mode: Mode) -> None:
    """The second call reads no data, changes nothing and returns the first report, whatever happened in between."""

    def never() -> None:
        pytest.fail("the data was read again")

    untouched = Scan(table_of([]).schema, lambda _: never() or [], source="nothing")
    first = warehouse.load(table_of([1, 2]), "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
    warehouse.load(table_of([3], day="tue"), "t")
    again = warehouse.load(untouched, "t", mode=mode, load_id="monday", **ARGUMENTS[mode])
    assert again == first.model_copy(update={"already_loaded": True})
    assert "already loaded as monday (2 rows)" in str(again)
    assert rows(warehouse, columns="id") == [(1,), (2,), (3,)]
    assert warehouse.load_report("monday") == first
    assert warehouse.load_report("tuesday") is None


OTHER_LOADS: dict[str, dict[str, Any]] = {
    "table": {"table": "customers"},
    "mode": {"mode": "replace"},
    "key": {"mode": "upsert", "key": ["id", "day"]},
    "partition_by": {"mode": "replace_partition", "partition_by": ["text"]},
}


def a_ledger_without_its_key_is_refused(warehouse: Warehouse) -> None:
    """One made by CTAS or a restore claims nothing: two loaders of one load_id would both load."""
    warehouse.load(table_of([1]), "t", load_id="1")
    ledger = warehouse.dialect.table(LEDGER)
    warehouse.execute(f"CREATE TABLE copied AS SELECT * FROM {ledger}")
    warehouse.drop_table(LEDGER)
    warehouse.execute(f"ALTER TABLE copied RENAME TO {LEDGER}")
    with pytest.raises(SchemaError, match=r"has no primary key.*ADD PRIMARY KEY"):
        warehouse.load(table_of([2]), "t", load_id="2")
    assert rows(warehouse, columns="id") == [(1,)]
    assert warehouse.load(table_of([1]), "t", load_id="1").already_loaded
    warehouse.execute(f"ALTER TABLE {ledger} ADD PRIMARY KEY (load_id)")
    assert warehouse.load(table_of([2]), "t", load_id="2").rows == 1


@pytest.mark.parametrize("other", OTHER_LOADS)
def test_a_load_id_belongs_to_one_load(warehouse: Warehouse, other: str) -> None:
    """A known load_id with another table, mode, key or partition is refused, by what it belongs to; nothing is done."""
    changed = {"table": "t", **OTHER_LOADS[other]}
    mode: Mode = "append" if other == "mode" else changed.get("mode", "append")
    warehouse.load(table_of([1]), "t", mode=mode, load_id="2026-04-30", **ARGUMENTS[mode])
    with pytest.raises(InvalidInputError, match=rf"'2026-04-30' belongs to another load of .*: {other} ") as refused:
        warehouse.load(table_of([2]), load_id="2026-04-30", **changed)
    assert "\n" not in str(refused.value)
    assert rows(warehouse, columns="id") == [(1,)]
    with pytest.raises(NotFoundError):
        warehouse.table_schema("customers")


def test_the_ledger_has_a_row_for_each_load(warehouse: Warehouse) -> None:
    """Table, mode and counts of each load can be looked up beside the data."""
    assert warehouse.load_report("nothing was loaded yet") is None
    warehouse.load(table_of([1, 2]), "t", load_id="1")
    warehouse.load(table_of([3]), "u", mode="replace", load_id="2")
    found = rows(warehouse, LEDGER, "load_id, table_name, mode, row_count, rejected_count")
    assert found == [("1", "t", "append", 2, 0), ("2", "u", "replace", 1, 0)]
    started, finished = rows(warehouse, LEDGER, "started_at, finished_at")[0]
    assert dt.timedelta(0) <= finished - started < dt.timedelta(minutes=1)


def test_the_history_has_the_newest_load_first(warehouse: Warehouse) -> None:
    """Of one table or of all, from the ledger; none where nothing was ever loaded."""
    assert warehouse.load_history().loads == ()
    for load_id, table in (("1", "t"), ("2", "u"), ("3", "t")):
        warehouse.load(table_of([1, 2]), table, load_id=load_id)
    assert [each.load_id for each in warehouse.load_history().loads] == ["3", "2", "1"]
    assert [each.load_id for each in warehouse.load_history("t", most=1).loads] == ["3"]
    assert "| t | 2 |" in warehouse.load_history().markdown()


def test_any_text_is_a_load_id(warehouse: Warehouse) -> None:
    """Quotes, percent signs, colons and other scripts mean nothing in a load_id."""
    ids = ["it's", 'a "b"', "100%", ":name", "ü/é 😀", "x" * 500, "'; drop table t; --", "{}", "$1 ?"]
    for load_id in ids:
        assert warehouse.load(table_of([1]), "t", load_id=load_id).load_id == load_id
    for load_id in ids:
        assert warehouse.load(table_of([1]), "t", load_id=load_id).already_loaded
    assert count(warehouse) == len(ids)


def test_calls_in_a_script_are_loads_of_their_own(warehouse: Warehouse) -> None:
    """Without a load_id, outside of a flow, the same data twice is loaded twice."""
    reports = [warehouse.load(table_of([1]), "t") for _ in range(2)]
    assert reports[0].load_id != reports[1].load_id
    assert count(warehouse) == 2


def test_a_source_that_fails_for_a_moment_is_read_again(warehouse: Warehouse) -> None:
    """A transient error of the source is retried from its start, under one load_id, and doubles nothing."""
    data, tries = table_of([1, 2, 3]), []

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        tries.append(1)
        yield from data.to_batches()
        if len(tries) < 3:
            raise TransientError("the network blinked")

    report = warehouse.load(Scan(data.schema, batches, source="a shaky source"), "t")
    assert len(tries) == 3
    assert (report.rows, report.already_loaded) == (3, False)
    assert rows(warehouse, columns="id") == [(1,), (2,), (3,)]
    assert count(warehouse, LEDGER) == 1


def test_a_reader_cannot_be_read_twice(warehouse: Warehouse) -> None:
    """A one-pass reader loads once; a retry of it says why it cannot be retried."""
    data = table_of([1, 2])
    assert warehouse.load(data.to_reader(), "t").rows == 2

    def batches() -> Iterator[pa.RecordBatch]:
        yield from data.to_batches()
        raise TransientError("the network blinked")

    reader = pa.RecordBatchReader.from_batches(data.schema, batches())
    with pytest.raises(ConnectorError, match="can be read only once"):
        warehouse.load(reader, "t")
    assert count(warehouse) == 2


class Stream:
    """Rows by the Arrow C stream interface, as a cursor hands them out: what was read is gone."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._batches = iter(reader)
        self.schema = reader.schema

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        rest = pa.RecordBatchReader.from_batches(self.schema, self._batches)
        return rest.__arrow_c_stream__(requested_schema)


@all_modes
@pytest.mark.parametrize(
    ("kind", "failures"),
    [
        pytest.param(lambda reader: reader, 1, id="reader, broken off"),
        pytest.param(lambda reader: reader, 0, id="reader, read to its end", marks=pytest.mark.thorough),
        pytest.param(Stream, 1, id="stream, broken off", marks=pytest.mark.thorough),
        pytest.param(Stream, 0, id="stream, read to its end", marks=pytest.mark.thorough),
    ],
)
def test_rows_that_were_read_once_are_never_taken_for_none(
    warehouse: Warehouse, mode: Mode, kind: Callable[[Any], Any], failures: int
) -> None:
    """The same one-pass source under another load_id, or after a failure, is refused, and the table stays as it was."""
    warehouse.load(table_of([1]), "t")
    data = table_of([7, 8, 9])

    def batches() -> Iterator[pa.RecordBatch]:
        yield from data.to_batches(max_chunksize=1)
        for _ in range(failures):
            raise TransientError("the network blinked")

    source = kind(pa.RecordBatchReader.from_batches(data.schema, batches()))
    arguments: Any = {"mode": mode, **ARGUMENTS[mode]}
    first: Any = pytest.raises((ConnectorError, pa.ArrowInvalid)) if failures else contextlib.nullcontext()
    with first:
        warehouse.load(source, "t", load_id="day-1", **arguments)
    before = rows(warehouse, columns="id")
    with pytest.raises(InvalidInputError, match="can be read only once"):
        warehouse.load(source, "t", load_id="day-2", **arguments)
    assert rows(warehouse, columns="id") == before
    assert warehouse.load_report("day-2") is None
    assert warehouse.load(data, "t", load_id="day-3", **arguments).rows == 3


# All or nothing


class OddError(Exception):
    """An error of a source that no connector knows."""


@all_modes
@pytest.mark.parametrize("new", [True, False], ids=["new table", "old table"])
def test_a_source_that_fails_leaves_nothing(warehouse: Warehouse, mode: Mode, new: bool) -> None:
    """Its own error comes out, and there is no row, no ledger row and no stage of it."""
    if not new:
        warehouse.load(table_of([1], text="old"), "t")
    before = tables(warehouse)
    data = table_of(list(range(100_000)))
    with pytest.raises(OddError, match="the disk is gone"):
        warehouse.load(failing(data, OddError("the disk is gone")), "t", mode=mode, load_id="x", **ARGUMENTS[mode])
    assert warehouse.load_report("x") is None
    assert tables(warehouse) - before <= {LEDGER, QUARANTINE}
    if not new:
        assert rows(warehouse, columns="text") == [("old",)]
    assert warehouse.load(data, "t", mode=mode, load_id="x", **ARGUMENTS[mode]).rows == 100_000
    assert STAGE not in tables(warehouse)


@all_modes
def test_a_reader_sees_the_old_rows_until_the_end(warehouse: Warehouse, mode: Mode) -> None:
    """While data streams in, others read the table as it was, and the ledger too."""
    warehouse.load(table_of([1, 2], text="old"), "t", load_id="first")
    seen = []

    def look() -> None:
        seen.append((rows(warehouse, columns="id, text"), rows(warehouse, LEDGER, "load_id")))

    warehouse.load(opened(table_of(list(range(9)), text="new"), look), "t", mode=mode, **ARGUMENTS[mode])
    assert seen == [([(1, "old"), (2, "old")], [("first",)])]


def test_a_bad_row_undoes_all(warehouse: Warehouse) -> None:
    """A row that the table refuses at the very end leaves the table as it was, its new column included."""
    make_table(warehouse, table_of([]).schema, not_null=("id",))
    warehouse.load(table_of([1]), "t")
    data = table_of([*range(2, 1_000), None]).append_column("extra", pa.array(["x"] * 999))
    with pytest.raises(InvalidInputError):
        warehouse.load(data, "t", mode="replace")
    assert rows(warehouse, columns="id") == [(1,)]
    assert "extra" not in warehouse.table_schema("t").names
    assert count(warehouse, LEDGER) == 1


# Columns


def test_new_columns_are_added(warehouse: Warehouse) -> None:
    """By default the table grows, with null in the rows that were there, and the report says how."""
    warehouse.load(pa.table({"id": [1]}), "t")
    report = warehouse.load(pa.table({"id": [2], "price": [Decimal("1.50")], "text": ["x"]}), "t")
    assert rows(warehouse, columns="id, price, text") == [(1, None, None), (2, Decimal("1.50"), "x")]
    assert len(report.ddl) == 2
    assert warehouse.dialect.name("price") in report.ddl[0]


def test_new_columns_can_be_refused_or_left_out(warehouse: Warehouse) -> None:
    """`fail` names the column and loads nothing; `ignore` loads the others and reports what it left out."""
    warehouse.load(pa.table({"id": [1]}), "t")
    data = pa.table({"id": [2], "price": [1.5]})
    with pytest.raises(SchemaError, match="'price'"):
        warehouse.load(data, "t", on_new_columns="fail")
    report = warehouse.load(data, "t", on_new_columns="ignore")
    assert report.ignored_columns == ("price",)
    assert warehouse.table_schema("t").names == ["id"]
    assert rows(warehouse) == [(1,), (2,)]


def test_a_column_that_must_be_there_is_missed(warehouse: Warehouse) -> None:
    """A NOT NULL column without default that the data lacks is refused by name; others become null."""
    make_table(warehouse, pa.schema({"id": pa.int64(), "text": pa.string()}), not_null=("id",))
    with pytest.raises(SchemaError, match="'id', which is NOT NULL"):
        warehouse.load(pa.table({"text": ["x"]}), "t")
    warehouse.load(pa.table({"id": [1]}), "t")
    assert rows(warehouse, columns="id, text") == [(1, None)]


def test_the_order_of_columns_means_nothing(warehouse: Warehouse) -> None:
    """Columns meet by name."""
    warehouse.load(pa.table({"a": [1], "b": [2]}), "t")
    warehouse.load(pa.table({"b": [4], "a": [3]}), "t")
    assert rows(warehouse, columns="a, b") == [(1, 2), (3, 4)]


def test_columns_of_one_name_are_refused(warehouse: Warehouse) -> None:
    """Two columns of one name cannot be told apart; data without columns is no data."""
    data = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(SchemaError, match="more than one column of the name a"):
        warehouse.load(data, "t")
    with pytest.raises(SchemaError, match="no columns"):
        warehouse.load(pa.table({}), "t")


UTC = pa.timestamp("us", "UTC")
NAIVE = pa.timestamp("us")
CENT = Decimal("0.0101")
FITTING = [
    (pa.int16(), pa.int64()),
    (pa.uint32(), pa.int64()),
    (pa.int32(), pa.float64()),
    (pa.int64(), pa.decimal128(38, 9)),
    (pa.decimal128(10, 2), pa.decimal128(12, 4)),
    (pa.decimal128(9, 0), pa.int64()),
    (pa.float32(), pa.float64()),
    (pa.date32(), NAIVE),
    (pa.date64(), pa.date32()),
    (pa.timestamp("s"), NAIVE),
    (pa.timestamp("ms", "Europe/Rome"), UTC),
    (pa.time32("s"), pa.time64("us")),
    (pa.large_string(), pa.string()),
    (pa.dictionary(pa.int8(), pa.string()), pa.string()),
    (pa.large_binary(), pa.binary()),
    (pa.null(), pa.int64()),
    (pa.null(), pa.string()),
]
# What holds some values of a type: its words in the plan, a value that fits and what is read, and one that does not.
NOON = dt.datetime(2026, 4, 30, 12)  # noqa: DTZ001
CHECKED: list[tuple[pa.DataType, pa.DataType, str, Any, Any, Any]] = [
    (pa.int64(), pa.int32(), "out of range", -(2**31), -(2**31), 2**31),
    (pa.uint64(), pa.int64(), "out of range", 2**63 - 1, 2**63 - 1, 2**63),
    (pa.int64(), pa.float64(), "digits", 2**60, 2.0**60, 2**53 + 1),
    (pa.int64(), pa.decimal128(5, 2), "out of range", -999, Decimal(-999), 1000),
    (pa.decimal128(12, 4), pa.decimal128(12, 2), "decimals after the 2. place", Decimal("1.5"), Decimal("1.5"), CENT),
    (pa.decimal128(12, 2), pa.decimal128(5, 2), "out of range", Decimal("-999.99"), Decimal("-999.99"), Decimal(1000)),
    (pa.decimal128(12, 4), pa.int64(), "decimals", Decimal(7), 7, CENT),
    (pa.decimal128(38, 9), pa.float64(), "exactness", Decimal("0.1"), 0.1, Decimal("12345678901234567890.1")),
    (pa.float64(), pa.float32(), "digits", 1.5, 1.5, 0.1),
    (pa.float64(), pa.decimal128(12, 2), "digits", 9.99, Decimal("9.99"), 0.125),
    (pa.float64(), pa.decimal128(13, 2), "digits", -0.5, Decimal("-0.5"), float("nan")),
    (pa.float32(), pa.decimal128(14, 2), "digits", 0.25, Decimal("0.25"), 1e30),
    (pa.float64(), pa.int64(), "digits", -3.0, -3, 0.5),
    (NAIVE, pa.date32(), "time of day", dt.datetime(2026, 4, 30), dt.date(2026, 4, 30), NOON),  # noqa: DTZ001
    (pa.timestamp("ns"), NAIVE, "nanoseconds", 1_000, dt.datetime(1970, 1, 1, 0, 0, 0, 1), 1),  # noqa: DTZ001
    (pa.timestamp("ns", "UTC"), UTC, "nanoseconds", 0, dt.datetime(1970, 1, 1, tzinfo=dt.UTC), -1),
    (pa.time64("ns"), pa.time64("us"), "nanoseconds", 1_000, dt.time(0, 0, 0, 1), 999),
]
LOSING = [
    (UTC, NAIVE, "time zone"),
    (NAIVE, UTC, "zone"),
    (UTC, pa.date32(), "time zone"),
    (pa.string(), pa.int64(), "string"),
    (pa.int64(), pa.string(), "int64"),
    (pa.bool_(), pa.int64(), "bool"),
    (pa.int64(), pa.bool_(), "int64"),
    (pa.string(), pa.date32(), "string"),
    (pa.string(), NAIVE, "string"),
    (pa.binary(), pa.string(), "binary"),
    (pa.string(), pa.binary(), "string"),
]
ROUNDED = [
    (pa.int64(), pa.int32(), 2**31 - 1, 2**31 - 1),
    (pa.int64(), pa.float64(), 2**53 + 1, 2.0**53),
    (pa.decimal128(12, 4), pa.decimal128(12, 2), Decimal("-1.9951"), Decimal("-2.00")),
    (pa.decimal128(12, 2), pa.int64(), Decimal("-1.50"), -2),
    (pa.decimal128(12, 2), pa.float64(), Decimal("1.5"), 1.5),
    (pa.float64(), pa.decimal128(12, 2), 0.375, Decimal("0.38")),
    (pa.float64(), pa.int64(), -2.6, -3),
    (pa.float64(), pa.float32(), 1.5, 1.5),
    (NAIVE, pa.date32(), dt.datetime(2026, 4, 30, 23, 59), dt.date(2026, 4, 30)),  # noqa: DTZ001
    (NAIVE, UTC, dt.datetime(2026, 4, 30, 23), dt.datetime(2026, 4, 30, 23, tzinfo=dt.UTC)),  # noqa: DTZ001
    (pa.string(), pa.int64(), "12", 12),
    (pa.int64(), pa.string(), 12, "12"),
]
IMPOSSIBLE = [
    (pa.int64(), pa.int32(), 2**40),
    (pa.int64(), pa.decimal128(5, 2), 12345),
    (pa.decimal128(12, 2), pa.decimal128(5, 2), Decimal("12345.67")),
    (pa.decimal128(30, 2), pa.int64(), Decimal(10**25)),
    (pa.float64(), pa.int64(), 1e300),
    (pa.float64(), pa.int64(), float("nan")),
    (pa.float64(), pa.decimal128(12, 2), 1e300),
    (pa.float64(), pa.decimal128(12, 2), float("nan")),
    (pa.string(), pa.int64(), CANARY),
]
SAMPLES: dict[Callable[[pa.DataType], bool], list[Any]] = {
    pa.types.is_integer: [0, 1, 100],
    pa.types.is_floating: [0.0, 1.5],
    pa.types.is_decimal: [Decimal(0), Decimal(-7)],
    pa.types.is_date: [dt.date(2026, 4, 30)],
    pa.types.is_timestamp: [dt.datetime(2026, 4, 30, 12, 30)],  # noqa: DTZ001 (naive for those without a zone)
    pa.types.is_time: [dt.time(12, 30)],
    pa.types.is_boolean: [True, False],
}


def sample(kind: pa.DataType, *, height: int) -> pa.Array:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    values = next((values for test, values in SAMPLES.items() if test(plain)), None)
    if values is None:
        values = [] if pa.types.is_null(kind) else [b"ab"] if "binary" in str(kind) else ["ab"]
    return pa.array([*values, None, None, None][:height], plain).cast(kind)


def name_of(source: pa.DataType, target: pa.DataType) -> str:
    """A column's name that every engine takes."""
    return re.sub(r"\W+", "_", f"{source} as {target}")


def test_types_that_fit_are_loaded(warehouse: Warehouse) -> None:
    """A type whose every value the column holds is loaded, exactly."""
    targets = {name_of(source, target): target for source, target in FITTING}
    make_table(warehouse, pa.schema(targets))
    samples = [sample(source, height=3) for source, _ in FITTING]
    data = pa.table(dict(zip(targets, samples, strict=True)))
    assert warehouse.plan(data, "t").losses == {}
    warehouse.load(data, "t")
    found = warehouse.read_table("t")
    for name, target in targets.items():
        stored = warehouse.dialect.column(name, target).arrow_type
        assert sorted(map(repr, exact(found[name]))) == sorted(map(repr, exact(data[name].cast(target).cast(stored))))


def test_values_that_fit_are_loaded(warehouse: Warehouse) -> None:
    """A type of which some values fit is checked value by value: the plan says so, and those that fit are loaded."""
    checked = [case for case in CHECKED if kept(warehouse, case[1])]
    targets = {name_of(source, target): target for source, target, *_ in checked}
    make_table(warehouse, pa.schema(targets))
    data = pa.table(
        {name: pa.array([case[3], None], case[0]) for name, case in zip(targets, checked, strict=True)}
        | {"row": [1, 2]}
    )
    plan = warehouse.plan(data, "t")
    assert plan.losses == {}
    for name, case in zip(targets, checked, strict=True):
        assert case[2] in plan.checked[name]
        assert f"checked: {plan.checked[name]}" in str(plan)
    warehouse.load(data, "t")
    found = warehouse.read_table("t").sort_by("row").to_pylist()
    assert found[0] == {name: case[4] for name, case in zip(targets, checked, strict=True)} | {"row": 1}
    assert found[1] == dict.fromkeys(targets) | {"row": 2}


@pytest.mark.parametrize("at", range(len(CHECKED)))
def test_a_value_that_does_not_fit_is_named(warehouse: Warehouse, at: int) -> None:
    """By column and row, without the value; nothing is loaded. With allow_loss it is rounded, or cannot be held."""
    source, target, _, good, _, bad = CHECKED[at]
    if not kept(warehouse, target):
        pytest.skip("the engine has another type for it")
    make_table(warehouse, pa.schema({"x": target}))
    data = pa.table({"x": pa.array([good, None, bad, good], source)})
    batches = Scan(data.schema, lambda _: data.to_batches(max_chunksize=2), source="data")
    with pytest.raises(SchemaError, match=r"Column 'x', row 3 of the data: the value does not fit") as caught:
        warehouse.load(batches, "t")
    assert repr(bad) not in str(caught.value).replace(str(target), "")
    assert count(warehouse) == 0


def test_types_that_lose_something_are_refused(warehouse: Warehouse) -> None:
    """Nothing is cast silently: the error names the column and the loss, whatever the values, and the plan says so."""
    losing = [case for case in LOSING if kept(warehouse, case[1])]
    targets = {name_of(source, target): target for source, target, _ in losing}
    make_table(warehouse, pa.schema(targets))
    samples = [sample(source, height=3) for source, *_ in losing]
    data = pa.table(dict(zip(targets, samples, strict=True)))
    for rows_of_it in (data, data.slice(0, 0)):
        losses = warehouse.plan(rows_of_it, "t").losses
        for name, (_, _, words) in zip(targets, losing, strict=True):
            assert words in losses[name]
            others = [other for other in targets if other != name]
            with pytest.raises(TypeLossError) as caught:
                warehouse.load(rows_of_it, "t", allow_loss=others)
            assert f"{name} would lose {losses[name]}" in str(caught.value)
    assert count(warehouse) == 0


def test_a_loss_can_be_allowed_by_name(warehouse: Warehouse) -> None:
    """A column named in allow_loss is rounded to what its type holds."""
    make_table(warehouse, pa.schema([(f"c{i}", target) for i, (_, target, _, _) in enumerate(ROUNDED)]))
    data = pa.table({f"c{i}": pa.array([value], source) for i, (source, _, value, _) in enumerate(ROUNDED)})
    warehouse.load(data, "t", allow_loss=data.schema.names)
    assert rows(warehouse) == [tuple(expected for *_, expected in ROUNDED)]


def test_an_allowed_loss_makes_no_value_up(warehouse: Warehouse) -> None:
    """A value that the column cannot hold at all is an error also where a loss is allowed."""
    impossible = [case for case in IMPOSSIBLE if kept(warehouse, case[1])]
    make_table(warehouse, pa.schema([(f"c{i}", target) for i, (_, target, _) in enumerate(impossible)]))
    for i, (source, _, value) in enumerate(impossible):
        with pytest.raises(SchemaError, match=f"'c{i}'") as caught:
            warehouse.load(pa.table({f"c{i}": pa.array([value], source)}), "t", allow_loss=[f"c{i}"])
        assert str(value) not in str(caught.value)
    assert count(warehouse) == 0


# Names

NAMES = [
    "a b",
    'say "hi"',
    "it's",
    "größe",
    "注文",
    "😀",
    "select",
    "order",
    "1st",
    "MixedCase",
    ":name",
    "100%",
    "%s",
    "$1",
    "a?b",
    "a;--b",
    "{x}",
    "back\\slash",
    "new\nline",
    "_",
]


@pytest.fixture
def any_names() -> list[str]:
    """Names that the engine takes; a module has its own where it does not take all of them."""
    return NAMES


@all_modes
def test_columns_may_have_any_name(warehouse: Warehouse, mode: Mode, any_names: list[str]) -> None:
    """Names come back as written, as columns and as keys, whatever they look like in SQL."""
    names = {"upsert": {"key": any_names[:-1]}, "replace_partition": {"partition_by": any_names[:-1]}}.get(mode, {})
    for value in (1, 2, 2):
        data = pa.table({name: [value] for name in any_names} | {f"{name}2": ["x"] for name in any_names})
        warehouse.load(data, "t", mode=mode, **names)  # type: ignore[arg-type]
    assert count(warehouse) == {"append": 3, "replace": 1}.get(mode, 2)
    assert warehouse.read_table("t").schema.names == warehouse.table_schema("t").names == data.schema.names
    assert warehouse.read_table("t", any_names[3:5]).schema.names == any_names[3:5]
    wider = pa.table({**{name: [9] for name in any_names}, **{f"{name}3": [True] for name in any_names}})
    warehouse.load(wider, "t")
    assert warehouse.table_schema("t").names == [*data.schema.names, *(f"{name}3" for name in any_names)]


def test_tables_and_schemas_may_have_any_name(warehouse: Warehouse, any_names: list[str]) -> None:
    """`schema.table` is taken as written, and tables of one name in two schemas are two tables."""
    for name in any_names:
        warehouse.execute(f"CREATE SCHEMA {warehouse.dialect.name(name)}")
        warehouse.load(table_of([1, 2]), f"{name}.{name}", mode="upsert", key=["id"])
        assert count(warehouse, f"{name}.{name}") == 2
    for name in any_names[:4]:
        warehouse.load(table_of([1]), name)
        assert (count(warehouse, name), count(warehouse, f"{name}.{name}")) == (1, 2)
    assert warehouse.table_schema(f"{any_names[0]}.{any_names[0]}").names == ["id", "day", "text"]


# Types

_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
_zones = st.sampled_from(["UTC", "Europe/Rome", "America/St_Johns", "Asia/Kathmandu", "+05:30"])


def arrays(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    return st.lists(st.none() | values, max_size=12).map(lambda items: pa.array(items, kind))


def integers(kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
    unsigned = pa.types.is_unsigned_integer(kind)
    low, high = (0, 2**kind.bit_width) if unsigned else (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1))
    return with_edges(arrays(kind, st.integers(low, high - 1)), [low, high - 1, 0, None])


@st.composite
def decimals(draw: st.DrawFn, low: int, high: int) -> pa.Array:
    precision = draw(st.integers(low, high))
    scale = draw(st.integers(0, precision))
    kind = (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    limit = 10**precision - 1

    def number(digits: int) -> Decimal:
        sign, figures = (1, -digits) if digits < 0 else (0, digits)
        return Decimal((sign, tuple(map(int, str(figures))), -scale))

    return draw(with_edges(arrays(kind, st.integers(-limit, limit).map(number)), [number(limit), number(-limit), None]))


@st.composite
def timestamps(draw: st.DrawFn, unit: str, *, zoned: bool) -> pa.Array:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    first, last = (-62_135_596_800, 253_402_300_799) if unit != "ns" else (-9_223_372_036, 9_223_372_035)
    ticks = arrays(pa.int64(), st.integers(first * per_second, (last + 1) * per_second - 1))
    return draw(ticks).view(pa.timestamp(unit, draw(_zones) if zoned else None))


def extension(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    return arrays(kind.storage_type, values).map(lambda storage: pa.ExtensionArray.from_storage(kind, storage))


def with_edges(values: st.SearchStrategy[pa.Array], edges: list[Any]) -> st.SearchStrategy[pa.Array]:
    """The same arrays, which always end in the edges of their type."""
    return values.map(lambda array: pa.concat_arrays([array, as_type(edges, array.type)]))


def as_type(values: list[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


_days = [None, dt.date.min, dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date.max]
_moments = [None, dt.datetime.min, dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime.max]  # noqa: DTZ001, DTZ901
_floats = [None, 0.0, -0.0, float("nan"), float("inf"), float("-inf")]
ARRAYS: dict[str, st.SearchStrategy[pa.Array]] = {
    **{str(kind): integers(kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(kind): integers(kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "decimal": decimals(1, 38),
    "large decimal": decimals(39, 76),
    "float": with_edges(arrays(pa.float32(), st.floats(width=32)), [*_floats, 2.0**-149, 3.4028234663852886e38]),
    "double": with_edges(arrays(pa.float64(), st.floats()), [*_floats, 5e-324, 1.7976931348623157e308]),
    "bool": with_edges(arrays(pa.bool_(), st.booleans()), [True, False, None]),
    "string": with_edges(arrays(pa.string(), _texts), ["", None, "NULL", "\\N", "\t\r\n", "😀e\u0301\uffff"]),
    "binary": with_edges(arrays(pa.binary(), st.binary(max_size=20)), [b"", None, b"\x00\xff", b"\\x00"]),
    "fixed_size_binary": arrays(pa.binary(3), st.binary(min_size=3, max_size=3)),
    "date": with_edges(arrays(pa.date32(), st.dates()), _days),
    **{f"timestamp {unit}": timestamps(unit, zoned=False) for unit in ("s", "ms", "us", "ns")},
    **{f"timestamp {unit} zoned": timestamps(unit, zoned=True) for unit in ("s", "ms", "us", "ns")},
    "timestamps": with_edges(arrays(NAIVE, st.datetimes()), _moments),
    "timestamps zoned": with_edges(arrays(UTC, st.datetimes()), _moments),
    "time": with_edges(arrays(pa.time64("us"), st.times()), [None, dt.time.min, dt.time.max]),
    "time ns": arrays(pa.time64("ns"), st.times()),
    "duration": arrays(pa.int64(), st.integers(-(10**15), 10**15)).map(lambda ticks: ticks.view(pa.duration("us"))),
    "json": with_edges(
        extension(pa.json_(), _json.map(json.dumps)), [None, "null", '""', "{}", '{"b": [1.5], "a": "ü"}']
    ),
    "uuid": with_edges(
        extension(pa.uuid(), st.binary(min_size=16, max_size=16)), [None, b"\0" * 16, b"\xff" * 16, b"0123456789abcdef"]
    ),
    "null": st.integers(0, 5).map(pa.nulls),
    "list of int": with_edges(
        arrays(pa.list_(pa.int64()), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4)),
        [None, [], [None]],
    ),
    "list of string": with_edges(
        arrays(pa.list_(pa.string()), st.lists(st.none() | _texts, max_size=4)),
        [None, [], [""], ["NULL", "{,}", None, '"']],
    ),
    "list of decimal": arrays(
        pa.list_(pa.decimal128(20, 4)), st.lists(st.none() | st.decimals(-(10**15), 10**15, places=4), max_size=4)
    ),
    "list of date": arrays(pa.list_(pa.date32()), st.lists(st.none() | st.dates(), max_size=4)),
    "list of list": arrays(
        pa.list_(pa.list_(pa.int64())), st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3)
    ),
    "struct": arrays(
        pa.struct({"a": pa.int64(), "b c": pa.string()}), st.fixed_dictionaries({"a": st.integers(0, 9), "b c": _texts})
    ),
    "map": arrays(
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(_texts, st.integers(0, 9), max_size=3).map(lambda d: [*d.items()]),
    ),
}
UNCOMMON = {
    "large decimal": pa.decimal256(39, 0),
    "timestamp ns": pa.timestamp("ns"),
    "timestamp ns zoned": pa.timestamp("ns", "UTC"),
    "time ns": pa.time64("ns"),
    "duration": pa.duration("us"),
    "list of int": pa.list_(pa.int64()),
    "list of string": pa.list_(pa.string()),
    "list of decimal": pa.list_(pa.decimal128(20, 4)),
    "list of date": pa.list_(pa.date32()),
    "list of list": pa.list_(pa.list_(pa.int64())),
    "struct": pa.struct({"a": pa.int64()}),
    "map": pa.map_(pa.string(), pa.int64()),
}
GROUPS = [list(ARRAYS)[start : start + 9] for start in range(0, len(ARRAYS), 9)]


def exact(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Values that are equal only where nothing at all was lost: ticks, and floats told apart to the sign of zero."""
    kind = column.type
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(kind, pa.JsonType):
        return [None if text is None else json.loads(text, parse_int=float) for text in column.storage.to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        return list(column.storage.to_pylist())
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        return list(column.cast(pa.int64()).to_pylist())
    if pa.types.is_floating(kind):
        return [repr(value) for value in column.to_pylist()]
    return list(column.to_pylist())


@pytest.fixture
def held() -> Callable[[str, pa.Array], pa.Array]:
    """Return of values of `ARRAYS` what the engine has a value for; a module has its own where that is not all."""
    return lambda _, values: values


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: f"{names[0]} to {names[-1]}")
@quick
@given(data=st.data())
def test_any_value_comes_back_exactly(
    warehouse: Warehouse,
    unsupported_types: set[str],
    held: Callable[[str, pa.Array], pa.Array],
    names: list[str],
    data: st.DataObject,
) -> None:
    """What a new table takes of a type it gives back, to the last digit, and takes once more."""
    drawn = {
        name: kept_by(warehouse, held(name, data.draw(ARRAYS[name], label=name)))
        for name in names
        if name not in unsupported_types
    }
    height = max(map(len, drawn.values()), default=0)
    columns = {
        name: pa.concat_arrays([values, pa.nulls(height - len(values), values.type)]) for name, values in drawn.items()
    }
    table, frame = f"t{uuid.uuid4().hex}", pa.table({"row": range(height), **columns})
    for times in (1, 2):
        warehouse.load(frame, table)
        found, described = warehouse.read_table(table).sort_by("row"), warehouse.table_schema(table)
        assert found.num_rows == height * times
        for name, values in columns.items():
            stored = warehouse.dialect.column(name, values.type).arrow_type
            if name != "list of decimal":  # no engine but DuckDB says how many digits they have
                assert found.schema.field(name).type == described.field(name).type == stored
            assert exact(found[name])[::times] == exact(as_stored(values, stored)), name
            assert exact(found[name])[times - 1 :: times] == exact(found[name])[::times], name


def test_a_type_that_no_column_holds_is_refused(warehouse: Warehouse, unsupported_types: set[str]) -> None:
    """The error names the column and says what to do, and no table is made."""
    for name in unsupported_types:
        kind = UNCOMMON[name]
        for call in (warehouse.plan, warehouse.load):
            with pytest.raises(TypeLossError, match=r"column 'x': .* no type that holds every .* Cast it"):
                call(pa.table({"x": pa.nulls(1, kind)}), "t")
    assert "t" not in tables(warehouse)


def kept_by(warehouse: Warehouse, values: pa.Array) -> pa.Array:
    """The values, without the nanoseconds of those whose column holds microseconds."""
    stored = warehouse.dialect.column("x", values.type).arrow_type
    if pa.types.is_timestamp(stored) and stored.unit == "us" and values.type.unit == "ns":
        return cast_array(values, stored, safe=False).cast(values.type)
    return values


def as_stored(values: pa.Array, stored: pa.DataType) -> pa.Array:
    """The values in the type of their column; its Python values where Arrow has no cast."""
    if values.type == stored:
        return values
    return cast_array(values, stored)


@pytest.mark.parametrize("size", [2_000_000, 100])
def test_long_values_come_back(warehouse: Warehouse, size: int) -> None:
    """A text and a binary value of two million characters, and a row of many columns."""
    columns = {f"c{i}": [i] for i in range(200)} if size == 100 else {}
    data = pa.table({"text": ["ü" * size], "binary": [b"\x00\xff" * size], **columns})
    warehouse.load(data, "t")
    assert warehouse.read_table("t").equals(data)


# What data may be


def test_pandas_frames_are_loaded(warehouse: Warehouse) -> None:
    """NaN is a float and stays one, None is null, zones are kept, and the index is no column."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "id": [1, 2],
            "price": [1.5, float("nan")],
            "text": ["ü", None],
            "at": pd.to_datetime(["2026-04-30T12:00:00.000001+02:00", None]).tz_convert("Europe/Rome"),
            "naive": pd.to_datetime(["1969-12-31T23:59:59.999999", None]),
            "count": pd.array([1, None], dtype="Int64"),
        },
        index=[7, 8],
    )
    warehouse.load(frame, "t")
    found = warehouse.read_table("t").sort_by("id").to_pylist()
    assert found[0] == {
        "id": 1,
        "price": 1.5,
        "text": "ü",
        "at": dt.datetime(2026, 4, 30, 10, 0, 0, 1, tzinfo=dt.UTC),
        "naive": dt.datetime(1969, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001
        "count": 1,
    }
    assert {name for name, value in found[1].items() if value is None} == {"price", "text", "at", "naive", "count"}


def test_polars_frames_are_loaded(warehouse: Warehouse) -> None:
    """A polars frame arrives with its own types."""
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame(
        {"id": [1, 2], "text": ["a", None], "day": [dt.date(2026, 4, 30)] * 2, "x": [0.5, float("nan")]}
    )
    warehouse.load(frame, "t")
    assert warehouse.read_table("t").sort_by("id").equals(frame.to_arrow().cast(warehouse.read_table("t").schema)) or (
        rows(warehouse, columns="id, text, day") == [(1, "a", dt.date(2026, 4, 30)), (2, None, dt.date(2026, 4, 30))]
    )


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_every_dtype_of_a_frame_comes_back_or_is_refused(warehouse: Warehouse, library: str) -> None:
    """What a frame holds is in the table as it was; a dtype that no column holds is an error that names the column."""
    pytest.importorskip(library)
    from tests import frames

    read: dict[str, pa.ChunkedArray] = {}
    for name, series in frames.columns_of(library).items():
        refusal = contextlib.nullcontext()
        try:
            column = as_scan(frames.frame_of(series)).to_arrow()["x"]
            warehouse.dialect.column("x", column.type)
            read[name] = column
        except (InvalidInputError, TypeLossError):
            refusal = pytest.raises((InvalidInputError, TypeLossError), match="olumn 'x'")
        with refusal:
            warehouse.plan(frames.frame_of(series), "t")
    assert len(read) > 20
    data = pa.table({"row": [0, 1], **{f"c{at}": column for at, column in enumerate(read.values())}})
    while "t" not in tables(warehouse):
        try:
            warehouse.load(data, "t")
        except SchemaError as error:  # BigQuery keeps no null instead of an array, and says so by the column's name
            if not (named := re.search(r"Column '(c\d+)'", str(error))):
                raise
            data = data.drop_columns([named[1]])
    found = warehouse.read_table("t").sort_by("row")
    for at, (name, column) in enumerate(read.items()):
        if f"c{at}" not in data.schema.names:
            continue
        stored = warehouse.dialect.column("x", column.type).arrow_type
        expected = as_stored(without_layout(column), stored)
        assert exact(found[f"c{at}"]) == exact(as_stored(found[f"c{at}"].combine_chunks(), stored)), name
        assert exact(as_stored(found[f"c{at}"].combine_chunks(), stored)) == exact(expected), name


def without_layout(column: pa.ChunkedArray) -> pa.Array:
    """The values of a column that may be a dictionary, or of views, which few kernels take."""
    values = pa.concat_arrays(column.chunks)
    if pa.types.is_dictionary(values.type):
        return values.dictionary.cast(pa.string()).take(values.indices) if "string" in str(values.type) else values
    return values.cast(pa.string()) if pa.types.is_string_view(values.type) else values


def test_anything_with_an_arrow_stream_is_loaded(warehouse: Warehouse) -> None:
    """A DuckDB relation, a record batch, a list of dicts, another warehouse's scan."""
    duckdb = pytest.importorskip("duckdb")
    batch = table_of([2]).to_batches()[0]
    warehouse.load(duckdb.sql("SELECT 1::BIGINT AS id, 'mon' AS day, 'x' AS text"), "t")
    warehouse.load(batch, "t")
    warehouse.load([{"id": 3, "day": "mon", "text": "x"}], "t")
    warehouse.load(warehouse.scan_query("SELECT id + 3 AS id, day, text FROM t"), "t")
    assert rows(warehouse, columns="id") == [(n,) for n in range(1, 7)]
    with pytest.raises(InvalidInputError, match="int is not tabular data"):
        warehouse.load(1, "t")


def python(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values as Python has them, JSON parsed."""
    if isinstance(values.type, pa.JsonType):
        return [None if text is None else json.loads(text) for text in values.to_pylist()]
    return list(values.to_pylist())


def test_containers_of_rows_are_loaded(warehouse: Warehouse) -> None:
    """Whatever Python holds rows in; each load is of the same rows."""
    from tests import containers

    for make in containers.CONTAINERS.values():
        assert warehouse.load(make(), "t").rows == len(containers.ROWS)
    expected = [tuple(row.values()) for row in containers.ROWS] * len(containers.CONTAINERS)
    assert rows(warehouse, columns="id, name") == sorted(expected, key=repr)


def test_values_of_python_come_back(warehouse: Warehouse) -> None:
    """Columns whose values Arrow alone would refuse or change, in a new table and in that of the day before."""
    from tests import containers

    columns = {f"c{at}": values for at, (values, _) in enumerate(containers.VALUES.values())}
    expected = {f"c{at}": values for at, (_, values) in enumerate(containers.VALUES.values())}
    data = [{"row": row} | {name: values[row] for name, values in columns.items()} for row in range(2)]
    for times in (1, 2):
        try:
            warehouse.load(iter(data), "t")
        except SchemaError as error:  # BigQuery keeps no null instead of an array, and says so by the column's name
            pytest.skip(str(error))
        found = warehouse.read_table("t").sort_by("row")
        for name, values in expected.items():
            assert python(found[name])[::times] == values, name


# Redshift and BigQuery have no such columns, and Snowflake's stand-in computes none.
GENERATED = {"DuckDB": "(id * 2)", "MySQL": "(id * 2) STORED", "Postgres": "(id * 2) STORED"}


@all_modes
def test_a_generated_column_is_the_engines(warehouse: Warehouse, mode: Mode) -> None:
    """Data without it is loaded and the engine computes it; data that brings it is refused by its name."""
    if (formula := GENERATED.get(type(warehouse).__name__)) is None:
        pytest.skip("The engine generates no columns.")
    warehouse.execute(
        f"CREATE TABLE t (id bigint, day varchar(9), text varchar(9), twice bigint GENERATED ALWAYS AS {formula})"
    )
    warehouse.load(table_of([1, 2]), "t", mode=mode, **ARGUMENTS[mode])
    twice = table_of([3]).append_column("twice", pa.array([7]))
    for refused in (warehouse.plan, warehouse.load):
        with pytest.raises(SchemaError, match="computes the column 'twice' itself"):
            refused(twice, "t", mode=mode, **ARGUMENTS[mode])
    assert rows(warehouse, columns="id, twice") == [(1, 2), (2, 4)]


def test_a_field_that_is_new_is_kept(warehouse: Warehouse) -> None:
    """Where nested data is JSON, or the engine can add fields to a struct; else the load is refused."""
    days = [
        [{"x": {"a": 1, "in": {"b": 1}}}],
        [{"x": {"a": 2, "in": {"b": 2, "c": "new"}, "d": [1]}}],
        [{"x": {"a": 3}}],
    ]
    warehouse.load(days[0], "t")
    column = warehouse.dialect.column("d", pa.int64())
    is_json = isinstance(warehouse.table_schema("t").field("x").type, pa.JsonType)
    if not is_json and warehouse.dialect.add_field("t", ["x"], column) is None:
        with pytest.raises(TypeLossError, match="x would lose its type"):
            warehouse.load(days[1], "t")
        return
    if not is_json:
        with pytest.raises(TypeLossError, match="x would lose its type"):
            warehouse.load(days[1], "t", on_new_columns="fail")
    for day in days[1:]:
        warehouse.load(day, "t")

    def without_nulls(value: Any) -> Any:
        return {k: without_nulls(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    found = sorted(map(without_nulls, python(warehouse.read_table("t")["x"])), key=lambda each: each["a"])
    assert found == [day[0]["x"] for day in days]


def test_a_column_without_values_is_text_and_says_so(warehouse: Warehouse) -> None:
    """Its type is not known yet. In a table that is there it takes the type of its column."""
    nothing = [{"id": 1, "x": None}]
    assert any(note.startswith("x has no value") for note in warehouse.plan(nothing, "t").notes)
    warehouse.load(nothing, "t")
    with pytest.raises(TypeLossError, match=r"x would lose its type: int64 is not string.*drop_table\('t'\)"):
        warehouse.load([{"id": 2, "x": 2}], "t")
    make_table(warehouse, pa.schema({"id": pa.int64(), "x": pa.float64()}), table="typed")
    warehouse.load(nothing, "typed")
    assert rows(warehouse, "typed") == [(1, None)]


def test_nanoseconds_are_cut_where_that_is_allowed(warehouse: Warehouse) -> None:
    """Also in a new table; elsewhere they are refused by column and row, and allow_loss is what the error says."""
    data = pa.table({"x": pa.array([1_000, 1_999], pa.int64()).cast(pa.timestamp("ns"))})
    if warehouse.dialect.column("x", pa.timestamp("ns")).arrow_type == pa.timestamp("ns"):
        make_table(warehouse, pa.schema({"x": pa.timestamp("us")}))
    assert warehouse.plan(data, "t").checked == {"x": "nanoseconds"}
    with pytest.raises(TypeLossError, match=r"Column 'x', row 2 of the data.*nanoseconds.*allow_loss=\['x'\]"):
        warehouse.load(data, "t")
    warehouse.load(data, "t", allow_loss=["x"])
    assert warehouse.read_table("t")["x"].cast(pa.int64()).to_pylist() == [1, 1]


def test_a_scan_is_read_batch_by_batch(warehouse: Warehouse) -> None:
    """A table read as a scan comes in batches, may be read again, and takes bound parameters."""
    size = 100_000
    warehouse.load(pa.table({"id": pa.array(range(size), pa.int64()), "text": ["x" * 400] * size}), "t")
    scan = warehouse.scan_query("SELECT * FROM t WHERE id >= :low AND id < :high", {"low": 10, "high": size})
    for _ in range(2):
        batches = list(scan.batches())
        assert len(batches) > 1
        assert sum(batch.num_rows for batch in batches) == size - 10
    assert scan.schema == pa.schema({"id": pa.int64(), "text": pa.string()})
    assert warehouse.scan("t").to_arrow().num_rows == size
    nothing = warehouse.scan_query("SELECT * FROM t WHERE id < 0").to_arrow()
    assert (nothing.num_rows, nothing.schema) == (0, scan.schema)


# Quarantine


def test_refused_rows_are_kept(warehouse: Warehouse) -> None:
    """Rows that the source refuses stand in the quarantine table with line, column and reason."""
    report = warehouse.load(refused(2, table_of(list(range(98)))), "t", load_id="x")
    assert (report.rows, report.rejected, report.quarantine) == (98, {"amount is no number": 2}, QUARANTINE)
    assert "2 quarantined" in str(report)
    assert count(warehouse) == 98
    expected = [("x", "t", line, "amount", "amount is no number", "not-a-number") for line in (2, 3)]
    assert rows(warehouse, QUARANTINE, "load_id, table_name, line, column_name, reason, row_text") == expected
    assert rows(warehouse, LEDGER, "row_count, rejected_count") == [(98, 2)]


@all_modes
def test_too_many_refused_rows_stop_the_load(warehouse: Warehouse, mode: Mode) -> None:
    """Above max_rejected nothing is applied, not even the quarantine, and the message counts reasons without values."""
    warehouse.load(table_of([1], text="old"), "t")
    with pytest.raises(QualityError, match=r"3 of 10 rows were refused \(amount is no number: 3") as caught:
        warehouse.load(
            refused(3, table_of(list(range(7))), CANARY), "t", mode=mode, max_rejected=0.29, **ARGUMENTS[mode]
        )
    assert CANARY not in str(caught.value)
    assert rows(warehouse, columns="text") == [("old",)]
    assert count(warehouse, QUARANTINE) == 0
    assert count(warehouse, LEDGER) == 1
    report = warehouse.load(refused(3, table_of(list(range(7)))), "t", mode=mode, max_rejected=0.3, **ARGUMENTS[mode])
    assert (report.rows, report.rows_rejected) == (7, 3)


def test_a_quarantine_that_was_dropped_is_made_again(warehouse: Warehouse) -> None:
    """Loads go on, with rejected rows and without, and so does publishing."""
    warehouse.load(table_of([1]), "t")
    warehouse.drop_table(QUARANTINE)
    warehouse.load(table_of([2]), "t")
    warehouse.drop_table(QUARANTINE)
    scan = as_scan(table_of([3, 4])).reject(lambda rows: pc.equal(rows["id"], 4), "four")
    assert warehouse.load(scan, "t", max_rejected=0.5).rejected == {"four": 1}
    assert (count(warehouse), count(warehouse, QUARANTINE)) == (3, 1)
    warehouse.drop_table(QUARANTINE)
    warehouse.load(table_of([5, 6]), "audited")
    assert warehouse.publish("audited", "t", rejected=audited(warehouse, 6), max_rejected=0.5).rejected == {"bad": 1}
    assert (count(warehouse), count(warehouse, QUARANTINE)) == (4, 1)


@all_modes
def test_rows_refused_again_are_quarantined_once(warehouse: Warehouse, mode: Mode) -> None:
    """The same data, loaded anew by a run that knows nothing of the first: what is replaced is replaced there too."""

    def load(ids: list[int], **options: Any) -> str:
        scan = as_scan(table_of(ids)).reject(lambda rows: pc.greater(rows["id"], 7), "more than seven")
        return warehouse.load(scan, "t", mode=mode, max_rejected=0.5, **ARGUMENTS[mode], **options).load_id

    first, other, own = load([1, 2, 8]), load([3, 9]), load([1, 2, 8], load_id="my own")
    again = load([1, 2, 8])
    expected = {other, own, again} | ({first} if mode == "append" else set())
    assert sorted(rows(warehouse, QUARANTINE, "load_id")) == sorted((load_id,) for load_id in expected)
    assert warehouse.load_report(first) is not None


@all_modes
def test_refused_rows_go_with_what_takes_the_place_of_their_load(warehouse: Warehouse, mode: Mode) -> None:
    """Data that was audited anew, and a load that somebody took out of the ledger: also where no row is refused now."""
    warehouse.load(table_of([1, 2, 8]), "audited")
    state = warehouse.fingerprint("audited")

    def publish(*bad: int, **options: Any) -> str:
        options |= {"mode": mode, "max_rejected": 0.5, **ARGUMENTS[mode]}
        return warehouse.publish("audited", "t", rejected=audited(warehouse, *bad), audited=state, **options).load_id

    first, own = publish(8), publish(2, load_id="it's mine")
    assert sorted(rows(warehouse, QUARANTINE, "load_id")) == sorted([(first,), (own,)])
    publish()
    assert sorted(rows(warehouse, QUARANTINE, "load_id")) == sorted([(own,)] + [(first,)] * (mode == "append"))
    for bad in ((2,), ()):
        warehouse.execute(f"DELETE FROM {warehouse.dialect.table(LEDGER)} WHERE load_id = :id", {"id": own})
        publish(*bad, load_id=own)
        assert rows(warehouse, QUARANTINE, "load_id").count((own,)) == len(bad)


@all_modes
def test_a_retry_quarantines_once(warehouse: Warehouse, mode: Mode) -> None:
    """Refused rows are counted and kept once, however often the load is tried or called."""
    data, tries = table_of(list(range(40_000))), []

    def batches(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        assert rejects is not None
        tries.append(1)
        rejects.add("bad", "row\0text", line=1)
        yield from data.to_batches()
        if len(tries) == 1:
            raise TransientError("the network blinked")

    scan = Scan(data.schema, batches, source="a shaky file")
    for _ in range(2):
        report = warehouse.load(scan, "t", mode=mode, load_id="x", **ARGUMENTS[mode])
    assert report.already_loaded
    assert report.rejected == {"bad": 1}
    assert count(warehouse) == 40_000
    assert rows(warehouse, QUARANTINE, "row_text") == [("row\N{SYMBOL FOR NULL}text",)]


def test_many_refused_rows_are_kept(warehouse: Warehouse) -> None:
    """Tens of thousands of refused rows go the same way, in the same transaction."""
    report = warehouse.load(refused(25_000, table_of([1])), "t", max_rejected=1)
    assert report.rows_rejected == count(warehouse, QUARANTINE) == 25_000


# Parts


@all_modes
def test_staged_parts_are_loaded_as_one(warehouse: Warehouse, mode: Mode) -> None:
    """What workers stage is loaded in one commit, once, with what they refused; its tables are gone afterwards."""
    store = MemoryFiles()
    for number, day in enumerate(("mon", "tue", "wed")):
        store.write_table(table_of(list(range(number * 100, number * 100 + 100)), day), f"in/{number}")
    warehouse.load(table_of([7, 500]), "t")
    scan = store.scan("in").reject(lambda batch: pc.equal(pc.bit_wise_and(batch["id"], 63), 1), "odd one")
    staged = [warehouse.stage(part, "t") for part in scan.partitions(3)]
    assert [part.rows for part in staged] == [98, 98, 99]
    for again in (False, True):
        report = warehouse.load(staged, "t", mode=mode, load_id="x", **ARGUMENTS[mode])
        assert report.already_loaded == again
    assert (report.rows, report.rejected) == (295, {"odd one": 5})
    assert count(warehouse, QUARANTINE) == 5
    before = {"append": [7, 500], "replace": [], "upsert": [500], "replace_partition": []}[mode]
    ids = [number for number in range(300) if number & 63 != 1]
    assert sorted(rows(warehouse, "t", "id")) == [(number,) for number in sorted(ids + before)]
    assert not [table for table in tables(warehouse) if table.startswith(PREFIX)]


# Plans


# Publishing


@all_modes
def test_a_table_is_published_as_it_would_be_loaded(warehouse: Warehouse, mode: Mode) -> None:
    """In each mode the target ends as after a load of the same rows, once for each load_id; the source stays."""
    for table in ("t", "expected"):
        warehouse.load(pa.concat_tables([table_of([1, 2], text="old"), table_of([3], day="tue")]), table)
    data = table_of([2, 4], text="new").append_column("extra", pa.array([7, None], pa.int64()))
    warehouse.load(data, "audited")
    loaded = warehouse.load(data, "expected", mode=mode, **ARGUMENTS[mode])
    report = warehouse.publish("audited", "t", mode=mode, load_id="x", **ARGUMENTS[mode])
    again = warehouse.publish("audited", "t", mode=mode, load_id="x", **ARGUMENTS[mode])
    columns = "id, day, text, extra"
    assert rows(warehouse, columns=columns) == rows(warehouse, "expected", columns)
    counts = ("rows", "inserted", "updated", "deleted")
    assert [getattr(report, name) for name in counts] == [getattr(loaded, name) for name in counts]
    assert again == report.model_copy(update={"already_loaded": True})
    assert (count(warehouse, "audited"), STAGE in tables(warehouse)) == (2, False)


def test_rejected_rows_are_not_published(warehouse: Warehouse) -> None:
    """They go to the quarantine with all their reasons, in the same transaction; a key may be missing in a row."""
    warehouse.load(pa.concat_tables([table_of([1, 2, 3, None]), table_of([2], day="tue")]), "audited")
    keys = {"id": [2, None, 2], "day": ["mon"] * 3}
    rejected = pa.table(keys | {"reason": ["b: it is odd", "id is missing", "a: it is late"]})
    report = warehouse.publish("audited", "t", load_id="x", rejected=rejected, max_rejected=0.5)
    assert rows(warehouse, columns="id, day") == [(1, "mon"), (2, "tue"), (3, "mon")]
    assert (report.rows, report.rejected) == (3, {"a: it is late; b: it is odd": 1, "id is missing": 1})
    found = {reason: json.loads(text) for reason, text in rows(warehouse, QUARANTINE, "reason, row_text")}
    assert found["id is missing"] == {"id": None, "day": "mon", "text": "x"}
    assert (report.quarantine, set(found)) == (QUARANTINE, set(report.rejected))
    leftover = {STAGE, "_etl_staged_rejects", "_etl_staged_keys"} & tables(warehouse)
    assert not leftover


def test_a_missing_key_is_a_key(warehouse: Warehouse) -> None:
    """A row without a key stays behind like another one, and where no row lacks it, it is no row's."""
    warehouse.load(table_of([1, 2, None]), "audited")
    rejected = pa.table({"id": pa.array([None, 2], pa.int64()), "reason": ["id is missing", "it is odd"]})
    report = warehouse.publish("audited", "t", load_id="x", rejected=rejected, max_rejected=0.9)
    assert rows(warehouse, columns="id") == [(1,)]
    assert report.rejected == {"id is missing": 1, "it is odd": 1}
    warehouse.load(table_of([1, 2]), "audited", mode="replace")
    with pytest.raises(InvalidInputError, match="1 of the keys in rejected are no row's"):
        warehouse.publish("audited", "t", load_id="y", rejected=rejected, max_rejected=0.9)


def test_too_many_rejected_rows_stop_it(warehouse: Warehouse) -> None:
    """Above max_rejected nothing is published, and no value is in the message."""
    warehouse.load(table_of([1], text="old"), "t")
    warehouse.load(table_of([1, 2], text=CANARY), "audited")
    rejected = pa.table({"text": [CANARY] * 2, "reason": ["text is odd"] * 2})
    with pytest.raises(QualityError, match=r"2 of 2 rows were refused \(text is odd: 2\)") as caught:
        warehouse.publish("audited", "t", mode="replace", rejected=rejected, max_rejected=0.5)
    assert CANARY not in str(caught.value)
    assert rows(warehouse, columns="text") == [("old",)]


@pytest.mark.parametrize(
    ("rejected", "words"),
    [
        ({"id": [1]}, "'reason'"),
        ({"reason": ["x"]}, "tell rows apart"),
        ({"nobody": [1], "reason": ["x"]}, "'nobody'"),
        ({"id": ["seven"], "reason": ["x"]}, "types of the table's columns id"),
        ({"id": [1, 9], "reason": ["x", "x"]}, "1 of the keys in rejected are no row's"),
    ],
)
def test_rejected_rows_have_to_be_found(warehouse: Warehouse, rejected: dict[str, Any], words: str) -> None:
    """Columns that the table lacks, or of other types, are an error, not rows that are published after all."""
    warehouse.load(table_of([1]), "audited")
    with pytest.raises(InvalidInputError, match=words):
        warehouse.publish("audited", "t", rejected=pa.table(rejected))


def test_no_good_row_stays_behind_with_a_bad_one(warehouse: Warehouse) -> None:
    """A key that rejected and other rows share tells them not apart, and nothing is published by it."""
    warehouse.load(pa.table({"id": [1, 1, 2], "text": ["good", "bad", "good"]}), "audited")
    with pytest.raises(
        InvalidInputError, match=r"2 rows of the source table have the keys of 1 rejected .*id does not"
    ):
        warehouse.publish("audited", "t", rejected=pa.table({"id": [1], "reason": ["bad"]}), max_rejected=1)
    rejected = pa.table({"id": [1], "text": ["bad"], "reason": ["bad"]})
    assert warehouse.publish("audited", "t", rejected=rejected, max_rejected=1).rows == 2


def audited(warehouse: Warehouse, *ids: int) -> pa.Table:
    """Return these keys as an audit of the table as it is now rejects them."""
    keys = pa.table({"id": pa.array(ids, pa.int64()), "reason": pa.array(["bad"] * len(ids), pa.string())})
    return keys.replace_schema_metadata({AUDITED: warehouse.fingerprint("audited")})


CHANGES = {
    "a value": "UPDATE {} SET text = 'other' WHERE id = 1",
    "a null": "UPDATE {} SET text = NULL WHERE id = 1",
    "two values": "UPDATE {} SET text = CASE id WHEN 1 THEN 'two' ELSE 'one' END WHERE id IN (1, 3)",
    "a row less": "DELETE FROM {} WHERE id = 3",
    "a row twice": "INSERT INTO {} (id, day, text) SELECT id, day, text FROM {} WHERE id = 3",
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_what_was_audited_is_published(warehouse: Warehouse, change: str) -> None:
    """A row that was changed since, under its key too, is refused: before the publishing, and while it goes on."""
    data = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "day": ["mon"] * 3, "text": ["one", "bad", "two"]})
    warehouse.load(data, "audited")
    warehouse.load(data.slice(2), "t")
    change = change.format(*[warehouse.dialect.table("audited")] * 2)
    rejected = audited(warehouse, 2)
    assert warehouse.fingerprint("audited") == rejected.schema.metadata[AUDITED].decode()
    meanwhile = Strike("rows", lambda: warehouse.execute(change))
    with striking(meanwhile), pytest.raises(InvalidInputError, match="audited was changed since it was audited"):
        warehouse.publish("audited", "t", mode="replace", rejected=rejected, max_rejected=0.5)
    assert meanwhile.fired
    for keys in (rejected, rejected.slice(0, 0)):
        with pytest.raises(InvalidInputError, match="audited was changed since it was audited"):
            warehouse.publish("audited", "t", mode="replace", rejected=keys, max_rejected=0.5)
    assert rows(warehouse, columns="id, text") == [(3, "two")]
    assert "_etl_staged_keys" not in tables(warehouse)
    again = warehouse.publish("audited", "t", mode="replace", rejected=audited(warehouse, 2), max_rejected=0.9)
    assert (again.rows_rejected, rows(warehouse, QUARANTINE, "reason")) == (1, [("bad",)])


def test_a_fingerprint_is_that_of_all_columns(warehouse: Warehouse) -> None:
    """A column that is new is a change, and a table that is not there has none."""
    warehouse.load(table_of([1, 2]), "t")
    before = warehouse.fingerprint("t")
    warehouse.load(table_of([3]).append_column("extra", pa.array([1], pa.int64())).slice(0, 0), "t")
    assert warehouse.fingerprint("t") != before
    with pytest.raises(NotFoundError):
        warehouse.fingerprint("nowhere")


def test_a_table_that_is_not_there_is_not_published(warehouse: Warehouse) -> None:
    """It is an error; dropping it is none."""
    with pytest.raises(NotFoundError):
        warehouse.publish("audited", "t")
    warehouse.load(table_of([1]), "audited")
    warehouse.drop_table("audited")
    warehouse.drop_table("audited")
    assert "audited" not in tables(warehouse)


@all_modes
def test_a_plan_changes_nothing(warehouse: Warehouse, mode: Mode) -> None:
    """A plan says what the load then does, and makes neither table nor ledger."""
    plan = warehouse.plan(table_of([1]), "t", mode=mode, **ARGUMENTS[mode])
    assert plan.creates_table
    assert not tables(warehouse) & {"t", LEDGER, QUARANTINE}
    assert warehouse.load(table_of([1]), "t", mode=mode, **ARGUMENTS[mode]).ddl == plan.ddl
    wider = table_of([2]).append_column("extra", pa.array([1]))
    plan = warehouse.plan(wider, "t", mode=mode, **ARGUMENTS[mode])
    assert [(column.name, column.action) for column in plan.columns][-1] == ("extra", "add")
    assert "extra" not in warehouse.table_schema("t").names
    assert warehouse.load(wider, "t", mode=mode, **ARGUMENTS[mode]).ddl == plan.ddl
    plan = warehouse.plan(pa.table({"id": ["x"], "day": ["mon"]}), "t", mode=mode, **ARGUMENTS[mode])
    assert not plan.creates_table
    assert plan.ddl == ()
    assert list(plan.losses) == ["id"]
    assert {column.name for column in plan.columns if column.action == "absent"} == {"text", "extra"}
    assert "LOSES" in str(plan)


# Statements


def test_a_query_answers_the_same_each_time(warehouse: Warehouse) -> None:
    """No call remembers the one before it: the same call twice gives the same rows."""
    warehouse.load(table_of([1, 2, 3]), "t")
    query = "SELECT id FROM t ORDER BY id"
    for _ in range(2):
        assert warehouse.fetch_one(query) == (1,)
        assert warehouse.fetch_all(query) == [(1,), (2,), (3,)]
    assert warehouse.fetch_one("SELECT id FROM t WHERE id = 9") is None
    assert warehouse.fetch_all("SELECT id FROM t WHERE id = 9") == []


PARAMETERS: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("SELECT CAST(:a AS INTEGER) + 1", {"a": 1}, (2,)),
    (
        "SELECT CAST(:a AS INTEGER) AS x, CAST(:b AS INTEGER) AS y, CAST(:a AS INTEGER) AS z;",
        {"a": 1, "b": 2},
        (1, 2, 1),
    ),
    ("SELECT ':a', 'it''s :a', CAST(:a AS INTEGER)", {"a": 1}, (":a", "it's :a", 1)),
    ('SELECT CAST(:a AS INTEGER) AS ":a" -- :a', {"a": 1}, (1,)),
    ("SELECT /* :nope */ CAST(:a AS INTEGER)", {"a": 1}, (1,)),
    ("SELECT '100%', '%s', CAST(:a AS INTEGER) % 2", {"a": 3}, ("100%", "%s", 1)),
    ("SELECT CAST(:a AS VARCHAR(9)) LIKE 'a%'", {"a": "abc"}, (True,)),
    ("SELECT CAST(:a AS VARCHAR(99))", {"a": "'; DROP TABLE t; -- :a %s"}, ("'; DROP TABLE t; -- :a %s",)),
    ("SELECT CAST(:a AS DATE)", {"a": dt.date(2026, 4, 30)}, (dt.date(2026, 4, 30),)),
    ("SELECT CAST(:a AS DECIMAL(20, 4))", {"a": Decimal("12345678901.2345")}, (Decimal("12345678901.2345"),)),
    ("SELECT CAST(:a AS INTEGER) IS NULL", {"a": None}, (True,)),
    ("SELECT CAST(:a AS INTEGER)", {"a": 1, "unused": 2}, (1,)),
    ("SELECT '100%'", {}, ("100%",)),
]


@pytest.mark.parametrize(("query", "parameters", "expected"), PARAMETERS)
def test_parameters_are_bound_by_name(
    warehouse: Warehouse, query: str, parameters: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """`:name` is a parameter, except in strings, quoted names, comments and casts; percent signs mean nothing."""
    assert warehouse.fetch_one(query, parameters) == expected
    found = warehouse.scan_query(query, parameters).to_arrow()
    assert tuple(column[0].as_py() for column in found.columns) == expected


def scalars() -> st.SearchStrategy[Any]:
    """Values of every type that all engines bind."""
    days = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))
    moments = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))  # noqa: DTZ001 (naive on purpose)
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
    exact = st.decimals(-(10**10), 10**10, places=4, allow_nan=False, allow_infinity=False)  # so that a product fits
    zoned = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
    numbers = st.integers(-(2**63), 2**63 - 1) | exact | st.floats(allow_nan=False, width=64)
    awkward = st.sampled_from(["it's", "a\\", "\\'; --", ":v", "%s", "$1", "?", -1, -0.0, 2**31, 300, -(2**15)])
    return st.none() | st.booleans() | numbers | text | awkward | days | moments | zoned | st.binary(max_size=20)


BINDINGS = [
    "SELECT :v AS v",
    "SELECT COALESCE(:v, 1) AS v, :v AS again",
    "SELECT :v = :w AS v, :w IS NULL AS w, :v AS x",
    "SELECT 1 AS v WHERE :v IS NOT NULL",
    "SELECT :v * :v AS v",
    "SELECT 2 AS v WHERE 1 = ANY(:v)",
]


def plain(value: Any) -> Any:
    """The value without what is the driver's: a zone of UTC by another name, a UUID that is one."""
    if isinstance(value, dt.datetime) and value.tzinfo:
        return value.astimezone(dt.UTC).replace(tzinfo=None), "UTC"
    return str(value) if isinstance(value, uuid.UUID) else value


def outcome(call: Callable[[], list[tuple[Any, ...]]]) -> Any:
    """Its rows, or that it was refused."""
    try:
        return [tuple(plain(value) for value in row) for row in call()]
    except ConnectorError as error:
        return "refused", isinstance(error, TransientError)


@quick
@given(sql=st.sampled_from(BINDINGS), v=scalars() | st.lists(st.integers(-9, 9), max_size=3), w=scalars())
@example(sql="SELECT 2 AS v WHERE 1 = ANY(:v)", v=[], w=None)
@example(sql="SELECT 2 AS v WHERE 1 = ANY(:v)", v=[3, 1], w=None)
@example(sql="SELECT COALESCE(:v, 1) AS v, :v AS again", v=None, w=None)
@example(sql="SELECT :v * :v AS v", v=300, w=None)
def test_a_scan_binds_as_a_fetch_does(warehouse: Warehouse, sql: str, v: Any, w: Any) -> None:
    """The same query with the same parameters has the same rows in a scan, whatever the values are, or none."""
    values = {"v": v, "w": w}
    fetched = outcome(lambda: warehouse.fetch_all(sql, values))
    scanned = outcome(lambda: [tuple(row.values()) for row in warehouse.scan_query(sql, values).to_arrow().to_pylist()])
    assert fetched == scanned


def test_parameters_may_be_written_as_elsewhere(warehouse: Warehouse) -> None:
    """Statements for other collections, with `%(name)s` or `%s`, run as they are; a literal is left alone."""
    warehouse.load(table_of([1, 2, 3]), "t")
    assert warehouse.fetch_all("SELECT id FROM t WHERE id = %(id)s AND text <> '%(id)s'", {"id": 2}) == [(2,)]
    warehouse.execute_many("INSERT INTO t (id, day, text) VALUES (%s, %s, %s)", [(4, "mon", "a"), (5, "tue", "b")])
    assert rows(warehouse, columns="id, text")[-2:] == [(4, "a"), (5, "b")]
    assert warehouse.scan_query("SELECT id FROM t WHERE id > %(id)s", {"id": 4}).to_arrow().to_pylist() == [{"id": 5}]
    with pytest.raises(InvalidInputError, match="1 times"):
        warehouse.fetch_all("SELECT %s", (1, 2))


async def test_prefects_other_names_are_there(warehouse: Warehouse) -> None:
    """The awaitable methods of its collections, and the reset of cursors."""
    await warehouse.execute_async("CREATE TABLE t (id INTEGER)")
    await warehouse.execute_many_async("INSERT INTO t (id) VALUES (:id)", [{"id": 1}, {"id": 2}])
    warehouse.reset_cursors()
    assert await warehouse.fetch_one_async("SELECT id FROM t WHERE id = %(id)s", {"id": 2}) == (2,)
    async with warehouse:
        assert sorted(await warehouse.fetch_many_async("SELECT id FROM t", size=9)) == [(1,), (2,)]
    assert sorted(await warehouse.fetch_all_async("SELECT id FROM t")) == [(1,), (2,)]


def test_a_doubled_percent_sign_is_one_where_parameters_are_written_with_it(warehouse: Warehouse) -> None:
    """As with the DB-API's drivers, in strings too; elsewhere the statement is sent as it is."""
    assert warehouse.fetch_all("SELECT %s, '50%%'", [4]) == [(4, "50%")]
    assert warehouse.fetch_all("SELECT %(a)s, '%%', '%'", {"a": 4}) == [(4, "%", "%")]
    assert warehouse.fetch_all("SELECT :a, '50%%'", {"a": 4}) == [(4, "50%%")]
    assert warehouse.fetch_all("SELECT '50%%'") == [("50%%",)]


def test_quoted_text_holds_no_parameters(warehouse: Warehouse) -> None:
    """Each engine's own strings are left alone, whichever form the parameters have."""
    escapes = r"[^'\\" in warehouse.dialect.literals
    text = r"'a\'%s :x'" if escapes else "'a''%s :x'"
    expected = "a'%s :x"
    assert warehouse.fetch_one(f"SELECT {text}, %s", ("b",)) == (expected, "b")
    assert warehouse.fetch_one(f"SELECT {text}, :b", {"b": "b"}) == (expected, "b")


def test_a_parameter_that_is_not_given_is_named(warehouse: Warehouse) -> None:
    """The message names what is missing and what was given, and no value."""
    with pytest.raises(InvalidInputError, match=r"uses :day, which the parameters lack; given: \['dya'\]") as caught:
        warehouse.fetch_all("SELECT :day", {"dya": CANARY})
    assert CANARY not in str(caught.value)


def test_execute_many_is_one_transaction(warehouse: Warehouse) -> None:
    """Either every item of a sequence is run, or none."""
    make_table(warehouse, pa.schema({"id": pa.int64()}), not_null=("id",))
    insert = "INSERT INTO t (id) VALUES (:id)"
    warehouse.execute_many(insert, [{"id": n} for n in range(5)])
    assert count(warehouse) == 5
    with pytest.raises(InvalidInputError):
        warehouse.execute_many(insert, [{"id": 6}, {"id": None}])
    assert count(warehouse) == 5
    warehouse.execute_many(insert, [])
    warehouse.execute("DELETE FROM t WHERE id = :id", {"id": 1})
    assert count(warehouse) == 4


@pytest.mark.parametrize(
    ("statement", "error", "words"),
    [
        ("SELECT * FROM nowhere", NotFoundError, "nowhere"),
        ("SELECT nothing FROM t", (NotFoundError, InvalidInputError), "nothing"),
        ("SELEKT 1", InvalidInputError, "syntax error"),
        ("CREATE TABLE t (id INTEGER)", AlreadyExistsError, "t"),
        ("SELECT CAST('c4n4ry' AS INTEGER)", InvalidInputError, None),
        ("INSERT INTO t (id, day) VALUES (NULL, 'c4n4ry')", InvalidInputError, None),
    ],
)
def test_errors_of_sql_are_told_apart(warehouse: Warehouse, statement: str, error: Any, words: str | None) -> None:
    """What is missing, wrong or there already has a class of its own; words hold no value, and nothing is retried."""
    make_table(warehouse, table_of([]).schema, not_null=("id",))
    for call in (warehouse.execute, warehouse.fetch_all, lambda sql: warehouse.scan_query(sql).to_arrow()):
        if call not in (warehouse.execute, warehouse.fetch_all) and not statement.startswith("SELE"):
            continue
        with pytest.raises(error, match=words) as caught:
            call(statement)
        assert CANARY not in str(caught.value)
        assert warehouse.uri() in str(caught.value)


def test_an_error_amid_a_result_is_told_apart(warehouse: Warehouse) -> None:
    """A value that stops a query half-way is in no message, and the error is not taken for a lost connection."""
    size = 50_000
    texts = pa.array([str(number) for number in range(size - 1)] + [CANARY])
    warehouse.load(pa.table({"id": range(size), "text": texts}), "t")
    query = "SELECT CAST(text AS INTEGER) FROM t WHERE id >= :low ORDER BY id"
    for call in (warehouse.fetch_all, lambda *query: warehouse.scan_query(*query).to_arrow()):
        for arguments in ((query, {"low": 0}), (query.replace(":low", "0"),)):
            with pytest.raises(InvalidInputError) as caught:
                call(*arguments)
            assert CANARY not in leak(caught.value)


def test_a_table_name_may_hold_a_space(warehouse: Warehouse) -> None:
    """It is read as any other."""
    warehouse.load(table_of([1, 2]), "a table")
    assert warehouse.scan("a table").to_arrow().num_rows == 2


def test_a_query_is_not_taken_for_a_table(warehouse: Warehouse) -> None:
    """`scan` reads tables; a query in its place is an error that names `scan_query`, and shows no value of it."""
    warehouse.load(table_of([1]), "t")
    assert warehouse.scan_query("SELECT id FROM t -- all").to_arrow().num_rows == 1
    queries = ("SELECT * FROM t", "SELECT t.id FROM t", f"SELECT *\nFROM t WHERE text = '{CANARY}' -- {'x' * 200}")
    for query in queries:
        for read in (lambda scan: scan.schema, lambda scan: scan.to_arrow()):
            with pytest.raises(InvalidInputError, match=r"call scan_query\(sql\)") as caught:
                read(warehouse.scan(query))
            assert CANARY not in leak(caught.value)


def test_a_missing_table_is_not_found(warehouse: Warehouse) -> None:
    """Reading a table that is not there says so by its name."""
    for call in (warehouse.read_table, warehouse.table_schema, lambda table: warehouse.scan(table).to_arrow()):
        with pytest.raises(NotFoundError, match="nowhere"):
            call("nowhere")


# Secrets and values


def leak(error: BaseException) -> str:
    """Everything that an error says, its causes included."""
    texts, seen = [], error
    while seen is not None:
        texts += [str(seen), repr(seen), repr(seen.args)]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\n".join(texts)


@all_modes
def test_no_error_shows_a_row(warehouse: Warehouse, mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    """A value that a constraint, a type or a key check stops is in no message, no cause and no log line."""
    name = warehouse.dialect.name
    text = "VARCHAR(20) UNIQUE CHECK (day <> 'c4n4ry')"
    warehouse.execute(f"CREATE TABLE t (id INTEGER NOT NULL, {name('day')} {text}, text VARCHAR(20))")
    bad = {
        "check": {"id": [1], "day": [CANARY], "text": ["x"]},
        "unique": {"id": [1, 2], "day": ["mon" + CANARY] * 2, "text": ["x"] * 2},
        "null": {"id": pa.array([None], pa.int32()), "day": ["mon"], "text": [CANARY]},
        "type": {"id": [CANARY], "day": ["mon"], "text": ["x"]},
        "range": {"id": [2**40], "day": [CANARY], "text": ["x"]},
        "key": {"id": [1, 1], "day": [CANARY, "b" + CANARY], "text": [CANARY] * 2},
    }
    for case, columns in bad.items():
        if case == "key" and mode != "upsert":
            continue
        with pytest.raises(ConnectorError) as caught:
            warehouse.load(pa.table(columns), "t", mode=mode, allow_loss=["id"], **ARGUMENTS[mode])
        assert CANARY not in leak(caught.value), case
        assert not isinstance(caught.value, TransientError)
    assert CANARY not in caplog.text
    assert count(warehouse) == 0


def test_a_report_and_a_log_show_no_row(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    """Reports, plans, the ledger and log lines count rows, and hold none."""
    data = refused(1, table_of([1, 2], text=CANARY), CANARY)
    plan = warehouse.plan(table_of([1, 2], text=CANARY), "t")
    report = warehouse.load(data, "t", max_rejected=0.5)
    said = f"{plan!r}{plan}{report!r}{report}{report.model_dump_json()}{caplog.text}{rows(warehouse, LEDGER)}"
    assert CANARY not in said
    assert rows(warehouse, QUARANTINE, "row_text") == [(CANARY,)]


# Many at once


def together(count: int, call: Callable[[int], Any]) -> list[Any]:
    """The results of calls that start at one moment, each in a thread of its own."""
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        start.wait(timeout=10)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@all_modes
def test_loaders_of_one_load_id_load_once(warehouse: Warehouse, mode: Mode) -> None:
    """Eight loaders at once with one load_id: one loads, the others report that it is loaded."""
    data = table_of(list(range(5_000)))
    reports = together(8, lambda _: warehouse.load(data, "t", mode=mode, load_id="x", **ARGUMENTS[mode]))
    assert sorted(report.already_loaded for report in reports) == [False] + [True] * 7
    assert {report.rows for report in reports} == {5_000}
    assert count(warehouse) == 5_000
    assert count(warehouse, LEDGER) == 1


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_loaders_of_one_table_all_load(warehouse: Warehouse, mode: Mode) -> None:
    """Eight loads of different rows into one new table at once: every row is there once."""

    def load(number: int) -> Any:
        ids = list(range(number * 1_000, number * 1_000 + 1_000))
        return warehouse.load(table_of(ids), "t", mode=mode, load_id=str(number), **ARGUMENTS[mode])

    reports = together(8, load)
    assert not any(report.already_loaded for report in reports)
    assert sum(report.inserted for report in reports) == 8_000
    assert sorted(rows(warehouse, columns="id")) == [(n,) for n in range(8_000)]


@pytest.mark.parametrize("mode", ["replace", pytest.param("replace_partition", marks=pytest.mark.thorough)])
def test_loaders_that_replace_leave_the_rows_of_one(warehouse: Warehouse, mode: Mode) -> None:
    """Four loads that replace what is there, at once and into a new table: they come one after the other."""

    def load(number: int) -> Any:
        ids = list(range(number * 10, number * 10 + 10))
        return warehouse.load(table_of(ids), "t", mode=mode, load_id=str(number), **ARGUMENTS[mode])

    reports = together(4, load)
    assert sorted(report.deleted for report in reports) == [0, 10, 10, 10]
    assert [report.inserted for report in reports] == [10] * 4
    left = [number for (number,) in rows(warehouse, columns="id")]
    assert len(left) == 10
    assert len({number // 10 for number in left}) == 1


def test_loaders_of_one_key_end_in_one_row(warehouse: Warehouse) -> None:
    """Upserts of the same keys at once leave each key once, with the values of one of them."""
    warehouse.load(table_of([]), "t", mode="upsert", key=["id"])
    together(6, lambda n: warehouse.load(table_of(list(range(500)), text=str(n)), "t", mode="upsert", key=["id"]))
    assert sorted(rows(warehouse, columns="id")) == [(n,) for n in range(500)]
    assert len({text for (text,) in rows(warehouse, columns="text")}) == 1


# A `with` block is a session


QUERY = "SELECT id FROM t ORDER BY id"
INSERT = "INSERT INTO t (id, day, text) VALUES (:id, 'mon', 'x')"


def has_sessions(warehouse: Warehouse) -> bool:
    """Whether a statement leaves something behind for the next one; on BigQuery each is a job of its own."""
    return type(warehouse).__name__ != "BigQuery"


def test_pages_follow_each_other(warehouse: Warehouse) -> None:
    """In a `with`, fetch_one and fetch_many of one statement go on; its end, fetch_all and reset_cursors begin anew."""
    warehouse.load(table_of([1, 2, 3, 4, 5]), "t")
    with warehouse:
        for _ in range(2):
            pages = []
            while page := warehouse.fetch_many(QUERY, size=2):
                pages.append(page)
                assert warehouse.fetch_one("SELECT 7") in ((7,), None)  # another statement has a place of its own
            assert pages == [[(1,), (2,)], [(3,), (4,)], [(5,)]]
        one = "SELECT id FROM t WHERE id > :low ORDER BY id"
        assert [warehouse.fetch_one(one, {"low": low}) for low in (2, 2, 3, 2, 2)] == [(3,), (4,), (4,), (5,), None]
        assert warehouse.fetch_one(QUERY) == (1,)
        assert warehouse.fetch_many(QUERY, size=2) == [(2,), (3,)]
        assert warehouse.fetch_all(QUERY) == [(n,) for n in range(1, 6)]
        assert warehouse.fetch_many(QUERY) == [(1,)]
        warehouse.reset_cursors()
        assert warehouse.fetch_one(QUERY) == (1,)
    with warehouse:
        assert warehouse.fetch_one(QUERY) == (1,)


def test_a_with_is_one_session(warehouse: Warehouse) -> None:
    """Transactions and temporary tables last from call to call, and others see what is committed."""
    warehouse.load(table_of([1]), "t")
    with warehouse:
        if not has_sessions(warehouse):
            for statement in ("BEGIN", "CREATE TEMP TABLE u (id INT64)", "BEGIN TRANSACTION"):
                with pytest.raises(UnsupportedError, match="as one script"):
                    warehouse.execute(statement)
            return
        warehouse.execute("BEGIN")
        warehouse.execute(INSERT, {"id": 2})
        assert count(warehouse) == 2
        assert warehouse.read_table("t").num_rows == 1  # on a connection of its own
        warehouse.execute("ROLLBACK")
        assert count(warehouse) == 1
        warehouse.execute("START TRANSACTION" if type(warehouse).__name__ == "MySQL" else "BEGIN TRANSACTION")
        warehouse.execute(INSERT, {"id": 2})
        warehouse.execute_many(INSERT, [{"id": 3}, {"id": 4}])
        assert warehouse.read_table("t").num_rows == 1
        warehouse.execute("COMMIT")
        assert warehouse.read_table("t").num_rows == 4
        warehouse.execute_many(INSERT, [{"id": 5}])
        assert warehouse.read_table("t").num_rows == 5
        warehouse.execute("CREATE TEMPORARY TABLE mine AS SELECT 7 AS id")
        assert warehouse.fetch_all("SELECT id FROM mine") == [(7,)]
    with pytest.raises(NotFoundError):
        warehouse.fetch_all("SELECT id FROM mine")


def test_a_with_in_a_flow_is_one_session(warehouse: Warehouse) -> None:
    """There each call is a task run."""
    warehouse.load(table_of([1, 2]), "t")

    @flow
    def pages() -> list[Any]:
        with warehouse:
            return [warehouse.fetch_one(QUERY), warehouse.fetch_many(QUERY, size=2), warehouse.fetch_one(QUERY)]

    assert pages() == [(1,), [(2,)], None]


def test_what_was_not_committed_is_undone(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    """A `with` that is left with an open transaction says so; one that is left by an error is undone as well."""
    warehouse.load(table_of([1]), "t")
    if not has_sessions(warehouse):
        return
    with warehouse:
        warehouse.execute("BEGIN")
        warehouse.execute(INSERT, {"id": 2})
    assert "left with an open transaction" in caplog.text
    assert count(warehouse) == 1
    caplog.clear()

    def break_off() -> None:
        with warehouse:
            warehouse.execute("BEGIN")
            warehouse.execute(INSERT, {"id": 2})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert count(warehouse) == 1
    with warehouse:
        warehouse.execute("BEGIN")
        warehouse.execute(INSERT, {"id": 2})
        warehouse.execute("COMMIT")
    assert count(warehouse) == 2
    assert "transaction" not in caplog.text


def test_a_load_in_a_with_is_apart(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    """It has a transaction of its own, and says so."""
    with warehouse:
        warehouse.load(table_of([1]), "t")
        assert "a transaction of its own, apart from the `with` block." in caplog.text
        if has_sessions(warehouse):
            warehouse.execute("BEGIN")
            assert count(warehouse) == 1
            warehouse.load(table_of([2]), "u")
            warehouse.execute("ROLLBACK")
            assert "COMMIT first" in caplog.text
            assert count(warehouse, "u") == 1


def test_a_session_belongs_to_who_opened_it(warehouse: Warehouse) -> None:
    """Other threads, what is submitted, pickles and a second `with` are refused; a copy has a session of its own."""
    with warehouse:
        assert warehouse.fetch_one("SELECT 1") == (1,)
        with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidInputError, match="another thread"):
            pool.submit(warehouse.fetch_one, "SELECT 1").result()
        with pytest.raises(InvalidInputError, match="would run in another thread"):
            warehouse.fetch_one.submit("SELECT 1")
        with pytest.raises(InvalidInputError, match="would run in another thread"):
            warehouse.fetch_one.map(["SELECT 1"])
        with pytest.raises(InvalidInputError, match="is in a `with` already"), warehouse:
            pass
        for module in (pickle, cloudpickle):
            with pytest.raises(InvalidInputError, match="cannot be pickled in a `with`"):
                module.dumps(warehouse)
        with warehouse.model_copy() as copy:
            assert copy.fetch_one("SELECT 1") == (1,)
    assert pickle.dumps(warehouse)


async def test_a_session_belongs_to_its_task(warehouse: Warehouse) -> None:
    """In an event loop the awaited calls of the task that opened it are the session's; those of others are refused."""
    warehouse.load(table_of([1, 2]), "t")
    async with warehouse:
        assert await warehouse.fetch_one.aio(QUERY) == (1,)
        assert await warehouse.fetch_one_async(QUERY) == (2,)
        with pytest.raises(InvalidInputError, match="asyncio task"):
            await asyncio.create_task(warehouse.fetch_one_async(QUERY))


@pytest.mark.parametrize(
    "statement",
    ["BEGIN", "start transaction;", "SET a = 1", "CREATE TEMP TABLE u (id INTEGER)", "USE x -- now", "BEGIN; SELECT 1"],
)
def test_what_only_a_session_keeps_is_refused_elsewhere(warehouse: Warehouse, statement: str) -> None:
    """Outside of a `with` it would have no effect; the message has the line to write."""
    for call in (warehouse.execute, warehouse.fetch_all, warehouse.fetch_one):
        with pytest.raises(InvalidInputError, match=r"has no effect outside of a `with`.*with warehouse: ware"):
            call(statement)
    with pytest.raises(InvalidInputError, match=r"in a `with` block only: `with warehouse: warehouse\.fetch_many"):
        warehouse.fetch_many("SELECT 1")


# The block


def test_a_block_goes_to_another_process(warehouse: Warehouse) -> None:
    """A block pickles also while it is in use, and what comes out is the same block."""
    warehouse.fetch_one("SELECT 1")
    for module in (pickle, cloudpickle):
        copy = module.loads(module.dumps(warehouse))
        assert copy == warehouse
        assert copy.fetch_one("SELECT 1") == (1,)
        copy.close()


def test_a_block_can_be_closed_and_used_again(warehouse: Warehouse) -> None:
    """Closing drops connections; the next call opens them again. Contexts of both kinds work."""
    with warehouse as same:
        assert same.fetch_one("SELECT 1") == (1,)
    assert warehouse.fetch_one("SELECT 1") == (1,)


async def test_a_block_can_be_awaited(warehouse: Warehouse) -> None:
    """Every operation has an awaitable form."""
    async with warehouse as same:
        report = await same.load.aio(table_of([1]), "t")
        assert report.rows == 1
        assert await same.fetch_all.aio("SELECT id FROM t") == [(1,)]


def test_load_on_the_class_is_prefects(warehouse: Warehouse) -> None:
    """`Block.load(name)` finds a saved block; `block.load(data, table)` loads data."""
    kind = type(warehouse)
    assert kind.load.__func__ is Block.load.__func__
    assert warehouse.load.name == f"{kind.__name__}.load"
    assert "report" in str(warehouse.load.__signature__).lower()


def test_a_check_proves_that_it_works(warehouse: Warehouse) -> None:
    """One sentence says what answered."""
    assert warehouse.uri() in warehouse.check()


def test_a_scan_of_a_warehouse_is_described_without_reading(warehouse: Warehouse) -> None:
    """Making a scan opens nothing; what a live database answers is not provably the same twice."""
    scan = warehouse.scan("nowhere")
    assert scan.reopenable
    assert not scan.provable
    assert scan.fingerprint() == as_scan(warehouse.scan("nowhere")).fingerprint()
    assert scan.fingerprint() != warehouse.scan("elsewhere").fingerprint()
