"""CSV <-> record batches at Arrow's speed, where every bad row has its line and its reason.

Blocks of whole records go to Arrow's reader straight into the declared types. Only a block with a bad value is read a
second time as text and checked column by column. What a value may look like:

* Integers, decimals, floats: whitespace around them does not count; `1e3` is a number but not an integer; `1.239` is
  not a decimal(12, 2): nothing is rounded. Booleans: true, false, 1, 0.
* Dates `2026-04-30`; timestamps ISO 8601, with an offset exactly where the column has a time zone; times `12:34:56.7`.
* Text is taken as it stands, with whitespace, and line ends in quotes. An empty field is null, `""` is an empty text.
* Empty lines do not count, but in a file of one column each is a null.
* What of this a file does otherwise, `CsvOptions` say; a column without a name gets one by the rule of `header`.

Types that no schema declares are found in the first 4 MB by the rule of `inference`, and hold for all of the file.
"""

from __future__ import annotations

import csv as python_csv
import itertools
import re
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, types

from blocks.arrow.casts import cast_array
from blocks.arrow.columns import NOTHING, check_names, completed, is_text, listed, present_fields
from blocks.arrow.types import is_number
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.files.csv_records import Dialect, Positions
from blocks.files.header import named
from blocks.files.inference import TextColumn
from blocks.files.options import CsvOptions
from blocks.files.text import (
    RECORD_BYTES,
    BadRow,
    Block,
    deliver,
    line_ends,
    parse_in_order,
    split_blocks,
    without_footer,
)
from blocks.files.values import NOT_UTF8, applicable, caster, check_values, convert

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from blocks.arrow.columns import ExtraColumns
    from blocks.arrow.rejects import Rejects
    from blocks.files.csv_records import Quotes
    from blocks.files.options import OnError
    from blocks.files.protocols import InferredColumn
    from blocks.files.text import Parsed, TextSource
    from blocks.files.values import Cast

HELD = (
    types.is_boolean,
    types.is_integer,
    types.is_floating,
    types.is_decimal,
    types.is_date,
    types.is_time,
    types.is_timestamp,
)
NULL_MARK = b"\x1aN\x1a"
DELIMITERS = ("\t", ";", "|", ",", " ")
"""Looked for where the header lacks the delimiter; a space only where names are quoted, as R does."""
SAMPLED_RECORDS = 100
"""How many records at the start tell delimiter and columns."""
AFTER_QUOTED = "text after a quoted field"
TOO_FEW, TOO_MANY = RAGGED = ("too few fields", "too many fields")
INFERRED_HINT = (
    " Its type was found at the start of the data, where it holds throughout; declare a schema, in which text "
    "(pa.string()) takes every value."
)


