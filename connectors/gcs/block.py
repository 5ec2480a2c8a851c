"""GcsBucket: a bucket of Google Cloud Storage, or a folder in one."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 (who reads the annotations of a public dataclass needs it)
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, HttpUrl, field_validator

from blocks.base.live import live
from blocks.base.operation import AsyncName, operation
from blocks.credentials.gcp import GcpCredentials
from blocks.stores.keys import Folder
from blocks.stores.object_store import ObjectStore
from connectors.gcs.client import GcsStoreClient

if TYPE_CHECKING:
    from typing import Self

    from blocks.base.names import Key


@dataclass(frozen=True)
class BlobInfo:
    """What `list_blobs` tells of an object, by the names that Google's `Blob` has for it.

    Attributes:
        name: Its key, relative to the block's folder.
        size: Its length in bytes.
        updated: When it was written.
        generation: The number of its version.
    """

    name: str
    size: int
    updated: dt.datetime
    generation: int


class GcsBucket(ObjectStore):
    """A bucket of Google Cloud Storage, or a folder in one.

    Example:
        ```python
        from connectors.gcs import GcsBucket

        bucket = GcsBucket.load("BLOCK_NAME")
        bucket.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL GCS Bucket"
    _block_type_slug = "etl-gcs-bucket"
    _documentation_url = HttpUrl("https://cloud.google.com/storage/docs/introduction")
    _renamed: ClassVar[dict[str, str]] = {"request_timeout_s": "read_timeout_s"}

    bucket: str = Field(description="Name of the bucket, without 'gs://' and without a folder.")
    gcp_credentials: GcpCredentials = Field(
        default_factory=GcpCredentials,
        description="Google Cloud credentials. Defaults to the ambient identity (application default credentials).",
    )
    bucket_folder: Folder = Field(
        default="", description="Folder in the bucket that the block stands for. Defaults to the whole bucket."
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer, or a byte of it. Defaults to 60."
    )

    @field_validator("bucket")
    @classmethod
    def _only_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,221}", value):
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
    def _client(self) -> GcsStoreClient:
        return GcsStoreClient(
            self.bucket,
            self.gcp_credentials,
            max_concurrency=self.max_concurrency,
            read_timeout_s=self.read_timeout_s,
        )

    def _named_bucket(self, name: str) -> Self:
        return self.model_copy(update={"bucket": name, "bucket_folder": ""})

    def get_client(self) -> Any:
        """Get a `google.cloud.storage.Client` with this block's identity, for everything that has no method here.

        The block keeps it, and closes it in its own `close()`: do not close it yourself.
        """
        return self._client.storage

    @operation(prefects=True)
    def list_blobs(self, folder: Key = "") -> list[BlobInfo]:
        """List the objects in a folder (by default the block's own), without folder markers.

        prefect-gcp returns Google's `Blob` here, whose name has the block's folder in it. These have the same `name`,
        `size`, `updated` and `generation`, and their names can be passed back to this block as they are.
        """
        return [
            BlobInfo(info.key, info.size, info.last_modified, int(info.version or 0))
            for page in self.objects.list(folder)
            for info in page
        ]

    @operation(prefects=True)
    def create_bucket(self, location: str | None = None) -> str:
        """Create the bucket, and return its name; one that is this project's own already stays as it is.

        Args:
            location: Its location, such as "EU" or "europe-west3". Defaults to "US".

        Raises:
            AlreadyExistsError: The name is taken by somebody else.
            InvalidInputError: Neither the credentials nor the environment name a project.
        """
        self._client.create_bucket(location)
        return self.bucket

    @operation(prefects=True)
    def get_bucket(self) -> Any:
        """Get the `google.cloud.storage.Bucket` with its properties, for everything that has no method here.

        It works by the client of `get_client()`, and ends with it.

        Raises:
            NotFoundError: There is no such bucket.
        """
        return self._client.get_bucket()

    alist_blobs: ClassVar = AsyncName(list_blobs)
    acreate_bucket: ClassVar = AsyncName(create_bucket)
    aget_bucket: ClassVar = AsyncName(get_bucket)
