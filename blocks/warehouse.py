"""Warehouse: everything any SQL database can do, written once over the few primitives of a `Session`.

How `load` keeps the promise that a retry never loses a row and never doubles one:

1. **Plan.** Compare the schemas; a type that would lose something is an error unless its column is allowed by name.
2. **Identity.** `load_id` is fixed before the first try.
3. **Stage** in bulk by the driver's fastest path.
4. **Verify**: rows sent = rows the server counted.
5. **Claim, apply and record in one transaction.** The row in the ledger `_etl_loads` comes first, under its primary
   key, so a try that is still committing somewhere blocks the next one instead of racing it.
6. **Resolve.** If the connection dies once COMMIT may have been sent, that try is ended or waited for and the ledger is
   read: found means done, not found means run again.
"""

from __future__ import annotations

import contextlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import DatabaseBlock
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture

from blocks.block import ConnectorBlock
from blocks.errors import (
    AlreadyExistsError,
    AmbiguousError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
    TypeLossError,
)
from blocks.load import (
    LEDGER,
    QUARANTINE,
    ColumnPlan,
    LoadPlan,
    LoadReport,
    Mode,
    OnNewColumns,
    cast_batch,
    check_names,
    derive_load_id,
    plain_type,
    type_loss,
)
from blocks.operation import operation, prepared_operation
from blocks.optional import lazy
from blocks.progress import progress
from blocks.retry import call_with_retry
from blocks.scan import Rejects, Scan, as_scan, read_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

STAGE = "_etl_stage"
STAGED_REJECTS = "_etl_staged_rejects"


@dataclass(frozen=True)
class Column:
    """A column of a warehouse table."""

    name: str
    sql_type: str
    arrow_type: pa.DataType
    nullable: bool = True
    has_default: bool = False
    stage_type: str | None = None
    """Type in the staging table, where the driver cannot fill `sql_type` itself; the engine then casts."""
    any_decimal: bool = False
    """Whether it holds decimals of any precision and scale, so that data keeps its own."""


