"""Foreign inputs: what callers, files and servers may hand over that nobody foresaw, spread over a block's methods.

Half of the cases are arguments of any kind, half are such that only the driver, or the server behind it, finds out.
Whatever they meet, only a ConnectorError comes out: one line, no secret and no value of a row, and nothing was written.
"""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import inspect
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from blocks import ConnectorError
from blocks.base.operation import Operation
from connectors.local import MemoryFiles
from tests.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    from blocks.stores.object_store import ObjectStore
    from blocks.warehouses.warehouse import Warehouse

ROW = "row-7c1f"
"""Stands in rows, parameters and files, and must not come out."""
SECRET = "secret-9d2e"
"""Stands in the fields of blocks, and must not come out either."""

ARGUMENTS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "a negative number": lambda: -1,
    "a number beyond 64 bits": lambda: 2**70,
    "not a number": lambda: float("nan"),
    "a decimal": lambda: decimal.Decimal("NaN"),
    "no text": lambda: "",
    "whitespace": lambda: "  ",
    "NUL": lambda: "a\0b",
    "lines": lambda: "a\n12:00 | INFO | b",
    "half a character": lambda: "a\ud800",
    "the other direction": lambda: "\u202egnp.exe",
    "a long text": lambda: "x" * 5_000,
    "quotes": lambda: "a\"'`;--",
    "a path upwards": lambda: "../../etc/passwd",
    "a URL": lambda: "http://me:pw@example.com/x?sig=1",
    "bytes": lambda: b"\xff\xfe",
    "a path": lambda: Path("/nowhere/at/all"),
    "a day": lambda: dt.date(9999, 12, 31),
    "no list": list,
    "a list of None": lambda: [None],
    "a list of lists": lambda: [[["a"]]],
    "a dictionary": lambda: {"a": {"b": [1]}},
    "a set": lambda: {1},
    "an iterator": lambda: iter([{"id": 1}]),
    "an object": object,
    "a class": lambda: dict,
    "a function": lambda: len,
}


def nested(depth: int) -> Any:
    value: Any = ROW
    for _ in range(depth):
        value = [value]
    return value


def broken_text() -> pa.Table:
    """Text that is not UTF-8, as a faulty producer of Arrow data makes it."""
    content = b"\xff" + ROW.encode()
    offsets = pa.py_buffer(np.array([0, len(content)], dtype=np.int32))
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(content)])
    return pa.table({"id": [1], "note": text})


DATA: dict[str, Callable[[], Any]] = {
    "a text too long": lambda: [{"id": 1, "note": "a"}, {"id": 2, "note": ROW}],
    "NUL in a text": lambda: pa.table({"id": [1], "note": [f"{ROW}\0"]}),
    "half a character": lambda: [{"id": 1, "note": f"{ROW}\ud800"}],
    "not UTF-8": broken_text,
    "a key twice": lambda: pa.table({"id": [1, 1], "note": [ROW[:3], ROW[:3]]}),
    "no key": lambda: pa.table({"id": pa.array([None], pa.int64()), "note": [ROW]}),
    "mixed types": lambda: [{"id": 1, "note": "a"}, {"id": ROW, "note": 1}],
    "mixed in a frame": lambda: pd.DataFrame({"id": [1, ROW]}),
    "text for a number": lambda: [{"id": ROW}],
    "a structure for a number": lambda: [{"id": {"a": ROW}}],
    "deep": lambda: [{"id": 1, "note": nested(60)}],
    "an object": lambda: [{"id": object(), "note": ROW}],
    "a frame of objects": lambda: pd.DataFrame({"id": [1], "note": [object()]}),
    "a number beyond 64 bits": lambda: [{"id": 2**70, "note": ROW}],
    "decimals of two kinds": lambda: [{"id": decimal.Decimal("NaN"), "note": ROW}],
    "complex": lambda: pd.DataFrame({"id": [1j], "note": [ROW]}),
    "sparse": lambda: pd.DataFrame({"id": pd.arrays.SparseArray([1]), "note": [ROW]}),
    "a column twice": lambda: pd.DataFrame([[1, ROW]], columns=["id", "id"]),
    "no name": lambda: pa.table({"": [ROW]}),
    "names of numbers": lambda: pd.DataFrame({0: [ROW]}),
    "names by case": lambda: pa.table({"ID": [1], "id": [1]}),
    "a name of the system's": lambda: pa.table({"id": [1], "ctid": [ROW]}),
    "no columns": lambda: pa.table({}),
    "a name of many characters": lambda: pa.table({"x" * 300: [ROW]}),
    "categories": lambda: pl.DataFrame({"id": [1], "note": pl.Series([ROW], dtype=pl.Categorical)}),
    "128 bits": lambda: pl.DataFrame({"id": pl.Series([2**100], dtype=pl.Int128)}),
    "polars' objects": lambda: pl.DataFrame({"id": pl.Series([ROW, object()], dtype=pl.Object)}),
    "a day far off": lambda: pa.table({"id": [1], "day": pa.array([2**31 - 1], pa.date32())}),
    "a time far off": lambda: pa.table({"id": [1], "at": pa.array([2**62], pa.timestamp("us"))}),
    "an interval far off": lambda: pa.table(
        {"id": [1], "age": pa.array([(2**31 - 1, 2**31 - 1, 2**62)], pa.month_day_nano_interval())}
    ),
    "a dictionary with null": lambda: pa.table({"id": [1], "note": pa.DictionaryArray.from_arrays([0], [None])}),
    "a union": lambda: pa.table(
        {"u": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([ROW]), pa.array([1])])}
    ),
    "a reader that fails": lambda: pa.RecordBatchReader.from_batches(
        pa.schema([("id", pa.int64())]), (pa.record_batch({"id": [each]}) for each in ["x"])
    ),
    "a value that is refused": lambda: pa.table({"id": [-77712345], "note": ["abc"]}),
}
"""Tables for `orders`, whose columns are `id` (a number above zero, the key) and `note` (three characters)."""

