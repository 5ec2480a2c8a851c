"""What a flow takes from Prefect's schedule when it starts, and what it leaves on the page of its run when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed

from blocks.base.arguments import checked
from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from datetime import date

R = TypeVar("R")


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
