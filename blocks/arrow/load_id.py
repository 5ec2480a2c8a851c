"""The identity of a load whose caller gave none: with it a later attempt of a run recognizes what was done before.

What is repeated by one call carries one load_id, whatever the data. Across the calls of a run it depends on the data:

* Data that proves what it is (`Scan.provable`) has an id of the root run, the path of tasks and their parameters,
  the target, the mode and the data, and of how many calls that are equal in all of this came before.
* Any other source has a new id each time. To replace, upsert or replace a partition once more changes nothing; a second
  append is refused, because nothing says which of its rows the first one loaded.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect.futures import PrefectFuture

from blocks.arrow.scan import as_scan, with_stream_staged
from blocks.base.errors import InvalidInputError
from blocks.base.ordinals import Ordinals
from blocks.base.runs import current_path, flow_is_running, has_context, parameter_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from blocks.arrow.scan import Scan

HALF = 16
"""So many digits of a derived id are those of its call, so that files whose names carry it tell that too."""
_REMEMBERED_RUNS = 1_000

Attempts = dict[str, int | None]
"""The ids of runs, and the attempt of each; None where Prefect does not show it."""


@dataclass(frozen=True)
class Target:
    """Where a load goes.

    Attributes:
        name: The table or folder as the caller wrote it.
        place: Its server and its place there: no other target has it.
        database: The database in which a statement may change the table.
    """

    name: str
    place: str
    database: str = ""

    @property
    def table(self) -> str:
        """The table without its schema, as statements may write it."""
        return self.name.rpartition(".")[2].lower()


@dataclass(frozen=True)
class Call:
    """One call of a load within a run, and how it is recognized in another attempt.

    Attributes:
        id: The same for this call in every attempt, whatever its source gives then.
        root: The root run.
        token: This call, and no other.
        attempts: The runs that it is within, and the attempt of each.
        flow_run: The innermost flow run.
        within: The innermost run.
        known: The loads of such a call that this attempt has recognized, or made.
        data: What the call loads: the same in other runs, for the same data. None where the data proves nothing.
        advice: What to write, for a refusal.
    """

    id: str
    root: str
    token: str
    attempts: Attempts
    flow_run: str
    within: str
    known: frozenset[str]
    data: str | None
    advice: str

    @property
    def record(self) -> str:
        """What the ledger keeps of it."""
        kept = {"token": self.token, "attempts": self.attempts, "flow_run": self.flow_run, "within": self.within}
        return json.dumps(kept, sort_keys=True)

    @property
    def needs_the_ledger(self) -> bool:
        """Whether an earlier attempt may have made this call: one that Prefect shows, or one that it may not show."""
        return any(attempt is None or attempt > 1 for attempt in self.attempts.values())

    def check_new(self, recorded: Iterable[tuple[str, str | None]]) -> None:
        """Check that no earlier attempt made this call, whose load_id the ledger lacks.

        Args:
            recorded: The load_id and the record of the loads of this call; None where no record is kept.

        Raises:
            InvalidInputError: One did, and loaded something else, or nobody knows what.
        """
        for load_id, record in recorded:
            if load_id not in self.known and (record is None or self._is_of_another_attempt(json.loads(record))):
                raise InvalidInputError(
                    f"An earlier attempt of this run has appended what the source held then (load {load_id}), and the "
                    f"source is not the same now. Nothing was loaded. {self.advice}"
                )

    def check_found(self, load_id: str, recorded: Iterable[tuple[str, str]]) -> None:
        """Check that the load of this id, which the ledger has, is that of an earlier attempt of this call.

        Raises:
            InvalidInputError: It is that of an equal call of the same attempt, in another process.
        """
        for found, record in recorded:
            other = json.loads(record)
            if found != load_id or other["token"] == self.token or other["within"] == self.within:
                continue
            if not self._is_of_another_attempt(other):
                raise InvalidInputError(
                    f"Two calls of this run append equal data with equal parameters (load {load_id}) in different "
                    f"processes, so a retry could not tell them apart. The second loaded nothing. {self.advice}"
                )

    def is_undone(self, mode: str, later: Iterable[tuple[str, str]]) -> bool:
        """Tell whether what the load of this call did is gone from the table by what this run has done since.

        Args:
            mode: The mode of the load.
            later: The mode and the record of the loads of this run that replaced rows of the table after it.

        Raises:
            InvalidInputError: Nobody can tell.
        """
        if mode == "replace":  # an attempt that begins again has a use for the table between two replaces
            return any(replaced == "replace" for replaced, _ in later)
        own = {replaced for replaced, record in later if same_attempt(self.attempts, json.loads(record)["attempts"])}
        if mode == "append" and "replace_partition" in own and "replace" not in own:
            raise InvalidInputError(
                "An earlier attempt of this run has appended these rows, and this attempt has replaced partitions of "
                f"the table, so nobody can tell which of the rows are still there. Nothing was loaded. {self.advice}"
            )
        return "replace" in own

    def _is_of_another_attempt(self, other: Mapping[str, Any]) -> bool:
        theirs: Attempts = other["attempts"]
        if not same_attempt(self.attempts, theirs):
            return True
        unknown = None in self.attempts.values() or None in theirs.values()
        return unknown and other["flow_run"] != self.flow_run


class GeneratedId(str):
    """A load_id that no caller gave: it stands for one load of some data, and not for something of the caller's own."""

    __slots__ = ()