STATEMENTS: dict[str, str] = {
    "no number": "SELECT CAST(:x AS INTEGER)",
    "no day": "SELECT CAST(:x AS DATE)",
    "no table": "SELECT * FROM nowhere WHERE note = :x",
    "no column": "SELECT nothing FROM orders WHERE note = :x",
    "no function": "SELECT nothing(:x)",
    "no syntax": "SELEC :x",
    "half a statement": "SELECT (:x",
    "a value refused": "INSERT INTO orders (id, note) VALUES (-5, :x)",
    "no value": "INSERT INTO orders (id, note) VALUES (NULL, :x)",
    "a parameter that lacks": "SELECT :y, :x",
    "a table that is there": "CREATE TABLE orders (id INTEGER, note VARCHAR(9))",
    "a division": "SELECT 1 / (LENGTH(:x) - LENGTH(:x))",
}

CSV = f"id,note\n1,{ROW}\n"
FILES: dict[str, Callable[[], tuple[str, bytes]]] = {
    "ragged": lambda: ("a.csv", f"id,note\n1,a\n{ROW},2,3,4\n".encode()),
    "ragged and not UTF-8": lambda: ("b.csv", f"id,note\n1,{ROW},é,3\n".encode("latin-1")),
    "an open quote": lambda: ("c.csv", f'id,note\n1,"{ROW}\n2,b\n'.encode()),
    "another delimiter": lambda: ("d.csv", f'id;note\n1;"{ROW}" ,x\n'.encode()),
    "text for a number": lambda: ("e.csv", CSV.replace("1,", f"{ROW},").encode()),
    "bytes": lambda: ("f.csv", b"\0\1\2" + ROW.encode()),
    "no JSON": lambda: ("a.jsonl", f'{{"id": 1, "note": "{ROW}\n'.encode()),
    "deep JSON": lambda: ("b.jsonl", ('{"id": ' + "[" * 3_000 + f'"{ROW}"' + "]" * 3_000 + "}\n").encode()),
    "JSON of two kinds": lambda: ("c.jsonl", f'{{"id": 1}}\n{{"id": {{"a": "{ROW}"}}}}\n'.encode()),
    "no objects": lambda: ("d.jsonl", f'["{ROW}"]\n'.encode()),
    "a key twice": lambda: ("e.jsonl", f'{{"id": 1, "id": "{ROW}"}}\n'.encode()),
    "no Parquet": lambda: ("a.parquet", b"PAR1" + ROW.encode() + b"PAR1"),
    "half of a Parquet file": lambda: ("b.parquet", b"PAR1" + ROW.encode() * 9),
    "no Arrow": lambda: ("a.arrow", b"ARROW1\0\0" + ROW.encode()),
    "no gzip": lambda: ("a.csv.gz", ROW.encode()),
    "half of a gzip file": lambda: ("b.csv.gz", gzip.compress(CSV.encode() * 99)[:-9]),
    "no zstd": lambda: ("a.jsonl.zst", ROW.encode()),
    "of no kind": lambda: ("a.xyz", ROW.encode()),
    "empty": lambda: ("g.csv", b""),
}


