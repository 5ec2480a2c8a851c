"""Keys of cached results: what Prefect's policy INPUTS, which its default holds, tells inputs of a kind apart by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.cache_policies import STABLE_TRANSFORMS
from prefect.context import TaskRunContext

if TYPE_CHECKING:
    from collections.abc import Callable


def key_by_identity(kind: type, identity: Callable[[Any], str], label: Callable[[Any], str]) -> None:
    """Have results that are cached by their inputs tell inputs of this type apart by their identity.

    Args:
        kind: The type; subclasses are registered on their own.
        identity: Returns a text without secrets, the same in every process, and another one for any other data. It may
            ask where the data is, and so is called only where a result is kept.
        label: Returns what stands for the input where no result is kept; Prefect asks for a key there, too.
    """

    def transform(value: Any) -> str:
        context = TaskRunContext.get()
        return label(value) if context is not None and not context.persist_result else identity(value)

    STABLE_TRANSFORMS[kind] = transform
