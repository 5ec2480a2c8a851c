"""dbt projects: real dbt on DuckDB and PostgreSQL, and on the stand-ins of Snowflake and BigQuery."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.sorting import TaskRunSort
from prefect.context import get_run_context
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from blocks.base.errors import InvalidInputError, TerminalError, TransientError
from blocks.base.retry import RetryPolicy
from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials
from connectors.bigquery import BigQuery
from connectors.dbt import DbtFailedError, DbtProject
from connectors.duckdb import DuckDB
from connectors.postgres import Postgres
from connectors.snowflake import Snowflake
from integration_tests.standins.bigquery import PROJECT
from integration_tests.standins.snowflake import PASSWORD, USER, fields, new_schema_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from integration_tests.standins.bigquery import BigQueryServer
    from integration_tests.standins.postgres import Address
    from integration_tests.standins.snowflake import SnowflakeServer

ROW = "c4n4ry-row"
RETRY = RetryPolicy(attempts=3, first_delay_s=0.01, max_delay_s=0.1)

RAW = f"id,customer,amount\n1,{ROW},10\n2,bob,20\n3,bob,30\n"
SHOP = {
    "seeds/raw_orders.csv": RAW,
    "models/stg_orders.sql": "select id, customer, amount from {{ ref('raw_orders') }}",
    "models/orders.sql": "{{ config(materialized='table') }} select id, amount from {{ ref('stg_orders') }}",
    "models/schema.yml": """
models:
  - name: orders
    columns:
      - name: id
        data_tests: [not_null]
      - name: amount
        data_tests:
          - accepted_values:
              arguments: {values: [10]}
              config: {severity: warn}
""",
}


def make_project(folder: Path, files: Mapping[str, str], more: str = "") -> Path:
    """A dbt project with these files."""
    config = f"name: shop\nversion: '1.0'\nprofile: shop\nflags: {{send_anonymous_usage_stats: false}}\n{more}"
    for name, text in {"dbt_project.yml": config, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def eventually(condition: Callable[[], object], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def task_runs(flow_run_name: str, count: int) -> list[Any]:
    """The task runs that Prefect's API has of a flow run, in order, once it has them all."""
    found: list[Any] = []

    def are_there() -> bool:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[flow_run_name]))
        found[:] = client.read_task_runs(flow_run_filter=named, limit=200, sort=TaskRunSort.EXPECTED_START_TIME_ASC)
        return len(found) >= count and all(run.state and run.state.is_final() for run in found)

    with get_client(sync_client=True) as client:
        eventually(are_there)
    return sorted(found, key=lambda run: run.start_time)


def asset_events(key: str, count: int) -> list[Any]:
    """The materializations of an asset that Prefect's API has, in order."""
    found: list[Any] = []

    def are_there() -> bool:
        chosen = EventFilter(
            resource=EventResourceFilter(id=[key]), event=EventNameFilter(prefix=["prefect.asset.materialization"])
        )
        found[:] = client.read_events(chosen, limit=50).events
        return len(found) >= count

    with get_client(sync_client=True) as client:
        eventually(are_there)
    return sorted(found, key=lambda event: event.occurred)


def markdown_of(key: str) -> str:
    with get_client(sync_client=True) as client:
        kept = client._client.post("/artifacts/latest/filter", json={"artifacts": {"key": {"any_": [key]}}}).json()
    return str(kept[0]["data"])


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


def texts_in(folder: Path) -> Iterator[bytes]:
    """What is in the files of a folder, while others write there and remove: os.walk passes over what is gone."""
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                yield Path(place, name).read_bytes()


def dbt_processes(project: Path) -> list[str]:
    return [line for line in command_lines() if f"--project-dir={project}" in line]


@pytest.fixture
def duckdb(tmp_path: Path) -> DuckDB:
    return DuckDB(path=str(tmp_path / "shop.duckdb"), retry=RETRY)


@pytest.fixture
def postgres(pg_database: Address) -> Postgres:
    return Postgres(**pg_database.fields(), retry=RETRY)


# A node that fails once


