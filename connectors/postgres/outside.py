"""What a statement may do that its transaction does not undo: through `dblink`, a replication slot, a program.

The server cannot tell it of a statement. What it can tell is the functions that act so, and what functions, views and
triggers are made of; all that a statement leads to by name is looked through.
"""

from __future__ import annotations

import re

FUNCTIONS = [
    "lo_export",
    "pg_cancel_backend",
    "pg_copy_logical_replication_slot",
    "pg_copy_physical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_create_restore_point",
    "pg_drop_replication_slot",
    "pg_logical_emit_message",
    "pg_logical_slot_get_binary_changes",
    "pg_logical_slot_get_changes",
    "pg_promote",
    "pg_reload_conf",
    "pg_replication_slot_advance",
    "pg_rotate_logfile",
    "pg_switch_wal",
    "pg_terminate_backend",
]
"""Functions of the server itself."""

EXTENSIONS = ["aws_commons", "aws_lambda", "aws_s3", "dblink", "http", "pg_cron", "pg_net", "plproxy"]
"""Extensions whose functions in C reach out. Functions in C of no extension, and those in a language that is not
trusted, may do anything."""

FIND = """
WITH RECURSIVE word(w) AS (
    SELECT unnest(%(words)s::text[])
    UNION
    SELECT lower(found[1]) FROM word,
    LATERAL (
        SELECT pg_get_functiondef(oid) AS source FROM pg_proc
        WHERE lower(proname) = w AND prokind IN ('f', 'p') AND pronamespace <> 'pg_catalog'::regnamespace
        UNION ALL
        SELECT pg_get_ruledef(r.oid) FROM pg_class AS c JOIN pg_rewrite AS r ON r.ev_class = c.oid
        WHERE lower(relname) = w AND relnamespace <> 'pg_catalog'::regnamespace
        UNION ALL
        SELECT tgfoid::regproc::text FROM pg_class AS c JOIN pg_trigger AS t ON tgrelid = c.oid
        WHERE lower(relname) = w AND NOT tgisinternal
    ) AS s,
    LATERAL regexp_matches(source, '[[:alpha:]_][[:alnum:]_$]*', 'g') AS found
)
SELECT proname::text FROM word JOIN pg_proc AS p ON lower(proname) = w JOIN pg_language AS l ON l.oid = prolang
LEFT JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_extension AS e ON e.oid = d.refobjid
WHERE CASE
    WHEN pronamespace = 'pg_catalog'::regnamespace AND e.oid IS NULL THEN proname::text = ANY (%(functions)s)
    WHEN lanname IN ('c', 'internal') THEN provolatile = 'v' AND coalesce(extname::text = ANY (%(extensions)s), true)
    ELSE NOT lanpltrusted AND lanname <> 'sql' AND provolatile = 'v' END
LIMIT 1
"""


def query(sql: str) -> tuple[str, dict[str, list[str]]]:
    """Return the query for a function that acts outside of its transaction and that a statement leads to."""
    words = sorted({word.lower() for word in re.findall(r"[^\W\d][\w$]*", sql)})
    return FIND, {"words": words, "functions": FUNCTIONS, "extensions": EXTENSIONS}


def runs_program(sql: str) -> bool:
    """Tell whether it may be a COPY from or to a program of the server's machine."""
    return re.search(r"\bcopy\b.*\bprogram\b", sql, re.IGNORECASE | re.DOTALL) is not None
