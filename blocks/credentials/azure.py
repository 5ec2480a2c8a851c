"""AzureBlobStorageCredentials: an identity at Azure's blob storage, and what the service answers as our errors."""

from __future__ import annotations

import base64
import datetime as dt
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.base.addresses import check_encrypted
from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
    service_error,
)
from blocks.base.live import live
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

AZURE_ERRORS: dict[str, type[ConnectorError]] = {
    "AuthenticationFailed": AuthError,
    "InvalidAuthenticationInfo": AuthError,
    "NoAuthenticationInformation": AuthError,
    "AccountIsDisabled": AuthError,
    "401": AuthError,
    "AuthorizationFailure": AccessDeniedError,
    "AuthorizationPermissionMismatch": AccessDeniedError,
    "AuthorizationProtocolMismatch": AccessDeniedError,
    "AuthorizationResourceTypeMismatch": AccessDeniedError,
    "AuthorizationServiceMismatch": AccessDeniedError,
    "AuthorizationSourceIPMismatch": AccessDeniedError,
    "InsufficientAccountPermissions": AccessDeniedError,
    "KeyBasedAuthenticationNotPermitted": AccessDeniedError,
    "PublicAccessNotPermitted": AccessDeniedError,
    "UnauthorizedBlobOverwrite": AccessDeniedError,
    "CannotVerifyCopySource": AccessDeniedError,
    "403": AccessDeniedError,
    "BlobNotFound": ObjectNotFoundError,
    "ResourceNotFound": ObjectNotFoundError,
    "404": ObjectNotFoundError,
    "BlobAlreadyExists": ObjectExistsError,
    "ContainerAlreadyExists": AlreadyExistsError,
    "ConditionNotMet": ObjectExistsError,
    "TargetConditionNotMet": ObjectExistsError,
    "409": ObjectExistsError,
    "412": ObjectExistsError,
    "BlobArchived": InvalidInputError,
    "BlobBeingRehydrated": InvalidInputError,
    "BlobImmutableDueToPolicy": InvalidInputError,
    "InvalidBlobType": InvalidInputError,
    "InvalidResourceName": InvalidInputError,
    "LeaseIdMissing": InvalidInputError,
    "SnapshotsPresent": InvalidInputError,
    "400": InvalidInputError,
    "405": UnsupportedError,
    "413": InvalidInputError,
    "416": InvalidInputError,
    "InvalidRange": InvalidInputError,
    "InvalidMetadata": InvalidInputError,
    "InvalidHeaderValue": InvalidInputError,
    "FeatureNotYetSupportedForHierarchicalNamespaceAccounts": UnsupportedError,
    "501": UnsupportedError,
    # Another writer's commit dropped the blocks of this one, or a container of that name is still being deleted.
    "InvalidBlockList": TransientError,
    "ContainerBeingDeleted": TransientError,
    "ContainerDisabled": TransientError,
    "PendingCopyOperation": TransientError,
    "SourceConditionNotMet": TransientError,
    "Md5Mismatch": TransientError,
    "InternalError": TransientError,
    "OperationTimedOut": TransientError,
    "ServerBusy": ThrottledError,
    "AccountBeingCreated": TransientError,
    "408": TransientError,
    "429": ThrottledError,
    "500": TransientError,
    "502": TransientError,
    "503": ThrottledError,
    "504": TransientError,
    # Raised by azure.core and azure.identity themselves, by class name; without a line of its own a class takes its
    # base's.
    "AzureError": TransientError,  # content that does not have its MD5
    "ClientAuthenticationError": AuthError,
    "SSLError": InvalidInputError,
    "ConnectionError": TransientError,
    "ServiceRequestError": TransientError,
    "ServiceResponseError": TransientError,
    "DecodeError": TransientError,
    "ResourceExistsError": ObjectExistsError,
    "ResourceModifiedError": ObjectExistsError,
    "ResourceNotModifiedError": ObjectExistsError,
    "ResourceNotFoundError": ObjectNotFoundError,
    "TooManyRedirectsError": InvalidInputError,
    "HttpResponseError": TerminalError,
    "StreamConsumedError": TerminalError,
    "StreamClosedError": TerminalError,
    "ResponseNotReadError": TerminalError,
    "SerializationError": InvalidInputError,
    "DeserializationError": TransientError,
    "ValueError": InvalidInputError,
}
"""Service codes and HTTP statuses: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes and
https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
"""

