"""MySQL: the promises of every warehouse, and what is particular to it, on a real MariaDB."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from blocks.base.errors import (
    AlreadyExistsError,
    AmbiguousError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.retry import RetryPolicy
from blocks.warehouses.ledger import LEDGER
from connectors.mysql import MySQL
from connectors.mysql.errors import DRIVER_ERRORS, ERRORS, SQLSTATES, translate
from integration_tests.standins.mysql_proxy import MySQLFaultProxy
from integration_tests.test_interruption import by_sigint, in_time
from integration_tests.test_load_faults import eventually
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import (
    ARGUMENTS,
    CANARY,
    NAMES,
    OF_THE_KIT,
    PARAMETERS,
    all_modes,
    count,
    leak,
    make_table,
    rows,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blocks.warehouses.load import Mode
    from integration_tests.standins.mariadb import MariaAddress, MariaServer
    from integration_tests.standins.mysql_proxy import Fault

SHOWN_ELSEWHERE = OF_THE_KIT | {
    "test_a_bad_row_undoes_all",  # DDL commits: the new column stays
    "test_a_block_can_be_awaited",
    "test_a_block_can_be_closed_and_used_again",
    "test_a_block_goes_to_another_process",
    "test_a_doubled_percent_sign_is_one_where_parameters_are_written_with_it",
    "test_a_field_that_is_new_is_kept",
    "test_a_fingerprint_is_that_of_all_columns",
    "test_a_load_in_a_with_is_apart",
    "test_a_missing_key_is_a_key",
    "test_a_quarantine_that_was_dropped_is_made_again",
    "test_a_retry_quarantines_once",
    "test_a_scan_is_read_batch_by_batch",
    "test_a_scan_of_a_warehouse_is_described_without_reading",
    "test_an_allowed_loss_makes_no_value_up",
    "test_any_text_is_a_load_id",
    "test_every_dtype_of_a_frame_comes_back_or_is_refused",
    "test_load_on_the_class_is_prefects",
    "test_loaders_of_one_key_end_in_one_row",
    "test_loaders_that_replace_leave_the_rows_of_one",
    "test_only_what_was_audited_is_published",
    "test_pandas_frames_are_loaded",
    "test_parameters_may_be_written_as_elsewhere",
    "test_prefects_other_names_are_there",
    "test_refused_rows_go_with_what_takes_the_place_of_their_load",
    "test_rows_refused_again_are_quarantined_once",
    "test_tables_and_schemas_may_have_any_name",
    "test_upsert_of_keys_only",
    "test_values_of_python_come_back",
    "test_values_that_fit_are_loaded",
    "test_what_was_not_committed_is_undone",
}
"""Of the contract: the kit's own, and what is many rows or many types once more."""
CONTRACT_CASES = 1
"""Of each test of the contract: PostgreSQL shows all in every run."""
RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)


@pytest.fixture
def warehouse(maria_database: MariaAddress) -> Iterator[MySQL]:
    with contextlib.closing(MySQL(**maria_database.fields(), retry=RETRY)) as block:
        yield block


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"duration"}


@pytest.fixture
def any_names() -> list[str]:
    """No name has a character beyond U+FFFF."""
    return [name for name in NAMES if max(name) <= "\uffff"]


@pytest.fixture
def held() -> Callable[[str, pa.Array], pa.Array]:
    """A DOUBLE is neither NaN nor infinite, and its zero has no sign; a DECIMAL has 65 digits, 30 of them decimals."""

    def values_held(name: str, values: pa.Array) -> pa.Array:
        if name in ("float", "double"):
            numbers = [None if each is None or not math.isfinite(each) else each + 0.0 for each in values.to_pylist()]
            return pa.array(numbers, values.type)
        if name in ("decimal", "large decimal"):
            digits, places = min(values.type.precision, 65), min(values.type.scale, 30)
            kind = (pa.decimal128 if digits <= 38 else pa.decimal256)(digits, places)
            return pa.array([shifted(each, values.type.scale - places, digits) for each in values.to_pylist()], kind)
        return values

    return values_held


