"""Load the files of a shop as they are, transform them in the warehouse with dbt, and check the result.

Install:  etl-blocks with the extras dbt and great-expectations (for PostgreSQL: dbt-postgres in place of dbt)
Run:      python elt_with_dbt.py                               (or: etl run elt_with_dbt)
          python elt_with_dbt.py serve                         (every day, from the UI and the API of Prefect's server)

Promises: a run that is repeated, retried or killed half way leaves the same tables. A file that has not changed is not
loaded again; late and corrected rows arrive. A row that cannot be read goes to the table `_etl_quarantine` with its
line and the reason; above MAX_REJECTED nothing of that file is loaded. Each node of the dbt project is a task run. What
was checked is kept as pages, whether it holds or not.

Change: what is marked with CHANGE. Out of the box the source is the data beside this file, the warehouse a DuckDB file
and the pages a local folder; pass the names of saved blocks to use others, such as
`--source etl-s3-bucket/raw --warehouse etl-postgres/prod --pages etl-s3-bucket/quality`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from prefect import flow, task, unmapped
from pydantic import BaseModel

from blocks import (
    CsvOptions,
    LoadReport,
    ObjectStore,
    QualityReport,
    Saved,
    Warehouse,
    conclude,
    keep_markdown,
    resolve,
    retry_if_transient,
)
from connectors.dbt import DbtProject, DbtResult
from connectors.duckdb import DuckDB
from connectors.great_expectations import DataQuality
from connectors.local import LocalFiles

DATA = Path(__file__).parent / "data"
SOURCE = LocalFiles(basepath=str(DATA / "shop"))
WAREHOUSE = DuckDB(path="warehouse/shop.duckdb")
PAGES = LocalFiles(basepath="warehouse/quality")
TARGET = Path("warehouse/dbt")  # what dbt writes: its documentation, and what a retry has to know

NUMBER, TEXT, TIME = pa.int64(), pa.string(), pa.timestamp("us")
MONEY, SHARE = pa.decimal128(10, 2), pa.decimal128(4, 2)


@dataclass(frozen=True)
class RawTable:
    """A file, and the columns of it that are loaded: those that have to have a value, and the others."""

    file: str
    required: dict[str, pa.DataType]
    optional: dict[str, pa.DataType]

    @property
    def schema(self) -> pa.Schema:
        """Return what the file has to contain; its other columns are left out."""
        required = [pa.field(name, kind, nullable=False) for name, kind in self.required.items()]
        return pa.schema([*required, *(pa.field(name, kind) for name, kind in self.optional.items())])


TABLES = {  # CHANGE: the tables that the dbt project has as sources
    "raw_customers": RawTable(
        "customers.csv", {"customerID": TEXT, "country": TEXT}, {"companyName": TEXT, "city": TEXT}
    ),
    "raw_products": RawTable(
        "products.csv",
        {"productID": NUMBER, "productName": TEXT, "categoryID": NUMBER},
        {"unitPrice": MONEY, "unitsInStock": NUMBER, "discontinued": pa.bool_()},
    ),
    "raw_orders": RawTable(
        "orders.csv",
        {"orderID": NUMBER, "customerID": TEXT, "orderDate": TIME, "shipCountry": TEXT},
        {"requiredDate": TIME, "shippedDate": TIME, "shipVia": NUMBER, "freight": MONEY},
    ),
    "raw_order_details": RawTable(
        "order-details.csv",
        {"orderID": NUMBER, "productID": NUMBER, "unitPrice": MONEY, "quantity": NUMBER, "discount": SHARE},
        {},
    ),
}
CSV = CsvOptions(null_values=("", "NULL"))  # CHANGE: how the files are written down
MAX_REJECTED = 0.3  # CHANGE: the share of a file's rows that may be refused
PROJECT = DATA / "shop_dbt"  # CHANGE: the dbt project
SUITES = PROJECT / "quality"  # CHANGE: what is checked of each table, in the JSON of Great Expectations


class ShopReport(BaseModel):
    """What a run did."""

    loads: list[LoadReport]
    dbt: DbtResult
    checks: list[QualityReport]

    def __str__(self) -> str:
        return "\n".join(["shop", *(f"  {part}" for part in (*self.loads, self.dbt, *self.checks))])

    def markdown(self) -> str:
        """Return the report as a page, with links to the pages of the checks."""
        lines = [*map(str, self.loads), str(self.dbt)]
        lines += [f"{check}" + (f" [page]({check.docs})" if check.docs else "") for check in self.checks]
        return "\n".join(["# The shop", "", *(f"* {line}" for line in lines), ""])


@task(task_run_name="load {table}", retries=2, retry_delay_seconds=10, retry_condition_fn=retry_if_transient)
def ingest(table: str, source: ObjectStore, warehouse: Warehouse) -> LoadReport:
    """Load the raw table from the file as it is now; the identity of the load is the version of the file."""
    raw = TABLES[table]
    info = source.head_object(raw.file)
    rows = source.scan(raw.file, schema=raw.schema, options=CSV, on_error="quarantine")
    load_id = f"{table}/{info.last_modified:%Y%m%dT%H%M%S}/{info.version or info.etag}"
    return warehouse.load(rows, table, mode="replace", load_id=load_id, max_rejected=MAX_REJECTED)


@flow
def elt_with_dbt(
    source: Saved[ObjectStore] = None,
    warehouse: Saved[Warehouse] = None,
    pages: Saved[ObjectStore] = None,
) -> ShopReport:
    """Bring the shop's tables up to date.

    Args:
        source: The store that holds the CSV files, such as etl-s3-bucket/raw. Defaults to the data beside this file.
        warehouse: The warehouse that gets the tables, such as etl-postgres/prod. Defaults to a DuckDB file.
        pages: The store that gets the pages of the checks, such as etl-s3-bucket/pages. Defaults to a local folder.
    """
    source, pages = resolve(source or SOURCE, ObjectStore), resolve(pages or PAGES, ObjectStore)
    warehouse = resolve(warehouse or WAREHOUSE, Warehouse)
    loads = ingest.map([*TABLES], unmapped(source), unmapped(warehouse)).result()
    built = DbtProject(project_dir=PROJECT, target=warehouse, target_path=TARGET).build()
    checks = []
    for suite in sorted(SUITES.glob("*.json")):  # named like the table
        quality = DataQuality.from_suite(suite, docs=pages, raise_on_failure=False)
        checks.append(quality.validate(warehouse, table=suite.stem))
    report = ShopReport(loads=loads, dbt=built, checks=checks)
    keep_markdown("shop", report.markdown())
    for checked in checks:
        checked.raise_for_failures()
    return conclude(report)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        elt_with_dbt.serve("daily", cron="0 6 * * *")  # CHANGE: when it runs, in UTC
    else:
        print(elt_with_dbt())
