"""A driver that is asynchronous, used from threads: its event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from anyio.from_thread import start_blocking_portal
from prefect.logging import get_logger

from blocks.base.interruption import SLICE_S, interruption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

T = TypeVar("T")


class EventLoop:
    """An event loop in a thread of its own; it ends with the last one who holds this object, or by `close`.

    Args:
        name: The thread's name.
        ends_with: Tells of an error that nothing more can be asked of the driver: the loop is closed then.
        limit_s: How long a request may take; after that it is a TimeoutError.
    """

    def __init__(
        self, name: str, *, ends_with: Callable[[Exception], bool] = lambda _: False, limit_s: float | None = None
    ) -> None:
        self._ends_with, self._limit_s = ends_with, limit_s
        self._stack = contextlib.ExitStack()
        # Without a reference to this object, which would then never be freed.
        self.close = weakref.finalize(self, self._stack.close)
        self._portal = self._stack.enter_context(start_blocking_portal(name=name))
        self._portal.call(_expect_unheard_errors)

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be run any more."""
        return not self.close.alive

    def before_closing(self, call: Callable[[], object]) -> None:
        """Have a function called in the loop before it ends; the function must not hold this object."""
        self._stack.callback(self._portal.call, call)

    def run(self, request: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Call an asynchronous function in the loop, and return what it gives.

        Raises:
            ConnectionAbortedError: The loop is closed, or was meanwhile.
        """
        try:
            value, error = self._settled(request, arguments)
        except BaseException:  # such as an interruption: nobody waits any more for what was asked
            self.close()
            raise
        if error is None:
            return cast("T", value)
        if self._ends_with(error):
            self.close()
        try:
            raise error
        finally:
            del error  # it holds this frame, and so its caller's

    def _settled(
        self, request: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]
    ) -> tuple[T | None, Exception | None]:
        try:
            waiting: Future[tuple[T | None, Exception | None]] = self._portal.start_task_soon(
                _outcome, request, arguments, self._limit_s
            )
            interrupted = interruption()
            while not wait([waiting], timeout=SLICE_S).done and self.close.alive:
                interrupted.check()
            return waiting.result(timeout=0)
        except (RuntimeError, CancelledError, TimeoutError):
            return None, ConnectionAbortedError("the connection was closed")


class Synchronous:
    """An object whose methods are the asynchronous ones of another one, each run in a loop to its end.

    Args:
        loop: The loop.
        target: The object of the driver's.
    """

    def __init__(self, loop: EventLoop, target: Any) -> None:
        self.loop, self.target = loop, target

    def __getattr__(self, name: str) -> Callable[..., Any]:
        request = getattr(self.target, name)
        return lambda *arguments: self.loop.run(request, *arguments)


def _expect_unheard_errors() -> None:
    """Have no error logged of what a driver began by itself and gave up with the request that it was for."""

    def note(_: object, context: dict[str, Any]) -> None:
        get_logger(__name__).debug("In the event loop of a driver: %s", context["message"])

    asyncio.get_running_loop().set_exception_handler(note)


async def _outcome(
    request: Callable[..., Awaitable[T]], arguments: tuple[Any, ...], limit_s: float | None
) -> tuple[T | None, Exception | None]:
    """Return what a request gives or raises: without the traceback, in which a driver may have a cycle."""
    try:
        async with asyncio.timeout(limit_s):
            return await request(*arguments), None
    except Exception as error:  # noqa: BLE001 (raised where the answer is waited for)
        return None, error.with_traceback(None)
