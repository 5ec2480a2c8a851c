"""Every type of an engine's catalogue on its way: read by a scan, loaded into the same engine and into the other."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.arrow.casts import cast_array
from blocks.base.errors import SchemaError, TypeLossError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks.warehouses.warehouse import Warehouse

RECORD = Path(__file__).with_name("type_walks.json")
"""What the walks found, from which docs/tables.py writes docs/types.md."""

POSTGRES: dict[str, tuple[str, ...]] = {
    "aclitem": ("postgres=r/postgres",),
    "bit": ("1", "0"),
    "bool": ("true", "false"),
    "box": ("(1.5,2),(0,0)",),
    "bpchar": ("a", "ü "),
    "bytea": (r"\x00ff", ""),
    "char": ("x",),
    "cid": ("7", "4294967295"),
    "cidr": ("10.0.0.0/8", "2001:db8::/32"),
    "circle": ("<(1,2),3>",),
    "date": ("2026-04-30", "0001-01-01", "9999-12-31", "4713-01-01 BC"),
    "datemultirange": ("{[2026-01-01,2026-02-01)}",),
    "daterange": ("[2026-01-01,2026-02-01)", "(,2026-01-01)", "empty"),
    "float4": ("1.5", "NaN", "-Infinity", "3.4028235e38", "1e-45"),
    "float8": ("0.1", "NaN", "Infinity", "1.7976931348623157e308", "5e-324"),
    "inet": ("10.0.0.1/8", "::1"),
    "int2": ("-32768", "32767"),
    "int2vector": ("1 2", ""),
    "int4": ("-2147483648", "2147483647"),
    "int4multirange": ("{[1,5),[7,9)}",),
    "int4range": ("[1,5)", "empty"),
    "int8": ("-9223372036854775808", "9223372036854775807"),
    "int8multirange": ("{[1,5)}",),
    "int8range": ("[1,)",),
    "interval": ("1 year 2 mons -3 days 04:05:06.000007", "-178000000 years"),
    "json": ('{"b": 1.0,  "a": [null, "ü"]}', "1e400"),
    "jsonb": ('{"b": 1.0, "a": [null, "ü"]}', "123456789012345678901234567890.10"),
    "jsonpath": ('$."a"[*]',),
    "line": ("{1,2,3}",),
    "lseg": ("[(1,2),(3,4)]",),
    "macaddr": ("08:00:2b:01:02:03",),
    "macaddr8": ("08:00:2b:01:02:03:04:05",),
    "money": ("12.34", "-92233720368547758.08"),
    "name": ("a name",),
    "numeric": ("1.50", "0", "-99999999999999999999999999999.123456789"),
    "nummultirange": ("{[1.5,2.5)}",),
    "numrange": ("[1.5,2.5)",),
    "oid": ("7", "4294967295"),
    "oidvector": ("1 2", ""),
    "path": ("[(1,2),(3,4)]", "((1,2),(3,4))"),
    "pg_lsn": ("16/B374D848",),
    "pg_snapshot": ("10:20:10,14,15",),
    "point": ("(1.5,2)",),
    "polygon": ("((0,0),(1,0),(1,1))",),
    "refcursor": ("c",),
    "regclass": ("pg_class",),
    "regcollation": ('"C"',),
    "regconfig": ("english",),
    "regdictionary": ("simple",),
    "regnamespace": ("public",),
    "regoper": ("||/",),
    "regoperator": ("*(integer,integer)",),
    "regproc": ("now",),
    "regprocedure": ("abs(numeric)",),
    "regrole": ("postgres",),
    "regtype": ("integer",),
    "text": ("", "ü\t\\N", "NULL"),
    "tid": ("(0,1)",),
    "time": ("00:00:00", "23:59:59.999999"),
    "timestamp": ("2026-04-30 12:00:00.000001", "1677-01-01", "9999-12-31 23:59:59.999999"),
    "timestamptz": ("2026-04-30 12:00:00.000001+02", "0001-01-01 00:00:00+00"),
    "timetz": ("10:00:00.000001+02", "23:59:59-15:59"),
    "tsmultirange": ("{[2026-01-01,2026-02-01)}",),
    "tsquery": ("'fat' & 'rat'",),
    "tsrange": ("[2026-01-01,2026-02-01)",),
    "tstzmultirange": ("{[2026-01-01 00:00+00,2026-02-01 00:00+00)}",),
    "tstzrange": ("[2026-01-01 00:00+00,)",),
    "tsvector": ("'a' 'cat':2A",),
    "txid_snapshot": ("10:20:10,14,15",),
    "uuid": ("00112233-4455-6677-8899-aabbccddeeff",),
    "varbit": ("101", ""),
    "varchar": ("x",),
    "xid": ("7", "4294967295"),
    "xid8": ("7", "18446744073709551615"),
    "xml": ("<a>ü</a>",),
}
"""Values of each type of PostgreSQL that takes any; the others, of the server's own use, are walked with NULL."""

