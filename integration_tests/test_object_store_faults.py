"""Faults on the way to an object store, at each request of each verb: all survive, and nothing is left behind."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from blocks.base.errors import AmbiguousError
from blocks.files.local import CHUNK_BYTES, PART_SUFFIX
from blocks.testing.http_proxy import HttpFaultProxy
from integration_tests.stores import new_store, server_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blocks.stores.object_store import ObjectStore
    from integration_tests.standins.sftp import SftpServer

BREAK_AT = 2**18
SMALL = os.urandom(2 * BREAK_AT)
LARGE = os.urandom(2 * CHUNK_BYTES + CHUNK_BYTES // 2)
MIDDLE = slice(CHUNK_BYTES // 2, 2 * CHUNK_BYTES)
IMPATIENT_S = 1.0

At = tuple[str, str, int]
"""Method, path and how many such requests come first."""

REQUESTS: dict[str, dict[str, At]] = {
    "s3": {
        "get": ("GET", r"/(key|large)($|\?)", 0),
        "head": ("HEAD", "/key", 0),
        "list": ("GET", "list-type=2", 0),
        "delete": ("POST", r"\?delete", 0),
        "copy": ("PUT", "/copy", 0),
        "put": ("PUT", r"/(new|key)$", 0),
        "begin": ("POST", r"\?uploads", 0),
        "part": ("PUT", "partNumber=2", 0),
        "last part": ("PUT", "partNumber=3", 0),
        "end": ("POST", r"\?uploadId", 0),
    },
    "gcs": {
        "get": ("GET", "%2F(key|large).*alt=media", 0),
        "head": ("GET", r"%2Fkey\?(?!.*alt=media)", 0),
        "list": ("GET", r"/o\?", 0),
        "delete": ("DELETE", "%2Fkey", 0),
        "copy": ("POST", "/rewriteTo/", 0),
        "put": ("POST", "uploadType=multipart", 0),
        "begin": ("POST", "uploadType=resumable", 0),
        "part": ("PUT", "upload_id", 1),
        "last part": ("PUT", "upload_id", 2),  # which is the end as well
    },
    "azure": {
        "get": ("GET", "/(key|large)$", 0),
        "head": ("HEAD", "/key$", 0),
        "list": ("GET", "comp=list", 0),
        "delete": ("POST", "comp=batch", 0),
        "copy": ("PUT", "/copy$", 0),
        "put": ("PUT", "/(new|key)$", 0),
        "part": ("PUT", "comp=block&", 1),
        "last part": ("PUT", "comp=block&", 2),
        "end": ("PUT", "comp=blocklist", 0),
    },
}
"""Where each store does what."""

WITH_ANSWER = {"get"}
WITH_BODY = {"put", "part", "last part"}
MORE_THAN_A_DRIVER_TRIES = "503 four times"
"""After it S3 and Azure begin a large write anew, and have to clear away what the first try left."""
LEAVES_PARTS = {"part", "last part", "end"}


@dataclass(frozen=True)
class Verb:
    """What is done to a store that holds `key` (and `large` where `before` says so), and what comes of it."""

    run: Callable[[ObjectStore], Any]
    requests: tuple[str, ...]
    returns: Any
    before: Mapping[str, bytes] = field(default_factory=lambda: {"key": SMALL})
    after: Mapping[str, bytes] = field(default_factory=lambda: {"key": SMALL})


def if_match(store: ObjectStore, content: bytes) -> str:
    return store.write_path("key", content, if_match=store.head_object("key").etag)


PARTS = ("begin", "part", "last part", "end")
CONDITION = ("last part", "end")
BOTH = {"key": SMALL, "large": LARGE}

VERBS = {
    "read": Verb(lambda store: store.read_path("key"), ("get",), SMALL),
    "read a large object": Verb(lambda store: store.read_path("large"), ("get",), LARGE, BOTH, BOTH),
    "read a range": Verb(
        lambda store: store.read_path("large", start=MIDDLE.start, length=MIDDLE.stop - MIDDLE.start),
        ("get",),
        LARGE[MIDDLE],
        BOTH,
        BOTH,
    ),
    "head": Verb(lambda store: store.head_object("key").size, ("head",), len(SMALL)),
    "list": Verb(lambda store: [found["Key"] for found in store.list_objects()], ("list",), ["key"]),
    "delete": Verb(lambda store: store.delete_objects(["key"]), ("delete",), 1, after={}),
    "copy": Verb(
        lambda store: store.copy_object("key", "copy"), ("copy",), "copy", after={"key": SMALL, "copy": SMALL}
    ),
    "write": Verb(lambda store: store.write_path("new", SMALL), ("put",), "new", {}, {"new": SMALL}),
    "create": Verb(lambda store: store.write_path("new", SMALL, if_absent=True), ("put",), "new", {}, {"new": SMALL}),
    "replace": Verb(lambda store: if_match(store, SMALL[::-1]), ("put",), "key", after={"key": SMALL[::-1]}),
    "write a large object": Verb(lambda store: store.write_path("new", LARGE), PARTS, "new", {}, {"new": LARGE}),
    "create a large object": Verb(
        lambda store: store.write_path("new", LARGE, if_absent=True), CONDITION, "new", {}, {"new": LARGE}
    ),
    "replace by a large object": Verb(lambda store: if_match(store, LARGE), CONDITION, "key", after={"key": LARGE}),
}

FAULTS: dict[str, Callable[[HttpFaultProxy, str, str, int], None]] = {
    "503 twice": lambda proxy, method, path, skip: proxy.refuse(method, path, skip=skip, times=2),
    MORE_THAN_A_DRIVER_TRIES: lambda proxy, method, path, skip: proxy.refuse(method, path, skip=skip, times=4),
    "429 with Retry-After": lambda proxy, method, path, skip: proxy.refuse(
        method, path, skip=skip, status=429, headers={"Retry-After": "0"}
    ),
    "500 after it was done": lambda proxy, method, path, skip: proxy.deny(method, path, skip=skip, status=500),
    "lost answer": lambda proxy, method, path, skip: proxy.drop_answer(method, path, skip=skip),
    "stall": lambda proxy, method, path, skip: proxy.stall(method, path, skip=skip),
    "stall in the answer": lambda proxy, method, path, skip: proxy.stall(method, path, skip=skip, after_bytes=BREAK_AT),
    "broken answer": lambda proxy, method, path, skip: proxy.reset_answer(
        method, path, skip=skip, after_bytes=BREAK_AT
    ),
    "broken request": lambda proxy, method, path, skip: proxy.reset_request(
        method, path, skip=skip, after_bytes=BREAK_AT
    ),
}
STRIKES = {"503 twice": 2, MORE_THAN_A_DRIVER_TRIES: 4}


def applies(fault: str, request: str) -> bool:
    if fault in {"broken answer", "stall in the answer"}:
        return request in WITH_ANSWER
    if fault == MORE_THAN_A_DRIVER_TRIES:
        return request in LEAVES_PARTS
    return fault != "broken request" or request in WITH_BODY


USUAL = {"503 twice", "429 with Retry-After", "lost answer", "broken answer", "broken request", "stall in the answer"}
"""What every run of the tests strikes with; `--thorough` does so with all."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each kind of store, verb, request and fault."""
    if "fault" not in metafunc.fixturenames:
        return
    thorough = metafunc.config.getoption("--thorough")
    cases = [
        pytest.param(kind, verb, request, fault, id=f"{kind}-{verb}-{request}-{fault}")
        for kind in REQUESTS
        for verb, what in VERBS.items()
        for request in what.requests
        for fault in FAULTS
        if request in REQUESTS[kind] and applies(fault, request)
        if thorough or (fault in USUAL and (kind != "azure" or fault == "503 twice"))
    ]
    metafunc.parametrize(("kind", "verb", "at", "fault"), cases)


