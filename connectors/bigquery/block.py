"""The block of BigQuery: a dataset, its tables, and the files that go in and out of it without passing here."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field, HttpUrl

from blocks.arrow.scan import Scan
from blocks.base.addresses import Address  # noqa: TC001 (pydantic reads it)
from blocks.base.errors import InvalidInputError
from blocks.base.live import live
from blocks.base.operation import operation
from blocks.base.optional import lazy, require
from blocks.base.retry import call_with_retry
from blocks.credentials.gcp import GcpCredentials
from blocks.files.options import check_format
from blocks.warehouses.copier import Copier
from blocks.warehouses.warehouse import Warehouse, check_one_given
from connectors.bigquery.dialect import DAYS, BigQueryDialect, schema_field
from connectors.bigquery.errors import translated
from connectors.bigquery.files import FILE_FORMATS, folder_address
from connectors.bigquery.held import BigQueryHeldSession
from connectors.bigquery.jobs import JobSettings, patience
from connectors.bigquery.session import BigQuerySession
from connectors.shared.requests import limit_silence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.arrow.rejects import Rejects
    from blocks.base.names import Key
    from blocks.stores.object_store import ObjectStore
    from blocks.warehouses.held import HeldSession
    from blocks.warehouses.load import LoadReport
    from blocks.warehouses.session import BulkSession, Session
    from blocks.warehouses.sql import Dialect
else:
    pa = lazy("pyarrow")

CONNECTIONS = 16
DATASET_NAME = r"[A-Za-z0-9_]{1,1024}"


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
    _renamed: ClassVar[dict[str, str]] = {"request_timeout_s": "read_timeout_s"}

    gcp_credentials: GcpCredentials = Field(
        default_factory=GcpCredentials, description="Google credentials. Defaults to the ambient identity."
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
    lock_timeout_s: float = Field(
        default=900.0,
        gt=0,
        description="Seconds to go on with a load that BigQuery aborts because another one changes the same table. "
        "Defaults to 900.",
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer, or a byte of it. Defaults to 60."
    )
    statement_timeout_s: float | None = Field(
        default=None, gt=0, description="Seconds that one query may run before BigQuery ends it. Defaults to no limit."
    )
    use_storage_api: bool = Field(
        default=True, description="Read large results through the Storage Read API, where it is installed and allowed."
    )
    storage_endpoint_url: Address | None = Field(
        default=None,
        description="The address of a Storage Read API other than Google's; http:// means without TLS.",
    )

    def uri(self, table: str = "") -> str:
        """`bigquery://project/dataset.table`."""
        project = self.project or self.gcp_credentials.project or ""
        name = table if not table or "." in table else f"{self.dataset}.{table}"
        return f"bigquery://{project}/{name or self.dataset}"

    @property
    def _database(self) -> str:
        return self.uri().rpartition("/")[0]  # a statement may name the table of another dataset

    @property
    def dialect(self) -> Dialect:
        """The SQL of BigQuery."""
        return BigQueryDialect()

    @operation
    def check(self) -> str:
        """Prove in one sentence that the dataset is reached and that queries may be run; nothing is billed."""
        with contextlib.closing(BigQuerySession(self)) as session:
            location = session.jobs.location
            session.dry_run("SELECT 1")
        return f"{self.uri()} answers (location {location}), and jobs may be run in its project."

    @operation
    def estimate_bytes(self, query: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Return how many bytes a query would read, and be billed for; it is checked and not run.

        Raises:
            InvalidInputError: It is wrong.
        """
        with contextlib.closing(BigQuerySession(self)) as session:
            return session.dry_run(query, parameters)

    @operation
    def copy_from(
        self,
        bucket: ObjectStore,
        prefix: Key,
        table: str,
        *,
        load_id: str,
        file_format: Literal["parquet", "csv", "jsonl"] = "parquet",
    ) -> LoadReport:
        """Have BigQuery load a folder of a GcsBucket into a table that is there; no data passes here.

        Columns meet by name (a CSV file has them in its first line, JSON is one object a line). Once for each
        `load_id`, as `load` does: a load job takes every file that is there then, also in the folders within, into a
        staging table, and a script puts its rows into the table and the load into the ledger.

        Raises:
            NotFoundError: There is no such table, or no file.
            InvalidInputError: The bucket is not one of Google's, or a file does not fit; nothing was loaded.
        """
        check_format(file_format, FILE_FORMATS)
        files = f"{folder_address(bucket, prefix)}*"

        def run(session: BulkSession, load_id: str) -> LoadReport:
            def copy(target: str) -> int:
                return cast("BigQuerySession", session).copy_files(files, target, file_format)

            return Copier(
                session,
                self.dialect,
                table,
                copy,
                uri=self.uri(table),
                load_id=load_id,
                casts=file_format == "parquet",  # from text a load job fills a JSON column itself
            ).run()

        return self._once(load_id, run, table=table, origins=[bucket.asset_key(prefix)])

    @operation
    def extract_to(
        self,
        bucket: ObjectStore,
        prefix: Key,
        table: str | None = None,
        *,
        query: str | None = None,
        file_format: Literal["parquet", "csv"] = "parquet",
    ) -> list[str]:
        """Have BigQuery write files into a folder of a GcsBucket, and return their keys; no data passes here.

        The folder holds the rows of the table, or of the query, and nothing else afterwards: every other file, those
        of an earlier call for one, is deleted with the identity of `bucket`. The same call twice leaves each row once.
        A table is extracted without a query, which costs nothing; a view or a query is billed as a query.

        Raises:
            AmbiguousError: Nobody answers whether BigQuery still writes. A later call deletes what it wrote.
            NotFoundError: There is no such table, or no such bucket.
            InvalidInputError: The bucket is not one of Google's, CSV cannot hold a column (arrays and structs), or not
                exactly one of `table` and `query` is given.
        """
        check_one_given(table, query)
        name = f"{folder_address(bucket, prefix)}{(run := uuid.uuid4().hex[:12])}-*.{file_format}"
        with contextlib.closing(BigQuerySession(self)) as session:
            if query is not None:
                session.export(query.strip().rstrip(";"), name, file_format)
            else:
                session.extract(str(table), name, file_format)
        keys = [info.key for page in bucket.objects.list(prefix) for info in page]
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
        """Create an empty table; one that is there stays as it is, whatever its columns.

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
        prefix: Key,
        *,
        file_format: Literal["parquet", "csv", "jsonl"] = "parquet",
    ) -> None:
        """Create a table whose rows stay in a folder of a GcsBucket and are read there by each query.

        Its columns are what the files say. A table that is there stays as it is.

        Raises:
            InvalidInputError: The bucket is not one of Google's.
        """
        check_format(file_format, FILE_FORMATS)
        files = f"{folder_address(bucket, prefix)}*"
        with contextlib.closing(BigQuerySession(self)) as session:
            session.create_external_table(table, files, FILE_FORMATS[file_format]["source_format"])

    def get_client(self) -> Any:
        """Return the block's `google.cloud.bigquery.Client`, for everything that this block has no method for.

        It is made at the first call and closed with the block.
        """
        return self._client

    def get_connection(self) -> Any:
        """Open a DB-API connection over the block's client, as prefect-gcp has it; the caller closes it."""
        dbapi = require("google.cloud.bigquery.dbapi", extra="bigquery")
        storage = self.storage_client()
        return dbapi.connect(self._client, storage, prefer_bqstorage_client=storage is not None)

    @live
    def _client(self) -> Any:
        client = self.gcp_credentials.get_bigquery_client(project=self.project, location=self.location)
        session = client._http  # noqa: SLF001 (no public way leads to the connections)
        limit_silence(session, self.read_timeout_s, connections=CONNECTIONS, extra="bigquery")
        return client

    def job_settings(self) -> JobSettings:
        """Return what every job is told."""
        return JobSettings(
            dataset=self.dataset,
            uri=self.uri(),
            locate=lambda: self.location or self.location_of_dataset,
            labels=self.labels,
            maximum_bytes_billed=self.maximum_bytes_billed,
            read_timeout_s=self.read_timeout_s,
            statement_timeout_s=self.statement_timeout_s,
            lock_timeout_s=self.lock_timeout_s,
        )

    @live
    def location_of_dataset(self) -> str:
        """Where the dataset is: outside of the US and the EU a job is found only by who knows that."""
        with translated(f"look up {self.uri()}"):
            return str(self._client.get_dataset(self.dataset, **patience(self.read_timeout_s)).location)

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
        """Close what the block keeps open: its clients. The next call opens them again."""
        with self._lock:
            if client := self._live.pop("_storage_client", None):
                client.transport.close()  # the client itself has no close
        super().close()

    def scan(self, table: str) -> Scan:
        """Describe a table as a Scan with exact Arrow types; for a query there is `scan_query`.

        Nothing is opened yet. It is read as it is, without a query: that costs nothing but the bytes that are read.
        """
        return self._scan_table(table)

    @operation
    def read_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a whole table, or some of its columns, into one Arrow table."""
        return self._scan_table(table, columns).to_arrow()

    def _scan_table(self, table: str, columns: Sequence[str] | None = None) -> Scan:
        def find_schema() -> pa.Schema:
            def describe() -> pa.Schema:
                with contextlib.closing(BigQuerySession(self)) as session:
                    return session.stream_table(table, columns)[0]

            with self._reading_table(table):
                return call_with_retry(self.retry, describe)

        def open_batches(_: Rejects | None) -> Iterator[pa.RecordBatch]:
            with self._reading_table(table), contextlib.closing(BigQuerySession(self)) as session:
                yield from session.stream_table(table, columns)[1]

        return Scan(
            find_schema,
            open_batches,
            source=self.uri(table),
            query=f"{columns}",
            origins=[self.asset_key(table)],
        )

    def _connect(self) -> Session:
        return BigQuerySession(self)

    def _connect_held(self) -> HeldSession:
        return BigQueryHeldSession(self)

    def _connect_bulk(self, load_id: str | None = None) -> BulkSession:
        return BigQuerySession(self, load_id)

    def storage_client(self) -> Any:
        """The client of the Storage Read API; None where the block turns it off or an emulator is used."""
        if not self.use_storage_api or (self.gcp_credentials.endpoint_url and not self.storage_endpoint_url):
            return None
        return self._storage_client

    @live
    def _storage_client(self) -> Any:
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
