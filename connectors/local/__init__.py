"""Files of this machine, and a store in memory for tests: object stores that need no account."""

from connectors.local.files import LocalFiles
from connectors.local.memory import MemoryFiles

__all__ = ["LocalFiles", "MemoryFiles"]
