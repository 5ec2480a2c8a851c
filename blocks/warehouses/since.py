"""Reading on by a cursor: the window of one load, and the mark of the rows that were in it.

* The end of a window is that of one statement, or of one snapshot: the mark is made of the rows that were read. Text
  alone is compared by the engine, whose collation decides: its highest value is asked for first.
* An upsert reads the rows at the mark again, which changes nothing. An append leaves out those that were read: by what
  they hold (`Boundary`), or by the versions of rows where the engine has them (`Versions`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from prefect.logging import get_logger

from blocks.arrow.marks import IncrementalScan, Mark, Window
from blocks.arrow.scan import Scan
from blocks.arrow.types import filter_batch, plain_type
from blocks.base.errors import InvalidInputError, SchemaError, TerminalError, TransientError, UnsupportedError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.warehouses.session import BulkSession, Versions
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

Lag = dt.timedelta | int
"""How far behind the mark a window begins: a time, or a number."""
Until = int | Decimal | dt.date | uuid.UUID | str
"""Where a window ends: a value of the cursor, or its text."""

MOST_AT_BOUNDARY = 1_000
"""So many rows that share the highest value are told apart one by one; of more, only their number is known."""
MOST_AGE = 2**31 - 2**24
"""PostgreSQL's versions turn over, and are compared within half of their circle."""


@dataclass(frozen=True)
class Cursor:
    """What is read on.

    Attributes:
        column: The cursor: a column whose values grow.
        table: The table as the caller wrote it; None for a query.
        rows: What stands behind FROM.
        values: The parameters of a query.
        lag: How far behind the mark the window begins.
        until: Where it ends; rows of this value are not in it.
        uri: Where it is, for messages.
    """

    column: str
    table: str | None
    rows: str
    values: Mapping[str, Any] | None
    lag: Lag | None
    until: Until | None
    uri: str

    def __post_init__(self) -> None:
        """Check the lag.

        Raises:
            InvalidInputError: It is negative.
        """
        zero: Any = dt.timedelta(0) if isinstance(self.lag, dt.timedelta) else 0
        if self.lag is not None and (isinstance(self.lag, bool) or self.lag < zero):
            raise InvalidInputError("lag is a time or a number that is not negative.")


