"""Arrow types: what a value of one may lose as another, and which of it is looked at value by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks.base.errors import SchemaError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


def type_loss(source: pa.DataType, target: pa.DataType) -> str | None:  # noqa: PLR0911, C901 (one rule a line)
    """Return what a value of `source` may lose as a `target`, in a few words; None if nothing.

    >>> import pyarrow as pa
    >>> type_loss(pa.int32(), pa.int64()) is None
    True
    >>> type_loss(pa.timestamp("ns"), pa.timestamp("us"))
    'nanoseconds'
    """
    types = pa.types
    source, target = plain_type(source), plain_type(target)
    if source == target or types.is_null(source):
        return None
    if is_number(source) and is_number(target):
        return _number_loss(source, target)
    if types.is_date(source) and types.is_timestamp(target):
        return None
    if types.is_timestamp(source):
        if types.is_date(target):
            return "time of day" if source.tz is None else "time zone and time of day"
        if types.is_timestamp(target):
            if (source.tz is None) != (target.tz is None):
                return "time zone" if target.tz is None else "the zone is not known"
            return _unit_loss(source.unit, target.unit)
    if types.is_duration(source) and types.is_interval(target):
        return _unit_loss(source.unit, "us")
    if (types.is_time(source) and types.is_time(target)) or (types.is_duration(source) and types.is_duration(target)):
        return _unit_loss(source.unit, target.unit)
    if isinstance(target, pa.JsonType) and has_json_form(source):
        return None
    if (parts := _parts(source, target)) is not None:
        return next(filter(None, (type_loss(*each) for each in parts)), None)
    if {str(source), str(target)} in ({"string", "extension<arrow.json>"}, {"string", "extension<arrow.uuid>"}):
        return None  # text that is no JSON or no UUID is an error, not a loss
    return f"its type: {source} is not {target}"


def is_checked(source: pa.DataType, target: pa.DataType) -> bool:
    """Tell whether `cast_array` looks at each value of `source`: it becomes the same value of `target`, or is an error.

    >>> import pyarrow as pa
    >>> is_checked(pa.float64(), pa.decimal128(5, 2)), is_checked(pa.string(), pa.int64())
    (True, False)
    """
    types = pa.types
    source, target = plain_type(source), plain_type(target)
    if is_number(source) and is_number(target):
        return True
    if types.is_timestamp(source) and types.is_timestamp(target):
        return (source.tz is None) == (target.tz is None)
    if types.is_timestamp(source) and types.is_date(target):
        return source.tz is None
    if types.is_duration(source):
        return bool(types.is_duration(target) or types.is_interval(target))
    if types.is_time(source):
        return bool(types.is_time(target))
    parts = _parts(source, target)
    return parts is not None and all(type_loss(*each) is None or is_checked(*each) for each in parts)


def _parts(source: pa.DataType, target: pa.DataType) -> list[tuple[pa.DataType, pa.DataType]] | None:
    """Return the types within lists, maps and structs that meet each other; None where these are of another form.

    A struct may lack fields of the other one; they are null.
    """
    types = pa.types
    if types.is_list(source) and types.is_list(target):
        return [(source.value_type, target.value_type)]
    if types.is_map(source) and types.is_map(target):
        return [(source.key_type, target.key_type), (source.item_type, target.item_type)]
    if types.is_struct(source) and types.is_struct(target):
        fields = {field.name: field.type for field in target}
        if all(field.name in fields for field in source):
            return [(field.type, fields[field.name]) for field in source]
    return None


def map_entries(maps: pa.Array) -> pa.Array:
    """Return maps as lists of structs of a `key` and a `value`, which more of Arrow's kernels take."""
    kind = maps.type
    entry = pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])
    return maps.cast(pa.list_(entry))


def has_json_form(kind: pa.DataType) -> bool:
    """Tell whether values of a list, a struct or a map can be written as JSON, see `blocks.arrow.json_form`."""
    types = pa.types
    if is_list(kind):
        return _has_json_value(kind.value_type)
    if types.is_map(kind):
        return bool(types.is_string(plain_type(kind.key_type))) and _has_json_value(kind.item_type)
    return bool(types.is_struct(kind)) and all(_has_json_value(field.type) for field in kind)


def _has_json_value(kind: pa.DataType) -> bool:
    types = pa.types
    kind = plain_type(kind)
    if types.is_nested(kind):
        return has_json_form(kind)
    held = (types.is_null, types.is_boolean, types.is_string, types.is_date, types.is_time, types.is_timestamp)
    return is_number(kind) or isinstance(kind, pa.UuidType) or any(each(kind) for each in held)


