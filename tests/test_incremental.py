"""Loads that read on: what the kit decides, whatever the engine, shown on DuckDB."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import cloudpickle
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from blocks.arrow.marks import IncrementalScan, Mark, Window
from blocks.arrow.scan import Scan
from blocks.base.errors import InvalidInputError, SchemaError, TerminalError, UnsupportedError
from blocks.base.retry import RetryPolicy
from blocks.testing.fixtures import Killer
from blocks.testing.moments import Strike, striking
from blocks.warehouses.since import MOST_AT_BOUNDARY
from connectors.duckdb import DuckDB
from tests.contracts.warehouse import count, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks.testing.moments import Moment

RETRY = RetryPolicy(attempts=5, first_delay_s=0)
UPSERT: dict[str, Any] = {"mode": "upsert", "key": ["id"]}


@pytest.fixture
def warehouse() -> Iterator[DuckDB]:
    with contextlib.closing(DuckDB(path=":memory:", retry=RETRY)) as block:
        block.execute("CREATE TABLE src (id BIGINT, seq BIGINT, note VARCHAR)")
        block.execute("INSERT INTO src VALUES (1, 1, 'x'), (2, 2, 'x')")
        yield block


def since(warehouse: DuckDB, **options: Any) -> Any:
    what = options if "query" in options else {"table": "src", **options}
    return warehouse.scan_since(**{"cursor": "seq", **what})


def test_another_source_under_an_old_state_is_an_error_that_names_both(warehouse: DuckDB) -> None:
    """Another table, query, parameter, cursor, type, target or mode; and nothing was loaded, or is skipped."""
    warehouse.execute("CREATE TABLE other AS SELECT * FROM src")
    query = "SELECT * FROM src WHERE id > :least"
    warehouse.load(since(warehouse), "t", state="of a table")
    warehouse.load(since(warehouse, query=query, parameters={"least": 0}), "q", state="of a query")
    changes: list[tuple[Any, str, str, dict[str, Any], str]] = [
        (since(warehouse, table="other"), "t", "of a table", {}, r"memory:/src', not '.*memory:/other'"),
        (since(warehouse, cursor="id"), "t", "of a table", {}, "cursor 'seq', not 'id'"),
        (since(warehouse), "t2", "of a table", {}, "the table 't', not to 't2'"),
        (since(warehouse), "t", "of a table", UPSERT, "mode 'append', not 'upsert'"),
        (since(warehouse, query=query, parameters={"least": 1}), "q", "of a query", {}, "query '[0-9a-f]+', not '"),
        (since(warehouse, query="FROM src"), "t", "of a table", {}, "query None, not '"),
    ]
    for scan, table, state, options, words in changes:
        with pytest.raises(InvalidInputError, match=words) as caught:
            warehouse.load(scan, table, state=state, **options)
        assert "Nothing was loaded" in str(caught.value)
    warehouse.execute("ALTER TABLE src ALTER seq TYPE VARCHAR")
    with pytest.raises(InvalidInputError, match="type 'number', not 'text'"):
        warehouse.load(since(warehouse), "t", state="of a table")
    warehouse.set_state("of a table", 1)
    assert warehouse.load(since(warehouse, table="other", cursor="id"), "t", state="of a table").rows == 2


def test_a_target_that_is_gone_is_not_taken_for_loaded(warehouse: DuckDB) -> None:
    """The state says that it holds rows which it does not: somebody has to say what is to become of it."""
    warehouse.load(since(warehouse), "t", state="s")
    warehouse.drop_table("t")
    with pytest.raises(InvalidInputError, match=r"is gone.*reset_state\('s'\)"):
        warehouse.load(since(warehouse), "t", state="s")
    warehouse.reset_state("s")
    assert warehouse.load(since(warehouse), "t", state="s").rows == 2


@pytest.mark.parametrize(
    ("scan", "options", "words"),
    [
        ({}, {}, "needs a name for how far it is"),
        ({}, {"state": "s", "mode": "replace"}, "would remove rows"),
        ({}, {"state": "s", "mode": "replace_partition", "partition_by": ["note"]}, "would remove rows"),
        ({}, {"state": "s", "load_id": "x"}, "needs no load_id"),
        ({"cursor": "nothing"}, {"state": "s"}, "has no column 'nothing'"),
        ({"cursor": "d", "query": "SELECT 0.5::DOUBLE AS d"}, {"state": "s"}, "is no cursor"),
        ({"lag": 1}, {"state": "s"}, "would double the rows"),
        ({"lag": dt.timedelta(1)}, {"state": "t", **UPSERT}, "its lag is a number"),
        ({"until": "soon"}, {"state": "s"}, "until is not a number"),
        ({"until": 1}, {"state": "t", **UPSERT}, "until lies before"),
        ({"cursor": "note", "until": "y"}, {"state": "s"}, "not taken for a cursor that is a text"),
    ],
)
def test_what_does_not_fit_is_refused(
    warehouse: DuckDB, scan: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    """Before anything is read or written."""
    warehouse.load(since(warehouse), "t", state="t", **UPSERT)
    with pytest.raises(InvalidInputError, match=words):
        warehouse.load(since(warehouse, **scan), "t", **options)
    assert count(warehouse) == 2
    assert len(warehouse.states()) == 1


def test_what_is_no_incremental_source_has_no_state(warehouse: DuckDB) -> None:
    """A plain scan, a publication and parts have none."""
    with pytest.raises(InvalidInputError, match="can be read on"):
        warehouse.load(warehouse.scan("src"), "t", state="s")
    with pytest.raises(InvalidInputError, match="publish takes no state"):
        warehouse.publish("src", "t", state="s")
    with pytest.raises(UnsupportedError, match="cannot be divided"), since(warehouse).partitions(2):
        pass
    for arguments in ({"table": "src", "query": "FROM src"}, {}):
        with pytest.raises(InvalidInputError, match="either a table or query"):
            warehouse.scan_since(cursor="seq", **arguments)
    with pytest.raises(InvalidInputError, match="not negative"):
        since(warehouse, lag=-1)
    with pytest.raises(InvalidInputError, match="either a value"):
        warehouse.set_state("s")


def test_by_itself_it_is_a_scan_of_everything(warehouse: DuckDB) -> None:
    """It reads, maps, pickles and plans like any other; what it is mapped by applies to each window."""
    scan = since(warehouse)
    assert scan.to_arrow().num_rows == 2
    doubled = scan.map_batches(lambda batch: pa.record_batch({"id": pc.multiply(batch["id"], 2), "seq": batch["seq"]}))
    assert isinstance(cloudpickle.loads(cloudpickle.dumps(doubled)), IncrementalScan)
    warehouse.load(doubled.select(["id"]), "t", state="s")
    warehouse.execute("INSERT INTO src VALUES (7, 3, 'x')")
    plan = warehouse.plan(doubled.select(["id"]), "t", state="s")
    assert "state s: s: reads on from 2 (append" in str(plan)
    warehouse.load(doubled.select(["id"]), "t", state="s")
    assert rows(warehouse) == [(14,), (2,), (4,)]
    assert doubled.cache_identity() != scan.cache_identity()


def test_rows_that_are_refused_count_as_read(warehouse: DuckDB) -> None:
    """They are in the quarantine, and the mark is behind them."""
    scan = since(warehouse).reject(lambda batch: pc.equal(batch["id"], 2), "no twos")
    report = warehouse.load(scan, "t", state="s", max_rejected=0.5)
    assert (report.rows, report.rows_rejected, report.mark and report.mark.value) == (1, 1, "2")
    assert warehouse.load(scan, "t", state="s", max_rejected=0.5).rows_rejected == 0


def test_many_ties_are_known_by_their_number(warehouse: DuckDB) -> None:
    """More rows of one value than are told apart: nothing comes twice, and more of them later are refused."""
    many = MOST_AT_BOUNDARY + 1
    warehouse.execute(f"INSERT INTO src SELECT n, 7, 'tie' FROM range({many}) AS r(n)")
    report = warehouse.load(since(warehouse), "t", state="s")
    assert report.rows == many + 2
    assert report.mark is not None
    assert len(report.mark.model_dump_json()) < 1_000
    assert warehouse.load(since(warehouse), "t", state="s").rows == 0
    warehouse.execute("INSERT INTO src VALUES (8, 8, 'x')")
    assert warehouse.load(since(warehouse), "t", state="s").rows == 1
    warehouse.set_state("s", number=2)
    warehouse.execute("INSERT INTO src VALUES (9, 7, 'one more')")
    with pytest.raises(InvalidInputError, match=rf"{many} rows had the highest value .* now {many + 1} rows"):
        warehouse.load(since(warehouse), "t", state="s")
    assert count(warehouse) == many + 3


def test_ties_are_told_apart_by_what_they_held_then(warehouse: DuckDB) -> None:
    """A column that is new makes no row new; one that is gone, or another type, is an error."""
    warehouse.load(since(warehouse), "t", state="s")
    warehouse.execute("ALTER TABLE src ADD COLUMN extra INTEGER DEFAULT 5")
    warehouse.execute("INSERT INTO src VALUES (3, 2, 'x', 1)")
    assert warehouse.load(since(warehouse), "t", state="s").rows == 1
    assert warehouse.load(since(warehouse), "t", state="s").rows == 0
    warehouse.execute("ALTER TABLE src DROP COLUMN note")
    with pytest.raises(SchemaError, match="'note' was dropped or changed"):
        warehouse.load(since(warehouse), "t", state="s")


@pytest.mark.parametrize(
    ("kind", "values", "lag", "expected"),
    [
        ("TIMESTAMP_NS", ["2025-12-31 23:59:59.999999999", "2026-01-01 00:00:01"], dt.timedelta(seconds=1), 1),
        ("TIMESTAMP_NS", ["2026-01-01 00:00:00", "2026-01-01 00:00:01"], dt.timedelta(seconds=1), 2),
        ("DATE", ["2026-02-27", "2026-03-01"], dt.timedelta(days=1, hours=1), 2),
        ("DATE", ["2026-02-27", "2026-03-01"], dt.timedelta(days=1), 1),
        ("DECIMAL(9, 2)", ["0.99", "2.50"], 1, 1),
        ("DECIMAL(9, 2)", ["1.50", "2.50"], 1, 2),
    ],
)
def test_a_lag_is_exact(warehouse: DuckDB, kind: str, values: list[str], lag: Any, expected: int) -> None:
    """The window begins just so far behind the highest value."""
    warehouse.execute(f"CREATE TABLE lags (id BIGINT, seq {kind})")
    for number, value in enumerate(values):
        warehouse.execute(f"INSERT INTO lags VALUES ({number}, '{value}')")
    scan = warehouse.scan_since("lags", cursor="seq", lag=lag)
    warehouse.load(scan, "t", state="s", **UPSERT)
    assert warehouse.load(scan, "t", state="s", **UPSERT).rows == expected


@pytest.mark.parametrize("until", [dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T02:00:00+02:00", Decimal(5), 5])
def test_an_end_is_a_value_of_the_cursor(warehouse: DuckDB, until: Any) -> None:
    """As Python's value or as its text; what has that value is left for later."""
    kind = "TIMESTAMPTZ" if not isinstance(until, Decimal | int) else "BIGINT"
    values = ["2026-01-01 00:00Z", "2026-01-02 00:00Z"] if kind == "TIMESTAMPTZ" else ["4", "5"]
    warehouse.execute(f"CREATE TABLE ends (id BIGINT, seq {kind})")
    warehouse.execute(f"INSERT INTO ends VALUES (1, '{values[0]}'), (2, '{values[1]}')")
    for end, expected in ((until, 1), (None, 1)):
        scan = warehouse.scan_since("ends", cursor="seq", until=end)
        assert warehouse.load(scan, "t", state="s").rows == expected


