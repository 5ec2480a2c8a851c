"""A task of Amazon ECS: containers that run until they are done."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prefect.types import SecretDict
from pydantic import Field, HttpUrl, model_validator

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
    lookup,
    service_error,
)
from blocks.base.live import live
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from blocks.jobs.output import LogStream
from blocks.jobs.run import JobStatus
from blocks.jobs.start import StartedRun, StartToken
from connectors.shared.aws_job import AwsJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "ClusterNotFoundException": NotFoundError,
    "ServiceNotFoundException": NotFoundError,
    "InvalidParameterException": InvalidInputError,
    "ClientException": InvalidInputError,
    "PlatformUnknownException": InvalidInputError,
    "PlatformTaskDefinitionIncompatibilityException": InvalidInputError,
    "ConflictException": AlreadyExistsError,
    "BlockedException": AccessDeniedError,
    "UnsupportedFeatureException": UnsupportedError,
    "LimitExceededException": TerminalError,  # a quota of the account here, not a rate
    "ServerException": TransientError,
}
"""https://docs.aws.amazon.com/AmazonECS/latest/APIReference/CommonErrors.html and each action's own list."""

NOT_PLACED: dict[str, type[ConnectorError]] = {
    "RESOURCE*": TransientError,
    "AGENT": TransientError,
    "Capacity is unavailable*": TransientError,
}
"""https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html; others are terminal."""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "ClusterNotFoundException": "Check cluster, and the region_name of the credentials.",
    "ClientException": "Check task_definition, and the region_name of the credentials.",
    "ConflictException": "The token was used for a task with other settings. Use another one.",
}

FINISHED_BY_ITSELF = {None, "EssentialContainerExited"}


