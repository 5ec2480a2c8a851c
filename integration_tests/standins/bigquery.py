"""BigQuery: bqemulator in an environment of its own, which `make bigquery-standin` installs, with what it lacks.

What it does unlike BigQuery: quotas, costs, rights and `maximum_bytes_billed` mean nothing to it, scripts run one by
one and conflict only where one is held meanwhile, decimals end at 38 digits, and a dry run reads no bytes.
`bigquery_server.py` adds what it can be taught.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration_tests.standins.process import HOST, free_ports, spawn, stop, wait

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Self

PLACES = (Path(__file__).parents[2] / ".venv-bigquery",)
MISSING = "The stand-in for BigQuery is not installed: 'make bigquery-standin' does it."
PROJECT = "etl-blocks"


class BigQueryServer:
    """A server on loopback; its tables are in memory.

    Attributes:
        url: Where its REST API is, as `endpoint_url` of the credentials.
        storage_url: Where its Storage API is.
        uris: The folder that stands for Cloud Storage: `gs://bucket/key` is the file `bucket/key` in it.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="standin-bigquery-"))
        self.uris = self.folder / "gs"
        self.uris.mkdir()
        self.url = self.storage_url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        place = next((place for place in PLACES if (place / "bin/python").exists()), None)
        if place is None:
            pytest.skip(MISSING)
        rest, grpc = free_ports(2)
        self.url, self.storage_url = f"http://{HOST}:{rest}", f"http://{HOST}:{grpc}"
        log = self.folder / "log.txt"
        env = {
            "HOME": str(place / "home"),
            "BQEMU_GCS_LOCAL_ROOT": str(self.uris),
            "BQEMU_DEFAULT_PROJECT_ID": PROJECT,
            "BQEMU_UPLOAD_STAGING_DIR": str(self.folder / "uploads"),
            "TMPDIR": str(self.folder),
        }
        command = [place / "bin/python", Path(__file__).with_name("bigquery_server.py"), rest, grpc]
        self._process = spawn(command, log=log, env=env, cwd=self.folder)
        wait(lambda: self._ask("held"), self._process, log=log)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            stop(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_dataset(self) -> str:
        """The name of a new, empty dataset."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._post(f"/bigquery/v2/projects/{PROJECT}/datasets", {"datasetReference": {"datasetId": name}})
        return name

    def hold(self, pattern: str) -> None:
        """Let jobs in which the regular expression is found run until they are released."""
        self._ask("hold", pattern)

    def held(self) -> list[str]:
        """The ids of the jobs that are held."""
        return list(self._ask("held"))

    def release(self) -> None:
        """Let all jobs end."""
        self._ask("release")

    def _ask(self, what: str, text: str = "") -> Any:
        return self._send(f"/_test/{what}", text.encode())

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._send(path, json.dumps(body).encode())

    def _send(self, path: str, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)  # noqa: S310 (our own server)
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)


@pytest.fixture(scope="session")
def bigquery_server() -> Iterator[BigQueryServer]:
    """The stand-in for BigQuery."""
    with BigQueryServer() as server:
        yield server
