"""Job: a run of something elsewhere that is started once, watched, and stopped when nobody waits for it any more.

    job.run()                                   # start, wait, and how it ended; in a flow a task run "GlueJob.run"
    run = job.trigger()                         # start only
    run = job.get_run(run_id)                   # started by somebody else, or before
    run.wait_for_completion(); run.fetch_result(); run.cancel()

A start has a token that is fixed before its first attempt. A service that knows such tokens starts no second run at the
second attempt; with one that does not, a child looks for the run of that token before it starts one. In a later attempt
of a flow or task the run of the earlier one is found by the token's cause (see `blocks.jobs.start`).
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import JobBlock
from prefect.types import SecretDict
from pydantic import Field

from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    NotStartedError,
    ThrottledError,
    TransientError,
    one_line,
)
from blocks.base.masking import hide
from blocks.base.operation import operation
from blocks.base.runs import CREDENTIALS_PLACE, described
from blocks.jobs.run import JobRun, JobStatus, WatchPolicy
from blocks.jobs.start import StartedRun, StartToken, derive_token, token_advice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


LONGEST_TOKEN = 32


def fix_token(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with its token, which all of its attempts share: the caller's, or a new one."""
    return arguments if arguments.get("token") else arguments | {"token": uuid.uuid4().hex}


