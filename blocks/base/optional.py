"""Packages that are imported on first use: drivers by `require`, heavy libraries by `lazy`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blocks.base.errors import MissingDriverError

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import a driver and return its module.

    Raises:
        MissingDriverError: It is not installed; the message holds the pip line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingDriverError(
            f"{module} is not installed. Install it with: pip install 'etl-blocks[{extra}]'"
        ) from None


class lazy:  # noqa: N801 (reads as a function: pa = lazy("pyarrow"))
    """A module that is imported at the first use of one of its names, so that building a block stays cheap."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __reduce__(self) -> tuple[type[lazy], tuple[str]]:
        return lazy, (self._module,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what pickle, copy and inspect look for is asked of this object, not of the module
            raise AttributeError(name)
        return getattr(importlib.import_module(self._module), name)
