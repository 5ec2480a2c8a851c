"""Warehouse: everything any SQL database can do, written once over the few primitives of a session."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import uuid
from abc import abstractmethod
from collections.abc import Iterator  # noqa: TC003 (pydantic looks at it)
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import DatabaseBlock
from pydantic import PrivateAttr

from blocks.arrow.load_id import DerivedId, Target, note_change, with_load_id
from blocks.arrow.marks import Mark
from blocks.arrow.parts import group_of, left_over
from blocks.arrow.rejects import AUDITED
from blocks.arrow.scan import Scan, as_scan, with_stream_staged
from blocks.base.arguments import takes_fields_of
from blocks.base.assets import asset_key
from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.interruption import interruptible, interruptible_async
from blocks.base.movement import announce
from blocks.base.names import has_surrogates
from blocks.base.operation import AsyncName, instance_operation, operation
from blocks.base.optional import lazy
from blocks.base.retry import call_with_retry
from blocks.warehouses.held import HeldSession, Hold, current
from blocks.warehouses.history import LoadHistory
from blocks.warehouses.ledger import FasterError, Ledger, find_report
from blocks.warehouses.load import LoadOptions, LoadRequest
from blocks.warehouses.loader import MOST_PLANS, Loader, plan_load
from blocks.warehouses.parts import PREFIX, Gatherer, StagedTable, Stager, request_of
from blocks.warehouses.publisher import Publisher
from blocks.warehouses.session import TableChangedError
from blocks.warehouses.since import Cursor, scan_since
from blocks.warehouses.sql import changed_names, named, session_words
from blocks.warehouses.state import incremental, next_state, read_on, with_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self, Unpack

    import pyarrow as pa

    from blocks.arrow.marks import IncrementalScan
    from blocks.arrow.parts import Division
    from blocks.arrow.rejects import Rejects
    from blocks.base.names import Count, Identity, Name, StateName, TableName
    from blocks.warehouses.load import LoadArguments, LoadPlan, LoadReport, LoadState, Mode, OnNewColumns
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.since import Lag, Until
    from blocks.warehouses.sql import Dialect, Parameters
else:
    pa = lazy("pyarrow")


LEFT_OVER_S = 86_400.0
"""Parts of a load that nobody has added to for so long, in seconds, count as left behind."""


class Warehouse(ConnectorBlock, DatabaseBlock):  # with ABC by name Prefect would not save a block that has one
    """A SQL database: statements, queries as Arrow streams, and loads that happen exactly once.

    Parameters of statements are named: `fetch_all("select * from t where d = :day", {"day": day})`. They are bound by
    the driver, never formatted into the text. Statements written for other collections, with `%(day)s` or with `%s`
    and parameters in order, are taken as they are.
    """

    @abstractmethod
    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets, for messages: `postgres://host:5432/db/schema.table`."""

    def asset_key(self, table: str) -> str:
        """Return the key of a table as an asset in Prefect: its address, the same from whatever block and place."""
        return asset_key(self.uri(table))

    @property
    @abstractmethod
    def dialect(self) -> Dialect:
        """The SQL of this engine."""

    @abstractmethod
    def _connect(self) -> Session:
        """Open a session for statements and their rows."""

    @abstractmethod
    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        """Open a session for Arrow data; the server can tell by `load_id` which load it belongs to."""

    @abstractmethod
    def _connect_held(self) -> HeldSession:
        """Open the session of a `with` block."""

    @property
    def _database(self) -> str:
        """The database in which one statement may name the tables of several blocks."""
        return self.uri()

    def _stands_for(self) -> str:
        return f"{self._block_type_slug} {self.uri('_')}"

    def _named(self, sql: str, parameters: Parameters | None) -> tuple[str, dict[str, Any] | None]:
        bound, values = named(sql, parameters, literals=self.dialect.literals)
        texts = {"The statement": sql} | {f"Parameter {name!r}": each for name, each in (values or {}).items()}
        for what, text in texts.items():
            if isinstance(text, str) and has_surrogates(text):
                raise InvalidInputError(f"{what} has half of a surrogate pair, which is not a character.")
        return bound, values

    # --- `with`: a session ---

    _hold: Hold | None = PrivateAttr(default=None)

    @property
    def in_session(self) -> bool:
        """Whether the block is in a `with`, which is a session."""
        return self._hold is not None

    @contextlib.contextmanager
    def joining(self, name: str) -> Iterator[None]:
        """Within it, what is called runs in the session of the `with`; outside of one it changes nothing.

        Raises:
            InvalidInputError: The session is another thread's or task's.
        """
        hold = self._hold
        if hold is not None:
            hold.check_owner(name)
        token = current.set(hold)
        try:
            yield
        finally:
            current.reset(token)

    @property
    def _held(self) -> Hold | None:
        """The session in which the operation at work runs; None where it has one of its own."""
        hold = current.get()
        return hold if hold is not None and hold is self._hold else None

    def __enter__(self) -> Self:
        with self._lock:
            if self._hold is not None:
                raise InvalidInputError(
                    f"This {type(self).__name__} is in a `with` already, which is one session. Use a copy of it "
                    "(block.model_copy()), or the saved block loaded anew."
                )
            self._hold = Hold(self._connect_held, self.retry, self.uri())
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        try:
            interruptible(lambda: self._leave(failed=any(error)))
        finally:
            super().__exit__(*error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        try:
            await interruptible_async(lambda: self._leave(failed=any(error)))
        finally:
            await super().__aexit__(*error)

    def _leave(self, *, failed: bool) -> None:
        hold, self._hold = self._hold, None
        if hold is not None and hold.end() and not failed:
            self.logger.warning(
                "%s: the `with` block was left with an open transaction, which was undone. To keep what it did, call "
                'execute("COMMIT") in the block.',
                self.uri(),
            )

    def __getstate__(self) -> dict[Any, Any]:
        if self._hold is not None:
            raise InvalidInputError(
                f"This {type(self).__name__} cannot be pickled in a `with`: the session stays where it is. Send a copy "
                "(block.model_copy()), or send it outside of the `with`."
            )
        return super().__getstate__()

    def __copy__(self) -> Self:
        other = super().__copy__()
        other._hold = None  # noqa: SLF001 (one of us)
        return other

    @contextlib.contextmanager
    def _statement(self, sql: str) -> Iterator[Session]:
        """Return the session in which a statement runs: that of the `with`, else one of its own.

        Raises:
            InvalidInputError: It has one of its own, and makes sense only in one that lasts.
        """
        if held := self._held:
            with held.session() as session:
                yield session
            return
        words = session_words(sql, self.dialect.literals)
        if words.nothing_else or words.opens_transaction:
            raise InvalidInputError(
                f"{words.first} has no effect outside of a `with`, where each call is a session of its own. Write "
                f"`with warehouse: warehouse.execute(...)`, and in it all that belongs to the session."
            )
        with self._session() as session:
            yield session

    def _session(self) -> contextlib.closing[Session]:
        return contextlib.closing(self._connect())

    def _bulk_session(self, load_id: str | None = None) -> contextlib.closing[BulkSession]:
        return contextlib.closing(self._connect_bulk(load_id))

    # --- Prefect's DatabaseBlock: its names; operations serve sync and async where it declares async methods ---

    def _note_statement(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if isinstance(arguments.get("operation"), str):
            note_change(self._database, changed_names(arguments["operation"]))
        return arguments

    @operation(prepare=_note_statement, in_session=True, prefects=True)
    def execute(self, operation: str, parameters: Parameters | None = None) -> None:  # type: ignore[override]
        """Run one statement and commit it; in a `with` block, within the transaction that is open there.

        Raises:
            AmbiguousError: The connection was lost after the statement was sent; look before you run it again.
            InvalidInputError: It has an effect in a session only, such as BEGIN, SET or CREATE TEMPORARY TABLE, and
                this is no `with` block.
        """
        with self._statement(operation) as session:
            session.execute(*self._named(operation, parameters))

    @operation(prepare=_note_statement, in_session=True, prefects=True)
    def execute_many(self, operation: str, seq_of_parameters: Sequence[Parameters]) -> None:  # type: ignore[override]
        """Run the statement once for each item, all in one transaction: the open one of a `with`, else its own."""
        with self._statement(operation) as session:
            within = isinstance(session, HeldSession) and session.in_transaction()
            with contextlib.nullcontext() if within else session.transaction():
                for parameters in seq_of_parameters:
                    session.execute(*self._named(operation, parameters))

    @operation(prepare=_note_statement, in_session=True, prefects=True)
    def fetch_one(self, operation: str, parameters: Parameters | None = None) -> tuple[Any, ...] | None:  # type: ignore[override]
        """Return the first row of a query; None where it has none.

        In a `with` block, the next row of the query with these parameters; after None it runs anew.
        """
        if held := self._held:
            return next(iter(held.take(*self._named(operation, parameters), 1)), None)
        with self._statement(operation) as session:
            return next(iter(session.fetch(*self._named(operation, parameters), size=1)), None)

    @operation(prepare=_note_statement, in_session=True, prefects=True)
    def fetch_many(  # type: ignore[override]
        self, operation: str, parameters: Parameters | None = None, size: Count = 1
    ) -> list[tuple[Any, ...]]:
        """Return the next `size` rows of a query, in a `with` block; none at the end, after which it runs anew.

        `fetch_one` and `fetch_many` of the same query with the same parameters take from the same rows.

        Raises:
            InvalidInputError: It is not in a `with` block, which keeps the place.
        """
        if held := self._held:
            return held.take(*self._named(operation, parameters), size)
        raise InvalidInputError(
            "fetch_many() goes on where it stopped, in a `with` block only: `with warehouse: "
            "warehouse.fetch_many(...)`. Elsewhere take fetch_all(query), or scan_query(query) for a large result."
        )

    @operation(prepare=_note_statement, in_session=True, prefects=True)
    def fetch_all(self, operation: str, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:  # type: ignore[override]
        """Return all rows of a query, as tuples; it runs anew each time."""
        if held := self._held:
            return held.fetch_all(*self._named(operation, parameters))
        with self._statement(operation) as session:
            return session.fetch(*self._named(operation, parameters))

    aexecute: ClassVar = AsyncName(execute)
    execute_async: ClassVar = AsyncName(execute)
    aexecute_many: ClassVar = AsyncName(execute_many)
    execute_many_async: ClassVar = AsyncName(execute_many)
    afetch_one: ClassVar = AsyncName(fetch_one)
    fetch_one_async: ClassVar = AsyncName(fetch_one)
    afetch_many: ClassVar = AsyncName(fetch_many)
    fetch_many_async: ClassVar = AsyncName(fetch_many)
    afetch_all: ClassVar = AsyncName(fetch_all)
    fetch_all_async: ClassVar = AsyncName(fetch_all)

    def reset_cursors(self) -> None:
        """Have each query begin at its first row again, in a `with` block; elsewhere each does anyway.

        Raises:
            InvalidInputError: The `with` block is another thread's or task's.
        """
        if self._hold is not None:
            self._hold.check_owner(f"{type(self).__name__}.reset_cursors")
            self._hold.forget_places()

    # --- reading ---

    def scan(self, table: TableName) -> Scan:
        """Describe a table as a Scan with exact Arrow types; for a query there is `scan_query`.

        Nothing is opened yet. Each time the scan is opened, it reads on a connection of its own; memory stays bounded.

        Args:
            table: `table` or `schema.table`, kept exactly as written.

        Raises:
            InvalidInputError: It is a query, not a table: at the call where the name cannot be one, else when the scan
                is opened and there is no such table.
            NotFoundError: There is no such table; when the scan is opened.
        """
        with self._reading_table(table):
            sql = f"SELECT * FROM {self.dialect.table(table)}"
        return self._scan_sql(
            sql,
            None,
            source=self.uri(table),
            reading=lambda: self._reading_table(table),
            origins=[self.asset_key(table)],
            division=self._division(table),
        )

    def scan_since(
        self,
        table: TableName | None = None,
        *,
        cursor: Name,
        query: str | None = None,
        parameters: Parameters | None = None,
        lag: Lag | None = None,
        until: Until | None = None,
    ) -> Scan:
        """Describe a table or a query as a Scan that each load under a `state` reads on from where the last one ended.

            warehouse.load(
                source.scan_since("orders", cursor="updated_at"),
                "orders", mode="upsert", key=["id"], state="orders/by-update",
            )

        How far it was read is committed with the rows, in the ledger of their warehouse. By itself, or where the state
        has no load yet, it is a scan of everything.

        Args:
            table: The table, or `query`.
            cursor: A column whose values grow: an integer, a decimal, a date, a timestamp, a UUID (v7) or a text. Every
                row has a value in it.
            query: A query, whose result has the cursor.
            parameters: The parameters of the query, by name or in order.
            lag: How far behind the highest value that was read a load begins, for rows that come late: a timedelta for
                times and dates, a number for numbers. Without it PostgreSQL finds late rows of a table by their
                versions, and other engines do not find them.
            until: Rows with this value or a higher one are left for later.

        Raises:
            InvalidInputError: Both a table and a query are given, or neither, or the column cannot be a cursor: when
                the scan is opened.
        """
        check_one_given(table, query)
        if query is not None:
            text, values = self._named(query.strip().rstrip(";") + "\n", parameters)
            whole, rows = self.scan_query(query, parameters), f"({text})"
        else:
            whole, rows, values = self.scan(str(table)), self.dialect.table(str(table)), None
        asked = Cursor(
            column=cursor, table=table, rows=rows, values=values, lag=lag, until=until, uri=self.uri(table or "query")
        )
        return scan_since(whole, asked, self.dialect, self._bulk_session)

    def _division(self, table: str) -> Division[Scan] | None:  # noqa: ARG002 (for subclasses)
        """Return how a table is divided into parts; None where it is read as a whole only."""
        return None

    def scan_query(self, sql: str, parameters: Parameters | None = None) -> Scan:
        """Describe the result of a query as a Scan with exact Arrow types.

        Nothing is run yet. Each time the scan is opened, it runs the query on a connection of its own; memory stays
        bounded.

        Args:
            sql: A query.
            parameters: Its parameters, by name or in order.
        """
        text = sql.strip().rstrip(";") + "\n"  # a line end, because the query may end in a comment
        return self._scan_sql(*self._named(text, parameters), source=self.uri("query"), reading=contextlib.nullcontext)

    def _scan_sql(
        self,
        sql: str,
        values: dict[str, Any] | None,
        *,
        source: str,
        reading: Callable[[], contextlib.AbstractContextManager[None]],
        origins: Sequence[str] = (),
        division: Division[Scan] | None = None,
    ) -> Scan:
        def find_schema() -> pa.Schema:
            def describe() -> pa.Schema:
                with self._bulk_session() as session:
                    return session.describe(sql, values)

            with reading():
                return call_with_retry(self.retry, describe)

        def open_batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
            with reading(), self._bulk_session() as session:
                yield from session.stream(sql, values)[1]

        return Scan(
            find_schema, open_batches, source=source, query=f"{sql} {values}", origins=origins, division=division
        )

    @contextlib.contextmanager
    def _reading_table(self, table: str) -> Iterator[None]:
        """Within it, what fails because a query was given where a table is read names `scan_query`."""
        try:
            yield
        except (InvalidInputError, NotFoundError, UnsupportedError):
            # Only after a failure, and a table may have a space in its name: one that is there failed for its reason.
            if len(table.split()) > 1 and not self._has_table(table):
                raise InvalidInputError(
                    f"scan() reads a table, and {self.uri()} has none of the given name. To run a query, call "
                    "scan_query(sql)."
                ) from None
            raise

    def _has_table(self, table: str) -> bool:
        try:
            with self._bulk_session() as session:
                return session.columns(table) is not None
        except (InvalidInputError, NotFoundError, UnsupportedError):  # it cannot be a name at all
            return False

    @operation
    def read_table(self, table: TableName, columns: Sequence[Name] | None = None) -> pa.Table:
        """Read a whole table, or some of its columns, into one Arrow table."""
        names = self.dialect.names(columns) if columns else "*"
        return self.scan_query(f"SELECT {names} FROM {self.dialect.table(table)}").to_arrow()

    @operation
    def table_schema(self, table: TableName) -> pa.Schema:
        """Return the Arrow schema of a table; its field metadata holds the warehouse's own type names.

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
    def fingerprint(self, table: TableName) -> str:
        """Return a digest of the rows and columns of a table: another one once something in it changes.

        It is made by the warehouse, which reads the whole table for it; only the digest leaves it. Two fingerprints of
        one table can be compared, not those of different tables.

        Raises:
            NotFoundError: There is no such table.
        """
        with self._bulk_session() as session:
            return session.fingerprint(self.dialect, table)

    @operation
    def load_report(self, load_id: Identity) -> LoadReport | None:
        """Return what the ledger says of a load; None where it was not committed."""
        with self._session() as session:
            return find_report(Ledger(self.dialect), session, load_id)

    @operation
    def load_history(self, table: TableName | None = None, *, most: Count = 1_000) -> LoadHistory:
        """Return what the ledger says of the last loads; its `markdown()` is a page with the trend of each table.

        Args:
            table: Only the loads of this table, as their calls named it. Defaults to all tables.
            most: How many loads to look back.
        """
        with self._session() as session:
            try:
                return LoadHistory(loads=tuple(Ledger(self.dialect).latest(session, table, most)))
            except NotFoundError:  # there is no ledger yet
                return LoadHistory(loads=())

    def ledger_ddl(self) -> list[str]:
        """Return the statements that create the ledger and the quarantine, for a load that may not create tables.

        Where the owner of the schema runs them beforehand, and grants SELECT, INSERT and UPDATE on the ledger and
        SELECT, INSERT and DELETE on the quarantine, a load creates neither. Nothing is opened.
        """
        return Ledger(self.dialect).ddl()

    # --- states ---

    @operation
    def states(self, name: StateName | None = None) -> list[LoadState]:
        """Return how far the loads of each state have read, or of one state, by name; none that has no load.

        Args:
            name: Only this state. Defaults to all that the ledger knows.
        """
        with self._bulk_session() as session:
            return Ledger(self.dialect).states(session, name)

    @operation
    def set_state(self, name: StateName, value: Until | None = None, *, number: Count | None = None) -> LoadState:
        """Have the next load of a state read from a value of its cursor on, that value included, or from an old mark.

        The ledger keeps it as a row of its own. A load that is under way is told, and reads on from there.

        Args:
            name: The state. It need not exist yet.
            value: A value of the cursor, or its text.
            number: The load of the state whose mark is to count again, with all that it knows of the rows there.

        Raises:
            InvalidInputError: Not one of both is given, or the state had no such load.
        """
        if (value is None) == (number is None):
            raise InvalidInputError("Give either a value of the cursor or number=..., and not both.")

        def mark_of(session: BulkSession) -> Mark:
            if value is not None:
                return Mark(value=value.isoformat() if isinstance(value, dt.date) else str(value))
            found = Ledger(self.dialect).state(session, name, number)
            if found is None:
                raise InvalidInputError(f"{self.uri()}: state {name!r} has no load {number}. Nothing was set.")
            return found.mark or Mark()

        return self._put_state(name, "set", mark_of)

    @operation
    def reset_state(self, name: StateName) -> LoadState:
        """Have the next load of a state read everything; what was loaded stays where it is.

        Raises:
            NotFoundError: There is no such state.
        """
        return self._put_state(name, "reset", lambda _: Mark(), known_only=True)

    def _put_state(
        self, name: str, mode: str, mark_of: Callable[[BulkSession], Mark], *, known_only: bool = False
    ) -> LoadState:
        """Commit a mark that no load has made, behind whatever load is faster."""
        call, ledger = uuid.uuid4().hex, Ledger(self.dialect)
        for _ in range(MOST_PLANS):
            with self._bulk_session() as session:
                ledger.open(session, self.uri(), whole=True)
                before = ledger.state(session, name)
                if before and before.mark and before.mark.call == call:
                    return before
                if before is None and known_only:
                    names = ", ".join(repr(each.name) for each in ledger.states(session)) or "none"
                    raise NotFoundError(f"{self.uri()} has no state {name!r}. Its states: {names}.")
                mark = mark_of(session).model_copy(update={"call": call})
                after = next_state(name, before, mode=mode, mark=mark, table=before.table if before else None)
                if mark.parts:  # the sum of those that it was made of
                    after = after.model_copy(update={"mark": mark.model_copy(update={"parts_since": after.number})})
                with contextlib.suppress(FasterError, AmbiguousError):
                    ledger.put_state(session, after)  # and the next look tells whose mark it is
        raise TransientError(f"{self.uri()}: other loads of state {name!r} were faster. Nothing was set.")

    # --- loading ---

    def _stage_stream(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return with_stream_staged(arguments)

    @operation(prepare=_stage_stream)
    @takes_fields_of(LoadOptions)
    def plan(self, data: Any, table: TableName, **options: Unpack[LoadArguments]) -> LoadPlan:
        """Say what `load` with the same arguments would do; nothing is done.

        Raises:
            SchemaError: The data does not fit the table.
            InvalidInputError: The arguments do not fit each other.
        """
        request = LoadRequest(scan=as_scan(data).settled(), table=table, **options)
        with self._bulk_session() as session:
            notes: tuple[str, ...] = ()
            if scan := incremental(request):
                before = Ledger(self.dialect).state(session, str(request.state))
                request, notes = (
                    read_on(request, scan, before, ""),
                    (f"state {request.state}: {before or 'no load yet'}",),
                )
            plan = plan_load(session, self.dialect, request, uri=self.uri(table)).plan
            return plan.model_copy(update={"notes": (*plan.notes, *notes)})

    def _fix_load_id(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments.get("state") is not None:
            return with_call(arguments)
        table = arguments["table"]
        return with_load_id(arguments, Target(table, self.uri(table), self._database), self.logger)

    def _fix_publish_id(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments.get("state") is not None:
            raise InvalidInputError("publish takes no state: load what a scan_since reads, under a state of its own.")
        fixed = self._fix_load_id(arguments | {"data": self.scan(arguments["source_table"])})
        return {name: value for name, value in fixed.items() if name != "data"}

    @instance_operation(prepare=_fix_load_id)
    @takes_fields_of(LoadOptions)
    def load(  # type: ignore[override]  # on the class it is still Prefect's
        self, data: Any, table: TableName, **options: Unpack[LoadArguments]
    ) -> LoadReport:
        """Load data into a table. A retry, and any later call with the same `load_id`, neither loses nor doubles a row.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            table: `table` or `schema.table`, kept exactly as written. It is created where it does not exist.
            **options: The options of a load.

                `mode`: `append` adds the rows; `replace` empties the table first and keeps its grants, views and
                indexes; `upsert` updates the rows whose `key` is there and inserts the others; `replace_partition`
                first deletes the rows of every partition (values of `partition_by`) that the data touches. A reader
                sees the table as it was before or as it is after.

                `key`: The columns that identify a row, for `upsert`.

                `partition_by`: The columns that make a partition, for `replace_partition`.

                `load_id`: The identity of this load. Derived from the flow run, the task and the data where not given,
                so that a retry has the same; in a plain script each call is a load of its own.

                `on_new_columns`: Whether columns that the table lacks are added, are an error, or are left out.

                `allow_loss`: Columns whose type may lose something on the way.

                `max_rejected`: The share of rows (0 to 1) that a scan with `on_error="quarantine"` may reject. They go
                to the table `_etl_quarantine`, in the same transaction.

                `state`: The name under which loads of a `scan_since` read on, each from where the last one ended, by
                `append` or `upsert`. How far they are is committed with the rows, so no load_id is needed.

        Raises:
            SchemaError: The data does not fit the table (TypeLossError: a type would lose something).
            QualityError: Too many rows were refused; nothing was applied.
            InvalidInputError: The arguments do not fit each other, or the key is not unique in the data.
            AmbiguousError: COMMIT was sent, its answer was lost and the ledger could not be read. Nothing is doubled
                if you call again with the same `load_id`, which the message holds.
        """
        request = LoadRequest(scan=as_scan(data).settled(), table=table, **options)
        if scan := incremental(request):
            return self._load_on(request, scan)

        tables = self._staged_tables(request)
        loader = Gatherer if tables else Loader

        def run(session: BulkSession, load_id: str) -> LoadReport:
            return loader(session, self.dialect, request, uri=self.uri(table), load_id=load_id).run()

        report = self._once(
            request.load_id,
            run,
            table=table,
            mode=request.mode,
            key=request.key,
            partition_by=request.partition_by,
            origins=request.scan.origins,
        )
        if tables:
            self._drop_parts(tables[0])
        return report

    def _load_on(self, request: LoadRequest, scan: IncrementalScan) -> LoadReport:
        """Load what follows the mark of a state, and commit the next mark with it.

        The number of the load within its state is what it claims: of two that follow the same mark one is committed,
        and the other reads on from there.
        """
        name, call, ledger = str(request.state), str(request.load_id), Ledger(self.dialect)
        for _ in range(MOST_PLANS):
            with self._bulk_session() as session:
                ledger.open(session, self.uri(), whole=True)
                before = ledger.state(session, name)
                if before and before.mark and before.mark.call == call:  # an earlier attempt, whose answer was lost
                    report = ledger.find(session, before.load_id)
                    if report is not None:
                        return self._announced(report.model_copy(update={"resolved_from_ledger": True}), scan.origins)

            def run(session: BulkSession, load_id: str, before: LoadState | None = before) -> LoadReport:
                bound = read_on(request, scan, before, call)
                if before and before.mark and not before.is_decided and session.columns(request.table) is None:
                    raise InvalidInputError(
                        f"{self.uri(request.table)} is gone, and state {name!r} says that it holds what was read so "
                        f"far. Nothing was loaded. To load everything anew: reset_state({name!r})."
                    )
                return Loader(session, self.dialect, bound, uri=self.uri(request.table), load_id=load_id).run()

            with contextlib.suppress(FasterError):
                report = self._resolved(next_state(name, before, mode=request.mode).load_id, run, state=name)
                if report.mark and report.mark.call == call:
                    return self._announced(report, scan.origins)
            self.logger.warning(
                "%s: another load of state %s was faster, or it was set; this one reads on from there.",
                self.uri(request.table),
                name,
            )
        raise TransientError(f"{self.uri(request.table)}: other loads of state {name!r} were faster each time.")

    def _staged_tables(self, request: LoadRequest) -> list[str]:
        """Return the tables of the parts that are to be loaded; none where the data is something else.

        Raises:
            InvalidInputError: They were staged for another table.
        """
        parts = [part for part in request.scan.staged if isinstance(part, StagedTable)]
        if other := [part for part in parts if (part.warehouse, part.target) != (self.uri(), request.table)]:
            raise InvalidInputError(
                f"{other[0].place} was staged for {other[0].target} of {other[0].warehouse}, not for "
                f"{self.uri(request.table)}. Nothing was loaded."
            )
        return [part.table for part in parts]

    def _drop_parts(self, table: str) -> None:
        """Drop what was staged for a load that is done, and what loads left that nobody has added to for a day."""
        try:
            with self._session() as session:
                found = [self.dialect.known_as(name) for (name,) in session.fetch(self.dialect.tables_of_schema)]
                names = [name for name in found if name.startswith(PREFIX)]
                own = [name for name in names if group_of(name) == group_of(table)]
                for name in {*own, *left_over(names, LEFT_OVER_S)}:
                    session.execute(f"DROP TABLE IF EXISTS {self.dialect.table(name)}")
        except ConnectorError as error:  # the load is done; the next one removes them
            self.logger.warning("%s: tables of staged parts (%s...) are left over. %s", self.uri(), PREFIX, error)

    @operation
    def stage(
        self,
        part: Any,
        table: TableName,
        *,
        on_new_columns: OnNewColumns = "add",
        allow_loss: Sequence[str] = (),
    ) -> StagedTable:
        """Stage one part of a load in a table of its own, for `load` to load all parts at once.

        It is the work of a worker, which may be killed and begin again: only what it returns is loaded. The table is
        dropped once the parts are loaded, or by a later load of parts when nobody has added to its load for a day.

        Args:
            part: One of `scan.partitions(n)`, or what was made of it.
            table: The table that the parts are to be loaded into.
            on_new_columns: As with `load`, and the same there.
            allow_loss: As with `load`, and the same there.

        Raises:
            InvalidInputError: It is not a part.
            ConnectorError: As with `load`.
        """
        scan = as_scan(part)
        if scan.part is None:
            raise InvalidInputError(
                f"{scan.source} is not a part: stage those of scan.partitions(n), or load it as a whole with load()."
            )
        request = request_of(scan, table, on_new_columns=on_new_columns, allow_loss=tuple(allow_loss))
        with self._bulk_session() as session:
            staged = Stager(
                session, self.dialect, request, uri=self.uri(table), part=scan.part, warehouse=self.uri()
            ).stage()
        self.logger.info("%s", staged)
        return staged

    @operation(prepare=_fix_publish_id)
    @takes_fields_of(LoadOptions)
    def publish(
        self,
        source_table: TableName,
        table: TableName,
        *,
        rejected: Any = None,
        audited: Identity | None = None,
        **options: Unpack[LoadArguments],
    ) -> LoadReport:
        """Load the rows of one table of this warehouse into another, as `load` would, without leaving the warehouse.

        Write, audit, publish: load into a table that nobody reads, check it, then publish it in one transaction.

        Args:
            source_table: The table that holds the rows; it stays as it is.
            table: The table that they go to: `table` or `schema.table`.
            rejected: Rows that stay behind: tabular data with columns that tell rows apart, and `reason`, such as
                `Audit.rejected` of a `DataQuality`. They go to the table `_etl_quarantine`, in the same transaction.
            audited: The `fingerprint` that the source table had before it was checked: other rows are not published.
                Defaults to what the `rejected` of a `DataQuality` holds.
            **options: Those of `load`; `max_rejected` is the share of rows (0 to 1) that may stay behind.

        Raises:
            NotFoundError: There is no such source table.
            InvalidInputError: The source table was changed since it was audited, or a key in `rejected` belongs to no
                row; nothing was applied.
            QualityError: Too many rows would stay behind; nothing was applied.
            ConnectorError: What `load` raises.
        """
        request = LoadRequest(scan=self.scan(source_table), table=table, **options)
        keys = None if rejected is None else as_scan(rejected, source="rejected").to_arrow()
        found = {} if keys is None else keys.schema.metadata or {}

        def run(session: BulkSession, load_id: str) -> LoadReport:
            return Publisher(
                session,
                self.dialect,
                request,
                uri=self.uri(table),
                load_id=load_id,
                source=source_table,
                rejected=keys,
                audited=audited or found.get(AUDITED, b"").decode(),
            ).run()

        return self._once(
            request.load_id,
            run,
            table=table,
            mode=request.mode,
            key=request.key,
            partition_by=request.partition_by,
            origins=request.scan.origins,
        )

    def _note_drop(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if isinstance(arguments.get("table"), str):
            note_change(self._database, {arguments["table"].rpartition(".")[2].lower()})
        return arguments

    @operation(prepare=_note_drop, in_session=True)
    def drop_table(self, table: TableName) -> None:
        """Drop a table if it exists."""
        statement = f"DROP TABLE IF EXISTS {self.dialect.table(table)}"
        with self._statement(statement) as session:
            session.execute(statement)

    def _once(
        self,
        load_id: str | None,
        work: Callable[[BulkSession, str], LoadReport],
        *,
        table: str,
        mode: Mode = "append",
        key: Sequence[str] = (),
        partition_by: Sequence[str] = (),
        origins: Sequence[str] = (),
    ) -> LoadReport:
        """Do `work` under the load_id, on a session of its own; a lost answer is resolved from the ledger.

        Raises:
            InvalidInputError: The ledger has the load_id from a load of another table, mode, key or partition.
        """
        if not load_id:
            raise InvalidInputError("load_id is empty.")
        self._say_what_is_apart(table)
        report = self._resolved(load_id.current if isinstance(load_id, DerivedId) else str(load_id), work)
        while report.already_loaded and isinstance(load_id, DerivedId) and self._is_undone(load_id, table, mode):
            load_id.take_next()
            report = self._resolved(load_id.current, work)
        if report.already_loaded:
            found = (self.uri(report.table), report.mode, report.key, report.partition_by)
            asked = (self.uri(table), mode, tuple(key), tuple(partition_by))
            names = ("table", "mode", "key", "partition_by")
            if other := [
                f"{name} {old!r}, not {new!r}"
                for name, old, new in zip(names, found, asked, strict=True)
                if old not in (new, None)
            ]:
                raise InvalidInputError(
                    f"load_id {load_id!r} belongs to another load of {report.finished_at:%Y-%m-%d %H:%M} UTC: "
                    f"{'; '.join(other)}. Nothing was loaded. Give each load a load_id of its own, such as "
                    f"{f'{table}/{load_id}'!r}."
                )
        return self._announced(report, origins)

    def _announced(self, report: LoadReport, origins: Sequence[str]) -> LoadReport:
        """Tell of what a load did, and return its report."""
        movement = report.movement(
            target=self.asset_key(report.table),
            tool=self._block_type_slug or type(self).__name__,
            origins=origins,
            quarantine=Ledger(self.dialect).show_rejects_of(report.load_id),
        )
        announce(movement, self.logger)
        return report

    def _say_what_is_apart(self, table: str) -> None:
        """Say, in a `with` block, that a load is not part of its transaction."""
        if self._hold is None:
            return
        open_too = ""
        with contextlib.suppress(ConnectorError):  # the block will say it
            if self._hold.is_open_here():
                open_too = (
                    " It neither sees nor undoes what the open transaction did, and waits for what that has locked: "
                    "COMMIT first."
                )
        self.logger.log(
            logging.WARNING if open_too else logging.INFO,
            "%s: the load has a connection and a transaction of its own, apart from the `with` block.%s",
            self.uri(table),
            open_too,
        )

    def _is_undone(self, load_id: DerivedId, table: str, mode: Mode) -> bool:
        """Tell whether the rows of an earlier attempt's load went with the table, or with a replace, of this run."""
        with self._bulk_session() as session:
            if session.columns(table) is None:
                return True
            ledger, call = Ledger(self.dialect), load_id.call
            ledger.open(session, self.uri(), whole=True)
            return call.is_undone(mode, ledger.replaced_after(session, load_id.current, table, call.root))

    def _resolved(
        self, load_id: str, work: Callable[[BulkSession, str], LoadReport], *, state: str | None = None
    ) -> LoadReport:
        """Do the work, and where the answer to COMMIT is lost return what the ledger says."""
        try:
            return self._work(load_id, work)
        except AmbiguousError as lost:
            return self._resolve(load_id, lost, f"load_id={load_id!r}" if state is None else f"state={state!r}")

    def _work(self, load_id: str, work: Callable[[BulkSession, str], LoadReport]) -> LoadReport:
        """Do the work on a session of its own, and on another one where the table was changed meanwhile."""
        for _ in range(MOST_PLANS - 1):
            with contextlib.suppress(TableChangedError), self._bulk_session(load_id) as session:
                return work(session, load_id)
        with self._bulk_session(load_id) as session:
            return work(session, load_id)

    def _resolve(self, load_id: str, lost: AmbiguousError, argument: str) -> LoadReport:
        """Return what the ledger says after the answer to COMMIT was lost."""

        def look() -> LoadReport | None:
            with self._bulk_session() as session:
                session.end_other_attempts(load_id)
                return find_report(Ledger(self.dialect), session, load_id)

        try:
            report = call_with_retry(self.retry, look)
        except TransientError as error:
            raise AmbiguousError(
                f"{lost} The ledger could not be read either ({error}). Call again with {argument}: nothing is loaded "
                "twice."
            ) from error
        if report is None:
            if isinstance(lost.__cause__, TerminalError):
                raise lost.__cause__ from None
            raise TransientError(f"{lost} The ledger has no load {load_id}: it did not happen and can run again.")
        return report.model_copy(update={"resolved_from_ledger": True})


def check_one_given(table: str | None, query: str | None) -> None:
    """Raise an error unless either a table or a query is given.

    Raises:
        InvalidInputError: Both are, or neither is.
    """
    if (table is None) == (query is None):
        raise InvalidInputError("Give either a table or query=..., and not both.")
