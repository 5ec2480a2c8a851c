"""Calls that are awaited: what Prefect's names give in an async flow or task, and the names that begin with `a`.

    content = await bucket.read_path("raw/a.csv")     # in an async flow or task, as with Prefect's own collections
    content = await bucket.aread_path("raw/a.csv")    # anywhere; the same as bucket.read_path.aio(...)

Nothing is done before the `await`. A call that is dropped without one is an error in the log of the run, with its line,
and the next operation of the run raises it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.context import FlowRunContext, TaskRunContext

from blocks.base.boundary import OURS
from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Generator

R = TypeVar("R")

_lock = threading.Lock()
_dropped: dict[str, str] = {}
"""By run, what is said of the first of its calls that was dropped."""


def innermost_run() -> FlowRunContext | TaskRunContext | None:
    """Return the context of the flow run or task run that this is in the body of; None outside of any."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow is None or task is None:
        return task or flow
    within = flow.flow_run is not None and task.task_run.flow_run_id == flow.flow_run.id
    return task if within else flow  # else it is a flow that the task has called


def is_awaited_here() -> bool:
    """Tell whether this is an async flow or task, in the thread of its event loop.

    An event loop alone is none: notebooks have one, and sync flows that are called from async code.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    run = innermost_run()
    if run is None:
        return False
    return bool(run.task.isasync if isinstance(run, TaskRunContext) else run.flow is not None and run.flow.isasync)


def check_none_dropped() -> None:
    """Raise an error if a call of this run was dropped; once.

    Raises:
        InvalidInputError: One was, so it has not happened.
    """
    if _dropped:
        with _lock:
            said = _dropped.pop(_run_id(), None)
        if said is not None:
            raise InvalidInputError(said)


def _run_id() -> str:
    run = innermost_run()
    if isinstance(run, TaskRunContext):
        return str(run.task_run.id)
    return str(run.flow_run.id) if run is not None and run.flow_run is not None else ""


class AwaitedCall(Coroutine[Any, Any, R]):
    """A call that happens when it is awaited.

    Args:
        start: Makes the coroutine of it.
        name: What is called, such as `S3Bucket.read_path`.
        logger: Where to say that it was not awaited.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, R]], name: str, logger: Any) -> None:
        self._inner: Coroutine[Any, Any, R] | None = None
        self._closed = False
        self._start, self._name, self._logger = start, name, logger
        self._run, self._line = _run_id(), _calling_line()

    def __await__(self) -> Generator[Any, Any, R]:
        return self._begun().__await__()

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine does."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where it waits, as in a coroutine."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """Give it up."""
        self._closed = True
        if self._inner is not None:
            self._inner.close()

    def _begun(self) -> Coroutine[Any, Any, R]:
        if self._inner is None:
            self._inner = self._start()
        return self._inner

    def __del__(self) -> None:
        if self._inner is not None or self._closed:
            return
        said = (
            f"{self._name}() in {self._line} was not awaited, so it has not happened. Write `await` before it: in an "
            "async flow or task Prefect's names are awaited, as in its own collections."
        )
        with _lock:
            _dropped.setdefault(self._run, said)
        with contextlib.suppress(Exception):  # at the end of the process there may be no log any more
            self._logger.error("%s", said)

    def __repr__(self) -> str:
        return f"<{self._name}(), to be awaited>"


def _calling_line() -> str:
    """Return the file and line that the call is from, which is the first that is not ours."""
    frame = sys._getframe(1)  # noqa: SLF001 (what traceback and logging use)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in OURS:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}, line {frame.f_lineno},"
