"""The BigQuery stand-in itself; runs in an environment of its own: `python bigquery_server.py REST_PORT GRPC_PORT`.

bqemulator (BigQuery's protocols over DuckDB), with what it lacks: a job id is taken once, jobs of uploads are found
under their id and count their own rows, a script is one transaction of DuckDB and knows parameters, @@row_count and
RAISE, columns are loaded by name, columns that are added or dropped are known to the tables, results of queries can be
read through the Storage API, and a job runs for as long as it is held.
"""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import itertools
import json
import os
import re
import sys
import tempfile
import threading
import uuid
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
from bqemulator import server
from bqemulator.api.routes import jobs as routes
from bqemulator.api.routes import tables
from bqemulator.catalog import ddl_sync
from bqemulator.catalog.models import TableFieldSchema, TableSchema
from bqemulator.config import Settings
from bqemulator.domain.errors import InvalidQueryError
from bqemulator.grpc_api import read_servicer
from bqemulator.jobs import executor
from bqemulator.storage.sql_identifiers import quoted_table_ref
from bqemulator.versioning.snapshots import SnapshotManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOBS = re.compile(r"(?P<upload>/upload|/resumable/upload)?/bigquery/v2/projects/(?P<project>[^/]+)/jobs")
JOB = re.compile(r"/bigquery/v2/projects/[^/]+/(?P<kind>jobs|queries)/(?P<id>[^/]+)")
TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|--[^\n]*|/\*.*?\*/|(?P<variable>@@?\w+|\b[A-Za-z_]\w*\b)|(?P<end>;)""",
    re.DOTALL,
)


def statements(source: str) -> list[str]:
    """The statements of a script ; an IF is one."""
    found, start = [], 0
    for token in TOKEN.finditer(source):
        if token["end"]:
            found.append(source[start : token.start()].strip())
            start = token.end()
    whole: list[str] = []
    for statement in filter(None, [*found, source[start:].strip()]):
        if statement == "END IF":
            whole[-1] += "; END IF"
        else:
            whole.append(statement)
    return whole


class Script:
    """A script of DECLARE, SET, IF … RAISE, transactions and statements, run as one transaction of DuckDB."""

    def __init__(self, project: str, parameters: list[dict[str, Any]] | None, ctx: Any, caller: Any) -> None:
        self.project, self.parameters, self.ctx, self.caller = project, parameters, ctx, caller
        self.variables: dict[str, int | None] = {"@@row_count": None}
        self.open = False
        self.changes: set[str] = set()
        self.rewrites: set[str] = set()

    async def run(self, source: str) -> pa.Table:
        """The rows of its last statement."""
        result = pa.table({})
        try:
            for statement in statements(source):
                result = await self.step(statement)
        finally:
            if self.open:
                self.ctx.engine.execute("ROLLBACK")
        return result

    async def step(self, sql: str) -> pa.Table:
        """What one statement gives."""
        nothing = pa.table({})
        if found := re.fullmatch(
            r"DECLARE\s+([\w\s,]+?)\s+INT64(?:\s+DEFAULT\s+(.+))?", sql, re.IGNORECASE | re.DOTALL
        ):
            for name in found[1].split(","):
                self.variables[name.strip()] = await self.value(found[2]) if found[2] else None
            return nothing
        if found := re.fullmatch(r"SET\s+(\w+)\s*=\s*(.+)", sql, re.IGNORECASE | re.DOTALL):
            self.variables[found[1]] = await self.value(found[2])
            return nothing
        if found := re.fullmatch(r"IF\s+(.+?)\s+THEN\s+RAISE USING MESSAGE = '([^']*)'; END IF", sql, re.DOTALL):
            if await self.value(found[1]):
                raise InvalidQueryError(f"Query error: {found[2]} at [1:1]")
            return nothing
        if found := re.fullmatch(r"(BEGIN|COMMIT|ROLLBACK)(\s+TRANSACTION)?", sql, re.IGNORECASE):
            self.ctx.engine.execute(found[1])
            self.open = found[1].upper() == "BEGIN"
            if found[1].upper() == "COMMIT":
                self.note_changes()
            return nothing
        result = await self.sql(sql)
        if re.match(r"INSERT|UPDATE|DELETE|MERGE", sql, re.IGNORECASE):
            self.variables["@@row_count"] = result.column(0)[0].as_py()
            self.check_conflict(sql, self.variables["@@row_count"] or 0)
            return nothing
        return result if re.match(r"SELECT|WITH", sql, re.IGNORECASE) else nothing

    def check_conflict(self, sql: str, rows: int) -> None:
        """Abort where another script changed rows of the table since this one was sent.

        One that finds no rows conflicts with nothing. What it would then read of its snapshot the stand-in does not
        know, as it runs scripts one by one when they end: where that matters it says so.
        """
        found = re.match(r"(UPDATE|DELETE\s+FROM|MERGE\s+INTO)\s+([`\w.-]+)", sql, re.IGNORECASE)
        if not found:
            return
        table = f"{(default_dataset.get() or {}).get('datasetId')}.{found[2].replace('`', '')}"
        since = began.get()
        if rows and changed.get(table, 0) > since:
            raise InvalidQueryError(f"Transaction is aborted due to concurrent update against table {table}.")
        if rewritten.get(table, 0) > since:
            raise InvalidQueryError("The stand-in cannot tell what a script of an old snapshot does.")
        self.rewrites.add(table)
        if rows:
            self.changes.add(table)

    def note_changes(self) -> None:
        """Keep which tables' rows were changed, and when."""
        now = next(moments)
        changed.update(dict.fromkeys(self.changes, now))
        rewritten.update(dict.fromkeys(self.rewrites, now))

    async def value(self, expression: str) -> Any:
        """The value of an expression."""
        return (await self.sql(f"SELECT {expression} AS v")).column(0)[0].as_py()

    async def sql(self, sql: str) -> pa.Table:
        """The rows of a statement, with the variables' values in their place."""

        def put(token: re.Match[str]) -> str:
            name = token["variable"]
            return str(self.variables[name]) if name in self.variables else token[0]

        sql = qualified(TOKEN.sub(put, sql), {"defaultDataset": default_dataset.get()}, request_project_id=self.project)
        return await single(self.project, sql, self.parameters, self.ctx, caller=self.caller)


