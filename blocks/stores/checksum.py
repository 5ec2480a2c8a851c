"""Checksums of whole objects, as the stores keep them.

They are text: `md5:<hex>`, `crc32c:<hex>` or, of an object that was written in parts, `md5/8388608:<hex>`.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from typing import TYPE_CHECKING, Protocol

from blocks.base.errors import DamagedError
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer


class Digest(Protocol):
    """A checksum that grows with the content, such as hashlib's objects."""

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""


class Crc32:
    """CRC-32 as zlib, and S3's `ChecksumCRC32`, count it.

    >>> crc = Crc32()
    >>> crc.update(b"hello")
    >>> crc.hexdigest()
    '3610a686'
    """

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        return f"{self._value:08x}"


class Crc32c:
    """CRC-32C as Google Cloud Storage counts it; its own library does the work."""

    def __init__(self) -> None:
        self._extend = require("google_crc32c", extra="gcs").extend
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""
        self._value = self._extend(self._value, bytes(data))

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        return f"{self._value:08x}"


class Crc64Nvme:
    """CRC-64/NVME as S3 counts it of every object that came without a checksum; AWS's own library does the work."""

    def __init__(self) -> None:
        self._extend = require("awscrt.checksums", extra="s3").crc64nvme
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""
        self._value = self._extend(data, self._value)

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        return f"{self._value:016x}"


class InParts:
    """The checksum of the checksums of an object's parts, as S3 keeps it of what was written in several requests.

    >>> parts = InParts("md5", [3])
    >>> parts.update(b"abcdef")
    >>> parts.hexdigest() == hashlib.md5(hashlib.md5(b"abc").digest() + hashlib.md5(b"def").digest()).hexdigest()
    True
    """

    def __init__(self, algorithm: str, sizes: Sequence[int]) -> None:
        self._algorithm = algorithm
        self._sizes = itertools.chain(sizes, itertools.repeat(sizes[-1]))
        self._all, self._part, self._left = new_digest(algorithm), new_digest(algorithm), next(self._sizes)

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""
        view = memoryview(data)
        while view:
            if not self._left:
                self._finish_part()
                self._part, self._left = new_digest(self._algorithm), next(self._sizes)
            piece = view[: self._left]
            self._part.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        """Return the checksum of all bytes, which are all that there are."""
        self._finish_part()
        return self._all.hexdigest()

    def _finish_part(self) -> None:
        self._all.update(bytes.fromhex(self._part.hexdigest()))


def new_digest(checksum: str) -> Digest:
    """Make an empty digest for a checksum, or for the name of an algorithm.

    Args:
        checksum: `algorithm`, or `algorithm:value`. The algorithms are md5, sha1, sha256, crc32, crc32c and crc64nvme;
            `md5/8388608` is that of the parts of an object, the last of which may be shorter, and `md5/5,7` that of
            parts of these lengths.
    """
    algorithm, _, parts = checksum.partition(":")[0].partition("/")
    if parts:
        return InParts(algorithm, [int(size) for size in parts.split(",")])
    if algorithm == "crc32":
        return Crc32()
    if algorithm == "crc32c":
        return Crc32c()
    if algorithm == "crc64nvme":
        return Crc64Nvme()
    return hashlib.new(algorithm, usedforsecurity=False)


def value_of(checksum: str) -> str:
    """Return the value of a checksum, in hexadecimal digits."""
    return checksum.partition(":")[2]


def matches(content: bytes, checksum: str) -> bool:
    """Tell whether the content has this checksum.

    >>> matches(b"hello", "crc32:3610a686"), matches(b"hallo", "crc32:3610a686")
    (True, False)
    """
    digest = new_digest(checksum)
    digest.update(content)
    return digest.hexdigest() == value_of(checksum)


def damaged(place: str, checksum: str) -> DamagedError:
    """Return the error for content that lacks the checksum which is stored with it."""
    algorithm = checksum.partition(":")[0].partition("/")[0]
    return DamagedError(
        f"Could not read {place}: its content does not have the {algorithm} that is stored with it. "
        "Either it was damaged on its way, then the next attempt is right, or where it is stored."
    )