@pytest.mark.usefixtures("prefect_server")
def test_a_retry_takes_what_failed_and_what_that_kept_back(
    duckdb: DuckDB, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each node is a task run; the second try has the one that failed and its child, and no other."""
    gate = tmp_path / "gate.csv"
    files = SHOP | {
        "models/flaky.sql": "{{ config(materialized='table') }} select o.id, g.note from {{ ref('orders') }} o, "
        f"read_csv('{gate}') g",
        "models/child.sql": "{{ config(materialized='table') }} select id from {{ ref('flaky') }}",
        "models/broken.sql": "{{ config(materialized='table') }} select customer::int from {{ ref('stg_orders') }}",
        "models/grandchild.sql": "select c.id from {{ ref('child') }} c, {{ ref('broken') }}",
    }
    opens = f"on-run-end: \"copy (select 'open' as note) to '{gate}'\"\n"
    folder = make_project(tmp_path / "shop", files, opens)
    project = DbtProject(
        project_dir=folder, target=duckdb, retry_nodes="any", retry=RETRY.model_copy(update={"attempts": 2})
    )
    seen: list[Any] = []

    @flow
    def nightly() -> None:
        seen.append(get_run_context().flow_run.name)
        seen.append(project.build(raise_on_failure=False))

    with caplog.at_level(logging.INFO):
        nightly()
    name, result = seen
    assert result.attempts == 2
    assert {node.name: node.status for node in result.nodes if node.resource_type in ("model", "seed")} == {
        "raw_orders": "success",
        "stg_orders": "success",
        "orders": "success",
        "flaky": "success",
        "child": "success",
        "broken": "error",
        "grandchild": "skipped",
    }
    assert result.node("raw_orders").rows == 3
    runs = task_runs(name, 14)
    states = [(run.name.removeprefix("model.shop."), run.state.name) for run in runs]
    models = [pair for pair in states if "." not in pair[0]]
    first, second = models[:6], models[6:]
    assert first[:1] == [("stg_orders", "Completed")]
    assert sorted(first) == [
        ("broken", "Failed"),
        ("child", "Skipped"),
        ("flaky", "Failed"),
        ("grandchild", "Skipped"),
        ("orders", "Completed"),
        ("stg_orders", "Completed"),
    ]
    assert second[0] in (("flaky", "Completed"), ("broken", "Failed"))
    assert sorted(second) == [
        ("broken", "Failed"),
        ("child", "Completed"),
        ("flaky", "Completed"),
        ("grandchild", "Skipped"),
    ]
    by_name = dict(states)
    assert by_name["seed.shop.raw_orders"] == "Completed"
    assert [state for each, state in states if each.startswith("test.shop.accepted")] == ["Warned"]
    parent = next(run for run in runs if run.name.startswith("DbtProject.build"))
    seed = next(run for run in runs if run.name == "seed.shop.raw_orders")
    assert {each.id for each in seed.task_inputs["__parents__"]} == {parent.id}
    assert parent.start_time <= seed.start_time <= seed.end_time <= parent.end_time
    assert seed.state.message.startswith("3 rows in ")
    assert duckdb.fetch_one("select count(*) from child") == (3,)

    assert ROW not in caplog.text
    assert "select" not in caplog.text.lower().replace("selection", "")
    key = f"duckdb://{duckdb.path}/main.flaky"
    events = {key: asset_events(key, 2)}
    assert [event.event for event in events[key]] == [
        "prefect.asset.materialization.failed",
        "prefect.asset.materialization.succeeded",
    ]
    related = {each["prefect.resource.id"] for event in events[key] for each in event.related}
    assert f"duckdb://{duckdb.path}/main.orders" in related
    page = markdown_of(f"dbt-build-{folder.name}")
    assert "| model.shop.broken | error |" in page
    assert ROW not in page
    assert {path.name for path in result.artifacts.values()} >= {"manifest.json", "run_results.json", "compiled"}
    assert all(path.exists() and path.is_relative_to(folder / "target") for path in result.artifacts.values())
    rows = json.loads(result.artifacts["run_results"].read_text())["results"]
    assert {row["unique_id"]: row["status"] for row in rows}["model.shop.orders"] == "success"


# Secrets


def test_no_secret_shows_and_a_lock_that_passes_is_tried_again(
    postgres: Postgres, pg_database: Address, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The password is in the environment of dbt and nowhere else; a lock that another session holds passes."""
    password = pg_database.password
    places = tmp_path / "tmp"
    places.mkdir()
    files = SHOP | {
        "models/waits.sql": "{{ config(materialized='incremental', unique_key='id', "
        "pre_hook=\"set lock_timeout = '200ms'\") }} select id from {{ ref('orders') }}",
        "models/after.sql": "select id from {{ ref('waits') }}",
        "models/unique.sql": "{{ config(materialized='table', "
        "post_hook='create unique index on {{ this }} (customer)') }} select customer from {{ ref('stg_orders') }}",
    }
    postgres.execute("create table waits (id int)")
    ends = "on-run-end: \"select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holder'\"\n"
    folder = make_project(tmp_path / "shop", files, ends)
    project = DbtProject(project_dir=folder, target=postgres, retry=RETRY)
    seen: set[str] = set()
    held: list[bytes] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.update(line for line in command_lines() if "etl-dbt" in line or "dbt.cli" in line)
            held.extend(texts_in(places))
            done.wait(0.3)

    watcher = threading.Thread(target=look)
    holder = psycopg.connect(pg_database.dsn(application_name="holder"))
    holder.execute("lock table waits")
    watcher.start()
    try:
        with caplog.at_level(logging.DEBUG), temporary_directory(places), pytest.raises(DbtFailedError) as caught:
            project.build()
    finally:
        done.set()
        watcher.join()
        holder.close()
    result = caught.value.result
    assert result.attempts == 2
    assert {each: result.node(each).status for each in ("waits", "after", "unique", "orders")} == {
        "waits": "success",
        "after": "success",
        "unique": "error",
        "orders": "success",
    }
    assert result.node("unique").message == (
        'Database Error in model unique (models/unique.sql): could not create unique index "unique_customer_idx"'
    )
    started = [record.getMessage() for record in caplog.records if "START sql" in record.getMessage()]
    assert sum("public.waits" in line for line in started) == 2
    assert sum("public.orders" in line for line in started) == 1
    assert sum("public.unique" in line for line in started) == 1
    assert any(f"--project-dir={folder}" in line for line in seen)
    assert any(b"ETL_DBT_0" in text for text in held)
    places_to_look = [*seen, caplog.text, str(caught.value), result.model_dump_json(), repr(project)]
    assert not [text for text in places_to_look if password in text]
    assert not [text for text in (*held, *texts_in(folder)) if password.encode() in text]
    assert ROW not in caplog.text + str(caught.value) + result.model_dump_json()
    assert not list(places.iterdir())


@contextlib.contextmanager
def temporary_directory(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


# Stopping

HANGS = {"models/hangs.sql": "{{ config(materialized='table') }} select 1 as id, pg_sleep(600)::text as slept"}


def sessions(address: Address) -> list[str]:
    """The statements of dbt's that the server is busy with."""
    with psycopg.connect(address.dsn()) as connection:
        rows = connection.execute(
            "select query from pg_stat_activity where datname = current_database() and application_name like '%dbt%'"
        ).fetchall()
    return [row[0] for row in rows]


def is_hanging(address: Address) -> bool:
    return any("pg_sleep" in query for query in sessions(address))


DAILY = {
    "models/a.sql": "{{ config(materialized='incremental') }} select day from gate",
    "models/b.sql": "{{ config(materialized='table', pre_hook='select pg_sleep(case when hangs then 600 else 0 end) "
    "from gate') }} select day from {{ ref('a') }} order by day desc limit 1",
    "models/c.sql": "{{ config(materialized='table') }} select 1 / works::int as one, day from {{ ref('b') }}, "
    "(select works from gate) g",
    "models/d.sql": "{{ config(materialized='incremental') }} select day from {{ ref('c') }}",
}
"""Four models in a row: the second may hang, the third may fail, and the others add a row each day."""


@pytest.mark.thorough
def test_a_hanging_model_is_stopped_at_the_timeout(postgres: Postgres, pg_database: Address, tmp_path: Path) -> None:
    """Nothing of it is left: no process, and no query on the server. What did not come to its end is retried."""
    folder = make_project(tmp_path / "shop", DAILY)
    postgres.execute("create table gate as select 1 as day, true as works, true as hangs")
    project = DbtProject(project_dir=folder, target=postgres, timeout_s=60, retry=RETRY)
    project._clock = lambda: 61.0 if is_hanging(pg_database) else 0.0
    with pytest.raises(DbtFailedError, match="took longer than 60 s and was stopped") as caught:
        project.build()
    expected = {"a": "success", "b": "error", "c": "skipped", "d": "skipped"}
    assert {node.name: node.status for node in caught.value.result.nodes} == expected
    assert not dbt_processes(folder)
    assert not sessions(pg_database)
    rows = json.loads((folder / "target" / "run_results.json").read_text())["results"]
    assert {row["unique_id"].rpartition(".")[2]: row["status"] for row in rows} == expected
    postgres.execute("update gate set hangs = false")
    project._clock = lambda: 0.0
    assert {node.name: node.status for node in project.retry_failed().nodes} == dict.fromkeys("bcd", "success")
    assert postgres.fetch_all("select day from a") == postgres.fetch_all("select day from d") == [(1,)]


@pytest.mark.thorough
@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_what_an_interrupted_day_left_is_retried(
    postgres: Postgres, pg_database: Address, tmp_path: Path, end: str
) -> None:
    """Exactly that, and not what the day before had failed in; a compile in between changes nothing."""
    folder = make_project(tmp_path / "shop", DAILY)
    project = DbtProject(project_dir=folder, target=postgres, retry=RETRY)
    postgres.execute("create table gate as select 1 as day, false as works, false as hangs")
    first = project.build(raise_on_failure=False)
    assert {node.name: node.status for node in first.nodes} == {
        "a": "success", "b": "success", "c": "error", "d": "skipped",
    }  # fmt: skip
    project.compile()
    postgres.execute("update gate set day = 2, works = true, hangs = true")
    if end == "cancel":
        run = project.trigger("run")
        eventually(lambda: is_hanging(pg_database))
        with pytest.raises(InvalidInputError, match="still runs"):
            project.retry_failed()
        run.cancel()
    else:
        parent = start_parent(folder, postgres, pg_database, tmp_path)
        eventually(lambda: is_hanging(pg_database))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: not dbt_processes(folder) and not sessions(pg_database))
    postgres.execute("update gate set hangs = false")
    project.compile()
    again = project.retry_failed()
    assert {node.name: node.status for node in again.nodes} == dict.fromkeys("bcd", "success")
    assert postgres.fetch_all("select day from a order by 1") == [(1,), (2,)]
    assert postgres.fetch_all("select day from d") == [(2,)]
    with pytest.raises(InvalidInputError, match="had no failure"):
        project.retry_failed()


@pytest.mark.thorough
def test_what_was_stopped_before_its_first_node_is_retried(
    postgres: Postgres, pg_database: Address, tmp_path: Path
) -> None:
    """All of it, and not what the day before had failed in; a command that dbt refuses changes nothing of that."""
    hook = 'on-run-start: "select pg_sleep(case when hangs then 600 else 0 end) from gate"\n'
    project = DbtProject(project_dir=make_project(tmp_path / "shop", DAILY, hook), target=postgres, retry=RETRY)
    postgres.execute("create table gate as select 1 as day, false as works, false as hangs")
    assert project.build(raise_on_failure=False).counts == {"success": 3, "error": 1, "skipped": 1}
    postgres.execute("update gate set day = 2, works = true, hangs = true")
    run = project.trigger("run")
    eventually(lambda: is_hanging(pg_database))
    run.cancel()
    with pytest.raises(InvalidInputError, match="nowhere"):
        project.run(selector="nowhere")
    postgres.execute("update gate set hangs = false")
    again = {node.name: node.status for node in project.retry_failed().nodes if node.resource_type == "model"}
    assert again == dict.fromkeys("abcd", "success")
    assert postgres.fetch_all("select day from d") == [(2,)]


@pytest.mark.thorough
def test_a_started_build_can_be_cancelled(postgres: Postgres, pg_database: Address, tmp_path: Path) -> None:
    """`cancel` returns when nothing of it is left."""
    folder = make_project(tmp_path / "shop", HANGS)
    run = DbtProject(project_dir=folder, target=postgres, retry=RETRY).trigger("run")
    with pytest.raises(InvalidInputError, match="has not ended"):
        run.fetch_result()
    eventually(lambda: is_hanging(pg_database))
    run.cancel()
    assert not dbt_processes(folder)
    assert not sessions(pg_database)
    with pytest.raises(TerminalError, match="was cancelled"):
        run.fetch_result()


PARENT = """
import sys
from connectors.dbt import DbtProject
from connectors.postgres import Postgres
DbtProject(project_dir=sys.argv[1], target=Postgres.model_validate_json(sys.stdin.read())).run()
"""


def start_parent(folder: Path, postgres: Postgres, address: Address, temporary: Path) -> subprocess.Popen[bytes]:
    """A process of its own that runs the project."""
    environment = {**os.environ, "TMPDIR": str(temporary)}  # what it was working in stays behind
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdin=subprocess.PIPE, env=environment)
    fields = {**address.fields(), "ssl_mode": postgres.ssl_mode}
    assert parent.stdin
    parent.stdin.write(json.dumps(fields, default=str).encode())
    parent.stdin.close()
    return parent


