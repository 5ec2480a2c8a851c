"""LocalFiles: a folder of this machine as an object store."""

from __future__ import annotations

import os

from pydantic import Field, HttpUrl

from blocks.base.errors import AccessDeniedError, InvalidInputError
from blocks.base.live import live
from blocks.files.local import file_errors
from blocks.stores.object_store import ObjectStore
from connectors.local.files_client import LocalStoreClient


class LocalFiles(ObjectStore):
    """A folder of this machine as an object store; it is made by the first write.

    Keys map to files. What a killed writer leaves behind is never listed.

    Example:
        ```python
        from connectors.local import LocalFiles

        lake = LocalFiles.load("BLOCK_NAME")
        lake.write_path("orders/2026-04-30.csv", b"order_id,amount")
        ```
    """

    _block_type_name = "ETL Local Files"
    _block_type_slug = "etl-local-files"
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    basepath: str = Field(
        default=".",
        description="The folder. Defaults to the working directory; '~' and relative paths are looked up where the "
        "flow runs.",
    )

    @live
    def _client(self) -> LocalStoreClient:
        return LocalStoreClient(self.basepath)

    def check(self) -> str:
        """Check that files can be read and written in the folder.

        Returns:
            One sentence that says so.

        Raises:
            AccessDeniedError: This user may not; the message names the folder that is in the way.
        """
        root = self._client.root
        with file_errors("look at", root):
            nearest = next(folder for folder in (root, *root.parents) if folder.exists())
        if not nearest.is_dir():
            raise InvalidInputError(f"{nearest} is a file, not a folder. Choose another basepath.")
        effective = os.access in os.supports_effective_ids
        if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK, effective_ids=effective):
            raise AccessDeniedError(
                f"This user cannot read and write the folder {nearest}. Give it the right, or choose another basepath."
            )
        return f"{root} can be read and written" + ("." if nearest == root else " (the first write makes it).")
