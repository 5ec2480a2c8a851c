"""Arrow IPC files to record batches and back."""

# ruff: noqa: A002 (format and open are what everybody calls them)

from __future__ import annotations

import contextlib
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from blocks.arrow.columns import NOTHING, ExtraColumns, completed, fit, present_fields
from blocks.base.errors import ConnectorError, InvalidInputError
from blocks.files.local import CHUNK_BYTES
from blocks.files.parquet import KeptOpen
from blocks.files.protocols import BATCH_ROWS, TypedColumn, typed_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import Compression, OnError
    from blocks.files.protocols import InferredColumn, Open

MAGIC = b"ARROW1"
STREAM_STARTS = 8
"""The magic is filled up to so many bytes."""


class IpcReader:
    """An Arrow IPC file or stream as record batches; which of the two it is, its first bytes say."""

    def __init__(self, open: Open, source: str, extra_columns: ExtraColumns) -> None:
        self.open = open
        self.source = source
        self.extra_columns = extra_columns

    def infer(self) -> dict[str, TypedColumn]:
        """Read the schema at the start of the file."""
        with closing(self.open()) as file, self._errors():
            return typed_columns(self._ipc(file, is_file=_is_file(file)).schema, self.source)

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
            is_file = _is_file(file)
            ipc = self._ipc(file, is_file=is_file)
            wanted = present_fields(ipc.schema.names, schema, absent, self.source, self.extra_columns)
            with self._errors():
                for batch in ipc:
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        part = fit(batch.slice(start, BATCH_ROWS), wanted or batch.schema, self.source)
                        yield completed(part, schema, absent)
                self._finish(file, is_file=is_file)

    def _ipc(self, file: BinaryIO, *, is_file: bool) -> pa.RecordBatchStreamReader:
        """Open the stream, which is what a file is too, between its magics and before its footer.

        So both are read from start to end, which is what the checksums of object stores are of.
        https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
        """
        file.seek(STREAM_STARTS if is_file else 0)
        with self._errors():
            return pa.ipc.open_stream(pa.PythonFile(KeptOpen(file), mode="r"))

    def _finish(self, file: BinaryIO, *, is_file: bool) -> None:
        """Read what is behind the stream: the end of the file is where its checksum is compared."""
        end = b""
        while data := file.read(CHUNK_BYTES):
            end = (end + data)[-len(MAGIC) :]
        if is_file and end != MAGIC:
            raise self._damaged("it has no footer")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise  # also an OSError, some of them
        except UnicodeDecodeError:
            raise self._damaged("its names or its metadata are not UTF-8") from None
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: object) -> InvalidInputError:
        return InvalidInputError(
            f"{self.source} is not a valid Arrow IPC file or stream (truncated or corrupt): {error}"
        )


def _is_file(file: BinaryIO) -> bool:
    return file.read(len(MAGIC)) == MAGIC


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
