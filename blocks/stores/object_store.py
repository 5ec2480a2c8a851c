"""ObjectStore: the block of a bucket or a folder that is written, too. Prefect's names and ours, over its client's.

A connector supplies the fields, `_client` and, where it has them, `_folder` and `_named_bucket`. Keys that go in and
come out are relative to the block's folder.
"""

# Prefect's interfaces declare coroutines; ours are operations, which run with and without an event loop.
# mypy: disable-error-code="override"

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from glob import escape, has_magic
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from prefect.blocks.abstract import ObjectStorageBlock
from prefect.filesystems import WritableDeploymentStorage, WritableFileSystem
from pydantic import Field
from typing_extensions import override

from blocks.arrow.load_id import Target, with_load_id
from blocks.arrow.scan import Scan, with_stream_staged
from blocks.base.arguments import takes_fields_of
from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    InvalidInputError,
    ObjectNotFoundError,
    UnsupportedError,
)
from blocks.base.interruption import interruptible_async
from blocks.base.movement import announce
from blocks.base.names import key_text
from blocks.base.operation import AsyncName, operation
from blocks.base.retry import call_with_retry
from blocks.files.local import file_errors, rewound
from blocks.stores import dataframes, dataset, watch
from blocks.stores.client import WriteOptions
from blocks.stores.folder import StoreFolder
from blocks.stores.globs import Glob
from blocks.stores.hive import without_markers
from blocks.stores.keys import folder_prefix, join_key
from blocks.stores.readable_store import ReadableStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self, Unpack

    from blocks.base.names import Count, Identity, Key, Position, Share
    from blocks.files.options import Compression, FileOptions, Format
    from blocks.stores.client import StoreClient, WriteArguments
    from blocks.stores.dataset import WriteMode, WriteReport
    from blocks.stores.info import ObjectInfo


