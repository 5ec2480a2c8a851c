"""Great Expectations 1.x: a suite as a block, checked where the data is.

Expectations: https://greatexpectations.io/expectations (what each takes, and where it can be evaluated)
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import json
import mimetypes
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, field_validator, model_validator

from blocks.arrow.rejects import REASON
from blocks.arrow.scan import as_scan
from blocks.base.artifacts import keep_markdown
from blocks.base.block import ConnectorBlock, resolve
from blocks.base.errors import ConnectorError, InvalidInputError, QualityError
from blocks.base.operation import operation
from blocks.base.optional import lazy
from blocks.quality.report import Audit, CheckResult, QualityReport, Severity
from blocks.stores.object_store import ObjectStore
from blocks.warehouses.warehouse import Warehouse
from connectors.great_expectations import engine as gx
from connectors.great_expectations.sources import FrameSource, HasEngine, Source, scan_source, table_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

SEVERITIES: dict[str, Severity] = {"critical": "fail", "warning": "warn", "info": "warn"}
"""Great Expectations' own severities, in the words of reports."""
KEPT_SEVERITY = "etl_severity"
"""Where a suite of Great Expectations keeps a severity that it has no word for."""

ROW_LEVEL = re.compile(
    r"expect_(column_values_|column_value_lengths_|column_value_z_scores_|column_pair_values_|compound_columns_"
    r"|select_column_values_|multicolumn_(sum|values)_)"
)
COLUMN_LEVEL = re.compile(r"expect_column_values_to_be_(of_type|in_type_list)$")
"""The names of expectations that hold or do not hold for each row, and those that only look so. A custom one whose
name says nothing is found out when it runs."""

NAMES_COLUMNS = ("column", "column_A", "column_B", "column_list")
ROW_COUNT = "expect_table_row_count_to_be_between"

AGGREGATES = {
    "expect_table_row_count_to_be_between": "rows",
    "expect_table_row_count_to_equal": "rows",
    "expect_table_column_count_to_be_between": "columns",
    "expect_table_column_count_to_equal": "columns",
    "expect_table_columns_to_match_ordered_list": "columns",
    "expect_table_columns_to_match_set": "columns",
    "expect_column_mean_to_be_between": "mean",
    "expect_column_stdev_to_be_between": "standard deviation",
    "expect_column_sum_to_be_between": "sum",
    "expect_column_unique_value_count_to_be_between": "unique values",
    "expect_column_proportion_of_unique_values_to_be_between": "share of unique values",
    "expect_column_proportion_of_non_null_values_to_be_between": "share of values that are not null",
    "expect_column_kl_divergence_to_be_less_than": "divergence",
    "expect_column_values_to_be_of_type": "type",
    "expect_column_values_to_be_in_type_list": "type",
    "unexpected_rows_expectation": "rows found",
}
"""What of an observation may be told. A smallest, largest, middle or most common value is a value of a row."""
COUNTS = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent")
LONGEST_DETAIL = 200
UNUSED = ".gif"
"""Of the static files of Data Docs, 3 of 4 MB are pictures of a tour that the pages do not show."""


class Expectation(BaseModel):
    """One expectation, in Great Expectations' own JSON."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: str = Field(min_length=1, description="Its type, such as expect_column_values_to_be_unique.")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="What it takes, such as its column and bounds.")
    severity: Severity = Field(
        default="fail",
        description="What follows where it does not hold: warn, fail, or quarantine of the rows. Great Expectations' "
        "critical is fail, its warning and info are warn.",
    )
    meta: dict[str, Any] = Field(default_factory=dict, description="Notes of its author.")

    @model_validator(mode="before")
    @classmethod
    def _from_elsewhere(cls, given: Any) -> Any:
        """The fields of an expectation as Great Expectations writes it, in each spelling that it has had."""
        if hasattr(given, "configuration"):  # one of its objects
            given = given.configuration.to_json_dict()
        if not isinstance(given, dict):
            return given
        values = {name: value for name, value in given.items() if name not in ("id", "rendered_content") and value}
        values.setdefault("type", values.pop("expectation_type", given.get("type", "")))
        values["meta"] = dict(values.get("meta") or {})
        values["kwargs"] = {name: value for name, value in (values.get("kwargs") or {}).items() if name != "batch_id"}
        for note in ("notes", "description", "expectation_context", "success_on_last_run"):
            if note in values:
                values["meta"].setdefault(note, values.pop(note))
        severity = values["meta"].pop(KEPT_SEVERITY, None) or values.get("severity") or "fail"
        return {**values, "severity": SEVERITIES.get(severity, severity)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it is about."""
        found = [self.kwargs[name] for name in NAMES_COLUMNS if self.kwargs.get(name)]
        return tuple(name for each in found for name in (each if isinstance(each, list | tuple) else [each]))

    @property
    def bounds(self) -> str:
        """What it asks for: `min_value=0, max_value=10`."""
        asked = {name: value for name, value in self.kwargs.items() if name not in NAMES_COLUMNS and value is not None}
        text = ", ".join(f"{name}={value}" for name, value in asked.items())
        return text if len(text) <= LONGEST_DETAIL else text[:LONGEST_DETAIL] + "..."

    def asked(self) -> gx.Asked:
        """It as Great Expectations takes it."""
        kept = {KEPT_SEVERITY: self.severity} if self.severity == "quarantine" else {}
        return gx.Asked(self.type, self.kwargs, self.meta | kept, "warning" if self.severity == "warn" else "critical")


