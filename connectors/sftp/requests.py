"""What an SFTP server is asked, as coroutines over asyncssh's SFTPClient. They run in the connection's thread."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import time
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError, ObjectExistsError, ObjectNotFoundError, UnsupportedError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncssh
else:
    asyncssh = lazy("asyncssh")

LATEST = 2**32 - 1
"""The last second that version 3 of the protocol can tell."""


def _missing() -> tuple[type[Exception], ...]:
    """Return what a server says where there is no such file, or where one of the path's folders is a file."""
    return asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPNotADirectory


async def read(sftp: Any, path: str, start: int, length: int) -> tuple[Any, bytes]:
    """Return what the server tells of a file, and at most `length` bytes of it."""
    try:
        async with sftp.open(path, "rb") as file:
            found = await file.stat()
            length = max(0, min(length, found.size - start))
            return found, await file.read(length, start) if length else b""
    except asyncssh.SFTPError:
        if await sftp.isdir(path):
            raise ObjectNotFoundError(f"Could not read {path}: it is a folder.") from None
        raise


async def names(sftp: Any, folder: str) -> list[Any]:
    """Return what is in a folder, which is nothing where there is no such folder."""
    try:
        return [each for each in await sftp.readdir(folder) if each.filename not in (".", "..")]
    except _missing():
        return []


async def create(sftp: Any, path: str) -> Any:
    """Create a file, with the folders that it needs."""
    try:
        return await sftp.open(path, "xb")
    except _missing():
        await _make_folder(sftp, posixpath.dirname(path))
        return await sftp.open(path, "xb")


async def _make_folder(sftp: Any, folder: str) -> None:
    try:
        await sftp.mkdir(folder)
    except _missing():
        if not folder.strip("/"):
            raise
        await _make_folder(sftp, posixpath.dirname(folder))
        await _make_folder(sftp, folder)
    except asyncssh.SFTPError:
        if await sftp.isdir(folder):
            return
        if await sftp.lexists(folder):
            raise InvalidInputError(f"{folder} is a file, and would have to be a folder.") from None
        raise


async def finish(file: Any, sftp: Any, target: str) -> Any:
    """Have a file be on the disk, and newer than the one that it will replace; return what the server tells of it."""
    with contextlib.suppress(asyncssh.SFTPOpUnsupported):
        await file.fsync()
    now = int(time.time())
    with contextlib.suppress(*_missing()):
        now = min(max(now, (await sftp.stat(target)).mtime + 1), LATEST)
    with contextlib.suppress(asyncssh.SFTPOpUnsupported, asyncssh.SFTPPermissionDenied):
        await file.utime((now, now))
    found = await file.stat()
    await file.close()
    return found


async def rename(sftp: Any, part: str, target: str) -> None:
    """Give a file its name, in place of the one that has it."""
    try:
        try:
            await sftp.posix_rename(part, target)
        except asyncssh.SFTPOpUnsupported:
            await sftp.rename(part, target)  # by which some servers replace; others refuse to
    except asyncssh.SFTPError:
        if await sftp.isdir(target):
            raise InvalidInputError(f"Could not write {target}: it is a folder.") from None
        raise


async def link(sftp: Any, part: str, target: str) -> None:
    """Give a file its name if nothing has it: of a link, unlike of a rename, every server asks that."""
    try:
        await sftp.link(part, target)
    except asyncssh.SFTPOpUnsupported:
        raise UnsupportedError("if_absent needs a server with hard links: hardlink@openssh.com.") from None
    except asyncssh.SFTPError:
        if await sftp.lexists(target):
            raise ObjectExistsError(f"Could not write {target}: it already exists.") from None
        raise
    await remove(sftp, [part])


async def discard(file: Any, sftp: Any, part: str) -> None:
    """Close and remove a file that is not finished."""
    with contextlib.suppress(asyncssh.SFTPError):
        await file.close()
    await sftp.remove(part)


async def remove(sftp: Any, paths: Iterable[str]) -> None:
    """Remove files; what is not there, or is a folder, stays as it is."""

    async def remove_one(path: str) -> None:
        try:
            await sftp.remove(path)
        except _missing():
            return
        except asyncssh.SFTPError:
            if not await sftp.isdir(path):
                raise

    await asyncio.gather(*map(remove_one, paths))
