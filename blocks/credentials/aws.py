"""AwsCredentials: an identity at AWS, and what its services answer as our errors."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, PrivateAttr, SecretStr, model_validator

from blocks.base.addresses import Url, check_encrypted
from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    ThrottledError,
    TransientError,
    service_error,
)
from blocks.base.live import live
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


AWS_ERRORS: dict[str, type[ConnectorError]] = {
    "InvalidAccessKeyId": AuthError,
    "InvalidClientTokenId": AuthError,
    "SignatureDoesNotMatch": AuthError,
    "IncompleteSignature": AuthError,
    "MissingAuthenticationToken": AuthError,
    "UnrecognizedClientException": AuthError,
    "AuthFailure": AuthError,
    "InvalidToken": AuthError,
    "ExpiredToken": AuthError,
    "ExpiredTokenException": AuthError,
    "TokenRefreshRequired": AuthError,
    "RequestExpired": AuthError,
    "RequestTimeTooSkewed": AuthError,
    "OptInRequired": AuthError,
    "NotSignedUp": AuthError,
    "401": AuthError,
    "AccessDenied": AccessDeniedError,
    "AccessDeniedException": AccessDeniedError,
    "UnauthorizedOperation": AccessDeniedError,
    "403": AccessDeniedError,
    "404": NotFoundError,
    "ValidationError": InvalidInputError,
    "Throttling": ThrottledError,
    "ThrottlingException": ThrottledError,
    "ThrottledException": ThrottledError,
    "RequestThrottled": ThrottledError,
    "RequestThrottledException": ThrottledError,
    "TooManyRequestsException": ThrottledError,
    "ProvisionedThroughputExceededException": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "BandwidthLimitExceeded": ThrottledError,
    "LimitExceededException": ThrottledError,
    "SlowDown": ThrottledError,
    "EC2ThrottledException": ThrottledError,
    "429": ThrottledError,
    "TransactionInProgressException": TransientError,
    "RequestTimeout": TransientError,
    "RequestTimeoutException": TransientError,
    "PriorRequestNotComplete": TransientError,
    "InternalError": TransientError,
    "InternalFailure": TransientError,
    "ServiceUnavailable": TransientError,
    "408": TransientError,
    "500": TransientError,
    "502": TransientError,
    "503": TransientError,
    "504": TransientError,
    # Raised by botocore itself, by class name; a class without a line of its own takes its base's.
    "NoCredentialsError": AuthError,
    "PartialCredentialsError": AuthError,
    "CredentialRetrievalError": AuthError,
    "UnknownCredentialError": AuthError,
    "NoAuthTokenError": AuthError,
    "TokenRetrievalError": AuthError,
    "ProfileNotFound": AuthError,
    "SSOError": AuthError,
    "LoginError": AuthError,
    "RefreshWithMFAUnsupportedError": AuthError,
    "SSLError": InvalidInputError,
    "HTTPClientError": TransientError,
    "ConnectionError": TransientError,
    "MetadataRetrievalError": TransientError,
    "IncompleteReadError": TransientError,
    "ChecksumError": TransientError,
    "FlexibleChecksumError": TransientError,
    "ParamValidationError": InvalidInputError,
    "BotoCoreError": InvalidInputError,
}
"""Service codes and HTTP statuses: botocore retries/standard.py and data/_retry.json, and
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

AWS_ADVICE: dict[str, str] = {
    "InvalidAccessKeyId": "Check aws_access_key_id.",
    "InvalidClientTokenId": "Check aws_access_key_id.",
    "SignatureDoesNotMatch": "Check aws_secret_access_key.",
    "ExpiredToken": "Renew the temporary credentials, or use assume_role_arn, which renews itself.",
    "ExpiredTokenException": "Renew the temporary credentials, or use assume_role_arn, which renews itself.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "ProfileNotFound": "Check profile_name, and the shared configuration files of this machine.",
    "SSOError": "Log in again with 'aws sso login'.",
    "SSLError": "Where the server has an authority of its own, give its file as verify.",
    "ConnectionError": "Is endpoint_url right, and reachable from here?",
}


