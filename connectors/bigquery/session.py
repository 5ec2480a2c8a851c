"""Session with BigQuery: what a warehouse asks of it, as statements, load jobs and reads."""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from blocks.arrow.casts import cast_array
from blocks.base.concurrency import ordered_map
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    NotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.interruption import Calls, NoAnswerError, pause
from blocks.base.optional import lazy, require
from blocks.base.retry import call_with_retry
from blocks.warehouses.ledger import Ledger, find_report
from blocks.warehouses.session import Script, ScriptedSession
from blocks.warehouses.sql import Column
from connectors.bigquery.dialect import BigQueryDialect, arrow_type, sql_type
from connectors.bigquery.errors import ConflictError, job_error, translated
from connectors.bigquery.files import EXPORTS, EXTRACTS, FILE_FORMATS, parquet_files
from connectors.bigquery.jobs import Jobs
from connectors.bigquery.statements import bound, is_query, literal, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from blocks.base.retry import RetryPolicy
    from blocks.warehouses.sql import Dialect
    from connectors.bigquery.jobs import JobSettings
else:
    pa = lazy("pyarrow")

LOCK = "_etl_lock"
"""How the name begins of the table beside a target that loads which rewrite it lock."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between two attempts of a transaction that conflicts with another one."""
UPLOADS = 2
ROWS_OF_A_FEW = 10_000
"""So many rows come with less ado as JSON."""


class Dataset(Protocol):
    """What a session needs of the block of its dataset."""

    retry: RetryPolicy

    def uri(self, table: str = "") -> str:
        """Return where a table is, without secrets."""

    def get_client(self) -> Any:
        """Return the client, which the block keeps."""

    def storage_client(self) -> Any:
        """Return the client of the Storage Read API; None where it is not to be used."""

    def job_settings(self) -> JobSettings:
        """Return what every job is told."""

    @property
    def logger(self) -> Any:
        """Where to say what a caller should know."""


