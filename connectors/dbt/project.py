"""DbtProject: the commands of a dbt project, their attempts, and what each attempt takes.

What has to be done again is told to dbt as `dbt retry` is: by the results of the invocation before, or by our record
of one that ended by force. https://docs.getdbt.com/reference/commands/retry
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from prefect.blocks.abstract import JobBlock
from prefect.types import SecretDict
from pydantic import Field, PrivateAttr

from blocks.base.arguments import takes_fields_of
from blocks.base.artifacts import keep_markdown
from blocks.base.block import ConnectorBlock, resolve
from blocks.base.errors import ConnectorError, InvalidInputError, JobFailedError, NotFoundError, TransientError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.jobs.job import fix_token
from blocks.jobs.node_runs import NodeRuns
from blocks.warehouses.warehouse import Warehouse
from connectors.dbt import record
from connectors.dbt.artifacts import ARTIFACTS, artifacts_folder, prepare, project_folder, publish, put, read_json
from connectors.dbt.log import Watch
from connectors.dbt.nodes import HOOK, has_nodes, nodes_of
from connectors.dbt.process import STOPPED_ITSELF, Ended, Place, environment_of, invoke, workplace
from connectors.dbt.request import (
    KINDS,
    LIST,
    NEEDS_NODES,
    RESUMED,
    RUN_OPERATION,
    Call,
    Command,
    CommandOptions,
    Request,
    RetryNodes,
    SelectOptions,
    checked_options,
    nodes_to_retry,
)
from connectors.dbt.run import DbtRun
from connectors.shared.dbt import GOOD, WARNED, DbtFailedError, DbtNode, DbtResult, DbtTransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from connectors.dbt.request import CommandArguments, SelectArguments

REMEMBERED_CALLS = 100
"""The most calls to remember whose attempts were given up."""

LIST_TIMEOUT_S = 120.0
"""How long dbt may take to list what a command that took too long had selected."""
OWN_ARGUMENTS = ("quiet", "write_json", "log_format", "log_format_file", "log_level", "log_level_file", "print", "show")
"""What dbt writes of its command line into its results and the command line of a retry says itself."""


class Outcome(NamedTuple):
    """How an invocation ended.

    Attributes:
        code: dbt's exit code; None where it ended by force.
        nodes: How each node ended.
        results: dbt's results, None where they are not complete.
        error: Why it did not come to its end; empty where it did.
    """

    code: int | None
    nodes: dict[str, DbtNode]
    results: dict[str, Any] | None = None
    error: str = ""


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
    threads: int | None = Field(
        default=None,
        ge=1,
        description="How many nodes run at the same time. Defaults to 4 where a warehouse is given, else to the "
        "threads of profiles.yml.",
    )
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
        description="The directory that keeps dbt's artifacts. Defaults to the environment variable DBT_TARGET_PATH, "
        "else the project's target-path, else 'target' in its directory; to a directory in Prefect's home where that "
        "is read-only.",
    )
    environment: SecretDict | None = Field(
        default=None,
        description="Environment variables for dbt, in addition to those of this process; `env_var` reads them in the "
        "project. Their values are masked in all that is logged, raised and published.",
    )

    _clock: Any = PrivateAttr(default=time.monotonic)

    # --- commands ---

    def _fix_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return fix_token(arguments)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def build(
        self,
        select: str | Sequence[str] | None = (),
        *,
        full_refresh: bool = False,
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt build`: seeds, models, snapshots and tests in the order of their dependencies.

        Args:
            select: What to build, in dbt's syntax, such as "orders+" or "tag:daily"; by default everything.
            full_refresh: Whether incremental models and seeds are made anew.
            **options: What every command takes.

                `exclude`: What to leave out of `select`.

                `vars`: The project's variables. They are written into dbt's artifacts, so secrets do not belong there.

                `selector`: The name of a selector of the project's selectors.yml, in place of `select` and `exclude`.

                `options`: Further options of dbt's command line, such as ["--fail-fast", "--defer", "--state=prod"].

                `raise_on_failure`: Whether a failed node is an error; else the result says it.

                `token`: Names this call, so that its next attempt knows of the one before. By default each call has
                its own.

        Raises:
            DbtFailedError: A node failed, or dbt took longer than `timeout_s`; `result` says how each node ended.
            DbtTransientError: Nodes failed with something that passes, and the attempts are used up.
            InvalidInputError: The project is wrong, or nothing is selected.
        """
        return self._command("build", select, full_refresh, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def run(
        self,
        select: str | Sequence[str] | None = (),
        *,
        full_refresh: bool = False,
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt run`: the models only. The arguments and errors are those of `build`."""
        return self._command("run", select, full_refresh, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def test(
        self,
        select: str | Sequence[str] | None = (),
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt test`. The arguments and errors are those of `build`."""
        return self._command("test", select, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def seed(
        self,
        select: str | Sequence[str] | None = (),
        *,
        full_refresh: bool = False,
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt seed`, which loads the project's CSV files. The arguments and errors are those of `build`."""
        return self._command("seed", select, full_refresh, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def snapshot(
        self,
        select: str | Sequence[str] | None = (),
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt snapshot`. The arguments and errors are those of `build`."""
        return self._command("snapshot", select, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def source_freshness(
        self,
        select: str | Sequence[str] | None = (),
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt source freshness`: the age of the sources. The arguments and errors are those of `build`."""
        return self._command("source freshness", select, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def compile(
        self,
        select: str | Sequence[str] | None = (),
        *,
        full_refresh: bool = False,
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt compile`: the SQL of each node, in the artifact `compiled`. Arguments as with `build`."""
        return self._command("compile", select, full_refresh, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def docs_generate(
        self,
        select: str | Sequence[str] | None = (),
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt docs generate`: the artifacts `catalog` and `docs`. Arguments as with `build`."""
        return self._command("docs generate", select, **options)

    @operation(prepare=_fix_token)
    @takes_fields_of(CommandOptions)
    def clone(
        self,
        state: Path | str,
        select: str | Sequence[str] | None = (),
        *,
        full_refresh: bool = False,
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        """Run `dbt clone`: the relations of another environment in this one, as views or as cheap copies.

        Args:
            state: The directory of the artifacts of that environment; a relative one counts from the project.
            select: What to clone.
            full_refresh: Whether what exists is made anew.
            **options: Those of `build`.
        """
        options["options"] = [*options.get("options", ()), f"--state={state}"]
        return self._command("clone", select, full_refresh, **options)

    @operation(prepare=_fix_token)
    def run_operation(
        self,
        macro: str,
        args: Mapping[str, Any] | None = None,
        *,
        vars: Mapping[str, Any] | None = None,  # noqa: A002 (dbt's name)
        options: Sequence[str] = (),
        raise_on_failure: bool = True,
        token: str = "",
    ) -> DbtResult:
        """Run `dbt run-operation`: a macro by itself. It has one attempt: a macro may have done a part of its work.

        Args:
            macro: The name of the macro.
            args: Its arguments.
            vars: As with `build`.
            options: As with `build`.
            raise_on_failure: As with `build`.
            token: As with `build`.
        """
        if not macro.strip():
            raise InvalidInputError("macro takes the name of a macro of the project.")
        request = Request(RUN_OPERATION, vars=vars, options=options, macro=macro, args=args)
        return self._run(request, token, raise_on_failure)

    @operation(prepare=_fix_token)
    @takes_fields_of(SelectOptions)
    def ls(self, select: str | Sequence[str] | None = (), **options: Unpack[SelectArguments]) -> tuple[str, ...]:
        """Run `dbt ls`, and return the unique_id of each node that is selected. The arguments are those of `build`."""
        request = SelectOptions(**options).request(LIST, select)
        return tuple(node["unique_id"] for node in self._listed(request.listing(), request.vars))

    @operation(prepare=_fix_token)
    def retry_failed(self, *, raise_on_failure: bool = True, token: str = "") -> DbtResult:
        """Run what failed, was skipped or never came to its end in the last command that built or tested something.

        It is `dbt retry`, over the artifacts in `target_path`; also failed tests are run again. Where that command
        ended by force, what it had selected and has not done is run.

        Args:
            raise_on_failure: As with `build`.
            token: As with `build`.

        Raises:
            NotFoundError: There are no artifacts of a command that can be retried.
            InvalidInputError: The last command still runs, or nothing is missing of it.
            DbtFailedError: A node failed again.
        """
        if token not in self._calls:
            self._calls[token] = self._missing()
        call = self._calls[token]
        return self._run(Request((call.results or {})["args"]["which"]), token, raise_on_failure)

    @operation(prepare=_fix_token)
    def deps(self, *, options: Sequence[str] = (), token: str = "") -> None:  # noqa: ARG002 (every command has one)
        """Install the packages that the project asks for into its directory, which has to be writable.

        Args:
            options: Further options of dbt's command line, such as ["--upgrade"].
            token: As with `build`.
        """
        with self._workplace() as place:
            self._complete(place, ["deps", *checked_options(options)])

    @operation
    def check(self) -> str:
        """Parse the project and have dbt reach its warehouse, and say so in one sentence."""
        threads = [f"--threads={self.threads}"] if self.threads else []
        with self._workplace() as place:
            self._complete(place, ["debug"])
            watch = self._complete(place, ["parse", *threads])
        return f"{self._name} can be parsed, and {watch.version or 'dbt'} reaches {place.where}."

    @operation(prepare=_fix_token, prefects=True)
    @takes_fields_of(SelectOptions)
    def trigger(  # type: ignore[override]  # Prefect's is awaitable
        self,
        command: Command = "build",
        select: str | Sequence[str] | None = (),
        *,
        full_refresh: bool = False,
        **options: Unpack[SelectArguments],
    ) -> DbtRun:
        """Start the command, and return without waiting for it. It ends with this process at the latest.

        Args:
            command: What dbt is to do.
            select: What it is to do it to.
            full_refresh: As with `build`.
            **options: Those of `build`, but for `raise_on_failure`.
        """
        chosen = SelectOptions(**options)
        request = chosen.request(command, select, full_refresh)
        return DbtRun(request, lambda: self._run(request, chosen.token, raise_on_failure=True), self.retry)

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
        return artifacts_folder(self.project_dir, self.target_path, environment_of(self._own_variables))

    @property
    def _own_variables(self) -> dict[str, Any]:
        return self.environment.get_secret_value() if self.environment else {}

    def _command(
        self,
        command: str,
        select: str | Sequence[str] | None,
        full_refresh: bool = False,
        **options: Unpack[CommandArguments],
    ) -> DbtResult:
        given = CommandOptions(**options)
        return self._run(given.request(command, select, full_refresh), given.token, given.raise_on_failure)

    def _run(self, request: Request, token: str, raise_on_failure: bool) -> DbtResult:
        call = self._calls.setdefault(token, Call())
        for forgotten in list(self._calls)[:-REMEMBERED_CALLS]:
            del self._calls[forgotten]
        try:
            folder = self._artifacts_folder()
            prepare(folder)
            with self._workplace(request.vars, folder) as place:
                result = self._attempt(request, call, place, folder)
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

    def _attempt(self, request: Request, call: Call, place: Place, folder: Path) -> DbtResult:
        asked = {"args": request.args_of_results(), "listing": request.listing(), "continues": call.results}
        kept = record.Record(folder, asked, call.again or None) if request.command in RESUMED else None
        watch = Watch(
            request.command, target=place.target, warehouse=place.warehouse, secrets=place.secrets, record=kept
        )
        try:
            outcome = self._outcome(request, call, place, watch, asked)
            call.take(outcome.results, outcome.nodes)
            artifacts = self._publish(request, call, place, folder)
        except BaseException as error:
            if kept is not None:
                self._conclude(kept, folder, error)
            raise
        if kept is not None:
            kept.remove() if has_nodes(outcome.results) else kept.withdraw()
        code = outcome.code
        result = DbtResult(
            project=self._name,
            command=request.command,
            target=place.where,
            nodes=tuple(call.nodes.values()),
            exit_code=1 if code == 0 and any(node.is_failed for node in call.nodes.values()) else code,
            attempts=call.attempts + 1,
            artifacts=artifacts,
            started_at=call.started_at,
            finished_at=dt.datetime.now(dt.UTC),
        )
        if outcome.error:
            raise DbtFailedError(f"{outcome.error} {result}", result)
        if not call.nodes and request.command in NEEDS_NODES and not request.may_be_empty:
            raise InvalidInputError(
                f"dbt {request.command} of {self._name} found nothing to do{request.selection}. Check what is selected."
            )
        call.again = nodes_to_retry(request, call, watch.manifest(), self.retry_nodes)
        return result

    def _outcome(self, request: Request, call: Call, place: Place, watch: Watch, asked: Mapping[str, Any]) -> Outcome:
        """Run dbt, and return how each node ended: by its results where it ended by itself, else by our record.

        Raises:
            ConnectorError: It could not do what it was asked to.
        """
        arguments = request.arguments(self.threads)
        if call.again and call.results is not None and request.command in RESUMED:
            arguments = ["retry", f"--state={self._state(place, call)}"]
            arguments += [f"--threads={self.threads}"] if self.threads else []
        with NodeRuns(self.logger, tool="dbt") as runs:
            try:
                ended = self._invoke(place, arguments, runs, watch)
            except JobFailedError as stopped:
                return self._stopped(request, call, watch, asked, str(stopped))
            if watch.unread:
                self.logger.warning(
                    "%d lines that dbt wrote are no events of its log; its results say how each node ended.",
                    watch.unread,
                )
            if ended.code is None:
                return self._stopped(request, call, watch, asked, "dbt was killed before it ended.")
            file = ARTIFACTS["sources" if request.command == "source freshness" else "run_results"]
            results = read_json(place.target / file)
            if results is None and ended.code == 0:
                return Outcome(0, watch.nodes)
            error = watch.error(request.command, self._name, ended.code, ended.said)
            if results is None:
                raise error
            nodes = watch.settle(nodes_of(results, watch.manifest(), watch.said), runs)
            said = str(error) if ended.code == STOPPED_ITSELF else ""
            return Outcome(ended.code, nodes, place.secrets.mask_artifact(results), said)

    def _stopped(self, request: Request, call: Call, watch: Watch, asked: Mapping[str, Any], error: str) -> Outcome:
        """Return what is known of a command that ended by force: what it had not done failed or was skipped."""
        if request.command not in RESUMED:
            return Outcome(None, watch.nodes, error=error)
        selected = sorted(call.again)
        if not selected:
            with contextlib.suppress(ConnectorError):
                selected = self._selected(request.command, asked["listing"], request.vars)
        ended = {key: node.status for key, node in watch.nodes.items()}
        results = record.Interrupted(dict(asked), None, ended, watch.started).results(selected)
        known = nodes_of(results, watch.manifest(), watch.said)
        nodes = {key: node for key, node in known.items() if key in selected or key in watch.started} | watch.nodes
        return Outcome(None, nodes, results if selected else None, error)

    def _state(self, place: Place, call: Call) -> Path:
        """Write what `dbt retry` takes: the results of the nodes that are to be done again."""
        results = call.results or {}
        args = {name: value for name, value in results["args"].items() if name not in OWN_ARGUMENTS}
        if isinstance(args.get("vars"), dict):
            # dbt would hand them on as Python writes them, which YAML reads otherwise
            args["vars"] = Request("build", vars=args["vars"]).variables or "{}"
        chosen = dict(word[2:].split("=", 1) for word in place.arguments)  # `dbt retry` has no such options itself
        args |= {name: chosen[name] for name in ("profile", "target") if name in chosen}
        rows = [row for row in results["results"] if row["unique_id"] in call.again]
        state = place.folder / "state"
        state.mkdir()
        text = json.dumps(results | {"results": rows, "args": args | {"quiet": False, "write_json": True}})
        (state / ARTIFACTS["run_results"]).write_text(text, "utf-8")
        return state

    def _publish(self, request: Request, call: Call, place: Place, folder: Path) -> dict[str, Path]:
        without = set() if request.command == "source freshness" else {"sources"}
        replaced = {}
        if request.command in RESUMED and call.results is not None and has_nodes(call.results):
            replaced["run_results"] = call.results
        else:
            without.add("run_results")  # it says what `retry_failed` has to do, and these leave nothing to be done
        try:
            return publish(place.target, folder, place.secrets, replaced=replaced, without=without)
        except OSError as error:
            counts = ", ".join(f"{node.unique_id}: {node.status}" for node in call.nodes.values())
            raise JobFailedError(
                f"dbt {request.command} of {self._name} ended, and its artifacts could not be kept in {folder} "
                f"({error.strerror or type(error).__name__}): {counts}."
            ) from None

    def _conclude(self, kept: record.Record, folder: Path, error: BaseException) -> None:
        """Keep what is known of a command that has no results: nothing, where dbt could not do it."""
        if isinstance(error, ConnectorError) and not kept.has_nodes:
            kept.withdraw()
            return
        kept.stay()
        with contextlib.suppress(OSError):
            if kept.has_nodes and (last := record.interrupted(folder)):
                put(folder / ARTIFACTS["run_results"], json.dumps(last.results(last.selected or ())).encode())

    def _missing(self) -> Call:
        """Return the call that does what is missing of the last command."""
        folder = self._artifacts_folder()
        if record.is_running(folder):
            raise InvalidInputError(f"Nothing can be retried yet: the last command of {self._name} still runs.")
        if last := record.interrupted(folder):
            asked = last.asked
            selected = last.selected
            if selected is None:
                selected = self._selected(asked["args"]["which"], asked["listing"], None)
            results: dict[str, Any] | None = last.results(selected)
        else:
            results = read_json(folder / ARTIFACTS["run_results"])
        command = ((results or {}).get("args") or {}).get("which", "")
        if results is None or command not in RESUMED:
            raise NotFoundError(f"There are no results in {folder} of a command that can be retried. Build first.")
        rows = [row for row in results["results"] if row["status"] not in (*GOOD, *WARNED)]
        again = {row["unique_id"] for row in rows if not row["unique_id"].startswith(f"{HOOK}.")}
        if again:
            return Call(results=results, again=again)
        if rows:
            hooks = ", ".join(row["unique_id"].rpartition(".")[2] for row in rows)
            raise InvalidInputError(
                f"Nothing is to be retried: in the last {command} of {self._name} every node succeeded, and only "
                f"{hooks} failed, which dbt runs with nodes only. Call {command}() again."
            )
        raise InvalidInputError(f"Nothing is to be retried: the last {command} of {self._name} had no failure.")

    def _selected(self, command: str, listing: list[str], variables: Mapping[str, Any] | None) -> list[str]:
        """Return what a command takes of what was selected."""
        listed = self._listed(listing, variables, timeout_s=LIST_TIMEOUT_S)
        return [
            node["unique_id"]
            for node in listed
            if node["unique_id"].partition(".")[0] in KINDS[command] and node.get("config.materialized") != "ephemeral"
        ]

    def _listed(
        self, listing: list[str], variables: Mapping[str, Any] | None, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        with self._workplace(variables, self._artifacts_folder()) as place:
            return [json.loads(line) for line in self._complete(place, listing, timeout_s).printed]

    def _complete(self, place: Place, arguments: list[str], timeout_s: float | None = None) -> Watch:
        """Run dbt, which has to succeed, and return what it said."""
        watch = Watch(arguments[0], target=place.target, secrets=place.secrets)
        runs = NodeRuns(self.logger, tool="dbt")
        ended = self._invoke(place, arguments, runs, watch, timeout_s)
        if ended.code != 0:
            raise watch.error(arguments[0], self._name, ended.code, ended.said)
        return watch

    def _invoke(
        self, place: Place, arguments: list[str], runs: NodeRuns, watch: Watch, timeout_s: float | None = None
    ) -> Ended:
        limit, clock = (self.timeout_s, self._clock) if timeout_s is None else (timeout_s, time.monotonic)
        return invoke(place, arguments, runs, watch, executable=self.executable, timeout_s=limit, clock=clock)

    def _workplace(
        self, variables: Mapping[str, Any] | None = None, kept: Path | None = None
    ) -> contextlib.AbstractContextManager[Place]:
        return workplace(
            project_folder(self.project_dir),
            self.warehouse(),
            profiles_dir=self.profiles_dir,
            target_name=self.target_name,
            threads=self.threads,
            own=self._own_variables,
            variables=variables,
            kept=kept,
        )
