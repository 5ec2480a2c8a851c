"""The columns of a table, and what one of them would change of a value without a word."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from blocks.arrow.types import unit_of
from blocks.base.errors import SchemaError
from blocks.base.optional import lazy
from blocks.warehouses.sql import Column
from connectors.mysql.dialect import BOOLEAN, TIME_OF_DAY, UTC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

KIND = re.compile(r"(?P<name>[a-z]+)(?:\((?P<size>.*)\))?(?P<rest>[^)]*)", re.DOTALL)
GENERATED = re.compile(r"\b(?:VIRTUAL|STORED|PERSISTENT)\b")
MEMBER = re.compile(r"'((?:[^']|'')*)'")
INTEGERS = {"tinyint": 8, "smallint": 16, "mediumint": 32, "int": 32, "integer": 32, "bigint": 64}
MOST_BYTES = {"tinytext": 2**8 - 1, "text": 2**16 - 1, "mediumtext": 2**24 - 1}
FIRST_YEAR, LAST_YEAR = 1901, 2155
BINARIES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector")
TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "uuid", "inet")


def described(row: Mapping[str, Any], *, is_json: bool) -> Column:
    """Return a column as SHOW FULL COLUMNS describes it.

    Args:
        row: Its row, by the names of the columns there.
        is_json: Whether MariaDB checks that its text is JSON.
    """
    sql_type, comment, extra = "json" if is_json else row["Type"], row["Comment"], row["Extra"]
    kind, kept, takes = _arrow_types(sql_type, comment)
    if row["Collation"] and not is_json:
        sql_type += f" CHARACTER SET {row['Collation'].partition('_')[0]} COLLATE {row['Collation']}"
    nullable = row["Null"] == "YES"
    if not nullable and ("auto_increment" in extra or sql_type.startswith("timestamp")):
        sql_type += " NOT NULL"  # where it is staged, too: a null would become the next number, or the current time
    elif sql_type.startswith("timestamp"):
        sql_type += " NULL"
    if kind in (pa.bool_(), pa.time64("us"), pa.timestamp("us", "UTC")) and comment in (UTC, TIME_OF_DAY, BOOLEAN):
        sql_type += f" COMMENT '{comment}'"
    has_default = row["Default"] is not None or "auto_increment" in extra
    return Column(row["Field"], sql_type, kind, nullable, has_default, kept=kept, takes=takes)


def is_generated(row: Mapping[str, Any]) -> bool:
    """Tell whether the server computes the column."""
    return GENERATED.search(row["Extra"]) is not None


def _arrow_types(  # noqa: PLR0911 (one type a line)
    sql_type: str, comment: str
) -> tuple[pa.DataType, pa.DataType | None, tuple[pa.DataType, ...]]:
    """Return the Arrow type of a column, what it keeps of a value where that is less, and what else it takes."""
    name, size, rest = _parsed(sql_type)
    unit = unit_of(int(size or 0)) if name in ("time", "datetime", "timestamp") else None
    if name in INTEGERS:
        if name == "tinyint" and size == "1" and "unsigned" not in rest:
            return (pa.bool_(), None, ()) if comment == BOOLEAN else (pa.int8(), None, (pa.bool_(),))
        return pa.type_for_alias(f"{'u' if 'unsigned' in rest else ''}int{INTEGERS[name]}"), None, ()
    if name in ("decimal", "numeric"):
        digits, scale = map(int, size.split(","))
        return (pa.decimal128 if digits <= 38 else pa.decimal256)(digits, scale), None, ()  # noqa: PLR2004 (Arrow's)
    if name == "datetime":
        zone = "UTC" if comment == UTC else None
        return pa.timestamp("us", zone), unit and pa.timestamp(unit, zone), ()
    if name == "timestamp":
        return pa.timestamp("us", "UTC"), unit and pa.timestamp(unit, "UTC"), ()
    if name == "time":
        time_of_day = pa.time32(unit) if unit else pa.time64("us")
        if comment == TIME_OF_DAY:
            return pa.time64("us"), time_of_day if unit else None, ()
        return pa.duration("us"), unit and pa.duration(unit), (time_of_day,)
    if name == "bit":
        return (pa.bool_() if size == "1" else pa.uint64()), None, ()
    if name.startswith(TEXTS):
        return pa.string(), None, ()
    others = {
        "float": pa.float32(),
        "double": pa.float64(),
        "date": pa.date32(),
        "year": pa.uint16(),
        "json": pa.json_(),
    }
    return others.get(name, pa.binary()), None, ()


def _parsed(sql_type: str) -> tuple[str, str, str]:
    """Return the name of a type, what is in its parentheses, and what follows.

    >>> _parsed("decimal(10,2) unsigned"), _parsed("enum('a(1)','b')"), _parsed("double")
    (('decimal', '10,2', ' unsigned'), ('enum', "'a(1)','b'", ''), ('double', '', ''))
    """
    found = KIND.match(sql_type)
    return (found["name"], found["size"] or "", found["rest"]) if found else (sql_type, "", "")


def check_kept(batch: pa.RecordBatch, columns: Mapping[str, Column], first_row: int) -> None:
    """Refuse the values that the server would change without a word, whatever its sql_mode.

    Trailing spaces that a CHAR drops, and a VARCHAR or TEXT that is too short for them; bytes that a BINARY pads; a
    member of an ENUM or a SET by another spelling or by its number; a year of two digits; what FLOAT(M,D) rounds. And
    what it has no value for: NaN and infinity.
    https://dev.mysql.com/doc/refman/8.4/en/char.html and https://dev.mysql.com/doc/refman/8.4/en/enum.html

    Raises:
        SchemaError: There is such a value; the message names column and row.
    """
    for field, values in zip(batch.schema, batch.columns, strict=True):
        column = columns[field.name]
        for changes in _changes(column.sql_type):
            at = pc.index(changes(values), value=True).as_py()
            if at >= 0:
                kind = column.sql_type.partition(" CHARACTER SET")[0]
                raise SchemaError(
                    f"Column {field.name!r}, row {first_row + at} of the data: the value does not fit the "
                    f"table's type, which is {kind:.100}: it would be stored as another one, or not at all. Correct "
                    "it, or change the table's column."
                )


def is_changed_unseen(column: Column) -> bool:
    """Tell whether the server may make another value of one that is copied into the column from one of another type."""
    return bool(_changes(column.sql_type)) and not pa.types.is_uint16(column.arrow_type)


def _changes(sql_type: str) -> list[Callable[[pa.Array], pa.Array]]:
    """Return what tells of an array which values a column of this type would change."""
    name, size, _ = _parsed(sql_type)
    if name in ("float", "double"):
        rounds = [partial(_rounds, digits=int(size.split(",")[1]))] if "," in size else []
        return [lambda values: pc.invert(pc.is_finite(values)), *rounds]
    simple: dict[str, list[Callable[[pa.Array], pa.Array]]] = {
        "char": [_ends_in_space, lambda values: pc.greater(pc.utf8_length(values), int(size))],
        "varchar": [lambda values: pc.greater(pc.utf8_length(values), int(size))],
        "binary": [lambda values: pc.not_equal(pc.binary_length(values), int(size))],
        "enum": [lambda values: _not_in(values, _members(size))],
        "set": [lambda values: _is_spelled(values, _members(size))],
        "year": [_is_no_year],
    }
    if name in MOST_BYTES:
        most = MOST_BYTES[name]
        return [lambda values: pc.and_(_ends_in_space(values), pc.greater(pc.binary_length(values), most))]
    return simple.get(name, [])


def _members(size: str) -> list[str]:
    """Return the members of an ENUM or a SET.

    >>> _members("'a','it''s'")
    ['a', "it's"]
    """
    return [member.replace("''", "'") for member in MEMBER.findall(size)]


def _ends_in_space(values: pa.Array) -> pa.Array:
    return pc.ends_with(values, " ")


def _not_in(values: pa.Array, members: list[str]) -> pa.Array:
    return pc.invert(pc.is_in(values, pa.array([*members, None], pa.string())))


def _is_spelled(values: pa.Array, members: list[str]) -> pa.Array:
    """Tell which values of a SET are not its members, each once and in their order."""
    kept = {text for text in pc.unique(values).to_pylist() if text is not None and not _is_canonical(text, members)}
    return pc.is_in(values, pa.array(sorted(kept), pa.string()))


def _is_canonical(text: str, members: list[str]) -> bool:
    chosen = text.split(",") if text else []
    return [member for member in members if member in chosen] == chosen


def _is_no_year(values: pa.Array) -> pa.Array:
    in_range = pc.and_(pc.greater_equal(values, FIRST_YEAR), pc.less_equal(values, LAST_YEAR))
    return pc.invert(pc.or_(in_range, pc.equal(values, 0)))


def _rounds(values: pa.Array, digits: int) -> pa.Array:
    rounded = pc.round(values.cast(pa.float64()), ndigits=digits).cast(values.type, safe=False)
    return pc.not_equal(rounded, values)
