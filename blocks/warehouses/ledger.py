"""The ledger: one row for every load that was committed, written in the transaction of the load itself."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from blocks.base.errors import AlreadyExistsError, NotFoundError, TerminalError, TransientError
from blocks.base.optional import lazy
from blocks.warehouses.load import LoadReport

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa

    from blocks.warehouses.load import LoadPlan
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Column, Dialect
else:
    pa = lazy("pyarrow")

LEDGER = "_etl_loads"
"""The table beside the data that holds the loads."""

QUARANTINE = "_etl_quarantine"
"""The table beside the data that holds the rows that loads refused."""


class Ledger:
    """The ledger of the warehouse's own schema, in the SQL of its engine."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def find(self, session: Session, load_id: str) -> LoadReport | None:
        """Return the report of a committed load.

        Raises:
            NotFoundError: There is no ledger yet.
        """
        query = f"SELECT report FROM {self._dialect.table(LEDGER)} WHERE load_id = :load_id"
        rows = session.fetch(query, {"load_id": load_id})
        return LoadReport.model_validate_json(rows[0][0]) if rows else None

    def create(self, session: Session) -> None:
        """Create the quarantine and the ledger where they do not exist; where there is a ledger, there are both."""
        loads = self._dialect.create_table(LEDGER, self._columns(ledger_schema()), key=["load_id"], unique=True)
        for statement in (self._dialect.create_table(QUARANTINE, self.quarantine_columns()), loads):
            with contextlib.suppress(AlreadyExistsError):  # another loader was faster
                session.execute(statement)

    def claim(self, session: BulkSession, load_id: str, plan: LoadPlan, started: datetime) -> None:
        """Take the load's row, so that no other attempt can commit the same load.

        Raises:
            TransientError: Another attempt has it. The next look into the ledger finds that attempt's report.
        """
        values = claimed(load_id, plan, started)
        names, parameters = ", ".join(values), ", ".join(f":{name}" for name in values)
        statement = f"INSERT INTO {self._dialect.table(LEDGER)} ({names}) VALUES ({parameters})"
        try:
            session.claim(statement, values, load_id)
        except AlreadyExistsError:
            raise TransientError(f"Another try of load {load_id} was faster; its report is in the ledger.") from None

    def record(self, session: Session, report: LoadReport) -> None:
        """Complete the claimed row."""
        values = recorded(report)
        changes = ", ".join(f"{name} = :{name}" for name in values)
        changed = session.execute(
            f"UPDATE {self._dialect.table(LEDGER)} SET {changes} WHERE load_id = :load_id",
            {**values, "load_id": report.load_id},
        )
        if changed not in (1, -1):
            raise TerminalError(f"The ledger row of load {report.load_id} is gone; nothing was applied.")

    def quarantine_columns(self) -> list[Column]:
        """Return the columns of the quarantine table."""
        return self._columns(quarantine_schema())

    def _columns(self, schema: pa.Schema) -> list[Column]:
        return [self._dialect.column(field.name, field.type) for field in schema]


def claimed(load_id: str, plan: LoadPlan, started: datetime) -> dict[str, Any]:
    """Return what a row of the ledger holds from the claim on."""
    run = FlowRunContext.get()
    return {
        "load_id": load_id,
        "table_name": plan.table,
        "mode": plan.mode,
        "flow_run_id": str(run.flow_run.id) if run and run.flow_run else None,
        "started_at": started,
    }


def recorded(report: LoadReport) -> dict[str, Any]:
    """Return what is added to it once the rows are applied."""
    return {
        "row_count": report.rows,
        "rejected_count": report.rows_rejected,
        "report": report.model_dump_json(),
        "finished_at": report.finished_at,
    }


def find_report(ledger: Ledger, session: Session, load_id: str) -> LoadReport | None:
    """Return the report of a committed load, None also where there is no ledger."""
    try:
        return ledger.find(session, load_id)
    except NotFoundError:
        return None


def ledger_schema() -> pa.Schema:
    """Return the columns of the ledger."""
    return pa.schema(
        {
            "load_id": pa.string(),
            "table_name": pa.string(),
            "mode": pa.string(),
            "row_count": pa.int64(),
            "rejected_count": pa.int64(),
            "flow_run_id": pa.string(),
            "started_at": pa.timestamp("us", "UTC"),
            "finished_at": pa.timestamp("us", "UTC"),
            "report": pa.string(),
        }
    )


def quarantine_schema() -> pa.Schema:
    """Return the columns of the quarantine."""
    return pa.schema(
        {
            "load_id": pa.string(),
            "table_name": pa.string(),
            "line": pa.int64(),
            "column_name": pa.string(),
            "reason": pa.string(),
            "row_text": pa.string(),
        }
    )
