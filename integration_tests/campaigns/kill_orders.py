"""Kills the orders pipeline ten times at random moments of a TPC-H load into PostgreSQL, and counts what is there.

    python -m integration_tests.campaigns.kill_orders [--days 250] [--kills 10] [--seed 1]

Each try runs `orders_backfill` in a process of its own, which is ended by SIGKILL; the last one may finish. Then the
table has to equal the input, and the ledger has to hold one row for each day.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from connectors.local import LocalFiles
from connectors.postgres import Postgres
from integration_tests.campaigns import tpch
from integration_tests.standins.postgres import PostgresServer


def load(folder: Path, count: int, port: int) -> None:
    """One try: all days, into PostgreSQL."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    module = tpch.owned_copy(folder)
    wanted = tpch.days(count)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        module.orders_backfill(
            wanted[0],
            wanted[-1],
            LocalFiles(basepath=str(folder)),
            LocalFiles(basepath=str(folder / "lake")),
            warehouse(port),
        )


def warehouse(port: int) -> Postgres:
    """The stand-in, over TLS."""
    return Postgres(host="127.0.0.1", port=port, username="postgres", password="s3cret", ssl_mode="require")


def main() -> int:
    """0 where the table equals the input after all kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=250)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--try-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.try_in:
        load(options.try_in, options.days, options.port)
        return 0

    moments = random.Random(options.seed)
    server = PostgresServer().start()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            tpch.generate(folder)
            target = warehouse(server.port)
            command = [sys.executable, "-m", __spec__.name, "--days", str(options.days)]
            command += ["--try-in", str(folder), "--port", str(server.port)]
            for number in range(options.kills):
                before = loaded(target)
                child = subprocess.Popen(command, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"})
                while loaded(target) == before and child.poll() is None:
                    time.sleep(0.02)  # until it has started to load
                time.sleep(moments.uniform(0, 4))
                finished = child.poll() is not None
                child.send_signal(signal.SIGKILL)
                child.wait()
                print(f"try {number + 1}: {'finished' if finished else 'killed'} at {loaded(target)} days", flush=True)
            subprocess.run(command, check=True, env=os.environ | {"PREFECT_LOGGING_LEVEL": "ERROR"})
            wanted = tpch.totals(folder, tpch.days(options.days))
            found = tpch.Totals(*target.fetch_all(tpch.TABLE_TOTALS)[0])
            ledger = target.fetch_all("SELECT count(*), count(DISTINCT load_id), sum(row_count) FROM _etl_loads")[0]
        finally:
            server.close()
    print(f"input   {wanted}\ntable   {found}\nledger  {ledger[0]} rows, {ledger[1]} loads, {ledger[2]} orders")
    equal = wanted == found and ledger == (options.days, options.days, wanted.rows)
    print("equal" if equal else "NOT EQUAL")
    return 0 if equal else 1


def loaded(target: Postgres) -> int:
    """How many days the ledger has."""
    if target.fetch_all("SELECT to_regclass('public._etl_loads')")[0][0] is None:
        return 0
    count: int = target.fetch_all("SELECT count(*) FROM _etl_loads")[0][0]
    return count


if __name__ == "__main__":
    sys.exit(main())
