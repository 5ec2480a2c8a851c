"""CSV <-> record batches at Arrow's speed, where every bad row has its line and its reason.

Blocks of whole records go to Arrow's reader straight into the declared types. Only a block with a bad value is read a
second time as text and checked column by column. What a value may look like:

* Integers, decimals, floats: whitespace around them does not count; `1e3` is a number but not an integer; `1.239` is
  not a decimal(12, 2): nothing is rounded. Booleans: true, false, 1, 0.
* Dates `2026-04-30`; timestamps ISO 8601, with an offset exactly where the column has a time zone; times `12:34:56.7`.
* Text is taken as it stands, with whitespace, and line ends in quotes. An empty field is null, `""` is an empty text.
* Empty lines do not count, but in a file of one column each is a null.

Types that no schema declares are found in the first 4 MB by the rule of `inference`, and hold for all of the file.
"""

from __future__ import annotations

import csv as python_csv
import itertools
import re
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, types

from blocks.arrow.casts import cast_array
from blocks.arrow.columns import NOTHING, check_names, completed, is_text, listed, present_fields
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.files.csv_records import Dialect, Positions
from blocks.files.inference import TextColumn
from blocks.files.options import CsvOptions
from blocks.files.text import RECORD_BYTES, BadRow, Block, deliver, endless, line_ends, parse_in_order, split_blocks
from blocks.files.values import applicable, caster, check_values, convert

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from typing import BinaryIO

    from blocks.arrow.columns import ExtraColumns
    from blocks.arrow.rejects import Rejects
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
DELIMITERS = {"\t": r"'\t'", ";": "';'", ",": "','", "|": "'|'"}
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
        self.dialect = Dialect(options)

    def infer(self) -> dict[str, TextColumn]:
        """Find out the columns from the first block.

        Raises:
            InvalidInputError: The file is empty, or no CSV file.
        """
        options = self.options
        unseen = TextColumn(formats=options.timestamp_formats, decimal_point=options.decimal_point)
        with closing(self.source.chunks()) as chunks:
            head = self._head(chunks)
            names, start, line = self._header(head, None)
            following = next(chunks, b"")
            blocks = self._blocks(itertools.chain([head[start:], following], chunks), line)
            sample = list(itertools.islice(blocks, 1 if following else None))
        columns = dict.fromkeys(names, unseen)
        for block in sample:
            table = self.parse(block, names, dict.fromkeys(names, pa.binary()), [])
            columns = {name: column.seen(_decoded(_array(table[name]))) for name, column in columns.items()}
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
        with closing(self.source.chunks()) as chunks:
            head = self._head(chunks)
            names, start, line = self._header(head, schema)
            wanted = present_fields(names, schema, absent, self.source.name, self.extra_columns)
            wanted = wanted or pa.schema([(names[0], pa.string())])
            blocks = self._blocks(itertools.chain([head[start:]], chunks), line)
            parsed = parse_in_order(blocks, _Parser(self, names, wanted, inferred).parse)
            with closing(parsed):
                hint = INFERRED_HINT if inferred else ""
                for batch in deliver(parsed, source=self.source.name, rejects=rejects, on_error=on_error, hint=hint):
                    yield completed(batch, schema, absent)

    def _blocks(self, chunks: Iterator[bytes], line: int) -> Iterator[Block]:
        return split_blocks(
            chunks, line=line, cut=self.dialect.cut, line_end=self.dialect.line_end, source=self.source.name
        )

    def _head(self, chunks: Iterator[bytes]) -> bytes:
        """Read as far as the header goes, and a record begins behind it."""
        head = next(chunks, b"")
        while len(head) < RECORD_BYTES and not self._holds_header(head) and (more := next(chunks, b"")):
            head += more
        return head

    def _holds_header(self, head: bytes) -> bool:
        records, _ = self.dialect.records(head[self._skipped(head) :])
        return len(records) > 1

    def _skipped(self, head: bytes) -> int:
        """Return how many bytes are before the header: those of `skip_lines`, and of empty lines."""
        ends, count = line_ends(head), self.options.skip_lines
        if count > len(ends):
            return len(head)
        skipped = int(ends[count - 1]) + 1 if count else 0
        while head[skipped : skipped + 1] in {b"\n", b"\r"}:
            skipped += 1
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
            return self._checked(declared), skipped, line
        if not head[skipped:].strip():
            raise InvalidInputError(f"{name} is empty: no header. Was it written to the end?")
        records, quotes = self.dialect.records(head[skipped:])
        start, end = records[0]
        if quotes.open and end == len(head) - skipped:
            raise endless(name, line)
        names = declared or self._names(head[skipped + start : skipped + end])
        if len(names) == 1 and not declared:
            self._check_delimiter(names[0], [head[skipped + first : skipped + last] for first, last in records[:100]])
        following = records[1][0] if len(records) > 1 else len(head) - skipped
        return (
            self._checked(names),
            skipped + following,
            line + int(np.sum((ends >= skipped) & (ends < skipped + following))),
        )

    def _check_delimiter(self, header: str, records: list[bytes]) -> None:
        """Refuse a header of one column that another delimiter splits, as it does every record after it."""
        for delimiter, spelled in DELIMITERS.items():
            if delimiter in header and delimiter != self.options.delimiter:
                texts = [record.decode(errors="replace") for record in records if record]
                counts = {len(next(python_csv.reader([text], delimiter=delimiter))) for text in texts}
                if len(counts) == 1:
                    raise InvalidInputError(
                        f"{self.source.name}: the header has no {self.options.delimiter!r}, and {counts.pop()} columns "
                        f"by {spelled}. Pass options=CsvOptions(delimiter={spelled}); if it is one column, name it in "
                        "CsvOptions(column_names=(...,))."
                    )

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
            delimiter=self.options.delimiter,
            quotechar=self.options.quote,
            escapechar=self.options.escape,
        )
        return next(rows)

    def _checked(self, names: list[str]) -> list[str]:
        if twice := sorted({column for column in names if names.count(column) > 1}):
            raise SchemaError(f"{self.source.name} has these columns more than once: {listed(twice)}.")
        return names

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
        delimiter = re.escape(self.options.delimiter).encode()
        found = re.finditer(rb"(?:(?<=[" + delimiter + rb"\r\n])|\A)\\N(?=[" + delimiter + rb"\r\n]|\Z)", bytes(data))
        starts = np.array([match.start() for match in found], dtype=np.int64)
        # The border before it may itself be quoted or escaped; then it is no border.
        starts = starts[(starts == 0) | ~self.dialect.quotes(data).hold(starts - 1)]
        parts, end = [], 0
        for start in starts.tolist():
            parts += [bytes(data[end:start]), self._null_mark]
            end = start + 2
        return b"".join([*parts, bytes(data[end:])])

    def parse(
        self, block: Block, names: list[str], kinds: dict[str, pa.DataType], wrong: list[tuple[int, bool]] | None
    ) -> pa.Table:
        """Parse the block by Arrow's reader.

        Rows with too few or too many fields are put into `wrong` (their number from 1, whether too many); without it
        they raise.
        """
        options = self.options
        data, nulls = self._with_nulls(block.data), list(options.null_values)
        if self._null_mark is not None:
            nulls = [text for text in nulls if text != "\\N"] + [self._null_mark.decode()]  # `\\N` is the text `\N`

        def handle(row: csv.InvalidRow) -> str:
            if wrong is None:
                return "error"
            wrong.append((row.number, row.actual_columns > row.expected_columns))
            return "skip"

        return csv.read_csv(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            parse_options=csv.ParseOptions(
                delimiter=options.delimiter,
                quote_char=options.quote,
                escape_char=options.escape or False,
                newlines_in_values=True,
                ignore_empty_lines=len(names) > 1,
                invalid_row_handler=handle,
            ),
            convert_options=csv.ConvertOptions(
                include_columns=list(kinds) or names,
                column_types=kinds,
                null_values=nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=options.quoted_nulls,
                decimal_point=options.decimal_point,
            ),
        )


