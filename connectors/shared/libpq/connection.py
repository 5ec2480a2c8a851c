"""Connections of psycopg whose waits can be interrupted, and end where the server says nothing any more."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from blocks.base.interruption import CALL_GRACE_S, LATE_S, Interruption, interruption
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

LOOK_S = 5.0
"""How long the server may take to say whether it is at work on a statement that it has not answered."""

# A backend that waits for its client, while that waits for the backend, has lost it. One that a pooler lends has
# another number than the client was told: then a statement of the same name and text counts.
WORKING = """
SELECT coalesce(bool_or(busy) FILTER (WHERE pid = %(pid)s), bool_or(busy AND position(%(sql)s IN query) > 0), false)
FROM (
    SELECT pid, query, state = 'active' AND wait_event_type IS DISTINCT FROM 'Client' AS busy FROM pg_stat_activity
    WHERE usename = current_user AND datname = current_database() AND application_name = %(name)s
    AND pid <> pg_backend_pid()
) AS mine
"""

TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND usename = current_user AND application_name = %(name)s
"""


class _Patience:
    """How long one answer is waited for."""

    def __init__(
        self, connection: Any, mine: Interruption, silence_s: float, is_working: Callable[[int], bool]
    ) -> None:
        self._connection, self._mine, self._silence_s, self._is_working = connection, mine, silence_s, is_working
        self._heard_s = time.monotonic()
        self._interrupted_s: float | None = None
        self._doubted_s: float | None = None

    def look(self, *, answered: bool) -> None:
        """Act on an interruption, and on a silence that lasts.

        Raises:
            CancelledError: The thread was interrupted, and the server does not end the statement.
            OperationalError: There was no answer for too long.
        """
        now_s = time.monotonic()
        if answered:
            self._heard_s, self._doubted_s = now_s, None
        elif self._interrupted_s is not None:
            if now_s - self._interrupted_s > CALL_GRACE_S:
                self._connection.pgconn.finish()
                self._mine.check()
        elif self._mine.is_pending():
            self._interrupted_s = now_s
            threading.Thread(target=self._cancel, name="etl-cancel", daemon=True).start()
        elif self._doubted_s is not None:
            if now_s - self._doubted_s > LATE_S:
                self._connection.pgconn.finish()
                operational = require("psycopg", extra="postgres").OperationalError
                raise operational(f"no answer in {self._silence_s:g} s")
        elif now_s - self._heard_s > self._silence_s:
            if self._is_working(self._connection.info.backend_pid):
                self._heard_s = time.monotonic()
            else:
                self._doubted_s = time.monotonic()

    def _cancel(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.cancel()


@functools.cache
def watched_connection() -> Any:
    """Return the class of psycopg's connections whose waits hear of an interruption, and of a server's silence.

    Its `connect` is psycopg's; what it waits for then is set by `watch`.
    """
    psycopg = require("psycopg", extra="postgres")

    class WatchedConnection(psycopg.Connection):  # type: ignore[misc, name-defined]
        """All that psycopg does on a connection waits in `wait`."""

        _silence_s = math.inf
        _is_working: Callable[[int], bool]

        def watch(self, silence_s: float, is_working: Callable[[int], bool]) -> None:
            """Give a statement up after so many seconds without a byte, if the server is not at work on it either.

            Args:
                silence_s: The seconds.
                is_working: Asks the server, on another connection, about the process of this one.
            """
            self._silence_s, self._is_working = silence_s, is_working

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            """Wait for an answer."""
            return super().wait(self._watched(gen), *args, **options)

        def _watched(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """Pass on what psycopg waits for; it comes back at least ten times a second."""
            mine = interruption()
            patience = _Patience(self, mine, self._silence_s, self._is_working)
            try:
                wanted = next(steps)
                while True:
                    ready = yield wanted
                    patience.look(answered=bool(ready))
                    wanted = steps.send(ready)
            except StopIteration as end:
                mine.check()
                return end.value
            except psycopg.errors.QueryCanceled:
                mine.check()
                raise

    return WatchedConnection


def ask(connect: Callable[[], Any], question: str, **parameters: Any) -> bool:
    """Ask a server that leaves a connection without an answer, on another one; false where it does not answer either.

    Args:
        connect: Opens a connection of psycopg.
        question: `WORKING` or `TERMINATE`.
        parameters: Those of the question: `name`, `pid` and `sql`.
    """

    def look() -> bool:
        with connect() as connection:
            row = connection.execute(question, parameters).fetchone()
            return bool(row and row[0])

    return answers(look)


def answers(look: Callable[[], bool]) -> bool:
    """Return what `look` finds; false where it fails, or takes too long, for which it is not waited."""
    found: list[bool] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            found.append(look())

    thread = threading.Thread(target=run, name="etl-look", daemon=True)
    thread.start()
    thread.join(LOOK_S)
    return bool(found and found[0])