class CsvReader:
    """A CSV file as record batches.

    Args:
        source: The file.
        options: How it is written down.
        extra_columns: What to do where the file has more columns than the schema.
    """

    def __init__(self, source: TextSource, options: CsvOptions, *, extra_columns: ExtraColumns = "ignore") -> None:
        self.source = replace(source, encoding=options.encoding)
        self.options = options
        self.extra_columns = extra_columns
        self.dialect = Dialect.of(options)

    def infer(self) -> dict[str, TextColumn]:
        """Find out the columns from the first block.

        Raises:
            InvalidInputError: The file is empty, or no CSV file.
            SchemaError: Two columns have one name.
        """
        options = self.options
        unseen = TextColumn(formats=options.timestamp_formats, numbers=options.numbers)
        with closing(self._chunks()) as chunks:
            head = self._head(chunks)
            names, start, line = self._header(head, None)
            following = next(chunks, b"")
            blocks = self._blocks(itertools.chain([head[start:], following], chunks), line)
            sample = list(itertools.islice(blocks, 1 if following else None))
        columns = dict.fromkeys(names, unseen)
        for block in sample:
            table = self.parse(self.records(block, names).regular, names, dict.fromkeys(names, pa.binary()))
            arrays = zip(names, table.columns, strict=True)
            columns = {name: columns[name].seen(_decoded(_array(values))) for name, values in arrays}
        return columns

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,
        on_error: OnError = "fail",
        *,
        inferred: Mapping[str, InferredColumn] = NOTHING,
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Generator[pa.RecordBatch]:
        """Read the columns of `schema`, each of exactly its type.

        Raises:
            InvalidInputError: The file is empty, damaged or no CSV file, or a row is bad and nobody takes bad rows.
            SchemaError: The file lacks a column.
        """
        check_types(schema)
        with closing(self._chunks()) as chunks:
            head = self._head(chunks)
            names, start, line = self._header(head, schema)
            wanted = present_fields(names, schema, absent, self.source.name, self.extra_columns)
            wanted = wanted or pa.schema([(names[0], pa.string())])
            blocks = self._blocks(itertools.chain([head[start:]], chunks), line)
            parsed = parse_in_order(blocks, _Parser(self, names, wanted, inferred).parse)
            with closing(parsed):
                delivered = deliver(
                    parsed,
                    source=self.source.name,
                    rejects=rejects,
                    on_error=on_error,
                    hint=lambda row: self._hint(row, len(names), head, is_inferred=bool(inferred)),
                )
                for batch in delivered:
                    yield completed(batch, schema, absent)

    def _hint(self, row: BadRow, columns: int, head: bytes, *, is_inferred: bool) -> str:
        """Return what to do about a bad row."""
        if row.column is None and row.reason in RAGGED:
            return self._ragged_hint(columns, head)
        if row.column is None and row.reason == AFTER_QUOTED:
            return (
                f" A quoted field ends at {self.dialect.delimiter!r} or at the line's end, and a quote within it is "
                "doubled: pass the file's delimiter, or its escape, in CsvOptions(delimiter=..., escape=...)."
            )
        return INFERRED_HINT if is_inferred and row.column is not None and row.reason != NOT_UTF8 else ""

    def _ragged_hint(self, columns: int, head: bytes) -> str:
        """Return what rows that have another number of fields than the header may come from."""
        data = head[self._skipped(head) :]
        for delimiter in DELIMITERS[:-1]:
            dialect = replace(self.dialect, delimiter=delimiter)
            records, counts = self._sample(data, dialect)
            if delimiter != self.dialect.delimiter and counts[0] > 1 and len(records) > 1 and len(set(counts)) == 1:
                return (
                    f" By {delimiter!r} header and rows have {counts[0]} columns each: pass "
                    f"options=CsvOptions(delimiter={delimiter!r})."
                )
        return (
            f" The header has {columns} columns; a field that holds {self.dialect.delimiter!r} has to be quoted. Lines "
            "that are no rows are left out by CsvOptions(skip_lines=..., skip_footer=..., comment=...)."
        )

    def _chunks(self) -> Generator[bytes]:
        return without_footer(self.source.chunks(), self.options.skip_footer)

    def _blocks(self, chunks: Iterator[bytes], line: int) -> Iterator[Block]:
        blocks = split_blocks(
            chunks, line=line, cut=self.dialect.cut, line_end=self.dialect.line_end, endless=self._endless
        )
        for block in blocks:
            for lines_before, data in self.dialect.without_comments(block.data):
                yield Block(data, block.line + lines_before, block.suspect)

    def _endless(self, line: int) -> InvalidInputError:
        return InvalidInputError(
            f"{self.source.name} line {line}: a row starts here and does not end; a quote was opened and never closed. "
            f"Where {self.dialect.quote!r} is a character like others, pass CsvOptions(quote=None), where "
            f"{self.dialect.delimiter!r} does not separate fields, CsvOptions(delimiter=...); else correct the file."
        )

    def _head(self, chunks: Iterator[bytes]) -> bytes:
        """Read as far as the header and the first rows go, and a record begins behind them."""
        head = next(chunks, b"")
        while len(head) < RECORD_BYTES and not self._holds_header(head) and (more := next(chunks, b"")):
            head += more
        return head

    def _holds_header(self, head: bytes) -> bool:
        records, _ = self.dialect.records(head[self._skipped(head) :])
        return len(records) > SAMPLED_RECORDS

    def _skipped(self, head: bytes) -> int:
        """Return how many bytes are before the header: those of `skip_lines`, comments and empty lines."""
        ends, count = line_ends(head), self.options.skip_lines
        if count > len(ends):
            return len(head)
        skipped = int(ends[count - 1]) + 1 if count else 0
        comment = (self.options.comment or "\n").encode()
        while (start := head[skipped : skipped + 1]) and start in {b"\n", b"\r", comment}:
            if start in b"\r\n":
                skipped += 1
            else:
                following = ends[ends >= skipped]
                skipped = int(following[0]) + 1 if len(following) else len(head)
        return skipped

    def _header(self, head: bytes, schema: pa.Schema | None) -> tuple[list[str], int, int]:
        """Find the column names, and the offset and line of the first row."""
        name, options = self.source.name, self.options
        if b"\n" not in head:
            self.dialect = replace(self.dialect, line_end=b"\r")
        ends, skipped = line_ends(head), self._skipped(head)
        line = int(np.searchsorted(ends, skipped)) + 1
        declared = list(options.column_names or (schema.names if schema is not None and not options.header else ()))
        if not options.header:
            if not declared:
                raise InvalidInputError(f"{name} has no header: pass a schema, or CsvOptions(column_names=...).")
            return self._named(declared, schema), skipped, line
        if not head[skipped:].strip():
            raise InvalidInputError(f"{name} is empty: no header. Was it written to the end?")
        data = head[skipped:]
        records, quotes = self.dialect.records(data)
        start, end = records[0]
        if quotes.open and end == len(data):
            raise self._endless(line)
        names = declared or self._names(data[start:end])
        if not declared:
            names = self._checked(names, data)
        following = records[1][0] if len(records) > 1 else len(data)
        return (
            self._named(names, schema),
            skipped + following,
            line + int(np.sum((ends >= skipped) & (ends < skipped + following))),
        )

    def _checked(self, names: list[str], data: bytes) -> list[str]:
        """Return the names of the header, and an empty one where every row has a field more than there are names.

        That is the last one where rows end in a delimiter that the header lacks, and the first one where rows have
        names, which R writes without a name of their own; R and pandas read them so.

        Raises:
            InvalidInputError: The delimiter is not in the header, and another one is.
        """
        if len(names) == 1 and (other := self._better_delimiter(data)):
            delimiter, count = other
            raise InvalidInputError(
                f"{self.source.name}: the header has no {self.dialect.delimiter!r}, and {count} columns by "
                f"{delimiter!r}. Pass options=CsvOptions(delimiter={delimiter!r}); if it is one column, name it in "
                "CsvOptions(column_names=(...,))."
            )
        records, counts = self._sample(data, self.dialect)
        rows = [data[start:end] for start, end in records[1:]]
        if not rows or (counts[1:] != len(names) + 1).any():
            return names
        end = self.dialect.delimiter.encode()
        if all(row.endswith(end) for row in rows):
            return [*names, ""]
        return ["", *names] if 1 < len({row.partition(end)[0] for row in rows}) == len(rows) else names

    def _sample(self, data: bytes, dialect: Dialect) -> tuple[Positions, Positions]:
        """Return the header and the first rows that are not empty, and how many fields each has."""
        records, quotes = dialect.records(data)
        records = records[records[:, 0] < records[:, 1]][:SAMPLED_RECORDS]
        return records, dialect.field_counts(data, records, quotes)

    def _better_delimiter(self, data: bytes) -> tuple[str, int] | None:
        """Find another delimiter that is in the header and gives every row as many fields; and that number of them.

        Where the header has the file's delimiter there is none; R's rows have a field more, their name.
        """
        header = data[: self._sample(data, self.dialect)[0][0, 1]]
        if self.dialect.delimiter.encode() in header:
            return None
        for delimiter in DELIMITERS if header.startswith(b'"') else DELIMITERS[:-1]:
            if delimiter != self.dialect.delimiter and delimiter.encode() in header:
                dialect = replace(self.dialect, delimiter=delimiter)
                _, counts = self._sample(data, dialect)
                columns, rows = int(counts[0]), set(counts[1:].tolist())
                if columns > 1 and (rows <= {columns} or rows == {columns + 1}):  # one: it is quoted
                    return delimiter, columns
        return None

    def _names(self, header: bytes) -> list[str]:
        if b"\0" in header:
            raise InvalidInputError(
                f"{self.source.name} holds NUL bytes: it is not text, or UTF-16 (pass its encoding)."
            )
        try:
            text = header.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(
                f"{self.source.name} is not UTF-8 text. Pass its encoding, as in CsvOptions(encoding='cp1252')."
            ) from None
        rows = python_csv.reader(
            [text],
            delimiter=self.dialect.delimiter,
            quotechar=self.options.quote,
            quoting=python_csv.QUOTE_NONE if self.options.quote is None else python_csv.QUOTE_MINIMAL,
            escapechar=self.options.escape,
        )
        try:
            return next(rows)
        except python_csv.Error as error:
            raise InvalidInputError(f"{self.source.name}: its header cannot be read: {error}.") from None

    def _named(self, names: list[str], schema: pa.Schema | None) -> list[str]:
        """Return a name for each column; of a declared schema, `schema`, none may stand for two."""
        found = named(names, case_sensitive=self.options.case_sensitive_names)
        repeated = {name for name, one in zip(found, names, strict=True) if name != one and one}
        asked = set() if schema is None or repeated & set(schema.names) else set(schema.names)
        if twice := sorted(asked & {one for name, one in zip(found, names, strict=True) if name in repeated}):
            raise SchemaError(
                f"{self.source.name} has these columns more than once: {listed(twice)}. Name the columns in "
                f"CsvOptions(column_names=(...)), or ask for {listed(sorted(repeated))}, as the others are called."
            )
        return found

    def records(self, block: Block, names: Sequence[str]) -> Records:
        """Return the records of a block, and which of them have another number of fields than there are names."""
        found, quotes = self.dialect.records(block.data)
        if len(names) > 1:
            found = found[found[:, 0] < found[:, 1]]
        excess = self.dialect.field_counts(block.data, found, quotes) - len(names)
        return Records(block.data, found, quotes, excess)

    @property
    def _null_mark(self) -> bytes | None:
        r"""What stands in the place of `\N`, which Arrow would read as the escaped letter; not a text of any file."""
        return NULL_MARK if self.options.escape == "\\" else None

    def _with_nulls(self, data: memoryview | bytes) -> memoryview | bytes:
        r"""Return the block with `\N` as a null that Arrow knows: where it is all of a field that is not quoted.

        MySQL and Redshift write nulls so, beside other escapes.
        https://dev.mysql.com/doc/refman/8.4/en/load-data.html
        """
        if self._null_mark is None or b"\\N" not in bytes(data):
            return data
        delimiter = re.escape(self.dialect.delimiter).encode()
        found = re.finditer(rb"(?:(?<=[" + delimiter + rb"\r\n])|\A)\\N(?=[" + delimiter + rb"\r\n]|\Z)", bytes(data))
        starts = np.array([match.start() for match in found], dtype=np.int64)
        # The border before it may itself be quoted or escaped; then it is no border.
        starts = starts[(starts == 0) | ~self.dialect.quotes(data).hold(starts - 1)]
        parts, end = [], 0
        for start in starts.tolist():
            parts += [bytes(data[end:start]), self._null_mark]
            end = start + 2
        return b"".join([*parts, bytes(data[end:])])

    def parse(self, data: memoryview | bytes, names: Sequence[str], kinds: Mapping[str, pa.DataType]) -> pa.Table:
        """Parse whole records by Arrow's reader.

        Raises:
            pa.ArrowInvalid: A value does not fit, or a record has too few or too many fields.
        """
        options = self.options
        if not len(data):
            return pa.schema(kinds.items()).empty_table()
        data, nulls = self._with_nulls(data), list(options.null_values)
        if self._null_mark is not None:
            nulls = [text for text in nulls if text != "\\N"] + [self._null_mark.decode()]  # `\\N` is the text `\N`
        try:
            return csv.read_csv(
                pa.BufferReader(pa.py_buffer(data)),
                read_options=csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
                parse_options=csv.ParseOptions(
                    delimiter=self.dialect.delimiter,
                    quote_char=options.quote or False,
                    escape_char=options.escape or False,
                    newlines_in_values=True,
                    ignore_empty_lines=len(names) > 1,
                ),
                convert_options=csv.ConvertOptions(
                    include_columns=list(kinds),
                    column_types=kinds,
                    null_values=nulls,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=options.quoted_nulls,
                    decimal_point=options.decimal_point,
                ),
            )
        except UnicodeDecodeError:
            raise pa.ArrowInvalid("Arrow's message about the data is not UTF-8") from None


