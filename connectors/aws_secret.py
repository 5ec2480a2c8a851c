"""A secret in AWS Secrets Manager."""

from __future__ import annotations

import re
import uuid
from typing import Any, ClassVar, Literal

from prefect.blocks.abstract import SecretBlock
from pydantic import Field, HttpUrl

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    TransientError,
)
from blocks.base.operation import AsyncName, operation
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from connectors.shared.aws import DENIED, AwsService

MIN_RECOVERY_DAYS, MAX_RECOVERY_DAYS = 7, 30

ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "ResourceNotFoundException": NotFoundError,
    "ResourceExistsException": AlreadyExistsError,
    "InvalidParameterException": InvalidInputError,
    "InvalidRequestException": InvalidInputError,
    "MalformedPolicyDocumentException": InvalidInputError,
    "PublicPolicyException": InvalidInputError,
    "PreconditionNotMetException": InvalidInputError,
    "DecryptionFailure": AccessDeniedError,
    "EncryptionFailure": AccessDeniedError,
    "LimitExceededException": TerminalError,  # a quota of the account here, not a rate
    "InternalServiceError": TransientError,
}
"""https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html and each action's own list."""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "ResourceNotFoundException": "Check secret_name, and the region_name of the credentials.",
    "DecryptionFailure": "The identity needs kms:Decrypt on the secret's key, which has to be enabled.",
    "EncryptionFailure": "The identity needs kms:GenerateDataKey on the secret's key, which has to be enabled.",
}


