"""ObjectStore: everything that any bucket or folder can do, written once over a few primitives.

A connector supplies `uri`, `_head`, `_get`, `_upload`, `_list`, `_delete`, `_copy` and, where the store has it,
`_presign`. Keys that go in and come out are relative to the block's folder; `join_key` is the one place that checks
them.
"""

# Prefect's interfaces declare coroutines; ours are operations, which run with and without an event loop.
# mypy: disable-error-code="override"

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import functools
import io
import os
import uuid
from abc import abstractmethod
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from prefect.blocks.abstract import ObjectStorageBlock
from prefect.filesystems import WritableDeploymentStorage, WritableFileSystem
from pydantic import Field

from blocks.block import ConnectorBlock
from blocks.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.identity import with_load_id
from blocks.operation import operation
from blocks.retry import call_with_retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    import pyarrow as pa
    import pyarrow.compute as pc
    from _typeshed import WriteableBuffer

    from blocks.columns import ExtraColumns
    from blocks.dataset import Condition, WriteMode, WriteReport
    from blocks.file_options import Compression, FileOptions, Format, OnError
    from blocks.scan import Scan

    Source = bytes | Path | BinaryIO | Iterable[bytes]
    """What can be uploaded: bytes, a local file, an open file, or an iterable of chunks."""

T = TypeVar("T")
U = TypeVar("U")

CHUNK_BYTES = 8 * 2**20
"""Size of one ranged request; a stream keeps `READ_AHEAD` of them in flight."""
READ_AHEAD = 4
OPEN_BUFFER_BYTES = 2**20
PART_SUFFIX = ".etl-part"
"""Ends the names of files that are still being written; such files are never listed."""


class NoSuchStoreError(NotFoundError):
    """The bucket itself does not exist."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows about one object.

    Attributes:
        key: Its key, relative to the block's folder.
        size: Its length in bytes.
        etag: Changes whenever the content changes; what `if_match` takes.
        version: The store's version id, where the bucket keeps versions.
        last_modified: When it was written (right after an upload: by this machine's clock).
    """

    key: str
    size: int
    etag: str | None
    version: str | None
    last_modified: dt.datetime


