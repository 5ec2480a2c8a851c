"""Every type of pg_type and of duckdb_types(): equal, as text, or refused by the column's name.

`ETL_RECORD_TYPES=1 pytest integration_tests/test_type_walks.py && python docs/tables.py` writes docs/types.md anew.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from blocks.base.errors import SchemaError, TypeLossError
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles, MemoryFiles
from connectors.postgres import Postgres
from integration_tests.type_walk import (
    DUCKDB,
    POSTGRES,
    POSTGRES_MORE,
    POSTGRES_TYPES,
    REFUSED_DUCKDB,
    REFUSED_POSTGRES,
    Walked,
    record,
    recorded,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration_tests.standins.postgres import Address

CATALOGUE = """
SELECT format_type(t.oid, NULL), t.typname::text, e.typname::text
FROM pg_type AS t LEFT JOIN pg_type AS e ON e.typarray = t.oid
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype <> 'p' AND coalesce(e.typtype, 'b') <> 'p'
AND (t.typrelid = 0 AND coalesce(e.typrelid, 0) = 0 OR t.typname IN ('pg_database', '_pg_database'))
ORDER BY t.typname
"""
"""Every type that a column can have; of the row types of the catalogue, which are all read alike, one."""


@pytest.fixture
def postgres(pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(**pg_database.fields())) as block:
        for statement in POSTGRES_TYPES:
            block.execute(statement)
        yield block


@pytest.fixture
def duckdb() -> Iterator[DuckDB]:
    with contextlib.closing(DuckDB()) as block:
        yield block


def check(engine: str, walked: list[Walked]) -> None:
    """What was recorded is what is found, for every type that this server has."""
    if os.environ.get("ETL_RECORD_TYPES"):
        record(engine, walked)
    known = set(recorded()[engine])
    assert [each for each in walked if each not in known] == []


def literal(text: str, sql_type: str) -> str:
    return "'" + text.replace("'", "''") + f"'::{sql_type}"


def test_every_type_of_postgres(postgres: Postgres, duckdb: DuckDB) -> None:
    """Through a scan, into a new table of PostgreSQL and into one of DuckDB."""
    cases: list[tuple[str, str]] = []
    for sql_type, name, element in postgres.fetch_all(CATALOGUE):
        values = POSTGRES.get(element or name, ())
        if element:
            listed = [literal(value, f'pg_catalog."{element}"') for value in values]
            cases.append((sql_type, f"ARRAY[{', '.join([*listed, 'NULL'])}]::{sql_type}"))
            cases.append((sql_type, f"'{{}}'::{sql_type}"))
        else:
            cases += [(sql_type, literal(value, f'pg_catalog."{name}"')) for value in values]
        cases.append((sql_type, f"NULL::{sql_type}"))
    cases += [(sql_type, literal(value, sql_type)) for sql_type, values in POSTGRES_MORE.items() for value in values]
    check("PostgreSQL", walk(postgres, duckdb, cases))


def test_every_type_of_duckdb(duckdb: DuckDB, postgres: Postgres) -> None:
    """Through a scan, into a new table of DuckDB and into one of PostgreSQL."""
    known = {name for (name,) in duckdb.fetch_all("SELECT DISTINCT logical_type FROM duckdb_types()")}
    assert known - {"TYPE"} <= set(DUCKDB)
    cases = [(sql_type, expression) for sql_type, values in DUCKDB.items() for expression in values]
    check("DuckDB", walk(duckdb, postgres, cases))


@pytest.mark.parametrize("expression", REFUSED_DUCKDB)
def test_what_arrow_cannot_hold_of_duckdb_is_refused(duckdb: DuckDB, expression: str) -> None:
    """The error names the column and says what to do, whatever rows are beside it."""
    duckdb.execute(f"CREATE TABLE src AS SELECT {expression} AS x UNION ALL SELECT NULL")
    for call in (duckdb.scan("src").to_arrow, lambda: duckdb.load(duckdb.scan("src"), "dst")):
        with pytest.raises(SchemaError, match=r"Column 'x' holds .* Cast it in the query"):
            call()


@pytest.mark.parametrize(
    ("sql_type", "value"), [(sql_type, value) for sql_type, values in REFUSED_POSTGRES.items() for value in values]
)
def test_what_arrow_cannot_hold_of_postgres_is_refused(postgres: Postgres, sql_type: str, value: str) -> None:
    """The error names the column and says what to do, whatever rows are beside it."""
    if "interval" in sql_type and "infinity" in value and postgres.fetch_one("SHOW server_version_num")[0] < "170000":
        pytest.skip("an infinite interval is new in PostgreSQL 17")
    postgres.execute(f"CREATE TABLE src AS SELECT {literal(value, sql_type)} AS x UNION ALL SELECT NULL")
    with pytest.raises(SchemaError, match=r"Column 'x' .* Cast it in the query"):
        postgres.scan("src").to_arrow()


def test_the_intervals_of_a_parquet_file_are_intervals(duckdb: DuckDB, tmp_path: Path) -> None:
    """Arrow reads them as twelve bytes; those within a list are refused by the column's name."""
    query = "SELECT INTERVAL '1 year 2 days 3.5 seconds' AS x UNION ALL SELECT NULL"
    duckdb.execute(f"COPY ({query}) TO '{tmp_path}/flat.parquet'")
    duckdb.execute(f"COPY (SELECT [INTERVAL '1 day'] AS x) TO '{tmp_path}/nested.parquet'")
    files = LocalFiles(basepath=str(tmp_path))
    duckdb.load(files.scan("flat.parquet"), "dst")
    assert duckdb.read_table("dst").equals(duckdb.scan_query(query).to_arrow())
    with pytest.raises(SchemaError, match="column 'x' has intervals within it"):
        files.scan("nested.parquet").to_arrow()


@pytest.mark.parametrize("value", ["'00112233-4455-6677-8899-aabbccddeeff'::UUID", "'[1]'::JSON"])
def test_uuid_and_json_go_into_parquet_and_back(duckdb: DuckDB, value: str) -> None:
    """Arrow has no kernels for them, and the writer needs none."""
    scan, files = duckdb.scan_query(f"SELECT {value} AS x"), MemoryFiles()
    files.write_table(scan, "t")
    assert files.read_table("t").equals(scan.to_arrow())


@pytest.mark.parametrize("value", ["INTERVAL '1 day'", "[INTERVAL '1 day']", "{'a': INTERVAL '1 day'}"])
def test_an_interval_is_not_written_to_parquet(duckdb: DuckDB, value: str) -> None:
    """Parquet keeps milliseconds of it, so the column is refused by its name."""
    with pytest.raises(TypeLossError, match="column 'x'"):
        MemoryFiles().write_table(duckdb.scan_query(f"SELECT {value} AS x"), "t")
