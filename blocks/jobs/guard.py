"""Guard: a small program that runs a command in a process group of its own, and ends the group when its owner is gone.

It is run as a file, by itself: `python -I -S guard.py CONTROL OWNER GRACE COMMAND...`. CONTROL is the number of a
socket that it shares with its owner, the process OWNER. When that socket is shut, or the owner is dead, the group gets
SIGINT, and after GRACE seconds SIGKILL. The exit code of the command is the last thing that is said on the socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time

LOOK_S = 0.5
"""How often the owner is looked at; a shut socket is noticed at once."""
ASKED = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}


def main(control: socket.socket, owner: int, grace_s: float, command: list[str]) -> None:
    """Run the command. Never return: at the end the process group is killed, and this process with it."""
    awake, wakes = socket.socketpair()
    for end in (awake, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    for number in (*ASKED, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # an ignored one would be ignored by the command, too
    child = subprocess.Popen(command)  # noqa: S603 (its owner's)
    kill_at = None
    while child.poll() is None and (kill_at is None or time.monotonic() < kill_at):
        ready = select.select([awake] if kill_at else [awake, control], [], [], LOOK_S)[0]
        heard = set(awake.recv(4096)) if awake in ready else set()
        if kill_at is None and (control in ready or heard & ASKED or os.getppid() != owner):
            kill_at = time.monotonic() + grace_s
            os.killpg(0, signal.SIGINT)
    with contextlib.suppress(OSError):
        control.sendall(str(child.returncode).encode())
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
