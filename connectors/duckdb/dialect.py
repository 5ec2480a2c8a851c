"""DuckDB's SQL: its types, its names, its statements."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from blocks.arrow.types import plain_type
from blocks.base.optional import lazy
from blocks.warehouses.sql import Column, Dialect, no_type_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")


class DuckDBDialect(Dialect):
    """Names are kept as written; DuckDB finds them whatever their case."""

    case_counts: ClassVar[bool] = False

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOLEAN",
            pa.int8(): "TINYINT",
            pa.int16(): "SMALLINT",
            pa.int32(): "INTEGER",
            pa.int64(): "BIGINT",
            pa.uint8(): "UTINYINT",
            pa.uint16(): "USMALLINT",
            pa.uint32(): "UINTEGER",
            pa.uint64(): "UBIGINT",
            pa.float32(): "FLOAT",
            pa.float64(): "DOUBLE",
            pa.string(): "VARCHAR",
            pa.binary(): "BLOB",
            pa.date32(): "DATE",
            pa.timestamp("us"): "TIMESTAMP",
            pa.timestamp("ns"): "TIMESTAMP_NS",
            pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
            pa.timestamp("ns", "UTC"): "TIMESTAMPTZ_NS",
            pa.time64("us"): "TIME",
            pa.time64("ns"): "TIME_NS",
            pa.month_day_nano_interval(): "INTERVAL",
            pa.json_(): "JSON",
            pa.uuid(): "UUID",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type."""
        stored = stored_type(kind)
        return Column(name, self._sql_type(stored), stored)

    def add_field(self, table: str, path: Sequence[str], field: Column) -> str | None:
        """Return the statement that adds a field to the struct at `path`."""
        name = ".".join(map(self.name, (*path, field.name)))
        return f"ALTER TABLE {self.table(table)} ADD COLUMN {name} {field.sql_type}"

    def content(self, table: str, columns: Sequence[Column]) -> str:  # noqa: ARG002 (a row is hashed as a whole)
        """Return the query of one row that has other values once a row of the table is another one."""
        return f"SELECT count(*), sum(CAST(hash(s) AS HUGEINT)) FROM {self.table(table)} AS s"

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal128(kind):
            return f"DECIMAL({kind.precision},{kind.scale})"
        if pa.types.is_list(kind):
            return f"{self._sql_type(kind.value_type)}[]"
        if pa.types.is_struct(kind):
            return f"STRUCT({', '.join(f'{self.name(field.name)} {self._sql_type(field.type)}' for field in kind)})"
        if pa.types.is_map(kind):
            return f"MAP({self._sql_type(kind.key_type)}, {self._sql_type(kind.item_type)})"
        if pa.types.is_union(kind):
            return f"UNION({', '.join(f'{self.name(field.name)} {self._sql_type(field.type)}' for field in kind)})"
        raise no_type_error("DuckDB", kind)


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """Return the Arrow type in which DuckDB keeps values of `kind`."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind):
        return pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind) and kind.unit != "ns":
        return pa.time64("us")
    if types.is_duration(kind):
        return pa.month_day_nano_interval()
    if types.is_list(kind):
        return pa.list_(stored_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, stored_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(stored_type(kind.key_type), stored_type(kind.item_type))
    return kind
