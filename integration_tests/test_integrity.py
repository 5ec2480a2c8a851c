"""A bit that changes on its way from an object store: the right content in the end, or an error, and never another."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from blocks import ConnectorError
from blocks.files.formats import open_writer
from blocks.files.local import CHUNK_BYTES
from blocks.testing.http_proxy import HttpFaultProxy
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from integration_tests.stores import new_store, server_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blocks.stores.object_store import ObjectStore

    Places = Callable[[int], Iterator[tuple[int, int]]]

KINDS = ["s3", "gcs", "azure"]
SCHEMA = pa.schema([("id", pa.int64()), ("amount", pa.float64()), ("note", pa.string())])
NAMES = ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet", "a.arrow", "a.arrows"]
SIZES = {"one request": 4_000, "several requests": 120_000}
"""Rows, so that each file of the second size is larger than what an open file reads at once."""


def rows_of(count: int) -> pa.Table:
    """Rows that do not compress well, so that every bit of a file counts."""
    draw = random.Random(count)
    notes = [f"{draw.getrandbits(200):050x}" for _ in range(count)]
    return pa.table({"id": range(count), "amount": [draw.random() for _ in range(count)], "note": notes}, SCHEMA)


ROWS = {size: rows_of(count) for size, count in SIZES.items()}


def content_of(name: str, rows: pa.Table) -> bytes:
    """The rows as a file of that name."""
    _, form, *compressed = name.split(".")
    file = io.BytesIO()
    writer = open_writer(file, rows.schema, format=form, compression="gzip" if compressed else None)  # type: ignore[arg-type]
    for batch in rows.to_batches(max_chunksize=20_000):
        writer.write(batch)
    writer.close()
    return file.getvalue()


CONTENT = {(name, size): content_of(name, rows) for name in NAMES for size, rows in ROWS.items()}


def to_file_object(store: ObjectStore, name: str, _: Path) -> bytes:
    file = io.BytesIO()
    store.download_object_to_file_object(name, file)
    return file.getvalue()


def to_folder(store: ObjectStore, name: str, folder: Path) -> bytes:
    store.get_directory("", str(folder / "all"))
    return (folder / "all" / name).read_bytes()


def from_store(store: ObjectStore, name: str, folder: Path) -> bytes:
    target = LocalFiles(basepath=str(folder))
    target.stream_from(store, name)
    return target.read_path(name)


BYTES: dict[str, Callable[[ObjectStore, str, Path], bytes]] = {
    "read_path": lambda store, name, _: store.read_path(name),
    "download_object_to_path": lambda store, name, folder: store.download_object_to_path(
        name, folder / name
    ).read_bytes(),
    "download_object_to_file_object": to_file_object,
    "get_directory": to_folder,
    "stream_from": from_store,
}
"""The ways to the whole of an object."""


def loaded(store: ObjectStore, name: str, *, schema: pa.Schema | None) -> pa.Table:
    warehouse = DuckDB(retry=store.retry)
    warehouse.load(store.scan(name, schema=schema), "rows")
    return warehouse.read_table("rows")


TABLES: dict[str, Callable[[ObjectStore, str], pa.Table]] = {
    "read_table": lambda store, name: store.read_table(name, schema=SCHEMA),
    "read_table, inferred": lambda store, name: store.read_table(name),
    "columns": lambda store, name: (
        store.read_table(name, columns=["note", "id"])
        .append_column(SCHEMA.field("amount"), store.read_table(name, columns=["amount"])["amount"])
        .select(SCHEMA.names)
    ),
    "where": lambda store, name: store.read_table(name, where=[("id", ">=", 0)]),
    "download_to_dataframe": lambda store, name: pa.Table.from_pandas(
        store.download_to_dataframe(name), preserve_index=False
    ).cast(SCHEMA),
    "load": lambda store, name: loaded(store, name, schema=SCHEMA),
    "load, inferred": lambda store, name: loaded(store, name, schema=None),
}
"""The ways to the rows of an object, each with attempts of its own."""


@pytest.fixture(scope="module")
def stores(request: pytest.FixtureRequest) -> Iterator[Callable[[str], tuple[ObjectStore, HttpFaultProxy]]]:
    """A store of each kind that holds all files, behind a proxy."""
    made: dict[str, tuple[ObjectStore, HttpFaultProxy]] = {}

    def of(kind: str) -> tuple[ObjectStore, HttpFaultProxy]:
        if kind not in made:
            proxy = HttpFaultProxy(server_url(kind, request)).__enter__()
            request.addfinalizer(proxy.__exit__)
            made[kind] = new_store(kind, request, url=proxy.url), proxy
            for (name, size), content in CONTENT.items():
                made[kind][0].write_path(f"{size}/{name}", content)
        return made[kind]

    yield of
    for store, _ in made.values():
        store.close()


@pytest.fixture(params=[KINDS[0], *(pytest.param(kind, marks=pytest.mark.thorough) for kind in KINDS[1:])])
def far(request: pytest.FixtureRequest, stores: Callable[[str], Any]) -> tuple[ObjectStore, HttpFaultProxy]:
    """The store of a kind, and the proxy before it without faults."""
    store, proxy = stores(request.param)
    proxy.clear()
    return store, proxy


def within(store: ObjectStore, size: str) -> ObjectStore:
    """The folder of the files of that size, as a block of its own."""
    field = {"S3Bucket": "bucket_folder", "GcsBucket": "bucket_folder", "AzureBlobContainer": "base_folder"}
    name = field[type(store).__name__]
    return store.model_copy(update={name: f"{getattr(store, name)}/{size}"})


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Callable[[int], Iterator[tuple[int, int]]]:
    """Which answer, and behind how many of its bytes: the start, and a few drawn ones."""
    thorough = request.config.getoption("--thorough")

    def of(size: int) -> Iterator[tuple[int, int]]:
        draw = random.Random(size)
        for skip in (0, 1, 2) if thorough else (0, 1):
            for after in (0, 7, 100) if thorough else ():
                yield skip, after
            yield skip, draw.randrange(1_000)
            yield skip, draw.randrange(min(size, CHUNK_BYTES))
            yield skip, draw.randrange(2**20)

    return of


SHOW_IT_ONCE_MORE = pytest.mark.thorough
SIZED = [pytest.param("one request", marks=SHOW_IT_ONCE_MORE), "several requests"]
WAYS = [
    each if each in {"read_path", "download_object_to_path"} else pytest.param(each, marks=SHOW_IT_ONCE_MORE)
    for each in BYTES
]
READS = r"/a\.[a-z.]+($|\?)|a\.[a-z.]+\?.*alt=media"


@pytest.mark.parametrize("size", SIZED)
@pytest.mark.parametrize("way", WAYS)
def test_an_object_is_never_read_as_another(
    far: tuple[ObjectStore, HttpFaultProxy], way: str, size: str, places: Places, tmp_path: Path
) -> None:
    """Wherever a bit flips in any answer, the object comes as it is stored, by another attempt."""
    store, proxy = within(far[0], size), far[1]
    name = "a.csv"
    content = CONTENT[name, size]
    for skip, after in places(len(content)):
        proxy.clear()
        proxy.flip_bit("GET", READS, at=after, skip=skip)
        assert BYTES[way](store, name, tmp_path) == content, (skip, after)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", SIZED)
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_never_read_as_others(
    far: tuple[ObjectStore, HttpFaultProxy], name: str, size: str, places: Places
) -> None:
    """Wherever a bit flips in any answer, the rows are those of the file, or there is an error."""
    store, proxy = within(far[0], size), far[1]
    right = ROWS[size]
    fired = 0
    for number, (skip, after) in enumerate(places(len(CONTENT[name, size]))):
        way = list(TABLES)[number % len(TABLES)]
        proxy.clear()
        proxy.flip_bit("GET", READS, at=after, skip=skip)
        try:
            found = TABLES[way](store, name)
        except ConnectorError:
            found = None
        fired += len(proxy.faults_fired)
        assert found is None or found.equals(right), (way, skip, after)
    assert fired


@pytest.mark.parametrize("name", ["a.csv", *(pytest.param(each, marks=SHOW_IT_ONCE_MORE) for each in NAMES[1:])])
def test_nothing_of_damaged_rows_is_committed(
    far: tuple[ObjectStore, HttpFaultProxy], name: str, tmp_path: Path
) -> None:
    """Where every attempt is damaged, the load is an error that names the object, and the table what it was."""
    store, proxy = within(far[0], "several requests"), far[1]
    warehouse = DuckDB(path=str(tmp_path / "db"), retry=store.retry.model_copy(update={"attempts": 2}))
    warehouse.load(ROWS["one request"].slice(0, 1), "rows")
    proxy.flip_bit("GET", READS, at=1_000_000, times=10_000)
    with pytest.raises(ConnectorError, match=name.replace(".", r"\.")):
        warehouse.load(store.scan(name, schema=SCHEMA), "rows")
    assert proxy.faults_fired
    assert warehouse.read_table("rows").num_rows == 1


@SHOW_IT_ONCE_MORE
def test_an_arrow_dataset_over_a_scan(far: tuple[ObjectStore, HttpFaultProxy]) -> None:
    """What reads a scan as a stream gets the error, where there is nobody to make another attempt."""
    store, proxy = within(far[0], "several requests"), far[1]
    for name in NAMES:
        proxy.clear()
        proxy.flip_bit("GET", READS, at=2**19, times=10_000)
        with pytest.raises(Exception, match=r"checksum|does not have|not valid|not a valid|two contents|its start"):
            ds.dataset(store.scan(name, schema=SCHEMA).to_arrow()).to_table()


def test_parquet_of_others_without_page_checksums(far: tuple[ObjectStore, HttpFaultProxy]) -> None:
    """A small one is compared as a whole; its pages carry nothing to compare them with."""
    store, proxy = within(far[0], "foreign"), far[1]
    file = io.BytesIO()
    pq.write_table(ROWS["one request"], file)
    store.write_path("a.parquet", file.getvalue())
    for after in range(0, len(file.getvalue()), len(file.getvalue()) // 20):
        proxy.clear()
        proxy.flip_bit("GET", READS, at=after)
        assert store.read_table("a.parquet").equals(ROWS["one request"])
        assert len(proxy.faults_fired) == 1


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_check_says_where_nothing_is_compared(kind: str, stores: Callable[[str], Any]) -> None:
    """Who turned the checksums off reads so."""
    store, _ = stores(kind)
    assert "checksum" not in store.check()
    assert "not compared with checksums" in store.model_copy(update={"verify_checksums": False}).check()


@pytest.mark.parametrize("size", [10, 2 * CHUNK_BYTES + 100])
def test_what_goes_up_damaged_is_sent_again(far: tuple[ObjectStore, HttpFaultProxy], size: int) -> None:
    """The service compares what arrives with the checksum that came with it."""
    store, proxy = within(far[0], "up"), far[1]
    content = random.Random(size).randbytes(size)
    requests = r"/key($|\?)|upload_id|uploadType|comp=block"
    proxy.flip_bit("PUT|POST", requests, at=5, in_request=True, times=1, skip=1 if size > CHUNK_BYTES else 0)
    store.write_path(f"{size}/key", content)
    assert store.read_path(f"{size}/key") == content
    assert proxy.faults_fired