def test_a_source_that_is_not_read_to_its_end_has_no_mark(warehouse: DuckDB) -> None:
    """A step that stops early would make the mark pass rows that nobody has seen."""

    def first_only(mark: Mark | None, mode: str) -> Window:
        window = since(warehouse)._since(mark, mode)
        taken = Scan(window.scan.schema, lambda _: [window.scan.to_arrow().to_batches()[0].slice(0, 0)], source="x")
        untouched = since(warehouse)._since(mark, mode)
        return Window(taken, untouched.mark)

    scan = IncrementalScan(warehouse.scan("src"), of=dict, since=first_only)
    with pytest.raises(TerminalError, match="not read to its end"):
        warehouse.load(scan, "t", state="s")


def test_the_faster_load_is_told_of(warehouse: DuckDB, caplog: pytest.LogCaptureFixture) -> None:
    """A load that another one, or a person, has passed says so, and reads on from there."""
    warehouse.load(since(warehouse), "t", state="s", **UPSERT)

    def reset() -> None:
        with caplog.at_level(logging.WARNING):
            warehouse.reset_state("s")

    with striking(Strike("begin", reset)) as strike:
        report = warehouse.load(since(warehouse), "t", state="s", **UPSERT)
    assert strike.fired
    assert (report.load_id, report.rows) == ("s#3", 2)
    assert "another load of state s was faster, or it was set" in caplog.text


