"""Prefect for the tests: a home of its own, nobody's settings, and one temporary server where it is needed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before anything imports Prefect or a driver: what a developer's shell says must not reach a test.
for name in list(os.environ):
    if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "IDENTITY_", "MSI_", "PG", "PREFECT_", "SNOWFLAKE_", "STORAGE_")):
        del os.environ[name]
os.environ["PREFECT_HOME"] = home = tempfile.mkdtemp(prefix="etl-prefect-")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
atexit.register(shutil.rmtree, home, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What Prefect's server is needed for can be left out: the extras make no difference to it."""
    parser.addoption("--without-server", action="store_true", help="leave out the tests that need Prefect's server")
    parser.addoption("--thorough", action="store_true", help="every case of the long tables (minutes)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them."""
    if config.getoption("--without-server"):
        left_out = [item for item in items if "prefect_server" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The URL of a temporary Prefect API with an empty database (8 s); flows of the tests run against it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # Without the heartbeat a flow run takes 0.06 s instead of 1.06 s.
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield PREFECT_API_URL.value()
