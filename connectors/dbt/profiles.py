"""Where dbt builds: the profile that is made of a warehouse, and the project's own, as far as it can be told.

https://docs.getdbt.com/docs/core/connect-data-platform/connection-profiles
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from jinja2 import Undefined
from jinja2.nativetypes import NativeEnvironment
from pydantic import SecretStr

from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "ETL_DBT_"  # noqa: S105 (a prefix)
"""Not dbt's own prefix of secrets, whose values it replaces in all of its log, in names and numbers, too."""
PROFILE = "etl"
RENDERED = {".sql", ".yml", ".yaml", ".py", ".md", ".jinja", ".j2"}
"""The files of a project that may read the environment."""
NO_SOURCES = {".git", ".venv", "node_modules", "venv", "__pycache__"}


def profile(output: Mapping[str, Any], target_name: str, threads: int) -> tuple[str, dict[str, str]]:
    """Return the text of a profiles.yml for one output, and the environment that has its secrets.

    >>> text, secrets = profile({"type": "postgres", "password": SecretStr("s3cret")}, "prod", 4)
    >>> json.loads(text)["etl"]["outputs"]["prod"]["password"], secrets
    ("{{ env_var('ETL_DBT_0') }}", {'ETL_DBT_0': 's3cret'})
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


def secret_values(output: Any) -> Iterator[str]:
    """Yield what is secret in an output."""
    if isinstance(output, Mapping):
        for each in output.values():
            yield from secret_values(each)
    elif isinstance(output, SecretStr):
        yield output.get_secret_value()


def refuse_readers_of_secrets(project: Path) -> None:
    """Look through the project and its packages for the names of our variables.

    dbt keeps the value of every variable that a project reads in what it has parsed.

    Raises:
        InvalidInputError: A file names one of them.
    """
    seen: set[str] = set()
    for folder, folders, names in os.walk(project, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if name not in NO_SOURCES]
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() not in RENDERED:
                continue
            try:
                is_named = SECRET.encode() in path.read_bytes().upper()
            except OSError:
                continue
            if is_named:
                raise InvalidInputError(
                    f"{path.relative_to(project)} reads a variable {SECRET}..., and what a project reads dbt keeps in "
                    "its artifacts; those hold the warehouse's secrets. Give it a variable of its own in environment."
                )


def duckdb_files(
    project: Path,
    profiles_dir: Path | None,
    target_name: str | None,
    environment: Mapping[str, str],
    variables: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Return the DuckDB files of the project's own profile, none where they cannot be told.

    Args:
        project: The directory that dbt runs in: paths count from there.
        profiles_dir: Where the profile is; by default as dbt looks for it.
        target_name: The target; by default the profile's own.
        environment: That of dbt.
        variables: The variables of the command line.
    """
    try:
        output = _output(project, profiles_dir, target_name, environment, variables)
    except Exception:  # noqa: BLE001 (whatever is wrong with it, dbt itself says so)
        return ()
    if output.get("type") != "duckdb":
        return ()
    attached = [each.get("path") if isinstance(each, Mapping) else each for each in output.get("attach") or ()]
    return files_of(project, [output.get("path"), *attached])


def files_of(project: Path, paths: list[Any]) -> tuple[Path, ...]:
    """Return the files among the databases that DuckDB opens, resolved.

    >>> files_of(Path("/p"), ["shop.duckdb", ":memory:", "md:cloud", None, "s3://b/x.duckdb"])
    (PosixPath('/p/shop.duckdb'),)
    """
    names = [path for path in paths if isinstance(path, str) and path and ":" not in path]
    return tuple(sorted({(project / Path(name).expanduser()).resolve() for name in names}))


def _output(
    project: Path,
    profiles_dir: Path | None,
    target_name: str | None,
    environment: Mapping[str, str],
    variables: Mapping[str, Any],
) -> Mapping[str, Any]:
    def env_var(name: str, default: str | None = None) -> str:
        value = environment.get(name, default)
        if value is None:
            raise KeyError(name)
        return value

    def var(name: str, default: Any = None) -> Any:
        return variables.get(name, default)

    jinja = NativeEnvironment(undefined=Undefined)

    def rendered(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: rendered(each) for key, each in value.items()}
        if isinstance(value, list):
            return [rendered(each) for each in value]
        return jinja.from_string(value).render(env_var=env_var, var=var) if isinstance(value, str) else value

    def setting(name: str) -> str | None:
        return environment.get(f"DBT_ENGINE_{name}") or environment.get(f"DBT_{name}")

    named = profiles_dir or setting("PROFILES_DIR")
    home = Path(environment.get("HOME") or Path.home(), ".dbt")
    folder = project / named if named else project if (project / "profiles.yml").exists() else home
    profiles = yaml.safe_load((folder / "profiles.yml").read_text("utf-8"))
    config = yaml.safe_load((project / "dbt_project.yml").read_text("utf-8"))
    chosen = profiles[setting("PROFILE") or rendered(config["profile"])]
    target = target_name or setting("TARGET") or rendered(chosen.get("target", "default"))
    output: Mapping[str, Any] = rendered(
        {key: chosen["outputs"][target].get(key) for key in ("type", "path", "attach")}
    )
    return output
