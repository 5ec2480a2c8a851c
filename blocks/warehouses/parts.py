"""Parts of a load: workers stage them in tables of their own, and the coordinator loads all of them at once.

The tables are ordinary ones, which every session sees: `_etl_part_<when>_<load>_<number>_<attempt>`. `<load>` is made
of the target and the division, which is the snapshot of a live table, and `<attempt>` is another one each time, so that
what a lost worker left is never taken for what the next one staged. Nothing writes to such a table after its
worker is done. The load is the one protocol of every load; its stage are the tables.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from blocks.arrow.parts import StagedPart, new_group
from blocks.base.errors import ConnectorError, InvalidInputError, SchemaError, UnsupportedError
from blocks.base.optional import lazy
from blocks.base.progress import progress
from blocks.warehouses.ledger import quarantine_schema
from blocks.warehouses.load import LoadRequest
from blocks.warehouses.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from blocks.arrow.parts import Part
    from blocks.arrow.rejects import Rejects
    from blocks.arrow.scan import Scan
    from blocks.warehouses.load import OnNewColumns
    from blocks.warehouses.planner import Planned
    from blocks.warehouses.session import BulkSession
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")

PREFIX = "_etl_part_"
"""How the names of the tables begin that hold staged parts."""
REFUSED = "_r"
"""How the name ends of the table that holds the rows that were refused in a part."""


@dataclass(frozen=True, kw_only=True)
class StagedTable(StagedPart):
    """A part that is in a table of its target's warehouse.

    Attributes:
        warehouse: The place of the warehouse, without secrets.
        target: The table that it is to be loaded into.
        table: The table that holds it.
        columns: The columns that were filled, and their types.
        refused: How many rows were refused; they are in a table beside it.
    """

    warehouse: str
    target: str
    table: str
    columns: tuple[tuple[str, str], ...]
    refused: int = 0

    @property
    def tables(self) -> list[str]:
        """All tables of the part."""
        return [self.table, self.table + REFUSED] if self.refused else [self.table]

    def batches(self, rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        """Refuse to be read: it is loaded where it is.

        Raises:
            UnsupportedError: Always.
        """
        del rejects
        raise UnsupportedError(
            f"{self.place} was staged for {self.target}, and is loaded in {self.warehouse} only. Stage parts in the "
            "warehouse that they are to be loaded into."
        )

    def discard(self) -> None:
        """Do nothing: the warehouse drops its tables itself."""


def request_of(
    scan: Scan, table: str, *, on_new_columns: OnNewColumns = "add", allow_loss: tuple[str, ...] = ()
) -> LoadRequest:
    """Return what a worker plans its part by: whatever the mode of the load, the columns are the same."""
    return LoadRequest(
        scan=scan,
        table=table,
        mode="append",
        key=(),
        partition_by=(),
        on_new_columns=on_new_columns,
        allow_loss=allow_loss,
        max_rejected=1.0,
    )


class Stager(Loader):
    """One attempt of staging one part, cast and checked for its target as a load would."""

    def __init__(
        self, session: BulkSession, dialect: Dialect, request: LoadRequest, *, uri: str, part: Part, warehouse: str
    ) -> None:
        group = new_group(uri, part.division)
        super().__init__(session, dialect, request, uri=uri, load_id=group)
        self._part, self._warehouse = part, warehouse
        self._table = f"{PREFIX}{group}_{part.number}_{uuid.uuid4().hex[:8]}"

    def stage(self) -> StagedTable:
        """Make the table and fill it, in one transaction where the engine takes rows in one."""
        planned = self._plan()
        session, scan = self._session, self._request.scan
        whole = session.transaction if session.ingests_in_transaction else contextlib.nullcontext
        with progress(planned.plan.table) as tick:
            try:
                with whole():
                    session.execute(self._dialect.create_part(self._table, planned.columns))
                    self._ingest(self._table, planned, tick)
            except BaseException:
                for table in (self._table, self._table + REFUSED):
                    with contextlib.suppress(ConnectorError):
                        session.execute(f"DROP TABLE IF EXISTS {self._dialect.table(table)}")
                raise
            finally:
                self._discard_stages()
        return StagedTable(
            part=self._part,
            place=f"{self._warehouse}/{self._table}",
            rows=self._rows,
            schema=scan.schema,
            inferred=frozenset(scan.inferred()),
            origins=scan.origins,
            warehouse=self._warehouse,
            target=self._request.table,
            table=self._table,
            columns=kinds(planned),
            refused=self._rejects.total,
        )

    def _stage_rejects(self) -> None:
        """Keep what was refused; how much of it is allowed is the business of the load."""
        if self._rejects.total:
            table = self._table + REFUSED
            self._session.execute(self._dialect.create_part(table, self._ledger.quarantine_columns()))
            self._session.ingest(table, quarantine_schema(), self._reject_batches())


class Gatherer(Loader):
    """One attempt of loading parts that are in tables of the warehouse: these are its stage."""

    may_go_direct = False

    def _stage(self, planned: Planned, tick: Callable[[int], None]) -> None:
        parts = [cast("StagedTable", part) for part in self._request.scan.staged]
        if other := [part for part in parts if part.columns != kinds(planned)]:
            raise SchemaError(
                f"{self._uri} has other columns than when part {other[0].part.number} was staged for it, or its load "
                "has another on_new_columns. Nothing was applied. Stage the parts again."
            )
        missing = [part for part in parts if any(self._session.columns(table) is None for table in part.tables)]
        if missing:
            raise InvalidInputError(
                f"{missing[0].place} is gone, which held part {missing[0].part.number} of {missing[0].part.of}: it was "
                "loaded before, or removed as left over. Nothing was applied. Stage the parts again."
            )
        self._session.gather(self._dialect, planned.columns, [part.table for part in parts])
        for part in parts:
            rows: int = self._session.fetch(f"SELECT count(*) FROM {self._dialect.table(part.table)}")[0][0]
            if rows != part.rows:
                raise part.count_error(rows)
            self._rows += rows
            tick(rows)
            if part.refused:
                self._read_refused(part)
        self._stage_rejects()

    def _read_refused(self, part: StagedTable) -> None:
        names = ("line", "column_name", "reason", "row_text")
        query = f"SELECT {self._dialect.names(names)} FROM {self._dialect.table(part.table + REFUSED)}"
        _, batches = self._session.stream(query)
        before = self._rejects.total
        for batch in batches:
            for line, column, reason, text in zip(*(each.to_pylist() for each in batch.columns), strict=True):
                self._rejects.add(reason, text, line=line, column=column)
        if self._rejects.total - before != part.refused:
            raise part.count_error(part.rows)


def kinds(planned: Planned) -> tuple[tuple[str, str], ...]:
    """Return the columns that a plan fills, and the types in which they are staged."""
    return tuple((column.name, column.stage_type or column.sql_type) for column in planned.columns)