class ObjectStore(ConnectorBlock, ObjectStorageBlock, WritableFileSystem, WritableDeploymentStorage):
    """A bucket, or a folder in it.

    The method names are those of Prefect's collections, so a flow that was written for one of their buckets runs after
    its import line changes, and the block serves as Prefect result storage. Differences, on purpose:

    * Keys are relative to the block's folder in both directions: what `list_objects`, `write_path` or
      `upload_from_path` returns can be passed back as it is, and never gets the folder's name twice.
    * A folder is a folder: listing `base` gives `base/x` and never `base2/x`.
    * Every write is atomic: a reader sees the old object or the new one. A failed upload or download leaves nothing.
    * Folder markers (empty objects whose key ends in `/`) are not listed.
    """

    max_concurrency: int = Field(
        default=16, ge=1, le=256, description="How many objects a folder operation transfers at once."
    )

    # Prefect's names

    @operation
    def read_path(self, path: str) -> bytes:
        """The object's content.

        Raises:
            NotFoundError: There is no such object.
        """
        return b"".join(self._stream(path))

    @operation
    def write_path(
        self,
        path: str,
        content: bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """The key of the object that now holds `content`.

        Args:
            path: Its key.
            content: The bytes.
            if_absent: Write only when there is no such object yet.
            if_match: Write only when the object still has this etag.
            content_type: Its media type, where the store keeps one.
            metadata: Names and values that the store keeps beside it.

        Raises:
            AlreadyExistsError: `if_absent` or `if_match` did not hold: another writer was faster.
        """
        if not isinstance(content, bytes | bytearray | memoryview):
            raise InvalidInputError(
                f"Could not write {self.uri(path)}: content is {type(content).__name__}, and has to be bytes. "
                "Encode text first: text.encode()."
            )
        return self._upload(
            path, bytes(content), if_absent=if_absent, if_match=if_match, content_type=content_type, metadata=metadata
        ).key

    async def aread_path(self, path: str) -> bytes:
        """The object's content, awaitable. Prefect reads its results with it; it is never a task run."""
        return await asyncio.to_thread(call_with_retry, self.retry, lambda: b"".join(self._stream(path)))

    async def awrite_path(self, path: str, content: bytes) -> str:
        """The key of the object that now holds `content`, awaitable. Prefect writes its results with it."""
        return await asyncio.to_thread(call_with_retry, self.retry, lambda: self._upload(path, content).key)

    @operation
    def get_directory(self, from_path: str | None = None, local_path: str | None = None) -> None:
        """Nothing; copies a folder of the store (all of it by default) to a local one (the working directory)."""
        self._download_folder(from_path or "", Path(local_path or ".").expanduser())

    @operation
    def put_directory(
        self, local_path: str | None = None, to_path: str | None = None, ignore_file: str | None = None
    ) -> int:
        """How many files of a local folder were uploaded.

        Args:
            local_path: The local folder; the working directory by default.
            to_path: The folder of the store to upload to.
            ignore_file: A file of gitignore patterns; what they match is left out.
        """
        source = Path(local_path or ".").expanduser()
        included: set[str] | None = None
        if ignore_file:
            from prefect.utilities.filesystem import filter_files

            with file_errors("read", Path(ignore_file)):
                patterns = Path(ignore_file).read_text(encoding="utf-8").splitlines()
            included = {PurePath(name).as_posix() for name in filter_files(str(source), patterns, include_dirs=False)}
        return self._upload_folder(source, to_path or "", included)

    @operation
    def list_objects(
        self, folder: str = "", delimiter: str = "", page_size: int | None = None, max_items: int | None = None
    ) -> list[dict[str, Any]]:
        """The objects in a folder, one dict each: Key, Size, LastModified, ETag; and VersionId where there is one.

        Args:
            folder: The folder; all of the block's by default.
            delimiter: "/" leaves out the folders in it.
            page_size: Taken for compatibility; pages are as large as the store makes them.
            max_items: Stop after so many.
        """
        del page_size
        found: list[dict[str, Any]] = []
        for page in self._list(folder, recursive=not delimiter):
            found += [_as_dict(info) for info in page]
            if max_items is not None and len(found) >= max_items:
                return found[:max_items]
        return found

    @operation
    def download_object_to_path(self, from_path: str, to_path: str | Path | None = None) -> Path:
        """The absolute path of the file that now holds the object; by default named like it."""
        target = Path(to_path if to_path is not None else PurePath(from_path).name).expanduser().absolute()
        self._download(from_path, target)
        return target

    @operation
    def download_object_to_file_object(self, from_path: str, to_file_object: BinaryIO) -> BinaryIO:
        """The open file, with the object written at its position. After a failure it stands as before."""
        chunks = self._stream(from_path)
        first = next(chunks, b"")
        with _rewound(to_file_object, truncate=True):
            to_file_object.write(first)
            to_file_object.writelines(chunks)
        return to_file_object

    @operation
    def download_folder_to_path(self, from_folder: str, to_folder: str | Path | None = None) -> Path:
        """The absolute path of the local folder that now holds the folder's objects."""
        target = Path(to_folder or ".").expanduser().absolute()
        self._download_folder(from_folder, target)
        return target

    @operation
    def upload_from_path(
        self,
        from_path: str | Path,
        to_path: str | None = None,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """The key of the object that now holds the local file; by default named like it."""
        source = Path(from_path).expanduser()
        return self._upload(
            to_path or source.name,
            source,
            if_absent=if_absent,
            if_match=if_match,
            content_type=content_type,
            metadata=metadata,
        ).key

    @operation
    def upload_from_file_object(
        self,
        from_file_object: BinaryIO,
        to_path: str,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """The key of the object that now holds what the open file had from its position on."""
        with _rewound(from_file_object):
            return self._upload(
                to_path,
                from_file_object,
                if_absent=if_absent,
                if_match=if_match,
                content_type=content_type,
                metadata=metadata,
            ).key

    @operation
    def upload_from_folder(self, from_folder: str | Path, to_folder: str | None = None) -> str:
        """The folder of the store that now holds the files of the local folder."""
        self._upload_folder(Path(from_folder).expanduser(), to_folder or "", None)
        return to_folder or ""

    @operation
    def copy_object(self, from_path: str, to_path: str, to_bucket: Self | str | None = None) -> str:
        """The key of the copy, which the store makes on its own side.

        Args:
            from_path: The object.
            to_path: The key of the copy.
            to_bucket: Another block of the same kind, or a bucket's name, in which case `to_path` is the whole key.
        """
        self._copy(from_path, to_path, self._target(to_bucket))
        return to_path

    @operation
    def move_object(self, from_path: str, to_path: str, to_bucket: Self | str | None = None) -> str:
        """The new key of the object: copied, then deleted where it was."""
        target = self._target(to_bucket)
        if target.uri(to_path) != self.uri(from_path):
            self._copy(from_path, to_path, target)
            # Retried here: a new try of the whole would miss the source that a lost answer has deleted already.
            call_with_retry(self.retry, lambda: self._delete([from_path]))
        return to_path

    @operation
    def stream_from(self, bucket: ObjectStore, from_path: str, to_path: str | None = None) -> str:
        """The key of the object that now holds a copy of one in any other store, passed through this process."""
        key = to_path or PurePath(from_path).name
        return self._upload(key, bucket._stream(from_path)).key

    # Ours

    @operation
    def exists(self, path: str) -> bool:
        """Whether there is such an object.

        Raises:
            NoSuchStoreError: There is not even the bucket.
        """
        try:
            self._head(path)
        except NoSuchStoreError:
            raise
        except NotFoundError:
            return False
        return True

    @operation
    def head_object(self, path: str) -> ObjectInfo:
        """What the store knows about the object.

        Raises:
            NotFoundError: There is no such object.
        """
        return self._head(path)

    @operation
    def delete_objects(self, paths: list[str]) -> int:
        """How many keys are gone now, those that were not there included."""
        return self._delete(paths)

    @operation
    def presigned_url(self, path: str, *, method: str = "GET", expires_in: dt.timedelta = dt.timedelta(hours=1)) -> str:
        """A URL with which anybody can read ("GET") or write ("PUT") the object for a while. Treat it as a secret.

        Raises:
            UnsupportedError: The store has no such URLs.
        """
        return self._presign(path, method, expires_in)

    def scan(
        self,
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
    ) -> Scan:
        """The objects as one Scan; nothing is read, nor listed, before it is opened.

        Folders like `date=2026-04-30` in a key are columns, unless the file has a column of that name itself. Names
        that start with `_` or `.` are not data. Files are read in the order of their names, numbers by value.

        Args:
            keys: A key, a folder, a glob (`*` and `?` within a name, `**` across folders), or a list of those.
            schema: Columns and exact types; a file that lacks one is an error, and a column that is not nullable has
                to have a value. Without it the types are what the files say, the union by name of several.
            format: What the files are, where their names do not say it: CSV, JSON Lines, Parquet or Arrow IPC.
            compression: How they are compressed, where their names do not say it.
            options: CsvOptions for CSV.
            columns: Only these, in this order.
            where: Only rows for which this holds: conditions such as `("date", ">=", "2026-04-30")`, all of them, or
                an Arrow expression. Partitions and row groups that it rules out are not read.
            on_error: Whether a bad row is an error or goes to the quarantine of `load()` or `write_table()`.
            extra_columns: What to do where a file has columns that `schema` lacks.
        """
        from blocks import dataset

        return dataset.scan(
            self,
            keys,
            schema=schema,
            format=format,
            compression=compression,
            options=options,
            columns=columns,
            where=where,
            on_error=on_error,
            extra_columns=extra_columns,
        )

    @operation
    def read_table(
        self,
        keys: str | Sequence[str],
        *,
        schema: pa.Schema | None = None,
        columns: Sequence[str] | None = None,
        where: Sequence[Condition] | pc.Expression | None = None,
    ) -> pa.Table:
        """The objects as one Arrow table in memory; see `scan`."""
        return self.scan(keys, schema=schema, columns=columns, where=where).to_arrow()

    @functools.partial(operation, prepare="_fix_load_id")
    def write_table(
        self,
        data: Any,
        prefix: str,
        *,
        partition_by: Sequence[str] = (),
        mode: WriteMode = "overwrite",
        format: Format = "parquet",  # noqa: A002 (what everybody calls it)
        compression: Compression | None = None,
        options: FileOptions | None = None,
        load_id: str | None = None,
        max_file_bytes: int = 128 * 2**20,
        max_rejected: float = 0.1,
    ) -> WriteReport:
        """What was written: a dataset of files `<prefix>/<column>=<value>/part-0.parquet`. A retry doubles nothing.

        Nothing is published before all of the data was read and checked; parts wait in temporary files until then.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            prefix: The folder.
            partition_by: Columns that become folders.
            mode: `overwrite`: the folder holds these rows and no others. `replace_partition`: the same for each
                partition that has rows in the data. `append` adds parts whose names carry the load_id.
            format: The files' format.
            compression: The format's default where None: zstd for Parquet, none for the others.
            options: ParquetOptions for Parquet, CsvOptions for CSV.
            load_id: The identity of the write. Derived like that of `Warehouse.load` where not given.
            max_file_bytes: A part that has reached this size is followed by another one.
            max_rejected: The share of rows (0 to 1) that a scan with `on_error="quarantine"` may refuse. They go to
                `<prefix>/_quarantine/`, one JSON object a line.

        Raises:
            QualityError: Too many rows were refused; nothing was written.
            SchemaError: A column of `partition_by` does not exist or cannot be a folder.
            TypeLossError: The format has no form for a column.
        """
        from blocks import dataset

        report = dataset.write_table(
            self,
            data,
            prefix,
            partition_by=partition_by,
            mode=mode,
            format=format,
            compression=compression,
            options=options,
            load_id=load_id,
            max_file_bytes=max_file_bytes,
            max_rejected=max_rejected,
        )
        self.logger.info("%s", report)
        return report

    def _fix_load_id(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments.get("mode") != "append":  # the other modes name their files by partition
            return arguments
        return with_load_id(arguments, self.uri(arguments["prefix"]))

    # What a connector supplies

    @abstractmethod
    def uri(self, key: str = "") -> str:
        """The object's address for messages, such as `s3://bucket/folder/key`."""

    @abstractmethod
    def _head(self, key: str) -> ObjectInfo: ...

    @abstractmethod
    def _get(self, key: str, start: int, length: int, if_match: str | None = None) -> tuple[bytes, ObjectInfo]:
        """At most `length` bytes from `start` on, none when the object ends before it, and what it is.

        Raises:
            TransientError: The object no longer has the etag `if_match`.
        """

    @abstractmethod
    def _upload(
        self,
        key: str,
        source: Source,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo: ...

    @abstractmethod
    def _list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[list[ObjectInfo]]:
        """The objects in the folder `prefix` page by page, sorted by key, without markers."""

    @abstractmethod
    def _delete(self, keys: Iterable[str]) -> int: ...

    @abstractmethod
    def _copy(self, source_key: str, target_key: str, target: Self | None = None) -> None: ...

    def _presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:  # noqa: ARG002
        raise UnsupportedError(f"{type(self).__name__} has no presigned URLs.")

    def _named_bucket(self, name: str) -> Self:
        raise UnsupportedError(f"{type(self).__name__} has no bucket {name!r} beside it; pass a block as to_bucket.")

    # What the primitives give together

    def _stream(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The object in chunks, read a few ranges ahead; every chunk is of the same version of it."""
        if length is not None and length <= 0:
            self._head(key)
            return
        first, info = self._get(key, start, CHUNK_BYTES if length is None else min(CHUNK_BYTES, length))
        if first:
            yield first
        stop = info.size if length is None else min(info.size, start + length)
        yield from self._ranges(info, start + len(first), stop)

    def _ranges(self, info: ObjectInfo, start: int, stop: int) -> Iterator[bytes]:
        def get(at: int) -> bytes:
            return self._get(info.key, at, min(CHUNK_BYTES, stop - at), info.etag)[0]

        return ordered_map(get, range(start, stop, CHUNK_BYTES), workers=READ_AHEAD)

    def _open(self, key: str) -> BinaryIO:
        """The object as a seekable file, read by ranges."""
        return cast("BinaryIO", io.BufferedReader(_Ranged(self, self._head(key)), OPEN_BUFFER_BYTES))

    def _target(self, to_bucket: Self | str | None) -> Self:
        if to_bucket is None:
            return self
        if isinstance(to_bucket, str):
            return self._named_bucket(to_bucket)
        if not isinstance(to_bucket, type(self)):
            raise InvalidInputError(
                f"A {type(self).__name__} cannot copy into a {type(to_bucket).__name__}. "
                "Use stream_from() of the target."
            )
        return to_bucket

    def _download(self, key: str, target: Path) -> int:
        return write_file(target, self._stream(key))

    def _download_folder(self, folder: str, target: Path) -> None:
        prefix = folder_prefix(folder)
        count = size = 0
        infos = (info for page in self._list(folder) for info in page)

        def download(info: ObjectInfo) -> int:
            return self._download(info.key, target / join_key("", info.key.removeprefix(prefix)))

        for written in ordered_map(download, infos, workers=self.max_concurrency):
            count, size = count + 1, size + written
        self.logger.info("Downloaded %s to %s: objects=%d bytes=%d", self.uri(folder), target, count, size)

    def _upload_folder(self, source: Path, folder: str, included: set[str] | None) -> int:
        if not source.is_dir():
            raise NotFoundError(f"Could not upload {source}: it is not a folder.")
        prefix = folder_prefix(folder)
        files = (path for path in sorted(source.rglob("*")) if path.is_file())
        chosen = (path for path in files if included is None or path.relative_to(source).as_posix() in included)

        def upload(path: Path) -> int:
            return self._upload(prefix + path.relative_to(source).as_posix(), path).size

        count = size = 0
        for sent in ordered_map(upload, chosen, workers=self.max_concurrency):
            count, size = count + 1, size + sent
        self.logger.info("Uploaded %s to %s: objects=%d bytes=%d", source, self.uri(folder), count, size)
        return count


class _Ranged(io.RawIOBase):
    """One version of an object as a raw file; each read is a ranged request, a long one several at a time."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        start = self._at
        stop = min(start + len(view), self._info.size)
        for chunk in self._store._ranges(self._info, start, stop):  # noqa: SLF001
            view[self._at - start : self._at - start + len(chunk)] = chunk
            self._at += len(chunk)
        return self._at - start

    def readall(self) -> bytes:
        rest = b"".join(self._store._ranges(self._info, self._at, self._info.size))  # noqa: SLF001
        self._at += len(rest)
        return rest


def join_key(folder: str, key: str) -> str:
    """The whole key of `key` in `folder`: the one place where keys are checked.

    >>> join_key("base", "a/b.csv")
    'base/a/b.csv'

    Raises:
        InvalidInputError: It is empty, or could leave the folder, or could not be read back by every store.
    """
    if problem := _key_problem(key):
        raise InvalidInputError(f"{key!r:.200} is no key: {problem}. Keys look like 'folder/name.csv'.")
    return f"{folder}/{key}" if folder else key


def folder_prefix(folder: str) -> str:
    """What the keys of the objects in a folder start with: "" for the block's own, else ending in one slash.

    >>> folder_prefix("base"), folder_prefix("base/"), folder_prefix("")
    ('base/', 'base/', '')

    Raises:
        InvalidInputError: It could leave the block's folder.
    """
    name = folder.removesuffix("/")
    return "" if name in {"", "."} else join_key("", name) + "/"


def _key_problem(key: object) -> str | None:
    if not isinstance(key, str):
        return f"it is {type(key).__name__}, not text"
    if any(ord(char) < 32 or ord(char) == 127 for char in key):  # noqa: PLR2004 (the ASCII control characters)
        return "it holds a control character"
    if any(0xD800 <= ord(char) <= 0xDFFF or ord(char) in {0xFFFE, 0xFFFF} for char in key):  # noqa: PLR2004
        return "it holds a code point that is no character"
    segments = key.split("/")
    if "" in segments:
        return "it is empty, or has an empty part"
    if "." in segments or ".." in segments:
        return "'.' and '..' could leave the folder"
    return None


def ordered_map(fn: Callable[[T], U], items: Iterable[T], *, workers: int) -> Iterator[U]:
    """`fn` of each item, in order, with at most `workers` under way or waiting to be taken.

    After an error nothing new is started; the first error is raised once what is under way has ended.
    """
    iterator = iter(items)
    head = [item for _, item in zip(range(2), iterator, strict=False)]
    if len(head) < 2:  # noqa: PLR2004 (one item needs no thread)
        yield from map(fn, head)
        return
    pending: deque[Any] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="etl-transfer") as pool:
        try:
            pending.extend(pool.submit(fn, item) for item in head)
            while pending:
                while len(pending) < workers and (more := next(iterator, _END)) is not _END:
                    pending.append(pool.submit(fn, cast("T", more)))
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


_END = object()


def write_file(target: Path, chunks: Iterable[bytes]) -> int:
    """How many bytes the file now holds. A reader sees the old file or the new one, also after a power cut.

    Raises:
        AccessDeniedError: The folder cannot be written.
    """
    with file_errors("write", target), part_file(target) as part:
        size = sum(map(part.write, chunks))
        part.flush()
        os.fsync(part.fileno())
        os.replace(part.name, target)  # noqa: PTH105 (part.name is text)
        sync_folder(target.parent)
    return size


@contextlib.contextmanager
def part_file(target: Path) -> Iterator[BinaryIO]:
    """A new file beside `target`, removed in the end unless it was renamed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    path = target.parent / f".{uuid.uuid4().hex}{PART_SUFFIX}"
    try:
        with path.open("xb") as part:
            yield part
    finally:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut; Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def chunks_of(source: Source) -> Iterator[bytes]:
    """What is to be uploaded, in chunks."""
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with file_errors("read", source), source.open("rb") as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    elif hasattr(source, "read"):
        yield from iter(lambda: source.read(CHUNK_BYTES), b"")
    else:
        yield from source


FILE_ERRORS: dict[int, type[ConnectorError]] = {
    errno.ENOENT: NotFoundError,
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
    errno.EROFS: AccessDeniedError,
    errno.EEXIST: AlreadyExistsError,
    errno.EISDIR: InvalidInputError,
    errno.ENOTDIR: InvalidInputError,
    errno.ENAMETOOLONG: InvalidInputError,
    errno.EINVAL: InvalidInputError,
    errno.EILSEQ: InvalidInputError,
    errno.EAGAIN: TransientError,
    errno.EBUSY: TransientError,
    errno.EIO: TransientError,
    errno.EMFILE: TransientError,
    errno.ENFILE: TransientError,
    errno.ESTALE: TransientError,
    errno.ETIMEDOUT: TransientError,
}
"""Everything else, such as a full disk, is a TerminalError. Source: errno(3)."""

ADVICE: dict[type[ConnectorError], str] = {
    AccessDeniedError: " Give this user the right to {verb} there, or choose another place.",
    InvalidInputError: " One part of the name is a file and would have to be a folder, or is too long.",
}


@contextlib.contextmanager
def file_errors(verb: str, place: object) -> Iterator[None]:
    """The operating system's errors as ours: `verb` is what was tried on `place`."""
    try:
        yield
    except OSError as error:
        kind = FILE_ERRORS.get(error.errno or 0, TerminalError)
        advice = ADVICE.get(kind, "").format(verb=verb)
        raise kind(f"Could not {verb} {place}: {error.strerror or error}.{advice}") from error


@contextlib.contextmanager
def _rewound(file: BinaryIO, *, truncate: bool = False) -> Iterator[None]:
    """Puts the file back where it stood when the body fails, so that the next try starts at the same place."""
    start = file.tell() if file.seekable() else None
    try:
        yield
    except Exception as error:
        if start is not None:
            file.seek(start)
            if truncate:
                file.truncate()
        elif isinstance(error, TransientError):
            raise TerminalError(f"{error} It cannot be tried again: the file object does not seek.") from error
        raise


def _as_dict(info: ObjectInfo) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Key": info.key,
        "Size": info.size,
        "LastModified": info.last_modified,
        "ETag": info.etag,
    }
    return found | ({"VersionId": info.version} if info.version else {})
