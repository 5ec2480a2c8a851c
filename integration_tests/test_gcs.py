"""GcsBucket on a server that speaks Google's protocol: the common promises, and what only a service can get wrong."""

from __future__ import annotations

import datetime as dt
import gc
import gzip
import io
import json
import os
import threading
import urllib.request
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    DamagedError,
    InvalidInputError,
    NoSuchStoreError,
    NotFoundError,
    ThrottledError,
    TransientError,
    UnsupportedError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.gcp import GcpCredentials
from blocks.files.local import CHUNK_BYTES
from blocks.stores.client import WriteOptions
from blocks.testing.http_proxy import HttpFaultProxy, Request
from connectors.gcs import GcsBucket
from connectors.gcs.errors import PERMISSIONS
from integration_tests.standins.process import HOST, free_port
from tests.contracts.object_store import *  # noqa: F403
from tests.contracts.object_store import LARGE, BrokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blocks.stores.object_store import ObjectStore
    from integration_tests.standins.gcs import GcsServer
    from tests.contracts.object_store import MakeStore

AT_ONCE = RetryPolicy(first_delay_s=0)
NEVER = RetryPolicy(attempts=1)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def bucket_name(gcs_server: GcsServer) -> str:
    return gcs_server.make_bucket()


@pytest.fixture
def make_store(bucket_name: str, gcs_server: GcsServer) -> MakeStore:
    place = uuid.uuid4().hex
    credentials = GcpCredentials(anonymous=True, endpoint_url=gcs_server.endpoint)

    def make(folder: str) -> GcsBucket:
        return GcsBucket(
            bucket=bucket_name, gcp_credentials=credentials, bucket_folder=f"{place}/{folder}", retry=AT_ONCE
        )

    return make


@pytest.fixture(scope="module")
def private_key() -> str:
    """A fresh RSA key."""
    key = rsa.generate_private_key(65537, 2048)
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*kinds).decode()


