"""JobRun: one run of a job, watched without losing sight of it, and stopped when nobody waits for it any more."""

from __future__ import annotations

import copy
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from prefect.blocks.abstract import JobRun as PrefectJobRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from blocks.base.arguments import checked
from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    ThrottledError,
    TransientError,
    one_line,
)
from blocks.base.interruption import pause
from blocks.base.masking import hide
from blocks.base.operation import operation
from blocks.base.parameter import Parameter
from blocks.jobs.output import LogStream, Output

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from blocks.base.retry import RetryPolicy

FIRST_POLL_S = 1.0
POLL_GROWTH = 1.5
CONTRADICTED_S = 300.0
"""For how long "there is no such run" does not count where it was started, or seen, a moment ago: services answer from
several places, of which one may not know it yet. ECS asks for five minutes of patience:
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""
UNKNOWN_S = 30.0
"""The same for a run of which only the id is known: another process may have started it just now."""
REFUSED_S = 60.0
"""For how long any other refusal does not count, such as that of an identity that was good enough for the start."""
LAST_LINES_S = (1.0, 2.0)
"""Waits for the last lines of a failed run, which say why: logs arrive later than states."""


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
        streams: Where it writes what it says.
    """

    run_id: str
    state: str
    outcome: Literal["running", "succeeded", "failed"]
    reason: str = ""
    exit_code: int | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    streams: tuple[LogStream, ...] = field(default=(), kw_only=True)


