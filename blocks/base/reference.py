"""What `help()` says of a class of blocks or options before anything else: its fields, and its operations in order."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

INDENT = " " * 4


def reference(kind: type[BaseModel]) -> str:
    """Return the docstring of a class with its fields and operations: those of its bases first, as they are defined."""
    parts = [inspect.cleandoc(kind.__doc__ or "")]
    # Those of the class itself before those that all blocks share.
    own = sorted(kind.model_fields, key=lambda name: name not in vars(kind).get("__annotations__", {}))
    if fields := [f"{INDENT}{name}: {kind.model_fields[name].description or ''}".rstrip(": ") for name in own]:
        parts.append("\n".join(["Args:", *fields]))
    operations = {
        name: value
        for base in reversed(kind.__mro__)
        for name, value in vars(base).items()
        if hasattr(value, "bound_signature")
    }
    if operations:
        lines = [f"{INDENT}{name}{_call(each)}: {_first_line(each)}" for name, each in operations.items()]
        title = "Operations (in a flow each is a task, and has submit, map, aio and with_options):"
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts) + "\n"


def _call(operation: Any) -> str:
    """Return how it is called: the names of its arguments, with their defaults."""
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in operation.bound_signature.parameters.values()]
    return str(inspect.Signature(bare))


def _first_line(operation: Any) -> str:
    return (operation.__doc__ or "").strip().partition("\n")[0]
