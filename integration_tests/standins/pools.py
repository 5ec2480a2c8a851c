"""Runs within `.venv-pools`, with the packages of the worker types: what their workers make of job variables.

Reads JSON from stdin, `{type: job variables}`, and prints `{type: {"unknown": [...], "job": {...}}}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from prefect_aws.workers.ecs_worker import ECSWorker
from prefect_azure.workers.container_instance import AzureContainerWorker
from prefect_docker.worker import DockerWorker
from prefect_gcp.workers.cloud_run_v2 import CloudRunWorkerV2
from prefect_kubernetes.worker import KubernetesWorker

WORKERS: tuple[Any, ...] = (AzureContainerWorker, CloudRunWorkerV2, DockerWorker, ECSWorker, KubernetesWorker)


async def main() -> None:
    """Make the job that each worker would start; a variable of a wrong type is an error."""
    given = json.load(sys.stdin)
    found = {}
    for worker in WORKERS:
        template, variables = worker.get_default_base_job_template(), given[worker.type]
        job = await worker.job_configuration.from_template_and_values(template, variables)
        unknown = set(variables) - set(template["variables"]["properties"])
        found[worker.type] = {"unknown": sorted(unknown), "job": job.model_dump(mode="json")}
    json.dump(found, sys.stdout, default=str)


if __name__ == "__main__":
    asyncio.run(main())
