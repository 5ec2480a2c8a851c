"""The error tree. Catch the class that says what you can do about it.

    ConnectorError
      TransientError          worth retrying as it is: throttled, unavailable, deadlock, reset
        ThrottledError          carries `retry_after_s` where the service gave it
        DamagedError            what arrived is not what was sent or stored
        NotStartedError         it certainly did not begin
        DbtTransientError       `connectors.dbt`: nodes failed with something that passes; carries `result`
      AmbiguousError          may have happened; resolved by looking, never by a blind retry
      TerminalError           retrying cannot help
        AuthError               wrong or expired credentials
        AccessDeniedError       the identity is known and not allowed; also a `PermissionError`
        NotFoundError           no such table, column, job, secret or saved block
          ObjectNotFoundError     no such object or file; also a `FileNotFoundError`
          NoSuchStoreError        no such bucket or container
        AlreadyExistsError      it exists, or another writer was faster
          ObjectExistsError       an object or a file does; also a `FileExistsError`
        InvalidInputError       the call or the data given to it is wrong; also a `ValueError`
        SchemaError             columns do not fit the target
          TypeLossError           a type would lose something
        QualityError            too many rows were rejected
          ChecksFailedError       checks of the data failed; carries `report`
        JobFailedError          what ran elsewhere failed, was stopped or took too long; carries `result`
          DbtFailedError          `connectors.dbt`: nodes failed
          FunctionError           `connectors.aws_lambda`: the function failed; carries `error_type`
        MissingDriverError      a package is not installed; also an `ImportError`
        UnsupportedError        this connector cannot do that; also a `NotImplementedError`

All but those with a module beside them are imported from `blocks`. A message says what, to what, the service's words
and what to do next. It is one line, and never holds a row value or a secret.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import sys
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST_RETRY_AFTER_S = 86_400.0
"""What a service asks for beyond a day is cut to a day; most policies end sooner."""


CONTROLS = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
"""What ends a line, moves the cursor, turns the direction of text, or is no character at all."""
SECRETS = (
    # user:password@ of a URL, which a password may spoil with a slash
    (re.compile(r"(?<=://)(?:[^\s/@:]*:[^\s@]*|[^\s/]*)@"), "***@"),
    # password=..., sig=... and the like, in a connection string or a query
    (
        re.compile(
            r"""\b((?:[\w-]*[-_])?(?:password|passwd|pwd|secret|token|signature|sig|accountkey|secret_?access_?key|api_?key)
            \s*=\s*)('[^']*'|"[^"]*"|[^\s&;,'"]+)""",
            re.IGNORECASE | re.VERBOSE,
        ),
        r"\1***",
    ),
    (re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?)(?:\w+\s+)?[^\s'\",]+", re.IGNORECASE), r"\1***"),
)
"""How secrets look where no field is known to hold them, in the words of a driver or an address of the environment."""


INTERNALS = re.compile(r"""["'`]?\b_etl_(?:stage|staged_rejects|staged_keys|feed)(?:_\w+)?\b["'`]?""")
"""The tables by which a load is staged, which are nobody's but ours."""


def one_line(text: str) -> str:
    r"""Return foreign text as it can stand in a message: on one line, control characters escaped, secrets masked.

    >>> one_line("a\n12:00 | INFO"), one_line("http://me:hunter2@minio:9000"), one_line("sig=abc&se=1")
    ('a\\n12:00 | INFO', 'http://***@minio:9000', 'sig=***&se=1')
    """
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text.strip())
    for secret, mask in SECRETS:
        text = secret.sub(mask, text)
    return INTERNALS.sub("the staged rows", text)


class ConnectorError(Exception):
    """Base of every error of this package."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(one_line(each) if isinstance(each, str) else each for each in args))

    def __reduce__(self) -> tuple[Any, ...]:
        # As Exception has it, but without a call of __init__, which may take more than the message.
        return _made_again, (type(self), self.args, self.__dict__)

    def as_also(self, module: str, name: str, mixin: type | None = None, **state: Any) -> ConnectorError:
        """Return the error as one that is also of a vendor's class, for code that catches that.

        Where nobody has imported the vendor's module nobody catches its class, and the error stays as it is.

        Args:
            module: The module of the class, such as "botocore.exceptions".
            name: The class.
            mixin: What else the vendor's error has, such as attributes.
            state: The attributes to set.
        """
        vendors = getattr(sys.modules.get(module), name, None)
        if vendors is None or isinstance(self, vendors):
            return self
        own: Any = type(self)
        return _made_again(_both(own, mixin, vendors), self.args, {**self.__dict__, **state})


@functools.cache
def _both(ours: Any, mixin: type | None, vendors: type[Exception]) -> type[ConnectorError]:
    def reduce(self: ConnectorError) -> tuple[Any, ...]:
        return _made_again_as_both, ((ours, self.args, self.__dict__), (vendors.__module__, vendors.__name__, mixin))

    bases = (ours, vendors) if mixin is None else (ours, mixin, vendors)
    return type(ours.__name__, bases, {"__module__": ours.__module__, "__doc__": ours.__doc__, "__reduce__": reduce})


def _made_again_as_both(made: tuple[Any, ...], also: tuple[Any, ...]) -> ConnectorError:
    return _made_again(*made).as_also(*also)


def _made_again(kind: type[ConnectorError], args: tuple[Any, ...], state: dict[str, Any]) -> ConnectorError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class TransientError(ConnectorError):
    """Worth retrying as it is."""


class ThrottledError(TransientError):
    """The service is throttling; `retry_after_s` is the wait it asked for in seconds, None where it named none."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DamagedError(TransientError):
    """What arrived is not what was sent or stored."""


