"""pytest fixtures with which pipelines are attacked: `pytest_plugins = ["blocks.testing"]` in a test or a conftest.py.

The faults strike whatever flow, task and block is at work in the process of the test, so a pipeline is called as it is.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from prefect.settings import get_current_settings

from blocks.base.errors import AmbiguousError, ThrottledError
from blocks.base.operation import BoundOperation
from blocks.testing.http_proxy import HttpFaultProxy
from blocks.testing.moments import Strike, striking
from blocks.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.testing.moments import Moment

CHILD = "import pickle, sys; pickle.load(sys.stdin.buffer)()"


@pytest.fixture
def lost_commit() -> Iterator[Strike]:
    """The next load into any warehouse is committed, and the answer to its COMMIT is lost.

    `lost_commit.times` is how often it happens, once by default; `lost_commit.fired` tells whether it did.
    """

    def lose() -> None:
        raise AmbiguousError("The connection was lost after COMMIT was sent (a fault of blocks.testing).")

    with striking(Strike("committed", lose)) as strike:
        yield strike


class Throttle:
    """Refuses the first attempts of each method of a block.

    Attributes:
        times: How many attempts of a method are refused.
        fired: What was refused, in order, such as `"S3Bucket.read_path"`.
    """

    def __init__(self) -> None:
        self.times = 1
        self.fired: list[str] = []
        self._lock = threading.Lock()

    def take(self, name: str) -> None:
        """Count an attempt.

        Raises:
            ThrottledError: It is one of the first.
        """
        with self._lock:
            if self.fired.count(name) >= self.times:
                return
            self.fired.append(name)
        raise ThrottledError(f"{name}: too many requests (a fault of blocks.testing).", retry_after_s=0)


@pytest.fixture
def throttled(monkeypatch: pytest.MonkeyPatch) -> Throttle:
    """The first attempt of each method of each kind of block is refused, as by a service that is asked too often.

    `throttled.times` is how many attempts are refused, one by default; `throttled.fired` holds which ones were.
    """
    throttle, run = Throttle(), BoundOperation._run  # noqa: SLF001 (of the kit)

    def throttled_run(operation: BoundOperation[Any, Any], arguments: dict[str, Any]) -> Any:
        throttle.take(operation.name)
        return run(operation, arguments)

    monkeypatch.setattr(BoundOperation, "_run", throttled_run)
    return throttle


class Killer:
    """Runs functions in processes that do not live to their end."""

    def __call__(self, moment: Moment, function: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call the function in a process of its own, which is killed (SIGKILL) at a moment of its first load or write.

        Args:
            moment: Of a load: "begin", "rows" (the first were taken), "claim" (before its row in the ledger), "commit"
                (before it) or "committed". Of a dataset that is written: "upload" or "uploaded" (the first file).
            function: A function or a flow; with its arguments it is pickled (cloudpickle).
            args: Its arguments.
            kwargs: Its arguments by name.

        Raises:
            AssertionError: The function came to its end, so that moment was not reached.
        """

        def run() -> None:
            with striking(Strike(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                function(*args, **kwargs)

        settings = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
        with _by_value(function):
            content = cloudpickle.dumps(run)
        done = subprocess.run(  # noqa: S603 (this interpreter)
            [sys.executable, "-c", CHILD],
            input=content,
            env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=False,
        )
        if done.returncode != -signal.SIGKILL:
            said = done.stderr.decode(errors="replace")[-2000:]
            raise AssertionError(f"It was not killed: the moment {moment!r} was not reached.\n{said}")


@contextlib.contextmanager
def _by_value(function: Any) -> Iterator[None]:
    """Within it, what the function's module holds is pickled, where another process could not import that module."""
    name = getattr(function, "fn", function).__module__
    module = sys.modules.get(name)
    if module is None or importlib.machinery.PathFinder.find_spec(name.partition(".")[0]):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def killed() -> Killer:
    """Kills a pipeline at a moment: `killed("commit", load_orders, day)`; then call it again and look what is there."""
    return Killer()


class Proxies:
    """Starts proxies with faults, and ends them with the test."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def postgres(self, host: str, port: int = 5432) -> FaultProxy:
        """Return a proxy in front of a PostgreSQL server: give the block its `host` and `port`."""
        return self._stack.enter_context(FaultProxy(host, port))

    def http(self, url: str) -> HttpFaultProxy:
        """Return a proxy in front of a service that speaks HTTP: give the credentials its `url` as `endpoint_url`."""
        return self._stack.enter_context(HttpFaultProxy(url))


@pytest.fixture
def fault_proxy() -> Iterator[Proxies]:
    """Proxies that lose requests and answers, cut connections and more: `fault_proxy.postgres("127.0.0.1", 5432)`."""
    with contextlib.ExitStack() as stack:
        yield Proxies(stack)
