"""AzureBlobContainer on Azurite: the common promises, and what only a service can get wrong."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import os
import threading
import traceback
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from azure.storage.blob import ContentSettings

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    InvalidInputError,
    NoSuchStoreError,
    NotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.files.local import CHUNK_BYTES
from blocks.testing.http_proxy import HttpFaultProxy, Request, Response
from connectors.azure import AzureBlobContainer
from integration_tests.standins.azurite import TokenServer
from integration_tests.standins.process import HOST, free_port
from tests.contracts.object_store import *  # noqa: F403
from tests.contracts.object_store import LARGE, BrokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from integration_tests.standins.azurite import AzuriteServer
    from tests.contracts.object_store import MakeStore

    KeysOf = Callable[..., AzureBlobStorageCredentials]

SHOWN_ELSEWHERE = {"test_more_objects_than_a_page_holds"}
"""Of the contract: what takes ten seconds here, and S3 and GCS show."""
AT_ONCE = RetryPolicy(first_delay_s=0)
NEVER = RetryPolicy(attempts=1)
BLOCK = r"comp=block&"
COMMIT = r"comp=blocklist"


@pytest.fixture(scope="module")
def container_name(azurite: AzuriteServer) -> str:
    return azurite.make_container()


@pytest.fixture
def keys_of(azurite: AzuriteServer) -> KeysOf:
    """Makes credentials for the account, with its key unless told otherwise."""

    def make(**fields: Any) -> AzureBlobStorageCredentials:
        values = {"account_url": azurite.url, "account_key": azurite.key} | fields
        return AzureBlobStorageCredentials(**{name: value for name, value in values.items() if value is not None})

    return make


@pytest.fixture
def make_store(container_name: str, keys_of: KeysOf) -> MakeStore:
    place, credentials = uuid.uuid4().hex, keys_of()

    def make(folder: str) -> AzureBlobContainer:
        return AzureBlobContainer(
            container_name=container_name, credentials=credentials, base_folder=f"{place}/{folder}", retry=AT_ONCE
        )

    return make


@pytest.fixture
def store(make_store: MakeStore) -> AzureBlobContainer:
    found = make_store("base")
    assert isinstance(found, AzureBlobContainer)
    return found


def everything_there(store: AzureBlobContainer) -> list[str]:
    """The names of the blobs in the store's folder as the service tells them, blocks without a blob too."""
    container = store.get_client().get_container_client(store.container_name)
    found = container.list_blobs(name_starts_with=store.base_folder, include=["uncommittedblobs"])
    return [each.name.removeprefix(f"{store.base_folder}/") for each in found]


def blob_of(store: AzureBlobContainer, key: str) -> Any:
    """Azure's own client of one of the store's blobs."""
    return store.get_client().get_blob_client(store.container_name, f"{store.base_folder}/{key}")


def through(store: AzureBlobContainer, proxy: HttpFaultProxy, **fields: Any) -> AzureBlobContainer:
    """The same store, reached through the proxy."""
    account = store.credentials.account_url.rpartition("/")[2]
    credentials = store.credentials.model_copy(update={"account_url": f"{proxy.url}/{account}"})
    return store.model_copy(update={"credentials": credentials, **fields})


@pytest.fixture
def proxy(azurite: AzuriteServer) -> Iterator[HttpFaultProxy]:
    with HttpFaultProxy(f"http://{HOST}:{azurite.port}") as running:
        yield running


# Uploads


@pytest.mark.parametrize("good_bytes", [0, 100, 3 * CHUNK_BYTES])
def test_a_failed_upload_leaves_no_blocks(store: AzureBlobContainer, good_bytes: int) -> None:
    """When the source fails after blocks were sent they are gone, and nothing has to wait for a week."""
    with pytest.raises(RuntimeError, match="the disk is gone"):
        store.upload_from_file_object(io.BufferedReader(BrokenFile(good_bytes)), "key")
    assert everything_there(store) == []


def test_a_refused_large_upload_leaves_the_blob(store: AzureBlobContainer) -> None:
    """When the commit is refused by its condition the blob is what it was."""
    store.write_path("key", b"1")
    with pytest.raises(AlreadyExistsError, match="Another writer was faster"):
        store.write_path("key", os.urandom(LARGE), if_absent=True)
    assert everything_there(store) == ["key"]
    assert store.read_path("key") == b"1"


