"""AzureBlobStorageCredentials: what is accepted, what is hidden, and where an identity comes from."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
)
from blocks.credentials.azure import (
    AZURE_ERRORS,
    Account,
    AzureBlobStorageCredentials,
    account_name,
    azure_error,
    parse_connection_string,
)

URL = "https://lake.blob.core.windows.net"
KEY = "dmVyeSBzZWNyZXQ="
PRINCIPAL = {"account_url": URL, "tenant_id": "tenant", "client_id": "client", "client_secret": "very secret"}
TEXT = f"DefaultEndpointsProtocol=https;AccountName=lake;AccountKey={KEY};EndpointSuffix=core.windows.net"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer's shell says must not reach a test."""
    for name in ("CONNECTION_STRING", "ACCOUNT"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)


@pytest.mark.parametrize(
    "fields",
    [{"connection_string": TEXT}, {"account_url": URL, "account_key": KEY}, {"sas_token": f"sig={KEY}"}, PRINCIPAL],
)
def test_secrets_are_hidden(fields: dict[str, Any]) -> None:
    """No secret shows in the block's text, in its saved form, in its account's text or in an error about it."""
    credentials = AzureBlobStorageCredentials(**fields)
    assert any(isinstance(getattr(credentials, name), SecretStr) for name in fields)
    with pytest.raises(ValidationError) as caught:
        AzureBlobStorageCredentials(**fields, acount_url="x")
    texts = [repr(credentials), str(credentials.model_dump()), credentials.model_dump_json(), str(caught.value)]
    if "sas_token" not in fields:
        texts.append(repr(credentials.account()))
    assert not any(secret in text for secret in (KEY, "very secret") for text in texts)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"connection_string": TEXT, "account_url": URL}, "stands alone"),
        ({"connection_string": TEXT, "anonymous": True}, "stands alone"),
        ({"connection_string": f"AccountKey={KEY}"}, "looks like"),
        ({"connection_string": "AccountName=lake"}, "looks like"),
        ({"connection_string": KEY}, "looks like"),
        ({"connection_string": f"AccountName=lake;AccountKey=_{KEY}"}, "looks like"),
        ({"account_key": f"_{KEY}"}, "is base64"),
        ({"account_key": KEY, "sas_token": "sig=x"}, "not both"),
        ({"account_key": KEY, "anonymous": True}, "not both"),
        ({"client_id": "client", "client_secret": "s"}, "all three"),
        ({"client_id": "client", "tenant_id": "t"}, "all three"),
        ({"client_secret": "s", "tenant_id": "t"}, "all three"),
        ({"account_url": f"{URL}?sig={KEY}"}, "goes to sas_token"),
        ({"account_url": "lake"}, "looks like https"),
        ({"account_url": f"{URL}/raw"}, "looks like https"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], words: str) -> None:
    """Half of an identity, two identities, or an address that is none are errors when the block is built."""
    with pytest.raises(ValidationError, match=words) as caught:
        AzureBlobStorageCredentials(**fields)
    assert KEY not in str(caught.value)


def test_values_saved_with_prefect_azure_are_taken() -> None:
    """Each of its three ways to authenticate, as its block saves them, with None for the others."""
    nothing = dict.fromkeys(("connection_string", "account_url", "client_id", "tenant_id", "client_secret"))
    for given in ({"connection_string": TEXT}, {"account_url": URL}, PRINCIPAL):
        assert AzureBlobStorageCredentials(**(nothing | given)).account().url == URL


def test_a_connection_string_is_taken_apart() -> None:
    """Its endpoint, else its suffix, gives the address; a key or a SAS token goes with it."""
    assert parse_connection_string(TEXT).key == KEY
    china = parse_connection_string(f"AccountName=a;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn")
    assert china.url == "https://a.blob.core.chinacloudapi.cn"
    by_token = parse_connection_string("BlobEndpoint=http://x:1/a/;SharedAccessSignature=?sv=1&sig=a%3D;")
    assert by_token == Account("http://x:1/a", "a", None, "sv=1&sig=a%3D")
    assert account_name("https://lake.privatelink.blob.core.windows.net/") == "lake"


