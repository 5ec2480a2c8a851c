"""Amazon S3, and every server that speaks its protocol.

Objects are read and written through obstore (Rust, 4 to 5 times boto3's rate on small objects). Listing, deleting,
copying and multipart uploads go through boto3: obstore normalises keys while listing, so that a folder marker and an
object look the same and one key with a double slash fails the whole page; and only CompleteMultipartUpload itself can
make a large write conditional.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import uuid
from typing import TYPE_CHECKING, Any

from pydantic import Field, HttpUrl, field_validator

from blocks.aws_credentials import AWS_ADVICE, AWS_ERRORS, AwsCredentials, aws_error
from blocks.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TransientError,
    UnsupportedError,
    service_error,
)
from blocks.object_store import (
    NoSuchStoreError,
    ObjectInfo,
    ObjectStore,
    chunks_of,
    folder_prefix,
    join_key,
    ordered_map,
)
from blocks.optional import require

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from blocks.object_store import Source

PART_BYTES = 8 * 2**20
PARTS_IN_FLIGHT = 4
MAX_PARTS = 10_000
DELETE_BATCH = 1_000
COPY_BYTES = 5 * 2**30
"""The largest object that one CopyObject takes."""
WRITE_ID = "etl-write-id"
"""Metadata of a conditional write, by which it knows its own object when the answer was lost."""

ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "InvalidSecurity": AuthError,
    "CredentialsNotSupported": AuthError,
    "AllAccessDisabled": AccessDeniedError,
    "AccountProblem": AccessDeniedError,
    "NoSuchKey": NotFoundError,
    "NoSuchBucket": NoSuchStoreError,
    "NoSuchVersion": NotFoundError,
    "PreconditionFailed": AlreadyExistsError,
    "412": AlreadyExistsError,
    "BucketAlreadyExists": AlreadyExistsError,
    "BucketAlreadyOwnedByYou": AlreadyExistsError,
    "InvalidArgument": InvalidInputError,
    "InvalidRequest": InvalidInputError,
    "InvalidRange": InvalidInputError,
    "InvalidBucketName": InvalidInputError,
    "InvalidObjectState": InvalidInputError,
    "EntityTooLarge": InvalidInputError,
    "EntityTooSmall": InvalidInputError,
    "KeyTooLongError": InvalidInputError,
    "MetadataTooLarge": InvalidInputError,
    "AuthorizationHeaderMalformed": InvalidInputError,
    "PermanentRedirect": InvalidInputError,
    "TemporaryRedirect": InvalidInputError,
    "IllegalLocationConstraintException": InvalidInputError,
    "400": InvalidInputError,
    "MethodNotAllowed": UnsupportedError,
    "NotImplemented": UnsupportedError,
    "501": UnsupportedError,
    # Another writer is at it, or the upload is gone because its completion was heard and the answer lost.
    "ConditionalRequestConflict": TransientError,
    "OperationAborted": TransientError,
    "NoSuchUpload": TransientError,
    "BadDigest": TransientError,
    "IncompleteBody": TransientError,
    "XAmzContentSHA256Mismatch": TransientError,
    # Raised by obstore without an answer of the service, by class name.
    "FileNotFoundError": NotFoundError,
    "PermissionDeniedError": AccessDeniedError,
    "UnauthenticatedError": AuthError,
    "AlreadyExistsError": AlreadyExistsError,
    "PreconditionError": AlreadyExistsError,
    "NotSupportedError": UnsupportedError,
    "InvalidPathError": InvalidInputError,
    "ValueError": InvalidInputError,
}
"""https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and obstore.exceptions."""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "NoSuchBucket": "Check bucket_name, and the endpoint_url of the credentials.",
    "NoSuchKey": "Check the key, and the bucket_folder.",
    "PermanentRedirect": "Set region_name of the credentials to the bucket's region.",
    "AuthorizationHeaderMalformed": "Set region_name of the credentials to the bucket's region.",
    "PreconditionFailed": "It exists already, or another writer was faster: read it again and decide.",
    "InvalidObjectState": "The object is archived; restore it first.",
}

PERMISSIONS = {
    "read": "s3:GetObject (and s3:ListBucket, without which a missing object looks like a forbidden one)",
    "write": "s3:PutObject",
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
    "copy": "s3:GetObject on the object and s3:PutObject on its copy",
}


class S3Bucket(ObjectStore):
    """A bucket of Amazon S3 or of a server that speaks its protocol, or a folder in one.

    Example:
        ```python
        from connectors.s3 import S3Bucket

        bucket = S3Bucket.load("BLOCK_NAME")
        bucket.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL S3 Bucket"
    _block_type_slug = "etl-s3-bucket"
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html")
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"
    )

    bucket_name: str = Field(description="The bucket's name, without 's3://' and without a folder.")
    credentials: AwsCredentials = Field(
        default_factory=AwsCredentials, description="Who is asking; by default the machine's own identity."
    )
    bucket_folder: str = Field(
        default="", description="The folder in the bucket that this block stands for; by default all of it."
    )

    @field_validator("bucket_name")
    @classmethod
    def _only_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", value):
            raise ValueError(f"{value!r:.100} is no bucket name; give the name alone and any folder as bucket_folder")
        return value

    @field_validator("bucket_folder")
    @classmethod
    def _whole_folder(cls, value: str) -> str:
        try:
            return folder_prefix(value.strip("/")).removesuffix("/")
        except InvalidInputError as error:
            raise ValueError(str(error)) from None

    @property
    def basepath(self) -> str:
        """The folder, by the name that Prefect's deployments look for."""
        return self.bucket_folder

    def check(self) -> str:
        """One sentence that says that the bucket answered, knew the identity and let it list.

        Raises:
            AuthError: The keys are wrong.
            NotFoundError: There is no such bucket.
            AccessDeniedError: The identity may not list.
        """
        with self._errors("list"):
            prefix = f"{self.bucket_folder}/" if self.bucket_folder else ""
            self.get_client().list_objects_v2(Bucket=self.bucket_name, Prefix=prefix, MaxKeys=1)
        return f"{self.uri()} is reachable, knows the credentials and lets them list."

    def get_client(self) -> Any:
        """A boto3 client of S3 with this block's identity, for everything that has no method here."""
        return self._cached("client", self._client)

    def uri(self, key: str = "") -> str:
        """The object's address, such as `s3://bucket/folder/orders.csv`."""
        return f"s3://{self.bucket_name}/{join_key(self.bucket_folder, key) if key else self.bucket_folder}"

    def _key(self, key: str) -> str:
        return join_key(self.bucket_folder, key)

    def _info(self, key: str, found: Mapping[str, Any]) -> ObjectInfo:
        return ObjectInfo(key, found["size"], found["e_tag"], found["version"], found["last_modified"])

    def _head(self, key: str) -> ObjectInfo:
        obstore, store, whole = self._obstore(), self._store(), self._key(key)
        with self._errors("read", key):
            try:
                return self._info(key, obstore.head(store, whole))
            except (FileNotFoundError, obstore.exceptions.PermissionDeniedError):
                # The answer to HEAD has no body, and so no word on whether the key, the bucket or the right is missing.
                return self._info(key, obstore.get(store, whole, options={"range": (0, 1)}).meta)

    def _get(self, key: str, start: int, length: int, if_match: str | None = None) -> tuple[bytes, ObjectInfo]:
        options: dict[str, Any] = {"range": (start, start + length)}
        if if_match is not None:
            options["if_match"] = if_match
        whole = self._key(key)
        try:
            with self._errors("read", key):
                found = self._obstore().get(self._store(), whole, options=options)
                return bytes(found.bytes()), self._info(key, found.meta)
        except AlreadyExistsError as error:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.") from error
        except InvalidInputError:  # no range of an empty object can be asked for, nor one behind the end
            info = self._head(key)
            if start < info.size:
                raise
            return b"", info

    def _upload(
        self,
        key: str,
        source: Source,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        whole = self._key(key)
        metadata = dict(metadata or {})
        conditional = if_absent or if_match is not None
        if conditional:
            metadata[WRITE_ID] = uuid.uuid4().hex
        parts = _parts(source)
        first = next(parts, b"")
        second = next(parts, None)
        try:
            if second is None:
                attributes = metadata | ({"Content-Type": content_type} if content_type else {})
                mode: Any = "create" if if_absent else {"e_tag": if_match} if if_match else "overwrite"
                with self._errors("write", key):
                    put = self._obstore().put(
                        self._store(), whole, first, attributes=attributes, mode=mode, use_multipart=False
                    )
                return ObjectInfo(key, len(first), put["e_tag"], put["version"], dt.datetime.now(dt.UTC))
            condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
            description = {"Metadata": metadata} | ({"ContentType": content_type} if content_type else {})
            return self._upload_parts(key, _chain(first, second, parts), description, condition)
        except (AlreadyExistsError, TransientError):
            if conditional and self._holds(key, metadata[WRITE_ID]):
                return self._head(key)
            raise

    def _upload_parts(
        self, key: str, parts: Iterable[bytes], description: Mapping[str, Any], condition: Mapping[str, Any]
    ) -> ObjectInfo:
        client, target = self.get_client(), {"Bucket": self.bucket_name, "Key": self._key(key)}
        with self._errors("write", key):
            target["UploadId"] = client.create_multipart_upload(**target, **description)["UploadId"]

        def send(numbered: tuple[int, bytes]) -> tuple[dict[str, Any], int]:
            number, part = numbered
            with self._errors("write", key):
                answer = client.upload_part(**target, PartNumber=number, Body=part)
            return {"PartNumber": number, "ETag": answer["ETag"]}, len(part)

        try:
            sent = list(ordered_map(send, enumerate(parts, 1), workers=PARTS_IN_FLIGHT))
            with self._errors("write", key):
                done = client.complete_multipart_upload(
                    **target, MultipartUpload={"Parts": [part for part, _ in sent]}, **condition
                )
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**target)
            raise
        size = sum(length for _, length in sent)
        return ObjectInfo(key, size, done["ETag"], done.get("VersionId"), dt.datetime.now(dt.UTC))

    def _holds(self, key: str, write_id: str) -> bool:
        """Whether the object is the one that this write made, though its answer was lost."""
        try:
            with self._errors("read", key):
                found = self.get_client().head_object(Bucket=self.bucket_name, Key=self._key(key))
        except ConnectorError:
            return False
        return bool(found["Metadata"].get(WRITE_ID) == write_id)

    def _list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[list[ObjectInfo]]:
        base = f"{self.bucket_folder}/" if self.bucket_folder else ""
        request = {"Bucket": self.bucket_name, "Prefix": base + folder_prefix(prefix)}
        if not recursive:
            request["Delimiter"] = "/"
        with self._errors("list", prefix.removesuffix("/")):
            for page in self.get_client().get_paginator("list_objects_v2").paginate(**request):
                yield [
                    ObjectInfo(
                        found["Key"].removeprefix(base),
                        found["Size"],
                        found["ETag"],
                        None,
                        found["LastModified"].astimezone(dt.UTC),
                    )
                    for found in page.get("Contents", [])
                    if not found["Key"].endswith("/")
                ]

    def _delete(self, keys: Iterable[str]) -> int:
        unique = list(dict.fromkeys(map(self._key, keys)))
        for at in range(0, len(unique), DELETE_BATCH):
            objects = [{"Key": key} for key in unique[at : at + DELETE_BATCH]]
            with self._errors("delete"):
                answer = self.get_client().delete_objects(
                    Bucket=self.bucket_name, Delete={"Objects": objects, "Quiet": True}
                )
            for failed in answer.get("Errors", []):
                raise service_error(
                    "delete",
                    f"s3://{self.bucket_name}/{failed['Key']}",
                    [failed["Code"]],
                    failed.get("Message", ""),
                    table=ERRORS,
                    advice=_advice("delete"),
                )
        return len(unique)

    def _copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        to = target or self
        source = {"Bucket": self.bucket_name, "Key": self._key(source_key)}
        copy = {"Bucket": to.bucket_name, "Key": to._key(target_key)}  # noqa: SLF001
        size = self._head(source_key).size
        client = self.get_client()
        with self._errors("copy", source_key):
            if size <= COPY_BYTES:
                client.copy_object(CopySource=source, **copy)
                return
            # A copy in parts starts without what the service otherwise takes over.
            head = client.head_object(**source)
            client.copy(source, **copy, ExtraArgs={name: head[name] for name in ("ContentType", "Metadata")})

    def _presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:
        with self._errors("sign a URL of", key):
            url: str = self._obstore().sign(self._store(), method, self._key(key), expires_in)
        return url

    def _named_bucket(self, name: str) -> Self:
        return self.model_copy(update={"bucket_name": name, "bucket_folder": ""})

    def _obstore(self) -> Any:
        return require("obstore", extra="s3")

    def _store(self) -> Any:
        return self._cached("store", self._connect)

    def _endpoint(self) -> str | None:
        given = self.credentials.endpoint_url
        return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None

    def _region(self) -> str:
        named = self.credentials.region_name or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if named is None and not self.credentials.aws_access_key_id:
            named = self.credentials.get_boto3_session().region_name
        return named or "us-east-1"

    def _connect(self) -> Any:
        """An obstore store. It would mix keys given to it with a token of the environment: so it gets a provider."""
        endpoint, verify = self._endpoint(), self.credentials.verify
        options: dict[str, Any] = {"connect_timeout": "10s", "timeout": "120s"}
        if endpoint and endpoint.startswith("http://"):
            options["allow_http"] = True
        if verify is False:
            options["allow_invalid_certificates"] = True
        elif isinstance(verify, str):
            with open(verify, "rb") as file:  # noqa: PTH123
                options["root_certificate"] = file.read()
        return require("obstore.store", extra="s3").S3Store(
            self.bucket_name,
            region=self._region(),
            virtual_hosted_style_request=endpoint is None and "." not in self.bucket_name,
            credential_provider=self._identity(),
            client_options=options,
            # A few quick tries of one request; `retry` is the policy for everything that takes longer.
            retry_config={
                "max_retries": 2,
                "backoff": {"init_backoff": dt.timedelta(milliseconds=100), "max_backoff": dt.timedelta(seconds=1)},
                "retry_timeout": dt.timedelta(seconds=30),
            },
            **({"endpoint": endpoint} if endpoint else {}),
        )

    def _identity(self) -> _Identity:
        return self._cached("identity", lambda: _Identity(self.credentials))

    def _client(self) -> Any:
        endpoint = self._endpoint()
        settings: dict[str, Any] = {
            "connect_timeout": 10,
            "read_timeout": 120,
            "retries": {"mode": "standard", "total_max_attempts": 3},
            "max_pool_connections": max(10, self.max_concurrency * PARTS_IN_FLIGHT),
        }
        if endpoint:
            # Other servers serve buckets by path, and some do not know AWS's newer checksums.
            settings |= {
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
        config = require("botocore.config", extra="s3").Config(**settings)
        return self.credentials.get_client("s3", endpoint_url=endpoint, region_name=self._region(), config=config)

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            driver = type(error).__module__.partition(".")[0]
            if driver in {"botocore", "boto3", "s3transfer"}:
                raise aws_error(verb, self.uri(key), error, table=ERRORS, advice=_advice(verb)) from error
            if driver == "obstore" or type(error) in {FileNotFoundError, ValueError}:
                refused = self._identity().refused if type(error).__name__ == "UnauthenticatedError" else None
                raise refused or obstore_error(verb, self.uri(key), error) from error
            raise


class _Identity:
    """Hands obstore the keys of the moment, and keeps the reason when there are none: obstore forgets its class."""

    def __init__(self, credentials: AwsCredentials) -> None:
        self._credentials = credentials
        self.refused: ConnectorError | None = None

    def __call__(self) -> dict[str, Any]:
        try:
            keys = self._credentials.frozen()
        except ConnectorError as error:
            self.refused = error
            raise
        # obstore renews 5 minutes before the time given, and botocore's keys hold for 10 minutes at least.
        return {**keys, "expires_at": dt.datetime.now(dt.UTC) + dt.timedelta(minutes=10)}


def obstore_error(verb: str, place: str, error: Exception) -> ConnectorError:
    """What obstore raised, as one of our errors. It carries the service's answer, or the network's, as text."""
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
        words = message[1] if message else "" if codes else said.strip()
    codes += [kind.__name__ for kind in type(error).__mro__]
    return service_error(verb, place, codes, words, table=ERRORS, advice=_advice(verb))


def _advice(verb: str) -> dict[str, str]:
    needed = PERMISSIONS.get(verb)
    return ADVICE | {"AccessDenied": f"The identity needs {needed}." if needed else ""}


def _parts(source: Source) -> Iterator[bytes]:
    """The source in parts of a multipart upload, large enough that 10,000 of them hold the largest object (5 TB)."""
    waiting = bytearray()
    number = 0
    for chunk in chunks_of(source):
        if not waiting and len(chunk) == PART_BYTES and number < MAX_PARTS // 10:  # as a file's chunks are: no copy
            yield chunk
            number += 1
            continue
        waiting += chunk
        while len(waiting) >= (size := PART_BYTES * 2 ** (number // (MAX_PARTS // 10))):
            yield bytes(waiting[:size])
            del waiting[:size]
            number += 1
    if waiting:
        yield bytes(waiting)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest
