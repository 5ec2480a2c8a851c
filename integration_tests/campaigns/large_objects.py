"""Ten thousand small objects and one of 2 GiB through every object store, each in a process of its own; prints what
it took. `python -m integration_tests.campaigns.large_objects [s3|gcs|azure ...]`
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from blocks.credentials.aws import AwsCredentials
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.credentials.gcp import GcpCredentials
from connectors.azure import AzureBlobContainer
from connectors.gcs import GcsBucket
from connectors.s3 import S3Bucket
from integration_tests.campaigns.object_scale import measure
from integration_tests.standins.azurite import AzuriteServer
from integration_tests.standins.gcs import GcsServer
from integration_tests.standins.s3 import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks.stores.object_store import ObjectStore

OBJECTS = 10_000
LARGE_BYTES = 2 * 2**30
MEMORY_MB = 300


@contextlib.contextmanager
def store_of(kind: str) -> Iterator[ObjectStore]:
    """An empty store on a server of its own."""
    if kind == "s3":
        server = S3Server()
        with contextlib.closing(server):
            server.start()
            keys = AwsCredentials(
                aws_access_key_id=server.access_key,
                aws_secret_access_key=server.secret_key,
                endpoint_url=server.endpoint,
                region_name=server.region,
            )
            yield S3Bucket(bucket_name=server.make_bucket(), credentials=keys)
    elif kind == "gcs":
        with GcsServer() as gcs:
            nobody = GcpCredentials(project=gcs.project, anonymous=True, endpoint_url=gcs.endpoint)
            yield GcsBucket(bucket=gcs.make_bucket(), gcp_credentials=nobody)
    else:
        with AzuriteServer() as azurite:
            account = AzureBlobStorageCredentials(account_url=azurite.url, account_key=azurite.key)
            yield AzureBlobContainer(container_name=azurite.make_container(), credentials=account)


def main() -> None:
    """Measure, print, and fail where something was lost or memory was not bounded."""
    failed = False
    for kind in sys.argv[1:] or ["s3", "gcs", "azure"]:
        with store_of(kind) as store:
            for what, size in (("many", OBJECTS), ("large", LARGE_BYTES)):
                took = measure(store, what, size)
                good = took["equal"] and took["peak_mb"] < MEMORY_MB
                failed |= not good
                print(kind, what, size, took, "ok" if good else "FAILED", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
