"""Files <-> record batches: CSV, JSON Lines, Parquet, Arrow IPC. Bounded memory both ways, and no value changes.

    scan = open_scan(lambda: open("orders.csv", "rb"), source="orders.csv", format="csv", schema=ORDERS)

| format | names | compression | not held, so refused |
|---|---|---|---|
| csv | .csv .tsv | none gzip zstd | nested, binary and duration types; NUL characters; years beyond 1-9999 |
| jsonl | .jsonl .ndjson | none gzip zstd | binary, duration and map types; NaN and infinity; years beyond 1-9999 |
| parquet | .parquet .pq | zstd snappy gzip none | interval and union types |
| arrow | .arrow .feather .ipc | none zstd | nothing |
| arrows | .arrows (a stream) | none zstd | nothing |

Text formats and their types: see `csv_files` and `json_files`. Parquet has no seconds: where no schema is declared,
such timestamps come back in milliseconds.
"""
# ruff: noqa: A002 (format and open are what everybody calls them)

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, cast, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import types

from blocks.csv_files import CsvReader, CsvWriter
from blocks.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.file_options import Compression, CsvOptions, Format, OnError, ParquetOptions
from blocks.json_files import JsonReader, JsonWriter
from blocks.scan import Scan
from blocks.text_files import TextSource
from blocks.text_values import check_names, is_text

if TYPE_CHECKING:
    from blocks.file_options import FileOptions
    from blocks.scan import Rejects

BATCH_ROWS = 65_536
SAMPLE_ROWS = 65_536

EXTENSIONS: dict[str, Format] = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "ipc": "arrow",
    "arrows": "arrows",
}
SUFFIXES: dict[str, Compression] = {"gz": "gzip", "zst": "zstd"}
COMPRESSIONS: dict[Format, tuple[Compression, ...]] = {
    "csv": ("none", "gzip", "zstd"),
    "jsonl": ("none", "gzip", "zstd"),
    "parquet": ("zstd", "snappy", "gzip", "none"),
    "arrow": ("none", "zstd"),
    "arrows": ("none", "zstd"),
}
"""What each format can be compressed with; the first is the default."""
CONTENT_TYPES: dict[Format, str] = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.file",
    "arrows": "application/vnd.apache.arrow.stream",
}

Open = Callable[[], BinaryIO]


