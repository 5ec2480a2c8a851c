"""What is asked of dbt, and what of it earlier attempts have done."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from blocks.base.errors import InvalidInputError
from connectors.dbt.log import HOOK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.shared.dbt import DbtNode

Command = Literal["build", "run", "test", "seed", "snapshot", "source freshness", "compile", "docs generate"]

RetryNodes = Literal["transient", "any", "never"]

FULL_REFRESH = ("build", "run", "seed", "compile")
RESUMED = ("build", "run", "test", "seed", "snapshot")
"""The commands of which only a part may be done again; the others only read."""
NEEDS_NODES = (*RESUMED, "source freshness")


@dataclass(frozen=True)
class Request:
    """A command of dbt with what it is asked to take."""

    command: str
    select: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()
    vars: Mapping[str, Any] | None = None
    full_refresh: bool = False

    def __post_init__(self) -> None:
        if self.command not in (*NEEDS_NODES, "compile", "docs generate"):
            raise InvalidInputError(f"No command {self.command!r:.50} here. Take one of: {', '.join(NEEDS_NODES)}, ...")
        if self.full_refresh and self.command not in FULL_REFRESH:
            raise InvalidInputError(f"dbt {self.command} has no full_refresh.")

    @property
    def selection(self) -> str:
        """What is selected, for messages."""
        chosen = {"select": _words(self.select), "exclude": _words(self.exclude)}
        return "".join(f" for {name} {' '.join(words)!r}" for name, words in chosen.items() if words)

    def arguments(self, threads: int) -> list[str]:
        """The command line.

        >>> Request("run", "orders+ customers", exclude=["tag:slow"], full_refresh=True).arguments(2)
        ['run', '--threads=2', '--select', 'orders+', 'customers', '--exclude', 'tag:slow', '--full-refresh']
        """
        words = [*self.command.split(), f"--threads={threads}"]
        for name, chosen in (("--select", _words(self.select)), ("--exclude", _words(self.exclude))):
            if any(word.startswith("-") for word in chosen):
                raise InvalidInputError(f"{name[2:]} takes names, and {' '.join(chosen)!r} begins like an option.")
            words += [name, *chosen] if chosen else []
        words += ["--full-refresh"] if self.full_refresh else []
        return words + (["--vars", json.dumps(dict(self.vars))] if self.vars else [])


@dataclass
class Call:
    """What is known of a call from its earlier attempts.

    Attributes:
        attempts: How many there were.
        results: dbt's results of them all, as `dbt retry` reads them.
        again: The nodes that the next attempt takes; none means all.
        nodes: How each node ended last.
    """

    attempts: int = 0
    results: dict[str, Any] | None = None
    again: set[str] = field(default_factory=set)
    nodes: dict[str, DbtNode] = field(default_factory=dict)
    started_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def take(self, results: dict[str, Any] | None) -> None:
        """Take newer results in place of those of the same nodes."""
        if results is None:
            return
        if self.results is None:
            self.results = results
            return
        rows = {row["unique_id"]: row for row in (*self.results["results"], *results["results"])}
        self.results = self.results | {"results": list(rows.values()), "elapsed_time": results.get("elapsed_time", 0.0)}


def nodes_to_retry(request: Request, call: Call, manifest: Mapping[str, Any], which: RetryNodes) -> set[str]:
    """The failed nodes that are worth another attempt, and the skipped ones that nothing else keeps back."""
    failed = {key: node for key, node in call.nodes.items() if node.is_failed}
    if which == "never":
        return set()
    again = {
        key
        for key, node in failed.items()
        if node.is_transient or (which == "any" and not (node.resource_type == "test" and node.status == "fail"))
    }
    if not again or request.command not in RESUMED:
        return again
    if not any(node.status == "skipped" for node in call.nodes.values()):  # a hook at the end is not run by itself
        again -= {key for key in again if failed[key].resource_type == HOOK}
    parents = manifest.get("parent_map", {})
    tested = defaultdict(set)
    for key in failed:
        for parent in parents.get(key, ()) if key.startswith(("test.", "unit_test.")) else ():
            tested[parent].add(key)
    for key, node in call.nodes.items():
        if node.status == "skipped":
            above = _ancestors(key, parents)
            causes = {each for each in above if each in failed}.union(*(tested[each] for each in above))
            if causes <= again:
                again.add(key)
    return again


def _ancestors(key: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(parents.get(key, ()))
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting += parents.get(parent, ())
    return found


def _words(chosen: str | Sequence[str]) -> list[str]:
    return chosen.split() if isinstance(chosen, str) else [word for each in chosen for word in each.split()]
