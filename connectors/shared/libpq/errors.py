"""Errors of libpq, as psycopg and ADBC hand them out: which of ours each is, and in which words.

https://www.postgresql.org/docs/current/errcodes-appendix.html (SQLSTATE; `*` stands for the rest of a code)
"""

from __future__ import annotations

import re
from typing import Any

from blocks.base import errors
from blocks.base.errors import AmbiguousError, ConnectorError, TransientError, lookup
from blocks.base.optional import require


class LockTimeoutError(TransientError):
    """Somebody else held a lock for longer than `lock_timeout_s`."""


ERRORS: dict[str, type[ConnectorError]] = {
    "01*": errors.TerminalError,
    "02*": errors.TerminalError,
    "03*": errors.InvalidInputError,
    "08*": errors.TransientError,
    "08007": errors.AmbiguousError,
    "08P01": errors.TerminalError,
    "09*": errors.TerminalError,
    "0A*": errors.UnsupportedError,
    "0B*": errors.InvalidInputError,
    "0F*": errors.InvalidInputError,
    "0L*": errors.AccessDeniedError,
    "0P*": errors.AccessDeniedError,
    "0Z*": errors.TerminalError,
    "10*": errors.InvalidInputError,
    "20*": errors.InvalidInputError,
    "21*": errors.InvalidInputError,
    "22*": errors.InvalidInputError,
    "23*": errors.InvalidInputError,
    "23505": errors.AlreadyExistsError,
    "24*": errors.InvalidInputError,
    "25*": errors.TerminalError,
    "25006": errors.TransientError,
    "25P03": errors.TransientError,
    "25P04": errors.TransientError,
    "26*": errors.InvalidInputError,
    "27*": errors.TerminalError,
    "28*": errors.AuthError,
    "2B*": errors.InvalidInputError,
    "2D*": errors.InvalidInputError,
    "2F*": errors.TerminalError,
    "34*": errors.InvalidInputError,
    "38*": errors.TerminalError,
    "39*": errors.TerminalError,
    "3B*": errors.InvalidInputError,
    "3D*": errors.NotFoundError,
    "3F*": errors.NotFoundError,
    "40*": errors.TransientError,
    "40003": errors.AmbiguousError,
    "42*": errors.InvalidInputError,
    "42501": errors.AccessDeniedError,
    "42701": errors.AlreadyExistsError,
    "42703": errors.NotFoundError,
    "42704": errors.NotFoundError,
    "42710": errors.AlreadyExistsError,
    "42883": errors.NotFoundError,
    "42P01": errors.NotFoundError,
    "42P04": errors.AlreadyExistsError,
    "42P06": errors.AlreadyExistsError,
    "42P07": errors.AlreadyExistsError,
    "44*": errors.InvalidInputError,
    "53*": errors.TransientError,
    "53100": errors.TerminalError,
    "54*": errors.InvalidInputError,
    "55*": errors.TerminalError,
    "55006": errors.TransientError,
    "55P03": LockTimeoutError,
    "57*": errors.TerminalError,
    "57P01": errors.TransientError,
    "57P02": errors.TransientError,
    "57P03": errors.TransientError,
    "57P04": errors.NotFoundError,
    "57P05": errors.TransientError,
    "58*": errors.TerminalError,
    "58030": errors.TransientError,
    "72*": errors.InvalidInputError,
    "F0*": errors.TerminalError,
    "HV*": errors.TerminalError,
    "P0*": errors.TerminalError,
    "XX*": errors.TerminalError,
}

# Errors of the drivers themselves have no SQLSTATE. One of another class than these is a lost connection.
DRIVER_ERRORS: dict[str, type[ConnectorError]] = {
    "DataError": errors.InvalidInputError,
    "IntegrityError": errors.InvalidInputError,
    "InternalError": errors.InvalidInputError,
    "NotSupportedError": errors.UnsupportedError,
    "ProgrammingError": errors.InvalidInputError,
}

LOGIN = "Check username and password."
TLS = "Check ssl_mode and ssl_root_cert."
TOO_MANY = "Fewer loads at once, or a higher limit on the server."

