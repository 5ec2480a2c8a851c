"""Google BigQuery: load jobs from Parquet in, the Storage Read API out, each load one scripted transaction.

Whether a job ran is never guessed: each has an id of its own making, so that one whose answer was lost is looked up
under it, and a second one of that id is refused by the service.
https://cloud.google.com/bigquery/docs/running-jobs#generate-jobid
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import itertools
import re
import tempfile
import time
import uuid
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from prefect.context import FlowRunContext
from pydantic import Field, HttpUrl

from blocks.arrow_types import cast_array, plain_type
from blocks.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    TerminalError,
    ThrottledError,
    TransientError,
    TypeLossError,
    UnsupportedError,
    service_error,
)
from blocks.gcp_credentials import GOOGLE_ADVICE, GOOGLE_ERRORS, GcpCredentials, google_error
from blocks.ledger import LEDGER, Ledger, claimed, find_report, recorded
from blocks.load import LoadPlan, LoadReport
from blocks.operation import operation
from blocks.optional import lazy, require
from blocks.retry import call_with_retry
from blocks.scan import Rejects, Scan
from blocks.session import COUNT_UNKNOWN, Script, ScriptedSession, Step
from blocks.sql import Column, Dialect, bind
from blocks.transfer import ordered_map
from blocks.warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from blocks.object_store import ObjectStore
    from blocks.session import BulkSession, Session
    from blocks.sql import Parameters
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")
    pq = lazy("pyarrow.parquet")

ERRORS: dict[str, type[ConnectorError]] = GOOGLE_ERRORS | {
    "attributeError": InvalidInputError,
    "billingTierLimitExceeded": TerminalError,
    "blocked": AccessDeniedError,
    "bytesBilledLimitExceeded": TerminalError,
    "invalidUser": AccessDeniedError,
    "jobBackendError": TransientError,
    "jobInternalError": TransientError,
    "jobRateLimitExceeded": ThrottledError,
    "proxyAuthenticationRequired": AccessDeniedError,
    "resourceInUse": TransientError,
    "resourcesExceeded": TerminalError,
    "schemaUpdateFailed": TransientError,
    "sessionNotFound": TransientError,
}
"""https://cloud.google.com/bigquery/docs/error-messages"""

ADVICE: dict[str, str] = GOOGLE_ADVICE | {
    "accessDenied": (
        "The identity needs the roles BigQuery Job User in the project and BigQuery Data Editor on the dataset."
    ),
    "bytesBilledLimitExceeded": "Raise maximum_bytes_billed, or make the query read less.",
    "quotaExceeded": "https://cloud.google.com/bigquery/quotas says which one, and when it is renewed.",
    "resourcesExceeded": "Make the query smaller.",
}

# What the service says decides more than its reason does, which is the same for most of it.
TOLD: tuple[tuple[str, type[ConnectorError]], ...] = (
    ("concurrent update|could not serialize|[Rr]etrying the job may", TransientError),
    ("Column already exists", AlreadyExistsError),
)

# The service's words go on only where they hold names and no values; all of them are seen with the job's id.
NAMES_ONLY = re.compile(
    r"(?i)not found: (table|dataset|project|job|location|view|routine|function|uri)\b[^\n'\"]*|"
    r"already exists: [^\n'\"]*|"
    r"column already exists: \S+|unrecognized name: [^\n'\"]*|name \S+ not found inside \S+|"
    r"syntax error: (expected|unexpected) (keyword|identifier|end of \w+|\S+) [^'\n]{0,80}|"
    r"access denied: [^\n'\"]*|quota exceeded: [^\n'\"]*|exceeded rate limits[^\n'\"]*|"
    r"transaction is aborted due to concurrent[^\n'\"]*|"
    r"query exceeded limit for bytes billed: \d+\. \d+ or higher required|"
    r"table \"?\w+\"? must be qualified[^\n'\"]*|cannot (query|list)[^\n'\"]*"
)

CLAIMED = "etl-blocks: the ledger has this load"
UNEQUAL = "etl-blocks: the rows staged and applied differ in number"

DATASET_NAME = r"[A-Za-z0-9_]{1,1024}"

COLUMN_NAME = re.compile(r"[\w\-&%=+:'<>#|\s]{1,300}")
"""https://cloud.google.com/bigquery/docs/schemas#flexible-column-names"""
RESERVED_NAMES = re.compile(
    r"(?i)_TABLE_|_FILE_|_PARTITION|_ROW_TIMESTAMP|__ROOT__|_COLIDENTIFIER|_CHANGE_SEQUENCE_NUMBER|_CHANGE_TYPE|"
    r"_CHANGE_TIMESTAMP"
)

LITERALS = r"""
    [rRbB]{0,2}('{3}|\"{3})(?:\\.|.)*?\1                                             # strings of many lines
    | [rRbB]{0,2}'(?:[^'\\\n]|\\.)*' | [rRbB]{0,2}"(?:[^"\\\n]|\\.)*" | `(?:[^`\\]|\\.)*`  # strings, quoted names
    | (?:--|\#)[^\n]* | /\*.*?\*/                                                     # comments
"""

FILE_FORMATS: dict[str, dict[str, Any]] = {
    "parquet": {
        "source_format": "PARQUET",
        "column_name_character_map": "V2",
        "decimal_target_types": ["NUMERIC", "BIGNUMERIC"],
    },
    "csv": {
        "source_format": "CSV",
        "column_name_character_map": "V2",
        "skip_leading_rows": 1,
        "source_column_match": "NAME",
        "allow_quoted_newlines": True,
    },
    "json": {"source_format": "NEWLINE_DELIMITED_JSON"},
}
"""What a load job is told of the files.

https://cloud.google.com/bigquery/docs/reference/rest/v2/Job#JobConfigurationLoad
"""

EXTRACTS = {
    "parquet": {"destination_format": "PARQUET", "compression": "SNAPPY"},
    "csv": {"destination_format": "CSV"},
}
EXPORTS = {"parquet": "format = 'PARQUET', compression = 'SNAPPY'", "csv": "format = 'CSV', header = TRUE"}
"""The same in SQL. https://cloud.google.com/bigquery/docs/reference/standard-sql/export-statements"""

PART_BYTES = 2**25
"""The size of the first Parquet files of a load."""
PARTS_OF_A_SIZE = 16
"""After so many the files double in size: a table takes 1,500 load jobs a day."""
LARGEST_PART_BYTES = 2**30
ROW_GROUP_BYTES = 2**23
UPLOADS = 2
QUICK_RETRY_S = 10.0
"""How long one request is sent again before the operation's own policy decides."""
STAGE_HOURS = 24
"""How long the tables of a load that was killed stay."""
ROWS_OF_A_FEW = 10_000
"""So many rows come with less ado as JSON."""
SHORTEST_POLL_S, LONGEST_POLL_S = 0.05, 2.0
DAYS = ("DATE", "DATETIME", "TIMESTAMP")
"""The types of a column whose days are partitions."""
MOST_CLUSTERED = 4
"""So many columns at most sort a table's blocks."""