def is_number(kind: pa.DataType) -> bool:
    """Tell whether its values are integers, decimals or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind))


def _number_loss(source: pa.DataType, target: pa.DataType) -> str | None:  # noqa: PLR0911 (one rule a line)
    types = pa.types
    if types.is_integer(source):
        digits = len(str(2 ** (source.bit_width - (0 if types.is_unsigned_integer(source) else 1))))
        if types.is_integer(target):
            return None if _int_fits(source, target) else "integers out of range"
        if types.is_decimal(target):
            return None if target.precision - target.scale >= digits else "integers out of range"
        exact = {16: 8, 32: 16, 64: 32}[target.bit_width]
        return None if source.bit_width <= exact else "digits of large integers"
    if types.is_decimal(source):
        if types.is_decimal(target):
            if target.scale < source.scale:
                return f"decimals after the {target.scale}. place"
            whole = source.precision - source.scale
            return None if target.precision - target.scale >= whole else "large numbers out of range"
        if types.is_integer(target):
            signed = types.is_signed_integer(target)
            whole_fits = signed and source.precision < len(str(2 ** (target.bit_width - 1)))
            return None if source.scale == 0 and whole_fits else "decimals or large numbers"
        return "exactness of decimals"
    wider = types.is_floating(target) and target.bit_width >= source.bit_width
    return None if wider else "digits of floats"


def plain_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """Return the type without its layout in memory: dictionary, large, view and fixed-size variants."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    if types.is_date(kind):
        return pa.date32()
    if types.is_decimal(kind):
        scale = max(kind.scale, 0)  # no engine but PostgreSQL has a negative one, or one beyond the precision
        precision = max(kind.precision - min(kind.scale, 0), scale)
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(min(precision, 76), scale)  # noqa: PLR2004
    return kind


def is_list(kind: pa.DataType) -> bool:
    """Tell whether it is a list, of whatever layout."""
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(each(kind) for each in lists)


def without_view(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one layout a line)
    """Return the type as Arrow's kernels take it: many take no views, in which polars hands out its text.

    >>> import pyarrow as pa
    >>> without_view(pa.string_view())
    DataType(large_string)
    """
    types = pa.types
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, without_view(kind.value_type), kind.ordered)
    if types.is_list(kind) or types.is_large_list(kind):
        make = pa.list_ if types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(without_view(kind.value_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(without_view(kind.value_type)), kind.list_size)
    if types.is_struct(kind):
        return pa.struct([field.with_type(without_view(field.type)) for field in kind])
    return kind


def filter_batch(batch: pa.RecordBatch, mask: pa.Array) -> pa.RecordBatch:
    """Return the rows of the batch for which the mask is true."""
    return pa.RecordBatch.from_arrays([filter_array(column, mask) for column in batch.columns], schema=batch.schema)


def filter_array(values: pa.Array, mask: pa.Array) -> pa.Array:
    """Return the values for which the mask is true."""
    kind = without_view(values.type)
    return values.filter(mask) if kind == values.type else values.cast(kind).filter(mask).cast(values.type)


DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""How many ticks of a unit a day has."""


def check_in_range(values: pa.Array, column: str, bounds: Callable[[pa.DataType], tuple[int, int]]) -> None:
    """Refuse what Arrow has no value for: infinite times, 24:00:00, and a 39th digit of large integers.

    Args:
        values: What a driver handed out; what is within lists, structs and maps counts.
        column: The column's name, for the message.
        bounds: The first and the last tick of a date or timestamp that is one, by its type.

    Raises:
        SchemaError: There is such a value.
    """
    kind, types = values.type, pa.types
    if types.is_struct(kind):
        for part in values.flatten():
            check_in_range(part, column, bounds)
    elif types.is_map(kind):
        for part in (values.keys, values.items):
            check_in_range(part, column, bounds)
    elif is_list(kind):
        check_in_range(values.flatten(), column, bounds)
    elif types.is_date32(kind) or types.is_timestamp(kind):
        if not _within(values, *bounds(kind)):
            raise SchemaError(
                f"Column {column!r} holds infinity, or a time that is too late for a {kind}. Cast it in the query, to "
                "text or by nullif(...)."
            )
    elif types.is_time(kind) and not _within(values, 0, DAY[kind.unit] - 1):
        raise SchemaError(f"Column {column!r} holds 24:00:00, which is no {kind}. Cast it in the query, to text.")
    elif kind == pa.decimal128(38, 0) and not _within(values, 1 - 10**38, 10**38 - 1):
        raise SchemaError(f"Column {column!r} holds more digits than a {kind} has. Cast it in the query, to text.")


def _within(values: pa.Array, low: int, high: int) -> bool:
    if not pa.types.is_decimal(values.type):
        values = values.cast(pa.int32() if values.type.bit_width == 32 else pa.int64())  # noqa: PLR2004 (bits)
    found = pc.min_max(values).as_py()
    return found["min"] is None or (found["min"] >= low and found["max"] <= high)


def _int_fits(source: pa.DataType, target: pa.DataType) -> bool:
    unsigned = pa.types.is_unsigned_integer
    if unsigned(target):
        return bool(unsigned(source) and source.bit_width <= target.bit_width)
    room = target.bit_width - (1 if unsigned(source) else 0)
    return bool(source.bit_width <= room)


def unit_of(digits: int) -> str | None:
    """Return the unit that so many digits of a second hold, None where they hold every microsecond.

    >>> [unit_of(digits) for digits in (0, 3, 4, 6)]
    ['s', 'ms', 'ms', None]
    """
    return None if digits >= MICROSECOND_DIGITS else "ms" if digits >= MILLISECOND_DIGITS else "s"


MILLISECOND_DIGITS, MICROSECOND_DIGITS = 3, 6


def _unit_loss(source: str, target: str) -> str | None:
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    order = list(names)
    if order.index(source) > order.index(target):
        return names[source]
    if target == "ns" and source != "ns":
        return "dates before 1677 and after 2262"
    return None