def test_the_environment_names_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an account that is not given; what is given comes first; and without any it is an error that says so."""
    empty = AzureBlobStorageCredentials()
    with pytest.raises(InvalidInputError, match=r"account_url.*AZURE_STORAGE_ACCOUNT"):
        empty.account()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "pond")
    assert empty.account().url == "https://pond.blob.core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", TEXT)
    assert (empty.account().url, empty.account().key) == (URL, KEY)
    own = AzureBlobStorageCredentials(account_key="b3du").account()
    assert (own.url, own.key) == ("https://pond.blob.core.windows.net", "b3du")
    given = AzureBlobStorageCredentials(account_url="https://own.blob.core.windows.net/").account()
    assert (given.url, given.name, given.key) == ("https://own.blob.core.windows.net", "own", None)


def test_given_keys_need_no_driver() -> None:
    """Keys and tokens in the fields are handed over as they are."""
    assert AzureBlobStorageCredentials(connection_string=TEXT).frozen() == {"access_key": KEY, "expires_at": None}
    by_token = AzureBlobStorageCredentials(account_url=URL, sas_token="?sv=1&sig=x")
    assert by_token.frozen() == {"sas_token": "sv=1&sig=x", "expires_at": None}


@pytest.mark.parametrize(
    "fields", [{"connection_string": TEXT}, {"account_url": URL}, {"account_url": URL, "anonymous": True}, PRINCIPAL]
)
def test_clients_have_what_the_fields_say(fields: dict[str, Any]) -> None:
    """Each kind of client is of the account, and making one asks nobody."""
    pytest.importorskip("azure.storage.blob")
    pytest.importorskip("azure.identity")
    credentials = AzureBlobStorageCredentials(**fields)
    assert credentials.get_client().account_name == "lake"
    assert credentials.get_container_client("raw").url == f"{URL}/raw"
    assert credentials.get_blob_client("raw", "a b").url == f"{URL}/raw/a%20b"


def test_a_bearer_token_never_goes_in_the_clear() -> None:
    """Without TLS a token of Entra ID is refused when the client is made."""
    pytest.importorskip("azure.storage.blob")
    pytest.importorskip("azure.identity")
    with pytest.raises(InvalidInputError, match="HTTPS"):
        AzureBlobStorageCredentials(account_url="http://127.0.0.1:1/a").get_client()


def test_every_error_of_the_drivers_has_a_class() -> None:
    """No class of azure.core's or azure.identity's falls through the table, and those of the network are transient."""
    exceptions = pytest.importorskip("azure.core.exceptions")
    identity = pytest.importorskip("azure.identity")
    kinds = [*vars(exceptions).values(), *vars(identity).values()]
    kinds = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert len(kinds) > 15
    own_lines = {*AZURE_ERRORS} - {"AzureError"}
    unmapped = [kind.__name__ for kind in kinds if not {base.__name__ for base in kind.__mro__} & own_lines]
    assert unmapped == ["AzureError"]
    for name in (
        "AzureError",
        "ServiceRequestError",
        "ServiceResponseTimeoutError",
        "IncompleteReadError",
        "HttpResponseError",
    ):
        error = getattr(exceptions, name)("broken off")
        assert isinstance(azure_error("read", "az://c/k", error), TransientError), name
    for kind in (identity.CredentialUnavailableError, exceptions.ClientAuthenticationError):
        assert type(azure_error("read", "az://c/k", kind("none\n\tof\nthem"))) is AuthError
    refused = exceptions.ServiceRequestError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    assert type(azure_error("read", "az://c/k", refused)) is InvalidInputError


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AuthenticationFailed", 403, AuthError),
        ("AuthorizationFailure", 403, AccessDeniedError),
        ("AuthorizationPermissionMismatch", 403, AccessDeniedError),
        ("BlobNotFound", 404, ObjectNotFoundError),
        ("ConditionNotMet", 412, ObjectExistsError),
        ("Md5Mismatch", 400, TransientError),
        ("ServerBusy", 503, ThrottledError),
        ("Unheard", 500, TransientError),
        ("Unheard", 429, ThrottledError),
        ("Unheard", 418, TerminalError),
        (None, 404, ObjectNotFoundError),
    ],
)
def test_answers_go_by_code_then_by_status(code: str | None, status: int, kind: type[Exception]) -> None:
    """The service's code decides, else the HTTP status; the message has its words, and its wish to wait is kept."""
    exceptions = pytest.importorskip("azure.core.exceptions")
    error = exceptions.HttpResponseError("in their words\nRequestId:1\nTime:2\nErrorCode:X")
    error.error_code = code
    error.response = SimpleNamespace(status_code=status, headers={"Retry-After": "7"})
    found = azure_error("read", "az://c/k", error)
    assert type(found) is kind
    assert f"Could not read az://c/k: {code or status}: in their words." in str(found)
    assert "RequestId" not in str(found)
    if isinstance(found, ThrottledError):
        assert found.retry_after_s == 7


def test_what_azurite_calls_the_same_is_told_apart() -> None:
    """It has one code for a wrong key and for a firewall, and none of its own for content that was damaged."""
    exceptions = pytest.importorskip("azure.core.exceptions")
    for code, words, kind in (
        ("AuthorizationFailure", "Server failed to authenticate the request.", AuthError),
        ("InvalidOperation", "Provided contentMD5 doesn't match.", TransientError),
    ):
        error = exceptions.HttpResponseError(words)
        error.error_code = code
        assert type(azure_error("read", "az://c/k", error)) is kind
