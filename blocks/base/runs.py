"""Which run of Prefect a call belongs to: the root, the path of flows and tasks down to the call, and their attempts.

Prefect keeps the innermost flow run and task run of a call in its context, and around each of them those it was entered
from. A flow run that is the child of one in another process is followed up through Prefect's API.
"""

from __future__ import annotations

import dataclasses
import enum
import gc
import hashlib
import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.tasks import Task
from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from blocks.base.errors import TransientError

if TYPE_CHECKING:
    from contextvars import Token

    from prefect.client.schemas.objects import FlowRun

C = TypeVar("C", FlowRunContext, TaskRunContext)

DESCRIBED_ITEMS = 1_000
"""How many items of a list tell it from another one."""
SETTINGS = frozenset({"memory_limit", "options", "service", "ssl_cert", "ssl_key", "ssl_mode", "ssl_root_cert"})
"""Fields of text that say how a block works, and not what it stands for."""
CREDENTIALS_PLACE = ("account", "account_url", "endpoint_url", "host", "project")
"""Fields of credentials that say where they are used; the others may be rotated between two attempts."""
SETTING = "ETL_SHOW_LOADS"
"""The environment variable that switches pages, assets and events off."""
_REMEMBERED = 1_000
_ancestors_of: OrderedDict[tuple[str, int], tuple[Run, ...]] = OrderedDict()
_lock = threading.Lock()


class OperationTask(Task[Any, Any]):
    """The task of an operation: a call that is shown and retried as a task, and no step of the user's own."""


@dataclass(frozen=True)
class Run:
    """A flow run or a task run that a call is within.

    Attributes:
        id: Prefect's id of it.
        name: What tells it, with its parameters, from its siblings, and is the same in every attempt.
        parameters: What it was called with.
        attempt: A number that grows each time it begins; None where Prefect does not show it.
    """

    id: str
    name: str = ""
    parameters: str = ""
    attempt: int | None = 1


@dataclass(frozen=True)
class RunPath:
    """The runs that a call is within, the root first."""

    runs: tuple[Run, ...]
    flow_run_id: str

    @property
    def root(self) -> str:
        """The id of the root, which all attempts share."""
        return self.runs[0].id

    @property
    def steps(self) -> list[str]:
        """The path from the root down, the same in every attempt."""
        return [f"{run.name}({run.parameters})" for run in self.runs[1:] if run.name]

    @property
    def attempts(self) -> dict[str, int | None]:
        """The attempt of each run, by its id."""
        return {run.id: run.attempt for run in self.runs}

    @property
    def repeats(self) -> bool:
        """Whether Prefect shows that something on the path has begun before."""
        return any((run.attempt or 0) > 1 for run in self.runs)

    @property
    def shown(self) -> bool:
        """Whether Prefect shows the attempt of every run on the path."""
        return all(run.attempt is not None for run in self.runs)


def current_path() -> RunPath | None:
    """Return the runs that this call is within; None outside of any.

    Raises:
        TransientError: Prefect's API does not say what a flow run is the child of.
    """
    flows = [context.flow_run for context in _entered(FlowRunContext) if context.flow_run is not None]
    tasks = [context for context in _entered(TaskRunContext) if not isinstance(context.task, OperationTask)]
    if not flows and not tasks:
        return None
    if not flows and (flow_run_id := tasks[0].task_run.flow_run_id):
        flows = [_read(flow_run_id)]
    while len(flows) > 1 and any(flow.parent_task_run_id is None for flow in flows[1:]):
        flows.pop(0)  # it is entered around a root, and is not the parent of it
    runs: list[Run] = list(_ancestors(flows[0])) if flows else []
    for flow in flows:
        runs.append(_flow(flow))
        within = [context for context in tasks if context.task_run.flow_run_id == flow.id]
        # A task around a subflow tells attempts apart; what the subflow is told by is its own name and parameters.
        runs += [_task(context, named=flow is flows[-1]) for context in within]
    if not flows:
        runs = [_task(context, named=True) for context in tasks]
    return RunPath(tuple(runs), str(flows[-1].id) if flows else runs[0].id)


def flow_is_running() -> bool:
    """Tell whether a flow run is being executed in this process, by whatever thread.

    A thread that does not have Prefect's context cannot see it there. Prefect keeps no list of its engines, so they are
    looked for among the objects of the process (45 ms), and only where one was ever imported.
    """
    engine = sys.modules.get("prefect.flow_engine")
    if engine is None:
        return False
    kinds = (engine.FlowRunEngine, engine.AsyncFlowRunEngine)
    return any(type(found) in kinds and found.is_running() for found in gc.get_referrers(*kinds))


