"""The clients: one open connection to a store, over whole keys. ReadClient reads, and StoreClient writes, too.

A connector supplies `uri`, `head` and `get_range` for a store that is only read, and `put`, `list`, `delete` and `copy`
for any other; where the store has them, `stored_checksum`, `presign`, `versions` and `sweep`. `get`, `stream`, `ranges`
and `open` are written here, once, over those. A client knows of no Prefect, no block and no folder:
`ReadFolder` and `StoreFolder` give it keys relative to a folder, `ReadableStore` and `ObjectStore` make operations of
both.
"""

from __future__ import annotations

import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping  # noqa: TC003 (the same)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from typing_extensions import override

from blocks.base.concurrency import ordered_map
from blocks.base.errors import ConnectorError, DamagedError, UnsupportedError
from blocks.base.live import close_live
from blocks.files.local import CHUNK_BYTES
from blocks.stores.checksum import damaged, matches
from blocks.stores.ranged import OPEN_BUFFER_BYTES, InOrder, ranged_file

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator
    from typing import Self

    from blocks.files.local import Source
    from blocks.stores.info import ObjectInfo, Page

READ_AHEAD = 4
"""How many ranges of an object are requested at once."""
CHUNKS_IN_FLIGHT = 12
"""How many chunks or parts of a client's objects may be in memory beyond one of each object under way."""
WRITE_ID = "etlwriteid"
"""Metadata of a conditional write, by which it recognizes its own object when the answer was lost; every store accepts
this name."""


