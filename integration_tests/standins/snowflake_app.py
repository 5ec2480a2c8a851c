"""The process of `SnowflakeServer`: fakesnow's server, with what the service has and it lacks.

Added, as the service documents it: passwords, users and tokens that expire; requests that are sent twice and run once;
locks that UPDATE, DELETE and MERGE hold until their transaction ends, a holder that is aborted when it has vanished;
DDL that commits; names of transactions, SHOW TRANSACTIONS and SYSTEM$ABORT_TRANSACTION; session parameters; temporary
stages that go with their session; NUMBER(38,0) beyond 64 bits; keys that are declared and not enforced; error numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import itertools
import json
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import fakesnow.arrow
import fakesnow.copy_into
import fakesnow.cursor
import fakesnow.server as fake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from fakesnow import rowtype, transforms
from fakesnow.transforms import stage
from snowflake.connector.errors import ProgrammingError
from sqlglot import exp, parse_one
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable

USERS = {"LOADER": "l0ader", "READER": "r3ader"}
TOKENS = {"oauth-token": "LOADER"}
DATABASE = "TESTS"
VANISHED_S = float(os.environ.get("STANDIN_VANISHED_S", "3"))
ANSWERS_KEPT = 500
BUCKETS = os.environ.get("STANDIN_BUCKETS", "")
"""A folder whose folders stand for the buckets that a storage integration reaches."""
CONFLICT, LOCKED = 610, 625
UNSUPPORTED = 2
DDL = re.compile(
    r"(create\s+(?!(or\s+replace\s+)?temp)|alter\s+(table|view|schema)|drop|truncate|grant|revoke)", re.IGNORECASE
)
WRITES = re.compile(r"create|insert|merge|update|delete|alter|drop|copy", re.IGNORECASE)
SHAPING = re.compile(r"create|alter|drop", re.IGNORECASE)
LOCKING = re.compile(r'(?:merge\s+into|update|delete\s+from)\s+((?:"(?:[^"]|"")*"|[\w$.])+)', re.IGNORECASE)


class Refused(Exception):  # noqa: N818 (an answer)
    """What the service answers in place of a result."""

    def __init__(self, code: int, state: str, message: str) -> None:
        super().__init__(message)
        self.answer = {
            "data": {"errorCode": f"{code:06d}", "sqlState": state},
            "code": f"{code:06d}",
            "message": message,
            "success": False,
        }


@dataclass
class Transaction:
    """A transaction of a session. The engine's own begins with its first statement, so that it sees what is there."""

    number: int
    name: str
    begun: bool = False


@dataclass
class Session:
    """What the service knows of a login."""

    number: int
    user: str
    token: str
    conn: Any
    role: str
    warehouse: str | None
    parameters: dict[str, str]
    transaction: Transaction | None = None
    stages: list[str] = field(default_factory=list)
    running: int = 0
    last_seen: float = field(default_factory=time.monotonic)
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def has_vanished(self) -> bool:
        """Whether it has said nothing for as long as the service waits where it blocks others."""
        return not self.running and time.monotonic() - self.last_seen > VANISHED_S


