"""What `etl` does with templates: it lists, copies and runs them."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import inspect
import re
import shutil
import sys
import time
import traceback
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from prefect import Flow
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from blocks.base.block import ConnectorBlock
from blocks.base.errors import ConnectorError, InvalidInputError, NotFoundError, ObjectExistsError, ObjectNotFoundError
from blocks.cli import deployment
from blocks.cli.saved import first_problem
from etl_blocks.hiding import HERE, PACKAGES, HiddenPackageError, require_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType

PACKAGE = "templates"


def show(block_types: Mapping[str, type[ConnectorBlock]]) -> None:
    """Print the templates and the block types, one line each."""
    files = template_files()
    width = max(map(len, [*files, *block_types]), default=0)
    print("Templates (copy one: etl new NAME DIR)")
    for name, file in files.items():
        print(f"  {name:{width}}  {_first_line(ast.get_docstring(ast.parse(file.read_text('utf-8'))))}")
    print("\nBlock types (save one: etl save FILE.toml)")
    for slug, block_type in block_types.items():
        print(f"  {slug:{width}}  {_first_line(block_type.__doc__)}")


def copy(name: str, folder: Path, *, deploy: bool = False) -> None:
    """Copy a template, and those folders of `data` that it names.

    Args:
        name: The template.
        folder: Where to.
        deploy: Write the files that deploy it, too.

    Raises:
        NotFoundError: The template does not exist.
        AlreadyExistsError: A file of that name exists.
    """
    source = _template_file(name)
    copies = {folder / place.relative_to(source.parent): place for place in (source, *_data_of(source))}
    written = {folder / name: text for name, text in deployment.files(source).items()} if deploy else {}
    for path in (*copies, *written):
        if path.exists():
            raise ObjectExistsError(f"{path} already exists. Nothing was written. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, place in copies.items():
        if place.is_dir():
            shutil.copytree(place, path)
        else:
            shutil.copyfile(place, path)
    for path, text in written.items():
        path.write_text(text, "utf-8")
    target = folder / source.name
    print(f"Wrote {target}. It is yours: start with the lines marked CHANGE.")
    print(f"Run it: cd {folder} && python {target.name}")
    if deploy:
        print(f"Deploy it: {folder / 'README.md'} has the five commands.")


def run(name: str, arguments: Sequence[str], start_server: Callable[[], None]) -> None:
    """Run a flow with the parameters given as arguments; print its report, and where the seconds went.

    Raises:
        NotFoundError: The template, the file or the flow does not exist.
        InvalidInputError: The file cannot be imported.
        CycloptsError: The arguments do not fit the flow's parameters.
    """
    flow = find_flow(name)
    parameters = parse_parameters(flow, f"etl run {name}", arguments)
    if parameters is None:
        return
    begun = time.perf_counter()
    start_server()
    answered = time.perf_counter()
    report = flow(**parameters)
    if inspect.isawaitable(report):
        report = asyncio.run(_wait_for(report))
    done = time.perf_counter()
    for each in report if isinstance(report, list) else [report]:
        print(each)
    print(
        f"{answered - begun:.1f} s until Prefect's server answered, {done - answered:.1f} s work.",
        file=sys.stderr,
    )


def template_files() -> dict[str, Path]:
    """Return the file of each template, by name."""
    return {file.stem: file for file in sorted((HERE / PACKAGE).glob("[!_]*.py"))}


def find_flow(name: str) -> Flow[..., Any]:
    """Find the flow that `NAME`, `FILE.py`, `NAME:FLOW` or `FILE.py:FLOW` means.

    Raises:
        NotFoundError: The template, the file or the flow does not exist.
        InvalidInputError: The file cannot be imported.
    """
    place, _, wanted = name.partition(":")
    file = Path(place)
    if file.suffix == ".py":
        if not file.is_file():
            raise ObjectNotFoundError(f"File not found: {file}.")
        module = _import_file(file)
    else:
        template = _template_file(place)
        _refuse_hidden(PACKAGE)
        module = importlib.import_module(f"{PACKAGE}.{template.stem}")
    flows = {key: value for key, value in vars(module).items() if isinstance(value, Flow)}
    wanted = wanted or file.stem
    if wanted not in flows:
        known = ", ".join(f"{place}:{key}" for key in flows) or "none"
        raise NotFoundError(f"{place} has no flow named {wanted}. Its flows: {known}.")
    return flows[wanted]


def parse_parameters(flow: Flow[..., Any], program: str, arguments: Sequence[str]) -> dict[str, Any] | None:
    """Return the flow's parameters that the arguments give, in their types; None where they ask for help.

    Raises:
        CycloptsError: They do not fit.
    """
    hints = typing.get_type_hints(flow.fn)
    described = {name: each.get("description", "").strip() for name, each in flow.parameters.properties.items()}

    def given(**words: Any) -> dict[str, Any]:
        return words

    options = [_option(each, hints.get(each.name, str), described.get(each.name, "")) for each in _parameters(flow)]
    given.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    app = App(name=program, help=_first_line(flow.description), help_format="plaintext", version_flags=[])
    app.default(given)
    words = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    if words is None:
        return None
    parameters = {}
    for name, word in words.items():
        try:
            parameters[name] = _convert(hints.get(name, str), word)
        except ValidationError as error:
            problem = f"Invalid value for --{name.replace('_', '-')}: {error.errors()[0]['msg']}."
            raise CycloptsError(msg=f"{problem} {described.get(name, '')}".rstrip()) from None
    return parameters


def _parameters(flow: Flow[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(flow.fn).parameters.values()


def _option(parameter: inspect.Parameter, hint: Any, description: str) -> inspect.Parameter:
    """Return the parameter as the command line has it: a flag, a word or several words."""
    kind: Any = str
    if hint is bool:
        kind = bool
    elif typing.get_origin(hint) in (list, set, tuple):
        kind = list[str]
    required = parameter.default is parameter.empty
    option = Parameter(
        help=description,
        show_default=readable(parameter.default) if not required and parameter.default is not None else required,
        negative=None if kind is bool else (),
        consume_multiple=kind == list[str],
        metavar=None if kind is bool else "VALUE",
    )
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, option],
        default=parameter.empty if required else kind(),  # not passed on: the flow has its own
    )


def readable(default: Any) -> str:
    """Return a default as a reader would write it: of a block what is not as it is anyway.

    >>> from connectors.duckdb import DuckDB
    >>> readable(DuckDB(path="shop.duckdb"))
    "DuckDB(path='shop.duckdb')"
    """
    if not isinstance(default, ConnectorBlock):
        return str(default)
    usual = {name: field.get_default(call_default_factory=True) for name, field in type(default).model_fields.items()}
    own = {name: getattr(default, name) for name in usual if getattr(default, name) != usual[name]}
    return f"{type(default).__name__}({', '.join(f'{name}={value!r}' for name, value in own.items())})"


def _convert(hint: Any, value: Any) -> Any:
    """Convert the value, text or JSON, to the type of the parameter."""
    try:
        adapter = TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if not isinstance(value, str):
            raise
        try:
            return adapter.validate_json(value)
        except ValidationError:
            raise error from None


def _template_file(name: str) -> Path:
    files = template_files()
    if name not in files:
        raise NotFoundError(f"Unknown template {name!r}. The templates: {', '.join(files) or 'none'}.")
    return files[name]


def _data_of(template: Path) -> list[Path]:
    """Return the folders of `data` beside the template whose names are part of a path in its code."""
    texts = (node.value for node in ast.walk(ast.parse(template.read_text("utf-8"))) if isinstance(node, ast.Constant))
    named = {part for text in texts if isinstance(text, str) and not re.search(r"\s", text) for part in text.split("/")}
    return sorted(path for path in (template.parent / "data").glob("*/") if path.name in named)


def _import_file(file: Path) -> ModuleType:
    """Import the file as a module, with its folder on the path as `python FILE` has it."""
    sys.path.insert(0, str(file.parent.resolve()))
    _refuse_hidden(*PACKAGES)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{file} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except ConnectorError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"{file}{_explained(error, spec.origin)} 'etl --debug run' shows the traceback."
        ) from error
    return module


def _refuse_hidden(*packages: str) -> None:
    try:
        require_ours(*packages)
    except HiddenPackageError as error:
        raise InvalidInputError(str(error)) from None


def _explained(error: Exception, file: str | None) -> str:
    """Return the line of the file, and what is wrong there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    words = f"{type(error).__name__}: {error}."
    if isinstance(error, ValidationError):
        words = first_problem(error)
    elif isinstance(error, SyntaxError) and error.filename == file:
        lines, words = [error.lineno], f"{error.msg}."
    return f" line {lines[-1]}: {words}" if lines else f": {words}"


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


async def _wait_for(report: Any) -> Any:
    return await report
