"""Servers for the integration tests: real ones or the best stand-ins, on loopback, one of each per test process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration_tests.standins.aws import aws_server
from integration_tests.standins.azurite import azurite, azurite_tls
from integration_tests.standins.bigquery import bigquery_server
from integration_tests.standins.gcp_secrets import secret_manager
from integration_tests.standins.gcs import gcs_server
from integration_tests.standins.mariadb import INSTALL, MariaServer, find_mariadb
from integration_tests.standins.postgres import PostgresServer
from integration_tests.standins.s3 import s3_server
from integration_tests.standins.sftp import sftp_server
from integration_tests.standins.snowflake import snowflake_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.mariadb import MariaAddress
    from integration_tests.standins.postgres import Address

__all__ = [
    "aws_server",
    "azurite",
    "azurite_tls",
    "bigquery_server",
    "gcs_server",
    "maria_database",
    "maria_server",
    "pg_database",
    "postgres_server",
    "s3_server",
    "secret_manager",
    "sftp_server",
    "snowflake_server",
]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server with SCRAM and, where its build has it, TLS."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def pg_database(postgres_server: PostgresServer) -> Address:
    """A database of it with nothing in it."""
    return postgres_server.emptied_database()


@pytest.fixture(scope="session")
def maria_server() -> Iterator[MariaServer]:
    """A MariaDB server, where the system has one."""
    if find_mariadb() is None:
        pytest.skip(f"There is no MariaDB here. Install it: {INSTALL}")
    with MariaServer() as server:
        yield server


@pytest.fixture
def maria_database(maria_server: MariaServer) -> Iterator[MariaAddress]:
    """A database of it with nothing in it."""
    database = maria_server.new_database()
    yield database
    maria_server.drop_database(database)
