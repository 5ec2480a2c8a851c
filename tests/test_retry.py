"""The retry policy, and plain calls under it. Waits are recorded, never waited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.base.errors import AmbiguousError, AuthError, ConnectorError, ThrottledError, TransientError
from blocks.base.retry import RetryPolicy, call_with_retry, is_transient, retry_if_transient


class Flaky:
    """A call that fails with the given errors, in turn, and then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        """The answer."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def waits() -> list[float]:
    return []


def test_an_answer_is_returned_at_once(waits):
    """What works is called once."""
    flaky = Flaky()
    assert call_with_retry(RetryPolicy(), flaky, sleep=waits.append) == "answer"
    assert (flaky.calls, waits) == (1, [])


def test_transient_errors_are_tried_again(waits):
    """A transient error is retried until the answer comes."""
    flaky = Flaky(TransientError("reset"), ThrottledError("slow down"), TransientError("reset"))
    assert call_with_retry(RetryPolicy(attempts=4), flaky, sleep=waits.append) == "answer"
    assert (flaky.calls, len(waits)) == (4, 3)


def test_the_last_error_is_raised_as_it_is(waits):
    """When the attempts are used up, the service's last error arrives, not a wrapper of the retry library."""
    last = TransientError("the third")
    flaky = Flaky(TransientError("the first"), TransientError("the second"), last)
    with pytest.raises(TransientError) as raised:
        call_with_retry(RetryPolicy(attempts=3), flaky, sleep=waits.append)
    assert raised.value is last
    assert flaky.calls == 3


@pytest.mark.parametrize(
    "error", [AuthError("no"), AmbiguousError("maybe"), ConnectorError("?"), ValueError("x"), KeyboardInterrupt()]
)
def test_nothing_else_is_tried_again(error, waits):
    """Terminal and ambiguous errors, and those that are not ours, are raised at once."""
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        call_with_retry(RetryPolicy(), flaky, sleep=waits.append)
    assert (flaky.calls, waits) == (1, [])


def test_the_service_says_how_long_to_wait(waits):
    """Retry-After is kept to, longer or shorter than our own wait."""
    policy = RetryPolicy(first_delay_s=1, max_delay_s=2)
    call_with_retry(policy, Flaky(ThrottledError("a", 17), ThrottledError("b", 0.0)), sleep=waits.append)
    assert waits == [17, 0.0]


def test_no_try_starts_after_the_deadline(waits):
    """A wait that would end after the deadline is not begun."""
    flaky = Flaky(ThrottledError("come back later", 60))
    with pytest.raises(ThrottledError):
        call_with_retry(RetryPolicy(deadline_s=10), flaky, sleep=waits.append)
    assert (flaky.calls, waits) == (1, [])


@given(failures=st.integers(1, 10_000), first=st.floats(0, 10), cap=st.floats(0, 100))
def test_waits_grow_under_a_cap(failures, first, cap):
    """Full jitter: any wait from none to the bound, which doubles with each failure up to the cap."""
    wait = RetryPolicy(first_delay_s=first, max_delay_s=cap).delay_s(failures)
    assert 0 <= wait <= min(cap, first * 2.0 ** min(failures - 1, 60))


def test_waits_differ():
    """Clients that failed together do not come back together."""
    policy = RetryPolicy(first_delay_s=10)
    assert len({policy.delay_s(1) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    "fields", [{"attempts": 0}, {"first_delay_s": -1}, {"max_delay_s": -1}, {"deadline_s": -1}, {"atempts": 3}]
)
def test_nonsense_is_refused(fields):
    """A policy that cannot be meant is an error when it is written."""
    with pytest.raises(ValidationError):
        RetryPolicy(**fields)


def test_the_condition_is_a_plain_function():
    """Prefect honours nothing else: a method or a partial would mean that nothing is ever retried."""
    import inspect

    assert inspect.isfunction(is_transient)
    assert inspect.isfunction(retry_if_transient)
