"""What every object store promises. Star-imported by a module that has the fixture `make_store`.

`make_store(folder)` gives a block that stands for that folder of one fresh place; `store` is `make_store("base")`. What
it promises whoever only reads is in `readable_store.py`, and comes with it.
"""

from __future__ import annotations

import datetime as dt
import gc
import io
import os
import re
import threading
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blocks import Contract
from blocks.base.errors import AlreadyExistsError, InvalidInputError, NotFoundError, TransientError, UnsupportedError
from blocks.files.local import CHUNK_BYTES, PART_SUFFIX
from connectors.local import LocalFiles, MemoryFiles
from connectors.sftp import Sftp
from tests.contracts.readable_store import *  # noqa: F403
from tests.contracts.readable_store import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blocks.stores.object_store import ObjectStore
    from tests.contracts.readable_store import Holding

    MakeStore = Callable[[str], ObjectStore]

STRANGE_NAMES = [
    "a b",
    "a%20b",
    "a+b",
    "ü/é e\u0301",
    "😀",
    "q?x=1&y#z",
    "~x",
    "a*b[c]",
    "'\"<>|",
    ".hidden",
    "...",
    " x ",
]

quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

# No backslash: the S3 stand-in takes it for a slash.
_names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\\ufffe\uffff"), min_size=1, max_size=40
).filter(lambda name: name not in {".", ".."} and not name.endswith(PART_SUFFIX))
keys = st.lists(_names, min_size=1, max_size=4).map("/".join)


@pytest.fixture
def store(make_store: MakeStore) -> ObjectStore:
    """A block over an empty folder."""
    return make_store("base")


@pytest.fixture
def holding(store: ObjectStore) -> Holding:
    """The same block, with objects in it."""

    def fill(objects: dict[str, bytes]) -> ObjectStore:
        for key, content in objects.items():
            store.write_path(key, content)
        return store

    return fill


def listed(store: ObjectStore, folder: str = "") -> list[str]:
    return [found["Key"] for found in store.list_objects(folder)]


class BrokenFile(io.RawIOBase):
    """A file that fails after so many bytes."""

    def __init__(self, good_bytes: int) -> None:
        self._left = good_bytes

    def readable(self) -> bool:  # noqa: D102
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        if self._left <= 0:
            raise RuntimeError("the disk is gone")
        count = min(len(buffer), self._left)
        buffer[:count] = b"x" * count
        self._left -= count
        return count


# Content and keys


def test_the_beginning_of_names_is_no_folder(store: ObjectStore) -> None:
    """It is refused with the glob to write, which lists them; what is a folder, an object or nothing is listed."""
    names = ["a-b.csv", "a/deep/x.csv", "logs/2026-04-01.csv", "logs/2026-04-02.csv", "logs/2026-05/a.csv", "r[1]-a"]
    for name in names:
        store.write_path(name, b"x")
    for begins, glob in {
        "logs/2026-04-": "logs/2026-04-*",
        "logs/2026-0": "logs/2026-0*",
        "logs/2026-05/a": "logs/2026-05/a*",
        "log": "log*/**",
        "r[1]-": "r[[]1]-*",
    }.items():
        with pytest.raises(InvalidInputError, match=re.escape(f"not a folder. Write list_objects({glob!r}), or")):
            store.list_objects(begins)
        assert listed(store, glob)
    assert listed(store, "logs/2026-04-*") == ["logs/2026-04-01.csv", "logs/2026-04-02.csv"]
    assert listed(store, "log*/**") == [name for name in names if name.startswith("logs/")]
    assert len(store.list_objects("logs/2026-04-*", max_items=1)) == 1
    assert listed(store, "logs/2026-04-01.csv") == ["logs/2026-04-01.csv"]
    assert store.list_objects("a", delimiter="/") == []
    for nothing in ("logs/2026-0/", "logs/2027", "nowhere/*"):
        assert listed(store, nothing) == []


