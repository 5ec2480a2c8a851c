"""The SQL of MySQL and MariaDB: names, statements, and what becomes of an Arrow type."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from blocks.arrow.types import has_json_form, plain_type
from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy
from blocks.warehouses.sql import Column, Dialect, no_type_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

EXACT = "CHARACTER SET utf8mb4 /*!80017 COLLATE utf8mb4_0900_bin */ /*M!100203 COLLATE utf8mb4_nopad_bin */"
"""Text in which every character counts, its case and trailing spaces too; each server reads its own comment.

https://dev.mysql.com/doc/refman/8.4/en/comments.html and https://mariadb.com/kb/en/comment-syntax/
"""
TEXT = f"longtext {EXACT}"
UTC, TIME_OF_DAY, BOOLEAN = "UTC", "time of day", "boolean"
"""The comments of columns whose SQL type does not say all: a DATETIME in UTC, and what a TIME and a TINYINT(1) hold."""

MOST_DIGITS, MOST_DECIMALS = 65, 30
LONGEST_NAME = 64
"""https://dev.mysql.com/doc/refman/8.4/en/identifier-length.html"""
KEY_CHARACTERS, PREFIX_CHARACTERS, MOST_KEY_PARTS = 768, 191, 16
"""An index entry of InnoDB has at most 3,072 bytes, and 16 columns."""


