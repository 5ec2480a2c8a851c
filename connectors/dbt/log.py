"""dbt's log, read while it is written: nodes that start and end, and the lines that hold no statement and no row.

It tells what happens while it happens. How each node ended is what dbt's results say, where it came to its end.
https://docs.getdbt.com/reference/events-logging
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect.states import Cancelled, Completed, Failed

from blocks.base.errors import ConnectorError, InvalidInputError, MissingDriverError, TerminalError, TransientError
from connectors.dbt.artifacts import ARTIFACTS, read_json
from connectors.dbt.nodes import HOOK, dbt_node, names_in, with_reason
from connectors.dbt.secrets import MASK, Secrets
from connectors.shared.dbt import COLORS, DbtNode, is_transient_message, without_values

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.schemas.objects import State

    from blocks.jobs.node_runs import NodeRuns
    from blocks.warehouses.warehouse import Warehouse
    from connectors.dbt.record import Record


class Package(NamedTuple):
    """A package of dbt's, and the extra that installs it."""

    name: str
    extra: str


DBT = Package("dbt-core", extra="dbt")

MAKES = ("build", "run", "seed", "snapshot", "clone")
"""The commands that make tables."""
ASSETS = ("model", "seed", "snapshot")

# Lines of dbt's log at info level that hold names and counts. Any other is dropped: it may be a statement or a row.
SAID = {
    "AdapterRegistered", "BuildingCatalog", "ConcurrencyLine", "FinishedRunningStats", "FoundStats",
    "FreshnessCheckComplete", "JinjaLogInfo", "LogBatchResult", "LogFreshnessResult", "LogFunctionResult",
    "LogHookEndLine", "LogHookStartLine", "LogModelResult", "LogNodeNoOpResult", "LogSeedResult", "LogSnapshotResult",
    "LogSkipBecauseError", "LogStartBatch", "LogStartLine", "LogTestResult", "MainReportVersion", "SkippingDetails",
    "StatsLine", "UnableToPartialParse",
}  # fmt: skip
# What is said at the end of every failed or warned node is said with the node already, without values.
SAID_ALREADY = ("RunResult", "AdapterEvent", "CheckNodeTestFailure", "EndOfRunSummary")
LEVELS = {"info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class Watch:
    """Reads dbt's log while it is written: what it says of nodes becomes their runs, the rest goes to the log.

    Args:
        command: What dbt does.
        target: The directory of its artifacts.
        warehouse: Where it builds, as a block; None where only dbt's own profile knows.
        secrets: What is masked in all that it says.
        record: Takes which nodes started and how they ended.

    Attributes:
        nodes: How each node ended.
        started: The nodes that started.
        printed: What dbt was asked to print.
        unread: How many lines are no events.
    """

    def __init__(
        self,
        command: str,
        *,
        target: Path | None = None,
        warehouse: Warehouse | None = None,
        secrets: Secrets | None = None,
        record: Record | None = None,
    ) -> None:
        self.command = command
        self.nodes: dict[str, DbtNode] = {}
        self.started: set[str] = set()
        self.printed: list[str] = []
        self.version = ""
        self.unread = 0
        self._running: Counter[str] = Counter()
        self._reasons: defaultdict[str, list[str]] = defaultdict(list)
        self._target, self._warehouse, self._record = target, warehouse, record
        self._secrets = secrets or Secrets()
        self._errors: list[str] = []
        self._checks: list[str] = []
        self._names: frozenset[str] | None = None
        self._manifest: dict[str, Any] | None = None

    def begin(self) -> None:
        """Note that dbt has been started."""
        if self._record:
            self._record.begin()

    def read(self, line: str, runs: NodeRuns) -> None:
        """Take one line; one that is not an event of dbt's is counted in `unread`."""
        if not line.strip():
            return
        try:
            event = json.loads(line[max(line.find('{"data": '), 0) :])  # what a model prints may stand before it
            info, data = event["info"], event["data"]
            name, level, words = info["name"], info["level"], COLORS.sub("", str(info["msg"]))
            node = data.get("node_info") or {}
            key = node.get("unique_id") or ""
            is_whole = MASK not in key + name + level  # dbt masks secrets of the user's in names, too
            if is_whole:
                self._take(name, key, node, data, runs)
        except (ValueError, KeyError, TypeError, AttributeError):
            is_whole = False
        if not is_whole:
            self.unread += 1
            return
        if level == "error" and not name.startswith(("RunResult", "Log", "GenericExceptionOnRun")):
            self._errors.append(words)
        if name in SAID or (level == "warn" and not name.startswith(SAID_ALREADY)):
            for text in self._secrets.mask(words).splitlines():
                runs.log(key, LEVELS.get(level, logging.INFO), text)

    def _take(self, name: str, key: str, node: dict[str, Any], data: dict[str, Any], runs: NodeRuns) -> None:
        if name == "NodeStart":
            self._running[key] += 1  # each batch of a microbatch model starts and ends within it, under its name
            if self._running[key] == 1:
                self.start(key, str(node.get("resource_type")), runs)
        elif name == "NodeFinished":
            if self._running[key] > 1:
                self._running[key] -= 1
                return
            ended = dbt_node(node, data.get("run_result") or {}, self.said)
            if MASK not in ended.status:
                self._running[key] -= 1
                self.finish(with_reason(ended, self._reasons[key], self.said), runs)
        elif name == "GenericExceptionOnRun" and key:
            self._reasons[key].append(str(data.get("exc") or ""))
            runs.log(key, logging.ERROR, self.said(self._reasons[key][-1]))
        elif name == "LogHookStartLine" and self._record:
            self._record.start_hook(key)
        else:
            self._hear(name, data)

    def _hear(self, name: str, data: dict[str, Any]) -> None:
        if name == "DebugCmdResult":
            self._checks.append(COLORS.sub("", str(data.get("msg") or "")).strip())
        elif name == "PrintEvent":
            self.printed.append(str(data.get("msg") or ""))
        elif name == "MainReportVersion":
            self.version = f"dbt {data['version'].lstrip('=')}"

    def start(self, key: str, resource_type: str, runs: NodeRuns) -> None:
        """Start the run of a node."""
        self.started.add(key)
        if self._record:
            self._record.start(key)
        makes, of = None, []
        if runs.is_recorded and self.command in MAKES and resource_type in ASSETS:
            makes = self._address(key)
            of = [address for each in self._made_of(key) if (address := self._address(each))]
        runs.start(key, makes=makes, of=of)

    def finish(self, node: DbtNode, runs: NodeRuns) -> None:
        """End the run of a node as it ended."""
        key = node.unique_id
        self.nodes[key] = node
        if self._record:
            self._record.end(node)
        if node.is_failed:
            runs.log(key, logging.ERROR, str(node))
        runs.finish(key, state_of(node), {"rows": node.rows, "seconds": node.seconds, "status": node.status})

    def settle(self, nodes: dict[str, DbtNode], runs: NodeRuns) -> dict[str, DbtNode]:
        """End the runs of what the log did not tell of, and return how all nodes ended: by dbt's results, if they say.

        `sources.json` has no row of a source that could not be read, which the log tells of.

        Args:
            nodes: How each node ended, by dbt's results.
            runs: The runs of the nodes.
        """
        beside = {key: node for key, node in self.nodes.items() if node.is_failed and key not in nodes}
        settled = beside | {key: with_reason(node, self._reasons[key], self.said) for key, node in nodes.items()}
        for key, node in settled.items():
            if node.resource_type != HOOK and (key not in self.nodes or self.nodes[key].status != node.status):
                if key not in self.started:
                    self.start(key, node.resource_type, runs)
                self.finish(node, runs)
        return settled

    def said(self, message: str) -> str:
        """The words of a failure without secrets and without values of rows."""
        if self._names is None:
            self._names = names_in(self.manifest())
        return without_values(self._secrets.mask(message), self._names)

    def _address(self, key: str) -> str | None:
        """Where a node's table is, as the warehouse calls it."""
        manifest = self.manifest()
        node = manifest.get("nodes", {}).get(key) or manifest.get("sources", {}).get(key) or {}
        if not node.get("relation_name"):
            return None
        table = f"{node['schema']}.{node.get('alias') or node.get('identifier') or node['name']}"
        if self._warehouse:
            return self._warehouse.asset_key(table)
        adapter = manifest.get("metadata", {}).get("adapter_type") or "dbt"
        return f"{adapter}://{node.get('database') or ''}/{table}"

    def _made_of(self, key: str) -> list[str]:
        """The nodes that are tables and that this one reads; what is ephemeral is looked through."""
        nodes = self.manifest().get("nodes", {})
        found: dict[str, None] = {}
        waiting = list(nodes.get(key, {}).get("depends_on", {}).get("nodes", ()))
        while waiting:
            parent = waiting.pop()
            if nodes.get(parent, {}).get("config", {}).get("materialized") == "ephemeral":
                waiting += nodes[parent].get("depends_on", {}).get("nodes", ())
            else:
                found[parent] = None
        return list(found)

    def manifest(self) -> dict[str, Any]:
        """Return dbt's manifest of the project; empty where dbt ended before it was written."""
        if self._manifest is None:
            path = self._target and self._target / ARTIFACTS["manifest"]
            self._manifest = (path and read_json(path)) or {}
        return self._manifest

    def _failed_check(self) -> str:
        """What `dbt debug` found wrong, which its log does not hold."""
        wrong = [said for said in self._checks if not re.match(r"- |\d+ checks? failed:", said)]
        if not wrong:
            return ""
        head, is_quoted, words = wrong[0].partition("the following error:")
        return words.strip(" \n>") if is_quoted else " ".join(head.split())

    def error(self, verb: str, project: str, code: int | None, said: str) -> ConnectorError:
        """Return the error for an invocation that ended before its nodes did."""
        raw = "\n".join(self._errors).removeprefix("Encountered an error:").strip() or self._failed_check()
        words = self.said(raw) if raw else ""
        if not words:
            usage = [line for line in said.splitlines() if line.startswith(("Error: ", "ModuleNotFoundError: "))]
            words = self._secrets.mask(usage[-1]) if usage else ""
        if "ModuleNotFoundError: No module named 'dbt'" in words:
            return MissingDriverError(
                f"{DBT.name} is not installed. Install it with: pip install 'etl-blocks[{DBT.extra}]'"
            )
        if not words:
            return TerminalError(f"dbt {verb} of {project} ended with code {code} and without a word.")
        message = f"dbt {verb} of {project} did not run: {words.rstrip('.')}."
        if is_transient_message(raw):
            return TransientError(message)
        if "dbt deps" in raw:
            return InvalidInputError(f"{message} Call deps() first.")
        return InvalidInputError(message)


def state_of(node: DbtNode) -> State[Any]:
    """The state of a node's task run."""
    if node.is_failed:
        return Failed(message=node.message or node.status)
    if node.status == "skipped":
        return Cancelled(name="Skipped", message="Something before it failed.")
    if node.status == "warn":
        return Completed(name="Warned", message=node.message or None)
    what = node.status if node.rows is None else f"{node.rows} rows"
    return Completed(message=f"{what} in {node.seconds:.2f} s")
