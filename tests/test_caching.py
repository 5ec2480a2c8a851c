"""Results that Prefect caches by the inputs of a task: of the data as it is now, in every process, without a secret."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS

from blocks import CsvOptions, InvalidInputError, RetryPolicy
from blocks.arrow.scan import as_scan
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles, MemoryFiles
from connectors.postgres import Postgres

if TYPE_CHECKING:
    from pathlib import Path

    from blocks import Scan

KEYS = """
    import sys
    from prefect.cache_policies import INPUTS
    from connectors.local import LocalFiles
    from connectors.postgres import Postgres

    files = LocalFiles(basepath=sys.argv[1])
    database = Postgres(host="127.0.0.1", username="loader", password="pw-1f7c")
    scans = {
        "files": files.scan("orders"),
        "one file": files.scan("orders/1.csv"),
        "some columns": files.scan("orders").select(["id"]),
        "a part": files.scan("orders").partitions(2)[0],
        "a table": database.scan("orders"),
        "a query": database.scan_query("select * from orders where id > :id", {"id": 3}),
        "a store": files,
        "a database": database,
    }
    for name, scan in scans.items():
        print(name, INPUTS.compute_key(None, {"scan": scan}, {}), sep=": ")
"""


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    store = LocalFiles(basepath=str(tmp_path / "lake"))
    for number in range(2):
        store.write_path(f"orders/{number}.csv", b"id,day\n%d,mon\n" % number)
    return store


def keys(files: LocalFiles, seed: int) -> dict[str, str]:
    """The keys of inputs, computed by a new process with other hashes of texts."""
    command = [sys.executable, "-c", textwrap.dedent(KEYS), str(files.basepath)]
    environ = os.environ | {"PYTHONHASHSEED": str(seed)}
    lines = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S603
    return dict(line.split(": ") for line in lines)


def test_keys_are_the_same_in_every_process(files):
    """And differ by what is read."""
    found = keys(files, 1)
    assert found == keys(files, 2)
    assert len(set(found.values())) == len(found) == 8


def test_a_changed_file_is_another_input(files):
    """Of a scan of the same files, under the same names."""
    scan: Scan = files.scan("orders")
    before = INPUTS.compute_key(None, {"scan": scan}, {})
    assert sum(batch.num_rows for batch in scan.batches()) == 2
    assert INPUTS.compute_key(None, {"scan": scan}, {}) == before  # also once it was read
    files.write_path("orders/0.csv", b"id,day\n7,tue\n")
    changed = INPUTS.compute_key(None, {"scan": scan}, {})
    files.write_path("orders/2.csv", b"id,day\n8,tue\n")
    assert len({before, changed, INPUTS.compute_key(None, {"scan": scan}, {})}) == 3


def test_what_was_made_of_a_scan_is_another_input(files):
    """By other steps, other values in them, or other options of how it is read."""
    scan = files.scan("orders")

    def reject(limit: int) -> Scan:
        return scan.reject(lambda batch: pc.greater(batch["id"], limit), "too large")

    made = [
        scan,
        scan.select(["id"]),
        scan.select(["day"]),
        reject(1),
        reject(2),
        reject(2).select(["id"]),
        files.scan("orders", schema=pa.schema([("id", pa.string()), ("day", pa.string())])),
        files.scan("orders", options=CsvOptions(null_values=["mon"])),
    ]
    assert len({INPUTS.compute_key(None, {"scan": each}, {}) for each in made}) == len(made)


def test_what_is_read_once_has_no_key():
    """It is refused before it is read, with what to do."""
    once = as_scan(pa.RecordBatchReader.from_batches(pa.schema([("id", pa.int64())]), []))
    with pytest.raises(InvalidInputError, match="can be read only once"):
        INPUTS.compute_key(None, {"scan": once}, {})


def test_a_block_is_what_it_stands_for():
    """A rotated password or another retry policy is the same database; two databases in memory are two."""
    alike = [
        Postgres(host="h", username="u", password="pw-1f7c"),
        Postgres(host="h", username="u", password="pw-93aa"),
        Postgres(host="h", username="u", password="pw-1f7c", retry=RetryPolicy(attempts=2)),
    ]
    assert len({INPUTS.compute_key(None, {"b": each}, {}) for each in alike}) == 1
    others = [alike[0], Postgres(host="h", username="v"), DuckDB(), DuckDB(), MemoryFiles(), MemoryFiles()]
    assert len({INPUTS.compute_key(None, {"b": each}, {}) for each in others}) == len(others)


@pytest.mark.usefixtures("prefect_server")
def test_a_cached_task_reads_again_what_has_changed(files, tmp_path):
    """And nothing else."""
    calls = []
    results = LocalFiles(basepath=str(tmp_path / "results"))
    results.save("cached-by-inputs", overwrite=True)

    @task(cache_policy=INPUTS, persist_result=True)
    def total(orders: Scan, store: LocalFiles) -> int:
        calls.append(store.basepath)
        return sum(orders.to_arrow()["id"].to_pylist())

    @flow(result_storage=results)
    def totals() -> int:
        return total(files.scan("orders"), files)

    assert [totals(), totals(), len(calls)] == [1, 1, 1]
    files.write_path("orders/2.csv", b"id,day\n40,tue\n")
    assert [totals(), totals(), len(calls)] == [41, 41, 2]
