"""Parts: what is divided to be read, or loaded, by several threads, processes or machines at once.

    with source.scan("orders").partitions(8) as parts:               # eight scans of one moment, which pickle
        staged = stage_part.map(parts, unmapped(warehouse)).result() # the workers stage them
        report = warehouse.load(staged, "orders", mode="replace")    # all of them are committed once, or none

A division is one way of cutting a source; parts of two divisions are never mixed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Self

    import pyarrow as pa

    from blocks.arrow.rejects import Rejects

S = TypeVar("S")
T = TypeVar("T")

LISTED = 5
"""A message names so many parts."""


@dataclass(frozen=True)
class Part:
    """Which part of which division a scan is.

    Attributes:
        division: The division: of a live table, its snapshot.
        number: The number of the part, from 1 on.
        of: How many parts there are.
        source: What was divided, without secrets.
        query: What was asked of it.
        proof: The fingerprint of what was divided, where it has one.
    """

    division: str
    number: int
    of: int
    source: str
    query: str
    proof: str | None


@dataclass(frozen=True)
class Division(Generic[S]):
    """How a source is divided.

    Attributes:
        open: Divides it into at most so many parts. These are of one moment for as long as the context is entered.
        apart: Divides it into parts each of which is of the moment when it is read. None where the source does not
            change: then its parts need no context.
    """

    open: Callable[[int], AbstractContextManager[Sequence[S]]]
    apart: Callable[[int], Sequence[S]] | None = None

    def through(self, make: Callable[[S], S]) -> Division[S]:
        """Return the division of what `make` makes of the source: that of each part."""
        division = self

        @contextlib.contextmanager
        def opened(n: int) -> Iterator[Sequence[S]]:
            with division.open(n) as parts:
                yield [make(part) for part in parts]

        apart = self.apart
        return Division(opened, apart and (lambda n: [make(part) for part in apart(n)]))


class Partitions(Sequence[S]):
    """The parts of a scan, in order. Of what changes they are of one moment, for as long as the context is entered.

    Args:
        find: Returns how the source is divided.
        n: Into how many parts at most.
        snapshot: Whether the parts are of one moment.
        source: What is divided, for messages.
    """

    def __init__(self, find: Callable[[], Division[S]], n: int, *, snapshot: bool, source: str) -> None:
        self._find, self._n, self._snapshot, self._source = find, n, snapshot, source
        self._parts: Sequence[S] | None = None
        self._held = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"Partitions({self._source}, {self._n})"

    def __enter__(self) -> Self:
        division = self._find()
        if self._snapshot or division.apart is None:
            self._parts = self._held.enter_context(division.open(self._n))
        else:
            self._parts = division.apart(self._n)
        return self

    def __exit__(self, *_: object) -> None:
        self._parts = None
        self._held.close()

    def _found(self) -> Sequence[S]:
        if self._parts is None:
            division = self._find()
            if division.apart is None:
                with division.open(self._n) as parts:
                    self._parts = parts
            elif self._snapshot:
                raise InvalidInputError(
                    f"{self._source} may change while it is read, so its parts are of one moment only within a context "
                    "that holds it: with scan.partitions(n) as parts: ... Stage and load the parts in there."
                )
            else:
                self._parts = division.apart(self._n)
        return self._parts

    def __len__(self) -> int:
        return len(self._found())

    @overload
    def __getitem__(self, index: int) -> S: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[S]: ...
    def __getitem__(self, index: int | slice) -> S | Sequence[S]:
        return self._found()[index]


@dataclass(frozen=True, kw_only=True)
class StagedPart(ABC):
    """A part that a worker has staged: it waits, unseen by readers, until all of them are loaded together.

    Attributes:
        part: Which part it is.
        place: Where it is, without secrets.
        rows: How many rows were staged.
        schema: The columns of the data.
        inferred: The columns whose types were inferred from text.
        origins: The asset keys of what the rows were read from.
    """

    part: Part
    place: str
    rows: int
    schema: pa.Schema
    inferred: frozenset[str] = frozenset()
    origins: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"part {self.part.number} of {self.part.of} of {self.part.source}: {self.rows} rows in {self.place}"

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> Any:
        """Have pydantic take it as it is, and nothing else in its place, where it is a parameter of a flow."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)

    @abstractmethod
    def batches(self, rejects: Rejects | None) -> Iterator[pa.RecordBatch]:
        """Read what was staged; rows that were refused go to `rejects`."""

    @abstractmethod
    def discard(self) -> None:
        """Remove it, where that needs no connection that only its warehouse has."""

    def count_error(self, rows: int) -> InvalidInputError:
        """Return the error for a part that does not hold what was staged."""
        return InvalidInputError(
            f"{self.place} has {rows} rows, and {self.rows} were staged as part {self.part.number} of {self.part.of}. "
            "Nothing was loaded. Stage the parts again."
        )


