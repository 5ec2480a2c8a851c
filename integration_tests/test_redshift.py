"""Redshift: the promises of every warehouse, on PostgreSQL behind a stand-in of ours and a real S3 server.

README.md says what that cannot show, and how the same tests run on a real cluster or workgroup.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from blocks.aws_credentials import AwsCredentials
from blocks.retry import RetryPolicy
from connectors.s3 import S3Bucket
from integration_tests.standins.redshift import RedshiftCursor, RedshiftOnPostgres, stand_in
from tests.contracts.warehouse import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.redshift import Redshift
    from integration_tests.standins.postgres import Address
    from integration_tests.standins.s3 import S3Server

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)
ROLE = "arn:aws:iam::123456789012:role/redshift-reads-staging"


@pytest.fixture(scope="module")
def staging(s3_server: S3Server) -> S3Bucket:
    """The staging bucket, one for all tests."""
    keys = AwsCredentials(
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
    )
    return S3Bucket(bucket_name=s3_server.make_bucket(), bucket_folder=uuid.uuid4().hex, credentials=keys, retry=RETRY)


@pytest.fixture
def sent(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> type[RedshiftCursor]:
    """The stand-in; its `statements` are those that were sent, in Redshift's words."""
    return stand_in(s3_server.client(), monkeypatch)


def block(address: Address, staging: S3Bucket, **fields: Any) -> Redshift:
    return RedshiftOnPostgres(
        **address.fields(), ssl_mode="disable", staging=staging, iam_role=ROLE, retry=RETRY, **fields
    )


@pytest.fixture
def warehouse(pg_database: Address, staging: S3Bucket, sent: type[RedshiftCursor]) -> Iterator[Redshift]:  # noqa: ARG001 (installed)
    with block(pg_database, staging) as opened:
        yield opened


@pytest.fixture
def unsupported_types() -> set[str]:
    return {
        "large decimal",
        "timestamp ns",
        "timestamp ns zoned",
        "time ns",
        "list of list",
        "struct",
        "map",
    }
