"""The client of an S3 bucket.

Objects are read and small ones written through obstore (Rust, 4 to 5 times boto3's rate on small objects). Listing,
deleting, copying and multipart uploads go through boto3; docs/decisions/0008-s3-obstore-and-boto3.md says why.

A server that is not AWS's own may redirect a request to any other. boto3 is told to follow none; obstore follows all,
without the signature and with the session token: so with such a token boto3 does it all there.
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

from typing_extensions import override

from blocks.base.addresses import check_encrypted
from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    AccessDeniedError,
    InvalidInputError,
    NotFoundError,
    ObjectNotFoundError,
    UnsupportedError,
    service_error,
)
from blocks.base.live import live
from blocks.base.optional import require
from blocks.credentials.aws import as_client_error, aws_error
from blocks.stores.checksum import Crc32
from blocks.stores.client import WRITE_ID
from blocks.stores.info import ObjectInfo
from connectors.s3.errors import ERRORS, advice_for
from connectors.shared.aws import give_up_on_silence
from connectors.shared.obstore import Identity, ObstoreClient, comes_from_obstore, obstore_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from blocks.credentials.aws import AwsCredentials
    from blocks.stores.client import WriteOptions
    from blocks.stores.info import Page
    from connectors.s3.settings import S3Settings

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
    "ChecksumCRC64NVME": "crc64nvme",
}


class S3StoreClient(ObstoreClient):
    """A bucket of Amazon S3 or of a server that speaks its protocol."""

    extra: ClassVar[str] = "s3"
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html: names become lower case
    metadata_names: ClassVar[str] = "[a-z0-9_.-]+"
    metadata_names_are: ClassVar[str] = "lower-case letters, digits, '-', '_' and '.'"

    def __init__(
        self,
        bucket: str,
        credentials: AwsCredentials,
        *,
        verify_checksums: bool,
        max_concurrency: int,
        read_timeout_s: float,
        settings: S3Settings,
    ) -> None:
        super().__init__(read_timeout_s=read_timeout_s)
        self.bucket = bucket
        self._credentials = credentials
        self._max_concurrency = max_concurrency
        self._verify_checksums = verify_checksums
        self.settings = settings
        # those of directory buckets are not, nor those of objects under a key of one's own
        self._etags_are_md5 = verify_checksums and settings.etags_are_md5 and not bucket.endswith("--x-s3")

    @property
    def endpoint(self) -> str | None:
        """The server to ask: that of the credentials, else of the environment; None is AWS itself."""
        given = self._credentials.endpoint_url
        return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None

    @property
    @override
    def server(self) -> str:
        return self.endpoint or ""

    @property
    def region(self) -> str:
        """The region of the credentials, else of the environment or the profile."""
        named = self._credentials.region_name or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if named is None and not self._credentials.aws_access_key_id:
            named = self._credentials.get_boto3_session().region_name
        return named or "us-east-1"

    @live
    def boto3(self) -> Any:
        """boto3's client of S3."""
        endpoint = self.endpoint
        settings: dict[str, Any] = {
            "connect_timeout": 10,
            "read_timeout": self._read_timeout_s,
            "retries": {"mode": "standard", "total_max_attempts": 3},
            "max_pool_connections": max(10, self._max_concurrency * PARTS_IN_FLIGHT),
        }
        if endpoint:
            # Other servers serve buckets by path, and some do not know AWS's newer checksums.
            settings |= {
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
        config = require("botocore.config", extra="s3").Config(**settings)
        client = self._credentials.get_client("s3", endpoint_url=endpoint, region_name=self.region, config=config)
        self.settings.register(client)
        if endpoint:
            client.meta.events.register("before-call.s3", _stay)
        return give_up_on_silence(client, self._read_timeout_s)

    @live
    def _by_boto3(self) -> bool:
        """Whether nothing goes through obstore."""
        anonymous = self._credentials.anonymous
        return self.endpoint is not None and not anonymous and self._credentials.frozen()["token"] is not None

    @override
    def uri(self, key: str = "") -> str:
        """Return the object's address, such as `s3://bucket/folder/orders.csv`."""
        return f"s3://{self.bucket}/{key}"

    def create_bucket(self, location: str | None = None) -> None:
        """Create the bucket; one that already exists and is this account's own stays as it is."""
        region = location or self.region
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with self._errors("create"), contextlib.suppress(self.boto3.exceptions.BucketAlreadyOwnedByYou):
            self.boto3.create_bucket(Bucket=self.bucket, **where)

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        return self._head(key, version)[0]

    def _head(self, key: str, version: str | None) -> tuple[ObjectInfo, Mapping[str, Any]]:
        """Return what the store knows about an object, and the whole answer."""
        which = {"Bucket": self.bucket, "Key": key} | ({"VersionId": version} if version else {})
        client = self.boto3
        with self._errors("read", key):
            try:
                found = client.head_object(**which, **({"ChecksumMode": "ENABLED"} if self._verify_checksums else {}))
            except client.exceptions.ClientError as error:
                # The answer to HEAD has no body, and so no word on whether the key, the bucket or the right is missing.
                client.get_object(**which, Range="bytes=0-0")["Body"].close()
                raise error from None
        info = ObjectInfo(
            key,
            found["ContentLength"],
            found["ETag"],
            found.get("VersionId"),
            found["LastModified"].astimezone(dt.UTC),
            found.get("ContentType"),
            {name: value for name, value in found["Metadata"].items() if name != WRITE_ID},
            _full_checksum(found, etag_is_md5=self._etags_are_md5) if self._verify_checksums else None,
        )
        return info, found

    @override
    def stored_checksum(self, info: ObjectInfo) -> str | None:
        if not self._verify_checksums:
            return None
        now, head = self._head(info.key, info.version)
        if now.etag != info.etag:
            return None
        if now.checksum is not None:
            return now.checksum
        try:
            return self._checksum_of_parts(now, head)
        except (AccessDeniedError, UnsupportedError, NotFoundError, InvalidInputError):
            return None  # these are asked for by rights of their own, and not every server knows them

    def _checksum_of_parts(self, info: ObjectInfo, head: Mapping[str, Any]) -> str | None:
        """Return the checksum of the checksums of the object's parts, where the store tells how long the parts are.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
        """
        which = {"Bucket": self.bucket, "Key": info.key} | ({"VersionId": info.version} if info.version else {})
        told = re.fullmatch(r'"?([0-9a-f]{32})-(\d+)"?', info.etag or "")
        parts = int(told[2]) if told else 0
        for name, algorithm in FULL_CHECKSUMS.items():
            if composite := re.fullmatch(r"([\w+/=]+)-(\d+)", head.get(name, "")):
                with self._errors("read", info.key):
                    sizes = self._part_sizes(which)
                if len(sizes) != int(composite[2]) or sum(sizes) != info.size:
                    return None
                lengths = ",".join(map(str, sizes))
                return f"{algorithm}/{lengths}:{base64.b64decode(composite[1]).hex()}"
        if told is None or _has_own_key(head) or not self._etags_are_md5 or self.endpoint is not None:
            return None
        # AWS's etag is an MD5 of the parts' MD5s; other servers have ways of their own, for a part that was copied say.
        # The first and the last part tell how long the others are.
        with self._errors("read", info.key):
            first, last = (self.boto3.head_object(**which, PartNumber=number)["ContentLength"] for number in (1, parts))
        if first * (parts - 1) + last != info.size or last > first:
            return None
        return f"md5/{first}:{told[1]}"

    def _part_sizes(self, which: Mapping[str, str]) -> list[int]:
        sizes: list[int] = []
        marker: dict[str, Any] = {}
        while True:
            asked = {"ObjectAttributes": ["ObjectParts"], **which, **marker}
            found = self.boto3.get_object_attributes(**asked).get("ObjectParts", {})
            sizes += [part["Size"] for part in found.get("Parts", [])]
            if not found.get("IsTruncated"):
                return sizes
            marker = {"PartNumberMarker": found["NextPartNumberMarker"]}

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        request = {"Bucket": self.bucket, "Prefix": prefix}
        if not recursive:
            request["Delimiter"] = "/"
        with self._errors("list", prefix.removesuffix("/")):
            for page in self.boto3.get_paginator("list_objects_v2").paginate(**request):
                yield [
                    ObjectInfo(
                        found["Key"],
                        found["Size"],
                        found["ETag"],
                        None,
                        found["LastModified"].astimezone(dt.UTC),
                    )
                    for found in page.get("Contents", [])
                    if not found["Key"].endswith("/")
                ]

    @override
    def delete(self, keys: Iterable[str]) -> int:
        unique = list(dict.fromkeys(keys))
        for at in range(0, len(unique), DELETE_BATCH):
            objects = [{"Key": key} for key in unique[at : at + DELETE_BATCH]]
            with self._errors("delete"):
                answer = self.boto3.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            for failed in answer.get("Errors", []):
                raise service_error(
                    "delete",
                    f"s3://{self.bucket}/{failed['Key']}",
                    [failed["Code"]],
                    failed.get("Message", ""),
                    table=ERRORS,
                    advice=advice_for("delete"),
                )
        return len(unique)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        to = target or self
        info = self.head(source_key)
        source = {"Bucket": self.bucket, "Key": source_key}
        client = self.boto3
        with self._errors("copy", source_key):
            if info.size <= COPY_BYTES:
                copy = {"Bucket": to.bucket, "Key": target_key, **self._of_copies("CopyObject", to)}
                client.copy_object(CopySource=source, CopySourceIfMatch=info.etag, **copy)
                return
            # A copy in parts starts without what the service otherwise takes over.
            head = client.head_object(**source)
            description = {name: head[name] for name in KEPT_BY_COPIES if name in head}
            if tags := client.get_object_tagging(**source)["TagSet"]:
                description["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
            both = self._of_copies("UploadPartCopy", to)
            with to.multipart(target_key, description) as names:

                def copy_part(numbered: tuple[int, int]) -> dict[str, Any]:
                    number, start = numbered
                    last = min(start + COPY_BYTES, info.size) - 1
                    with self._errors("copy", source_key):
                        answer = client.upload_part_copy(
                            **names,
                            **both,
                            PartNumber=number,
                            CopySource=source,
                            CopySourceIfMatch=info.etag,
                            CopySourceRange=f"bytes={start}-{last}",
                        )
                    return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

                starts = enumerate(range(0, info.size, COPY_BYTES), 1)
                parts = list(ordered_map(copy_part, starts, workers=self._max_concurrency))
                client.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})

    def _of_copies(self, operation: str, to: Self) -> dict[str, Any]:
        """Return what a copy into another bucket, or this one, says of the settings of both."""
        known = self.boto3.meta.service_model.operation_model(operation).input_shape.members
        payer = {"RequestPayer": "requester"} if self.settings.requester_pays else {}
        return {**payer, **to.settings.parameters(known), **self.settings.of_source()}

    @override
    def versions(self, key: str) -> Page:
        with self._errors("list", key):
            pages = self.boto3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=key)
            found = [each for page in pages for each in page.get("Versions", []) if each["Key"] == key]
        infos = [
            ObjectInfo(key, each["Size"], each["ETag"], each["VersionId"], each["LastModified"].astimezone(dt.UTC))
            for each in found
        ]
        if not infos:
            raise ObjectNotFoundError(f"Could not list {self.uri(key)}: no version of it is there.")
        return infos

    @override
    def sweep(self, prefix: str, older_than: dt.timedelta) -> int:
        client, removed = self.boto3, 0
        with self._errors("sweep", prefix.removesuffix("/")):
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            uploads = [each for page in pages for each in page.get("Uploads", [])]
            for upload in uploads:
                if upload["Initiated"].astimezone(dt.UTC) <= dt.datetime.now(dt.UTC) - older_than:
                    client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    removed += 1
        return removed

    @override
    def presign(self, key: str, method: str, expires_in: dt.timedelta) -> str:
        with self._errors("sign a URL of", key):
            url: str = self._obstore.sign(self._store, method, key, expires_in)
        return url

    @contextlib.contextmanager
    def multipart(self, key: str, description: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        """Begin a multipart upload, whose names the body gets and completes; after an error its parts are removed."""
        client, target = self.boto3, {"Bucket": self.bucket, "Key": key}
        target["UploadId"] = client.create_multipart_upload(**target, **description)["UploadId"]
        try:
            yield target
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**target)
            raise

    @override
    def _get(
        self, key: str, start: int, length: int, if_match: str | None, version: str | None
    ) -> tuple[bytes, ObjectInfo]:
        if not self._by_boto3:
            return super()._get(key, start, length, if_match, version)
        which = {"Bucket": self.bucket, "Key": key, "Range": f"bytes={start}-{start + length - 1}"}
        given = {"IfMatch": if_match, "VersionId": version}
        found = self.boto3.get_object(**which, **{name: value for name, value in given.items() if value is not None})
        with contextlib.closing(found["Body"]) as body:
            content: bytes = body.read()
        meta = {
            "size": int(found["ContentRange"].rpartition("/")[2]) if "ContentRange" in found else len(content),
            "e_tag": found["ETag"],
            "version": found.get("VersionId"),
            "last_modified": found["LastModified"].astimezone(dt.UTC),
        }
        return content, self._found(key, meta)

    @override
    def _put_whole(self, key: str, content: bytes, options: WriteOptions, metadata: Mapping[str, str]) -> ObjectInfo:
        if not self._by_boto3:
            return super()._put_whole(key, content, options, metadata)
        given = {
            "ContentType": options.content_type,
            "Tagging": urlencode(options.tags) if options.tags else None,
            "IfNoneMatch": "*" if options.if_absent else None,
            "IfMatch": options.if_match,
            "ChecksumAlgorithm": "SHA256" if self._verify_checksums else None,
        }
        with self._errors("write", key):
            done = self.boto3.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=content,
                Metadata=dict(metadata),
                **{name: value for name, value in given.items() if value is not None},
            )
        return ObjectInfo(key, len(content), done["ETag"], done.get("VersionId"), dt.datetime.now(dt.UTC))

    @override
    def _found(self, key: str, meta: Mapping[str, Any]) -> ObjectInfo:
        info = super()._found(key, meta)
        return replace(info, checksum=_md5(info.etag)) if self._etags_are_md5 else info

    @override
    def _put_parts(
        self,
        key: str,
        parts: Iterable[bytes],
        options: WriteOptions,
        metadata: Mapping[str, str],
        write_id: str,
    ) -> ObjectInfo:
        client = self.boto3
        description: dict[str, Any] = {"Metadata": metadata}
        if options.content_type:
            description["ContentType"] = options.content_type
        if options.tags:
            description["Tagging"] = urlencode(options.tags)
        if self._verify_checksums:
            description |= {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        whole, size = Crc32(), 0

        def counted() -> Iterator[tuple[int, bytes]]:
            nonlocal size
            for number, part in enumerate(parts, 1):
                whole.update(part)
                size += len(part)
                yield number, part

        with self._errors("write", key), self.multipart(key, description) as target:

            def send(numbered: tuple[int, bytes]) -> dict[str, Any]:
                number, part = numbered
                checksum = {"ChecksumCRC32": _crc32(part)} if self._verify_checksums else {}
                with self._errors("write", key):
                    answer = client.upload_part(**target, PartNumber=number, Body=part, **checksum)
                return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

            sent = list(ordered_map(send, counted(), workers=PARTS_IN_FLIGHT, budget=self.budget))
            completion: dict[str, Any] = {"MultipartUpload": {"Parts": sent}}
            if self._verify_checksums:
                completion |= {"ChecksumCRC32": _base64(whole), "ChecksumType": "FULL_OBJECT"}
            if options.if_absent:
                completion["IfNoneMatch"] = "*"
            if options.if_match is not None:
                completion["IfMatch"] = options.if_match
            done = client.complete_multipart_upload(**target, **completion)
        return ObjectInfo(key, size, done["ETag"], done.get("VersionId"), dt.datetime.now(dt.UTC))

    @override
    def _write_id(self, key: str) -> str | None:
        with self._errors("read", key):
            found = self.boto3.head_object(Bucket=self.bucket, Key=key)
        return cast("str | None", found["Metadata"].get(WRITE_ID))

    @override
    def _connect(self) -> Any:
        # obstore would mix keys given to it with a token of the environment: so it gets a provider.
        endpoint = self.endpoint
        check_encrypted(endpoint, allow_http=self._credentials.allow_http)
        return require("obstore.store", extra="s3").S3Store(
            self.bucket,
            region=self.region,
            virtual_hosted_style_request=endpoint is None and "." not in self.bucket,
            **self._signature,
            **({"checksum_algorithm": "sha256"} if self._verify_checksums else {}),
            **self._obstore_options(endpoint, self._credentials.verify),
            **self.settings.of_obstore(),
            **({"endpoint": endpoint} if endpoint else {}),
        )

    @property
    def _signature(self) -> dict[str, Any]:
        return {"skip_signature": True} if self._credentials.anonymous else {"credential_provider": self._identity}

    @property
    @override
    def _attributes(self) -> dict[str, str]:
        return {"Storage-Class": self.settings.storage_class} if self.settings.storage_class else {}

    @live
    def _identity(self) -> Identity:
        credentials = self._credentials  # not the client: a cycle through Rust is never collected

        def keys() -> dict[str, Any]:
            return {**credentials.frozen(), "expires_at": dt.datetime.now(dt.UTC) + KEYS_HOLD}

        return Identity(keys)

    @override
    @contextlib.contextmanager
    def _errors(self, verb: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except Exception as error:
            driver = type(error).__module__.partition(".")[0]
            if driver in {"botocore", "boto3", "s3transfer"}:
                raise aws_error(verb, self.uri(key), error, table=ERRORS, advice=advice_for(verb)) from error
            if comes_from_obstore(error):
                refused = self._identity.refusal() if type(error).__name__ == "UnauthenticatedError" else None
                known = obstore_error(verb, self.uri(key), error, table=ERRORS, advice=advice_for(verb))
                raise refused or as_client_error(known, *_answer(error), verb) from error
            raise


def _answer(error: Exception) -> tuple[str, int | None]:
    """Return the code of the service's answer, and its HTTP status, as far as obstore says them."""
    text = str(error).partition("Debug source:")[0]
    code, status = re.search(r"<Code>(\w+)</Code>", text), re.search(r"status code: (\d{3})", text)
    missing = "NoSuchKey" if isinstance(error, FileNotFoundError) else ""
    return code[1] if code else missing or (status[1] if status else ""), int(status[1]) if status else None


def _stay(context: dict[str, Any], **_: Any) -> None:
    """Tell botocore that a request was redirected already, after which it follows no other redirect.

    It would ask for the bucket's region, be redirected there too, and so on to the limit of recursion.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _md5(etag: str | None) -> str | None:
    """Return the MD5 of the content, which the etag is for what was written in one request without a key of KMS.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html

    >>> _md5('"5d41402abc4b2a76b9719d911017c592"')
    'md5:5d41402abc4b2a76b9719d911017c592'
    >>> _md5('"70a0cc3a812be7e664fa611e191d91b9-2"')
    """
    found = re.fullmatch(r'"?([0-9a-f]{32})"?', etag or "")
    return f"md5:{found[1]}" if found else None


def _full_checksum(head: Mapping[str, Any], *, etag_is_md5: bool) -> str | None:
    """Return the checksum of the whole content that an answer to HEAD tells."""
    if etag_is_md5 and not _has_own_key(head) and (md5 := _md5(head["ETag"])):
        return md5
    for name, algorithm in FULL_CHECKSUMS.items():
        if name in head and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and "-" not in head[name]:
            return f"{algorithm}:{base64.b64decode(head[name]).hex()}"
    return None


def _has_own_key(head: Mapping[str, Any]) -> bool:
    """Tell whether the object is under a key of KMS or of the caller's own, so that its etag says nothing."""
    return head.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in head


def _crc32(content: bytes) -> str:
    crc = Crc32()
    crc.update(content)
    return _base64(crc)


def _base64(crc: Crc32) -> str:
    """Return a checksum in the form of S3's headers.

    >>> crc = Crc32(); crc.update(b"hello"); _base64(crc)
    'NhCmhg=='
    """
    return base64.b64encode(bytes.fromhex(crc.hexdigest())).decode()
