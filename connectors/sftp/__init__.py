"""A folder on an SFTP server."""

from connectors.sftp.block import Sftp

__all__ = ["Sftp"]