default_dataset: ContextVar[Any] = ContextVar("default_dataset", default=None)
moments = itertools.count(1)
began: ContextVar[int] = ContextVar("began", default=0)
"""When the job was sent."""
changed: dict[str, int] = {}
"""When a script changed rows of a table."""
rewritten: dict[str, int] = {}
"""When a script tried to, and perhaps found none."""
single_original = executor._run_single_sql


async def single(project: str, sql: str, parameters: Any, ctx: Any, *, caller: Any) -> pa.Table:
    """The rows of a statement; it may ask which tables its default dataset has."""

    def names(_: re.Match[str]) -> str:
        found = ctx.catalog.list_tables(project, default_dataset.get()["datasetId"])
        rows = [f"SELECT '{table.table_id}' AS table_name" for table in found]
        return "(" + " UNION ALL ".join(rows or ["SELECT '' AS table_name"]) + ")"

    sql = re.sub(r"(?:`?[\w-]+`?\.)*`?information_schema`?\.`?tables`?", names, sql, flags=re.IGNORECASE)
    return await single_original(project, sql, parameters, ctx, caller=caller)


executor._run_single_sql = single
qualified = routes._apply_default_dataset


def apply_default_dataset(sql: str, config: dict[str, Any], *, request_project_id: str) -> str:
    """The statement with the dataset of its tables; those of a script get it one by one."""
    default_dataset.set(config.get("defaultDataset"))
    if len(statements(sql)) == 1:
        return qualified(sql, config, request_project_id=request_project_id)
    return sql


routes._apply_default_dataset = apply_default_dataset


async def run_query_body(
    *,
    project_id: str,
    bq_sql: str,
    query_params: list[dict[str, Any]] | None,
    ctx: Any,
    is_scripted: bool,
    effective_caller: Any,
) -> pa.Table:
    """The rows of a job; scripts are ours, and tables that were altered are described anew."""
    if is_scripted:
        return await Script(project_id, query_params, ctx, effective_caller).run(bq_sql)
    result = await run_original(
        project_id=project_id,
        bq_sql=bq_sql,
        query_params=query_params,
        ctx=ctx,
        is_scripted=False,
        effective_caller=effective_caller,
    )
    if found := re.match(
        r"ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?((?:`[^`]+`|\w+)(?:\.(?:`[^`]+`|\w+))*)", bq_sql, re.IGNORECASE
    ):
        describe_again(found[1].replace("`", "").split("."), project_id, ctx)
    return result


