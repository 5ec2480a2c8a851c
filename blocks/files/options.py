"""How a file is written down, where its name does not say it: options of the formats, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from blocks.base.arguments import Options
from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Format = Literal["csv", "jsonl", "parquet", "arrow", "arrows"]
TEXT_FORMATS: tuple[Format, ...] = ("csv", "jsonl")
"""Those that do not say the types of their columns."""
Compression = Literal["none", "gzip", "zstd", "snappy"]
OnError = Literal["fail", "quarantine"]

TIME_DIRECTIVES = "YmdHMSfz"
WITHIN = {"M": "H", "S": "M", "f": "S", "z": "H"}


class CsvOptions(Options):
    """How a CSV file is written down. The defaults are RFC 4180 with a header, in UTF-8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    _elsewhere: ClassVar[Mapping[str, str]] = {
        "charset": "encoding",
        "date_format": "timestamp_formats",
        "decimal": "decimal_point",
        "escape_char": "escape",
        "escapechar": "escape",
        "fieldnames": "column_names",
        "has_header": "header",
        "na_values": "null_values",
        "names": "column_names",
        "quote_char": "quote",
        "quotechar": "quote",
        "sep": "delimiter",
        "separator": "delimiter",
        "skip_rows": "skip_lines",
        "skiprows": "skip_lines",
    }

    delimiter: str = Field(default=",", min_length=1, max_length=1, description="What separates two fields.")
    quote: str = Field(default='"', min_length=1, max_length=1, description="What encloses a field; doubled inside it.")
    escape: str | None = Field(
        default=None, min_length=1, max_length=1, description="What takes the next character as it is, such as \\."
    )
    encoding: str = Field(default="utf-8", description="The text's encoding, any that Python knows; a BOM is skipped.")
    null_values: tuple[str, ...] = Field(default=("",), description="Unquoted texts that mean null.")
    quoted_nulls: bool = Field(default=False, description="Whether a quoted null value means null, too.")
    decimal_point: Literal[".", ","] = Field(default=".", description="What separates a number's decimals.")
    header: bool = Field(default=True, description="Whether the first row holds the column names.")
    column_names: tuple[str, ...] | None = Field(
        default=None, description="The file's column names in order; where a header is there too, it is skipped."
    )
    skip_lines: int = Field(default=0, ge=0, description="Lines before the header or the first row.")
    timestamp_formats: tuple[str, ...] = Field(
        default=(),
        description="Formats of dates and timestamps, of %Y %m %d %H %M %S %f %z. A column takes those that fit its "
        "type: %H only for timestamps, %z exactly for those with a time zone; ISO 8601 where there is none.",
    )

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _single_byte(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in "\r\n\0"):
            raise ValueError("must be one ASCII character, and not a line end")
        return value

    @field_validator("timestamp_formats")
    @classmethod
    def _known_directives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            used = [after[:1] for after in text.split("%")[1:]]
            if any(directive not in TIME_DIRECTIVES or not directive for directive in used):
                raise ValueError(f"{text!r} may use %Y %m %d %H %M %S %f %z only")
            if any(used.count(directive) != 1 for directive in "Ymd") or len(set(used)) < len(used):
                raise ValueError(f"{text!r} must hold %Y, %m and %d, and nothing twice")
            if any(part in used and whole not in used for part, whole in WITHIN.items()):
                raise ValueError(f"{text!r} has a part of a time without the larger one")
        return value


class ParquetOptions(Options):
    """How a Parquet file is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compression_level: int | None = Field(default=None, description="Level of zstd (1 by default) or gzip.")
    row_group_rows: int = Field(default=500_000, ge=1, description="A row group holds at most so many rows.")
    row_group_bytes: int = Field(default=32 * 2**20, ge=1, description="And about so many bytes in memory.")


FileOptions = CsvOptions | ParquetOptions


def check_format(name: object, formats: Iterable[str]) -> None:
    """Check that a format is one of those that can be had.

    Raises:
        InvalidInputError: It is not; the message names them.
    """
    known = tuple(formats)
    if name not in known:
        hint = "JSON Lines is 'jsonl'. " if name == "json" else ""
        raise InvalidInputError(f"{name!r:.50} is not a format. {hint}Use one of: {', '.join(known)}.")
