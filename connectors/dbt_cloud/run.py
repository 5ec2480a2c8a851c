"""One run of a dbt Cloud job: waited for, taken up where it failed, and what it left."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from blocks.base.arguments import checked
from blocks.base.artifacts import keep_markdown
from blocks.base.errors import JobFailedError, NotFoundError
from blocks.base.interruption import pause
from blocks.base.operation import operation
from blocks.jobs.run import JobRun, RunningJob
from connectors.dbt_cloud.api import MAY_SEE
from connectors.dbt_cloud.status import DbtCloudStatus, has_results, node_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocks.stores.object_store import ObjectStore
    from connectors.dbt_cloud.api import Api
    from connectors.shared.dbt import DbtNode

SPOOLED_BYTES = 2**23


class RunningDbtCloudJob(RunningJob, Protocol):
    """What a run needs of its job, beside what each run does."""

    @property
    def api(self) -> Api:
        """The API of dbt Cloud, as the job uses it."""

    def get_status(self, run_id: str) -> DbtCloudStatus:
        """Ask dbt Cloud how the run and its steps are doing."""

    def retry_run(self, run_id: str) -> str:
        """Start the retry of a failed run, unless it was already, and return its id."""


@dataclass(eq=False)
class DbtCloudRun(JobRun):
    """One run of a dbt Cloud job.

    Attributes:
        job: What runs.
        run_id: The number of the run.
    """

    job: RunningDbtCloudJob
    _states: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    @operation(prefects=True)
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Wait until the run has succeeded.

        Raises:
            JobFailedError: It failed, with the failed step and the end of its log, or took longer than the job's
                `timeout_s`.
        """
        self.watch()

    @operation(prefects=True)
    def fetch_result(self) -> DbtCloudStatus:  # type: ignore[override]  # Prefect's is awaitable
        """Return how the run ended, and each of its steps.

        Raises:
            InvalidInputError: It has not ended.
            JobFailedError: It failed, with the failed step and the end of its log.
        """
        return cast("DbtCloudStatus", JobRun.fetch_result(self))

    @operation
    def status(self) -> DbtCloudStatus:  # type: ignore[override]  # the kit's gives less
        """Return how the run is doing now, and each of its steps, whether it failed or not."""
        return cast("DbtCloudStatus", self._look_once())

    @operation
    def retry_failed(self) -> DbtCloudRun:
        """Start the run that takes this one up where it failed: the failed step's failed nodes, and what was skipped.

        dbt Cloud does that with the latest run of a job, if it failed, and once: a second call gets the same run.

        Raises:
            InvalidInputError: This one did not fail, or cannot be taken up; the message says why.
            AmbiguousError: The answer was lost, and no such run is to be seen.
        """
        run = type(self)(self.job, self.job.retry_run(self.run_id))
        self.logger.info("Retry %s of %s takes up what failed.", run.run_id, self.name)
        return run

    @operation
    def artifacts(self, *, step: int | None = None) -> list[str]:
        """List the paths of the artifacts that a step left, such as "manifest.json".

        Args:
            step: The index of the step; by default the last one.
        """
        path, place = f"runs/{self.run_id}/artifacts/", f"the artifacts of {self.name}"
        found = self.job.api.ask("GET", path, "list", place, MAY_SEE, params=_query(step))
        return [str(each) for each in found]

    @operation
    def get_artifact(self, path: str, *, step: int | None = None) -> Any:
        """Return an artifact's content: the value of a .json, such as "run_results.json", the bytes of anything else.

        Args:
            path: As `artifacts` lists it.
            step: The index of the step; by default the last one.

        Raises:
            NotFoundError: There is no such artifact.
        """
        return self.job.api.read(f"runs/{self.run_id}/artifacts/", path, _query(step))

    @operation
    def nodes(self, *, step: int | None = None) -> tuple[DbtNode, ...]:
        """Return how each node of the project ended, from run_results.json, without values of rows.

        Args:
            step: The index of a step; by default all steps that build or test, and of a node its last one.

        Raises:
            NotFoundError: The step left no results.
        """
        steps = [step] if step else [each.index for each in self._look().steps if has_results(each)]
        found: dict[str, DbtNode] = {}
        for each in steps:
            try:
                results = self.job.api.read(f"runs/{self.run_id}/artifacts/", "run_results.json", _query(each))
            except NotFoundError:  # a command that failed before it began
                if step:
                    raise
            else:
                found |= {node.unique_id: node for node in map(node_of, results["results"])}
        return tuple(found.values())

    @operation
    def save_artifacts(
        self, bucket: ObjectStore, prefix: str = "", *, paths: list[str] | None = None, step: int | None = None
    ) -> list[str]:
        """Copy the artifacts to a bucket, and return the keys of the objects that now hold them.

        They pass one by one through a temporary file, so that memory is bounded and no object is half of one.

        Args:
            bucket: The bucket that takes them.
            prefix: The folder in it.
            paths: Which to copy; by default all of the step.
            step: The index of the step; by default the last one.

        Raises:
            NotFoundError: There is no such artifact.
        """
        keys = []
        for path in DbtCloudRun.artifacts(self, step=step) if paths is None else paths:
            with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
                folder = f"runs/{self.run_id}/artifacts/"
                self.job.api.download(folder, path, file, _query(step))
                file.seek(0)
                key = f"{prefix.strip('/')}/{path}".lstrip("/")
                keys.append(bucket.upload_from_file_object(cast("Any", file), key))
        return keys

    @checked
    def watch(
        self, *, clock: Callable[[], float] = time.monotonic, wait: Callable[[float], None] = pause
    ) -> DbtCloudStatus:
        """Wait for the run to end, and return how it did; its steps are a page in Prefect's UI then.

        Args:
            clock: Seconds, as `time.monotonic` counts them.
            wait: Waits so many seconds.

        Raises:
            JobFailedError: It failed, or took longer than the job's `timeout_s`.
            TransientError: It could not be seen for longer than the job's `retry.deadline_s`, and may still be running.
        """
        try:
            status = cast("DbtCloudStatus", super().watch(clock=clock, wait=wait))
        except JobFailedError as error:
            if isinstance(error.result, DbtCloudStatus):
                self._keep(error.result)
            raise
        self._keep(status)
        return status

    def _keep(self, status: DbtCloudStatus) -> None:
        keep_markdown(f"dbt-cloud-job-{self.job.api.job_id}", status.markdown(), description=self.name)

    def _look(self) -> DbtCloudStatus:
        status = cast("DbtCloudStatus", super()._look())
        for step in status.steps:
            if self._states.get(step.index) != step.state:
                self._states[step.index] = step.state
                took = "" if step.seconds is None else f" after {step.seconds:.0f} s"
                self.logger.info("Step %s of %s, %s, is %s%s.", step.index, self.name, step.name, step.state, took)
        return status


def _query(step: int | None) -> dict[str, str | int]:
    return {} if step is None else {"step": step}
