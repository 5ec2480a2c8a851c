"""Work on several items at once, in order and within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import queue
import threading
from collections import deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, TypeVar, cast

from blocks.base.interruption import CALL_GRACE_S, SLICE_S, Interruption, interruption, set_interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Self

T = TypeVar("T")
U = TypeVar("U")

_END = object()


class Pool:
    """Threads for what waits for a service, as a context manager.

    Python's own pool waits at its end, and at that of the process, for every thread. Here an error within lets work
    that is under way end, and what interrupts the caller interrupts the work, and leaves behind what goes on.
    """

    def __init__(self, workers: int, name: str = "etl-transfer") -> None:
        self._workers, self._name = workers, name
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
        self._tasks = queue.SimpleQueue()
        self._futures: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._threads: list[Interruption] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        given_up = interruption().is_set() or (kind is not None and not issubclass(kind, (Exception, GeneratorExit)))
        if kind is not None:
            self.cancel()
        try:
            if not given_up:
                self._wait()
        except BaseException:
            given_up = True
            raise
        finally:
            if given_up:
                self.cancel()
            for thread in self._threads:
                self._tasks.put(None)
                if given_up:
                    thread.set()

    def submit(self, fn: Callable[..., U], *args: Any) -> Future[U]:
        """Have a thread call `fn`, and return the future of what it returns."""
        future: Future[U] = Future()
        with self._lock:
            self._futures.add(future)
            self._tasks.put((future, fn, args))
            if len(self._threads) < min(self._workers, len(self._futures)):
                self._threads.append(Interruption())
                context = contextvars.Context()
                context.run(set_interruption, self._threads[-1])
                threading.Thread(target=context.run, args=(self._work,), name=self._name, daemon=True).start()
        return future

    def cancel(self) -> None:
        """Drop what has not begun."""
        with self._lock:
            futures = list(self._futures)
        for future in futures:
            future.cancel()

    def _wait(self) -> None:
        while True:
            with self._lock:
                futures = {future for future in self._futures if not future.done()}
            if not futures:
                return
            wait(futures, timeout=SLICE_S)
            interruption().check()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, fn, args = task
            if future.set_running_or_notify_cancel():
                try:
                    value = fn(*args)
                except BaseException as error:  # noqa: BLE001 (handed to whoever asks for the result)
                    future.set_exception(error)
                else:
                    future.set_result(value)
                    del value
            with self._lock:
                self._futures.discard(future)
            del task, future, fn, args


def result_of(future: Future[U]) -> U:
    """Return the result of work in a `Pool` once it is there.

    Raises:
        CancelledError: The thread that waits was interrupted.
    """
    mine = interruption()
    while not future.done():
        wait([future], timeout=SLICE_S)
        mine.check()
    return future.result()


def ordered_map(
    fn: Callable[[T], U], items: Iterable[T], *, workers: int, budget: threading.Semaphore | None = None
) -> Iterator[U]:
    """Yield `fn` of each item, in order, with at most `workers` under way or waiting to be taken.

    After an error nothing new is started; the first error is raised once everything under way has ended, but at once
    where the caller is interrupted.

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
    with Pool(workers) as pool, _Window(workers, budget) as window:
        while True:
            while window.opens():
                item = next(rest, _END)
                if item is _END:
                    window.give_back()
                    break
                window.futures.append(pool.submit(fn, cast("T", item)))
            if not window.futures:
                return
            yield result_of(window.take())


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

    An error of the producer is raised in the consumer. A consumer that stops early, or is interrupted, ends the
    producer; one that waits for something that does not answer is left behind.
    """
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room = threading.Condition()
    state = {"ahead": 0, "stopped": False}
    # A driver may take the items in a thread of its own, which knows nothing of the one that called it.
    caller, producer = interruption(), Interruption()

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

    def take() -> tuple[str, Any]:
        consumer = interruption()
        while True:
            try:
                return ready.get(timeout=SLICE_S)
            except queue.Empty:
                if caller.is_set() or consumer.is_set():
                    raise asyncio.CancelledError from None

    def consume() -> Generator[T, None, None]:
        context = contextvars.Context()
        context.run(set_interruption, producer)
        thread = threading.Thread(target=context.run, args=(produce,), name="etl-read-ahead", daemon=True)
        thread.start()
        try:
            while True:
                kind, value = take()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                with room:
                    state["ahead"] -= size(value)
                    room.notify()
                yield value
        finally:
            producer.set()
            with room:
                state["stopped"] = True
                room.notify()
            thread.join(CALL_GRACE_S)

    return consume()
