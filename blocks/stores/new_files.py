"""Only new files: a scan of the objects of a folder that reads on, each version of each once.

A mark is made of the versions that were loaded: a digest of key and version for each, or, where keys are in the order
in which files come, the last key alone.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from blocks.arrow.marks import IncrementalScan, Mark, Window
from blocks.arrow.scan import GrowingScan, Scan
from blocks.base.errors import InvalidInputError, ObjectNotFoundError, TerminalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from blocks.arrow.rejects import Rejects
    from blocks.stores.dataset import Dataset
    from blocks.stores.info import ObjectInfo

DIGEST_BYTES = 12
"""Of ten million versions two have one digest with a chance of one in 10^15."""
DIGEST_CHARS = DIGEST_BYTES * 4 // 3


class NewFiles:
    """The objects that no load of a state has had, as they are listed now; a load reads just these versions.

    Args:
        dataset: All objects.
        mark: What was loaded.
        ordered: Whether objects behind the last key are the new ones.
    """

    def __init__(self, dataset: Dataset, mark: Mark | None, *, ordered: bool) -> None:
        self._dataset, self._ordered = dataset, ordered
        self._last = mark.value if mark else None
        known = set() if ordered or mark is None else _digests_of(mark.parts)
        old: list[ObjectInfo] = []

        def is_new(info: ObjectInfo) -> bool:
            if self._last is None or (info.key > self._last if ordered else version_digest(info) not in known):
                return True
            old[:] = [info]
            return False

        self._new = dataset.find(is_new)
        if not self._new and not old and (mark is None or dataset.declared is None):
            raise ObjectNotFoundError(
                f"There is nothing to read at {dataset.source}: no such object, and no data in such a folder."
            )
        # Without a schema that is declared, an old file says what the columns are where there is no new one.
        self._read = replace(dataset, chosen=tuple(self._new or old))
        self._ended = False

    def scan(self) -> Scan:
        """Return the scan of their rows."""
        read = self._read
        return Scan(
            lambda: read.schema,
            self._batches,
            source=read.source,
            inferred=read.inferred_from_text,
            origins=read.origins,
            query=f"new files of {read.source}",
        )

    def _batches(self, rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        self._ended = False
        if self._new:
            yield from self._read.batches(rejects)
        self._ended = True

    def mark(self) -> Mark:
        """Return the mark of what was read.

        Raises:
            TerminalError: It was not read to its end.
        """
        if not self._ended:
            raise TerminalError(
                f"{self._read.source} was not read to its end, so there is no mark. Nothing was loaded."
            )
        keys = [info.key for info in self._new] + ([] if self._last is None else [self._last])
        added = "" if self._ordered else "".join(dict.fromkeys(map(version_digest, self._new)))
        return Mark(value=max(keys, default=None), facts={"files": len(self._new)}, parts=added)


def scan_new(dataset: Dataset, *, ordered: bool) -> IncrementalScan:
    """Return the scan of a dataset that reads each version of its objects once.

    Args:
        dataset: The objects.
        ordered: Whether keys are in the order in which files come, so that only those behind the last key are new.
    """

    def of() -> dict[str, str]:
        names = "/".join([*dataset.keys, *([dataset.glob] if isinstance(dataset.glob, str) else [])])
        return {"source": f"{dataset.store.place()}/{names}", "cursor": "the last key" if ordered else "file versions"}

    def since(mark: Mark | None, mode: str) -> Window:
        del mode
        if mark and mark.value is not None and not mark.of and not ordered:
            raise InvalidInputError(
                f"{dataset.source}: a state of file versions cannot be set to a value. Nothing was loaded. Set it to "
                "an earlier load, set_state(name, number=...), or reset it, or scan with ordered=True."
            )
        files = NewFiles(dataset, mark, ordered=ordered)
        return Window(files.scan(), files.mark)

    whole = GrowingScan(dataset.settled, source=dataset.source, origins=dataset.origins)
    return IncrementalScan(whole, of=of, since=since, adds_up=not ordered)


def version_digest(info: ObjectInfo) -> str:
    """Return what tells a version of an object from others, in a few characters."""
    version = info.version or info.etag or f"{info.last_modified} {info.size}"
    text = f"{info.key}\0{version}".encode()
    return base64.b64encode(hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()).decode()


def _digests_of(parts: str) -> set[str]:
    return {parts[at : at + DIGEST_CHARS] for at in range(0, len(parts), DIGEST_CHARS)}
