"""Checks of arguments at the call, before anything is read or written. The rule is the signature.

Every public method of a block is checked, and what is `@checked`: each argument against the type that the signature
declares, and its name against the names that the signature has. The error names the nearest right spelling.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import dataclasses
import decimal
import difflib
import functools
import importlib
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, Union, cast, get_args, get_origin

import annotated_types
from pydantic import AfterValidator, BaseModel, model_validator

from blocks.base.boundary import bounded
from blocks.base.errors import InvalidInputError
from blocks.base.reference import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

F = TypeVar("F", bound="Callable[..., Any]")

ELSEWHERE = {
    "dtype": "schema",
    "dtypes": "schema",
    "filters": "where",
    "if_exists": "mode",
    "keys": "key",
    "primary_key": "key",
    "unique_key": "key",
    "usecols": "columns",
    "write_disposition": "mode",
}
"""What other libraries call some of our arguments, where that is not near enough to be found by its letters."""


class Options(BaseModel):
    """Options as plain data: a field that there is not is an error that names the nearest one."""

    _elsewhere: typing.ClassVar[Mapping[str, str]] = {}
    """What other libraries call these fields."""

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        cls.__doc__ = reference(cls)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"{cls.__name__} has no field {name!r}; {cls.hint(name)}")
        return values

    @classmethod
    def hint(cls, name: str) -> str:
        """Return the words that help someone who called a field `name`."""
        return nearest(name, cls.model_fields, "its fields are", elsewhere=cls._elsewhere)

    @classmethod
    def field_called(cls, name: str) -> str | None:
        """Return the field that `name` means here or in another library, None where there is none."""
        return name if name in cls.model_fields else cls._elsewhere.get(name)


def nearest(name: str, known: Iterable[str], what: str, *, elsewhere: Mapping[str, str] = ELSEWHERE) -> str:
    """Return a hint: the nearest of the known names, else all of them.

    >>> nearest("hots", ["host", "port"], "its fields are")
    "did you mean 'host'?"
    """
    known = sorted(known)
    near = [elsewhere[name]] if elsewhere.get(name) in known else difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(known) or 'none'}."


def checked(function: F) -> F:
    """Check the arguments of a function or method at each call, and have what it raises be fit to be shown."""
    signature = inspect.signature(function)

    def check(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        bound = bind(signature, function.__qualname__, args, kwargs, function)
        check_arguments(function, bound.arguments)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        return function(*args, **kwargs)

    @functools.wraps(function)
    async def async_wrapper(*args: Any, **kwargs: Any) -> Any:
        check(args, kwargs)
        return await function(*args, **kwargs)

    return bounded(cast("F", async_wrapper if inspect.iscoroutinefunction(function) else wrapper))


def takes_fields_of(options: type) -> Callable[[F], F]:
    """Have checks and help know the `**options` of a function by name: they are the fields of a dataclass."""
    kinds = typing.get_type_hints(options, include_extras=True)
    named = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kinds[field.name]
        )
        for field in dataclasses.fields(options)
    ]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return decorate


def check_methods(owner: type) -> None:
    """Have each public method that a class defines check its arguments, as operations do."""
    for name, value in list(vars(owner).items()):
        if inspect.isfunction(value) and not name.startswith(("_", "model_")):
            setattr(owner, name, checked(value))


def bind(
    signature: inspect.Signature,
    where: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    function: Callable[..., Any],
) -> inspect.BoundArguments:
    """Return the call's arguments by name.

    Args:
        signature: What is called, without the arguments that are bound already.
        where: Its name, for messages.
        args: As given.
        kwargs: As given.
        function: The function whose annotations say which options take what fields.

    Raises:
        InvalidInputError: There is no such argument, or one is missing or given twice.
    """
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        unknown = next((name for name in kwargs if name not in signature.parameters), None)
        if unknown is None:
            raise InvalidInputError(f"{where}(): {error}.") from None
        for name, hint in _hints(function).items():
            for option in _classes(hint, Options):
                if field := option.field_called(unknown):
                    raise InvalidInputError(
                        f"{where}() has no argument {unknown!r}; write {name}={option.__name__}({field}=...)."
                    ) from None
        names = [name for name in signature.parameters if name != "self"]
        raise InvalidInputError(
            f"{where}() has no argument {unknown!r}; {nearest(unknown, names, 'its arguments are')}"
        ) from None


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments against the annotations of the function.

    Raises:
        InvalidInputError: One is of another type, or is none of the choices; the message has the nearest right one.
    """
    hints = _hints(function)
    for name, value in arguments.items():
        if name in hints and (words := _misfit(value, hints[name], name)):
            raise InvalidInputError(words)


# What fits an annotation


