"""DuckDB: the promises of every warehouse, and what only an embedded database can get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from blocks.retry import RetryPolicy
from connectors.duckdb import DuckDB
from tests.contracts.warehouse import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["file", "memory"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DuckDB]:
    retry = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)
    with DuckDB(path=":memory:" if request.param == "memory" else str(tmp_path / "test.duckdb"), retry=retry) as block:
        yield block


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"large decimal", "timestamp ns zoned", "time ns"}
