"""A folder of a store, seen with keys relative to it: ReadFolder to read, StoreFolder to read and write."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prefect.logging import get_logger
from typing_extensions import override

from blocks.base.names import key_text
from blocks.stores.client import AS_IT_IS
from blocks.stores.keys import folder_prefix, is_key, join_key

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from blocks.base.names import Key
    from blocks.files.local import Source
    from blocks.stores.client import ReadClient, StoreClient, WriteOptions
    from blocks.stores.info import ObjectInfo, Page

ODD_KEYS_NAMED = 5
"""A warning names so many keys of a page."""


class ReadFolder:
    """The objects of a folder, with the methods of `ReadClient` over keys relative to it.

    Keys are checked and joined here, and taken off what comes back. The client is asked for at each call, so that a
    folder, and a scan over it, outlives the connection that was open when it was made.
    """

    def __init__(self, connect: Callable[[], ReadClient], folder: str = "") -> None:
        self._connect, self._folder = connect, folder
        self._prefix = f"{folder}/" if folder else ""

    @property
    def client(self) -> ReadClient:
        """The client that is open now."""
        return self._connect()

    def whole_key(self, key: Key) -> str:
        """Return the key in the store of a key in the folder.

        Raises:
            InvalidInputError: It is not a key, or could leave the folder.
        """
        return join_key(self._folder, key_text(key))

    def uri(self, key: Key = "") -> str:
        """Return the address of an object, or of the folder, for messages."""
        return self.client.uri(self.whole_key(key) if key else self._folder)

    def place(self, key: Key = "") -> str:
        """Return the address of an object, or of the folder, that no other server has."""
        return f"{self.client.server} {self.uri(key)}".strip()

    def head(self, key: Key, version: str | None = None) -> ObjectInfo:
        """Look up what the store knows about an object."""
        return self._relative(self.client.head(self.whole_key(key), version))

    def get(self, key: Key, start: int = 0, length: int | None = None, *, version: str | None = None) -> bytes:
        """Read the object, or a range of it, into memory."""
        return self.client.get(self.whole_key(key), start, length, version=version)

    def stream(
        self, key: Key, start: int = 0, length: int | None = None, *, version: str | None = None
    ) -> Iterator[bytes]:
        """Read the object, or a range of it, in chunks."""
        return self.client.stream(self.whole_key(key), start, length, version=version)

    def open(self, key: Key, version: str | None = None, *, known: ObjectInfo | None = None) -> BinaryIO:
        """Open the object as a seekable file; `known` is what it was when it was listed, and has to be still."""
        whole = self.whole_key(key)
        return self.client.open(whole, version, known=known and replace(known, key=whole))

    def list(self, folder: Key = "", *, recursive: bool = True) -> Iterator[Page]:
        """List the objects in a folder of this one page by page, sorted by key.

        Objects whose keys other programs made, and that no method here takes, are left out with a warning.
        """
        return self._pages(folder_prefix(key_text(folder)), recursive=recursive)

    def beginning(self, name: str) -> Iterator[Page]:
        """List the objects whose keys begin so, page by page, sorted by key."""
        return self._pages(join_key("", name), recursive=True)

    def _pages(self, prefix: str, *, recursive: bool) -> Iterator[Page]:
        for page in self.client.list(self._prefix + prefix, recursive=recursive):
            infos = [self._relative(info) for info in page]
            if odd := [info.key for info in infos if not is_key(info.key)]:
                named = [f"{key!r:.200}" for key in odd[:ODD_KEYS_NAMED]] + ["..."] * (len(odd) > ODD_KEYS_NAMED)
                get_logger(__name__).warning(
                    "%s: %d objects are left out, because their keys have an empty segment, '.', '..' or a control "
                    "character: %s",
                    self.uri(),
                    len(odd),
                    ", ".join(named),
                )
                infos = [info for info in infos if info.key not in set(odd)]
            yield infos

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, key=info.key.removeprefix(self._prefix)) if self._prefix else info


class StoreFolder(ReadFolder):
    """The objects of a folder, with the methods of `StoreClient` over keys relative to it."""

    def __init__(self, connect: Callable[[], StoreClient], folder: str = "") -> None:
        super().__init__(connect, folder)
        self._connect_to_write = connect

    @property
    @override
    def client(self) -> StoreClient:
        """The client that is open now."""
        return self._connect_to_write()

    def put(self, key: Key, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        """Write an object of any size, all of it or nothing."""
        return self._relative(self.client.put(self.whole_key(key), source, options))

    def delete(self, keys: Iterable[Key]) -> int:
        """Delete objects, and return how many keys are gone now."""
        return self.client.delete([self.whole_key(key) for key in keys])  # all are checked before the first is gone

    def copy(self, source_key: Key, target_key: Key, target: StoreFolder | None = None) -> None:
        """Copy an object on the store's own side, by default within this folder."""
        to = target or self
        self.client.copy(self.whole_key(source_key), to.whole_key(target_key), to.client)

    def presign(self, key: Key, method: str, expires_in: dt.timedelta) -> str:
        """Sign a URL of an object."""
        return self.client.presign(self.whole_key(key), method, expires_in)

    def versions(self, key: Key) -> Page:
        """List the versions of an object, the newest first."""
        return [self._relative(info) for info in self.client.versions(self.whole_key(key))]

    def sweep(self, older_than: dt.timedelta) -> int:
        """Remove what uploads of killed processes left in the folder, and return how many were removed."""
        return self.client.sweep(self._prefix, older_than)
