"""Watchdog: a small program that ends a process whose owner is gone without a word, as after kill -9.

It is run as a file, by itself: `python -I -S watchdog.py PID`, with a pipe that only the owner holds as its input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

if __name__ == "__main__" and not sys.stdin.buffer.read():
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(sys.argv[1]), signal.SIGTERM)
