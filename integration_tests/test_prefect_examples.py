"""Flows as the documentation of prefect-aws and prefect-gcp shows them, with no more than the import line changed.

Sources: the docstrings of `prefect_aws.s3.S3Bucket` 0.7 and `prefect_gcp.cloud_storage.GcsBucket` 0.6, and the first
flows in https://docs.prefect.io/integrations/prefect-aws and https://docs.prefect.io/integrations/prefect-gcp.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from prefect import flow

from blocks.credentials import AwsCredentials, GcpCredentials
from connectors.gcs import GcsBucket
from connectors.s3 import S3Bucket
from integration_tests.stores import new_store

if TYPE_CHECKING:
    from integration_tests.standins.gcs import GcsServer
    from integration_tests.standins.s3 import S3Server

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples read and write files where they run."""
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("notes")
    Path("my_folder").mkdir()
    Path("my_folder/notes.txt").write_text("notes of the folder")


@pytest.fixture
def s3_blocks(s3_server: S3Server) -> None:
    """The saved blocks that the examples load."""
    keys = AwsCredentials(
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        aws_client_parameters={"endpoint_url": s3_server.endpoint},
        region_name=s3_server.region,
    )
    keys.save("my-aws-creds-block", overwrite=True)
    for name in ("my-bucket", "your-bucket", "my-bucket-test"):
        S3Bucket(bucket_name=s3_server.make_bucket(), credentials=keys).save(name, overwrite=True)


@pytest.mark.usefixtures("s3_blocks")
def test_the_first_flow_of_prefect_aws(s3_server: S3Server) -> None:
    """A file goes up and comes down under another name."""
    bucket = s3_server.make_bucket()

    @flow
    def s3_flow() -> str:
        file_path = Path("test-example.txt")
        file_path.write_text("Hello, Prefect!")

        aws_credentials = AwsCredentials.load("my-aws-creds-block")
        s3_bucket = S3Bucket(bucket_name=bucket, credentials=aws_credentials)

        s3_bucket_path = s3_bucket.upload_from_path(file_path)
        downloaded_file_path = s3_bucket.download_object_to_path(s3_bucket_path, "downloaded-test-example.txt")
        return downloaded_file_path.read_text()

    assert s3_flow() == "Hello, Prefect!"


@pytest.mark.usefixtures("s3_blocks")
def test_the_methods_of_prefect_aws(s3_server: S3Server) -> None:
    """Each documented call, one after the other, in a flow and outside of one."""
    other_bucket = s3_server.make_bucket()

    def calls() -> list[str]:
        s3_bucket = S3Bucket.load("my-bucket")
        s3_bucket.upload_from_path("notes.txt", "my_folder/notes.txt")
        with open("notes.txt", "rb") as f:  # noqa: PTH123 (as documented)
            s3_bucket.upload_from_file_object(f, "my_folder/from_file.txt")
        s3_bucket.upload_from_folder("my_folder", "new_folder")
        s3_bucket.list_objects("base_folder")
        s3_bucket.download_object_to_path("my_folder/notes.txt", "down.txt")
        with io.BytesIO() as buf:
            s3_bucket.download_object_to_file_object("my_folder/notes.txt", buf)
            assert buf.getvalue() == b"notes"
        with open("down2.txt", "wb") as f:  # noqa: PTH123
            s3_bucket.download_object_to_file_object("my_folder/notes.txt", f)
        s3_bucket.download_folder_to_path("my_folder", "down_folder")
        s3_bucket.copy_object("my_folder/notes.txt", "my_folder/notes_copy.txt")
        s3_bucket.copy_object("my_folder/notes.txt", "my_folder/notes_copy.txt", to_bucket=other_bucket)
        s3_bucket.move_object("my_folder/notes_copy.txt", "my_folder/notes_moved.txt")
        your_s3_bucket = S3Bucket.load("your-bucket")
        your_s3_bucket.write_path(path="notes.txt", content=b"yours")
        s3_bucket.stream_from(your_s3_bucket, "notes.txt", to_path="landed/notes.txt")
        assert s3_bucket.read_path(path="landed/notes.txt") == b"yours"
        s3_bucket.put_directory(local_path="my_folder", to_path="put")
        s3_bucket.get_directory(from_path="put", local_path="got")
        return [found["Key"] for found in s3_bucket.list_objects()]

    expected = {
        "landed/notes.txt",
        "my_folder/from_file.txt",
        "my_folder/notes.txt",
        "my_folder/notes_moved.txt",
        "new_folder/notes.txt",
        "put/notes.txt",
    }
    assert set(calls()) == expected
    assert set(flow(calls)()) == expected
    assert Path("down.txt").read_text() == Path("down2.txt").read_text() == "notes"
    assert Path("down_folder/notes.txt").read_text() == "notes"
    assert Path("got/notes.txt").read_text() == "notes of the folder"
    in_other = [
        found.key for found in S3Bucket.load("my-bucket")._named_bucket(other_bucket).get_bucket().objects.all()
    ]
    assert in_other == ["my_folder/notes_copy.txt"]