AZURE_ADVICE: dict[str, str] = {
    "AuthenticationFailed": "Check account_key, sas_token or connection_string; a SAS token may have expired.",
    "NoAuthenticationInformation": "Give account_key, sas_token or connection_string, or take away anonymous.",
    "InvalidAuthenticationInfo": "Check tenant_id, and that the account is of this tenant.",
    "AuthorizationFailure": (
        "Check account_key, or sas_token and whether it has expired, and that the account's firewall lets this in."
    ),
    "KeyBasedAuthenticationNotPermitted": "The account takes no keys: leave account_key out, or give a client_secret.",
    "ClientAuthenticationError": (
        "Check tenant_id, client_id and client_secret; without them log in with 'az login', or give account_key."
    ),
    "SSLError": "Where the server has an authority of its own, give its file as verify.",
    "ServiceRequestError": "Is account_url right, and reachable from here?",
    "ConnectionError": "Is account_url right, and reachable from here?",
}

MAX_WORDS = 1000
SCOPE = "https://storage.azure.com/.default"
"""What a bearer token has to be good for."""
ACCOUNT_URL = r"https?://([^/?#@\s]+\.blob\.[^/?#@\s]+/?|(?!.*\.blob\.)[^?#@\s]+)"
"""Only a server that serves several accounts at one address has a path in it."""
EXCLUSIVE = ("account_key", "sas_token", "client_secret", "anonymous")
KNOWN_BUT_NOT_ALLOWED = {
    "AuthorizationPermissionMismatch",
    "AuthorizationResourceTypeMismatch",
    "AuthorizationServiceMismatch",
}


