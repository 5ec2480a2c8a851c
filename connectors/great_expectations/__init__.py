"""Great Expectations 1.x: a suite as a block, checked where the data is."""

from connectors.great_expectations.block import DataQuality
from connectors.great_expectations.expectation import Expectation

__all__ = ["DataQuality", "Expectation"]
