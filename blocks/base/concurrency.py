"""Work on several items at once, in order and within a bound."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Self

T = TypeVar("T")
U = TypeVar("U")

_END = object()


def ordered_map(
    fn: Callable[[T], U], items: Iterable[T], *, workers: int, budget: threading.Semaphore | None = None
) -> Iterator[U]:
    """`fn` of each item, in order, with at most `workers` under way or waiting to be taken.

    After an error nothing new is started; the first error is raised once what is under way has ended.

    Args:
        fn: The work.
        items: What to do it on; taken as there is room.
        workers: How many at once.
        budget: Shared by several maps: one item of each is always under way, more only while the budget has room.
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
        """Whether there is room for one more, whose permit is then taken."""
        if not self.futures:
            return True
        return len(self.futures) < self._workers and (self._budget is None or self._budget.acquire(blocking=False))

    def give_back(self) -> None:
        """Returns a permit, unless there is nothing under way, which has none."""
        if self._budget is not None and self.futures:
            self._budget.release()

    def take(self) -> Future[Any]:
        """The first future, which leaves the window."""
        future = self.futures.popleft()
        self.give_back()
        return future
