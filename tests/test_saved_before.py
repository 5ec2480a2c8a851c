"""Blocks that an earlier version saved load as they were.

`data/saved_by_f763dae.json` holds what Prefect's API stored when commit f763dae saved blocks of all its types: types,
schemas with their checksums, and documents, in which the name of a block stands for its id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client

from blocks import ConnectorBlock
from blocks.cli.saved import block_types

SAVED = json.loads((Path(__file__).parent / "data" / "saved_by_f763dae.json").read_text("utf-8"))
DOCUMENTS = {each["block"]: each for each in SAVED["block_documents"]}
OLD = "saved-by-f763dae-"
RENAMED = {"request_timeout_s": "read_timeout_s", "socket_timeout_s": "read_timeout_s"}


@pytest.fixture(scope="module")
def saved(prefect_server: str) -> None:
    """The types, schemas and documents, in a server as they were."""
    assert prefect_server
    with get_client(sync_client=True) as client:
        types = {each["slug"]: type_id(client, each) for each in SAVED["block_types"]}
        schemas = {}
        for each in sorted(SAVED["block_schemas"], key=lambda each: bool(each["fields"]["block_schema_references"])):
            content = {key: each[key] for key in ("fields", "capabilities", "version")}
            made = client.request(
                "POST", "/block_schemas/", json=content | {"block_type_id": types[each["block_type"]]}
            )
            assert made.json()["checksum"] == each["checksum"]
            schemas[each["checksum"]] = made.json()["id"]
        ids: dict[str, str] = {}
        for block, each in DOCUMENTS.items():  # a block that another one refers to was saved before it
            slug, _, name = block.partition("/")
            data = {key: with_ids(value, ids) for key, value in each["data"].items()}
            place = {"block_type_id": types[slug], "block_schema_id": schemas[each["checksum"]]}
            ids[block] = client.request(
                "POST", "/block_documents/", json={"name": OLD + name, "data": data, **place}
            ).json()["id"]


def type_id(client: SyncPrefectClient, block_type: dict[str, Any]) -> str:
    """The id of the type, which this server may know from a test before."""
    try:
        return client.request("POST", "/block_types/", json=block_type).json()["id"]
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) != 409:
            raise
        return client.request("GET", f"/block_types/slug/{block_type['slug']}").json()["id"]


def with_ids(value: Any, ids: dict[str, str]) -> Any:
    """A value of a document with ids in place of names."""
    if isinstance(value, dict) and "$ref" in value:
        return {"$ref": {"block_document_id": ids[value["$ref"]["block_document_id"]]}}
    return value


def values(block: str) -> dict[str, Any]:
    """What was saved, by the names that its fields have now, with the values of the blocks that it refers to."""
    data: dict[str, Any] = DOCUMENTS[block]["data"]
    return {
        RENAMED.get(key, key): (
            values(value["$ref"]["block_document_id"]) if isinstance(value, dict) and "$ref" in value else value
        )
        for key, value in data.items()
    }


def common(found: Any, saved: Any) -> Any:
    """What was found of what was saved: fields may have come since, none may have gone."""
    if isinstance(saved, dict) and isinstance(found, dict):
        return {key: common(found[key], value) for key, value in saved.items() if key in found}
    return found


def test_every_type_is_still_there() -> None:
    """Each slug, with blocks of it to load."""
    slugs = {each["slug"] for each in SAVED["block_types"]}
    assert slugs <= set(block_types())
    assert {block.partition("/")[0] for block in DOCUMENTS} == slugs


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("block", DOCUMENTS)
def test_a_block_that_was_saved_before_loads(block: str) -> None:
    """As the class of its slug, with every value that it was saved with, secrets too."""
    slug, _, name = block.partition("/")
    loaded = Block.load(f"{slug}/{OLD}{name}")
    assert type(loaded) is block_types()[slug]
    assert isinstance(loaded, ConnectorBlock)
    found = loaded.model_dump(mode="json", by_alias=True, context={"include_secrets": True})
    assert common(found, values(block)) == values(block)
