"""Job: a run of something elsewhere that is started once, watched, and stopped when nobody waits for it any more.

    job.run()                                   # start, wait, and how it ended; in a flow a task run "GlueJob.run"
    run = job.trigger()                         # start only
    run.wait_for_completion(); run.fetch_result(); run.cancel()

A start has a token that is fixed before its first attempt. A service that knows such tokens starts no second run at the
second attempt; with one that does not, a child looks for the run of that token before it starts one.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from typing import Any

from prefect.blocks.abstract import JobBlock
from pydantic import Field

from blocks.base.block import ConnectorBlock
from blocks.base.errors import InvalidInputError
from blocks.base.operation import operation
from blocks.jobs.run import JobRun, JobStatus, WatchPolicy

LONGEST_TOKEN = 32


def fix_token(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with its token, which all of its attempts share: the caller's, or a new one."""
    return arguments if arguments.get("token") else arguments | {"token": uuid.uuid4().hex}


class Job(ConnectorBlock, JobBlock, ABC):  # type: ignore[type-arg]  # of JobStatus; pydantic would make a class of it
    """Something that a service runs on demand, and that takes its time.

    A child supplies `name`, `get_status`, `stop_run` and `_start`, all of which raise our errors.
    """

    job_watch_poll_interval: float = Field(
        default=30.0,
        gt=0,
        title="Longest poll interval (seconds)",
        description="The longest wait between two looks at a run, in seconds; the first waits are shorter. "
        "Defaults to 30.",
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="How long to wait for a run, in seconds; it is stopped after that. Defaults to no limit.",
    )
    cancel_on_interrupt: bool = Field(
        default=True,
        description="Whether to stop the run when the wait for it is cancelled, interrupted or times out. "
        "Defaults to true.",
    )

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the job, such as `Glue job nightly`."""

    @abstractmethod
    def get_status(self, run_id: str) -> JobStatus:
        """Ask the service how the run is doing."""

    @abstractmethod
    def stop_run(self, run_id: str, reason: str) -> None:
        """Ask the service to stop the run; one that has ended stays as it is."""

    @abstractmethod
    def _start(self, token: str) -> str:
        """Return the id of the run that this token stands for, started unless it was already."""

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return fix_token(arguments)

    @operation(prepare=_fix_token)
    def trigger(  # type: ignore[override]  # Prefect's is awaitable
        self, *, token: str = ""
    ) -> JobRun:
        """Start a run, and return it to wait for.

        Args:
            token: Names this start, in at most 32 letters and digits. A second call with the same one gets the run
                of the first. By default each call is a start of its own, whose attempts have one token.

        Raises:
            ConnectorError: The service did not take it.
        """
        return self._trigger(token)

    @operation(prepare=_fix_token)
    def run(self, *, token: str = "") -> JobStatus:
        """Start a run, wait until it has succeeded, and return how it ended.

        Args:
            token: As with `trigger`.

        Raises:
            JobFailedError: It failed, with the service's reason, or took longer than `timeout_s`.
            ConnectorError: The service did not take it, or would not tell how it is doing.
        """
        return self._trigger(token).watch()

    @property
    def watch_policy(self) -> WatchPolicy:
        """How its runs are waited for."""
        return WatchPolicy(self.retry, self.job_watch_poll_interval, self.timeout_s, self.cancel_on_interrupt)

    def _trigger(self, token: str) -> JobRun:
        if not (token.isascii() and token.isalnum() and len(token) <= LONGEST_TOKEN):
            raise InvalidInputError(f"token is 1 to {LONGEST_TOKEN} letters and digits.")
        run = self._as_run(self._start(token))
        self.logger.info("Started %s as %s.", self.name, run.run_id)
        return run

    def _as_run(self, run_id: str) -> JobRun:
        """Return the run of that id; a child whose runs can do more has a class of its own for them."""
        return JobRun(self, run_id)
