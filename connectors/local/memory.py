"""MemoryFiles: an object store in this process's memory."""

from __future__ import annotations

import uuid

from pydantic import Field, HttpUrl, PrivateAttr

from blocks.base.live import live
from blocks.stores.object_store import ObjectStore
from connectors.local.memory_client import Contents, MemoryStoreClient, contents_of


class MemoryFiles(ObjectStore):
    """An object store in this process's memory, for the tests of flows. Its objects are never saved.

    Blocks of the same name share their objects, so that a copy, or one that travelled through a task, sees them too.
    The objects are there as long as such a block is, closed or not.

    Example:
        ```python
        from connectors.local import MemoryFiles

        lake = MemoryFiles.load("BLOCK_NAME")
        lake.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL Memory Files"
    _block_type_slug = "etl-memory-files"
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    name: str = Field(
        default_factory=lambda: uuid.uuid4().hex,
        description="Name of the store: blocks of the same name share their objects. Defaults to a name of its own.",
    )

    _contents: Contents | None = PrivateAttr(None)

    @live
    def _client(self) -> MemoryStoreClient:
        self._contents = contents_of(self.name)  # kept beside the client, for closing the block to lose nothing
        return MemoryStoreClient(self.name, self._contents)

    def check(self) -> str:
        """Say in one sentence that memory is always there."""
        return f"{self.uri()} is in this process's memory: always reachable."
