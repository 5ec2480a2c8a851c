"""The session of a `with` block, by psycopg: what PostgreSQL and Redshift share of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from blocks.base.errors import TerminalError
from blocks.base.interruption import CALL_GRACE_S
from blocks.base.optional import require
from blocks.warehouses.held import HeldSession, RowsInMemory
from connectors.shared.libpq.session import LibpqSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blocks.warehouses.held import Rows
    from blocks.warehouses.sql import SessionWords


class LibpqHeldSession(LibpqSession, HeldSession):
    """A psycopg connection that keeps what statements leave behind."""

    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; libpq keeps its rows as they came, until they are taken."""
        cursor: Any = self._complete("run a query", sql, parameters, lambda cursor: cursor)
        return RowsInMemory([]) if cursor.description is None else _RowsOfCursor(self, cursor)

    def take(self, cursor: Any, size: int) -> list[Any]:
        """Return the next rows of a cursor."""
        with self._translated("run a query"):
            return list(cursor.fetchmany(size))

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open; the client knows."""
        status = require("psycopg.pq", extra="postgres").TransactionStatus
        return self._connection.info.transaction_status in (status.INTRANS, status.INERROR)

    def is_lost(self) -> bool:
        """Tell whether the connection is lost; where the client does not know, the server is asked."""
        if not self._is_lost():
            with contextlib.suppress(require("psycopg", extra="postgres").Error):
                self._connection.execute("SELECT 1")
        return self._is_lost()

    def rollback(self) -> None:
        """Undo what is open; a server that says nothing does so when the connection ends."""
        with self._connection.answering_within(CALL_GRACE_S):
            super().rollback()

    def _check_committed(self, words: SessionWords, cursor: Any) -> None:
        """Raise an error where the server answered a COMMIT with ROLLBACK.

        Raises:
            TerminalError: It did.
        """
        if words.first.startswith(("COMMIT", "END")) and cursor.statusmessage == "ROLLBACK":
            raise TerminalError(
                f"{words.first} undid the transaction in {self._server.uri()}: a statement of it had failed before. "
                "Nothing of it was applied."
            )


class _RowsOfCursor:
    """The rows of a cursor."""

    def __init__(self, session: LibpqHeldSession, cursor: Any) -> None:
        self._session, self._cursor = session, cursor

    def take(self, size: int) -> list[Any]:
        """Return the next rows."""
        return self._session.take(self._cursor, size)
