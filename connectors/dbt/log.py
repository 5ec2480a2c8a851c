"""dbt's log, read while it is written: nodes that start and end, and the lines that hold no statement and no row.

https://docs.getdbt.com/reference/events-logging
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from prefect.states import Cancelled, Completed, Failed

from blocks.base.errors import ConnectorError, InvalidInputError, MissingDriverError, TerminalError, TransientError
from connectors.shared.dbt import DbtNode, is_transient_message, without_values

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from prefect.client.schemas.objects import State

    from blocks.jobs.node_runs import NodeRuns
    from blocks.warehouses.warehouse import Warehouse


class Package(NamedTuple):
    """A package of dbt's, and the extra that installs it."""

    name: str
    extra: str


DBT = Package("dbt-core", extra="dbt")

MAKES = ("build", "run", "seed", "snapshot")
"""The commands that make tables."""
ASSETS = ("model", "seed", "snapshot")
HOOK = "operation"

ARTIFACTS = {
    "manifest": "manifest.json",
    "run_results": "run_results.json",
    "sources": "sources.json",
    "catalog": "catalog.json",
    "docs": "index.html",
    "partial_parse": "partial_parse.msgpack",
    "compiled": "compiled",
}
"""What is kept of an invocation. https://docs.getdbt.com/reference/artifacts/dbt-artifacts"""

