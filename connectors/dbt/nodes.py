"""How each node ended: as dbt's log says it while it runs, and as its results say it in the end.

https://docs.getdbt.com/reference/artifacts/run-results-json and /sources-json
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from connectors.shared.dbt import DbtNode, is_transient_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Said = Callable[[str], str]

HOOK = "operation"
TESTS = ("test", "unit_test")


def dbt_node(info: Mapping[str, Any], result: Mapping[str, Any], said: Said) -> DbtNode:
    """Return a node as dbt's event `NodeFinished` has it.

    Args:
        info: Which node it is.
        result: How it ended.
        said: Takes values of rows and secrets out of dbt's words.
    """
    relation = info.get("node_relation") or {}
    kind = info.get("resource_type", "")
    node = DbtNode(
        unique_id=info["unique_id"],
        name=info.get("node_name", ""),
        resource_type=kind,
        status=str(result.get("status") or info.get("node_status") or ""),
        seconds=float(result.get("execution_time") or 0.0),
        rows=_rows(result),
        relation=f"{relation['schema']}.{relation['alias']}" if relation.get("relation_name") else None,
        failures=int(result.get("num_failures") or 0) if kind in TESTS else None,
        started_at=_time(info.get("node_started_at")),
        finished_at=_time(info.get("node_finished_at")),
    )
    return _explained(node, str(result.get("message") or ""), said)


def nodes_of(results: Mapping[str, Any], manifest: Mapping[str, Any], said: Said) -> dict[str, DbtNode]:
    """Return the nodes of dbt's results, those of `run_results.json` or of `sources.json`.

    Args:
        results: What dbt wrote.
        manifest: What it knows of the project.
        said: As in `dbt_node`.
    """
    found = {}
    for row in results["results"]:
        key = row["unique_id"]
        kind, _, rest = key.partition(".")
        known: Mapping[str, Any] = next((part[key] for part in _parts(manifest) if key in part), {})
        timing = [each for each in row.get("timing") or () if each.get("started_at")]
        table = known.get("alias") or known.get("identifier") or known.get("name")
        node = DbtNode(
            unique_id=key,
            name=known.get("name") or rest.rpartition(".")[2],
            resource_type=known.get("resource_type") or kind,
            status=row["status"],
            seconds=float(row.get("execution_time") or 0.0),
            rows=_rows(row),
            relation=f"{known['schema']}.{table}" if known.get("relation_name") else None,
            failures=int(row.get("failures") or 0) if kind in TESTS else None,
            started_at=_time(timing[0]["started_at"]) if timing else None,
            finished_at=_time(timing[-1].get("completed_at")) if timing else None,
        )
        found[key] = _explained(node, _words(row), said)
    return found


def has_nodes(results: Mapping[str, Any] | None) -> bool:
    """Tell whether dbt's results are those of nodes: there may be none, or hooks of the project only."""
    rows = (results or {}).get("results", ())
    return any(not row["unique_id"].startswith(f"{HOOK}.") for row in rows)


def with_reason(node: DbtNode, reasons: Sequence[str], said: Said) -> DbtNode:
    """Return the node with the first error of its batches, which dbt tells of in its log only."""
    if not (node.is_failed and reasons) or (why := said(reasons[0])) in node.message:
        return node
    update = {"message": f"{node.message}: {why}", "is_transient": all(map(is_transient_message, reasons))}
    return node.model_copy(update=update)


def names_in(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of what the project knows: its nodes, their relations and columns, its schemas and files."""
    names: set[str] = set()
    for part in _parts(manifest):
        for node in part.values():
            keys = ("name", "alias", "identifier", "schema", "database", "path", "original_file_path", "relation_name")
            names |= {value for key in keys if isinstance(value := node.get(key), str)}
            names |= set(node.get("columns") or ())
    return frozenset(names)


def _parts(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    kinds = ("nodes", "sources", "unit_tests", "exposures", "functions", "saved_queries")
    return [manifest.get(kind) or {} for kind in kinds]


def _explained(node: DbtNode, words: str, said: Said) -> DbtNode:
    if node.is_failed:
        return node.model_copy(update={"message": said(words), "is_transient": is_transient_message(words)})
    if node.status == "warn":
        failures = node.failures
        return node.model_copy(update={"message": said(words) or (f"Got {failures} results" if failures else "")})
    return node


def _words(row: Mapping[str, Any]) -> str:
    """Dbt's words of a row; of a source that is too old, how old it is."""
    words = str(row.get("message") or row.get("error") or "")
    age_s = row.get("max_loaded_at_time_ago_in_s")
    if words or age_s is None or row["status"] not in ("warn", "error"):
        return words
    limit = (row.get("criteria") or {}).get(f"{row['status']}_after") or {}
    allowed = f"; {row['status']}_after is {limit['count']} {limit['period']}s" if limit.get("count") else ""
    return f"Its newest row is {_age(age_s)} old{allowed}."


def _age(seconds: float) -> str:
    """The age in the two greatest units.

    >>> _age(93_784.2), _age(59)
    ('1 days 2 hours', '59 seconds')
    """
    left, parts = int(seconds), []
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 seconds"


def _rows(result: Mapping[str, Any]) -> int | None:
    rows = (result.get("adapter_response") or {}).get("rows_affected")
    return int(rows) if isinstance(rows, int | float) and rows >= 0 else None


def _time(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=dt.UTC) if text else None
