"""A secret in Google Cloud's Secret Manager."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import SecretBlock
from pydantic import Field, HttpUrl, field_validator

from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    ThrottledError,
    TransientError,
)
from blocks.base.live import live
from blocks.base.operation import AsyncName, operation
from blocks.base.optional import require
from blocks.credentials.gcp import GOOGLE_ADVICE, GOOGLE_ERRORS, GcpCredentials, google_error

if TYPE_CHECKING:
    from collections.abc import Iterator


ERRORS: dict[str, type[ConnectorError]] = GOOGLE_ERRORS | {"SERVICE_DISABLED": AccessDeniedError}
"""https://cloud.google.com/secret-manager/docs/reference/rest and https://cloud.google.com/apis/design/errors"""

ADVICE: dict[str, str] = GOOGLE_ADVICE | {
    "SERVICE_DISABLED": "Enable the Secret Manager API in the project.",
}

READ, ADD = "secretmanager.versions.access", "secretmanager.versions.add"


class GcpSecret(ConnectorBlock, SecretBlock):
    """A secret in Google Cloud's Secret Manager.

    Example:
        ```python
        from connectors.gcp_secret import GcpSecret

        secret = GcpSecret.load("BLOCK_NAME")
        password = secret.read_secret().decode()
        ```
    """

    _block_type_name = "ETL GCP Secret"
    _block_type_slug = "etl-gcp-secret"
    _documentation_url = HttpUrl("https://cloud.google.com/secret-manager/docs/overview")

    secret_name: str = Field(description="Name of the secret, without its project.")
    gcp_credentials: GcpCredentials = Field(
        default_factory=GcpCredentials,
        description="Google Cloud credentials, and the project. Defaults to the ambient identity and its project "
        "(Application Default Credentials).",
    )
    secret_version: str = Field(
        default="latest", description="The version to read: a number, an alias, or latest. Defaults to latest."
    )

    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer. Defaults to 60."
    )

    @field_validator("secret_name", "secret_version")
    @classmethod
    def _only_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", value):
            raise ValueError(
                f"{value!r:.100} is not the name of a secret or version; give the name alone, not its path"
            )
        return value

    def check(self) -> str:
        """Say in one sentence what the identity may do with the secret; its value is not read.

        Raises:
            AccessDeniedError: It may neither read nor write it, or there is no such secret: Google does not tell.
        """
        with self._errors("check", "any permission on it"):
            found = self.get_client().test_iam_permissions(
                request={"resource": self._path, "permissions": [READ, ADD]}, retry=None, timeout=self.read_timeout_s
            )
        may = [verb for verb, permission in (("read", READ), ("write", ADD)) if permission in found.permissions]
        if not may:
            raise AccessDeniedError(
                f"The identity may do nothing with {self._path}, or it does not exist. It needs {READ} to read it and "
                f"{ADD} to write it."
            )
        return f"{self._path} is there and the credentials may {' and '.join(may)} it."

    def get_client(self) -> Any:
        """Return a `SecretManagerServiceClient` with this block's identity, for everything that has no method here.

        The block keeps one; `close()` of the block lets go of it.
        """
        return self._client

    @live
    def _client(self) -> Any:
        return self.gcp_credentials.get_secret_manager_client()

    @operation(prefects=True)
    def read_secret(self) -> bytes:  # type: ignore[override]  # Prefect's is awaitable
        """Read the value of the version that the block stands for, checked against the service's checksum.

        Raises:
            NotFoundError: There is no such secret or version.
            AccessDeniedError: The identity may not read it.
            InvalidInputError: The version is disabled or destroyed.
        """
        return self._access(self.secret_version)[0]

    @operation(prefects=True)
    def write_secret(self, secret_data: bytes) -> str:  # type: ignore[override]  # Prefect's is awaitable
        """Write a new version, and return its name; a secret that does not exist is created.

        Where the answer was lost, the latest version is read: if it has this value, it is the one, and no second is
        made. Without the right to read it nobody can tell.

        Raises:
            AccessDeniedError: The identity may not write it.
            AmbiguousError: The answer was lost, and the identity may not read what became of it.
            InvalidInputError: The value is too large.
        """
        if not isinstance(secret_data, bytes):
            raise InvalidInputError(f"secret_data is bytes, not {type(secret_data).__name__}.")
        if not secret_data:
            raise InvalidInputError(f"Could not write {self._path}: the value is empty, which Google does not accept.")
        try:
            return self._add(secret_data)
        except NotFoundError:
            with contextlib.suppress(AlreadyExistsError):  # somebody was faster, or an earlier attempt was
                self._create()
            return self._add(secret_data)

    @operation(prefects=True)
    def delete_secret(self) -> str:
        """Delete the secret with all its versions, and return its name.

        Raises:
            NotFoundError: There is no such secret.
            AccessDeniedError: The identity may not delete it.
        """
        client, path = self.get_client(), self._path
        try:
            with self._errors("delete", "secretmanager.secrets.delete"):
                client.delete_secret(request={"name": path}, retry=None, timeout=self.read_timeout_s)
        except ThrottledError:
            raise
        except TransientError:
            # Another attempt of one that was done would say that there is no such secret.
            try:
                with self._errors("look for", "secretmanager.secrets.get"):
                    client.get_secret(request={"name": path}, retry=None, timeout=self.read_timeout_s)
            except NotFoundError:
                return path
            raise
        return path

    aread_secret: ClassVar = AsyncName(read_secret)
    awrite_secret: ClassVar = AsyncName(write_secret)
    adelete_secret: ClassVar = AsyncName(delete_secret)

    def _access(self, version: str) -> tuple[bytes, str]:
        """The value and the name of a version."""
        with self._errors("read", READ):
            found = self.get_client().access_secret_version(
                request={"name": f"{self._path}/versions/{version}"}, retry=None, timeout=self.read_timeout_s
            )
        data = bytes(found.payload.data)
        if found.payload.data_crc32c != _crc32c(data):
            raise TransientError(f"Could not read {self._path}: its checksum does not match. Try again.")
        return data, str(found.name)

    def _add(self, data: bytes) -> str:
        request = {"parent": self._path, "payload": {"data": data, "data_crc32c": _crc32c(data)}}
        try:
            with self._errors("write", ADD):
                return str(
                    self.get_client().add_secret_version(request=request, retry=None, timeout=self.read_timeout_s).name
                )
        except ThrottledError:
            raise
        except TransientError as lost:
            try:
                latest, name = self._access("latest")
            except AccessDeniedError:
                raise AmbiguousError(f"{lost} It may have been written, and the identity lacks {READ}.") from lost
            except ConnectorError:
                raise lost from None
            if latest == data:
                return name
            raise

    def _create(self) -> None:
        project, _, name = self._path.partition("/secrets/")
        request = {"parent": project, "secret_id": name, "secret": {"replication": {"automatic": {}}}}
        with self._errors("create", "secretmanager.secrets.create on the project"):
            self.get_client().create_secret(request=request, retry=None, timeout=self.read_timeout_s)

    @property
    def _path(self) -> str:
        return f"projects/{self.gcp_credentials.get_project()}/secrets/{self.secret_name}"

    @contextlib.contextmanager
    def _errors(self, verb: str, permission: str) -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise
        except Exception as error:
            advice = ADVICE | {"403": f"The identity needs {permission}."} | _advice(str(error))
            raise google_error(verb, self._path, error, table=ERRORS, advice=advice) from error