POSTGRES_TYPES = (
    "CREATE TYPE mood AS ENUM ('ok', 'sad')",
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    "CREATE DOMAIN label AS text",
    "CREATE DOMAIN numbers AS integer[]",
    "CREATE TYPE pair AS (a integer, b text)",
    "CREATE TYPE floatrange AS RANGE (subtype = float8)",
)

POSTGRES_MORE: dict[str, tuple[str, ...]] = {
    "mood": ("ok",),
    "mood[]": ("{ok,NULL}",),
    "positive": ("1",),
    "label": ("x",),
    "numbers": ("{1,2}",),
    "pair": ("(1,a)",),
    "pair[]": ('{"(1,a)"}',),
    "floatrange": ("[1.5,2.5)",),
    "floatmultirange": ("{[1.5,2.5)}",),
    "numeric(12,2)": ("1.50",),
    "numeric(60,0)": ("1" + "0" * 59,),
    "numeric(5,-2)": ("1234567",),
    "numeric(3,5)": ("0.00123",),
    "numeric(12,2)[]": ("{1.50,NULL}",),
    "varchar(3)": ("abc",),
    "char(3)": ("a",),
    "bit(3)": ("101",),
    "bit(3)[]": ("{101,010}",),
    "timestamp(3)": ("2026-04-30 12:00:00.123",),
    "interval[]": ("{1 day,NULL}",),
}

REFUSED_POSTGRES: dict[str, tuple[str, ...]] = {
    "date": ("infinity", "-infinity"),
    "date[]": ("{infinity}",),
    "timestamp": ("infinity", "-infinity", "294276-12-31"),
    "timestamptz": ("infinity",),
    "timestamptz[]": ("{-infinity}",),
    "numeric": ("NaN", "Infinity", "0.12345678901"),
    "numeric[]": ("{NaN}", "{{1},{2}}"),
    "integer[]": ("{{1,2},{3,4}}", "{{{1}}}"),
    "text[]": ("{{a,b},{c,d}}",),
    "money[]": ("{{1},{2}}",),
    "mood[]": ("{{ok},{sad}}",),
    "interval": ("infinity", "2562047788:00:54.775807"),
    "time": ("24:00:00",),
    "interval[]": ("{infinity}",),
}
"""Values that Arrow has no place for: the error names their column. In a table each stands beside one that is read."""


