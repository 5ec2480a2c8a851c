"""The types of text that no schema declares: this is the one place that states the rule.

Every text of a column has one form. The forms of all of them decide the type, whatever file they stand in:

* int64: digits with an optional minus, no leading zero, within 64 bits.
* decimal(p, s): the same with a point and s digits behind it, s being one throughout; p is 18, or 38 where s > 9 or the
  digits need it.
* double: numbers of several scales, for each of which `Decimal(text) == Decimal(repr(value))`. No two different texts
  become one double: where scales differ, a trailing zero makes text (`1.10` beside `1.1`), but for `1.0`, which does so
  only beside numbers without a point. Exponents are numbers among themselves and beside points; beside integers they
  may be codes, and make text. An exponent's mantissa has one digit before its point.
* bool: true and false in one spelling of true, True and TRUE.
* date, timestamp: ISO 8601 or one of `timestamp_formats`, one format throughout; only the digits of a second's fraction
  may vary in number.
* text: everything else, also what is empty throughout.

The start of each file is looked at. `TextColumn.cast` holds everything behind it to the same rule: a text whose form
would have given the column another type is refused. So what is read is what a look at all of it would have given, or an
error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from blocks.files.numbers import NumberStyle
from blocks.files.values import caster, format_regex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Look = Callable[[pa.Array], tuple[pa.Array, set[str]]]
    """Finds texts of a kind: which they are, and their forms."""

INTEGER = r"^(0|-?[1-9]\d*)$"
FRACTION = r"^-?(0|[1-9]\d*)\.\d+$"
SCIENTIFIC = r"^-?([1-9](\.\d+)?|0(\.0+)?)[eE][-+]?\d+$"
SPELLINGS = {"lower": ("true", "false"), "title": ("True", "False"), "upper": ("TRUE", "FALSE")}
DATE = r"^\d{4}-\d\d-\d\d$"
MOMENT = r"^\d{4}-\d\d-\d\d(?P<mark>[ T])\d\d:\d\d(?P<seconds>:\d\d(?P<fraction>\.\d{1,9})?)?(?P<zone>Z|[-+][\d:]+)?$"

EXACT_DIGITS = 15
"""A number of so many digits is the shortest text of its double, whatever they are."""
FIRST_TEXTS = 256
"""Looked at first: they tell most columns that are text."""
USUAL_PRECISION, USUAL_SCALE, MAX_PRECISION = 18, 9, 38

TEXT, FINE = "text", "nanoseconds"
PLAIN = NumberStyle()


@dataclass(frozen=True)
class TextColumn:
    """What is known of a column by its texts.

    Args:
        forms: The forms of the texts that were looked at.
        formats: The `timestamp_formats` of the file.
        numbers: How the file writes its numbers.
        times_only: Whether numbers, true and false are texts as others are, as in JSON.
    """

    forms: frozenset[str] = frozenset()
    formats: tuple[str, ...] = ()
    numbers: NumberStyle = PLAIN
    times_only: bool = False

    def __or__(self, other: TextColumn) -> TextColumn:
        """Return what is known by the texts of both."""
        return replace(self, forms=self.forms | other.forms)

    def seen(self, texts: pa.Array) -> TextColumn:
        """Return what is known when these texts were looked at, too."""
        texts = texts.drop_null()
        column, rest = self._looked_at(texts[:FIRST_TEXTS]), texts[FIRST_TEXTS:]
        if TEXT in column.forms or not len(rest):
            return column
        if column.type in (pa.int64(), pa.date32(), pa.bool_()) or pa.types.is_timestamp(column.type):
            try:  # much faster than a look, and as good where a type has one form
                column.cast(rest)
            except pa.ArrowInvalid:
                pass
            else:
                return column
        return column._looked_at(rest)  # noqa: SLF001 (of the same class)

    def _looked_at(self, texts: pa.Array) -> TextColumn:
        looks: list[Look] = [_dates, _moments, partial(_by_formats, formats=self.formats)]
        if not self.times_only:
            looks = [*(partial(_as_number, look, self.numbers) for look in NUMBERS), _booleans, *looks]
        return replace(self, forms=self.forms | _forms(texts, looks))

    nullable = True

    @cached_property
    def type(self) -> pa.DataType:
        """The type of the column."""
        kinds = {form.partition(" ")[0] for form in self.forms}
        if kinds and kinds <= NUMERIC:
            return self._number(kinds)
        if len(self.forms - {FINE}) != 1:
            return pa.string()
        kind, *parts = min(self.forms - {FINE}).split()
        if kind == "moment":
            return pa.timestamp("ns" if FINE in self.forms else "us", "UTC" if parts[2:] else None)
        if kind == "format":
            return _format_type(self.formats[int(parts[0])])
        return {"bool": pa.bool_(), "date": pa.date32()}.get(kind, pa.string())

    def _number(self, kinds: set[str]) -> pa.DataType:
        if kinds <= {"integer", "inexact"}:
            return pa.int64()
        scales = {form.split()[1] for form in self.forms if form.startswith(("scale", "zeros"))}
        if kinds <= {"scale", "zeros", "inexact", "large"} and len(scales) == 1:
            scale = int(next(iter(scales)))
            usual = scale <= USUAL_SCALE and "large" not in self.forms
            return pa.decimal128(USUAL_PRECISION if usual else MAX_PRECISION, scale)
        if "inexact" in self.forms:
            return pa.string()
        exponents = {form.partition(" ")[2] for form in self.forms if form.startswith("exponent")}
        if kinds <= {"exponent"} and len({scale.split()[0] for scale in exponents}) == 1:
            return pa.float64()
        ambiguous = [form for form in self.forms if form.endswith("zeros") or form.startswith("zeros")]
        if ambiguous == ["zeros 1"] or not ambiguous:
            points = "integer" not in kinds or not (ambiguous or "exponent" in kinds)
            return pa.float64() if points else pa.string()
        return pa.string()

    @property
    def settled(self) -> TextColumn:
        """The same, with what may follow numbers of which all have a point, and none ends in .0 or has an exponent.

        Integers; or, where a computer wrote every digit of its doubles, those that it writes with .0 and exponents.
        """
        if self.type != pa.float64() or not all(form.startswith("scale") for form in self.forms):
            return self
        every_digit = any(int(form.split()[1]) >= EXACT_DIGITS - 1 for form in self.forms)
        return replace(self, forms=self.forms | {"zeros 1" if every_digit else "integer"})

    def cast(self, texts: pa.Array) -> pa.Array:
        """Return the texts in the type of the column.

        Raises:
            pa.ArrowInvalid: A text has a form that the column does not have; or the type cannot hold it.
        """
        if TEXT in self.forms or texts.null_count == len(texts):
            return pc.cast(texts, self.type)
        values, is_proven = self._cast(texts)
        if not is_proven and self.seen(texts).type != self.type:
            raise pa.ArrowInvalid("of another form")
        return values

    def _cast(self, texts: pa.Array) -> tuple[pa.Array, bool]:
        """Cast the texts, and tell whether that alone proves that every one has a form of the column."""
        kind, (form, *parts) = self.type, min(self.forms, default=" ").split(" ")
        if pa.types.is_boolean(kind):
            return _spelled(texts, SPELLINGS[parts[0]]), True
        if form == "format":
            return caster(kind, formats=(self.formats[int(parts[0])],))(texts), True
        if kind not in (pa.string(), pa.date32()) and not pa.types.is_timestamp(kind):
            numbers = self.numbers.plain(texts)
            values = pc.cast(numbers, kind)
            return values, self._are_numbers(texts, _Bytes(numbers), values)
        values = pc.cast(texts, kind)
        if pa.types.is_timestamp(kind):
            return values, kind.unit == "us" and _Bytes(texts).are_moments(*parts)
        return values, kind == pa.date32()  # of which Arrow's cast knows one form only

    def _are_numbers(self, texts: pa.Array, written: _Bytes, values: pa.Array) -> bool:
        kind = self.type
        if pa.types.is_int64(kind):
            return written.are_digits and written.total == _digits(values)
        if pa.types.is_decimal(kind):
            values.validate(full=True)
            return written.are_digits and written.have_scale(kind.scale)
        doubtful, long = written.doubtful_numbers(points="integer" not in self.forms)
        if doubtful is None:
            return False
        if long.any():  # the text that Arrow gives a double, but for exponents and .0, is Python's
            written_out = pc.cast(values.drop_null().filter(pa.array(long)), pa.string())
            same = pc.equal(written_out, self.numbers.plain(texts.drop_null().filter(pa.array(long))))
            doubtful[long] |= ~same.to_numpy(zero_copy_only=False)
        return not doubtful.any() or self.seen(texts.drop_null().filter(pa.array(doubtful))).type == kind


NUMERIC = {"integer", "scale", "zeros", "exponent", "inexact", "large"}


def _forms(texts: pa.Array, looks: Sequence[Look]) -> frozenset[str]:
    """Find the forms of texts, of which none is null."""
    found: set[str] = set()
    for look in looks:
        if not len(texts) or TEXT in found:
            break
        mask, forms = look(texts)
        if forms:
            found |= forms
            texts = texts.filter(pc.invert(mask))
    return frozenset({*found, TEXT} if len(texts) else found)


def _as_number(look: Look, numbers: NumberStyle, texts: pa.Array) -> tuple[pa.Array, set[str]]:
    return look(numbers.plain(texts))


def _matching(texts: pa.Array, pattern: str) -> tuple[pa.Array, pa.Array]:
    mask = pc.match_substring_regex(texts, pattern)
    return mask, texts.filter(mask)


def _integers(texts: pa.Array) -> tuple[pa.Array, set[str]]:
    mask, matching = _matching(texts, INTEGER)
    if not len(matching):
        return mask, set()
    exact = set() if _is_exact(matching) else {"inexact"}
    return mask, {"integer", *exact} if _can_be(matching, pa.int64()) else {TEXT}


def _fractions(texts: pa.Array) -> tuple[pa.Array, set[str]]:
    mask, matching = _matching(texts, FRACTION)
    if not len(matching):
        return mask, set()
    scales = pc.subtract(pc.binary_length(matching), pc.add(pc.find_substring(matching, "."), 1))
    zeros = pc.ends_with(matching, "0")
    found = {f"zeros {scale}" for scale in pc.unique(scales.filter(zeros)).to_pylist()}
    found |= {f"scale {scale}" for scale in pc.unique(scales.filter(pc.invert(zeros))).to_pylist()}
    digits = pc.max(pc.binary_length(pc.replace_substring_regex(matching, r"^-?0?|\.", ""))).as_py()
    if digits > MAX_PRECISION or pc.max(scales).as_py() > MAX_PRECISION:
        return mask, {TEXT}
    found |= {"large"} if digits > USUAL_PRECISION else set()
    return mask, found | (set() if _is_exact(matching) else {"inexact"})


def _exponents(texts: pa.Array) -> tuple[pa.Array, set[str]]:
    mask, matching = _matching(texts, SCIENTIFIC)
    if not len(matching):
        return mask, set()
    mantissas = pc.unique(pc.replace_substring_regex(matching, "[eE].*|-", ""))
    forms = pc.replace_substring_regex(mantissas, r"^\d\.?", "")
    found = {f"exponent {len(text)}{' zeros' if text.endswith('0') else ''}" for text in forms.to_pylist()}
    return mask, found | (set() if _is_exact(matching) else {"inexact"})


NUMBERS: tuple[Look, ...] = (_integers, _fractions, _exponents)


def _booleans(texts: pa.Array) -> tuple[pa.Array, set[str]]:
    masks = {name: pc.is_in(texts, pa.array(words)) for name, words in SPELLINGS.items()}
    found = {f"bool {name}" for name, mask in masks.items() if pc.any(mask).as_py()}
    return pc.or_(pc.or_(masks["lower"], masks["title"]), masks["upper"]), found


def _spelled(texts: pa.Array, words: tuple[str, str]) -> pa.Array:
    true, false = (pc.equal(texts, word) for word in words)
    if not pc.all(pc.or_(true, false), min_count=0).as_py():
        raise pa.ArrowInvalid("not a boolean")
    return true


def _dates(texts: pa.Array) -> tuple[pa.Array, set[str]]:
    mask, matching = _matching(texts, DATE)
    return mask, ({"date"} if _can_be(matching, pa.date32()) else {TEXT}) if len(matching) else set()


def _moments(texts: pa.Array) -> tuple[pa.Array, set[str]]:
    mask, matching = _matching(texts, MOMENT)
    if not len(matching):
        return mask, set()
    parts = pc.extract_regex(matching, MOMENT)
    mark, seconds, fraction, zone = (pc.struct_field(parts, name) for name in ("mark", "seconds", "fraction", "zone"))
    seconds = pc.if_else(pc.equal(seconds, ""), "minutes", "seconds")
    zone = pc.replace_substring_regex(zone, r"[-+]", "+")
    zone = pc.replace_substring_regex(zone, r"\d", "0")
    mark = pc.if_else(pc.equal(mark, "T"), "T", "_")
    found = {
        f"moment {form}".strip()
        for form in pc.unique(pc.binary_join_element_wise(mark, seconds, zone, " ")).to_pylist()
    }
    fine = pc.max(pc.binary_length(fraction)).as_py() > len(".123456")
    kind = pa.timestamp("ns" if fine else "us", "UTC" if any(form.split()[3:] for form in found) else None)
    if len(found) > 1 or not _can_be(matching, kind):
        return mask, {TEXT}
    return mask, found | ({FINE} if fine else set())


def _by_formats(texts: pa.Array, formats: Sequence[str]) -> tuple[pa.Array, set[str]]:
    for index, text in enumerate(formats):
        mask, matching = _matching(texts, format_regex(text))
        if len(matching):
            kind = _format_type(text)
            return mask, {f"format {index}"} if _can_be(matching, kind, (text,)) else {TEXT}
    return pa.nulls(0), set()


def _format_type(text: str) -> pa.DataType:
    return pa.timestamp("us", "UTC" if "%z" in text else None) if "%H" in text else pa.date32()


def _can_be(texts: pa.Array, kind: pa.DataType, formats: Sequence[str] = ()) -> bool:
    try:
        caster(kind, formats=formats)(texts)
    except pa.ArrowInvalid:
        return False
    return True


def _is_exact(texts: pa.Array) -> bool:
    """Tell whether each number, written out, is what its double is."""
    long = pc.or_(pc.greater(pc.binary_length(texts), EXACT_DIGITS), pc.match_substring_regex(texts, "[eE]"))
    texts = texts.filter(long)
    if len(texts):
        texts = texts.filter(pc.invert(pc.equal(pc.cast(pc.cast(texts, pa.float64()), pa.string()), texts)))
    return all(Decimal(text) == Decimal(repr(float(text))) for text in texts.to_pylist())


class _Bytes:
    """The bytes of texts, of which nulls do not count and none is empty.

    What is asked of them takes passes over arrays of numbers, which is several times faster than looking at each text.
    """

    def __init__(self, texts: pa.Array) -> None:
        if texts.null_count:
            texts = texts.drop_null()
        _, offsets, data = texts.buffers()
        ends = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset)
        self.codes = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
        self.start, self.total = int(ends[0]), int(ends[-1] - ends[0])
        self.starts, self.ends = ends[:-1], ends[1:]

    @cached_property
    def _all(self) -> Any:
        return self.codes[self.start : self.start + self.total]

    @property
    def are_digits(self) -> bool:
        """Whether there are only digits, points and minuses: no space, plus, exponent, inf, nan or 0x."""
        return bool(self._all.min() >= ord("-") and self._all.max() <= ord("9"))

    @cached_property
    def _first_digits(self) -> Any:
        return self.starts + (self.codes[self.starts] == ord("-"))

    def have_scale(self, scale: int) -> bool:
        """Whether each has so many decimals, and a zero in front only where it is the one before the point."""
        before = self.ends - scale - 1 - self._first_digits
        zero = self.codes[self._first_digits] == ord("0")
        return bool(
            (before >= 1).all() and (self.codes[self.ends - scale - 1] == ord(".")).all() and (before[zero] == 1).all()
        )

    def doubtful_numbers(self, *, points: bool) -> tuple[Any, Any]:
        """Return which of the numbers have to be looked at one by one (None for all of them), and which are long.

        Args:
            points: Whether each has to have a point.
        """
        if not self.are_digits or (points and int(np.count_nonzero(self._all == ord("."))) != len(self.ends)):
            return None, None
        first, last = self.codes[self._first_digits], self.codes[self.ends - 1]
        second = self.codes[np.minimum(self._first_digits + 1, self.ends - 1)]
        lengths = self.ends - self._first_digits
        doubtful = (last == ord("0")) | (last == ord(".")) | (first == ord("."))
        doubtful |= (first == ord("0")) & (second != ord(".")) & (lengths > 1)
        return doubtful, lengths > EXACT_DIGITS + 1

    def are_moments(self, mark: str, seconds: str, zone: str = "") -> bool:
        """Whether each has these parts; what they are made of, a cast has seen."""
        lengths = self.ends - self.starts - len(zone)
        length = len("2026-04-30T12:00:00") if seconds == "seconds" else len("2026-04-30T12:00")
        marks = (self.codes[self.starts + len("2026-04-30")] == ord("T" if mark == "T" else " ")).all()
        fraction = (lengths == length) | (seconds == "seconds")
        point = np.minimum(self.starts + length, self.ends - 1)
        fraction &= (lengths == length) | (self.codes[point] == ord("."))
        zones = True
        if zone:
            signs = self.codes[self.ends - len(zone)]
            zones = (signs == ord("Z")).all() if zone == "Z" else ((signs == ord("-")) | (signs == ord("+"))).all()
        return bool(marks and zones and fraction.all())


def _digits(values: pa.Array) -> int:
    """Return how long the integers are together when they are written out."""
    numbers = values.drop_null().to_numpy()
    if not len(numbers):
        return 0
    total = len(numbers) + int(np.count_nonzero(numbers < 0))
    limits = [10**power for power in range(1, len(str(max(abs(int(numbers.min())), abs(int(numbers.max()))))))]
    return total + sum(
        int(np.count_nonzero(numbers >= limit) + np.count_nonzero(numbers <= -limit)) for limit in limits
    )
