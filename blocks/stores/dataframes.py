"""Single frames as single objects, in the five forms that Prefect's buckets know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks.base.errors import InvalidInputError
from blocks.base.temporary import TemporaryFolder

if TYPE_CHECKING:
    from blocks.files.options import Compression, Format
    from blocks.stores.client import WriteOptions
    from blocks.stores.folder import StoreFolder


@dataclass(frozen=True)
class Serialization:
    """How a frame becomes a file."""

    format: Format
    compression: Compression
    suffix: str
    content_type: str


SERIALIZATIONS = {
    "csv": Serialization("csv", "none", ".csv", "text/csv"),
    "csv_gzip": Serialization("csv", "gzip", ".csv.gz", "application/x-gzip"),
    "parquet": Serialization("parquet", "none", ".parquet", "application/vnd.apache.parquet"),
    "parquet_snappy": Serialization("parquet", "snappy", ".snappy.parquet", "application/vnd.apache.parquet"),
    "parquet_gzip": Serialization("parquet", "gzip", ".gz.parquet", "application/vnd.apache.parquet"),
}
SUFFIXES = sorted({each.suffix for each in SERIALIZATIONS.values()}, key=len, reverse=True)


def serialization(name: Any) -> Serialization:
    """Return the form of that name, or of prefect-gcp's enum member of that name.

    Raises:
        InvalidInputError: There is no such form.
    """
    text = str(getattr(name, "name", name)).lower()
    if text not in SERIALIZATIONS:
        raise InvalidInputError(f"There is no serialization_format {text!r}; there are {', '.join(SERIALIZATIONS)}.")
    return SERIALIZATIONS[text]


def with_suffix(key: str, suffix: str) -> str:
    """Return the key with this ending in place of another one of these forms; all other dots in its name stay.

    >>> with_suffix("orders/2026.04.30.csv", ".csv.gz"), with_suffix("v1.2", ".parquet")
    ('orders/2026.04.30.csv.gz', 'v1.2.parquet')
    """
    old = next((each for each in SUFFIXES if key.endswith(each)), "")
    return key.removesuffix(old) + suffix


def upload(store: StoreFolder, frame: Any, key: str, form: Serialization, options: WriteOptions) -> str:
    """Write a frame as one object, and return its key."""
    from blocks.arrow.scan import as_scan
    from blocks.files.formats import open_writer

    scan = as_scan(frame).settled()
    with TemporaryFolder() as folder:
        path = folder / "frame"
        with path.open("wb") as file:
            writer = open_writer(file, scan.schema, format=form.format, compression=form.compression)
            for batch in scan.batches():
                writer.write(batch)
            writer.close()
        return store.put(with_suffix(key, form.suffix), path, options).key
