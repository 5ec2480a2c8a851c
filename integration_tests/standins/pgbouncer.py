"""A real pgbouncer in front of a PostgreSQL server, in either of the modes that people run it in."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from integration_tests.standins.process import free_port, spawn, stop, wait

if TYPE_CHECKING:
    from typing import Self

    from integration_tests.standins.postgres import Address, PostgresServer

Pooling = Literal["session", "transaction"]

INSTALL = "apt-get install --yes pgbouncer"
CONFIG = """
[databases]
* = host={host} port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = {pooling}
default_pool_size = 20
max_client_conn = 200
server_reset_query = DISCARD ALL
ignore_startup_parameters = {ignored}
log_connections = 0
log_disconnections = 0
"""


def find_pgbouncer() -> str | None:
    """The program, None where it is not installed."""
    return shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


class PgBouncer:
    """One pgbouncer; `with PgBouncer(server, "transaction") as pooler:` ends and removes it.

    Two clients in turn get two server connections in turn, as they do on a busy one: `server_round_robin`.

    Args:
        server: The server behind it.
        pooling: Whether a client keeps its server connection for its session, or for a transaction only.
        ignored: Startup parameters that it takes and drops, separated by commas.
    """

    def __init__(self, server: PostgresServer, pooling: Pooling, *, ignored: str = "") -> None:
        program = find_pgbouncer()
        if program is None:
            raise RuntimeError(f"No pgbouncer here. Install it: {INSTALL}")
        self._program = program
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="etl-pgbouncer-"))
        self._user_id = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self.port = free_port()
        users, self._config = self._folder / "users", self._folder / "config"
        users.write_text(f'"{server.user}" "{server.password}"\n')
        text = CONFIG.format(
            host=server.host, server_port=server.port, port=self.port, users=users, pooling=pooling, ignored=ignored
        )
        if pooling == "transaction":
            text += "server_round_robin = 1\n"
        self._config.write_text(text)
        if self._user_id is not None:
            for path in (self._folder, users, self._config):
                os.chown(path, self._user_id, self._user_id)

    def address(self, database: Address) -> Address:
        """A database of the server, through the pooler; it takes no TLS."""
        return replace(database, host="127.0.0.1", port=self.port, ca_file=None)

    def __enter__(self) -> Self:
        log = self._folder / "log"
        self._process = spawn([self._program, self._config], log=log, user=self._user_id)
        try:
            wait(lambda: self.address(self._server.address).connect(connect_timeout=2).close(), self._process, log=log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)
