"""ReadableStore: the block of files that are read and not written. Prefect's names and ours, over its client's.

A connector supplies the fields, `check`, `_client` and, where it has one, `_folder`. Keys that go in and come out are
relative to the block's folder.
"""

# Prefect's interfaces declare coroutines; ours are operations, which run with and without an event loop.
# mypy: disable-error-code="override"

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from prefect.filesystems import ReadableFileSystem

from blocks.base.assets import asset_key
from blocks.base.block import ConnectorBlock
from blocks.base.errors import InvalidInputError, NoSuchStoreError, NotFoundError
from blocks.base.interruption import interruptible_async
from blocks.base.names import key_text, key_texts
from blocks.base.operation import AsyncName, operation
from blocks.base.retry import call_with_retry
from blocks.files.local import rewound, write_file
from blocks.stores import dataset
from blocks.stores.folder import ReadFolder
from blocks.stores.hive import dataset_of
from blocks.stores.new_files import scan_new

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.arrow.columns import ExtraColumns
    from blocks.arrow.scan import Scan
    from blocks.base.names import Key, Name, Position
    from blocks.files.options import Compression, FileOptions, Format, OnError
    from blocks.stores.client import ReadClient
    from blocks.stores.dataset import Condition
    from blocks.stores.info import ObjectInfo


