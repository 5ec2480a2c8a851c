"""JSON Lines <-> record batches: one object a line. Arrays of objects, and objects over several lines, are read too.

Blocks of whole lines go to Arrow's reader straight into the declared types; only a block with a bad line is looked at
line by line, by halving. Dates, timestamps and times are text as in CSV (an offset exactly where the column has a time
zone); decimals are numbers or text, written as text so that no reader makes floats of them. A missing key is null.
A column declared as `pa.json_()` takes every value as it is written, one declared as text what is not a text as well.

Types that no schema declares are found in the first 4 MB: integers, floats, booleans, dates and timestamps (by the rule
of `inference`), text, lists and structs. They hold for all of the file: a value of another type, a key that was not
there and an integer that a float does not hold exactly are bad rows.
"""

from __future__ import annotations

import itertools
import json
import re
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json
from pyarrow import types

from blocks.arrow.casts import cast_array
from blocks.arrow.columns import NOTHING, check_names, completed, is_text
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.files.inference import TextColumn
from blocks.files.json_values import as_lines, with_texts
from blocks.files.text import RECORD_BYTES, BadRow, Block, count_lines, deliver, parse_in_order, split_blocks
from blocks.files.values import NOT_UTF8, caster, check_values, convert

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from blocks.arrow.columns import ExtraColumns
    from blocks.arrow.rejects import Rejects
    from blocks.files.options import JsonOptions, OnError
    from blocks.files.protocols import InferredColumn
    from blocks.files.text import Parsed, TextSource

_NULL_FIRST, _NULL_AFTER = re.compile(rb"\s*null"), re.compile(rb"\n[ \t\r\f\v]*null")

INFERRED_HINT = " The keys and their types were found at the start of the data; declare a schema that holds this one."
FLOAT_INTEGERS = Decimal(2**53)
"""Floats hold every integer up to this one."""
LONG_INTEGER, LONG_FRACTION = 16, 19
"""Shorter numbers, counted with their point, have no more digits than floats: 15 surely, 17 in the text of one."""


@dataclass(frozen=True)
class JsonReader:
    """A JSON Lines file as record batches.

    Args:
        source: The file.
        options: How it is written down.
        extra_columns: What to do with keys that the schema lacks.
        lines: Whether objects that are not in an array have a line each.
    """

    source: TextSource
    options: JsonOptions
    extra_columns: ExtraColumns = "ignore"
    lines: bool = True

    def infer(self) -> dict[str, JsonColumn]:
        """Find out the keys and their types from the first block.

        Raises:
            InvalidInputError: The file is empty, or its lines are not JSON objects.
            SchemaError: A key has values of several types.
        """
        _, all_chunks = self._chunks()
        with closing(all_chunks) as chunks:
            head, following = next(chunks, b""), next(chunks, b"")
            blocks = split_blocks(itertools.chain([head, following], chunks), line=1, cut=_cut, endless=self._endless)
            sample = itertools.islice(blocks, 1 if following else None)
            lines = [line for block in sample for line in bytes(block.data).split(b"\n") if line.strip()]
        if not lines:
            raise InvalidInputError(f"{self.source.name} is empty: it has no line to find the types from.")
        objects = b"\n".join(line for line in lines if _is_object(line))
        if not objects:
            raise InvalidInputError(
                f"{self.source.name} is not a JSON Lines file: its first lines are not JSON objects."
            )
        try:
            return _columns(objects, TextColumn(formats=self.options.timestamp_formats, times_only=True))
        except pa.ArrowInvalid as error:
            raise self._mixed(error) from None

    def _mixed(self, error: pa.ArrowInvalid) -> SchemaError:
        """Return the error for objects of which no type holds the values, from Arrow's words, which name the key."""
        found = re.search(r"Column\(/(?P<key>.*)\) (changed from (?P<one>\w+) to (?P<other>\w+)|was)", str(error))
        key = found["key"].replace("/[]", "") if found else ""
        if found is None:
            fault = "the first objects have a value that Arrow does not read"
        elif found["one"] is None:
            fault = f"the key {key!r:.200} is there twice in one of the first objects"
        else:
            fault = f"the key {key!r:.200} is {found['one']} and {found['other']} in the first objects"
        return SchemaError(
            f"{self.source.name}: {fault}. Declare a schema, in which pa.json_() or pa.string() takes any value."
        )

    def _chunks(self) -> tuple[bool, Generator[bytes]]:
        """Return whether the objects have the lines of the file, and the text with a line for each."""
        source = replace(self.source, encoding=self.options.encoding)
        return as_lines(source.chunks(), source.name, lines=self.lines)

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,
        on_error: OnError = "fail",
        *,
        inferred: Mapping[str, InferredColumn] = NOTHING,
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
            folders -= set(self.infer())  # what the file has itself counts
        wanted = pa.schema([field for field in schema if field.name not in folders])
        wanted = wanted or pa.schema([("", pa.string())])
        check_types(pa.schema(field for field in wanted if not is_json(field.type)) or pa.schema([("", pa.string())]))
        by_line, all_chunks = self._chunks()
        with closing(all_chunks) as chunks:
            blocks = split_blocks(chunks, line=1, cut=_cut, endless=self._endless)
            strict = bool(inferred) or self.extra_columns == "fail"  # a key that inference did not see is never dropped
            parsed = parse_in_order(blocks, _Parser(wanted, inferred, self.options, strict=strict).parse)
            with closing(parsed):
                delivered = deliver(
                    parsed,
                    source=self.source.name,
                    rejects=rejects,
                    on_error=on_error,
                    hint=lambda row: INFERRED_HINT if inferred and row.column is not None else "",
                    unit="line" if by_line else "object",
                )
                for batch in delivered:
                    yield completed(batch, schema, absent)

    def _endless(self, line: int) -> InvalidInputError:
        return InvalidInputError(
            f"{self.source.name} line {line}: a line starts here that is longer than {RECORD_BYTES // 2**20} MiB. "
            "JSON Lines has one object a line."
        )


