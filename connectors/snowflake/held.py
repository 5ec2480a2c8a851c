"""The session of a `with` block: a connection of the driver, whose transactions are those of its user."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from blocks.base.errors import TransientError
from blocks.warehouses.held import HeldSession
from blocks.warehouses.sql import session_words
from connectors.snowflake.dialect import LITERALS
from connectors.snowflake.session import PAUSE_S, SnowflakeSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blocks.warehouses.held import Rows


class SnowflakeHeldSession(SnowflakeSession, HeldSession):
    """A connection that keeps what statements leave behind, however long its user pauses."""

    _is_over = False

    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; the service keeps its rows, in files, until they are taken."""
        with self._translated("run a query", sql=sql):
            return _RowsOfCursor(self, self._start(sql, parameters))

    def take(self, cursor: Any, size: int) -> list[Any]:
        """Return the next rows of a cursor."""
        with self._translated("run a query"):
            return list(self._calls.run(lambda: cursor.fetchmany(size)))

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open: a statement that shapes a table has committed it."""
        if self._in_transaction and not self._is_over:
            self._in_transaction = self._open_number() is not None
        return self._in_transaction

    def is_lost(self) -> bool:
        """Tell whether a request went without an answer, or the transaction without its user's doing."""
        return self._is_over or self._calls.lost

    def _start(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        words = session_words(sql, LITERALS)
        if words.ends_transaction:
            self._in_transaction = False  # what is lost now may have happened
        cursor = super()._start(sql, parameters)
        if words.opens_transaction:
            self._in_transaction = True
        return cursor

    def _check_pause(self) -> None:
        """Look, after a pause within a transaction, whether it is still there: what came next would commit by itself.

        Raises:
            TransientError: It is not.
        """
        pause = self._clock() - self._last_s
        if self._in_transaction and pause > PAUSE_S and self._open_number() is None:
            self._is_over = True
            raise TransientError(f"The transaction in {self._account.uri()} was undone, in a pause of {pause:.0f} s.")

    def _open_number(self) -> Any:
        query = "SELECT CURRENT_TRANSACTION()"
        found = self._calls.run(lambda: self._connection.cursor().execute(query).fetchall())
        self._last_s = self._clock()
        return found[0][0]

    @contextlib.contextmanager
    def _translated(self, action: str, *, sql: str = "") -> Iterator[None]:
        with super()._translated(action, sql=sql):
            try:
                yield
            except self._error as error:
                self._is_over = self._is_over or self._was_not_answered(error)
                raise


class _RowsOfCursor:
    """The rows of a cursor."""

    def __init__(self, session: SnowflakeHeldSession, cursor: Any) -> None:
        self._session, self._cursor = session, cursor

    def take(self, size: int) -> list[Any]:
        """Return the next rows."""
        return self._session.take(self._cursor, size)