class ReadableStore(ConnectorBlock, ReadableFileSystem):
    """Files that are read: on a server, in a bucket or in a folder. An `ObjectStore` is one that is written, too.

    Keys are relative to the block's folder. What cannot be done without writing, or without a listing, is a method that
    only an `ObjectStore` has.
    """

    @property
    def objects(self) -> ReadFolder:
        """The objects of the block's folder, for code that needs no retries, task runs or logs: operations use it."""
        return ReadFolder(lambda: self._client, self._folder)

    def uri(self, key: Key = "") -> str:
        """Return the address of an object, or of the block's folder, such as `s3://bucket/folder/key`."""
        return self.objects.uri(key)

    def asset_key(self, key: Key) -> str:
        """Return the key of an object, or of the dataset that it is part of, as an asset in Prefect: its address.

        The parts and the partitions of a dataset are one asset, as they were written by one name.
        """
        return asset_key(self.objects.uri(dataset_of(key_text(key))))

    def _stands_for(self) -> str:
        return f"{self._block_type_slug} {self.objects.place()}"

    # Prefect's names

    @operation(prefects=True)
    def read_path(
        self, path: Key, *, start: Position = 0, length: Position | None = None, version: str | None = None
    ) -> bytes:
        """Read an object, or `length` bytes of it from `start` on.

        What is read whole is compared with the checksum that the store keeps.

        Returns:
            The bytes; fewer where the range reaches beyond the end.

        Raises:
            NotFoundError: There is no such object.
        """
        return self.objects.get(path, start, length, version=version)

    async def aread_path(self, path: Key) -> bytes:
        """Read an object without blocking. Prefect reads its results with it; it is never a task run."""
        return await interruptible_async(lambda: call_with_retry(self.retry, lambda: self.objects.get(path)))

    @operation(prefects=True)
    def download_object_to_path(
        self, from_path: Key, to_path: str | Path | None = None, *, version: str | None = None
    ) -> Path:
        """Download an object to a file, by default one named like it in the working directory.

        Returns:
            The file's absolute path.

        Raises:
            InvalidInputError: `to_path` is a folder.
        """
        target = Path(to_path if to_path is not None else PurePath(from_path).name).expanduser().absolute()
        self._download(from_path, target, version=version)
        return target

    @operation(prefects=True)
    def download_object_to_file_object(
        self, from_path: Key, to_file_object: BinaryIO, *, version: str | None = None
    ) -> BinaryIO:
        """Download an object into an open file, at its position, and return the file.

        After a failure the file is as before.
        """
        chunks = self.objects.stream(from_path, version=version)
        first = next(chunks, b"")
        with rewound(to_file_object, truncate=True):
            to_file_object.write(first)
            to_file_object.writelines(chunks)
        return to_file_object

    adownload_object_to_path: ClassVar = AsyncName(download_object_to_path)
    adownload_object_to_file_object: ClassVar = AsyncName(download_object_to_file_object)

    @operation
    def download_to_dataframe(self, from_path: Key, *, schema: pa.Schema | None = None) -> pd.DataFrame:
        """Read an object as a pandas frame: CSV, JSON Lines, Parquet or Arrow IPC, compressed or not, by its name.

        Args:
            from_path: The key; a folder or a glob gives the rows of all its objects.
            schema: Columns and exact types. Defaults to what the file says, or what its values look like.
        """
        return self.scan(from_path, schema=schema).to_pandas()

    # Ours

    @operation
    def exists(self, path: Key) -> bool:
        """Tell whether there is such an object.

        Raises:
            NoSuchStoreError: There is not even the bucket.
        """
        try:
            self.objects.head(path)
        except NoSuchStoreError:
            raise
        except NotFoundError:
            return False
        return True

    @operation
    def head_object(self, path: Key, *, version: str | None = None) -> ObjectInfo:
        """Look up what the store knows about an object.

        Raises:
            NotFoundError: There is no such object.
        """
        return self.objects.head(path, version)

    def open(self, path: Key, *, version: str | None = None) -> BinaryIO:
        """Open an object as a seekable file, read by ranges as they are needed; one version of it, to the end.

        Raises:
            NotFoundError: There is no such object.
        """
        return self.objects.open(path, version)

    def scan(
        self,
        keys: Key | Sequence[Key],
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
        file_column: Name | None = None,
        row_column: Name | None = None,
    ) -> Scan:
        """Describe objects as one Scan; nothing is read, nor listed, before it is opened.

        Folders like `date=2026-04-30` in a key are columns, unless the file has a column of that name itself. Names
        that start with `_` or `.` are not data. Files are read in the order of their names, numbers by value.

        Args:
            keys: A key, a folder, a glob, or a list of those. In a glob `*`, `?`, `[a-z]` and `[!a-z]` stand for
                characters of one name, `**` between slashes for any folders; `[[]`, `[*]` and `[?]` for themselves. A
                key that exists is that key, whatever characters it has.
            schema: Columns and exact types; a file that lacks one is an error, and a column that is not nullable has
                to have a value. Without it the types are what the files say, the union by name of several.
            format: What the files are, where their names do not say it: CSV, JSON, Parquet or Arrow IPC.
            compression: How they are compressed, where their names do not say it.
            options: CsvOptions for CSV, JsonOptions for JSON.
            columns: Only these, in this order.
            where: Only rows for which this holds: conditions such as `("date", ">=", "2026-04-30")`, all of them, or
                an Arrow expression. Partitions and row groups that it rules out are not read.
            on_error: Whether a bad row is an error or goes to the quarantine of `load()` or `write_table()`.
            extra_columns: What to do where a file has columns that `schema` lacks.
            glob: Whether keys may be globs. A glob of its own, such as "*.csv", takes what matches it of the folders
                in `keys`, which are then taken as they are.
            file_column: The name of a column to add: the key of the file that a row is from.
            row_column: The name of a column to add: the number of the row among those that are read of its file, from 1
                on. Rows that `where` leaves out are counted, rows that are refused are not.
        """
        return dataset.scan(
            self.objects,
            key_texts(keys),
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

    def scan_new(
        self,
        keys: Key | Sequence[Key],
        *,
        ordered: bool = False,
        schema: pa.Schema | None = None,
        format: Format | None = None,  # noqa: A002 (what everybody calls it)
        compression: Compression | None = None,
        options: FileOptions | None = None,
        columns: Sequence[str] | None = None,
        where: Sequence[Condition] | pc.Expression | None = None,
        on_error: OnError = "fail",
        extra_columns: ExtraColumns = "ignore",
        glob: bool | str = True,
        file_column: Name | None = None,
        row_column: Name | None = None,
    ) -> Scan:
        """Describe objects as a Scan of which each load under a `state` takes the new ones: each version once.

            warehouse.load(bucket.scan_new("orders/*.csv", schema=ORDERS), "orders", state="orders/files")

        Which ones were loaded is committed with the rows, in the ledger of their warehouse. By itself, or where the
        state has no load yet, it is a scan of everything. An object whose content has changed is new.

        Args:
            keys: As with `scan`.
            ordered: Whether keys are in the order in which files come, such as by the day in their names. Then only
                what sorts behind the last key is new, and the state is that key alone.
            schema: As with `scan`. Give it where files are removed once they are loaded.
            format: As with `scan`.
            compression: As with `scan`.
            options: As with `scan`.
            columns: As with `scan`.
            where: As with `scan`.
            on_error: As with `scan`.
            extra_columns: As with `scan`.
            glob: As with `scan`.
            file_column: As with `scan`.
            row_column: As with `scan`.
        """
        files = dataset.dataset_of_files(
            self.objects,
            key_texts(keys),
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
        return scan_new(files, ordered=ordered)

    @operation
    def read_table(
        self,
        keys: Key | Sequence[Key],
        *,
        schema: pa.Schema | None = None,
        columns: Sequence[str] | None = None,
        where: Sequence[Condition] | pc.Expression | None = None,
        glob: bool | str = True,
    ) -> pa.Table:
        """Read objects as one Arrow table into memory; see `scan`."""
        return self.scan(keys, schema=schema, columns=columns, where=where, glob=glob).to_arrow()

    # What a connector supplies

    @property
    @abstractmethod
    def _client(self) -> ReadClient:
        """The client that is open now; connectors make it by `@live`."""

    @property
    def _folder(self) -> str:
        """The folder of the store that the block stands for, without slashes around it; "" is all of it."""
        return ""

    # Shared by the operations

    def _download(self, key: Key, target: Path, *, version: str | None = None) -> int:
        if target.is_dir():
            raise InvalidInputError(f"Could not write {target}: it is a folder. Give the file's whole name as to_path.")
        return write_file(target, self.objects.stream(key, version=version))
