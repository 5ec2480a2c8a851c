"""The memory that a load into DuckDB takes beside plain DuckDB: `python -m integration_tests.campaigns.duckdb_memory`.

Each case runs in a process of its own: 3 GiB of rows from a stream, and a Parquet file with one large row group.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from blocks.arrow.scan import Scan
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from integration_tests.campaigns.object_scale import peak_mb

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 65_536
FILE = "one_row_group.parquet"
COLUMNS = "id BIGINT, a DOUBLE, b BIGINT, t VARCHAR, u VARCHAR"
SCHEMA = pa.schema(
    {"id": pa.int64(), "a": pa.float64(), "b": pa.int64(), "t": pa.string(), "u": pa.string()},
)
CASES = ("append", "replace", "upsert", "parquet")
MOST = 1.3


def batches(gib: float) -> Iterator[pa.RecordBatch]:
    """Rows that compress badly."""
    random, made, first = np.random.default_rng(0), 0, 0
    while made < gib * 2**30:
        text = pa.array(np.char.add("customer-", random.integers(0, 10**12, ROWS).astype("U")).tolist())
        columns = [
            pa.array(np.arange(first, first + ROWS)),
            pa.array(random.random(ROWS)),
            pa.array(random.integers(0, 10**9, ROWS)),
            text,
            text,
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        made, first = made + batch.nbytes, first + ROWS
        yield batch


def load_by_hand(case: str, folder: Path, gib: float) -> int:
    """Load by DuckDB alone, without any setting."""
    with duckdb.connect(str(folder / "plain.duckdb")) as client:
        client.execute(f"CREATE TABLE t ({COLUMNS})")
        rows = f"read_parquet('{folder / FILE}')"
        if case != "parquet":
            client.register("feed", pa.RecordBatchReader.from_batches(SCHEMA, batches(gib)))
            rows = "feed"
        client.execute(f"INSERT INTO t SELECT * FROM {rows}")
        return int(client.execute("SELECT count(*) FROM t").fetchall()[0][0])


def load_by_block(case: str, folder: Path, gib: float) -> int:
    """Load by the block's own defaults."""
    warehouse = DuckDB(path=str(folder / "block.duckdb"))
    warehouse.execute(f"CREATE TABLE t ({COLUMNS})")
    if case == "parquet":
        return warehouse.load(LocalFiles(basepath=str(folder)).scan(FILE), "t").rows
    scan = Scan(SCHEMA, lambda _: batches(gib), source="a stream")
    if case == "upsert":
        return warehouse.load(scan, "t", mode="upsert", key=["id"]).rows
    return warehouse.load(scan, "t", mode="replace" if case == "replace" else "append").rows


def measure(how: str, case: str, folder: Path, gib: float) -> int:
    """Return the most memory, in MB, of a process that does it."""
    command = [sys.executable, "-m", __spec__.name, "--gib", str(gib), "--case", case, "--how", how, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    """Compare, and fail where we take more than 1.3 times as much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--gib", type=float, default=3.0, help="How much data, as Arrow counts it.")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--how", choices=["plain", "block"])
    options = parser.parse_args()
    if options.how:
        (load_by_hand if options.how == "plain" else load_by_block)(options.case, options.folder, options.gib)
        print(peak_mb())
        return
    worst = 0.0
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if case == "parquet":
                table = pa.Table.from_batches(batches(options.gib))
                pq.write_table(table, folder / FILE, row_group_size=table.num_rows)
                del table
            plain, block = (measure(how, case, folder, options.gib) for how in ("plain", "block"))
        worst = max(worst, block / plain)
        print(f"{case}: plain DuckDB {plain} MB, the block {block} MB, {block / plain:.2f} times", flush=True)
    sys.exit(worst > MOST)


if __name__ == "__main__":
    main()
