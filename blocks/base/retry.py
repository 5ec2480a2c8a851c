"""Whether to make another attempt, and how long to wait for it: one policy for Prefect task runs and plain calls."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVar

from prefect.utilities.math import clamped_poisson_interval
from pydantic import ConfigDict, Field, NonNegativeFloat

from blocks.base.arguments import Options
from blocks.base.errors import ThrottledError, TransientError
from blocks.base.interruption import interruption, pause

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task
    from tenacity import RetryCallState

R = TypeVar("R")


class RetryPolicy(Options):
    """Exponential backoff with full jitter, a cap and an overall deadline; a service's own Retry-After is honored.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="Retries")

    attempts: int = Field(default=5, ge=1, description="Number of attempts, including the first one.")
    first_delay_s: float = Field(
        default=0.5,
        ge=0,
        title="First delay (seconds)",
        description="Upper bound of the wait before the second attempt. It doubles with each further one.",
    )
    max_delay_s: float = Field(
        default=30.0,
        ge=0,
        title="Max delay (seconds)",
        description="Upper bound of every wait, unless the service asks for a longer one.",
    )
    deadline_s: float = Field(
        default=900.0,
        ge=0,
        title="Deadline (seconds)",
        description="No attempt starts later than this after the first one.",
    )

    def delay_s(self, failures: int, error: BaseException | None = None) -> float:
        """Return the seconds to wait after the `failures`-th failure in a row (1 is the first)."""
        if isinstance(error, ThrottledError) and error.retry_after_s is not None:
            return error.retry_after_s
        bound = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(failures - 1, 60))
        return random.uniform(0.0, bound)  # noqa: S311 (jitter, not a secret)


class CallRetries(RetryPolicy):
    """The retries of one call, with the waits that its caller asked for in place of the backoff."""

    delays_s: tuple[NonNegativeFloat, ...] = ()
    jitter_factor: NonNegativeFloat | None = None

    def delay_s(self, failures: int, error: BaseException | None = None) -> float:
        """Return the seconds to wait after the `failures`-th failure; the last wait that was given stands for all more.

        A service that asks for a longer wait gets it.
        """
        if not self.delays_s:
            delay = super().delay_s(failures, error)
        else:
            delay = self.delays_s[min(failures, len(self.delays_s)) - 1]
        if self.jitter_factor and delay > 0:
            delay = clamped_poisson_interval(delay, clamping_factor=self.jitter_factor)
        asked = error.retry_after_s if isinstance(error, ThrottledError) else None
        return max(delay, asked or 0.0)


def is_transient(error: object) -> bool:
    """Return whether another attempt can help."""
    return isinstance(error, TransientError)


def retry_if_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's form)
    """Return whether a failed task run is worth a retry: `@task(retries=3, retry_condition_fn=retry_if_transient)`.

    A plain function, because Prefect never retries with any other callable.
    """
    return is_transient(state.data)


def call_with_retry(policy: RetryPolicy, call: Callable[[], R], *, sleep: Callable[[float], None] = pause) -> R:
    """Return the value of `call()`, with further attempts under `policy` while it raises TransientError.

    There are none once the thread was interrupted.

    Raises:
        ConnectorError: The last error, when the policy is exhausted or the error is not transient.
    """
    import tenacity

    def wait(state: RetryCallState) -> float:
        return policy.delay_s(state.attempt_number, state.outcome.exception() if state.outcome else None)

    retrying: Any = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: is_transient(error) and not interruption().is_set()),
        stop=tenacity.stop_after_attempt(policy.attempts) | tenacity.stop_before_delay(policy.deadline_s),
        wait=wait,
        sleep=sleep,
        reraise=True,
    )
    result: R = retrying(call)
    return result