class Reader(Protocol):
    """One file of one format."""

    def infer(self) -> pa.Schema:
        """The schema that the file itself gives."""

    def batches(
        self, schema: pa.Schema, rejects: Rejects | None, on_error: OnError, *, inferred: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, each of exactly its type."""


class Writer(Protocol):
    """Writes one file of one format."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""

    def close(self) -> None:
        """Finish the file; it is whole only then. The file object stays open."""


def detect(
    key: str, format: Format | None = None, compression: Compression | None = None
) -> tuple[Format, Compression]:
    """Format and compression, from what is given and else from the key's name.

    >>> detect("raw/orders.csv.gz")
    ('csv', 'gzip')

    Raises:
        InvalidInputError: The name does not say the format.
    """
    name = key.rpartition("/")[2]
    stem, _, last = name.rpartition(".")
    suffix = SUFFIXES.get(last.lower())
    found = format or EXTENSIONS.get((stem.rpartition(".")[2] if suffix else last).lower())
    if found is None:
        raise InvalidInputError(
            f"The name {name!r} does not say its format. Pass format=, one of: {', '.join(get_args(Format))}."
        )
    if found in {"csv", "jsonl"}:
        return found, check_compression(found, compression or suffix or "none")
    if suffix and compression is None:
        raise InvalidInputError(
            f"{name!r} is a {found} file compressed as a whole. Unpack it: {found} compresses inside."
        )
    return found, check_compression(found, compression)


def check_compression(format: Format, compression: Compression | None) -> Compression:
    """The compression to use, the format's default where None.

    Raises:
        InvalidInputError: The format has no such compression.
    """
    if format not in COMPRESSIONS:
        raise InvalidInputError(f"{format!r} is no format. Use one of: {', '.join(COMPRESSIONS)}.")
    if compression is None:
        return COMPRESSIONS[format][0]
    if compression not in COMPRESSIONS[format]:
        raise InvalidInputError(
            f"{format} cannot be compressed with {compression!r}. Use one of: {', '.join(COMPRESSIONS[format])}."
        )
    return compression


def extension(format: Format, compression: Compression) -> str:
    """The end of a file's name: `.csv.gz`."""
    ends = {compression: end for end, compression in SUFFIXES.items()}
    return f".{format}.{ends[compression]}" if format in {"csv", "jsonl"} and compression in ends else f".{format}"


def open_reader(
    open: Open,
    *,
    source: str,
    format: Format,
    compression: Compression = "none",
    options: FileOptions | None = None,
    extra_columns: Literal["ignore", "fail"] = "ignore",
    where: tuple[pc.Expression, pa.Schema] | None = None,
) -> Reader:
    """A reader of one file.

    Args:
        open: Opens the file from its start; seekable for Parquet and Arrow files.
        source: What messages call it.
        format: The file's format.
        compression: The compression of a CSV or JSON Lines file as a whole.
        options: CsvOptions for CSV.
        extra_columns: What to do with columns that the schema lacks.
        where: An expression, and the schema it is about; rows for which it is false need not be read (and may be).
    """
    if format == "csv":
        chosen = _options(options, CsvOptions, format) or CsvOptions(delimiter="\t" if ".tsv" in source else ",")
        return CsvReader(TextSource(open, source, compression), chosen, extra_columns=extra_columns)
    if options is not None:
        raise InvalidInputError(f"{source} is {format}: there are no options for reading it.")
    if format == "jsonl":
        return JsonReader(TextSource(open, source, compression), extra_columns)
    if format == "parquet":
        return ParquetReader(open, source, extra_columns, where)
    return IpcReader(open, source, extra_columns)


def open_scan(
    open: Open,
    *,
    source: str,
    format: Format,
    compression: Compression = "none",
    schema: pa.Schema | None = None,
    options: FileOptions | None = None,
    on_error: OnError = "fail",
    extra_columns: Literal["ignore", "fail"] = "ignore",
) -> Scan:
    """One file as a Scan.

    Args:
        open: Opens the file from its start, again for every try.
        source: What messages call it.
        format: The file's format.
        compression: The compression of a CSV or JSON Lines file as a whole.
        schema: The columns to read, by name, and their exact types; without it the file says or hints at them.
        options: CsvOptions for CSV.
        on_error: Whether a bad row is an error or goes to the `Rejects` of `Scan.batches`.
        extra_columns: What to do where the file has more columns than `schema`.
    """
    reader = open_reader(
        open, source=source, format=format, compression=compression, options=options, extra_columns=extra_columns
    )

    def batches(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        return reader.batches(scan.schema, rejects, on_error, inferred=schema is None)

    scan = Scan(schema if schema is not None else reader.infer, batches, source=source)
    return scan


def open_writer(
    file: BinaryIO,
    schema: pa.Schema,
    *,
    format: Format,
    compression: Compression | None = None,
    options: FileOptions | None = None,
) -> Writer:
    """A writer of one file; close it, and then the file.

    Args:
        file: An open binary file.
        schema: The schema of every batch.
        format: The file's format.
        compression: The format's default where None: zstd for Parquet, none for the others.
        options: CsvOptions for CSV, ParquetOptions for Parquet.

    Raises:
        TypeLossError: The format has no form for a column's type.
        SchemaError: Two columns have one name.
    """
    chosen = check_compression(format, compression)
    check_names(schema)
    if format == "parquet":
        return ParquetWriter(file, schema, chosen, _options(options, ParquetOptions, format) or ParquetOptions())
    if format == "csv":
        csv_options = _options(options, CsvOptions, format) or CsvOptions()
        return CompressedWriter(file, chosen, lambda sink: CsvWriter(sink, schema, csv_options))
    if options is not None:
        raise InvalidInputError(f"There are no options for writing {format}.")
    if format == "jsonl":
        return CompressedWriter(file, chosen, lambda sink: JsonWriter(sink, schema))
    return IpcWriter(file, schema, chosen, stream=format == "arrows")


class ParquetReader:
    """A Parquet file as record batches, one row group after the other."""

    def __init__(
        self,
        open: Open,
        source: str,
        extra_columns: Literal["ignore", "fail"],
        where: tuple[pc.Expression, pa.Schema] | None,
    ) -> None:
        self.open = open
        self.source = source
        self.extra_columns = extra_columns
        self.where = where

    def infer(self) -> pa.Schema:
        """The schema in the file's footer."""
        with closing(self.open()) as file, self._parquet(file) as parquet:
            return plain_schema(parquet.schema_arrow)

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None,  # noqa: ARG002 (typed data has no bad rows)
        on_error: OnError,  # noqa: ARG002
        *,
        inferred: bool = False,  # noqa: ARG002
    ) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, cast where nothing is lost.

        Raises:
            InvalidInputError: It is no Parquet file.
            SchemaError: The file lacks a column, or a cast would lose something.
        """
        with closing(self.open()) as file, self._parquet(file) as parquet:
            check_columns(parquet.schema_arrow, schema, self.source, self.extra_columns)
            batches = parquet.iter_batches(
                BATCH_ROWS, row_groups=self._row_groups(file, parquet), columns=schema.names, use_threads=True
            )
            try:
                for batch in batches:
                    yield fit(batch, schema, self.source)
            except (pa.ArrowInvalid, OSError) as error:
                raise self._damaged(error) from error

    def _parquet(self, file: BinaryIO) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InvalidInputError:
        return InvalidInputError(f"{self.source} is no whole Parquet file: {error}")

    def _row_groups(self, file: BinaryIO, parquet: pq.ParquetFile) -> list[int] | None:
        """The row groups that may hold rows for which `where` is true, by their statistics; None for all."""
        if self.where is None:
            return None
        expression, schema = self.where
        own = parquet.schema_arrow
        known = pa.schema([*own, *(field for field in schema if field.name not in own.names)])
        fragment = ds.ParquetFileFormat().make_fragment(pa.PythonFile(_KeptOpen(file), mode="r"))
        try:
            return [group.id for group in fragment.subset(expression, schema=known).row_groups]
        except (pa.ArrowInvalid, NotImplementedError):
            return None


class IpcReader:
    """An Arrow IPC file or stream as record batches; which of the two it is, its first bytes say."""

    def __init__(self, open: Open, source: str, extra_columns: Literal["ignore", "fail"]) -> None:
        self.open = open
        self.source = source
        self.extra_columns = extra_columns

    def infer(self) -> pa.Schema:
        """The schema at the start of the file."""
        with closing(self.open()) as file:
            return plain_schema(self._ipc(file).schema)

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None,  # noqa: ARG002 (typed data has no bad rows)
        on_error: OnError,  # noqa: ARG002
        *,
        inferred: bool = False,  # noqa: ARG002
    ) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, cast where nothing is lost.

        Raises:
            InvalidInputError: It is no Arrow IPC file or stream.
            SchemaError: The file lacks a column, or a cast would lose something.
        """
        with closing(self.open()) as file:
            ipc = self._ipc(file)
            check_columns(ipc.schema, schema, self.source, self.extra_columns)
            try:
                for batch in self._all(ipc):
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        yield fit(batch.slice(start, BATCH_ROWS).select(schema.names), schema, self.source)
            except (pa.ArrowInvalid, OSError) as error:
                raise self._damaged(error) from error

    @staticmethod
    def _all(ipc: Any) -> Iterator[pa.RecordBatch]:
        if isinstance(ipc, pa.RecordBatchFileReader):
            return (ipc.get_batch(index) for index in range(ipc.num_record_batches))
        return iter(ipc)

    def _ipc(self, file: BinaryIO) -> Any:
        magic = file.read(6)
        file.seek(0)
        try:
            return pa.ipc.open_file(file) if magic == b"ARROW1" else pa.ipc.open_stream(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InvalidInputError:
        return InvalidInputError(f"{self.source} is no whole Arrow IPC file or stream: {error}")


class ParquetWriter:
    """Writes Parquet: zstd at level 1, statistics, a dictionary only for columns that repeat themselves.

    Args:
        file: An open binary file.
        schema: The schema of every batch.
        compression: One of those of the format.
        options: Level and row group size.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, compression: Compression, options: ParquetOptions) -> None:
        if unfit := [field for field in schema if types.is_union(field.type) or types.is_interval(field.type)]:
            raise TypeLossError(f"Parquet has no form for column {unfit[0].name!r} of type {unfit[0].type}.")
        self.file = file
        self.schema = schema
        self.compression = compression
        self.options = options
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= self.options.row_group_rows or self._bytes >= self.options.row_group_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits as row groups."""
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._waiting, self._rows, self._bytes = [], 0, 0
        if self._writer is None:
            self._writer = self._open(table)
        if table.num_rows:
            self._writer.write_table(table, self.options.row_group_rows)

    def close(self) -> None:
        """Write what waits, and the footer."""
        self.flush()
        cast("pq.ParquetWriter", self._writer).close()

    def _open(self, first: pa.Table) -> pq.ParquetWriter:
        level = self.options.compression_level
        if level is None and self.compression == "zstd":
            level = 1
        return pq.ParquetWriter(
            self.file,
            self.schema,
            compression=self.compression,
            compression_level=level,
            use_dictionary=repeating(first),
            write_statistics=True,
            version="2.6",
            store_schema=True,
        )


def repeating(table: pa.Table) -> list[str] | bool:
    """The columns for which a dictionary pays, by a sample; all of them where there are nested ones.

    Measured on 4 million orders: writing with a dictionary for every column takes about twice as long.
    """
    if any(types.is_nested(field.type) for field in table.schema):
        return True
    sample = table.slice(0, SAMPLE_ROWS)
    return [
        field.name
        for field in table.schema
        if not types.is_boolean(field.type)
        and (
            types.is_dictionary(field.type)
            or types.is_null(field.type)
            or 2 * len(sample[field.name].unique()) <= len(sample)
        )
    ]


class IpcWriter:
    """Writes Arrow IPC, as a file or as a stream."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, compression: Compression, *, stream: bool) -> None:
        options = pa.ipc.IpcWriteOptions(
            compression=None if compression == "none" else compression,
            emit_dictionary_deltas=True,
            unify_dictionaries=False,
        )
        new = pa.ipc.new_stream if stream else pa.ipc.new_file
        self._writer = new(pa.PythonFile(_KeptOpen(file), mode="w"), schema, options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the end."""
        self._writer.close()


class CompressedWriter:
    """Writes a text format through a compression of the file as a whole."""

    def __init__(self, file: BinaryIO, compression: Compression, make: Callable[[Any], Writer]) -> None:
        self._sink: Any = pa.PythonFile(_KeptOpen(file), mode="w")
        if compression != "none":
            self._sink = pa.CompressedOutputStream(self._sink, compression)
        self._writer = make(self._sink)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""
        self._writer.write(batch)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
        self._sink.close()


class _KeptOpen:
    """A file that stays open when Arrow closes its own view of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        self.closed = True


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Names, types and nullability, without what a writer noted beside them."""
    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in schema])


