"""Rows as Python holds them: a stream is staged in bounded memory, and no value changes on its way into Arrow."""

from __future__ import annotations

import datetime as dt
import enum
import gc
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from blocks import InvalidInputError
from blocks.arrow import rows as rows_module
from blocks.arrow.scan import as_scan
from blocks.arrow.types import plain_type
from connectors.duckdb import DuckDB
from connectors.local import MemoryFiles
from tests import containers

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "c4n4ry"
UTC = dt.UTC
VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=3), st.binary(max_size=3),
    st.dates(), st.datetimes(), st.datetimes(timezones=st.just(UTC)), st.times(), st.timedeltas(),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9),
)  # fmt: skip
CELLS = st.one_of(VALUES, st.lists(VALUES, max_size=2), st.dictionaries(st.sampled_from("pq"), VALUES, max_size=2))


def same(value: object, other: object) -> bool:
    """Whether a value is the same one, however it is held."""
    if isinstance(value, float) and value != value:  # noqa: PLR0124 (NaN)
        return other != other  # noqa: PLR0124
    if isinstance(value, dict) and isinstance(other, dict):
        return all(same(value.get(key), each) for key, each in other.items()) and value.keys() <= other.keys()
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(same, value, other))
    return value == other and all(isinstance(value, kind) == isinstance(other, kind) for kind in (bool, str))


@settings(deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=4), st.booleans())
def test_a_value_of_python_is_the_same_or_is_refused(values, staged):
    """Whatever is mixed in a column: every value equals what was given, or the column is named, and no value is."""
    rows, message = [{"x": value} for value in values], "Column 'x"
    try:
        found = as_scan(iter(rows) if staged else rows).to_arrow()["x"].to_pylist()
    except InvalidInputError as error:
        found, message = values, str(error)
    assert "Column 'x" in message
    assert "\n" not in message
    assert all(map(same, values, found)), found


class Color(enum.Enum):
    """Objects, not values."""

    RED = "red"


class Level(enum.IntEnum):
    """Values."""

    HIGH = 3


MIXED = {
    "a time of day would go": [dt.date(2026, 4, 30), dt.datetime(2026, 4, 30, 5, tzinfo=UTC)],
    "text would be bytes": ["a", b"a"],
    "a zone would go": [dt.datetime(2026, 4, 30), dt.datetime(2026, 4, 30, tzinfo=UTC)],  # noqa: DTZ001
    "a zone of a time": [dt.time(5, tzinfo=UTC)],
    "in lists": [[dt.date(2026, 4, 30)], [dt.datetime(2026, 4, 30, 5, tzinfo=UTC)]],
    "in dictionaries": [{"at": "a"}, {"at": b"a"}],
    "an enum": [Color.RED],
    "half of a surrogate pair": ["fine", "\ud800" + CANARY],
    "more than 64 bits": [1, 2**64],
    "a Decimal that is not finite": [Decimal("Infinity")],
    "a complex number": [1j],
    "keys that are no text": [{1: 2}],
    "an object": [object()],
}


@pytest.mark.parametrize("frame", [False, True], ids=["rows", "pandas"])
@pytest.mark.parametrize("kind", MIXED)
def test_what_would_be_changed_is_refused(kind, frame):
    """In rows, and in pandas' columns of objects, which Arrow would convert without a word."""
    values = MIXED[kind]
    data = pd.DataFrame({"x": pd.Series(values, dtype=object)}) if frame else [{"x": value} for value in values]
    with pytest.raises(InvalidInputError, match=r"^Column 'x") as refused:
        as_scan(data)
    assert CANARY not in str(refused.value)


def test_an_enum_that_is_a_value_is_one():
    """IntEnum and StrEnum are integers and text."""
    assert as_scan([{"x": Level.HIGH}]).to_arrow()["x"].to_pylist() == [3]


def test_nanoseconds_of_pandas_are_kept():
    """Arrow alone makes microseconds of a Timestamp or a Timedelta within rows."""
    row = {"at": pd.Timestamp(1), "within": [{"took": pd.Timedelta(3)}]}
    table = as_scan([row]).to_arrow()
    assert table["at"].cast(pa.int64()).to_pylist() == [1]
    assert table["within"].combine_chunks().flatten().field(0).cast(pa.int64()).to_pylist() == [3]


@pytest.mark.parametrize("kind", containers.CONTAINERS)
def test_containers_of_rows(kind):
    """Each of them is the same rows."""
    assert as_scan(containers.CONTAINERS[kind]()).to_arrow().to_pylist() == containers.ROWS


@pytest.mark.parametrize("kind", containers.COLUMNS)
def test_a_column_with_a_name_is_a_table(kind):
    """A Series is what to_frame makes of it."""
    assert as_scan(containers.COLUMNS[kind]()).to_arrow().to_pylist() == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize("kind", containers.REFUSED)
def test_what_is_refused_says_what_to_pass(kind):
    """In one line."""
    make, words = containers.REFUSED[kind]
    with pytest.raises(InvalidInputError, match=words) as refused:
        as_scan(make()).to_arrow()
    assert "\n" not in str(refused.value)