class MySQLDialect(Dialect):
    """Names are quoted and kept as written; those of columns that differ only by case are one name."""

    literals: ClassVar[str] = r"""
        '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*"      # strings
        | `(?:[^`]|``)*`                                 # quoted names
        | --(?=\s|$)[^\n]* | \#[^\n]* | /\*.*?\*/         # comments
    """
    stage_prefix: ClassVar[str] = "CREATE TEMPORARY TABLE"
    case_counts: ClassVar[bool] = False
    ddl_commits: ClassVar[bool] = True
    indexes_keys: ClassVar[bool] = True
    tables_of_schema: ClassVar[str] = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"

    def name(self, name: str) -> str:
        """Quote an identifier.

        Raises:
            InvalidInputError: It is too long, or has characters that no name of MySQL's has.
        """
        if len(name) > LONGEST_NAME:
            raise InvalidInputError(f"The name {name!r} is longer than MySQL's {LONGEST_NAME} characters.")
        if name.endswith(" ") or any(ord(character) > 0xFFFF for character in name):  # noqa: PLR2004 (the last of the plane)
            raise InvalidInputError(
                f"The name {name!r} ends in a space, or has a character beyond U+FFFF; no name of MySQL's may."
            )
        return "`" + name.replace("`", "``") + "`"

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): f"tinyint(1) COMMENT '{BOOLEAN}'",
            pa.int8(): "tinyint",
            pa.int16(): "smallint",
            pa.int32(): "int",
            pa.int64(): "bigint",
            pa.uint8(): "tinyint unsigned",
            pa.uint16(): "smallint unsigned",
            pa.uint32(): "int unsigned",
            pa.uint64(): "bigint unsigned",
            pa.float64(): "double",
            pa.string(): TEXT,
            pa.binary(): "longblob",
            pa.date32(): "date",
            pa.timestamp("us"): "datetime(6)",
            pa.timestamp("us", "UTC"): f"datetime(6) COMMENT '{UTC}'",
            pa.time64("us"): f"time(6) COMMENT '{TIME_OF_DAY}'",
            pa.json_(): "json",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type."""
        stored = _stored(kind)
        return Column(name, self._sql_type(stored), stored)

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal(kind) and kind.precision <= MOST_DIGITS and kind.scale <= MOST_DECIMALS:
            return f"decimal({kind.precision},{kind.scale})"
        raise no_type_error("MySQL", kind)

    def create_table(
        self,
        table: str,
        columns: Sequence[Column],
        *,
        key: Sequence[str] = (),
        unique: bool | None = None,
        partition_by: Sequence[str] = (),  # noqa: ARG002 (partitions of MySQL are declared value by value)
        if_absent: bool = True,
    ) -> str:
        """Return the statement that creates the table.

        No index holds every text. So with `unique` a text of the key becomes a VARCHAR as long as one can hold; by
        default its first characters are indexed, and the load protocol alone keeps the key unique.
        """
        keys = [column for column in columns if column.name in key]
        texts = [column.name for column in keys if _is_long(column)]
        longest = KEY_CHARACTERS // max(len(texts), 1)
        parts = []
        for column in columns:
            kind = f"varchar({longest}) {EXACT}" if unique and column.name in texts else column.sql_type
            parts.append(f"{self.name(column.name)} {kind}" + (" NOT NULL" if column.name in key else ""))
        if key and unique is not False:
            parts.append(self._index(keys) if texts and not unique else f"PRIMARY KEY ({self.names(key)})")
        create = "CREATE TABLE IF NOT EXISTS" if if_absent else "CREATE TABLE"
        return f"{create} {self.table(table)} ({', '.join(parts)}) ENGINE=InnoDB"

    def _index(self, keys: Sequence[Column]) -> str:
        """Return the part of a statement that indexes these columns, of a text its first characters."""
        indexed = keys[:MOST_KEY_PARTS]
        prefix = min(PREFIX_CHARACTERS, KEY_CHARACTERS // len(indexed))
        return f"INDEX ({', '.join(self.name(c.name) + (f'({prefix})' if _is_long(c) else '') for c in indexed)})"

    def create_stage(self, stage: str, columns: Sequence[Column]) -> str:
        """Return the statement that creates a table that only this session sees; it does not commit."""
        return f"{super().create_stage(stage, columns)} ENGINE=InnoDB"

    def index_stage(self, stage: str, columns: Sequence[Column], key: Sequence[str]) -> str:
        """Return the statement that indexes the key of the staged rows."""
        return f"ALTER TABLE {self.name(stage)} ADD {self._index([c for c in columns if c.name in key])}"

    def create_part(self, table: str, columns: Sequence[Column]) -> str:
        """Return the statement that creates a table for a staged part."""
        return f"{super().create_part(table, columns)} ENGINE=InnoDB"

    def cast(self, value: str, column: Column) -> str:  # noqa: ARG002 (of the kit)
        """Return the value as it is: it becomes that of the column where it is inserted, or is an error."""
        return value

    def staged_key(self, column: Column) -> str:
        """Return what tells the values of a staged key apart, whatever the column's collation takes for equal."""
        value = self.staged(column)
        return f"SHA2({value}, 256)" if _is_text(column) else value

    def same_key(self, columns: Sequence[Column], key: Sequence[str]) -> str:
        """Return the condition that a row of the table `t` and a staged row `s` have the same key, to the byte.

        The first comparison, by the column's collation, is the one for which an index is used.
        """
        conditions = []
        for column in columns:
            if column.name in key:
                name = self.name(column.name)
                conditions.append(f"t.{name} = s.{name}")
                if _is_text(column):
                    conditions.append(f"CAST(t.{name} AS BINARY) = CAST(s.{name} AS BINARY)")
        return " AND ".join(conditions)

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """Return the statement that deletes the rows of every partition that the staged rows touch."""
        groups = ", ".join(self.staged_key(column) for column in columns if column.name in partition_by)
        partitions = f"SELECT {self.names(partition_by, 's.')} FROM {self.name(stage)} AS s GROUP BY {groups}"
        return (
            f"DELETE t FROM {self.table(table)} AS t JOIN ({partitions}) AS s ON {self.same_key(columns, partition_by)}"
        )

    def update_from_stage(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the statement that gives the rows whose key is staged the staged values."""
        rest = [column for column in columns if column.name not in key] or columns
        values = ", ".join(f"t.{self.name(column.name)} = {self.staged(column)}" for column in rest)
        return (
            f"UPDATE {self.table(table)} AS t JOIN {self.name(stage)} AS s ON {self.same_key(columns, key)} "
            f"SET {values}"
        )

    def drop_known(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the statement that takes the rows out of the stage whose key the table has."""
        return f"DELETE s FROM {self.name(stage)} AS s JOIN {self.table(table)} AS t ON {self.same_key(columns, key)}"

    def content(self, table: str, columns: Sequence[Column]) -> str:
        """Return the query of one row that has other values once a row of the table is another one."""
        hashes = ", ".join(f"COALESCE(SHA2({self._printed(column)}, 256), '')" for column in columns)
        row = f"CONV(LEFT(SHA2(CONCAT_WS(',', {hashes}), 256), 15), 16, 10)"
        return f"SELECT count(*), sum(CAST({row} AS DECIMAL(20,0))) FROM {self.table(table)} AS s"

    def digest(self, column: Column, where: str) -> str:
        """Return the query of a number that is another one once a value of the column of rows `s` is.

        Args:
            column: The column.
            where: What stands behind FROM.
        """
        value = f"s.{self.name(column.name)}"
        if pa.types.is_string(column.arrow_type):
            value = f"CONVERT({value} USING utf8mb4)"
        elif pa.types.is_floating(column.arrow_type):
            value = f"{value} + 0e0"
        return (
            f"SELECT COALESCE(sum(CAST(CONV(LEFT(SHA2({value}, 256), 15), 16, 10) AS DECIMAL(20,0))), 0) FROM {where}"
        )

    def _printed(self, column: Column) -> str:
        value = f"s.{self.name(column.name)}"
        return f"{value} + 0e0" if pa.types.is_float32(column.arrow_type) else value


def _is_text(column: Column) -> bool:
    kind = column.arrow_type
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind) or isinstance(kind, pa.JsonType))


def _is_long(column: Column) -> bool:
    """Tell whether no index holds all of a value."""
    return _is_text(column) and column.sql_type.split(" ")[0].endswith(("text", "blob", "json"))


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the Arrow type in which MySQL keeps values of `kind`."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind) or isinstance(kind, pa.UuidType):
        return pa.string()
    if types.is_floating(kind):  # FLOAT is printed with six digits, and takes nine
        return pa.float64()
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind):
        return pa.time64("us")
    return pa.json_() if has_json_form(kind) else kind
