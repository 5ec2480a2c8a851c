"""A session by psycopg: any statement, rows as Python values."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from blocks.base.errors import ConnectorError
from blocks.base.optional import require
from blocks.warehouses.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")


class Server(Protocol):
    """What a session needs of the block of its database."""

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def connect_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection; the caller closes it."""

    def translate(
        self, error: BaseException, action: str, *, ambiguous: bool = False, statement: str = ""
    ) -> ConnectorError:
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
        return int(self._complete("run a statement", sql, parameters, lambda cursor: cursor.rowcount))

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Return the rows of a query, or of a statement that returns some."""

        def rows(cursor: Any) -> list[Any]:
            if cursor.description is None:
                return []
            return list(cursor.fetchall() if size is None else cursor.fetchmany(size))

        return self._complete("run a query", sql, parameters, rows)

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

    @abstractmethod
    def _complete(self, action: str, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        """Run a statement and return what `read` makes of its cursor; outside of a transaction it commits itself.

        Raises:
            AmbiguousError: Its answer was lost, and it may have happened.
            TransientError: It did not happen, or may happen twice.
        """

    @contextlib.contextmanager
    def _translated(self, action: str, *, sent: bool = False) -> Iterator[None]:
        psycopg = require("psycopg", extra="postgres")
        try:
            yield
        except psycopg.Error as error:
            raise self._server.translate(error, action, ambiguous=sent and self._is_lost()) from None

    def _is_lost(self) -> bool:
        return bool(self._connection.broken or self._connection.closed)
