"""Ways to break the load protocol, each of which the attack has to notice."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from blocks.arrow import scan
from blocks.base.errors import AlreadyExistsError, AmbiguousError
from blocks.stores.client import ReadClient
from blocks.stores.ranged import InOrder
from blocks.warehouses.ledger import Ledger, claimed, recorded
from blocks.warehouses.loader import Loader
from blocks.warehouses.session import BulkSession
from blocks.warehouses.warehouse import Warehouse
from connectors.bigquery.session import BigQuerySession
from connectors.postgres.bulk_session import PostgresBulkSession
from connectors.redshift.session import RedshiftSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ledger_outside_the_transaction() -> Iterator[None]:
    """The rows are committed first, and the ledger is told afterwards."""
    load_transaction = BulkSession.load_transaction
    waiting: dict[BulkSession, list[Any]] = {}

    def claim(self: Ledger, session: Any, load_id: str, plan: Any, started: Any, *_: Any, **__: Any) -> None:
        waiting[session] = [self, claimed(load_id, plan, started)]

    def record(self: Ledger, session: Any, report: Any, *_: Any) -> None:  # noqa: ARG001
        waiting[session].append(recorded(report))

    @contextlib.contextmanager
    def transaction(self: BulkSession) -> Iterator[None]:
        with load_transaction(self):
            yield
        if self in waiting:
            ledger, *parts = waiting.pop(self)
            values = {name: value for part in parts for name, value in part.items()}
            names, parameters = ", ".join(values), ", ".join(f":{name}" for name in values)
            table = ledger._dialect.table("_etl_loads")
            with contextlib.suppress(AlreadyExistsError):
                self.execute(f"INSERT INTO {table} ({names}) VALUES ({parameters})", values)

    with (
        patch.object(Ledger, "claim", claim),
        patch.object(Ledger, "record", record),
        patch.object(BulkSession, "load_transaction", transaction),
    ):
        yield


@contextlib.contextmanager
def blind_retry() -> Iterator[None]:
    """A lost answer to COMMIT is taken for a failure, and the rows are sent again."""

    def once(self: Warehouse, load_id: str, work: Any, **_: Any) -> Any:
        for identity in (load_id, uuid.uuid4().hex, uuid.uuid4().hex):
            with contextlib.suppress(AmbiguousError), self._bulk_session(identity) as session:
                return work(session, identity)
        raise AmbiguousError("Three answers were lost.")

    with patch.object(Warehouse, "_once", once):
        yield


@contextlib.contextmanager
def load_id_per_attempt() -> Iterator[None]:
    """Each attempt has an identity of its own."""
    once = Warehouse._once

    def each(self: Warehouse, load_id: Any, *args: Any, **options: Any) -> Any:
        return once(self, f"{load_id}/{uuid.uuid4().hex}", *args, **options)

    with patch.object(Warehouse, "_once", each):
        yield


@contextlib.contextmanager
def reader_read_twice() -> Iterator[None]:
    """What gives its rows once is read again, and found empty."""

    def one_pass(data: Any, reader: Any, source: str) -> scan.Scan:  # noqa: ARG001
        return scan.Scan(reader.schema, lambda _: iter(reader), source=source)

    with patch.object(scan, "_one_pass", one_pass):
        yield


@contextlib.contextmanager
def no_staging_clean_up() -> Iterator[None]:
    """What was staged stays where it is."""

    def discard(self: BulkSession, table: str) -> None:
        """Nothing."""

    with patch.object(RedshiftSession, "discard", discard), patch.object(BigQuerySession, "discard", discard):
        yield


@contextlib.contextmanager
def no_checksum() -> Iterator[None]:
    """What comes from a store is taken as it comes."""

    def verify(self: ReadClient, content: bytes, info: Any) -> None:
        """Nothing."""

    def take(self: InOrder, start: int, chunk: bytes) -> None:
        """Nothing."""

    with patch.object(ReadClient, "verify", verify), patch.object(InOrder, "take", take):
        yield


@contextlib.contextmanager
def no_lock() -> Iterator[None]:
    """Two loads change one table at a time."""

    def lock_target(self: BulkSession, dialect: Any, plan: Any) -> None:
        """Nothing."""

    with patch.object(PostgresBulkSession, "lock_target", lock_target):
        yield


@contextlib.contextmanager
def plan_before_the_claim() -> Iterator[None]:
    """The table that was there before the load waited for another one is taken for the one that is there afterwards."""

    def lock(self: Loader, draft: Any) -> Any:
        self._session.lock_target(self._dialect, draft.plan)
        return draft

    def shape(self: Loader, plan: Any) -> None:
        for statement in plan.ddl:
            self._session.execute(statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))

    with patch.object(Loader, "_lock", lock), patch.object(Loader, "_shape", shape):
        yield


MUTANTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    each.__wrapped__.__name__.replace("_", " "): each  # type: ignore[attr-defined]
    for each in (
        ledger_outside_the_transaction,
        blind_retry,
        load_id_per_attempt,
        no_staging_clean_up,
        no_checksum,
        no_lock,
        plan_before_the_claim,
        reader_read_twice,
    )
}


def mutated(name: str) -> contextlib.AbstractContextManager[None]:
    """Within it, the protocol of this process is broken in that way."""
    return MUTANTS[name]()