class Job(ConnectorBlock, JobBlock, ABC):  # type: ignore[type-arg]  # of JobStatus; pydantic would make a class of it
    """Something that a service runs on demand, and that takes its time.

    A child supplies `name`, `get_status`, `stop_run` and `_start`, all of which raise our errors; where its service can
    list runs, `_find_runs`, and where it has pages and logs, `run_url` and `read_output`.
    """

    _no_part_of_a_start: ClassVar[frozenset[str]] = frozenset({"read_timeout_s"})
    """Fields that say how a run is watched, and not what is run."""
    _listed_for: ClassVar[dt.timedelta] = dt.timedelta(days=90)
    """For how long the service surely lists a run that has ended."""

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
    stream_output: bool = Field(
        default=True,
        description="Whether to pass on what a run writes to the log of the flow, secrets masked, where its service "
        "keeps that. Defaults to true.",
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

    def _find_runs(self, cause: str) -> Iterable[StartedRun] | None:  # noqa: ARG002 (a child's)
        """Return the runs whose tokens begin with this cause; None where the service cannot tell."""
        return None

    def run_url(self, run_id: str) -> str:  # noqa: ARG002 (a child's)
        """Return the address of the run's page, empty where it has none."""
        return ""

    def read_output(self, group: str, stream: str, position: str, *, region: str = "") -> tuple[list[str], str]:  # noqa: ARG002
        """Return the lines that follow a position of a stream, and the position after them.

        Args:
            group: What the stream is part of.
            stream: Its name there.
            position: Where the last call ended, empty at first.
            region: Where the group is; by default where the job is.
        """
        return [], position

    def get_run(self, run_id: str) -> JobRun:
        """Return a run of the job that was started elsewhere or before, to look at, to wait for or to cancel.

        Args:
            run_id: The service's id of it.
        """
        return self._as_run(run_id)

    def renew_identity(self) -> None:
        """Let go of the identity, so that the next call obtains it anew: meanwhile its source may have renewed it."""
        for _, value in self:
            if isinstance(value, ConnectorBlock):
                value.close()
        self.close()

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments.get("token"):
            return arguments
        return arguments | {"token": derive_token(self.name, self._identity(), self._secrets())}

    def _identity(self) -> str:
        """Return what is started and how, without secrets and without how it is watched."""
        fields = {
            name: value
            for name, value in self
            if not (name in Job.model_fields or name in self._no_part_of_a_start or isinstance(value, ConnectorBlock))
        }
        credentials = [value for _, value in self if isinstance(value, ConnectorBlock)]
        names = (*CREDENTIALS_PLACE, "account_id", "domain", "region_name")
        places = [{name: getattr(each, name, None) for name in names} for each in credentials]
        return described([self._stands_for(), fields, places])

    def _secrets(self) -> dict[str, Any]:
        """Return what is given to a run in secret."""
        found = {name: value.get_secret_value() for name, value in self if isinstance(value, SecretDict)}
        return {name: value for name, value in found.items() if value}

    @operation(prepare=_fix_token, prefects=True)
    def trigger(  # type: ignore[override]  # Prefect's is awaitable
        self, *, token: str = ""
    ) -> JobRun:
        """Start a run, and return it to wait for.

        Args:
            token: Names this start, in at most 32 letters and digits. A second call with the same one gets the run
                of the first. By default each call is a start of its own, whose attempts have one token; the same call
                in a later attempt of a flow or task gets the run of the earlier one, unless that failed.

        Raises:
            InvalidInputError: An earlier attempt may have started it, and nobody can tell.
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
        return WatchPolicy(
            self.retry, self.job_watch_poll_interval, self.timeout_s, self.cancel_on_interrupt, self.stream_output
        )

    def _trigger(self, token: str) -> JobRun:
        if not (token.isascii() and token.isalnum() and len(token) <= LONGEST_TOKEN):
            raise InvalidInputError(f"token is 1 to {LONGEST_TOKEN} letters and digits.")
        if run_id := self._earlier(token):
            return self._acknowledged(run_id)
        try:
            run_id = self._start(token)
        except (ThrottledError, NotStartedError):
            raise
        except TransientError as error:
            found = copy.copy(error)
            gets = f"trigger() with the token {str(token)!r} gets that run, or starts it"
            found.args = (one_line(f"{error} It may have been started: {gets}."), *error.args[1:])
            raise found from error
        except ConnectorError:
            raise
        except BaseException as interruption:
            gets = f"trigger() with the token {str(token)!r} gets that run, or starts it"
            left = f"{self.name} may have been started: {gets}."
            interruption.add_note(left)
            self.logger.warning("%s", left)
            raise
        run = self._acknowledged(run_id)
        self.logger.info("Started %s as %s.", self.name, run.run_id)
        return run

    def _earlier(self, token: str) -> str:
        """Return the id of the run that an earlier attempt of this flow or task has started; empty where none has.

        One that failed is no reason not to start another: that is what the later attempt is for.

        Raises:
            InvalidInputError: Nobody can tell whether it has.
        """
        if not (isinstance(token, StartToken) and token.repeats) or token.run_id:
            return token.run_id if isinstance(token, StartToken) else ""
        listed = self._find_runs(token.cause)
        if listed is None:
            raise self._unknown("the service does not list what was started")
        found = list(listed)
        if any(run.token == token for run in found):
            return ""  # an attempt of this call has started it
        going = [run for run in found if run.outcome != "failed" and not (run.is_stopping and self._has_stopped(run))]
        if len(going) > 1:
            ids = ", ".join(run.run_id for run in going)
            raise self._unknown(f"equal calls of an earlier attempt have started several ({ids})")
        if going:
            token.run_id = going[0].run_id
            self.logger.info(
                "An earlier attempt of this run has started %s as %s, which counts for this one.",
                self.name,
                token.run_id,
            )
        elif not found and token.began and dt.datetime.now(dt.UTC) - token.began > self._listed_for:
            raise self._unknown(f"the service lists what has ended for {_words(self._listed_for)} only")
        return token.run_id

    def _has_stopped(self, run: StartedRun) -> bool:
        """Wait for the end of a run that was told to stop, and return whether it failed by that, as it should."""
        self.logger.info("%s (%s) is being stopped; what comes next waits for its end.", self.name, run.run_id)
        try:
            self._acknowledged(run.run_id).watch()
        except JobFailedError:
            return True
        return False

    def _unknown(self, why: str) -> InvalidInputError:
        return InvalidInputError(
            f"{self.name}: this run has begun before, and {why}, so nobody can tell whether to start it once more. "
            f"Nothing was started. {token_advice()}"
        )

    def _acknowledged(self, run_id: str) -> JobRun:
        run = self._as_run(run_id)
        run._is_started = True  # noqa: SLF001 (one of us)
        return run

    @contextlib.contextmanager
    def _reading(self, run_id: str) -> Iterator[None]:
        """Have an answer that does not have the form of one be another attempt's to read: something is in between."""
        try:
            yield
        except ConnectorError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            place, why = f"{self.name} ({run_id})", type(error).__name__
            raise TransientError(f"Could not see how {place} is doing: the answer lacks its state ({why}).") from error

    def _hide(self, *words: str | None) -> str:
        """Return the words of the service as a reason, without secrets."""
        return hide("; ".join(each.strip().rstrip(".") for each in words if each and each.strip()), self)

    def _as_run(self, run_id: str) -> JobRun:
        """Return the run of that id; a child whose runs can do more has a class of its own for them."""
        return JobRun(self, run_id)


def _words(time: dt.timedelta) -> str:
    hours = int(time.total_seconds() // 3600)
    return f"{hours // 24} days" if hours > 24 else f"{hours} hour{'s' if hours > 1 else ''}"  # noqa: PLR2004
