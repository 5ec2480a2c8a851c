"""BigQuery's errors as ours, and what of its words is safe to repeat."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    TerminalError,
    ThrottledError,
    TransientError,
    service_error,
)
from blocks.credentials.gcp import GOOGLE_ADVICE, GOOGLE_ERRORS, google_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class ConflictError(TransientError):
    """Another transaction changed the same table; nothing of this one happened."""


ERRORS: dict[str, type[ConnectorError]] = GOOGLE_ERRORS | {
    "attributeError": InvalidInputError,
    "billingTierLimitExceeded": TerminalError,
    "blocked": AccessDeniedError,
    "bytesBilledLimitExceeded": TerminalError,
    "invalidUser": AccessDeniedError,
    "jobBackendError": TransientError,
    "jobInternalError": TransientError,
    "jobRateLimitExceeded": ThrottledError,
    "proxyAuthenticationRequired": AccessDeniedError,
    "resourceInUse": TransientError,
    "resourcesExceeded": TerminalError,
    "schemaUpdateFailed": TransientError,
    "sessionNotFound": TransientError,
}
"""https://cloud.google.com/bigquery/docs/error-messages"""

ADVICE: dict[str, str] = GOOGLE_ADVICE | {
    "accessDenied": (
        "The identity needs the roles BigQuery Job User in the project and BigQuery Data Editor on the dataset."
    ),
    "bytesBilledLimitExceeded": "Raise maximum_bytes_billed, or make the query read less.",
    "quotaExceeded": "https://cloud.google.com/bigquery/quotas says which one, and when it is renewed.",
    "resourcesExceeded": "Make the query smaller.",
    "stopped": "Somebody cancelled it, or it took longer than statement_timeout_s.",
    "timeout": "It took longer than statement_timeout_s, or than BigQuery lets a job run.",
}

# What the service says decides more than its reason does, which is the same for most of it.
TOLD: tuple[tuple[str, type[ConnectorError]], ...] = (
    ("concurrent update|could not serialize", ConflictError),
    ("[Rr]etrying the job may", TransientError),
    ("Column already exists", AlreadyExistsError),
)

# The service's words go on only where they hold names and no values; all of them are seen with the job's id.
NAMES_ONLY = re.compile(
    r"(?i)not found: (table|dataset|project|job|location|view|routine|function|uri)\b[^\n'\"]*|"
    r"already exists: [^\n'\"]*|"
    r"column already exists: \S+|unrecognized name: [^\n'\"]*|name \S+ not found inside \S+|"
    r"syntax error: (expected|unexpected) (keyword|identifier|end of \w+|\S+) [^'\n]{0,80}|"
    r"access denied: [^\n'\"]*|quota exceeded: [^\n'\"]*|exceeded rate limits[^\n'\"]*|"
    r"transaction is aborted due to concurrent[^\n'\"]*|"
    r"query exceeded limit for bytes billed: \d+\. \d+ or higher required|"
    r"table \"?\w+\"? must be qualified[^\n'\"]*|cannot (query|list)[^\n'\"]*"
)

CLAIMED = "etl-blocks: the ledger has this load"
UNEQUAL = "etl-blocks: the rows staged and applied differ in number"


def job_error(job: Any, uri: str) -> ConnectorError:
    """Return what a failed job says, as one of our errors."""
    words, reason = str(job.error_result.get("message", "")), str(job.error_result.get("reason"))
    place = f"job {job.job_id} in {uri}"
    if CLAIMED in words:
        return AlreadyExistsError(f"Could not finish {place}: {CLAIMED}.")
    if UNEQUAL in words:
        return TerminalError(
            f"Could not finish {place}: {UNEQUAL}. Nothing was committed. The table may hold a key more than once."
        )
    # A request may time out and be sent again; a job that took too long would take so long again.
    table = {**_table(words), "timeout": TerminalError}
    return service_error("finish", place, [reason], safe_words(words), table=table, advice=ADVICE)


def translate(error: BaseException, action: str) -> ConnectorError:
    """Return the error of this package for one of Google's libraries'."""
    verb, _, place = action.partition(" ")
    while isinstance(inner := getattr(error, "cause", None), BaseException):  # of a retry that gave up
        error = inner
    words = getattr(error, "message", None)
    if isinstance(words, str) and hasattr(error, "errors"):
        shown: Any = type(error)
        error = shown(safe_words(words), errors=error.errors, response=getattr(error, "response", None))
    return google_error(verb, place, error, table=_table(words or ""), advice=ADVICE)


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Within it, an error of Google's libraries is one of this package."""
    try:
        yield
    except ConnectorError:
        raise
    except Exception as error:  # noqa: BLE001 (several libraries' trees; what none of them knows is TerminalError)
        raise translate(error, action) from None


def _table(words: str) -> Mapping[str, type[ConnectorError]]:
    """Return the classes of the service's codes, in the light of what it says."""
    told = next((kind for pattern, kind in TOLD if re.search(pattern, words)), None)
    return dict.fromkeys(ERRORS, told) if told else ERRORS


def safe_words(words: str) -> str:
    """Return what of the service's words holds no value of a row.

    >>> safe_words("Not found: Table p:ds.t was not found in location US")
    'not found: Table p:ds.t was not found in location US'
    >>> safe_words("Bad int64 value: 4711")
    'its words are left out, as they may hold values'
    """
    found = NAMES_ONLY.search(words)
    return found[0][:1].lower() + found[0][1:].strip() if found else "its words are left out, as they may hold values"
