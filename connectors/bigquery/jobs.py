"""Jobs: submit them, look them up where the answer was lost, wait for them, and say how they ended.

Whether a job ran is never guessed: each has an id of its own making, so that one whose answer was lost is looked up
under it, and a second one of that id is refused by the service.
https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from blocks.base.errors import (
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    NotFoundError,
    ThrottledError,
    TransientError,
)
from blocks.base.interruption import pause
from blocks.base.optional import require
from connectors.bigquery.errors import job_error, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUICK_RETRY_S = 10.0
"""How long one request is sent again before the operation's own policy decides."""
CANCEL_TIMEOUT_S = 3.0
LOOK_S = 8.0
"""How long a job is looked up for whose beginning was not answered."""
SHORTEST_POLL_S, LONGEST_POLL_S = 0.05, 2.0


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What every job of a dataset is told.

    Attributes:
        dataset: The dataset of tables that are named without one.
        uri: The same, for messages.
        locate: Returns where the dataset is: outside of the US and the EU a job is found only by who knows that.
        labels: The labels of each job.
        maximum_bytes_billed: How many bytes a query may read.
        read_timeout_s: How long a request may go without an answer.
        statement_timeout_s: How long a query job may run.
        lock_timeout_s: How long a transaction that conflicts with another one is run again.
    """

    dataset: str
    uri: str
    locate: Callable[[], str]
    labels: Mapping[str, str]
    maximum_bytes_billed: int | None
    read_timeout_s: float
    statement_timeout_s: float | None
    lock_timeout_s: float


class Jobs:
    """The jobs of one caller, each under an id of its own.

    Attributes:
        labels: What each of them carries.
    """

    def __init__(self, client: Any, settings: JobSettings, load_id: str | None = None) -> None:
        self._client = client
        self._settings = settings
        self.labels = labels_of(settings.labels, load_id)

    @property
    def location(self) -> str:
        """Where the dataset is, and its jobs."""
        return self._settings.locate()

    @property
    def patience(self) -> dict[str, Any]:
        """How long a request waits for its answer, and is sent again where that changes nothing."""
        return patience(self._settings.read_timeout_s)

    def config(self, parameters: list[Any], **options: Any) -> Any:
        """Return what a query job is told."""
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        default = bigquery.DatasetReference(self._client.project, self._settings.dataset)
        if self._settings.statement_timeout_s:
            options["job_timeout_ms"] = round(self._settings.statement_timeout_s * 1_000)
        if self._settings.maximum_bytes_billed:
            options["maximum_bytes_billed"] = self._settings.maximum_bytes_billed
        return bigquery.QueryJobConfig(
            default_dataset=default, query_parameters=parameters, labels=self.labels, **options
        )

    def run(self, sql: str, parameters: list[Any], *, ambiguous: bool) -> Any:
        """Run a statement or a script, and return its finished job.

        Raises:
            AmbiguousError: It is unknown whether the statement ran, and running it again could change something.
        """
        job_id = f"etl_{uuid.uuid4().hex}"
        return self.finish(lambda: self.start(sql, parameters, job_id), ambiguous=ambiguous)

    def finish(self, begin: Callable[[], Any], *, ambiguous: bool) -> Any:
        """Wait until the job that `begin` starts has done its work, and return it."""
        try:
            job = self.wait(begin())
        except ThrottledError:
            raise
        except TransientError as error:
            raise (AmbiguousError(str(error)) if ambiguous else error) from None
        return self.raise_for_error(job)

    def start(self, sql: str, parameters: list[Any], job_id: str) -> Any:
        """Start a query under that id, or find the one that was started before."""

        def begin() -> Any:
            return self._client.query(
                sql,
                self.config(parameters),
                job_id=job_id,
                location=self.location,
                job_retry=None,
                **self.patience,
            )

        return self.submit(begin, job_id)

    def submit(self, begin: Callable[[], Any], job_id: str) -> Any:
        """Submit a job by `begin`, and return it; where the answer is lost, look it up under its id.

        Raises:
            TransientError: There is no such job, or it could not be looked up.
        """
        lost: ConnectorError | None = None
        for _ in range(2):  # what never arrived is sent once more; the id keeps both from running
            try:
                with translated(f"run job {job_id} in {self._settings.uri}"):
                    return begin()
            except (AlreadyExistsError, TransientError) as error:
                quick = {"retry": None, "timeout": min(self._settings.read_timeout_s, LOOK_S)}
                if (job := self.look_up(job_id, quick)) is not None:
                    return job
                lost = error
        raise TransientError(str(lost))

    def look_up(self, job_id: str, patience: Mapping[str, Any] | None = None) -> Any:
        """Look a job up; None where there is none."""
        try:
            with translated(f"look up job {job_id} in {self._settings.uri}"):
                return self._client.get_job(job_id, location=self.location, **(patience or self.patience))
        except NotFoundError:
            return None

    def wait(self, job: Any) -> Any:
        """Wait until the job is done, whatever came of it, and return it."""
        delay_s = SHORTEST_POLL_S
        try:
            while job.state != "DONE":
                pause(delay_s)
                delay_s = min(delay_s * 1.5, LONGEST_POLL_S)
                with translated(f"watch job {job.job_id} in {self._settings.uri}"):
                    job.reload(**self.patience)
        except asyncio.CancelledError:
            self.cancel(job)
            raise
        return job

    def cancel(self, job: Any) -> None:
        """Ask the service to end a job; one that has ended stays as it is, and one that cannot be asked goes on."""
        with contextlib.suppress(ConnectorError), translated(f"cancel job {job.job_id} in {self._settings.uri}"):
            self._client.cancel_job(job.job_id, location=self.location, retry=None, timeout=CANCEL_TIMEOUT_S)

    def raise_for_error(self, job: Any) -> Any:
        """Return the job if it has done its work.

        Raises:
            ConnectorError: It failed.
        """
        if job.error_result:
            raise job_error(job, self._settings.uri)
        return job


def labels_of(labels: Mapping[str, str], load_id: str | None) -> dict[str, str]:
    """Return a job's labels: the block's, the flow run's id, and the load's as far as a label can hold it.

    >>> labels_of({"team": "x"}, "Orders 2026-04-30")
    {'team': 'x', 'etl_load': 'orders_2026-04-30'}
    """
    run = FlowRunContext.get()
    found = {"etl_flow_run": str(run.flow_run.id)} if run and run.flow_run else {}
    if load_id:
        found["etl_load"] = re.sub(r"[^a-z0-9_-]", "_", load_id.lower())[:63]
    return {**labels, **found}


def patience(timeout_s: float) -> dict[str, Any]:
    """Return the timeout of a request, and the retry policy where sending it again changes nothing."""
    retry = require("google.cloud.bigquery.retry", extra="bigquery").DEFAULT_RETRY
    return {"retry": retry.with_timeout(QUICK_RETRY_S), "timeout": timeout_s}
