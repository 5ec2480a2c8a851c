"""Faults for the tests of your own pipelines: a pytest plugin that loads only where it is named.

    pytest_plugins = ["blocks.testing"]             # in conftest.py or in the test's own file

Fixtures: `lost_commit`, `throttled`, `killed`, `fault_proxy`. It needs pytest.
"""

from blocks.testing.fixtures import Killer, Proxies, Throttle, fault_proxy, killed, lost_commit, throttled
from blocks.testing.http_proxy import HttpFaultProxy
from blocks.testing.moments import Moment, Strike, striking
from blocks.testing.proxy import FaultProxy

__all__ = [
    "FaultProxy",
    "HttpFaultProxy",
    "Killer",
    "Moment",
    "Proxies",
    "Strike",
    "Throttle",
    "fault_proxy",
    "killed",
    "lost_commit",
    "striking",
    "throttled",
]
