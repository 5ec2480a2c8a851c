"""What every warehouse promises of loads that read on. Star-imported by a module that has the fixture `warehouse`.

The source is a table of the same warehouse.
"""

from __future__ import annotations

import datetime as dt
import random
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.base.errors import AmbiguousError, InvalidInputError, NotFoundError, TransientError
from blocks.testing.moments import Moment, Strike, striking
from blocks.warehouses.ledger import LEDGER
from tests.contracts.warehouse import count, kept, rows, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocks.warehouses.load import LoadReport
    from blocks.warehouses.warehouse import Warehouse

KEY: dict[str, dict[str, Any]] = {"append": {}, "upsert": {"key": ["id"]}}
EARLY = dt.datetime(2026, 4, 30, 12, 0, 0, 999_999, tzinfo=dt.UTC)
CURSORS: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "int": (pa.int64(), lambda n: 2**53 + n),
    "decimal": (pa.decimal128(20, 3), lambda n: Decimal(n) / 1_000),
    "date": (pa.date32(), lambda n: dt.date(2026, 2, 27) + dt.timedelta(n)),
    "timestamp": (pa.timestamp("us"), lambda n: EARLY.replace(tzinfo=None) + dt.timedelta(microseconds=n)),
    "timestamp with zone": (pa.timestamp("us", "UTC"), lambda n: EARLY + dt.timedelta(microseconds=n)),
    "uuid": (pa.uuid(), lambda n: uuid.UUID(int=(0x19F << 118) + n)),
    "text": (pa.string(), lambda n: f"01J{n:05}'\\"),
}

by_mode = pytest.mark.parametrize("mode", ["append", "upsert"])


def numbered(cursors: list[Any], kind: pa.DataType | None = None, first: int = 1) -> pa.Table:
    """Rows of a source, whose cursor is `seq`."""
    ids = pa.array(range(first, first + len(cursors)), pa.int64())
    return pa.table({"id": ids, "seq": pa.array(cursors, kind or pa.int64()), "note": ["x"] * len(cursors)})


def read_on(warehouse: Warehouse, mode: str = "append", table: str = "t", **scan: Any) -> LoadReport:
    options: dict[str, Any] = {"mode": mode, **KEY[mode]}
    data = warehouse.scan_since("src", **{"cursor": "seq", **scan})
    return warehouse.load(data, table, state=f"{table}/by-seq", **options)


@by_mode
def test_each_load_reads_on_where_the_last_one_ended(warehouse: Warehouse, mode: str) -> None:
    """The first load reads everything, the next what came since; rows at the boundary are there once."""
    warehouse.load(numbered([1, 2, 2]), "src")
    first = read_on(warehouse, mode)
    assert (first.rows, first.state, first.load_id) == (3, "t/by-seq", "t/by-seq#1")
    assert first.mark is not None
    assert first.mark.value == "2"
    assert read_on(warehouse, mode).inserted == 0
    warehouse.load(numbered([2, 2, 3], first=4), "src")
    third = read_on(warehouse, mode)
    assert (third.inserted, third.mark and third.mark.value) == (3, "3")
    assert rows(warehouse, columns="id, seq") == rows(warehouse, "src", "id, seq")
    (state,) = warehouse.states()
    assert (state.name, state.number, state.mode, state.table, state.mark) == (
        "t/by-seq",
        3,
        mode,
        "t",
        third.mark,
    )
    again = warehouse.load_report("t/by-seq#3")
    assert again is not None
    assert again.mark == third.mark
    assert rows(warehouse, LEDGER, "state_name, state_number") == [
        *[("t/by-seq", number) for number in (1, 2, 3)],
        *[(None, None)] * 2,
    ]


@by_mode
def test_a_lost_answer_or_a_lost_attempt_changes_nothing(warehouse: Warehouse, mode: str) -> None:
    """Whether COMMIT arrived and its answer did not, or the load broke before: each row is there once."""
    warehouse.load(numbered([1, 2]), "src")
    lost: list[tuple[Moment, Any]] = [
        ("committed", AmbiguousError("the answer is lost")),
        ("commit", TransientError("the connection is lost")),
        ("rows", TransientError("the connection is lost")),
    ]
    for number, (moment, error) in enumerate(lost):

        def lose(error: Exception = error) -> None:
            raise error

        with striking(Strike(moment, lose)) as strike:
            report = read_on(warehouse, mode)
        assert strike.fired
        assert (report.inserted, report.resolved_from_ledger) == (2, moment == "committed")
        assert rows(warehouse, columns="id, seq") == rows(warehouse, "src", "id, seq")
        warehouse.load(numbered([number + 2, number + 3], first=10 * number + 10), "src")
    assert read_on(warehouse, mode).inserted == 2


