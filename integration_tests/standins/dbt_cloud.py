"""dbt Cloud's Administrative API v2, as far as it is documented and used here; there is no emulator of it.

Each route follows its operation in https://docs.getdbt.com/dbt-cloud/api-v2, whose machine-readable form is
https://github.com/dbt-labs/dbt-cloud-openapi-spec/blob/master/openapi-v2.yaml:

    GET  accounts/{a}/                        Retrieve Account
    GET  accounts/{a}/jobs/{j}/               Retrieve Job
    POST accounts/{a}/jobs/{j}/run/           Trigger Job Run
    GET  accounts/{a}/jobs/{j}/artifacts/{p}  Retrieve Job Artifact
    GET  accounts/{a}/runs/                   List Runs
    GET  accounts/{a}/runs/{r}/               Retrieve Run
    POST accounts/{a}/runs/{r}/cancel/        Cancel Run
    POST accounts/{a}/runs/{r}/retry/         Retry Failed Run, by the rules of docs.getdbt.com/docs/deploy/retry-jobs
    GET  accounts/{a}/runs/{r}/artifacts/     List Run Artifacts
    GET  accounts/{a}/runs/{r}/artifacts/{p}  Retrieve Run Artifact

The pages do not say, and were taken from what people report or chosen here: the texts of refusals, that a refused
retry is a 400, the longest cause, the number that goes with the word Skipped, what a cancel of an ended run says, that
a list of artifacts takes a step, that a retry has the cause of the run that failed, and on which of the two runs
`retrying_run_id` stands.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blocks.testing.http_proxy import HttpFaultProxy, whole_response

if TYPE_CHECKING:
    from blocks.testing.http_proxy import Request, Response

WORDS = {1: "Queued", 2: "Starting", 3: "Running", 10: "Success", 20: "Error", 30: "Cancelled"}
ENDED = {10, 20, 30}
TOKENS = {"dbtc_runner": {"see", "run"}, "dbtc_viewer": {"see"}, "dbtc_nobody": set()}
PREPARATIONS = ["Clone git repository", "Create profile from connection Warehouse", "Invoke dbt with `dbt deps`"]
OVERRIDES = {
    "git_sha": str,
    "git_branch": str,
    "schema_override": str,
    "dbt_version_override": str,
    "threads_override": int,
    "target_name_override": str,
    "generate_docs_override": bool,
    "timeout_seconds_override": int,
    "steps_override": list,
}
LONGEST_PAGE = 100
LONGEST_CAUSE = 255


class Refused(Exception):  # noqa: N818 (an answer)
    """What the service says no with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class CloudJob:
    """A job; its runs do what it says when they come to a command.

    Attributes:
        steps: Its commands.
        breaks: Commands that fail, with their logs.
        held: While it is set, runs stay in the middle of their first command.
    """

    steps: list[str] = field(default_factory=lambda: ["dbt seed", "dbt build", "dbt docs generate"])
    breaks: dict[str, str] = field(default_factory=dict)
    held: bool = False


