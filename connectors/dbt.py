"""dbt: a project of models, seeds, snapshots and tests, built in a warehouse by dbt itself, in a process of its own.

* dbt is never imported here: its runner keeps state between invocations, and cannot be stopped from outside.
* What it does is read from its log while it runs. https://docs.getdbt.com/reference/events-logging
* What has to be done again is told to it as `dbt retry` is: by the results of the invocation before.
  https://docs.getdbt.com/reference/commands/retry
* Secrets go to it in its environment, under a prefix whose values it keeps out of all that it writes.
  https://docs.getdbt.com/reference/dbt-jinja-functions/env_var#secrets
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from prefect.blocks.abstract import JobBlock
from prefect.blocks.abstract import JobRun as PrefectJobRun
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_HOME
from prefect.types import SecretDict
from pydantic import Field, PrivateAttr, SecretStr

from blocks.artifacts import keep_markdown
from blocks.block import ConnectorBlock, resolve
from blocks.dbt_log import ARTIFACTS, DBT, HOOK, Package, Watch, failed_hooks, read_json
from blocks.dbt_results import (
    DbtFailedError,
    DbtNode,
    DbtResult,
    DbtTransientError,
)
from blocks.errors import (
    InvalidInputError,
    MissingDriverError,
    NotFoundError,
    TerminalError,
    TransientError,
)
from blocks.file_io import part_file
from blocks.job import interruptible_by, pause, watched_operation
from blocks.node_runs import NodeRuns
from blocks.operation import operation
from blocks.process import Process
from blocks.retry import RetryPolicy, call_with_retry
from blocks.warehouse import Warehouse

Command = Literal["build", "run", "test", "seed", "snapshot", "source freshness", "compile", "docs generate"]


ADAPTERS = {
    "bigquery": Package("dbt-bigquery", extra="dbt-bigquery"),
    "duckdb": Package("dbt-duckdb", extra="dbt"),
    "postgres": Package("dbt-postgres", extra="dbt-postgres"),
    "snowflake": Package("dbt-snowflake", extra="dbt-snowflake"),
}

START = "from dbt.cli.main import cli; cli()"
SECRET = "DBT_ENV_SECRET_ETL_"  # noqa: S105 (a prefix)
PROFILE = "etl"
GRACE_S = 10.0
"""How long dbt may take to end its queries on the server, before it is killed."""

MOST_CALLS = 100
"""So many calls whose tries were given up are remembered at most."""

FULL_REFRESH = ("build", "run", "seed", "compile")
RESUMED = ("build", "run", "test", "seed", "snapshot")
"""The commands of which only a part may be done again; the others only read."""
NEEDS_NODES = (*RESUMED, "source freshness")
PARSED = ARTIFACTS["partial_parse"]

# A DuckDB file is open in one process at a time: builds of this process take turns.
_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class DbtProject(ConnectorBlock, JobBlock):  # type: ignore[type-arg]  # of DbtResult; pydantic would make a class of it
    """A dbt project, whose nodes are task runs, and of which a retry takes only what failed and what that kept back.

    Example:
        Load a saved project and build it:
        ```python
        from connectors.dbt import DbtProject

        project = DbtProject.load("BLOCK_NAME")
        print(project.build())
        ```
    """

    _block_type_name: ClassVar[str] = "ETL dbt Project"
    _block_type_slug: ClassVar[str] = "etl-dbt-project"
    _logo_url: ClassVar[Any] = (
        "https://images.ctfassets.net/gm98wzqotmnx/5zE9lxfzBHjw3tnEup4wWL/"
        "9a001902ed43a84c6c96d23b24622e19/dbt-bit_tm.png?h=250"
    )
    _documentation_url: ClassVar[Any] = "https://docs.getdbt.com/docs/build/projects"

    project_dir: Path = Field(description="The directory with dbt_project.yml; it may be read-only.")
    target: Warehouse | str | None = Field(
        default=None,
        description="The warehouse block to build in, or the name of a saved one such as etl-postgres/shop; empty "
        "means that the project's own profiles.yml says where.",
    )
    target_name: str | None = Field(
        default=None,
        description="What dbt calls the target: `target.name` in models; 'prod' where a warehouse is given, else the "
        "default of profiles.yml.",
    )
    profiles_dir: Path | None = Field(
        default=None,
        description="The directory of profiles.yml where no warehouse is given; empty means DBT_PROFILES_DIR, else the "
        "project's directory, else ~/.dbt.",
    )
    threads: int = Field(default=4, ge=1, description="How many nodes run at the same time.")
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="How long dbt may run, in seconds; it is stopped after that, with its queries. By default it may "
        "run as long as it takes.",
    )
    retry_nodes: Literal["transient", "any", "never"] = Field(
        default="transient",
        description="Which failed nodes are tried again: those that failed with something that passes, any but failed "
        "tests, or none. Nodes that succeeded never are.",
    )
    executable: Path | None = Field(
        default=None,
        description="The dbt command to run, such as the one of another virtual environment; by default the dbt "
        "that is installed beside this package.",
    )
    target_path: Path | None = Field(
        default=None,
        description="The directory that keeps dbt's artifacts; by default 'target' in the project's directory, or a "
        "directory in Prefect's home where that is read-only.",
    )
    environment: SecretDict | None = Field(
        default=None,
        description="Environment variables for dbt, beside those of this process; `env_var` finds them in the project.",
    )

    _clock: Any = PrivateAttr(default=time.monotonic)

    # --- commands ---

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments if arguments.get("token") else arguments | {"token": uuid.uuid4().hex}

    @functools.partial(watched_operation, prepare="_fix_token")
    def build(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        full_refresh: bool = False,
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt build` did: seeds, models, snapshots and tests in the order of their dependencies.

        Args:
            select: What to take, in dbt's syntax, such as "orders+" or "tag:daily"; by default everything.
            exclude: What to leave out of that.
            vars: The project's variables. They are written into dbt's artifacts, so they are no place for secrets.
            full_refresh: Whether incremental models and seeds are made anew.
            raise_on_failure: Whether a failed node is an error; else the result says it.
            token: Names this call, so that its next try knows of the one before. By default each call has its own.

        Raises:
            DbtFailedError: A node failed, or dbt took longer than `timeout_s`; `result` says how each node ended.
            DbtTransientError: Nodes failed with something that passes, and the tries are used up.
            InvalidInputError: The project is wrong, or nothing is selected.
        """
        return self._run(Request("build", select, exclude, vars, full_refresh), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def run(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        full_refresh: bool = False,
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt run` did: the models only. The arguments and errors are those of `build`."""
        return self._run(Request("run", select, exclude, vars, full_refresh), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def test(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt test` found. The arguments and errors are those of `build`."""
        return self._run(Request("test", select, exclude, vars), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def seed(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        full_refresh: bool = False,
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt seed` loaded of the project's CSV files. The arguments and errors are those of `build`."""
        return self._run(Request("seed", select, exclude, vars, full_refresh), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def snapshot(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt snapshot` kept. The arguments and errors are those of `build`."""
        return self._run(Request("snapshot", select, exclude, vars), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def source_freshness(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt source freshness` found of the age of the sources. Arguments and errors are those of `build`."""
        return self._run(Request("source freshness", select, exclude, vars), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def compile(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        full_refresh: bool = False,
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt compile` made: the SQL of each node, in the artifact `compiled`. Arguments as with `build`."""
        return self._run(Request("compile", select, exclude, vars, full_refresh), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def docs_generate(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """What `dbt docs generate` made: the artifacts `catalog` and `docs`. Arguments as with `build`."""
        return self._run(Request("docs generate", select, exclude, vars), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def retry_failed(self, *, raise_on_failure: bool = True, token: str = "") -> DbtResult:
        """What was done of that which failed or was skipped in the last command, as its artifacts have it.

        It is `dbt retry`, over the artifacts in `target_path`; also failed tests are run again.

        Args:
            raise_on_failure: As with `build`.
            token: As with `build`.

        Raises:
            NotFoundError: There are no artifacts of a command that can be retried.
            DbtFailedError: A node failed again.
        """
        last = read_json(self._artifacts_folder() / ARTIFACTS["run_results"])
        command = (last or {}).get("args", {}).get("which", "")
        if last is None or command not in RESUMED:
            raise NotFoundError(
                f"There are no results in {self._artifacts_folder()} of a command that can be retried. Build first."
            )
        again = {
            row["unique_id"] for row in last["results"] if row["status"] not in ("success", "pass", "warn", "no-op")
        }
        if not again:
            raise InvalidInputError(f"Nothing is to be retried: the last {command} of {self._name} had no failure.")
        call = self._calls.setdefault(token, Call(results=last, again=again))
        call.results = call.results or last
        return self._run(Request(command), token, raise_on_failure)

    @functools.partial(watched_operation, prepare="_fix_token")
    def deps(self, *, token: str = "") -> None:  # noqa: ARG002 (every command has one)
        """Nothing. Installs the packages that the project asks for into its directory, which has to be writable."""
        with self._workplace() as place:
            self._invoke(place, ["deps"], NodeRuns(self.logger, tool="dbt"), Watch("deps"))

    @watched_operation
    def check(self) -> str:
        """One sentence that says that the project can be parsed and that dbt reaches its warehouse."""
        runs = NodeRuns(self.logger, tool="dbt")
        with self._workplace() as place:
            self._invoke(place, ["debug"], runs, watch := Watch("debug"))
            self._invoke(place, ["parse", f"--threads={self.threads}"], runs, watch)
        return f"{self._name} can be parsed, and {watch.version or 'dbt'} reaches {place.where}."

    @functools.partial(operation, prepare="_fix_token")
    def trigger(  # type: ignore[override]  # Prefect's is awaitable
        self,
        command: Command = "build",
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        full_refresh: bool = False,
        token: str = "",
    ) -> DbtRun:
        """The command, started and not waited for. It ends with this process at the latest.

        Args:
            command: What dbt is to do.
            select: As with `build`.
            exclude: As with `build`.
            vars: As with `build`.
            full_refresh: As with `build`.
            token: As with `build`.
        """
        return DbtRun(self, Request(command, select, exclude, vars, full_refresh), token)

    # --- what they share ---

    @property
    def _name(self) -> str:
        return self.project_dir.expanduser().resolve().name

    @property
    def _calls(self) -> dict[str, Call]:
        """What is known of the calls whose next try may come, by token."""
        return self._cached("calls", dict)

    def warehouse(self) -> Warehouse | None:
        """The warehouse that is built in, None where the project's own profile says where."""
        return None if self.target is None else resolve(self.target, Warehouse)

    def _run(self, request: Request, token: str, raise_on_failure: bool) -> DbtResult:
        call = self._calls.setdefault(token, Call())
        for forgotten in list(self._calls)[:-MOST_CALLS]:
            del self._calls[forgotten]
        try:
            with self._workplace() as place:
                result = self._try(request, call, place)
        except TransientError:
            call.tries += 1
            raise
        except BaseException:
            self._calls.pop(token, None)
            raise
        call.tries += 1
        keep_markdown(f"dbt {request.command} {self._name}", result.markdown(), description=f"dbt {request.command}")
        self.logger.info("%s", result)
        if call.again and (call.tries < self.retry.attempts or raise_on_failure):
            again = [str(node) for node in result.failures if node.unique_id in call.again]
            message = f"dbt {request.command} of {self._name} did not get through: {'; '.join(again)}"
            if call.tries < self.retry.attempts or all(node.is_transient for node in result.failures):
                raise DbtTransientError(message, result)
        self._calls.pop(token, None)
        return result.raise_for_failures() if raise_on_failure else result

    def _try(self, request: Request, call: Call, place: Place) -> DbtResult:
        arguments = request.arguments(self.threads)
        if call.again and call.results is not None:
            state = place.folder / "state"
            state.mkdir()
            rows = [row for row in call.results["results"] if row["unique_id"] in call.again]
            (state / ARTIFACTS["run_results"]).write_text(json.dumps(call.results | {"results": rows}), "utf-8")
            arguments = ["retry", f"--state={state}", f"--threads={self.threads}"]
        watch = Watch(request.command, target=place.target, warehouse=place.warehouse, nodes=call.nodes)
        folder = self._artifacts_folder()
        with contextlib.suppress(OSError):
            shutil.copyfile(folder / PARSED, place.target / PARSED)
        with NodeRuns(self.logger, tool="dbt") as runs:
            error = None
            try:
                self._invoke(place, arguments, runs, watch)
            except DbtStoppedError as stopped:
                error = stopped
        call.take(read_json(place.target / ARTIFACTS["run_results"]))
        call.nodes = {key: node for key, node in call.nodes.items() if node.resource_type != HOOK} | failed_hooks(
            call.results
        )
        artifacts = _publish(place.target, folder, call.results if request.command in RESUMED else None)
        result = DbtResult(
            project=self._name,
            command=request.command,
            target=place.where,
            nodes=tuple(call.nodes.values()),
            tries=call.tries + 1,
            artifacts=artifacts,
            started_at=call.started_at,
            finished_at=dt.datetime.now(dt.UTC),
        )
        if error is not None:
            raise DbtFailedError(f"{error} {result}", result)
        if not call.nodes and request.command in NEEDS_NODES:
            raise InvalidInputError(
                f"dbt {request.command} of {self._name} found nothing to do{request.selection}. Check what is selected."
            )
        call.again = self._to_retry(request, call, read_json(place.target / ARTIFACTS["manifest"]) or {})
        return result

    def _to_retry(self, request: Request, call: Call, manifest: dict[str, Any]) -> set[str]:
        """The failed nodes that are worth another try, and the skipped ones that nothing else keeps back."""
        failed = {key: node for key, node in call.nodes.items() if node.is_failed}
        if self.retry_nodes == "never":
            return set()
        again = {
            key
            for key, node in failed.items()
            if node.is_transient
            or (self.retry_nodes == "any" and not (node.resource_type == "test" and node.status == "fail"))
        }
        if not again or request.command not in RESUMED:
            return again
        if not any(node.status == "skipped" for node in call.nodes.values()):  # a hook at the end is not run by itself
            again -= {key for key in again if failed[key].resource_type == HOOK}
        parents = manifest.get("parent_map", {})
        tested = defaultdict(set)
        for key in failed:
            for parent in parents.get(key, ()) if key.startswith(("test.", "unit_test.")) else ():
                tested[parent].add(key)
        for key, node in call.nodes.items():
            if node.status == "skipped":
                above = _ancestors(key, parents)
                causes = {each for each in above if each in failed}.union(*(tested[each] for each in above))
                if causes <= again:
                    again.add(key)
        return again

    def _invoke(self, place: Place, arguments: list[str], runs: NodeRuns, watch: Watch) -> None:
        """Nothing. Runs dbt to its end.

        Raises:
            DbtStoppedError: It took too long.
            ConnectorError: It could not do what it was asked to, apart from single nodes that failed.
        """
        with self._turn(place):
            process = Process(
                [*self._command(place), *FLAGS, *arguments, f"--project-dir={self._directory()}", *place.arguments],
                folder=place.folder,
                environment=place.environment,
                errors=place.folder / "stderr",
                grace_s=GRACE_S,
            )
            try:
                for line in process.lines(timeout_s=self.timeout_s, clock=self._clock):
                    watch.read(line, runs)
            except TimeoutError:
                raise DbtStoppedError(
                    f"dbt took longer than {self.timeout_s:g} s and was stopped; so were its queries."
                ) from None
            finally:
                code = process.close()
        if code == 0 or watch.has_finished:
            return
        raise watch.error(arguments[0], self._name, code, (place.folder / "stderr").read_text("utf-8", "replace"))

    @contextlib.contextmanager
    def _turn(self, place: Place) -> Iterator[None]:
        """One dbt of this process at a time, where the database is a file that only one process can have open."""
        if place.exclusive is None:
            yield
            return
        lock = _turns[place.exclusive]
        while not lock.acquire(timeout=0.1):
            pause(0.001)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _workplace(self) -> Iterator[Place]:
        """A private directory for one invocation, with the profile, and the environment that has its secrets."""
        self._directory()
        warehouse = self.warehouse()
        environment = {**os.environ, **{key: str(value) for key, value in self._own_environment().items()}}
        arguments = []
        exclusive, adapter = None, None
        with tempfile.TemporaryDirectory(prefix="etl-dbt-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            if warehouse is None:
                arguments += [f"--profiles-dir={self.profiles_dir.expanduser().resolve()}"] if self.profiles_dir else []
                arguments += [f"--target={self.target_name}"] if self.target_name else []
                where = f"target {self.target_name}" if self.target_name else "its profile's target"
            else:
                target_name = self.target_name or "prod"
                output = warehouse.dbt_output()
                adapter, where = output["type"], warehouse.uri()
                exclusive = output["path"] if adapter == "duckdb" else None
                text, secrets = profile(output, target_name, self.threads)
                (folder / "profiles.yml").write_text(text, "utf-8")
                environment |= secrets
                arguments += [f"--profiles-dir={folder}", f"--profile={PROFILE}", f"--target={target_name}"]
            for name_, kept in (("DBT_TARGET_PATH", folder / "target"), ("DBT_LOG_PATH", folder / "logs")):
                kept.mkdir()
                environment[name_] = str(kept)
            environment |= {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "PYTHONUNBUFFERED": "1"}
            yield Place(folder, folder / "target", environment, arguments, where, adapter, exclusive, warehouse)

    def _own_environment(self) -> dict[str, Any]:
        return self.environment.get_secret_value() if self.environment else {}

    def _directory(self) -> Path:
        folder = self.project_dir.expanduser().resolve()
        if not (folder / "dbt_project.yml").is_file():
            raise NotFoundError(f"There is no dbt_project.yml in {folder}. Give the directory of a dbt project.")
        return folder

    def _artifacts_folder(self) -> Path:
        """Where artifacts are kept."""
        if self.target_path:
            return self.target_path.expanduser().resolve()
        folder = self._directory() / "target"
        if os.access(folder if folder.exists() else folder.parent, os.W_OK):
            return folder
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        return Path(PREFECT_HOME.value()) / "etl-dbt" / f"{self._name}-{digest}"

    def _command(self, place: Place) -> list[str]:
        """How dbt is called.

        Raises:
            MissingDriverError: It is not installed, or its adapter is not.
        """
        if self.executable:
            path = self.executable.expanduser()
            if not (found := shutil.which(str(path))):
                raise NotFoundError(f"There is no command {path}. Give the path of a dbt, or leave executable empty.")
            return [found]
        for package in (DBT, *([ADAPTERS[place.adapter]] if place.adapter else [])):
            try:
                importlib.metadata.distribution(package.name)
            except importlib.metadata.PackageNotFoundError:
                raise MissingDriverError(
                    f"{package.name} is not installed. Install it with: pip install 'etl-blocks[{package.extra}]'"
                ) from None
        # -P: nothing of the current directory is imported, dbt takes every module called dbt_... for a plugin.
        return [sys.executable, "-P", "-c", START]


FLAGS = ["--log-format=json", "--log-level=debug", "--log-level-file=none", "--no-use-colors"]


class DbtStoppedError(TerminalError):
    """dbt was stopped before its end."""


@dataclass(frozen=True)
class Request:
    """A command of dbt with what it is asked to take."""

    command: str
    select: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()
    vars: Mapping[str, Any] | None = None
    full_refresh: bool = False

    def __post_init__(self) -> None:
        if self.command not in (*NEEDS_NODES, "compile", "docs generate"):
            raise InvalidInputError(f"No command {self.command!r:.50} here. Take one of: {', '.join(NEEDS_NODES)}, ...")
        if self.full_refresh and self.command not in FULL_REFRESH:
            raise InvalidInputError(f"dbt {self.command} has no full_refresh.")

    @property
    def selection(self) -> str:
        """What is selected, for messages."""
        chosen = {"select": _words(self.select), "exclude": _words(self.exclude)}
        return "".join(f" for {name} {' '.join(words)!r}" for name, words in chosen.items() if words)

    def arguments(self, threads: int) -> list[str]:
        """The command line.

        >>> Request("run", "orders+ customers", exclude=["tag:slow"], full_refresh=True).arguments(2)
        ['run', '--threads=2', '--select', 'orders+', 'customers', '--exclude', 'tag:slow', '--full-refresh']
        """
        words = [*self.command.split(), f"--threads={threads}"]
        for name, chosen in (("--select", _words(self.select)), ("--exclude", _words(self.exclude))):
            if any(word.startswith("-") for word in chosen):
                raise InvalidInputError(f"{name[2:]} takes names, and {' '.join(chosen)!r} begins like an option.")
            words += [name, *chosen] if chosen else []
        words += ["--full-refresh"] if self.full_refresh else []
        return words + (["--vars", json.dumps(dict(self.vars))] if self.vars else [])


@dataclass
class Call:
    """What is known of a call from its earlier tries.

    Attributes:
        tries: How many there were.
        results: dbt's results of them all, as `dbt retry` reads them.
        again: The nodes that the next try takes; none means all.
        nodes: How each node ended last.
    """

    tries: int = 0
    results: dict[str, Any] | None = None
    again: set[str] = field(default_factory=set)
    nodes: dict[str, DbtNode] = field(default_factory=dict)
    started_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def take(self, results: dict[str, Any] | None) -> None:
        """Nothing. Newer results take the place of those of the same nodes."""
        if results is None:
            return
        if self.results is None:
            self.results = results
            return
        rows = {row["unique_id"]: row for row in (*self.results["results"], *results["results"])}
        self.results = self.results | {"results": list(rows.values()), "elapsed_time": results.get("elapsed_time", 0.0)}


@dataclass(frozen=True)
class Place:
    """Where one invocation happens."""

    folder: Path
    target: Path
    environment: dict[str, str] = field(repr=False)
    arguments: list[str]
    where: str
    adapter: str | None
    exclusive: str | None
    warehouse: Warehouse | None = field(repr=False)


class DbtRun(PrefectJobRun[DbtResult]):
    """A command of dbt that runs while its caller does something else."""

    def __init__(self, project: DbtProject, request: Request, token: str) -> None:
        self.project = project
        self.request = request
        self._given_up = threading.Event()
        self._outcome: DbtResult | BaseException | None = None
        context = contextvars.copy_context()
        context.run(interruptible_by, self._given_up)
        # The client of the task run that starts this is closed when that ends.
        context.run(SyncClientContext.__var__.set, None)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=context.run, args=(self._work, token), name="etl-dbt", daemon=True)
        self._thread.start()

    @property
    def retry(self) -> RetryPolicy:
        """Its operations only wait: nothing of them is tried again."""
        return RetryPolicy(attempts=1)

    @watched_operation
    def wait_for_completion(self) -> None:  # type: ignore[override]  # Prefect's is awaitable
        """Returns once dbt has ended, however it did; `fetch_result` says how. A wait that is given up stops dbt."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.2)
                pause(0.01)
        except BaseException:
            self._given_up.set()
            self._thread.join()
            raise

    @operation
    def fetch_result(self) -> DbtResult:  # type: ignore[override]  # Prefect's is awaitable
        """What dbt did.

        Raises:
            InvalidInputError: It has not ended.
            DbtFailedError: A node failed, or dbt took too long.
            TerminalError: It was cancelled.
        """
        if self._thread.is_alive():
            raise InvalidInputError("dbt has not ended. Call wait_for_completion() before fetch_result().")
        if isinstance(self._outcome, DbtResult):
            return self._outcome
        if isinstance(self._outcome, Exception):
            raise self._outcome
        raise TerminalError(f"dbt {self.request.command} was cancelled.")

    @operation
    def cancel(self) -> None:
        """Nothing. Stops dbt and its queries, and returns when nothing of it runs any more."""
        self._given_up.set()
        self._thread.join()

    def _work(self, token: str) -> None:
        try:
            self._outcome = call_with_retry(self.project.retry, lambda: self._try(token), sleep=pause)
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            self._outcome = error

    def _try(self, token: str) -> DbtResult:
        return self.project._run(self.request, token, raise_on_failure=True)  # noqa: SLF001 (one of us)


def profile(output: Mapping[str, Any], target_name: str, threads: int) -> tuple[str, dict[str, str]]:
    """The text of a profiles.yml for one output, and the environment that has its secrets.

    >>> text, secrets = profile({"type": "postgres", "password": SecretStr("s3cret")}, "prod", 4)
    >>> json.loads(text)["etl"]["outputs"]["prod"]["password"], secrets
    ("{{ env_var('DBT_ENV_SECRET_ETL_0') }}", {'DBT_ENV_SECRET_ETL_0': 's3cret'})
    """
    secrets: dict[str, str] = {}

    def hidden(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: hidden(each) for key, each in value.items()}
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, str) and "{" in value:  # what looks like a template would be rendered
            text = value
        else:
            return value
        name = f"{SECRET}{len(secrets)}"
        secrets[name] = text
        return f"{{{{ env_var('{name}') }}}}"

    outputs = {target_name: hidden(output) | {"threads": threads}}
    return json.dumps({PROFILE: {"target": target_name, "outputs": outputs}}, indent=1), secrets


def _publish(made: Path, folder: Path, results: dict[str, Any] | None) -> dict[str, Path]:
    """The artifacts by name, each of which is in its place at once and as a whole."""
    kept = {}
    for name, file in ARTIFACTS.items():
        source = made / file
        if source.is_file():
            data = source.read_bytes()
            if name == "run_results" and results is not None:
                data = json.dumps(results).encode()
            kept[name] = _replace(folder / file, data)
        elif source.is_dir():
            for each in sorted(path for path in source.rglob("*") if path.is_file()):
                _replace(folder / each.relative_to(made), each.read_bytes())
            kept[name] = folder / file
    return kept


def _replace(path: Path, data: bytes) -> Path:
    with part_file(path) as part:
        part.write(data)
        part.flush()
        Path(part.name).replace(path)
    return path


def _ancestors(key: str, parents: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(parents.get(key, ()))
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting += parents.get(parent, ())
    return found


def _words(chosen: str | Sequence[str]) -> list[str]:
    return chosen.split() if isinstance(chosen, str) else [word for each in chosen for word in each.split()]
