"""Contract: what data has to be, declared once and checked at Arrow speed, on its own or while it streams."""

from __future__ import annotations

import contextvars
import difflib
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from blocks.arrow_types import cast_array, filter_array, filter_batch, without_view
from blocks.artifacts import keep_markdown
from blocks.errors import InvalidInputError
from blocks.optional import lazy
from blocks.progress import progress
from blocks.quality import CheckResult, QualityReport, Severity
from blocks.scan import Scan, as_scan, bad_row_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from numpy.typing import NDArray
    from prefect.logging.loggers import LoggingAdapter
    from pydantic_core import CoreSchema

    from blocks.scan import Rejects
    from blocks.unique import SeenKeys

    Mask = NDArray[np.bool_]
else:
    np = lazy("numpy")
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

OtherColumns = Literal["keep", "ignore", "fail"]
Bounds = tuple[Any, Any]

NAMED_VALUES = 10


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What data has to be: its schema, its key, and the ranges, values and patterns of its columns.

    Null passes every check but `not_null`. NaN is a value: it is in no range, equals itself in a key, and is allowed
    where `allowed` names it. Bounds become values of the column's type when the contract is made; one that is no such
    value is an error then.

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
        ranges: The least and the greatest value of a column, both included; None where there is no such bound.
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
    _rules: dict[str, tuple[_Rule, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from blocks.columns import check_names, listed

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

    def validate(self, data: Any, *, raise_on_failure: bool = True, run_name: str = "") -> QualityReport:
        """What was checked of the data, and how it went. One pass, in bounded memory.

        Args:
            data: A Scan, a pandas or polars frame, an Arrow table, or anything with `__arrow_c_stream__`.
            raise_on_failure: Whether a check of severity 'fail' that does not hold is an error.
            run_name: The name of this run in the report.

        Raises:
            ChecksFailedError: A check of severity 'fail' does not hold; the error has the report.
        """
        scan = as_scan(data)
        with _Pass(self, scan, run_name) as run, progress(f"{self.name}: checks") as tick:
            if not run.misfits:
                for batch in scan.batches():
                    tick(batch.num_rows)
                    run.look(batch)
            report = run.report()
        _tell(report, _logger())
        return report.raise_for_failures() if raise_on_failure else report

    def enforce(self, data: Any, *, on_report: Callable[[QualityReport], None] | None = None) -> Scan:
        """The data as the contract wants it, checked while it streams into `load` or `write_table`.

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
        scan, logger, context = as_scan(data), _logger(), contextvars.copy_context()

        def end(run: _Pass) -> None:
            report = run.report()
            context.copy().run(_tell, report, logger)  # the stream is read in a thread that knows of no run
            if on_report:
                on_report(report)
            report.raise_for_failures()

        def find_schema() -> pa.Schema:
            with _Pass(self, scan) as run:
                if run.misfits:
                    run.report().raise_for_failures()
                return run.schema

        def checked(rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
            with _Pass(self, scan) as run:
                if run.misfits:
                    end(run)
                for batch in scan.batches(rejects):
                    found = run.look(batch)
                    for rule, mask in found.refused:
                        _set_aside(batch, rule, mask, rejects, scan.source)
                    if (kept := found.kept()).num_rows:
                        yield kept
                end(run)

        return Scan(find_schema, checked, source=scan.source, reopenable=scan.reopenable, fingerprint=scan.fingerprint)

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """What pydantic asks for where a contract is a parameter of a flow: it is taken as it is."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)

    def severity_of(self, check: str, *columns: str) -> Severity:
        """What follows where the check does not hold."""
        chosen = {"default": self.severity} if isinstance(self.severity, str) else self.severity
        full_name = CheckResult(check=check, columns=columns, passed=True).name
        named = chosen.get(full_name, chosen.get(check))
        severity: Any = named or chosen.get("default", "fail")
        return severity if named or severity in _possible(check) else "fail"

    def _by_column(self) -> dict[str, Any]:
        return {"key": self.key, "ranges": self.ranges, "allowed": self.allowed, "patterns": self.patterns}

    def _column_rules(self, column: pa.Field) -> Iterator[_Rule]:
        name, kind = column.name, column.type

        def rule(check: str, asked: str, reason: str, test: Callable[[pa.Array], pa.Array] | None = None) -> _Rule:
            made = _Rule(check, (name,), self.severity_of(check, name), asked, f"{name} {reason}", test)
            if test:
                made.try_out(kind, self.name)
            return made

        yield rule("type", str(kind), f"does not fit {kind}")
        if name in self.key or not column.nullable:
            yield rule("not_null", "", "is null", _is_valid)
        if name in self.ranges:
            low, high = self._bounds(column, self.ranges[name])
            asked = _span(*(_shown(bound) for bound in self.ranges[name]))
            yield rule("range", asked, "is out of range", partial(_in_range, low=low, high=high))
        if name in self.allowed:
            values = list(self.allowed[name])
            if not values or isinstance(self.allowed[name], str):
                raise InvalidInputError(f"{self.name}: allowed of {name!r} has to list at least one value.")
            chosen = pa.concat_arrays([_one(self._bound(column, "allowed", value)) for value in values])
            asked = "one of " + ", ".join(map(_shown, values[:NAMED_VALUES]))
            asked += f" and {len(values) - NAMED_VALUES} more" if len(values) > NAMED_VALUES else ""
            yield rule("allowed", asked, "is none of the allowed values", partial(_is_allowed, chosen=_zeros(chosen)))
        if name in self.patterns:
            pattern = self.patterns[name]
            yield rule("pattern", pattern, "does not match its pattern", partial(_matches, pattern=pattern))

    def _bounds(self, column: pa.Field, bounds: Bounds) -> tuple[pa.Scalar | None, pa.Scalar | None]:
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2 or bounds[0] is bounds[1] is None:  # noqa: PLR2004
            raise InvalidInputError(
                f"{self.name}: the range of {column.name!r} is a least and a greatest value, one of which may be None."
            )
        if pa.types.is_boolean(column.type):
            raise InvalidInputError(f"{self.name}: {column.name!r} is bool, which has no range. Use allowed.")
        low, high = (None if bound is None else self._bound(column, "ranges", bound) for bound in bounds)
        if low is not None and high is not None and pc.greater(low, high).as_py():
            raise InvalidInputError(f"{self.name}: the range of {column.name!r} ends before it begins.")
        return low, high

    def _bound(self, column: pa.Field, what: str, value: Any) -> pa.Scalar:
        try:
            scalar = _exact(value, without_view(_value_type(column.type)))
        except (pa.ArrowException, TypeError, ValueError, ArithmeticError, OverflowError):
            scalar = None
        if scalar is None or (what == "ranges" and scalar.as_py() != scalar.as_py()):
            raise InvalidInputError(
                f"{self.name}: {what} of {column.name!r} has {_shown(value)}, a {type(value).__name__}, which is no "
                f"exact value of {column.type}."
            )
        return scalar

    def _check_key(self) -> None:
        from blocks.unique import can_be_key

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
            if severity not in _possible(names[name]):
                raise InvalidInputError(
                    f"{self.name}: the severity of {name!r} is one of {', '.join(_possible(names[name]))}."
                )


@dataclass(frozen=True)
class _Rule:
    """One check of one column, or of the key."""

    check: str
    columns: tuple[str, ...]
    severity: Severity
    asked: str
    reason: str
    test: Callable[[pa.Array], pa.Array] | None = None

    def broken_by(self, values: pa.Array) -> Mask | None:
        """The rows for which it does not hold; None where it holds for all."""
        if self.test is None:
            return None
        held = self.test(_decoded(values))
        if pc.all(held, min_count=0).as_py():
            return None
        broken: Mask = pc.fill_null(pc.invert(held), fill_value=False).to_numpy(zero_copy_only=False)
        return broken

    def try_out(self, kind: pa.DataType, contract: str) -> None:
        """Nothing, where Arrow can do this with values of the type."""
        try:
            self.broken_by(pa.array([None], kind))
        except (pa.ArrowException, TypeError, ValueError) as error:
            words = str(error).splitlines()[0]
            raise InvalidInputError(
                f"{contract}: {self.check} of {self.columns[0]!r}, which is {kind}: {words}"
            ) from None

    def result(self, rows: int | None, failed: int) -> CheckResult:
        """How it went."""
        return CheckResult(
            check=self.check,
            columns=self.columns,
            severity=self.severity,
            passed=not failed,
            rows=rows,
            failed_rows=failed,
            detail=self.asked,
        )


@dataclass(frozen=True)
class _Looked:
    """What came of a batch: its rows in the contract's form, and for each check the rows that it sets aside."""

    whole: pa.RecordBatch
    stopped: Mask | None
    refused: tuple[tuple[_Rule, Mask], ...]

    def kept(self) -> pa.RecordBatch:
        """The rows that go on."""
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
        self._unique = _Rule(
            "unique", key, contract.severity_of("unique", *key), "", f"{', '.join(key)} comes in an earlier row"
        )
        found = scan.schema
        self.misfits = tuple(_misfits(contract, found))
        others = [other for other in found if other.name not in contract.schema.names]
        self._others = others if contract.other_columns == "keep" else []
        self.schema = pa.schema([*map(self._emitted, contract.schema), *self._others])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._seen:
            self._seen.close()

    def look(self, batch: pa.RecordBatch) -> _Looked:
        """What goes on of the batch and what does not."""
        self._rows += batch.num_rows
        columns: list[pa.Array] = []
        broken: list[tuple[_Rule, Mask]] = []
        for column in self._contract.schema:
            values = batch.column(column.name)
            of_type, *rules = self._contract._rules[column.name]  # noqa: SLF001 (one of us)
            if values.type != column.type:
                values, misfit = _fitted(values, column.type)
                broken += [(of_type, misfit)] if misfit is not None else []
            columns.append(values)
            broken += [(rule, mask) for rule in rules if (mask := rule.broken_by(values)) is not None]
        broken = _without_misfit_nulls(broken)
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
        """How all of the checks went."""
        schema = CheckResult(check="schema", passed=not self.misfits, detail="; ".join(self.misfits))
        checks = [schema]
        if not self.misfits:
            rules = [rule for column in self._contract._rules.values() for rule in column]  # noqa: SLF001
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
        detail = f"{_span(*(None if bound is None else str(bound) for bound in (low, high)))}, found {self._rows}"
        return [CheckResult(check="rows", severity=self._contract.severity_of("rows"), passed=held, detail=detail)]

    def _refused(self, broken: list[tuple[_Rule, Mask]], rows: int) -> tuple[tuple[_Rule, Mask], ...]:
        """The rows to set aside, each under the first check that it breaks."""
        taken, refused = np.zeros(rows, bool), []
        for rule, mask in broken:
            if rule.severity == "quarantine" and (new := mask & ~taken).any():
                taken |= new
                refused.append((rule, new))
        self._quarantined += int(taken.sum())
        return tuple(refused)

    def _repeats(self, columns: dict[str, pa.Array], aside: list[Mask]) -> Mask:
        """The rows whose key came before."""
        from blocks.unique import SeenKeys

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
        """The field as what goes on has it: nulls that are a warning only do go on."""
        warned = self._contract.severity_of("not_null", column.name) == "warn"
        not_null = column.name in self._contract.key or not column.nullable
        return column.with_nullable(not not_null or warned)


def _misfits(contract: Contract, found: pa.Schema) -> Iterator[str]:
    """Where the schema of data does not fit the contract's, in words."""
    from blocks.columns import convertible, listed

    if missing := [name for name in contract.schema.names if name not in found.names]:
        yield f"there is no column {listed(missing)}"
    others = [name for name in found.names if name not in contract.schema.names]
    if others and contract.other_columns == "fail":
        yield f"there are other columns: {listed(others)}"
    if twice := sorted({name for name in found.names if found.names.count(name) > 1}):
        yield f"there is more than one column {listed(twice)}"
        return
    for column in contract.schema:
        if column.name not in found.names or (kind := found.field(column.name).type) == column.type:
            continue
        try:
            fits = convertible(kind, column.type)
            cast_array(pa.array([], kind), column.type)
        except pa.ArrowException:
            fits = False
        if not fits:
            yield f"{column.name!r} is {kind} and cannot become {column.type} without loss"


def _fitted(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Mask | None]:
    """The values as the type, null where one does not fit it; and which do not."""
    try:
        return cast_array(values, kind), None
    except pa.ArrowException:
        if len(values) == 1:
            return pa.array([None], kind), np.array([True])
    middle = len(values) // 2
    halves = [_fitted(values[:middle], kind), _fitted(values[middle:], kind)]
    masks = [np.zeros(len(half), bool) if mask is None else mask for half, mask in halves]
    return pa.concat_arrays([half for half, _ in halves]), np.concatenate(masks)


def _without_misfit_nulls(broken: list[tuple[_Rule, Mask]]) -> list[tuple[_Rule, Mask]]:
    """The same, where a value that does not fit its type is no null besides."""
    misfits = {rule.columns: mask for rule, mask in broken if rule.check == "type"}
    if not misfits:
        return broken
    real = [
        (rule, mask & ~misfits[rule.columns] if rule.check == "not_null" and rule.columns in misfits else mask)
        for rule, mask in broken
    ]
    return [(rule, mask) for rule, mask in real if mask.any()]


def _set_aside(batch: pa.RecordBatch, rule: _Rule, mask: Mask, rejects: Rejects | None, source: str) -> None:
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


def _possible(check: str) -> tuple[str, ...]:
    return {"schema": ("fail",), "rows": ("warn", "fail"), "type": ("fail", "quarantine")}.get(
        check, ("warn", "fail", "quarantine")
    )


def _is_valid(values: pa.Array) -> pa.Array:
    return values.is_valid()


def _in_range(values: pa.Array, low: pa.Scalar | None, high: pa.Scalar | None) -> pa.Array:
    parts = [pc.greater_equal(values, low)] if low is not None else []
    parts += [pc.less_equal(values, high)] if high is not None else []
    return parts[0] if len(parts) == 1 else pc.and_(*parts)


def _is_allowed(values: pa.Array, chosen: pa.Array) -> pa.Array:
    return pc.if_else(values.is_valid(), pc.is_in(_zeros(values), value_set=chosen), pa.scalar(None, pa.bool_()))


def _matches(values: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(values, rf"\A(?:{pattern})\z")


def _zeros(values: pa.Array) -> pa.Array:
    """Floats without a -0.0, which Arrow tells from 0.0 when it looks a value up."""
    return pc.add(values, pa.scalar(0, values.type)) if pa.types.is_floating(values.type) else values


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _decoded(values: pa.Array) -> pa.Array:
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    kind = without_view(values.type)
    return values if kind == values.type else values.cast(kind)


def _one(scalar: pa.Scalar) -> pa.Array:
    return pa.repeat(scalar, 1)


def _exact(value: Any, kind: pa.DataType) -> pa.Scalar | None:  # noqa: PLR0911 (one kind of type a line)
    """The value as exactly that type, None where it is none; a float's type rounds, as it does with all values."""
    types = pa.types
    if isinstance(value, pa.Scalar):
        return value.cast(kind) if value.is_valid else None
    if value is None or (isinstance(value, bool) != types.is_boolean(kind)):
        return None
    if types.is_floating(kind):
        return pa.scalar(float(value), pa.float64()).cast(kind) if isinstance(value, (int, float, Decimal)) else None
    if types.is_decimal(kind):
        number = Decimal(str(value)) if isinstance(value, (int, float, Decimal)) else None
        return None if number is None or not number.is_finite() else pa.scalar(number, kind)
    if types.is_date(kind):
        return pa.scalar(value, kind) if isinstance(value, date) and not isinstance(value, datetime) else None
    if types.is_timestamp(kind):
        zoned = isinstance(value, datetime) and value.tzinfo is not None
        if not isinstance(value, datetime) or zoned != (kind.tz is not None):
            return None
    scalar = pa.scalar(value, kind)
    return scalar if scalar.as_py() == value else None


def _span(low: str | None, high: str | None) -> str:
    """The bounds in words.

    >>> _span("0", None), _span("1", "9")
    ('at least 0', 'between 1 and 9')
    """
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"between {low} and {high}"


def _shown(value: Any) -> Any:
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    return None if value is None else str(value) if isinstance(value, (date, Decimal)) else repr(value)
