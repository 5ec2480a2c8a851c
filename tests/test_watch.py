"""A watcher announces each version of each object, once at least, whatever happens to it or beside it."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prefect import flow
from prefect.cli.deploy._models import DeploymentConfig
from prefect.client.orchestration import get_client
from prefect.events import DeploymentEventTrigger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import ConnectorError, InvalidInputError
from connectors.local import LocalFiles, MemoryFiles
from tests.documents import ROOT, blocks_of

if TYPE_CHECKING:
    from pathlib import Path

    from blocks import ObjectInfo, ObjectStore

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(basepath=str(tmp_path / uuid.uuid4().hex))


def told(uri: str, most: int) -> list[dict[str, Any]]:
    """The events of the objects below an address, the oldest first, once the server has written so many down."""
    pause = threading.Event()
    found: list[dict[str, Any]] = []
    for _ in range(200):
        with get_client(sync_client=True) as client:
            body = {"filter": {"event": {"name": ["etl.object.created"]}}, "limit": 50}
            events = client.request("POST", "/events/filter", json=body).json()["events"]
        found = [each for each in events if each["resource"]["prefect.resource.id"].startswith(uri)]
        if len(found) >= most:
            break
        pause.wait(0.05)
    return sorted(found, key=lambda each: each["occurred"])


def keys(infos: list[ObjectInfo]) -> list[str]:
    return [info.key for info in infos]


def test_the_triggers_of_the_page_are_as_prefect_takes_them() -> None:
    """Those of prefect.yaml, with the fields of a deployment beside them."""
    pages = [yaml.safe_load(block.text) for block in blocks_of(ROOT / "docs/events.md") if block.language == "yaml"]
    deployments = [each for page in pages for each in page["deployments"]]
    assert len(deployments) == 3
    for deployment in deployments:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
        (trigger,) = deployment["triggers"]
        assert set(trigger) <= {*DeploymentEventTrigger.model_fields, "type"}
        assert DeploymentEventTrigger.model_validate(trigger).parameters == trigger["parameters"]


@pytest.mark.usefixtures("prefect_server")
def test_each_version_is_announced(files: LocalFiles) -> None:
    """With what a flow needs to load it, and related to the run; what is not data is passed over."""
    for key in ("in/b.csv", "in/a 1.csv", "in/_part", "in/.hidden/c.csv", "other/d.csv"):
        files.write_path(key, b"1")

    @flow
    def watches() -> tuple[list[str], list[str], str]:
        return keys(files.announce_new_objects("in")), keys(files.announce_new_objects("in/")), str(flow_run.get_id())

    first, again, run_id = watches()
    assert (first, again) == (["in/b.csv", "in/a 1.csv"], [])
    files.write_path("in/b.csv", b"22")
    files.write_path("in/c.csv", b"3")
    files.delete_objects(["in/a 1.csv"])
    assert keys(files.announce_new_objects("in")) == ["in/b.csv", "in/c.csv"]
    assert files.announce_new_objects("in") == []

    found = told(files.uri("in"), 4)
    assert [each["payload"]["key"] for each in found] == ["in/b.csv", "in/a 1.csv", "in/b.csv", "in/c.csv"]
    assert [each["payload"]["size"] for each in found] == [1, 1, 2, 1]
    assert found[2]["payload"]["version"] == files.head_object("in/b.csv").etag
    assert found[1]["resource"] == {
        "prefect.resource.id": files.asset_key("in/a 1.csv"),
        "prefect.resource.name": "in/a 1.csv",
    }
    assert f"prefect.flow-run.{run_id}" in {each["prefect.resource.id"] for each in found[0]["related"]}
    (state,) = files.list_objects("_watch")
    assert b"a 1.csv" not in files.read_path(state["Key"])  # what is gone is forgotten


@pytest.mark.usefixtures("prefect_server")
def test_what_was_sent_and_not_written_down_is_sent_again(files: LocalFiles, tmp_path: Path) -> None:
    """As the same events, which the server has once."""
    files.write_path("in/a.csv", b"1")
    files.write_path("in/b.csv", b"1")
    state = LocalFiles(basepath=str(tmp_path / "state"))
    state.write_path("_watch", b"a file in the place of the folder")
    with pytest.raises(ConnectorError):
        files.announce_new_objects("in", state=state)
    assert len(told(files.uri("in"), 2)) == 2
    state.delete_objects(["_watch"])
    assert keys(files.announce_new_objects("in", state=state)) == ["in/a.csv", "in/b.csv"]
    files.write_path("in/c.csv", b"1")
    assert keys(files.announce_new_objects("in", state=state)) == ["in/c.csv"]
    assert len(told(files.uri("in"), 3)) == 3
    assert files.list_folders("") == ["in"]  # the state is elsewhere


@pytest.mark.usefixtures("prefect_server")
def test_nothing_is_missed_and_no_watcher_undoes_another(files: LocalFiles) -> None:
    """While objects are written, by several watchers at once."""
    written = [f"in/{number}.csv" for number in range(30)]
    announced: set[str] = set()
    ended = threading.Event()

    def write() -> None:
        for key in written:
            files.write_path(key, b"1")
        ended.set()

    def watch() -> None:
        while not ended.is_set():
            announced.update(keys(files.announce_new_objects("in")))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(watch) for _ in range(3)] + [pool.submit(write)]:
            done.result()
    announced.update(keys(files.announce_new_objects("in")))
    assert announced == set(written)
    assert files.announce_new_objects("in") == []


@pytest.mark.usefixtures("prefect_server")
def test_a_state_that_nobody_wrote_is_refused() -> None:
    """Rather than to announce all objects again."""
    store: ObjectStore = MemoryFiles()
    store.write_path("in/a.csv", b"1")
    store.announce_new_objects("in")
    (state,) = store.list_objects("_watch")
    for content in (b"{", b"[]", b'{"versions": 3}', b"\xff"):
        store.write_path(state["Key"], content)
        with pytest.raises(InvalidInputError, match=r"_watch/in-\w+\.json is not what a watcher wrote"):
            store.announce_new_objects("in")


def test_without_a_server_nothing_is_announced(files: LocalFiles) -> None:
    """And nothing is written down as announced."""
    files.write_path("in/a.csv", b"1")
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(InvalidInputError, match="Call this in a flow"):
        files.announce_new_objects("in")
    assert files.list_objects("_watch") == []
