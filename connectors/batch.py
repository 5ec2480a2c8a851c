"""A job of AWS Batch."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.types import SecretDict
from pydantic import Field, HttpUrl

from blocks.base.errors import ConnectorError, InvalidInputError, NotFoundError, TransientError
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from blocks.jobs.output import LogStream
from blocks.jobs.run import JobStatus
from blocks.jobs.start import StartedRun
from connectors.shared.aws_job import AwsJob

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "ClientException": InvalidInputError,
    "ServerException": TransientError,
}
"""https://docs.aws.amazon.com/batch/latest/APIReference/CommonErrors.html"""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "ClientException": "Check job_queue and job_definition, and the region_name of the credentials.",
}

OUTCOMES: dict[str, Any] = {"SUCCEEDED": "succeeded", "FAILED": "failed"}
LOGS = "/aws/batch/job"
"""The log group of jobs that name none: https://docs.aws.amazon.com/batch/latest/userguide/using_awslogs.html"""


class BatchJob(AwsJob):
    """A job of AWS Batch, run to its end.

    Example:
        ```python
        from connectors.batch import BatchJob

        job = BatchJob.load("BLOCK_NAME")
        status = job.run()
        ```
    """

    _block_type_name = "ETL Batch Job"
    _block_type_slug = "etl-batch-job"
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/batch/latest/userguide/jobs.html")
    _service: ClassVar[str] = "batch"
    _errors_table = ERRORS
    _advice = ADVICE
    _listed_for = dt.timedelta(days=7)

    job_name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,94}$",
        description="The job's name. Each run gets it with a token appended, by which a retry finds what it started.",
    )
    job_queue: str = Field(min_length=1, description="The job queue's name or ARN.")
    job_definition: str = Field(min_length=1, description="The job definition's name, name:revision, or ARN.")
    parameters: dict[str, str] = Field(
        default_factory=dict,
        description="Values for the placeholders of the definition's command. Defaults to the definition's values.",
    )
    command: list[str] | None = Field(
        default=None, description="The container's command. Defaults to the definition's."
    )
    environment: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description="Environment variables for the container, in addition to the definition's.",
    )
    vcpus: float | None = Field(
        default=None, gt=0, title="Virtual CPUs", description="Number of virtual CPUs. Defaults to the definition's."
    )
    memory: int | None = Field(
        default=None, gt=0, title="Memory (MiB)", description="Memory, in MiB. Defaults to the definition's."
    )
    array_size: int | None = Field(
        default=None,
        ge=2,
        le=10_000,
        description="How many children an array job has. Defaults to a job that is not an array.",
    )
    attempts: int | None = Field(
        default=None,
        ge=1,
        le=10,
        description="How many attempts Batch itself makes of the job. Defaults to the definition's.",
    )
    attempt_timeout_s: int | None = Field(
        default=None, ge=60, description="How long one attempt may take, in seconds. Defaults to the definition's."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Tags for the job. Defaults to none.")

    def check(self) -> str:
        """Check that the queue takes jobs and the job definition is active, and say so in one sentence.

        Raises:
            NotFoundError: The queue or the definition is not there, or not in use.
            AccessDeniedError: The identity may not describe them.
        """
        client, queue = self.get_client(), f"Batch job queue {self.job_queue}"
        with self._errors("describe", queue, "batch:DescribeJobQueues"):
            queues = client.describe_job_queues(jobQueues=[self.job_queue])["jobQueues"]
        if not queues or queues[0]["state"] != "ENABLED":
            state = queues[0]["state"] if queues else "missing"
            raise NotFoundError(f"{queue} is {state}. Check job_queue, and the region_name of the credentials.")
        name = self.job_definition
        with self._errors("describe", f"Batch job definition {name}", "batch:DescribeJobDefinitions"):
            by_name = {"jobDefinitionName": name, "status": "ACTIVE"}
            how: dict[str, Any] = {"jobDefinitions": [name]} if ":" in name else by_name
            definitions = client.describe_job_definitions(**how)["jobDefinitions"]
        if not any(each["status"] == "ACTIVE" for each in definitions):
            raise NotFoundError(f"There is no active Batch job definition {name}. Check job_definition.")
        return f"{queue} takes jobs, and job definition {name} is active."

    @property
    def name(self) -> str:
        """What messages call the job."""
        return f"Batch job {self.job_name}"

    def _jobs(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the jobs of that name, or of names that begin so where it ends in an asterisk."""
        request: dict[str, Any] = {"jobQueue": self.job_queue, "filters": [{"name": "JOB_NAME", "values": [name]}]}
        while True:
            with self._errors("look for", self.name, "batch:ListJobs"):
                answer = self.get_client().list_jobs(**request)
            yield from answer["jobSummaryList"]
            if not answer.get("nextToken"):
                return
            request["nextToken"] = answer["nextToken"]

    def _find_runs(self, cause: str) -> Iterator[StartedRun]:
        for job in self._jobs(f"{self.job_name}-{cause}*"):
            token = job["jobName"].removeprefix(f"{self.job_name}-")
            outcome = OUTCOMES.get(job.get("status", ""), "running")
            yield StartedRun(
                str(job["jobId"]), token, outcome, outcome == "running" and self._is_terminated(job["jobId"])
            )

    def _is_terminated(self, run_id: str) -> bool:
        """Whether a job that runs was told to stop, which only its description says."""
        with self._errors("describe", f"{self.name} ({run_id})", "batch:DescribeJobs"):
            jobs = self.get_client().describe_jobs(jobs=[run_id])["jobs"]
        return any(job.get("isTerminated") or job.get("isCancelled") for job in jobs)

    def _start(self, token: str) -> str:
        # Batch knows no idempotency tokens; a job's name is what it can be found by.
        name = f"{self.job_name}-{token}"
        for job in self._jobs(name):
            return str(job["jobId"])
        values = [str(value) for value in self.environment.get_secret_value().values()]
        request = self._request(name)
        action = "batch:SubmitJob, and batch:TagResource where there are tags"
        with self._errors("start", self.name, action, hidden=values):
            return str(self._single_attempt_client.submit_job(**request)["jobId"])

    def _request(self, name: str) -> dict[str, Any]:
        container: dict[str, Any] = {}
        if self.command is not None:
            container["command"] = self.command
        if variables := self.environment.get_secret_value():
            container["environment"] = [{"name": key, "value": str(value)} for key, value in variables.items()]
        resources = {"VCPU": self.vcpus and f"{self.vcpus:g}", "MEMORY": self.memory and str(self.memory)}
        if needed := [{"type": kind, "value": value} for kind, value in resources.items() if value is not None]:
            container["resourceRequirements"] = needed
        optional = {
            "parameters": self.parameters,
            "containerOverrides": container,
            "arrayProperties": self.array_size and {"size": self.array_size},
            "retryStrategy": self.attempts and {"attempts": self.attempts},
            "timeout": self.attempt_timeout_s and {"attemptDurationSeconds": self.attempt_timeout_s},
            "tags": self.tags,
        }
        given = {key: value for key, value in optional.items() if value}
        return {"jobName": name, "jobQueue": self.job_queue, "jobDefinition": self.job_definition} | given

    def get_status(self, run_id: str) -> JobStatus:
        """Ask the service how the run is doing."""
        with self._reading(run_id):
            with self._errors("describe", f"{self.name} ({run_id})", "batch:DescribeJobs"):
                jobs = self.get_client().describe_jobs(jobs=[run_id])["jobs"]
            if not jobs:  # not yet, just after the start; or no more, days after the end
                raise NotFoundError(f"Batch does not show {self.name} ({run_id}).")
            job = jobs[0]
            container = job.get("container", {})
            return JobStatus(
                run_id,
                job["status"],
                OUTCOMES.get(job["status"], "running"),
                self._hide(job.get("statusReason"), container.get("reason")),
                container.get("exitCode"),
                _time(job.get("startedAt")),
                _time(job.get("stoppedAt")),
                streams=_streams(job),
            )

    def run_url(self, run_id: str) -> str:
        """Return the address of the run's page in AWS's console."""
        return self._page("batch", f"/home?region={{region}}#jobs/detail/{run_id}")

    def stop_run(self, run_id: str, reason: str) -> None:
        """Ask the service to stop the run; a run that has ended is left as it is."""
        with self._errors("stop", f"{self.name} ({run_id})", "batch:TerminateJob"):
            self.get_client().terminate_job(jobId=run_id, reason=reason)


def _streams(job: dict[str, Any]) -> tuple[LogStream, ...]:
    """Return where a job writes: each attempt of Batch's own to a stream of its own."""
    container = job.get("container", {})
    log = container.get("logConfiguration") or {}
    if log.get("logDriver", "awslogs") != "awslogs":
        return ()
    options = log.get("options") or {}
    names = [each.get("container", {}).get("logStreamName") for each in job.get("attempts", [])]
    found = dict.fromkeys(name for name in (*names, container.get("logStreamName")) if name)
    group, region = options.get("awslogs-group", LOGS), options.get("awslogs-region", "")
    return tuple(LogStream(group, name, region) for name in found)


def _time(milliseconds: int | None) -> dt.datetime | None:
    """The time that Batch gives in milliseconds since 1970.

    >>> _time(1777507200000).isoformat()
    '2026-04-30T00:00:00+00:00'
    """
    return None if milliseconds is None else dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