MOMENTS: list[Moment] = ["begin", "rows", "claim", "commit", "committed"]


@pytest.mark.parametrize("mode", ["append", pytest.param("upsert", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    "moment", [*(pytest.param(each, marks=pytest.mark.thorough) for each in MOMENTS[:-1]), MOMENTS[-1]]
)
def test_a_kill_neither_skips_nor_repeats(tmp_path: Path, moment: Moment, mode: str) -> None:
    """A process that is killed (SIGKILL) at any moment: after the next one each row is there once."""
    source, target = DuckDB(path=str(tmp_path / "source.duckdb")), DuckDB(path=str(tmp_path / "target.duckdb"))
    source.execute("CREATE TABLE src (id BIGINT, seq BIGINT)")
    options: dict[str, Any] = {"mode": mode, "key": ["id"] if mode == "upsert" else []}

    def load() -> Any:
        return target.load(source.scan_since("src", cursor="seq"), "t", state="s", **options)

    source.execute("INSERT INTO src VALUES (1, 1), (2, 2)" + (", (2, 2)" if mode == "append" else ""))
    load()
    source.execute("INSERT INTO src VALUES (3, 2), (4, 3)")
    Killer()(moment, load)
    load()
    assert rows(target) == rows(source, "src")
    (state,) = target.states()
    assert (state.number, state.mark and state.mark.value) == (3 if moment == "committed" else 2, "3")


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_text_is_in_the_order_of_its_collation(warehouse: DuckDB, mode: str) -> None:
    """The engine says which text is the highest: by letters, where its bytes say otherwise."""
    warehouse.execute("CREATE TABLE words (id BIGINT, word VARCHAR COLLATE NOCASE)")
    options: dict[str, Any] = UPSERT if mode == "upsert" else {}
    for number, word in enumerate(["a", "B", "c", "D"]):
        warehouse.execute("INSERT INTO words VALUES (:id, :word), (:id + 10, :word)", {"id": number, "word": word})
        report = warehouse.load(warehouse.scan_since("words", cursor="word"), "t", state="s", **options)
        assert (report.inserted, report.mark and report.mark.value) == (2, word)
    assert rows(warehouse) == rows(warehouse, "words")
