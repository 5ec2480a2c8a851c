"""The session of a `with` block: a connection whose transactions are those of its user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from blocks.warehouses.sql import session_words
from connectors.redshift.dialect import RedshiftDialect
from connectors.redshift.session import RedshiftSession
from connectors.shared.libpq.held import LibpqHeldSession

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class RedshiftHeldSession(LibpqHeldSession, RedshiftSession):
    """A psycopg connection that keeps what statements leave behind."""

    def _complete(self, action: str, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        words = session_words(sql, RedshiftDialect.literals)
        in_one = words.opens_transaction or words.ends_transaction or self.in_transaction()
        if self._in_transaction or not (in_one or words.nothing_else):
            return super()._complete(action, sql, parameters, read)
        with self._translated(action, sent=words.ends_transaction):
            cursor = self._run(sql, parameters)
        self._check_committed(words, cursor)
        return read(cursor)