# Lines of dbt's log at info level that hold names and counts. Any other is dropped: it may be a statement or a row.
SAID = {
    "AdapterRegistered", "BuildingCatalog", "ConcurrencyLine", "FinishedRunningStats", "FoundStats",
    "FreshnessCheckComplete", "JinjaLogInfo", "LogBatchResult", "LogFreshnessResult", "LogFunctionResult",
    "LogHookEndLine", "LogHookStartLine", "LogModelResult", "LogNodeNoOpResult", "LogSeedResult", "LogSnapshotResult",
    "LogStartBatch", "LogStartLine", "LogTestResult", "MainReportVersion", "SkippingDetails", "StatsLine",
    "UnableToPartialParse",
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
        nodes: Takes how each node ended.
    """

    def __init__(
        self,
        command: str,
        *,
        target: Path | None = None,
        warehouse: Warehouse | None = None,
        nodes: dict[str, DbtNode] | None = None,
    ) -> None:
        self.command = command
        self.nodes = {} if nodes is None else nodes
        self.version = ""
        self.has_finished = False
        self._target, self._warehouse = target, warehouse
        self._errors: list[str] = []
        self._manifest: dict[str, Any] | None = None

    def read(self, line: str, runs: NodeRuns) -> None:
        """Take one line; one that is not an event of dbt's is dropped."""
        try:
            event = json.loads(line)
            info, data = event["info"], event["data"]
            name, level, words = info["name"], info["level"], str(info["msg"])
        except (ValueError, KeyError, TypeError):
            return
        node = data.get("node_info") or {}
        key = node.get("unique_id") or ""
        if name == "NodeStart":
            self._start(key, node, runs)
        elif name == "NodeFinished":
            self._finish(key, node, data.get("run_result") or {}, runs)
        elif name in ("EndOfRunSummary", "FreshnessCheckComplete", "CatalogWritten"):
            self.has_finished = True
        elif name == "MainReportVersion":
            self.version = words.removeprefix("Running with ").replace("=", " ")
        elif level == "error" and not name.startswith(("RunResult", "Log")):
            self._errors.append(words)
        if name in SAID or (level == "warn" and not name.startswith(SAID_ALREADY)):
            for text in words.splitlines():
                runs.log(key, LEVELS.get(level, logging.INFO), text)

    def _start(self, key: str, node: dict[str, Any], runs: NodeRuns) -> None:
        makes, of = None, []
        if runs.is_recorded and self.command in MAKES and node.get("resource_type") in ASSETS:
            makes = self._address(key)
            of = [address for each in self._made_of(key) if (address := self._address(each))]
        runs.start(key, makes=makes, of=of)

    def _finish(self, key: str, info: dict[str, Any], result: dict[str, Any], runs: NodeRuns) -> None:
        node = dbt_node(info, result)
        self.nodes[key] = node
        if node.is_failed:
            runs.log(key, logging.ERROR, str(node))
        runs.finish(key, state_of(node), {"rows": node.rows, "seconds": node.seconds, "status": node.status})

    def _address(self, key: str) -> str | None:
        """Where a node's table is, as the warehouse calls it."""
        manifest = self._manifested()
        node = manifest.get("nodes", {}).get(key) or manifest.get("sources", {}).get(key) or {}
        if not node.get("relation_name"):
            return None
        table = f"{node['schema']}.{node.get('alias') or node.get('identifier') or node['name']}"
        if self._warehouse:
            return self._warehouse.uri(table)
        adapter = manifest.get("metadata", {}).get("adapter_type") or "dbt"
        return f"{adapter}://{node.get('database') or ''}/{table}"

    def _made_of(self, key: str) -> list[str]:
        """The nodes that are tables and that this one reads; what is ephemeral is looked through."""
        nodes = self._manifested().get("nodes", {})
        found: dict[str, None] = {}
        waiting = list(nodes.get(key, {}).get("depends_on", {}).get("nodes", ()))
        while waiting:
            parent = waiting.pop()
            if nodes.get(parent, {}).get("config", {}).get("materialized") == "ephemeral":
                waiting += nodes[parent].get("depends_on", {}).get("nodes", ())
            else:
                found[parent] = None
        return list(found)

    def _manifested(self) -> dict[str, Any]:
        if self._manifest is None:
            path = self._target and self._target / ARTIFACTS["manifest"]
            self._manifest = (path and read_json(path)) or {}
        return self._manifest

    def error(self, verb: str, project: str, code: int | None, said: str) -> ConnectorError:
        """Return the error for an invocation that ended before its nodes did."""
        raw = "\n".join(self._errors)
        words = without_values(raw.removeprefix("Encountered an error:").strip()) if raw else ""
        if not words:
            usage = [line for line in said.splitlines() if line.startswith(("Error: ", "ModuleNotFoundError: "))]
            words = usage[-1] if usage else ""
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


def dbt_node(info: Mapping[str, Any], result: Mapping[str, Any]) -> DbtNode:
    """A node as dbt's events `NodeFinished` have it."""
    relation = info.get("node_relation") or {}
    status = str(result.get("status") or info.get("node_status") or "")
    words = str(result.get("message") or "")
    rows = (result.get("adapter_response") or {}).get("rows_affected")
    failures = int(result.get("num_failures") or 0)
    is_test = info.get("resource_type") in ("test", "unit_test")
    node = DbtNode(
        unique_id=info["unique_id"],
        name=info.get("node_name", ""),
        resource_type=info.get("resource_type", ""),
        status=status,
        seconds=float(result.get("execution_time") or 0.0),
        rows=int(rows) if isinstance(rows, int | float) and rows >= 0 else None,
        relation=f"{relation['schema']}.{relation['alias']}" if relation.get("relation_name") else None,
        failures=failures if is_test else None,
        started_at=_time(info.get("node_started_at")),
        finished_at=_time(info.get("node_finished_at")),
    )
    if node.is_failed:
        return node.model_copy(update={"message": without_values(words), "is_transient": is_transient_message(words)})
    if status == "warn":
        return node.model_copy(
            update={"message": without_values(words) or (f"Got {failures} results" if failures else "")}
        )
    return node


def failed_hooks(results: Mapping[str, Any] | None) -> dict[str, DbtNode]:
    """The hooks of the project that failed, which dbt tells of in its results only."""
    rows = [row for row in (results or {}).get("results", ()) if row["unique_id"].startswith(f"{HOOK}.")]
    nodes = [
        dbt_node(
            {"unique_id": row["unique_id"], "node_name": row["unique_id"].rpartition(".")[2], "resource_type": HOOK},
            row,
        )
        for row in rows
    ]
    return {node.unique_id: node for node in nodes if node.is_failed}


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


def _time(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC) if text else None


def read_json(path: Path) -> dict[str, Any] | None:
    """What an artifact holds, None where there is none that is whole."""
    try:
        read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return read
