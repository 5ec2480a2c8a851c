"""Calls as the documentation of prefect-snowflake and prefect-gcp shows them, with import and class name changed.

Sources: the docstrings of `prefect_snowflake.database.SnowflakeConnector` and `prefect_gcp.bigquery.BigQueryWarehouse`.
The public tables that those of BigQuery read are made here.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from prefect import flow

from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials
from connectors.bigquery import BigQuery
from connectors.snowflake import Snowflake
from integration_tests.standins import bigquery as bigquery_standin
from integration_tests.standins import snowflake as snowflake_standin

if TYPE_CHECKING:
    from integration_tests.standins.bigquery import BigQueryServer
    from integration_tests.standins.snowflake import SnowflakeServer

pytestmark = pytest.mark.usefixtures("prefect_server")

CUSTOMERS = [
    {"name": "Ford", "address": "Highway 42"},
    {"name": "Unknown", "address": "Space"},
    {"name": "Me", "address": "Myway 88"},
]


@pytest.fixture
def snowflake_block(snowflake_server: SnowflakeServer) -> str:
    """The name of a saved block over an empty schema."""
    login = {"account": "standin", "user": snowflake_standin.USER, "password": snowflake_standin.PASSWORD}
    credentials = SnowflakeCredentials(**login, **snowflake_server.connection())
    fields = snowflake_standin.fields(snowflake_standin.new_schema_name())
    block = Snowflake(credentials=credentials, **fields)
    block.execute(f"CREATE SCHEMA {block.dialect.name(fields['schema'])}")
    name = f"example-{uuid.uuid4().hex[:8]}"
    block.save(name)
    return name


def test_the_methods_of_prefect_snowflake(snowflake_block: str) -> None:
    """Each documented call, outside of a flow and in one."""

    def calls() -> None:
        with Snowflake.load(snowflake_block) as conn:
            conn.execute("CREATE TABLE IF NOT EXISTS customers (name varchar, address varchar);")
            conn.execute("DELETE FROM customers")
            conn.execute_many(
                "INSERT INTO customers (name, address) VALUES (%(name)s, %(address)s);", seq_of_parameters=CUSTOMERS
            )
            query = "SELECT * FROM customers WHERE address = %(address)s"
            assert conn.fetch_all(query, parameters={"address": "Space"}) == [("Unknown", "Space")]
            assert conn.fetch_one(query, parameters={"address": "Space"}) == ("Unknown", "Space")
            ordered = "SELECT name FROM customers ORDER BY name"
            assert conn.fetch_one(ordered) == ("Ford",)
            conn.reset_cursors()
            assert conn.fetch_one(ordered) == ("Ford",)
            assert conn.fetch_many(ordered, size=2) == [("Me",), ("Unknown",)]
            assert conn.fetch_many(ordered, size=2) == []
            everything = []
            while True:  # repeated calls go on with the next rows
                rows = conn.fetch_many(ordered, size=2)
                if len(rows) == 0:
                    break
                everything += rows
            assert everything == [("Ford",), ("Me",), ("Unknown",)]
            conn.execute("BEGIN")
            conn.execute("DELETE FROM customers")
            conn.execute("ROLLBACK")
            assert conn.fetch_one("SELECT count(*) FROM customers") == (3,)

    calls()
    flow(calls)()
    with Snowflake.load(snowflake_block).get_connection() as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM customers").fetchone() == (3,)


async def test_the_awaitable_methods_of_prefect_snowflake(snowflake_block: str) -> None:
    """As `fetch_all_async`, awaited in an event loop; the block is loaded there too."""
    async with await Snowflake.load(snowflake_block) as conn:  # type: ignore[misc]  # Prefect's load is awaitable there
        await conn.execute_async("CREATE TABLE IF NOT EXISTS customers (name varchar, address varchar);")
        await conn.execute_many_async(
            "INSERT INTO customers (name, address) VALUES (%(name)s, %(address)s);", seq_of_parameters=CUSTOMERS
        )
        query = "SELECT name FROM customers WHERE address = %(address)s"
        assert await conn.fetch_all_async(query, parameters={"address": "Space"}) == [("Unknown",)]


def test_several_statements_as_one_transaction(snowflake_block: str) -> None:
    """As `snowflake_multiquery`, which returns the rows of each."""
    conn = Snowflake.load(snowflake_block)
    conn.execute("CREATE TABLE orders (id integer)")
    found = conn.multiquery(
        ["INSERT INTO orders VALUES (1)", "SELECT id FROM orders", "SELECT 1, 2"], as_transaction=True
    )
    assert found[1:] == [[(1,)], [(1, 2)]]


@pytest.fixture
def bigquery_block(bigquery_server: BigQueryServer) -> str:
    """The name of a saved block over a dataset that has the words of two plays."""
    nobody = GcpCredentials(anonymous=True, endpoint_url=bigquery_server.url)
    block = BigQuery(gcp_credentials=nobody, project=bigquery_standin.PROJECT, dataset=bigquery_server.new_dataset())
    words = pa.table(
        {
            "word": ["the", "and", "I", "rare", "the"],
            "word_count": [614, 577, 527, 2, 900],
            "corpus": ["romeoandjuliet"] * 4 + ["hamlet"],
        }
    )
    block.load(words, "shakespeare")
    name = f"example-{uuid.uuid4().hex[:8]}"
    block.save(name)
    return name


def test_the_methods_of_prefect_gcp(bigquery_block: str) -> None:
    """Each documented call, outside of a flow and in one."""
    operation = """
        SELECT word, word_count
        FROM shakespeare
        WHERE corpus = %(corpus)s
        AND word_count >= %(min_word_count)s
        ORDER BY word_count DESC
        LIMIT 3;
    """
    parameters = {"corpus": "romeoandjuliet", "min_word_count": 250}
    expected = [("the", 614), ("and", 577), ("I", 527)]

    def calls() -> None:
        with BigQuery.load(bigquery_block) as warehouse:
            for row in [*expected, None]:
                assert warehouse.fetch_one(operation, parameters=parameters) == row
            assert warehouse.fetch_many(operation, parameters=parameters, size=2) == expected[:2]
            assert warehouse.fetch_many(operation, parameters=parameters, size=2) == expected[2:]
            warehouse.reset_cursors()
            assert warehouse.fetch_one(operation, parameters=parameters) == expected[0]
            assert warehouse.fetch_all(operation, parameters=parameters) == expected
            warehouse.execute("CREATE TABLE IF NOT EXISTS mytable (col1 STRING, col2 INTEGER, col3 BOOLEAN)")
            warehouse.execute("DELETE FROM mytable WHERE TRUE")
            warehouse.execute_many(
                "INSERT INTO mytable (col1, col2, col3) VALUES (%s, %s, %s)",
                seq_of_parameters=[("a", 1, True), ("b", 2, False)],
            )
            rows = warehouse.fetch_all("SELECT col1, col2, col3 FROM mytable ORDER BY col1")
            assert rows == [("a", 1, True), ("b", 2, False)]

    calls()
    flow(calls)()
