"""Snowflake: fakesnow's server in a process of its own, with what it lacks added by `snowflake_app`."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shutil
import tempfile
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from blocks.testing.http_proxy import Fault, HttpFaultProxy, whole_response
from integration_tests.standins.process import HOST, free_port, listening, spawn, stop, wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from subprocess import Popen
    from typing import Self

    from blocks.testing.http_proxy import Request

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-snowflake/bin/python"
"""An environment of its own: the versions that fakesnow needs are not those that dlt needs."""
Kind = Literal["drop answer", "cut answer", "refuse", "stall"]
USER, PASSWORD = "LOADER", "l0ader"
READER, READER_PASSWORD = "READER", "r3ader"
OAUTH_TOKEN = "oauth-token"
DATABASE = "tests"


class SnowflakeServer:
    """A running stand-in; a context manager.

    Attributes:
        url: Where it answers.
    """

    def __init__(self, *, vanished_s: float = 3) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._folder = Path(tempfile.mkdtemp(prefix="etl-snowflake-"))
        self._vanished_s = vanished_s
        self._process: Popen[bytes] | None = None

    def __enter__(self) -> Self:
        log = self._folder / "server.log"
        env = {
            "TMPDIR": str(self._folder),
            "STANDIN_VANISHED_S": str(self._vanished_s),
            "STANDIN_BUCKETS": str(self._folder),
        }
        if not PYTHON.exists():
            raise FileNotFoundError(f"There is no {PYTHON}; run 'make standins'.")
        command = [PYTHON, "-m", "integration_tests.standins.snowflake_app", self.port]
        self._process = spawn(command, log=log, env=env, cwd=ROOT)
        wait(listening(self.port), self._process, log=log)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        stop(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def connection(self, port: int | None = None) -> dict[str, Any]:
        """How the driver reaches it, directly or through a proxy's port."""
        return {"host": HOST, "port": port or self.port, "protocol": "http"}

    def statements(self) -> list[tuple[str, str]]:
        """Query tag and text of each statement so far."""
        return [(tag, sql) for tag, sql in self._get("/_test/log")]

    def stages(self) -> list[str]:
        """The temporary stages that are there."""
        return list(self._get("/_test/stages"))

    def expire(self, *, sessions: bool = False) -> None:
        """Let the tokens of all sessions expire, or the sessions themselves."""
        request = urllib.request.Request(f"{self.url}/_test/expire{'?all=1' if sessions else ''}", method="POST")  # noqa: S310
        with contextlib.closing(urllib.request.urlopen(request, timeout=10)):  # noqa: S310 (loopback)
            pass

    def bucket(self, name: str) -> Path:
        """The folder that stands for a bucket which a storage integration reaches."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _get(self, path: str) -> list[Any]:
        with contextlib.closing(urllib.request.urlopen(self.url + path, timeout=10)) as answer:  # noqa: S310 (loopback)
            found: list[Any] = json.load(answer)
            return found


class SnowflakeProxy(HttpFaultProxy):
    """A proxy that loses requests by their statement or their number, each time that the driver repeats them.

    Attributes:
        requests: What was asked so far, repetitions left out: the statement, or method and path.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.requests: list[str] = []
        self._plans: list[tuple[Kind, str, int | None]] = []
        self._seen: dict[str, Kind | None] = {}

    def lose(self, kind: Kind, statement: str = "", *, number: int | None = None) -> None:
        """Lose the next request whose statement matches, or the one of this number.

        `kind` is "drop answer" (the server does it), "cut answer" (the same, and some of the answer comes), "refuse"
        (it never hears of it) or "stall" (it does it, and nothing comes back and nothing closes).
        """
        self._plans.append((kind, statement, number))

    def take_fault(self, request: Request) -> Fault | None:
        """The fault that strikes at this request."""
        key = request.query.get("requestId") or request.query.get("request_id") or f"{request.method} {request.path}"
        text = f"{request.method} {request.path}"
        if request.path == "/queries/v1/query-request":
            body = request.read()
            text = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)["sqlText"]
        if key not in self._seen:
            self._seen[key] = self._kind_of(text)
            self.requests.append(text)
        kind = self._seen[key]
        if kind is None:
            return None
        response = whole_response(503) if kind == "refuse" else None
        if kind == "cut answer":
            fault = Fault("reset answer", "", "", 0, 0, after_bytes=9)
        else:
            fault = Fault(kind, "", "", 0, 0, response)
        self._faults.append(fault)  # so that what it holds back is let go in the end
        return fault

    def _kind_of(self, text: str) -> Kind | None:
        for plan in self._plans:
            kind, statement, number = plan
            if len(self.requests) == number if number is not None else re.search(statement, text, re.IGNORECASE):
                self._plans.remove(plan)
                return kind
        return None


def new_schema_name() -> str:
    """A name that no other test has."""
    return f"s{uuid.uuid4().hex[:12]}"


def fields(schema: str, **changes: Any) -> Mapping[str, Any]:
    """The fields of a block for a schema of the stand-in."""
    return {"database": DATABASE, "schema": schema, "warehouse": "compute_wh", **changes}


@pytest.fixture(scope="session")
def snowflake_server() -> Iterator[SnowflakeServer]:
    """The stand-in for Snowflake."""
    with SnowflakeServer() as server:
        yield server