@pytest.mark.thorough
def test_dbt_does_not_outlive_a_killed_process(postgres: Postgres, pg_database: Address, tmp_path: Path) -> None:
    """Also when nobody is left to stop it, as after kill -9, it ends, and so do its queries."""
    folder = make_project(tmp_path / "shop", HANGS)
    parent = start_parent(folder, postgres, pg_database, tmp_path)
    try:
        eventually(lambda: is_hanging(pg_database))
        assert dbt_processes(folder)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    eventually(lambda: not dbt_processes(folder))
    eventually(lambda: not sessions(pg_database))
    assert not [text for text in texts_in(tmp_path) if pg_database.password.encode() in text]


# Two at once


@pytest.mark.thorough
def test_two_builds_at_once_do_not_disturb_each_other(duckdb: DuckDB, postgres: Postgres, tmp_path: Path) -> None:
    """The same project into two warehouses, and another one into the same file, one at a time."""
    folder = make_project(tmp_path / "shop", SHOP)
    other = make_project(tmp_path / "other", SHOP | {"models/orders.sql": "select 1 as id, 10 as amount"})
    once = RetryPolicy(attempts=1)
    projects = [
        DbtProject(project_dir=folder, target=duckdb, retry=once),
        DbtProject(project_dir=folder, target=postgres, retry=once),
        DbtProject(project_dir=other, target=duckdb, target_name="dev", retry=once),
    ]
    with ThreadPoolExecutor(len(projects)) as pool:
        results = list(pool.map(lambda project: project.build(), projects))
    for project, result in zip(projects, results, strict=True):
        assert result.passed
        assert result.target == project.warehouse().uri()
        assert len(result.nodes) == 5
        assert len(json.loads(result.artifacts["run_results"].read_text())["results"]) == 5
    assert postgres.fetch_one("select count(*) from orders") == (3,)
    assert not list((folder / "target").glob(".*"))


