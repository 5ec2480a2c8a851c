"""The error tree. Catch the class that says what you can do about it.

    ConnectorError
      TransientError          worth retrying as it is: throttled, unavailable, deadlock, reset
        ThrottledError          carries `retry_after_s` where the service gave it
      AmbiguousError          may have happened; resolved by looking, never by a blind retry
      TerminalError           retrying cannot help
        AuthError               wrong or expired credentials
        AccessDeniedError       the identity is known and not allowed
        NotFoundError           no such object, bucket, table or column
        AlreadyExistsError      it is there, or somebody was faster
        InvalidInputError       the call or the data given to it is wrong
        SchemaError             columns do not fit the target
          TypeLossError           a type would lose something
        QualityError            too many rows were refused
        MissingDriverError      a package is not installed
        UnsupportedError        this connector cannot do that

A message says what, to what, the service's words and what to do next. It never holds a row value or a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ConnectorError(Exception):
    """Base of every error of this package."""


class TransientError(ConnectorError):
    """Worth retrying as it is."""


class ThrottledError(TransientError):
    """The service asked for patience; `retry_after_s` is its wish in seconds, None where it gave none."""

    retry_after_s: float | None = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AmbiguousError(ConnectorError):
    """The service may have done it: the answer was lost. Look before trying again."""


class TerminalError(ConnectorError):
    """Retrying cannot help."""


class AuthError(TerminalError):
    """Wrong, missing or expired credentials."""


class AccessDeniedError(TerminalError):
    """The identity is known and lacks a permission, which the message names."""


class NotFoundError(TerminalError):
    """No such object, bucket, table or column."""


class AlreadyExistsError(TerminalError):
    """It exists already, or another writer was faster."""


class InvalidInputError(TerminalError):
    """The call, or the data given to it, is wrong."""


class SchemaError(TerminalError):
    """The columns do not fit the target."""


class TypeLossError(SchemaError):
    """A column's type would lose something, and the caller did not allow it by name."""


class QualityError(TerminalError):
    """More rows were refused than the caller allows; nothing was applied."""


class MissingDriverError(TerminalError, ImportError):
    """A package that this connector needs is not installed."""


class UnsupportedError(TerminalError):
    """This connector cannot do that, and does not pretend to."""


def lookup(table: Mapping[str, type[ConnectorError]], code: str | None) -> type[ConnectorError] | None:
    """The class for a driver's code: the exact code, else the longest prefix that `table` lists with a `*`.

    >>> lookup({"40001": TransientError, "42*": TerminalError}, "42P01").__name__
    'TerminalError'
    """
    if code is None:
        return None
    if code in table:
        return table[code]
    for length in range(len(code), 0, -1):
        if found := table.get(f"{code[:length]}*"):
            return found
    return None


def service_error(
    verb: str,
    place: str,
    codes: Sequence[str],
    words: str,
    *,
    table: Mapping[str, type[ConnectorError]],
    advice: Mapping[str, str],
    retry_after: str = "",
) -> ConnectorError:
    """The error for a service's answer: `codes` from the most telling to the least, `words` its own message."""
    known = next((code for code in codes if code in table), None)
    kind = table[known] if known else TerminalError
    hint = next((advice[code] for code in codes if code in advice), "")
    said = ": ".join(part for part in (codes[0], words.strip().rstrip(".")) if part)
    message = f"Could not {verb} {place}: {said}. {hint}".rstrip()
    if issubclass(kind, ThrottledError):
        return kind(message, float(retry_after) if retry_after.isdecimal() else None)
    return kind(message)
