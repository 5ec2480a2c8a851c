"""`@operation`: a block method that is also a retryable Prefect task.

    rows = warehouse.fetch_all("select 1")          # in a flow: a task run with its retries in the UI
                                                    # elsewhere: a plain call under the same retry policy
    warehouse.fetch_all.submit("select 1")          # a PrefectFuture
    bucket.read_path.map(keys)                      # fan out
    await bucket.read_path.aio(key)                 # awaitable; never blocks the event loop
    await bucket.read_path(key)                     # the same in an async flow or task, for the names of Prefect's
    bucket.read_path.with_options(retries=0)(key)   # for this call only

A task is built for each bound call, because Prefect keeps `self` of a task method on the function that all
instances share, and two instances would both run on the last one used.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable
from pathlib import PurePath
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    overload,
    runtime_checkable,
)

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_logger
from prefect.utilities.annotations import quote
from prefect.utilities.hashing import hash_objects

from blocks.base.arguments import bind, check_arguments
from blocks.base.awaited import AwaitedCall, check_none_dropped, is_awaited_here
from blocks.base.boundary import as_shown, bounded
from blocks.base.call_options import CallOptions
from blocks.base.errors import InvalidInputError
from blocks.base.interruption import interruptible, interruptible_async
from blocks.base.retry import RetryPolicy, call_with_retry, is_transient, retry_if_transient
from blocks.base.runs import OperationTask

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from contextlib import AbstractContextManager
    from typing import Unpack
    from uuid import UUID

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.futures import PrefectFuture, PrefectFutureList
    from prefect.tasks import Task, TaskOptions

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)

Prepare = Callable[[Any, dict[str, Any]], dict[str, Any]]

WORKED_ON = ("table", "path", "prefix", "key", "keys", "from_path", "from_folder", "to_path", "to_folder", "local_path")
"""Arguments that say what an operation works on: the names of tables, files and folders, never a value of a row."""
LONGEST_RUN_NAME = 100

ONE_ATTEMPT = RetryPolicy(attempts=1)

LARGE_LIST = 1_000
"""Prefect walks every item of a task's inputs (9 s for 300,000 rows); longer lists are handed over unwalked."""


