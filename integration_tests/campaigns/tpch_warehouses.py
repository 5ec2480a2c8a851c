"""TPC-H orders (SF 0.1) through the unchanged pipeline into saved blocks of cloud warehouses, and counted there.

    python -m integration_tests.campaigns.tpch_warehouses [--days 60] [snowflake] [bigquery]

The first days go in one by one by `orders_backfill`, twice; then all 150,000 orders go into a table of their own by one
`load`, twice.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from blocks.base.block import resolve
from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials
from blocks.warehouses.warehouse import Warehouse
from connectors.bigquery import BigQuery
from connectors.local import LocalFiles
from connectors.snowflake import Snowflake
from integration_tests.campaigns import tpch
from integration_tests.standins import bigquery as bigquery_standin
from integration_tests.standins import snowflake as snowflake_standin

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def saved_block(kind: str) -> Iterator[str]:
    """The name of a saved block over an empty schema of a stand-in of its own."""
    if kind == "snowflake":
        with snowflake_standin.SnowflakeServer() as server:
            credentials = SnowflakeCredentials(
                account="standin",
                user=snowflake_standin.USER,
                password=snowflake_standin.PASSWORD,
                **server.connection(),
            )
            fields = snowflake_standin.fields(snowflake_standin.new_schema_name())
            block: Warehouse = Snowflake(credentials=credentials, **fields)
            block.execute(f"CREATE SCHEMA {block.dialect.name(fields['schema'])}")
            block.save("prod", overwrite=True)
            yield "etl-snowflake/prod"
    else:
        with bigquery_standin.BigQueryServer() as server:
            nobody = GcpCredentials(anonymous=True, endpoint_url=server.url)
            block = BigQuery(gcp_credentials=nobody, project=bigquery_standin.PROJECT, dataset=server.new_dataset())
            block.save("prod", overwrite=True)
            yield "etl-big-query/prod"


def main() -> int:
    """0 where every table equals its input, also after the second time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("kinds", nargs="*", default=["snowflake", "bigquery"])
    options = parser.parse_args()
    all_equal = True
    with (
        tempfile.TemporaryDirectory() as temporary,
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        folder = Path(temporary)
        tpch.generate(folder, scale=0.1)
        module = tpch.owned_copy(folder)
        some = tpch.days(options.days)
        every = [day for day in tpch.days((tpch.LAST_DAY - tpch.FIRST_DAY).days + 1) if _file(folder, day).exists()]
        for kind in options.kinds:
            with saved_block(kind) as name:
                warehouse = resolve(name, Warehouse)
                for _ in range(2):
                    lake = LocalFiles(basepath=str(folder / f"lake-{kind}"))
                    module.orders_backfill(some[0], some[-1], LocalFiles(basepath=str(folder)), lake, name)
                    all_equal &= _counted(warehouse, "orders", tpch.totals(folder, some))
                for _ in range(2):
                    orders = LocalFiles(basepath=str(folder)).scan("source/*.csv", schema=module.SCHEMA)
                    print(warehouse.load(orders, "all_orders", mode="upsert", key=["o_orderkey"], load_id="all"))
                    all_equal &= _counted(warehouse, "all_orders", tpch.totals(folder, every))
                ledger = warehouse.fetch_all("SELECT count(*), count(DISTINCT load_id) FROM _etl_loads")[0]
                print(f"{name}: ledger {ledger[0]} rows, {ledger[1]} loads", flush=True)
    print("equal" if all_equal else "NOT EQUAL")
    return 0 if all_equal else 1


def _file(folder: Path, day: object) -> Path:
    return folder / "source" / f"orders_{day}.csv"


def _counted(warehouse: Warehouse, table: str, wanted: tpch.Totals) -> bool:
    """Whether the table has the totals: read out and added up here, as a stand-in adds decimals as floats."""
    rows = warehouse.read_table(table)
    price, keys = (pc.sum(rows[name]).as_py() for name in ("o_totalprice", "o_orderkey"))
    found = tpch.Totals(rows.num_rows, price, keys, pc.sum(pc.utf8_length(rows["o_comment"])).as_py())
    print(f"{warehouse.uri(table)}\n  input {wanted}\n  table {found}", flush=True)
    return found == wanted


if __name__ == "__main__":
    sys.exit(main())
