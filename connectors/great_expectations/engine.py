"""Great Expectations, driven by its own parts: a suite against a frame in memory, or in SQL through an engine.

Each validation has a context of its own, so that two at once do not disturb each other, nor the context of a caller who
uses Great Expectations directly. What comes back holds counts and aggregates; unexpected values stay where they are.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import types
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from blocks.base.errors import InvalidInputError
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blocks.base.errors import ConnectorError

POSITION = "etl_position"
"""The key in `meta` that says which expectation of the suite a result belongs to."""
CONDITION = "its row_condition is not one of comparisons of columns with values, joined by and, or"
"""Why a condition cannot be asked. Of one in its own grammar Great Expectations reads no more than the beginning."""
WITHOUT_VALUES = {"result_format": "BASIC", "partial_unexpected_count": 0}
WITH_SAMPLES = {"result_format": "SUMMARY", "partial_unexpected_count": 20}

_importing = threading.Lock()


def is_loaded() -> bool:
    """Whether Great Expectations is imported already."""
    return "great_expectations" in sys.modules


def great_expectations() -> Any:
    """Import Great Expectations at the first call (6 s, 300 MB), with its telemetry, progress bars and logs off."""
    with _importing:
        return _prepared()


@functools.cache
def _prepared() -> Any:
    silence_logs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its import it uses what Python deprecates
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        gx = require("great_expectations", extra="great-expectations")
        require("great_expectations.expectations", extra="great-expectations")
    silence_logs()  # once more: one of its modules sets a level of its own while it is imported
    _set_project()
    _define_datasource()
    return gx


def silence_logs() -> None:
    """Turn off the loggers of Great Expectations, unless the application has set a level for them.

    They write row values into the log: a statement that fails, with the driver's words on it, and each error that a
    metric meets (`SqlAlchemyExecutionEngine.resolve_metric_bundle` and `ValidationGraph`). What failed is in our
    report, without values. At INFO they also write a line for each parameter of an expectation:
    https://github.com/great-expectations/great_expectations/issues/10897
    """
    logger = logging.getLogger("great_expectations")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL + 1)
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.NOTSET)  # its own choice is INFO


def _set_project() -> None:
    """Set a project where there is none: some parts ask whether the current one is in the cloud, and fail."""
    factory = require("great_expectations.data_context.data_context.context_factory", extra="great-expectations")
    try:
        factory.project_manager.is_using_cloud()
    except require("great_expectations.exceptions", extra="great-expectations").DataContextRequiredError:
        factory.set_context(new_context())


def new_context(**options: Any) -> Any:
    """Create a context in memory that nobody else sees."""
    contexts = require("great_expectations.data_context", extra="great-expectations")
    base = require("great_expectations.data_context.types.base", extra="great-expectations")
    config = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        progress_bars=base.ProgressBarsConfig(globally=False, metric_calculations=False),
        analytics_enabled=False,
        **options,
    )
    return contexts.EphemeralDataContext(project_config=config)


def known_types() -> list[str]:
    """List the types of expectation that Great Expectations knows here, the user's own included."""
    great_expectations()
    registry = require("great_expectations.expectations.registry", extra="great-expectations")
    return [str(name) for name in registry.list_registered_expectation_implementations()]


def make_expectation(kind: str, kwargs: Mapping[str, Any], meta: Mapping[str, Any]) -> Any:
    """Make Great Expectations' own expectation.

    Raises:
        InvalidInputError: Its arguments are not what this type of expectation takes.
    """
    great_expectations()
    registry = require("great_expectations.expectations.registry", extra="great-expectations")
    try:
        return registry.get_expectation_impl(kind)(**kwargs, meta=dict(meta))
    except Warning:  # where those are errors
        raise
    except Exception as error:  # noqa: BLE001 (of pydantic, and whatever a custom expectation raises)
        reasons = [
            f"{'.'.join(str(part) for part in each['loc'] if part != '__root__')}: {each['msg']}".removeprefix(": ")
            for each in (error.errors() if hasattr(error, "errors") else [])
        ]
        raise InvalidInputError(f"{kind} does not take these arguments: {'; '.join(reasons) or _why(error)}.") from None


def _why(error: Exception) -> str:
    name = type(error).__name__
    return CONDITION if name == "ConditionParserError" else name


