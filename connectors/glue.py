"""A job of AWS Glue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from pydantic import Field, HttpUrl

from blocks.base.errors import (
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    service_error,
)
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from blocks.jobs.output import LogStream
from blocks.jobs.run import JobStatus
from blocks.jobs.start import StartedRun
from connectors.shared.aws_job import AwsJob

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "EntityNotFoundException": NotFoundError,
    "InvalidInputException": InvalidInputError,
    "ResourceNumberLimitExceededException": TerminalError,
    "ConcurrentRunsExceededException": ThrottledError,
    "InternalServiceException": TransientError,
    "OperationTimeoutException": TransientError,
}
"""https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-exceptions.html"""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "EntityNotFoundException": "Check job_name, and the region_name of the credentials.",
    "ConcurrentRunsExceededException": "Raise the job's maximum concurrency, or wait for its other run.",
}

TOKEN_ARGUMENT = "--etl-run-token"  # noqa: S105 (a name)
"""A job argument that names the start; Glue has no idempotency token, and shows the arguments of its runs."""
RUNS_LOOKED_AT = 1_000
PAGE = 200
LOGS = "/aws-glue/jobs"
"""The log group of runs that name none: https://docs.aws.amazon.com/glue/latest/dg/monitor-continuous-logging.html"""

OUTCOMES: dict[str, Any] = {"SUCCEEDED": "succeeded"} | dict.fromkeys(
    ["STOPPED", "FAILED", "TIMEOUT", "ERROR", "EXPIRED"], "failed"
)
"""https://docs.aws.amazon.com/glue/latest/dg/job-run-statuses.html; the others are on their way."""


class GlueJob(AwsJob):
    """A job of AWS Glue, run to its end.

    Example:
        ```python
        from connectors.glue import GlueJob

        job = GlueJob.load("BLOCK_NAME")
        job.arguments = {"--day": "2026-04-30"}
        status = job.run()
        ```
    """

    _block_type_name = "ETL Glue Job"
    _block_type_slug = "etl-glue-job"
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/glue/latest/dg/author-job-glue.html")
    _service: ClassVar[str] = "glue"
    _errors_table = ERRORS
    _advice = ADVICE

    job_name: str = Field(min_length=1, description="The name of the job in Glue.")
    arguments: dict[str, str] | None = Field(
        default=None,
        description="Arguments of the run, such as --day, in addition to the job's own. Glue shows and logs them, so "
        "enter no secrets.",
    )
    worker_type: str | None = Field(default=None, description="The worker type, such as G.1X. Defaults to the job's.")
    number_of_workers: int | None = Field(
        default=None, ge=1, description="The number of workers. Defaults to the job's."
    )

    def check(self) -> str:
        """Check that the job is there, and say so in one sentence.

        Raises:
            NotFoundError: It is not.
            AccessDeniedError: The identity may not look at it.
        """
        with self._errors("describe", self.name, "glue:GetJob"):
            self.get_client().get_job(JobName=self.job_name)
        return f"{self.name} is there and the credentials may look at it."

    @property
    def name(self) -> str:
        """What messages call the job."""
        return f"Glue job {self.job_name}"

    def _runs(self) -> Iterator[dict[str, Any]]:
        """Yield the runs of the job, the latest first."""
        request: dict[str, Any] = {"JobName": self.job_name, "MaxResults": PAGE}
        for _ in range(RUNS_LOOKED_AT // PAGE):
            with self._errors("look for", f"a run of {self.name}", "glue:GetJobRuns"):
                answer = self.get_client().get_job_runs(**request)
            yield from answer["JobRuns"]
            if not answer.get("NextToken"):
                return
            request["NextToken"] = answer["NextToken"]

    def _find_runs(self, cause: str) -> Iterator[StartedRun]:
        for run in self._runs():
            token = run.get("Arguments", {}).get(TOKEN_ARGUMENT, "")
            if token.startswith(cause):
                state = run["JobRunState"]
                yield StartedRun(str(run["Id"]), token, OUTCOMES.get(state, "running"), state == "STOPPING")

    def _start(self, token: str) -> str:
        for run in self._runs():
            if run.get("Arguments", {}).get(TOKEN_ARGUMENT) == token:
                return str(run["Id"])
        request: dict[str, Any] = {"Arguments": {**(self.arguments or {}), TOKEN_ARGUMENT: str(token)}}
        if self.worker_type:
            request["WorkerType"] = self.worker_type
        if self.number_of_workers:
            request["NumberOfWorkers"] = self.number_of_workers
        with self._errors("start", self.name, "glue:StartJobRun"):
            return str(self._single_attempt_client.start_job_run(JobName=self.job_name, **request)["JobRunId"])

    def get_status(self, run_id: str) -> JobStatus:
        """Ask the service how the run is doing."""
        with self._reading(run_id):
            with self._errors("describe", f"{self.name} ({run_id})", "glue:GetJobRun"):
                run = self.get_client().get_job_run(JobName=self.job_name, RunId=run_id)["JobRun"]
            state = run["JobRunState"]
            outcome, _group = OUTCOMES.get(state, "running"), run.get("LogGroupName") or LOGS
            return JobStatus(
                run_id,
                state,
                outcome,
                self._hide(run.get("ErrorMessage") or run.get("StateDetail")),
                started_at=run.get("StartedOn"),
                ended_at=None if outcome == "running" else run.get("CompletedOn"),
                streams=tuple(
                    LogStream(f"{run.get('LogGroupName') or LOGS}/{kind}", run_id) for kind in ("output", "error")
                ),
            )

    def run_url(self, run_id: str) -> str:
        """Return the address of the run's page in AWS's console."""
        path = f"/home?region={{region}}#/job/{quote(self.job_name, safe='')}/run/{quote(run_id, safe='')}"
        return self._page("gluestudio", path)

    def stop_run(self, run_id: str, reason: str) -> None:  # noqa: ARG002 (Glue takes none)
        """Ask the service to stop the run; a run that has ended is left as it is."""
        with self._errors("stop", f"{self.name} ({run_id})", "glue:BatchStopJobRun"):
            answer = self.get_client().batch_stop_job_run(JobName=self.job_name, JobRunIds=[run_id])
        for failed in answer.get("Errors", []):
            if self.get_status(run_id).outcome == "running":
                detail = failed["ErrorDetail"]
                raise service_error(
                    "stop",
                    f"{self.name} ({run_id})",
                    [detail["ErrorCode"]],
                    detail.get("ErrorMessage", ""),
                    table=ERRORS,
                    advice=ADVICE,
                )
