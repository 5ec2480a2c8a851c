"""What is loaded: rows of which each value is known, from sources of every kind, and what a table then has to hold."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from blocks.arrow.scan import Scan
from blocks.base.errors import TransientError
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from blocks.arrow.rejects import Rejects

ROW_CANARY = "r0w-c4n4ry"
"""Is in every row, and may be in nothing that is said of it."""
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "day": pa.string(),
        "text": pa.string(),
        "amount": pa.decimal128(12, 2),
        "ratio": pa.float64(),
        "at": pa.timestamp("us"),
        "flag": pa.bool_(),
    }
)
WORDS = ("plain", "Köln", "say 'hi'", 'a "quote"', "back\\slash", "tab\tand\nline", "😀", "{}", "\\N", "a,b;c")
SOURCES = ("table", "scan", "reader", "csv", "parquet", "query", "since")
RETRYABLE_BY_PREFECT = ("table", "csv", "parquet", "since")
"""Sources by whose content a load without a load_id is known again."""


def make_rows(count: int, seed: str, *, first: int = 0, days: int = 3) -> pa.Table:
    """Rows whose ids count up from the first."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(first, first + count):
        word = draw.choice(WORDS)
        rows.append(
            {
                "id": number,
                "day": f"d{number % days}",
                "text": f"{ROW_CANARY} {number} {word}",
                "amount": None if draw.random() < 0.1 else Decimal(draw.randrange(-(10**8), 10**8)).scaleb(-2),
                "ratio": None if draw.random() < 0.1 else draw.random() * 10 ** draw.randrange(-5, 6),
                "at": dt.datetime(2026, 4, 30) + dt.timedelta(microseconds=draw.randrange(10**12)),  # noqa: DTZ001
                "flag": draw.choice((True, False, None)),
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def expected(mode: str, before: pa.Table, data: pa.Table) -> pa.Table:
    """The table after a load."""
    if mode == "replace":
        return data
    rows = before.to_pylist()
    if mode == "upsert":
        keys = set(data["id"].to_pylist())
        rows = [row for row in rows if row["id"] not in keys]
    if mode == "replace_partition":
        days = set(data["day"].to_pylist())
        rows = [row for row in rows if row["day"] not in days]
    return pa.concat_tables([pa.Table.from_pylist(rows, SCHEMA), data])


def values_of(table: pa.Table) -> Counter[tuple[Any, ...]]:
    """How often each row is there, whatever the order and the types of the columns."""
    names = [name for name in SCHEMA.names if name in table.column_names]
    columns = [[_plain(value) for value in table[name].to_pylist()] for name in names]
    return Counter(zip(*columns, strict=True)) if columns else Counter()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None)
    return value.normalize() if isinstance(value, Decimal) else value


def difference(found: pa.Table, right: pa.Table) -> dict[str, int]:
    """How many rows are lost, doubled and changed."""
    have, want = values_of(found), values_of(right)
    ids_have, ids_want = Counter(found["id"].to_pylist()), Counter(right["id"].to_pylist())
    counts = {
        "lost": (ids_want - ids_have).total(),
        "doubled": (ids_have - ids_want).total(),
    }
    counts["changed"] = (want - have).total() - counts["lost"]
    return {name: count for name, count in counts.items() if count > 0}


@dataclass(frozen=True)
class Source:
    """How rows are given to a load; it is opened anew by each process, and by each call of a user.

    Attributes:
        kind: One of SOURCES, or "object": a file in the target's own store.
        data: The rows.
        batches: In how many parts they come, where the kind has parts.
        breaks: Whether the first reading ends in the middle by an error that another attempt may not meet.
        readings: How often it was read, by all who opened it in this process.
        home: Where a source is that is read on, which all calls share.
    """

    kind: str
    data: pa.Table
    batches: int
    breaks: bool = False
    readings: list[int] = field(default_factory=list, compare=False)
    home: Path | None = None

    def open(self, folder: Path, amid: Callable[[], None] | None = None) -> Any:  # noqa: PLR0911 (one kind a line)
        """What is handed to the load.

        Args:
            folder: For the files of those that have some.
            amid: Called in the middle of the first reading.
        """
        if self.kind == "csv":
            if not (path := folder / "source.csv").exists():
                pyarrow.csv.write_csv(self.data, path)
            return self._watched(LocalFiles(basepath=str(folder)).scan("source.csv", schema=SCHEMA), amid)
        if self.kind == "parquet":
            if not (path := folder / "source.parquet").exists():
                pq.write_table(self.data, path, row_group_size=max(1, self.data.num_rows // self.batches))
            return self._watched(LocalFiles(basepath=str(folder)).scan("source.parquet"), amid)
        if self.kind == "query":
            if not (path := folder / "source.duckdb").exists():
                with DuckDB(path=str(path)) as other:
                    other.load(self.data, "s")
            return self._watched(DuckDB(path=str(path)).scan_query("SELECT * FROM s ORDER BY id"), amid)
        if self.kind == "since":
            return self._open_since(self.home or folder, amid)
        if self.kind == "table" and not self.breaks and amid is None:
            return self.data
        batches = self.data.to_batches(max_chunksize=max(1, self.data.num_rows // self.batches))
        if self.kind == "reader":
            return pa.RecordBatchReader.from_batches(SCHEMA, self._broken(batches, amid))
        return Scan(SCHEMA, lambda _: self._broken(batches, amid), source="the source", fingerprint=self._name)

    def _open_since(self, folder: Path, amid: Callable[[], None] | None) -> Scan:
        if not (path := folder / "since.duckdb").exists():
            with contextlib.closing(DuckDB(path=str(path))) as other:
                other.load(self.data, "s")
        scan = DuckDB(path=str(path), read_only=True).scan_since("s", cursor="id")
        return scan.derive(lambda window: self._watched(window, amid))

    def _name(self) -> str:
        return f"{self.data.num_rows} rows"

    def _watched(self, scan: Scan, amid: Callable[[], None] | None) -> Scan:
        if not self.breaks and amid is None:
            return scan

        def read(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
            with contextlib.closing(scan.batches(rejects)) as batches:  # type: ignore[type-var]
                yield from self._broken(batches, amid)

        return Scan(lambda: scan.schema, read, source=scan.source, fingerprint=scan.fingerprint)

    def _broken(self, batches: Iterable[pa.RecordBatch], amid: Callable[[], None] | None) -> Iterator[pa.RecordBatch]:
        self.readings.append(1)
        is_first = len(self.readings) == 1
        for number, batch in enumerate(batches):
            if is_first and number == (self.batches // 2 if self.kind in {"table", "scan", "reader"} else 0):
                if amid is not None:
                    amid()
                if self.breaks:
                    raise TransientError("The source broke off.")
            yield batch
