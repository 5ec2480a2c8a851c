"""Movements: what a load or a write has moved, and the one place from which everybody hears of it.

    announce(report.movement(target=..., tool=...), self.logger)

The log gets a line with named fields, by which it can be searched once it is shipped as JSON. Within a run of Prefect
the run gets a page, an artifact under the same key for each load of a table, the table becomes an asset, and an event
says so, which other flows can be started by. Outside of a run there is only the line. `ETL_SHOW_LOADS=false` leaves
pages, assets and events out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from blocks.base.artifacts import artifact_key, cell, keep_markdown
from blocks.base.assets import MOST_ORIGINS, note_asset
from blocks.base.events import DATASET_WRITTEN, TABLE_LOADED, described, emit
from blocks.base.names import short_digest
from blocks.base.runs import loads_are_shown

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOWEST_SHOWN = 0.1
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, kw_only=True)
class Movement:
    """What a load or a write has moved.

    Attributes:
        verb: What it was.
        name: The table or the folder, as the caller wrote it.
        target: The asset key of it.
        tool: The type of the block that did it.
        origins: The asset keys of what the rows came from, where these are tables or objects.
        mode: The write mode.
        load_id: The identity of the load, where it has one.
        rows: How many rows it moved.
        bytes: Their size: of a load in memory, of a write in its files; None where nobody here saw them.
        seconds: How long it took.
        changes: What else was counted, such as rows inserted and updated, or files.
        rejected: Rows that were refused, by reason.
        quarantine: The address of the refused rows, or the statement that shows them.
        ddl: The statements that changed the shape of the table.
        ignored_columns: Columns of the data that were left out.
        is_repeat: Whether it had been done before, so that nothing was changed.
        text: All of it in one line.
    """

    verb: Literal["load", "write"]
    name: str
    target: str
    tool: str
    origins: tuple[str, ...] = ()
    mode: str
    load_id: str | None = None
    rows: int
    bytes: int | None
    seconds: float
    changes: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    quarantine: str | None = None
    ddl: tuple[str, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    is_repeat: bool = False
    text: str

    @property
    def key(self) -> str:
        """The key of its page: the same for each load of the table, and another one for any other table.

        It begins with the name, by which people look for it.
        """
        return artifact_key(f"{self.verb}-{self.name}-{short_digest(self.target)}")

    @property
    def megabytes_per_second(self) -> float | None:
        """How fast it was, in MB (a million bytes) a second; None where nobody saw the bytes, or it took no time."""
        return None if self.bytes is None or not self.seconds else round(self.bytes / 1e6 / self.seconds, 3)

    def fields(self) -> dict[str, Any]:
        """Return it as named fields: numbers, texts and lists of texts."""
        values = {
            "event": self.verb,
            "name": self.name,
            "target": self.target,
            "tool": self.tool,
            "origins": list(self.origins),
            "mode": self.mode,
            "load_id": self.load_id,
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "megabytes_per_second": self.megabytes_per_second,
            **self.changes,
            "rejected": sum(self.rejected.values()),
            "quarantine": self.quarantine,
            "schema_changes": list(self.ddl),
            "ignored_columns": list(self.ignored_columns),
            "already_loaded": self.is_repeat,
        }
        return {name: value for name, value in values.items() if value is not None}

    def markdown(self) -> str:
        """Return the page: what was moved and how fast, what was refused and why, how the table was changed."""
        done = (
            "already loaded, nothing changed" if self.is_repeat else {"load": "loaded", "write": "written"}[self.verb]
        )
        lines = [f"# {self.name}: {self.rows:,} rows {done}", "", "| What | Value |", "| --- | --- |"]
        lines += [f"| {name} | {cell(value)} |" for name, value in self._facts().items() if value]
        if self.rejected:
            lines += ["", f"## {sum(self.rejected.values()):,} rows were quarantined", ""]
            lines += ["| Reason | Rows |", "| --- | ---: |"]
            lines += [f"| {cell(reason)} | {count:,} |" for reason, count in self.rejected.items()]
            lines += ["", *self._shown_quarantine()]
        if self.ddl:
            lines += ["", "## The table was changed", "", "```sql", *(f"{each};" for each in self.ddl), "```"]
        if self.ignored_columns:
            names = ", ".join(f"`{name}`" for name in self.ignored_columns)
            lines += ["", "## Columns that were left out", "", names]
        return "\n".join(lines) + "\n"

    def _facts(self) -> dict[str, str]:
        changes = ", ".join(f"{count:,} {what}" for what, count in self.changes.items() if count)
        speed = [f"{self.rows / self.seconds:,.0f} rows/s"] if self.seconds and self.rows else []
        if (self.megabytes_per_second or 0) >= SLOWEST_SHOWN:
            speed.append(f"{self.megabytes_per_second:,.1f} MB/s")
        return {
            "Into": f"`{self.target}`",
            "From": ", ".join(f"`{origin}`" for origin in self.origins),
            "Mode": self.mode.replace("_", " "),
            "Rows": f"{self.rows:,}" + (f" ({changes})" if changes else ""),
            "Size": "" if self.bytes is None else _size(self.bytes),
            "Time": f"{self.seconds:,.2f} s" + (f" ({', '.join(speed)})" if speed else ""),
            "Load ID": f"`{self.load_id}`" if self.load_id else "",
        }

    def _shown_quarantine(self) -> list[str]:
        if not self.quarantine:
            return []
        if "://" in self.quarantine:
            return [f"They are in [{self.quarantine}]({self.quarantine})."]
        return ["They are shown by:", "", "```sql", f"{self.quarantine};", "```"]


def announce(movement: Movement, logger: Any) -> None:
    """Announce a load or a write that has ended: the log and, within a run, event, page and asset."""
    logger.info("%s", movement.text, extra={f"etl_{name}": value for name, value in movement.fields().items()})
    if not loads_are_shown():
        return
    try:
        _show(movement)
    except Exception as error:  # noqa: BLE001 (it is done, and must not count as failed for a page of it)
        logger.warning("%s %s is done, and could not be shown: %s.", movement.verb, movement.name, type(error).__name__)


def _show(movement: Movement) -> None:
    # What was there already is told, too: the run that loaded it may have been killed before it could tell.
    event = described(
        {"load": TABLE_LOADED, "write": DATASET_WRITTEN}[movement.verb],
        movement.target,
        name=movement.name,
        identity=movement.load_id,
        payload=movement.fields() | {"origins": list(movement.origins[:MOST_ORIGINS])},
        labels={"etl.mode": movement.mode, "etl.already-loaded": str(movement.is_repeat).lower()},
    )
    emit(event)
    keep_markdown(movement.key, movement.markdown(), description=movement.text)
    if not movement.is_repeat:
        note_asset(
            movement.target,
            name=movement.name,
            tool=movement.tool,
            origins=movement.origins,
            metadata=movement.fields(),
        )


def _size(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> _size(999), _size(1_234_567)
    ('999 B', '1.2 MB')
    """
    thousands = 0
    while size >= 1000 ** (thousands + 1) and thousands < len(UNITS) - 1:
        thousands += 1
    return f"{size / 1000**thousands:,.{1 if thousands else 0}f} {UNITS[thousands]}"
