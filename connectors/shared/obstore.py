"""ObstoreClient: what the clients have in common whose bytes move through obstore (Rust's object_store).

obstore reads, and writes what fits in one request. It does not list: it normalizes keys, so that a folder marker and
an object look the same, and one key with a double slash fails a whole page. Nor can it make a large write conditional.
For these, and for all the rest, a child uses its vendor's own client.
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import itertools
import re
import uuid
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    ObjectExistsError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
    service_error,
)
from blocks.base.live import live
from blocks.base.optional import require
from blocks.files.local import CHUNK_BYTES, parts_of
from blocks.stores.client import AS_IT_IS, WRITE_ID, StoreClient
from blocks.stores.info import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from blocks.files.local import Source
    from blocks.stores.client import WriteOptions

OBSTORE_ERRORS: dict[str, type[ConnectorError]] = {
    "FileNotFoundError": ObjectNotFoundError,
    "PermissionDeniedError": AccessDeniedError,
    "UnauthenticatedError": AuthError,
    "AlreadyExistsError": ObjectExistsError,
    "PreconditionError": ObjectExistsError,
    "NotSupportedError": UnsupportedError,
    "InvalidPathError": InvalidInputError,
    "InvalidRange": InvalidInputError,
    "ValueError": InvalidInputError,
}
"""Raised by obstore without an answer of the service, by class name. Source: obstore.exceptions."""


class ObstoreClient(StoreClient):
    """A StoreClient whose `get_range` and small writes are obstore's.

    A child names its `extra`, supplies `_connect` (the obstore store, with `_obstore_options`), `_errors`, `_put_parts`
    and `_write_id`, and has its identity called back by obstore through `Identity`.
    """

    extra: ClassVar[str]
    """The extra of pyproject.toml that brings the drivers."""
    max_parts: ClassVar[int] = 10_000
    """In how many parts an object may be written."""

    metadata_names: ClassVar[str]
    """A pattern of the names of metadata that come back from the service as they were sent."""
    metadata_names_are: ClassVar[str]
    """The same in words."""

    def __init__(self, *, read_timeout_s: float) -> None:
        super().__init__()
        self._read_timeout_s = read_timeout_s

    @abstractmethod
    def _connect(self) -> Any:
        """Make an obstore store of the whole bucket."""

    @abstractmethod
    def _errors(self, verb: str, key: str = "") -> contextlib.AbstractContextManager[None]:
        """Raise the drivers' errors as ours."""

    @abstractmethod
    def _put_parts(
        self, key: str, parts: Iterable[bytes], options: WriteOptions, metadata: Mapping[str, str], write_id: str
    ) -> ObjectInfo:
        """Write an object in several requests, all of it or nothing; `write_id` is this write's own name."""

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        try:
            with self._errors("read", key):
                return self._get(key, start, length, if_match, version)
        except AlreadyExistsError as error:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.") from error
        except InvalidInputError:  # no range of an empty object can be asked for, nor one behind the end
            info = self.head(key, version)
            if start < info.size:
                raise
            return b"", info

    def _get(
        self, key: str, start: int, length: int, if_match: str | None, version: str | None
    ) -> tuple[bytes, ObjectInfo]:
        """Read a range by one request."""
        options: dict[str, Any] = {"range": (start, start + length)}
        if if_match is not None:
            options["if_match"] = if_match
        if version is not None:
            options["version"] = version
        with without_panic("read", self.uri(key)):
            found = self._obstore.get(self._store, key, options=options)
            return bytes(found.bytes()), self._found(key, found.meta)

    @override
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        metadata, write_id = self._metadata(options), uuid.uuid4().hex
        if options.conditional:
            metadata[WRITE_ID] = write_id
        parts = parts_of(source, max_parts=self.max_parts)
        try:
            first = next(parts, b"")
            if len(first) < CHUNK_BYTES:
                return self._put_whole(key, first, options, metadata)
            parts = itertools.chain([first], parts)
            del first  # many uploads at once hold what is under way, and nothing else
            return self._put_parts(key, parts, options, metadata, write_id)
        except (AlreadyExistsError, TransientError):
            if options.conditional and self._holds(key, write_id):
                return self.head(key)
            raise

    @property
    def _attributes(self) -> dict[str, str]:
        """What every object is written with."""
        return {}

    @property
    def _obstore(self) -> Any:
        return require("obstore", extra=self.extra)

    @live
    def _store(self) -> Any:
        return self._connect()

    def _obstore_options(self, endpoint: str | None, verify: bool | str) -> dict[str, Any]:
        """What every obstore store here is built with: timeouts, the authority to trust, a few quick attempts."""
        client: dict[str, Any] = {
            "connect_timeout": "10s",
            "read_timeout": dt.timedelta(seconds=self._read_timeout_s),
            "timeout": dt.timedelta(minutes=15),  # the whole of a request: a slow line is not a fault
        }
        if endpoint and endpoint.startswith("http://"):
            client["allow_http"] = True
        if verify is False:
            client["allow_invalid_certificates"] = True
        elif isinstance(verify, str):
            client["root_certificate"] = Path(verify).read_bytes()
        return {
            "client_options": client,
            # A few quick attempts of one request; `retry` is the policy for everything that takes longer.
            "retry_config": {
                "max_retries": 2,
                "backoff": {"init_backoff": dt.timedelta(milliseconds=100), "max_backoff": dt.timedelta(seconds=1)},
                "retry_timeout": dt.timedelta(seconds=min(30, self._read_timeout_s)),
            },
        }

    def _found(self, key: str, meta: Mapping[str, Any]) -> ObjectInfo:
        """What obstore tells of an object; `checksum` where the child can read one out of it."""
        return ObjectInfo(key, meta["size"], meta["e_tag"], meta["version"], meta["last_modified"])

    def _metadata(self, options: WriteOptions) -> dict[str, str]:
        """The metadata as the service stores it: both it and the content type are sent in HTTP's headers.

        Raises:
            InvalidInputError: It takes no such names or values.
        """
        metadata = dict(options.metadata or {})
        for name, value in metadata.items():
            if not re.fullmatch(self.metadata_names, name):
                raise InvalidInputError(
                    f"{name!r:.100} is not a name for metadata here, which has {self.metadata_names_are}. Nothing was "
                    "written."
                )
            if not _is_plain(value) or value != value.strip():
                raise InvalidInputError(
                    f"The metadata {name!r} has to be printable ASCII without spaces at its ends; encode it first, for "
                    "example by urllib.parse.quote. Nothing was written."
                )
        if options.content_type and not _is_plain(options.content_type):
            raise InvalidInputError("content_type has to be printable ASCII, such as 'text/csv'.")
        return metadata

    def _put_whole(self, key: str, content: bytes, options: WriteOptions, metadata: Mapping[str, str]) -> ObjectInfo:
        """Write an object in one request."""
        attributes = {**self._attributes, **metadata}
        if options.content_type:
            attributes["Content-Type"] = options.content_type
        mode: Any = "create" if options.if_absent else {"e_tag": options.if_match} if options.if_match else "overwrite"
        with self._errors("write", key), without_panic("write", self.uri(key)):
            put = self._obstore.put(
                self._store,
                key,
                content,
                attributes=attributes,
                tags=dict(options.tags) if options.tags else None,
                mode=mode,
                use_multipart=False,
            )
        return ObjectInfo(key, len(content), put["e_tag"], put["version"], dt.datetime.now(dt.UTC))


