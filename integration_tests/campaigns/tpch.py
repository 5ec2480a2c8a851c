"""TPC-H orders as a source for the orders pipeline: one CSV per order date, and an owned copy of the template."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import templates

if TYPE_CHECKING:
    from types import ModuleType

FIRST_DAY = date(1992, 1, 1)
LAST_DAY = date(1998, 8, 2)

CHANGES = {
    'pa.field("order_id", pa.int64(), nullable=False),': 'pa.field("o_orderkey", pa.int64(), nullable=False),',
    'pa.field("customer", pa.string()),': 'pa.field("o_custkey", pa.int64(), nullable=False),',
    'pa.field("city", pa.string()),': 'pa.field("o_orderstatus", pa.string()),',
    'pa.field("ordered_at", pa.timestamp("us", "UTC")),': 'pa.field("o_orderdate", pa.date32(), nullable=False),',
    'pa.field("status", pa.string()),': (
        'pa.field("o_orderpriority", pa.string()),\n        pa.field("o_clerk", pa.string()),\n'
        '        pa.field("o_shippriority", pa.int32()),\n        pa.field("o_comment", pa.string()),'
    ),
    'pa.field("amount", pa.decimal128(12, 2), nullable=False),': (
        'pa.field("o_totalprice", pa.decimal128(15, 2), nullable=False),'
    ),
    'KEY = ["order_id"]': 'KEY = ["o_orderkey"]',
    'rows["amount"]': 'rows["o_totalprice"]',
    'column="amount"': 'column="o_totalprice"',
}
"""What a user would change in the template for these files."""


@dataclass(frozen=True)
class Totals:
    """What has to come out again."""

    rows: int
    total_price: Decimal
    keys: int
    comment_characters: int


def days(count: int) -> list[date]:
    """The first days of TPC-H's order dates."""
    return [FIRST_DAY + timedelta(days=n) for n in range(count)]


def generate(folder: Path, *, scale: float = 1) -> None:
    """Write `source/orders_<day>.csv` for each order date: the lines of tpchgen-cli's file, each in its day's file."""
    program = shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent)) or "tpchgen-cli"
    subprocess.run(
        [program, "csv", "-s", str(scale), "--tables=orders", f"--output-dir={folder}"], check=True, capture_output=True
    )
    by_day: defaultdict[str, list[str]] = defaultdict(list)
    with (folder / "orders.csv").open(encoding="utf-8") as file:
        header = next(file)
        for line in file:
            by_day[line.split(",", 5)[4]].append(line)
    (folder / "source").mkdir()
    for day, lines in by_day.items():
        (folder / "source" / f"orders_{day}.csv").write_text(header + "".join(lines), encoding="utf-8")
    (folder / "orders.csv").unlink()


def totals(folder: Path, wanted: list[date]) -> Totals:
    """The totals of some days' files, by nothing but Python's own csv reader."""
    import csv

    rows = keys = characters = 0
    price = Decimal(0)
    for day in wanted:
        with (folder / "source" / f"orders_{day}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows += 1
                keys += int(row["o_orderkey"])
                price += Decimal(row["o_totalprice"])
                characters += len(row["o_comment"])
    return Totals(rows, price, keys, characters)


def owned_copy(folder: Path) -> ModuleType:
    """The template, copied and changed as a user would, as a module of its own."""
    text = (Path(templates.__path__[0]) / "orders_pipeline.py").read_text(encoding="utf-8")
    for before, after in CHANGES.items():
        if before not in text:
            raise ValueError(f"The template has no line {before!r} any more.")
        text = text.replace(before, after)
    target = folder / "orders_pipeline.py"
    target.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("orders_pipeline", target)
    if spec is None or spec.loader is None:
        raise ImportError(str(target))
    module = importlib.util.module_from_spec(spec)
    sys.modules["orders_pipeline"] = module
    spec.loader.exec_module(module)
    return module


TABLE_TOTALS = "SELECT count(*), sum(o_totalprice), sum(o_orderkey), sum(length(o_comment)) FROM orders"
