"""What a load is: its modes, its plan and its report."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 (who reads the annotations of a public dataclass needs it)
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from blocks.arrow.load_id import DerivedId, GeneratedId
from blocks.arrow.marks import Mark
from blocks.base.movement import Movement
from blocks.base.names import Identity, Name, Share, StateName  # noqa: TC001 (the same)
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa

    from blocks.arrow.load_id import Call
    from blocks.arrow.scan import Scan
else:
    pa = lazy("pyarrow")

Mode = Literal["append", "replace", "upsert", "replace_partition"]
OnNewColumns = Literal["add", "fail", "ignore"]
DECIDED = ("set", "reset")


class ColumnPlan(BaseModel):
    """What a load does with one column."""

    model_config = ConfigDict(frozen=True)

    name: str
    source_type: str | None = Field(description="Arrow type in the data; None where the data lacks the column.")
    target_type: str | None = Field(description="Type in the warehouse; None where the column is not loaded.")
    action: Literal["keep", "create", "add", "ignore", "absent"]
    loss: str | None = Field(default=None, description="What its type would lose, None where nothing.")
    checked: str | None = Field(
        default=None,
        description="What a value may lose; each is looked at on its way, and one that would is refused.",
    )


class LoadPlan(BaseModel):
    """What a load would do, before any of it is done."""

    model_config = ConfigDict(frozen=True)

    table: str
    mode: Mode
    key: tuple[str, ...] = ()
    partition_by: tuple[str, ...] = ()
    creates_table: bool
    ddl: tuple[str, ...] = Field(description="The statements that change the table's shape, in order.")
    columns: tuple[ColumnPlan, ...]
    notes: tuple[str, ...] = Field(default=(), description="Remarks on how the rows are loaded.")

    @property
    def losses(self) -> dict[str, str]:
        """Column name to what its type would lose."""
        return {column.name: column.loss for column in self.columns if column.loss}

    @property
    def checked(self) -> dict[str, str]:
        """Column name to what a value may lose; each value is looked at, and one that would is refused."""
        return {column.name: column.checked for column in self.columns if column.checked}

    def __str__(self) -> str:
        lines = [f"{self.mode} into {self.table}" + (" (new table)" if self.creates_table else "")]
        if self.key:
            lines.append(f"  key: {', '.join(self.key)}")
        if self.partition_by:
            lines.append(f"  partition_by: {', '.join(self.partition_by)}")
        for column in self.columns:
            types = f"{column.source_type or '(absent)'} -> {column.target_type or '(not loaded)'}"
            loss = f"  LOSES: {column.loss}" if column.loss else ""
            checked = f"  checked: {column.checked}" if column.checked else ""
            lines.append(f"  {column.action:<7} {column.name}: {types}{loss}{checked}")
        return "\n".join([*lines, *(f"  {statement}" for statement in self.ddl), *(f"  {note}" for note in self.notes)])


class LoadReport(BaseModel):
    """What a load did."""

    model_config = ConfigDict(frozen=True)

    load_id: str
    table: str
    mode: Mode
    key: tuple[str, ...] | None = Field(default=None, description="The key; None in reports of before it was kept.")
    partition_by: tuple[str, ...] | None = Field(default=None, description="The partition's columns; None likewise.")
    rows: int = Field(description="Rows of the data that are in the table now because of this load.")
    inserted: int = Field(default=0, description="Rows that are new in the table.")
    updated: int = Field(default=0, description="Rows whose key was in the table before.")
    deleted: int = Field(default=0, description="Rows that a replaced table or partition held before.")
    bytes: int | None = Field(
        default=None, description="Size of the rows in memory; None where the engine read them by itself."
    )
    rejected: dict[str, int] = Field(default_factory=dict, description="Rows refused, by reason.")
    quarantine: str | None = Field(default=None, description="The table that holds the refused rows.")
    ddl: tuple[str, ...] = Field(default=(), description="Statements that changed the table's shape.")
    ignored_columns: tuple[str, ...] = Field(default=(), description="Columns of the data that were not loaded.")
    data: str | None = Field(
        default=None,
        description="A digest of what was loaded, where its rejected rows take the place of those of earlier loads.",
    )
    state: str | None = Field(default=None, description="The state under which it read on; None without one.")
    mark: Mark | None = Field(
        default=None, description="How far the source is read now, for the next load of the state."
    )
    started_at: datetime
    finished_at: datetime
    already_loaded: bool = Field(default=False, description="An earlier call had loaded it; this one changed nothing.")
    resolved_from_ledger: bool = Field(
        default=False, description="The answer to COMMIT was lost; the ledger proved that the load had happened."
    )

    @property
    def rows_rejected(self) -> int:
        """How many rows were refused."""
        return sum(self.rejected.values())

    @property
    def seconds(self) -> float:
        """How long the load took."""
        return (self.finished_at - self.started_at).total_seconds()

    def movement(self, *, target: str, tool: str, origins: Iterable[str] = (), quarantine: str = "") -> Movement:
        """Return what the load moved, for those who are told of it.

        Args:
            target: The asset key of the table.
            tool: The type of the block.
            origins: The asset keys of what the rows came from.
            quarantine: The statement that shows the refused rows.
        """
        return Movement(
            verb="load",
            name=self.table,
            target=target,
            tool=tool,
            origins=tuple(origins),
            mode=self.mode,
            load_id=self.load_id,
            rows=self.rows,
            bytes=self.bytes,
            seconds=self.seconds,
            changes={"inserted": self.inserted, "updated": self.updated, "deleted": self.deleted},
            rejected=self.rejected,
            quarantine=quarantine if self.rejected else None,
            ddl=self.ddl,
            ignored_columns=self.ignored_columns,
            is_repeat=self.already_loaded,
            text=str(self),
        )

    def __str__(self) -> str:
        if self.already_loaded:
            return f"{self.table}: already loaded as {self.load_id} ({self.rows} rows); nothing changed"
        changes = [f"{self.inserted} inserted"]
        changes += [f"{self.updated} updated"] if self.updated else []
        changes += [f"{self.deleted} deleted"] if self.deleted else []
        text = f"{self.table}: {self.rows} rows loaded by {self.mode} ({', '.join(changes)}) in {self.seconds:.2f} s"
        if self.rejected:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.rejected.items())
            text += f"; {self.rows_rejected} quarantined in {self.quarantine} ({reasons})"
        if self.state:
            text += f"; state {self.state}"
        if self.resolved_from_ledger:
            text += "; the answer to COMMIT was lost and the commit was resolved from the ledger"
        return text


class LoadState(BaseModel):
    """How far the loads of a state have read their source."""

    model_config = ConfigDict(frozen=True)

    name: str
    number: int = Field(description="How many loads it had, and times that it was set; each is a row of the ledger.")
    mode: str = Field(description="The mode of its last load; 'set' or 'reset' where somebody decided.")
    table: str | None = Field(default=None, description="The table that its last load went to.")
    mark: Mark | None = Field(default=None, description="Where the next load begins; None: at the beginning.")
    at: datetime = Field(description="When that load began, or when it was set.")
    flow_run_id: str | None = Field(default=None, description="The flow run of that.")

    @property
    def load_id(self) -> str:
        """The id of the load in the ledger."""
        return f"{self.name}#{self.number}"

    @property
    def is_decided(self) -> bool:
        """Whether somebody has set or reset it, so that no load vouches for its mark."""
        return self.mode in DECIDED

    def __str__(self) -> str:
        place = "the beginning" if self.mark is None or self.mark.value is None else self.mark.value
        return f"{self.name}: reads on from {place} ({self.mode}, {self.at:%Y-%m-%d %H:%M:%S} UTC, {self.load_id})"


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How rows get into a table: what `load`, `publish` and `plan` of a warehouse take by name; `load` describes it."""

    mode: Mode = "append"
    key: Sequence[Name] = ()
    partition_by: Sequence[Name] = ()
    load_id: Identity | None = None
    on_new_columns: OnNewColumns = "add"
    allow_loss: Sequence[str] = ()
    max_rejected: Share = 0.1
    state: StateName | None = None


class LoadArguments(TypedDict, total=False):
    """LoadOptions as keyword arguments, which editors and type checkers know them by."""

    mode: Mode
    key: Sequence[Name]
    partition_by: Sequence[Name]
    load_id: Identity | None
    on_new_columns: OnNewColumns
    allow_loss: Sequence[str]
    max_rejected: Share
    state: StateName | None


@dataclass(frozen=True, kw_only=True)
class LoadRequest(LoadOptions):
    """What a caller asks for: rows, a table, and the options.

    Attributes:
        scan: The rows.
        table: The table, as the caller wrote it.
        claim: The state as the load is to leave it; its mark is not known before the rows are read.
        mark: Returns that mark, once they are.
    """

    scan: Scan
    table: str
    claim: LoadState | None = None
    mark: Callable[[], Mark] | None = None

    @property
    def call(self) -> Call | None:
        """What the ledger keeps of the call, where the load_id was derived."""
        return self.load_id.call if isinstance(self.load_id, DerivedId) else None

    @property
    def generated(self) -> bool:
        """Whether the load_id is not the caller's own."""
        return isinstance(self.load_id, GeneratedId)