class WatchPolicy(NamedTuple):
    """How a run is waited for.

    Attributes:
        retry: How long it may stay out of sight, and how often a stop is attempted.
        longest_poll_s: The longest wait between two looks at it.
        timeout_s: After how long it is stopped; None means never.
        cancel_on_interrupt: Whether it is stopped when the wait for it ends early.
        stream_output: Whether what it writes is passed on to the log.
    """

    retry: RetryPolicy
    longest_poll_s: float
    timeout_s: float | None
    cancel_on_interrupt: bool
    stream_output: bool = True


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

    def renew_identity(self) -> None:
        """Let go of the identity, so that the next call obtains it anew."""

    def run_url(self, run_id: str) -> str:
        """Return the address of the run's page, empty where it has none."""

    def read_output(self, group: str, stream: str, position: str, *, region: str = "") -> tuple[list[str], str]:
        """Return the lines that follow a position of a stream, and the position after them."""


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
    _is_started: bool = field(default=False, init=False, repr=False)
    _output: Output = field(default_factory=Output, init=False, repr=False)

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

    @property
    def url(self) -> str:
        """The address of its page, empty where it has none."""
        return self.job.run_url(self.run_id)

    @operation(prefects=True)
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Wait until the run has succeeded.

        Raises:
            JobFailedError: It failed, with the service's reason, or took longer than the job's `timeout_s`.
        """
        self.watch()

    @operation(prefects=True)
    def fetch_result(self) -> JobStatus:  # type: ignore[override]  # Prefect's is awaitable
        """Return how the run ended.

        Raises:
            InvalidInputError: It has not ended.
            JobFailedError: It failed, with the service's reason.
        """
        status = self._look_once()
        if status.outcome == "running":
            raise InvalidInputError(
                f"{self.name} is still {status.state}. Call wait_for_completion() before fetch_result()."
            )
        self._raise_for_failure(status)
        return status

    @operation
    def status(self) -> JobStatus:
        """Return how the run is doing now, whether it failed or not."""
        return self._look_once()

    @operation
    def cancel(self) -> None:
        """Ask the service to stop the run; one that has ended stays as it is."""
        self._stop("Stopped by its caller.")

    @checked
    def watch(self, *, clock: Callable[[], float] = time.monotonic, wait: Callable[[float], None] = pause) -> JobStatus:
        """Wait for the run to end, and return how it did. A look at it that fails does not lose the run.

        Whatever ends the wait before the run has ended says which run it is and where, and that it may still run.

        Args:
            clock: Seconds, as `time.monotonic` counts them.
            wait: Waits so many seconds.

        Raises:
            JobFailedError: It failed, or took longer than the job's `timeout_s`.
            TransientError: It could not be seen for longer than the job's `retry.deadline_s`, and may still be running.
            ConnectorError: The service went on refusing to tell how it is doing; it may still be running.
        """
        policy = self.job.watch_policy
        try:
            status = self._poll(policy, clock, wait)
        except ConnectorError:
            raise
        except BaseException as interruption:
            why = f"The wait for it ended with {type(interruption).__name__}."
            if not (policy.cancel_on_interrupt and self._stop_or_log(policy, why)):
                left = f"{self.name} may still be running. {why} {self._whereabouts}"
                interruption.add_note(left)
                self.logger.warning("%s", left)
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
            except ConnectorError as error:
                asked_for_s = self._look_again(error, policy, clock() - seen_at)
                failures += 1
                if failures == 1:
                    said = hide(str(error), self.job)
                    self.logger.warning("Cannot see how %s is doing, and will look again: %s", self.name, said)
            else:
                seen_at, failures = clock(), 0
                if status.state != state:
                    state = status.state
                    self.logger.info("%s is %s.", self.name, state)
                self._show_output(policy, status, wait)
                if status.outcome != "running":
                    return status
            left_s = float("inf") if policy.timeout_s is None else began + policy.timeout_s - clock()
            if left_s <= 0:
                raise self._timeout(policy, state)
            wait(min(left_s, max(asked_for_s, _delay_s(polls, policy.longest_poll_s))))
            polls += 1

    def _look_again(self, error: ConnectorError, policy: WatchPolicy, unseen_s: float) -> float:
        """Return for how many seconds the service wants to be left alone before the next look.

        Raises:
            ConnectorError: There is to be no other look: the run was not seen for too long.
        """
        if unseen_s >= self._patience_s(error, policy):
            raise self._out_of_sight(error, unseen_s) from error
        if isinstance(error, AuthError):
            self.job.renew_identity()
        asked_for_s = error.retry_after_s if isinstance(error, ThrottledError) else None
        return min(asked_for_s or 0.0, policy.retry.deadline_s)

    def _patience_s(self, error: ConnectorError, policy: WatchPolicy) -> float:
        """Return for how long a look may fail as this one did before that ends the wait.

        A right to look that the identity never had is not waited for.
        """
        if isinstance(error, TransientError):
            return policy.retry.deadline_s
        if isinstance(error, AccessDeniedError) and self._seen is None:
            return 0.0
        if isinstance(error, NotFoundError):
            return min(policy.retry.deadline_s, CONTRADICTED_S if self._is_known else UNKNOWN_S)
        return min(policy.retry.deadline_s, REFUSED_S)

    @property
    def _is_known(self) -> bool:
        """Whether the service has acknowledged the run, by its start or by an earlier look."""
        return self._is_started or self._seen is not None

    @property
    def _whereabouts(self) -> str:
        """Where the run is found again."""
        page = f" Its page is {url}." if (url := self.url) else ""
        return f"get_run({self.run_id!r}) of the block gives it again, to wait for or to cancel.{page}"

    def _out_of_sight(self, error: ConnectorError, unseen_s: float) -> ConnectorError:
        """Return the error that ends the wait for a run that may go on."""
        unseen = f" was not seen for {unseen_s:.0f} s and" if unseen_s >= 1 else ""
        found = copy.copy(error)
        found.args = (one_line(f"{error} It{unseen} may still be running. {self._whereabouts}"), *error.args[1:])
        return found

    def _show_output(self, policy: WatchPolicy, status: JobStatus, wait: Callable[[float], None]) -> None:
        """Pass on what the run has written; of one that failed, wait for its last words."""
        if not policy.stream_output:
            return
        self._output.show(self.job, self.job.name, status.streams, self.logger)
        for seconds in LAST_LINES_S if status.outcome == "failed" and self._output.lines else ():
            if not self._output.is_given_up:
                wait(seconds)
                self._output.show(self.job, self.job.name, status.streams, self.logger)

    def _look(self) -> JobStatus:
        """Return how the run is doing; one that has ended is not asked about again."""
        if self._seen is None or self._seen.outcome == "running":
            status = self.job.get_status(self.run_id)
            reason = hide(status.reason, self.job)
            self._seen = status if reason == status.reason else replace(status, reason=reason)
        return self._seen

    def _look_once(self) -> JobStatus:
        """Return how the run is doing; a service that does not know it yet is asked again by the operation."""
        try:
            return self._look()
        except NotFoundError as error:
            if not self._is_known:
                raise
            raise TransientError(f"{error} It was started, so this should pass. {self._whereabouts}") from error

    def _raise_for_failure(self, status: JobStatus) -> None:
        if status.outcome == "succeeded":
            return
        said = f": {status.reason.strip().rstrip('.')}" if status.reason.strip() else ""
        code = "" if status.exit_code is None else f" Exit code {status.exit_code}."
        page = f" Its page is {url}." if (url := self.url) else ""
        raise JobFailedError(f"{self.name} failed with {status.state}{said}.{code}{page}", status)

    def _timeout(self, policy: WatchPolicy, state: str) -> JobFailedError:
        """Return the error for a run that took too long, which is stopped unless its job says not to."""
        what = "It may still be running."
        if policy.cancel_on_interrupt:
            stopped = self._stop_or_log(policy, f"It took longer than {policy.timeout_s:g} s.")
            what = "It was told to stop." if stopped else "It could not be stopped and may still be running."
        seen = f"was last seen {state}" if state else "was never seen"
        message = f"{self.name} took longer than {policy.timeout_s:g} s and {seen}. {what} {self._whereabouts}"
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
                self.logger.warning("Could not stop %s yet: %s", self.name, hide(str(error), self.job))
            except ConnectorError as error:
                self.logger.warning("Could not stop %s: %s", self.name, hide(str(error), self.job))
                return False
            else:
                return True
        return False


def _delay_s(polls: int, longest_s: float) -> float:
    """Seconds until the next look: growing up to the longest, with jitter, so that many waits do not look at once."""
    bound = min(longest_s, FIRST_POLL_S * POLL_GROWTH ** min(polls, 60))
    return random.uniform(bound / 2, bound)  # noqa: S311 (jitter, not a secret)
