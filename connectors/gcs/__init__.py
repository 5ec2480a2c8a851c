"""Google Cloud Storage, through Google's own client and its JSON API."""

from connectors.gcs.block import BlobInfo, GcsBucket

__all__ = ["BlobInfo", "GcsBucket"]
