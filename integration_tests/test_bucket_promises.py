"""What object stores of every kind promise between processes, in bounded memory, on a bounded number of connections."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blocks.base.errors import AlreadyExistsError
from blocks.testing.http_proxy import HttpFaultProxy, Request, Response
from integration_tests.campaigns import object_scale
from integration_tests.stores import new_store, server_url

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from blocks.stores.object_store import ObjectStore

ROOT = Path(__file__).parents[1]
KINDS = ["local", "s3", "gcs", "azure"]
SERVICES = KINDS[1:]
S3_FIRST = ["s3", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("gcs", "azure"))]
"""For what takes seconds on each: the one that answers fastest in every run."""
RACES = 200
MEMORY_MB = 300


def race(store: ObjectStore, runner: str, barrier: Barrier, won: Any) -> None:
    """Writes each key if nobody has, at the same moment as the other process, and tells which were written."""
    for number in range(RACES):
        barrier.wait(60)
        try:
            store.write_path(f"race/{number:03}", runner.encode(), if_absent=True)
        except AlreadyExistsError:
            continue
        won.put((number, runner))
    won.put(None)


@pytest.mark.parametrize("kind", ["local", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in SERVICES)])
def test_two_processes_race_for_a_key(kind: str, request: pytest.FixtureRequest) -> None:
    """Of two processes that write a key if it is absent exactly one wins, each of 200 times, and the object is its."""
    store = new_store(kind, request)
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(2), context.Queue()
    runners = [context.Process(target=race, args=(store, name, barrier, won)) for name in ("one", "two")]
    for runner in runners:
        runner.start()
    winners: dict[int, list[str]] = {}
    ended = 0
    while ended < 2:
        found = won.get(timeout=120)
        if found is None:
            ended += 1
        else:
            winners.setdefault(found[0], []).append(found[1])
    for runner in runners:
        runner.join(30)
    assert [runner.exitcode for runner in runners] == [0, 0]
    assert {number: len(names) for number, names in winners.items()} == dict.fromkeys(range(RACES), 1)
    contents = {number: store.read_path(f"race/{number:03}").decode() for number in range(RACES)}
    assert contents == {number: names[0] for number, names in winners.items()}


class CountingProxy(HttpFaultProxy):
    """Knows how many requests were under way at once."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._count_lock = threading.Lock()
        self._now = 0
        self.most = 0

    def intercept(self, request: Request) -> Response | None:  # noqa: D102
        with self._count_lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            answer = self.forward(request)
            answer.body = [b"".join(answer.body)]
            return answer
        finally:
            with self._count_lock:
                self._now -= 1


@pytest.mark.parametrize("kind", SERVICES)
def test_folders_are_transferred_on_a_bounded_number_of_connections(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At most `max_concurrency` small objects are under way at once, up and down, and more than one is."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / f"{number}").write_text(f"{number}" * 500)
    with CountingProxy(server_url(kind, request)) as proxy:
        store = new_store(kind, request, url=proxy.url, max_concurrency=5)
        assert store.put_directory(str(source), "up") == 60
        assert len(store.get_directory("up", str(tmp_path / "down"))) == 60
        assert 2 <= proxy.most <= 5


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("s3", 300),
        pytest.param("s3", 3_000, marks=pytest.mark.thorough),
        pytest.param("gcs", 1_100, marks=pytest.mark.thorough),
        pytest.param("azure", 1_100, marks=pytest.mark.thorough),
    ],
)
def test_many_objects_in_bounded_memory(kind: str, count: int, request: pytest.FixtureRequest) -> None:
    """Up, listed, down and deleted, none missed, in less than 300 MB; `make campaign` does 10,000 on each."""
    took = object_scale.measure(new_store(kind, request), "many", count)
    assert (took["sent"], took["listed"], took["deleted"], took["left"]) == (count, count, count, 0)
    assert took["equal"]
    assert took["peak_mb"] < MEMORY_MB


@pytest.mark.thorough
@pytest.mark.parametrize("kind", SERVICES)
def test_a_folder_with_a_large_file_in_bounded_memory(kind: str, request: pytest.FixtureRequest) -> None:
    """A file is never in memory as a whole: 256 MiB pass up and down in less than 300 MB."""
    took = object_scale.measure(new_store(kind, request), "large", 256 * 2**20)
    assert took["equal"]
    assert took["peak_mb"] < MEMORY_MB


@pytest.mark.parametrize("kind", S3_FIRST)
def test_2345_keys_are_listed_page_by_page(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """No page holds more than 1,000 (5,000 on Azure), none is missed, and stopping early asks for no more."""
    for number in range(2_345):
        (tmp_path / f"{number:04}").touch()
    store = new_store(kind, request)
    store.put_directory(str(tmp_path), "keys")
    pages = list(store.objects.list("keys"))
    assert [info.key for page in pages for info in page] == [f"keys/{number:04}" for number in range(2_345)]
    assert max(map(len, pages)) <= (5_000 if kind == "azure" else 1_000)
    assert [found["Key"] for found in store.list_objects("keys", max_items=1_500)][-1] == "keys/1499"


FLOW = """
import sys
from prefect import flow, task
from blocks import resolve
from blocks.stores.object_store import ObjectStore

storage = resolve(sys.argv[1], ObjectStore)

@task(persist_result=True, result_storage=storage, cache_key_fn=lambda *_: "answer-" + sys.argv[1])
def compute():
    print("computing")
    return {"rows": 42}

@flow
def pipeline():
    return compute()

print(pipeline())
"""


@pytest.mark.parametrize("kind", S3_FIRST)
def test_results_survive_a_restart(
    kind: str, request: pytest.FixtureRequest, prefect_server: str, tmp_path: Path
) -> None:
    """What a task of one process stored in a saved bucket is found by the next process, which does not run it again."""
    store = new_store(kind, request)
    store.save(f"results-{kind}", overwrite=True)
    script = tmp_path / "pipeline.py"
    script.write_text(FLOW)
    command = [sys.executable, str(script), f"{store.get_block_type_slug()}/results-{kind}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server}
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout for _ in range(2)]
    assert [("computing" in output, "{'rows': 42}" in output) for output in outputs] == [(True, True), (False, True)]
    assert len(store.list_objects()) == 1
