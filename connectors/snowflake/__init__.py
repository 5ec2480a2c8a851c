"""Snowflake: statements and reads by its own driver, loads by Parquet files on a temporary stage and COPY INTO."""

from connectors.snowflake.block import Snowflake

__all__ = ["Snowflake"]
