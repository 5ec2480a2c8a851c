"""Azure Blob Storage's error codes as ours."""

from __future__ import annotations

from blocks.base.errors import (
    ConnectorError,
    NoSuchStoreError,
    TransientError,
    UnsupportedError,
)
from blocks.credentials.azure import AZURE_ADVICE, AZURE_ERRORS
from connectors.shared.obstore import OBSTORE_ERRORS

ERRORS: dict[str, type[ConnectorError]] = (
    AZURE_ERRORS | OBSTORE_ERRORS | {"ContainerNotFound": NoSuchStoreError, "InvalidBlobOrBlock": TransientError}
)
"""obstore's classes too, which carry the service's answer as text."""

ADVICE: dict[str, str] = AZURE_ADVICE | {
    "ContainerNotFound": "Check container_name, and the account_url of the credentials.",
    "BlobNotFound": "Check the key, and the base_folder.",
    "ConditionNotMet": "Another writer was faster: read it again and decide.",
    "BlobAlreadyExists": "Another writer was faster: read it again and decide.",
    "BlobArchived": "The blob is archived; rehydrate it first.",
    "SnapshotsPresent": "Delete its snapshots first.",
    "LeaseIdMissing": "Somebody holds a lease on it.",
    "InvalidBlobOrBlock": "Another tool left blocks there; they are dropped when the blob is written, or after a week.",
}

PERMISSIONS = {
    "read": "r in its SAS token, or the role Storage Blob Data Reader",
    "write": "c and w (and t for tags) in its SAS token, or the role Storage Blob Data Contributor",
    "list": "l in its SAS token, or the role Storage Blob Data Reader",
    "delete": "d in its SAS token, or the role Storage Blob Data Contributor",
    "create": "c in a SAS token of the account, or the role Storage Blob Data Contributor",
    "copy": "r (c and w for the copy, t for tags) in its SAS token, or the role Storage Blob Data Contributor",
    "sign a URL of": "the role Storage Blob Delegator",
}

SIGNED = {"GET": "r", "PUT": "cw"}


def advice_for(verb: str) -> dict[str, str]:
    """Return what to do about each code when `verb` is what was tried."""
    return ADVICE | dict.fromkeys(
        ("AuthorizationPermissionMismatch", "403"), f"The identity needs {PERMISSIONS[verb]}."
    )


def refuse_version(version: str | None) -> None:
    """Refuse to read another version than the newest."""
    if version is not None:
        raise UnsupportedError("AzureBlobContainer reads the newest version only; get_client() has the others.")
