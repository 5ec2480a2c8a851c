"""What CSV and JSON Lines share: bytes in, blocks that end with a whole record, parsed by two threads in order."""

from __future__ import annotations

import codecs
import contextlib
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from blocks.arrow.rejects import bad_row_error
from blocks.base.errors import ConnectorError, InvalidInputError
from blocks.files.compression import DAMAGED, MAGIC, decompressed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from typing import BinaryIO

    import pyarrow as pa

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import Compression, OnError

BLOCK_BYTES = 4 * 2**20
"""How much text is parsed at once: large enough that Arrow's per-call costs vanish, small enough for any machine."""

RECORD_BYTES = 16 * 2**20
"""A longer record is taken for a quote that was never closed."""

WORKERS = 2


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records of a text file, and the file's line (from 1) on which they start."""

    data: memoryview | bytes
    line: int
    suspect: bool = False
    """Whether it holds something that Arrow's reader takes and this package does not."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that was refused, as it stood in the file."""

    line: int
    column: str | None
    reason: str
    text: str


Parsed: TypeAlias = "tuple[pa.RecordBatch, list[BadRow]]"


@dataclass(frozen=True)
class TextSource:
    """A text file that can be opened again and again.

    Args:
        open: Opens it from the start.
        name: What messages call it.
        compression: How its bytes are compressed.
        encoding: How its characters are encoded.
    """

    open: Callable[[], BinaryIO]
    name: str
    compression: Compression = "none"
    encoding: str = "utf-8"

    def chunks(self) -> Generator[bytes]:
        """Read the text in UTF-8 without a byte order mark, in chunks of at least BLOCK_BYTES but for the last.

        Raises:
            InvalidInputError: It is damaged, cut short, or in another compression or encoding.
        """
        decoder = None if _is_utf8(self.encoding) else codecs.getincrementaldecoder(self.encoding)()
        first = True
        with contextlib.closing(self.open()) as raw:
            for data in self._decompressed(raw):
                chunk = data if decoder is None else self._decode(decoder, data, last=False)
                yield chunk.removeprefix(codecs.BOM_UTF8) if first else chunk
                first = False
            if decoder is not None and (rest := self._decode(decoder, b"", last=True)):
                yield rest

    def _decompressed(self, raw: BinaryIO) -> Iterator[bytes]:
        stream: Any = raw
        if self.compression != "none":
            with self._errors():
                stream = decompressed(raw, self.compression, self.name)
        first = True
        while data := self._read(stream):
            if first and self.compression == "none":
                self._check_magic(data)
            first = False
            yield data
        while raw.read(BLOCK_BYTES):  # a decompressor may stop before the end, where the file's checksum is compared
            pass

    def _read(self, stream: Any) -> bytes:
        parts: list[bytes] = []
        missing = BLOCK_BYTES
        with self._errors():
            while missing > 0 and (data := stream.read(missing)):
                parts.append(data)
                missing -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise  # also an OSError, some of them
        except DAMAGED as error:
            if self.compression == "none":
                raise
            raise InvalidInputError(
                f"{self.name} is not a valid {self.compression} file (truncated or corrupt): {error}. "
                "Write it again, or pass its compression."
            ) from None

    def _check_magic(self, data: bytes) -> None:
        for magic, compression in MAGIC.items():
            if data.startswith(magic):
                raise InvalidInputError(
                    f"{self.name} is {compression} data, which its name does not say. Pass compression={compression!r}."
                )

    def _decode(self, decoder: codecs.IncrementalDecoder, data: bytes, *, last: bool) -> bytes:
        try:
            return decoder.decode(data, last).encode()
        except UnicodeError:
            raise InvalidInputError(
                f"{self.name} is not {self.encoding} text. Pass the encoding in which it was written."
            ) from None


