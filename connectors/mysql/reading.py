"""What a column of a result is in Arrow, and the text that the server printed as values of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from blocks.arrow.types import DAY
from blocks.base.errors import SchemaError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

# https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html
DECIMAL, TINY, SHORT, LONG, FLOAT, DOUBLE, NULL, TIMESTAMP, LONGLONG, INT24, DATE, TIME, DATETIME, YEAR = range(14)
BIT, JSON, NEWDECIMAL = 16, 245, 246
TEXTS = (15, 247, 248, 249, 250, 251, 252, 253, 254)
INTEGERS = {TINY: 8, SHORT: 16, LONG: 32, INT24: 32, LONGLONG: 64}
UNSIGNED = 32
BINARY = 63
"""The character set of bytes."""

MOST_DIGITS = 76
"""Of a decimal of Arrow's; MySQL's have 65."""
SPAN = re.compile(rb"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?")


def arrow_type(field: Any, known: pa.DataType | None = None) -> pa.DataType:
    """Return the Arrow type of a column of a result.

    Args:
        field: How PyMySQL describes it.
        known: The Arrow type of the column of a table that it is.
    """
    code = field.type_code
    if known is not None and code in MAY_BE and known in MAY_BE[code]():
        return known
    if code in INTEGERS:
        sign = "u" if field.flags & UNSIGNED else ""
        return pa.type_for_alias(f"{sign}int{INTEGERS[code]}")
    if code in (DECIMAL, NEWDECIMAL):
        signs = (1 if field.scale else 0) + (0 if field.flags & UNSIGNED else 1)
        digits = min(max(field.length - signs, field.scale, 1), MOST_DIGITS)
        return (pa.decimal128 if digits <= 38 else pa.decimal256)(digits, field.scale)  # noqa: PLR2004 (Arrow's)
    if code == BIT:
        return pa.bool_() if field.length == 1 else pa.uint64()
    if code in TEXTS:
        return pa.binary() if field.charsetnr == BINARY else pa.string()
    others = {
        FLOAT: pa.float32(),
        DOUBLE: pa.float64(),
        NULL: pa.string(),
        TIMESTAMP: pa.timestamp("us", "UTC"),
        DATE: pa.date32(),
        TIME: pa.duration("us"),
        DATETIME: pa.timestamp("us"),
        YEAR: pa.uint16(),
        JSON: pa.json_(),
    }
    return others.get(code, pa.binary())


MAY_BE = {
    TINY: lambda: (pa.bool_(),),
    TIME: lambda: (pa.time64("us"),),
    DATETIME: lambda: (pa.timestamp("us", "UTC"),),
    252: lambda: (pa.json_(),),
}
"""What a column may be besides, which only its table says: by a comment, or in MariaDB by a CHECK that it is JSON."""


def to_array(values: Sequence[bytes | None], field: Any, name: str, kind: pa.DataType) -> pa.Array:
    """Return what the server printed as values of a type.

    Raises:
        SchemaError: A value is none of the type, such as the date 0000-00-00.
    """
    try:
        return _to_array(values, field, kind)
    except pa.ArrowException:  # its words hold the value
        raise SchemaError(
            f"Column {name!r} holds a value that is not a {kind}, such as 0000-00-00 or a time of day beyond 24 "
            "hours. Cast it in the query, to CHAR or by NULLIF(...) for example."
        ) from None


def _to_array(values: Sequence[bytes | None], field: Any, kind: pa.DataType) -> pa.Array:  # noqa: PLR0911 (one type a line)
    types = pa.types
    if field.type_code == BIT:
        numbers = [None if value is None else int.from_bytes(value, "big") for value in values]
        return pa.array(numbers, pa.uint64()).cast(kind)
    if types.is_binary(kind):
        return pa.array(values, kind)
    if types.is_duration(kind) or types.is_time(kind):
        ticks = [None if value is None else _ticks(value) for value in values]
        if types.is_time(kind) and not all(tick is None or 0 <= tick < DAY["us"] for tick in ticks):
            raise pa.ArrowInvalid("not a time of day")
        return pa.array(ticks, pa.int64()).view(kind)
    texts = pa.array(values, pa.binary()).cast(pa.string())
    if isinstance(kind, pa.JsonType):
        return pa.ExtensionArray.from_storage(kind, texts.cast(kind.storage_type))
    if types.is_float32(kind):  # printed as the double that it is
        return texts.cast(pa.float64()).cast(kind)
    if types.is_timestamp(kind):
        return texts.cast(pa.timestamp(kind.unit)).view(kind)
    if types.is_boolean(kind):
        numbers = texts.cast(pa.int8())
        if not pc.all(pc.is_in(numbers, pa.array([0, 1, None], pa.int8())), min_count=0).as_py():
            raise pa.ArrowInvalid("not a truth value")
        return numbers.cast(kind)
    return texts.cast(kind)


def _ticks(text: bytes) -> int:
    """Return the microseconds of a TIME.

    >>> _ticks(b"-25:00:00.5")
    -90000500000
    """
    found = SPAN.fullmatch(text)
    if found is None:
        raise pa.ArrowInvalid("not a time")
    sign, hours, minutes, seconds, fraction = found.groups()
    whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    ticks = whole * 1_000_000 + int((fraction or b"").ljust(6, b"0"))
    return -ticks if sign else ticks


def exact_query(sql: str, fields: Sequence[Any], names: Sequence[str]) -> str:
    """Return the query with its FLOAT columns as doubles, whose printed text holds every digit.

    Args:
        sql: The query; the order of its rows is lost.
        fields: Its columns.
        names: Their names, quoted.
    """
    values = ", ".join(
        f"q.{name} + 0e0 AS {name}" if field.type_code == FLOAT else f"q.{name}"
        for field, name in zip(fields, names, strict=True)
    )
    return f"SELECT {values} FROM ({sql}\n) AS q"
