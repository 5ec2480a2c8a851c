"""AzureBlobContainer on Azurite: the common promises, and what only a service can get wrong."""

from __future__ import annotations

import base64
import datetime as dt
import io
import os
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from blocks.azure_credentials import AzureBlobStorageCredentials
from blocks.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    TransientError,
    UnsupportedError,
)
from blocks.file_io import CHUNK_BYTES
from blocks.object_store import NoSuchStoreError
from blocks.retry import RetryPolicy
from connectors.azure import AzureBlobContainer
from integration_tests.standins.azurite import TokenServer
from integration_tests.standins.process import HOST, free_port
from integration_tests.standins.proxy import FaultProxy
from tests.contracts.object_store import *  # noqa: F403
from tests.contracts.object_store import LARGE, BrokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blocks.object_store import ObjectStore
    from integration_tests.standins.azurite import AzuriteServer
    from tests.contracts.object_store import MakeStore

AT_ONCE = RetryPolicy(first_delay_s=0)
NEVER = RetryPolicy(attempts=1)


@pytest.fixture(scope="module")
def container_name(azurite: AzuriteServer) -> str:
    return azurite.make_container()


@pytest.fixture
def keys_of(azurite: AzuriteServer) -> Callable[..., AzureBlobStorageCredentials]:
    """Makes credentials for the account, with its key unless told otherwise."""

    def make(**fields: Any) -> AzureBlobStorageCredentials:
        values = {"account_url": azurite.url, "account_key": azurite.key} | fields
        return AzureBlobStorageCredentials(**{name: value for name, value in values.items() if value is not None})

    return make


@pytest.fixture
def make_store(container_name: str, keys_of: Callable[..., AzureBlobStorageCredentials]) -> MakeStore:
    place, credentials = uuid.uuid4().hex, keys_of()

    def make(folder: str) -> AzureBlobContainer:
        return AzureBlobContainer(
            container_name=container_name, credentials=credentials, base_folder=f"{place}/{folder}", retry=AT_ONCE
        )

    return make


@pytest.fixture
def store(make_store: MakeStore) -> AzureBlobContainer:
    found = make_store("base")
    assert isinstance(found, AzureBlobContainer)
    return found


def names(store: AzureBlobContainer, *include: str) -> list[str]:
    """The names of the blobs in the store's folder as the service tells them, blocks without a blob too."""
    container = store.get_client().get_container_client(store.container_name)
    found = container.list_blobs(name_starts_with=store.base_folder, include=["uncommittedblobs", *include])
    return [each.name.removeprefix(f"{store.base_folder}/") for each in found]
