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

import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast, get_args

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import types

from blocks.arrow.columns import NOTHING, ExtraColumns, check_names, completed, fit, plain_schema, present_fields
from blocks.arrow.scan import Scan
from blocks.base.errors import InvalidInputError, TypeLossError
from blocks.files.csv import CsvReader, CsvWriter
from blocks.files.json_lines import JsonReader, JsonWriter
from blocks.files.options import Compression, CsvOptions, Format, OnError, ParquetOptions
from blocks.files.text import TextSource

if TYPE_CHECKING:
    import pyarrow.compute as pc

    from blocks.arrow.scan import Rejects
    from blocks.files.options import FileOptions

BATCH_ROWS = 65_536
BATCH_BYTES = 4 * 2**20
"""A batch holds at most so many rows, and about so many bytes."""
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
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,
        on_error: OnError = "fail",
        *,
        inferred: bool = False,
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, each of exactly its type.

        Args:
            schema: What to read, by name.
            rejects: Where bad rows go.
            on_error: Whether they may.
            inferred: Whether `schema` was found by `infer`, for messages.
            absent: What columns are that the file lacks; one that is not here either is a SchemaError.
        """


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


def default_options(key: str) -> FileOptions | None:
    """The options that a name gives: tabs in `.tsv` files."""
    return CsvOptions(delimiter="\t") if re.search(r"\.tsv(\.\w+)?$", key, re.IGNORECASE) else None


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
    extra_columns: ExtraColumns = "ignore",
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
        chosen = _options(options, CsvOptions, format) or CsvOptions()
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
    extra_columns: ExtraColumns = "ignore",
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
        extra_columns: ExtraColumns,
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
        rejects: Rejects | None = None,  # noqa: ARG002 (typed data has no bad rows)
        on_error: OnError = "fail",  # noqa: ARG002
        *,
        inferred: bool = False,  # noqa: ARG002
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, cast where nothing is lost.

        Raises:
            InvalidInputError: It is no Parquet file.
            SchemaError: The file lacks a column, or a cast would lose something.
        """
        with closing(self.open()) as file, self._parquet(file) as parquet:
            own = parquet.schema_arrow
            wanted = present_fields(own.names, schema, absent, self.source, self.extra_columns)
            groups = self._row_groups(file, parquet)
            try:
                # Group by group: Arrow keeps the bytes of all groups that it is asked for until the last one is read.
                for group in range(parquet.num_row_groups) if groups is None else groups:
                    size = parquet.metadata.row_group(group)
                    rows = max(BATCH_BYTES * size.num_rows // max(size.total_byte_size, 1), 1_024)
                    for batch in parquet.iter_batches(
                        min(rows, BATCH_ROWS), row_groups=[group], columns=wanted.names or own.names[:1]
                    ):
                        yield completed(fit(batch, wanted or batch.schema, self.source), schema, absent)
            except (pa.ArrowInvalid, OSError) as error:
                raise self._damaged(error) from error

    def _parquet(self, file: BinaryIO) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file, pre_buffer=False)
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

    def __init__(self, open: Open, source: str, extra_columns: ExtraColumns) -> None:
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
        rejects: Rejects | None = None,  # noqa: ARG002 (typed data has no bad rows)
        on_error: OnError = "fail",  # noqa: ARG002
        *,
        inferred: bool = False,  # noqa: ARG002
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """The columns of `schema`, cast where nothing is lost.

        Raises:
            InvalidInputError: It is no Arrow IPC file or stream.
            SchemaError: The file lacks a column, or a cast would lose something.
        """
        with closing(self.open()) as file:
            ipc = self._ipc(file)
            wanted = present_fields(ipc.schema.names, schema, absent, self.source, self.extra_columns)
            try:
                for batch in self._all(ipc):
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        part = fit(batch.slice(start, BATCH_ROWS), wanted or batch.schema, self.source)
                        yield completed(part, schema, absent)
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
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None and not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._waiting, self._rows, self._bytes = [], 0, 0
        if self._writer is None:
            self._writer = self._open(table)
        if table.num_rows:
            self._writer.write_table(table, self.options.row_group_rows)

    def close(self) -> None:
        """Write what waits, and the footer."""
        self._flush()
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

    def __init__(self, file: BinaryIO, compression: Compression, make: Callable[[Any], CsvWriter | JsonWriter]) -> None:
        self._sink: Any = pa.PythonFile(_KeptOpen(file), mode="w")
        if compression == "gzip":
            # Arrow's own has level 9 only: twice the time of level 6 for half a percent. No time stamp: same bytes.
            self._sink = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
        elif compression != "none":
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


def _options(options: FileOptions | None, kind: type[Any], format: Format) -> Any:
    if options is not None and not isinstance(options, kind):
        raise InvalidInputError(f"{type(options).__name__} are no options for {format}; pass {kind.__name__}.")
    return options
