"""Artifacts: pages for people, kept with the run that made them in Prefect's UI."""

from __future__ import annotations

import re

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext, TaskRunContext


def keep_markdown(key: str, markdown: str, *, description: str = "") -> None:
    """Nothing. Keeps a page with the run that this is part of; outside of a run there is nothing to keep it with.

    Args:
        key: Names the pages of the same kind from run to run. What Prefect does not take in a key becomes a dash.
        markdown: The page, without secrets and without rows.
        description: One line on it.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow is None and task is None:
        return
    run = flow.flow_run if flow else None
    page = ArtifactCreate(
        type="markdown",
        key=artifact_key(key),
        description=description or None,
        data=markdown,
        flow_run_id=task.task_run.flow_run_id if task else run.id if run else None,
        task_run_id=task.task_run.id if task else None,
    )
    # create_markdown_artifact leaves a socket open, and in an async flow gives a coroutine that nobody awaits.
    with get_client(sync_client=True) as client:
        client.create_artifact(page)


def artifact_key(text: str) -> str:
    """The text as Prefect takes it in an artifact's key.

    >>> artifact_key("dbt Shop_daily (prod)")
    'dbt-shop-daily-prod'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