def test_a_key_may_be_a_path(store: ObjectStore, make_store: MakeStore, tmp_path: Path) -> None:
    """Wherever a key or a folder is taken; what comes back is text."""
    folder, key = PurePath("raw"), PurePath("raw") / "a.csv"
    assert store.write_path(key, b"id\n1\n") == "raw/a.csv"
    assert store.read_path(key) == b"id\n1\n"
    assert (store.exists(key), store.head_object(key).key) == (True, "raw/a.csv")
    assert (store.uri(key), store.asset_key(key)) == (store.uri("raw/a.csv"), store.asset_key("raw/a.csv"))
    assert [each["Key"] for each in store.list_objects(folder)] == ["raw/a.csv"]
    assert store.list_folders(PurePath()) == ["raw"]
    assert store.scan(key).to_arrow() == store.read_table([key]) == store.scan_new(folder).to_arrow()
    assert store.download_object_to_path(key, tmp_path / "a.csv").read_bytes() == b"id\n1\n"
    assert store.upload_from_path(tmp_path / "a.csv", PurePath("up/a.csv")) == "up/a.csv"
    assert store.download_folder_to_path(PurePath("up"), tmp_path / "up") == tmp_path / "up"
    assert store.upload_from_folder(tmp_path / "up", PurePath("again")) == "again"
    assert store.copy_object(key, PurePath("up/b.csv")) == "up/b.csv"
    assert store.move_object(PurePath("up/b.csv"), PurePath("up/b.csv")) == "up/b.csv"
    assert store.move_object(PurePath("up/b.csv"), PurePath("up/c.csv")) == "up/c.csv"
    assert make_store("other").stream_from(store, key) == "a.csv"
    assert store.upload_from_dataframe(pa.table({"id": [1]}), PurePath("t"), "csv") == "t.csv"
    for mode in ("replace", "append"):
        assert store.write_table(pa.table({"id": [1]}), PurePath("table"), mode=mode).rows == 1
    assert store.delete_objects([key, PurePath("up/a.csv")]) == 2
    with pytest.raises(InvalidInputError, match=r"'\.\.'|empty"):
        store.read_path(PurePath("../a"))


@quick
@given(key=keys, content=st.binary(max_size=200))
@example(key="empty", content=b"")
def test_any_bytes_come_back_from_any_key(store: ObjectStore, key: str, content: bytes) -> None:
    """What was written under an allowed key is read back, headed and listed under the same key."""
    folder = uuid.uuid4().hex
    written = store.write_path(f"{folder}/{key}", content)
    assert written == f"{folder}/{key}"
    assert store.read_path(written) == content
    assert store.head_object(written).size == len(content)
    assert listed(store, folder) == [written]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_names_are_taken_as_they_are(store: ObjectStore, name: str) -> None:
    """Blanks, percent signs, plus signs and letters of any script are no special characters in a key."""
    store.write_path(name, b"1")
    assert listed(store) == [name]
    assert store.copy_object(name, f"copy/{name}") == f"copy/{name}"
    assert store.delete_objects([name]) == 1
    assert listed(store) == [f"copy/{name}"]


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a\nb", "a\x00b", "\ud800", "\uffff"]
)
def test_a_key_never_leaves_the_folder(store: ObjectStore, key: str) -> None:
    """A key that is absolute, climbs, or that some store could not give back is refused before anything happens."""
    store.write_path("a", b"1")
    for refused in (
        lambda: store.read_path(key),
        lambda: store.head_object(key),
        lambda: store.write_path(key, b""),
        lambda: store.copy_object("a", key),
        lambda: store.move_object("a", key),
        lambda: store.delete_objects(["a", key]),
        lambda: store.uri(key) if key else store.read_path(key),
    ):
        with pytest.raises(InvalidInputError):
            refused()
    assert listed(store) == ["a"]


def test_a_folder_never_matches_its_siblings(make_store: MakeStore) -> None:
    """`base` gives `base/x`, and neither `base2/x` nor `base.txt`, as a block's folder and as a listed one."""
    make_store("base2").write_path("x", b"other")
    store = make_store("base")
    for key in ("in/x", "in2/x", "in.txt"):
        store.write_path(key, b"")
    assert listed(store, "in") == listed(store, "in/") == ["in/x"]
    assert set(listed(store)) == {"in.txt", "in/x", "in2/x"}


