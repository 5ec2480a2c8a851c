"""What `etl state` does: it shows how far the loads of a warehouse have read, and sets it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from blocks.base.block import resolve
from blocks.base.errors import NotFoundError
from blocks.warehouses.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blocks.warehouses.load import LoadState


def show(reference: str, name: str | None, *, as_json: bool) -> None:
    """Print the states of a saved warehouse, or one of them.

    Raises:
        NotFoundError: It has no state of that name.
    """
    block = resolve(reference, Warehouse)
    states = block.states(name)
    if name is not None and not states:
        raise NotFoundError(f"{block.uri()} has no state {name!r}.")
    if as_json:
        print(json.dumps([state.model_dump(mode="json") for state in states], indent=2))
    else:
        _print(states)


def set_to(reference: str, name: str, value: str | None, number: int | None) -> None:
    """Have the next load of a state read from a value on, or from where an earlier load had ended."""
    _print([resolve(reference, Warehouse).set_state(name, value, number=number)])


def reset(reference: str, name: str) -> None:
    """Have the next load of a state read everything."""
    _print([resolve(reference, Warehouse).reset_state(name)])


def _print(states: Sequence[LoadState]) -> None:
    rows = [("STATE", "READS ON FROM", "LAST", "TABLE", "AT (UTC)")]
    rows += [
        (
            state.name,
            "the beginning" if state.mark is None or state.mark.value is None else state.mark.value,
            f"{state.mode} {state.number}",
            state.table or "",
            f"{state.at:%Y-%m-%d %H:%M:%S}",
        )
        for state in states
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
