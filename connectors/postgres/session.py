"""A session by psycopg whose statements are never run blindly again, behind a pooler too.

* Each statement runs in a transaction, whose COMMIT is sent only when the answer to the statement is here. If the
  answer is lost, the server undoes the statement: it can run again, unless it calls what no transaction undoes.
* If the answer to COMMIT is lost, the server is asked what became of the transaction.
  https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
* What a statement needs of its session is set in its transaction: a pooler keeps nothing else.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from blocks.base.errors import AmbiguousError, ConnectorError, TransientError, UnsupportedError
from blocks.base.interruption import pause
from blocks.base.optional import require
from blocks.base.retry import call_with_retry
from blocks.warehouses.sql import strip_literals
from connectors.postgres import outside
from connectors.postgres.literals import literal, with_literals
from connectors.shared.libpq.dialect import PostgresDialect
from connectors.shared.libpq.session import LibpqSession, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blocks.base.retry import RetryPolicy

T = TypeVar("T")

NOT_IN_A_TRANSACTION = ("25001", "2D000")
"""What the server says, before it does anything or after it has undone it, of VACUUM, CREATE DATABASE, CREATE INDEX
CONCURRENTLY and others, and of a procedure that commits."""
ENDS_TRANSACTION = re.compile(r"(?:^|;)\s*(?:commit|end|rollback|abort|prepare\s+transaction)\b", re.IGNORECASE)
NOTE = "SELECT pg_current_xact_id_if_assigned()::text, pg_backend_pid()"
END_POLLS, END_POLL_S = 200, 0.05
LOOKS_AFTER_CLIENT = """CASE WHEN current_setting('server_version_num')::int >= 140000 AND version() LIKE '%linux%'
THEN set_config('client_connection_check_interval', '5s', {}) END"""
"""Has the server end a statement whose client is gone, by a signal that no Python code sees, where it can."""


class PostgresServer(Server, Protocol):
    """What a session needs of the block of its database."""

    schema_: str
    retry: RetryPolicy

    def open_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection with the server's own settings; the caller closes it."""

    def transaction_settings(self, label: str = "") -> Mapping[str, str]:
        """Return what each transaction sets for itself, by the server's names."""

    def settle(self, connection: Any) -> bool:
        """Give a connection the settings of the block for good; False where a pooler would not keep them."""