def test_models_within_models():
    """A model, a dataclass or a list of them within a row is nested data."""

    class Order(BaseModel):
        id: int
        points: list[containers.Model]

    order = Order(id=1, points=[containers.Model(**containers.ROWS[0])])
    assert as_scan([order]).to_arrow().to_pylist() == [{"id": 1, "points": [containers.ROWS[0]]}]
    named = containers.Named(id=containers.Point(1, "x"), name=None)
    assert as_scan([named]).to_arrow().to_pylist() == [{"id": {"id": 1, "name": "x"}, "name": None}]


def numbered(count: int, text: str = "") -> Iterator[dict[str, object]]:
    """So many rows; the last one has a key more, and a float where the others have integers."""
    for number in range(count - 1):
        yield {"id": number, "text": text, "x": number}
    yield {"id": count - 1, "text": text, "x": 0.5, "last": True}


def test_a_stream_has_the_columns_of_all_its_rows(monkeypatch):
    """In types that hold every value, though its rows are looked at some at a time."""
    monkeypatch.setattr(rows_module, "FIRST_ROWS", 10)
    table = as_scan(numbered(35)).to_arrow()
    assert table.equals(as_scan(list(numbered(35))).to_arrow())
    with pytest.raises(InvalidInputError, match="'x' has no one type: its values are int64 in the first rows"):
        as_scan({"x": number if number < 10 else "x"} for number in range(20)).to_arrow()
    with pytest.raises(InvalidInputError, match=r"'x' has no one type: row 11 of the data .* row 16 one of type str"):
        as_scan({"x": number if number < 15 else "x"} for number in range(20)).to_arrow()


def test_a_stream_is_staged_in_bounded_memory():
    """200 MB of rows take a few of it; reading them again gives the same."""
    gc.collect()
    tracemalloc.start()
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    scan = as_scan(numbered(200_000, "x" * 1_000))
    most = max(pool.bytes_allocated() - before + tracemalloc.get_traced_memory()[0] for _ in scan.batches())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(most, peak) < 100 * 2**20
    assert sum(batch.num_rows for batch in scan.batches()) == 200_000


def test_a_stream_given_twice_is_the_same_rows():
    """As by a task that is retried; the rows were staged, and none is lost. A file of them goes with the last scan."""
    stream = numbered(5)
    first = as_scan(stream)
    assert first.to_arrow().num_rows == 5
    assert as_scan(stream).to_arrow().equals(first.to_arrow())
    assert as_scan(stream).fingerprint() == as_scan(numbered(5)).fingerprint() != as_scan(numbered(6)).fingerprint()
    folder = rows_module.Staged.of(stream, "the data")._folder.path
    assert folder.is_dir()
    del stream, first
    gc.collect()
    assert not Path(folder).exists()


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: map(dict, rows)], ids=["generator", "map"])
def test_a_stream_that_broke_off_is_not_taken_for_the_rest(wrap):
    """Its error is the caller's own; a second attempt with what is left of it is refused."""

    def broken() -> Iterator[dict[str, int]]:
        for number in range(3):
            if number == 1:
                raise TimeoutError("not now")
            yield {"id": number}

    stream = wrap(broken())
    with pytest.raises(TimeoutError, match="not now"):
        as_scan(stream).to_arrow()
    with pytest.raises(InvalidInputError, match="of which an earlier attempt has read a part"):
        as_scan(stream).to_arrow()


def test_streams_are_loaded_and_written():
    """By a warehouse and by a store, which read the columns first and the rows after."""
    warehouse = DuckDB(path=":memory:")
    assert warehouse.load(numbered(10), "t", mode="upsert", key=["id"]).rows == 10
    assert warehouse.read_table("t").sort_by("id").equals(as_scan(list(numbered(10))).to_arrow())
    files = MemoryFiles()
    files.write_table(numbered(10), "t")
    assert files.read_table("t").num_rows == 10


@pytest.mark.parametrize("dtype", ["period[M]", "interval", "category of period", "Sparse", "category of interval"])
def test_columns_of_pandas_that_arrow_lacks(dtype):
    """Periods are text, intervals structs of their ends, and of which of them count; sparse columns are dense."""
    periods = pd.Series(pd.period_range("2026-04", periods=2, freq="M"))
    intervals = pd.Series(pd.interval_range(0, 2))
    columns = {
        "period[M]": (periods, ["2026-04", "2026-05"]),
        "category of period": (periods.astype("category"), ["2026-04", "2026-05"]),
        "interval": (intervals, [{"left": n, "right": n + 1, "closed": "right"} for n in (0, 1)]),
        "category of interval": (
            pd.cut(pd.Series([1, None]), [0, 2]),
            [{"left": 0, "right": 2, "closed": "right"}, None],
        ),
        "Sparse": (pd.Series(pd.arrays.SparseArray([0, np.nan])), [0.0, None]),
    }
    series, expected = columns[dtype]
    assert as_scan(pd.DataFrame({"x": series})).to_arrow()["x"].to_pylist() == expected


def test_decimals_of_python_have_room():
    """Those of the next day may have more digits, before the point and behind it."""
    kind = as_scan([{"x": Decimal("1.5")}]).schema.field("x").type
    assert plain_type(kind) == pa.decimal128(38, 9)
    assert as_scan([{"x": Decimal(10) ** 35}]).schema.field("x").type == pa.decimal128(38, 0)
    assert as_scan([{"x": Decimal("1e-12")}]).schema.field("x").type == pa.decimal128(38, 12)
