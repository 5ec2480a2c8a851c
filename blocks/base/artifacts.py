"""Artifacts: pages for people, kept with the run that made them in Prefect's UI."""

from __future__ import annotations

import re

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger


def keep_markdown(key: str, markdown: str, *, description: str = "") -> None:
    """Nothing. Keeps a page with the run that this is part of; outside of a run there is nothing to keep it with.

    The work that it tells of is done: a page that Prefect's API does not take is a warning.

    Args:
        key: Names the pages of the same kind from run to run. What Prefect does not take in a key becomes a dash.
        markdown: The page, without secrets and without rows.
        description: One line on it.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow is None and task is None:
        return
    import httpx  # Prefect's own client

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
    try:
        with get_client(sync_client=True) as client:
            client.create_artifact(page)
    except httpx.HTTPError as error:
        get_run_logger().warning("The page %s could not be kept: %s.", page.key, type(error).__name__)


def cell(text: str) -> str:
    r"""The text as the cell of a table in Markdown.

    >>> cell("a|b\nc")
    'a\\|b c'
    """
    return text.replace("|", "\\|").replace("\n", " ")


def artifact_key(text: str) -> str:
    """The text as Prefect takes it in an artifact's key.

    >>> artifact_key("dbt Shop_daily (prod)")
    'dbt-shop-daily-prod'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "page"