@dataclass
class CloudRun:
    """A run. Each look at it takes it a little further.

    Attributes:
        trigger: What it was started with.
        commands: What it does.
        artifacts: By the index of the step, and path.
    """

    run_id: int
    job_id: int
    trigger: dict[str, Any]
    commands: list[str]
    retries: int | None = None
    status: int = 1
    message: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[int, dict[str, bytes]] = field(default_factory=dict)

    def advance(self, job: CloudJob) -> None:
        """One notch: from queue to start to running, then each command begins and ends."""
        names = [*PREPARATIONS, *(f"Invoke dbt with `{command}`" for command in self.commands)]
        if self.status in {1, 2}:
            self.status += 1
        elif self.status == 3 and not self.steps:
            self.steps = [self._step(name, 10) for name in PREPARATIONS] + [self._step(names[3], 3, at=4)]
        elif self.status == 3 and not job.held:
            self._end_step(job, names)

    def _end_step(self, job: CloudJob, names: list[str]) -> None:
        at = len(self.steps)
        command = self.commands[at - 4]
        self.artifacts[at] = _artifacts(command, failed=command in job.breaks)
        if command in job.breaks:
            self.steps[-1] |= self._step(names[at - 1], 20, at=at) | {"logs": job.breaks[command]}
            for name in names[at:]:
                skipped = {"status_humanized": "Skipped", "started_at": None, "finished_at": None}
                self.steps.append(self._step(name, 30, at=len(self.steps) + 1) | skipped)
            self.status = 20
            return
        self.steps[-1] |= self._step(names[at - 1], 10, at=at)
        if at == len(names):
            self.status = 10
        else:
            self.steps.append(self._step(names[at], 3, at=at + 1))

    def _step(self, name: str, status: int, *, at: int = 0) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "index": at or PREPARATIONS.index(name) + 1,
            "name": name,
            "status": status,
            "status_humanized": WORDS[status],
            "logs": "06:00:00  Running with dbt=1.11.16\n",
            "started_at": "2026-04-30 06:00:00+00:00",
            "finished_at": "2026-04-30 06:00:07.5+00:00" if status in ENDED else None,
        }