class Identity:
    """Hands obstore the credentials of the moment, and keeps the reason when there are none: obstore forgets it."""

    def __init__(self, credentials: Callable[[], dict[str, Any]]) -> None:
        self._credentials = credentials
        self.refused: ConnectorError | None = None

    def __call__(self) -> dict[str, Any]:
        """Return the credentials; obstore calls before its first request and again before they expire.

        Raises:
            ConnectorError: There is no identity.
        """
        try:
            return self._credentials()
        except ConnectorError as error:
            self.refused = copy.copy(error)  # without its traceback, whose frames hold the client
            raise

    def refusal(self) -> ConnectorError | None:
        """Return why there were no credentials the last time, as an error of its own to raise."""
        return copy.copy(self.refused)


@contextlib.contextmanager
def without_panic(verb: str, place: str) -> Iterator[None]:
    """Make an error of what obstore's Rust code gives up at, which no `except Exception` would catch.

    Raises:
        InvalidInputError: It did; this happens to arguments that it does not check.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InvalidInputError(
            f"Could not {verb} {place}: the driver cannot send one of the arguments. Check them for characters beyond "
            "printable ASCII."
        ) from None


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def obstore_error(
    verb: str,
    place: str,
    error: Exception,
    *,
    table: Mapping[str, type[ConnectorError]],
    advice: Mapping[str, str],
) -> ConnectorError:
    """Translate what obstore raised, which carries the service's answer, or the network's, as text."""
    text = str(error)
    said, _, details = text.partition("Debug source:")
    codes = re.findall(r"<Code>(\w+)</Code>", said) + re.findall(r"status code: (\d{3})", said)
    if "HttpError" in details and not codes:
        refused = "ertificate" in details
        reason = re.search(r'(?:message|error): "([^"]+)"', details) or re.search(r"kind: (\w+)", details)
        words = "the server's certificate is not trusted" if refused else reason[1] if reason else ""
        codes.append("SSLError" if refused else "ConnectionError")
    else:
        message = re.search(r"<Message>([^<]*)</Message>", said)
        words = message[1].partition("\n")[0] if message else "" if codes else said.strip()
    if "Wanted range" in said:  # a server that grants a range behind the end, which obstore then refuses
        codes.insert(0, "InvalidRange")
    codes += [kind.__name__ for kind in type(error).__mro__]
    return service_error(verb, place, codes, words, table=table, advice=advice)


def comes_from_obstore(error: Exception) -> bool:
    """Tell whether obstore raised it; it uses two of Python's own classes."""
    return type(error).__module__.partition(".")[0] == "obstore" or type(error) in {FileNotFoundError, ValueError}
