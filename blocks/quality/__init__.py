"""Checks of data: contracts, their rules, and the report of a check."""
