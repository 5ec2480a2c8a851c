"""Node runs: task runs in Prefect for the parts of work that happens elsewhere, such as the models of a dbt project.

    with NodeRuns() as runs:
        runs.start("model.shop.orders")
        runs.log("model.shop.orders", logging.INFO, "START sql table model main.orders")
        runs.finish("model.shop.orders", Completed(message="12 rows"))

Each is a task run of its own under the task run that this happens in, from its start to its finish, with its lines in
its log. Outside of a run there are only the lines.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import functools
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect.cache_policies import NO_CACHE
from prefect.context import AssetContext, FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger
from prefect.states import Failed
from prefect.tasks import MaterializingTask, Task
from prefect.transactions import Transaction

from blocks.base.assets import asset_key

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence
    from typing import Self

    from prefect.assets import Asset
    from prefect.client.schemas.objects import State


@dataclass
class _Node:
    """A node on its way: what is said of it, then the state in which it ended."""

    said: queue.SimpleQueue[tuple[int, str] | State[Any]] = field(default_factory=queue.SimpleQueue)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thread: threading.Thread | None = None


class NodeRuns:
    """The nodes of one piece of work.

    Args:
        logger: Takes the lines outside of a run, and those of no node.
        tool: What did the work, for the assets that it made.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any], *, tool: str) -> None:
        self.is_recorded = FlowRunContext.get() is not None or TaskRunContext.get() is not None
        self._logger = logger
        self._tool = tool
        self._nodes: dict[str, _Node] = {}

    def start(self, name: str, *, makes: str | None = None, of: Sequence[str] = ()) -> None:
        """Start the task run of a node.

        Args:
            name: Its name, which the task run has as well.
            makes: The address of what it makes, which becomes an asset of Prefect's.
            of: The addresses of what that is made of.
        """
        if not self.is_recorded or name in self._nodes:
            return
        node = self._nodes[name] = _Node()
        options: dict[str, Any] = {
            "name": name.partition(".")[0],
            "task_run_name": name.replace("{", "{{").replace("}", "}}"),
            "cache_policy": NO_CACHE,
            "persist_result": False,
        }

        def body() -> State[Any]:
            return _tell(node)

        task: Task[..., Any]
        if makes is None:
            task = Task(body, **options)
        else:
            asset_deps: list[str | Asset] = [asset_key(each) for each in of]
            assets = [asset_key(makes)]
            task = MaterializingTask(body, assets=assets, materialized_by=self._tool, asset_deps=asset_deps, **options)
        context = contextvars.copy_context()
        # What has been built stays so when the work as a whole fails: it is not part of the transaction around it.
        context.run(Transaction.__var__.set, None)  # type: ignore[arg-type]
        node.thread = threading.Thread(
            target=context.run, args=(functools.partial(task, return_state=True),), name=name, daemon=True
        )
        node.thread.start()

    def log(self, name: str, level: int, line: str) -> None:
        """Write a line into the log of the node where it is running, else into that of the whole."""
        if node := self._nodes.get(name):
            node.said.put((level, line))
        else:
            self._logger.log(level, "%s", line)

    def finish(self, name: str, state: State[Any], metadata: Mapping[str, Any] | None = None) -> None:
        """End the task run of a node in this state; `metadata` is kept with the asset that it made."""
        if node := self._nodes.get(name):
            node.metadata = metadata or {}
            node.said.put(state)

    def close(self, message: str) -> None:
        """Wait until Prefect knows how each node ended; those that are not finished fail with this message."""
        for node in self._nodes.values():
            node.said.put(Failed(message=message))  # nobody hears it of one that has ended
        for node in self._nodes.values():
            if node.thread:
                node.thread.join()
        self._nodes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close("It was stopped before it ended.")


def _tell(node: _Node) -> State[Any]:
    """Wait for the end of the node and return its state; meanwhile its lines go into the log of its task run."""
    logger = get_run_logger()
    while isinstance(said := node.said.get(), tuple):
        logger.log(said[0], "%s", said[1])
    if node.metadata and (context := AssetContext.get()):
        for asset in context.downstream_assets:
            asset.add_metadata(dict(node.metadata))
    # A state that is older than the start of its run would be ignored by the server.
    return said.model_copy(update={"timestamp": dt.datetime.now(dt.UTC)})
