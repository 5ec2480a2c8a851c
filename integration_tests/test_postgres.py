"""PostgreSQL over TLS: the promises of every warehouse, and what only this engine has or gets wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import adbc_driver_manager
import psycopg
import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
    TypeLossError,
    lookup,
)
from blocks.base.retry import RetryPolicy
from blocks.testing.proxy import FaultProxy
from blocks.warehouses.ledger import LEDGER, QUARANTINE
from connectors.postgres import Postgres
from connectors.shared.libpq.errors import ERRORS, translate
from tests.contracts.incremental import *  # noqa: F403
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import CANARY, UTC, a_ledger_without_its_key_is_refused, count, leak, rows, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address

SHOWN_ELSEWHERE = {"test_types_that_lose_something_are_refused", "test_upsert_of_a_hundred_thousand_into_a_million"}
"""Of the contract: what takes ten seconds here, and DuckDB shows."""
RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


@pytest.fixture
def warehouse(pg_database: Address) -> Iterator[Postgres]:
    tls = {"ssl_mode": "verify-ca", "ssl_root_cert": str(pg_database.ca_file)} if pg_database.ca_file else {}
    with contextlib.closing(Postgres(**pg_database.fields(), **tls, retry=RETRY)) as block:
        yield block


@pytest.fixture
def unsupported_types() -> set[str]:
    return set()


def sql(warehouse: Postgres, *statements: str) -> None:
    for statement in statements:
        warehouse.execute(statement)


# Errors


def test_every_error_of_the_server_is_known() -> None:
    """No SQLSTATE that psycopg knows is without a class of ours, and each gives a message with the place in it."""
    found = [value for value in vars(psycopg.errors).values() if isinstance(value, type)]
    states = {error.sqlstate: error for error in found if issubclass(error, psycopg.Error) and error.sqlstate}
    assert len(states) > 200
    assert sorted(state for state in states if lookup(ERRORS, state) is None) == []
    for error in states.values():
        translated = translate(error("c4n4ry"), "run a statement", "postgres://host:1/db")
        assert isinstance(translated, ConnectorError)
        assert "postgres://host:1/db" in str(translated)


def test_every_error_of_the_drivers_is_known() -> None:
    """What psycopg and ADBC raise without a SQLSTATE is a lost connection or a wrong call."""
    io = {"status_code": adbc_driver_manager.AdbcStatusCode.IO}
    for module, arguments in ((psycopg, {}), (adbc_driver_manager, io)):
        for name in ("DataError", "IntegrityError", "InternalError", "ProgrammingError"):
            error = translate(getattr(module, name)("words", **arguments), "run a statement", "postgres://x")
            assert isinstance(error, TerminalError), name
        lost = module.OperationalError("server closed the connection", **arguments)
        assert isinstance(translate(lost, "run a statement", "postgres://x"), TransientError)
        assert isinstance(translate(lost, "commit", "postgres://x", ambiguous=True), AmbiguousError)
    stopped = psycopg.errors.AdminShutdown("terminating connection")
    assert isinstance(translate(stopped, "run a statement", "postgres://x", ambiguous=True), TransientError)
    assert isinstance(translate(stopped, "commit", "postgres://x", ambiguous=True), AmbiguousError)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"password": "wr0ng"}, AuthError, "password authentication failed.*Check username and password"),
        ({"username": "nobody", "password": "wr0ng"}, AuthError, "nobody"),
        ({"database": "nowhere"}, NotFoundError, "nowhere.* does not exist"),
        ({"port": 1}, TransientError, "refused"),
        ({"host": "nowhere.invalid"}, TransientError, "nowhere.invalid"),
        ({"ssl_mode": "verify-full", "ssl_root_cert": "/nowhere"}, (AuthError, InvalidInputError), "cert"),
    ],
)
def test_a_connection_that_fails_says_why(pg_database: Address, change: dict[str, Any], error: Any, words: str) -> None:
    """Wrong password, role, database, port, host and certificate are told apart, and no message holds a password."""
    retry = RetryPolicy(attempts=2, first_delay_s=0)
    broken = Postgres(**{**pg_database.fields(), **change}, retry=retry)
    for call in (broken.check, lambda: broken.scan("t").to_arrow(), lambda: broken.load(table_of([1]), "t")):
        with pytest.raises(error, match=f"(?s){words}") as caught:
            call()
        assert "wr0ng" not in leak(caught.value)
        assert pg_database.password not in leak(caught.value)
        assert broken.uri() in str(caught.value)


@pytest.mark.parametrize("limit", ["role", "database"])
def test_a_limit_of_connections_passes(warehouse: Postgres, pg_database: Address, limit: str) -> None:
    """Too many connections are worth waiting for; they say nothing of the password or the database's name."""
    role = f"few_{uuid.uuid4().hex[:8]}"
    warehouse.execute(f"create role {role} login password 'few' connection limit {0 if limit == 'role' else -1}")
    name = warehouse.fetch_one("select current_database()")[0]
    try:
        if limit == "database":
            warehouse.execute(f'alter database "{name}" connection limit 0')
        few = Postgres(
            **{**pg_database.fields(), "username": role, "password": "few"},
            retry=RetryPolicy(attempts=2, first_delay_s=0),
        )
        for call in (few.check, lambda: few.scan("t").to_arrow()):
            with pytest.raises(TransientError, match=f"too many connections for {limit}"):
                call()
    finally:
        warehouse.execute(f'alter database "{name}" connection limit -1')
        warehouse.execute(f"drop role {role}")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("FATAL:  the database system is starting up", TransientError),
        ("FATAL:  the database system is shutting down", TransientError),
        ("FATAL:  the database system is in recovery mode", TransientError),
        ("FATAL:  the database system is not yet accepting connections", TransientError),
        ("FATAL:  sorry, too many clients already", TransientError),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", TransientError),
        ('FATAL:  role "loader" is not permitted to log in', AuthError),
        ('FATAL:  database "shop" does not exist', NotFoundError),
        ('FATAL:  database "shop" is not currently accepting connections', TerminalError),
    ],
)
def test_what_a_server_says_while_connecting(words: str, error: type[Exception]) -> None:
    """A server that starts, stops or is full is asked again; what a person has to change is not."""
    refused = psycopg.OperationalError(f'connection to server at "db", port 5432 failed: {words}')
    assert type(translate(refused, "connect to", "postgres://db")) is error


