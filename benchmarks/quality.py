"""Five checks of one Parquet file by a Contract, by Great Expectations and by pandera, side by side in one run.

    python benchmarks/quality.py [--rows 2000000] [--keys 10000000] [--rounds 3]

Checked are: no null in the key, the key unique, a range, a list of values, a pattern. Each contender runs in a process
of its own, in turn, round after round; printed are medians of the seconds that reading and checking took (imports left
out), the peak memory of the process, and the ratio to the first line, which only reads. pandera takes part where it is
installed. The second table is about many keys alone, which come in no order.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

if TYPE_CHECKING:
    from collections.abc import Callable

STATUSES = ["new", "paid", "shipped", "returned"]
PATTERN = "note number [0-9]+"


def read_only(path: str) -> float:
    """The scan alone, batch by batch."""
    scan = scan_of(path)
    started = time.perf_counter()
    for _ in scan.batches():
        pass
    return time.perf_counter() - started


def by_contract(path: str) -> float:
    """Contract.validate of the scan."""
    import pyarrow as pa

    from blocks import Contract

    contract = Contract(
        name="orders",
        schema=pa.schema(
            [("order_id", pa.int64()), ("amount", pa.float64()), ("status", pa.string()), ("note", pa.string())]
        ),
        key=["order_id"],
        ranges={"amount": (0, 100_000)},
        allowed={"status": STATUSES},
        patterns={"note": PATTERN},
    )
    scan = scan_of(path)
    started = time.perf_counter()
    contract.validate(scan)
    return time.perf_counter() - started


def by_great_expectations(path: str) -> float:
    """The same as expectations of a pandas frame."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    suite = gx.ExpectationSuite(
        name="orders",
        expectations=[
            gxe.ExpectColumnValuesToNotBeNull(column="order_id"),
            gxe.ExpectColumnValuesToBeUnique(column="order_id"),
            gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, max_value=100_000),
            gxe.ExpectColumnValuesToBeInSet(column="status", value_set=STATUSES),
            gxe.ExpectColumnValuesToMatchRegex(column="note", regex=f"^{PATTERN}$"),
        ],
    )
    started = time.perf_counter()
    frame = pd.read_parquet(path)
    result = batch.get_batch({"dataframe": frame}).validate(suite)
    took = time.perf_counter() - started
    assert result.success, result  # noqa: S101
    return took


def by_pandera(path: str) -> float:
    """The same as a schema of pandera over pandas."""
    import pandas as pd
    import pandera.pandas as pandera

    schema = pandera.DataFrameSchema(
        {
            "order_id": pandera.Column(int, unique=True, nullable=False),
            "amount": pandera.Column(float, pandera.Check.in_range(0, 100_000)),
            "status": pandera.Column(str, pandera.Check.isin(STATUSES)),
            "note": pandera.Column(str, pandera.Check.str_matches(f"{PATTERN}$")),
        }
    )
    started = time.perf_counter()
    schema.validate(pd.read_parquet(path), lazy=True)
    return time.perf_counter() - started


def unique(column: str) -> Callable[[str], float]:
    """A contract of nothing but a key."""

    def run(path: str) -> float:
        import pyarrow as pa

        from blocks import Contract

        kind = pa.int64() if column == "order_id" else pa.string()
        contract = Contract(name="keys", schema=pa.schema([(column, kind)]), key=[column], other_columns="ignore")
        scan = scan_of(path).select([column])
        started = time.perf_counter()
        contract.validate(scan)
        return time.perf_counter() - started

    return run


CONTENDERS: dict[str, dict[str, Callable[[str], float]]] = {
    "checks": {
        "read only": read_only,
        "etl-blocks Contract": by_contract,
        "Great Expectations, pandas": by_great_expectations,
        "pandera, pandas": by_pandera,
    },
    "keys": {
        "read only": read_only,
        "key of one integer": unique("order_id"),
        "key of one text": unique("reference"),
    },
}


def scan_of(path: str) -> Any:
    """The file as a scan."""
    import blocks.files.formats  # noqa: F401 (imports are left out of every contender's time)
    from connectors.local import LocalFiles

    return LocalFiles(basepath=str(Path(path).parent)).scan(Path(path).name)


def make_orders(path: Path, rows: int) -> None:
    """A file of good orders in no order, the same for each run."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(1)
    table = pa.table(
        {
            "order_id": random.permutation(rows),
            "amount": random.random(rows) * 100_000,
            "status": np.array(STATUSES)[random.integers(0, 4, rows)],
            "note": [f"note number {n}" for n in random.integers(0, 10**6, rows)],
        }
    )
    pq.write_table(table, path, row_group_size=250_000)


def make_keys(path: Path, rows: int) -> None:
    """A file of keys in no order, as an integer and as a text."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.array(np.random.default_rng(1).permutation(rows))
    pq.write_table(
        pa.table({"order_id": numbers, "reference": numbers.cast(pa.string())}), path, row_group_size=250_000
    )


def peak_mb() -> float:
    """The most memory this process ever held; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 10**6 for line in lines if line.startswith("VmHWM")), 0.0)


def run(kind: str, rounds: int, path: Path) -> None:
    """Let the contenders take turns, and print what came out."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS[kind]}
    memory: dict[str, list[float]] = {name: [] for name in CONTENDERS[kind]}
    for name in [name for name in seconds if "pandera" in name]:
        if importlib.util.find_spec("pandera") is None:
            print(f"  {name}: left out, it is not installed")
            del seconds[name]
    for _ in range(rounds):
        for name, took_so_far in seconds.items():
            command = [sys.executable, __file__, "--contender", json.dumps([kind, name, str(path)])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"  {name} failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            took, peak = json.loads(done.stdout.strip().splitlines()[-1])
            took_so_far.append(took)
            memory[name].append(peak)
    first = next(iter(seconds))
    for name, took in seconds.items():
        if took and seconds[first]:
            middle = statistics.median(took)
            ratio = middle / statistics.median(seconds[first])
            print(f"  {name:28} {middle:6.2f} s  {ratio:6.1f} x  {statistics.median(memory[name]):6.0f} MB")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        kind, name, path = json.loads(args.contender)
        took = CONTENDERS[kind][name](path)
        print(json.dumps([took, peak_mb()]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind, rows, make in (("checks", args.rows, make_orders), ("keys", args.keys, make_keys)):
            path = Path(folder) / f"{kind}.parquet"
            make(path, rows)
            print(f"{kind}: {rows:,} rows, {path.stat().st_size / 10**6:.0f} MB of Parquet")
            run(kind, args.rounds, path)


if __name__ == "__main__":
    main()