DUCKDB: dict[str, tuple[str, ...]] = {
    "ARRAY": ("[1, 2]::INTEGER[2]", "['101']::BIT[1]"),
    "BIGINT": ("-9223372036854775808", "9223372036854775807"),
    "BIGNUM": ("'123456789012345678901234567890123456789012'::BIGNUM",),
    "BIT": ("'10101'::BIT",),
    "BLOB": (r"'\x00\xFF'::BLOB", "''::BLOB"),
    "BOOLEAN": ("true",),
    "DATE": ("'2026-04-30'::DATE", "'0001-01-01'::DATE", "'9999-12-31'::DATE"),
    "DECIMAL": ("1.50::DECIMAL(12, 2)", "'-99999999999999999999999999999999999999'::DECIMAL(38, 0)"),
    "DOUBLE": ("0.1::DOUBLE", "'nan'::DOUBLE", "'-inf'::DOUBLE", "5e-324::DOUBLE"),
    "ENUM": ("'ok'::ENUM('ok', 'sad')",),
    "FLOAT": ("1.5::FLOAT", "'nan'::FLOAT"),
    "GEOMETRY": ("'POINT (0.1 2)'::GEOMETRY",),
    "HUGEINT": ("'99999999999999999999999999999999999999'::HUGEINT", "-1::HUGEINT"),
    "INTEGER": ("2147483647::INTEGER",),
    "INTERVAL": ("INTERVAL '1 year 2 days 3.000004 seconds'", "INTERVAL '-5 months'"),
    "LIST": ("[1, NULL]", "[[1, 2], [3]]", "['10:00:00+02'::TIMETZ]", "[1::UHUGEINT]", "[]::VARCHAR[]"),
    "MAP": ("MAP {'a': 1}", "MAP {'101'::BIT: '1'::BIT}"),
    "NULL": ("NULL",),
    "SMALLINT": ("'-32768'::SMALLINT",),
    "STRUCT": ("{'a': 1, 'b c': 'x'}", "{'a': '101'::BIT, 'b': [1::UHUGEINT]}"),
    "TIME": ("'23:59:59.999999'::TIME",),
    "TIME WITH TIME ZONE": ("'10:00:00.000001+02:30'::TIMETZ",),
    "TIMESTAMP": ("'2026-04-30 12:00:00.000001'::TIMESTAMP", "'0001-01-01'::TIMESTAMP"),
    "TIMESTAMP WITH TIME ZONE": ("'2026-04-30 12:00:00.000001+02'::TIMESTAMPTZ",),
    "TIMESTAMPTZ_NS": ("'2026-04-30 12:00:00.000000001+02'::TIMESTAMPTZ_NS",),
    "TIMESTAMP_MS": ("'2026-04-30 12:00:00.001'::TIMESTAMP_MS",),
    "TIMESTAMP_NS": ("'2026-04-30 12:00:00.000000001'::TIMESTAMP_NS",),
    "TIMESTAMP_S": ("'2026-04-30 12:00:00'::TIMESTAMP_S",),
    "TIME_NS": ("'10:00:00.000000001'::TIME_NS",),
    "TINYINT": ("'-128'::TINYINT",),
    "TUPLE": ("row(1, 'x')", "row('101'::BIT)"),
    "UBIGINT": ("18446744073709551615::UBIGINT",),
    "UHUGEINT": ("340282366920938463463374607431768211455::UHUGEINT",),
    "UINTEGER": ("4294967295::UINTEGER",),
    "UNION": (
        "union_value(n := 2)::UNION(n INTEGER, s VARCHAR)",
        "union_value(s := 'x')::UNION(n INTEGER, s VARCHAR)",
        "union_value(b := '101'::BIT)",
    ),
    "USMALLINT": ("65535::USMALLINT",),
    "UTINYINT": ("255::UTINYINT",),
    "UUID": ("'00112233-4455-6677-8899-aabbccddeeff'::UUID", "['00112233-4455-6677-8899-aabbccddeeff'::UUID]"),
    "VARCHAR": ("''", "'ü'", "'x'::VARCHAR(3)"),
    "VARIANT": ("42::VARIANT", "{'a': [1, NULL], 'b': 1.50, 'c': 'x'}::VARIANT", "[1::VARIANT]"),
    "JSON": ("""'{"b": 1.0,  "a": "ü"}'::JSON""", "['1'::JSON]"),
}
"""Values of each type of DuckDB; TYPE, which no column can have, is the only one without."""

REFUSED_DUCKDB = (
    "'infinity'::DATE",
    "'-infinity'::DATE",
    "'infinity'::TIMESTAMP",
    "'-infinity'::TIMESTAMPTZ",
    "'infinity'::TIMESTAMP_S",
    "'infinity'::TIMESTAMP_MS",
    "'infinity'::TIMESTAMP_NS",
    "'infinity'::TIMESTAMPTZ_NS",
    "['infinity'::TIMESTAMP]",
    "{'a': 'infinity'::DATE}",
    "MAP {'a': 'infinity'::TIMESTAMPTZ}",
    "['infinity'::TIMESTAMP]::TIMESTAMP[1]",
    "'24:00:00'::TIME",
    "170141183460469231731687303715884105727::HUGEINT",
)


@dataclass(frozen=True)
class Walked:
    """What became of one type: what it is read as, and the columns of new tables; `equal` is the same type again."""

    sql_type: str
    read_as: str
    same: str
    other: str


def walk(source: Warehouse, other: Warehouse, cases: list[tuple[str, str]]) -> list[Walked]:
    """Take the value of each case through a scan, into a table of its own engine and into one of the other.

    Args:
        source: Where the values are.
        other: The other engine.
        cases: The name of a type, and a value of it in SQL.

    Returns:
        What became of each type, which is one and the same for all its values.
    """
    values = ", ".join(f"{expression} AS c{number}" for number, (_, expression) in enumerate(cases))
    source.execute(f"CREATE TABLE src AS SELECT {values}")
    scanned = source.scan("src").to_arrow()
    same, elsewhere = (_into(source, target, scanned) for target in (source, other))
    found: dict[str, set[Walked]] = {}
    for number, (sql_type, _) in enumerate(cases):
        name = f"c{number}"
        read_as = spelt(scanned.schema.field(name).type)
        found.setdefault(sql_type, set()).add(Walked(sql_type, read_as, same[name], elsewhere[name]))
    return [each for of_type in found.values() for each in sorted(of_type, key=str)]


