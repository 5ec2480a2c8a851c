"""Values that flows and tasks take as parameters."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import WithJsonSchema

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


T = TypeVar("T")

Saved = Annotated[T | str | None, WithJsonSchema({"type": "string"})]
"""A block, or the name of a saved one: `source: Saved[ObjectStore] = None`.

In the form of a run it is a field for text, such as `etl-s3-bucket/raw`. A union would be a switch between types there,
of which an abstract one has no form.
"""
Day = Annotated[date | None, WithJsonSchema({"type": "string", "format": "date"})]
"""A day that may be left out: in the form of a run a field for a date, and no switch between that and None."""


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
