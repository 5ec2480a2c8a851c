"""What every block promises: typed fields, secrets kept, clients dropped on pickle, saved values that come back."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow, task
from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict  # noqa: TC002 (of a field)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
from pydantic import Field, SecretStr, ValidationError

from blocks import ConnectorBlock, InvalidInputError, NotFoundError, operation, resolve
from blocks.base.live import live
from blocks.cli.saved import block_types

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = {slug: each for slug, each in block_types().items() if not slug.startswith("etl-test-")}
CANARY = "canary-7f3a91"


class Key(ConnectorBlock):
    """Credentials, nested in another block."""

    _block_type_slug = "etl-test-key"

    token: SecretStr = Field(description="A secret.")

    def check(self) -> str:
        """Fine."""
        return "fine"


class Safe(ConnectorBlock):
    """A block with every kind of secret field, and a live client."""

    _block_type_slug = "etl-test-safe"

    host: str = Field(default="localhost", description="Where it is.")
    password: SecretStr | None = Field(default=None, description="A secret.")
    options: SecretDict | None = Field(default=None, description="Secrets by name.")
    key: Key | None = Field(default=None, description="Secrets of another block.")

    def check(self) -> str:
        """Fine."""
        return "fine"

    @operation
    def client(self) -> object:
        """The live client."""
        return self._client

    @live
    def _client(self) -> object:
        return object()


@pytest.fixture
def safe() -> Safe:
    return Safe(password=CANARY, options={"token": CANARY}, key=Key(token=CANARY))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hots": "x"}, "Safe has no field 'hots'; did you mean 'host'?"),
        ({"passwort": CANARY}, "Safe has no field 'passwort'; did you mean 'password'?"),
        ({"zzz": "x"}, "Safe has no field 'zzz'; its fields are: host, key, options, password, retry."),
        ({"retry": {"atempts": 3}}, "RetryPolicy has no field 'atempts'; did you mean 'attempts'?"),
    ],
)
def test_a_misspelt_field_is_an_error(wrong, message):
    """It names the nearest field, where Prefect's own blocks swallow it."""
    with pytest.raises(ValidationError, match=re.escape(message)):
        Safe(**wrong)


def unsafe_texts(safe: Safe) -> dict[str, Callable[[], Any]]:
    return {
        "repr": lambda: repr(safe),
        "str": lambda: str(safe),
        "format": lambda: f"{safe} {safe.key} {safe.password}",
        "json": safe.model_dump_json,
        "dump": safe.model_dump,
        "operation": lambda: repr(safe.client),
    }


@pytest.mark.parametrize("way", sorted(unsafe_texts(Safe())))
def test_a_secret_is_not_shown(safe, way):
    """However a block is turned into text."""
    assert CANARY not in str(unsafe_texts(safe)[way]())


@pytest.mark.parametrize(
    "fields",
    [
        {"hots": CANARY},
        {"password": {"nested": CANARY}},
        {"options": CANARY},
        {"key": CANARY},
        {"key": {"token": [CANARY]}},
        {"key": {"tokn": CANARY}},
        {"host": {CANARY: 1}, "password": CANARY},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(fields):
    """An error about a value says which field, not what it was."""
    with pytest.raises(ValidationError) as raised:
        Safe(**fields)
    assert CANARY not in "".join(traceback.format_exception(raised.value)).replace(repr(fields), "")


def test_building_a_block_opens_nothing(safe):
    """The client is made on first use, and once."""
    assert safe._live == {}
    assert safe.client() is safe.client()


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda safe: pickle.loads(pickle.dumps(safe))])  # noqa: S301
def test_a_copy_has_the_values_and_its_own_client(safe, clone):
    """Blocks cross processes and are copied by Prefect; their clients do not come along."""
    client = safe.client()
    other = clone(safe)
    assert other == safe
    assert other.password.get_secret_value() == other.key.token.get_secret_value() == CANARY
    assert other.client() is not client
    assert safe.client() is client


def test_blocks_with_equal_fields_are_equal(safe):
    """Live clients do not count."""
    other = Safe(password=CANARY, options={"token": CANARY}, key=Key(token=CANARY))
    safe.client()
    assert safe == other
    assert safe != Safe(password="another")


@pytest.mark.usefixtures("prefect_server")
def test_a_saved_block_comes_back(safe):
    """Values, secrets and nested blocks; the nested one stays a block of its own where it was saved."""
    safe.key.save("nested", overwrite=True)
    safe.save("round-trip", overwrite=True)
    loaded = Safe.load("round-trip")
    assert loaded.password.get_secret_value() == CANARY
    assert loaded.options.get_secret_value() == {"token": CANARY}
    assert loaded.key.token.get_secret_value() == CANARY
    assert loaded.key._block_document_name == "nested"
    assert loaded.client() is not None


