"""dbt in a process of its own: where it runs, and how it is called and watched.

* dbt is never imported here: its runner keeps state between invocations, and cannot be stopped from outside.
* It runs where its command line is run, in the project's directory: relative paths of profiles and models count from
  there. Its target and its log are private.
* What it does is read from its log while it runs. https://docs.getdbt.com/reference/events-logging
* Secrets go to it in its environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from prefect.settings import PREFECT_HOME

from blocks.base.errors import InvalidInputError, JobFailedError, MissingDriverError, NotFoundError, UnsupportedError
from blocks.base.temporary import TemporaryFolder, lock_in_turn
from blocks.jobs.process import Process
from connectors.dbt.artifacts import INPUTS
from connectors.dbt.log import DBT, Package
from connectors.dbt.profiles import (
    PROFILE,
    duckdb_files,
    files_of,
    profile,
    refuse_readers_of_secrets,
    secret_values,
)
from connectors.dbt.secrets import SETTINGS, Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blocks.jobs.node_runs import NodeRuns
    from blocks.warehouses.warehouse import Warehouse
    from connectors.dbt.log import Watch

ADAPTERS = {
    "bigquery": Package("dbt-bigquery", extra="dbt-bigquery"),
    "duckdb": Package("dbt-duckdb", extra="dbt"),
    "postgres": Package("dbt-postgres", extra="dbt-postgres"),
    "snowflake": Package("dbt-snowflake", extra="dbt-snowflake"),
}

START = "from dbt.cli.main import cli; cli()"
FLAGS = [
    "--log-format=json",
    "--log-level=debug",
    "--log-level-file=none",
    "--no-use-colors",
    "--no-quiet",
    "--write-json",
    "--no-send-anonymous-usage-stats",
]
"""They come before every DBT_* variable of the environment and before the flags of the project."""
WITHOUT_TARGET_PATH = ("debug", "deps")
STOPPED_ITSELF = 2
"""dbt's exit code where it could not do what it was asked to."""
ENDS = (0, 1, STOPPED_ITSELF)
"""The exit codes of dbt's own; 1 is that nodes failed."""
THREADS = 4
OWN_SECRETS = "DBT_ENV_SECRET_"
GRACE_S = 10.0
"""How long dbt may take to end its queries on the server, before it is killed."""


@runtime_checkable
class DbtTarget(Protocol):
    """A warehouse that dbt has an adapter for."""

    def dbt_output(self) -> dict[str, Any]:
        """Return it as the output of a dbt profile; what is secret is a `SecretStr` in it."""


@dataclass(frozen=True)
class Place:
    """Where one invocation happens."""

    project: Path
    folder: Path
    target: Path
    environment: dict[str, str] = field(repr=False)
    arguments: list[str]
    where: str
    adapter: str | None
    files: tuple[Path, ...]
    warehouse: Warehouse | None = field(repr=False)
    secrets: Secrets = field(repr=False)


@dataclass(frozen=True)
class Ended:
    """How an invocation ended by itself.

    Attributes:
        code: dbt's exit code, None where something killed it.
        said: What it wrote to its standard error.
    """

    code: int | None
    said: str