@dataclass(frozen=True)
class Records:
    """The records of a block.

    Args:
        data: The block.
        positions: Start and end of each record that counts.
        quotes: Where text is quoted.
        excess: How many fields each has too many; too few where negative.
    """

    data: memoryview | bytes
    positions: Positions
    quotes: Quotes
    excess: Positions

    @property
    def regular(self) -> memoryview | bytes:
        """The block without the records that have too few or too many fields."""
        if not self.excess.any():
            return self.data
        bounds = np.append(self.positions[:, 0], len(self.data))
        changes = np.flatnonzero(np.diff(np.concatenate([[False], self.excess == 0, [False]]).astype(np.int8)))
        spans = zip(bounds[changes[0::2]], bounds[changes[1::2]], strict=True)
        return b"".join(bytes(self.data[start:end]) for start, end in spans)


class _Parser:
    """Parses blocks of one file into one schema."""

    def __init__(
        self, reader: CsvReader, names: list[str], schema: pa.Schema, inferred: Mapping[str, InferredColumn]
    ) -> None:
        self.reader = reader
        self.names = names
        self.schema = schema
        options = reader.options
        plain = options.numbers.plain
        self.casts = {
            field.name: caster(field.type, formats=options.timestamp_formats, epoch=options.epoch) for field in schema
        }
        self.casts |= {
            field.name: _inferred_cast(inferred[field.name], field.type) for field in schema if field.name in inferred
        }
        self.respelled = {field.name: plain for field in schema if field.name not in inferred and is_number(field.type)}
        self.native = {
            field.name for field in schema if field.name not in inferred and reads_natively(field.type, options)
        }
        self.inferred = bool(inferred)
        self.shaped = not (options.timestamp_formats or options.epoch or inferred)
        self.kinds = {field.name: field.type if field.name in self.native else pa.string() for field in schema}
        self.required = [index for index, field in enumerate(schema) if not field.nullable]

    def parse(self, block: Block) -> Parsed:
        if not block.suspect:
            try:
                table = self.reader.parse(block.data, self.names, self.kinds)
                arrays = [
                    self._typed(field, _array(values)) for field, values in zip(self.schema, table.columns, strict=True)
                ]
            except pa.ArrowInvalid:
                pass
            else:
                if not any(arrays[index].null_count for index in self.required):
                    return pa.RecordBatch.from_arrays(arrays, schema=self.schema), []
        return self._parse_slowly(block)

    def _typed(self, field: pa.Field, values: pa.Array) -> pa.Array:
        if field.name not in self.native:
            return self.casts[field.name](self._respelled(field, values))
        if types.is_decimal(field.type):
            values.validate(full=True)  # Arrow's reader lets 100 pass as a decimal(4, 2)
        return values

    def _respelled(self, field: pa.Field, texts: pa.Array) -> pa.Array:
        """Return the texts, numbers among them as every program reads them."""
        return self.respelled[field.name](texts) if field.name in self.respelled else texts

    def _parse_slowly(self, block: Block) -> Parsed:
        """Tell the good rows of a block from the bad ones, these by line and reason."""
        records = self.reader.records(block, self.names)
        table = self.reader.parse(records.regular, self.names, dict.fromkeys(self.schema.names, pa.binary()))
        faults: dict[int, tuple[str, str | None]] = {
            int(number): (TOO_MANY if records.excess[number] > 0 else TOO_FEW, None)
            for number in np.flatnonzero(records.excess)
        }
        kept = np.flatnonzero(records.excess == 0)
        for position in records.quotes.junk:
            faults.setdefault(_record_at(records.positions, int(position)), (AFTER_QUOTED, None))
        for position in np.flatnonzero(np.frombuffer(block.data, np.uint8) == 0):
            faults.setdefault(_record_at(records.positions, int(position)), ("holds a NUL byte", None))
        arrays = []
        for field, column in zip(self.schema, table.columns, strict=True):
            raw = _array(column)
            text, undecodable = convert(raw, field, lambda values: pc.cast(values, pa.string()))
            text = self._respelled(field, text)
            values, misfits = convert(text, field, self.casts[field.name], shaped=self.shaped, inferred=self.inferred)
            reasons = undecodable | misfits
            if not field.nullable:
                nulls = pc.indices_nonzero(pc.is_null(raw)).to_pylist()
                reasons |= dict.fromkeys(nulls, f"{field.name} is missing")
            for row, reason in reasons.items():
                faults.setdefault(int(kept[row]), (reason, field.name))
            arrays.append(values)
        good = pa.array(~np.isin(kept, list(faults)))
        # Nulls of refused rows are still in the arrays: the schema's own nullability holds only after the filter.
        batch = pa.RecordBatch.from_arrays(arrays, names=self.schema.names).filter(good)
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)
        return batch, self._bad_rows(block, records.positions, faults)

    def _bad_rows(self, block: Block, records: Positions, faults: dict[int, tuple[str, str | None]]) -> list[BadRow]:
        ends = line_ends(block.data)
        rows = []
        for record in sorted(faults):
            start, end = (int(place) for place in records[record])
            reason, column = faults[record]
            text = bytes(block.data[start:end]).decode(errors="backslashreplace")
            rows.append(BadRow(block.line + int(np.searchsorted(ends, start)), column, reason, text))
        return rows


