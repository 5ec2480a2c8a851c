"""The identity of loads on real servers: two PostgreSQL servers, two schemas, two buckets; and the ledger's upgrade."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args

import psycopg
import pyarrow as pa
import pytest
from prefect import flow, task

from blocks.base.errors import InvalidInputError, SchemaError
from blocks.warehouses.load import Mode
from connectors.postgres import Postgres
from integration_tests.standins.postgres import PostgresServer
from integration_tests.stores import new_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.arrow.scan import Scan
    from integration_tests.standins.postgres import Address

pytestmark = pytest.mark.usefixtures("prefect_server")

MODES: tuple[Mode, ...] = get_args(Mode)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "append": {},
    "replace": {},
    "upsert": {"key": ["id"]},
    "replace_partition": {"partition_by": ["id"]},
}
thorough = pytest.mark.thorough


def block(address: Any, schema: str = "public") -> Postgres:
    return Postgres(**address.fields(), schema=schema)


@pytest.fixture(scope="module")
def other_server() -> Iterator[PostgresServer]:
    """A second server."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def target(pg_database: Address) -> Postgres:
    """Where everything is loaded to."""
    return block(pg_database)


def frame(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def ids(warehouse: Postgres) -> list[int]:
    return sorted(row[0] for row in warehouse.fetch_all("SELECT id FROM t"))


@pytest.fixture
def sources(request: pytest.FixtureRequest, pg_database: Address) -> list[Callable[[], Scan]]:
    """Two sources of the same name with equal rows, in two places; those of files prove what they are."""
    kind = request.param
    if kind == "two buckets":
        stores = [new_store("s3", request), new_store("s3", request)]
        for store in stores:
            store.write_path("orders.csv", b"id\n1\n2\n")
        return [lambda store=store: store.scan("orders.csv") for store in stores]  # type: ignore[misc]
    if kind == "two schemas":
        with pg_database.connect() as connection:
            for name in ("a", "b"):
                connection.execute(f"create schema {name}")
        blocks = [block(pg_database, name) for name in ("a", "b")]
    else:
        other = request.getfixturevalue("other_server")
        blocks = [block(pg_database), block(other.emptied_database())]
    for each in blocks:
        each.load(frame(1, 2), "orders", load_id="orders")
    return [lambda each=each: each.scan("orders") for each in blocks]  # type: ignore[misc]


KINDS = ["two buckets", pytest.param("two schemas", marks=thorough), pytest.param("two servers", marks=thorough)]
SECOND = {"in order": [0, 1], "in another order": [1, 0], "finished work left out": [1]}


@pytest.mark.parametrize("mode", ["append", *(pytest.param(mode, marks=thorough) for mode in MODES[1:])])
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("sources", KINDS, indirect=True)
def test_equal_sources_in_two_places(
    target: Postgres, sources: list[Callable[[], Scan]], second: str, mode: Mode, request: pytest.FixtureRequest
) -> None:
    """Files are known by where they are, in any order; live tables are replaced again, and not appended again."""
    orders = [[0], SECOND[second]]
    attempts: list[int] = []

    @task
    def copy(number: int) -> None:
        target.load(sources[number](), "t", mode=mode, **ARGUMENTS[mode])

    @flow(retries=1)
    def pipeline() -> None:
        attempts.append(1)
        for future in [copy.submit(number) for number in orders[len(attempts) - 1]]:
            future.result()
        if len(attempts) == 1:
            raise RuntimeError("something else went wrong")

    files = "two buckets" in request.node.name
    if mode == "append" and not files:
        with pytest.raises(InvalidInputError, match="load_id="):
            pipeline()
        assert ids(target) == [1, 2]
    else:
        pipeline()
        assert ids(target) == ([1, 1, 2, 2] if mode == "append" else [1, 2])


OLD = (
    "CREATE TABLE _etl_loads (load_id text PRIMARY KEY, table_name text, mode text, row_count bigint, rejected_count "
    "bigint, flow_run_id text, started_at timestamptz, finished_at timestamptz, report text)"
)


def test_an_old_ledger_is_upgraded_while_others_load(target: Postgres, pg_database: Address) -> None:
    """A load of the old code that lasts holds nobody up, and its row is there in the end."""
    report = target.load(frame(1), "t", load_id="old").model_dump_json()
    target.execute("DROP TABLE _etl_loads")
    target.execute(OLD)
    insert = "INSERT INTO _etl_loads (load_id, table_name, mode, report) VALUES (%s, 't', 'append', %s)"
    with psycopg.connect(pg_database.dsn()) as old, ThreadPoolExecutor(4) as pool:
        old.execute(insert, ("old", report))
        during = [pool.submit(target.load, frame(number), "t", load_id=f"new {number}") for number in (2, 3, 4)]
        assert [future.result(timeout=60).rows for future in during] == [1, 1, 1]
        old.commit()
    assert target.load(frame(1), "t", load_id="old").already_loaded
    after = [target.load(frame(5), "t", load_id="after") for _ in range(2)]
    assert [each.already_loaded for each in after] == [False, True]
    target.execute(
        insert.replace("%s", ":id", 1).replace("%s", ":report"), {"id": "still the old code", "report": report}
    )
    assert target.load(frame(6), "t", load_id="still the old code").already_loaded
    assert ids(target) == [1, 2, 3, 4, 5]
    assert target.fetch_all("SELECT version FROM _etl_loads WHERE load_id = 'after'") == [(3,)]


def test_a_login_without_rights_is_told_the_statement(target: Postgres, pg_database: Address) -> None:
    """Who may not alter an old ledger is told, in one line, what its owner has to run; with it the load goes on."""
    owner = pg_database.connect()
    with contextlib.closing(owner):
        owner.execute(OLD)
        owner.execute("CREATE TABLE t (id bigint)")
        owner.execute(target.ledger_ddl()[0])
        owner.execute("DROP ROLE IF EXISTS loader")
        owner.execute("CREATE ROLE loader LOGIN PASSWORD 's3cret'")
        try:
            owner.execute("GRANT SELECT, INSERT, UPDATE ON t, _etl_loads, _etl_quarantine TO loader")
            loader = target.model_copy(update={"username": "loader"})
            for _ in ("version", "call_id", "attempt", "state_name", "state_number", "mark"):
                with pytest.raises(SchemaError, match=r"^[^\n]*Have its owner run: ALTER TABLE") as caught:
                    loader.load(frame(1), "t", load_id="day-1")
                owner.execute(str(caught.value).rpartition("run: ")[2].rstrip("."))
            report = loader.load(frame(1), "t", load_id="day-1")
            assert report.rows == 1
        finally:
            owner.execute("DROP OWNED BY loader")
            owner.execute("DROP ROLE loader")


def test_a_ledger_made_beforehand_needs_no_rights_to_create(target: Postgres, pg_database: Address) -> None:
    """With the statements of `ledger_ddl`, and the grants of the docs, a role loads that may create nothing."""
    with pg_database.connect() as owner:
        for statement in target.ledger_ddl():
            owner.execute(statement)
        owner.execute("CREATE TABLE t (id bigint)")
        owner.execute("DROP ROLE IF EXISTS reader")
        owner.execute("CREATE ROLE reader LOGIN PASSWORD 's3cret'")
        try:
            owner.execute("GRANT SELECT, INSERT, UPDATE ON _etl_loads TO reader")
            owner.execute("GRANT SELECT, INSERT ON _etl_quarantine, t TO reader")
            loader = target.model_copy(update={"username": "reader"})
            assert loader.load(frame(1), "t", load_id="day-1").rows == 1
        finally:
            owner.execute("DROP OWNED BY reader")
            owner.execute("DROP ROLE reader")