class CursorType:
    """The type of a cursor: its values as exact text, and in their order."""

    @classmethod
    def of(cls, cursor: Cursor, schema: pa.Schema) -> Self:
        """Return the type of a cursor.

        Raises:
            InvalidInputError: There is no such column, or it has a type that no cursor may have.
        """
        if cursor.column not in schema.names:
            raise InvalidInputError(
                f"{cursor.uri} has no column {cursor.column!r}, which is to be the cursor; its columns: {schema.names}."
            )
        return cls(cursor.column, schema.field(cursor.column).type, cursor.uri)

    def __init__(self, column: str, kind: pa.DataType, uri: str) -> None:
        self._column, self._uri = column, uri
        self.kind, types = plain_type(kind), pa.types
        if isinstance(self.kind, pa.UuidType):
            self.name = "uuid"
        elif types.is_string(self.kind) or types.is_large_string(self.kind):
            self.name = "text"
        elif types.is_integer(self.kind) or types.is_decimal(self.kind):
            self.name = "number"
        elif types.is_date(self.kind):
            self.name = "date"
        elif types.is_timestamp(self.kind):
            self.name = "timestamp with time zone" if self.kind.tz else "timestamp"
        else:
            raise InvalidInputError(
                f"{uri}: column {column!r} is {kind}, which is no cursor. A cursor is an integer, a decimal, a date, a "
                "timestamp, a UUID or a text."
            )

    @property
    def is_text(self) -> bool:
        """Whether its order is that of the engine's collation."""
        return self.name == "text"

    def parse(self, value: Any, what: str) -> pa.Scalar:
        """Return a value of Python, or its text, as one of the cursor.

        Raises:
            InvalidInputError: It is none.
        """
        text = value.isoformat() if isinstance(value, dt.date) else str(value)
        try:
            if self.name == "uuid":
                return pa.scalar(uuid.UUID(text).bytes, pa.binary(16))
            if self.name == "number" and not pa.types.is_decimal(self.kind):
                return pa.scalar(int(text), self.kind)
            return pa.scalar(text, pa.string()).cast(self.kind)
        except (pa.ArrowException, ValueError, OverflowError):
            zone = " A time needs its zone, such as +00:00." if self.name == "timestamp with time zone" else ""
            raise InvalidInputError(
                f"{self._uri}: {what} is not a {self.name}, as the cursor {self._column!r} is.{zone}"
            ) from None

    def text(self, value: pa.Scalar) -> str:
        """Return the exact text of a value."""
        if self.name == "uuid":
            return str(uuid.UUID(bytes=value.as_py()))
        text: str = value.cast(pa.string()).as_py()
        return text

    def rank(self, value: pa.Scalar) -> Any:
        """Return what values other than text are compared by."""
        return value.value if pa.types.is_temporal(value.type) else value.as_py()

    def highest(self, values: pa.Array) -> pa.Scalar | None:
        """Return the highest value, None where there is none."""
        found = pc.max(values.storage if isinstance(values, pa.ExtensionArray) else values)
        return found if found.is_valid else None

    def equal(self, values: pa.Array, value: pa.Scalar) -> pa.Array:
        """Return which values are this one."""
        return pc.equal(values.storage if isinstance(values, pa.ExtensionArray) else values, value)

    def minus(self, value: pa.Scalar, lag: Lag) -> pa.Scalar:
        """Return the value that lies so far behind.

        Raises:
            InvalidInputError: The lag is of another kind.
        """
        if self.name == "number" and not isinstance(lag, dt.timedelta):
            return self.parse(value.as_py() - lag, "mark - lag")
        if pa.types.is_temporal(self.kind) and isinstance(lag, dt.timedelta):
            unit = "d" if pa.types.is_date32(self.kind) else getattr(self.kind, "unit", "ms")
            microseconds = {"d": 86_400_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
            ticks = lag // dt.timedelta(microseconds=1)
            ticks = ticks * 1_000 if unit == "ns" else -(-ticks // microseconds[unit])
            return pa.scalar(value.value - ticks, self.kind)
        wanted = {"number": "a number"}.get(
            self.name, "a timedelta" if pa.types.is_temporal(self.kind) else "not taken"
        )
        raise InvalidInputError(f"{self._uri}: the cursor {self._column!r} is a {self.name}; its lag is {wanted}.")


class Boundary:
    """The rows at the highest value that was read: which of them an earlier load had, and which this one has.

    Args:
        cursor: The cursor.
        kind: Its type.
        last: The highest value that earlier loads read.
        seen: What the mark says of the rows there.
    """

    def __init__(
        self, cursor: Cursor, kind: CursorType, last: pa.Scalar | None, seen: Mapping[str, Any] | None
    ) -> None:
        self._cursor, self._kind, self._last = cursor, kind, last
        self._seen = dict(seen) if seen else None
        self._left = Counter(self._seen["rows"] or {}) if self._seen else Counter()
        self._found = 0
        self._new_at_last: Counter[str] = Counter()
        self._top: pa.Scalar | None = None
        self._rows: list[pa.RecordBatch] = []
        self._count = 0
        self._columns: dict[str, str] = {}

    def unseen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows that no earlier load had."""
        self._columns = {field.name: str(field.type) for field in batch.schema}
        if self._seen is None or self._last is None:
            return batch
        at_last = self._kind.equal(batch.column(self._cursor.column), self._last)
        if not pc.any(at_last).as_py():
            return batch
        rows = filter_batch(batch, at_last)
        self._found += rows.num_rows
        if self._seen["rows"] is None:
            return filter_batch(batch, pc.invert(at_last))
        keep = []
        for digest in self._digests(rows, self._known_columns()):
            had, self._left[digest] = self._left[digest] > 0, self._left[digest] - 1
            keep.append(not had)
            self._new_at_last[digest] += not had
        mask = pc.replace_with_mask(pc.invert(at_last), at_last, pa.array(keep, pa.bool_()))
        return filter_batch(batch, mask)

    def note(self, batch: pa.RecordBatch, highest: pa.Scalar) -> None:
        """Remember which of the rows have the highest value so far."""
        rank = self._kind.rank
        if self._top is None or rank(highest) > rank(self._top):
            self._top, self._rows, self._count = highest, [], 0
        if rank(highest) != rank(self._top):
            return
        rows = filter_batch(batch, self._kind.equal(batch.column(self._cursor.column), highest))
        self._count += rows.num_rows
        self._rows = [*self._rows, rows] if self._count <= MOST_AT_BOUNDARY else []

    def facts(self, value: pa.Scalar | None) -> dict[str, Any]:
        """Return what the mark says of the rows at the value, once all were read.

        Raises:
            InvalidInputError: There are new rows among more than are told apart.
        """
        if self._seen is not None and self._seen["rows"] is None and self._found not in (0, self._seen["count"]):
            raise InvalidInputError(
                f"{self._cursor.uri}: {self._seen['count']} rows had the highest value of the cursor "
                f"{self._cursor.column!r} when it was last read, and now {self._found} rows have it: nobody can tell "
                f"which are new, as rows of one value are told apart up to {MOST_AT_BOUNDARY}. Nothing was loaded. "
                "Take a finer cursor, or load by mode='upsert' with a key."
            )
        if value is None:
            return {}
        if self._seen is not None and self._last is not None and self._kind.rank(value) == self._kind.rank(self._last):
            if self._seen["rows"] is None:
                return {"boundary": self._seen}
            rows = Counter(self._seen["rows"]) + self._new_at_last
            return {"boundary": self._of(rows, self._seen["columns"])}
        rows = Counter(digest for each in self._rows for digest in self._digests(each, self._columns))
        few = self._count <= MOST_AT_BOUNDARY
        return {"boundary": self._of(rows, self._columns) if few else self._of(None, {}, self._count)}

    def _of(self, rows: Counter[str] | None, columns: Mapping[str, str], count: int = 0) -> dict[str, Any]:
        total = count if rows is None else rows.total()
        return {"count": total, "rows": None if rows is None else dict(sorted(rows.items())), "columns": dict(columns)}

    def _known_columns(self) -> dict[str, str]:
        """Return the columns that tell rows apart: those of when they were read."""
        assert self._seen is not None  # noqa: S101 (the caller's)
        columns: dict[str, str] = self._seen["columns"]
        if changed := [name for name, kind in columns.items() if self._columns.get(name) != kind]:
            raise SchemaError(
                f"{self._cursor.uri}: column {changed[0]!r} was dropped or changed its type since it was last read, so "
                "the rows at the mark cannot be told apart any more. Nothing was loaded. Say from where to go on: "
                "set_state(name, value), which reads from that value on."
            )
        return columns

    def _digests(self, rows: pa.RecordBatch, columns: Mapping[str, str]) -> list[str]:
        values = [_plain(rows.column(name)).to_pylist() for name in sorted(columns)]
        return [
            hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
            for row in zip(*values, strict=True)
        ]


def _plain(values: pa.Array) -> pa.Array:
    """Return values that Python can hold: of nanoseconds it has none."""
    types = pa.types
    if types.is_duration(values.type):
        return values.cast(pa.int64())
    return values.cast(pa.string()) if types.is_temporal(values.type) and not types.is_interval(values.type) else values


class Reading:
    """One reading of the window behind a mark."""

    def __init__(self, cursor: Cursor, dialect: Dialect, schema: pa.Schema, mark: Mark | None, mode: str) -> None:
        self._cursor, self._dialect, self._schema, self._mode = cursor, dialect, schema, mode
        self._kind = CursorType.of(cursor, schema)
        self._facts: dict[str, Any] = mark.facts if mark else {}
        self._last = None
        if mark and mark.value is not None:
            self._last = self._kind.parse(mark.value, "the mark of the state")
        self._until = None if cursor.until is None else self._kind.parse(cursor.until, "until")
        self._value = self._last
        self._check_until()
        self._parameters: dict[str, Any] = dict(cursor.values or {})
        self._next_facts: dict[str, Any] = {}
        self._ended = False

    def _check_until(self) -> None:
        if self._until is None:
            return
        if self._kind.is_text:
            raise InvalidInputError(f"{self._cursor.uri}: until is not taken for a cursor that is a text.")
        if self._last is not None and self._kind.rank(self._until) <= self._kind.rank(self._last):
            raise InvalidInputError(
                f"{self._cursor.uri}: until lies before what the state has read already, so changes in between would "
                "be passed over. Nothing was loaded. Give a later one, or set_state to an earlier value first."
            )

    def mark(self) -> Mark:
        """Return the mark of what was read.

        Raises:
            TerminalError: It was not read to its end.
        """
        if not self._ended:
            raise TerminalError(f"{self._cursor.uri} was not read to its end, so there is no mark. Nothing was loaded.")
        value = None if self._value is None else self._kind.text(self._value)
        return Mark(value=value, facts=self._next_facts)

    def batches(self, session: BulkSession) -> Iterator[pa.RecordBatch]:
        """Read the window on a session."""
        self._ended, self._value = False, self._last
        with session.snapshot():
            versions = session.versions(self._cursor.table) if self._cursor.table else None
            by_version = self._reads_by_version(versions)
            boundary = None
            if self._mode == "append" and not by_version:
                boundary = Boundary(self._cursor, self._kind, self._last, self._facts.get("boundary"))
            conditions = self._conditions(versions, by_version=by_version)
            if self._kind.is_text:
                conditions += self._bound(session, conditions)
            schema, batches = session.stream(f"SELECT * {self._from(conditions)}", self._parameters)
            if (schema.names, schema.types) != (self._schema.names, self._schema.types):
                raise TransientError(f"{self._cursor.uri} was altered while it was read; it can be read again.")
            for batch in batches:
                self._check_nulls(batch)
                fresh = boundary.unseen(batch) if boundary else batch
                if (highest := self._highest(fresh)) is not None:
                    if boundary:
                        boundary.note(fresh, highest)
                    yield fresh
            if boundary:
                self._next_facts = boundary.facts(self._value)
            if versions and not boundary:
                self._next_facts = self._version_facts(versions)
                if by_version:
                    self._tell_held_back(session, versions)
        self._ended = True

    def _reads_by_version(self, versions: Versions | None) -> bool:
        """Tell whether the versions of rows decide which rows are new.

        Raises:
            InvalidInputError: They did when the mark was made, and cannot any more; or there is a lag and they do not.
        """
        cursor, known = self._cursor, self._facts.get("versions")
        if known and versions and (known["cluster"] != versions.cluster or known["before"] > versions.next):
            raise InvalidInputError(
                f"{cursor.uri}: the mark is of another database cluster, or of a later time of this one: it was "
                "restored, copied or upgraded. Nothing was loaded. Say from where to go on: set_state(name, value), or "
                "load everything anew: reset_state(name)."
            )
        if self._mode != "append":
            return False
        able = versions is not None and versions.table is not None
        if known and versions and (not able or known["table"] != versions.table or self._is_old(versions)):
            raise InvalidInputError(
                f"{cursor.uri} was rewritten since it was last read (VACUUM FULL, CLUSTER, ALTER TABLE, another "
                "partition, or 2 billion transactions), so the versions of its rows do not tell any more which are "
                "new. Nothing was loaded. Say from where to go on: set_state(name, value)."
            )
        if known and not versions:
            raise UnsupportedError(f"{cursor.uri} shows no versions of its rows any more, by which they were read.")
        by_version = able and (known is not None or "boundary" not in self._facts)
        if cursor.lag is not None and not by_version:
            raise InvalidInputError(
                f"{cursor.uri}: with mode='append' a lag would double the rows within it. Leave it out, or load by "
                "mode='upsert' with a key."
            )
        return by_version

    def _is_old(self, versions: Versions) -> bool:
        return bool(versions.next - self._facts["versions"]["before"] > MOST_AGE)

    def _conditions(self, versions: Versions | None, *, by_version: bool) -> list[str]:
        """Return what a row of the window fulfils."""
        known, found = self._facts.get("versions"), []
        if by_version:
            assert versions is not None  # noqa: S101 (the caller's)
            found += self._by_version(versions)
        elif self._last is not None:
            lag = self._cursor.lag
            start = self._kind.minus(self._last, lag) if lag else self._last
            late = ""
            if lag is None and known and versions and self._mode != "append":
                if self._is_old(versions):
                    return self._before_until()
                if versions.next > known["before"]:
                    late = f" OR {versions.since(known['before'])}"
            found.append(f"({self._compare('>=', 'etl_since', start)} OR {self._name} IS NULL{late})")
        return found + self._before_until()

    def _by_version(self, versions: Versions) -> list[str]:
        known, found = self._facts.get("versions"), []
        if known:
            new = versions.since(known["before"])
            if known["until"] is not None:
                passed = self._kind.parse(known["until"], "the mark of the state")
                new = f"({new} OR {self._compare('>=', 'etl_passed', passed)})"
            found.append(new)
        if self._last is not None and (self._cursor.lag is not None or not known):
            start = self._kind.minus(self._last, self._cursor.lag) if self._cursor.lag else self._last
            found.append(f"({self._compare('>=', 'etl_since', start)} OR {self._name} IS NULL)")
        if versions.oldest < versions.next:
            found.append(f"NOT ({versions.since(versions.oldest)})")
        return found

    def _before_until(self) -> list[str]:
        if self._until is None:
            return []
        return [f"({self._compare('<', 'etl_until', self._until)} OR {self._name} IS NULL)"]

    def _version_facts(self, versions: Versions) -> dict[str, Any]:
        until = None if self._until is None else self._kind.text(self._until)
        return {
            "versions": {
                "before": versions.oldest,
                "cluster": versions.cluster,
                "table": versions.table,
                "until": until,
            }
        }

    def _tell_held_back(self, session: BulkSession, versions: Versions) -> None:
        """Say how many rows wait for a transaction that was under way when they were committed."""
        if versions.oldest == versions.next:
            return
        conditions = [versions.since(versions.oldest), *self._before_until()]
        if held := session.fetch(f"SELECT count(*) {self._from(conditions)}", self._parameters)[0][0]:
            get_logger(__name__).info(
                "%s: %d rows wait for the next load, as a transaction that began before them has not ended.",
                self._cursor.uri,
                held,
            )

    def _bound(self, session: BulkSession, conditions: list[str]) -> list[str]:
        """Ask for the highest text of the window, and return what keeps later rows out where that is needed."""
        found = session.fetch(f"SELECT max({self._name}) {self._from(conditions)}", self._parameters)[0][0]
        if found is not None:
            self._value = pa.scalar(found, self._kind.kind)
        if session.reads_snapshots:
            return []
        if found is None:
            return [f"{self._name} IS NULL"]
        return [f"({self._compare('<=', 'etl_bound', self._value)} OR {self._name} IS NULL)"]

    def _highest(self, batch: pa.RecordBatch) -> pa.Scalar | None:
        """Return the highest value of a batch, and keep it where it is the highest so far."""
        if self._kind.is_text:
            return self._value if batch.num_rows else None
        highest = self._kind.highest(batch.column(self._cursor.column))
        if highest is not None and (self._value is None or self._kind.rank(highest) > self._kind.rank(self._value)):
            self._value = highest
        return highest

    def _check_nulls(self, batch: pa.RecordBatch) -> None:
        if count := batch.column(self._cursor.column).null_count:
            raise InvalidInputError(
                f"{self._cursor.uri}: {count} rows or more have no value in the cursor {self._cursor.column!r}, so no "
                "load would find them again. Nothing was loaded. Read a query that gives them one, or leaves them out: "
                "scan_since(query=..., cursor=...)."
            )

    @property
    def _name(self) -> str:
        return f"q.{self._dialect.name(self._cursor.column)}"

    def _from(self, conditions: list[str]) -> str:
        return f"FROM {self._cursor.rows} AS q" + (f" WHERE {' AND '.join(conditions)}" if conditions else "")

    def _compare(self, operator: str, parameter: str, value: pa.Scalar) -> str:
        self._parameters[parameter] = self._kind.text(value)
        return f"{self._name} {operator} {self._dialect.constant(parameter, self._kind.kind)}"


def scan_since(
    whole: Scan, cursor: Cursor, dialect: Dialect, connect: Callable[[], contextlib.closing[BulkSession]]
) -> IncrementalScan:
    """Return the scan that reads on by a cursor.

    Args:
        whole: The scan of the table or the query.
        cursor: What is read on.
        dialect: The SQL of its engine.
        connect: Opens a session.
    """

    def of() -> dict[str, str]:
        query = hashlib.blake2b(whole.query.encode(), digest_size=8).hexdigest()
        asked = {"query": query} if cursor.table is None else {}
        return {
            "source": whole.source,
            **asked,
            "cursor": cursor.column,
            "type": CursorType.of(cursor, whole.schema).name,
        }

    def since(mark: Mark | None, mode: str) -> Window:
        reading = Reading(cursor, dialect, whole.schema, mark, mode)

        def opened() -> Iterator[pa.RecordBatch]:
            with connect() as session:
                yield from reading.batches(session)

        scan = Scan(
            lambda: whole.schema, lambda _: opened(), source=whole.source, query=whole.query, origins=whole.origins
        )
        return Window(scan, reading.mark)

    everything = Scan(
        lambda: whole.schema,
        lambda _: since(None, "upsert").scan.batches(),
        source=whole.source,
        query=f"{whole.query} {cursor.column} {cursor.lag} {cursor.until}",
        origins=whole.origins,
    )
    return IncrementalScan(everything, of=of, since=since)
