"""The session of a `with` block: one connection of PyMySQL, whose transactions are those of its user."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from blocks.base.errors import ConnectorError
from blocks.base.interruption import CALL_GRACE_S
from blocks.base.optional import require
from blocks.warehouses.held import HeldSession, RowsInMemory
from connectors.mysql.session import QUERIES, MySQLSession, first_word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blocks.warehouses.held import Rows

T = TypeVar("T")

UNDONE = ("insert", "update", "delete", "replace")
"""Statements that the server undoes with their transaction, if the connection is lost; others may commit it."""


class MySQLHeldSession(MySQLSession, HeldSession):
    """A connection that keeps what statements leave behind."""

    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; its rows are here, until they are taken."""
        return RowsInMemory(self.fetch(sql, parameters))

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open; the server says it with each answer."""
        with self._translated("look at the session"):
            self._call(self._connection.ping)
        return self._is_open_as_last_told()

    def is_lost(self) -> bool:
        """Tell whether the connection is lost; where the client does not know, the server is asked."""
        if self._is_usable():
            with contextlib.suppress(ConnectorError):
                self.in_transaction()
        return not self._is_usable()

    def rollback(self) -> None:
        """Undo what is open; a server that says nothing does so when the connection ends."""
        self._in_transaction = False
        if self._is_usable():
            with contextlib.suppress(ConnectorError), self._translated("roll back"):
                self._calls.run(lambda: self._connection.query("ROLLBACK"), timeout_s=CALL_GRACE_S)

    def _is_open_as_last_told(self) -> bool:
        flags = require("pymysql.constants.SERVER_STATUS", extra="mysql")
        return bool(self._connection.server_status & flags.SERVER_STATUS_IN_TRANS)

    def _complete(
        self,
        action: str,
        sql: str,
        parameters: Mapping[str, Any] | None,
        read: Callable[[int], T],
        *,
        runs: bool = True,
    ) -> T:
        """Run a statement as it is: in the transaction that is open, or by itself."""
        text = self._bound(sql, parameters)
        word = first_word(text, self._dialect.literals)
        undone = word in QUERIES or (word in UNDONE and (self._in_transaction or self._is_open_as_last_told()))
        with self._translated(action, sent=not undone):
            return self._call(lambda: read(self._connection.query(text) if runs else 0))
