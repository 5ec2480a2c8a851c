"""DuckDB's errors as ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blocks.base import errors
from blocks.base.errors import (
    AlreadyExistsError,
    ConnectorError,
    NotFoundError,
    TransientError,
)
from blocks.base.optional import lazy

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = lazy("pyarrow")

ERRORS: dict[str, type[ConnectorError]] = {
    "BinderException": errors.InvalidInputError,
    "CatalogException": errors.NotFoundError,
    "ConnectionException": errors.TransientError,
    "ConstraintException": errors.InvalidInputError,
    "ConversionException": errors.InvalidInputError,
    "DataError": errors.InvalidInputError,
    "DatabaseError": errors.TerminalError,
    "DependencyException": errors.TerminalError,
    "Error": errors.TerminalError,
    "FatalException": errors.TerminalError,
    "HTTPException": errors.TransientError,
    "IOException": errors.TerminalError,
    "IntegrityError": errors.InvalidInputError,
    "InternalError": errors.TerminalError,
    "InternalException": errors.TerminalError,
    "InterruptException": errors.TerminalError,
    "InvalidInputException": errors.InvalidInputError,
    "InvalidTypeException": errors.InvalidInputError,
    "NotImplementedException": errors.UnsupportedError,
    "NotSupportedError": errors.UnsupportedError,
    "OperationalError": errors.TerminalError,
    "OutOfMemoryException": errors.TerminalError,
    "OutOfRangeException": errors.InvalidInputError,
    "ParserException": errors.InvalidInputError,
    "PermissionException": errors.AccessDeniedError,
    "ProgrammingError": errors.InvalidInputError,
    "ResourceInUseException": errors.TransientError,
    "SequenceException": errors.TerminalError,
    "SerializationException": errors.TerminalError,
    "SyntaxException": errors.InvalidInputError,
    "TransactionException": errors.TransientError,
    "TypeMismatchException": errors.InvalidInputError,
    "Warning": errors.TerminalError,
}

WORDS_HOLD_VALUES = {
    "ConstraintException": "a constraint would be violated",
    "ConversionException": "a value cannot become the column's type",
    "DataError": "a value does not fit",
    "IntegrityError": "a constraint would be violated",
    "InvalidInputException": "invalid input",
    "OutOfRangeException": "a value is out of range",
    "TransactionException": "another transaction changed the same thing",
    "TypeMismatchException": "a value has the wrong type",
}


NAMES_ONLY = re.compile(r"NOT NULL constraint failed: (\S+)|when casting from source column (.+)$")
"""What of such words holds a name and no value."""


def translate(error: BaseException, action: str, uri: str) -> ConnectorError:
    """Return the error of this package for one of DuckDB's or of the file system."""
    code, text = type(error).__name__, str(error).partition("\n")[0]
    kind = ERRORS.get(code, errors.TerminalError)
    words = _words(code, text)
    hint = ""
    if isinstance(error, PermissionError) or "ermission denied" in text:
        kind, hint = errors.AccessDeniedError, " The user of this process needs to write to that directory."
    elif isinstance(error, (FileExistsError, NotADirectoryError)):
        kind, hint = errors.InvalidInputError, " A part of the path is a file and would have to be a directory."
    elif isinstance(error, OSError) or "No such file" in text or "database does not exist" in text:
        kind = NotFoundError
    elif "read-only mode" in text:
        kind, words = errors.AccessDeniedError, "the database is open for reading only."
    elif "Could not set lock" in text:
        kind = TransientError
        words, hint = "another process has the file open for writing.", " Close it there, or open it read_only."
    elif code in ("ConstraintException", "CatalogException") and ("Duplicate key" in text or "already exists" in text):
        kind = AlreadyExistsError
    elif code == "CatalogException" and "conflict" in text:
        kind = TransientError
    elif code == "OutOfMemoryException":
        words, hint = "it needs more memory than memory_limit allows.", " Give the block a higher memory_limit."
    if isinstance(error, OSError):
        words = error.strerror or words
    place = uri if action == "open" else f"in {uri}"
    return kind(f"Could not {action} {place}: {words.rstrip('.')}.{hint}")


def _words(code: str, text: str) -> str:
    """Return DuckDB's words, or, where they may quote a value, ours with the names that it says."""
    if code not in WORDS_HOLD_VALUES:
        return text.partition(": ")[2] or text
    named = NAMES_ONLY.search(text)
    if named is None:
        return WORDS_HOLD_VALUES[code]
    return WORDS_HOLD_VALUES[code] + (f", NOT NULL of column {named[1]}" if named[1] else f", column {named[2]}")