class Dialect(ABC):
    """The SQL of one engine: names, types and the statements of the write modes."""

    stage_prefix: ClassVar[str] = "CREATE TEMPORARY TABLE"

    @abstractmethod
    def column(self, name: str, kind: pa.DataType) -> Column:
        """A new column that holds every value of the Arrow type, and the Arrow type in which it is filled.

        Raises:
            TypeLossError: No column type of this engine does.
        """

    def name(self, name: str) -> str:
        """A quoted identifier, kept exactly as written."""
        return '"' + name.replace('"', '""') + '"'

    def names(self, names: Iterable[str], prefix: str = "") -> str:
        """Quoted identifiers, separated by commas."""
        return ", ".join(prefix + self.name(name) for name in names)

    def table(self, table: str) -> str:
        """A quoted table; `schema.table` has its parts quoted one by one."""
        return ".".join(self.name(part) for part in table.split("."))

    def create_table(self, table: str, columns: Sequence[Column], *, key: Sequence[str] = ()) -> str:
        """The statement that creates the table."""
        parts = [f"{self.name(c.name)} {c.sql_type}" + (" NOT NULL" if c.name in key else "") for c in columns]
        return f"CREATE TABLE IF NOT EXISTS {self.table(table)} ({', '.join(parts)})"

    def create_stage(self, stage: str, columns: Sequence[Column]) -> str:
        """The statement that creates a table that only this session sees."""
        parts = ", ".join(f"{self.name(column.name)} {column.stage_type or column.sql_type}" for column in columns)
        return f"{self.stage_prefix} {self.name(stage)} ({parts})"

    def staged(self, column: Column) -> str:
        """The value of a staged row `s` in the column's own type."""
        value = f"s.{self.name(column.name)}"
        return f"CAST({value} AS {column.sql_type})" if column.stage_type else value

    def add_column(self, table: str, column: Column) -> str:
        """The statement that adds a column, null in the rows that are there."""
        return f"ALTER TABLE {self.table(table)} ADD COLUMN {self.name(column.name)} {column.sql_type}"

    def insert(self, table: str, columns: Sequence[Column], stage: str, where: str = "") -> str:
        """The statement that copies the staged rows into the table."""
        values = ", ".join(self.staged(column) for column in columns)
        names = self.names(column.name for column in columns)
        return f"INSERT INTO {self.table(table)} ({names}) SELECT {values} FROM {self.name(stage)} AS s{where}"

    def truncate(self, table: str) -> str:
        """The statement that empties the table and keeps its grants, views and indexes."""
        return f"DELETE FROM {self.table(table)}"

    def same_key(self, columns: Sequence[Column], key: Sequence[str]) -> str:
        """The condition that a row of the table `t` and a staged row `s` have the same key."""
        return " AND ".join(f"t.{self.name(c.name)} = {self.staged(c)}" for c in columns if c.name in key)

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """The statement that deletes the rows of every partition that the staged rows touch."""
        partitions = f"SELECT DISTINCT {self.names(partition_by)} FROM {self.name(stage)}"
        return (
            f"DELETE FROM {self.table(table)} AS t WHERE EXISTS "
            f"(SELECT 1 FROM ({partitions}) AS s WHERE {self.same_key(columns, partition_by)})"
        )

    def update_from_stage(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """The statement that gives the rows whose key is staged the staged values."""
        rest = [column for column in columns if column.name not in key] or columns
        values = ", ".join(f"{self.name(column.name)} = {self.staged(column)}" for column in rest)
        return (
            f"UPDATE {self.table(table)} AS t SET {values} FROM {self.name(stage)} AS s "
            f"WHERE {self.same_key(columns, key)}"
        )

    def insert_missing(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """The statement that inserts the staged rows whose key the table lacks."""
        known = f"SELECT 1 FROM {self.table(table)} AS t WHERE {self.same_key(columns, key)}"
        return self.insert(table, columns, stage, f" WHERE NOT EXISTS ({known})")


class Feed:
    """Batches on their way into a driver; it remembers the error of their source, which drivers turn into text."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self.error: BaseException | None = None
        self._batches = batches

    def reader(self) -> pa.RecordBatchReader:
        """The batches as the Arrow reader that drivers take."""
        return pa.RecordBatchReader.from_batches(self.schema, self)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise


class Session(ABC):
    """One connection, in the hands of one thread. Errors are already those of `blocks.errors`.

    What happens between `begin` and `commit` is one transaction; elsewhere each statement commits itself.
    """

    @abstractmethod
    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows the statement changed; -1 where the driver does not say. Parameters are bound as `:name`."""

    @abstractmethod
    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """The rows of a query as tuples, at most `size`."""

    @abstractmethod
    def begin(self) -> None:
        """Start a transaction."""

    @abstractmethod
    def commit(self) -> None:
        """Commit it.

        Raises:
            AmbiguousError: The answer was lost.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Undo it; says nothing if the connection is gone, which undoes it too."""

    @abstractmethod
    def close(self) -> None:
        """End the session."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done within happens, or nothing of it."""
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()


class BulkSession(Session):
    """A session that also moves Arrow data at the speed of the driver."""

    ingests_in_transaction: ClassVar[bool] = False
    """Whether `ingest` may write straight into the target, within the transaction of the claim."""

    @abstractmethod
    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The result of a query as an exact Arrow schema and a stream of record batches."""

    @abstractmethod
    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to an existing table in bulk and return how many rows the server counted."""

    @abstractmethod
    def columns(self, table: str) -> list[Column] | None:
        """The columns of a table in order, None where there is no such table."""

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:  # noqa: ARG002 (for subclasses)
        """Insert the ledger row; waits for another try that holds it.

        Raises:
            AlreadyExistsError: Another try committed it.
            TransientError: Another try holds it, and for too long.
        """
        self.execute(sql, parameters)

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table by key and return how many were inserted and updated."""
        updated = self.execute(dialect.update_from_stage(table, columns, key, STAGE))
        return self.execute(dialect.insert_missing(table, columns, key, STAGE)), updated

    def end_other_tries(self, load_id: str) -> None:  # noqa: B027 (a hook: most engines have nothing to end)
        """End what a lost try of this load may still be doing on the server, and wait until it is gone."""


class Warehouse(ConnectorBlock, DatabaseBlock, ABC):
    """A SQL database: statements, queries as Arrow streams, and loads that happen exactly once.

    Parameters of statements are named: `fetch_all("select * from t where d = :day", {"day": day})`. They are bound by
    the driver, never formatted into the text.
    """

    @abstractmethod
    def uri(self, table: str = "") -> str:
        """Where a table is, without secrets, for messages: `postgres://host:5432/db/schema.table`."""

    @property
    @abstractmethod
    def dialect(self) -> Dialect:
        """The SQL of this engine."""

    @abstractmethod
    def _connect(self) -> Session:
        """A new session for statements and their rows."""

    @abstractmethod
    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        """A new session for Arrow data; the server can tell by `load_id` which load it belongs to."""

    def _session(self) -> contextlib.closing[Session]:
        return contextlib.closing(self._connect())

    def _bulk_session(self, load_id: str | None = None) -> contextlib.closing[BulkSession]:
        return contextlib.closing(self._connect_bulk(load_id))

    # --- Prefect's DatabaseBlock ---

    @operation
    def execute(self, operation: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Nothing. Runs one statement and commits it.

        Raises:
            AmbiguousError: The connection was lost after the statement was sent; look before you run it again.
        """
        with self._session() as session:
            session.execute(operation, parameters)

    @operation
    def execute_many(self, operation: str, seq_of_parameters: Sequence[Mapping[str, Any]]) -> None:
        """Nothing. Runs the statement once for each item, all in one transaction."""
        with self._session() as session, session.transaction():
            for parameters in seq_of_parameters:
                session.execute(operation, parameters)

    @operation
    def fetch_one(self, operation: str, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...] | None:
        """The first row of a query, None where it has none."""
        with self._session() as session:
            return next(iter(session.fetch(operation, parameters, size=1)), None)

    @operation
    def fetch_many(
        self, operation: str, parameters: Mapping[str, Any] | None = None, size: int = 1_000
    ) -> list[tuple[Any, ...]]:
        """The first `size` rows of a query. The same call twice gives the same rows."""
        with self._session() as session:
            return session.fetch(operation, parameters, size=size)

    @operation
    def fetch_all(self, operation: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a query, as tuples."""
        with self._session() as session:
            return session.fetch(operation, parameters)

    def close(self) -> None:
        """Nothing. Drops what the block keeps open; the next call opens it again."""
        with self._lock:
            for client in self._live.values():
                if close := getattr(client, "close", None):
                    close()
            self._live.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # --- reading ---

    def scan(self, source: str, parameters: Mapping[str, Any] | None = None) -> Scan:
        """A Scan of a table, or of a query (anything with a blank in it), with exact Arrow types.

        Each time it is opened, it runs the query on a connection of its own; memory stays bounded.
        """
        sql = source if re.search(r"\s", source.strip()) else f"SELECT * FROM {self.dialect.table(source)}"

        def find_schema() -> pa.Schema:
            def describe() -> pa.Schema:
                with self._bulk_session() as session:
                    schema, batches = session.stream(f"SELECT * FROM ({sql}) AS q LIMIT 0", parameters)
                    for _ in batches:
                        pass
                    return schema

            return call_with_retry(self.retry, describe)

        def open_batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
            with self._bulk_session() as session:
                yield from session.stream(sql, parameters)[1]

        where = source if sql is not source else "query"
        return Scan(find_schema, open_batches, source=self.uri(where), fingerprint=lambda: f"{sql} {parameters}")

    @operation
    def read_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table, or some of its columns, as one Arrow table."""
        names = self.dialect.names(columns) if columns else "*"
        return self.scan(f"SELECT {names} FROM {self.dialect.table(table)}").to_arrow()

    @operation
    def table_schema(self, table: str) -> pa.Schema:
        """The Arrow schema of a table; its field metadata holds the warehouse's own type names.

        Raises:
            NotFoundError: There is no such table.
        """
        with self._bulk_session() as session:
            columns = session.columns(table)
        if columns is None:
            raise NotFoundError(f"There is no table {self.uri(table)}.")
        return pa.schema(
            [
                pa.field(column.name, column.arrow_type, column.nullable, metadata={"sql_type": column.sql_type})
                for column in columns
            ]
        )

    @operation
    def load_report(self, load_id: str) -> LoadReport | None:
        """What the ledger says of a load, None where it was not committed."""
        with self._session() as session:
            return self._recorded(session, load_id)

    # --- loading ---

    @operation
    def plan(
        self,
        data: Any,
        table: str,
        *,
        mode: Mode = "append",
        key: Sequence[str] = (),
        partition_by: Sequence[str] = (),
        on_new_columns: OnNewColumns = "add",
    ) -> LoadPlan:
        """What `load` with the same arguments would do; nothing is done.

        Raises:
            SchemaError: The data does not fit the table.
            InvalidInputError: The arguments do not fit each other.
        """
        with self._bulk_session() as session:
            return self._plan(session, as_scan(data), table, mode, key, partition_by, on_new_columns).plan

    @prepared_operation("_fix_load_id")
    def load(
        self,
        data: Any,
        table: str,
        *,
        mode: Mode = "append",
        key: Sequence[str] = (),
        partition_by: Sequence[str] = (),
        load_id: str | None = None,
        on_new_columns: OnNewColumns = "add",
        allow_loss: Sequence[str] = (),
        max_rejected: float = 0.1,
    ) -> LoadReport:
        """What was loaded. A retry, and any later call with the same `load_id`, neither loses a row nor doubles one.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            table: `table` or `schema.table`, kept exactly as written. It is created where it does not exist.
            mode: `append` adds the rows; `replace` empties the table first and keeps its grants, views and indexes;
                `upsert` updates the rows whose `key` is there and inserts the others; `replace_partition` first
                deletes the rows of every partition (values of `partition_by`) that the data touches. A reader sees the
                table as it was before or as it is after.
            key: The columns that identify a row, for `upsert`.
            partition_by: The columns that make a partition, for `replace_partition`.
            load_id: The identity of this load. Derived from the flow run, the task and the data where not given, so
                that a retry has the same; in a plain script each call is a load of its own.
            on_new_columns: Columns that the table lacks are added, or are an error, or are left out.
            allow_loss: Columns whose type may lose something on the way.
            max_rejected: The share of rows (0 to 1) that a scan with `on_error="quarantine"` may refuse. They go to
                the table `_etl_quarantine`, in the same transaction.

        Raises:
            SchemaError: The data does not fit the table (TypeLossError: a type would lose something).
            QualityError: Too many rows were refused; nothing was applied.
            InvalidInputError: The arguments do not fit each other, or the key is not unique in the data.
            AmbiguousError: COMMIT was sent, its answer was lost and the ledger could not be read. Nothing is doubled
                if you call again with the same `load_id`, which the message holds.
        """
        if not load_id:
            raise InvalidInputError("load_id is empty.")
        scan = as_scan(data)
        options = _Options(scan, table, mode, tuple(key), tuple(partition_by), on_new_columns, tuple(allow_loss))
        try:
            with self._bulk_session(load_id) as session:
                report = self._load(session, options, load_id, max_rejected)
        except AmbiguousError as error:
            report = self._resolve(load_id, error)
        self.logger.info("%s", report)
        return report

    def _fix_load_id(self, arguments: dict[str, Any]) -> dict[str, Any]:
        data = arguments.get("data")
        if arguments.get("load_id") is not None or isinstance(data, PrefectFuture):
            return arguments
        scan = as_scan(data)
        load_id = derive_load_id(self.uri(arguments["table"]), arguments.get("mode", "append"), scan)
        return arguments | {"data": scan, "load_id": load_id}

    def _load(self, session: BulkSession, options: _Options, load_id: str, max_rejected: float) -> LoadReport:
        started = datetime.now(UTC)
        if report := self._recorded(session, load_id, create=True):
            return report.model_copy(update={"already_loaded": True})
        planned = self._plan(
            session, options.scan, options.table, options.mode, options.key, options.partition_by, options.new_columns
        )
        plan = planned.plan
        if forbidden := {name: loss for name, loss in plan.losses.items() if name not in options.allow_loss}:
            losses = "; ".join(f"{name} would lose {loss}" for name, loss in forbidden.items())
            raise TypeLossError(
                f"{self.uri(plan.table)}: {losses}. Cast the data or change the column, or name the column in "
                "allow_loss to accept it."
            )
        rejects = Rejects()
        counted = _Counted(planned, options, rejects)
        direct = (
            session.ingests_in_transaction
            and plan.mode == "append"
            and not any(column.stage_type for column in planned.columns)
        )
        with progress(plan.table) as counted.tick:
            if not direct:
                session.execute(self.dialect.create_stage(STAGE, planned.columns))
                counted.verify(self, session.ingest(STAGE, planned.schema, counted.batches(), stage=True))
                rejects.check(accepted=counted.rows, max_rejected=max_rejected)
                self._check_staged(session, plan, counted.rows)
                self._stage_rejects(session, rejects, load_id, plan.table)
            with session.transaction():
                self._claim(session, load_id, plan, started)
                for statement in plan.ddl:
                    session.execute(statement)
                if direct:
                    counted.verify(self, session.ingest(plan.table, planned.schema, counted.batches()))
                    rejects.check(accepted=counted.rows, max_rejected=max_rejected)
                    self._stage_rejects(session, rejects, load_id, plan.table)
                    changes = _Changes(inserted=counted.rows)
                else:
                    changes = self._apply(session, planned, counted.rows)
                if rejects.total:
                    session.execute(self.dialect.insert(QUARANTINE, self._columns_of(REJECTS), STAGED_REJECTS))
                report = LoadReport(
                    load_id=load_id,
                    table=plan.table,
                    mode=plan.mode,
                    rows=counted.rows,
                    inserted=changes.inserted,
                    updated=changes.updated,
                    deleted=changes.deleted,
                    rejected=dict(rejects.reasons),
                    quarantine=self.uri(QUARANTINE) if rejects.total else None,
                    ddl=plan.ddl,
                    ignored_columns=tuple(c.name for c in plan.columns if c.action == "ignore"),
                    started_at=started,
                    finished_at=datetime.now(UTC),
                )
                self._record(session, report)
        return report

    def _claim(self, session: BulkSession, load_id: str, plan: LoadPlan, started: datetime) -> None:
        run = FlowRunContext.get()
        try:
            session.claim(
                f"INSERT INTO {self.dialect.table(LEDGER)} (load_id, table_name, mode, flow_run_id, started_at) "
                "VALUES (:load_id, :table_name, :mode, :flow_run_id, :started_at)",
                {
                    "load_id": load_id,
                    "table_name": plan.table,
                    "mode": plan.mode,
                    "flow_run_id": str(run.flow_run.id) if run and run.flow_run else None,
                    "started_at": started,
                },
                load_id,
            )
        except AlreadyExistsError:
            raise TransientError(f"Another try of load {load_id} was faster; its report is in the ledger.") from None

    def _record(self, session: Session, report: LoadReport) -> None:
        changed = session.execute(
            f"UPDATE {self.dialect.table(LEDGER)} SET row_count = :row_count, rejected_count = :rejected_count, "
            "report = :report, finished_at = :finished_at WHERE load_id = :load_id",
            {
                "row_count": report.rows,
                "rejected_count": report.rows_rejected,
                "report": report.model_dump_json(),
                "finished_at": report.finished_at,
                "load_id": report.load_id,
            },
        )
        if changed not in (1, -1):
            raise TerminalError(f"The ledger row of load {report.load_id} is gone; nothing was applied.")

    def _recorded(self, session: Session, load_id: str, *, create: bool = False) -> LoadReport | None:
        query = f"SELECT report FROM {self.dialect.table(LEDGER)} WHERE load_id = :load_id"
        try:
            rows = session.fetch(query, {"load_id": load_id})
        except NotFoundError:
            if create:
                self._create_ledger(session)
            return None
        return LoadReport.model_validate_json(rows[0][0]) if rows and rows[0][0] else None

    def _create_ledger(self, session: Session) -> None:
        for table, key, schema in ((LEDGER, "load_id", LEDGER_TABLE), (QUARANTINE, None, REJECTS)):
            statement = self.dialect.create_table(table, self._columns_of(schema))
            if key:
                statement = statement.removesuffix(")") + f", PRIMARY KEY ({self.dialect.name(key)}))"
            with contextlib.suppress(AlreadyExistsError):  # another loader was faster
                session.execute(statement)

    def _columns_of(self, fields: _LazySchema) -> list[Column]:
        return [self.dialect.column(field.name, field.type) for field in fields]

    def _resolve(self, load_id: str, lost: AmbiguousError) -> LoadReport:
        """What the ledger says after the answer to COMMIT was lost."""

        def look() -> LoadReport | None:
            with self._bulk_session() as session:
                session.end_other_tries(load_id)
                return self._recorded(session, load_id)

        try:
            report = call_with_retry(self.retry, look)
        except TransientError as error:
            raise AmbiguousError(
                f"{lost} The ledger could not be read either ({error}). Call again with load_id={load_id!r}: nothing "
                "is loaded twice."
            ) from error
        if report is None:
            raise TransientError(f"{lost} The ledger has no load {load_id}: it did not happen and can run again.")
        return report.model_copy(update={"resolved_from_ledger": True})

    def _plan(
        self,
        session: BulkSession,
        scan: Scan,
        table: str,
        mode: Mode,
        key: Sequence[str],
        partition_by: Sequence[str],
        on_new_columns: OnNewColumns,
    ) -> _Planned:
        return _Planner(self, session.columns(table), scan.schema, table, mode, key, partition_by, on_new_columns).plan()

    def _check_staged(self, session: BulkSession, plan: LoadPlan, rows: int) -> None:
        names, stage = self.dialect.names, self.dialect.name(STAGE)
        columns = plan.key if plan.mode == "upsert" else plan.partition_by if plan.mode == "replace_partition" else ()
        if not columns or not rows:
            return
        nulls = " OR ".join(f"{self.dialect.name(column)} IS NULL" for column in columns)
        if count := session.fetch(f"SELECT count(*) FROM {stage} WHERE {nulls}")[0][0]:
            raise InvalidInputError(
                f"{self.uri(plan.table)}: {count} rows have no value in {', '.join(columns)}; {plan.mode} needs one."
            )
        if plan.mode == "upsert":
            groups = f"SELECT 1 FROM {stage} GROUP BY {names(columns)} HAVING count(*) > 1"
            if count := session.fetch(f"SELECT count(*) FROM ({groups}) AS d")[0][0]:
                raise InvalidInputError(
                    f"{self.uri(plan.table)}: {count} values of the key ({', '.join(columns)}) come more than once in "
                    "the data, so it is not clear which row counts. Make the key unique, or use mode='append'."
                )

    def _apply(self, session: BulkSession, planned: _Planned, rows: int) -> _Changes:
        plan, dialect = planned.plan, self.dialect
        columns = planned.columns
        deleted = updated = 0
        if plan.mode == "upsert":
            inserted, updated = session.upsert(dialect, plan.table, columns, plan.key)
        else:
            if plan.mode == "replace" and not plan.creates_table:
                deleted = session.fetch(f"SELECT count(*) FROM {dialect.table(plan.table)}")[0][0]
                session.execute(dialect.truncate(plan.table))
            if plan.mode == "replace_partition" and not plan.creates_table:
                deleted = session.execute(dialect.delete_partitions(plan.table, columns, plan.partition_by, STAGE))
            inserted = session.execute(dialect.insert(plan.table, columns, STAGE))
        if inserted + updated != rows:
            raise TerminalError(
                f"{self.uri(plan.table)}: {rows} rows were staged and {inserted + updated} applied. Nothing was "
                "committed. The table may hold a key more than once, or a trigger or row security may hold rows back."
            )
        return _Changes(inserted, updated, deleted)

    def _stage_rejects(self, session: BulkSession, rejects: Rejects, load_id: str, table: str) -> None:
        if not rejects.total:
            return
        session.execute(self.dialect.create_stage(STAGED_REJECTS, self._columns_of(REJECTS)))
        session.ingest(STAGED_REJECTS, REJECTS.schema, _reject_batches(rejects, load_id, table), stage=True)


# --- the parts of a load ----------------------------------------------------------------------------------------------


class _LazySchema:
    """Fields by name, made into an Arrow schema at the first use."""

    def __init__(self, **fields: Callable[[], pa.DataType]) -> None:
        self._fields = fields

    @property
    def names(self) -> list[str]:
        return list(self._fields)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, make()) for name, make in self._fields.items()])

    def __iter__(self) -> Iterator[pa.Field]:
        return iter(self.schema)


