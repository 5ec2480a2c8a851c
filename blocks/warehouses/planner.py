"""Planner: compares the schema of the data with the table's and says what a load would do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blocks.arrow.exact import casts_exactly
from blocks.arrow.types import is_checked, plain_type, type_loss
from blocks.base.errors import InvalidInputError, SchemaError, TypeLossError
from blocks.base.names import text_problem
from blocks.base.optional import lazy
from blocks.warehouses.load import ColumnPlan, LoadPlan, Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.warehouses.load import LoadRequest
    from blocks.warehouses.sql import Column, Dialect
else:
    pa = lazy("pyarrow")


@dataclass(frozen=True)
class Planned:
    """A plan, with the columns that are filled and the Arrow schema in which they are sent."""

    plan: LoadPlan
    columns: tuple[Column, ...]
    schema: pa.Schema
    inferred: frozenset[str]
    """The columns whose types were inferred from text, and that become the table's value by value."""
    kept: pa.Schema
    """The same columns, as what the engine keeps of their values."""

    @property
    def table_shape(self) -> tuple[Any, ...]:
        """What the plan depends on of the table: which columns it has and lacks, and their types."""
        return (self.plan.ddl, *((column.name, column.sql_type, column.arrow_type) for column in self.columns))

    @property
    def needs_stage(self) -> bool:
        """Whether the engine has to cast a column on its way."""
        return any(column.stage_type for column in self.columns)


class Planner:
    """Compares the schema of the data with the table's."""

    def __init__(
        self,
        dialect: Dialect,
        request: LoadRequest,
        *,
        existing: Sequence[Column] | None,
        uri: str,
        checks_values: bool = True,
        kinds: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        self.dialect = dialect
        self.uri = uri
        self.checks_values = checks_values
        self.kinds = kinds or {}
        self.existing = {column.name: column for column in existing or ()}
        self.creates = existing is None
        self.source = request.scan.source
        self.schema = request.scan.schema
        self.inferred = set(request.scan.inferred())
        self.allow_loss = set(request.allow_loss)
        self.table = request.table
        self.mode: Mode = request.mode
        self.key = request.key
        self.partition_by = request.partition_by
        self.on_new_columns = request.on_new_columns

    def plan(self) -> Planned:
        """Return what the load would do.

        Raises:
            SchemaError: The data does not fit the table.
            InvalidInputError: The arguments do not fit each other.
        """
        self._check_arguments()
        columns: list[Column] = []
        plans: list[ColumnPlan] = []
        exact, ddl = frozenset[str](), list[str]()
        for field in self.schema:
            column, action = self._column(field)
            if column and action == "keep" and self.on_new_columns == "add":
                column, statements = self._with_new_fields(column, field.type)
                ddl += statements
            kept = column and (column.kept or column.arrow_type)
            loss = type_loss(self.kinds.get(field.name, field.type), kept) if column else None
            checked = None
            if loss and column and self._reads_text(field) and casts_exactly(field.type, kept):
                exact = exact | {field.name}
                loss, checked = None, f"values that are no {column.sql_type} as they are written"
            elif loss and column and self.checks_values and is_checked(field.type, kept):
                loss, checked = None, loss
            if column:
                columns.append(column)
            plans.append(
                ColumnPlan(
                    name=field.name,
                    source_type=str(field.type),
                    target_type=column.sql_type if column else None,
                    action=action,
                    loss=loss,
                    checked=checked,
                )
            )
        plans += self._absent()
        ddl += [self.dialect.add_column(self.table, column) for column in columns if self._is_new(column)]
        if self.creates:
            key = self.key if self.mode == "upsert" else ()
            ddl = [
                self.dialect.create_table(self.table, columns, key=key, partition_by=self.partition_by, if_absent=False)
            ]
        plan = LoadPlan(
            table=self.table,
            mode=self.mode,
            key=self.key,
            partition_by=self.partition_by,
            creates_table=self.creates,
            ddl=tuple(ddl),
            columns=tuple(plans),
            notes=(
                *(
                    f"rows are staged and inserted from there, because the table has {reason}"
                    for reason in dict.fromkeys(column.staged_because for column in columns if column.staged_because)
                ),
                *(
                    f"{column.name} has no value, and so no type: its new column is {column.sql_type}"
                    for column in columns
                    if column.name not in self.existing and pa.types.is_null(self.schema.field(column.name).type)
                ),
            ),
        )
        return Planned(
            plan,
            tuple(columns),
            pa.schema([(column.name, column.arrow_type) for column in columns]),
            exact,
            pa.schema([(column.name, column.kept or column.arrow_type) for column in columns]),
        )

    def _reads_text(self, field: pa.Field) -> bool:
        """Tell whether the type of a column is only what its text looks like."""
        return field.name in self.inferred and field.name not in self.allow_loss

    def _with_new_fields(self, column: Column, kind: pa.DataType) -> tuple[Column, list[str]]:
        """Return a column that is a struct with the fields of the data that it lacks, and what adds them there."""
        statements: list[str] = []

        def widened(path: tuple[str, ...], known: pa.DataType, given: pa.DataType) -> pa.DataType:
            if not (pa.types.is_struct(known) and pa.types.is_struct(given)):
                return known
            fields = {field.name: field.type for field in known}
            for field in given:
                if field.name in fields:
                    fields[field.name] = widened((*path, field.name), fields[field.name], field.type)
                elif statement := self.dialect.add_field(self.table, path, self.dialect.column(field.name, field.type)):
                    statements.append(statement)
                    fields[field.name] = self.dialect.column(field.name, field.type).arrow_type
            return pa.struct(list(fields.items()))

        kind = widened((column.name,), column.arrow_type, plain_type(kind))
        if not statements:
            return column, []
        return replace(column, arrow_type=kind, sql_type=self.dialect.column(column.name, kind).sql_type), statements

    def _alike(self, name: str) -> str:
        """Return what names have in common that are one name to the engine."""
        return self.dialect.known_as(name) if self.dialect.case_counts else name.lower()

    def _is_new(self, column: Column) -> bool:
        return not self.creates and column.name not in self.existing

    def _column(self, field: pa.Field) -> tuple[Column | None, Any]:
        if (known := self.existing.get(field.name)) is not None:
            plain = plain_type(field.type)
            if known.any_decimal and pa.types.is_decimal(plain):
                known = replace(known, arrow_type=plain)
            for other in known.takes:
                if type_loss(plain, other) is None or is_checked(plain, other):
                    known = replace(known, arrow_type=other, kept=None)
            return known, "keep"
        if near := [name for name in self.existing if self._alike(name) == self._alike(field.name)]:
            raise SchemaError(
                f"{self.uri}: the data's column {field.name!r} and the table's {near[0]!r} differ only by case. "
                "Rename the data's."
            )
        if not self.creates and self.on_new_columns == "fail":
            raise SchemaError(f"{self.uri} has no column {field.name!r}, and on_new_columns is 'fail'.")
        if not self.creates and self.on_new_columns == "ignore":
            return None, "ignore"
        kind = roomy(field.type) if field.name in self.inferred else field.type
        try:
            return self.dialect.column(field.name, kind), "create" if self.creates else "add"
        except TypeLossError as error:
            raise TypeLossError(f"{self.uri}, column {field.name!r}: {error}") from None

    def _absent(self) -> Iterator[ColumnPlan]:
        present = set(self.schema.names)
        for name, column in self.existing.items():
            if name in present:
                continue
            if not column.nullable and not column.has_default:
                raise SchemaError(
                    f"{self.uri}: the data lacks the column {name!r}, which is NOT NULL and has no default."
                )
            yield ColumnPlan(name=name, source_type=None, target_type=column.sql_type, action="absent")

    def _check_arguments(self) -> None:
        names = self.schema.names
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise SchemaError(
                f"{self.source}: there is more than one column of the name {', '.join(twice)}. Rename them."
            )
        alike = Counter(self._alike(name) for name in names)
        if repeated := sorted({name for name in names if alike[self._alike(name)] > 1}):
            raise SchemaError(
                f"{self.source}: the columns {', '.join(map(repr, repeated))} have one name to {self.uri}, where names "
                "differ by more than case. Rename them, those of a CSV file by CsvOptions(case_sensitive_names=False)."
            )
        if "" in names:
            raise SchemaError(f"{self.source}: column {names.index('') + 1} has no name. Give it one.")
        if not names:
            raise SchemaError("The data has no columns.")
        for name in names_within(self.schema):
            if problem := text_problem(name, allowed="\t\n"):
                raise SchemaError(f"{self.uri}: the name {name!r:.200} of a column of the data {problem}. Rename it.")
        for mode, argument, value in (
            ("upsert", "key", self.key),
            ("replace_partition", "partition_by", self.partition_by),
        ):
            if self.mode == mode and not value:
                raise InvalidInputError(f"mode={mode!r} needs {argument}: the columns that tell rows apart.")
            check_names(value, names, argument)


def roomy(kind: pa.DataType) -> pa.DataType:
    """Return the type of a new column for decimals of which only some are known: those of the next day may be longer.

    >>> import pyarrow as pa
    >>> roomy(pa.decimal128(18, 2)), roomy(pa.decimal128(38, 12))
    (Decimal128Type(decimal128(38, 9)), Decimal128Type(decimal128(38, 12)))
    """
    room = pa.decimal128(38, 9)
    fits = pa.types.is_decimal128(kind) and type_loss(kind, room) is None
    return room if fits else kind


def names_within(fields: Iterable[pa.Field]) -> Iterator[str]:
    """Return the names of columns, and those within the columns that are structs."""
    for field in fields:
        yield field.name
        kind = field.type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind):
            yield from names_within(kind)


def check_names(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Check that names are columns of the data.

    Raises:
        InvalidInputError: Some are not among `known`.
    """
    known = list(known)
    if missing := [name for name in names if name not in known]:
        raise InvalidInputError(f"{what} names {missing}, which the data lacks. Its columns: {known}.")
