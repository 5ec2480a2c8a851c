"""Amazon S3, and every server that speaks its protocol."""

from connectors.s3.block import S3Bucket

__all__ = ["S3Bucket"]
