"""DbtCloudJob over the wire, on a stand-in for dbt Cloud's Administrative API."""

from __future__ import annotations

import datetime as dt
import json
import logging
import ssl
import threading
import time
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import TaskRunSort
from prefect.runtime import flow_run

from blocks.base.errors import (
    AccessDeniedError,
    AmbiguousError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.dbt_cloud import DbtCloudCredentials
from connectors.dbt_cloud import DbtCloudJob, DbtCloudRun, DbtCloudStatus
from connectors.dbt_cloud import job as job_module
from connectors.local import LocalFiles
from integration_tests.standins.dbt_cloud import DbtCloud
from integration_tests.standins.process import HOST, free_port, write_certificates
from tests.contracts.job import *  # noqa: F403
from tests.contracts.job import FOREVER, JobService, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUNNER = "dbtc_runner"
AT_ONCE = RetryPolicy(attempts=3, first_delay_s=0)
ONE_TRY = RetryPolicy(attempts=1)
CANARY = f"canary-{uuid.uuid4().hex}"
LOG = f"""\
06:00:01  Running with dbt=1.11.16
06:00:05  1 of 2 OK created sql table model main.customers
06:00:06  \x1b[31mDatabase Error in model orders (models/orders.sql)\x1b[0m
06:00:06    connection to postgres://etl:{CANARY}@db/shop refused, password={CANARY}
06:00:07  Done. PASS=1 WARN=0 ERROR=1 SKIP=0 TOTAL=2
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[DbtCloud]:
    """An account of dbt Cloud with nothing in it."""
    with DbtCloud() as server:
        yield server


@pytest.fixture(autouse=True)
def _without_waits(cloud: DbtCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "SETTLE_S", (0.0, 0.0))
    cloud.faults_fired.clear()
    cloud.log.clear()
    cloud.mark_original = False


@pytest.fixture
def job_of(cloud: DbtCloud) -> Callable[..., DbtCloudJob]:
    """A new job, as a token of the stand-in has it."""

    def make(token: str = RUNNER, *, job: dict[str, Any] | None = None, **fields: Any) -> DbtCloudJob:
        credentials = DbtCloudCredentials(api_key=token, account_id=1, api_endpoint=cloud.url)
        defaults = {"retry": AT_ONCE, "job_watch_poll_interval": 1e-6, "dbt_cloud_credentials": credentials}
        return DbtCloudJob(**{"job_id": cloud.new_job(**(job or {})), **defaults, **fields})

    return make


@pytest.fixture
def job(job_of: Callable[..., DbtCloudJob]) -> DbtCloudJob:
    return job_of()


@pytest.fixture
def broken(job_of: Callable[..., DbtCloudJob]) -> DbtCloudJob:
    """A job whose second command fails."""
    return job_of(job={"breaks": {"dbt build": LOG}})


def posts(cloud: DbtCloud, path: str = "/run/") -> int:
    """How often something was to be started."""
    return sum(method == "POST" and path in target for method, target, _ in cloud.log)


def failed(run: DbtCloudRun) -> JobFailedError:
    """How the run's wait ended."""
    with pytest.raises(JobFailedError) as caught:
        run.wait_for_completion()
    return caught.value


class BreaksOnce(dict[str, str]):
    """The log of a command that fails, for one run."""

    def __getitem__(self, command: str) -> str:
        return self.pop(command)


class DbtCloudService(JobService):
    """A job of dbt Cloud, on the stand-in; each run goes on for some looks by itself."""

    page = "https://ab123.us1.dbt.com/deploy/1/projects/7/runs/"

    def __init__(self, cloud: DbtCloud, job: DbtCloudJob) -> None:
        self.cloud, self.job, self._skip = cloud, job, 0
        self._job_id = job.job_id

    @property
    def starts(self) -> int:
        """How many runs were started."""
        return len(self.cloud.runs_of(self._job_id))

    @property
    def stops(self) -> int:
        """How many runs were told to stop."""
        return sum(run.status == 30 for run in self.cloud.runs_of(self._job_id))

    def keep_running(self, looks: int = 1) -> None:
        """Have the next looks see a run that goes on."""
        self._skip = looks
        self.cloud.jobs[self._job_id].held = looks == FOREVER

    def refuse_looks(self, refusal: Refusal, looks: int) -> None:
        """Have the looks after that be answered so."""
        status = {"missing": 404, "denied": 403, "malformed": 200}.get(refusal, 401)
        body = b'{"data": {}}' if refusal == "malformed" else b""
        self.cloud.refuse("GET", r"runs/\d+/\?", status=status, body=body, times=looks, skip=self._skip)

    def fail(self, reason: str) -> None:
        """Have the run after that fail, in these words."""
        self.cloud.jobs[self._job_id].breaks = BreaksOnce({"dbt seed": reason})

    def forget(self) -> None:
        """Forget what was planned."""
        self.cloud.clear()
        self.cloud.jobs[self._job_id].held = False


@pytest.fixture
def service(cloud: DbtCloud, job: DbtCloudJob) -> Iterator[JobService]:
    """A job, and its service."""
    yield DbtCloudService(cloud, job)
    cloud.clear()


# Start and wait


def test_a_run_is_started_and_waited_for(cloud: DbtCloud, job: DbtCloudJob, caplog: pytest.LogCaptureFixture) -> None:
    """The result has every step with its state and time; the log has each change of one, and the page."""
    caplog.set_level("INFO")
    status = job.run()
    (run,) = cloud.runs_of(job.job_id)
    assert isinstance(status, DbtCloudStatus)
    assert (status.run_id, status.state, status.outcome) == (str(run.run_id), "Success", "succeeded")
    assert (status.url, status.git_sha) == (
        f"https://ab123.us1.dbt.com/deploy/1/projects/7/runs/{run.run_id}/",
        "c0ffee",
    )
    assert [(step.index, step.name, step.state, step.outcome, step.seconds) for step in status.steps[2:5]] == [
        (3, "Invoke dbt with `dbt deps`", "Success", "succeeded", 7.5),
        (4, "Invoke dbt with `dbt seed`", "Success", "succeeded", 7.5),
        (5, "Invoke dbt with `dbt build`", "Success", "succeeded", 7.5),
    ]
    said = [record.message for record in caplog.records if "dbt build" in record.message]
    place = f"Step 5 of dbt Cloud job {job.job_id} ({run.run_id}), Invoke dbt with `dbt build`, is"
    assert said == [f"{place} Running.", f"{place} Success after 8 s."]
    assert f"The page of run {run.run_id} is {status.url}" in caplog.text
    states = [record.message for record in caplog.records if record.message.startswith("dbt Cloud job")]
    assert [message.rpartition(" ")[2] for message in states] == ["Starting.", "Running.", "Success."]


def test_a_start_says_what_the_block_says(cloud: DbtCloud, job_of: Callable[..., DbtCloudJob]) -> None:
    """The cause with the token, and each override; what the block leaves open is the job's."""
    overrides = {
        "steps_override": ["dbt build --select orders"],
        "schema_override": "ci",
        "git_branch": "main",
        "git_sha": "c0ffee",
        "dbt_version_override": "1.11.0-latest",
        "threads_override": 8,
        "target_name_override": "ci",
        "generate_docs_override": False,
        "timeout_seconds_override": 600,
    }
    job = job_of(cause="Orders have arrived", **overrides)
    job.trigger(token="day20260430")
    (run,) = cloud.runs_of(job.job_id)
    assert run.trigger == {"cause": "Orders have arrived [day20260430]"} | overrides
    plain = job_of(job_id=job.job_id)
    plain.trigger(token="x" * 32)
    assert cloud.runs_of(job.job_id)[-1].trigger == {"cause": f"etl-blocks [{'x' * 32}]"}


def test_the_three_steps(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """Prefect's interface; a run of somebody else can be waited for too."""
    cloud.jobs[job.job_id].held = True
    run = job.trigger()
    run.status()
    with pytest.raises(InvalidInputError, match=r"still Starting|still Running"):
        run.fetch_result()
    cloud.jobs[job.job_id].held = False
    same = job.get_run(int(run.run_id))
    assert same.wait_for_completion() is None
    assert same.fetch_result() == run.fetch_result() == run.status()
    assert job.last_run().run_id == run.run_id
    with pytest.raises(NotFoundError, match="no run that the token may see"):
        job.model_copy(update={"job_id": cloud.new_job()}).last_run()


def test_a_check_says_that_it_is_there(job: DbtCloudJob) -> None:
    """Of the account and of the job."""
    assert job.check() == f"dbt Cloud job {job.job_id} (Nightly) is there and the token may see it."
    said = job.dbt_cloud_credentials.check()
    assert said == "dbt Cloud knows the token, and it may see dbt Cloud account 1 (Jaffle)."


def test_whatever_has_no_method_has_the_client(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """A client of httpx with the address and the token."""
    with job.dbt_cloud_credentials.get_client() as client:
        assert client.get(f"jobs/{job.job_id}/").json()["data"]["name"] == "Nightly"
        assert "dbtc_runner" not in repr(client.headers)
    assert set(cloud.authorizations[-1:]) == {"Bearer dbtc_runner"}


# Once


@pytest.mark.parametrize("fault", ["drop", "cut", "gateway", "no json", "no data"])
def test_a_lost_answer_starts_no_second_run(cloud: DbtCloud, job: DbtCloudJob, fault: str) -> None:
    """It was accepted: the run with the token in its cause is the one, and nothing is sent again."""
    place = f"jobs/{job.job_id}/run/"
    if fault == "drop":
        cloud.drop_answer("POST", place)
    elif fault == "cut":
        cloud.reset_answer("POST", place, after_bytes=20)
    else:
        status, body = {"gateway": (502, b"<html>"), "no json": (200, b"<html>"), "no data": (200, b"{}")}[fault]
        cloud.deny("POST", place, status=status, body=body)
    status = job.run()
    assert [str(run.run_id) for run in cloud.runs_of(job.job_id)] == [status.run_id]
    assert posts(cloud) == len(cloud.faults_fired) == 1


def test_a_run_that_shows_late_is_found(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """Looks go on for a while: one that fails, and one that does not see it yet, are not the last word."""
    cloud.drop_answer("POST", f"jobs/{job.job_id}/run/")
    nothing = json.dumps({"data": [], "status": {}}).encode()
    cloud.refuse("GET", r"runs/\?", status=200, body=nothing)
    run = job.trigger()
    assert [str(each.run_id) for each in cloud.runs_of(job.job_id)] == [run.run_id]
    cloud.drop_answer("POST", f"jobs/{job.job_id}/run/")
    cloud.refuse("GET", r"runs/\?", status=503)
    job.trigger()
    assert len(cloud.runs_of(job.job_id)) == posts(cloud) == 2


def test_a_start_that_nobody_knows_of_is_ambiguous(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """It is not sent again, also where a look failed; with its token it is looked for, and then started once."""
    cloud.refuse("POST", f"jobs/{job.job_id}/run/", status=504)
    cloud.refuse("GET", r"runs/\?", status=503, skip=1)
    with pytest.raises(AmbiguousError, match=r"504.*may have happened.*trigger it with the token 'orders1'"):
        job.trigger(token="orders1")
    assert (posts(cloud), cloud.runs_of(job.job_id)) == (1, [])
    assert job.trigger(token="orders1").run_id == job.trigger(token="orders1").run_id
    assert len(cloud.runs_of(job.job_id)) == 1


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (503, {"Retry-After": "0"}), (429, {"Retry-After": "0"})])
def test_a_start_that_was_refused_is_sent_again(
    cloud: DbtCloud, job: DbtCloudJob, status: int, headers: dict[str, str]
) -> None:
    """Under the policy, after a look for it; a run that an error of dbt Cloud's own hides is found."""
    cloud.refuse("POST", f"jobs/{job.job_id}/run/", status=status, headers=headers, times=2)
    job.trigger()
    assert (len(cloud.runs_of(job.job_id)), posts(cloud)) == (1, 3)
    cloud.deny("POST", f"jobs/{job.job_id}/run/", status=500)
    job.trigger()
    assert (len(cloud.runs_of(job.job_id)), posts(cloud)) == (2, 4)


def test_a_token_is_one_run_forever(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """Behind hundreds of others too, and for a block that was just loaded; no token is part of another one."""
    first = job.trigger(token="day1")
    for number in range(250):
        cloud.start(job.job_id, {"cause": f"Scheduled, not day1 [{number}day1]"})
    again = DbtCloudJob(**{name: getattr(job, name) for name in type(job).model_fields}).trigger(token="day1")
    assert again.run_id == first.run_id
    assert len(cloud.runs_of(job.job_id)) == 251
    asked = [target for method, target, _ in cloud.log if method == "GET" and "/runs/?" in target]
    assert [parse_qs(target.partition("?")[2])["offset"] for target in asked[-3:]] == [["0"], ["100"], ["200"]]


def test_two_starts_at_once_are_one_run(cloud: DbtCloud, job: DbtCloudJob, caplog: pytest.LogCaptureFixture) -> None:
    """The earlier one counts for both, and the other is cancelled, also where that takes another try."""
    for token in ("day1", "day2"):
        cloud.rivals = 1
        if token == "day2":
            cloud.refuse("POST", "cancel/", status=503)
        run = job.trigger(token=token)
        first, second = cloud.runs_of(job.job_id)[-2:]
        assert run.run_id == job.trigger(token=token).run_id == str(first.run_id)
        assert (first.status, second.status) == (1, 30)
    assert "one too many" in caplog.text


def test_a_crowd_gets_one_run(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """Whoever starts the same token when, with lost answers among them, one run is left to run, and all have that."""
    cloud.drop_answer("POST", f"jobs/{job.job_id}/run/", times=2, skip=1)
    cloud.refuse("POST", f"jobs/{job.job_id}/run/", status=503, skip=3)
    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(lambda _: job.model_copy().trigger(token="day1").run_id, range(12)))
    runs = cloud.runs_of(job.job_id)
    assert ids == {str(run.run_id) for run in runs if run.status != 30} == {str(runs[0].run_id)}


def test_a_token_of_our_own_is_not_looked_for(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """Before its first try there is nothing to find: one request."""
    job.trigger()
    assert len(cloud.log) == 1


# Failure


def test_a_failed_run_says_which_step_and_why(broken: DbtCloudJob) -> None:
    """The step, and the end of its log without colours and secrets; what came after it was skipped."""
    with pytest.raises(JobFailedError, match="Step 5, Invoke dbt with `dbt build`, failed; its log ends") as caught:
        broken.run()
    message, status = str(caught.value), caught.value.result
    assert "Database Error in model orders (models/orders.sql) | " in message
    assert "postgres://***@db/shop refused, password=***" in message
    assert CANARY not in message
    assert isinstance(status, DbtCloudStatus)
    assert [step.outcome for step in status.steps[3:]] == ["succeeded", "failed", "skipped"]
    assert "| 5 | Invoke dbt with `dbt build` | Error | 8 s |" in status.markdown()
    broken.log_lines = 1
    assert failed(broken.get_run(status.run_id)).result.reason.endswith(
        "its log ends: 06:00:07  Done. PASS=1 WARN=0 ERROR=1 SKIP=0 TOTAL=2"
    )
    broken.log_lines = 0
    assert failed(broken.get_run(status.run_id)).result.reason == "Step 5, Invoke dbt with `dbt build`, failed"


def test_a_cancelled_run(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """It failed, with dbt Cloud's words; a second cancel changes nothing, and neither does one whose answer is lost."""
    cloud.jobs[job.job_id].held = True
    run = job.trigger()
    cloud.drop_answer("POST", "cancel/")
    run.cancel()
    assert failed(run).result.state == "Cancelled"
    assert "Cancelled by user" in str(failed(run))
    run.cancel()
    assert run.status().outcome == "failed"


def test_a_run_that_takes_too_long_is_cancelled(cloud: DbtCloud, job_of: Callable[..., DbtCloudJob]) -> None:
    """And the error has the steps so far."""
    job = job_of(job={"held": True}, timeout_s=1e-6)
    with pytest.raises(JobFailedError, match="It was told to stop") as caught:
        job.run()
    assert isinstance(caught.value.result, DbtCloudStatus)
    assert cloud.runs_of(job.job_id)[0].status == 30


def test_a_stop_that_is_refused(cloud: DbtCloud, job_of: Callable[..., DbtCloudJob]) -> None:
    """Of a run that goes on it is an error."""
    run = job_of(job={"held": True}).trigger()
    cloud.refuse("POST", "cancel/", status=400)
    with pytest.raises(InvalidInputError, match="Could not stop dbt Cloud job"):
        run.cancel()


# Retry


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("fault", ["", "drop", "unavailable"])
def test_what_failed_is_retried_once(cloud: DbtCloud, broken: DbtCloudJob, fault: str, marked: bool) -> None:
    """From the failed step on. A lost answer, and a second call, give the same run."""
    cloud.mark_original = marked
    run = broken.trigger()
    failed(run)
    cloud.jobs[broken.job_id].breaks.clear()
    if fault == "drop":
        cloud.drop_answer("POST", "retry/")
    elif fault:
        cloud.refuse("POST", "retry/", status=503)
    retry = run.retry_failed()
    retry.wait_for_completion()
    assert [step.name for step in retry.fetch_result().steps[3:]] == [
        "Invoke dbt with `dbt build`",
        "Invoke dbt with `dbt docs generate`",
    ]
    assert run.retry_failed().run_id == retry.run_id
    assert len(cloud.runs_of(broken.job_id)) == 2
    assert posts(cloud, "/retry/") == (2 if fault == "unavailable" else 1)


def test_a_job_takes_up_its_last_run(cloud: DbtCloud, broken: DbtCloudJob) -> None:
    """If that failed; what cannot be taken up is said, and nothing is started in its place."""
    first = broken.trigger()
    failed(first)
    second = broken.retry_failed()
    failed(second)
    cloud.jobs[broken.job_id].breaks.clear()
    broken.retry_failed().wait_for_completion()
    with pytest.raises(InvalidInputError, match=r"cannot be retried from where it failed: it did not fail"):
        broken.retry_failed()
    assert len(cloud.runs_of(broken.job_id)) == 3
    assert first.retry_failed().run_id == second.run_id


def test_a_retry_is_not_one_too_many(cloud: DbtCloud, broken: DbtCloudJob) -> None:
    """It may have the token of the run that it takes up, and goes on when that is asked for."""
    run = broken.trigger(token="day1")
    failed(run)
    cloud.jobs[broken.job_id].held = True
    retry = run.retry_failed()
    assert broken.trigger(token="day1").run_id == run.run_id
    assert retry.status().outcome == "running"


def test_a_run_that_is_not_the_last_is_not_retried(cloud: DbtCloud, broken: DbtCloudJob) -> None:
    """The reason is in plain words; a retry whose fate is unknown is no reason for another."""
    run = broken.trigger()
    failed(run)
    cloud.refuse("POST", "retry/", status=502)
    with pytest.raises(AmbiguousError, match=r"No run of it is to be seen. Call retry_failed\(\)"):
        run.retry_failed()
    broken.trigger()
    with pytest.raises(InvalidInputError, match="the job has run again since"):
        run.retry_failed()
    assert posts(cloud, "/retry/") == 1


# Artifacts


def test_artifacts(broken: DbtCloudJob, tmp_path: Path) -> None:
    """Listed and read, of the last step or another one; a JSON is its value, and all can be kept in a bucket."""
    run = broken.trigger()
    failed(run)
    names = ["compiled/jaffle shop/models/orders.sql", "manifest.json", "run_results.json"]
    assert run.artifacts() == run.artifacts(step=4) == names
    results = run.get_artifact("run_results.json")["results"]
    assert [result["status"] for result in results] == ["success", "error", "skipped"]
    assert run.get_artifact("run_results.json", step=4)["args"] == {"invocation_command": "dbt seed"}
    assert run.get_artifact(names[0]) == b"select 1 as order_id"
    bucket = LocalFiles(basepath=str(tmp_path))
    assert run.save_artifacts(bucket, "dbt/today") == [f"dbt/today/{name}" for name in names]
    assert bucket.read_path(f"dbt/today/{names[0]}") == b"select 1 as order_id"
    assert run.save_artifacts(bucket, paths=["manifest.json"], step=4) == ["manifest.json"]
    with pytest.raises(NotFoundError, match=r"catalog.json of dbt Cloud job"):
        run.get_artifact("catalog.json")
    for wrong in ("", "../jobs/", "a//b", "/etc/passwd", "."):
        with pytest.raises(InvalidInputError, match="not the path of an artifact"):
            run.get_artifact(wrong)
    with pytest.raises(NotFoundError):
        broken.get_artifact("manifest.json")


def test_nodes_say_how_they_ended(cloud: DbtCloud, broken: DbtCloudJob) -> None:
    """Of all steps that build, or of one; what the database quoted of a row is left out."""
    run = broken.trigger()
    failed(run)
    nodes = {node.unique_id: node for node in run.nodes()}
    assert list(nodes) == ["seed.shop.raw_orders", "model.shop.orders", "test.shop.unique_orders_id.5d"]
    orders = nodes["model.shop.orders"]
    assert (orders.name, orders.resource_type, orders.status, orders.is_failed) == ("orders", "model", "error", True)
    assert orders.message == "Database Error in model orders (models/orders.sql): deadlock detected"
    assert (orders.is_transient, orders.relation, orders.rows) == (True, "main.orders", None)
    assert nodes["seed.shop.raw_orders"].rows == 12
    assert nodes["seed.shop.raw_orders"].finished_at == dt.datetime(2026, 4, 30, 6, 0, 2, 500_000, tzinfo=dt.UTC)
    assert nodes["test.shop.unique_orders_id.5d"].name == "unique_orders_id"
    assert [node.unique_id for node in run.nodes(step=4)] == ["seed.shop.raw_orders"]
    del cloud.runs_of(broken.job_id)[0].artifacts[5]["run_results.json"]
    assert [node.unique_id for node in run.nodes()] == ["seed.shop.raw_orders"]
    with pytest.raises(NotFoundError, match=r"run_results.json of dbt Cloud"):
        run.nodes(step=5)


def test_artifacts_of_a_job(job: DbtCloudJob) -> None:
    """Those of its last successful run."""
    job.run()
    assert job.get_artifact("manifest.json") == {"metadata": {"project_name": "jaffle_shop"}}


def test_a_large_artifact_takes_no_memory(cloud: DbtCloud, job: DbtCloudJob, tmp_path: Path) -> None:
    """A manifest of a large project goes to a bucket as it arrives."""
    job.run()
    cloud.runs_of(job.job_id)[0].artifacts[6]["manifest.json"] = large = bytes(2**25)
    tracemalloc.start()
    try:
        job.last_run().save_artifacts(LocalFiles(basepath=str(tmp_path)), paths=["manifest.json"])
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert (tmp_path / "manifest.json").read_bytes() == large


def test_a_broken_download_is_no_artifact(cloud: DbtCloud, job: DbtCloudJob, tmp_path: Path) -> None:
    """It is tried again, and nothing of it reaches the bucket before it is whole."""
    job.run()
    run, bucket = job.last_run(), LocalFiles(basepath=str(tmp_path))
    cloud.reset_answer("GET", "artifacts/manifest.json", after_bytes=5)
    cloud.refuse("GET", "artifacts/manifest.json", status=200, body=b'{"met')
    assert run.get_artifact("manifest.json")["metadata"]
    run.job.retry = ONE_TRY
    cloud.reset_answer("GET", "artifacts/manifest.json", after_bytes=5)
    with pytest.raises(TransientError, match=r"Could not read manifest.json of dbt Cloud job"):
        run.save_artifacts(bucket, paths=["manifest.json"])
    assert bucket.list_objects() == []


# Errors

ANSWERS: dict[int, tuple[type[ConnectorError], str]] = {
    302: (InvalidInputError, "Check domain"),
    400: (InvalidInputError, "Could not start dbt Cloud job"),
    401: (AuthError, "Check api_key, and domain"),
    403: (AccessDeniedError, "needs a permission set that may run jobs of the project, such as Job Runner"),
    404: (NotFoundError, "Check account_id, job_id and domain"),
    418: (TerminalError, "418"),
    422: (InvalidInputError, "422"),
    429: (ThrottledError, "shut out for 5 minutes"),
    500: (TransientError, "500"),
    503: (TransientError, "503"),
    504: (AmbiguousError, "504"),
    524: (AmbiguousError, "524"),
}


def test_every_answer_has_its_error(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """What no other try can help is sent once; a wish for patience is kept, and the documented one assumed."""
    job.retry = ONE_TRY
    for status, (kind, words) in ANSWERS.items():
        body = json.dumps({"status": {"user_message": f"No. {CANARY} dbtc_runner", "developer_message": "No."}})
        cloud.refuse("POST", "/run/", status=status, body=body.encode())
        with pytest.raises(kind, match=words) as caught:
            job.trigger()
        assert type(caught.value) is kind
        assert f"No. {CANARY} ***; No" in str(caught.value)
        if isinstance(caught.value, ThrottledError):
            assert caught.value.retry_after_s == 300
    for status in (429, 503):
        cloud.refuse("POST", "/run/", status=status, headers={"Retry-After": "17"})
        with pytest.raises(ThrottledError) as patient:
            job.trigger()
        assert patient.value.retry_after_s == 17
    assert posts(cloud) == len(ANSWERS) + 2


def test_a_right_that_is_missing_is_named(job_of: Callable[..., DbtCloudJob]) -> None:
    """The permission sets that have it are."""
    viewer, nobody = job_of("dbtc_viewer"), job_of("dbtc_nobody")
    viewer.check()
    with pytest.raises(AccessDeniedError, match="Job Runner or Job Admin"):
        viewer.trigger()
    with pytest.raises(AccessDeniedError, match="Job Viewer or Job Admin"):
        nobody.check()
    with pytest.raises(AuthError, match=r"Invalid token. Check api_key, and domain"):
        job_of("dbtc_stranger").check()
    with pytest.raises(NotFoundError, match=r"dbt Cloud job 7.*Check account_id, job_id"):
        job_of(job_id=7).trigger()


def test_looks_survive_faults(cloud: DbtCloud, job: DbtCloudJob) -> None:
    """Unavailable, throttled, broken off, no answer of dbt Cloud's: the run is watched to its end."""
    for fault in (
        lambda: cloud.refuse("GET", r"runs/\d+/", status=503, times=2),
        lambda: cloud.refuse("GET", r"runs/\d+/", status=429, headers={"Retry-After": "0"}),
        lambda: cloud.drop_answer("GET", r"runs/\d+/", times=2),
        lambda: cloud.reset_answer("GET", r"runs/\d+/", after_bytes=9),
        lambda: cloud.refuse("GET", r"runs/\d+/", status=200, body=b"<html>maintenance</html>"),
    ):
        fault()
        assert job.run().outcome == "succeeded"


def test_nobody_listens(job: DbtCloudJob) -> None:
    """It was never sent, so it is worth another try, and not ambiguous."""
    credentials = job.dbt_cloud_credentials.model_copy(update={"api_endpoint": f"http://{HOST}:{free_port()}"})
    with pytest.raises(TransientError, match=r"ConnectError.*Check domain, and that this machine may reach it"):
        job.model_copy(update={"dbt_cloud_credentials": credentials}).trigger()


def test_an_unknown_authority_gets_no_token(job: DbtCloudJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is verified, with what SSL_CERT_FILE names where it names something."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    authority, certificate, key = write_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer((HOST, 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = {"api_endpoint": f"https://{HOST}:{server.server_port}"}
        fields = {name: getattr(job.dbt_cloud_credentials, name) for name in ("api_key", "account_id", "retry")}
        try:
            with pytest.raises(TerminalError, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
                DbtCloudCredentials(**fields, **address).check()
            assert seen == []
            monkeypatch.setenv("SSL_CERT_FILE", str(authority))
            with pytest.raises(AuthError):
                DbtCloudCredentials(**fields, **address).check()
            assert seen == ["Bearer dbtc_runner"]
        finally:
            server.shutdown()
            thread.join()


# Prefect


def test_jobs_in_flows(
    cloud: DbtCloud, broken: DbtCloudJob, prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Run, wait, retry and the rest are task runs; the cause names the flow run, and the steps are a page."""
    assert prefect_server
    caplog.set_level(logging.INFO)

    @flow
    def nightly() -> str:
        run = broken.trigger()
        cloud.drop_answer("POST", "retry/")
        with pytest.raises(JobFailedError):
            run.wait_for_completion()
        cloud.jobs[broken.job_id].breaks.clear()
        run.retry_failed().wait_for_completion()
        broken.run()
        return str(flow_run.id)

    nightly_id = nightly()
    assert [run.retries is None for run in cloud.runs_of(broken.job_id)] == [True, False, True]
    assert cloud.runs_of(broken.job_id)[0].trigger["cause"].startswith("Prefect flow run ")
    of_it = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(nightly_id)]))
    broken.save("nightly", overwrite=True)
    assert DbtCloudJob.load("nightly") == broken
    expected = {
        "DbtCloudJob.trigger",
        "DbtCloudRun.wait_for_completion",
        "DbtCloudRun.retry_failed",
        "DbtCloudJob.run",
    }
    with get_client(sync_client=True) as client:
        kept = client._client.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [nightly_id]}}}).json()
        pages = [page["data"] for page in kept if page["key"] == f"dbt-cloud-job-{broken.job_id}"]
        deadline = time.monotonic() + 20
        names: set[str] = set()
        while not names >= expected:
            assert time.monotonic() < deadline, "the API did not show the task runs in time"
            found = client.read_task_runs(flow_run_filter=of_it, limit=200, sort=TaskRunSort.NAME_ASC)
            names = {run.name for run in found}
            threading.Event().wait(0.1)
    assert len(pages) == 3
    assert any("| 5 | Invoke dbt with `dbt build` | Error | 8 s |" in page for page in pages)
    for text in (caplog.text, *pages, repr(broken), broken.model_dump_json()):
        assert "dbtc_runner" not in text
        assert CANARY not in text
