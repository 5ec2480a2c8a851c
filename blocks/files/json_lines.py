"""JSON Lines <-> record batches: one object a line.

Blocks of whole lines go to Arrow's reader straight into the declared types; only a block with a bad line is looked at
line by line, by halving. Dates, timestamps and times are text as in CSV (an offset exactly where the column has a time
zone); decimals are numbers or text, written as text so that no reader makes floats of them. A missing key is null.

Types that no schema declares are found in the first 4 MB: integers, floats, booleans, dates, timestamps, text, lists
and structs.
"""

from __future__ import annotations

import json
import re
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json
from pyarrow import types

from blocks.arrow.columns import NOTHING, check_names, completed, is_text
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.files.text import BadRow, Block, count_lines, deliver, parse_in_order, split_blocks
from blocks.files.values import caster, check_values, convert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from blocks.arrow.columns import ExtraColumns
    from blocks.arrow.rejects import Rejects
    from blocks.files.options import OnError
    from blocks.files.text import Parsed, TextSource

_NULL_FIRST, _NULL_AFTER = re.compile(rb"\s*null"), re.compile(rb"\n[ \t\r\f\v]*null")

INFERRED_HINT = " The key's type was found at the start of the file; declare a schema where that is wrong."


@dataclass(frozen=True)
class JsonReader:
    """A JSON Lines file as record batches.

    Args:
        source: The file.
        extra_columns: What to do with keys that the schema lacks.
    """

    source: TextSource
    extra_columns: ExtraColumns = "ignore"

    def infer(self) -> pa.Schema:
        """Infer the schema from the first block.

        Raises:
            InvalidInputError: The file is empty, or its lines are not JSON objects.
            SchemaError: A key has values of several types.
        """
        with closing(self.source.chunks()) as chunks:
            head = next(chunks, b"")
            is_whole = next(chunks, None) is None
        end = len(head) if is_whole else head.rfind(b"\n") + 1 or len(head)
        lines = [line for line in head[:end].splitlines() if line.strip()]
        if not lines:
            raise InvalidInputError(f"{self.source.name} is empty: it has no line to find the types from.")
        objects = b"\n".join(line for line in lines if _is_object(line))
        if not objects:
            raise InvalidInputError(
                f"{self.source.name} is not a JSON Lines file: its first lines are not JSON objects."
            )
        try:
            found = _read(objects, None)
            # Arrow drops the offset of a timestamp, and digits of integers beyond 64 bits.
            schema = pa.schema([pa.field(field.name, _wire(_certain(field.type))) for field in found.schema])
            texts = _read(objects, schema)
        except pa.ArrowInvalid:
            raise SchemaError(
                f"{self.source.name}: a key has values of several types in the first lines. Declare a schema."
            ) from None
        return pa.schema([(field.name, _sensible(field, texts[field.name], objects)) for field in found.schema])

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,
        on_error: OnError = "fail",
        *,
        inferred: bool = False,
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """Read the columns of `schema`, each of exactly its type.

        Raises:
            InvalidInputError: The file is damaged, or a line is bad and nobody takes bad rows.
            SchemaError: A column has a type that JSON has no form for.
        """
        # A line does not say which keys others have, so that a column of a folder is not looked for in the file. What
        # would be null where the file lacked it is: a missing key is null anyway.
        folders = {name for name, value in absent.items() if value.is_valid}
        if inferred and folders:
            folders -= set(self.infer().names)  # what the file has itself counts
        wanted = pa.schema([field for field in schema if field.name not in folders])
        wanted = wanted or pa.schema([("", pa.string())])
        check_types(wanted)
        with closing(self.source.chunks()) as chunks:
            blocks = split_blocks(chunks, line=1, cut=_cut, source=self.source.name)
            strict = inferred or self.extra_columns == "fail"  # a key that inference did not see is never dropped
            parsed = parse_in_order(blocks, _Parser(wanted, strict=strict).parse)
            with closing(parsed):
                hint = INFERRED_HINT if inferred else ""
                for batch in deliver(parsed, source=self.source.name, rejects=rejects, on_error=on_error, hint=hint):
                    yield completed(batch, schema, absent)