class CsvWriter:
    """Writes record batches as CSV: text in quotes, null as an empty field, decimals and times exactly.

    Raises:
        TypeLossError: A type has no form in CSV.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, options: CsvOptions) -> None:
        check_types(schema)
        if options != CsvOptions(delimiter=options.delimiter, header=options.header):
            raise InvalidInputError(
                "CSV is written in UTF-8 with double quotes; of CsvOptions only delimiter and header can be chosen."
            )
        self.schema = schema
        self._wire = pa.schema([pa.field(field.name, _written_as(field.type)) for field in schema])
        self._writer = csv.CSVWriter(
            file,
            self._wire,
            write_options=csv.WriteOptions(include_header=options.header, delimiter=options.delimiter),
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows.

        Raises:
            TypeLossError: A text holds a NUL character, or a year is not between 1 and 9999.
        """
        for field, values in zip(self.schema, batch.columns, strict=True):
            check_values(field, values, "CSV")
        self._writer.write_batch(batch.cast(self._wire))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def check_types(schema: pa.Schema) -> None:
    """Check that CSV can hold every column.

    Raises:
        TypeLossError: A type has none.
        SchemaError: There is no column, or two have one name.
    """
    check_names(schema)
    for field in schema:
        kind = field.type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if not (is_text(kind) or types.is_null(kind) or any(fits(kind) for fits in HELD)):
            raise TypeLossError(
                f"CSV has no form for column {field.name!r} of type {field.type}. Write Parquet, or make it a text."
            )


