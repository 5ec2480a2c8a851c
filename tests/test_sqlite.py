"""SqlAlchemyConnector on SQLite: the promises of every warehouse, and what prefect-sqlalchemy's users call."""

from __future__ import annotations

import contextlib
import datetime as dt
import pickle
import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import sqlalchemy
from pydantic import ValidationError

from blocks.base.errors import InvalidInputError, MissingDriverError, TransientError, UnsupportedError
from blocks.base.retry import RetryPolicy
from connectors.sqlalchemy import AsyncDriver, ConnectionComponents, SqlAlchemyConnector, SyncDriver
from connectors.sqlalchemy.errors import translate
from tests.contracts.warehouse import *  # noqa: F403
from tests.contracts.warehouse import LEDGER, NAMES, OF_THE_KIT, count, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOWN_ELSEWHERE = OF_THE_KIT | {
    "test_a_block_can_be_awaited",
    "test_a_block_can_be_closed_and_used_again",
    "test_a_block_goes_to_another_process",
    "test_a_doubled_percent_sign_is_one_where_parameters_are_written_with_it",
    "test_a_missing_key_is_a_key",
    "test_a_quarantine_that_was_dropped_is_made_again",
    "test_a_retry_quarantines_once",
    "test_any_text_is_a_load_id",
    "test_load_on_the_class_is_prefects",
    "test_loaders_that_replace_leave_the_rows_of_one",
    "test_pandas_frames_are_loaded",
    "test_parameters_may_be_written_as_elsewhere",
    "test_prefects_other_names_are_there",
    "test_refused_rows_go_with_what_takes_the_place_of_their_load",
    "test_rows_refused_again_are_quarantined_once",
    "test_upsert_of_keys_only",
}
"""Of the contract: the kit's own, and what is many rows or many names once more."""
CONTRACT_CASES = 1
"""Of each test of the contract: PostgreSQL shows all in every run."""
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[SqlAlchemyConnector]:
    retry = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)
    with contextlib.closing(SqlAlchemyConnector(connection_info=f"sqlite:///{tmp_path}/test.db", retry=retry)) as block:
        yield block


@pytest.fixture
def unsupported_types() -> set[str]:
    return {"duration"}


# where SQLite is another engine


def test_the_ledger_has_a_row_for_each_load(warehouse: SqlAlchemyConnector) -> None:
    """As everywhere; its times are text to `fetch_all`, and times to `scan`."""
    warehouse.load(table_of([1, 2]), "t", load_id="1")
    warehouse.load(table_of([3]), "u", mode="replace", load_id="2")
    (first, second) = warehouse.scan(LEDGER).to_arrow().sort_by("load_id").to_pylist()
    assert (first["table_name"], first["mode"], first["row_count"]) == ("t", "append", 2)
    assert (second["table_name"], second["mode"], second["row_count"]) == ("u", "replace", 1)
    assert dt.timedelta(0) <= first["finished_at"] - first["started_at"] < dt.timedelta(minutes=1)


def test_new_columns_are_added(warehouse: SqlAlchemyConnector) -> None:
    """As everywhere; a decimal is text to `fetch_all`, and a decimal to `scan`."""
    warehouse.load(pa.table({"id": [1]}), "t")
    warehouse.load(pa.table({"id": [2], "price": [Decimal("1.50")], "text": ["x"]}), "t")
    found = warehouse.scan("t").to_arrow().sort_by("id").to_pylist()
    assert found == [{"id": 1, "price": None, "text": None}, {"id": 2, "price": Decimal("1.50"), "text": "x"}]
    assert warehouse.fetch_all("select price from t order by id") == [(None,), ("1.50",)]


def test_tables_and_schemas_may_have_any_name(warehouse: SqlAlchemyConnector) -> None:
    """A schema of SQLite is a file; `main` is the one that was opened."""
    for name in NAMES:
        warehouse.load(table_of([1, 2]), f"main.{name}", mode="upsert", key=["id"])
        assert count(warehouse, name) == 2


def test_only_what_was_audited_is_published(warehouse: SqlAlchemyConnector) -> None:
    """A row that was changed since is refused; while it is published nobody can write at all."""
    data = pa.table({"id": [1, 2, 3], "day": ["mon"] * 3, "text": ["one", "bad", "two"]})
    warehouse.load(data, "audited")
    digest = warehouse.fingerprint("audited")
    warehouse.execute("update audited set text = case id when 1 then 'two' else 'one' end where id in (1, 3)")
    with pytest.raises(InvalidInputError, match="audited was changed since it was audited"):
        warehouse.publish("audited", "t", mode="replace", audited=digest)
    assert warehouse.publish("audited", "t", mode="replace", audited=warehouse.fingerprint("audited")).rows == 3


