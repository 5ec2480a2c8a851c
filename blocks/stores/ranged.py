"""An object that is read in order is compared with the checksum its store keeps, also where it is read as a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from blocks.base.errors import DamagedError
from blocks.files.local import CHUNK_BYTES
from blocks.stores.checksum import damaged, new_digest, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

    from blocks.stores.checksum import Digest
    from blocks.stores.info import ObjectInfo

OPEN_BUFFER_BYTES = 2**20
"""What an open file reads at least; a smaller object is read at once."""
FOOTER_BYTES = OPEN_BUFFER_BYTES + 8
"""A read that ends so near to an object's end may be one of its footer: behind that stand its length and a magic."""


class Ranges(Protocol):
    """What reading in order needs of a `ReadClient`."""

    def uri(self, key: str = "") -> str:
        """Return the address of an object, for messages."""

    def ranges(self, info: ObjectInfo, start: int, stop: int, version: str | None = None) -> Iterator[bytes]:
        """Read the bytes from `start` to `stop`, in order."""

    def stored_checksum(self, info: ObjectInfo) -> str | None:
        """Look up the checksum of the whole object."""


def ranged_file(client: Ranges, info: ObjectInfo, version: str | None) -> BinaryIO:
    """Open the version of an object that `info` describes as a seekable file, read by ranges as they are needed."""
    return cast("BinaryIO", io.BufferedReader(_Ranged(client, info, version), OPEN_BUFFER_BYTES))


class InOrder:
    """The checksum of an object that is read from its start on, compared with the store's once the end is reached.

    What is read a second time is passed over; after a gap there is nothing to compare any more.

    Attributes:
        position: Up to where the object was read without a gap.
    """

    def __init__(self, client: Ranges, info: ObjectInfo) -> None:
        self._client, self._info = client, info
        self._expected: str | None = None
        self._digest: Digest | None = None
        self.position = 0

    def take(self, start: int, chunk: bytes) -> None:
        """Take in what was read from `start` on.

        Raises:
            DamagedError: It is the last of the object, and all of it does not have the store's checksum.
        """
        if not start <= self.position < start + len(chunk):
            return
        if self.position == 0:
            self._expected = self._client.stored_checksum(self._info)
            self._digest = new_digest(self._expected) if self._expected else None
        if self._digest is not None:
            self._digest.update(memoryview(chunk)[self.position - start :])
        self.position = start + len(chunk)
        if self.position < self._info.size or self._digest is None or self._expected is None:
            return
        if self._digest.hexdigest() != value_of(self._expected):
            raise damaged(self._client.uri(self._info.key), self._expected)


class _Ranged(io.RawIOBase):
    """One version of an object as a raw file; each read is a ranged request, a long one several at a time."""

    def __init__(self, client: Ranges, info: ObjectInfo, version: str | None) -> None:
        self._client, self._info, self._version, self._at = client, info, version, 0
        self._whole = InOrder(client, info)

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
        for chunk in self._chunks(start, min(start + len(view), self._info.size)):
            view[self._at - start : self._at - start + len(chunk)] = chunk
            self._at += len(chunk)
        return self._at - start

    def readall(self) -> bytes:
        rest = b"".join(self._chunks(self._at, self._info.size))
        self._at += len(rest)
        return rest

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        chunks = self._client.ranges(self._info, start, stop, self._version)
        if start > self._whole.position and stop - start <= CHUNK_BYTES and stop > self._info.size - FOOTER_BYTES:
            content = b"".join(chunks)
            if content != b"".join(self._client.ranges(self._info, start, stop, self._version)):
                raise DamagedError(
                    f"Could not read {self._client.uri(self._info.key)}: two requests for the same bytes gave two "
                    "contents. The network or a proxy changes what it carries."
                )
            yield content
            return
        for chunk in chunks:
            self._whole.take(start, chunk)
            yield chunk
            start += len(chunk)
