"""What `etl new NAME DIR --deploy` writes: it fits the flow, Prefect's own loader, and itself."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import prefect.server.api
import pytest
import yaml
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, RawScheduleConfig
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools import is_valid_schema, validate
from rich.console import Console

from blocks.cli import main
from blocks.cli.saved import block_types, read_file
from blocks.cli.templates import template_files
from tests.pools import pool_of, uncommented

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
TEMPLATES = list(template_files())
FILES = {".dockerignore", "Dockerfile", "README.md", "blocks.toml", "compose.yaml", "prefect.yaml", "requirements.txt"}
VIEWS = Path(prefect.server.api.__file__).parent / "collections_data/views/aggregate-worker-metadata.json"
POOLS = {
    kind: worker["default_base_job_configuration"]["variables"]
    for workers in json.loads(VIEWS.read_text("utf-8")).values()
    for kind, worker in workers.items()
}
TYPES = ["azure-container-instance", "cloud-run-v2", "docker", "ecs", "kubernetes"]


@pytest.fixture(params=TEMPLATES)
def template(request) -> str:
    """The name of each template."""
    return request.param


@pytest.fixture
def folder(template, tmp_path, monkeypatch) -> Path:
    """What was written for it; it is where we are."""
    assert main(["new", template, str(tmp_path / "shop"), "--deploy"]) == 0
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "shop"


def deployments(text: str, folder: Path) -> dict[str, dict]:
    """The deployments of a prefect.yaml by name, as `prefect deploy` reads them; what it would only warn of fails."""
    raw = yaml.safe_load(text)
    PrefectYamlModel.model_validate(raw)
    assert set(raw) <= set(PrefectYamlModel.model_fields)
    for each in raw["deployments"]:
        assert set(each) <= set(DeploymentConfig.model_fields)
        assert all(RawScheduleConfig.model_validate(schedule) for schedule in each["schedules"])
        assert set(each["concurrency_limit"]) == {"limit", "collision_strategy"}
    file = folder / "checked.yaml"
    file.write_text(text, "utf-8")
    found, _ = _load_deploy_configs_and_actions(file, console=Console(file=sys.stderr))
    return {each["name"]: each for each in found}


def test_all_files_are_there_and_filled_in(template, folder):
    """Of the template, with no placeholder left; without `--deploy` there is none of them."""
    assert {file.name for file in folder.iterdir() if file.is_file()} >= FILES | {f"{template}.py"}
    for file in folder.iterdir():
        assert not file.is_file() or not re.search(r"__[A-Z]+__", file.read_text("utf-8")), file.name
    assert main(["new", template, "bare"]) == 0
    assert {file.name for file in (folder / "bare").iterdir() if file.is_file()} == {f"{template}.py"}


def test_no_file_is_overwritten(tmp_path, capsys):
    """Not even one that only deploys; nothing is written then."""
    (tmp_path / "compose.yaml").write_text("mine")
    assert main(["new", TEMPLATES[0], str(tmp_path), "--deploy"]) == 1
    assert "already exists. Nothing was written." in capsys.readouterr().err
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"compose.yaml": "mine"}


def test_deployments_fit_the_flow(folder):
    """Prefect reads them; `production` gets a saved block for each parameter that takes one, and each is described."""
    found = deployments((folder / "prefect.yaml").read_text("utf-8"), folder)
    assert set(found) == {"local", "production"}
    flow = load_flow_from_entrypoint(found["production"]["entrypoint"])
    described = re.findall(r"^ +(\w+): .*?(etl-[\w-]+/[\w-]+)", flow.fn.__doc__, re.MULTILINE)
    assert found["production"]["parameters"] == dict(described)
    assert set(found["production"]["parameters"]) & {"source", "warehouse"}
    flow.validate_parameters(found["production"]["parameters"])
    tables = tomllib.loads((folder / "blocks.toml").read_text("utf-8"))
    saved = {f"{kind}/{name}" for kind, named in tables.items() for name in named}
    assert set(found["production"]["parameters"].values()) <= saved
    assert set(tables) <= set(block_types())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("template", ["orders_pipeline"], indirect=True)
def test_each_pool_of_the_comments_fits_its_type(kind, folder):
    """Prefect reads the file with it, and every variable is one of the pool's own job template, and of its type."""
    _, text = uncommented((folder / "prefect.yaml").read_text("utf-8"))[kind]
    deployed = deployments(text, folder)["production"]
    assert deployed["work_pool"]["name"] != "production"
    variables = deployed["work_pool"]["job_variables"]
    assert is_valid_schema(POOLS[kind]) is None
    assert set(variables) <= set(POOLS[kind]["properties"])
    assert validate(variables, POOLS[kind], raise_on_error=False) == []
    assert "orders_pipeline" in variables["image"]


@pytest.mark.parametrize("template", ["orders_pipeline"], indirect=True)
def test_every_pool_and_schedule_of_the_comments_is_tried(folder):
    """There is no comment of another form, which no test would uncomment."""
    text = (folder / "prefect.yaml").read_text("utf-8")
    assert sorted(uncommented(text)) == TYPES
    assert text.count("# work_pool:") == len(TYPES)
    assert pool_of(text) == {"name": "production"}
    schedules = re.sub(r"(?m)^      # ( .*|- .*)$", r"      \1", text)
    found = deployments(schedules, folder)["production"]["schedules"]
    assert [{"cron", "interval", "rrule"} & set(each) for each in found] == [{"cron"}, {"interval"}, {"rrule"}]


def test_the_requirements_are_extras_of_ours(folder):
    """Those of the blocks in blocks.toml, and of what the template imports."""
    extras = re.fullmatch(r"etl-blocks\[(.*)\]\n", (folder / "requirements.txt").read_text("utf-8"))[1].split(",")
    assert {"postgres", "s3"} <= set(extras) <= set(EXTRAS)


def test_the_blocks_are_saved_from_what_compose_sets(folder, monkeypatch):
    """Every variable that blocks.toml reads is in the environment of the service that saves it."""
    services = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))["services"]
    for name, value in services["setup"]["environment"].items():
        if not name.startswith("PREFECT_"):
            monkeypatch.setenv(name, value)
    blocks = read_file(folder / "blocks.toml")
    assert blocks.tables["etl-postgres/prod"]["host"] in services
    assert blocks.tables["etl-aws-credentials/main"]["endpoint_url"] == "http://store:8333"


@pytest.mark.parametrize("template", ["orders_pipeline"], indirect=True)
def test_the_services_fit_each_other(folder):
    """What a service waits for is there and has a health check; its volumes are declared; the image has the flow."""
    compose = yaml.safe_load((folder / "compose.yaml").read_text("utf-8"))
    services = compose["services"]
    for service in services.values():
        for other, state in service.get("depends_on", {}).items():
            assert state == {"condition": "service_healthy"}
            assert "healthcheck" in services[other]
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
    dockerfile = (folder / "Dockerfile").read_text("utf-8")
    pull = yaml.safe_load((folder / "prefect.yaml").read_text("utf-8"))["deployments"][1]["pull"]
    assert f"WORKDIR {next(iter(pull[0].values()))['directory']}\n" in dockerfile
    assert services["setup"]["command"] == ["sh", "setup.sh"]
    assert (folder / "setup.sh").is_file()