class AzureBlobStorageCredentials(ConnectorBlock, CredentialsBlock):
    """An identity at Azure Blob Storage, and the storage account it is used for.

    Without a key, a token or a client_secret it is the ambient identity, found as every Azure tool finds it:
    AZURE_STORAGE_CONNECTION_STRING if account_url is empty too, else the environment, a workload or managed identity,
    or the login of 'az login'. Tokens renew themselves.

    Example:
        ```python
        from blocks.credentials import AzureBlobStorageCredentials

        credentials = AzureBlobStorageCredentials.load("BLOCK_NAME")
        containers = credentials.get_client().list_containers()
        ```
    """

    _block_type_name = "ETL Azure Blob Storage Credentials"
    _block_type_slug = "etl-azure-blob-storage-credentials"
    _documentation_url = HttpUrl(
        "https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory"
    )

    connection_string: SecretStr | None = Field(
        default=None,
        description="Connection string of the account, as the portal shows it. Replaces all other fields. "
        "Defaults to AZURE_STORAGE_CONNECTION_STRING, if account_url is empty too.",
    )
    account_url: str | None = Field(
        default=None,
        title="Account URL",
        description="URL of the account, https://NAME.blob.core.windows.net. NAME defaults to AZURE_STORAGE_ACCOUNT.",
    )
    tenant_id: str | None = Field(default=None, description="Tenant ID of the service principal.")
    client_id: str | None = Field(
        default=None,
        description="Client ID of a service principal, with tenant_id and client_secret; alone, of a managed identity.",
    )
    client_secret: SecretStr | None = Field(default=None, description="Client secret of the service principal.")
    account_key: SecretStr | None = Field(
        default=None, description="One of the two keys of the account, which allow everything."
    )
    sas_token: SecretStr | None = Field(
        default=None, description="Shared access signature (SAS). What it allows, and until when, is part of it."
    )
    anonymous: bool = Field(default=False, description="Send requests without any identity, for public containers.")
    allow_http: bool = Field(
        default=False,
        title="Allow HTTP",
        description="Send credentials to another machine without encryption, over http://. Defaults to false.",
    )
    verify: bool | str = Field(
        default=True,
        description="Path of a CA bundle to trust, or false to accept any certificate (only for tests). Defaults to "
        "the usual authorities.",
    )

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        given = [name for name in EXCLUSIVE if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}, not both")
        if self.connection_string is not None:
            others = [name for name in ("account_url", "tenant_id", "client_id", *EXCLUSIVE) if getattr(self, name)]
            if others:
                raise ValueError(f"connection_string stands alone; leave out {' and '.join(others)}")
            parse_connection_string(self.connection_string.get_secret_value())
        if self.account_key is not None and not is_key(self.account_key.get_secret_value()):
            raise ValueError(
                "account_key is base64, as the portal shows it: letters, digits, + and /, and = at its end"
            )
        if self.account_url is not None and not re.fullmatch(ACCOUNT_URL, self.account_url):
            raise ValueError("account_url looks like https://NAME.blob.core.windows.net; a SAS token goes to sas_token")
        if (self.client_secret is None) != (self.tenant_id is None) or (self.tenant_id and not self.client_id):
            raise ValueError("a service principal is tenant_id, client_id and client_secret: give all three")
        return self

    def check(self) -> str:
        """Ask the account whether it knows the identity, and return one sentence with the answer.

        Raises:
            AuthError: There is no identity, or the account does not know it.
        """
        account = self.account()
        place = account.url
        if self.anonymous or "sr=" in (account.sas_token or ""):
            return f"{place} can only be tried on a container: check() of an AzureBlobContainer does it."
        client, failed = self.get_client(), require("azure.core.exceptions", extra="azure").AzureError
        try:
            client.get_account_information()
        except failed as error:
            if getattr(error, "error_code", None) not in KNOWN_BUT_NOT_ALLOWED:
                raise azure_error("reach", place, error) from self.shown(error)
        return f"{place} is reachable and knows these Azure credentials."

    def get_client(
        self, *, connections: int = 10, connect_timeout_s: float = 10.0, read_timeout_s: float = 60.0
    ) -> Any:
        """Return a new BlobServiceClient of the account, which the caller closes; its tokens renew themselves.

        Args:
            connections: The number of connections that stay open for the next request.
            connect_timeout_s: How long a connection may take.
            read_timeout_s: How long an answer, or the next byte of it, may take.

        Raises:
            InvalidInputError: No account is given.
            MissingDriverError: azure-storage-blob or azure-identity is not installed.
        """
        blob = require("azure.storage.blob", extra="azure")
        requests = require("requests", extra="azure")
        account, session = self.account(), requests.Session()
        session.mount(account.url, requests.adapters.HTTPAdapter(pool_maxsize=connections))
        transport = require("azure.core.pipeline.transport", extra="azure").RequestsTransport(
            session=session,
            connection_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            connection_verify=self.verify,
        )
        retry = _quick_retry()
        try:
            return blob.BlobServiceClient(
                account.url, credential=self._credential(account), transport=transport, retry_policy=retry
            )
        except ValueError as error:
            raise azure_error("use", account.url, error) from error

    @live
    def _kept_client(self) -> Any:
        return self.get_client()

    def get_container_client(self, container: str) -> Any:
        """Return a ContainerClient; its connections close with the block."""
        return self._kept_client.get_container_client(container)

    def get_blob_client(self, container: str, blob: str) -> Any:
        """Return a BlobClient of the blob with the full name `blob`; its connections close with the block."""
        return self._kept_client.get_blob_client(container, blob)

    def account(self) -> Account:
        """Return the storage account, with its key or SAS token if it is used with one.

        Raises:
            InvalidInputError: No account is given, or the credentials would go to it without encryption.
        """
        account = self._account()
        if not self.anonymous:
            check_encrypted(account.url, allow_http=self.allow_http)
        return account

    def _account(self) -> Account:
        if self.connection_string is not None:
            return parse_connection_string(self.connection_string.get_secret_value())
        key, token = (secret.get_secret_value() if secret else None for secret in (self.account_key, self.sas_token))
        own = self.account_url or any(getattr(self, field) for field in ("client_id", *EXCLUSIVE))
        if not own and (text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING")):
            return parse_connection_string(text)
        name = os.environ.get("AZURE_STORAGE_ACCOUNT")
        url = self.account_url or (f"https://{name}.blob.core.windows.net" if name else None)
        if url is None:
            raise InvalidInputError(
                "Could not find the Azure storage account: none is given. Give account_url or connection_string in "
                "AzureBlobStorageCredentials, or set AZURE_STORAGE_ACCOUNT."
            )
        return Account(url.rstrip("/"), account_name(url), key, token and token.removeprefix("?"))

    def frozen(self) -> dict[str, Any]:
        """Return the key, SAS token or bearer token that is valid now, and until when, as obstore takes it.

        Raises:
            AuthError: There is none.
        """
        account = self.account()
        if account.key:
            return {"access_key": account.key, "expires_at": None}
        if account.sas_token:
            return {"sas_token": account.sas_token, "expires_at": None}
        token = self.bearer_token()
        return {"token": token.token, "expires_at": dt.datetime.fromtimestamp(token.expires_on, dt.UTC)}

    def bearer_token(self) -> Any:
        """Return a token of Entra ID for blob storage: an AccessToken of azure.identity with `token` and `expires_on`.

        Raises:
            AuthError: There is no identity.
        """
        try:
            return self._token_credential.get_token(SCOPE)
        except ConnectorError:
            raise
        except Exception as error:
            raise azure_error("obtain", "a token for Azure storage", error) from error

    def shown(self, error: Exception) -> Exception | None:
        """Return the driver's error as the cause of ours; None with a SAS token, which it may show as part of a URL."""
        return None if self.account().sas_token else error

    def _credential(self, account: Account) -> Any:
        """Return what azure-storage-blob takes as an identity."""
        if account.key:
            return {"account_name": account.name, "account_key": account.key}
        if account.sas_token:
            return require("azure.core.credentials", extra="azure").AzureSasCredential(account.sas_token)
        return None if self.anonymous else self._token_credential

    @live
    def _token_credential(self) -> Any:
        identity = require("azure.identity", extra="azure")
        options: dict[str, Any] = {} if self.verify is True else {"connection_verify": self.verify}
        if self.client_secret is not None:
            # A private cloud's authority is not among those that Microsoft's own knows of.
            options["disable_instance_discovery"] = "AZURE_AUTHORITY_HOST" in os.environ
            return identity.ClientSecretCredential(
                self.tenant_id, self.client_id, self.client_secret.get_secret_value(), **options
            )
        if self.client_id is not None:
            options["managed_identity_client_id"] = self.client_id
        return identity.DefaultAzureCredential(**options)


@dataclass(frozen=True)
class Account:
    """A storage account: its address, its name, and a key or SAS token of it."""

    url: str
    name: str
    key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)


