"""What leaves a method of ours: an error of `blocks.base.errors`, and nothing of what it was about.

A traceback keeps the local variables of its frames, and an error those that it replaced: so tools that show both would
send secrets and rows away. Where an error leaves, its frames are emptied (they stay, with their lines), its chain is
cut to errors of ours, and the secrets of the block are masked in its words, should a driver have repeated them. An
error that nobody expected becomes one of ours, without its words; what the user's own code raises passes as it is.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
import tempfile
import traceback
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel

from blocks.base.errors import ConnectorError, InvalidInputError, TerminalError
from blocks.base.masking import LIKE_A_WORD, pattern_of, secrets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType

F = TypeVar("F", bound="Callable[..., Any]")
Y = TypeVar("Y")

OURS = ("blocks", "connectors", "etl_blocks")
LIBRARIES = frozenset(sys.stdlib_module_names) | {
    "adbc_driver_manager",
    "adbc_driver_postgresql",
    "annotated_types",
    "anyio",
    "asyncssh",
    "azure",
    "boto3",
    "botocore",
    "certifi",
    "cryptography",
    "dbt",
    "duckdb",
    "google",
    "great_expectations",
    "grpc",
    "httpcore",
    "httpx",
    "msal",
    "numpy",
    "obstore",
    "pandas",
    "polars",
    "prefect",
    "psycopg",
    "psycopg_binary",
    "pyarrow",
    "pydantic",
    "pymysql",
    "requests",
    "s3transfer",
    "snowflake",
    "sqlalchemy",
    "tenacity",
    "typing_extensions",
    "urllib3",
}
"""What our code calls. A frame of anything else is the user's: of a function, an iterator or a file given to us."""
DATA_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError)
"""What drivers and libraries raise of a call, or of data, that they cannot take."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def bounded(function: F) -> F:
    """Have what leaves a function be fit to be shown; the first argument may be the block whose secrets are masked."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (what it becomes is raised below)
            found = as_shown(error, name_of(function, args), block_of(args))
            args, kwargs = (), {}
        else:
            return bounded_items(result, name_of(function, args)) if inspect.isgenerator(result) else result
        raise found

    @functools.wraps(function)
    async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (what it becomes is raised below)
            found = as_shown(error, name_of(function, args), block_of(args))
            args, kwargs = (), {}
        raise found

    return cast("F", async_wrapper if inspect.iscoroutinefunction(function) else wrapper)


def bounded_items(items: Iterator[Y], name: str) -> Generator[Y, Any, None]:
    """Yield the items, and have what their source raises be fit to be shown."""
    try:
        yield from items
    except Exception as error:  # noqa: BLE001 (what it becomes is raised below)
        found = as_shown(error, name)
    else:
        return
    raise found


def name_of(function: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return what a call is called in a message."""
    if isinstance(name := getattr(args[0] if args else None, "name", None), str):  # an operation has one
        return name
    if args and isinstance(args[0], BaseModel):
        return f"{type(args[0]).__name__}.{function.__name__}"
    return function.__qualname__


def block_of(args: tuple[Any, ...]) -> object:
    """Return the block of which a method was called; where it was none, anything else."""
    return getattr(args[0], "_instance", args[0]) if args else None


def as_shown(error: Exception, name: str, block: object = None) -> Exception:
    """Return the error that leaves in place of this one, or the error itself, fit to be shown.

    Args:
        error: What was raised.
        name: What was called, such as "DuckDB.load".
        block: The block whose secrets are masked; anything else has none.
    """
    if not isinstance(error, ConnectorError):
        if _passes(error):
            return error
        error = _unexpected(error, name).with_traceback(error.__traceback__)
    secrets = pattern_of(secrets_of(block), alone=LIKE_A_WORD)
    for each in _chain(error):
        if secrets:
            each.args = tuple(secrets.sub("***", arg) if isinstance(arg, str) else arg for arg in each.args)
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those of ours behind it, each once; what else is behind one of them is cut off.

    A chain may lead back to where it began: an error that is kept, and raised from one that arose while it was handled.
    """
    ahead: list[BaseException | None] = [error]
    seen: set[int] = set()
    while ahead:
        each = ahead.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        cause, context, suppressed = each.__cause__, each.__context__, each.__suppress_context__
        each.__cause__ = cause if isinstance(cause, ConnectorError) else None
        each.__context__ = context if isinstance(context, ConnectorError) and not suppressed else None
        each.__suppress_context__ = suppressed
        traceback.clear_frames(each.__traceback__)
        ahead += [each.__cause__, each.__context__]
        yield each


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    """Yield the module and the line of each frame, the innermost last."""
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_lineno
        trace = trace.tb_next


def _passes(error: Exception) -> bool:
    """Tell whether it is not for us to translate: the user's own, Prefect's, or a lack of memory."""
    if isinstance(error, MemoryError) or type(error).__module__.startswith("prefect."):
        return True
    packages = [module.partition(".")[0] for module, _ in _frames(error.__traceback__)]
    own = max((number for number, package in enumerate(packages) if package in OURS), default=0)
    return "prefect" in packages[own:] or any(package not in LIBRARIES.union(OURS) for package in packages)


def _unexpected(error: Exception, name: str) -> ConnectorError:
    if isinstance(error, OSError) and error.errno is not None:
        words = os.strerror(error.errno)
        if error.errno in FULL:
            return TerminalError(
                f"Could not run {name}: {words}. Temporary files go to {tempfile.gettempdir()}: make room there, or "
                "set TMPDIR to a folder with more."
            )
        return TerminalError(f"Could not run {name}: {words} ({_place(error)}).")
    kind = InvalidInputError if isinstance(error, DATA_ERRORS) else TerminalError
    what = "an argument or the data has something that it cannot take" if kind is InvalidInputError else "it failed"
    return kind(
        f"Could not run {name}: {what} ({_place(error)}). The words of the error may quote a value, so they are not "
        "shown."
    )


def _place(error: Exception) -> str:
    """Return the kind of an error, and where in our code it arose."""
    own = [frame for frame in _frames(error.__traceback__) if frame[0].partition(".")[0] in OURS]
    module, line = own[-1] if own else ("", 0)
    return f"{type(error).__name__} in {module}, line {line}" if module else type(error).__name__
