"""Values that flows and tasks take as parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class Parameter:
    """A base of dataclasses that are parameters of flows as they are.

    Prefect has pydantic validate what a flow is given, which would take a dataclass apart: it has to be able to name
    the type of each field, and makes a copy.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """It is one of these, or it is refused."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)
