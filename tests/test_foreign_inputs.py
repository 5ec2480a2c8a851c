"""Foreign inputs to what runs in this process: a database and a folder."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from connectors.sqlalchemy import SqlAlchemyConnector
from tests.foreign import attempt, cases, fill_store, fill_warehouse, kept, stored

if TYPE_CHECKING:
    from pathlib import Path

EVERY_RUN, THOROUGH = 40, 400


@pytest.mark.parametrize("count", [EVERY_RUN, pytest.param(THOROUGH, marks=pytest.mark.thorough)])
def test_duckdb(count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only errors of ours, on one line, without a value of a row; nothing was written."""
    with contextlib.closing(DuckDB(path=str(tmp_path / "w.duckdb"))) as warehouse:
        fill_warehouse(warehouse)
        refused = 0
        for case in cases(warehouse, count, count):
            if attempt(warehouse, case, caplog, kept):
                refused += 1
            else:
                fill_warehouse(warehouse)
        assert refused > count / 2


@pytest.mark.parametrize("count", [EVERY_RUN, pytest.param(THOROUGH, marks=pytest.mark.thorough)])
def test_sqlite(count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same of SQLite."""
    with contextlib.closing(SqlAlchemyConnector(connection_info=f"sqlite:///{tmp_path}/w.db")) as warehouse:
        fill_warehouse(warehouse)
        refused = 0
        for case in cases(warehouse, count, count):
            if attempt(warehouse, case, caplog, kept):
                refused += 1
            else:
                fill_warehouse(warehouse)
        assert refused > count / 2


@pytest.mark.parametrize("count", [EVERY_RUN, pytest.param(THOROUGH, marks=pytest.mark.thorough)])
def test_a_folder(
    count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of files: what is in them, and where they are."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # an upload without a path is one of the working directory
    with LocalFiles(basepath=str(tmp_path / "lake")) as store:
        fill_store(store)
        refused = sum(attempt(store, case, caplog, stored) for case in cases(store, count, count))
        assert refused > count / 2
