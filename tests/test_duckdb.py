"""DuckDB: the promises of every warehouse, and what only an embedded database can get wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pytest

from blocks.arrow.scan import Scan
from blocks.base.errors import (
    AccessDeniedError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from connectors.duckdb import DuckDB
from connectors.duckdb.errors import ERRORS, translate
from connectors.duckdb.memory import BYTES_A_THREAD, LEAST_BYTES, in_bytes
from connectors.duckdb.session import DuckDBSession
from tests.contracts.incremental import *  # noqa: F403
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import UTC, a_ledger_without_its_key_is_refused, count, rows, table_of, tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks.arrow.rejects import Rejects

ALIKE_IN_MEMORY = {
    "test_a_parameter_that_is_not_given_is_named",
    "test_a_type_that_no_column_holds_is_refused",
    "test_an_allowed_loss_makes_no_value_up",
    "test_an_error_amid_a_result_is_told_apart",
    "test_any_value_comes_back_exactly",
    "test_arguments_that_do_not_fit_are_refused",
    "test_columns_may_have_any_name",
    "test_cursors_keep_their_values",
    "test_errors_of_sql_are_told_apart",
    "test_every_dtype_of_a_frame_comes_back_or_is_refused",
    "test_parameters_are_bound_by_name",
    "test_parameters_may_be_written_as_elsewhere",
    "test_quoted_text_holds_no_parameters",
    "test_tables_and_schemas_may_have_any_name",
    "test_types_of_duckdb_are_read",
    "test_types_that_fit_are_loaded",
    "test_types_that_lose_something_are_refused",
    "test_a_session_belongs_to_its_task",
    "test_a_session_belongs_to_who_opened_it",
    "test_a_with_in_a_flow_is_one_session",
    "test_what_only_a_session_keeps_is_refused_elsewhere",
}
"""What is about SQL, names and types, for which it makes no difference where the database is."""

NEEDS_A_FILE = {
    "test_a_with_is_one_session",
    "test_pages_follow_each_other",
    "test_prefects_other_names_are_there",
    "test_what_was_not_committed_is_undone",
}
"""What looks after a `with`, whose end closes the block, and with it what is in memory."""

CONTRACT_CASES = 2
"""Of each test of the contract, which runs in two places here: PostgreSQL shows all in every run."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every promise in memory, and but for those that are alike there in a file; `--thorough` has all in both."""
    if "warehouse" in metafunc.fixturenames:
        name = metafunc.definition.originalname
        in_file = metafunc.config.getoption("--thorough") or name not in ALIKE_IN_MEMORY
        places = ["file"] if name in NEEDS_A_FILE else ["file", "memory"] if in_file else ["memory"]
        metafunc.parametrize("warehouse", places, indirect=True)


def test_what_is_left_out_is_there() -> None:
    """A test that was renamed does not stay in the list by its old name."""
    assert {name for name in ALIKE_IN_MEMORY | NEEDS_A_FILE if name not in globals()} == set()


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DuckDB]:
    retry = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)
    with contextlib.closing(
        DuckDB(path=":memory:" if request.param == "memory" else str(tmp_path / "test.duckdb"), retry=retry)
    ) as block:
        yield block


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"large decimal"}


def test_large_loads_are_seen_by_their_own_transaction(warehouse: DuckDB) -> None:
    """DuckDB 2.0 hides rows that came by Arrow from the transaction that they came in; a load counts all of its own."""
    for text in ("old", "new"):
        data = pa.table({"id": range(300_000), "text": [text] * 300_000})
        report = warehouse.load(data, "t", mode="upsert", key=["id"])
    assert (report.inserted, report.updated) == (0, 300_000)
    assert warehouse.fetch_all("SELECT text, count(*), count(DISTINCT id) FROM t GROUP BY text") == [
        ("new", 300_000, 300_000)
    ]


def test_a_commit_that_undoes_is_an_error(warehouse: DuckDB) -> None:
    """DuckDB says nothing where it undoes a transaction of which a statement failed."""
    warehouse.load(table_of([1]), "t")
    with warehouse:
        warehouse.execute("BEGIN")
        warehouse.execute("INSERT INTO t (id) VALUES (2)")
        with pytest.raises(InvalidInputError):
            warehouse.execute("INSERT INTO t (id) VALUES (CAST('x' AS INTEGER))")
        with pytest.raises(TerminalError, match="COMMIT undid the transaction"):
            warehouse.execute("COMMIT")
        assert count(warehouse) == 1


