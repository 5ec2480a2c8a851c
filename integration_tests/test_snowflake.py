"""Snowflake: the promises of every warehouse, and what only this service has or gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from blocks.retry import RetryPolicy
from blocks.snowflake_credentials import SnowflakeCredentials
from connectors.snowflake import Snowflake
from integration_tests.standins.snowflake import PASSWORD, USER, fields, new_schema_name
from tests.contracts.warehouse import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.snowflake import SnowflakeServer

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


def credentials(server: SnowflakeServer, **changes: Any) -> SnowflakeCredentials:
    login = {"account": "standin", "user": USER, "password": PASSWORD, **server.connection()}
    return SnowflakeCredentials(**{**login, **changes})


@pytest.fixture
def warehouse(snowflake_server: SnowflakeServer) -> Iterator[Snowflake]:
    name = new_schema_name()
    with Snowflake(credentials=credentials(snowflake_server), **fields(name), retry=RETRY, network_timeout_s=20) as block:
        home = block.model_copy(update={"schema_": "public"})
        home.execute(f"CREATE SCHEMA {name}")
        yield block
        home.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def unsupported_types() -> set[str]:
    nested = {"list of int", "list of string", "list of decimal", "list of date", "list of list", "struct", "map"}
    return {"large decimal", "timestamp ns", "timestamp ns zoned", "time ns", "duration", *nested}
