"""What `etl new --deploy` writes, used as its README says: on real servers, with workers, on a schedule.

There is no container runtime here: the steps of Dockerfile and compose.yaml are done by hand, in a clean environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import psycopg
import pytest
import yaml

from blocks.cli import main as etl
from integration_tests.standins import s3
from integration_tests.standins.prefect import prefect_server as own_server
from integration_tests.standins.process import HOST, free_ports, listening, spawn, stop, wait
from tests.documents import blocks_of
from tests.pools import pool_of, uncommented

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address, PostgresServer

ROOT = Path(__file__).parents[1]
POOLS = ROOT / ".venv-pools/bin"
COMMANDS = Path(sys.executable).parent

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1800)]


def written(folder: Path) -> Path:
    """The orders pipeline with all that deploys it."""
    assert etl(["new", "orders_pipeline", str(folder), "--deploy"]) == 0
    return folder


def run(*command: str | Path, cwd: Path, commands: Path = COMMANDS, timeout: float = 600, **variables: str) -> str:
    """What a command prints, with the environment's commands on the path."""
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Started:
    """A worker, and the API that it asks."""

    def __init__(self, api: str, home: Path, *command: str | Path, cwd: Path, **variables: str) -> None:
        self.api, self.log = api, home / "worker.log"
        self.variables = {"PREFECT_API_URL": api, "PREFECT_HOME": str(home), **variables}
        self._process = spawn(command, log=self.log, env=self.variables, cwd=cwd)

    def wait_for_pool(self, name: str) -> None:
        """Returns once the worker has made its pool."""
        address = f"{self.api}/work_pools/{name}"
        wait(lambda: httpx.get(address).raise_for_status(), self._process, log=self.log, timeout_s=300)

    def ended_runs(self, count: int, *, timeout_s: float = 600) -> list[str]:
        """The messages of the first runs that ended, in the order of their schedule."""
        deadline = time.monotonic() + timeout_s
        query = {"sort": "EXPECTED_START_TIME_ASC", "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED"]}}}}
        while True:
            runs: list[dict[str, Any]] = httpx.post(f"{self.api}/flow_runs/filter", json=query, timeout=60).json()
            if len(runs) >= count:
                return [each["state"]["message"] or "" for each in runs[:count]]
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        stop(self._process)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty database for Prefect's server; its own default is SQLite."""
    if request.param == "SQLite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return url(server.new_database())


def url(address: Address) -> str:
    """As Prefect's server takes it."""
    return f"postgresql+asyncpg://{address.user}:{address.password}@{address.host}:{address.port}/{address.database}"


def test_a_deployment_runs_on_its_schedule(database: str | None, tmp_path: Path) -> None:
    """Every minute: the first run loads the day, the next one finds it loaded, and so does one after a restart."""
    folder, home = written(tmp_path / "shop"), tmp_path / "home"
    file = folder / "prefect.yaml"
    file.write_text(file.read_text("utf-8").replace("0 6 * * *", "* * * * *"), "utf-8")
    today = datetime.now(UTC).date()
    for day in (today, today + timedelta(days=1)):  # should midnight come meanwhile
        shutil.copy(folder / "data/source/orders_2026-04-30.csv", folder / f"data/source/orders_{day}.csv")
    worker = (COMMANDS / "prefect", "worker", "start", "--pool", "local", "--type", "process")
    with (
        own_server(home, database=database) as address,
        Started(f"{address}/api", home, *worker, cwd=tmp_path) as started,
    ):
        started.wait_for_pool("local")
        run("prefect", "--no-prompt", "deploy", "--name", "local", cwd=folder, **started.variables)
        first, second = started.ended_runs(2)
    assert re.match(r"\d{4}-\d\d-\d\d; orders: 21 of 24 rows written", first)
    assert "orders: already loaded" in second
    with (
        own_server(home, database=database) as address,
        Started(f"{address}/api", home, *worker, cwd=tmp_path) as started,
    ):
        assert "orders: already loaded" in started.ended_runs(3)[2]
        again = ("prefect", "deployment", "run", "orders-pipeline/local", "--watch")
        assert "already loaded" in run(*again, cwd=tmp_path, **started.variables)