class NotStartedError(TransientError):
    """The service could not begin, for a reason that passes: another attempt cannot make it happen twice."""


class AmbiguousError(ConnectorError):
    """The service may have done it: the answer was lost. Look before the next attempt."""


class TerminalError(ConnectorError):
    """Retrying cannot help."""


class AuthError(TerminalError):
    """Wrong, missing or expired credentials."""


class AccessDeniedError(TerminalError, PermissionError):
    """The identity is known and lacks a permission, which the message names."""


class NotFoundError(TerminalError):
    """There is no such table, column, job, secret or saved block."""


class ObjectNotFoundError(NotFoundError, FileNotFoundError):
    """There is no such object in the store, or no such file."""


class NoSuchStoreError(NotFoundError):
    """There is no such bucket. It is not a FileNotFoundError: the object may well exist, in another bucket."""


class AlreadyExistsError(TerminalError):
    """It already exists, or another writer was faster."""


class ObjectExistsError(AlreadyExistsError, FileExistsError):
    """The object or the file already exists, or is not the one any more that was to be replaced."""


class InvalidInputError(TerminalError, ValueError):
    """The call, or the data given to it, is wrong."""


class SchemaError(TerminalError):
    """The columns do not fit the target."""


class TypeLossError(SchemaError):
    """A column's type would lose something, and the caller did not allow it by name."""


class QualityError(TerminalError):
    """More rows were rejected than the caller allows; nothing was applied."""


class JobFailedError(TerminalError):
    """A job ran and failed, was stopped, or took longer than it may.

    Attributes:
        result: How it ended, as the method that ran it would have returned it; None where nothing is known.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class MissingDriverError(TerminalError, ImportError):
    """A package that this connector needs is not installed."""


class UnsupportedError(TerminalError, NotImplementedError):
    """This connector cannot do that, and does not pretend to."""


def retry_after_s(value: str, *, now_s: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0 to a day; None if it is neither a number nor a date.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after

    Args:
        value: The header: a number of seconds, or a date.
        now_s: The current time in seconds since 1970. Defaults to that of the clock.

    >>> retry_after_s("120"), retry_after_s("-1"), retry_after_s("soon")
    (120.0, 0.0, None)
    >>> retry_after_s("Thu, 01 Jan 1970 00:02:00 GMT", now_s=30.0)
    90.0
    """
    value = value.strip()
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", value, re.ASCII):
        seconds = float(value)
    else:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        # A date without a zone is one of UTC, as HTTP's always are.
        then_s = (date if date.tzinfo else date.replace(tzinfo=dt.UTC)).timestamp()
        seconds = then_s - (time.time() if now_s is None else now_s)
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def lookup(table: Mapping[str, type[ConnectorError]], code: str | None) -> type[ConnectorError] | None:
    """Return the class for a driver's code: the exact code, else the longest prefix that `table` lists with a `*`.

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
    """Return the error for a service's answer.

    Args:
        verb: What was attempted, such as "read".
        place: What it was attempted on.
        codes: The answer's codes, the most telling first.
        words: The service's own message.
        table: The class of error for each code.
        advice: What to do about a code.
        retry_after: The answer's Retry-After header, which a ThrottledError carries in seconds.
    """
    known = next((code for code in codes if code in table), None)
    kind = table[known] if known else TerminalError
    hint = next((advice[code] for code in codes if code in advice), "")
    said = ": ".join(part for part in (codes[0], words.strip().rstrip(".")) if part)
    message = f"Could not {verb} {place}: {said}. {hint}".rstrip()
    if issubclass(kind, ThrottledError):
        return kind(message, retry_after_s(retry_after))
    return kind(message)
