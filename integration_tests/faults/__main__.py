"""The attack from the command line; see the package.

python -m integration_tests.faults --cases 10000 --seed 1 [--only PostgreSQL,DuckDB] [--case 4711]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

STATES = Path(".faults")
HUNG = 3


def main() -> int:
    """0 where nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0, help="drawn where it is 0, and printed")
    parser.add_argument("--case", type=int, help="only this one, again")
    parser.add_argument("--only", default="", help="names of targets, with commas between them")
    parser.add_argument("--mutant", help="break the protocol in this way")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what runs then ends what it has started
    options.seed = options.seed or secrets.randbelow(10**6) + 1
    if options.worker or options.case is not None:
        return attack(options)
    print(f"seed {options.seed}; results in {STATES / str(options.seed)}.jsonl", flush=True)
    command = [sys.executable, "-m", __spec__.name, "--worker", "--seed", str(options.seed)]
    command += ["--cases", str(options.cases), "--only", options.only]
    command += ["--mutant", options.mutant] if options.mutant else []
    while (code := run(command)) == HUNG:
        print("A case hung; going on with the next one.", flush=True)
    return code


def run(command: list[str]) -> int:
    """The exit code of a worker, which ends its servers when this process is told to end."""
    with subprocess.Popen(command) as worker:
        try:
            return worker.wait()
        except BaseException:
            worker.terminate()
            raise


def attack(options: argparse.Namespace) -> int:
    """Run the cases in this process."""
    prepare_environment()
    from integration_tests.faults.attack import describe
    from integration_tests.faults.campaign import Campaign, State, table
    from integration_tests.faults.cases import draw
    from integration_tests.faults.mutants import mutated
    from integration_tests.faults.targets.all import TARGETS

    targets = tuple(TARGETS.values())
    only = set(filter(None, options.only.split(",")))
    with contextlib.ExitStack() as stack:
        if options.mutant:
            stack.enter_context(mutated(options.mutant))
        campaign = stack.enter_context(Campaign(targets, settings=prefect(stack), mutant=options.mutant))
        if options.case is not None:
            result = campaign.run(draw(options.seed, options.case, targets))
            if result is None:
                print(campaign.unavailable)
                return 1
            print(describe(result) if result.wrong else f"right: {result}", f"fired: {result.fired}", sep="\n")
            return bool(result.wrong)
        state = State(STATES / f"{options.seed}.jsonl")
        chosen = (n for n in range(options.cases) if not only or draw(options.seed, n, targets).target in only)
        campaign.run_all(options.seed, chosen, state, lambda text: print(text, flush=True))
        text = table(targets, options.seed, state, campaign.unavailable)
        (STATES / f"{options.seed}.md").write_text(text)
        print(text)
        return any(line["wrong"] for line in state.done.values())


def prepare_environment() -> None:
    """No settings of whoever runs it, and a home of its own for Prefect."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "PG", "PREFECT_", "SNOWFLAKE_", "STORAGE_")):
            del os.environ[name]
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="faults-prefect-")
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "600"
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def prefect(stack: contextlib.ExitStack) -> Callable[[], Any]:
    """Starts Prefect's temporary server at the first flow."""
    started: list[bool] = []

    def settings() -> Any:
        if not started:
            from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
            from prefect.testing.utilities import prefect_test_harness

            case, tempfile.tempdir = tempfile.tempdir, None  # its files are not those of the first case that needs it
            stack.enter_context(prefect_test_harness(server_startup_timeout=600))
            stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
            started.append(True)
            tempfile.tempdir = case
        return contextlib.nullcontext()

    return settings


if __name__ == "__main__":
    sys.exit(main())