def test_first_steps_with_a_server(tmp_path: Path) -> None:
    """`python orders.py` alone, then with a server that is up: it is seen there, as docs/first-steps.md says."""
    page = ROOT / "docs/first-steps.md"
    for block in blocks_of(page):
        if block.file:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text, "utf-8")
    alone = {"PREFECT_HOME": str(tmp_path / "alone"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300"}
    assert "orders: 2 rows loaded by upsert (2 inserted)" in run(sys.executable, "orders.py", cwd=tmp_path, **alone)
    with own_server(tmp_path / "home") as address:
        setting = f"PREFECT_API_URL={address}/api"
        variables = {"PREFECT_HOME": str(tmp_path / "home")}
        run("prefect", "config", "set", setting, cwd=tmp_path, **variables)
        assert "already loaded" in run(sys.executable, "orders.py", cwd=tmp_path, **variables)
        runs = httpx.post(f"{address}/api/flow_runs/filter", json={}).json()
        tasks = httpx.post(f"{address}/api/task_runs/filter", json={}).json()
    assert [each["state"]["type"] for each in runs] == ["COMPLETED"]
    assert any(each["name"].startswith("DuckDB.load") for each in tasks)


@pytest.fixture
def image(wheel: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The folder that a Dockerfile describes and the commands of its environment: its steps, done by hand."""
    folder, environment = written(tmp_path / "home/etl"), tmp_path / "image"
    shutil.copy(wheel, folder)
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    steps = re.findall(r"^RUN (pip .*)$", (folder / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert len(steps) == 1
    run(*steps[0].replace("--no-cache-dir ", "").split(), cwd=folder, commands=environment / "bin", timeout=900)
    file = folder / "prefect.yaml"
    file.write_text(file.read_text("utf-8").replace("directory: /home/etl", f"directory: {folder}"), "utf-8")
    return folder, environment / "bin"


@pytest.fixture
def store(tmp_path: Path, image: tuple[Path, Path]) -> Iterator[str]:
    """The store of compose.yaml, by its own command, on ports that are free here."""
    service = yaml.safe_load((image[0] / "compose.yaml").read_text("utf-8"))["services"]["store"]
    data = tmp_path / "store"
    data.mkdir()
    command: list[Any] = [s3._weed(), *(part.replace("/data", str(data)) for part in service["command"])]
    ports = dict(zip(s3.PORTS, free_ports(len(s3.PORTS)), strict=True))
    command += [f"-{name}={port}" for name, port in ports.items() if name != "s3.port.https"]
    command += [f"-ip={HOST}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
    process = spawn(command, log=tmp_path / "store.log", env=service["environment"], cwd=data)
    try:
        wait(listening(ports["s3.port"]), process, log=tmp_path / "store.log")
        yield f"http://{HOST}:{ports['s3.port']}"
    finally:
        stop(process)


def test_the_steps_of_the_image_and_of_compose(
    image: tuple[Path, Path], store: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """All is installed, the blocks are saved and checked, the image's worker loads from store to warehouse."""
    folder, commands = image
    services = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))["services"]
    login = services["warehouse"]["environment"]
    warehouse = postgres_server.new_database(name="shop")
    with postgres_server.address.connect() as connection:
        connection.execute(f"create role {login['POSTGRES_USER']} login superuser password 'etl'")
    its_place = {"ETL_S3_ENDPOINT": store, "ETL_DB_HOST": warehouse.host, "PGPORT": str(warehouse.port)}
    home = tmp_path / "prefect"
    command = json.loads(re.findall(r"^CMD (.*)$", (folder / "Dockerfile").read_text("utf-8"), re.MULTILINE)[0])
    with (
        own_server(home, commands / "python", database=url(postgres_server.new_database())) as address,
        Started(
            f"{address}/api", home, commands / command[0], *command[1:], cwd=folder, PGPORT=str(warehouse.port)
        ) as started,
    ):
        variables = services["setup"]["environment"] | its_place | started.variables
        printed = run(*services["setup"]["command"], cwd=folder, commands=commands, **variables)
        assert re.search(r"etl-postgres/prod +ok", printed)
        assert re.search(r"etl-s3-bucket/raw +ok", printed)
        again = ("prefect", "deployment", "run", "orders-pipeline/production", "--watch")
        assert "Completed" in run(*again, cwd=tmp_path, commands=commands, **started.variables)
        assert "already loaded" in run(*again, cwd=tmp_path, commands=commands, **started.variables)
    with psycopg.connect(warehouse.dsn()) as connection:
        assert connection.execute("select count(*), count(distinct order_id) from orders").fetchone() == (21, 21)


needs_pools = pytest.mark.skipif(not POOLS.exists(), reason="make .venv-pools/done: the packages of the worker types")


@needs_pools
def test_each_pool_makes_a_job_of_its_variables(tmp_path: Path) -> None:
    """The server takes the deployment with each pool of the comments, and the type's own worker makes a job of it."""
    folder, home = written(tmp_path / "shop"), tmp_path / "home"
    file = folder / "prefect.yaml"
    found = uncommented(file.read_text("utf-8"))
    variables = {kind: pool_of(text)["job_variables"] for kind, (_, text) in found.items()}
    with own_server(home, POOLS / "python") as address:
        server = {"PREFECT_API_URL": f"{address}/api", "PREFECT_HOME": str(home)}
        for kind, (_, text) in found.items():
            file.write_text(text, "utf-8")
            pool = pool_of(text)["name"]
            run("prefect", "work-pool", "create", pool, "--type", kind, cwd=folder, **server)
            run("prefect", "--no-prompt", "deploy", "--name", "production", cwd=folder, **server)
            kept = httpx.get(f"{address}/api/deployments/name/orders-pipeline/production").json()
            assert kept["work_pool_name"] == pool
            assert kept["job_variables"] == variables[kind]
        script = ROOT / "integration_tests/standins/pools.py"
        done = subprocess.run(
            [POOLS / "python", script],
            input=json.dumps(variables),
            env=os.environ | server,
            capture_output=True,
            text=True,
            check=True,
        )
    jobs = json.loads(done.stdout)
    assert set(jobs) == set(found)
    for kind, made in jobs.items():
        assert made["unknown"] == [], kind
        assert variables[kind]["image"] in json.dumps(made["job"]), kind


@needs_pools
def test_docker_reads_both_files(tmp_path: Path) -> None:
    """Docker Compose itself takes compose.yaml, and Docker's own parser the Dockerfile."""
    folder = written(tmp_path / "shop")
    config = yaml.safe_load(run(POOLS / "docker-compose", "config", cwd=folder))
    assert set(config["services"]) == {"server", "server-database", "warehouse", "store", "worker", "setup"}
    code = "import dockerfile; print(*(each.cmd for each in dockerfile.parse_file('Dockerfile')))"
    instructions = run(POOLS / "python", "-c", code, cwd=folder).split()
    assert instructions == ["FROM", "RUN", "WORKDIR", "COPY", "RUN", "COPY", "USER", "CMD"]
