"""Write a table as files of a folder, Hive-style, all of it or nothing.

Names carry the promise that the same write twice gives the same files. Parts are made as local temporary files and
uploaded only after all data was read and its bad rows were found few enough; then what is stale is removed. Memory is
bounded; the disk for temporary files has to hold the parts, and partitioned data once more while it is sorted. A writer
that dies leaves the old files, or some new ones beside them; the same write again completes it. A reader that comes
between the uploads and the removal may see both.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field

from blocks.arrow.load_id import HALF, DerivedId
from blocks.arrow.rejects import Rejects
from blocks.arrow.scan import as_scan, empty_batch
from blocks.base.concurrency import ordered_map
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.base.movement import Movement
from blocks.base.optional import lazy
from blocks.base.progress import progress
from blocks.base.temporary import TemporaryFolder
from blocks.stores.client import WriteOptions
from blocks.stores.hive import NULL_PARTITION, data_objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.arrow.scan import Scan
    from blocks.files.options import Compression, FileOptions, Format
    from blocks.files.protocols import Writer
    from blocks.stores.folder import StoreFolder
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

WriteMode = Literal["replace", "replace_partition", "append"]


SORT_BYTES = 64 * 2**20
"""How much data is held to sort it by partition; it then waits on disk until all has come."""

SMALL_UPLOADS_AT_ONCE = 8
LARGE_FILE_BYTES = 16 * 2**20
LONGEST_FOLDER = 255
"""The most bytes of the name of a folder, on the file systems where data sets are copied to."""
QUARANTINE = "_quarantine"
LISTED_ONE_BY_ONE = 16
LONG_NAME = 120


class WrittenFile(BaseModel):
    """One file of a dataset."""

    model_config = ConfigDict(frozen=True)

    key: str
    rows: int
    bytes: int


class WriteReport(BaseModel):
    """What `write_table` did."""

    model_config = ConfigDict(frozen=True)

    prefix: str = Field(description="The folder of the dataset.")
    mode: WriteMode = Field(description="The write mode.")
    load_id: str | None = Field(default=None, description="The identity of an append.")
    files: tuple[WrittenFile, ...] = Field(description="The files that hold the data now.")
    partitions: tuple[str, ...] = Field(default=(), description="The folders that were written, below the prefix.")
    removed: int = Field(default=0, description="How many stale files were removed.")
    rows_read: int = Field(description="Rows that came in.")
    rows: int = Field(description="Rows that were written.")
    rejected: dict[str, int] = Field(default_factory=dict, description="Rejected rows by reason.")
    quarantine: str | None = Field(default=None, description="The object that holds the rejected rows.")
    bytes: int = Field(description="Size of all files.")
    seconds: float = Field(description="How long it took.")

    def movement(self, *, target: str, tool: str, origins: Iterable[str] = (), quarantine: str = "") -> Movement:
        """Return what the write moved, for those who are told of it.

        Args:
            target: The asset key of the folder.
            tool: The type of the block.
            origins: The asset keys of what the rows came from.
            quarantine: The address of the rejected rows.
        """
        return Movement(
            verb="write",
            name=self.prefix,
            target=target,
            tool=tool,
            origins=tuple(origins),
            mode=self.mode,
            load_id=self.load_id,
            rows=self.rows,
            bytes=self.bytes,
            seconds=self.seconds,
            changes={"files": len(self.files), "stale files removed": self.removed},
            rejected=self.rejected,
            quarantine=quarantine or None,
            text=str(self),
        )

    def __str__(self) -> str:
        text = (
            f"{self.prefix}: {self.rows} of {self.rows_read} rows written by {self.mode} to {len(self.files)} files "
            f"({self.bytes / 2**20:.1f} MiB) in {self.seconds:.2f} s"
        )
        if self.files:
            text += f": {self.files[0].key}" + (" ..." if len(self.files) > 1 else "")
        if self.rejected:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.rejected.items())
            text += f"; {self.rows_read - self.rows} quarantined in {self.quarantine} ({reasons})"
        return text


def write_table(
    store: StoreFolder,
    data: Any,
    prefix: str,
    *,
    partition_by: Sequence[str] = (),
    mode: WriteMode = "replace",
    format: Format = "parquet",  # noqa: A002 (what everybody calls it)
    compression: Compression | None = None,
    options: FileOptions | None = None,
    load_id: str | None = None,
    max_file_bytes: int = 128 * 2**20,
    max_rejected: float = 0.0,
) -> WriteReport:
    """Write a dataset below `prefix`, and report what was written.

    Files are `<prefix>/<column>=<value>/part-0.parquet`. Without `partition_by` the folder itself is the partition.

    * `replace`: the folder holds these rows and no others. No rows are one file without rows, which keeps the schema.
    * `replace_partition`: the same for each partition that has rows in `data`; others are left alone.
    * `append`: adds parts whose names carry the load_id, so that the same load twice is there once.

    Args:
        store: Where to.
        data: A Scan, a frame, an Arrow table, or anything else with `__arrow_c_stream__`.
        prefix: The folder.
        partition_by: Columns that become folders.
        mode: See above.
        format: The files' format.
        compression: Defaults to the format's own: zstd for Parquet, none for the others.
        options: ParquetOptions for Parquet, CsvOptions for CSV.
        load_id: The identity of the write; a new one for an append where None.
        max_file_bytes: A part that has reached this size is followed by another one.
        max_rejected: The share of bad rows (0 to 1) that is allowed; they go to `<prefix>/_quarantine`.

    Raises:
        QualityError: More rows were rejected; nothing was written.
        SchemaError: A column of `partition_by` does not exist or cannot be a folder.
        TypeLossError: The format cannot hold a column's type.
    """
    started = time.monotonic()
    folder = prefix.strip("/")
    if not folder:
        raise InvalidInputError("A dataset needs a folder of its own: pass its name as prefix.")
    if mode == "append" and load_id is None:
        load_id = uuid.uuid4().hex
    if mode == "append" and isinstance(load_id, DerivedId) and load_id.call.needs_the_ledger:
        load_id.call.check_new((found, None) for found in _appended(store, folder, load_id))
    source = as_scan(data).settled()
    rejects = Rejects()
    name = _part_name(mode, load_id)
    with TemporaryFolder() as temporary:
        parts = _Parts(temporary, folder, name, _Form(format, compression, options), max_file_bytes)
        with closing(parts):
            rows = _fill(parts, source, rejects, list(partition_by), max_rejected)
            if rows == 0 and mode == "replace":
                parts.write("", empty_batch(source.schema))
        files = _upload(store, parts)
        partitions = sorted({part.partition for part in parts.done})
        quarantined = f"{folder}/{QUARANTINE}/{_quarantine_name(mode, load_id, partitions)}.jsonl"
        kept = _quarantine(store, rejects, quarantined, temporary)
    stale = _stale(store, folder, mode, name, partitions)
    removed = sorted(stale - {file.key for file in files})
    if removed:
        store.delete(removed)
    if mode == "replace_partition" and (void := _void_quarantines(store, folder, partitions) - {quarantined}):
        store.delete(sorted(void))
    return WriteReport(
        prefix=folder,
        mode=mode,
        load_id=load_id,
        files=files,
        partitions=tuple(partition for partition in partitions if partition),
        removed=len(removed),
        rows_read=rows + rejects.total,
        rows=rows,
        rejected=dict(rejects.reasons),
        quarantine=quarantined if kept else None,
        bytes=sum(file.bytes for file in files),
        seconds=round(time.monotonic() - started, 3),
    )


@dataclass(frozen=True)
class _Form:
    """What the files are."""

    format: Format
    compression: Compression | None
    options: FileOptions | None

    def open(self, file: BinaryIO, schema: pa.Schema) -> Writer:
        from blocks.files.formats import open_writer

        return open_writer(file, schema, format=self.format, compression=self.compression, options=self.options)

    @property
    def extension(self) -> str:
        from blocks.files.formats import check_compression, extension

        return extension(self.format, check_compression(self.format, self.compression))

    @property
    def content_type(self) -> str:
        from blocks.files.formats import CONTENT_TYPES

        return CONTENT_TYPES[self.format]


@dataclass
class _Part:
    """A file of the dataset that is made locally."""

    partition: str
    key: str
    path: Path
    file: BinaryIO
    writer: Writer
    rows: int = 0


class _Parts:
    """The files that are made, one after the other."""

    def __init__(self, temporary: Path, folder: str, name: str, form: _Form, max_bytes: int) -> None:
        self.temporary = temporary
        self.folder = folder
        self.name = name
        self.form = form
        self.max_bytes = max_bytes
        self.done: list[_Part] = []
        self._open: _Part | None = None
        self._number = 0

    def write(self, partition: str, batch: pa.RecordBatch) -> None:
        """Append rows to a partition; those of one partition come one after the other."""
        if self._open is not None and self._open.partition != partition:
            self.close()
            self._number = 0
        part = self._open = self._open or self._start(partition, batch.schema)
        part.writer.write(batch)
        part.rows += batch.num_rows
        if part.file.tell() >= self.max_bytes:
            self.close()

    def close(self) -> None:
        """Finish the open part."""
        if part := self._open:
            self._open = None
            with closing(part.file):
                part.writer.close()
            self.done.append(part)

    def _start(self, partition: str, schema: pa.Schema) -> _Part:
        key = "/".join(filter(None, (self.folder, partition, f"{self.name}{self._number}{self.form.extension}")))
        self._number += 1
        path = self.temporary / f"part-{len(self.done)}"
        file = path.open("wb")
        try:
            return _Part(partition, key, path, file, self.form.open(file, schema))
        except BaseException:
            file.close()
            raise


class _Sorter:
    """Sorts rows by partition, in bounded memory: sorted pieces wait in a local file each."""

    def __init__(self, temporary: Path, schema: pa.Schema, partition_by: list[str]) -> None:
        self.temporary = temporary
        self.schema = schema
        self.partition_by = partition_by
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._files = 0
        self._places: dict[str, list[tuple[int, int]]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take more rows."""
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= SORT_BYTES:
            self._spill()

    def sorted(self) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Each partition's rows in the order in which they came, without the partition's columns."""
        self._spill()
        with ExitStack() as stack:
            readers = [
                pa.ipc.open_file(stack.enter_context(pa.OSFile(str(self._path(number)))))
                for number in range(self._files)
            ]
            for partition in sorted(self._places):
                for number, index in self._places[partition]:
                    yield partition, readers[number].get_batch(index)

    def _spill(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._waiting, self._bytes = [], 0
        rest = table.drop_columns(self.partition_by)
        options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
        with pa.ipc.new_file(str(self._path(self._files)), rest.schema, options=options) as writer:
            index = 0
            for partition, part in _split(table.select(self.partition_by), rest):
                for batch in part.to_batches():
                    writer.write_batch(batch)
                    self._places.setdefault(partition, []).append((self._files, index))
                    index += 1
        self._files += 1

    def _path(self, number: int) -> Path:
        return self.temporary / f"sorted-{number}"


def _fill(parts: _Parts, source: Scan, rejects: Rejects, partition_by: list[str], max_rejected: float) -> int:
    """Write the rows into parts, and return how many they are.

    Raises:
        QualityError: Too many others were refused.
    """
    from blocks.arrow.columns import fit

    schema = source.schema
    _check_partitions(schema, partition_by)
    sorter = _Sorter(parts.temporary, schema, partition_by) if partition_by else None
    rows = 0
    counting = progress(parts.folder, total=source.rows)
    with closing(source.batches(rejects)) as batches, counting as tick:  # type: ignore[type-var]
        for batch in batches:
            tick(batch.num_rows)
            fitting = batch if batch.schema.equals(schema) else fit(batch, schema, source.source)
            rows += fitting.num_rows
            if sorter is None:
                parts.write("", fitting)
            else:
                sorter.add(fitting)
    rejects.check(accepted=rows, max_rejected=max_rejected, source=source.source)
    if sorter is not None:
        for partition, batch in sorter.sorted():
            parts.write(partition, batch)
    return rows


def _check_partitions(schema: pa.Schema, partition_by: list[str]) -> None:
    from pyarrow import types

    if missing := [name for name in partition_by if name not in schema.names]:
        raise SchemaError(
            f"There is no column {', '.join(map(repr, missing))} to partition by; "
            f"the columns are {', '.join(map(repr, schema.names))}."
        )
    if partition_by and len(set(partition_by)) == len(schema.names):
        raise SchemaError("Every column is in partition_by: no column would be left in the files.")
    for name in partition_by:
        kind = schema.field(name).type
        if types.is_floating(kind) or types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
            raise SchemaError(f"Column {name!r} of type {kind} cannot be a folder. Partition by text, integer or date.")


def _split(values: pa.Table, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Return the rows of `table` by the partition that `values` puts them into, each in their order."""
    import numpy as np

    codes = np.zeros(len(values), dtype=np.int64)
    for column in values.columns:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        codes = np.unique(codes * len(encoded.dictionary) + encoded.indices.to_numpy(), return_inverse=True)[1]
    first, counts = np.unique(codes, return_index=True, return_counts=True)[1:]
    folders = _folders(values.take(pa.array(first)))
    if len(folders) == 1:
        yield folders[0], table
        return
    ordered = table.take(pa.array(np.argsort(codes, kind="stable"))).combine_chunks()
    for folder, end, count in zip(folders, np.cumsum(counts), counts, strict=True):
        yield folder, ordered.slice(end - count, count)


