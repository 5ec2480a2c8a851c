"""The error tree."""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import pickle
import pkgutil
import re
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blocks
from blocks.base import errors
from blocks.base.errors import (
    AccessDeniedError,
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    MissingDriverError,
    ObjectExistsError,
    ObjectNotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
    lookup,
    retry_after_s,
    service_error,
)
from blocks.jobs.run import JobStatus
from blocks.quality.report import ChecksFailedError, QualityReport
from connectors.aws_lambda import FunctionError, InvocationResult
from connectors.dbt import DbtFailedError, DbtResult, DbtTransientError

ROOT = Path(__file__).parents[1]
MODULES = [
    importlib.import_module(module.name)
    for package in ("blocks", "connectors", "templates")
    for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    if not module.name.endswith("__main__")
]
AMONG_OURSELVES = {
    "ConflictError",
    "Cut",
    "FasterError",
    "LockTimeoutError",
    "NoAnswerError",
    "NoCounterpartError",
    "TableChangedError",
    "_Cut",
    "_WritesError",
}
"""What one part of ours tells another, as a class of its own; to users those that leave are TransientErrors."""
EXCEPTIONS = sorted(
    {
        each
        for module in MODULES
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, BaseException)
        and each.__module__ == module.__name__
        and each.__name__ not in AMONG_OURSELVES
    },
    key=lambda each: each.__name__,
)
TWINS = {
    AccessDeniedError: PermissionError,
    ObjectNotFoundError: FileNotFoundError,
    ObjectExistsError: FileExistsError,
    InvalidInputError: ValueError,
    MissingDriverError: ImportError,
    UnsupportedError: NotImplementedError,
}
NOW_S = dt.datetime(2026, 4, 30, 12, tzinfo=dt.UTC).timestamp()


AT = dt.datetime(2026, 4, 30, tzinfo=dt.UTC)


def dbt_result() -> DbtResult:
    return DbtResult(
        project="shop", command="build", target="prod", nodes=(), tries=1, artifacts={}, started_at=AT, finished_at=AT
    )


def quality_report() -> QualityReport:
    return QualityReport(source="orders.csv", suite="orders", rows=5, checks=(), started_at=AT, finished_at=AT)


CARRYING = {
    "ThrottledError": lambda: ThrottledError("why", 3.5),
    "JobFailedError": lambda: JobFailedError("why", JobStatus("42", "FAILED", "failed", "killed", 137)),
    "FunctionError": lambda: FunctionError("why", "KeyError", InvocationResult(200, {"rows": 3})),
    "DbtFailedError": lambda: DbtFailedError("why", dbt_result()),
    "DbtTransientError": lambda: DbtTransientError("why", dbt_result()),
    "ChecksFailedError": lambda: ChecksFailedError(quality_report()),
}
"""Those that carry something."""


def test_the_drawing_is_the_tree():
    """The module's docstring draws every class under its base, wherever it lives."""
    drawn, path = {}, []
    for indent, name in re.findall(r"^( +)(\w+Error)\b", errors.__doc__, re.MULTILINE):
        path = [(depth, parent) for depth, parent in path if depth < len(indent)]
        drawn[name] = path[-1][1] if path else None
        path.append((len(indent), name))
    assert drawn == {
        each.__name__: each.__bases__[0].__name__ if each is not ConnectorError else None for each in EXCEPTIONS
    }


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_every_exception_is_one_of_the_tree(error):
    """Nothing else can leave a method of ours."""
    assert issubclass(error, ConnectorError)


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_it_is_imported_from_where_the_drawing_says(error):
    """From `blocks`, unless a module stands beside it."""
    module = re.search(rf"^ +{error.__name__} +`(connectors\.\w+)`:", errors.__doc__, re.MULTILINE)
    home = importlib.import_module(module[1]) if module else blocks
    assert error.__name__ in getattr(home, "__all__", vars(home))
    assert getattr(home, error.__name__) is error


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_the_drawing_names_the_built_in(error):
    """It says of each class, and of no other, that `except` catches it by a built-in name too."""
    twin = TWINS.get(error)
    line = re.search(rf"^ +{error.__name__} .*$", errors.__doc__, re.MULTILINE)
    named = re.search(r"also an? `(\w+)`", line[0]) if line else None
    assert (named and named[1]) == (twin and twin.__name__)
    assert [base for base in error.__bases__ if base.__module__ == "builtins" and base is not Exception] == (
        [twin] if twin else []
    )


