"""The commands of `etl`: their arguments, the settings and the exit codes.

Exit code 0: it worked. 1: it did not, and the last line says why. 2: the arguments are wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import datetime as dt
import logging
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter
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
from blocks.cli import saved, states, templates
from blocks.cli.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVER_PATIENCE_S = 120


def versions() -> str:
    """Return the versions that a report of a bug needs."""
    return f"etl-blocks {version('etl-blocks')}, Prefect {version('prefect')}, Python {platform.python_version()}"


app = App(name="etl", help="Templates and saved blocks of etl-blocks.", version=versions, help_format="plaintext")
app.register_install_completion_command(help="Install completion for this shell: bash, zsh or fish.")
# `--debug` comes before the command: what follows `run NAME` belongs to the flow.
app.meta.parse_mode = "strict"
app.meta.group_parameters = Group("Options")
app.meta.help_flags = []
app.meta.version_flags = []
app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False  # main answers with its code


def main(argv: Sequence[str] | None = None) -> int:
    """Run `etl` with these arguments, those of this process by default, and return its exit code."""
    try:
        code: int | None = app.meta(
            sys.argv[1:] if argv is None else argv, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0


@app.meta.default
def _command(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[
        bool, Parameter(help="Show tracebacks. It comes before the command.", negative=(), show_default=False)
    ] = False,
) -> int | None:
    if not tokens:
        app.help_print(console=app.error_console)
        return 2
    try:
        with _settings(), contextlib.nullcontext() if debug else without_tracebacks():
            code: int | None = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            return code
    except ConnectorError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


@app.command(name="list")
def _list() -> None:
    """List the templates and the block types."""
    templates.show(saved.block_types())


@app.command(name="new")
def _new(
    name: str, folder: Path, /, *, deploy: Annotated[bool, Parameter(negative=(), show_default=False)] = False
) -> None:
    """Copy a template into a folder.

    Parameters
    ----------
    name
        A template, see 'etl list'.
    folder
        The folder. It is made where it does not exist; nothing is overwritten.
    deploy
        Write what deploys it, too: prefect.yaml, Dockerfile, compose.yaml and a README with the commands.
    """
    templates.copy(name, folder, deploy=deploy)


@app.command(name="run", help_flags=[], version_flags=[])  # what follows NAME is the flow's, --help too
def _run(
    name: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *parameters: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> None:
    """Run a template's flow, or that of a file. 'etl run NAME --help' shows its parameters.

    Parameters
    ----------
    name
        A template or a file; where it has several flows, NAME:FLOW.
    parameters
        The flow's parameters: --PARAMETER VALUE.
    """
    if name in app.help_flags:
        app.help_print(["run"])
    else:
        templates.run(name, parameters, start_server)


@app.command(name="save", help=saved.FILE_HELP)
def _save(file: Annotated[Path, Parameter(help="The file, in TOML.")], /) -> None:
    blocks = saved.read_file(file)
    start_server()
    saved.save(blocks)


@app.command(name="migrate")
def _migrate(*, apply: Annotated[bool, Parameter(negative=(), show_default=False)] = False) -> int:
    """Show what takes the place of saved blocks of Prefect's collections, and with --apply save it.

    Ours get the same names, and the secrets with them. Theirs stay, and what is there of ours stays as it is.

    Parameters
    ----------
    apply
        Save the blocks. Without it nothing changes.
    """
    start_server()
    return 0 if migrate(apply=apply) else 1


@app.command(name="check")
def _check(
    *blocks: str, sweep: Annotated[bool, Parameter(negative=(), show_default=False)] = False, older_than: float = 24.0
) -> int:
    """Prove that saved blocks work: reachable, authenticated, allowed.

    Parameters
    ----------
    blocks
        The blocks, such as etl-postgres/prod. Defaults to all saved ones of etl-blocks.
    sweep
        Remove what uploads of killed processes left in these buckets.
    older_than
        Hours. --sweep leaves alone what is younger, which may still be under way.
    """
    if sweep and not blocks:
        raise InvalidInputError("Name the buckets to sweep: etl check --sweep BLOCK.")
    start_server()
    return 0 if saved.check(blocks, sweep_older_than=dt.timedelta(hours=older_than) if sweep else None) else 1


state = App(name="state", help="How far the loads under a state have read: show it, set it, reset it.")
app.command(state)


@state.command(name="show")
def _show_state(
    block: str, name: str | None = None, /, *, json: Annotated[bool, Parameter(negative=(), show_default=False)] = False
) -> None:
    """Show from where the next load of each state reads on.

    Parameters
    ----------
    block
        A saved warehouse, such as etl-postgres/prod.
    name
        Only this state.
    json
        Print all that is known of it, as JSON.
    """
    start_server()
    states.show(block, name, as_json=json)


@state.command(name="set")
def _set_state(
    block: str,
    name: str,
    value: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    number: int | None = None,
) -> None:
    """Have the next load of a state read from a value of its cursor on, that value included.

    Parameters
    ----------
    block
        A saved warehouse, such as etl-postgres/prod.
    name
        The state.
    value
        The value; a time with its zone where the cursor has one.
    number
        Instead of a value: the load of the state behind which the next one begins again.
    """
    start_server()
    states.set_to(block, name, value, number)


@state.command(name="reset")
def _reset_state(block: str, name: str, /) -> None:
    """Have the next load of a state read everything. What was loaded stays where it is.

    Parameters
    ----------
    block
        A saved warehouse, such as etl-postgres/prod.
    name
        The state.
    """
    start_server()
    states.reset(block, name)


def start_server() -> None:
    """Wait until Prefect's API answers; without an API URL, Prefect starts a temporary server for this process.

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
    if not url:
        _end_server_with_us()


def _end_server_with_us() -> None:
    """Have Prefect's temporary server ended also where this process is killed; at its ordinary end Prefect does it."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer().server_process
    if server is None:
        return
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")), str(server.pid)]
    watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 (our own)
    atexit.register(watchdog.communicate, b"the end is an ordinary one")


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
def without_tracebacks() -> Iterator[None]:
    """Keep tracebacks off the console while this lasts; Prefect's API still gets them with the log of the run.

    An error that says in one line what is wrong would otherwise stand below a hundred lines of Prefect's engine, which
    logs every exception of a task and of a flow with its traceback and has no setting for that:
    https://github.com/PrefectHQ/prefect/issues/7959
    """
    loggers = (logging.getLogger(), logging.getLogger("prefect"))  # Prefect's own choice, and a user's logging.yml
    handlers = [each for logger in loggers for each in logger.handlers if isinstance(each, PrefectConsoleHandler)]
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