def test_returned_keys_can_be_passed_back(store: ObjectStore, tmp_path: Path) -> None:
    """No operation returns a key with the block's folder in it, so none can be doubled."""
    (tmp_path / "local").write_bytes(b"1")
    returned = [
        store.write_path("base/written", b"1"),
        store.upload_from_path(tmp_path / "local"),
        store.upload_from_file_object(io.BytesIO(b"1"), "object"),
        store.copy_object("object", "copied"),
        store.move_object("object", "moved"),
        store.head_object("copied").key,
    ]
    assert returned == ["base/written", "local", "object", "copied", "moved", "copied"]
    assert listed(store) == ["base/written", "copied", "local", "moved"]
    assert [store.read_path(key) for key in listed(store)] == [b"1"] * 4


def test_a_listing_is_sorted(store: ObjectStore) -> None:
    """Keys come in the order of their characters, the slash being one of them."""
    for key in ["b", "a/c", "a.txt", "a/b/d", "a-1"]:
        store.write_path(key, b"")
    assert listed(store) == ["a-1", "a.txt", "a/b/d", "a/c", "b"]
    assert [found["Key"] for found in store.list_objects(max_items=2)] == ["a-1", "a.txt"]


def test_a_listing_tells_size_time_and_etag(store: ObjectStore) -> None:
    """The dicts are those of S3, and agree with head_object; a folder can be listed without the folders in it."""
    for number, key in enumerate(["a/b/d", "a/c", "d"]):
        store.write_path(key, b"x" * number)
    found = store.list_objects()
    assert [item["Key"] for item in found] == ["a/b/d", "a/c", "d"]
    assert [item["Size"] for item in found] == [0, 1, 2]
    heads = [store.head_object(item["Key"]) for item in found]
    assert [item["ETag"] for item in found] == [head.etag for head in heads]
    assert all(item["LastModified"].tzinfo for item in found)
    assert [item["Key"] for item in store.list_objects("a", delimiter="/")] == ["a/c"]
    assert store.list_objects("missing") == []


def test_an_etag_changes_with_the_content(store: ObjectStore) -> None:
    """Two contents of the same length written one after the other have different etags."""
    seen = []
    for content in (b"1", b"2", b"3"):
        store.write_path("key", content)
        seen.append(store.head_object("key").etag)
    assert len(set(seen)) == 3


def test_folders_are_listed_with_those_in_them(store: ObjectStore) -> None:
    """Each folder once, sorted, relative to the block's; a sibling of like name is another one."""
    for key in ("a", "in/x", "in/deep/er/y", "in2/z"):
        store.write_path(key, b"")
    assert store.list_folders() == ["in", "in/deep", "in/deep/er", "in2"]
    assert store.list_folders("in") == ["in/deep", "in/deep/er"]
    assert store.list_folders("missing") == []


def test_metadata_is_kept_or_refused(store: ObjectStore) -> None:
    """Names and values come back from head_object with the media type, of small and large objects; none is dropped."""
    for key, size in (("small", 10), ("large", LARGE)):
        described = {"content_type": "text/csv", "metadata": {"origin": "test", "unit": "a b"}}
        try:
            store.write_path(key, b"x" * size, **described)
        except UnsupportedError:
            assert not store.exists(key)
            continue
        found = store.head_object(key)
        assert (found.content_type, found.metadata) == ("text/csv", described["metadata"])
        store.copy_object(key, "copy")
        assert store.head_object("copy").metadata == described["metadata"]


@pytest.mark.parametrize(
    "described",
    [
        {"metadata": {"name": "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}"}},
        {"metadata": {"name": "two\nlines"}},
        {"metadata": {"name": "two\r\nlines"}},
        {"metadata": {"name": " ends "}},
        {"metadata": {"Name": "x"}},
        {"metadata": {"a b": "x"}},
        {"content_type": "text/csv\nx"},
    ],
    ids=str,
)
def test_metadata_comes_back_as_it_went_in_or_is_refused(store: ObjectStore, described: dict[str, Any]) -> None:
    """What the service would change is an error before anything is sent, of small and large objects."""
    for key, size in (("small", 10), ("large", LARGE)):
        try:
            store.write_path(key, b"x" * size, **described)
        except (InvalidInputError, UnsupportedError):
            assert not store.exists(key)
        else:
            found = store.head_object(key)
            assert found.metadata == described.get("metadata", {})
            assert found.content_type in {None, described.get("content_type", found.content_type)}


# Large objects and ranges


