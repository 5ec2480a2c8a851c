"""Frames of pandas 2, where text is objects and times are nanoseconds, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRAMES = "frame or dtype or rows or pandas or nanoseconds or containers"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with pandas 2; all else that it needs is that of the tests."""
    environment = tmp_path_factory.mktemp("pandas2")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)  # noqa: S603
    interpreter = environment / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        interpreter,
        "install",
        "--quiet",
        "--no-deps",
        "pandas>=2.2,<3",
    ]
    if subprocess.run(install, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("no package index has pandas 2")
    find = [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return interpreter


@pytest.mark.thorough
def test_frames_of_pandas_2_are_loaded(python: Path) -> None:
    """All that the tests say of frames and rows holds with pandas 2."""
    version = [python, "-c", "import pandas; print(pandas.__version__)"]
    assert subprocess.run(version, check=True, capture_output=True, text=True).stdout.startswith("2.")  # noqa: S603
    tests = ["tests/test_frames.py", "tests/test_rows.py", "tests/test_duckdb.py"]
    done = subprocess.run(  # noqa: S603
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", FRAMES],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5_000:]
