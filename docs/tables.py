"""Writes what the documentation tells of the code, from the code: `python docs/tables.py`; `--check`: is it fresh?

* README.md: the table of blocks, from the modules of `etl_blocks.collection` and the extras of pyproject.toml.
* docs/errors.md: the error tree, from `blocks.base.errors`.
* docs/quality.md: where each expectation of Great Expectations can be asked, from what
  `integration_tests/test_quality_parity.py` recorded beside plain Great Expectations.
* docs/types.md: what becomes of every Arrow type in every warehouse, from the dialects, and of every type of PostgreSQL
  and DuckDB, from what `integration_tests/test_type_walks.py` recorded. That values come back in exactly these types is
  proven on real servers by `tests/contracts/warehouse.py` and by those walks.
"""
# ruff: noqa: INP001, T201 (a script)

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from blocks.arrow.rows import TAKEN  # noqa: E402
from blocks.arrow.types import type_loss  # noqa: E402
from blocks.base import errors  # noqa: E402
from blocks.base.block import ConnectorBlock  # noqa: E402
from blocks.base.errors import TypeLossError  # noqa: E402
from blocks.warehouses.warehouse import Warehouse  # noqa: E402
from connectors.duckdb import DuckDB  # noqa: E402
from connectors.postgres import Postgres  # noqa: E402
from connectors.sqlalchemy import SqlAlchemyConnector  # noqa: E402
from connectors.sqlalchemy.dialect import SQLiteDialect  # noqa: E402
from etl_blocks.collection import MODULES  # noqa: E402
from integration_tests.quality_parity import PLACES  # noqa: E402
from integration_tests.quality_parity import recorded as quality_recorded  # noqa: E402
from integration_tests.type_walk import recorded, spelt  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blocks.warehouses.sql import Column, Dialect

