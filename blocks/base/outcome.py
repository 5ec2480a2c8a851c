"""What a flow takes from Prefect's schedule when it starts, and what it leaves on the page of its run when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed

from blocks.base.arguments import checked
from blocks.base.errors import ConnectorError, InvalidInputError, TerminalError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from prefect.futures import PrefectFuture

R = TypeVar("R")

MOST_NAMED = 20
"""A message names so many failed items."""


@checked
def scheduled_day(timezone: str = "UTC") -> date | None:
    """Return the day for which Prefect's schedule started this flow run; None where no schedule did.

    It is the same day when the run starts late, is retried or is run again.

    Args:
        timezone: The time zone of the day, such as "Europe/Berlin": that of the schedule.

    Raises:
        InvalidInputError: There is no such time zone.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or not run.auto_scheduled or run.expected_start_time is None:
        return None
    try:
        return run.expected_start_time.astimezone(ZoneInfo(timezone)).date()
    except (ZoneInfoNotFoundError, ValueError):
        raise InvalidInputError(f"Unknown time zone {timezone!r}. Write a name such as 'Europe/Berlin'.") from None


@checked
def collect(items: Sequence[object], *steps: Sequence[PrefectFuture[Any]]) -> list[Any]:
    """Wait for what was mapped over items, and return the results of the last step; name the items that failed.

        extracted = extract.map(days)
        loaded = load.map(days, extracted)
        return collect(days, extracted, loaded)

    What follows a failed step is never run, and Prefect's own `result()` says that of it instead of what failed.

    Args:
        items: What was mapped over, such as days.
        steps: The futures of each task, in the order of the work.

    Raises:
        TerminalError: Some items failed. The message says which, and of each why; the others are done.
    """
    results, failed = [], {}
    for item, *futures in zip(items, *steps, strict=True):
        for future in futures:
            future.wait()
        broken = next((future for future in futures if not future.state.is_completed()), None)
        if broken is None:
            results.append(futures[-1].result())
        else:
            failed[str(item)] = _reason(broken)
    if failed:
        named = [f"{item} ({reason})" for item, reason in failed.items()][:MOST_NAMED]
        rest = [f"and {len(failed) - MOST_NAMED} more"] * (len(failed) > MOST_NAMED)
        raise TerminalError(
            f"{len(failed)} of {len(items)} failed, and the others are done: {', '.join([*named, *rest])}."
        )
    return results


def _reason(future: PrefectFuture[Any]) -> str:
    """Return briefly why a task did not complete: of an error that is not ours, which may hold data, its type."""
    found = future.result(raise_on_failure=False)
    if isinstance(found, ConnectorError):
        return one_line(str(found)).rstrip(".")
    return type(found).__name__ if isinstance(found, BaseException) else future.state.name or "not completed"


@checked
def conclude(report: R) -> R:
    """Log the report of a flow, and hand back what the flow ends with.

    Where the flow is called, that is the report itself. In the run of a deployment, whose value nobody receives, it is
    a state with the report as its data, and the text of the report as its message: the page of the run shows it.

        return conclude(report)

    Args:
        report: What the flow did; `str(report)` holds no secret and no row.
    """
    context = FlowRunContext.get()
    if context is None:
        return report
    text = "; ".join(line.strip() for line in str(report).splitlines() if line.strip())
    get_run_logger().info("%s", text)
    if context.flow_run is None or context.flow_run.deployment_id is None:
        return report
    state: Any = Completed(message=text, data=report)
    return cast("R", state)
