"""Azure Blob Storage's error codes as ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blocks.base.errors import (
    ConnectorError,
    InvalidInputError,
    NoSuchStoreError,
    TransientError,
    UnsupportedError,
)
from blocks.credentials.azure import AZURE_ADVICE, AZURE_ERRORS
from connectors.shared.obstore import OBSTORE_ERRORS

if TYPE_CHECKING:
    from blocks.stores.client import WriteOptions

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


def checked_metadata(options: WriteOptions) -> dict[str, str]:
    """Return the metadata, which has to fit into HTTP's headers.

    https://learn.microsoft.com/rest/api/storageservices/setting-and-retrieving-properties-and-metadata-for-blob-resources
    """
    metadata = dict(options.metadata or {})
    for name, value in metadata.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InvalidInputError(
                f"{name!r:.100} is not a name for metadata on Azure: use letters, digits and underscores."
            )
        if not value.isascii() or not value.isprintable():
            raise InvalidInputError(f"The metadata {name!r} has to be printable ASCII on Azure; encode it first.")
    if options.content_type and not (options.content_type.isascii() and options.content_type.isprintable()):
        raise InvalidInputError("content_type has to be printable ASCII, such as 'text/csv'.")
    return metadata


def refuse_version(version: str | None) -> None:
    """Refuse to read another version than the newest."""
    if version is not None:
        raise UnsupportedError("AzureBlobContainer reads the newest version only; get_client() has the others.")
