"""What docs/operations.md says of rights and of the ledger, found out on a real server."""

from __future__ import annotations

import functools
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from prefect import flow
from pydantic import SecretStr

from blocks import AccessDeniedError, NotFoundError, Scan
from connectors.local import MemoryFiles
from connectors.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address, PostgresServer

PAGE = Path(__file__).parents[1] / "docs/operations.md"
SCHEMA = pa.schema({"id": pa.int64(), "day": pa.date32(), "amount": pa.float64()})
MODES: dict[str, dict[str, Any]] = {
    "append": {"mode": "append"},
    "replace": {"mode": "replace"},
    "upsert": {"mode": "upsert", "key": ["id"]},
    "upsert, no unique index": {"mode": "upsert", "key": ["id"]},
    "replace_partition": {"mode": "replace_partition", "partition_by": ["day"]},
}
RIGHTS = {
    "orders": ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"),
    "_etl_loads": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "_etl_quarantine": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "schema": ("USAGE",),
    "database": ("TEMPORARY",),
}


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Address]:
    """One that may keep the rights that it is given."""
    address = postgres_server.new_database()
    yield address
    postgres_server.drop_database(address)


@pytest.fixture
def warehouse(database: Address) -> Iterator[Postgres]:
    """The block of the tables' owner."""
    with Postgres(**database.fields()) as block:
        yield block


@functools.cache
def store() -> MemoryFiles:
    """One for all loads, by which they see that it is the same data."""
    files = MemoryFiles()
    files.write_path("orders.csv", b"id,day,amount\n1,2026-04-30,2.5\n2,2026-04-30,x\n3,2026-05-01,1.5\n")
    return files


def orders() -> Scan:
    """Two orders, and a row that is none."""
    return store().scan("orders.csv", on_error="quarantine", schema=SCHEMA)


def sentence(verb: str, right: str, place: str, role: str, database: str) -> str:
    """The statement that grants or revokes a right."""
    named = {"schema": "SCHEMA public", "database": f'DATABASE "{database}"'}.get(place, f"TABLE {place}")
    return f"{verb} {right} ON {named} {'TO' if verb == 'GRANT' else 'FROM'} {role}"


def recorded() -> dict[str, dict[str, tuple[str, ...]]]:
    """The table of the page: the rights of each mode, by place."""
    text = PAGE.read_text("utf-8").partition("<!-- rights")[2].split("\n\n")[1]
    head, *rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    places = [re.sub(r"[`*]|the ", "", cell) for cell in head.split(" | ")[1:]]
    table = {}
    for row in rows:
        mode, *cells = row.split(" | ")
        table[mode.replace("`", "")] = {
            place: tuple(re.findall(r"[A-Z]+", cell)) for place, cell in zip(places, cells, strict=True)
        }
    return table


def refusal(loader: Postgres, options: dict[str, Any]) -> str:
    """What a load says that lacks a right, one without a load_id or one with; empty where it lacks none."""
    try:
        for load_id in (None, uuid.uuid4().hex):
            loader.load(orders(), "orders", **options, load_id=load_id)
    except (AccessDeniedError, NotFoundError) as error:
        return str(error)
    return ""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_needs_exactly_these_rights(mode: str, warehouse: Postgres, database: Address) -> None:
    """Of all that could be granted, each is taken away once: refused by its name, or not needed, as the page says."""
    options = MODES[mode] | {"max_rejected": 0.5}
    role = f"loader_{uuid.uuid4().hex[:8]}"
    for _ in range(2):  # the second one replaces what the first one rejected
        warehouse.load(orders(), "orders", **options)
    if mode == "upsert, no unique index":
        warehouse.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    warehouse.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'l0ader'")
    public = f'REVOKE ALL ON SCHEMA public FROM public; REVOKE ALL ON DATABASE "{database.database}" FROM public'
    warehouse.execute(f'{public}; GRANT CONNECT ON DATABASE "{database.database}" TO {role}')
    loader = warehouse.model_copy(update={"username": role, "password": SecretStr("l0ader")})

    def change(verb: str, right: str, place: str) -> None:
        warehouse.execute(sentence(verb, right, place, role, database.database))

    every = [(right, place) for place, rights in RIGHTS.items() for right in rights]
    try:
        for right, place in every:
            change("GRANT", right, place)
        assert loader.load(orders(), "orders", **options).rows == 2
        needed: dict[str, list[str]] = {place: [] for place in RIGHTS}
        for right, place in every:
            change("REVOKE", right, place)
            if message := refusal(loader, options):
                needed[place].append(right)
                assert re.search(rf"\b{right}\b", message), message
                assert place in message
            change("GRANT", right, place)
        for right, place in every:
            if right not in needed[place]:
                change("REVOKE", right, place)
        assert loader.load(orders(), "orders", **options, load_id="once").rows == 2
        assert loader.load(orders(), "orders", **options, load_id="once").already_loaded
        assert recorded()[mode] == {place: tuple(rights) for place, rights in needed.items()}
    finally:
        warehouse.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


MANY = 20_000


@pytest.mark.usefixtures("prefect_server")
def test_no_load_reads_the_whole_ledger(warehouse: Postgres, database: Address) -> None:
    """However many loads there were: what it looks for has an index, in every mode, with a load_id or without."""
    warehouse.load(orders(), "orders", mode="append", load_id="seed", max_rejected=0.5)
    warehouse.execute(
        f"INSERT INTO _etl_loads SELECT 'old/' || g, table_name, 'upsert', row_count, 0, flow_run_id, started_at, "
        f"finished_at, report, version, 'call ' || g, attempt FROM _etl_loads, generate_series(1, {MANY}) AS g"
    )
    warehouse.execute("VACUUM ANALYZE _etl_loads")

    @flow
    def loads() -> None:
        for number, options in enumerate(MODES.values()):
            warehouse.load(orders(), f"t{number}", **options, max_rejected=0.5)
            warehouse.load(orders(), f"t{number}", **options, max_rejected=0.5, load_id=f"t{number}")

    def read() -> int:
        with database.connect() as connection:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            query = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = '_etl_loads'"
            found: int = connection.execute(query).fetchone()[0]
            return found

    warehouse.close()
    before = read()
    loads()
    warehouse.close()  # what a session has counted is there once it ended
    assert read() - before < MANY
