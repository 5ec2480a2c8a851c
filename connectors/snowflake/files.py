"""Files that a COPY reads: their formats, rows written as Parquet, and a few sent to a stage at a time."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from blocks.base.concurrency import Pool
from blocks.base.interruption import SLICE_S, interruption
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from typing import Self

    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = lazy("pyarrow")
    pq = lazy("pyarrow.parquet")

UPLOADS = 4
"""Files of one load that are sent at the same time."""

FILE_FORMATS = {
    "parquet": "TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE",
    "csv": "TYPE = CSV PARSE_HEADER = TRUE FIELD_OPTIONALLY_ENCLOSED_BY = '\"'",
    "jsonl": "TYPE = JSON",
}


class Uploads:
    """Files on their way to a stage, a few at a time; each is deleted once it is there.

    Attributes:
        sent: By name, how many rows are in each file that arrived.
    """

    def __init__(self, put: Callable[[Path], None]) -> None:
        self.sent: dict[str, int] = {}
        self._put = put
        self._pool = Pool(UPLOADS, "etl-put")
        self._room = threading.Semaphore(UPLOADS)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.__exit__(kind, *_)
        if kind is None:
            self._check(self._running)

    def add(self, path: Path, rows: int) -> None:
        """Send a file once there is room, and say which failed before."""
        mine = interruption()
        while not self._room.acquire(timeout=SLICE_S):
            mine.check()
        self._check([future for future in self._running if future.done()])
        self._running.append(self._pool.submit(self._send, path, rows))

    def _send(self, path: Path, rows: int) -> None:
        try:
            self._put(path)
            self.sent[path.name] = rows
            path.unlink()
        finally:
            self._room.release()

    @staticmethod
    def _check(futures: Sequence[Future[None]]) -> None:
        for future in futures:
            future.result()


def write_parts(
    folder: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch], part_bytes: int
) -> Iterator[tuple[Path, int]]:
    """Parquet files of about `part_bytes` and how many rows each has; columns are those of `schema` in order."""
    full = (batch for batch in batches if batch.num_rows)
    batch = next(full, None)
    for number in itertools.count():
        if batch is None:
            return
        path, rows = folder / f"part-{number:06d}.parquet", 0
        with (
            path.open("wb") as file,
            pq.ParquetWriter(
                file, schema, compression="snappy", store_schema=False, write_page_checksum=True
            ) as writer,
        ):
            while batch is not None and file.tell() < part_bytes:
                writer.write_batch(pa.RecordBatch.from_arrays([_storage(column) for column in batch], schema=schema))
                rows += batch.num_rows
                batch = next(full, None)
        yield path, rows


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array