@pytest.fixture
def proxy(gcs_server: GcsServer) -> Iterator[HttpFaultProxy]:
    with HttpFaultProxy(gcs_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def far_store(proxy: HttpFaultProxy, bucket_name: str) -> GcsBucket:
    """A store that is reached through the proxy."""
    credentials = GcpCredentials(anonymous=True, endpoint_url=proxy.url)
    return GcsBucket(bucket=bucket_name, gcp_credentials=credentials, bucket_folder=uuid.uuid4().hex, retry=AT_ONCE)


def uploads_left(server: GcsServer, store: ObjectStore) -> list[str]:
    assert isinstance(store, GcsBucket)
    return [name for name in server.open_uploads(store.bucket) if name.startswith(store.bucket_folder)]


# Uploads


def test_a_failed_upload_leaves_no_session(store: ObjectStore, gcs_server: GcsServer) -> None:
    """When the source fails after chunks were sent, the service is told to forget them."""
    with pytest.raises(RuntimeError, match="the disk is gone"):
        store.upload_from_file_object(io.BufferedReader(BrokenFile(3 * CHUNK_BYTES)), "key")
    assert uploads_left(gcs_server, store) == []
    assert store.list_objects() == []


def test_a_refused_large_upload_leaves_no_session(store: ObjectStore, gcs_server: GcsServer) -> None:
    """When the last chunk is refused by its condition, nothing stays of those before it."""
    store.write_path("key", b"1")
    with pytest.raises(AlreadyExistsError):
        store.write_path("key", os.urandom(LARGE), if_absent=True)
    assert uploads_left(gcs_server, store) == []


@pytest.mark.parametrize("size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_uploads_end_where_the_source_ends(far_store: GcsBucket, proxy: HttpFaultProxy, size: int) -> None:
    """Whether a chunk is the last one shows only when it is shorter; one that is not is followed by the end alone."""
    content = os.urandom(size)
    proxy.drop_answer("PUT", "upload_id", skip=size // CHUNK_BYTES)
    far_store.upload_from_file_object(io.BytesIO(content), "key")
    assert far_store.read_path("key") == content
    assert len(proxy.faults_fired) == (size >= CHUNK_BYTES)
    assert sum(method == "POST" for method, _, _ in proxy.log) == 1


def test_every_write_says_what_it_replaces(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """Each request that makes an object carries a generation, also where the caller gave no condition."""
    for size in (10, LARGE):
        for _ in range(2):  # a new object, then one over it
            far_store.write_path(f"key-{size}", b"1" * size)
            far_store.copy_object(f"key-{size}", f"copy-{size}")
    posts = [(target, status) for method, target, status in proxy.log if method == "POST"]
    makers = [(target, status) for target, status in posts if "rewriteToken" not in target]
    assert all("ifGenerationMatch=" in target for target, _ in makers)
    # Twice four that made an object, and a small write and two copies that met one; large writes look first.
    assert [status for _, status in makers].count(200) == 8
    assert [status for _, status in makers].count(412) == 3


def test_unconditional_writers_never_refuse_each_other(store: ObjectStore) -> None:
    """Of many writers at once every one succeeds, and the object is one of theirs."""
    barrier = threading.Barrier(4)

    def write(number: int) -> None:
        barrier.wait()
        for _ in range(5):
            store.write_path("key", b"%d" % number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read_path("key") in {b"0", b"1", b"2", b"3"}


def test_a_large_write_that_was_overtaken_is_tried_again(make_store: MakeStore, gcs_server: GcsServer) -> None:
    """Another writer's object that came into being meanwhile is not lost without notice, and no chunks stay."""
    store = make_store("base")

    def chunks() -> Iterator[bytes]:
        yield b"1" * LARGE
        make_store("base").write_path("key", b"other")
        yield b"1"

    with pytest.raises(TransientError, match="another writer was faster"):
        store.objects.put("key", chunks())
    with pytest.raises(AlreadyExistsError):
        store.objects.put("key", chunks(), WriteOptions(if_absent=True))
    assert store.read_path("key") == b"other"
    assert uploads_left(gcs_server, store) == []


def test_an_upload_that_arrived_damaged_is_removed(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """What the service says it has is compared with what was sent."""
    made = {"size": "1", "generation": "1", "updated": "2026-04-30T00:00:00Z", "crc32c": "AAAAAA=="}
    proxy.refuse("PUT", "upload_id", status=200, body=json.dumps(made).encode(), headers=JSON, skip=2)
    with pytest.raises(DamagedError):
        far_store.objects.put("key", io.BytesIO(b"1" * LARGE))
    assert far_store.list_objects() == []


def test_damage_on_the_way_down_is_noticed(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """Content that does not have the stored checksum is read again."""
    far_store.write_path("key", b"right")
    generation = far_store.head_object("key").etag
    assert generation is not None
    headers = {
        "Content-Range": "bytes 0-4/5",
        "X-Goog-Generation": generation,
        "X-Goog-Hash": "crc32c=AAAAAA==",
        "Last-Modified": "Thu, 30 Apr 2026 00:00:00 GMT",
    }
    proxy.refuse("GET", "alt=media", status=206, body=b"wrong", headers=headers)
    assert far_store.read_path("key") == b"right"
    assert len(proxy.faults_fired) == 1


def test_a_server_that_ignores_ranges(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """The whole object in answer to a range is cut here."""
    headers = {"X-Goog-Generation": "1", "Last-Modified": "Thu, 30 Apr 2026 00:00:00 GMT"}
    proxy.refuse("GET", "alt=media", status=200, body=b"0123456789", headers=headers)
    assert far_store.read_path("key", start=2, length=3) == b"234"


def test_compressed_objects_are_read_as_they_are_stored(store: ObjectStore, gcs_server: GcsServer) -> None:
    """One that the service would unpack on the way has its own size, ranges and checksum here."""
    assert isinstance(store, GcsBucket)
    content = gzip.compress(b"hello" * 1000)
    blob = gcs_server.client().bucket(store.bucket).blob(f"{store.bucket_folder}/key")
    blob.content_encoding = "gzip"
    blob.upload_from_string(content)
    assert store.read_path("key") == content
    assert store.read_path("key", start=5, length=10) == content[5:15]
    with store.open("key") as file:
        assert file.read() == content


def test_a_copy_whose_token_is_gone_starts_anew(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """Tokens of rewrites hold for a week; the next try is a new copy."""
    far_store.write_path("key", b"1")
    proxy.refuse("POST", "rewriteTo", status=410)
    far_store.copy_object("key", "copy")
    assert far_store.read_path("copy") == b"1"


def test_a_rule_of_the_organisation_is_no_condition(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """It is refused with the status of a condition that did not hold, and is not taken for one."""
    body = {"error": {"code": 412, "errors": [{"reason": "orgPolicyConstraintFailed", "message": "Not so."}]}}
    proxy.refuse("POST", "", status=412, body=json.dumps(body).encode(), headers=JSON)
    with pytest.raises(AccessDeniedError, match="orgPolicyConstraintFailed"):
        far_store.write_path("key", b"1")


def test_tags_are_refused(store: ObjectStore) -> None:
    """The service has none, so they are not dropped in silence."""
    with pytest.raises(UnsupportedError, match="metadata"):
        store.write_path("key", b"1", tags={"a": "b"})
    assert store.list_objects() == []


# Versions


def test_versions_are_kept(gcs_server: GcsServer) -> None:
    """In a bucket that keeps versions each one can be listed, headed and read."""
    credentials = GcpCredentials(anonymous=True, endpoint_url=gcs_server.endpoint)
    store = GcsBucket(bucket=gcs_server.make_bucket(versioned=True), gcp_credentials=credentials, bucket_folder="in")
    for content in (b"1", b"22", b"333"):
        store.write_path("key", content)
    store.write_path("key2", b"other")
    versions = store.list_versions("key")
    assert [(each.key, each.size) for each in versions] == [("key", 3), ("key", 2), ("key", 1)]
    assert [store.read_path("key", version=each.version) for each in versions] == [b"333", b"22", b"1"]
    assert store.head_object("key", version=versions[2].version).size == 1
    for missing in (lambda: store.list_versions("missing"), lambda: store.read_path("key", version="5")):
        with pytest.raises(NotFoundError):
            missing()
    with pytest.raises(InvalidInputError, match="is not a generation"):
        store.read_path("key", version="abc")


# Keys and buckets


def test_folder_markers_are_no_objects(store: ObjectStore, gcs_server: GcsServer, tmp_path: Path) -> None:
    """An empty object whose name ends in a slash is neither listed nor downloaded."""
    assert isinstance(store, GcsBucket)
    store.write_path("in/file", b"1")
    for marker in ("", "in/", "empty/"):
        bucket = gcs_server.client().bucket(store.bucket)
        bucket.blob(f"{store.bucket_folder}/{marker}").upload_from_string(b"")
    assert [found["Key"] for found in store.list_objects()] == ["in/file"]
    assert store.list_objects("empty") == []
    store.get_directory(local_path=str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "file"]


def test_a_whole_bucket_without_a_folder(gcs_server: GcsServer) -> None:
    """Without a folder keys are the bucket's own, and a bucket given by name is one without a folder."""
    credentials = GcpCredentials(anonymous=True, endpoint_url=gcs_server.endpoint)
    whole = GcsBucket(bucket=gcs_server.make_bucket(), gcp_credentials=credentials)
    part = GcsBucket(bucket=whole.bucket, gcp_credentials=credentials, bucket_folder="/a/b/")
    part.write_path("key", b"1")
    assert (whole.basepath, part.basepath) == ("", "a/b")
    assert [found["Key"] for found in whole.list_objects()] == ["a/b/key"]
    other = gcs_server.make_bucket()
    assert part.copy_object("key", "elsewhere/key", to_bucket=other) == "elsewhere/key"
    assert GcsBucket(bucket=other, gcp_credentials=credentials).read_path("elsewhere/key") == b"1"


def test_blobs_are_listed_by_the_names_that_can_be_passed_back(store: ObjectStore) -> None:
    """They have what users of prefect-gcp read from a blob, and never the block's folder in the name."""
    assert isinstance(store, GcsBucket)
    store.write_path("in/a", b"12")
    store.write_path("in2/b", b"")
    (blob,) = store.list_blobs("in")
    info = store.head_object("in/a")
    assert (blob.name, blob.size, blob.updated, str(blob.generation)) == ("in/a", 2, info.last_modified, info.version)
    assert store.read_path(blob.name) == b"12"


class Listener(HttpFaultProxy):
    """Keeps what buckets are to be."""

    def intercept(self, request: Request) -> None:  # noqa: D102
        if request.method == "POST":
            self.wanted = json.loads(request.read())


def test_buckets_are_created_once(gcs_server: GcsServer) -> None:
    """One of this project stays as it is; a name that is taken is an error; the vendor's bucket is at hand."""
    with Listener(gcs_server.endpoint) as listener:
        credentials = GcpCredentials(anonymous=True, endpoint_url=listener.url, project=gcs_server.project)
        store = GcsBucket(bucket=f"new-{uuid.uuid4().hex}", gcp_credentials=credentials, retry=NEVER)
        with pytest.raises(NoSuchStoreError):
            store.get_bucket()
        assert store.create_bucket(location="EU") == store.bucket
        assert (listener.wanted["name"], listener.wanted["location"]) == (store.bucket, "EU")
        assert store.get_bucket().name == store.bucket
        with pytest.raises(AlreadyExistsError):
            store.create_bucket()
        words = "Your previous request to create the named bucket succeeded and you already own it."
        body = {"error": {"code": 409, "message": words, "errors": [{"reason": "conflict", "message": words}]}}
        listener.refuse("POST", "/b", status=409, body=json.dumps(body).encode(), headers=JSON)
        assert store.create_bucket() == store.bucket
        with pytest.raises(InvalidInputError, match="GOOGLE_CLOUD_PROJECT"):
            as_somebody(store, anonymous=True).create_bucket()


@pytest.mark.parametrize("name", ["gs://bucket", "bucket/folder", "", "Bucket"])
def test_a_buckets_name_is_only_a_name(name: str) -> None:
    """An address, a folder behind the name and capitals are refused when the block is built."""
    with pytest.raises(ValueError, match="bucket_folder"):
        GcsBucket(bucket=name)
    with pytest.raises(ValueError, match="leave the folder"):
        GcsBucket(bucket="bucket", bucket_folder="../x")


def test_a_copy_that_takes_several_calls(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """A large object is rewritten call by call, each with the token of the one before."""
    far_store.write_path("key", b"1")
    body = {"done": False, "rewriteToken": "so-far", "totalBytesRewritten": "0", "objectSize": "1"}
    proxy.refuse("POST", "rewriteTo", status=200, body=json.dumps(body).encode(), headers=JSON)
    far_store.copy_object("key", "copy")
    assert far_store.read_path("copy") == b"1"
    assert sum("rewriteToken=so-far" in target for _, target, _ in proxy.log) == 1


# URLs and identities


def test_signed_urls_work_without_credentials(store: ObjectStore, private_key: str) -> None:
    """Anybody can read and write by a URL that a service account's key signed, also with an odd name."""
    assert isinstance(store, GcsBucket)
    email = "loader@shop.iam.gserviceaccount.com"
    info = {"client_email": email, "private_key": private_key, "token_uri": f"http://{HOST}:1/"}
    own = GcpCredentials(service_account_info=info, endpoint_url=store.gcp_credentials.endpoint_url)
    signer = store.model_copy(update={"gcp_credentials": own})
    store.write_path("a b+ü.txt", b"1")
    url = signer.presigned_url("a b+ü.txt", expires_in=dt.timedelta(minutes=1))
    assert "X-Goog-Signature=" in url
    assert "X-Goog-Expires=60" in url
    with urllib.request.urlopen(url) as answer:  # noqa: S310
        assert answer.read() == b"1"
    put = urllib.request.Request(signer.presigned_url("new", method="PUT"), data=b"2", method="PUT")  # noqa: S310
    with urllib.request.urlopen(put):  # noqa: S310
        assert store.read_path("new") == b"2"
    with pytest.raises(InvalidInputError, match="7 days"):
        signer.presigned_url("key", expires_in=dt.timedelta(days=8))
    with pytest.raises(AuthError, match="impersonate_service_account"):
        store.presigned_url("key")


def as_somebody(store: ObjectStore, **fields: Any) -> GcsBucket:
    """The same place with another identity."""
    assert isinstance(store, GcsBucket)
    credentials = GcpCredentials(endpoint_url=store.gcp_credentials.endpoint_url, **fields)
    return store.model_copy(update={"gcp_credentials": credentials, "retry": NEVER})


def everything(store: GcsBucket) -> list[Callable[[], object]]:
    """Each way to ask the service for something."""
    return [
        lambda: store.read_path("key"),
        lambda: store.head_object("key"),
        lambda: store.exists("key"),
        lambda: store.write_path("key", b"1"),
        lambda: store.write_path("key", b"1" * LARGE),
        store.list_objects,
        lambda: store.list_versions("key"),
        lambda: store.delete_objects(["key"]),
        lambda: store.copy_object("key", "copy"),
        store.get_bucket,
        store.check,
    ]


def test_a_missing_bucket_is_not_a_missing_object(gcs_server: GcsServer) -> None:
    """Everything says that it is the bucket that does not exist; `exists` too, instead of False."""
    credentials = GcpCredentials(anonymous=True, endpoint_url=gcs_server.endpoint)
    store = GcsBucket(bucket="no-such-bucket", gcp_credentials=credentials)
    for ask in everything(store):
        with pytest.raises(NoSuchStoreError, match="no bucket no-such-bucket"):
            ask()


def test_a_missing_target_bucket_is_named(store: ObjectStore) -> None:
    """A copy says which of the two buckets does not exist."""
    store.write_path("key", b"1")
    with pytest.raises(NoSuchStoreError, match="no bucket no-such-bucket"):
        store.copy_object("key", "key", to_bucket="no-such-bucket")


def test_a_wrong_token_is_an_auth_error(store: ObjectStore) -> None:
    """Whatever is asked, and the token is not shown."""
    stranger = as_somebody(store, access_token="WRONG")
    for ask in everything(stranger):
        with pytest.raises(AuthError, match="cannot be renewed") as caught:
            ask()
        assert "WRONG" not in str(caught.value)


def test_a_refused_read_gives_its_connection_back(store: ObjectStore) -> None:
    """No answer is left unread where the identity cannot be renewed."""
    stranger = as_somebody(store, access_token="WRONG")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(3):
            with pytest.raises(AuthError):
                stranger.read_path("key")
            gc.collect()
    assert [each.message for each in seen] == []


def test_a_token_that_holds_is_used(store: ObjectStore, gcs_server: GcsServer) -> None:
    """A token that somebody else obtained does everything that it may."""
    own = as_somebody(store, access_token=next(iter(gcs_server.tokens)))
    own.write_path("key", b"1" * LARGE)
    assert own.read_path("key") == b"1" * LARGE


def test_a_reader_may_not_write(store: ObjectStore, gcs_server: GcsServer) -> None:
    """What the identity may do works, and what it may not names the right that is missing."""
    store.write_path("key", b"1")
    reader = as_somebody(store, access_token=gcs_server.read_only_token)
    assert reader.read_path("key") == b"1"
    assert len(reader.list_objects()) == 1
    denied = {
        "write": [lambda: reader.write_path("key", b"2"), lambda: reader.write_path("key", b"2" * LARGE)],
        "copy": [lambda: reader.copy_object("key", "copy")],
        "delete": [lambda: reader.delete_objects(["key"])],
        "create": [as_somebody(store, access_token=gcs_server.read_only_token, project="p").create_bucket],
        "look up": [reader.get_bucket],
    }
    for verb, operations in denied.items():
        for operation in operations:
            with pytest.raises(AccessDeniedError, match="The identity needs") as caught:
                operation()
            assert PERMISSIONS[verb] in str(caught.value)
    assert store.read_path("key") == b"1"


def test_no_identity_is_an_auth_error(store: ObjectStore, tmp_path: Path) -> None:
    """Where a key file is missing, everything says so."""
    nobody = as_somebody(store, service_account_file=tmp_path / "none.json")
    for ask in everything(nobody):
        with pytest.raises(AuthError, match=r"none\.json"):
            ask()


def test_a_closed_port_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens, the error is transient and says what the network said."""
    monkeypatch.setattr("connectors.gcs.client.QUICK_RETRY_S", 0)
    nobody = GcpCredentials(anonymous=True, endpoint_url=f"http://{HOST}:{free_port()}")
    store = GcsBucket(bucket="some-bucket", gcp_credentials=nobody, retry=NEVER)
    for ask in everything(store):
        with pytest.raises(TransientError, match=r"refused.*endpoint_url"):
            ask()


# Faults on the way


def verbs(store: GcsBucket) -> dict[str, Callable[[], object]]:
    """Each operation by its name, on objects that are there."""
    return {
        "read": lambda: store.read_path("large"),
        "head": lambda: store.head_object("large"),
        "write": lambda: store.write_path("new", b"1"),
        "overwrite": lambda: store.write_path("small", b"2"),
        "write large": lambda: store.write_path("new", b"1" * LARGE),
        "list": store.list_objects,
        "versions": lambda: store.list_versions("small"),
        "delete": lambda: store.delete_objects(["small"]),
        "copy": lambda: store.copy_object("small", "copy"),
    }


@pytest.fixture
def filled(far_store: GcsBucket, proxy: HttpFaultProxy) -> GcsBucket:
    """A store with a small and a large object, and a connection that is open."""
    far_store.write_path("small", b"1")
    far_store.write_path("large", b"1" * LARGE)
    proxy.log.clear()
    return far_store


@pytest.mark.sampled(9)
@pytest.mark.parametrize("verb", verbs(GcsBucket(bucket="none")))
@pytest.mark.parametrize("fault", ["refused twice", "answer lost", "throttled"])
def test_every_verb_survives(verb: str, fault: str, filled: GcsBucket, proxy: HttpFaultProxy) -> None:
    """503 twice, a lost answer, and 429 with a wish to wait cost nothing but time, in the first request or a later."""
    for skip in (0, 1):
        if fault == "refused twice":
            proxy.refuse(".*", "", times=2, skip=skip)
        elif fault == "throttled":
            proxy.refuse(".*", "", status=429, headers={"Retry-After": "0"}, skip=skip)
        else:
            proxy.drop_answer(".*", "", skip=skip)
    verbs(filled)[verb]()
    assert proxy.faults_fired
    expected = {"small": b"1", "large": b"1" * LARGE}
    expected |= {"overwrite": {"small": b"2"}, "copy": {"copy": b"1"}, "write": {"new": b"1"}}.get(verb, {})
    expected |= {"new": b"1" * LARGE} if verb == "write large" else {}
    if verb == "delete":
        del expected["small"]
    proxy._faults.clear()
    assert {found["Key"]: filled.read_path(found["Key"]) for found in filled.list_objects()} == expected


@pytest.mark.parametrize("verb", ["read", "write", "write large", "delete", "copy"])
def test_a_wish_to_wait_reaches_the_policy(verb: str, filled: GcsBucket, proxy: HttpFaultProxy) -> None:
    """A service that says how long to wait is not asked again before the policy, which has its wish, has waited."""
    filled.retry = NEVER
    proxy.refuse("GET|POST|DELETE", "", status=429, headers={"Retry-After": "7"})
    with pytest.raises(ThrottledError) as caught:
        verbs(filled)[verb]()
    assert caught.value.retry_after_s == 7
    assert len(proxy.log) == 1


def test_what_is_no_operation_survives(filled: GcsBucket, proxy: HttpFaultProxy) -> None:
    """Without a policy, a request is tried again for some seconds all the same."""
    for ask in (filled.check, filled.get_bucket):
        proxy.refuse("GET", "", times=2)
        proxy.drop_answer("GET", "")
        ask()
    assert len(proxy.faults_fired) == 6


def test_a_download_survives_resets(filled: GcsBucket, proxy: HttpFaultProxy, tmp_path: Path) -> None:
    """A connection that is cut in the middle of the content costs a retry and neither a byte nor a copy of one."""
    proxy.reset_answer("GET", "alt=media", after_bytes=2**18, times=4)
    path = filled.download_object_to_path("large", tmp_path / "key")
    assert path.read_bytes() == b"1" * LARGE
    assert len(proxy.faults_fired) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_service_that_falls_silent_is_asked_again(filled: GcsBucket, proxy: HttpFaultProxy) -> None:
    """After `read_timeout_s` without a byte the request is given up."""
    hasty = filled.model_copy(update={"read_timeout_s": 0.3})
    proxy.stall("GET", "alt=media", after_bytes=2**18)
    assert hasty.read_path("large") == b"1" * LARGE
    proxy.stall("PUT", "upload_id")
    hasty.write_path("new", b"2" * LARGE)
    assert len(proxy.faults_fired) == 2
    assert hasty.read_path("new") == b"2" * LARGE


@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize("after_bytes", [0, 2**20 + 5])
def test_an_upload_goes_on_where_it_was_cut(
    far_store: GcsBucket, proxy: HttpFaultProxy, skip: int, after_bytes: int
) -> None:
    """What had arrived of a chunk is not sent again, and the upload is not started anew."""
    content = os.urandom(LARGE)
    proxy.reset_request("PUT", "upload_id", after_bytes=after_bytes, skip=skip)
    far_store.upload_from_file_object(io.BytesIO(content), "key")
    assert len(proxy.faults_fired) == 1
    assert far_store.read_path("key") == content
    assert sum("uploadType=resumable" in target for method, target, _ in proxy.log if method == "POST") == 1


def test_an_upload_that_the_service_forgot_starts_anew(
    far_store: GcsBucket, proxy: HttpFaultProxy, gcs_server: GcsServer
) -> None:
    """The file is sent again from where the first try began, and nothing of that stays."""
    file = io.BytesIO(b"header" + b"1" * LARGE)
    file.seek(6)
    proxy.refuse("PUT", "upload_id", status=410, skip=1)
    far_store.upload_from_file_object(file, "key")
    assert len(proxy.faults_fired) == 1
    assert far_store.read_path("key") == b"1" * LARGE
    assert uploads_left(gcs_server, far_store) == []


def test_an_upload_that_gets_nowhere_starts_anew(far_store: GcsBucket, proxy: HttpFaultProxy) -> None:
    """A service that says again and again that nothing has arrived is not believed for ever."""
    proxy.refuse("PUT", "upload_id", status=308)
    far_store.write_path("key", b"1" * LARGE)
    assert len(proxy.faults_fired) == 1
    assert far_store.read_path("key") == b"1" * LARGE
    assert sum("uploadType=resumable" in target for method, target, _ in proxy.log if method == "POST") == 2


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
def test_a_lost_answer_to_a_conditional_write_is_looked_up(
    far_store: GcsBucket, proxy: HttpFaultProxy, size: int, condition: str
) -> None:
    """A writer whose write took place, and whose answer was lost, learns that it won, not that somebody was faster."""
    content, options = b"1" * size, {"if_absent": True}
    if condition == "if_match":
        far_store.write_path("key", b"0")
        options = {"if_match": far_store.head_object("key").etag}
    at_end = "uploadType=multipart" if size == 10 else "upload_id"
    proxy.drop_answer("POST|PUT", at_end, times=3)
    assert far_store.write_path("key", content, **options, metadata={"a": "b"}) == "key"
    assert proxy.faults_fired
    assert far_store.read_path("key") == content
    assert far_store.head_object("key").metadata == {"a": "b"}
    with pytest.raises(AlreadyExistsError, match="read it again and decide"):
        far_store.write_path("key", content, **options)
