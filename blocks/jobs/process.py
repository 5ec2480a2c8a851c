"""Process: a command that is read line by line while it runs, and that never outlives whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from blocks.base.errors import UnsupportedError
from blocks.base.interruption import SLICE_S, interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GUARD = Path(__file__).with_name("guard.py")


class Process:
    """A command in a process group of its own, whose output is read while it runs.

    The group is ended by `stop`, or when this process dies, however that happens: first SIGINT, so that the command can
    clean up, then SIGKILL to all of it.

    Args:
        command: The program and its arguments.
        folder: Where it runs.
        environment: All of its environment.
        errors: A file that takes its standard error.
        grace_s: How long it may take to end after SIGINT.

    Raises:
        UnsupportedError: The system has no process groups.
        OSError: The program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        errors: Path,
        grace_s: float,
    ) -> None:
        if os.name != "posix":
            raise UnsupportedError(f"{command[0]} is run only where there are process groups: on Linux and macOS.")
        self._control, theirs = socket.socketpair()
        guard = [sys.executable, "-I", "-S", str(GUARD), str(theirs.fileno()), str(os.getpid()), str(grace_s)]
        with theirs, errors.open("wb") as log:
            self._guard = subprocess.Popen(  # noqa: S603 (what to run is the caller's business)
                [*guard, *command],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="etl-process-output", daemon=True).start()

    def lines(self, *, timeout_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
        """Yield its lines as they come, also the last ones of a process that is being stopped.

        Raises:
            TimeoutError: It took longer than `timeout_s` and has been stopped.
            CancelledError: The wait was interrupted (`blocks.base.interruption`); it has been stopped.
        """
        until = float("inf") if timeout_s is None else clock() + timeout_s
        given_up = interruption()
        why: BaseException | None = None
        while True:
            try:
                line = self._lines.get(timeout=SLICE_S)
            except queue.Empty:
                line = b""
                self._end_orphans()
            if line is None:
                break
            if line:
                yield line.decode("utf-8", "replace")
            if why is None and (given_up.is_set() or clock() >= until):
                why = asyncio.CancelledError() if given_up.is_set() else TimeoutError()
                until = float("inf")
                self.stop()
        if why is not None:
            raise why

    def stop(self) -> None:
        """Ask the process to end, and have it killed if it does not; its last lines can still be read."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def close(self) -> int | None:
        """Stop it, wait until nothing of it runs any more, and return its exit code: None where it had to be killed."""
        self.stop()
        with self._control:
            said = self._control.recv(64)  # empty once the guard is gone
        self._kill()
        self._guard.wait()
        return int(said) if said.lstrip(b"-").isdigit() else None

    def _read(self) -> None:
        if output := self._guard.stdout:
            with output:
                for line in output:
                    self._lines.put(line)
        self._lines.put(None)

    def _end_orphans(self) -> None:
        """Kill the rest of the group where somebody killed the guard."""
        if os.waitid(os.P_PID, self._guard.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            self._kill()

    def _kill(self) -> None:
        # The group keeps the number of the guard, which is not given to another before the guard is waited for.
        with contextlib.suppress(OSError):
            os.killpg(self._guard.pid, signal.SIGKILL)
