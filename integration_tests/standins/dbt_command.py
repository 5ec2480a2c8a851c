"""A command `dbt` whose imports were made once: a process that forks for each call. They are half of a call's time."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CALL = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = {{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(server, [b"!"], [0, 1, 2])
    server.sendall(json.dumps(call).encode() + b"\\n")
    sys.exit(int(server.makefile().readline()))
"""


class DbtCommand:
    """The command, as `with DbtCommand(folder) as path:`.

    Args:
        folder: Where it is put.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        address = self._folder / "socket"
        path = self._folder / "dbt"
        path.write_text(CALL.format(python=sys.executable, address=str(address)))
        path.chmod(0o755)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(address))
        listening.listen()
        with listening:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(listening.fileno())], pass_fds=[listening.fileno()]
            )
        return path

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def serve(listening: socket.socket) -> None:
    """Run each call in a process of its own, one after the other."""
    import dbt.adapters.duckdb
    import dbt.adapters.postgres  # noqa: F401
    from dbt.cli.main import cli

    gc.freeze()
    gc.disable()  # a call is short, and a sixth of its time would go there
    while True:
        connection, _ = listening.accept()
        with connection:
            _, files, _, _ = socket.recv_fds(connection, 1, 3)
            call = json.loads(connection.makefile().readline())
            child = os.fork()
            if child == 0:
                for number, file in enumerate(files):
                    os.dup2(file, number)
                os.chdir(call["folder"])
                os.environ.clear()
                os.environ.update(call["environment"])
                sys.argv = ["dbt", *call["words"]]
                cli()
            for file in files:
                os.close(file)
            _, status = os.waitpid(child, 0)
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