class _Parser:
    """Parses blocks of one file into one schema."""

    def __init__(
        self, reader: CsvReader, names: list[str], schema: pa.Schema, inferred: Mapping[str, InferredColumn]
    ) -> None:
        self.reader = reader
        self.names = names
        self.schema = schema
        options = reader.options
        self.casts = {
            field.name: caster(field.type, formats=options.timestamp_formats, decimal_point=options.decimal_point)
            for field in schema
        }
        self.casts |= {
            field.name: _inferred_cast(inferred[field.name], field.type) for field in schema if field.name in inferred
        }
        self.native = {
            field.name for field in schema if field.name not in inferred and reads_natively(field.type, options)
        }
        self.inferred = bool(inferred)
        self.shaped = not (options.timestamp_formats or inferred)
        self.kinds = {field.name: field.type if field.name in self.native else pa.string() for field in schema}
        self.required = [index for index, field in enumerate(schema) if not field.nullable]

    def parse(self, block: Block) -> Parsed:
        if not block.suspect:
            try:
                table = self.reader.parse(block, self.names, self.kinds, None)
                arrays = [self._typed(field, _array(table[field.name])) for field in self.schema]
            except pa.ArrowInvalid:
                pass
            else:
                if not any(arrays[index].null_count for index in self.required):
                    return pa.RecordBatch.from_arrays(arrays, schema=self.schema), []
        return self._parse_slowly(block)

    def _typed(self, field: pa.Field, values: pa.Array) -> pa.Array:
        if field.name not in self.native:
            return self.casts[field.name](values)
        if types.is_decimal(field.type):
            values.validate(full=True)  # Arrow's reader lets 100 pass as a decimal(4, 2)
        return values

    def _parse_slowly(self, block: Block) -> Parsed:
        """Tell the good rows of a block from the bad ones, these by line and reason."""
        records, quotes = self.reader.dialect.records(block.data)
        if len(self.names) > 1:
            records = records[records[:, 0] < records[:, 1]]
        wrong: list[tuple[int, bool]] = []
        table = self.reader.parse(block, self.names, dict.fromkeys(self.schema.names, pa.binary()), wrong)
        faults: dict[int, tuple[str, str | None]] = {
            number - 1: ("too many fields" if many else "too few fields", None) for number, many in wrong
        }
        kept = np.setdiff1d(np.arange(len(records)), list(faults))
        for position in quotes.junk:
            faults.setdefault(_record_at(records, int(position)), ("text after a quoted field", None))
        for position in np.flatnonzero(np.frombuffer(block.data, np.uint8) == 0):
            faults.setdefault(_record_at(records, int(position)), ("holds a NUL byte", None))
        arrays = []
        for field in self.schema:
            raw = _array(table[field.name])
            text, undecodable = convert(raw, field, lambda values: pc.cast(values, pa.string()))
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
        return pa.RecordBatch.from_arrays(batch.columns, schema=self.schema), self._bad_rows(block, records, faults)

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
    if applicable(kind, options.timestamp_formats):
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
