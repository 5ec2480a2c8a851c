"""Tables of what people hold in memory: pandas and polars frames, rows as dictionaries."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.names import has_surrogates
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    import polars as pl
    import pyarrow as pa
else:
    pa = lazy("pyarrow")


def is_pandas(data: object) -> bool:
    """Tell whether it is a pandas frame, or of a class that is one, such as a GeoDataFrame."""
    return any(
        kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas" for kind in type(data).__mro__
    )


def is_polars(data: object) -> bool:
    """Tell whether it is a polars frame."""
    return type(data).__name__ == "DataFrame" and type(data).__module__.partition(".")[0] == "polars"


def from_pandas(frame: pd.DataFrame) -> pa.Table:
    """Convert a pandas frame. An index that has a name becomes columns, as `to_sql` does; one without is left out.

    Raises:
        InvalidInputError: A column has no name or several, comes twice, or holds values of more than one type.
    """
    if any(name is not None for name in frame.index.names):
        own = [f"level_{at}" if name is None else name for at, name in enumerate(frame.index.names)]
        if taken := [name for name in own if name in frame.columns]:
            raise InvalidInputError(
                f"The frame has {taken[0]!r} both as an index and as a column. Rename one of them, or drop the index: "
                "frame.reset_index(drop=True)."
            )
        frame = frame.reset_index()
    for name in frame.columns:
        if isinstance(name, tuple):
            raise InvalidInputError(
                f"The frame's columns have several names each, such as {name!r}. Join them: "
                "frame.columns = ['_'.join(names) for names in frame.columns]."
            )
        if name is None or name != name:  # noqa: PLR0124 (NaN)
            raise InvalidInputError(
                f"Column {list(frame.columns).index(name) + 1} of the frame has no name. Set frame.columns."
            )
    names = [str(name) for name in frame.columns]
    _check_once(names)
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their words hold values
        raise _mixed(names, lambda at: pa.Array.from_pandas(frame.iloc[:, at])) from None
    return table.replace_schema_metadata(None)


def from_polars(frame: pl.DataFrame) -> pa.Table:
    """Convert a polars frame.

    Raises:
        InvalidInputError: A column holds Python objects, which polars would hand out as addresses in memory.
    """
    for name, kind in frame.schema.items():
        if _holds_objects(kind):
            raise InvalidInputError(
                f"Column {name!r} of the frame holds Python objects (polars' Object). Cast it, or leave it out."
            )
    try:
        return pa.table(frame)
    except pa.ArrowException:
        raise _mixed(frame.columns, lambda at: pa.table(frame.select(frame.columns[at]))) from None


def from_rows(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Convert rows. The columns are all keys, in the order in which they first come; a key that a row lacks is null.

    Raises:
        InvalidInputError: A key is not text, or its values are of more than one type.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InvalidInputError(f"The rows have a key of type {type(odd[0]).__name__}. The names of columns are text.")
    _check_once(names)

    def column(at: int) -> pa.Array:
        return pa.array([row.get(names[at]) for row in rows])

    try:
        return pa.table({name: column(at) for at, name in enumerate(names)})
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise _mixed(names, column) from None


def _check_once(names: Sequence[str]) -> None:
    if odd := [name for name in names if has_surrogates(name)]:
        raise InvalidInputError(f"The name {odd[0]!r} of a column has half of a surrogate pair, which is no character.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InvalidInputError(f"The frame has more than one column {repeated[0]!r}. Rename or drop all but one.")


def _mixed(names: Sequence[str], convert: Callable[[int], pa.Array]) -> InvalidInputError:
    """Return the error that names the column which has no Arrow type."""
    for at, name in enumerate(names):
        try:
            convert(at)
        except Exception:  # noqa: BLE001 (whatever it is, this is the column)
            return InvalidInputError(
                f"Column {name!r} has no one type: its values are of several types, of one that Arrow lacks, or too "
                "large for 64 bits. Convert them to one type before."
            )
    return InvalidInputError("The data has no form as a table. Convert its columns to one type each before.")


def _holds_objects(kind: Any) -> bool:
    if kind.base_type().__name__ == "Object":
        return True
    inner = [kind.inner] if getattr(kind, "inner", None) is not None else []
    return any(map(_holds_objects, [*inner, *(field.dtype for field in getattr(kind, "fields", ()))]))
