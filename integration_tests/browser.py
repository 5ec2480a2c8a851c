"""A browser without a window, for the tests that look at Prefect's UI as a user does."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (group browser)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IN_A_BROWSER = [
    pytest.mark.thorough,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no browser: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextlib.contextmanager
def browser_page(width: int, height: int) -> Iterator[Page]:
    """Open a page of that size; it asks nobody but the local server."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(30_000)
        page.route(lambda url: "//127.0.0.1" not in url, lambda route: route.abort())
        yield page
        browser.close()
