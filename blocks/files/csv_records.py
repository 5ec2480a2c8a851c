"""Where the records of a CSV file begin and end: quotes, comments, dialects, positions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from blocks.files.text import line_ends

if TYPE_CHECKING:
    from blocks.files.options import CsvOptions

Positions = np.ndarray[Any, Any]
"""Byte positions in a block of a file."""

NONE: Positions = np.array([], dtype=np.int64)


@dataclass(frozen=True)
class Quotes:
    """Where text is quoted: every span from `starts` to `ends`, both ends included."""

    starts: Positions
    ends: Positions
    junk: Positions
    """Closing quotes that neither a delimiter nor a line end follows."""
    open: bool
    """Whether the last span has no end."""
    comments: Positions = field(default_factory=lambda: NONE)
    """Where lines start that are comments."""

    def hold(self, positions: Positions) -> Positions:
        """Return which of `positions` are quoted."""
        if not len(self.starts):
            return np.zeros(len(positions), dtype=bool)
        spans = np.searchsorted(self.starts, positions) - 1
        inside: Positions = (spans >= 0) & (self.ends[spans] >= positions)
        return inside


@dataclass(frozen=True)
class Dialect:
    """Finds records in CSV text exactly as Arrow's reader does."""

    delimiter: str
    quote: str | None
    escape: str | None
    comment: str | None
    line_end: bytes = b"\n"

    @classmethod
    def of(cls, options: CsvOptions) -> Dialect:
        """Return the dialect that options say."""
        return cls(options.delimiter, options.quote, options.escape, options.comment)

    def cut(self, text: bytes) -> tuple[int, bool]:
        """Return where the last whole record of `text` ends, and whether a record up to there is suspect."""
        if not self._has_quotes(text):
            return text.rfind(self.line_end) + 1, b"\0" in text
        quotes = self.quotes(text)
        position = len(text)
        while (position := text.rfind(self.line_end, 0, position)) >= 0:
            span = int(np.searchsorted(quotes.starts, position)) - 1
            if span < 0 or quotes.ends[span] < position:
                return position + 1, b"\0" in text or bool((quotes.junk < position).any())
            position = int(quotes.starts[span])
        return 0, False

    def without_comments(self, data: memoryview | bytes) -> list[tuple[int, memoryview | bytes]]:
        """Return the parts between the lines that are comments, each with the number of lines before it."""
        if self.comment is None or self.comment.encode() not in bytes(data):
            return [(0, data)]
        records, quotes = self.records(data)
        bounds = np.append(records[:, 0], len(data))
        kept = ~np.isin(records[:, 0], quotes.comments)
        changes = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(np.int8)))
        ends = line_ends(data)
        return [
            (int(np.searchsorted(ends, bounds[first])), data[bounds[first] : bounds[last]])
            for first, last in zip(changes[0::2], changes[1::2], strict=True)
        ]

    def field_counts(self, data: memoryview | bytes, records: Positions, quotes: Quotes) -> Positions:
        """Return how many fields each record has."""
        delimiters = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(self.delimiter))
        delimiters = delimiters[~quotes.hold(delimiters)]
        counts: Positions = np.searchsorted(delimiters, records[:, 1]) - np.searchsorted(delimiters, records[:, 0]) + 1
        return counts

    def records(self, data: memoryview | bytes) -> tuple[Positions, Quotes]:
        """Start and end (without its line end) of every record, including empty ones, and where quotes are."""
        quotes = self.quotes(data)
        ends = line_ends(data)
        ends = ends[~quotes.hold(ends)]
        starts = np.concatenate([[0], ends + 1])
        ends = np.concatenate([ends, [len(data)]])
        if starts[-1] == len(data):
            starts, ends = starts[:-1], ends[:-1]
        codes = np.frombuffer(data, np.uint8)
        after_return = (ends > starts) & (codes[ends - 1] == ord("\r")) if len(data) else ends > starts
        after_return &= ends < len(data)
        return np.stack([starts, ends - after_return], axis=1), quotes

    def quotes(self, data: memoryview | bytes) -> Quotes:
        """Return where text is quoted. A quote opens at the start of a field only; elsewhere it is a character."""
        codes = np.frombuffer(data, np.uint8)
        if self.escape is None and self.comment is None:
            if self.quote is None:
                return Quotes(NONE, NONE, NONE, open=False)
            marks = np.flatnonzero(codes == ord(self.quote))
            starts, ends = marks[0::2], marks[1::2]
            borders = self._borders
            opening = borders[codes[starts - 1]]
            if len(starts) and starts[0] == 0:
                opening[0] = True
            # Every other quote stands where a field starts, or doubles the one before: then pairs are what they seem.
            if opening.all():
                closing_at = ends[ends < len(codes) - 1]
                junk = closing_at[~borders[codes[closing_at + 1]]]
                unclosed = len(starts) > len(ends)
                return Quotes(starts, np.append(ends, len(codes)) if unclosed else ends, junk, unclosed)
        return self._quotes_one_by_one(data)

    def _quotes_one_by_one(self, data: memoryview | bytes) -> Quotes:
        starts, ends, junk, comments, unclosed = [], [], [], [], False
        for match in self._quoted.finditer(data):
            if match["comment"] is not None:
                comments.append(match.start())
                continue
            starts.append(match.start())
            ends.append(match.end() - 1)
            if match["quoted"] is None:
                continue
            if not match["end"]:
                unclosed, ends[-1] = True, len(data)
            elif match.end() < len(data) and not self._borders[data[match.end()]]:
                junk.append(match.end() - 1)
        places = [np.array(found, dtype=np.int64) for found in (starts, ends, junk, comments)]
        return Quotes(places[0], places[1], places[2], unclosed, places[3])

    def _has_quotes(self, text: bytes) -> bool:
        has_quote = self.quote is not None and self.quote.encode() in text
        return has_quote or self.escape is not None

    @cached_property
    def _borders(self) -> Positions:
        borders = np.zeros(256, dtype=bool)
        borders[[ord(mark) for mark in (self.delimiter, "\n", "\r", self.quote) if mark]] = True
        return borders

    @cached_property
    def _quoted(self) -> re.Pattern[bytes]:
        """Comments, quoted fields and escaped characters, whichever comes first."""
        never = r"(?!)"
        delimiter, comment, escape, quote = (
            re.escape(mark) if mark else "" for mark in (self.delimiter, self.comment, self.escape, self.quote)
        )
        plain = f"[^{quote}{escape}]*+"
        inner = f"{quote}{quote}|{escape}." if escape else f"{quote}{quote}"
        patterns = [
            rf"(?<![^\r\n])(?P<comment>{comment or never}[^\r\n]*+)",
            rf"(?<![^{delimiter}\r\n])(?P<quoted>{quote}{plain}(?:(?:{inner}){plain})*+(?P<end>{quote}?))"
            if quote
            else f"(?P<quoted>{never})(?P<end>)",
            f"{escape}.(?:{quote})*" if escape else never,
        ]
        return re.compile("|".join(patterns).encode(), re.DOTALL)
