"""One block per identity. Empty fields mean the machine's own identity; nothing is looked up before first use."""

from blocks.aws_credentials import AwsCredentials
from blocks.azure_credentials import AzureBlobStorageCredentials
from blocks.dbt_cloud_credentials import DbtCloudCredentials
from blocks.gcp_credentials import GcpCredentials
from blocks.snowflake_credentials import SnowflakeCredentials

__all__ = [
    "AwsCredentials",
    "AzureBlobStorageCredentials",
    "DbtCloudCredentials",
    "GcpCredentials",
    "SnowflakeCredentials",
]