class BigQuerySession(ScriptedSession):
    """Jobs of one caller. A transaction is collected, and run as one script when it is committed."""

    def __init__(self, dataset: Dataset, load_id: str | None = None) -> None:
        self._dataset = dataset
        self._client = dataset.get_client()
        self._dialect = BigQueryDialect()
        self._settings = dataset.job_settings()
        self.jobs = Jobs(self._client, self._settings, load_id)
        self._pending: list[tuple[str, Mapping[str, Any]]] | None = None
        self._staged: set[str] = set()
        # The attempt's own names, so that what a dead attempt still does is nobody's rows.
        self._try = uuid.uuid4().hex[:12]
        digest = self._digest(load_id) if load_id else "none"
        self.stage = f"_etl_stage_{digest}_{self._try}"
        self.staged_rejects = f"_etl_rejects_{digest}_{self._try}"
        self.staged_keys = f"_etl_keys_{digest}_{self._try}"

    # --- statements ---

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run the statement and return how many rows it changed; -1 where BigQuery does not say."""
        if self._pending is not None:
            self._pending.append((sql, parameters or {}))
            return -1
        job = self._query(sql, parameters)
        return -1 if job.num_dml_affected_rows is None else int(job.num_dml_affected_rows)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None, *, size: int | None = None) -> list[Any]:
        """Run a query and return its rows."""
        rows = self._result(self._query(sql, parameters), size)
        with translated(f"read rows from {self._dataset.uri()}"):
            return [tuple(row.values()) for row in rows]

    def stream(self, sql: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return the result of a query."""
        job = self._query(sql, parameters)
        return self._arrow(self._result(job), job.destination)

    def stream_table(self, table: str, columns: Sequence[str] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """Return a table's rows, without a query; a view is one, and is asked."""
        with translated(f"read {self._dataset.uri(table)}"):
            found = self._client.get_table(self._reference(table), **self.jobs.patience)
        if found.table_type not in ("TABLE", "SNAPSHOT"):
            names = self._dialect.names(columns) if columns else "*"
            return self.stream(f"SELECT {names} FROM {self._dialect.table(table)}")
        fields = {field.name.lower(): field for field in found.schema}
        if unknown := [name for name in columns or () if name.lower() not in fields]:
            raise NotFoundError(f"{self._dataset.uri(table)} has no column {unknown[0]!r}.")
        selected = [fields[name.lower()] for name in columns] if columns else None
        with translated(f"read {self._dataset.uri(table)}"):
            rows = self._client.list_rows(found, selected_fields=selected, **self.jobs.patience)
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
            text, typed = bound(sql, values, prefix=f"p{number}_")
            statements.append(text.strip().rstrip(";"))
            parameters += typed
        script = ";\n".join(["BEGIN TRANSACTION", *statements, "COMMIT TRANSACTION"])
        self.jobs.run(script, parameters, ambiguous=True)

    def rollback(self) -> None:
        """Forget what was collected."""
        self._pending = None

    def close(self) -> None:
        """Do nothing: no connection is kept open."""
        self._pending = None

    def dry_run(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Return how many bytes the query would read, after BigQuery has looked whether it is right."""
        text, typed = bound(sql, parameters or {})
        with translated(f"check a query in {self._dataset.uri()}"):
            config = self.jobs.config(typed, dry_run=True, use_query_cache=False)
            job = self._client.query(text, config, location=self.jobs.location, job_retry=None, **self.jobs.patience)
        return int(job.total_bytes_processed or 0)

    def create_table(self, table: str, fields: list[Any], day: str | None, cluster_by: list[str]) -> None:
        """Create a table where there is none, with a partition for each day of a column."""
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        wanted = bigquery.Table(self._reference(table), schema=fields)
        if day is not None:
            wanted.time_partitioning = bigquery.TimePartitioning(field=day)
        if cluster_by:
            wanted.clustering_fields = cluster_by
        with translated(f"create {self._dataset.uri(table)}"):
            self._client.create_table(wanted, exists_ok=True, **self.jobs.patience)

    def create_external_table(self, table: str, files: str, source_format: str) -> None:
        """Create a table over files, where there is none."""
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        wanted, config = bigquery.Table(self._reference(table)), bigquery.ExternalConfig(source_format)
        config.source_uris, config.autodetect = [files], True
        wanted.external_data_configuration = config
        with translated(f"create {self._dataset.uri(table)}"):
            self._client.create_table(wanted, exists_ok=True, **self.jobs.patience)

    def extract(self, table: str, files: str, file_format: str) -> None:
        """Write the rows of a table or a view to files that are not there yet."""
        with translated(f"look up {self._dataset.uri(table)}"):
            found = self._client.get_table(self._reference(table), **self.jobs.patience)
        if found.table_type != "TABLE":
            self.export(f"SELECT * FROM {self._dialect.table(table)}", files, file_format)
            return
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        config = bigquery.ExtractJobConfig(**EXTRACTS[file_format], labels=self.jobs.labels)
        job_id = f"etl_{uuid.uuid4().hex}"

        def begin() -> Any:
            return self._client.extract_table(
                found.reference,
                files,
                job_id=job_id,
                location=self.jobs.location,
                job_config=config,
                **self.jobs.patience,
            )

        self.jobs.finish(lambda: self.jobs.submit(begin, job_id), ambiguous=True)

    def export(self, query: str, files: str, file_format: str) -> None:
        """Write the rows of a query to files that are not there yet."""
        options = f"uri = {literal(files)}, {EXPORTS[file_format]}, overwrite = TRUE"
        self.jobs.run(f"EXPORT DATA OPTIONS({options}) AS\n{query}", [], ambiguous=True)

    # --- bulk ---

    def columns(self, table: str) -> list[Column] | None:
        """Return the columns of a table."""
        try:
            with translated(f"describe {self._dataset.uri(table)}"):
                found = self._client.get_table(self._reference(table), **self.jobs.patience)
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
                location=self.jobs.location,
                job_config=config,
                timeout=self._settings.read_timeout_s,
            )

        job = self.jobs.raise_for_error(self.jobs.wait(self.jobs.submit(upload, job_id)))
        if job.output_rows != rows:
            raise TerminalError(
                f"{self._dataset.uri(target.table_id)}: {rows} rows were sent and job {job_id} loaded "
                f"{job.output_rows}. Nothing was committed."
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
            labels=self.jobs.labels,
            **options,
        )

    def copy_files(self, files: str, table: str, file_format: str) -> int:
        """Have a load job take files into a table, and return how many rows they had."""
        job_id, config = f"etl_{self._try}_copy", self._load_config(file_format)

        def begin() -> Any:
            return self._client.load_table_from_uri(
                files,
                self._reference(table),
                job_id=job_id,
                location=self.jobs.location,
                job_config=config,
                **self.jobs.patience,
            )

        return int(self.jobs.raise_for_error(self.jobs.wait(self.jobs.submit(begin, job_id))).output_rows)

    def create_stage(self, dialect: Dialect, table: str, columns: Sequence[Column]) -> None:
        """Make a staging table, to be dropped in the end."""
        self._staged.add(table)
        super().create_stage(dialect, table, columns)

    def discard(self, table: str) -> None:
        """Drop a staging table; one that cannot be dropped now goes by itself after a day."""
        if table in self._staged:
            with translated(f"drop {self._dataset.uri(table)}"):
                self._client.delete_table(self._reference(table), not_found_ok=True, **self.jobs.patience)

    # --- the transaction of a load ---

    def run_script(self, script: Script) -> None:
        """Run the transaction as the job of this load, or wait for another attempt that does.

        The job's id is the lock: it is made of the load and a generation, and the next generation begins only after the
        job of the one before was seen to fail. So one job of a load runs at a time, whoever sends it how often.

        Jobs of different loads that rewrite one table conflict, and the one that BigQuery aborts runs again.
        """
        sql, parameters = transaction(script, self._dialect, lock=self._lock_of(script.rewrites))
        generation, unknown = 0, False
        deadline, pause_s = time.monotonic() + self._settings.lock_timeout_s, FIRST_PAUSE_S

        def attempt() -> Any:
            nonlocal generation, unknown, pause_s
            while True:
                unknown = True
                job = self.jobs.wait(self.jobs.start(sql, parameters, self._job_id(script.load_id, generation)))
                unknown = False
                if not job.error_result and (self._is_mine(job) or self._is_recorded(script.load_id)):
                    return job
                # It failed, or its row was deleted since, with which the load is forgotten.
                generation += 1
                if job.error_result and self._is_mine(job):
                    error = job_error(job, self._dataset.uri())
                    if not isinstance(error, ConflictError) or time.monotonic() > deadline:
                        raise error
                    pause(random.uniform(0, pause_s))  # noqa: S311 (jitter, not a secret)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

        try:
            job = call_with_retry(self._dataset.retry, attempt)
        except TransientError as error:
            if not unknown:
                raise
            self._staged.clear()  # the job may still read them: they go by themselves after a day
            raise AmbiguousError(str(error)) from None
        if not self._is_mine(job):
            raise AlreadyExistsError(f"Job {job.job_id} of another attempt committed load {script.load_id}.")

    def _lock_of(self, table: str | None) -> str | None:
        """Return the table whose only row the loads that rewrite a table change, so that BigQuery lets one be done.

        The table itself does not do for that: a DELETE or UPDATE that finds no row conflicts with nothing, and two
        loads would not see each other's rows. https://cloud.google.com/bigquery/docs/transactions#transaction_concurrency
        """
        if table is None:
            return None
        place, _, name = table.rpartition(".")
        lock = f"{LOCK}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        lock = f"{place}.{lock}" if place else lock
        if self.columns(lock) is None:
            words = literal(f"etl-blocks: loads that rewrite {name} change its row, one after the other")
            self.execute(
                f"CREATE TABLE IF NOT EXISTS {self._dialect.table(lock)} OPTIONS(description = {words}) "
                "AS SELECT '' AS load_id"
            )
        return lock

    def end_other_attempts(self, load_id: str) -> None:
        """Wait until no job of this load runs."""
        generation = 0
        while (job := self.jobs.look_up(self._job_id(load_id, generation))) is not None:
            self.jobs.wait(job)
            generation += 1

    def _is_recorded(self, load_id: str) -> bool:
        return find_report(Ledger(self._dialect), self, load_id) is not None

    def _is_mine(self, job: Any) -> bool:
        return self.stage in (job.query or "")

    def _digest(self, load_id: str) -> str:
        return hashlib.sha256(f"{self._settings.dataset}\0{load_id}".encode()).hexdigest()[:32]

    def _job_id(self, load_id: str, generation: int) -> str:
        return f"etl_load_{self._digest(load_id)}_{generation}"

    # --- jobs and what they leave ---

    def _reference(self, table: str) -> Any:
        bigquery = require("google.cloud.bigquery", extra="bigquery")
        *project, dataset, name = [self._settings.dataset, *table.split(".")][-3 if table.count(".") > 1 else -2 :]
        return bigquery.TableReference(
            bigquery.DatasetReference(project[0] if project else self._client.project, dataset), name
        )

    def _query(self, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        """Return the finished job of a statement."""
        if self._pending is not None:
            raise UnsupportedError("Within a transaction BigQuery's statements are collected; nothing can be fetched.")
        text, typed = bound(sql, parameters or {})
        return self.jobs.run(text, typed, ambiguous=not is_query(text))

    def _result(self, job: Any, size: int | None = None) -> Any:
        with translated(f"read the result of job {job.job_id} in {self._dataset.uri()}"):
            return job.result(max_results=size, job_retry=None, **self.jobs.patience)

    def _arrow(self, rows: Any, table: Any, names: Sequence[str] | None = None) -> tuple[pa.Schema, Iterator[Any]]:
        """The rows' exact schema, and a stream of them; the many are read through the Storage API, from their table."""
        schema = pa.schema([pa.field(field.name, arrow_type(field)) for field in rows.schema])

        def batches() -> Iterator[pa.RecordBatch]:
            with translated(f"read rows from {self._dataset.uri()}"):
                many = rows.total_rows is None or rows.total_rows > ROWS_OF_A_FEW
                stored = self._stored(table, names) if many else None
                for batch in rows.to_arrow_iterable() if stored is None else stored:
                    # By position: the Storage API has names of its own for columns with unusual ones.
                    arrays = [cast_array(array, field.type) for array, field in zip(batch, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        return schema, batches()

    def _stored(self, table: Any, names: Sequence[str] | None) -> Iterator[pa.RecordBatch] | None:
        """Return the rows of a table in their order, None where the Storage API is not to be used."""
        client = self._dataset.storage_client()
        if client is None or table is None:
            return None
        types = require("google.cloud.bigquery_storage", extra="bigquery").types
        wanted = types.ReadSession(table=table.to_bqstorage(), data_format=types.DataFormat.ARROW)
        wanted.read_options.selected_fields = list(names or ())
        timeout = self._settings.read_timeout_s
        try:
            with translated(f"read rows from {self._dataset.uri(table.table_id)}"):
                session = client.create_read_session(
                    parent=f"projects/{self._client.project}", read_session=wanted, max_stream_count=1, timeout=timeout
                )
        except (AccessDeniedError, UnsupportedError) as error:
            self._dataset.logger.warning("The Storage Read API is not used, and reading is slower: %s", error)
            return None

        def read() -> Iterator[pa.RecordBatch]:
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            for stream in session.streams:
                answers = iter(client.read_rows(stream.name))  # a timeout would end it however fast it comes
                calls = Calls(timeout_s=timeout)
                while (answer := self._next(calls, answers)) is not None:
                    data = pa.py_buffer(answer.arrow_record_batch.serialized_record_batch)
                    yield pa.ipc.read_record_batch(data, schema)

        return read()

    def _next(self, calls: Calls, answers: Iterator[Any]) -> Any:
        """Return the next part of a stream, None at its end.

        Raises:
            TransientError: It did not come in time.
        """
        try:
            return calls.run(lambda: next(answers, None))
        except NoAnswerError:
            limit_s = self._settings.read_timeout_s
            raise TransientError(f"Could not read from {self._dataset.uri()}: no answer in {limit_s:g} s.") from None
