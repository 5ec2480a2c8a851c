"""Events start flows, and automations send messages, on Prefect's own server."""

from __future__ import annotations

import gc
import json
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow
from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger
from prefect.flows import load_flow_from_entrypoint

from blocks import QualityError, UnsupportedError
from blocks.cli import main as etl
from connectors.local import MemoryFiles
from integration_tests.standins.process import HOST
from integration_tests.stores import new_store
from integration_tests.test_served import api, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def left_open() -> Iterator[None]:
    """Collects the clients that Prefect leaves open, while nothing minds."""
    yield
    gc.collect()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the template was copied to."""
    monkeypatch.chdir(tmp_path)
    assert etl(["new", "watched_bucket", "."]) == 0
    return tmp_path


def once(found: Callable[[], list[Any]], count: int, seconds: float = 30) -> list[Any]:
    """What is found, as soon as there is so much of it."""
    deadline = time.monotonic() + seconds
    while len(found()) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return found()


def runs_of(deployment: str) -> list[dict[str, Any]]:
    """The flow runs of a deployment, in the order of their making."""
    body = {"deployments": {"id": {"any_": [deployment]}}}
    found = api("POST", "/flow_runs/filter", **body)
    return sorted(found, key=lambda each: each["created"])


@pytest.mark.usefixtures("prefect_server")
def test_files_that_arrive_are_loaded_and_summarized(folder: Path) -> None:
    """By the template's own triggers: one load for each version, one summary for each load, whatever comes twice."""
    flows = {name: load_flow_from_entrypoint(f"watched_bucket.py:{name}") for name in ("load_file", "summarize")}
    template = load_flow_from_entrypoint("watched_bucket.py:watched_bucket")
    module = template.fn.__globals__
    loads = str(flows["load_file"].to_deployment("e1", triggers=[module["ARRIVED"]]).apply())
    summaries = str(flows["summarize"].to_deployment("e1", triggers=[module["LOADED"]]).apply())

    files = template().files
    arrived = once(lambda: runs_of(loads), 3)
    assert {(each["parameters"]["key"], each["parameters"]["version"]) for each in arrived} == {
        (file.key, file.etag) for file in files
    }
    messages = [run(each["id"]).message or "" for each in arrived]
    assert sum("rows loaded by upsert" in message for message in messages) == 3
    followed = once(lambda: runs_of(summaries), 3)
    assert {each["parameters"]["load_id"].rpartition("@")[2] for each in followed} == {file.etag for file in files}
    assert all(run(each["id"]).is_completed() for each in followed)

    (state,) = (folder / "warehouse/_watch").iterdir()
    state.unlink()  # as if the watcher had been killed before it wrote it
    assert len(template().files) == 3
    assert "already loaded" in (
        run(api("POST", f"/deployments/{loads}/create_flow_run", parameters=arrived[0]["parameters"])["id"]).message
        or ""
    )
    (folder / "data/source/orders_2026-05-01.csv").write_text("order_id,customer,city,ordered_at,status,amount\n")
    assert len(template().files) == 1
    assert len(once(lambda: runs_of(loads), 5)) == 5  # three, the one by hand, and that of the new file
    assert len(runs_of(summaries)) == 3


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "kind", ["s3", *(pytest.param(k, marks=pytest.mark.thorough) for k in ("gcs", "azure", "sftp"))]
)
def test_a_bucket_is_watched(kind: str, request: pytest.FixtureRequest) -> None:
    """What was announced is kept in the bucket itself; on an SFTP server, which cannot replace safely, elsewhere."""
    store = new_store(kind, request)
    state = MemoryFiles() if kind == "sftp" else None
    store.write_path("in/a b.csv", b"1")
    first = store.announce_new_objects("in", state=state)
    assert [(info.key, info.size) for info in first] == [("in/a b.csv", 1)]
    assert store.head_object("in/a b.csv").etag == first[0].etag  # by which the flow that loads it knows the version
    assert store.announce_new_objects("in", state=state) == []
    store.write_path("in/a b.csv", b"22")
    store.write_path("in/b.csv", b"3")
    assert {info.key for info in store.announce_new_objects("in", state=state)} == {"in/a b.csv", "in/b.csv"}
    assert store.announce_new_objects("in", state=state) == []
    assert store.exists("in/b.csv")
    if kind == "sftp":
        store.announce_new_objects("in")
        store.write_path("in/c.csv", b"4")
        with pytest.raises(UnsupportedError, match="SFTP cannot compare and replace"):
            store.announce_new_objects("in")


@pytest.fixture
def inbox() -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """The URL of a server, and what it is sent."""
    received: queue.Queue[dict[str, Any]] = queue.Queue()

    class Inbox(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((HOST, 0), Inbox) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://{HOST}:{server.server_port}/hook", received
        server.shutdown()
        serving.join()


@pytest.mark.usefixtures("prefect_server")
def test_a_failure_is_a_message(inbox: tuple[str, queue.Queue[dict[str, Any]]]) -> None:
    """With the run and the reason, by an automation and Prefect's webhook block; a run that ends well is none."""
    url, received = inbox
    hook = CustomWebhookNotificationBlock(name="team", url=url, json_data={"title": "{{subject}}", "text": "{{body}}"})
    automation = Automation(
        name="a load failed",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "notified"},
        ),
        actions=[
            SendNotification(
                block_document_id=hook.save("team", overwrite=True),
                subject="{{ flow.name }} failed",
                body="{{ flow_run.name }}: {{ flow_run.state.message }}",
            )
        ],
    ).create()

    @flow(flow_run_name="orders of {day}")
    def notified(day: int) -> None:
        if day > 1:
            raise QualityError("0.4 of the rows were rejected.")

    try:
        notified(1)
        with pytest.raises(QualityError):
            notified(2)
        message = received.get(timeout=30)
        assert message["title"] == "notified failed"
        assert message["text"].startswith("orders of 2: ")
        assert "0.4 of the rows were rejected." in message["text"]
        assert received.empty()
    finally:
        automation.delete()
