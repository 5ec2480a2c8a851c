"""The load protocol, written once over the primitives of a `BulkSession`.

How it keeps the promise that a retry never loses a row and never doubles one:

1. **Plan.** Compare the schemas; a type that would lose something is an error unless its column is allowed by name.
2. **Identity.** `load_id` is fixed before the first attempt; one that the ledger knows is done already.
3. **Stage** in bulk by the driver's fastest path, unless the driver can write into the target within the transaction.
4. **Verify**: rows sent = rows the server counted = rows applied.
5. **Claim, lock, plan again, apply and record in one transaction.** The row in the ledger comes first, under its
   primary key, so an attempt that is still committing somewhere blocks the next one instead of racing it. Then the
   table is locked against other loads as far as this one needs, and planned again as it is now: a load that was faster
   may have changed it. By then the rows are staged, unless the load adds rows and nothing else, so that no lock that
   stops readers is held while the source is read: it may read the table itself.
6. **Resolve** (`Warehouse.load`). If the answer to COMMIT is lost, that attempt is ended or waited for, and the ledger
   is read: found means done, not found means run again.
"""

from __future__ import annotations

import contextlib
import functools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.arrow.casts import cast_batch
from blocks.arrow.load_id import digest
from blocks.arrow.rejects import Rejects
from blocks.arrow.scan import AHEAD_BYTES
from blocks.base.concurrency import read_ahead
from blocks.base.errors import (
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TypeLossError,
)
from blocks.base.optional import lazy
from blocks.base.progress import progress
from blocks.warehouses.ledger import LEDGER, QUARANTINE, Ledger, claimed, faster_error, quarantine_schema, recorded
from blocks.warehouses.load import LoadPlan, LoadReport, LoadRequest
from blocks.warehouses.planner import Planned, Planner
from blocks.warehouses.session import COUNT_UNKNOWN, Script, ScriptedSession, Step, TableChangedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from blocks.warehouses.session import BulkSession
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")

REJECTS_A_BATCH = 10_000
MOST_PLANS = 10
"""So often in a row a table may change under a load before it counts as another error that passes."""


