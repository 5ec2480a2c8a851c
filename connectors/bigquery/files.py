"""Files on their way in and out: their addresses, what a job is told of them, and those that a load makes."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from typing import TYPE_CHECKING, Any

from blocks.arrow.casts import cast_array
from blocks.base.errors import InvalidInputError, SchemaError
from blocks.base.names import key_text
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from blocks.base.names import Key
    from blocks.stores.object_store import ObjectStore
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")
    pq = lazy("pyarrow.parquet")

FILE_FORMATS: dict[str, dict[str, Any]] = {
    "parquet": {
        "source_format": "PARQUET",
        "column_name_character_map": "V2",
        "decimal_target_types": ["NUMERIC", "BIGNUMERIC"],
    },
    "csv": {
        "source_format": "CSV",
        "column_name_character_map": "V2",
        "skip_leading_rows": 1,
        "source_column_match": "NAME",
        "allow_quoted_newlines": True,
    },
    "jsonl": {"source_format": "NEWLINE_DELIMITED_JSON"},
}
"""What a load job is told of the files.

https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobConfigurationLoad
"""

EXTRACTS = {
    "parquet": {"destination_format": "PARQUET", "compression": "SNAPPY"},
    "csv": {"destination_format": "CSV"},
}
EXPORTS = {"parquet": "format = 'PARQUET', compression = 'SNAPPY'", "csv": "format = 'CSV', header = TRUE"}
"""The same in SQL. https://cloud.google.com/bigquery/docs/reference/standard-sql/export-statements"""

PART_BYTES = 2**25
"""The size of the first Parquet files of a load."""
PARTS_OF_A_SIZE = 16
"""After so many the files double in size: a table takes 1,500 load jobs a day."""
LARGEST_PART_BYTES = 2**30


def folder_address(bucket: ObjectStore, prefix: Key) -> str:
    """Return the address of a folder of a bucket, with a slash at its end.

    Raises:
        InvalidInputError: BigQuery cannot go there by itself.
    """
    address = bucket.uri(key_text(prefix).removesuffix("/")).rstrip("/") + "/"
    if not address.startswith("gs://"):
        raise InvalidInputError(f"BigQuery reads and writes Google Cloud Storage only, and {address} is elsewhere.")
    if "*" in address:
        raise InvalidInputError(f"BigQuery takes the * in {address} for a wildcard. Give the folder another name.")
    return address


def parquet_files(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Any, int]]:
    """Number, file and rows of each Parquet file of the batches; a file stands at its end, and is gone when closed."""
    schema = pa.schema([(field.name, _in_parquet(field.type)) for field in schema])
    unread, number = iter(batches), 0
    for first in unread:
        limit = min(PART_BYTES << number // PARTS_OF_A_SIZE, LARGEST_PART_BYTES)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="etl-"))
            rows = 0
            with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
                for batch in itertools.chain([first], unread):
                    arrays = []
                    for field, column in zip(schema, batch, strict=True):
                        check_nulls(field.name, column)
                        arrays.append(cast_array(column, field.type))
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                    rows += batch.num_rows
                    if file.tell() >= limit:
                        break
            if rows:
                stack.pop_all()
                yield number, file, rows
                number += 1


def _in_parquet(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def check_nulls(name: str, column: pa.Array) -> None:
    """Check that BigQuery would not turn a null into something else.

    https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#array_nulls
    """
    if pa.types.is_struct(column.type):
        for index, field in enumerate(column.type):
            check_nulls(f"{name}.{field.name}", column.filter(column.is_valid()).field(index))
    if not pa.types.is_list(column.type):
        return
    values = pc.list_flatten(column)
    if column.null_count or values.null_count:
        raise SchemaError(
            f"Column {name!r}: BigQuery keeps no NULL instead of an array, nor within one. Fill or drop the nulls."
        )
    check_nulls(name, values)
