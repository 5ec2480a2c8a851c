"""What dbt leaves behind: where it is kept, how it is read, and how it is put there, at once and as a whole.

https://docs.getdbt.com/reference/artifacts/dbt-artifacts
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from prefect.settings import PREFECT_HOME

from blocks.base.errors import InvalidInputError, NotFoundError
from blocks.files.local import part_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from connectors.dbt.secrets import Secrets

ARTIFACTS = {
    "manifest": "manifest.json",
    "run_results": "run_results.json",
    "sources": "sources.json",
    "catalog": "catalog.json",
    "docs": "index.html",
    "partial_parse": "partial_parse.msgpack",
    "compiled": "compiled",
}
"""What is kept of an invocation."""
INPUTS = (ARTIFACTS["partial_parse"], ARTIFACTS["sources"])
"""What the next invocation reads: what was parsed, and the age of the sources for `source_status:`."""


def project_folder(project_dir: Path) -> Path:
    """Return the directory of the project, which is there."""
    folder = project_dir.expanduser().resolve()
    if not (folder / "dbt_project.yml").is_file():
        raise NotFoundError(f"There is no dbt_project.yml in {folder}. Give the directory of a dbt project.")
    return folder


def artifacts_folder(project_dir: Path, target_path: Path | None, environment: Mapping[str, str] | None = None) -> Path:
    """Return where artifacts are kept: as the block says it, the environment, the project, else in its `target`."""
    if target_path:
        return target_path.expanduser().resolve()
    project = project_folder(project_dir)
    environment = os.environ if environment is None else environment
    named = environment.get("DBT_ENGINE_TARGET_PATH") or environment.get("DBT_TARGET_PATH") or _own_target_path(project)
    folder = project / named
    if os.access(folder if folder.exists() else folder.parent, os.W_OK):
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(PREFECT_HOME.value()) / "etl-dbt" / f"{project.name}-{digest}"


def _own_target_path(project: Path) -> str:
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
        named = yaml.safe_load((project / "dbt_project.yml").read_text("utf-8")).get("target-path")
        if isinstance(named, str) and named and "{" not in named:
            return named
    return "target"


def prepare(folder: Path) -> None:
    """Make the directory that keeps artifacts, before anything is built.

    Raises:
        InvalidInputError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInputError(
            f"dbt's artifacts cannot be kept in {folder} ({error.strerror or type(error).__name__}). "
            "Give a directory that can be written to as target_path."
        ) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what an artifact holds, None where there is none that is whole."""
    try:
        read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def publish(
    made: Path,
    folder: Path,
    secrets: Secrets,
    *,
    replaced: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
) -> dict[str, Path]:
    """Put each artifact into its place, at once and as a whole and without secrets, and return them by name.

    Args:
        made: Where dbt made them.
        folder: Where they are kept.
        secrets: What is masked in them.
        replaced: What takes the place of an artifact, by its name.
        without: The names of those that stay as they are.
    """
    kept = {}
    for name, file in ARTIFACTS.items():
        source = made / file
        if name in without:
            continue
        if replaced and name in replaced:
            kept[name] = put(folder / file, json.dumps(secrets.mask_artifact(replaced[name])).encode())
        elif source.is_file():
            data = _public(source, secrets)
            if data is not None:
                kept[name] = put(folder / file, data)
        elif source.is_dir():
            for each in sorted(path for path in source.rglob("*") if path.is_file()):
                data = _public(each, secrets)
                if data is not None:
                    put(folder / each.relative_to(made), data)
            kept[name] = folder / file
    return kept


def _public(path: Path, secrets: Secrets) -> bytes | None:
    """What is in a file, without secrets; None where they cannot be taken out of it."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(secrets.mask_artifact(json.loads(data))).encode() if secrets.are_in(data) else data
    if not secrets.are_surely_in(data):
        return data
    return None if path.suffix == ".msgpack" else secrets.mask(data.decode("utf-8", "replace")).encode()


def put(path: Path, data: bytes) -> Path:
    """Put a file into its place as a whole, and return the path."""
    with part_file(path) as part:
        part.write(data)
        part.flush()
        Path(part.name).replace(path)
    return path
