"""Contract: what data has to be, declared once and checked at Arrow speed, on its own or while it streams."""

from __future__ import annotations

import contextvars
import difflib
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from blocks.arrow.casts import cast_array
from blocks.arrow.rejects import bad_row_error
from blocks.arrow.scan import Scan, as_scan
from blocks.arrow.types import filter_array, filter_batch
from blocks.base.arguments import checked
from blocks.base.artifacts import keep_markdown
from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy
from blocks.base.parameter import Parameter
from blocks.base.progress import progress
from blocks.quality.report import CheckResult, QualityReport, Severity
from blocks.quality.rules import Bounds, Rule, column_rules, fitted, possible, span, without_misfit_nulls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    import numpy as np
    import pyarrow as pa
    from prefect.logging.loggers import LoggingAdapter

    from blocks.arrow.rejects import Rejects
    from blocks.quality.rules import Mask
    from blocks.quality.unique import SeenKeys
else:
    np = lazy("numpy")
    pa = lazy("pyarrow")

OtherColumns = Literal["keep", "ignore", "fail"]


@dataclass(frozen=True, kw_only=True)
class Contract(Parameter):
    """What data has to be: its schema, its key, and the ranges, values and patterns of its columns.

    Null passes every check but `not_null`. NaN is a value: it is in no range, equals itself in a key, and is allowed
    where `allowed` names it. Bounds become values of the column's type when the contract is made; one that is not
    such a value is an error then.

    Example:
        ```python
        import pyarrow as pa
        from blocks import Contract

        orders = Contract(
            name="orders",
            schema=pa.schema([
                pa.field("order_id", pa.int64(), nullable=False),
                ("amount", pa.decimal128(12, 2)),
                ("status", pa.string()),
            ]),
            key=["order_id"],
            ranges={"amount": (0, None)},
            allowed={"status": ["new", "paid"]},
            severity={"range(amount)": "quarantine", "allowed": "warn"},
        )
        ```

    Args:
        name: What the data is called in reports.
        schema: The columns in their order, with their types; those that are not nullable may hold no null. Data with
            another order, or with types that can become these without loss, fits.
        key: The columns that identify a row: no null in them, and no two rows alike. The first row of a key is good,
            each later one is a repeat. A row that another check quarantines takes no part in this.
        ranges: The least and the greatest value of a column, both included; None where there is no bound.
        allowed: The values that a column may have.
        patterns: What the whole text of a column has to match, in RE2's syntax: https://github.com/google/re2/wiki/Syntax
        rows: The least and the greatest number of rows, both included; rows that are quarantined count.
        other_columns: Columns that the schema lacks are an error, or are left out, or are kept after the others.
        severity: What follows where a check does not hold: one for all, or one for each check by its name with or
            without its columns (`"range"`, `"range(amount)"`), and `"default"` for the others. A check of `type` cannot
            be a warning, as such a value cannot go on; `rows` and `schema` have no rows that could be set aside. Where
            the default does not suit them, they fail.

    Raises:
        InvalidInputError: The parts do not fit each other.
        SchemaError: The schema has no column, or one twice.
    """

    name: str
    schema: pa.Schema
    key: Sequence[str] = ()
    ranges: Mapping[str, Bounds] = field(default_factory=dict)
    allowed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[int | None, int | None] = (None, None)
    other_columns: OtherColumns = "fail"
    severity: Severity | Mapping[str, str] = "fail"
    _rules: dict[str, tuple[Rule, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from blocks.arrow.columns import check_names, listed

        if not self.name:
            raise InvalidInputError("A contract needs a name.")
        check_names(self.schema)
        if self.other_columns not in get_args(OtherColumns):
            raise InvalidInputError(f"{self.name}: other_columns is one of {listed(get_args(OtherColumns))}.")
        for what, columns in self._by_column().items():
            if isinstance(columns, str):
                raise InvalidInputError(f"{self.name}: {what} takes a list of columns, not a text.")
            for column in columns:
                if column not in self.schema.names:
                    near = difflib.get_close_matches(column, self.schema.names, n=1)
                    hint = f" Did you mean {near[0]!r}?" if near else ""
                    raise InvalidInputError(f"{self.name}: {what} names {column!r}, which the schema lacks.{hint}")
        rules = {column.name: tuple(self._column_rules(column)) for column in self.schema}
        object.__setattr__(self, "_rules", rules)
        self._check_key()
        self._check_rows()
        self._check_severity()

    @checked
    def validate(self, data: Any, *, raise_on_failure: bool = True, run_name: str = "") -> QualityReport:
        """Check the data in one pass and bounded memory, and return what was checked and how it went.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            raise_on_failure: Whether a check of severity 'fail' that does not hold is an error.
            run_name: The name of this run in the report.

        Raises:
            ChecksFailedError: A check of severity 'fail' does not hold; the error has the report.
        """
        scan = as_scan(data).settled()
        with _Pass(self, scan, run_name) as run, progress(f"{self.name}: checks") as tick:
            if not run.misfits:
                for batch in scan.batches():
                    tick(batch.num_rows)
                    run.look(batch)
            report = run.report()
        _tell(report, _logger())
        return report.raise_for_failures() if raise_on_failure else report

    @checked
    def enforce(self, data: Any, *, on_report: Callable[[QualityReport], None] | None = None) -> Scan:
        """Return the data as the contract wants it, checked while it streams into `load` or `write_table`.

        Rows that break a check of severity 'quarantine' go to the quarantine of the load, with the first check that
        each breaks as the reason. Where a check of severity 'fail' does not hold, the stream ends with an error
        instead of its end, so that a load commits nothing. Warnings are logged once. What is checked is as in
        `validate`, afresh each time the scan is opened.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            on_report: Is called with the report when a stream has been read to its end, before an error is raised.

        Raises:
            ChecksFailedError: From the scan: a check of severity 'fail' does not hold; the error has the report.
        """

        def end(run: _Pass) -> None:
            report = run.report()
            _tell(report, _logger())
            if on_report:
                on_report(report)
            report.raise_for_failures()

        return as_scan(data).derive(lambda scan: self._enforced(scan, end))

    def _enforced(self, scan: Scan, end: Callable[[_Pass], None]) -> Scan:
        """Return the scan, checked each time it is opened; `end` is called with each pass that came to its end."""

        def find_schema() -> pa.Schema:
            with _Pass(self, scan) as run:
                if run.misfits:
                    run.report().raise_for_failures()
                return run.schema

        def checked_batches(rejects: Rejects | None, context: contextvars.Context) -> Iterator[pa.RecordBatch]:
            with _Pass(self, scan) as run:
                if run.misfits:
                    context.run(end, run)
                for batch in scan.batches(rejects):
                    found = run.look(batch)
                    for rule, mask in found.refused:
                        _set_aside(batch, rule, mask, rejects, scan.source)
                    if (kept := found.kept()).num_rows:
                        yield kept
                context.run(end, run)

        def open_batches(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
            # They are read in a thread that does not know of the run that opens them, which the report is of.
            return checked_batches(rejects, contextvars.copy_context())

        return scan.over(find_schema, open_batches)

    def severity_of(self, check: str, *columns: str) -> Severity:
        """Return what follows where the check does not hold."""
        chosen = {"default": self.severity} if isinstance(self.severity, str) else self.severity
        full_name = CheckResult(check=check, columns=columns, passed=True).name
        named = chosen.get(full_name, chosen.get(check))
        severity: Any = named or chosen.get("default", "fail")
        return severity if named or severity in possible(check) else "fail"

    def rules_of(self, column: str) -> tuple[Rule, ...]:
        """Return the checks of the values of a column, that of its type first."""
        return self._rules[column]

    def _by_column(self) -> dict[str, Any]:
        return {"key": self.key, "ranges": self.ranges, "allowed": self.allowed, "patterns": self.patterns}

    def _column_rules(self, column: pa.Field) -> Iterator[Rule]:
        return column_rules(
            self.name,
            column,
            required=column.name in self.key or not column.nullable,
            ranges=self.ranges,
            allowed=self.allowed,
            patterns=self.patterns,
            severity_of=self.severity_of,
        )

    def _check_key(self) -> None:
        from blocks.quality.unique import can_be_key

        for column in self.key:
            if not can_be_key(kind := self.schema.field(column).type):
                raise InvalidInputError(f"{self.name}: {column!r} is {kind}, which cannot be part of a key.")

    def _check_rows(self) -> None:
        low, high = self.rows
        if any(bound is not None and bound < 0 for bound in self.rows) or (low or 0) > (
            math.inf if high is None else high
        ):
            raise InvalidInputError(f"{self.name}: rows is the least and the greatest number of rows.")

    def _check_severity(self) -> None:
        given = {"default": self.severity} if isinstance(self.severity, str) else self.severity
        results = [*(rule.result(None, 0) for rules in self._rules.values() for rule in rules)]
        names = {name: result.check for result in results for name in (result.name, result.check)}
        names |= {"unique": "unique", f"unique({', '.join(self.key)})": "unique"} if self.key else {}
        names |= {"rows": "rows", "schema": "schema", "default": "default"}
        for name, severity in given.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise InvalidInputError(f"{self.name}: severity names {name!r}, and there is no such check.{hint}")
            if severity not in possible(names[name]):
                raise InvalidInputError(
                    f"{self.name}: the severity of {name!r} is one of {', '.join(possible(names[name]))}."
                )


@dataclass(frozen=True)
class _Looked:
    """What came of a batch: its rows in the contract's form, and for each check the rows that it sets aside."""

    whole: pa.RecordBatch
    stopped: Mask | None
    refused: tuple[tuple[Rule, Mask], ...]

    def kept(self) -> pa.RecordBatch:
        """Return the rows that go on."""
        return self.whole if self.stopped is None else filter_batch(self.whole, pa.array(~self.stopped))


class _Pass:
    """One look at all of the data, from its first batch to its last."""

    def __init__(self, contract: Contract, scan: Scan, run_name: str = "") -> None:
        self._contract = contract
        self._source = scan.source
        self._run_name = run_name
        self._started = datetime.now(UTC)
        self._rows = self._quarantined = 0
        self._failed: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._seen: SeenKeys | None = None
        key = tuple(contract.key)
        self._unique = Rule(
            "unique", key, contract.severity_of("unique", *key), "", f"{', '.join(key)} comes in an earlier row"
        )
        found = scan.schema
        self.misfits = tuple(_misfits(contract, found))
        known = set(contract.schema.names)
        others = [other for other in found if other.name not in known]
        self._others = others if contract.other_columns == "keep" else []
        self.schema = pa.schema([*map(self._emitted, contract.schema), *self._others])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._seen:
            self._seen.close()

    def look(self, batch: pa.RecordBatch) -> _Looked:
        """Return what goes on of the batch and what does not."""
        self._rows += batch.num_rows
        columns: list[pa.Array] = []
        broken: list[tuple[Rule, Mask]] = []
        for column in self._contract.schema:
            values = batch.column(column.name)
            of_type, *rules = self._contract.rules_of(column.name)
            if values.type != column.type:
                values, misfit = fitted(values, column.type)
                broken += [(of_type, misfit)] if misfit is not None else []
            columns.append(values)
            broken += [(rule, mask) for rule in rules if (mask := rule.broken_by(values)) is not None]
        broken = without_misfit_nulls(broken)
        if self._contract.key:
            aside = [mask for rule, mask in broken if rule.severity == "quarantine"]
            repeats = self._repeats(dict(zip(self._contract.schema.names, columns, strict=True)), aside)
            broken += [(self._unique, repeats)] if repeats.any() else []
        for rule, mask in broken:
            self._failed[rule.check, rule.columns] += int(mask.sum())
        columns += [batch.column(other.name) for other in self._others]
        whole = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        stopping = [mask for rule, mask in broken if rule.severity != "warn"]
        stopped = np.logical_or.reduce(stopping) if stopping else None
        return _Looked(whole, stopped, self._refused(broken, batch.num_rows))

    def report(self) -> QualityReport:
        """Return how all of the checks went."""
        schema = CheckResult(check="schema", passed=not self.misfits, detail="; ".join(self.misfits))
        checks = [schema]
        if not self.misfits:
            rules = [rule for column in self._contract.schema.names for rule in self._contract.rules_of(column)]
            rules += [self._unique] if self._contract.key else []
            checks += [rule.result(self._rows, self._failed[rule.check, rule.columns]) for rule in rules]
            checks += self._row_count()
        return QualityReport(
            source=self._source,
            suite=self._contract.name,
            run_name=self._run_name,
            rows=None if self.misfits else self._rows,
            checks=tuple(checks),
            rows_quarantined=self._quarantined,
            started_at=self._started,
            finished_at=datetime.now(UTC),
        )

    def _row_count(self) -> list[CheckResult]:
        low, high = self._contract.rows
        if low is high is None:
            return []
        held = (low or 0) <= self._rows <= (math.inf if high is None else high)
        detail = f"{span(*(None if bound is None else str(bound) for bound in (low, high)))}, found {self._rows}"
        return [CheckResult(check="rows", severity=self._contract.severity_of("rows"), passed=held, detail=detail)]

    def _refused(self, broken: list[tuple[Rule, Mask]], rows: int) -> tuple[tuple[Rule, Mask], ...]:
        """Return the rows to set aside, each under the first check that it breaks."""
        taken, refused = np.zeros(rows, bool), []
        for rule, mask in broken:
            if rule.severity == "quarantine" and (new := mask & ~taken).any():
                taken |= new
                refused.append((rule, new))
        self._quarantined += int(taken.sum())
        return tuple(refused)

    def _repeats(self, columns: dict[str, pa.Array], aside: list[Mask]) -> Mask:
        """Return the rows whose key came before."""
        from blocks.quality.unique import SeenKeys

        keys = [columns[name] for name in self._contract.key]
        takes_part = ~np.logical_or.reduce(aside) if aside else None
        for key in keys:
            if key.null_count:
                valid = key.is_valid().to_numpy(zero_copy_only=False)
                takes_part = valid if takes_part is None else takes_part & valid
        if takes_part is not None:
            keys = [filter_array(key, pa.array(takes_part)) for key in keys]
        if self._seen is None:
            self._seen = SeenKeys([key.type for key in keys])
        repeats = self._seen.repeats(keys)
        if takes_part is None:
            return repeats
        spread = np.zeros(len(takes_part), bool)
        spread[takes_part] = repeats
        return spread

    def _emitted(self, column: pa.Field) -> pa.Field:
        """Return the field as what goes on has it: nulls that are a warning only do go on."""
        warned = self._contract.severity_of("not_null", column.name) == "warn"
        not_null = column.name in self._contract.key or not column.nullable
        return column.with_nullable(not not_null or warned)


def _misfits(contract: Contract, found: pa.Schema) -> Iterator[str]:
    """Return where the schema of data does not fit the contract's, in words."""
    from blocks.arrow.columns import convertible, listed

    present, known = Counter(found.names), set(contract.schema.names)
    if missing := [name for name in contract.schema.names if name not in present]:
        yield f"there is no column {listed(missing)}"
    others = [name for name in found.names if name not in known]
    if others and contract.other_columns == "fail":
        yield f"there are other columns: {listed(others)}"
    if twice := sorted(name for name, count in present.items() if count > 1):
        yield f"there is more than one column {listed(twice)}"
        return
    for column in contract.schema:
        if column.name not in present or (kind := found.field(column.name).type) == column.type:
            continue
        try:
            fits = convertible(kind, column.type)
            cast_array(pa.nulls(0, kind), column.type)
        except pa.ArrowException:
            fits = False
        if not fits:
            yield f"{column.name!r} is {kind} and cannot become {column.type} without loss"


def _set_aside(batch: pa.RecordBatch, rule: Rule, mask: Mask, rejects: Rejects | None, source: str) -> None:
    if rejects is None:
        raise bad_row_error(source, rule.reason)
    column = rule.columns[0] if len(rule.columns) == 1 else None
    rejects.add_rows(filter_batch(batch, pa.array(mask)), rule.reason, column=column)


def _tell(report: QualityReport, logger: LoggingAdapter | Any) -> None:
    log = logger.warning if report.failures or report.warnings else logger.info
    log("%s", report)
    keep_markdown(report.suite, report.markdown())


def _logger() -> LoggingAdapter | Any:
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("Contract")
