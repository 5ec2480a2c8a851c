"""Which of the equal calls of an attempt a call is: what is alike in all else is told apart by its number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blocks.base.runs import RunPath


@dataclass
class Ordinals:
    """The calls that this process has numbered within one root run, over all of its attempts."""

    counts: Counter[object] = field(default_factory=Counter)
    siblings: dict[object, list[str]] = field(default_factory=dict)

    def next(self, identity: str, path: RunPath) -> list[str]:
        """Return which of the equal calls of this attempt this one is.

        On each level runs are numbered as they come; what equal ones of them do is equal, so their order means nothing.

        Args:
            identity: What equal calls have in common.
            path: The runs that the call is within.
        """
        ordinals = []
        for level, run in enumerate(path.runs[1:], 1):
            around = tuple((outer.id, outer.attempt) for outer in path.runs[:level])
            siblings = self.siblings.setdefault((identity, around), [])
            if run.id not in siblings:
                siblings.append(run.id)
            ordinals.append(siblings.index(run.id))
        within = (identity, tuple((run.id, run.attempt) for run in path.runs))
        self.counts[within] += 1
        # Counted from the innermost run: what is around a subflow that is retried by itself may not be shown.
        numbered = [f"{level}: {ordinal}" for level, ordinal in enumerate(reversed(ordinals)) if ordinal]
        return [*numbered, f"call {self.counts[within]}"]
