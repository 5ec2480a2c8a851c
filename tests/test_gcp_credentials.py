"""GcpCredentials: what is accepted, what is hidden, and where an identity comes from."""

from __future__ import annotations

import inspect
import json
import os
import ssl
import subprocess
import sys
import threading
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr, ValidationError

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
)
from blocks.credentials.gcp import GOOGLE_ERRORS, ClientType, GcpCredentials, google_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMAIL = "loader@shop.iam.gserviceaccount.com"
INFO = {"type": "service_account", "project_id": "shop", "client_email": EMAIL, "private_key": "very secret"}
ENVIRONMENT = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GCLOUD_PROJECT",
    "STORAGE_EMULATOR_HOST",
    "BIGQUERY_EMULATOR_HOST",
    "GCE_METADATA_DETECT_RETRIES",
)


@pytest.fixture(autouse=True)
def nobodys_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No default credentials, whatever this machine has."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))


class TokenServer(BaseHTTPRequestHandler):
    """Gives a numbered token to whoever asks with a signed assertion."""

    status = 200
    given = 0

    def do_POST(self) -> None:
        """The next token, or the refusal."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        kind = type(self)
        kind.given += 1
        answer: dict[str, Any] = {"access_token": f"token-{kind.given}", "expires_in": 3600, "token_type": "Bearer"}
        if "assertion=" not in body or kind.status != 200:
            answer = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        self.send_response(kind.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def tokens() -> Iterator[type[TokenServer]]:
    """A server of its own for the test, as the class whose `url` and `status` are its own."""
    kind = type("OneTestsServer", (TokenServer,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kind.url = f"http://127.0.0.1:{server.server_address[1]}/token"  # type: ignore[attr-defined]
        yield kind
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def private_key() -> str:
    """A fresh RSA key."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives import serialization

    pem: bytes = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


@pytest.fixture
def key(tokens: Any, private_key: str) -> dict[str, str]:
    """A service account's key that the token server gives tokens for."""
    pytest.importorskip("google.auth")
    return INFO | {"private_key": private_key, "token_uri": tokens.url}


def test_secrets_are_hidden() -> None:
    """Neither key nor token shows in the block's text, in its saved form or in an error about it."""
    for fields in ({"service_account_info": INFO}, {"access_token": "very secret"}):
        credentials = GcpCredentials(**fields)
        with pytest.raises(ValidationError) as caught:
            GcpCredentials(**fields, projct="x")
        for text in (
            repr(credentials),
            str(credentials.model_dump()),
            credentials.model_dump_json(),
            str(caught.value),
        ):
            assert "very secret" not in text
    assert isinstance(GcpCredentials(access_token="x").access_token, SecretStr)


def test_building_reads_nothing(tmp_path: Path) -> None:
    """A key file that is missing, and an identity that is nowhere, show on first use; then the message names both."""
    credentials = GcpCredentials(service_account_file=tmp_path / "none.json")
    pytest.importorskip("google.auth")
    with pytest.raises(AuthError, match=r"none\.json.*service_account_file"):
        credentials.check()


def test_more_than_one_identity_is_refused() -> None:
    """A key, a token and nobody exclude each other, and nobody can neither impersonate nor be billed."""
    with pytest.raises(ValidationError, match="service_account_info and access_token exclude"):
        GcpCredentials(service_account_info=INFO, access_token="x")
    with pytest.raises(ValidationError, match="exclude"):
        GcpCredentials(service_account_file="x.json", anonymous=True)
    with pytest.raises(ValidationError, match="anonymous goes"):
        GcpCredentials(impersonate_service_account=EMAIL, anonymous=True)


