"""Pages that are kept with a run."""

from __future__ import annotations

import logging

import pytest
from prefect import flow
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.base.artifacts import artifact_key, cell, keep_markdown


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_page_that_cannot_be_kept_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The work is done when its page is made: a server that went away is a warning."""

    @flow
    def works() -> str:
        nowhere = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
        with SyncClientContext(httpx_settings={}), nowhere:  # or the run's own client would still have the server
            keep_markdown("Orders", "# Orders")
        return "done"

    with caplog.at_level(logging.WARNING):
        assert works() == "done"
    assert "The page orders could not be kept: ConnectError." in caplog.messages


def test_outside_of_a_run_no_page_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """There is no run that it could belong to, and nothing to tell."""
    keep_markdown("Orders", "# Orders")
    assert caplog.messages == []


@pytest.mark.parametrize(("text", "key"), [("Orders (prod)", "orders-prod"), ("заказы", "page"), ("--", "page")])
def test_keys_are_what_prefect_takes(text: str, key: str) -> None:
    """Lower-case letters, digits and dashes, and never nothing."""
    assert artifact_key(text) == key


def test_a_cell_is_one_line() -> None:
    """What would end a cell or a row of a table does not."""
    assert cell("a|b\nc") == "a\\|b c"
