"""Train a model on what a query of a warehouse gives, kept for an hour, and log parameters and metrics to MLflow.

Install:  etl-blocks with the extra mlflow    (with other systems: with theirs, such as snowflake)
Run:      python cached_training_data.py      (or: etl run cached_training_data)
          python cached_training_data.py serve

Promises: within an hour the query is asked once, whatever flow run or process asks; another query, another warehouse or
other code of the task ask again. Where the warehouse does not answer it is asked again after 10, 20 and 40 seconds; a
query that is wrong is not. The key of what is kept holds no secret and no row. Each training is a run in MLflow.

Change: what is marked with CHANGE. Out of the box the warehouse is DuckDB, which reads the data beside this file, and
MLflow a file here; pass the name of a saved block to use another: `--warehouse etl-postgres/prod`. Where other
machines are to find what is kept, give the task a store: `result_storage=S3Bucket.load("results")`.
"""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from blocks import Saved, Warehouse, conclude, resolve, retry_if_transient
from connectors.duckdb import DuckDB

DATA = Path(__file__).parent / "data/shop"
WAREHOUSE = DuckDB(path="warehouse/warehouse.duckdb")

QUERY = f"""
    select unitPrice::double as unit_price, discount::double as discount, quantity::double as quantity
    from read_csv('{DATA}/order-details.csv')
"""  # CHANGE: the training data; such as: select ... from order_details
FEATURES = ["unit_price", "discount"]  # CHANGE: what is known
TARGET = "quantity"  # CHANGE: what is to be predicted
KEPT_FOR = timedelta(hours=1)  # CHANGE: how old the data may be
TRACKING = "sqlite:///mlflow.db"  # CHANGE: the address of MLflow, such as http://mlflow.example.com
EXPERIMENT = "quantities"  # CHANGE: what the runs in MLflow belong to


class Model(BaseModel):
    """A linear model, and how well it fits."""

    rows: int
    weights: dict[str, float]
    rmse: float
    run_id: str

    def __str__(self) -> str:
        return f"{TARGET}: rmse {self.rmse:.4g} on {self.rows:,} rows; run {self.run_id} of MLflow"


@task(
    retries=3,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_if_transient,
    cache_policy=INPUTS + TASK_SOURCE,
    cache_expiration=KEPT_FOR,
    persist_result=True,
)
def training_data(query: str, warehouse: Warehouse) -> pa.Table:
    """Ask the warehouse, unless the answer is kept."""
    return warehouse.scan_query(query).to_arrow()


@task(cache_policy=NO_CACHE)
def train(data: pa.Table) -> Model:
    """Fit a linear model by least squares, and log it."""  # CHANGE: the model
    import mlflow

    known = np.column_stack([np.ones(len(data)), *(data[name].to_numpy() for name in FEATURES)])
    wanted = data[TARGET].to_numpy()
    fitted = np.linalg.lstsq(known, wanted, rcond=None)[0]
    rmse = float(np.sqrt(np.mean((known @ fitted - wanted) ** 2)))
    weights = dict(zip(["intercept", *FEATURES], fitted.tolist(), strict=True))

    mlflow.set_tracking_uri(TRACKING)
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run() as run:
        mlflow.log_params({"features": ", ".join(FEATURES), "target": TARGET, "rows": len(data)})
        mlflow.log_metrics({"rmse": rmse, **{f"weight_{name}": weight for name, weight in weights.items()}})
    return Model(rows=len(data), weights=weights, rmse=rmse, run_id=run.info.run_id)


@flow
def cached_training_data(warehouse: Saved[Warehouse] = None) -> Model:
    """Train on data that is at most an hour old.

    Args:
        warehouse: The warehouse with the data, such as etl-postgres/prod. Defaults to DuckDB on the data beside this.
    """
    return conclude(train(training_data(QUERY, resolve(warehouse or WAREHOUSE, Warehouse))))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        cached_training_data.serve("hourly", cron="30 * * * *")  # CHANGE: when it runs, in UTC
    else:
        print(cached_training_data())
