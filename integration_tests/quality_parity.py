"""Every core expectation, asked in ways that it can be and cannot be: of plain Great Expectations, and of ours."""

from __future__ import annotations

import datetime as dt
import json
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from connectors.great_expectations import engine

RECORD = Path(__file__).with_name("quality_parity.json")
"""Where each expectation can be asked, from which docs/tables.py writes the table of docs/quality.md."""

PLACES = ("pandas", "Arrow", "Parquet", "DuckDB", "PostgreSQL")

_AT = [dt.datetime(2026, 4, 1, 12, tzinfo=dt.UTC) + dt.timedelta(days=day) for day in range(8)]
DATA = pa.table(
    {
        "id": pa.array([1, 2, 3, 4, 5, 6, 7, 7], pa.int64()),
        "amount": pa.array([1.5, -2.0, 3.25, 4.0, 5.5, 60.0, 7.0, 8.0], pa.float64()),
        "price": pa.array([Decimal("1.10"), None, *map(Decimal, "345678")], pa.decimal128(10, 2)),
        "status": ["new", "paid", "paid", None, "lost", "new", "paid", "50%_\\"],
        "Email": ["a1@x.io", "b2@x.io", "nobody", None, "e5@x.io", "f6@y.io", "g7@x.io", "h8@x.io"],
        "a": pa.array([1, 2, 3, 4, 5, 6, 7, 8], pa.int64()),
        "b": pa.array([1, 2, 0, 4, 9, None, 7, 8], pa.int64()),
        "c": pa.array([1, 0, 0, 4, 5, 6, None, 8], pa.int64()),
        "doc": ['{"n": 1}', '{"n": "x"}', "[]", None, "{", '{"n": 2}', '{"n": 3}', '{"n": 4}'],
        "day": ["2026-04-01", "2026-04-02", "soon", None, "2026-04-05", "2026-13-01", "2026-04-07", "2026-04-08"],
        "at": pa.array([each.replace(tzinfo=None) for each in _AT], pa.timestamp("us")),
        "zoned": pa.array(_AT, pa.timestamp("us", "UTC")),
        "flag": [True, False, True, None, True, True, False, True],
    }
)


class Case(NamedTuple):
    """An expectation, and whether it is meant to be asked."""

    kind: str
    kwargs: dict[str, Any]
    askable: bool = True

    @property
    def name(self) -> str:
        """What tells it from the others."""
        words = ", ".join(f"{name}={value}" for name, value in self.kwargs.items())
        return f"{self.kind.removeprefix('expect_')}({words})"


def _can(kind: str, **kwargs: Any) -> Case:
    return Case(kind if kind.startswith("unexpected") else f"expect_{kind}", kwargs)


def _cannot(kind: str, **kwargs: Any) -> Case:
    return _can(kind, **kwargs)._replace(askable=False)


