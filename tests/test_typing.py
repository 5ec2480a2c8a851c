"""Types reach users: mypy and pyright check code that uses the installed wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytest.importorskip("mypy")
pytest.importorskip("pyright")

CODE = Path(__file__).parent / "typing"
COMMANDS = {
    # pyarrow and pandas bring no types for mypy; that ours are there is what `assert_type` finds.
    "mypy": ["mypy", "--strict", "--disable-error-code=import-untyped", "--cache-dir=.cache", "--python-executable"],
    "pyright": ["pyright", "--pythonpath"],
}
ERROR = re.compile(r"(?P<file>\w+\.py):(?P<line>\d+)(:\d+ -|:) error: ")


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has our packages from the wheel, and all others from where the tests run."""
    folder = tmp_path_factory.mktemp("user") / "environment"
    venv.create(folder)
    where = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=where))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, wheel]
    subprocess.run(install, check=True)  # noqa: S603 (our own)
    # What is in the folder is found; its .pth files, such as that of an editable install, are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    return Path(sysconfig.get_path("scripts", vars=where)) / "python"


@pytest.fixture(
    scope="module",
    # `make check` runs mypy over usage.py in every run, though not against the wheel; here it takes a minute.
    params=["pyright", pytest.param("mypy", marks=pytest.mark.thorough)],
)
def lines(
    request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, set[int]]:
    """The lines with errors of each file, as one type checker sees them."""
    folder = tmp_path_factory.mktemp(request.param)
    files = [shutil.copy(file, folder) for file in sorted(CODE.glob("*.py"))]
    command = [sys.executable, "-m", *COMMANDS[request.param], python, *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 (our own)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[int]] = {"usage.py": set(), "refused.py": set()}
    for error in ERROR.finditer(done.stdout):
        found[error["file"]].add(int(error["line"]))
    return found


def test_what_users_write_has_the_types_that_it_should(lines: dict[str, set[int]]) -> None:
    """Blocks, operations, futures and errors are what `assert_type` says, and nothing is Any."""
    assert lines["usage.py"] == set()


def test_mistakes_are_refused(lines: dict[str, set[int]]) -> None:
    """Each line that is marked is an error, and no other."""
    text = (CODE / "refused.py").read_text("utf-8").splitlines()
    marked = {number for number, line in enumerate(text, 1) if line.endswith("# refused")}
    assert lines["refused.py"] == marked
