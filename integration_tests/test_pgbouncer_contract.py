"""All promises of a warehouse, and all that is particular to PostgreSQL, behind pgbouncer in both modes: --thorough."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from connectors.postgres import Postgres
from integration_tests.test_pgbouncer import RETRY, pooler, poolers
from integration_tests.test_postgres import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.pgbouncer import PgBouncer
    from integration_tests.standins.postgres import Address

__all__ = ["pooler", "poolers"]

pytestmark = pytest.mark.thorough

# Of the server's own TLS and logins: to the pooler there is none, and it knows one role.
test_the_connection_is_encrypted = test_rights_are_told = test_sqlalchemy_is_there = None


@pytest.fixture
def warehouse(pooler: PgBouncer, pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(**pooler.address(pg_database).fields(), ssl_mode="disable", retry=RETRY)) as block:
        yield block
