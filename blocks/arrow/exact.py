"""Casts of what was inferred from text: a value becomes another type where that is the same number, date or truth.

A file does not say its types, and a table that is there does. So a column that looks like text, like decimals or like
integers goes into a column of another type, value by value, where nothing but the spelling is lost.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from blocks.arrow.types import is_number
from blocks.base.optional import lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

TRUE, FALSE = ("1", "true", "True", "TRUE"), ("0", "false", "False", "FALSE")


def casts_exactly(source: pa.DataType, target: pa.DataType) -> bool:
    """Tell whether values of `source` can be cast by `cast_exactly`, of which each is checked.

    >>> import pyarrow as pa
    >>> casts_exactly(pa.string(), pa.int64()), casts_exactly(pa.float64(), pa.string())
    (True, False)
    """
    types = pa.types
    if types.is_string(source):
        return True  # in a column without any value it is the type of all that is not known
    if types.is_string(target):
        return bool(types.is_integer(source) or types.is_decimal(source) or types.is_date(source))
    return is_number(source) and is_number(target)


def cast_exactly(values: pa.Array, target: pa.DataType) -> pa.Array:
    """Return the values in another type.

    Raises:
        pyarrow.ArrowInvalid: A value is not the same there; its words may hold the value.
    """
    types = pa.types
    if values.null_count == len(values):
        return pa.nulls(len(values), target)
    is_temporal = types.is_temporal(target) and not (types.is_duration(target) or types.is_interval(target))
    if not (is_temporal or is_number(target) or types.is_boolean(target) or types.is_string(target)):
        raise pa.ArrowInvalid("no text of it is known")
    texts = pc.cast(values, pa.string())
    if types.is_string(target):
        return texts
    if types.is_boolean(target):
        return _truths(texts)
    if types.is_time(target):
        moments = pc.binary_join_element_wise("1970-01-01", texts, " ")
        return pc.cast(pc.cast(moments, pa.timestamp(target.unit)), target)
    if not is_number(target):
        return pc.cast(texts, target)
    texts = pc.replace_substring_regex(texts, r"^\+", "")
    if pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
        raise pa.ArrowInvalid("hexadecimal")
    numbers = pc.cast(texts, target)
    numbers.validate(full=True)
    if types.is_floating(target) and not _are_equal(pc.cast(numbers, pa.string()), texts):
        raise pa.ArrowInvalid("not exactly a float")
    return numbers


def _truths(texts: pa.Array) -> pa.Array:
    true, false = (pc.is_in(texts, pa.array(words)) for words in (TRUE, FALSE))
    if not pc.all(pc.or_(pc.or_(true, false), pc.is_null(texts)), min_count=0).as_py():
        raise pa.ArrowInvalid("not a boolean")
    return pc.if_else(pc.is_null(texts), pa.scalar(None, pa.bool_()), true)


def _are_equal(numbers: pa.Array, texts: pa.Array) -> bool:
    """Tell whether texts are the same numbers; nearly all are when zeros at their ends are left out."""
    numbers, texts = numbers.drop_null(), texts.drop_null()
    unlike = pc.not_equal(_without_zeros(numbers), _without_zeros(texts))
    pairs = zip(numbers.filter(unlike).to_pylist(), texts.filter(unlike).to_pylist(), strict=True)
    try:
        return all(Decimal(number) == Decimal(text) for number, text in pairs)
    except InvalidOperation:
        return False


def _without_zeros(texts: pa.Array) -> pa.Array:
    texts = pc.replace_substring_regex(texts, r"^(-?)0+(\d)", r"\1\2")
    return pc.replace_substring_regex(texts, r"(\.\d*[1-9])0+$|\.0*$", r"\1")
