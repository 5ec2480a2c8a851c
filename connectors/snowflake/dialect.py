"""The SQL of Snowflake: names, types and statements, and what each of its types is in Arrow."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from blocks.arrow.types import MICROSECOND_DIGITS, has_json_form, plain_type, unit_of
from blocks.base import errors
from blocks.base.optional import lazy
from blocks.warehouses.sql import Column, Dialect, no_type_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

SIMPLE = re.compile(r"[a-z_][a-z0-9_$]*")
SEMI_STRUCTURED = ("VARIANT", "OBJECT", "ARRAY", "MAP")
INTEGER_DIGITS = 19
"""Digits of the largest int64; a NUMBER of more is a decimal."""
DECIMAL_DIGITS = 38

LITERALS = r"""
    '(?:[^'\\]|\\.|'')*' | "(?:[^"]|"")*"     # strings and quoted names
    | --[^\n]* | //[^\n]* | /\*.*?\*/            # comments
    | (\$\$).*?\1                               # dollar-quoted strings
"""

KINDS = {"NUMBER": "FIXED", "FLOAT": "REAL", "VARCHAR": "TEXT"}
"""What DESCRIBE TABLE calls otherwise than a result does."""


class SnowflakeDialect(Dialect):
    """Lower-case names are Snowflake's unquoted ones; every other name is kept as written."""

    literals: ClassVar[str] = LITERALS
    ddl_commits: ClassVar[bool] = True

    def name(self, name: str) -> str:
        """Return a quoted identifier.

        >>> SnowflakeDialect().names(["order", "Order", "a b"])
        '"ORDER", "Order", "a b"'
        """
        return quoted(name)

    def known_as(self, stored: str) -> str:
        """Return how a name that Snowflake stores is written here.

        >>> SnowflakeDialect().known_as("ORDER_ID"), SnowflakeDialect().known_as("OrderId")
        ('order_id', 'OrderId')
        """
        return stored.lower() if SIMPLE.fullmatch(stored.lower()) and stored == stored.upper() else stored

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOLEAN",
            pa.int64(): f"NUMBER({INTEGER_DIGITS},0)",
            pa.float64(): "FLOAT",
            pa.string(): "VARCHAR",
            pa.binary(): "BINARY",
            pa.date32(): "DATE",
            pa.time64("us"): "TIME(6)",
            pa.timestamp("us"): "TIMESTAMP_NTZ(6)",
            pa.timestamp("us", "UTC"): "TIMESTAMP_TZ(6)",
            pa.json_(): "VARIANT",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type."""
        if self.known_as(name) != name:
            raise errors.InvalidInputError(
                f"The name {name!r} would come back as {self.known_as(name)!r}: to Snowflake they are one. Use that."
            )
        stored = stored_type(kind)
        if sql_type := self._types.get(stored):
            return Column(name, sql_type, stored, stage_type="VARCHAR" if sql_type == "VARIANT" else None)
        if pa.types.is_decimal128(stored) and stored.scale >= 0:
            return Column(name, f"NUMBER({stored.precision},{stored.scale})", stored)
        raise no_type_error("Snowflake", kind)

    def staged(self, column: Column) -> str:
        """Return the value of a staged row; JSON arrives as text."""
        if column.sql_type == "VARIANT":
            return f"PARSE_JSON(s.{self.name(column.name)})"
        if column.sql_type.startswith(SEMI_STRUCTURED):
            return f"CAST(PARSE_JSON(s.{self.name(column.name)}) AS {column.sql_type})"
        return super().staged(column)

    def content(self, table: str, columns: Sequence[Column]) -> str:  # noqa: ARG002 (a row is hashed as a whole)
        """Return the query of one row that has other values once a row of the table is another one.

        https://docs.snowflake.com/en/sql-reference/functions/hash_agg
        """
        return f"SELECT count(*), HASH_AGG(*) FROM {self.table(table)}"

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """Return the statement that deletes the rows of every partition that the staged rows touch."""
        values = ", ".join(self.staged(column) for name in partition_by for column in columns if column.name == name)
        return (
            f"DELETE FROM {self.table(table)} WHERE ({self.names(partition_by)}) IN "
            f"(SELECT DISTINCT {values} FROM {self.name(stage)} AS s)"
        )

    def merge(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the statement that updates the rows whose key is staged and inserts the others."""
        values = ", ".join(f"{self.staged(column)} AS {self.name(column.name)}" for column in columns)
        source = f"SELECT {values} FROM {self.name(stage)} AS s"
        names = [column.name for column in columns]
        same = " AND ".join(f"t.{self.name(name)} = s.{self.name(name)}" for name in key)
        rest = [name for name in names if name not in key] or names
        return (
            f"MERGE INTO {self.table(table)} AS t USING ({source}) AS s ON {same} "
            f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{self.name(n)} = s.{self.name(n)}' for n in rest)} "
            f"WHEN NOT MATCHED THEN INSERT ({self.names(names)}) VALUES ({self.names(names, 's.')})"
        )