def _into(source: Warehouse, target: Warehouse, scanned: pa.Table) -> dict[str, str]:
    """Load the source's table into a new one; return what each column is there: `equal`, a type, or `refused`."""
    found: dict[str, str] = {}
    for field in scanned.schema:
        try:
            target.dialect.column(field.name, field.type)
        except TypeLossError:
            with _refused(field.name):
                target.plan(source.scan("src").select([field.name]), "dst")
            found[field.name] = "refused"
    found |= _load(source, target, scanned.select([name for name in scanned.schema.names if name not in found]).schema)
    names = [name for name in scanned.schema.names if name not in found]
    loaded, stored, was = target.read_table("dst"), target.table_schema("dst"), source.table_schema("src")
    for name in names:
        expected = scanned[name].combine_chunks()
        got = loaded[name].combine_chunks()
        if pa.types.is_null(expected.type):
            expected = pa.nulls(len(expected), got.type)
        if isinstance(got.type, pa.JsonType):
            expected = cast_array(expected, got.type)
        if pa.types.is_dictionary(expected.type):
            expected = expected.dictionary_decode()
        if got.type != expected.type:
            got = cast_array(got, expected.type)
        assert _parsed(got) == _parsed(expected), name
        kind, own = (described.field(name).metadata[b"sql_type"].decode() for described in (stored, was))
        found[name] = "equal" if source is target and kind == own else kind
    if source is target:
        nested = {field.name for field in scanned.schema if pa.types.is_nested(field.type)}
        kept = [name for name in names if name not in nested or found[name] != "jsonb"]  # that is not cast back
        _same_text(source, {name: was.field(name).metadata[b"sql_type"].decode() for name in kept})
    return found


def _load(source: Warehouse, target: Warehouse, schema: pa.Schema) -> dict[str, str]:
    """Load those columns of the source's table whose value fits; return which are checked and refused, as a type."""
    checked: dict[str, str] = {}
    while True:
        try:
            target.load(source.scan("src").select([name for name in schema.names if name not in checked]), "dst")
        except SchemaError as error:  # the value is finer than what the column holds
            if not (misfit := re.match(r"Column '(c\d+)', row 1 of the data", str(error))):
                raise
            column = target.dialect.column(misfit[1], schema.field(misfit[1]).type)
            checked[misfit[1]] = f"{column.sql_type} (checked)"
        else:
            return checked


def _same_text(warehouse: Warehouse, columns: dict[str, str]) -> None:
    """The engine itself finds the values of both tables equal, once they are of the first one's types again."""
    text = warehouse.dialect.column("x", pa.string()).sql_type
    casts = [
        f"CAST(CAST({name} AS {sql_type}) AS {text})"
        for name, sql_type in columns.items()
        # nothing can be cast to the first ones; the others are the same numbers, written otherwise, and compared above
        if sql_type not in ("int2vector", '"NULL"') and not re.search("TUPLE|json|VARIANT|^numeric", sql_type)
    ]
    before, after = (warehouse.fetch_one(f"SELECT {', '.join(casts)} FROM {table}") for table in ("src", "dst"))
    assert before is not None
    assert [each for each in zip(casts, before, after or (), strict=True) if each[1] != each[2]] == []


def _parsed(values: pa.Array) -> Any:
    """The values, with JSON as what it means: engines write it in their own way."""
    if isinstance(values.type, pa.JsonType):
        return [
            None if text is None else json.loads(text, parse_int=Decimal, parse_float=Decimal)
            for text in values.storage.to_pylist()
        ]
    if pa.types.is_list(values.type) and isinstance(values.type.value_type, pa.JsonType):
        return _parsed(values.flatten())
    return values.to_string(window=100)  # Python has no dates before the year 1


@contextlib.contextmanager
def _refused(column: str) -> Iterator[None]:
    with pytest.raises(SchemaError, match=f"olumn '{column}'"):
        yield


def spelt(kind: pa.DataType) -> str:
    """Return the Arrow type in the words of the documentation."""
    if pa.types.is_dictionary(kind):
        return f"dictionary<{kind.value_type}>"
    return re.sub(r"<(item|l|): ", "<", re.sub(r"extension<arrow\.(\w+)>", r"\1", str(kind)))


def recorded() -> dict[str, list[Walked]]:
    """Return what the walks found when they were recorded."""
    found = json.loads(RECORD.read_text("utf-8"))
    return {engine: [Walked(**each) for each in walked] for engine, walked in found.items()}


def record(engine: str, walked: list[Walked]) -> None:
    """Keep what a walk found."""
    found = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    found[engine] = [asdict(each) for each in walked]
    RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
