"""The object stores of this machine: the common promises, and what only files can get wrong."""

from __future__ import annotations

import contextlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

import pytest

from blocks.base.concurrency import ordered_map
from blocks.base.errors import AccessDeniedError, InvalidInputError, UnsupportedError
from blocks.files.local import PART_SUFFIX
from blocks.stores.client import WriteArguments, WriteOptions
from blocks.stores.keys import folder_prefix, join_key
from connectors.local import LocalFiles, MemoryFiles
from tests.contracts.object_store import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contracts.object_store import MakeStore


@pytest.fixture(params=["local", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param == "local":
        return lambda folder: LocalFiles(basepath=str(tmp_path / "stores" / folder))
    place = uuid.uuid4().hex
    return lambda folder: MemoryFiles(name=f"{place}-{folder}")


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Acts as a user for whom permissions count, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_options_of_a_write_are_stated_once() -> None:
    """What the operations take by name is what a client is given."""
    assert get_type_hints(WriteArguments) == get_type_hints(WriteOptions)
    for name in ("write_path", "upload_from_path", "upload_from_file_object", "upload_from_dataframe"):
        parameters = inspect.signature(getattr(MemoryFiles(), name)).parameters
        named = {each.name: each.default for each in parameters.values() if each.kind is each.KEYWORD_ONLY}
        assert WriteOptions(**named) == WriteOptions()
        assert named.keys() == get_type_hints(WriteOptions).keys()


def test_the_folder_is_made_by_the_first_write(tmp_path: Path) -> None:
    """Building, checking and listing leave the disk alone; writing makes every folder that is needed."""
    files = LocalFiles(basepath=str(tmp_path / "new" / "deep"))
    assert "the first write makes it" in files.check()
    assert files.list_objects() == []
    assert list(tmp_path.iterdir()) == []
    files.write_path("a/b", b"1")
    assert (tmp_path / "new/deep/a/b").read_bytes() == b"1"


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """A file half written stays hidden, while its writer lives; once that was killed, the next process removes it."""
    code = (
        "import sys, time\nfrom connectors.local import LocalFiles\nfiles = LocalFiles(basepath=sys.argv[1])\n"
        "def chunks():\n    yield b'1'\n    print('written', flush=True)\n    time.sleep(60)\n"
        "files.write_path('a', b'1') if sys.argv[2] == 'write' else files.objects.put('b', chunks())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writer = subprocess.Popen([*command, "hang"], stdout=subprocess.PIPE)  # noqa: S603 (our own)
    assert writer.stdout
    assert writer.stdout.readline()
    subprocess.run([*command, "write"], check=True)  # noqa: S603 (our own)
    assert sum(path.name.endswith(PART_SUFFIX) for path in tmp_path.iterdir()) == 1
    writer.kill()
    writer.wait()
    writer.stdout.close()
    subprocess.run([*command, "write"], check=True)  # noqa: S603 (our own)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_without_permission_is_named(reachable: Path) -> None:
    """No right to write is an AccessDeniedError that names the folder and says what to do, before any retry."""
    locked = reachable / "locked"
    locked.mkdir(mode=0o555)
    files = LocalFiles(basepath=str(locked))
    with unprivileged():
        for refused in (lambda: files.write_path("sub/a", b"1"), files.check):
            with pytest.raises(AccessDeniedError, match=str(locked)) as caught:
                refused()
            assert "right" in str(caught.value)
    assert list(locked.iterdir()) == []


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    """A symbolic link out of the folder is neither listed nor read nor written through; one within is."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (inside / "file").write_bytes(b"1")
    (inside / "folder-link").symlink_to(outside)
    (inside / "file-link").symlink_to(outside / "secret")
    (inside / "good-link").symlink_to(inside / "file")
    (inside / "dangling").symlink_to(inside / "nothing")
    files = LocalFiles(basepath=str(inside))
    assert [found["Key"] for found in files.list_objects()] == ["file", "good-link"]
    assert files.read_path("good-link") == b"1"
    for refused in (
        lambda: files.read_path("file-link"),
        lambda: files.read_path("folder-link/secret"),
        lambda: files.write_path("folder-link/new", b""),
        lambda: files.write_path("file-link", b""),
        lambda: files.list_objects("folder-link"),
        lambda: files.delete_objects(["folder-link/secret"]),
    ):
        with pytest.raises(InvalidInputError, match="symbolic link"):
            refused()
    assert (outside / "secret").read_bytes() == b"secret"


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    """A process that is killed in the middle of a write leaves no object, and its part is never listed or read."""
    script = (
        "import os, signal, sys\n"
        "from connectors.local import LocalFiles\n"
        "def chunks():\n"
        "    yield b'x' * 100\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalFiles(basepath=sys.argv[1]).objects.put('key', chunks())\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)  # noqa: S603
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(PART_SUFFIX)
    files = LocalFiles(basepath=str(tmp_path))
    assert files.list_objects() == []
    with pytest.raises(InvalidInputError):
        files.read_path(left.name)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """Writing below a file, or where a folder stands, is refused with a reason; listing a file gives the file."""
    files = LocalFiles(basepath=str(tmp_path))
    files.write_path("a/b", b"1")
    for key in ("a/b/c", "a"):
        with pytest.raises(InvalidInputError):
            files.write_path(key, b"2")
        assert not files.exists(key)
    assert [found["Key"] for found in files.list_objects("a/b")] == ["a/b"]
    assert [found["Key"] for found in files.list_objects()] == ["a/b"]


def test_files_keep_no_metadata_and_have_no_urls(tmp_path: Path) -> None:
    """What files cannot do is an error, not a silent loss."""
    files = LocalFiles(basepath=str(tmp_path))
    with pytest.raises(UnsupportedError):
        files.write_path("a", b"", metadata={"k": "v"})
    with pytest.raises(UnsupportedError):
        files.presigned_url("a")
    assert files.list_objects() == []


def test_memory_is_shared_by_name_alone() -> None:
    """Blocks of one name see the same objects; blocks without one are alone."""
    first, second, alone = MemoryFiles(name="shared"), MemoryFiles(name="shared"), MemoryFiles()
    first.write_path("a", b"1")
    assert second.read_path("a") == b"1"
    assert not alone.exists("a")


def test_ordered_map_stays_within_its_bound() -> None:
    """Results come in order, no more than `workers` items are taken ahead, and an error stops the taking."""
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number * 2, numbers(), workers=4)
    assert [next(results) for _ in range(10)] == [number * 2 for number in range(10)]
    assert len(taken) <= 14
    results.close()

    def refuse(number: int) -> int:
        if number == 3:
            raise ValueError(number)
        return number

    taken.clear()
    with pytest.raises(ValueError, match="3"):
        list(ordered_map(refuse, numbers(), workers=4))
    assert len(taken) <= 8


@pytest.mark.parametrize(("folder", "key", "whole"), [("", "a", "a"), ("x", "a/b", "x/a/b"), ("x", "x/a", "x/x/a")])
def test_keys_are_joined_in_one_place(folder: str, key: str, whole: str) -> None:
    """A key is added to the folder as it is."""
    assert join_key(folder, key) == whole
    assert folder_prefix(whole) == folder_prefix(whole + "/") == whole + "/"


def test_building_a_store_imports_no_driver_and_does_no_io() -> None:
    """Building and pickling every store imports no driver, opens no socket and no file."""
    script = """
import sys
from blocks.credentials import AwsCredentials, AzureBlobStorageCredentials, GcpCredentials
from connectors.azure import AzureBlobContainer
from connectors.gcs import GcsBucket
from connectors.local import LocalFiles, MemoryFiles
from connectors.s3 import S3Bucket
import pickle
events = []
def note(name, args):
    if name in {"open", "socket.connect", "import"} and not str(args[0]).endswith(".py"):  # for its annotations
        events.append((name, args))
sys.addaudithook(note)
keys = AwsCredentials(aws_access_key_id="a", aws_secret_access_key="b", endpoint_url="http://127.0.0.1:1")
account = AzureBlobStorageCredentials(account_url="http://127.0.0.1:1/account")
blocks = [
    LocalFiles(basepath="x"),
    MemoryFiles(),
    S3Bucket(bucket_name="abc", credentials=keys),
    GcsBucket(bucket="abc", gcp_credentials=GcpCredentials(service_account_file="/no/such/file.json")),
    AzureBlobContainer(container_name="abc", credentials=account),
]
for block in blocks:
    repr(block), block.uri("key"), pickle.loads(pickle.dumps(block))
assert not events, events
drivers = {"azure", "boto3", "botocore", "duckdb", "google.auth", "obstore", "pyarrow"} & set(sys.modules)
assert not drivers, drivers
"""
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


def test_what_is_in_memory_outlives_close() -> None:
    """Closing a block closes its client, and loses nothing that was stored."""
    with MemoryFiles() as store:
        store.write_path("a", b"1")
    assert store.read_path("a") == b"1"


def test_a_folder_asks_for_the_client_when_it_is_used(make_store: MakeStore) -> None:
    """What was made of a block before it was closed, such as a scan or an open file, works on afterwards."""
    store = make_store("base")
    store.write_path("a.csv", b"id\n1\n")
    objects, found, file = store.objects, store.scan("a.csv"), store.open("a.csv")
    client = objects.client
    store.close()
    assert objects.client is not client
    assert found.to_arrow().to_pylist() == [{"id": 1}]
    with file:
        assert file.read() == b"id\n1\n"


def test_an_odd_key_blocks_no_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What no method takes is left out of listings, with a warning that names it; all the rest goes on."""
    store = MemoryFiles()
    for key in ("in/a.csv", "in//b.csv", "/in/c.csv", "in/./d.csv", "in/sub_$folder$", "in/sub", "in/sub/e.csv"):
        store.objects.client.put(key, b"" if key.endswith(("$", "sub")) else b"id\n1\n")
    keys = [found["Key"] for found in store.list_objects()]
    assert keys == ["in/a.csv", "in/sub", "in/sub/e.csv", "in/sub_$folder$"]
    assert all(isinstance(store.read_path(key), bytes) for key in keys)
    assert "'in//b.csv'" in caplog.text
    assert store.scan("in").to_arrow().num_rows == 2
    assert store.list_folders() == ["in", "in/sub"]
    found = store.get_directory("in", str(tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.csv", "sub/e.csv"]
    assert store.delete_objects(keys) == len(keys)
