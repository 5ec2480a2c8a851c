"""Job: a run of something elsewhere that is started once, watched, and stopped when nobody waits for it any more.

    job.run()                                   # start, wait, and how it ended; in a flow a task run "GlueJob.run"
    run = job.trigger()                         # start only
    run.wait_for_completion(); run.fetch_result(); run.cancel()

A start has a token that is fixed before its first try. A service that knows such tokens starts no second run at the
second try; with one that does not, a child looks for the run of that token before it starts one.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import threading
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from prefect.blocks.abstract import JobBlock
from prefect.blocks.abstract import JobRun as PrefectJobRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from pydantic import Field

from blocks.base.block import ConnectorBlock
from blocks.base.errors import ConnectorError, InvalidInputError, JobFailedError, ThrottledError, TransientError
from blocks.base.operation import BoundOperation, Operation, Prepare, operation
from blocks.base.parameter import Parameter

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from blocks.base.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")

FIRST_POLL_S = 1.0
POLL_GROWTH = 1.5
SLICE_S = 0.5
"""The longest single sleep: Prefect's timeouts and cancellations reach a thread between two of them."""

_interrupted: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("interrupted", default=None)


@dataclass(frozen=True)
class JobStatus(Parameter):
    """How a run is doing.

    Attributes:
        run_id: The service's id of the run.
        state: The service's word for its state, such as "RUNNING".
        outcome: What that means.
        reason: The service's words on it, empty where it gave none.
        exit_code: Of the container that counts; None where there is none, or it never ran.
        started_at: When it began to run, None if it did not, or the service does not tell.
        ended_at: When it ended.
    """

    run_id: str
    state: str
    outcome: Literal["running", "succeeded", "failed"]
    reason: str = ""
    exit_code: int | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None