def has_context() -> bool:
    """Tell whether this thread has Prefect's context of a run."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def loads_are_shown() -> bool:
    """Tell whether loads leave pages, assets and events: within a run, unless ETL_SHOW_LOADS says no."""
    return has_context() and os.environ.get(SETTING, "true").strip().lower() not in ("0", "false", "no", "off")


def parameter_names() -> list[str]:
    """Return the names of the parameters of the flow, or else of the task, that tell one run from the next."""
    contexts = (FlowRunContext.get(), TaskRunContext.get())
    for context in contexts:
        parameters = (context.parameters if context else None) or {}
        if names := [name for name, value in parameters.items() if isinstance(value, str | int | date | UUID)]:
            return names
    return []


def _entered(kind: type[C]) -> list[C]:
    """Return the contexts of that kind that are entered, each run once, the outermost first."""
    found: dict[Any, C] = {}
    context: Any = kind.get()
    while isinstance(context, kind):
        run = context.flow_run if isinstance(context, FlowRunContext) else context.task_run
        found.setdefault(run.id if run else None, context)
        token: Token[Any] | None = context._token  # noqa: SLF001 (nothing public says what a run was entered from)
        context = token.old_value if token else None
    return list(found.values())[::-1]


def _flow(run: FlowRun) -> Run:
    # A set among the parameters is a list in the record, in no particular order.
    unordered = {name: each for name, each in run.parameters.items() if isinstance(each, list)}
    parameters = run.parameters | {name: set(map(described, each)) for name, each in unordered.items()}
    # Prefect does not count a run that goes on after it was suspended, though it begins again from its first line.
    attempt = run.run_count + len(run.empirical_policy.pause_keys or ())
    return Run(str(run.id), str(run.flow_id), described(parameters), attempt)


def _task(context: TaskRunContext, *, named: bool) -> Run:
    run = context.task_run
    if not named:
        return Run(str(run.id), attempt=run.run_count)
    # The key ends in a digest of the code, which another version of Python, or a corrected task, does not have.
    return Run(str(run.id), run.task_key.rpartition("-")[0], described(context.parameters), run.run_count)


def _ancestors(flow: FlowRun) -> tuple[Run, ...]:
    """Return the runs that a flow run is within, as Prefect's API knows them."""
    if flow.parent_task_run_id is None:
        return ()
    import httpx

    key = (str(flow.id), flow.run_count)
    with _lock:
        if (known := _ancestors_of.get(key)) is not None:
            return known
    runs: list[Run] = []
    parent: UUID | None = flow.parent_task_run_id
    try:
        with get_client(sync_client=True) as client:
            while parent is not None:
                tracking = client.read_task_run(parent)
                # When a task around it begins again, the API may say so late.
                around = [
                    Run(str(each.id), attempt=None)
                    for each in tracking.task_inputs.get("__parents__", [])
                    if hasattr(each, "id")
                ]
                if tracking.flow_run_id is None:
                    runs = [*around, *runs]
                    break
                outer = client.read_flow_run(tracking.flow_run_id)
                runs = [_flow(outer), *around, *runs]
                parent = outer.parent_task_run_id
    except ObjectNotFound:
        pass  # somebody deleted it: what is left is the root
    except httpx.HTTPError as error:
        raise TransientError(f"Prefect's API does not say what flow run {flow.id} is within: {error}") from error
    with _lock:
        _ancestors_of[key] = tuple(runs)
        while len(_ancestors_of) > _REMEMBERED:
            _ancestors_of.popitem(last=False)
    return tuple(runs)


def _read(flow_run_id: UUID) -> FlowRun:
    import httpx

    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run_id)
    except httpx.HTTPError as error:
        raise TransientError(f"Prefect's API gave no answer about flow run {flow_run_id}: {error}") from error


def described(value: object) -> str:
    """Return what tells a value from another one, the same in every process, and never a secret.

    >>> described({"day": date(2026, 4, 30), "shops": {"b", "a"}, "password": SecretStr("x")})
    '{"day": "2026-04-30", "password": "SecretStr", "shops": [2, "a", "b"]}'
    """
    return json.dumps(_described(value), sort_keys=True)


def _described(value: Any) -> Any:  # noqa: C901, PLR0911 (one kind of value a line)
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, SecretStr | SecretBytes | Secret):
        return type(value).__name__
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, date | time | timedelta | Decimal | UUID | PurePath):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Block):
        own = getattr(value, "_stands_for", None)  # that of a ConnectorBlock
        return own() if own else [value.get_block_type_slug(), value._block_document_name]  # noqa: SLF001
    if isinstance(value, Mapping):
        if "block_type_slug" in value:  # a block as Prefect writes down the parameters of a flow run
            return _place(value)
        return {str(name): _described(each) for name, each in value.items()}
    if isinstance(value, AbstractSet):
        return [len(value), *sorted((_described(each) for each in value), key=json.dumps)]
    if isinstance(value, list | tuple):
        return [len(value), *(_described(each) for each in value[:DESCRIBED_ITEMS])]
    if isinstance(value, BaseModel):
        return {name: _described(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _described(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return type(value).__qualname__


def _place(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return of the fields of a block those that say what it stands for; its keys and settings may change meanwhile."""
    found = {name: value for name, value in block.items() if isinstance(value, str) and name not in SETTINGS}
    within = [value for value in block.values() if isinstance(value, Mapping) and "block_type_slug" in value]
    for inner in within:
        found |= {f"credentials.{name}": inner[name] for name in CREDENTIALS_PLACE if inner.get(name)}
    return found | {name: block[name] for name in ("port",) if name in block}
