"""All targets, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration_tests.faults.targets.clouds import BigQueryTarget, SnowflakeTarget
from integration_tests.faults.targets.databases import DuckDBTarget, PostgresTarget, RedshiftTarget
from integration_tests.faults.targets.stores import AzureTarget, GcsTarget, LocalTarget, S3Target

if TYPE_CHECKING:
    from integration_tests.faults.targets.base import Target

TARGETS: dict[str, type[Target]] = {
    each.name: each
    for each in (
        PostgresTarget,
        DuckDBTarget,
        RedshiftTarget,
        SnowflakeTarget,
        BigQueryTarget,
        S3Target,
        GcsTarget,
        AzureTarget,
        LocalTarget,
    )
}
QUICK = ("PostgreSQL", "DuckDB", "S3", "GCS", "LocalFiles")
"""Those whose cases are short."""
