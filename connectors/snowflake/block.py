"""The block: a schema of a Snowflake database, its settings, and how it connects."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from prefect.context import FlowRunContext
from pydantic import Field, PrivateAttr

from blocks.base import errors
from blocks.base.errors import ConnectorError, UnsupportedError
from blocks.base.live import live
from blocks.base.names import Identity  # noqa: TC001 (pydantic reads it)
from blocks.base.operation import operation
from blocks.base.optional import require
from blocks.credentials.snowflake import SnowflakeCredentials, snowflake_error
from blocks.files.options import check_format
from blocks.warehouses.copier import Copier
from blocks.warehouses.held import HeldSession
from blocks.warehouses.pooled_engine import PooledEngine
from blocks.warehouses.warehouse import Warehouse, check_one_given
from connectors.snowflake.dialect import SnowflakeDialect, quoted, stored_name
from connectors.snowflake.files import FILE_FORMATS
from connectors.snowflake.held import SnowflakeHeldSession
from connectors.snowflake.session import SnowflakeSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blocks.base.names import Key
    from blocks.stores.object_store import ObjectStore
    from blocks.warehouses.load import LoadReport
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Dialect

TAG_CHARACTERS = 2_000
REPEATS_S = 5
"""How long the driver repeats a request that was not answered: the policy of the block decides about more."""


class Snowflake(Warehouse):
    """A schema of a Snowflake database.

    A name in lower case is Snowflake's unquoted one (`orders` is ORDERS there), in both directions; every other name is
    kept exactly as written. It is the rule of snowflake-sqlalchemy and dbt.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.snowflake import Snowflake

        warehouse = Snowflake.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL Snowflake"
    _block_type_slug: ClassVar[str] = "etl-snowflake"
    _renamed: ClassVar[dict[str, str]] = {"socket_timeout_s": "read_timeout_s"}
    _documentation_url: ClassVar[Any] = (
        "https://docs.snowflake.com/en/developer-guide/python-connector/python-connector"
    )

    credentials: SnowflakeCredentials = Field(description="Who logs in, and to which account.")
    database: Identity = Field(description="The database.")
    schema_: Identity = Field(
        default="public", alias="schema", description="The schema of tables that are named without one."
    )
    warehouse: str | None = Field(
        default=None, description="The virtual warehouse that computes; empty means the user's default."
    )
    role: str | None = Field(default=None, description="The role to work in; before the role of the credentials.")
    session_parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of each session, such as STATEMENT_TIMEOUT_IN_SECONDS; before this block's own.",
    )
    login_timeout_s: int = Field(default=60, ge=1, description="Seconds to wait for a login.")
    network_timeout_s: int = Field(
        default=240,
        ge=1,
        description="Seconds in which the driver repeats a request that fails, then gives up; not much more than "
        "read_timeout_s. Less than the 5 minutes after which Snowflake may abort a transaction that it hears nothing "
        "of. Defaults to 240.",
    )
    read_timeout_s: float = Field(
        default=90.0,
        gt=0,
        description="Seconds a request may go without an answer, or a byte of it; about a statement that runs the "
        "service says something every 45. Defaults to 90.",
    )
    statement_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that one statement may take before Snowflake ends it. Defaults to the account's limit.",
    )
    lock_timeout_s: int = Field(
        default=900,
        ge=1,
        description="Seconds to wait for another load that is being applied in this schema. Snowflake itself ends one "
        "whose client has vanished, after 5 minutes.",
    )
    part_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Size of the Parquet files in which rows are sent; four go at a time."
    )

    _clock: Any = PrivateAttr(default=time.time)

    def uri(self, table: str = "") -> str:
        """`snowflake://account/database/schema.table`."""
        name = table if not table or "." in table else f"{self.schema_}.{table}"
        return f"{self.credentials.place}/{self.database}" + (f"/{name}" if name else "")

    @property
    def dialect(self) -> Dialect:
        """The SQL of Snowflake."""
        return SnowflakeDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the account is reached, the login works and the schema can be used."""
        with self._session() as session:
            user, role, warehouse = session.fetch("SELECT current_user(), current_role(), current_warehouse()")[0]
            known = session.fetch(
                "SELECT count(*) FROM information_schema.schemata WHERE schema_name = :name",
                {"name": stored_name(self.schema_)},
            )[0][0]
        if not known:
            raise errors.NotFoundError(
                f"There is no schema {self.schema_} in {self.uri()} that role {role} may use. Create it or grant USAGE."
            )
        return f"{self.uri()} answers; {user} works in role {role}, schema {self.schema_} and warehouse {warehouse}."

    @operation(in_session=True)
    def multiquery(
        self, queries: Sequence[str], parameters: Mapping[str, Any] | None = None, *, as_transaction: bool = True
    ) -> list[list[tuple[Any, ...]]]:
        """Run the statements in turn and return the rows of each: all or none, unless `as_transaction` is false.

        A retry runs the transaction as a whole. A statement that shapes a table commits what came before it. Within a
        transaction that is open in a `with` block they are part of it.

        Raises:
            AmbiguousError: The answer to COMMIT was lost; look before you run it again.
        """
        held = self._held
        with held.session() if held else self._session() as session:
            apart = as_transaction and not (isinstance(session, HeldSession) and session.in_transaction())
            with session.transaction() if apart else contextlib.nullcontext():
                return [session.fetch(query, parameters) for query in queries]

    @operation
    def copy_from(
        self,
        bucket: ObjectStore,
        prefix: Key,
        table: str,
        *,
        load_id: str,
        storage_integration: str,
        file_format: Literal["parquet", "csv", "jsonl"] = "parquet",
    ) -> LoadReport:
        """Have Snowflake copy a folder of a bucket into a table that is there; no data passes here.

        Columns meet by name. Once for each `load_id`, as `load` does: the COPY runs in the transaction of the claim,
        and takes every file that is there then, also one that an earlier load took.

        Raises:
            NotFoundError: There is no such table, or no such storage integration.
            InvalidInputError: A file does not fit; nothing was copied.
        """
        check_format(file_format, FILE_FORMATS)
        source = (
            f"FROM {_address(bucket, prefix)} STORAGE_INTEGRATION = {self.dialect.name(storage_integration)} "
            f"FILE_FORMAT = ({FILE_FORMATS[file_format]}) "
            "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
        )

        def run(session: BulkSession, load_id: str) -> LoadReport:
            def copy(target: str) -> int:
                statement = f"COPY INTO {self.dialect.table(target)} {source}"
                return cast("SnowflakeSession", session).copy_files(statement, target)

            return Copier(session, self.dialect, table, copy, uri=self.uri(table), load_id=load_id).run()

        return self._once(load_id, run, table=table, origins=[bucket.asset_key(prefix)])

    @operation
    def unload_to(
        self,
        bucket: ObjectStore,
        prefix: Key,
        table: str | None = None,
        *,
        query: str | None = None,
        storage_integration: str,
        file_format: Literal["parquet", "csv"] = "parquet",
    ) -> list[str]:
        """Have Snowflake write files into a folder of a bucket, and return their keys; no data passes here.

        The folder holds the rows of the table, or of the query, and nothing else afterwards: files of an earlier
        call are written over, or deleted with the identity of `bucket`. The same call twice leaves each row once.

        Raises:
            InvalidInputError: Not exactly one of `table` and `query` is given.
        """
        check_one_given(table, query)
        query = query or f"SELECT * FROM {self.dialect.table(str(table))}"
        with contextlib.closing(SnowflakeSession(self, clock=self._clock)) as session:
            rows = session.rows(
                f"COPY INTO {_address(bucket, prefix)} FROM ({query}\n) "
                f"STORAGE_INTEGRATION = {self.dialect.name(storage_integration)} "
                f"FILE_FORMAT = (TYPE = {file_format.upper()}) HEADER = TRUE OVERWRITE = TRUE DETAILED_OUTPUT = TRUE"
            )
        written = {row["FILE_NAME"].rpartition("/")[2] for row in rows}
        keys = [info.key for page in bucket.objects.list(prefix) for info in page]
        if stale := [key for key in keys if key.rpartition("/")[2] not in written]:
            bucket.delete_objects(stale)
        return sorted(set(keys) - set(stale))

    def get_client(self, **options: Any) -> Any:
        """Open a `snowflake.connector` connection, for everything that has no method here; the caller closes it.

        Args:
            options: Options of the driver's `connect`; they go before the block's own.
        """
        return self.connect(**options)

    def get_engine(self) -> Any:
        """Return the block's SQLAlchemy engine, made at the first call and disposed of when the block is closed."""
        return self._engine.engine

    @live
    def _engine(self) -> PooledEngine:
        require("snowflake.sqlalchemy", extra="snowflake")
        sqlalchemy = require("sqlalchemy", extra="snowflake")
        creator = functools.partial(self.model_copy().connect, paramstyle="pyformat")  # that of snowflake-sqlalchemy
        return PooledEngine(self, sqlalchemy.create_engine("snowflake://", creator=creator))

    def engine_error(self, error: BaseException) -> ConnectorError:
        """Return the error of this package for one of the driver's that the engine met."""
        if isinstance(error, ConnectorError):
            return error
        return snowflake_error("run a query", f"in {self.uri()}", error)

    def get_connection(self, **options: Any) -> Any:
        """Open a connection as `get_client` does, by Prefect's other name for it; the caller closes it."""
        return self.get_client(**options)

    def connect(self, load_id: str | None = None, **options: Any) -> Any:
        """Open a connection whose query tag names the flow run and the load; the caller closes it."""
        run = FlowRunContext.get()
        tag = {
            "app": "etl-blocks",
            "flow_run": str(run.flow_run.id) if run and run.flow_run else None,
            "load_id": load_id and load_id[: TAG_CHARACTERS // 8],
        }
        parameters = {
            "QUERY_TAG": json.dumps({name: value for name, value in tag.items() if value}),
            "TIMEZONE": "UTC",
            "LOCK_TIMEOUT": self.lock_timeout_s,
            "ABORT_DETACHED_QUERY": True,
            "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
        }
        if self.statement_timeout_s is not None:
            parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = math.ceil(self.statement_timeout_s)
        arguments = {
            "database": quoted(self.database),
            "schema": quoted(self.schema_),
            "warehouse": self.warehouse,
            "role": self.role,
            "autocommit": True,
            "paramstyle": "qmark",
            "arrow_number_to_decimal": True,
            "client_session_keep_alive": load_id is not None or None,
            "application": "etl-blocks",
            "login_timeout": self.login_timeout_s,
            "network_timeout": min(self.network_timeout_s, math.ceil(self.read_timeout_s) + REPEATS_S),
            "socket_timeout": math.ceil(self.read_timeout_s),
            "session_parameters": parameters | self.session_parameters,
        }
        return self.credentials.get_client(**(arguments | options))

    def dbt_output(self) -> dict[str, Any]:
        """This schema as the output of a dbt profile.

        https://docs.getdbt.com/docs/core/connect-data-platform/snowflake-setup

        Raises:
            UnsupportedError: There are session_parameters, which a dbt profile has no place for.
        """
        if self.session_parameters:
            raise UnsupportedError(
                "A dbt profile has no session parameters. Set them for the user, or in the project's on-run-start hook."
            )
        output = self.credentials.dbt_output() | {
            "type": "snowflake",
            "database": self.database,
            "schema": self.schema_,
            "warehouse": self.warehouse,
            "role": self.role or self.credentials.role,
            "query_tag": json.dumps({"app": "etl-blocks dbt"}),
            "client_session_keep_alive": True,
            "connect_timeout": self.login_timeout_s,
        }
        return {name: value for name, value in output.items() if value is not None}

    def _connect(self) -> Session:
        return SnowflakeSession(self, clock=self._clock)

    def _connect_held(self) -> HeldSession:
        return SnowflakeHeldSession(self, clock=self._clock)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return SnowflakeSession(self, load_id, clock=self._clock)

    @live
    def lost_commits(self) -> dict[str, set[str]]:
        """By load, the names of the transactions of this process whose COMMIT was not answered."""
        return {}


def _address(bucket: ObjectStore, prefix: Key) -> str:
    """Return a folder of a bucket as the literal that COPY takes."""
    return _text(bucket.uri(prefix).replace("gs://", "gcs://", 1).rstrip("/") + "/")


def _text(value: str) -> str:
    """Return a text as a literal, for statements that take no parameters."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
