"""DbtCloudJob: starts a job of dbt Cloud, finds a start whose answer was lost, and takes up what failed."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, cast

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import Field, HttpUrl, PrivateAttr

from blocks.base.errors import AmbiguousError, InvalidInputError, NotFoundError, TransientError
from blocks.base.interruption import pause
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.credentials.dbt_cloud import DbtCloudCredentials  # noqa: TC001 (pydantic reads it)
from blocks.jobs.job import Job
from blocks.jobs.start import StartedRun
from connectors.dbt_cloud.api import MAY_RUN, MAY_SEE, Api
from connectors.dbt_cloud.run import DbtCloudRun
from connectors.dbt_cloud.status import ERROR, OUTCOMES, DbtCloudStatus, state_of, step_of, time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_RETRY = {
    "RETRY_NOT_FAILED_RUN": "it did not fail",
    "RETRY_NOT_LATEST_RUN": "the job has run again since",
    "RETRY_NO_RUN_RESULTS": "it failed before dbt wrote what it had done",
    "RETRY_UNSUPPORTED_CMD": "dbt cannot retry its failed command",
    "RETRY_UNSUPPORTED_VERSION": "its version of dbt cannot retry; 1.6 and later can",
}
"""https://docs.getdbt.com/docs/deploy/retry-jobs"""