def split_blocks(
    chunks: Iterable[bytes],
    *,
    line: int,
    cut: Callable[[bytes], tuple[int, bool]],
    endless: Callable[[int], InvalidInputError],
    line_end: bytes = b"\n",
) -> Iterator[Block]:
    """Cut `chunks` into blocks of whole records.

    Args:
        chunks: The text, from the start of a record.
        line: The line of that start.
        cut: Takes text that starts with a record; returns where its last whole record ends (0 where none does), and
            whether the text up to there is suspect.
        endless: Makes the error for a record, by its line, that does not end.
        line_end: What ends its lines.

    Raises:
        InvalidInputError: A record does not end.
    """
    rest = b""
    for chunk in chunks:
        text = rest + chunk if rest else chunk
        end, suspect = cut(text)
        if end == 0 and len(text) > RECORD_BYTES:
            raise endless(line)
        if end:
            data = memoryview(text)[:end]
            yield Block(data, line, suspect)
            line += count_lines(data)
        rest = text[end:]
    if rest:
        # A line end makes it whole, unless a quote is open.
        end, suspect = cut(rest + line_end)
        if end <= len(rest):
            raise endless(line + count_lines(memoryview(rest)[:end]))
        yield Block(rest, line, suspect)


def without_footer(chunks: Generator[bytes], lines: int) -> Generator[bytes]:
    """Return the text without its last lines, of which empty ones do not count."""
    if not lines:
        yield from chunks
        return
    held = b""
    with contextlib.closing(chunks):
        for chunk in chunks:
            held += chunk
            if end := _before_footer(held, lines):
                yield held[:end]
                held = held[end:]


def _before_footer(text: bytes, lines: int) -> int:
    end = len(text)
    for _ in range(lines):
        while text[end - 1 : end].isspace():
            end -= 1
        end = max(text.rfind(b"\n", 0, end), text.rfind(b"\r", 0, end)) + 1
    return end


def line_ends(data: memoryview | bytes) -> np.ndarray[Any, Any]:
    r"""Return where the lines end: at `\n`, or at a `\r` that no `\n` follows."""
    codes = np.frombuffer(data, np.uint8)
    ends = codes == ord("\n")
    returns = codes == ord("\r")
    if returns.any():
        returns[:-1] &= ~ends[1:]
        ends |= returns
    return np.flatnonzero(ends)


def count_lines(data: memoryview | bytes) -> int:
    """Count the lines that end in it."""
    codes = np.frombuffer(data, np.uint8)
    if (codes == ord("\r")).any():
        return len(line_ends(data))
    return int(np.count_nonzero(codes == ord("\n")))


def parse_in_order(blocks: Iterable[Block], parse: Callable[[Block], Parsed]) -> Generator[Parsed]:
    """Parse each block, in their order; two are parsed at a time while the next ones are read."""
    blocks = iter(blocks)
    start = list(itertools.islice(blocks, 2))
    if not start[1:]:  # a small file, for which no threads are started
        yield from map(parse, start)
        return
    running: deque[Future[Parsed]] = deque()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="etl-parse") as pool:
        try:
            for block in itertools.chain(start, blocks):
                running.append(pool.submit(parse, block))
                if len(running) > WORKERS:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def deliver(
    parsed: Iterable[Parsed],
    *,
    source: str,
    rejects: Rejects | None,
    on_error: OnError,
    hint: Callable[[BadRow], str],
    unit: str = "line",
) -> Iterator[pa.RecordBatch]:
    """Pass on the good rows; the bad ones go to `rejects` where the caller wants that, and are an error otherwise.

    Raises:
        InvalidInputError: The first bad row of the file, by line and reason.
    """
    for batch, bad in parsed:
        for row in bad:
            if rejects is None or on_error == "fail":
                raise InvalidInputError(f"{bad_row_error(source, row.reason, row.line, unit)}{hint(row)}")
            rejects.add(row.reason, row.text, line=row.line, column=row.column)
        if batch.num_rows:
            yield batch


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name in {"utf-8", "utf-8-sig", "ascii"}
    except LookupError:
        raise InvalidInputError(
            f"{encoding!r} is not an encoding that Python knows, such as 'utf-8' or 'cp1252'."
        ) from None