def test_large_objects_come_back_whole(store: ObjectStore, tmp_path: Path) -> None:
    """An object of several parts survives every way up and down."""
    content = os.urandom(LARGE)
    source = tmp_path / "source"
    source.write_bytes(content)
    store.upload_from_path(source, "path")
    assert store.head_object("path").size == LARGE
    assert store.download_object_to_path("path", tmp_path / "down").read_bytes() == content
    store.upload_from_file_object(io.BytesIO(b"skipped" + content[:-1]), "file")
    into = io.BytesIO(b"12345")
    into.seek(5)
    assert store.download_object_to_file_object("file", into).getvalue() == b"12345skipped" + content[:-1]


def test_an_upload_starts_at_the_files_position(store: ObjectStore) -> None:
    """What was read from the file before the upload is not in the object."""
    file = io.BytesIO(b"header,body")
    file.read(7)
    store.upload_from_file_object(file, "key")
    assert store.read_path("key") == b"body"


# Atomicity and conditions


@pytest.mark.parametrize("good_bytes", [0, 100, LARGE])
def test_a_failed_upload_leaves_the_old_object(store: ObjectStore, good_bytes: int) -> None:
    """When the source fails in the middle, the reader's error is raised and nothing of the new object is to be seen."""
    store.write_path("old", b"old")
    for key in ("old", "new"):
        with pytest.raises(RuntimeError, match="the disk is gone"):
            store.upload_from_file_object(io.BufferedReader(BrokenFile(good_bytes)), key)
    assert listed(store) == ["old"]
    assert store.read_path("old") == b"old"


def test_a_reader_sees_one_version(store: ObjectStore) -> None:
    """While an object of several parts is overwritten again and again, every read is one version or is refused."""
    versions = [bytes([number]) * (CHUNK_BYTES + 1000) for number in range(5)]
    store.write_path("key", versions[0])
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [store.write_path("key", version) for version in versions])
        while not writing.done():
            try:
                content = b"".join(store.objects.stream("key"))
            except TransientError:
                continue
            assert content == content[:1] * (CHUNK_BYTES + 1000)
        writing.result()


@pytest.mark.parametrize("size", [10, LARGE])
def test_if_absent_writes_once(store: ObjectStore, size: int) -> None:
    """The second write of a key is refused, also of a large object, and leaves the first one."""
    first, second = b"1" * size, b"2" * size
    assert store.write_path("key", first, if_absent=True) == "key"
    with pytest.raises(AlreadyExistsError) as caught:
        store.write_path("key", second, if_absent=True)
    assert isinstance(caught.value, FileExistsError)
    assert store.read_path("key") == first


@pytest.mark.parametrize("size", [10, LARGE])
def test_if_match_writes_over_the_version_that_was_read(store: ObjectStore, size: int) -> None:
    """A write on a stale etag is refused, also of a large object, and so is one on a key that is not there.

    A store that cannot compare and replace says so instead.
    """
    store.write_path("key", b"1")
    etag = store.head_object("key").etag
    assert etag is not None
    try:
        store.write_path("key", b"2" * size, if_match=etag)
    except UnsupportedError:
        assert store.read_path("key") == b"1"
        return
    with pytest.raises(AlreadyExistsError):
        store.write_path("key", b"3" * size, if_match=etag)
    assert store.read_path("key") == b"2" * size
    with pytest.raises((NotFoundError, AlreadyExistsError)):
        store.write_path("missing", b"", if_match=etag)


@pytest.mark.parametrize("condition", ["if_absent", "if_match"])
def test_a_race_has_one_winner(store: ObjectStore, condition: str) -> None:
    """Of eight writers at once under one condition exactly one succeeds, and the object is its own."""
    options: dict[str, Any] = {"if_absent": True}
    if condition == "if_match":
        store.write_path("key", b"start")
        try:
            store.write_path("key", b"start", if_match=store.head_object("key").etag)
        except UnsupportedError:
            return
        options = {"if_match": store.head_object("key").etag}
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        try:
            store.write_path("key", f"writer {number}".encode(), **options)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert store.read_path("key") == f"writer {won.index(True)}".encode()


# Operations on objects and folders