# What the server says before it knows the client's SQLSTATE protocol, that is while connecting; and what to do. The
# first pattern that is found counts: what passes comes before what its words resemble.
CONNECT_ERRORS: tuple[tuple[str, type[ConnectorError], str], ...] = (
    (r"database system is (starting up|shutting down|in recovery|not (yet )?accepting)", errors.TransientError, ""),
    (r"terminating connection|server closed the connection|connection to server was lost", errors.TransientError, ""),
    (r"too many (clients|connections for (role|database))", errors.TransientError, TOO_MANY),
    (r"remaining connection slots|no more connections allowed", errors.TransientError, TOO_MANY),
    (r"password authentication failed|no password supplied", errors.AuthError, LOGIN),
    (r'role ".*" (does not exist|is not permitted to log in)', errors.AuthError, LOGIN),
    (r"no pg_hba.conf entry", errors.AccessDeniedError, "The server's pg_hba.conf decides who may connect and how."),
    (r"permission denied", errors.AccessDeniedError, "Grant the role what it needs, or use another one."),
    (r"certificate|does not support SSL", errors.AuthError, TLS),
    (r"invalid sslmode", errors.InvalidInputError, TLS),
    (r'database ".*" does not exist', errors.NotFoundError, "Check the database's name."),
    (r"FATAL", errors.TerminalError, ""),
    (r"", errors.TransientError, "Are host and port right, and reachable from here?"),
)


CHANGED_PLAN = "cached plan must not change result type"
"""A table was altered between the description of a query and its run; there is no SQLSTATE of its own for it."""


SYSTEM_COLUMN = "conflicts with a system column name"
"""Said with the SQLSTATE of a column that there is twice."""

NOT_ENCODED = re.compile(r"Error occurred writing COPY data:\s*$")
"""What ADBC says where it cannot write a value; were the connection lost, libpq's words would follow."""

PRIVILEGES = (
    (r"\b(?:INSERT\s+INTO|COPY)\b", "INSERT"),
    (r"\bUPDATE\b", "UPDATE"),
    (r"\bDELETE\s+FROM\b", "DELETE"),
    (r"\bTRUNCATE\b", "TRUNCATE"),
    (r"\b(?:SELECT|UPDATE|DELETE\s+FROM|RETURNING)\b", "SELECT"),
    (r"\bLOCK\s+TABLE\b", "UPDATE, DELETE or TRUNCATE"),
)
"""What a statement needs of a table, by the words that it has.

https://www.postgresql.org/docs/current/ddl-priv.html
"""

HIDDEN = ("22", "23", "38", "39", "HV", "P0")
"""Classes of SQLSTATE whose messages may quote a value: data, constraints, functions and foreign servers."""
OF_FUNCTION = re.compile(r"^PL/\w+ function (.+?)(?: line (\d+))?(?: at .*)?$", re.MULTILINE)
"""A line of the context: the function that the server was in. https://www.postgresql.org/docs/current/plpgsql.html"""
OF_COPY = re.compile(r"^COPY .*?, line (\d+)(?:, column ((?:(?!: ).)+))?", re.MULTILINE)
"""A line of the context: the row of a COPY, and the column; behind it the value may follow."""
OF_TYPE = re.compile(
    r"^(?:invalid input (?:value for enum|syntax for type)|value too long for type) ([\w ]+(?:\(\d+\))?)"
)
"""How a message begins that names the type of a column; behind it the value may follow."""


def translate(
    error: BaseException, action: str, uri: str, *, ambiguous: bool = False, statement: str = ""
) -> ConnectorError:
    """Return the error of this package for one of libpq's, as psycopg or ADBC hand it out.

    Args:
        error: The driver's.
        action: What was done, such as "run a query".
        uri: Where.
        ambiguous: Whether it may have happened where the connection was lost.
        statement: The SQL, for the rights that it needs; it is not quoted.
    """
    code: str | None = getattr(error, "sqlstate", None)
    if ambiguous and action == "commit" and (code or "").startswith("57"):
        code = None  # the server was stopped, before or after it committed
    if code is not None:
        kind, hint = lookup(ERRORS, code) or errors.TerminalError, _hint(code)
        words = _words(error, code)
        if CHANGED_PLAN in words:
            kind = TransientError
        if SYSTEM_COLUMN in words:
            kind, hint = errors.InvalidInputError, "Rename the column."
        if code == "42501":
            hint = _grant(words, statement) or hint
        return kind(f"Could not {action} {_place(action, uri)}: {words} (SQLSTATE {code}). {hint}".rstrip())
    text = str(error)
    line = _first_line(text)
    if action == "connect to":
        kind, hint = next((kind, hint) for pattern, kind, hint in CONNECT_ERRORS if re.search(pattern, text))
        return kind(f"Could not {action} {uri}: {line}. {hint}".rstrip())
    if NOT_ENCODED.search(text):
        return errors.InvalidInputError(
            f"Could not {action} {_place(action, uri)}: a value is beyond what the type of its column holds. Look at "
            "the first and last of the times, dates and intervals."
        )
    if driver_kind := DRIVER_ERRORS.get(type(error).__name__):
        return driver_kind(f"Could not {action} {_place(action, uri)}: {line}.")
    if ambiguous:
        return AmbiguousError(f"Could not {action} {_place(action, uri)}: the connection was lost after it was sent.")
    return TransientError(f"Could not {action} {_place(action, uri)}: {line}.")


