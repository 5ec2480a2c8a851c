"""What a type would lose as another, and casts that lose nothing else."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from blocks.arrow.casts import cast_array, cast_batch
from blocks.arrow.types import plain_type, type_loss
from blocks.base.errors import SchemaError

SIMPLE = [
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.string(),
    pa.binary(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ms"),
    pa.time64("us"),
    pa.duration("us"),
    pa.month_day_nano_interval(),
    pa.json_(),
    pa.uuid(),
]
numeric = st.one_of(
    st.sampled_from(SIMPLE[:10]),
    st.integers(1, 38).flatmap(lambda p: st.integers(0, p).map(lambda s: pa.decimal128(p, s))),
)


def edges(kind: pa.DataType) -> list:
    """The values of a number type that are the first to be lost."""
    if pa.types.is_decimal(kind):
        digits = (9,) * kind.precision
        return [Decimal((sign, digits, -kind.scale)) for sign in (0, 1)] + [Decimal((0, (1,), -kind.scale))]
    if pa.types.is_floating(kind):
        return [0.5, 16777216.0, 2.0**100]
    signed = pa.types.is_signed_integer(kind)
    bits = kind.bit_width - signed
    return [2**bits - 1, -(2**bits) if signed else 0, 2 ** (bits - 1) + 1]


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(numeric, numeric)
def test_no_loss_means_no_loss(source, target):
    """Where no loss is said, the edges of the one type come back from the other."""
    assume(type_loss(source, target) is None)
    values = pa.array(edges(source), source)
    there = cast_array(values, target)
    assert [Decimal(value) for value in there.to_pylist()] == [Decimal(value) for value in values.to_pylist()]


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(numeric, numeric)
@example(pa.int8(), pa.decimal128(38, 37))
def test_a_loss_is_real(source, target):
    """Where a loss is said, some edge of the one type does not come back from the other, or exactness is at stake."""
    words = type_loss(source, target)
    assume(words is not None)
    if "exactness" in words or "digits of floats" in words:
        return
    values = pa.array(edges(source), source)
    try:
        there = [Decimal(value) for value in cast_array(values, target).to_pylist()]
    except pa.ArrowException:
        return
    assert there != [Decimal(value) for value in values.to_pylist()]


@pytest.mark.parametrize("kind", SIMPLE, ids=str)
def test_a_type_loses_nothing_to_itself(kind):
    """In whatever layout it comes."""
    assert type_loss(kind, kind) is None
    assert type_loss(pa.null(), kind) is None
    assert type_loss(pa.list_(kind), pa.large_list(kind)) is None
    assert plain_type(plain_type(kind)) == plain_type(kind)


@pytest.mark.parametrize(
    ("layout", "plain"),
    [
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.run_end_encoded(pa.int32(), pa.int64()), pa.int64()),
        (pa.large_binary(), pa.binary()),
        (pa.binary(7), pa.binary()),
        (pa.list_(pa.large_string(), 2), pa.list_(pa.string())),
        (pa.list_view(pa.int8()), pa.list_(pa.int8())),
        (pa.timestamp("us", "Europe/Rome"), pa.timestamp("us", "UTC")),
        (pa.date64(), pa.date32()),
        (pa.decimal256(38, 2), pa.decimal128(38, 2)),
        (pa.decimal32(9, 2), pa.decimal128(9, 2)),
    ],
    ids=str,
)
def test_layouts_mean_nothing(layout, plain):
    """Large, view, dictionary and fixed-size variants are the plain type."""
    assert plain_type(layout) == plain
    assert type_loss(layout, plain) is None


@pytest.mark.parametrize("source", SIMPLE, ids=str)
def test_kinds_are_not_mixed(source):
    """Text is no number, a moment is no text, a truth value is no number: that is a loss also where a cast exists."""
    families = [pa.types.is_boolean, pa.types.is_binary, pa.types.is_date, pa.types.is_timestamp, pa.types.is_time]
    for target in SIMPLE:
        mixed = {str(source), str(target)}
        if any(test(source) != test(target) for test in families) and not (
            pa.types.is_date(source) and pa.types.is_timestamp(target)
        ):
            assert type_loss(source, target) is not None, mixed


def test_text_becomes_json_and_uuid_and_back():
    """Values keep their meaning; text that is no UUID is an error without that text."""
    text = pa.array(["00112233-4455-6677-8899-aabbccddeeff", None])
    ids = cast_array(text, pa.uuid())
    assert ids.to_pylist() == [uuid.UUID(text[0].as_py()), None]
    assert cast_array(ids, pa.string()) == text
    assert cast_array(cast_array(text, pa.json_()), pa.string()) == text
    batch = pa.record_batch({"x": ["c4n4ry"]})
    with pytest.raises(SchemaError, match="Column 'x'") as caught:
        cast_batch(batch, pa.schema({"x": pa.uuid()}))
    assert "c4n4ry" not in str(caught.value)


def test_durations_become_intervals():
    """To the microsecond, and not where there is no room."""
    micros = pa.array([0, -1, 86_400_000_000, None], pa.int64()).view(pa.duration("us"))
    intervals = cast_array(micros, pa.month_day_nano_interval())
    assert [None if each is None else each.nanoseconds for each in intervals.to_pylist()] == [
        0,
        -1_000,
        86_400_000_000_000,
        None,
    ]
    with pytest.raises(pa.ArrowException):
        cast_array(pa.array([2**62]).view(pa.duration("us")), pa.month_day_nano_interval())


def test_a_batch_takes_the_order_of_the_schema():
    """Columns meet by name, and what the schema lacks is left out."""
    batch = pa.record_batch({"a": [1], "b": ["x"], "c": [dt.date(2026, 4, 30)]})
    schema = pa.schema({"c": pa.timestamp("us"), "a": pa.int64()})
    assert cast_batch(batch, schema).schema == schema


def test_only_named_columns_lose():
    """A column that is not named keeps its value, or is an error."""
    batch = pa.record_batch({"a": [1.5], "b": [1.5]})
    schema = pa.schema({"a": pa.int64(), "b": pa.int64()})
    with pytest.raises(SchemaError, match="Column 'b'"):
        cast_batch(batch, schema, lossy=["a"])
    assert cast_batch(batch, schema, lossy=["a", "b"]).to_pylist() == [{"a": 2, "b": 2}]


def test_an_allowed_loss_keeps_dates_in_range():
    """A date that nanoseconds cannot hold is an error, not another date."""
    batch = pa.record_batch({"at": pa.array([dt.datetime(9999, 1, 1)], pa.timestamp("us"))})  # noqa: DTZ001
    with pytest.raises(SchemaError, match="Column 'at'"):
        cast_batch(batch, pa.schema({"at": pa.timestamp("ns")}), lossy=["at"])
