"""An answer that holds a file, or a range of one, and what it says of the file."""

from __future__ import annotations

import datetime as dt
import gzip
import re
import sys
import zlib
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from blocks.base.errors import DamagedError, UnsupportedError
from blocks.stores.info import ObjectInfo
from connectors.http.spooled import spooled

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import httpx

WHOLE, PART, BEYOND_THE_END = 200, 206, 416

READ_BYTES = 2**20
OWN_CODINGS = {"gzip": (".gz", ".tgz"), "x-gzip": (".gz", ".tgz"), "br": (".br",), "zstd": (".zst",)}
"""Content-Encodings by the names of files that are compressed themselves: a server may say so of what it stores."""
GZIP = {"gzip", "x-gzip"}
SETTLED_S = 2.0
"""A file may be written again within the second that its Last-Modified tells."""


class Answer:
    """An answer to a request for a file.

    Args:
        response: The answer, whose body has not been read.
        key: The file.
        place: What messages call it.

    Attributes:
        size: The file's length in bytes; None where only reading it tells.

    Raises:
        DamagedError: It is not what was asked for.
        UnsupportedError: Its body is not the file, and cannot be made it.
    """

    def __init__(self, response: httpx.Response, key: str, place: str) -> None:
        self._response, self._key, self._place = response, key, place
        headers = response.headers
        coding = headers.get("Content-Encoding", "").strip().lower()
        own = key.partition("?")[0].lower().endswith(OWN_CODINGS.get(coding, ()))
        self.coding = "" if own or coding == "identity" else coding
        self._at = 0
        if response.status_code == WHOLE:
            self.size = None if self.coding else _number(headers.get("Content-Length", ""))
        else:
            found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip())
            if found is None or (found[1] is None) == self.is_part:
                raise DamagedError(f"Could not read {place}: the server sent a range without saying which.")
            self._at, self.size = int(found[1] or 0), _number(found[2])
        self._left = self._decoded()

    @property
    def is_part(self) -> bool:
        """Whether its body is a range of the file."""
        return self._response.status_code == PART

    @property
    def is_beyond_the_end(self) -> bool:
        """Whether the file ends before the range that was asked for."""
        return self._response.status_code == BEYOND_THE_END

    @property
    def is_usable(self) -> bool:
        """Whether its body is what a range of the file, or the whole of it, can be made of."""
        return not self.is_part or not (self.coding or self.size is None)

    @property
    def etag(self) -> str | None:
        """The version of the file: its strong ETag, else its Last-Modified and length; None where it has neither."""
        strong: str = self._response.headers.get("ETag", "")
        if strong.startswith('"'):
            return strong
        modified = self._time("Last-Modified")
        return None if modified is None or self.size is None else f"{int(modified.timestamp()):x}-{self.size:x}"

    @property
    def proof(self) -> str | None:
        """The etag, if no other content of the file can have it."""
        modified, now = self._time("Last-Modified"), self._time("Date") or dt.datetime.now(dt.UTC)
        if self.etag is None or self.etag.startswith('"') or modified is None:
            return self.etag
        return self.etag if (now - modified).total_seconds() >= SETTLED_S else None

    def is_of(self, etag: str) -> bool:
        """Tell whether it is of the version of the file that has this etag, as far as it says."""
        modified = self._time("Last-Modified")
        if self.size is None and modified is not None and not etag.startswith('"'):
            return etag.startswith(f"{int(modified.timestamp()):x}-")
        return self.etag == etag

    def chunks(self, start: int, length: int | None) -> Iterator[bytes]:
        """Read the file from `start` on, at most `length` bytes, as far as the body has them.

        Raises:
            DamagedError: The body has fewer bytes than it should.
        """
        stop = sys.maxsize if length is None else start + length
        if self.is_beyond_the_end:
            return
        if self._at > start:
            raise DamagedError(f"Could not read {self._place}: the server sent another range than it was asked for.")
        for chunk in self._left:
            piece = chunk[max(0, start - self._at) : max(0, stop - self._at)]
            self._at += len(chunk)
            if piece:
                yield piece
            if self._at >= stop:
                return
        if self.size is not None and self._at < min(stop, self.size):
            raise DamagedError(f"Could not read {self._place}: of {self.size} bytes {self._at} came.")

    def info(self) -> ObjectInfo:
        """Return what it says of the file, which takes reading the file to its end where it does not say its length."""
        if self.size is None:
            self.size = self._at + sum(map(len, self._left))
        modified = self._time("Last-Modified") or self._time("Date") or dt.datetime.now(dt.UTC)
        media_type = self._response.headers.get("Content-Type")
        return ObjectInfo(self._key, self.size, self.etag, None, modified, content_type=media_type)

    def _decoded(self) -> Iterator[bytes]:
        raw = self._raw()
        if not self.coding:
            yield from raw
            return
        if self.coding not in GZIP:
            raise UnsupportedError(
                f"Could not read {self._place}: the server compresses it ({self.coding}), though it is asked not to."
            )
        try:
            with spooled(raw) as file, gzip.GzipFile(fileobj=file) as content:
                yield from iter(lambda: content.read(READ_BYTES), b"")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedError(f"Could not read {self._place}: what the server compressed is damaged.") from error

    def _raw(self) -> Generator[bytes]:
        headers = self._response.headers
        if "Content-Length" not in headers and "chunked" not in headers.get("Transfer-Encoding", "").lower():
            raise UnsupportedError(
                f"Could not read {self._place}: the server does not say where the file ends (it sends no "
                "Content-Length), so one that was cut off would look whole."
            )
        yield from self._response.iter_raw(READ_BYTES)

    def _time(self, name: str) -> dt.datetime | None:
        try:
            time: dt.datetime = parsedate_to_datetime(self._response.headers.get(name, ""))
        except (ValueError, OverflowError):
            return None
        return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text, re.ASCII) else None