def new_group(*of: str) -> str:
    """Return the name under which the parts of one load are staged: when it began, and what it is of.

    >>> is_older(new_group("orders"), 60.0), is_older("65000000_0123456789abcdef", 60.0)
    (False, True)
    """
    return f"{int(time.time()):08x}_{hashlib.sha256(chr(0).join(of).encode()).hexdigest()[:16]}"


GROUP = re.compile(r"(?P<made>[0-9a-f]{8})_(?P<of>[0-9a-f]{16})")
"""The name that `new_group` gives."""


def group_of(name: str) -> str:
    """Return what is alike in the names of all parts of one load."""
    match = GROUP.search(name)
    return match["of"] if match else ""


def is_older(group: str, seconds: float) -> bool:
    """Tell whether a part of that name was begun so long ago."""
    match = GROUP.search(group)
    return match is not None and time.time() - int(match["made"], 16) > seconds


def left_over(names: Sequence[str], older_than_s: float) -> list[str]:
    """Return, of the names of staged parts, those of loads of which no part was begun for so long."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if match := GROUP.search(name):
            groups.setdefault(match["of"], []).append(name)
    return [name for each in groups.values() if all(is_older(one, older_than_s) for one in each) for name in each]


def divided(
    parts: Sequence[T], number: Callable[[T, Part], S], *, source: str, query: str, proof: str | None
) -> list[S]:
    """Return the parts of a new division, each made by `number` of what it is of and which part it is."""
    division = uuid.uuid4().hex
    return [
        number(each, Part(division, at, len(parts), source, query, proof)) for at, each in enumerate(parts, start=1)
    ]


def staged_of(data: object) -> list[StagedPart]:
    """Return the staged parts that a list holds, in their order; none where it is something else.

    Raises:
        InvalidInputError: Parts are missing or come twice, or are of two divisions.
    """
    if not isinstance(data, list | tuple) or not data or not isinstance(data[0], StagedPart):
        return []
    parts = [each for each in data if isinstance(each, StagedPart)]
    if len(parts) < len(data):
        raise InvalidInputError("The list holds staged parts and something else. Pass the parts alone.")
    first = parts[0]
    if len({part.part.division for part in parts}) > 1:
        raise InvalidInputError(
            f"The parts of {first.part.source} are of two divisions, which are of two moments. Nothing was loaded. "
            "Divide it once, and load the parts of that."
        )
    numbers = sorted(part.part.number for part in parts)
    if twice := [number for number in set(numbers) if numbers.count(number) > 1]:
        raise InvalidInputError(
            f"Part {min(twice)} of {first.part.of} of {first.part.source} comes twice. Nothing was loaded. "
            "Pass each once."
        )
    if missing := sorted(set(range(1, first.part.of + 1)) - set(numbers)):
        named = ", ".join(map(str, missing[:LISTED])) + (", ..." if len(missing) > LISTED else "")
        raise InvalidInputError(
            f"Of the {first.part.of} parts of {first.part.source} these are missing: {named}. Nothing was loaded. "
            "Pass all of them."
        )
    if other := [part for part in parts if part.schema != first.schema]:
        raise InvalidInputError(
            f"Parts {first.part.number} and {other[0].part.number} of {first.part.source} have other columns. Nothing "
            "was loaded. Declare a schema, or make all parts by the same steps."
        )
    return sorted(parts, key=lambda part: part.part.number)
