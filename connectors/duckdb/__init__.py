"""DuckDB, the embedded warehouse: a file, or memory. The default everywhere, no account needed."""

from connectors.duckdb.block import DuckDB

__all__ = ["DuckDB"]
