"""Runs a page of the documentation from its top to its end, in one folder, as its reader would.

* Python blocks share their names. Where a block of text follows directly, it is what they print.
* In console blocks, commands start with `$ `. `etl`, `python`, `cat`, `find`, `ls`, `pytest` and `export` are run; what
  a page shows below them are lines of their output. Of `make`, `pip` and `prefect` only what they name is looked up.
* `<!-- file: NAME -->` before a block: it is the content of that file.

Durations, versions, etags and ports of a run are not compared.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from blocks.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
VARIES = (
    (re.compile(r"\b[0-9a-f]{12,}(-[0-9a-f]+)*"), "ID"),
    (re.compile(r"\d+(\.\d+)+"), "N"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    file: str | None = None
    prints: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page; what a block of Python prints is with that block."""
    text = page.read_text("utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        follows = found and not text[end : match.start()].strip()
        end = match.end()
        if match["language"] == "text" and follows and found[-1].language == "python":
            found[-1] = replace(found[-1], prints=match["text"])
        else:
            found.append(Block(page, line, match["language"], match["text"], match["file"]))
    return found


class Reader:
    """Does what a page says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.names: dict[str, Any] = {"__name__": "page"}
        monkeypatch.chdir(folder)
        importlib.import_module("etl_blocks.collection")  # also where we are not installed

    def read(self, page: Path) -> None:
        """Run its blocks, on a server where nothing is saved."""
        with get_client(sync_client=True) as client:
            for saved in client.read_block_documents(limit=200, offset=0):
                client.delete_block_document(saved.id)
        for block in blocks_of(page):
            self.run(block)

    def run(self, block: Block) -> None:
        """Do what one block says, and compare what it shows."""
        if block.file:
            (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.file).write_text(block.text, "utf-8")
        elif block.language == "python":
            printed = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, self.names)  # noqa: S102 (our own documentation)
            if block.prints is not None:
                found, shown = self.comparable(printed.getvalue()), self.comparable(block.prints)
                assert found == shown, f"{block.place} prints:\n{found}\nand the page shows:\n{shown}"
        elif block.language == "console":
            for command, shown in commands(block.text):
                printed_lines = self.comparable(self.execute(command, block.place)).splitlines()
                rest = iter(printed_lines)
                for line in self.comparable(shown).splitlines():
                    assert line in rest, f"{block.place}: {command!r} prints no {line!r}, but {printed_lines}"

    def execute(self, command: str, place: str) -> str:
        """What the command prints."""
        program, *arguments = shlex.split(command, comments=True)
        match program:
            case "etl":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    main(arguments)
                return printed.getvalue()
            case "cat" | "find" | "ls":
                done = subprocess.run([program, *arguments], check=True, capture_output=True, text=True)  # noqa: S603
                return done.stdout
            case "python":
                settings = get_current_settings().to_environment_variables(exclude_unset=True)
                run = [sys.executable, *arguments]
                done = subprocess.run(run, check=True, capture_output=True, text=True, env=os.environ | settings)  # noqa: S603
                return done.stdout
            case "prefect":
                module = arguments[0].replace("-", "_")
                assert importlib.util.find_spec(f"prefect.cli.{module}"), f"{place}: Prefect has no {arguments[0]!r}"
            case "pytest":
                settings = get_current_settings().to_environment_variables(exclude_unset=True)
                run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
                done = subprocess.run(run, check=False, capture_output=True, text=True, env=os.environ | settings)  # noqa: S603
                assert done.returncode == 0, done.stdout
                return done.stdout.rpartition(" in ")[0]  # how long it took
            case "export":
                name, _, value = arguments[0].partition("=")
                self.monkeypatch.setenv(name, value)
            case "make":
                targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
                assert set(arguments) <= set(targets), f"{place}: {command!r} names no target of the Makefile"
            case "pip":
                named = re.findall(r"\[(.*?)\]", command)
                extras = {extra for names in named for extra in names.split(",")}
                assert extras <= set(project()["optional-dependencies"]), f"{place}: {command!r} names no extra of ours"
            case _:
                raise AssertionError(f"{place}: nobody checks {command!r}")
        return ""

    def comparable(self, text: str) -> str:
        """The text without what differs from run to run and from machine to machine."""
        text = text.replace(os.path.realpath(self.folder), "/home/you/shop").replace(str(self.folder), "/home/you/shop")
        for pattern, word in VARIES:
            text = pattern.sub(word, text)
        return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown for it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def project() -> dict[str, Any]:
    """The `[project]` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table
