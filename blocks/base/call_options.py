"""What `with_options` says of the calls of an operation: every option of Prefect's tasks is honored or refused."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.tasks import TaskOptions
from prefect.utilities.annotations import NotSet

from blocks.base.arguments import nearest
from blocks.base.errors import InvalidInputError
from blocks.base.retry import CallRetries, RetryPolicy, retry_if_transient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prefect.context import TaskRunContext

    OwnKey = Callable[[str | None], str | None]

OF_PLAIN_CALLS = frozenset({"retries", "retry_delay_seconds", "retry_jitter_factor"})
"""The options that need no task run."""
OF_RETRIES = OF_PLAIN_CALLS | {"retry_condition_fn"}
"""The options that an operation honors itself, and does not hand to Prefect."""
OF_RESULTS = frozenset({"cache_key_fn", "cache_policy", "result_serializer", "result_storage", "result_storage_key"})
"""The options with which Prefect keeps results, unless `persist_result` says otherwise."""


class CallOptions:
    """The options of a call, checked when they are given.

    Raises:
        InvalidInputError: Prefect's tasks have no such option, it has another form, or another one rules it out.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = TaskOptions.__annotations__
        if unknown := [name for name in options if name not in known]:
            near = nearest(unknown[0], known, "there are")
            raise InvalidInputError(f"with_options() has no option {unknown[0]!r}; {near}")
        self.given = {name: value for name, value in options.items() if value is not None and value is not NotSet}
        self._check()

    def _check(self) -> None:
        retries, condition = self.given.get("retries", 0), self.condition
        if not isinstance(retries, int) or retries < 0:
            raise InvalidInputError("retries is a whole number, 0 or more.")
        if not callable(condition) or inspect.iscoroutinefunction(condition):
            raise InvalidInputError("retry_condition_fn is a plain function of a task, its run and its state.")
        if {"cache_policy", "cache_key_fn"} <= self.given.keys():
            raise InvalidInputError("cache_key_fn takes the place of a cache_policy. Leave out one of them.")
        cached = self.given.keys() & {"cache_key_fn", "result_storage_key"} or self._cache_policy != NO_CACHE
        if not cached and (alone := self.given.keys() & {"cache_expiration", "refresh_cache"}):
            raise InvalidInputError(f"{min(alone)} needs a cache_policy or a cache_key_fn beside it.")
        if cached and self.given.get("persist_result") is False:
            raise InvalidInputError("A result is cached only where it is kept. Leave out persist_result=False.")
        try:
            self.policy(RetryPolicy())
        except (TypeError, ValueError):
            raise InvalidInputError(
                "retry_delay_seconds is a number of seconds, 0 or more, a list of those, or a function that returns "
                "such a list; retry_jitter_factor is a number, 0 or more."
            ) from None

    @property
    def need_task_run(self) -> bool:
        """Whether there is an option that only a task run has."""
        return not OF_PLAIN_CALLS.issuperset(self.given)

    @property
    def condition(self) -> Callable[..., Any]:
        """What decides whether a failed task run gets another attempt."""
        condition: Callable[..., Any] = self.given.get("retry_condition_fn", retry_if_transient)
        return condition

    @property
    def _cache_policy(self) -> Any:
        return self.given.get("cache_policy", NO_CACHE)

    def policy(self, policy: RetryPolicy) -> RetryPolicy:
        """Return the policy of a block as these options change it."""
        if (retries := self.given.get("retries")) is not None:
            policy = policy.model_copy(update={"attempts": retries + 1})
        delays, jitter = self.given.get("retry_delay_seconds"), self.given.get("retry_jitter_factor")
        if delays is None and jitter is None:
            return policy
        if callable(delays):
            delays = delays(policy.attempts - 1)
        if delays is None:
            return CallRetries(**dict(policy), jitter_factor=jitter)
        waits = tuple(delays) if isinstance(delays, list | tuple) else (delays,)
        return CallRetries(**dict(policy) | {"deadline_s": math.inf}, delays_s=waits, jitter_factor=jitter)

    def of_task(self, own_key: OwnKey) -> dict[str, Any]:
        """Return the options of the task; `own_key` makes a cache's key one of this operation of this block."""
        options: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
        if self.given.keys() & OF_RESULTS:
            del options["persist_result"]
        options |= {name: value for name, value in self.given.items() if name not in OF_RETRIES}
        if key_of := self.given.get("cache_key_fn"):
            options["cache_key_fn"] = lambda context, inputs: own_key(key_of(context, inputs))
            del options["cache_policy"]
        elif options["cache_policy"] != NO_CACHE:
            options["cache_policy"] = OfOneBlock(options["cache_policy"], own_key)
        elif "result_storage_key" in options:
            del options["cache_policy"]
        return options


class OfOneBlock(CachePolicy):
    """A cache policy whose results are those of one operation of one block."""

    def __init__(self, policy: CachePolicy, own_key: OwnKey) -> None:
        super().__init__(policy.key_storage, policy.isolation_level, policy.lock_manager)
        self.policy, self.own_key = policy, own_key

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key under which the result is kept."""
        return self.own_key(self.policy.compute_key(task_ctx, inputs, flow_parameters, **kwargs))
