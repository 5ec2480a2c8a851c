"""A job of dbt Cloud."""

from __future__ import annotations

import datetime as dt
import functools
import io
import itertools
import json
import re
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import Field, HttpUrl

from blocks.artifacts import cell, keep_markdown
from blocks.dbt_cloud_credentials import DbtCloudCredentials  # noqa: TC001 (pydantic reads it)
from blocks.dbt_results import DbtNode, is_transient_message, without_values
from blocks.errors import AmbiguousError, InvalidInputError, NotFoundError, TransientError
from blocks.job import Job, JobFailedError, JobRun, JobStatus, pause, watch, watched_operation
from blocks.operation import operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from blocks.object_store import ObjectStore

STATES = {1: "Queued", 2: "Starting", 3: "Running", 10: "Success", 20: "Error", 30: "Cancelled"}
"""https://docs.getdbt.com/dbt-cloud/api-v2#/operations/Retrieve%20Run"""
SUCCESS, ERROR, CANCELLED = 10, 20, 30
OUTCOMES: dict[int, Literal["running", "succeeded", "failed"]] = {
    SUCCESS: "succeeded",
    ERROR: "failed",
    CANCELLED: "failed",
}

NO_RETRY = {
    "RETRY_NOT_FAILED_RUN": "it did not fail",
    "RETRY_NOT_LATEST_RUN": "the job has run again since",
    "RETRY_NO_RUN_RESULTS": "it failed before dbt wrote what it had done",
    "RETRY_UNSUPPORTED_CMD": "its failed command is none that dbt can retry",
    "RETRY_UNSUPPORTED_VERSION": "its version of dbt cannot retry; 1.6 and later can",
}
"""https://docs.getdbt.com/docs/deploy/retry-jobs"""

WITH_RESULTS = {"build", "run", "test", "seed", "snapshot", "source", "clone", "retry"}
"""Commands of dbt after which run_results.json says what became of each node."""

MAY_RUN = "a permission set that may run jobs of the project, such as Job Runner or Job Admin"
MAY_SEE = "a permission set that may see jobs of the project, such as Job Viewer or Job Admin"

