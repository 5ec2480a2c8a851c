"""The SQL of an engine: columns, names, the statements of the write modes, and named parameters."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from blocks.base.errors import InvalidInputError, TypeLossError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa


Parameters = Mapping[str, Any] | Sequence[Any]
"""The values of a statement: by name for `:name`, in order for `%s`."""


LITERALS = r"""
    '(?:[^']|'')*' | "(?:[^"]|"")*"            # strings and quoted names
    | --[^\n]* | /\*.*?\*/                     # comments
    | (\$[A-Za-z_]*\$).*?\1                    # dollar-quoted strings
"""
"""What of a statement is not looked into for parameters, as a pattern of `re.VERBOSE`."""


@dataclass(frozen=True)
class Column:
    """A column of a warehouse table."""

    name: str
    sql_type: str
    arrow_type: pa.DataType
    nullable: bool = True
    has_default: bool = False
    kept: pa.DataType | None = None
    """What the engine keeps of a value, where that is less than the Arrow type: it would round the rest unseen."""
    stage_type: str | None = None
    """Type in the staging table, where the driver cannot fill `sql_type` itself; the engine then casts."""
    any_decimal: bool = False
    """Whether it holds decimals of any precision and scale, so that data keeps its own."""
    equals: str = "="
    """How its values are compared; an operator whose schema is not searched has to be named with it."""
    takes: tuple[pa.DataType, ...] = ()
    """Other Arrow types of which it holds every value, and that it is filled with as they are: times as durations."""
    staged_because: str | None = None
    """Why rows are staged and inserted from there, although the driver could fill the column itself."""


def no_type_error(product: str, kind: pa.DataType) -> TypeLossError:
    """Return the error for an Arrow type for which an engine has no column."""
    text = str(kind)
    is_span = text.startswith("duration") or text == "month_day_nano_interval"
    return TypeLossError(
        f"{product} has no type that holds every {text}. Cast it, to "
        f"{'an integer, such as its microseconds' if is_span else 'text or JSON for example'}."
    )


class Dialect(ABC):
    """The SQL of one engine: names, types and the statements of the write modes."""

    literals: ClassVar[str] = LITERALS
    """What of a statement holds no parameters: `LITERALS`, or what this engine has in their place."""

    stage_prefix: ClassVar[str] = "CREATE TEMPORARY TABLE"

    case_counts: ClassVar[bool] = True
    """Whether names that differ only by case are two names."""

    ddl_commits: ClassVar[bool] = False
    """Whether a statement that shapes a table ends the transaction it is in; such run before the transaction."""

    @abstractmethod
    def column(self, name: str, kind: pa.DataType) -> Column:
        """Return a new column that holds every value of the Arrow type, and the Arrow type in which it is filled.

        Raises:
            TypeLossError: No column type of this engine does.
        """

    def name(self, name: str) -> str:
        """Return a quoted identifier, kept exactly as written."""
        return '"' + name.replace('"', '""') + '"'

    def constant(self, parameter: str, kind: pa.DataType) -> str:
        """Return the parameter `:parameter`, which is a text, as a value of the Arrow type that a column has."""
        return f"CAST(:{parameter} AS {self.column(parameter, kind).sql_type})"

    def known_as(self, stored: str) -> str:
        """Return how a name that the engine stores is written here; where they differ, an engine folds case."""
        return stored

    def names(self, names: Iterable[str], prefix: str = "") -> str:
        """Quoted identifiers, separated by commas."""
        return ", ".join(prefix + self.name(name) for name in names)

    def table(self, table: str) -> str:
        """Return a quoted table; `schema.table` has its parts quoted one by one."""
        return ".".join(self.name(part) for part in table.split("."))

    tables_of_schema: ClassVar[str] = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    )
    """The query of the names of the tables in the schema of the session."""
    indexes_keys: ClassVar[bool] = False
    """Whether the key of a new table becomes its primary key; where not, the load protocol alone keeps it unique."""
    partial_indexes: ClassVar[bool] = False
    """Whether a table may have indexes beside its key, also of some of its rows; the ledger has them then."""

    def create_table(
        self,
        table: str,
        columns: Sequence[Column],
        *,
        key: Sequence[str] = (),
        unique: bool | None = None,
        partition_by: Sequence[str] = (),  # noqa: ARG002 (for engines that have partitions)
        if_absent: bool = True,
    ) -> str:
        """Return the statement that creates the table; `unique` makes its key primary (default: `indexes_keys`).

        With `if_absent` it does nothing where there is a table of the name, else it fails.
        """
        parts = [f"{self.name(c.name)} {c.sql_type}" + (" NOT NULL" if c.name in key else "") for c in columns]
        if key and (self.indexes_keys if unique is None else unique):
            parts.append(f"PRIMARY KEY ({self.names(key)})")
        create = "CREATE TABLE IF NOT EXISTS" if if_absent else "CREATE TABLE"
        return f"{create} {self.table(table)} ({', '.join(parts)})"

    def create_stage(self, stage: str, columns: Sequence[Column]) -> str:
        """Return the statement that creates a table that only this session sees."""
        parts = ", ".join(f"{self.name(column.name)} {column.stage_type or column.sql_type}" for column in columns)
        return f"{self.stage_prefix} {self.name(stage)} ({parts})"

    def create_part(self, table: str, columns: Sequence[Column]) -> str:
        """Return the statement that creates a table for a staged part, which all sessions see."""
        parts = ", ".join(f"{self.name(column.name)} {column.stage_type or column.sql_type}" for column in columns)
        return f"CREATE TABLE {self.table(table)} ({parts})"

    def cast(self, value: str, column: Column) -> str:
        """Return a value in the column's own type; as it is, where a cast takes other names than a column does."""
        return f"CAST({value} AS {column.sql_type})"

    def staged(self, column: Column) -> str:
        """Return the value of a staged row `s` in the column's own type."""
        value = f"s.{self.name(column.name)}"
        return self.cast(value, column) if column.stage_type else value

    def staged_key(self, column: Column) -> str:
        """Return what tells the values of a staged key apart, to the byte where text may be equal that is not the same.

        Where that is not the value itself, `same_key` compares likewise.
        """
        return self.staged(column)

    def add_column(self, table: str, column: Column) -> str:
        """Return the statement that adds a column, null in the rows that are there."""
        return f"ALTER TABLE {self.table(table)} ADD COLUMN {self.name(column.name)} {column.sql_type}"

    def add_field(self, table: str, path: Sequence[str], field: Column) -> str | None:  # noqa: ARG002 (for subclasses)
        """Return the statement that adds a field to the struct at `path`; None where the engine has none."""
        return None

    def insert(self, table: str, columns: Sequence[Column], stage: str, where: str = "") -> str:
        """Return the statement that copies the staged rows into the table."""
        values = ", ".join(self.staged(column) for column in columns)
        names = self.names(column.name for column in columns)
        return f"INSERT INTO {self.table(table)} ({names}) SELECT {values} FROM {self.name(stage)} AS s{where}"

    @abstractmethod
    def content(self, table: str, columns: Sequence[Column]) -> str:
        """Return the query of one row that has other values once a row of the table, or of the view, is another one.

        The order of the rows means nothing, and a row that is there twice counts twice.
        """

    def truncate(self, table: str) -> str:
        """Return the statement that empties the table and keeps its grants, views and indexes."""
        return f"DELETE FROM {self.table(table)}"

    def same_key(self, columns: Sequence[Column], key: Sequence[str]) -> str:
        """Return the condition that a row of the table `t` and a staged row `s` have the same key."""
        return " AND ".join(f"t.{self.name(c.name)} {c.equals} {self.staged(c)}" for c in columns if c.name in key)

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """Return the statement that deletes the rows of every partition that the staged rows touch."""
        partitions = f"SELECT DISTINCT {self.names(partition_by)} FROM {self.name(stage)}"
        return (
            f"DELETE FROM {self.table(table)} AS t WHERE EXISTS "
            f"(SELECT 1 FROM ({partitions}) AS s WHERE {self.same_key(columns, partition_by)})"
        )

    def update_from_stage(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the statement that gives the rows whose key is staged the staged values."""
        rest = [column for column in columns if column.name not in key] or columns
        values = ", ".join(f"{self.name(column.name)} = {self.staged(column)}" for column in rest)
        return (
            f"UPDATE {self.table(table)} AS t SET {values} FROM {self.name(stage)} AS s "
            f"WHERE {self.same_key(columns, key)}"
        )

    def insert_missing(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """Return the statement that inserts the staged rows whose key the table lacks."""
        known = f"SELECT 1 FROM {self.table(table)} AS t WHERE {self.same_key(columns, key)}"
        return self.insert(table, columns, stage, f" WHERE NOT EXISTS ({known})")


@functools.cache
def _pattern(literals: str, forms: str) -> re.Pattern[str]:
    return re.compile(f"{literals}|{forms}", re.VERBOSE | re.DOTALL)


_CODE = re.compile(r"'(?:[^']|'')*' | --[^\n]* | /\*.*?\*/", re.VERBOSE | re.DOTALL)
_NAME = re.compile(r'"((?:[^"]|"")+)" | `([^`]+)` | ([^\W\d][\w$]*)', re.VERBOSE)
_CHANGES_NO_ROWS = re.compile(
    r"""
    [\s(]*(?: (?:grant|revoke|comment|analyze|vacuum|show|describe|desc|explain(?!\s*\(?\s*analyze)) \b
      | create \b (?:\s+\w+)*? \s+ if \s+ not \s+ exists \b
      | (?:select|values|from|table) \b (?! .* \b into \b )
      | with \b (?! .* \b (?:insert|update|delete|merge|into) \b )
    )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def changed_names(sql: str) -> set[str]:
    """Return the names in those of the statements that may change what a table holds, in small letters.

    >>> sorted(changed_names("select 1 from orders; delete from shop.Orders where day = 'monday' -- all of it"))
    ['day', 'delete', 'from', 'orders', 'shop', 'where']
    >>> changed_names("create table if not exists orders (id int)")
    set()
    """
    statements = _CODE.sub(" ", sql).split(";")
    names = [match for each in statements if not _CHANGES_NO_ROWS.match(each) for match in _NAME.findall(each)]
    return {part.lower() for match in names for part in "".join(match).replace('""', '"').split(".")}


_COLON = r"""
    :: | :=                                      # casts and assignments
    | (?<![\w:"\])]):(?P<name>[A-Za-z_]\w*)      # a parameter; after a name it is a path into a value
"""
_PERCENT = r"""
    %% |                                         # a percent sign, as it is written beside the others
    %\((?P<name>[A-Za-z_]\w*)\)s                # a parameter by name
    | (?P<next>%s)\b                             # the next one in order
"""


def bind(
    sql: str, parameters: Mapping[str, Any], placeholder: Callable[[str], str], *, literals: str = LITERALS
) -> str:
    """Return the statement with each `:name` outside of strings, names and comments in the driver's own form.

    >>> bind("select ':a', b::text from t where c = :day", {"day": 1}, lambda name: f"${name}")
    "select ':a', b::text from t where c = $day"

    Raises:
        InvalidInputError: A parameter is used and not given.
    """

    def bound(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0]
        if name not in parameters:
            raise InvalidInputError(
                f"The statement uses :{name}, which the parameters lack; given: {list(parameters)}."
            )
        return placeholder(name)

    return _pattern(literals, _COLON).sub(bound, sql)


def strip_literals(sql: str, literals: str = LITERALS) -> str:
    """Return the statement with a space for each of its strings, quoted names and comments.

    >>> strip_literals("select ';' -- one statement")
    'select    '
    """
    return re.sub(literals, " ", sql, flags=re.VERBOSE | re.DOTALL)


_BEGINS = re.compile(
    r"(?:begin(?:\s+(?:work|tran|transaction|deferred|immediate|isolation|read|not|deferrable|name)\b.*)?"
    r"|start\s+transaction\b.*)$",
    re.IGNORECASE | re.DOTALL,
)
_ENDS = re.compile(
    r"(?:commit|end|abort|rollback)(?:\s+(?:work|tran|transaction))?(?:\s+and\s+(?:no\s+)?chain)?$"
    r"|(?:commit|rollback|prepare)\s+(?:transaction|prepared)\b.*$",
    re.IGNORECASE | re.DOTALL,
)
_LASTS = re.compile(
    r"""
    (?: set \b (?!\s+(?:global|persist)\b) | reset \b | unset \b | use \b | alter \s+ session \b
      | create \s+ (?:or \s+ replace \s+)? (?:(?:local|global) \s+)? temp(?:orary)? \b
      | create \s+ table \s+ (?:if \s+ not \s+ exists \s+)? \#
      | (?:select|with) \b .* \b into \s+ (?:(?:local|global) \s+)? temp(?:orary)? \b
      | savepoint \b | release \b | rollback \s+ (?:(?:work|transaction) \s+)? to \b
      | declare \b .* \b cursor \b | lock \b | (?:un)?listen \b | discard \b
    )
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class SessionWords:
    """What a statement, or a script, does to the session that it runs in.

    Attributes:
        first: Its first words, for messages.
        ends_transaction: Whether it commits or undoes one.
        opens_transaction: Whether it leaves one open that it began.
        nothing_else: Whether it does nothing that outlives the session.
    """

    first: str
    ends_transaction: bool
    opens_transaction: bool
    nothing_else: bool


def session_words(sql: str, literals: str = LITERALS) -> SessionWords:
    """Return what a statement does to its session.

    >>> session_words("begin -- now").opens_transaction, session_words("BEGIN; DELETE FROM t; COMMIT").opens_transaction
    (True, False)
    >>> [session_words(each).nothing_else for each in ("SET x = 1", "USE shop;", "CREATE TEMP TABLE t (id int)")]
    [True, True, True]
    >>> session_words("CREATE TEMP TABLE s AS SELECT 1; INSERT INTO t SELECT * FROM s").nothing_else
    False
    """
    statements = [each.strip() for each in strip_literals(sql, literals).split(";") if each.strip()]
    begins, ends = [[bool(kind.match(each)) for each in statements] for kind in (_BEGINS, _ENDS)]
    opened = False
    for begin, end in zip(begins, ends, strict=True):
        opened = begin or (opened and not end)
    return SessionWords(
        first=" ".join(statements[0].split()[:2]).upper() if statements else "",
        ends_transaction=any(ends),
        opens_transaction=opened,
        nothing_else=bool(statements)
        and all(
            begin or end or bool(_LASTS.match(each)) for begin, end, each in zip(begins, ends, statements, strict=True)
        ),
    )


def named(sql: str, parameters: Parameters | None, *, literals: str = LITERALS) -> tuple[str, dict[str, Any] | None]:
    """Return the statement with its parameters as `:name`, and these by name.

    The forms of the DB-API's drivers, in which statements for other collections are written, are taken too: `%(name)s`,
    and `%s` with parameters in order.

    >>> named("select %(a)s, '%(a)s'", {"a": 1})
    ("select :a, '%(a)s'", {'a': 1})
    >>> named("insert into t values (%s, %s)", (1, "x"))
    ('insert into t values (:p1, :p2)', {'p1': 1, 'p2': 'x'})

    Where they are used, `%%` is a percent sign, in strings too.

    >>> named("select n %% %(a)s, 'half: 50%%'", {"a": 2})
    ("select n % :a, 'half: 50%'", {'a': 2})

    Raises:
        InvalidInputError: Not as many parameters are given in order as are used.
    """
    if parameters is None or "%" not in sql:
        return sql, None if parameters is None else _by_name(parameters)
    used = 0
    forms = [match for match in _pattern(literals, _PERCENT).finditer(sql) if match["name"] or match["next"]]
    doubled = any(match["name"] or not isinstance(parameters, Mapping) for match in forms)

    def colon(match: re.Match[str]) -> str:
        nonlocal used
        if match["name"]:
            return f":{match['name']}"
        if match["next"] and not isinstance(parameters, Mapping):
            used += 1
            return f":p{used}"
        return match[0].replace("%%", "%") if doubled else match[0]

    text = _pattern(literals, _PERCENT).sub(colon, sql)
    if not isinstance(parameters, Mapping) and used != len(parameters):
        raise InvalidInputError(f"The statement has {used} times %s, and {len(parameters)} parameters were given.")
    return text, _by_name(parameters)


def _by_name(parameters: Parameters) -> dict[str, Any]:
    if isinstance(parameters, Mapping):
        return dict(parameters)
    return {f"p{number}": value for number, value in enumerate(parameters, 1)}
