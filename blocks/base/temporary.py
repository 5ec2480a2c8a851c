"""Temporary folders, which a process that is killed leaves behind, and the next one that makes one removes.

Whose a folder is, a lock says that the operating system ends with its holder: no process id, which another process may
have by then. Folders of other users are left alone, and so is what another machine may hold where it shares the disk
and not its locks, until nobody has touched it for a day.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from blocks.base.interruption import SLICE_S, pause

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = "etl-blocks-"
LOCK = "owner.lock"
FILES = "files"
"""The folder beside the lock that is handed out: what is in it may be copied as a whole."""
ELSEWHERE_S = 86_400.0
"""After so long without a change, in seconds, what was made on another machine counts as left behind."""
BEING_MADE_S = 3_600.0
"""The same for a folder that has no lock yet, which takes its maker a moment."""


@functools.cache
def machine() -> str:
    """Return what tells the kernel that holds the locks, the same in all of its containers, until it is restarted."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        text = platform.node()
    return hashlib.blake2b(text.strip().encode(), digest_size=4).hexdigest()


def lock_file(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file for as long as it is open; tell whether that worked, which it does not on every file system."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (OSError, AttributeError):  # AttributeError: there is no such module on Windows
        return False
    return True


def lock_in_turn(descriptor: int) -> None:
    """Lock an open file once nobody else holds it, for as long as it is open; the wait can be interrupted.

    Where the file system has no locks it returns at once, without one.
    """
    while fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause(SLICE_S)
        except OSError:
            return
        else:
            return


def is_abandoned(path: Path, made_by: str) -> bool:
    """Tell whether no living process holds the lock of a file of this user.

    Args:
        path: The file; it is not followed where it is a link.
        made_by: The `machine()` of the process that made it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_nlink or not _is_own(status):
            return False
        if made_by != machine() and time.time() - status.st_mtime < ELSEWHERE_S:
            return False
        return lock_file(descriptor, wait=False)
    finally:
        os.close(descriptor)


class TemporaryFolder:
    """A folder for this user alone, removed with all that is in it when it is closed, collected, or left behind.

    As a context manager it gives its path.
    """

    def __init__(self) -> None:
        _sweep_once()
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{machine()}-"))
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        lock_file(self._lock, wait=True)
        self._end = weakref.finalize(self, _remove_own, folder, self._lock, os.getpid())
        self.path = folder / FILES
        self.path.mkdir(mode=0o700)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder."""
        self._end()


def sweep() -> int:
    """Remove the temporary folders that no living process holds, and return how many were removed."""
    removed = 0
    with contextlib.suppress(OSError):
        for folder in _own_folders():
            made_by = folder.name.removeprefix(PREFIX).partition("-")[0]
            if (folder / LOCK).exists():
                if is_abandoned(folder / LOCK, made_by):
                    _remove(folder)
                    removed += 1
            elif time.time() - folder.lstat().st_mtime > BEING_MADE_S:
                with contextlib.suppress(OSError):  # nobody came as far as to put anything in it
                    folder.rmdir()
    return removed


@functools.cache
def _sweep_once() -> None:
    sweep()


def _own_folders() -> Iterator[Path]:
    with os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False) and _is_own(entry.stat(follow_symlinks=False)):
                        yield Path(entry.path)


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _remove_own(folder: Path, lock: int, made_by: int) -> None:
    if os.getpid() == made_by:  # a fork has the same objects, and must leave them to its parent
        _remove(folder)
    os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder; its lock goes last, so that whoever is killed meanwhile leaves it to the next one."""
    with contextlib.suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name == LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
