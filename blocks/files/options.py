"""How a file is written down, where its name does not say it: options of the formats, as plain data."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from blocks.base.arguments import Options
from blocks.base.errors import InvalidInputError
from blocks.files.numbers import Minus, NumberStyle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

Format = Literal["csv", "jsonl", "json", "parquet", "arrow", "arrows"]
TEXT_FORMATS: tuple[Format, ...] = ("csv", "jsonl", "json")
"""Those that do not say the types of their columns."""
JSON_FORMATS: tuple[Format, ...] = ("jsonl", "json")
Compression = Literal["none", "gzip", "zstd", "snappy", "bz2", "xz", "zip"]
OnError = Literal["fail", "quarantine"]
Epoch = Literal["s", "ms", "us", "ns"]

TIME_DIRECTIVES = "YmdHMSfz"
WITHIN = {"M": "H", "S": "M", "f": "S", "z": "H"}
TIMESTAMP_FORMATS = (
    "Formats of dates and timestamps, of %Y %m %d %H %M %S %f %z. A column takes those that fit its type: %H only for "
    "timestamps, %z exactly for those with a time zone. Defaults to ISO 8601."
)
EPOCH = (
    "The unit (s, ms, us or ns) of numbers that are timestamps, counted from 1970-01-01 UTC, in columns that the "
    "schema declares as timestamps. Defaults to none: a number is not a timestamp."
)


def _known_directives(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        used = [after[:1] for after in text.split("%")[1:]]
        if any(directive not in TIME_DIRECTIVES or not directive for directive in used):
            raise ValueError(f"{text!r} may use %Y %m %d %H %M %S %f %z only")
        if any(used.count(directive) != 1 for directive in "Ymd") or len(set(used)) < len(used):
            raise ValueError(f"{text!r} must hold %Y, %m and %d, and nothing twice")
        if any(part in used and whole not in used for part, whole in WITHIN.items()):
            raise ValueError(f"{text!r} has a part of a time without the larger one")
    return value


def _known_encoding(value: str) -> str:
    try:
        text_encoding = codecs.lookup(value)._is_text_encoding  # noqa: SLF001 (what open() asks)
    except (LookupError, ValueError):
        text_encoding = False
    if not text_encoding:
        raise ValueError(f"{value!r:.50} is not an encoding of text that Python knows, such as 'utf-8' or 'cp1252'")
    return value


Encoding = Annotated[str, AfterValidator(_known_encoding)]
TimestampFormats = Annotated[tuple[str, ...], AfterValidator(_known_directives)]


class CsvOptions(Options):
    """How a CSV file is written down. The defaults are RFC 4180 with a header, in UTF-8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    _elsewhere: ClassVar[Mapping[str, str]] = {
        "charset": "encoding",
        "comment_char": "comment",
        "comment_prefix": "comment",
        "currency": "number_marks",
        "date_format": "timestamp_formats",
        "decimal": "decimal_point",
        "decimal_comma": "decimal_point",
        "decimal_separator": "decimal_point",
        "escape_char": "escape",
        "escapechar": "escape",
        "fieldnames": "column_names",
        "footer": "skip_footer",
        "has_header": "header",
        "na_values": "null_values",
        "names": "column_names",
        "quote_char": "quote",
        "quotechar": "quote",
        "sep": "delimiter",
        "separator": "delimiter",
        "skip_rows": "skip_lines",
        "skipfooter": "skip_footer",
        "skiprows": "skip_lines",
        "thousands_separator": "thousands",
    }

    delimiter: str = Field(
        default=",",
        min_length=1,
        max_length=1,
        description="The character between two fields. Defaults to a comma; a header that has another one is refused.",
    )
    quote: str | None = Field(
        default='"',
        min_length=1,
        max_length=1,
        description="The character around a field that holds a delimiter or a line end; doubled inside it. None where "
        'quotes are characters like others. Defaults to ".',
    )
    escape: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="The character that takes the next one as it is, such as a backslash. Defaults to none.",
    )
    encoding: Encoding = Field(
        default="utf-8",
        description="The text's encoding, any that Python knows; a byte order mark is skipped. Defaults to utf-8.",
    )
    null_values: tuple[str, ...] = Field(
        default=("",), description="Texts that mean null where they are not quoted. Defaults to the empty text."
    )
    quoted_nulls: bool = Field(
        default=False, description="Whether a quoted null value means null, too. Defaults to false."
    )
    decimal_point: Literal[".", ","] = Field(
        default=".", description="What stands before the decimals of a number. Defaults to a point."
    )
    thousands: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="What stands between the thousands of a number, such as a comma, a point, an apostrophe or a "
        "space. Defaults to none.",
    )
    number_marks: tuple[str, ...] = Field(
        default=(),
        description="Texts before or after a number that do not count, such as $, EUR or %: 12.5% is read as 12.5. "
        "Defaults to none.",
    )
    minus: Minus = Field(
        default="leading",
        description="Where the minus of a number is: leading (-5), also trailing (5-), or also parentheses in its "
        "place (5). Defaults to leading.",
    )
    header: bool = Field(default=True, description="Whether the first row holds the column names. Defaults to true.")
    column_names: tuple[str, ...] | None = Field(
        default=None,
        description="The file's column names in order; where a header is there too, it is skipped. Defaults to those "
        "of the header; a column without one is called column0, column1 and so on, by its place from 0.",
    )
    case_sensitive_names: bool = Field(
        default=True,
        description="Whether column names that differ only by case are different. Where false, the second one gets _1 "
        "behind it, as a repeated name always does. Defaults to true.",
    )
    skip_lines: int = Field(
        default=0, ge=0, description="How many lines to skip before the header or the first row. Defaults to 0."
    )
    skip_footer: int = Field(
        default=0,
        ge=0,
        le=1_000,
        description="How many lines to skip at the end, such as a row of totals; empty lines do not count. "
        "Defaults to 0.",
    )
    comment: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="The character with which lines start that are skipped. Defaults to none.",
    )
    timestamp_formats: TimestampFormats = Field(default=(), description=TIMESTAMP_FORMATS)
    epoch: Epoch | None = Field(default=None, description=EPOCH)

    @field_validator("delimiter", "quote", "escape", "comment")
    @classmethod
    def _single_byte(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in "\r\n\0"):
            raise ValueError("must be one ASCII character, and not a line end")
        return value

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        marks = [mark for mark in (self.delimiter, self.quote, self.escape, self.comment) if mark]
        if len(set(marks)) < len(marks):
            raise ValueError("delimiter, quote, escape and comment have to be different characters")
        if self.thousands == self.decimal_point:
            raise ValueError(f"thousands and decimal_point are both {self.thousands!r}; they have to differ")
        if self.thousands is not None and self.thousands.isalnum():
            raise ValueError("thousands cannot be a letter or a digit")
        if any(not mark.strip() or mark.isdecimal() for mark in self.number_marks):
            raise ValueError("number_marks cannot be empty or a number")
        return self

    @property
    def numbers(self) -> NumberStyle:
        """How the file writes its numbers."""
        return NumberStyle(self.decimal_point, self.thousands, self.number_marks, self.minus)


