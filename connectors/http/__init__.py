"""Files on an HTTP server, which are read."""

from connectors.http.block import HttpFiles

__all__ = ["HttpFiles"]
