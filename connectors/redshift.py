"""Amazon Redshift: PostgreSQL's protocol by psycopg, bulk in by COPY of Parquet from S3, bulk out row by row.

What it does unlike PostgreSQL, and what follows:

* Keys are not enforced: a load is claimed under a lock, with a look before the insert. What is locked is the
  quarantine, so that the ledger can be read meanwhile; loads into one schema are staged at the same time and applied
  one after the other. The lock comes first in its transaction, because the snapshot is taken by what comes after it.
  https://docs.aws.amazon.com/redshift/latest/dg/c_serial_isolation.html
* TRUNCATE commits, so a table is emptied by DELETE. https://docs.aws.amazon.com/redshift/latest/dg/r_TRUNCATE.html
* There is no ON CONFLICT, and MERGE does not say how many rows it inserted: they are counted around it.
  https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html
* Quoted names are folded, too, unless a session says otherwise; those of this block do.
  https://docs.aws.amazon.com/redshift/latest/dg/r_enable_case_sensitive_identifier.html
* COPY of Parquet goes by the position of columns, and takes exactly the files of a manifest.
  https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-columnar.html
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable  # noqa: TC003 (pydantic looks for it)
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from blocks import errors
from blocks.aws_credentials import AWS_ADVICE, AWS_ERRORS, AwsCredentials, aws_error, utc_now
from blocks.block import resolve
from blocks.errors import AlreadyExistsError, AmbiguousError, ConnectorError, SchemaError, TransientError, TypeLossError
from blocks.ledger import LEDGER, QUARANTINE
from blocks.object_store import ObjectStore, WriteOptions
from blocks.operation import operation
from blocks.optional import lazy, require
from blocks.session import BulkSession, Session
from blocks.sql import Column, Dialect, bind
from blocks.warehouse import Warehouse
from connectors.postgres import Postgres
from connectors.postgres import errors as postgres
from connectors.postgres.dialect import UNCONSTRAINED, PostgresDialect
from connectors.postgres.session import PostgresSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

    import pyarrow as pa
else:
    pa = lazy("pyarrow")

MESSAGES: tuple[tuple[str, type[ConnectorError], str], ...] = (
    (r"1023\b|serializable isolation violation|conflict with concurrent transaction", errors.TransientError, ""),
    (r"status 5\d\d|slowdown|internalerror", errors.TransientError, ""),
    (r"nosuchkey|mandatory url|specified key does not exist", errors.TransientError, ""),
    (
        r"accessdenied|access denied|not authorized to (assume|get credentials)|cannot find default iam role",
        errors.AccessDeniedError,
        "iam_role has to be attached to Redshift, and to allow s3:GetObject and s3:ListBucket on the staging bucket.",
    ),
    (r"permanentredirect|301 moved", errors.InvalidInputError, "The staging bucket has to be in Redshift's region."),
    (r"parquet schema|length of the data column|number of .*columns", errors.SchemaError, ""),
)
"""What Redshift says beside SQLSTATE XX000, which it gives to nearly everything of its own.

https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-authorization.html,
https://repost.aws/knowledge-center/redshift-serializable-isolation
"""

LOGIN_ERRORS = AWS_ERRORS | {
    "ClusterNotFound": errors.NotFoundError,
    "ResourceNotFoundException": errors.NotFoundError,
    "ValidationException": errors.InvalidInputError,
    "InvalidParameterValue": errors.InvalidInputError,
    "InternalServerException": errors.TransientError,
}
"""https://docs.aws.amazon.com/redshift/latest/APIReference/API_GetClusterCredentials.html and
https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_GetCredentials.html
"""
LOGIN_ADVICE = AWS_ADVICE | {
    "ClusterNotFound": "Check cluster_identifier, and the region_name of the credentials.",
    "ResourceNotFoundException": "Check workgroup_name, and the region_name of the credentials.",
}

NAME_BYTES = 127
"""https://docs.aws.amazon.com/redshift/latest/dg/r_names.html"""
MOST_DIGITS, MOST_DECIMALS = 38, 37
TEXT = "varchar(65535)"
"""The longest there is; the length counts bytes."""

