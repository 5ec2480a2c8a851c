"""Azure Blob Storage: Microsoft's own stand-in Azurite, an npm package that `make test` installs beside pytest.

What it does unlike Azure: it keeps no versions and no soft-deleted blobs, it answers a wrong key with
`AuthorizationFailure` (Azure: `AuthenticationFailed`), it checks neither signature nor rights of a bearer token, and
it knows no Put Block From URL, which `azurite_blocks.js` adds.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import shutil
import ssl
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from integration_tests.standins.process import HOST, free_port, listening, spawn, stop, wait, write_certificates

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Self

MAIN = Path(sys.prefix) / "azurite/node_modules/azurite/dist/src/blob/main.js"
MISSING = f"Azurite is not in {sys.prefix}: 'make test' installs it where there is npm."


class AzuriteServer:
    """A server on loopback with two storage accounts; its blobs are in memory.

    With `tls` it serves HTTPS, which `ca_file` vouches for, and takes bearer tokens such as `TokenServer` gives.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="standin-azure-"))
        self.account, self.other_account = "etlblocks", "neighbour"
        self.key, self.other_key = (base64.b64encode(secrets.token_bytes(64)).decode() for _ in range(2))
        self.tls = tls
        self.ca_file, self.certificate, self.key_file = write_certificates(self.folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the account, as `account_url` of the credentials."""
        return self.url_of(self.account)

    def url_of(self, account: str) -> str:
        """The URL of one of the two accounts."""
        return f"{'https://localhost' if self.tls else f'http://{HOST}'}:{self.port}/{account}"

    def __enter__(self) -> Self:
        if not MAIN.exists() or shutil.which("node") is None:
            pytest.skip(MISSING)
        for attempt in range(3):
            try:
                self._start()
            except RuntimeError:  # somebody took the port meanwhile
                if attempt == 2:
                    raise
            else:
                break
        return self

    def _start(self) -> None:
        self.port = free_port()
        log = self.folder / "log.txt"
        command: list[str | Path | int] = ["node", "--require", Path(__file__).with_name("azurite_blocks.js"), MAIN]
        command += ["--blobHost", HOST, "--blobPort", self.port, "--inMemoryPersistence", "--silent"]
        command += ["--skipApiVersionCheck", "--disableTelemetry"]
        if self.tls:
            command += ["--cert", self.certificate, "--key", self.key_file, "--oauth", "basic"]
        accounts = {self.account: self.key, self.other_account: self.other_key}
        env = {
            "AZURITE_ACCOUNTS": ";".join(f"{name}:{key}" for name, key in accounts.items()),
            "NODE_EXTRA_CA_CERTS": str(self.ca_file),
        }
        self._process = spawn(command, log=log, env=env, cwd=self.folder)
        wait(listening(self.port), self._process, log=log)

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            stop(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> Any:
        """A BlobServiceClient with full access, for what a test has to arrange or to look at."""
        from azure.storage.blob import BlobServiceClient

        verify = {"connection_verify": str(self.ca_file)} if self.tls else {}
        return BlobServiceClient(self.url, credential=self.key, retry_total=0, **verify)

    def make_container(self) -> str:
        """The name of a new, empty container."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_container(name)
        return name

    def sas(self, container: str, permission: str, *, lasts: dt.timedelta = dt.timedelta(hours=1)) -> str:
        """A token for one container with these rights, such as "rl" for reading and listing."""
        from azure.storage.blob import generate_container_sas

        expiry = dt.datetime.now(dt.UTC) + lasts
        return generate_container_sas(self.account, container, self.key, permission=permission, expiry=expiry)


class TokenServer:
    """What gives tokens on Azure, on loopback: the endpoint of a managed identity, and with TLS Entra ID itself.

    Attributes:
        secret: What a service principal has to know.
        asked: The requests that were given a token, one dict of the request's fields each.
        lasts_s: How long the next tokens hold.
    """

    secret = "service principal secret"

    def __init__(self, certificate: Path | None = None, key_file: Path | None = None) -> None:
        self.asked: list[dict[str, str]] = []
        self.lasts_s = 3600
        self._server = ThreadingHTTPServer((HOST, 0), _token_handler(self))
        self.url = f"http://{HOST}:{self._server.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key_file)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="token-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self) -> str:
        """A token that Azurite takes; nobody signed it."""
        now = int(time.time())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/etl/",
            "iat": now,
            "nbf": now - 60,
            "exp": now + self.lasts_s,
            "jti": uuid.uuid4().hex,
            "oid": "00000000-0000-0000-0000-000000000003",
            "tid": "00000000-0000-0000-0000-000000000002",
        }
        parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
        return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), "unsigned"])


def _token_handler(server: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """What Entra ID says of itself, and a managed identity's token."""
            place, _, query = self.path.partition("?")
            tenant = place.split("/")[1]
            if tenant:
                oauth = f"{server.url}/{tenant}/oauth2/v2.0"
                self._answer(
                    {
                        "authorization_endpoint": f"{oauth}/authorize",
                        "token_endpoint": f"{oauth}/token",
                        "issuer": f"{server.url}/{tenant}/v2.0",
                    }
                )
                return
            self._give(dict(parse_qsl(query)), expires_on=str(int(time.time()) + server.lasts_s))

        def do_POST(self) -> None:
            """A service principal's token, for the right secret."""
            fields = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            if fields["client_secret"] == server.secret:
                self._give(fields, expires_in=server.lasts_s)
            else:
                words = "AADSTS7000215: Invalid client secret provided."
                self._answer({"error": "invalid_client", "error_description": words}, 401)

        def _give(self, fields: dict[str, str], **until: Any) -> None:
            server.asked.append(fields)
            self._answer({"access_token": server.token(), "token_type": "Bearer", **until})

        def _answer(self, answer: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    """An Azure Blob Storage for the whole session; tests make their own containers in it."""
    with AzuriteServer() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_tls() -> Iterator[AzuriteServer]:
    """Another one, over TLS, which takes bearer tokens."""
    with AzuriteServer(tls=True) as server:
        yield server
