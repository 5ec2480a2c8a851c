"""Many objects, and a large one, through one store, in a process of its own: what it took, as a line of JSON.

`python -m integration_tests.campaigns.object_scale many 10000 < pickled block`, or `large BYTES`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.stores.object_store import ObjectStore

ROOT = Path(__file__).parents[2]
BLOCK_BYTES = 2**20


def measure(store: ObjectStore, what: str, size: int) -> dict[str, Any]:
    """What the process said of itself: seconds for each step, `peak_mb` of memory, and what was counted."""
    done = subprocess.run(
        [sys.executable, "-m", "integration_tests.campaigns.object_scale", what, str(size)],
        input=pickle.dumps(store),
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def many(store: ObjectStore, count: int, folder: Path) -> dict[str, Any]:
    """So many small files up, listed, down and deleted; `equal` says whether they came back as they were."""
    source, back = folder / "source", folder / "back"
    for number in range(count):
        path = source / f"{number // 1000:03}" / f"{number:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"object {number}\n" * 20)
    took: dict[str, Any] = {}
    started = time.monotonic()
    took["sent"] = store.put_directory(str(source), "many")
    took["up_s"] = round(time.monotonic() - started, 1)
    started = time.monotonic()
    keys = [found["Key"] for found in store.list_objects("many")]
    took |= {"listed": len(keys), "list_s": round(time.monotonic() - started, 1)}
    started = time.monotonic()
    store.download_folder_to_path("many", back)
    took["down_s"] = round(time.monotonic() - started, 1)
    took["equal"] = _digest(source) == _digest(back)
    started = time.monotonic()
    took["deleted"] = store.delete_objects(keys)
    took |= {"delete_s": round(time.monotonic() - started, 1), "left": len(store.list_objects())}
    return took


def large(store: ObjectStore, size: int, folder: Path) -> dict[str, Any]:
    """A folder with one file of so many bytes up and down."""
    source, back = folder / "source", folder / "back"
    source.mkdir()
    block = os.urandom(BLOCK_BYTES)
    with (source / "large").open("wb") as file:
        for number in range(size // BLOCK_BYTES):
            file.write(number.to_bytes(8, "big") + block[8:])
    took: dict[str, Any] = {}
    started = time.monotonic()
    store.upload_from_folder(source, "large")
    took["up_s"] = round(time.monotonic() - started, 1)
    started = time.monotonic()
    store.download_folder_to_path("large", back)
    took["down_s"] = round(time.monotonic() - started, 1)
    return took | {"bytes": (back / "large").stat().st_size, "equal": _digest(source) == _digest(back)}


def _digest(folder: Path) -> str:
    digest = hashlib.blake2b()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(BLOCK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def peak_mb() -> int:
    """The most memory that this process had. Linux's `ru_maxrss` has that of the process that started it in it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20


def main() -> None:
    """Read the block, do the work, print what it took."""
    store = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 (from the parent process)
    work = {"many": many, "large": large}[sys.argv[1]]
    with tempfile.TemporaryDirectory(prefix="etl-scale-") as folder:
        took = work(store, int(sys.argv[2]), Path(folder))
    print(json.dumps(took | {"peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