def check_columns(
    found: pa.Schema, wanted: pa.Schema, source: str, extra_columns: Literal["ignore", "fail"] = "ignore"
) -> None:
    """Nothing, where the file has the columns that are wanted.

    Raises:
        SchemaError: It lacks one, has one twice, or has others where that is an error.
    """
    check_names(found)
    if missing := [name for name in wanted.names if name not in found.names]:
        raise SchemaError(
            f"{source} lacks {', '.join(map(repr, missing))}; its columns are {', '.join(map(repr, found.names))}."
        )
    if extra_columns == "fail" and (extra := [name for name in found.names if name not in wanted.names]):
        raise SchemaError(f"{source} has columns that the schema lacks: {', '.join(map(repr, extra))}.")


def fit(batch: pa.RecordBatch, schema: pa.Schema, source: str) -> pa.RecordBatch:
    """The batch with exactly the columns and types of `schema`.

    Raises:
        SchemaError: A type cannot become the wanted one, or a column that may not be null has nulls.
        TypeLossError: A value would lose something.
    """
    arrays = []
    for field in schema:
        values = batch.column(field.name)
        if values.type != field.type:
            values = _cast(values, field, source)
        if not field.nullable and values.null_count:
            raise SchemaError(f"{source}: column {field.name!r} has nulls, and the schema declares it not null.")
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(values: pa.Array, field: pa.Field, source: str) -> pa.Array:
    if not convertible(values.type, field.type):
        raise SchemaError(
            f"{source}: column {field.name!r} is {values.type} and cannot become {field.type} by itself. "
            "Convert it with map_batches, or declare its own type."
        )
    try:
        if types.is_integer(values.type) and types.is_decimal(field.type):
            values = pc.cast(values, pa.decimal128(20, 0))
        return pc.cast(values, field.type)
    except pa.ArrowInvalid:
        raise TypeLossError(
            f"{source}: column {field.name!r} is {values.type}, and a value of it does not fit {field.type}."
        ) from None