def _misfit(value: Any, kind: Any, name: str) -> str | None:  # noqa: C901, PLR0911 (one kind a line)
    """Return what is wrong with a value, None where it fits what is declared, or cannot be told before the call."""
    if kind is Any or isinstance(kind, TypeVar) or _is_deferred(value):
        return None
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _fits_none_of(value, get_args(kind), name)
    if origin is typing.Annotated:
        base, *rules = get_args(kind)
        return _misfit(value, base, name) or _out_of_range(value, rules, name) or _not_valid(value, rules, name)
    if origin is Literal:
        return None if value in get_args(kind) else _no_choice(value, get_args(kind), name)
    if CALLABLE in (origin, kind):
        return None if callable(value) else f"{name} is a function, not {_article(value)}."
    if origin in LISTS or kind in LISTS:
        return _no_list(value, (get_args(kind) or (Any,))[0], name)
    if origin is tuple:
        return _no_tuple(value, get_args(kind), name)
    if origin in MAPPINGS or kind in MAPPINGS:
        return _no_mapping(value, get_args(kind) or (Any, Any), name)
    fits = FITS.get(kind if origin is None else origin)
    if fits is None:
        kind = origin or kind
        if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
            return None
        fits = functools.partial(_is_a, kind=kind)
    return None if fits(value) else f"{name} is {_called(kind)}, not {_article(value)}.{_hint(value, kind, name)}"


LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping)
CALLABLE: Any = collections.abc.Callable


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind)


def _is_deferred(value: Any) -> bool:
    """Tell whether it is Prefect's promise of a value: a future, a state, or a value in an annotation of Prefect."""
    return any(
        each.__module__.startswith("prefect.")
        and each.__name__ in ("PrefectFuture", "State", "BaseAnnotation", "PrefectFutureList")
        for each in type(value).__mro__
    )


FITS: dict[Any, Callable[[Any], bool]] = {
    None: lambda value: value is None,
    type(None): lambda value: value is None,
    bool: lambda value: isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"),
    int: lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool),
    float: lambda value: isinstance(value, numbers.Real | decimal.Decimal) and not isinstance(value, bool),
    bytes: lambda value: isinstance(value, bytes | bytearray | memoryview),
    Path: lambda value: isinstance(value, os.PathLike),
    BinaryIO: lambda value: hasattr(value, "read") or hasattr(value, "write"),
    typing.IO: lambda value: hasattr(value, "read") or hasattr(value, "write"),
    typing.Self: lambda value: hasattr(value, "_block_type_slug"),
}
"""When a value is of a type that more than its instances fit."""

CALLED: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    bytes: "bytes",
    Path: "a path",
    PurePath: "a path",
    BinaryIO: "a binary file",
    typing.IO: "a file",
    typing.Self: "a block",
    type(None): "None",
}


def _called(kind: Any) -> str:
    if (known := CALLED.get(kind)) is not None:
        return known
    origin = get_origin(kind)
    if origin is typing.Annotated:
        return _called(get_args(kind)[0])
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    forms = {**dict.fromkeys(LISTS, "a list"), **dict.fromkeys(MAPPINGS, "a dictionary"), CALLABLE: "a function"}
    if (form := forms.get(origin or kind)) is not None:
        return form
    package = "pyarrow." if getattr(kind, "__module__", "").startswith("pyarrow") else ""
    return package + str(getattr(origin or kind, "__name__", kind))


