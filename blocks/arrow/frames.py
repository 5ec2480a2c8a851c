"""Tables of what people hold in memory: frames and columns of pandas and polars, dictionaries, lists."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from blocks.arrow.python_values import array_of, column_error
from blocks.base.errors import InvalidInputError
from blocks.base.names import has_surrogates
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    import polars as pl
    import pyarrow as pa
else:
    pa = lazy("pyarrow")


PLAIN_CATEGORIES = ("string", "integer", "floating", "boolean", "datetime64", "timedelta64", "empty")
"""What the categories of pandas may be for Arrow to take them as they are, by pandas' names."""


def is_pandas(data: object) -> bool:
    """Tell whether it is a pandas frame, or of a class that is one, such as a GeoDataFrame."""
    return _is_of(data, "pandas", "DataFrame")


def is_polars(data: object) -> bool:
    """Tell whether it is a polars frame."""
    return _is_of(data, "polars", "DataFrame")


def _is_of(data: object, library: str, name: str) -> bool:
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == library for kind in type(data).__mro__)


def table_of(data: Any) -> pa.Table | None:
    """Return the table of a frame, an Arrow table or batch, or a column that has a name; None for anything else.

    Raises:
        InvalidInputError: A column has no name, comes twice, or has no one type.
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if is_pandas(data):
        return from_pandas(data)
    if is_polars(data):
        return from_polars(data)
    for library, convert in (("pandas", from_pandas), ("polars", from_polars)):
        if _is_of(data, library, "Series"):
            if data.name in (None, ""):
                raise InvalidInputError("The Series has no name, and a column needs one: series.rename('name').")
            return convert(data.to_frame())
    return None


def from_pandas(frame: pd.DataFrame) -> pa.Table:
    """Convert a pandas frame. An index that has a name becomes columns, as `to_sql` does; one without is left out.

    Arrow has no type for some columns: periods become text, intervals structs of `left`, `right` and `closed`.

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
    own_columns = {at: column for at in range(len(names)) if (column := _own_column(frame.iloc[:, at], names[at]))}
    others = [at for at in range(len(names)) if at not in own_columns]
    try:
        table = pa.Table.from_pandas(frame.iloc[:, others], preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their words hold values
        raise _mixed([names[at] for at in others], lambda at: pa.Array.from_pandas(frame.iloc[:, others[at]])) from None
    columns = own_columns | dict(zip(others, table.columns, strict=True))
    return pa.table([columns[at] for at in range(len(names))], names=names)


def _own_column(series: pd.Series, name: str) -> pa.Array | None:  # noqa: PLR0911 (one kind a line)
    """Return a column that pyarrow cannot convert, or would not convert value by value; None for all others."""
    kind = series.dtype
    if type(kind).__name__ == "CategoricalDtype":
        if kind.categories.inferred_type in PLAIN_CATEGORIES:
            return None
        categories = kind.categories.to_series(index=range(len(kind.categories)))
        values = _own_column(categories, name)
        codes = pa.array(series.cat.codes.to_numpy(), mask=series.isna().to_numpy())
        return None if values is None else values.take(codes)
    if getattr(kind, "kind", "") == "c":
        raise column_error(name, series.tolist())
    missing = series.isna().to_numpy()
    match type(kind).__name__:
        case "PeriodDtype":
            return pa.array(series.astype(str).to_numpy(object), pa.string(), mask=missing)
        case "IntervalDtype":
            ends = [pa.Array.from_pandas(end) for end in (series.array.left, series.array.right)]
            closed = pa.repeat(series.array.closed, len(series))
            return pa.StructArray.from_arrays([*ends, closed], ["left", "right", "closed"], mask=pa.array(missing))
        case "SparseDtype":
            return pa.Array.from_pandas(series.sparse.to_dense())
    if str(kind) == "object":
        return array_of(name, [None if none else value for value, none in zip(series, missing, strict=True)])
    return None


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


def from_rows(rows: Sequence[Mapping[str, Any]], first_row: int = 1) -> pa.Table:
    """Convert rows. The columns are all keys, in the order in which they first come; a key that a row lacks is null.

    Raises:
        InvalidInputError: A key is not text, or its values are of more than one type.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if odd := [name for name in names if not isinstance(name, str)]:
        raise InvalidInputError(f"The rows have a key of type {type(odd[0]).__name__}. The names of columns are text.")
    _check_once(names)
    return pa.table({name: array_of(name, [row.get(name) for row in rows], first_row) for name in names})


def from_columns(columns: Mapping[str, Any]) -> pa.Table:
    """Convert columns by name: lists, tuples, arrays of numpy or Arrow, columns of pandas or polars.

    Raises:
        InvalidInputError: A name is not text, a value is not a column, or they are not of one length.
    """
    if odd := [name for name in columns if not isinstance(name, str)]:
        raise InvalidInputError(
            f"The dictionary has a key of type {type(odd[0]).__name__}. The names of columns are text."
        )
    _check_once(list(columns))
    arrays = {name: _column(name, values) for name, values in columns.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidInputError(f"The columns are not of one length: {lengths}.")
    return pa.table(arrays)


def _column(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    for library, convert in (("pandas", from_pandas), ("polars", from_polars)):
        if _is_of(values, library, "Series"):
            plain = values.reset_index(drop=True) if library == "pandas" else values
            return convert(plain.to_frame(name))[name]
    if type(values).__module__ == "numpy" and values.ndim == 1 and values.dtype != object:
        try:
            return pa.array(values)
        except (pa.ArrowException, TypeError, ValueError):
            raise column_error(name, values.tolist()) from None
    if isinstance(values, list | tuple) or type(values).__module__ == "numpy":
        return array_of(name, list(values))
    raise InvalidInputError(
        f"A dictionary is taken for columns by name, and {name!r} is of type {type(values).__name__}, which is no "
        "list. Pass {name: [values], ...}, or one row as [row]."
    )


def _check_once(names: Sequence[str]) -> None:
    if odd := [name for name in names if has_surrogates(name)]:
        raise InvalidInputError(f"The column name {odd[0]!r} has half of a surrogate pair, which is not a character.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InvalidInputError(f"The frame has more than one column {repeated[0]!r}. Rename or drop all but one.")


def _mixed(names: Sequence[str], convert: Callable[[int], Iterable[Any]]) -> InvalidInputError:
    """Return the error that names the column which has no Arrow type."""
    for at, name in enumerate(names):
        try:
            convert(at)
        except Exception:  # noqa: BLE001 (whatever it is, this is the column)
            return InvalidInputError(
                f"Column {name!r} is of a type that Arrow lacks. Convert it before, to decimals or text for example."
            )
    return InvalidInputError("The data has no form as a table. Convert its columns to one type each before.")


def _holds_objects(kind: Any) -> bool:
    if kind.base_type().__name__ == "Object":
        return True
    inner = [kind.inner] if getattr(kind, "inner", None) is not None else []
    return any(map(_holds_objects, [*inner, *(field.dtype for field in getattr(kind, "fields", ()))]))
