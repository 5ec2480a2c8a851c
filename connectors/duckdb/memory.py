"""How much memory DuckDB may take for a file where the block does not say it.

Its own default, 80 % of the machine's, lets one load take what its neighbors need.
https://duckdb.org/docs/stable/configuration/pragmas#memory-limit
"""

from __future__ import annotations

import functools
from typing import Any

from blocks.base.optional import require

LEAST_BYTES = 10**9
BYTES_A_THREAD = 125 * 10**6
"""What DuckDB needs: https://duckdb.org/docs/stable/guides/performance/environment#minimum-required-memory"""

UNITS = {"bytes": 1, "byte": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def limit_memory(client: Any) -> None:
    """Give the database of this connection our limit, unless somebody gave it one."""
    own = duckdb_default()
    found, threads = client.execute("SELECT current_setting('memory_limit'), current_setting('threads')").fetchone()
    limit = max(LEAST_BYTES, threads * BYTES_A_THREAD)
    if found == own and limit < in_bytes(own):
        client.execute(f"SET memory_limit = '{limit}B'")


@functools.cache
def duckdb_default() -> str:
    """Return the limit that DuckDB takes by itself on this machine, in its words."""
    with require("duckdb", extra="duckdb").connect(":memory:") as client:
        return str(client.execute("SELECT current_setting('memory_limit')").fetchone()[0])


def in_bytes(size: str) -> float:
    """Return the bytes of a size in DuckDB's words.

    >>> in_bytes("18.8 GiB"), in_bytes("512 bytes")
    (20186346291.2, 512.0)
    """
    number, unit = size.split()
    return float(number) * UNITS[unit]
