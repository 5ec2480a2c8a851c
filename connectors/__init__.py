"""Connectors: one module for each outside system. Import the block from its module."""
