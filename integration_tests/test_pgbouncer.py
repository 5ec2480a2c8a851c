"""PostgreSQL behind pgbouncer: the promises of every warehouse, and what a pooler keeps of a session: nothing.

Some of the promises are in every run; all of them, in both modes, in `test_pgbouncer_contract.py`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.base.errors import UnsupportedError
from blocks.base.retry import RetryPolicy
from blocks.testing.proxy import FaultProxy
from blocks.warehouses.ledger import LEDGER, QUARANTINE
from connectors.postgres import Postgres
from integration_tests.standins.pgbouncer import INSTALL, PgBouncer, find_pgbouncer
from tests.contracts.warehouse import (  # noqa: F401
    ARGUMENTS,
    MODES,
    count,
    rows,
    table_of,
    test_a_load_id_is_loaded_once,
    test_execute_many_is_one_transaction,
    test_loaders_of_one_load_id_load_once,
    test_refused_rows_are_kept,
    test_rejected_rows_are_not_published,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address, PostgresServer

RETRY = RetryPolicy(attempts=6, first_delay_s=0.01, max_delay_s=0.05)
SCHEMA = "shop"


@pytest.fixture(scope="module")
def poolers(postgres_server: PostgresServer) -> Iterator[dict[str, PgBouncer]]:
    if find_pgbouncer() is None:
        pytest.skip(f"There is no pgbouncer here. Install it: {INSTALL}")
    with (
        PgBouncer(postgres_server, "session") as session,
        PgBouncer(postgres_server, "transaction") as transaction,
        PgBouncer(postgres_server, "transaction", ignored="options,extra_float_digits") as ignoring,
    ):
        yield {"session": session, "transaction": transaction, "transaction, options ignored": ignoring}


@pytest.fixture(params=["session", "transaction"])
def pooler(poolers: dict[str, PgBouncer], request: pytest.FixtureRequest) -> PgBouncer:
    return poolers[request.param]


def block(address: Address, **fields: Any) -> Postgres:
    return Postgres(**address.fields(), **{"schema": SCHEMA, "ssl_mode": "disable", "retry": RETRY, **fields})


@pytest.fixture
def direct(pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(block(pg_database)) as made:
        made.execute(f"CREATE SCHEMA {SCHEMA}")
        yield made


@pytest.fixture
def warehouse(pooler: PgBouncer, pg_database: Address, direct: Postgres) -> Iterator[Postgres]:  # noqa: ARG001
    with contextlib.closing(block(pooler.address(pg_database))) as made:
        yield made


@pytest.fixture
def unsupported_types() -> set[str]:
    return set()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pooling", ["session", "transaction", "transaction, options ignored"])
def test_a_load_is_the_same_by_either_way(
    poolers: dict[str, PgBouncer], pg_database: Address, direct: Postgres, pooling: str, mode: Any
) -> None:
    """What one loaded is already loaded for the other, and everything is in the block's schema."""
    with contextlib.closing(block(poolers[pooling].address(pg_database))) as pooled:
        assert f"reads and writes in schema {SCHEMA}" in pooled.check()
        assert not direct.load(table_of([1, 2]), "t", mode=mode, load_id="day-1", **ARGUMENTS[mode]).already_loaded
        assert pooled.load(table_of([1, 2]), "t", mode=mode, load_id="day-1", **ARGUMENTS[mode]).already_loaded
        assert not pooled.load(table_of([3]), "t", mode=mode, load_id="day-2", **ARGUMENTS[mode]).already_loaded
        assert direct.load(table_of([3]), "t", mode=mode, load_id="day-2", **ARGUMENTS[mode]).already_loaded
    assert count(direct) == {"append": 3, "replace": 1, "upsert": 3, "replace_partition": 1}[mode]
    found = direct.fetch_all(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    )
    assert set(found) == {(SCHEMA, "t"), (SCHEMA, LEDGER), (SCHEMA, QUARANTINE)}


