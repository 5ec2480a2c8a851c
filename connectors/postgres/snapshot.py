"""Dividing a table: ranges of its pages under one exported snapshot, which a transaction of ours keeps readable.

https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prefect.logging import get_logger

from blocks.base.errors import ConnectorError, NotFoundError, TerminalError, UnsupportedError
from blocks.base.optional import require
from connectors.postgres.literals import literal
from connectors.shared.libpq.dialect import PostgresDialect

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEARTBEAT_S = 20.0
"""So often the transaction that keeps the snapshot is used, so that no firewall or balancer takes it for dead."""
NO_SUCH_SNAPSHOT = ("22023", "42704")
"""What servers say of a snapshot that is no longer exported; the second one from PostgreSQL 17 on."""
NO_LIMITS = {"statement_timeout": 0, "idle_in_transaction_session_timeout": 0, "transaction_timeout": 17}
"""The limits that would end the transaction, and the version of the server from which on it has them."""

TREE = """
WITH RECURSIVE tree (oid) AS (
    SELECT to_regclass(%(table)s)::oid
    UNION
    SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
)
SELECT n.nspname::text, c.relname::text, c.relkind::text, c.relrowsecurity,
    coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint
FROM tree JOIN pg_class AS c ON c.oid = tree.oid JOIN pg_namespace AS n ON n.oid = c.relnamespace
ORDER BY c.oid
"""
KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
"""Relations whose rows have no place here that a range could name, or none that a lock could keep."""


class SnapshotServer(Protocol):
    """What it needs of the block of its database."""

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def open_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection with the server's own settings; the caller closes it."""

    def transaction_settings(self, label: str = "") -> Mapping[str, str]:
        """Return what each transaction sets for itself, by the server's names."""

    def translate(
        self, error: BaseException, action: str, *, ambiguous: bool = False, statement: str = ""
    ) -> ConnectorError:
        """Return the error of this package for one of the driver's."""


@dataclass(frozen=True)
class Span:
    """A range of the pages of a table: from `start` on, and up to `end`, which belongs to the next one.

    Attributes:
        table: The table, quoted.
        start: The first page; 0 is the beginning.
        end: None is the end, wherever that is by then: what is read later may have grown.
    """

    table: str
    start: int
    end: int | None

    def sql(self, columns: str) -> str:
        """Return the query of its rows."""
        limits = [f"ctid >= '({self.start},0)'::tid"] if self.start else []
        limits += [] if self.end is None else [f"ctid < '({self.end},0)'::tid"]
        return f"SELECT {columns} FROM ONLY {self.table}" + (f" WHERE {' AND '.join(limits)}" if limits else "")


