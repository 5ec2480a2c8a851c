"""Parquet into PostgreSQL and out again, side by side with the server itself and with peers, in one run.

    python benchmarks/postgres.py [--rows 4000000] [--rounds 3] [--only load|unload]

Each contender runs in a process of its own, in turn, round after round; printed are medians of the seconds that the
work took (imports and connecting left out), the peak memory of the process, and the ratio to the first line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the stand-in server

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = (
    "CREATE TABLE {name} (order_id integer PRIMARY KEY, customer_id integer, ordered_at timestamptz, "
    "amount numeric(12,2), status text, note text, gift boolean, lat double precision)"
)


class Job:
    """Where things are; handed to each contender's process."""

    def __init__(self, folder: str, port: int, copy_file: str) -> None:
        self.folder, self.port, self.copy_file = folder, port, copy_file
        self.url = f"postgresql://postgres:s3cret@127.0.0.1:{port}/postgres"

    def block(self) -> Any:
        """Our block of the server."""
        from connectors.postgres import Postgres

        return Postgres(host="127.0.0.1", port=self.port, username="postgres", password="s3cret")


def load_server_copy(job: Job) -> float:
    """The server's own COPY BINARY, from a file on its disk."""
    import psycopg

    with psycopg.connect(job.url, autocommit=True) as connection:
        started = time.perf_counter()
        connection.execute(f"COPY orders FROM '{job.copy_file}' (FORMAT binary)")
        return time.perf_counter() - started


def load_ours(job: Job) -> float:
    """Postgres.load, append: ledger and verification included."""
    import blocks.files.formats  # noqa: F401 (imports are left out of every contender's time)
    from connectors.local import LocalFiles

    block = job.block()
    block.check()
    orders = LocalFiles(basepath=job.folder).scan("orders.parquet")
    started = time.perf_counter()
    block.load(orders, "orders", mode="append")
    return time.perf_counter() - started


def load_adbc(job: Job) -> float:
    """The ADBC driver alone: no ledger, no plan, no verification."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(f"{job.folder}/orders.parquet")
    with adbc.connect(job.url) as connection, connection.cursor() as cursor:
        started = time.perf_counter()
        reader = pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(65_536))
        cursor.adbc_ingest("orders", reader, mode="append", db_schema_name="public")
        connection.commit()
        return time.perf_counter() - started


def load_dlt(job: Job) -> float:
    """dlt, Parquet by ADBC."""
    import dlt
    import pyarrow.parquet as pq

    @dlt.resource(name="orders", write_disposition="append")
    def orders() -> Any:
        yield from pq.ParquetFile(f"{job.folder}/orders.parquet").iter_batches(65_536)

    pipeline = dlt.pipeline(
        "bench", pipelines_dir=tempfile.mkdtemp(), destination=dlt.destinations.postgres(job.url), dataset_name="dlt"
    )
    started = time.perf_counter()
    pipeline.run(orders(), loader_file_format="parquet")
    return time.perf_counter() - started


def unload_ours(job: Job) -> float:
    """LocalFiles.write_table of Postgres.scan: Parquet with exact decimals."""
    import blocks.files.formats  # noqa: F401 (imports are left out of every contender's time)
    from connectors.local import LocalFiles

    block, files = job.block(), LocalFiles(basepath=f"{job.folder}/ours")
    block.check()
    started = time.perf_counter()
    files.write_table(block.scan("source"), "orders")
    return time.perf_counter() - started


def unload_adbc(job: Job) -> float:
    """The ADBC driver and pyarrow, one after the other; decimals stay text."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.parquet as pq

    with adbc.connect(job.url) as connection, connection.cursor() as cursor:
        started = time.perf_counter()
        cursor.execute("SELECT * FROM source")
        reader = cursor.fetch_record_batch()
        with pq.ParquetWriter(f"{job.folder}/adbc.parquet", reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
        return time.perf_counter() - started


def unload_dlt(job: Job, backend: str) -> float:
    """Parquet files by dlt's sql_table."""
    import dlt
    from dlt.sources.sql_database import sql_table

    options = {"conn": job.url} if backend == "connectorx" else {}
    target = dlt.destinations.filesystem(bucket_url=f"file://{job.folder}/dlt-{backend}")
    pipeline = dlt.pipeline("bench", pipelines_dir=tempfile.mkdtemp(), destination=target, dataset_name="dlt")
    started = time.perf_counter()
    source = sql_table(credentials=job.url, table="source", backend=backend, backend_kwargs=options)  # type: ignore[arg-type]
    pipeline.run(source, loader_file_format="parquet", write_disposition="replace")
    return time.perf_counter() - started


CONTENDERS: dict[str, dict[str, Callable[[Job], float]]] = {
    "load": {
        "server COPY BINARY from a file": load_server_copy,
        "etl-blocks load(append)": load_ours,
        "ADBC alone": load_adbc,
        "dlt, Parquet by ADBC": load_dlt,
    },
    "unload": {
        "etl-blocks scan -> write_table": unload_ours,
        "dlt, connectorx": lambda job: unload_dlt(job, "connectorx"),
        "dlt, pyarrow": lambda job: unload_dlt(job, "pyarrow"),
        "ADBC, then pyarrow": unload_adbc,
    },
}


def make_orders(path: Path, rows: int) -> None:
    """A file of orders, the same for each run."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(1)
    cents = pa.array(random.integers(0, 10**7, rows))
    table = pa.table(
        {
            "order_id": pa.array(np.arange(rows, dtype=np.int32)),
            "customer_id": pa.array(random.integers(0, 100_000, rows, dtype=np.int32)),
            "ordered_at": pa.array(random.integers(15 * 10**14, 17 * 10**14, rows)).cast(pa.timestamp("us", "UTC")),
            "amount": pa.array([f"{c // 100}.{c % 100:02d}" for c in cents.to_pylist()]).cast(pa.decimal128(12, 2)),
            "status": pa.array(np.array(["new", "paid", "shipped", "returned"])[random.integers(0, 4, rows)]),
            "note": pa.array([f"note number {n}" for n in random.integers(0, 10**6, rows)]),
            "gift": pa.array(random.integers(0, 2, rows).astype(bool)),
            "lat": pa.array(random.random(rows)),
        }
    )
    pq.write_table(table, path, compression="zstd", row_group_size=250_000)


def peak_mb() -> float:
    """The most memory this process ever held; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 10**6 for line in lines if line.startswith("VmHWM")), 0.0)