class _Parser:
    """Parses blocks of one file into one schema."""

    def __init__(self, schema: pa.Schema, *, strict: bool) -> None:
        self.schema = schema
        self.wire = pa.schema([pa.field(field.name, _wire(field.type)) for field in schema])
        self.unexpected = "error" if strict else "ignore"

    def parse(self, block: Block) -> Parsed:
        data = bytes(block.data)
        if _has_bare_null(data):
            return self._parse_lines(block.line, data)
        try:
            table = self._read(data)
        except pa.ArrowInvalid:
            return self._parse_lines(block.line, data)
        if table.num_rows != count_lines(data) + (not data.endswith(b"\n")):
            return self._parse_lines(block.line, data)
        numbers = range(block.line, block.line + table.num_rows)
        return self._typed(table, numbers, data.splitlines, [])

    def _parse_lines(self, first: int, data: bytes) -> Parsed:
        numbered = [(number, line) for number, line in enumerate(data.split(b"\n"), first) if line.strip()]
        good = list(self._good_lines([(number, line) for number, line in numbered if not _has_bare_null(line)]))
        kept = {number for number, _ in good}
        bad = [
            BadRow(number, *self._fault(line), line.decode(errors="backslashreplace"))
            for number, line in numbered
            if number not in kept
        ]
        lines = [line for _, line in good]
        table = self._read(b"\n".join(lines)) if lines else self.wire.empty_table()
        return self._typed(table, [number for number, _ in good], lambda: lines, bad)

    def _good_lines(self, lines: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """Return the lines that hold one fitting object each, by halving."""
        if not lines:
            return
        with suppress(pa.ArrowInvalid):
            if self._read(b"\n".join(line for _, line in lines)).num_rows == len(lines):
                yield from lines
                return
        if len(lines) > 1:
            half = len(lines) // 2
            yield from self._good_lines(lines[:half])
            yield from self._good_lines(lines[half:])

    def _typed(self, table: pa.Table, numbers: Any, lines: Any, bad: list[BadRow]) -> Parsed:
        """Return the columns in their types; what does not fit joins the bad rows."""
        faults: dict[int, tuple[str, str]] = {}
        arrays = []
        for field in self.schema:
            raw = table[field.name].combine_chunks()
            values, misfits = (
                (raw, {})
                if raw.type == field.type
                else convert(raw, field, caster(field.type), shaped=is_text(raw.type))
            )
            reasons = dict(misfits)
            if not field.nullable and raw.null_count:
                nulls = pc.indices_nonzero(pc.is_null(raw)).to_pylist()
                reasons |= dict.fromkeys(nulls, f"{field.name} is missing")
            for row, reason in reasons.items():
                faults.setdefault(row, (field.name, reason))
            arrays.append(values)
        if faults:
            texts = lines()
            for row, (column, reason) in faults.items():
                bad.append(BadRow(numbers[row], column, reason, texts[row].decode()))
            bad.sort(key=lambda row: row.line)
            good = pa.array([row not in faults for row in range(table.num_rows)])
            arrays = [values.filter(good) for values in arrays]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema), bad

    def _fault(self, line: bytes) -> tuple[str | None, str]:
        """Return the column at fault, where it is one, and the reason for a line that Arrow refused."""
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            return None, "not UTF-8"
        except ValueError:
            return None, "not JSON"
        if not isinstance(value, dict):
            return None, "not a JSON object"
        if self.unexpected == "error" and (key := _unknown_key(value, self.wire)):
            return key, f"{key} is a key that the schema lacks"
        for field in self.wire:
            try:
                _read(line, pa.schema([field]))
            except pa.ArrowInvalid:
                return field.name, _misfit(value.get(field.name), self.schema.field(field.name))
        return None, "not a JSON object in the form that Arrow reads"

    def _read(self, data: bytes) -> pa.Table:
        table = _read(data, self.wire, self.unexpected)
        table.validate(full=True)  # Arrow's reader looks neither at UTF-8 nor at a decimal's precision
        return table


class JsonWriter:
    """Writes record batches as JSON Lines.

    Raises:
        TypeLossError: A type has no form in JSON.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        check_types(schema)
        self.file = file
        self.schema = schema

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows.

        Raises:
            TypeLossError: A number is not finite, or a year is not between 1 and 9999.
        """
        if not batch.num_rows:
            return
        parts: list[Any] = []
        for index, (field, values) in enumerate(zip(self.schema, batch.columns, strict=True)):
            parts += [("{" if index == 0 else ",") + json.dumps(field.name) + ":", _as_json(field, values)]
        lines = pc.binary_join_element_wise(*parts, "}\n", "")
        # The values of a text column lie one behind the other: that is the file.
        _, _, content = lines.buffers()
        self.file.write(memoryview(content)[: pc.sum(pc.binary_length(lines)).as_py()])

    def close(self) -> None:
        """End the file, to which nothing is left to write."""


def check_types(schema: pa.Schema) -> None:
    """Check that JSON can hold every column.

    Raises:
        TypeLossError: A type has none.
    """
    check_names(schema)
    for field in schema:
        if not _has_form(field.type):
            raise TypeLossError(
                f"JSON Lines has no form for column {field.name!r} of type {field.type}. "
                "Write Parquet, or make it a text."
            )


def _has_form(kind: pa.DataType, *, nested: bool = False) -> bool:
    if types.is_struct(kind):
        return kind.num_fields > 0 and all(_has_form(field.type, nested=True) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind):
        return _has_form(kind.value_type, nested=True)
    if types.is_dictionary(kind):
        return not nested and _has_form(kind.value_type)
    if types.is_time(kind) or (types.is_timestamp(kind) and kind.unit == "ns"):
        return not nested
    held = (types.is_boolean, types.is_integer, types.is_date, types.is_timestamp, is_text, types.is_decimal)
    return any(fits(kind) for fits in held) or types.is_float32(kind) or types.is_float64(kind)


