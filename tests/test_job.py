"""Jobs: started once, watched without losing sight of them, and stopped when nobody waits. Clocks are told the time."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from prefect import flow
from pydantic import Field, PrivateAttr

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    ThrottledError,
    TransientError,
)
from blocks.base.live import live
from blocks.base.retry import RetryPolicy
from blocks.jobs.job import Job
from blocks.jobs.output import LONGEST_LINE, MOST_LINES, LogStream
from blocks.jobs.run import (
    CONTRADICTED_S,
    FIRST_POLL_S,
    LAST_LINES_S,
    REFUSED_S,
    UNKNOWN_S,
    JobRun,
    JobStatus,
)
from blocks.jobs.start import StartedRun, derive_token

AT_ONCE = RetryPolicy(attempts=3, first_delay_s=0)
SUCCEEDED = JobStatus("1", "DONE", "succeeded", exit_code=0)
FAILED = JobStatus("1", "BROKEN", "failed", "the disk is full.", exit_code=3)


def running(state: str = "RUNNING") -> JobStatus:
    return JobStatus("1", state, "running")


class Errand(Job):
    """A job whose service answers what the test says; what it was asked is kept."""

    _block_type_slug = "etl-test-errand"

    label: str = Field(default="errand", description="Its name.")
    retry: RetryPolicy = AT_ONCE
    job_watch_poll_interval: float = 1e-6

    _looks: list[JobStatus | BaseException] = PrivateAttr(default_factory=list)
    _starts: list[str | BaseException] = PrivateAttr(default_factory=list)
    _stops: list[BaseException] = PrivateAttr(default_factory=list)
    _tokens: list[str] = PrivateAttr(default_factory=list)
    _reasons: list[str] = PrivateAttr(default_factory=list)

    def check(self) -> str:
        """Fine."""
        return "fine"

    @live
    def looked(self) -> threading.Event:
        """Set once it was looked at."""
        return threading.Event()

    @live
    def stopped(self) -> threading.Event:
        """Set once it was stopped."""
        return threading.Event()

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"Errand {self.label}"

    def _start(self, token: str) -> str:
        self._tokens.append(token)
        found = self._starts.pop(0) if self._starts else "1"
        if isinstance(found, BaseException):
            raise found
        return found

    def get_status(self, run_id: str) -> JobStatus:
        """The next look."""
        assert run_id == "1"
        self.looked.set()
        found = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(found, BaseException):
            raise found
        return found

    def stop_run(self, run_id: str, reason: str) -> None:
        """Stopped, unless the test says otherwise."""
        assert run_id == "1"
        self._reasons.append(reason)
        if self._stops:
            raise self._stops.pop(0)
        self.stopped.set()


def errand(*looks: JobStatus | BaseException, **fields: Any) -> Errand:
    job = Errand(**fields)
    job._looks = list(looks)
    return job


class Clock:
    """A clock that moves when somebody waits; the waits are kept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        """The time."""
        return self.now

    def wait(self, seconds: float) -> None:
        """The time goes by."""
        self.waits.append(seconds)
        self.now += seconds


def watched(job: Errand, clock: Clock) -> JobStatus:
    return JobRun(job, "1").watch(clock=clock, wait=clock.wait)


# Start


def test_a_run_is_started_and_waited_for() -> None:
    """`run` says how it ended."""
    job = errand(running(), SUCCEEDED)
    assert job.run() == SUCCEEDED
    assert len(job._tokens) == 1


def test_every_try_of_a_start_has_the_same_token() -> None:
    """What makes a service, or the child, recognise what it started already; each call has its own."""
    job = errand(SUCCEEDED)
    job._starts = [TransientError("lost"), ThrottledError("slow"), "1"]
    assert job.trigger().run_id == "1"
    first = set(job._tokens)
    assert (len(job._tokens), len(first)) == (3, 1)
    job._starts = [TransientError("lost"), "1"]
    job.run()
    assert len(set(job._tokens[3:])) == 1
    assert first.isdisjoint(job._tokens[3:])