@pytest.fixture
def gcs_block(gcs_server: GcsServer) -> None:
    """The saved block that the examples load."""
    credentials = GcpCredentials(project=gcs_server.project, anonymous=True, endpoint_url=gcs_server.endpoint)
    credentials.save("my-gcp-creds-block", overwrite=True)
    GcsBucket(bucket=gcs_server.make_bucket(), gcp_credentials=credentials).save("my-bucket", overwrite=True)


@pytest.mark.usefixtures("gcs_block")
def test_the_first_flow_of_prefect_gcp(gcs_server: GcsServer) -> None:
    """A file goes up and comes down under another name."""
    bucket = gcs_server.make_bucket()

    @flow
    def cloud_storage_flow() -> str:
        file_path = Path("test-example.txt")
        file_path.write_text("Hello, Prefect!")

        gcp_credentials = GcpCredentials.load("my-gcp-creds-block")
        gcs_bucket = GcsBucket(bucket=bucket, gcp_credentials=gcp_credentials)

        gcs_bucket_path = gcs_bucket.upload_from_path(file_path)
        downloaded_file_path = gcs_bucket.download_object_to_path(gcs_bucket_path, "downloaded-test-example.txt")
        return downloaded_file_path.read_text()

    assert cloud_storage_flow() == "Hello, Prefect!"


@pytest.mark.usefixtures("gcs_block")
def test_the_methods_of_prefect_gcp() -> None:
    """Each documented call, one after the other, in a flow and outside of one."""

    def calls() -> list[str]:
        gcs_bucket = GcsBucket.load("my-bucket")
        gcs_bucket.get_bucket()
        gcs_bucket.upload_from_path("notes.txt", "my_folder/notes.txt")
        with open("notes.txt", "rb") as f:  # noqa: PTH123 (as documented)
            gcs_bucket.upload_from_file_object(f, "my_folder/from_file.txt")
        with open("notes.txt", "rb") as f:  # noqa: PTH123
            buffered = io.BufferedReader(f)
            gcs_bucket.upload_from_file_object(buffered, "my_folder/buffered.txt")
            buffered.detach()
        gcs_bucket.upload_from_folder("my_folder")
        gcs_bucket.upload_from_dataframe(pd.DataFrame({"year": [2026]}), "years/2026.csv", "csv")
        gcs_bucket.list_blobs("prefect")
        gcs_bucket.list_folders("years")
        gcs_bucket.download_object_to_path("my_folder/notes.txt", "down.txt")
        with io.BytesIO() as buf:
            gcs_bucket.download_object_to_file_object("my_folder/notes.txt", buf)
            assert buf.getvalue() == b"notes"
        gcs_bucket.download_folder_to_path("my_folder", "down_folder")
        assert gcs_bucket.list_folders() == ["my_folder", "years"]
        return [blob.name for blob in gcs_bucket.list_blobs()]

    expected = [
        "my_folder/buffered.txt",
        "my_folder/from_file.txt",
        "my_folder/notes.txt",
        "notes.txt",
        "years/2026.csv",
    ]
    assert calls() == expected
    assert flow(calls)() == expected
    assert Path("down.txt").read_text() == Path("down_folder/notes.txt").read_text() == "notes"
    assert Path("down_folder/buffered.txt").read_text() == "notes"


def test_a_bucket_of_prefect_gcp_is_made(request: pytest.FixtureRequest) -> None:
    """As `GcsBucket(bucket="my-bucket").create_bucket()`."""
    there = new_store("gcs", request)
    assert isinstance(there, GcsBucket)
    gcs_bucket = GcsBucket(bucket="my-own-bucket", gcp_credentials=there.gcp_credentials)
    gcs_bucket.create_bucket()
    assert gcs_bucket.list_blobs() == []
