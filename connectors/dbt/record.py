"""What a command has done so far, kept beside dbt's artifacts from its start on.

dbt writes its results when it has come to its end. A command that ends by force, be it at its timeout, by Ctrl-C or
because its process is killed, leaves this record: what had been asked, which nodes had started, and how they ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from blocks.base.temporary import lock_file
from connectors.dbt.artifacts import put

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from io import TextIOWrapper
    from pathlib import Path

    from connectors.shared.dbt import DbtNode

FILE = "etl_run.jsonl"
STOPPED = "Stopped before it ended."
NOT_STARTED = "Stopped before it started."
RESULTS_SCHEMA = "https://schemas.getdbt.com/dbt/run-results/v6.json"


class Interrupted(NamedTuple):
    """A command that ended by force.

    Attributes:
        asked: What it was asked to do: `which`, the command line's `arguments`, and the results that it `continues`.
        selected: The nodes that it was to take, where that was known.
        ended: The status of each node that ended.
        started: The nodes that started.
    """

    asked: dict[str, Any]
    selected: list[str] | None
    ended: dict[str, str]
    started: set[str]

    def results(self, selected: Iterable[str]) -> dict[str, Any]:
        """Return dbt's results of it, in which what did not come to its end is there as well.

        Args:
            selected: The nodes that it was to take.
        """
        base: dict[str, Any] = self.asked.get("continues") or new_results(self.asked["args"])
        rows = {row["unique_id"]: row for row in base["results"]}
        for key in (*selected, *self.started, *self.ended):
            status = self.ended.get(key)
            if status is None:
                rows[key] = new_row(key, *(("error", STOPPED) if key in self.started else ("skipped", NOT_STARTED)))
            elif key not in rows or rows[key]["status"] != status:
                rows[key] = new_row(key, status)
        return base | {"results": list(rows.values())}


class Record:
    """The record of a command, from the start of dbt on.

    Args:
        folder: Where artifacts are kept.
        asked: As in `Interrupted`.
        selected: As in `Interrupted`.

    Attributes:
        has_nodes: Whether a node has started.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], selected: Iterable[str] | None) -> None:
        self.has_nodes = False
        self._path = folder / FILE
        self._header = {"asked": asked, "selected": None if selected is None else sorted(selected)}
        self._file: TextIOWrapper | None = None
        self._before: bytes | None = None

    def begin(self) -> None:
        """Take the place of the record before, which comes back if this command does nothing."""
        with contextlib.suppress(OSError):
            self._before = self._path.read_bytes()
        part = self._path.with_name(f".{FILE}.{uuid.uuid4().hex}")
        self._file = part.open("w", encoding="utf-8", buffering=1)
        lock_file(self._file.fileno(), wait=False)  # ends with this process
        self._write(self._header)
        part.replace(self._path)

    def start(self, key: str) -> None:
        """Note that a node has started."""
        self.has_nodes = True
        self._write({"started": key})

    def start_hook(self, key: str) -> None:
        """Note that a hook of the project has started after its nodes; one before them is run again with them."""
        if self.has_nodes:
            self._write({"started": key})

    def end(self, node: DbtNode) -> None:
        """Note how a node ended."""
        self._write({"ended": node.unique_id, "status": node.status})

    def stay(self) -> None:
        """Let go of it, and leave it to `interrupted`."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Remove it: dbt's results are complete, and say the same."""
        self._give_up(None)

    def withdraw(self) -> None:
        """Remove it, and have the one before again: the command did nothing."""
        self._give_up(self._before)

    def _give_up(self, before: bytes | None) -> None:
        if self._file is None:
            return
        with self._file as file, contextlib.suppress(OSError):
            if not os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                return  # another command has begun since
            if before is None:
                self._path.unlink()
            else:
                put(self._path, before)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(f"{json.dumps(line)}\n")


def is_running(folder: Path) -> bool:
    """Tell whether the command that began last, of those with artifacts in this folder, still runs."""
    try:
        with (folder / FILE).open("rb+") as file:
            return not lock_file(file.fileno(), wait=False)
    except OSError:
        return False


def interrupted(folder: Path) -> Interrupted | None:
    """Return the command that ended by force, if that was the last one that began."""
    try:
        lines = (folder / FILE).read_text("utf-8").splitlines()
        header = json.loads(lines[0])
        events = []
        for line in lines[1:]:
            with contextlib.suppress(ValueError):  # the last one may be cut off
                events.append(json.loads(line))
    except (OSError, ValueError, IndexError):
        return None
    ended = {event["ended"]: event["status"] for event in events if "ended" in event}
    started = {event["started"] for event in events if "started" in event}
    return Interrupted(header["asked"], header["selected"], ended, started)


def new_results(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return dbt's results without a row, for a command that could not write its own."""
    return {"metadata": {"dbt_schema_version": RESULTS_SCHEMA}, "results": [], "elapsed_time": 0.0, "args": dict(args)}


def new_row(key: str, status: str, message: str | None = None) -> dict[str, Any]:
    """Return a row of dbt's results: https://docs.getdbt.com/reference/artifacts/run-results-json."""
    empty = dict.fromkeys(("failures", "compiled", "compiled_code", "relation_name", "batch_results"))
    return {
        "unique_id": key, "status": status, "message": message, "timing": [], "thread_id": "", "execution_time": 0.0,
        "adapter_response": {}, **empty,
    }  # fmt: skip
