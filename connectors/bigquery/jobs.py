"""Jobs: begun, looked up where the answer was lost, waited for, and told how they ended.

Whether a job ran is never guessed: each has an id of its own making, so that one whose answer was lost is looked up
under it, and a second one of that id is refused by the service.
https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid
"""

from __future__ import annotations

import re
import time
import uuid
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
from blocks.base.optional import require
from connectors.bigquery.errors import job_error, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.bigquery.block import BigQuery

QUICK_RETRY_S = 10.0
"""How long one request is sent again before the operation's own policy decides."""
SHORTEST_POLL_S, LONGEST_POLL_S = 0.05, 2.0


class Jobs:
    """The jobs of one caller, each under an id of its own.

    Attributes:
        labels: What each of them carries.
    """

    def __init__(self, block: BigQuery, load_id: str | None = None) -> None:
        self._block = block
        self._client = block.get_client()
        self.labels = labels_of(block.labels, load_id)

    @property
    def location(self) -> str:
        """Where the dataset is: outside of the US and the EU a job is found only by who knows that."""
        return self._block.location or self._block.location_of_dataset

    @property
    def patience(self) -> dict[str, Any]:
        """How long a request waits for its answer, and is sent again where that changes nothing."""
        return patience(self._block.request_timeout_s)

    def config(self, parameters: list[Any], **options: Any) -> Any:
        """What a query job is told."""
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        default = bigquery.DatasetReference(self._client.project, self._block.dataset)
        if self._block.maximum_bytes_billed:
            options["maximum_bytes_billed"] = self._block.maximum_bytes_billed
        return bigquery.QueryJobConfig(
            default_dataset=default, query_parameters=parameters, labels=self.labels, **options
        )

    def run(self, sql: str, parameters: list[Any], *, ambiguous: bool) -> Any:
        """The finished job of a statement, or of a script.

        Raises:
            AmbiguousError: Nobody answers whether it ran, where that matters.
        """
        job_id = f"etl_{uuid.uuid4().hex}"
        return self.finished(lambda: self.begun(sql, parameters, job_id), ambiguous=ambiguous)

    def finished(self, begin: Callable[[], Any], *, ambiguous: bool) -> Any:
        """The job that `begin` begins, once it has done its work."""
        try:
            job = self.waited(begin())
        except ThrottledError:
            raise
        except TransientError as error:
            raise (AmbiguousError(str(error)) if ambiguous else error) from None
        return self.checked(job)

    def begun(self, sql: str, parameters: list[Any], job_id: str) -> Any:
        """The job of that id, begun now or before."""

        def begin() -> Any:
            return self._client.query(
                sql,
                self.config(parameters),
                job_id=job_id,
                location=self.location,
                job_retry=None,
                **self.patience,
            )

        return self.submitted(begin, job_id)

    def submitted(self, begin: Callable[[], Any], job_id: str) -> Any:
        """The job that `begin` begins; where its answer is lost, or tells of a job of that id, that one.

        Raises:
            TransientError: There is no such job, or it could not be looked up.
        """
        lost: ConnectorError | None = None
        for _ in range(2):  # what never arrived is sent once more; the id keeps both from running
            try:
                with translated(f"run job {job_id} in {self._block.uri()}"):
                    return begin()
            except (AlreadyExistsError, TransientError) as error:
                if (job := self.look_up(job_id)) is not None:
                    return job
                lost = error
        raise TransientError(str(lost))

    def look_up(self, job_id: str) -> Any:
        """The job, None where there is none."""
        try:
            with translated(f"look up job {job_id} in {self._block.uri()}"):
                return self._client.get_job(job_id, location=self.location, **self.patience)
        except NotFoundError:
            return None

    def waited(self, job: Any) -> Any:
        """The job once it is done, whatever came of it."""
        pause = SHORTEST_POLL_S
        while job.state != "DONE":
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_S)
            with translated(f"watch job {job.job_id} in {self._block.uri()}"):
                job.reload(**self.patience)
        return job

    def checked(self, job: Any) -> Any:
        """The job, which has done its work.

        Raises:
            ConnectorError: It failed.
        """
        if job.error_result:
            raise job_error(job, self._block.uri())
        return job


def labels_of(labels: Mapping[str, str], load_id: str | None) -> dict[str, str]:
    """A job's labels: the block's, the flow run's id, and the load's as far as a label can hold it.

    >>> labels_of({"team": "x"}, "Orders 2026-04-30")
    {'team': 'x', 'etl_load': 'orders_2026-04-30'}
    """
    run = FlowRunContext.get()
    found = {"etl_flow_run": str(run.flow_run.id)} if run and run.flow_run else {}
    if load_id:
        found["etl_load"] = re.sub(r"[^a-z0-9_-]", "_", load_id.lower())[:63]
    return {**labels, **found}


def patience(timeout_s: float) -> dict[str, Any]:
    """How long a request waits for its answer, and is sent again where that changes nothing."""
    retry = require("google.cloud.bigquery.retry", extra="bigquery").DEFAULT_RETRY
    return {"retry": retry.with_timeout(QUICK_RETRY_S), "timeout": timeout_s}
