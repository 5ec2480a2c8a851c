"""Interruption: a call that blocks ends soon after whoever waits for it was told to stop.

Nothing can interrupt a thread that waits in a driver: neither a signal's handler nor Prefect's timeout runs in it
before the driver comes back. So what blocks runs in a helper thread, and its caller waits in Python, where signals,
timeouts and cancellations reach it: `interruptible` for a whole operation, `Calls` for each call on a connection.

What ends the wait is passed on as the helper's `Interruption`. It cancels the statement at the server, and wakes what
waits in the helper: `pause`, `read_ahead`, another `interruptible`. The caller lets the helper clean up for a while,
and raises what it was interrupted with, whatever the driver made of it: Ctrl-C is a KeyboardInterrupt. A helper that
does not come back is left behind; it is a daemon, so it does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import math
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio
import anyio.to_thread
from prefect.context import FlowRunContext, TaskRunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

R = TypeVar("R")
T = TypeVar("T")

SLICE_S = 0.2
"""The longest single wait: what is raised in a thread from outside reaches it between two of them."""
GRACE_S = 6.0
"""How long an interrupted operation may clean up before its caller goes on."""
CALL_GRACE_S = 3.0
"""The same for one call on a connection, which is less: the operation cleans up after it."""
AGAIN_S = 1.0
"""After how long a server is told once more to end a call: the first time it may not have begun."""
LATE_S = 1.0
"""How late an answer may be that was on its way when the server was asked whether it is still at work."""


class Interruption:
    """Tells a thread that nobody waits for its outcome any more."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._heard = False

    def set(self) -> None:
        """Interrupt the thread."""
        self._event.set()

    def is_set(self) -> bool:
        """Tell whether the thread was interrupted."""
        return self._event.is_set()

    def is_pending(self) -> bool:
        """Tell whether `check` would raise."""
        return self._event.is_set() and not self._heard

    def wait(self, seconds: float) -> bool:
        """Wait so many seconds at most, and tell whether the thread was interrupted."""
        return self._event.wait(seconds)

    def check(self) -> None:
        """Raise the interruption, once: what cleans up afterwards may wait again.

        Raises:
            CancelledError: The thread was interrupted.
        """
        if self.is_pending():
            self._heard = True
            raise asyncio.CancelledError


_numbers = itertools.count(1)
_current: contextvars.ContextVar[Interruption | None] = contextvars.ContextVar("interruption", default=None)

Caller = tuple[threading.Thread, "asyncio.Task[Any] | None"]
_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("caller", default=None)


def interruption() -> Interruption:
    """Return the interruption of the helper thread that this runs in; elsewhere one that nobody sets."""
    return _current.get() or Interruption()


def set_interruption(value: Interruption) -> None:
    """Make `value` the interruption of what runs in this context from now on."""
    _current.set(value)


def caller() -> Caller:
    """Return the thread, and the task of an event loop, that this runs for: a helper's are those of its caller."""
    if (found := _caller.get()) is not None:
        return found
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.current_thread(), task


def pause(seconds: float) -> None:
    """Wait so many seconds.

    Raises:
        CancelledError: The thread was interrupted.
    """
    mine, until = interruption(), time.monotonic() + seconds
    mine.check()
    while (left := until - time.monotonic()) > 0:
        (time.sleep if mine.is_set() else mine.wait)(min(left, SLICE_S))
        mine.check()


def interruptible(call: Callable[[], R]) -> R:
    """Return what `call` returns, which runs in a helper thread with the context of this one.

    Within a helper it simply runs: that can be interrupted already.
    """
    if _current.get() is not None:
        return call()
    helper = Helper(call)
    try:
        helper.start()
        helper.wait()
    except BaseException:
        helper.interrupt()
        helper.wait(GRACE_S)
        raise
    return helper.result()


async def interruptible_async(call: Callable[[], R]) -> R:
    """Return what `call` returns, which runs in a helper thread while the event loop stays free."""
    helper, loop, ended = Helper(call), asyncio.get_running_loop(), asyncio.Event()

    def notify() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(ended.set)

    try:
        helper.start(notify)
        await ended.wait()
    except BaseException:
        helper.interrupt()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(helper.wait, GRACE_S, abandon_on_cancel=True)
        raise
    return helper.result()


