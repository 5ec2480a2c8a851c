"""What a flow hands to its tasks crosses processes: process pools, Dask and Ray pickle it, and most use cloudpickle."""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import pickle
import pkgutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import blocks
from blocks import Audit, ConnectorError, Contract, CsvOptions, InvalidInputError, JobFailedError, Rejects, Scan
from blocks.arrow.scan import as_scan
from blocks.base.optional import lazy
from blocks.cli.saved import block_types
from connectors.aws_lambda import FunctionError, InvocationResult
from connectors.dbt import DbtProject
from connectors.duckdb import DuckDB
from connectors.great_expectations import DataQuality
from connectors.local import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERS = pa.table({"id": [1, 2, 3], "amount": [1.5, -2.0, 4.0], "day": [dt.date(2026, 4, 30)] * 3})
ROW = pa.schema([("id", pa.int64()), ("amount", pa.float64()), ("day", pa.date32())])


@pytest.fixture(params=[pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def crossed(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """What arrives in another process."""
    return lambda value: pickle.loads(request.param.dumps(value))  # noqa: S301 (our own)


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    """A store with orders as CSV, JSON Lines and Parquet."""
    store = LocalFiles(basepath=str(tmp_path / "lake"))
    for name in ("csv", "jsonl", "parquet"):
        store.write_table(ORDERS, name, format=name, partition_by=["day"], mode="replace")
    return store


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDB:
    """A warehouse with orders."""
    warehouse = DuckDB(path=str(tmp_path / "warehouse.duckdb"))
    warehouse.load(ORDERS, "orders", mode="replace")
    return warehouse


def kinds_of_scans(files: LocalFiles, warehouse: DuckDB) -> dict[str, Scan]:
    limit = 0.0
    table = as_scan(ORDERS)
    return {
        "memory": table,
        "csv": files.scan("csv", schema=ROW, options=CsvOptions()),
        "csv without a schema": files.scan("csv/**/*.csv"),
        "jsonl": files.scan("jsonl", schema=ROW, on_error="quarantine"),
        "parquet": files.scan("parquet", where=[("amount", ">", 0)], columns=["id", "amount"]),
        "settled": files.scan("parquet").settled(),
        "mapped": table.map_batches(lambda batch: batch.filter(pc.greater(batch["amount"], limit))).select(["id"]),
        "mapped files": files.scan("parquet").map_batches(lambda batch: batch.select(["id"])),
        "enforced": Contract(name="orders", schema=ROW, key=["id"]).enforce(files.scan("parquet", schema=ROW)),
        "table": warehouse.scan("orders"),
        "query": warehouse.scan_query("select * from orders where id > %s", [1]),
    }


KINDS = [*kinds_of_scans(LocalFiles(basepath="."), DuckDB(path=":memory:"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_reads_the_same(files, warehouse, crossed, kind):
    """Whatever it is of, whatever was made of it, and also after it was read here."""
    scan = kinds_of_scans(files, warehouse)[kind]
    other = crossed(scan)
    assert other.schema == scan.schema
    assert other.to_arrow() == scan.to_arrow()
    assert other.fingerprint() == scan.fingerprint()
    assert (other.source, other.query, other.provable) == (scan.source, scan.query, scan.provable)
    assert crossed(other).to_arrow() == scan.to_arrow()


def test_rejects_of_a_scan_are_the_same(crossed):
    """The rows that it leaves out go where they are told to."""
    scan = crossed(as_scan(ORDERS).reject(lambda rows: pc.less(rows["amount"], 0), "amount is negative"))
    rejects = Rejects()
    assert sum(batch.num_rows for batch in scan.batches(rejects)) == 2
    assert rejects.reasons == {"amount is negative": 1}


def test_what_can_be_read_only_once_stays_where_it_is(crossed):
    """It is an error that says so, and not one of pickle."""
    with pytest.raises(InvalidInputError, match="can be read only once, and only in this process"):
        crossed(as_scan(pa.RecordBatchReader.from_batches(ROW, [])))


def test_what_cannot_be_pickled_is_said(crossed):
    """A function of the user's that holds a lock, for example."""
    lock = threading.Lock()
    scan = as_scan(ORDERS).map_batches(lambda batch: batch.slice(lock.locked()))
    with pytest.raises(InvalidInputError, match=r"Scan\(the data\) cannot be passed to another process"):
        crossed(scan)


def test_reports_are_the_same(files, warehouse, crossed):
    """Each that a task may return."""
    contract = Contract(name="orders", schema=ROW, key=["id"])
    suite = DataQuality(suite_name="orders")
    reports = [
        warehouse.load(ORDERS, "orders", mode="replace"),
        warehouse.plan(ORDERS, "orders", mode="append"),
        files.write_table(ORDERS, "again", mode="replace"),
        files.head_object(files.write_path("a", b"")),
        contract.validate(ORDERS),
        suite,
        contract,
        CsvOptions(delimiter=";"),
        warehouse.retry,
    ]
    for report in reports:
        assert crossed(report) == report
    audit = Audit(report=contract.validate(ORDERS), rejected=as_scan(ORDERS))
    assert crossed(audit).rejected.to_arrow() == ORDERS


@pytest.mark.parametrize("block_type", block_types().values(), ids=block_types())
def test_a_class_of_blocks_and_its_operations_are_the_same(crossed, block_type):
    """Classes are found by name; nothing of a class keeps the block of it from being passed on."""
    assert crossed(block_type) is block_type


def test_a_block_and_its_operation_are_the_same(files, warehouse, crossed):
    """Also after they were used: connections stay where they are."""
    assert crossed(files) == files
    assert crossed(warehouse).fetch_all("select count(*) from orders") == [(3,)]
    assert crossed(warehouse.fetch_all)("select count(*) from orders") == [(3,)]
    assert crossed(warehouse.fetch_all.with_options(retries=7))._policy.attempts == 8
    project = DbtProject(project_dir=Path(), target=warehouse)
    assert crossed(project) == project


def errors() -> list[type[ConnectorError]]:
    def below(kind: type[ConnectorError]) -> list[type[ConnectorError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in below(child))]

    return sorted(set(below(ConnectorError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", errors(), ids=lambda kind: kind.__name__)
def test_an_error_keeps_its_words(crossed, kind):
    """A task in another process fails as one in this does."""
    error = kind.__new__(kind, "Could not read a.csv: gone.")
    error.result = {"rows": 1}
    other = crossed(error)
    assert (type(other), other.args, other.__dict__) == (kind, error.args, {"result": {"rows": 1}})


def test_an_error_keeps_what_it_carries(crossed):
    """Whatever its class takes."""
    failed = FunctionError("It failed.", "KeyError", InvocationResult(status_code=200))
    assert crossed(failed).error_type == "KeyError"
    assert crossed(JobFailedError("It failed.", {"rows": 1})).result == {"rows": 1}


def test_a_module_that_is_imported_later_is_that_module(crossed):
    """Functions that use it are passed on by value."""
    assert crossed(lazy("json")).dumps([1]) == "[1]"
    for module in pkgutil.walk_packages(blocks.__path__, "blocks."):
        if module.name not in ("blocks.cli.__main__", "blocks.testing.fixtures"):
            importlib.import_module(module.name)
    found = [
        value
        for name, module in list(sys.modules.items())
        if name.startswith(("blocks.", "connectors."))
        for value in vars(module).values()
        if type(value) is lazy
    ]
    assert found
    for each in found:
        assert inspect.ismodule(importlib.import_module(each._module))
        assert crossed(each)._module == each._module
