"""Many cases: drawn, run one after the other, written down as they end, and counted in a table."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from integration_tests.faults.attack import Attack, Result, describe
from integration_tests.faults.cases import Case, combinations, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from integration_tests.faults.targets.base import Target

HANG_S = 120.0
KINDS = ("lost", "doubled", "changed", "torn", "ledger", "leftovers", "hang", "leak", "raw error", "terminal", "error")
HUNG = 3
"""Exit code of a process that a case hangs."""


class State:
    """The file with the results: a line of JSON for each case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, dict[str, Any]] = {}
        if path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self.done = {line["number"]: line for line in lines}

    def add(self, result: Result) -> None:
        """Write down a result."""
        line = {
            "number": result.case.number,
            "combination": result.case.combination,
            "fired": result.fired,
            "wrong": result.wrong,
            "seconds": result.seconds,
        }
        if result.wrong or not result.fired:
            line |= {"case": str(result.case), "said": result.said}
        self.done[result.case.number] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Watchdog:
    """Ends this process, with what every thread does at the time, when a case does not end."""

    def __init__(self, on_hang: Callable[[Case], None]) -> None:
        self._on_hang = on_hang
        self._case: Case | None = None
        self._deadline = float("inf")
        threading.Thread(target=self._watch, name="faults-watchdog", daemon=True).start()

    @contextlib.contextmanager
    def over(self, case: Case) -> Any:
        """Within it, the case has so long."""
        self._case, self._deadline = case, time.monotonic() + HANG_S
        try:
            yield
        finally:
            self._deadline = float("inf")

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            if time.monotonic() > self._deadline and self._case is not None:
                faulthandler.dump_traceback(all_threads=True)
                self._on_hang(self._case)
                atexit._run_exitfuncs()  # ends the servers
                os._exit(HUNG)


@dataclass
class Campaign:
    """Runs cases.

    Attributes:
        targets: What is attacked.
        settings: Enters Prefect's settings, for cases that run in a flow.
        servers: Those that run already, by name.
        mutant: How the protocol is broken.
    """

    targets: Sequence[type[Target]]
    settings: Callable[[], Any] = contextlib.nullcontext
    servers: dict[str, Any] = field(default_factory=dict)
    mutant: str | None = None

    def __post_init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._attacks: dict[str, Attack] = {}
        self.unavailable: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, case: Case) -> Result | None:
        """Run one case; None where its target cannot be started here."""
        attack = self.attack(case.target)
        return attack and attack.run(case)

    def attack(self, name: str) -> Attack | None:
        """The attack on a target, whose servers are started at the first one."""
        if name in self.unavailable:
            return None
        if name not in self._attacks:
            kind = next(each for each in self.targets if each.name == name)
            try:
                target = self._stack.enter_context(kind(**self.servers))
            except BaseException as error:
                if type(error).__name__ != "Skipped" and not isinstance(error, (FileNotFoundError, RuntimeError)):
                    raise
                self.unavailable[name] = str(error)
                return None
            self.servers |= target.servers
            self._attacks[name] = Attack(target, self.settings, self.mutant)
        return self._attacks[name]

    def run_all(self, seed: int, numbers: Iterable[int], state: State, say: Callable[[str], None]) -> None:
        """Run the cases of these numbers that are not done yet."""
        self.settings()  # starts Prefect's server before the first case does
        watchdog = Watchdog(lambda case: state.add(Result(case, wrong={"hang": f"longer than {HANG_S:g} s"})))
        for number in numbers:
            if number in state.done:
                continue
            case = draw(seed, number, self.targets)
            attack = self.attack(case.target)  # starts servers, which is no part of the case
            if attack is None:
                continue
            with watchdog.over(case):
                result = attack.run(case)
            state.add(result)
            if result.wrong:
                say(describe(result))


def table(targets: Sequence[type[Target]], seed: int, state: State, unavailable: dict[str, str]) -> str:
    """The result: a line for each connector, mode and fault."""
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in state.done.values():
        lines[tuple(line["combination"])].append(line)
    rows = [
        f"Seed {seed}: {len(state.done)} cases.",
        "",
        f"| connector | mode | fault | cases | fired | {' | '.join(KINDS)} | wrong cases |",
        "|" + " --- |" * (6 + len(KINDS)),
    ]
    for combination in combinations(targets):
        cases = lines[combination]
        counts = [sum(kind in each["wrong"] for each in cases) for kind in KINDS]
        fired = f"{100 * sum(each['fired'] for each in cases) // len(cases)} %" if cases else ""
        bad = " ".join(str(each["number"]) for each in cases if each["wrong"])
        rows.append(f"| {' | '.join(combination)} | {len(cases)} | {fired} | {' | '.join(map(str, counts))} | {bad} |")
    fired_share = sum(each["fired"] for each in state.done.values()) / max(1, len(state.done))
    totals = {kind: sum(kind in each["wrong"] for each in state.done.values()) for kind in KINDS}
    rows += ["", f"Fired: {fired_share:.1%}. " + ", ".join(f"{kind} {count}" for kind, count in totals.items()) + "."]
    skipped = [f"* {each.name}, {fault}: {why}" for each in targets for fault, why in each.skipped.items()]
    skipped += [f"* {name}: {why}" for name, why in unavailable.items()]
    return "\n".join([*rows, "", "Skipped:", "", *skipped, ""])
