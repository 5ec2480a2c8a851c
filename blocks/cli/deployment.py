"""The files that deploy a template: its schedules and pools, its image, and servers to try it out on."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from etl_blocks.hiding import HERE

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = HERE / "templates/deploy"
EXTRAS = {
    "connectors.dbt": "dbt-postgres",
    "connectors.great_expectations": "great-expectations",
    "mlflow": "mlflow",
}
ALWAYS = {"postgres", "s3"}  # of the blocks in blocks.toml
SAVED_BLOCK = re.compile(r"such as (etl-[\w-]+/[\w-]+)")


def files(template: Path) -> dict[str, str]:
    """Return the text of each file by its name: those of `templates/deploy`, filled in for this template."""
    module = ast.parse(template.read_text("utf-8"))
    name = template.stem
    saved = [f"\n      {parameter}: {block}" for parameter, block in _saved_blocks(module, name).items()]
    placeholders = {
        "__NAME__": name,
        "__FLOW__": name.replace("_", "-"),
        "__PARAMETERS__": "".join(saved) or " {}",
        "__EXTRAS__": ",".join(sorted(ALWAYS | _extras(module))),
    }

    def filled(text: str) -> str:
        for placeholder, value in placeholders.items():
            text = text.replace(placeholder, value)
        return text

    return {file.name: filled(file.read_text("utf-8")) for file in sorted(FOLDER.iterdir()) if file.is_file()}


def _saved_blocks(module: ast.Module, flow: str) -> dict[str, str]:
    """Return the flow's parameters that are saved blocks, each with the block that the docstring has as its example."""
    function = next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == flow)
    described = re.split(r"^ +(\w+): ", ast.get_docstring(function) or "", flags=re.MULTILINE)[1:]
    examples = {name: SAVED_BLOCK.search(text) for name, text in zip(described[::2], described[1::2], strict=True)}
    return {name: example[1] for name, example in examples.items() if example}


def _extras(module: ast.Module) -> set[str]:
    """Return the extras that the template's own imports need."""
    nodes = list(ast.walk(module))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {extra for connector, extra in EXTRAS.items() if connector in imported}
