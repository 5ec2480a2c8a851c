"""Files <-> record batches: CSV, JSON, Parquet, Arrow IPC. Bounded memory both ways, and no value changes.

    scan = open_scan(lambda: open("orders.csv", "rb"), source="orders.csv", format="csv", schema=ORDERS)

| format | names | compression | not held, so refused |
|---|---|---|---|
| csv | .csv .tsv | none gzip zstd bz2 xz zip | nested, binary and duration types; NUL characters; years beyond 1-9999 |
| jsonl | .jsonl .ndjson | the same | binary, duration and map types; NaN and infinity; years beyond 1-9999 |
| json | .json | the same | the same |
| parquet | .parquet .pq | zstd snappy gzip none | interval and union types |
| arrow | .arrow .feather .ipc | none zstd | nothing |
| arrows | .arrows (a stream) | none zstd | nothing |

A JSON file (an array of objects, or objects one after the other) and a zip archive (of one file) are read, not written.
Text formats and their types: see `csv`, `json_lines` and, where no schema is declared, `inference`. Parquet has no
seconds: where no schema is declared, such timestamps come back in milliseconds.
"""
# ruff: noqa: A002 (format and open are what everybody calls them)

from __future__ import annotations

import bz2
import gzip
import lzma
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
from blocks.files.options import (
    JSON_FORMATS,
    TEXT_FORMATS,
    Compression,
    CsvOptions,
    Format,
    JsonOptions,
    OnError,
    ParquetOptions,
    check_format,
)
from blocks.files.parquet import KeptOpen, ParquetReader, ParquetWriter
from blocks.files.protocols import schema_of
from blocks.files.text import TextSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow.compute as pc

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import FileOptions
    from blocks.files.protocols import InferredColumn, Open, Reader, Writer


EXTENSIONS: dict[str, Format] = {
    "csv": "csv",
    "tsv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "ipc": "arrow",
    "arrows": "arrows",
}
ELSEWHERE = {
    "xlsx": "a spreadsheet: save it as CSV (UTF-8), or pass the frame of pandas.read_excel()",
    "xls": "a spreadsheet: save it as CSV (UTF-8), or pass the frame of pandas.read_excel()",
    "ods": "a spreadsheet: save it as CSV (UTF-8), or pass the frame of pandas.read_excel()",
    "xml": "XML: pass the frame of pandas.read_xml()",
    "html": "HTML: pass a frame of pandas.read_html()",
    "sas7bdat": "a file of SAS: pass the frame of pandas.read_sas()",
    "dta": "a file of Stata: pass the frame of pandas.read_stata()",
    "orc": "ORC: pass the table of pyarrow.orc.read_table()",
    "avro": "Avro: pass the frame of polars.read_avro()",
}
"""What to do with files of other formats, by the end of their names."""
SUFFIXES: dict[str, Compression] = {
    "gz": "gzip",
    "zst": "zstd",
    "bz2": "bz2",
    "xz": "xz",
    "zip": "zip",
}
COMPRESSIONS: dict[Format, tuple[Compression, ...]] = {
    "csv": ("none", "gzip", "zstd", "bz2", "xz"),
    "jsonl": ("none", "gzip", "zstd", "bz2", "xz"),
    "parquet": ("zstd", "snappy", "gzip", "none"),
    "arrow": ("none", "zstd"),
    "arrows": ("none", "zstd"),
}
"""What each format can be written with; the first is the default."""
READABLE: dict[Format, tuple[Compression, ...]] = COMPRESSIONS | dict.fromkeys(
    TEXT_FORMATS, (*COMPRESSIONS["csv"], "zip")
)
"""What each format can be read with."""
CONTENT_TYPES: dict[Format, str] = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
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
    end = (stem.rpartition(".")[2] if suffix else last).lower()
    found = format or EXTENSIONS.get(end)
    if found is None and end in ELSEWHERE:
        raise InvalidInputError(f"{name!r} is {ELSEWHERE[end]}. This collection has no reader for such files.")
    if found is None:
        raise InvalidInputError(
            f"The name {name!r} does not say its format. Pass format=, one of: {', '.join(get_args(Format))}."
        )
    check_format(found, READABLE)
    if found in TEXT_FORMATS:
        return found, check_compression(found, compression or suffix or "none", READABLE)
    if suffix and compression is None:
        raise InvalidInputError(
            f"{name!r} is a {found} file compressed as a whole. Unpack it: {found} compresses inside."
        )
    return found, check_compression(found, compression, READABLE)


def default_options(key: str) -> FileOptions | None:
    """Return the options that a name gives: tabs in `.tsv` files."""
    return CsvOptions(delimiter="\t") if re.search(r"\.tsv(\.\w+)?$", key, re.IGNORECASE) else None


def check_compression(
    format: Format,
    compression: Compression | None,
    known: Mapping[Format, tuple[Compression, ...]] = COMPRESSIONS,
) -> Compression:
    """Return the compression to use, the format's default where None; `known` is what there is.

    Raises:
        InvalidInputError: There is no such format, or the format has no such compression.
    """
    check_format(format, known)
    if compression is None:
        return known[format][0]
    if compression not in known[format]:
        raise InvalidInputError(
            f"{format} cannot be compressed with {compression!r}. Use one of: {', '.join(known[format])}."
        )
    return compression


def extension(format: Format, compression: Compression) -> str:
    """Return the end of a file's name: `.csv.gz`."""
    ends = {compression: end for end, compression in SUFFIXES.items()}
    return f".{format}.{ends[compression]}" if format in TEXT_FORMATS and compression in ends else f".{format}"


def open_reader(
    open: Open,
    *,
    source: str,
    format: Format,
    compression: Compression = "none",
    options: FileOptions | None = None,
    extra_columns: ExtraColumns = "ignore",
    where: tuple[pc.Expression, pa.Schema] | None = None,
    groups: Sequence[int] | None = None,
) -> Reader:
    """Make a reader of one file.

    Args:
        open: Opens the file from its start; seekable for Parquet and Arrow files.
        source: What messages call it.
        format: The file's format.
        compression: The compression of a CSV or JSON file as a whole.
        options: CsvOptions for CSV, JsonOptions for JSON.
        extra_columns: What to do with columns that the schema lacks.
        where: An expression, and the schema it is about; rows for which it is false need not be read (and may be).
        groups: The row groups of a Parquet file to read. Defaults to all of them.
    """
    if format == "csv":
        chosen = _options(options, CsvOptions, format) or CsvOptions()
        return CsvReader(TextSource(open, source, compression), chosen, extra_columns=extra_columns)
    if format in JSON_FORMATS:
        chosen = _options(options, JsonOptions, format) or JsonOptions()
        return JsonReader(TextSource(open, source, compression), chosen, extra_columns, lines=format == "jsonl")
    if options is not None:
        raise InvalidInputError(f"{source} is {format}: there are no options for reading it.")
    if format == "parquet":
        return ParquetReader(open, source, extra_columns, where, groups)
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
        compression: The compression of a CSV or JSON file as a whole.
        schema: The columns to read, by name, and their exact types; without it the file says or hints at them.
        options: CsvOptions for CSV, JsonOptions for JSON.
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
        elif compression in {"bz2", "xz"}:
            self._sink = (bz2.BZ2File if compression == "bz2" else lzma.LZMAFile)(file, "wb")
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
