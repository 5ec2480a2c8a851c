"""Expectation: one expectation of a suite, in Great Expectations' own JSON.

Expectations: https://greatexpectations.io/expectations (what each takes, and where it can be evaluated)
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blocks.quality.report import Severity
from connectors.great_expectations.engine import Asked

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

    def to_gx(self) -> Asked:
        """Return it as Great Expectations takes it."""
        kept = {KEPT_SEVERITY: self.severity} if self.severity == "quarantine" else {}
        return Asked(self.type, self.kwargs, self.meta | kept, "warning" if self.severity == "warn" else "critical")
