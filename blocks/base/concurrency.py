"""Work on several items at once, in order and within a bound."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Self

T = TypeVar("T")
U = TypeVar("U")

_END = object()


def ordered_map(
    fn: Callable[[T], U], items: Iterable[T], *, workers: int, budget: threading.Semaphore | None = None
) -> Iterator[U]:
    """Yield `fn` of each item, in order, with at most `workers` under way or waiting to be taken.

    After an error nothing new is started; the first error is raised once everything under way has ended.

    Args:
        fn: The work.
        items: The items, taken as there is room.
        workers: How many at once.
        budget: Shared by several maps: each may always have one item under way, and more while the budget has room.
    """
    iterator = iter(items)
    head = [item for _, item in zip(range(2), iterator, strict=False)]
    if len(head) < 2:  # noqa: PLR2004 (one item needs no thread)
        yield from map(fn, head)
        return
    rest = itertools.chain(head, iterator)
    with ThreadPoolExecutor(workers, thread_name_prefix="etl-transfer") as pool, _Window(workers, budget) as window:
        while True:
            while window.opens():
                item = next(rest, _END)
                if item is _END:
                    window.give_back()
                    break
                window.futures.append(pool.submit(fn, cast("T", item)))
            if not window.futures:
                return
            yield window.take().result()


class _Window:
    """The futures under way: the first has its place, each further one takes a permit of the budget."""

    def __init__(self, workers: int, budget: threading.Semaphore | None) -> None:
        self._workers, self._budget = workers, budget
        self.futures: deque[Future[Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self.futures:
            future.cancel()
        while self.futures:
            self.take()

    def opens(self) -> bool:
        """Return whether there is room for one more, and take its permit."""
        if not self.futures:
            return True
        return len(self.futures) < self._workers and (self._budget is None or self._budget.acquire(blocking=False))

    def give_back(self) -> None:
        """Return a permit, unless nothing is under way, which has none."""
        if self._budget is not None and self.futures:
            self._budget.release()

    def take(self) -> Future[Any]:
        """Remove and return the first future."""
        future = self.futures.popleft()
        self.give_back()
        return future


def read_ahead(items: Iterable[T], *, size: Callable[[T], int], limit: int) -> Generator[T, None, None]:  # noqa: C901
    """Yield `items`, produced in a thread that runs at most `limit` (as measured by `size`) ahead.

    An error of the producer is raised in the consumer, and a consumer that stops early ends the producer.
    """
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room = threading.Condition()
    state = {"ahead": 0, "stopped": False}

    def produce() -> None:
        try:
            with contextlib.ExitStack() as stack:
                iterator = iter(items)
                if close := getattr(iterator, "close", None):
                    stack.callback(close)
                for item in iterator:
                    with room:
                        room.wait_for(lambda: state["ahead"] < limit or state["stopped"])
                        if state["stopped"]:
                            return
                        state["ahead"] += size(item)
                    ready.put(("item", item))
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, whatever it is)
            ready.put(("error", error))
        else:
            ready.put(("end", None))

    def consume() -> Generator[T, None, None]:
        thread = threading.Thread(target=produce, name="etl-read-ahead", daemon=True)
        thread.start()
        try:
            while True:
                kind, value = ready.get()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                with room:
                    state["ahead"] -= size(value)
                    room.notify()
                yield value
        finally:
            with room:
                state["stopped"] = True
                room.notify()
            thread.join()

    return consume()