@dataclass(frozen=True)
class Case:
    """A call with one thing that is foreign.

    Attributes:
        method: The operation.
        arguments: All of its arguments.
        what: What is foreign, for the test's report.
    """

    method: str
    arguments: Mapping[str, Any]
    what: str

    def __str__(self) -> str:
        return f"{self.method}, {self.what}"


def warehouse_calls() -> dict[str, dict[str, Any]]:
    """Return arguments with which each operation of a warehouse does something."""
    rows = pa.table({"id": [7], "note": ["abc"]})
    values = {"x": ROW}
    store = MemoryFiles()
    store.write_table(rows, "in")
    return {
        "drop_table": {"table": "nowhere"},
        "execute": {"operation": "SELECT :x", "parameters": values},
        "execute_many": {"operation": "SELECT :x", "seq_of_parameters": [values]},
        "fetch_all": {"operation": "SELECT :x", "parameters": values},
        "fetch_many": {"operation": "SELECT :x", "parameters": values, "size": 1},
        "fetch_one": {"operation": "SELECT :x", "parameters": values},
        "fingerprint": {"table": "orders"},
        "load": {"data": rows, "table": "orders", "mode": "append", "key": ["id"], "max_rejected": 0.0},
        "load_history": {"table": "orders", "most": 3},
        "load_report": {"load_id": "nothing"},
        "plan": {"data": rows, "table": "orders", "mode": "upsert", "key": ["id"]},
        "publish": {"source_table": "nowhere", "table": "orders", "mode": "append"},
        "read_table": {"table": "orders", "columns": ["id"]},
        "reset_state": {"name": "nothing"},
        "set_state": {"name": "state", "value": ROW},
        "states": {"name": "state"},
        "stage": {"part": store.scan("in").partitions(1)[0], "table": "orders"},
        "table_schema": {"table": "orders"},
    }


def calls_of(block: Any) -> dict[str, dict[str, Any]]:
    """Return arguments with which each operation of a block does something."""
    if not hasattr(block, "fetch_all"):
        return store_calls()
    if type(block).__name__ != "BigQuery":
        return warehouse_calls()
    schema = pa.schema([("id", pa.int64()), ("day", pa.date32())])
    return warehouse_calls() | {
        "create_table": {"table": "made", "schema": schema, "partition_by": ["day"], "cluster_by": ["id"]},
        "estimate_bytes": {"query": "SELECT :x", "parameters": {"x": ROW}},
    }


def store_calls() -> dict[str, dict[str, Any]]:
    """Return arguments with which each operation of a store does something."""
    rows = pa.table({"id": [7], "note": ["abc"]})
    return {
        "announce_new_objects": {"folder": "nowhere"},
        "copy_object": {"from_path": "nowhere", "to_path": "to"},
        "delete_objects": {"paths": ["nowhere"]},
        "download_object_to_path": {"from_path": "nowhere"},
        "exists": {"path": "nowhere"},
        "head_object": {"path": "nowhere", "version": None},
        "list_folders": {"folder": ""},
        "list_objects": {"folder": "", "max_items": 3},
        "list_versions": {"path": "nowhere"},
        "move_object": {"from_path": "nowhere", "to_path": "to"},
        "presigned_url": {"path": "nowhere", "method": "GET"},
        "put_directory": {"local_path": "/nowhere/at/all", "to_path": "to"},
        "read_path": {"path": "nowhere", "start": 0, "length": 3},
        "read_table": {"keys": "nowhere.csv", "columns": ["id"]},
        "upload_from_dataframe": {"df": rows, "to_path": "new", "serialization_format": "csv"},
        "upload_from_path": {"from_path": "/nowhere/at/all", "to_path": "new"},
        "write_path": {"path": "new/a", "content": b"x", "if_match": "none", "metadata": {}, "tags": {}},
        "write_table": {
            "data": rows,
            "prefix": "new",
            "format": "parquet",
            "partition_by": ["note"],
            "mode": "replace",
        },
    }


def cases(block: Any, seed: int, count: int) -> list[Case]:
    """Return so many cases for a block, the same for one seed; every second one gets past the checks of arguments."""
    choose = random.Random(seed)
    is_warehouse = hasattr(block, "fetch_all")
    calls = calls_of(block)
    check_complete(block, calls)
    return [
        _for_the_driver(choose, calls, is_warehouse=is_warehouse) if number % 2 else _any(choose, block, calls)
        for number in range(count)
    ]


