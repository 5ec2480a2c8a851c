"""Copying: the load protocol for files that the engine itself reads. No row of them passes here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from blocks.arrow.scan import Scan
from blocks.base.errors import NotFoundError
from blocks.base.optional import lazy
from blocks.warehouses.load import LoadPlan, LoadRequest
from blocks.warehouses.loader import Loader
from blocks.warehouses.planner import Planned
from blocks.warehouses.session import ScriptedSession

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from blocks.warehouses.session import BulkSession
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")


class Copier(Loader):
    """One attempt of appending files, as the engine reads them, to a table that is there.

    A transaction that takes a COPY has it within; for another engine the files go into the stage first.
    """

    def __init__(
        self,
        session: BulkSession,
        dialect: Dialect,
        table: str,
        copy: Callable[[str], int],
        *,
        uri: str,
        load_id: str,
        casts: bool = False,
    ) -> None:
        """Take what copies the files into a table and returns their number of rows; `casts` where JSON is text."""
        nothing = Scan(pa.schema([]), lambda _: iter(()), source="the files")
        request = LoadRequest(scan=nothing, table=table, mode="append", on_new_columns="fail")
        super().__init__(session, dialect, request, uri=uri, load_id=load_id)
        self._copy = copy
        self._casts = casts

    def _plan_as_it_is(self) -> Planned:
        """Plan for files that nobody here has seen: the engine compares them with the columns of the table."""
        table = self._request.table
        if (columns := self._session.columns(table)) is None:
            raise NotFoundError(f"There is no table {self._uri}.")
        if not self._casts:
            columns = [replace(column, stage_type=None) for column in columns]
        schema = pa.schema([(column.name, column.arrow_type) for column in columns])
        plan = LoadPlan(table=table, mode="append", creates_table=False, ddl=(), columns=())
        return Planned(plan=plan, columns=tuple(columns), schema=schema, inferred=frozenset(), kept=schema)

    def _may_go_direct(self, planned: Planned) -> bool:
        """Tell whether the files may be copied into the target within the transaction."""
        del planned
        return not isinstance(self._session, ScriptedSession)

    def _ingest(self, table: str, planned: Planned, tick: Callable[[int], None], *, stage: bool = False) -> None:
        """Have the files copied."""
        del planned, stage
        self._rows = self._copy(table)
        tick(self._rows)