def run(direction: str, rounds: int, job: Job) -> None:
    """Let the contenders take turns, and print what came out."""
    import psycopg

    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS[direction]}
    memory: dict[str, list[float]] = {name: [] for name in CONTENDERS[direction]}
    with psycopg.connect(job.url, autocommit=True) as connection:
        for _ in range(rounds):
            for name in CONTENDERS[direction]:
                connection.execute("TRUNCATE orders")
                connection.execute("CHECKPOINT")
                command = [sys.executable, __file__, "--contender", json.dumps([direction, name, vars(job)])]
                env = os.environ | {"RUNTIME__DLTHUB_TELEMETRY": "false"}
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
                if done.returncode:
                    print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}")
                    continue
                took, peak = json.loads(done.stdout.strip().splitlines()[-1])
                seconds[name].append(took)
                memory[name].append(peak)
    first = next(iter(seconds))
    for name, took in seconds.items():
        if took and seconds[first]:
            middle = statistics.median(took)
            ratio = middle / statistics.median(seconds[first])
            print(f"  {name:32} {middle:6.2f} s  {ratio:5.2f} x  {statistics.median(memory[name]):5.0f} MB")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(CONTENDERS))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        direction, name, fields = json.loads(options.contender)
        took = CONTENDERS[direction][name](Job(fields["folder"], fields["port"], fields["copy_file"]))
        print(json.dumps([took, peak_mb()]))
        return

    from integration_tests.standins.postgres import PostgresServer

    folder = Path(tempfile.mkdtemp(prefix="etl-bench-"))
    folder.chmod(0o777)  # the server writes its file there as another user
    server = PostgresServer().start()
    try:
        job = Job(str(folder), server.port, f"{folder}/orders.bin")
        make_orders(folder / "orders.parquet", options.rows)
        block = job.block()
        for name in ("orders", "source"):
            block.execute(TABLE.format(name=name))
        load_ours(job)
        block.execute("INSERT INTO source SELECT * FROM orders")
        block.execute(f"COPY orders TO '{job.copy_file}' (FORMAT binary)")
        block.execute("VACUUM ANALYZE source")
        for direction in [options.only] if options.only else list(CONTENDERS):
            print(f"{direction}: {options.rows:,} orders, median of {options.rounds}", flush=True)
            run(direction, options.rounds, job)
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