def test_names_without_a_schema_are_the_blocks(warehouse: Postgres, direct: Postgres) -> None:
    """In statements, queries, scans and SQLAlchemy; times are in UTC."""
    direct.execute("CREATE TABLE public.t (id bigint)")
    warehouse.execute("CREATE TABLE t (id bigint)")
    warehouse.execute_many("INSERT INTO t (id) VALUES (:id)", [{"id": 1}, {"id": 2}])
    warehouse.execute("INSERT INTO t (id) VALUES (3); INSERT INTO t (id) VALUES (4)")
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with warehouse.get_connection() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t (id) VALUES (:id)"), {"id": 5})
    assert rows(warehouse) == rows(direct) == [(n,) for n in range(1, 6)]
    assert warehouse.scan_query("SELECT id FROM t WHERE id > :id", {"id": 4}).to_arrow().to_pylist() == [{"id": 5}]
    assert warehouse.fetch_one("SELECT current_setting('TimeZone')") == ("UTC",)
    assert warehouse.scan_query("SELECT current_setting('TimeZone') AS zone").to_arrow().to_pylist() == [
        {"zone": "UTC"}
    ]


def test_nothing_is_left_for_the_next_client(warehouse: Postgres, pooler: PgBouncer, pg_database: Address) -> None:
    """Neither a setting nor a table nor a prepared statement stays in a connection of the pooler's."""
    warehouse.load(table_of([1]), "t", mode="upsert", key=["id"])
    warehouse.fetch_all("SELECT * FROM t WHERE id = :id", {"id": 1})
    warehouse.scan("t").to_arrow()
    with warehouse.get_connection() as connection:
        connection.exec_driver_sql("SELECT 1")
    with pytest.raises(UnsupportedError):
        warehouse.execute("VACUUM t")
    warehouse.close()
    for _ in range(20):  # the pooler hands its connections out in turn
        with pooler.address(pg_database).connect(sslmode="disable") as other:
            found = other.execute(
                "SELECT current_setting('search_path'), current_setting('lock_timeout'), (SELECT count(*) FROM "
                "pg_prepared_statements), (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())"
            ).fetchone()
            assert found == ('"$user", public', "0", 0, 0)


def test_what_no_transaction_holds_needs_the_roles_own_schema(
    warehouse: Postgres, pooler: PgBouncer, pg_database: Address
) -> None:
    """It runs where the role's schema is the block's; else the error says what to do."""
    warehouse.load(table_of([1]), "t")
    with contextlib.closing(block(pooler.address(pg_database), schema="public")) as in_public:
        in_public.execute(f"VACUUM {SCHEMA}.t")
        in_public.execute(f"CREATE INDEX CONCURRENTLY i ON {SCHEMA}.t (id)")
    with pytest.raises(UnsupportedError, match=r"cannot run in a transaction.*reaches the server directly.*ALTER ROLE"):
        warehouse.execute("VACUUM t")


def test_other_clients_connect(warehouse: Postgres) -> None:
    """Those that the block hands out, and those that take its profile for dbt."""
    with warehouse.get_client() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    psycopg2 = pytest.importorskip("psycopg2")
    profile = warehouse.dbt_output()
    names = {"user", "host", "port", "dbname", "password", "sslmode", "connect_timeout", "keepalives_idle"}
    options = {name: str(value) for name, value in profile.items() if name in {*names, "application_name"}}
    options["password"] = profile["password"].get_secret_value()
    with psycopg2.connect(**options) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_lost_commit_is_found_behind_a_pooler(
    pooler: PgBouncer, pg_database: Address, direct: Postgres, mode: Any
) -> None:
    """A load is resolved from the ledger, a statement from what became of its transaction."""
    direct.load(table_of([]), "t", load_id="first")
    with (
        FaultProxy("127.0.0.1", pooler.port) as proxy,
        contextlib.closing(block(pg_database.through(proxy.port))) as behind,
    ):
        for fault in (proxy.drop_answer_to, proxy.hold_back):
            fault("commit")
            behind.load(table_of([len(proxy.faults_fired)]), "t", mode=mode, **ARGUMENTS[mode])
            fault("commit")
            behind.execute("INSERT INTO t (id) VALUES (7)")
            proxy.release()
        assert len(proxy.faults_fired) == 4
    assert rows(direct, columns="id") == [(0,), (2,), (7,), (7,)]


def test_wide_rows_pass(warehouse: Postgres) -> None:
    """A COPY of many messages in both directions."""
    data = pa.table({"id": range(1_000), "text": ["x" * 10_000] * 1_000})
    warehouse.load(data, "t", mode="replace")
    assert warehouse.scan_query("SELECT id, text FROM t WHERE id >= :id", {"id": 0}).to_arrow().num_rows == 1_000
