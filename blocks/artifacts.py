"""Artifacts: pages for people, kept with the run that made them in Prefect's UI."""

from __future__ import annotations

import re

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext, TaskRunContext


def keep_markdown(key: str, markdown: str, *, description: str = "") -> None:
    """Nothing. Keeps a page with the run that this is part of; outside of a run there is nothing to keep it with.

    Args:
        key: Names the pages of the same kind from run to run. What Prefect does not take in a key becomes a dash.
        markdown: The page, without secrets and without rows.
        description: One line on it.
    """
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return
    create_markdown_artifact(markdown, key=artifact_key(key), description=description or None)


def artifact_key(text: str) -> str:
    """The text as Prefect takes it in an artifact's key.

    >>> artifact_key("dbt Shop_daily (prod)")
    'dbt-shop-daily-prod'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
