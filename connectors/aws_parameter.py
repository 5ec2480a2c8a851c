"""A parameter in the Parameter Store of AWS Systems Manager."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from prefect.blocks.abstract import SecretBlock
from pydantic import Field, HttpUrl

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
)
from blocks.base.operation import operation
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from connectors.shared.aws import DENIED, AwsService

ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "ParameterNotFound": NotFoundError,
    "ParameterVersionNotFound": NotFoundError,
    "ParameterAlreadyExists": AlreadyExistsError,
    "InvalidKeyId": AccessDeniedError,
    "HierarchyLevelLimitExceededException": InvalidInputError,
    "HierarchyTypeMismatchException": InvalidInputError,
    "IncompatiblePolicyException": InvalidInputError,
    "InvalidAllowedPatternException": InvalidInputError,
    "InvalidPolicyAttributeException": InvalidInputError,
    "InvalidPolicyTypeException": InvalidInputError,
    "ParameterPatternMismatchException": InvalidInputError,
    "UnsupportedParameterType": UnsupportedError,
    "ValidationException": InvalidInputError,
    "ParameterLimitExceeded": TerminalError,
    "ParameterMaxVersionLimitExceeded": TerminalError,
    "ParameterVersionLabelLimitExceeded": TerminalError,
    "PoliciesLimitExceededException": TerminalError,
    "TooManyUpdates": ThrottledError,
    "InternalServerError": TransientError,
}
"""https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html and each action's own list."""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "ParameterNotFound": "Check parameter_name, and the region_name of the credentials.",
    "ParameterVersionNotFound": "Check version and label: the parameter is there, and has no such version.",
    "ParameterMaxVersionLimitExceeded": "Its oldest version has a label: move that to a newer one, so that it can go.",
    "InvalidKeyId": "Check kms_key_id; the key has to be enabled, and the identity needs kms:Decrypt and "
    "kms:GenerateDataKey on it.",
}

Kind = Literal["SecureString", "String", "StringList"]


