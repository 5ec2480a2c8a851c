"""Text to typed Arrow columns, and the reason for each value that does not fit. Nothing is rounded or cut."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from blocks.arrow.columns import is_text
from blocks.arrow.types import is_number
from blocks.base.errors import TypeLossError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blocks.files.options import Epoch

    Cast = Callable[[pa.Array], pa.Array]

NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
EPOCH_NUMBER = r"^\s*(?P<whole>-?\d+)(?:\.(?P<fraction>\d*))?\s*$"
UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
"""How many digits of a second a timestamp's unit holds."""
LAST_YEAR = 9999
NOT_UTF8 = "not UTF-8"
TRUE, FALSE = ("1", "true", "True", "TRUE"), ("0", "false", "False", "FALSE")
DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})",
    "m": r"(?P<m>\d{1,2})",
    "d": r"(?P<d>\d{1,2})",
    "H": r"(?P<H>\d{1,2})",
    "M": r"(?P<M>\d{1,2})",
    "S": r"(?P<S>\d{1,2})",
    "f": r"(?P<f>\d{1,9})",
    "z": r"(?P<z>Z|[-+]\d{2}:?\d{2})",
}


def is_time(kind: pa.DataType) -> bool:
    """Tell whether its values are points in time, which `timestamp_formats` is about."""
    return bool(types.is_date(kind) or types.is_timestamp(kind))


def applicable(kind: pa.DataType, formats: Sequence[str]) -> list[str]:
    """Return the formats that fit a column of this type: %H only for timestamps, %z exactly for zoned ones."""
    if types.is_date(kind):
        return [text for text in formats if "%H" not in text]
    if types.is_timestamp(kind):
        return [text for text in formats if ("%z" in text) == (kind.tz is not None)]
    return []


def caster(  # noqa: PLR0911 (one kind of type a line)
    kind: pa.DataType, *, formats: Sequence[str] = (), epoch: Epoch | None = None
) -> Cast:
    """Make a function from a string array to an array of `kind`, with the rules of Arrow's CSV reader.

    Blanks around numbers, dates and times do not count, nor does a plus before a number. The function raises
    `pa.ArrowInvalid` where a value does not fit; its message may hold the value.

    Args:
        kind: The type.
        formats: Those of dates and timestamps, where they are not written in ISO 8601.
        epoch: The unit of numbers that are timestamps.
    """
    if types.is_boolean(kind):
        return _booleans
    if types.is_time(kind):
        return lambda values: _times(values, kind)
    if is_number(kind):
        return lambda values: _valid(pc.cast(_unsigned(_trimmed(values)), kind))
    if epoch is not None and types.is_timestamp(kind):
        otherwise = caster(kind, formats=formats)
        return lambda values: _moments(values, kind, epoch, otherwise)
    if own := applicable(kind, formats):
        return lambda values: pc.cast(iso(values, own), kind)
    if types.is_date(kind):
        return lambda values: pc.cast(_trimmed(values), kind)
    if types.is_timestamp(kind):
        return lambda values: _iso_moments(values, kind)
    if isinstance(kind, pa.BaseExtensionType):
        return lambda values: pa.ExtensionArray.from_storage(kind, pc.cast(values, kind.storage_type))
    return lambda values: pc.cast(values, kind)


def _valid(values: pa.Array) -> pa.Array:
    values.validate(full=True)
    return values


def _trimmed(values: pa.Array) -> pa.Array:
    return pc.ascii_trim(values, " \t")