def make_suite(name: str, asked: Sequence[Asked]) -> Any:
    """Make Great Expectations' own suite."""
    own = []
    for each in asked:
        own.append(make_expectation(each.type, each.kwargs, each.meta))
        own[-1].severity = each.severity
    return great_expectations().ExpectationSuite(name=name, expectations=own)


def is_row_level(kind: str) -> bool:
    """Whether an expectation of this type holds or not for each row."""
    great_expectations()
    registry = require("great_expectations.expectations.registry", extra="great-expectations")
    base = require("great_expectations.expectations.expectation", extra="great-expectations")
    maps = (base.ColumnMapExpectation, base.ColumnPairMapExpectation, base.MulticolumnMapExpectation)
    return issubclass(registry.get_expectation_impl(kind), maps)


@dataclass
class Outcome:
    """How one expectation went.

    Attributes:
        success: Whether it holds.
        result: What Great Expectations found; the caller picks what may be told.
        failed_with: What kept it from being evaluated, as Great Expectations says it; never to be told as it is.
        error: What kept it from being evaluated, where it was the database.
    """

    success: bool
    result: dict[str, Any] = field(default_factory=dict)
    failed_with: str | None = None
    error: ConnectorError | None = None


def frame_batch(frame: Any) -> Any:
    """Make a batch of a pandas frame."""
    great_expectations()
    asset = new_context().data_sources.add_pandas("etl").add_dataframe_asset("data")
    return asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})


def sql_batch(engine: Any, *, table: str | None = None, query: str | None = None) -> Any:
    """Make a batch of a table, or of a query that begins with SELECT; no temporary table is made for it.

    Args:
        engine: A SQLAlchemy engine.
        table: `table` or `schema.table`.
        query: Or the query.
    """
    great_expectations()
    source = new_context().data_sources.add_etl_engine("etl", connection_string="etl://")
    quoted_name = require("sqlalchemy", extra="great-expectations").sql.quoted_name
    schema, _, name = (table or "").rpartition(".")
    exact = True if schema != schema.lower() else None  # else it would make it lower case
    source.use(engine, quoted_name(schema, exact) if schema else None)
    if query is not None:
        asset = source.add_query_asset("data", query=query)
    else:
        asset = source.add_table_asset("data", table_name=quoted_name(name, None))
    return asset.add_batch_definition_whole_table("all").get_batch()


def _define_datasource() -> None:
    """Register the kind of data source that takes an engine as it is: to define its class is all that it takes."""
    fluent = require("great_expectations.datasource.fluent", extra="great-expectations")
    pydantic = require("great_expectations.compatibility.pydantic", extra="great-expectations")
    engines = require("great_expectations.execution_engine", extra="great-expectations")

    class EtlExecutionEngine(engines.SqlAlchemyExecutionEngine):  # type: ignore[misc, name-defined]  # untyped
        def close(self) -> None:
            """Leave the engine to its owner.

            Great Expectations would dispose of it, and does so whenever Python collects what used it, which may be amid
            the next check: https://github.com/great-expectations/great_expectations/pull/11766
            """

    _count_repeated(EtlExecutionEngine)

    class EtlEngineDatasource(fluent.SQLDatasource):  # type: ignore[misc, name-defined]  # untyped
        type: Literal["etl_engine"] = "etl_engine"
        _given: Any = pydantic.PrivateAttr(None)
        _given_schema: Any = pydantic.PrivateAttr(None)
        _used: Any = pydantic.PrivateAttr(None)

        def use(self, engine: Any, schema: str | None) -> None:
            self._given, self._given_schema = engine, schema

        @property
        def schema_(self) -> str | None:
            schema: str | None = self._given_schema
            return schema

        def get_engine(self) -> Any:
            return self._given

        def test_connection(self, test_assets: bool = True) -> None:
            """Leave it: the engine is given afterwards, and whoever gives it has looked at the table."""

        def get_execution_engine(self) -> Any:
            if self._used is None:
                self._used = EtlExecutionEngine(engine=self._given, create_temp_table=False)
                if self._given.dialect.name == "duckdb":
                    self._used.dialect_module = _duckdb_dialect(self._given.dialect)
            return self._used


