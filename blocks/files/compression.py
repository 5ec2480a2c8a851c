"""Files that are compressed as a whole: gzip, zstd, bz2, xz, and zip archives of one file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from typing import BinaryIO

    from blocks.files.options import Compression

MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
}
DAMAGED = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What the decompressors raise."""


def decompressed(file: BinaryIO, compression: Compression, name: str) -> Any:
    """Return what is in the file as a binary stream.

    Args:
        file: The file; seekable for a zip archive.
        compression: How it is compressed.
        name: What messages call it.

    Raises:
        InvalidInputError: A zip archive has not exactly one file, or has a password.
    """
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")  # which skips zeros behind the end, as tapes and some tools pad
    if compression == "bz2":
        return bz2.BZ2File(file)
    if compression == "xz":
        return lzma.LZMAFile(file)
    if compression == "zip":
        return _unzipped(file, name)
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)


def _unzipped(file: BinaryIO, name: str) -> Any:
    archive = zipfile.ZipFile(file)
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir() and not member.filename.startswith("__MACOSX/") and member.filename != ".DS_Store"
    ]
    if len(members) != 1:
        what = ", ".join(repr(member.filename[:100]) for member in members[:5]) or "none"
        raise InvalidInputError(
            f"{name} is a zip archive of {len(members)} files, and has to have one: {what}. Unpack it, and scan the "
            "files or their folder."
        )
    if members[0].flag_bits & 1:
        raise InvalidInputError(f"{name} is a zip archive with a password. Unpack it.")
    return io.BufferedReader(archive.open(members[0]))  # which compares its CRC-32
