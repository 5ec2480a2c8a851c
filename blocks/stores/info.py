"""What a store tells of its objects, and the pages of a listing."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 (who reads the annotations of a public dataclass needs it)
import itertools
from collections.abc import Mapping  # noqa: TC003 (the same)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blocks.base.parameter import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class ObjectInfo(Parameter):
    """What a store knows about one object.

    Attributes:
        key: Its key: relative to the block's folder where a block tells it, whole where a client does.
        size: Its length in bytes.
        etag: Changes whenever the content changes; what `if_match` takes.
        version: The store's version id, where the bucket keeps versions.
        last_modified: When it was written (right after an upload: by this machine's clock).
        content_type: Its media type, where the store keeps one; `head_object` tells it.
        metadata: Names and values that were stored with it; `head_object` tells them.
        checksum: The checksum of the whole content as the store keeps it, such as `md5:5d4140...`, where it is known.
    """

    key: str
    size: int
    etag: str | None
    version: str | None
    last_modified: dt.datetime
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    checksum: str | None = None


Page = list[ObjectInfo]
"""Objects that a store lists in one answer."""
PAGE = 1_000
"""Objects in a page where the store does not say."""


def pages(found: Iterable[ObjectInfo]) -> Iterator[Page]:
    """Cut a listing into pages, as it comes."""
    left = iter(found)
    while page := list(itertools.islice(left, PAGE)):
        yield page