class JsonOptions(Options):
    """How a file of JSON objects is written down: as an array, or one after the other, as in JSON Lines."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    _elsewhere: ClassVar[Mapping[str, str]] = {
        "charset": "encoding",
        "date_format": "timestamp_formats",
        "date_unit": "epoch",
    }

    encoding: Encoding = Field(
        default="utf-8",
        description="The text's encoding, any that Python knows; a byte order mark is skipped. Defaults to utf-8.",
    )
    timestamp_formats: TimestampFormats = Field(default=(), description=TIMESTAMP_FORMATS)
    epoch: Epoch | None = Field(default=None, description=EPOCH)


class ParquetOptions(Options):
    """How a Parquet file is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression_level: int | None = Field(
        default=None, description="Compression level of zstd or gzip. Defaults to 1 for zstd, for gzip to its own."
    )
    row_group_rows: int = Field(
        default=500_000, ge=1, description="How many rows a row group holds at most. Defaults to 500,000."
    )
    row_group_bytes: int = Field(
        default=32 * 2**20, ge=1, description="How many bytes of memory a row group takes, about. Defaults to 32 MiB."
    )


FileOptions = CsvOptions | JsonOptions | ParquetOptions


def check_format(name: object, formats: Iterable[str]) -> None:
    """Check that a format is one of those that can be had.

    Raises:
        InvalidInputError: It is not; the message names them.
    """
    known = tuple(formats)
    if name not in known:
        hint = "JSON Lines is 'jsonl'. " if name == "json" and name not in known else ""
        raise InvalidInputError(f"{name!r:.50} is not a format. {hint}Use one of: {', '.join(known)}.")
