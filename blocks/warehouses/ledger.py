"""The ledger: one row for every load that was committed, written in the transaction of the load itself.

Its columns have a version. A ledger of an older one gets the columns that it lacks, also while others load: who does
not know them leaves them null. A ledger of a newer one is refused, as this version cannot tell what its rows mean.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext
from pydantic import ValidationError

from blocks.arrow.marks import Mark
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConnectorError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
)
from blocks.base.optional import lazy
from blocks.warehouses.load import LoadReport, LoadState
from blocks.warehouses.session import Script, ScriptedSession, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from blocks.arrow.load_id import Call
    from blocks.warehouses.load import LoadPlan
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Column, Dialect
else:
    pa = lazy("pyarrow")

LEDGER = "_etl_loads"
"""The table beside the data that holds the loads."""

QUARANTINE = "_etl_quarantine"
"""The table beside the data that holds the rows that loads refused."""


VERSION = 3
"""The version of its columns: the second came with `version`, `call_id` and `attempt`, the third with states."""

INDEXES = {"_etl_loads_calls": ("call_id", "IS NOT NULL"), "_etl_loads_rejects": ("rejected_count", "> 0")}
"""Indexes of the rows that a load looks for otherwise than by its load_id: their column, and which rows it has."""

OLDEST = ("load_id", "table_name", "mode", "report")
"""Without these columns it is not a ledger."""

LOOKED_AT = 100
"""So many rows are looked at for their version; who makes a ledger newer raises it in all of them."""


class Ledger:
    """The ledger of the warehouse's own schema, in the SQL of its engine."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lacks: set[str] = set()

    def find(self, session: Session, load_id: str) -> LoadReport | None:
        """Return the report of a committed load.

        Raises:
            NotFoundError: There is no ledger yet.
        """
        query = f"SELECT report FROM {self._dialect.table(LEDGER)} WHERE load_id = :load_id"
        rows = session.fetch(query, {"load_id": load_id})
        return _report(rows[0][0], load_id) if rows and rows[0][0] is not None else None

    def latest(self, session: Session, table: str | None, most: int) -> list[LoadReport]:
        """Return the reports of the loads that were committed last, of one table or of all, the newest first."""
        where = "finished_at IS NOT NULL" + ("" if table is None else " AND table_name = :name")
        query = (
            f"SELECT load_id, report FROM {self._dialect.table(LEDGER)} WHERE {where} "
            f"ORDER BY finished_at DESC LIMIT {most:d}"
        )
        rows = session.fetch(query, None if table is None else {"name": table})
        return [_report(row[1], row[0]) for row in rows]

    def states(self, session: BulkSession, name: str | None = None) -> list[LoadState]:
        """Return what is known of each state, or of one."""
        columns = session.columns(LEDGER)
        if columns is None or "state_name" not in _names(columns):
            return []
        table, where = self._dialect.table(LEDGER), "IS NOT NULL" if name is None else "= :name"
        latest = (
            f"SELECT state_name, max(state_number) AS newest FROM {table} WHERE state_name {where} GROUP BY state_name"
        )
        query = (
            "SELECT l.state_name, l.state_number, l.mode, l.table_name, l.mark, l.started_at, l.flow_run_id "
            f"FROM {table} AS l JOIN ({latest}) AS m ON l.state_name = m.state_name AND l.state_number = m.newest "
            "ORDER BY l.state_name"
        )
        return [_state(row) for row in session.fetch(query, {"name": name} if name else None)]

    def state(self, session: BulkSession, name: str, number: int | None = None) -> LoadState | None:
        """Return what is known of a state, or was when it had so many loads; None where it has none."""
        if number is None:
            found = next(iter(self.states(session, name)), None)
        else:
            query = (
                "SELECT state_name, state_number, mode, table_name, mark, started_at, flow_run_id "
                f"FROM {self._dialect.table(LEDGER)} WHERE state_name = :name AND state_number = :number"
            )
            rows = session.fetch(query, {"name": name, "number": number})
            found = _state(rows[0]) if rows else None
        if found is None or found.mark is None or found.mark.parts_since in (None, found.number):
            return found
        return found.model_copy(update={"mark": self._summed(session, found, found.mark)})

    def _summed(self, session: Session, state: LoadState, mark: Mark) -> Mark:
        """Return a mark with the parts of all loads that it is the sum of."""
        query = (
            f"SELECT state_number, mark FROM {self._dialect.table(LEDGER)} WHERE state_name = :name "
            "AND state_number BETWEEN :first AND :last ORDER BY state_number"
        )
        rows = session.fetch(query, {"name": state.name, "first": mark.parts_since, "last": state.number})
        return mark.model_copy(update={"parts": "".join(Mark.model_validate_json(row[1]).parts for row in rows)})

    def put_state(self, session: BulkSession, state: LoadState) -> None:
        """Commit a state that no load has made: it was set, or reset.

        Raises:
            FasterError: The state has another mark by now.
            AmbiguousError: The answer to COMMIT was lost.
        """
        run = FlowRunContext.get()
        row = {
            "load_id": state.load_id,
            "table_name": state.table,
            "mode": state.mode,
            "flow_run_id": str(run.flow_run.id) if run and run.flow_run else None,
            "started_at": state.at,
            "version": VERSION,
            "state_name": state.name,
            "state_number": state.number,
            "mark": state.mark.model_dump_json() if state.mark else None,
        }
        row = {name: value for name, value in row.items() if value is not None}
        try:
            if isinstance(session, ScriptedSession):
                mine = Step(f"SELECT '{session.stage}'")  # by its name a session knows its job from another one's
                session.run_script(Script(state.load_id, (mine,), 0, row))
                return
            with session.load_transaction():
                session.claim(self._insert(row), row, state.load_id)
        except AlreadyExistsError:
            raise faster_error(state.load_id) from None

    def calls(self, session: Session, call_id: str) -> list[tuple[str, str]]:
        """Return the load_id and the record of each load of a call, in whatever attempt."""
        table = self._dialect.table(LEDGER)
        query = f"SELECT load_id, attempt FROM {table} WHERE call_id = :call_id AND attempt IS NOT NULL"
        return [] if self._lacks else [(row[0], row[1]) for row in session.fetch(query, {"call_id": call_id})]

    def replaced_after(self, session: Session, load_id: str, table: str, root: str) -> list[tuple[str, str]]:
        """Return the mode and the record of the loads of a root run that replaced rows of a table after this load."""
        query = (
            f"SELECT load_id, mode, attempt, finished_at FROM {self._dialect.table(LEDGER)} WHERE load_id = :load_id "
            "OR (table_name = :name AND mode IN ('replace', 'replace_partition') AND attempt LIKE :root)"
        )
        rows = session.fetch(query, {"load_id": load_id, "name": table, "root": f'%"{root}"%'})
        finished = next(row[3] for row in rows if row[0] == load_id)
        return [(row[1], row[2]) for row in rows if row[3] > finished]

    def open(self, session: BulkSession, uri: str, *, whole: bool) -> None:
        """Create the ledger where there is none, and give one of an older version the columns that it lacks.

        Args:
            session: A session outside of a transaction.
            uri: Where the ledger is, for messages.
            whole: Whether all of its columns are needed now. Else one that another load holds is left as it is.

        Raises:
            SchemaError: It is not a ledger, or one of a newer version, or may not be altered.
            TransientError: It could not be altered now.
        """
        columns = session.columns(LEDGER)
        if columns is None:
            try:
                self.create(session)
            except AccessDeniedError:
                raise AccessDeniedError(
                    f"{uri}: there is no ledger of loads ({LEDGER}) yet, and this login may not create tables in its "
                    "schema. Nothing was loaded. Grant it CREATE on the schema, or have the owner run: "
                    f"{'; '.join(self.ddl())}; and grant SELECT, INSERT and UPDATE on both tables."
                ) from None
            return
        names = _names(columns)
        if missing := [name for name in OLDEST if name not in names]:
            raise SchemaError(
                f"{uri}: the table {LEDGER} is not a ledger of loads: it lacks {', '.join(missing)}. Nothing was "
                "loaded. Rename it, and the next load creates the ledger."
            )
        known = {column.name: column for column in self._columns(ledger_schema())}
        if foreign := [
            column.name
            for column in columns
            if column.name.lower() not in known and not column.nullable and not column.has_default
        ]:
            raise SchemaError(f"{uri}: {self._newer()}: its column {foreign[0]} has to be filled. Nothing was loaded.")
        self._lacks = known.keys() - names
        for name in [name for name in known if name in self._lacks]:
            statement = self._dialect.add_column(LEDGER, known[name])
            try:
                with contextlib.suppress(AlreadyExistsError):  # another loader was faster
                    session.alter(statement)
                self._lacks.discard(name)
            except TransientError:
                if whole:
                    raise
                self._lacks = known.keys() - _names(session.columns(LEDGER) or [])
                break
            except ConnectorError as error:
                raise SchemaError(
                    f"{uri}: the ledger {LEDGER} is of an older version, and this login may not change it "
                    f"({type(error).__name__}). Nothing was loaded. Have its owner run: {statement}."
                ) from error
        if "version" not in self._lacks:
            self._check_version(session, uri)

    def _check_version(self, session: Session, uri: str) -> None:
        rows = session.fetch(f"SELECT version FROM {self._dialect.table(LEDGER)} LIMIT {LOOKED_AT}")
        newest = max((row[0] or 0 for row in rows), default=0)
        if newest > VERSION:
            raise SchemaError(f"{uri}: {self._newer()} (version {newest}, and this is {VERSION}). Nothing was loaded.")

    def _newer(self) -> str:
        return f"the ledger {LEDGER} was made by a newer version of etl-blocks; install that one here"

    def create(self, session: BulkSession) -> None:
        """Create the quarantine, the ledger and its indexes where they do not exist."""
        for statement in self._tables():
            with contextlib.suppress(AlreadyExistsError):  # another loader was faster
                session.execute(statement)
        for statement in self._indexes():
            with contextlib.suppress(AlreadyExistsError, AccessDeniedError, TransientError):  # and is making them
                session.alter(statement)

    def ddl(self) -> list[str]:
        """Return the statements that create the quarantine, the ledger and its indexes."""
        return [*self._tables(), *self._indexes()]

    def _tables(self) -> list[str]:
        loads = self._dialect.create_table(LEDGER, self._columns(ledger_schema()), key=["load_id"], unique=True)
        return [self._dialect.create_table(QUARANTINE, self.quarantine_columns()), loads]

    def _indexes(self) -> list[str]:
        if not self._dialect.partial_indexes:
            return []
        name, table = self._dialect.name, self._dialect.table(LEDGER)
        return [
            f"CREATE INDEX IF NOT EXISTS {name(index)} ON {table} ({name(column)}) WHERE {name(column)} {rows}"
            for index, (column, rows) in INDEXES.items()
        ]

    def create_quarantine(self, session: BulkSession) -> None:
        """Create the quarantine again where somebody dropped it.

        Raises:
            TransientError: Another loader did so at the same time.
        """
        if session.columns(QUARANTINE) is None:
            try:
                session.execute(self._dialect.create_table(QUARANTINE, self.quarantine_columns()))
            except AlreadyExistsError:
                raise TransientError(f"Another loader made {QUARANTINE} at the same time.") from None

    def claim(
        self,
        session: BulkSession,
        load_id: str,
        plan: LoadPlan,
        started: datetime,
        *,
        call: Call | None = None,
        state: LoadState | None = None,
    ) -> None:
        """Take the load's row, so that no other attempt can commit the same load.

        Raises:
            TransientError: Another attempt has it. The next look into the ledger finds that attempt's report.
        """
        values = self.fitting(claimed(load_id, plan, started, call, state))
        try:
            session.claim(self._insert(values), values, load_id)
        except AlreadyExistsError:
            raise faster_error(load_id) from None

    def _insert(self, row: Mapping[str, Any]) -> str:
        names, parameters = ", ".join(row), ", ".join(f":{name}" for name in row)
        return f"INSERT INTO {self._dialect.table(LEDGER)} ({names}) VALUES ({parameters})"

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

    def has_quarantined(self, session: BulkSession, load_id: str) -> bool:
        """Tell whether the quarantine holds rows of a load."""
        if session.columns(QUARANTINE) is None:
            return False
        query = f"SELECT count(*) FROM {self._dialect.table(QUARANTINE)} WHERE load_id = :load_id"
        return bool(session.fetch(query, {"load_id": load_id})[0][0])

    def drop_quarantined(self, load_id: str) -> Step:
        """Return the statement that takes the rows of a load out of the quarantine."""
        statement = f"DELETE FROM {self._dialect.table(QUARANTINE)} WHERE load_id = :load_id"
        return Step(statement, parameters={"load_id": load_id})

    def has_rejects(self, session: BulkSession, table: str) -> bool:
        """Tell whether loads that replaced rows of a table have rejected some, which are in the quarantine."""
        query = (
            f"SELECT count(*) FROM {self._dialect.table(LEDGER)} WHERE table_name = :name AND rejected_count > 0 "
            "AND mode <> 'append'"
        )
        return bool(session.fetch(query, {"name": table})[0][0]) and session.columns(QUARANTINE) is not None

    def has_rejects_of(self, session: Session, data: str) -> bool:
        """Tell whether earlier loads of the same data have rejected rows."""
        return bool(session.fetch(f"SELECT count(*) FROM {self._rejecting(data)}")[0][0])

    def drop_rejects_of(self, data: str) -> Step:
        """Return the statement that takes the rows of these loads out of the quarantine."""
        quarantine = self._dialect.table(QUARANTINE)
        return Step(f"DELETE FROM {quarantine} WHERE load_id IN (SELECT load_id FROM {self._rejecting(data)})")

    def show_rejects_of(self, load_id: str) -> str:
        """Return the statement with which a person looks at the rows that a load refused."""
        text = load_id.replace("'", "''")
        return f"SELECT * FROM {self._dialect.table(QUARANTINE)} WHERE load_id = '{text}'"

    def _rejecting(self, data: str) -> str:
        found = f'rejected_count > 0 AND report LIKE \'%"data":"{data}"%\''  # digits, as LoadReport writes them
        return f"{self._dialect.table(LEDGER)} WHERE {found}"

    def fitting(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return of a row what this ledger has columns for."""
        return {name: value for name, value in row.items() if name not in self._lacks}

    def quarantine_columns(self) -> list[Column]:
        """Return the columns of the quarantine table."""
        return self._columns(quarantine_schema())

    def _columns(self, schema: pa.Schema) -> list[Column]:
        return [self._dialect.column(field.name, field.type) for field in schema]


class FasterError(TransientError):
    """Another attempt, or another load of the same state, was committed meanwhile."""


def faster_error(load_id: str) -> FasterError:
    """Return the error for a load that another attempt committed meanwhile; the next look finds its report."""
    return FasterError(f"Another attempt of load {load_id} was faster; its report is in the ledger.")


def _names(columns: Sequence[Column]) -> set[str]:
    return {column.name.lower() for column in columns}


def _report(text: str | None, load_id: str) -> LoadReport:
    try:
        return LoadReport.model_validate_json(text or "")
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, each["loc"])) or "all of it" for each in error.errors()}))
        raise SchemaError(
            f"The ledger has load {load_id}, so it was committed, and this version cannot read its report ({fields}). "
            "Nothing was loaded. To load it once more, take its rows out of the table and delete its row of the ledger."
        ) from None


def _state(row: Sequence[Any]) -> LoadState:
    name, number, mode, table, mark, at, run = row
    return LoadState(
        name=name,
        number=number,
        mode=mode,
        table=table,
        mark=Mark.model_validate_json(mark) if mark else None,
        at=at,
        flow_run_id=run,
    )


def claimed(
    load_id: str, plan: LoadPlan, started: datetime, call: Call | None = None, state: LoadState | None = None
) -> dict[str, Any]:
    """Return what a row of the ledger holds from the claim on."""
    run = FlowRunContext.get()
    of_state = {"state_name": state.name, "state_number": state.number} if state else {}
    return of_state | {
        "load_id": load_id,
        "table_name": plan.table,
        "mode": plan.mode,
        "flow_run_id": str(run.flow_run.id) if run and run.flow_run else None,
        "started_at": started,
        "version": VERSION,
        "call_id": call.id if call else None,
        "attempt": call.record if call else None,
    }


def recorded(report: LoadReport) -> dict[str, Any]:
    """Return what is added to it once the rows are applied."""
    return {
        "row_count": report.rows,
        "rejected_count": report.rows_rejected,
        "report": report.model_dump_json(exclude={"mark": {"parts"}}),
        "finished_at": report.finished_at,
        **({"mark": report.mark.model_dump_json()} if report.mark else {}),
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
            "version": pa.int64(),
            "call_id": pa.string(),
            "attempt": pa.string(),
            "state_name": pa.string(),
            "state_number": pa.int64(),
            "mark": pa.string(),
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