def divide(tables: Sequence[tuple[str, int]], n: int) -> list[list[Span]]:
    """Divide tables of so many pages into at most `n` lists of ranges of about one size.

    >>> [[(span.table, span.start, span.end) for span in part] for part in divide([("a", 5), ("b", 0), ("c", 3)], 2)]
    [[('a', 0, 4)], [('a', 4, None), ('b', 0, None), ('c', 0, None)]]
    """
    share = max(1, -(-sum(pages for _, pages in tables) // n))
    parts: list[list[Span]] = [[]]
    room = share
    for table, pages in tables:
        start = 0
        while pages - start > room:
            if room:
                parts[-1].append(Span(table, start, start + room))
            start, room = start + room, share
            parts.append([])
        parts[-1].append(Span(table, start, None))
        room -= pages - start
    return [part for part in parts if part]


class Snapshot:
    """A transaction that reads, and exports the moment that it reads to other sessions for as long as it is open.

    It also holds the lock of a reader on the table, so that nobody empties or alters that meanwhile.
    """

    def __init__(self, server: SnapshotServer, table: str, *, shared: bool) -> None:
        """Open it; where it is not `shared`, no other session is to read the moment."""
        self._server, self._table = server, table
        self._name = PostgresDialect().table(table)
        self._psycopg = require("psycopg", extra="postgres")
        self._connection = server.open_psycopg("parts")
        self._using, self._stopped = threading.Lock(), threading.Event()
        self._heart = threading.Thread(target=self._beat, name="etl-snapshot", daemon=True)
        try:
            self._begin()
            self.id = self._export() if shared else None
        except BaseException:
            self.close()
            raise
        self._heart.start()

    def _begin(self) -> None:
        """Lock the table before anything is read of it: the snapshot is of after that."""
        connection = self._connection
        try:
            connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            version = connection.info.server_version // 10_000
            settings = {name: "0" for name, since in NO_LIMITS.items() if version >= since}
            settings = {
                name: literal(value) for name, value in self._server.transaction_settings("parts").items()
            } | settings
            settings["search_path"] = self._server.transaction_settings()["search_path"]  # a list of names
            connection.execute("; ".join(f'SET LOCAL "{name}" = {value}' for name, value in settings.items()))
            connection.execute(f"LOCK TABLE {self._name} IN ACCESS SHARE MODE")
        except self._psycopg.Error as error:
            if getattr(error, "sqlstate", None) == "42809":  # LOCK TABLE takes no such relation
                raise self._unfit("what is no table") from None
            raise self._server.translate(error, "divide a table") from None

    def _export(self) -> str:
        """Return the name of the snapshot, once another session has proved that it can read it."""
        try:
            name: str = self._connection.execute("SELECT pg_export_snapshot()").fetchone()[0]
            with contextlib.closing(self._server.open_psycopg("parts")) as other:
                other.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
                other.execute(f"SET TRANSACTION SNAPSHOT {literal(name)}")
                other.rollback()
        except self._psycopg.Error as error:
            words = str(self._server.translate(error, "share a snapshot"))
            raise UnsupportedError(
                f"{words} The sessions of {self._server.uri()} cannot read one moment together, as where a pooler or a "
                "balancer sends each to another server. Use a block that reaches one server directly, or "
                "partitions(n, snapshot=False), which reads each part as it is then."
            ) from None
        return name

    def tables(self) -> list[tuple[str, int]]:
        """Return the tables that hold the rows, quoted, and how many pages each has.

        Raises:
            UnsupportedError: It has rows that no range of pages names, or that its policies hide.
            NotFoundError: There is no such table.
        """
        with self._using:
            try:
                found = self._connection.execute(TREE, {"table": self._name}).fetchall()
            except self._psycopg.Error as error:
                raise self._server.translate(error, "divide a table") from None
        if not found:
            raise NotFoundError(f"There is no table {self._server.uri(self._table)}.")
        for _, _, kind, _, _ in found:
            if kind in KINDS:
                raise self._unfit(KINDS[kind])
        if len(found) > 1 and found[0][3]:
            raise self._unfit("a table whose row security its partitions may not have")
        quote = PostgresDialect().name
        return [(f"{quote(schema)}.{quote(name)}", pages) for schema, name, kind, _, pages in found if kind != "p"]

    def _unfit(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._server.uri(self._table)} is, or holds rows of, {what}, which cannot be divided by pages. Read it "
            "as one, or divide it yourself: one scan_query for each range of a key."
        )

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_S):
            try:
                with self._using:
                    if not self._stopped.is_set():
                        self._connection.execute("SELECT 1")
            except (self._psycopg.Error, ConnectorError) as error:
                words = (
                    self._server.translate(error, "keep a snapshot") if not isinstance(error, ConnectorError) else error
                )
                get_logger(__name__).warning("%s Parts that are not begun yet will be refused.", words)
                return

    def close(self) -> None:
        """End the transaction: who reads the snapshot by then reads on, and nobody else begins to."""
        self._stopped.set()
        with self._using:
            self._connection.close()


@contextlib.contextmanager
def held(server: SnapshotServer, table: str, *, shared: bool = True) -> Iterator[Snapshot]:
    """Keep a snapshot of a table readable within the context."""
    with contextlib.closing(Snapshot(server, table, shared=shared)) as snapshot:
        yield snapshot


def lost_snapshot_error(uri: str) -> TerminalError:
    """Return the error for a part whose snapshot nobody keeps any more."""
    return TerminalError(
        f"The snapshot of this part of {uri} is gone: the run that divided the table has left the context, ended or "
        "lost its connection. Nothing was read. Divide the table anew: with scan.partitions(n) as parts: ..."
    )
