"""PooledEngine: a SQLAlchemy engine that a block keeps."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.warehouses.warehouse import Warehouse


class PooledEngine:
    """A SQLAlchemy engine whose pooled connections end with its block, closed or not: a service allows few of them.

    Args:
        block: The block.
        engine: Its engine, which must not hold the block itself: it would keep it alive, and its pool with it.
    """

    def __init__(self, block: Warehouse, engine: Any) -> None:
        self.engine = engine
        self._dispose = weakref.finalize(block, engine.dispose)

    def close(self) -> None:
        """Close the connections in the pool."""
        self._dispose()
