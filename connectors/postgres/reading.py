"""What ADBC reads, made exact: the casts that a query needs for it, and the types and values that come of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blocks.arrow.types import check_in_range, unit_of
from blocks.base import errors
from blocks.base.optional import lazy
from connectors.shared.libpq.dialect import UNCONSTRAINED

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = lazy("pyarrow")

MOST_DIGITS = 76
"""The digits of Arrow's largest decimal."""
FIRST_DAY = -2_440_588
"""PostgreSQL's first day (24 November 4714 BC), in days since 1970."""


READ_AS = {"money": "numeric", "oid": "bigint", "regproc": "text"}
"""What ADBC would hand out as numbers of another meaning: cents, and identifiers as negative numbers."""

HOURS = 2**63 // 3_600_000_000_000
"""The most hours of an interval that Arrow holds, whose time is nanoseconds in 64 bits."""


def readable(field: pa.Field) -> str | None:
    """Return the type to which a column is cast where ADBC cannot read its own exactly; None where it can."""
    name = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if (cast := READ_AS.get(name.removeprefix("_"))) is not None:
        return f"{cast}[]" if name.startswith("_") else cast
    inner = field.type.value_type if pa.types.is_list(field.type) else field.type
    if isinstance(inner, pa.OpaqueType) and inner.type_name != "numeric":
        return "text[]" if pa.types.is_list(field.type) else "text"
    return "text" if pa.types.is_struct(inner) else None


def unknown_types(schema: pa.Schema) -> set[str]:
    """Return the types that the driver has not heard of; it reads them all when it connects for the first time."""
    names = {field.type.type_name for field in schema if isinstance(field.type, pa.OpaqueType)}
    return {name for name in names if name.startswith("unnamed")}


def unfit(field: pa.Field, value: str) -> str | None:
    """Return the condition of values that Arrow has no place for and ADBC flattens or stops at; None where none is.

    Args:
        field: A column as ADBC describes it.
        value: The column in SQL.
    """
    interval = "NOT isfinite({0}) OR abs(extract(hour FROM {0})) >= " + str(HOURS)
    if pa.types.is_interval(field.type):
        return interval.format(value)
    name = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if not pa.types.is_list(field.type) or name == "int2vector":
        return None
    condition = f"array_ndims({value}) > 1"
    if pa.types.is_interval(field.type.value_type):
        condition += f" OR EXISTS (SELECT FROM unnest({value}) AS u WHERE {interval.format('u')})"
    return condition


def check_fit(flags: pa.Array, field: pa.Field) -> None:
    """Refuse a column of which a value is `unfit`.

    Raises:
        SchemaError: One is.
    """
    if not flags.true_count:
        return
    what = "an interval that is infinite or longer than 292 years"
    if pa.types.is_list(field.type):
        what = "an array of more than one dimension"
        if pa.types.is_interval(field.type.value_type):
            what += ", or of an interval that is infinite or longer than 292 years"
    raise errors.SchemaError(f"Column {field.name!r} holds {what}. Cast it in the query, to text or to_jsonb(...).")


def is_numeric(kind: pa.DataType) -> bool:
    """Tell whether it is what ADBC hands out for NUMERIC, or a list of it."""
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return isinstance(inner, pa.OpaqueType) and inner.type_name == "numeric"


def as_text(field: pa.Field) -> str | None:
    """What the server makes of a NUMERIC; it is faster at writing text than ADBC is (1.8 s against 2.6 s in all)."""
    return ("text[]" if pa.types.is_list(field.type) else "text") if is_numeric(field.type) else None


def exact_type(field: pa.Field) -> pa.DataType:
    """Return the Arrow type of a column that ADBC reads: NUMERIC, which it hands out as text, becomes a decimal."""
    if isinstance(field.type, pa.OpaqueType):
        modifier = int((field.metadata or {}).get(b"POSTGRESQL:typmod", b"-1")) - 4
        precision, scale = UNCONSTRAINED
        if modifier >= 0:
            precision, scale = modifier >> 16, (modifier & 0x7FF ^ 1024) - 1024
        # PostgreSQL has up to 1,000 digits and Arrow 76; a value of more is an error.
        precision, scale = min(precision, MOST_DIGITS), max(-MOST_DIGITS, min(scale, MOST_DIGITS))
        return (pa.decimal128 if precision <= UNCONSTRAINED[0] else pa.decimal256)(precision, scale)
    if pa.types.is_list(field.type):
        return pa.list_(exact_type(field.type.value_field))
    return field.type


def kept_type(declared: str, kind: pa.DataType) -> pa.DataType | None:
    """Return what a column keeps of its Arrow type by its declaration, where PostgreSQL rounds the rest unseen.

    >>> kept_type("timestamp(3) without time zone", pa.timestamp("us")), kept_type("numeric(5,2)", pa.decimal128(5, 2))
    (TimestampType(timestamp[ms]), None)
    """
    if pa.types.is_list(kind):
        within = kept_type(declared.removesuffix("[]"), kind.value_type)
        return None if within is None else pa.list_(within)
    if (digits := re.fullmatch(r"numeric\((\d+),(-?\d+)\)", declared)) and pa.types.is_decimal128(kind):
        kept = pa.decimal128(min(int(digits[1]), kind.precision), int(digits[2]))
        return None if kept == kind else kept
    if not (seconds := re.match(r"(?:timestamp|time|interval)\D*\((\d)\)", declared)):
        return None
    unit = unit_of(int(seconds[1]))
    if unit is None:
        return None
    if pa.types.is_timestamp(kind):
        return pa.timestamp(unit, kind.tz)
    return pa.time32(unit) if pa.types.is_time(kind) else pa.duration(unit)


def exact_batch(arrays: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """Return the columns that ADBC read, as a batch with the types of the schema."""
    return pa.RecordBatch.from_arrays(
        [_exact_array(array, field) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )


def _exact_array(array: pa.Array, field: pa.Field) -> pa.Array:
    if pa.types.is_list(array.type):
        values = _exact_array(array.values, field.with_type(field.type.value_type))
        return pa.ListArray.from_arrays(array.offsets, values, type=field.type, mask=array.is_null())
    if not pa.types.is_decimal(field.type):
        check_in_range(array, field.name, bounds)
        return array.cast(field.type)
    try:
        return (array.storage if isinstance(array.type, pa.OpaqueType) else array).cast(field.type)
    except pa.ArrowException:  # its words hold the value
        raise errors.SchemaError(
            f"Column {field.name!r} is a numeric with a value that is not a {field.type} (NaN, or more digits). "
            "Cast it in the query, to numeric(precision, scale) or to text."
        ) from None


def bounds(kind: pa.DataType) -> tuple[int, int]:
    """Return the first and the last tick of a type that ADBC reads right.

    It adds the days from 1970 to 2000 to infinity, and the sum turns over.
    """
    last: int = 2 ** (kind.bit_width - 1) - 1
    return (FIRST_DAY if pa.types.is_date32(kind) else FIRST_DAY * 86_400_000_000), last