def test_an_error_amid_a_result_is_told_apart(warehouse: SqlAlchemyConnector) -> None:
    """A value that stops a query half-way is in no message; a CAST of SQLite never fails."""
    texts = [*map(str, range(49_999)), "c4n4ry"]
    warehouse.load(pa.table({"id": range(50_000), "text": texts}), "t")
    for call in (warehouse.fetch_all, lambda *query: warehouse.scan_query(*query).to_arrow()):
        with pytest.raises(InvalidInputError) as caught:
            call("select json(text) from t where id >= :low order by id", {"low": 0})
        assert "c4n4ry" not in str(caught.value)


def test_a_load_in_a_with_is_apart(warehouse: SqlAlchemyConnector, caplog: pytest.LogCaptureFixture) -> None:
    """It has a transaction of its own, and says so; one that has read keeps every other writer out of the file."""
    with warehouse:
        warehouse.load(table_of([1]), "t")
        assert "a transaction of its own, apart from the `with` block." in caplog.text
        assert count(warehouse) == 1


# what prefect-sqlalchemy's users call


def test_rows_are_tuples_and_have_names(warehouse: SqlAlchemyConnector) -> None:
    """They unpack, compare and pickle as tuples."""
    warehouse.execute("create table customers (name text, address text)")
    warehouse.execute_many(
        "insert into customers (name, address) values (:name, :address)",
        [{"name": "Ford", "address": "Highway 42"}, {"name": "Unknown", "address": "Space"}],
    )
    with warehouse:
        rows = warehouse.fetch_many(sqlalchemy.text("select * from customers order by name"), size=1)
    assert rows == [("Ford", "Highway 42")]
    assert (rows[0].name, rows[0]._mapping["address"]) == ("Ford", "Highway 42")
    assert pickle.loads(pickle.dumps(rows))[0].address == "Highway 42"  # noqa: S301 (our own)
    with pytest.raises(AttributeError, match="no column 'city'; it has name, address"):
        _ = rows[0].city


def test_execute_says_how_many_rows_it_changed(warehouse: SqlAlchemyConnector) -> None:
    """SQLAlchemy's `text` is taken, with the parameters that are bound to it."""
    warehouse.load(table_of([1, 2, 3]), "t")
    assert warehouse.execute("update t set text = 'y' where id > :least", {"least": 1}).rowcount == 2
    assert warehouse.execute(sqlalchemy.text("delete from t where id = :id").bindparams(id=1)).rowcount == 1
    assert warehouse.fetch_one(sqlalchemy.text("select count(*) as n from t where text = ':id'")) == (0,)


def test_connections_are_those_of_the_engine(warehouse: SqlAlchemyConnector) -> None:
    """`get_connection` is a transaction unless it is told otherwise, and `get_client` gives either by name."""
    warehouse.execute("create table t (id integer)")
    with warehouse.get_connection() as connection:
        connection.execute(sqlalchemy.text("insert into t values (1)"))
    with warehouse.get_connection(begin=False) as connection:
        connection.execute(sqlalchemy.text("insert into t values (2)"))
    assert warehouse.fetch_all("select id from t") == [(1,)]
    assert warehouse.get_client("engine") is warehouse.get_engine()
    with warehouse.get_client("connection") as connection:
        assert connection.execute(sqlalchemy.text("select id from t")).scalar() == 1
    with pytest.raises(InvalidInputError, match="'engine', 'connection'"):
        warehouse.get_client("cursor")  # type: ignore[arg-type]
    warehouse.reset_connections()
    assert warehouse.fetch_one("select id from t") == (1,)


@pytest.mark.parametrize("driver", [SyncDriver.SQLITE_PYSQLITE, AsyncDriver.SQLITE_AIOSQLITE, "sqlite"])
def test_components_are_a_url(tmp_path: Path, driver: SyncDriver | AsyncDriver | str) -> None:
    """By the driver's name; one for an event loop has its sibling without one."""
    info = ConnectionComponents(driver=driver, database=f"{tmp_path}/x.db")
    assert SqlAlchemyConnector(connection_info=info).fetch_one("select 1") == (1,)