def _folders(values: pa.Table) -> list[str]:
    """Return the folder of each row of partition values: `date=2026-04-30/shop=K%C3%B6ln`."""
    from pyarrow import types

    columns = []
    for field in values.schema:
        column = values[field.name]
        if types.is_timestamp(field.type) and field.type.tz is not None:
            column = pc.cast(column, pa.timestamp(field.type.unit, "UTC"))
        texts = pc.cast(column, pa.string()).to_pylist()
        if NULL_PARTITION in texts:
            raise TypeLossError(f"Column {field.name!r} holds the text that stands for null in folder names.")
        names = [f"{quote(field.name)}={NULL_PARTITION if text is None else quote(text, safe='')}" for text in texts]
        if len(max(names, key=len, default="")) > LONGEST_FOLDER:
            raise InvalidInputError(
                f"Column {field.name!r} has a value whose folder would have a name of more than {LONGEST_FOLDER} "
                "characters. Partition by shorter values."
            )
        columns.append(names)
    return ["/".join(parts) for parts in zip(*columns, strict=True)]


def _upload(store: StoreFolder, parts: _Parts) -> tuple[WrittenFile, ...]:
    def upload(part: _Part) -> WrittenFile:
        size = part.path.stat().st_size
        store.put(part.key, part.path, WriteOptions(content_type=parts.form.content_type))
        return WrittenFile(key=part.key, rows=part.rows, bytes=size)

    # A large file goes up in several requests at once by itself; more files at a time would only cost memory.
    large = any(part.path.stat().st_size > LARGE_FILE_BYTES for part in parts.done)
    return tuple(ordered_map(upload, parts.done, workers=1 if large else SMALL_UPLOADS_AT_ONCE))