class DbtCloud(HttpFaultProxy):
    """The service, with one account. Tokens are dbtc_runner, dbtc_viewer and dbtc_nobody.

    Attributes:
        jobs: By number.
        runs: In the order in which they were started.
        authorizations: The header of each request.
        rivals: How many others start the same at the moment of the next start, and are faster.
        mark_original: Whether `retrying_run_id` stands on the run that failed, and not on its retry.
    """

    account_id = 1

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")  # nothing is forwarded
        self._runs_lock = threading.Lock()
        self.jobs: dict[int, CloudJob] = {}
        self.runs: list[CloudRun] = []
        self.authorizations: list[str] = []
        self.rivals = 0
        self.mark_original = False

    def new_job(self, **fields: Any) -> int:
        """The number of a new job."""
        self.jobs[number := 42 + len(self.jobs)] = CloudJob(**fields)
        return number

    def runs_of(self, job_id: int) -> list[CloudRun]:
        """The runs of a job, the oldest first."""
        return [run for run in self.runs if run.job_id == job_id]

    def start(self, job_id: int, trigger: dict[str, Any], **fields: Any) -> CloudRun:
        """A new run, as the service starts it."""
        commands = trigger.get("steps_override") or self.jobs[job_id].steps
        run = CloudRun(1001 + len(self.runs), job_id, trigger, list(commands), **fields)
        self.runs.append(run)
        return run

    def intercept(self, request: Request) -> Response:
        """The service's answer."""
        try:
            with self._runs_lock:
                answer = self._answer(request)
        except Refused as no:
            status = {"code": no.status, "is_success": False, "user_message": str(no), "developer_message": None}
            return _response(no.status, {"status": status, "data": None})
        if isinstance(answer, bytes):
            return whole_response(200, answer, {"Content-Type": "application/octet-stream"})
        status = {"code": 200, "is_success": True, "user_message": "Success!", "developer_message": ""}
        return _response(200, {"status": status} | answer)

    def _answer(self, request: Request) -> dict[str, Any] | bytes:
        header = request.headers.get("Authorization", "")
        self.authorizations.append(header)
        token = header.removeprefix("Bearer ")
        if token not in TOKENS:
            raise Refused(401, "Invalid token.")
        found = re.fullmatch(rf"/api/v2/accounts/{self.account_id}/(.*)", request.path)
        if not found:
            raise Refused(404, "The requested resource was not found")
        routes = {
            r"GET ": lambda: {"data": {"id": self.account_id, "name": "Jaffle"}},
            r"GET jobs/(\d+)/": lambda job: {"data": {"id": self._job(job), "name": "Nightly"}},
            r"POST jobs/(\d+)/run/": lambda job: self._trigger(self._job(job), request),
            r"GET jobs/(\d+)/artifacts/(.+)": lambda job, path: self._job_artifact(self._job(job), path),
            r"GET runs/": lambda: self._list(request.query),
            r"GET runs/(\d+)/": lambda run: self._retrieve(self._run(run), request.query),
            r"POST runs/(\d+)/cancel/": lambda run: self._cancel(self._run(run)),
            r"POST runs/(\d+)/retry/": lambda run: self._retry(self._run(run)),
            r"GET runs/(\d+)/artifacts/": lambda run: {"data": sorted(self._artifacts(run, request.query))},
            r"GET runs/(\d+)/artifacts/(.+)": lambda run, path: _named(self._artifacts(run, request.query), path),
        }
        asked = f"{request.method} {found[1]}"
        match, route = next(
            ((match, route) for pattern, route in routes.items() if (match := re.fullmatch(pattern, asked))),
            (None, None),
        )
        if not (match and route):
            raise Refused(405 if request.method != "GET" else 404, f"There is no {asked}.")
        if ("see" if request.method == "GET" else "run") not in TOKENS[token]:
            raise Refused(403, "You do not have permission to perform this action.")
        return route(*match.groups())

    def _job(self, number: str) -> int:
        if int(number) not in self.jobs:
            raise Refused(404, "The requested resource was not found")
        return int(number)

    def _run(self, number: str) -> CloudRun:
        found = next((run for run in self.runs if run.run_id == int(number)), None)
        if found is None:
            raise Refused(404, "The requested resource was not found")
        return found

    def _trigger(self, job_id: int, request: Request) -> dict[str, Any]:
        try:
            body = json.loads(request.read())
        except ValueError:
            raise Refused(400, "JSON parse error") from None
        cause = body.get("cause")
        if not (isinstance(cause, str) and 0 < len(cause) <= LONGEST_CAUSE):
            raise Refused(400, "cause: this field is required and has at most 255 characters.")
        for name, value in body.items():
            if name != "cause" and not (isinstance(value, OVERRIDES.get(name, ())) and value not in ("", [])):
                raise Refused(400, f"{name}: {value!r} is not valid.")
        while self.rivals:
            self.rivals -= 1
            self.start(job_id, body)
        return {"data": self._shown(self.start(job_id, body))}

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        runs = [run for run in self.runs if str(run.job_id) == query.get("job_definition_id", str(run.job_id))]
        if (order := query.get("order_by", "id")).lstrip("-") != "id":
            raise Refused(400, f"order_by: {order}")
        runs = runs[::-1] if order == "-id" else runs
        limit, offset = min(int(query.get("limit", LONGEST_PAGE)), LONGEST_PAGE), int(query.get("offset", 0))
        page = [self._shown(run, query.get("include_related", "")) for run in runs[offset : offset + limit]]
        pagination = {"count": len(page), "total_count": len(runs)}
        return {"data": page, "extra": {"filters": {}, "order_by": order, "pagination": pagination}}

    def _retrieve(self, run: CloudRun, query: dict[str, str]) -> dict[str, Any]:
        related = query.get("include_related", "")
        if "run_steps" in related.split(","):
            run.advance(self.jobs[run.job_id])
        return {"data": self._shown(run, related)}

    def _cancel(self, run: CloudRun) -> dict[str, Any]:
        if run.status in ENDED:
            raise Refused(400, "The run has ended.")
        run.status, run.message = 30, "Cancelled by user"
        return {"data": self._shown(run)}

    def _retry(self, run: CloudRun) -> dict[str, Any]:
        if reason := self._no_retry(run):
            raise Refused(400, f"Run cannot be retried: {reason}")
        at = next(step["index"] for step in run.steps if step["status"] == 20) - 4
        retry = self.start(run.job_id, run.trigger, retries=run.run_id)
        retry.commands = run.commands[at:]
        return {"data": self._shown(retry)}

    def _no_retry(self, run: CloudRun) -> str | None:
        if run is not self.runs_of(run.job_id)[-1]:
            return "RETRY_NOT_LATEST_RUN"
        if run.status != 20:
            return "RETRY_NOT_FAILED_RUN"
        return None if run.artifacts else "RETRY_NO_RUN_RESULTS"

    def _artifacts(self, number: str, query: dict[str, str]) -> dict[str, bytes]:
        run = self._run(number)
        if run.status not in ENDED or not run.artifacts:
            raise Refused(404, "The requested resource was not found")
        return run.artifacts.get(int(query.get("step", max(run.artifacts))), {})

    def _job_artifact(self, job_id: int, path: str) -> bytes:
        good = [run for run in self.runs_of(job_id) if run.status == 10]
        return _named(good[-1].artifacts[max(good[-1].artifacts)] if good else {}, path)

    def _shown(self, run: CloudRun, related: str = "") -> dict[str, Any]:
        no_retry, retries = self._no_retry(run), run.retries
        if self.mark_original:
            retries = next((each.run_id for each in self.runs if each.retries == run.run_id), None)
        data: dict[str, Any] = {
            "id": run.run_id,
            "account_id": self.account_id,
            "job_definition_id": run.job_id,
            "status": run.status,
            "status_humanized": WORDS[run.status],
            "status_message": run.message,
            "is_complete": run.status in ENDED,
            "is_success": run.status == 10,
            "is_error": run.status == 20,
            "is_cancelled": run.status == 30,
            "git_sha": run.trigger.get("git_sha", "c0ffee"),
            "started_at": "2026-04-30 06:00:00+00:00" if run.status > 2 else None,
            "finished_at": "2026-04-30 06:01:00+00:00" if run.status in ENDED else None,
            "can_retry": no_retry is None,
            "retry_not_supported_reason": no_retry,
            "retrying_run_id": retries,
            "href": f"https://ab123.us1.dbt.com/deploy/{self.account_id}/projects/7/runs/{run.run_id}/",
            "trigger": run.trigger if "trigger" in related.split(",") else None,
            "run_steps": run.steps if "run_steps" in related.split(",") else [],
        }
        return data


