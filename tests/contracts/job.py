"""What every job promises. Star-imported by a module that has the fixture `service`, a job beside its stand-in.

The services are asked over the wire, and their stand-ins say what a test plans.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import pytest
from prefect import flow, task

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    JobFailedError,
    NotFoundError,
    TransientError,
)
from blocks.base.retry import RetryPolicy

if TYPE_CHECKING:
    from blocks.jobs.job import Job

Refusal = Literal["missing", "expired", "unauthorized", "denied", "malformed"]
REFUSALS: dict[Refusal, type[ConnectorError]] = {
    "missing": NotFoundError,
    "expired": AuthError,
    "unauthorized": AuthError,
    "denied": AccessDeniedError,
    "malformed": TransientError,
}
SHORT = RetryPolicy(attempts=1, deadline_s=0.05)
CANARY_OF_JOBS = f"canary-{uuid.uuid4().hex}"
FOREVER = 10_000


class JobService(ABC):
    """A job, and the stand-in of the service that runs it.

    Attributes:
        job: The block. Its policy makes attempts at once, and its looks follow at once.
        page: A part of the address of a run's page.
    """

    job: Job
    page: str

    @property
    @abstractmethod
    def starts(self) -> int:
        """How many runs were started."""

    @property
    @abstractmethod
    def stops(self) -> int:
        """How many runs were told to stop."""

    @abstractmethod
    def keep_running(self, looks: int = 1) -> None:
        """Have the next looks see a run that goes on."""

    @abstractmethod
    def refuse_looks(self, refusal: Refusal, looks: int) -> None:
        """Have the looks after that be answered so."""

    @abstractmethod
    def fail(self, reason: str) -> None:
        """Have the look after that see a run that failed, in these words."""

    @abstractmethod
    def forget(self) -> None:
        """Forget what was planned."""


@pytest.mark.parametrize("refusal", [each for each in REFUSALS if each != "denied"])
def test_a_refusal_after_the_start_passes(service: JobService, refusal: Refusal) -> None:
    """The start was acknowledged: what contradicts it on the first looks is not the end of the wait."""
    service.refuse_looks(refusal, 3)
    assert service.job.run().outcome == "succeeded"
    assert (service.starts, service.stops) == (1, 0)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_amid_the_wait_passes(service: JobService, refusal: Refusal) -> None:
    """A run that was seen a moment ago has not vanished, and who might look might still."""
    service.keep_running()
    service.refuse_looks(refusal, 3)
    assert service.job.run().outcome == "succeeded"
    assert (service.starts, service.stops) == (1, 0)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_ends_the_wait_says_where_the_run_is(service: JobService, refusal: Refusal) -> None:
    """Its id, its page, that it may still run and how to get it again; the run itself is not touched."""
    service.job.retry = SHORT
    run = service.job.trigger()
    service.keep_running()
    service.refuse_looks(refusal, FOREVER)
    with pytest.raises(REFUSALS[refusal], match="may still be running") as caught:
        run.wait_for_completion()
    assert run.run_id in str(caught.value)
    assert service.page in run.url
    assert run.url in str(caught.value)
    assert service.stops == 0
    service.forget()
    again = service.job.get_run(run.run_id)
    again.wait_for_completion()
    assert (again.fetch_result().outcome, service.starts) == ("succeeded", 1)


@pytest.mark.parametrize("cancel", [True, False])
def test_an_interruption_says_where_the_run_is(
    service: JobService, cancel: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C, and all else that ends the process: the run is stopped, or the log says that it goes on, and where."""
    service.job.cancel_on_interrupt = cancel
    run = service.job.trigger()
    service.keep_running()

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    caplog.set_level("INFO")
    with pytest.raises(KeyboardInterrupt) as caught:
        run.watch(wait=interrupt)
    assert service.stops == cancel
    said = [record.message for record in caplog.records if "may still be running" in record.message]
    assert [run.run_id in each and run.url in each for each in said] == ([] if cancel else [True])
    assert getattr(caught.value, "__notes__", []) == said


def test_a_time_that_is_up_says_where_the_run_is(service: JobService) -> None:
    """Also where the run is not to be stopped."""
    service.job.cancel_on_interrupt, service.job.timeout_s = False, 1e-3
    service.keep_running(FOREVER)
    with pytest.raises(JobFailedError, match=r"may still be running") as caught:
        service.job.run()
    run_id = caught.value.result.run_id
    assert run_id in str(caught.value)
    assert service.job.get_run(run_id).url in str(caught.value)


@pytest.mark.parametrize("around", ["flow", "task"])
def test_a_retried_run_waits_for_the_run_of_before(service: JobService, around: str, prefect_server: str) -> None:
    """The wait ended by an expired token; the retry of what is around it starts no second run."""
    assert prefect_server
    service.job.retry = SHORT
    service.keep_running()
    service.refuse_looks("expired", FOREVER)
    waits: list[str] = []

    def step() -> str:
        if waits:
            service.forget()
        waits.append("")
        return service.job.run().outcome

    inner = task(step, retries=1) if around == "task" else step

    @flow(retries=1 if around == "flow" else 0)
    def nightly() -> str:
        return inner()

    assert nightly() == "succeeded"
    assert (len(waits), service.starts, service.stops) == (2, 1, 0)


def test_a_retried_flow_starts_what_failed_and_nothing_else(service: JobService, prefect_server: str) -> None:
    """Of equal calls one succeeded and one failed: the one is taken over, the other is started once more."""
    assert prefect_server
    found: list[str] = []

    @flow(retries=1)
    def nightly() -> list[str]:
        ids = [service.job.run().run_id]
        if not found:
            service.fail("out of memory")
        found.extend(ids)
        return [*ids, service.job.run().run_id]

    first, second = nightly()
    assert found == [first, first]
    assert second != first
    assert service.starts == 3
    nightly()
    assert service.starts == 5  # another run of the flow


def test_no_secret_is_in_a_reason(service: JobService, caplog: pytest.LogCaptureFixture) -> None:
    """Not of those that look like one, and not a value that was given to the run: in no error, result and log."""
    caplog.set_level("DEBUG", "prefect")
    words = (
        f"could not reach postgres://etl:{CANARY_OF_JOBS}@db/shop, password={CANARY_OF_JOBS}, "
        f'{{"api_key": "{CANARY_OF_JOBS}"}}, Authorization: Bearer {CANARY_OF_JOBS}'
    )
    fields: dict[str, tuple[Any, str]] = {
        "environment": ({"DSN": "mysql://etl:h4nter2x@db", "PIN": 48213}, "; the PIN 48213 is wrong for h4nter2x"),
        "arguments": ({"--db-password": "h4nter2x"}, "; h4nter2x is wrong"),
    }
    for name, (value, said) in fields.items():
        if name in type(service.job).model_fields:
            service.job = type(service.job)(**{**dict(service.job), name: value})
            words += said
    service.fail(words)
    with pytest.raises(JobFailedError, match="could not reach postgres") as caught:
        service.job.run()
    status = caught.value.result
    again = service.job.get_status(status.run_id)
    for text in (str(caught.value), str(status), str(again), caplog.text):
        for secret in (CANARY_OF_JOBS, "h4nter2x", "48213"):
            assert secret not in text


def test_a_run_is_found_by_its_id(service: JobService) -> None:
    """Whoever started it: to look at, to wait for and to cancel."""
    run_id = service.job.trigger().run_id
    service.keep_running()
    run = service.job.get_run(run_id)
    assert run.status().outcome == "running"
    run.wait_for_completion()
    assert run.fetch_result().run_id == run_id
    assert service.starts == 1