def test_a_session_that_ends_while_it_begins_passes() -> None:
    """ADBC asks the catalogue of types as it connects, and quotes that query before the server's words."""
    words = "IO: [libpq] Failed to execute query '\nSELECT attrelid\nFROM pg_attribute': FATAL:  terminating connection"
    error = translate(
        psycopg.OperationalError(f"{words} due to administrator command\n"), "connect to", "postgres://db"
    )
    assert isinstance(error, TransientError)
    assert str(error).endswith("postgres://db: FATAL: terminating connection due to administrator command.")


def test_the_connection_is_encrypted(warehouse: Postgres, pg_database: Address) -> None:
    """Statements and bulk data go over TLS where the block asks for it, and a wrong authority is refused."""
    if pg_database.ca_file is None:
        pytest.skip("this build of PostgreSQL has no TLS")
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert warehouse.fetch_one(query) == (True,)
    assert warehouse.scan_query(query).to_arrow().to_pylist() == [{"ssl": True}]
    stranger = warehouse.model_copy(update={"ssl_mode": "verify-full", "host": "localhost", "ssl_root_cert": "system"})
    with pytest.raises(AuthError, match="certificate"):
        stranger.check()


def test_rights_are_told(warehouse: Postgres) -> None:
    """What a role may not do is AccessDeniedError; check says what it may."""
    role = f"reader_{uuid.uuid4().hex[:8]}"
    warehouse.load(table_of([1]), "t")
    sql(warehouse, f"CREATE ROLE {role} LOGIN PASSWORD 'r3ader'", "REVOKE ALL ON SCHEMA public FROM public")
    reader = warehouse.model_copy(update={"username": role, "password": SecretStr("r3ader")})
    try:
        with pytest.raises(AccessDeniedError, match=r"may not use schema public.*GRANT USAGE"):
            reader.check()
        sql(warehouse, f"GRANT USAGE ON SCHEMA public TO {role}")
        assert "reads, and may not create tables" in reader.check()
        for call in (lambda: reader.fetch_all("SELECT * FROM t"), lambda: reader.load(table_of([2]), "t")):
            with pytest.raises(AccessDeniedError, match=r"permission denied for .*Grant"):
                call()
        sql(warehouse, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        assert count(reader) == 1
        with pytest.raises(AccessDeniedError, match="permission denied"):
            reader.load(table_of([2]), "t", mode="replace")
    finally:
        sql(warehouse, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_constraint_that_is_checked_at_commit_undoes_all(warehouse: Postgres) -> None:
    """It is an error of the data, not a lost answer."""
    sql(warehouse, "CREATE TABLE t (id bigint UNIQUE DEFERRABLE INITIALLY DEFERRED, text text)")
    with pytest.raises(AlreadyExistsError, match="constraint t_id_key") as caught:
        warehouse.load(pa.table({"id": [1, 1], "text": [CANARY, CANARY]}), "t", load_id="x")
    assert CANARY not in leak(caught.value)
    assert (count(warehouse), warehouse.load_report("x")) == (0, None)


# Names and tables


def test_names_that_would_be_cut_are_refused(warehouse: Postgres) -> None:
    """PostgreSQL cuts names after 63 bytes without an error; two columns could become one."""
    long = "ü" * 32
    for data, table in ((table_of([1]), long), (pa.table({long: [1]}), "t")):
        for call in (warehouse.plan, warehouse.load):
            with pytest.raises(InvalidInputError, match="longer than PostgreSQL's 63 bytes"):
                call(data, table)
    assert warehouse.load(pa.table({long[:31]: [1]}), "t").rows == 1


def test_the_schema_of_the_block_is_where_tables_are(warehouse: Postgres) -> None:
    """Whatever it is called; ledger and quarantine stand beside the tables."""
    for name in ("other", 'my "odd" schema', "back\\slash", "it's"):
        sql(warehouse, f"CREATE SCHEMA {warehouse.dialect.name(name)}")
        there = warehouse.model_copy(update={"schema_": name})
        there.load(table_of([1]), "t")
        there.load(table_of([1, 2]), "t", mode="upsert", key=["id"])
        found = warehouse.fetch_all(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = :name", {"name": name}
        )
        assert {table for (table,) in found} == {"t", LEDGER, QUARANTINE}
        assert there.read_table("t").num_rows == 2
    assert "t" not in {
        table for (table,) in warehouse.fetch_all("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    }


def test_replace_keeps_what_hangs_on_a_table(warehouse: Postgres) -> None:
    """Indexes, grants, views, comments and triggers outlive a replace."""
    warehouse.load(table_of([1, 2], text="old"), "t")
    facts = (
        "SELECT array_agg(DISTINCT indexname) FROM pg_indexes WHERE tablename = 't'",
        "SELECT relacl::text, obj_description(oid) FROM pg_class WHERE relname = 't'",
        "SELECT array_agg(tgname) FROM pg_trigger WHERE tgrelid = 't'::regclass",
        "SELECT oid FROM pg_class WHERE relname = 't'",
    )
    sql(
        warehouse,
        "CREATE INDEX t_text ON t (text)",
        "CREATE VIEW v AS SELECT id FROM t",
        "GRANT SELECT ON t TO pg_monitor",
        "COMMENT ON TABLE t IS 'kept'",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    before = [warehouse.fetch_all(fact) for fact in facts]
    warehouse.load(table_of([3], text="new"), "t", mode="replace")
    assert [warehouse.fetch_all(fact) for fact in facts] == before
    assert rows(warehouse, "v") == [(3,)]


def test_a_table_that_others_refer_to_is_not_emptied(warehouse: Postgres) -> None:
    """The error says so, and everything stays."""
    sql(warehouse, "CREATE TABLE t (id bigint PRIMARY KEY)", "CREATE TABLE u (id bigint REFERENCES t)")
    warehouse.load(pa.table({"id": [1]}), "t")
    with pytest.raises(ConnectorError, match="foreign key"):
        warehouse.load(pa.table({"id": [2]}), "t", mode="replace")
    assert rows(warehouse) == [(1,)]


@pytest.mark.parametrize(("mode", "arguments"), [("append", {}), ("upsert", {"key": ["id"]})])
def test_rows_that_a_trigger_swallows_are_missed(warehouse: Postgres, mode: Any, arguments: dict[str, Any]) -> None:
    """Rows sent and rows applied are compared; where they differ nothing is committed."""
    sql(
        warehouse,
        "CREATE TABLE t (id bigint)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END'",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    with pytest.raises(TerminalError, match=r"3 rows were (sent|staged).* 2.*Nothing was committed"):
        warehouse.load(pa.table({"id": [1, 2, 3]}), "t", mode=mode, **arguments)
    assert count(warehouse) == count(warehouse, LEDGER) == 0


def test_columns_that_fill_themselves_are_left_alone(warehouse: Postgres) -> None:
    """Identity, serial, default and generated columns that the data lacks get their own values."""
    sql(
        warehouse,
        "CREATE TABLE t (nr bigint GENERATED ALWAYS AS IDENTITY, s serial NOT NULL, "
        "d date NOT NULL DEFAULT '2026-04-30', id bigint, twice bigint GENERATED ALWAYS AS (id * 2) STORED)",
    )
    for mode in ("append", "replace"):
        warehouse.load(pa.table({"id": [5]}), "t", mode=mode)
    assert rows(warehouse, columns="nr, s, d, id, twice") == [(2, 2, dt.date(2026, 4, 30), 5, 10)]


def test_partitioned_tables_are_loaded(warehouse: Postgres) -> None:
    """In every mode, as any other table."""
    sql(
        warehouse,
        "CREATE TABLE t (id bigint, day text, text text, PRIMARY KEY (id, day)) PARTITION BY LIST (day)",
        "CREATE TABLE t_mon PARTITION OF t FOR VALUES IN ('mon')",
        "CREATE TABLE t_rest PARTITION OF t DEFAULT",
    )
    warehouse.load(pa.concat_tables([table_of([1, 2]), table_of([1], day="tue")]), "t")
    warehouse.load(table_of([2, 3], text="new"), "t", mode="upsert", key=["id", "day"])
    report = warehouse.load(table_of([9], day="tue"), "t", mode="replace_partition", partition_by=["day"])
    assert report.deleted == 1
    assert rows(warehouse, columns="day, id, text") == [
        ("mon", 1, "x"),
        ("mon", 2, "new"),
        ("mon", 3, "new"),
        ("tue", 9, "x"),
    ]


def test_a_unique_index_that_does_not_fit_is_not_used(warehouse: Postgres) -> None:
    """Partial, deferrable, expression and wider indexes do not tell rows apart; the upsert does without them."""
    sql(
        warehouse,
        "CREATE TABLE t (id bigint, day text, text text, UNIQUE (id, day) DEFERRABLE)",
        "CREATE UNIQUE INDEX ON t (id) WHERE text = 'x'",
        "CREATE UNIQUE INDEX ON t (id, (lower(day)))",
        "CREATE UNIQUE INDEX ON t (day, id) INCLUDE (text)",
    )
    for ids, text in (([1, 2], "old"), ([2, 3], "new")):
        warehouse.load(table_of(ids, text=text), "t", mode="upsert", key=["id"])
    assert rows(warehouse, columns="id, text") == [(1, "old"), (2, "new"), (3, "new")]


# Types

READ = [
    ("'1.50'::numeric(12,2)", pa.decimal128(12, 2), Decimal("1.50")),
    ("'1.5'::numeric", pa.decimal128(38, 9), Decimal("1.5")),
    ("1234567::numeric(5,-2)", pa.decimal128(5, -2), Decimal(1234600)),
    ("('1' || repeat('0', 59))::numeric(60,0)", pa.decimal256(60, 0), Decimal(10**59)),
    ("1.25::numeric(100,2)", pa.decimal256(76, 2), Decimal("1.25")),
    ("ARRAY[1.5, NULL]::numeric(10,2)[]", pa.list_(pa.decimal128(38, 9)), [Decimal("1.5"), None]),
    ("'12.34'::money", pa.decimal128(38, 9), Decimal("12.34")),
    ("TIMESTAMPTZ '2026-04-30 12:00+02'", UTC, dt.datetime(2026, 4, 30, 10, tzinfo=dt.UTC)),
    ("DATE '0001-01-01'", pa.date32(), dt.date(1, 1, 1)),
    ("INTERVAL '1 mon 2 days 3 s'", pa.month_day_nano_interval(), pa.MonthDayNano([1, 2, 3 * 10**9])),
    ("""'{"b": 1.0, "a": "ü"}'::json""", pa.json_(), '{"b": 1.0, "a": "ü"}'),
    ("""'{"b": 1.0,"a":[]}'::jsonb""", pa.json_(), '{"a": [], "b": 1.0}'),
    ("'00112233-4455-6677-8899-aabbccddeeff'::uuid", pa.uuid(), uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")),
    (r"'\x00ff'::bytea", pa.binary(), b"\x00\xff"),
    ("ARRAY['a', NULL, '']", pa.list_(pa.string()), ["a", None, ""]),
    ("'{}'::int[]", pa.list_(pa.int32()), []),
    ("'x'::char(3)", pa.string(), "x  "),
    ("12::oid", pa.int64(), 12),
    ("'10.0.0.1/8'::inet", pa.string(), "10.0.0.1/8"),
    ("'[1,5)'::int4range", pa.string(), "[1,5)"),
    ("B'101'", pa.string(), "101"),
    ("row(1, 'a')", pa.string(), "(1,a)"),
    ("'ok'::mood", pa.string(), "ok"),
    ("ARRAY['ok', NULL]::mood[]", pa.list_(pa.string()), ["ok", None]),
    ("'10:00+02'::timetz", pa.string(), "10:00:00+02"),
    ("NULL", pa.string(), None),
]


def test_types_of_postgres_are_read_exactly(warehouse: Postgres) -> None:
    """What PostgreSQL has more than Arrow comes as text, and everything else as its exact type."""
    sql(warehouse, "CREATE TYPE mood AS ENUM ('ok', 'sad')")
    columns = ", ".join(f"{expression} AS c{number}" for number, (expression, _, _) in enumerate(READ))
    found = warehouse.scan_query(f"SELECT {columns}").to_arrow()
    for number, (expression, kind, value) in enumerate(READ):
        assert found.schema.field(f"c{number}").type == kind, expression
        assert found[f"c{number}"].to_pylist() == [value], expression


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("'infinity'::timestamptz", "infinity"),
        ("'-infinity'::timestamp", "infinity"),
        ("'infinity'::date", "infinity"),
        ("'294276-12-31'::timestamp", "too late"),
        ("'NaN'::numeric", "NaN"),
        ("0.12345678901::numeric", "more digits"),
        ("(repeat('9', 90))::numeric(100,2)", "more digits"),
        ("ARRAY['infinity'::date]", "infinity"),
    ],
)
def test_what_arrow_cannot_hold_is_an_error(warehouse: Postgres, expression: str, words: str) -> None:
    """Nothing is rounded or turned into another value; the message names the column and what to do."""
    with pytest.raises(SchemaError, match=f"Column 'x' .*{words}.*Cast it in the query"):
        warehouse.scan_query(f"SELECT {expression} AS x").to_arrow()


ROUNDED_BY_THE_SERVER = {
    "timestamp(3)": (dt.datetime(2026, 4, 30, 12, 0, 0, 123000), dt.datetime(2026, 4, 30, 12, 0, 0, 123456)),  # noqa: DTZ001
    "timestamptz(0)": (dt.datetime(2026, 4, 30, tzinfo=dt.UTC), dt.datetime(2026, 4, 30, 0, 0, 0, 600_000, dt.UTC)),
    "time(3)": (dt.time(12, 0, 0, 123000), dt.time(12, 0, 0, 123456)),
    "interval(0)": (dt.timedelta(seconds=1), dt.timedelta(microseconds=600_000)),
    "numeric(10,2)[]": ([Decimal("1.25"), None], [Decimal("1.255")]),
    "cents": (Decimal("1.25"), Decimal("1.255")),
    "millis": (dt.datetime(2026, 4, 30, 12), dt.datetime(2026, 4, 30, 12, 0, 0, 1)),  # noqa: DTZ001
    "timestamp(3)[]": ([dt.datetime(2026, 4, 30)], [dt.datetime(2026, 4, 30, 12, 0, 0, 1)]),  # noqa: DTZ001
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("sql_type", ROUNDED_BY_THE_SERVER)
def test_what_the_server_would_round_is_refused(warehouse: Postgres, sql_type: str) -> None:
    """PostgreSQL rounds to the digits of a column without a word; what has no more of them is loaded, and published."""
    fits, finer = ROUNDED_BY_THE_SERVER[sql_type]
    sql(warehouse, "CREATE DOMAIN cents AS numeric(10,2)", "CREATE DOMAIN millis AS timestamp(3)")
    sql(warehouse, f"CREATE TABLE t (x {sql_type})", f"CREATE TABLE other (x {sql_type})")
    for mode in ("append", "replace"):  # straight into the table, and through the stage
        warehouse.load(pa.table({"x": [fits, None]}), "t", mode=mode)
        assert warehouse.fetch_all("SELECT x FROM t WHERE x IS NOT NULL") == [(fits,)]
        with pytest.raises(TypeLossError, match="Column 'x', row 2 of the data"):
            warehouse.load(pa.table({"x": [None, finer]}), "t", mode=mode)
    assert warehouse.publish("t", "other").rows == 2


WRITTEN = [
    ("varchar(3)", pa.array(["abc", None]), ["abc", None]),
    ("char(3)", pa.array(["a"]), ["a  "]),
    ("mood", pa.array(["ok", None]), ["ok", None]),
    ("inet", pa.array(["10.0.0.1/8"]), ["10.0.0.1/8"]),
    ("jsonb", pa.array(['{"a": 1}', None]), [{"a": 1}, None]),
    ("json", pa.array(['{"a": 1}']), [{"a": 1}]),
    ("uuid", pa.array(["00112233-4455-6677-8899-aabbccddeeff"]), [uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")]),
    ("text[]", pa.array([["a", None], None]), [["a", None], None]),
    ("mood[]", pa.array([["ok"]]), ["{ok}"]),
    ("numeric", pa.array([Decimal("1.234567890123456789")]), [Decimal("1.234567890123456789")]),
    ("numeric", pa.array([2**62]), [Decimal(2**62)]),
    ("numeric(100,2)", pa.array([Decimal("1.25")]), [Decimal("1.25")]),
    ("numeric(30,10)", pa.array([7], pa.int32()), [Decimal(7)]),
    ("positive", pa.array([1], pa.int32()), [1]),
    ("citext_like", pa.array(["Ü"]), ["Ü"]),
    ("money", pa.array(["1.50"]), ["$1.50"]),
    ("interval", pa.array([dt.timedelta(days=-2, microseconds=5)]), [dt.timedelta(days=-2, microseconds=5)]),
    ("int4range", pa.array(["[1,5)"]), ["[1,5)"]),
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("sql_type", "values", "expected"), WRITTEN, ids=lambda value: str(value)[:20])
def test_types_of_postgres_are_written_exactly(
    warehouse: Postgres, sql_type: str, values: pa.Array, expected: list[Any]
) -> None:
    """Text goes into what PostgreSQL has more than Arrow, in every mode, and the server says what it does not take."""
    sql(
        warehouse,
        "CREATE TYPE mood AS ENUM ('ok', 'sad')",
        "CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
        "CREATE DOMAIN citext_like AS text",
        f"CREATE TABLE t (id bigint, x {sql_type})",
    )
    data = pa.table({"id": range(len(values)), "x": values})
    for mode, arguments in (("append", {}), ("upsert", {"key": ["id"]}), ("replace", {})):
        warehouse.load(data, "t", mode=mode, **arguments)  # type: ignore[arg-type]
    shown = "x::text" if sql_type in ("money", "int4range", "inet") else "x"
    assert [row[0] for row in warehouse.fetch_all(f"SELECT {shown} FROM t ORDER BY id")] == expected


@pytest.mark.parametrize(
    ("sql_type", "value"),
    [
        ("varchar(3)", CANARY),
        ("mood", CANARY),
        ("uuid", CANARY),
        ("jsonb", CANARY),
        ("inet", CANARY),
        ("text", f"\0{CANARY}"),
    ],
)
def test_values_that_a_column_refuses_are_not_shown(warehouse: Postgres, sql_type: str, value: str) -> None:
    """Too long, no member, malformed, or with a NUL: an error of the data, at once, without the value."""
    sql(warehouse, "CREATE TYPE mood AS ENUM ('ok', 'sad')", f"CREATE TABLE t (id bigint, x {sql_type})")
    for mode, arguments in (("append", {}), ("upsert", {"key": ["id"]})):
        with pytest.raises((InvalidInputError, SchemaError)) as caught:
            warehouse.load(pa.table({"id": [1], "x": [value]}), "t", mode=mode, **arguments)  # type: ignore[arg-type]
        assert CANARY not in leak(caught.value)
    with pytest.raises(InvalidInputError) as caught:
        warehouse.execute("INSERT INTO t (id, x) VALUES (1, :x)", {"x": value})
    assert CANARY not in leak(caught.value)
    assert count(warehouse) == 0


# The block


def test_settings_last_in_a_with(warehouse: Postgres) -> None:
    """SET, a temporary table and a savepoint are the session's; a COMMIT that undoes is an error."""
    warehouse.execute("CREATE TABLE t (id int)")
    with warehouse:
        warehouse.execute("SET search_path TO pg_catalog")
        assert warehouse.fetch_one("SELECT current_schema()") == ("pg_catalog",)
        warehouse.execute("RESET search_path; SET search_path TO public")
        warehouse.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        warehouse.execute("INSERT INTO t VALUES (1)")
        warehouse.execute("SAVEPOINT one")
        with pytest.raises(InvalidInputError):
            warehouse.execute("INSERT INTO t VALUES ('x')")
        warehouse.execute("ROLLBACK TO one")
        assert warehouse.fetch_one("SHOW transaction_isolation") == ("serializable",)
        warehouse.execute("COMMIT")
        assert count(warehouse) == 1
        warehouse.execute("BEGIN")
        warehouse.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(InvalidInputError):
            warehouse.execute("INSERT INTO t VALUES ('x')")
        with pytest.raises(TerminalError, match="COMMIT undid the transaction"):
            warehouse.execute("COMMIT")
        assert count(warehouse) == 1
    assert warehouse.fetch_one("SELECT current_schema()") == ("public",)


def test_sqlalchemy_is_there(warehouse: Postgres) -> None:
    """`get_engine` is an engine of the same database, over the same TLS, that shows no password."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = warehouse.get_engine()
    assert engine is warehouse.get_engine()
    with engine.connect() as connection:
        query = "SELECT current_database(), (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())"
        assert tuple(connection.execute(sqlalchemy.text(query)).one()) == (
            warehouse.database,
            warehouse.ssl_mode != "prefer",
        )
    assert warehouse.password is not None
    assert (
        warehouse.password.get_secret_value() not in f"{engine!r}{engine.url}{warehouse!r}{warehouse.model_dump_json()}"
    )
    warehouse.close()
    assert engine is not warehouse.get_engine()


def test_the_client_is_the_drivers_own(warehouse: Postgres) -> None:
    """A new connection of psycopg, which the caller closes; prefect-sqlalchemy's arguments are taken as well."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with warehouse.get_client() as client, warehouse.get_client() as other:
        assert isinstance(client, psycopg.Connection)
        assert client is not other
    assert warehouse.get_client("engine") is warehouse.get_engine()
    warehouse.execute("CREATE TABLE t (id integer)")
    insert, size = sqlalchemy.text("INSERT INTO t VALUES (1)"), sqlalchemy.text("SELECT count(*) FROM t")
    with warehouse.get_client("connection") as connection:
        connection.execute(insert)
    with warehouse.get_connection(begin=False) as connection:
        connection.execute(insert)
    with warehouse.get_client(client_type="connection", begin=False) as connection:
        assert connection.scalar(size) == 1
    engine = warehouse.get_engine(poolclass=sqlalchemy.pool.NullPool)
    assert engine is not warehouse.get_engine()
    engine.dispose()
    for arguments in (("session",), ()):
        with pytest.raises(InvalidInputError, match="client_type"):
            warehouse.get_client(*arguments, echo=True)


@pytest.mark.parametrize("closed", [True, False])
def test_the_connections_of_an_engine_end_with_its_block(pg_database: Address, closed: bool) -> None:
    """What checked tables may keep the engine, and a block is often let go without a close: the server sees neither."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    block = Postgres(**pg_database.fields())
    engine = block.get_engine()
    with engine.connect() as connection:
        session = connection.scalar(sqlalchemy.text("SELECT pg_backend_pid()"))
    if closed:
        block.close()
    del block
    with pg_database.connect() as other:
        for _ in range(200):
            if not other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [session]).fetchall():
                break
            other.execute("SELECT pg_sleep(0.05)")
        else:
            pytest.fail("the session is still there")
    with engine.connect() as connection:  # it can be used, and the caller ends it
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_sessions_say_who_they_are(warehouse: Postgres) -> None:
    """An administrator finds the connections of this package by their name, and UTC is their time zone."""
    query = "SELECT current_setting('application_name'), current_setting('timezone')"
    assert warehouse.fetch_one(query) == ("etl-blocks", "UTC")
    assert warehouse.scan_query(query.replace("), ", ") AS a, ") + " AS b").to_arrow().to_pylist() == [
        {"a": "etl-blocks", "b": "UTC"}
    ]


def test_no_connection_is_left(warehouse: Postgres) -> None:
    """Every call closes what it opened, also when it fails and when a scan is left half-way."""
    warehouse.load(table_of(list(range(1000))), "t")
    next(iter(warehouse.scan_query("SELECT * FROM generate_series(1, 1000000)").batches()))
    next(iter(warehouse.scan_query("SELECT * FROM generate_series(1, :n)", {"n": 1_000_000}).batches()))
    with pytest.raises(NotFoundError):
        warehouse.read_table("nowhere")
    with pytest.raises(TypeLossError):
        warehouse.load(pa.table({"id": ["x"]}), "t")
    gc.collect()
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    assert any(warehouse.fetch_one(others) == (0,) for _ in range(200))


def test_names_that_come_twice_in_a_query_are_read(warehouse: Postgres) -> None:
    """Also where the columns are cast on their way: each value comes from its own column."""
    query = "select 1.50::numeric(3,2) as n, 'a' as n, 2.5::numeric(2,1) as n, '10.0.0.1'::inet as address"
    found = warehouse.scan_query(query).to_arrow()
    assert found.schema.types[:3] == [pa.decimal128(3, 2), pa.string(), pa.decimal128(2, 1)]
    assert [str(column[0].as_py()) for column in found.columns] == ["1.50", "a", "2.5", "10.0.0.1/32"]


def test_a_ledger_without_its_key_is_refused(warehouse: Postgres) -> None:
    """Nothing is loaded before the key is there."""
    a_ledger_without_its_key_is_refused(warehouse)


# Scans


def test_a_scan_only_reads(warehouse: Postgres) -> None:
    """A query that writes would write again when the scan is read again: it is refused, and fetch_all takes it."""
    sql(warehouse, "CREATE TABLE t (id int)", "CREATE SEQUENCE s")
    body = "LANGUAGE sql AS 'INSERT INTO t (id) VALUES (1) RETURNING id'"
    sql(warehouse, f"CREATE FUNCTION create_order() RETURNS int {body}")
    for query in ("SELECT create_order()", "SELECT nextval('s')"):
        with pytest.raises(InvalidInputError, match=r"it writes, and a scan only reads.*fetch_all"):
            warehouse.scan_query(query).to_arrow()
        assert warehouse.fetch_all(query) == [(1,)]
    assert count(warehouse) == 1


def test_a_scan_may_pause(warehouse: Postgres) -> None:
    """No limit of ours ends a session that waits for whoever reads it."""
    query = "SELECT name, setting FROM pg_settings WHERE name ~ '^(idle|statement|transaction)_.*timeout$' AND :n = 1"
    found = warehouse.scan_query(query, {"n": 1}).to_arrow().to_pylist()
    assert found
    assert {row["setting"] for row in found} == {"0"}


READ_WIDE_ROWS = """
import json, sys
from connectors.postgres import Postgres
scan = Postgres(**json.loads(sys.argv[1])).scan_query(
    "SELECT * FROM wide WHERE id >= :low AND id <> ALL (:without)", {"low": 0, "without": []}
)
rows = sum(batch.num_rows for batch in scan.batches(None))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(rows, int(peak.split()[1]) // 1024)
"""


@pytest.mark.thorough
def test_wide_rows_are_streamed_with_parameters(warehouse: Postgres, pg_database: Address) -> None:
    """1 GB of rows of 100 kB takes at most 400 MB of memory."""
    sql(
        warehouse,
        "CREATE TABLE wide AS SELECT i AS id, repeat(md5(i::text), 3200) AS t FROM generate_series(1, 10500) i",
    )
    command = [sys.executable, "-c", READ_WIDE_ROWS, json.dumps(pg_database.fields())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows_read, peak_mb = map(int, done.stdout.split())
    assert rows_read == 10_500
    assert peak_mb <= 400


def test_values_of_the_servers_own_types_are_parameters(warehouse: Postgres) -> None:
    """In statements and scans alike; what has no literal is refused, and the message holds no value."""
    values = {
        "id": uuid.UUID(int=7),
        "doc": Jsonb({"a": [1, None, "it's"]}),
        "days": [dt.date(2026, 4, 30), None],
        "ids": [uuid.UUID(int=7)],
        "gap": dt.timedelta(days=2, microseconds=1),
        "amounts": [Decimal("1.5"), Decimal("-0.000001")],
        "raw": b"\x00\\'\xff",
    }
    query = "SELECT " + ", ".join(f":{name} AS {name}, :{name} IS NULL AS {name}_null" for name in values)
    (fetched,) = warehouse.fetch_all(query, values)
    (scanned,) = warehouse.scan_query(query, values).to_arrow().to_pylist()
    words = ["a,b", 'say "x"', "\\", "NULL"]
    cast = ("SELECT CAST(:words AS text[]) AS words", {"words": words})
    assert warehouse.fetch_one(*cast) == (words,)
    assert warehouse.scan_query(*cast).to_arrow().to_pylist() == [{"words": words}]
    for name, value in zip(values, fetched[::2], strict=True):
        if name not in ("doc", "gap"):  # text and an interval in Arrow
            assert scanned[name] == value, name
    assert json.loads(scanned["doc"]) == fetched[2] == {"a": [1, None, "it's"]}
    for wrong in ({"a": CANARY}, f"{CANARY}\0", "\ud800", object()):
        for call in (warehouse.fetch_all, lambda *given: warehouse.scan_query(*given).to_arrow()):
            with pytest.raises(InvalidInputError, match="Parameter 'x'") as caught:
                call("SELECT :x", {"x": wrong})
            assert CANARY not in leak(caught.value)


# Connections


def test_types_are_read_once(warehouse: Postgres, pg_database: Address) -> None:
    """The connections of a block share what the driver reads of the catalogue, until there is a type that it lacks."""
    asked = "FROM pg_catalog.pg_attribute ORDER BY"

    with FaultProxy(pg_database.host, pg_database.port) as proxy:
        behind = Postgres(**pg_database.through(proxy.port).fields(), ssl_mode="disable")
        for number in range(3):
            behind.load(table_of([number]), "t")
        assert sum(asked in statement for statement in proxy.log) == 1
        sql(warehouse, "CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TYPE span AS RANGE (subtype = float8)")
        query = "SELECT ARRAY['ok'::mood] AS moods, '[1,2]'::span AS span"
        for _ in range(3):
            assert behind.scan_query(query).to_arrow().to_pylist() == [{"moods": ["ok"], "span": "[1,2]"}]
        assert sum(asked in statement for statement in proxy.log) == 2
        behind.close()


@pytest.mark.thorough
def test_many_loads_share_few_connections(warehouse: Postgres, pg_database: Address) -> None:
    """100 loads at once of a role that may have five connections: each waits its turn, and all load."""
    role = f"few_{uuid.uuid4().hex[:8]}"
    sql(warehouse, f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'few' CONNECTION LIMIT 5")
    few = {**pg_database.fields(), "username": role, "password": "few"}
    patient = RetryPolicy(attempts=1_000, first_delay_s=0.05, max_delay_s=0.5)
    sql(warehouse, f"ALTER ROLE {role} NOSUPERUSER", f"GRANT ALL ON SCHEMA public TO {role}")
    try:
        Postgres(**few, retry=patient).load(table_of([]), "t")

        def load(number: int) -> int:
            with contextlib.closing(Postgres(**few, retry=patient)) as block:
                return block.load(table_of([number]), "t", load_id=str(number)).rows

        with ThreadPoolExecutor(100) as pool:
            assert sum(pool.map(load, range(100))) == 100
        assert rows(warehouse, columns="id") == sorted(((n,) for n in range(100)), key=repr)
    finally:
        sql(warehouse, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
