"""Datasets in object stores: S3, Google Cloud Storage, Azure and local folders."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.credentials.aws import AwsCredentials
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.credentials.gcp import GcpCredentials
from blocks.testing import HttpFaultProxy
from connectors.azure import AzureBlobContainer
from connectors.gcs import GcsBucket
from connectors.local import LocalFiles
from connectors.s3 import S3Bucket
from integration_tests.faults.cases import PROCESS_FAULTS, RACES, SOURCE_FAULT
from integration_tests.faults.targets.base import PATIENT, Place, Target
from integration_tests.faults.targets.wires import HTTP_FAULTS, READING_FAULTS, HttpWire
from integration_tests.standins.azurite import AzuriteServer
from integration_tests.standins.gcs import GcsServer
from integration_tests.standins.s3 import S3Server

if TYPE_CHECKING:
    from pathlib import Path

    from blocks.base.retry import RetryPolicy

STORE_MODES = ("append", "replace", "replace_partition")
IMPATIENT_S = 1.0
RACE_SKIPPED = "two datasets written at once by different loads are not serialized: docs/object-stores.md says so"


class StoreTarget(Target):
    """A bucket behind a proxy; a folder for each case."""

    is_store: ClassVar[bool] = True
    modes: ClassVar[tuple[str, ...]] = STORE_MODES
    faults: ClassVar[tuple[str, ...]] = (*HTTP_FAULTS, *READING_FAULTS, SOURCE_FAULT, *PROCESS_FAULTS, RACES[0])
    skipped: ClassVar[dict[str, str]] = {RACES[1]: RACE_SKIPPED}
    faults_of_reading: ClassVar[tuple[str, ...]] = READING_FAULTS
    proxy: HttpFaultProxy

    @abstractmethod
    def block(self, folder: str, url: str | None, retry: RetryPolicy, **options: Any) -> Any:
        """A block over a folder, through the proxy where its URL is given, with these options."""

    @abstractmethod
    def uploads(self, folder: str) -> list[str]:
        """What uploads that were broken off have left in the store."""

    def place(self, folder: Path) -> Place:
        """A new folder."""
        name = uuid.uuid4().hex
        direct = self.block(name, None, PATIENT)

        def leftovers() -> list[str]:
            keys = [each["Key"] for each in direct.list_objects()]
            strange = [key for key in keys if not key.startswith(("t/", "source"))]
            return [f"object {key}" for key in strange] + [f"upload {each}" for each in self.uploads(name)]

        def behind(retry: RetryPolicy) -> Any:
            options = {"request_timeout_s": IMPATIENT_S} if place.impatient else {}
            return self.block(name, self.proxy.url, retry, **options)

        place = Place(folder, direct, wires=[HttpWire(self.proxy)], behind=behind, leftovers=leftovers)
        return place


class S3Target(StoreTarget):
    """SeaweedFS."""

    name: ClassVar[str] = "S3"

    def open(self) -> None:
        """Start the server and the proxy."""
        self.s3: S3Server = self.server("s3", S3Server)
        self.secrets = (self.s3.secret_key,)
        self.bucket = self.s3.make_bucket()
        self.proxy = self._stack.enter_context(HttpFaultProxy(self.s3.endpoint))

    def block(self, folder: str, url: str | None, retry: RetryPolicy, **options: Any) -> Any:
        """A block over a folder."""
        keys = AwsCredentials(
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            endpoint_url=url or self.s3.endpoint,
            region_name=self.s3.region,
        )
        return S3Bucket(bucket_name=self.bucket, bucket_folder=folder, credentials=keys, retry=retry, **options)

    def uploads(self, folder: str) -> list[str]:
        """Multipart uploads."""
        found = self.s3.client().list_multipart_uploads(Bucket=self.bucket, Prefix=f"{folder}/")
        return [each["Key"] for each in found.get("Uploads", [])]


class GcsTarget(StoreTarget):
    """The stand-in for Google Cloud Storage."""

    name: ClassVar[str] = "GCS"

    def open(self) -> None:
        """Start the server and the proxy."""
        self.gcs: GcsServer = self.server("gcs", GcsServer)
        self.bucket = self.gcs.make_bucket()
        self.proxy = self._stack.enter_context(HttpFaultProxy(self.gcs.endpoint))

    def block(self, folder: str, url: str | None, retry: RetryPolicy, **options: Any) -> Any:
        """A block over a folder."""
        nobody = GcpCredentials(project=self.gcs.project, anonymous=True, endpoint_url=url or self.gcs.endpoint)
        return GcsBucket(bucket=self.bucket, gcp_credentials=nobody, bucket_folder=folder, retry=retry, **options)

    def uploads(self, folder: str) -> list[str]:
        """Resumable uploads of which something has arrived."""
        return [name for name in self.gcs.open_uploads(self.bucket, with_content=True) if name.startswith(folder)]


class AzureTarget(StoreTarget):
    """Azurite."""

    name: ClassVar[str] = "Azure"

    def open(self) -> None:
        """Start the server and the proxy."""
        self.azure: AzuriteServer = self.server("azure", AzuriteServer)
        self.secrets = (self.azure.key,)
        self.container = self.azure.make_container()
        self.proxy = self._stack.enter_context(HttpFaultProxy(self.azure.url.rpartition("/")[0]))

    def block(self, folder: str, url: str | None, retry: RetryPolicy, **options: Any) -> Any:
        """A block over a folder."""
        account_url = f"{url}/{self.azure.account}" if url else self.azure.url
        account = AzureBlobStorageCredentials(account_url=account_url, account_key=self.azure.key)
        return AzureBlobContainer(
            container_name=self.container, credentials=account, base_folder=folder, retry=retry, **options
        )

    def uploads(self, folder: str) -> list[str]:
        """Blocks that belong to no blob."""
        container = self.azure.client().get_container_client(self.container)
        found = list(container.list_blobs(name_starts_with=f"{folder}/", include=["uncommittedblobs"]))
        lists = [(blob.name, container.get_blob_client(blob.name).get_block_list("uncommitted")[1]) for blob in found]
        return [name for name, blocks in lists if blocks]


class LocalTarget(Target):
    """A folder; what strikes does so at the moments of a write within the process."""

    name: ClassVar[str] = "LocalFiles"
    is_store: ClassVar[bool] = True
    modes: ClassVar[tuple[str, ...]] = STORE_MODES
    faults: ClassVar[tuple[str, ...]] = (SOURCE_FAULT, *PROCESS_FAULTS, RACES[0])
    skipped: ClassVar[dict[str, str]] = {RACES[1]: RACE_SKIPPED}

    def open(self) -> None:
        """Nothing is needed."""

    def place(self, folder: Path) -> Place:
        """A new folder."""
        base = folder / "store"
        direct = LocalFiles(basepath=str(base), retry=PATIENT)

        def leftovers() -> list[str]:
            files = [each for each in base.rglob("*") if each.is_file()] if base.exists() else []
            return [f"file {each.name}" for each in files if not each.name.startswith("part-")]

        return Place(folder, direct, leftovers=leftovers)
