"""A misspelt argument is refused at the call, by name, and nothing is read or written."""

from __future__ import annotations

import pytest

from blocks import InvalidInputError, Scan
from connectors.duckdb import DuckDB
from connectors.local import MemoryFiles

ROWS = [{"id": 1, "day": "mon"}]

LOADS = {
    "on_new_columns": ({"on_new_columns": "fial"}, "Invalid on_new_columns 'fial': did you mean 'fail'?"),
    "key": ({"mode": "upsert", "key": "id"}, r"key is a list of column names.* key=\['id'\]"),
    "partition_by": ({"mode": "replace_partition", "partition_by": "day"}, r"partition_by=\['day'\]"),
    "allow_loss": ({"allow_loss": "id"}, r"allow_loss=\['id'\]"),
    "names": ({"mode": "upsert", "key": ["id", 1]}, "key is a list of column names, and has a value of type int"),
}
NO_SUCH = ("plan", "allow_loss")
SCANS = {
    "on_error": ({"on_error": "fial"}, "Invalid on_error 'fial': did you mean 'fail'?"),
    "extra_columns": ({"extra_columns": "ignroe"}, "Invalid extra_columns 'ignroe': did you mean 'ignore'?"),
    "columns": ({"columns": "id"}, r"columns=\['id'\]"),
}


def unread():
    """A scan that fails the test when somebody opens it."""
    return Scan(lambda: pytest.fail("its schema was asked for"), lambda _: pytest.fail("it was read"), source="rows")


@pytest.mark.parametrize(
    ("call", "argument"),
    [(call, argument) for call in ("load", "plan", "publish") for argument in LOADS if (call, argument) != NO_SUCH],
)
def test_a_load_checks_its_arguments(call, argument):
    """Nothing is added, cast or upserted by a typing error."""
    arguments, message = LOADS[argument]
    warehouse = DuckDB()
    warehouse.load(ROWS, "t", load_id="first")
    data = "t" if call == "publish" else unread()
    more = {} if call == "plan" else {"load_id": "x"}
    with pytest.raises(InvalidInputError, match=message):
        getattr(warehouse, call)(data, "t", **arguments, **more)
    assert warehouse.fetch_all("select id, day from t") == [(1, "mon")]
    assert warehouse.load_report("x") is None


@pytest.mark.parametrize("argument", SCANS)
def test_a_scan_checks_its_arguments(argument):
    """Nothing is quarantined, or left out, by a typing error."""
    arguments, message = SCANS[argument]
    with pytest.raises(InvalidInputError, match=message):
        MemoryFiles().scan("orders/*.csv", **arguments)


def test_a_dataset_checks_its_arguments():
    """A single text is not a list of columns."""
    store = MemoryFiles()
    with pytest.raises(InvalidInputError, match=r"partition_by=\['day'\]"):
        store.write_table(unread(), "orders", partition_by="day")
    assert store.list_objects() == []
