"""Arrow IPC files to record batches and back."""

# ruff: noqa: A002 (format and open are what everybody calls them)

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from blocks.arrow.columns import NOTHING, ExtraColumns, completed, fit, present_fields
from blocks.base.errors import ConnectorError, InvalidInputError
from blocks.files.parquet import KeptOpen
from blocks.files.protocols import BATCH_ROWS, TypedColumn, typed_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import Compression, OnError
    from blocks.files.protocols import InferredColumn, Open


class IpcReader:
    """An Arrow IPC file or stream as record batches; which of the two it is, its first bytes say."""

    def __init__(self, open: Open, source: str, extra_columns: ExtraColumns) -> None:
        self.open = open
        self.source = source
        self.extra_columns = extra_columns

    def infer(self) -> dict[str, TypedColumn]:
        """Read the schema at the start of the file."""
        with closing(self.open()) as file:
            return typed_columns(self._ipc(file).schema)

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,  # noqa: ARG002 (typed data has no bad rows)
        on_error: OnError = "fail",  # noqa: ARG002
        *,
        inferred: Mapping[str, InferredColumn] = NOTHING,  # noqa: ARG002
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """Read the columns of `schema`, cast where nothing is lost.

        Raises:
            InvalidInputError: It is not an Arrow IPC file or stream.
            SchemaError: The file lacks a column, or a cast would lose something.
        """
        with closing(self.open()) as file:
            ipc = self._ipc(file)
            wanted = present_fields(ipc.schema.names, schema, absent, self.source, self.extra_columns)
            try:
                for batch in self._all(ipc):
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        part = fit(batch.slice(start, BATCH_ROWS), wanted or batch.schema, self.source)
                        yield completed(part, schema, absent)
            except ConnectorError:
                raise  # also an OSError, some of them
            except (pa.ArrowInvalid, OSError) as error:
                raise self._damaged(error) from error

    @staticmethod
    def _all(ipc: Any) -> Iterator[pa.RecordBatch]:
        if isinstance(ipc, pa.RecordBatchFileReader):
            return (ipc.get_batch(index) for index in range(ipc.num_record_batches))
        return iter(ipc)

    def _ipc(self, file: BinaryIO) -> Any:
        magic = file.read(6)
        file.seek(0)
        try:
            return pa.ipc.open_file(file) if magic == b"ARROW1" else pa.ipc.open_stream(file)
        except ConnectorError:
            raise  # also an OSError, some of them
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InvalidInputError:
        return InvalidInputError(
            f"{self.source} is not a valid Arrow IPC file or stream (truncated or corrupt): {error}"
        )


class IpcWriter:
    """Writes Arrow IPC, as a file or as a stream."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, compression: Compression, *, stream: bool) -> None:
        options = pa.ipc.IpcWriteOptions(
            compression=None if compression == "none" else compression,
            emit_dictionary_deltas=True,
            unify_dictionaries=False,
        )
        new = pa.ipc.new_stream if stream else pa.ipc.new_file
        self._writer = new(pa.PythonFile(KeptOpen(file), mode="w"), schema, options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the end."""
        self._writer.close()
