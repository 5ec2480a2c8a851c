"""The template that trains on data which is kept for an hour."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client

from connectors.duckdb import DuckDB
from templates import cached_training_data as template

if TYPE_CHECKING:
    from pathlib import Path

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore"),  # those of MLflow, and of what it opens
]


def states() -> list[str]:
    """How the last runs of the task that asks the warehouse ended, the oldest first."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs()
    asked = [run for run in runs if run.name.startswith("training_data")]
    return [run.state_name or "" for run in sorted(asked, key=lambda run: run.created)]


def test_the_second_training_asks_no_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same data; another query, an expired answer and another warehouse are asked."""
    monkeypatch.chdir(tmp_path)
    first, second = template.cached_training_data(), template.cached_training_data()
    assert states()[-2:] == ["Completed", "Cached"]
    assert first.rows == second.rows == 2155
    assert (first.weights, first.rmse) == (second.weights, second.rmse)
    assert first.run_id != second.run_id

    mlflow.set_tracking_uri(template.TRACKING)
    logged = mlflow.get_run(first.run_id).data
    assert logged.params == {"features": "unit_price, discount", "target": "quantity", "rows": "2155"}
    assert logged.metrics["rmse"] == pytest.approx(first.rmse)
    assert logged.metrics["weight_discount"] == pytest.approx(first.weights["discount"])

    monkeypatch.setattr(template, "QUERY", template.QUERY + "where discount > 0")
    assert template.cached_training_data().rows < 2155
    other = DuckDB(path="other.duckdb")
    other.save("other", overwrite=True)
    template.cached_training_data("etl-duckdb/other")
    assert states()[-2:] == ["Completed", "Completed"]
    task = template.training_data.with_options(cache_expiration=timedelta(seconds=-1), refresh_cache=True)
    monkeypatch.setattr(template, "training_data", task)
    template.cached_training_data()
    assert states()[-1:] == ["Completed"]
    monkeypatch.setattr(template, "training_data", task.with_options(refresh_cache=False))
    template.cached_training_data()
    assert states()[-1:] == ["Completed"]  # what was kept had expired
