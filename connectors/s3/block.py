"""Amazon S3, and every server that speaks its protocol.

Objects are read and small ones written through obstore (Rust, 4 to 5 times boto3's rate on small objects). Listing,
deleting, copying and multipart uploads go through boto3; docs/decisions/0008-s3-obstore-and-boto3.md says why.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import urlencode

from pydantic import Field, HttpUrl, field_validator

from blocks.base.concurrency import ordered_map
from blocks.base.errors import InvalidInputError, ObjectNotFoundError, service_error
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.credentials.aws import AwsCredentials, aws_error
from blocks.stores.checksum import Crc32
from blocks.stores.keys import Folder, folder_prefix, join_key
from blocks.stores.object_store import WRITE_ID, ObjectInfo
from connectors.s3.errors import ERRORS, _advice
from connectors.shared.obstore import Identity, ObstoreBucket, comes_from_obstore, obstore_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from blocks.stores.object_store import WriteOptions

PARTS_IN_FLIGHT = 4
DELETE_BATCH = 1_000
COPY_BYTES = 2**30
"""What one request copies; 5 GiB is the most that the service takes. Larger objects are copied in parts of this."""
KEYS_HOLD = dt.timedelta(minutes=10)
"""What botocore's keys hold for at least; obstore asks for new ones 5 minutes before they end."""
KEPT_BY_COPIES = ("ContentType", "ContentEncoding", "ContentDisposition", "ContentLanguage", "CacheControl", "Metadata")
FULL_CHECKSUMS = {
    "ChecksumCRC32": "crc32",
    "ChecksumCRC32C": "crc32c",
    "ChecksumSHA256": "sha256",
    "ChecksumSHA1": "sha1",
}


