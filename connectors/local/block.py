"""Files of this machine, and a store in memory for tests: object stores that need no account."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import stat
import threading
import time
import uuid
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import Field, HttpUrl

from blocks.base.errors import (
    AccessDeniedError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.base.live import live
from blocks.files.local import CHUNK_BYTES, PART_SUFFIX, chunks_of, file_errors, part_file, sync_folder
from blocks.stores.keys import folder_prefix, join_key
from blocks.stores.object_store import AS_IT_IS, ObjectInfo, ObjectStore, WriteOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from blocks.files.local import Source

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PAGE = 1_000
LOGO = HttpUrl(
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/"
    "block-logos/filesystem.png"
)


class LocalFiles(ObjectStore):
    """A folder of this machine as an object store; it is made by the first write.

    Keys map to files. Written straight on the operating system, because a file is only safe after write beside, fsync
    and rename, and what a killed writer leaves behind must never be listed.

    Example:
        ```python
        from connectors.local import LocalFiles

        lake = LocalFiles.load("BLOCK_NAME")
        lake.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL Local Files"
    _block_type_slug = "etl-local-files"
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
    _logo_url = LOGO

    basepath: str = Field(
        default=".", description="The folder; '~' and relative paths are looked up where the flow runs."
    )

    def check(self) -> str:
        """One sentence that says that files can be read and written in the folder.

        Raises:
            AccessDeniedError: This user may not; the message names the folder that is in the way.
        """
        root = self._root()
        with file_errors("look at", root):
            nearest = next(folder for folder in (root, *root.parents) if folder.exists())
        if not nearest.is_dir():
            raise InvalidInputError(f"{nearest} is a file, not a folder. Choose another basepath.")
        effective = os.access in os.supports_effective_ids
        if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK, effective_ids=effective):
            raise AccessDeniedError(
                f"This user cannot read and write the folder {nearest}. Give it the right, or choose another basepath."
            )
        return f"{root} can be read and written" + ("." if nearest == root else " (the first write makes it).")

    def uri(self, key: str = "") -> str:
        """The file's address, such as `file:///data/orders.csv`."""
        return (self._root() / join_key("", key) if key else self._root()).as_uri()

    def _root(self) -> Path:
        return Path(os.path.realpath(Path(self.basepath).expanduser()))

    def _path(self, key: str) -> Path:
        root = self._root()
        path = root / join_key("", key)
        if path.name.endswith(PART_SUFFIX):
            raise InvalidInputError(f"{key!r} is no key: names that end in {PART_SUFFIX} are files being written.")
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise InvalidInputError(
                f"{key!r} leads out of {root} through a symbolic link. Use a block for that folder."
            )
        return path

    def _head(self, key: str, version: str | None = None) -> ObjectInfo:
        with self._reading(key, version) as path:
            return _info(key, path.stat())

    def _get(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        with self._reading(key, version) as path, path.open("rb") as file:
            info = _info(key, os.fstat(file.fileno()))
            if if_match is not None and info.etag != if_match:
                raise TransientError(f"{self.uri(key)} changed while it was read. Try again.")
            file.seek(start)
            return file.read(length), info

    def _stream(
        self, key: str, start: int = 0, length: int | None = None, *, version: str | None = None
    ) -> Iterator[bytes]:
        # An open file stays the version it was: every write here is a rename. No ranges are needed.
        left = length
        with self._open(key, version) as file, file_errors("read", file.name):
            file.seek(start)
            while chunk := file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)):
                yield chunk
                left = None if left is None else left - len(chunk)

    def _open(self, key: str, version: str | None = None) -> BinaryIO:
        with self._reading(key, version) as path:
            return path.open("rb")

    def _upload(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
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
                raise ObjectExistsError(f"Could not write {target}: it exists already.") from None
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

    def _list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[list[ObjectInfo]]:
        folder = folder_prefix(prefix)
        base = self._path(folder.removesuffix("/")) if folder else self._root()
        page: list[ObjectInfo] = []
        with file_errors("list", base):
            for info in _walk(self._root(), base, folder, recursive=recursive):
                page.append(info)
                if len(page) == PAGE:
                    yield page
                    page = []
        if page:
            yield page

    def _delete(self, keys: Iterable[str]) -> int:
        paths = {self._path(key) for key in keys}
        for path in paths:
            with file_errors("delete", path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if not path.is_dir():
                    path.unlink()
        return len(paths)

    def _copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        with self._reading(source_key) as path:
            (target or self)._upload(target_key, path)  # noqa: SLF001

    def _sweep(self, older_than: dt.timedelta) -> int:
        before = time.time() - older_than.total_seconds()
        root, removed = self._root(), 0
        with file_errors("sweep", root):
            for folder, _, names in os.walk(root):  # which passes over folders that go meanwhile; rglob fails
                for path in (Path(folder, name) for name in names if name.endswith(PART_SUFFIX)):
                    with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                        if path.stat().st_mtime <= before:
                            path.unlink()
                            removed += 1
        return removed

    @contextlib.contextmanager
    def _reading(self, key: str, version: str | None = None) -> Iterator[Path]:
        self._refuse_version(version)
        path = self._path(key)
        with file_errors("read", path):
            try:
                is_file = stat.S_ISREG(path.stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectNotFoundError(
                    f"Could not read {path}: no such file. Check the key, and the basepath."
                ) from None
            if not is_file:
                raise ObjectNotFoundError(f"Could not read {path}: it is not a file.")
            yield path

    def _place(self, target: Path) -> str:
        nearest = next((folder for folder in target.parents if folder.is_dir()), target.parent)
        return f"{target} (in the folder {nearest})"


class MemoryFiles(ObjectStore):
    """An object store in this process's memory, for the tests of flows. Nothing of it is saved.

    Blocks of the same name share their objects, so that a copy, or one that travelled through a task, sees them too;
    they go when the last such block does.

    Example:
        ```python
        from connectors.local import MemoryFiles

        lake = MemoryFiles.load("BLOCK_NAME")
        lake.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL Memory Files"
    _block_type_slug = "etl-memory-files"
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
    _logo_url = LOGO

    name: str = Field(
        default_factory=lambda: uuid.uuid4().hex,
        description="Blocks of the same name share their objects; by default no other has it.",
    )

    def check(self) -> str:
        """One sentence; memory is always there."""
        return f"{self.uri()} is in this process's memory: always reachable."

    def uri(self, key: str = "") -> str:
        """The object's address, such as `memory://name/orders.csv`."""
        return f"memory://{self.name}/{join_key('', key) if key else ''}"

    @live
    def _contents(self) -> _Contents:
        return _CONTENTS.setdefault(self.name, _Contents())

    def _found(self, key: str) -> tuple[bytes, ObjectInfo]:
        try:
            return self._contents.objects[join_key("", key)]
        except KeyError:
            raise ObjectNotFoundError(f"Could not read {self.uri(key)}: no such object.") from None

    def _head(self, key: str, version: str | None = None) -> ObjectInfo:
        self._refuse_version(version)
        return self._found(key)[1]

    def _get(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        self._refuse_version(version)
        content, info = self._found(key)
        if if_match is not None and info.etag != if_match:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.")
        return content[start : start + length], info

    def _upload(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        if options.tags:
            raise UnsupportedError(f"Could not write {self.uri(key)}: memory keeps no tags.")
        content = b"".join(chunks_of(source))
        info = ObjectInfo(
            join_key("", key),
            len(content),
            uuid.uuid4().hex,
            None,
            dt.datetime.now(dt.UTC),
            options.content_type,
            dict(options.metadata or {}),
        )
        contents = self._contents
        with contents.lock:
            old = contents.objects.get(info.key)
            if options.if_absent and old is not None:
                raise ObjectExistsError(f"Could not write {self.uri(key)}: it exists already.")
            if options.if_match is not None and old is None:
                raise ObjectNotFoundError(f"Could not write {self.uri(key)}: there is no such object to replace.")
            if options.if_match is not None and old is not None and old[1].etag != options.if_match:
                raise ObjectExistsError(
                    f"Could not write {self.uri(key)}: it no longer has the etag {options.if_match}."
                )
            contents.objects[info.key] = content, info
        return info

    def _list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[list[ObjectInfo]]:
        start = folder_prefix(prefix)
        objects = self._contents.objects
        found = [
            objects[key][1]
            for key in sorted(objects)
            if key.startswith(start) and (recursive or "/" not in key[len(start) :])
        ]
        for at in range(0, len(found), PAGE):
            yield found[at : at + PAGE]

    def _delete(self, keys: Iterable[str]) -> int:
        gone = {join_key("", key) for key in keys}
        for key in gone:
            self._contents.objects.pop(key, None)
        return len(gone)

    def _copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        content, info = self._found(source_key)
        options = WriteOptions(content_type=info.content_type, metadata=info.metadata)
        (target or self)._upload(target_key, content, options)  # noqa: SLF001


class _Contents:
    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self.lock = threading.Lock()


_CONTENTS: weakref.WeakValueDictionary[str, _Contents] = weakref.WeakValueDictionary()


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
    return ObjectInfo(key, status.st_size, etag, None, dt.datetime.fromtimestamp(status.st_mtime, dt.UTC))


def _walk(root: Path, folder: Path, prefix: str, *, recursive: bool) -> Iterator[ObjectInfo]:
    """The files in a folder in the order of their keys; links out of `root` and unfinished files are left out."""
    try:
        with os.scandir(folder) as found:
            entries = [(entry, entry.is_dir(follow_symlinks=False)) for entry in found]
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
