"""How far a source was read: the mark of a load, and scans that read on from one.

A source that can be read on gives an `IncrementalScan`. A load under a state asks it for the window that follows the
mark of the load before, and commits the mark of what it has read with the rows.
"""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 (the types of a public dataclass)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import override

from blocks.arrow.scan import Scan
from blocks.base.caching import key_by_identity
from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Mark(BaseModel):
    """How far a source was read, as the ledger keeps it."""

    model_config = ConfigDict(frozen=True)

    value: str | None = Field(default=None, description="The highest value that was read, as exact text; None: none.")
    of: dict[str, str] = Field(
        default_factory=dict, description="What it is a mark of: source, cursor and type; empty where it was set."
    )
    facts: dict[str, Any] = Field(
        default_factory=dict, description="What else its source needs to read on without a gap and without a repeat."
    )
    parts: str = Field(
        default="", description="What this load has added to those before it, where a mark is the sum of them."
    )
    parts_since: int | None = Field(default=None, description="The number of the first load of that sum.")
    call: str = Field(default="", description="The call that committed it.")


@dataclass(frozen=True)
class Window:
    """What follows a mark.

    Attributes:
        scan: The rows.
        mark: Returns the mark of the rows, once the scan was read to its end.
    """

    scan: Scan
    mark: Callable[[], Mark]


class IncrementalScan(Scan):
    """A scan that can also be read on from a mark. By itself it is a scan of everything.

    Args:
        whole: The scan of everything.
        of: Finds out what a mark of it belongs to; one that was made of something else is refused.
        since: Returns what follows a mark, for a mode of load; what follows None is everything.
        adds_up: Whether its marks hold what one load has read, and count together.
    """

    def __init__(
        self,
        whole: Scan,
        *,
        of: Callable[[], Mapping[str, str]],
        since: Callable[[Mark | None, str], Window],
        adds_up: bool = False,
    ) -> None:
        super().__init__(
            lambda: whole.schema,
            whole.batches,
            source=whole.source,
            query=whole.query,
            inferred=whole.inferred,
            origins=whole.origins,
            form=whole.form,
        )
        self._whole, self._of, self._since, self.adds_up = whole, of, since, adds_up
        self._steps = whole._steps  # noqa: SLF001 (one of us)

    @override
    def derive(self, make: Callable[[Scan], Scan]) -> Scan:
        """Return a scan that can be read on as this one can."""

        def since(mark: Mark | None, mode: str) -> Window:
            window = self._since(mark, mode)
            return Window(window.scan.derive(make), window.mark)

        return IncrementalScan(self._whole.derive(make), of=self._of, since=since, adds_up=self.adds_up)

    def since(self, mark: Mark | None, *, mode: str, state: str) -> Window:
        """Return what follows a mark; everything, where there is none.

        Args:
            mark: The mark of the load before, or one that was set.
            mode: The mode of the load.
            state: The name of the state that has the mark, for messages.

        Raises:
            InvalidInputError: It is the mark of something else.
        """
        of = {**self._of(), "mode": mode}
        if mark and mark.of and (other := [name for name in mark.of | of if mark.of.get(name) != of.get(name)]):
            changes = "; ".join(f"{name} {mark.of.get(name)!r}, not {of.get(name)!r}" for name in other)
            raise InvalidInputError(
                f"State {state!r} belongs to another source: {changes}. Nothing was loaded. Give the new one a state "
                f"of its own, or say from where it goes on: set_state({state!r}, value), or reset_state({state!r}) to "
                "load everything."
            )
        window = self._since(mark, mode)
        return Window(window.scan, lambda: window.mark().model_copy(update={"of": of}))


key_by_identity(IncrementalScan, IncrementalScan.cache_identity, repr)
