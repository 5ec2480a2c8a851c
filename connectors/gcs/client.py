"""The client of a bucket of Google Cloud Storage, through Google's own client and its JSON API.

An object's etag is its generation, the number that changes with every write. Every write says which generation it
replaces (0: none), so that a request which is sent again after its answer was lost cannot be done twice.
https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import functools
import itertools
import re
import uuid
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typing_extensions import override

from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    DamagedError,
    InvalidInputError,
    NoSuchStoreError,
    NotFoundError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.base.live import live
from blocks.base.optional import require
from blocks.credentials.gcp import google_error
from blocks.files.local import CHUNK_BYTES, parts_of
from blocks.stores.checksum import new_digest
from blocks.stores.client import AS_IT_IS, CHUNKS_IN_FLIGHT, WRITE_ID, StoreClient
from blocks.stores.info import ObjectInfo
from connectors.gcs.errors import ERRORS, advice_for, refusal
from connectors.shared.requests import limit_silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from blocks.credentials.gcp import GcpCredentials
    from blocks.files.local import Source
    from blocks.stores.client import WriteOptions
    from blocks.stores.info import Page

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10
QUICK_RETRY_S = 10
"""How long one request is tried again before the operation's own policy decides."""
UPLOAD_RETRY_S = 30
"""The same for a chunk of a large upload, which would have to start from its beginning otherwise."""
OVERWRITE_ATTEMPTS = 10
DAMAGED = "doesn't match calculated"
"""The service's words where content has another checksum than the one that came with it."""
LONGEST_URL = dt.timedelta(days=7)
PAGE = 1_000
LISTED = "items(name,size,generation,updated,crc32c),nextPageToken"