def test_a_start_can_be_named() -> None:
    """The token of the caller is the token of the start, if it fits every service."""
    job = errand(SUCCEEDED)
    job.trigger(token="day20260430")
    assert job._tokens == ["day20260430"]
    for wrong in ("a-b", "x" * 33, "ä", "a b"):
        with pytest.raises(InvalidInputError, match="letters and digits"):
            job.trigger(token=wrong)


def test_a_start_that_was_lost_names_its_token() -> None:
    """It may have happened; with the token it is found, or made."""
    job = errand(SUCCEEDED)
    job._starts = [TransientError("lost")] * 3
    with pytest.raises(
        TransientError, match=r"lost It may have been started: trigger\(\) with the token '\w{32}' gets"
    ) as caught:
        job.run()
    assert job._tokens[0] in str(caught.value)


def test_a_refused_start_is_tried_once() -> None:
    """What retrying cannot help is raised as it is."""
    job = errand(SUCCEEDED)
    job._starts = [AccessDeniedError("no")]
    with pytest.raises(AccessDeniedError):
        job.run()
    assert len(job._tokens) == 1


# Wait


def test_the_three_steps() -> None:
    """Prefect's interface: trigger, wait for completion, fetch the result; what is known is not asked again."""
    job = errand(running(), SUCCEEDED)
    run = job.trigger()
    with pytest.raises(InvalidInputError, match=r"still RUNNING. Call wait_for_completion"):
        run.fetch_result()
    assert run.wait_for_completion() is None
    job._looks = [TransientError("gone")]
    assert run.fetch_result() == SUCCEEDED


def test_waits_grow_to_the_longest_with_jitter() -> None:
    """Short at first, then no longer than the block says, and never all alike."""
    job, clock = errand(*[running()] * 40, SUCCEEDED, job_watch_poll_interval=20), Clock()
    watched(job, clock)
    assert len(clock.waits) == 40
    assert FIRST_POLL_S / 2 <= clock.waits[0] <= FIRST_POLL_S
    assert all(10 <= wait <= 20 for wait in clock.waits[-20:])
    assert len(set(clock.waits)) == 40


@pytest.mark.parametrize("error", [TransientError("unreachable"), ThrottledError("slow down", 7.0)])
def test_failed_looks_do_not_lose_the_run(error: ConnectorError, caplog: pytest.LogCaptureFixture) -> None:
    """Many in a row, more than a policy has attempts; one warning says so, and a service's own wish is kept."""
    job, clock = errand(running(), *[error] * 20, running(), SUCCEEDED, job_watch_poll_interval=10), Clock()
    assert watched(job, clock) == SUCCEEDED
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    if isinstance(error, ThrottledError):
        assert min(clock.waits[1:21]) >= 7


def test_a_service_cannot_make_a_wait_longer_than_the_deadline() -> None:
    """One that asks to be left alone for a day is asked again within the policy's deadline."""
    error = ThrottledError("come back tomorrow", 86_400.0)
    job, clock = errand(running(), error, SUCCEEDED, retry=RetryPolicy(deadline_s=600)), Clock()
    assert watched(job, clock) == SUCCEEDED
    assert max(clock.waits) == 600


def test_a_run_that_cannot_be_seen_is_given_up_in_the_end() -> None:
    """After the policy's deadline without one answer; the run goes on, because nobody knows."""
    policy = RetryPolicy(deadline_s=600)
    job, clock = errand(running(), TransientError("unreachable"), retry=policy, job_watch_poll_interval=60), Clock()
    with pytest.raises(TransientError, match=r"unreachable It was not seen for \d+ s and may still be running"):
        watched(job, clock)
    assert 600 <= clock.now <= 700
    assert job._reasons == []


def test_a_look_that_is_refused_ends_the_wait() -> None:
    """The message says what is missing; the run itself is not touched."""
    job = errand(AccessDeniedError("The identity needs x:Describe."))
    with pytest.raises(AccessDeniedError, match=r"x:Describe.*It may still be running.*get_run\('1'\)"):
        job.run()
    assert job._reasons == []


def test_progress_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """One line per state, however often it is asked for."""
    caplog.set_level("INFO")
    errand(*[running("WAITING")] * 5, *[running()] * 5, SUCCEEDED).run()
    said = [record.message for record in caplog.records if record.name.endswith("Errand")]
    assert said == [
        "Started Errand errand as 1.",
        "Errand errand (1) is WAITING.",
        "Errand errand (1) is RUNNING.",
        "Errand errand (1) is DONE.",
    ]