class _Parser:
    """Parses blocks of one file into one schema."""

    def __init__(
        self, schema: pa.Schema, inferred: Mapping[str, InferredColumn], options: JsonOptions, *, strict: bool
    ) -> None:
        self.schema = schema
        columns = {name: cast("JsonColumn", column) for name, column in inferred.items()}
        # Where files of another format have a wider type, the file's own is read, and becomes that.
        own = {name: column.type for name, column in columns.items()}
        self.own = pa.schema([pa.field(field.name, own.get(field.name, field.type)) for field in schema])
        self.wire = pa.schema([pa.field(field.name, _wire(field.type)) for field in self.own])
        self.checked = {name for name, column in columns.items() if is_text(_wire(column.type))}
        self.casts = {
            field.name: columns[field.name].texts.cast
            if field.name in self.checked
            else caster(field.type, formats=options.timestamp_formats, epoch=options.epoch)
            for field in self.own
        }
        self.raw = {field.name for field in schema if is_json(field.type)}
        declared = [field for field in schema if field.name not in columns]
        self.texts = {
            field.name
            for field in declared
            if is_text(field.type) or (options.epoch is not None and types.is_timestamp(field.type))
        }
        self.shaped = not (options.timestamp_formats or options.epoch)
        self.floats = pa.schema(field for field in self.own if field.name in columns and _float_count(field.type))
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
        return self._typed(table, range(block.line, block.line + table.num_rows), data, [])

    def _parse_lines(self, first: int, data: bytes) -> Parsed:
        numbered = [(number, line) for number, line in enumerate(data.split(b"\n"), first) if line.strip()]
        good = list(self._good_lines([(number, line) for number, line in numbered if not _has_bare_null(line)]))
        kept = {number for number, _ in good}
        bad = [
            BadRow(number, *self._fault(line), line.decode(errors="backslashreplace"))
            for number, line in numbered
            if number not in kept
        ]
        text = b"\n".join(line for _, line in good)
        table = self._read(text) if good else self.wire.empty_table()
        return self._typed(table, [number for number, _ in good], text, bad)

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

    def _typed(self, table: pa.Table, numbers: Sequence[int], data: bytes, bad: list[BadRow]) -> Parsed:
        """Return the columns in their types; what does not fit joins the bad rows."""
        faults = dict(_rounded_integers(data, self.floats)) if self.floats else {}
        arrays = []
        for field, own in zip(self.schema, self.own, strict=True):
            raw, checked = table[field.name].combine_chunks(), field.name in self.checked
            values, misfits = (
                (raw, {})
                if raw.type == own.type and not checked
                else convert(
                    raw,
                    own,
                    self.casts[field.name],
                    shaped=self.shaped and is_text(raw.type) and not checked,
                    inferred=checked,
                )
            )
            values = values if own.type == field.type else cast_array(values, field.type)
            reasons = dict(misfits)
            if not field.nullable and raw.null_count:
                nulls = pc.indices_nonzero(pc.is_null(raw)).to_pylist()
                reasons |= dict.fromkeys(nulls, f"{field.name} is missing")
            for row, reason in reasons.items():
                faults.setdefault(row, (field.name, reason))
            arrays.append(values)
        if faults:
            texts = data.split(b"\n")
            for row, (column, reason) in faults.items():
                bad.append(BadRow(numbers[row], column, reason, texts[row].decode()))
            bad.sort(key=lambda row: row.line)
            good = pa.array([row not in faults for row in range(table.num_rows)])
            arrays = [values.filter(good) for values in arrays]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema), bad

    def _fault(self, line: bytes) -> tuple[str | None, str]:  # noqa: PLR0911 (one fault a line)
        """Return the column at fault, where it is one, and the reason for a line that Arrow refused."""
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            return None, NOT_UTF8
        except ValueError:
            return None, "not JSON"
        except RecursionError:
            return None, "nested too deeply"
        if not isinstance(value, dict):
            return None, "not a JSON object"
        if self.unexpected == "error" and (key := _unknown_key(value, self.wire)):
            return key, f"{key} is a key that the schema lacks"
        for field in self.wire:
            try:
                _read(self._respelled(line), pa.schema([field]))
            except pa.ArrowInvalid:
                return field.name, _misfit(value.get(field.name), self.schema.field(field.name))
        return None, "not a JSON object in the form that Arrow reads"

    def _read(self, data: bytes) -> pa.Table:
        """Read objects, one a line, by Arrow's reader.

        Raises:
            pa.ArrowInvalid: One of them does not fit.
        """
        if not self.raw:
            try:
                return self._read_as_it_is(data)
            except pa.ArrowInvalid:
                if not self.texts:
                    raise
        return self._read_as_it_is(b"\n".join(map(self._respelled, data.split(b"\n"))))

    def _read_as_it_is(self, data: bytes) -> pa.Table:
        table = _read(data, self.wire, self.unexpected)
        table.validate(full=True)  # Arrow's reader looks neither at UTF-8 nor at a decimal's precision
        return table

    def _respelled(self, line: bytes) -> bytes:
        """Return the object with texts for what columns of texts take as it is written."""
        return with_texts(line, self.texts, self.raw) if self.raw or self.texts else line


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
    held = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_date,
        types.is_timestamp,
        is_text,
        types.is_decimal,
    )
    return any(fits(kind) for fits in held) or types.is_float32(kind) or types.is_float64(kind)


