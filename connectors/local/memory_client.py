"""A store in this process's memory, as the client of an object store."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from blocks.base.errors import ObjectExistsError, ObjectNotFoundError, TransientError, UnsupportedError
from blocks.files.local import chunks_of
from blocks.stores.client import AS_IT_IS, StoreClient, WriteOptions
from blocks.stores.info import ObjectInfo, pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from blocks.files.local import Source
    from blocks.stores.info import Page


class Contents:
    """What a store of that name holds. It travels by its name: another process finds its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return contents_of, (self.name,)


_CONTENTS: weakref.WeakValueDictionary[str, Contents] = weakref.WeakValueDictionary()


def contents_of(name: str) -> Contents:
    """Return what the store of that name holds, or a new one; it is there as long as somebody has it."""
    return _CONTENTS.setdefault(name, Contents(name))


class MemoryStoreClient(StoreClient):
    """A store in this process's memory."""

    def __init__(self, name: str, contents: Contents) -> None:
        super().__init__()
        self._name, self._contents = name, contents

    @override
    def uri(self, key: str = "") -> str:
        """Return the object's address, such as `memory://name/orders.csv`."""
        return f"memory://{self._name}/{key}"

    @override
    def head(self, key: str, version: str | None = None) -> ObjectInfo:
        self._refuse_version(version)
        return self._found(key)[1]

    @override
    def get_range(
        self, key: str, start: int, length: int, *, if_match: str | None = None, version: str | None = None
    ) -> tuple[bytes, ObjectInfo]:
        self._refuse_version(version)
        content, info = self._found(key)
        if if_match is not None and info.etag != if_match:
            raise TransientError(f"{self.uri(key)} changed while it was read. Try again.")
        return content[start : start + length], info

    @override
    def put(self, key: str, source: Source, options: WriteOptions = AS_IT_IS) -> ObjectInfo:
        if options.tags:
            raise UnsupportedError(f"Could not write {self.uri(key)}: MemoryFiles has no tags.")
        content = b"".join(chunks_of(source))
        info = ObjectInfo(
            key,
            len(content),
            uuid.uuid4().hex,
            None,
            dt.datetime.now(dt.UTC),
            options.content_type,
            dict(options.metadata or {}),
        )
        contents = self._contents
        with contents.lock:
            old = contents.objects.get(info.key)
            if options.if_absent and old is not None:
                raise ObjectExistsError(f"Could not write {self.uri(key)}: it already exists.")
            if options.if_match is not None and old is None:
                raise ObjectNotFoundError(f"Could not write {self.uri(key)}: there is no such object to replace.")
            if options.if_match is not None and old is not None and old[1].etag != options.if_match:
                raise ObjectExistsError(
                    f"Could not write {self.uri(key)}: it no longer has the etag {options.if_match}."
                )
            contents.objects[info.key] = content, info
        return info

    @override
    def list(self, prefix: str = "", *, recursive: bool = True) -> Iterator[Page]:
        objects = self._contents.objects
        found = [
            objects[key][1]
            for key in sorted(objects)
            if key.startswith(prefix) and (recursive or "/" not in key[len(prefix) :])
        ]
        yield from pages(found)

    @override
    def delete(self, keys: Iterable[str]) -> int:
        gone = set(keys)
        for key in gone:
            self._contents.objects.pop(key, None)
        return len(gone)

    @override
    def copy(self, source_key: str, target_key: str, target: Self | None = None) -> None:
        content, info = self._found(source_key)
        options = WriteOptions(content_type=info.content_type, metadata=info.metadata)
        (target or self).put(target_key, content, options)

    def _found(self, key: str) -> tuple[bytes, ObjectInfo]:
        try:
            return self._contents.objects[key]
        except KeyError:
            raise ObjectNotFoundError(f"Could not read {self.uri(key)}: no such object.") from None