class _Place(NamedTuple):
    """What the caller says of where the data is."""

    data: Any
    table: str | None
    query: str | None
    prefix: str | None


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
    _logo_url: ClassVar[Any] = HttpUrl(
        "https://raw.githubusercontent.com/great-expectations/great_expectations/develop/docs/docusaurus/static/img/gx-logo.svg"
    )
    _documentation_url: ClassVar[Any] = HttpUrl("https://docs.greatexpectations.io/docs/core/introduction/")

    suite_name: str = Field(min_length=1, description="The name of the suite, which reports and pages carry.")
    expectations: list[Expectation] = Field(
        default_factory=list, description="What is expected, in Great Expectations' own JSON, with a severity for each."
    )
    key: list[str] = Field(
        default_factory=list,
        description="The columns that identify a row; needed where an expectation has severity quarantine.",
    )
    raise_on_failure: bool = Field(
        default=True, description="Whether it is an error when an expectation of severity fail does not hold."
    )
    max_rejected: float = Field(
        default=0.1, ge=0, le=1, description="The share of rows that may be quarantined; more of them is an error."
    )
    memory_limit: str = Field(
        default="100MB",
        description="The most memory that DuckDB uses for data that is in no database; more is kept in a file.",
    )
    docs: ObjectStore | str | None = Field(
        default=None,
        description="The bucket, or the name of a saved one such as etl-s3-bucket/docs, that Data Docs go to; none "
        "where empty.",
    )
    docs_prefix: str = Field(default="data_docs", description="The folder of that bucket.")
    docs_samples: bool = Field(
        default=False, description="Whether Data Docs show unexpected values; otherwise they hold counts only."
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
                raise ValueError(f"{each.type} is not about single rows: give it severity warn or fail")
            if not self.key:
                raise ValueError(f"{each.type} has severity quarantine, which needs key: the columns that name a row")
        return self

    @classmethod
    def from_suite(cls, suite: Any, **fields: Any) -> Self:
        """A block with the expectations of a suite made elsewhere.

        Args:
            suite: An `ExpectationSuite`, its JSON as a dict (also that of Great Expectations 0.x), or the path of a
                file of it.
            fields: Other fields of the block.

        Raises:
            InvalidInputError: It is no suite.
        """
        if isinstance(suite, str | Path):
            try:
                suite = json.loads(Path(suite).expanduser().read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise InvalidInputError(
                    f"Could not read a suite from {suite}: {type(error).__name__}. Pass the path of its JSON file."
                ) from None
        if hasattr(suite, "to_json_dict"):
            suite = suite.to_json_dict()
        if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
            raise InvalidInputError(
                f"{type(suite).__name__} is no suite. Pass an ExpectationSuite, its JSON as a dict, or the path of a "
                "file of it."
            )
        name = suite.get("name") or suite.get("expectation_suite_name")
        return cls(**{"suite_name": name, "expectations": suite["expectations"], **fields})

    def to_suite(self) -> Any:
        """An `ExpectationSuite` of Great Expectations."""
        return gx.make_suite(self.suite_name, [each.asked() for each in self.expectations])

    @operation
    def check(self) -> str:
        """One sentence that says that Great Expectations knows each expectation and takes its arguments.

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
    ) -> QualityReport:
        """How the expectations went. What is said here goes before the block's fields.

        Args:
            data: A pandas frame, which Great Expectations checks in memory; any other frame, Arrow table or Scan,
                which is checked by SQL in a DuckDB file for a while; a warehouse, with `table` or `query`, which is
                checked in place where it has a SQLAlchemy engine, else as a Scan; or a bucket, with `prefix`. A
                warehouse and a bucket may be named, as in `"etl-postgres/prod"`.
            table: A table of the warehouse.
            query: A query, in place of a table.
            prefix: What `scan` of the bucket takes: a key, a folder, or a glob.
            run_name: The name of this run; the time by default.
            raise_on_failure: Whether it is an error when an expectation of severity fail does not hold.
            max_rejected: The share of rows that may be quarantined.

        Raises:
            ChecksFailedError: An expectation of severity 'fail' does not hold; the error has the report.
            QualityError: More rows than `max_rejected` allows would be quarantined.
            InvalidInputError: The arguments do not fit each other, or Great Expectations does not know an expectation.
        """
        raises = self.raise_on_failure if raise_on_failure is None else raise_on_failure
        audit, too_many = self._run(_Place(data, table, query, prefix), run_name, max_rejected)
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
    ) -> Audit:
        """The report of `validate`, and the keys of the rows to set aside.

        Args and errors are those of `validate`, but that too many rows are always an error here: their keys are not
        fetched.
        """
        raises = self.raise_on_failure if raise_on_failure is None else raise_on_failure
        audit, too_many = self._run(_Place(data, table, query, prefix), run_name, max_rejected)
        if raises:
            audit.report.raise_for_failures()
        if too_many:
            raise too_many
        return audit

    def _run(
        self, place: _Place, run_name: str | None, max_rejected: float | None
    ) -> tuple[Audit, QualityError | None]:
        """The audit, and the error where too many rows would be quarantined."""
        started_at = dt.datetime.now(dt.UTC)
        if known := gx.is_loaded():
            self._check_expectations()
        with self._source(place) as source:
            if not known:  # it is imported only now, so that what a scan takes while it is read does not add to that
                self._check_expectations()
            outcomes = self._outcomes(source)
            *checks, rows = self._results(source, outcomes)
            share = self.max_rejected if max_rejected is None else max_rejected
            rejected, quarantined, too_many = self._rejected(source, checks, rows.rows or 0, share)
        report = QualityReport(
            source=source.name,
            suite=self.suite_name,
            run_name=run_name or f"{started_at:%Y%m%dT%H%M%S.%fZ}",
            rows=rows.rows,
            checks=tuple(checks),
            rows_quarantined=quarantined,
            started_at=started_at,
            finished_at=dt.datetime.now(dt.UTC),
        )
        if bucket := self._bucket():
            report = report.model_copy(update={"docs": self._publish_docs(bucket, report, outcomes)})
        self.logger.info("%s", report)
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
            if isinstance(data, ObjectStore)
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
        elif isinstance(data, ObjectStore):
            data = data.scan(prefix or "")
        if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
            yield FrameSource(data, "the data")
            return
        with scan_source(as_scan(data), self._needed(), memory_limit=self.memory_limit) as source:
            yield source

    def _needed(self) -> list[str] | None:
        """The columns that the expectations are about, all (None) where that cannot be told."""
        names = [name for each in self.expectations for name in each.columns]
        of_all = any(not each.columns and each.type != ROW_COUNT for each in self.expectations)
        conditions = any("row_condition" in each.kwargs for each in self.expectations)
        return None if of_all or conditions else [*names, *self.key]

    def _bucket(self) -> ObjectStore | None:
        """The bucket of the docs, None where there is none."""
        return None if self.docs is None else resolve(self.docs, ObjectStore)

    def _publish_docs(self, bucket: ObjectStore, report: QualityReport, outcomes: Sequence[gx.Outcome]) -> str | None:
        """Where the page of this run is. Without it the verdict still stands: what goes wrong here is a warning."""
        shown = [
            (expected.asked(), self._shown_in_docs(outcome, check))
            for expected, outcome, check in zip(self.expectations, outcomes, report.checks, strict=False)
        ]
        with tempfile.TemporaryDirectory(prefix="etl-docs-") as name:
            folder = Path(name)
            page = gx.render_docs(
                folder, self.suite_name, shown, run_name=report.run_name, started_at=report.started_at
            )
            if page is None:
                self.logger.warning("Great Expectations could not render the Data Docs of %s.", self.suite_name)
                return None
            try:
                return upload_docs(folder, bucket, self.docs_prefix, page)
            except ConnectorError as error:
                self.logger.warning("The Data Docs of %s were not published: %s", self.suite_name, error)
                return None

    def _shown_in_docs(self, outcome: gx.Outcome, check: CheckResult) -> gx.Outcome:
        told = {*COUNTS, "observed_value"} if check.check in AGGREGATES else set(COUNTS)
        result = {name: value for name, value in outcome.result.items() if self.docs_samples or name in told}
        return gx.Outcome(outcome.success, result, check.detail if outcome.failed_with is not None else None)

    def _check_expectations(self) -> None:
        known = gx.known_types()
        for each in self.expectations:
            if each.type not in known:
                near = difflib.get_close_matches(each.type, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else " Import the module that defines it first."
                raise InvalidInputError(f"Great Expectations knows no {each.type}.{hint}")
            gx.make_expectation(each.type, each.kwargs, each.meta)
            if each.severity == "quarantine" and not gx.is_row_level(each.type):
                raise InvalidInputError(f"{each.type} is not about single rows: give it severity warn or fail.")

    def _outcomes(self, source: Source) -> list[gx.Outcome]:
        """How each expectation went; the last one counts the rows."""
        asked = [*(each.asked() for each in self.expectations), gx.Asked(ROW_COUNT, {"min_value": 0})]
        return source.evaluate(self.suite_name, asked, gx.WITH_SAMPLES if self.docs_samples else gx.WITHOUT_VALUES)

    def _results(self, source: Source, outcomes: Sequence[gx.Outcome]) -> list[CheckResult]:
        """The outcomes in the words of the report."""
        counted = outcomes[-1].result.get("observed_value")
        rows = CheckResult(check=ROW_COUNT, passed=True, rows=None if counted is None else int(counted))
        return [*(self._result(source, *pair) for pair in zip(self.expectations, outcomes, strict=False)), rows]

    def _result(self, source: Source, expected: Expectation, outcome: gx.Outcome) -> CheckResult:
        detail = [expected.bounds] if expected.bounds else []
        count, failed = outcome.result.get("element_count"), outcome.result.get("unexpected_count")
        if outcome.failed_with is not None:
            missing = [name for name in expected.columns if name not in source.columns]
            why = f"there is no column {', '.join(missing)}" if missing else gx.reason(outcome)
            detail.append(f"could not be evaluated: {why}")
        elif label := AGGREGATES.get(expected.type):
            detail.append(f"{label}: {_shown(outcome.result.get('observed_value'))}")
        return CheckResult(
            check=expected.type,
            columns=expected.columns,
            severity=expected.severity,
            passed=outcome.success,
            rows=count,
            failed_rows=failed if count is not None else None,
            detail="; ".join(detail),
        )

    def _rejected(
        self, source: Source, checks: Sequence[CheckResult], rows: int, share: float
    ) -> tuple[pa.Table, int, QualityError | None]:
        """The keys of the rows to set aside, how many rows that are, and the error where they are too many."""
        found = []
        broken = [
            (check, expected)
            for check, expected in zip(checks, self.expectations, strict=True)
            if check.severity == "quarantine" and not check.passed
        ]
        most = max((check.failed_rows or 0 for check, _ in broken), default=0)
        if most <= share * rows:
            for check, expected in broken:
                found.append((check.name, source.unexpected(expected.asked(), self.key, check.failed_rows or 0)))
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


def reject(found: Sequence[tuple[str, pa.Table]], key: Sequence[str], schema: pa.Schema) -> tuple[pa.Table, int]:
    """The keys with the reason why each is rejected, and how many rows they are; a row may have several reasons.

    >>> one, two = pa.table({"a": [1]}), pa.table({"a": [1, 1]})
    >>> table, rows = reject([("unique(a)", two), ("between(a)", one)], ["a"], one.schema)
    >>> table.to_pydict(), rows
    ({'a': [1, 1, 1], 'reason': ['unique(a)', 'unique(a)', 'between(a)']}, 2)
    """
    tables = [table.append_column(REASON, pa.array([reason] * len(table), pa.string())) for reason, table in found]
    if not tables:
        fields = [schema.field(name) for name in key if name in schema.names]
        return pa.Table.from_batches([], schema=pa.schema([*fields, pa.field(REASON, pa.string())])), 0
    rejected = pa.concat_tables(tables, promote_options="permissive")
    counted = rejected.group_by([*key, REASON], use_threads=False).aggregate([([], "count_all")])
    rows = counted.group_by(list(key), use_threads=False).aggregate([("count_all", "max")])
    return rejected, pc.sum(rows.column("count_all_max")).as_py() or 0


def upload_docs(folder: Path, bucket: ObjectStore, prefix: str, page: str) -> str:
    """Where the page is, once all that it and the index need is there; the index comes last."""
    prefix = f"{prefix.strip('/')}/".removeprefix("/")
    there = {item["Key"] for item in bucket.list_objects(f"{prefix}static")}
    files = {f"{prefix}{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}
    wanted = [key for key in files if not key.endswith(UNUSED) and key not in there]
    for key in sorted(wanted, key=lambda key: (key == f"{prefix}index.html", "/static/" not in f"/{key}", key)):
        media_type = mimetypes.guess_type(key)[0]
        bucket.write_path(key, files[key].read_bytes(), content_type=media_type)
    return bucket.uri(prefix + page)


def _shown(observed: Any) -> str:
    """A count, an aggregate, or names of columns."""
    if isinstance(observed, list | tuple | set):
        return ", ".join(map(str, observed))
    try:
        return f"{float(observed):.6g}"
    except (TypeError, ValueError):
        return str(observed)