BUCKET_FIELD = {"s3": "bucket_name", "gcs": "bucket", "azure": "container_name"}


@pytest.fixture(scope="module")
def buckets() -> dict[str, str]:
    """One bucket of each kind for all tests: each would cost the S3 stand-in several of its volumes."""
    return {}


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[HttpFaultProxy]:
    """In front of the server of the test's kind."""
    with HttpFaultProxy(server_url(request.node.callspec.params["kind"], request)) as proxy:
        yield proxy


@pytest.fixture
def make_store(
    request: pytest.FixtureRequest, proxy: HttpFaultProxy, buckets: dict[str, str]
) -> Callable[..., ObjectStore]:
    """Makes a store over an empty folder, behind the proxy."""

    def make(kind: str, **fields: Any) -> ObjectStore:
        store = new_store(kind, request, url=proxy.url, **fields)
        name = BUCKET_FIELD[kind]
        return store.model_copy(update={name: buckets.setdefault(kind, getattr(store, name))})

    return make


@pytest.fixture
def parts_left(request: pytest.FixtureRequest) -> Callable[[str, Any], list[Any]]:
    """What interrupted uploads have left in a store's folder.

    An upload whose begin was heard, and whose answer was lost, stays. It holds nothing, and so costs nothing.
    """

    def of_s3(store: Any) -> list[Any]:
        client, prefix = store.get_client(), f"{store.bucket_folder}/"
        found = client.list_multipart_uploads(Bucket=store.bucket_name, Prefix=prefix)
        names = [{"Key": each["Key"], "UploadId": each["UploadId"]} for each in found.get("Uploads", [])]
        return [part for name in names for part in client.list_parts(Bucket=store.bucket_name, **name).get("Parts", [])]

    def of_gcs(store: Any) -> list[Any]:
        names = request.getfixturevalue("gcs_server").open_uploads(store.bucket, with_content=True)
        return [name for name in names if name.startswith(store.bucket_folder)]

    def of_azure(store: Any) -> list[Any]:
        container = store.get_client().get_container_client(store.container_name)
        found = container.list_blobs(name_starts_with=f"{store.base_folder}/", include=["uncommittedblobs"])
        lists = [container.get_blob_client(blob.name).get_block_list("uncommitted") for blob in found]
        return [block for _, uncommitted in lists for block in uncommitted]

    return lambda kind, store: {"s3": of_s3, "gcs": of_gcs, "azure": of_azure}[kind](store)


