"""Checksums of whole objects, as the stores keep them: text such as `md5:<hex>` or `crc32c:<hex>`."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Protocol

from blocks.base.errors import DamagedError
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Digest(Protocol):
    """A checksum that grows with the content, such as hashlib's objects."""

    def update(self, data: bytes, /) -> None:
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

    def update(self, data: bytes, /) -> None:
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

    def update(self, data: bytes, /) -> None:
        """Take in the next bytes."""
        self._value = self._extend(self._value, data)

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        return f"{self._value:08x}"


def new_digest(algorithm: str) -> Digest:
    """Make an empty digest: "md5", "sha1", "sha256", "crc32" or "crc32c"."""
    if algorithm == "crc32":
        return Crc32()
    if algorithm == "crc32c":
        return Crc32c()
    return hashlib.new(algorithm, usedforsecurity=False)


def verified(chunks: Iterable[bytes], expected: str, place: str) -> Iterator[bytes]:
    """Pass on the chunks of an object, and compare their checksum once the last one was taken.

    Raises:
        DamagedError: It is not the expected one.
    """
    algorithm, _, value = expected.partition(":")
    digest = new_digest(algorithm)
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != value:
        raise DamagedError(
            f"Could not read {place}: its content does not have the {algorithm} that is stored with it. "
            "Either it was damaged on its way, then the next attempt is right, or where it is stored."
        )