class Service:
    """The state of the stand-in; all of it is touched in one thread."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.masters: dict[str, str] = {}
        self.expired: set[str] = set()
        self.locks: dict[str, Session] = {}
        self.shaping = asyncio.Lock()
        self.answers: OrderedDict[str, asyncio.Future[Response]] = OrderedDict()
        self.log: list[tuple[str, str]] = []
        self.numbers = itertools.count(int(time.time() * 1000))

    # --- sessions ---

    async def log_in(self, request: Request) -> Response:
        """A new session, or the reason why not."""
        data = json.loads(await content(request))["data"]
        user = (data.get("LOGIN_NAME") or "").upper()
        if data.get("AUTHENTICATOR", "").upper() == "OAUTH":
            user = TOKENS.get(data.get("TOKEN", ""), "")
            allowed = bool(user)
        else:
            allowed = user in USERS and USERS[user] == data.get("PASSWORD")
        if not allowed:
            refused = Refused(390100, "08001", "Incorrect username or password was specified.")
            return JSONResponse(refused.answer | {"data": {"nextAction": "RETRY_LOGIN"}})
        answer = json.loads(bytes((await fake.login_request(request)).body))
        token = answer["data"]["token"]
        parameters = {name.upper(): str(value) for name, value in data.get("SESSION_PARAMETERS", {}).items()}
        conn = fake.sessions[token]
        role = (request.query_params.get("roleName") or "PUBLIC").upper()
        warehouse = request.query_params.get("warehouse")
        session = Session(next(self.numbers), user, token, conn, role, warehouse, parameters)
        self.sessions[token] = session
        answer["data"].update(
            masterToken=f"master-{token}",
            validityInSeconds=3600,
            masterValidityInSeconds=14400,
            sessionId=session.number,
        )
        answer["data"]["sessionInfo"].update(roleName=role, warehouseName=warehouse)
        return JSONResponse(answer)

    async def renew(self, request: Request) -> Response:
        """A new token for a session whose token has expired."""
        master = fake.to_token(request)
        token = self.masters.get(master, master.removeprefix("master-"))
        session = self.sessions.pop(token, None)
        if session is None:
            return JSONResponse(Refused(390114, "08001", "Authentication token has expired.").answer)
        session.token = f"r{next(self.numbers)}"
        self.sessions[session.token] = session
        self.masters[master] = session.token
        fake.sessions[session.token] = fake.sessions.pop(token)
        data = {"sessionToken": session.token, "masterToken": master}
        lives = {"validityInSecondsST": 3600, "validityInSecondsMT": 14400, "sessionId": session.number}
        return JSONResponse({"data": data | lives, "success": True})

    async def end_session(self, request: Request) -> Response:
        """Its transaction is undone, and what was temporary is gone."""
        session = self.sessions.get(fake.to_token(request))
        if session and request.query_params.get("delete"):
            async with session.one_at_a_time:
                await self.end_transaction(session, "ROLLBACK")
                for name in session.stages:
                    await self.drop_stage(session, name)
                self.sessions.pop(session.token, None)
                fake.sessions.pop(session.token, None)
                session.conn._duck_conn.close()
        return JSONResponse({"data": None, "code": None, "message": None, "success": True})

    # --- statements ---

    async def query(self, request: Request) -> Response:
        """The answer to a statement; a request that comes again gets the answer of the first time."""
        body = await content(request)
        number = request.query_params.get("requestId", "")
        token = fake.to_token(request)
        if token not in self.sessions or token in self.expired:
            self.expired.discard(token)
            return JSONResponse(Refused(390112, "08001", "Your session has expired. Please login again.").answer)
        if number not in self.answers:
            self.answers[number] = asyncio.ensure_future(self._answer(request, body))
            while len(self.answers) > ANSWERS_KEPT:
                self.answers.popitem(last=False)
        return await asyncio.shield(self.answers[number])

    async def _answer(self, request: Request, body: bytes) -> Response:
        session = self.sessions[fake.to_token(request)]
        payload = json.loads(body)
        sql = payload["sqlText"].strip().rstrip(";").strip()
        self.log.append((session.parameters.get("QUERY_TAG", ""), sql))
        session.running += 1
        try:
            async with session.one_at_a_time:
                return await self._run(request, session, sql, payload)
        except Refused as refused:
            return JSONResponse(refused.answer)
        finally:
            session.running -= 1
            session.last_seen = time.monotonic()

    async def _run(self, request: Request, session: Session, sql: str, payload: dict[str, Any]) -> Response:
        if found := re.match(r"create\s+temporary\s+stage\s+(\S+)", sql, re.IGNORECASE):
            session.stages.append(found[1])
            async with self.shaping:
                return await self._forward(request, session, re.sub(r"(?i)\btemporary\s+", "", sql, count=1), payload)
        for pattern, rewrite in self._own.items():
            if found := re.match(pattern, sql, re.IGNORECASE | re.DOTALL):
                rewritten = await rewrite(session, found)
                return await self._forward(request, session, rewritten)
        sql = re.sub(r"STORAGE_INTEGRATION = \S+ |PARSE_HEADER = TRUE ", "", sql)
        sql = re.sub(r"FROM '(?:s3|gcs)://(.*?)/?'", rf"FROM 'file://{BUCKETS}/\1'", sql)
        sql = re.sub(r"HASH_AGG\(\*\) FROM (\S+)$", r"CAST(sum(hash(s)) AS varchar) FROM \1 AS s", sql)
        for name, value in {"role": session.role, "warehouse": session.warehouse or "", "user": session.user}.items():
            sql = re.sub(rf"(?i)\bcurrent_{name}\s*\(\s*\)", f"'{value}'", sql)
        if DDL.match(sql):
            await self.end_transaction(session, "COMMIT")
        if session.user == "READER" and WRITES.match(sql):
            raise Refused(3001, "42501", "SQL access control error: Insufficient privileges to operate on schema.")
        table = None
        if found := LOCKING.match(sql):
            table = full_name(session, found[1])
            await self._lock(session, table)
        try:
            if session.transaction and not session.transaction.begun:
                await run_in_threadpool(session.conn._duck_conn.execute, "BEGIN TRANSACTION")
                session.transaction.begun = True
            async with self.shaping if SHAPING.match(sql) else contextlib.nullcontext():
                return await self._forward(request, session, sql, payload)
        finally:
            if table and session.transaction is None:
                self.locks.pop(table, None)

    async def _forward(
        self, request: Request, session: Session, sql: str, payload: dict[str, Any] | None = None
    ) -> Response:
        """What fakesnow answers; a statement that met another's is tried again, as the service would wait."""
        body = json.dumps({**(payload or {}), "sqlText": sql}).encode()
        headers = [(k, v) for k, v in request.scope["headers"] if k not in (b"content-encoding", b"content-length")]
        headers = [(k, v) for k, v in headers if k != b"authorization"]
        headers.append((b"authorization", f'Snowflake Token="{session.token}"'.encode()))

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        deadline = time.monotonic() + 20
        while True:
            answer = await fake.query_request(Request({**request.scope, "headers": headers}, receive))
            if answer.status_code != HTTPStatus.OK:
                raise Refused(UNSUPPORTED, "0A000", "The stand-in cannot run this statement.")
            said = json.loads(bytes(answer.body))
            met_another = said.get("code") == f"{CONFLICT:06d}"
            if met_another and (session.transaction or time.monotonic() > deadline):
                raise Refused(LOCKED, "57014", "The lock on the table has not been released in time.")
            if not met_another:
                return answer if said["success"] else JSONResponse(said | {"message": reworded(said)})
            await asyncio.sleep(0.02)

    async def end_transaction(self, session: Session, how: str) -> None:
        """COMMIT or ROLLBACK; its locks are free."""
        transaction, session.transaction = session.transaction, None
        if transaction and transaction.begun:
            await run_in_threadpool(session.conn._duck_conn.execute, how)
        self.locks = {table: holder for table, holder in self.locks.items() if holder is not session}

    async def _lock(self, session: Session, table: str) -> None:
        deadline = time.monotonic() + float(session.parameters.get("LOCK_TIMEOUT", "43200"))
        while self.locks.get(table, session) is not session:
            holder = self.locks[table]
            if holder.has_vanished:
                await self.end_transaction(holder, "ROLLBACK")
            elif time.monotonic() > deadline:
                raise Refused(LOCKED, "57014", "The lock on the table has not been released in time.")
            await asyncio.sleep(0.01)
        self.locks[table] = session

    # --- statements that fakesnow does not know ---

    @property
    def _own(self) -> dict[str, Callable[[Session, re.Match[str]], Any]]:
        return {
            r"(?:begin|start\s+transaction)(?:\s+(?:work|transaction))?(?:\s+name\s+(\S+))?$": self._begin,
            r"(commit|rollback)(?:\s+work)?$": self._end,
            r"show\s+transactions$": self._show_transactions,
            r"select\s+current_transaction\(\)$": self._current_transaction,
            r"select\s+system\$abort_transaction\((\d+)\)$": self._abort,
            r"alter\s+session\s+set\s+(.*)$": self._set_parameters,
            r"copy\s+into\s+'(?:s3|gcs)://([^']*)/'\s+from\s+\((.*)\)\s+storage_integration": self._unload,
            r"show\s+parameters\s+like\s+'(\w+)'": self._show_parameter,
        }

    async def _begin(self, session: Session, found: re.Match[str]) -> str:
        if session.transaction is None:
            number = next(self.numbers)
            session.transaction = Transaction(number, (found[1] or str(number)).strip('"'))
        return status()

    async def _end(self, session: Session, found: re.Match[str]) -> str:
        await self.end_transaction(session, found[1].upper())
        return status()

    async def _show_transactions(self, session: Session, _: re.Match[str]) -> str:
        mine = [s for s in self.sessions.values() if s.user == session.user and s.transaction]
        rows = [(s.transaction.number, s.user, s.number, s.transaction.name, "running") for s in mine if s.transaction]
        return table_of(["id", "user", "session", "name", "state"], rows)

    async def _current_transaction(self, session: Session, _: re.Match[str]) -> str:
        number = session.transaction.number if session.transaction else "NULL::INTEGER"
        return f'SELECT {number} AS "CURRENT_TRANSACTION()"'

    async def _abort(self, session: Session, found: re.Match[str]) -> str:
        for other in list(self.sessions.values()):
            if other.transaction and other.transaction.number == int(found[1]) and other.user == session.user:
                async with other.one_at_a_time:
                    await self.end_transaction(other, "ROLLBACK")
        return status(f"Transaction {found[1]} is aborted.")

    async def _set_parameters(self, session: Session, found: re.Match[str]) -> str:
        for name, value in re.findall(r"(\w+)\s*=\s*('(?:[^']|'')*'|\S+)", found[1]):
            session.parameters[name.upper()] = value.strip("'").replace("''", "'")
        return status()

    async def _unload(self, session: Session, found: re.Match[str]) -> str:
        def write() -> tuple[str, int, int]:
            folder, cursor = Path(BUCKETS, found[1]), session.conn.cursor()
            folder.mkdir(parents=True, exist_ok=True)
            cursor.execute(found[2], server=True)
            path = folder / "data_0_0_0.snappy.parquet"
            pq.write_table(cursor._arrow_table, path)
            return path.name, path.stat().st_size, cursor._arrow_table.num_rows

        return table_of(["FILE_NAME", "FILE_SIZE", "ROW_COUNT"], [await run_in_threadpool(write)])

    async def _show_parameter(self, session: Session, found: re.Match[str]) -> str:
        name = found[1].upper()
        return table_of(["key", "value", "default", "level"], [(name, session.parameters.get(name, ""), "", "SESSION")])

    async def drop_stage(self, session: Session, name: str) -> None:
        """Drop a temporary stage with its files."""
        catalog, schema, plain = stage.parts_from_var(name, session.conn.database, session.conn.schema)
        shutil.rmtree(f"{stage.LOCAL_BUCKET_PATH}/{catalog}/{schema}/{plain}", ignore_errors=True)
        statement = "DELETE FROM _fs_global._fs_information_schema._fs_stages WHERE name = ?"
        await run_in_threadpool(session.conn._duck_conn.execute, statement, [plain])

    # --- for tests ---

    async def show_log(self, _: Request) -> Response:
        """Query tag and text of each statement."""
        return JSONResponse(self.log)

    async def show_stages(self, _: Request) -> Response:
        """The temporary stages that are there."""
        return JSONResponse([name for session in self.sessions.values() for name in session.stages])

    async def expire(self, request: Request) -> Response:
        """Let every session's token expire, or every session (`?all=1`)."""
        if request.query_params.get("all"):
            for session in self.sessions.values():
                await self.end_transaction(session, "ROLLBACK")
            self.sessions.clear()
        self.expired |= set(self.sessions)
        return JSONResponse({})


async def content(request: Request) -> bytes:
    """The body of a request, unpacked."""
    body = await request.body()
    return gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body


def status(text: str = "Statement executed successfully.") -> str:
    """A query whose result is this status."""
    return f"SELECT '{text}' AS \"status\""


def table_of(names: list[str], rows: list[tuple[Any, ...]]) -> str:
    """A query whose result is this table."""
    quoted = [name.join('""') for name in names]
    if not rows:
        return f"SELECT {', '.join(f'NULL::VARCHAR AS {name}' for name in quoted)} WHERE 1 = 0"
    lines = (
        ", ".join(str(v) if isinstance(v, int) else "'" + str(v).replace("'", "''") + "'" for v in row) for row in rows
    )
    return f"SELECT * FROM (VALUES {', '.join(f'({line})' for line in lines)}) AS t ({', '.join(quoted)})"


def reworded(said: dict[str, Any]) -> str:
    """The message of an error as the service words it."""
    text = str(said["message"])
    if said["code"] == "001003":
        return "SQL compilation error:\nsyntax error line 1 at position 0 unexpected word."
    if said["code"] == "002003" and (
        found := re.search(r"(?:with name|View|Table) \"?([^\" ]+)\"? does not exist", text)
    ):
        return f"SQL compilation error:\nObject '{found[1]}' does not exist or not authorized."
    if said["code"] == "000904" and (found := re.search(r'column "(.+?)" not found', text)):
        return f"SQL compilation error: error line 1 at position 7\ninvalid identifier '{found[1]}'"
    return text


def full_name(session: Session, name: str) -> str:
    """Schema and table of a name, as the lock's name."""
    parts = [part.strip('"') if part.startswith('"') else part.upper() for part in re.findall(r'"[^"]*"|[^."]+', name)]
    return ".".join([session.conn.schema or "", *parts][-2:])


# --- what fakesnow does otherwise than the service ---


def keep_numbers(expression: exp.Expression) -> exp.Expression:
    """NUMBER(p,0) and integers, which fakesnow keeps in 64 bits, in as many digits as they have."""
    kinds = (exp.DataType.Type.INT, exp.DataType.Type.SMALLINT, exp.DataType.Type.TINYINT, exp.DataType.Type.BIGINT)
    bare = isinstance(expression, exp.DataType) and expression.this == exp.DataType.Type.DECIMAL
    if isinstance(expression, exp.DataType) and (expression.this in kinds or (bare and not expression.expressions)):
        return exp.DataType.build("DECIMAL(38, 0)")
    if isinstance(expression, exp.DataType) and expression.this in (
        exp.DataType.Type.BINARY,
        exp.DataType.Type.VARBINARY,
    ):
        return exp.DataType.build("VARBINARY")
    return expression


def without_keys(expression: exp.Expression) -> exp.Expression:
    """A table without the keys that the service does not enforce."""
    if isinstance(expression, exp.Schema):
        kept = [
            part
            for part in expression.expressions
            if not isinstance(part, (exp.PrimaryKey, exp.UniqueColumnConstraint))
        ]
        expression.set("expressions", kept)
    if isinstance(expression, exp.ColumnDef):
        unenforced = (exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint)
        kept = [c for c in expression.args.get("constraints") or [] if not isinstance(c.args.get("kind"), unenforced)]
        expression.set("constraints", kept)
    return expression