class AwsParameter(AwsService, SecretBlock):
    """A parameter in the Parameter Store of AWS Systems Manager.

    Example:
        ```python
        from connectors.aws_parameter import AwsParameter

        parameter = AwsParameter.load("BLOCK_NAME")
        password = parameter.read_parameter()
        ```
    """

    _block_type_name = "ETL AWS Parameter"
    _block_type_slug = "etl-aws-parameter"
    _documentation_url = HttpUrl(
        "https://docs.aws.amazon.com/systems-manager/latest/userguide/systems-manager-parameter-store.html"
    )
    _service: ClassVar[str] = "ssm"
    _errors_table = ERRORS
    _advice = ADVICE

    parameter_name: str = Field(
        min_length=1, description="The parameter's name, such as /shop/db/password, or its ARN to read a shared one."
    )
    parameter_type: Kind = Field(
        default="SecureString",
        description="The type of a parameter that is written: SecureString (encrypted), String or StringList (values "
        "with commas between them). One that exists keeps its own. Defaults to SecureString.",
    )
    kms_key_id: str | None = Field(
        default=None,
        title="KMS key",
        description="ID, ARN or alias of the key that encrypts a SecureString. Defaults to the account's key for "
        "Systems Manager.",
    )
    tier: Literal["Standard", "Advanced", "Intelligent-Tiering"] | None = Field(
        default=None,
        description="The tier of a parameter that is written: Standard holds 4 KB, Advanced 8 KB. Defaults to the "
        "account's.",
    )

    def _advise(self, verb: str, code: str, words: str) -> str | None:
        """Return the advice for a denial: of the parameter's key it is not one of the parameter."""
        if "KMS" in words.upper() and code in DENIED:
            rights = "kms:Decrypt" if verb == "read" else "kms:Encrypt, or kms:GenerateDataKey for the tier Advanced,"
            return f"The identity needs {rights} on the parameter's key."
        return None

    def check(self) -> str:
        """Check that the parameter is there and may be read, and say so in one sentence; its value is not decrypted.

        Raises:
            NotFoundError: There is no such parameter.
            AccessDeniedError: The identity may not read it.
        """
        with self._errors("check", self._place, "ssm:GetParameter"):
            found = self.get_client().get_parameter(Name=self.parameter_name, WithDecryption=False)["Parameter"]
        return f"The {self._place} is there as {found['Type']}, version {found['Version']}."

    @operation
    def read_parameter(self, *, version: int | None = None, label: str | None = None) -> str:
        """Read the parameter's value, decrypted; of a StringList with its commas.

        Args:
            version: The number of a version; by default the latest.
            label: A version by its label, such as "prod".

        Raises:
            NotFoundError: There is no such parameter, version or label.
            AccessDeniedError: The identity may not read it, or not decrypt it.
            InvalidInputError: Both a version and a label are given.
        """
        return str(self._read(version, label)["Value"])

    @operation
    def read_secret(self, *, version: int | None = None, label: str | None = None) -> bytes:  # type: ignore[override]
        """Read the parameter's value as UTF-8, as Prefect's secret blocks give theirs; see `read_parameter`."""
        return str(self._read(version, label)["Value"]).encode()

    @operation
    def write_parameter(self, value: str, *, label: str | None = None) -> int:
        """Make the value the parameter's latest version, and return its number; one that does not exist is created.

        Where the answer was lost, the latest version is read: if it has this value, it is the one, and no second is
        made. Without the right to read it nobody can tell.

        Args:
            value: The value, up to 4 KB, or 8 KB in the tier Advanced.
            label: A label that the new version gets, and that no other version has any more.

        Raises:
            InvalidInputError: The value is empty, or too large.
            AccessDeniedError: The identity may not write it, or not encrypt it.
            AmbiguousError: The answer was lost, and the identity may not read what became of it.
        """
        if not value:
            raise InvalidInputError(f"Could not write {self._place}: the value is empty, and AWS keeps none that is.")
        version = self._write(value)
        if label is not None:
            self._label(version, label)
        return version

    @operation
    def write_secret(self, secret_data: bytes | str) -> str:  # type: ignore[override]  # Prefect's is awaitable
        """Write the value as `write_parameter` does, and return the parameter's name and version, as `name:3`.

        Args:
            secret_data: The value; bytes have to be UTF-8.

        Raises:
            InvalidInputError: It is not UTF-8, empty, or too large.
        """
        try:
            value = secret_data if isinstance(secret_data, str) else secret_data.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(
                f"Could not write {self._place}: the value is not UTF-8, and a parameter holds text."
            ) from None
        return f"{self.parameter_name}:{AwsParameter.write_parameter(self, value)}"

    @operation
    def label_version(self, label: str, *, version: int | None = None) -> int:
        """Give a version a label, which no other version has any more, and return the number of the version.

        Args:
            label: The label, such as "prod".
            version: The number of the version; by default the latest.

        Raises:
            NotFoundError: There is no such parameter or version.
            InvalidInputError: AWS does not take the label: it begins with a digit, "aws" or "ssm", or is too long.
        """
        return self._label(version, label)

    @operation
    def list_versions(self) -> dict[int, list[str]]:
        """Return the labels of each version that there still is, by its number, the oldest first.

        Raises:
            NotFoundError: There is no such parameter.
            AccessDeniedError: The identity may not list them.
        """
        found: dict[int, list[str]] = {}
        with self._errors("list the versions of", self._place, "ssm:GetParameterHistory"):
            pages = self.get_client().get_paginator("get_parameter_history")
            for page in pages.paginate(Name=self.parameter_name, WithDecryption=False):
                found |= {int(each["Version"]): list(each.get("Labels", [])) for each in page["Parameters"]}
        return dict(sorted(found.items()))

    @operation
    def delete_parameter(self) -> None:
        """Delete the parameter with all its versions, at once and for good; one that does not exist stays so.

        Raises:
            AccessDeniedError: The identity may not delete it.
        """
        try:
            with self._errors("delete", self._place, "ssm:DeleteParameter"):
                self.get_client().delete_parameter(Name=self.parameter_name)
        except NotFoundError:
            self.logger.info("The %s was not there.", self._place)

    def _read(self, version: int | None, label: str | None) -> dict[str, Any]:
        if version is not None and label is not None:
            raise InvalidInputError(f"Could not read {self._place}: give a version or a label, not both.")
        wanted = version if version is not None else label
        name = self.parameter_name if wanted is None else f"{self.parameter_name}:{wanted}"
        with self._errors("read", self._place, "ssm:GetParameter"):
            found: dict[str, Any] = self.get_client().get_parameter(Name=name, WithDecryption=True)["Parameter"]
        return found

    def _write(self, value: str) -> int:
        request: dict[str, Any] = {"Name": self.parameter_name, "Value": value, "Overwrite": True}
        optional = {"Type": self._type(), "KeyId": self.kms_key_id, "Tier": self.tier}
        if optional["Type"] != "SecureString":
            optional["KeyId"] = None
        given = {name: each for name, each in optional.items() if each is not None}
        try:
            with self._errors("write", self._place, "ssm:PutParameter", hidden=[value]):
                return int(self._single_attempt_client.put_parameter(**request, **given)["Version"])
        except ThrottledError:
            raise
        except TransientError as lost:
            try:
                latest = self._read(None, None)
            except AccessDeniedError:
                raise AmbiguousError(
                    f"{lost} It may have been written, and the identity lacks the right to look."
                ) from lost
            except ConnectorError:
                raise lost from None
            if latest["Value"] == value:
                return int(latest["Version"])
            raise

    def _type(self) -> str:
        """Return the type to write: that of the parameter where it exists, for the sake of its other readers."""
        try:
            with self._errors("describe", self._place, "ssm:GetParameter"):
                found = self.get_client().get_parameter(Name=self.parameter_name, WithDecryption=False)["Parameter"]
        except (NotFoundError, AccessDeniedError):
            return self.parameter_type
        return str(found["Type"])

    def _label(self, version: int | None, label: str) -> int:
        which = {} if version is None else {"ParameterVersion": version}
        with self._errors("label", self._place, "ssm:LabelParameterVersion"):
            answer = self.get_client().label_parameter_version(Name=self.parameter_name, Labels=[label], **which)
        if answer.get("InvalidLabels"):
            raise InvalidInputError(
                f"Could not label {self._place}: {label!r:.120} is not a label. It has up to 100 letters, digits, "
                "dots, hyphens and underscores, and does not begin with a digit, aws or ssm."
            )
        return int(answer["ParameterVersion"]) if "ParameterVersion" in answer else self._latest()

    def _latest(self) -> int:
        with self._errors("describe", self._place, "ssm:GetParameter"):
            found = self.get_client().get_parameter(Name=self.parameter_name, WithDecryption=False)["Parameter"]
        return int(found["Version"])

    @property
    def _place(self) -> str:
        return f"parameter {self.parameter_name}"
