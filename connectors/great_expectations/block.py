"""DataQuality: a suite of Great Expectations 1.x as a block, checked where the data is."""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field, HttpUrl, ValidationError, field_validator, model_validator

from blocks.arrow.rejects import AUDITED
from blocks.arrow.scan import as_scan
from blocks.base.artifacts import keep_markdown
from blocks.base.block import ConnectorBlock, resolve
from blocks.base.errors import ConnectorError, InvalidInputError, QualityError, TransientError
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.base.temporary import TemporaryFolder
from blocks.quality.report import Audit, QualityReport
from blocks.stores.object_store import ObjectStore
from blocks.stores.readable_store import ReadableStore
from blocks.warehouses.warehouse import Warehouse
from connectors.great_expectations import engine as gx
from connectors.great_expectations.data_docs import render_docs, shown_in_docs, upload_docs
from connectors.great_expectations.expectation import COLUMN_LEVEL, ROW_COUNT, ROW_LEVEL, Expectation
from connectors.great_expectations.results import check_result, judge, reject
from connectors.great_expectations.sources import FrameSource, HasEngine, Source, scan_source, table_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    import pyarrow as pa

    from blocks.quality.report import CheckResult


class _Place(NamedTuple):
    """What the caller says of where the data is."""

    data: Any
    table: str | None
    query: str | None
    prefix: str | None


class _Limits(NamedTuple):
    """What the caller says of this run."""

    run_name: str | None
    max_rejected: float | None
    parameters: Mapping[str, Any]


