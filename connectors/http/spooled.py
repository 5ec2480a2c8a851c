"""A stream as a seekable file: what was read of it is kept in a temporary one."""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from collections.abc import Generator

    from _typeshed import WriteableBuffer

IN_MEMORY_BYTES = 2**20
"""A shorter file is kept in memory."""


def spooled(chunks: Generator[bytes]) -> BinaryIO:
    """Return a stream as a file, read from the stream only as far as it is read itself."""
    return cast("BinaryIO", io.BufferedReader(_Spooled(chunks), IN_MEMORY_BYTES))


class _Spooled(io.RawIOBase):
    def __init__(self, chunks: Generator[bytes]) -> None:
        self._chunks, self._at, self._length = chunks, 0, 0
        self._kept = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 (closed with this file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._fetch(None)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._fetch(self._at + len(view))
        self._kept.seek(self._at)
        content = self._kept.read(len(view))
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._chunks.close()
        self._kept.close()
        super().close()

    def _fetch(self, stop: int | None) -> None:
        """Take in the stream up to there, or to its end."""
        while stop is None or self._length < stop:
            chunk = next(self._chunks, None)
            if chunk is None:
                return
            self._kept.seek(self._length)
            self._length += self._kept.write(chunk)
