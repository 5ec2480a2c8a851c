"""Python's values as Arrow arrays: each is the same one there, or is an error that says what is wrong with it.

Arrow takes a type from the first values and makes the later ones fit it: it cuts the time off a datetime beside dates,
takes text for bytes, forgets whether a moment has a zone, and rounds the nanoseconds of pandas.
"""

from __future__ import annotations

import datetime as dt
import enum
import numbers
from collections.abc import Mapping
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.names import has_surrogates
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

MISSING = ("NaTType", "NAType")
"""pandas' own nulls, by the names of their types."""
DECIMALS, DIGITS = 9, 38
"""Room for the decimals of the next rows; Python's own do not say how many digits a column has."""
LISTS = (list, tuple, set, frozenset)


def array_of(name: str, values: Sequence[Any], first_row: int = 1) -> pa.Array:
    """Return the values of a column.

    Args:
        name: The column, for messages.
        values: The values.
        first_row: The number of the first of them, for messages.

    Raises:
        InvalidInputError: They are not of one type, or of one that Arrow lacks.
    """
    if missing := {kind for kind in set(map(type, values)) if kind.__name__ in MISSING}:
        values = [None if type(value) in missing else value for value in values]
    try:
        array = pa.array(values)
        kind = array.type
        if pa.types.is_nested(kind) or pa.types.is_temporal(kind) or pa.types.is_binary(kind):
            forms = _forms(values)
            if any(len(each) > 1 or ZONED_TIME in each for each in forms.values()):
                raise _forms_error(name, forms)
            if _have_nanoseconds(values):
                kind = _with_nanoseconds(kind)
                array = pa.array(values, kind)
        roomy = _with_room(kind)
        return array if roomy == array.type else pa.array(values, roomy)
    except InvalidInputError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their words hold values
        raise column_error(name, values, first_row) from None


def column_error(name: str, values: Iterable[Any], first_row: int = 1) -> InvalidInputError:
    """Return the error for values that are not of one type that Arrow has."""
    first: tuple[int, str] | None = None
    for row, value in enumerate(values, first_row):
        if value is None:
            continue
        if (words := _fault(value)) is not None:
            return InvalidInputError(f"Column {name!r}, row {row} of the data: {words}")
        kind = type(value).__name__
        if first is None or (first[1], kind) in (("int", "float"), ("int", "Decimal")):
            first = (row, kind)
        elif kind != first[1] and {kind, first[1]} not in ({"float", "int"}, {"Decimal", "int"}):
            return InvalidInputError(
                f"Column {name!r} has no one type: row {first[0]} of the data has a value of type {first[1]}, and row "
                f"{row} one of type {kind}. Convert them to one type before."
            )
    return InvalidInputError(
        f"Column {name!r} has no one type: its values{f' of type {first[1]}' if first else ''} are, or hold, several "
        "types, or one that Arrow lacks. Convert them to one type before."
    )


def _fault(value: Any) -> str | None:  # noqa: PLR0911 (one fault a line)
    """Return what is wrong with a single value, None where it is not known to be wrong."""
    if isinstance(value, str) and has_surrogates(value):
        return "the text has half of a surrogate pair, which is not a character. Correct it."
    if isinstance(value, enum.Enum) and not isinstance(value, str | int):
        return f"an enum of type {type(value).__name__} is an object. Pass its value: {type(value).__name__}.X.value."
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "the integer is larger than 64 bits. Pass it as decimal.Decimal, which holds 38 digits, or as text."
    if isinstance(value, complex):
        return "no column holds complex numbers. Pass the real and the imaginary parts as two columns."
    if isinstance(value, Decimal) and not value.is_finite():
        return "the Decimal is not finite. Pass None, or floats."
    if isinstance(value, Mapping) and any(not isinstance(key, str) for key in value):
        return "a dictionary in it has keys that are no text. Pass text for keys."
    return None


ZONED_TIME = "time with a zone"


def _forms(values: Iterable[Any], path: str = "", found: dict[str, set[str]] | None = None) -> dict[str, set[str]]:
    """Return which kinds of values there are, by their place within dictionaries and lists."""
    found = {} if found is None else found
    by_type: dict[type, list[Any]] = {}
    for value in values:
        by_type.setdefault(type(value), []).append(value)
    for kind, same in by_type.items():
        if issubclass(kind, Mapping):
            for key in {key for each in same for key in each}:
                _forms((each[key] for each in same if key in each), f"{path}.{key}", found)
        elif issubclass(kind, LISTS):
            _forms(chain.from_iterable(same), f"{path}[]", found)
        elif forms := _forms_of(kind, same):
            found.setdefault(path, set()).update(forms)
    return found


def _forms_of(kind: type, values: Iterable[Any]) -> set[str]:  # noqa: PLR0911 (one kind a line)
    if issubclass(kind, str):
        return {"text"}
    if issubclass(kind, bytes | bytearray | memoryview):
        return {"bytes"}
    if issubclass(kind, dt.datetime):
        return {"datetime without a zone" if value.tzinfo is None else "datetime with a zone" for value in values}
    if issubclass(kind, dt.date):
        return {"date"}
    if issubclass(kind, dt.time):
        return {"time" if value.tzinfo is None else ZONED_TIME for value in values}
    if issubclass(kind, type(None)):
        return set()
    if issubclass(kind, numbers.Number | Decimal) and not issubclass(kind, bool):
        return {"numbers"}
    return {"datetime without a zone" if kind.__name__ == "datetime64" else kind.__name__}


def _forms_error(name: str, forms: Mapping[str, set[str]]) -> InvalidInputError:
    path, several = next((path, each) for path, each in forms.items() if len(each) > 1 or ZONED_TIME in each)
    if len(several) == 1:
        words = f"has a {ZONED_TIME}, and no column keeps that zone. Pass datetimes, or text."
    else:
        words = f"has no one type: it holds {' and '.join(sorted(several))}. Convert them to one type before."
    return InvalidInputError(f"Column {name + path!r} {words}")


def _have_nanoseconds(values: Iterable[Any]) -> bool:
    """Tell whether pandas' Timestamps or Timedeltas are finer than a microsecond."""
    for value in values:
        if isinstance(value, (Mapping, *LISTS)):
            if _have_nanoseconds(value.values() if isinstance(value, Mapping) else value):
                return True
        elif getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
            return True
    return False


def _with_nanoseconds(kind: pa.DataType) -> pa.DataType:
    return _leaves(
        kind, {"timestamp": lambda each: pa.timestamp("ns", each.tz), "duration": lambda _: pa.duration("ns")}
    )


def _with_room(kind: pa.DataType) -> pa.DataType:
    """Return the type with room for more digits in its decimals."""

    def roomy(each: pa.DataType) -> pa.DataType:
        scale = max(each.scale, DECIMALS if each.precision - each.scale <= DIGITS - DECIMALS else 0)
        fits = pa.types.is_decimal128(each) and each.precision - each.scale <= DIGITS - scale
        return pa.decimal128(DIGITS, scale) if fits else each

    return _leaves(kind, {"decimal": roomy})


def _leaves(kind: pa.DataType, change: Mapping[str, Any]) -> pa.DataType:
    """Return the type with what is within lists and structs changed, by the first word of its name."""
    types = pa.types
    if types.is_list(kind):
        return pa.list_(_leaves(kind.value_type, change))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_leaves(field.type, change)) for field in kind])
    for word, changed in change.items():
        if str(kind).startswith(word):
            return changed(kind)
    return kind
