"""Connectors: one module for each outside system. Import the block from its module."""

import etl_blocks.ours  # noqa: F401 (its import says what is wrong where `blocks` is not ours)