def test_copy_move_and_delete(make_store: MakeStore) -> None:
    """A copy leaves the source, a move does not, a move onto itself loses nothing, a delete of nothing is no error."""
    store, other = make_store("base"), make_store("other")
    store.write_path("a", b"1")
    store.copy_object("a", "b")
    store.move_object("a", "c")
    store.move_object("c", "c")
    store.copy_object("b", "from-base", to_bucket=other)
    assert listed(store) == ["b", "c"]
    assert other.read_path("from-base") == b"1"
    assert store.delete_objects(["b", "b", "missing"]) == 2
    assert listed(store) == ["c"]
    for refused in (lambda: store.copy_object("missing", "x"), lambda: store.move_object("missing", "x")):
        with pytest.raises(NotFoundError):
            refused()


def test_a_copy_goes_into_a_store_of_the_same_kind_only(store: ObjectStore) -> None:
    """Copying into another kind of store is refused, with the operation that can do it named."""
    store.write_path("a", b"1")
    other = LocalFiles() if isinstance(store, MemoryFiles) else MemoryFiles()
    with pytest.raises(InvalidInputError, match="stream_from"):
        store.copy_object("a", "a", to_bucket=other)


def test_streaming_between_kinds_of_stores(store: ObjectStore) -> None:
    """stream_from copies an object of any other store, large ones in bounded parts."""
    other = MemoryFiles()
    content = os.urandom(LARGE)
    other.write_path("folder/large", content)
    assert store.stream_from(other, "folder/large") == "large"
    assert store.read_path("large") == content


def test_folders_go_up_and_come_down(store: ObjectStore, tmp_path: Path) -> None:
    """A folder's files, hidden and oddly named ones too, arrive under their relative names, and come back the same."""
    source = tmp_path / "source"
    names = {"a.csv", "deep/er/b ü+%.csv", ".hidden"}
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    assert store.upload_from_folder(source, "up/here") == "up/here"
    assert set(listed(store)) == {f"up/here/{name}" for name in names}
    down = store.download_folder_to_path("up/here", tmp_path / "down")
    assert {path.relative_to(down).as_posix(): path.read_text() for path in down.rglob("*") if path.is_file()} == {
        name: name for name in names
    }