run_original = executor._run_query_body
executor._run_query_body = run_query_body


def describe_again(parts: list[str], project: str, ctx: Any) -> None:
    """Take over the columns that an ALTER TABLE left."""
    project, dataset, table = [project, *parts][-3:]
    meta = ctx.catalog.get_table(project, dataset, table)
    ctx.catalog.update_table(meta.model_copy(update={"schema_": introspect(project, dataset, table, ctx)}))


TYPES = {
    "bigint": "INTEGER",
    "blob": "BYTES",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "double": "FLOAT",
    "float": "FLOAT",
    "hugeint": "INTEGER",
    "integer": "INTEGER",
    "json": "JSON",
    "smallint": "INTEGER",
    "time": "TIME",
    "timestamp": "DATETIME",
    "timestamp with time zone": "TIMESTAMP",
    "tinyint": "INTEGER",
    "varchar": "STRING",
}


def introspect(project: str, dataset: str, table: str, ctx: Any) -> TableSchema:
    """The columns of a table with all that is known of their types."""
    reference = quoted_table_ref(project, dataset, table)
    rows = ctx.engine.execute(f"SELECT name, \"notnull\" FROM pragma_table_info('{reference}')").fetchall()
    required = dict(rows)
    relation = ctx.engine.connection.sql(f"SELECT * FROM {reference} LIMIT 0")
    fields = [
        described(name, kind, "REQUIRED" if required.get(name) else "NULLABLE")
        for name, kind in zip(relation.columns, relation.types, strict=True)
    ]
    return TableSchema(fields=tuple(fields))


def described(name: str, kind: Any, mode: str = "NULLABLE") -> TableFieldSchema:
    """A column as BigQuery describes it."""
    if str(kind) == "JSON":
        return TableFieldSchema(name=name, type="JSON", mode=mode)
    if kind.id == "list":
        return described(name, dict(kind.children)["child"], "REPEATED")
    if kind.id == "struct":
        fields = tuple(described(inner, inner_kind) for inner, inner_kind in kind.children)
        return TableFieldSchema(name=name, type="RECORD", mode=mode, fields=fields)
    if kind.id == "decimal":
        size = dict(kind.children)
        precision, scale = size["precision"], size["scale"]
        numeric = "NUMERIC" if scale <= 9 and precision - scale <= 29 else "BIGNUMERIC"
        return TableFieldSchema(name=name, type=numeric, mode=mode, precision=precision, scale=scale)
    return TableFieldSchema(name=name, type=TYPES[str(kind).lower()], mode=mode)


def field_to_rest(field: TableFieldSchema) -> dict[str, Any]:
    """A column in an answer, with its precision and scale."""
    found = {"name": field.name, "type": field.type, "mode": field.mode}
    if field.fields:
        found["fields"] = [field_to_rest(inner) for inner in field.fields]
    if field.precision is not None:
        found |= {"precision": str(field.precision), "scale": str(field.scale)}
    return found


ddl_sync._introspect_schema = introspect
tables._field_to_rest = field_to_rest


def table_to_rest(table: Any) -> dict[str, Any]:
    """A table in an answer, with its number of rows as it is now."""
    found = table_to_rest_original(table)
    if table.table_type == "TABLE":
        reference = quoted_table_ref(table.project_id, table.dataset_id, table.table_id)
        found["numRows"] = str(app_context[0].engine.execute(f"SELECT count(*) FROM {reference}").fetchone()[0])
    return found


table_to_rest_original = tables._table_to_rest
tables._table_to_rest = table_to_rest


def resolve_read_target(read_session: Any, context: Any) -> Any:
    """What a read session reads: a table, or the result of a query."""
    _, project, _, dataset, _, table = read_session.table.split("/")
    if dataset != executor._ANONYMOUS_RESULTS_DATASET:
        return resolve_original(read_session, context)
    app_context[0].engine.connection.register(table, executor.JOB_RESULTS[table.removeprefix("anon")])
    return project, dataset, table, f'"{table}"', list(read_session.read_options.selected_fields) or None


