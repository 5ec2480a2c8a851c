"""One empty object store of each kind, on its stand-in, for tests of what all of them promise."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from blocks.base.retry import RetryPolicy
from blocks.credentials.aws import AwsCredentials
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.credentials.gcp import GcpCredentials
from connectors.azure import AzureBlobContainer
from connectors.gcs import GcsBucket
from connectors.local import LocalFiles
from connectors.s3 import S3Bucket
from connectors.sftp import Sftp
from integration_tests.standins.process import HOST

if TYPE_CHECKING:
    import pytest

    from blocks.stores.object_store import ObjectStore

AT_ONCE = RetryPolicy(first_delay_s=0)


def server_url(kind: str, request: pytest.FixtureRequest) -> str:
    """Where the server of that kind listens, for a proxy in front of it."""
    if kind == "azure":
        url: str = request.getfixturevalue("azurite").url
        return url.rpartition("/")[0]
    endpoint: str = request.getfixturevalue(f"{kind}_server").endpoint
    return endpoint


def new_store(kind: str, request: pytest.FixtureRequest, *, url: str | None = None, **fields: Any) -> ObjectStore:
    """A store over an empty folder of the server of that kind.

    Args:
        kind: "local", "s3", "gcs", "azure" or "sftp".
        request: Starts the server, as a fixture, where it is needed.
        url: A proxy in front of the server; by default the server itself.
        fields: Further fields of the block.
    """
    fields = {"retry": AT_ONCE, **fields}
    folder = uuid.uuid4().hex
    if kind == "local":
        return LocalFiles(basepath=str(request.getfixturevalue("tmp_path") / folder), **fields)
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        keys = AwsCredentials(
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            endpoint_url=url or server.endpoint,
            region_name=server.region,
        )
        return S3Bucket(bucket_name=server.make_bucket(), credentials=keys, bucket_folder=folder, **fields)
    if kind == "gcs":
        server = request.getfixturevalue("gcs_server")
        nobody = GcpCredentials(project=server.project, anonymous=True, endpoint_url=url or server.endpoint)
        return GcsBucket(bucket=server.make_bucket(), gcp_credentials=nobody, bucket_folder=folder, **fields)
    if kind == "azure":
        server = request.getfixturevalue("azurite")
        account_url = f"{url}/{server.account}" if url else server.url
        account = AzureBlobStorageCredentials(account_url=account_url, account_key=server.key)
        container = server.make_container()
        return AzureBlobContainer(container_name=container, credentials=account, base_folder=folder, **fields)
    if kind == "sftp":
        server = request.getfixturevalue("sftp_server")
        login = {"username": server.username, "password": server.password, "known_hosts": server.known_hosts}
        return Sftp(host=HOST, port=server.port, basepath=folder, **login, **fields)
    raise ValueError(kind)