def test_a_key_given_as_text_is_read() -> None:
    """JSON text is the same as the dict; text that is not JSON is refused without showing it."""
    assert GcpCredentials(service_account_info=json.dumps(INFO)) == GcpCredentials(service_account_info=INFO)
    with pytest.raises(ValidationError, match="is not JSON") as caught:
        GcpCredentials(service_account_info="very secret")
    assert "very secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "words"),
    [(INFO, "JSON of a key, whole"), ({"client_email": EMAIL}, "missing fields token_uri"), ([], "JSON of a key")],
)
def test_an_unusable_key_is_an_auth_error(info: Any, words: str, tmp_path: Path) -> None:
    """What is wrong with it is said, and none of it is shown."""
    pytest.importorskip("google.auth")
    (tmp_path / "key.json").write_text(json.dumps(info | {"token_uri": "http://x"} if info == INFO else info))
    with pytest.raises(AuthError, match=words) as caught:
        GcpCredentials(service_account_file=tmp_path / "key.json").get_credentials_from_service_account()
    assert "very secret" not in str(caught.value)


def test_a_key_gets_tokens(tokens: Any, key: dict[str, str], tmp_path: Path) -> None:
    """From its content or from its file; a token that still holds is used again, and `check` names the account."""
    (tmp_path / "key.json").write_text(json.dumps(key))
    credentials = GcpCredentials(service_account_info=key)
    assert [credentials.get_access_token() for _ in range(2)] == ["token-1", "token-1"]
    assert EMAIL in credentials.check()
    other = GcpCredentials(service_account_file=tmp_path / "key.json", quota_project_id="payer")
    assert other.get_access_token() == "token-2"
    assert other.get_credentials_from_service_account().quota_project_id == "payer"
    assert (other.get_project(), GcpCredentials(service_account_info=key, project="mine").get_project()) == (
        "shop",
        "mine",
    )
    assert tokens.given == 2


def test_a_key_that_google_refuses_is_an_auth_error(tokens: Any, key: dict[str, str]) -> None:
    """Its words come through."""
    tokens.status = 400
    with pytest.raises(AuthError, match=r"invalid_grant.*Check the service account"):
        GcpCredentials(service_account_info=key).check()


def test_a_given_token_is_used_as_it_is() -> None:
    """Nobody is asked, and the project comes from the field or the environment."""
    pytest.importorskip("google.auth")
    credentials = GcpCredentials(access_token="given")
    assert credentials.get_access_token() == "given"
    assert "access token" in credentials.check()
    with pytest.raises(InvalidInputError, match="GOOGLE_CLOUD_PROJECT"):
        credentials.get_project()


def test_nobody_has_no_token() -> None:
    """Anonymous credentials say what they are, and have no token to give."""
    pytest.importorskip("google.auth")
    assert "anonymous" in GcpCredentials(anonymous=True).check()
    with pytest.raises(InvalidInputError, match="no access token"):
        GcpCredentials(anonymous=True).get_access_token()


def test_impersonation_starts_from_the_identity_of_the_fields(key: dict[str, str]) -> None:
    """The credentials are the target's, and a token of it is obtained with the source's."""
    credentials = GcpCredentials(
        service_account_info=key, impersonate_service_account="target@shop.iam.gserviceaccount.com"
    ).get_credentials_from_service_account()
    assert credentials.service_account_email == "target@shop.iam.gserviceaccount.com"
    assert credentials._source_credentials.service_account_email == EMAIL


