"""TreeClient: files in folders on a server that knows a file system's requests and no more, such as one of SFTP.

A file is written beside its place and renamed, so that a reader sees the old one or the new one. A connector supplies
the requests, by the names that POSIX and Python's `os` give them; what is made of them is written here, once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import posixpath
import time
import uuid
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from typing_extensions import override

from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    AccessDeniedError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.files.local import PART_SUFFIX, chunks_of
from blocks.stores.client import AS_IT_IS, StoreClient
from blocks.stores.info import ObjectInfo, pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from blocks.files.local import Source
    from blocks.stores.client import WriteOptions
    from blocks.stores.info import Page

Kind = Literal["file", "folder", "other"]
DELETES_IN_FLIGHT = 32
PIECE_BYTES = 4 * 2**20
"""What a file is read and written by: a driver's limit on silence is one on the time of a piece."""
LATEST = 2**32 - 1
"""The last second that 32 bits can tell, and so version 3 of SFTP."""


@dataclass(frozen=True)
class Entry:
    """What a server tells of a file or a folder.

    Attributes:
        name: Its name in its folder; "" where it was asked for by its path.
        kind: What it is; "other" is a device or a socket, and in a folder a symbolic link.
        size: Its length in bytes.
        modified_s: When it was written, in whole seconds since 1970.
    """

    name: str
    kind: Kind
    size: int
    modified_s: int


class OpenFile(Protocol):
    """A file that is open on the server."""

    def read(self, size: int, offset: int, /) -> bytes:
        """Read at most `size` bytes from there on."""

    def write(self, data: bytes, /) -> object:
        """Append."""

    def fsync(self) -> object:
        """Have what was written be on the disk."""

    def utime(self, times: tuple[int, int], /) -> object:
        """Date it: when it was last read, and when it was written."""

    def stat(self) -> Any:
        """Ask what it is."""

    def close(self) -> object:
        """Close it."""


class Files(Protocol):
    """What a server is asked over a connection. Each is one request, and raises what the driver raises."""

    def stat(self, path: str, /) -> Any:
        """Ask what a file or a folder is; of a symbolic link, what it leads to."""

    def readdir(self, path: str, /) -> Iterable[Any]:
        """Ask what is in a folder."""

    def open(self, path: str, mode: str, /) -> OpenFile:
        """Open a file: "rb" to read it, "xb" to write one that is not there yet, in a folder that is."""

    def rename(self, path: str, target: str, /) -> object:
        """Give a file another name, in place of the one that has it."""

    def link(self, path: str, target: str, /) -> object:
        """Give a file a second name, unless anything has it."""

    def remove(self, path: str, /) -> object:
        """Remove a file."""

    def mkdir(self, path: str, /) -> object:
        """Make a folder in one that exists."""


