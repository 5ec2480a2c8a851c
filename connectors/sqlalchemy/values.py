"""Values on their way into SQLite and back: text and numbers there, exact Arrow types here."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


def as_rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a batch in the values that SQLite keeps.

    Raises:
        InvalidInputError: There is a float that SQLite would change.
    """
    return zip(
        *(_plain(array, name) for name, array in zip(batch.schema.names, batch.columns, strict=True)), strict=True
    )


def _plain(array: pa.Array, name: str) -> list[Any]:
    kind = array.type
    if isinstance(kind, pa.UuidType):
        return [value and str(value) for value in array.to_pylist()]
    if isinstance(kind, pa.JsonType):
        array = array.storage
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_floating(kind) and pc.any(_is_changed(array)).as_py():
        raise InvalidInputError(
            f"Column {name} has a NaN or a negative zero, which SQLite would keep as null and as zero. Replace them, "
            "or make the column text."
        )
    elif pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        array = array.cast(pa.string())
    return list(array.to_pylist())


def _is_changed(floats: pa.Array) -> pa.Array:
    negative_zero = pc.and_(pc.equal(floats, 0.0), pc.less(pc.divide(1.0, floats), 0.0))
    return pc.or_kleene(pc.is_nan(floats), negative_zero)


def as_array(  # noqa: PLR0911 (one type a line)
    values: Sequence[Any], kind: pa.DataType | None, name: str
) -> pa.Array:
    """Return values of SQLite in an Arrow type; without one they decide.

    Raises:
        InvalidInputError: A value is not of that type. It is not in the message.
    """
    try:
        if kind is None:
            return _inferred(values)
        _check_types(values, kind)
        if isinstance(kind, pa.UuidType):
            return pa.array(
                [None if value is None else uuid.UUID(value).bytes for value in values], pa.binary(16)
            ).cast(kind)
        if isinstance(kind, pa.JsonType):
            return pa.array(values, pa.string()).cast(kind)
        if pa.types.is_boolean(kind):
            return pa.array([None if value is None else _boolean(value) for value in values], kind)
        if pa.types.is_floating(kind):
            return pa.array([value if value is None else _float(value) for value in values], kind)
        if not any(isinstance(value, str) for value in values):  # which pyarrow would take as bytes, too
            return pa.array(values, kind)
        if pa.types.is_time(kind):  # Arrow reads no text as one
            moments = pc.binary_join_element_wise("1970-01-01", pa.array(values, pa.string()), " ")
            return moments.cast(pa.timestamp(kind.unit)).cast(pa.int64()).cast(kind)
        if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
            return pa.array(values, pa.string()).cast(kind)
        return pa.array(values, kind)
    except (pa.ArrowException, ValueError, TypeError, AttributeError, OverflowError):
        what = "values of several types" if kind is None else f"a value that is not {kind}"
        raise InvalidInputError(f"Column {name} has {what}. Select CAST({name} AS TEXT), for example.") from None


def _check_types(values: Sequence[Any], kind: pa.DataType) -> None:
    """Refuse what pyarrow would make a value of the type of: 1.5 an integer, an integer a date."""
    types = pa.types
    allowed: tuple[type, ...]
    if types.is_integer(kind):
        allowed = (int,)
    elif types.is_binary(kind):
        allowed = (bytes,)
    elif types.is_decimal(kind):
        allowed = (str, Decimal)
    elif types.is_timestamp(kind):
        allowed = (str, dt.datetime)
    elif types.is_date(kind):
        allowed = (str, dt.date)
    elif types.is_time(kind):
        allowed = (str, dt.time)
    elif types.is_string(kind) or isinstance(kind, pa.JsonType):
        allowed = (str,)
    else:
        return
    if {type(value) for value in values if value is not None} - set(allowed):
        raise TypeError


def _boolean(value: Any) -> bool:
    if value not in (0, 1) or isinstance(value, str):
        raise ValueError
    return bool(value)


def _float(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else None
    if number is None or number != value:  # text, or an integer that no float is
        raise ValueError
    return number


def _inferred(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    if len(kinds) > 1:  # pyarrow would make texts bytes, and dates times
        raise TypeError
    return pa.array(values) if kinds else pa.nulls(len(values), pa.string())


def bound(name: str, value: Any) -> Any:
    """Return the value of a parameter as SQLite takes it, with times as a load writes them.

    >>> bound("at", dt.datetime(2026, 4, 30, 9, tzinfo=dt.UTC)), bound("day", dt.date(2026, 4, 30))
    ('2026-04-30 09:00:00.000000Z', '2026-04-30')

    Raises:
        InvalidInputError: SQLite would keep another value, or none.
    """
    if isinstance(value, float) and math.isnan(value):
        raise InvalidInputError(f"Parameter {name!r} is NaN, which SQLite would keep as null. Give None, or a text.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidInputError(f"Parameter {name!r} is beyond the 64 bits of SQLite's integers. Give a text.")
    if isinstance(value, dt.datetime):
        text = (value.astimezone(dt.UTC) if value.tzinfo else value).replace(tzinfo=None)
        return text.isoformat(" ", "microseconds") + ("Z" if value.tzinfo else "")
    if isinstance(value, dt.time):
        return value.isoformat("microseconds")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value) if isinstance(value, uuid.UUID) else value
