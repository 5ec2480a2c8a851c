"""Google Cloud Storage's error codes as ours."""

from __future__ import annotations

from typing import Any

from blocks.base.errors import (
    AccessDeniedError,
    ConnectorError,
    ObjectExistsError,
    ObjectNotFoundError,
    TransientError,
)
from blocks.base.optional import require
from blocks.credentials.gcp import GOOGLE_ADVICE, GOOGLE_ERRORS

ERRORS: dict[str, type[ConnectorError]] = GOOGLE_ERRORS | {
    "orgPolicyConstraintFailed": AccessDeniedError,  # beside a status 412
    **dict.fromkeys(["notFound", "404"], ObjectNotFoundError),
    **dict.fromkeys(["duplicate", "conflict", "conditionNotMet", "409", "412"], ObjectExistsError),
    "410": TransientError,  # what a rewrite or an upload had come to; a new one starts from its beginning
}
"""https://cloud.google.com/storage/docs/json_api/v1/status-codes"""

ADVICE: dict[str, str] = GOOGLE_ADVICE | {
    "404": "Check the key, and the bucket_folder.",
    "409": "Buckets of all projects share one space of names: choose another one.",
    "412": "It already exists, or another writer was faster: read it again and decide.",
}

PERMISSIONS = {
    "read": "storage.objects.get (and storage.objects.list, without which a missing object looks like a forbidden one)",
    "write": "storage.objects.create, and storage.objects.delete to replace an object",
    "list": "storage.objects.list",
    "delete": "storage.objects.delete",
    "copy": "storage.objects.get on the object and storage.objects.create on its copy",
    "create": "storage.buckets.create",
    "look up": "storage.buckets.get",
}


def refusal(answer: Any) -> Exception:
    """Return the client's exception for an answer to a request of our own."""
    error: Exception = require("google.api_core.exceptions", extra="gcs").from_http_response(answer)
    return error


def advice_for(verb: str) -> dict[str, str]:
    """Return what to do about each code when `verb` is what was tried."""
    needed = PERMISSIONS.get(verb)
    return ADVICE | ({"403": f"The identity needs {needed}."} if needed else {})