OIDS = {
    16: "bool",
    20: "int64",
    21: "int16",
    23: "int32",
    26: "int64",
    700: "float32",
    701: "float64",
    1082: "date32",
    1083: "time",
    1114: "timestamp",
    1184: "timestamptz",
    1700: "decimal",
    4000: "json",
    6551: "binary",
}
"""Types of a result by number; every other one is read as text.

https://github.com/aws/amazon-redshift-python-driver/blob/master/redshift_connector/utils/oids.py
"""
REAL = 700
SUPER, VARBYTE = 4000, 6551

STAGING = "etl-redshift"
"""The folder of the staging bucket that holds the parts of loads, each load in a folder of its own."""
PART_BYTES = 64 * 2**20
PARTS_IN_FLIGHT = 4
BATCH_ROWS, CHUNK_ROWS = 8_192, 1_024
CLAIM_TIMEOUT_S = 1_800
END_POLLS, END_POLL_S = 200, 0.05
LOGIN_S = 3_600
LOGIN_MARGIN = dt.timedelta(minutes=5)


class Redshift(Postgres):
    """An Amazon Redshift database, of a cluster or of a serverless workgroup.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.redshift import Redshift

        warehouse = Redshift.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL Redshift"
    _block_type_slug: ClassVar[str] = "etl-redshift"
    _documentation_url: ClassVar[Any] = "https://docs.aws.amazon.com/redshift/latest/dg/welcome.html"
    _logo_url: ClassVar[Any] = (
        "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"
    )

    host: str = Field(description="The endpoint of the cluster or of the workgroup, without port and database.")
    port: int = Field(default=5439, ge=1, le=65535, description="The endpoint's port.")
    database: str = Field(default="dev", description="The database.")
    username: str | None = Field(
        default=None,
        description="The user to log in as; with cluster_identifier, empty means the one of the IAM identity.",
    )
    password: SecretStr | None = Field(
        default=None, description="Its password; empty where AWS gives a login for a while."
    )
    ssl_mode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="require", description="How much TLS is asked for; verify-full is the safe choice over a network."
    )
    staging: ObjectStore | str = Field(
        description="The bucket of S3, or the name of a saved one such as etl-s3-bucket/staging, through which data is "
        "loaded; it has to be in Redshift's own region."
    )
    iam_role: str = Field(
        default="default",
        pattern=r"^(default|arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/:-]+)$",
        description="The role with which Redshift reads the bucket: its ARN, or default for Redshift's own default.",
    )
    aws_credentials: AwsCredentials = Field(
        default_factory=AwsCredentials,
        description="Who asks AWS for a login; by default the machine's own identity.",
    )
    cluster_identifier: str | None = Field(
        default=None, description="The cluster that AWS gives a login for, in place of a password."
    )
    workgroup_name: str | None = Field(
        default=None, description="The serverless workgroup that AWS gives a login for, in place of a password."
    )

    _clock: Callable[[], dt.datetime] = PrivateAttr(default_factory=lambda: utc_now)

    @field_validator("staging")
    @classmethod
    def _stages_in_s3(cls, value: ObjectStore | str) -> ObjectStore | str:
        if isinstance(value, ObjectStore) and not value.uri().startswith("s3://"):
            raise ValueError(f"Redshift reads from S3 only, not from {value.uri()}")
        return value

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if sum(given is not None for given in (self.password, self.cluster_identifier, self.workgroup_name)) > 1:
            raise ValueError("give one of password, cluster_identifier and workgroup_name")
        return self

    def uri(self, table: str = "") -> str:
        """`redshift://host:port/database/schema.table`."""
        return "redshift" + super().uri(table).removeprefix("postgres")

    @property
    def dialect(self) -> RedshiftDialect:
        """The SQL of Redshift."""
        return RedshiftDialect()

    @operation
    def check(self) -> str:
        """One sentence that says that the server and the staging bucket are reached, and what the login may do.

        Whether `iam_role` may read the bucket shows at the first load only.
        """
        with self._session() as session:
            user, version, usage, create = session.fetch(
                "SELECT current_user, version(), has_schema_privilege(:name, 'USAGE'), "
                "has_schema_privilege(:name, 'CREATE')",
                {"name": self.schema_},
            )[0]
        if not usage:
            raise errors.AccessDeniedError(
                f"{user} may not use schema {self.schema_} in {self.uri()}. Grant it: GRANT USAGE, CREATE ON SCHEMA."
            )
        rights = "reads and writes" if create else "reads, and may not create tables,"
        said = version.rpartition(", ")[2]
        return f"{self.uri()} answers ({said}); {user} {rights} in schema {self.schema_}. {self.bucket().check()}"

    def dbt_output(self) -> dict[str, Any]:
        """Nothing: dbt's adapter for Redshift is none of those that are tried here.

        Raises:
            UnsupportedError: Always.
        """
        return Warehouse.dbt_output(self)

    def get_client(self) -> Any:
        """A new psycopg connection, for everything that this block has no method for. Close it."""
        return self.connect_psycopg()

    def get_engine(self) -> Any:
        """Never: SQLAlchemy's PostgreSQL asks for what Redshift does not know.

        Raises:
            UnsupportedError: Always.
        """
        raise errors.UnsupportedError(f"{self.uri()} has no SQLAlchemy engine. Read through scan() instead.")

    def connect_psycopg(self, label: str = "") -> Any:
        """A new psycopg connection that commits each statement; the caller closes it."""
        psycopg = require("psycopg", extra="redshift")
        try:
            # Redshift has no DEALLOCATE ALL, which psycopg sends for what it prepared.
            connection = psycopg.connect(**self._settings(label), autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise translate(error, "connect to", self.uri()) from None
        try:
            connection.adapters.register_loader(VARBYTE, _hex_loader())
            connection.execute(
                "SET enable_case_sensitive_identifier TO true; SET timezone TO 'UTC'; SET extra_float_digits TO 2; "
                f"SET search_path TO {self.dialect.name(self.schema_)}"
            )
        except psycopg.Error as error:
            connection.close()
            raise translate(error, "connect to", self.uri()) from None
        return connection

    def connect_adbc(self, label: str = "") -> Any:
        """Never: what ADBC does in bulk, it does by PostgreSQL's binary COPY.

        Raises:
            UnsupportedError: Always.
        """
        raise errors.UnsupportedError(f"{self.uri()} has no binary COPY {label}, which ADBC needs. Use get_client().")

    def bucket(self) -> ObjectStore:
        """The staging bucket.

        Raises:
            InvalidInputError: The saved block is no bucket of S3.
        """
        return self._cached("bucket", self._bucket)

    def _bucket(self) -> ObjectStore:
        bucket = resolve(self.staging, ObjectStore)
        if not bucket.uri().startswith("s3://"):
            raise errors.InvalidInputError(f"Redshift reads from S3 only, and {self.staging} is {bucket.uri()}.")
        return bucket

    def _connect(self) -> Session:
        return RedshiftSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return RedshiftSession(self, load_id)

    def _settings(self, label: str = "") -> dict[str, str]:
        settings = super()._settings(label)
        del settings["options"]  # most of what PostgreSQL can be told there is unknown to Redshift
        # Redshift calls its encoding UNICODE, which psycopg does not know.
        return settings | {"client_encoding": "utf8"} | self._login()

    def _login(self) -> dict[str, str]:
        """User and password that AWS gives for an hour; nothing where the block has its own."""
        if not self.cluster_identifier and not self.workgroup_name:
            return {}
        with self._lock:
            login, expires = self._live.get("login", ({}, None))
            if expires is None or self._clock() > expires - LOGIN_MARGIN:
                login, expires = self._live["login"] = self._new_login()
        return dict(login)

    def _new_login(self) -> tuple[dict[str, str], dt.datetime]:
        place = f"a login for {self.cluster_identifier or self.workgroup_name}"
        try:
            if self.workgroup_name:
                client = self.aws_credentials.get_client("redshift-serverless")
                given = client.get_credentials(
                    workgroupName=self.workgroup_name, dbName=self.database, durationSeconds=LOGIN_S
                )
                return {"user": given["dbUser"], "password": given["dbPassword"]}, given["expiration"]
            client = self.aws_credentials.get_client("redshift")
            asked = {
                "ClusterIdentifier": self.cluster_identifier,
                "DbName": self.database,
                "DurationSeconds": LOGIN_S,
            }
            if self.username:
                given = client.get_cluster_credentials(DbUser=self.username, AutoCreate=False, **asked)
            else:
                given = client.get_cluster_credentials_with_iam(**asked)
            return {"user": given["DbUser"], "password": given["DbPassword"]}, given["Expiration"]
        except ConnectorError:
            raise
        except Exception as error:
            denied = dict.fromkeys(("AccessDenied", "AccessDeniedException"), self._action_needed())
            raise aws_error("obtain", place, error, table=LOGIN_ERRORS, advice=LOGIN_ADVICE | denied) from error

    def _action_needed(self) -> str:
        if self.workgroup_name:
            return "The identity needs redshift-serverless:GetCredentials."
        return f"The identity needs redshift:GetClusterCredentials{'' if self.username else 'WithIAM'}."


class RedshiftDialect(PostgresDialect):
    """Names are quoted and kept exactly as written; where one has capitals, other tools have to ask for it likewise."""

    indexes_keys: ClassVar[bool] = False  # they would not be enforced, and yet believed by the planner

    def name(self, name: str) -> str:
        """A quoted identifier.

        Raises:
            InvalidInputError: It is too long.
        """
        if len(name.encode()) > NAME_BYTES:
            raise errors.InvalidInputError(f"The name {name!r} is longer than Redshift's {NAME_BYTES} bytes.")
        return Dialect.name(self, name)

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "boolean",
            pa.int16(): "smallint",
            pa.int32(): "integer",
            pa.int64(): "bigint",
            pa.float64(): "double precision",
            pa.string(): TEXT,
            pa.binary(): "varbyte(16777216)",
            pa.date32(): "date",
            pa.timestamp("us"): "timestamp",
            pa.timestamp("us", "UTC"): "timestamptz",
            pa.time64("us"): "time",
            pa.json_(): "super",
        }

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A new column for an Arrow type."""
        stored = self._stored(kind)
        return Column(name, self._sql_type(stored), stored, stage_type=stage_type(stored))

    def _sql_type(self, kind: pa.DataType) -> str:
        if sql_type := self._types.get(kind):
            return sql_type
        if pa.types.is_decimal(kind) and kind.precision <= MOST_DIGITS and 0 <= kind.scale <= MOST_DECIMALS:
            return f"decimal({kind.precision},{kind.scale})"
        raise TypeLossError(f"Redshift has no type that holds every {kind}. Cast it, to text or JSON for example.")

    def _stored(self, kind: pa.DataType) -> pa.DataType:
        stored = super()._stored(kind)
        if pa.types.is_float32(stored):
            return pa.float64()  # REAL is printed with 8 digits, and takes 9
        return pa.string() if isinstance(stored, pa.UuidType) else stored

    def staged(self, column: Column, alias: str = "s") -> str:
        """The value of a staged row in the column's own type."""
        value = f"{alias}.{self.name(column.name)}"
        if isinstance(column.arrow_type, pa.JsonType):
            return f"JSON_PARSE({value})"
        return f"CAST({value} AS {column.sql_type})" if column.stage_type else value

    def truncate(self, table: str) -> str:
        """The statement that empties the table, and commits nothing."""
        return Dialect.truncate(self, table)

    def matches(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """The condition that a row of the table and a staged row have the same key; MERGE and DELETE take no alias."""
        target = self.name(table.rpartition(".")[2])
        return " AND ".join(
            f"{target}.{self.name(column.name)} = {self.staged(column, self.name(stage))}"
            for column in columns
            if column.name in key
        )

    def delete_partitions(self, table: str, columns: Sequence[Column], partition_by: Sequence[str], stage: str) -> str:
        """The statement that deletes the rows of every partition that the staged rows touch."""
        return (
            f"DELETE FROM {self.table(table)} USING {self.name(stage)} "
            f"WHERE {self.matches(table, columns, partition_by, stage)}"
        )

    def merge(self, table: str, columns: Sequence[Column], key: Sequence[str], stage: str) -> str:
        """The statement that updates the rows whose key is staged, and inserts the others."""
        source = self.name(stage)
        rest = [column for column in columns if column.name not in key] or columns
        values = ", ".join(f"{self.name(column.name)} = {self.staged(column, source)}" for column in rest)
        return (
            f"MERGE INTO {self.table(table)} USING {source} ON {self.matches(table, columns, key, stage)} "
            f"WHEN MATCHED THEN UPDATE SET {values} "
            f"WHEN NOT MATCHED THEN INSERT ({self.names(column.name for column in columns)}) "
            f"VALUES ({', '.join(self.staged(column, source) for column in columns)})"
        )


class RedshiftSession(PostgresSession, BulkSession):
    """A psycopg connection, and a folder of the staging bucket where it loads."""

    _block: Redshift

    def __init__(self, block: Redshift, load_id: str | None = None) -> None:
        self._block = block
        self._load_id = load_id or ""
        self._parts: list[str] = []
        self._commit_lost = False
        self._in_transaction = False
        self._connection = block.connect_psycopg(self._load_hash(self._load_id) if load_id else "")
        if load_id:
            try:
                self._sweep(load_id)
            except BaseException:
                self.close()
                raise

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The result of a query, streamed row by row."""
        described = self._describe(sql, parameters)
        schema = pa.schema([(column.name, arrow_type(column)) for column in described])
        if any(column.type_code == REAL for column in described):  # of 9 digits it prints 8; of 17, all
            names = [f"c{number}" for number in range(len(described))]
            values = ", ".join(
                f"q.{name}" + ("::double precision" if column.type_code == REAL else "")
                for name, column in zip(names, described, strict=True)
            )
            sql = f"SELECT {values} FROM ({sql}) AS q ({', '.join(names)})"

        def batches() -> Iterator[pa.RecordBatch]:
            size = CHUNK_ROWS if require("psycopg", extra="redshift").capabilities.has_stream_chunked() else 1
            with (
                self._translated("read a result"),
                self._connection.cursor() as cursor,
                contextlib.closing(cursor.stream(*_bound(sql, parameters), size=size)) as rows,
            ):
                while batch := list(itertools.islice(rows, BATCH_ROWS)):
                    columns = zip(*batch, strict=True)
                    arrays = [_array(values, field) for values, field in zip(columns, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, batches()

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:  # noqa: ARG002
        """Write the batches as Parquet into the bucket, and copy exactly those files into the staging table."""
        bucket, folder = self._block.bucket(), f"{self._load_folder(self._load_id)}/{self._name}/{table}"
        entries = []
        for key, size in self._upload(folder, schema, batches):
            url = bucket.uri(key)
            entries.append({"url": url, "mandatory": True, "meta": {"content_length": size}})
        if not entries:
            return 0
        manifest = f"{folder}.manifest"
        self._parts.append(manifest)
        bucket._upload(manifest, json.dumps({"entries": entries}).encode())  # noqa: SLF001
        role = "default" if self._block.iam_role == "default" else _literal(self._block.iam_role)
        self.execute(
            f"COPY {self._block.dialect.name(table)} FROM {_literal(bucket.uri(manifest))} IAM_ROLE {role} "
            "FORMAT AS PARQUET MANIFEST"
        )
        return int(self.fetch("SELECT pg_last_copy_count()")[0][0])

    def _upload(self, folder: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> list[tuple[str, int]]:
        """Keys and sizes of the parts, which are written and uploaded at the same time."""
        from blocks.formats import open_writer

        wire = pa.schema([(f"c{number}", _wire_type(field.type)) for number, field in enumerate(schema)])
        bucket = self._block.bucket()
        uploads: list[Future[tuple[str, int]]] = []

        def upload(key: str, path: Path) -> tuple[str, int]:
            size = path.stat().st_size
            bucket._upload(key, path, WriteOptions(content_type="application/vnd.apache.parquet"))  # noqa: SLF001
            path.unlink()
            return key, size

        with tempfile.TemporaryDirectory(prefix="etl-") as temporary, ThreadPoolExecutor(PARTS_IN_FLIGHT) as pool:
            rows = filter(lambda batch: batch.num_rows, batches)
            for first in rows:
                key, path = f"{folder}-{len(uploads)}.parquet", Path(temporary, str(len(uploads)))
                with path.open("wb") as file:
                    writer = open_writer(file, wire, format="parquet", compression="snappy")
                    writer.write(_wire(first, wire))
                    while file.tell() < PART_BYTES and (batch := next(rows, None)) is not None:
                        writer.write(_wire(batch, wire))
                    writer.close()
                if len(uploads) >= PARTS_IN_FLIGHT:
                    uploads[-PARTS_IN_FLIGHT].result()
                self._parts.append(key)
                uploads.append(pool.submit(upload, key, path))
            return [done.result() for done in uploads]

    def columns(self, table: str) -> list[Column] | None:
        """The columns of a table."""
        schema_name, _, name = table.rpartition(".")
        rows = self.fetch(
            "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, atthasdef FROM pg_attribute "
            "JOIN pg_class AS c ON c.oid = attrelid JOIN pg_namespace AS n ON n.oid = relnamespace "
            "WHERE nspname = :schema AND relname = :name AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            {"schema": schema_name or self._block.schema_, "name": name},
        )
        if not rows:
            return None
        described = self._describe(f"SELECT * FROM {self._block.dialect.table(table)}")
        types = [arrow_type(column) for column in described]
        return [
            Column(column, sql_type, kind, nullable, has_default, stage_type(kind))
            for (column, sql_type, nullable, has_default), kind in zip(rows, types, strict=True)
        ]

    def claim(self, sql: str, parameters: Mapping[str, Any], load_id: str) -> None:
        """Insert the ledger row once other loads of the schema have ended; a try of this one that lasts is ended."""
        dialect, cancelled = self._block.dialect, require("psycopg.errors", extra="redshift").QueryCanceled
        self.execute(f"SET statement_timeout TO {int(CLAIM_TIMEOUT_S * 1_000)}")
        with self._translated("lock the ledger"):
            try:
                self._connection.execute(f"LOCK TABLE {dialect.table(QUARANTINE)}")
            except cancelled:
                self.rollback()
                self.end_other_tries(load_id)
                raise TransientError(
                    f"Another load into {self._block.uri()} took longer than {CLAIM_TIMEOUT_S} s."
                ) from None
        self.execute("RESET statement_timeout")
        look = f"SELECT 1 FROM {dialect.table(LEDGER)} WHERE load_id = :load_id"
        if self.fetch(look, {"load_id": load_id}):
            raise AlreadyExistsError(f"The ledger of {self._block.uri()} has load {load_id} already.")
        self.execute(sql, parameters)

    def upsert(self, dialect: Dialect, table: str, columns: Sequence[Column], key: Sequence[str]) -> tuple[int, int]:
        """Merge the staged rows into the table, and count in the snapshot that the merge itself sees."""
        own = self._block.dialect
        target, stage = dialect.table(table), dialect.name(self.stage)
        matches = own.matches(table, columns, key, self.stage)
        updated = self.fetch(f"SELECT count(*) FROM {target} JOIN {stage} ON {matches}")[0][0]
        before = self.fetch(f"SELECT count(*) FROM {target}")[0][0]
        self.execute(own.merge(table, columns, key, self.stage))
        return self.fetch(f"SELECT count(*) FROM {target}")[0][0] - before, updated

    def commit(self) -> None:
        """Commit it, and wait for the answer no longer than the block allows."""
        timer = threading.Timer(self._block.commit_timeout_s, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            super().commit()
        except AmbiguousError:
            self._commit_lost = True
            raise
        finally:
            timer.cancel()

    def discard(self, table: str) -> None:
        """Remove the parts; only where a COMMIT was lost do they stay, and tell which session is to be ended."""
        if table == self.stage and self._parts and not self._commit_lost:
            self._remove(self._parts)

    def end_other_tries(self, load_id: str) -> None:
        """End the sessions of other tries of this load, and remove their parts."""
        own = self._name if self._parts else None
        tries = {name: keys for name, keys in self._tries(load_id).items() if name != own}
        for _ in range(END_POLLS):
            running = [pid for name, pid in self._running().items() if name in tries] if tries else []
            if not running:
                break
            for pid in running:
                self.fetch("SELECT pg_terminate_backend(:pid)", {"pid": pid})
            time.sleep(END_POLL_S)
        else:
            raise TransientError(f"An earlier try of load {load_id} still runs in {self._block.uri()}.")
        self._remove(itertools.chain(*tries.values()))

    def _sweep(self, load_id: str) -> None:
        """Remove what tries of this load left whose session has ended."""
        if tries := self._tries(load_id):
            running = self._running()
            self._remove(itertools.chain(*(keys for name, keys in tries.items() if name not in running)))

    def _tries(self, load_id: str) -> dict[str, list[str]]:
        """The keys of the parts of a load, by the name of the session that wrote them."""
        folder = self._load_folder(load_id)
        tries: dict[str, list[str]] = {}
        for page in self._block.bucket()._list(folder):  # noqa: SLF001
            for info in page:
                tries.setdefault(info.key.split("/")[-2], []).append(info.key)
        return tries

    def _remove(self, keys: Iterable[str]) -> None:
        self._block.bucket()._delete(keys)  # noqa: SLF001

    def _running(self) -> dict[str, int]:
        """The process of each session of this user by its name."""
        rows = self.fetch("SELECT session_id, start_time FROM sys_session_history WHERE status = 'active'")
        return {_session_name(pid, started): pid for pid, started in rows}

    @cached_property
    def _name(self) -> str:
        """What tells this session from all others: its process, which may be used again, and when it started."""
        pid = self.fetch("SELECT pg_backend_pid()")[0][0]
        return next((name for name, process in self._running().items() if process == pid), _session_name(pid, None))

    def _load_folder(self, load_id: str) -> str:
        return f"{STAGING}/{self._load_hash(load_id)}"

    def _load_hash(self, load_id: str) -> str:
        """A load's short name, whatever its load_id looks like; that of another database or user has another one."""
        return hashlib.sha256(f"{self._block.uri('_')} {self._block.username} {load_id}".encode()).hexdigest()[:32]

    def _describe(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        with self._translated("describe a query"):
            described: Sequence[Any] = self._run(f"SELECT * FROM ({sql}) AS q LIMIT 0", parameters).description
        return described

    def _hang_up(self) -> None:
        """End the connection from this side, so that whoever waits for an answer waits no longer."""
        gone = (OSError, require("psycopg", extra="redshift").Error)
        with contextlib.suppress(*gone), socket.socket(fileno=os.dup(self._connection.fileno())) as open_socket:
            open_socket.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _translated(self, action: str, *, sent: bool = False) -> Iterator[None]:
        psycopg = require("psycopg", extra="redshift")
        try:
            yield
        except psycopg.Error as error:
            lost = self._connection.broken or self._connection.closed
            # Of what a load does outside of its transaction nothing remains, or it may be done twice.
            ambiguous = sent and lost and not self._in_transaction and (action == "commit" or not self._load_id)
            raise translate(error, action, self._block.uri(), ambiguous=ambiguous) from None


def stage_type(kind: pa.DataType) -> str | None:
    """The type in which a column is staged where COPY cannot fill it from Parquet; None where it can."""
    return TEXT if pa.types.is_time(kind) or isinstance(kind, pa.JsonType) else None


def arrow_type(column: Any) -> pa.DataType:
    """The Arrow type of a column of a result, as psycopg describes it."""
    name = OIDS.get(column.type_code, "string")
    if name == "decimal":
        precision, scale = (column.precision, column.scale) if column.precision else UNCONSTRAINED
        return pa.decimal128(precision, scale)
    others = {
        "time": pa.time64("us"),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", "UTC"),
        "json": pa.json_(),
    }
    return others.get(name) or pa.type_for_alias(name)


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    try:
        if isinstance(field.type, pa.JsonType):
            return pa.ExtensionArray.from_storage(field.type, pa.array(values, field.type.storage_type))
        return pa.array(values, field.type)
    except pa.ArrowException:  # its words hold the value
        raise SchemaError(
            f"Column {field.name!r} holds a value that is not a {field.type}. Cast it in the query."
        ) from None


def _wire_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column in the parts."""
    return pa.string() if stage_type(kind) else kind


def _wire(batch: pa.RecordBatch, wire: pa.Schema) -> pa.RecordBatch:
    """The batch as it is written; columns are named by their place, because COPY goes by that."""
    plain = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in batch.columns]
    arrays = [array.cast(field.type) for array, field in zip(plain, wire, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=wire)


def _bound(sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    if not parameters:
        return sql, None
    return bind(sql.replace("%", "%%"), parameters, lambda name: f"%({name})s"), dict(parameters)


def _literal(text: str) -> str:
    r"""A text in SQL; Redshift takes a backslash for an escape.

    >>> _literal("it's a \\")
    "'it''s a \\\\'"
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _session_name(pid: int, started: dt.datetime | None) -> str:
    """A session's name in the bucket.

    >>> _session_name(7, dt.datetime(2026, 4, 30, 12, tzinfo=dt.UTC))
    '7-20260430T120000000000'
    """
    return f"{pid}-{started:%Y%m%dT%H%M%S%f}" if started else str(pid)


def _hex_loader() -> Any:
    """The class by which psycopg reads VARBYTE, which Redshift prints as hexadecimal digits."""
    adapt = require("psycopg.adapt", extra="redshift")

    class HexLoader(adapt.Loader):  # type: ignore[misc, name-defined]
        def load(self, data: Any) -> bytes:
            return bytes.fromhex(bytes(data).decode())

    return HexLoader


def translate(error: BaseException, action: str, uri: str, *, ambiguous: bool = False) -> ConnectorError:
    """The error of this package for one of psycopg's, as Redshift means it."""
    code, diag = getattr(error, "sqlstate", None), getattr(error, "diag", None)
    said = f"{getattr(diag, 'message_primary', '')} {getattr(diag, 'message_detail', '')}"
    place = uri if action == "connect to" else f"in {uri}"
    if code and (found := next((entry for entry in MESSAGES if re.search(entry[0], said, re.IGNORECASE)), None)):
        _, kind, hint = found
        return kind(f"Could not {action} {place}: {_without_values(said)} (SQLSTATE {code}). {hint}".rstrip())
    if code and code.startswith("XX"):
        return errors.TerminalError(f"Could not {action} {place}: {_without_values(said)} (SQLSTATE {code}).")
    if type(error).__name__ == "DataError" and not code:
        return errors.InvalidInputError(f"Could not {action} {place}: a value has no form in Python. Cast it to text.")
    return postgres.translate(error, action, uri, ambiguous=ambiguous)


def _without_values(said: str) -> str:
    """The first line of what Redshift said, without what may be a value.

    >>> _without_values("Invalid digit, Value 'c', Pos 0, Type: Integer")
    'Invalid digit, Value ..., Pos 0, Type: Integer'
    """
    line = said.strip().splitlines()[0] if said.strip() else "no reason given"
    return re.sub(r"'[^']*'?|\"[^\"]*\"?", "...", line).rstrip(". ")
