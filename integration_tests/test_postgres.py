"""PostgreSQL over TLS: the promises of every warehouse, and what only this engine has or gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from blocks.retry import RetryPolicy
from connectors.postgres import Postgres
from tests.contracts.warehouse import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


@pytest.fixture
def warehouse(pg_database: Address) -> Iterator[Postgres]:
    tls = {"ssl_mode": "verify-ca", "ssl_root_cert": str(pg_database.ca_file)} if pg_database.ca_file else {}
    with Postgres(**pg_database.fields(), **tls, retry=RETRY) as block:
        yield block


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"timestamp ns", "timestamp ns zoned", "time ns", "list of list", "struct", "map"}
