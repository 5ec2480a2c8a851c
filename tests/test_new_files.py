"""Only new files: each version of an object once, whatever happens; and the columns that say where a row is from."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.base.errors import (
    AmbiguousError,
    InvalidInputError,
    ObjectNotFoundError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.testing.moments import Moment, Strike, striking
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles, MemoryFiles
from tests.contracts.warehouse import rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks.stores.object_store import ObjectStore

SCHEMA = pa.schema({"id": pa.int64(), "note": pa.string()})
RETRY = RetryPolicy(attempts=5, first_delay_s=0)


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    with MemoryFiles() if request.param == "memory" else LocalFiles(basepath=str(tmp_path)) as block:
        yield block


@pytest.fixture
def warehouse() -> Iterator[DuckDB]:
    with contextlib.closing(DuckDB(path=":memory:", retry=RETRY)) as block:
        yield block


def put(store: ObjectStore, key: str, *ids: int, note: str = "x") -> None:
    store.write_path(key, "".join(["id,note\n", *(f"{each},{note}\n" for each in ids)]).encode())


def load_new(store: ObjectStore, warehouse: DuckDB, **scan: Any) -> Any:
    options = {"schema": SCHEMA, **scan}
    return warehouse.load(store.scan_new("in/*.csv", **options), "t", state="files")


def test_each_version_of_a_file_is_loaded_once(store: ObjectStore, warehouse: DuckDB) -> None:
    """New files and changed ones; a file of the same content under another key is another one."""
    put(store, "in/a.csv", 1, 2)
    put(store, "in/b.csv", 3)
    put(store, "in/c.txt", 4)
    assert [load_new(store, warehouse).rows for _ in range(2)] == [3, 0]
    put(store, "in/b.csv", 3, 30)
    put(store, "in/0.csv", 1, 2)
    report = load_new(store, warehouse)
    assert (report.rows, report.mark.facts) == (4, {"files": 2})
    assert [load_new(store, warehouse).rows for _ in range(2)] == [0, 0]
    assert rows(warehouse, columns="id") == [(1,), (1,), (2,), (2,), (3,), (3,), (30,)]


def test_a_state_of_files_goes_back_to_a_load(store: ObjectStore, warehouse: DuckDB) -> None:
    """What came after it is new again; a value is no place to go to, and a reset begins anew."""
    for number in range(3):
        put(store, f"in/{number}.csv", number)
        load_new(store, warehouse)
    warehouse.set_state("files", number=2)
    assert [load_new(store, warehouse).rows for _ in range(2)] == [1, 0]
    warehouse.reset_state("files")
    assert [load_new(store, warehouse).rows for _ in range(2)] == [3, 0]
    warehouse.set_state("files", "in/1.csv")
    with pytest.raises(InvalidInputError, match=r"cannot be set to a value.*number="):
        load_new(store, warehouse)


def test_keys_in_order_need_no_list_of_files(store: ObjectStore, warehouse: DuckDB) -> None:
    """The last key says what is new; a file that sorts before it is not looked at."""
    put(store, "in/2026-01-01.csv", 1)
    put(store, "in/2026-01-02.csv", 2)
    assert load_new(store, warehouse, ordered=True).rows == 2
    put(store, "in/2026-01-01.csv", 9)
    put(store, "in/2026-01-03.csv", 3)
    report = load_new(store, warehouse, ordered=True)
    assert (report.rows, report.mark.value, report.mark.parts) == (1, "in/2026-01-03.csv", "")
    warehouse.set_state("files", "in/2026-01-01.csv")
    assert load_new(store, warehouse, ordered=True).rows == 2
    with pytest.raises(InvalidInputError, match="cursor 'the last key', not 'file versions'"):
        load_new(store, warehouse)


def test_files_that_are_gone_are_no_error_where_the_schema_is_known(store: ObjectStore, warehouse: DuckDB) -> None:
    """An inbox that is emptied after each load: nothing new is nothing to do."""
    with pytest.raises(ObjectNotFoundError):
        load_new(store, warehouse)
    put(store, "in/a.csv", 1)
    load_new(store, warehouse)
    store.delete_objects(["in/a.csv"])
    assert load_new(store, warehouse).rows == 0
    with pytest.raises(ObjectNotFoundError):
        load_new(store, warehouse, schema=None)
    put(store, "in/b.csv", 2)
    assert load_new(store, warehouse).rows == 1


def test_a_file_that_changes_under_a_load_is_loaded_as_it_is_marked(store: ObjectStore, warehouse: DuckDB) -> None:
    """The version that was listed is the one that is read: one that takes its place meanwhile is listed anew."""
    put(store, "in/a.csv", 1)
    put(store, "in/b.csv", 2)
    with (
        striking(Strike("begin", lambda: None)) as begun,
        striking(Strike("claim", lambda: put(store, "in/b.csv", 20, 21))) as changed,
    ):
        load_new(store, warehouse)
    assert begun.fired
    assert changed.fired
    load_new(store, warehouse)
    assert load_new(store, warehouse).rows == 0
    found = rows(warehouse, columns="id")
    assert found in ([(1,), (2,), (20,), (21,)], [(1,), (20,), (21,)])


def test_a_row_says_where_it_is_from(store: ObjectStore) -> None:
    """The key of its file and its number in it, also behind a condition; a name that is taken is refused."""
    put(store, "in/a.csv", 1, 2, 3)
    put(store, "in/day=7/b.csv", 4)
    named = {"file_column": "file", "row_column": "row"}
    table = store.scan("in", schema=SCHEMA, where=[("id", ">", 1)], **named).to_arrow()
    assert table.to_pylist() == [
        {"id": 2, "note": "x", "file": "in/a.csv", "row": 2},
        {"id": 3, "note": "x", "file": "in/a.csv", "row": 3},
        {"id": 4, "note": "x", "file": "in/day=7/b.csv", "row": 1},
    ]
    assert store.scan("in/a.csv", columns=["id"], file_column="f").schema.names == ["id", "f"]
    with pytest.raises(InvalidInputError, match="'note' already"):
        store.scan("in/a.csv", file_column="note").to_arrow()
    store.write_table(pa.table({"id": range(50_000)}), "p")
    scan = store.scan("p", where=[("id", ">=", 49_999)], row_column="row")
    assert scan.to_arrow().to_pylist() == [{"id": 49_999, "row": 50_000}]
    with scan.partitions(4) as parts:
        assert [row for part in parts for row in part.to_arrow()["row"].to_pylist()] == [50_000]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in range(1, 20))])
def test_a_history_of_files_and_faults_ends_in_each_version_once(
    store: ObjectStore, warehouse: DuckDB, seed: int
) -> None:
    """Random new and changed files, broken loads and lost answers: each version that a load listed is there once."""
    draw, wanted, at = random.Random(seed), [], 0
    for step in range(10):
        for _ in range(draw.randint(0, 3)):
            at += 1
            put(store, f"in/{draw.randint(0, 4)}-{at if draw.random() < 0.7 else 0}.csv", at, note=str(at))
        if not step and not at:
            put(store, "in/first.csv", -1, note="-1")
        listed = {each["Key"]: each["ETag"] for each in store.list_objects("in")}
        wanted += [(key, tag) for key, tag in listed.items() if (key, tag) not in wanted]
        moment: Moment | None = draw.choice((None, "committed", "commit", "rows"))
        error: Exception = AmbiguousError("lost") if moment == "committed" else TransientError("broken")

        def lose(error: Exception = error) -> None:
            raise error

        with striking(Strike(moment or "begin", lose, times=1 if moment else 0)):
            load_new(store, warehouse, file_column="file")
    assert len(rows(warehouse)) == len(wanted)
    assert len(set(rows(warehouse))) == len(wanted)
