"""What a format supplies: a reader and a writer of record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Protocol

from blocks.arrow.columns import NOTHING

if TYPE_CHECKING:
    import pyarrow as pa

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import OnError

BATCH_ROWS = 65_536

BATCH_BYTES = 4 * 2**20
"""A batch holds at most so many rows, and about so many bytes."""

SAMPLE_ROWS = 65_536

Open = Callable[[], BinaryIO]


class Reader(Protocol):
    """One file of one format."""

    def infer(self) -> pa.Schema:
        """Read or infer the schema of the file."""

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,
        on_error: OnError = "fail",
        *,
        inferred: bool = False,
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """Read the columns of `schema`, each of exactly its type.

        Args:
            schema: What to read, by name.
            rejects: Where bad rows go.
            on_error: Whether they may.
            inferred: Whether `schema` was found by `infer`, for messages.
            absent: What columns are that the file lacks; one that is not here either is a SchemaError.
        """


class Writer(Protocol):
    """Writes one file of one format."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""

    def close(self) -> None:
        """Finish the file; it is whole only then. The file object stays open."""
