"""What is written is true: every page is run from top to end, tables are fresh, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from blocks.cli.command import app
from tests.documents import PAGES, ROOT, Reader, blocks_of

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

MODULES = [
    module.name
    for package in ("blocks", "connectors", "etl_blocks", "templates")
    for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    if not module.name.endswith("__main__")
]
LINK = re.compile(r"\]\((?P<file>[^)#:\s]*)(?:#(?P<section>[^)\s]+))?\)")


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.stem)
def test_a_page_can_be_followed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block runs and prints what the page says, and every command is there."""
    Reader(tmp_path, monkeypatch).read(page)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    """Each doctest of a module gives what it says."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


EMBEDDED = {"etl-local-files": {"basepath": "."}, "etl-memory-files": {}, "etl-duckdb": {}}


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("slug", EMBEDDED)
def test_the_example_of_a_block_runs(slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block's docstring shows works with a saved block, no account needed."""
    monkeypatch.chdir(tmp_path)
    block: Any = next(each for each in tables().block_types() if each.get_block_type_slug() == slug)
    block(**EMBEDDED[slug]).save("example", overwrite=True)
    examples = re.findall(r"^( *```python\n.*?)```", inspect.getdoc(block) or "", re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        code = textwrap.dedent(example).partition("\n")[2].replace("BLOCK_NAME", "example")
        exec(code, {})  # noqa: S102 (our own documentation)


def test_generated_tables_are_fresh() -> None:
    """README's blocks, the error tree and the types are those of the code; if not: `python docs/tables.py`."""
    assert tables().stale() == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the repository leads to a file, and to a section of it."""
    for link in LINK.finditer(page.read_text("utf-8")):
        file = (page.parent / link["file"]).resolve() if link["file"] else page
        assert file.exists(), f"{page.name}: {link[0]}"
        if link["section"]:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert link["section"] in {anchor(heading) for heading in headings}, f"{page.name}: {link[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_text_are_there(page: Path) -> None:
    """Each `etl ...` and each `make ...` that a page names can be called."""
    text = page.read_text("utf-8")
    assert set(re.findall(r"`etl (?:--debug )?(\w+)", text)) <= set(app)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {target for line in re.findall(r"`make ([\w -]+)`", text) for target in line.split()} <= set(targets)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
