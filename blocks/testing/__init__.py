"""Faults for the tests of your own pipelines."""
