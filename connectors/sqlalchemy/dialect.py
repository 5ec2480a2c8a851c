"""The SQL of SQLite, and what is known of the SQL of any other database."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from blocks.arrow.types import has_json_form, plain_type
from blocks.base.errors import UnsupportedError
from blocks.base.optional import lazy
from blocks.warehouses.sql import Column, Dialect, no_type_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

CONTENT = "_etl_content"
"""The aggregate that a session defines: the sum of the hashes of texts."""


class SQLiteDialect(Dialect):
    """SQLite: a value keeps its own type, and a column has an affinity by the words in the name of its type.

    The names that are given here have the affinity that changes no value: a decimal is text, because as a number it
    would become a float. https://www.sqlite.org/datatype3.html
    """

    case_counts: ClassVar[bool] = False
    tables_of_schema: ClassVar[str] = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOLEAN",
            pa.int64(): "BIGINT",
            pa.float64(): "DOUBLE",
            pa.string(): "TEXT",
            pa.binary(): "BLOB",
            pa.date32(): "DATE",
            pa.timestamp("us"): "TIMESTAMP",
            pa.timestamp("ns"): "TIMESTAMP_NS",
            pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
            pa.timestamp("ns", "UTC"): "TIMESTAMPTZ_NS",
            pa.time64("us"): "TIME",
            pa.time64("ns"): "TIME_NS",
            pa.json_(): "JSON_TEXT",
            pa.uuid(): "UUID_TEXT",
        }

    @cached_property
    def _arrow_types(self) -> dict[str, pa.DataType]:
        return {name: kind for kind, name in self._types.items()} | {
            "BOOL": pa.bool_(),
            "DATETIME": pa.timestamp("us"),
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column for an Arrow type."""
        stored = stored_type(kind)
        if pa.types.is_decimal(stored):
            return Column(name, f"DECIMAL_TEXT({stored.precision},{stored.scale})", stored)
        return Column(name, self._types[stored], stored)

    def arrow_type(self, declared: str) -> pa.DataType | None:
        """Return the Arrow type of a column by the type that it was declared with; None where its values decide.

        >>> dialect = SQLiteDialect()
        >>> dialect.arrow_type("VARCHAR(20)"), dialect.arrow_type("DECIMAL_TEXT(12,2)"), dialect.arrow_type("NUMERIC")
        (DataType(string), Decimal128Type(decimal128(12, 2)), None)
        """
        words = " ".join(declared.upper().split())
        if known := self._arrow_types.get(words):
            return known
        if exact := re.fullmatch(r"DECIMAL_TEXT\((\d+),(-?\d+)\)", words):
            precision, scale = int(exact[1]), int(exact[2])
            return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)  # noqa: PLR2004
        if "INT" in words:  # in the order of SQLite's own rules for affinity
            return pa.int64()
        if re.search("CHAR|CLOB|TEXT", words):
            return pa.string()
        if "BLOB" in words:
            return pa.binary()
        return pa.float64() if re.search("REAL|FLOA|DOUB", words) else None

    def content(self, table: str, columns: Sequence[Column]) -> str:
        """Return the query of one row that has other values once a row of the table is another one."""
        row = " || ',' || ".join(_told_apart(self.name(column.name)) for column in columns)
        return f"SELECT count(*), {CONTENT}({row}) FROM {self.table(table)}"

    def same_key(self, columns: Sequence[Column], key: Sequence[str]) -> str:
        """Return the condition that two rows have the same key, to the byte: a column may have another collation."""
        names = [self.name(column.name) for column in columns if column.name in key]
        return " AND ".join(f"t.{name} = s.{name} COLLATE BINARY" for name in names)

    def written_otherwise(self, column: Column) -> str | None:
        """Return the condition that a time or a date is not written as a load writes it; None for other types."""
        pattern = ""
        if pa.types.is_temporal(kind := column.arrow_type):
            day = "" if pa.types.is_time(kind) else "*-??-??"
            clock = "" if pa.types.is_date(kind) else f"??:??:??.{'?' * (9 if kind.unit == 'ns' else 6)}"
            pattern = " ".join(filter(None, (day, clock))) + ("Z" if getattr(kind, "tz", None) else "")
        return f"{self.name(column.name)} NOT GLOB '{pattern}'" if pattern else None


def _told_apart(name: str) -> str:
    """Return a value as a text that no other value has; quote() alone ends a text at its first NUL."""
    return f"CASE typeof({name}) WHEN 'text' THEN 't' || hex({name}) ELSE quote({name}) END"


class QueryDialect(Dialect):
    """Any other database: it is asked, and nothing is loaded into it."""

    def __init__(self, product: str, quote: str) -> None:
        self._product, self._quote = product, quote

    def name(self, name: str) -> str:
        """Return a quoted identifier."""
        return self._quote + name.replace(self._quote, self._quote * 2) + self._quote

    def column(self, name: str, kind: pa.DataType) -> Column:  # noqa: ARG002 (there is none)
        """Refuse a new column: what this database does to a value is not known here."""
        raise self.no_loads()

    def content(self, table: str, columns: Sequence[Column]) -> str:  # noqa: ARG002 (there is none)
        """Refuse a fingerprint."""
        raise self.no_loads()

    def no_loads(self) -> UnsupportedError:
        """Return the error that says what to do instead."""
        instead = INSTEAD.get(self._product)
        advice = f"Use {instead}, which loads." if instead else "Write by execute_many, or load elsewhere."
        return UnsupportedError(f"SqlAlchemyConnector asks {self._product}, and loads into SQLite only. {advice}")


INSTEAD = {
    "postgresql": "connectors.postgres.Postgres",
    "redshift": "connectors.redshift.Redshift",
    "snowflake": "connectors.snowflake.Snowflake",
    "bigquery": "connectors.bigquery.BigQuery",
    "duckdb": "connectors.duckdb.DuckDB",
}


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """Return the Arrow type in which SQLite keeps values of `kind`: it has one integer and one float."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind):
        return pa.string()
    if types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_timestamp(kind):
        return kind if kind.unit in ("us", "ns") else pa.timestamp("us", kind.tz)
    if types.is_time(kind):
        return kind if kind.unit == "ns" else pa.time64("us")
    if types.is_decimal(kind) or kind in SQLiteDialect()._types:  # noqa: SLF001 (of this module)
        return kind
    if has_json_form(kind):
        return pa.json_()
    raise no_type_error("SQLite", kind)
