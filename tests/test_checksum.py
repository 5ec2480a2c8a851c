"""Checksums of objects: the published check values, whatever the pieces in which the content comes."""

from __future__ import annotations

import pytest

from blocks.stores.checksum import matches, new_digest

# https://reveng.sourceforge.io/crc-catalogue/all.htm has the check value of each CRC, which is that of these digits.
DIGITS = b"123456789"
CHECKS = [
    "crc32:cbf43926",
    "crc32c:e3069283",
    "crc64nvme:ae8b14860a799888",
    "md5:25f9e794323b453885f5181f1b624d0b",
]


@pytest.mark.parametrize("checksum", CHECKS, ids=lambda checksum: checksum.partition(":")[0])
def test_check_values(checksum: str) -> None:
    """Counted at once, byte by byte, and from a view; another byte is noticed."""
    pytest.importorskip("awscrt" if "64" in checksum else "google_crc32c" if "32c" in checksum else "hashlib")
    digest = new_digest(checksum)
    for position in range(len(DIGITS)):
        digest.update(memoryview(DIGITS)[position : position + 1])
    assert f"{checksum.partition(':')[0]}:{digest.hexdigest()}" == checksum
    assert matches(DIGITS, checksum)
    assert not matches(DIGITS[:-1] + b"8", checksum)
