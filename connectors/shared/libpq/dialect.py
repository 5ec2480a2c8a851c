"""The SQL of PostgreSQL: names, and what becomes of an Arrow type."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from blocks.arrow.types import has_json_form, plain_type
from blocks.base import errors
from blocks.base.optional import lazy
from blocks.warehouses.sql import LITERALS, Column, Dialect, no_type_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

UNCONSTRAINED = (38, 9)
"""Precision and scale of a `numeric` that declares none; a value that needs more is an error, never rounded."""


class PostgresDialect(Dialect):
    """Names are quoted, so they are kept exactly as written: `Orders` is not `orders`."""

    literals: ClassVar[str] = r"\b[eE]'(?:[^\\']|\\.|'')*' | " + LITERALS
    indexes_keys: ClassVar[bool] = True
    partial_indexes: ClassVar[bool] = True
    product: ClassVar[str] = "PostgreSQL"
    name_bytes: ClassVar[int] = 63
    """The longest name; PostgreSQL cuts a longer one without an error."""

    def name(self, name: str) -> str:
        """Quote an identifier.

        Raises:
            InvalidInputError: It is too long.
        """
        if len(name.encode()) > self.name_bytes:
            raise errors.InvalidInputError(
                f"The name {name!r} is longer than {self.product}'s {self.name_bytes} bytes."
            )
        return super().name(name)

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "boolean",
            pa.int16(): "smallint",
            pa.int32(): "integer",
            pa.int64(): "bigint",
            pa.float32(): "real",
            pa.float64(): "double precision",
            pa.string(): "text",
            pa.binary(): "bytea",
            pa.date32(): "date",
            pa.timestamp("us"): "timestamp",
            pa.timestamp("us", "UTC"): "timestamptz",
            pa.time64("us"): "time",
            pa.month_day_nano_interval(): "interval",
            pa.json_(): "jsonb",
            pa.uuid(): "uuid",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type."""
        stored = self._stored(kind)
        return Column(name, self._sql_type(stored), stored)

    def constant(self, parameter: str, kind: pa.DataType) -> str:
        """Return a parameter as a value; text takes the type, and so the order, of the column beside it."""
        return f":{parameter}" if pa.types.is_string(kind) else super().constant(parameter, kind)

    def truncate(self, table: str) -> str:
        """Return the statement that empties the table."""
        return f"TRUNCATE {self.table(table)}"

    def content(self, table: str, columns: Sequence[Column]) -> str:  # noqa: ARG002 (a row is hashed as a whole)
        """Return the query of one row that has other values once a row of the table is another one."""
        return f"SELECT count(*), sum(hashtextextended(s::text, 0))::text FROM {self.table(table)} AS s"

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal(kind):
            return f"numeric({kind.precision},{kind.scale})"
        if pa.types.is_list(kind) and not pa.types.is_nested(kind.value_type):
            return f"{self._sql_type(kind.value_type)}[]"
        raise no_type_error(self.product, kind)

    def _stored(self, kind: pa.DataType) -> pa.DataType:  # noqa: C901, PLR0911 (one rule a line)
        kind, types = plain_type(kind), pa.types
        if types.is_null(kind):
            return pa.string()
        if types.is_int8(kind) or types.is_uint8(kind):
            return pa.int16()
        if types.is_uint16(kind):
            return pa.int32()
        if types.is_uint32(kind):
            return pa.int64()
        if types.is_uint64(kind):
            return pa.decimal128(20, 0)
        if types.is_float16(kind):
            return pa.float32()
        if types.is_timestamp(kind):
            return pa.timestamp("us", kind.tz)
        if types.is_time(kind):
            return pa.time64("us")
        if types.is_duration(kind):
            return pa.month_day_nano_interval()
        if types.is_list(kind) and not types.is_nested(kind.value_type):  # its arrays are rectangles
            return pa.list_(self._stored(kind.value_type))
        return pa.json_() if has_json_form(kind) else kind


def quoted(name: str) -> str:
    """Return an identifier of any length."""
    return '"' + name.replace('"', '""') + '"'