class WatchedOperation(Operation[P, R]):
    """An operation that waits. When its awaitable form is cancelled, the thread that waits hears of it."""

    @overload
    def __get__(self, instance: None, owner: type) -> Operation[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundOperation[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Operation[P, R] | BoundOperation[P, R]:
        return self if instance is None else _WatchedBound(self, instance)


@overload
def watched_operation(fn: Callable[Concatenate[Any, P], R], /) -> WatchedOperation[P, R]: ...
@overload
def watched_operation(
    *, prepare: Prepare | None = None
) -> Callable[[Callable[Concatenate[Any, P], R]], WatchedOperation[P, R]]: ...
def watched_operation(fn: Callable[..., Any] | None = None, /, *, prepare: Prepare | None = None) -> Any:
    """Turn a block method that waits into an operation; for the arguments see `operation`."""
    return WatchedOperation(fn, prepare) if fn else functools.partial(WatchedOperation, prepare=prepare)


class _WatchedBound(BoundOperation[P, R]):
    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, awaitable: the work runs in a thread and the event loop stays free."""
        event = threading.Event()
        token = _interrupted.set(event)
        try:
            return await super().aio(*args, **kwargs)
        except asyncio.CancelledError:
            event.set()
            raise
        finally:
            _interrupted.reset(token)


class Job(ConnectorBlock, JobBlock, ABC):  # type: ignore[type-arg]  # of JobStatus; pydantic would make a class of it
    """Something that a service runs on demand, and that takes its time.

    A child supplies `_name`, `_start`, `_look` and `_stop`, all of which raise our errors.
    """

    job_watch_poll_interval: float = Field(
        default=30.0,
        gt=0,
        title="Longest poll interval (seconds)",
        description="The longest wait between two looks at a run, in seconds; the first ones are shorter.",
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="How long to wait for a run, which is stopped after it; by default as long as it takes.",
    )
    cancel_on_interrupt: bool = Field(
        default=True,
        description="Whether to stop the run when the wait for it is cancelled, interrupted or takes too long.",
    )

    @property
    @abstractmethod
    def _name(self) -> str:
        """What messages call the job, such as `Glue job nightly`."""

    @abstractmethod
    def _start(self, token: str) -> str:
        """The id of the run that this token stands for, started unless it was already."""

    @abstractmethod
    def _look(self, run_id: str) -> JobStatus:
        """How the run is doing."""

    @abstractmethod
    def _stop(self, run_id: str, reason: str) -> None:
        """Ask the service to stop the run; nothing happens to one that has ended."""

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments if arguments.get("token") else arguments | {"token": uuid.uuid4().hex}

    @operation(prepare=_fix_token)
    def trigger(  # type: ignore[override]  # Prefect's is awaitable
        self, *, token: str = ""
    ) -> JobRun:
        """The run that was started, to wait for.

        Args:
            token: Names this start, in at most 32 letters and digits. A second call with the same one gets the run
                of the first. By default each call is a start of its own, whose tries have one token.

        Raises:
            ConnectorError: The service did not take it.
        """
        return self._trigger(token)

    @watched_operation(prepare=_fix_token)
    def run(self, *, token: str = "") -> JobStatus:
        """How the run ended: started, waited for, and succeeded.

        Args:
            token: As with `trigger`.

        Raises:
            JobFailedError: It failed, with the service's reason, or took longer than `timeout_s`.
            ConnectorError: The service did not take it, or would not tell how it is doing.
        """
        return watch(self._trigger(token))

    def _trigger(self, token: str) -> JobRun:
        if not (token.isascii() and token.isalnum() and len(token) <= 32):  # noqa: PLR2004 (said in the message)
            raise InvalidInputError("token is 1 to 32 letters and digits.")
        run = self._as_run(self._start(token))
        self.logger.info("Started %s as %s.", self._name, run.run_id)
        return run

    def _as_run(self, run_id: str) -> JobRun:
        """The run of that id; a child whose runs can do more has a class of its own for them."""
        return JobRun(self, run_id)


@dataclass(eq=False)
class JobRun(Parameter, PrefectJobRun[JobStatus]):
    """One run of a job.

    Attributes:
        job: What runs.
        run_id: The service's id of the run.
    """

    job: Job
    run_id: str
    _last: JobStatus | None = field(default=None, repr=False)

    @property
    def retry(self) -> RetryPolicy:
        """The job's policy: a run is looked at and stopped under it."""
        return self.job.retry

    @property
    def logger(self) -> Any:
        """The run's logger in a flow or task, else one named like the class."""
        try:
            return get_run_logger()
        except MissingContextError:
            return get_logger(type(self.job).__name__)

    @watched_operation
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Returns once the run has succeeded.

        Raises:
            JobFailedError: It failed, with the service's reason, or took longer than the job's `timeout_s`.
        """
        watch(self)

    @operation
    def fetch_result(self) -> JobStatus:  # type: ignore[override]  # Prefect's is awaitable
        """How the run ended.

        Raises:
            InvalidInputError: It has not ended.
            JobFailedError: It failed, with the service's reason.
        """
        status = self._look()
        if status.outcome == "running":
            raise InvalidInputError(
                f"{self.name} is still {status.state}. Call wait_for_completion() before fetch_result()."
            )
        return self._succeeded(status)

    @operation
    def cancel(self) -> None:
        """Asks the service to stop the run; one that has ended stays as it is."""
        self._stop("Stopped by its caller.")

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.job._name} ({self.run_id})"  # noqa: SLF001 (one of us)

    def _look(self) -> JobStatus:
        if self._last is None or self._last.outcome == "running":
            self._last = self.job._look(self.run_id)  # noqa: SLF001 (one of us)
        return self._last

    def _stop(self, reason: str) -> None:
        self.job._stop(self.run_id, reason)  # noqa: SLF001 (one of us)
        self.logger.info("Told %s to stop: %s", self.name, reason)

    def _succeeded(self, status: JobStatus) -> JobStatus:
        if status.outcome == "succeeded":
            return status
        said = f": {status.reason.strip().rstrip('.')}" if status.reason.strip() else ""
        code = "" if status.exit_code is None else f" Exit code {status.exit_code}."
        raise JobFailedError(f"{self.name} failed with {status.state}{said}.{code}", status)


def watch(
    run: JobRun,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] | None = None,
) -> JobStatus:
    """How the run ended, after waiting for that. A look that fails for a while does not lose the run.

    Args:
        run: What to wait for.
        clock: Seconds, as `time.monotonic` counts them.
        wait: Waits so many seconds.

    Raises:
        JobFailedError: It failed, or took longer than the job's `timeout_s`.
        TransientError: It could not be looked at for longer than the job's `retry.deadline_s`. It may still be running.
    """
    try:
        return _watch(run, clock, wait or pause)
    except ConnectorError:
        raise
    except BaseException as interruption:
        if run.job.cancel_on_interrupt:
            _stop_quietly(run, f"The wait for it ended with {type(interruption).__name__}.")
        raise


def _watch(run: JobRun, clock: Callable[[], float], wait: Callable[[float], None]) -> JobStatus:
    job = run.job
    began = seen_at = clock()
    state = ""
    polls = failures = 0
    while True:
        asked_for_s = 0.0
        try:
            status = run._look()  # noqa: SLF001 (one of us)
        except TransientError as error:
            unseen_s = clock() - seen_at
            if unseen_s >= job.retry.deadline_s:
                raise TransientError(
                    f"{error} It was not seen for {unseen_s:.0f} s and may still be running."
                ) from error
            if isinstance(error, ThrottledError):
                asked_for_s = min(error.retry_after_s or 0.0, job.retry.deadline_s)
            failures += 1
            if failures == 1:
                run.logger.warning("Cannot see how %s is doing, and will look again: %s", run.name, error)
        else:
            seen_at, failures = clock(), 0
            if status.state != state:
                state = status.state
                run.logger.info("%s is %s.", run.name, state)
            if status.outcome != "running":
                return run._succeeded(status)  # noqa: SLF001 (one of us)
        left_s = float("inf") if job.timeout_s is None else began + job.timeout_s - clock()
        if left_s <= 0:
            raise _timeout(run, state)
        wait(min(left_s, max(asked_for_s, _delay_s(polls, job.job_watch_poll_interval))))
        polls += 1


def _timeout(run: JobRun, state: str) -> JobFailedError:
    what = "It may still be running."
    if run.job.cancel_on_interrupt:
        stopped = _stop_quietly(run, f"It took longer than {run.job.timeout_s:g} s.")
        what = "It was told to stop." if stopped else "It could not be stopped and may still be running."
    message = f"{run.name} took longer than {run.job.timeout_s:g} s and was last seen {state or 'nowhere'}. {what}"
    return JobFailedError(message, run._last or JobStatus(run.run_id, "", "running"))  # noqa: SLF001 (one of us)


def _stop_quietly(run: JobRun, reason: str) -> bool:
    """Whether the service took the wish to stop the run. Another error is on its way: what goes wrong here is logged.

    Tries follow at once, because nobody waits for this any more; the driver has waits of its own.
    """
    for _ in range(run.job.retry.attempts):
        try:
            run._stop(reason)  # noqa: SLF001 (one of us)
        except TransientError as error:
            run.logger.warning("Could not stop %s yet: %s", run.name, error)
        except ConnectorError as error:
            run.logger.warning("Could not stop %s: %s", run.name, error)
            return False
        else:
            return True
    return False


def _delay_s(polls: int, longest_s: float) -> float:
    """Seconds until the next look: growing up to the longest, with jitter, so that many waits do not look at once."""
    bound = min(longest_s, FIRST_POLL_S * POLL_GROWTH ** min(polls, 60))
    return random.uniform(bound / 2, bound)  # noqa: S311 (jitter, not a secret)


def interruption() -> threading.Event:
    """Set once the awaitable that this is part of is cancelled; never, where it is part of none."""
    return _interrupted.get() or threading.Event()


def interruptible_by(event: threading.Event) -> None:
    """Nothing. Makes `event` the interruption of what runs in this context from now on."""
    _interrupted.set(event)


def pause(seconds: float) -> None:
    """Returns after so many seconds.

    Raises:
        CancelledError: The awaitable that this is part of was cancelled.
    """
    event = interruption()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if event.wait(min(left, SLICE_S)):
            raise asyncio.CancelledError