@by_mode
def test_two_loads_of_one_state_share_the_rows(warehouse: Warehouse, mode: str) -> None:
    """Of loads that follow the same mark one is committed, the others read on from there: each row is there once."""
    warehouse.load(numbered(list(range(2_000))), "src")
    reports = together(3, lambda _: read_on(warehouse, mode))
    assert sorted(report.load_id for report in reports) == ["t/by-seq#1", "t/by-seq#2", "t/by-seq#3"]
    assert sum(report.inserted for report in reports) == count(warehouse) == 2_000


@pytest.mark.parametrize("kind", CURSORS)
def test_cursors_keep_their_values(warehouse: Warehouse, kind: str) -> None:
    """Whatever the type of the cursor, the mark is exact: what comes next to it is read, and nothing twice."""
    arrow, value = CURSORS[kind]
    if not kept(warehouse, arrow):
        pytest.skip("the engine has no such type")
    warehouse.load(numbered([value(5), value(6)], arrow), "src")
    assert read_on(warehouse).inserted == 2
    warehouse.load(numbered([value(6), value(7)], arrow, first=3), "src")
    report = read_on(warehouse)
    assert report.inserted == 2
    assert rows(warehouse, columns="id, seq") == rows(warehouse, "src", "id, seq")
    assert report.mark is not None
    warehouse.set_state("t/by-seq", report.mark.value)
    assert read_on(warehouse).inserted == 1


def test_a_state_is_set_and_reset(warehouse: Warehouse) -> None:
    """A replay begins at a value, or at the mark of an earlier load; a reset at the beginning. The ledger has each."""
    warehouse.load(numbered([1, 2, 3]), "src")
    read_on(warehouse, "upsert")
    assert read_on(warehouse, "upsert").rows == 1
    assert warehouse.set_state("t/by-seq", 2).number == 3
    assert read_on(warehouse, "upsert").rows == 2
    warehouse.reset_state("t/by-seq")
    assert read_on(warehouse, "upsert").rows == 3
    warehouse.set_state("t/by-seq", number=3)
    assert read_on(warehouse, "upsert").rows == 2
    decided = warehouse.fetch_all(f"SELECT load_id FROM {LEDGER} WHERE mode IN ('set', 'reset')")
    assert sorted(decided) == [("t/by-seq#3",), ("t/by-seq#5",), ("t/by-seq#7",)]
    with pytest.raises(NotFoundError, match="no state 'other'"):
        warehouse.reset_state("other")
    with pytest.raises(InvalidInputError, match="has no load 99"):
        warehouse.set_state("t/by-seq", number=99)


def play(warehouse: Warehouse, seed: int, mode: str, steps: int = 9) -> None:
    """Change a source at random, and load from it under faults: in the end the target is what the source is."""
    draw, now, next_id = random.Random(seed), 0, 1
    warehouse.load(numbered([]), "src")
    for _ in range(steps):
        now += draw.choice((0, 0, 1, 3))
        step = draw.choice(("insert", "insert", "update", "load", "lost", "broken"))
        if step == "insert":
            some = draw.randint(1, 4)
            warehouse.load(numbered([now] * some, first=next_id), "src")
            next_id += some
        elif step == "update" and mode == "upsert":
            which = f"id % 3 = {draw.randint(0, 2)}"
            warehouse.execute(f"UPDATE src SET seq = {now}, note = 'changed {now}' WHERE {which}")
        else:
            error: Exception = AmbiguousError("lost") if step == "lost" else TransientError("broken")
            _load_under(warehouse, mode, step, error)
    read_on(warehouse, mode)
    assert rows(warehouse, columns="id, seq, note") == rows(warehouse, "src", "id, seq, note")
    (state,) = warehouse.states()
    highest = warehouse.fetch_one("SELECT max(seq) FROM src")
    assert highest is not None
    assert (state.mark and state.mark.value) == (None if highest[0] is None else str(highest[0]))


def _load_under(warehouse: Warehouse, mode: str, step: str, error: Exception) -> None:
    def lose() -> None:
        raise error

    if step not in {"lost", "broken"}:
        read_on(warehouse, mode)
        return
    with striking(Strike("committed" if step == "lost" else "commit", lose)):
        read_on(warehouse, mode)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in range(1, 20))])
@by_mode
def test_a_history_of_changes_and_faults_ends_in_the_same_rows(warehouse: Warehouse, mode: str, seed: int) -> None:
    """Random inserts, updates, ties, broken loads and lost answers: the target is the source, the state its end."""
    play(warehouse, seed, mode)
