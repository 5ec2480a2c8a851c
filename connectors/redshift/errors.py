"""Errors of Redshift, and of AWS where it gives a login: which of ours each is, and in which words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blocks.base import errors
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from connectors.shared.libpq import errors as postgres

if TYPE_CHECKING:
    from blocks.base.errors import ConnectorError

MESSAGES: tuple[tuple[str, type[ConnectorError], str], ...] = (
    (r"1023\b|serializable isolation violation|conflict with concurrent transaction", errors.TransientError, ""),
    (r"status 5\d\d|slowdown|internalerror", errors.TransientError, ""),
    (r"nosuchkey|mandatory url|specified key does not exist", errors.TransientError, ""),
    (
        r"accessdenied|access denied|not authorized to (assume|get credentials)|cannot find default iam role",
        errors.AccessDeniedError,
        "iam_role has to be attached to Redshift, and to allow s3:GetObject and s3:ListBucket on the staging bucket.",
    ),
    (r"permanentredirect|301 moved", errors.InvalidInputError, "The staging bucket has to be in Redshift's region."),
    (r"parquet schema|length of the data column|number of .*columns", errors.SchemaError, ""),
)
"""What Redshift says beside SQLSTATE XX000, which it gives to nearly everything of its own.

https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-authorization.html,
https://repost.aws/knowledge-center/redshift-serializable-isolation
"""

LOGIN_ERRORS = AWS_ERRORS | {
    "ClusterNotFound": errors.NotFoundError,
    "ResourceNotFoundException": errors.NotFoundError,
    "ValidationException": errors.InvalidInputError,
    "InvalidParameterValue": errors.InvalidInputError,
    "InternalServerException": errors.TransientError,
}
"""https://docs.aws.amazon.com/redshift/latest/APIReference/API_GetClusterCredentials.html and
https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_GetCredentials.html
"""
LOGIN_ADVICE = AWS_ADVICE | {
    "ClusterNotFound": "Check cluster_identifier, and the region_name of the credentials.",
    "ResourceNotFoundException": "Check workgroup_name, and the region_name of the credentials.",
}


def translate(
    error: BaseException, action: str, uri: str, *, ambiguous: bool = False, statement: str = ""
) -> ConnectorError:
    """Return the error of this package for one of psycopg's, as Redshift means it."""
    code, diag = getattr(error, "sqlstate", None), getattr(error, "diag", None)
    said = f"{getattr(diag, 'message_primary', '')} {getattr(diag, 'message_detail', '')}"
    place = uri if action == "connect to" else f"in {uri}"
    if code and (found := next((entry for entry in MESSAGES if re.search(entry[0], said, re.IGNORECASE)), None)):
        _, kind, hint = found
        return kind(f"Could not {action} {place}: {_without_values(said)} (SQLSTATE {code}). {hint}".rstrip())
    if code and code.startswith("XX"):
        return errors.TerminalError(f"Could not {action} {place}: {_without_values(said)} (SQLSTATE {code}).")
    if type(error).__name__ == "DataError" and not code:
        return errors.InvalidInputError(f"Could not {action} {place}: a value has no form in Python. Cast it to text.")
    return postgres.translate(error, action, uri, ambiguous=ambiguous, statement=statement)


def _without_values(said: str) -> str:
    """Return the first line of what Redshift said, without what may be a value.

    >>> _without_values("Invalid digit, Value 'c', Pos 0, Type: Integer")
    'Invalid digit, Value ..., Pos 0, Type: Integer'
    """
    line = said.strip().splitlines()[0] if said.strip() else "no reason given"
    return re.sub(r"'[^']*'?|\"[^\"]*\"?", "...", line).rstrip(". ")
