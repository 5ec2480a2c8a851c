"""The block of an Amazon Redshift database: its fields, its staging bucket, and how it logs in.

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

import dataclasses
import datetime as dt
from collections.abc import Callable  # noqa: TC003 (pydantic looks for it)
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator
from typing_extensions import override

from blocks.base import errors
from blocks.base.addresses import Host  # noqa: TC001 (pydantic reads it)
from blocks.base.block import resolve
from blocks.base.errors import ConnectorError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.credentials.aws import AwsCredentials, aws_error, utc_now
from blocks.stores.object_store import ObjectStore
from connectors.redshift.dialect import VARBYTE, RedshiftDialect
from connectors.redshift.errors import LOGIN_ADVICE, LOGIN_ERRORS, translate
from connectors.redshift.held import RedshiftHeldSession
from connectors.redshift.session import RedshiftSession, statement_timeout
from connectors.shared.libpq.block import Database, LibpqWarehouse, SslMode
from connectors.shared.libpq.connection import ask

if TYPE_CHECKING:
    from typing import Self

    from blocks.warehouses.held import HeldSession
    from blocks.warehouses.session import BulkSession, Session

LOGIN_S = 3_600
LOGIN_MARGIN = dt.timedelta(minutes=5)


@dataclasses.dataclass
class _IssuedLogin:
    """The login that AWS issued last, and when a new one is to be asked for."""

    login: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    renew_at: dt.datetime | None = None


# https://docs.aws.amazon.com/redshift/latest/dg/SYS_QUERY_HISTORY.html
WORKING = """
SELECT count(*) > 0 FROM sys_query_history
WHERE session_id = %(pid)s AND status IN ('planning', 'queued', 'running', 'returning')
"""


class Redshift(LibpqWarehouse):
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

    _scheme: ClassVar[str] = "redshift"
    _extra: ClassVar[str] = "redshift"

    host: Host = Field(description="The endpoint of the cluster or of the workgroup, without port and database.")
    port: int = Field(default=5439, ge=1, le=65535, description="The endpoint's port. Defaults to 5439.")
    database: Database = Field(default="dev", description="The database. Defaults to dev.")
    username: str | None = Field(
        default=None,
        description="The user to log in as. With cluster_identifier, defaults to the user of the IAM identity.",
    )
    password: SecretStr | None = Field(
        default=None, description="The user's password. Leave it empty where AWS issues a temporary login."
    )
    ssl_mode: SslMode = Field(
        default="require",
        description="How much TLS to ask for. Recommended: verify-full, which alone verifies the server. "
        "Defaults to require, which takes any certificate.",
    )
    lock_timeout_s: float = Field(
        default=1_800.0,
        gt=0,
        description="Seconds to wait for other loads into the schema, and for a table to be altered. Defaults to 1800.",
    )
    staging: ObjectStore | str = Field(
        description="The S3 bucket through which data is loaded, or the name of a saved one such as "
        "etl-s3-bucket/staging. It has to be in Redshift's own region."
    )
    iam_role: str = Field(
        default="default",
        pattern=r"^(default|arn:aws[\w-]*:iam::\d{12}:role/[\w+=,.@/:-]+)$",
        description="The ARN of the role with which Redshift reads the bucket. Defaults to Redshift's default role.",
    )
    aws_credentials: AwsCredentials = Field(
        default_factory=AwsCredentials,
        description="AWS credentials that ask for a temporary login. Defaults to the ambient identity (environment, "
        "profile or instance role).",
    )
    cluster_identifier: str | None = Field(
        default=None, description="The cluster for which AWS issues a temporary login, instead of a password."
    )
    workgroup_name: str | None = Field(
        default=None,
        description="The serverless workgroup for which AWS issues a temporary login, instead of a password.",
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

    @property
    def dialect(self) -> RedshiftDialect:
        """The SQL of Redshift."""
        return RedshiftDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the server and the staging bucket are reached, and what the login may do.

        Whether `iam_role` may read the bucket shows at the first load only.
        """
        version, access = self._access("version()")
        return f"{self.uri()} answers ({version.rpartition(', ')[2]}); {access} {self.bucket().check()}"

    def get_client(self) -> Any:
        """Open a psycopg connection that commits each statement; the caller closes it."""
        return self.connect_psycopg()

    def connect_psycopg(self, label: str = "") -> Any:
        """Open a psycopg connection that commits each statement; the caller closes it."""
        connection = super().connect_psycopg(label)
        connection.autocommit = True
        connection.prepare_threshold = None  # psycopg would send DEALLOCATE ALL, which Redshift lacks
        connection.adapters.register_loader(VARBYTE, _hex_loader())
        try:
            connection.execute(
                "SET enable_case_sensitive_identifier TO true; SET timezone TO 'UTC'; SET extra_float_digits TO 2; "
                f"SET search_path TO {self.dialect.name(self.schema_)}; {statement_timeout(self.statement_timeout_s)}"
            )
        except require("psycopg", extra="redshift").Error as error:
            connection.close()
            raise self.translate(error, "connect to") from None
        return connection

    @override
    def is_working(self, label: str, *, pid: int = 0, sql: str = "") -> bool:
        """Ask the cluster, on another connection, whether it is at work on a statement of a session."""
        return ask(self._connect_aside, WORKING, pid=pid)

    def translate(
        self, error: BaseException, action: str, *, ambiguous: bool = False, statement: str = ""
    ) -> ConnectorError:
        """Return the error of this package for one of psycopg's, as Redshift means it."""
        return translate(error, action, self.uri(), ambiguous=ambiguous, statement=statement)

    def bucket(self) -> ObjectStore:
        """Return the staging bucket.

        Raises:
            InvalidInputError: The saved block is not an S3 bucket.
        """
        return self._bucket

    @live
    def _bucket(self) -> ObjectStore:
        bucket = resolve(self.staging, ObjectStore)
        if not bucket.uri().startswith("s3://"):
            raise errors.InvalidInputError(f"Redshift reads from S3 only, and {self.staging} is {bucket.uri()}.")
        return bucket

    def _connect(self) -> Session:
        return RedshiftSession(self)

    def _connect_held(self) -> HeldSession:
        return RedshiftHeldSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return RedshiftSession(self, load_id)

    def _settings(self, label: str = "") -> dict[str, Any]:
        # Redshift calls its encoding UNICODE, which psycopg does not know.
        return super()._settings(label) | {"client_encoding": "utf8"} | self._issued_login()

    def _place(self) -> tuple[str, str, str]:
        return self.host, str(self.port), self.database

    def _issued_login(self) -> dict[str, str]:
        """User and password that AWS gives for an hour; nothing where the block has its own."""
        if not self.cluster_identifier and not self.workgroup_name:
            return {}
        with self._lock:
            issued = self._issued
            if issued.renew_at is None or self._clock() > issued.renew_at:
                issued.login, expires_at = self._new_login()
                issued.renew_at = expires_at - LOGIN_MARGIN
            return issued.login

    @live
    def _issued(self) -> _IssuedLogin:
        return _IssuedLogin()

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


def _hex_loader() -> Any:
    """Return the class by which psycopg reads VARBYTE, which Redshift prints as hexadecimal digits."""
    adapt = require("psycopg.adapt", extra="redshift")

    class HexLoader(adapt.Loader):  # type: ignore[misc, name-defined]
        def load(self, data: Any) -> bytes:
            return bytes.fromhex(bytes(data).decode())

    return HexLoader
