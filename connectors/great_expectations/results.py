"""What Great Expectations found, in the words of a report: counts and aggregates, and no value of a row."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blocks.arrow.rejects import REASON
from blocks.base.optional import lazy
from blocks.quality.report import CheckResult
from connectors.great_expectations.engine import CONDITION, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    import pyarrow.compute as pc

    from connectors.great_expectations.expectation import Expectation
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

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


def judge(expected: Expectation, outcome: Outcome, columns: Sequence[str], *, in_sql: bool) -> Outcome:
    """How an expectation went where its condition has to be understood, and names count as they are written.

    To Great Expectations `Status` is `status` in SQL, on some data sources, and for some expectations.

    Args:
        expected: The expectation.
        outcome: What Great Expectations found.
        columns: The columns of the data.
        in_sql: Whether it was asked in SQL, and not of a frame.
    """
    kwargs = expected.kwargs
    if isinstance(kwargs.get("row_condition"), str) and (
        in_sql or kwargs.get("condition_parser", "pandas") != "pandas"
    ):
        return Outcome(success=False, failed_with=CONDITION)
    if expected.type == "expect_column_to_exist":
        same = not expected.missing(columns)
    elif expected.type == "expect_table_columns_to_match_ordered_list":
        same = list(kwargs.get("column_list") or columns) == list(columns)
    elif expected.type == "expect_table_columns_to_match_set":
        wanted, found = set(kwargs.get("column_set") or columns), set(columns)
        same = wanted == found if kwargs.get("exact_match", True) else wanted <= found
    elif expected.missing(columns):
        return Outcome(success=False, failed_with="no such column")
    else:
        same = True
    return outcome if same else replace(outcome, success=False)


def check_result(expected: Expectation, outcome: Outcome, columns: Sequence[str], *, in_sql: bool) -> CheckResult:
    """How an expectation went, in the words of the report.

    Args:
        expected: The expectation.
        outcome: What Great Expectations found.
        columns: The columns of the data.
        in_sql: Whether it was asked in SQL, and not of a frame.
    """
    detail = [expected.bounds] if expected.bounds else []
    count, failed = outcome.result.get("element_count"), outcome.result.get("unexpected_count")
    if outcome.failed_with is not None:
        missing = expected.missing(columns)
        why = _missing(missing, columns) if missing else reason(outcome, in_sql=in_sql)
        detail.append(f"could not be evaluated: {why}")
    elif label := AGGREGATES.get(expected.type):
        detail.append(f"{label}: {_shown(outcome.result.get('observed_value'))}")
    return CheckResult(
        check=expected.type,
        columns=expected.columns,
        severity=expected.severity,
        passed=outcome.success and outcome.failed_with is None,
        evaluated=outcome.failed_with is None,
        rows=count,
        failed_rows=failed if count is not None else None,
        detail="; ".join(detail),
    )


def reason(outcome: Outcome, *, in_sql: bool = True) -> str:  # noqa: PLR0911 (one reason a line)
    """Why an expectation could not be evaluated, in our words: what Great Expectations says may hold values and SQL.

    >>> reason(Outcome(success=False, failed_with="Regex is not supported for dialect redshift"))
    'it cannot be asked in SQL here; pass a pandas frame'
    >>> reason(Outcome(success=False, failed_with="metrics cannot be computed on column of type VARCHAR."))
    'it cannot be asked of a column of type VARCHAR'
    """
    text = outcome.failed_with or ""
    if text == CONDITION:
        return text
    if found := re.search(r"cannot be computed on column of type ([\w() ,]+)", text):
        return f"it cannot be asked of a column of type {found[1].strip()}"
    if re.search(r"No provider found|not supported for dialect|NotImplementedError|KeyError: 'SqlAlchemy", text):
        return (
            "it cannot be asked in SQL here; pass a pandas frame" if in_sql else "it cannot be asked of a pandas frame"
        )
    if re.search(r"column.{0,200}does not exist", text, re.DOTALL):
        return "a column that it names is not there"
    if outcome.error is not None:
        return re.split(r"\s+LINE \d+:", str(outcome.error))[0].rstrip(".")  # where the statement would follow
    if "KeyError: 'type'" in text:
        return "the type of a query's column is not known; name a table"
    errors = re.findall(r"^(?:[\w]+\.)*(\w+(?:Error|Exception))\b", text, re.MULTILINE)
    return f"Great Expectations could not evaluate it ({errors[0] if errors else 'no reason given'})"


def _missing(names: Sequence[str], columns: Sequence[str]) -> str:
    near = {name: found for name in names for found in columns if found.casefold() == name.casefold()}
    hint = f" (capitals count: there is {', '.join(near.values())})" if near else ""
    return f"there is no column {', '.join(names)}{hint}"


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


def _shown(observed: Any) -> str:
    """A count, an aggregate, or names of columns."""
    if isinstance(observed, list | tuple | set):
        return ", ".join(map(str, observed))
    try:
        return f"{float(observed):.6g}"
    except (TypeError, ValueError):
        return str(observed)