class GcsStoreClient(StoreClient):
    """A bucket of Google Cloud Storage."""

    def __init__(
        self, bucket: str, credentials: GcpCredentials, *, max_concurrency: int, read_timeout_s: float
    ) -> None:
        super().__init__()
        self.bucket = bucket
        self._credentials = credentials
        self._max_concurrency = max_concurrency
        self._read_timeout_s = read_timeout_s

    @live
    def storage(self) -> Any:
        """Google's `storage.Client`."""
        client = self._credentials.get_cloud_storage_client()
        session = client._http  # noqa: SLF001 (no public way leads to the connections)
        connections = self._max_concurrency + CHUNKS_IN_FLIGHT
        limit_silence(session, self._read_timeout_s, connections=connections, extra="gcs")
        return client

    def blob(self, key: str, version: str | None = None) -> Any:
        """Google's `Blob` of one object, or of a version of it."""
        return self.storage.bucket(self.bucket).blob(key, generation=version and _generation(version))

    @override
    def uri(self, key: str = "") -> str:
        """Return the object's address, such as `gs://bucket/folder/orders.csv`."""
        return f"gs://{self.bucket}/{key}"

    def create_bucket(self, location: str | None = None) -> None:
        """Create the bucket; one that already exists and is this project's own stays as it is."""
        try:
            with self._errors("create"):
                client = self.storage
                project = client.project or self._credentials.get_project()
                client.create_bucket(self.bucket, project=project, location=location, **self._patience())
        except AlreadyExistsError as error:
            if "already own it" not in str(error):
                raise

    def get_bucket(self) -> Any:
        """Get Google's `Bucket` with its properties."""
        with self._errors("look up"):
            return self.storage.get_bucket(self.bucket, **self._patience())

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        with self._errors("read", key):
            blob = self.blob(key, version)
            blob.reload(**self._patience())
            return self._info(key, blob)

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        query: dict[str, str] = {"alt": "media"} | ({"generation": str(_generation(version))} if version else {})
        if if_match is not None:
            query["ifGenerationMatch"] = str(_generation(if_match))
        try:
            with self._errors("read", key):
                client, blob = self.storage, self.blob(key)
                url = f"{client.api_endpoint}/download/storage/v1{blob.path}"
                found: tuple[bytes, ObjectInfo] = self._retry(QUICK_RETRY_S)(
                    lambda: self._read(key, url, query, start, length)
                )()
                return found
        except AlreadyExistsError as error:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.") from error
        except InvalidInputError:  # no range of an empty object can be asked for, nor one behind the end
            info = self.head(key, version)
            if start < info.size:
                raise
            return b"", info

    @override
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        if options.tags:
            raise UnsupportedError(f"Could not write {self.uri(key)}: Google Cloud Storage has no tags. Use metadata.")
        metadata = dict(options.metadata or {})
        if options.conditional:
            metadata[WRITE_ID] = uuid.uuid4().hex
        description = {"metadata": metadata, "content_type": options.content_type or "application/octet-stream"}
        parts = parts_of(source, max_parts=2**62)  # all of one size, and the last one may be shorter
        try:
            first = next(parts, b"")
            if len(first) < CHUNK_BYTES:
                return self.replacing(key, options, 0, functools.partial(self._put, key, description, first))
            # Asked for first, because a source that has been sent cannot always be sent again.
            guess = 0 if options.conditional else self._current(key)
            session = self.replacing(key, options, guess, functools.partial(self._start, key, description))
            parts = itertools.chain([first], parts)
            del first  # many uploads at once hold one part each, not two
            return self._send(key, session, parts, options)
        except (AlreadyExistsError, TransientError):
            if options.conditional and self._holds(key, metadata[WRITE_ID]):
                return self.head(key)
            raise

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        with self._errors("list", prefix.removesuffix("/")):
            found = self.storage.list_blobs(
                self.bucket,
                prefix=prefix,
                delimiter=None if recursive else "/",
                fields=LISTED,
                page_size=PAGE,
                **self._patience(),
            )
            for page in found.pages:
                yield [self._info(blob.name, blob) for blob in page if not blob.name.endswith("/")]

    @override
    def delete(self, keys: Iterable[str]) -> int:
        unique = list(dict.fromkeys(keys))
        blobs = [(key, self.blob(key)) for key in unique]

        def delete(item: tuple[str, Any]) -> None:
            key, blob = item
            try:
                with self._errors("delete", key):
                    blob.delete(**self._patience())
            except NoSuchStoreError:
                raise
            except NotFoundError:
                pass

        for _ in ordered_map(delete, blobs, workers=self._max_concurrency):
            pass
        return len(unique)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        to = target or self
        places = self.blob(source_key).path, to.blob(target_key).path
        url = "{}/storage/v1{}/rewriteTo{}".format(self.storage.api_endpoint, *places)

        def rewrite(generation: int) -> None:
            # Blob.rewrite() sends a description of the copy; only without one it gets all that describes the object.
            query = {"ifGenerationMatch": str(generation)}
            with self._errors("copy", source_key, to):
                while True:  # a large object takes several calls, each of which goes on where the last one ended
                    done = self._retry(QUICK_RETRY_S)(lambda: self._call("POST", url, params=query))()
                    if done["done"]:
                        return
                    query["rewriteToken"] = done["rewriteToken"]

        to.replacing(target_key, AS_IT_IS, 0, rewrite)

    @override
    def presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:
        credentials = self._credentials.get_credentials_from_service_account()
        if not isinstance(credentials, require("google.auth.credentials", extra="gcs").Signing):
            raise AuthError(
                f"Could not sign a URL of {self.uri(key)}: these credentials have no key to sign with. Give a service "
                "account's key in GcpCredentials, or impersonate_service_account, which signs at Google."
            )
        if not dt.timedelta(0) < expires_in <= LONGEST_URL:
            raise InvalidInputError(f"Could not sign a URL of {self.uri(key)}: the longest validity is 7 days.")
        with self._errors("sign a URL of", key):
            url: str = self.blob(key).generate_signed_url(
                version="v4", expiration=expires_in, method=method, credentials=credentials
            )
        return url

    @override
    def versions(self, key: str) -> Page:
        with self._errors("list", key):
            found = self.storage.list_blobs(
                self.bucket, prefix=key, end_offset=f"{key}!", versions=True, **self._patience()
            )
            infos = [self._info(key, blob) for blob in found if blob.name == key]
        if not infos:
            raise ObjectNotFoundError(f"Could not list {self.uri(key)}: no version of it is there.")
        return sorted(infos, key=lambda info: _generation(info.version or ""), reverse=True)

    def replacing(self, key: str, options: WriteOptions, guess: int, write: Callable[[int], T]) -> T:
        """Call `write` with the generation that it has to replace, which without a condition is any."""
        if options.if_absent:
            return write(0)
        if options.if_match is not None:
            return write(_generation(options.if_match))
        for _ in range(OVERWRITE_ATTEMPTS):
            try:
                return write(guess)
            except AlreadyExistsError:
                guess = self._current(key)
        raise TransientError(f"Could not write {self.uri(key)}: other writers keep replacing it. Try again.")

    def _info(self, key: str, blob: Any) -> ObjectInfo:
        return ObjectInfo(
            key,
            blob.size or 0,
            str(blob.generation),
            str(blob.generation),
            blob.updated,
            blob.content_type,
            {name: value for name, value in (blob.metadata or {}).items() if name != WRITE_ID},
            _checksum(blob.crc32c),
        )

    def _read(self, key: str, url: str, query: Mapping[str, str], start: int, length: int) -> tuple[bytes, ObjectInfo]:
        # Whoever takes gzip gets the bytes as they are stored; to others compressed ones are sent unpacked, unranged.
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "gzip"}
        content = b""

        def take(answer: Any, **_: Any) -> None:
            nonlocal content
            # Here, because a session that asks again with a new token lets go of an answer that nobody has read.
            content = answer.raw.read(decode_content=False) if answer.ok else answer.content

        answer = self._request("GET", url, params=query, headers=headers, stream=True, hooks={"response": take})
        if not answer.ok:
            raise refusal(answer)
        told, size = answer.headers, len(content)
        if "Content-Range" in told:
            size = int(told["Content-Range"].rpartition("/")[2])
        else:  # as any server may: https://www.rfc-editor.org/rfc/rfc9110#section-14.2
            content = content[start : start + length]
        crc32c = re.search(r"crc32c=([\w+/=]+)", told.get("X-Goog-Hash", ""))
        generation = told["X-Goog-Generation"]
        return content, ObjectInfo(
            key,
            size,
            generation,
            generation,
            parsedate_to_datetime(told.get("Last-Modified") or told["Date"]).astimezone(dt.UTC),
            told.get("Content-Type"),
            checksum=_checksum(crc32c[1] if crc32c else None),
        )

    def _current(self, key: str) -> int:
        """The object's generation; 0 where there is none, or the identity may not know, nor replace it then."""
        try:
            return _generation(self.head(key).etag or "")
        except NoSuchStoreError:
            raise
        except (NotFoundError, AccessDeniedError):
            return 0

    def _described(self, key: str, description: Mapping[str, Any]) -> Any:
        """Make Google's `Blob` of an object that is to be written."""
        blob = self.blob(key)
        blob.metadata, blob.content_type = description["metadata"], description["content_type"]
        return blob

    def _put(self, key: str, description: Mapping[str, Any], content: bytes, generation: int) -> ObjectInfo:
        """Write an object in one request."""
        with self._errors("write", key):
            blob = self._described(key, description)
            blob.upload_from_string(
                content,
                content_type=blob.content_type,
                if_generation_match=generation,
                checksum="crc32c",
                **self._patience(),
            )
        return self._info(key, blob)

    def _start(self, key: str, description: Mapping[str, Any], generation: int) -> _Session:
        with self._errors("write", key):
            blob = self._described(key, description)
            url = blob.create_resumable_upload_session(
                content_type=blob.content_type, if_generation_match=generation, checksum=None, **self._patience()
            )
        retry_s = min(UPLOAD_RETRY_S, max(QUICK_RETRY_S, self._read_timeout_s))
        return _Session(self._request, self._retry(retry_s), url, self.uri(key))

    def _send(self, key: str, session: _Session, parts: Iterator[bytes], options: WriteOptions) -> ObjectInfo:
        """Send the parts by a session, which is cancelled when any of them fails, or their source."""
        crc32c, size = new_digest("crc32c"), 0
        made: dict[str, Any] = {}
        try:
            for part in itertools.chain(parts, [b""]):
                if made:  # a part that is shorter than others was the last one
                    break
                crc32c.update(part)
                size += len(part)
                with self._errors("write", key):
                    made = session.send(part, None if len(part) == CHUNK_BYTES else (size, crc32c.hexdigest()))
        except BaseException as error:
            session.cancel()
            if isinstance(error, AlreadyExistsError) and not options.conditional:
                raise TransientError(
                    f"Could not write {self.uri(key)}: another writer was faster. Try again."
                ) from error
            raise
        info = ObjectInfo(
            key,
            int(made["size"]),
            made["generation"],
            made["generation"],
            dt.datetime.fromisoformat(made["updated"]),
            made.get("contentType"),
            checksum=_checksum(made.get("crc32c")),
        )
        if (info.size, info.checksum) != (size, f"crc32c:{crc32c.hexdigest()}"):
            with contextlib.suppress(ConnectorError), self._errors("delete", key):
                self.blob(key).delete(if_generation_match=int(made["generation"]), **self._patience())
            raise DamagedError(f"Could not write {self.uri(key)}: what arrived is not what was sent. Try again.")
        return info

    @override
    def _write_id(self, key: str) -> str | None:
        blob = self.blob(key)
        with self._errors("read", key):
            blob.reload(**self._patience())
        return cast("str | None", (blob.metadata or {}).get(WRITE_ID))

    def _request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request by the client's session, for what the client has no method for."""
        session = self.storage._http  # noqa: SLF001 (no public way leads to the connections)
        return session.request(method, url, timeout=(CONNECT_TIMEOUT_S, self._read_timeout_s), **options)

    def _call(self, method: str, url: str, **options: Any) -> Any:
        """Send a request of our own, and return the JSON of its answer."""
        answer = self._request(method, url, **options)
        if not answer.ok:
            raise refusal(answer)
        return answer.json()

    def _retry(self, seconds: float) -> Any:
        """Make the retry of one request; a service that says how long to wait is left to the operation's policy."""

        def is_passing(error: Exception) -> bool:
            if isinstance(error, ConnectorError):
                return False
            known = google_error("", "", error, table=ERRORS)
            return isinstance(known, TransientError) and getattr(known, "retry_after_s", None) is None

        retry = require("google.api_core.retry", extra="gcs")
        return retry.Retry(predicate=is_passing, initial=0.2, maximum=5, multiplier=2, timeout=seconds)

    def _patience(self) -> dict[str, Any]:
        return {"timeout": (CONNECT_TIMEOUT_S, self._read_timeout_s), "retry": self._retry(QUICK_RETRY_S)}

    def is_missing(self) -> bool:
        """Look whether there is not even the bucket."""
        try:
            next(iter(self.storage.list_blobs(self.bucket, max_results=1, **self._patience())), None)
        except Exception as error:  # noqa: BLE001 (whatever it is, the first error is the one to raise)
            return isinstance(google_error("", "", error, table=ERRORS), NotFoundError)
        return False

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str = "", target: GcsStoreClient | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in {"google", "requests", "urllib3"}:
                raise
            known = google_error(verb, self.uri(key), error, table=ERRORS, advice=advice_for(verb))
            if DAMAGED in str(known):
                raise DamagedError(f"Could not {verb} {self.uri(key)}: what arrived is not what was sent.") from error
            if isinstance(known, NotFoundError) and (target or "No such object" not in str(known)):
                # Not every answer says whether it is the object that is missing or the bucket, or which of two.
                for store in (self, target):
                    if store is not None and store.is_missing():
                        raise NoSuchStoreError(
                            f"Could not {verb} {self.uri(key)}: there is no bucket {store.bucket}. "
                            "Check bucket, and the endpoint_url of the credentials."
                        ) from error
            raise known from error