class S3Bucket(ObstoreBucket):
    """A bucket of Amazon S3 or of a server that speaks its protocol, or a folder in one.

    Example:
        ```python
        from connectors.s3 import S3Bucket

        bucket = S3Bucket.load("BLOCK_NAME")
        bucket.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _extra: ClassVar[str] = "s3"

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
    bucket_folder: Folder = Field(
        default="", description="The folder in the bucket that this block stands for; by default all of it."
    )

    verify_checksums: bool = Field(
        default=True,
        description="Whether content is compared with checksums on its way up and down; false for a server without.",
    )

    @field_validator("bucket_name")
    @classmethod
    def _only_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", value):
            raise ValueError(f"{value!r:.100} is no bucket name; give the name alone and any folder as bucket_folder")
        return value

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
        return self._client

    @operation
    def list_objects(
        self,
        folder: str = "",
        delimiter: str = "",
        page_size: int | None = None,
        max_items: int | None = None,
        jmespath_query: str | None = None,
    ) -> list[dict[str, Any]]:
        """The objects in a folder, one dict each: Key, Size, LastModified, ETag.

        Args:
            folder: The folder; all of the block's by default.
            delimiter: "/" leaves out the folders in it.
            page_size: Taken for compatibility; pages are as large as the store makes them.
            max_items: Stop after so many.
            jmespath_query: Picks some of them, as boto3's paginators do: "Contents[?Size > `1000`]".
                https://boto3.amazonaws.com/v1/documentation/api/latest/guide/paginators.html
        """
        limit = None if jmespath_query else max_items
        found = ObstoreBucket.list_objects(self, folder, delimiter, page_size, limit)
        if jmespath_query:
            jmespath = require("jmespath", extra="s3")
            try:
                found = jmespath.search(jmespath_query, {"Contents": found})[:max_items]
            except (jmespath.exceptions.JMESPathError, TypeError) as error:
                raise InvalidInputError(f"Could not list {self.uri(folder)}: {error} in jmespath_query.") from error
        return found

    @operation
    def create_bucket(self, location: str | None = None) -> str:
        """The bucket's name, now that it exists; one that exists already and is this account's own stays as it is.

        Args:
            location: The region; by default that of the credentials.

        Raises:
            AlreadyExistsError: The name is taken by another account.
        """
        region = location or self._region()
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with self._errors("create"):
            client = self.get_client()
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=self.bucket_name, **where)
        return self.bucket_name

    def get_bucket(self) -> Any:
        """The bucket as a boto3 resource, for everything that has no method here."""
        resource = self.credentials.get_boto3_session().resource(
            "s3", endpoint_url=self._endpoint(), region_name=self._region()
        )
        return resource.Bucket(self.bucket_name)

    def uri(self, key: str = "") -> str:
        """The object's address, such as `s3://bucket/folder/orders.csv`."""
        return f"s3://{self.bucket_name}/{join_key(self.bucket_folder, key) if key else self.bucket_folder}"

    def _is_express(self) -> bool:
        """Whether it is a directory bucket, whose etags are no checksums."""
        return self.bucket_name.endswith("--x-s3")

    def _key(self, key: str) -> str:
        return join_key(self.bucket_folder, key)

    def _found(self, key: str, meta: Mapping[str, Any]) -> ObjectInfo:
        info = super()._found(key, meta)
        return replace(info, checksum=_md5(info.etag)) if self.verify_checksums and not self._is_express() else info

    def _head(self, key: str, version: str | None = None) -> ObjectInfo:
        which = {"Bucket": self.bucket_name, "Key": self._key(key)} | ({"VersionId": version} if version else {})
        client = self.get_client()
        with self._errors("read", key):
            try:
                found = client.head_object(**which, **({"ChecksumMode": "ENABLED"} if self.verify_checksums else {}))
            except client.exceptions.ClientError as error:
                # The answer to HEAD has no body, and so no word on whether the key, the bucket or the right is missing.
                client.get_object(**which, Range="bytes=0-0")["Body"].close()
                raise error from None
        return ObjectInfo(
            key,
            found["ContentLength"],
            found["ETag"],
            found.get("VersionId"),
            found["LastModified"].astimezone(dt.UTC),
            found.get("ContentType"),
            {name: value for name, value in found["Metadata"].items() if name != WRITE_ID},
            _full_checksum(found) if self.verify_checksums and not self._is_express() else None,
        )

    def _stored_checksum(self, info: ObjectInfo) -> str | None:
        if not self.verify_checksums:
            return None
        now = self._head(info.key, info.version)
        return now.checksum if now.etag == info.etag else None

    def _upload_parts(
        self,
        key: str,
        parts: Iterable[bytes],
        options: WriteOptions,
        metadata: Mapping[str, str],
        write_id: str,  # noqa: ARG002 (S3 names each upload itself)
    ) -> ObjectInfo:
        client = self.get_client()
        description: dict[str, Any] = {"Metadata": metadata}
        if options.content_type:
            description["ContentType"] = options.content_type
        if options.tags:
            description["Tagging"] = urlencode(options.tags)
        if self.verify_checksums:
            description |= {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        whole, size = Crc32(), 0

        def counted() -> Iterator[tuple[int, bytes]]:
            nonlocal size
            for number, part in enumerate(parts, 1):
                whole.update(part)
                size += len(part)
                yield number, part

        with self._errors("write", key), self._multipart(key, description) as target:

            def send(numbered: tuple[int, bytes]) -> dict[str, Any]:
                number, part = numbered
                checksum = {"ChecksumCRC32": _crc32(part)} if self.verify_checksums else {}
                with self._errors("write", key):
                    answer = client.upload_part(**target, PartNumber=number, Body=part, **checksum)
                return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

            sent = list(ordered_map(send, counted(), workers=PARTS_IN_FLIGHT, budget=self._budget))
            completion: dict[str, Any] = {"MultipartUpload": {"Parts": sent}}
            if self.verify_checksums:
                completion |= {"ChecksumCRC32": _base64(whole), "ChecksumType": "FULL_OBJECT"}
            if options.if_absent:
                completion["IfNoneMatch"] = "*"
            if options.if_match is not None:
                completion["IfMatch"] = options.if_match
            done = client.complete_multipart_upload(**target, **completion)
        return ObjectInfo(key, size, done["ETag"], done.get("VersionId"), dt.datetime.now(dt.UTC))

    @contextlib.contextmanager
    def _multipart(self, key: str, description: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """The names of a new multipart upload, which the body completes; after an error its parts are removed."""
        client, target = self.get_client(), {"Bucket": self.bucket_name, "Key": self._key(key)}
        target["UploadId"] = client.create_multipart_upload(**target, **description)["UploadId"]
        try:
            yield target
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**target)
            raise

    def _write_id(self, key: str) -> str | None:
        with self._errors("read", key):
            found = self.get_client().head_object(Bucket=self.bucket_name, Key=self._key(key))
        return cast("str | None", found["Metadata"].get(WRITE_ID))

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
        info = self._head(source_key)
        source = {"Bucket": self.bucket_name, "Key": self._key(source_key)}
        client = self.get_client()
        with self._errors("copy", source_key):
            if info.size <= COPY_BYTES:
                copy = {"Bucket": to.bucket_name, "Key": to._key(target_key)}  # noqa: SLF001
                client.copy_object(CopySource=source, CopySourceIfMatch=info.etag, **copy)
                return
            # A copy in parts starts without what the service otherwise takes over.
            head = client.head_object(**source)
            description = {name: head[name] for name in KEPT_BY_COPIES if name in head}
            if tags := client.get_object_tagging(**source)["TagSet"]:
                description["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
            with to._multipart(target_key, description) as names:  # noqa: SLF001

                def copy_part(numbered: tuple[int, int]) -> dict[str, Any]:
                    number, start = numbered
                    last = min(start + COPY_BYTES, info.size) - 1
                    with self._errors("copy", source_key):
                        answer = client.upload_part_copy(
                            **names,
                            PartNumber=number,
                            CopySource=source,
                            CopySourceIfMatch=info.etag,
                            CopySourceRange=f"bytes={start}-{last}",
                        )
                    return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

                starts = enumerate(range(0, info.size, COPY_BYTES), 1)
                parts = list(ordered_map(copy_part, starts, workers=self.max_concurrency))
                client.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})

    def _versions(self, key: str) -> list[ObjectInfo]:
        whole = self._key(key)
        with self._errors("list", key):
            pages = (
                self.get_client().get_paginator("list_object_versions").paginate(Bucket=self.bucket_name, Prefix=whole)
            )
            found = [each for page in pages for each in page.get("Versions", []) if each["Key"] == whole]
        infos = [
            ObjectInfo(key, each["Size"], each["ETag"], each["VersionId"], each["LastModified"].astimezone(dt.UTC))
            for each in found
        ]
        if not infos:
            raise ObjectNotFoundError(f"Could not list {self.uri(key)}: no version of it is there.")
        return infos

    def _sweep(self, older_than: dt.timedelta) -> int:
        base = f"{self.bucket_folder}/" if self.bucket_folder else ""
        client, removed = self.get_client(), 0
        with self._errors("sweep"):
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket_name, Prefix=base)
            uploads = [each for page in pages for each in page.get("Uploads", [])]
            for upload in uploads:
                if upload["Initiated"].astimezone(dt.UTC) <= dt.datetime.now(dt.UTC) - older_than:
                    client.abort_multipart_upload(
                        Bucket=self.bucket_name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    removed += 1
        return removed

    def _presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:
        with self._errors("sign a URL of", key):
            url: str = self._obstore().sign(self._store, method, self._key(key), expires_in)
        return url

    def _named_bucket(self, name: str) -> Self:
        return self.model_copy(update={"bucket_name": name, "bucket_folder": ""})

    def _endpoint(self) -> str | None:
        given = self.credentials.endpoint_url
        return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None

    def _region(self) -> str:
        named = self.credentials.region_name or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if named is None and not self.credentials.aws_access_key_id:
            named = self.credentials.get_boto3_session().region_name
        return named or "us-east-1"

    def _connect(self) -> Any:
        # obstore would mix keys given to it with a token of the environment: so it gets a provider.
        endpoint = self._endpoint()
        return require("obstore.store", extra="s3").S3Store(
            self.bucket_name,
            region=self._region(),
            virtual_hosted_style_request=endpoint is None and "." not in self.bucket_name,
            credential_provider=self._identity,
            **({"checksum_algorithm": "sha256"} if self.verify_checksums else {}),
            **self._obstore_options(endpoint, self.credentials.verify),
            **({"endpoint": endpoint} if endpoint else {}),
        )

    @live
    def _identity(self) -> Identity:
        def keys() -> dict[str, Any]:
            return {**self.credentials.frozen(), "expires_at": dt.datetime.now(dt.UTC) + KEYS_HOLD}

        return Identity(keys)

    @live
    def _client(self) -> Any:
        endpoint = self._endpoint()
        settings: dict[str, Any] = {
            "connect_timeout": 10,
            "read_timeout": self.request_timeout_s,
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
            if comes_from_obstore(error):
                refused = self._identity.refused if type(error).__name__ == "UnauthenticatedError" else None
                known = obstore_error(verb, self.uri(key), error, table=ERRORS, advice=_advice(verb))
                raise refused or known from error
            raise


def _md5(etag: str | None) -> str | None:
    """The MD5 of the content, which the etag is for what was written in one request without a key of KMS.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html

    >>> _md5('"5d41402abc4b2a76b9719d911017c592"')
    'md5:5d41402abc4b2a76b9719d911017c592'
    >>> _md5('"70a0cc3a812be7e664fa611e191d91b9-2"')
    """
    found = re.fullmatch(r'"?([0-9a-f]{32})"?', etag or "")
    return f"md5:{found[1]}" if found else None


def _full_checksum(head: Mapping[str, Any]) -> str | None:
    """The checksum of the whole content that an answer to HEAD tells."""
    own_key = head.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in head
    if not own_key and (md5 := _md5(head["ETag"])):
        return md5
    for name, algorithm in FULL_CHECKSUMS.items():
        if name in head and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            return f"{algorithm}:{base64.b64decode(head[name]).hex()}"
    return None


def _crc32(content: bytes) -> str:
    crc = Crc32()
    crc.update(content)
    return _base64(crc)


def _base64(crc: Crc32) -> str:
    """A checksum in the form of S3's headers.

    >>> crc = Crc32(); crc.update(b"hello"); _base64(crc)
    'NhCmhg=='
    """
    return base64.b64encode(bytes.fromhex(crc.hexdigest())).decode()
