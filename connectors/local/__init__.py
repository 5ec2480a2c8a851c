"""Files of this machine, and a store in memory for tests: object stores that need no account."""

from connectors.local.block import LocalFiles, MemoryFiles

__all__ = ["LocalFiles", "MemoryFiles"]