def account_name(url: str) -> str:
    """Return the name of the storage account in its URL.

    >>> account_name("https://lake.blob.core.windows.net"), account_name("http://127.0.0.1:10000/devstoreaccount1")
    ('lake', 'devstoreaccount1')
    """
    parts = urlsplit(url)
    return parts.path.strip("/").partition("/")[0] or (parts.hostname or "").partition(".")[0]


def is_key(text: str) -> bool:
    """Return whether it can be the key of an account, which is base64.

    >>> is_key("a2V5"), is_key("key")
    (True, False)
    """
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False


def parse_connection_string(text: str) -> Account:
    """Return the account that a connection string names.

    >>> parse_connection_string("AccountName=lake;AccountKey=eA==;EndpointSuffix=core.windows.net").url
    'https://lake.blob.core.windows.net'

    Raises:
        ValueError: It is not a connection string; the message does not show it.
    """
    pairs = [part.partition("=") for part in text.strip().split(";") if part]
    fields = {name.strip().lower(): value for name, _, value in pairs}
    name, url = fields.get("accountname", ""), fields.get("blobendpoint", "")
    if not url and name:
        protocol, suffix = fields.get("defaultendpointsprotocol", "https"), fields.get("endpointsuffix")
        url = f"{protocol}://{name}.blob.{suffix or 'core.windows.net'}"
    token = fields.get("sharedaccesssignature", "").removeprefix("?")
    key = fields.get("accountkey")
    if not url or not (is_key(key) if key else token):
        raise ValueError(
            "connection_string looks like 'DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;"
            "EndpointSuffix=core.windows.net', with BlobEndpoint and SharedAccessSignature as other parts"
        )
    return Account(url.rstrip("/"), name or account_name(url), key, token or None)


def azure_error(
    verb: str,
    place: str,
    error: Exception,
    *,
    table: Mapping[str, type[ConnectorError]] = AZURE_ERRORS,
    advice: Mapping[str, str] = AZURE_ADVICE,
) -> ConnectorError:
    """Translate an error of azure.core, azure.identity or azure-storage-blob that was raised while trying to `verb`."""
    code, response = getattr(error, "error_code", None), getattr(error, "response", None)
    codes = [str(getattr(code, "value", code))] if code else []
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if response is not None and response.status_code >= 400:  # noqa: PLR2004 (HTTP's errors)
        codes.append(str(response.status_code))
    elif "certificate" in str(error).lower():
        codes.append("SSLError")
    elif "HttpResponseError" in kinds[:1]:  # the answer was good, and broke off
        codes.append("ServiceResponseError")
    codes += kinds
    # The service adds ids and times in lines of their own; azure.identity lists one attempted identity in each.
    said = re.split(r"\n(?:RequestId|ErrorCode|Content):", str(error))[0]
    words = re.sub(r" with url: \S+", "", " ".join(said.split()))[:MAX_WORDS]  # whose query may be a signature
    retry_after = "" if response is None else response.headers.get("Retry-After", "")
    return service_error(
        verb, place, codes, words, table=told_apart(words, table), advice=advice, retry_after=retry_after
    )


def told_apart(words: str, table: Mapping[str, type[ConnectorError]]) -> Mapping[str, type[ConnectorError]]:
    """Return the table for an answer with these words: Azurite has one code for what Azure has two for."""
    if "failed to authenticate" in words:
        return {**table, "AuthorizationFailure": AuthError}
    if "contentMD5 doesn't match" in words:
        return {**table, "InvalidOperation": TransientError}
    return table


def _quick_retry() -> Any:
    """Return the driver's policy for one request: a few quick attempts, and none after an answer that did not come.

    The driver's own retries wait 18 s before the first.
    """
    silence = require("azure.core.exceptions", extra="azure").ServiceResponseTimeoutError
    linear = require("azure.storage.blob", extra="azure").LinearRetry

    class QuickRetry(linear):  # type: ignore[misc, valid-type]
        def increment(
            self, settings: Any, request: Any, response: Any = None, error: Any = None, **options: Any
        ) -> Any:
            more = super().increment(settings, request, response=response, error=error, **options)
            return more and not isinstance(error, silence)

    return QuickRetry(backoff=0.3, retry_total=2, random_jitter_range=0.2)