def _count_repeated(engine_class: type) -> None:
    """Have an engine count the rows whose value comes more than once by GROUP BY.

    Great Expectations counts them over a window, which sorts all rows with their values: for ten million keys in DuckDB
    5.9 s of CPU time, where groups take 2.9 s. Which rows they are it finds as before.
    """
    registry = require("great_expectations.expectations.registry", extra="great-expectations")
    sa = require("sqlalchemy", extra="great-expectations")
    name = "column_values.unique.unexpected_count"
    provider, replaced = registry.get_sqlalchemy_metric_provider(name)

    def count(
        execution_engine: Any, metric_domain_kwargs: Mapping[str, Any], metrics: Mapping[str, Any], **_: Any
    ) -> int:
        _condition, asked, accessed = metrics["unexpected_condition"]
        rows = execution_engine.get_domain_records(domain_kwargs={**asked, **accessed})
        column = sa.column(metric_domain_kwargs["column"])
        repeated = (
            sa.select(sa.func.count().label("n"))
            .select_from(rows.subquery() if isinstance(rows, sa.Select) else rows)
            .where(column.is_not(None))
            .group_by(column)
            .having(sa.func.count() > 1)
            .subquery()
        )
        return int(execution_engine.execute_query(sa.select(sa.func.sum(repeated.c.n))).scalar() or 0)

    registry.register_metric(
        metric_name=name,
        **registry.get_metric_kwargs(name),
        execution_engine=engine_class,
        metric_class=provider,
        metric_provider=count,
        metric_fn_type=replaced.metric_fn_type,
    )


class _Exactly(type):
    """A class whose instances are those of another one, without those of its subclasses."""

    kind: type

    def __instancecheck__(cls, value: object) -> bool:
        return type(value) is cls.kind


def _duckdb_dialect(dialect: Any) -> types.ModuleType:
    """What Great Expectations asks the module of a dialect, for DuckDB, which it does not know.

    It picks the function for regular expressions by a name in there: DuckDB has the one that Dremio has. The types are
    those that duckdb-engine finds, by the names that DuckDB has for them.
    """
    sqltypes = require("sqlalchemy.types", extra="great-expectations")
    module = types.ModuleType("duckdb_dialect")
    names = vars(sqltypes) | {name.upper(): kind for name, kind in dialect.ischema_names.items()}
    exact = {
        "BIGINT": dialect.ischema_names["int8"],
        "INTEGER": dialect.ischema_names["int4"],
        "SMALLINT": dialect.ischema_names["int2"],
        "DOUBLE": dialect.ischema_names["float8"],
        "DECIMAL": sqltypes.NUMERIC,
    }
    vars(module).update({name: kind for name, kind in names.items() if isinstance(kind, type)})
    vars(module).update({name: _Exactly(name, (), {"kind": kind}) for name, kind in exact.items()})
    vars(module)["DremioDialect"] = dialect
    return module


@dataclass(frozen=True)
class Asked:
    """One expectation, as Great Expectations takes it."""

    type: str
    kwargs: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)
    severity: str = "critical"


def evaluate(
    batch: Any,
    suite: str,
    asked: Sequence[Asked],
    result_format: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Check the expectations, and return how each went, in their order."""
    own = [
        make_expectation(each.type, each.kwargs, {**each.meta, POSITION: position})
        for position, each in enumerate(asked)
    ]
    try:
        native = batch.validate(
            great_expectations().ExpectationSuite(name=suite, expectations=own),
            result_format=dict(result_format),
            expectation_parameters=dict(parameters or {}),
        )
    except Exception as error:  # noqa: BLE001 (a custom expectation may raise anything)
        return [Outcome(success=False, failed_with=f"{type(error).__name__}: {error}") for _ in asked]
    outcomes = [Outcome(success=False, failed_with="no result") for _ in asked]
    for each in native.results:
        position = each.expectation_config.meta[POSITION]
        outcomes[position] = Outcome(bool(each.success), dict(each.result or {}), _exception(each))
    return outcomes


def _exception(result: Any) -> str | None:
    info = result.exception_info or {}
    found = [info] if "raised_exception" in info else [each for each in info.values() if isinstance(each, dict)]
    raised = [each for each in found if each.get("raised_exception")]
    if not raised:
        return None
    text = "\n".join(f"{each.get('exception_traceback', '')}\n{each.get('exception_message', '')}" for each in raised)
    return text.strip() or "an exception"
