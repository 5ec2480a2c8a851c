"""`@operation`: a block method that is also a retryable task."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import pydoc
import re
import threading
import time
import uuid
import warnings
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import FlowRunContext, TaskRunContext
from prefect.tasks import TaskOptions
from pydantic import Field

from blocks.base import retry
from blocks.base.block import ConnectorBlock
from blocks.base.call_options import OF_RETRIES
from blocks.base.errors import AmbiguousError, AuthError, InvalidInputError, ThrottledError, TransientError
from blocks.base.operation import BoundOperation, Operation, operation
from blocks.base.retry import CallRetries, RetryPolicy
from blocks.credentials import AwsCredentials
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from connectors.postgres import Postgres
from connectors.s3 import S3Bucket

AT_ONCE = RetryPolicy(attempts=4, first_delay_s=0)

calls: Counter[str] = Counter()
seen: defaultdict[str, list] = defaultdict(list)


class Shelf(ConnectorBlock):
    """A block to try operations on; what happened is kept in `calls` and `seen`, by the shelf's name."""

    _block_type_slug = "etl-test-shelf"

    name: str = Field(default_factory=lambda: uuid.uuid4().hex, description="Whose calls these are.")

    def check(self) -> str:
        """Fine."""
        return "fine"

    @operation
    def take(self, key: str, *, failures: int = 0, error: Exception | None = None) -> str:
        """The thing that `key` names, after so many failures."""
        calls[self.name] += 1
        if calls[self.name] <= failures:
            raise error or TransientError("not yet")
        return f"{self.name}:{key}"

    @operation
    def where(self, key: str = "") -> tuple[str, str | None, str | None]:
        """The key, and the flow run and the task run that this runs in."""
        flow_run, task_run = FlowRunContext.get(), TaskRunContext.get()
        return key, flow_run and flow_run.flow_run.name, task_run and str(task_run.task_run.id)

    @operation
    def keep(self, data: object, **labels: object) -> int:
        """The identity of what arrived."""
        seen[self.name].append(labels)
        return id(data)

    @operation
    def fresh(self) -> str:
        """Something else at each call."""
        return uuid.uuid4().hex

    @operation
    def wait(self, barrier: threading.Barrier) -> str:
        """The name of the thread, once somebody else waits too."""
        barrier.wait(timeout=10)
        return threading.current_thread().name

    @operation
    def take_twice(self, key: str) -> tuple:
        """An operation that calls another one."""
        return self.where(key), self.where(key)

    def fix(self, arguments: dict) -> dict:
        """The arguments with an identity of the call."""
        return arguments | {"identity": arguments.get("identity") or uuid.uuid4().hex}

    @operation(prepare=fix)
    def save_once(self, key: str, *, identity: str | None = None) -> str | None:
        """The identity, which every try is to share."""
        seen[key].append(identity)
        if len(seen[key]) < 3:
            raise TransientError("not yet")
        return identity


class Upper(Shelf):
    """A shelf that shouts."""

    _block_type_slug = "etl-test-upper-shelf"

    @operation
    def take(self, key: str, *, failures: int = 0, error: Exception | None = None) -> str:
        """Louder."""
        return Shelf.take(self, key, failures=failures, error=error).upper()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(retry=AT_ONCE)


