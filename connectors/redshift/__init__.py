"""Amazon Redshift: PostgreSQL's protocol by psycopg, bulk in by COPY of Parquet from S3, bulk out row by row."""

from connectors.redshift.block import Redshift

__all__ = ["Redshift"]
