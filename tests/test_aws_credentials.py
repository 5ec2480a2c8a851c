"""AwsCredentials: what is accepted, what is hidden, and where an identity comes from."""

from __future__ import annotations

import inspect
import pickle
from enum import Enum
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    InvalidInputError,
    TerminalError,
    ThrottledError,
    TransientError,
)
from blocks.credentials.aws import AWS_ERRORS, AwsCredentials, aws_error


class ClientType(Enum):
    """As prefect-aws has it."""

    ECS = "ecs"


KEYS = {"aws_access_key_id": "id", "aws_secret_access_key": "very secret", "aws_session_token": "very secret too"}


def test_secrets_are_hidden() -> None:
    """Neither the secret nor the token shows in the block's text, in its saved form or in an error about it."""
    credentials = AwsCredentials(**KEYS)
    assert isinstance(credentials.aws_session_token, SecretStr)
    with pytest.raises(ValidationError) as caught:
        AwsCredentials(**KEYS, regoin_name="x")
    for text in (repr(credentials), str(credentials.model_dump()), credentials.model_dump_json(), str(caught.value)):
        assert "very secret" not in text


@pytest.mark.parametrize("name", KEYS)
def test_half_of_a_key_is_refused(name: str) -> None:
    """An id without its secret, and a token without a key, are errors when the block is built."""
    with pytest.raises(ValidationError, match="go"):
        AwsCredentials(**{name: "x"})


def test_values_saved_with_prefect_aws_are_taken() -> None:
    """Its nested client parameters give the endpoint and the authorities; what they cannot give is named."""
    nested: dict[str, Any] = {"endpoint_url": "http://x", "verify": True, "verify_cert_path": "ca.pem", "use_ssl": True}
    credentials = AwsCredentials(**KEYS, aws_client_parameters={**nested, "api_version": None, "config": None})
    assert (credentials.endpoint_url, credentials.verify) == ("http://x", "ca.pem")
    assert AwsCredentials(aws_client_parameters={}).endpoint_url is None
    with pytest.raises(ValidationError, match="unsigned signature_version, not retries"):
        AwsCredentials(aws_client_parameters={"config": {"retries": 1}})


def test_given_keys_need_no_driver() -> None:
    """Keys in the fields are handed over as they are."""
    frozen = AwsCredentials(**KEYS).frozen()
    assert frozen == {"access_key_id": "id", "secret_access_key": "very secret", "token": "very secret too"}


def test_a_session_has_what_the_fields_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields come before the environment, and clients get the endpoint."""
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody else")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    credentials = AwsCredentials(**KEYS, region_name="eu-central-1", endpoint_url="http://127.0.0.1:1")
    session = credentials.get_boto3_session()
    assert session.region_name == "eu-central-1"
    assert session.get_credentials().get_frozen_credentials().access_key == "id"
    assert credentials.get_client("sqs").meta.endpoint_url == "http://127.0.0.1:1"
    assert credentials.get_client(ClientType.ECS).meta.service_model.service_name == "ecs"
    assert credentials.get_client(client_type="s3", region_name="us-east-2").meta.region_name == "us-east-2"
    for client, name in (
        (credentials.get_s3_client(), "s3"),
        (credentials.get_secrets_manager_client(), "secretsmanager"),
    ):
        assert client.meta.service_model.service_name == name
    assert credentials.get_s3_client().meta.region_name == "eu-central-1"


def test_a_profile_that_is_missing_is_an_auth_error() -> None:
    """It names the profile and says where to look."""
    pytest.importorskip("boto3")
    with pytest.raises(AuthError, match=r"nobody.*profile_name"):
        AwsCredentials(profile_name="nobody").get_boto3_session()


def test_every_error_of_the_driver_has_a_class() -> None:
    """No class of botocore's falls through the table, and the ones of the network are transient."""
    exceptions = pytest.importorskip("botocore.exceptions")
    unmapped = []
    for _, kind in inspect.getmembers(exceptions, inspect.isclass):
        names = [base.__name__ for base in kind.__mro__]
        # An answer of the service goes by its code, a warning and a fault of botocore's own models by nothing.
        if not issubclass(kind, BaseException) or {"ClientError", "Warning", "UndefinedModelAttributeError"} & {*names}:
            continue
        if kind.__module__ == exceptions.__name__ and not any(name in AWS_ERRORS for name in names):
            unmapped.append(kind.__name__)
    assert unmapped == []
    for name in ("ConnectTimeoutError", "EndpointConnectionError", "ConnectionClosedError", "ReadTimeoutError"):
        error = getattr(exceptions, name)(endpoint_url="http://x", error="e")
        assert isinstance(aws_error("read", "s3://b/k", error), TransientError)
    refused = exceptions.SSLError(endpoint_url="https://x", error="e")
    assert type(aws_error("read", "s3://b/k", refused)) is InvalidInputError


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ExpiredToken", 400, AuthError),
        ("AccessDenied", 403, AccessDeniedError),
        ("SlowDown", 503, ThrottledError),
        ("Unheard", 503, TransientError),
        ("Unheard", 429, ThrottledError),
        ("Unheard", 418, TerminalError),
    ],
)
def test_answers_go_by_code_then_by_status(code: str, status: int, kind: type[Exception]) -> None:
    """The service's code decides, else the HTTP status; the message has its words, and its wish to wait is kept."""
    exceptions = pytest.importorskip("botocore.exceptions")
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": "7"}}
    answer = {"Error": {"Code": code, "Message": "in their words"}, "ResponseMetadata": metadata}
    error = aws_error("read", "s3://b/k", exceptions.ClientError(answer, "GetObject"))
    assert isinstance(error, exceptions.ClientError)
    assert isinstance(error, kind)
    assert type(error).__name__ == kind.__name__
    assert f"Could not read s3://b/k: {code}: in their words." in str(error)
    if isinstance(error, ThrottledError):
        assert error.retry_after_s == 7


def test_nobody_signs_nothing() -> None:
    """`anonymous`, by its field or as prefect-aws's `config` has it, makes clients that send no signature."""
    botocore = pytest.importorskip("botocore")
    config = pytest.importorskip("botocore.config").Config(signature_version=botocore.UNSIGNED, region_name="eu-west-1")
    for given in ({"anonymous": True}, {"aws_client_parameters": {"config": config}}):
        credentials = AwsCredentials(**given)
        assert credentials.get_client("s3", region_name="us-east-1").meta.config.signature_version is botocore.UNSIGNED
    assert AwsCredentials(aws_client_parameters={"config": config}).region_name == "eu-west-1"
    for wrong, said in (
        ({"anonymous": True, "profile_name": "a"}, "anonymous goes with no key"),
        ({"aws_client_parameters": {"config": {"read_timeout": 5}}}, "not read_timeout. How long to wait is read_time"),
    ):
        with pytest.raises(ValidationError, match=said):
            AwsCredentials(**wrong)


def test_the_vendors_class_catches_too() -> None:
    """What AWS answered is botocore's ClientError, too, with its response; it pickles, and holds our words."""
    exceptions = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    error = aws_error("read", "s3://b/k", exceptions.ClientError(answer, "GetObject"))
    for each in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 (our own)
        assert isinstance(each, AccessDeniedError)
        with pytest.raises(exceptions.ClientError) as caught:
            raise each
        assert caught.value.response["Error"] == {"Code": "AccessDenied", "Message": str(error)}
        assert caught.value.operation_name == "GetObject"
    assert not isinstance(aws_error("read", "s3://b/k", OSError("no route")), exceptions.ClientError)