def test_an_address_shows_no_secret() -> None:
    """Neither where it is printed, nor where it is wrong, nor at the engine."""
    block = SqlAlchemyConnector(connection_info="mysql+pymysql://loader:c4n%40ry@db:3306/shop?charset=utf8")
    assert block.connection_info.password is not None
    assert block.connection_info.password.get_secret_value() == "c4n@ry"
    assert block.uri("t") == "mysql://db:3306/shop/t"
    assert "c4n" not in repr(block) + str(block.connection_info.create_url())
    with pytest.raises(ValidationError, match="is a URL of SQLAlchemy") as caught:
        SqlAlchemyConnector(connection_info="loader:c4n@ry")
    assert "c4n" not in str(caught.value)
    for url in ("sqlite://", "sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(ValidationError, match="would be gone after each call"):
            SqlAlchemyConnector(connection_info=url)
    with pytest.raises(MissingDriverError, match="the module cx_Oracle is not installed") as missing:
        SqlAlchemyConnector(connection_info="oracle://loader:c4n4ry@db/shop", retry=ONCE).fetch_one("select 1")
    assert "c4n" not in str(missing.value)


def test_another_database_is_asked_and_not_loaded_into() -> None:
    """What is not SQLite has no types here, and the error names the block that has."""
    block = SqlAlchemyConnector(connection_info="postgresql+psycopg://loader@127.0.0.1:9/shop", retry=ONCE)
    with pytest.raises(UnsupportedError, match=r"Use connectors\.postgres\.Postgres"):
        block.dialect.column("id", pa.int64())


# what only SQLite can get wrong


def test_decimals_are_kept_digit_by_digit(warehouse: SqlAlchemyConnector) -> None:
    """As text: the number that SQLite would make of them is a float."""
    data = pa.table({"n": pa.array([Decimal("12345678901234567890.123456789"), None], pa.decimal128(38, 9))})
    warehouse.load(data, "t")
    assert warehouse.scan("t").to_arrow() == data
    assert warehouse.fetch_one("select typeof(n) from t") == ("text",)


@pytest.mark.parametrize("value", [float("nan"), -0.0])
def test_floats_that_sqlite_does_not_keep_are_refused(warehouse: SqlAlchemyConnector, value: float) -> None:
    """A NaN would be null, and a negative zero would lose its sign."""
    with pytest.raises(InvalidInputError, match="Column x has a NaN or a negative zero"):
        warehouse.load(pa.table({"x": [1.5, value]}), "t")


def test_values_that_are_not_of_the_declared_type_are_named(warehouse: SqlAlchemyConnector, tmp_path: Path) -> None:
    """SQLite keeps what others put into a column, whatever its type says."""
    with sqlite3.connect(tmp_path / "test.db") as connection:
        connection.execute("create table t (id integer, day date)")
        connection.execute("insert into t values (1, 'c4n4ry')")
    with pytest.raises(InvalidInputError, match="Column day has a value that is not date32") as caught:
        warehouse.scan("t").to_arrow()
    assert "c4n4ry" not in str(caught.value)
    connection.close()


def test_a_value_that_sqlite_would_change_is_no_parameter(warehouse: SqlAlchemyConnector) -> None:
    """Times are compared as a load writes them; what would be another value is refused."""
    at = dt.datetime(2026, 4, 30, 9, tzinfo=dt.UTC)
    warehouse.load(pa.table({"at": [at], "day": [at.date()]}), "t")
    berlin = at.astimezone(dt.timezone(dt.timedelta(hours=2)))
    assert warehouse.fetch_one(
        "select count(*) from t where at = :at and day = :day", {"at": berlin, "day": at.date()}
    ) == (1,)
    for value in (float("nan"), 2**63, Decimal("1.5")):
        with pytest.raises(InvalidInputError):
            warehouse.fetch_one("select :value", {"value": value})
    with pytest.raises(InvalidInputError, match="uses :id, which the parameters lack"):
        warehouse.fetch_one(sqlalchemy.text("select :id"))


@pytest.mark.parametrize("declared", ["numeric", "decimal(10,2)", "string", ""])
def test_a_column_that_would_change_values_is_not_loaded_into(warehouse: SqlAlchemyConnector, declared: str) -> None:
    """The text 007 would be the number 7 in it."""
    warehouse.execute(f"create table t (code {declared})")
    with pytest.raises(UnsupportedError, match="column 'code' is declared as"):
        warehouse.load(pa.table({"code": ["007"]}), "t")


def test_times_of_a_key_are_written_as_a_load_writes_them(warehouse: SqlAlchemyConnector) -> None:
    """Others are another text, so that an upsert would insert the row once more."""
    warehouse.execute("create table t (at datetime, n integer)")
    warehouse.execute("insert into t values (datetime('2026-04-30 09:00:00'), 1)")
    data = pa.table({"at": pa.array(["2026-04-30 09:00:00"]).cast(pa.timestamp("us")), "n": [2]})
    with pytest.raises(InvalidInputError, match="column 'at', by which rows are told apart"):
        warehouse.load(data, "t", mode="upsert", key=["at"])
    with pytest.raises(InvalidInputError, match="column 'at', by which rows are told apart"):
        warehouse.load(data, "t", mode="replace_partition", partition_by=["at"])
    warehouse.execute("update t set at = strftime('%Y-%m-%d %H:%M:%f000', at)")
    assert warehouse.load(data, "t", mode="upsert", key=["at"]).updated == 1


def test_a_key_is_compared_to_the_byte(warehouse: SqlAlchemyConnector) -> None:
    """Whatever the collation of its column says."""
    warehouse.execute("create table t (id text collate nocase, n integer)")
    warehouse.execute("insert into t values ('a', 1)")
    report = warehouse.load(pa.table({"id": ["A"], "n": [2]}), "t", mode="upsert", key=["id"])
    assert (report.inserted, report.updated) == (1, 0)


def test_a_fingerprint_is_of_whole_texts(warehouse: SqlAlchemyConnector) -> None:
    """Also of what is behind a NUL."""
    warehouse.load(pa.table({"x": ["a\0b"]}), "t")
    warehouse.load(pa.table({"x": ["a\0c"]}), "u")
    assert warehouse.fingerprint("t") != warehouse.fingerprint("u")


@pytest.mark.parametrize(("kind", "value"), [("integer", "1.5"), ("date", "5"), ("text", "x'61'"), ("blob", "'a'")])
def test_a_value_of_another_type_is_not_taken_for_one(warehouse: SqlAlchemyConnector, kind: str, value: str) -> None:
    """No fraction is cut off, no number is a day, no bytes are a text."""
    warehouse.execute(f"create table t (x {kind})")
    warehouse.execute(f"insert into t values ({value})")
    with pytest.raises(InvalidInputError, match="Column x has a value that is not"):
        warehouse.scan("t").to_arrow()
    with pytest.raises(InvalidInputError, match="Column x has values of several types"):
        warehouse.scan_query(f"select 'a' as x union all select x'61' as x where {value} is not null").to_arrow()


def test_reading_on_is_refused(warehouse: SqlAlchemyConnector) -> None:
    """Decimals and times are texts to SQLite, and have their order."""
    with pytest.raises(UnsupportedError, match="no source of scan_since"):
        warehouse.scan_since("t", cursor="id")


def test_another_dialect_is_asked(tmp_path: Path) -> None:
    """By statements and scans, in a `with` too: here DuckDB, by its own dialect."""
    other = SqlAlchemyConnector(connection_info=f"duckdb:///{tmp_path}/db", retry=ONCE)
    day = dt.date(2026, 4, 30)
    other.execute("create table t (id integer, price decimal(9,2), day date)")
    other.execute_many("insert into t values (:id, 1.50, :day)", [{"id": n, "day": day} for n in (1, 2)])
    assert other.fetch_all("select id, price from t where day = :day order by id", {"day": day})[1].price == Decimal(
        "1.50"
    )
    assert other.scan("t").to_arrow().sort_by("id").to_pylist()[0] == {"id": 1, "price": Decimal("1.50"), "day": day}
    with pytest.raises(UnsupportedError, match=r"Use connectors\.duckdb\.DuckDB"):
        other.load(table_of([1]), "t")
    other.close()


def test_values_of_expressions_have_the_type_that_they_are_of(warehouse: SqlAlchemyConnector) -> None:
    """A column of a query that is none of a table has no declared type."""
    day = dt.date(2026, 4, 30)
    warehouse.load(pa.table({"id": [1, 2], "day": [day, day]}), "t")
    found = warehouse.scan_query("select day, count(*) as n, avg(id) as mean, 'x' as word from t").to_arrow()
    assert found.to_pylist() == [{"day": day, "n": 2, "mean": 1.5, "word": "x"}]


def test_a_writer_elsewhere_is_waited_for(warehouse: SqlAlchemyConnector, tmp_path: Path) -> None:
    """For as long as the block says, and then it is an error that passes; readers do not wait."""
    warehouse.load(table_of([1]), "t")
    hasty = warehouse.model_copy(update={"lock_timeout_s": 0.05, "retry": ONCE})
    connection = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    connection.execute("begin immediate")
    assert hasty.fetch_one("select count(*) from t") == (1,)
    with pytest.raises(TransientError, match="lock_timeout_s"):
        hasty.load(table_of([2]), "t")
    connection.execute("rollback")
    connection.close()
    assert hasty.load(table_of([2]), "t").inserted == 1


def test_every_error_of_sqlalchemy_is_known() -> None:
    """No exception class of SQLAlchemy comes out as it is."""
    for name, kind in vars(sqlalchemy.exc).items():
        if isinstance(kind, type) and issubclass(kind, sqlalchemy.exc.SQLAlchemyError):
            assert "sqlite:///x" in str(translate(kind.__new__(kind), "run a query", "sqlite:///x")), name
