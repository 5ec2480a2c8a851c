"""What the load protocol costs beside the same driver calls by hand, on the stand-ins: seconds and requests.

    python benchmarks/cloud_warehouses.py [--rows 100000] [--rounds 5]

By hand is what a script without a promise does: Snowflake by one PUT and one COPY INTO the target, BigQuery by one load
job into it. Ours is an append into the same kind of table: plan, staging, verification, claim, ledger. A stand-in
answers in a millisecond or so; with a real service each request takes its own time more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the stand-ins

import pyarrow as pa
import pyarrow.parquet as pq

from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials
from blocks.testing.http_proxy import HttpFaultProxy
from connectors.bigquery import BigQuery
from connectors.snowflake import Snowflake
from integration_tests.standins import bigquery as bigquery_standin
from integration_tests.standins import snowflake as snowflake_standin

if TYPE_CHECKING:
    from collections.abc import Callable


def orders(rows: int) -> pa.Table:
    """Orders with text and exact decimals."""
    numbers = pa.array(range(rows), pa.int64())
    names = pa.array([f"customer {number % 997}" for number in range(rows)])
    return pa.table(
        {
            "order_id": numbers,
            "customer": names,
            "amount": numbers.cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2)),
        }
    )


def snowflake_by_hand(block: Snowflake, data: pa.Table, table: str) -> None:
    """PUT and COPY INTO, by the driver."""
    with tempfile.TemporaryDirectory() as folder, block.get_client() as connection, connection.cursor() as cursor:
        pq.write_table(data, f"{folder}/part.parquet", compression="zstd")
        cursor.execute("CREATE TEMPORARY STAGE by_hand")
        cursor.execute(f"PUT 'file://{folder}/part.parquet' @by_hand AUTO_COMPRESS = FALSE")
        cursor.execute(
            f"COPY INTO {table} FROM @by_hand FILE_FORMAT = (TYPE = PARQUET) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
        )


def bigquery_by_hand(block: BigQuery, data: pa.Table, table: str) -> None:
    """One load job, by the client."""
    from google.cloud import bigquery

    with tempfile.TemporaryFile() as file:
        pq.write_table(data, file, compression="zstd")
        config = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND")
        client = block.get_client()
        target = f"{client.project}.{block.dataset}.{table}"
        client.load_table_from_file(file, target, rewind=True, job_config=config).result()


def measure(name: str, work: Callable[[], Any], proxy: HttpFaultProxy, rounds: int) -> float:
    """The median of the seconds; prints it with the number of requests of the last round."""
    seconds = []
    for _ in range(rounds):
        before, started = len(proxy.log), time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    print(f"  {name:<10} {median:6.2f} s   {len(proxy.log) - before} requests", flush=True)
    return median


def compare(block: Any, by_hand: Callable[..., None], data: pa.Table, proxy: HttpFaultProxy, rounds: int) -> None:
    """Both, in turn."""
    print(f"{type(block).__name__}, {data.num_rows} rows appended to a table that is there:")
    block.load(data.slice(0, 1), "ours", mode="append")
    block.load(data.slice(0, 1), "by_hand", mode="append")
    hand = measure("by hand", lambda: by_hand(block, data, "by_hand"), proxy, rounds)
    ours = measure("ours", lambda: block.load(data, "ours", mode="append"), proxy, rounds)
    print(f"  {ours - hand:+.2f} s, {ours / hand:.1f} x", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = orders(options.rows)
    with snowflake_standin.SnowflakeServer() as server, HttpFaultProxy(server.url) as proxy:
        login = {"user": snowflake_standin.USER, "password": snowflake_standin.PASSWORD}
        credentials = SnowflakeCredentials(account="standin", **login, **server.connection(proxy.port))
        block = Snowflake(credentials=credentials, **snowflake_standin.fields("public"))
        compare(block, snowflake_by_hand, data, proxy, options.rounds)
    with bigquery_standin.BigQueryServer() as bigquery_server, HttpFaultProxy(bigquery_server.url) as proxy:
        nobody = GcpCredentials(anonymous=True, endpoint_url=proxy.url)
        dataset = bigquery_server.new_dataset()
        warehouse = BigQuery(gcp_credentials=nobody, project=bigquery_standin.PROJECT, dataset=dataset)
        compare(warehouse, bigquery_by_hand, data, proxy, options.rounds)


if __name__ == "__main__":
    main()
