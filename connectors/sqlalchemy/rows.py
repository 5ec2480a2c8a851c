"""What a statement returns: rows that are tuples and have names, and how many were changed."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(tuple[Any, ...]):  # noqa: SLOT001 (a tuple of any length has no slots)
    """A row: a tuple whose values have the names of the columns too, as SQLAlchemy's rows do.

    >>> row = Row((1, "Ada"), ("id", "name"))
    >>> row == (1, "Ada"), row.name, row._mapping["id"]
    (True, 'Ada', 1)
    """

    _fields: tuple[str, ...]

    def __new__(cls, values: Any, fields: tuple[str, ...]) -> Row:  # noqa: PYI034 (a tuple's own is not generic)
        """Return the values as a row with these names."""
        row = super().__new__(cls, values)
        row._fields = fields
        return row

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[self._fields.index(name)]
        except ValueError:
            raise AttributeError(f"The row has no column {name!r}; it has {', '.join(self._fields)}.") from None

    @property
    def _mapping(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _asdict(self) -> dict[str, Any]:
        return self._mapping

    def __reduce__(self) -> tuple[type[Row], tuple[tuple[Any, ...], tuple[str, ...]]]:
        return type(self), (tuple(self), self._fields)


class Executed(NamedTuple):
    """What a statement did.

    Attributes:
        rowcount: How many rows it changed; -1 where the driver does not say.
    """

    rowcount: int