def shifted(value: Decimal | None, places: int, digits: int) -> Decimal | None:
    """The same figures with the point elsewhere, as many as there may be."""
    if value is None:
        return None
    sign, figures, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return Decimal((sign, figures[-digits:], exponent + places))


# What MySQL says in its own words: a CAST to text is one to CHAR, and what cannot be cast is a warning, not an error.


@pytest.mark.parametrize(("query", "parameters", "expected"), PARAMETERS)
def test_parameters_are_bound_by_name(
    warehouse: MySQL, query: str, parameters: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """`:name` is a parameter, except in strings, quoted names, comments and casts; percent signs mean nothing."""
    query = query.replace("AS INTEGER", "AS SIGNED").replace("AS VARCHAR", "AS CHAR")
    assert warehouse.fetch_one(query, parameters) == expected
    found = warehouse.scan_query(query, parameters).to_arrow()
    assert tuple(column[0].as_py() for column in found.columns) == expected


@pytest.mark.parametrize(
    ("statement", "error", "words"),
    [
        ("SELECT * FROM nowhere", NotFoundError, "nowhere"),
        ("SELECT nothing FROM t", NotFoundError, "nothing"),
        ("SELEKT 'c4n4ry'", InvalidInputError, "syntax error at line 1"),
        ("CREATE TABLE t (id INTEGER)", AlreadyExistsError, "t"),
        ("SELECT EXP(id) FROM t WHERE day = 'c4n4ry'", InvalidInputError, "out of range"),
        ("INSERT INTO t (id, day) VALUES (NULL, 'c4n4ry')", InvalidInputError, "id"),
        ("INSERT INTO t (id, day) VALUES ('c4n4ry', 'x')", InvalidInputError, "column id"),
        ("INSERT INTO t (id, day) VALUES (1, 'c4n4ry')", AlreadyExistsError, "key PRIMARY"),
    ],
)
def test_errors_of_sql_are_told_apart(warehouse: MySQL, statement: str, error: Any, words: str) -> None:
    """What is missing, wrong or there already has a class of its own; words hold no value, and nothing is retried."""
    make_table(warehouse, table_of([]).schema, not_null=("id",))
    warehouse.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
    warehouse.execute("INSERT INTO t (id, day) VALUES (1, 'mon'), (1000, 'c4n4ry')")
    for call in (warehouse.execute, warehouse.fetch_all, lambda sql: warehouse.scan_query(sql).to_arrow()):
        if call not in (warehouse.execute, warehouse.fetch_all) and not statement.startswith("SELE"):
            continue
        with pytest.raises(error, match=words) as caught:
            call(statement)
        assert CANARY not in str(caught.value)
        assert warehouse.uri() in str(caught.value)


def test_an_error_amid_a_result_is_told_apart(warehouse: MySQL) -> None:
    """A value that stops a query half-way is in no message, and the error is not taken for a lost connection."""
    warehouse.load(pa.table({"id": [0] * 50_000 + [4_711_000]}), "t")
    query = "SELECT EXP(id) FROM t WHERE id >= :low"
    for call in (warehouse.fetch_all, lambda *query: warehouse.scan_query(*query).to_arrow()):
        with pytest.raises(InvalidInputError) as caught:
            call(query, {"low": 0})
        assert "4711" not in leak(caught.value)


def test_a_bad_row_undoes_all_rows(warehouse: MySQL) -> None:
    """A row that the table refuses at the very end leaves its rows as they were; a new column stays: DDL commits."""
    make_table(warehouse, table_of([]).schema, not_null=("id",))
    warehouse.load(table_of([1]), "t")
    data = table_of([*range(2, 1_000), None]).append_column("extra", pa.array(["x"] * 999))
    with pytest.raises(InvalidInputError, match="'id' cannot be null"):
        warehouse.load(data, "t", mode="replace")
    assert rows(warehouse, columns="id, extra") == [(1, None)]
    assert count(warehouse, LEDGER) == 1


# No value is changed on the way in

CHANGED: dict[str, tuple[Any, Any]] = {
    "char(3)": ("abc", "a "),
    "varchar(3)": ("a  ", "a    "),
    "tinytext": ("x" * 254 + " ", "x" * 255 + " "),
    "binary(3)": (b"abc", b"a"),
    "enum('a','1','it''s (b)')": ("it's (b)", "A"),
    "enum('x','y')": ("y", "2"),
    "set('a','b')": ("a,b", "b,a"),
    "year": (1999, 5),
    "double": (-1.5e300, math.nan),
    "float": (0.5, math.inf),
    "double(10,2)": (1.25, 1.005),
    "time": (dt.time(10, 30), dt.time(10, 30, 0, 600_000)),
    "datetime(3)": (dt.datetime(2026, 4, 30, 1, 2, 3, 4_000), dt.datetime(2026, 4, 30, 1, 2, 3, 4)),  # noqa: DTZ001
    "tinyint": (127, 128),
    "timestamp": (
        dt.datetime(2038, 1, 19, 3, 14, 7, tzinfo=dt.UTC),
        dt.datetime(2038, 1, 19, 3, 14, 8, tzinfo=dt.UTC),
    ),
    "varchar(9) character set latin1": ("é", "注"),
    "bigint not null auto_increment primary key": (0, None),
}
"""A value that a column keeps, and one that MySQL would change without a word, or refuses."""


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", CHANGED)
def test_a_value_is_kept_or_refused(warehouse: MySQL, kind: str) -> None:
    """Whatever MySQL makes of others, in each mode of its SQL: by column and row where it would say nothing."""
    good, bad = CHANGED[kind]
    warehouse.execute(f"CREATE TABLE t (x {kind})")
    warehouse.load(pa.table({"x": pa.array([good])}), "t")
    found = warehouse.read_table("t")["x"][0].as_py()
    assert found == (good if kind != "time" else dt.timedelta(hours=10, minutes=30))
    with pytest.raises((InvalidInputError, SchemaError), match=r"\bx\b"):
        warehouse.load(pa.table({"x": pa.array([good, good, bad])}), "t", mode="replace")
    assert count(warehouse) == 1


def test_types_of_others_are_read_exactly(warehouse: MySQL) -> None:
    """Each as what it is, whatever it is often taken for."""
    warehouse.execute(
        "CREATE TABLE t (tiny tinyint(1), big bigint unsigned, d decimal(65,30), t time(6), y year, b bit(1), "
        "b9 bit(9), f float, at timestamp(6) NULL, j json, e enum('a','b'), s set('a','b'), z int zerofill)"
    )
    warehouse.execute(
        "INSERT INTO t VALUES (2, 18446744073709551615, "
        "12345678901234567890123456789012345.123456789012345678901234567891, '-838:59:59', 1901, b'1', b'100000001', "
        "16777216, '2026-04-30 12:00:00.000001', '{\"a\": 1}', 'b', 'a,b', 7)"
    )
    found = warehouse.read_table("t").to_pylist()[0]
    assert found == {
        "tiny": 2,
        "big": 2**64 - 1,
        "d": Decimal("12345678901234567890123456789012345.123456789012345678901234567891"),
        "t": -dt.timedelta(hours=838, minutes=59, seconds=59),
        "y": 1901,
        "b": True,
        "b9": 257,
        "f": 16777216.0,
        "at": dt.datetime(2026, 4, 30, 12, 0, 0, 1, tzinfo=dt.UTC),
        "j": '{"a": 1}',
        "e": "b",
        "s": "a,b",
        "z": 7,
    }
    assert warehouse.scan("t").schema.types == warehouse.table_schema("t").types
    with pytest.raises(UnsupportedError, match=r"ORDER BY.*FLOAT"):
        warehouse.scan_query("SELECT f FROM t ORDER BY f").to_arrow()
    with warehouse.get_client() as client, client.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("CREATE TABLE zero (d date)")
        cursor.execute("INSERT INTO zero VALUES ('0000-00-00')")
    for read in (warehouse.read_table, lambda table: warehouse.fetch_all(f"SELECT d FROM {table}")):
        with pytest.raises(SchemaError, match=r"Column 'd' .*0000-00-00"):
            read("zero")


def test_tables_of_others_take_what_fits(warehouse: MySQL) -> None:
    """Booleans in a tinyint(1), times of day in a time, which are read as the integer and the duration they are."""
    warehouse.execute("CREATE TABLE t (id int, flag tinyint(1), at time(3))")
    warehouse.load(pa.table({"id": [1], "flag": [True], "at": [dt.time(1, 2, 3, 4_000)]}), "t")
    span = dt.timedelta(hours=1, minutes=2, seconds=3, milliseconds=4)
    assert warehouse.fetch_all("SELECT * FROM t") == [(1, 1, span)]


@pytest.mark.sampled(2)
@all_modes
def test_keys_are_compared_to_the_byte(warehouse: MySQL, mode: Mode) -> None:
    """Also where the collation of the table takes them for equal; if its index does, the load is refused."""
    warehouse.execute("CREATE TABLE t (day varchar(9) COLLATE utf8mb4_general_ci, id int, index (day))")
    first = pa.table({"day": ["a", "a", "b"], "id": pa.array([1, 2, 3], pa.int32())})
    new = pa.table({"day": ["A", "a ", "b"], "id": pa.array([7, 8, 9], pa.int32())})
    keys = ARGUMENTS[mode] | ({"key": ["day"]} if mode == "upsert" else {})
    warehouse.load(first, "t")
    warehouse.load(new, "t", mode=mode, **keys)
    before = {"append": first.to_pylist(), "replace": []}.get(mode, first.slice(0, 2).to_pylist())
    expected = sorted((row["day"], row["id"]) for row in before + new.to_pylist())
    assert sorted(rows(warehouse, columns="day, id")) == expected
    warehouse.execute("CREATE TABLE u (day varchar(9) COLLATE utf8mb4_general_ci PRIMARY KEY, id int)")
    warehouse.load(first.slice(1), "u")
    if mode in ("upsert", "replace_partition"):
        with pytest.raises(AlreadyExistsError, match="key"):
            warehouse.load(new, "u", mode=mode, **keys)
        assert sorted(rows(warehouse, "u", "day, id")) == [("a", 2), ("b", 3)]


def test_tables_without_transactions_are_refused(warehouse: MySQL) -> None:
    """With what to do; they are read as any other."""
    warehouse.execute("CREATE TABLE t (id int) ENGINE=MyISAM")
    for call in (warehouse.plan, warehouse.load):
        with pytest.raises(UnsupportedError, match=r"MyISAM.*ALTER TABLE `t` ENGINE=InnoDB"):
            call(pa.table({"id": pa.array([1], pa.int32())}), "t")
    assert warehouse.read_table("t").num_rows == 0


def test_a_row_that_no_packet_holds_is_named(warehouse: MySQL, maria_server: MariaServer) -> None:
    """By its number and its length."""
    maria_server.execute("SET GLOBAL max_allowed_packet = 1048576")
    try:
        with pytest.raises(InvalidInputError, match=r"Row 2 of the data has 1\d{6} bytes.*max_allowed_packet"):
            warehouse.load(pa.table({"x": ["x", "x" * 1_100_000]}), "t")
        assert warehouse.load(pa.table({"x": ["x" * 500_000] * 5}), "t").rows == 5
    finally:
        maria_server.execute("SET GLOBAL max_allowed_packet = 16777216")


# Lost answers and long waits


@pytest.fixture
def behind(maria_database: MariaAddress) -> Iterator[tuple[MySQL, MySQLFaultProxy]]:
    with MySQLFaultProxy(maria_database.host, maria_database.port) as proxy:
        fields = maria_database.through(proxy.port).fields()
        options = {"ssl_mode": "disable", "retry": RETRY, "commit_timeout_s": 1, "read_timeout_s": 1}
        with contextlib.closing(MySQL(**fields, **options)) as block:
            yield block, proxy


@pytest.mark.sampled(5)
@pytest.mark.parametrize("fault", ["drop request", "drop answer", "silence"])
@all_modes
def test_a_lost_commit_is_resolved(behind: tuple[MySQL, MySQLFaultProxy], mode: Mode, fault: Fault) -> None:
    """The ledger says whether it happened: the rows are there once, and the report says so."""
    block, proxy = behind
    block.load(table_of([1, 2], text="old"), "t", load_id="before")
    proxy.strike(fault, "commit")
    report = block.load(table_of([2, 3], text="new"), "t", mode=mode, load_id="x", **ARGUMENTS[mode])
    assert proxy.fired == ["COMMIT"]
    assert report.resolved_from_ledger == (fault != "drop request")
    old = {"append": [(1, "old"), (2, "old")], "upsert": [(1, "old")]}.get(mode, [])
    assert rows(block, columns="id, text") == sorted([*old, (2, "new"), (3, "new")], key=repr)
    assert count(block, LEDGER) == 2


def test_a_lost_statement_is_not_run_again(behind: tuple[MySQL, MySQLFaultProxy]) -> None:
    """One that may write says that it may have; a query runs again; one within a load is part of it."""
    block, proxy = behind
    block.load(table_of([1]), "t")
    proxy.strike("drop answer", "insert into t")
    with pytest.raises(AmbiguousError, match="lost after it was sent"):
        block.execute("insert into t (id) values (2)")
    assert count(block) == 2
    proxy.strike("drop answer", "select")
    assert block.fetch_all("select count(*) from t") == [(2,)]
    for statement in ("create temporary table", "insert into `_etl_stage`", "select get_lock", "insert into `t`"):
        proxy.strike("drop answer", statement)
        block.load(table_of([3]), "t", load_id=statement)
    assert len(proxy.fired) == 6
    assert count(block) == 6


def test_what_waits_is_interrupted(behind: tuple[MySQL, MySQLFaultProxy]) -> None:
    """A statement at work, which ends at the server too, and a COMMIT without an answer; a retry loads once."""
    block, proxy = behind
    block = block.model_copy(update={"read_timeout_s": 60, "commit_timeout_s": 60})
    block.load(table_of([]), "t", load_id="empty")
    with in_time():
        by_sigint(lambda: block.execute("SELECT SLEEP(99)"), lambda: time.sleep(1))
    running = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(99)%'"
    eventually(lambda: block.fetch_all(running) == [(0,)])
    proxy.strike("silence", "commit")
    with in_time():
        by_sigint(lambda: block.load(table_of([1]), "t", load_id="day"), lambda: eventually(lambda: proxy.fired))
    block.load(table_of([1]), "t", load_id="day")
    assert count(block) == 1


def test_a_query_that_writes_is_run_once(warehouse: MySQL) -> None:
    """A function may do more than its name says: then it is no READ ONLY transaction."""
    warehouse.execute("CREATE TABLE t (id int)")
    warehouse.execute("CREATE FUNCTION f() RETURNS int BEGIN INSERT INTO t VALUES (1); RETURN 7; END")
    assert warehouse.fetch_all("SELECT f()") == [(7,)]
    assert count(warehouse) == 1


def test_a_long_statement_ends_in_time(warehouse: MySQL) -> None:
    """At the limit of the block, on the server too; without one it is waited for, however long nothing comes."""
    limited = warehouse.model_copy(update={"statement_timeout_s": 0.5})
    started_s = time.monotonic()
    with pytest.raises(TerminalError, match="statement_timeout_s"):
        limited.fetch_all("SELECT SLEEP(20)")
    assert time.monotonic() - started_s < 10
    running = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(20)%'"
    assert warehouse.fetch_all(running) == [(0,)]
    patient = warehouse.model_copy(update={"read_timeout_s": 0.3})
    assert patient.fetch_all("SELECT SLEEP(1.5)") == [(0,)]


def test_a_lock_is_not_waited_for_for_ever(warehouse: MySQL) -> None:
    """Who changes rows that a load replaces is waited for as long as lock_timeout_s says."""
    warehouse.load(table_of([1, 2]), "t")
    hasty = warehouse.model_copy(update={"lock_timeout_s": 1.0, "retry": RetryPolicy(attempts=1)})
    with warehouse.get_client() as other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("UPDATE t SET text = 'mine' WHERE id = 1")
        with pytest.raises(TransientError, match="lock_timeout_s"):
            hasty.load(table_of([3]), "t", mode="replace", load_id="x")
    assert count(warehouse) == 2
    assert warehouse.load_report("x") is None


def test_a_lost_attempt_is_ended(warehouse: MySQL) -> None:
    """By the lock of its load, before the ledger is read."""
    warehouse.load(table_of([1]), "t")
    with warehouse._bulk_session("x") as lost, warehouse._bulk_session() as other:
        lost.begin()
        lost.claim(
            "INSERT INTO `_etl_loads` (load_id, table_name) VALUES (:load_id, :table_name)",
            {"load_id": "x", "table_name": "t"},
            "x",
        )
        other.end_other_attempts("x")
        with pytest.raises(ConnectorError):
            lost.execute("SELECT 1")
    assert warehouse.load(table_of([2]), "t", load_id="x").rows == 1


# The way there


def test_the_connection_is_encrypted(maria_server: MariaServer, maria_database: MariaAddress) -> None:
    """By default, and verified where that is asked for; what cannot be verified is refused."""
    fields = maria_database.fields() | {"host": "localhost"}
    ca = str(maria_server.ca_file)
    assert "not verified (ssl_mode prefer" in MySQL(**fields, retry=RETRY).check()
    assert "name are verified" in MySQL(**fields, ssl_mode="verify-full", ssl_root_cert=ca, retry=RETRY).check()
    assert "not encrypted" in MySQL(**fields, ssl_mode="disable", retry=RETRY).check()
    with pytest.raises(AuthError, match="ssl_root_cert"):
        MySQL(**fields, ssl_mode="verify-full", retry=RetryPolicy(attempts=1)).check()
    with pytest.raises(InvalidInputError, match="certificate could not be read"):
        MySQL(**fields, ssl_mode="verify-ca", ssl_root_cert="/nowhere").check()


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"password": "wrong"}, AuthError), ({"database": "nowhere"}, NotFoundError), ({"port": 9}, TransientError)],
)
def test_what_is_wrong_with_a_login_is_told(maria_database: MariaAddress, changed: Any, error: Any) -> None:
    """Without the password."""
    with pytest.raises(error) as caught:
        MySQL(**(maria_database.fields() | changed), retry=RetryPolicy(attempts=1)).check()
    assert "s3cr" not in leak(caught.value)
    assert "wrong" not in leak(caught.value)


