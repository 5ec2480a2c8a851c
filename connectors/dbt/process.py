"""dbt in a process of its own: where it runs, how it is called and watched, and the artifacts that it leaves.

* dbt is never imported here: its runner keeps state between invocations, and cannot be stopped from outside.
* What it does is read from its log while it runs. https://docs.getdbt.com/reference/events-logging
* Secrets go to it in its environment, under a prefix whose values it keeps out of all that it writes.
  https://docs.getdbt.com/reference/dbt-jinja-functions/env_var#secrets
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from prefect.settings import PREFECT_HOME
from pydantic import SecretStr

from blocks.base.errors import JobFailedError, MissingDriverError, NotFoundError, UnsupportedError
from blocks.base.interruption import pause
from blocks.base.temporary import TemporaryFolder
from blocks.files.local import part_file
from blocks.jobs.process import Process
from connectors.dbt.log import ARTIFACTS, DBT, Package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefect.types import SecretDict

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
FLAGS = ["--log-format=json", "--log-level=debug", "--log-level-file=none", "--no-use-colors"]
SECRET = "DBT_ENV_SECRET_ETL_"  # noqa: S105 (a prefix)
PROFILE = "etl"
GRACE_S = 10.0
"""How long dbt may take to end its queries on the server, before it is killed."""

# A DuckDB file is open in one process at a time: builds of this process take turns.
_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


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
    exclusive: str | None
    warehouse: Warehouse | None = field(repr=False)


@contextlib.contextmanager
def workplace(
    project: Path,
    warehouse: Warehouse | None,
    *,
    profiles_dir: Path | None,
    target_name: str | None,
    threads: int,
    variables: SecretDict | None,
) -> Iterator[Place]:
    """Make a private directory for one invocation, with the profile, and the environment that has its secrets."""
    own = variables.get_secret_value() if variables else {}
    environment = {**os.environ, **{key: str(value) for key, value in own.items()}}
    arguments = []
    exclusive, adapter = None, None
    with TemporaryFolder() as folder:
        if warehouse is None:
            arguments += [f"--profiles-dir={profiles_dir.expanduser().resolve()}"] if profiles_dir else []
            arguments += [f"--target={target_name}"] if target_name else []
            where = f"target {target_name}" if target_name else "its profile's target"
        else:
            target_name = target_name or "prod"
            if not isinstance(warehouse, DbtTarget):
                raise UnsupportedError(f"{type(warehouse).__name__} cannot be the target of a dbt project here.")
            output = warehouse.dbt_output()
            adapter, where = output["type"], warehouse.uri()
            exclusive = output["path"] if adapter == "duckdb" else None
            text, secrets = profile(output, target_name, threads)
            (folder / "profiles.yml").write_text(text, "utf-8")
            environment |= secrets
            arguments += [f"--profiles-dir={folder}", f"--profile={PROFILE}", f"--target={target_name}"]
        for name_, kept in (("DBT_TARGET_PATH", folder / "target"), ("DBT_LOG_PATH", folder / "logs")):
            kept.mkdir()
            environment[name_] = str(kept)
        environment |= {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "PYTHONUNBUFFERED": "1"}
        yield Place(project, folder, folder / "target", environment, arguments, where, adapter, exclusive, warehouse)


def invoke(
    place: Place,
    arguments: list[str],
    runs: NodeRuns,
    watch: Watch,
    *,
    executable: Path | None,
    timeout_s: float | None,
    clock: Callable[[], float],
) -> None:
    """Run dbt to its end.

    Raises:
        JobFailedError: It took too long.
        ConnectorError: It could not do what it was asked to, apart from single nodes that failed.
    """
    with _turn(place):
        process = Process(
            [
                *_command(executable, place.adapter),
                *FLAGS,
                *arguments,
                f"--project-dir={place.project}",
                *place.arguments,
            ],
            folder=place.folder,
            environment=place.environment,
            errors=place.folder / "stderr",
            grace_s=GRACE_S,
        )
        try:
            for line in process.lines(timeout_s=timeout_s, clock=clock):
                watch.read(line, runs)
        except TimeoutError:
            raise JobFailedError(
                f"dbt took longer than {timeout_s:g} s and was stopped; so were its queries."
            ) from None
        finally:
            code = process.close()
    if code == 0 or watch.has_finished:
        return
    raise watch.error(arguments[0], place.project.name, code, (place.folder / "stderr").read_text("utf-8", "replace"))


@contextlib.contextmanager
def _turn(place: Place) -> Iterator[None]:
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


def project_folder(project_dir: Path) -> Path:
    """The directory of the project, which is there."""
    folder = project_dir.expanduser().resolve()
    if not (folder / "dbt_project.yml").is_file():
        raise NotFoundError(f"There is no dbt_project.yml in {folder}. Give the directory of a dbt project.")
    return folder


def artifacts_folder(project_dir: Path, target_path: Path | None) -> Path:
    """Where artifacts are kept."""
    if target_path:
        return target_path.expanduser().resolve()
    project = project_folder(project_dir)
    folder = project / "target"
    if os.access(folder if folder.exists() else folder.parent, os.W_OK):
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(PREFECT_HOME.value()) / "etl-dbt" / f"{project.name}-{digest}"


def publish(made: Path, folder: Path, results: dict[str, Any] | None) -> dict[str, Path]:
    """Put each artifact into its place, at once and as a whole, and return them by name."""
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
