"""A job of dbt Cloud."""

from connectors.dbt_cloud.job import DbtCloudJob
from connectors.dbt_cloud.run import DbtCloudRun
from connectors.dbt_cloud.status import DbtCloudStatus, DbtCloudStep
from connectors.shared.dbt import DbtNode

__all__ = ["DbtCloudJob", "DbtCloudRun", "DbtCloudStatus", "DbtCloudStep", "DbtNode"]