def _quarantine(store: StoreFolder, rejects: Rejects, key: str, temporary: Path) -> bool:
    """Write the rejected rows to `key`, or delete what is there where there are none; tell whether there are some."""
    if not rejects.total:
        store.delete([key])
        return False
    path = temporary / "quarantine"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(rejects.json_lines())
    store.put(key, path, WriteOptions(content_type="application/x-ndjson"))
    return True


def _quarantine_name(mode: WriteMode, load_id: str | None, partitions: list[str]) -> str:
    """Return what a second attempt of the same write finds again."""
    if mode == "append" and load_id is not None:
        return _file_name(load_id)
    if mode == "replace_partition" and any(partitions):
        return _file_name("+".join(partitions))
    return "rows"


def _void_quarantines(store: StoreFolder, folder: str, partitions: list[str]) -> set[str]:
    """Return the quarantines of writes that wrote some of these partitions and no other: all their rows are replaced.

    A correction may bring rows into a partition of which all rows were rejected before.
    """
    keys = [info.key for page in store.list(f"{folder}/{QUARANTINE}") for info in page]
    names = {key: unquote(key.rpartition("/")[2].removesuffix(".jsonl")) for key in keys}
    return {key for key, name in names.items() if set(name.split("+")) <= set(partitions)}


def _part_name(mode: WriteMode, load_id: str | None) -> str:
    return f"part-{_file_name(load_id)}-" if mode == "append" and load_id is not None else "part-"


