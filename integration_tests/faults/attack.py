"""One case from its start to its end: what was there, the load under a fault, its retry, and what is there then."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from blocks.base.errors import AmbiguousError
from blocks.testing import Strike, striking
from integration_tests.faults import checks
from integration_tests.faults.cases import PROCESS_FAULTS, RACES, SOURCE_FAULT
from integration_tests.faults.data import SCHEMA, Source, difference, expected, make_rows
from integration_tests.faults.loading import Call, Child, Outcome, by_flow, by_task, call_here, temporary_files_in
from integration_tests.faults.targets.base import ONCE, PATIENT, Place, Target, Traffic, Wire, is_store, read, write
from integration_tests.faults.targets.databases import SERVER_FAULTS, RedshiftTarget, prepare_redshift

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration_tests.faults.cases import Case

LOAD_ID = "x"
SIGNALS = {
    "kill -9": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGINT": signal.SIGINT,
    "SIGSTOP": signal.SIGSTOP,
}
STOPPED_S, RACE_S, REACH_S = 0.3, 0.3, 30.0
RESTART_S = 1
BEFORE = 60
"""How many rows are there before the load, where some are."""
CALLS = 4
"""How often a user calls again before giving up."""
WAREHOUSE_MOMENTS = ("begin", "rows", "claim", "commit", "committed")
STORE_MOMENTS = ("upload", "uploaded")
MOMENTS = {"commit": "commit", "claim": "claim", "rows": "rows"}
STAGING = "staging: "
PASSING = ("TransientError", "ThrottledError", "AmbiguousError", "DamagedError")
"""Errors after which a user, or Prefect, calls again."""


@dataclass
class Result:
    """What came of a case.

    Attributes:
        fired: Whether the fault struck.
        wrong: What was wrong, by kind, such as "lost": nothing where all was right.
        said: How the calls ended.
    """

    case: Case
    fired: bool = False
    wrong: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0


def describe(result: Result) -> str:
    """What was wrong with a case, and the line with which it is repeated."""
    wrong = "; ".join(f"{kind}: {detail}" for kind, detail in result.wrong.items())
    case = result.case
    return f"make faults SEED={case.seed} CASE={case.number}  # {wrong}\n    {case}\n    " + "\n    ".join(
        line[:300] for line in result.said
    )


class Attack:
    """Runs cases against one target."""

    def __init__(self, target: Target, settings: Callable[[], Any], mutant: str | None = None) -> None:
        self.target = target
        self._settings = settings
        self._mutant = mutant
        self._traffic: dict[Any, list[Traffic]] = {}

    def run(self, case: Case) -> Result:
        """Run one case."""
        started = time.monotonic()
        result = Result(case)
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        (folder / "tmp").mkdir()
        place = None
        try:
            place = self.target.place(folder)
            place.impatient = case.fault == "no answer"
            with temporary_files_in(folder / "tmp"):
                self._attack(case, place, result)
        except TimeoutError as error:
            result.wrong["hang"] = str(error)
        finally:
            for wire in place.wires if place else ():
                wire.calm()
            if place:
                with contextlib.suppress(Exception):
                    place.drop()
                with contextlib.suppress(Exception):
                    place.direct.close()
            shutil.rmtree(folder, ignore_errors=True)
        result.seconds = round(time.monotonic() - started, 2)
        return result

    # --- one case ---

    def _attack(self, case: Case, place: Place, result: Result) -> None:
        before = self._prepare(case, place)
        data = self._data(case, f"{case.seed}/{case.number}")
        right = expected(case.mode, before, data)
        traffic = self._known_traffic(case, place)
        threads = set(threading.enumerate())
        self._put_source(case, place, data)
        for wire in place.wires:
            wire.traffic()
        source = Source(case.source, data, case.batches, breaks=case.fault == SOURCE_FAULT, home=place.folder)
        if case.fault in PROCESS_FAULTS:
            outcomes = self._struck_process(case, place, source, traffic, result)
        elif case.fault in RACES:
            outcomes, right = self._race(case, place, source, before, traffic, result)
        else:
            outcomes = self._struck_call(case, place, source, before, right, traffic, result)
        for wire in place.wires:
            wire.calm()
        outcomes += self._again_until_done(case, place, replace(source, breaks=False), outcomes)
        self._judge(place, right, outcomes, result)
        result.wrong |= {} if outcomes[-1].succeeded else {"error": outcomes[-1].error or ""}
        self._judge_errors(case, outcomes, result)
        self._check_ledger(case, place, result)
        self._check_leftovers(place, threads, outcomes, result)

    def _data(self, case: Case, seed: str) -> pa.Table:
        """What is loaded: for modes that look at what is there, half of it is."""
        first = BEFORE // 2 if case.mode in {"upsert", "replace_partition"} else 10_000
        return make_rows(case.rows, seed, first=first, days=2 if case.mode == "replace_partition" else 3)

    def _prepare(self, case: Case, place: Place) -> pa.Table:
        if case.fresh:
            return SCHEMA.empty_table()
        rows = make_rows(BEFORE, f"before {case.number}")
        write(place.direct, rows, case.mode if is_store(place.direct) else "append", "before")
        return rows

    def _put_source(self, case: Case, place: Place, data: pa.Table) -> None:
        if case.source == "object":
            path = place.folder / "object.parquet"
            # Without compression a flipped bit is another value, and no error of the format.
            rows = max(1, data.num_rows // case.batches)
            pq.write_table(data, path, row_group_size=rows, compression="none", use_dictionary=False)
            place.direct.upload_from_path(path, "source.parquet")

    def _known_traffic(self, case: Case, place: Place) -> list[Traffic]:
        """What such a load sends where nothing strikes; tried once for all cases that are alike."""
        if not place.wires:
            return []
        is_cut = "cut" in case.fault
        key = (case.mode, case.fresh, case.source == "object", (case.rows, case.batches) if is_cut else None)
        if key not in self._traffic:
            folder = place.folder / "dry"
            (folder / "tmp").mkdir(parents=True)
            other = self.target.place(folder)
            try:
                self._prepare(case, other)
                data = self._data(case, "dry")
                kind = case.source if case.source == "object" else "table"
                self._put_source(case, other, data)
                for wire in other.wires:
                    wire.traffic()
                with contextlib.closing(other.block(PATIENT)) as block:
                    Call(block, Source(kind, data, case.batches), case.mode, LOAD_ID, folder)()
                self._traffic[key] = [wire.traffic() for wire in other.wires]
            finally:
                other.drop()
                other.direct.close()
                shutil.rmtree(folder)
        return self._traffic[key]

    def _aim(self, case: Case, wire: Wire, traffic: Traffic) -> int:
        """The number of the request at which the fault strikes."""
        pattern = {"commit": wire.commit, "claim": wire.claim, "rows": wire.rows}.get(case.at, "")
        numbers = [number for number, request in enumerate(traffic.requests) if re.search(pattern, request)]
        numbers = numbers or list(range(len(traffic.requests))) or [0]
        if case.at == "commit":
            return numbers[-1]
        return numbers[int(case.moment * len(numbers))]

    # --- faults that strike a call in this process ---

    def _struck_call(  # noqa: PLR0917
        self,
        case: Case,
        place: Place,
        source: Source,
        before: pa.Table,
        right: pa.Table,
        traffic: list[Traffic],
        result: Result,
    ) -> list[Outcome]:
        strikes = contextlib.ExitStack()
        fired = self._arm(case, place, traffic, strikes)
        opened: list[int] = []
        with strikes:
            outcomes = [self._call_once(case, place, source, opened)]
        result.fired = bool(fired() or opened)
        if outcomes[0].succeeded:
            self._judge_rows(place, right, result)  # what is damaged may be mended by the next call
        elif not is_store(place.direct) and not place.wires:
            self._judge_torn(place, before, right, result)
        return outcomes

    def _call_once(self, case: Case, place: Place, source: Source, opened: list[int]) -> Outcome:
        """The call that is struck, with a block of which nothing is left afterwards."""
        amid = (lambda: opened.append(1)) if case.fault == SOURCE_FAULT else None
        with contextlib.closing(place.block(PATIENT if case.way == "retry" else ONCE)) as block:
            call = partial(Call(block, source, case.mode, LOAD_ID, place.folder), amid)
            if case.way not in {"task", "flow"}:
                return call_here(call)
            run = by_task if case.way == "task" else by_flow
            unnamed = partial(Call(block, source, case.mode, None, place.folder), amid)
            delay_s = RESTART_S if case.fault in SERVER_FAULTS else 0
            return call_here(lambda: run(unnamed, self._settings, delay_s))

    def _arm(
        self, case: Case, place: Place, traffic: list[Traffic], strikes: contextlib.ExitStack
    ) -> Callable[[], list[Any]]:
        """Let the fault wait for its moment; what it returns tells what has struck."""
        if case.fault == SOURCE_FAULT:
            return list
        if case.fault == "lost commit":

            def lose() -> None:
                raise AmbiguousError("The connection was lost after COMMIT was sent.")

            strike = strikes.enter_context(striking(Strike("committed", lose)))
            return lambda: list(strike.fired)
        number = 1 if case.fault.startswith(STAGING) else 0
        wire = place.wires[number]
        action = (lambda: self.target.run_fault(case.fault)) if case.fault in SERVER_FAULTS else list
        fault = "call" if case.fault in SERVER_FAULTS else case.fault.removeprefix(STAGING)
        wire.arm(fault, self._aim(case, wire, traffic[number]), traffic[number], case.moment, action)
        return wire.fired

    # --- faults that strike a process ---

    def _struck_process(
        self, case: Case, place: Place, source: Source, traffic: list[Traffic], result: Result
    ) -> list[Outcome]:
        number = SIGNALS[case.fault]
        block = place.block(ONCE)
        call = Call(block, source, case.mode, LOAD_ID, place.folder)
        struck = threading.Event()
        child: Child | None = None

        def strike() -> None:
            if child is not None:
                child.signal(number)
            struck.set()

        if place.wires:
            wire = place.wires[0]
            wire.arm("call", self._aim(case, wire, traffic[0]), traffic[0], case.moment, strike)
            child = self._child(call)
        else:
            child = self._child(call, strike=self._moment(case, place))
            self._when(child.reached, strike)
        others: list[Outcome] = []
        if number == signal.SIGSTOP and _wait(lambda: struck.is_set() or not child.process.is_alive(), REACH_S):
            others += self._call_beside(case, place, source, child)
        outcome = child.wait()
        result.fired = struck.is_set()
        result.said.append(f"child: {outcome.error or 'loaded'}")
        return [*others, outcome]

    def _call_beside(self, case: Case, place: Place, source: Source, child: Child) -> list[Outcome]:
        """Make the same call here while the child is stopped, and let it go on after a while."""
        outcomes: list[Outcome] = []
        call = self._call_again(case, place, source, ONCE)
        thread = threading.Thread(target=lambda: outcomes.append(call_here(call)), name="faults-beside", daemon=True)
        thread.start()
        time.sleep(STOPPED_S)
        child.signal(signal.SIGCONT)
        thread.join(60)
        if thread.is_alive():
            raise TimeoutError("A loader beside one that was stopped did not end within 60 s.")
        return outcomes

    def _child(self, call: Call, **options: Any) -> Child:
        prepare = (prepare_redshift, (self.target.s3.endpoint,)) if isinstance(self.target, RedshiftTarget) else None
        return Child(call, prepare=prepare, mutant=self._mutant, **options)

    def _moment(self, case: Case, place: Place) -> Any:
        moments = STORE_MOMENTS if is_store(place.direct) else WAREHOUSE_MOMENTS
        named = MOMENTS.get(case.at)
        return (named if named in moments else moments[int(case.moment * len(moments))], 0)

    def _when(self, reached: Callable[[], bool], action: Callable[[], None]) -> None:
        def watch() -> None:
            if _wait(reached, REACH_S):
                action()

        threading.Thread(target=watch, name="faults-watch", daemon=True).start()

    # --- two at once ---

    def _race(  # noqa: PLR0917
        self, case: Case, place: Place, source: Source, before: pa.Table, traffic: list[Traffic], result: Result
    ) -> tuple[list[Outcome], Any]:
        rival = source
        load_id = LOAD_ID
        if case.fault == "another load":
            load_id = "y"
            other = make_rows(case.rows, f"rival {case.number}", first=50_000)
            rival = replace(source, data=other, home=place.folder / "rival")
        outcomes: list[Outcome] = []
        folder = place.folder / "rival"
        folder.mkdir()

        def load_too() -> None:
            with contextlib.closing(place.direct.model_copy(update={"retry": PATIENT})) as block:
                outcomes.append(call_here(Call(block, rival, case.mode, load_id, folder)))

        thread = threading.Thread(target=load_too, name="faults-rival", daemon=True)
        begun = threading.Event()

        def begin() -> None:
            if not begun.is_set():
                begun.set()
                thread.start()
                thread.join(RACE_S)

        block = place.block(PATIENT)
        call = Call(block, source, case.mode, LOAD_ID, place.folder)
        if place.wires:
            place.wires[0].arm("call", self._aim(case, place.wires[0], traffic[0]), traffic[0], case.moment, begin)
            mine = call_here(call)
        else:
            moment, skip = self._moment(case, place)
            with striking(Strike(moment, begin, skip=skip)):
                mine = call_here(call)
        result.fired = begun.is_set()
        if begun.is_set():
            thread.join(60)
            if thread.is_alive():
                raise TimeoutError("One of two loaders at once did not end within 60 s.")
        else:
            load_too()
        block.close()
        result.said.append(f"rival: {outcomes[0].error or 'loaded'}")
        if case.fault != "another load":
            return [*outcomes, mine], expected(case.mode, before, source.data)
        if not outcomes[0].succeeded:
            outcomes.append(self._again(place, Call(place.direct, rival, case.mode, load_id, folder)))
        orders = [(source.data, rival.data), (rival.data, source.data)]
        ends = [expected(case.mode, expected(case.mode, before, one), two) for one, two in orders]
        return [*outcomes, mine], ends

    # --- afterwards ---

    def _again(self, place: Place, call: Callable[[], Any]) -> Outcome:  # noqa: ARG002
        for _ in range(CALLS):
            outcome = call_here(call)
            if outcome.succeeded:
                return outcome
            time.sleep(0.2)
        return outcome

    def _call_again(self, case: Case, place: Place, source: Source, retry: Any) -> Callable[[], Any]:
        def call() -> Any:
            folder = Path(tempfile.mkdtemp(dir=place.folder))
            with contextlib.closing(place.direct.model_copy(update={"retry": retry})) as block:
                return Call(block, replace(source, breaks=False), case.mode, LOAD_ID, folder)()

        return call

    def _again_until_done(self, case: Case, place: Place, source: Source, before: list[Outcome]) -> list[Outcome]:
        """The calls that a user makes then: with the same load_id, until one returns."""
        done = before[-1].succeeded
        if done and case.way in {"retry", "task", "flow"}:
            return []
        if not done and case.way in {"task", "flow"}:
            return []  # it is a matter of Prefect's retries
        again = self._call_again(case, place, source, PATIENT)
        if case.way == "process":
            with contextlib.closing(place.direct.model_copy(update={"retry": PATIENT})) as block:
                outcome = self._child(Call(block, source, case.mode, LOAD_ID, place.folder)).wait()
            if outcome.succeeded:
                return [outcome]
        return [self._again(place, again)]

    def _judge(self, place: Place, right: Any, outcomes: list[Outcome], result: Result) -> None:
        self._judge_rows(place, right, result)
        result.said += [outcome.error or str(outcome.report) for outcome in outcomes]
        if raw := [outcome.error for outcome in outcomes if outcome.raw]:
            result.wrong["raw error"] = str(raw[0])

    def _judge_rows(self, place: Place, right: Any, result: Result) -> None:
        found = read(place.direct)
        rights = right if isinstance(right, list) else [right]
        wrong = min((difference(found, each) for each in rights), key=lambda each: sum(each.values()))
        result.wrong |= {kind: f"{count} rows" for kind, count in wrong.items()}

    def _judge_errors(self, case: Case, outcomes: list[Outcome], result: Result) -> None:
        """What passes has to be told from what does not: nothing that strikes here lasts."""
        if case.fault in PROCESS_FAULTS or case.source == "reader":
            return
        if final := [each.error for each in outcomes if each.error and not each.error.startswith(PASSING)]:
            result.wrong["terminal"] = final[0]

    def _judge_torn(self, place: Place, before: pa.Table, right: pa.Table, result: Result) -> None:
        found = read(place.direct)
        if all(difference(found, each) for each in (before, right)):
            result.wrong["torn"] = "after a failed load the table was neither as before nor as after it"

    def _check_ledger(self, case: Case, place: Place, result: Result) -> None:
        loads = place.loads()
        if loads is None:
            return
        wanted = 1 + (not case.fresh) + (case.fault == "another load")
        made = {load_id.partition("#")[0] for load_id in loads}  # each call under a state is a load of its own
        if (loads and max(loads.values()) > 1) or len(made) != wanted:
            result.wrong["ledger"] = f"{loads}, and {wanted} loads were made"

    def _check_leftovers(
        self, place: Place, threads: set[threading.Thread], outcomes: list[Outcome], result: Result
    ) -> None:
        temporary = place.folder / "tmp"

        def look() -> list[str]:
            return place.leftovers() + checks.left_here(temporary, threads, place.wires)

        if checks.eventually_empty(look, 0.5):
            # Another process: one looks only once for what others have left.
            rows = Source("table", make_rows(3, "next", first=90_000), 1)
            self._child(Call(place.direct, rows, result.case.mode, "the next run", place.folder)).wait()
            if left := checks.eventually_empty(look):
                result.wrong["leftovers"] = "; ".join(left[:5])
        texts = [text for outcome in outcomes for text in outcome.texts]
        if shown := checks.leaks(texts, self.target.secrets):
            result.wrong["leak"] = shown[0]
        if shown := checks.canaries_in_files(temporary, self.target.secrets):
            result.wrong["leak"] = f"in {shown[0]}"


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
