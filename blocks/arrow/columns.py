"""Rules for columns of every format: which are needed, and what a type can become without loss."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pyarrow import types

from blocks.arrow.casts import cast_array
from blocks.arrow.types import is_checked
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ExtraColumns = Literal["ignore", "fail"]
NOTHING: Mapping[str, pa.Scalar] = MappingProxyType({})


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return names, types and nullability, without the metadata of a writer."""
    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in schema])


def check_names(schema: pa.Schema) -> None:
    """Refuse columns that cannot be told apart by name.

    Raises:
        SchemaError: There is no column, or two have the same name.
    """
    if not len(schema):
        raise SchemaError("There is no column to read or write.")
    if twice := sorted(name for name, count in Counter(schema.names).items() if count > 1):
        raise SchemaError(f"These columns are there more than once: {listed(twice)}. Rename them.")


def present_fields(
    found: Collection[str],
    wanted: pa.Schema,
    absent: Mapping[str, pa.Scalar],
    source: str,
    extra_columns: ExtraColumns = "ignore",
) -> pa.Schema:
    """Return the part of `wanted` that a file with the columns `found` has; `absent` has values for the others.

    Raises:
        SchemaError: The file lacks a column that `absent` lacks too, or has one twice, or has others and
            `extra_columns` is "fail".
    """
    known, asked = set(found), set(wanted.names)
    if repeated := sorted(name for name, count in Counter(found).items() if count > 1 and name in asked):
        raise SchemaError(
            f"{source} has these columns more than once: {listed(repeated)}. Rename them, or leave them out."
        )
    if missing := [name for name in wanted.names if name not in known and name not in absent]:
        raise SchemaError(f"{source} lacks {listed(missing)}; its columns are {listed(found)}.")
    if extra_columns == "fail" and (extra := [name for name in found if name not in asked]):
        raise SchemaError(f"{source} has columns that the schema lacks: {listed(extra)}.")
    return pa.schema([field for field in wanted if field.name in known])


def completed(batch: pa.RecordBatch, schema: pa.Schema, absent: Mapping[str, pa.Scalar]) -> pa.RecordBatch:
    """Return the batch with all columns of `schema`; `absent` has values for those that it lacks."""
    if batch.schema.names == schema.names:
        return batch
    present = set(batch.schema.names)
    arrays = [
        batch.column(field.name) if field.name in present else pa.repeat(absent[field.name], batch.num_rows)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def listed(names: Collection[str]) -> str:
    """Return the names for a message."""
    return ", ".join(map(repr, names))


def is_text(kind: pa.DataType) -> bool:
    """Return whether it is one of Arrow's string types."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def fit(batch: pa.RecordBatch, schema: pa.Schema, source: str) -> pa.RecordBatch:
    """Return the batch with exactly the columns and types of `schema`.

    Raises:
        InvalidInputError: A text is not UTF-8.
        SchemaError: A type cannot become the wanted one, or a column that may not be null has nulls.
        TypeLossError: A value would lose something.
    """
    arrays = []
    for field in schema:
        values = batch.column(field.name)
        if values.type != field.type:
            values = _cast(values, field, source)
        if is_text(values.type):
            _check_utf8(values, field, source)
        if not field.nullable and values.null_count:
            raise SchemaError(f"{source}: column {field.name!r} has nulls, and the schema declares it not null.")
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _check_utf8(values: pa.Array, field: pa.Field, source: str) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise InvalidInputError(
            f"{source}: column {field.name!r} is text, and a value of it is not UTF-8. Write it as binary."
        ) from None


def _cast(values: pa.Array, field: pa.Field, source: str) -> pa.Array:
    if not (convertible(values.type, field.type) or is_checked(values.type, field.type)):
        raise SchemaError(
            f"{source}: column {field.name!r} is {values.type} and cannot become {field.type} by itself. "
            "Convert it with map_batches, or declare its own type."
        )
    try:
        return cast_array(values, field.type)
    except pa.ArrowInvalid:
        raise TypeLossError(
            f"{source}: column {field.name!r} is {values.type}, and a value of it does not fit {field.type}."
        ) from None


def convertible(kind: pa.DataType, target: pa.DataType) -> bool:  # noqa: PLR0911 (a table of rules)
    """Return whether a cast that checks every value cannot lose anything.

    >>> [convertible(pa.int64(), kind) for kind in (pa.int32(), pa.decimal128(12, 2), pa.float64(), pa.string())]
    [True, True, True, False]
    """
    if kind == target or types.is_null(kind):
        return True
    if types.is_dictionary(kind):
        return convertible(kind.value_type, target)
    if types.is_dictionary(target):
        return is_text(kind) and is_text(target.value_type)
    if types.is_integer(kind):
        wide = types.is_floating(target) and not types.is_float16(target)
        return bool(types.is_integer(target) or types.is_decimal(target) or wide)
    if types.is_floating(kind):
        return bool(types.is_floating(target) and target.bit_width >= kind.bit_width)
    if types.is_timestamp(kind):
        return bool(types.is_timestamp(target) and (kind.tz is None) == (target.tz is None))
    if _is_list(kind):
        return bool(_is_list(target) and convertible(kind.value_type, target.value_type))
    if types.is_struct(kind):
        known = {field.name: field.type for field in target} if types.is_struct(target) else {}
        return all(field.name in known and convertible(field.type, known[field.name]) for field in kind)
    families = (types.is_decimal, is_text, _is_binary, types.is_date, types.is_time, types.is_duration)
    return any(belongs(kind) and belongs(target) for belongs in families)


def widened(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the narrowest type that holds the values of both without loss, None if there is none."""
    try:
        schemas = [pa.schema([("", kind)]), pa.schema([("", other)])]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    return common if convertible(kind, common) and convertible(other, common) else None


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))