@pytest.mark.usefixtures("prefect_server")
def test_a_saved_block_that_fits_no_more_says_so(safe):
    """After an upgrade that renamed a field, the error names the block and what to do."""
    safe.save("outdated", overwrite=True)
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("outdated", "etl-test-safe")
        renamed = BlockDocumentUpdate(
            block_schema_id=document.block_schema_id, data={"hostname": "x"}, merge_existing_data=False
        )
        client.update_block_document(document.id, renamed)
    with pytest.raises(InvalidInputError, match="'etl-test-safe/outdated' does not fit this version of its type"):
        resolve("etl-test-safe/outdated", Safe)


@pytest.mark.usefixtures("prefect_server")
def test_secrets_are_masked_by_the_api_and_encrypted_at_rest(safe):
    """The API shows stars, and the database file and its log hold no secret in clear text."""
    safe.save("masked", overwrite=True)
    with get_client(sync_client=True) as client:
        shown = client.read_block_document_by_name("masked", "etl-test-safe", include_secrets=False)
    assert CANARY not in json.dumps(shown.data)
    assert "****" in json.dumps(shown.data)
    database = Path(str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition("///")[2])
    stored = b"".join(file.read_bytes() for file in database.parent.glob(f"{database.name}*"))
    assert b"etl-test-safe" in stored
    assert CANARY.encode() not in stored


@pytest.mark.usefixtures("prefect_server")
def test_resolve_takes_a_block_or_the_name_of_a_saved_one(safe):
    """Flows take either; anything else is an error that says what was expected."""
    safe.save("resolved", overwrite=True)
    assert resolve(safe, Safe) is safe
    assert resolve("etl-test-safe/resolved", Safe) == safe
    with pytest.raises(NotFoundError, match="No saved block 'etl-test-safe/none'"):
        resolve("etl-test-safe/none", Safe)
    with pytest.raises(InvalidInputError, match=r"is a Safe\b.*Key"):
        resolve("etl-test-safe/resolved", Key)
    for wrong in ("resolved", "a/b/c", 3, None):
        with pytest.raises(InvalidInputError, match=r"Safe\b.* the name of a saved one"):
            resolve(wrong, Safe)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_resolve_returns_a_block_in_async_code_too(safe):
    """In an async flow, task or function, where Prefect's `load` returns a coroutine."""
    safe.save("resolved", overwrite=True)

    @task
    async def within() -> Any:
        return resolve("etl-test-safe/resolved", Safe)

    @flow
    async def around() -> Any:
        return [resolve("etl-test-safe/resolved", Safe), await within()]

    async def plain() -> Any:
        return resolve("etl-test-safe/resolved", Safe)

    assert [*asyncio.run(around()), asyncio.run(plain())] == [safe] * 3
    gc.collect()  # Prefect leaves its client's sockets to the collector


def test_every_block_type_has_a_slug_of_ours():
    """They live beside other collections on one server."""
    ours = [slug for slug, kind in block_types().items() if kind.__module__.startswith(("blocks.", "connectors."))]
    assert ours
    assert all(slug.startswith("etl-") for slug in ours)


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_secret_fields_are_kinds_that_the_api_masks(block_type):
    """`dict[str, SecretStr]` would come back from the API in clear text."""
    for name, field in block_type.model_fields.items():
        kind = str(field.annotation)
        assert not re.search(r"(dict|Mapping)\[.*Secret", kind, re.IGNORECASE), f"{name} is a {kind}"
        if re.search(r"(password|secret|token|private_key)(?!_(name|version|path|file|url))", name):
            assert "Secret" in kind, f"{name} is a {kind}"


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_it_is_a_block_of_prefects(block_type):
    """So it can be loaded by its slug, saved, and shown in the UI."""
    assert issubclass(block_type, Block)
    assert Block.get_block_class_from_key(block_type.get_block_type_slug()) is block_type


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_its_form_in_the_ui_starts_with_its_own_fields(block_type):
    """What all blocks share, the retries, comes after what this one is about; units are spelled out."""
    assert block_type.get_block_type_name().startswith("ETL ")
    fields = block_type.model_json_schema()["properties"]
    order = sorted(fields, key=lambda name: fields[name]["position"])
    own = [name for name in order if name in block_type.__annotations__]
    assert order.index("retry") > max((order.index(name) for name in own), default=0)
    assert not [field["title"] for field in fields.values() if field["title"].endswith(" S")]
