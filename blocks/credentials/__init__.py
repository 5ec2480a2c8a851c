"""One block per identity. Empty fields mean the ambient identity; nothing is looked up before first use."""

from blocks.credentials.aws import AwsCredentials
from blocks.credentials.azure import AzureBlobStorageCredentials
from blocks.credentials.dbt_cloud import DbtCloudCredentials
from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials

__all__ = [
    "AwsCredentials",
    "AzureBlobStorageCredentials",
    "DbtCloudCredentials",
    "GcpCredentials",
    "SnowflakeCredentials",
]