class ReadClient(ABC):
    """One open connection to a store that is read. Keys are whole, and taken as they are: `ReadFolder` checks them.

    A client is built without I/O: what it opens is `@live`, made on first use and dropped by `close`. Several threads
    may share one. Only ConnectorErrors come out of it, and what it sends again by itself is one request at a time: a
    whole operation is retried by whoever calls it.
    """

    def __init__(self) -> None:
        self._live: dict[str, Any] = {}
        self._lock = threading.RLock()
        self.budget = threading.BoundedSemaphore(CHUNKS_IN_FLIGHT)
        """Shared by all reads and writes: what they hold in memory beyond one chunk each."""

    @property
    def server(self) -> str:
        """The server that the store is at, where the addresses of its objects do not say it."""
        return ""

    # What a connector supplies

    @abstractmethod
    def uri(self, key: str = "") -> str:
        """Return the object's address for messages, such as `s3://bucket/folder/key`. It needs no connection."""

    @abstractmethod
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        """Look up what the store knows about an object.

        Raises:
            NotFoundError: There is no such object.
            NoSuchStoreError: There is not even the bucket.
            UnsupportedError: The store keeps no versions, and one is asked for.
        """

    @abstractmethod
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        """Read at most `length` bytes from `start` on, in one request.

        Returns:
            The bytes, none when the object ends before `start`, and what the object is.

        Raises:
            NotFoundError: There is no such object.
            TransientError: The object no longer has the etag `if_match`.
        """

    # What a connector supplies where its store has it

    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:  # noqa: ARG002
        """List the objects of a folder page by page, sorted by key, without folder markers.

        Args:
            prefix: The folder with the slash that ends it, or what keys begin with; "" for the whole store.
            recursive: Whether to list the folders in it, too.

        Raises:
            UnsupportedError: The store has no listing.
        """
        raise UnsupportedError(f"Could not list {self.uri(prefix)}: this store has no listing. Name the objects.")

    def stored_checksum(self, info: ObjectInfo) -> str | None:
        """Look up the checksum of the whole object that `info` describes, where that takes a request of its own.

        Returns:
            Text that `new_digest` understands, such as `crc32c:280c069e`; None where the store keeps none.
        """
        return info.checksum

    def close(self) -> None:
        """Close what the client keeps open. The next call opens it again."""
        close_live(self)

    # What the primitives give together

    def get(self, key: str, start: int = 0, length: int | None = None, *, version: str | None = None) -> bytes:
        """Read the object, or `length` bytes from `start` on, into memory; see `stream`."""
        return b"".join(self.stream(key, start, length, version=version))

    def stream(
        self, key: str, start: int = 0, length: int | None = None, *, version: str | None = None
    ) -> Iterator[bytes]:
        """Read the object in chunks, a few ranges ahead; every chunk is of the same version of it.

        What is read whole is compared with the checksum that the store keeps: what comes in one request before it is
        handed out, more than that before the last chunk is.

        Raises:
            DamagedError: The content does not have that checksum.
            TransientError: The object changed meanwhile.
        """
        if length is not None and length <= 0:
            self.head(key, version)
            return
        wanted = CHUNK_BYTES if length is None else min(CHUNK_BYTES, length)
        first, info = self.get_range(key, start, wanted, version=version)
        stop = info.size if length is None else min(info.size, start + length)
        if start or stop < info.size:
            yield from self._chunks(first, info, start, stop, version)
        elif len(first) == info.size:
            self.verify(first, info)
            yield from filter(None, [first])
        else:
            whole = InOrder(self, info)
            for chunk in self._chunks(first, info, start, stop, version):
                whole.take(whole.position, chunk)
                yield chunk

    def ranges(self, info: ObjectInfo, start: int, stop: int, version: str | None = None) -> Iterator[bytes]:
        """Read the bytes from `start` to `stop` of the version that `info` describes, several ranges at once."""

        def get(at: int) -> bytes:
            length = min(CHUNK_BYTES, stop - at)
            content = self.get_range(info.key, at, length, if_match=info.etag, version=version)[0]
            if len(content) != length:
                raise DamagedError(
                    f"Could not read {self.uri(info.key)}: of {length} bytes that were asked for {len(content)} came."
                )
            return content

        return ordered_map(get, range(start, stop, CHUNK_BYTES), workers=READ_AHEAD, budget=self.budget)

    def open(self, key: str, version: str | None = None, *, known: ObjectInfo | None = None) -> BinaryIO:
        """Open the object as a seekable file, read by ranges as they are needed; one version of it, to the end.

        A small object is read, and compared with its checksum, at once. A larger one that is read from its start to its
        end is compared by the read that reaches the end. The end of an object that is read in another order, which is
        where Parquet tells all that its pages do not, is requested twice and has to be the same.

        Args:
            key: The object.
            version: The version, where the store keeps several.
            known: What the object was when it was listed. It is not looked up again, and has to be that still.

        Raises:
            DamagedError: Also from a read: the content does not have the checksum that the store keeps.
            TransientError: Also from a read: the object is not what it was any more.
        """
        info = known or self.head(key, version)
        if info.size > OPEN_BUFFER_BYTES:
            return ranged_file(self, info, version)
        content = b"".join(self.ranges(info, 0, info.size, version))
        self.verify(content, info)
        return io.BytesIO(content)

    def verify(self, content: bytes, info: ObjectInfo) -> None:
        """Compare the whole content of an object with the checksum that the store keeps, if it keeps one.

        Raises:
            DamagedError: It does not have that checksum.
        """
        told = info.checksum
        if told is None or not matches(content, told):
            # What looks like a checksum in an answer may be none: with a key of KMS, S3's etag is not an MD5.
            stored = self.stored_checksum(info)
            if stored is not None and (stored == told or not matches(content, stored)):
                raise damaged(self.uri(info.key), stored)

    def _chunks(self, first: bytes, info: ObjectInfo, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        if first:
            yield first
        yield from self.ranges(info, start + len(first), stop, version)

    def _refuse_version(self, version: str | None) -> None:
        if version is not None:
            raise UnsupportedError(f"Could not read a version of an object in {self.uri()}: this store keeps none.")


@dataclass(frozen=True)
class WriteOptions:
    """How an object is to be written.

    Attributes:
        if_absent: Only when there is no such object yet.
        if_match: Only when the object still has this etag.
        content_type: Its media type.
        metadata: Names and values to keep beside it.
        tags: Names and values that the store can filter and bill by.
    """

    if_absent: bool = False
    if_match: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = None

    @property
    def conditional(self) -> bool:
        """Whether the write may be refused."""
        return self.if_absent or self.if_match is not None


AS_IT_IS = WriteOptions()


class WriteArguments(TypedDict, total=False):
    """WriteOptions as keyword arguments, which editors and type checkers know them by."""

    if_absent: bool
    if_match: str | None
    content_type: str | None
    metadata: Mapping[str, str] | None
    tags: Mapping[str, str] | None


class StoreClient(ReadClient):
    """One open connection to a store that is read and written; its `list` is its own."""

    # What a connector supplies

    @abstractmethod
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        """Write an object of any size, all of it or nothing; large ones in several requests.

        A conditional write whose answer was lost recognizes its own object.

        Raises:
            AlreadyExistsError: `if_absent` or `if_match` did not hold.
            UnsupportedError: The store cannot keep something that `options` has.
        """

    @abstractmethod
    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]: ...

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> int:
        """Delete objects; those that are not there are no error.

        Returns:
            How many keys are gone now, each counted once.
        """

    @abstractmethod
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        """Copy an object on the store's own side, with what is kept beside its content.

        Args:
            source_key: The object.
            target_key: The key of the copy.
            target: A client of the same kind for the store that gets the copy; by default this one.
        """

    # What a connector supplies where its store has it

    def presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:  # noqa: ARG002
        """Sign a URL with which anybody can read ("GET") or write ("PUT") the object until it expires.

        Raises:
            UnsupportedError: The store has no presigned URLs.
        """
        raise UnsupportedError(f"Could not sign a URL of {self.uri(key)}: this store has no presigned URLs.")

    def versions(self, key: str) -> Page:
        """List the versions of an object that the store still has, the newest first.

        Raises:
            UnsupportedError: The store keeps no versions.
        """
        raise UnsupportedError(f"Could not list the versions of {self.uri(key)}: this store keeps none.")

    def sweep(self, prefix: str, older_than: dt.timedelta) -> int:  # noqa: ARG002
        """Remove what uploads of killed processes left in a folder.

        Returns:
            How many uploads were removed; 0 where the store itself forgets what was not finished.
        """
        return 0

    # For a connector's conditional writes

    def _write_id(self, key: str) -> str | None:  # noqa: ARG002
        """Return the name that the conditional write gave itself which made the object; None where it has none."""
        return None

    def _holds(self, key: str, write_id: str) -> bool:
        """Tell whether the object is the one that this write made, though its answer was lost."""
        try:
            return self._write_id(key) == write_id
        except ConnectorError:
            return False
