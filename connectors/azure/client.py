"""The client of a container of Azure Blob Storage.

The bytes of large blobs come through obstore (Rust). What else is asked goes through azure-storage-blob, as S3's does
through boto3: obstore cannot list every name, nor commit a list of blocks on a condition. Nor does it know Azure's MD5:
so the first bytes of a blob, and all of a small one, go through Azure's client too, unless verify_checksums is false.

A blob is written in one request, or in blocks that nobody sees before one request makes the blob of them. What a killed
process leaves is blocks without a blob; Azure forgets them after a week, and does not tell how old they are, so that
`sweep` leaves them to it. https://learn.microsoft.com/rest/api/storageservices/put-block
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from typing_extensions import override

from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    AlreadyExistsError,
    InvalidInputError,
    ObjectNotFoundError,
    TransientError,
    UnsupportedError,
    service_error,
)
from blocks.base.live import live
from blocks.base.optional import require
from blocks.credentials.azure import azure_error, told_apart
from blocks.stores.client import WRITE_ID, WriteOptions
from blocks.stores.info import ObjectInfo
from connectors.azure.errors import ERRORS, SIGNED, advice_for, refuse_version
from connectors.shared.obstore import Identity, ObstoreClient, comes_from_obstore, obstore_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, MutableSequence
    from typing import Self

    from blocks.credentials.azure import AzureBlobStorageCredentials
    from blocks.stores.info import Page

BLOCKS_IN_FLIGHT = 4
MAX_BLOCKS = 50_000
PAGE_SIZE = 1_000
DELETE_BATCH = 256
COPY_BYTES = 256 * 2**20
"""The largest blob that is copied in one request; the one that takes more, Copy Blob, shows an empty blob meanwhile."""
COPY_BLOCK_BYTES = 64 * 2**20
COPY_LASTS = dt.timedelta(days=1)
"""How long a copy may take: the source's signature holds so long."""