PAGE = 100
"""The longest page: https://docs.getdbt.com/docs/dbt-versions/dbt-cloud-release-notes"""
RUNS_LOOKED_AT = 1_000
LONGEST_CAUSE = 255
SETTLE_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Waits between looks for a run whose start was not answered: dbt Cloud may still be at it."""
SPOOLED_BYTES = 2**23
LONGEST_LOG = 4_000
"""Characters of a log that an error shows at most."""


SECRET = re.compile(
    r"""((?:password|passwd|pwd|passphrase|secret|token|credential|(?:api|private|access)_?key)[\w-]*"""
    r"""["']?\s*[:=]\s*)(?:"[^"]*"|'[^']*'|[^\s,;]+)""",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class DbtCloudStep:
    """One step of a run: the preparations of dbt Cloud's own, and then each command of the job.

    Attributes:
        index: Its number, from 1 on, by which its artifacts are found.
        name: What dbt Cloud calls it, such as "Invoke dbt with `dbt build`".
        state: The word of dbt Cloud for its state, such as "Success".
        outcome: What that means; "skipped" where an earlier one failed.
        started_at: When it began, None if it did not.
        ended_at: When it ended.
    """

    index: int
    name: str
    state: str
    outcome: Literal["running", "succeeded", "failed", "skipped"]
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took, None where that is not known."""
        return (self.ended_at - self.started_at).total_seconds() if self.started_at and self.ended_at else None


@dataclass(frozen=True)
class DbtCloudStatus(JobStatus):
    """How a run is doing, with its steps.

    Attributes:
        steps: Those that there are so far, in order.
        url: The run's page.
        git_sha: What was checked out.
    """

    steps: tuple[DbtCloudStep, ...] = ()
    url: str = ""
    git_sha: str = ""

    def markdown(self) -> str:
        """The steps as a page for people."""
        rows = [
            f"| {step.index} | {cell(step.name)} | {step.state} | "
            f"{'' if step.seconds is None else f'{step.seconds:.0f} s'} |"
            for step in self.steps
        ]
        head = [f"# dbt Cloud run {self.run_id}: {self.state}", *([f"[Its page]({self.url})"] if self.url else [])]
        return (
            "\n\n".join([*head, "\n".join(["| # | step | state | time |", "| --- | --- | --- | --- |", *rows])]) + "\n"
        )


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
    _logo_url = HttpUrl(
        "https://images.ctfassets.net/gm98wzqotmnx/5zE9lxfzBHjw3tnEup4wWL/"
        "9a001902ed43a84c6c96d23b24622e19/dbt-bit_tm.png?h=250"
    )

    dbt_cloud_credentials: DbtCloudCredentials = Field(description="The token, and the account that it belongs to.")
    job_id: int = Field(description="The number of the job, which is in the address of its page.")
    cause: str = Field(
        default="",
        max_length=200,
        description="Why it runs, as dbt Cloud shows it with the run; by default the flow run that starts it.",
    )
    steps_override: list[str] | None = Field(
        default=None, description="dbt's commands, such as dbt build, instead of the job's; dbt Cloud shows them."
    )
    schema_override: str | None = Field(default=None, description="The schema to build in; by default the job's.")
    git_branch: str | None = Field(default=None, description="The branch to check out; by default the environment's.")
    git_sha: str | None = Field(default=None, description="The commit to check out; by default the branch's last.")
    dbt_version_override: str | None = Field(default=None, description="The version of dbt; by default the job's.")
    threads_override: int | None = Field(default=None, ge=1, description="dbt's threads; by default the job's.")
    target_name_override: str | None = Field(default=None, description="What target.name is; by default the job's.")
    generate_docs_override: bool | None = Field(
        default=None, description="Whether to generate the docs; by default as the job says."
    )
    timeout_seconds_override: int | None = Field(
        default=None, ge=0, description="After how many seconds dbt Cloud itself ends the run; by default the job's."
    )
    log_lines: int = Field(
        default=20,
        ge=0,
        description="How many lines of a failed step's log its error shows; a database's words may quote a value.",
    )

    @operation
    def check(self) -> str:
        """One sentence that says that the job is there.

        Raises:
            NotFoundError: It is not, or the token may not see it.
            AuthError: dbt Cloud does not know the token.
        """
        job = self._ask("GET", f"jobs/{self.job_id}/", "see", self._name, MAY_SEE)
        return f"{self._name} ({job.get('name', '')}) is there and the token may see it."

    @functools.partial(operation, prepare="_fix_token")
    def trigger(  # type: ignore[override]  # Prefect's is awaitable, and the kit's gives less
        self, *, token: str = ""
    ) -> DbtCloudRun:
        """The run that was started, to wait for.

        Args:
            token: Names this start, in at most 32 letters and digits; it is in the cause of the run. A second call
                with the same one gets the run of the first, if that is among the job's last 1,000. By default each
                call is a start of its own, whose tries have one token.

        Raises:
            AmbiguousError: The answer was lost, and no run of this start is to be seen.
            ConnectorError: dbt Cloud did not take it.
        """
        return self._trigger(token)

    @functools.partial(watched_operation, prepare="_fix_token")
    def run(  # type: ignore[override]  # the kit's gives less
        self, *, token: str = ""
    ) -> DbtCloudStatus:
        """How the run ended, and each of its steps: started, waited for, and succeeded.

        Args:
            token: As with `trigger`.

        Raises:
            JobFailedError: It failed, with the failed step and the end of its log, or took longer than `timeout_s`.
            ConnectorError: dbt Cloud did not take it, or would not tell how it is doing.
        """
        return self._trigger(token)._watched()  # noqa: SLF001 (one of us)

    def get_run(self, run_id: int | str) -> DbtCloudRun:
        """A run of the job that somebody else started, to look at or to wait for."""
        return self._as_run(str(run_id))

    @operation
    def last_run(self) -> DbtCloudRun:
        """The latest run of the job, whoever started it.

        Raises:
            NotFoundError: It never ran, or the token may not see it.
        """
        for run in next(self._pages(1)):
            return self._as_run(str(run["id"]))
        raise NotFoundError(f"{self._name} has no run that the token may see.")

    def retry_failed(self) -> DbtCloudRun:
        """The run that takes up the job's last one where that failed.

        Raises:
            InvalidInputError: The last run did not fail, or cannot be taken up.
        """
        return self.last_run().retry_failed()

    @operation
    def get_artifact(self, path: str) -> Any:
        """An artifact of the job's last successful run; see `DbtCloudRun.get_artifact`.

        Raises:
            NotFoundError: There is no such artifact.
        """
        return self._read(f"jobs/{self.job_id}/artifacts/", path, {})

    @property
    def _name(self) -> str:
        return f"dbt Cloud job {self.job_id}"

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        fixed = super()._fix_token(arguments)
        if not arguments.get("token"):
            self._unused.add(fixed["token"])
        return fixed

    @property
    def _unused(self) -> set[str]:
        """Tokens that were made here and never sent, so that there is nothing to look for."""
        return self._cached("unused", set)

    def _trigger(self, token: str) -> DbtCloudRun:
        return cast("DbtCloudRun", super()._trigger(token))

    def _as_run(self, run_id: str) -> DbtCloudRun:
        return DbtCloudRun(self, run_id)

    def _start(self, token: str) -> str:
        mark = f" [{token}]"

        def find() -> dict[str, Any] | None:
            for page in self._pages(include_related="trigger"):
                if marked := [run for run in page if _cause(run).endswith(mark)]:
                    return self._first_of(marked)
            return None

        is_new = token in self._unused
        self._unused.discard(token)
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
            lambda: self._ask("POST", path, "start", self._name, MAY_RUN, body=body, once=True),
            find,
            f"To look for it once more, and start it if it is not there, trigger it with token={token!r}.",
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
                self.logger.warning("Run %s of %s is one too many and will be stopped.", run["id"], self._name)
                self._stop(str(run["id"]), "")
        return first

    def _retry(self, run_id: str) -> str:
        place = f"{self._name} ({run_id})"

        def find() -> dict[str, Any] | None:
            """The retry: of two runs that belong together the later one, whichever of them names the other."""
            for run in itertools.chain.from_iterable(self._pages()):
                named = int(run.get("retrying_run_id") or 0)
                if int(run["id"]) == int(run_id):
                    return self._get(str(named)) if named > int(run_id) else None
                if named == int(run_id):
                    return run
            return None

        if found := find():
            return self._told(found)
        run = self._get(run_id)
        if run["status"] != ERROR or run.get("can_retry") is False:
            reason = run.get("retry_not_supported_reason") or "RETRY_NOT_FAILED_RUN"
            why = NO_RETRY.get(reason, reason)
            raise InvalidInputError(f"{place} cannot be retried from where it failed: {why}. Start the job as a whole.")
        started = self._once(
            lambda: self._ask("POST", f"runs/{run_id}/retry/", "retry", place, MAY_RUN, once=True),
            find,
            "Call retry_failed() of the run again: it looks first.",
        )
        return self._told(started)

    def _once(
        self, send: Callable[[], dict[str, Any]], find: Callable[[], dict[str, Any] | None], advice: str
    ) -> dict[str, Any]:
        """The run that was started. One whose answer is lost is looked for, and not started again."""
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
            self.logger.info("The page of run %s is %s", run["id"], url)
        return str(run["id"])

    def _look(self, run_id: str) -> DbtCloudStatus:
        run = self._get(run_id, include_related="run_steps")
        found = sorted(run.get("run_steps") or [], key=lambda step: int(step["index"]))
        steps = tuple(map(_step, found))
        outcome = OUTCOMES.get(run["status"], "failed" if run.get("is_complete") else "running")
        reason = self._safe(run.get("status_message") or "")
        if outcome == "failed" and (failed := next((at for at in found if at.get("status") == ERROR), None)):
            log = self._end_of(failed.get("logs") or failed.get("truncated_debug_logs") or "")
            reason = f"{reason.rstrip('.')}. " if reason else ""
            reason += f"Step {failed['index']}, {_step(failed).name}, failed" + (
                f"; its log ends:\n{log}" if log else ""
            )
        return DbtCloudStatus(
            run_id,
            _state(run),
            outcome,
            reason,
            started_at=_time(run.get("started_at")),
            ended_at=_time(run.get("finished_at")),
            steps=steps,
            url=run.get("href") or "",
            git_sha=run.get("git_sha") or "",
        )

    def _stop(self, run_id: str, reason: str) -> None:  # noqa: ARG002 (dbt Cloud takes none)
        try:
            self._ask("POST", f"runs/{run_id}/cancel/", "stop", f"{self._name} ({run_id})", MAY_RUN)
        except InvalidInputError:
            if self._look(run_id).outcome == "running":
                raise

    def _ask(
        self,
        method: str,
        path: str,
        verb: str,
        place: str,
        permission: str,
        *,
        body: dict[str, Any] | None = None,
        params: dict[str, str | int] | None = None,
        once: bool = False,
    ) -> Any:
        return self.dbt_cloud_credentials.ask(
            method, path, verb=verb, place=place, permission=permission, json=body, params=params, once=once
        )

    def _get(self, run_id: str, **params: str | int) -> dict[str, Any]:
        place = f"{self._name} ({run_id})"
        run = self._ask("GET", f"runs/{run_id}/", "look at", place, MAY_SEE, params=params)
        return cast("dict[str, Any]", run)

    def _pages(self, limit: int = RUNS_LOOKED_AT, **params: str) -> Iterator[list[dict[str, Any]]]:
        """The runs of the job page by page, the latest first, at most so many."""
        place, length = f"the runs of {self._name}", min(limit, PAGE)
        for offset in range(0, limit, length):
            order: dict[str, str | int] = {"job_definition_id": self.job_id, "order_by": "-id"}
            query = order | {"limit": length, "offset": offset} | params
            page = self._ask("GET", "runs/", "list", place, MAY_SEE, params=query)
            yield page
            if len(page) < length:
                return

    def _read(self, folder: str, path: str, params: dict[str, str | int]) -> Any:
        content = io.BytesIO()
        self._download(folder, path, content, params)
        if not path.endswith(".json"):
            return content.getvalue()
        try:
            return json.loads(content.getvalue())
        except ValueError:
            raise TransientError(f"Could not read {path} of {self._name}: it is no JSON. Try again.") from None

    def _download(self, folder: str, path: str, into: IO[bytes], params: dict[str, str | int]) -> None:
        self.dbt_cloud_credentials.download(
            folder + _quoted(path), into, place=f"{path} of {self._name}", permission=MAY_SEE, params=params
        )

    def _end_of(self, log: str) -> str:
        """The last lines of a log, without colours and secrets."""
        lines = [line for line in log.splitlines() if line.strip()]
        return self._safe("\n".join(lines[len(lines) - min(self.log_lines, len(lines)) :]))[-LONGEST_LOG:]

    def _safe(self, text: str) -> str:
        return _without_secrets(self.dbt_cloud_credentials.hide(text))


@dataclass(eq=False)
class DbtCloudRun(JobRun):
    """One run of a job of dbt Cloud.

    Attributes:
        job: What runs.
        run_id: The number of the run.
    """

    job: DbtCloudJob
    _states: dict[int, str] = field(default_factory=dict, repr=False)

    @watched_operation
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Returns once the run has succeeded.

        Raises:
            JobFailedError: It failed, with the failed step and the end of its log, or took longer than the job's
                `timeout_s`.
        """
        self._watched()

    @operation
    def fetch_result(self) -> DbtCloudStatus:  # type: ignore[override]  # Prefect's is awaitable
        """How the run ended, and each of its steps.

        Raises:
            InvalidInputError: It has not ended.
            JobFailedError: It failed, with the failed step and the end of its log.
        """
        return cast("DbtCloudStatus", JobRun.fetch_result(self))

    @operation
    def status(self) -> DbtCloudStatus:
        """How the run is doing now, and each of its steps, whether it failed or not."""
        return self._look()

    @operation
    def retry_failed(self) -> DbtCloudRun:
        """The run that takes this one up where it failed: the failed step's failed nodes, and what was skipped.

        dbt Cloud does that with the latest run of a job, if it failed, and once: a second call gets the same run.

        Raises:
            InvalidInputError: This one did not fail, or cannot be taken up; the message says why.
            AmbiguousError: The answer was lost, and no such run is to be seen.
        """
        run = self.job._as_run(self.job._retry(self.run_id))  # noqa: SLF001 (one of us)
        self.logger.info("Retry %s of %s takes up what failed.", run.run_id, self.name)
        return run

    @operation
    def artifacts(self, *, step: int | None = None) -> list[str]:
        """The paths of what a step left, such as "manifest.json".

        Args:
            step: The index of the step; by default the last one.
        """
        path, place = f"runs/{self.run_id}/artifacts/", f"the artifacts of {self.name}"
        found = self.job._ask("GET", path, "list", place, MAY_SEE, params=_of(step))  # noqa: SLF001 (one of us)
        return [str(each) for each in found]

    @operation
    def get_artifact(self, path: str, *, step: int | None = None) -> Any:
        """What is in an artifact: the value of a .json, such as "run_results.json", the bytes of anything else.

        Args:
            path: As `artifacts` has it.
            step: The index of the step; by default the last one.

        Raises:
            NotFoundError: There is no such artifact.
        """
        return self.job._read(f"runs/{self.run_id}/artifacts/", path, _of(step))  # noqa: SLF001 (one of us)

    @operation
    def nodes(self, *, step: int | None = None) -> tuple[DbtNode, ...]:
        """How each node of the project ended, from run_results.json, without values of rows.

        Args:
            step: The index of a step; by default all steps that build or test, and of a node its last one.

        Raises:
            NotFoundError: The step left no results.
        """
        steps = [step] if step else [each.index for each in self._look().steps if _has_results(each)]
        found: dict[str, DbtNode] = {}
        for each in steps:
            try:
                results = self.job._read(f"runs/{self.run_id}/artifacts/", "run_results.json", _of(each))  # noqa: SLF001
            except NotFoundError:  # a command that failed before it began
                if step:
                    raise
            else:
                found |= {node.unique_id: node for node in map(_node, results["results"])}
        return tuple(found.values())

    @operation
    def save_artifacts(
        self, bucket: ObjectStore, prefix: str = "", *, paths: list[str] | None = None, step: int | None = None
    ) -> list[str]:
        """The keys of the objects that now hold the artifacts.

        They pass one by one through a temporary file, so that memory is bounded and no object is half of one.

        Args:
            bucket: Where to.
            prefix: The folder in it.
            paths: Which; by default all of the step.
            step: The index of the step; by default the last one.

        Raises:
            NotFoundError: There is no such artifact.
        """
        keys = []
        for path in DbtCloudRun.artifacts(self, step=step) if paths is None else paths:
            with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as file:
                folder = f"runs/{self.run_id}/artifacts/"
                self.job._download(folder, path, file, _of(step))  # noqa: SLF001 (one of us)
                file.seek(0)
                key = f"{prefix.strip('/')}/{path}".lstrip("/")
                keys.append(bucket.upload_from_file_object(cast("Any", file), key))
        return keys

    def _watched(self) -> DbtCloudStatus:
        """How the run ended, after waiting for that; its steps are a page in Prefect's UI then."""
        try:
            status = cast("DbtCloudStatus", watch(self))
        except JobFailedError as error:
            if isinstance(error.status, DbtCloudStatus):
                self._keep(error.status)
            raise
        self._keep(status)
        return status

    def _keep(self, status: DbtCloudStatus) -> None:
        keep_markdown(f"dbt-cloud-job-{self.job.job_id}", status.markdown(), description=self.name)

    def _look(self) -> DbtCloudStatus:
        status = cast("DbtCloudStatus", super()._look())
        for step in status.steps:
            if self._states.get(step.index) != step.state:
                self._states[step.index] = step.state
                took = "" if step.seconds is None else f" after {step.seconds:.0f} s"
                self.logger.info("Step %s of %s, %s, is %s%s.", step.index, self.name, step.name, step.state, took)
        return status


def _of(step: int | None) -> dict[str, str | int]:
    return {} if step is None else {"step": step}


def _cause(run: dict[str, Any]) -> str:
    return str((run.get("trigger") or {}).get("cause") or "")


def _caller() -> str:
    """What starts the run, in words for dbt Cloud's pages."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if flow and flow.flow_run:
        return f"Prefect flow run {flow.flow_run.name}"
    return f"Prefect task run {task.task_run.name}" if task else "etl-blocks"


def _step(step: dict[str, Any]) -> DbtCloudStep:
    state = _state(step)
    ended = "skipped" if state == "Skipped" else OUTCOMES.get(step["status"], "running")
    return DbtCloudStep(
        int(step["index"]),
        _without_secrets(str(step["name"])),
        state,
        cast("Any", ended),
        _time(step.get("started_at")),
        _time(step.get("finished_at")),
    )


def _has_results(step: DbtCloudStep) -> bool:
    command = step.name.partition("`")[2].partition("`")[0]
    return step.outcome in {"succeeded", "failed"} and not WITH_RESULTS.isdisjoint(command.split())


def _node(result: dict[str, Any]) -> DbtNode:
    """A node: https://docs.getdbt.com/reference/artifacts/run-results-json"""
    kind, _, name = (*str(result["unique_id"]).split("."), "", "")[:3]
    rows = (result.get("adapter_response") or {}).get("rows_affected")
    timing: list[dict[str, Any]] = result.get("timing") or []
    executed = next((each for each in timing if each.get("name") == "execute"), {})
    return DbtNode(
        unique_id=result["unique_id"],
        name=name,
        resource_type=kind,
        status=result["status"],
        seconds=result.get("execution_time") or 0.0,
        rows=rows if isinstance(rows, int) and rows >= 0 else None,
        message=without_values(result.get("message") or ""),
        relation=_relation(result.get("relation_name") or ""),
        failures=result.get("failures"),
        is_transient=result["status"] in {"error", "fail"} and is_transient_message(result.get("message") or ""),
        started_at=_time(executed.get("started_at")),
        finished_at=_time(executed.get("completed_at")),
    )


def _relation(quoted: str) -> str | None:
    """The table or view as `schema.name`.

    >>> _relation('"shop"."main"."orders"')
    'main.orders'
    """
    parts = [part.strip('"`') for part in re.findall(r'"[^"]*"|`[^`]*`|[^.]+', quoted)]
    return ".".join(parts[-2:]) or None


def _state(thing: dict[str, Any]) -> str:
    """The word of dbt Cloud for the state of a run or step."""
    return str(thing.get("status_humanized") or STATES.get(thing["status"], thing["status"]))


def _time(text: str | None) -> dt.datetime | None:
    """A time of dbt Cloud, which is in UTC whether it says so or not.

    >>> _time("2026-04-30 06:00:01.5+00:00")
    datetime.datetime(2026, 4, 30, 6, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    """
    try:
        time = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _quoted(path: str) -> str:
    """The path of an artifact as part of an address.

    Raises:
        InvalidInputError: It leads elsewhere.
    """
    parts = path.split("/")
    if not path or {"", ".", ".."} & set(parts):
        raise InvalidInputError(f"{path!r:.100} is no path of an artifact; artifacts() has those that there are.")
    return "/".join(quote(part, safe="") for part in parts)


def _without_secrets(text: str) -> str:
    r"""A log without colours, and without what looks like a secret; dbt Cloud itself hides DBT_ENV_SECRET values.

    >>> _without_secrets("\x1b[31mpostgres://me:pw@db/x\x1b[0m password: 'hunter 2', aws_secret_key=abc")
    'postgres://***@db/x password: ***, aws_secret_key=***'
    """
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    text = re.sub(r"://\S+@", "://***@", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", r"\1 ***", text)
    return SECRET.sub(r"\1***", text)