def utc_now() -> dt.datetime:
    """Return this machine's time."""
    return dt.datetime.now(dt.UTC)


class AwsCredentials(ConnectorBlock, CredentialsBlock):
    """An identity at AWS, or at a server that speaks its protocols.

    Without keys or a profile it is the ambient identity, found as every AWS tool finds it: environment variables, the
    shared configuration files, a container's or an instance's role. An assumed role is renewed before it expires.

    Example:
        ```python
        from blocks.credentials import AwsCredentials

        credentials = AwsCredentials.load("BLOCK_NAME")
        queue = credentials.get_client("sqs")
        ```
    """

    _block_type_name = "ETL AWS Credentials"
    _block_type_slug = "etl-aws-credentials"
    _documentation_url = HttpUrl("https://boto3.amazonaws.com/v1/documentation/api/latest/guide/credentials.html")

    aws_access_key_id: str | None = Field(
        default=None,
        description="Access key ID. Defaults to AWS_ACCESS_KEY_ID, then to the profile's.",
        title="Access key id",
    )
    aws_secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of the access key. Required with an access key ID.", title="Secret access key"
    )
    aws_session_token: SecretStr | None = Field(
        default=None, description="Session token of a temporary access key.", title="Session token"
    )
    profile_name: str | None = Field(
        default=None, description="Profile in the shared configuration files. Defaults to AWS_PROFILE."
    )
    region_name: str | None = Field(
        default=None, description="Region, such as eu-central-1. Defaults to AWS_DEFAULT_REGION, then to the profile's."
    )
    anonymous: bool = Field(
        default=False,
        description="Send requests without a signature, as nobody: for public data. Defaults to false.",
    )
    assume_role_arn: str | None = Field(
        default=None,
        description="ARN of a role to assume with the identity above. It is renewed as long as it is used.",
    )
    assume_role_external_id: str | None = Field(
        default=None, description="External ID, if the owner of the role requires one."
    )
    assume_role_session_name: str = Field(
        default="etl-blocks", description="Session name under which CloudTrail records the use of the role."
    )
    assume_role_duration_s: int = Field(
        default=3600,
        ge=900,
        le=43200,
        description="Lifetime of one assumption of the role, in seconds (900 to 43,200).",
    )
    endpoint_url: Url | None = Field(
        default=None,
        description="URL of a server that speaks the AWS protocols, by https:// unless it is on this machine. Defaults "
        "to AWS_ENDPOINT_URL, then to AWS itself.",
    )
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

    _clock: Callable[[], dt.datetime] = PrivateAttr(default_factory=lambda: utc_now)

    @model_validator(mode="before")
    @classmethod
    def _take_client_parameters(cls, values: Any) -> Any:
        """Take the nested `aws_client_parameters` of values saved with prefect-aws, as far as they apply here."""
        if not isinstance(values, dict) or "aws_client_parameters" not in values:
            return values
        values = dict(values)
        nested = dict(values.pop("aws_client_parameters") or {})
        if authorities := nested.pop("verify_cert_path", None):
            nested["verify"] = str(authorities)
        taken = {name: nested.pop(name, None) for name in ("endpoint_url", "verify")}
        taken |= _of_config(nested.pop("config", None))
        unknown = sorted(
            name for name, value in nested.items() if value is not None and (name, value) != ("use_ssl", True)
        )
        if unknown:
            raise ValueError(
                f"aws_client_parameters may hold endpoint_url, verify, verify_cert_path and config, not "
                f"{', '.join(unknown)}; "
                "take a client with such settings from get_boto3_session()."
            )
        return {**{name: value for name, value in taken.items() if value is not None}, **values}

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        if (self.aws_access_key_id is None) != (self.aws_secret_access_key is None):
            raise ValueError("aws_access_key_id and aws_secret_access_key go together: give both or none")
        if self.aws_session_token is not None and self.aws_access_key_id is None:
            raise ValueError("aws_session_token goes with an aws_access_key_id")
        if self.anonymous and (self.aws_access_key_id or self.profile_name or self.assume_role_arn):
            raise ValueError("anonymous goes with no key, profile or role")
        return self

    def check(self) -> str:
        """Ask AWS who this is, and return one sentence with the answer.

        Raises:
            AuthError: There is no identity, or AWS does not know it.
        """
        # Any region will do to ask who I am, and the servers that speak S3 often have none.
        client = self.get_client("sts", region_name=self.get_boto3_session().region_name or "us-east-1")
        try:
            identity = client.get_caller_identity()
        except Exception as error:
            raise aws_error("find out the identity behind", "these AWS credentials", error) from error
        return f"These AWS credentials are {identity['Arn']}."

    def get_boto3_session(self) -> Any:
        """Return a boto3 session with this identity; its credentials renew themselves.

        Raises:
            AuthError: The profile does not exist.
            MissingDriverError: boto3 is not installed.
        """
        return self._kept_session

    @live
    def _kept_session(self) -> Any:
        return self._session()

    def get_client(self, client_type: str | Enum, **options: Any) -> Any:
        """Return a new boto3 client, which the caller closes.

        Args:
            client_type: The service, such as "s3" or "sqs", or a `ClientType` of prefect-aws.
            options: Options of `boto3.Session.client`, such as `config`.

        Raises:
            InvalidInputError: The credentials would go to another machine without encryption.
        """
        service = client_type.value if isinstance(client_type, Enum) else client_type
        settings = {"endpoint_url": self.endpoint_url, "verify": None if self.verify is True else self.verify} | options
        if self.anonymous:
            botocore = require("botocore", extra="aws")
            unsigned = require("botocore.config", extra="aws").Config(signature_version=botocore.UNSIGNED)
            settings["config"] = settings["config"].merge(unsigned) if settings.get("config") else unsigned
        return self._encrypted(self.get_boto3_session().client(service, **settings))

    def _encrypted(self, client: Any) -> Any:
        """Return a client whose server, which the environment may name too, may be sent credentials."""
        check_encrypted(client.meta.endpoint_url, allow_http=self.allow_http)
        return client

    def get_s3_client(self) -> Any:
        """Return a new boto3 client of S3, which the caller closes."""
        return self.get_client("s3")

    def get_secrets_manager_client(self) -> Any:
        """Return a new boto3 client of Secrets Manager, which the caller closes."""
        return self.get_client("secretsmanager")

    def frozen(self) -> dict[str, str | None]:
        """Return the access key, secret and token that are valid now, for drivers that take no boto3 session.

        Keys given in the fields need no boto3.

        Raises:
            AuthError: There are none.
        """
        if self.aws_access_key_id and self.aws_secret_access_key and not self.assume_role_arn:
            token = self.aws_session_token
            return {
                "access_key_id": self.aws_access_key_id,
                "secret_access_key": self.aws_secret_access_key.get_secret_value(),
                "token": token.get_secret_value() if token else None,
            }
        try:
            credentials = self.get_boto3_session().get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        except ConnectorError:
            raise
        except Exception as error:
            raise aws_error("obtain", "AWS credentials", error) from error
        if frozen is None or not frozen.access_key:
            raise AuthError(
                "Could not obtain AWS credentials: there are none. Give keys or a profile_name in AwsCredentials, "
                "set AWS_PROFILE or AWS_ACCESS_KEY_ID, or run where a role is attached."
            )
        return {"access_key_id": frozen.access_key, "secret_access_key": frozen.secret_key, "token": frozen.token}

    def _session(self) -> Any:
        boto3 = require("boto3", extra="aws")
        secret, token = self.aws_secret_access_key, self.aws_session_token
        try:
            session = boto3.Session(
                aws_access_key_id=self.aws_access_key_id,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                aws_session_token=token.get_secret_value() if token else None,
                profile_name=self.profile_name,
                region_name=self.region_name,
            )
        except Exception as error:
            raise aws_error("use", f"the AWS profile {self.profile_name}", error) from error
        return self._with_role(session) if self.assume_role_arn else session

    def _with_role(self, session: Any) -> Any:
        """Return a session with the credentials of the role; botocore renews them before they expire."""
        boto3 = require("boto3", extra="aws")
        credentials = require("botocore.credentials", extra="aws")
        botocore_session = require("botocore.session", extra="aws").get_session()
        request = {
            "RoleArn": self.assume_role_arn,
            "RoleSessionName": self.assume_role_session_name,
            "DurationSeconds": self.assume_role_duration_s,
        }
        if self.assume_role_external_id:
            request["ExternalId"] = self.assume_role_external_id
        verify = None if self.verify is True else self.verify

        def assume() -> dict[str, str]:
            client = self._encrypted(session.client("sts", endpoint_url=self.endpoint_url, verify=verify))
            given = client.assume_role(**request)["Credentials"]
            return {
                "access_key": given["AccessKeyId"],
                "secret_key": given["SecretAccessKey"],
                "token": given["SessionToken"],
                "expiry_time": given["Expiration"].isoformat(),
            }

        # botocore has no public way to hand over credentials that renew themselves; this attribute is the known one.
        botocore_session._credentials = credentials.DeferredRefreshableCredentials(  # noqa: SLF001
            assume, "sts-assume-role", time_fetcher=self._clock
        )
        return boto3.Session(botocore_session=botocore_session, region_name=session.region_name)