def test_a_failed_upload_spares_what_another_writer_made(store: AzureBlobContainer) -> None:
    """Cleaning up after a failure never removes a blob, not even one that came about meanwhile."""

    def content() -> Iterator[bytes]:
        yield os.urandom(2 * CHUNK_BYTES)
        yield os.urandom(CHUNK_BYTES)
        store.write_path("key", b"of another writer")
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="the source is gone"):
        store.objects.put("key", content())
    assert store.read_path("key") == b"of another writer"


def test_blocks_of_two_writers_never_mix(store: AzureBlobContainer) -> None:
    """Of several large writes of one key at once the blob is one of them, whole, and none of the writers fails."""
    contents = [bytes([number]) * LARGE for number in range(4)]
    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(lambda content: store.write_path("key", content), contents))
    assert store.read_path("key") in contents


def test_metadata_that_http_cannot_carry_is_refused(store: AzureBlobContainer) -> None:
    """Names have to be identifiers and values ASCII; the message says so before anything is sent."""
    for wrong in ({"metadata": {"a-b": "x"}}, {"metadata": {"a": "ü"}}, {"content_type": "text/ü"}):
        with pytest.raises(InvalidInputError, match=r"letters, digits|ASCII"):
            store.write_path("key", b"1", **wrong)
    assert everything_there(store) == []


@pytest.mark.parametrize("verify_checksums", [True, False])
@pytest.mark.parametrize("size", [10, LARGE])
def test_what_is_kept_beside_a_blob(store: AzureBlobContainer, size: int, *, verify_checksums: bool) -> None:
    """Media type, metadata, tags and the MD5 of all of it, whichever way it was written."""
    store = store.model_copy(update={"verify_checksums": verify_checksums})
    content = os.urandom(size)
    store.write_path("key", content, content_type="text/csv", metadata={"origin": "test"}, tags={"team": "a b"})
    found = store.head_object("key")
    assert (found.content_type, found.metadata) == ("text/csv", {"origin": "test"})
    assert found.checksum == f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    assert blob_of(store, "key").get_blob_tags() == {"team": "a b"}
    assert store.read_path("key") == content


# Copies


