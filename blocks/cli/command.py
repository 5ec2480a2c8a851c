"""`etl list`, `etl new`, `etl run`, `etl save`, `etl check`: the arguments, the settings and the exit codes.

Exit code 0: it worked. 1: it did not, and the last line says why. 2: the arguments are wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime as dt
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from blocks.base.errors import ConnectorError, InvalidInputError, TransientError
from blocks.cli import saved, templates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVER_PATIENCE_S = 120


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of `etl` with these arguments."""
    arguments = _parser().parse_args(argv)
    try:
        with _settings(), _tracebacks(shown=arguments.debug):
            return _run(arguments)
    except ConnectorError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="etl", description="Templates and saved blocks of etl-blocks.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("list", help="the templates and the block types there are")

    new = commands.add_parser("new", help="copy a template into a folder of yours")
    new.add_argument("template", metavar="NAME", help="a template, see 'etl list'")
    new.add_argument("folder", metavar="DIR", type=Path, help="created where it does not exist; nothing is overwritten")

    run = commands.add_parser(
        "run",
        help="run a template's flow, or your copy's",
        description="Run a template's flow, or your copy's. 'etl run NAME --help' shows its parameters.",
    )
    run.add_argument("flow", metavar="NAME", help="a template or a file, and where it has several flows NAME:FLOW")
    run.add_argument("parameters", nargs=argparse.REMAINDER, metavar="--PARAMETER VALUE", help="the flow's parameters")

    save = commands.add_parser(
        "save",
        help="create or update the saved blocks that a file describes",
        description=saved.FILE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    save.add_argument("file", metavar="FILE.toml", type=Path)

    check = commands.add_parser("check", help="prove that saved blocks work: reachable, authenticated, allowed")
    check.add_argument("blocks", metavar="BLOCK", nargs="*", help="such as etl-postgres/prod; all of ours by default")
    check.add_argument(
        "--sweep", action="store_true", help="remove what uploads of killed processes left in these buckets"
    )
    check.add_argument(
        "--older-than",
        metavar="HOURS",
        type=float,
        default=24.0,
        help="what --sweep leaves alone is younger, and may still be under way (default: 24)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "list":
            templates.show(saved.block_types())
        case "new":
            templates.copy(arguments.template, arguments.folder)
        case "run":
            templates.run(arguments.flow, arguments.parameters, start_server)
        case "save":
            blocks = saved.read_file(arguments.file)
            start_server()
            saved.save(blocks)
        case "check":
            if arguments.sweep and not arguments.blocks:
                raise InvalidInputError("Name the buckets to sweep: etl check --sweep BLOCK.")
            start_server()
            older_than = dt.timedelta(hours=arguments.older_than) if arguments.sweep else None
            return 0 if saved.check(arguments.blocks, sweep_older_than=older_than) else 1
    return 0


def start_server() -> None:
    """Returns once Prefect's API answers; without an API URL, Prefect starts a temporary server for this process.

    Raises:
        TransientError: It does not answer.
    """
    url = PREFECT_API_URL.value()
    problem: Exception | None
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except RuntimeError as error:  # what Prefect raises where its temporary server does not start
        problem = error
    if problem is not None:
        where = f"Prefect's API at {url}" if url else "Prefect's temporary server"
        advice = "Check PREFECT_API_URL." if url else "Try again, or start one: 'prefect server start'."
        raise TransientError(f"{where} does not answer: {problem}. {advice}") from problem


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    settings: dict[Any, Any] = {
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: SERVER_PATIENCE_S,
    }
    if not PREFECT_API_URL.value():
        # A flow run waits a second for its heartbeat thread, and a server that ends with it looks for no zombies.
        settings[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    with temporary_settings(settings):
        yield


@contextlib.contextmanager
def _tracebacks(*, shown: bool) -> Iterator[None]:
    """Keeps tracebacks off the console; Prefect's API still gets them with the run's log."""
    loggers = (logging.getLogger(), logging.getLogger("prefect"))  # Prefect's own choice, and a user's logging.yml
    handlers = [each for logger in loggers for each in logger.handlers if isinstance(each, PrefectConsoleHandler)]
    if shown or not handlers:
        yield
        return
    formatters = [handler.formatter for handler in handlers]
    try:
        for handler in handlers:
            handler.setFormatter(_WithoutTraceback(handler.formatter or logging.Formatter()))
        yield
    finally:
        for handler, formatter in zip(handlers, formatters, strict=True):
            handler.setFormatter(formatter)


class _WithoutTraceback(logging.Formatter):
    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        bare = copy.copy(record)
        bare.exc_info = bare.exc_text = None
        return self._formatter.format(bare)