_IN_SET: dict[str, Any] = {"value_set": ["new", "paid", "lost"]}
_LIKE = [r"a\%%", "p%", "n_w", "50\\%%", "50%\\_%", "%\\\\", "PAID", "%", ""]
CASES = (
    *(
        case
        for what in ("be_in_set", "contain_set", "equal_set")
        for case in (
            _can(f"column_distinct_values_to_{what}", column="status", **_IN_SET),
            _can(f"column_distinct_values_to_{what}", column="a", value_set=[1, 2, 3, 4, 5, 6, 7, 8]),
            _cannot(f"column_distinct_values_to_{what}", column="nope", **_IN_SET),
        )
    ),
    _can(
        "column_kl_divergence_to_be_less_than",
        column="status",
        partition_object={"values": ["new", "paid", "lost"], "weights": [0.3, 0.5, 0.2]},
        threshold=5,
    ),
    _cannot(
        "column_kl_divergence_to_be_less_than",
        column="nope",
        partition_object={"values": ["new"], "weights": [1.0]},
        threshold=0.1,
    ),
    *(
        case
        for what, low in (("max", 60), ("mean", 10), ("median", 4), ("min", 0), ("stdev", 1), ("sum", 80))
        for case in (
            _can(f"column_{what}_to_be_between", column="amount", min_value=low, max_value=100),
            _can(f"column_{what}_to_be_between", column="b", max_value=3),
            _can(f"column_{what}_to_be_between", column="price", min_value=1),
            _cannot(f"column_{what}_to_be_between", column="nope", min_value=0),
            _cannot(f"column_{what}_to_be_between", column="status", min_value=0),
        )
    ),
    _can("column_max_to_be_between", column="at", max_value="2026-04-05"),
    _can("column_most_common_value_to_be_in_set", column="status", value_set=["paid"]),
    _can("column_most_common_value_to_be_in_set", column="status", value_set=["new"]),
    _cannot("column_most_common_value_to_be_in_set", column="nope", value_set=["new"]),
    _can("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b"),
    _can("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b", or_equal=True),
    _can(
        "column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b", ignore_row_if="either_value_is_missing"
    ),
    _cannot("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="nope"),
    _cannot("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="status"),
    _can("column_pair_values_to_be_equal", column_A="a", column_B="b"),
    _can("column_pair_values_to_be_equal", column_A="a", column_B="b", ignore_row_if="either_value_is_missing"),
    _can("column_pair_values_to_be_equal", column_A="a", column_B="b", ignore_row_if="neither"),
    _cannot("column_pair_values_to_be_equal", column_A="nope", column_B="b"),
    _can("column_pair_values_to_be_in_set", column_A="a", column_B="b", value_pairs_set=[(1, 1), (2, 2), (4, 4)]),
    _cannot("column_pair_values_to_be_in_set", column_A="a", column_B="nope", value_pairs_set=[(1, 1)]),
    *(
        case
        for what in ("non_null", "unique")
        for case in (
            _can(f"column_proportion_of_{what}_values_to_be_between", column="status", min_value=0.5, max_value=0.9),
            _can(f"column_proportion_of_{what}_values_to_be_between", column="id", min_value=0.99),
            _cannot(f"column_proportion_of_{what}_values_to_be_between", column="nope", min_value=0.5),
        )
    ),
    _can(
        "column_quantile_values_to_be_between",
        column="amount",
        quantile_ranges={"quantiles": [0.5], "value_ranges": [[4, 6]]},
    ),
    _cannot(
        "column_quantile_values_to_be_between",
        column="status",
        quantile_ranges={"quantiles": [0.5], "value_ranges": [[4, 6]]},
    ),
    _can("column_to_exist", column="Email"),
    _can("column_to_exist", column="EMAIL"),
    _can("column_to_exist", column="Email", column_index=4),
    _can("column_to_exist", column="Email", column_index=3),
    _can("column_to_exist", column="nope"),
    _can("column_unique_value_count_to_be_between", column="status", min_value=4, max_value=4),
    _can("column_unique_value_count_to_be_between", column="id", min_value=8),
    _cannot("column_unique_value_count_to_be_between", column="nope", min_value=8),
    _can("column_value_lengths_to_be_between", column="status", min_value=4, max_value=4),
    _cannot("column_value_lengths_to_be_between", column="nope", min_value=4),
    _cannot("column_value_lengths_to_be_between", column="amount", min_value=4),
    _can("column_value_lengths_to_equal", column="status", value=4),
    _cannot("column_value_lengths_to_equal", column="nope", value=4),
    _can("column_value_z_scores_to_be_less_than", column="amount", threshold=2, double_sided=True),
    _can("column_value_z_scores_to_be_less_than", column="amount", threshold=2, double_sided=False),
    _cannot("column_value_z_scores_to_be_less_than", column="nope", threshold=2, double_sided=True),
    _cannot("column_value_z_scores_to_be_less_than", column="status", threshold=2, double_sided=True),
    _can("column_values_to_be_between", column="amount", min_value=0, max_value=10),
    _can("column_values_to_be_between", column="amount", min_value=1.5, strict_min=True),
    _can("column_values_to_be_between", column="amount", min_value=0, mostly=0.5),
    _can("column_values_to_be_between", column="price", min_value=4),
    _can("column_values_to_be_between", column="at", min_value="2026-04-02"),
    _can("column_values_to_be_between", column="zoned", min_value="2026-04-02T00:00:00+00:00"),
    _can("column_values_to_be_between", column="day", min_value="2026-04-02"),
    _can("column_values_to_be_between", column="zoned", min_value="2026-04-02 00:00:00"),
    _cannot("column_values_to_be_between", column="nope", min_value=0),
    _cannot("column_values_to_be_between", column="status", min_value=0),
    _cannot("column_values_to_be_between", column="amount", min_value={"$PARAMETER": "least"}),
    _cannot("column_values_to_be_between", column="AMOUNT", min_value=0),
    _can("column_values_to_be_dateutil_parseable", column="day"),
    _cannot("column_values_to_be_dateutil_parseable", column="nope"),
    _can("column_values_to_be_decreasing", column="id"),
    _cannot("column_values_to_be_decreasing", column="nope"),
    _can("column_values_to_be_increasing", column="id"),
    _can("column_values_to_be_increasing", column="id", strictly=True),
    _cannot("column_values_to_be_increasing", column="nope"),
    _can("column_values_to_be_in_set", column="status", value_set=["new", "paid"]),
    _can("column_values_to_be_in_set", column="id", value_set=[1, 2, 3]),
    _can("column_values_to_be_in_set", column="flag", value_set=[True]),
    _can("column_values_to_be_in_set", column="status", value_set=[]),
    _cannot("column_values_to_be_in_set", column="nope", value_set=["new"]),
    _cannot("column_values_to_be_in_set", column="STATUS", value_set=["new"]),
    _can("column_values_to_not_be_in_set", column="status", value_set=["new", "paid"]),
    _cannot("column_values_to_not_be_in_set", column="nope", value_set=["new"]),
    _can("column_values_to_be_of_type", column="id", type_="int64"),
    _can("column_values_to_be_of_type", column="id", type_="BIGINT"),
    _can("column_values_to_be_of_type", column="status", type_="int64"),
    _cannot("column_values_to_be_of_type", column="nope", type_="int64"),
    _can("column_values_to_be_in_type_list", column="id", type_list=["int64", "BIGINT"]),
    _cannot("column_values_to_be_in_type_list", column="nope", type_list=["int64"]),
    _can("column_type_to_be", column="id", type_="BIGINT"),
    _cannot("column_type_to_be", column="nope", type_="BIGINT"),
    _can("column_values_to_be_json_parseable", column="doc"),
    _cannot("column_values_to_be_json_parseable", column="nope"),
    _can(
        "column_values_to_match_json_schema",
        column="doc",
        json_schema={"type": "object", "properties": {"n": {"type": "integer"}}},
    ),
    _cannot("column_values_to_match_json_schema", column="nope", json_schema={"type": "object"}),
    _can("column_values_to_be_null", column="status"),
    _cannot("column_values_to_be_null", column="nope"),
    _can("column_values_to_not_be_null", column="status"),
    _can("column_values_to_not_be_null", column="status", mostly=0.8),
    _cannot("column_values_to_not_be_null", column="nope"),
    _can("column_values_to_be_unique", column="id"),
    _can("column_values_to_be_unique", column="a"),
    _cannot("column_values_to_be_unique", column="nope"),
    *(_can("column_values_to_match_like_pattern", column="status", like_pattern=pattern) for pattern in _LIKE),
    *(_can("column_values_to_not_match_like_pattern", column="status", like_pattern=pattern) for pattern in _LIKE),
    _cannot("column_values_to_match_like_pattern", column="nope", like_pattern="p%"),
    _cannot("column_values_to_not_match_like_pattern", column="nope", like_pattern="p%"),
    _can("column_values_to_match_like_pattern_list", column="status", like_pattern_list=["p%", r"50\%%"]),
    _can("column_values_to_match_like_pattern_list", column="status", like_pattern_list=["p%", "%a%"], match_on="all"),
    _cannot("column_values_to_match_like_pattern_list", column="nope", like_pattern_list=["p%"]),
    _can("column_values_to_not_match_like_pattern_list", column="status", like_pattern_list=["p%", r"50\%%"]),
    _cannot("column_values_to_not_match_like_pattern_list", column="nope", like_pattern_list=["p%"]),
    _can("column_values_to_match_regex", column="Email", regex=r"^[a-z]\d@x\.io$"),
    _cannot("column_values_to_match_regex", column="nope", regex="^a"),
    _cannot("column_values_to_match_regex", column="Email", regex="(["),
    _cannot("column_values_to_match_regex", column="id", regex="^1"),
    _can("column_values_to_not_match_regex", column="Email", regex=r"^[a-c]"),
    _cannot("column_values_to_not_match_regex", column="nope", regex="^a"),
    _can("column_values_to_match_regex_list", column="Email", regex_list=["^a", "^b"]),
    _can("column_values_to_match_regex_list", column="Email", regex_list=["^a", "^.1"], match_on="all"),
    _cannot("column_values_to_match_regex_list", column="nope", regex_list=["^a"]),
    _can("column_values_to_not_match_regex_list", column="Email", regex_list=["^a", "^b"]),
    _cannot("column_values_to_not_match_regex_list", column="nope", regex_list=["^a"]),
    _can("column_values_to_match_strftime_format", column="day", strftime_format="%Y-%m-%d"),
    _cannot("column_values_to_match_strftime_format", column="nope", strftime_format="%Y"),
    _can("column_values_to_not_be_outliers", column="amount", method="std", multiplier=2),
    _cannot("column_values_to_not_be_outliers", column="nope", method="std", multiplier=2),
    _can("compound_columns_to_be_unique", column_list=["id", "status"]),
    _can("compound_columns_to_be_unique", column_list=["id", "a"]),
    _cannot("compound_columns_to_be_unique", column_list=["id", "nope"]),
    _can("multicolumn_sum_to_equal", column_list=["a", "b", "c"], sum_total=12),
    _can("multicolumn_sum_to_equal", column_list=["a", "b"], sum_total=4, ignore_row_if="any_value_is_missing"),
    _cannot("multicolumn_sum_to_equal", column_list=["a", "nope"], sum_total=3),
    _can("multicolumn_values_to_be_equal", column_list=["a", "b", "c"]),
    _cannot("multicolumn_values_to_be_equal", column_list=["a", "nope"]),
    _can("select_column_values_to_be_unique_within_record", column_list=["a", "b", "c"]),
    _can(
        "select_column_values_to_be_unique_within_record",
        column_list=["a", "b", "c"],
        ignore_row_if="any_value_is_missing",
    ),
    _cannot("select_column_values_to_be_unique_within_record", column_list=["a", "nope"]),
    _can("table_column_count_to_be_between", min_value=14),
    _can("table_column_count_to_be_between", max_value=13),
    _can("table_column_count_to_equal", value=13),
    _can("table_column_count_to_equal", value=12),
    _can("table_columns_to_match_ordered_list", column_list=list(DATA.column_names)),
    _can("table_columns_to_match_ordered_list", column_list=sorted(DATA.column_names)),
    _can("table_columns_to_match_ordered_list", column_list=[name.upper() for name in DATA.column_names]),
    _can("table_columns_to_match_set", column_set=sorted(DATA.column_names)),
    _can("table_columns_to_match_set", column_set=[name.lower() for name in DATA.column_names]),
    _can("table_columns_to_match_set", column_set=["id"], exact_match=False),
    _can("table_row_count_to_be_between", min_value=8, max_value=8),
    _can("table_row_count_to_be_between", min_value=9),
    _can("table_row_count_to_equal", value=8),
    _can("table_row_count_to_equal", value=7),
    _can("table_row_count_to_equal_other_table", other_table_name="orders"),
    _cannot("table_row_count_to_equal_other_table", other_table_name="nope"),
    _can("unexpected_rows_expectation", unexpected_rows_query="SELECT * FROM {batch} WHERE amount < 0"),
    _can("unexpected_rows_expectation", unexpected_rows_query="SELECT * FROM {batch} WHERE amount < -10"),
    _cannot("unexpected_rows_expectation", unexpected_rows_query="SELECT * FROM {batch} WHERE nope < 0"),
    _can("column_values_to_be_unique", column="status", row_condition='status == "paid"', condition_parser="pandas"),
    _can("column_values_to_not_be_null", column="b", row_condition="a > 3 and a <= 6", condition_parser="pandas"),
    _can(
        "column_values_to_be_unique",
        column="status",
        row_condition='col("status") == "paid"',
        condition_parser="great_expectations",
    ),
    _cannot("column_values_to_be_unique", column="id", row_condition="nope > 1", condition_parser="pandas"),
)


class Verdict(NamedTuple):
    """What came of an expectation: whether it holds, None where it could not be asked, and its counts."""

    success: bool | None
    rows: int | None = None
    failed: int | None = None


def plain(batch: Any, case: Case) -> Verdict:
    """Return what Great Expectations itself says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expectation = engine.make_expectation(case.kind, case.kwargs, {})
            found = batch.validate(expectation, result_format="BASIC")
        except Exception:  # noqa: BLE001 (whatever it raises, nothing was asked)
            return Verdict(None)
    info = found.exception_info or {}
    infos = [info] if "raised_exception" in info else list(info.values())
    if any(each.get("raised_exception") for each in infos if isinstance(each, dict)):
        return Verdict(None)
    result = found.result or {}
    counted = result.get("element_count") is not None
    return Verdict(
        bool(found.success), result.get("element_count"), result.get("unexpected_count") if counted else None
    )


def ours(report: Any) -> list[Verdict]:
    """Return what a report says of each expectation."""
    return [
        Verdict(check.passed if check.evaluated else None, check.rows, check.failed_rows) for check in report.checks
    ]


def expected(case: Case, place: str, said: dict[str, Verdict]) -> Verdict:
    """Return what ours has to say, given what Great Expectations says in pandas and in PostgreSQL.

    It is what Great Expectations says there, or, of DuckDB, in PostgreSQL, but for these:

    * Names count as they are written, in every place.
    * A condition in the words of pandas is asked of any data; Great Expectations has it for frames only.
    * What is not in a database has no other tables.
    """
    kwargs = case.kwargs
    names = {kwargs.get("column", "id"), *kwargs.get("column_set", kwargs.get("column_list", ()))} - {"nope"}
    if not names <= set(DATA.column_names):
        asked = case.kind == "expect_column_to_exist" or "columns_to_match" in case.kind
        return Verdict(False if asked else None)
    if kwargs.get("condition_parser") == "pandas":
        return said["pandas"]
    if "other_table_name" in kwargs and place in ("Arrow", "Parquet"):
        return Verdict(None)
    return said["pandas" if place == "pandas" else "PostgreSQL"]


def recorded() -> dict[str, list[str]]:
    """Return the places in which each expectation can be asked."""
    found: dict[str, list[str]] = json.loads(RECORD.read_text("utf-8"))
    return found


def record(kind: str, places: list[str]) -> None:
    """Keep them."""
    found = (recorded() if RECORD.exists() else {}) | {kind: places}
    RECORD.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", "utf-8")