def _artifacts(command: str, *, failed: bool) -> dict[str, bytes]:
    names = {"dbt seed": ["seed.shop.raw_orders"], "dbt build": ["seed.shop.raw_orders", "model.shop.orders"]}
    nodes = [_result(name) for name in names.get(command, [])]
    if failed:
        nodes[-1:] = [_result("model.shop.orders", failed=True), _result("test.shop.unique_orders_id.5d", skipped=True)]
    results = {"args": {"invocation_command": command}, "results": nodes}
    return {
        "manifest.json": json.dumps({"metadata": {"project_name": "jaffle_shop"}}).encode(),
        "run_results.json": json.dumps(results).encode(),
        "compiled/jaffle shop/models/orders.sql": b"select 1 as order_id",
    }


def _result(name: str, *, failed: bool = False, skipped: bool = False) -> dict[str, Any]:
    """A node as https://schemas.getdbt.com/dbt/run-results/v6.json has it."""
    done = {"name": "execute", "started_at": "2026-04-30T06:00:01Z", "completed_at": "2026-04-30T06:00:02.5Z"}
    message = "Database Error in model orders (models/orders.sql)\n  deadlock detected\n  DETAIL:  Key (id)=(7)"
    return {
        "unique_id": name,
        "status": "error" if failed else "skipped" if skipped else "success",
        "message": message if failed else None if skipped else "INSERT 0 12",
        "execution_time": 0.0 if skipped else 1.5,
        "failures": None,
        "adapter_response": {} if failed or skipped else {"rows_affected": 12},
        "relation_name": None if name.startswith("test") else f'"shop"."main"."{name.split(".")[2]}"',
        "timing": [] if skipped else [{"name": "compile"}, done],
    }


def _named(artifacts: dict[str, bytes], path: str) -> bytes:
    from urllib.parse import unquote

    if unquote(path) not in artifacts:
        raise Refused(404, "The requested resource was not found")
    return artifacts[unquote(path)]


def _response(status: int, body: dict[str, Any]) -> Response:
    return whole_response(status, json.dumps(body).encode(), {"Content-Type": "application/json"})