class _Session:
    """A resumable upload: chunks in their order; after a failure the service is asked how much has arrived.

    https://cloud.google.com/storage/docs/performing-resumable-uploads
    """

    def __init__(self, request: Callable[..., Any], retry: Callable[..., Any], url: str, place: str) -> None:
        self._request, self._retry, self._url, self._place = request, retry, url, place
        self._arrived = 0
        self._unsure = False

    def send(self, chunk: bytes, end: tuple[int, str] | None) -> dict[str, Any]:
        """Send a chunk; the last one has an `end`: the size and the CRC-32C of all.

        Returns:
            The finished object's resource after the last chunk, else nothing.

        Raises:
            TransientError: The service forgot the upload.
        """
        start = self._arrived
        while True:
            before = self._arrived
            made: dict[str, Any] | None = self._retry(lambda: self._attempt(chunk, start, end))()
            if made is not None:
                return made
            if self._arrived == start + len(chunk) and end is None:
                return {}
            if self._arrived == before:
                raise self._lost()

    def cancel(self) -> None:
        """Discard the upload and what has arrived of it; the service does so by itself after a week."""
        with contextlib.suppress(Exception):
            self._request("DELETE", self._url)

    def _attempt(self, chunk: bytes, start: int, end: tuple[int, str] | None) -> dict[str, Any] | None:
        """The object's resource once it is finished; sends what is missing of the chunk."""
        stop = start + len(chunk)
        if self._unsure:
            made = self._ask(b"", "bytes */*")
            if made is not None or (self._arrived == stop and end is None):
                return made
            if not start <= self._arrived <= stop:
                raise self._lost()
        rest = chunk[self._arrived - start :]
        span = f"{self._arrived}-{stop - 1}" if rest else "*"
        if end is None:
            return self._ask(rest, f"bytes {span}/*")
        checksum = base64.b64encode(bytes.fromhex(end[1])).decode()
        return self._ask(rest, f"bytes {span}/{end[0]}", {"X-Goog-Hash": f"crc32c={checksum}"})

    def _ask(self, content: bytes, span: str, headers: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        self._unsure = True
        told = {"Content-Range": span, **(headers or {})}
        answer = self._request("PUT", self._url, data=content, headers=told)
        if answer.status_code in {200, 201}:
            made: dict[str, Any] = answer.json()
            return made
        if answer.status_code in {404, 410}:
            raise self._lost()
        if answer.status_code != 308:  # noqa: PLR2004 (resume incomplete)
            raise refusal(answer)
        self._arrived = int(answer.headers["Range"].rpartition("-")[2]) + 1 if "Range" in answer.headers else 0
        self._unsure = False
        return None

    def _lost(self) -> TransientError:
        return TransientError(f"Could not write {self._place}: the upload was forgotten. Try again.")


def _generation(etag: str) -> int:
    """Return the generation that is an object's etag and version.

    Raises:
        InvalidInputError: It is not a generation, but perhaps the etag of another store.
    """
    if not etag.isdecimal():
        raise InvalidInputError(f"{etag!r:.100} is not a generation. Take etag or version from head_object().")
    return int(etag)


def _checksum(encoded: str | None) -> str | None:
    """Return the checksum as `ObjectInfo` has it.

    >>> _checksum("KAwGng==")
    'crc32c:280c069e'
    """
    return f"crc32c:{base64.b64decode(encoded).hex()}" if encoded else None