def reads_natively(kind: pa.DataType, options: CsvOptions) -> bool:
    """Tell whether Arrow's CSV reader makes this type itself."""
    if applicable(kind, options.timestamp_formats) or (options.epoch and types.is_timestamp(kind)):
        return False
    if is_number(kind) and not options.numbers.is_plain:
        return False
    if types.is_dictionary(kind):
        return bool(types.is_string(kind.value_type) and types.is_int32(kind.index_type))
    return not (
        types.is_float16(kind)
        or types.is_string_view(kind)
        or (types.is_decimal(kind) and not types.is_decimal128(kind))
    )


def _written_as(kind: pa.DataType) -> pa.DataType:
    """Return the type whose text is written: moments in UTC, because nobody reads the seconds of old local offsets."""
    if types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    if types.is_dictionary(kind) or is_text(kind):
        return pa.large_string() if types.is_large_string(kind) else pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_decimal(kind) and not types.is_decimal256(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return pa.date32() if types.is_date64(kind) else kind


def _inferred_cast(column: InferredColumn, kind: pa.DataType) -> Cast:
    """Return the cast of a column by its texts; into a wider type where files of other formats have that."""
    by_text = cast("TextColumn", column).settled
    return by_text.cast if by_text.type == kind else lambda texts: cast_array(by_text.cast(texts), kind)


def _decoded(raw: pa.Array) -> pa.Array:
    """Return bytes as text, null where they are none; their rows are refused when they are read."""
    return convert(raw, pa.field("", pa.string()), lambda values: pc.cast(values, pa.string()))[0]


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _record_at(records: Positions, position: int) -> int:
    return int(np.searchsorted(records[:, 0], position, side="right")) - 1
