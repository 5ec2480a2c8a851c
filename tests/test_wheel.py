"""The wheel as its users get it: what it says of itself, and what it says where something hides its packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?P<target>[^)\s]*)\)")
FOREIGN = ["blocks.py", "blocks/__init__.py", "connectors.py", "connectors/__init__.py"]
HIDING_BLOCKS = FOREIGN[:2]
HIDING_CONNECTORS = FOREIGN[2:]
DISCOVERY = "from prefect.plugins import load_prefect_collections; load_prefect_collections()"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment with the wheel; what it depends on is that of the tests."""
    environment = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder."""
    return tmp_path


def run(
    *command: str | Path, cwd: Path | None = None, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(  # noqa: S603
        [str(each) for each in command], cwd=cwd, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done


def add(folder: Path, name: str) -> Path:
    """A file of the user's; and what a message calls it: the file, or the folder that it makes a package."""
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    return file.parent if file.name == "__init__.py" else file


def message(place: Path) -> str:
    return f"{place} hides the package '{place.stem}' of etl-blocks. Rename it, or run this from another folder."


@pytest.fixture
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


# what it says of itself


def test_a_package_index_takes_it(wheel):
    """The description renders, and nothing is missing."""
    pytest.importorskip("twine", reason="comes with the group test")
    assert "PASSED" in run(sys.executable, "-m", "twine", "check", "--strict", wheel).stdout


def test_links_of_the_description_lead_somewhere_from_anywhere(metadata):
    """A package index shows it without the files beside it."""
    description = metadata.get_payload()
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    assert all(link["target"].startswith("https://") for link in LINK.finditer(description))


def test_the_metadata_is_complete(metadata):
    """The licence with its text, keywords, and the Pythons that it was tried on."""
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert "prefect" in metadata["Keywords"].split(",")
    classifiers = set(metadata.get_all("Classifier"))
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= classifiers
    assert "Typing :: Typed" in classifiers


def test_the_command_is_there(installed, folder):
    """And starts anywhere, also where a folder of the user's has a name of ours."""
    for name in ("blocks", "connectors"):
        (folder / name).mkdir()
    assert run(installed / "etl", "--version", cwd=folder).stdout.startswith("etl-blocks 0.")
    run(installed / "python", "-c", "import connectors.s3", cwd=folder)


# what it says where something hides its packages


@pytest.mark.parametrize("name", HIDING_BLOCKS)
def test_hidden_blocks_are_named_by_an_import_of_a_connector(installed, folder, name):
    """The last line of the error names what hides them, and what to do."""
    place = add(folder, name)
    error = run(installed / "python", "-c", "import connectors.s3", cwd=folder, code=1).stderr
    assert error.splitlines()[-1] == f"etl_blocks.hiding.HiddenPackageError: {message(place)}"


@pytest.mark.parametrize("name", HIDING_CONNECTORS)
def test_hidden_connectors_are_named_by_an_import_of_the_kit(installed, folder, name):
    """An import of `connectors` itself gives the user's own: nothing of ours runs there."""
    place = add(folder, name)
    error = run(installed / "python", "-c", "import blocks", cwd=folder, code=1).stderr
    assert error.splitlines()[-1] == f"etl_blocks.hiding.HiddenPackageError: {message(place)}"


@pytest.mark.parametrize("name", FOREIGN)
def test_the_command_says_it_in_one_line(installed, folder, name):
    """Where the folder is on Python's path."""
    place = add(folder, name)
    done = run(installed / "etl", "list", PYTHONPATH=str(folder), code=1)
    assert (done.stdout, done.stderr) == ("", f"error: {message(place)}\n")


def test_the_command_says_it_of_the_folder_of_a_flow(installed, folder):
    """As `python FILE` would take it from there."""
    place = add(folder, "connectors.py")
    (folder / "flow.py").write_text("from connectors.duckdb import DuckDB")
    done = run(installed / "etl", "run", folder / "flow.py", code=1)
    assert done.stderr == f"error: {message(place)}\n"


def test_what_deploys_a_template_is_in_it(installed, folder):
    """`etl new --deploy` writes the same files from the wheel as from a clone."""
    run(installed / "etl", "new", "orders_pipeline", "shop", "--deploy", cwd=folder)
    run(sys.executable, "-m", "blocks.cli", "new", "orders_pipeline", folder / "clone", "--deploy", cwd=ROOT)
    copies, originals = ({file.name for file in (folder / each).iterdir()} for each in ("shop", "clone"))
    assert copies == originals
    assert {"prefect.yaml", "Dockerfile", "compose.yaml", ".dockerignore"} <= copies


def test_hidden_templates_are_named_where_one_is_run(installed, folder):
    """They are listed and copied all the same."""
    place = add(folder, "templates/__init__.py")
    assert "orders_pipeline" in run(installed / "etl", "list", PYTHONPATH=str(folder)).stdout
    done = run(installed / "etl", "run", "orders_pipeline", PYTHONPATH=str(folder), code=1)
    assert done.stderr == f"error: {message(place)}\n"


@pytest.mark.parametrize("name", [FOREIGN[0], FOREIGN[3]])
def test_prefect_says_it_once_when_it_looks_for_blocks(installed, folder, name):
    """One warning, without a traceback, and Prefect goes on."""
    place = add(folder, name)
    done = run(installed / "python", "-c", DISCOVERY, cwd=folder, COLUMNS="1000")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "etl" in line]
    assert len(lines) == 1
    assert lines[0].endswith(message(place))
    assert "Traceback" not in done.stderr


def test_prefect_finds_every_block(installed, folder):
    """Without an import of the user's."""
    code = f"{DISCOVERY}; from prefect.blocks.core import Block; print(Block.get_block_class_from_key('etl-snowflake'))"
    assert "connectors.snowflake" in run(installed / "python", "-c", code, cwd=folder).stdout


# as users install it


def pythons() -> list[str]:
    """A Python of each minor version from 3.11 on: the one that runs this, those on the path, and pyenv's."""
    folders = [f"{sys.base_prefix}/bin", *os.environ["PATH"].split(os.pathsep)]
    folders += map(str, sorted(Path.home().glob(".pyenv/versions/3.*/bin")))
    found: dict[str, str] = {}
    for folder in folders:
        for minor in range(11, 20):
            file = Path(folder, f"python3.{minor}")
            if file.is_file() and "shims" not in file.parts:  # a shim of pyenv runs only what is switched on
                found.setdefault(file.name, str(file))
    return [found[name] for name in sorted(found)]


@pytest.mark.thorough
@pytest.mark.parametrize("installer", ["pip", "uv"])
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_it_runs_in_a_fresh_environment(wheel, tmp_path, python, installer):
    """With the newest of everything that it depends on: a day is loaded, and the second run says so."""
    run(python, "-m", "venv", tmp_path / "venv")
    commands = tmp_path / "venv/bin"
    if installer == "uv":
        run(commands / "pip", "install", "--quiet", "uv")
        run(commands / "uv", "pip", "install", "--quiet", "--python", commands / "python", wheel)
    else:
        run(commands / "pip", "install", "--quiet", wheel)
    home = {"PREFECT_HOME": str(tmp_path / "home")}
    first, second = (run(commands / "etl", "run", "orders_pipeline", cwd=tmp_path, **home).stdout for _ in range(2))
    assert "orders: 21 rows loaded by upsert (21 inserted)" in first
    assert "already loaded" in second
    shutil.rmtree(tmp_path / "venv")
