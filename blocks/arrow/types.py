"""Arrow types: what a cast would lose, and casts that lose nothing else."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from blocks.arrow.exact import cast_exactly
from blocks.base.errors import SchemaError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


def type_loss(source: pa.DataType, target: pa.DataType) -> str | None:  # noqa: PLR0911, PLR0912, C901 (one rule a line)
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
    if types.is_integer(source):
        digits = len(str(2 ** (source.bit_width - (0 if types.is_unsigned_integer(source) else 1))))
        if types.is_integer(target):
            return None if _int_fits(source, target) else "integers out of range"
        if types.is_decimal(target):
            return None if target.precision - target.scale >= digits else "integers out of range"
        if types.is_floating(target):
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
        if types.is_floating(target):
            return "exactness of decimals"
    if types.is_floating(source):
        if types.is_floating(target):
            return None if target.bit_width >= source.bit_width else "digits of floats"
        if types.is_decimal(target) or types.is_integer(target):
            return "digits of floats"
    if types.is_date(source):
        return None if types.is_date(target) or types.is_timestamp(target) else f"it is a {source}, not a {target}"
    if types.is_timestamp(source):
        if types.is_date(target):
            return "time of day"
        if types.is_timestamp(target):
            if (source.tz is None) != (target.tz is None):
                return "time zone" if target.tz is None else "the zone is not known"
            return _unit_loss(source.unit, target.unit)
    if types.is_duration(source) and types.is_interval(target):
        return _unit_loss(source.unit, "us")
    if (types.is_time(source) and types.is_time(target)) or (types.is_duration(source) and types.is_duration(target)):
        return _unit_loss(source.unit, target.unit)
    if types.is_list(source) and types.is_list(target):
        return type_loss(source.value_type, target.value_type)
    if {str(source), str(target)} in ({"string", "extension<arrow.json>"}, {"string", "extension<arrow.uuid>"}):
        return None  # text that is no JSON or no UUID is an error, not a loss
    return f"it is a {source}, not a {target}"


def plain_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """Return the type without its layout in memory: dictionary, large, view and fixed-size variants."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    if types.is_date(kind):
        return pa.date32()
    if types.is_decimal(kind):
        scale = max(kind.scale, 0)  # no engine but PostgreSQL has a negative one, or one beyond the precision
        precision = max(kind.precision - min(kind.scale, 0), scale)
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(min(precision, 76), scale)  # noqa: PLR2004
    return kind


def without_view(kind: pa.DataType) -> pa.DataType:
    """Return the type as Arrow's kernels take it: many take no views, in which polars hands out its text.

    >>> import pyarrow as pa
    >>> without_view(pa.string_view())
    DataType(large_string)
    """
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def filter_batch(batch: pa.RecordBatch, mask: pa.Array) -> pa.RecordBatch:
    """Return the rows of the batch for which the mask is true."""
    return pa.RecordBatch.from_arrays([filter_array(column, mask) for column in batch.columns], schema=batch.schema)


def filter_array(values: pa.Array, mask: pa.Array) -> pa.Array:
    """Return the values for which the mask is true."""
    kind = without_view(values.type)
    return values.filter(mask) if kind == values.type else values.cast(kind).filter(mask).cast(values.type)


def cast_batch(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    *,
    lossy: Iterable[str] = (),
    inferred: Collection[str] = (),
    first_row: int = 1,
) -> pa.RecordBatch:
    """Return the batch with the columns and types of `schema`.

    Args:
        batch: The batch.
        schema: The columns and their types.
        lossy: The columns that may lose something.
        inferred: The columns whose values are cast as `cast_exactly` does.
        first_row: The number of its first row, for messages.

    Raises:
        SchemaError: A value does not fit its column's type.
    """
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if column.type != field.type:
            try:
                if field.name in inferred:
                    column = cast_exactly(column, field.type)
                else:
                    column = cast_array(column, field.type, safe=field.name not in lossy)
            except pa.ArrowException:  # its words hold the value
                if field.name in inferred:
                    row = first_row + _first_misfit(batch.column(field.name), field.type)
                    raise SchemaError(
                        f"Column {field.name!r}, row {row} of the data: the value does not fit the table's type, which "
                        f"is {field.type}. Correct it, or change the table's column; text takes every value."
                    ) from None
                raise SchemaError(
                    f"Column {field.name!r}: a {column.type} value does not fit, or cannot become, {field.type}."
                ) from None
        if pa.types.is_interval(field.type) and field.name not in lossy and _has_nanoseconds(column):
            raise SchemaError(
                f"Column {field.name!r}: an interval has nanoseconds, and warehouses keep microseconds. Round it, or "
                "name the column in allow_loss."
            )
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _first_misfit(values: pa.Array, target: pa.DataType) -> int:
    """Return the first row that `cast_exactly` refuses, which it does with one of them."""
    start, end = 0, len(values)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            cast_exactly(values[start:middle], target)
        except pa.ArrowException:
            end = middle
        else:
            start = middle
    return start


