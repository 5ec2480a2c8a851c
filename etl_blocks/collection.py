"""Our block types: Prefect imports this module to find them (entry point `prefect.collections`)."""

from importlib import import_module

from etl_blocks.hiding import PACKAGES, require_ours

MODULES = (  # in the order of the README's table
    "blocks.credentials.aws",
    "blocks.credentials.azure",
    "blocks.credentials.gcp",
    "connectors.local",
    "connectors.duckdb",
    "connectors.s3",
    "connectors.gcs",
    "connectors.azure",
    "connectors.sftp",
    "connectors.http",
    "connectors.aws_parameter",
    "connectors.aws_secret",
    "connectors.aws_lambda",
    "connectors.batch",
    "connectors.ecs",
    "connectors.glue",
    "connectors.gcp_secret",
    "connectors.postgres",
    "connectors.redshift",
    "connectors.mysql",
    "blocks.credentials.snowflake",
    "connectors.snowflake",
    "connectors.bigquery",
    "connectors.sqlalchemy",
    "connectors.dbt",
    "blocks.credentials.dbt_cloud",
    "connectors.dbt_cloud",
    "connectors.great_expectations",
)

require_ours(*PACKAGES)
for module in MODULES:
    import_module(module)
