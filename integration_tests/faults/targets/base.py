"""A target: its servers, a place in it for each case, and what can be broken on the way to it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.arrow.marks import IncrementalScan
from blocks.base.errors import NotFoundError, ObjectNotFoundError
from blocks.base.retry import RetryPolicy
from blocks.stores.object_store import ObjectStore
from blocks.warehouses.ledger import LEDGER
from blocks.warehouses.warehouse import Warehouse
from integration_tests.faults.data import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    import pyarrow as pa

TABLE = "t"
ARGUMENTS: dict[str, dict[str, Any]] = {
    "append": {},
    "replace": {},
    "upsert": {"key": ["id"]},
    "replace_partition": {"partition_by": ["day"]},
}
MODES = tuple(ARGUMENTS)
PATIENT = RetryPolicy(attempts=6, first_delay_s=0.01, max_delay_s=0.05)
ONCE = RetryPolicy(attempts=1)


def write(block: Any, data: Any, mode: str, load_id: str | None) -> Any:
    """Load the data into the table, or write it as the dataset, of that name."""
    identity = {} if load_id is None or (is_store(block) and mode != "append") else {"load_id": load_id}
    if isinstance(data, IncrementalScan):
        identity = {"state": load_id or "s"}
    if isinstance(block, Warehouse):
        return block.load(data, TABLE, mode=mode, **ARGUMENTS[mode], **identity)  # type: ignore[arg-type]
    return block.write_table(data, TABLE, mode=mode, **ARGUMENTS[mode], **identity)


def read(block: Any) -> pa.Table:
    """What the table, or the dataset, holds; nothing where there is none."""
    with contextlib.suppress(NotFoundError, ObjectNotFoundError):
        if isinstance(block, Warehouse):
            return block.read_table(TABLE)
        return block.scan(TABLE).to_arrow()
    return SCHEMA.empty_table()


@dataclass(frozen=True)
class Traffic:
    """What one load sends without a fault.

    Attributes:
        requests: The statements or requests, in order.
        sent: How many bytes went to the server, and
        received: how many came back.
    """

    requests: tuple[str, ...]
    sent: int = 0
    received: int = 0


class Wire(ABC):
    """A proxy between a block and a server."""

    commit: ClassVar[str] = r"(?i)commit"
    claim: ClassVar[str] = r"(?i)(insert|merge) into \S*_etl_loads"
    rows: ClassVar[str] = r"(?i)copy"

    @abstractmethod
    def traffic(self) -> Traffic:
        """What has passed since the last call."""

    @abstractmethod
    def arm(self, fault: str, number: int, traffic: Traffic, moment: float, action: Callable[[], object]) -> None:
        """Let a fault strike at the request of that number, counted from now on.

        Args:
            fault: Its name; "call" calls the action while the request waits.
            number: Of the request.
            traffic: What the same load sent without a fault.
            moment: Where in it, from 0 to 1, where the fault strikes within a stream.
            action: What to call.
        """

    @abstractmethod
    def fired(self) -> list[str]:
        """What has struck."""

    @abstractmethod
    def calm(self) -> None:
        """Let nothing strike any more, and let go what is held."""

    @abstractmethod
    def open_connections(self) -> int:
        """How many connections of clients are open."""


@dataclass
class Place:
    """An empty schema, dataset or folder for one case.

    Attributes:
        folder: For files of the case; the temporary files of its loads go to `folder/tmp`.
        direct: A block that reaches it without a proxy.
        impatient: Whether a block behind the proxy gives up soon where no answer comes.
    """

    folder: Path
    direct: Any
    wires: list[Wire] = field(default_factory=list)
    behind: Callable[[RetryPolicy], Any] | None = None
    leftovers: Callable[[], list[str]] = list
    drop: Callable[[], object] = lambda: None
    impatient: bool = False

    def block(self, retry: RetryPolicy) -> Any:
        """A new block, as of another process, that reaches the place through the proxies, if there are any."""
        return self.behind(retry) if self.behind else self.direct.model_copy(update={"retry": retry})

    def loads(self) -> dict[str, int] | None:
        """How many rows the ledger has for each load; None where there is no ledger."""
        if not isinstance(self.direct, Warehouse):
            return None
        with contextlib.suppress(NotFoundError):
            table = self.direct.dialect.table(LEDGER)
            return dict(self.direct.fetch_all(f"SELECT load_id, count(*) FROM {table} GROUP BY load_id"))
        return {}


class Target(ABC):
    """A connector and what stands for its service; a context manager.

    Attributes:
        name: Of the connector.
        is_store: Whether it is an object store, and no warehouse.
        modes: Of a load.
        faults: What is tried.
        skipped: What is not, and why.
        faults_of_reading: Those that strike where a source is read that lies in the target itself.
        secrets: What nothing may show.
        most_rows: Of a load.
    """

    name: ClassVar[str]
    is_store: ClassVar[bool] = False
    modes: ClassVar[tuple[str, ...]] = MODES
    faults: ClassVar[tuple[str, ...]]
    skipped: ClassVar[dict[str, str]] = {}
    faults_of_reading: ClassVar[tuple[str, ...]] = ()
    secrets: tuple[str, ...] = ()
    most_rows: ClassVar[int] = 2_000

    def __init__(self, **servers: Any) -> None:
        self.servers = servers
        self._stack = contextlib.ExitStack()

    def server(self, name: str, make: Callable[[], Any]) -> Any:
        """The server of that name, which is shared by the targets; it is started where nobody has yet."""
        if name not in self.servers:
            self.servers[name] = self._stack.enter_context(make())
        return self.servers[name]

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def open(self) -> None:
        """Start what is needed."""

    @abstractmethod
    def place(self, folder: Path) -> Place:
        """An empty place in it."""

    def run_fault(self, fault: str) -> None:
        """Do to the server what a fault such as "server restart" says."""
        raise LookupError(fault)


def is_store(block: Any) -> bool:
    """Whether it holds objects, and no tables."""
    return isinstance(block, ObjectStore)