def test_sqlalchemy_is_there(warehouse: MySQL) -> None:
    """Its engine commits and rolls back, and is the block's."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = warehouse.get_engine()
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (id int)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (2)"))
    assert warehouse.fetch_all("SELECT id FROM t") == [(1,)]
    assert warehouse.get_engine() is engine


def test_every_error_of_the_driver_is_known() -> None:
    """Each class of PyMySQL, and each code that the server may send with it, becomes an error of ours."""
    import pymysql

    for name in ("DataError", "IntegrityError", "InternalError", "NotSupportedError", "ProgrammingError"):
        assert isinstance(translate(getattr(pymysql.err, name)(9999, "x"), "run", "mysql://x"), ConnectorError)
    assert set(DRIVER_ERRORS) < set(vars(pymysql.err))
    assert all(code.isdigit() for code in ERRORS)
    assert all(len(state) == 3 for state in SQLSTATES)


@pytest.mark.parametrize(
    ("kind", "value"), [("char(3)", "a "), ("enum('a','b')", "2"), ("float(5,1)", 0.25)], ids=["char", "enum", "float"]
)
def test_a_published_value_is_kept_or_refused(warehouse: MySQL, kind: str, value: Any) -> None:
    """Also where rows are copied within the server, from a column of another type."""
    source = "varchar(9)" if isinstance(value, str) else "float"
    for table, sql_type in (("audited", source), ("t", kind)):
        warehouse.execute(f"CREATE TABLE {table} (id int, x {sql_type})")
    good = "a" if isinstance(value, str) else 0.5
    rows_of_it = pa.table({"id": pa.array([1, 2], pa.int32()), "x": pa.array([good, value], pa.array([good]).type)})
    warehouse.load(rows_of_it, "audited")
    with pytest.raises(SchemaError, match="column 'x': a value does not fit"):
        warehouse.publish("audited", "t")
    rejected = pa.table({"id": pa.array([2], pa.int32()), "reason": ["no"]})
    assert warehouse.publish("audited", "t", rejected=rejected, max_rejected=0.5).rows == 1
    assert rows(warehouse, columns="id, x") == [(1, good)]


def test_a_scan_only_reads(warehouse: MySQL) -> None:
    """What is not a query, and a query that writes, change nothing; `fetch_all` takes them."""
    warehouse.load(table_of([1]), "t")
    warehouse.execute("CREATE FUNCTION f() RETURNS int BEGIN INSERT INTO t (id) VALUES (2); RETURN 7; END")
    for statement, words in (("DELETE FROM t", "not a query"), ("SELECT f()", "fetch_all")):
        with pytest.raises(InvalidInputError, match=words):
            warehouse.scan_query(statement).to_arrow()
    assert count(warehouse) == 1


def test_wide_rows_are_read_a_few_at_a_time(warehouse: MySQL) -> None:
    """A batch of a scan is not as many times larger as its rows are; nor is what becomes SQL at once."""
    warehouse.load(pa.table({"id": range(300), "text": ["x" * 2**16] * 300}), "t")
    sizes = [batch.nbytes for batch in warehouse.scan("t").batches()]
    assert sum(sizes) > 300 * 2**16
    assert max(sizes) < 2 * 2**22


def test_zones_are_told_by_whatever_is_called(warehouse: MySQL) -> None:
    """A datetime of ours is in UTC in a scan, and in the first row of a result as in all."""
    moment = dt.datetime(2099, 1, 1, 12, tzinfo=dt.UTC)
    warehouse.load(pa.table({"at": [moment] * 3, "flag": [True] * 3}), "t")
    assert warehouse.fetch_one("SELECT at, flag FROM t") == (moment, True)
    assert warehouse.fetch_all("SELECT at, flag FROM t LIMIT 1") == [(moment, True)]
    assert warehouse.scan_query("SELECT at, flag FROM t LIMIT 1").to_arrow().to_pylist() == [
        {"at": moment, "flag": True}
    ]


def test_a_lost_session_is_over(behind: tuple[MySQL, MySQLFaultProxy]) -> None:
    """What was in its transaction is undone; nobody knows of a COMMIT, or of a statement outside of one."""
    block, proxy = behind
    block.load(table_of([1]), "t")
    for statement, error in (
        ("insert into t (id) values (2)", TransientError),
        ("COMMIT", AmbiguousError),
        ("create table u (id int)", AmbiguousError),
    ):
        with block:
            block.execute("BEGIN")
            block.execute("insert into t (id) values (3)")
            proxy.strike("drop request", statement.split("(")[0])
            with pytest.raises(error):
                block.execute(statement)
            with pytest.raises(TransientError, match="Run the whole `with` block again"):
                block.execute("SELECT 1")
        assert count(block) == 1
