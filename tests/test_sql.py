"""SQL as text: named parameters, quoted names, the statements of the write modes."""

from __future__ import annotations

import doctest
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.arrow import types as arrow_types
from blocks.base.errors import InvalidInputError
from blocks.warehouses import sql
from blocks.warehouses.sql import Column, Dialect, bind

if TYPE_CHECKING:
    from collections.abc import Sequence


class Plain(Dialect):
    """The SQL that engines have in common."""

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A column of the type's own name."""
        return Column(name, str(kind), kind)

    def content(self, table: str, columns: Sequence[Column]) -> str:  # noqa: ARG002 (it is what others override)
        """The number of its rows, as no function that hashes them is common."""
        return f"SELECT count(*) FROM {self.table(table)}"


def bound(text: str, **parameters: object) -> str:
    return bind(text, parameters, lambda name: f"<{name}>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select :a", "select <a>"),
        ("select :a,:a", "select <a>,<a>"),
        ("where x=:a)", "where x=<a>)"),
        ("where x<:a", "where x<<a>"),
        (":a", "<a>"),
        ("select ':a', 'it''s :a', :a", "select ':a', 'it''s :a', <a>"),
        ("select ''':a', :a", "select ''':a', <a>"),
        ('select ":a", "x"":a", :a', 'select ":a", "x"":a", <a>'),
        ("select :a -- :a\n, :a", "select <a> -- :a\n, <a>"),
        ("select :a -- it's\n, :a", "select <a> -- it's\n, <a>"),
        ("select /* :a \n :a */ :a", "select /* :a \n :a */ <a>"),
        ("select $$ :a $$, $tag$ :a $$ :a $tag$, :a", "select $$ :a $$, $tag$ :a $$ :a $tag$, <a>"),
        ("select x::text, :a::int", "select x::text, <a>::int"),
        ("x := :a", "x := <a>"),
        ("select '12:30:00', x[1:2], :a", "select '12:30:00', x[1:2], <a>"),
        ("select a:b, :a", "select a:b, <a>"),
        ("select :ab, :a", "select <ab>, <a>"),
        ("select :a1_B", "select <a1_B>"),
        ("select 100 % 3, '%s', :a", "select 100 % 3, '%s', <a>"),
        ("select 'open :a", "select 'open <a>"),
    ],
)
def test_parameters_are_found_where_they_are(text, expected):
    """`:name` is a parameter outside of strings, quoted names, comments, casts and slices only."""
    assert bound(text, a=1, ab=2, a1_B=3) == expected


@settings(deadline=None)
@given(st.text(), st.text())
def test_text_in_quotes_is_left_alone(string, name):
    """Whatever stands in a string, a quoted name or a comment stays as it is."""
    literal = "'" + string.replace("'", "''") + "'"
    quoted = Plain().name(name)
    statement = f"select {literal} as {quoted} /* {string.replace('*/', '')} */"
    if "/*" not in string and not string.endswith("*"):
        assert bound(statement + ", :a", a=1) == statement + ", <a>"


def test_a_missing_parameter_is_named():
    """With what was given, and without any value."""
    with pytest.raises(InvalidInputError, match=r"uses :day, which the parameters lack; given: \['dya'\]") as caught:
        bound("select :day", dya="secret")
    assert "secret" not in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters=".\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_quoting_can_be_undone(parts):
    """A quoted name is the name, with its quotes doubled and nothing else changed."""
    table = Plain().table(".".join(parts))
    assert [part[1:-1].replace('""', '"') for part in table.split('"."')] or parts
    assert Plain().name(parts[0])[1:-1].replace('""', '"') == parts[0]
    assert table.count('"') % 2 == 0


def test_statements_name_their_columns():
    """Statements of the write modes list columns by name, so that the order in the table means nothing."""
    dialect = Plain()
    columns = [dialect.column("id", pa.int64()), Column("j", "json", pa.string(), stage_type="text")]
    assert dialect.insert("s.t", columns, "stage") == (
        'INSERT INTO "s"."t" ("id", "j") SELECT s."id", CAST(s."j" AS json) FROM "stage" AS s'
    )
    assert dialect.create_stage("stage", columns) == 'CREATE TEMPORARY TABLE "stage" ("id" int64, "j" text)'
    assert dialect.create_table("t", columns, key=["id"]) == (
        'CREATE TABLE IF NOT EXISTS "t" ("id" int64 NOT NULL, "j" json)'
    )
    assert dialect.create_table("t", columns, key=["id"], unique=True).endswith('"j" json, PRIMARY KEY ("id"))')
    assert 'SET "j" = CAST(s."j" AS json)' in dialect.update_from_stage("t", columns, ["id"], "stage")
    assert 't."id" = s."id"' in dialect.insert_missing("t", columns, ["id"], "stage")


@pytest.mark.parametrize("module", [sql, arrow_types], ids=lambda module: module.__name__)
def test_examples_are_true(module):
    """The examples in the docstrings run."""
    assert doctest.testmod(module).failed == 0
