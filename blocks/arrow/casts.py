"""Casts that change no value: each becomes the same one in the other type, or is an error that names its row."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

from blocks.arrow.exact import cast_exactly
from blocks.arrow.json_form import as_json
from blocks.arrow.types import has_json_form, is_list, map_entries, plain_type, type_loss, without_view
from blocks.base.errors import SchemaError, TypeLossError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pyarrow as pa
    import pyarrow.compute as pc

    Cast = Callable[[pa.Array], pa.Array]
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


def cast_batch(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    *,
    lossy: Collection[str] = (),
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
        SchemaError: A value does not fit its column's type (TypeLossError: it would lose something).
    """
    columns = []
    for field in schema:
        column, name = batch.column(field.name), field.name
        if name in inferred:
            cast: Cast = partial(cast_exactly, target=field.type)
        else:
            cast = partial(_cast_for_a_table, target=field.type, safe=name not in lossy)
        try:
            column = column if column.type == field.type and not _has_intervals(field.type) else cast(column)
        except pa.ArrowException:  # its words hold the value
            row = first_row + _first_misfit(column, cast)
            allows = name not in lossy and name not in inferred
            raise _misfit_error(name, row, column.type, field.type, allows=allows) from None
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast_for_a_table(values: pa.Array, target: pa.DataType, *, safe: bool) -> pa.Array:
    cast = cast_array(values, target, safe=safe)
    if safe and pa.types.is_interval(target) and any(each and each.nanoseconds % 1_000 for each in cast.to_pylist()):
        raise pa.ArrowInvalid("warehouses keep the microseconds of an interval")
    return cast


def _has_intervals(kind: pa.DataType) -> bool:
    return bool(pa.types.is_interval(kind))


def _misfit_error(name: str, row: int, source: pa.DataType, target: pa.DataType, *, allows: bool) -> SchemaError:
    """Return the error for a value that does not fit its column."""
    loss = type_loss(source, target) or ("nanoseconds" if pa.types.is_interval(target) else "")
    where = f"Column {name!r}, row {row} of the data"
    misfit = f"the value does not fit the table's type, which is {target}"
    if allows and loss and "out of range" not in loss and ":" not in loss:
        return TypeLossError(
            f"{where}: {misfit}; it would lose {loss}. Correct it, change the table's column, or name the column in "
            f"allow_loss, which rounds: allow_loss=[{name!r}]."
        )
    return SchemaError(f"{where}: {misfit}. Correct it, or change the table's column; text takes every value.")


def _first_misfit(values: pa.Array, cast: Cast) -> int:
    """Return the first row that the cast refuses, which it does with one of them."""
    start, end = 0, len(values)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            cast(values[start:middle])
        except pa.ArrowException:
            end = middle
        else:
            start = middle
    return start


def cast_array(  # noqa: C901, PLR0911 (one kind of type a line)
    column: pa.Array, target: pa.DataType, *, safe: bool = True
) -> pa.Array:
    """Return the array as another type.

    Args:
        column: The values.
        target: The type.
        safe: Whether each value has to be the same one there; else it is rounded to what the type holds, and never
            made up. A float and a decimal are the same where the shortest text of the float is the decimal.

    Raises:
        pyarrow.ArrowException: A value does not fit; its words hold the value.
    """
    types = pa.types
    if column.type == target:
        return column
    if types.is_dictionary(column.type) and types.is_dictionary(target):
        return column.cast(target)
    if types.is_dictionary(column.type):
        column = column.dictionary.cast(without_view(column.type.value_type)).take(column.indices)
    if types.is_nested(column.type) and (cast := _nested(column, target, safe=safe)) is not None:
        return cast
    if isinstance(column.type, pa.UuidType) and types.is_string(target):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], target)
    if isinstance(target, pa.UuidType) and types.is_string(plain_type(column.type)):
        try:
            values = [None if v is None else uuid.UUID(v).bytes for v in column.to_pylist()]
        except ValueError:
            raise pa.ArrowInvalid("not a UUID") from None
        return pa.ExtensionArray.from_storage(target, pa.array(values, target.storage_type))
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, cast_array(column, target.storage_type, safe=safe))
    if types.is_duration(column.type) and types.is_interval(target):
        column = column if safe else _rounded(column, pa.duration("us"))
        nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64()).to_pylist()
        return pa.array([None if v is None else pa.MonthDayNano([0, 0, v]) for v in nanoseconds], target)
    if types.is_integer(column.type) and types.is_decimal(target):
        # Arrow wants room for every value of the integer type, not only for the ones that are there
        return column.cast(pa.decimal256(76, target.scale)).cast(target)
    return _same(column, target) if safe else _rounded(column, target)


def _same(column: pa.Array, target: pa.DataType) -> pa.Array:
    """Return the values as another type, where Arrow's own cast would round some of them without a word."""
    kind, types = column.type, pa.types
    if types.is_floating(kind) and types.is_decimal(target):
        return cast_exactly(column.cast(pa.float64()) if types.is_float16(kind) else column, target)
    if types.is_decimal(kind) and types.is_floating(target):
        return cast_exactly(column, target)
    is_float = types.is_floating(target) and (types.is_integer(kind) or types.is_floating(kind))
    if not is_float and not (types.is_timestamp(kind) and types.is_date(target)):
        return column.cast(target)
    cast = column.cast(target, safe=False)
    back = cast.cast(kind)
    equal = pc.equal(back, column)
    if types.is_floating(kind):
        equal = pc.or_(equal, pc.and_(pc.is_nan(back), pc.is_nan(column)))
    if not pc.all(equal, min_count=0).as_py():
        raise pa.ArrowInvalid("a value would be another one")
    return cast


def _nested(column: pa.Array, target: pa.DataType, *, safe: bool) -> pa.Array | None:
    """Return lists, maps and structs as others, part by part, or as JSON; None where Arrow's own cast does."""
    kind, types = column.type, pa.types
    if isinstance(target, pa.JsonType) and has_json_form(kind):
        return pa.ExtensionArray.from_storage(target, as_json(column).cast(target.storage_type))
    if is_list(kind) and types.is_list(target):
        values = cast_array(column.flatten(), target.value_type, safe=safe)
        return pa.ListArray.from_arrays(_offsets(column), values, type=target, mask=column.is_null())
    if types.is_map(kind) and types.is_map(target):
        lists = map_entries(column)
        keys, items = (pc.struct_field(lists.flatten(), [at]) for at in (0, 1))
        parts = [cast_array(keys, target.key_type, safe=safe), cast_array(items, target.item_type, safe=safe)]
        return pa.MapArray.from_arrays(_offsets(lists), *parts, type=target, mask=column.is_null())
    if types.is_struct(kind) and types.is_struct(target):
        own = {field.name: at for at, field in enumerate(kind)}
        if lacking := own.keys() - {field.name for field in target}:
            raise pa.ArrowInvalid(f"there is no field {lacking}")
        arrays = [
            cast_array(pc.struct_field(column, [own[field.name]]), field.type, safe=safe)
            if field.name in own
            else pa.nulls(len(column), field.type)
            for field in target
        ]
        return pa.StructArray.from_arrays(arrays, fields=list(target), mask=column.is_null())
    return None


def _offsets(lists: pa.Array) -> pa.Array:
    """Return where each list or map begins in what they hold together, which is without gaps."""
    lengths = pc.fill_null(pc.list_value_length(lists).cast(pa.int32()), 0)
    return pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])


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