@pytest.mark.parametrize(
    ("error", "patience_s"),
    [
        (NotFoundError("There is no such run."), CONTRADICTED_S),
        (AuthError("The token has expired."), REFUSED_S),
        (AccessDeniedError("No."), REFUSED_S),
        (InvalidInputError("What run?"), REFUSED_S),
    ],
)
def test_a_refusal_is_believed_in_the_end(error: ConnectorError, patience_s: float) -> None:
    """After so long without a better answer, as what it is; the run is not stopped."""
    job, clock = errand(running(), error, job_watch_poll_interval=10), Clock()
    with pytest.raises(type(error), match=r"was not seen for \d+ s and may still be running. get_run\('1'\)"):
        watched(job, clock)
    assert patience_s <= clock.now <= patience_s + 20
    assert job._reasons == []


def test_a_run_that_nobody_knows_is_not_waited_for_long() -> None:
    """Somebody gave a wrong id; or another process started it this moment."""
    job, clock = errand(NotFoundError("There is no such run."), job_watch_poll_interval=10), Clock()
    with pytest.raises(NotFoundError):
        watched(job, clock)
    assert UNKNOWN_S <= clock.now <= UNKNOWN_S + 10
    with pytest.raises(NotFoundError):
        job.get_run("1").status()
    started = job.trigger()
    job._looks = [NotFoundError("There is no such run."), running()]
    assert started.status() == running()


# Failure


def test_a_failure_has_the_reason_of_the_service() -> None:
    """Waiting, fetching and running all raise it, and the error survives a process boundary."""
    job = errand(FAILED)
    for wait in (job.run, job.trigger().wait_for_completion, job.trigger().fetch_result):
        with pytest.raises(JobFailedError) as caught:
            wait()
        assert str(caught.value) == "Errand errand (1) failed with BROKEN: the disk is full. Exit code 3."
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (our own)
        assert (str(copy), copy.result) == (str(caught.value), FAILED)
    assert len(job._tokens) == 3  # a job that failed is not started again


@pytest.mark.parametrize(
    ("cancel", "stops", "said"),
    [
        (True, [], "It was told to stop."),
        (True, [TransientError("busy")], "It was told to stop."),
        (True, [AccessDeniedError("no")], "could not be stopped"),
        (False, [], "It may still be running."),
    ],
)
def test_a_run_that_takes_too_long(cancel: bool, stops: list[BaseException], said: str) -> None:
    """It is stopped, unless the block says not to, and the error says what became of it."""
    job, clock = errand(running(), timeout_s=100, cancel_on_interrupt=cancel, job_watch_poll_interval=30), Clock()
    job._stops = stops
    with pytest.raises(JobFailedError, match=f"longer than 100 s and was last seen RUNNING.*{said}"):
        watched(job, clock)
    assert clock.now == pytest.approx(100)
    assert bool(job._reasons) == cancel


# Interruption


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, TimeoutError])
@pytest.mark.parametrize("cancel", [True, False])
def test_an_interrupted_wait_stops_the_run(interruption: type[BaseException], cancel: bool) -> None:
    """Ctrl-C, the end of the process, a timeout of the task: nobody waits any more."""
    job = errand(running(), interruption, cancel_on_interrupt=cancel)
    job._looks = [running(), interruption()]
    with pytest.raises(interruption):
        job.run()
    assert len(job._reasons) == cancel


