"""Statements as BigQuery takes them: with typed parameters, and all those of a load as one script."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.optional import require
from blocks.warehouses.ledger import LEDGER
from blocks.warehouses.session import COUNT_UNKNOWN
from blocks.warehouses.sql import bind, strip_literals
from connectors.bigquery.dialect import LITERALS
from connectors.bigquery.errors import CLAIMED, UNEQUAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blocks.warehouses.session import Script
    from blocks.warehouses.sql import Dialect


def transaction(script: Script, dialect: Dialect, *, lock: str | None = None) -> tuple[str, list[Any]]:
    """Return the script of a load, and its parameters.

    It changes the row of the table `lock`, if there is one, before anything else: another script that does so meanwhile
    is aborted.

    The ledger's row is inserted whole, at the end: an UPDATE of it would make any two loads of the dataset
    conflict, as BigQuery tells transactions apart by table. https://cloud.google.com/bigquery/docs/transactions
    """
    ledger = dialect.table(LEDGER)
    counts = {step.counts_as: f"etl_{step.counts_as}" for step in script.steps if step.counts_as}
    lines = [
        "DECLARE etl_inserted, etl_updated, etl_deleted INT64 DEFAULT 0",
        "BEGIN TRANSACTION",
        f"IF EXISTS (SELECT 1 FROM {ledger} WHERE load_id = @load_id) THEN {raising(CLAIMED)}",
    ]
    if lock is not None:
        lines.append(f"UPDATE {dialect.table(lock)} SET load_id = @load_id WHERE TRUE")
    parameters = []
    for number, step in enumerate(script.steps):
        statement, used = bound(step.sql, step.parameters or {}, prefix=f"step_{number}_")
        lines.append(statement)
        parameters += used
        if step.counts_as:
            lines.append(f"SET {counts[step.counts_as]} = @@row_count")
    lines.append(f"IF etl_inserted + etl_updated <> @etl_rows THEN {raising(UNEQUAL)}")
    row = script.ledger_row
    values = {name: f":{name}" for name in row}
    if "report" in values:  # a state that was set has none
        values["report"] = with_counts(values["report"], counts)
    insert = f"INSERT INTO {ledger} ({', '.join(row)}) VALUES ({', '.join(values.values())})"
    text, used = bound(insert, row)
    rows = require("google.cloud.bigquery", extra="bigquery").ScalarQueryParameter("etl_rows", "INT64", script.rows)
    return ";\n".join([*lines, text, "COMMIT TRANSACTION"]), [*parameters, *used, rows]


def with_counts(report: str, counts: Mapping[str, str]) -> str:
    """Return the expression of a report (JSON as text) whose unknown counts are those of the script's variables.

    It replaces text: a report is written compactly by pydantic, so that each count is there once, as `"name":-1`, and
    quotes within its strings are escaped. JSON_SET would parse the whole text and write it anew.
    https://cloud.google.com/bigquery/docs/reference/standard-sql/json_functions#json_set

    >>> print(with_counts("@report", {"deleted": "n"}))
    REPLACE(@report, '"deleted":-1', CONCAT('"deleted":', CAST(n AS STRING)))
    """
    for name, variable in counts.items():
        unknown, known = f"'\"{name}\":{COUNT_UNKNOWN}'", f"CONCAT('\"{name}\":', CAST({variable} AS STRING))"
        report = f"REPLACE({report}, {unknown}, {known})"
    return report


def raising(words: str) -> str:
    """Return how a script ends, and with it its transaction; ASSERT is not among the statements of one."""
    return f"RAISE USING MESSAGE = '{words}'; END IF"


def bound(sql: str, values: Mapping[str, Any], prefix: str = "") -> tuple[str, list[Any]]:
    """Return the statement with `@name` for `:name`, and its typed parameters. A null needs no type where it stands."""
    used: dict[str, Any] = {}

    def placeholder(name: str) -> str:
        if values[name] is None:
            return "NULL"
        used[name] = query_parameter(prefix + name, values[name])
        return f"@{prefix}{name}"

    return (bind(sql, values, placeholder, literals=LITERALS) if values else sql), list(used.values())


def query_parameter(name: str, value: Any) -> Any:
    """Return a parameter of the value's own type.

    Raises:
        InvalidInputError: BigQuery has none.
    """
    bigquery = require("google.cloud.bigquery", extra="bigquery")
    if isinstance(value, (list, tuple)):
        kinds = {_parameter_type(name, item) for item in value}
        if len(kinds) != 1:
            raise InvalidInputError(f"Parameter {name!r}: a list needs items, and all of one type.")
        return bigquery.ArrayQueryParameter(name, kinds.pop(), list(value))
    return bigquery.ScalarQueryParameter(name, _parameter_type(name, value), value)


def _parameter_type(name: str, value: Any) -> str:
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        fits = isinstance(exponent, int) and exponent >= -9 and len(digits) + exponent <= 29  # noqa: PLR2004
        return "NUMERIC" if fits else "BIGNUMERIC"
    if isinstance(value, dt.datetime):
        return "DATETIME" if value.tzinfo is None else "TIMESTAMP"
    kinds = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING", bytes: "BYTES"}
    kinds |= {dt.date: "DATE", dt.time: "TIME"}
    for kind, sql in kinds.items():
        if isinstance(value, kind):
            return sql
    raise InvalidInputError(f"Parameter {name!r}: a {type(value).__name__} cannot be a parameter.")


def is_query(sql: str) -> bool:
    r"""Tell whether the statement is a query alone, which cannot write in BigQuery's grammar.

    >>> is_query("-- all of it\n(SELECT ';')"), is_query("INSERT INTO t SELECT 1")
    (True, False)
    >>> is_query("SELECT '--'; DROP TABLE t")
    False
    """
    code = strip_literals(sql, LITERALS)
    return re.match(r"[\s(]*(SELECT|WITH|FROM)\b", code, re.IGNORECASE) is not None and ";" not in code.rstrip(" \n;")


def literal(text: str) -> str:
    r"""Return a text as BigQuery's SQL has it, where no parameter may stand.

    >>> print(literal("it's"))
    'it\'s'
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
