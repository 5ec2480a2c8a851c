"""How a file writes its numbers down: decimal comma, thousands, currency and percent signs, the place of the minus."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from blocks.base.optional import lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")

Minus = Literal["leading", "trailing", "parentheses"]
BLANK = "[\\s\u00a0\u202f]*"
"""White space, and the spaces that do not break a line, which programs put between a number and its unit."""
THOUSANDS = {" ": "[ \u00a0\u202f]", "'": "['\u2019]"}
"""What else stands for a separator: the spaces and the apostrophe that typesetting prefers."""


@dataclass(frozen=True)
class NumberStyle:
    """How numbers are written.

    Args:
        decimal_point: What stands before the decimals.
        thousands: What stands between groups of three digits, or of two as in India; nothing where None.
        marks: Texts before or after a number that do not count.
        minus: Where the minus is: before the number, also behind it, or parentheses in its place.
    """

    decimal_point: str = "."
    thousands: str | None = None
    marks: tuple[str, ...] = ()
    minus: Minus = "leading"

    @property
    def is_plain(self) -> bool:
        """Whether the decimal point is all that may differ from what every program reads."""
        return self.thousands is None and not self.marks and self.minus == "leading"

    def plain(self, texts: pa.Array) -> pa.Array:
        """Return the texts with numbers as every program reads them; what is no number in this style becomes none.

        >>> import pyarrow as pa
        >>> euros = NumberStyle(",", ".", ("\u20ac",), "trailing")
        >>> euros.plain(pa.array(["1.234,50 \u20ac", "7-", "1.5"])).to_pylist()
        ['1234.50', '-7', '1?5']
        """
        for pattern, replacement in self._rewritings:
            texts = pc.replace_substring_regex(texts, pattern, replacement)
        if self.thousands is not None:
            grouped = pc.match_substring_regex(texts, self._grouped)
            texts = pc.if_else(grouped, pc.replace_substring_regex(texts, self._separator, ""), texts)
        if self.decimal_point != ".":
            texts = pc.replace_substring(pc.replace_substring(texts, ".", "?"), self.decimal_point, ".")
        return texts

    @cached_property
    def _rewritings(self) -> list[tuple[str, str]]:
        found = []
        if self.marks:
            mark = "|".join(map(re.escape, sorted(self.marks, key=len, reverse=True)))
            found += [
                (f"^({BLANK}[-+(]?){BLANK}(?:{mark}){BLANK}", r"\1"),
                (f"{BLANK}(?:{mark})([-)]?{BLANK})$", r"\1"),
            ]
        if self.minus == "trailing":
            found.append((f"^{BLANK}(\\S*){BLANK}-{BLANK}$", r"-\1"))
        elif self.minus == "parentheses":
            found.append((f"^{BLANK}\\({BLANK}(\\S*){BLANK}\\){BLANK}$", r"-\1"))
        return found

    @cached_property
    def _separator(self) -> str:
        return THOUSANDS.get(self.thousands or "", re.escape(self.thousands or ""))

    @cached_property
    def _grouped(self) -> str:
        separator = self._separator
        return (
            rf"^\s*[-+]?\d{{1,3}}(?:{separator}\d{{2,3}})*{separator}\d{{3}}(?:{re.escape(self.decimal_point)}\d*)?\s*$"
        )
