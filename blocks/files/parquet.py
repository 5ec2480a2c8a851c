"""Parquet to record batches and back."""

# ruff: noqa: A002 (format and open are what everybody calls them)

from __future__ import annotations

import struct
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import types

from blocks.arrow.columns import NOTHING, ExtraColumns, completed, fit, present_fields
from blocks.base.errors import ConnectorError, DamagedError, InvalidInputError, SchemaError, TypeLossError
from blocks.files.protocols import BATCH_BYTES, BATCH_ROWS, SAMPLE_ROWS, TypedColumn, typed_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow.compute as pc

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import Compression, OnError, ParquetOptions
    from blocks.files.protocols import InferredColumn, Open

LARGE_GROUP_BYTES = 256 * 2**20
"""A row group above this is read by parts of its columns, in more requests; a smaller one column by column."""

PART_BYTES = 8 * 2**20


class ParquetReader:
    """A Parquet file as record batches, one row group after the other."""

    def __init__(
        self,
        open: Open,
        source: str,
        extra_columns: ExtraColumns,
        where: tuple[pc.Expression, pa.Schema] | None,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.groups = groups
        self.open = open
        self.source = source
        self.extra_columns = extra_columns
        self.where = where

    def infer(self) -> dict[str, TypedColumn]:
        """Read the schema in the file's footer."""
        with closing(self.open()) as file, self._parquet(file) as parquet:
            return typed_columns(self._schema(parquet), self.source)

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,  # noqa: ARG002 (typed data has no bad rows)
        on_error: OnError = "fail",  # noqa: ARG002
        *,
        inferred: Mapping[str, InferredColumn] = NOTHING,  # noqa: ARG002
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """Read the columns of `schema`, cast where nothing is lost.

        Raises:
            DamagedError: A page does not have the checksum that the file has for it.
            InvalidInputError: It is not a Parquet file.
            SchemaError: The file lacks a column, or a cast would lose something.
        """
        with closing(self.open()) as file, self._parquet(file) as parquet, ExitStack() as opened:
            own = self._schema(parquet)
            wanted = present_fields(own.names, schema, absent, self.source, self.extra_columns)
            wanted = wanted or pa.schema([own.field(0)])
            names = wanted.names
            coarse = _int96_columns(parquet)
            int96 = [name for name in names if name in coarse]
            fine = self._parquet(opened.enter_context(closing(self.open())), "ns") if int96 else None
            groups = self._row_groups(file, parquet)
            try:
                # Group by group: Arrow keeps the bytes of all groups that it is asked for until the last one is read.
                for group in range(parquet.num_row_groups) if groups is None else groups:
                    if self.groups is not None and group not in self.groups:
                        continue
                    size = parquet.metadata.row_group(group)
                    rows = min(max(BATCH_BYTES * size.num_rows // max(size.total_byte_size, 1), 1_024), BATCH_ROWS)
                    batches = parquet.iter_batches(rows, row_groups=[group], columns=names)
                    if fine is not None:
                        finer = fine.iter_batches(rows, row_groups=[group], columns=int96)
                        batches = (
                            self._with_int96(batch, other, wanted) for batch, other in zip(batches, finer, strict=True)
                        )
                    read = 0
                    for batch in batches:
                        read += batch.num_rows
                        yield completed(fit(with_intervals(batch, own), wanted, self.source), schema, absent)
                    if read != size.num_rows:
                        raise self._damaged(f"row group {group} has {read} of {size.num_rows} rows")
            except ConnectorError:
                raise  # also an OSError, some of them
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise self._damaged(_words(error)) from error

    def footer(self, file: BinaryIO) -> pq.FileMetaData:
        """Return what the footer of the open file says."""
        return self._parquet(file).metadata

    def _schema(self, parquet: pq.ParquetFile) -> pa.Schema:
        """Return the file's columns; Arrow takes Parquet's INTERVAL for twelve bytes.

        Raises:
            InvalidInputError: A name is not UTF-8.
            SchemaError: There is one within a list, a struct or a map.
        """
        try:
            schema = parquet.schema_arrow
            names = set(schema.names)
        except (UnicodeDecodeError, pa.ArrowException) as error:
            raise self._damaged(_words(error)) from None
        leaves = (parquet.schema.column(number) for number in range(len(parquet.schema.names)))
        for leaf in leaves:
            if leaf.converted_type == "INTERVAL":
                if leaf.path not in names:
                    raise SchemaError(
                        f"{self.source}: column {leaf.path.partition('.')[0]!r} has intervals within it, which Arrow "
                        "does not read. Write them as text."
                    )
                at = schema.get_field_index(leaf.path)
                schema = schema.set(at, schema.field(at).with_type(pa.month_day_nano_interval()))
        return schema

    def _parquet(self, file: BinaryIO, int96_unit: str = "us") -> pq.ParquetFile:
        options: dict[str, Any] = {
            "pre_buffer": False,
            "page_checksum_verification": True,
            "coerce_int96_timestamp_unit": int96_unit,
        }
        try:
            parquet = pq.ParquetFile(file, **options)
        except ConnectorError:
            raise  # also an OSError, some of them
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._damaged(_words(error)) from error
        footer = parquet.metadata
        groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        if rows != footer.num_rows:
            raise self._damaged(f"its row groups have {rows} rows, and its footer says {footer.num_rows}")
        if all(group.total_byte_size <= LARGE_GROUP_BYTES for group in groups):
            return parquet
        return pq.ParquetFile(file, metadata=footer, buffer_size=PART_BYTES, **options)

    def _with_int96(self, batch: pa.RecordBatch, fine: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
        """Return the batch with nanoseconds where they are wanted.

        INT96 holds nanoseconds of all years, and Arrow either drops the nanoseconds or wraps the years: neither is
        done to a value unseen.

        Raises:
            TypeLossError: A value has nanoseconds and microseconds are wanted, or has a year that nanoseconds lack.
        """
        for name in fine.schema.names:
            index = batch.schema.get_field_index(name)
            pairs = list(zip(_moments(batch.column(index)), _moments(fine.column(name)), strict=True))
            if wanted.field(name).type == fine.schema.field(name).type:
                if any((moments != nanoseconds // 1_000).any() for moments, nanoseconds in pairs):
                    raise TypeLossError(
                        f"{self.source}: column {name!r} has a timestamp before 1678 or after 2262. Declare it as "
                        "pa.timestamp('us')."
                    )
                batch = batch.set_column(index, name, fine.column(name))
            elif any((nanoseconds != moments * 1_000).any() for moments, nanoseconds in pairs):  # both wrap alike
                raise TypeLossError(
                    f"{self.source}: column {name!r} has a timestamp with nanoseconds. Declare it as "
                    "pa.timestamp('ns')."
                )
        return batch

    def _damaged(self, error: Exception | str) -> ConnectorError:
        if "CRC checksum verification failed" in str(error):
            return DamagedError(
                f"Could not read {self.source}: a page of it does not have the checksum that is stored with it. "
                "Either it was damaged on its way, then the next attempt is right, or where it is stored."
            )
        return InvalidInputError(f"{self.source} is not a valid Parquet file (truncated or corrupt): {error}")

    def _row_groups(self, file: BinaryIO, parquet: pq.ParquetFile) -> list[int] | None:
        """Find the row groups that may hold rows for which `where` is true, by their statistics; None for all."""
        if self.where is None:
            return None
        expression, schema = self.where
        own = parquet.schema_arrow
        known = pa.schema([*own, *(field for field in schema if field.name not in own.names)])
        options = ds.ParquetReadOptions(coerce_int96_timestamp_unit="us")
        fragment = ds.ParquetFileFormat(read_options=options).make_fragment(pa.PythonFile(KeptOpen(file), mode="r"))
        try:
            return [group.id for group in fragment.subset(expression, schema=known).row_groups]
        except (pa.ArrowInvalid, NotImplementedError):
            return None


def group_sizes(file: BinaryIO, source: str) -> list[int]:
    """Return the sizes of the row groups of a file, in bytes before compression.

    Raises:
        InvalidInputError: It is not a Parquet file.
    """
    footer = ParquetReader(lambda: file, source, "ignore", None).footer(file)
    return [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]


def _words(error: Exception) -> Exception | str:
    """Return what to say of an error; Python's own words about text that is not UTF-8 quote it."""
    return "its names or its metadata are not UTF-8" if isinstance(error, UnicodeDecodeError) else error


def with_intervals(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with Parquet's intervals as Arrow's: months, days and milliseconds, of 32 bits each.

    https://github.com/apache/parquet-format/blob/master/LogicalTypes.md#interval
    """
    for at, field in enumerate(batch.schema):
        kind = schema.field(field.name).type
        if types.is_interval(kind) and not types.is_interval(field.type):
            parts = (None if value is None else struct.unpack("<III", value) for value in batch.column(at).to_pylist())
            found = [part and pa.MonthDayNano([part[0], part[1], part[2] * 1_000_000]) for part in parts]
            batch = batch.set_column(at, field.with_type(kind), pa.array(found, kind))
    return batch


class ParquetWriter:
    """Writes Parquet: zstd at level 1, statistics, checksums, a dictionary only for columns that repeat themselves.

    Args:
        file: An open binary file.
        schema: The schema of every batch.
        compression: One of those of the format.
        options: Level and row group size.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, compression: Compression, options: ParquetOptions) -> None:
        if unfit := [field for field in schema if not storable(field.type)]:
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
            write_page_checksum=True,
        )


def _int96_columns(parquet: pq.ParquetFile) -> set[str]:
    """Return the columns that hold timestamps in INT96, which Spark and Impala write."""
    columns = (parquet.schema.column(index) for index in range(len(parquet.schema)))
    return {column.path.partition(".")[0] for column in columns if column.physical_type == "INT96"}


def _moments(values: pa.Array) -> Iterator[np.ndarray[Any, Any]]:
    """Return the timestamps of a column, or within it, as numbers."""
    if types.is_timestamp(values.type):
        yield values.drop_null().cast(pa.int64()).to_numpy()
    elif types.is_nested(values.type):
        for part in values.flatten() if types.is_struct(values.type) else [values.flatten()]:
            yield from _moments(part)


def storable(kind: pa.DataType) -> bool:
    """Tell whether Parquet has a form for the type, and for all that is within it.

    >>> storable(pa.list_(pa.month_day_nano_interval()))
    False
    """
    if types.is_nested(kind):
        within = [kind.field(number).type for number in range(kind.num_fields)]
        return not types.is_union(kind) and all(map(storable, within))
    return not types.is_interval(kind)


def repeating(table: pa.Table) -> list[str] | bool:
    """Find the columns for which a dictionary pays, by a sample; all of them where there are nested ones.

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
            or 2 * len(_stored(sample[field.name]).unique()) <= len(sample)
        )
    ]


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values as they are stored: Arrow has no kernels for UUID and JSON."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


class KeptOpen:
    """A file that stays open when Arrow closes its own view of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def close(self) -> None:
        """End Arrow's view; the file itself stays open."""
        self.closed = True