def task_runs(flow_run_name: str, count: int = 1) -> list:
    """The task runs that Prefect's API has of a flow run, once it has so many and all have ended."""
    deadline = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while True:
            named = FlowRunFilter(name=FlowRunFilterName(any_=[flow_run_name]))
            found = client.read_task_runs(flow_run_filter=named, limit=200, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
            if len(found) >= count and all(each.state and each.state.is_final() for each in found):
                return found
            assert time.monotonic() < deadline, "the API did not show the task runs in time"
            threading.Event().wait(0.1)


# Outside a flow


def test_a_plain_call_needs_no_server(shelf):
    """In a script or a notebook it is a plain call, in no run of any kind."""
    assert shelf.take("key") == f"{shelf.name}:key"
    assert shelf.where("key") == ("key", None, None)


def test_a_plain_call_is_retried(shelf):
    """Under the block's own policy."""
    assert shelf.take("key", failures=3) == f"{shelf.name}:key"
    assert calls[shelf.name] == 4


def test_a_plain_call_gives_up(shelf):
    """After as many tries as the policy says, with the last error."""
    with pytest.raises(TransientError, match="not yet"):
        shelf.take("key", failures=99)
    assert calls[shelf.name] == 4


@pytest.mark.parametrize("error", [AuthError("wrong password"), AmbiguousError("perhaps"), ValueError("a bug")])
def test_a_plain_call_does_not_retry_what_retrying_cannot_help(shelf, error):
    """Terminal errors, ambiguous ones and bugs arrive at once."""
    with pytest.raises(type(error)):
        shelf.take("key", failures=99, error=error)
    assert calls[shelf.name] == 1


def test_options_are_for_one_call(shelf):
    """`with_options(retries=...)` changes that call, and no other."""
    with pytest.raises(TransientError):
        shelf.take.with_options(retries=0)("key", failures=1)
    assert calls[shelf.name] == 1
    calls.clear()
    assert shelf.take("key", failures=1)


@pytest.mark.parametrize(
    ("delays", "waits"), [([0.02, 0.03], [0.02, 0.03, 0.03]), (0.01, [0.01] * 3), (lambda n: [0.01 * n], [0.03] * 3)]
)
def test_waits_that_a_caller_gives_take_the_place_of_the_backoff(monkeypatch, shelf, delays, waits):
    """As Prefect's tasks have them: the last one stands for all more."""
    waited = []
    monkeypatch.setattr(retry.call_with_retry, "__kwdefaults__", {"sleep": waited.append})
    with pytest.raises(TransientError):
        shelf.take.with_options(retries=3, retry_delay_seconds=delays)("key", failures=99)
    assert waited == waits


def test_a_service_that_asks_for_more_gets_it():
    """Its Retry-After holds beside the waits that a caller gives; jitter is applied to those."""
    policy = CallRetries(delays_s=(1, 2), jitter_factor=0.5)
    assert policy.delay_s(1, ThrottledError("busy", 60)) == 60
    assert len({policy.delay_s(2) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": 1}, "with_options() has no option 'retry'; did you mean 'retries'?"),
        ({"assets": ["s3://a"]}, "with_options() has no option 'assets'; did you mean 'asset_deps'?"),
        ({"retries": -1}, "retries is a whole number, 0 or more."),
        ({"retries": "3"}, "retries is a whole number, 0 or more."),
        ({"retry_delay_seconds": [1, -1]}, "retry_delay_seconds is a number of seconds, 0 or more"),
        ({"retry_delay_seconds": "soon"}, "retry_delay_seconds is a number of seconds, 0 or more"),
        ({"retry_jitter_factor": -1}, "retry_jitter_factor is a number, 0 or more."),
        ({"retry_condition_fn": "x"}, "retry_condition_fn is a plain function"),
        ({"on_failure": "x"}, "Shelf.take.with_options(): "),
        (
            {"cache_expiration": timedelta(hours=1)},
            "cache_expiration needs a cache_policy or a cache_key_fn beside it.",
        ),
        ({"refresh_cache": True}, "refresh_cache needs a cache_policy or a cache_key_fn beside it."),
        ({"cache_policy": INPUTS, "cache_key_fn": lambda *_: "k"}, "cache_key_fn takes the place of a cache_policy."),
        ({"cache_policy": INPUTS, "persist_result": False}, "A result is cached only where it is kept."),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(shelf, options, message):
    """When it is given, and not at the call."""
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        shelf.take.with_options(**options)


async def test_aio_leaves_the_loop_free(shelf):
    """Two awaited operations run at the same time, in threads, while the loop goes on."""
    barrier = threading.Barrier(3)
    waiting = asyncio.gather(shelf.wait.aio(barrier), shelf.wait.aio(barrier))
    await asyncio.sleep(0)  # the loop is here while both wait for the third
    await asyncio.to_thread(barrier.wait, 10)
    assert threading.current_thread().name not in await waiting


async def test_aio_is_retried(shelf):
    """Under the same policy."""
    assert await shelf.take.aio("key", failures=3) == f"{shelf.name}:key"


def test_two_instances_are_strangers():
    """An operation taken from one instance is never run on another, however they are interleaved."""
    first, second = Shelf(name="first"), Shelf(name="second")
    take_first, take_second = first.take, second.take
    assert [take_first("a"), take_second("a"), take_first("b")] == ["first:a", "second:a", "first:b"]


def test_what_is_prepared_is_the_same_for_every_try(shelf):
    """Arguments fixed before the first try reach each of them."""
    identity = shelf.save_once(shelf.name)
    assert seen[shelf.name] == [identity] * 3


def test_signature_and_help_are_the_methods_own(shelf):
    """Editors and `help()` show what was written, with its types."""
    assert (
        str(inspect.signature(shelf.take))
        == "(key: 'str', *, failures: 'int' = 0, error: 'Exception | None' = None) -> 'str'"
    )
    assert "The thing that `key` names" in pydoc.render_doc(shelf.take)
    assert "The thing that `key` names" in pydoc.render_doc(Shelf)
    assert shelf.take.__name__ == "take"
    assert repr(shelf.take) == "<operation Shelf.take>"


def test_wrong_arguments_are_named(shelf):
    """With the nearest right one, before anything is tried."""
    with pytest.raises(InvalidInputError, match="key"):
        shelf.take()
    with pytest.raises(InvalidInputError, match=r"has no argument 'kye'.*'key'"):
        shelf.take("key", kye="a")
    assert calls[shelf.name] == 0


def test_subclasses_call_the_method_of_their_base():
    """`super()` reaches the plain method, without a retry within the retry."""
    upper = Upper(name="x", retry=AT_ONCE)
    assert upper.take("key", failures=3) == "X:KEY"
    assert calls.pop("x") == 4


def test_a_block_stays_picklable(shelf):
    """Blocks with operations go to process pools, and so do the operations."""
    copy = pickle.loads(pickle.dumps(shelf))  # noqa: S301
    assert copy.take("key") == shelf.take("key")


# In a flow


@pytest.mark.usefixtures("prefect_server")
def test_in_a_flow_it_is_a_task_run(shelf):
    """Named after class and method, in the API with its state."""

    @flow
    def one() -> tuple:
        return shelf.where("key")

    key, flow_run, task_run = one()
    assert key == "key"
    (run,) = task_runs(flow_run)
    assert str(run.id) == task_run
    assert run.name == "where key"
    assert run.state.is_completed()


@pytest.mark.usefixtures("prefect_server")
def test_in_a_flow_it_is_retried_in_sight(shelf):
    """Under the same policy, as retries of the task run."""

    @flow
    def retried() -> tuple[str, str]:
        return shelf.take("key", failures=3), FlowRunContext.get().flow_run.name

    result, flow_run = retried()
    assert result == f"{shelf.name}:key"
    (run,) = task_runs(flow_run)
    assert run.run_count == 4


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("policy", "error", "tries"),
    [
        (AT_ONCE, TransientError("not yet"), 4),
        (AT_ONCE, AuthError("wrong password"), 1),
        (AT_ONCE, AmbiguousError("perhaps"), 1),
        (RetryPolicy(first_delay_s=0, attempts=1), TransientError("not yet"), 1),
        (RetryPolicy(first_delay_s=0, deadline_s=0), TransientError("not yet"), 1),
        (RetryPolicy(deadline_s=10), ThrottledError("come back later", 3600), 1),
    ],
)
def test_in_a_flow_it_gives_up_as_elsewhere(policy, error, tries):
    """The same errors, attempts and deadline as in a plain call."""

    def call(shelf: Shelf) -> str:
        return shelf.take("key", failures=99, error=error)

    for caller in (call, flow(call, validate_parameters=False)):
        shelf = Shelf(retry=policy)
        with pytest.raises(type(error)):
            caller(shelf)
        assert calls[shelf.name] == tries


@pytest.mark.usefixtures("prefect_server")
def test_in_a_flow_the_service_says_how_long_to_wait(shelf):
    """Retry-After is the wait that Prefect schedules."""

    @flow
    def throttled() -> str:
        shelf.take("key", failures=1, error=ThrottledError("slow down", 0.2))
        return FlowRunContext.get().flow_run.name

    (run,) = task_runs(throttled())
    with get_client(sync_client=True) as client:
        states = client.read_task_run_states(run.id)
    (waiting,) = [each for each in states if each.type == StateType.SCHEDULED]
    wait_s = (waiting.state_details.scheduled_time - waiting.timestamp).total_seconds()
    assert wait_s == pytest.approx(0.2, abs=0.1)


@pytest.mark.usefixtures("prefect_server")
def test_submit_and_map(shelf):
    """Futures, and a call for each item, each as a task run."""

    @flow
    def fan_out() -> tuple:
        future = shelf.take.submit("one")
        mapped = shelf.take.map(["two", "three"], failures=unmapped(0))
        return future.result(), mapped.result(), FlowRunContext.get().flow_run.name

    one, several, flow_run = fan_out()
    assert one == f"{shelf.name}:one"
    assert several == [f"{shelf.name}:two", f"{shelf.name}:three"]
    assert len(task_runs(flow_run, 3)) == 3


@pytest.mark.usefixtures("prefect_server")
def test_futures_are_taken_as_arguments(shelf):
    """The result of one operation feeds the next one, as with any task."""

    @flow
    def chained() -> str:
        return shelf.take.submit(shelf.take.submit("a")).result()

    assert chained() == f"{shelf.name}:{shelf.name}:a"


@pytest.mark.usefixtures("prefect_server")
def test_two_instances_are_strangers_in_a_flow():
    """Interleaved submits of two instances each run on their own."""
    first, second = Shelf(name="first"), Shelf(name="second")

    @flow
    def both() -> list:
        futures = [each.take.submit(str(number)) for number in range(5) for each in (first, second)]
        return [future.result() for future in futures]

    assert both() == [f"{name}:{number}" for number in range(5) for name in ("first", "second")]


@pytest.mark.usefixtures("prefect_server")
def test_inside_a_task_it_is_a_plain_call(shelf):
    """One retry layer, one task run: neither a task nor an operation makes another one of it."""

    @task
    def outer() -> tuple:
        return shelf.where("key")

    @flow
    def nested() -> tuple:
        return outer(), shelf.take_twice("key"), FlowRunContext.get().flow_run.name

    in_task, in_operation, flow_run = nested()
    assert len(task_runs(flow_run, 2)) == 2
    assert in_task[2] is not None
    assert in_operation[0] == in_operation[1]


@pytest.mark.usefixtures("prefect_server")
def test_an_async_flow_awaits_operations_at_the_same_time(shelf):
    """As task runs that leave the loop free: two that wait for each other both end."""
    barrier = threading.Barrier(2)

    @flow
    async def both() -> tuple:
        threads = await asyncio.gather(shelf.wait.aio(barrier), shelf.wait.aio(barrier))
        return threads, await shelf.take.aio("key", failures=3), FlowRunContext.get().flow_run.name

    with warnings.catch_warnings():
        # Prefect 3.8 leaves a client open that its async engine asks for the result storage.
        warnings.simplefilter("ignore", ResourceWarning)
        threads, taken, flow_run = asyncio.run(both())
        gc.collect()
    assert len(set(threads)) == 2
    assert taken == f"{shelf.name}:key"
    assert len(task_runs(flow_run, 3)) == 3


@pytest.mark.usefixtures("prefect_server")
def test_a_large_table_costs_nothing_to_pass(shelf):
    """100 MB of Arrow arrive as the same object: not walked, not hashed, not copied."""
    table = pa.table({"number": pa.array(range(12_500_000), pa.int64())})
    assert table.nbytes >= 100_000_000

    @flow
    def passes() -> int:
        return shelf.keep(table)

    assert passes() == id(table)


@pytest.mark.usefixtures("prefect_server")
def test_many_rows_are_not_walked(shelf):
    """A long list arrives as the same object; Prefect would look at every item of it."""
    rows = [{"number": number} for number in range(2000)]

    @flow
    def passes() -> tuple:
        return shelf.keep(rows, source="here"), shelf.keep.submit(rows).result()

    assert passes() == (id(rows), id(rows))
    assert seen[shelf.name] == [{"source": "here"}, {}]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("how", ["call", "submit", "map"])
def test_what_is_prepared_is_the_same_for_every_try_of_a_task_run(shelf, how):
    """However it is called, the tries of one task run share what was fixed before the first one."""
    key = f"{shelf.name}-{how}"

    @flow
    def saves() -> str:
        match how:
            case "call":
                return shelf.save_once(key)
            case "submit":
                return shelf.save_once.submit(key).result()
        return shelf.save_once.map([key]).result()[0]

    assert seen[key] == [saves()] * 3


@pytest.mark.usefixtures("prefect_server")
def test_prefects_own_calls_are_no_task_runs(shelf):
    """Prefect passes `_sync` to a block that holds its results; that call makes no task run."""

    @flow
    def stores() -> tuple:
        return shelf.where("key", _sync=True)

    assert stores()[2] is None


def test_an_operation_is_bound_per_instance(shelf):
    """What a block hands out is bound to it; on the class the descriptor itself is found."""
    assert isinstance(shelf.take, BoundOperation)
    assert isinstance(Shelf.__dict__["take"], Operation)
    assert Shelf.take is Shelf.__dict__["take"]


@pytest.mark.parametrize(
    "options",
    [
        {"cache_policy": INPUTS},
        {"cache_policy": TASK_SOURCE + INPUTS},
        {"cache_key_fn": lambda _, inputs: f"key-{inputs['path']}"},
    ],
    ids=["INPUTS", "TASK_SOURCE and INPUTS", "cache_key_fn"],
)
def test_a_cached_result_belongs_to_its_block_and_operation(tmp_path, options):
    """Two stores, two databases, and two methods with the same arguments never answer for each other."""
    for name in "ab":
        LocalFiles(basepath=str(tmp_path / name)).write_path("k", name.encode())
        with DuckDB(path=str(tmp_path / f"{name}.duckdb")) as warehouse:
            warehouse.load([{"x": name}], "k")

    @flow
    def run():
        stores = [LocalFiles(basepath=str(tmp_path / name)) for name in "ab"]
        found = [store.read_path.with_options(persist_result=True, **options)("k") for store in (*stores, *stores)]
        assert found == [b"a", b"b", b"a", b"b"]
        assert stores[0].exists.with_options(persist_result=True, **options)("k") is True
        stores[0].write_path("k", b"new")
        assert stores[0].read_path.with_options(persist_result=True, **options)("k") == b"a"  # it is a cache
        slow = stores[0].model_copy(update={"retry": RetryPolicy(attempts=1)})
        assert slow.read_path.with_options(persist_result=True, **options)("k") == b"a"
        if "cache_key_fn" not in options:
            blocks = [DuckDB(path=str(tmp_path / f"{name}.duckdb")) for name in "ab"]
            tables = [block.read_table.with_options(persist_result=True, **options)("k") for block in blocks]
            assert [table["x"].to_pylist() for table in tables] == [["a"], ["b"]]

    run()


def test_the_identity_of_a_cached_result_holds_no_secret():
    """Another password is the same place; databases in memory are places of their own."""
    one, other = (Postgres(host="h", password=password) for password in ("s3cret", "0ther"))
    assert one.cache_identity() == other.cache_identity()
    assert "s3cret" not in one.cache_identity()
    assert one.cache_identity() != one.model_copy(update={"database": "d"}).cache_identity()
    assert one.cache_identity() == one.model_copy(update={"retry": RetryPolicy(attempts=1)}).cache_identity()
    memory = DuckDB()
    assert memory.cache_identity() == memory.cache_identity() != DuckDB().cache_identity()
    buckets = [
        S3Bucket(bucket_name="raw-b", credentials=AwsCredentials(endpoint_url=f"http://{host}")) for host in "xy"
    ]
    assert buckets[0].cache_identity() != buckets[1].cache_identity()


# Prefect's options


KEPT = {"persist_result": True, "result_serializer": "json"}
OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"name": "of mine"},
    "description": {"description": "of mine"},
    "tags": {"tags": ["of mine"]},
    "version": {"version": "of mine"},
    "cache_policy": {"cache_policy": INPUTS},
    "cache_key_fn": {"cache_key_fn": lambda *_: "key"},
    "cache_expiration": {"cache_policy": INPUTS, "cache_expiration": timedelta(0)},
    "refresh_cache": {"cache_policy": INPUTS, "refresh_cache": True},
    "cache_result_in_memory": {"cache_policy": INPUTS, "cache_result_in_memory": False},
    "result_storage_key": {"result_storage_key": "of-mine"},
    "result_storage": {},
    "result_serializer": KEPT,
    "persist_result": KEPT,
    "task_run_name": {"task_run_name": "take {key}"},
    "retries": {"retries": 1},
    "retry_delay_seconds": {"retries": 1, "retry_delay_seconds": [0.01]},
    "retry_jitter_factor": {"retries": 1, "retry_delay_seconds": 0.01, "retry_jitter_factor": 0.1},
    "retry_condition_fn": {"retry_condition_fn": lambda *_: False},
    "timeout_seconds": {"timeout_seconds": 0.2},
    "log_prints": {"log_prints": True},
    "on_completion": {"on_completion": [lambda *_: hooked.append("completion")]},
    "on_failure": {"on_failure": [lambda *_: hooked.append("failure")]},
    "on_running": {"on_running": [lambda *_: hooked.append("running")]},
    "on_rollback": {"on_rollback": [lambda *_: hooked.append("rollback")]},
    "on_commit": {"on_commit": [lambda *_: hooked.append("commit")]},
    "viz_return_value": {"viz_return_value": "of mine"},
    "asset_deps": {"asset_deps": ["s3://of/mine"]},
}
hooked: list[str] = []


