"""The ways in which users load: a call, a call again, another process, a task's and a flow's retry, two at once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.util
import os
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks.testing import Strike, striking
from integration_tests.faults.checks import Captured, brief, is_ours
from integration_tests.faults.data import SCHEMA
from integration_tests.faults.mutants import mutated
from integration_tests.faults.targets.base import write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blocks.testing import Moment
    from integration_tests.faults.data import Source

    Settings = Callable[[], contextlib.AbstractContextManager[None]]

CHILD_S, STAY_S = 60.0, 1.0
processes = multiprocessing.get_context("forkserver")
multiprocessing.util.get_temp_dir()  # not among the temporary files of the first case
processes.set_forkserver_preload(["integration_tests.faults.loading", "integration_tests.faults.targets.all"])


@dataclass
class Call:
    """One call of `load` or `write_table`, as a user writes it; another process can make it too."""

    block: Any
    source: Source
    mode: str
    load_id: str | None
    folder: Path

    def __call__(self, amid: Callable[[], None] | None = None) -> Any:
        """Make it."""
        data = self.source.open(self.folder, amid)
        if self.source.kind == "object":
            data = self.block.scan("source.parquet", schema=SCHEMA)  # without it the file's start is read twice
        return write(self.block, data, self.mode, self.load_id)


@dataclass
class Outcome:
    """How a call ended.

    Attributes:
        report: What it returned, if it did.
        error: What it raised, in one line.
        raw: Whether that is an error that our methods may not raise.
        texts: All that was said.
    """

    report: Any = None
    error: str | None = None
    raw: bool = False
    texts: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether it returned."""
        return self.error is None


def call_here(call: Callable[[], Any]) -> Outcome:
    """Make a call in this process, and keep all that is said meanwhile."""
    captured = Captured()
    with captured.listening():
        try:
            return Outcome(report=call(), texts=tuple(captured.texts))
        except BaseException as error:  # noqa: BLE001 (that is the question)
            captured.add(error)
            return Outcome(error=brief(error), raw=not is_ours(error), texts=tuple(captured.texts))


def by_task(call: Callable[[], Any], settings: Settings, delay_s: float) -> Any:
    """Make it in a task that Prefect retries, each time after so long."""
    from prefect import flow, task

    @task(retries=5, retry_delay_seconds=delay_s)
    def load_orders() -> Any:
        return call()

    @flow
    def orders() -> Any:
        return load_orders()

    with settings():
        return orders()


def by_flow(call: Callable[[], Any], settings: Settings, delay_s: float) -> Any:
    """Make it in a flow that Prefect retries; a later step of it fails the first time."""
    from prefect import flow

    failures = [1]

    @flow(retries=5, retry_delay_seconds=delay_s)
    def orders() -> Any:
        report = call()
        if failures and failures.pop():
            raise RuntimeError("A later step failed.")
        return report

    with settings():
        return orders()


class Child:
    """A call in another process.

    Attributes:
        reached: Set once the child is where it is to be struck, if it strikes itself.
    """

    def __init__(
        self,
        call: Call,
        *,
        prepare: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
        strike: tuple[Moment, int] | None = None,
        mutant: str | None = None,
    ) -> None:
        self._answer = call.folder / f"answer-{os.urandom(4).hex()}.json"
        self._reached = self._answer.with_suffix(".reached")
        arguments = (call, self._answer, self._reached, prepare, strike, mutant)
        self.process = processes.Process(target=_run_child, args=arguments, daemon=True)
        self.process.start()

    def reached(self) -> bool:
        """Whether the child is to be struck now."""
        return self._reached.exists()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.pid and self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = CHILD_S) -> Outcome:
        """How it ended; it is killed if it does not.

        Raises:
            TimeoutError: It did not end.
        """
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"The loader did not end within {timeout_s:g} s.")
        if not self._answer.exists():
            return Outcome(error=f"ended with {self.process.exitcode}")
        answer = json.loads(self._answer.read_text())
        self._answer.unlink()
        return Outcome(answer["report"], answer["error"], answer["raw"], tuple(answer["texts"]))


def _run_child(  # noqa: PLR0917
    call: Call, answer: Path, reached: Path, prepare: Any, strike: Any, mutant: str | None
) -> None:
    tempfile.tempdir = str(call.folder / "tmp")

    def stay() -> None:
        reached.touch()
        threading.Event().wait(STAY_S)

    with contextlib.ExitStack() as stack:
        if prepare:
            function, arguments = prepare
            function(*arguments)
        if mutant:
            stack.enter_context(mutated(mutant))
        if strike:
            stack.enter_context(striking(Strike(strike[0], stay, skip=strike[1])))
        outcome = call_here(call)
    said = {"report": str(outcome.report), "error": outcome.error, "raw": outcome.raw, "texts": outcome.texts}
    partial = answer.with_suffix(".part")
    partial.write_text(json.dumps(said))
    partial.rename(answer)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Within it, this process's temporary files are in that folder."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