def test_directories_go_up_and_come_down_without_the_ignored(store: ObjectStore, tmp_path: Path) -> None:
    """put_directory leaves out what the ignore file matches and counts the rest; get_directory brings it back."""
    source = tmp_path / "source"
    for name in ("flow.py", "data/big.bin", "data/keep.csv", "__pycache__/x.pyc"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    ignore = tmp_path / "ignore"
    ignore.write_text("# comment\n*.bin\n__pycache__/\n")
    assert store.put_directory(str(source), "code", str(ignore)) == 2
    assert listed(store) == ["code/data/keep.csv", "code/flow.py"]
    store.get_directory("code", str(tmp_path / "one"))
    store.get_directory(local_path=str(tmp_path / "all"))
    assert (tmp_path / "one/data/keep.csv").read_text() == "data/keep.csv"
    assert (tmp_path / "all/code/flow.py").read_text() == "flow.py"


def test_a_folder_goes_up_without_the_ignored(store: ObjectStore, tmp_path: Path) -> None:
    """upload_from_folder takes an ignore file too."""
    (tmp_path / "source").mkdir()
    for name in ("keep.csv", "drop.tmp"):
        (tmp_path / "source" / name).write_text(name)
    (tmp_path / "ignore").write_text("*.tmp\n")
    store.upload_from_folder(tmp_path / "source", "up", ignore_file=tmp_path / "ignore")
    assert listed(store) == ["up/keep.csv"]


def test_a_download_never_lands_on_a_folder(store: ObjectStore, tmp_path: Path) -> None:
    """Where a local folder has the file's name, the download is refused: nothing is skipped in silence."""
    store.write_path("in/orders", b"1")
    (tmp_path / "orders").mkdir()
    with pytest.raises(InvalidInputError, match="folder"):
        store.download_object_to_path("in/orders", tmp_path / "orders")
    with pytest.raises(InvalidInputError, match="folder"):
        store.get_directory("in", str(tmp_path))
    assert list((tmp_path / "orders").iterdir()) == []


def test_a_downloaded_directory_says_what_it_brought(store: ObjectStore, tmp_path: Path) -> None:
    """get_directory returns the files that it wrote, in the order of their keys."""
    for key in ("in/a", "in/b/c"):
        store.write_path(key, b"1")
    assert store.get_directory("in", str(tmp_path)) == [tmp_path / "a", tmp_path / "b/c"]


@pytest.mark.parametrize(
    ("form", "key"),
    [
        ("csv", "2026.04.30.csv"),
        ("csv_gzip", "2026.04.30.csv.gz"),
        ("parquet", "2026.04.30.parquet"),
        ("parquet_snappy", "2026.04.30.snappy.parquet"),
        ("parquet_gzip", "2026.04.30.gz.parquet"),
    ],
)
def test_a_frame_goes_up_and_comes_down(store: ObjectStore, form: str, key: str) -> None:
    """Each form of prefect-gcp gets its own ending, keeps the dots of the name, and is read back."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"order_id": [1, 2], "note": ["a,b", None]})
    for name in ("2026.04.30", "2026.04.30.csv"):
        assert store.upload_from_dataframe(frame, f"days/{name}", form) == f"days/{key}"
    assert listed(store) == [f"days/{key}"]
    pandas.testing.assert_frame_equal(store.download_to_dataframe(f"days/{key}"), frame, check_dtype=False)
    with pytest.raises(InvalidInputError, match="csv_gzip"):
        store.upload_from_dataframe(frame, "x", "excel")


def test_versions_are_kept_or_refused(store: ObjectStore) -> None:
    """A store without versions says so, instead of giving the newest."""
    store.write_path("key", b"1")
    try:
        versions = store.list_versions("key")
    except UnsupportedError:
        for refused in (store.read_path, store.head_object, store.open):
            with pytest.raises(UnsupportedError):
                refused("key", version="1")
        return
    assert [version.key for version in versions] == ["key"]


def test_sweeping_leaves_objects_alone(store: ObjectStore) -> None:
    """What was written is no leftover, however old."""
    store.write_path("key", b"1" * LARGE)
    assert store.sweep(older_than=dt.timedelta(0)) == 0
    assert listed(store) == ["key"]


def test_more_objects_than_a_page_holds(store: ObjectStore, tmp_path: Path) -> None:
    """Uploading, listing and deleting a folder of more than 1,000 objects misses none."""
    source = tmp_path / "source"
    source.mkdir()
    names = [f"{number:04}" for number in range(1_010)]
    for name in names:
        (source / name).touch()
    assert store.put_directory(str(source), "many") == len(names)
    pages = list(store.objects.list("many"))
    assert len(pages) > 1
    assert [info.key for page in pages for info in page] == [f"many/{name}" for name in names]
    assert store.delete_objects([f"many/{name}" for name in names]) == len(names)
    assert listed(store) == []


# As a block


def test_content_has_to_be_bytes(store: ObjectStore) -> None:
    """Text is refused before anything is written, with the way to encode it."""
    with pytest.raises(InvalidInputError, match="encode"):
        store.write_path("key", "text")  # type: ignore[arg-type]
    assert listed(store) == []


async def test_results_are_read_and_written_without_blocking(store: ObjectStore) -> None:
    """The coroutines that Prefect looks for, and the keyword that it passes to the others."""
    assert await store.awrite_path("result", b"1") == "result"
    assert await store.aread_path("result") == b"1"
    assert store.write_path("result", b"2", _sync=True) == "result"
    assert store.read_path("result", _sync=True) == b"2"


def test_a_client_goes_with_its_block(store: ObjectStore) -> None:
    """No cycle holds it: the collector would never see the part of one that is in a driver's own memory."""
    gc.disable()
    try:
        block = store.model_copy()
        block.write_path("key", b"1")
        assert block.read_path("key") == b"1"
        assert listed(block) == ["key"]
        client = weakref.ref(block.objects.client)
        del block
        assert client() is None
    finally:
        gc.enable()


# Scans


def test_a_folder_is_listed_each_time_that_a_scan_is_opened(store: ObjectStore) -> None:
    """A scan that lives as long as a served flow sees new files, and so does whatever is made of it."""
    found = store.scan("days/*.csv")
    scans = {
        "itself": found,
        "mapped": found.map_batches(lambda rows: rows).select(["id"]),
        "sifted": found.reject(lambda rows: rows["id"].is_null(), "id is missing"),
        "enforced": Contract(name="days", schema=pa.schema({"id": pa.int64()})).enforce(found),
    }
    for day in (1, 2, 3):
        store.write_path(f"days/{day}.csv", b"id\n%d\n" % day)
        ids = {name: scan.to_arrow()["id"].to_pylist() for name, scan in scans.items()}
        assert ids == {name: list(range(1, day + 1)) for name in scans}
    store.write_path("days/4.csv", b"id,note\n4,new\n")
    assert found.schema.names == ["id", "note"]


def test_a_key_with_glob_characters_is_that_key(store: ObjectStore) -> None:
    """A key or a folder that exists is meant before a glob; a glob can be escaped, or given apart."""
    names = {
        "report[1].csv": 1,
        "report1.csv": 2,
        "in[1]/a.csv": 3,
        "in1/a.csv": 4,
        "in1/b!.csv": 5,
        "in1/deep/c.csv": 6,
    }
    for key, number in names.items():
        store.write_path(key, b"id\n%d\n" % number)

    def ids(keys: str, glob: bool | str = True) -> list[int]:
        return sorted(store.scan(keys, glob=glob).to_arrow()["id"].to_pylist())

    assert (ids("report[1].csv"), ids("report[[]1].csv"), ids("report?.csv")) == ([1], [1], [2])
    assert (ids("in[1]"), ids("in[1]/a.csv"), ids("in[0-9]/a.csv")) == ([3], [3], [4])
    assert (ids("in1/[!a]*.csv"), ids("in1/**/*.csv"), ids("in1/**")) == ([5], [4, 5, 6], [4, 5, 6])
    assert (ids("in[1]", "*.csv"), ids("in1", "*.csv"), ids("in1", "**/[!b]*")) == ([3], [4, 5], [4, 6])
    with pytest.raises(NotFoundError):
        ids("report[2].csv", glob=False)
    with pytest.raises(InvalidInputError, match="glob is True, False or a pattern"):
        store.scan("in1", glob="")


def test_a_folder_marker_is_no_data(store: ObjectStore) -> None:
    """An empty object with the name of a folder does not stand for the folder's rows."""
    store.write_path("in/orders/1.csv", b"id\n1\n")
    try:
        store.write_path("in/orders", b"")
    except InvalidInputError:
        assert isinstance(store, LocalFiles | Sftp)  # where a file cannot be where a folder is
    else:
        store.write_path("in/orders_$folder$", b"")
    for keys in ("in/orders", "in", "in/**"):
        assert store.scan(keys).to_arrow()["id"].to_pylist() == [1]


def test_a_settled_scan_reads_what_was_there(store: ObjectStore) -> None:
    """Its identity is that of the files that it reads: no new one is added, and one that was replaced is refused."""
    store.write_path("days/1.csv", b"id\n1\n")
    scan = store.scan("days/*.csv")
    settled = scan.map_batches(lambda rows: rows).settled()
    identity = settled.fingerprint()
    store.write_path("days/2.csv", b"id\n2\n")
    assert settled.to_arrow()["id"].to_pylist() == [1]
    assert (settled.fingerprint(), scan.fingerprint()) == (identity, scan.settled().fingerprint())
    assert scan.fingerprint() != identity
    store.write_path("days/1.csv", b"id\n7\n")
    with pytest.raises(TransientError, match="changed"):
        settled.to_arrow()
    assert scan.to_arrow()["id"].to_pylist() == [7, 2]


def test_objects_that_were_named_are_those_that_the_identity_is_of(store: ObjectStore) -> None:
    """One that was replaced after a settled scan told its identity is refused, also where the keys are a list."""
    for key in ("1.csv", "2.csv"):
        store.write_path(key, b"id\n1\n")
    settled = store.scan(["1.csv", "2.csv"]).settled()
    identity = settled.fingerprint()
    store.write_path("2.csv", b"id\n7\n")
    with pytest.raises(TransientError, match="changed"):
        settled.to_arrow()
    assert settled.fingerprint() == identity
    assert store.scan(["1.csv", "2.csv"]).to_arrow()["id"].to_pylist() == [1, 7]


def test_rows_that_were_read_once_are_never_written_as_none(store: ObjectStore) -> None:
    """A used-up reader is refused, and the dataset stays as it was."""
    rows = pa.table({"id": [1, 2]})
    reader = rows.to_reader()
    store.write_table(reader, "rows")
    with pytest.raises(InvalidInputError, match="can be read only once"):
        store.write_table(reader, "rows")
    assert store.read_table("rows")["id"].to_pylist() == [1, 2]
