"""What tools show of an error, so that tests can look for what must not be in it."""

from __future__ import annotations

import io
import traceback
from typing import TYPE_CHECKING

from rich.console import Console
from rich.traceback import Traceback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

TESTS = ("/tests/", "/integration_tests/")


def shown(error: BaseException | None) -> str:
    """Return all that is shown of an error: its chain, with the local variables of every frame."""
    found = []
    for each in _chain(error):
        found += [f"{each!r} {each.args} {vars(each)}", *traceback.format_exception_only(each)]
        trace = _below_the_test(each.__traceback__)
        while trace is not None:
            found += [f"{name} = {value!r}" for name, value in trace.tb_frame.f_locals.items()]
            trace = trace.tb_next
    return "\n".join(found)


def shown_by_rich(error: BaseException) -> str:
    """Return the same, as rich prints it."""
    file = io.StringIO()
    console = Console(file=file, width=1_000)
    for each in _chain(error):
        trace = _below_the_test(each.__traceback__)
        console.print(
            Traceback.from_exception(type(each), each, trace, show_locals=True, locals_max_string=None, max_frames=0)
        )
    return file.getvalue()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _below_the_test(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames of the test, whose variables hold what it looks for."""
    while trace is not None and any(folder in trace.tb_frame.f_code.co_filename for folder in TESTS):
        trace = trace.tb_next
    return trace
