"""What is written is true: every page is run from top to end, tables are fresh, links lead somewhere."""

from __future__ import annotations

import ast
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


def written_code() -> dict[str, str]:
    """What users copy: the Python of each page, each template, and the example of each block."""
    found = {
        page.name: "\n".join(block.text for block in blocks_of(page) if block.language == "python") for page in PAGES
    }
    found |= {path.name: path.read_text("utf-8") for path in (ROOT / "templates").glob("[!_]*.py")}
    for block in tables().block_types():
        examples = re.findall(r"^( *)```python\n(.*?)```", inspect.getdoc(block) or "", re.DOTALL | re.MULTILINE)
        found[block.__name__] = "\n".join(textwrap.dedent(text) for _, text in examples)
    return {name: code for name, code in found.items() if code}


@pytest.mark.parametrize(("place", "code"), (found := written_code()).items(), ids=found)
def test_what_users_copy_imports_public_names(place: str, code: str) -> None:
    """From `blocks`, `blocks.credentials`, a connector or a template, and only what is named in its `__all__`."""
    for node in ast.walk(ast.parse(code, place)):
        modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if module.partition(".")[0] not in {"blocks", "connectors", "templates"}:
                continue
            assert re.fullmatch(r"blocks(\.credentials|\.testing)?|(connectors|templates)\.[a-z]\w+", module)
            public = public_names(importlib.import_module(module))
            assert {each.name for each in node.names if isinstance(node, ast.ImportFrom)} <= public


def public_names(module: ModuleType) -> set[str]:
    """What a module says is public, else what it defines without an underscore."""
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return set(getattr(module, "__all__", ())) or {name for name in own if not name.startswith("_")}


@pytest.mark.parametrize("name", [name for name in MODULES if hasattr(importlib.import_module(name), "__all__")])
def test_public_names_are_sorted(name: str) -> None:
    """Classes first, then functions, each by name; and all of them are there."""
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(set(module.__all__), key=lambda each: (each.islower(), each))
    assert {each for each in module.__all__ if not hasattr(module, each)} == set()


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
