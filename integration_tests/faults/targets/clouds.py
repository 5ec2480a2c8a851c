"""Snowflake and BigQuery, on their stand-ins."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.credentials.gcp import GcpCredentials
from blocks.testing import HttpFaultProxy
from connectors.bigquery import BigQuery
from connectors.snowflake import Snowflake
from integration_tests.faults.cases import PROCESS_FAULTS, RACES, SOURCE_FAULT
from integration_tests.faults.targets.base import PATIENT, Place, Target
from integration_tests.faults.targets.wires import HttpWire, SnowflakeFaultProxy, SnowflakeWire
from integration_tests.standins.bigquery import PROJECT, BigQueryServer
from integration_tests.standins.snowflake import PASSWORD, USER, SnowflakeServer, fields

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blocks.base.retry import RetryPolicy

KNOWN = {"t", "_etl_loads", "_etl_quarantine"}


class ImpatientSnowflake(Snowflake):
    """A block whose driver repeats a request for a second, and gives up."""

    _block_type_slug = "etl-test-impatient-snowflake"

    def connect(self, load_id: str | None = None, **options: Any) -> Any:
        """A connection that does not wait long between its attempts."""
        return super().connect(load_id, **{**options, "backoff_policy": quickly})


def quickly() -> Iterator[float]:
    """A fifth of a second, each time."""
    return itertools.repeat(0.2)


class SnowflakeTarget(Target):
    """The stand-in; a schema for each case."""

    name: ClassVar[str] = "Snowflake"
    faults: ClassVar[tuple[str, ...]] = (
        "503",
        "429",
        "500 after it was done",
        "lose request",
        "lose answer",
        "silence",
        "sent twice",
        SOURCE_FAULT,
        *PROCESS_FAULTS,
        *RACES,
    )
    skipped: ClassVar[dict[str, str]] = {
        "429 with Retry-After": "its driver reads no Retry-After",
        "503 with Retry-After": "its driver reads no Retry-After",
        "flipped request": "TLS is Snowflake's only protection of statements, and the stand-in has none",
    }
    most_rows = 500

    def open(self) -> None:
        """Start the server and the proxy."""
        self.snowflake: SnowflakeServer = self.server("snowflake", SnowflakeServer)
        self.secrets = (PASSWORD,)
        self.proxy = self._stack.enter_context(SnowflakeFaultProxy(self.snowflake.url))
        self.home = self._block("public", None, PATIENT)

    def _block(self, schema: str, port: int | None, retry: RetryPolicy) -> Any:
        login = {"account": "standin", "user": USER, "password": PASSWORD, **self.snowflake.connection(port)}
        seconds = 20 if port is None else 1
        timeouts = dict.fromkeys(("network_timeout_s", "login_timeout_s", "socket_timeout_s"), seconds)
        return ImpatientSnowflake(credentials=login, **fields(schema), retry=retry, **timeouts)

    def place(self, folder: Path) -> Place:
        """A new schema."""
        schema = f"s{uuid.uuid4().hex[:12]}"
        self.home.execute(f"CREATE SCHEMA {schema}")
        direct = self._block(schema, None, PATIENT)

        def leftovers() -> list[str]:
            names = direct.fetch_all(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = :s", {"s": schema.upper()}
            )
            strange = [name for (name,) in names if name.lower() not in KNOWN]
            return [f"table {name}" for name in strange] + [f"stage {name}" for name in self.snowflake.stages()]

        return Place(
            folder,
            direct,
            wires=[SnowflakeWire(self.proxy)],
            behind=lambda retry: self._block(schema, self.proxy.port, retry),
            leftovers=leftovers,
            drop=lambda: self.home.execute(f"DROP SCHEMA {schema} CASCADE"),
        )


class BigQueryTarget(Target):
    """The stand-in; a dataset for each case."""

    name: ClassVar[str] = "BigQuery"
    faults: ClassVar[tuple[str, ...]] = (
        "503",
        "503 with Retry-After",
        "429",
        "500 after it was done",
        "lose request",
        "lose answer",
        "sent twice",
        "slow answer",
        SOURCE_FAULT,
        *PROCESS_FAULTS,
        *RACES,
    )
    skipped: ClassVar[dict[str, str]] = {
        "flipped request": "the stand-in compares no checksum of an upload",
        "429 with Retry-After": "its client reads no Retry-After",
    }
    most_rows = 500

    def open(self) -> None:
        """Start the server and the proxy."""
        self.bigquery: BigQueryServer = self.server("bigquery", BigQueryServer)
        self.proxy = self._stack.enter_context(HttpFaultProxy(self.bigquery.url))

    def _block(self, dataset: str, url: str, retry: RetryPolicy) -> Any:
        credentials = GcpCredentials(anonymous=True, endpoint_url=url)
        return BigQuery(gcp_credentials=credentials, dataset=dataset, project=PROJECT, retry=retry)

    def place(self, folder: Path) -> Place:
        """A new dataset."""
        dataset = self.bigquery.new_dataset()
        direct = self._block(dataset, self.bigquery.url, PATIENT)

        def leftovers() -> list[str]:
            client = direct.get_client()
            names = {each.table_id for each in client.list_tables(dataset)} - KNOWN
            return [f"table {name}" for name in names if client.get_table(f"{dataset}.{name}").expires is None]

        return Place(
            folder,
            direct,
            wires=[HttpWire(self.proxy)],
            behind=lambda retry: self._block(dataset, self.proxy.url, retry),
            leftovers=leftovers,
            drop=lambda: direct.get_client().delete_dataset(dataset, delete_contents=True),
        )
