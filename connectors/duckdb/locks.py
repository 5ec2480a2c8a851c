"""Locks of this process: of two transactions that write the same, DuckDB fails one instead of letting it wait."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary


class Locks:
    """Locks by what they are for; each is there for as long as somebody has it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[object, Any] = WeakValueDictionary()
        self._making = threading.Lock()

    def of(self, *what: object) -> Any:
        """Return the lock of that; its thread may take it more than once."""
        with self._making:
            lock = self._locks.get(what)
            if lock is None:
                lock = self._locks[what] = threading.RLock()
            return lock
