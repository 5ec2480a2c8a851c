"""The moments of a load and of a write: what is to happen at one of them, in this process, whatever block does it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Literal

from blocks.stores.folder import StoreFolder
from blocks.warehouses.session import ScriptedSession
from blocks.warehouses.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.warehouses.session import BulkSession, Script

Moment = Literal["begin", "rows", "claim", "commit", "committed", "upload", "uploaded"]
"""Of a load into a warehouse: it has a session; its first batch was taken; before its row in the ledger; before COMMIT;
after COMMIT, which nobody has heard of yet. Of a dataset: before a file is uploaded, and after it."""


class Strike:
    """What happens at a moment.

    Attributes:
        times: How often it is still to happen.
        fired: The moments at which it did.
    """

    def __init__(self, moment: Moment, action: Callable[[], None], *, times: int = 1, skip: int = 0) -> None:
        self.times = times
        self.fired: list[Moment] = []
        self._moment = moment
        self._action = action
        self._skip = skip
        self._lock = threading.Lock()

    def reach(self, moment: Moment) -> None:
        """Do what is to be done, if this is the moment."""
        with self._lock:
            if moment != self._moment or not self.times:
                return
            if self._skip:
                self._skip -= 1
                return
            self.times -= 1
            self.fired.append(moment)
        self._action()


@contextlib.contextmanager
def striking(strike: Strike) -> Iterator[Strike]:
    """Let it strike at the loads and writes of this process within the block, those of all threads."""
    bulk_session, put = Warehouse._bulk_session, StoreFolder.put  # noqa: SLF001 (of the kit)

    @contextlib.contextmanager
    def watched_session(warehouse: Warehouse, load_id: str | None = None) -> Iterator[BulkSession]:
        with bulk_session(warehouse, load_id) as session:
            if load_id is not None:
                _watch(session, strike)
                strike.reach("begin")
            yield session

    def watched_put(folder: StoreFolder, *args: Any, **options: Any) -> Any:
        strike.reach("upload")
        written = put(folder, *args, **options)
        strike.reach("uploaded")
        return written

    Warehouse._bulk_session, StoreFolder.put = watched_session, watched_put  # type: ignore[assignment,method-assign]  # noqa: SLF001
    try:
        yield strike
    finally:
        Warehouse._bulk_session, StoreFolder.put = bulk_session, put  # type: ignore[method-assign]  # noqa: SLF001


def _watch(session: Any, strike: Strike) -> None:
    """Let the methods of this session say which moment has come."""
    ingest, claim = session.ingest, session.claim

    def watched_ingest(table: str, schema: Any, batches: Iterator[Any], **options: Any) -> int:
        def watched() -> Iterator[Any]:
            for batch in batches:
                yield batch
                strike.reach("rows")

        count: int = ingest(table, schema, watched(), **options)
        return count

    def watched_claim(*args: Any, **options: Any) -> None:
        strike.reach("claim")
        claim(*args, **options)

    session.ingest, session.claim = watched_ingest, watched_claim
    if isinstance(session, ScriptedSession):
        _watch_script(session, strike)
    else:
        _watch_transaction(session, strike)


def _watch_script(session: Any, strike: Strike) -> None:
    run_script = session.run_script

    def watched_script(script: Script) -> None:
        strike.reach("claim")
        strike.reach("commit")
        run_script(script)
        strike.reach("committed")

    session.run_script = watched_script


def _watch_transaction(session: Any, strike: Strike) -> None:
    """Statements of a load before its transaction may commit too: only that of the ledger's row counts."""
    load_transaction, commit = session.load_transaction, session.commit

    def watched_commit() -> None:
        strike.reach("commit")
        commit()
        strike.reach("committed")

    @contextlib.contextmanager
    def watched_transaction() -> Iterator[None]:
        session.commit = watched_commit
        try:
            with load_transaction():
                yield
        finally:
            session.commit = commit

    session.load_transaction = watched_transaction