def convertible(kind: pa.DataType, target: pa.DataType) -> bool:  # noqa: PLR0911 (a table of rules)
    """Whether a cast that checks every value can lose nothing.

    >>> [convertible(pa.int64(), kind) for kind in (pa.int32(), pa.decimal128(12, 2), pa.float64())]
    [True, True, False]
    """
    if kind == target or types.is_null(kind):
        return True
    if types.is_dictionary(kind):
        return convertible(kind.value_type, target)
    if types.is_dictionary(target):
        return is_text(kind) and is_text(target.value_type)
    if types.is_integer(kind):
        exact = types.is_floating(target) and kind.bit_width < (64 if types.is_float64(target) else 32)
        return bool(types.is_integer(target) or types.is_decimal(target) or (exact and not types.is_float16(target)))
    if types.is_floating(kind):
        return bool(types.is_floating(target) and target.bit_width >= kind.bit_width)
    if types.is_timestamp(kind):
        return bool(types.is_timestamp(target) and (kind.tz is None) == (target.tz is None))
    if _is_list(kind):
        return bool(_is_list(target) and convertible(kind.value_type, target.value_type))
    if types.is_struct(kind):
        return bool(
            types.is_struct(target)
            and [field.name for field in kind] == [field.name for field in target]
            and all(convertible(field.type, other.type) for field, other in zip(kind, target, strict=True))
        )
    families = (types.is_decimal, is_text, _is_binary, types.is_date, types.is_time, types.is_duration)
    return any(belongs(kind) and belongs(target) for belongs in families)


def widened(kind: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds the values of both without loss; None where there is none."""
    try:
        schemas = [pa.schema([("", kind)]), pa.schema([("", other)])]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    return common if convertible(kind, common) and convertible(other, common) else None


def _is_list(kind: pa.DataType) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _options(options: FileOptions | None, kind: type[Any], format: Format) -> Any:
    if options is not None and not isinstance(options, kind):
        raise InvalidInputError(f"{type(options).__name__} are no options for {format}; pass {kind.__name__}.")
    return options