def cast_array(  # noqa: PLR0911 (one kind of type a line)
    column: pa.Array, target: pa.DataType, *, safe: bool = True
) -> pa.Array:
    """Return the array as another type; if not `safe`, values are rounded to what it holds, and never made up.

    Raises:
        pyarrow.ArrowException: A value does not fit; its words hold the value.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_list(column.type) and pa.types.is_list(target) and column.type.value_type != target.value_type:
        lengths = pc.fill_null(pc.list_value_length(column).cast(pa.int32()), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
        values = cast_array(column.flatten(), target.value_type, safe=safe)
        return pa.ListArray.from_arrays(offsets, values, type=target, mask=column.is_null())
    if isinstance(column.type, pa.UuidType) and pa.types.is_string(target):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], target)
    if isinstance(target, pa.UuidType) and pa.types.is_string(plain_type(column.type)):
        try:
            values = [None if v is None else uuid.UUID(v).bytes for v in column.to_pylist()]
        except ValueError:
            raise pa.ArrowInvalid("not a UUID") from None
        return pa.ExtensionArray.from_storage(target, pa.array(values, target.storage_type))
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, cast_array(column, target.storage_type, safe=safe))
    if pa.types.is_duration(column.type) and pa.types.is_interval(target):
        nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
        return pa.array([None if v is None else pa.MonthDayNano([0, 0, v]) for v in nanoseconds], target)
    if pa.types.is_integer(column.type) and pa.types.is_decimal(target):
        # Arrow wants room for every value of the integer type, not only for the ones that are there
        return column.cast(pa.decimal256(76, target.scale)).cast(target)
    return column.cast(target) if safe else _rounded(column, target)


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
    elif _is_list(kind):
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


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _has_nanoseconds(intervals: pa.Array) -> bool:
    return any(value is not None and value.nanoseconds % 1_000 for value in intervals.to_pylist())


def _rounded(column: pa.Array, target: pa.DataType) -> pa.Array:
    """Return the array as a type that holds less of each value; a value that it cannot hold at all is an error."""
    kind, away_from_zero = column.type, "half_towards_infinity"
    if pa.types.is_floating(kind) and pa.types.is_integer(target):
        return pc.round(column, round_mode=away_from_zero).cast(target)
    if pa.types.is_decimal(kind) and (pa.types.is_decimal(target) or pa.types.is_integer(target)):
        scale = target.scale if pa.types.is_decimal(target) else 0
        if scale < kind.scale:
            roomy = column.cast(pa.decimal256(min(kind.precision + 1, 76), kind.scale))
            column = pc.round(roomy, ndigits=scale, round_mode=away_from_zero)
    options = pc.CastOptions(
        target_type=target, allow_time_truncate=True, allow_float_truncate=pa.types.is_integer(column.type)
    )
    return column.cast(options=options)


def _int_fits(source: pa.DataType, target: pa.DataType) -> bool:
    unsigned = pa.types.is_unsigned_integer
    if unsigned(target):
        return bool(unsigned(source) and source.bit_width <= target.bit_width)
    room = target.bit_width - (1 if unsigned(source) else 0)
    return bool(source.bit_width <= room)


def _unit_loss(source: str, target: str) -> str | None:
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    order = list(names)
    if order.index(source) > order.index(target):
        return names[source]
    if target == "ns" and source != "ns":
        return "dates before 1677 and after 2262"
    return None