LONGEST_CAUSE = 255
SETTLE_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Waits between looks for a run whose start was not answered: dbt Cloud may still be at it."""
LONGEST_LOG = 4_000
"""Characters of a log that an error shows at most."""


class DbtCloudJob(Job):
    """A job of dbt Cloud, run to its end.

    Example:
        ```python
        from connectors.dbt_cloud import DbtCloudJob

        job = DbtCloudJob.load("BLOCK_NAME")
        status = job.run()
        print([step.name for step in status.steps])
        ```
    """

    _block_type_name = "ETL dbt Cloud Job"
    _block_type_slug = "etl-dbt-cloud-job"
    _documentation_url = HttpUrl("https://docs.getdbt.com/docs/deploy/jobs")

    dbt_cloud_credentials: DbtCloudCredentials = Field(
        description="dbt Cloud credentials: the token, and the account that it belongs to."
    )
    _no_part_of_a_start = frozenset({"log_lines"})

    job_id: int = Field(description="The ID of the job, a number: the last part of the address of its page.")
    cause: str = Field(
        default="",
        max_length=200,
        description="Why it runs, as dbt Cloud shows it with the run. Defaults to the name of the flow run that "
        "starts it.",
    )
    steps_override: list[str] | None = Field(
        default=None, description="dbt commands to run instead of the job's, such as dbt build; dbt Cloud shows them."
    )
    schema_override: str | None = Field(default=None, description="The schema to build in. Defaults to the job's.")
    git_branch: str | None = Field(default=None, description="The branch to check out. Defaults to the environment's.")
    git_sha: str | None = Field(default=None, description="The commit to check out. Defaults to the branch's latest.")
    dbt_version_override: str | None = Field(default=None, description="The version of dbt. Defaults to the job's.")
    threads_override: int | None = Field(
        default=None, ge=1, description="Number of dbt threads. Defaults to the job's."
    )
    target_name_override: str | None = Field(
        default=None, description="The value of target.name. Defaults to the job's."
    )
    generate_docs_override: bool | None = Field(
        default=None, description="Whether to generate the docs. Defaults to the job's setting."
    )
    timeout_seconds_override: int | None = Field(
        default=None, ge=0, description="After how many seconds dbt Cloud itself ends the run. Defaults to the job's."
    )
    log_lines: int = Field(
        default=20,
        ge=0,
        description="How many lines of a failed step's log its error shows. A database's words may quote a value; 0 "
        "leaves the log out. Defaults to 20.",
    )

    _pages: dict[str, str] = PrivateAttr(default_factory=dict)
    """The pages of runs, as far as dbt Cloud has told them: only it knows the project that they are in."""

    @operation
    def check(self) -> str:
        """Check that the job is there, and say so in one sentence.

        Raises:
            NotFoundError: It is not, or the token may not see it.
            AuthError: dbt Cloud does not know the token.
        """
        job = self.api.ask("GET", f"jobs/{self.job_id}/", "see", self.name, MAY_SEE)
        return f"{self.name} ({job.get('name', '')}) is there and the token may see it."

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        fixed = super()._fix_token(arguments)
        if not arguments.get("token"):
            self._unused.add(str(fixed["token"]))
        return fixed

    @operation(prepare=_fix_token, prefects=True)
    def trigger(  # type: ignore[override]  # Prefect's is awaitable, and the kit's gives less
        self, *, token: str = ""
    ) -> DbtCloudRun:
        """Start a run, and return it to wait for.

        Args:
            token: Names this start, in at most 32 letters and digits; it is in the cause of the run. A second call
                with the same one gets the run of the first, if that is among the job's last 1,000. By default each
                call is a start of its own, whose attempts have one token; the same call in a later attempt of a flow
                or task gets the run of the earlier one, unless that failed.

        Raises:
            AmbiguousError: The answer was lost, and no run of this start is to be seen.
            ConnectorError: dbt Cloud did not take it.
        """
        return self._trigger(token)

    @operation(prepare=_fix_token)
    def run(  # type: ignore[override]  # the kit's gives less
        self, *, token: str = ""
    ) -> DbtCloudStatus:
        """Start a run, wait until it has succeeded, and return how it and each of its steps ended.

        Args:
            token: As with `trigger`.

        Raises:
            JobFailedError: It failed, with the failed step and the end of its log, or took longer than `timeout_s`.
            ConnectorError: dbt Cloud did not take it, or would not tell how it is doing.
        """
        return self._trigger(token).watch()

    def get_run(self, run_id: int | str) -> DbtCloudRun:
        """Return a run of the job that was started elsewhere or before, to look at, to wait for or to cancel."""
        return self._as_run(str(run_id))

    @operation
    def last_run(self) -> DbtCloudRun:
        """Find the latest run of the job, whoever started it.

        Raises:
            NotFoundError: It never ran, or the token may not see it.
        """
        for run in next(self.api.pages(1)):
            return self._as_run(str(run["id"]))
        raise NotFoundError(f"{self.name} has no run that the token may see.")

    def retry_failed(self) -> DbtCloudRun:
        """Start the run that takes up the job's last one where that failed.

        Raises:
            InvalidInputError: The last run did not fail, or cannot be taken up.
        """
        return self.last_run().retry_failed()

    @operation
    def get_artifact(self, path: str) -> Any:
        """Return an artifact of the job's last successful run; see `DbtCloudRun.get_artifact`.

        Raises:
            NotFoundError: There is no such artifact.
        """
        return self.api.read(f"jobs/{self.job_id}/artifacts/", path, {})

    @property
    def name(self) -> str:
        """What messages call the job."""
        return f"dbt Cloud job {self.job_id}"

    @property
    def api(self) -> Api:
        """The API of dbt Cloud, as this job uses it."""
        return Api(self.dbt_cloud_credentials, self.job_id, self.name)

    @live
    def _unused(self) -> set[str]:
        """Tokens that were made here and never sent, so that there is nothing to look for."""
        return set()

    def _trigger(self, token: str) -> DbtCloudRun:
        return cast("DbtCloudRun", super()._trigger(token))

    def _as_run(self, run_id: str) -> DbtCloudRun:
        return DbtCloudRun(self, run_id)

    def _find_runs(self, cause: str) -> Iterator[StartedRun]:
        marked = re.compile(rf" \[({re.escape(cause)}\w*)\]$")
        for run in itertools.chain.from_iterable(self.api.pages(include_related="trigger")):
            if found := marked.search(_cause(run)):
                outcome = OUTCOMES.get(run["status"], "failed" if run.get("is_complete") else "running")
                self._told(run)
                yield StartedRun(str(run["id"]), found[1], outcome)

    def _start(self, token: str) -> str:
        mark = f" [{token}]"

        def find() -> dict[str, Any] | None:
            for page in self.api.pages(include_related="trigger"):
                if marked := [run for run in page if _cause(run).endswith(mark)]:
                    return self._first_of(marked)
            return None

        is_new = token in self._unused
        self._unused.discard(str(token))
        if not is_new and (found := find()):
            return self._told(found)
        overrides = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name.endswith("_override") or name.startswith("git_")
        }
        body = {"cause": f"{self.cause or _caller()}"[: LONGEST_CAUSE - len(mark)] + mark}
        body |= {name: value for name, value in overrides.items() if value is not None}
        path = f"jobs/{self.job_id}/run/"
        started = self._once(
            lambda: self.api.ask("POST", path, "start", self.name, MAY_RUN, body=body, once=True),
            find,
            f"To look for it once more, and start it if it is not there, trigger it with the token {token!r}.",
        )
        return self._told(started if is_new else find() or started)

    def _first_of(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        """The first of the runs of one token, which are given the latest first.

        While it goes on, others are there because they were started at the same moment; they are stopped. Once it has
        ended, another one may be its retry.
        """
        *others, first = runs
        for run in others:
            if {first["status"], run["status"]}.isdisjoint(OUTCOMES):
                self.logger.warning("Run %s of %s is one too many and will be stopped.", run["id"], self.name)
                self.stop_run(str(run["id"]), "")
        return first

    def retry_run(self, run_id: str) -> str:
        """Start the retry of a failed run, unless it was already, and return its id."""
        place = f"{self.name} ({run_id})"

        def find() -> dict[str, Any] | None:
            """The retry: of two runs that belong together the later one, whichever of them names the other."""
            for run in itertools.chain.from_iterable(self.api.pages()):
                named = int(run.get("retrying_run_id") or 0)
                if int(run["id"]) == int(run_id):
                    return self.api.get(str(named)) if named > int(run_id) else None
                if named == int(run_id):
                    return run
            return None

        if found := find():
            return self._told(found)
        run = self.api.get(run_id)
        if run["status"] != ERROR or run.get("can_retry") is False:
            reason = run.get("retry_not_supported_reason") or "RETRY_NOT_FAILED_RUN"
            why = NO_RETRY.get(reason, reason)
            raise InvalidInputError(f"{place} cannot be retried from where it failed: {why}. Start the job as a whole.")
        started = self._once(
            lambda: self.api.ask("POST", f"runs/{run_id}/retry/", "retry", place, MAY_RUN, once=True),
            find,
            "Call retry_failed() of the run again: it looks first.",
        )
        return self._told(started)

    def _once(
        self, send: Callable[[], dict[str, Any]], find: Callable[[], dict[str, Any] | None], advice: str
    ) -> dict[str, Any]:
        """Start a run and return it. One whose answer is lost is looked for, and not started again."""
        try:
            return send()
        except AmbiguousError as lost:
            for seconds in SETTLE_S:
                pause(seconds)
                try:
                    found = find()
                except TransientError as error:
                    self.logger.warning("Cannot look for the run yet: %s", error)
                    continue
                if found:
                    return found
            raise AmbiguousError(f"{lost} No run of it is to be seen. {advice}") from lost

    def _told(self, run: dict[str, Any]) -> str:
        """The id of the run, whose page is in the log now."""
        if url := run.get("href"):
            self._pages[str(run["id"])] = url
            self.logger.info("The page of run %s is %s", run["id"], url)
        return str(run["id"])

    def run_url(self, run_id: str) -> str:
        """Return the address of the run's page, empty where dbt Cloud has not told it."""
        return self._pages.get(run_id, "")

    def get_status(self, run_id: str) -> DbtCloudStatus:
        """Ask the service how the run is doing."""
        with self._reading(run_id):
            run = self.api.get(run_id, include_related="run_steps")
            found = sorted(run.get("run_steps") or [], key=lambda step: int(step["index"]))
            steps = tuple(map(step_of, found))
            outcome = OUTCOMES.get(run["status"], "failed" if run.get("is_complete") else "running")
            if url := run.get("href"):
                self._pages[run_id] = url
            reason = self.api.safe(run.get("status_message") or "")
            if outcome == "failed" and (failed := next((at for at in found if at.get("status") == ERROR), None)):
                log = self._end_of(failed.get("logs") or failed.get("truncated_debug_logs") or "")
                reason = f"{reason.rstrip('.')}. " if reason else ""
                reason += f"Step {failed['index']}, {step_of(failed).name}, failed" + (
                    f"; its log ends: {' | '.join(log.splitlines())}" if log else ""
                )
            return DbtCloudStatus(
                run_id,
                state_of(run),
                outcome,
                reason,
                started_at=time_of(run.get("started_at")),
                ended_at=time_of(run.get("finished_at")),
                steps=steps,
                url=run.get("href") or "",
                git_sha=run.get("git_sha") or "",
            )

    def stop_run(self, run_id: str, reason: str) -> None:  # noqa: ARG002 (dbt Cloud takes none)
        """Ask the service to stop the run; a run that has ended is left as it is."""
        try:
            self.api.ask("POST", f"runs/{run_id}/cancel/", "stop", f"{self.name} ({run_id})", MAY_RUN)
        except InvalidInputError:
            if self.get_status(run_id).outcome == "running":
                raise

    def _end_of(self, log: str) -> str:
        """The last lines of a log, without colors and secrets."""
        lines = [line for line in log.splitlines() if line.strip()]
        return self.api.safe("\n".join(lines[len(lines) - min(self.log_lines, len(lines)) :]))[-LONGEST_LOG:]


def _cause(run: dict[str, Any]) -> str:
    return str((run.get("trigger") or {}).get("cause") or "")


def _caller() -> str:
    """What starts the run, in words for dbt Cloud's pages."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if flow and flow.flow_run:
        return f"Prefect flow run {flow.flow_run.name}"
    return f"Prefect task run {task.task_run.name}" if task else "etl-blocks"
