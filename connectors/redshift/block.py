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

import datetime as dt
from collections.abc import Callable  # noqa: TC003 (pydantic looks for it)
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from blocks.base import errors
from blocks.base.block import resolve
from blocks.base.errors import ConnectorError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.credentials.aws import AwsCredentials, aws_error, utc_now
from blocks.stores.object_store import ObjectStore
from blocks.warehouses.warehouse import Warehouse
from connectors.postgres import Postgres
from connectors.redshift.dialect import VARBYTE, RedshiftDialect
from connectors.redshift.errors import LOGIN_ADVICE, LOGIN_ERRORS, translate
from connectors.redshift.session import RedshiftSession

if TYPE_CHECKING:
    from typing import Self

    from blocks.warehouses.session import BulkSession, Session

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
        return self._bucket

    @live
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
            if not self._lent or self._clock() > self._lent[0][1] - LOGIN_MARGIN:
                self._lent[:] = [self._new_login()]
            return dict(self._lent[0][0])

    @live
    def _lent(self) -> list[tuple[dict[str, str], dt.datetime]]:
        """The login that holds, and until when."""
        return []

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
    """The class by which psycopg reads VARBYTE, which Redshift prints as hexadecimal digits."""
    adapt = require("psycopg.adapt", extra="redshift")

    class HexLoader(adapt.Loader):  # type: ignore[misc, name-defined]
        def load(self, data: Any) -> bytes:
            return bytes.fromhex(bytes(data).decode())

    return HexLoader
