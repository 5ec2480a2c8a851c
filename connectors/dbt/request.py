"""What is asked of dbt, and what of it earlier attempts have done."""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import yaml  # type: ignore[import-untyped]

from blocks.base.errors import InvalidInputError
from connectors.dbt.nodes import HOOK

if TYPE_CHECKING:
    from connectors.shared.dbt import DbtNode

Command = Literal["build", "run", "test", "seed", "snapshot", "source freshness", "compile", "docs generate", "clone"]
RUN_OPERATION = "run-operation"
LIST = "list"
COMMANDS = (*Command.__args__, RUN_OPERATION, LIST)  # type: ignore[attr-defined]

RetryNodes = Literal["transient", "any", "never"]

FULL_REFRESH = ("build", "run", "seed", "compile", "clone")
RESUMED = ("build", "run", "test", "seed", "snapshot")
"""The commands of which only a part may be done again."""
NEEDS_NODES = (*RESUMED, "source freshness", "clone")
KINDS = {
    "build": ("model", "seed", "snapshot", "test", "unit_test", "function"),
    "run": ("model",),
    "test": ("test", "unit_test"),
    "seed": ("seed",),
    "snapshot": ("snapshot",),
}
"""What each command takes of what is selected."""
COMPARING = re.compile(r"\b(state|source_status|result):")
"""Selections that are empty where nothing has changed, which is no mistake."""

