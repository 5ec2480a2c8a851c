"""A case, and how it is drawn: every combination of connector, mode and fault in turn, the rest at random."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from integration_tests.faults.data import RETRYABLE_BY_PREFECT, SOURCES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from integration_tests.faults.targets.base import Target

Combination = tuple[str, str, str]
"""Connector, mode, fault."""

PROCESS_FAULTS = ("kill -9", "SIGTERM", "SIGINT", "SIGSTOP")
RACES = ("two loaders", "another load")
SOURCE_FAULT = "source breaks"
AT = ("commit", "claim", "rows", "any", "any")
"""Where a fault strikes: at the statement or request of that kind, or at any."""
READS_ON = ("append", "upsert")
"""Modes of a load under a state."""
WAYS = ("retry", "retry", "again", "again", "process", "task", "flow")
"""By the block's own retries; by calling again with the load_id; so in a new process; by a task's or a flow's retry."""


@dataclass(frozen=True)
class Case:
    """One attack.

    Attributes:
        fresh: Whether the table, and the ledger, do not exist yet.
        moment: Which of the requests that `at` allows, from 0 to 1.
    """

    seed: int
    number: int
    target: str
    mode: str
    fault: str
    source: str
    rows: int
    batches: int
    fresh: bool
    at: str
    moment: float
    way: str

    @property
    def combination(self) -> Combination:
        """What the result table has a line for."""
        return self.target, self.mode, self.fault

    def __str__(self) -> str:
        what = asdict(self)
        del what["seed"], what["number"]
        what["moment"] = round(self.moment, 3)
        return ", ".join(f"{name}={value}" for name, value in what.items())


def combinations(targets: Sequence[type[Target]]) -> list[Combination]:
    """All of them."""
    return [(each.name, mode, fault) for each in targets for mode in each.modes for fault in each.faults]


def draw(seed: int, number: int, targets: Sequence[type[Target]]) -> Case:
    """The case of that number; each round of them has every combination once, in an order of its own."""
    every = combinations(targets)
    turn, place = divmod(number, len(every))
    order = list(range(len(every)))
    random.Random(f"{seed}/{turn}").shuffle(order)
    target, mode, fault = every[order[place]]
    kind = next(each for each in targets if each.name == target)
    rest = _fitting(fault, mode, _rest(kind, seed, number), kind)
    return Case(seed=seed, number=number, target=target, mode=mode, fault=fault, **rest)


def _rest(kind: type[Target], seed: int, number: int) -> dict[str, Any]:
    draw = random.Random(f"{seed}/case {number}")
    return {
        "source": draw.choice(SOURCES),
        "rows": draw.choice((50, 200, 500, kind.most_rows)),
        "batches": draw.choice((2, 3, 5)),
        "fresh": draw.random() < 0.3,
        "at": draw.choice(AT),
        "moment": draw.random(),
        "way": draw.choice(WAYS),
    }


def _fitting(fault: str, mode: str, rest: dict[str, Any], kind: type[Target]) -> dict[str, Any]:
    """What was drawn, with what does not go together put right."""
    if fault in RACES:
        rest["way"] = "again"
    if fault in PROCESS_FAULTS and rest["way"] not in {"again", "process"}:
        rest["way"] = "again"
    if fault in kind.faults_of_reading:
        rest["source"] = "object"
    if rest["source"] == "since" and (mode not in READS_ON or kind.is_store):
        rest["source"] = "query"
    if rest["way"] in {"task", "flow"} and rest["source"] not in RETRYABLE_BY_PREFECT:
        rest["source"] = "parquet"
    return rest
