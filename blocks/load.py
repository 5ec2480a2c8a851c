"""What a load is: its modes, its plan, its identity, its report, and the rule for types that would lose something."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections import Counter, OrderedDict
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal

from prefect.context import FlowRunContext, TaskRunContext
from pydantic import BaseModel, ConfigDict, Field

from blocks.errors import InvalidInputError, SchemaError
from blocks.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from blocks.scan import Scan
else:
    pa = lazy("pyarrow")

Mode = Literal["append", "replace", "upsert", "replace_partition"]
OnNewColumns = Literal["add", "fail", "ignore"]

LEDGER = "_etl_loads"
"""The table beside the data that holds one row for every load that was committed."""

QUARANTINE = "_etl_quarantine"
"""The table beside the data that holds the rows that loads refused."""


class ColumnPlan(BaseModel):
    """What a load does with one column."""

    model_config = ConfigDict(frozen=True)

    name: str
    source_type: str | None = Field(description="Arrow type in the data; None where the data lacks the column.")
    target_type: str | None = Field(description="Type in the warehouse; None where the column is not loaded.")
    action: Literal["keep", "create", "add", "ignore", "absent"]
    loss: str | None = Field(default=None, description="What its type would lose, None where nothing.")


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

    @property
    def losses(self) -> dict[str, str]:
        """Column name to what its type would lose."""
        return {column.name: column.loss for column in self.columns if column.loss}

    def __str__(self) -> str:
        lines = [f"{self.mode} into {self.table}" + (" (new table)" if self.creates_table else "")]
        if self.key:
            lines.append(f"  key: {', '.join(self.key)}")
        if self.partition_by:
            lines.append(f"  partition_by: {', '.join(self.partition_by)}")
        for column in self.columns:
            types = f"{column.source_type or '(absent)'} -> {column.target_type or '(not loaded)'}"
            loss = f"  LOSES: {column.loss}" if column.loss else ""
            lines.append(f"  {column.action:<7} {column.name}: {types}{loss}")
        return "\n".join([*lines, *(f"  {statement}" for statement in self.ddl)])


class LoadReport(BaseModel):
    """What a load did."""

    model_config = ConfigDict(frozen=True)

    load_id: str
    table: str
    mode: Mode
    rows: int = Field(description="Rows of the data that are in the table now because of this load.")
    inserted: int = Field(default=0, description="Rows that are new in the table.")
    updated: int = Field(default=0, description="Rows whose key was in the table before.")
    deleted: int = Field(default=0, description="Rows that a replaced table or partition held before.")
    rejected: dict[str, int] = Field(default_factory=dict, description="Rows refused, by reason.")
    quarantine: str | None = Field(default=None, description="The table that holds the refused rows.")
    ddl: tuple[str, ...] = Field(default=(), description="Statements that changed the table's shape.")
    ignored_columns: tuple[str, ...] = Field(default=(), description="Columns of the data that were not loaded.")
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
        if self.resolved_from_ledger:
            text += "; the answer to COMMIT was lost and the commit was resolved from the ledger"
        return text


# --- identity ---------------------------------------------------------------------------------------------------------

_REMEMBERED_RUNS = 1_000
_runs: OrderedDict[tuple[str, int], _Calls] = OrderedDict()
_runs_lock = threading.Lock()


class _Calls:
    """How often one attempt of a flow run loaded what is alike in everything."""

    def __init__(self) -> None:
        self.count: Counter[tuple[object, ...]] = Counter()
        self.task_runs: dict[str, list[str]] = {}

    def ordinal(self, identity: str, task_run: tuple[str, int] | None) -> str:
        """The number of this call; each attempt of a task run counts from the start again."""
        if task_run is None:
            self.count[identity] += 1
            return str(self.count[identity])
        runs = self.task_runs.setdefault(identity, [])
        if task_run[0] not in runs:
            runs.append(task_run[0])
        self.count[identity, task_run] += 1
        return f"{runs.index(task_run[0])}.{self.count[identity, task_run]}"


def derive_load_id(table: str, mode: str, scan: Scan) -> str:
    """An identity that a retried task and a retried flow run derive again; outside of a run a new one per call.

    Within a flow run it is made of the run, the task and its parameters, the table, the mode, the data's fingerprint
    (content of what is in memory, name and version of a file), and of how many loads with all of that alike came
    before. Prefect's own keys of a task run take no part: they change when the flow run is retried.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow is not None and flow.flow_run is not None:
        run = (str(flow.flow_run.id), flow.flow_run.run_count)
    elif task is not None:
        run = (str(task.task_run.flow_run_id or task.task_run.id), 0)
    else:
        return uuid.uuid4().hex
    parts = [table, mode, str(scan.schema), scan.fingerprint()]
    if task is not None:
        parameters = {name: _describe(value) for name, value in task.parameters.items()}
        parts += [task.task.task_key, json.dumps(parameters, sort_keys=True)]
    identity = _digest(parts)
    with _runs_lock:
        calls = _runs.setdefault(run, _Calls())
        while len(_runs) > _REMEMBERED_RUNS:
            _runs.popitem(last=False)
        ordinal = calls.ordinal(identity, (str(task.task_run.id), task.task_run.run_count) if task else None)
    return _digest([run[0], identity, ordinal])