@pytest.mark.sampled(36)
def test_survives(  # noqa: PLR0917
    kind: str,
    verb: str,
    at: str,
    fault: str,
    proxy: HttpFaultProxy,
    make_store: Callable[..., ObjectStore],
    parts_left: Callable[[str, Any], list[Any]],
) -> None:
    """The verb does what it says, once, and nothing else is in the store afterwards."""
    store = make_store(kind, **({"read_timeout_s": IMPATIENT_S} if fault.startswith("stall") else {}))
    what = VERBS[verb]
    for key, content in what.before.items():
        store.write_path(key, content)
    FAULTS[fault](proxy, *REQUESTS[kind][at])
    assert what.run(store) == what.returns
    assert len(proxy.faults_fired) == STRIKES.get(fault, 1)
    assert {found["Key"]: store.read_path(found["Key"]) for found in store.list_objects()} == what.after
    assert parts_left(kind, store) == []


# SFTP, whose requests nobody on the way can read: its server is asked to fail.

SFTP_REQUESTS = {
    "get": ("read", 0),
    "head": ("stat", 0),
    "list": ("scandir", 0),
    "delete": ("remove", 0),
    "copy": ("posix_rename", 0),
    "put": ("posix_rename|link", 0),
    "begin": ("open", 0),
    "part": ("write", 1),
    "last part": ("write", 400),
    "end": ("posix_rename|link", 0),
}
SFTP_LACKS = {"replace", "replace by a large object"}
SFTP_CASES = [
    pytest.param(verb, at, fault, id=f"{verb}-{at}-{fault}")
    for fault in ("broken request", "lost answer", "stall")
    for verb, what in VERBS.items()
    for at in what.requests
    if verb not in SFTP_LACKS
]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("verb", "at", "struck"), SFTP_CASES)
def test_sftp_survives(
    verb: str, at: str, struck: str, sftp_server: SftpServer, request: pytest.FixtureRequest
) -> None:
    """The same; but a link whose answer was lost is ambiguous, as nothing in a file tells who made it."""
    store: Any = new_store("sftp", request, **({"read_timeout_s": IMPATIENT_S} if struck == "stall" else {}))
    what = VERBS[verb]
    for key, content in what.before.items():
        store.write_path(key, content)
    sftp_server.strike(struck, SFTP_REQUESTS[at][0], skip=SFTP_REQUESTS[at][1])
    if verb.startswith("create") and SFTP_REQUESTS[at] == SFTP_REQUESTS["end"]:
        with pytest.raises(AmbiguousError):
            what.run(store)
        ends = [what.before, what.after]
    else:
        assert what.run(store) == what.returns
        ends = [what.after]
    assert sftp_server.struck.startswith(struck)
    assert {found["Key"]: store.read_path(found["Key"]) for found in store.list_objects()} in ends
    left = (sftp_server.files / store.basepath).rglob(f"*{PART_SUFFIX}")
    assert [path for path in left if path.stat().st_size] == []
