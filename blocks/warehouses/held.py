"""The session that a `with` block of a warehouse is: one connection, on which what a statement leaves behind lasts.

    with Postgres.load("prod") as warehouse:
        warehouse.execute("BEGIN")
        warehouse.execute("INSERT INTO shop VALUES (1)")
        while page := warehouse.fetch_many("SELECT * FROM orders", size=1_000):
            ...                                     # each page once
        warehouse.execute("COMMIT")

It belongs to the thread, and to the task of an event loop, that opened it. It opens its connection with its first
statement, and where that is lost the session is over: its transaction, its temporary tables and its places in results
went with the connection, so no statement after that is run on another one.
"""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from blocks.base.errors import ConnectorError, InvalidInputError, TransientError
from blocks.base.interruption import GRACE_S, caller
from blocks.base.retry import call_with_retry
from blocks.warehouses.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blocks.base.retry import RetryPolicy

LOST = (
    "The connection of this `with` block was lost, and with it its transaction, its temporary tables and its place in "
    "results; what it had committed stays. Run the whole `with` block again."
)


class Rows(Protocol):
    """The rows of a statement that was run, from the first to the last."""

    def take(self, size: int) -> list[Any]:
        """Return the next rows as tuples, at most `size`; none at the end."""


class HeldSession(Session):
    """A session whose transactions its user begins and ends, by statements."""

    @abstractmethod
    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; its rows can be taken while other statements run on the session, and after its transaction."""

    @abstractmethod
    def in_transaction(self) -> bool:
        """Tell whether a transaction is open, which may have failed already."""

    @abstractmethod
    def is_lost(self) -> bool:
        """Tell, after an error, whether the connection is of no use any more."""


class RowsInMemory:
    """Rows that are here already."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows
        self._taken = 0

    def take(self, size: int) -> list[Any]:
        """Return the next rows."""
        found = self._rows[self._taken : self._taken + size]
        self._taken += len(found)
        return found


class Hold:
    """What a warehouse keeps while it is in a `with`.

    Args:
        connect: Opens the session.
        retry: How often that is attempted; the session itself is never made again.
        uri: Where the warehouse is, without secrets.
    """

    def __init__(self, connect: Callable[[], HeldSession], retry: RetryPolicy, uri: str) -> None:
        self._connect, self._retry, self._uri = connect, retry, uri
        self._owner = caller()
        self._session: HeldSession | None = None
        self._places: dict[Any, Rows] = {}
        self._under_way = threading.Lock()
        self._lost = False

    def check_owner(self, name: str) -> None:
        """Raise an error unless this is the thread and the task that the session belongs to.

        Raises:
            InvalidInputError: It is another one.
        """
        if caller() != self._owner:
            raise InvalidInputError(
                f"{name} was called in another thread or asyncio task than the `with` block, which is the session of "
                "one. Give each its own block: a copy (block.model_copy()), or the saved one loaded anew."
            )

    @contextlib.contextmanager
    def session(self) -> Iterator[HeldSession]:
        """Return the session, for one call.

        Raises:
            TransientError: It is lost, now or since an earlier call.
            AmbiguousError: It is lost, and nobody knows whether what was sent last has happened.
            InvalidInputError: Another call is still under way.
        """
        if not self._under_way.acquire(blocking=False):
            raise InvalidInputError(f"Another statement of this `with` block is still under way in {self._uri}.")
        try:
            if self._lost:
                raise TransientError(f"{self._uri}: {LOST}")
            if self._session is None:
                self._session = call_with_retry(self._retry, self._connect)
            try:
                yield self._session
            except ConnectorError as error:
                if not self._session.is_lost():
                    raise
                self._lost = True
                self._places.clear()
                if isinstance(error, TransientError):
                    raise TransientError(f"{error} {LOST}") from None
                raise
        finally:
            self._under_way.release()

    def take(self, sql: str, parameters: Mapping[str, Any] | None, size: int) -> list[Any]:
        """Return the next rows of a statement, which runs when it is new, and anew after its last row."""
        key = _key(sql, parameters)
        with self.session() as session:
            if key not in self._places:
                self._places[key] = session.open_rows(sql, parameters)
            rows = self._places[key].take(size)
            if not rows:
                del self._places[key]
            return rows

    def fetch_all(self, sql: str, parameters: Mapping[str, Any] | None) -> list[Any]:
        """Run a statement and return all its rows; its place is forgotten."""
        with self.session() as session:
            self._places.pop(_key(sql, parameters), None)
            return session.fetch(sql, parameters)

    def forget_places(self) -> None:
        """Have each statement begin at its first row."""
        self._places.clear()

    def is_open_here(self) -> bool:
        """Tell whether a transaction is open, and of this thread and task."""
        if self._session is None or self._lost or caller() != self._owner:
            return False
        with self.session() as session:
            return session.in_transaction()

    def end(self) -> bool:
        """End the session; an open transaction is undone. Tell whether there was one."""
        self._places.clear()
        session, self._session = self._session, None
        if session is None:
            return False
        idle = self._under_way.acquire(timeout=GRACE_S)  # what was interrupted may still clean up
        try:
            found = False
            with contextlib.suppress(ConnectorError):
                if idle and not self._lost and (found := session.in_transaction()):
                    session.rollback()
            return found
        finally:
            with contextlib.suppress(ConnectorError):
                session.close()


current: ContextVar[Hold | None] = ContextVar("held_session", default=None)
"""The session that the operation at work runs in."""


def _key(sql: str, parameters: Mapping[str, Any] | None) -> Any:
    """Return what is the same for the same statement with the same parameters, by value and type."""
    return sql, tuple((name, type(value), repr(value)) for name, value in sorted((parameters or {}).items()))