def create_read_session(self: Any, *arguments: Any) -> bytes:
    """Read what a read session is of, while no request of HTTP runs."""
    with turn:
        return read_original(self, *arguments)


# The emulator's requests share one connection, in threads that would take each other's rows.
turn = threading.Lock()
read_original = read_servicer.BigQueryReadHandler._handle_create_read_session
read_servicer.BigQueryReadHandler._handle_create_read_session = create_read_session

app_context: list[Any] = []
resolve_original = read_servicer._resolve_read_target
read_servicer._resolve_read_target = resolve_read_target


def loader(read: str) -> Any:
    """What inserts the rows of files by the names of their columns."""

    def load(path: str, target: str, ctx: Any) -> None:
        ctx.engine.execute(f"INSERT INTO {target} BY NAME SELECT * FROM {read}", [path])
        loaded[target] = ctx.engine.execute(f"SELECT count(*) FROM {read}", [path]).fetchone()[0]

    return load


loaded: dict[str, int] = {}
executor._LOAD_FORMAT_HANDLERS |= {
    "PARQUET": loader("read_parquet(?)"),
    "CSV": loader("read_csv(?, header = true, all_varchar = true)"),
    "NEWLINE_DELIMITED_JSON": loader("read_json(?, format = 'newline_delimited')"),
}
executor._refresh_load_row_count = lambda job, _: loaded.get(job.target_ref, 0)


def copy_to_file(query: str, path: str, *arguments: Any, **options: Any) -> None:
    """Write the rows of an extract to one file, the first of its pattern."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    copy_original(query, path.replace("*", "0" * 12), *arguments, **options)


copy_original = executor._copy_relation_to_file
executor._copy_relation_to_file = copy_to_file
SnapshotManager.record_change = lambda *_: None  # a copy of the whole table at each change, for time travel


class Extended:
    """The emulator's application, behind what it lacks."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url="http://emulator", timeout=600
        )
        self.taken: set[str] = set()
        self.uploads: dict[str, tuple[str, dict[str, Any], bytearray]] = {}
        self.hold: re.Pattern[str] | None = None
        self.held: dict[str, tuple[dict[str, Any], asyncio.Event]] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.one_by_one = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: D102 (ASGI)
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        query = httpx.QueryParams(scope["query_string"])
        headers = httpx.Headers(scope["headers"])
        if path.startswith("/_test/"):
            answer = await self.control(path.rpartition("/")[2], await content(receive))
        elif method == "POST" and (found := JOBS.fullmatch(path)):
            body = await content(receive)
            if found["upload"] and query.get("uploadType") == "resumable":
                answer = self.begin_upload(found["project"], json.loads(body), f"http://{headers['host']}{path}")
            elif found["upload"]:
                job, data = parts(headers["content-type"], body)
                answer = await self.insert(found["project"], job, data)
            else:
                answer = await self.insert(found["project"], json.loads(body))
        elif method == "PUT" and query.get("upload_id", "") in self.uploads:
            answer = await self.upload(query["upload_id"], headers.get("content-range", ""), await content(receive))
        elif (found := JOB.fullmatch(path)) and found["id"] in self.held:
            answer = self.running(found["id"], found["kind"])
        else:
            async with self.in_turn():
                await self.app(scope, receive, send)
            return
        await respond(send, *answer)

    async def insert(self, project: str, job: dict[str, Any], data: bytes | None = None) -> Any:
        """Begin a job, once."""
        job_id = job.setdefault("jobReference", {}).setdefault("jobId", uuid.uuid4().hex)
        dry = job["configuration"].get("dryRun")
        if not dry and job_id in self.taken:
            return failure(409, "duplicate", f"Already Exists: Job {project}:US.{job_id}")
        if not dry:
            self.taken.add(job_id)
        began.set(next(moments))
        if self.hold and self.hold.search(json.dumps(job)):
            self.held[job_id] = (job, asyncio.Event())
            task = asyncio.create_task(self.run_later(project, job, data))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return self.running(job_id, "jobs")
        answer = await self.run(project, job, data)
        if answer[0] >= 400:
            self.taken.discard(job_id)  # it was refused, not begun
        return answer

    async def run(self, project: str, job: dict[str, Any], data: bytes | None) -> Any:
        """The answer of the emulator."""
        with tempfile.NamedTemporaryFile(prefix="upload-") as file:
            if data is not None:
                file.write(data)
                file.flush()
                job["configuration"]["load"]["sourceUris"] = [f"file://{file.name}"]
            async with self.in_turn():
                return reworded(await self.client.post(f"/bigquery/v2/projects/{project}/jobs", json=job))

    @asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """While no other request, of HTTP or gRPC, is with the emulator."""
        async with self.one_by_one:
            await asyncio.to_thread(turn.acquire)
            try:
                yield
            finally:
                turn.release()

    async def run_later(self, project: str, job: dict[str, Any], data: bytes | None) -> None:
        """Run a held job once it is released."""
        job_id = job["jobReference"]["jobId"]
        await self.held[job_id][1].wait()
        await self.run(project, job, data)
        del self.held[job_id]

    def running(self, job_id: str, kind: str) -> Any:
        """What is said of a job that is not done."""
        job = self.held[job_id][0]
        if kind == "queries":
            return 200, {"jobReference": job["jobReference"], "jobComplete": False}
        return 200, {**job, "status": {"state": "RUNNING"}, "statistics": {}}

    async def control(self, what: str, body: bytes) -> Any:
        """Hold the jobs that match a pattern, say which are held, or release them."""
        if what == "hold":
            self.hold = re.compile(body.decode())
        elif what == "release":
            self.hold = None
            for _, released in list(self.held.values()):
                released.set()
        return 200, sorted(self.held)

    def begin_upload(self, project: str, job: dict[str, Any], url: str) -> Any:
        """A new resumable upload."""
        upload_id = uuid.uuid4().hex
        self.uploads[upload_id] = (project, job, bytearray())
        return 200, {}, [(b"location", f"{url}?uploadType=resumable&upload_id={upload_id}".encode())]

    async def upload(self, upload_id: str, content_range: str, body: bytes) -> Any:
        """Take a chunk; the last one begins the job."""
        project, job, received = self.uploads[upload_id]
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range)
        if found and found[1]:
            del received[int(found[1]) :]
        received += body
        if found and (found[3] == "*" or len(received) < int(found[3])):
            return 308, {}, [(b"range", f"bytes=0-{len(received) - 1}".encode())] if received else []
        return await self.insert(project, job, bytes(received))


