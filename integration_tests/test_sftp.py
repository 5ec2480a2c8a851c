"""Sftp on a server of its own: the common promises, and what only files on another machine can get wrong."""

from __future__ import annotations

import os
import signal
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TransientError,
    UnsupportedError,
)
from blocks.base.retry import RetryPolicy
from blocks.files.local import PART_SUFFIX
from connectors.sftp import Sftp
from integration_tests.standins.process import free_port
from tests.contracts.object_store import *  # noqa: F403
from tests.contracts.object_store import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration_tests.standins.sftp import SftpServer
    from tests.contracts.object_store import MakeStore

    MakeSftp = Callable[..., Sftp]

SHOWN_ELSEWHERE = {"test_more_objects_than_a_page_holds"}
"""Of the contract: what takes ten seconds here, and S3 and GCS show."""
AT_ONCE = RetryPolicy(first_delay_s=0)
NEVER = RetryPolicy(attempts=1)


@pytest.fixture
def sftp_to(sftp_server: SftpServer) -> MakeSftp:
    """Makes a block over a folder of the server, with its password unless told otherwise."""

    def make(folder: str = "", **fields: Any) -> Sftp:
        values = {"password": sftp_server.password, "known_hosts": sftp_server.known_hosts, "retry": AT_ONCE} | fields
        values = {"host": "127.0.0.1", "port": sftp_server.port, "username": sftp_server.username} | values
        return Sftp(basepath=folder, **{name: value for name, value in values.items() if value is not None})

    return make


@pytest.fixture
def make_store(sftp_to: MakeSftp) -> MakeStore:
    place = uuid.uuid4().hex
    return lambda folder: sftp_to(f"{place}/{folder}")


def test_ways_to_log_in(sftp_server: SftpServer, sftp_to: MakeSftp, monkeypatch: pytest.MonkeyPatch) -> None:
    """By password, by a key, by an encrypted key, and by the keys of ssh's own agent or folder where none is given."""
    encrypted = {"private_key": sftp_server.encrypted_key, "passphrase": sftp_server.passphrase}
    for fields in ({}, {"password": None, "private_key": sftp_server.private_key}, {"password": None, **encrypted}):
        assert "reachable" in sftp_to(**fields).check()
    home = sftp_server.folder / "home"
    (home / ".ssh").mkdir(parents=True)
    sftp_server.key.write_private_key(home / ".ssh/id_ed25519")
    (home / ".ssh/known_hosts").write_text(sftp_server.known_hosts)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert "reachable" in sftp_to(password=None, known_hosts=None).check()


def test_what_cannot_log_in_says_why(sftp_server: SftpServer, sftp_to: MakeSftp) -> None:
    """A wrong password, key or passphrase, and an unknown server, are AuthErrors that name the field, and no secret."""
    wrong = {"password": None, "private_key": sftp_server.encrypted_key, "passphrase": "not the passphrase"}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"password": "not the password"}, "password"),
        ({"username": "nobody"}, "username"),
        ({"password": None, "private_key": "not a key"}, "private_key"),
        (wrong, "passphrase"),
        ({"known_hosts": ""}, "known_hosts"),
    ]
    for fields, name in refused:
        with pytest.raises(AuthError, match=name) as caught:
            sftp_to(**fields).check()
        assert not any(str(value) in str(caught.value) for value in fields.values() if value and value != "nobody")
    with pytest.raises(TransientError, match="host and port"):
        sftp_to(port=free_port(), retry=NEVER).check()


def test_a_lost_connection_is_made_again(sftp_server: SftpServer, make_store: MakeStore) -> None:
    """After the server was started anew, the next call works, and so does a file that was open."""
    store = make_store("base")
    store.write_path("large", b"1" * LARGE)
    with store.open("large") as file:
        assert file.read(10) == b"1" * 10
        sftp_server.stop()
        sftp_server.start()
        assert store.read_path("large", length=3) == b"111"
        assert len(file.read()) == LARGE - 10


def test_a_server_that_does_not_answer_is_given_up(sftp_server: SftpServer, sftp_to: MakeSftp) -> None:
    """Nothing waits longer than read_timeout_s says."""
    store = sftp_to(uuid.uuid4().hex, read_timeout_s=0.5, retry=NEVER)
    store.write_path("key", b"1")
    assert sftp_server.process
    os.kill(sftp_server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TransientError):
            store.read_path("key")
    finally:
        os.kill(sftp_server.process.pid, signal.SIGCONT)
    assert store.read_path("key") == b"1"


def test_no_condition_is_ignored(make_store: MakeStore) -> None:
    """if_match, metadata and tags are refused before anything is written, and if_absent leaves no second name."""
    store = make_store("base")
    store.write_path("key", b"1", if_absent=True)
    for options in ({"if_match": store.head_object("key").etag}, {"metadata": {"a": "b"}}, {"tags": {"a": "b"}}):
        with pytest.raises(UnsupportedError):
            store.write_path("key", b"2", **options)
    with pytest.raises(AlreadyExistsError):
        store.write_path("key", b"2", if_absent=True)
    assert store.read_path("key") == b"1"
    assert store.objects.client.sweep("", older_than=dt.timedelta(days=-1)) == 0  # noqa: F405


def test_what_a_killed_writer_left_is_swept(sftp_server: SftpServer, sftp_to: MakeSftp) -> None:
    """An unfinished file is never listed or read, and sweep removes it once it is old enough."""
    folder = uuid.uuid4().hex
    store = sftp_to(folder)
    store.write_path("in/key", b"1")
    left = sftp_server.files / folder / "in" / f".x{PART_SUFFIX}"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    young = left.with_name(f".y{PART_SUFFIX}")
    young.write_bytes(b"half")
    assert listed(store) == ["in/key"]  # noqa: F405
    with pytest.raises(InvalidInputError):
        store.read_path(f"in/.x{PART_SUFFIX}")
    assert store.sweep() == 1
    assert (left.exists(), young.exists()) == (False, True)


def test_files_and_folders_are_told_apart(sftp_server: SftpServer, sftp_to: MakeSftp) -> None:
    """A file below a file and a file in the place of a folder are refused; links are read, and not listed."""
    folder = uuid.uuid4().hex
    store = sftp_to(folder)
    store.write_path("in/key", b"1")
    for key in ("in", "in/key/below"):
        with pytest.raises(InvalidInputError):
            store.write_path(key, b"2")
    for key in ("in", "in/key/below"):
        with pytest.raises(NotFoundError):
            store.read_path(key)
    (sftp_server.files / folder / "link").symlink_to("in/key")
    assert (store.read_path("link"), listed(store)) == (b"1", ["in/key"])  # noqa: F405
    assert store.delete_objects(["in", "in/key/below", "link"]) == 3
    assert listed(store) == ["in/key"]  # noqa: F405


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not count for root")
def test_a_folder_without_permission_is_named(sftp_server: SftpServer, sftp_to: MakeSftp) -> None:
    """No right to write is an AccessDeniedError with the key."""
    folder = sftp_server.files / uuid.uuid4().hex
    folder.mkdir(mode=0o555)
    with pytest.raises(AccessDeniedError, match="key"):
        sftp_to(folder.name).write_path("key", b"1")


def test_an_absolute_basepath(sftp_server: SftpServer, sftp_to: MakeSftp) -> None:
    """A basepath may be absolute, or be what the login starts in; the address tells which."""
    name = uuid.uuid4().hex
    sftp_to(f"/{name}").write_path("key", b"1")
    assert (sftp_server.files / name / "key").read_bytes() == b"1"
    assert sftp_to().read_path(f"{name}/key") == b"1"
    assert sftp_to(f"/{name}").uri("key") == f"sftp://127.0.0.1:{sftp_server.port}/{name}/key"
    assert sftp_to(name).uri("key") == f"sftp://127.0.0.1:{sftp_server.port}/~/{name}/key"
    assert [each.removeprefix("in/") for each in listed(sftp_to(f"/{name}"))] == ["key"]  # noqa: F405


def test_a_file_of_anybody_else_is_read(sftp_server: SftpServer, sftp_to: MakeSftp, tmp_path: Path) -> None:
    """What others uploaded, also under a name that is not UTF-8, is listed, or named in a warning."""
    folder = sftp_server.files / uuid.uuid4().hex
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"id\n1\n")
    os.close(os.open(os.fsencode(folder) + b"/\xff.csv", os.O_CREAT))
    store = sftp_to(folder.name)
    assert listed(store) == ["a.csv"]  # noqa: F405
    assert store.scan("*.csv").to_arrow().to_pylist() == [{"id": 1}]
    assert store.get_directory("", str(tmp_path)) == [tmp_path / "a.csv"]


def test_only_errors_of_ours_come_out(sftp_to: MakeSftp) -> None:
    """Also where there is no such server."""
    with pytest.raises(ConnectorError):
        sftp_to(host="no-such-host.invalid", retry=NEVER).check()
