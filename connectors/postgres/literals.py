"""Parameters as PostgreSQL's own literals, quoted and typed by psycopg: one way to bind for statements and for COPY.

COPY takes no parameters, and two ways to bind would give two results: where the type of a parameter is to be found by
the server, drivers differ. https://www.psycopg.org/psycopg3/docs/advanced/cursors.html#client-side-binding-cursors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.optional import require
from blocks.warehouses.sql import bind
from connectors.shared.libpq.dialect import PostgresDialect

if TYPE_CHECKING:
    from collections.abc import Mapping

FLOATS = {700: "float4", 701: "float8"}
"""Types of a number whose digits alone would be a numeric."""


def with_literals(sql: str, parameters: Mapping[str, Any] | None) -> str:
    """Return the statement with a literal for each `:name`.

    Raises:
        InvalidInputError: A parameter is not given, or its value has no literal.
    """
    if not parameters:
        return sql
    return bind(sql, parameters, lambda name: _literal(name, parameters[name]), literals=PostgresDialect.literals)


def literal(value: Any) -> str:
    """Return a value as a literal of its type, whatever stands beside it.

    >>> print(literal("it's"), literal(-1), literal(0.5), literal(None), literal([]))
    'it''s' (-1) '0.5'::float8 NULL '{}'
    """
    adapt = require("psycopg.adapt", extra="postgres")
    transformer = adapt.Transformer()
    text: str = transformer.as_literal(value).decode().strip()
    if text[0] not in "-.0123456789":
        return text
    kind = FLOATS.get(transformer.get_dumper(value, adapt.PyFormat.TEXT).oid)
    return f"'{text}'::{kind}" if kind else f"({text})" if text[0] == "-" else text


def _literal(name: str, value: Any) -> str:
    psycopg = require("psycopg", extra="postgres")
    try:
        return literal(value)
    except (psycopg.Error, UnicodeError):  # their words may hold the value
        raise InvalidInputError(
            f"Parameter {name!r}: a {type(value).__name__} with this value cannot be a parameter of PostgreSQL. Text "
            "holds no NUL; for JSON, give psycopg.types.json.Jsonb(value)."
        ) from None
