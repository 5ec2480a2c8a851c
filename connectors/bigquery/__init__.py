"""Google BigQuery: load jobs from Parquet in, the Storage Read API out, each load one scripted transaction."""

from connectors.bigquery.block import BigQuery

__all__ = ["BigQuery"]