def stored_name(name: str) -> str:
    """Return a name as Snowflake stores it.

    >>> stored_name("orders"), stored_name("Orders"), stored_name("größe")
    ('ORDERS', 'Orders', 'größe')
    """
    return name.upper() if SIMPLE.fullmatch(name) else name


def quoted(name: str) -> str:
    """Return a name as Snowflake stores it, in quotes."""
    return '"' + stored_name(name).replace('"', '""') + '"'


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """Return the Arrow type in which Snowflake keeps values of `kind`: it has one integer and one float."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind) or isinstance(kind, pa.UuidType):
        return pa.string()
    if types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_decimal128(kind) and kind.scale == 0:
        return _number(kind.precision + (kind.precision == INTEGER_DIGITS), 0)
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind):
        return pa.time64("us")
    return pa.json_() if has_json_form(kind) else kind


def described(name: str, sql_type: str, nullable: bool, default: str | None) -> Column:
    """Return a column of a table, by what DESCRIBE TABLE says of it."""
    found = re.match(r"(\w+)(?:\((\d+)(?:, ?(\d+))?\))?", sql_type)
    assert found  # noqa: S101 (a type has a name)
    kind = KINDS.get(found[1], found[1])
    precision, scale = (int(part) if part else None for part in found.groups()[1:])
    by_text = kind in (*SEMI_STRUCTURED, "GEOGRAPHY", "GEOMETRY")
    own = arrow_type(kind, precision, scale, name)
    return Column(
        name=name,
        sql_type=sql_type,
        arrow_type=own,
        kept=_kept(own, precision),
        nullable=nullable,
        has_default=default is not None,
        stage_type="VARCHAR" if by_text else None,
    )


def _kept(kind: pa.DataType, digits: int | None) -> pa.DataType | None:
    """Return what a column of times keeps that has fewer digits of a second than Arrow's: Snowflake cuts the rest."""
    unit = unit_of(MICROSECOND_DIGITS if digits is None else digits)
    if unit is None:
        return None
    if pa.types.is_timestamp(kind):
        return pa.timestamp(unit, kind.tz)
    return pa.time32(unit) if pa.types.is_time(kind) else None


def arrow_type(name: str, precision: int | None, scale: int | None, column: str) -> pa.DataType:
    """Return the Arrow type in which a column of a Snowflake type is read."""
    kinds: dict[str, Callable[[], pa.DataType]] = {
        "FIXED": lambda: _number(DECIMAL_DIGITS if precision is None else precision, scale or 0),
        "REAL": pa.float64,
        "TEXT": pa.string,
        "DATE": pa.date32,
        "TIME": lambda: pa.time64("us"),
        "TIMESTAMP": lambda: pa.timestamp("us"),
        "TIMESTAMP_NTZ": lambda: pa.timestamp("us"),
        "TIMESTAMP_LTZ": lambda: pa.timestamp("us", "UTC"),
        "TIMESTAMP_TZ": lambda: pa.timestamp("us", "UTC"),
        "BOOLEAN": pa.bool_,
        "BINARY": pa.binary,
        "GEOGRAPHY": pa.string,
        "GEOMETRY": pa.string,
        **dict.fromkeys(SEMI_STRUCTURED, pa.json_),
    }
    if name not in kinds:
        raise errors.UnsupportedError(f"Column {column!r} is a {name}, which is not read. Cast it in the query.")
    return kinds[name]()


def _number(precision: int, scale: int) -> pa.DataType:
    return pa.int64() if scale == 0 and precision <= INTEGER_DIGITS else pa.decimal128(precision, scale)