LEDGER_TABLE = _LazySchema(
    load_id=lambda: pa.string(),
    table_name=lambda: pa.string(),
    mode=lambda: pa.string(),
    row_count=lambda: pa.int64(),
    rejected_count=lambda: pa.int64(),
    flow_run_id=lambda: pa.string(),
    started_at=lambda: pa.timestamp("us", "UTC"),
    finished_at=lambda: pa.timestamp("us", "UTC"),
    report=lambda: pa.string(),
)

REJECTS = _LazySchema(
    load_id=lambda: pa.string(),
    table_name=lambda: pa.string(),
    line=lambda: pa.int64(),
    column_name=lambda: pa.string(),
    reason=lambda: pa.string(),
    row_text=lambda: pa.string(),
)


def _reject_batches(rejects: Rejects, load_id: str, table: str) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    for text in rejects.json_lines():
        reject = json.loads(text)
        rows.append(
            {
                "load_id": load_id,
                "table_name": table,
                "line": reject["line"],
                "column_name": reject["column"],
                "reason": reject["reason"],
                "row_text": reject["row"].replace("\0", "\N{SYMBOL FOR NULL}"),
            }
        )
        if len(rows) == 10_000:  # noqa: PLR2004
            yield pa.RecordBatch.from_pylist(rows, schema=REJECTS.schema)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=REJECTS.schema)


