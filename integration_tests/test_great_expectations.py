"""Great Expectations against servers: the same suite, asked in PostgreSQL and Snowflake, and of BigQuery's rows."""

from __future__ import annotations

import contextlib
import gc
import socket
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.base.errors import TransientError
from blocks.base.retry import RetryPolicy
from connectors.great_expectations import DataQuality
from connectors.great_expectations.sources import HasEngine
from connectors.postgres import Postgres
from connectors.redshift import Redshift
from connectors.snowflake import Snowflake
from integration_tests import test_bigquery, test_snowflake
from integration_tests.standins.snowflake import fields, new_schema_name
from tests.test_great_expectations import COUNTS, EVERYTHING, ORDERS, REJECTED, expect, quality, rejected_days

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks.warehouses.warehouse import Warehouse
    from connectors.bigquery import BigQuery
    from integration_tests.standins.postgres import Address

RETRY = RetryPolicy(attempts=2, first_delay_s=0.01, max_delay_s=0.02)
SUITE = quality(*EVERYTHING, max_rejected=1)


@pytest.fixture
def postgres(pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(**pg_database.fields(), retry=RETRY)) as warehouse:
        yield warehouse


@pytest.fixture
def snowflake(request: pytest.FixtureRequest) -> Iterator[Snowflake]:
    login = test_snowflake.credentials(request.getfixturevalue("snowflake_server"))
    name = new_schema_name()
    made = Snowflake(credentials=login, **fields(name), network_timeout_s=20, retry=RETRY)
    with contextlib.closing(made) as warehouse:
        home = warehouse.model_copy(update={"schema_": "public"})
        home.execute(f"CREATE SCHEMA {name}")
        yield warehouse
        home.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def bigquery(request: pytest.FixtureRequest) -> Iterator[BigQuery]:
    with contextlib.closing(test_bigquery.block(request.getfixturevalue("bigquery_server"))) as warehouse:
        yield warehouse


@pytest.mark.parametrize("name", ["postgres", "snowflake", "bigquery"])
def test_the_same_suite_counts_the_same_on_every_warehouse(request: pytest.FixtureRequest, name: str) -> None:
    """Whether it is asked there or of the rows that come from there; nothing is left behind there."""
    warehouse: Warehouse = request.getfixturevalue(name)
    warehouse.load(ORDERS, "orders")
    audit = SUITE.audit(warehouse, table="orders")
    assert [check.failed_rows for check in audit.report.checks] == COUNTS
    assert isinstance(warehouse, HasEngine) is (name != "bigquery")
    assert audit.report.passed
    assert rejected_days(audit) == REJECTED
    assert audit.rejected.schema.field("day").type == pa.date32()
    assert audit.report.source == warehouse.uri("orders")


def test_tables_of_any_name_and_queries_are_checked_in_place(postgres: Postgres) -> None:
    """A table of another schema, a view, and a query with a comment at its end; nothing is written."""
    postgres.execute('CREATE SCHEMA "Other"')
    postgres.load(ORDERS, "Other.Orders")
    postgres.execute('CREATE VIEW v AS SELECT * FROM "Other"."Orders"')
    tables = "SELECT count(*) FROM pg_class"
    before = postgres.fetch_one(tables)
    for where in ({"table": "Other.Orders"}, {"table": "v"}, {"query": 'select * from "Other"."Orders" -- all'}):
        audit = SUITE.audit(postgres, **where)
        assert [check.failed_rows for check in audit.report.checks] == COUNTS
        assert rejected_days(audit) == REJECTED
    assert postgres.fetch_one(tables) == before


def test_a_check_that_is_over_takes_no_connection_from_the_next_one(postgres: Postgres) -> None:
    """What Great Expectations leaves disposes of its engine whenever Python collects it; the pool is the block's."""
    postgres.load(ORDERS, "orders")
    SUITE.audit(postgres, table="orders")
    pool = postgres.get_engine().pool
    gc.collect()
    assert postgres.get_engine().pool is pool
    assert (pool.checkedin(), pool.checkedout()) == (1, 0)


def test_a_type_is_the_one_of_the_table(postgres: Postgres) -> None:
    """Of a query it is not known, which is said."""
    postgres.load(ORDERS, "orders")
    suite = quality(expect("column_values_to_be_of_type", column="order_id", type_="BIGINT"), raise_on_failure=False)
    assert suite.validate(postgres, table="orders").passed
    [check] = suite.validate(postgres, query="select * from orders").checks
    assert "the type of a query's column is not known; name a table" in check.detail


def test_a_lost_server_is_not_bad_data(pg_database: Address) -> None:
    """It is an error that is worth another try, and names no password."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    login: dict[str, Any] = pg_database.fields() | {"host": "127.0.0.1", "port": port}
    with Postgres(**login, retry=RETRY) as gone, pytest.raises(TransientError) as lost:
        DataQuality(suite_name="s", retry=RETRY).validate(gone, table="orders")
    assert str(login["password"]) not in str(lost.value)


def test_redshift_is_read() -> None:
    """It is a Postgres by its protocol only: SQLAlchemy's engine would ask it for what it does not know."""
    warehouse = Redshift(host="x", username="u", staging="etl-s3-bucket/staging")
    assert not isinstance(warehouse, HasEngine)