class DerivedId(GeneratedId):
    """A load_id that was derived, with what the ledger keeps of its call.

    Attributes:
        call: The call.
        current: The id that the load has: itself, unless an earlier attempt loaded under it into a table that is gone.
    """

    __slots__ = ("call", "current")
    call: Call
    current: str

    def __new__(cls, load_id: str, call: Call) -> Self:
        """Return the id of a call."""
        made = super().__new__(cls, load_id)
        made.call, made.current = call, str(load_id)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (str(self), self.call)

    def take_next(self) -> None:
        """Go on to the id that follows in every attempt."""
        self.current = digest([self.current, "again"])


@dataclass
class _Memory:
    """What this process knows of one root run, over all of its attempts."""

    ordinals: Ordinals = field(default_factory=Ordinals)
    changed: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    derived: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)


_runs: OrderedDict[str, _Memory] = OrderedDict()
_lock = threading.Lock()


def with_load_id(arguments: dict[str, Any], target: Target, logger: Any) -> dict[str, Any]:
    """Return the arguments of a load with its identity fixed, so that all the attempts of the call have the same one.

    If the data is the future of another task, the load gets its identity when it starts.

    Raises:
        InvalidInputError: An earlier attempt of this run may have appended what this call would append once more; or
            the call comes from a thread in which Prefect does not show the run.
    """
    arguments = with_stream_staged(arguments)
    data = arguments.get("data")
    waits = isinstance(data, PrefectFuture) or (
        isinstance(data, list) and any(isinstance(each, PrefectFuture) for each in data)
    )
    if arguments.get("load_id") is not None or waits:
        return arguments
    scan = as_scan(data).settled()
    return arguments | {"data": scan, "load_id": derive_load_id(target, arguments.get("mode", "append"), scan, logger)}


