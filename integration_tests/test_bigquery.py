"""BigQuery: the promises of every warehouse, and what only this service has or gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from blocks.gcp_credentials import GcpCredentials
from blocks.retry import RetryPolicy
from connectors.bigquery import BigQuery, check_name
from integration_tests.standins.bigquery import PROJECT
from tests.contracts import warehouse as promises
from tests.contracts.warehouse import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.bigquery import BigQueryServer

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)

NULL_LISTS = {"list of int", "list of string", "list of decimal", "list of date"}
REFUSED_NAMES = ['say "hi"', "😀", "$1", "a?b", "a;--b", "{x}", "back\\slash", "new\nline"]

COMMITS = "BigQuery's DDL commits by itself: the new column stays, and is empty."
DATASETS = "A dataset has a name of letters, digits and _ only; test_tables_may_have_any_name goes as far as it can."
NOT_SQL = "BigQuery's strings and types are others; test_parameters_are_bound_in_bigquerys_sql has the same."
DECIMAL = "bqemulator casts a parameter to DECIMAL(18,3)."
DEVIATIONS = {
    "test_a_bad_row_undoes_all": COMMITS,
    "test_a_primary_key_is_kept[append]": "BigQuery enforces no key.",
    "test_tables_and_schemas_may_have_any_name": DATASETS,
    "test_parameters_are_bound_by_name[SELECT ':a', 'it''s :a', CAST(:a AS INTEGER)-parameters2-expected2]": NOT_SQL,
    "test_parameters_are_bound_by_name[SELECT CAST(:a AS DECIMAL(20, 4))-parameters9-expected9]": DECIMAL,
}


@pytest.fixture(autouse=True)
def deviations(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What BigQuery, or its stand-in, does otherwise than the promises have it."""
    if reason := DEVIATIONS.get(request.node.name):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    monkeypatch.setattr(promises, "NAMES", [name for name in promises.NAMES if name not in REFUSED_NAMES])


@pytest.fixture
def warehouse(bigquery_server: BigQueryServer) -> Iterator[BigQuery]:
    with block(bigquery_server) as made:
        yield made


def block(server: BigQueryServer, **options: Any) -> BigQuery:
    credentials = GcpCredentials(anonymous=True, endpoint_url=options.pop("url", server.url))
    fields = {"dataset": options.pop("dataset", None) or server.new_dataset(), "project": PROJECT, "retry": RETRY}
    return BigQuery(gcp_credentials=credentials, **{**fields, **options})


@pytest.fixture
def unsupported_types(request: pytest.FixtureRequest) -> set[str]:
    refused = {"timestamp ns", "timestamp ns zoned", "time ns", "list of list", "map", "duration", "large decimal"}
    # Their values hold nulls in the place of lists, which BigQuery would keep as empty ones: see the tests of arrays.
    return refused | NULL_LISTS if request.node.name.startswith("test_any_value") else refused