def _describe(value: object) -> str:
    if value is None or isinstance(value, (str, int, float, bool, date)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return repr([_describe(item) for item in value[:100]])
    return type(value).__qualname__


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


# --- types ------------------------------------------------------------------------------------------------------------


def type_loss(source: pa.DataType, target: pa.DataType) -> str | None:  # noqa: PLR0911, PLR0912, C901 (one rule a line)
    """What a value of `source` may lose as a `target`, in a few words; None where nothing.

    >>> import pyarrow as pa
    >>> type_loss(pa.int32(), pa.int64()) is None
    True
    >>> type_loss(pa.timestamp("ns"), pa.timestamp("us"))
    'nanoseconds'
    """
    types = pa.types
    source, target = plain_type(source), plain_type(target)
    if source == target or types.is_null(source):
        return None
    if types.is_integer(source):
        digits = len(str(2 ** (source.bit_width - (0 if types.is_unsigned_integer(source) else 1))))
        if types.is_integer(target):
            return None if _int_fits(source, target) else "integers out of range"
        if types.is_decimal(target):
            return None if target.precision - target.scale >= digits else "integers out of range"
        if types.is_floating(target):
            exact = {16: 8, 32: 16, 64: 32}[target.bit_width]
            return None if source.bit_width <= exact else "digits of large integers"
    if types.is_decimal(source):
        if types.is_decimal(target):
            if target.scale < source.scale:
                return f"decimals after the {target.scale}. place"
            whole = source.precision - source.scale
            return None if target.precision - target.scale >= whole else "large numbers out of range"
        if types.is_integer(target):
            whole_fits = source.precision < len(str(2 ** (target.bit_width - 1)))
            return None if source.scale == 0 and whole_fits else "decimals or large numbers"
        if types.is_floating(target):
            return "exactness of decimals"
    if types.is_floating(source):
        if types.is_floating(target):
            return None if target.bit_width >= source.bit_width else "digits of floats"
        if types.is_decimal(target) or types.is_integer(target):
            return "digits of floats"
    if types.is_date(source):
        return None if types.is_date(target) or types.is_timestamp(target) else f"it is a {source}, not a {target}"
    if types.is_timestamp(source):
        if types.is_date(target):
            return "time of day"
        if types.is_timestamp(target):
            if (source.tz is None) != (target.tz is None):
                return "time zone" if target.tz is None else "the zone is not known"
            return _unit_loss(source.unit, target.unit)
    if (types.is_time(source) and types.is_time(target)) or (types.is_duration(source) and types.is_duration(target)):
        return _unit_loss(source.unit, target.unit)
    if types.is_list(source) and types.is_list(target):
        return type_loss(source.value_type, target.value_type)
    if {str(source), str(target)} in ({"string", "extension<arrow.json>"}, {"string", "extension<arrow.uuid>"}):
        return None  # text that is no JSON or no UUID is an error, not a loss
    return f"it is a {source}, not a {target}"


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without what concerns only its layout in memory: dictionary, large, view and fixed-size variants."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    if types.is_date(kind):
        return pa.date32()
    if types.is_decimal(kind):
        return (pa.decimal128 if kind.precision <= 38 else pa.decimal256)(kind.precision, kind.scale)  # noqa: PLR2004
    return kind


def cast_batch(batch: pa.RecordBatch, schema: pa.Schema, *, lossy: Iterable[str] = ()) -> pa.RecordBatch:
    """The batch with the columns and types of `schema`; only the columns in `lossy` may lose something.

    Raises:
        SchemaError: A value does not fit its column's type.
    """
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if column.type != field.type:
            try:
                column = _cast(column, field.type, safe=field.name not in lossy)
            except pa.ArrowException:  # its words hold the value
                raise SchemaError(
                    f"Column {field.name!r}: a value does not fit, or cannot become, {field.type} (it is {column.type})."
                ) from None
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, target: pa.DataType, *, safe: bool) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if isinstance(column.type, pa.UuidType) and pa.types.is_string(target):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], target)
    if isinstance(target, pa.UuidType) and pa.types.is_string(plain_type(column.type)):
        try:
            values = [None if v is None else uuid.UUID(v).bytes for v in column.to_pylist()]
        except ValueError:
            raise pa.ArrowInvalid("not a UUID") from None
        return pa.ExtensionArray.from_storage(target, pa.array(values, target.storage_type))
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, _cast(column, target.storage_type, safe=safe))
    if pa.types.is_integer(column.type) and pa.types.is_decimal(target):
        # Arrow wants room for every value of the integer type, not only for the ones that are there
        wide = column.cast(pa.decimal256(40 + target.scale, target.scale))
        return wide.cast(target, safe=safe)
    return column.cast(target, safe=safe)


def _int_fits(source: pa.DataType, target: pa.DataType) -> bool:
    unsigned = pa.types.is_unsigned_integer
    if unsigned(target):
        return bool(unsigned(source) and source.bit_width <= target.bit_width)
    room = target.bit_width - (1 if unsigned(source) else 0)
    return bool(source.bit_width <= room)


def _unit_loss(source: str, target: str) -> str | None:
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    order = list(names)
    if order.index(source) > order.index(target):
        return names[source]
    if target == "ns" and source != "ns":
        return "dates before 1677 and after 2262"
    return None


def check_names(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Nothing, or the error that says which of `names` are no columns.

    Raises:
        InvalidInputError: Some are not among `known`.
    """
    known = list(known)
    if missing := [name for name in names if name not in known]:
        raise InvalidInputError(f"{what} names {missing}, which the data lacks. Its columns: {known}.")
