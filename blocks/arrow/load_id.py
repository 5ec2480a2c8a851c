"""The identity of a load whose caller gave none: with it a retry recognizes what was done before."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import Counter, OrderedDict
from datetime import date
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectFuture

from blocks.arrow.scan import as_scan

if TYPE_CHECKING:
    from blocks.arrow.scan import Scan

_REMEMBERED_RUNS = 1_000
_runs: OrderedDict[tuple[str, int], _Calls] = OrderedDict()
_runs_lock = threading.Lock()


class _Calls:
    """How often one attempt of a flow run made loads that are alike in everything."""

    def __init__(self) -> None:
        self.count: Counter[object] = Counter()
        self.task_runs: dict[str, list[str]] = {}

    def ordinal(self, identity: str, task_run: tuple[str, int] | None) -> str:
        """Return the number of this call; each attempt of a task run counts from the start."""
        if task_run is None:
            self.count[identity] += 1
            return str(self.count[identity])
        runs = self.task_runs.setdefault(identity, [])
        if task_run[0] not in runs:
            runs.append(task_run[0])
        self.count[identity, task_run] += 1
        return f"{runs.index(task_run[0])}.{self.count[identity, task_run]}"


def with_load_id(arguments: dict[str, Any], target: str) -> dict[str, Any]:
    """Return the arguments of a load with its identity fixed, so that every attempt has the same one.

    If the data is the future of another task, the load gets its identity when it starts.
    """
    data = arguments.get("data")
    if arguments.get("load_id") is not None or isinstance(data, PrefectFuture):
        return arguments
    scan = as_scan(data).settled()
    return arguments | {"data": scan, "load_id": derive_load_id(target, arguments.get("mode", "append"), scan)}


def derive_load_id(table: str, mode: str, scan: Scan) -> str:
    """Return an identity that a retried task or flow run derives again; outside of a run a new one for each call.

    Within a flow run it is made of the run, the task and its parameters, the table, the mode, the data's fingerprint
    (content of what is in memory, name and version of a file), and of how many loads with all of that alike came
    before. Prefect's own keys of a task run take no part: they change when the flow run is retried.

    Task runs in processes of their own (Dask, Ray, process pools) cannot count each other. Where two load the
    very same data with the same parameters, and both are meant, each needs a `load_id` of the caller's.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow is not None and flow.flow_run is not None:
        run = (str(flow.flow_run.id), flow.flow_run.run_count)
        # A retry of the outer flow gives an inner one a new run; the task run that stands for it there stays.
        origin = str(flow.flow_run.parent_task_run_id or flow.flow_run.id)
    elif task is not None:
        run = (str(task.task_run.flow_run_id or task.task_run.id), 0)
        origin = run[0]
    else:
        return uuid.uuid4().hex
    parts = [table, mode, str(scan.schema), scan.fingerprint()]
    if task is not None:
        parameters = {name: _describe(value) for name, value in task.parameters.items()}
        parts += [task.task.task_key, json.dumps(parameters, sort_keys=True)]
    identity = _digest(parts)
    with _runs_lock:
        calls = _runs.setdefault(run, _Calls())
        while len(_runs) > _REMEMBERED_RUNS:
            _runs.popitem(last=False)
        ordinal = calls.ordinal(identity, (str(task.task_run.id), task.task_run.run_count) if task else None)
    return _digest([origin, identity, ordinal])


def _describe(value: object) -> str:
    if value is None or isinstance(value, (str, int, float, bool, date)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return repr([_describe(item) for item in value[:100]])
    return type(value).__qualname__


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
