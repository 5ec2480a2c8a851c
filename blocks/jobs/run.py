"""JobRun: one run of a job, watched without losing sight of it, and stopped when nobody waits for it any more."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from prefect.blocks.abstract import JobRun as PrefectJobRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from blocks.base.arguments import checked
from blocks.base.errors import ConnectorError, InvalidInputError, JobFailedError, ThrottledError, TransientError
from blocks.base.interruption import pause
from blocks.base.operation import operation
from blocks.base.parameter import Parameter

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from blocks.base.retry import RetryPolicy

FIRST_POLL_S = 1.0
POLL_GROWTH = 1.5


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


class WatchPolicy(NamedTuple):
    """How a run is waited for.

    Attributes:
        retry: How long it may stay out of sight, and how often a stop is attempted.
        longest_poll_s: The longest wait between two looks at it.
        timeout_s: After how long it is stopped; None means never.
        cancel_on_interrupt: Whether it is stopped when the wait for it ends early.
    """

    retry: RetryPolicy
    longest_poll_s: float
    timeout_s: float | None
    cancel_on_interrupt: bool


class RunningJob(Protocol):
    """What a run needs of its job."""

    @property
    def name(self) -> str:
        """What messages call the job, such as `Glue job nightly`."""

    @property
    def watch_policy(self) -> WatchPolicy:
        """How its runs are waited for."""

    def get_status(self, run_id: str) -> JobStatus:
        """Ask the service how the run is doing."""

    def stop_run(self, run_id: str, reason: str) -> None:
        """Ask the service to stop the run; one that has ended stays as it is."""


@dataclass(eq=False)
class JobRun(Parameter, PrefectJobRun[JobStatus]):
    """One run of a job.

    Attributes:
        job: What runs.
        run_id: The service's id of the run.
    """

    job: RunningJob
    run_id: str
    _seen: JobStatus | None = field(default=None, init=False, repr=False)

    @property
    def retry(self) -> RetryPolicy:
        """The job's policy: a run is looked at and stopped under it."""
        return self.job.watch_policy.retry

    @property
    def logger(self) -> Any:
        """The run's logger in a flow or task, else one named like the class of the job."""
        try:
            return get_run_logger()
        except MissingContextError:
            return get_logger(type(self.job).__name__)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.job.name} ({self.run_id})"

    @operation
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Wait until the run has succeeded.

        Raises:
            JobFailedError: It failed, with the service's reason, or took longer than the job's `timeout_s`.
        """
        self.watch()

    @operation
    def fetch_result(self) -> JobStatus:  # type: ignore[override]  # Prefect's is awaitable
        """Return how the run ended.

        Raises:
            InvalidInputError: It has not ended.
            JobFailedError: It failed, with the service's reason.
        """
        status = self._look()
        if status.outcome == "running":
            raise InvalidInputError(
                f"{self.name} is still {status.state}. Call wait_for_completion() before fetch_result()."
            )
        self._raise_for_failure(status)
        return status

    @operation
    def cancel(self) -> None:
        """Ask the service to stop the run; one that has ended stays as it is."""
        self._stop("Stopped by its caller.")

    @checked
    def watch(self, *, clock: Callable[[], float] = time.monotonic, wait: Callable[[float], None] = pause) -> JobStatus:
        """Wait for the run to end, and return how it did. A look at it that fails does not lose the run.

        Args:
            clock: Seconds, as `time.monotonic` counts them.
            wait: Waits so many seconds.

        Raises:
            JobFailedError: It failed, or took longer than the job's `timeout_s`.
            TransientError: It could not be seen for longer than the job's `retry.deadline_s`, and may still be running.
        """
        policy = self.job.watch_policy
        try:
            status = self._poll(policy, clock, wait)
        except ConnectorError:
            raise
        except BaseException as interruption:
            if policy.cancel_on_interrupt:
                self._stop_or_log(policy, f"The wait for it ended with {type(interruption).__name__}.")
            raise
        self._raise_for_failure(status)
        return status

    def _poll(self, policy: WatchPolicy, clock: Callable[[], float], wait: Callable[[float], None]) -> JobStatus:
        """Look at the run until it has ended."""
        began = seen_at = clock()
        state = ""
        polls = failures = 0
        while True:
            asked_for_s = 0.0
            try:
                status = self._look()
            except TransientError as error:
                unseen_s = clock() - seen_at
                if unseen_s >= policy.retry.deadline_s:
                    raise TransientError(
                        f"{error} It was not seen for {unseen_s:.0f} s and may still be running."
                    ) from error
                if isinstance(error, ThrottledError):
                    asked_for_s = min(error.retry_after_s or 0.0, policy.retry.deadline_s)
                failures += 1
                if failures == 1:
                    self.logger.warning("Cannot see how %s is doing, and will look again: %s", self.name, error)
            else:
                seen_at, failures = clock(), 0
                if status.state != state:
                    state = status.state
                    self.logger.info("%s is %s.", self.name, state)
                if status.outcome != "running":
                    return status
            left_s = float("inf") if policy.timeout_s is None else began + policy.timeout_s - clock()
            if left_s <= 0:
                raise self._timeout(policy, state)
            wait(min(left_s, max(asked_for_s, _delay_s(polls, policy.longest_poll_s))))
            polls += 1

    def _look(self) -> JobStatus:
        """Return how the run is doing; one that has ended is not asked about again."""
        if self._seen is None or self._seen.outcome == "running":
            self._seen = self.job.get_status(self.run_id)
        return self._seen

    def _raise_for_failure(self, status: JobStatus) -> None:
        if status.outcome == "succeeded":
            return
        said = f": {status.reason.strip().rstrip('.')}" if status.reason.strip() else ""
        code = "" if status.exit_code is None else f" Exit code {status.exit_code}."
        raise JobFailedError(f"{self.name} failed with {status.state}{said}.{code}", status)

    def _timeout(self, policy: WatchPolicy, state: str) -> JobFailedError:
        """Return the error for a run that took too long, which is stopped unless its job says not to."""
        what = "It may still be running."
        if policy.cancel_on_interrupt:
            stopped = self._stop_or_log(policy, f"It took longer than {policy.timeout_s:g} s.")
            what = "It was told to stop." if stopped else "It could not be stopped and may still be running."
        message = f"{self.name} took longer than {policy.timeout_s:g} s and was last seen {state or 'nowhere'}. {what}"
        return JobFailedError(message, self._seen or JobStatus(self.run_id, "", "running"))

    def _stop(self, reason: str) -> None:
        self.job.stop_run(self.run_id, reason)
        self.logger.info("Told %s to stop: %s", self.name, reason)

    def _stop_or_log(self, policy: WatchPolicy, reason: str) -> bool:
        """Stop the run, and return whether the service took that. Another error is on its way: this one is logged.

        Attempts follow at once, because nobody waits for this any more; the driver has waits of its own.
        """
        for _ in range(policy.retry.attempts):
            try:
                self._stop(reason)
            except TransientError as error:
                self.logger.warning("Could not stop %s yet: %s", self.name, error)
            except ConnectorError as error:
                self.logger.warning("Could not stop %s: %s", self.name, error)
                return False
            else:
                return True
        return False


def _delay_s(polls: int, longest_s: float) -> float:
    """Seconds until the next look: growing up to the longest, with jitter, so that many waits do not look at once."""
    bound = min(longest_s, FIRST_POLL_S * POLL_GROWTH ** min(polls, 60))
    return random.uniform(bound / 2, bound)  # noqa: S311 (jitter, not a secret)
