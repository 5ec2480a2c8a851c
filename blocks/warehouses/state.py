"""The state of loads that read on: which load of it comes next, and what that reads."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from blocks.arrow.load_id import GeneratedId
from blocks.arrow.marks import IncrementalScan, Mark
from blocks.base.errors import InvalidInputError
from blocks.warehouses.load import LoadState

if TYPE_CHECKING:
    from blocks.warehouses.load import LoadRequest

MODES = ("append", "upsert")
"""The modes that go on from what is there; the others take rows away that a window lacks."""


def with_call(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a load under a state with the identity of the call, which all its attempts have.

    Raises:
        InvalidInputError: The caller has given a load_id, too.
    """
    load_id = arguments.get("load_id")
    if load_id is not None and not isinstance(load_id, GeneratedId):
        raise InvalidInputError(
            "A load under a state needs no load_id: the state numbers its loads. Leave one of both out."
        )
    return arguments | {"load_id": load_id or GeneratedId(uuid.uuid4().hex)}


def incremental(request: LoadRequest) -> IncrementalScan | None:
    """Return the data of a load under a state; None where the load has none.

    Raises:
        InvalidInputError: There is a state and nothing that reads on, or the other way round, or another mode.
    """
    scan, state = request.scan, request.state
    if not isinstance(scan, IncrementalScan):
        if state is not None:
            raise InvalidInputError(
                f"state={state!r} is for data that can be read on: load warehouse.scan_since(table, cursor=...)."
            )
        return None
    if state is None:
        raise InvalidInputError(
            f"{scan.source} is to be read on, so the load needs a name for how far it is: "
            f'state="{request.table}/by-cursor". To load everything each time, pass scan() or scan_query().'
        )
    if request.mode not in MODES:
        raise InvalidInputError(
            f"mode={request.mode!r} would remove rows that the window of a state does not hold. Load by mode='upsert' "
            "with a key, or by mode='append'."
        )
    return scan


def next_state(
    name: str, before: LoadState | None, *, mode: str, mark: Mark | None = None, table: str | None = None
) -> LoadState:
    """Return the state as the load after this one is to leave it."""
    number = before.number + 1 if before else 1
    return LoadState(name=name, number=number, mode=mode, table=table, mark=mark, at=datetime.now(UTC))


def read_on(request: LoadRequest, scan: IncrementalScan, before: LoadState | None, call: str) -> LoadRequest:
    """Return the request of the load that follows a state: for the rows behind its mark.

    Raises:
        InvalidInputError: The state is that of another source, or table.
    """
    name = str(request.state)
    if before and not before.is_decided and before.table != request.table:
        raise InvalidInputError(
            f"State {name!r} belongs to the table {before.table!r}, not to {request.table!r}. Nothing was loaded. Give "
            f"each table a state of its own, or say from where this one goes on: set_state({name!r}, value)."
        )
    mark = before.mark if before else None
    window = scan.since(mark, mode=request.mode, state=name)
    claim = next_state(name, before, mode=request.mode, mark=Mark(call=call), table=request.table)
    first = claim.number if mark is None or mark.parts_since is None else mark.parts_since

    def vouched() -> Mark:
        read = window.mark()
        return read.model_copy(update={"call": call, "parts_since": first if scan.adds_up else None})

    return replace(request, scan=window.scan, claim=claim, mark=vouched)
