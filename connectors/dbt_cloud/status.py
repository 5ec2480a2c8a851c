"""How a run, its steps and its nodes are doing: the states, and the reading of dbt Cloud's JSON."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from blocks.base.artifacts import cell
from blocks.base.masking import hide
from blocks.jobs.run import JobStatus
from connectors.shared.dbt import DbtNode, is_transient_message, without_values

STATES = {1: "Queued", 2: "Starting", 3: "Running", 10: "Success", 20: "Error", 30: "Cancelled"}
"""https://docs.getdbt.com/dbt-cloud/api-v2#/operations/Retrieve%20Run"""
SUCCESS, ERROR, CANCELLED = 10, 20, 30
OUTCOMES: dict[int, Literal["running", "succeeded", "failed"]] = {
    SUCCESS: "succeeded",
    ERROR: "failed",
    CANCELLED: "failed",
}

WITH_RESULTS = {"build", "run", "test", "seed", "snapshot", "source", "clone", "retry"}
"""Commands of dbt after which run_results.json says what became of each node."""


@dataclass(frozen=True)
class DbtCloudStep:
    """One step of a run: the preparations of dbt Cloud's own, and then each command of the job.

    Attributes:
        index: Its number, from 1 on, by which its artifacts are found.
        name: What dbt Cloud calls it, such as "Invoke dbt with `dbt build`".
        state: The word of dbt Cloud for its state, such as "Success".
        outcome: What that means; "skipped" where an earlier one failed.
        started_at: When it began, None if it did not.
        ended_at: When it ended.
    """

    index: int
    name: str
    state: str
    outcome: Literal["running", "succeeded", "failed", "skipped"]
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took, None where that is not known."""
        return (self.ended_at - self.started_at).total_seconds() if self.started_at and self.ended_at else None


@dataclass(frozen=True)
class DbtCloudStatus(JobStatus):
    """How a run is doing, with its steps.

    Attributes:
        steps: Those that there are so far, in order.
        url: The run's page.
        git_sha: What was checked out.
    """

    steps: tuple[DbtCloudStep, ...] = ()
    url: str = ""
    git_sha: str = ""

    def markdown(self) -> str:
        """Return the steps as a page for people."""
        rows = [
            f"| {step.index} | {cell(step.name)} | {step.state} | "
            f"{'' if step.seconds is None else f'{step.seconds:.0f} s'} |"
            for step in self.steps
        ]
        head = [f"# dbt Cloud run {self.run_id}: {self.state}", *([f"[Its page]({self.url})"] if self.url else [])]
        return (
            "\n\n".join([*head, "\n".join(["| # | step | state | time |", "| --- | --- | --- | --- |", *rows])]) + "\n"
        )


def step_of(step: dict[str, Any]) -> DbtCloudStep:
    """A step, as a run of the API has it."""
    state = state_of(step)
    ended = "skipped" if state == "Skipped" else OUTCOMES.get(step["status"], "running")
    return DbtCloudStep(
        int(step["index"]),
        hide(str(step["name"])),
        state,
        cast("Any", ended),
        time_of(step.get("started_at")),
        time_of(step.get("finished_at")),
    )


def has_results(step: DbtCloudStep) -> bool:
    """Whether run_results.json says what became of its nodes."""
    command = step.name.partition("`")[2].partition("`")[0]
    return step.outcome in {"succeeded", "failed"} and not WITH_RESULTS.isdisjoint(command.split())


def node_of(result: dict[str, Any]) -> DbtNode:
    """A node: https://docs.getdbt.com/reference/artifacts/run-results-json"""
    kind, _, name = (*str(result["unique_id"]).split("."), "", "")[:3]
    rows = (result.get("adapter_response") or {}).get("rows_affected")
    timing: list[dict[str, Any]] = result.get("timing") or []
    executed = next((each for each in timing if each.get("name") == "execute"), {})
    return DbtNode(
        unique_id=result["unique_id"],
        name=name,
        resource_type=kind,
        status=result["status"],
        seconds=result.get("execution_time") or 0.0,
        rows=rows if isinstance(rows, int) and rows >= 0 else None,
        message=without_values(result.get("message") or ""),
        relation=_relation(result.get("relation_name") or ""),
        failures=result.get("failures"),
        is_transient=result["status"] in {"error", "fail"} and is_transient_message(result.get("message") or ""),
        started_at=time_of(executed.get("started_at")),
        finished_at=time_of(executed.get("completed_at")),
    )


def _relation(quoted: str) -> str | None:
    """The table or view as `schema.name`.

    >>> _relation('"shop"."main"."orders"')
    'main.orders'
    """
    parts = [part.strip('"`') for part in re.findall(r'"[^"]*"|`[^`]*`|[^.]+', quoted)]
    return ".".join(parts[-2:]) or None


def state_of(thing: dict[str, Any]) -> str:
    """The word of dbt Cloud for the state of a run or step."""
    return str(thing.get("status_humanized") or STATES.get(thing["status"], thing["status"]))


def time_of(text: str | None) -> dt.datetime | None:
    """A time of dbt Cloud, which is in UTC whether it says so or not.

    >>> time_of("2026-04-30 06:00:01.5+00:00")
    datetime.datetime(2026, 4, 30, 6, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    """
    try:
        time = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)