def derive_load_id(target: Target, mode: str, scan: Scan, logger: Any) -> str:
    """Return the identity of a load: within a run a DerivedId, outside of one a new id for each call.

    Raises:
        InvalidInputError: As `with_load_id`.
    """
    path = current_path()
    if path is None:
        if not has_context() and flow_is_running():
            raise InvalidInputError(
                f"{target.place}: a flow is running, and this thread does not have Prefect's context, so a retry would "
                "not recognize the load. Nothing was loaded. Give the thread the context, with "
                "pool.submit(contextvars.copy_context().run, warehouse.load, ...), or the load a load_id=..."
            )
        return GeneratedId(uuid.uuid4().hex)
    fingerprint = scan.fingerprint()
    call_id = digest([path.root, *path.steps, target.place, mode, scan.source, scan.query or fingerprint])
    advice = f"Say which load this is, the same in every attempt: {_example(target)}."
    with _lock:
        memory = _runs.setdefault(path.root, _Memory())
        _runs.move_to_end(path.root)
        while len(_runs) > _REMEMBERED_RUNS:
            _runs.popitem(last=False)
        proved = scan.provable and not _is_changed(memory, path.attempts, target)
        data = digest([*path.steps, target.place, mode, fingerprint]) if scan.provable else None
        if proved:
            kind = [f"{name} {dtype}" for name, dtype in zip(scan.schema.names, scan.schema.types, strict=True)]
            parts = [path.root, *path.steps, target.place, mode, *kind, fingerprint]
            ordinals = memory.ordinals.next(digest(parts), path)
            own = digest([*parts, *ordinals])
            data = digest([data or "", *ordinals])
        else:
            own = uuid.uuid4().hex
        load_id = f"{call_id[:HALF]}{own[:HALF]}"
        known = _known(memory, call_id, load_id, path.attempts)
        warns = not proved and mode == "append" and call_id not in memory.warned
        memory.warned |= {call_id} if warns else set()
    if not proved and mode == "append":
        why = (
            "a statement of this run changed the table"
            if scan.provable
            else f"{scan.source} may give other rows when it is read again"
        )
        if path.repeats:
            raise InvalidInputError(
                f"{target.place}: this run has begun before, and {why}, so nobody can tell what an earlier attempt has "
                f"appended. Nothing was loaded. {advice}"
            )
        if warns:
            logger.warning("%s: %s, so a retry of this run will be refused. %s", target.place, why, advice)
    call = Call(
        id=call_id,
        root=path.root,
        token=uuid.uuid4().hex,
        attempts=path.attempts,
        flow_run=path.flow_run_id,
        within=path.runs[-1].id,
        known=known,
        data=data,
        advice=advice,
    )
    return DerivedId(load_id, call)


def note_change(database: str, names: set[str]) -> None:
    """Remember that a statement of this attempt may have changed the tables of these names."""
    if names and (path := current_path()) is not None:
        with _lock:
            memory = _runs.setdefault(path.root, _Memory())
            memory.changed.setdefault((_key(path.attempts), database), set()).update(names)


def same_attempt(one: Attempts, other: Attempts) -> bool:
    """Tell whether nothing that both are within has begun again between them.

    >>> same_attempt({"flow": 1, "first task": 2}, {"flow": 1, "second task": 1})
    True
    >>> same_attempt({"flow": 1, "first task": 2}, {"flow": 1, "first task": 1})
    False
    """
    return all(other.get(run, attempt) == attempt for run, attempt in one.items())


def _is_changed(memory: _Memory, attempts: Attempts, target: Target) -> bool:
    return any(
        database == target.database and target.table in names and same_attempt(attempts, json.loads(when))
        for (when, database), names in memory.changed.items()
    )


def _known(memory: _Memory, call_id: str, load_id: str, attempts: Attempts) -> frozenset[str]:
    by_attempt = memory.derived.setdefault(call_id, {})
    known = [ids for when, ids in by_attempt.items() if same_attempt(attempts, json.loads(when))]
    by_attempt.setdefault(_key(attempts), set()).add(load_id)
    return frozenset().union(*known, {load_id})


def _example(target: Target) -> str:
    """Return the line to add, made of the parameters of the flow."""
    if names := parameter_names():
        return f'load_id=f"{target.name}/' + "/".join(f"{{{name}}}" for name in names[:3]) + '"'
    return f'load_id="{target.name}/2026-04-30", with the day or the batch that it loads'


def _key(attempts: Attempts) -> str:
    return json.dumps(attempts, sort_keys=True)


def digest(parts: list[str]) -> str:
    """Return what tells these texts from others."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
