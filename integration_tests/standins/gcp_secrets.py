"""Google's Secret Manager, as far as its REST API is documented and used here; there is no emulator of it.

https://cloud.google.com/secret-manager/docs/reference/rest
"""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import google_crc32c
import pytest

from blocks.testing.http_proxy import HttpFaultProxy, whole_response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blocks.testing.http_proxy import Request, Response

NAME = re.compile(r"/v1/(projects/[\w-]+)/secrets(?:/([\w-]+)(?:/versions/([\w-]+))?)?(?::(\w+))?")
STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
PERMISSIONS = {
    "create": "secretmanager.secrets.create",
    "get": "secretmanager.secrets.get",
    "delete": "secretmanager.secrets.delete",
    "addVersion": "secretmanager.versions.add",
    "access": "secretmanager.versions.access",
    "destroy": "secretmanager.versions.destroy",
    "disable": "secretmanager.versions.disable",
}
IDENTITIES = {
    "owner": set(PERMISSIONS.values()),
    "reader": {"secretmanager.versions.access"},
    "adder": {"secretmanager.versions.add", "secretmanager.secrets.create"},
    "nobody": set(),
}
MAX_BYTES = 65_536


@dataclass
class Version:
    """One version of a secret."""

    data: str
    checksum: int
    state: str = "ENABLED"


@dataclass
class Secret:
    """A secret and its versions, the first of which is number 1."""

    versions: list[Version] = field(default_factory=list)


class Refused(Exception):  # noqa: N818 (an answer)
    """What the service says no with."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or STATUSES[status]


class SecretManager(HttpFaultProxy):
    """The service; an access token is the name of an identity: owner, reader, adder or nobody.

    Attributes:
        secrets: By full name.
    """

    project = "shop"

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")  # nothing is forwarded
        self._secrets_lock = threading.Lock()
        self.secrets: dict[str, Secret] = {}

    def intercept(self, request: Request) -> Response:
        """The service's answer."""
        try:
            with self._secrets_lock:
                answer = self._answer(request)
        except Refused as no:
            error = {"code": no.status, "message": str(no), "status": no.kind}
            return _response(no.status, {"error": error})
        return _response(200, answer)

    def _answer(self, request: Request) -> dict[str, Any]:
        found = NAME.fullmatch(request.path)
        if not found:
            raise Refused(404, "There is no such method.")
        project, name, number, verb = found.groups()
        content = request.read()
        body = json.loads(content) if content else {}
        path = f"{project}/secrets/{name or request.query.get('secretId', '')}"
        verb = verb or {"POST": "create", "GET": "get", "DELETE": "delete"}[request.method]
        allowed = _permissions(request)
        if verb == "testIamPermissions":
            return {"permissions": [each for each in body["permissions"] if each in allowed and path in self.secrets]}
        if PERMISSIONS[verb] not in allowed:
            raise Refused(403, f"Permission '{PERMISSIONS[verb]}' denied for resource '{path}' (or it may not exist).")
        if verb == "create":
            if path in self.secrets:
                raise Refused(409, f"Secret [{path}] already exists.", "ALREADY_EXISTS")
            self.secrets[path] = Secret()
            return {"name": path}
        if path not in self.secrets:
            raise Refused(404, f"Secret [{path}] not found or has no versions.")
        if verb == "addVersion":
            return self._add(path, body["payload"])
        if verb == "delete":
            del self.secrets[path]
            return {}
        if verb == "get":
            return {"name": path}
        return self._version(path, number, verb)

    def _add(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        data = base64.b64decode(payload["data"])
        if len(data) > MAX_BYTES:
            raise Refused(400, "The payload is larger than 64KiB.")
        checksum = google_crc32c.value(data)
        if int(payload["dataCrc32c"]) != checksum:
            raise Refused(400, "The provided checksum does not match the data.")
        self.secrets[path].versions.append(Version(payload["data"], checksum))
        name = f"{path}/versions/{len(self.secrets[path].versions)}"
        return {"name": name, "state": "ENABLED", "clientSpecifiedPayloadChecksum": True}

    def _version(self, path: str, number: str, verb: str) -> dict[str, Any]:
        versions = self.secrets[path].versions
        at = len(versions) if number == "latest" else int(number)
        if not 0 < at <= len(versions):
            raise Refused(404, f"Secret Version [{path}/versions/{number}] not found.")
        version, name = versions[at - 1], f"{path}/versions/{at}"
        if verb != "access":
            version.state = {"destroy": "DESTROYED", "disable": "DISABLED"}[verb]
            return {"name": name, "state": version.state}
        if version.state != "ENABLED":
            raise Refused(400, f"Secret Version [{name}] is in {version.state} state.", "FAILED_PRECONDITION")
        return {"name": name, "payload": {"data": version.data, "dataCrc32c": str(version.checksum)}}


def _permissions(request: Request) -> set[str]:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token not in IDENTITIES:
        raise Refused(401, "Request had invalid authentication credentials.")
    return IDENTITIES[token]


def _response(status: int, body: dict[str, Any]) -> Response:
    return whole_response(status, json.dumps(body).encode(), {"Content-Type": "application/json; charset=UTF-8"})


@pytest.fixture(scope="session")
def secret_manager() -> Iterator[SecretManager]:
    """Google's Secret Manager with nothing in it."""
    with SecretManager() as server:
        yield server
