"""Snowflake: the promises of every warehouse, and what only this service has or gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from blocks.retry import RetryPolicy
from blocks.snowflake_credentials import SnowflakeCredentials
from connectors.snowflake import Snowflake
from integration_tests.standins.snowflake import PASSWORD, USER, fields, new_schema_name
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.snowflake import SnowflakeServer

DEVIATIONS = {
    "test_a_primary_key_is_kept[append]": "Snowflake does not enforce primary keys",
    **dict.fromkeys(
        [f"test_no_error_shows_a_row[{mode}]" for mode in MODES],
        "Snowflake has no CHECK and does not enforce UNIQUE; see test_no_error_shows_a_value",
    ),
    "test_a_bad_row_undoes_all": "DDL commits: the new column stays; see test_a_bad_row_undoes_all_rows",
    "test_anything_with_an_arrow_stream_is_loaded": "id + 3 has 38 digits here, which is no int64",
    "test_tables_and_schemas_may_have_any_name": "fakesnow sets its schema without quotes",
}


@pytest.fixture(autouse=True)
def known_deviation(request: pytest.FixtureRequest) -> None:
    if reason := DEVIATIONS.get(request.node.name):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


def credentials(server: SnowflakeServer, **changes: Any) -> SnowflakeCredentials:
    login = {"account": "standin", "user": USER, "password": PASSWORD, **server.connection()}
    return SnowflakeCredentials(**{**login, **changes})


@pytest.fixture
def warehouse(snowflake_server: SnowflakeServer) -> Iterator[Snowflake]:
    name = new_schema_name()
    with Snowflake(
        credentials=credentials(snowflake_server), **fields(name), retry=RETRY, network_timeout_s=20
    ) as block:
        home = block.model_copy(update={"schema_": "public"})
        home.execute(f"CREATE SCHEMA {name}")
        yield block
        home.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def unsupported_types() -> set[str]:
    nested = {"list of int", "list of string", "list of decimal", "list of date", "list of list", "struct", "map"}
    return {"large decimal", "timestamp ns", "timestamp ns zoned", "time ns", "duration", *nested}