class TreeClient(StoreClient):
    """Files in folders on a server; the folders are made by the first write into them.

    A connector supplies `files`, `entry` and `error_of`. By the latter a file or a folder that is not there, or is in
    what is no folder, has to be an ObjectNotFoundError, and what the server cannot do an UnsupportedError.

    Args:
        address: Scheme, host and port, such as `sftp://host:22`.
        user: Whose folder a relative root starts from.
        root: The folder: absolute, or relative to the one in which the login starts.
    """

    def __init__(self, address: str, user: str | None, root: str) -> None:
        super().__init__()
        self._address, self._user = address, user
        self._root = root if root.endswith("/") or not root else f"{root}/"

    # What a connector supplies

    @property
    @abstractmethod
    def files(self) -> Files:
        """What is asked over the connection that is open now, or a new one where that was lost."""

    @abstractmethod
    def entry(self, found: Any) -> Entry:
        """Read what `stat` gives, or one of what `readdir` does."""

    @abstractmethod
    def error_of(self, verb: str, place: str, error: Exception) -> ConnectorError | None:
        """Translate an error of the driver, or of the network below it; None where it is neither."""

    # What the requests give together

    @property
    @override
    def server(self) -> str:
        return self._user or ""

    @override
    def uri(self, key: str = "") -> str:
        """Return the file's address, such as `sftp://host:22/folder/orders.csv`; `~` is where the login starts."""
        return f"{self._address}{'' if self._root.startswith('/') else '/~/'}{self._root}{key}"

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        self._refuse_version(version)
        return self._info(key, self._look_up("read", key, self._path(key)))

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        self._refuse_version(version)
        path = self._path(key)
        try:
            with self._errors("read", key):
                file = self.files.open(path, "rb")
                try:
                    info = self._info(key, self.entry(file.stat()))
                    wanted = min(length, info.size - start)
                    pieces = [(min(PIECE_BYTES, wanted - at), start + at) for at in range(0, wanted, PIECE_BYTES)]
                    content = b"".join(file.read(*piece) for piece in pieces)
                except Exception:  # not Ctrl-C, which must not wait for one more answer
                    with contextlib.suppress(Exception):
                        file.close()
                    raise
                file.close()
        except TerminalError:
            if self._kind(path) == "folder":
                raise self._no_file(key) from None
            raise
        if if_match is not None and info.etag != if_match:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.")
        return content, info

    @override
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        if options.metadata or options.tags:
            raise UnsupportedError(f"Could not write {self.uri(key)}: files keep no metadata and no tags.")
        if options.if_match is not None:
            raise UnsupportedError(
                f"Could not write {self.uri(key)}: this store cannot compare and replace, as if_match does."
            )
        target = self._path(key)
        part = posixpath.join(posixpath.dirname(target), f".{uuid.uuid4().hex}{PART_SUFFIX}")
        with self._errors("write", key):
            files = self.files
            file = self._create(files, part)
        try:
            for chunk in chunks_of(source):
                with self._errors("write", key):
                    for at in range(0, len(chunk), PIECE_BYTES):
                        file.write(chunk[at : at + PIECE_BYTES])
            info = self._info(key, self._finish(key, file, target))
            self._place(files, part, key, if_absent=options.if_absent)
        except BaseException:
            for undo in (file.close, lambda: self.files.remove(part)):  # over a new connection where that was lost
                with contextlib.suppress(Exception):  # the first error is the one to raise
                    undo()
            raise
        return info

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        folder, slash, start = prefix.rpartition("/")
        found = self._walk(folder + slash, start, recursive=recursive)
        yield from pages(info for info in found if not info.key.endswith(PART_SUFFIX))

    @override
    def delete(self, keys: Iterable[str]) -> int:
        paths = [self._path(key) for key in sorted(set(keys))]
        self._remove("delete", paths)
        return len(paths)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        # Through this process: there is no request for it, and the target may be on another server.
        (target or self).put(target_key, self.stream(source_key))

    @override
    def sweep(self, prefix: str, older_than: dt.timedelta) -> int:
        before = dt.datetime.now(dt.UTC) - older_than
        parts = [info for info in self._walk(prefix, recursive=True) if info.key.endswith(PART_SUFFIX)]
        old = [f"{self._root}{info.key}" for info in parts if info.last_modified <= before]
        self._remove("sweep", old)
        return len(old)

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise
        except Exception as error:
            translated = self.error_of(verb, self.uri(key), error)
            if translated is None:
                raise
            try:
                raise translated from error
            finally:
                del translated  # it holds this frame, and so its caller's

    def _look_up(self, verb: str, key: str, path: str) -> Entry:
        with self._errors(verb, key):
            return self.entry(self.files.stat(path))

    def _kind(self, path: str) -> Kind | None:
        """Return what has that name; None where nothing has it, or nobody can tell."""
        try:
            return self._look_up("look at", "", path).kind
        except ConnectorError:
            return None

    def _create(self, files: Files, part: str) -> OpenFile:
        try:
            with self._errors("write"):
                return files.open(part, "xb")
        except ObjectNotFoundError:
            self._make_folder(files, posixpath.dirname(part))
            return files.open(part, "xb")

    def _make_folder(self, files: Files, folder: str) -> None:
        """Make a folder, with those that it is to be in."""
        try:
            with self._errors("write"):
                files.mkdir(folder)
        except ObjectNotFoundError:
            if not folder.strip("/"):
                raise
            self._make_folder(files, posixpath.dirname(folder))
            self._make_folder(files, folder)
        except TerminalError:
            kind = self._kind(folder)
            if kind == "folder":  # another writer was faster
                return
            if kind is not None:
                raise InvalidInputError(f"{folder} is a file, and would have to be a folder.") from None
            raise

    def _finish(self, key: str, file: OpenFile, target: str) -> Entry:
        """Have a file be on the disk, and newer than the one that it will replace; close it."""
        now = int(time.time())
        with contextlib.suppress(ObjectNotFoundError):
            now = max(now, self._look_up("write", key, target).modified_s + 1)
        with contextlib.suppress(UnsupportedError), self._errors("write", key):
            file.fsync()
        with contextlib.suppress(UnsupportedError, AccessDeniedError), self._errors("write", key):
            file.utime((min(now, LATEST),) * 2)
        with self._errors("write", key):
            found = self.entry(file.stat())
            file.close()
        return found

    def _place(self, files: Files, part: str, key: str, *, if_absent: bool) -> None:
        """Give a finished file its name: by a link where nothing may have it, as every server asks that of a link."""
        target = self._path(key)
        try:
            with self._errors("write", key):
                (files.link if if_absent else files.rename)(part, target)
        except TransientError as error:
            if not if_absent:
                raise
            raise AmbiguousError(f"{error} It may have been written all the same. Read it, and decide.") from error
        except TerminalError:
            kind = self._kind(target)
            if if_absent and kind is not None:
                raise ObjectExistsError(f"Could not write {self.uri(key)}: it already exists.") from None
            if kind == "folder":
                raise InvalidInputError(f"Could not write {self.uri(key)}: it is a folder.") from None
            raise
        if if_absent:
            with contextlib.suppress(ConnectorError), self._errors("write"):  # what stays is hidden, and swept
                files.remove(part)

    def _remove(self, verb: str, paths: Iterable[str]) -> None:
        """Remove files; what is not there, or is a folder, stays as it is."""

        def remove(path: str) -> None:
            try:
                with self._errors(verb, path.removeprefix(self._root)):
                    self.files.remove(path)
            except ObjectNotFoundError:
                return
            except TerminalError:
                if self._kind(path) != "folder":
                    raise

        for _ in ordered_map(remove, paths, workers=DELETES_IN_FLIGHT):
            pass

    def _walk(self, prefix: str, start: str = "", *, recursive: bool) -> Iterator[ObjectInfo]:
        """The files in a folder whose names start so, unfinished ones too, in order. Symbolic links are left out."""
        try:
            with self._errors("list", prefix):
                found = [self.entry(each) for each in self.files.readdir(f"{self._root}{prefix}" or ".")]
        except ObjectNotFoundError:
            return
        found = [each for each in found if each.name not in (".", "..") and each.name.startswith(start)]
        # "a.txt" comes before "a/b": a folder sorts as its keys do, with the slash.
        for entry in sorted(found, key=lambda each: each.name + "/" * (each.kind == "folder")):
            if entry.kind == "file":
                yield self._info(prefix + entry.name, entry)
            elif entry.kind == "folder" and recursive:
                yield from self._walk(f"{prefix}{entry.name}/", recursive=True)

    def _path(self, key: str) -> str:
        if key.endswith(PART_SUFFIX):
            raise InvalidInputError(
                f"Invalid key {key!r:.200}: names that end in {PART_SUFFIX} are files being written."
            )
        return f"{self._root}{key}"

    def _info(self, key: str, entry: Entry) -> ObjectInfo:
        if entry.kind != "file":
            raise self._no_file(key)
        written = dt.datetime.fromtimestamp(entry.modified_s, dt.UTC)
        return ObjectInfo(key, entry.size, f"{entry.modified_s:x}-{entry.size:x}", None, written)

    def _no_file(self, key: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(f"Could not read {self.uri(key)}: it is not a file.")
