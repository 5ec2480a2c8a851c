"""Prefect's own standards for blocks, over every block type of ours."""

from __future__ import annotations

import inspect

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockTypeUpdate
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect.utilities.dispatch import get_registry_for_type

from blocks.cli.saved import block_types

TYPES = {slug: each for slug, each in block_types().items() if each.__module__.startswith(("blocks.", "connectors."))}


class TestBlocks(BlockStandardTestSuite):
    """Description, documentation link, described fields, an example that loads it."""

    @pytest.fixture(params=TYPES.values(), ids=TYPES)
    def block(self, request):
        """Each block type of ours."""
        return request.param

    test_has_a_valid_image = None  # without internet there is none to see


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_it_has_no_logo_that_needs_the_internet(block_type):
    """The UI draws a picture by its address alone, and Prefect takes no data URI: one from afar is a broken picture."""
    assert block_type._logo_url is None


def test_no_abstract_type_is_in_the_catalog():
    """Prefect's server, when it starts, registers what this registry of Prefect's holds."""
    assert [each for each in (get_registry_for_type(Block) or {}).values() if inspect.isabstract(each)] == []


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_the_form_asks_by_need(block_type):
    """What has to be entered comes first, retries and concurrency last; a field that may be empty is no switch."""
    fields = block_type.model_json_schema()["properties"]
    names = sorted(fields, key=lambda name: fields[name]["position"])
    required = block_type.model_json_schema().get("required", [])
    first = block_type._first_fields
    assert names[-1] == "retry"
    assert set(names[: len(first)]) == set(first)
    assert set(names[len(first) :][: len(set(required) - set(first))]) == set(required) - set(first)
    assert "max_concurrency" not in names or names[-2] == "max_concurrency"
    assert not [name for name in names if {"type": "null"} in fields[name].get("anyOf", [])]


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_its_name_says_whose_it_is(block_type):
    """Names are unique on a server, and other collections have a Postgres too."""
    names = [each.get_block_type_name() for each in TYPES.values()]
    assert names.count(block_type.get_block_type_name()) == 1


@pytest.mark.parametrize("block_type", TYPES.values(), ids=TYPES)
def test_fields_fit_the_form(block_type):
    """Every field but other blocks is described in sentences: it is the help text of the UI's form."""
    for name, field in block_type.model_fields.items():
        assert field.description, f"{name} has no description"
        assert field.description.endswith("."), f"the description of {name} is no sentence"


@pytest.mark.usefixtures("prefect_server")
def test_a_picture_from_afar_goes_when_the_type_is_registered_again():
    """A server on which an earlier version was registered shows no broken picture either."""
    kind = TYPES["etl-memory-files"]
    kind.register_type_and_schema()
    with get_client(sync_client=True) as client:
        known = client.read_block_type_by_slug("etl-memory-files")
        client.update_block_type(known.id, BlockTypeUpdate(logo_url="https://example.com/logo.png"))
        assert client.read_block_type_by_slug("etl-memory-files").logo_url
        kind.register_type_and_schema()
        assert client.read_block_type_by_slug("etl-memory-files").logo_url is None
