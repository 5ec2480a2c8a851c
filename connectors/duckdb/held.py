"""The session of a `with` block: one connection of DuckDB, whose transactions are those of its user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blocks.base.errors import ConnectorError, TerminalError
from blocks.base.optional import require
from blocks.warehouses.held import HeldSession, RowsInMemory
from blocks.warehouses.sql import session_words
from connectors.duckdb.session import DuckDBSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blocks.warehouses.held import Rows


class DuckDBHeldSession(DuckDBSession, HeldSession):
    """A connection that keeps what statements leave behind."""

    def open_rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a query; DuckDB keeps its rows in columns, until they are taken."""
        duckdb = require("duckdb", extra="duckdb")
        bound, values = self._bound(sql, parameters)
        with self._translated("run a query"):
            statements = self._connection.extract_statements(bound)
            if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
                return RowsInMemory(self._calls.run(lambda: self._connection.execute(bound, values).fetchall()))
            relation = self._calls.run(lambda: self._connection.sql(bound, params=values).materialize())
        return _Taken(self, relation)

    def take(self, relation: Any, offset: int, size: int) -> list[Any]:
        """Return rows of a result that DuckDB keeps."""
        with self._translated("run a query"):
            return list(self._calls.run(lambda: relation.limit(size, offset).fetchall()))

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open: outside of one each statement has a number of its own."""
        try:
            first, second = (super(DuckDBHeldSession, self).fetch("SELECT txid_current()") for _ in range(2))
        except ConnectorError:  # one that has failed takes no statement
            return not self._calls.lost
        return bool(first == second)

    def is_lost(self) -> bool:
        """Tell whether a call was left behind on the connection."""
        return self._calls.lost

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed; -1 where DuckDB does not say."""
        self._check_commit(sql)
        return super().execute(sql, parameters)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows."""
        self._check_commit(sql)
        return super().fetch(sql, parameters, size=size)

    def _check_commit(self, sql: str) -> None:
        """Refuse to commit a transaction that has failed, which DuckDB would undo without a word.

        Raises:
            TerminalError: It had failed; it is undone now.
        """
        words = session_words(sql, self._dialect.literals)
        if not words.first.startswith(("COMMIT", "END")):
            return
        failed = require("duckdb", extra="duckdb").TransactionException
        try:
            self._calls.run(lambda: self._connection.execute("SELECT 1"))
        except failed:
            self.rollback()
            raise TerminalError(
                f"{words.first} undid the transaction in {self._database.uri()}: a statement of it had failed before. "
                "Nothing of it was applied."
            ) from None


class _Taken:
    """The rows of a result that DuckDB keeps."""

    def __init__(self, session: DuckDBHeldSession, relation: Any) -> None:
        self._session, self._relation = session, relation
        self._taken = 0

    def take(self, size: int) -> list[Any]:
        """Return the next rows."""
        rows: list[Any] = self._session.take(self._relation, self._taken, size)
        self._taken += len(rows)
        return rows
