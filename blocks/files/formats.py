"""Files <-> record batches: CSV, JSON Lines, Parquet, Arrow IPC. Bounded memory both ways, and no value changes.

    scan = open_scan(lambda: open("orders.csv", "rb"), source="orders.csv", format="csv", schema=ORDERS)

| format | names | compression | not held, so refused |
|---|---|---|---|
| csv | .csv .tsv | none gzip zstd | nested, binary and duration types; NUL characters; years beyond 1-9999 |
| jsonl | .jsonl .ndjson | none gzip zstd | binary, duration and map types; NaN and infinity; years beyond 1-9999 |
| parquet | .parquet .pq | zstd snappy gzip none | interval and union types |
| arrow | .arrow .feather .ipc | none zstd | nothing |
| arrows | .arrows (a stream) | none zstd | nothing |

Text formats and their types: see `csv`, `json_lines` and, where no schema is declared, `inference`. Parquet has no
seconds: where no schema is declared, such timestamps come back in milliseconds.
"""
# ruff: noqa: A002 (format and open are what everybody calls them)

from __future__ import annotations

import gzip
import re
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

import pyarrow as pa

from blocks.arrow.columns import NOTHING, ExtraColumns, check_names
from blocks.arrow.scan import Scan
from blocks.base.errors import InvalidInputError
from blocks.files.csv import CsvReader, CsvWriter
from blocks.files.ipc import IpcReader, IpcWriter
from blocks.files.json_lines import JsonReader, JsonWriter
from blocks.files.options import TEXT_FORMATS, Compression, CsvOptions, Format, OnError, ParquetOptions, check_format
from blocks.files.parquet import KeptOpen, ParquetReader, ParquetWriter
from blocks.files.protocols import schema_of
from blocks.files.text import TextSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pyarrow.compute as pc

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import FileOptions
    from blocks.files.protocols import InferredColumn, Open, Reader, Writer


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


def detect(
    key: str, format: Format | None = None, compression: Compression | None = None
) -> tuple[Format, Compression]:
    """Find the format and compression, from what is given and else from the key's name.

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
    check_format(found, COMPRESSIONS)
    if found in {"csv", "jsonl"}:
        return found, check_compression(found, compression or suffix or "none")
    if suffix and compression is None:
        raise InvalidInputError(
            f"{name!r} is a {found} file compressed as a whole. Unpack it: {found} compresses inside."
        )
    return found, check_compression(found, compression)


def default_options(key: str) -> FileOptions | None:
    """Return the options that a name gives: tabs in `.tsv` files."""
    return CsvOptions(delimiter="\t") if re.search(r"\.tsv(\.\w+)?$", key, re.IGNORECASE) else None


def check_compression(format: Format, compression: Compression | None) -> Compression:
    """Return the compression to use, the format's default where None.

    Raises:
        InvalidInputError: The format has no such compression.
    """
    check_format(format, COMPRESSIONS)
    if compression is None:
        return COMPRESSIONS[format][0]
    if compression not in COMPRESSIONS[format]:
        raise InvalidInputError(
            f"{format} cannot be compressed with {compression!r}. Use one of: {', '.join(COMPRESSIONS[format])}."
        )
    return compression


def extension(format: Format, compression: Compression) -> str:
    """Return the end of a file's name: `.csv.gz`."""
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
    """Make a reader of one file.

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
    """Describe one file as a Scan.

    Args:
        open: Opens the file from its start, again for every attempt.
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

    @cache
    def columns() -> Mapping[str, InferredColumn]:
        return reader.infer() if schema is None else NOTHING

    def batches(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        return reader.batches(scan.schema, rejects, on_error, inferred=columns())

    scan = Scan(
        schema if schema is not None else lambda: schema_of(columns()),
        batches,
        source=source,
        inferred=lambda: columns() if format in TEXT_FORMATS else (),
    )
    return scan


def open_writer(
    file: BinaryIO,
    schema: pa.Schema,
    *,
    format: Format,
    compression: Compression | None = None,
    options: FileOptions | None = None,
) -> Writer:
    """Make a writer of one file; close it, and then the file.

    Args:
        file: An open binary file.
        schema: The schema of every batch.
        format: The file's format.
        compression: Defaults to the format's own: zstd for Parquet, none for the others.
        options: CsvOptions for CSV, ParquetOptions for Parquet.

    Raises:
        TypeLossError: The format cannot hold a column's type.
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


class CompressedWriter:
    """Writes a text format through a compression of the file as a whole."""

    def __init__(self, file: BinaryIO, compression: Compression, make: Callable[[Any], CsvWriter | JsonWriter]) -> None:
        self._sink: Any = pa.PythonFile(KeptOpen(file), mode="w")
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


def _options(options: FileOptions | None, kind: type[Any], format: Format) -> Any:
    if options is not None and not isinstance(options, kind):
        raise InvalidInputError(f"{type(options).__name__} is not for {format}; pass {kind.__name__}.")
    return options