def _file_name(text: str) -> str:
    """Return a name without slashes that no other text has.

    >>> _file_name("2026-04-30/v1")
    '2026-04-30%2Fv1'
    """
    name = quote(text, safe="=+")
    return name if len(name) <= LONG_NAME else hashlib.sha256(text.encode()).hexdigest()


def _stale(store: StoreFolder, folder: str, mode: WriteMode, name: str, partitions: list[str]) -> set[str]:
    """Return the keys that this write replaces, those that it wrote itself included."""
    if mode == "replace":
        return _keys(store, folder)
    if mode == "append":
        own = re.compile(rf"{re.escape(name)}\d+\.[^/]*")
        return {key for key in _keys(store, folder) if own.fullmatch(key.rpartition("/")[2])}
    roots = [f"{folder}/{partition}" if partition else folder for partition in partitions]
    if len(roots) <= LISTED_ONE_BY_ONE:
        return set().union(*(_keys(store, root) for root in roots))
    depth = folder.count("/") + partitions[0].count("/") + 2
    wanted = set(roots)
    return {key for key in _keys(store, folder) if "/".join(key.split("/")[:depth]) in wanted}


def _appended(store: StoreFolder, folder: str, load_id: str) -> set[str]:
    """Return the ids of the appends of the same call that have left parts."""
    part = re.compile(rf"part-({re.escape(load_id[:HALF])}[0-9a-f]+)-\d+\.[^/]*")
    found = (part.fullmatch(key.rpartition("/")[2]) for key in _keys(store, folder))
    return {match[1] for match in found if match}


def _keys(store: StoreFolder, folder: str) -> set[str]:
    return {info.key for info in data_objects(store, folder)}
