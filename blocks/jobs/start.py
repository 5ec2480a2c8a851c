"""The identity of a start whose caller gave none: with it a later attempt of a run finds what was started before.

A token names one call: all attempts of that call have the same one. Its first half is the call's cause, which is made
of the root run, the path of tasks with their parameters, what is started and how, and of how many equal calls came
before, so that it is the same in a later attempt of the run. By its cause a run of the earlier attempt is found.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefect.context import FlowRunContext, TaskRunContext

from blocks.base.errors import InvalidInputError
from blocks.base.ordinals import Ordinals
from blocks.base.runs import current_path, flow_is_running, has_context, parameter_names

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from typing import Self

CAUSE_DIGITS = 16
HASH_ROUNDS = 20_000
"""A cause can be read at the service; with so many rounds (10 ms) it does not help to guess a short secret."""
_REMEMBERED_RUNS = 1_000

_runs: OrderedDict[str, Ordinals] = OrderedDict()
_lock = threading.Lock()


class StartedRun(NamedTuple):
    """A run, as a service lists those of a cause.

    Attributes:
        run_id: The service's id of it.
        token: The token of its start.
        outcome: How it is doing.
        is_stopping: Whether it runs, and was told to stop.
    """

    run_id: str
    token: str
    outcome: Literal["running", "succeeded", "failed"]
    is_stopping: bool = False


class StartToken(str):
    """The token of a start within a run of Prefect.

    Attributes:
        repeats: Whether an earlier attempt of the run may have made this call.
        began: When the run began, None where that is not known.
        run_id: The run of an earlier attempt that this call takes over; empty until it does.
    """

    __slots__ = ("began", "repeats", "run_id")
    repeats: bool
    began: dt.datetime | None
    run_id: str

    def __new__(cls, token: str, *, repeats: bool, began: dt.datetime | None) -> Self:
        """Return the token of a call."""
        made = super().__new__(cls, token)
        made.repeats, made.began, made.run_id = repeats, began, ""
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (str(self), self.repeats, self.began, self.run_id)

    @property
    def cause(self) -> str:
        """What this call has in common with the same call of another attempt."""
        return self[:CAUSE_DIGITS]


def _made_again(token: str, repeats: bool, began: dt.datetime | None, run_id: str) -> StartToken:
    made = StartToken(token, repeats=repeats, began=began)
    made.run_id = run_id
    return made


def derive_token(name: str, identity: str, secrets: Mapping[str, Any]) -> str:
    """Return the token of a start: within a run a StartToken, outside of one a new one for each call.

    Args:
        name: What is started, for messages.
        identity: What is started and how, the same in every attempt.
        secrets: What belongs to that and must not be shown.

    Raises:
        InvalidInputError: The call comes from a thread in which Prefect does not show the run.
    """
    path = current_path()
    if path is None:
        if not has_context() and flow_is_running():
            raise InvalidInputError(
                f"{name}: a flow is running, and this thread does not have Prefect's context, so a retry would not "
                "find what it starts. Nothing was started. Give the thread the context, with "
                "pool.submit(contextvars.copy_context().run, job.run), or give the start a token."
            )
        return uuid.uuid4().hex
    parts = [path.root, *path.steps, identity, _hashed(secrets, path.root)]
    with _lock:
        ordinals = _runs.setdefault(path.root, Ordinals())
        _runs.move_to_end(path.root)
        while len(_runs) > _REMEMBERED_RUNS:
            _runs.popitem(last=False)
        cause = _digest([*parts, *ordinals.next(_digest(parts), path)])[:CAUSE_DIGITS]
    token = cause + uuid.uuid4().hex[CAUSE_DIGITS:]
    return StartToken(token, repeats=path.repeats or not path.shown, began=_began())


def token_advice() -> str:
    """Return what to write where nobody can tell whether a start is another one."""
    names = [name for name in parameter_names() if name != "token"]  # which the operation itself has
    example = 'f"' + "".join(f"{{{name}}}" for name in names[:2]) + '"' if names else '"day20260430"'
    return f"Give the start a token, the same in every attempt, of at most 32 letters and digits, such as {example}."


def _began() -> dt.datetime | None:
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run if flow and flow.flow_run else task.task_run if task else None
    return run.start_time if run else None


def _hashed(secrets: Mapping[str, Any], salt: str) -> str:
    if not secrets:
        return ""
    text = json.dumps(dict(secrets), sort_keys=True, default=str)
    return hashlib.pbkdf2_hmac("sha256", text.encode(), salt.encode(), HASH_ROUNDS).hex()


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