@dataclass(frozen=True)
class _Options:
    scan: Scan
    table: str
    mode: Mode
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    new_columns: OnNewColumns
    allow_loss: tuple[str, ...]


@dataclass(frozen=True)
class _Changes:
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


@dataclass(frozen=True)
class _Planned:
    plan: LoadPlan
    columns: tuple[Column, ...]
    schema: pa.Schema


class _Counted:
    """The data on its way to the server: cast to the table's types, encoded ahead of the driver, counted."""

    def __init__(self, planned: _Planned, options: _Options, rejects: Rejects) -> None:
        self.planned = planned
        self.options = options
        self.rejects = rejects
        self.rows = 0
        self.tick: Callable[[int], None] = lambda _: None

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema, lossy = self.planned.schema, self.options.allow_loss
        cast = (cast_batch(batch, schema, lossy=lossy) for batch in self.options.scan.batches(self.rejects))
        for batch in read_ahead(cast, size=lambda item: item.nbytes, limit=32 * 2**20):
            self.rows += batch.num_rows
            self.tick(batch.num_rows)
            yield batch

    def verify(self, warehouse: Warehouse, counted: int) -> None:
        if counted != self.rows:
            raise TerminalError(
                f"{warehouse.uri(self.planned.plan.table)}: {self.rows} rows were sent and the server counted "
                f"{counted}. Nothing was committed."
            )