def test_a_blob_too_large_for_one_copy_is_copied_in_blocks(
    store: AzureBlobContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has the content, the media type, the metadata, the tags and the checksum, as a small one has."""
    monkeypatch.setattr("connectors.azure.client.COPY_BLOCK_BYTES", CHUNK_BYTES)
    content = os.urandom(LARGE)
    store.write_path("key", content, content_type="text/csv", metadata={"origin": "test"}, tags={"team": "a"})
    store.copy_object("key", "small")
    monkeypatch.setattr("connectors.azure.client.COPY_BYTES", CHUNK_BYTES)
    store.copy_object("key", "large")
    assert len(blob_of(store, "large").get_block_list()[0]) == 3
    for copy in ("small", "large"):
        assert store.read_path(copy) == content
        found, original = store.head_object(copy), store.head_object("key")
        assert (found.content_type, found.metadata) == (original.content_type, original.metadata)
        assert found.checksum == original.checksum
        assert blob_of(store, copy).get_blob_tags() == {"team": "a"}


@pytest.mark.parametrize("copy_bytes", [2 * LARGE, CHUNK_BYTES])
def test_a_copy_into_another_account(
    azurite: AzuriteServer,
    store: AzureBlobContainer,
    keys_of: KeysOf,
    monkeypatch: pytest.MonkeyPatch,
    copy_bytes: int,
) -> None:
    """The service reads the source by a signature that this side makes for it, with a key or a SAS token of its own."""
    monkeypatch.setattr("connectors.azure.client.COPY_BYTES", copy_bytes)
    other = keys_of(account_url=azurite.url_of(azurite.other_account), account_key=azurite.other_key)
    far = AzureBlobContainer(container_name=store.container_name, credentials=other)
    far.create_bucket()
    store.write_path("key", b"1" * LARGE)
    by_token = keys_of(account_key=None, sas_token=azurite.sas(store.container_name, "r"))
    for source in (store, store.model_copy(update={"credentials": by_token})):
        key = uuid.uuid4().hex
        source.copy_object("key", key, to_bucket=far)
        assert far.read_path(key) == b"1" * LARGE
    with pytest.raises(NotFoundError, match="missing"):
        store.copy_object("missing", "copy", to_bucket=far)


def test_a_source_that_changes_is_not_copied_in_halves(
    store: AzureBlobContainer, proxy: HttpFaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two blocks of a copy the source became another one: the copy is tried again, and is of one version."""
    monkeypatch.setattr("connectors.azure.client.COPY_BYTES", CHUNK_BYTES)
    monkeypatch.setattr("connectors.azure.client.COPY_BLOCK_BYTES", CHUNK_BYTES)
    store.write_path("key", b"1" * LARGE)
    go_on = threading.Event()
    proxy.stall("PUT", BLOCK, release=go_on)
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(through(store, proxy).copy_object, "key", "copy")
        while not proxy.log and not copying.done():
            pass
        store.write_path("key", b"2" * LARGE)
        go_on.set()
        copying.result()
    assert store.read_path("copy") == b"2" * LARGE


# Keys


def test_folder_markers_are_no_objects(store: AzureBlobContainer, tmp_path: Path) -> None:
    """Neither an empty blob whose name ends in a slash nor a folder of a hierarchical namespace is listed or read."""
    store.write_path("in/file", b"1")
    container = store.get_client().get_container_client(store.container_name)
    for marker in ("", "in/", "empty/"):
        container.upload_blob(f"{store.base_folder}/{marker}", b"")
    for folder in ("in", "deep"):
        container.upload_blob(f"{store.base_folder}/{folder}", b"", metadata={"Hdi_isfolder": "true"})
    assert [found["Key"] for found in store.list_objects()] == ["in/file"]
    assert store.list_objects(delimiter="/") == store.list_objects("empty") == []
    store.get_directory(local_path=str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "file"]
    assert not store.exists("in")
    store.write_path("in/orders.csv", b"id\n7\n")
    store.delete_objects(["in/file"])
    assert store.scan("in").to_arrow()["id"].to_pylist() == [7]


@pytest.mark.parametrize("size", [100, 3 * LARGE])
def test_packed_blobs_come_as_they_are_stored(store: AzureBlobContainer, tmp_path: Path, size: int) -> None:
    """A blob whose content encoding is gzip is not unpacked on its way: sizes and ranges are of the bytes stored."""
    content = gzip.compress(os.urandom(size))
    settings = ContentSettings(content_encoding="gzip", content_type="text/csv")
    blob_of(store, "packed.csv").upload_blob(content, content_settings=settings)
    assert store.read_path("packed.csv") == content
    assert store.read_path("packed.csv", start=5, length=20) == content[5:25]
    assert store.download_object_to_path("packed.csv", tmp_path / "down").read_bytes() == content
    blob_of(store, "rows.csv").upload_blob(gzip.compress(b"id\n1\n"), content_settings=settings)
    assert store.scan("rows.csv", compression="gzip").to_arrow()["id"].to_pylist() == [1]
    with pytest.raises(InvalidInputError, match="is gzip data, which its name does not say"):
        store.scan("rows.csv").to_arrow()


def test_a_whole_container_without_a_folder(azurite: AzuriteServer, keys_of: KeysOf) -> None:
    """Without a folder keys are the container's own, and a container given by name is one without a folder."""
    whole = AzureBlobContainer(container_name=azurite.make_container(), credentials=keys_of(), base_folder=None)
    part = AzureBlobContainer(container_name=whole.container_name, credentials=keys_of(), base_folder="/a/b/")
    part.write_path("key", b"1")
    assert (whole.list_blobs(), part.list_blobs()) == (["a/b/key"], ["key"])
    assert part.uri("key") == f"az://{whole.container_name}/a/b/key"
    other = azurite.make_container()
    assert part.copy_object("key", "elsewhere/key", to_bucket=other) == "elsewhere/key"
    found = AzureBlobContainer(container_name=other, credentials=keys_of())
    assert found.read_path("elsewhere/key") == b"1"


def test_names_that_no_key_of_ours_could_be(store: AzureBlobContainer) -> None:
    """What other tools named is left out of a listing, and spoils neither the page nor the other keys."""
    container = store.get_client().get_container_client(store.container_name)
    for name in ("a//b", "/c"):
        container.upload_blob(f"{store.base_folder}/{name}", b"")
    store.write_path("d", b"1")
    assert store.list_blobs() == ["d"]


def test_a_container_is_made_once(keys_of: KeysOf) -> None:
    """create_bucket makes it, and leaves one that is there as it is."""
    store = AzureBlobContainer(container_name=f"new-{uuid.uuid4().hex[:8]}", credentials=keys_of())
    with pytest.raises(NoSuchStoreError):
        store.check()
    assert store.create_bucket() == store.container_name
    store.write_path("key", b"1")
    assert store.create_bucket() == store.container_name
    assert store.list_blobs() == ["key"]


# Checksums


class DamagingProxy(HttpFaultProxy):
    """Flips the first byte of the bodies of so many answers to GET, or of so many requests to PUT."""

    answers = requests = 0

    def intercept(self, request: Request) -> Response | None:  # noqa: D102
        if request.method == "PUT" and self.requests:
            self.requests -= 1
            request.body = damaged(request.body)
            return self.forward(request)
        answer = self.forward(request)
        if request.method == "GET" and self.answers:
            self.answers -= 1
            answer.body = damaged(answer.body)
        return answer


def damaged(body: Iterable[bytes]) -> Iterator[bytes]:
    chunks = iter(body)
    first = next(chunks, b"")
    yield bytes([first[0] ^ 1]) + first[1:] if first else b""
    yield from chunks


@pytest.fixture
def damaging(azurite: AzuriteServer) -> Iterator[DamagingProxy]:
    with DamagingProxy(f"http://{HOST}:{azurite.port}") as running:
        yield running


@pytest.mark.parametrize("size", [10, LARGE])
def test_what_arrives_damaged_is_read_again(
    store: AzureBlobContainer, damaging: DamagingProxy, size: int, tmp_path: Path
) -> None:
    """A byte that flips on the way down costs a retry; where every try is damaged nothing is handed over as good."""
    content = os.urandom(size)
    store.write_path("key", content)
    far = through(store, damaging)
    damaging.answers = 1
    assert far.download_object_to_path("key", tmp_path / "key").read_bytes() == content
    assert damaging.answers == 0
    damaging.answers = 1
    with pytest.raises(TransientError, match="does not have the md5"):
        far.read_path.with_options(retries=0)("key")
    damaging.answers = 1
    assert through(store, damaging, verify_checksums=False).read_path("key") != content


@pytest.mark.parametrize("size", [10, LARGE])
def test_what_would_be_stored_damaged_is_sent_again(
    store: AzureBlobContainer, damaging: DamagingProxy, size: int
) -> None:
    """A byte that flips on the way up is noticed by the service; the next try stores what was meant."""
    content = os.urandom(size)
    damaging.requests = 1
    through(store, damaging).write_path("key", content)
    assert damaging.requests == 0
    assert store.read_path("key") == content


# URLs and identities


def test_presigned_urls_work_without_credentials(store: AzureBlobContainer) -> None:
    """Anybody can read and write by a URL, also with an odd name; a tampered one is refused."""
    store.write_path("a b+ü.txt", b"1")
    url = store.presigned_url("a b+ü.txt", expires_in=dt.timedelta(minutes=1))
    with urllib.request.urlopen(url) as answer:  # noqa: S310
        assert answer.read() == b"1"
    put = urllib.request.Request(  # noqa: S310
        store.presigned_url("new", method="PUT"), data=b"2", method="PUT", headers={"x-ms-blob-type": "BlockBlob"}
    )
    with urllib.request.urlopen(put):  # noqa: S310
        assert store.read_path("new") == b"2"
    for wrong in (url.replace("sig=", "sig=0"), url.partition("&sig=")[0]):
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(wrong)  # noqa: S310
        refused.value.close()
    with pytest.raises(InvalidInputError, match="GET or PUT"):
        store.presigned_url("new", method="DELETE")


def test_a_sas_token_alone(azurite: AzuriteServer, store: AzureBlobContainer, keys_of: KeysOf) -> None:
    """With a token that allows all, all works, copies too; only another token cannot be signed with it."""
    token = azurite.sas(store.container_name, "racwdlt")
    by_token = store.model_copy(update={"credentials": keys_of(account_key=None, sas_token=f"?{token}")})
    for size in (10, LARGE):
        by_token.write_path("key", b"1" * size)
        assert by_token.read_path("key") == b"1" * size
        by_token.copy_object("key", "copy")
    assert by_token.list_blobs() == ["copy", "key"]
    assert by_token.delete_objects(["copy", "key"]) == 2
    with pytest.raises(UnsupportedError, match="account_key"):
        by_token.presigned_url("key")
    assert "check() of an AzureBlobContainer" in by_token.credentials.check()
    assert by_token.check()


def test_a_connection_string_alone(azurite: AzuriteServer, store: AzureBlobContainer) -> None:
    """It names the account and holds the key, as the portal shows it; one with a SAS token does as well."""
    start = f"AccountName={azurite.account};BlobEndpoint={azurite.url}"
    store.write_path("key", b"1")
    for end in (f"AccountKey={azurite.key}", f"SharedAccessSignature={azurite.sas(store.container_name, 'rl')}"):
        credentials = AzureBlobStorageCredentials(connection_string=f"{start};{end}")
        found = store.model_copy(update={"credentials": credentials})
        assert found.read_path("key") == b"1"
        assert found.list_blobs() == ["key"]
        assert credentials.get_blob_client(store.container_name, f"{store.base_folder}/key").exists()
        assert credentials.get_container_client(store.container_name).container_name == store.container_name
        assert azurite.url in credentials.check()


def test_an_identity_without_rights_is_still_one(proxy: HttpFaultProxy, store: AzureBlobContainer) -> None:
    """Who may not ask about the account is known to it all the same, and who is turned away at its door is not."""
    credentials = through(store, proxy).credentials
    proxy.refuse("GET", "comp=properties", status=403, headers={"x-ms-error-code": "AuthorizationPermissionMismatch"})
    assert "knows these Azure credentials" in credentials.check()
    proxy.refuse("GET", "comp=properties", status=403, headers={"x-ms-error-code": "AuthorizationFailure"})
    with pytest.raises(AccessDeniedError, match="firewall"):
        credentials.check()
    assert len(proxy.faults_fired) == 2


def test_a_public_container_needs_no_identity(azurite: AzuriteServer, keys_of: KeysOf) -> None:
    """Anonymous reading and listing works where the container is public, and writing does not."""
    name = azurite.make_container()
    azurite.client().get_container_client(name).set_container_access_policy({}, public_access="container")
    AzureBlobContainer(container_name=name, credentials=keys_of()).write_path("key", b"1" * LARGE)
    anybody = AzureBlobContainer(container_name=name, credentials=keys_of(account_key=None, anonymous=True))
    assert anybody.read_path("key") == b"1" * LARGE
    assert anybody.list_blobs() == ["key"]
    assert azurite.url in anybody.credentials.check()
    for operation in (lambda: anybody.write_path("key", b"2"), lambda: anybody.copy_object("key", "copy")):
        with pytest.raises((AccessDeniedError, AuthError)):
            operation()


def test_nothing_of_the_environment_is_mixed_in(store: AzureBlobContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given in the block stands alone, whatever obstore and Azure's client would find."""
    for name in ("ACCOUNT", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN", "TOKEN", "ENDPOINT", "CONNECTION_STRING"):
        monkeypatch.setenv(f"AZURE_STORAGE_{name}", "c29tZWJvZHkgZWxzZQ==")
    for name in ("AZURE_SKIP_SIGNATURE", "AZURE_STORAGE_USE_EMULATOR"):
        monkeypatch.setenv(name, "true")
    store.write_path("key", b"1" * LARGE)
    assert store.read_path("key") == b"1" * LARGE
    assert store.model_copy(update={"verify_checksums": False}).read_path("key") == b"1" * LARGE
    assert store.list_blobs() == ["key"]


def test_an_authority_of_ones_own(azurite_tls: AzuriteServer) -> None:
    """Over TLS every way of access trusts the authority that was given, and without it says what to give."""
    fields = {"account_url": azurite_tls.url, "account_key": azurite_tls.key}
    trusted = AzureBlobStorageCredentials(**fields, verify=str(azurite_tls.ca_file))
    name = azurite_tls.make_container()
    store = AzureBlobContainer(container_name=name, credentials=trusted, retry=NEVER)
    content = os.urandom(LARGE)
    store.write_path("key", content)
    assert store.read_path("key") == content
    assert store.list_blobs() == ["key"]
    blind = store.model_copy(update={"credentials": AzureBlobStorageCredentials(**fields, verify=False)})
    assert blind.model_copy(update={"verify_checksums": False}).read_path("key") == content
    stranger = store.model_copy(update={"credentials": AzureBlobStorageCredentials(**fields)})
    unchecked = stranger.model_copy(update={"verify_checksums": False})
    for refused in (lambda: stranger.read_path("key"), lambda: unchecked.read_path("key"), stranger.check):
        with pytest.raises(InvalidInputError, match="give its file as verify"):
            refused()


@pytest.mark.parametrize("client_id", [None, "00000000-0000-0000-0000-000000000001"])
def test_the_machines_own_identity(
    azurite_tls: AzuriteServer, monkeypatch: pytest.MonkeyPatch, client_id: str | None
) -> None:
    """Without a key it is a managed identity's token that every way of access shows, renewed before it ends."""
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    with TokenServer() as tokens:
        monkeypatch.setenv("IDENTITY_ENDPOINT", tokens.url)
        credentials = AzureBlobStorageCredentials(
            account_url=azurite_tls.url, client_id=client_id, verify=str(azurite_tls.ca_file)
        )
        store = AzureBlobContainer(container_name=azurite_tls.make_container(), credentials=credentials, retry=NEVER)
        use_all_of_it(store, monkeypatch)
        assert azurite_tls.url in credentials.check()
        assert {each.get("client_id") for each in tokens.asked} == {client_id}
        tokens.lasts_s = 200  # less than the five minutes before which azure.identity asks again
        fresh = AzureBlobStorageCredentials(account_url=azurite_tls.url, verify=str(azurite_tls.ca_file))
        first, second = fresh.frozen()["token"], fresh.frozen()["token"]
        assert first != second


def use_all_of_it(store: AzureBlobContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(LARGE)
    store.write_path("key", content)
    assert store.read_path("key") == content
    assert store.model_copy(update={"verify_checksums": False}).read_path("key") == content
    store.copy_object("key", "copy")
    with monkeypatch.context() as patch:
        patch.setattr("connectors.azure.client.COPY_BYTES", CHUNK_BYTES)
        store.copy_object("key", "large")
    assert store.list_blobs() == ["copy", "key", "large"]
    assert store.read_path("large") == content
    assert "skoid=" in store.presigned_url("key")
    assert store.delete_objects(["copy", "key", "large"]) == 3


def test_a_service_principal(azurite_tls: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its secret is changed for a token; a wrong one is an AuthError that does not show it."""
    with TokenServer(azurite_tls.certificate, azurite_tls.key_file) as tokens:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", tokens.url)

        def credentials(secret: str) -> AzureBlobStorageCredentials:
            return AzureBlobStorageCredentials(
                account_url=azurite_tls.url,
                tenant_id="00000000-0000-0000-0000-000000000002",
                client_id="application",
                client_secret=secret,
                verify=str(azurite_tls.ca_file),
            )

        name = azurite_tls.make_container()
        store = AzureBlobContainer(container_name=name, credentials=credentials(tokens.secret), retry=NEVER)
        use_all_of_it(store, monkeypatch)
        assert {each["client_id"] for each in tokens.asked} == {"application"}
        wrong = AzureBlobContainer(container_name=name, credentials=credentials("WRONG"), retry=NEVER)
        unchecked = wrong.model_copy(update={"verify_checksums": False})
        for ask in (wrong.list_objects, lambda: unchecked.read_path("key"), wrong.credentials.check):
            with pytest.raises(AuthError, match=r"Invalid client secret.*client_secret") as caught:
                ask()
            assert "WRONG" not in str(caught.value)


def test_no_identity_at_all(azurite_tls: AzuriteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has none, everything says so and names what can be given."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    credentials = AzureBlobStorageCredentials(account_url=azurite_tls.url, verify=str(azurite_tls.ca_file))
    store = AzureBlobContainer(container_name="some-container", credentials=credentials, retry=NEVER)
    unchecked = store.model_copy(update={"verify_checksums": False})
    for ask in (store.list_objects, lambda: unchecked.read_path("key"), credentials.check):
        with pytest.raises(AuthError, match="account_key"):
            ask()


# Errors


def everything(store: AzureBlobContainer) -> list[Callable[[], object]]:
    """Each way to ask the service for something."""
    return [
        lambda: store.read_path("key"),
        lambda: store.head_object("key"),
        lambda: store.exists("key"),
        lambda: store.write_path("key", b"1"),
        lambda: store.write_path("key", b"1" * LARGE),
        store.list_objects,
        lambda: store.delete_objects(["key"]),
        lambda: store.copy_object("key", "copy"),
        store.check,
    ]


@pytest.mark.parametrize("verify_checksums", [True, False])
def test_a_missing_container_is_not_a_missing_blob(keys_of: KeysOf, *, verify_checksums: bool) -> None:
    """Everything says that it is the container that does not exist; `exists` too, instead of False."""
    store = AzureBlobContainer(
        container_name="no-such-container", credentials=keys_of(), verify_checksums=verify_checksums
    )
    for ask in everything(store):
        with pytest.raises(NoSuchStoreError, match=r"ContainerNotFound.*container_name"):
            ask()


@pytest.mark.parametrize("verify_checksums", [True, False])
def test_a_wrong_key_is_an_auth_error(container_name: str, keys_of: KeysOf, *, verify_checksums: bool) -> None:
    """It says what to check, and does not show the key."""
    store = AzureBlobContainer(
        container_name=container_name,
        credentials=keys_of(account_key="V1JPTkc="),
        verify_checksums=verify_checksums,
    )
    for ask in (*everything(store), store.credentials.check):
        with pytest.raises(AuthError, match="Check account_key") as caught:
            ask()
        assert "V1JPTkc=" not in str(caught.value)


def test_a_reader_may_not_write(azurite: AzuriteServer, store: AzureBlobContainer, keys_of: KeysOf) -> None:
    """What the token allows works, and what it does not names the right and the role that are missing."""
    store.write_path("key", b"1")
    token = keys_of(account_key=None, sas_token=azurite.sas(store.container_name, "rl"))
    reader = store.model_copy(update={"credentials": token})
    assert reader.read_path("key") == b"1"
    assert reader.list_blobs() == ["key"]
    unchecked = reader.model_copy(update={"verify_checksums": False})
    denied: dict[str, list[Callable[[], object]]] = {
        "c and w": [
            lambda: reader.write_path("key", b"2"),
            lambda: unchecked.write_path("key", b"2"),
            lambda: reader.write_path("key", b"2" * LARGE),
            lambda: reader.copy_object("key", "copy"),
        ],
        "needs d in": [lambda: reader.delete_objects(["key"])],
    }
    for right, operations in denied.items():
        for operation in operations:
            with pytest.raises(AccessDeniedError, match=f"{right}.*Storage Blob Data Contributor"):
                operation()
    assert store.read_path("key") == b"1"
    writer = keys_of(account_key=None, sas_token=azurite.sas(store.container_name, "cw"))
    with pytest.raises(AccessDeniedError, match="needs l in"):
        store.model_copy(update={"credentials": writer}).check()


def test_a_token_that_has_ended(azurite: AzuriteServer, store: AzureBlobContainer, keys_of: KeysOf) -> None:
    """It is an AuthError that says so, and never shows the signature."""
    token = azurite.sas(store.container_name, "rl", lasts=-dt.timedelta(minutes=1))
    late = store.model_copy(update={"credentials": keys_of(account_key=None, sas_token=token)})
    for ask in (lambda: late.read_path("key"), late.list_objects, late.check):
        with pytest.raises(AuthError, match="expired") as caught:
            ask()
        assert "sig=" not in str(caught.value)


def test_a_closed_port_is_worth_another_try(keys_of: KeysOf) -> None:
    """Where nothing listens, the error is transient and says what the network said."""
    nobody = keys_of(account_url=f"http://{HOST}:{free_port()}/account")
    store = AzureBlobContainer(container_name="some-container", credentials=nobody, retry=NEVER)
    unchecked = store.model_copy(update={"verify_checksums": False})
    for ask in (lambda: store.read_path("key"), lambda: unchecked.write_path("key", b"1"), store.check):
        with pytest.raises(TransientError, match=r"refused.*account_url"):
            ask()


@pytest.mark.parametrize("verify_checksums", [True, False])
def test_a_sas_token_never_shows(keys_of: KeysOf, *, verify_checksums: bool) -> None:
    """Neither in an error nor in those that led to it, though it is a part of every URL."""
    token = "sv=2023-11-03&sig=very+secret"
    credentials = keys_of(account_url=f"http://{HOST}:{free_port()}/account", account_key=None, sas_token=token)
    store = AzureBlobContainer(
        container_name="some-container", credentials=credentials, retry=NEVER, verify_checksums=verify_checksums
    )
    for ask in everything(store):
        with pytest.raises(TransientError, match="refused") as caught:
            ask()
        assert "secret" not in "".join(traceback.format_exception(caught.value))


# Faults on the way


@pytest.mark.parametrize("verify_checksums", [True, False])
def test_a_download_survives_resets(
    store: AzureBlobContainer, proxy: HttpFaultProxy, tmp_path: Path, *, verify_checksums: bool
) -> None:
    """A connection that is cut in the middle of the content costs a retry and neither a byte nor a copy of one."""
    content = os.urandom(LARGE)
    store.write_path("key", content)
    proxy.reset_answer("GET", "/key", after_bytes=2**18, times=4)
    far = through(store, proxy, verify_checksums=verify_checksums)
    assert far.download_object_to_path("key", tmp_path / "key").read_bytes() == content
    assert len(proxy.faults_fired) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_upload_of_an_open_file_survives_resets(store: AzureBlobContainer, proxy: HttpFaultProxy) -> None:
    """A new try sends the file from where the first one started, and no blocks of the failed one stay."""
    content = os.urandom(LARGE)
    file = io.BytesIO(b"header" + content)
    file.seek(6)
    proxy.reset_request("PUT", BLOCK, after_bytes=2**18, times=6)
    through(store, proxy).upload_from_file_object(file, "key")
    assert len(proxy.faults_fired) == 6
    assert store.read_path("key") == content
    assert everything_there(store) == ["key"]


@pytest.mark.parametrize("verify_checksums", [True, False])
@pytest.mark.parametrize("size", [10, LARGE])
def test_a_lost_answer_to_a_conditional_write_is_looked_up(
    store: AzureBlobContainer, proxy: HttpFaultProxy, size: int, *, verify_checksums: bool
) -> None:
    """A writer whose write took place, and whose answer was lost, learns that it won, not that somebody was faster."""
    content = b"1" * size
    far = through(store, proxy, verify_checksums=verify_checksums)
    proxy.drop_answer("PUT", COMMIT if size == LARGE else "/key")
    assert far.write_path("key", content, if_absent=True) == "key"
    assert proxy.faults_fired
    assert store.read_path("key") == content
    with pytest.raises(AlreadyExistsError):
        far.write_path("key", content, if_absent=True)


def test_a_busy_service_is_waited_for(store: AzureBlobContainer, proxy: HttpFaultProxy) -> None:
    """503 and 429 on every way of access cost a retry and nothing else."""
    far = through(store, proxy, retry=RetryPolicy(first_delay_s=0, max_delay_s=0))
    for status in (503, 429):
        proxy.refuse(".*", "", status=status, times=3, headers={"Retry-After": "0"})
        far.write_path("key", b"1" * LARGE)
        proxy.refuse(".*", "", status=status, times=3, headers={"Retry-After": "0"})
        assert far.read_path("key") == b"1" * LARGE
        proxy.refuse(".*", "", status=status, times=3, headers={"Retry-After": "0"})
        assert far.list_blobs() == ["key"]
        proxy.refuse(".*", "", status=status, times=3, headers={"Retry-After": "0"})
        far.move_object("key", "moved")
        proxy.refuse(".*", "", status=status, times=3, headers={"Retry-After": "0"})
        assert far.delete_objects(["moved"]) == 1
    assert len(proxy.faults_fired) == 30
