"""The files of a folder of this machine, as the client of an object store.

Written straight on the operating system, because a file is only safe after write beside, fsync and rename, and what a
killed writer leaves behind must never be listed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from typing_extensions import override

from blocks.base.errors import (
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.files.local import CHUNK_BYTES, PART_SUFFIX, chunks_of, file_errors, part_file, sync_folder
from blocks.stores.client import AS_IT_IS, StoreClient
from blocks.stores.info import ObjectInfo, pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from blocks.files.local import Source
    from blocks.stores.client import WriteOptions
    from blocks.stores.info import Page

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class LocalStoreClient(StoreClient):
    """A folder of this machine; it is made by the first write."""

    def __init__(self, basepath: str) -> None:
        super().__init__()
        self._basepath = basepath

    @property
    def root(self) -> Path:
        """The folder; `~` and relative paths are looked up where the process is now."""
        return Path(os.path.realpath(Path(self._basepath).expanduser()))

    @override
    def uri(self, key: str = "") -> str:
        """Return the file's address, such as `file:///data/orders.csv`."""
        return (self.root / key).as_uri()

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        with self._reading(key, version) as path:
            return _info(key, path.stat())

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        with self._reading(key, version) as path, path.open("rb") as file:
            info = _info(key, os.fstat(file.fileno()))
            if if_match is not None and info.etag != if_match:
                raise TransientError(f"{self.uri(key)} changed while it was read. Try again.")
            file.seek(start)
            return file.read(length), info

    @override
    def stream(
        self, key: str, start: int = 0, length: int | None = None, *, version: str | None = None
    ) -> Iterator[bytes]:
        # An open file stays the version it was: every write here is a rename. No ranges are needed.
        left = length
        with self.open(key, version) as file, file_errors("read", file.name):
            file.seek(start)
            while chunk := file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)):
                yield chunk
                left = None if left is None else left - len(chunk)

    @override
    def open(self, key: str, version: str | None = None, *, known: ObjectInfo | None = None) -> BinaryIO:
        with self._reading(key, version) as path:
            file = path.open("rb")
            if known is not None and _info(key, os.fstat(file.fileno())).etag != known.etag:
                file.close()
                raise TransientError(f"{self.uri(key)} changed since it was listed. Try again.")
            return file

    @override
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        if options.metadata or options.tags:
            raise UnsupportedError(f"Could not write {self.uri(key)}: files keep no metadata and no tags.")
        target = self._path(key)
        with file_errors("write", self._place(target)), part_file(target) as part:
            part.writelines(chunks_of(source))
            part.flush()
            # Unique, so that the etag is: the clock that stamps files ticks every few milliseconds only.
            os.utime(part.fileno(), ns=(time.time_ns(), time.time_ns()))
            os.fsync(part.fileno())
            with _locked(target.parent, required=options.if_match is not None):
                self._put_in_place(Path(part.name), target, options)
            sync_folder(target.parent)
            return _info(key, os.fstat(part.fileno()))

    def _put_in_place(self, part: Path, target: Path, options: WriteOptions) -> None:
        if options.if_absent:
            try:
                os.link(part, target)
            except FileExistsError:
                raise ObjectExistsError(f"Could not write {target}: it already exists.") from None
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                    raise
                raise UnsupportedError(f"if_absent needs hard links, and {target.parent} has none.") from error
            return
        if options.if_match is not None:
            if not target.is_file():
                raise ObjectNotFoundError(f"Could not write {target}: there is no such file to replace.")
            if _info("", target.stat()).etag != options.if_match:
                raise ObjectExistsError(f"Could not write {target}: it no longer has the etag {options.if_match}.")
        part.replace(target)

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        folder, slash, start = prefix.rpartition("/")
        base = self._base(folder)
        with file_errors("list", base):
            yield from pages(_walk(self.root, base, folder + slash, start, recursive=recursive))

    @override
    def delete(self, keys: Iterable[str]) -> int:
        paths = {self._path(key) for key in keys}
        for path in paths:
            with file_errors("delete", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if not path.is_dir():
                    path.unlink()
        return len(paths)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        with self._reading(source_key) as path:
            (target or self).put(target_key, path)

    @override
    def sweep(self, prefix: str, older_than: dt.timedelta) -> int:
        before = time.time() - older_than.total_seconds()
        base, removed = self._base(prefix), 0
        with file_errors("sweep", base):
            for folder, _, names in os.walk(base):  # which passes over folders that go meanwhile; rglob fails
                for path in (Path(folder, name) for name in names if name.endswith(PART_SUFFIX)):
                    with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                        if path.stat().st_mtime <= before:
                            path.unlink()
                            removed += 1
        return removed

    def _path(self, key: str) -> Path:
        root = self.root
        path = root / key
        if path.name.endswith(PART_SUFFIX):
            raise InvalidInputError(
                f"Invalid key {key!r:.200}: names that end in {PART_SUFFIX} are files being written."
            )
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise InvalidInputError(
                f"{key!r} leads out of {root} through a symbolic link. Use a block for that folder."
            )
        return path

    def _base(self, prefix: str) -> Path:
        return self._path(prefix.removesuffix("/")) if prefix else self.root

    @contextlib.contextmanager
    def _reading(self, key: str, version: str | None = None) -> Iterator[Path]:
        self._refuse_version(version)
        path = self._path(key)
        with file_errors("read", path):
            try:
                is_file = stat.S_ISREG(path.stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectNotFoundError(
                    f"Could not read {path}: no such file. Check the key and the basepath."
                ) from None
            if not is_file:
                raise ObjectNotFoundError(f"Could not read {path}: it is not a file.")
            yield path

    def _place(self, target: Path) -> str:
        nearest = next((folder for folder in target.parents if folder.is_dir()), target.parent)
        return f"{target} (in the folder {nearest})"


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(key, status.st_size, etag, None, dt.datetime.fromtimestamp(status.st_mtime, dt.UTC))


def _walk(root: Path, folder: Path, prefix: str, start: str = "", *, recursive: bool) -> Iterator[ObjectInfo]:
    """The files in a folder whose names start so, in order; links out of `root` and unfinished files are left out."""
    try:
        with os.scandir(folder) as found:
            entries = [(each, each.is_dir(follow_symlinks=False)) for each in found if each.name.startswith(start)]
    except (FileNotFoundError, NotADirectoryError):
        return
    # "a.txt" comes before "a/b": a folder sorts as its keys do, with the slash.
    for entry, is_folder in sorted(entries, key=lambda pair: pair[0].name + "/" * pair[1]):
        if is_folder:
            if recursive:
                yield from _walk(root, Path(entry.path), f"{prefix}{entry.name}/", recursive=True)
        elif not entry.name.endswith(PART_SUFFIX) and (not entry.is_symlink() or _stays_in(root, entry.path)):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):
                    yield _info(prefix + entry.name, status)


def _stays_in(root: Path, path: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)


@contextlib.contextmanager
def _locked(folder: Path, *, required: bool) -> Iterator[None]:
    """Alone among the writers of a folder, across processes; the lock ends with its holder."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)  # fails on Windows, where there is no flock either
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # so do some network file systems
            if required:
                raise UnsupportedError(f"if_match needs a lock, and {folder} has none: {error.strerror}.") from error
        yield
