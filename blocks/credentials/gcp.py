"""GcpCredentials: an identity at Google Cloud, and what its services answer as our errors."""

from __future__ import annotations

import json
import os
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect.blocks.abstract import CredentialsBlock
from prefect.types import SecretDict
from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.base.addresses import Url, check_encrypted
from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
    service_error,
)
from blocks.base.live import live
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

SCOPE = "https://www.googleapis.com/auth/cloud-platform"

GOOGLE_ERRORS: dict[str, type[ConnectorError]] = {
    # Reasons, which the JSON services give beside the HTTP status.
    "authError": AuthError,
    "forbidden": AccessDeniedError,
    "accessDenied": AccessDeniedError,
    "insufficientPermissions": AccessDeniedError,
    "accessNotConfigured": AccessDeniedError,
    "billingNotEnabled": TerminalError,
    "quotaExceeded": TerminalError,
    "dailyLimitExceeded": TerminalError,
    "responseTooLarge": TerminalError,
    "stopped": TerminalError,
    "notFound": NotFoundError,
    "duplicate": AlreadyExistsError,
    "conflict": AlreadyExistsError,
    "conditionNotMet": AlreadyExistsError,
    "invalid": InvalidInputError,
    "invalidParameter": InvalidInputError,
    "invalidQuery": InvalidInputError,
    "badRequest": InvalidInputError,
    "parseError": InvalidInputError,
    "rateLimitExceeded": ThrottledError,
    "userRateLimitExceeded": ThrottledError,
    "backendError": TransientError,
    "internalError": TransientError,
    "badGateway": TransientError,
    "tableUnavailable": TransientError,
    "timeout": TransientError,
    "notImplemented": UnsupportedError,
    "methodNotAllowed": UnsupportedError,
    # HTTP statuses, for everything without a known reason.
    "400": InvalidInputError,
    "401": AuthError,
    "403": AccessDeniedError,
    "404": NotFoundError,
    "405": UnsupportedError,
    "408": TransientError,
    "409": AlreadyExistsError,
    "411": InvalidInputError,
    "412": AlreadyExistsError,
    "413": InvalidInputError,
    "416": InvalidInputError,
    "429": ThrottledError,
    "499": TransientError,
    "500": TransientError,
    "501": UnsupportedError,
    "502": TransientError,
    "503": TransientError,
    "504": TransientError,
    # Raised by the libraries, by class name; a class without a line of its own takes its base's.
    "Aborted": TransientError,
    "DataLoss": TransientError,
    "DuplicateCredentialArgs": InvalidInputError,
    "AsyncRestUnsupportedParameterError": UnsupportedError,
    "UnseekableStreamError": InvalidInputError,
    "ResumableTransferError": TransientError,
    "Redirection": InvalidInputError,
    "ClientError": InvalidInputError,
    "ServerError": TransientError,
    "RetryError": TransientError,
    "GoogleAPIError": TerminalError,
    "TransportError": TransientError,
    "TimeoutError": TransientError,
    "ResponseError": TransientError,
    "MutualTLSChannelError": AuthError,
    "GoogleAuthError": AuthError,
    "DataCorruption": TransientError,
    "SSLEOFError": TransientError,
    "SSLZeroReturnError": TransientError,
    "SSLError": InvalidInputError,
    "InvalidURL": InvalidInputError,
    "MissingSchema": InvalidInputError,
    "InvalidSchema": InvalidInputError,
    "InvalidHeader": InvalidInputError,
    "RequestException": TransientError,
    "HTTPException": TransientError,
    "HTTPError": TransientError,
    "ConnectionError": TransientError,
}
"""https://cloud.google.com/storage/docs/json_api/v1/status-codes, https://cloud.google.com/bigquery/docs/error-messages,
google.api_core.exceptions, google.auth.exceptions, and the exceptions of requests, urllib3 and http.client.
"""

GOOGLE_ADVICE: dict[str, str] = {
    "DefaultCredentialsError": (
        "Give service_account_file or service_account_info in GcpCredentials, set GOOGLE_APPLICATION_CREDENTIALS, or "
        "log in with 'gcloud auth application-default login'. Elsewhere than on Google's machines NO_GCE_CHECK=true "
        "saves the wait for their metadata server; on them GCE_METADATA_TIMEOUT gives it more seconds."
    ),
    "RefreshError": (
        "Check the service account and its key; an access_token that has run out cannot be renewed. To impersonate, "
        "the identity needs iam.serviceAccounts.getAccessToken (role Service Account Token Creator) on the account."
    ),
    "401": "Check the credentials; an access_token that has run out cannot be renewed.",
    "accessNotConfigured": "Enable the service's API in the project.",
    "SSLError": "Where the server has an authority of its own, give its file as REQUESTS_CA_BUNDLE.",
    "ConnectionError": "Is endpoint_url right, and reachable from here?",
}