class ObjectStore(  # type: ignore[misc]  # Prefect's interfaces declare coroutines
    ReadableStore, ObjectStorageBlock, WritableFileSystem, WritableDeploymentStorage
):
    """A bucket, or a folder in it.

    The method names are those of Prefect's collections, so a flow that was written for one of their buckets runs after
    its import line changes, and the block serves as Prefect result storage. Differences, on purpose:

    * Keys are relative to the block's folder in both directions: what `list_objects`, `write_path` or
      `upload_from_path` returns can be passed back as it is, and never gets the folder's name twice.
    * A folder is a folder: listing `base` gives `base/x` and never `base2/x`.
    * Every write is atomic: a reader sees the old object or the new one. A failed upload or download leaves nothing.
    * Folder markers (empty objects whose key ends in `/`) are not listed; nor are, with a warning that names them,
      objects whose keys no method takes (`x//y.csv`).
    """

    max_concurrency: int = Field(
        default=16, ge=1, le=256, description="How many objects a folder operation transfers at once. Defaults to 16."
    )

    @property
    @override
    def objects(self) -> StoreFolder:
        """The objects of the block's folder, for code that needs no retries, task runs or logs: operations use it."""
        return StoreFolder(lambda: self._client, self._folder)

    def check(self) -> str:
        """Check that the store answers, knows the credentials and lets them list.

        Returns:
            One sentence that says so.

        Raises:
            AuthError: There is no identity, or the service does not accept it.
            NotFoundError: There is no such bucket.
            AccessDeniedError: The identity may not list.
        """
        next(self.objects.list(), None)
        unverified = getattr(self, "verify_checksums", True) is False
        caveat = " Content is not compared with checksums: verify_checksums is false." if unverified else ""
        return f"{self.uri()} is reachable, knows the credentials and lets them list.{caveat}"

    # Prefect's names

    @operation(prefects=True)
    @takes_fields_of(WriteOptions)
    def write_path(self, path: Key, content: bytes, **options: Unpack[WriteArguments]) -> str:
        """Write an object.

        Args:
            path: Its key.
            content: The bytes.
            **options: `if_absent=True` writes only when there is no such object yet, `if_match` only when the object
                still has this etag. `content_type` is its media type; `metadata` are names and values that the store
                keeps beside it, `tags` those that it can filter and bill by.

        Returns:
            The key.

        Raises:
            AlreadyExistsError: `if_absent` or `if_match` did not hold: another writer was faster.
        """
        if not isinstance(content, bytes | bytearray | memoryview):
            raise InvalidInputError(
                f"Could not write {self.uri(path)}: content is {type(content).__name__}, and has to be bytes. "
                "Encode text first: text.encode()."
            )
        return self.objects.put(path, bytes(content), WriteOptions(**options)).key

    async def awrite_path(self, path: Key, content: bytes) -> str:
        """Write an object without blocking, and return its key. Prefect writes its results with it."""
        return await interruptible_async(
            lambda: call_with_retry(self.retry, lambda: self.objects.put(path, content).key)
        )

    @operation(prefects=True)
    def get_directory(self, from_path: Key | None = None, local_path: str | Path | None = None) -> list[Path]:
        """Download a folder (by default all objects) into a local one (by default the working directory).

        Returns:
            The files that were written, in the order of their keys.
        """
        return self._download_folder(from_path or "", Path(local_path or ".").expanduser())

    @operation(prefects=True)
    def put_directory(
        self,
        local_path: str | Path | None = None,
        to_path: Key | None = None,
        ignore_file: str | Path | None = None,
    ) -> int:
        """Upload a local folder.

        Args:
            local_path: The local folder. Defaults to the working directory.
            to_path: The folder of the store to upload to. Defaults to the block's own.
            ignore_file: A file of gitignore patterns; what they match is skipped.

        Returns:
            How many files were uploaded.
        """
        return self._upload_folder(Path(local_path or ".").expanduser(), to_path or "", ignore_file)

    @operation(prefects=True)
    def list_objects(
        self, folder: Key = "", delimiter: str = "", page_size: Count | None = None, max_items: Position | None = None
    ) -> list[dict[str, Any]]:
        """List the objects in a folder, sorted by key.

        Args:
            folder: The folder, a glob such as "logs/2026-04-*", or one object. Defaults to the block's own.
            delimiter: "/" skips the folders in it.
            page_size: Accepted for compatibility; pages are as large as the store makes them.
            max_items: Stop after this many.

        Returns:
            One dict each: Key, Size, LastModified, ETag; and VersionId where there is one.

        Raises:
            InvalidInputError: There is no such folder, but names begin so. The message has the glob to write.
        """
        del page_size
        found = chain.from_iterable(self.objects.list(folder, recursive=not delimiter))
        listed = [_as_dict(info) for info in islice(found, max_items)]
        if listed or max_items == 0:
            return listed
        return [_as_dict(info) for info in islice(self._named(key_text(folder)), max_items)]

    @operation(prefects=True)
    def list_folders(self, folder: Key = "") -> list[str]:
        """List the folders in a folder (by default the block's own), and the folders in those, sorted.

        A folder exists as long as an object is in it.
        """
        start = folder_prefix(key_text(folder))
        found: set[str] = set()
        for page in self.objects.list(folder):
            for info in page:
                parts = info.key[len(start) :].split("/")[:-1]
                found |= {start + "/".join(parts[: depth + 1]) for depth in range(len(parts))}
        return sorted(found)

    @operation(prefects=True)
    def download_folder_to_path(self, from_folder: Key, to_folder: str | Path | None = None) -> Path:
        """Download a folder into a local one (by default the working directory), and return its absolute path."""
        target = Path(to_folder or ".").expanduser().absolute()
        self._download_folder(from_folder, target)
        return target

    @operation(prefects=True)
    @takes_fields_of(WriteOptions)
    def upload_from_path(
        self, from_path: str | Path, to_path: Key | None = None, **options: Unpack[WriteArguments]
    ) -> str:
        """Upload a local file, and return its key, by default the file's name. The options are `write_path`'s."""
        source = Path(from_path).expanduser()
        return self.objects.put(to_path or source.name, source, WriteOptions(**options)).key

    @operation(prefects=True)
    @takes_fields_of(WriteOptions)
    def upload_from_file_object(
        self, from_file_object: BinaryIO, to_path: Key, **options: Unpack[WriteArguments]
    ) -> str:
        """Upload an open file from its position on, and return the key. The options are `write_path`'s."""
        with rewound(from_file_object):
            return self.objects.put(to_path, from_file_object, WriteOptions(**options)).key

    @operation(prefects=True)
    def upload_from_folder(
        self, from_folder: str | Path, to_folder: Key | None = None, *, ignore_file: str | Path | None = None
    ) -> str:
        """Upload a local folder.

        Args:
            from_folder: The local folder.
            to_folder: The folder of the store. Defaults to the block's own.
            ignore_file: A file of gitignore patterns; what they match is skipped.

        Returns:
            The folder of the store.
        """
        folder = key_text(to_folder or "")
        self._upload_folder(Path(from_folder).expanduser(), folder, ignore_file)
        return folder

    @operation(prefects=True)
    @takes_fields_of(WriteOptions)
    def upload_from_dataframe(
        self, df: Any, to_path: Key, serialization_format: str = "csv_gzip", **options: Unpack[WriteArguments]
    ) -> str:
        """Write a frame as one object.

        Args:
            df: A pandas or polars frame, an Arrow table, a Scan, or anything with `__arrow_c_stream__`.
            to_path: The key; an ending such as `.csv` is replaced by the format's own, or added.
            serialization_format: csv, csv_gzip, parquet, parquet_snappy or parquet_gzip.
            **options: Those of `write_path`. The media type defaults to the format's own.

        Returns:
            The key; it ends as the format's files do.
        """
        form = dataframes.serialization(serialization_format)
        described: WriteArguments = {"content_type": form.content_type, **options}
        return dataframes.upload(self.objects, df, key_text(to_path), form, WriteOptions(**described))

    @operation
    def copy_object(self, from_path: Key, to_path: Key, to_bucket: Self | str | None = None) -> str:
        """Copy an object on the store's own side.

        Args:
            from_path: The object.
            to_path: The key of the copy.
            to_bucket: Another block of the same type, or a bucket's name, in which case `to_path` is the whole key.

        Returns:
            The key of the copy.
        """
        self.objects.copy(from_path, to_path, self._target(to_bucket).objects)
        return key_text(to_path)

    @operation(prefects=True)
    def move_object(self, from_path: Key, to_path: Key, to_bucket: Self | str | None = None) -> str:
        """Move an object, and return its new key: it is copied, then deleted where it was."""
        target = self._target(to_bucket)
        if target.uri(to_path) != self.uri(from_path):
            self.objects.copy(from_path, to_path, target.objects)
            # Retried here: a new attempt of the whole would miss the source that a lost answer has deleted already.
            call_with_retry(self.retry, lambda: self.objects.delete([from_path]))
        return key_text(to_path)

    @operation(prefects=True)
    def stream_from(self, bucket: ReadableStore, from_path: Key, to_path: Key | None = None) -> str:
        """Copy an object of any other store through this process, and return its key here."""
        key = to_path or PurePath(from_path).name
        return self.objects.put(key, bucket.objects.stream(from_path)).key

    aget_directory: ClassVar = AsyncName(get_directory)
    aput_directory: ClassVar = AsyncName(put_directory)
    alist_objects: ClassVar = AsyncName(list_objects)
    alist_folders: ClassVar = AsyncName(list_folders)
    adownload_folder_to_path: ClassVar = AsyncName(download_folder_to_path)
    aupload_from_path: ClassVar = AsyncName(upload_from_path)
    aupload_from_file_object: ClassVar = AsyncName(upload_from_file_object)
    aupload_from_folder: ClassVar = AsyncName(upload_from_folder)
    aupload_from_dataframe: ClassVar = AsyncName(upload_from_dataframe)
    amove_object: ClassVar = AsyncName(move_object)
    astream_from: ClassVar = AsyncName(stream_from)

    # Ours

    @operation
    def list_versions(self, path: Key) -> list[ObjectInfo]:
        """List the versions of an object that the store still has, the newest first.

        Raises:
            UnsupportedError: The store keeps no versions.
        """
        return self.objects.versions(path)

    @operation
    def announce_new_objects(self, folder: Key = "", *, state: ObjectStore | None = None) -> list[ObjectInfo]:
        """Send the event `etl.object.created` for each version of an object in a folder that was not announced yet.

        A flow that calls this on a schedule is a watcher of the folder; triggers of deployments load what it announces.
        The payload has `uri`, `key`, `version` (the etag), `size` and `last_modified`. Names that start with `_` or `.`
        are not data, and are passed over. An event may come twice, and then has the same id; none is lost: what was
        announced is written down once Prefect's server has taken the events.

        Args:
            folder: The folder. Defaults to the block's own.
            state: The store that keeps what was announced, in the folder `_watch`. Defaults to this one, which has to
                let us write then.

        Returns:
            What was announced, the oldest first.

        Raises:
            UnsupportedError: The store of the state cannot compare and replace (SFTP). Keep it in another one.
        """
        return watch.announce_new_objects(self.objects, key_text(folder), (state or self).objects)

    @operation
    def delete_objects(self, paths: Sequence[Key]) -> int:
        """Delete objects, and return how many keys are gone now, including those that were not there."""
        return self.objects.delete(paths)

    @operation
    def presigned_url(self, path: Key, *, method: str = "GET", expires_in: dt.timedelta = dt.timedelta(hours=1)) -> str:
        """Sign a temporary URL with which anybody can read ("GET") or write ("PUT") the object. Treat it as a secret.

        Raises:
            UnsupportedError: The store has no such URLs.
        """
        return self.objects.presign(path, method, expires_in)

    @operation
    def sweep(self, *, older_than: dt.timedelta = dt.timedelta(days=1)) -> int:
        """Remove what uploads of killed processes left in the folder: parts that take space, and are not an object.

        Args:
            older_than: Younger uploads may still be under way, and stay.

        Returns:
            How many uploads were removed.
        """
        removed = self.objects.sweep(older_than)
        self.logger.info("Swept %s: uploads=%d older_than=%s", self.uri(), removed, older_than)
        return removed

    def _fix_load_id(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments.get("mode") != "append":  # the other modes name their files by partition
            return with_stream_staged(arguments)
        prefix = key_text(arguments["prefix"]).strip("/")
        return with_load_id(arguments, Target(prefix, f"{self.objects.place()}/{prefix}"), self.logger)

    @operation(prepare=_fix_load_id)
    def write_table(
        self,
        data: Any,
        prefix: Key,
        *,
        partition_by: Sequence[str] = (),
        mode: WriteMode = "replace",
        format: Format = "parquet",  # noqa: A002 (what everybody calls it)
        compression: Compression | None = None,
        options: FileOptions | None = None,
        load_id: Identity | None = None,
        max_file_bytes: Count = 128 * 2**20,
        max_rejected: Share = 0.1,
    ) -> WriteReport:
        """Write a dataset of files `<prefix>/<column>=<value>/part-0.parquet`. A retry doubles nothing.

        Nothing is published before all of the data has been read and checked; parts wait in temporary files until then.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            prefix: The folder.
            partition_by: Columns that become folders.
            mode: `replace`: the folder holds these rows and no others. `replace_partition`: the same for each
                partition that has rows in the data. `append`: adds parts whose names carry the load_id.
            format: The files' format.
            compression: Defaults to the format's own: zstd for Parquet, none for the others.
            options: ParquetOptions for Parquet, CsvOptions for CSV.
            load_id: The identity of an append. Derived like that of `Warehouse.load` where not given.
            max_file_bytes: A part that has reached this size is followed by another one.
            max_rejected: The share of rows (0 to 1) that a scan with `on_error="quarantine"` may reject. They go to
                `<prefix>/_quarantine/`, one JSON object a line.

        Returns:
            What was written.

        Raises:
            QualityError: Too many rows were rejected; nothing was written.
            SchemaError: A column of `partition_by` does not exist or cannot be a folder.
            TypeLossError: The format cannot hold a column's type.
        """
        report = dataset.write_table(
            self.objects,
            data,
            key_text(prefix),
            partition_by=partition_by,
            mode=mode,
            format=format,
            compression=compression,
            options=options,
            load_id=load_id,
            max_file_bytes=max_file_bytes,
            max_rejected=max_rejected,
        )
        movement = report.movement(
            target=self.asset_key(prefix),
            tool=self._block_type_slug or type(self).__name__,
            origins=data.origins if isinstance(data, Scan) else (),
            quarantine=self.uri(report.quarantine) if report.quarantine else "",
        )
        announce(movement, self.logger)
        return report

    # What a connector supplies

    @property
    @abstractmethod
    @override
    def _client(self) -> StoreClient: ...

    def _named_bucket(self, name: str) -> Self:
        raise UnsupportedError(f"{type(self).__name__} has no bucket {name!r} beside it; pass a block as to_bucket.")

    # Shared by the operations

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

    def _named(self, name: str) -> Iterator[ObjectInfo]:
        """Return what a name that no objects are listed in stands for: one object, or those that match a glob.

        Raises:
            InvalidInputError: It is the beginning of other names.
        """
        if folder_prefix(name) in {"", name}:
            return iter(())
        first = next(chain.from_iterable(self.objects.beginning(name)), None)
        if first is not None and first.key == name:
            return iter((first,))
        if has_magic(name):
            glob = Glob(name)
            matching = (info for info in chain.from_iterable(self.objects.list(glob.folder)) if glob.matches(info.key))
            if (match := next(matching, None)) is not None:
                return chain((match,), matching)
        if first is None or any(self.objects.list(name)):  # all that is in the folder may be in folders
            return iter(())
        deep = "*/**" if "/" in first.key.removeprefix(name) else "*"
        raise InvalidInputError(
            f"Could not list {self.uri(name)}: it is the beginning of names, not a folder. Write "
            f"list_objects({escape(name) + deep!r}), or list_objects({name + '/'!r}) for a folder that may be empty."
        )

    def _download_folder(self, folder: Key, target: Path) -> list[Path]:
        prefix = folder_prefix(key_text(folder))
        size = 0
        found: list[tuple[str, Path]] = []

        def download(info: ObjectInfo) -> tuple[str, Path, int]:
            path = target / join_key("", info.key.removeprefix(prefix))
            return info.key, path, self._download(info.key, path)

        infos = without_markers(self.objects.list(folder))
        for key, path, written in ordered_map(download, infos, workers=self.max_concurrency):
            found.append((key, path))
            size += written
        paths = [path for _, path in sorted(found)]
        self.logger.info("Downloaded %s to %s: objects=%d bytes=%d", self.uri(folder), target, len(paths), size)
        return paths

    def _upload_folder(self, source: Path, folder: Key, ignore_file: str | Path | None) -> int:
        if not source.is_dir():
            raise ObjectNotFoundError(f"Could not upload {source}: it is not a folder.")
        prefix = folder_prefix(key_text(folder))
        included = None if ignore_file is None else _not_ignored(source, Path(ignore_file))
        files = (path for path in sorted(source.rglob("*")) if path.is_file())
        chosen = (path for path in files if included is None or path.relative_to(source).as_posix() in included)

        def upload(path: Path) -> int:
            return self.objects.put(prefix + path.relative_to(source).as_posix(), path).size

        count = size = 0
        for sent in ordered_map(upload, chosen, workers=self.max_concurrency):
            count, size = count + 1, size + sent
        self.logger.info("Uploaded %s to %s: objects=%d bytes=%d", source, self.uri(folder), count, size)
        return count


def _as_dict(info: ObjectInfo) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Key": info.key,
        "Size": info.size,
        "LastModified": info.last_modified,
        "ETag": info.etag,
    }
    return found | ({"VersionId": info.version} if info.version else {})


def _not_ignored(folder: Path, ignore_file: Path) -> set[str]:
    from prefect.utilities.filesystem import filter_files

    with file_errors("read", ignore_file):
        patterns = ignore_file.read_text(encoding="utf-8").splitlines()
    return {PurePath(name).as_posix() for name in filter_files(str(folder), patterns, include_dirs=False)}