class Helper(Generic[R]):
    """A call in a thread of its own, with the context of the thread that made it."""

    def __init__(self, call: Callable[[], R]) -> None:
        self._interruption = Interruption()
        self._call: Callable[[], R] | None = call
        self._done = threading.Event()
        self._value: R | None = None
        self._error: BaseException | None = None

    def start(self, notify: Callable[[], None] | None = None) -> None:
        """Start the thread; `notify` is called in it at its end."""
        context = contextvars.copy_context()
        context.run(set_interruption, self._interruption)
        context.run(_caller.set, caller())
        name = f"etl-call-{next(_numbers)}"
        threading.Thread(target=context.run, args=(self._run, notify), name=name, daemon=True).start()

    def _run(self, notify: Callable[[], None] | None) -> None:
        call, self._call = self._call, None
        try:
            if call is not None:
                self._value = call()
        except BaseException as error:  # noqa: BLE001 (handed to the caller, whatever it is)
            self._error = error
        finally:
            del call
            self._done.set()
            if notify is not None:
                notify()

    def wait(self, timeout_s: float = math.inf) -> bool:
        """Wait for the end, and tell whether it came in time.

        Raises:
            CancelledError: The thread that waits was interrupted.
        """
        until, mine, given_up = time.monotonic() + timeout_s, interruption(), _task_run_given_up()
        while not self._done.wait(max(min(until - time.monotonic(), SLICE_S), 0)):
            mine.check()
            if given_up is not None and given_up.is_set():
                given_up = None
                raise asyncio.CancelledError
            if time.monotonic() >= until:
                return False
        return True

    def interrupt(self, end: Callable[[], object] | None = None) -> None:
        """Interrupt the call; `end` tells the server, in a thread of its own because that may block as well."""
        self._interruption.set()
        if end is not None and not self._done.is_set():

            def run() -> None:
                until = time.monotonic() + CALL_GRACE_S
                while not self._done.is_set() and time.monotonic() < until:
                    with contextlib.suppress(Exception):
                        end()
                    self._done.wait(AGAIN_S)

            threading.Thread(target=run, name="etl-cancel", daemon=True).start()

    def result(self) -> R:
        """Return what the call returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is None:
            return cast("R", self._value)
        try:
            raise error
        finally:
            del error  # a cycle of the error, its traceback and this frame


def _task_run_given_up() -> threading.Event | None:
    """Return the event that Prefect's thread pool sets when the flow of a submitted task run ends early.

    Nothing else tells such a thread. Prefect itself looks at it before the run begins.
    """
    flow_run, task_run = FlowRunContext.get(), TaskRunContext.get()
    if flow_run is None or task_run is None or _current.get() is not None:
        return None
    events: dict[Any, threading.Event] = getattr(flow_run.task_runner, "_cancel_events", {})
    event = events.get(task_run.task_run.id)
    return None if event is None or event.is_set() else event


class NoAnswerError(Exception):
    """A call on a connection was abandoned because no answer came in time."""


class Calls:
    """The calls on one connection. One that cannot be ended is left behind, and with it the connection.

    Args:
        cancel: Ends the call at the server; it runs in a thread of its own.
        disconnect: Closes the connection.
        timeout_s: How long nothing may come; None is forever.
        is_working: Asks, once nothing came for so long, whether the server is still at work. By default it is not.
    """

    def __init__(
        self,
        *,
        cancel: Callable[[], object] = lambda: None,
        disconnect: Callable[[], object] = lambda: None,
        timeout_s: float | None = None,
        is_working: Callable[[], bool] = lambda: False,
    ) -> None:
        self._cancel, self._disconnect = cancel, disconnect
        self._timeout_s, self._is_working = timeout_s, is_working
        self._heard_s = 0.0
        self._lock = threading.Lock()
        self._under_way = False
        self._closed = False
        self.lost = False
        """Whether a call was left behind: the connection is of no use any more."""

    def run(self, call: Callable[[], R], *, timeout_s: float | None = None, cancels: bool = True) -> R:
        """Return what `call` returns.

        Args:
            call: What uses the connection.
            timeout_s: How long nothing may come, and nobody is asked then. Defaults to that of the connection.
            cancels: Whether the server is told to end it; COMMIT rather ends by itself.

        Raises:
            NoAnswerError: Nothing came for too long, now or in an earlier call.
        """
        if self.lost:
            raise NoAnswerError
        helper = Helper(lambda: self._on_connection(call))
        self._heard_s, self._under_way = time.monotonic(), True
        try:
            helper.start()
            self._wait(helper, timeout_s)
        except BaseException as error:
            helper.interrupt(self._cancel if cancels else None)
            ends = cancels or not isinstance(error, NoAnswerError)
            if not helper.wait(CALL_GRACE_S if ends else 0):
                with self._lock:
                    self.lost = self._under_way
            raise
        return helper.result()

    def feed(self, items: Iterable[T]) -> Iterator[T]:
        """Yield what a call sends. While the next item is made, the server has nothing to say."""
        iterator = iter(items)
        while True:
            self._heard_s = math.inf
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._heard_s = time.monotonic()
            yield item

    def close(self) -> None:
        """Close the connection; one whose call was left behind is closed when that comes back."""
        with self._lock:
            self._closed = True
            waits = self.lost and self._under_way
        if not waits:
            self._disconnect()

    def _on_connection(self, call: Callable[[], R]) -> R:
        try:
            return call()
        finally:
            with self._lock:
                self._under_way = False
                left_behind = self.lost and self._closed
            if left_behind:
                self._disconnect()

    def _wait(self, helper: Helper[Any], timeout_s: float | None) -> None:
        limit_s = timeout_s or self._timeout_s or math.inf
        while not helper.wait(min(limit_s, SLICE_S)):
            if time.monotonic() - self._heard_s < limit_s:
                continue
            if timeout_s is not None or not (self._is_working() or helper.wait(LATE_S)):
                raise NoAnswerError
            self._heard_s = time.monotonic()
