"""AzureBlobContainer: a container of Azure Blob Storage, or a folder in one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, HttpUrl, field_validator

from blocks.base.live import live
from blocks.base.operation import operation
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.stores.keys import Folder
from blocks.stores.object_store import ObjectStore
from connectors.azure.client import AzureStoreClient

if TYPE_CHECKING:
    from typing import Self


class AzureBlobContainer(ObjectStore):
    """A container of Azure Blob Storage, or a folder in one.

    Whoever writes by a `presigned_url` has to send the header `x-ms-blob-type: BlockBlob`. A URL that is signed without
    the account's key is valid for 7 days at most.

    Example:
        ```python
        from connectors.azure import AzureBlobContainer

        container = AzureBlobContainer.load("BLOCK_NAME")
        container.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL Azure Blob Container"
    _block_type_slug = "etl-azure-blob-container"
    _documentation_url = HttpUrl("https://learn.microsoft.com/azure/storage/blobs/storage-blobs-introduction")
    _renamed: ClassVar[dict[str, str]] = {"request_timeout_s": "read_timeout_s"}

    container_name: str = Field(description="Name of the container, without the account and without a folder.")
    credentials: AzureBlobStorageCredentials = Field(
        default_factory=AzureBlobStorageCredentials,
        description="The account and its credentials. Defaults to the ambient identity and the environment's account.",
    )
    base_folder: Folder = Field(
        default="", description="Folder in the container that the block stands for. Defaults to the whole container."
    )

    verify_checksums: bool = Field(
        default=True,
        description="Whether to compare content with its MD5 on its way up and down. Defaults to true; false is "
        "faster on small blobs.",
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer, or a byte of it. Defaults to 60."
    )

    @field_validator("container_name")
    @classmethod
    def _only_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"\$root|\$web|(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
            raise ValueError(
                f"{value!r:.100} is not a container name: 3 to 63 lower-case letters, digits and single hyphens; "
                "enter any folder as base_folder"
            )
        return value

    @property
    def basepath(self) -> str:
        """The folder, by the name that Prefect's deployments look for."""
        return self.base_folder

    @property
    def _folder(self) -> str:
        return self.base_folder

    @live
    def _client(self) -> AzureStoreClient:
        return AzureStoreClient(
            self.container_name,
            self.credentials,
            verify_checksums=self.verify_checksums,
            max_concurrency=self.max_concurrency,
            read_timeout_s=self.read_timeout_s,
        )

    def _named_bucket(self, name: str) -> Self:
        return self.model_copy(update={"container_name": name, "base_folder": ""})

    def get_client(self) -> Any:
        """Get a BlobServiceClient of the account with this block's identity, for everything that has no method here.

        The block keeps it, and closes it in its own `close()`: do not close it yourself.
        """
        return self._client.service

    @operation
    def create_bucket(self) -> str:
        """Create the container, and return its name; one that already exists stays as it is."""
        self._client.create_container()
        return self.container_name

    @operation(prefects=True)
    def list_blobs(self) -> list[str]:
        """List the keys of all objects in the block's folder."""
        return [info.key for page in self.objects.list() for info in page]