async def content(receive: Any) -> bytes:
    """The whole body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def respond(send: Any, status: int, answer: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Send an answer as JSON."""
    body = json.dumps(answer).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


REWORDED = (
    (r'Referenced column \\"(\w+)\\" not found', r"Unrecognized name: \1 at [1:1]"),
    (r"Column with name (\w+) already exists", r"Column already exists: \1"),
)


def reworded(answer: httpx.Response) -> Any:
    """The answer, with some errors in the words of BigQuery."""
    text = answer.text
    for pattern, words in REWORDED:
        text = re.sub(pattern, words, text)
    return answer.status_code, json.loads(text)


def failure(status: int, reason: str, words: str) -> Any:
    """An answer that says what is wrong."""
    errors = [{"message": words, "domain": "global", "reason": reason}]
    return status, {"error": {"code": status, "message": words, "errors": errors}}


def parts(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The job and the file of an upload in one request."""
    head = b"Content-Type: " + content_type.encode() + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    boundary = b"--" + message.get_boundary().encode()
    job = next(iter(message.iter_parts())).get_payload(decode=True)
    return json.loads(job), body.split(boundary, 2)[2].split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n" + boundary)[0]


def main() -> None:
    """Serve until a signal."""
    rest, grpc = sys.argv[1:]
    os.environ.update(
        BQEMU_REST_PORT=rest, BQEMU_GRPC_PORT=grpc, BQEMU_LOG_LEVEL="warning", BQEMU_ENABLE_FORMAT_EXTENSIONS="false"
    )
    create_app = server.create_app

    def extended(context: Any) -> Extended:
        app_context.append(context)
        return Extended(create_app(context))

    server.create_app = extended
    server.EmulatorServer(Settings()).run_forever()


if __name__ == "__main__":
    main()
