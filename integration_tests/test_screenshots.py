"""What a user sees in Prefect's UI: the pictures of the docs, taken in a real browser without internet.

They are kept in the folder that ETL_SCREENSHOTS names, such as docs/images, and else only looked at.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.flow_engine import load_flow, run_flow
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks import ConnectorBlock
from blocks.cli import main as etl
from blocks.cli.saved import block_types
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from integration_tests.browser import IN_A_BROWSER, browser_page
from integration_tests.standins.prefect import prefect_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

pytestmark = IN_A_BROWSER
LARGEST = 150_000


class Seen:
    """The server, what is on it, and the page on which it is looked at."""

    def __init__(
        self, address: str, page: Page, folder: Path, *, deployment: str, run: str, pages: dict[str, str]
    ) -> None:
        self.address, self.page, self.folder = address, page, folder
        self.deployment, self.run = deployment, run
        self.loaded, self.written = (
            next(page for key, page in pages.items() if key.startswith(verb)) for verb in ("load", "write")
        )

    def open(self, path: str, *texts: str) -> str:
        """Open a page, wait for the texts, and return all that it says."""
        self.page.goto(f"{self.address}{path}")
        for text in texts:
            self.page.get_by_text(text, exact=False).first.wait_for()
        self.page.wait_for_timeout(1500)
        return self.page.inner_text("body")

    def broken_pictures(self) -> int:
        """How many pictures of the page could not be loaded."""
        return int(self.page.evaluate("[...document.images].filter(each => !each.naturalWidth).length"))

    def keep(self, name: str) -> None:
        """Take the picture."""
        path = self.folder / f"{name}.png"
        self.page.screenshot(path=path)
        assert path.stat().st_size < LARGEST


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A server with every type of block, three that are saved, and a deployment with a run."""
    folder = tmp_path_factory.mktemp("seen")
    pictures = Path(os.environ.get("ETL_SCREENSHOTS") or folder)
    pictures.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with prefect_server(folder / "prefect") as address:
            with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
                for kind in block_types().values():
                    if kind.__module__.startswith(("blocks.", "connectors.")):
                        kind.register_type_and_schema()
                assert etl(["new", "orders_pipeline", "."]) == 0
                LocalFiles(basepath=str(folder / "data")).save("raw", _sync=True)
                LocalFiles(basepath=str(folder / "lake")).save("lake", _sync=True)
                DuckDB(path=str(folder / "prod.duckdb")).save("prod", _sync=True)
                flow = load_flow_from_entrypoint("orders_pipeline.py:orders_pipeline")
                deployment = str(flow.to_deployment("every-day", cron="0 6 * * *").apply())
                with get_client(sync_client=True) as client:
                    chosen = {
                        "source": "etl-local-files/raw",
                        "lake": "etl-local-files/lake",
                        "warehouse": "etl-duckdb/prod",
                    }
                    for day in ("2026-04-29", "2026-04-30"):
                        flow_run = client.create_flow_run_from_deployment(deployment, parameters={"ds": day, **chosen})
                        run_flow(load_flow(flow_run), flow_run=flow_run)
                    ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
                    pages = {each.key or "": str(each.id) for each in client.read_artifacts(artifact_filter=ours)}
            with browser_page(1280, 800) as page:
                yield Seen(address, page, pictures, deployment=deployment, run=str(flow_run.id), pages=pages)
    finally:
        os.chdir(before)


def abstract_kinds(kind: type[ConnectorBlock]) -> list[type[ConnectorBlock]]:
    return [
        each for child in kind.__subclasses__() for each in (child, *abstract_kinds(child)) if inspect.isabstract(each)
    ]


def test_the_catalogue(seen: Seen) -> None:
    """Every type of ours that can be made stands there, no abstract one, and no picture is broken."""
    text = seen.open("/blocks/catalog", "ETL Postgres")
    kinds = [kind for kind in block_types().values() if kind.__module__.startswith(("blocks.", "connectors."))]
    assert [kind.get_block_type_name() for kind in kinds if kind.get_block_type_name() not in text] == []
    names = {kind.__name__ for kind in abstract_kinds(ConnectorBlock)}
    assert "ObjectStore" in names
    assert not names & set(text.splitlines())
    seen.page.get_by_placeholder("Search").first.fill("ETL")
    seen.page.wait_for_timeout(1000)
    assert seen.broken_pictures() == 0
    seen.keep("catalogue")


@pytest.mark.parametrize(
    ("slug", "first"),
    [
        ("etl-postgres", ["Host", "Port", "Database", "Schema", "Username", "Password"]),
        ("etl-s3-bucket", ["Bucket name", "Bucket folder"]),
        ("etl-snowflake-credentials", ["Account", "User", "Password"]),
    ],
)
def test_a_form(seen: Seen, slug: str, first: list[str]) -> None:
    """What has to be entered stands first, retries last; an optional text is a field, and no switch."""
    text = seen.open(f"/blocks/catalog/{slug}/create", "Block Name", "Attempts")
    labels = [line.removesuffix(" (Optional)") for line in text.splitlines()]
    places = [labels.index(label) for label in [*first, "Attempts"]]
    assert places == sorted(places)
    assert 'type "None"' not in text
    assert "Definition not found" not in text
    assert seen.broken_pictures() == 0
    seen.keep(f"form-{slug.removeprefix('etl-')}")


def test_a_flow_run(seen: Seen) -> None:
    """Task runs say what they do, and what they moved is beside them."""
    text = seen.open(f"/runs/flow-run/{seen.run}", "load orders 2026-04-30")
    assert "21 rows loaded by upsert" in text
    seen.keep("flow-run")


def test_a_load(seen: Seen) -> None:
    """Its page has what was moved, how fast, and from where."""
    text = seen.open(f"/artifacts/artifact/{seen.loaded}", "orders: 21 rows loaded")
    assert "21 (21 inserted)" in text
    assert "rows/s" in text
    seen.keep("load")


def test_a_write_with_rejects(seen: Seen) -> None:
    """The refused rows are counted by reason, with the address of where they are."""
    text = seen.open(f"/artifacts/artifact/{seen.written}", "3 rows were quarantined")
    assert "amount is not a number" in text
    seen.keep("write")


def test_the_form_of_a_run(seen: Seen) -> None:
    """It opens on a date and on texts for the names of saved blocks, in both views of the UI."""
    for view in ("/v2", ""):
        text = seen.open(f"{view}/deployments/deployment/{seen.deployment}/run", "Parameters", "etl-postgres/prod")
        assert 'type "None"' not in text
        assert "ObjectStore" not in text
    seen.keep("deployment-run")