def test_the_machines_own_identity(
    tokens: Any, key: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Empty credentials find what GOOGLE_APPLICATION_CREDENTIALS names, and its project."""
    (tmp_path / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    credentials = GcpCredentials()
    assert (credentials.get_access_token(), credentials.get_project()) == ("token-1", "shop")
    assert tokens.given == 1
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(AuthError, match=r"none\.json"):
        GcpCredentials().get_access_token()


@pytest.mark.parametrize(("retries", "asked"), [(None, 1), ("2", 2)])
def test_no_identity_is_found_out_by_asking_once(tmp_path: Path, retries: str | None, asked: int) -> None:
    """Elsewhere than at Google the metadata server is asked once, unless told otherwise; the error says what to do."""
    pytest.importorskip("google.auth")
    script = """
import socket, threading
from blocks.base.errors import AuthError
from blocks.credentials.gcp import GcpCredentials

server = socket.create_server(("127.0.0.1", 0))
asked = []
def hang_up():
    while True:
        connection, _ = server.accept()
        asked.append(1)
        connection.close()
threading.Thread(target=hang_up, daemon=True).start()
import os
os.environ["GCE_METADATA_IP"] = f"127.0.0.1:{server.getsockname()[1]}"
try:
    GcpCredentials().check()
except AuthError as error:
    print(len(asked), error)
"""
    environment = os.environ | ({"GCE_METADATA_DETECT_RETRIES": retries} if retries else {})
    environment |= {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    run = subprocess.run(  # noqa: S603 (our own script)
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.startswith(f"{asked} Could not find Google credentials: DefaultCredentialsError: ")
    assert "gcloud auth application-default login" in run.stdout


class Foreign(Enum):
    """As prefect-gcp has it."""

    BIGQUERY = "bigquery"


def test_clients_have_what_the_fields_say() -> None:
    """Each service's client has the identity, the project and the endpoint; an unknown service is an error."""
    pytest.importorskip("google.auth")
    credentials = GcpCredentials(access_token="given", project="shop", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(InvalidInputError, match="'cloud_storage', 'bigquery', 'secret_manager'"):
        credentials.get_client("pubsub")  # type: ignore[arg-type]
    pytest.importorskip("google.cloud.storage")
    client = credentials.get_client("cloud_storage", project="other")
    assert (client.project, client.api_endpoint) == ("other", "http://127.0.0.1:1")
    pytest.importorskip("google.cloud.bigquery")
    client = credentials.get_client(ClientType.BIGQUERY, location="EU")
    assert type(credentials.get_client(Foreign.BIGQUERY)) is type(client)
    assert (client.project, client.location, client._connection.API_BASE_URL) == ("shop", "EU", "http://127.0.0.1:1")
    with pytest.raises(InvalidInputError, match="Give project"):
        GcpCredentials(access_token="given").get_bigquery_client()
    pytest.importorskip("google.cloud.secretmanager")
    secrets = credentials.get_client("secret_manager")
    assert (secrets.api_endpoint, secrets.transport.kind) == ("http://127.0.0.1:1", "rest")


def test_an_emulator_of_the_environment_needs_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty credentials are nobody there, as they are to Google's own client."""
    pytest.importorskip("google.cloud.storage")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    client = GcpCredentials().get_cloud_storage_client()
    assert (client.api_endpoint, client.project) == ("http://127.0.0.1:1", None)


@pytest.mark.parametrize("module", ["google.api_core.exceptions", "google.auth.exceptions", "requests.exceptions"])
def test_every_error_of_the_libraries_has_a_class(module: str) -> None:
    """No class of theirs falls through the table."""
    exceptions = pytest.importorskip(module)
    unmapped = []
    for _, kind in inspect.getmembers(exceptions, inspect.isclass):
        names = {base.__name__ for base in kind.__mro__}
        if kind.__module__ != module or not issubclass(kind, Exception) or issubclass(kind, Warning):
            continue
        code = getattr(kind, "code", None)
        if not names & set(GOOGLE_ERRORS) and kind.__name__ != "GoogleAPICallError":
            unmapped.append(kind.__name__)
        if code is not None and str(int(code)) not in GOOGLE_ERRORS and int(code) // 100 != 3:
            unmapped.append(f"{kind.__name__} {code}")
    assert unmapped == []


def answer(kind: str, *reasons: str, **more: Any) -> Exception:
    exceptions = pytest.importorskip("google.api_core.exceptions")
    words = "GET https://storage.googleapis.com/upload?upload_id=very-secret: in their words."
    error: Exception = getattr(exceptions, kind)(words, errors=[{"reason": reason} for reason in reasons], **more)
    return error


@pytest.mark.parametrize(
    ("kind", "reason", "said", "expected"),
    [
        ("Forbidden", "rateLimitExceeded", "rateLimitExceeded", ThrottledError),
        ("Forbidden", "unheard", "unheard", AccessDeniedError),
        ("Forbidden", "quotaExceeded", "quotaExceeded", TerminalError),
        ("Unauthorized", "authError", "authError", AuthError),
        ("NotFound", None, "404", NotFoundError),
        ("PreconditionFailed", "conditionNotMet", "conditionNotMet", AlreadyExistsError),
        ("Conflict", None, "409", AlreadyExistsError),
        ("Aborted", None, "Aborted", TransientError),
        ("TooManyRequests", None, "429", ThrottledError),
        ("BadRequest", None, "400", InvalidInputError),
        ("ServiceUnavailable", None, "503", TransientError),
        ("DeadlineExceeded", None, "504", TransientError),
        ("Cancelled", None, "499", TransientError),
    ],
)
def test_answers_go_by_reason_then_by_status(kind: str, reason: str | None, said: str, expected: type) -> None:
    """The service's reason decides, else the status; the message has its words and not the request's URL."""
    error = google_error("read", "gs://b/k", answer(kind, *([reason] if reason else [])))
    assert type(error) is expected
    assert str(error).startswith(f"Could not read gs://b/k: {said}: in their words.")
    assert "very-secret" not in str(error)


def test_a_wish_to_wait_is_kept() -> None:
    """Retry-After comes through, also when a retry of the library's gave up over it."""
    requests = pytest.importorskip("requests")
    exceptions = pytest.importorskip("google.api_core.exceptions")
    response = requests.Response()
    response.status_code = 429
    response.request = requests.Request("GET", "http://x").prepare()
    response.headers["Retry-After"] = "7"
    throttled = answer("TooManyRequests", response=response)
    for error in (throttled, exceptions.RetryError("Timeout of 30 s exceeded", cause=throttled)):
        mapped = google_error("read", "gs://b/k", error)
        assert isinstance(mapped, ThrottledError)
        assert mapped.retry_after_s == 7


def test_an_answer_that_was_not_expected_is_read() -> None:
    """The storage client's own exception holds the service's answer, whose words and reason decide."""
    requests = pytest.importorskip("requests")
    storage = pytest.importorskip("google.cloud.storage.exceptions")
    response = requests.Response()
    response.status_code = 403
    response.request = requests.Request("POST", "http://x/upload?upload_id=very-secret").prepare()
    response._content = b'{"error": {"message": "Slower.", "errors": [{"reason": "rateLimitExceeded"}]}}'
    unread = storage.InvalidResponse(response, "Request failed with status code", 403)
    for raised in (unread, answer("Forbidden", response=response)):
        error = google_error("write", "gs://b/k", raised)
        assert type(error) is ThrottledError
        assert str(error) == "Could not write gs://b/k: rateLimitExceeded: Slower."


def test_what_the_network_did_is_told_from_what_it_wraps() -> None:
    """Connections refused or broken and tokens that cannot be had now are transient; a stranger's TLS is not."""
    requests = pytest.importorskip("requests")
    urllib3 = pytest.importorskip("urllib3.exceptions")
    auth = pytest.importorskip("google.auth.exceptions")
    refused = requests.ConnectionError(urllib3.MaxRetryError(None, "/upload?upload_id=x", ConnectionRefusedError("no")))
    broken = requests.exceptions.ChunkedEncodingError(urllib3.ProtocolError("broken", ConnectionResetError("reset")))
    for error in (refused, broken, auth.TransportError(refused), auth.RefreshError("later", retryable=True)):
        assert isinstance(google_error("read", "gs://b/k", error), TransientError)
    assert "upload_id" not in str(google_error("read", "gs://b/k", refused))
    stranger = requests.exceptions.SSLError(urllib3.SSLError(ssl.SSLCertVerificationError("self-signed certificate")))
    mapped = google_error("read", "gs://b/k", stranger)
    assert type(mapped) is InvalidInputError
    assert "REQUESTS_CA_BUNDLE" in str(mapped)
