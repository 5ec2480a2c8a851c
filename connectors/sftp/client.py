"""The files of a folder on an SFTP server, as the client of an object store.

A file is written beside its place and renamed, so that a reader sees the old one or the new one. Version 3 of the
protocol, which OpenSSH speaks, tells times in whole seconds: a new version is at least a second newer than the old one,
for its etag to be another. https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02
"""

from __future__ import annotations

import contextlib
import datetime as dt
import posixpath
import stat
import uuid
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from blocks.base.errors import (
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.base.live import live
from blocks.files.local import PART_SUFFIX, chunks_of
from blocks.stores.client import AS_IT_IS, ObjectInfo, StoreClient, pages
from connectors.sftp import requests
from connectors.sftp.connection import Connection
from connectors.sftp.errors import sftp_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from blocks.files.local import Source
    from blocks.stores.client import Page, WriteOptions
    from connectors.sftp.connection import Login

REQUESTS_IN_FLIGHT = 100


class SftpStoreClient(StoreClient):
    """A folder on an SFTP server; it is made by the first write.

    Args:
        basepath: The folder: absolute, or relative to the folder in which the login starts.
        login: Where to log in, and how.
    """

    def __init__(self, basepath: str, login: Login) -> None:
        super().__init__()
        self._login = login
        self._root = basepath if basepath.endswith("/") or not basepath else f"{basepath}/"

    @property
    @override
    def server(self) -> str:
        return self._login.username or ""  # whose folder a relative basepath starts from

    @override
    def uri(self, key: str = "") -> str:
        """Return the file's address, such as `sftp://host:22/folder/orders.csv`; `~` is where the login starts."""
        root = self._root if self._root.startswith("/") else f"/~/{self._root}"
        return f"sftp://{self._login.host}:{self._login.port}{root}{key}"

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        self._refuse_version(version)
        with self._errors("read", key):
            connection = self._connection
            return self._info(key, connection.run(connection.sftp.stat(self._path(key))))

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        self._refuse_version(version)
        with self._errors("read", key):
            connection = self._connection
            found, content = connection.run(requests.read(connection.sftp, self._path(key), start, length))
        info = self._info(key, found)
        if if_match is not None and info.etag != if_match:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.")
        return content, info

    @override
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        if options.metadata or options.tags:
            raise UnsupportedError(f"Could not write {self.uri(key)}: files keep no metadata and no tags.")
        if options.if_match is not None:
            raise UnsupportedError(
                f"Could not write {self.uri(key)}: SFTP cannot compare and replace, as if_match does."
            )
        target = self._path(key)
        part = posixpath.join(posixpath.dirname(target), f".{uuid.uuid4().hex}{PART_SUFFIX}")
        with self._errors("write", key):
            connection = self._connection
            file = connection.run(requests.create(connection.sftp, part))
        try:
            for chunk in chunks_of(source):
                with self._errors("write", key):
                    connection.run(file.write(chunk))
            with self._errors("write", key):
                info = self._info(key, connection.run(requests.finish(file, connection.sftp, target)))
            self._place(connection, part, key, if_absent=options.if_absent)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to raise
                connection.run(requests.discard(file, connection.sftp, part))
            raise
        return info

    def _place(self, connection: Connection, part: str, key: str, *, if_absent: bool) -> None:
        """Give a finished file its name."""
        put = requests.link if if_absent else requests.rename
        try:
            with self._errors("write", key):
                connection.run(put(connection.sftp, part, self._path(key)))
        except TransientError as error:
            if not if_absent:
                raise
            raise AmbiguousError(f"{error} It may have been written all the same. Read it, and decide.") from error

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        found = self._walk(prefix, recursive=recursive)
        yield from pages(info for info in found if not info.key.endswith(PART_SUFFIX))

    @override
    def delete(self, keys: Iterable[str]) -> int:
        unique = sorted(set(keys))
        for at in range(0, len(unique), REQUESTS_IN_FLIGHT):
            paths = [self._path(key) for key in unique[at : at + REQUESTS_IN_FLIGHT]]
            with self._errors("delete"):
                connection = self._connection
                connection.run(requests.remove(connection.sftp, paths))
        return len(unique)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        # Through this process: version 3 knows no copy, and the target may be on another server.
        (target or self).put(target_key, self.stream(source_key))

    @override
    def sweep(self, prefix: str, older_than: dt.timedelta) -> int:
        before = dt.datetime.now(dt.UTC) - older_than
        parts = [info for info in self._walk(prefix, recursive=True) if info.key.endswith(PART_SUFFIX)]
        old = [f"{self._root}{info.key}" for info in parts if info.last_modified <= before]
        with self._errors("sweep", prefix):
            connection = self._connection
            connection.run(requests.remove(connection.sftp, old))
        return len(old)

    # The connection

    @property
    def _connection(self) -> Connection:
        with self._lock:
            if self._opened.is_lost:
                self.close()
            return self._opened

    @live
    def _opened(self) -> Connection:
        return Connection(self._login)

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "asyncssh":
                raise sftp_error(verb, self.uri(key), error) from error
            raise

    def _path(self, key: str) -> str:
        if key.endswith(PART_SUFFIX):
            raise InvalidInputError(
                f"Invalid key {key!r:.200}: names that end in {PART_SUFFIX} are files being written."
            )
        return f"{self._root}{key}"

    def _info(self, key: str, found: Any) -> ObjectInfo:
        if not stat.S_ISREG(found.permissions or stat.S_IFREG):
            raise ObjectNotFoundError(f"Could not read {self.uri(key)}: it is not a file.")
        written = dt.datetime.fromtimestamp(found.mtime, dt.UTC)
        return ObjectInfo(key, found.size, f"{found.mtime:x}-{found.size:x}", None, written)

    def _walk(self, prefix: str, *, recursive: bool) -> Iterator[ObjectInfo]:
        """The files in a folder, unfinished ones too, in the order of their keys. Symbolic links are left out."""
        with self._errors("list", prefix):
            connection = self._connection
            found = connection.run(requests.names(connection.sftp, f"{self._root}{prefix}" or "."))
        folders = {each.filename for each in found if stat.S_ISDIR(each.attrs.permissions or 0)}
        # "a.txt" comes before "a/b": a folder sorts as its keys do, with the slash.
        for each in sorted(found, key=lambda each: each.filename + "/" * (each.filename in folders)):
            if each.filename in folders:
                if recursive:
                    yield from self._walk(f"{prefix}{each.filename}/", recursive=True)
            elif stat.S_ISREG(each.attrs.permissions or stat.S_IFREG):
                yield self._info(prefix + each.filename, each.attrs)
