"""A user's own copy of the orders pipeline, and the `etl` command run on it in this process."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.logging.handlers import PrefectConsoleHandler

from blocks.cli import main
from connectors.duckdb import DuckDB

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = "2026-04-30"
HEADER = "order_id,customer,city,ordered_at,status,amount"
GOOD = [f"{number},Ana Trujillo,México D.F.,{DAY}T07:00:00Z,paid,{number}.50" for number in range(1, 10)]


@dataclass
class Outcome:
    """What a user sees of one command."""

    code: int
    output: str

    @property
    def message(self) -> str:
        """The last line, without what precedes the message in it."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].partition("error: ")[2] if lines else ""


class Project:
    """A folder with `orders_pipeline.py`, the data it reads, and what it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder.parent / "temporary"
        self.flow = folder / "orders_pipeline.py"
        self.source = folder / "data/source" / f"orders_{DAY}.csv"
        self.temporary.mkdir()
        assert self.etl("new", "orders_pipeline", str(folder)).code == 0
        self.write("\n".join([HEADER, *GOOD, ""]))
        self._before = self._files()

    def write(self, content: str | bytes) -> None:
        """Put this into the day's file."""
        self.source.write_bytes(content if isinstance(content, bytes) else content.encode())

    def change(self, old: str, new: str) -> int:
        """The line in which the flow was edited."""
        before, found, after = self.flow.read_text("utf-8").partition(old)
        assert found
        assert old not in after
        self.flow.write_text(before + new + after, "utf-8")
        return before.count("\n") + 1

    def run(self, *arguments: str) -> Outcome:
        """`etl run orders_pipeline.py` with these arguments."""
        return self.etl("run", "orders_pipeline.py", *arguments)

    def etl(self, *arguments: str) -> Outcome:
        """`etl` with these arguments."""
        with self._entered() as output:
            code = main(arguments)
        return Outcome(code, output.getvalue())

    def written(self) -> set[str]:
        """What was not there before, tables of the default warehouse included; its empty database does not count."""
        database = self.folder / "warehouse/warehouse.duckdb"
        found = {str(file.relative_to(self.folder)) for file in self._files() - self._before if file != database}
        if database.is_file():
            query = "select table_name from information_schema.tables"
            found |= {f"table {name}" for (name,) in DuckDB(path=str(database)).fetch_all(query)}
        return found | {f"temporary file {file.name}" for file in self.temporary.rglob("*")}

    def _files(self) -> set[Path]:
        return {file for file in self.folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}

    @contextlib.contextmanager
    def _entered(self) -> Iterator[io.StringIO]:
        """In the project's folder, with all output captured: what Prefect logs, too."""
        output = io.StringIO()
        handlers = [each for each in logging.getLogger().handlers if isinstance(each, PrefectConsoleHandler)]
        assert handlers
        before = (Path.cwd(), list(sys.path), tempfile.tempdir, [each.console.file for each in handlers])
        try:
            if self.folder.exists():
                os.chdir(self.folder)
            tempfile.tempdir = str(self.temporary)
            for each in handlers:
                each.console.file = output
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                yield output
        finally:
            os.chdir(before[0])
            sys.path[:] = before[1]
            sys.modules.pop("orders_pipeline", None)
            tempfile.tempdir = before[2]
            for each, file in zip(handlers, before[3], strict=True):
                each.console.file = file