@pytest.mark.parametrize(("error", "twin"), TWINS.items())
def test_a_built_in_catches_it(error, twin):
    """Code that guards with a built-in keeps working, and finds the message as it is."""
    with pytest.raises(twin) as caught:
        raise error("Could not do it: 'a' is missing.")
    assert str(caught.value) == "Could not do it: 'a' is missing."
    assert caught.value.args == ("Could not do it: 'a' is missing.",)


@pytest.mark.parametrize("error", [each for each in EXCEPTIONS if each.__name__ not in CARRYING])
def test_errors_cross_processes(error):
    """Every error survives pickling: process pools, Dask and Ray send them."""
    copy = pickle.loads(pickle.dumps(error("what went wrong")))  # noqa: S301
    assert type(copy) is error
    assert str(copy) == "what went wrong"


@pytest.mark.parametrize("make", CARRYING.values(), ids=CARRYING)
def test_what_an_error_carries_crosses_too(make):
    """So does what the service said about waiting, a report, or how each part ended."""
    error = make()
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert vars(copy)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-5", 0.0),
        ("Thu, 30 Apr 2026 12:01:30 GMT", 90.0),
        ("Thursday, 30-Apr-26 12:01:30 GMT", 90.0),
        ("Thu Apr 30 12:01:30 2026", 90.0),
        ("Thu, 30 Apr 2026 11:59:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("9" * 400, 86_400.0),
        ("", None),
        ("soon", None),
        ("1, 2", None),
        ("٣", None),
        ("nan", None),
        ("Thu, 32 Apr 2026 12:00:00 GMT", None),
        ("Thu, 30 Apr 2026 12:00:00 +99999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, expected):
    """RFC 9110 has both; what is past is now, what is neither says nothing, and nobody waits for more than a day."""
    assert retry_after_s(header, now_s=NOW_S) == expected


@given(st.text() | st.integers().map(str) | st.floats().map(str))
def test_retry_after_never_fails(header):
    """Whatever a proxy writes into it, it is a wait or none."""
    found = retry_after_s(header)
    assert found is None or 0 <= found <= 86_400


@given(st.integers(0, 86_400))
def test_a_date_is_as_good_as_seconds(seconds):
    """A service may say it either way."""
    date = format_datetime(dt.datetime.fromtimestamp(NOW_S + seconds, dt.UTC), usegmt=True)
    assert retry_after_s(date, now_s=NOW_S) == retry_after_s(str(seconds)) == seconds


@pytest.mark.parametrize(
    ("code", "header", "kind", "wait_s"),
    [
        ("429", "", ThrottledError, None),
        ("429", "soon", ThrottledError, None),
        ("429", "17", ThrottledError, 17.0),
        ("429", "Thu, 01 Jan 1970 00:00:00 GMT", ThrottledError, 0.0),
        ("400", "17", TerminalError, None),
    ],
)
def test_a_throttled_error_has_the_wait(code, header, kind, wait_s):
    """What the service asked for is what the policy waits."""
    error = service_error(
        "read", "s3://raw", [code], "no", table={"429": ThrottledError}, advice={}, retry_after=header
    )
    assert (type(error), getattr(error, "retry_after_s", None)) == (kind, wait_s)
    assert str(error) == f"Could not read s3://raw: {code}: no."


@pytest.mark.parametrize(
    ("code", "expected"),
    [("40001", TransientError), ("42P01", TerminalError), ("42501", ThrottledError), ("99999", None), (None, None)],
)
def test_lookup_takes_the_exact_code_then_the_longest_prefix(code, expected):
    """An exact code wins over a prefix, and a longer prefix over a shorter one."""
    table = {"40001": TransientError, "4*": TransientError, "42*": TerminalError, "42501": ThrottledError}
    assert lookup(table, code) is expected
