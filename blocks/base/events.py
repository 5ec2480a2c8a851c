"""Events: what Prefect's automations and the triggers of deployments react to.

An event has an id that follows from what happened, so that Prefect's server recognizes one that is sent again.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from prefect.events import emit_event

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE_LOADED = "etl.table.loaded"
DATASET_WRITTEN = "etl.dataset.written"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "etl-blocks/events")


def event_id(event: str, resource: str, identity: str | None) -> uuid.UUID:
    """Return the id of an event: the same each time that the same thing is told, a new one where nothing identifies it.

    >>> event_id("etl.table.loaded", "duckdb:///w.duckdb/main.orders", "orders/2026-04-30")
    UUID('0aaa20da-544d-5d79-9cfb-6adf7ee170fe')
    """
    return uuid.uuid5(_NAMESPACE, f"{event}\n{resource}\n{identity}") if identity else uuid.uuid4()


def emit(
    event: str,
    resource: str,
    *,
    name: str,
    identity: str | None,
    labels: Mapping[str, str],
    payload: Mapping[str, Any],
) -> None:
    """Tell Prefect's server of something that happened in the current run, which sends it in the background.

    Args:
        event: Its name.
        resource: What it happened to, by the key of the asset.
        name: What people call that.
        identity: What tells this from another event of that name and resource.
        labels: What triggers can tell events apart by.
        payload: What else there is to say, without secrets and without rows.
    """
    emit_event(
        event,
        {"prefect.resource.id": resource, "prefect.resource.name": name, **labels},
        id=event_id(event, resource, identity),
        payload=dict(payload),
    )
