"""Where Great Expectations looks: a frame in memory, a warehouse through its engine, or a scan in a temporary DuckDB.

Each source says which rows are unexpected by their key, with the exact types of the data.
"""

from __future__ import annotations

import contextlib
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.optional import lazy, require
from connectors.great_expectations import engine as gx
from connectors.great_expectations.held import TABLE, held, translate
from connectors.great_expectations.results import reason
from connectors.shared.duckdb_engine import escaping_dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.arrow.scan import Scan
    from blocks.warehouses.warehouse import Warehouse
else:
    pa = lazy("pyarrow")


class Source(ABC):
    """Data as Great Expectations checks it.

    Attributes:
        name: Where it is, without secrets.
        schema: Its columns, where it is in Arrow or in a database.
        columns: Their names.
        batch: It, as a batch of Great Expectations.
        in_sql: Whether it is asked in SQL.
    """

    name: str
    schema: pa.Schema
    columns: Sequence[str]
    batch: Any
    in_sql: ClassVar[bool] = True

    @abstractmethod
    def unexpected(self, asked: gx.Asked, key: Sequence[str], count: int, parameters: Mapping[str, Any]) -> pa.Table:
        """Find the key of each of the `count` rows for which an expectation does not hold."""

    def evaluate(
        self,
        suite: str,
        asked: Sequence[gx.Asked],
        result_format: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> list[gx.Outcome]:
        """Check the expectations, and return how each went, in their order.

        One that cannot be evaluated takes others with it that are asked in the same statement: those that failed so
        are asked again one by one.

        Raises:
            ConnectorError: The data could not be reached, which says nothing of it.
        """
        outcomes = gx.evaluate(self.batch, suite, asked, result_format, parameters)
        for position, outcome in enumerate(outcomes):
            if outcome.failed_with is not None:
                self._forget()
                outcomes[position] = gx.evaluate(self.batch, suite, [asked[position]], result_format, parameters)[0]
                outcomes[position].error = self._last_error()
        return outcomes

    def _forget(self) -> None:  # noqa: B027 (a frame has nothing to forget)
        """Forget what failed until now, unless the data cannot be reached."""

    def _last_error(self) -> ConnectorError | None:
        """What failed since then."""
        return None


class FrameSource(Source):
    """A pandas frame."""

    in_sql: ClassVar[bool] = False

    def __init__(self, frame: Any, name: str) -> None:
        self.name = name
        self._frame = frame.reset_index(drop=True)
        self.columns = self._frame.columns = [str(column) for column in frame.columns]
        self.schema = pa.schema([(column, pa.null()) for column in self.columns])
        self.batch = gx.frame_batch(self._frame)

    def unexpected(
        self,
        asked: gx.Asked,
        key: Sequence[str],
        count: int,
        parameters: Mapping[str, Any],
    ) -> pa.Table:
        """Find the key of each row for which the expectation does not hold."""
        found = gx.evaluate(self.batch, "unexpected", [asked], {"result_format": "COMPLETE"}, parameters)[0]
        positions = sorted(found.result.get("unexpected_index_list") or [])
        _check_found(self.name, asked, count, len(positions))
        try:
            return pa.Table.from_pandas(self._frame.loc[positions, list(key)], preserve_index=False)
        except pa.ArrowException:
            raise InvalidInputError(f"A column of the key ({', '.join(key)}) holds values of several types.") from None


class SqlSource(Source):
    """What an engine reaches.

    Args:
        engine: A SQLAlchemy engine.
        name: Where the data is.
        schema: Its columns.
        translate: The error of this package for one of the driver's.
        table: The table.
        query: Or the query.
    """

    def __init__(
        self,
        engine: Any,
        name: str,
        schema: pa.Schema,
        *,
        translate: Callable[[BaseException], ConnectorError],
        table: str | None = None,
        query: str | None = None,
    ) -> None:
        self.name, self.schema, self.columns = name, schema, schema.names
        self._errors: list[ConnectorError] = []
        self._engine = engine.execution_options()  # with event listeners of its own
        if engine.dialect.name == "duckdb":
            self._engine.dialect = escaping_dialect(engine)
        self._translate = translate
        self._events().listen(self._engine, "handle_error", self._remember)
        try:
            self.batch = gx.sql_batch(self._engine, table=table, query=query)
        except Exception as error:  # noqa: BLE001 (Great Expectations wraps what it meets in errors of its own)
            self.close()
            raise self._last_error() or TerminalError(f"Could not check {name}: {type(error).__name__}.") from None

    def close(self) -> None:
        """Stop listening to the engine, which may be somebody else's."""
        self._events().remove(self._engine, "handle_error", self._remember)

    def _events(self) -> Any:
        return require("sqlalchemy", extra="great-expectations").event

    def _remember(self, context: Any) -> None:
        if context.engine is self._engine:  # the engine that it was made of tells of its own errors too
            self._errors.append(self._translate(context.original_exception))

    def unexpected(self, asked: gx.Asked, key: Sequence[str], count: int, parameters: Mapping[str, Any]) -> pa.Table:
        """Find the key of each row for which the expectation does not hold."""
        result_format = {
            "result_format": "SUMMARY",
            "partial_unexpected_count": count,
            "unexpected_index_column_names": list(key),
            "return_unexpected_index_query": False,
            "exclude_unexpected_values": True,
        }
        self._forget()
        found = gx.evaluate(self.batch, "unexpected", [asked], result_format, parameters)[0]
        if found.failed_with is not None:
            raise self._last_error() or TerminalError(f"{self.name}: {asked.type}: {reason(found)}.")
        fields = [self.schema.field(name) for name in key]
        values: dict[str, Any] = next(iter(found.result.get("partial_unexpected_index_list") or []), {})
        rejected = pa.table([_array(values.get(field.name, []), field) for field in fields], pa.schema(fields))
        _check_found(f"{self.name}, in SQL", asked, count, rejected.num_rows)
        return rejected

    def _forget(self) -> None:
        self._last_error()
        self._errors.clear()

    def _last_error(self) -> ConnectorError | None:
        for error in self._errors:
            if isinstance(error, (TransientError, AuthError, AccessDeniedError)):
                raise error
        with contextlib.suppress(require("sqlalchemy", extra="great-expectations").exc.SQLAlchemyError):
            self._engine.connect().close()  # what it raises while it connects is an error of this package
        return self._errors[-1] if self._errors else None


@runtime_checkable
class HasEngine(Protocol):
    """A block of a database that SQLAlchemy reaches."""

    def get_engine(self) -> Any:
        """Return its SQLAlchemy engine, which it keeps."""

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one of the driver's that the engine met."""


@contextlib.contextmanager
def table_source(
    warehouse: Warehouse, engine: HasEngine, *, table: str | None, query: str | None
) -> Iterator[SqlSource]:
    """Open a table or a query of a warehouse, to be checked there by its engine; nothing is written."""
    query = query and f"SELECT * FROM ({query}\n) AS q"
    scan = warehouse.scan(table) if table is not None else warehouse.scan_query(query or "")
    name, translated = scan.source, engine.engine_error
    source = SqlSource(engine.get_engine(), name, scan.schema, translate=translated, table=table, query=query)
    with contextlib.closing(source):
        yield source


@contextlib.contextmanager
def scan_source(scan: Scan, columns: Sequence[str] | None, *, memory_limit: str) -> Iterator[SqlSource]:
    """Open a scan as a table of a DuckDB that is deleted afterwards.

    Args:
        scan: The data.
        columns: The columns that are needed; all where None.
        memory_limit: The most memory that DuckDB uses.
    """
    names = scan.schema.names
    needed = None if columns is None else [name for name in names if name in columns] or names[:1]
    with held(scan, needed, memory_limit=memory_limit) as database:
        engine = database.engine()
        source = SqlSource(
            engine, scan.source, scan.schema, translate=lambda error: translate(error, scan.source), table=TABLE
        )
        with contextlib.closing(source):
            yield source


def _check_found(name: str, asked: gx.Asked, count: int, found: int) -> None:
    """Check that all rows were found for which an expectation does not hold.

    Raises:
        UnsupportedError: They were not; which of them are to be set aside is not known.
    """
    if found != count:
        raise UnsupportedError(
            f"{name}: {asked.type} does not hold for {count} rows, and Great Expectations names {found} of them. Give "
            "it severity fail, or check the data again if it is changing."
        )


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """The values as a driver gives them, in the type that the column has in Arrow."""
    try:
        if field.type == pa.uuid():
            plain = [None if value is None else uuid.UUID(str(value)).bytes for value in values]
            return pa.array(plain, pa.binary(16)).cast(pa.uuid())
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError):
        raise InvalidInputError(
            f"Column {field.name} cannot be part of the key: its values do not come back as {field.type}."
        ) from None
