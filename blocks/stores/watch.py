"""Watch: what is new in a folder of a store, told as events, each version of an object at least once.

Which versions were told is kept as one object, and written after Prefect's server has taken the events: a watcher that
is killed between the two tells them again. Of two watchers that write at once the second adds to what the first wrote.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from blocks.base.artifacts import artifact_key
from blocks.base.assets import asset_key
from blocks.base.errors import AlreadyExistsError, InvalidInputError, ObjectNotFoundError, TransientError
from blocks.base.events import OBJECT_CREATED, described, send
from blocks.stores.client import WriteOptions
from blocks.stores.hive import data_objects
from blocks.stores.keys import folder_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blocks.stores.folder import StoreFolder
    from blocks.stores.info import ObjectInfo

STATES = "_watch"
"""The folder of what watchers have told; it is not data."""
MOST_WRITERS = 10


def announce_new_objects(store: StoreFolder, folder: str, state: StoreFolder) -> list[ObjectInfo]:
    """Send an event for each version of an object that none was sent for, and return them, the oldest first.

    Args:
        store: Where the objects are.
        folder: The folder of them.
        state: Where to keep which versions were told.
    """
    key = _state_key(store, folder)
    told, etag = _read(state, key)
    objects = {info.key: info for info in data_objects(store, folder_prefix(folder).rstrip("/"))}
    versions = {info.key: version_of(info) for info in objects.values()}
    new = [objects[key] for key, version in versions.items() if told.get(key) != version]
    new.sort(key=lambda info: (info.last_modified, info.key))
    send(created(store, info) for info in new)
    if versions != told:
        _write(state, key, etag, versions, {info.key: versions[info.key] for info in new})
    return new


def created(store: StoreFolder, info: ObjectInfo) -> dict[str, Any]:
    """Return the event of an object's version, with what a flow needs to load it."""
    uri, version = store.uri(info.key), version_of(info)
    payload = {
        "uri": uri,
        "key": info.key,
        "version": version,
        "size": info.size,
        "last_modified": info.last_modified.isoformat(),
    }
    return described(OBJECT_CREATED, asset_key(uri), name=info.key, identity=f"{uri}@{version}", payload=payload)


def version_of(info: ObjectInfo) -> str:
    """Return what tells a version of an object from its others: its etag, where the store has one."""
    return info.etag or f"{info.last_modified:%Y%m%dT%H%M%S.%f}-{info.size}"


def _state_key(store: StoreFolder, folder: str) -> str:
    place = store.place(folder_prefix(folder).rstrip("/"))
    return f"{STATES}/{artifact_key(folder)}-{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}.json"


def _read(state: StoreFolder, key: str) -> tuple[dict[str, str], str | None]:
    """Return the versions that were told, and the etag of the object that says so; none where there is no such object.

    The etag is asked for first: where another watcher writes in between, a write with it is refused.
    """
    try:
        etag = state.head(key).etag
        content = state.get(key)
    except ObjectNotFoundError:
        return {}, None
    try:
        return dict(json.loads(content)["versions"]), etag
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            f"{state.uri(key)} is not what a watcher wrote. Delete it; then all objects are announced again."
        ) from None


def _write(state: StoreFolder, key: str, etag: str | None, versions: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Keep which versions were told; where another watcher has written meanwhile, add the new ones to what it wrote."""
    for _ in range(MOST_WRITERS):
        content = json.dumps({"versions": dict(versions)}, ensure_ascii=False, indent=0).encode()
        try:
            state.put(key, content, WriteOptions(if_match=etag) if etag else WriteOptions(if_absent=True))
        except AlreadyExistsError:
            told, etag = _read(state, key)
            versions = {**told, **new}
        else:
            return
    raise TransientError(f"{state.uri(key)} is written by others again and again. What is new will be announced again.")
