"""Reading on from PostgreSQL: late commits, snapshots, row versions, and what has none."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import SecretStr

from blocks.base.errors import AmbiguousError, InvalidInputError, SchemaError, TransientError
from blocks.base.retry import RetryPolicy
from blocks.testing.moments import Strike, striking
from connectors.duckdb import DuckDB
from connectors.postgres import Postgres
from tests.contracts.warehouse import rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks.warehouses.load import LoadReport
    from integration_tests.standins.postgres import Address

RETRY = RetryPolicy(attempts=10, first_delay_s=0.01, max_delay_s=0.1)
KEY: dict[str, dict[str, Any]] = {"append": {}, "upsert": {"key": ["id"]}}

by_mode = pytest.mark.parametrize("mode", ["append", "upsert"])


@pytest.fixture
def source(pg_database: Address) -> Iterator[Postgres]:
    tls = {"ssl_mode": "verify-ca", "ssl_root_cert": str(pg_database.ca_file)} if pg_database.ca_file else {}
    with contextlib.closing(Postgres(**pg_database.fields(), **tls, retry=RETRY)) as block:
        block.execute("CREATE TABLE src (id bigint, seq bigint, note text)")
        yield block


@pytest.fixture
def target() -> Iterator[DuckDB]:
    with contextlib.closing(DuckDB(path=":memory:", retry=RETRY)) as block:
        yield block


def read_on(source: Postgres, target: DuckDB, mode: str, **scan: Any) -> LoadReport:
    options: dict[str, Any] = {"mode": mode, **KEY[mode]}
    what = scan if "query" in scan else {"table": "src", **scan}
    return target.load(source.scan_since(**{"cursor": "seq", **what}), "t", state="t", **options)


def are_equal(source: Postgres, target: DuckDB) -> bool:
    return rows(source, "src", "id, seq, note") == rows(target, "t", "id, seq, note")


@by_mode
@pytest.mark.parametrize("late", ["with a number", "without a number", "a subtransaction", "prepared"])
def test_a_late_commit_is_loaded(source: Postgres, target: DuckDB, pg_database: Address, mode: str, late: str) -> None:
    """A transaction that was under way when a load passed its rows is found by the next one, and its rows come once."""
    with pg_database.connect() as other, pg_database.connect() as writer:
        other.execute("BEGIN")
        if late == "without a number":
            other.execute("SELECT 1")
        else:
            other.execute("INSERT INTO src VALUES (1, 1, 'late')")
        writer.execute("INSERT INTO src VALUES (2, 5, 'in time')")
        first = read_on(source, target, mode)
        if late == "a subtransaction":
            other.execute("SAVEPOINT s")
            writer.execute("INSERT INTO src VALUES (3, 6, 'x')")
        other.execute("INSERT INTO src VALUES (4, 2, 'late')")
        if late == "prepared" and _can_prepare(other):
            other.execute("PREPARE TRANSACTION 'etl'")
            read_on(source, target, mode)
            other.execute("COMMIT PREPARED 'etl'")
        else:
            read_on(source, target, mode)
            other.execute("COMMIT")
    assert first.inserted == (0 if mode == "append" and late != "without a number" else 1)
    read_on(source, target, mode)
    assert are_equal(source, target)
    assert read_on(source, target, mode).inserted == 0


def _can_prepare(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute("SHOW max_prepared_transactions").fetchone()
    return bool(found and int(found[0]))


def test_rows_that_wait_are_told_of(
    source: Postgres, target: DuckDB, pg_database: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """An append leaves what was committed beside a long transaction to the next load, and says how many rows."""
    with pg_database.connect() as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO src VALUES (1, 1, 'long')")
        source.execute("INSERT INTO src VALUES (2, 5, 'x'), (3, 6, 'x')")
        with caplog.at_level(logging.INFO):
            assert read_on(source, target, "append").rows == 0
        assert "2 rows wait for the next load" in caplog.text
        other.execute("ROLLBACK")
    assert read_on(source, target, "append").rows == 2


def test_an_append_takes_each_row_once_whatever_its_cursor(source: Postgres, target: DuckDB) -> None:
    """A backfill below the mark is loaded, equal rows as often as they are there, and more ties than are told apart."""
    source.execute("INSERT INTO src SELECT n, 7, 'tie' FROM generate_series(1, 5000) AS n")
    assert read_on(source, target, "append").rows == 5_000
    source.execute("INSERT INTO src VALUES (1, 7, 'tie'), (1, 7, 'tie'), (9, 1, 'backfill')")
    assert read_on(source, target, "append").rows == 3
    assert read_on(source, target, "append").rows == 0
    assert are_equal(source, target)


@by_mode
def test_an_end_is_reached_and_passed(source: Postgres, target: DuckDB, mode: str) -> None:
    """What lies behind `until` is left for the next load, whatever its version; an earlier one is refused."""
    source.execute("INSERT INTO src SELECT n, n, 'x' FROM generate_series(1, 9) AS n")
    assert read_on(source, target, mode, until=4).rows == 3
    assert read_on(source, target, mode, until=4).inserted == 0
    source.execute("INSERT INTO src VALUES (10, 2, 'late')")
    assert read_on(source, target, mode, until=7).inserted == 4
    with pytest.raises(InvalidInputError, match="until lies before"):
        read_on(source, target, mode, until=6)
    assert read_on(source, target, mode).inserted == 3
    assert are_equal(source, target)


@by_mode
def test_with_a_lag_only_the_window_is_read(source: Postgres, target: DuckDB, mode: str) -> None:
    """Who gives a lag says how late rows come: those within it are found, others are not; and none comes twice."""
    source.execute("INSERT INTO src VALUES (1, 100, 'x')")
    read_on(source, target, mode, lag=10)
    source.execute("INSERT INTO src VALUES (2, 95, 'within'), (3, 5, 'beyond')")
    report = read_on(source, target, mode, lag=10)
    assert report.inserted == 1
    assert rows(target, "t", "id") == [(1,), (2,)]


@by_mode
@pytest.mark.parametrize("kind", ["view", "query", "partitioned", "inherited"])
def test_what_has_no_versions_of_its_own_is_read_by_its_cursor(
    source: Postgres, target: DuckDB, mode: str, kind: str
) -> None:
    """Views and queries, and appends from tables of several parts: ties are exact, and the mark says how."""
    if kind == "partitioned":
        source.execute("DROP TABLE src")
        source.execute("CREATE TABLE src (id bigint, seq bigint, note text) PARTITION BY RANGE (id)")
        source.execute("CREATE TABLE src_1 PARTITION OF src FOR VALUES FROM (0) TO (5)")
        source.execute("CREATE TABLE src_2 PARTITION OF src FOR VALUES FROM (5) TO (100)")
    if kind == "inherited":
        source.execute("CREATE TABLE child () INHERITS (src)")
    source.execute("CREATE VIEW v AS SELECT * FROM src")
    scan = {"view": {"table": "v"}, "query": {"query": "SELECT * FROM src -- all"}}.get(kind, {})
    source.execute("INSERT INTO src VALUES (1, 1, 'x'), (6, 2, 'x')")
    assert read_on(source, target, mode, **scan).rows == 2
    source.execute("INSERT INTO src VALUES (7, 2, 'x'), (2, 3, 'x')")
    report = read_on(source, target, mode, **scan)
    assert report.inserted == 2
    assert report.mark is not None
    has_versions = mode == "upsert" and kind in {"partitioned", "inherited"}
    assert set(report.mark.facts) == ({"versions"} if has_versions else {"boundary"} if mode == "append" else set())
    assert are_equal(source, target)


def test_a_rewritten_table_is_not_appended_again(source: Postgres, target: DuckDB) -> None:
    """Where all rows were written anew their versions tell nothing: an append is refused until somebody says where."""
    source.execute("INSERT INTO src VALUES (1, 1, 'x')")
    read_on(source, target, "append")
    source.execute("ALTER TABLE src ALTER note TYPE varchar(9)")
    source.execute("VACUUM FULL src")
    source.execute("INSERT INTO src VALUES (2, 2, 'x')")
    with pytest.raises(InvalidInputError, match="was rewritten since it was last read"):
        read_on(source, target, "append")
    target.set_state("t", 2)
    assert read_on(source, target, "append").rows == 1
    source.execute("INSERT INTO src VALUES (3, 1, 'x')")
    assert read_on(source, target, "append").rows == 1
    assert are_equal(source, target)


@by_mode
@pytest.mark.parametrize("change", [{"cluster": "1"}, {"before": 2**40}])
def test_another_cluster_or_an_older_one_is_noticed(
    source: Postgres, target: DuckDB, mode: str, change: dict[str, Any]
) -> None:
    """A mark of another server, or of a later time of this one, is refused instead of read on from."""
    source.execute("INSERT INTO src VALUES (1, 1, 'x')")
    report = read_on(source, target, mode)
    assert report.mark is not None
    facts = {"versions": report.mark.facts["versions"] | change}
    mark = report.mark.model_copy(update={"facts": facts})
    target.execute("UPDATE _etl_loads SET mark = :mark", {"mark": mark.model_dump_json()})
    with pytest.raises(InvalidInputError, match="another database cluster"):
        read_on(source, target, mode)
    target.set_state("t", 1)
    assert read_on(source, target, mode).rows == 1


def test_a_role_without_rights_reads_on(source: Postgres, target: DuckDB, pg_database: Address) -> None:
    """It takes no more than SELECT on the table."""
    source.execute("INSERT INTO src VALUES (1, 1, 'x')")
    with pg_database.connect() as owner:
        owner.execute("DROP ROLE IF EXISTS reader")
        owner.execute("CREATE ROLE reader LOGIN PASSWORD 's3cret'")
        try:
            owner.execute("GRANT SELECT ON src TO reader")
            reader = source.model_copy(update={"username": "reader", "password": SecretStr("s3cret")})
            for mode, key in KEY.items():
                table = f"t_{mode}"
                options: dict[str, Any] = {"mode": mode, **key}
                for inserted in (1, 0):
                    data = reader.scan_since("src", cursor="seq")
                    assert target.load(data, table, state=table, **options).inserted == inserted
        finally:
            owner.execute("DROP OWNED BY reader")
            owner.execute("DROP ROLE reader")


@by_mode
def test_text_is_in_the_order_of_its_collation(source: Postgres, target: DuckDB, mode: str) -> None:
    """The engine says which text is the highest: by letters, where its bytes say otherwise."""
    by_letters = "SELECT collname FROM pg_collation WHERE collname IN ('und-x-icu', 'en_US.utf8') ORDER BY 1 DESC"
    if (collation := source.fetch_one(by_letters)) is None:
        pytest.skip("the server knows no order of text but that of bytes")
    source.execute(f'CREATE TABLE words (id bigint, word text COLLATE "{collation[0]}")')
    source.execute("CREATE VIEW w AS SELECT * FROM words")
    words = ["a", "B", "c", "D", "é"]
    for table in ("words", "w"):
        source.execute("TRUNCATE words")
        for number, word in enumerate(words):
            source.execute("INSERT INTO words VALUES (:id, :word), (:id + 10, :word)", {"id": number, "word": word})
            data = source.scan_since(table, cursor="word")
            options: dict[str, Any] = {"mode": mode, **KEY[mode]}
            report = target.load(data, f"t_{table}", state=table, **options)
            assert (report.inserted, report.mark and report.mark.value) == (2, max(words[: number + 1], key=str.lower))
        assert rows(source, "words") == rows(target, f"t_{table}")


def test_infinity_and_null_are_refused(source: Postgres, target: DuckDB) -> None:
    """A cursor without a value, or without an end, would hide rows for good."""
    source.execute("CREATE TABLE moments (id bigint, at timestamptz)")
    source.execute("INSERT INTO moments VALUES (1, NULL), (2, now())")

    def load(**scan: Any) -> LoadReport:
        return target.load(source.scan_since(cursor="at", **scan), "m", state="m", mode="upsert", key=["id"])

    with pytest.raises(InvalidInputError, match="1 rows or more have no value in the cursor 'at'"):
        load(table="moments")
    assert load(query="SELECT id, coalesce(at, '2020-01-01') AS at FROM moments").rows == 2
    target.reset_state("m")
    source.execute("DELETE FROM moments WHERE at IS NULL")
    assert load(table="moments", lag=dt.timedelta(minutes=5)).rows == 1
    source.execute("INSERT INTO moments VALUES (3, NULL)")
    with pytest.raises(InvalidInputError, match="1 rows or more have no value"):
        load(table="moments", lag=dt.timedelta(minutes=5))
    source.execute("UPDATE moments SET at = 'infinity' WHERE id = 3")
    with pytest.raises(SchemaError, match="'at'"):
        load(table="moments", lag=dt.timedelta(minutes=5))


class History:
    """A source that changes at random, also in transactions that last, and loads from it under faults."""

    def __init__(self, source: Postgres, target: DuckDB, address: Address, mode: str, seed: int) -> None:
        self._source, self._target, self._mode = source, target, mode
        self._draw, self._now, self._id = random.Random(seed), 0, 0
        self._open: list[psycopg.Connection[Any]] = []
        self._address = address
        self._stack = contextlib.ExitStack()

    def play(self, steps: int = 14) -> None:
        """Play it to its end, at which the target is what the source is."""
        with self._stack:
            for _ in range(steps):
                self._now += self._draw.choice((0, 0, 1, 3))
                step = self._draw.choice((self._write, self._write, self._begin, self._end, self._load, self._load))
                step()
            while self._open:
                self._end()
        read_on(self._source, self._target, self._mode)
        assert are_equal(self._source, self._target)

    def _change(self, connection: psycopg.Connection[Any]) -> None:
        for _ in range(self._draw.randint(1, 3)):
            self._id += 1
            connection.execute("INSERT INTO src VALUES (%s, %s, 'x')", (self._id, self._now - self._draw.randint(0, 2)))
        if self._mode == "upsert":
            update = "UPDATE src SET seq = %s, note = %s WHERE id = %s"
            which = self._draw.randint(1, self._id)
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                which = self._id  # nobody waits for anybody
            connection.execute(update, (self._now, f"changed {self._now}", which))

    def _write(self) -> None:
        with self._address.connect() as connection:
            connection.execute("SET lock_timeout = '50ms'")
            with contextlib.suppress(psycopg.errors.LockNotAvailable):
                self._change(connection)

    def _begin(self) -> None:
        connection = self._stack.enter_context(self._address.connect())
        connection.execute("BEGIN")
        if self._draw.random() < 0.5:
            self._change(connection)
        self._open.append(connection)

    def _end(self) -> None:
        if not self._open:
            return
        connection = self._open.pop(self._draw.randrange(len(self._open)))
        if self._draw.random() < 0.5:
            connection.execute("SAVEPOINT s")
        self._change(connection)
        connection.execute(self._draw.choice(("COMMIT", "COMMIT", "ROLLBACK")))

    def _load(self) -> None:
        fault = self._draw.choice((None, None, "committed", "commit", "rows"))
        error: Exception = AmbiguousError("lost") if fault == "committed" else TransientError("broken")

        def lose() -> None:
            raise error

        with striking(Strike(fault, lose)) if fault else contextlib.nullcontext():
            read_on(self._source, self._target, self._mode)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.thorough) for n in range(1, 100))])
@by_mode
def test_a_history_with_late_commits_ends_in_the_same_rows(
    source: Postgres, target: DuckDB, pg_database: Address, mode: str, seed: int
) -> None:
    """Random inserts, updates, ties, transactions that last, broken loads and lost answers: nothing lost or doubled."""
    History(source, target, pg_database, mode, seed).play()
