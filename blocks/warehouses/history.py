"""The history of loads: what the ledger knows of them, as a page with the trend of each table."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from blocks.base.artifacts import cell
from blocks.warehouses.load import LoadReport

if TYPE_CHECKING:
    from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
TREND = 20
"""So many of the last loads make the trend of a table."""
SHOWN = 50
"""So many loads are listed one by one."""


class LoadHistory(BaseModel):
    """Loads that were committed, the newest first."""

    model_config = ConfigDict(frozen=True)

    loads: tuple[LoadReport, ...] = Field(description="The reports of the loads, the newest first.")

    def by_table(self) -> dict[str, list[LoadReport]]:
        """Return the loads of each table, the newest first; tables by their names."""
        found: defaultdict[str, list[LoadReport]] = defaultdict(list)
        for load in self.loads:
            found[load.table].append(load)
        return dict(sorted(found.items()))

    def markdown(self) -> str:
        """Return a page: each table with its trend, the oldest load on the left, and then the last loads."""
        lines = [
            "# Loads",
            "",
            "| Table | Loads | Last load (UTC) | Rows | Trend of rows | Seconds | Trend of seconds | Quarantined |",
            "| --- | ---: | --- | ---: | --- | ---: | --- | ---: |",
        ]
        for table, loads in self.by_table().items():
            last, recent = loads[0], loads[:TREND][::-1]
            lines.append(
                f"| {cell(table)} | {len(loads):,} | {last.finished_at:%Y-%m-%d %H:%M} "
                f"| {last.rows:,} | {bars([load.rows for load in recent])} "
                f"| {last.seconds:,.2f} | {bars([load.seconds for load in recent])} "
                f"| {sum(load.rows_rejected for load in loads):,} |"
            )
        lines += [
            "",
            "## The last loads",
            "",
            "| Finished (UTC) | Table | Mode | Rows | Seconds | Quarantined | Load ID |",
            "| --- | --- | --- | ---: | ---: | ---: | --- |",
        ]
        lines += [
            f"| {load.finished_at:%Y-%m-%d %H:%M:%S} | {cell(load.table)} | {load.mode.replace('_', ' ')} "
            f"| {load.rows:,} | {load.seconds:,.2f} | {load.rows_rejected:,} | `{cell(load.load_id)}` |"
            for load in self.loads[:SHOWN]
        ]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        tables = [f"{table}: {len(loads)} loads, the last {loads[0]}" for table, loads in self.by_table().items()]
        return "\n".join(tables) or "no loads"


def bars(values: Sequence[float]) -> str:
    """Return the values as a line of bars, the greatest at full height.

    >>> bars([0, 10, 5, 20])
    '▁▄▂█'
    """
    top = max(values, default=0)
    return "".join(BARS[int(value / top * (len(BARS) - 1)) if top else 0] for value in values)
