"""Interruption: how a thread that waits hears that nobody waits for its outcome any more.

Nothing can interrupt a thread in Python. An awaitable that runs an operation in one sets an event when it is
cancelled, and what waits in the thread looks at it: `pause`, `Process.lines`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from blocks.base.operation import BoundOperation, Operation, Prepare

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

SLICE_S = 0.5
"""The longest single sleep: Prefect's timeouts and cancellations reach a thread between two of them."""

_interruption: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("interruption", default=None)


def interruption() -> threading.Event:
    """Return the event that is set once the awaitable around this is cancelled; where there is none, it never is."""
    return _interruption.get() or threading.Event()


def set_interruption(event: threading.Event) -> None:
    """Make `event` the interruption of what runs in this context from now on."""
    _interruption.set(event)


def pause(seconds: float) -> None:
    """Wait so many seconds.

    Raises:
        CancelledError: The awaitable around this was cancelled.
    """
    event = interruption()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if event.wait(min(left, SLICE_S)):
            raise asyncio.CancelledError


class WatchedOperation(Operation[P, R]):
    """An operation that waits. When its awaitable form is cancelled, the thread that waits hears of it."""

    @overload
    def __get__(self, instance: None, owner: type) -> Operation[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundOperation[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Operation[P, R] | BoundOperation[P, R]:
        return self if instance is None else _WatchedBound(self, instance)


@overload
def watched_operation(fn: Callable[Concatenate[Any, P], R], /) -> WatchedOperation[P, R]: ...
@overload
def watched_operation(
    *, prepare: Prepare | None = None
) -> Callable[[Callable[Concatenate[Any, P], R]], WatchedOperation[P, R]]: ...
def watched_operation(fn: Callable[..., Any] | None = None, /, *, prepare: Prepare | None = None) -> Any:
    """Turn a block method that waits into an operation; for the arguments see `operation`."""
    return WatchedOperation(fn, prepare) if fn else functools.partial(WatchedOperation, prepare=prepare)


class _WatchedBound(BoundOperation[P, R]):
    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it in a thread, awaitable: the event loop stays free."""
        event = threading.Event()
        token = _interruption.set(event)
        try:
            return await super().aio(*args, **kwargs)
        except asyncio.CancelledError:
            event.set()
            raise
        finally:
            _interruption.reset(token)
