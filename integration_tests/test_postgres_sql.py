"""What of PostgreSQL's SQL a load meets: equality of a type's own, rules, standbys and read-only roles."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from blocks.base.errors import ConnectorError, InvalidInputError, UnsupportedError
from connectors.postgres import Postgres
from integration_tests.standins.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address


@pytest.fixture
def warehouse(pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(**pg_database.fields())) as block:
        yield block


def data(*names: str, n: int = 1) -> pa.Table:
    return pa.table({"name": names, "n": [n] * len(names)})


@pytest.mark.parametrize("index", ["", "CREATE UNIQUE INDEX ON raw.t (name)"], ids=["no index", "unique index"])
@pytest.mark.parametrize("extension_in", ["public", "other"])
def test_citext_is_equal_whatever_its_case_in_any_schema(
    warehouse: Postgres, pg_database: Address, index: str, extension_in: str
) -> None:
    """The operator of a type is found where its type is, though the block searches its own schema alone."""
    for statement in (
        "CREATE SCHEMA raw",
        "CREATE SCHEMA other",
        f"CREATE EXTENSION citext SCHEMA {extension_in}",
        f"CREATE TABLE raw.t (name {extension_in}.citext, n bigint)",
        index,
    ):
        if statement:
            warehouse.execute(statement)
    with contextlib.closing(Postgres(**pg_database.fields(), schema="raw")) as block:
        block.load(data("Ada", "Bob"), "t", mode="upsert", key=["name"])
        report = block.load(data("ADA", "Cy", n=2), "t", mode="upsert", key=["name"])
        assert (report.inserted, report.updated) == (1, 1)
        assert sorted(block.fetch_all("SELECT lower(name::text), n FROM t")) == [("ada", 2), ("bob", 1), ("cy", 2)]
        with pytest.raises(InvalidInputError, match="come more than once"):
            block.load(data("Dee", "DEE"), "t", mode="upsert", key=["name"])
        report = block.load(data("aDa", n=3), "t", mode="replace_partition", partition_by=["name"])
        assert (report.inserted, report.deleted) == (1, 1)


def test_a_rule_takes_part_in_a_load_and_the_plan_says_so(warehouse: Postgres) -> None:
    """COPY knows nothing of rules, so rows are inserted from a stage; what a rule holds back undoes the load."""
    for statement in (
        "CREATE TABLE t (name text, n bigint)",
        "CREATE TABLE log (name text)",
        "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (new.name)",
    ):
        warehouse.execute(statement)
    plan = warehouse.plan(data("a", "b"), "t")
    assert plan.notes == ("rows are staged and inserted from there, because the table has a rule",)
    assert "a rule" in str(plan)
    warehouse.load(data("a", "b"), "t")
    with pytest.raises(UnsupportedError, match="has a rule on INSERT"):
        warehouse.load(data("b", "c", n=2), "t", mode="upsert", key=["name"])
    warehouse.load(data("b", n=2), "t", mode="replace_partition", partition_by=["name"])
    assert sorted(warehouse.fetch_all("SELECT * FROM t")) == [("a", 1), ("b", 2)]
    assert sorted(warehouse.fetch_all("SELECT * FROM log")) == [("a",), ("b",), ("b",)]
    warehouse.execute("CREATE RULE nothing AS ON INSERT TO t WHERE new.n = 9 DO INSTEAD NOTHING")
    with pytest.raises(ConnectorError, match="1 rows were staged and 0 applied"):
        warehouse.load(data("d", n=9), "t")
    assert warehouse.plan(data("a"), "u").notes == ()


def test_a_read_only_role_is_told(warehouse: Postgres, pg_database: Address) -> None:
    """The check says that loads will be refused, and why."""
    assert "reads and writes in schema public" in warehouse.check()
    warehouse.execute("CREATE ROLE sql_reader LOGIN PASSWORD 'reader'")
    try:
        warehouse.execute("GRANT CREATE, USAGE ON SCHEMA public TO sql_reader")
        warehouse.execute("ALTER ROLE sql_reader SET default_transaction_read_only = on")
        with contextlib.closing(
            Postgres(**{**pg_database.fields(), "username": "sql_reader", "password": "reader"})
        ) as block:
            said = block.check()
            assert "sql_reader reads in schema public." in said
            assert "Its transactions are read-only" in said
            with pytest.raises(ConnectorError):
                block.model_copy(update={"retry": block.retry.model_copy(update={"attempts": 1})}).load(data("a"), "t")
    finally:
        warehouse.execute("REVOKE ALL ON SCHEMA public FROM sql_reader")
        warehouse.execute("DROP ROLE sql_reader")


@pytest.mark.thorough
def test_a_hot_standby_is_told() -> None:
    """It answers queries, and the check says that it takes no writes."""
    with PostgresServer() as server:
        server.stop()
        (server._data / "standby.signal").touch()
        server.start()
        with contextlib.closing(Postgres(**server.address.fields())) as block:
            assert "postgres reads in schema public. It is a hot standby, which takes no writes" in block.check()