# Every command

ALL = SHOP | {
    "models/sources.yml": """
sources:
  - name: given
    schema: main
    config:
      loaded_at_field: "cast('2020-01-01' as timestamp)"
      freshness: {warn_after: {count: 1, period: day}}
    tables: [{name: raw_orders}]
""",
    "models/limited.sql": "{{ config(materialized='incremental') }} select id from {{ ref('stg_orders') }} "
    "where id <= {{ var('most', 1) }}",
    "snapshots/kept.sql": "{% snapshot kept %}{{ config(unique_key='id', strategy='check', check_cols=['amount']) }} "
    "select * from {{ ref('raw_orders') }}{% endsnapshot %}",
    "tests/refused.sql": "{{ config(enabled=var('strict', false)) }} select * from {{ ref('orders') }} where id = 1",
}


@pytest.mark.thorough
def test_every_command(duckdb: DuckDB, tmp_path: Path) -> None:
    """Each does what dbt's command of its name does, and says it in the same words."""
    project = DbtProject(project_dir=make_project(tmp_path / "shop", ALL), target=duckdb, retry=RETRY)
    assert project.check().startswith("shop can be parsed, and dbt 1.")
    assert [(node.name, node.status, node.rows) for node in project.seed().nodes] == [("raw_orders", "success", 3)]
    first = project.run(["stg_orders", "orders limited"], vars={"most": 2})
    assert first.counts == {"success": 3}
    assert duckdb.fetch_all("select id from limited order by id") == [(1,), (2,)]
    project.run("limited", vars={"most": 3}, full_refresh=True)
    assert duckdb.fetch_all("select id from limited order by id") == [(1,), (2,), (3,)]
    assert project.snapshot().counts == {"success": 1}
    assert project.source_freshness().counts == {"warn": 1}
    compiled = project.compile("orders").artifacts["compiled"]
    assert "stg_orders" in next(compiled.rglob("orders.sql")).read_text()
    docs = project.docs_generate()
    assert docs.artifacts["docs"].name == "index.html"
    assert "main" in docs.artifacts["catalog"].read_text()
    refused = project.test(vars={"strict": True}, raise_on_failure=False)
    assert refused.counts == {"fail": 1, "warn": 1, "pass": 1}
    assert (refused.node("refused").failures, refused.attempts) == (1, 1)
    duckdb.execute("delete from orders where id = 1")
    again = project.retry_failed()
    assert [(node.name, node.status) for node in again.nodes] == [("refused", "pass")]
    with pytest.raises(InvalidInputError, match="had no failure"):
        project.retry_failed()
    with pytest.raises(InvalidInputError, match="found nothing to do for select 'nowhere'"):
        project.run("nowhere")