def environment_of(own: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of dbt: that of this process, and the variables of the block."""
    return {**os.environ, **{key: str(value) for key, value in own.items()}}


@contextlib.contextmanager
def workplace(
    project: Path,
    warehouse: Warehouse | None,
    *,
    profiles_dir: Path | None = None,
    target_name: str | None = None,
    threads: int | None = None,
    own: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    kept: Path | None = None,
) -> Iterator[Place]:
    """Make a private directory for one invocation, with the profile, and the environment that has its secrets.

    Args:
        project: The directory of the project, in which dbt runs.
        warehouse: Where it builds; None where the project's own profile says where.
        profiles_dir: Where that profile is, if not where dbt looks for it.
        target_name: The target in the profile.
        threads: How many nodes run at the same time.
        own: The environment variables of the block, which are secrets.
        variables: The variables of the command line.
        kept: The directory of the artifacts of the invocation before.
    """
    environment = environment_of(own or {})
    values = [str(value) for value in (own or {}).values() if str(value).lower() not in SETTINGS]
    values += [value for name, value in os.environ.items() if name.startswith(OWN_SECRETS)]
    arguments = []
    with TemporaryFolder() as folder:
        if warehouse is None:
            profiles_dir = profiles_dir and profiles_dir.expanduser().resolve()
            arguments += [f"--profiles-dir={profiles_dir}"] if profiles_dir else []
            arguments += [f"--target={target_name}"] if target_name else []
            adapter, where = None, f"target {target_name}" if target_name else "its profile's target"
            files = duckdb_files(project, profiles_dir, target_name, environment, variables or {})
        else:
            target_name = target_name or "prod"
            if not isinstance(warehouse, DbtTarget):
                raise UnsupportedError(f"{type(warehouse).__name__} cannot be the target of a dbt project here.")
            output = warehouse.dbt_output()
            adapter, where = output["type"], warehouse.uri()
            files = files_of(project, [output["path"]]) if adapter == "duckdb" else ()
            text, secrets = profile(output, target_name, threads or THREADS)
            values += secret_values(output)
            if secrets:
                refuse_readers_of_secrets(project)
            (folder / "profiles.yml").write_text(text, "utf-8")
            environment |= secrets
            arguments += [f"--profiles-dir={folder}", f"--profile={PROFILE}", f"--target={target_name}"]
        target = folder / "target"
        target.mkdir()
        if kept:
            for name in INPUTS:
                with contextlib.suppress(OSError):
                    shutil.copyfile(kept / name, target / name)
        environment |= {"DBT_TARGET_PATH": str(target), "PYTHONUNBUFFERED": "1"}
        yield Place(project, folder, target, environment, arguments, where, adapter, files, warehouse, Secrets(values))


def invoke(
    place: Place,
    arguments: list[str],
    runs: NodeRuns,
    watch: Watch,
    *,
    executable: Path | None,
    timeout_s: float | None,
    clock: Callable[[], float],
) -> Ended:
    """Run dbt to its end, and return how it ended.

    Raises:
        JobFailedError: It took too long, and was stopped.
    """
    targets = [] if arguments[0] in WITHOUT_TARGET_PATH else [f"--target-path={place.target}"]
    errors = place.folder / "stderr"
    with _turn(place.files):
        try:
            process = Process(
                [
                    *_command(executable, place.adapter),
                    *FLAGS,
                    f"--log-path={place.folder / 'logs'}",
                    *arguments,
                    f"--project-dir={place.project}",
                    *targets,
                    *place.arguments,
                ],
                folder=place.project,
                environment=place.environment,
                errors=errors,
                grace_s=GRACE_S,
            )
        except (OSError, ValueError) as error:  # an argument may be too long, or hold what no argument can
            raise InvalidInputError(
                f"dbt {arguments[0]} of {place.project.name} could not be started: {type(error).__name__}. "
                "Check its arguments and environment."
            ) from None
        try:
            watch.begin()
            for line in process.lines(timeout_s=timeout_s, clock=clock):
                watch.read(line, runs)
        except TimeoutError:
            raise JobFailedError(
                f"dbt took longer than {timeout_s:g} s and was stopped; so were its queries."
            ) from None
        finally:
            code = process.close()
    return Ended(code if code in ENDS else None, errors.read_text("utf-8", "replace"))


@contextlib.contextmanager
def _turn(files: tuple[Path, ...]) -> Iterator[None]:
    """One dbt at a time, where the database is a file that only one process can have open."""
    with contextlib.ExitStack() as held:
        for file in files:
            held.enter_context(_locked(file))
        yield


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the turn on a file, among all processes of this user; the operating system ends it with its holder."""
    folder = Path(PREFECT_HOME.value()) / "etl-dbt" / "turns"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / hashlib.sha256(str(file).encode()).hexdigest()[:32]).open("ab") as turn:
        lock_in_turn(turn.fileno())  # where there are no locks, dbt itself says so if it has to wait
        yield


def _command(executable: Path | None, adapter: str | None) -> list[str]:
    """How dbt is called.

    Raises:
        MissingDriverError: It is not installed, or its adapter is not.
    """
    if executable:
        path = executable.expanduser()
        if not (found := shutil.which(str(path))):
            raise NotFoundError(f"There is no command {path}. Give the path of a dbt, or leave executable empty.")
        return [found]
    for package in (DBT, *([ADAPTERS[adapter]] if adapter else [])):
        try:
            importlib.metadata.distribution(package.name)
        except importlib.metadata.PackageNotFoundError:
            raise MissingDriverError(
                f"{package.name} is not installed. Install it with: pip install 'etl-blocks[{package.extra}]'"
            ) from None
    # -P: nothing of the current directory is imported, dbt takes every module called dbt_... for a plugin.
    return [sys.executable, "-P", "-c", START]
