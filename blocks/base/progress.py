"""How far long work is: a bar on a terminal after a second, and in a run a page after ten."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
import threading
import time
from typing import TYPE_CHECKING

from blocks.base.artifacts import keep_progress
from blocks.base.runs import loads_are_shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from rich.progress import Progress, TaskID

PATIENCE_S = 1.0
"""Shorter work draws nothing."""
LAST_WORD_S = 5.0
"""So long work that is done waits for a server that does not answer."""
PAGE_EVERY_S = 10.0
"""Shorter work in a run leaves no page of its progress; longer work brings it up to date this often."""


@contextlib.contextmanager
def progress(label: str, *, unit: str = "rows", total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many were done since its last call.

    On a terminal a bar is drawn. In a run of Prefect, long work has a page that is brought up to date beside it: a
    progress artifact where the total is known, else a page with the count and the speed.

        with progress("orders") as tick:
            for batch in batches:
                tick(batch.num_rows)

    Args:
        label: What is worked on, without secrets.
        unit: What is counted.
        total: How many there will be, if that is known.
    """
    shown: list[_Bar | _RunPage] = []
    if sys.stderr is not None and sys.stderr.isatty():
        shown.append(_Bar(f"{label} ({unit})", total))
    if loads_are_shown():
        shown.append(_RunPage(label, unit, total))

    def tick(count: int) -> None:
        for each in shown:
            each.tick(count)

    try:
        yield tick
    finally:
        for each in shown:
            each.close()


class _RunPage:
    """The page of work that takes long, kept by a thread: a slow server does not slow the work."""

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self._label, self._unit, self._total = label, unit, total
        self._started = time.monotonic()
        self._done = 0
        self._ended = threading.Event()
        run = functools.partial(contextvars.copy_context().run, self._keep)
        self._thread = threading.Thread(target=run, name=f"progress of {label}", daemon=True)
        self._thread.start()

    def tick(self, count: int) -> None:
        self._done += count

    def close(self) -> None:
        self._ended.set()
        self._thread.join(LAST_WORD_S)

    def _keep(self) -> None:
        page: UUID | None = None
        while not self._ended.wait(PAGE_EVERY_S):
            page = keep_progress(f"progress-{self._label}", *self._state(), page=page)
        if page is not None:
            keep_progress(f"progress-{self._label}", *self._state(), page=page)

    def _state(self) -> tuple[float | None, str]:
        """Return the percentage, None where nobody knows the total, and the words."""
        seconds = time.monotonic() - self._started
        of = f" of {self._total:,}" if self._total else ""
        words = (
            f"{self._label}: {self._done:,}{of} {self._unit} in {seconds:,.0f} s ({self._done / seconds:,.0f} a second)"
        )
        return (min(100 * self._done / self._total, 100.0) if self._total else None), words


class _Bar:
    """One line of the display that all bars of the process share: a terminal has room for only one."""

    _lock = threading.Lock()
    _display: Progress | None = None
    _bars = 0

    def __init__(self, description: str, total: int | None) -> None:
        self._description = description
        self._total = total
        self._started = time.monotonic()
        self._done = 0
        self._line: TaskID | None = None

    def tick(self, count: int) -> None:
        with _Bar._lock:
            self._done += count
            if self._line is None and time.monotonic() - self._started >= PATIENCE_S:
                if _Bar._display is None:
                    _Bar._display = _new_display()
                    _Bar._display.start()
                _Bar._bars += 1
                self._line = _Bar._display.add_task(self._description, total=self._total)
            if self._line is not None and _Bar._display is not None:
                _Bar._display.update(self._line, completed=self._done)

    def close(self) -> None:
        with _Bar._lock:
            if self._line is None or _Bar._display is None:
                return
            _Bar._display.refresh()
            _Bar._display.remove_task(self._line)
            _Bar._bars -= 1
            if _Bar._bars == 0:
                _Bar._display.stop()
                _Bar._display = None


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),  # what goes to a file stays in the file
    )