@pytest.mark.thorough
@pytest.mark.usefixtures("prefect_server")
def test_a_build_beside_other_work(duckdb: DuckDB, tmp_path: Path) -> None:
    """What `trigger` started is waited for later; its nodes are task runs as well."""
    project = DbtProject(project_dir=make_project(tmp_path / "shop", SHOP), target=duckdb, retry=RETRY)
    seen: list[Any] = []

    @flow
    def nightly() -> None:
        seen.append(get_run_context().flow_run.name)
        run = project.trigger()
        run.wait_for_completion()
        seen.append(run.fetch_result())

    nightly()
    assert seen[1].counts == {"success": 3, "pass": 1, "warn": 1}
    names = {run.name: run.state.name for run in task_runs(seen[0], 8)}
    assert names["model.shop.orders"] == "Completed"


@pytest.mark.thorough
def test_a_project_that_may_not_be_written_to(duckdb: DuckDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory stays as it is; the artifacts are kept in Prefect's home, where the next call finds them."""
    folder = make_project(tmp_path / "shop", SHOP)
    before = sorted(folder.rglob("*"))
    writable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(folder) and writable(path, mode))
    project = DbtProject(project_dir=folder, target=duckdb, retry=RETRY)
    results = [project.seed(), project.run()]
    for result in results:
        assert all(not path.is_relative_to(folder) for path in result.artifacts.values())
    assert sorted(folder.rglob("*")) == before


