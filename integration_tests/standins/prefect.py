"""Prefect's own server as users start it, with its UI, which the temporary one of the other tests leaves out."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import httpx

from integration_tests.standins.process import HOST, free_port, spawn, stop, wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def prefect_server(home: Path, python: Path | str = sys.executable, *, database: str | None = None) -> Iterator[str]:
    """Run `prefect server start`, and yield its address.

    Args:
        home: A folder for what it keeps.
        python: The interpreter of the environment that has Prefect.
        database: The URL of its database. Defaults to SQLite in that folder.
    """
    home.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home / "server.log"
    address = f"http://{HOST}:{port}"
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",  # what the pages of the UI ask
        # Of SQLite's one writer; on a busy machine the server would answer 503.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{home / 'prefect.db'}",
    }
    process = spawn([python, "-m", "prefect", "server", "start", "--port", port], log=log, env=environment)
    try:
        wait(lambda: httpx.get(f"{address}/api/health").raise_for_status(), process, log=log, timeout_s=300)
        yield address
    finally:
        stop(process)