class AzureStoreClient(ObstoreClient):
    """A container of Azure Blob Storage."""

    extra: ClassVar[str] = "azure"
    max_parts: ClassVar[int] = MAX_BLOCKS
    # https://learn.microsoft.com/rest/api/storageservices/setting-and-retrieving-properties-and-metadata-for-blob-resources
    metadata_names: ClassVar[str] = "[A-Za-z_][A-Za-z0-9_]*"
    metadata_names_are: ClassVar[str] = "letters, digits and underscores"

    def __init__(
        self,
        container: str,
        credentials: AzureBlobStorageCredentials,
        *,
        verify_checksums: bool,
        max_concurrency: int,
        read_timeout_s: float,
    ) -> None:
        super().__init__(read_timeout_s=read_timeout_s)
        self.container = container
        self._credentials = credentials
        self._verify_checksums = verify_checksums
        self._max_concurrency = max_concurrency

    @property
    @override
    def server(self) -> str:
        return self._credentials.account().url

    @live
    def service(self) -> Any:
        """Azure's BlobServiceClient of the account."""
        return self._credentials.get_client(
            connections=max(10, self._max_concurrency * BLOCKS_IN_FLIGHT), read_timeout_s=self._read_timeout_s
        )

    @property
    def _container(self) -> Any:
        return self.service.get_container_client(self.container)

    def blob(self, key: str) -> Any:
        """Azure's client of one blob."""
        return self._container.get_blob_client(key)

    @override
    def uri(self, key: str = "") -> str:
        """Return the blob's address, such as `az://container/folder/orders.csv`."""
        return f"az://{self.container}/{key}"

    def create_container(self) -> None:
        """Create the container; one that already exists stays as it is."""
        with contextlib.suppress(AlreadyExistsError), self._errors("create"):
            self._container.create_container()

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        refuse_version(version)
        blob = self.blob(key)
        with self._errors("read", key):
            found = blob.get_blob_properties()
        if _marks_folder(found):
            raise ObjectNotFoundError(f"Could not read {self.uri(key)}: it is a folder.")
        return _info(key, found)

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        refuse_version(version)
        if start or not self._verify_checksums:
            return super().get_range(key, start, length, if_match=if_match)
        blob, condition = self.blob(key), _condition(WriteOptions(if_match=if_match))
        try:
            with self._errors("read", key):
                # Without the driver's own attempts, which leave the connections of refused ones open; and the bytes as
                # they are stored, also where their encoding is gzip: sizes, ranges and checksums are of these.
                found = blob.download_blob(0, length, retry_total=0, decompress=False, **condition)
                content = found.readall()
        except AlreadyExistsError as error:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.") from error
        except InvalidInputError:  # no range of an empty blob can be asked for
            info = self.head(key)
            if info.size:
                raise
            return b"", info
        size = int(found.properties.content_range.rpartition("/")[2])
        return content, replace(_info(key, found.properties), size=size)

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        request: dict[str, Any] = {
            "name_starts_with": prefix,
            "include": ["metadata"],
            "results_per_page": PAGE_SIZE,
        }
        with self._errors("list", prefix.removesuffix("/")):
            container = self._container
            found = container.list_blobs(**request) if recursive else container.walk_blobs(**request, delimiter="/")
            for page in found.by_page():
                yield [_info(each.name, each) for each in page if _is_object(each)]

    @override
    def delete(self, keys: Iterable[str]) -> int:
        unique = list(dict.fromkeys(keys))
        for at in range(0, len(unique), DELETE_BATCH):
            names = unique[at : at + DELETE_BATCH]
            with self._errors("delete"):
                answers = list(self._container.delete_blobs(*names, raise_on_any_failure=False))
            for name, answer in zip(names, answers, strict=True):
                code = answer.headers.get("x-ms-error-code", "")
                if answer.status_code >= 400 and code != "BlobNotFound":  # noqa: PLR2004 (HTTP's errors)
                    place, codes = f"az://{self.container}/{name}", [code, str(answer.status_code)]
                    raise service_error("delete", place, codes, "", table=ERRORS, advice=advice_for("delete"))
        return len(unique)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        to = target or self
        copy = to.blob(target_key)
        with self._errors("copy", source_key):
            found = self.blob(source_key).get_blob_properties()
            if found.size > COPY_BYTES:
                to.copy_blocks(self, source_key, target_key, found)
                return
            matches = require("azure.core", extra="azure").MatchConditions
            url, proof = self.readable(source_key, "rt" if found.tag_count else "r")
            copy.start_copy_from_url(
                url,
                requires_sync=True,
                tags="COPY" if found.tag_count else None,
                source_etag=found.etag,
                source_match_condition=matches.IfNotModified,
                **proof,
            )

    def copy_blocks(self, source: Self, source_key: str, key: str, found: Any) -> None:
        """Copy a blob into blocks that the service reads by itself, with all that is kept beside the content."""
        blob, write_id = self.blob(key), uuid.uuid4().hex
        step = max(COPY_BLOCK_BYTES, -(-found.size // MAX_BLOCKS))
        with self._staging(key) as taken:

            def send(numbered: tuple[int, int]) -> str:
                number, at = numbered
                name, (url, proof) = _name(write_id, number), source.readable(source_key, "r")
                with self._errors("copy", key):
                    done = blob.stage_block_from_url(name, url, at, min(step, found.size - at), **proof)
                taken.append(done["date"])
                return name

            starts = enumerate(range(0, found.size, step))
            names = list(ordered_map(send, starts, workers=BLOCKS_IN_FLIGHT))
            if source.head(source_key).etag != found.etag:
                raise TransientError(f"{source.uri(source_key)} changed while it was copied. Try again.")
            tags = source.blob(source_key).get_blob_tags() if found.tag_count else None
            self._commit(key, names, found.content_settings, found.metadata, WriteOptions(tags=tags))

    def readable(self, key: str, permission: str) -> tuple[str, dict[str, Any]]:
        """Return an address at which the service itself may read the blob, and what to show there."""
        account, url = self._credentials.account(), self.blob(key).url
        if account.key:
            return f"{url}?{self._sas(key, permission, COPY_LASTS)}", {}
        if account.sas_token:
            return f"{url}?{account.sas_token}", {}
        if self._credentials.anonymous:
            return url, {}
        return url, {"source_authorization": f"Bearer {self._credentials.bearer_token().token}"}

    @override
    def presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:
        if method not in SIGNED:
            raise InvalidInputError(f"Could not sign a URL of {self.uri(key)}: method is GET or PUT, not {method!r}.")
        with self._errors("sign a URL of", key):
            return f"{self.blob(key).url}?{self._sas(key, SIGNED[method], expires_in)}"

    @override
    def _put_whole(self, key: str, content: bytes, options: WriteOptions, metadata: Mapping[str, str]) -> ObjectInfo:
        if not self._verify_checksums:
            return super()._put_whole(key, content, options, metadata)
        models = require("azure.storage.blob", extra="azure")
        with self._errors("write", key):
            done = self.blob(key).upload_blob(
                content,
                overwrite=True,
                validate_content=True,
                content_settings=models.ContentSettings(content_type=options.content_type),
                metadata=dict(metadata),
                tags=dict(options.tags) if options.tags else None,
                **_condition(options),
            )
        return ObjectInfo(key, len(content), done["etag"], None, dt.datetime.now(dt.UTC))

    @override
    def _put_parts(
        self, key: str, parts: Iterable[bytes], options: WriteOptions, metadata: Mapping[str, str], write_id: str
    ) -> ObjectInfo:
        models = require("azure.storage.blob", extra="azure")
        blob, whole, size = self.blob(key), hashlib.md5(usedforsecurity=False), 0

        def measured() -> Iterator[tuple[int, bytes]]:
            nonlocal size
            for number, part in enumerate(parts):
                whole.update(part)
                size += len(part)
                yield number, part

        with self._staging(key) as taken:

            def send(numbered: tuple[int, bytes]) -> str:
                number, part = numbered
                with self._errors("write", key):
                    taken.append(blob.stage_block(_name(write_id, number), part, validate_content=True)["date"])
                return _name(write_id, number)

            names = list(ordered_map(send, measured(), workers=BLOCKS_IN_FLIGHT, budget=self.budget))
            settings = models.ContentSettings(content_type=options.content_type, content_md5=bytearray(whole.digest()))
            done = self._commit(key, names, settings, metadata, options)
        return ObjectInfo(key, size, done["etag"], None, dt.datetime.now(dt.UTC), checksum=f"md5:{whole.hexdigest()}")

    @contextlib.contextmanager
    def _staging(self, key: str) -> Iterator[MutableSequence[dt.datetime]]:
        """Note when the service received each block, and remove the blocks when no blob was made of them.

        A blob that another writer made since then stays. One who is still at it loses the blocks too, as by any commit
        of that key, and is told to try again.
        """
        taken: list[dt.datetime] = []
        try:
            yield taken
        except BaseException:
            with contextlib.suppress(Exception):
                blob = self.blob(key)
                if taken and not blob.exists():
                    blob.delete_blob(if_unmodified_since=min(taken) - dt.timedelta(seconds=1))
            raise

    def _commit(
        self, key: str, names: Iterable[str], settings: Any, metadata: Mapping[str, str], options: WriteOptions
    ) -> Any:
        """Make a blob of the blocks, and return the service's answer."""
        models = require("azure.storage.blob", extra="azure")
        with self._errors("write", key):
            return self.blob(key).commit_block_list(
                [models.BlobBlock(name) for name in names],
                content_settings=settings,
                metadata=dict(metadata),
                tags=dict(options.tags) if options.tags else None,
                **_condition(options),
            )

    @override
    def _write_id(self, key: str) -> str | None:
        with self._errors("read", key):
            return cast("str | None", self.blob(key).get_blob_properties().metadata.get(WRITE_ID))

    def _sas(self, key: str, permission: str, lasts: dt.timedelta) -> str:
        """Make a token for one blob, signed with the account's key, or with one that Entra ID gives to the identity."""
        account, now = self._credentials.account(), dt.datetime.now(dt.UTC)
        signer: dict[str, Any] = {"account_key": account.key}
        if account.sas_token or self._credentials.anonymous:
            raise UnsupportedError(
                f"Could not sign a URL of {self.uri(key)}: a SAS token cannot sign another. "
                "Give account_key or client_secret in the credentials, or use the machine's own identity."
            )
        if not account.key:
            # From a while ago, for a clock that is ahead.
            begin = now - dt.timedelta(minutes=15)
            signer = {"user_delegation_key": self.service.get_user_delegation_key(begin, now + lasts)}
        token: str = require("azure.storage.blob", extra="azure").generate_blob_sas(
            account.name, self.container, key, permission=permission, expiry=now + lasts, **signer
        )
        return token

    @override
    def _connect(self) -> Any:
        # What obstore finds in the environment would be mixed in: so all that it asks for is given.
        account = self._credentials.account()
        return require("obstore.store", extra="azure").AzureStore(
            self.container,
            account_name=account.name,
            endpoint=account.url,
            use_emulator=False,
            skip_signature=self._credentials.anonymous,
            credential_provider=None if self._credentials.anonymous else self._identity,
            **self._obstore_options(account.url, self._credentials.verify),
        )

    @live
    def _identity(self) -> Identity:
        return Identity(self._credentials.frozen)

    @override
    @contextlib.contextmanager
    def _errors(self, verb: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "azure":
                known = azure_error(verb, self.uri(key), error, table=ERRORS, advice=advice_for(verb))
                raise known from self._credentials.shown(error)
            if comes_from_obstore(error):
                refused = self._identity.refusal() if type(error).__name__ == "UnauthenticatedError" else None
                table = told_apart(str(error), ERRORS)
                known = obstore_error(verb, self.uri(key), error, table=table, advice=advice_for(verb))
                raise refused or known from error
            raise


def _name(write_id: str, number: int) -> str:
    """A block's name, unlike that of any other writer's: or a blob could be made of blocks of both.

    All names of a blob's blocks are of one length, and these as long as those of Azure's own client.
    """
    return f"{write_id}{number:016}"


def _info(key: str, found: Any) -> ObjectInfo:
    """What Azure's client tells of a blob. A listing gives etags without their quotes."""
    md5, etag = found.content_settings.content_md5, found.etag
    metadata = {name: value for name, value in (found.metadata or {}).items() if name != WRITE_ID}
    return ObjectInfo(
        key,
        found.size,
        etag if etag.startswith('"') else f'"{etag}"',
        None,
        found.last_modified,
        found.content_settings.content_type,
        metadata,
        f"md5:{bytes(md5).hex()}" if md5 else None,
    )


def _is_object(found: Any) -> bool:
    """Whether an entry of a listing is a blob, not a folder, nor a marker of one.

    An account with a hierarchical namespace lists its folders as blobs with this metadata.
    """
    if not hasattr(found, "blob_type") or found.name.endswith("/"):
        return False
    return not _marks_folder(found)


def _marks_folder(found: Any) -> bool:
    metadata = {name.lower(): value.lower() for name, value in (found.metadata or {}).items()}
    return metadata.get("hdi_isfolder") == "true"


def _condition(options: WriteOptions) -> dict[str, Any]:
    """What Azure's client takes as the condition of a request."""
    matches = require("azure.core", extra="azure").MatchConditions
    if options.if_absent:
        return {"match_condition": matches.IfMissing}
    if options.if_match is not None:
        return {"etag": options.if_match, "match_condition": matches.IfNotModified}
    return {}
