"""PostgreSQL, Redshift on it, and DuckDB."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from blocks.credentials.aws import AwsCredentials
from blocks.testing import FaultProxy, HttpFaultProxy
from connectors.duckdb import DuckDB
from connectors.postgres import Postgres
from connectors.s3 import S3Bucket
from integration_tests.faults.cases import PROCESS_FAULTS, RACES, SOURCE_FAULT
from integration_tests.faults.targets.base import PATIENT, Place, Target
from integration_tests.faults.targets.wires import TCP_FAULTS, HttpWire, TcpWire
from integration_tests.standins.postgres import PostgresServer
from integration_tests.standins.redshift import RedshiftOnPostgres, stand_in
from integration_tests.standins.s3 import S3Server

if TYPE_CHECKING:
    from pathlib import Path

    from blocks.base.retry import RetryPolicy

SERVER_FAULTS = ("server restart", "server crash", "session ended")
OTHERS = "application_name LIKE 'etl-blocks %' AND pid <> pg_backend_pid()"
COMMIT_TIMEOUT_S = 0.3
ROLE = "arn:aws:iam::123456789012:role/redshift-reads-staging"


class PostgresTarget(Target):
    """A real server, behind a proxy that knows its protocol; a schema for each case."""

    name: ClassVar[str] = "PostgreSQL"
    faults: ClassVar[tuple[str, ...]] = (*TCP_FAULTS, *SERVER_FAULTS, SOURCE_FAULT, *PROCESS_FAULTS, *RACES)

    def open(self) -> None:
        """Start the server and the proxy."""
        self.postgres: PostgresServer = self.server("postgres", PostgresServer)
        self.secrets = (self.postgres.password,)
        self.address = self.postgres.new_database()
        self.proxy = self._stack.enter_context(FaultProxy(self.postgres.host, self.postgres.port))

    def run_fault(self, fault: str) -> None:
        """Restart or crash the server, or end the sessions of loads."""
        if fault == "session ended":
            with self.address.connect() as connection:
                connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}")
        elif fault == "server crash":
            self.postgres.crash()
            self.postgres.start()
        else:
            self.postgres.restart()

    def place(self, folder: Path) -> Place:
        """A new schema."""
        schema = f"s{uuid.uuid4().hex[:12]}"
        with self.address.connect() as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
        fields: dict[str, Any] = {"ssl_mode": "disable", "schema": schema}
        through = self.address.through(self.proxy.port)
        return Place(
            folder,
            direct=self._block(self.address.fields() | fields, PATIENT),
            wires=[TcpWire(self.proxy), *self._other_wires()],
            behind=lambda retry: self._block(
                through.fields() | fields | {"commit_timeout_s": COMMIT_TIMEOUT_S}, retry, behind=True
            ),
            leftovers=lambda: self._leftovers(schema),
            drop=lambda: self._drop(schema),
        )

    def _block(self, fields: dict[str, Any], retry: RetryPolicy, *, behind: bool = False) -> Any:  # noqa: ARG002 (for Redshift)
        return Postgres(**fields, retry=retry)

    def _other_wires(self) -> list[Any]:
        return []

    def _leftovers(self, schema: str) -> list[str]:
        with self.address.connect() as connection:
            tables = connection.execute(
                "SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE relkind = 'r' "
                "AND nspname = %s AND relname NOT IN ('t', '_etl_loads', '_etl_quarantine')",
                [schema],
            ).fetchall()
            sessions = connection.execute(f"SELECT state FROM pg_stat_activity WHERE {OTHERS}").fetchall()
            locks = connection.execute(
                "SELECT locktype, mode FROM pg_locks JOIN pg_class AS c ON c.oid = relation "
                "JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname = %s",
                [schema],
            ).fetchall()
        found = {"table": tables, "session": sessions, "lock": locks}
        return [f"{kind} {' '.join(map(str, each))}" for kind, some in found.items() for each in some]

    def _drop(self, schema: str) -> None:
        with self.address.connect() as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE {OTHERS}")
            connection.execute(f"DROP SCHEMA {schema} CASCADE")


class RedshiftTarget(PostgresTarget):
    """The stand-in on PostgreSQL, whose staging bucket has a proxy of its own."""

    name: ClassVar[str] = "Redshift"
    staging_faults: ClassVar[tuple[str, ...]] = (
        "staging: 503",
        "staging: lose answer",
        "staging: sent twice",
        "staging: flipped request",
    )
    faults: ClassVar[tuple[str, ...]] = (
        *TCP_FAULTS,
        "session ended",
        *staging_faults,
        SOURCE_FAULT,
        *PROCESS_FAULTS,
        *RACES,
    )
    skipped: ClassVar[dict[str, str]] = {
        "server restart": "the stand-in is the PostgreSQL server, which has these cases itself",
        "server crash": "the stand-in is the PostgreSQL server, which has these cases itself",
    }

    def open(self) -> None:
        """Start the servers and the proxies."""
        super().open()
        self.s3: S3Server = self.server("s3", S3Server)
        self.secrets += (self.s3.secret_key,)
        self.staging_proxy = self._stack.enter_context(HttpFaultProxy(self.s3.endpoint))
        self.bucket = self.s3.make_bucket()
        self._stack.callback(prepare_redshift(self.s3.endpoint))

    def _other_wires(self) -> list[Any]:
        return [HttpWire(self.staging_proxy)]

    def _block(self, fields: dict[str, Any], retry: RetryPolicy, *, behind: bool = False) -> Any:
        keys = AwsCredentials(
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            endpoint_url=self.staging_proxy.url if behind else self.s3.endpoint,
            region_name=self.s3.region,
        )
        folder = fields["schema"]
        staging = S3Bucket(bucket_name=self.bucket, bucket_folder=folder, credentials=keys, retry=retry)
        return RedshiftOnPostgres(**fields, staging=staging, iam_role=ROLE, retry=retry)

    def _leftovers(self, schema: str) -> list[str]:
        found = self.s3.client().list_objects_v2(Bucket=self.bucket, Prefix=f"{schema}/").get("Contents", [])
        return [*super()._leftovers(schema), *(f"object {each['Key']}" for each in found)]


def prepare_redshift(endpoint: str) -> Any:
    """Let the driver of this process take Redshift's statements; what it returns undoes that."""
    import boto3

    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3Server.access_key,
        aws_secret_access_key=S3Server.secret_key,
        region_name=S3Server.region,
    )
    patch = pytest.MonkeyPatch()
    stand_in(s3, patch)
    return patch.undo


class DuckDBTarget(Target):
    """A file; it has no server, so what strikes does so at the moments of a load within the process."""

    name: ClassVar[str] = "DuckDB"
    faults: ClassVar[tuple[str, ...]] = ("lost commit", SOURCE_FAULT, *PROCESS_FAULTS, *RACES)

    def open(self) -> None:
        """Nothing is needed."""

    def place(self, folder: Path) -> Place:
        """A new file."""
        path = folder / "target.duckdb"
        direct = DuckDB(path=str(path), retry=PATIENT)

        def leftovers() -> list[str]:
            known = "('t', '_etl_loads', '_etl_quarantine')"
            found = direct.fetch_all(f"SELECT table_name FROM duckdb_tables() WHERE table_name NOT IN {known}")
            files = [each.name for each in folder.iterdir() if each.name.startswith("target") and each != path]
            return [*(f"table {name}" for (name,) in found), *(f"file {name}" for name in files if "wal" not in name)]

        return Place(folder, direct, leftovers=leftovers)
