"""AWS's smaller services: moto behind a proxy of ours that adds what moto leaves out.

moto runs no Lambda function and no Batch job without Docker, ignores RunTask's idempotency tokens and has no
BatchStopJobRun. Here a Lambda function's name says what becomes of an invocation, ECS keeps the promise of its tokens,
Glue stops runs, and a test says what happens to the next calls of an action: refused, answered and lost, or changed.
"""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from blocks.testing.http_proxy import HttpFaultProxy, whole_response
from integration_tests.standins.process import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.testing.http_proxy import Request, Response

REGION = "eu-central-1"
BATCH_ACTIONS = {
    "submitjob": "SubmitJob",
    "describejobs": "DescribeJobs",
    "listjobs": "ListJobs",
    "terminatejob": "TerminateJob",
}
RUNS_IN = {
    "GetJobRun": "JobRun",
    "GetJobRuns": "JobRuns",
    "DescribeJobs": "jobs",
    "ListJobs": "jobSummaryList",
    "DescribeTasks": "tasks",
}
LOG = b"START RequestId: 1\nhello\nEND RequestId: 1\n"


class AwsServer(HttpFaultProxy):
    """Secrets Manager, Lambda, ECS, Batch, Glue and what they need.

    Attributes:
        calls: How often each action was asked for, by its name in AWS's documentation.
        done: How often each action was carried out.
        requests: The bodies of the calls of each action, in order.
        stopped: The Glue runs that were stopped.
        failed: Runs that moto takes for good ones, by id, and why they are not.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._planned: defaultdict[str, list[Callable[[Request], Response]]] = defaultdict(list)
        self._tokens: dict[str, Response] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was planned and counted."""
        self._planned.clear()
        self.calls: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.requests: defaultdict[str, list[Any]] = defaultdict(list)
        self.stopped: list[str] = []
        self.failed: dict[str, str] = {}

    def refuse_call(self, action: str, code: str, message: str = "", *, status: int = 400, times: int = 1) -> None:
        """Answer the next calls of the action with this error, without doing anything."""
        self._planned[action] += [lambda _: _error(status, code, message)] * times

    def lose_answer(self, action: str, *, times: int = 1) -> None:
        """Carry out the next calls of the action, and close the connection without an answer."""

        def lose(request: Request) -> Response:
            b"".join(self._carry_out(action, request).body)
            raise ConnectionResetError

        self._planned[action] += [lose] * times

    def change_answer(self, action: str, change: Callable[[dict[str, Any]], None], *, times: int = 1) -> None:
        """Carry out the next calls of the action, and change what moto answers."""

        def changed(request: Request) -> Response:
            answer = json.loads(b"".join(self._carry_out(action, request).body))
            change(answer)
            return whole_response(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        self._planned[action] += [changed] * times

    def fail_run(self, action: str, reason: str) -> None:
        """Have the run that the next call of this action asks about be a failed one from then on."""

        def fail(request: Request) -> Response:
            asked = json.loads(request.read())
            self.failed[asked["RunId"] if "RunId" in asked else (asked.get("tasks") or asked["jobs"])[0]] = reason
            return self._carry_out(action, request)

        self._planned[action].append(fail)

    def forget_plans(self) -> None:
        """Forget what was planned, and keep what was counted."""
        self._planned.clear()

    def intercept(self, request: Request) -> Response | None:
        """The answer of AWS."""
        action = _action(request)
        self.calls[action] += 1
        content = request.read()
        if content[:1] == b"{":
            self.requests[action].append(json.loads(content))
        if self._planned[action]:
            return self._planned[action].pop(0)(request)
        return self._carry_out(action, request)

    def _carry_out(self, action: str, request: Request) -> Response:
        self.done[action] += 1
        if action == "Invoke":
            return _invoke(request)
        if action == "BatchStopJobRun":
            return self._stop_runs(json.loads(request.read()))
        if action == "RunTask":
            token = json.loads(request.read()).get("clientToken")
            if token in self._tokens:
                self.done[action] -= 1
                return self._tokens[token]
            answer = self.forward(request)
            content = b"".join(answer.body)
            answer.body = [content]
            if answer.status == 200:
                self._tokens[token] = answer
            return answer
        if self.failed and action in RUNS_IN:
            answer = json.loads(b"".join(self.forward(request).body))
            found = answer[RUNS_IN[action]]
            for run in found if isinstance(found, list) else [found]:
                self._mark_failed(run)
            return whole_response(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        return self.forward(request)

    def _mark_failed(self, run: dict[str, Any]) -> None:
        """Have a run be a failed one if it is one."""
        reason = self.failed.get(run.get("Id") or run.get("jobId") or run.get("taskArn") or "")
        if reason is None:
            return
        if "Id" in run:
            run |= {"JobRunState": "FAILED", "ErrorMessage": reason}
        elif "jobId" in run:
            run |= {"status": "FAILED", "statusReason": reason}
        else:
            ended = {"lastStatus": "STOPPED", "stopCode": "EssentialContainerExited", "stoppedReason": reason}
            run |= ended | {"containers": [{"name": "main", "exitCode": 1}]}

    def _stop_runs(self, asked: dict[str, Any]) -> Response:
        self.stopped += asked["JobRunIds"]
        successes = [{"JobName": asked["JobName"], "JobRunId": run_id} for run_id in asked["JobRunIds"]]
        return whole_response(200, json.dumps({"SuccessfulSubmissions": successes, "Errors": []}).encode())


def _action(request: Request) -> str:
    if target := request.headers.get("X-Amz-Target"):
        return str(target.rpartition(".")[2])
    if "/invocations" in request.path:
        return "Invoke"
    last = request.path.rpartition("/")[2]
    return BATCH_ACTIONS.get(last, last)


def _error(status: int, code: str, message: str) -> Response:
    body = json.dumps({"__type": code, "message": message, "Message": message}).encode()
    return whole_response(status, body, {"x-amzn-ErrorType": code, "Content-Type": "application/json"})


def _invoke(request: Request) -> Response:
    """What Lambda answers, by the function's name; https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html."""
    name = unquote(request.path.split("/")[-2])
    kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
    if name == "missing":
        return _error(404, "ResourceNotFoundException", f"Function not found: {name}")
    if name == "forbidden":
        return _error(403, "AccessDeniedException", "User is not authorized to perform: lambda:InvokeFunction")
    if kind == "DryRun":
        return whole_response(204)
    if kind == "Event":
        return whole_response(202)
    content = request.read()
    headers = {"X-Amz-Executed-Version": request.query.get("Qualifier", "$LATEST"), "x-amzn-RequestId": "request-1"}
    if request.headers.get("X-Amz-Log-Type") == "Tail":
        headers["X-Amz-Log-Result"] = base64.b64encode(LOG).decode()
    if name in {"raises", "exits"}:
        kinds = {"raises": "KeyError", "exits": "Runtime.ExitError"}
        said = {"errorMessage": f"on {content.decode()}", "errorType": kinds[name], "stackTrace": [content.decode()]}
        return whole_response(200, json.dumps(said).encode(), headers | {"X-Amz-Function-Error": "Unhandled"})
    said = {"payload": json.loads(content or b"null"), "context": request.headers.get("X-Amz-Client-Context")}
    return whole_response(200, json.dumps(said).encode(), headers)


@pytest.fixture(scope="session")
def aws_server() -> Iterator[AwsServer]:
    """A stand-in for AWS's smaller services; `reset()` it before a test."""
    import requests
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address=HOST, port=free_port(), verbose=False)
    moto.start()
    upstream = f"http://{HOST}:{moto._port}"
    requests.post(f"{upstream}/moto-api/config", json={"batch": {"use_docker": False}}, timeout=10).raise_for_status()
    with AwsServer(upstream) as server:
        yield server
    moto.stop()
