"""Imports: what a module pulls in, and which names are public. Which way imports point: test_layers.py."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow
from prefect.exceptions import ParameterTypeError

ROOT = Path(__file__).parents[1]
DRIVERS = {
    "adbc_driver_manager", "adbc_driver_postgresql", "asyncssh", "azure", "boto3", "botocore", "dbt", "duckdb",
    "google", "great_expectations", "numpy", "obstore", "pandas", "polars", "psycopg", "psycopg2", "pyarrow",
    "pymysql", "snowflake", "sqlalchemy",
}  # fmt: skip
# What every module may take at the top. The kit's modules that take Arrow are themselves imported when they are needed.
OURS = {"blocks", "connectors", "etl_blocks"}
ALLOWED = {
    "annotated_types",
    "anyio",
    "prefect",
    "pydantic",
    "pydantic_core",
    "typing_extensions",
    *OURS,
    *sys.stdlib_module_names,
}
ARROW = {"pyarrow", "numpy"}
COMMAND_LINE = {"cyclopts"}
DBT = {"jinja2", "yaml"}  # Prefect brings them
TESTING = {"cloudpickle", "pytest"}  # Prefect brings the one; whoever names the plugin has the other

CONNECTORS = sorted({path.stem for path in (ROOT / "connectors").glob("[!_]*")} - {"py", "shared"})
FOLDERS = [ROOT / "blocks", ROOT / "connectors", ROOT / "etl_blocks"]
PACKAGES = sorted(path.parent for folder in FOLDERS for path in folder.rglob("__init__.py"))
MODULES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def imports(path: Path) -> set[str]:
    """The modules that importing a file imports: not those in functions, nor those under `if TYPE_CHECKING`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def test_connectors_import_no_driver():
    """Not one driver, nor pyarrow, is loaded by importing every connector and building every kind of block."""
    names = "\n".join(f"import connectors.{name}" for name in CONNECTORS)
    assert loaded_by(f"import blocks\n{names}") & DRIVERS == loaded_by("import prefect") & DRIVERS


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_command_starts_light(option):
    """Neither a driver nor Prefect's server is loaded to say what there is."""
    loaded = loaded_by(f"from blocks.cli import main\nmain(['{option}'])")
    assert loaded & {*DRIVERS, "fastapi", "uvicorn"} <= loaded_by("import prefect")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_driver_at_module_level(path):
    """Drivers are imported in functions, through `require`, so that what is not installed is not needed."""
    folders = path.relative_to(ROOT).parts
    allowed = ALLOWED | (ARROW if "blocks" in folders else set())
    allowed |= {"cli": COMMAND_LINE, "dbt": DBT, "testing": TESTING}.get(folders[1], set())
    allowed |= TESTING if "testing" in folders else set()
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_hold_names_only(package):
    """`__init__.py` has a docstring, imports and `__all__`; never code."""
    for node in ast.parse((package / "__init__.py").read_text("utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_docstring or is_all or isinstance(node, ast.Import | ast.ImportFrom)


def test_public_names_are_sorted_and_there():
    """`blocks.__all__` is the public API: sorted, and everything in it exists."""
    import blocks

    assert sorted(blocks.__all__) == blocks.__all__
    assert [name for name in blocks.__all__ if not hasattr(blocks, name)] == []


def public_classes():
    """Those that users annotate parameters with: of `blocks.__all__`, and each connector's own."""
    modules = [importlib.import_module(name) for name in ("blocks", *(f"connectors.{name}" for name in CONNECTORS))]
    for module in modules:
        own = (name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
        names = getattr(module, "__all__", [name for name in own if name[0] != "_"])
        yield from (getattr(module, name) for name in names if inspect.isclass(getattr(module, name)))


@pytest.mark.parametrize("kind", list(public_classes()), ids=lambda kind: kind.__name__)
def test_every_public_class_is_a_parameter_of_a_flow(kind):
    """Prefect asks pydantic for a schema of each annotation: a value of another kind is refused, not the flow."""

    def works(value): ...

    works.__annotations__["value"] = kind
    with pytest.raises(ParameterTypeError):
        flow(works).validate_parameters({"value": object()})
