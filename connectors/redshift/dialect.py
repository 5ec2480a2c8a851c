"""The SQL of Redshift: names, statements, what becomes of an Arrow type, and which one a result's column is."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from blocks.arrow.types import has_json_form
from blocks.base.optional import lazy
from blocks.warehouses.sql import Column, no_type_error
from connectors.shared.libpq.dialect import UNCONSTRAINED, PostgresDialect

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

MOST_DIGITS, MOST_DECIMALS = 38, 37
TEXT = "varchar(65535)"
"""The longest there is; the length counts bytes."""

OIDS = {
    16: "bool",
    20: "int64",
    21: "int16",
    23: "int32",
    26: "int64",
    700: "float32",
    701: "float64",
    1082: "date32",
    1083: "time",
    1114: "timestamp",
    1184: "timestamptz",
    1700: "decimal",
    4000: "json",
    6551: "binary",
}
"""Types of a result by number; every other one is read as text.

https://github.com/aws/amazon-redshift-python-driver/blob/master/redshift_connector/utils/oids.py
"""
REAL = 700
SUPER, VARBYTE = 4000, 6551


class RedshiftDialect(PostgresDialect):
    """Names are quoted and kept exactly as written; where one has capitals, other tools have to ask for it likewise."""

    indexes_keys: ClassVar[bool] = False  # they would not be enforced, and yet believed by the planner
    partial_indexes: ClassVar[bool] = False

    product: ClassVar[str] = "Redshift"
    name_bytes: ClassVar[int] = 127
    """https://docs.aws.amazon.com/redshift/latest/dg/r_names.html"""

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "boolean",
            pa.int16(): "smallint",
            pa.int32(): "integer",
            pa.int64(): "bigint",
            pa.float64(): "double precision",
            pa.string(): TEXT,
            pa.binary(): "varbyte(16777216)",
            pa.date32(): "date",
            pa.timestamp("us"): "timestamp",
            pa.timestamp("us", "UTC"): "timestamptz",
            pa.time64("us"): "time",
            pa.json_(): "super",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type."""
        stored = self._stored(kind)
        return Column(name, self._sql_type(stored), stored, stage_type=stage_type(stored))

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal(kind) and kind.precision <= MOST_DIGITS and 0 <= kind.scale <= MOST_DECIMALS:
            return f"decimal({kind.precision},{kind.scale})"
        raise no_type_error(self.product, kind)

    def _stored(self, kind: pa.DataType) -> pa.DataType:
        if has_json_form(kind):
            return pa.json_()
        if pa.types.is_duration(kind):  # an interval cannot be in a column
            return kind
        stored = super()._stored(kind)
        if pa.types.is_float32(stored):
            return pa.float64()  # REAL is printed with 8 digits, and takes 9
        return pa.string() if isinstance(stored, pa.UuidType) else stored

    def staged(self, column: Column, alias: str = "s") -> str:
        """Return the value of a staged row in the column's own type."""
        value = f"{alias}.{self.name(column.name)}"
        if isinstance(column.arrow_type, pa.JsonType):
            return f"JSON_PARSE({value})"
        return f"CAST({value} AS {column.sql_type})" if column.stage_type else value

    def content(self, table: str, columns: Sequence[Column]) -> str:
        """Return the query of one row that has other values once a row of the table is another one.

        https://docs.aws.amazon.com/redshift/latest/dg/r_FNV_HASH.html
        """
        row = " || ',' || ".join(
            f"COALESCE(CAST(FNV_HASH({self._hashable(column)}) AS varchar), '')" for column in columns
        )
        total = f"CAST(sum(CAST(FNV_HASH({row}) AS decimal(38,0))) AS varchar)"
        return f"SELECT count(*), {total} FROM {self.table(table)} AS s"

    def _hashable(self, column: Column) -> str:
        value = f"s.{self.name(column.name)}"
        return f"JSON_SERIALIZE({value})" if isinstance(column.arrow_type, pa.JsonType) else value

    def truncate(self, table: str) -> str:
        """Return the statement that empties the table, and commits nothing."""
        return f"DELETE FROM {self.table(table)}"

    def matches(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the condition that a row and a staged row have the same key; MERGE and DELETE take no alias."""
        target = self.name(table.rpartition(".")[2])
        return " AND ".join(
            f"{target}.{self.name(column.name)} = {self.staged(column, self.name(stage))}"
            for column in columns
            if column.name in key
        )

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """Return the statement that deletes the rows of every partition that the staged rows touch."""
        return (
            f"DELETE FROM {self.table(table)} USING {self.name(stage)} "
            f"WHERE {self.matches(table, columns, partition_by, stage)}"
        )

    def merge(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the statement that updates the rows whose key is staged, and inserts the others."""
        source = self.name(stage)
        rest = [column for column in columns if column.name not in key] or columns
        values = ", ".join(f"{self.name(column.name)} = {self.staged(column, source)}" for column in rest)
        return (
            f"MERGE INTO {self.table(table)} USING {source} ON {self.matches(table, columns, key, stage)} "
            f"WHEN MATCHED THEN UPDATE SET {values} "
            f"WHEN NOT MATCHED THEN INSERT ({self.names(column.name for column in columns)}) "
            f"VALUES ({', '.join(self.staged(column, source) for column in columns)})"
        )


def stage_type(kind: pa.DataType) -> str | None:
    """Return the type in which a column is staged where COPY cannot fill it from Parquet; None where it can."""
    return TEXT if pa.types.is_time(kind) or isinstance(kind, pa.JsonType) else None


def arrow_type(oid: int, modifier: int) -> pa.DataType:
    """Return the Arrow type of a type by its OID and modifier, in which a decimal has its precision and scale."""
    name = OIDS.get(oid, "string")
    if name == "decimal":
        digits = modifier - 4  # https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/utils/adt/numeric.c
        return pa.decimal128(*(divmod(digits, 1 << 16) if digits > 0 else UNCONSTRAINED))
    others = {
        "time": pa.time64("us"),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", "UTC"),
        "json": pa.json_(),
    }
    return others.get(name) or pa.type_for_alias(name)