def _wire(kind: pa.DataType) -> pa.DataType:
    """Return the type that Arrow's JSON reader is asked for."""
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _wire(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_wire(kind.value_type))
    if types.is_dictionary(kind):
        return _wire(kind.value_type)
    if types.is_temporal(kind) or is_text(kind) or types.is_null(kind) or is_json(kind):
        return pa.string()
    if types.is_decimal(kind) and not types.is_decimal256(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def is_json(kind: pa.DataType) -> bool:
    """Tell whether it is Arrow's type of JSON texts."""
    return isinstance(kind, pa.JsonType)


NO_TEXTS = TextColumn(times_only=True)


@dataclass(frozen=True)
class JsonColumn:
    """What JSON objects say of a key.

    Args:
        kind: The type of its values, null where nothing is known.
        texts: What is known of its texts, which may be dates and timestamps.
    """

    kind: pa.DataType
    texts: TextColumn = NO_TEXTS
    nullable = True

    @property
    def type(self) -> pa.DataType:
        """The type of the column."""
        return self.texts.type if types.is_string(self.kind) else _certain(self.kind)

    def __or__(self, other: JsonColumn) -> JsonColumn:
        """Return what the objects of both say.

        Raises:
            SchemaError: A value cannot be both.
        """
        return JsonColumn(_either(self.kind, other.kind), self.texts | other.texts)


def _either(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type of values that are of one of two types."""
    if kind == other or types.is_null(other):
        return kind
    if types.is_null(kind):
        return other
    if types.is_list(kind) and types.is_list(other):
        return pa.list_(_either(kind.value_type, other.value_type))
    if types.is_struct(kind) and types.is_struct(other):
        fields = {field.name: field.type for field in kind}
        for field in other:
            fields[field.name] = _either(fields.get(field.name, pa.null()), field.type)
        return pa.struct(list(fields.items()))
    for number in (pa.float64(), pa.decimal128(38, 0)):  # whether an integer fits is seen when it is read
        if {kind, other} == {pa.int64(), number}:
            return number
    raise SchemaError(f"is {other}, and {kind} in the files before it")


def _columns(objects: bytes, unseen: TextColumn) -> dict[str, JsonColumn]:
    """Find out the keys of JSON objects, one a line, and the types of their values."""
    kinds = {field.name: _untimed(field.type) for field in _read(objects, None).schema}
    # Arrow drops the offset of a timestamp, and digits of integers beyond 64 bits.
    texts = _read(objects, pa.schema([(name, _wire(_certain(kind))) for name, kind in kinds.items()]))
    columns = {}
    for name, kind in kinds.items():
        column = JsonColumn(kind if not _float_count(kind) else _with_long_integers(name, kind, objects), unseen)
        if types.is_string(kind):
            column = replace(column, texts=column.texts.seen(texts[name].combine_chunks()))
        columns[name] = column
    return columns


def _untimed(kind: pa.DataType) -> pa.DataType:
    """Return an inferred type with the texts that Arrow takes for timestamps as texts."""
    if types.is_struct(kind):
        return pa.struct([(field.name, _untimed(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(_untimed(kind.value_type))
    return pa.string() if types.is_temporal(kind) else kind


def _certain(kind: pa.DataType) -> pa.DataType:
    """Return an inferred type without parts that are null only."""
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _certain(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(_certain(kind.value_type))
    return pa.string() if types.is_null(kind) else kind


def _float_count(kind: pa.DataType) -> int:
    """Return how many parts of a type are floats."""
    if types.is_struct(kind):
        return sum(_float_count(field.type) for field in kind)
    return _float_count(kind.value_type) if types.is_list(kind) else int(types.is_floating(kind))


def _with_long_integers(name: str, kind: pa.DataType, objects: bytes) -> pa.DataType:
    """Return the type of a key with decimals for the floats that are all integers, some too long for a float."""
    places = range(_float_count(kind))
    long = [place for place in places if _has_long_integers(name, _without_float(_certain(kind), place), objects)]
    for place in reversed(long):
        kind = _without_float(kind, place)
    return kind


def _has_long_integers(name: str, kind: pa.DataType, objects: bytes) -> bool:
    """Tell whether values are of a type that has one decimal, and some of its integers are longer than a float's."""
    try:
        table = _read(objects, pa.schema([(name, _wire(kind))]))
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    decimals = (part for part in _parts(table[name].combine_chunks()) if types.is_decimal(part.type))
    are_long = any(pc.any(pc.greater(pc.abs(part), pa.scalar(FLOAT_INTEGERS))).as_py() for part in decimals)
    return are_long and not _has_floats(name, objects)


def _has_floats(name: str, objects: bytes) -> bool:
    """Tell whether a number within a key is written with a point or an exponent, as no integer is."""

    def holds_float(value: Any) -> bool:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return isinstance(value, float) or any(map(holds_float, inner))

    return any(holds_float(json.loads(line).get(name)) for line in objects.split(b"\n"))


def _parts(values: pa.Array) -> Iterator[pa.Array]:
    """Return the arrays of which a nested one is made."""
    if types.is_struct(values.type):
        for part in values.flatten():
            yield from _parts(part)
    elif types.is_list(values.type):
        yield from _parts(values.flatten())
    else:
        yield values


def _without_float(kind: pa.DataType, place: int) -> pa.DataType:
    """Return the type with a decimal for its float number `place`."""
    if types.is_list(kind):
        return pa.list_(_without_float(kind.value_type, place))
    if not types.is_struct(kind):
        return pa.decimal128(38, 0) if types.is_floating(kind) and place == 0 else kind
    fields = []
    for field in kind:
        fields.append((field.name, _without_float(field.type, place) if place >= 0 else field.type))
        place -= _float_count(field.type)
    return pa.struct(fields)


def _rounded_integers(data: bytes, floats: pa.Schema) -> Iterator[tuple[int, tuple[str, str]]]:
    """Find integers that a float does not hold, in lines of which each is one object: by row the key and the reason."""
    ends = None
    for position in _long_numbers(data):
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) if ends is None else ends
        row = int(np.searchsorted(ends, position))
        start, end = int(ends[row - 1]) + 1 if row else 0, int(ends[row]) if row < len(ends) else len(data)
        if key := _rounded(json.loads(data[start:end], parse_float=Decimal), floats):
            yield row, (key, f"{key} has more digits than a number with decimals can hold")


def _long_numbers(data: bytes) -> Iterator[int]:
    """Find where numbers begin, outside of quotes, of which a float may not hold every digit."""
    codes = np.frombuffer(data, np.uint8)
    within = np.concatenate([[False], (codes - ord("0") < 10) | (codes == ord(".")), [False]])  # noqa: PLR2004 (digits)
    borders = np.flatnonzero(within[1:] != within[:-1])
    starts, lengths = borders[0::2], borders[1::2] - borders[0::2]
    long = (lengths >= LONG_INTEGER) & (codes[starts - 1] != ord('"'))
    for start, length in zip(starts[long].tolist(), lengths[long].tolist(), strict=True):
        if length >= LONG_FRACTION or b"." not in data[start : start + length]:
            yield start


def _rounded(value: Any, kind: Any) -> str | None:
    """Return the first key whose number is not what a float, which its type asks for, makes of it."""
    if isinstance(value, list) and types.is_list(kind):
        return next((key for item in value if (key := _rounded(item, kind.value_type)) is not None), None)
    if isinstance(value, dict) and (isinstance(kind, pa.Schema) or types.is_struct(kind)):
        for field in kind:
            below = _rounded(value.get(field.name), field.type)
            if below is not None:
                return f"{field.name}.{below}" if below else field.name
        return None
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    return "" if is_number and types.is_floating(kind) and Decimal(value) != Decimal(repr(float(value))) else None


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
    except (ValueError, RecursionError):
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
