"""Assets: tables and objects as Prefect knows them, so that its UI shows what was made of what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext
from prefect.states import Completed
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UNSAFE_IN_ASSETS = str.maketrans(dict.fromkeys(RESTRICTED_ASSET_CHARACTERS, "_"))
MOST_ORIGINS = 50
"""Prefect's server takes 100 resources an event, those of the run among them."""


def asset_key(uri: str) -> str:
    """Return the address as Prefect takes it as the key of an asset: what it refuses, such as a space, becomes `_`.

    Addresses that differ in such characters only are one asset.

    >>> asset_key("duckdb:///data/my shop.duckdb/main.orders")
    'duckdb:///data/my_shop.duckdb/main.orders'
    """
    scheme, _, rest = uri.partition("://")
    key = f"{scheme.lower()}://{rest.translate(UNSAFE_IN_ASSETS)}"
    return (
        key
        if len(key) <= MAX_ASSET_KEY_LENGTH
        else key[: MAX_ASSET_KEY_LENGTH // 2] + key[-MAX_ASSET_KEY_LENGTH // 2 :]
    )


def note_asset(key: str, *, name: str, tool: str, origins: Iterable[str], metadata: Mapping[str, Any]) -> None:
    """Tell Prefect's server that the current run made an asset; the events are sent in the background.

    They are those of a task with Prefect's decorator `materialize`, for an asset that is known only once it is made.

    Args:
        key: The asset, as `asset_key` returns it.
        name: What people call it.
        tool: What made it.
        origins: The keys of the assets that it was made of.
        metadata: What to keep with it, without secrets and without rows.
    """
    made = Asset(key=key, properties=AssetProperties(name=name))
    upstream = [origin for origin in dict.fromkeys(origins) if origin != key][:MOST_ORIGINS]
    context = AssetContext(
        direct_asset_dependencies={Asset(key=origin) for origin in upstream},
        downstream_assets={made},
        materialized_by=tool,
        materialization_metadata={key: dict(metadata)},
    )
    context.emit_events(Completed())