class Loader:
    """One attempt of one load on one session."""

    may_go_direct: ClassVar[bool] = True
    """Whether rows may be written into the target without a stage, where the session can."""

    def __init__(self, session: BulkSession, dialect: Dialect, request: LoadRequest, *, uri: str, load_id: str) -> None:
        self._session = session
        self._dialect = dialect
        self._request = request
        self._uri = uri
        self._load_id = load_id
        self._ledger = Ledger(dialect)
        self._rejects = Rejects()
        self._rows = 0
        self._bytes: int | None = None
        self._ddl: list[str] = []
        self._stale: list[Step] = []
        self._planned: Planned

    def run(self) -> LoadReport:
        """Do what the request asks for, and report it, or what an earlier attempt had done."""
        started = datetime.now(UTC)
        if report := self._find():
            return report.model_copy(update={"already_loaded": True})
        if isinstance(self._session, ScriptedSession):
            self._stale = self._stale_rejects()
        draft = self._plan()
        direct = self._may_go_direct(draft)
        try:
            with progress(draft.plan.table, total=self._request.scan.rows) as tick:
                if not direct:
                    self._stage(draft, tick)
                    self._check_staged_keys(draft)
                try:
                    return self._commit(draft, started, tick if direct else None)
                except (InvalidInputError, NotFoundError, SchemaError) as error:
                    self._check_unchanged(error)
                    raise
        finally:
            self._discard_stages()

    def _discard_stages(self) -> None:
        """Remove what the session has staged, its files included."""
        session = self._session
        for stage in (session.stage, session.staged_rejects, session.staged_keys):
            with contextlib.suppress(ConnectorError):
                session.discard(stage)

    def _plan(self) -> Planned:
        """Plan the load for the table as it is now."""
        planned = self._plan_as_it_is()
        self._refuse_losses(planned.plan)
        self._planned = planned
        return planned

    def _plan_as_it_is(self) -> Planned:
        return plan_load(self._session, self._dialect, self._request, uri=self._uri)

    def _may_go_direct(self, planned: Planned) -> bool:
        """Tell whether the rows may be written into the target within the transaction.

        Not where it has to be altered: the source may read it, and would wait for the lock that we hold.
        """
        plan, able = planned.plan, self.may_go_direct and self._session.ingests_in_transaction
        alters = bool(plan.ddl) and not plan.creates_table
        return able and plan.mode == "append" and not planned.needs_stage and not alters

    def _commit(self, draft: Planned, started: datetime, direct: Callable[[int], None] | None) -> LoadReport:
        """Apply what was staged, or with `direct` the source itself, in one transaction with the ledger's row.

        Raises:
            TableChangedError: The table is not the one any more that the rows were staged for.
        """
        session = self._session
        if isinstance(session, ScriptedSession):
            planned = self._shape_before(self._checked(self._plan(), draft))
            return self._run_script(session, planned, started)
        if self._dialect.ddl_commits:
            draft = self._shape_before(draft)
        with session.load_transaction():
            self._ledger.claim(
                session, self._load_id, draft.plan, started, call=self._request.call, state=self._request.claim
            )
            self._stale = self._stale_rejects()  # only now: another load of Redshift's may hold the quarantine
            planned = self._lock(draft)
            plan = planned.plan
            if direct is None:
                self._checked(planned, draft)
            elif not self._may_go_direct(planned):
                raise self._changed()
            if plan.ddl and self._dialect.ddl_commits:
                raise self._changed()
            self._shape(plan)
            if direct is None:
                changes = self._apply(planned)
            else:
                self._ingest(plan.table, planned, direct)
                changes = {"inserted": self._rows}
            for step in [*self._stale, *self._quarantine()]:
                session.execute(step.sql, step.parameters)
            report = self._report(plan, started, changes)
            self._ledger.record(session, report)
        return report

    def _lock(self, draft: Planned) -> Planned:
        """Lock the table as the load needs it, and return the plan for the table as it is then."""
        planned = draft
        for _ in range(MOST_PLANS):
            self._session.lock_target(self._dialect, planned.plan)
            current = self._plan()
            if (current.plan.creates_table, bool(current.plan.ddl)) == (
                planned.plan.creates_table,
                bool(planned.plan.ddl),
            ):
                return current
            planned = current
        raise self._changed()

    def _checked(self, planned: Planned, draft: Planned) -> Planned:
        """Return the plan if what was staged for the draft fits it."""
        if planned.schema != draft.schema:
            raise self._changed()
        return planned

    def _check_unchanged(self, error: ConnectorError) -> None:
        """Raise TableChangedError if the table has another shape than when the load that failed was last planned."""
        before = self._planned.table_shape
        if self._plan().table_shape != before:
            raise self._changed() from error

    def _changed(self) -> TableChangedError:
        return TableChangedError(f"{self._uri} was changed while it was loaded. Nothing was applied; it can run again.")

    def _report(self, plan: LoadPlan, started: datetime, changes: dict[str, int]) -> LoadReport:
        return LoadReport(
            load_id=self._load_id,
            table=plan.table,
            mode=plan.mode,
            key=plan.key,
            partition_by=plan.partition_by,
            rows=self._rows,
            **changes,
            bytes=self._bytes,
            rejected=dict(self._rejects.reasons),
            quarantine=QUARANTINE if self._rejects.total else None,
            data=self._replaced_data(),
            ddl=tuple(self._ddl),
            ignored_columns=tuple(column.name for column in plan.columns if column.action == "ignore"),
            state=self._request.state,
            mark=self._request.mark() if self._request.mark else None,
            started_at=started,
            finished_at=datetime.now(UTC),
        )

    def _quarantine(self) -> list[Step]:
        """Return the statement that puts what this load rejected into the quarantine."""
        columns = self._ledger.quarantine_columns()
        insert = self._dialect.insert(QUARANTINE, columns, self._session.staged_rejects)
        return [Step(insert)] if self._rejects.total else []

    def _stale_rejects(self) -> list[Step]:
        """Return the statements that take out of the quarantine what this load takes the place of.

        A load_id of the caller's own may be loaded anew, once somebody has deleted its row of the ledger. What replaces
        rows may be done again in another run, which changes no row of the table, nor of the quarantine.
        """
        ledger, session, request = self._ledger, self._session, self._request
        if not request.generated or request.claim:
            found = ledger.has_quarantined(session, self._load_id)
            return [ledger.drop_quarantined(self._load_id)] if found else []
        if request.mode == "append" or not ledger.has_rejects(session, request.table):
            return []
        data = self._data
        return [ledger.drop_rejects_of(data)] if data and ledger.has_rejects_of(session, data) else []

    def _replaced_data(self) -> str | None:
        """Return the identity of the data where its rejected rows are to replace earlier ones of it."""
        replaces = self._request.mode != "append" and self._request.generated and self._rejects.total
        return self._data if replaces else None

    @functools.cached_property
    def _data(self) -> str | None:
        """What tells the data, in every run, from other data for the same table and mode; None where nothing does."""
        scan, call = self._request.scan, self._request.call
        if call:
            return call.data
        return digest([self._uri, self._request.mode, scan.fingerprint()]) if scan.provable else None

    def _run_script(self, session: ScriptedSession, planned: Planned, started: datetime) -> LoadReport:
        """Run the same transaction as one script; the report is what it leaves in the ledger."""
        plan = planned.plan
        steps = self._steps(planned)
        steps += [*self._stale, *self._quarantine()]
        unknown = {step.counts_as: COUNT_UNKNOWN for step in steps if step.counts_as}
        script = Script(
            self._load_id,
            tuple(steps),
            self._rows,
            self._ledger.fitting(claimed(self._load_id, plan, started, self._request.call, self._request.claim))
            | recorded(self._report(plan, started, unknown)),
            rewrites=None if plan.mode == "append" else plan.table,
        )
        try:
            session.run_script(script)
        except AlreadyExistsError:
            raise faster_error(self._load_id) from None
        report = self._ledger.find(session, self._load_id)
        if report is None:
            raise TerminalError(f"{self._uri}: the script of load {self._load_id} ended, and the ledger lacks it.")
        return report

    def _steps(self, planned: Planned) -> list[Step]:
        """Return what `_apply` does, as statements."""
        dialect, plan, columns, stage = self._dialect, planned.plan, planned.columns, self._session.stage
        if plan.mode == "upsert":
            return [
                Step(dialect.update_from_stage(plan.table, columns, plan.key, stage), "updated"),
                Step(dialect.insert_missing(plan.table, columns, plan.key, stage), "inserted"),
            ]
        steps = []
        if plan.mode == "replace" and not plan.creates_table:
            steps.append(Step(dialect.truncate(plan.table), "deleted"))
        if plan.mode == "replace_partition" and not plan.creates_table:
            steps.append(Step(dialect.delete_partitions(plan.table, columns, plan.partition_by, stage), "deleted"))
        return [*steps, Step(dialect.insert(plan.table, columns, stage), "inserted")]

    def _find(self) -> LoadReport | None:
        call = self._request.call
        whole = self._request.claim is not None or (call is not None and call.needs_the_ledger)
        self._ledger.open(self._session, self._uri, whole=whole)
        report = self._ledger.find(self._session, self._load_id)
        if call and self._request.mode == "append":
            if report is not None:
                call.check_found(self._load_id, self._ledger.calls(self._session, call.id))
            elif call.needs_the_ledger:
                call.check_new(self._ledger.calls(self._session, call.id))
        if report is None and not self._session.has_unique_key(LEDGER, ["load_id"]):  # a copy or a backup, perhaps
            raise SchemaError(
                f"{self._uri}: the ledger {LEDGER} has no primary key, so two loads of one load_id could both happen. "
                f"Nothing was loaded. Run: ALTER TABLE {self._dialect.table(LEDGER)} ADD PRIMARY KEY (load_id)."
            )
        return report

    def _refuse_losses(self, plan: LoadPlan) -> None:
        allowed = self._request.allow_loss
        losses = {name: loss for name, loss in plan.losses.items() if name not in allowed}
        if not losses:
            return
        words = "; ".join(f"{name} would lose {loss}" for name, loss in losses.items())
        advice = "Cast the data or change the column, or name the column in allow_loss to accept it."
        if any(loss.startswith("its type") for loss in losses.values()):
            advice = (
                "Convert the data to the table's types, load it into another table, or make this one anew: "
                f"drop_table({plan.table!r}), then load. allow_loss={list(losses)} converts what can be converted."
            )
        raise TypeLossError(f"{self._uri}: {words}. {advice}")

    def _shape(self, plan: LoadPlan) -> None:
        for statement in plan.ddl:
            try:
                self._session.execute(statement)
            except AlreadyExistsError:
                raise self._changed() from None
            self._ddl.append(statement)

    def _shape_before(self, planned: Planned) -> Planned:
        """Shape the table by statements that commit by themselves, and return the plan for what is there then."""
        for _ in range(MOST_PLANS):
            if not planned.plan.ddl:
                return planned
            with contextlib.suppress(TableChangedError):  # another load was faster; the rest is planned again
                self._shape(planned.plan)
            planned = self._checked(self._plan(), planned)
        raise self._changed()

    def _stage(self, planned: Planned, tick: Callable[[int], None]) -> None:
        """Put the rows where only this session sees them."""
        self._session.create_stage(self._dialect, self._session.stage, planned.columns)
        self._ingest(self._session.stage, planned, tick, stage=True)

    def _ingest(self, table: str, planned: Planned, tick: Callable[[int], None], *, stage: bool = False) -> None:
        """Send the data, compare the counts, and stage what was refused."""
        opened = self._request.scan.batches(self._rejects)  # here: the thread that reads them knows of no run

        def counted() -> Iterator[pa.RecordBatch]:
            self._bytes = 0
            for batch in read_ahead(self._cast(opened, planned), size=lambda item: item.nbytes, limit=AHEAD_BYTES):
                self._rows += batch.num_rows
                self._bytes += batch.nbytes
                tick(batch.num_rows)
                yield batch

        count = self._session.ingest(table, planned.schema, counted(), stage=stage)
        if count != self._rows:
            raise TerminalError(
                f"{self._uri}: {self._rows} rows were sent and the server counted {count}. Nothing was committed."
            )
        self._stage_rejects()

    def _cast(self, batches: Iterator[pa.RecordBatch], planned: Planned) -> Iterator[pa.RecordBatch]:
        """Return the rows in the types of the table."""
        row, lossy = 1, self._request.allow_loss
        for batch in batches:
            kept = cast_batch(batch, planned.kept, lossy=lossy, inferred=planned.inferred, first_row=row)
            yield kept if planned.kept == planned.schema else cast_batch(kept, planned.schema)
            row += batch.num_rows

    def _stage_rejects(self) -> None:
        """Compare what was refused with what the caller allows, and stage it for the quarantine."""
        self._rejects.check(
            accepted=self._rows, max_rejected=self._request.max_rejected, source=self._request.scan.source
        )
        if self._rejects.total:
            self._ledger.create_quarantine(self._session)
            rejects = self._session.staged_rejects
            self._session.create_stage(self._dialect, rejects, self._ledger.quarantine_columns())
            self._session.ingest(rejects, quarantine_schema(), self._reject_batches(), stage=True)

    def _reject_batches(self) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, Any]] = []
        for text in self._rejects.json_lines():
            reject = json.loads(text)
            rows.append(
                {
                    "load_id": self._load_id,
                    "table_name": self._request.table,
                    "line": reject["line"],
                    "column_name": reject["column"],
                    "reason": reject["reason"],
                    "row_text": reject["row"].replace("\0", "\N{SYMBOL FOR NULL}"),  # no engine's text holds NUL
                }
            )
            if len(rows) == REJECTS_A_BATCH:
                yield pa.RecordBatch.from_pylist(rows, schema=quarantine_schema())
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=quarantine_schema())

    def _check_staged_keys(self, planned: Planned) -> None:
        plan = planned.plan
        columns = {"upsert": plan.key, "replace_partition": plan.partition_by}.get(plan.mode, ())
        if not columns or not self._rows:
            return
        stage = self._dialect.name(self._session.stage)
        nulls = " OR ".join(f"{self._dialect.name(column)} IS NULL" for column in columns)
        if count := self._session.fetch(f"SELECT count(*) FROM {stage} WHERE {nulls}")[0][0]:
            raise InvalidInputError(
                f"{self._uri}: {count} rows have no value in {', '.join(columns)}; {plan.mode} needs one."
            )
        if plan.mode == "upsert":
            keys = ", ".join(self._dialect.staged_key(each) for each in planned.columns if each.name in columns)
            repeated = f"SELECT 1 FROM {stage} AS s GROUP BY {keys} HAVING count(*) > 1"
            if count := self._session.fetch(f"SELECT count(*) FROM ({repeated}) AS d")[0][0]:
                raise InvalidInputError(
                    f"{self._uri}: {count} values of the key ({', '.join(columns)}) come more than once in the data, "
                    "so it is not clear which row counts. Make the key unique, or use mode='append'."
                )
            self._session.index_stage(self._dialect, planned.columns, columns)

    def _apply(self, planned: Planned) -> dict[str, int]:
        session, dialect, plan = self._session, self._dialect, planned.plan
        changes = {"inserted": 0, "updated": 0, "deleted": 0}
        if plan.mode == "upsert":
            changes["inserted"], changes["updated"] = session.upsert(dialect, plan.table, planned.columns, plan.key)
        else:
            if plan.mode == "replace" and not plan.creates_table:  # to empty a table says nothing of its rows
                changes["deleted"] = session.fetch(f"SELECT count(*) FROM {dialect.table(plan.table)}")[0][0]
            for step in self._steps(planned):
                count = session.execute(step.sql)
                if not (plan.mode == "replace" and step.counts_as == "deleted"):
                    changes[step.counts_as] = count
        if changes["inserted"] + changes["updated"] != self._rows:
            applied = changes["inserted"] + changes["updated"]
            raise TerminalError(
                f"{self._uri}: {self._rows} rows were staged and {applied} applied. Nothing was committed. "
                "The table may hold a key more than once, or a trigger or row security may hold rows back."
            )
        return changes


def plan_load(session: BulkSession, dialect: Dialect, request: LoadRequest, *, uri: str, **how: Any) -> Planned:
    """Return what the load would do to the table as it is now; `how` is what else the `Planner` takes.

    Raises:
        SchemaError: The data has a column that the table computes.
    """
    planned = Planner(dialect, request, existing=session.columns(request.table), uri=uri, **how).plan()
    if not planned.plan.creates_table:
        session.check_target(request.table)
    added = {column.name for column in planned.plan.columns if column.action == "add"}
    if computed := sorted(added and added & session.computed_columns(request.table)):
        raise SchemaError(f"{uri}: the table computes the column {computed[0]!r} itself. Leave it out of the data.")
    return planned
