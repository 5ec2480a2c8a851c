"""A session by psycopg: any statement, rows as Python values."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Protocol

from blocks.base.errors import ConnectorError
from blocks.base.optional import require
from blocks.warehouses.session import Session
from blocks.warehouses.sql import bind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Server(Protocol):
    """What a session needs of the block of its database."""

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def connect_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection; the caller closes it."""

    def translate(self, error: BaseException, action: str, *, ambiguous: bool = False) -> ConnectorError:
        """Return the error of this package for one of the driver's."""


class LibpqSession(Session):
    """A psycopg connection: any statement, rows as Python values."""

    def __init__(self, server: Server, label: str = "") -> None:
        self._server = server
        self._connection = server.connect_psycopg(label)
        self._connection.autocommit = True
        self._in_transaction = False

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed."""
        with self._translated("run a statement", sent=True):
            return int(self._run(sql, parameters).rowcount)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Return the rows of a query, or of a statement that returns some."""
        with self._translated("run a query", sent=not _only_reads(sql)):
            cursor = self._run(sql, parameters)
            if cursor.description is None:
                return []
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

    def begin(self) -> None:
        """Start a transaction."""
        with self._translated("start a transaction"):
            self._connection.execute("BEGIN")
        self._in_transaction = True

    def commit(self) -> None:
        """Commit it."""
        self._in_transaction = False
        with self._translated("commit", sent=True):
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo it."""
        self._in_transaction = False
        with contextlib.suppress(ConnectorError), self._translated("roll back"):
            self._connection.rollback()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        if not parameters:
            return self._connection.execute(sql)
        bound = bind(sql.replace("%", "%%"), parameters, lambda name: f"%({name})s")
        return self._connection.execute(bound, dict(parameters))

    @contextlib.contextmanager
    def _translated(self, action: str, *, sent: bool = False) -> Iterator[None]:
        psycopg = require("psycopg", extra="postgres")
        try:
            yield
        except psycopg.Error as error:
            lost = self._connection.broken or self._connection.closed
            ambiguous = sent and lost and self._may_have_happened(action)
            raise self._server.translate(error, action, ambiguous=ambiguous) from None

    def _may_have_happened(self, action: str) -> bool:  # noqa: ARG002 (for subclasses)
        """Tell whether an action whose answer was lost may have had its effect, and must not be done twice."""
        return not self._in_transaction


def _only_reads(sql: str) -> bool:
    """Tell whether it is safe to run a statement again when its answer was lost.

    >>> _only_reads("select 1"), _only_reads("with d as (delete from t returning *) select * from d")
    (True, False)
    """
    words = re.findall(r"[a-z_]+", sql.lower())
    writes = {"insert", "update", "delete", "merge"}
    return bool(words) and words[0] in ("select", "with", "values", "table", "show") and writes.isdisjoint(words)