EXECUTE, DESCRIBE, BIND = (
    fakesnow.cursor.FakeSnowflakeCursor._execute,
    rowtype.describe_as_rowtype,
    fake.from_binding,
)


def patch() -> None:
    """Bend fakesnow where it is wrong."""
    transforms.integer_precision = lambda e: without_keys(keep_numbers(e))
    transforms.merge = lambda e: [e]
    transforms.extract_text_length = lambda e: e  # it stumbles over names with quotes
    transforms.numeric_agg_implicit_cast = lambda e: e  # it makes floats of decimals
    fakesnow.arrow.timestamp_to_sf_struct = timestamps
    fakesnow.cursor.FakeSnowflakeCursor._execute = execute
    fakesnow.copy_into._describe_table = describe_table
    fakesnow.copy_into._get_table_columns = lambda *place: [name for name, _ in describe_table(*place)]
    fake.describe_as_rowtype = with_scales
    fake.from_binding = from_binding


def execute(cursor: Any, transformed: exp.Expression, params: Any = None) -> None:
    """Run a statement; its errors have the service's numbers."""
    try:
        if isinstance(transformed, exp.Merge):
            transformed, params = merged(cursor._duck_conn, transformed, params), None
        EXECUTE(cursor, transformed, params)
    except (ProgrammingError, duckdb.Error) as error:
        raise numbered(error) from None


def numbered(error: ProgrammingError | duckdb.Error) -> Exception:
    """An error with the number that the service gives it."""
    text = str(error)
    if isinstance(error, ProgrammingError):
        if "already exists" in text:
            return ProgrammingError(msg=error.msg, errno=2002, sqlstate="42710")
        return ProgrammingError(msg=error.msg, errno=904, sqlstate="42000") if error.errno == 2043 else error
    if isinstance(error, duckdb.ConstraintException) and "NOT NULL" in text:
        return ProgrammingError(msg="NULL result in a non-nullable column", errno=100072, sqlstate="22000")
    if isinstance(error, (duckdb.ConstraintException, duckdb.TransactionException)):
        return ProgrammingError(msg=text, errno=CONFLICT, sqlstate="57014")
    if isinstance(error, (duckdb.DataError, duckdb.InvalidInputException)):
        return ProgrammingError(msg=text.partition("\n")[0], errno=100038, sqlstate="22018")
    return error