def test_every_error_of_the_driver_is_known() -> None:
    """No exception class of DuckDB is without a class of ours."""
    found = [value for value in vars(duckdb).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(found) > 20
    assert {kind.__name__ for kind in found} - set(ERRORS) == set()
    for kind in found:
        error = translate(kind("Some Error: what happened"), "run a statement", "duckdb://x")
        assert isinstance(error, ConnectorError)
        assert "duckdb://x" in str(error)


def test_tables_are_found_whatever_their_case(warehouse: DuckDB) -> None:
    """To DuckDB `T` is `t`: a load replaces its rows, and takes it for no new table."""
    warehouse.load(table_of([1, 2]), "T")
    plan = warehouse.plan(table_of([3]), "t", mode="replace")
    report = warehouse.load(table_of([3]), "t", mode="replace")
    assert (plan.creates_table, report.deleted) == (False, 2)
    assert rows(warehouse, columns="id") == [(3,)]


def test_columns_that_differ_by_case_are_refused(warehouse: DuckDB) -> None:
    """They would be one column, so the error names both, in new tables and in old ones."""
    with pytest.raises(SchemaError, match="the columns 'A', 'a' have one name to duckdb"):
        warehouse.load(pa.table({"a": [1], "A": [2]}), "t")
    warehouse.load(pa.table({"Id": [1]}), "t")
    for call in (warehouse.plan, warehouse.load):
        with pytest.raises(SchemaError, match=r"'id'.*'Id'"):
            call(pa.table({"id": [2]}), "t")
    assert rows(warehouse) == [(1,)]


def test_text_may_hold_any_character(warehouse: DuckDB) -> None:
    """NUL included."""
    warehouse.load(pa.table({"text": ["a\0b", "\0"]}), "t")
    assert rows(warehouse) == [("\0",), ("a\0b",)]


def test_a_file_that_another_process_writes_is_named(tmp_path: Path) -> None:
    """The error says what to do, and is worth a retry."""
    path = tmp_path / "test.duckdb"
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # noqa: S603
        assert other.stdout is not None
        other.stdout.readline()
        block = DuckDB(path=str(path), retry=RetryPolicy(attempts=2, first_delay_s=0))
        with pytest.raises(TransientError, match="another process has the file open"):
            block.fetch_one("SELECT 1")
        other.communicate()
    assert block.fetch_one("SELECT 1") == (1,)


def test_a_file_can_be_read_only(tmp_path: Path) -> None:
    """It is read, and neither written nor made."""
    path = str(tmp_path / "test.duckdb")
    reader = DuckDB(path=path, read_only=True)
    with pytest.raises(NotFoundError, match=r"test\.duckdb"):
        reader.check()
    DuckDB(path=path).load(table_of([1]), "t")
    assert count(reader) == 1
    with pytest.raises(AccessDeniedError, match="open for reading only"):
        reader.load(table_of([2]), "t")


def test_a_slow_source_holds_nobody_up(warehouse: DuckDB) -> None:
    """Rows that are added go straight into the table, beside other loads into the same one, of whatever mode."""
    warehouse.load(table_of([1]), "t")

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        yield from table_of([2]).to_batches()
        with ThreadPoolExecutor(1) as other:
            other.submit(warehouse.load, table_of([3]), "t").result(timeout=20)
            other.submit(warehouse.load, table_of([4]), "t", mode="replace").result(timeout=20)
            other.submit(warehouse.load, table_of([5]), "u").result(timeout=20)
        yield from table_of([6]).to_batches()

    report = warehouse.load(Scan(table_of([]).schema, batches, source="a slow source"), "t")
    assert report.inserted == 2
    assert rows(warehouse, columns="id") == [(2,), (4,), (6,)]


def test_a_column_that_another_load_adds_meanwhile(warehouse: DuckDB) -> None:
    """DuckDB fails the transaction that had begun before; the load runs again, and no row is lost or doubled."""
    warehouse.load(pa.table({"id": [1]}), "t")
    reads: list[int] = []

    def batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
        reads.append(1)
        yield from pa.table({"id": [2]}).to_batches()
        if len(reads) == 1:
            with ThreadPoolExecutor(1) as other:
                other.submit(warehouse.load, pa.table({"id": [3], "more": ["x"]}), "t").result(timeout=20)

    warehouse.load(Scan(pa.schema({"id": pa.int64()}), batches, source="a slow source"), "t")
    assert rows(warehouse) == [(1, None), (2, None), (3, "x")]


def test_a_file_has_a_memory_limit(tmp_path: Path) -> None:
    """Ours, unless the block or somebody who has the file open gave it another one."""
    block = DuckDB(path=str(tmp_path / "test.duckdb"))

    def limit(block: DuckDB) -> float:
        return in_bytes(block.fetch_all("SELECT current_setting('memory_limit')")[0][0])

    assert limit(block) <= 1.1 * max(LEAST_BYTES, BYTES_A_THREAD * (os.cpu_count() or 1))
    with contextlib.closing(block.get_client()) as client:
        client.execute("SET memory_limit = '3GiB'")
        assert limit(block) == 3 * 2**30
    assert limit(DuckDB(path=block.path, memory_limit="200MiB")) == 200 * 2**20
    with pytest.raises(TerminalError, match="needs more memory than memory_limit allows"):
        DuckDB(path=block.path, memory_limit="20MB").fetch_all("SELECT list(range) FROM range(10_000_000)")


def test_memory_lives_as_long_as_its_block() -> None:
    """Two blocks in memory are two databases, and closing one forgets it."""
    first, second = DuckDB(), DuckDB()
    first.load(table_of([1]), "t")
    assert "t" in tables(first)
    assert "t" not in tables(second)
    first.close()
    assert "t" not in tables(first)


@pytest.mark.parametrize(
    ("query", "kind", "value"),
    [
        ("'a'::ENUM('a', 'b')", pa.string(), "a"),
        ("sum(n) FROM range(3) AS r(n)", pa.decimal128(38, 0), Decimal(3)),
        ("'{\"a\": 1}'::JSON", pa.json_(), '{"a": 1}'),
        ("'00112233-4455-6677-8899-aabbccddeeff'::UUID", pa.uuid(), uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")),
        ("TIMESTAMPTZ '2026-04-30 12:00:00+02'", UTC, dt.datetime(2026, 4, 30, 10, tzinfo=dt.UTC)),
        ("INTERVAL '1 month 2 days 3 seconds'", pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 3 * 10**9])),
        ("NULL", pa.null(), None),
    ],
)
def test_types_of_duckdb_are_read(warehouse: DuckDB, query: str, kind: pa.DataType, value: object) -> None:
    """What DuckDB has more than Arrow comes as the nearest exact type, and can be loaded again."""
    found = warehouse.scan_query(f"SELECT {query}").to_arrow()
    assert found.schema.field(0).type.equals(kind) or pa.types.is_dictionary(found.schema.field(0).type)
    assert found.column(0).to_pylist() == [value]
    warehouse.load(found.rename_columns(["x"]), "t")
    assert warehouse.read_table("t")["x"].to_pylist() == [value]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "error", [AccessDeniedError, InvalidInputError, NotFoundError, TransientError, OSError, KeyError]
)
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_whatever_a_commit_raises_the_ledger_is_asked(warehouse, monkeypatch, error, mode):
    """A server that restarts has many words for it: what was committed is found, and what was not is not."""
    warehouse.load(table_of([1]), "t")
    commit, rollback = DuckDBSession.commit, DuckDBSession.rollback

    def committed(session):
        commit(session)
        raise error("the server restarts")

    def lost(session):
        rollback(session)
        raise error("the server restarts")

    with monkeypatch.context() as patch:
        patch.setattr(DuckDBSession, "commit", committed)
        report = warehouse.load(table_of([2, 3]), "t", mode=mode, load_id="found")
    assert (report.rows, report.resolved_from_ledger) == (2, True)
    before = rows(warehouse, columns="id")
    assert before == ([(2,), (3,)] if mode == "replace" else [(1,), (2,), (3,)])
    with monkeypatch.context() as patch:
        patch.setattr(DuckDBSession, "commit", lost)
        with pytest.raises(error if issubclass(error, ConnectorError) else TransientError):
            warehouse.model_copy(update={"retry": RetryPolicy(attempts=1)}).load(table_of([4]), "t", load_id="lost")
    assert rows(warehouse, columns="id") == before
    assert warehouse.load_report("lost") is None


def test_a_ledger_without_its_key_is_refused(warehouse):
    """Nothing is loaded before the key is there."""
    a_ledger_without_its_key_is_refused(warehouse)