class BigQuery(Warehouse):
    """A dataset of BigQuery.

    Example:
        Load a saved block and ask something:
        ```python
        from connectors.bigquery import BigQuery

        warehouse = BigQuery.load("BLOCK_NAME")
        warehouse.fetch_all("select 1")
        ```
    """

    _block_type_name: ClassVar[str] = "ETL BigQuery"
    _block_type_slug: ClassVar[str] = "etl-big-query"
    _documentation_url: ClassVar[Any] = HttpUrl("https://cloud.google.com/bigquery/docs")
    _logo_url: ClassVar[Any] = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/10424e311932e31c477ac2b9ef3d53cefbaad708-250x250.png"
    )

    gcp_credentials: GcpCredentials = Field(
        default_factory=GcpCredentials, description="Who is asking; by default the machine's own identity."
    )
    dataset: str = Field(
        pattern=f"^{DATASET_NAME}$", description="The dataset of tables that are named without one; it has to exist."
    )
    project: str | None = Field(
        default=None, description="The project that holds the dataset and runs the jobs; by default the identity's."
    )
    location: str | None = Field(
        default=None, description="Where the dataset is, such as 'EU'; by default the dataset is asked once."
    )
    maximum_bytes_billed: int | None = Field(
        default=None, gt=0, description="A query that would read more bytes fails without cost; by default no limit."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels of every job, beside those of the flow run and the load."
    )
    request_timeout_s: float = Field(
        default=60.0, gt=0, description="How long a request may go without an answer, in seconds."
    )
    use_storage_api: bool = Field(
        default=True, description="Read large results through the Storage Read API, where it is installed and allowed."
    )
    storage_endpoint_url: str | None = Field(
        default=None,
        description="The address of a Storage Read API other than Google's; http:// means without TLS.",
    )

    def uri(self, table: str = "") -> str:
        """`bigquery://project/dataset.table`."""
        project = self.project or self.gcp_credentials.project or ""
        name = table if "." in table or " " in table or not table else f"{self.dataset}.{table}"
        return f"bigquery://{project}/{name or self.dataset}"

    @property
    def dialect(self) -> Dialect:
        """The SQL of BigQuery."""
        return BigQueryDialect()

    @operation
    def check(self) -> str:
        """One sentence that says that the dataset is reached and that queries may be run; nothing is billed."""
        with contextlib.closing(BigQuerySession(self)) as session:
            location = session.location
            session.dry_run("SELECT 1")
        return f"{self.uri()} answers (location {location}), and jobs may be run in its project."

    @operation
    def estimate_bytes(self, query: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many bytes a query would read, and be billed for; it is checked and not run.

        Raises:
            InvalidInputError: It is wrong.
        """
        with contextlib.closing(BigQuerySession(self)) as session:
            return session.dry_run(query, parameters)

    @operation
    def copy_from(
        self,
        bucket: ObjectStore,
        prefix: str,
        table: str,
        *,
        load_id: str,
        file_format: Literal["parquet", "csv", "json"] = "parquet",
    ) -> LoadReport:
        """What BigQuery loaded straight from a folder of a GcsBucket into a table that is there; no data passes here.

        Columns meet by name (a CSV file has them in its first line, JSON is one object a line). Once for each
        `load_id`, as `load` does: a load job takes every file that is there then, also in the folders within, into a
        staging table, and a script puts its rows into the table and the load into the ledger.

        Raises:
            NotFoundError: There is no such table, or no file.
            InvalidInputError: The bucket is none of Google's, or a file does not fit; nothing was loaded.
        """
        files = f"{folder_address(bucket, prefix)}*"

        def copy(session: BulkSession, load_id: str) -> LoadReport:
            return cast("BigQuerySession", session).copy_once(files, table, load_id, file_format)

        return self._once(load_id, copy)

    @operation
    def extract_to(
        self, bucket: ObjectStore, prefix: str, source: str, *, file_format: Literal["parquet", "csv"] = "parquet"
    ) -> list[str]:
        """The keys of the files that BigQuery wrote straight into a folder of a GcsBucket; no data passes here.

        The folder holds the rows of `source` (a table, or a query) and nothing else afterwards: every other file, those
        of an earlier call for one, is deleted with the identity of `bucket`. The same call twice leaves each row once.
        A table is extracted without a query, which costs nothing; a view or a query is billed as a query.

        Raises:
            AmbiguousError: Nobody answers whether BigQuery still writes. A later call deletes what it wrote.
            NotFoundError: There is no such table, or no such bucket.
            InvalidInputError: The bucket is none of Google's, or CSV cannot hold a column (arrays and structs).
        """
        name = f"{folder_address(bucket, prefix)}{(run := uuid.uuid4().hex[:12])}-*.{file_format}"
        with contextlib.closing(BigQuerySession(self)) as session:
            session.extract(source, name, file_format)
        keys = [item["Key"] for item in bucket.list_objects(prefix)]
        written = [key for key in keys if key.rpartition("/")[2].startswith(run)]
        if stale := sorted(set(keys).difference(written)):
            bucket.delete_objects(stale)
        return sorted(written)

    @operation
    def create_table(
        self,
        table: str,
        schema: pa.Schema | Sequence[Any],
        *,
        partition_by: Sequence[str] = (),
        cluster_by: Sequence[str] = (),
    ) -> None:
        """Nothing. Creates an empty table; one that is there stays as it is, whatever its columns.

        Args:
            table: `table` or `dataset.table`.
            schema: An Arrow schema, or a list of `google.cloud.bigquery.SchemaField`.
            partition_by: The one column of dates or times whose days are the partitions.
            cluster_by: Up to four columns by which the rows of a partition are sorted.

        Raises:
            SchemaError: BigQuery takes no column of that name, or has no such type.
            InvalidInputError: The columns named in `partition_by` are not one of dates or times.
        """
        if isinstance(schema, pa.Schema):
            fields = [schema_field(field, self.dialect) for field in schema]
        else:
            fields = list(schema)
        days = {field.name for field in fields if field.field_type.upper() in DAYS}
        if len(partition_by) > 1 or not days.issuperset(partition_by):
            raise InvalidInputError("partition_by takes one column of type DATE, DATETIME or TIMESTAMP.")
        with contextlib.closing(BigQuerySession(self)) as session:
            session.create_table(table, fields, next(iter(partition_by), None), list(cluster_by))

    @operation
    def create_external_table(
        self,
        table: str,
        bucket: ObjectStore,
        prefix: str,
        *,
        file_format: Literal["parquet", "csv", "json"] = "parquet",
    ) -> None:
        """Nothing. Creates a table whose rows stay in a folder of a GcsBucket and are read there by each query.

        Its columns are what the files say. A table that is there stays as it is.

        Raises:
            InvalidInputError: The bucket is none of Google's.
        """
        files = f"{folder_address(bucket, prefix)}*"
        with contextlib.closing(BigQuerySession(self)) as session:
            session.create_external_table(table, files, FILE_FORMATS[file_format]["source_format"])

    def get_client(self) -> Any:
        """The block's `google.cloud.bigquery.Client`, for everything that this block has no method for."""
        return self._cached(
            "client",
            lambda: self.gcp_credentials.get_bigquery_client(project=self.project, location=self.location),
        )

    def dbt_output(self) -> dict[str, Any]:
        """This dataset as the output of a dbt profile.

        Raises:
            UnsupportedError: dbt cannot ask as this identity.
        """
        output = self.gcp_credentials.dbt_output() | {
            "type": "bigquery",
            "project": self.project or self.gcp_credentials.get_project(),
            "dataset": self.dataset,
            "location": self.location,
            "maximum_bytes_billed": self.maximum_bytes_billed,
        }
        return {name: value for name, value in output.items() if value is not None}

    def close(self) -> None:
        """Nothing. Drops what the block keeps open; the next call opens it again."""
        with self._lock:
            if client := self._live.pop("storage", None):
                client.transport.close()
        super().close()

    def scan(self, source: str, parameters: Parameters | None = None) -> Scan:
        """A Scan of a table, or of a query (anything with a blank in it), with exact Arrow types.

        A table is read as it is, without a query: that costs nothing but the bytes that are read.
        """
        if re.search(r"\s", source.strip()):
            return super().scan(source, parameters)
        return self._scan_table(source)

    @operation
    def read_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table, or some of its columns, as one Arrow table."""
        return self._scan_table(table, columns).to_arrow()

    def _scan_table(self, table: str, columns: Sequence[str] | None = None) -> Scan:
        def find_schema() -> pa.Schema:
            def describe() -> pa.Schema:
                with contextlib.closing(BigQuerySession(self)) as session:
                    return session.stream_table(table, columns)[0]

            return call_with_retry(self.retry, describe)

        def open_batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
            with contextlib.closing(BigQuerySession(self)) as session:
                yield from session.stream_table(table, columns)[1]

        return Scan(find_schema, open_batches, source=self.uri(table), fingerprint=lambda: f"{table} {columns}")

    def _connect(self) -> Session:
        return BigQuerySession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return BigQuerySession(self, load_id)

    def storage_client(self) -> Any:
        """The client of the Storage Read API, None where the block, or an emulator's address, says not to use it."""
        if not self.use_storage_api or (self.gcp_credentials.endpoint_url and not self.storage_endpoint_url):
            return None
        return self._cached("storage", self._make_storage_client)

    def _make_storage_client(self) -> Any:
        storage = require("google.cloud.bigquery_storage", extra="bigquery")
        if not (url := self.storage_endpoint_url):
            return storage.BigQueryReadClient(credentials=self.gcp_credentials.get_credentials_from_service_account())
        address = url.partition("://")[2]
        if not url.startswith("http://"):
            credentials = self.gcp_credentials.get_credentials_from_service_account()
            return storage.BigQueryReadClient(credentials=credentials, client_options={"api_endpoint": address})
        channel = require("grpc", extra="bigquery").insecure_channel(address)
        transport = storage.BigQueryReadClient.get_transport_class("grpc")(channel=channel)
        return storage.BigQueryReadClient(transport=transport)


class BigQueryDialect(Dialect):
    """Names are kept as written; columns are found whatever their case, tables only as they are written.

    Partitions are replaced by DELETE and INSERT within the script. A load job that overwrites `table$20260430` would do
    less work, but it commits by itself: the rows would be there without their row in the ledger if the loader died in
    between, and the rows of several partitions not at one moment.
    """

    literals: ClassVar[str] = LITERALS
    case_counts: ClassVar[bool] = False
    ddl_commits: ClassVar[bool] = True

    @cached_property
    def _types(self) -> dict[pa.DataType, str]:
        return {
            pa.bool_(): "BOOL",
            pa.int64(): "INT64",
            pa.float64(): "FLOAT64",
            pa.string(): "STRING",
            pa.binary(): "BYTES",
            pa.date32(): "DATE",
            pa.timestamp("us"): "DATETIME",
            pa.timestamp("us", "UTC"): "TIMESTAMP",
            pa.time64("us"): "TIME",
            pa.json_(): "JSON",
        }

    def name(self, name: str) -> str:
        """A quoted identifier, kept exactly as written."""
        return "`" + name.replace("\\", "\\\\").replace("`", "\\`").replace("\n", "\\n") + "`"

    def column(self, name: str, kind: pa.DataType) -> Column:
        """A new column for an Arrow type.

        Raises:
            SchemaError: BigQuery takes no column of that name.
        """
        check_name(name)
        stored = stored_type(kind)
        # A load job fills no JSON column from Parquet; the text is parsed on its way into the table.
        stage_type = "STRING" if stored == pa.json_() else None
        return Column(name, self._sql_type(stored), stored, stage_type=stage_type)

    def _sql_type(self, kind: pa.DataType, *, within: bool = False) -> str:
        if (sql_type := self._types.get(kind)) and not (within and sql_type == "JSON"):
            return sql_type
        if pa.types.is_decimal(kind):
            precision, scale = kind.precision, kind.scale
            # https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#parameterized_decimal_type
            if 0 <= scale <= 9 and precision - scale <= 29:  # noqa: PLR2004
                return f"NUMERIC({precision},{scale})"
            if 0 <= scale <= 38 and precision - scale <= 38:  # noqa: PLR2004
                return f"BIGNUMERIC({precision},{scale})"
        if pa.types.is_list(kind) and not pa.types.is_list(kind.value_type):
            return f"ARRAY<{self._sql_type(kind.value_type, within=True)}>"
        if pa.types.is_struct(kind):
            for field in kind:
                check_name(field.name)
            fields = (f"{self.name(field.name)} {self._sql_type(field.type, within=True)}" for field in kind)
            return f"STRUCT<{', '.join(fields)}>"
        raise TypeLossError(f"BigQuery has no type that holds every {kind}. Cast it, to text for example.")

    def create_table(
        self,
        table: str,
        columns: Sequence[Column],
        *,
        key: Sequence[str] = (),
        unique: bool | None = None,  # noqa: ARG002 (BigQuery enforces no key)
        partition_by: Sequence[str] = (),
    ) -> str:
        """The statement that creates the table, partitioned by day of the first date or time of `partition_by`.

        It is sorted (clustered) by the other columns of `partition_by`, or by `key`, as far as their types allow.
        """
        parts = ", ".join(f"{self.name(c.name)} {c.sql_type}" + (" NOT NULL" if c.name in key else "") for c in columns)
        types = {column.name: column.sql_type for column in columns}
        day = next((name for name in partition_by if types[name] in DAYS), None)
        statement = f"CREATE TABLE IF NOT EXISTS {self.table(table)} ({parts})"
        if day is not None:
            whole = types[day] == "DATE"
            statement += f" PARTITION BY {self.name(day) if whole else f'{types[day]}_TRUNC({self.name(day)}, DAY)'}"
        sorts = re.compile(r"BOOL|INT64|STRING|DATE|DATETIME|TIMESTAMP|(BIG)?NUMERIC.*")
        clustered = [name for name in partition_by or key if name != day and sorts.fullmatch(types[name])]
        if clustered:
            statement += f" CLUSTER BY {self.names(clustered[:MOST_CLUSTERED])}"
        return statement

    def create_stage(self, stage: str, columns: Sequence[Column]) -> str:
        """The statement that creates a table that goes by itself after a day."""
        parts = ", ".join(f"{self.name(column.name)} {column.stage_type or column.sql_type}" for column in columns)
        expiry = f"TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL {STAGE_HOURS} HOUR)"
        return f"CREATE TABLE {self.name(stage)} ({parts}) OPTIONS(expiration_timestamp = {expiry})"

    def staged(self, column: Column) -> str:
        """The value of a staged row `s` in the column's own type."""
        return f"PARSE_JSON(s.{self.name(column.name)})" if column.stage_type else super().staged(column)

    def truncate(self, table: str) -> str:
        """The statement that empties the table; unlike TRUNCATE it says how many rows it held."""
        return f"{super().truncate(table)} WHERE TRUE"


def check_name(name: str) -> None:
    """Nothing, or the error that says why BigQuery takes no column of that name."""
    if not COLUMN_NAME.fullmatch(name) or "\n" in name:
        raise SchemaError(
            f"BigQuery takes no column of the name {name!r}: at most 300 letters, digits, blanks and _-&%=+:'<>#|. "
            "Rename it."
        )
    if RESERVED_NAMES.match(name):
        raise SchemaError(f"BigQuery keeps names that begin like {name!r} for itself. Rename the column.")


def stored_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (one rule a line)
    """The Arrow type in which BigQuery keeps values of `kind`."""
    kind, types = plain_type(kind), pa.types
    if types.is_null(kind) or isinstance(kind, pa.UuidType):
        return pa.string()
    if types.is_integer(kind):
        return pa.decimal128(20, 0) if kind == pa.uint64() else pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_timestamp(kind) and kind.unit in ("s", "ms"):
        return pa.timestamp("us", kind.tz)
    if types.is_time(kind) and kind.unit != "ns":
        return pa.time64("us")
    if types.is_list(kind):
        return pa.list_(stored_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, stored_type(field.type)) for field in kind])
    return kind