class Operation(Generic[P, R]):
    """A block method as a descriptor: on an instance it is a `BoundOperation`, on the class the plain method."""

    def __init__(
        self,
        fn: Callable[Concatenate[Any, P], R],
        prepare: Prepare | None = None,
        *,
        prefects: bool = False,
        in_session: bool = False,
    ) -> None:
        self.fn = fn
        self.prepare = prepare
        self.prefects = prefects
        self.in_session = in_session
        functools.update_wrapper(self, fn)
        self.__signature__ = signature = inspect.signature(fn)
        self.bound_signature = signature.replace(parameters=list(signature.parameters.values())[1:])

    @overload
    def __get__(self, instance: None, owner: type) -> Operation[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundOperation[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Operation[P, R] | BoundOperation[P, R]:
        return self if instance is None else BoundOperation(self, instance)

    def __call__(self, instance: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain method, without retry: for `super()` and for subclasses."""
        return self.fn(instance, *args, **kwargs)


class LoadSaved(Protocol[B_co]):
    """Prefect's `load` of a class of blocks."""

    def __call__(self, name: str, validate: bool = True, client: PrefectClient | None = None) -> B_co:
        """The saved block of that name."""


@runtime_checkable
class HasSession(Protocol):
    """A block whose `with` is a session."""

    @property
    def in_session(self) -> bool:
        """Whether there is one."""

    def joining(self, name: str) -> AbstractContextManager[None]:
        """Within it, what is called runs in the session; outside of a `with` it changes nothing.

        Raises:
            InvalidInputError: The session is another thread's or task's.
        """


class InstanceOperation(Operation[P, R]):
    """An operation of instances whose name means something else on the class: there it is the base class's attribute.

    `Warehouse.load` needs it: `Postgres.load("prod")` loads a saved block, `postgres.load(data, "orders")` loads data.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    @overload  # type: ignore[override]  # on the class it is another method
    def __get__(self, instance: None, owner: type[B]) -> LoadSaved[B]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundOperation[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return getattr(super(self._owner, owner), self.fn.__name__)
        return super().__get__(instance, owner)


@overload
def operation(fn: Callable[Concatenate[Any, P], R], /) -> Operation[P, R]: ...
@overload
def operation(
    *, prepare: Prepare | None = None, prefects: bool = False, in_session: bool = False
) -> Callable[[Callable[Concatenate[Any, P], R]], Operation[P, R]]: ...
def operation(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    prepare: Prepare | None = None,
    prefects: bool = False,
    in_session: bool = False,
) -> Any:
    """Turn a block method into an operation: `@operation`, or `@operation(prepare=_fix_load_id)`.

    Args:
        fn: The method.
        prepare: A method of the block, defined above. It is given the call's arguments (a dict, by parameter name)
            once, before the first attempt, and returns them with everything that has to be the same for every attempt.
            A subclass may override it.
        prefects: Whether Prefect's collections have it under this name. It is awaited then in an async flow or task.
        in_session: Whether it runs in the session that a `with` of the block is (`HasSession`). There it has one
            attempt: nobody else knows what the session held when it was lost.
    """
    options: dict[str, Any] = {"prepare": prepare, "prefects": prefects, "in_session": in_session}
    return Operation(fn, **options) if fn else functools.partial(Operation, **options)


def instance_operation(
    *, prepare: Prepare | None = None
) -> Callable[[Callable[Concatenate[Any, P], R]], InstanceOperation[P, R]]:
    """Turn a block method into an operation of instances; on the class its name is the base class's: `Block.load`."""
    return functools.partial(InstanceOperation, prepare=prepare)


class BoundOperation(Generic[P, R]):
    """An operation of one block instance."""

    def __init__(self, op: Operation[P, R], instance: Any, options: Mapping[str, Any] | None = None) -> None:
        self._op = op
        self._instance = instance
        self._options = CallOptions(options or {})
        functools.update_wrapper(self, op.fn)
        self.__signature__ = op.bound_signature

    @property
    def name(self) -> str:
        """The name of the task in Prefect: `S3Bucket.read_path`."""
        return f"{type(self._instance).__name__}.{self._op.fn.__name__}"

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _bound, (self._instance, self._op.fn.__name__, self._options.given)

    @bounded
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it: as a task run if called in the body of a flow, else as a plain call with the same retries.

        In an async flow or task, under a name of Prefect's, it is awaited: `await bucket.read_path(...)`.

        Prefect itself passes `_sync` to blocks that hold its results; such a call is never a task run.
        """
        sync = kwargs.pop("_sync", None)
        if sync is False or (sync is None and self._op.prefects and is_awaited_here()):
            logger = getattr(self._instance, "logger", None) or get_logger(self.name)
            return cast("R", AwaitedCall(lambda: self.aio(*args, **kwargs), self.name, logger))
        check_none_dropped()
        arguments = self._arguments(args, kwargs)
        with self._joining():
            if sync is None and self._is_task_run:
                return cast("R", self._task()(**_opaque(arguments)))
            return self._call(arguments)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> PrefectFuture[R]:
        """Submit it to the flow's task runner, and return a future of its result."""
        self._check_may_leave("submit")
        check_none_dropped()
        return cast("PrefectFuture[R]", self._task().submit(**_opaque(self._arguments(args, kwargs))))

    def map(self, *args: Any, **kwargs: Any) -> PrefectFutureList[R]:
        """Submit one call for each item of the iterable arguments; wrap constants in `prefect.unmapped`."""
        self._check_may_leave("map")
        check_none_dropped()
        return cast("PrefectFutureList[R]", self._task().map(*args, **kwargs))

    @bounded
    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await it: the work runs in a thread, and the event loop stays free."""
        check_none_dropped()
        arguments = self._arguments(args, kwargs)
        with self._joining():
            if self._is_task_run:
                return cast("R", await self._task(asynchronous=True)(**_opaque(arguments)))
            return await interruptible_async(lambda: self._attempts(arguments))

    def with_options(self, **options: Unpack[TaskOptions]) -> Self:
        """Return the same operation with other options: any that Prefect's `Task.with_options` takes.

        `retries` and the waits between them hold for plain calls too. Any other option is one of a task run, so that a
        call with it is a task run also outside of a flow. `retry_condition_fn` decides in place of the block's own
        rule, which is that only transient errors are retried.

        Raises:
            InvalidInputError: Prefect's tasks have no such option, or it has another form.
        """
        other = type(self)(self._op, self._instance, {**self._options.given, **options})
        try:
            other._task()  # noqa: SLF001 (one of us)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"{self.name}.with_options(): {error}") from None
        return other

    @property
    def _is_task_run(self) -> bool:
        return _in_flow_body() or self._options.need_task_run

    @property
    def _session(self) -> HasSession | None:
        """The block, where this call is one of its session."""
        block = self._instance
        return block if self._op.in_session and isinstance(block, HasSession) and block.in_session else None

    def _joining(self) -> AbstractContextManager[None]:
        block = self._instance
        joins = self._op.in_session and isinstance(block, HasSession)
        return block.joining(self.name) if joins else contextlib.nullcontext()

    def _check_may_leave(self, verb: str) -> None:
        if self._session is not None:
            raise InvalidInputError(
                f"{self.name}.{verb}() would run in another thread, and a `with` block is the session of one. Call "
                f"{self.name}() in it, or {verb} it outside of the `with`."
            )

    @property
    def _policy(self) -> RetryPolicy:
        if self._session is not None:
            return ONE_ATTEMPT
        return self._options.policy(getattr(self._instance, "retry", None) or RetryPolicy())

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = bind(self.__signature__, self.name, args, kwargs, self._op.fn)
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if self.__signature__.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= value
            else:
                arguments[name] = value
        return self._prepared(arguments)

    def _prepared(self, arguments: dict[str, Any]) -> dict[str, Any]:
        check_arguments(self._op.fn, arguments)
        if self._op.prepare is None:
            return arguments
        fixed: dict[str, Any] = getattr(self._instance, self._op.prepare.__name__)(arguments)
        return fixed

    def _call(self, arguments: dict[str, Any]) -> R:
        return interruptible(lambda: self._attempts(arguments))

    def _attempts(self, arguments: dict[str, Any]) -> R:
        return call_with_retry(self._policy, lambda: self._run(arguments))

    def _run(self, arguments: dict[str, Any]) -> R:
        method: Callable[..., R] = self._op.fn
        try:
            return method(self._instance, **arguments)
        except Exception as error:  # noqa: BLE001 (Prefect logs what it becomes)
            found = as_shown(error, self.name, self._instance)
        raise found

    def _task(self, *, asynchronous: bool = False) -> Task[..., Any]:
        policy = self._policy
        started = time.monotonic()
        failed: dict[UUID | None, dict[str, Any]] = {}  # what was prepared for a task run, for its next attempt

        condition = self._options.condition

        def should_retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
            # Prefect honors a plain function only, and reads `retry_delay_seconds` right after asking it.
            delay_s = policy.delay_s(max(run.run_count, 1), cast("BaseException", state.data))
            if not condition(task, run, state) or time.monotonic() - started + delay_s >= policy.deadline_s:
                return False
            task.retry_delay_seconds = [delay_s]
            return True

        def attempt(*args: Any, **kwargs: Any) -> Any:
            arguments = inspect.signature(self._op.fn).bind(self._instance, *args, **kwargs)
            plain = {name: _unquote(value) for name, value in list(arguments.arguments.items())[1:]}
            extra = _keyword_parameter(self._op.fn)
            plain |= plain.pop(extra, {}) if extra else {}
            run = TaskRunContext.get()
            run_id = run.task_run.id if run else None
            fixed = failed.pop(run_id, None) or self._prepared(plain)
            try:
                return self._run(fixed)
            except Exception as error:
                if condition is not retry_if_transient or is_transient(error):
                    failed[run_id] = fixed
                raise

        def body(*args: Any, **kwargs: Any) -> Any:
            return interruptible(lambda: attempt(*args, **kwargs))

        async def async_body(*args: Any, **kwargs: Any) -> Any:
            return await interruptible_async(lambda: attempt(*args, **kwargs))

        function: Any = async_body if asynchronous else body
        functools.update_wrapper(function, self._op.fn)
        del function.__wrapped__
        function.__signature__ = self.__signature__
        options: dict[str, Any] = {
            "name": self.name,
            "task_run_name": self._run_name,
            "retries": policy.attempts - 1,
            "retry_condition_fn": should_retry,
        }
        options |= self._options.of_task(self._own_key)
        return OperationTask(function, **options)

    def _run_name(self, parameters: dict[str, Any]) -> str:
        """Return what the task run does, such as `load orders`."""
        values = (_unquote(parameters.get(name)) for name in WORKED_ON)
        found = next((value for value in values if isinstance(value, str | PurePath) and str(value)), None)
        return self.name if found is None else f"{self._op.fn.__name__} {found}"[:LONGEST_RUN_NAME]

    def _own_key(self, key: str | None) -> str | None:
        """Return the key of a cached result as that of this operation of this block; None where it is not cached.

        Prefect makes keys of a task's inputs and source, and a block is none of its inputs, an operation's source that
        of all operations.
        """
        method: Any = self._op.fn
        whose = self._instance.cache_identity() if hasattr(self._instance, "cache_identity") else repr(self._instance)
        return key and hash_objects(key, whose, self.name, method.__code__.co_code, raise_on_failure=True)


class AsyncName(Generic[P, R]):
    """A name under which an operation is always awaited: `aread_path = AsyncName(read_path)`."""

    def __init__(self, op: Operation[P, R]) -> None:
        self._name = op.fn.__name__
        self.__doc__ = f"Await `{self._name}`; the name is that of Prefect's collections."

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else getattr(instance, self._name).aio


def _bound(instance: Any, name: str, options: Mapping[str, Any]) -> Any:
    return getattr(instance, name).with_options(**options)


def _in_flow_body() -> bool:
    return TaskRunContext.get() is None and FlowRunContext.get() is not None


def _keyword_parameter(fn: Callable[..., Any]) -> str | None:
    kinds = inspect.signature(fn).parameters.items()
    return next((name for name, parameter in kinds if parameter.kind is inspect.Parameter.VAR_KEYWORD), None)


def _opaque(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: quote(value) if isinstance(value, list) and len(value) > LARGE_LIST else value
        for name, value in arguments.items()
    }


def _unquote(value: Any) -> Any:
    return value.unquote() if isinstance(value, quote) else value
