"""Prefect for the tests: a home of its own, nobody's settings, and one temporary server where it is needed."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent

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


def pytest_configure(config: pytest.Config) -> None:
    """Each property is tried with fewer examples in every run than with `--thorough`; a failure is one all the same."""
    config.addinivalue_line("markers", "thorough: runs with --thorough only; the cases beside it show the same promise")
    config.addinivalue_line("markers", "sampled(n): of its cases, n run in every run, and all with --thorough")
    settings.register_profile("every run", max_examples=30)
    settings.register_profile("thorough", max_examples=100)
    settings.load_profile("thorough" if config.getoption("--thorough") else "every run")


@pytest.hookimpl(trylast=True)  # of what -k has left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them, and what is for `--thorough`."""
    left_out: set[pytest.Item] = set()
    if config.getoption("--without-server"):
        left_out |= {item for item in items if "prefect_server" in getattr(item, "fixturenames", ())}
    if not config.getoption("--thorough"):
        left_out |= {item for item in items if item.get_closest_marker("thorough") or _is_shown_elsewhere(item)}
        left_out |= _outside_of_samples([item for item in items if item not in left_out])
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_shown_elsewhere(item: pytest.Item) -> bool:
    """Tell whether the module of a test lists it as one of a contract that another module runs in every run."""
    return getattr(item, "originalname", "") in getattr(getattr(item, "module", None), "SHOWN_ELSEWHERE", ())


def _outside_of_samples(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the cases that no sample takes. Samples are spread over the cases, and differ by module."""
    tables: dict[str, list[pytest.Item]] = {}
    for item in items:
        tables.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for name, cases in tables.items():
        if size := _sample_size(cases[0]):
            first = zlib.crc32(name.encode())
            taken = {(first + number * len(cases) // size) % len(cases) for number in range(size)}
            left_out |= {case for number, case in enumerate(cases) if number not in taken}
    return left_out


def _sample_size(item: pytest.Item) -> int | None:
    """Return how many cases of a test run in every run; a module says it for those of the contract."""
    if marker := item.get_closest_marker("sampled"):
        return int(marker.args[0])
    if _is_of_contract(item):
        return getattr(getattr(item, "module", None), "CONTRACT_CASES", None)
    return None


def _is_of_contract(item: pytest.Item) -> bool:
    return str(getattr(getattr(item, "function", None), "__module__", "")).startswith("tests.contracts.")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built once for all the processes of a run (10 s)."""
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "wheel.lock"):
        if not (folder / "wheel").exists():
            # A copy, because setuptools builds beside the sources, and packs what an earlier build left there.
            source = folder / "source"
            for name in ("blocks", "connectors", "etl_blocks", "templates"):
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            (source / "docs").mkdir()
            for name in ("LICENSE", "docs/pypi.md", "pyproject.toml"):
                shutil.copy(ROOT / name, source / name)
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "built", "./source"]
            subprocess.run(command, cwd=folder, check=True)  # noqa: S603 (our own)
            (folder / "built").rename(folder / "wheel")
    return next((folder / "wheel").glob("*.whl"))


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
