"""Expectation: one expectation of a suite, in Great Expectations' own JSON.

Expectations: https://greatexpectations.io/expectations (what each takes, and where it can be evaluated)
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blocks.quality.report import Severity
from connectors.great_expectations.engine import Asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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

OF_COLUMNS = re.compile(r"expect_(column|compound_columns|select_column|multicolumn)_(?!to_exist)")
"""The names of expectations that are about the columns that they name, and not about which columns there are."""

OPERATORS = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "IN",
    ast.NotIn: "NOT_IN",
}
MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""The operators that say the same from the other side."""
NULLITY = {"isnull": True, "isna": True, "notnull": False, "notna": False}
QUOTED = re.compile(r"`([^`'\\]+)`")
"""A name as pandas quotes it."""
KEPT_ELSEWHERE = (
    "id",
    "ge_cloud_id",
    "rendered_content",
    "catch_exceptions",
    "created_at",
    "created_by_id",
    "updated_at",
    "updated_by_id",
    "expectation_suite_id",
    "organization_id",
    "workspace_id",
)
"""What exports of GX Cloud know of an expectation beside it."""
OF_A_RUN = ("batch_id", "result_format", "include_config", "catch_exceptions", "interactive_evaluation", "meta")
"""Arguments that 0.x keeps with an expectation, and that change nothing in what is expected."""
OF_0_X = (
    "auto",
    "profiler_config",
    "parse_strings_as_datetimes",
    "output_strftime_format",
    "allow_cross_type_comparisons",
    "ties_okay",
    "allow_relative_error",
)
"""Arguments of 0.x that 1.x does not have: one that is set is refused by its name."""
NAMES_COLUMNS = ("column", "column_A", "column_B", "column_list")
ROW_COUNT = "expect_table_row_count_to_be_between"
LONGEST_DETAIL = 200


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
        values = {name: value for name, value in given.items() if name not in KEPT_ELSEWHERE and value}
        values.setdefault("type", values.pop("expectation_type", given.get("type", "")))
        values["meta"] = dict(values.get("meta") or {})
        values["kwargs"] = with_condition(
            {name: value for name, value in (values.get("kwargs") or {}).items() if not _is_left_out(name, value)}
        )
        for note in ("notes", "description", "expectation_context", "success_on_last_run"):
            if note in values:
                values["meta"].setdefault(note, values.pop(note))
        severity = values["meta"].pop(KEPT_SEVERITY, None) or values.get("severity") or "fail"
        return {**values, "severity": SEVERITIES.get(severity, severity)}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the expectation names."""
        found = [self.kwargs[name] for name in NAMES_COLUMNS if self.kwargs.get(name)]
        return tuple(name for each in found for name in (each if isinstance(each, list | tuple) else [each]))

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Return the columns that it, or its condition, is about and that are not among these, as they are written."""
        return [name for name in (*self.columns, *_columns_of(self.kwargs.get("row_condition"))) if name not in columns]

    @property
    def is_of_its_columns(self) -> bool:
        """Whether it asks of nothing but the columns that it names, or of the number of rows."""
        if self.condition:
            return False
        return self.type == ROW_COUNT or (bool(self.columns) and OF_COLUMNS.match(self.type) is not None)

    @property
    def condition(self) -> dict[str, Any]:
        """The condition of the rows that it is about; empty where it is about all."""
        return {name: self.kwargs[name] for name in ("row_condition", "condition_parser") if self.kwargs.get(name)}

    @property
    def bounds(self) -> str:
        """What it asks for: `min_value=0, max_value=10`."""
        asked = {name: value for name, value in self.kwargs.items() if name not in NAMES_COLUMNS and value is not None}
        text = ", ".join(f"{name}={value}" for name, value in asked.items())
        return text if len(text) <= LONGEST_DETAIL else text[:LONGEST_DETAIL] + "..."

    def to_gx(self) -> Asked:
        """Return it as Great Expectations takes it."""
        kept = {KEPT_SEVERITY: self.severity} if self.severity == "quarantine" else {}
        return Asked(self.type, self.kwargs, self.meta | kept, "warning" if self.severity == "warn" else "critical")


def _is_left_out(name: str, value: Any) -> bool:
    """Whether an argument says how Great Expectations was run, or says nothing."""
    return value is None or name in OF_A_RUN or (name in OF_0_X and not value)


def _columns_of(condition: Any) -> list[str]:
    """The columns of a condition that can be stored."""
    if not isinstance(condition, dict):
        return []
    column = condition.get("column")
    own = [column["name"]] if isinstance(column, dict) and "name" in column else []
    return own + [name for each in condition.get("conditions") or () for name in _columns_of(each)]


def with_condition(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with their row_condition in the form that can be stored and is asked of any data.

    A text that is more than comparisons stays as it is: pandas may know what to make of it.

    >>> with_condition({"row_condition": 'cat == "c1"', "condition_parser": "pandas"})
    {'row_condition': {'type': 'comparison', 'column': {'name': 'cat'}, 'operator': '==', 'parameter': 'c1'}}
    """
    found: Any = kwargs.get("row_condition")
    if hasattr(found, "dict"):
        return {**kwargs, "row_condition": found.dict()}
    if not isinstance(found, str):
        return dict(kwargs)
    try:
        condition = _condition(ast.parse(QUOTED.sub(r"col('\1')", found.strip()), mode="eval").body)
    except (SyntaxError, ValueError):
        return dict(kwargs)
    return {name: value for name, value in kwargs.items() if name != "condition_parser"} | {"row_condition": condition}


def _condition(node: ast.expr) -> dict[str, Any]:
    """Return a condition of Great Expectations for a Python expression.

    Raises:
        ValueError: It is none.
    """
    match node:
        case ast.BoolOp(op=ast.And() | ast.Or() as op, values=values):
            return _joined(isinstance(op, ast.And), map(_condition, values))
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() as op, right=right):
            return _joined(isinstance(op, ast.BitAnd), map(_condition, (left, right)))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            found = [_comparison(*each) for each in zip(sides, ops, comparators, strict=False)]
            return found[0] if len(found) == 1 else _joined(True, found)
        case ast.Call(func=ast.Attribute(value=of, attr=attr), args=[]) if attr.lower() in NULLITY:
            return {"type": "nullity", "column": _column(of), "is_null": NULLITY[attr.lower()]}
    raise ValueError("not a condition")


def _joined(every: bool, conditions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "and" if every else "or", "conditions": list(conditions)}


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> dict[str, Any]:
    """Return the comparison of a column with a value, whichever of them stands first."""
    if type(op) not in OPERATORS:
        raise ValueError("not a comparison")
    operator = OPERATORS[type(op)]
    if _is_value(left) and operator in MIRRORED:
        left, operator, right = right, MIRRORED[operator], left
    return {"type": "comparison", "column": _column(left), "operator": operator, "parameter": _value(right)}


def _is_value(node: ast.expr) -> bool:
    try:
        _value(node)
    except ValueError:
        return False
    return True


def _value(node: ast.expr) -> Any:
    """Return a literal, or the text of a `date("2026-04-30")` of Great Expectations' own conditions."""
    match node:
        case ast.Call(func=ast.Name(id="date"), args=[ast.Constant(value=str(text))]):
            return text
    value = ast.literal_eval(node)
    if value is None or not isinstance(value, str | int | float | list | tuple):
        raise ValueError("not a value")
    return value


def _column(node: ast.expr) -> dict[str, str]:
    match node:
        case ast.Name(id=name) | ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))]):
            return {"name": name}
    raise ValueError("not a column")