def with_scales(results: list[Any]) -> list[Any]:
    """The columns of a result; the engine's timestamps have microseconds."""
    columns: list[Any] = DESCRIBE(results)
    for column in columns:
        if column["type"].startswith("timestamp"):
            column["scale"] = 6
    return columns


def from_binding(binding: dict[str, Any]) -> Any:
    """The value of a parameter, exactly."""
    kind, value = binding["type"], binding["value"]
    if value is None or kind == "TEXT":
        return value
    if kind == "FIXED":
        return Decimal(value) if "." in value or "E" in value else int(value)
    if kind == "REAL":
        return float(value)
    if kind.startswith("TIMESTAMP"):
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=int(value.split()[0]) // 1_000)
    return BIND(binding)


def merged(duck_conn: Any, merge: exp.Merge, params: Any) -> exp.Expression:
    """The counts of a MERGE, run by the engine itself: fakesnow's own takes no other statement beside it."""
    actions = duck_conn.execute(f"{merge.sql(dialect='duckdb')} RETURNING merge_action", params).to_arrow_table()
    counts = Counter(actions.column(0).to_pylist())
    kinds = {bool(when.args.get("matched")) for when in merge.args["whens"].expressions}
    columns = [f'{counts["INSERT"]} AS "number of rows inserted"'] if False in kinds else []
    columns += [f'{counts["UPDATE"]} AS "number of rows updated"'] if True in kinds else []
    return parse_one(f"SELECT {', '.join(columns)}", read="duckdb")


def timestamps(column: pa.ChunkedArray) -> pa.Array:
    """Timestamps as the service sends them; fakesnow forgets which are null."""
    ticks = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not ticks.type.tz:
        return ticks.cast(pa.int64())
    seconds, rest = np.divmod(ticks.cast(pa.int64()).fill_null(0).to_numpy(), 1_000_000)
    parts = {
        "epoch": seconds,
        "fraction": (rest * 1_000).astype("int32"),
        "timezone": np.full(len(ticks), 1440, "int32"),
    }
    arrays = {name: pa.array(part) for name, part in parts.items()}
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    return pa.StructArray.from_arrays(list(arrays.values()), fields=fields, mask=ticks.is_null())


def describe_table(table: Any, duck_conn: Any, database: str | None, schema: str | None) -> list[tuple[str, str]]:
    """Names and types of a table's columns, the session's temporary tables first."""
    parts = [table.catalog or database, table.db or schema, table.name]
    known = "SELECT 1 FROM duckdb_tables() WHERE table_name = ? AND "  # an error would end the transaction
    if duck_conn.execute(f"{known} temporary", [table.name]).fetchone():
        parts = ["temp", "main", table.name]
    elif not duck_conn.execute(f"{known} schema_name = ?", [table.name, parts[1]]).fetchone():
        words = f"Object '{table.name}' does not exist or not authorized."
        raise ProgrammingError(msg=words, errno=2003, sqlstate="42S02")
    place = ".".join('"' + part.replace('"', '""') + '"' for part in parts)
    return [(row[0], row[1]) for row in duck_conn.execute(f"DESCRIBE {place}").fetchall()]


def end_with_parent() -> None:
    """End this process when the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve on the port that the command line names."""
    patch()
    end_with_parent()
    fake.shared_fs.connect(DATABASE, "PUBLIC")
    fake.shared_fs.create_database_on_connect = fake.shared_fs.create_schema_on_connect = False
    service = Service()
    own = [
        Route("/session/v1/login-request", service.log_in, methods=["POST"]),
        Route("/session/token-request", service.renew, methods=["POST"]),
        Route("/session", service.end_session, methods=["POST"]),
        Route("/queries/v1/query-request", service.query, methods=["POST"]),
        Route("/telemetry/send", lambda _: JSONResponse({"success": True}), methods=["POST"]),
        Route("/_test/log", service.show_log),
        Route("/_test/stages", service.show_stages),
        Route("/_test/expire", service.expire, methods=["POST"]),
    ]
    taken = {route.path for route in own}
    app = Starlette(routes=own + [route for route in fake.routes if route.path not in taken])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
