"""dbt: a project of models, seeds, snapshots and tests, built in a warehouse by dbt itself, in a process of its own."""

from connectors.dbt.project import DbtProject
from connectors.dbt.request import Command
from connectors.dbt.run import DbtRun
from connectors.shared.dbt import DbtFailedError, DbtNode, DbtResult, DbtTransientError

__all__ = [
    "Command",
    "DbtFailedError",
    "DbtNode",
    "DbtProject",
    "DbtResult",
    "DbtRun",
    "DbtTransientError",
]
