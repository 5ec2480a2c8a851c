"""What every store promises whoever reads. Star-imported by a module that has the fixture `holding`.

`holding({"key": b"content"})` gives a block over a fresh folder in which there is just that.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import weakref
from typing import TYPE_CHECKING

import cloudpickle
import pyarrow as pa
import pytest

from blocks.base.errors import InvalidInputError, NotFoundError
from blocks.files.local import CHUNK_BYTES
from connectors.duckdb import DuckDB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blocks.stores.readable_store import ReadableStore

    Holding = Callable[[dict[str, bytes]], ReadableStore]

LARGE = 2 * CHUNK_BYTES + CHUNK_BYTES // 2
NAMES_TO_READ = [
    "a b",
    "a%20b",
    "a+b",
    "ü/é e\u0301",
    "😀",
    "~x",
    "a*b[c]",
    "a;b=c&d,e",
    "y#z",
    "'\"<>|",
    ".hidden",
    "...",
]


@pytest.mark.parametrize("name", NAMES_TO_READ)
def test_names_are_read_as_they_are(holding: Holding, name: str) -> None:
    """Spaces, percent signs, plus signs and letters of any script are no special characters in a key."""
    store = holding({name: b"1"})
    assert store.read_path(name) == b"1"
    assert (store.head_object(name).key, store.head_object(name).size, store.exists(name)) == (name, 1, True)
    with store.open(name) as file:
        assert file.read() == b"1"


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a\nb", "\ud800"]
)
def test_no_read_leaves_the_folder(holding: Holding, key: str) -> None:
    """A key that is absolute, climbs, or that some store could not give back is refused before anything happens."""
    store = holding({"a": b"1"})
    for refused in (store.read_path, store.head_object, store.exists, store.open):
        with pytest.raises(InvalidInputError):
            refused(key)


@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (3, None), (3, 4), (0, 0), (8, 100), (10, 1), (11, None), (50, 2)]
)
def test_ranges_are_those_of_a_slice(holding: Holding, start: int, length: int | None) -> None:
    """A range behind the end is empty and one over the end is cut, as with a slice of bytes."""
    store = holding({"key": b"0123456789", "empty": b""})
    stop = None if length is None else start + length
    assert store.read_path("key", start=start, length=length) == b"0123456789"[start:stop]
    assert store.read_path("empty", start=start, length=length) == b""


def test_a_large_object_is_read_whole(holding: Holding, tmp_path: Path) -> None:
    """What takes several requests survives every way down, and reads like a file in any order."""
    content = os.urandom(LARGE)
    store = holding({"large": content})
    assert store.head_object("large").size == LARGE
    assert store.read_path("large") == content
    assert store.download_object_to_path("large", tmp_path / "down").read_bytes() == content
    into = io.BytesIO(b"12345")
    into.seek(5)
    assert store.download_object_to_file_object("large", into).getvalue() == b"12345" + content
    assert store.read_path("large", start=CHUNK_BYTES - 5, length=10) == content[CHUNK_BYTES - 5 : CHUNK_BYTES + 5]
    with store.open("large") as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == content[-10:]
        file.seek(CHUNK_BYTES - 5)
        assert file.read(10) == content[CHUNK_BYTES - 5 : CHUNK_BYTES + 5]
        file.seek(3)
        assert file.read() == content[3:]
        assert file.read() == b""


def test_a_failed_download_leaves_the_old_file(holding: Holding, tmp_path: Path) -> None:
    """A download that fails changes nothing in the target's folder."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(NotFoundError):
        holding({}).download_object_to_path("missing", target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_bytes() == b"old"


def test_a_missing_object_is_named(holding: Holding) -> None:
    """Reading what is not there is a NotFoundError, and existence can be asked without one."""
    store = holding({"there": b""})
    assert store.exists("there")
    assert not store.exists("missing")
    for operation in (store.read_path, store.head_object, store.open, lambda key: store.scan(key).to_arrow()):
        with pytest.raises(NotFoundError, match="missing") as caught:
            operation("missing")
        assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_block_reads_in_another_process(holding: Holding, dumps: Callable[[object], bytes]) -> None:
    """A pickled block, used before or not, reads what the original reads."""
    store = holding({"key": b"1"})
    assert pickle.loads(dumps(store)).read_path("key") == b"1"  # noqa: S301
    assert store.read_path("key") == b"1"
    assert pickle.loads(dumps(store)).read_path("key") == b"1"  # noqa: S301


async def test_results_are_read_without_blocking(holding: Holding) -> None:
    """The coroutine that Prefect looks for, and the keyword that it passes to the other one."""
    store = holding({"result": b"1"})
    assert await store.aread_path("result") == b"1"
    assert store.read_path("result", _sync=True) == b"1"


def test_check_says_that_it_works(holding: Holding) -> None:
    """A store that can be used says so in one sentence, also while it is empty."""
    assert holding({}).check().endswith(".")


def test_a_client_that_has_read_goes_with_its_block(holding: Holding) -> None:
    """No cycle that the collector does not see, such as one through a driver's native part, holds it after an error."""
    block = holding({"key": b"1", "rows.csv": b"id\n1\n"}).model_copy()
    assert block.read_path("key") == b"1"
    assert block.scan("rows.csv").to_arrow().num_rows == 1
    assert not block.exists("missing")
    client = weakref.ref(block.objects.client)
    del block
    gc.collect()
    assert client() is None


def test_objects_are_loaded_by_name(holding: Holding) -> None:
    """A scan of one key, or of several, is loaded; its identity is that of the versions that it reads."""
    store = holding({"1.csv": b"id,note\n1,a\n", "2.csv": b"id,note\n2,\n", "3.jsonl": b'{"id": 3, "note": "c"}\n'})
    with DuckDB() as warehouse:
        warehouse.load(store.scan("1.csv"), "rows", mode="append")
        warehouse.load(store.scan(["2.csv", "3.jsonl"]), "rows", mode="append")
        assert warehouse.fetch_all("select id, note from rows order by id") == [(1, "a"), (2, None), (3, "c")]
    again = store.model_copy()
    for keys in ("1.csv", ["1.csv", "2.csv"]):
        scan = store.scan(keys)
        if not scan.provable:  # a server that tells no versions; tests/test_http.py says which
            return
        assert scan.fingerprint() == again.scan(keys).fingerprint()
    assert len({store.scan(keys).fingerprint() for keys in ("1.csv", "2.csv", ["1.csv", "2.csv"])}) == 3


def test_rows_are_read_with_a_schema_and_in_parts(holding: Holding) -> None:
    """Declared types, columns, conditions and partitions are those of any other source."""
    schema = pa.schema({"id": pa.int64(), "amount": pa.decimal128(8, 2)})
    store = holding({f"day={day}/rows.csv": b"id,amount\n%d,1.50\n" % day for day in (1, 2, 3)})
    keys = [f"day={day}/rows.csv" for day in (1, 2, 3)]
    assert store.read_table(keys, schema=schema).schema == schema
    assert store.read_table(keys, columns=["day"], where=[("day", ">", 1)])["day"].to_pylist() == [2, 3]
    with store.scan(keys, schema=schema).partitions(2) as parts:
        assert sorted(row for part in parts for row in part.to_arrow()["id"].to_pylist()) == [1, 2, 3]
