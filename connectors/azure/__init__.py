"""Azure Blob Storage: a container, or a folder in one."""

from connectors.azure.block import AzureBlobContainer

__all__ = ["AzureBlobContainer"]