def test_every_option_of_prefects_tasks_is_handed_on(shelf):
    """One that Prefect adds has to be looked at here."""
    assert set(OPTIONS) == set(TaskOptions.__annotations__)
    ours = OF_RETRIES | {"cache_key_fn", "cache_policy", "result_storage", "on_rollback", "on_commit"}
    for name in set(OPTIONS) - ours:
        task = shelf.take.with_options(**OPTIONS[name])._task()
        kept = getattr(task, f"{name}_hooks", None) or getattr(task, name)
        wanted = OPTIONS[name][name]
        assert kept == (set(wanted) if name == "tags" else wanted) or name == "asset_deps", name


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore:Logger .* attempted to send logs to the API without a flow run id")
def test_options_hold_in_a_flow_and_outside_of_one(shelf):
    """An option that only a task run has makes a call one, so that nothing is ignored in a script."""
    hooks = ("on_completion", "on_failure", "on_running", "on_commit")
    wanted = {name: value for name in hooks for name, value in OPTIONS[name].items()}

    def calls_of_each() -> None:
        hooked.clear()
        assert shelf.take.with_options(**wanted)("key") == f"{shelf.name}:key"
        assert sorted(hooked) == ["commit", "completion", "running"]
        calls.clear()
        with pytest.raises(TransientError):
            shelf.take.with_options(retry_condition_fn=lambda *_: False)("key", failures=1)
        assert calls[shelf.name] == 1
        calls.clear()
        again = {"retry_condition_fn": lambda _, __, state: "perhaps" in str(state.data), "retries": 2}
        assert shelf.take.with_options(**again)("key", failures=2, error=AuthError("perhaps"))
        with pytest.raises(Exception, match="timed out"):
            shelf.wait.with_options(timeout_seconds=0.2, retries=0)(threading.Barrier(2))
        key = uuid.uuid4().hex
        for options in ({"cache_key_fn": lambda *_: key}, {"result_storage_key": key}):
            names = {shelf.fresh.with_options(**options)() for _ in range(3)}
            assert len(names) == 1
        expired = {"cache_policy": TASK_SOURCE, "cache_expiration": timedelta(0)}
        assert len({shelf.fresh.with_options(**expired)() for _ in range(2)}) == 2

    calls_of_each()
    flow(calls_of_each)()
