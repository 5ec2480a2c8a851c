"""Datasets: one table in the files of a folder, read as a Scan (here) and written Hive-style (dataset_writer).

write_table(store, data, "orders", partition_by=["date"], mode="replace_partition")
scan(store, "orders", where=[("date", ">=", "2026-04-30")])      # orders/date=2026-04-30/part-0.parquet, ...
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from glob import has_magic
from typing import TYPE_CHECKING, Any, cast

from blocks.arrow.parts import Division
from blocks.arrow.scan import GrowingScan, Scan, parts_of
from blocks.base.assets import asset_key
from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    DamagedError,
    InvalidInputError,
    NotFoundError,
    ObjectNotFoundError,
    SchemaError,
    UnsupportedError,
)
from blocks.base.optional import lazy
from blocks.files.options import JSON_FORMATS, TEXT_FORMATS, OnError
from blocks.stores.dataset_writer import WriteMode, WriteReport, write_table
from blocks.stores.globs import Glob
from blocks.stores.hive import data_objects, dataset_of, hive_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.arrow.columns import ExtraColumns
    from blocks.arrow.rejects import Rejects
    from blocks.files.options import Compression, FileOptions, Format
    from blocks.files.protocols import InferredColumn, Reader
    from blocks.stores.folder import ReadFolder
    from blocks.stores.info import ObjectInfo
else:
    np = lazy("numpy")
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

__all__ = ["WriteMode", "WriteReport", "scan", "write_table"]

Condition = tuple[str, str, Any]
"""A column, an operator and a value, such as `("day", ">=", "2026-04-30")`."""

SMALL_ROWS = 8_192
SMALL_BYTES = 2**18
"""Batches below this, such as those of small files, are gathered."""
SMALL_AT_ONCE = 64
"""So many are kept at most: each holds more memory than its rows need."""
FILES_AT_ONCE = 8
"""How many files are looked at at a time to find out a schema."""


def scan(
    store: ReadFolder,
    keys: str | Sequence[str],
    *,
    schema: pa.Schema | None = None,
    format: Format | None = None,  # noqa: A002 (what everybody calls it)
    compression: Compression | None = None,
    options: FileOptions | None = None,
    columns: Sequence[str] | None = None,
    where: Sequence[Condition] | pc.Expression | None = None,
    on_error: OnError = "fail",
    extra_columns: ExtraColumns = "ignore",
    glob: bool | str = True,
    file_column: str | None = None,
    row_column: str | None = None,
) -> GrowingScan:
    """Describe objects as one Scan; nothing is read, nor listed, before it is opened.

    Folders like `date=2026-04-30` in a key are columns, unless the file has a column of that name itself. Names that
    start with `_` or `.` are not data. Files are read in the order of their names, numbers by value.

    Args:
        store: Where they are.
        keys: A key, a folder, a glob (see `blocks.stores.globs`), or a list of those. A key that exists is that key.
        schema: Columns and exact types; a file that lacks one is an error. Without it the types are what the files
            say, and of several files the union by name: each file is then opened once more, before any row comes.
        format: What the files are, where their names do not say it.
        compression: How they are compressed, where their names do not say it.
        options: CsvOptions for CSV, JsonOptions for JSON.
        columns: Only these, in this order.
        where: Only rows for which this holds: conditions such as `("date", ">=", "2026-04-30")`, all of them (text is
            read as the column's type), or an Arrow expression. Files in other partitions, and Parquet row groups whose
            statistics rule them out, are not read.
        on_error: Whether a bad row is an error or goes to the quarantine of `load()` or `write_table()`.
        extra_columns: What to do where a file has columns that `schema` lacks.
        glob: Whether keys may be globs; or a glob of its own, and then keys are taken as they are: of a folder it
            takes the objects whose key below the folder matches.
        file_column: A column to add: the key of the file that a row is from.
        row_column: A column to add: the number of the row in its file, from 1 on.
    """
    dataset = dataset_of_files(
        store,
        keys,
        schema=schema,
        format=format,
        compression=compression,
        options=options,
        columns=columns,
        where=where,
        on_error=on_error,
        extra_columns=extra_columns,
        glob=glob,
        file_column=file_column,
        row_column=row_column,
    )
    return GrowingScan(dataset.settled, source=dataset.source, origins=dataset.origins)


def dataset_of_files(
    store: ReadFolder,
    keys: str | Sequence[str],
    *,
    schema: pa.Schema | None = None,
    format: Format | None = None,  # noqa: A002 (the same)
    compression: Compression | None = None,
    options: FileOptions | None = None,
    columns: Sequence[str] | None = None,
    where: Sequence[Condition] | pc.Expression | None = None,
    on_error: OnError = "fail",
    extra_columns: ExtraColumns = "ignore",
    glob: bool | str = True,
    file_column: str | None = None,
    row_column: str | None = None,
) -> Dataset:
    """Return the files that `scan` describes."""
    if glob == "":
        raise InvalidInputError("glob is True, False or a pattern such as '*.csv', not an empty text.")
    return Dataset(
        store=store,
        keys=(keys,) if isinstance(keys, str) else tuple(keys),
        alone=isinstance(keys, str),
        glob=glob,
        declared=schema,
        format=format,
        compression=compression,
        options=options,
        columns=None if columns is None else list(columns),
        where=where,
        on_error=on_error,
        extra_columns=extra_columns,
        file_column=file_column,
        row_column=row_column,
    )


@dataclass(frozen=True)
class Dataset:
    """The files that `scan` describes."""

    store: ReadFolder
    keys: tuple[str, ...]
    alone: bool
    """Whether keys is one by itself, and may be a folder; what is in a list is a key or a glob."""
    glob: bool | str
    declared: pa.Schema | None
    format: Format | None
    compression: Compression | None
    options: FileOptions | None
    columns: list[str] | None
    where: Sequence[Condition] | pc.Expression | None
    on_error: OnError
    extra_columns: ExtraColumns
    file_column: str | None
    row_column: str | None
    chosen: tuple[ObjectInfo, ...] | None = None
    """Just these objects, whatever else there is."""

    def settled(self) -> Scan:
        """Return the scan of the objects that there are now."""
        now = replace(self)  # which has listed nothing yet
        query = repr((now.store.place(), now.keys, now.columns, str(now.where)))
        form = repr(
            (now.declared, now.format, now.compression, now.options, now.on_error, now.extra_columns, now.row_column)
        )

        def divided(n: int) -> contextlib.AbstractContextManager[list[Scan]]:
            parts = parts_of(
                [partial(now.batches, pieces=pieces) for pieces in now.divided(n)],
                schema=now.schema,
                source=now.source,
                query=query,
                inferred=now.inferred_from_text(),
                fingerprint=now.fingerprint() if now.is_versioned() else None,
                origins=now.origins,
                form=form,
            )
            return contextlib.nullcontext(parts)

        return Scan(
            lambda: now.schema,
            now.batches,
            source=now.source,
            fingerprint=now.fingerprint,
            proves=now.is_versioned,
            query=query,
            inferred=now.inferred_from_text,
            origins=now.origins,
            form=form,
            division=Division(divided),
        )

    def divided(self, n: int) -> list[list[_Piece]]:
        """Return the pieces of at most `n` parts of about one size: whole files, and row groups of large ones."""
        sizes = {key: info.size for key, info in self._known.items()}
        total = sum(sizes.values())
        pieces: list[tuple[float, _Piece]] = []
        for at, (key, _) in enumerate(self._pruned()):
            size = max(sizes[key], 1)
            divides = size * n > total and self._format(key) == "parquet" and self.row_column is None
            groups = self._group_sizes(key) if divides else []
            if len(groups) > 1:
                whole = max(sum(groups), 1)
                pieces += [(size * group / whole, _Piece(at, (number,))) for number, group in enumerate(groups)]
            else:
                pieces.append((size, _Piece(at)))
        share, seen = sum(weight for weight, _ in pieces) / n, 0.0
        parts: dict[int, list[_Piece]] = {}
        for weight, piece in pieces:
            parts.setdefault(min(int((seen + weight / 2) / share), n - 1), []).append(piece)
            seen += weight
        return [_joined(part) for part in parts.values()] or [[]]

    def info(self, item: ObjectInfo | str) -> ObjectInfo:
        """Return what the store knows of one of the objects."""
        return self.store.head(item) if isinstance(item, str) else item

    def _group_sizes(self, key: str) -> list[int]:
        from blocks.files.parquet import group_sizes

        with contextlib.closing(self.store.open(key, known=self._known[key])) as file:
            return group_sizes(file, self.store.uri(key))

    @property
    def source(self) -> str:
        if self.alone:
            # A glob is not a key, so the store cannot spell it.
            name = "/".join([*self.keys, *([self.glob] if isinstance(self.glob, str) else [])])
            return f"{self.store.uri().rstrip('/')}/{name}"
        return f"{len(self.keys)} objects of {self.store.uri()}"

    @property
    def origins(self) -> list[str]:
        """The asset keys of the datasets and objects that the keys belong to."""
        return list(dict.fromkeys(asset_key(self.store.uri(dataset_of(key))) for key in self.keys))

    @cached_property
    def objects(self) -> list[ObjectInfo | str]:
        """What is read, in order: objects that were found, and keys that were given."""
        if self.chosen is not None:
            return list(self.chosen)
        found = self._find()
        if not found:
            raise ObjectNotFoundError(
                f"There is nothing to read at {self.source}: no such object, and no data in such a folder."
            )
        return found

    def find(self, wanted: Callable[[ObjectInfo], bool]) -> list[ObjectInfo]:
        """Return those of the objects that there are now that are wanted, in order; the others are not kept."""
        infos = map(self.info, self._find(wanted))
        return [info for info in infos if wanted(info)]

    def _find(self, wanted: Callable[[ObjectInfo], bool] | None = None) -> list[ObjectInfo | str]:
        found: list[ObjectInfo | str] = []
        for key in self.keys:
            is_pattern = isinstance(self.glob, str) or (self.glob and has_magic(key))
            found.extend(find_objects(self.store, key, self.glob, wanted) if self.alone or is_pattern else (key,))
        return found

    @cached_property
    def _listed(self) -> dict[str, ObjectInfo]:
        """What a listing told of the objects; those that were given by key are looked up when they are opened."""
        return {item.key: item for item in self.objects if not isinstance(item, str)}

    @cached_property
    def _known(self) -> dict[str, ObjectInfo]:
        """What all of the objects are; from then on none may be another one when it is opened."""
        given = [item for item in self.objects if isinstance(item, str)]
        found = ordered_map(self.store.head, dict.fromkeys(given), workers=FILES_AT_ONCE)
        self._listed.update((info.key, info) for info in found)
        return {key: self._listed[key] for key in self.files}

    @cached_property
    def _starts(self) -> dict[str, list[tuple[int, int]]]:
        """What was seen of the start of each file; see `_SameStart`."""
        return {}

    @cached_property
    def files(self) -> list[str]:
        """The keys of what is read."""
        return [item if isinstance(item, str) else item.key for item in self.objects]

    def is_versioned(self) -> bool:
        """Tell whether the store says of each object which version it is."""
        return all(info.version or info.etag for info in self._known.values())

    def fingerprint(self) -> str:
        """Return a digest of names and versions of the objects, and of what is read of them."""
        infos = [self._known[key] for key in self.files]
        versions = [(info.key, info.size, info.version or info.etag or str(info.last_modified)) for info in infos]
        text = repr((self.store.place(), versions, self.columns, str(self.where)))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @cached_property
    def _found(self) -> list[Mapping[str, InferredColumn]]:
        """What each file says of its columns, where no schema is declared."""
        return list(ordered_map(lambda key: self._reader(key).infer(), self.files, workers=FILES_AT_ONCE))

    @cached_property
    def _inferred(self) -> dict[Format, dict[str, InferredColumn]]:
        """What the files of a format say together: they are one inference."""
        formats: dict[Format, dict[str, InferredColumn]] = {}
        if self.declared is None:
            for key, columns in zip(self.files, self._found, strict=True):
                known = formats.setdefault(self._format(key), {})
                for name, column in columns.items():
                    known[name] = self._united(known.get(name), column, name, key)
        return formats

    def inferred_from_text(self) -> set[str]:
        """Return the columns of which at least one file does not say the type."""
        return {name for form, columns in self._inferred.items() if form in TEXT_FORMATS for name in columns}

    @cached_property
    def full_schema(self) -> pa.Schema:
        """All columns that the files and their folders have."""
        from blocks.files.protocols import TypedColumn

        if self.declared is not None:
            return self.declared
        fields: dict[str, pa.Field] = {}
        for name in dict.fromkeys(name for columns in self._found for name in columns):
            column: InferredColumn = TypedColumn(pa.null())
            for form, columns in self._inferred.items():
                if name in columns:
                    own = TypedColumn(columns[name].type, columns[name].nullable)
                    column = own if column.type == pa.null() else self._united(column, own, name, f"*.{form}")
            lacking = any(name not in columns for columns in self._found)
            fields[name] = pa.field(name, column.type, lacking or column.nullable)
        folders = [hive_values(key) for key in self.files]
        for name in dict.fromkeys(name for folder in folders for name in folder):
            if name not in fields:
                fields[name] = pa.field(name, _folder_type([folder.get(name) for folder in folders]))
        if not fields:
            raise SchemaError(f"{self.source} has rows without any column. Declare a schema.")
        return pa.schema(fields.values())

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the scan: those of the files, and those that say where a row is from."""
        added = [(self.file_column, pa.string()), (self.row_column, pa.int64())]
        fields = [pa.field(name, kind) for name, kind in added if name is not None]
        if known := [field.name for field in fields if field.name in self.full_schema.names]:
            raise InvalidInputError(
                f"{self.source} has a column {known[0]!r} already. Give the added one another name."
            )
        return pa.schema([*self._file_schema, *fields])

    @cached_property
    def _file_schema(self) -> pa.Schema:
        full = self.full_schema
        if self.columns is None:
            return full
        if unknown := [name for name in self.columns if name not in full.names]:
            raise SchemaError(
                f"{self.source} lacks {', '.join(map(repr, unknown))}; its columns are "
                f"{', '.join(map(repr, full.names))}."
            )
        return pa.schema([full.field(name) for name in self.columns])

    def batches(self, rejects: Rejects | None, pieces: list[_Piece] | None = None) -> Iterator[pa.RecordBatch]:
        """Return the rows file by file, those of small ones together; with `pieces` those of just these."""
        return gathered(self._batches(rejects, pieces))

    def _batches(self, rejects: Rejects | None, pieces: list[_Piece] | None) -> Iterator[pa.RecordBatch]:
        needed = self._needed()
        expression = self._expression
        chosen = None if pieces is None else {piece.at: piece.groups for piece in pieces}
        for at, (key, absent) in enumerate(self._pruned()):
            if chosen is not None and at not in chosen:
                continue
            # Rows are numbered before any is left out.
            where = None if expression is None or self.row_column else (expression, self.full_schema)
            inferred = self._inferred.get(self._format(key), {})
            reader = self._reader(key, where, groups=None if chosen is None else chosen[at])
            batches = reader.batches(needed, rejects, self.on_error, inferred=inferred, absent=absent)
            for batch in self._placed(batches, key):
                kept = batch if expression is None else self._filtered(batch, expression)
                if kept.num_rows:
                    yield kept.select(self.schema.names)

    def _placed(self, batches: Iterable[pa.RecordBatch], key: str) -> Iterator[pa.RecordBatch]:
        """Return the rows of a file with the columns that say where they are from."""
        row = 1
        for batch in batches:
            placed, size = batch, batch.num_rows
            if self.file_column is not None:
                placed = placed.append_column(self.file_column, pa.repeat(key, size))
            if self.row_column is not None:
                placed = placed.append_column(self.row_column, pa.array(np.arange(row, row + size)))
            row += size
            yield placed

    def _needed(self) -> pa.Schema:
        """Return the columns to read: those of the scan, and those that `where` is about."""
        if self.declared is None and any(self._format(key) in JSON_FORMATS for key in self.files):
            return self.full_schema  # a key that inference did not see is told from one that is not asked for
        if self.columns is None or self.where is None:
            return self._file_schema
        if isinstance(self.where, pc.Expression):
            return self.full_schema  # it does not tell its columns
        asked = {name for name, _, _ in self.where} | set(self.columns)
        return pa.schema([field for field in self.full_schema if field.name in asked])

    @cached_property
    def _expression(self) -> pc.Expression | None:
        if self.where is None or isinstance(self.where, pc.Expression):
            return self.where
        import pyarrow.parquet as pq

        conditions = []
        for name, operator, value in self.where:
            if name not in self.full_schema.names:
                raise SchemaError(
                    f"{self.source} lacks {name!r}, which where= is about; its columns are "
                    f"{', '.join(map(repr, self.full_schema.names))}."
                )
            kind = self.full_schema.field(name).type
            many = isinstance(value, list | tuple | set | frozenset)
            typed = [_value(item, kind, f"where= for {name!r}") for item in (value if many else [value])]
            conditions.append((name, operator, typed if many else typed[0]))
        try:
            expression: pc.Expression = pq.filters_to_expression(conditions) if conditions else None
        except ValueError as error:
            raise InvalidInputError(f"{error}. where= takes = != < > <= >= in 'not in'.") from None
        return expression

    def _filtered(self, batch: pa.RecordBatch, expression: pc.Expression) -> pa.RecordBatch:
        try:
            return batch.filter(expression)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInputError(f"where= does not fit the columns of {self.source}: {error}") from None

    def _pruned(self) -> Iterator[tuple[str, dict[str, pa.Scalar]]]:
        """Return the files that may hold rows, and what the columns are that a file may lack."""
        absent = [self._absent(key) for key in self.files]
        if self._expression is None:
            yield from zip(self.files, absent, strict=True)
            return
        import pyarrow.dataset as ds
        from pyarrow import fs

        # Arrow knows from the folders alone which files an expression rules out; it opens none here.
        kind, nowhere = ds.ParquetFileFormat(), fs.LocalFileSystem()
        fragments = []
        for index, values in enumerate(absent):
            guarantee = pc.scalar(True)
            for name in hive_values(self.files[index]):
                if name in values:
                    same = pc.field(name) == values[name] if values[name].is_valid else pc.is_null(pc.field(name))
                    guarantee = guarantee & same
            fragments.append(kind.make_fragment(str(index), filesystem=nowhere, partition_expression=guarantee))
        arrow = ds.FileSystemDataset(fragments, self.full_schema, kind, nowhere)
        try:
            left = [int(fragment.path) for fragment in arrow.get_fragments(filter=self._expression)]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInputError(f"where= does not fit the columns of {self.source}: {error}") from None
        for index in left:
            yield self.files[index], absent[index]

    def _absent(self, key: str) -> dict[str, pa.Scalar]:
        """The columns that a file may lack: those of its folders, and in a union of files those of the others."""
        values: dict[str, pa.Scalar] = {}
        if self.declared is None and len(self.files) > 1:
            values = {field.name: pa.scalar(None, field.type) for field in self.full_schema if field.nullable}
        for name, text in hive_values(key).items():
            if name in self.full_schema.names:
                kind = self.full_schema.field(name).type
                values[name] = pa.scalar(None, kind) if text is None else _value(text, kind, f"the folder in {key!r}")
        return values

    def _format(self, key: str) -> Format:
        from blocks.files.formats import detect

        return detect(key, self.format, self.compression)[0]

    def _reader(
        self,
        key: str,
        where: tuple[pc.Expression, pa.Schema] | None = None,
        groups: tuple[int, ...] | None = None,
    ) -> Reader:
        from blocks.files.formats import default_options, detect, open_reader

        form, compression = detect(key, self.format, self.compression)

        def open_file() -> BinaryIO:
            file = self.store.open(key, known=self._listed.get(key))
            if self.declared is not None:
                return file
            return cast("BinaryIO", _SameStart(file, self._starts.setdefault(key, []), self.store.uri(key)))

        return open_reader(
            open_file,
            source=self.store.uri(key),
            format=form,
            compression=compression,
            options=self.options or default_options(key),
            extra_columns=self.extra_columns,
            where=where,
            groups=groups,
        )

    def _united(self, known: InferredColumn | None, column: InferredColumn, name: str, key: str) -> InferredColumn:
        try:
            return column if known is None else known | column
        except SchemaError as error:
            raise SchemaError(f"{self.store.uri(key)}: column {name!r} {error}. Declare a schema.") from None


@dataclass(frozen=True)
class _Piece:
    """A file, by its place among those that are read, or some row groups of it, that a part is made of."""

    at: int
    groups: tuple[int, ...] | None = None


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Return the pieces with those of one file as one."""
    groups: dict[int, tuple[int, ...] | None] = {}
    for piece in pieces:
        groups[piece.at] = piece.groups and (groups.get(piece.at) or ()) + piece.groups
    return [_Piece(at, numbers) for at, numbers in groups.items()]


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Return batches with small ones that follow each other as one: what takes them has a cost for each."""
    small: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        small.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= SMALL_ROWS or size >= SMALL_BYTES:
            yield from _joined_batches(small)
            small, rows, size = [], 0, 0
        elif len(small) == SMALL_AT_ONCE:
            small = _joined_batches(small)
    yield from _joined_batches(small)


def _joined_batches(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if not batches[1:]:
        return batches
    joined: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return joined


class _SameStart:
    """A file whose start has to be what it was when the file was opened before: types are inferred from that.

    A reader that comes to the end has compared all of it with the store's checksum; inference stops long before.

    Args:
        file: The file, read from its start.
        seen: Length and CRC-32 of a start that was read before, if any.
        place: What messages call the file.
    """

    def __init__(self, file: BinaryIO, seen: list[tuple[int, int]], place: str) -> None:
        self._file, self._seen, self._place = file, seen, place
        self._length = self._crc = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1, /) -> bytes:
        """Read on.

        Raises:
            DamagedError: It is not what was read before.
        """
        at, data = self._file.tell(), self._file.read(size)
        before = self._seen[0] if self._seen else None
        if at == self._length and (before is None or at < before[0]):
            known = data if before is None else memoryview(data)[: before[0] - at]
            self._length, self._crc = at + len(known), zlib.crc32(known, self._crc)
            if before and self._length == before[0] and self._crc != before[1]:
                raise DamagedError(
                    f"Could not read {self._place}: its start is not what it was when its types were inferred. "
                    "Either it was damaged on its way, or the file was replaced."
                )
        return data

    def close(self) -> None:
        """Close the file, and keep what was seen of it for the next one."""
        if not self._seen and self._length:
            self._seen.append((self._length, self._crc))
        self._file.close()


def find_objects(
    store: ReadFolder, name: str, glob: bool | str = True, wanted: Callable[[ObjectInfo], bool] | None = None
) -> list[ObjectInfo]:
    """Find what a key, a folder or a glob stands for, in reading order; see `scan` for `glob`.

    Of a listing only those are kept that are `wanted`.
    """

    def listed(folder: str) -> Iterator[ObjectInfo]:
        return filter(wanted, data_objects(store, folder)) if wanted else data_objects(store, folder)

    if isinstance(glob, str):
        folder, pattern = name.rstrip("/"), Glob(glob)
        below = len(folder) + 1 if folder else 0
        return sorted((info for info in listed(folder) if pattern.matches(info.key[below:])), key=_natural)
    found: ObjectInfo | None = None
    if name and not name.endswith("/"):
        with contextlib.suppress(NotFoundError):
            found = store.head(name)
    if found is not None and found.size:
        return [found]
    # An empty object may be the marker of a folder of its name, as tools for Hadoop leave it.
    try:
        objects = sorted(data_objects(store, name.rstrip("/")), key=_natural)
    except UnsupportedError:  # where there is no listing, what is not a pattern is a key
        if not name or name.endswith("/") or (glob and has_magic(name)):
            raise
        return [found or store.head(name)]
    if found is None and not objects and glob and has_magic(name):
        pattern = Glob(name)
        objects = [info for info in listed(pattern.folder) if pattern.matches(info.key)]
        objects.sort(key=_natural)
    return objects or ([] if found is None else [found])


def _natural(info: ObjectInfo) -> list[tuple[int, int, str]]:
    """Return what sorts part-2 before part-10."""
    parts = re.split(r"([0-9]+)", info.key)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _folder_type(values: Iterable[str | None]) -> pa.DataType:
    """Return the type of a column that only folders have: integers, dates, else text."""
    texts = {value for value in values if value is not None}
    if texts and all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) for text in texts):
        return pa.int64()
    if texts and all(re.fullmatch(r"\d{4}-\d\d-\d\d", text) for text in texts):
        return pa.date32()
    return pa.string()


def _value(value: Any, kind: pa.DataType, what: str) -> pa.Scalar:
    """Return a value, or the text of one, as a scalar of a column's type."""
    from blocks.files.values import caster

    try:
        if isinstance(value, str):
            return caster(kind)(pa.array([value], pa.string()))[0]
        return pa.scalar(value, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        raise SchemaError(f"{what} is not a value of type {kind}.") from None