def arrow_type(field: Any) -> pa.DataType:
    """The Arrow type of a column that BigQuery describes.

    Raises:
        UnsupportedError: It has none.
    """
    if field.mode == "REPEATED":
        return pa.list_(_value_type(field))
    return _value_type(field)


def _value_type(field: Any) -> pa.DataType:
    kind = field.field_type.upper()
    if kind in ("NUMERIC", "BIGNUMERIC", "DECIMAL", "BIGDECIMAL"):
        widest = (76, 38) if kind.startswith("BIG") else (38, 9)
        precision, scale = (field.precision, field.scale or 0) if field.precision else widest
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)  # noqa: PLR2004
    if kind in ("RECORD", "STRUCT"):
        return pa.struct([pa.field(inner.name, arrow_type(inner)) for inner in field.fields])
    known = {
        "BOOL": pa.bool_(),
        "BOOLEAN": pa.bool_(),
        "BYTES": pa.binary(),
        "DATE": pa.date32(),
        "DATETIME": pa.timestamp("us"),
        "FLOAT": pa.float64(),
        "FLOAT64": pa.float64(),
        "GEOGRAPHY": pa.string(),
        "INT64": pa.int64(),
        "INTEGER": pa.int64(),
        "JSON": pa.json_(),
        "STRING": pa.string(),
        "TIME": pa.time64("us"),
        "TIMESTAMP": pa.timestamp("us", "UTC"),
    }
    if kind not in known:
        raise UnsupportedError(f"Column {field.name!r} is of BigQuery's type {kind}; cast it in a query, to STRING.")
    return known[kind]


