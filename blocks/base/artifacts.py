"""Artifacts: pages for people, kept with the run that made them in Prefect's UI."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from blocks.base.arguments import checked
from blocks.base.runs import has_context

if TYPE_CHECKING:
    from uuid import UUID


@checked
def keep_markdown(key: str, markdown: str, *, description: str = "") -> None:
    """Keep a Markdown page as an artifact of the current run; do nothing outside of a run.

    The work that it reports is done, so a page that Prefect's API refuses is only a warning.

    Args:
        key: The name of this kind of page from run to run. What Prefect does not accept in a key becomes a dash.
        markdown: The page, without secrets and without rows.
        description: One line about it.
    """
    if has_context():
        _send(_of_this_run(type="markdown", key=artifact_key(key), description=description or None, data=markdown))


def keep_progress(key: str, percent: float | None, words: str, *, page: UUID | None = None) -> UUID | None:
    """Record progress as an artifact of the current run, and return its id for the next call.

    Args:
        key: As for `keep_markdown`.
        percent: From 0 to 100; None where the total is unknown, and then the artifact is a page with the words.
        words: The progress in one line.
        page: What an earlier call returned: the artifact to update.
    """
    kind, data = ("markdown", words) if percent is None else ("progress", percent)
    if page is not None:
        return page if _send(ArtifactUpdate(data=data, description=words), page) else None
    new = _of_this_run(type=kind, key=artifact_key(key), description=words, data=data)
    return _send(new)


def _of_this_run(**fields: Any) -> ArtifactCreate:
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run if flow else None
    return ArtifactCreate(
        **fields,
        flow_run_id=task.task_run.flow_run_id if task else run.id if run else None,
        task_run_id=task.task_run.id if task else None,
    )


def _send(artifact: ArtifactCreate | ArtifactUpdate, page: UUID | None = None) -> UUID | None:
    """Send it to Prefect's API, and return its id; None, with a warning, where that refuses it."""
    import httpx  # Prefect's own client

    # create_markdown_artifact leaves a socket open, and in an async flow gives a coroutine that nobody awaits.
    try:
        with get_client(sync_client=True) as client:
            if isinstance(artifact, ArtifactCreate):
                return client.create_artifact(artifact).id
            if page is not None:
                client.update_artifact(page, artifact)
            return page
    except httpx.HTTPError as error:
        what = artifact.key if isinstance(artifact, ArtifactCreate) else "of the progress"
        get_run_logger().warning("The page %s could not be kept: %s.", what, type(error).__name__)
        return None


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