class _Planner:
    """Compares the schema of the data with the table's."""

    def __init__(
        self,
        warehouse: Warehouse,
        existing: list[Column] | None,
        schema: pa.Schema,
        table: str,
        mode: Mode,
        key: Sequence[str],
        partition_by: Sequence[str],
        on_new_columns: OnNewColumns,
    ) -> None:
        self.warehouse = warehouse
        self.dialect = warehouse.dialect
        self.existing = {column.name: column for column in existing or ()}
        self.creates = existing is None
        self.schema = schema
        self.table = table
        self.mode = mode
        self.key = tuple(key)
        self.partition_by = tuple(partition_by)
        self.on_new_columns = on_new_columns

    def plan(self) -> _Planned:
        self._check_arguments()
        columns: list[Column] = []
        plans: list[ColumnPlan] = []
        for field in self.schema:
            column, action = self._column(field)
            loss = type_loss(field.type, column.arrow_type) if column and action == "keep" else None
            if column:
                columns.append(column)
            plans.append(
                ColumnPlan(
                    name=field.name,
                    source_type=str(field.type),
                    target_type=column.sql_type if column else None,
                    action=action,
                    loss=loss,
                )
            )
        plans += self._absent()
        ddl = [self.dialect.add_column(self.table, column) for column in columns if self._is_new(column)]
        if self.creates:
            ddl = [self.dialect.create_table(self.table, columns, key=self.key if self.mode == "upsert" else ())]
        plan = LoadPlan(
            table=self.table,
            mode=self.mode,
            key=self.key,
            partition_by=self.partition_by,
            creates_table=self.creates,
            ddl=tuple(ddl),
            columns=tuple(plans),
        )
        return _Planned(plan, tuple(columns), pa.schema([(column.name, column.arrow_type) for column in columns]))

    def _is_new(self, column: Column) -> bool:
        return not self.creates and column.name not in self.existing

    def _column(self, field: pa.Field) -> tuple[Column | None, Any]:
        if (known := self.existing.get(field.name)) is not None:
            plain = plain_type(field.type)
            if known.any_decimal and pa.types.is_decimal(plain):
                known = replace(known, arrow_type=plain)
            return known, "keep"
        if not self.creates and self.on_new_columns == "fail":
            raise SchemaError(
                f"{self.warehouse.uri(self.table)} has no column {field.name!r}, and on_new_columns is 'fail'."
            )
        if not self.creates and self.on_new_columns == "ignore":
            return None, "ignore"
        try:
            return self.dialect.column(field.name, field.type), "create" if self.creates else "add"
        except TypeLossError as error:
            raise TypeLossError(f"{self.warehouse.uri(self.table)}, column {field.name!r}: {error}") from None

    def _absent(self) -> Iterator[ColumnPlan]:
        for name, column in self.existing.items():
            if name in self.schema.names:
                continue
            if not column.nullable and not column.has_default:
                raise SchemaError(
                    f"{self.warehouse.uri(self.table)}: the data lacks the column {name!r}, which is NOT NULL and has "
                    "no default."
                )
            yield ColumnPlan(name=name, source_type=None, target_type=column.sql_type, action="absent")

    def _check_arguments(self) -> None:
        names = self.schema.names
        if repeated := {name for name in names if names.count(name) > 1}:
            raise SchemaError(f"The data has more than one column of the name {', '.join(sorted(repeated))}.")
        if not names:
            raise SchemaError("The data has no columns.")
        for mode, argument, value in (
            ("upsert", "key", self.key),
            ("replace_partition", "partition_by", self.partition_by),
        ):
            if self.mode == mode and not value:
                raise InvalidInputError(f"mode={mode!r} needs {argument}: the columns that tell rows apart.")
            check_names(value, names, argument)
        if self.mode not in ("append", "replace", "upsert", "replace_partition"):
            raise InvalidInputError(
                f"Unknown mode {self.mode!r}. The modes are append, replace, upsert and replace_partition."
            )


# --- statements -------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    '(?:[^']|'')*' | "(?:[^"]|"")*"          # strings and quoted names
    | --[^\n]* | /\*.*?\*/                     # comments
    | (\$[A-Za-z_]*\$).*?\1                    # dollar-quoted strings
    | :: | :=                                  # casts and assignments
    | (?<![\w:]):(?P<name>[A-Za-z_]\w*)        # a parameter
    """,
    re.VERBOSE | re.DOTALL,
)


def bind(sql: str, parameters: Mapping[str, Any], placeholder: Callable[[str], str]) -> str:
    """The statement with each `:name` outside of strings, quoted names and comments replaced by the driver's own form.

    >>> bind("select ':a', b::text from t where c = :day", {"day": 1}, lambda name: f"${name}")
    "select ':a', b::text from t where c = $day"

    Raises:
        InvalidInputError: A parameter is used and not given.
    """

    def bound(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0]
        if name not in parameters:
            raise InvalidInputError(f"The statement uses :{name}, which the parameters lack; given: {list(parameters)}.")
        return placeholder(name)

    return _TOKEN.sub(bound, sql)


