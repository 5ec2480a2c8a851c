"""The versions of rows: PostgreSQL keeps in each the transaction that made it, and a snapshot knows which have ended.

https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
https://www.postgresql.org/docs/current/ddl-system-columns.html

* The number in a row, `xmin`, has 32 bits, those of a snapshot 64. `age` compares within the half of the circle that
  lies behind the next transaction. A row that was frozen keeps its number, which means nothing once the numbers have
  turned over: so versions tell what is new for certain only until then, and say so.
* A subtransaction has a number of its own, above that of its transaction, and is in no list of a snapshot: so only what
  is below the oldest that has not ended counts as read, whatever else is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blocks.warehouses.session import Versions

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER = "SELECT current_setting('server_version_num')::int, has_function_privilege('pg_control_system()', 'EXECUTE')"
FIRST = 130_000
"""The first version of the server with numbers of 64 bits."""
CIRCLE = 2**32
SPECIAL = 3
"""The numbers below are no transactions."""

FACTS = """
WITH RECURSIVE tree (oid) AS (
    SELECT to_regclass(:table)::oid
    UNION
    SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
)
SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, {cluster},
    (SELECT bool_and(c.relkind IN ('r', 'p')) FROM tree JOIN pg_class AS c ON c.oid = tree.oid),
    (SELECT count(*) FROM tree), pg_relation_filenode(to_regclass(:table))::text, to_regclass(:table)::oid::text
FROM pg_current_snapshot() AS s
"""
CLUSTER = "(SELECT system_identifier::text FROM pg_control_system())"


def facts(server: Sequence[Any]) -> str | None:
    """Return the query for the versions of a table; None where the server has none."""
    version, may_ask = server
    return FACTS.format(cluster=CLUSTER if may_ask else "''") if version >= FIRST else None


def versions(row: Sequence[Any]) -> Versions | None:
    """Return the versions that a snapshot shows; None where the rows are not, or not all, in tables of the server."""
    oldest, following, cluster, is_table, tables, file, oid = row
    if not is_table:
        return None
    exact = tables == 1 and int(following) < CIRCLE
    return Versions(
        oldest=int(oldest),
        next=int(following),
        cluster=cluster,
        table=f"{oid}/{file}" if exact else None,
        since=since,
    )


def since(number: int) -> str:
    """Return the condition that a row `q` was made by this transaction or a later one.

    >>> since(2**32 + 5)
    "age(q.xmin) BETWEEN 0 AND (SELECT age('5'::xid))"
    """
    return f"age(q.xmin) BETWEEN 0 AND (SELECT age('{max(number % CIRCLE, SPECIAL)}'::xid))"
