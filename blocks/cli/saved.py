"""What `etl` does with saved blocks: it creates, updates and checks them."""

from __future__ import annotations

import contextvars
import difflib
import inspect
import os
import re
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.plugins import load_prefect_collections
from pydantic import ValidationError

from blocks.base.block import ConnectorBlock, resolve
from blocks.base.errors import ConnectorError, InvalidInputError, NotFoundError, ObjectNotFoundError
from blocks.stores.object_store import ObjectStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prefect.client.schemas.objects import BlockDocument

FILE_HELP = """\
Create or update the saved blocks that a file describes.

Each table of the file is a block, [TYPE.NAME]; 'etl list' shows the types.

[etl-postgres.prod]
host = "db.example.com"
database = "shop"
username = "loader"
password = { env = "PGPASSWORD" }  # the value of an environment variable

[etl-s3-bucket.raw]
bucket_name = "raw"
credentials = { block = "etl-aws-credentials/main" }  # a saved block

[etl-aws-credentials.main]
region_name = "eu-central-1"

A second run changes nothing. If anything in the file is wrong or a variable
is missing, nothing is saved.
"""

CHECKED_AT_ONCE = 8
PAGE = 200


def block_types() -> dict[str, type[ConnectorBlock]]:
    """Return every installed block type of etl-blocks by its slug."""
    load_prefect_collections()

    def below(parent: type[ConnectorBlock]) -> Iterator[type[ConnectorBlock]]:
        for child in parent.__subclasses__():
            yield child
            yield from below(child)

    all_types = below(ConnectorBlock)
    found = {each.get_block_type_slug(): each for each in all_types if not inspect.isabstract(each)}
    return dict(sorted(found.items()))


@dataclass
class BlocksFile:
    """The blocks of a file, built but not yet saved; a block that another one refers to comes first."""

    file: Path
    tables: dict[str, dict[str, Any]]
    built: dict[str, ConnectorBlock] = field(default_factory=dict)


