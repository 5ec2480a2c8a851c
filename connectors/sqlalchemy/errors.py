"""What SQLAlchemy and its drivers raise, as our errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from blocks.base import errors

if TYPE_CHECKING:
    from blocks.base.errors import ConnectorError

ERRORS: dict[str, type[ConnectorError]] = {
    # SQLAlchemy's own classes, of which an error's nearest counts: https://docs.sqlalchemy.org/en/20/core/exceptions.html
    "IntegrityError": errors.InvalidInputError,
    "DataError": errors.InvalidInputError,
    "ProgrammingError": errors.InvalidInputError,
    "NotSupportedError": errors.UnsupportedError,
    "InterfaceError": errors.TerminalError,
    "OperationalError": errors.TerminalError,
    "InternalError": errors.TerminalError,
    "NoSuchModuleError": errors.MissingDriverError,
    "ArgumentError": errors.InvalidInputError,
    "StatementError": errors.InvalidInputError,
    "TimeoutError": errors.TransientError,
    "DBAPIError": errors.TerminalError,
    "SQLAlchemyError": errors.TerminalError,
}

SQLITE_ERRORS: dict[str, type[ConnectorError]] = {
    # https://www.sqlite.org/rescode.html
    "SQLITE_CONSTRAINT_UNIQUE": errors.AlreadyExistsError,
    "SQLITE_CONSTRAINT_PRIMARYKEY": errors.AlreadyExistsError,
    "SQLITE_CONSTRAINT_ROWID": errors.AlreadyExistsError,
    "SQLITE_BUSY": errors.TransientError,
    "SQLITE_LOCKED": errors.TransientError,
    "SQLITE_SCHEMA": errors.TransientError,
    "SQLITE_PROTOCOL": errors.TransientError,
    "SQLITE_READONLY": errors.AccessDeniedError,
    "SQLITE_PERM": errors.AccessDeniedError,
    "SQLITE_AUTH": errors.AccessDeniedError,
    "SQLITE_CANTOPEN": errors.NotFoundError,
    "SQLITE_NOTADB": errors.InvalidInputError,
    "SQLITE_MISMATCH": errors.InvalidInputError,
    "SQLITE_TOOBIG": errors.InvalidInputError,
    "SQLITE_RANGE": errors.InvalidInputError,
    "SQLITE_CONSTRAINT": errors.InvalidInputError,
    "SQLITE_ERROR": errors.InvalidInputError,
}
"""By the name of the result code, or the longest beginning of it that is here."""

SQLITE_WORDS: tuple[tuple[str, type[ConnectorError]], ...] = (
    (r"no such table", errors.NotFoundError),
    (r"unknown database", errors.NotFoundError),
    (r"already exists|duplicate column name", errors.AlreadyExistsError),
)
"""What one code stands for in several cases."""

SQLITE_ADVICE = {
    "SQLITE_BUSY": "Another connection has written to the file for longer than lock_timeout_s.",
    "SQLITE_CANTOPEN": "Check the path, and that its directory is there.",
    "SQLITE_READONLY": "The user of this process needs to write to the file and to its directory.",
}


def translate(error: BaseException, action: str, uri: str) -> ConnectorError:
    """Return the error of this package for one of SQLAlchemy's; rows and bound values are not in it."""
    origin: Any = getattr(error, "orig", None) or error
    place = f"Could not {action} in {uri}"
    code = getattr(origin, "sqlite_errorname", None)
    if code:
        words = " ".join(str(origin).split()).rstrip(".")
        if code == "SQLITE_CONSTRAINT_CHECK":  # it says the condition, which may hold a value
            words = "CHECK constraint failed"
        advice = next((text for name, text in SQLITE_ADVICE.items() if code.startswith(name)), "")
        return _sqlite_kind(code, words)(f"{place}: {words} ({code}). {advice}".rstrip())
    if isinstance(error, ImportError):
        return errors.MissingDriverError(f"{place}: the module {error.name} is not installed. Install its package.")
    names = [kind.__name__ for kind in type(error).__mro__]
    kind = next((ERRORS[name] for name in names if name in ERRORS), errors.TerminalError)
    if getattr(error, "connection_invalidated", False):
        kind = errors.TransientError
    if names[0] == "NoSuchModuleError":
        return kind(f"{place}: SQLAlchemy has no such dialect or driver installed. Install its package.")
    if (
        names[0] == "ProgrammingError" and type(origin).__module__ == "sqlite3"
    ):  # of the module itself: it quotes no value
        return kind(f"{place}: {' '.join(str(origin).split())}")
    # The words of other databases may quote values; their class and code do not.
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None) or next(iter(origin.args), None)
    label = f", code {state}" if isinstance(state, int) or (isinstance(state, str) and len(state) == 5) else ""  # noqa: PLR2004 (SQLSTATE)
    return kind(f"{place}: {type(origin).__module__}.{type(origin).__name__}{label}.")


def _sqlite_kind(code: str, words: str) -> type[ConnectorError]:
    if code == "SQLITE_ERROR":
        for pattern, kind in SQLITE_WORDS:
            if re.search(pattern, words):
                return kind
    known = [name for name in SQLITE_ERRORS if code.startswith(name)]
    return SQLITE_ERRORS[max(known, key=len)] if known else errors.TerminalError
