"""What may be wrong besides the rows: what is said of secrets and rows, and what is left on this side."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from blocks.base.errors import ConnectorError
from integration_tests.faults.data import ROW_CANARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from integration_tests.faults.targets.base import Wire

OURS = ("etl-", "ThreadPoolExecutor", "read-ahead")
"""Begins the names of threads that a load may start."""
PATIENCE_S = 5.0
LOOKS_A_COLLECTION = 20


class Captured(logging.Handler):
    """Everything that is said in this process: log records of all loggers, and errors with all that they hold."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a record says."""
        self.texts += [record.getMessage(), repr(record.args)]
        if record.exc_info and record.exc_info[1] is not None:
            self.add(record.exc_info[1])

    def add(self, error: BaseException) -> None:
        """Keep what an error says."""
        self.texts += texts_of(error)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, hear all loggers."""
        names = [name for name, each in logging.Logger.manager.loggerDict.items() if isinstance(each, logging.Logger)]
        loggers = [logging.getLogger(), *(logging.getLogger(name) for name in names)]
        heard = [each for each in loggers if each is logging.getLogger() or not each.propagate]
        for logger in heard:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in heard:
                logger.removeHandler(self)


def texts_of(error: BaseException) -> list[str]:
    """All that an error says, with its causes, contexts, notes, arguments and attributes."""
    texts: list[str] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        texts += [str(each), repr(each), repr(each.args), repr(vars(each)), *getattr(each, "__notes__", ())]
        waiting += [
            each.__cause__,
            each.__context__,
            *(each.exceptions if isinstance(each, BaseExceptionGroup) else ()),
        ]
    return [*texts, "".join(traceback.format_exception(error))]


def leaks(texts: Sequence[str], secrets: Sequence[str]) -> list[str]:
    """What of the canaries is in the texts: the texts, cut around them."""
    places = ((text, text.find(canary)) for text in texts for canary in (ROW_CANARY, *secrets))
    return [text[max(0, at - 120) : at + 80] for text, at in places if at >= 0]


def canaries_in_files(folder: Path, secrets: Sequence[str]) -> list[str]:
    """The files of a folder that hold a secret, or a row."""
    canaries = [each.encode() for each in (ROW_CANARY, *secrets)]
    files = [each for each in folder.rglob("*") if each.is_file()]
    return [str(each.relative_to(folder)) for each in files if any(one in each.read_bytes() for one in canaries)]


def left_here(folder: Path, threads: set[threading.Thread], wires: Sequence[Wire]) -> list[str]:
    """What loads have left in this process, and in its folder for temporary files."""
    files = [f"temporary {each.relative_to(folder)}" for each in folder.rglob("*")]
    running = [each.name for each in set(threading.enumerate()) - threads if each.name.startswith(OURS)]
    connections = [f"{count} connections" for wire in wires if (count := wire.open_connections())]
    return [*files, *(f"thread {name}" for name in running), *connections]


def eventually_empty(look: Callable[[], list[str]], patience_s: float = PATIENCE_S) -> list[str]:
    """What it still finds after a while."""
    deadline, looks = time.monotonic() + patience_s, 0
    while (found := look()) and time.monotonic() < deadline:
        if looks % LOOKS_A_COLLECTION == 0:  # which takes as long as some cases
            gc.collect()
        looks += 1
        time.sleep(0.05)
    return found


def is_ours(error: BaseException) -> bool:
    """Whether it is an error that our methods may raise."""
    return isinstance(error, (ConnectorError, KeyboardInterrupt))


def brief(error: Any) -> str:
    """One line about an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
