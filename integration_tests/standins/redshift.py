"""What stands for Redshift: PostgreSQL, behind a cursor of psycopg that does what PostgreSQL has no statement for.

The block's own code runs as it is, down to the driver. A statement that PostgreSQL knows reaches it as it was sent;
COPY of Parquet is done here, from the files of the manifest, with the checks that Redshift makes; the few names that
PostgreSQL lacks (SUPER, VARBYTE, JSON_PARSE, pg_last_copy_count, sys_session_history) are given its own in their place.
"""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from psycopg.types.string import TextLoader

from connectors.redshift import Redshift, dialect

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

COPY = re.compile(
    r'COPY (?P<table>"[^"]+") FROM \'s3://(?P<bucket>[^/]+)/(?P<key>[^\']+)\' '
    r"IAM_ROLE (?P<role>default|'arn:aws:iam::\d{12}:role/[^']+') FORMAT AS PARQUET MANIFEST"
)
SESSIONS = """(SELECT pid AS session_id, backend_start AT TIME ZONE 'UTC' AS start_time, 'active' AS status
FROM pg_stat_activity WHERE usename = current_user AND datname = current_database()) AS sys_session_history"""
QUERIES = """(SELECT pid AS session_id, CASE state WHEN 'active' THEN 'running' END AS status
FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()) AS sys_query_history"""
WORDS = {
    r"\bsys_query_history\b": QUERIES,
    r"SET enable_case_sensitive_identifier TO true; ": "",
    r"\bsys_session_history\b": SESSIONS,
    r"\bsuper\b(?=[,)])": "jsonb",
    r"\bvarbyte\(16777216\)": "bytea",
    r"JSON_PARSE\(([^()]*)\)": r"CAST(\1 AS jsonb)",
    r"JSON_SERIALIZE\(([^()]*)\)": r"\1",
    r"FNV_HASH\((s\.\"[^\"]*\")\)": r"hashtextextended(CAST(\1 AS text), 0)",
    r"FNV_HASH\((COALESCE.*)\) AS decimal": r"hashtextextended(\1, 0) AS decimal",
}
OIDS = {3802: "json", 17: "binary"}
"""What PostgreSQL calls SUPER and VARBYTE."""


class RedshiftCursor(psycopg.Cursor[Any]):
    """A cursor on PostgreSQL that takes the statements of Redshift."""

    s3: ClassVar[Any]
    statements: ClassVar[list[str]]
    manifests: ClassVar[list[Any]]
    copied: ClassVar[WeakKeyDictionary[Any, int]]
    counts_too_few: ClassVar[int] = 0

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """Run a statement."""
        self.statements.append(query)
        if match := COPY.fullmatch(query):
            return self._copy_parquet(**match.groupdict())
        if query == "SELECT pg_last_copy_count()":
            query = f"SELECT {self.copied.get(self.connection, 0) - self.counts_too_few}"
        return super().execute(in_postgres(query), params, **options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        """Run a query and hand out its rows as they come."""
        self.statements.append(query)
        return super().stream(in_postgres(query), params, **options)

    def _copy_parquet(self, table: str, bucket: str, key: str, role: str) -> RedshiftCursor:
        """Load the files of a manifest by the position of their columns, all or none."""
        del role
        self.copied[self.connection] = 0
        manifest = json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        self.manifests.append(manifest)
        rows = 0
        with self.copy(f"COPY {table} FROM STDIN (FORMAT csv)") as copy:
            for entry in manifest["entries"]:
                assert entry["mandatory"] is True
                name = entry["url"].removeprefix(f"s3://{bucket}/")
                content = self.s3.get_object(Bucket=bucket, Key=name)["Body"].read()
                assert len(content) == entry["meta"]["content_length"]
                data = pq.read_table(io.BytesIO(content))
                rows += data.num_rows
                text = io.BytesIO()
                options = pyarrow.csv.WriteOptions(include_header=False)
                pyarrow.csv.write_csv(printable(data), text, options)
                copy.write(text.getvalue())
        self.copied[self.connection] = rows
        return self


def in_postgres(query: str) -> str:
    """The statement in the words of PostgreSQL."""
    for pattern, words in WORDS.items():
        query = re.sub(pattern, words, query)
    return query


def printable(data: pa.Table) -> pa.Table:
    """The table with its bytes as PostgreSQL reads them from text."""
    for number, field in enumerate(data.schema):
        if pa.types.is_binary(field.type):
            values = [None if value is None else "\\x" + value.hex() for value in data[number].to_pylist()]
            data = data.set_column(number, field.name, pa.array(values, pa.string()))
    return data


class RedshiftOnPostgres(Redshift):
    """The block on the stand-in."""

    _block_type_name = "Redshift on PostgreSQL"
    _block_type_slug = "etl-test-redshift-on-postgres"
    _cursor: ClassVar[type[RedshiftCursor]]

    def _settings(self, label: str = "") -> dict[str, Any]:
        return {**super()._settings(label), "cursor_factory": self._cursor}

    def connect_psycopg(self, label: str = "") -> Any:
        """A connection that reads jsonb as the text that SUPER is."""
        connection = super().connect_psycopg(label)
        connection.adapters.register_loader("jsonb", TextLoader)
        return connection


def stand_in(s3: Any, monkeypatch: pytest.MonkeyPatch) -> type[RedshiftCursor]:
    """A new kind of cursor, which keeps the statements that it sees, for `RedshiftOnPostgres._cursor`."""
    for oid, name in OIDS.items():
        monkeypatch.setitem(dialect.OIDS, oid, name)
    seen: dict[str, Any] = {"statements": [], "manifests": [], "copied": WeakKeyDictionary()}
    kind = type("Cursor", (RedshiftCursor,), {"s3": s3, **seen})
    monkeypatch.setattr(RedshiftOnPostgres, "_cursor", kind, raising=False)
    return kind