def schema_field(field: pa.Field, dialect: Dialect) -> Any:
    """Google's description of a column of an Arrow type.

    Raises:
        SchemaError: BigQuery takes no column of that name, or has no such type.
    """
    bigquery = require("google.cloud.bigquery", extra="bigquery")
    column = dialect.column(field.name, field.type)
    kind, mode = column.arrow_type, "NULLABLE" if field.nullable else "REQUIRED"
    if pa.types.is_list(kind):
        column, mode = dialect.column(field.name, kind.value_type), "REPEATED"
        kind = column.arrow_type
    if pa.types.is_struct(kind):
        inner = [schema_field(part, dialect) for part in kind]
        return bigquery.SchemaField(field.name, "RECORD", mode, fields=inner)
    exact = {"precision": kind.precision, "scale": kind.scale} if pa.types.is_decimal(kind) else {}
    return bigquery.SchemaField(field.name, column.sql_type.partition("(")[0], mode, **exact)


def sql_type(field: Any) -> str:
    """BigQuery's own name of a column's type, as in DDL."""
    kind = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}.get(
        field.field_type, field.field_type
    )
    if kind == "STRUCT":
        kind += f"<{', '.join(f'`{inner.name}` {sql_type(inner)}' for inner in field.fields)}>"
    elif field.precision:
        kind += f"({field.precision},{field.scale or 0})"
    elif field.max_length:
        kind += f"({field.max_length})"
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind


class BigQuerySession(ScriptedSession):
    """Jobs of one caller. A transaction is collected, and run as one script when it is committed."""

    def __init__(self, block: BigQuery, load_id: str | None = None) -> None:
        self._block = block
        self._client = block.get_client()
        self._dialect = block.dialect
        self._labels = labels_of(block.labels, load_id)
        self._pending: list[tuple[str, Mapping[str, Any]]] | None = None
        self._staged: set[str] = set()
        # The try's own names, so that what a dead try still does is nobody's rows.
        self._try = uuid.uuid4().hex[:12]
        digest = self._digest(load_id) if load_id else "none"
        self.stage = f"_etl_stage_{digest}_{self._try}"
        self.staged_rejects = f"_etl_rejects_{digest}_{self._try}"
        self.staged_keys = f"_etl_keys_{digest}_{self._try}"

    # --- statements ---

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows the statement changed; -1 where BigQuery does not say, and within a transaction."""
        if self._pending is not None:
            self._pending.append((sql, parameters or {}))
            return -1
        job = self._query(sql, parameters)
        return -1 if job.num_dml_affected_rows is None else int(job.num_dml_affected_rows)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """The rows of a query."""
        rows = self._result(self._query(sql, parameters), size)
        with self._translated(f"read rows from {self._block.uri()}"):
            return [tuple(row.values()) for row in rows]

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The result of a query."""
        job = self._query(sql, parameters)
        return self._arrow(self._result(job), job.destination)

    def stream_table(self, table: str, columns: Sequence[str] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """A table's rows, without a query; a view is one, and is asked."""
        with self._translated(f"read {self._block.uri(table)}"):
            found = self._client.get_table(self._reference(table), **self._patience)
        if found.table_type not in ("TABLE", "SNAPSHOT"):
            names = self._dialect.names(columns) if columns else "*"
            return self.stream(f"SELECT {names} FROM {self._dialect.table(table)}")
        fields = {field.name.lower(): field for field in found.schema}
        if unknown := [name for name in columns or () if name.lower() not in fields]:
            raise NotFoundError(f"{self._block.uri(table)} has no column {unknown[0]!r}.")
        selected = [fields[name.lower()] for name in columns] if columns else None
        with self._translated(f"read {self._block.uri(table)}"):
            rows = self._client.list_rows(found, selected_fields=selected, **self._patience)
        return self._arrow(rows, found.reference, [field.name for field in selected or ()])

    def begin(self) -> None:
        """Start to collect statements."""
        self._pending = []

    def commit(self) -> None:
        """Run what was collected as one script."""
        collected, self._pending = self._pending or [], None
        if not collected:
            return
        statements, parameters = [], []
        for number, (sql, values) in enumerate(collected):
            text, bound = self._bound(sql, values, prefix=f"p{number}_")
            statements.append(text.strip().rstrip(";"))
            parameters += bound
        script = ";\n".join(["BEGIN TRANSACTION", *statements, "COMMIT TRANSACTION"])
        self._run(script, parameters, ambiguous=True)

    def rollback(self) -> None:
        """Forget what was collected."""
        self._pending = None

    def close(self) -> None:
        """Nothing is kept open."""
        self._pending = None

    def dry_run(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """How many bytes the query would read, after BigQuery has looked whether it is right."""
        text, bound = self._bound(sql, parameters or {})
        with self._translated(f"check a query in {self._block.uri()}"):
            config = self._config(bound, dry_run=True, use_query_cache=False)
            job = self._client.query(text, config, location=self.location, job_retry=None, **self._patience)
        return int(job.total_bytes_processed or 0)

    def create_table(self, table: str, fields: list[Any], day: str | None, cluster_by: list[str]) -> None:
        """Create a table where there is none, with a partition for each day of a column."""
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        wanted = bigquery.Table(self._reference(table), schema=fields)
        if day is not None:
            wanted.time_partitioning = bigquery.TimePartitioning(field=day)
        if cluster_by:
            wanted.clustering_fields = cluster_by
        with self._translated(f"create {self._block.uri(table)}"):
            self._client.create_table(wanted, exists_ok=True, **self._patience)

    def create_external_table(self, table: str, files: str, source_format: str) -> None:
        """Create a table over files, where there is none."""
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        wanted, config = bigquery.Table(self._reference(table)), bigquery.ExternalConfig(source_format)
        config.source_uris, config.autodetect = [files], True
        wanted.external_data_configuration = config
        with self._translated(f"create {self._block.uri(table)}"):
            self._client.create_table(wanted, exists_ok=True, **self._patience)

    def extract(self, source: str, files: str, file_format: str) -> None:
        """Write the rows of a table, a view or a query to files that are not there yet."""
        if re.search(r"\s", source.strip()):
            self._export(source.strip().rstrip(";"), files, file_format)
            return
        with self._translated(f"look up {self._block.uri(source)}"):
            found = self._client.get_table(self._reference(source), **self._patience)
        if found.table_type != "TABLE":
            self._export(f"SELECT * FROM {self._dialect.table(source)}", files, file_format)
            return
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        config = bigquery.ExtractJobConfig(**EXTRACTS[file_format], labels=self._labels)
        job_id = f"etl_{uuid.uuid4().hex}"

        def begin() -> Any:
            return self._client.extract_table(
                found.reference, files, job_id=job_id, location=self.location, job_config=config, **self._patience
            )

        self._finished(lambda: self._submitted(begin, job_id), ambiguous=True)

    def _export(self, query: str, files: str, file_format: str) -> None:
        options = f"uri = {literal(files)}, {EXPORTS[file_format]}, overwrite = TRUE"
        self._run(f"EXPORT DATA OPTIONS({options}) AS\n{query}", [], ambiguous=True)

    # --- bulk ---

    def columns(self, table: str) -> list[Column] | None:
        """The columns of a table."""
        try:
            with self._translated(f"describe {self._block.uri(table)}"):
                found = self._client.get_table(self._reference(table), **self._patience)
        except NotFoundError:
            return None
        return [
            Column(
                field.name,
                sql_type(field),
                arrow_type(field),
                nullable=field.mode != "REQUIRED",
                has_default=field.default_value_expression is not None,
                stage_type="STRING" if field.field_type == "JSON" else None,
            )
            for field in found.schema
        ]

    def ingest(self, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, stage: bool = False) -> int:
        """Load the batches as Parquet files, which are made while the ones before are uploaded."""
        if stage:
            self._staged.add(table)
        target = self._reference(table)
        run = uuid.uuid4().hex[:8]

        def load(part: tuple[int, Any, int]) -> int:
            number, file, rows = part
            with file:
                return self._load(file, target, rows, f"etl_{self._try}_{run}_{number}")

        return sum(ordered_map(load, parquet_files(schema, batches), workers=UPLOADS))

    def _load(self, file: Any, target: Any, rows: int, job_id: str) -> int:
        config, size = self._load_config("parquet"), file.tell()

        def upload() -> Any:
            return self._client.load_table_from_file(
                file,
                target,
                rewind=True,
                size=size,
                num_retries=1,
                job_id=job_id,
                location=self.location,
                job_config=config,
                timeout=self._block.request_timeout_s,
            )

        job = self._checked(self._waited(self._submitted(upload, job_id)))
        if job.output_rows != rows:
            raise TerminalError(
                f"{self._block.uri(target.table_id)}: {rows} rows were sent and job {job_id} loaded {job.output_rows}. "
                "Nothing was committed."
            )
        return rows

    def _load_config(self, file_format: str) -> Any:
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        options = dict(FILE_FORMATS[file_format])
        if file_format == "parquet":
            options["parquet_options"] = bigquery.ParquetOptions()
            options["parquet_options"].enable_list_inference = True
        return bigquery.LoadJobConfig(
            write_disposition="WRITE_APPEND",
            create_disposition="CREATE_NEVER",
            labels=self._labels,
            **options,
        )

    def _load_from(self, files: str, table: str, file_format: str) -> int:
        """How many rows a load job took from the files into a table."""
        job_id, config = f"etl_{self._try}_copy", self._load_config(file_format)

        def begin() -> Any:
            return self._client.load_table_from_uri(
                files,
                self._reference(table),
                job_id=job_id,
                location=self.location,
                job_config=config,
                **self._patience,
            )

        return int(self._checked(self._waited(self._submitted(begin, job_id))).output_rows)

    def copy_once(self, files: str, table: str, load_id: str, file_format: str) -> LoadReport:
        """What a load job took from the files, in one script with its row in the ledger, or what another try had."""
        ledger, started = Ledger(self._dialect), dt.datetime.now(dt.UTC)
        if (report := find_report(ledger, self, load_id)) is not None:
            return report.model_copy(update={"already_loaded": True})
        if (columns := self.columns(table)) is None:
            raise NotFoundError(f"There is no table {self._block.uri(table)}.")
        if file_format != "parquet":  # from text a load job fills a JSON column itself
            columns = [dataclasses.replace(column, stage_type=None) for column in columns]
        ledger.create(self)
        plan = LoadPlan(table=table, mode="append", creates_table=False, ddl=(), columns=())
        try:
            self.create_stage(self._dialect, self.stage, columns)
            rows = self._load_from(files, self.stage, file_format)
            report = LoadReport(
                load_id=load_id,
                table=table,
                mode="append",
                rows=rows,
                inserted=rows,
                started_at=started,
                finished_at=dt.datetime.now(dt.UTC),
            )
            script = Script(
                load_id,
                (Step(self._dialect.insert(table, columns, self.stage), "inserted"),),
                rows,
                claimed(load_id, plan, started) | recorded(report),
            )
            try:
                self.run_script(script)
            except AlreadyExistsError:
                raise TransientError(
                    f"Another try of load {load_id} was faster; its report is in the ledger."
                ) from None
        finally:
            with contextlib.suppress(ConnectorError):
                self.discard(self.stage)
        return report

    def create_stage(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> None:
        """Make a staging table, to be dropped in the end."""
        self._staged.add(table)
        super().create_stage(dialect, table, columns)

    def discard(self, table: str) -> None:
        """Drop a staging table; one that cannot be dropped now goes by itself after a day."""
        if table in self._staged:
            with self._translated(f"drop {self._block.uri(table)}"):
                self._client.delete_table(self._reference(table), not_found_ok=True, **self._patience)

    # --- the transaction of a load ---

    def run_script(self, script: Script) -> None:
        """Run the transaction as the job of this load, or wait for another try that does.

        The job's id is the lock: it is made of the load and a generation, and the next generation begins only after the
        job of the one before was seen to fail. So one job of a load runs at a time, whoever sends it how often.
        """
        sql, parameters = self._transaction(script)
        generation, unknown = 0, False

        def attempt() -> Any:
            nonlocal generation, unknown
            while True:
                unknown = True
                job = self._waited(self._begun(sql, parameters, self._job_id(script.load_id, generation)))
                unknown = False
                if not job.error_result:
                    return job
                generation += 1
                if self._is_mine(job):
                    raise job_error(job, self._block.uri())

        try:
            job = call_with_retry(self._block.retry, attempt)
        except TransientError as error:
            if not unknown:
                raise
            self._staged.clear()  # the job may still read them: they go by themselves after a day
            raise AmbiguousError(str(error)) from None
        if not self._is_mine(job):
            raise AlreadyExistsError(f"Job {job.job_id} of another try has committed load {script.load_id}.")

    def end_other_tries(self, load_id: str) -> None:
        """Wait until no job of this load runs."""
        generation = 0
        while (job := self._look_up(self._job_id(load_id, generation))) is not None:
            self._waited(job)
            generation += 1

    def _transaction(self, script: Script) -> tuple[str, list[Any]]:
        """The script and its parameters.

        The ledger's row is inserted whole, at the end: an UPDATE of it would make any two loads of the dataset
        conflict, as BigQuery tells transactions apart by table. https://cloud.google.com/bigquery/docs/transactions
        """
        ledger = self._dialect.table(LEDGER)
        counts = {step.counts_as: f"etl_{step.counts_as}" for step in script.steps if step.counts_as}
        lines = [
            "DECLARE etl_inserted, etl_updated, etl_deleted INT64 DEFAULT 0",
            "BEGIN TRANSACTION",
            f"IF EXISTS (SELECT 1 FROM {ledger} WHERE load_id = @load_id) THEN {raising(CLAIMED)}",
        ]
        for step in script.steps:
            lines.append(step.sql)
            if step.counts_as:
                lines.append(f"SET {counts[step.counts_as]} = @@row_count")
        lines.append(f"IF etl_inserted + etl_updated <> @etl_rows THEN {raising(UNEQUAL)}")
        row = script.ledger_row
        values = {name: f":{name}" for name in row}
        for name, variable in counts.items():
            unknown, known = f"'\"{name}\":{COUNT_UNKNOWN}'", f"CONCAT('\"{name}\":', CAST({variable} AS STRING))"
            values["report"] = f"REPLACE({values['report']}, {unknown}, {known})"
        insert = f"INSERT INTO {ledger} ({', '.join(row)}) VALUES ({', '.join(values.values())})"
        text, parameters = self._bound(insert, row)
        rows = require("google.cloud.bigquery", extra="bigquery").ScalarQueryParameter("etl_rows", "INT64", script.rows)
        return ";\n".join([*lines, text, "COMMIT TRANSACTION"]), [*parameters, rows]

    def _is_mine(self, job: Any) -> bool:
        return self.stage in (job.query or "")

    def _digest(self, load_id: str) -> str:
        return hashlib.sha256(f"{self._block.dataset}\0{load_id}".encode()).hexdigest()[:32]

    def _job_id(self, load_id: str, generation: int) -> str:
        return f"etl_load_{self._digest(load_id)}_{generation}"

    # --- jobs ---

    @property
    def location(self) -> str:
        """Where the dataset is: outside of the US and the EU a job is found only by who knows that."""

        def ask() -> str:
            with self._translated(f"look up {self._block.uri()}"):
                dataset = self._client.get_dataset(self._block.dataset, **self._patience)
            return str(dataset.location)

        return self._block.location or self._block._cached("location", ask)  # noqa: SLF001 (its own session)

    @property
    def _patience(self) -> dict[str, Any]:
        """How long a request waits for its answer, and is sent again where that changes nothing."""
        retry = require("google.cloud.bigquery.retry", extra="bigquery").DEFAULT_RETRY
        return {"retry": retry.with_timeout(QUICK_RETRY_S), "timeout": self._block.request_timeout_s}

    def _reference(self, table: str) -> Any:
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        *project, dataset, name = [self._block.dataset, *table.split(".")][-3 if table.count(".") > 1 else -2 :]
        return bigquery.TableReference(
            bigquery.DatasetReference(project[0] if project else self._client.project, dataset), name
        )

    def _config(self, parameters: list[Any], **options: Any) -> Any:
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        default = bigquery.DatasetReference(self._client.project, self._block.dataset)
        if self._block.maximum_bytes_billed:
            options["maximum_bytes_billed"] = self._block.maximum_bytes_billed
        return bigquery.QueryJobConfig(
            default_dataset=default, query_parameters=parameters, labels=self._labels, **options
        )

    def _bound(self, sql: str, values: Mapping[str, Any], prefix: str = "") -> tuple[str, list[Any]]:
        """The statement with `@name` for `:name`, and its typed parameters. A null needs no type where it stands."""
        used: dict[str, Any] = {}

        def placeholder(name: str) -> str:
            if values[name] is None:
                return "NULL"
            used[name] = query_parameter(prefix + name, values[name])
            return f"@{prefix}{name}"

        return (bind(sql, values, placeholder, literals=LITERALS) if values else sql), list(used.values())

    def _query(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        """The finished job of a statement."""
        if self._pending is not None:
            raise UnsupportedError("Within a transaction BigQuery's statements are collected; nothing can be fetched.")
        text, bound = self._bound(sql, parameters or {})
        return self._run(text, bound, ambiguous=not is_query(text))

    def _run(self, sql: str, parameters: list[Any], *, ambiguous: bool) -> Any:
        """The finished job of a statement, or of a script.

        Raises:
            AmbiguousError: Nobody answers whether it ran, where that matters.
        """
        job_id = f"etl_{uuid.uuid4().hex}"
        return self._finished(lambda: self._begun(sql, parameters, job_id), ambiguous=ambiguous)

    def _finished(self, begin: Callable[[], Any], *, ambiguous: bool) -> Any:
        """The job that `begin` begins, once it has done its work."""
        try:
            job = self._waited(begin())
        except ThrottledError:
            raise
        except TransientError as error:
            raise (AmbiguousError(str(error)) if ambiguous else error) from None
        return self._checked(job)

    def _result(self, job: Any, size: int | None = None) -> Any:
        with self._translated(f"read the result of job {job.job_id} in {self._block.uri()}"):
            return job.result(max_results=size, job_retry=None, **self._patience)

    def _begun(self, sql: str, parameters: list[Any], job_id: str) -> Any:
        """The job of that id, begun now or before."""

        def begin() -> Any:
            return self._client.query(
                sql,
                self._config(parameters),
                job_id=job_id,
                location=self.location,
                job_retry=None,
                **self._patience,
            )

        return self._submitted(begin, job_id)

    def _submitted(self, begin: Callable[[], Any], job_id: str) -> Any:
        """The job that `begin` begins; where its answer is lost, or tells of a job of that id, that one.

        Raises:
            TransientError: There is no such job, or it could not be looked up.
        """
        lost: ConnectorError | None = None
        for _ in range(2):  # what never arrived is sent once more; the id keeps both from running
            try:
                with self._translated(f"run job {job_id} in {self._block.uri()}"):
                    return begin()
            except (AlreadyExistsError, TransientError) as error:
                if (job := self._look_up(job_id)) is not None:
                    return job
                lost = error
        raise TransientError(str(lost))

    def _look_up(self, job_id: str) -> Any:
        """The job, None where there is none."""
        try:
            with self._translated(f"look up job {job_id} in {self._block.uri()}"):
                return self._client.get_job(job_id, location=self.location, **self._patience)
        except NotFoundError:
            return None

    def _waited(self, job: Any) -> Any:
        """The job once it is done, whatever came of it."""
        pause = SHORTEST_POLL_S
        while job.state != "DONE":
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_S)
            with self._translated(f"watch job {job.job_id} in {self._block.uri()}"):
                job.reload(**self._patience)
        return job

    def _checked(self, job: Any) -> Any:
        """The job, which has done its work.

        Raises:
            ConnectorError: It failed.
        """
        if job.error_result:
            raise job_error(job, self._block.uri())
        return job

    def _arrow(self, rows: Any, table: Any, names: Sequence[str] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The rows' exact schema, and a stream of them; the many are read through the Storage API, from their table."""
        schema = pa.schema([pa.field(field.name, arrow_type(field)) for field in rows.schema])

        def batches() -> Iterator[pa.RecordBatch]:
            with self._translated(f"read rows from {self._block.uri()}"):
                many = rows.total_rows is None or rows.total_rows > ROWS_OF_A_FEW
                stored = self._stored(table, names) if many else None
                for batch in rows.to_arrow_iterable() if stored is None else stored:
                    # By position: the Storage API has names of its own for columns with unusual ones.
                    arrays = [cast_array(array, field.type) for array, field in zip(batch, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, batches()

    def _stored(self, table: Any, names: Sequence[str] | None) -> Iterator[pa.RecordBatch] | None:
        """The rows of a table in their order, None where the Storage API is not to be used."""
        client = self._block.storage_client()
        if client is None or table is None:
            return None
        types = require("google.cloud.bigquery_storage", extra="bigquery").types
        wanted = types.ReadSession(table=table.to_bqstorage(), data_format=types.DataFormat.ARROW)
        wanted.read_options.selected_fields = list(names or ())
        timeout = self._block.request_timeout_s
        try:
            with self._translated(f"read rows from {self._block.uri(table.table_id)}"):
                session = client.create_read_session(
                    parent=f"projects/{self._client.project}", read_session=wanted, max_stream_count=1, timeout=timeout
                )
        except (AccessDeniedError, UnsupportedError) as error:
            self._block.logger.warning("The Storage Read API is not used, and reading is slower: %s", error)
            return None

        def read() -> Iterator[pa.RecordBatch]:
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            for stream in session.streams:
                for answer in client.read_rows(stream.name, timeout=timeout):
                    data = pa.py_buffer(answer.arrow_record_batch.serialized_record_batch)
                    yield pa.ipc.read_record_batch(data, schema)

        return read()

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except ConnectorError:
            raise
        except Exception as error:  # noqa: BLE001 (several libraries' trees; what none of them knows is TerminalError)
            raise translate(error, action) from None


def parquet_files(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Any, int]]:
    """Number, file and rows of each Parquet file of the batches; a file stands at its end, and is gone when closed."""
    schema = pa.schema([(field.name, _in_parquet(field.type)) for field in schema])
    unread, number = iter(batches), 0
    for first in unread:
        limit = min(PART_BYTES << number // PARTS_OF_A_SIZE, LARGEST_PART_BYTES)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="etl-"))
            rows = 0
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in itertools.chain([first], unread):
                    arrays = []
                    for field, column in zip(schema, batch, strict=True):
                        check_nulls(field.name, column)
                        arrays.append(cast_array(column, field.type))
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                    rows += batch.num_rows
                    if file.tell() >= limit:
                        break
            if rows:
                stack.pop_all()
                yield number, file, rows
                number += 1


def _in_parquet(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def check_nulls(name: str, column: pa.Array) -> None:
    """Nothing, or the error that says that BigQuery would turn a null into something else.

    https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#array_nulls
    """
    if pa.types.is_struct(column.type):
        for index, field in enumerate(column.type):
            check_nulls(f"{name}.{field.name}", column.filter(column.is_valid()).field(index))
    if not pa.types.is_list(column.type):
        return
    values = pc.list_flatten(column)
    if column.null_count or values.null_count:
        raise SchemaError(
            f"Column {name!r}: BigQuery keeps no NULL instead of an array, nor within one. Fill or drop the nulls."
        )
    check_nulls(name, values)


def query_parameter(name: str, value: Any) -> Any:
    """A parameter of the value's own type.

    Raises:
        InvalidInputError: BigQuery has none.
    """
    bigquery = require("google.cloud.bigquery", extra="bigquery")
    if isinstance(value, (list, tuple)):
        kinds = {_parameter_type(name, item) for item in value}
        if len(kinds) != 1:
            raise InvalidInputError(f"Parameter {name!r}: a list needs items, and all of one type.")
        return bigquery.ArrayQueryParameter(name, kinds.pop(), list(value))
    return bigquery.ScalarQueryParameter(name, _parameter_type(name, value), value)


def _parameter_type(name: str, value: Any) -> str:
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        fits = isinstance(exponent, int) and exponent >= -9 and len(digits) + exponent <= 29  # noqa: PLR2004
        return "NUMERIC" if fits else "BIGNUMERIC"
    if isinstance(value, dt.datetime):
        return "DATETIME" if value.tzinfo is None else "TIMESTAMP"
    kinds = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING", bytes: "BYTES"}
    kinds |= {dt.date: "DATE", dt.time: "TIME"}
    for kind, sql in kinds.items():
        if isinstance(value, kind):
            return sql
    raise InvalidInputError(f"Parameter {name!r}: a {type(value).__name__} cannot be a parameter.")


def labels_of(labels: Mapping[str, str], load_id: str | None) -> dict[str, str]:
    """A job's labels: the block's, the flow run's id, and the load's as far as a label can hold it.

    >>> labels_of({"team": "x"}, "Orders 2026-04-30")
    {'team': 'x', 'etl_load': 'orders_2026-04-30'}
    """
    run = FlowRunContext.get()
    found = {"etl_flow_run": str(run.flow_run.id)} if run and run.flow_run else {}
    if load_id:
        found["etl_load"] = re.sub(r"[^a-z0-9_-]", "_", load_id.lower())[:63]
    return {**labels, **found}


def is_query(sql: str) -> bool:
    r"""Whether the statement only reads.

    >>> is_query("-- all of it\n(SELECT 1)"), is_query("INSERT INTO t SELECT 1")
    (True, False)
    """
    code = re.sub(r"(--|#)[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL)
    return re.match(r"[\s(]*(SELECT|WITH|FROM)\b", code, re.IGNORECASE) is not None and ";" not in code.rstrip(" \n;")


def folder_address(bucket: ObjectStore, prefix: str) -> str:
    """The address of a folder of a bucket, with a slash at its end.

    Raises:
        InvalidInputError: BigQuery cannot go there by itself.
    """
    address = bucket.uri(prefix.removesuffix("/")).rstrip("/") + "/"
    if not address.startswith("gs://"):
        raise InvalidInputError(f"BigQuery reads and writes Google Cloud Storage only, and {address} is elsewhere.")
    if "*" in address:
        raise InvalidInputError(f"BigQuery takes the * in {address} for a wildcard. Give the folder another name.")
    return address


def literal(text: str) -> str:
    r"""A text as BigQuery's SQL has it, where no parameter may stand.

    >>> print(literal("it's"))
    'it\'s'
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def raising(words: str) -> str:
    """How a script ends, and with it its transaction; ASSERT is not among the statements of one."""
    return f"RAISE USING MESSAGE = '{words}'; END IF"


def job_error(job: Any, uri: str) -> ConnectorError:
    """What a failed job says, as one of our errors."""
    words, reason = str(job.error_result.get("message", "")), str(job.error_result.get("reason"))
    place = f"job {job.job_id} in {uri}"
    if CLAIMED in words:
        return AlreadyExistsError(f"Could not finish {place}: {CLAIMED}.")
    if UNEQUAL in words:
        return TerminalError(
            f"Could not finish {place}: {UNEQUAL}. Nothing was committed. The table may hold a key more than once."
        )
    return service_error("finish", place, [reason], safe_words(words), table=_table(words), advice=ADVICE)


def translate(error: BaseException, action: str) -> ConnectorError:
    """The error of this package for one of Google's libraries'."""
    verb, _, place = action.partition(" ")
    while isinstance(inner := getattr(error, "cause", None), BaseException):  # of a retry that gave up
        error = inner
    words = getattr(error, "message", None)
    if isinstance(words, str) and hasattr(error, "errors"):
        shown: Any = type(error)
        error = shown(safe_words(words), errors=error.errors, response=getattr(error, "response", None))
    return google_error(verb, place, error, table=_table(words or ""), advice=ADVICE)


def _table(words: str) -> Mapping[str, type[ConnectorError]]:
    """The classes of the service's codes, in the light of what it says."""
    told = next((kind for pattern, kind in TOLD if re.search(pattern, words)), None)
    return dict.fromkeys(ERRORS, told) if told else ERRORS


def safe_words(words: str) -> str:
    """What of the service's words holds no value of a row.

    >>> safe_words("Not found: Table p:ds.t was not found in location US")
    'not found: Table p:ds.t was not found in location US'
    >>> safe_words("Bad int64 value: 4711")
    'its words are left out, as they may hold values'
    """
    found = NAMES_ONLY.search(words)
    return found[0][:1].lower() + found[0][1:].strip() if found else "its words are left out, as they may hold values"
