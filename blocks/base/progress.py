"""Progress bars for long work: only on a terminal, and only after a second."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

PATIENCE_S = 1.0
"""Shorter work draws nothing."""


@contextlib.contextmanager
def progress(label: str, *, unit: str = "rows", total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many were done since its last call, and draws a bar if stderr is a terminal.

        with progress("orders") as tick:
            for batch in batches:
                tick(batch.num_rows)

    Args:
        label: What is worked on, without secrets.
        unit: What is counted.
        total: How many there will be, if that is known.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = _Bar(f"{label} ({unit})", total)
    try:
        yield bar.tick
    finally:
        bar.close()


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
