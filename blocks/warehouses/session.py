"""Session: the few primitives that a warehouse connector supplies. The load protocol is written over them."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.base.errors import AmbiguousError, ConnectorError, NotFoundError, TransientError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.warehouses.load import LoadPlan
    from blocks.warehouses.sql import Column, Dialect
else:
    pa = lazy("pyarrow")

STAGE = "_etl_stage"
"""The table of a session that holds the rows of a load until they are applied."""
STAGED_REJECTS = "_etl_staged_rejects"
"""The same for the rows that a load refused."""
STAGED_KEYS = "_etl_staged_keys"
"""The same for the keys of the rows that are not to be published."""


@dataclass(frozen=True)
class Versions:
    """The versions of the rows of a table, in an engine that numbers the transactions that made them.

    Attributes:
        oldest: The transactions before this one have ended.
        next: The number of the next transaction.
        cluster: Whose numbers these are.
        table: What the rows are kept in; another one once all of them were written anew. None where a row that is new
            may have an old number.
        since: Returns the condition that a row `q` was made by this transaction or a later one.
    """

    oldest: int
    next: int
    cluster: str
    table: str | None
    since: Callable[[int], str]


class TableChangedError(TransientError):
    """Another session changed the table's shape; nothing was applied, and the load has to be planned again."""


