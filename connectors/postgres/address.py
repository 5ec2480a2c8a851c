"""Where a Postgres block connects to: its fields, what a connection string or a service says, the PG* variables.

https://www.postgresql.org/docs/current/libpq-envars.html and .../libpq-pgservice.html
"""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from blocks.base.errors import InvalidInputError, NotFoundError
from blocks.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
}
"""What is shown, or decided by, here; libpq itself looks for the others, such as PGPASSWORD."""
DEFAULTS = {"host": "localhost", "port": "5432", "dbname": "postgres"}


def is_connection_string(text: str) -> bool:
    """Tell whether a text looks like a URL of PostgreSQL, or like its keywords and values."""
    return bool(re.match(r"\s*(postgres(ql)?(\+\w+)?://|\w+\s*=)", text))


def parse_connection_string(text: str) -> dict[str, str]:
    """Return the keywords and values of a connection string, as libpq understands it; SQLAlchemy's URLs do as well.

    Raises:
        InvalidInputError: It is none; the message does not show it.
    """
    psycopg = require("psycopg", extra="postgres")
    url = re.sub(r"^\s*postgres(ql)?\+\w+://", "postgresql://", text)
    words = ""
    try:
        return {name: str(value) for name, value in psycopg.conninfo.conninfo_to_dict(url).items()}
    except psycopg.Error as error:  # most of its words repeat the text
        unknown = re.match(r'invalid (URI query parameter|connection option):? "(\w+)"', str(error))
        words = f" libpq has no parameter {unknown[2]!r}." if unknown else ""
    raise InvalidInputError(
        "connection_string is not one that libpq takes, such as postgresql://db.example.com:5432/shop?"
        f"user=loader.{words} Special characters of a password are written as %40 and the like."
    )


def read_service(name: str) -> dict[str, str]:
    """Return what a service file says of a service.

    Raises:
        NotFoundError: No file has it.
    """
    folders = [os.environ["PGSYSCONFDIR"]] if "PGSYSCONFDIR" in os.environ else []
    own = os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf"
    files = [Path(own).expanduser(), *(Path(folder) / "pg_service.conf" for folder in folders)]
    for file in files:
        parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
        try:
            parser.read_string(file.read_text("utf-8"))
        except (OSError, ValueError, configparser.Error):
            continue
        if parser.has_section(name):
            return dict(parser.items(name))
    raise NotFoundError(
        f"There is no service {name!r:.100} in {' or '.join(map(str, files))}. Check service, PGSERVICE and "
        "PGSERVICEFILE."
    )


def resolve(given: Mapping[str, str], connection_string: str | None) -> dict[str, str]:
    """Return all keywords and values of a connection.

    Args:
        given: Those of the block's fields, which come before all others.
        connection_string: That of the block, which comes next; then a service, the environment and the defaults.
    """
    found = {**(parse_connection_string(connection_string) if connection_string else {}), **given}
    if service := found.pop("service", None) or os.environ.get("PGSERVICE"):
        found = {**read_service(service), **found}
    environment = {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}
    return {**DEFAULTS, **environment, **found}
