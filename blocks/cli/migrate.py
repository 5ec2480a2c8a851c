"""`etl migrate`: saved blocks of Prefect's collections, saved anew as ours under the same names."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blocks.base.block import PREFECT_KEYS, ConnectorBlock, resolve
from blocks.base.errors import InvalidInputError
from blocks.cli import saved
from blocks.cli.counterparts import COUNTERPARTS, WITHOUT, Counterpart, Foreign, NoCounterpartError, choose, translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prefect.client.schemas.objects import BlockDocument

WOULD_BE_CREATED = "would be created"


def migrate(*, apply: bool) -> bool:
    """Print what takes the place of each saved block of Prefect's collections, and save it if that is wanted.

    A block of ours that is there already stays as it is.

    Args:
        apply: Whether to save; else nothing is.

    Returns:
        Whether each of them that could have a counterpart has one.
    """
    documents = [(each.block_type.slug, each) for each in saved.documents(include_secrets=True) if each.block_type]
    known = COUNTERPARTS.keys() | WITHOUT.keys()
    theirs = sorted((_foreign(slug, each) for slug, each in documents if slug in known), key=place)
    if not theirs:
        print("No blocks of Prefect's collections are saved.", file=sys.stderr)
        return True
    plan = _Plan({f"{slug}/{each.name}" for slug, each in documents})
    complete = True
    outcomes = set()
    width = max(len(place(each)) for each in theirs)
    for each in theirs:
        try:
            ours = plan.add(each)
        except NoCounterpartError as problem:
            complete &= each.slug in WITHOUT
            print(f"{place(each):{width}}  not migrated: {problem}.")
            continue
        outcome = plan.settle(ours, save=apply)
        outcomes.add(outcome)
        print(f"{place(each):{width}}  {ours.reference}  {outcome}")
        for note in ours.notes if outcome != "unchanged" else ():
            print(f"{'':{width}}  - {note}")
    if WOULD_BE_CREATED in outcomes:
        print("Nothing was saved. 'etl migrate --apply' saves them.", file=sys.stderr)
    return complete


def place(foreign: Foreign) -> str:
    """Return `slug/name`."""
    return f"{foreign.slug}/{foreign.name}"


@dataclass
class _Ours:
    """A block of ours that takes the place of one of theirs."""

    origin: Foreign
    reference: str
    block: ConnectorBlock
    notes: list[str]
    inner: list[_Ours]
    outcome: str = ""


@dataclass
class _Plan:
    """The blocks of ours by `slug/name`; what one refers to is made and saved before it.

    Attributes:
        saved: What was saved before.
        blocks: What takes the place of theirs.
    """

    saved: set[str]
    blocks: dict[str, _Ours] = field(default_factory=dict)

    def add(self, foreign: Foreign) -> _Ours:
        """Make the block that takes the place of a saved one.

        Raises:
            NoCounterpartError: There is none.
        """
        slug = choose(foreign)[0].slug
        reference = f"{slug}/{foreign.name}"
        inner: list[_Ours] = []
        block, notes = self._build(foreign, str(foreign.name), inner)
        known = self.blocks.setdefault(reference, _Ours(foreign, reference, block, notes, inner))
        if known.block != block:
            raise NoCounterpartError(
                f"{place(known.origin)} has the name {reference} already; save this one under another name first"
            )
        return known

    def _build(self, foreign: Foreign, name: str, inner: list[_Ours]) -> tuple[ConnectorBlock, list[str]]:
        """Build our block with those that it refers to; one saved within it stays within, where its type is fixed."""
        counterpart, data = choose(foreign)
        values, notes = translated(counterpart, data)
        kind = saved.block_types()[counterpart.slug]
        for key, value in values.items():
            if not isinstance(value, Foreign):
                continue
            by_name = kind._is_open(key)  # noqa: SLF001 (our own)
            try:
                if by_name or value.name:
                    made = self.add(value if value.name else replace(value, name=name))
                    inner.append(made)
                    values[key] = made.reference if by_name else made.block
                    notes += [] if value.name else [f"{key}: {made.reference}, from the {value.slug} within this one"]
                else:
                    values[key], within = self._build(value, name, inner)
                    notes += [f"{key}.{note}" for note in within]
            except NoCounterpartError as problem:
                raise NoCounterpartError(f"its {key} ({value.slug}): {problem}") from None
        try:
            return kind(**values), notes
        except ValidationError as error:
            wrong = saved.first_problem(error).rstrip(".")
            raise NoCounterpartError(f"{wrong}; write [{counterpart.slug}.{name}] and use 'etl save'") from None

    def settle(self, ours: _Ours, *, save: bool) -> str:
        """Look whether the block is saved, save it if it is not and that is wanted, and return what came of it."""
        if not ours.outcome:
            for each in ours.inner:
                self.settle(each, save=save)
            if ours.reference in self.saved:
                ours.outcome = _compared(ours.reference, ours.block)
            elif save:
                ours.block.save(ours.reference.partition("/")[2])
                ours.outcome = "created"
            else:
                ours.outcome = WOULD_BE_CREATED
        return ours.outcome


def _compared(reference: str, block: ConnectorBlock) -> str:
    try:
        there = resolve(reference, type(block))
    except InvalidInputError:
        return "is there, with fields that this version does not know; left as it is"
    changed = saved.differences(there, block)
    saved.refer_to(there, block)
    return f"is there, and differs in {', '.join(changed)}; left as it is" if changed else "unchanged"


# --- what is saved ---


def _foreign(slug: str, document: BlockDocument) -> Foreign:
    schema = document.block_schema.fields if document.block_schema else {}
    fields = _fields(document.data, document.block_document_references, schema.get("block_schema_references") or {})
    return Foreign(slug, document.name, fields)


def _fields(data: Mapping[str, Any], references: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a block with a Foreign for each block in them.

    Args:
        data: The fields, in which Prefect's server puts the fields of what they refer to.
        references: What is saved as a block of its own, by field.
        kinds: The types that a field takes, by the schema of the block.
    """
    fields: dict[str, Any] = {}
    for name, value in data.items():
        if name in PREFECT_KEYS:
            continue
        if name in references:
            saved_one = references[name]["block_document"]
            within = _fields(value, saved_one.get("block_document_references") or {}, {})
            own_name = None if saved_one.get("is_anonymous") else saved_one["name"]
            fields[name] = Foreign(saved_one["block_type"]["slug"], own_name, within)
        elif isinstance(value, dict) and (slug := value.get("block_type_slug") or _kind(kinds.get(name), value)):
            fields[name] = Foreign(slug, None, _fields(value, {}, {}))
        else:
            fields[name] = value
    return fields


def _kind(kinds: Any, data: Mapping[str, Any]) -> str | None:
    """Return the type of a block that was entered within another one in a form, which does not name it."""
    slugs = [each["block_type_slug"] for each in (kinds if isinstance(kinds, list) else [kinds] if kinds else [])]
    for slug in slugs:
        table = COUNTERPARTS.get(slug)
        if not isinstance(table, Counterpart) or data.keys() - PREFECT_KEYS <= table.fields.keys():
            return str(slug)
    return None
