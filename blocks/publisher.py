"""Publishing: the load protocol for rows that are in a table of the warehouse already. They never leave it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.arrow_types import filter_batch
from blocks.errors import InvalidInputError
from blocks.loader import Loader
from blocks.optional import lazy
from blocks.quality import REASON
from blocks.scan import as_scan

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    import pyarrow.compute as pc

    from blocks.loader import LoadRequest
    from blocks.planner import Planned
    from blocks.session import BulkSession
    from blocks.sql import Column, Dialect
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


KEPT_REASON = "_etl_reason"
"""The reason beside a row of the source, which may have a column of that name."""


class Publisher(Loader):
    """One try of publishing the rows of `source`, apart from those whose keys `rejected` names.

    The rows are copied into the stage by the engine, so that what is published is one state of the source table.
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
    ) -> None:
        super().__init__(session, dialect, request, uri=uri, load_id=load_id)
        self._source = dialect.table(source)
        self._rejected = None if rejected is None or not rejected.num_rows else rejected

    def _stage(self, planned: Planned, tick: Callable[[int], None]) -> None:
        session, dialect = self._session, self._dialect
        fields = {field.name: field.type for field in self._request.scan.schema}
        columns = [replace(column, stage_type=None) for column in planned.columns]
        values = [
            f"s.{dialect.name(column.name)}"
            if fields[column.name] == column.arrow_type
            else f"CAST(s.{dialect.name(column.name)} AS {column.sql_type})"
            for column in columns
        ]
        where = "" if self._rejected is None else f" WHERE NOT EXISTS ({self._stage_keys(self._rejected, fields)})"
        session.create_stage(dialect, session.stage, columns)
        session.execute(
            f"INSERT INTO {dialect.name(session.stage)} ({dialect.names(column.name for column in columns)}) "
            f"SELECT {', '.join(values)} FROM {self._source} AS s{where}"
        )
        self._rows = session.fetch(f"SELECT count(*) FROM {dialect.name(session.stage)}")[0][0]
        tick(self._rows)
        self._stage_rejects()

    def _stage_keys(self, rejected: pa.Table, fields: dict[str, pa.DataType]) -> str:
        """The query of the staged keys that are a row's of the source `s`; such rows are taken into the quarantine."""
        session, dialect = self._session, self._dialect
        keys = keys_with_reasons(rejected, fields)
        names = [name for name in keys.schema.names if name != REASON]
        columns = [dialect.column(field.name, field.type) for field in keys.schema]
        schema = pa.schema([(column.name, column.arrow_type) for column in columns])
        session.create_stage(dialect, session.staged_keys, columns)
        session.ingest(session.staged_keys, schema, iter(keys.cast(schema).to_batches()), stage=True)
        same = " AND ".join(_same(dialect, column, nulls=bool(keys[column.name].null_count)) for column in columns[:-1])
        stage = dialect.name(session.staged_keys)
        nobody = f"NOT EXISTS (SELECT 1 FROM {self._source} AS s WHERE {same})"
        if unknown := session.fetch(f"SELECT count(*) FROM {stage} AS r WHERE {nobody}")[0][0]:
            raise InvalidInputError(
                f"{self._uri}: {unknown} of the keys in rejected are no row's of the source table, so it is not clear "
                "which rows stay behind. Nothing was published. Audit the table as it is now."
            )
        reason = f"r.{dialect.name(REASON)} AS {dialect.name(KEPT_REASON)}"
        _, batches = session.stream(f"SELECT s.*, {reason} FROM {self._source} AS s JOIN {stage} AS r ON {same}")
        for batch in batches:
            why = batch.column(KEPT_REASON)
            rows = batch.drop_columns([KEPT_REASON])
            for each in pc.unique(why).to_pylist():
                chosen = filter_batch(rows, pc.equal(why, each))
                self._rejects.add_rows(chosen, each, column=names[0] if len(names) == 1 else None)
        return f"SELECT 1 FROM {stage} AS r WHERE {same}"


def keys_with_reasons(rejected: Any, fields: dict[str, pa.DataType]) -> pa.Table:
    """The keys in the table's own types, each once, with its reasons in the last column.

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
    grouped = typed.group_by(names).aggregate([(REASON, "distinct")])
    reasons = pa.array(["; ".join(sorted(each)) for each in grouped[f"{REASON}_distinct"].to_pylist()], pa.string())
    return grouped.select(names).append_column(REASON, reasons)


def _same(dialect: Dialect, column: Column, *, nulls: bool) -> str:
    name = dialect.name(column.name)
    equal = f"s.{name} = r.{name}"
    return f"({equal} OR (s.{name} IS NULL AND r.{name} IS NULL))" if nulls else equal