def _article(value: Any) -> str:
    """Return the type of a value in words; its text is not shown, as it may be a secret."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _hint(value: Any, kind: Any, name: str) -> str:
    if kind is bytes and isinstance(value, str):
        return f" Text has to be encoded: write {name}=text.encode()."
    if getattr(kind, "__name__", "") == "Schema" and isinstance(value, dict | list | tuple):
        return f" Write {name}=pyarrow.schema(...) around it."
    if isinstance(kind, type) and issubclass(kind, Options) and isinstance(value, dict):
        return f" Write {name}={kind.__name__}(...)."
    return ""


def _fits_none_of(value: Any, kinds: tuple[Any, ...], name: str) -> str | None:
    found = [_misfit(value, kind, name) for kind in kinds]
    if None in found:
        return None
    given = [(kind, words) for kind, words in zip(kinds, found, strict=True) if kind is not type(None)]
    # of several, the one whose form it has tells the most: a choice for a text, an element for a list
    lists = [words for kind, words in given if get_origin(kind) in LISTS and isinstance(value, list | tuple)]
    choices = [words for kind, words in given if get_origin(kind) is Literal and isinstance(value, str)]
    if telling := lists or choices or ([given[0][1]] if len(given) == 1 else []):
        return telling[0]
    hints = "".join(dict.fromkeys(_hint(value, kind, name) for kind, _ in given))
    return f"{name} is {' or '.join(dict.fromkeys(_called(kind) for kind, _ in given))}, not {_article(value)}.{hints}"


def _no_choice(value: Any, choices: tuple[Any, ...], name: str) -> str:
    near = difflib.get_close_matches(str(value), [str(each) for each in choices], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = repr(value)[:50] if isinstance(value, str) else f"of type {type(value).__name__}"
    return f"Invalid {name} {shown}: {hint}The choices: {', '.join(map(repr, choices))}."


def _single_text(value: str, name: str) -> str:
    return f"{name} is a list of column names, not a single text: write {name}=[{value!r:.100}]."


def _no_list(value: Any, kind: Any, name: str) -> str | None:
    plain = get_args(kind)[0] if get_origin(kind) is typing.Annotated else kind
    if isinstance(value, str) and plain is str:
        return _single_text(value, name) if name in COLUMNS else f"{name} is a list of texts: write {name}=[...]."
    if isinstance(value, str | bytes | collections.abc.Mapping) or not isinstance(value, collections.abc.Iterable):
        return f"{name} is a list, not {_article(value)}."
    if not isinstance(value, collections.abc.Collection):
        return None  # it can be gone through only once
    for each in value:
        if _misfit(each, plain, name):
            what = "column names" if name in COLUMNS else _plural(kind)
            return f"{name} is a list of {what}, and has {_article(each)}."
        if plain is not kind and (words := _misfit(each, kind, f"A name in {name}")):
            return words
    return None


COLUMNS = ("key", "partition_by", "cluster_by", "columns", "allow_loss")
"""The arguments that are names of columns."""


def _plural(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_plural, get_args(kind)))
    return {str: "texts", int: "numbers", PurePath: "paths"}.get(kind, f"{_called(kind)} each")


def _no_tuple(value: Any, kinds: tuple[Any, ...], name: str) -> str | None:
    if not isinstance(value, tuple | list):
        return f"{name} is a tuple, not {_article(value)}."
    if len(kinds) == 2 and kinds[1] is Ellipsis:  # noqa: PLR2004 (a tuple of any length)
        return _no_list(value, kinds[0], name)
    if len(value) != len(kinds):
        return f"{name} has {len(value)} values, and takes {len(kinds)}."
    return next((words for each, kind in zip(value, kinds, strict=True) if (words := _misfit(each, kind, name))), None)


def _no_mapping(value: Any, kinds: tuple[Any, ...], name: str) -> str | None:
    if not isinstance(value, collections.abc.Mapping):
        return f"{name} is a dictionary, not {_article(value)}."
    for key, each in value.items():
        if words := _misfit(key, kinds[0], f"A key of {name}"):
            return words
        if words := _misfit(each, kinds[1], f"{name}[{key!r:.50}]"):
            return words
    return None


def _out_of_range(value: Any, rules: list[Any], name: str) -> str | None:
    bounds = [
        part for rule in rules for part in (rule if isinstance(rule, annotated_types.GroupedMetadata) else [rule])
    ]
    low = next((each.ge for each in bounds if isinstance(each, annotated_types.Ge)), None)
    high = next((each.le for each in bounds if isinstance(each, annotated_types.Le)), None)
    if (low is None or value >= low) and (high is None or value <= high):
        return None
    return f"{name} is {value}, and has to be at least {low}{'' if high is None else f' and at most {high}'}."


def _not_valid(value: Any, rules: list[Any], name: str) -> str | None:
    for rule in rules:
        if isinstance(rule, AfterValidator):
            try:
                cast("Callable[[Any], Any]", rule.func)(value)
            except ValueError as error:
                return f"{name} {error}."
    return None


# What an annotation means


@functools.cache
def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the types of the parameters. One that cannot be found, as its library is not installed, is `Any`."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        kind = parameter.annotation
        if isinstance(kind, str):
            try:
                kind = eval(kind, {"__builtins__": builtins}, _Names(function))  # noqa: S307 (the code's own text)
            except Exception:  # noqa: BLE001 (it may be of a library that is not installed, or of anybody's making)
                kind = Any
        if kind is not inspect.Parameter.empty:
            found[name] = kind
    return found


class _Names(dict[str, Any]):
    """What the names in a function's annotations mean: its globals, and what its module imports for type checkers."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(getattr(function, "__globals__", {}))
        self._module = function.__module__

    def __missing__(self, name: str) -> Any:
        source, attribute = _type_checking_imports(self._module)[name]
        module = importlib.import_module(source)
        return module if attribute is None else getattr(module, attribute)


@functools.cache
def _type_checking_imports(module: str) -> Mapping[str, tuple[str, str | None]]:
    """Return what a module imports under `if TYPE_CHECKING`: by name the module, and the attribute of it."""
    found: dict[str, tuple[str, str | None]] = {}
    for statement in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for each in statement.body:
                if isinstance(each, ast.ImportFrom):
                    found |= {alias.asname or alias.name: (str(each.module), alias.name) for alias in each.names}
                elif isinstance(each, ast.Import):
                    found |= {alias.asname or alias.name: (alias.name, None) for alias in each.names}
    return found


def _classes(kind: Any, base: type[BaseModel]) -> Iterator[Any]:
    """Return the classes of a kind within an annotation."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, base):
            yield each