@pytest.mark.thorough
def test_packages_are_asked_for_and_installed(duckdb: DuckDB, tmp_path: Path) -> None:
    """Without them the error says what to call; `deps` installs them."""
    package = {
        "dbt_project.yml": "name: helpers\nversion: '1.0'\n",
        "macros/one.sql": "{% macro one() %}1{% endmacro %}",
    }
    for name, text in package.items():
        path = tmp_path / "helpers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    files = {"packages.yml": "packages: [{local: ../helpers}]", "models/one.sql": "select {{ helpers.one() }} as id"}
    project = DbtProject(project_dir=make_project(tmp_path / "shop", files), target=duckdb, retry=RETRY)
    with pytest.raises(InvalidInputError, match=r"Call deps\(\) first"):
        project.run()
    project.deps()
    assert project.run().counts == {"success": 1}


@pytest.mark.thorough
def test_a_project_with_its_own_profile(tmp_path: Path) -> None:
    """It goes where its own profiles.yml says; here by a dbt command of one's own choice."""
    outputs = {"dev": {"type": "duckdb", "path": str(tmp_path / "own.duckdb")}}
    files = SHOP | {"profiles.yml": json.dumps({"shop": {"target": "dev", "outputs": outputs}})}
    folder = make_project(tmp_path / "shop", files)
    options = {"executable": Path(sys.executable).with_name("dbt"), "target_path": tmp_path / "kept"}
    project = DbtProject(project_dir=folder, profiles_dir=folder, **options, retry=RETRY)
    assert project.build().passed
    assert (tmp_path / "kept" / "manifest.json").exists()
    assert DuckDB(path=str(tmp_path / "own.duckdb")).fetch_one("select count(*) from orders") == (3,)
    wrong = project.model_copy(update={"target_name": "nowhere"})
    with pytest.raises(InvalidInputError, match="does not have a target named 'nowhere'"):
        wrong.build()


