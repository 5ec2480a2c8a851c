"""Values as SQL: parameters of statements, and the rows of an INSERT.

Our sessions have backslash escapes (no `NO_BACKSLASH_ESCAPES`), and send UTF-8.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


def literal(value: Any) -> str:  # noqa: C901, PLR0911 (one type a line)
    r"""Return a parameter as SQL, of just its type.

    >>> literal("it's a \\"), literal(0.1), literal(dt.datetime(2026, 4, 30, 12, tzinfo=dt.UTC))
    ("'it''s a \\\\'", '0.1e0', "TIMESTAMP'2026-04-30 12:00:00.000000'")

    Raises:
        InvalidInputError: MySQL has no such value.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (str, uuid.UUID)):
        return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"_binary X'{bytes(value).hex()}'"
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            raise InvalidInputError("MySQL has neither NaN nor infinity. Give null, or a number.")
        return f"{value:f}" if isinstance(value, Decimal) else _number(value)
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
        return f"TIMESTAMP'{utc.isoformat(' ', 'microseconds')}'"
    if isinstance(value, dt.date):
        return f"DATE'{value.isoformat()}'"
    if isinstance(value, dt.time):
        return f"TIME'{value.replace(tzinfo=None).isoformat('microseconds')}'"
    if isinstance(value, dt.timedelta):
        return f"TIME'{_time(value // dt.timedelta(microseconds=1))}'"
    if isinstance(value, (list, tuple, set, frozenset)) and value:
        return f"({', '.join(map(literal, value))})"
    try:
        return str(int(value.__index__()))  # NumPy's integers, too
    except AttributeError:
        raise InvalidInputError(
            f"MySQL takes no {type(value).__name__}{'' if value else ' that is empty'} for a parameter."
        ) from None


def _number(value: float) -> str:
    text = repr(value)
    return text if "e" in text else f"{text}e0"


def _time(microseconds: int) -> str:
    """Return so long a time as MySQL writes it.

    >>> _time(-90_000_000_001)
    '-25:00:00.000001'
    """
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    hours, seconds = divmod(seconds, 3_600)
    return f"{'-' if microseconds < 0 else ''}{hours:02}:{seconds // 60:02}:{seconds % 60:02}.{rest:06}"


def rows_of(batch: pa.RecordBatch) -> pa.Array:
    """Return each row as the bytes between the parentheses of VALUES (...)."""
    return pc.binary_join_element_wise(
        *map(_column, batch.columns),
        pa.scalar(b",", pa.large_binary()),
        null_handling="replace",
        null_replacement="NULL",
    )


def _column(values: pa.Array) -> pa.Array:
    """Return values as SQL, nulls as nulls. What is a number goes as text, which MySQL reads to the last digit."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind, types = values.type, pa.types
    if types.is_null(kind):
        return pa.nulls(len(values), pa.large_binary())
    if types.is_boolean(kind):
        return pc.if_else(values, "1", "0").cast(pa.large_binary())
    if types.is_integer(kind):
        return values.cast(pa.string()).cast(pa.large_binary())
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _quoted(values.cast(pa.large_binary()), b"_binary'")
    return _quoted(_text(values).cast(pa.large_binary()), b"'")


def _text(values: pa.Array) -> pa.Array:
    kind, types = values.type, pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        return values
    if types.is_timestamp(kind):
        return values.view(pa.timestamp(kind.unit)).cast(pa.string())
    if types.is_duration(kind):
        ticks = values.cast(pa.duration("us")).cast(pa.int64()).to_pylist()
        return pa.array([None if tick is None else _time(tick) for tick in ticks], pa.string())
    return values.cast(pa.string())


def _quoted(values: pa.Array, opening: bytes) -> pa.Array:
    for each in (b"\\", b"'"):
        values = pc.replace_substring(values, each, b"\\" + each)
    parts = [pa.scalar(part, pa.large_binary()) for part in (opening, b"'", b"")]
    return pc.binary_join_element_wise(parts[0], values, *parts[1:])
