"""Publishing: the load protocol for rows that are in a table of the warehouse already. They never leave it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.arrow.load_id import digest
from blocks.arrow.rejects import REASON
from blocks.arrow.scan import as_scan
from blocks.arrow.types import filter_batch
from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy
from blocks.warehouses.loader import Loader, plan_load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.warehouses.load import LoadRequest
    from blocks.warehouses.planner import Planned
    from blocks.warehouses.session import BulkSession
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


KEPT_REASON = "_etl_reason"
"""The reason beside a row of the source, which may have a column of that name."""


class Publisher(Loader):
    """One attempt of publishing the rows of `source`, apart from those whose keys `rejected` names.

    The rows are copied into the stage by the engine, so that what is published is one state of the source table: the
    one whose fingerprint is `audited`, unless that is empty. What becomes of the source after that does not matter.
    """

    may_go_direct: ClassVar[bool] = False

    def __init__(
        self,
        session: BulkSession,
        dialect: Dialect,
        request: LoadRequest,
        *,
        uri: str,
        load_id: str,
        source: str,
        rejected: pa.Table | None,
        audited: str,
    ) -> None:
        super().__init__(session, dialect, request, uri=uri, load_id=load_id)
        self._source_table = source
        self._source = dialect.table(source)
        self._rejected = None if rejected is None or not rejected.num_rows else rejected
        self._audited = audited

    def _plan_as_it_is(self) -> Planned:
        """Plan for rows that do not pass through here: no value is looked at, and all have to fit by their types."""
        source = self._session.columns(self._source_table) or []
        kinds = {column.name: column.kept for column in source if column.kept}
        return plan_load(self._session, self._dialect, self._request, uri=self._uri, checks_values=False, kinds=kinds)

    def _stage(self, planned: Planned, tick: Callable[[int], None]) -> None:
        session, dialect = self._session, self._dialect
        self._check_audited()
        fields = {field.name: field.type for field in self._request.scan.schema}
        columns = [replace(column, stage_type=None) for column in planned.columns]
        values = [
            f"s.{dialect.name(column.name)}"
            if fields[column.name] == column.arrow_type
            else dialect.cast(f"s.{dialect.name(column.name)}", column)
            for column in columns
        ]
        where = "" if self._rejected is None else f" WHERE {self._set_aside(self._rejected, fields)}"
        session.create_stage(dialect, session.stage, columns)
        session.execute(
            f"INSERT INTO {dialect.name(session.stage)} ({dialect.names(column.name for column in columns)}) "
            f"SELECT {', '.join(values)} FROM {self._source} AS s{where}"
        )
        session.check_copied(dialect, self._source_table, where, columns)
        self._rows = self._count(dialect.name(session.stage))
        self._check_audited()
        tick(self._rows)
        self._stage_rejects()

    def _check_audited(self) -> None:
        """Check that the source holds the rows that were audited: before they are staged, and once they are.

        Raises:
            InvalidInputError: It does not.
        """
        if self._audited and self._session.fingerprint(self._dialect, self._source_table) != self._audited:
            raise InvalidInputError(
                f"{self._uri}: {self._source_table} was changed since it was audited, or another table was audited. "
                "Nothing was published. Audit it as it is now."
            )

    @functools.cached_property
    def _data(self) -> str | None:
        """What tells the rows from other rows for the same table and mode, where they were audited."""
        return digest([self._uri, self._request.mode, self._audited]) if self._audited else None

    def _set_aside(self, rejected: pa.Table, fields: dict[str, pa.DataType]) -> str:
        """Return the condition of the rows `s` of the source that none of the keys is of; quarantine the others."""
        session, dialect = self._session, self._dialect
        keys, rows = keys_with_reasons(rejected, fields)
        names = keys.schema.names[:-1]
        columns = [dialect.column(field.name, field.type) for field in keys.schema]
        schema = pa.schema([(column.name, column.arrow_type) for column in columns])
        session.create_stage(dialect, session.staged_keys, columns)
        session.ingest(session.staged_keys, schema, iter(keys.cast(schema).to_batches()), stage=True)
        stage = dialect.name(session.staged_keys)
        kinds = [KeysAlike(dialect, names, nulls) for nulls in null_columns(keys.select(names))]
        unknown = sum(
            self._count(
                f"{stage} AS r WHERE {kind.of_key} AND NOT EXISTS (SELECT 1 FROM {self._source} AS s WHERE {kind.same})"
            )
            for kind in kinds
        )
        if unknown:
            raise InvalidInputError(
                f"{self._uri}: {unknown} of the keys in rejected are no row's of the source table, so it is not clear "
                "which rows stay behind. Nothing was published. Audit the table as it is now."
            )
        of_keys = [f"{self._source} AS s JOIN {stage} AS r ON {kind.same} WHERE {kind.of_key}" for kind in kinds]
        there = sum(map(self._count, of_keys))
        if there != rows:
            raise InvalidInputError(
                f"{self._uri}: {there} rows of the source table have the keys of {rows} rejected rows, so rows that "
                "were not rejected would stay behind. Nothing was published. Audit the table as it is now, with a key "
                f"that identifies each row: {', '.join(names)} does not, or the table has changed."
            )
        reason = f"r.{dialect.name(REASON)} AS {dialect.name(KEPT_REASON)}"
        for rows_of_them in of_keys:
            _, batches = session.stream(f"SELECT s.*, {reason} FROM {rows_of_them}")
            for batch in batches:
                self._reject(batch, names)
        return " AND ".join(kind.none_in(stage) for kind in kinds)

    def _count(self, what: str) -> int:
        """Count rows; `what` is all that stands behind FROM."""
        count: int = self._session.fetch(f"SELECT count(*) FROM {what}")[0][0]
        return count

    def _reject(self, batch: pa.RecordBatch, names: list[str]) -> None:
        why, rows = batch.column(KEPT_REASON), batch.drop_columns([KEPT_REASON])
        for reason in pc.unique(why).to_pylist():
            chosen = filter_batch(rows, pc.equal(why, reason))
            self._rejects.add_rows(chosen, reason, column=names[0] if len(names) == 1 else None)


class KeysAlike:
    """The keys `r` that are null in the same columns, and when a row `s` has one of them.

    They are compared by equalities alone: over `a = b OR (a IS NULL AND b IS NULL)` PostgreSQL compares each key with
    each row.

    Attributes:
        of_key: Which keys these are.
        same: When a row has such a key.
    """

    def __init__(self, dialect: Dialect, names: list[str], nulls: Collection[str]) -> None:
        null = [dialect.name(name) for name in names if name in nulls]
        given = [dialect.name(name) for name in names if name not in nulls]
        self.of_key = _all(*(f"r.{name} IS NULL" for name in null), *(f"r.{name} IS NOT NULL" for name in given))
        self.same = _all(
            *(f"(s.{name} IS NULL) = (r.{name} IS NULL)" for name in null), *(f"s.{name} = r.{name}" for name in given)
        )
        self._only = None if given else _all(*(f"s.{name} IS NULL" for name in null))

    def none_in(self, stage: str) -> str:
        """Return the condition of the rows that have none of these keys, which are in the stage."""
        if self._only:  # there is one such key; PostgreSQL expects of an anti join with it that it leaves one row
            return f"NOT ({self._only})"
        return f"NOT EXISTS (SELECT 1 FROM {stage} AS r WHERE {self.of_key} AND {self.same})"


def _all(*conditions: str) -> str:
    return " AND ".join(conditions)


def null_columns(keys: pa.Table) -> list[list[str]]:
    """Return the columns that are null together in some key; an empty list is for keys that have none.

    >>> null_columns(pa.table({"id": [1, None, None], "day": ["mon", "mon", "tue"]}))
    [[], ['id']]
    """
    masks = pa.table({name: pc.is_null(keys[name]) for name in keys.schema.names})
    found = masks.group_by(masks.schema.names).aggregate([]).to_pylist()
    return sorted([name for name, null in each.items() if null] for each in found)


def keys_with_reasons(rejected: Any, fields: dict[str, pa.DataType]) -> tuple[pa.Table, int]:
    """Return the keys in the table's own types, each once, with its reasons in the last column; and of how many rows.

    Raises:
        InvalidInputError: There is no key, no reason, or a column that the table lacks.
    """
    table = as_scan(rejected, source="rejected").to_arrow()
    names = [name for name in table.schema.names if name != REASON]
    if not names or REASON not in table.schema.names or set(names) - set(fields):
        raise InvalidInputError(
            f"rejected has the columns {table.schema.names}; it needs columns of the table's that tell rows apart, and "
            f"{REASON!r}."
        )
    schema = pa.schema([*(pa.field(name, fields[name]) for name in names), pa.field(REASON, pa.string())])
    try:
        typed = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InvalidInputError(
            f"The keys in rejected do not have the types of the table's columns {', '.join(names)}."
        ) from None
    of_a_reason = typed.group_by([*names, REASON]).aggregate([([], "count_all")])
    rows = pc.sum(of_a_reason.group_by(names).aggregate([("count_all", "max")])["count_all_max"]).as_py()
    grouped = typed.group_by(names).aggregate([(REASON, "distinct")])
    reasons = pa.array(["; ".join(sorted(each)) for each in grouped[f"{REASON}_distinct"].to_pylist()], pa.string())
    return grouped.select(names).append_column(REASON, reasons), rows or 0