@pytest.mark.thorough
def test_a_server_that_is_not_there_passes(tmp_path: Path) -> None:
    """Dbt that does not reach its database is tried again as a whole, and the last error says so."""
    nowhere = Postgres(host="127.0.0.1", port=1, username="u", password="c4n4ry-pass")
    project = DbtProject(
        project_dir=make_project(tmp_path / "shop", SHOP),
        target=nowhere,
        retry=RETRY.model_copy(update={"attempts": 2}),
    )
    with pytest.raises(TransientError, match="refused") as caught:
        project.build()
    assert "c4n4ry" not in str(caught.value)


# The stand-ins of the clouds

INCREMENTAL = {
    "models/daily.sql": "{{ config(materialized='incremental', unique_key='id') }} "
    "select id, amount from {{ ref('orders') }}"
}


@pytest.mark.thorough
def test_bigquery(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    """A whole build, twice: the second one merges."""
    credentials = GcpCredentials(anonymous=True, endpoint_url=bigquery_server.url)
    warehouse = BigQuery(
        gcp_credentials=credentials, dataset=bigquery_server.new_dataset(), project=PROJECT, retry=RETRY
    )
    folder = make_project(tmp_path / "shop", SHOP | INCREMENTAL)
    project = DbtProject(project_dir=folder, target=warehouse, retry=RETRY)
    for _ in range(2):
        result = project.build()
        assert result.counts == {"success": 4, "pass": 1, "warn": 1}
    assert warehouse.fetch_all("select count(*), sum(amount) from daily") == [(3, 60)]


@pytest.mark.thorough
def test_snowflake(snowflake_server: SnowflakeServer, tmp_path: Path) -> None:
    """A first build; the stand-in has no MERGE as dbt writes it, which is what the second one would need."""
    login = SnowflakeCredentials(account="standin", user=USER, password=PASSWORD, **snowflake_server.connection())
    name = new_schema_name()
    warehouse = Snowflake(credentials=login, **fields(name), network_timeout_s=20, retry=RETRY)
    warehouse.model_copy(update={"schema_": "public"}).execute(f"CREATE SCHEMA {name}")
    folder = make_project(tmp_path / "shop", SHOP | INCREMENTAL)
    result = DbtProject(project_dir=folder, target=warehouse, retry=RETRY).build()
    assert result.counts == {"success": 4, "pass": 1, "warn": 1}
    assert warehouse.fetch_all("select count(*), sum(amount) from daily") == [(3, 60)]
    assert PASSWORD.encode() not in b"".join(texts_in(folder))