class ClientType(Enum):
    """The services that `GcpCredentials.get_client` has clients for."""

    CLOUD_STORAGE = "cloud_storage"
    BIGQUERY = "bigquery"
    SECRET_MANAGER = "secret_manager"  # noqa: S105 (a service's name)


class GcpCredentials(ConnectorBlock, CredentialsBlock):
    """An identity at Google Cloud, or at a server that speaks its protocols.

    Without a key or a token it is the ambient identity (application default credentials), found as every Google tool
    finds it: GOOGLE_APPLICATION_CREDENTIALS, the login of gcloud, the service account of a machine at Google. Nothing
    is read or looked up before first use.

    Example:
        ```python
        from blocks.credentials import GcpCredentials

        credentials = GcpCredentials.load("BLOCK_NAME")
        client = credentials.get_client("bigquery")
        ```
    """

    _block_type_name = "ETL GCP Credentials"
    _block_type_slug = "etl-gcp-credentials"
    _documentation_url = HttpUrl("https://cloud.google.com/docs/authentication/application-default-credentials")

    service_account_file: Path | None = Field(
        default=None,
        description="Path of the JSON key of a service account. Defaults to GOOGLE_APPLICATION_CREDENTIALS.",
    )
    service_account_info: SecretDict | None = Field(
        default=None, description="Content of the JSON key of a service account, instead of its path."
    )
    project: str | None = Field(
        default=None,
        description="Project to work in. Defaults to the project of the identity, then to GOOGLE_CLOUD_PROJECT.",
    )
    quota_project_id: str | None = Field(
        default=None, description="Project that is billed for requests. Defaults to GOOGLE_CLOUD_QUOTA_PROJECT."
    )
    impersonate_service_account: str | None = Field(
        default=None,
        description="E-mail of a service account to impersonate with the identity above. Its tokens renew themselves.",
    )
    access_token: SecretStr | None = Field(
        default=None, description="Access token obtained elsewhere. It is used as it is and never renewed."
    )
    anonymous: bool = Field(
        default=False, description="Send requests without any identity, for public data and for emulators."
    )
    endpoint_url: Url | None = Field(
        default=None,
        description="URL of a server that speaks the Google protocols, by https:// unless it is on this machine. "
        "Defaults to STORAGE_EMULATOR_HOST or BIGQUERY_EMULATOR_HOST, then to Google itself.",
    )
    allow_http: bool = Field(
        default=False,
        title="Allow HTTP",
        description="Send credentials to another machine without encryption, over http://. Defaults to false.",
    )

    @field_validator("service_account_info", mode="before")
    @classmethod
    def _read_json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("service_account_info is not JSON; give the content of the key file") from None

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        given = [
            name
            for name in ("service_account_file", "service_account_info", "access_token", "anonymous")
            if getattr(self, name)
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one identity")
        if self.anonymous and (self.impersonate_service_account or self.quota_project_id):
            raise ValueError("anonymous goes neither with impersonate_service_account nor with quota_project_id")
        return self

    def check(self) -> str:
        """Ask Google for a token, if it gives any, and return one sentence that says which identity this is.

        Raises:
            AuthError: There is no identity, or Google does not accept it.
        """
        if self.anonymous:
            return "These Google credentials are anonymous."
        if self.access_token and not self.impersonate_service_account:
            return "These Google credentials are an access token; whose it is shows when it is used."
        self.get_access_token()
        email = getattr(self.get_credentials_from_service_account(), "service_account_email", None)
        return f"Google gave a token to these credentials{f', which are {email}' if email else ''}."

    def get_credentials_from_service_account(self) -> Any:
        """Return google-auth credentials from the source that the fields name; they renew themselves.

        Raises:
            AuthError: There are none, or the key cannot be used.
            MissingDriverError: google-auth is not installed.
        """
        return self._identity()[0]

    def get_project(self) -> str:
        """Return the project to work in: the field, else that of the identity, else that of the environment.

        Raises:
            InvalidInputError: None of them names one.
        """
        if project := self.project or self._identity()[1]:
            return project
        raise InvalidInputError("No Google project is named. Give project in GcpCredentials, or GOOGLE_CLOUD_PROJECT.")

    def get_access_token(self) -> str:
        """Return a token that is valid for some minutes at least; treat it as a secret.

        Raises:
            AuthError: There is no identity, or Google does not accept it.
        """
        credentials = self.get_credentials_from_service_account()
        if self.anonymous:
            raise InvalidInputError("Anonymous Google credentials have no access token.")
        request = require("google.auth.transport.requests", extra="gcp").Request()
        try:
            if not credentials.valid:
                credentials.refresh(request)
        except Exception as error:
            raise google_error("obtain", "a Google access token", error) from error
        token: str = credentials.token
        return token

    def get_client(
        self, client_type: Enum | Literal["cloud_storage", "bigquery", "secret_manager"], **get_client_kwargs: Any
    ) -> Any:
        """Return a new client of a service, which the caller closes.

        Args:
            client_type: The service, or a `ClientType`, ours or that of prefect-gcp.
            get_client_kwargs: Options of the `get_..._client` method of that name.

        Raises:
            InvalidInputError: There is no client for this service.
        """
        try:
            name = ClientType(client_type.value if isinstance(client_type, Enum) else client_type).value
        except ValueError:
            known = ", ".join(kind.value for kind in ClientType)
            raise InvalidInputError(f"No client of {client_type!r:.50}; the services are: {known}.") from None
        return getattr(self, f"get_{name}_client")(**get_client_kwargs)

    def get_cloud_storage_client(self, project: str | None = None) -> Any:
        """Return a new `google.cloud.storage.Client`, which the caller closes.

        Args:
            project: Where buckets are created and listed. Defaults to that of `get_project`; none is needed.
        """
        storage = require("google.cloud.storage", extra="gcs")
        credentials, own = self._identity("STORAGE_EMULATOR_HOST")
        return storage.Client(
            project=project or self.project or own, credentials=credentials, client_options=self._client_options()
        )

    def get_bigquery_client(self, project: str | None = None, location: str | None = None) -> Any:
        """Return a new `google.cloud.bigquery.Client`, which the caller closes.

        Args:
            project: Where jobs run. Defaults to that of `get_project`.
            location: Where jobs run and datasets are created, such as "EU".
        """
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        credentials, own = self._identity("BIGQUERY_EMULATOR_HOST")
        return bigquery.Client(
            project=project or self.project or own or self.get_project(),
            credentials=credentials,
            location=location,
            client_options=self._client_options(),
        )

    def get_secret_manager_client(self) -> Any:
        """Return a new `google.cloud.secretmanager.SecretManagerServiceClient`, which the caller closes.

        It speaks REST, because gRPC could not be tested.
        """
        secretmanager = require("google.cloud.secretmanager", extra="gcp")
        return secretmanager.SecretManagerServiceClient(
            credentials=self.get_credentials_from_service_account(),
            client_options=self._client_options(),
            transport="rest",
        )

    def dbt_output(self) -> dict[str, Any]:
        """Return the identity as a dbt profile for BigQuery has it, with a `SecretStr` for each secret.

        https://docs.getdbt.com/docs/core/connect-data-platform/bigquery-setup

        Raises:
            UnsupportedError: dbt has no anonymous access to Google.
        """
        own: dict[str, Any] = {"method": "oauth"}
        if self.service_account_file:
            own = {"method": "service-account", "keyfile": str(self.service_account_file.expanduser())}
        elif self.service_account_info:
            key = self.service_account_info.get_secret_value()
            own = {"method": "service-account-json", "keyfile_json": {name: SecretStr(key[name]) for name in key}}
        elif self.access_token:
            own = {"method": "oauth-secrets", "token": self.access_token}
        elif self.anonymous:
            if not self.endpoint_url:
                raise UnsupportedError("dbt has no anonymous access to BigQuery. Give an identity.")
            own = {"method": "oauth-secrets", "token": "anonymous"}  # emulators do not look at it
        output = {
            "impersonate_service_account": self.impersonate_service_account,
            "quota_project": self.quota_project_id,
            "api_endpoint": self.endpoint_url,
        }
        return own | {name: value for name, value in output.items() if value is not None}

    def _client_options(self) -> dict[str, Any]:
        return {"api_endpoint": self.endpoint_url} if self.endpoint_url else {}

    def _identity(self, emulator: str = "") -> tuple[Any, str | None]:
        """Return the credentials and their project; anonymous ones if the environment names an emulator."""
        empty = not (self.service_account_file or self.service_account_info or self.access_token or self.endpoint_url)
        if self.anonymous or (empty and os.environ.get(emulator)):
            anonymous = require("google.auth.credentials", extra="gcp").AnonymousCredentials()
            return anonymous, os.environ.get("GOOGLE_CLOUD_PROJECT")
        check_encrypted(self.endpoint_url or os.environ.get(emulator), allow_http=self.allow_http)
        return self._found

    @live
    def _found(self) -> tuple[Any, str | None]:
        try:
            credentials, project = self._source()
            if self.impersonate_service_account:
                credentials = require("google.auth.impersonated_credentials", extra="gcp").Credentials(
                    source_credentials=credentials,
                    target_principal=self.impersonate_service_account,
                    target_scopes=[SCOPE],
                )
            if self.quota_project_id:
                credentials = credentials.with_quota_project(self.quota_project_id)
        except ConnectorError:
            raise
        except Exception as error:
            raise google_error("find", "Google credentials", error) from error
        return credentials, project

    def _source(self) -> tuple[Any, str | None]:
        if self.access_token:
            token = require("google.oauth2.credentials", extra="gcp").Credentials(self.access_token.get_secret_value())
            return token, os.environ.get("GOOGLE_CLOUD_PROJECT")
        if not (self.service_account_file or self.service_account_info):
            credentials, project = require("google.auth", extra="gcp").default(scopes=[SCOPE], request=_Request())
            return credentials, project
        place, info = "service_account_info", self.service_account_info and self.service_account_info.get_secret_value()
        try:
            if self.service_account_file:
                place = str(self.service_account_file.expanduser())
                info = json.loads(Path(place).read_bytes())
            key = require("google.oauth2.service_account", extra="gcp").Credentials.from_service_account_info(
                info, scopes=[SCOPE]
            )
        except OSError as error:
            raise AuthError(
                f"Could not read the service account's key {place}: {error.strerror}. Check service_account_file."
            ) from error
        except (ValueError, AttributeError, TypeError) as error:
            # Only google-auth's own words say what is missing; the others may hold a piece of the key.
            words = f": {error}" if type(error).__module__ == "google.auth.exceptions" else ""
            raise AuthError(
                f"Could not use the service account's key in {place}{words}. It has to be the JSON of a key, whole."
            ) from None
        return key, key.project_id or os.environ.get("GOOGLE_CLOUD_PROJECT")


class _Request:
    """The requests of google-auth while it looks for default credentials.

    It asks three times, 3 s each and with waits in between, for the metadata server that only a machine at Google has.
    Here one attempt without an answer is the end, unless the machine says that it is at Google.
    """

    def __init__(self) -> None:
        self._send = require("google.auth.transport.requests", extra="gcp").Request()
        on_google = require("google.auth.compute_engine", extra="gcp").detect_gce_residency_linux
        self._patient = on_google() or "GCE_METADATA_DETECT_RETRIES" in os.environ

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        exceptions = require("google.auth.exceptions", extra="gcp")
        try:
            answer = self._send(*args, **kwargs)
        except exceptions.TransportError as error:
            if self._patient:
                raise
            raise exceptions.DefaultCredentialsError("there are none, and no metadata server answers") from error
        self._patient = True
        return answer


def google_error(
    verb: str,
    place: str,
    error: BaseException,
    *,
    table: Mapping[str, type[ConnectorError]] = GOOGLE_ERRORS,
    advice: Mapping[str, str] = GOOGLE_ADVICE,
) -> ConnectorError:
    """Return our error for what a library of Google raised while it tried to `verb` a `place`."""
    causes = list(_causes(error))
    reasons = [reason for cause in causes for reason in _reasons(cause)]
    statuses = [status for cause in causes for status in _statuses(cause)]
    kinds = [kind.__name__ for cause in reversed(causes) for kind in type(cause).__mro__]
    if getattr(error, "retryable", False):  # google-auth's word on an answer to a request for a token
        kinds.insert(0, "TransportError")
    # Of all classes only Aborted says more than its status, which it shares with conflicts.
    codes = [*reasons, *(kind for kind in kinds[:1] if kind == "Aborted"), *statuses, *kinds]
    heads = [getattr(getattr(cause, "response", None), "headers", None) or {} for cause in causes]
    waits = [head.get("retry-after", "") for head in heads]
    return service_error(
        verb, place, codes, _words(causes[-1]), table=table, advice=advice, retry_after=next(filter(None, waits), "")
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the error and what it only wraps: the last failure of a retry, of the network, the service's answer."""
    yield error
    answer = getattr(error, "response", None)
    if hasattr(answer, "status_code") and not getattr(error, "errors", None):
        # What transfers raise holds the answer, and not what it says.
        yield require("google.api_core.exceptions", extra="gcp").from_http_response(answer)
        return
    for inner in (getattr(error, "cause", None), getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            yield from _causes(inner)
            return


def _statuses(error: BaseException) -> list[str]:
    """Return the HTTP status of the answer, as a list of one or none."""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return [str(int(status))] if isinstance(status, int) else []


def _reasons(error: BaseException) -> list[str]:
    """Return the service's own codes for what went wrong, the most telling first."""
    told = [entry.get("reason") for entry in getattr(error, "errors", None) or () if isinstance(entry, dict)]
    return [reason for reason in [*told, getattr(error, "reason", None)] if isinstance(reason, str)]


def _words(error: BaseException) -> str:
    """Return the service's message without the request that it repeats: anybody might write to its URL."""
    text = str(getattr(error, "message", None) or error)
    return re.sub(r"^(GET|HEAD|POST|PUT|PATCH|DELETE) \S+: ", "", text).strip()