def _unsigned(values: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(values, r"^\+([\d.])", r"\1")


def _moments(values: pa.Array, kind: pa.DataType, epoch: Epoch, otherwise: Cast) -> pa.Array:
    """Return timestamps of texts that are numbers, counted from 1970-01-01 UTC, and of others by `otherwise`."""
    numbers = pc.match_substring_regex(values, EPOCH_NUMBER)
    parts = pc.extract_regex(values, EPOCH_NUMBER)
    unit = max(epoch, kind.unit, key=list(UNIT_DIGITS).index)
    digits = UNIT_DIGITS[unit] - UNIT_DIGITS[epoch]
    fraction = pc.replace_substring_regex(pc.struct_field(parts, "fraction"), "0+$", "")
    if pc.any(pc.greater(pc.binary_length(fraction), digits)).as_py():
        raise pa.ArrowInvalid("more digits than the type holds")
    whole = pc.binary_join_element_wise(pc.struct_field(parts, "whole"), pc.utf8_rpad(fraction, digits, "0"), "")
    counted = pc.cast(pc.cast(pc.cast(whole, pa.int64()), pa.timestamp(unit, kind.tz)), kind)
    return pc.coalesce(counted, otherwise(pc.if_else(numbers, pa.scalar(None, values.type), values)))


def _booleans(values: pa.Array) -> pa.Array:
    truth = pc.is_in(values, pa.array(TRUE))
    known = pc.or_(truth, pc.is_in(values, pa.array(FALSE)))
    if not pc.all(pc.or_(known, pc.is_null(values)), min_count=0).as_py():
        raise pa.ArrowInvalid("not a boolean")
    return pc.if_else(pc.is_null(values), pa.scalar(None, pa.bool_()), truth)


def _iso_moments(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast timestamps; digits of a second that the type does not hold may be zeros, as other systems print them."""
    try:
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        digits = UNIT_DIGITS[kind.unit]
        held = rf"(\.\d{{{digits}}})" if digits else r"()\."
        return pc.cast(pc.replace_substring_regex(values, rf"{held}0+(Z|[-+]\d\d:?\d\d)?$", r"\1\2"), kind)


def _times(values: pa.Array, kind: pa.DataType) -> pa.Array:
    moments = pc.binary_join_element_wise("1970-01-01", _trimmed(values), " ")
    return pc.cast(pc.cast(moments, pa.timestamp(kind.unit)), kind)


def iso(values: pa.Array, formats: Sequence[str]) -> pa.Array:
    """Rewrite dates or timestamps in ISO 8601, by the first of `formats` that matches.

    Put together from the matched parts, because a `strptime` rolls 30 February over to 2 March.

    Raises:
        pa.ArrowInvalid: A value matches none of them.
    """
    result = pa.nulls(len(values), pa.string())
    for text in formats:
        parts = pc.extract_regex(pc.cast(values, pa.string()), format_regex(text))
        names = [field.name for field in parts.type]

        def part(name: str, width: int, parts: pa.Array = parts) -> pa.Array:
            return pc.utf8_lpad(pc.struct_field(parts, name), width, "0")

        found = pc.binary_join_element_wise(part("Y", 4), part("m", 2), part("d", 2), "-")
        if "H" in names:
            clock = [part(name, 2) if name in names else pa.scalar("00") for name in "HMS"]
            found = pc.binary_join_element_wise(found, pc.binary_join_element_wise(*clock, ":"), " ")
            if "f" in names:
                found = pc.binary_join_element_wise(found, pc.struct_field(parts, "f"), ".")
            if "z" in names:
                found = pc.binary_join_element_wise(found, pc.struct_field(parts, "z"), "")
        result = pc.coalesce(result, found)
    if result.null_count > values.null_count:
        raise pa.ArrowInvalid("matches no format")
    return result


def format_regex(text: str) -> str:
    r"""Return the regular expression of a timestamp format.

    >>> format_regex("%d.%m.%Y")
    '^(?P<d>\\d{1,2})\\.(?P<m>\\d{1,2})\\.(?P<Y>\\d{4})$'
    """
    head, *rest = text.split("%")
    return f"^{re.escape(head)}" + "".join(DIRECTIVES[part[0]] + re.escape(part[1:]) for part in rest) + "$"


def convert(
    values: pa.Array, field: pa.Field, cast: Cast, *, shaped: bool = True, inferred: bool = False
) -> tuple[pa.Array, dict[int, str]]:
    """Cast `values`, and return them with the reason by row for those that do not fit, which are null in the result.

    Args:
        values: Strings, or bytes that should be strings; null stays null.
        field: The column: its name for the reasons, its type for their kind.
        cast: See `caster`.
        shaped: Whether the usual spelling of the type can be used to find most bad values at once.
        inferred: Whether `cast` takes only the spelling that the column's type was inferred from.
    """
    try:
        return cast(values), {}
    except pa.ArrowInvalid:
        pass
    likely = values
    shape = shape_of(field.type) if shaped and is_text(values.type) else None
    surely: list[int] = []
    if shape is not None:
        fits = pc.match_substring_regex(values, shape)
        surely = pc.indices_nonzero(pc.invert(pc.fill_null(fits, fill_value=True))).to_pylist()
        likely = pc.if_else(fits, values, pa.scalar(None, values.type))
    bad = sorted([*surely, *misfits(likely, cast)])
    mask = np.zeros(len(values), dtype=bool)
    mask[bad] = True
    good = pc.if_else(pa.array(mask), pa.scalar(None, values.type), values)
    return cast(good), {row: reason(values[row].as_py(), field, inferred=inferred) for row in bad}


def misfits(values: pa.Array, cast: Cast, start: int = 0) -> list[int]:
    """Find the rows that `cast` refuses, by halving: the work grows with their number, not with that of all rows."""
    try:
        cast(values)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return [start]
    else:
        return []
    half = len(values) // 2
    return misfits(values[:half], cast, start) + misfits(values[half:], cast, start + half)


def shape_of(kind: pa.DataType) -> str | None:
    """Return a regular expression that every acceptable text of the type matches; None where there is no useful one."""
    if types.is_integer(kind):
        digits = len(str(2**kind.bit_width))
        return rf"^\s*([-+]?\d{{1,{digits}}}|[-+]?0\d*|0[xX][0-9a-fA-F]+)\s*$"
    if types.is_decimal(kind):
        whole, scale = max(kind.precision - kind.scale, 0), max(kind.scale, 0)
        return rf"^\s*[-+]?(0*\d{{0,{whole}}}(\.\d{{0,{scale}}}0*)?|[\d.]+[eE][-+]?\d+)\s*$"
    if types.is_date(kind):
        return r"^\s*\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\s*$"
    if types.is_floating(kind):
        return r"^\s*([-+]?[\d.]+([eE][-+]?\d+)?|[-+]?[nNiI].*)\s*$"
    return None


def reason(value: str | bytes, field: pa.Field, *, inferred: bool = False) -> str:
    """Say why `value` does not fit `field`, in a few words that do not hold it."""
    if isinstance(value, bytes):
        return NOT_UTF8
    if inferred and not misfits(pa.array([value]), caster(field.type)):
        return f"{field.name} is written in another form than in the rows before"
    return f"{field.name} {_fault(value, field.type)}"


def _fault(value: str, kind: pa.DataType) -> str:
    if types.is_integer(kind) or types.is_decimal(kind) or types.is_floating(kind):
        return _number_fault(value.strip(), kind)
    if types.is_boolean(kind):
        return "is not true or false"
    if types.is_timestamp(kind) and kind.tz is not None and re.match(r"^\d{4}-\d\d-\d\d[ T][\d:.]+$", value):
        return "has no time zone"
    if types.is_timestamp(kind) and re.match(rf"^\s*\d{{4}}-[^.]*\.\d{{{UNIT_DIGITS[kind.unit] + 1},9}}", value):
        return f"has more digits of a second than a {kind} holds"
    words = {"date": types.is_date, "timestamp": types.is_timestamp, "time": types.is_time}
    return f"is not a {next((word for word, matches in words.items() if matches(kind)), kind)}"


def _number_fault(text: str, kind: pa.DataType) -> str:
    if types.is_floating(kind) or not re.match(NUMBER, text, re.ASCII):
        return "is not a number"
    if types.is_integer(kind):
        return "is out of range" if text.lstrip("+-").isdigit() else "is not an integer"
    decimals = text.split(".")[1:]
    return (
        f"has more than {kind.scale} decimals"
        if decimals and len(decimals[0].rstrip("0")) > kind.scale
        else "is out of range"
    )


def check_values(field: pa.Field, values: pa.Array, form: str) -> None:
    """Check that the values can be written as text and read back.

    Raises:
        TypeLossError: A text holds a NUL character, or a year is not between 1 and 9999.
    """
    kind = field.type
    if types.is_dictionary(kind):
        values, kind = values.dictionary, kind.value_type
    if is_text(kind) and pc.any(pc.match_substring(values.cast(pa.large_string()), "\0")).as_py():
        raise TypeLossError(f"{form} cannot hold column {field.name!r}: a text has a NUL character. Write Parquet.")
    if is_time(kind) and len(values) > values.null_count:
        limits = pc.min_max(pc.year(values))
        if limits["min"].as_py() < 1 or limits["max"].as_py() > LAST_YEAR:
            raise TypeLossError(f"{form} cannot hold column {field.name!r}: a year is not between 1 and 9999.")
