"""Local files, safely: written beside and renamed, with the operating system's errors as ours."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from blocks.base.errors import (
    AccessDeniedError,
    ConnectorError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TerminalError,
    TransientError,
)
from blocks.base.temporary import is_abandoned, lock_file, machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Source = bytes | Path | BinaryIO | Iterable[bytes]
    """What can be uploaded: bytes, a local file, an open file, or an iterable of chunks."""

CHUNK_BYTES = 8 * 2**20
"""How much of a file, or of an object, is read at once."""
PART_SUFFIX = ".etl-part"
"""Ends the names of files that are still being written; such files are never listed."""


def write_file(target: Path, chunks: Iterable[bytes]) -> int:
    """Write a file, and return its size. A reader sees the old file or the new one, also after a power cut.

    Raises:
        AccessDeniedError: The folder cannot be written.
    """
    with file_errors("write", target), part_file(target) as part:
        size = sum(map(part.write, chunks))
        part.flush()
        os.fsync(part.fileno())
        os.replace(part.name, target)  # noqa: PTH105 (part.name is text)
        sync_folder(target.parent)
    return size


@contextlib.contextmanager
def part_file(target: Path) -> Iterator[BinaryIO]:
    """Open a new file beside `target`, removed in the end unless it was renamed.

    It is locked: the first file that another process writes into the folder finds out by that which ones a killed
    process left, and removes them.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    _sweep_parts(target.parent)
    path = target.parent / f".{machine()}-{uuid.uuid4().hex}{PART_SUFFIX}"
    try:
        with path.open("xb") as part:
            lock_file(part.fileno(), wait=True)
            if not os.fstat(part.fileno()).st_nlink:
                raise TransientError(f"Could not write {target}: its new file was swept at once. Try again.")
            yield part
    finally:
        path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1_000)
def _sweep_parts(folder: Path) -> None:
    """Remove what killed processes left in a folder; once for each folder, which may hold many files."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(PART_SUFFIX):
                made_by = entry.name[1:].partition("-")[0]
                if len(made_by) == len(machine()) and is_abandoned(Path(entry.path), made_by):
                    Path(entry.path).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut; Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def chunks_of(source: Source) -> Iterator[bytes]:
    """Read what is to be uploaded, in chunks."""
    if isinstance(source, bytes):
        yield from (source[at : at + CHUNK_BYTES] for at in range(0, len(source), CHUNK_BYTES))
    elif isinstance(source, Path):
        with file_errors("read", source), source.open("rb") as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    elif hasattr(source, "read"):
        yield from iter(lambda: source.read(CHUNK_BYTES), b"")
    else:
        yield from source


def parts_of(source: Source, part_bytes: int = CHUNK_BYTES, max_parts: int = 10_000) -> Iterator[bytes]:
    """Cut the source into parts of an upload, twice as large with each tenth of `max_parts`, so that all fits."""
    waiting = bytearray()
    number = 0
    for chunk in chunks_of(source):
        if not waiting and len(chunk) == part_bytes and number < max_parts // 10:  # as a file's chunks are: no copy
            yield chunk
            number += 1
            continue
        waiting += chunk
        while len(waiting) >= (size := part_bytes * 2 ** (number // (max_parts // 10))):
            yield bytes(memoryview(waiting)[:size])
            del waiting[:size]
            number += 1
    if waiting:
        yield bytes(waiting)


FILE_ERRORS: dict[int, type[ConnectorError]] = {
    errno.ENOENT: ObjectNotFoundError,
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
    errno.EROFS: AccessDeniedError,
    errno.EEXIST: ObjectExistsError,
    errno.EISDIR: InvalidInputError,
    errno.ENOTDIR: InvalidInputError,
    errno.ENAMETOOLONG: InvalidInputError,
    errno.EINVAL: InvalidInputError,
    errno.EILSEQ: InvalidInputError,
    errno.EAGAIN: TransientError,
    errno.EBUSY: TransientError,
    errno.EIO: TransientError,
    errno.EMFILE: TransientError,
    errno.ENFILE: TransientError,
    errno.ESTALE: TransientError,
    errno.ETIMEDOUT: TransientError,
}
"""Everything else, such as a full disk, is a TerminalError. Source: errno(3)."""

ADVICE: dict[type[ConnectorError], str] = {
    AccessDeniedError: " Give this user the right to {verb} there, or choose another place.",
    InvalidInputError: " One part of the name is a file and would have to be a folder, or is too long.",
}


@contextlib.contextmanager
def file_errors(verb: str, place: object) -> Iterator[None]:
    """Raise the operating system's errors as ours: `verb` is what was attempted on `place`."""
    try:
        yield
    except ConnectorError:
        raise  # also an OSError, some of them
    except OSError as error:
        kind = FILE_ERRORS.get(error.errno or 0, TerminalError)
        advice = ADVICE.get(kind, "").format(verb=verb)
        raise kind(f"Could not {verb} {place}: {error.strerror or error}.{advice}") from error


@contextlib.contextmanager
def rewound(file: BinaryIO, *, truncate: bool = False) -> Iterator[None]:
    """Put the file back where it stood when the body fails, so that the next attempt starts at the same place."""
    start = file.tell() if file.seekable() else None
    try:
        yield
    except Exception as error:
        if start is not None:
            file.seek(start)
            if truncate:
                file.truncate()
        elif isinstance(error, TransientError):
            raise TerminalError(f"{error} It cannot be attempted again: the file object does not seek.") from error
        raise