def test_a_stop_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The interruption arrives, and the log says that the run could not be stopped."""
    job = errand(running(), KeyboardInterrupt())
    job._stops = [AccessDeniedError("The identity needs x:Stop.")]
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert "x:Stop" in caplog.text


@pytest.mark.parametrize("options", [{}, {"retries": 0}])
async def test_a_cancelled_awaitable_stops_the_run(options: dict[str, Any]) -> None:
    """The thread that waits hears of it, although nothing can interrupt it."""
    job = errand(running(), job_watch_poll_interval=600)
    waiting = asyncio.create_task(job.run.with_options(**options).aio())
    await asyncio.to_thread(job.looked.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(job.stopped.wait, 10)


def test_a_run_can_be_cancelled() -> None:
    """By its caller, and tried again where the service asks for that."""
    job = errand(running())
    job._stops = [TransientError("busy")]
    job.trigger().cancel()
    assert job._reasons == ["Stopped by its caller."] * 2


# Output


class Talkative(Errand):
    """A job whose runs write what the test says, a page for each time it is asked."""

    _block_type_slug = "etl-test-talkative"
    _pages: list[list[str] | Exception] = PrivateAttr(default_factory=list)

    def read_output(self, group: str, stream: str, position: str, *, region: str = "") -> tuple[list[str], str]:
        """The next page."""
        assert (group, stream, region) == ("group", "stream", "")
        page: list[str] | Exception = self._pages.pop(0) if self._pages else []
        if isinstance(page, Exception):
            raise page
        return page, f"{int(position or 0) + 1}" if page else position


def talkative(*looks: JobStatus, pages: list[list[str] | Exception]) -> Talkative:
    job = Talkative()
    job._looks = [replace(look, streams=(LogStream("group", "stream"),)) for look in looks]
    job._pages = pages
    return job


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.message for record in caplog.records if record.message.startswith("Errand errand: ")]
    return [message.removeprefix("Errand errand: ") for message in found]


def test_the_last_words_of_a_failure_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """Logs arrive later than states; a run that wrote nothing is not waited for."""
    caplog.set_level("INFO")
    job, clock = talkative(FAILED, pages=[["begin"], [], [], ["disk full"]]), Clock()
    with pytest.raises(JobFailedError):
        watched(job, clock)
    assert lines(caplog) == ["begin", "disk full"]
    assert clock.now == sum(LAST_LINES_S)
    job, clock = talkative(FAILED, pages=[]), Clock()
    with pytest.raises(JobFailedError):
        watched(job, clock)
    assert clock.now == 0


def test_what_is_passed_on_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """In lines and in their length; one warning says that there is more."""
    caplog.set_level("INFO")
    pages: list[list[str] | Exception] = [["x" * 10_000]] + [["x"] * 1_000 for _ in range(20)]
    assert watched(talkative(running(), running(), SUCCEEDED, pages=pages), Clock()).outcome == "succeeded"
    assert (len(lines(caplog)), max(map(len, lines(caplog)))) == (MOST_LINES, LONGEST_LINE)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


@pytest.mark.parametrize("error", [AccessDeniedError("no"), KeyError("events"), OSError("no")])
def test_a_log_that_cannot_be_read_is_given_up(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, and the run goes on."""
    job = talkative(running(), running(), SUCCEEDED, pages=[error, ["later"]])
    assert watched(job, Clock()).outcome == "succeeded"
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert lines(caplog) == []


# Later attempts


class Listed(Errand):
    """A job whose service lists its runs."""

    _block_type_slug = "etl-test-listed"
    _found: list[StartedRun] = PrivateAttr(default_factory=list)

    def _find_runs(self, cause: str) -> list[StartedRun]:
        return [run._replace(token=run.token or cause) for run in self._found]


def retried(job: Errand, **options: Any) -> JobRun:
    """The run that the second attempt of a flow triggers."""
    attempts: list[str] = []

    @flow(retries=1)
    def nightly() -> JobRun:
        attempts.append("")
        if len(attempts) == 1:
            raise ValueError
        return job.trigger(**options)

    return nightly()