def _of_config(config: Any) -> dict[str, Any]:
    """Return the fields that stand for the `config` of a client, a botocore Config or its options.

    Raises:
        ValueError: It has options that are no fields.
    """
    options = dict(getattr(config, "_user_provided_options", config) or {})
    found: dict[str, Any] = {"region_name": options.pop("region_name", None)}
    signature = options.pop("signature_version", None)
    if signature is not None and type(signature).__name__ != "str":  # botocore's UNSIGNED, an object of its own
        signature = "unsigned"
    found["anonymous"] = True if signature in ("unsigned", "UNSIGNED") else None
    unknown = sorted(options) + ["signature_version"] * (found["anonymous"] is None and signature is not None)
    if unknown:
        raise ValueError(
            f"aws_client_parameters may hold in config region_name and an unsigned signature_version, not "
            f"{', '.join(unknown)}. How long to wait is read_timeout_s of the bucket's or the service's block, a proxy "
            "is HTTPS_PROXY; for all else give config to get_client()."
        )
    return found


def aws_error(
    verb: str,
    place: str,
    error: Exception,
    *,
    table: Mapping[str, type[ConnectorError]] = AWS_ERRORS,
    advice: Mapping[str, str] = AWS_ADVICE,
) -> ConnectorError:
    """Return our error for what botocore raised while it tried to `verb` a `place`."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    metadata = response.get("ResponseMetadata", {})
    if "Error" in response:
        codes = [response["Error"].get("Code", ""), str(metadata.get("HTTPStatusCode", ""))]
        words = response["Error"].get("Message", "")
    else:
        codes = [kind.__name__ for kind in type(error).__mro__]
        words = str(error)
    retry_after = metadata.get("HTTPHeaders", {}).get("retry-after", "")
    found = service_error(verb, place, codes, words, table=table, advice=advice, retry_after=retry_after)
    if "Error" not in response:
        return found
    return as_client_error(found, codes[0], metadata.get("HTTPStatusCode"), getattr(error, "operation_name", ""))


class _Answered:
    """What botocore's ClientError has beside its words."""

    code: str
    status: int | None

    @property
    def response(self) -> dict[str, Any]:
        """The service's answer, in the words of this error."""
        answer: dict[str, Any] = {"Error": {"Code": self.code, "Message": str(self)}}
        return answer | ({"ResponseMetadata": {"HTTPStatusCode": self.status}} if self.status else {})


def as_client_error(error: ConnectorError, code: str, status: int | None, operation: str) -> ConnectorError:
    """Return the error as one that `except botocore.exceptions.ClientError` catches, too, where that is imported."""
    state = {"code": code, "status": status, "operation_name": operation}
    return error.as_also("botocore.exceptions", "ClientError", _Answered, **state)
