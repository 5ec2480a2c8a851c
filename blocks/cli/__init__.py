"""The `etl` command."""

from blocks.cli.command import main

__all__ = ["main"]
