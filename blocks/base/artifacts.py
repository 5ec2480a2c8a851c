"""Artifacts: pages for people, kept with the run that made them in Prefect's UI."""

from __future__ import annotations

import re

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from blocks.base.arguments import checked


@checked
def keep_markdown(key: str, markdown: str, *, description: str = "") -> None:
    """Keep a Markdown page as an artifact of the current run; do nothing outside of a run.

    The work that it reports is done, so a page that Prefect's API refuses is only a warning.

    Args:
        key: The name of this kind of page from run to run. What Prefect does not accept in a key becomes a dash.
        markdown: The page, without secrets and without rows.
        description: One line about it.
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
    r"""Return the text as a cell of a Markdown table.

    >>> cell("a|b\nc")
    'a\\|b c'
    """
    return text.replace("|", "\\|").replace("\n", " ")


def artifact_key(text: str) -> str:
    """Return the text as Prefect accepts it in the key of an artifact.

    >>> artifact_key("dbt Shop_daily (prod)")
    'dbt-shop-daily-prod'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "page"