OWNED = {
    "args", "exclude", "full-refresh", "log-format", "log-format-file", "log-level", "log-level-file", "log-path",
    "output", "profile", "profiles-dir", "project-dir", "quiet", "no-quiet", "select", "selector", "target",
    "target-path", "threads", "use-colors", "vars", "write-json", "no-write-json", "models", "model",
}  # fmt: skip
"""The options that the block gives itself."""
OF_COMMANDS = {
    "empty", "no-empty", "event-time-end", "event-time-start", "export-saved-queries", "sample", "show",
    "store-failures", "compile", "no-compile", "static", "empty-catalog", "inline",
}  # fmt: skip
"""The options that `dbt list` has not."""
OPTION = re.compile(r"--([a-z][a-z-]*)(?:=(.*))?", re.DOTALL)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """YAML as dbt reads it."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _decimal(dumper: yaml.SafeDumper, value: Decimal) -> yaml.Node:
    if not value.is_finite() or Decimal(repr(float(value))) != value:
        raise yaml.representer.RepresenterError("a Decimal that no float holds", value)
    return dumper.represent_float(float(value))


_Dumper.add_representer(Decimal, _decimal)
_Dumper.add_multi_representer(tuple, lambda dumper, value: dumper.represent_list(list(value)))
_Dumper.add_multi_representer(Mapping, lambda dumper, value: dumper.represent_dict(dict(value)))
_Dumper.add_multi_representer(str, lambda dumper, value: dumper.represent_str(str.__str__(value)))


def as_yaml(name: str, values: Mapping[str, Any]) -> str:
    """Return the values as one line of YAML, which dbt takes on its command line.

    >>> as_yaml("vars", {"day": dt.date(2026, 4, 30), "limit": Decimal("0.5"), "text": "2026-04-30", "none": None})
    "{day: 2026-04-30, limit: 0.5, text: '2026-04-30', none: null}"
    """
    try:
        text: str = yaml.dump(
            dict(values),
            Dumper=_Dumper,
            default_flow_style=True,
            width=float("inf"),
            sort_keys=False,
        )
    except yaml.representer.RepresenterError as error:
        kind = error.args[0] if "Decimal" in str(error.args[0]) else f"a {type(error.args[-1]).__name__}"
        raise InvalidInputError(f"dbt takes {name} as YAML, which has no place for {kind}. Give it as text.") from None
    return text.strip()


def checked_options(options: Sequence[str]) -> Sequence[str]:
    """Return further options of dbt's command line.

    Raises:
        InvalidInputError: One is not written as an option, or is given by the block itself.
    """
    for option in options:
        found = OPTION.fullmatch(option)
        if found is None:
            raise InvalidInputError(f"An option is written --name or --name=value, and not {option!r:.50}.")
        if found[1] == "profile":
            raise InvalidInputError("The option --profile is the variable DBT_PROFILE here. Give it in environment.")
        if found[1] in OWNED:
            raise InvalidInputError(f"The option --{found[1]} has an argument or a field of its own.")
    return options


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """What every command takes by name; `DbtProject.build` describes it."""

    exclude: str | Sequence[str] | None = ()
    vars: Mapping[str, Any] | None = None
    selector: str | None = None
    options: Sequence[str] = ()
    token: str = ""

    def request(self, command: str, select: str | Sequence[str] | None, full_refresh: bool = False) -> Request:
        """Return the command with these options."""
        return Request(command, select, self.exclude, self.vars, full_refresh, self.selector, self.options)


@dataclass(frozen=True, kw_only=True)
class CommandOptions(SelectOptions):
    """What every command takes that has a result."""

    raise_on_failure: bool = True


class SelectArguments(TypedDict, total=False):
    """SelectOptions as keyword arguments, which editors and type checkers know them by."""

    exclude: str | Sequence[str] | None
    vars: Mapping[str, Any] | None
    selector: str | None
    options: Sequence[str]
    token: str


class CommandArguments(SelectArguments, total=False):
    """CommandOptions likewise."""

    raise_on_failure: bool


@dataclass(frozen=True)
class Request:
    """A command of dbt with what it is asked to take.

    Attributes:
        command: The command.
        select: What to take, in dbt's syntax.
        exclude: What to leave out of that.
        vars: The project's variables.
        full_refresh: Whether tables are made anew.
        selector: The name of a selector of the project's.
        options: Further options of the command line.
        macro: What `run-operation` runs.
        args: The arguments of the macro.
    """

    command: str
    select: str | Sequence[str] | None = ()
    exclude: str | Sequence[str] | None = ()
    vars: Mapping[str, Any] | None = None
    full_refresh: bool = False
    selector: str | None = None
    options: Sequence[str] = ()
    macro: str = ""
    args: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise InvalidInputError(f"No command {self.command!r:.50} here. Take one of: {', '.join(COMMANDS)}.")
        if self.full_refresh and self.command not in FULL_REFRESH:
            raise InvalidInputError(f"dbt {self.command} has no full_refresh.")
        if self.selector and (_words(self.select) or _words(self.exclude)):
            raise InvalidInputError("dbt takes a selector or select and exclude. Give one of the two.")
        for name, word in {"selector": self.selector or "", "macro": self.macro}.items():
            if word.startswith("-"):
                raise InvalidInputError(f"{name} takes a name, and {word!r:.50} begins like an option.")
        checked_options(self.options)

    @property
    def selection(self) -> str:
        """What is selected, for messages."""
        chosen = {"select": _words(self.select), "exclude": _words(self.exclude), "selector": [self.selector or ""]}
        return "".join(f" for {name} {' '.join(words)!r}" for name, words in chosen.items() if any(words))

    @property
    def may_be_empty(self) -> bool:
        """Whether it is no mistake that nothing is selected: where the selection is what has changed."""
        return any(COMPARING.search(word) for word in _words(self.select))

    @property
    def variables(self) -> str:
        """The project's variables as dbt takes them; empty where there are none."""
        return as_yaml("vars", self.vars) if self.vars else ""

    def arguments(self, threads: int | None) -> list[str]:
        """Return the command line.

        >>> Request("run", "orders+ customers", exclude=["tag:slow"], full_refresh=True).arguments(2)
        ['run', '--threads=2', '--select', 'orders+', 'customers', '--exclude', 'tag:slow', '--full-refresh']
        """
        words = [*self.command.split(), *([self.macro] if self.macro else [])]
        words += [f"--threads={threads}"] if threads and self.command != LIST else []
        words += self._chosen()
        words += ["--full-refresh"] if self.full_refresh else []
        words += [f"--args={as_yaml('args', self.args)}"] if self.args else []
        return [*words, *self.options, *([f"--vars={self.variables}"] if self.vars else [])]

    def listing(self) -> list[str]:
        """Return the command line that lists what this one takes, as it was selected."""
        options = [option for option in self.options if option[2:].partition("=")[0] not in OF_COMMANDS]
        output = ["--output=json", "--output-keys", "unique_id", "config.materialized"]
        return [LIST, *self._chosen(), *options, *([f"--vars={self.variables}"] if self.vars else []), *output]

    def args_of_results(self) -> dict[str, Any]:
        """Return what dbt writes of the command line into its results, for `dbt retry`."""
        args: dict[str, Any] = {"which": self.command}
        for option in self.options:
            name, _, value = option[2:].partition("=")
            if name.startswith("no-") and not value:
                args[name[3:].replace("-", "_")] = False
            else:
                args[name.replace("-", "_")] = value or True
        return args | ({"full_refresh": True} if self.full_refresh else {}) | {"vars": self.variables or "{}"}

    def _chosen(self) -> list[str]:
        words: list[str] = []
        for name, chosen in (("--select", _words(self.select)), ("--exclude", _words(self.exclude))):
            if any(word.startswith("-") for word in chosen):
                raise InvalidInputError(f"{name[2:]} takes names, and {' '.join(chosen)!r} begins like an option.")
            words += [name, *chosen] if chosen else []
        return words + ([f"--selector={self.selector}"] if self.selector else [])


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

    def take(self, results: dict[str, Any] | None, nodes: Mapping[str, DbtNode]) -> None:
        """Take newer results in place of those of the same nodes.

        Args:
            results: dbt's results, None where there are none.
            nodes: How each node ended.
        """
        earlier = {key: node for key, node in self.nodes.items() if node.resource_type != HOOK}
        self.nodes = {**earlier, **nodes}
        if results is None or self.results is None:
            self.results = self.results or results
            return
        rows = {row["unique_id"]: row for row in (*self.results["results"], *results["results"])}
        self.results = self.results | {"results": list(rows.values()), "elapsed_time": results.get("elapsed_time", 0.0)}


def nodes_to_retry(request: Request, call: Call, manifest: Mapping[str, Any], which: RetryNodes) -> set[str]:
    """The failed nodes that are worth another attempt, and the skipped ones that nothing else keeps back."""
    failed = {key: node for key, node in call.nodes.items() if node.is_failed}
    if which == "never" or request.command == RUN_OPERATION:  # a macro may have done a part of its work
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


def _words(chosen: str | Sequence[str] | None) -> list[str]:
    if chosen is None:
        return []
    return chosen.split() if isinstance(chosen, str) else [word for each in chosen for word in each.split()]
