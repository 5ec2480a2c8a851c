"""The architecture as imports: which package may take from which, and no circle anywhere.

All imports count: those at the top, in functions and under `if TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each package of the kit, and those it may take from: base <- arrow <- {files, warehouses, quality}, files <- stores.
KIT: dict[str, set[str]] = {
    "base": set(),
    "arrow": {"base"},
    "files": {"base", "arrow"},
    "stores": {"base", "arrow", "files"},
    "warehouses": {"base", "arrow"},
    "quality": {"base", "arrow"},
    "jobs": {"base"},
    "credentials": {"base"},
}
TOP = ("cli", "testing")  # the top layer of the kit
KIT |= {name: set(KIT) for name in TOP}

GUARD = "etl_blocks.hiding"  # says what hides our packages, and imports none of them

TOPS = ("blocks", "connectors", "etl_blocks", "templates")
FILES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
SHARED = sorted({".".join(name.split(".")[:3]) for name in MODULES if name.startswith("connectors.shared.")})


def imported(name: str) -> set[str]:
    """The modules of this project that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            whole = {node.module} if len(submodules) < len(node.names) else set()
            found |= submodules | whole
    return found & set(MODULES) - {name}


IMPORTS = {name: imported(name) for name in MODULES}


def test_the_page_shows_what_is_there():
    """Every package is in the picture of ARCHITECTURE.md and in its table; what it takes from stands below it."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    picture = text.split("```")[1]
    lines = [re.findall(r"blocks/(\w+)", line) for line in picture.splitlines()]
    height = {name: -number for number, names in enumerate(lines) for name in names}
    assert set(height) == set(KIT)
    assert set(re.findall(r"^\| `blocks/(\w+)` \|", text, re.MULTILINE)) == set(KIT)
    assert all(height[below] < height[name] for name, taken in KIT.items() for below in taken if name not in TOP)
    assert {path.name for path in (ROOT / "blocks").iterdir() if (path / "__init__.py").exists()} == set(KIT)


def package(name: str) -> str:
    """The package of the kit, or the connector, that a module belongs to: `blocks.base`, `connectors.s3`."""
    return ".".join(name.split(".")[:2])


def test_there_is_no_circle():
    """No module needs itself, by whatever way round."""
    graphlib.TopologicalSorter(IMPORTS).prepare()


@pytest.mark.parametrize("name", [name for name in MODULES if name.count(".") >= 2 and name.startswith("blocks.")])
def test_the_kit_imports_downwards(name):
    """A package of the kit takes from those below it, and from nothing that is built on the kit."""
    own = package(name)
    allowed = {own, GUARD} | {f"blocks.{each}" for each in KIT[own.removeprefix("blocks.")]}
    assert {package(each) for each in IMPORTS[name]} <= allowed


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("connectors.")])
def test_a_connector_imports_the_kit_its_own_package_and_what_is_shared(name):
    """Connectors never take from each other, and what they share takes from the kit alone."""
    own = package(name)
    others = {each for each in IMPORTS[name] if package(each) not in {own, "connectors.shared"}}
    assert {each for each in others if not each.startswith("blocks")} == set()
    assert {each for each in IMPORTS[name] if each.startswith("blocks.cli")} == set()


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_has_two_users(name):
    """A module of `connectors.shared` that one connector uses belongs to that connector."""
    users = {package(each) for each, taken in IMPORTS.items() if any(f"{one}.".startswith(f"{name}.") for one in taken)}
    assert len(users - {"connectors.shared"}) >= 2


def test_nothing_that_is_used_imports_what_is_for_tests():
    """Where pipelines run, pytest need not be installed."""
    users = {name for name, taken in IMPORTS.items() if any(package(each) == "blocks.testing" for each in taken)}
    assert {package(name) for name in users} == {"blocks.testing"}


def test_what_guards_the_packages_imports_none_of_them():
    """It has to run where another `blocks` or `connectors` stands in front of ours."""
    assert IMPORTS[GUARD] == set()


def test_templates_import_public_names():
    """A template is copied to where it will live: it takes what users take."""
    for name in MODULES:
        if name.startswith("templates."):
            assert {each for each in IMPORTS[name] if each.count(".") > 1} == set()