def _wire(kind: pa.DataType) -> pa.DataType:
    """Return the type that Arrow's JSON reader is asked for."""
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _wire(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_wire(kind.value_type))
    if types.is_dictionary(kind):
        return _wire(kind.value_type)
    if types.is_temporal(kind) or is_text(kind) or types.is_null(kind):
        return pa.string()
    if types.is_decimal(kind) and not types.is_decimal256(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def _certain(kind: pa.DataType) -> pa.DataType:
    """Return an inferred type without parts that are null only."""
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _certain(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(_certain(kind.value_type))
    return pa.string() if types.is_null(kind) or types.is_temporal(kind) else kind


def _sensible(field: pa.Field, texts: pa.ChunkedArray, objects: bytes) -> pa.DataType:
    """Return the type for the whole file of a key whose start looks like `field`."""
    if types.is_timestamp(field.type):
        for kind in (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns")):
            with suppress(pa.ArrowInvalid):
                pc.cast(texts, kind)
                return kind
    if types.is_floating(field.type):
        with suppress(pa.ArrowInvalid):
            _read(objects, pa.schema([pa.field(field.name, pa.decimal128(38, 0))]))
            return pa.decimal128(38, 0)
    return _certain(field.type)


def _read(data: bytes, schema: pa.Schema | None, unexpected: str = "ignore") -> pa.Table:
    return arrow_json.read_json(
        pa.BufferReader(data),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior=unexpected if schema is not None else "infer"
        ),
    )


def _unknown_key(value: Any, kind: Any) -> str | None:
    """Return the first key, with those around it, that a struct or schema has no field for; None where there is none.

    >>> _unknown_key({"a": {"b": [{"c": 1}]}}, pa.schema([("a", pa.struct([("b", pa.list_(pa.struct({})))]))]))
    'a.b.c'
    """
    if isinstance(value, list) and types.is_list(kind):
        return next(filter(None, (_unknown_key(item, kind.value_type) for item in value)), None)
    if not isinstance(value, dict) or not (isinstance(kind, pa.Schema) or types.is_struct(kind)):
        return None
    fields = {field.name: field.type for field in kind}
    for key, inner in value.items():
        if key not in fields:
            return f"{key:.100}"
        if below := _unknown_key(inner, fields[key]):
            return f"{key}.{below}"
    return None


def _has_bare_null(data: bytes) -> bool:
    r"""Tell whether a line begins with `null`. Arrow takes such a line for a row of nulls, and dies of a block of them.

    >>> _has_bare_null(b'{"a": null}\n'), _has_bare_null(b'{"a": 1}\n null\n')
    (False, True)
    """
    return _NULL_FIRST.match(data) is not None or _NULL_AFTER.search(data) is not None


def _cut(text: bytes) -> tuple[int, bool]:
    return text.rfind(b"\n") + 1, False


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _misfit(value: Any, field: pa.Field) -> str:
    name, kind = field.name, field.type
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if types.is_integer(kind):
        if number:
            return f"{name} is out of range" if isinstance(value, int) else f"{name} is not an integer"
        return f"{name} is not a number"
    if types.is_decimal(kind) and number:
        return f"{name} has more than {kind.scale} decimals or is out of range"
    if types.is_decimal(kind) or types.is_floating(kind):
        return f"{name} is not a number"
    if types.is_boolean(kind):
        return f"{name} is not true or false"
    return f"{name} is not a {'text' if is_text(_wire(kind)) else 'nested value of its type'}"


def _as_json(field: pa.Field, values: pa.Array) -> pa.Array:
    """Write each value as JSON text."""
    kind = field.type
    check_values(field, values, "JSON Lines")
    kind = _in_utc(kind)
    values = pc.cast(values, kind)
    if types.is_floating(kind):
        if not pc.all(pc.is_finite(values), min_count=0).as_py():
            raise _not_finite(field)
        texts = pc.cast(values, pa.string())
    elif types.is_boolean(kind) or types.is_integer(kind):
        texts = pc.cast(values, pa.string())
    elif is_text(kind):
        texts = pc.cast(values, pa.string())
        if pc.any(pc.match_substring_regex(texts, r'["\\\x00-\x1f]')).as_py():
            texts = pa.array([None if text is None else json.dumps(text) for text in texts.to_pylist()], pa.string())
        else:
            texts = _quoted(texts)
    elif types.is_nested(kind):
        texts = pa.array(
            [None if value is None else _nested(value, field) for value in values.to_pylist()], pa.string()
        )
    else:
        texts = _quoted(pc.cast(values, pa.string()))
    return pc.fill_null(texts, "null")


def _in_utc(kind: pa.DataType) -> pa.DataType:
    """Return the type with its moments in UTC, because old local offsets have seconds, which nobody reads."""
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _in_utc(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_in_utc(kind.value_type))
    if types.is_dictionary(kind):
        return kind.value_type
    return pa.timestamp(kind.unit, "UTC") if types.is_timestamp(kind) and kind.tz is not None else kind


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _nested(value: Any, field: pa.Field) -> str:
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        raise _not_finite(field) from None


def _not_finite(field: pa.Field) -> TypeLossError:
    return TypeLossError(f"JSON Lines cannot hold column {field.name!r}: a number is not finite. Write Parquet.")
