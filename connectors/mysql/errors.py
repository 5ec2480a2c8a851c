"""Errors of MySQL and MariaDB: which of ours each is, and in which words.

https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
https://mariadb.com/kb/en/mariadb-error-code-reference/
"""

from __future__ import annotations

import re
import ssl

from blocks.base import errors
from blocks.base.errors import AmbiguousError, ConnectorError, TransientError, lookup


class LockTimeoutError(TransientError):
    """Somebody else held a lock for longer than `lock_timeout_s`."""


LOST = ("0", "1053", "1152", "1158", "1159", "1160", "1161", "1184", "1927", "2006", "2013", "2055", "4031")
"""The connection is gone: what was sent on it may have happened."""

ERRORS: dict[str, type[ConnectorError]] = dict.fromkeys(LOST, errors.TransientError) | {
    "1007": errors.AlreadyExistsError,
    "1020": errors.TransientError,
    "1022": errors.AlreadyExistsError,
    "1040": errors.TransientError,
    "1042": errors.TransientError,
    "1044": errors.AccessDeniedError,
    "1045": errors.AuthError,
    "1047": errors.TransientError,  # a node of a Galera cluster that does not take statements yet
    "1048": errors.InvalidInputError,
    "1049": errors.NotFoundError,
    "1050": errors.AlreadyExistsError,
    "1051": errors.NotFoundError,
    "1054": errors.NotFoundError,
    "1060": errors.AlreadyExistsError,
    "1061": errors.AlreadyExistsError,
    "1062": errors.AlreadyExistsError,
    "1095": errors.AccessDeniedError,
    "1109": errors.NotFoundError,
    "1130": errors.AccessDeniedError,
    "1142": errors.AccessDeniedError,
    "1143": errors.AccessDeniedError,
    "1146": errors.NotFoundError,
    "1153": errors.InvalidInputError,
    "1169": errors.AlreadyExistsError,
    "1180": errors.AmbiguousError,
    "1203": errors.TransientError,
    "1205": LockTimeoutError,
    "1213": errors.TransientError,
    "1215": errors.InvalidInputError,
    "1226": errors.TransientError,
    "1227": errors.AccessDeniedError,
    "1235": errors.UnsupportedError,
    "1251": errors.AuthError,
    "1264": errors.InvalidInputError,
    "1265": errors.InvalidInputError,
    "1275": errors.AuthError,
    "1289": errors.UnsupportedError,
    "1292": errors.InvalidInputError,
    "1300": errors.InvalidInputError,
    "1304": errors.AlreadyExistsError,
    "1305": errors.NotFoundError,
    "1359": errors.AlreadyExistsError,
    "1364": errors.InvalidInputError,
    "1366": errors.InvalidInputError,
    "1367": errors.InvalidInputError,
    "1370": errors.AccessDeniedError,
    "1406": errors.InvalidInputError,
    "1411": errors.InvalidInputError,
    "1412": errors.TransientError,
    "1419": errors.AccessDeniedError,
    "1524": errors.AuthError,
    "1525": errors.InvalidInputError,
    "1526": errors.InvalidInputError,
    "1586": errors.AlreadyExistsError,
    "1615": errors.TransientError,
    "1637": errors.TransientError,
    "1644": errors.InvalidInputError,
    "1684": errors.TransientError,  # a table is being altered
    "1698": errors.AuthError,
    "1792": errors.InvalidInputError,
    "1820": errors.AuthError,
    "1836": errors.TransientError,
    "1862": errors.AuthError,
    "2002": errors.TransientError,
    "2003": errors.TransientError,
    "2005": errors.TransientError,
    "2026": errors.AuthError,
    "2049": errors.AuthError,
    "2059": errors.AuthError,
    "2061": errors.AuthError,
    "3058": errors.TransientError,
    "3100": errors.TransientError,
    "3101": errors.TransientError,
    "3118": errors.AuthError,
    "3572": errors.TransientError,
    "3750": errors.InvalidInputError,
    "3819": errors.InvalidInputError,
    "4025": errors.InvalidInputError,
}

SQLSTATES: dict[str, type[ConnectorError]] = {
    "02*": errors.TerminalError,
    "07*": errors.InvalidInputError,
    "08*": errors.TransientError,
    "0A*": errors.UnsupportedError,
    "20*": errors.InvalidInputError,
    "21*": errors.InvalidInputError,
    "22*": errors.InvalidInputError,
    "23*": errors.InvalidInputError,
    "25*": errors.TerminalError,
    "28*": errors.AuthError,
    "3D*": errors.NotFoundError,
    "40*": errors.TransientError,
    "42*": errors.InvalidInputError,
    "44*": errors.InvalidInputError,
    "45*": errors.InvalidInputError,
    "70*": errors.TerminalError,
    "HY*": errors.TerminalError,
    "XA*": errors.TerminalError,
}
"""For what has no line of its own; `*` stands for the rest of a code."""

DRIVER_ERRORS: dict[str, type[ConnectorError]] = {
    "DataError": errors.InvalidInputError,
    "IntegrityError": errors.InvalidInputError,
    "NotSupportedError": errors.UnsupportedError,
    "ProgrammingError": errors.InvalidInputError,
}
"""For what has no SQLSTATE either."""

CONDITIONS = {
    "1062": "a value of a unique key comes more than once",
    "1064": "syntax error",
    "1139": "not a regular expression",
    "1264": "a value is out of range",
    "1265": "a value is not one of the column's",
    "1292": "a value is not one of its type",
    "1300": "a text has characters that its character set lacks",
    "1366": "a value is not one of the column's type or character set",
    "1367": "a value is not one of its type",
    "1406": "a value is too long",
    "1411": "a value is not one of its type",
    "1525": "a value is not one of its type",
    "1526": "the table has no partition for a value",
    "1586": "a value of a unique key comes more than once",
    "1644": "an error of its own (its message, which may quote a value, is not shown)",
    "1690": "a value is out of range",
    "3140": "a value is not JSON",
    "3141": "a value is not JSON",
}
"""What stands in place of the server's words where these may quote a value, or the statement."""
HIDDEN = ("22", "45")
"""Classes of SQLSTATE whose messages may quote a value."""
OF_COLUMN = re.compile(r".*\bcolumn ['`](?P<column>[^']+)['`] at row (?P<row>\d+)$", re.DOTALL)
OF_KEY = re.compile(r".* for key '(?P<key>[^']+)'$", re.DOTALL)
OF_LINE = re.compile(r".* at line (?P<line>\d+)$", re.DOTALL)

HINTS = {
    "1044": "Grant the user what it needs, or use another one.",
    "1045": "Check username and password.",
    "1049": "Check the database's name.",
    "1118": "InnoDB keeps a row in 8,126 bytes, in which each text takes up to 40: load fewer columns.",
    "1142": "Grant the user what it needs, or use another one.",
    "1143": "Grant the user what it needs, or use another one.",
    "1153": "Raise max_allowed_packet on the server.",
    "1205": "Another session holds it; lock_timeout_s says how long to wait for it.",
    "1290": "The server takes no writes.",
    "1698": "Check username and password.",
    "1792": "A scan only reads; fetch_all runs a query that writes.",
    "2002": "Are host and port right, and reachable from here?",
    "2003": "Are host and port right, and reachable from here?",
    "2026": "Check ssl_mode and ssl_root_cert.",
    "3750": "Make the table with a primary key first, or set sql_generate_invisible_primary_key on the server.",
}


def translate(error: BaseException, action: str, uri: str, *, sent: bool = False) -> ConnectorError:
    """Return the error of this package for one of PyMySQL's.

    Args:
        error: The error.
        action: What could not be done.
        uri: Where.
        sent: Whether what was sent may have happened, if the connection was lost.
    """
    code = _code(error)
    state: str = getattr(error, "sqlstate", None) or ""
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    kind = (
        lookup(ERRORS, code)
        or lookup(SQLSTATES, state)
        or DRIVER_ERRORS.get(type(error).__name__, errors.TerminalError)
    )
    if isinstance(getattr(error, "original_exception", None), ssl.SSLError):
        kind, code = errors.AuthError, "2026"
    if code == "1290" and "read-only" in text:  # a replica, or a primary that has just become one
        kind = TransientError
    place = uri if action == "connect to" else f"in {uri}"
    if sent and code in LOST:
        return AmbiguousError(f"Could not {action} {place}: the connection was lost after it was sent.")
    words = _words(code, state, text)
    number = f" (error {code})" if code not in ("0", "") else ""
    return kind(f"Could not {action} {place}: {words}{number}. {HINTS.get(code, '')}".rstrip())


def _code(error: BaseException) -> str:
    return str(error.args[0]) if error.args and isinstance(error.args[0], int) else ""


def _words(code: str, state: str, text: str) -> str:
    """The server's words, without row values."""
    if code == "0":
        return "the connection is closed"
    if code not in CONDITIONS and not state.startswith(HIDDEN):
        return " ".join(text.split()).rstrip(".")
    words = CONDITIONS.get(code, "a value does not fit")
    if found := OF_COLUMN.match(text):
        words += f", column {found['column'].rpartition('`.`')[2]}"
    elif found := OF_KEY.match(text):
        words += f", key {found['key']}"
    elif found := OF_LINE.match(text):
        words += f" at line {found['line']}"
    return words
