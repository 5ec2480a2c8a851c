"""The promises of tests/contracts/object_store.py on real accounts, or on any other server: see README.md."""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from blocks.credentials.aws import AwsCredentials
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.credentials.gcp import GcpCredentials
from connectors.azure import AzureBlobContainer
from connectors.gcs import GcsBucket
from connectors.s3 import S3Bucket
from tests.contracts.object_store import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.stores.object_store import ObjectStore
    from tests.contracts.object_store import MakeStore


def s3(name: str, folder: str, **identity: Any) -> ObjectStore:
    return S3Bucket(bucket_name=name, bucket_folder=folder, credentials=AwsCredentials(**identity))


def gcs(name: str, folder: str, **identity: Any) -> ObjectStore:
    return GcsBucket(bucket=name, bucket_folder=folder, gcp_credentials=GcpCredentials(**identity))


def azure(name: str, folder: str, **identity: Any) -> ObjectStore:
    account = AzureBlobStorageCredentials(**identity)
    return AzureBlobContainer(container_name=name, base_folder=folder, credentials=account)


STORES: dict[str, Callable[..., ObjectStore]] = {"S3": s3, "GCS": gcs, "AZURE": azure}
GIVEN = [kind for kind in STORES if f"ETL_TEST_{kind}_BUCKET" in os.environ]

if not GIVEN:
    pytest.skip("no ETL_TEST_S3_BUCKET, ETL_TEST_GCS_BUCKET or ETL_TEST_AZURE_BUCKET", allow_module_level=True)


@pytest.fixture(params=GIVEN)
def make_store(request: pytest.FixtureRequest) -> Iterator[MakeStore]:
    """Makes stores below one folder of the bucket, which is emptied afterwards."""
    name = os.environ[f"ETL_TEST_{request.param}_BUCKET"]
    identity = json.loads(os.environ.get(f"ETL_TEST_{request.param}_CREDENTIALS", "{}"))
    place = f"etl-tests/{uuid.uuid4().hex}"
    new = STORES[request.param]
    yield lambda folder: new(name, f"{place}/{folder}", **identity)
    everything = new(name, place, **identity)
    everything.delete_objects([found["Key"] for found in everything.list_objects()])
