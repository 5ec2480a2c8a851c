"""JSON that is not one object a line, as lines: arrays of objects, and objects over several lines."""

from __future__ import annotations

import json
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from blocks.base.errors import InvalidInputError
from blocks.files.text import RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

ESCAPED = re.compile(rb"\\.", re.DOTALL)
LINE_END, SPACE, NOT_IN_TEXT = ord("\n"), ord(" "), 1
DEPTHS = np.zeros(256, np.int64)
DEPTHS[[ord("["), ord("{")]], DEPTHS[[ord("]"), ord("}")]] = 1, -1
BLANKS = " \t\r\n"


def as_lines(chunks: Generator[bytes], name: str, *, lines: bool) -> tuple[bool, Generator[bytes]]:
    """Return the objects one a line, and whether the lines are those of the file.

    Args:
        chunks: The text.
        name: What messages call the file.
        lines: Whether objects that are not in an array have a line each, as in JSON Lines.
    """
    first = next(chunks, b"")
    while b"\n" not in first.lstrip() and len(first) < RECORD_BYTES and (more := next(chunks, b"")):
        first += more  # as far as the first line goes
    start = first.lstrip()[:1]
    whole = _chained(first, chunks)
    if start == b"[":
        return False, _split(whole, name, base=1)
    if start != b"{" or lines or _is_value(first.lstrip().partition(b"\n")[0]):
        return True, whole
    return False, _split(whole, name, base=0)


def _chained(first: bytes, chunks: Generator[bytes]) -> Generator[bytes]:
    with closing(chunks):
        yield first
        yield from chunks


def _is_value(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _split(chunks: Generator[bytes], name: str, *, base: int) -> Generator[bytes]:
    """Return the values at a depth of brackets, 0 or 1, with a line each.

    Raises:
        InvalidInputError: The brackets do not match, or something follows the array.
    """
    depth, within, ended, held = 0, False, False, b""
    with closing(chunks):
        for chunk in chunks:
            text = held + chunk
            # An escape stays whole: every other backslash of those at the end begins one.
            cut = len(text) - (len(text) - len(text.rstrip(b"\\"))) % 2
            text, held = text[:cut], text[cut:]
            plain = np.frombuffer(ESCAPED.sub(b"__", text) if b"\\" in text else text, np.uint8)
            quotes = np.flatnonzero(plain == ord('"'))
            codes = np.frombuffer(text, np.uint8).copy()
            line_ends = np.flatnonzero((codes == LINE_END) | (codes == ord("\r")))
            codes[line_ends] = np.where(_within(line_ends, quotes, within=within), NOT_IN_TEXT, SPACE)
            brackets = np.flatnonzero(DEPTHS[plain])
            brackets = brackets[~_within(brackets, quotes, within=within)]
            depths = np.concatenate([[depth], depth + np.cumsum(DEPTHS[plain[brackets]])])
            if depths.min() < 0:
                raise _damaged(name, "a bracket is closed that was not opened")
            ends = brackets[depths[1:] == 0]
            if base == 0:
                yield np.insert(codes, ends + 1, LINE_END).tobytes()
            else:
                if (text if ended else text[ends[0] + 1 :] if len(ends) else b"").strip():
                    raise _damaged(name, "something follows the array")
                commas = np.flatnonzero(plain == ord(","))
                commas = commas[~_within(commas, quotes, within=within)]
                codes[commas[depths[np.searchsorted(brackets, commas)] == 1]] = LINE_END
                codes[brackets[depths[:-1] == 0]] = SPACE
                codes[ends] = SPACE
                ended = ended or len(ends) > 0
                yield codes.tobytes()
            depth = int(depths[-1])
            within ^= bool(len(quotes) % 2)
    if depth or within or held:
        raise _damaged(name, "it ends within a value")


def _within(positions: Any, quotes: Any, *, within: bool) -> Any:
    """Return which positions are between quotes."""
    return (np.searchsorted(quotes, positions) + within) % 2 == 1


def _damaged(name: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{name} is not a valid JSON file (truncated or corrupt): {reason}.")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def with_texts(line: bytes, texts: Collection[str], raw: Collection[str]) -> bytes:
    """Return an object with some of its values as texts that hold them as they are written.

    >>> with_texts(b'{"a": 1.50, "b": [1], "c": "x"}', {"a", "c"}, {"b"})
    b'{"a":"1.50","b":"[1]","c":"x"}'

    Args:
        line: The object; what is none is returned as it is.
        texts: The keys whose values become texts where they are not, but for nulls.
        raw: The keys of which texts do, too.
    """
    try:
        return _rewritten(line.decode(), texts, raw).encode()
    except (ValueError, IndexError, RecursionError):
        return line


def _rewritten(line: str, texts: Collection[str], raw: Collection[str]) -> str:
    members: list[str] = []
    at = _past(line, 0, "{")
    while line[at] != "}":
        if members:
            at = _past(line, at, ",")
        key, end = _DECODER.raw_decode(line, at)
        if not isinstance(key, str):
            raise ValueError("not a key")  # noqa: TRY004 (the caller's error for what is no object)
        start = _past(line, _skip(line, end), ":")
        _, end = _DECODER.raw_decode(line, start)
        value = line[start:end]
        if value != "null" and (key in raw or (key in texts and not value.startswith('"'))):
            value = json.dumps(value)
        members.append(f"{json.dumps(key)}:{value}")
        at = _skip(line, end)
    if line[at + 1 :].strip(BLANKS):
        raise ValueError("something follows the object")
    return "{" + ",".join(members) + "}"


def _skip(text: str, at: int) -> int:
    while text[at] in BLANKS:
        at += 1
    return at


def _past(text: str, at: int, mark: str) -> int:
    """Return what follows a mark and the blanks around it."""
    at = _skip(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark}")
    return _skip(text, at + 1)
