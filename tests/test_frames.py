"""Frames and rows of other libraries: what they hold arrives under its name, or is refused by it."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks import InvalidInputError
from blocks.arrow.scan import as_scan

CANARY = "c4n4ry"


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)), min_size=1))
def test_rows_keep_every_key(rows):
    """A key of any row is a column, in the order in which keys first come, and null where a row lacks it."""
    table = as_scan(rows).to_arrow()
    names = list(dict.fromkeys(key for row in rows for key in row))
    assert table.schema.names == names
    if names:
        assert table.to_pylist() == [{name: row.get(name) for name in names} for row in rows]


def test_a_named_index_is_kept():
    """As to_sql does: the key of groupby().sum() is a column. An index without a name is left out."""
    sales = pd.DataFrame({"shop": ["a", "b", "a"], "day": [1, 1, 2], "amount": [1, 2, 3]})
    assert as_scan(sales.groupby("shop").sum()).to_arrow()["shop"].to_pylist() == ["a", "b"]
    assert as_scan(sales.groupby(["shop", "day"]).sum()).schema.names == ["shop", "day", "amount"]
    assert as_scan(sales[sales.amount > 1]).schema.names == ["shop", "day", "amount"]
    dates = pd.DataFrame({"x": [1]}, index=pd.DatetimeIndex([dt.datetime(2026, 4, 30, tzinfo=dt.UTC)], name="at"))
    assert as_scan(dates).schema.names == ["at", "x"]


class GeoFrame(pd.DataFrame):
    """What geopandas has, in short."""


def test_a_class_of_frames_is_a_frame():
    """A subclass of pandas' frame is taken as one, its named index too."""
    frame = GeoFrame({"x": [1]}, index=pd.Index(["a"], name="id"))
    assert as_scan(frame).to_arrow().to_pylist() == [{"id": "a", "x": 1}]


REFUSED = {
    "index that is a column too": (
        pd.DataFrame({"id": [1]}, index=pd.Index([7], name="id")),
        "'id' both as an index and as a column",
    ),
    "several names": (
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "x")])),
        r"several names each, such as \('a', 'x'\)",
    ),
    "no name": (pd.DataFrame([[1, 2]], columns=["a", None]), "Column 2 of the frame has no name"),
    "a name twice": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column 'a'"),
    "a name twice as text": (pd.DataFrame([[1, 2]], columns=[1, "1"]), "more than one column '1'"),
    "several types": (pd.DataFrame({"fine": [1, 2], "a": [1, CANARY]}), "Column 'a' has no one type"),
    "polars objects": (
        pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}),
        "Column 'o' of the frame holds Python objects",
    ),
    "rows of several types": ([{"a": 1}, {"a": CANARY}], "Column 'a' has no one type"),
    "rows with large integers": ([{"a": 1}, {"a": 2**70}], "Column 'a', row 2 of the data: .* larger than 64 bits"),
    "rows whose keys are no text": ([{1: 2}], "a key of type int"),
    "a pandas column without a name": (pd.Series([CANARY]), "The Series has no name"),
    "a polars column without a name": (pl.Series([CANARY]), "The Series has no name"),
    "an Arrow column": (pa.chunked_array([[CANARY]]), "ChunkedArray is not tabular data"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_form_as_a_table_is_refused_by_name(kind):
    """One line that names the column and what to do, and never a value."""
    data, message = REFUSED[kind]
    with pytest.raises(InvalidInputError, match=message) as refused:
        as_scan(data).to_arrow()
    assert CANARY not in str(refused.value)
    assert "\n" not in str(refused.value)