def check_complete(block: Any, calls: Mapping[str, Any]) -> None:
    """Fail where a block has an operation that takes arguments and is not tried, unless one like it is."""
    alike = {"download_", "get_directory", "upload_from_f", "stream_from", "create_bucket", "sweep", "check"}
    alike |= {"multiquery", "copy_from", "unload_to", "extract_to", "create_external_table", "list_blobs", "get_bucket"}
    known = {name for name in dir(type(block)) if isinstance(inspect.getattr_static(type(block), name), Operation)}
    assert not {name for name in known - calls.keys() if not name.startswith(tuple(alike))}


def _any(choose: random.Random, block: Any, calls: Mapping[str, Mapping[str, Any]]) -> Case:
    method = choose.choice(sorted(calls))
    names = [name for name in getattr(block, method).__signature__.parameters if name not in ("args", "options")]
    argument, kind = choose.choice(names), choose.choice(sorted(ARGUMENTS))
    return Case(method, {**calls[method], argument: ARGUMENTS[kind]()}, f"{argument} is {kind}")


def _for_the_driver(choose: random.Random, calls: Mapping[str, Mapping[str, Any]], *, is_warehouse: bool) -> Case:
    if is_warehouse and choose.random() < 0.3:
        what = choose.choice(sorted(STATEMENTS))
        method = choose.choice(["execute", "fetch_one", "fetch_many", "fetch_all"])
        return Case(method, {"operation": STATEMENTS[what], "parameters": {"x": ROW}}, what)
    what = choose.choice(sorted(DATA))
    if is_warehouse:
        mode = choose.choice(["append", "replace", "upsert"])
        call = {**calls["load"], "mode": mode, "data": DATA[what](), "max_rejected": 0.0}
        return Case("load", call, f"{what} by {mode}")
    if choose.random() < 0.6:
        what = choose.choice(sorted(FILES))
        schema = choose.choice([None, pa.schema([("id", pa.int64()), ("note", pa.string())])])
        return Case("read_table", {"keys": f"files/{FILES[what]()[0]}", "schema": schema}, what)
    kind = choose.choice(["parquet", "csv", "jsonl", "arrow"])
    by = choose.choice([(), ("note",)])
    return Case(
        "write_table", {"data": DATA[what](), "prefix": "new", "format": kind, "partition_by": by}, f"{what} as {kind}"
    )


def fill_store(store: ObjectStore) -> None:
    """Write the files that no reader takes."""
    for make in FILES.values():
        key, content = make()
        store.write_path(f"files/{key}", content)


def stored(store: ObjectStore) -> list[tuple[str, int]]:
    """Return what is in a store."""
    return sorted((each["Key"], each["Size"]) for each in store.list_objects())


COLUMNS = {"BigQuery": "id INT64 NOT NULL, note STRING NOT NULL"}


def fill_warehouse(warehouse: Warehouse) -> None:
    """Make the table that nothing fits, as far as the engine has constraints."""
    columns = COLUMNS.get(type(warehouse).__name__, "id BIGINT PRIMARY KEY CHECK (id > 0), note VARCHAR(3) NOT NULL")
    warehouse.drop_table("orders")
    warehouse.execute(f"CREATE TABLE orders ({columns})")
    warehouse.execute("INSERT INTO orders (id, note) VALUES (3, 'old')")


def kept(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Return what is in the table."""
    return sorted(warehouse.fetch_all("SELECT * FROM orders"))


def attempt(block: Any, case: Case, caplog: pytest.LogCaptureFixture, state: Callable[[Any], Any]) -> bool:
    """Run a case, check what comes out, and tell whether it was refused."""
    before = state(block)
    caplog.clear()
    error = _error_of(block, case)
    if error is None:
        return False
    assert isinstance(error, ConnectorError), f"{case}: a raw {type(error).__name__}"
    seen = f"{shown(error)} {caplog.text}"
    for hidden in (ROW, SECRET):
        assert hidden not in seen, (str(case), _around(seen, hidden))
    assert "\n" not in str(error), str(case)
    assert "_etl_stage" not in str(error), str(case)
    assert state(block) == before, str(case)
    return True


def _error_of(block: Any, case: Case) -> Exception | None:
    try:
        getattr(block, case.method)(**case.arguments)
    except Exception as error:  # noqa: BLE001 (whatever comes out is looked at)
        return error
    return None


def _around(text: str, part: str) -> str:
    at = text.index(part)
    return text[max(0, at - 400) : at + 100]
