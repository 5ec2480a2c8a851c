"""BigQuery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from blocks.gcp_credentials import GcpCredentials
from blocks.retry import RetryPolicy
from connectors.bigquery import BigQuery
from integration_tests.standins.bigquery import PROJECT, BigQueryServer
from tests.contracts.warehouse import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


@pytest.fixture
def warehouse(bigquery_server: BigQueryServer) -> Iterator[BigQuery]:
    with block(bigquery_server) as made:
        yield made


def block(server: BigQueryServer, **options) -> BigQuery:
    return BigQuery(
        gcp_credentials=GcpCredentials(anonymous=True, endpoint_url=options.pop("url", server.url)),
        project=PROJECT,
        **{"dataset": server.new_dataset(), "retry": RETRY, **options},
    )


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"timestamp ns", "timestamp ns zoned", "time ns", "list of list", "map", "duration", "large decimal"}
