"""GcpSecret over the wire, with Google's own client, on a stand-in for Secret Manager."""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow
from pydantic import ValidationError

from blocks.base.errors import (
    AccessDeniedError,
    AmbiguousError,
    AuthError,
    InvalidInputError,
    NotFoundError,
    ThrottledError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.gcp import GcpCredentials
from connectors.gcp_secret import GcpSecret
from integration_tests.standins.gcp_secrets import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration_tests.standins.gcp_secrets import SecretManager

AT_ONCE = RetryPolicy(attempts=4, first_delay_s=0)
CANARY = f"canary-{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def _without_faults(secret_manager: SecretManager) -> None:
    secret_manager.faults_fired.clear()


@pytest.fixture
def name() -> str:
    return f"db-{uuid.uuid4().hex}"


@pytest.fixture
def secret_as(secret_manager: SecretManager, name: str) -> Callable[..., GcpSecret]:
    """The secret as an identity of the stand-in has it."""

    def make(identity: str, **fields: Any) -> GcpSecret:
        credentials = GcpCredentials(
            access_token=identity, project=secret_manager.project, endpoint_url=secret_manager.url
        )
        return GcpSecret(**{"gcp_credentials": credentials, "secret_name": name, "retry": AT_ONCE, **fields})

    return make


@pytest.fixture
def secret(secret_as: Callable[..., GcpSecret]) -> GcpSecret:
    return secret_as("owner")


def versions(server: SecretManager, secret: GcpSecret) -> int:
    return len(server.secrets[secret._path].versions)


def test_a_secret_is_written_read_and_deleted(secret: GcpSecret, secret_as: Callable[..., GcpSecret]) -> None:
    """The first write creates it, the next makes a new version, and the one before can still be read."""
    path = f"projects/shop/secrets/{secret.secret_name}"
    assert secret.write_secret(b"\x00first") == f"{path}/versions/1"
    assert secret.write_secret(b"second") == f"{path}/versions/2"
    assert secret.read_secret() == b"second"
    assert secret_as("owner", secret_version="1").read_secret() == b"\x00first"
    assert secret.check() == f"{path} is there and the credentials may read and write it."
    assert secret_as("reader").check() == f"{path} is there and the credentials may read it."
    assert secret.delete_secret() == path
    for call in (secret.read_secret, secret.delete_secret):
        with pytest.raises(NotFoundError, match="Check secret_name"):
            call()


@pytest.mark.parametrize("exists", [True, False])
def test_a_lost_answer_makes_no_second_version(secret_manager: SecretManager, secret: GcpSecret, exists: bool) -> None:
    """What a try has done is seen before the next, of creating the secret and of adding the version."""
    if exists:
        secret.write_secret(b"before")
    else:
        secret_manager.drop_answer("POST", f"secretId={secret.secret_name}")
    secret_manager.drop_answer("POST", f"{secret.secret_name}:addVersion", skip=0 if exists else 1)
    secret.write_secret(b"after")
    assert secret.read_secret() == b"after"
    assert versions(secret_manager, secret) == (2 if exists else 1)
    assert len(secret_manager.faults_fired) == (1 if exists else 2)


def test_a_write_that_was_not_heard_is_tried_again(secret_manager: SecretManager, secret: GcpSecret) -> None:
    """It is not there: the next try makes it."""
    secret.write_secret(b"before")
    secret_manager.refuse("POST", f"{secret.secret_name}:addVersion", status=503, times=2)
    secret_manager.refuse("POST", f"{secret.secret_name}:addVersion", status=429)
    assert secret.write_secret(b"after").endswith("/versions/2")


def test_a_lost_write_that_nobody_may_look_at_is_ambiguous(
    secret_manager: SecretManager, secret_as: Callable[..., GcpSecret]
) -> None:
    """Who may only add versions cannot tell, and gets no second one."""
    adder = secret_as("adder")
    adder.write_secret(b"before")
    secret_manager.drop_answer("POST", f"{adder.secret_name}:addVersion")
    with pytest.raises(AmbiguousError, match=r"may have been written.*lacks secretmanager.versions.access"):
        adder.write_secret(b"after")
    assert versions(secret_manager, adder) == 2


def test_a_lost_delete_is_a_delete(secret_manager: SecretManager, secret: GcpSecret) -> None:
    """Its next try does not wonder where the secret is; one that was not heard is tried again."""
    for fault in (secret_manager.drop_answer, secret_manager.refuse):
        secret.write_secret(b"x")
        fault("DELETE", secret.secret_name)
        assert secret.delete_secret() == secret._path
        assert secret._path not in secret_manager.secrets


def test_reads_survive_faults(secret_manager: SecretManager, secret: GcpSecret) -> None:
    """Unavailable, throttled, broken off, and a value that arrives with another checksum than it left with."""
    secret.write_secret(b"value")
    place = f"{secret.secret_name}/versions/latest:access"
    broken = b'{"name": "x", "payload": {"data": "dmFsdUU=", "dataCrc32c": "1"}}'
    for fault in (
        lambda: secret_manager.refuse("GET", place, status=503, times=2),
        lambda: secret_manager.refuse("GET", place, status=429, times=2),
        lambda: secret_manager.drop_answer("GET", place, times=2),
        lambda: secret_manager.reset_answer("GET", place, after_bytes=5),
        lambda: secret_manager.refuse("GET", place, status=200, body=broken),
    ):
        fault()
        assert secret.read_secret() == b"value"
    secret.retry = RetryPolicy(attempts=1)
    secret_manager.refuse("GET", place, status=200, body=broken)
    with pytest.raises(TransientError, match="checksum does not match"):
        secret.read_secret()
    secret_manager.refuse("GET", place, status=429, headers={"Retry-After": "7"})
    with pytest.raises(ThrottledError) as caught:
        secret.read_secret()
    assert caught.value.retry_after_s == 7


def test_a_right_that_is_missing_is_named(secret: GcpSecret, secret_as: Callable[..., GcpSecret]) -> None:
    """The message says which permission the identity needs."""
    secret.write_secret(b"x")
    nobody = secret_as("nobody")
    calls: dict[str, Callable[[], Any]] = {
        "secretmanager.versions.access": nobody.read_secret,
        "secretmanager.versions.add": lambda: nobody.write_secret(b"y"),
        "secretmanager.secrets.delete": nobody.delete_secret,
        "secretmanager.versions.access to read": nobody.check,
    }
    for permission, call in calls.items():
        with pytest.raises(AccessDeniedError, match=f"needs {permission}"):
            call()
    with pytest.raises(AuthError, match="cannot be renewed"):
        secret_as("stranger").read_secret()


def test_wrong_secrets(secret_manager: SecretManager, secret: GcpSecret, secret_as: Callable[..., GcpSecret]) -> None:
    """A version that is not there, destroyed or disabled, a value too large or of another kind, a path for a name."""
    secret.write_secret(b"1")
    secret.write_secret(b"2")
    secret.get_client().destroy_secret_version(request={"name": f"{secret._path}/versions/1"})
    secret.get_client().disable_secret_version(request={"name": f"{secret._path}/versions/2"})
    with pytest.raises(InvalidInputError, match="DESTROYED state"):
        secret_as("owner", secret_version="1").read_secret()
    with pytest.raises(InvalidInputError, match=r"DISABLED state.*Enable the version"):
        secret.read_secret()
    with pytest.raises(NotFoundError, match=r"versions/7.*Check secret_version: the secret is there"):
        secret_as("owner", secret_version="7").read_secret()
    with pytest.raises(InvalidInputError, match="the value is empty"):
        secret.write_secret(b"")
    key = json.dumps({"error": {"code": 400, "message": "Cloud KMS key is disabled", "status": "FAILED_PRECONDITION"}})
    secret_manager.refuse("GET", "versions/1:access", status=400, body=key.encode())
    with pytest.raises(InvalidInputError, match=r"Cloud KMS key is disabled. The secret's key has to be enabled"):
        secret_as("owner", secret_version="1").read_secret()
    with pytest.raises(InvalidInputError, match="64KiB"):
        secret.write_secret(bytes(MAX_BYTES + 1))
    with pytest.raises(InvalidInputError, match="secret_data is bytes, not a value of type str"):
        secret.write_secret(CANARY)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="name alone"):
        secret_as("owner", secret_name="projects/p/secrets/s")


def test_secrets_show_nowhere(
    secret_manager: SecretManager, secret: GcpSecret, prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In no log, no error, and not in what Prefect prints of a flow."""
    assert prefect_server
    caplog.set_level(logging.INFO)

    @flow
    def rotate() -> int:
        secret.write_secret(CANARY.encode())
        return len(secret.read_secret())

    assert rotate() == len(CANARY)
    secret_manager.refuse("POST", f"{secret.secret_name}:addVersion", status=400)
    with pytest.raises(InvalidInputError) as refused:
        secret.write_secret(CANARY.encode())
    error: BaseException | None = refused.value
    while error is not None:
        assert CANARY not in f"{error!r} {error}"
        error = error.__cause__
    assert CANARY not in caplog.text + repr(secret)
