"""S3Bucket: a bucket of Amazon S3, and of every server that speaks its protocol."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.base.addresses import check_encrypted
from blocks.base.errors import InvalidInputError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.credentials.aws import AwsCredentials
from blocks.stores.keys import Folder
from blocks.stores.object_store import ObjectStore
from connectors.s3.client import S3StoreClient
from connectors.s3.settings import S3Settings

if TYPE_CHECKING:
    from typing import Self

    from blocks.base.names import Key

KEY_BYTES = 32


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
    _renamed: ClassVar[dict[str, str]] = {"request_timeout_s": "read_timeout_s"}

    bucket_name: str = Field(description="Name of the bucket, without 's3://' and without a folder.")
    credentials: AwsCredentials = Field(
        default_factory=AwsCredentials,
        description="AWS credentials. Defaults to the ambient identity (environment, profile or instance role).",
    )
    bucket_folder: Folder = Field(
        default="", description="Folder in the bucket that the block stands for. Defaults to the whole bucket."
    )

    verify_checksums: bool = Field(
        default=True,
        description="Whether to compare content with checksums on its way up and down. Defaults to true; false for "
        "a server that knows none.",
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer, or a byte of it. Defaults to 60."
    )

    requester_pays: bool = Field(
        default=False,
        description="Whether this account pays for requests and transfers, which buckets with requester pays ask for. "
        "Defaults to false.",
    )
    storage_class: str | None = Field(
        default=None,
        description="The storage class of objects that are written, such as STANDARD_IA or INTELLIGENT_TIERING. "
        "Defaults to the bucket's own.",
    )
    kms_key_id: str | None = Field(
        default=None,
        description="The ID or ARN of the KMS key that objects are encrypted with when they are written. Defaults to "
        "the bucket's own encryption.",
    )
    sse_customer_key: SecretStr | None = Field(
        default=None,
        description="The key (32 bytes in base64) that S3 encrypts and decrypts objects with and does not keep "
        "(SSE-C). Without it what was written with it cannot be read. Defaults to none.",
    )

    @field_validator("sse_customer_key")
    @classmethod
    def _a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                key = base64.b64decode(value.get_secret_value(), validate=True)
            except ValueError:
                key = b""
            if len(key) != KEY_BYTES:
                raise ValueError(f"has to be {KEY_BYTES} bytes in base64")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.kms_key_id and self.sse_customer_key:
            raise ValueError("enter either kms_key_id or sse_customer_key, not both")
        return self

    @field_validator("bucket_name")
    @classmethod
    def _only_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", value):
            raise ValueError(
                f"{value!r:.100} is not a bucket name; enter the name alone, and any folder as bucket_folder"
            )
        return value

    @property
    def basepath(self) -> str:
        """The folder, by the name that Prefect's deployments look for."""
        return self.bucket_folder

    @property
    def _folder(self) -> str:
        return self.bucket_folder

    @live
    def _client(self) -> S3StoreClient:
        return S3StoreClient(
            self.bucket_name,
            self.credentials,
            verify_checksums=self.verify_checksums,
            max_concurrency=self.max_concurrency,
            read_timeout_s=self.read_timeout_s,
            settings=S3Settings(self.requester_pays, self.storage_class, self.kms_key_id, self.sse_customer_key),
        )

    def _named_bucket(self, name: str) -> Self:
        return self.model_copy(update={"bucket_name": name, "bucket_folder": ""})

    def get_client(self) -> Any:
        """Get boto3's client of S3 with this block's identity, for everything that has no method here.

        The block keeps it, and closes it in its own `close()`: do not close it yourself.
        """
        return self._client.boto3

    @operation(prefects=True)
    def list_objects(
        self,
        folder: Key = "",
        delimiter: str = "",
        page_size: int | None = None,
        max_items: int | None = None,
        jmespath_query: str | None = None,
    ) -> list[dict[str, Any]]:
        """List the objects in a folder, sorted by key.

        Args:
            folder: The folder, a glob such as "logs/2026-04-*", or one object. Defaults to the block's own.
            delimiter: "/" skips the folders in it.
            page_size: Accepted for compatibility; pages are as large as the store makes them.
            max_items: Stop after this many.
            jmespath_query: Picks some of them, as boto3's paginators do: "Contents[?Size > `1000`]".
                https://boto3.amazonaws.com/v1/documentation/api/latest/guide/paginators.html

        Returns:
            One dict each: Key, Size, LastModified, ETag.

        Raises:
            InvalidInputError: There is no such folder, but names begin so. The message has the glob to write.
        """
        limit = None if jmespath_query else max_items
        found = ObjectStore.list_objects(self, folder, delimiter, page_size, limit)
        if jmespath_query:
            jmespath = require("jmespath", extra="s3")
            try:
                found = jmespath.search(jmespath_query, {"Contents": found})[:max_items]
            except (jmespath.exceptions.JMESPathError, TypeError) as error:
                raise InvalidInputError(f"Could not list {self.uri(folder)}: {error} in jmespath_query.") from error
        return found

    @operation
    def create_bucket(self, location: str | None = None) -> str:
        """Create the bucket, and return its name; one that is this account's own already stays as it is.

        Args:
            location: The region. Defaults to that of the credentials.

        Raises:
            AlreadyExistsError: The name is taken by another account.
        """
        self._client.create_bucket(location)
        return self.bucket_name

    def get_bucket(self) -> Any:
        """Get the bucket as a boto3 resource, for everything that has no method here. It is the caller's own."""
        client = self._client
        check_encrypted(client.endpoint, allow_http=self.credentials.allow_http)
        resource = self.credentials.get_boto3_session().resource(
            "s3", endpoint_url=client.endpoint, region_name=client.region
        )
        return resource.Bucket(self.bucket_name)
