"""BigQuery's SQL: names, statements, and what type holds what."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.arrow.types import has_json_form, plain_type
from blocks.base.errors import SchemaError, UnsupportedError
from blocks.base.optional import lazy, require
from blocks.warehouses.sql import Column, Dialect, no_type_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

COLUMN_NAME = re.compile(r"[\w\-&%=+:'<>#|\s]{1,300}")
"""https://cloud.google.com/bigquery/docs/schemas#flexible-column-names"""
RESERVED_NAMES = re.compile(
    r"(?i)_TABLE_|_FILE_|_PARTITION|_ROW_TIMESTAMP|__ROOT__|_COLIDENTIFIER|_CHANGE_SEQUENCE_NUMBER|_CHANGE_TYPE|"
    r"_CHANGE_TIMESTAMP"
)

LITERALS = r"""
    [rRbB]{0,2}('{3}|\"{3})(?:\\.|.)*?\1                                             # strings of many lines
    | [rRbB]{0,2}'(?:[^'\\\n]|\\.)*' | [rRbB]{0,2}"(?:[^"\\\n]|\\.)*" | `(?:[^`\\]|\\.)*`  # strings, quoted names
    | (?:--|\#)[^\n]* | /\*.*?\*/                                                     # comments
"""

STAGE_HOURS = 24
"""How long the tables of a load that was killed stay."""
DAYS = ("DATE", "DATETIME", "TIMESTAMP")
"""The types of a column whose days are partitions."""
MOST_CLUSTERED = 4
"""So many columns at most sort a table's blocks."""


class BigQueryDialect(Dialect):
    """Names are kept as written; columns are found whatever their case, tables only as they are written.

    Partitions are replaced by DELETE and INSERT within the script. A load job that overwrites `table$20260430` would do
    less work, but it commits by itself: the rows would be there without their row in the ledger if the loader died in
    between, and the rows of several partitions not at one moment.
    """

    literals: ClassVar[str] = LITERALS
    case_counts: ClassVar[bool] = False
    ddl_commits: ClassVar[bool] = True
    tables_of_schema: ClassVar[str] = "SELECT table_name FROM INFORMATION_SCHEMA.TABLES"

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOL",
            pa.int64(): "INT64",
            pa.float64(): "FLOAT64",
            pa.string(): "STRING",
            pa.binary(): "BYTES",
            pa.date32(): "DATE",
            pa.timestamp("us"): "DATETIME",
            pa.timestamp("us", "UTC"): "TIMESTAMP",
            pa.time64("us"): "TIME",
            pa.json_(): "JSON",
        }

    def name(self, name: str) -> str:
        """Return a quoted identifier, kept exactly as written."""
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`").replace("\n", "\\n") + "`"

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type.

        Raises:
            SchemaError: BigQuery takes no column of that name.
        """
        check_name(name)
        stored = stored_type(kind)
        # A load job fills no JSON column from Parquet; the text is parsed on its way into the table.
        stage_type = "STRING" if stored == pa.json_() else None
        return Column(name, self._sql_type(stored), stored, stage_type=stage_type)

    def _sql_type(self, kind: pa.DataType, *, within: bool = False) -> str:
        if (sql_type := self._types.get(kind)) and not (within and sql_type == "JSON"):
            return sql_type
        if pa.types.is_decimal(kind):
            precision, scale = kind.precision, kind.scale
            # https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#parameterized_decimal_type
            if 0 <= scale <= 9 and precision - scale <= 29:  # noqa: PLR2004
                return f"NUMERIC({precision},{scale})"
            if 0 <= scale <= 38 and precision - scale <= 38:  # noqa: PLR2004
                return f"BIGNUMERIC({precision},{scale})"
        if pa.types.is_list(kind) and not pa.types.is_list(kind.value_type):
            return f"ARRAY<{self._sql_type(kind.value_type, within=True)}>"
        if pa.types.is_struct(kind):
            for field in kind:
                check_name(field.name)
            fields = (f"{self.name(field.name)} {self._sql_type(field.type, within=True)}" for field in kind)
            return f"STRUCT<{', '.join(fields)}>"
        raise no_type_error("BigQuery", kind)

    def create_table(
        self,
        table: str,
        columns: Sequence[Column],
        *,
        key: Sequence[str] = (),
        unique: bool | None = None,  # noqa: ARG002 (BigQuery enforces no key)
        partition_by: Sequence[str] = (),
        if_absent: bool = True,
    ) -> str:
        """Return the statement that creates the table, partitioned by day of the first date or time of `partition_by`.

        It is sorted (clustered) by the other columns of `partition_by`, or by `key`, as far as their types allow.
        """
        parts = ", ".join(f"{self.name(c.name)} {c.sql_type}" + (" NOT NULL" if c.name in key else "") for c in columns)
        types = {column.name: column.sql_type for column in columns}
        day = next((name for name in partition_by if types[name] in DAYS), None)
        create = "CREATE TABLE IF NOT EXISTS" if if_absent else "CREATE TABLE"
        statement = f"{create} {self.table(table)} ({parts})"
        if day is not None:
            whole = types[day] == "DATE"
            statement += f" PARTITION BY {self.name(day) if whole else f'{types[day]}_TRUNC({self.name(day)}, DAY)'}"
        sorts = re.compile(r"BOOL|INT64|STRING|DATE|DATETIME|TIMESTAMP|(BIG)?NUMERIC.*")
        clustered = [name for name in partition_by or key if name != day and sorts.fullmatch(types[name])]
        if clustered:
            statement += f" CLUSTER BY {self.names(clustered[:MOST_CLUSTERED])}"
        return statement

    def create_stage(self, stage: str, columns: Sequence[Column]) -> str:
        """Return the statement that creates a table that goes by itself after a day."""
        parts = ", ".join(f"{self.name(column.name)} {column.stage_type or column.sql_type}" for column in columns)
        expiry = f"TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL {STAGE_HOURS} HOUR)"
        return f"CREATE TABLE {self.name(stage)} ({parts}) OPTIONS(expiration_timestamp = {expiry})"

    def staged(self, column: Column) -> str:
        """Return the value of a staged row `s` in the column's own type."""
        return f"PARSE_JSON(s.{self.name(column.name)})" if column.stage_type else super().staged(column)

    def content(self, table: str, columns: Sequence[Column]) -> str:  # noqa: ARG002 (a row is hashed as a whole)
        """Return the query of one row that has other values once a row of the table is another one."""
        digest = "CAST(FARM_FINGERPRINT(TO_JSON_STRING(s)) AS BIGNUMERIC)"
        return f"SELECT COUNT(*), CAST(SUM({digest}) AS STRING) FROM {self.table(table)} AS s"

    def truncate(self, table: str) -> str:
        """Return the statement that empties the table; unlike TRUNCATE it says how many rows it held."""
        return f"{super().truncate(table)} WHERE TRUE"


