"""A command of dbt in a thread of its own."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING

from prefect.blocks.abstract import JobRun as PrefectJobRun
from prefect.context import SyncClientContext

from blocks.base.errors import InvalidInputError, TerminalError
from blocks.base.interruption import Interruption, pause, set_interruption
from blocks.base.operation import operation
from blocks.base.retry import RetryPolicy, call_with_retry
from connectors.shared.dbt import DbtResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.dbt.request import Request


class DbtRun(PrefectJobRun[DbtResult]):
    """A command of dbt that runs while its caller does something else.

    Args:
        request: What is asked of dbt.
        attempt: Makes one attempt of it.
        policy: When another attempt follows.
    """

    def __init__(self, request: Request, attempt: Callable[[], DbtResult], policy: RetryPolicy) -> None:
        self.request = request
        self._given_up = Interruption()
        self._outcome: DbtResult | BaseException | None = None
        context = contextvars.copy_context()
        context.run(set_interruption, self._given_up)
        # The client of the task run that starts this is closed when that ends.
        context.run(SyncClientContext.__var__.set, None)  # type: ignore[arg-type]
        self._thread = threading.Thread(
            target=context.run, args=(self._work, attempt, policy), name="etl-dbt", daemon=True
        )
        self._thread.start()

    @property
    def retry(self) -> RetryPolicy:
        """The policy of its own operations, which only wait: they have one attempt."""
        return RetryPolicy(attempts=1)

    @operation(prefects=True)
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Wait until dbt has ended, however it did; `fetch_result` says how. A wait that is given up stops dbt."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.2)
                pause(0.01)
        except BaseException:
            self._given_up.set()
            self._thread.join()
            raise

    @operation(prefects=True)
    def fetch_result(self) -> DbtResult:  # type: ignore[override]  # Prefect's is awaitable
        """Return what dbt did.

        Raises:
            InvalidInputError: It has not ended.
            DbtFailedError: A node failed, or dbt took too long.
            TerminalError: It was cancelled.
        """
        if self._thread.is_alive():
            raise InvalidInputError("dbt has not ended. Call wait_for_completion() before fetch_result().")
        if isinstance(self._outcome, DbtResult):
            return self._outcome
        if isinstance(self._outcome, Exception):
            raise self._outcome
        raise TerminalError(f"dbt {self.request.command} was cancelled.")

    @operation
    def cancel(self) -> None:
        """Stop dbt and its queries, and wait until nothing of it runs any more."""
        self._given_up.set()
        self._thread.join()

    def _work(self, attempt: Callable[[], DbtResult], policy: RetryPolicy) -> None:
        try:
            self._outcome = call_with_retry(policy, attempt, sleep=pause)
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            self._outcome = error
