"""DbtProject: the commands of a dbt project, their attempts, and what each attempt takes.

What has to be done again is told to dbt as `dbt retry` is: by the results of the invocation before.
https://docs.getdbt.com/reference/commands/retry
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import JobBlock
from prefect.types import SecretDict
from pydantic import Field, PrivateAttr

from blocks.base.artifacts import keep_markdown
from blocks.base.block import ConnectorBlock, resolve
from blocks.base.errors import InvalidInputError, JobFailedError, NotFoundError, TransientError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.jobs.job import fix_token
from blocks.jobs.node_runs import NodeRuns
from blocks.warehouses.warehouse import Warehouse
from connectors.dbt.log import ARTIFACTS, HOOK, Watch, failed_hooks, read_json
from connectors.dbt.process import Place, artifacts_folder, invoke, project_folder, publish, workplace
from connectors.dbt.request import NEEDS_NODES, RESUMED, Call, Command, Request, RetryNodes, nodes_to_retry
from connectors.dbt.run import DbtRun
from connectors.shared.dbt import DbtFailedError, DbtResult, DbtTransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REMEMBERED_CALLS = 100
"""The most calls to remember whose attempts were given up."""

PARSED = ARTIFACTS["partial_parse"]


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

    project_dir: Path = Field(description="The directory that holds dbt_project.yml; it may be read-only.")
    target: Warehouse | str | None = Field(
        default=None,
        description="The warehouse block to build in, or the name of a saved one such as etl-postgres/shop. Defaults "
        "to what the project's own profiles.yml says.",
    )
    target_name: str | None = Field(
        default=None,
        description="What dbt calls the target: `target.name` in models. Defaults to 'prod' where a warehouse is "
        "given, else to the default of profiles.yml.",
    )
    profiles_dir: Path | None = Field(
        default=None,
        description="The directory of profiles.yml where no warehouse is given. Defaults to the environment variable "
        "DBT_PROFILES_DIR, else the project's directory, else ~/.dbt.",
    )
    threads: int = Field(default=4, ge=1, description="How many nodes run at the same time. Defaults to 4.")
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="How long dbt may run, in seconds; it is stopped after that, with its queries. Defaults to no "
        "limit.",
    )
    retry_nodes: RetryNodes = Field(
        default="transient",
        description="Which failed nodes a retry runs again: those that failed with a transient error, any but failed "
        "tests, or none. Nodes that succeeded never run again. Defaults to transient.",
    )
    executable: Path | None = Field(
        default=None,
        description="The dbt command to run, such as the one of another virtual environment. Defaults to the dbt that "
        "is installed beside this package.",
    )
    target_path: Path | None = Field(
        default=None,
        description="The directory that keeps dbt's artifacts. Defaults to 'target' in the project's directory, or to "
        "a directory in Prefect's home where that is read-only.",
    )
    environment: SecretDict | None = Field(
        default=None,
        description="Environment variables for dbt, in addition to those of this process; `env_var` reads them in the "
        "project.",
    )

    _clock: Any = PrivateAttr(default=time.monotonic)

    # --- commands ---

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return fix_token(arguments)

    @operation(prepare=_fix_token)
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
        """Run `dbt build`: seeds, models, snapshots and tests in the order of their dependencies.

        Args:
            select: What to build, in dbt's syntax, such as "orders+" or "tag:daily"; by default everything.
            exclude: What to leave out of that.
            vars: The project's variables. They are written into dbt's artifacts, so secrets do not belong there.
            full_refresh: Whether incremental models and seeds are made anew.
            raise_on_failure: Whether a failed node is an error; else the result says it.
            token: Names this call, so that its next attempt knows of the one before. By default each call has its own.

        Raises:
            DbtFailedError: A node failed, or dbt took longer than `timeout_s`; `result` says how each node ended.
            DbtTransientError: Nodes failed with something that passes, and the attempts are used up.
            InvalidInputError: The project is wrong, or nothing is selected.
        """
        return self._run(Request("build", select, exclude, vars, full_refresh), token, raise_on_failure)

    @operation(prepare=_fix_token)
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
        """Run `dbt run`: the models only. The arguments and errors are those of `build`."""
        return self._run(Request("run", select, exclude, vars, full_refresh), token, raise_on_failure)

    @operation(prepare=_fix_token)
    def test(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """Run `dbt test`. The arguments and errors are those of `build`."""
        return self._run(Request("test", select, exclude, vars), token, raise_on_failure)

    @operation(prepare=_fix_token)
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
        """Run `dbt seed`, which loads the project's CSV files. The arguments and errors are those of `build`."""
        return self._run(Request("seed", select, exclude, vars, full_refresh), token, raise_on_failure)

    @operation(prepare=_fix_token)
    def snapshot(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """Run `dbt snapshot`. The arguments and errors are those of `build`."""
        return self._run(Request("snapshot", select, exclude, vars), token, raise_on_failure)

    @operation(prepare=_fix_token)
    def source_freshness(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """Run `dbt source freshness`: the age of the sources. The arguments and errors are those of `build`."""
        return self._run(Request("source freshness", select, exclude, vars), token, raise_on_failure)

    @operation(prepare=_fix_token)
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
        """Run `dbt compile`: the SQL of each node, in the artifact `compiled`. Arguments as with `build`."""
        return self._run(Request("compile", select, exclude, vars, full_refresh), token, raise_on_failure)

    @operation(prepare=_fix_token)
    def docs_generate(
        self,
        select: str | Sequence[str] = (),
        *,
        exclude: str | Sequence[str] = (),
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """Run `dbt docs generate`: the artifacts `catalog` and `docs`. Arguments as with `build`."""
        return self._run(Request("docs generate", select, exclude, vars), token, raise_on_failure)

    @operation(prepare=_fix_token)
    def retry_failed(self, *, raise_on_failure: bool = True, token: str = "") -> DbtResult:
        """Run what failed or was skipped in the last command, as its artifacts have it.

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

    @operation(prepare=_fix_token)
    def deps(self, *, token: str = "") -> None:  # noqa: ARG002 (every command has one)
        """Install the packages that the project asks for into its directory, which has to be writable."""
        with self._workplace() as place:
            self._invoke(place, ["deps"], NodeRuns(self.logger, tool="dbt"), Watch("deps"))

    @operation
    def check(self) -> str:
        """Parse the project and have dbt reach its warehouse, and say so in one sentence."""
        runs = NodeRuns(self.logger, tool="dbt")
        with self._workplace() as place:
            self._invoke(place, ["debug"], runs, watch := Watch("debug"))
            self._invoke(place, ["parse", f"--threads={self.threads}"], runs, watch)
        return f"{self._name} can be parsed, and {watch.version or 'dbt'} reaches {place.where}."

    @operation(prepare=_fix_token)
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
        """Start the command, and return without waiting for it. It ends with this process at the latest.

        Args:
            command: What dbt is to do.
            select: As with `build`.
            exclude: As with `build`.
            vars: As with `build`.
            full_refresh: As with `build`.
            token: As with `build`.
        """
        request = Request(command, select, exclude, vars, full_refresh)
        return DbtRun(request, lambda: self._run(request, token, raise_on_failure=True), self.retry)

    # --- what they share ---

    @property
    def _name(self) -> str:
        return self.project_dir.expanduser().resolve().name

    @live
    def _calls(self) -> dict[str, Call]:
        """What is known of the calls that may get another attempt, by token."""
        return {}

    def warehouse(self) -> Warehouse | None:
        """Return the warehouse that is built in, None where the project's own profile says where."""
        return None if self.target is None else resolve(self.target, Warehouse)

    def _artifacts_folder(self) -> Path:
        """Where artifacts are kept."""
        return artifacts_folder(self.project_dir, self.target_path)

    def _run(self, request: Request, token: str, raise_on_failure: bool) -> DbtResult:
        call = self._calls.setdefault(token, Call())
        for forgotten in list(self._calls)[:-REMEMBERED_CALLS]:
            del self._calls[forgotten]
        try:
            with self._workplace() as place:
                result = self._attempt(request, call, place)
        except TransientError:
            call.attempts += 1
            raise
        except BaseException:
            self._calls.pop(token, None)
            raise
        call.attempts += 1
        keep_markdown(f"dbt {request.command} {self._name}", result.markdown(), description=f"dbt {request.command}")
        self.logger.info("%s", result)
        if call.again and (call.attempts < self.retry.attempts or raise_on_failure):
            again = [str(node) for node in result.failures if node.unique_id in call.again]
            message = f"dbt {request.command} of {self._name} did not get through: {'; '.join(again)}"
            if call.attempts < self.retry.attempts or all(node.is_transient for node in result.failures):
                raise DbtTransientError(message, result)
        self._calls.pop(token, None)
        return result.raise_for_failures() if raise_on_failure else result

    def _attempt(self, request: Request, call: Call, place: Place) -> DbtResult:
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
            except JobFailedError as stopped:
                error = stopped
        call.take(read_json(place.target / ARTIFACTS["run_results"]))
        call.nodes = {key: node for key, node in call.nodes.items() if node.resource_type != HOOK} | failed_hooks(
            call.results
        )
        artifacts = publish(place.target, folder, call.results if request.command in RESUMED else None)
        result = DbtResult(
            project=self._name,
            command=request.command,
            target=place.where,
            nodes=tuple(call.nodes.values()),
            attempts=call.attempts + 1,
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
        manifest = read_json(place.target / ARTIFACTS["manifest"]) or {}
        call.again = nodes_to_retry(request, call, manifest, self.retry_nodes)
        return result

    def _invoke(self, place: Place, arguments: list[str], runs: NodeRuns, watch: Watch) -> None:
        invoke(place, arguments, runs, watch, executable=self.executable, timeout_s=self.timeout_s, clock=self._clock)

    def _workplace(self) -> contextlib.AbstractContextManager[Place]:
        return workplace(
            project_folder(self.project_dir),
            self.warehouse(),
            profiles_dir=self.profiles_dir,
            target_name=self.target_name,
            threads=self.threads,
            variables=self.environment,
        )
