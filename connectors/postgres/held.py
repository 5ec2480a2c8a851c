"""The session of a `with` block: a connection whose transactions are those of its user.

Outside of these each statement is a transaction of its own, as in `connectors.postgres.session`, whose answer is never
guessed. A COMMIT is looked up where its answer is lost, here too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from blocks.base.errors import AmbiguousError, UnsupportedError
from blocks.base.optional import require
from blocks.warehouses.sql import session_words
from connectors.postgres.literals import with_literals
from connectors.postgres.session import NOTE, PostgresServer, PostgresSession, setting
from connectors.shared.libpq.dialect import PostgresDialect
from connectors.shared.libpq.held import LibpqHeldSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blocks.warehouses.sql import SessionWords

T = TypeVar("T")


class PostgresHeldSession(LibpqHeldSession, PostgresSession):
    """A psycopg connection that keeps what statements leave behind."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server)
        with self._translated("connect to"):
            self._lasts = server.settle(self._connection)
        if self._lasts:
            self._opening = ["BEGIN"]  # what is set for each transaction would undo what the user has set

    def _complete(self, action: str, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        words = session_words(sql, PostgresDialect.literals)
        in_one = words.opens_transaction or words.ends_transaction or self.in_transaction()
        if self._in_transaction or not (in_one or words.nothing_else):
            return super()._complete(action, sql, parameters, read)
        if not (self._lasts or in_one):
            raise UnsupportedError(
                f"{words.first} lasts in a session, and the pooler of {self._server.uri()} keeps none. Use a block "
                "that reaches the server directly, or do it between BEGIN and COMMIT."
            )
        return self._complete_as_it_is(action, with_literals(sql, parameters), words, read)

    def _complete_as_it_is(self, action: str, text: str, words: SessionWords, read: Callable[[Any], T]) -> T:
        """Run what begins, ends or is part of a transaction of the user, or lasts no longer than the session."""
        psycopg, pq = (require(f"psycopg{part}", extra="postgres") for part in ("", ".pq"))
        self._transaction = None, 0
        try:
            if words.ends_transaction and self._connection.info.transaction_status == pq.TransactionStatus.INTRANS:
                self._transaction = self._connection.execute(NOTE).fetchone()
            cursor = self._connection.execute(text)
            if words.opens_transaction and not self._lasts:
                self._connection.execute(setting(self._server.transaction_settings()))
        except psycopg.Error as error:
            if not words.ends_transaction or not self._is_lost():
                raise self._undone(error, action, text) from None
            if self._transaction[0] is None:  # it changed nothing
                raise self._server.translate(error, action) from None
            self._resolve(AmbiguousError(str(self._server.translate(error, "commit", ambiguous=True))))
            return read(SimpleNamespace(rowcount=-1, description=None))  # it is committed, as its user wanted
        self._check_committed(words, cursor)
        return read(cursor)