def test_a_later_attempt_that_cannot_tell_is_refused(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, and the message has the line to write; with a token there is no doubt."""
    assert prefect_server
    several = Listed()
    several._found = [StartedRun("1", "", "running"), StartedRun("2", "", "succeeded")]
    forgotten = Listed()
    monkeypatch.setattr(Listed, "_listed_for", dt.timedelta(0))
    for job, why in ((Errand(), "does not list"), (several, r"several \(1, 2\)"), (forgotten, "lists what has ended")):
        with pytest.raises(
            InvalidInputError, match=rf"{why}.*Nothing was started\. Give the start a token.*day20260430"
        ):
            retried(job)
        assert job._tokens == []
        assert retried(job, token="day1").run_id == "1"


def test_a_later_attempt_takes_over_what_has_not_failed(prefect_server: str) -> None:
    """One that failed is started once more; so is one that no earlier attempt came to."""
    assert prefect_server
    for found, starts in (([], 1), ([("1", "failed")], 1), ([("1", "failed"), ("1", "running")], 0)):
        job = Listed()
        job._found = [StartedRun(run_id, "", outcome) for run_id, outcome in found]
        assert retried(job).run_id == "1"
        assert len(job._tokens) == starts


@pytest.mark.parametrize(("end", "starts"), [(FAILED, 1), (SUCCEEDED, 0)])
def test_a_run_that_is_being_stopped_is_waited_for(prefect_server: str, end: JobStatus, starts: int) -> None:
    """The next one does not run beside it; one that succeeds after all is taken over."""
    assert prefect_server
    job = Listed()
    job._found, job._looks = [StartedRun("1", "", "running", is_stopping=True)], [running("STOPPING"), end]
    assert retried(job).run_id == "1"
    assert (len(job._tokens), job._looks) == (starts, [end])


def test_a_thread_that_does_not_show_its_run_is_refused(prefect_server: str) -> None:
    """A retry would not find what it starts."""
    assert prefect_server
    job = errand(SUCCEEDED)

    @flow
    def nightly() -> None:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(InvalidInputError, match=r"Nothing was started.*copy_context"):
                pool.submit(job.run).result()
            pool.submit(contextvars.copy_context().run, job.run).result()

    nightly()
    assert len(job._tokens) == 1


def test_equal_starts_are_told_apart_by_their_number_and_by_secrets(prefect_server: str) -> None:
    """In a loop each has a cause of its own; what is given in secret tells them apart, and is not in the cause."""
    assert prefect_server
    job = errand(SUCCEEDED)

    @flow
    def nightly() -> None:
        for _ in range(2):
            job.trigger()
        tokens.extend(derive_token("job", "identity", {"A": value}) for value in "xy")

    tokens: list[str] = []
    nightly()
    causes = {token[:16] for token in (*job._tokens, *tokens)}
    assert len(causes) == 4
    copy = pickle.loads(pickle.dumps(tokens[0]))  # noqa: S301 (our own)
    assert (copy, copy.cause, copy.repeats) == (tokens[0], tokens[0][:16], False)


# Prefect


def test_a_run_survives_a_process_boundary() -> None:
    """A run can be triggered in one task and waited for in another."""
    run = pickle.loads(pickle.dumps(errand(SUCCEEDED).trigger()))  # noqa: S301 (our own)
    assert (run.run_id, run.name) == ("1", "Errand errand (1)")


def test_jobs_in_flows(prefect_server: str) -> None:
    """Run, trigger and wait are task runs; a start that is retried by Prefect has one token."""
    assert prefect_server
    job = errand(running(), SUCCEEDED)
    job._starts = [TransientError("lost"), "1"]

    @flow
    def nightly() -> tuple[JobStatus, JobStatus]:
        status = job.run()
        run = job.trigger()
        run.wait_for_completion()
        return status, run.fetch_result()

    assert nightly() == (SUCCEEDED, SUCCEEDED)
    assert [len(set(job._tokens[:2])), len(set(job._tokens))] == [1, 2]


# Prefect drops its connection with a task run that is cancelled.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
async def test_a_flow_that_stops_waiting_stops_the_run(prefect_server: str) -> None:
    """As `asyncio.timeout` does it in an asynchronous flow."""
    assert prefect_server
    job = errand(running(), job_watch_poll_interval=600)

    @flow
    async def nightly() -> bool:
        waiting = asyncio.create_task(job.run.aio())
        await asyncio.to_thread(job.looked.wait, 30)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await asyncio.to_thread(job.stopped.wait, 10)

    assert await nightly()
    gc.collect()


def test_a_tasks_timeout_stops_the_run(prefect_server: str) -> None:
    """Prefect's own limit on a task run is an interruption too."""
    assert prefect_server
    job = errand(running(), job_watch_poll_interval=600)

    @flow
    def nightly() -> None:
        job.run.with_options(timeout_seconds=0.3, retries=0)()

    with pytest.raises(Exception, match="timed out"):
        nightly()
    assert job.stopped.wait(10)
