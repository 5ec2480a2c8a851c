"""Values that flows and tasks take as parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Parameter:
    """Base of the dataclasses that flows take as parameters, unchanged.

    Prefect lets pydantic validate parameters, and pydantic would take a dataclass apart: it resolves the type of each
    field and makes a copy.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """Accept instances of the class, and nothing else."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)