def check_name(name: str) -> None:
    """Check that BigQuery takes a column of that name."""
    if not COLUMN_NAME.fullmatch(name) or "\n" in name:
        raise SchemaError(
            f"BigQuery takes no column of the name {name!r}: at most 300 letters, digits, blanks and _-&%=+:'<>#|. "
            "Rename it."
        )
    if RESERVED_NAMES.match(name):
        raise SchemaError(f"BigQuery keeps names that begin like {name!r} for itself. Rename the column.")


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """Return the Arrow type in which BigQuery keeps values of `kind`."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind) or isinstance(kind, pa.UuidType):
        return pa.string()
    if types.is_integer(kind):
        return pa.decimal128(20, 0) if kind == pa.uint64() else pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_nested(kind) and not _is_native(kind) and has_json_form(kind):
        return pa.json_()
    if types.is_list(kind):
        return pa.list_(stored_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, stored_type(field.type)) for field in kind])
    return kind


def _is_native(kind: pa.DataType) -> bool:
    """Tell whether BigQuery has types for all that a list or a struct holds: no list is in a list, and no map."""
    types = pa.types
    if types.is_list(kind):
        return not types.is_list(kind.value_type) and _is_native(kind.value_type)
    if types.is_struct(kind):
        return all(_is_native(field.type) for field in kind)
    return not types.is_nested(kind)


def arrow_type(field: Any) -> pa.DataType:
    """Return the Arrow type of a column that BigQuery describes.

    Raises:
        UnsupportedError: It has none.
    """
    if field.mode == "REPEATED":
        return pa.list_(_value_type(field))
    return _value_type(field)


def _value_type(field: Any) -> pa.DataType:
    kind = field.field_type.upper()
    if kind in ("NUMERIC", "BIGNUMERIC", "DECIMAL", "BIGDECIMAL"):
        widest = (76, 38) if kind.startswith("BIG") else (38, 9)
        precision, scale = (field.precision, field.scale or 0) if field.precision else widest
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)  # noqa: PLR2004
    if kind in ("RECORD", "STRUCT"):
        return pa.struct([pa.field(inner.name, arrow_type(inner)) for inner in field.fields])
    known = {
        "BOOL": pa.bool_(),
        "BOOLEAN": pa.bool_(),
        "BYTES": pa.binary(),
        "DATE": pa.date32(),
        "DATETIME": pa.timestamp("us"),
        "FLOAT": pa.float64(),
        "FLOAT64": pa.float64(),
        "GEOGRAPHY": pa.string(),
        "INT64": pa.int64(),
        "INTEGER": pa.int64(),
        "JSON": pa.json_(),
        "STRING": pa.string(),
        "TIME": pa.time64("us"),
        "TIMESTAMP": pa.timestamp("us", "UTC"),
    }
    if kind not in known:
        raise UnsupportedError(f"Column {field.name!r} is of BigQuery's type {kind}; cast it in a query, to STRING.")
    return known[kind]


def schema_field(field: pa.Field, dialect: Dialect) -> Any:
    """Google's description of a column of an Arrow type.

    Raises:
        SchemaError: BigQuery takes no column of that name, or has no such type.
    """
    bigquery = require("google.cloud.bigquery", extra="bigquery")
    column = dialect.column(field.name, field.type)
    kind, mode = column.arrow_type, "NULLABLE" if field.nullable else "REQUIRED"
    if pa.types.is_list(kind):
        column, mode = dialect.column(field.name, kind.value_type), "REPEATED"
        kind = column.arrow_type
    if pa.types.is_struct(kind):
        inner = [schema_field(part, dialect) for part in kind]
        return bigquery.SchemaField(field.name, "RECORD", mode, fields=inner)
    exact = {"precision": kind.precision, "scale": kind.scale} if pa.types.is_decimal(kind) else {}
    return bigquery.SchemaField(field.name, column.sql_type.partition("(")[0], mode, **exact)


def sql_type(field: Any) -> str:
    """BigQuery's own name of a column's type, as in DDL."""
    kind = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}.get(
        field.field_type, field.field_type
    )
    if kind == "STRUCT":
        kind += f"<{', '.join(f'`{inner.name}` {sql_type(inner)}' for inner in field.fields)}>"
    elif field.precision:
        kind += f"({field.precision},{field.scale or 0})"
    elif field.max_length:
        kind += f"({field.max_length})"
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind
