"""Temporary folders: what a killed process leaves, the next one removes, and nothing that somebody may still need."""

from __future__ import annotations

import ast
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blocks.base import temporary
from blocks.base.temporary import LOCK, PREFIX, TemporaryFolder, machine, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
MAKES_ONE = """
import sys, time
from blocks.base.temporary import TemporaryFolder
folder = TemporaryFolder()
(folder.path / "deep").mkdir()
(folder.path / "deep" / "rows").write_text("1,Rome")
print(folder.path, flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of this test and of the processes that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def started() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", MAKES_ONE, "60"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_left_is_removed(
    started: tuple[subprocess.Popen[str], Path], sent: signal.Signals
) -> None:
    """The folder of a living process stays; once it has ended, however it did, the next sweep removes it."""
    process, folder = started
    assert sweep() == 0
    assert (folder / "deep" / "rows").exists()
    process.send_signal(sent)
    process.wait()
    assert (folder / "deep" / "rows").exists()
    assert sweep() == 1
    assert not folder.exists()


def test_the_first_folder_of_a_process_sweeps(started: tuple[subprocess.Popen[str], Path], place: Path) -> None:
    """The next run removes what the last one left, by itself; many that start at once are in nobody's way."""
    process, folder = started
    process.kill()
    process.wait()
    command = [sys.executable, "-c", MAKES_ONE, "0"]
    others = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [other.wait() for other in others] == [0] * 4
    assert not folder.exists()
    assert list(place.iterdir()) == []


def test_a_folder_goes_with_its_owner() -> None:
    """When it is closed, and when nobody has it any more; its lock goes with it, and nobody else can look into it."""
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with TemporaryFolder() as path:
        (path / "rows").write_text("1")
        assert path.stat().st_mode & 0o777 == 0o700
    assert not path.exists()
    forgotten = TemporaryFolder()
    path = forgotten.path
    del forgotten
    gc.collect()
    assert not path.exists()
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_fork_leaves_it_to_its_parent() -> None:
    """A child that ends as usual removes nothing of its parent's."""
    code = (
        "import os, sys\nfrom blocks.base.temporary import TemporaryFolder\nfolder = TemporaryFolder()\n"
        "if not (child := os.fork()):\n    sys.exit()\nos.waitpid(child, 0)\nprint(folder.path.exists())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize(("made_by", "age_s", "stays"), [("ffffffff", 3600, True), ("ffffffff", 100_000, False)])
def test_what_another_machine_made_is_left_for_a_day(place: Path, made_by: str, age_s: float, stays: bool) -> None:
    """Its locks may not be seen here, as on a network file system that keeps them to each machine."""
    folder = place / f"{PREFIX}{made_by}-abcdef"
    folder.mkdir(mode=0o700)
    (folder / LOCK).touch()
    then = time.time() - age_s
    os.utime(folder / LOCK, (then, then))
    sweep()
    assert folder.exists() == stays


def test_what_is_not_ours_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other names, links, folders that are just being made, and those of other users."""
    (place / "etl-other").mkdir()
    (place / f"{PREFIX}{machine()}-new").mkdir()
    (place / f"{PREFIX}{machine()}-link").symlink_to(place / "etl-other")
    foreign = place / f"{PREFIX}{machine()}-foreign"
    foreign.mkdir()
    (foreign / LOCK).touch()
    before = sorted(place.iterdir())
    monkeypatch.setattr(temporary, "_is_own", lambda status: status.st_ino != foreign.stat().st_ino)
    assert sweep() == 0
    assert sorted(place.iterdir()) == before


def test_no_other_module_makes_temporary_folders_or_named_files() -> None:
    """What has no name, such as TemporaryFile, leaves nothing behind; all else is made in one place."""
    named = {"TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp", "mktemp"}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for top in ("blocks", "connectors", "etl_blocks", "templates")
        for path in sorted((ROOT / top).rglob("*.py"))
        if path != ROOT / "blocks" / "base" / "temporary.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in [getattr(node, "attr", None) or getattr(node, "name", None)]
        if name in named and isinstance(node, ast.Attribute | ast.alias)
    ]
    assert found == []
