"""What a format supplies: a reader and a writer of record batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

import pyarrow as pa

from blocks.arrow.columns import NOTHING, plain_schema, present_fields, widened
from blocks.base.errors import SchemaError

if TYPE_CHECKING:
    from typing import Self

    from blocks.arrow.rejects import Rejects
    from blocks.files.options import OnError

BATCH_ROWS = 65_536

BATCH_BYTES = 4 * 2**20
"""A batch holds at most so many rows, and about so many bytes."""

SAMPLE_ROWS = 65_536

Open = Callable[[], BinaryIO]


class InferredColumn(Protocol):
    """What files of one format say of a column that no schema declares."""

    @property
    def type(self) -> pa.DataType:
        """Its type."""

    @property
    def nullable(self) -> bool:
        """Whether it may hold nulls."""

    def __or__(self, other: Self) -> Self:
        """Return what the files of both say.

        Raises:
            SchemaError: No type holds the values of both.
        """


class Reader(Protocol):
    """One file of one format."""

    def infer(self) -> Mapping[str, InferredColumn]:
        """Find out the columns of the file."""

    def batches(
        self,
        schema: pa.Schema,
        rejects: Rejects | None = None,
        on_error: OnError = "fail",
        *,
        inferred: Mapping[str, InferredColumn] = NOTHING,
        absent: Mapping[str, pa.Scalar] = NOTHING,
    ) -> Iterator[pa.RecordBatch]:
        """Read the columns of `schema`, each of exactly its type.

        Args:
            schema: What to read, by name.
            rejects: Where bad rows go.
            on_error: Whether they may.
            inferred: What `infer` said of this file and others of its format, where no schema is declared.
            absent: What columns are that the file lacks; one that is not here either is a SchemaError.
        """


@dataclass(frozen=True)
class TypedColumn:
    """What files that have a schema say of a column."""

    type: pa.DataType
    nullable: bool = True

    def __or__(self, other: TypedColumn) -> TypedColumn:
        """Return the column that holds the values of both.

        Raises:
            SchemaError: There is none.
        """
        if (common := widened(self.type, other.type)) is None:
            raise SchemaError(f"is {other.type}, and {self.type} in the files before it")
        return TypedColumn(common, self.nullable or other.nullable)


def typed_columns(schema: pa.Schema, source: str) -> dict[str, TypedColumn]:
    """Return the columns of a file that has a schema.

    Raises:
        SchemaError: Two have one name.
    """
    present_fields(schema.names, schema, NOTHING, source)
    return {field.name: TypedColumn(field.type, field.nullable) for field in plain_schema(schema)}


def schema_of(columns: Mapping[str, InferredColumn]) -> pa.Schema:
    """Return the schema of inferred columns."""
    return pa.schema([pa.field(name, column.type, column.nullable) for name, column in columns.items()])


class Writer(Protocol):
    """Writes one file of one format."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows."""

    def close(self) -> None:
        """Finish the file; it is whole only then. The file object stays open."""
