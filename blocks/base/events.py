"""Events: what Prefect's automations and the triggers of deployments react to.

An event has an id that follows from what happened, so that Prefect's server recognizes one that is sent again.
"""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import Event, RelatedResource, emit_event
from prefect.settings import PREFECT_API_URL

from blocks.base.errors import InvalidInputError, TransientError
from blocks.base.runs import has_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TABLE_LOADED = "etl.table.loaded"
DATASET_WRITTEN = "etl.dataset.written"
OBJECT_CREATED = "etl.object.created"
BATCH = 100
"""How many events a request carries."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "etl-blocks/events")


def event_id(event: str, resource: str, identity: str | None) -> uuid.UUID:
    """Return the id of an event: the same each time that the same thing is told, a new one where nothing identifies it.

    >>> event_id("etl.table.loaded", "duckdb:///w.duckdb/main.orders", "orders/2026-04-30")
    UUID('0aaa20da-544d-5d79-9cfb-6adf7ee170fe')
    """
    return uuid.uuid5(_NAMESPACE, f"{event}\n{resource}\n{identity}") if identity else uuid.uuid4()


def described(
    event: str,
    resource: str,
    *,
    name: str,
    identity: str | None,
    payload: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return an event as Prefect takes it.

    Args:
        event: Its name.
        resource: What it happened to, by the key of the asset.
        name: What people call that.
        identity: What tells this from another event of that name and resource.
        payload: What else there is to say, without secrets and without rows.
        labels: What triggers can tell events apart by.
    """
    return {
        "event": event,
        "resource": {"prefect.resource.id": resource, "prefect.resource.name": name, **(labels or {})},
        "id": event_id(event, resource, identity),
        "payload": dict(payload),
    }


def emit(event: Mapping[str, Any]) -> None:
    """Tell Prefect's server of something that happened in the current run, which sends it in the background."""
    emit_event(**event)


def send(events: Iterable[Mapping[str, Any]]) -> None:
    """Tell Prefect's server of what happened, and return once it has them all.

    Raises:
        InvalidInputError: There is neither a run nor a server to tell.
        TransientError: The server does not take them.
    """
    import httpx  # Prefect's own client

    if not has_context() and not PREFECT_API_URL.value():
        raise InvalidInputError(
            "There is no Prefect server to send events to. Call this in a flow, or set PREFECT_API_URL."
        )
    related = _current_runs()
    left = iter(events)
    with get_client(sync_client=True) as client:
        while batch := [Event(**each, related=related) for each in itertools.islice(left, BATCH)]:
            try:
                body = [event.model_dump(mode="json") for event in batch]
                client.request("POST", "/events", json=body).raise_for_status()
            except httpx.HTTPError as error:
                raise TransientError(f"Prefect's server did not take {len(batch)} events: {error}") from error


def _current_runs() -> list[RelatedResource]:
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    runs = {"flow-run": flow.flow_run if flow else None, "task-run": task.task_run if task else None}
    return [
        RelatedResource(
            {
                "prefect.resource.id": f"prefect.{role}.{run.id}",
                "prefect.resource.role": role,
                "prefect.resource.name": run.name,
            }
        )
        for role, run in runs.items()
        if run is not None
    ]