def read_file(file: Path) -> BlocksFile:
    """Read the blocks that the file describes, with values from the environment where it says so.

    References to blocks saved elsewhere are looked up when these are saved.

    Returns:
        The fields of each block, by `slug/name`.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: Something in it is wrong, or a variable is not set.
    """
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ObjectNotFoundError(f"File not found: {file}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{file} is not valid TOML: {error}. Nothing was saved.") from None
    types = block_types()
    tables: dict[str, dict[str, Any]] = {}
    missing: list[str] = []
    for slug, named in content.items():
        if slug not in types:
            near = difflib.get_close_matches(slug, types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the types are: {', '.join(types)}."
            raise InvalidInputError(f"{file}: unknown block type {slug!r}; {hint} Nothing was saved.")
        if not isinstance(named, dict) or not all(isinstance(table, dict) for table in named.values()):
            raise InvalidInputError(f"{file}: write [{slug}.NAME] and its fields below it. Nothing was saved.")
        for name, table in named.items():
            if not re.fullmatch(r"[a-z0-9-]+", name):
                raise InvalidInputError(
                    f"{file}: [{slug}.{name}]: the name of a block consists of lowercase letters, digits and dashes. "
                    "Nothing was saved."
                )
            tables[f"{slug}/{name}"] = {
                key: _from_environment(value, f"[{slug}.{name}] {key}", missing) for key, value in table.items()
            }
    if missing:
        raise InvalidInputError(f"{file}: {'; '.join(missing)}. Nothing was saved.")
    return BlocksFile(file, tables)


def save(blocks: BlocksFile) -> None:
    """Create or update the blocks, and print the outcome of each.

    Raises:
        InvalidInputError: The fields of a block are wrong; nothing was saved.
        NotFoundError: A block refers to one that is not saved; nothing was saved.
    """
    for reference in blocks.tables:
        _build(blocks, reference, ())
    width = max(map(len, blocks.built), default=0)
    for reference, block in blocks.built.items():
        print(f"{reference:{width}}  {_save_one(reference, block)}")


def check(references: Sequence[str], *, sweep_older_than: dt.timedelta | None = None) -> bool:
    """Check every named block, or every saved one of etl-blocks, and print one line each.

    Args:
        references: The blocks, as `slug/name`. Defaults to all saved blocks of etl-blocks.
        sweep_older_than: Remove what interrupted uploads left, if it is older than this; None removes nothing.

    Returns:
        Whether all of them work.
    """
    references = references or _saved_references()
    if not references:
        print("No blocks of etl-blocks are saved. Save some: etl save FILE.toml", file=sys.stderr)
        return True
    width = max(map(len, references))
    all_work = True
    checks = [_Check(reference, sweep_older_than) for reference in references]
    with ThreadPoolExecutor(CHECKED_AT_ONCE) as pool:
        futures = [pool.submit(contextvars.copy_context().run, each.run) for each in checks]
        for reference, future in zip(references, futures, strict=True):
            works, sentence = future.result()
            all_work &= works
            print(f"{reference:{width}}  {'ok    ' if works else 'FAILED'}  {sentence}", flush=True)
    return all_work


class _Check:
    """A saved block, loaded when this is made because Prefect's settings belong to that thread."""

    def __init__(self, reference: str, sweep_older_than: dt.timedelta | None) -> None:
        self._block: ConnectorBlock | None = None
        self._problem = ""
        self._sweep_older_than = sweep_older_than
        try:
            # Its state now, not whether it recovers after some retries.
            self._block = resolve(reference, ConnectorBlock)
            self._block.retry = self._block.retry.model_copy(update={"attempts": 1})
        except ConnectorError as error:
            self._problem = str(error)

    def run(self) -> tuple[bool, str]:
        if self._block is None:
            return False, self._problem
        try:
            return True, self._block.check() + self._swept(self._block)
        except ConnectorError as error:
            return False, " ".join(str(error).split())
        except Exception as error:  # noqa: BLE001 (one broken block must not hide the state of the others)
            return False, f"Unexpected {type(error).__name__}. Load the block and call check() for the traceback."

    def _swept(self, block: ConnectorBlock) -> str:
        if self._sweep_older_than is None:
            return ""
        if not isinstance(block, ObjectStore):
            raise InvalidInputError(f"There is nothing to sweep: it is a {type(block).__name__}, not an object store.")
        return f" Interrupted uploads removed: {block.sweep(older_than=self._sweep_older_than)}."


def _from_environment(value: Any, where: str, missing: list[str]) -> Any:
    """Replace each `{ env = "NAME" }` in the value, and add what is not set to `missing`."""
    if isinstance(value, dict):
        if set(value) == {"env"} and isinstance(value["env"], str):
            if value["env"] not in os.environ:
                missing.append(
                    f"the environment variable {value['env']} is not set, and {where} takes its value from it"
                )
            return os.environ.get(value["env"])
        return {key: _from_environment(each, f"{where}.{key}", missing) for key, each in value.items()}
    if isinstance(value, list):
        return [_from_environment(each, where, missing) for each in value]
    return value


def _build(blocks: BlocksFile, reference: str, path: tuple[str, ...]) -> ConnectorBlock:
    """Build a block of the file, after the ones it refers to."""
    if reference in blocks.built:
        return blocks.built[reference]
    if reference in path:
        raise InvalidInputError(
            f"{blocks.file}: {' -> '.join([*path, reference])} is a circular reference. Nothing was saved."
        )
    path = (*path, reference)

    def with_blocks(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"block"} and isinstance(value["block"], str):
                if value["block"] in blocks.tables:
                    return _build(blocks, value["block"], path)
                return resolve(value["block"], Block)
            return {key: with_blocks(each) for key, each in value.items()}
        if isinstance(value, list):
            return [with_blocks(each) for each in value]
        return value

    slug, _, name = reference.partition("/")
    try:
        block = block_types()[slug](**with_blocks(blocks.tables[reference]))
    except ValidationError as error:
        raise InvalidInputError(f"{blocks.file}: [{slug}.{name}] {first_problem(error)} Nothing was saved.") from None
    except NotFoundError as error:
        raise NotFoundError(f"{blocks.file}: [{slug}.{name}] {error} Nothing was saved.") from None
    blocks.built[reference] = block
    return block


def _save_one(reference: str, block: ConnectorBlock) -> str:
    name = reference.partition("/")[2]
    try:
        old = resolve(reference, type(block))
    except NotFoundError:
        block.save(name)
        return "created"
    except InvalidInputError:  # saved by a version with other fields, which an update would merge
        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(name, reference.partition("/")[0], include_secrets=False)
            emptied = BlockDocumentUpdate(block_schema_id=document.block_schema_id, data={}, merge_existing_data=False)
            client.update_block_document(document.id, emptied)
        block.save(name, overwrite=True)
        return "updated"
    if changed := differences(old, block):
        block.save(name, overwrite=True)
        return f"updated ({', '.join(changed)})"
    refer_to(old, block)
    return "unchanged"


def differences(old: Block, new: Block) -> list[str]:
    """Return the fields in which two blocks of one type differ."""
    before, after = _content(old), _content(new)
    return [key for key in after if before.get(key) != after[key]]


def refer_to(saved: Block, block: Block) -> None:
    """Have whoever refers to `block` refer to the saved one: what it stores is the id of the document."""
    block._block_document_id = saved._block_document_id  # noqa: SLF001
    block._block_document_name = saved._block_document_name  # noqa: SLF001
    block._is_anonymous = saved._is_anonymous  # noqa: SLF001


def _content(block: Block) -> dict[str, Any]:
    """Return all values of a block, secrets included, with a name or an id in place of a block that it refers to."""
    content = block.model_dump(mode="json", context={"include_secrets": True})
    for key in type(block).model_fields:
        value = getattr(block, key)
        if isinstance(block, ConnectorBlock) and block._is_open(key) and isinstance(value, ConnectorBlock):  # noqa: SLF001
            content[key] = value._reference(key)  # noqa: SLF001 (our own)
        elif isinstance(value, Block):
            content[key] = str(value._block_document_id) if value._block_document_id else _content(value)  # noqa: SLF001
    return {key: content[key] for key in type(block).model_fields if key in content}


def documents(*, include_secrets: bool = False) -> Iterator[BlockDocument]:
    """Yield every saved block of every collection."""
    with get_client(sync_client=True) as client:
        offset = 0
        while page := client.read_block_documents(limit=PAGE, offset=offset, include_secrets=include_secrets):
            offset += len(page)
            yield from page


def _saved_references() -> list[str]:
    """Return `slug/name` of every saved block of etl-blocks."""
    types = block_types()
    return sorted(
        f"{each.block_type.slug}/{each.name}"
        for each in documents()
        if each.block_type and each.block_type.slug in types
    )


def first_problem(error: ValidationError) -> str:
    """Return a sentence on the first problem: the field, and never its value."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    message += "" if message.endswith((".", "?")) else "."
    return f"{place}: {message}" if place else message
