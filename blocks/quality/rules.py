"""Rules of a contract: what one check asks of one column, on Arrow arrays, and the values that it asks with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from blocks.arrow.casts import cast_array
from blocks.arrow.types import without_view
from blocks.base.errors import InvalidInputError
from blocks.base.optional import lazy
from blocks.quality.report import CheckResult, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
else:
    np = lazy("numpy")
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

Bounds = tuple[Any, Any]

NAMED_VALUES = 10


@dataclass(frozen=True)
class Rule:
    """One check of one column, or of the key."""

    check: str
    columns: tuple[str, ...]
    severity: Severity
    asked: str
    reason: str
    test: Callable[[pa.Array], pa.Array] | None = None

    def broken_by(self, values: pa.Array) -> Mask | None:
        """Return the rows for which it does not hold; None where it holds for all."""
        if self.test is None:
            return None
        held = self.test(_decoded(values))
        if pc.all(held, min_count=0).as_py():
            return None
        broken: Mask = pc.fill_null(pc.invert(held), fill_value=False).to_numpy(zero_copy_only=False)
        return broken

    def try_out(self, kind: pa.DataType, contract: str) -> None:
        """Check that Arrow can do this with values of the type."""
        try:
            self.broken_by(pa.array([None], kind))
        except (pa.ArrowException, TypeError, ValueError) as error:
            words = str(error).splitlines()[0]
            raise InvalidInputError(
                f"{contract}: {self.check} of {self.columns[0]!r}, which is {kind}: {words}"
            ) from None

    def result(self, rows: int | None, failed: int) -> CheckResult:
        """Return how it went."""
        return CheckResult(
            check=self.check,
            columns=self.columns,
            severity=self.severity,
            passed=not failed,
            rows=rows,
            failed_rows=failed,
            detail=self.asked,
        )


def column_rules(
    contract: str,
    column: pa.Field,
    *,
    required: bool,
    ranges: Mapping[str, Bounds],
    allowed: Mapping[str, Sequence[Any]],
    patterns: Mapping[str, str],
    severity_of: Callable[[str, str], Severity],
) -> Iterator[Rule]:
    """Return the rules of one column, its type first; errors name the contract."""
    name, kind = column.name, column.type

    def rule(check: str, asked: str, reason: str, test: Callable[[pa.Array], pa.Array] | None = None) -> Rule:
        made = Rule(check, (name,), severity_of(check, name), asked, f"{name} {reason}", test)
        if test:
            made.try_out(kind, contract)
        return made

    yield rule("type", str(kind), f"does not fit {kind}")
    if required:
        yield rule("not_null", "", "is null", is_valid)
    if name in ranges:
        low, high = bounds_of(contract, column, ranges[name])
        asked = span(*(shown(bound) for bound in ranges[name]))
        yield rule("range", asked, "is out of range", partial(in_range, low=low, high=high))
    if name in allowed:
        values = list(allowed[name])
        if not values or isinstance(allowed[name], str):
            raise InvalidInputError(f"{contract}: allowed of {name!r} has to list at least one value.")
        chosen = pa.concat_arrays([_one(bound_of(contract, column, "allowed", value)) for value in values])
        asked = "one of " + ", ".join(map(shown, values[:NAMED_VALUES]))
        asked += f" and {len(values) - NAMED_VALUES} more" if len(values) > NAMED_VALUES else ""
        yield rule("allowed", asked, "is none of the allowed values", partial(is_allowed, chosen=zeros(chosen)))
    if name in patterns:
        pattern = patterns[name]
        yield rule("pattern", pattern, "does not match its pattern", partial(matches, pattern=pattern))


def possible(check: str) -> tuple[str, ...]:
    """Return the severities that the check may have."""
    return {"schema": ("fail",), "rows": ("warn", "fail"), "type": ("fail", "quarantine")}.get(
        check, ("warn", "fail", "quarantine")
    )


def fitted(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Mask | None]:
    """Return the values as the type, null where one does not fit it; and which do not."""
    try:
        return cast_array(values, kind), None
    except pa.ArrowException:
        if len(values) == 1:
            return pa.array([None], kind), np.array([True])
    middle = len(values) // 2
    halves = [fitted(values[:middle], kind), fitted(values[middle:], kind)]
    masks = [np.zeros(len(half), bool) if mask is None else mask for half, mask in halves]
    return pa.concat_arrays([half for half, _ in halves]), np.concatenate(masks)


def without_misfit_nulls(broken: list[tuple[Rule, Mask]]) -> list[tuple[Rule, Mask]]:
    """Return the same, where a value that does not fit its type does not count as a null as well."""
    misfits = {rule.columns: mask for rule, mask in broken if rule.check == "type"}
    if not misfits:
        return broken
    real = [
        (rule, mask & ~misfits[rule.columns] if rule.check == "not_null" and rule.columns in misfits else mask)
        for rule, mask in broken
    ]
    return [(rule, mask) for rule, mask in real if mask.any()]


def is_valid(values: pa.Array) -> pa.Array:
    """Return which are not null."""
    return values.is_valid()


def in_range(values: pa.Array, low: pa.Scalar | None, high: pa.Scalar | None) -> pa.Array:
    """Return which lie between the bounds, both included; null where the value is."""
    parts = [pc.greater_equal(values, low)] if low is not None else []
    parts += [pc.less_equal(values, high)] if high is not None else []
    return parts[0] if len(parts) == 1 else pc.and_(*parts)


def is_allowed(values: pa.Array, chosen: pa.Array) -> pa.Array:
    """Return which are among the chosen; null where the value is."""
    return pc.if_else(values.is_valid(), pc.is_in(zeros(values), value_set=chosen), pa.scalar(None, pa.bool_()))


def matches(values: pa.Array, pattern: str) -> pa.Array:
    """Return which match as a whole; null where the value is."""
    return pc.match_substring_regex(values, rf"\A(?:{pattern})\z")


def zeros(values: pa.Array) -> pa.Array:
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


def bounds_of(contract: str, column: pa.Field, bounds: Bounds) -> tuple[pa.Scalar | None, pa.Scalar | None]:
    """Return the bounds as values of the column's type; errors name the contract."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2 or bounds[0] is bounds[1] is None:  # noqa: PLR2004
        raise InvalidInputError(
            f"{contract}: the range of {column.name!r} is (minimum, maximum), either of which may be None."
        )
    if pa.types.is_boolean(column.type):
        raise InvalidInputError(f"{contract}: {column.name!r} is bool, which has no range. Use allowed.")
    low, high = (None if bound is None else bound_of(contract, column, "ranges", bound) for bound in bounds)
    if low is not None and high is not None and pc.greater(low, high).as_py():
        raise InvalidInputError(f"{contract}: the range of {column.name!r} ends before it begins.")
    return low, high


def bound_of(contract: str, column: pa.Field, what: str, value: Any) -> pa.Scalar:
    """Return the value as exactly one of the column's type; errors name the contract and `what` asks."""
    try:
        scalar = exact(value, without_view(_value_type(column.type)))
    except (pa.ArrowException, TypeError, ValueError, ArithmeticError, OverflowError):
        scalar = None
    if scalar is None or (what == "ranges" and scalar.as_py() != scalar.as_py()):
        raise InvalidInputError(
            f"{contract}: {what} of {column.name!r} has {shown(value)}, a {type(value).__name__}, which is no "
            f"exact value of {column.type}."
        )
    return scalar


def exact(value: Any, kind: pa.DataType) -> pa.Scalar | None:  # noqa: PLR0911 (one kind of type a line)
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


def span(low: str | None, high: str | None) -> str:
    """Return the bounds in words.

    >>> span("0", None), span("1", "9")
    ('at least 0', 'between 1 and 9')
    """
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"between {low} and {high}"


def shown(value: Any) -> Any:
    """Return the value as messages have it, None where there is none."""
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    return None if value is None else str(value) if isinstance(value, (date, Decimal)) else repr(value)