class Session(ABC):
    """One connection, in the hands of one thread. Errors are already those of `blocks.base.errors`.

    What happens between `begin` and `commit` is one transaction; elsewhere each statement commits itself.
    """

    @abstractmethod
    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed; -1 where the driver does not say.

        Parameters are bound as `:name`.
        """

    @abstractmethod
    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows as tuples, at most `size`."""

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

    reads_snapshots: ClassVar[bool] = False
    """Whether all that is read within `snapshot` is of one moment."""

    stage: str = STAGE
    staged_rejects: str = STAGED_REJECTS
    staged_keys: str = STAGED_KEYS
    """The names of the staging tables; a session that shares its tables with others gives them names of its own."""

    @abstractmethod
    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query as an exact Arrow schema and a stream of record batches."""

    def describe(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Schema:
        """Return the schema that `stream` will find, of a query that is not run for it.

        An engine that knows more of a column of a table than of one of a subquery asks in another way.
        """
        schema, batches = self.stream(f"SELECT * FROM ({sql}) AS q LIMIT 0", parameters)
        for _ in batches:
            pass
        return schema

    @abstractmethod
    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Append the batches to an existing table in bulk and return how many rows the server counted."""

    @abstractmethod
    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table in order, None where there is no such table."""

    def fingerprint(self, dialect: Dialect, table: str) -> str:
        """Return a digest of the columns and rows of a table or a view, which is another one once they change.

        Raises:
            NotFoundError: There is no such table.
        """
        columns = self.columns(table)
        if columns is None:
            raise NotFoundError(f"There is no table {table}.")
        kinds = [f"{column.name} {column.sql_type}" for column in columns]
        return hashlib.sha256("\0".join([*kinds, *self._content(dialect, table, columns)]).encode()).hexdigest()

    def _content(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> list[str]:
        """Return what tells the rows of the table from other rows."""
        return [str(value) for value in self.fetch(dialect.content(table, columns))[0]]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within is of one moment, where the engine `reads_snapshots`."""
        yield

    def versions(self, table: str) -> Versions | None:  # noqa: ARG002 (for subclasses)
        """Return the versions of the rows of a table, within a snapshot; None where the engine shows none."""
        return None

    def computed_columns(self, table: str) -> set[str]:  # noqa: ARG002 (for subclasses)
        """Return the columns that the engine computes, and that `columns` leaves out."""
        return set()

    def check_target(self, table: str) -> None:
        """Refuse, when a load is planned, a table that the engine cannot change as a whole or not at all.

        Raises:
            UnsupportedError: It is one.
        """

    def has_unique_key(self, table: str, key: Sequence[str]) -> bool:  # noqa: ARG002 (for subclasses)
        """Tell whether the engine refuses a second row with this key; True where a claim needs no such key."""
        return True

    @contextlib.contextmanager
    def load_transaction(self) -> Iterator[None]:
        """As `transaction`, for what the ledger records.

        Whatever goes wrong once COMMIT may have been sent is ambiguous, whatever the driver calls it: a server that is
        restarted, a pooler or a proxy has many words. The ledger says whether it happened.

        Raises:
            AmbiguousError: COMMIT failed, or its answer was lost; its cause is the error of the driver.
        """
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        try:
            self.commit()
        except AmbiguousError:
            raise
        except Exception as error:
            words = str(error) if isinstance(error, ConnectorError) else f"COMMIT failed: {type(error).__name__}."
            raise AmbiguousError(words) from error

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:  # noqa: ARG002 (for subclasses)
        """Insert the ledger row; waits for another attempt that holds it.

        Raises:
            AlreadyExistsError: Another attempt committed it.
            TransientError: Another attempt holds it, and for too long.
        """
        self.execute(sql, parameters)

    def alter(self, sql: str) -> None:
        """Change a table's shape, outside of a transaction, unless others hold the table for long.

        Raises:
            TransientError: They do.
        """
        self.execute(sql)

    def lock_target(self, dialect: Dialect, plan: LoadPlan) -> None:
        """Keep out, until the transaction ends, the loads that must not change the table beside this one.

        Two loads may append to a table at once, in every other case one comes after the other. Does nothing where the
        claim, or the transaction itself, has seen to that.

        Raises:
            TransientError: Somebody has held the table for too long.
            TableChangedError: It is to be planned anew, in another transaction.
        """

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table by key and return how many were inserted and updated."""
        updated = self.execute(dialect.update_from_stage(table, columns, key, self.stage))
        return self.execute(dialect.insert_missing(table, columns, key, self.stage)), updated

    def create_stage(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> None:
        """Make a staging table."""
        self.execute(dialect.create_stage(table, columns))

    def index_stage(self, dialect: Dialect, columns: Sequence[Column], key: Sequence[str]) -> None:
        """Index the key of the staged rows, before the transaction, where the engine joins by nothing else."""

    def check_copied(self, dialect: Dialect, source: str, where: str, columns: Sequence[Column]) -> None:
        """Refuse staged rows that are not those of the table they were copied from, where a type changes values unseen.

        Args:
            dialect: The SQL of the engine.
            source: The table, whose rows `s` were copied.
            where: The condition of those that were, with its WHERE.
            columns: The columns that were copied, with the types of the stage.

        Raises:
            SchemaError: A value became another one on the way.
        """

    def gather(self, dialect: Dialect, columns: Sequence[Column], tables: Sequence[str]) -> None:
        """Make the staging table of a load of the rows of other tables, which have just these columns."""
        self.create_stage(dialect, self.stage, columns)
        names = dialect.names(column.name for column in columns)
        for table in tables:
            rows = f"SELECT {names} FROM {dialect.table(table)}"
            self.execute(f"INSERT INTO {dialect.name(self.stage)} ({names}) {rows}")

    def discard(self, table: str) -> None:
        """Drop a staging table, where it does not go with its session."""

    def end_other_attempts(self, load_id: str) -> None:
        """End what a lost attempt of this load may still be doing on the server, and wait until it is gone."""


@dataclass(frozen=True)
class Step:
    """A statement of a script, whose number of rows counts as `counts_as`: inserted, updated, deleted, or nothing."""

    sql: str
    counts_as: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Script:
    """The transaction of a load, for an engine that takes it as a whole.

    Attributes:
        load_id: The load.
        steps: What is applied, in order.
        rows: How many rows have to be inserted and updated together.
        ledger_row: The row of the ledger; the script fails where its load_id is there already. In `report` the counts
            that only the script knows stand as `COUNT_UNKNOWN`.
        rewrites: The table whose rows decide what is done to it; scripts that rewrite one table come one after the
            other. None where rows are only added.
    """

    load_id: str
    steps: tuple[Step, ...]
    rows: int
    ledger_row: Mapping[str, Any]
    rewrites: str | None = None


COUNT_UNKNOWN = -1
"""Stands in a report for a count that only the script knows; it puts the number in its place."""


class ScriptedSession(BulkSession):
    """A session of an engine whose transactions are scripts: what is to happen is handed over as a whole."""

    @abstractmethod
    def run_script(self, script: Script) -> None:
        """Run the transaction, or wait for another attempt that runs it already.

        Raises:
            AlreadyExistsError: Another attempt committed it.
            AmbiguousError: It may have been committed.
        """


class Feed:
    """Batches on their way into a driver; it remembers the error of their source, which drivers turn into text."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self.error: BaseException | None = None
        self._batches = batches

    def reader(self) -> pa.RecordBatchReader:
        """Return the batches as the Arrow reader that drivers take."""
        return pa.RecordBatchReader.from_batches(self.schema, self)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise
