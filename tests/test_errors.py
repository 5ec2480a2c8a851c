"""The error tree."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from blocks.base import errors
from blocks.base.errors import ConnectorError, MissingDriverError, TerminalError, ThrottledError, TransientError, lookup

TREE = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, ConnectorError)]


def test_the_drawing_is_the_tree():
    """The module's docstring draws every class under its base."""
    drawn, path = {}, []
    for indent, name in re.findall(r"^( +)(\w+Error)\b", errors.__doc__, re.MULTILINE):
        path = [(depth, parent) for depth, parent in path if depth < len(indent)]
        drawn[name] = path[-1][1] if path else None
        path.append((len(indent), name))
    assert drawn == {each.__name__: each.__bases__[0].__name__ if each is not ConnectorError else None for each in TREE}


@pytest.mark.parametrize("error", TREE)
def test_errors_cross_processes(error):
    """Every error survives pickling: process pools, Dask and Ray send them."""
    copy = pickle.loads(pickle.dumps(error("what went wrong")))  # noqa: S301
    assert type(copy) is error
    assert str(copy) == "what went wrong"


def test_retry_after_crosses_processes():
    """So does what the service said about waiting."""
    assert pickle.loads(pickle.dumps(ThrottledError("wait", 3.5))).retry_after_s == 3.5  # noqa: S301


def test_a_missing_driver_is_an_import_error_too():
    """Code that guards an import with `except ImportError` keeps working."""
    assert issubclass(MissingDriverError, ImportError)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("40001", TransientError), ("42P01", TerminalError), ("42501", ThrottledError), ("99999", None), (None, None)],
)
def test_lookup_takes_the_exact_code_then_the_longest_prefix(code, expected):
    """An exact code wins over a prefix, and a longer prefix over a shorter one."""
    table = {"40001": TransientError, "4*": TransientError, "42*": TerminalError, "42501": ThrottledError}
    assert lookup(table, code) is expected