class EcsTask(AwsJob):
    """A task of Amazon ECS, run to its end.

    Example:
        ```python
        from connectors.ecs import EcsTask

        task = EcsTask.load("BLOCK_NAME")
        status = task.run()
        ```
    """

    _block_type_name = "ETL ECS Task"
    _block_type_slug = "etl-ecs-task"
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonECS/latest/developerguide/standalone-tasks.html")
    _service: ClassVar[str] = "ecs"
    _errors_table = ERRORS
    _advice = ADVICE
    _listed_for = dt.timedelta(hours=1)

    task_definition: str = Field(min_length=1, description="The task definition's family, family:revision, or ARN.")
    cluster: str = Field(
        default="default", description="The cluster's name or ARN. Defaults to the cluster called default."
    )
    launch_type: Literal["FARGATE", "EC2", "EXTERNAL"] | None = Field(
        default=None,
        description="Where the task runs: FARGATE, EC2 or EXTERNAL. Defaults to the cluster's capacity providers.",
    )
    capacity_provider: str | None = Field(
        default=None,
        description="A capacity provider such as FARGATE_SPOT, in place of a launch type. Defaults to none.",
    )
    subnets: list[str] = Field(
        default_factory=list, description="The subnets to choose from. FARGATE needs at least one."
    )
    security_groups: list[str] = Field(
        default_factory=list, description="The security groups. Defaults to the default group of the VPC."
    )
    assign_public_ip: bool = Field(
        default=False,
        description="Whether the task gets a public IP address, which it needs where there is no NAT gateway. "
        "Defaults to false.",
    )
    container_name: str | None = Field(
        default=None,
        description="The container whose exit code counts and to which the settings below apply. Defaults to the "
        "first essential container.",
    )
    command: list[str] | None = Field(
        default=None, description="The container's command. Defaults to the definition's."
    )
    environment: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description="Environment variables for the container, in addition to the definition's.",
    )
    cpu: int | None = Field(
        default=None,
        gt=0,
        title="CPU units",
        description="CPU units of the task, 1024 to a virtual CPU. Defaults to the definition's.",
    )
    memory: int | None = Field(
        default=None,
        gt=0,
        title="Memory (MiB)",
        description="Memory of the task, in MiB. Defaults to the definition's.",
    )
    task_role_arn: str | None = Field(
        default=None, description="ARN of the role that the containers have. Defaults to the definition's."
    )
    execution_role_arn: str | None = Field(
        default=None, description="ARN of the role that fetches images and secrets. Defaults to the definition's."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags for the task. Defaults to none.")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.launch_type and self.capacity_provider:
            raise ValueError("launch_type and capacity_provider exclude each other: give one of them")
        if (self.security_groups or self.assign_public_ip) and not self.subnets:
            raise ValueError("security_groups and assign_public_ip go with subnets: give at least one")
        return self

    def check(self) -> str:
        """Check that the cluster is active and the task definition there, and say so in one sentence.

        Raises:
            NotFoundError: The cluster or the task definition is not.
            AccessDeniedError: The identity may not describe them.
        """
        with self._errors("describe", f"ECS cluster {self.cluster}", "ecs:DescribeClusters"):
            found = self.get_client().describe_clusters(clusters=[self.cluster])["clusters"]
        if not found or found[0]["status"] != "ACTIVE":
            state = found[0]["status"] if found else "missing"
            raise NotFoundError(
                f"ECS cluster {self.cluster} is {state}. Check cluster, and the credentials' region_name."
            )
        self._definition(self.task_definition)
        return f"ECS cluster {self.cluster} is active, and task definition {self.task_definition} is there."

    @property
    def name(self) -> str:
        """What messages call the job."""
        return f"ECS task {self.task_definition}"

    def _start(self, token: str) -> str:
        action = "ecs:RunTask, and iam:PassRole for the roles of the task"
        values = [str(value) for value in self.environment.get_secret_value().values()]
        request = self._request(token)
        with self._errors("start", self.name, action, hidden=values):
            answer = self.get_client().run_task(**request)
        if answer["tasks"]:
            return str(answer["tasks"][0]["taskArn"])
        failure = answer["failures"][0]
        reason = failure["reason"].strip().rstrip(".")
        table = {reason: lookup(NOT_PLACED, reason) or TerminalError}
        raise service_error("start", self.name, [reason], failure.get("detail", ""), table=table, advice={})

    def _find_runs(self, cause: str) -> Iterator[StartedRun]:
        found: list[str] = []
        for state in ("RUNNING", "STOPPED"):
            request: dict[str, Any] = {"cluster": self.cluster, "startedBy": cause, "desiredStatus": state}
            while True:
                with self._errors("look for", self.name, "ecs:ListTasks"):
                    answer = self.get_client().list_tasks(**request)
                found += answer["taskArns"]
                if not answer.get("nextToken"):
                    break
                request["nextToken"] = answer["nextToken"]
        for arn in dict.fromkeys(found):
            try:
                task = self._task(arn)
            except NotFoundError:  # listed, and forgotten meanwhile
                continue
            # ECS does not show the token of a task. That of this call needs none: it is an idempotency token.
            outcome = self._status_of(arn, task).outcome
            is_stopping = outcome == "running" and task.get("desiredStatus") == "STOPPED"
            yield StartedRun(arn, "", outcome, is_stopping)

    def _request(self, token: str) -> dict[str, Any]:
        request: dict[str, Any] = {
            "cluster": self.cluster,
            "taskDefinition": self.task_definition,
            "count": 1,
            "clientToken": str(token),
            "overrides": self._overrides(),
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()],
        }
        if isinstance(token, StartToken):
            request["startedBy"] = token.cause
        if self.launch_type:
            request["launchType"] = self.launch_type
        if self.capacity_provider:
            request["capacityProviderStrategy"] = [{"capacityProvider": self.capacity_provider, "weight": 1}]
        if self.subnets:
            network = {
                "subnets": self.subnets,
                "securityGroups": self.security_groups,
                "assignPublicIp": "ENABLED" if self.assign_public_ip else "DISABLED",
            }
            request["networkConfiguration"] = {"awsvpcConfiguration": network}
        return request

    def _overrides(self) -> dict[str, Any]:
        container: dict[str, Any] = {}
        if self.command is not None:
            container["command"] = self.command
        if variables := self.environment.get_secret_value():
            container["environment"] = [{"name": name, "value": str(value)} for name, value in variables.items()]
        task = {
            "cpu": self.cpu and str(self.cpu),
            "memory": self.memory and str(self.memory),
            "taskRoleArn": self.task_role_arn,
            "executionRoleArn": self.execution_role_arn,
        }
        overrides: dict[str, Any] = {name: value for name, value in task.items() if value is not None}
        if container:
            container["name"] = self.container_name or self._main_container(self.task_definition)
            overrides["containerOverrides"] = [container]
        return overrides

    def get_status(self, run_id: str) -> JobStatus:
        """Ask the service how the run is doing."""
        with self._reading(run_id):
            return self._status_of(run_id, self._task(run_id))

    def _task(self, run_id: str) -> dict[str, Any]:
        with self._errors("describe", f"{self.name} ({run_id})", "ecs:DescribeTasks"):
            answer = self.get_client().describe_tasks(cluster=self.cluster, tasks=[run_id])
        if not answer["tasks"]:  # not yet, just after the start; or no more, an hour after the end
            raise NotFoundError(f"ECS does not show {self.name} ({run_id}).")
        task: dict[str, Any] = answer["tasks"][0]
        return task

    def _status_of(self, run_id: str, task: dict[str, Any]) -> JobStatus:
        state, started_at, ended_at = task["lastStatus"], task.get("startedAt"), task.get("stoppedAt")
        streams = self._streams(run_id, task) if self.stream_output else ()
        if state != "STOPPED":
            return JobStatus(run_id, state, "running", started_at=started_at, streams=streams)
        name = self.container_name or self._main_container(task["taskDefinitionArn"])
        container: dict[str, Any] = next((each for each in task["containers"] if each["name"] == name), {})
        code = container.get("exitCode")
        well = code == 0 and task.get("stopCode") in FINISHED_BY_ITSELF
        reason = self._hide(task.get("stopCode"), task.get("stoppedReason"), container.get("reason"))
        outcome: Literal["succeeded", "failed"] = "succeeded" if well else "failed"
        return JobStatus(run_id, state, outcome, reason, code, started_at, ended_at, streams=streams)

    def _streams(self, run_id: str, task: dict[str, Any]) -> tuple[LogStream, ...]:
        """Return where the containers write: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using_awslogs.html."""
        found = []
        with contextlib.suppress(ConnectorError):
            for container in self._definition(task["taskDefinitionArn"])["containerDefinitions"]:
                log = container.get("logConfiguration") or {}
                options = log.get("options") or {}
                prefix, group = options.get("awslogs-stream-prefix"), options.get("awslogs-group")
                if log.get("logDriver") == "awslogs" and prefix and group:
                    name = f"{prefix}/{container['name']}/{run_id.rpartition('/')[2]}"
                    found.append(LogStream(group, name, options.get("awslogs-region", "")))
        return tuple(found)

    def run_url(self, run_id: str) -> str:
        """Return the address of the run's page in AWS's console."""
        cluster, task = self.cluster.rpartition("/")[2], run_id.rpartition("/")[2]
        return self._page("ecs/v2", f"/clusters/{cluster}/tasks/{task}/configuration?region={{region}}")

    def stop_run(self, run_id: str, reason: str) -> None:
        """Ask the service to stop the run; a run that has ended is left as it is."""
        with self._errors("stop", f"{self.name} ({run_id})", "ecs:StopTask"):
            self.get_client().stop_task(cluster=self.cluster, task=run_id, reason=reason)

    @live
    def _definitions(self) -> dict[str, Mapping[str, Any]]:
        """Task definitions by ARN: a revision never changes."""
        return {}

    def _definition(self, name: str) -> Mapping[str, Any]:
        if name in self._definitions:
            return self._definitions[name]
        with self._errors("describe", f"ECS task definition {name}", "ecs:DescribeTaskDefinition"):
            found: dict[str, Any] = self.get_client().describe_task_definition(taskDefinition=name)["taskDefinition"]
        self._definitions[found["taskDefinitionArn"]] = found
        return found

    def _main_container(self, definition: str) -> str:
        containers = self._definition(definition)["containerDefinitions"]
        return next((str(each["name"]) for each in containers if each.get("essential", True)), "")