TYPES: tuple[pa.DataType, ...] = (
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.decimal128(12, 2),
    pa.decimal128(38, 9),
    pa.decimal256(50, 10),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.binary(),
    pa.large_binary(),
    pa.binary(16),
    pa.date32(),
    pa.date64(),
    pa.timestamp("s"),
    pa.timestamp("ms"),
    pa.timestamp("us"),
    pa.timestamp("ns"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("us", "Europe/Berlin"),
    pa.timestamp("ns", "UTC"),
    pa.time32("s"),
    pa.time64("us"),
    pa.time64("ns"),
    pa.duration("us"),
    pa.duration("ns"),
    pa.month_day_nano_interval(),
    pa.json_(),
    pa.uuid(),
    pa.null(),
    pa.list_(pa.int64()),
    pa.large_list(pa.string()),
    pa.list_(pa.list_(pa.int64())),
    pa.struct({"a": pa.int64()}),
    pa.map_(pa.string(), pa.int64()),
)


TYPES_INTRODUCTION = """\
# What becomes of a type

<!-- Written by docs/tables.py. -->

A column of a new table gets a type that holds every value of the Arrow type, and is read back as the Arrow type in the
third column. *Checked* is a type that holds nearly every value: each is looked at while it is sent, and one that would
become another is refused by column and row, unless the column is named in `allow_loss`, which rounds. Where there is no
type the load is refused and says so: nothing is rounded, cut or turned into text unseen. For a table that exists
already its own types count: [below](#values-that-are-checked), and [loading.md](loading.md#types).

Where an engine has no type for a list, a struct or a map, and one for JSON, they become JSON: integers, floats, truth
values, text and null are JSON's own; decimals are text, digit by digit; dates, times and moments are text in ISO 8601
(moments with a zone in UTC), UUIDs text, maps objects. A float that is not finite has no form, and is refused by row;
bytes and spans of time within them have none, and are refused by column."""


CHECKED_INTRODUCTION = """\
## Values that are checked

Into a column that exists goes what is the same value there, whatever the types: `plan()` says *checked* and what a
value may lose, and one that would is an error that names its column and row, never the value. A float and a decimal are
the same where the shortest text of the float (what `print` shows) is the decimal."""

CHECKED: tuple[tuple[str, str, str], ...] = (
    ("integers", "narrower integers, decimals, floats", "an integer within the range, of which no digit is lost"),
    ("decimals", "narrower decimals, integers, floats", "no more decimals and digits than the column has"),
    ("floats", "decimals", "the shortest text of the float has no more decimals and digits than the column"),
    ("floats", "integers, narrower floats", "a whole number, a float of the same value"),
    ("timestamps, times, durations", "coarser ones, intervals", "what is finer is zero"),
    ("timestamps without a zone", "dates", "midnight"),
    ("lists, maps, structs", "those of other parts", "each part; a field that the data lacks is null"),
    ("structs with new fields", "structs of DuckDB", "all; the fields are added, as `on_new_columns` says for columns"),
    ("lists, maps, structs", "JSON", "floats are finite, no key comes twice in a map"),
    ("text of CSV and JSON Lines, without a schema", "numbers, booleans, dates, times", "as it is written"),
    ("a column without values", "anything", "null"),
)
"""From what, into what, and which values fit."""

NOT_CHECKED = """\
What is of another kind is refused before any row is sent, whatever the values: text into numbers and numbers into text,
truth values into numbers, moments with a zone into columns without one and the other way round. Convert the data, or
load into another table. A new column of decimals that were inferred, from text or from Python's own, has room for 38
digits, 9 of them behind the point, so that the next day's fit too; a column that has no value yet is text."""

PYTHON_INTRODUCTION = """\
## Python's own

What Python holds rows in is loaded, written and checked as a table is. A stream (a generator, an iterator, a cursor) is
read once, when the call is made, and staged on disk some thousand rows at a time, so that a retry has all of them; its
columns are those of all its rows. A dataclass, a model or a named tuple is a row of its fields, also within another
one. Columns of values are what Arrow makes of them where each is the same there. What it would change is kept
(nanoseconds of pandas) or refused by column and row: dates beside datetimes, text beside bytes, moments with and
without a zone, times with one, enums that are neither text nor integers, integers beyond 64 bits, complex numbers, half
a surrogate pair."""


def project() -> dict[str, object]:
    """The `[project]` table of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def block_types() -> list[type[ConnectorBlock]]:
    """The block types that the modules of the collection define, in their order."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        classes = [value for value in vars(module).values() if inspect.isclass(value) and home_of(value) == name]
        found += [each for each in classes if issubclass(each, ConnectorBlock) and not inspect.isabstract(each)]
    return found


def home_of(kind: type) -> str:
    """Where a class is imported from: its module, or the package of which that is a part."""
    return ".".join(kind.__module__.split(".")[:2])


def extra_of(block: type[ConnectorBlock]) -> str | None:
    """The extra that brings the block's driver, None where none is needed."""
    extras: Iterable[str] = project()["optional-dependencies"]  # type: ignore[assignment]
    kit = [base for base in block.__mro__ if base.__module__.startswith("blocks.")]
    home = home_of(block)
    own_modules = [module for name, module in sorted(sys.modules.items()) if f"{name}.".startswith(f"{home}.")]
    used = [
        each
        for module in own_modules
        for each in vars(module).values()
        if inspect.ismodule(each) and each.__name__.startswith("blocks.")
    ]
    parts: list[Any] = [block, *kit, *own_modules, *used]
    named = [extra for part in parts for extra in re.findall(r'extra="([\w-]+)"', inspect.getsource(part))]
    own = home.rpartition(".")[2].replace("_", "-")
    return next((extra for extra in ([own] if own in named else []) + named if extra in extras), None)


def first_sentence(block: type[ConnectorBlock]) -> str:
    """What the block is, in the words of its docstring."""
    return (inspect.getdoc(block) or "").partition("\n")[0]


def blocks_table() -> str:
    """README's table of blocks."""
    rows = [["Block", "Saved as", "Extra", "What it is"]]
    for block in block_types():
        extra = extra_of(block)
        rows.append(
            [
                f"`{home_of(block)}.{block.__name__}`",
                f"`{block.get_block_type_slug()}`",
                f"`{extra}`" if extra else "none",
                first_sentence(block),
            ]
        )
    return table(rows)


def error_tree() -> str:
    """The tree of `blocks.base.errors`, as its docstring draws it."""
    lines = (inspect.getdoc(errors) or "").splitlines()
    tree = [line[4:] for line in lines if line.startswith("    ")]
    return "\n".join(["```text", *tree, "```"])


WALKS_INTRODUCTION = """\
## The types of PostgreSQL and DuckDB

Every type of the engines' own catalogues (`pg_type`, `duckdb_types()`), and what becomes of it: in a scan, in a new
table of the same engine, and in one of the other. *Equal* is the same type again. What Arrow has no type for is read as
text. A value that Arrow has no place for is an error that names its column and says what to write: an infinite date,
timestamp or interval, 24:00:00, a numeric that is NaN or has more than nine decimals without declaring them, an array
of more than one dimension in PostgreSQL, a HUGEINT of 39 digits, an interval of more than 292 years in its time.
An array of PostgreSQL that does not begin at 1 is read as its elements. JSON numbers within a VARIANT are kept as they
are written; loaded into a column of VARIANT they are what DuckDB makes of JSON."""


def checked_table() -> str:
    """Which values fit into the columns of other types."""
    return table([["From", "Into", "Which values"], *map(list, CHECKED)])


def python_table() -> str:
    """What becomes of the containers in which Python holds rows."""
    from blocks.arrow.scan import as_scan
    from tests import containers

    rows = [["Container", "What it is"]]
    for name, make in (containers.CONTAINERS | containers.COLUMNS).items():
        kinds = ", ".join(f"{field.name} {spelt(field.type)}" for field in as_scan(make()).schema)
        rows.append([name, f"`{kinds}`"])
    for name, (make, _) in containers.REFUSED.items():
        try:
            as_scan(make())
        except errors.InvalidInputError as error:
            rows.append([name, str(error).replace(f" Pass {TAKEN}.", " It says what to pass.")])
    return table(rows)


def walks() -> Iterator[str]:
    """What became of every type of the engines' catalogues, and how many there are of each kind."""
    other = {"PostgreSQL": "DuckDB", "DuckDB": "PostgreSQL"}
    for engine, walked in recorded().items():
        yield f"### {engine}"
        texts = sum(re.fullmatch(r"(list<)?string>?", each.read_as) is not None for each in walked)
        outcomes = [
            f"{texts} are read as text, {len(walked) - texts} as their own Arrow type",
            f"{sum(each.same == 'equal' for each in walked)} are the same type again in a new table of {engine}",
            f"{sum(each.other == 'refused' for each in walked)} are refused by {other[engine]}",
        ]
        types = {each.sql_type for each in walked}
        yield f"{len(walked)} kinds of values of {len(types)} types: {'; '.join(outcomes)}."
        head = ["Type", "Read as", f"In {engine}", f"In {other[engine]}"]
        rows = [[code(each.sql_type), code(each.read_as), code(each.same), code(each.other)] for each in walked]
        yield table([head, *rows])


FRAMES_INTRODUCTION = """\
## The dtypes of pandas and polars

What a column of a frame is in Arrow, and what a new table has for it. *Refused* is an error that names the column;
*checked* is said above (`dt.as_unit("us")` cuts what is finer). Missing values are null, NaN in a float
column of pandas among them. A named index of pandas becomes columns, one without a name is left out; columns of several
names each (a MultiIndex), and columns without one, are refused."""


def frames() -> Iterator[str]:
    """What becomes of every dtype of pandas and polars in DuckDB and PostgreSQL."""
    from blocks.arrow.scan import as_scan
    from tests.frames import columns_of, frame_of

    engines = {block.__name__: block.model_construct().dialect for block in (DuckDB, Postgres)}
    for library in ("pandas", "polars"):
        yield f"### {library}"
        rows = [["dtype", "Arrow type", *engines]]
        for name, series in columns_of(library).items():
            try:
                kind = as_scan(frame_of(series)).schema.field("x").type
            except errors.InvalidInputError:
                rows.append([f"`{name}`", *["refused"] * (1 + len(engines))])
            else:
                rows.append([f"`{name}`", f"`{spelt(kind)}`", *(column_in(each, kind) for each in engines.values())])
        yield table(rows)


def column_in(dialect: Dialect, kind: pa.DataType) -> str:
    """The type of a new column, or that there is none."""
    try:
        column = dialect.column("x", kind)
        return f"`{column.sql_type}`" + (", checked" if type_loss(kind, column.arrow_type) else "")
    except TypeLossError:
        return "refused"


def code(text: str) -> str:
    """A type as code, an outcome as it is."""
    kind, found, _ = text.partition(" (checked)")
    return text if text in ("equal", "refused") else f"`{kind}`{', checked' if found else ''}"


def types_page() -> str:
    """docs/types.md."""
    parts = [TYPES_INTRODUCTION]
    for block in block_types():
        if issubclass(block, Warehouse):
            sqlite = block is SqlAlchemyConnector
            title = f"{block.__name__} with SQLite" if sqlite else block.__name__
            parts += [f"## {title}", types_table(SQLiteDialect() if sqlite else block.model_construct().dialect)]
    parts += [CHECKED_INTRODUCTION, checked_table(), NOT_CHECKED, PYTHON_INTRODUCTION, python_table()]
    parts += [FRAMES_INTRODUCTION, *frames(), WALKS_INTRODUCTION, *walks()]
    return "\n\n".join(parts) + "\n"


def types_table(dialect: Dialect) -> str:
    """What becomes of every Arrow type in one warehouse."""
    rows = [["Arrow type", "Column", "Read back as", "Lost"]]
    for kind in TYPES:
        try:
            column = dialect.column("x", kind)
        except TypeLossError as error:
            rows.append([f"`{spelt(kind)}`", "refused", "", str(error)])
        else:
            rows.append(
                [
                    f"`{spelt(kind)}`",
                    f"`{column.sql_type}`",
                    f"`{spelt(column.arrow_type)}`",
                    lost(kind, column),
                ]
            )
    return table(rows)


def lost(kind: pa.DataType, column: Column) -> str:  # noqa: PLR0911 (one rule a line)
    """What is lost on the way, in a few words."""
    if loss := type_loss(kind, column.arrow_type):
        return f"checked: {loss}"
    if pa.types.is_interval(kind):
        return "what is finer than a microsecond"
    if column.sql_type == "jsonb" and kind == pa.json_():
        return "blanks, the order of keys, all but the last of equal keys; values are kept"
    if column.sql_type == "json":
        return "on MySQL blanks, the order of keys and all but the last of equal keys; on MariaDB nothing"
    if column.sql_type == "double":
        return "the sign of zero; NaN and infinity are refused"
    if pa.types.is_timestamp(kind) and kind.tz not in (None, "UTC"):
        return "the name of the zone; the instant is kept"
    return "nothing"


def quality_table() -> str:
    """Where each expectation of Great Expectations can be asked."""
    rows = [["expectation", *PLACES]]
    for kind, places in quality_recorded().items():
        rows.append([f"`{kind}`", *("yes" if place in places else "" for place in PLACES)])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def between(text: str, name: str, content: str) -> str:
    """The text with `content` between its markers of that name."""
    start, end = f"<!-- {name}: written by docs/tables.py -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    if not found or end not in rest:
        raise SystemExit(f"The markers of {name!r} are missing.")
    return f"{before}{start}\n{content}\n{end}{rest.partition(end)[2]}"


def pages() -> Iterator[tuple[Path, str]]:
    """Each file that is written, and what has to be in it."""
    readme, guide = ROOT / "README.md", ROOT / "docs" / "errors.md"
    yield readme, between(readme.read_text("utf-8"), "blocks", blocks_table())
    yield guide, between(guide.read_text("utf-8"), "errors", error_tree())
    quality = ROOT / "docs" / "quality.md"
    yield quality, between(quality.read_text("utf-8"), "expectations", quality_table())
    yield ROOT / "docs" / "types.md", types_page()


def stale() -> list[str]:
    """The files that do not hold what they should."""
    return [
        file.relative_to(ROOT).as_posix()
        for file, text in pages()
        if not file.exists() or file.read_text("utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """0, or 1 where something is stale and `--check` was asked."""
    if arguments == ["--check"]:
        for name in stale():
            print(f"{name} is stale. Run: python docs/tables.py", file=sys.stderr)
        return 1 if stale() else 0
    for file, text in list(pages()):
        file.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