class PostgresSession(LibpqSession):
    """A psycopg connection: any statement, rows as Python values."""

    _server: PostgresServer

    def __init__(self, server: PostgresServer, label: str = "") -> None:
        self._server = server
        self._connection = server.open_psycopg(label)
        self._connection.autocommit = True
        self._opening = ["BEGIN", setting(server.transaction_settings(label))]
        self._in_transaction = False
        self._is_open = False
        self._transaction: tuple[str | None, int] = None, 0

    def begin(self) -> None:
        """Start a transaction; its first statement carries it to the server."""
        self._in_transaction, self._is_open = True, False

    def commit(self) -> None:
        """Commit it; where the answer is lost, ask the server.

        Raises:
            TransientError: It was undone.
            AmbiguousError: The answer was lost, and the server cannot be asked.
        """
        self._in_transaction = False
        if not self._is_open:
            return
        psycopg = require("psycopg", extra="postgres")
        try:
            self._connection.execute("COMMIT")
        except psycopg.Error as error:
            if not self._is_lost():
                raise self._server.translate(error, "commit") from None
            self._resolve(AmbiguousError(str(self._server.translate(error, "commit", ambiguous=True))))

    def _complete(self, action: str, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        text, psycopg = with_literals(sql, parameters), require("psycopg", extra="postgres")
        if self._in_transaction:
            try:
                return read(self._run(text))
            except psycopg.Error as error:
                raise self._undone(error, action, text) from None
        if ENDS_TRANSACTION.search(_code(text)):
            return self._complete_alone(action, text, read)
        self.begin()
        try:
            answer = read(self._run(text))
        except psycopg.Error as error:
            self.rollback()
            if error.sqlstate in NOT_IN_A_TRANSACTION:
                return self._complete_alone(action, text, read)
            raise self._undone(error, action, text) from None
        except BaseException:
            self.rollback()
            raise
        self.commit()
        return answer

    def _run(self, text: str) -> Any:
        """Run a statement of the transaction in one round trip, and note the transaction's id."""
        connection, opening = self._connection, [] if self._is_open else self._opening
        if ";" in _code(text).rstrip("; \n\r\t"):  # a script, which only goes by itself
            if opening:
                connection.execute("; ".join(opening))
            cursor, note = connection.execute(text), connection.execute(NOTE)
        else:
            with pipeline(connection):
                for statement in opening:
                    connection.execute(statement)
                cursor, note = connection.execute(text), connection.execute(NOTE)
        self._transaction = note.fetchone()
        self._is_open = True
        return cursor

    def _complete_alone(self, action: str, text: str, read: Callable[[Any], T]) -> T:
        """Run what no transaction holds. Nobody knows what became of it if its answer is lost."""
        with self._translated(action):
            if not self._server.settle(self._connection):
                found = self._connection.execute("SELECT current_schema()").fetchone()[0]
                if found != self._server.schema_:
                    raise UnsupportedError(
                        f"The statement cannot run in a transaction, and the pooler of {self._server.uri()} keeps the "
                        f"block's schema only for one. Use a block that reaches the server directly, or make "
                        f"{self._server.schema_} the role's own: ALTER ROLE ... SET search_path."
                    )
        with self._translated(action, sent=True):
            return read(self._connection.execute(text))

    def _undone(self, error: BaseException, action: str, text: str) -> ConnectorError:
        """Return the error of a statement that the server undoes; what it did elsewhere stays done."""
        found = self._server.translate(error, action, statement=text)
        if not self._is_lost():
            return found
        try:
            called = call_with_retry(self._server.retry, lambda: self._find_outside(text))
        except TransientError as other:
            return AmbiguousError(f"{found} Nor could the server be asked whether it can run again ({other}).")
        if called is None:
            return found
        return AmbiguousError(
            f"{found} Its transaction is undone, but it may have run {called}, which acts outside of it: look before "
            "you run it again."
        )

    def _find_outside(self, text: str) -> str | None:
        """Return what the statement leads to that acts outside of its transaction; None where nothing does."""
        if outside.runs_program(text):
            return "a program"
        with self._translated("look up functions"), self._server.open_psycopg() as connection:
            row = connection.execute(*outside.query(text)).fetchone()
        return row and f"{row[0]}()"

    def _resolve(self, lost: AmbiguousError) -> None:
        """Return if the transaction whose COMMIT was not answered is committed."""
        number, process = self._transaction
        if number is None:  # it changed nothing
            return
        try:
            status = call_with_retry(self._server.retry, lambda: self._find_status(number, process))
        except TransientError as error:
            raise AmbiguousError(f"{lost} Nor could the server be asked ({error}).") from None
        if status == "aborted":
            raise TransientError(f"{lost} The server undid it: it can run again.")
        if status != "committed":
            raise lost

    def _find_status(self, number: str, process: int) -> str | None:
        """Return what became of a transaction, which is ended if it lasts: a COMMIT may still be on its way."""
        with self._translated("look up a transaction"), self._server.open_psycopg() as connection:
            connection.autocommit = True
            for _ in range(END_POLLS):
                status: str | None = connection.execute("SELECT pg_xact_status(%s::xid8)", [number]).fetchone()[0]
                if status != "in progress":
                    return status
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid = %s AND backend_xid = %s::xid8::xid",
                    [process, number],
                )
                pause(END_POLL_S)
        raise TransientError(f"Transaction {number} still runs in {self._server.uri()}.")


def setting(settings: Mapping[str, str], *, local: bool = True) -> str:
    """Return the statement that sets what a transaction, or a session, is to have."""
    scope = "true" if local else "false"
    values = [f"set_config({literal(name)}, {literal(value)}, {scope})" for name, value in settings.items()]
    return f"SELECT {', '.join(values)}, {LOOKS_AFTER_CLIENT.format(scope)}"


def _code(sql: str) -> str:
    return strip_literals(sql, PostgresDialect.literals)


@contextlib.contextmanager
def pipeline(connection: Any) -> Iterator[None]:
    """Send what is executed within in one round trip.

    The first error is raised alone. psycopg would also log that the statements behind it were not run.
    """
    error_of = require("psycopg", extra="postgres").Error
    first: BaseException | None = None
    try:
        with connection.pipeline():
            try:
                yield
            except error_of as error:
                first = error
    except error_of:
        if first is None:
            raise
    if first is not None:
        raise first