def _advice(words: str) -> dict[str, str]:
    """Return the advice for statuses that stand for several things; only the words of the service tell them apart.

    >>> _advice("Permission 'secretmanager.versions.access' denied for resource 'x' (or it may not exist).")["403"]
    'The identity needs secretmanager.versions.access, or the secret does not exist: Google does not tell.'
    """
    if re.search(r"cloudkms|Cloud KMS|CryptoKey", words, re.IGNORECASE):
        role = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
        advice = f"The secret's key has to be enabled, and Secret Manager's service agent needs {role} on it."
        return {"400": advice, "403": advice, "404": advice}
    if "DISABLED state" in words:
        return {"400": "Enable the version, or give another one as secret_version."}
    if "DESTROYED state" in words:
        return {"400": "Give another version as secret_version."}
    if "Secret Version [" in words:
        return {"404": "Check secret_version: the secret is there, and has no such version."}
    if denied := re.search(r"Permission '([\w.]+)' denied", words):
        return {"403": f"The identity needs {denied[1]}, or the secret does not exist: Google does not tell."}
    return {
        "404": "Check secret_name, and the project of the credentials; one without versions has to be written first."
    }


def _crc32c(data: bytes) -> int:
    checksum: int = require("google_crc32c", extra="gcp").value(data)
    return checksum