def _grant(words: str, statement: str) -> str:
    """Return what to grant where a right is lacking; empty where the words do not tell."""
    if re.search(r"\b_etl_(loads|quarantine)\b", words):
        return "Grant SELECT, INSERT and UPDATE on _etl_loads, and SELECT, INSERT and DELETE on _etl_quarantine."
    if "temporary tables" in words:
        return "Grant the role TEMPORARY on the database, in which rows are staged."
    if "for schema" in words:
        return "Grant the role USAGE on the schema, and CREATE where the load makes a table there."
    if "must be owner" in words:
        return "Have the owner do it, or make the role a member of the owner."
    rights = [right for pattern, right in PRIVILEGES if re.search(pattern, statement, re.IGNORECASE)]
    return f"Grant the role {', '.join(rights)} on it." if rights and "for table" in words else ""


def _place(action: str, uri: str) -> str:
    return uri if action == "connect to" else f"in {uri}"


def _first_line(text: str) -> str:
    if "failed to execute query '" in text.partition("\n")[0].lower():  # one of ADBC's own, quoted before the reason
        text = text.rpartition("': ")[2]
    line = next((line for line in text.splitlines() if line.strip()), "no reason given")
    return " ".join(line.rsplit("failed: ", 1)[-1].split()).rstrip(".")


def _words(error: BaseException, code: str) -> str:
    """The server's words, without row values: for data and constraint errors the name of the condition instead."""
    details = _details(error)
    primary, context = details.get("MESSAGE_PRIMARY", ""), details.get("CONTEXT", "")
    raised_by = OF_FUNCTION.search(context)
    if not raised_by and not code.startswith(HIDDEN):
        return primary
    words = _condition(code)
    if found := OF_TYPE.match(primary):
        words += f", type {found[1]}"
    column = details.get("COLUMN_NAME")
    if copied := OF_COPY.search(context):
        words += f", row {copied[1]}"
        column = column or copied[2]
    if column:
        words += f", column {column}"
    for label, detail in (("constraint", "CONSTRAINT_NAME"), ("table", "TABLE_NAME")):
        if value := details.get(detail):
            words += f", {label} {value}"
    if raised_by:
        words += f", in function {raised_by[1]}" + (f", line {raised_by[2]}" if raised_by[2] else "")
        words += " (its message, which may quote a value, is in the server's log)"
    return words


def _condition(code: str) -> str:
    """Return the name of a SQLSTATE in words."""
    try:
        name = require("psycopg.errors", extra="postgres").lookup(code).__name__
    except KeyError:  # that of a function's own
        return "an error of its own"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _details(error: BaseException) -> dict[str, str]:
    """Return what the server said, by the names of libpq's fields without their prefix."""
    if (diag := getattr(error, "diag", None)) is not None:  # psycopg
        names = ("message_primary", "context", "constraint_name", "column_name", "table_name")
        return {name.upper(): getattr(diag, name) or "" for name in names}
    return {_text(name).removeprefix("PG_DIAG_"): _text(value) for name, value in getattr(error, "details", None) or ()}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _hint(code: str) -> str:
    return {
        "22": "Correct the data, or change the column.",
        "23": "Correct the data.",
        "28": LOGIN,
        "3D": "Check the database's name.",
        "3F": "Check the schema's name; create it, or grant USAGE on it.",
        "42501": "Grant the role what it needs, or use another one.",
        "55P03": "Another session holds it; lock_timeout_s says how long to wait for it.",
    }.get(code if code in ("42501", "55P03") else code[:2], "")