class AwsSecret(AwsService, SecretBlock):
    """A secret in AWS Secrets Manager.

    Example:
        ```python
        from connectors.aws_secret import AwsSecret

        secret = AwsSecret.load("BLOCK_NAME")
        password = secret.read_secret()
        ```
    """

    _block_type_name = "ETL AWS Secret"
    _block_type_slug = "etl-aws-secret"
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/secretsmanager/latest/userguide/intro.html")
    _service: ClassVar[str] = "secretsmanager"
    _errors_table = ERRORS
    _advice = ADVICE

    secret_name: str = Field(min_length=1, description="The secret's name or ARN.")

    def _advise(self, verb: str, code: str, words: str) -> str | None:
        """Return the advice for codes that stand for several things; only the words of the service tell them apart."""
        if "KMS" in words and code in DENIED:
            rights = "kms:Decrypt" if verb == "read" else "kms:GenerateDataKey and kms:Decrypt"
            return f"The identity needs {rights} on the secret's key."
        if code == "ResourceNotFoundException" and re.search(r"staging label|VersionId", words):
            return "Check version_id and version_stage: the secret is there, and has no such version."
        if code == "InvalidRequestException":
            if re.search(r"delet", words, re.IGNORECASE):
                return "It is scheduled for deletion: restore it first, or write a new one once it is gone."
            return "Check version_id and version_stage." if "VersionStage" in words else ""
        return None

    def check(self) -> str:
        """Check that the secret is there and may be described, and say so in one sentence; its value is not read.

        Raises:
            NotFoundError: There is no such secret.
            AccessDeniedError: The identity may not describe it.
        """
        with self._errors("describe", self._place, "secretsmanager:DescribeSecret"):
            found = self.get_client().describe_secret(SecretId=self.secret_name)
        if "DeletedDate" in found:
            raise NotFoundError(
                f"The {self._place} is scheduled for deletion. Restore it, or wait and write a new one."
            )
        return f"The {self._place} is there and the credentials may describe it."

    @operation(prefects=True)
    def read_secret(  # type: ignore[override]  # Prefect's is awaitable
        self, version_id: str | None = None, version_stage: str | None = None
    ) -> str | bytes:
        """Read the secret's value: a str where AWS keeps it as text, bytes where as bytes.

        Args:
            version_id: A version; by default the current one.
            version_stage: A version by its label, such as "AWSPREVIOUS".

        Raises:
            NotFoundError: There is no such secret or version.
            AccessDeniedError: The identity may not read it.
        """
        versions = {"VersionId": version_id, "VersionStage": version_stage}
        with self._errors("read", self._place, "secretsmanager:GetSecretValue"):
            found = self.get_client().get_secret_value(
                SecretId=self.secret_name, **{name: value for name, value in versions.items() if value is not None}
            )
        if "SecretBinary" in found:
            return bytes(found["SecretBinary"])
        return str(found["SecretString"])

    def _fix_version(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"version_id": str(uuid.uuid4())} | arguments

    @operation(prepare=_fix_version, prefects=True)
    def write_secret(  # type: ignore[override]  # Prefect's is awaitable
        self, secret_data: bytes | str, *, version_id: str = "", kind: Literal["text", "binary"] | None = None
    ) -> str:
        """Make the value the secret's current one, and return its ARN; a secret that does not exist is created.

        AWS keeps a value as text (SecretString) or as bytes (SecretBinary), and who reads the one does not see the
        other. A str is written as text. Bytes are written as what the current value is, which is read for that: as
        text over text if they are UTF-8, else as bytes.

        Args:
            secret_data: The value.
            version_id: The new version's id, a UUID; by default a new one. The same value written again under the
                same id changes nothing, which is what makes a retry safe.
            kind: As what it is written, "text" or "binary", whatever is there.

        Raises:
            InvalidInputError: The value is empty or too large, or not UTF-8 and to be text, or the secret is scheduled
                for deletion.
            AccessDeniedError: The identity may not write it, or not read it to tell its kind.
        """
        if not secret_data:
            raise InvalidInputError(f"Could not write {self._place}: the value is empty, and AWS keeps none that is.")
        value = self._value(secret_data, kind) | {"ClientRequestToken": version_id}
        client = self.get_client()
        try:
            with self._errors("write", self._place, "secretsmanager:PutSecretValue"):
                return str(client.put_secret_value(SecretId=self.secret_name, **value)["ARN"])
        except NotFoundError:
            try:
                with self._errors("create", self._place, "secretsmanager:CreateSecret"):
                    return str(client.create_secret(Name=self.secret_name, **value)["ARN"])
            except AlreadyExistsError as error:  # somebody else created it meanwhile
                raise TransientError(str(error)) from error

    def _value(self, data: bytes | str, kind: str | None) -> dict[str, Any]:
        """Return the value as the field of a request."""
        if kind is None:
            kind = "text" if isinstance(data, str) or (self._is_text() and _as_text(data) is not None) else "binary"
        if kind == "binary":
            return {"SecretBinary": data.encode() if isinstance(data, str) else data}
        text = data if isinstance(data, str) else _as_text(data)
        if text is None:
            raise InvalidInputError(f"Could not write {self._place} as text: the value is not UTF-8.")
        return {"SecretString": text}

    def _is_text(self) -> bool:
        """Whether the current value is text; a secret that has none is not."""
        try:
            with self._errors("read", self._place, "secretsmanager:GetSecretValue"):
                return "SecretString" in self.get_client().get_secret_value(SecretId=self.secret_name)
        except (NotFoundError, InvalidInputError):  # there is none, or it is to be deleted: the write will say so
            return False
        except AccessDeniedError as error:
            raise AccessDeniedError(
                f"{error} It is read to tell whether it is text; to write without that, pass a str, or kind='binary'."
            ) from error

    @operation(prefects=True)
    def delete_secret(self, recovery_window_in_days: int = 30, force_delete_without_recovery: bool = False) -> str:
        """Schedule the secret for deletion, or delete it, and return its ARN. One that already is scheduled stays so.

        Args:
            recovery_window_in_days: How long it can be restored, 7 to 30 days.
            force_delete_without_recovery: Delete it at once and for good; the window means nothing then.

        Raises:
            NotFoundError: There is no such secret.
            InvalidInputError: The window is not from 7 to 30 days.
        """
        if not MIN_RECOVERY_DAYS <= recovery_window_in_days <= MAX_RECOVERY_DAYS and not force_delete_without_recovery:
            raise InvalidInputError(
                f"recovery_window_in_days is from {MIN_RECOVERY_DAYS} to {MAX_RECOVERY_DAYS}, "
                f"not {recovery_window_in_days}; to delete at once, set force_delete_without_recovery."
            )
        client = self.get_client()
        how: dict[str, Any] = (
            {"ForceDeleteWithoutRecovery": True}
            if force_delete_without_recovery
            else {"RecoveryWindowInDays": recovery_window_in_days}
        )
        try:
            with self._errors("delete", self._place, "secretsmanager:DeleteSecret"):
                return str(client.delete_secret(SecretId=self.secret_name, **how)["ARN"])
        except InvalidInputError:
            with self._errors("describe", self._place, "secretsmanager:DescribeSecret"):
                found = client.describe_secret(SecretId=self.secret_name)
            if "DeletedDate" in found:
                return str(found["ARN"])
            raise

    aread_secret: ClassVar = AsyncName(read_secret)
    awrite_secret: ClassVar = AsyncName(write_secret)
    adelete_secret: ClassVar = AsyncName(delete_secret)

    @property
    def _place(self) -> str:
        return f"secret {self.secret_name}"


def _as_text(data: bytes) -> str | None:
    """Return bytes as text, None where they are none.

    >>> _as_text(b"hunter2"), _as_text(bytes([255]))
    ('hunter2', None)
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
