"""S3's error codes as ours."""

from __future__ import annotations

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NoSuchStoreError,
    ObjectExistsError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from connectors.shared.obstore import OBSTORE_ERRORS

ERRORS: dict[str, type[ConnectorError]] = (
    AWS_ERRORS
    | OBSTORE_ERRORS
    | {
        "InvalidSecurity": AuthError,
        "CredentialsNotSupported": AuthError,
        "AllAccessDisabled": AccessDeniedError,
        "AccountProblem": AccessDeniedError,
        "NoSuchKey": ObjectNotFoundError,
        "NoSuchBucket": NoSuchStoreError,
        "NoSuchVersion": ObjectNotFoundError,
        "404": ObjectNotFoundError,
        "PreconditionFailed": ObjectExistsError,
        "412": ObjectExistsError,
        "BucketAlreadyExists": AlreadyExistsError,
        "BucketAlreadyOwnedByYou": AlreadyExistsError,
        "InvalidArgument": InvalidInputError,
        "InvalidRequest": InvalidInputError,
        "InvalidRange": InvalidInputError,
        "InvalidBucketName": InvalidInputError,
        "InvalidObjectState": InvalidInputError,
        "EntityTooLarge": InvalidInputError,
        "EntityTooSmall": InvalidInputError,
        "KeyTooLongError": InvalidInputError,
        "MetadataTooLarge": InvalidInputError,
        "AuthorizationHeaderMalformed": InvalidInputError,
        "PermanentRedirect": InvalidInputError,
        "TemporaryRedirect": InvalidInputError,
        "IllegalLocationConstraintException": InvalidInputError,
        **dict.fromkeys(("301", "302", "303", "307", "308"), InvalidInputError),
        "400": InvalidInputError,
        "MethodNotAllowed": UnsupportedError,
        "NotImplemented": UnsupportedError,
        "501": UnsupportedError,
        # Another writer is at it, or the upload is gone because its completion was heard and the answer lost.
        "ConditionalRequestConflict": TransientError,
        "OperationAborted": TransientError,
        "NoSuchUpload": TransientError,
        "BadDigest": TransientError,
        "MalformedXML": TransientError,  # what the driver sends is not; it was damaged on its way
        "IncompleteBody": TransientError,
        "XAmzContentSHA256Mismatch": TransientError,
    }
)
"""https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "NoSuchBucket": "Check bucket_name, and the endpoint_url of the credentials.",
    "NoSuchKey": "Check the key; it is relative to the bucket_folder.",
    "PermanentRedirect": "Set region_name of the credentials to the bucket's region.",
    **dict.fromkeys(
        ("301", "302", "303", "307", "308"), "The server points to another one: give that as endpoint_url."
    ),
    "AuthorizationHeaderMalformed": "Set region_name of the credentials to the bucket's region.",
    "PreconditionFailed": "It already exists, or another writer was faster: read it again and decide.",
    "InvalidObjectState": "The object is archived; restore it first.",
    "NotImplemented": "Where it is the checksums that the server does not know, set verify_checksums to false.",
}

PERMISSIONS = {
    "read": "s3:GetObject (and s3:ListBucket, without which a missing object looks like a forbidden one)",
    "write": "s3:PutObject",
    "list": "s3:ListBucket",
    "sweep": "s3:ListBucketMultipartUploads and s3:AbortMultipartUpload",
    "delete": "s3:DeleteObject",
    "create": "s3:CreateBucket",
    "copy": "s3:GetObject on the object and s3:PutObject on its copy",
}


def advice_for(verb: str) -> dict[str, str]:
    """Return what to do about each code when `verb` is what was tried."""
    needed = PERMISSIONS.get(verb)
    return ADVICE | {"AccessDenied": f"The identity needs {needed}." if needed else ""}