class DataQuality(ConnectorBlock):
    """A suite of Great Expectations, checked on frames, scans, tables, queries and folders of buckets.

    Example:
        Check a table where it is:
        ```python
        from connectors.great_expectations import DataQuality
        from connectors.duckdb import DuckDB

        quality = DataQuality.load("BLOCK_NAME")
        report = quality.validate(DuckDB(path="shop.duckdb"), table="orders")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL Data Quality"
    _block_type_slug: ClassVar[str] = "etl-data-quality"
    _documentation_url: ClassVar[Any] = HttpUrl("https://docs.greatexpectations.io/docs/core/introduction/")

    suite_name: str = Field(min_length=1, description="The name of the suite, as reports and pages show it.")
    expectations: list[Expectation] = Field(
        default_factory=list, description="What is expected, in Great Expectations' own JSON, with a severity for each."
    )
    key: list[str] = Field(
        default_factory=list,
        description="The columns that identify a row. Needed where an expectation has severity quarantine.",
    )
    raise_on_failure: bool = Field(
        default=True,
        description="Whether it is an error when an expectation of severity fail does not hold. Defaults to true.",
    )
    max_rejected: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The share of rows that may be quarantined, from 0 to 1; more is an error. Defaults to 0.1.",
    )
    require_rows: bool = Field(
        default=False,
        description="Whether it is an error when nothing was checked: no expectations, no rows, or a row_condition "
        "that no row meets. Defaults to false, and then the log warns.",
    )
    memory_limit: str = Field(
        default="100MB",
        description="The most memory that DuckDB uses for data that is not in a database; what exceeds it is kept in "
        "a file. Defaults to 100MB.",
    )
    docs: ObjectStore | str | None = Field(
        default=None,
        description="The bucket for Data Docs, or the name of a saved one such as etl-s3-bucket/docs. Defaults to no "
        "Data Docs.",
    )
    docs_prefix: str = Field(default="data_docs", description="The folder in that bucket. Defaults to data_docs.")
    docs_samples: bool = Field(
        default=False, description="Whether Data Docs show unexpected values, and not only counts. Defaults to false."
    )

    @field_validator("expectations", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return list(given) if isinstance(given, tuple) else given

    @model_validator(mode="after")
    def _rows_have_a_key(self) -> Self:
        for each in self.expectations:
            if each.severity != "quarantine":
                continue
            if COLUMN_LEVEL.match(each.type) or (each.type.startswith("expect_") and not ROW_LEVEL.match(each.type)):
                raise ValueError(f"{each.type} does not check single rows: give it severity warn or fail")
            if not self.key:
                raise ValueError(f"{each.type} has severity quarantine, which needs key: the columns that name a row")
        return self

    @classmethod
    def from_suite(cls, suite: Any, **fields: Any) -> Self:
        """Make a block with the expectations of a suite made elsewhere.

        Args:
            suite: An `ExpectationSuite`, its JSON as a dict (also that of Great Expectations 0.x, and an export of GX
                Cloud), or the path of a file of it, in JSON or YAML.
            fields: Other fields of the block.

        Raises:
            InvalidInputError: It is not a suite.
        """
        if isinstance(suite, str | Path):
            suite = _read_suite(Path(suite).expanduser())
        if hasattr(suite, "to_json_dict"):
            suite = suite.to_json_dict()
        given, suite = type(suite).__name__, _unwrapped(suite)
        if suite is None:
            raise InvalidInputError(
                f"{given} is not a suite. Pass an ExpectationSuite, its JSON as a dict, or the path of a file of it in "
                "JSON or YAML."
            )
        name = suite.get("name") or suite.get("expectation_suite_name")
        try:
            return cls(**{"suite_name": name, "expectations": suite["expectations"], **fields})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise InvalidInputError(f"The suite {name or 'without a name'} cannot be a block: {wrong}.") from None

    def to_suite(self) -> Any:
        """Return it as an `ExpectationSuite` of Great Expectations."""
        return gx.make_suite(self.suite_name, [each.to_gx() for each in self.expectations])

    @operation
    def check(self) -> str:
        """Check that Great Expectations knows each expectation and takes its arguments, and say so in one sentence.

        Raises:
            InvalidInputError: It does not; the message names the nearest type that it knows.
        """
        self._check_expectations()
        bucket = self._bucket()
        said = f"{self.suite_name} has {len(self.expectations)} expectations, all of them known."
        return said if bucket is None else f"{said} {bucket.check()}"

    @operation
    def validate(  # type: ignore[override]  # pydantic's, deprecated, is for classes
        self,
        data: Any,
        *,
        table: str | None = None,
        query: str | None = None,
        prefix: str | None = None,
        run_name: str | None = None,
        raise_on_failure: bool | None = None,
        max_rejected: float | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> QualityReport:
        """Check the data, and return how the expectations went. What is said here goes before the block's fields.

        Args:
            data: A pandas frame, which Great Expectations checks in memory; any other frame, Arrow table or Scan,
                which is checked by SQL in a temporary DuckDB file; a warehouse, with `table` or `query`, which is
                checked in place where it has a SQLAlchemy engine, else as a Scan; or a bucket, with `prefix`. A
                warehouse and a bucket may be named, as in `"etl-postgres/prod"`.
            table: A table of the warehouse.
            query: A query, in place of a table.
            prefix: What `scan` of the bucket takes: a key, a folder, or a glob.
            run_name: The name of this run; the time by default.
            raise_on_failure: Whether it is an error when an expectation of severity fail does not hold.
            max_rejected: The share of rows that may be quarantined.
            parameters: What takes the place of `{"$PARAMETER": "name"}` in expectations, by name.

        Raises:
            ChecksFailedError: An expectation of severity 'fail' does not hold, or one of any severity could not be
                evaluated; the error has the report.
            QualityError: More rows than `max_rejected` allows would be quarantined, or nothing was checked where rows
                are required.
            InvalidInputError: The arguments do not fit each other, or Great Expectations does not know an expectation.
        """
        raises = self.raise_on_failure if raise_on_failure is None else raise_on_failure
        limits = _Limits(run_name, max_rejected, parameters or {})
        audit, too_many = self._run(_Place(data, table, query, prefix), limits)
        if raises:
            audit.report.raise_for_failures()
        if raises and too_many:
            raise too_many
        return audit.report

    @operation
    def audit(
        self,
        data: Any,
        *,
        table: str | None = None,
        query: str | None = None,
        prefix: str | None = None,
        run_name: str | None = None,
        raise_on_failure: bool | None = None,
        max_rejected: float | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Audit:
        """Check the data, and return the report of `validate` and the keys of the rows to set aside.

        Args and errors are those of `validate`, but that too many rows are always an error here: their keys are not
        fetched. The rows of a table are known again: `Warehouse.publish` refuses others.

        Raises:
            TransientError: The table was changed while it was checked.
        """
        raises = self.raise_on_failure if raise_on_failure is None else raise_on_failure
        limits = _Limits(run_name, max_rejected, parameters or {})
        place = _Place(resolve(data, ConnectorBlock) if isinstance(data, str) else data, table, query, prefix)
        before = _fingerprint(place)
        audit, too_many = self._run(place, limits)
        if _fingerprint(place) != before:
            raise TransientError(
                f"{audit.report.source} was changed while it was checked, so nobody can tell which rows were seen. "
                "Check it again, or have nothing write to it meanwhile."
            )
        if before:
            audit = replace(audit, rejected=audit.rejected.replace_schema_metadata({AUDITED: before}))
        if raises:
            audit.report.raise_for_failures()
        if too_many:
            raise too_many
        return audit

    def _run(self, place: _Place, limits: _Limits) -> tuple[Audit, QualityError | None]:
        """The audit, and the error where too many rows would be quarantined, or none were looked at."""
        started_at = dt.datetime.now(dt.UTC)
        if known := gx.is_loaded():
            self._check_expectations()
        with self._source(place) as source:
            if not known:  # it is imported only now, so that what a scan takes while it is read does not add to that
                self._check_expectations()
            self._check_key(source)
            outcomes = self._outcomes(source, limits.parameters)
            rows = _observed(outcomes[-1])
            checks = tuple(
                check_result(expected, outcome, source.columns, in_sql=source.in_sql)
                for expected, outcome in zip(self.expectations, outcomes, strict=False)  # the others count rows
            )
            share = self.max_rejected if limits.max_rejected is None else limits.max_rejected
            rejected, quarantined, too_many = self._rejected(source, checks, rows or 0, share, limits.parameters)
        report = QualityReport(
            source=source.name,
            suite=self.suite_name,
            run_name=limits.run_name or f"{started_at:%Y%m%dT%H%M%S.%fZ}",
            rows=rows,
            checks=checks,
            rows_quarantined=quarantined,
            started_at=started_at,
            finished_at=dt.datetime.now(dt.UTC),
        )
        if bucket := self._bucket():
            report = report.model_copy(update={"docs": self._publish_docs(bucket, report, outcomes)})
        self.logger.log(logging.WARNING if report.unused else logging.INFO, "%s", report)
        if self.require_rows and report.unused and not report.failures:
            too_many = QualityError(f"{report}. Rows are required here (require_rows).")
        keep_markdown(
            f"quality-{self.suite_name}", report.markdown(), description=f"{self.suite_name}: {report.source}"
        )
        return Audit(report, rejected), too_many

    @contextlib.contextmanager
    def _source(self, place: _Place) -> Iterator[Source]:
        """The data as Great Expectations checks it."""
        data, table, query, prefix = place
        if isinstance(data, str):
            data = resolve(data, ConnectorBlock)
        given = [name for name, value in (("table", table), ("query", query), ("prefix", prefix)) if value is not None]
        takes = (
            {"table", "query"}
            if isinstance(data, Warehouse)
            else {"prefix"}
            if isinstance(data, ReadableStore)
            else set()
        )
        if set(given) - takes or (takes and len(given) != 1):
            need = " or ".join(sorted(takes, reverse=True)) or "none of table, query and prefix"
            raise InvalidInputError(
                f"Data of type {type(data).__name__} takes {need}; given: {', '.join(given) or 'none'}."
            )
        if isinstance(data, Warehouse):
            if isinstance(data, HasEngine):
                query = query and query.strip().rstrip(";")
                with table_source(data, data, table=table, query=query) as source:
                    yield source
                return
            data = data.scan_query(query) if query is not None else data.scan(table or "")
        elif isinstance(data, ReadableStore):
            data = data.scan(prefix or "")
        if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
            yield FrameSource(data, "the data")
            return
        with scan_source(as_scan(data).settled(), self._needed(), memory_limit=self.memory_limit) as source:
            yield source

    def _needed(self) -> list[str] | None:
        """The columns that the expectations are about, all (None) where that cannot be told."""
        if any(not each.is_of_its_columns for each in self.expectations):
            return None
        return [*(name for each in self.expectations for name in each.columns), *self.key]

    def _bucket(self) -> ObjectStore | None:
        """The bucket of the docs, None where there is none."""
        return None if self.docs is None else resolve(self.docs, ObjectStore)

    def _publish_docs(self, bucket: ObjectStore, report: QualityReport, outcomes: Sequence[gx.Outcome]) -> str | None:
        """Publish the page of this run and return where it is. What goes wrong is a warning: the verdict stands."""
        shown = [
            (expected.to_gx(), shown_in_docs(outcome, check, samples=self.docs_samples))
            for expected, outcome, check in zip(self.expectations, outcomes, report.checks, strict=False)
        ]
        with TemporaryFolder() as folder:
            page = render_docs(folder, self.suite_name, shown, run_name=report.run_name, started_at=report.started_at)
            if page is None:
                self.logger.warning("Great Expectations could not render the Data Docs of %s.", self.suite_name)
                return None
            try:
                return upload_docs(folder, bucket, self.docs_prefix, page)
            except ConnectorError as error:
                self.logger.warning("The Data Docs of %s were not published: %s", self.suite_name, error)
                return None

    def _check_expectations(self) -> None:
        known = gx.known_types()
        for each in self.expectations:
            if each.type not in known:
                near = difflib.get_close_matches(each.type, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else " Import the module that defines it first."
                raise InvalidInputError(f"Great Expectations knows no {each.type}.{hint}")
            gx.make_expectation(each.type, each.kwargs, each.meta)
            if each.severity == "quarantine" and not gx.is_row_level(each.type):
                raise InvalidInputError(f"{each.type} does not check single rows: give it severity warn or fail.")

    def _check_key(self, source: Source) -> None:
        missing = [name for name in self.key if name not in source.columns]
        if missing and any(each.severity == "quarantine" for each in self.expectations):
            raise InvalidInputError(f"{source.name} has no column {', '.join(missing)}, which key names.")

    def _outcomes(self, source: Source, parameters: Mapping[str, Any]) -> list[gx.Outcome]:
        """How each expectation went, with the rows that its condition leaves; the last one counts the rows of all."""
        conditions = [each.condition for each in self.expectations if each.condition]
        counts = [gx.Asked(ROW_COUNT, {"min_value": 0, **condition}) for condition in (*conditions, {})]
        asked = [*(each.to_gx() for each in self.expectations), *counts]
        result_format = gx.WITH_SAMPLES if self.docs_samples else gx.WITHOUT_VALUES
        outcomes = source.evaluate(self.suite_name, asked, result_format, parameters)
        counted = iter(outcomes[len(self.expectations) :])
        for expected, outcome in zip(self.expectations, outcomes, strict=False):
            if expected.condition:
                outcome.result["element_count"] = _observed(next(counted))
        judged = [
            judge(expected, outcome, source.columns, in_sql=source.in_sql)
            for expected, outcome in zip(self.expectations, outcomes, strict=False)
        ]
        return [*judged, *outcomes[len(judged) :]]

    def _rejected(
        self, source: Source, checks: Sequence[CheckResult], rows: int, share: float, parameters: Mapping[str, Any]
    ) -> tuple[pa.Table, int, QualityError | None]:
        """The keys of the rows to set aside, how many rows that are, and the error where they are too many."""
        found = []
        broken = [
            (check, expected)
            for check, expected in zip(checks, self.expectations, strict=True)
            if check.severity == "quarantine" and check.evaluated and not check.passed
        ]
        most = max((check.failed_rows or 0 for check, _ in broken), default=0)
        if most <= share * rows:
            for check, expected in broken:
                keys = source.unexpected(expected.to_gx(), self.key, check.failed_rows or 0, parameters)
                found.append((check.name, keys))
        rejected, quarantined = reject(found, self.key, source.schema)
        quarantined = max(quarantined, most)
        if quarantined <= share * rows:
            return rejected, quarantined, None
        reasons = "; ".join(str(check) for check, _ in broken)
        return (
            rejected,
            quarantined,
            QualityError(
                f"{source.name}: {quarantined} of {rows} rows would be quarantined ({reasons}), and max_rejected "
                f"allows {share:.2%}. Correct the data, or allow more."
            ),
        )


def _read_suite(path: Path) -> Any:
    """What a file of JSON or YAML holds."""
    yaml = require("yaml", extra="great-expectations")
    try:
        text = path.read_text("utf-8")
        if path.suffix.lower() not in (".yaml", ".yml"):
            return json.loads(text)
        return json.loads(json.dumps(yaml.safe_load(text), default=str))  # a date in YAML is a text in JSON
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInputError(
            f"Could not read a suite from {path}: {type(error).__name__}. Pass the path of its file in JSON or YAML."
        ) from None


def _unwrapped(given: Any) -> dict[str, Any] | None:
    """The suite in what GX Cloud answers or exports; None where there is none."""
    if isinstance(given, list) and len(given) == 1:
        return _unwrapped(given[0])
    if not isinstance(given, dict):
        return None
    if isinstance(given.get("expectations"), list):
        return given
    within = (_unwrapped(given.get(name)) for name in ("data", "attributes", "suite", "expectation_suite"))
    return next((found for found in within if found is not None), None)


def _fingerprint(place: _Place) -> str | None:
    """What the table of a warehouse holds; None where the data is another."""
    if place.table is None or not isinstance(place.data, Warehouse):
        return None
    return type(place.data).fingerprint(place.data, place.table)


def _observed(outcome: gx.Outcome) -> int | None:
    """The number that an expectation of a number of rows found."""
    found = outcome.result.get("observed_value")
    return None if found is None else int(found)
