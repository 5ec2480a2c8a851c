"""The `etl` command, in this process; what a user's own shell adds is tried once, as a subprocess."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import uuid
import warnings
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate

from blocks.cli import main
from blocks.files.local import PART_SUFFIX
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles

CANARY = "canary-52c8e0"
ROOT = Path(__file__).parents[1]

FLOW = '''
"""A flow of the tests."""
from datetime import date
from typing import Literal
from prefect import flow
from blocks import NotFoundError

@flow
def shop(
    ds: date,
    limit: int = 10,
    mode: Literal["fast", "safe"] = "safe",
    dry_run: bool = False,
    columns: list[str] = ["a"],
    options: dict[str, int] | None = None,
    store: str = "etl-local-files/lake",
):
    """Moves a day of the shop.

    Args:
        ds: The day, such as 2026-04-30.
        limit: How many, 100% at most.
        mode: How.
    """
    return f"{ds!r} {limit!r} {mode!r} {dry_run!r} {columns!r} {options!r} {store!r}"

@flow
async def later(word: str = "soon"):
    """Another flow of the file."""
    return [word, "or never"]

@flow
def broken():
    """One that fails."""
    raise NotFoundError("There is no such thing. Look elsewhere.")
'''


@pytest.fixture
def shop(tmp_path) -> str:
    file = tmp_path / "shop.py"
    file.write_text(FLOW)
    return str(file)


def unboxed(text: str) -> str:
    """What a page of help says, without its boxes and line ends."""
    return " ".join(re.sub(r"[╭╮╰╯│─]", " ", text).split())


def ran(capsys, *arguments: str, code: int = 0) -> str:
    """What `etl` wrote to stdout; on failure what it wrote to stderr."""
    result = main(arguments)
    output = capsys.readouterr()
    assert result == code, output.err
    return output.err if code else output.out


# list, new


def test_list_shows_templates_and_block_types(capsys):
    """One line each."""
    lines = {line.split()[0]: line for line in ran(capsys, "list").splitlines() if line.startswith("  ")}
    assert "Move the orders of a day" in lines["orders_pipeline"]
    assert {"etl-postgres", "etl-s3-bucket", "etl-duckdb", "etl-local-files", "etl-aws-credentials"} <= set(lines)


def test_new_makes_an_owned_copy_that_runs_at_once(prefect_server, capsys, tmp_path):
    """`etl new`, `cd`, `python`: the report is printed and the partition is there."""
    folder = tmp_path / "mine"
    assert f"cd {folder} && python orders_pipeline.py" in ran(capsys, "new", "orders_pipeline", str(folder))
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "orders_pipeline.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "2026-04-30" in done.stdout
    assert list((folder / "warehouse/orders").glob("date=2026-04-30/*.parquet"))
    # The same copy, by the command, which finds that the day is there.
    again = [sys.executable, "-m", "blocks.cli", "run", "orders_pipeline.py", "--ds", "2026-04-30"]
    done = subprocess.run(again, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert "already loaded" in done.stdout
    assert "s until Prefect's server answered" in done.stderr
    assert "s work" in done.stderr


def test_new_overwrites_nothing(capsys, tmp_path):
    """A second copy into one folder is refused, and the first one is as it was."""
    ran(capsys, "new", "orders_pipeline", str(tmp_path))
    (tmp_path / "orders_pipeline.py").write_text("mine")
    assert "already exists" in ran(capsys, "new", "orders_pipeline", str(tmp_path), code=1)
    assert (tmp_path / "orders_pipeline.py").read_text() == "mine"


@pytest.mark.parametrize("command", [("new", "ordres", "there"), ("run", "ordres")])
def test_an_unknown_template_is_named(capsys, command):
    """With the ones that there are."""
    message = ran(capsys, *command, code=1)
    assert "Unknown template 'ordres'" in message
    assert "orders_pipeline" in message


# run


@pytest.mark.usefixtures("prefect_server")
def test_parameters_arrive_in_their_types(capsys, shop):
    """From the flow's own signature; what is not given keeps its default."""
    assert ran(capsys, "run", shop, "--ds", "2026-04-30") == (
        "datetime.date(2026, 4, 30) 10 'safe' False ['a'] None 'etl-local-files/lake'\n"
    )
    given = "--ds 2026-04-30 --limit 3 --mode fast --dry-run --columns a b --store x".split()  # noqa: SIM905
    assert ran(capsys, "run", shop, *given, "--options", '{"n": 1}') == (
        "datetime.date(2026, 4, 30) 3 'fast' True ['a', 'b'] {'n': 1} 'x'\n"
    )


def test_help_shows_the_flows_parameters(capsys, shop):
    """With their documentation and defaults, and without a server."""
    text = unboxed(ran(capsys, "run", shop, "--help"))
    assert "Moves a day of the shop." in text
    assert "The day, such as 2026-04-30. [required]" in text
    assert "How many, 100% at most. [default: 10]" in text
    assert "--dry-run" in text


def test_help_says_what_is_left_out(capsys):
    """In the words of the flow, and not as a None."""
    text = unboxed(ran(capsys, "run", "orders_pipeline", "--help"))
    assert "The store that gets the Parquet files, such as etl-s3-bucket/lake. Defaults to a local folder." in text
    assert "None" not in text
    assert "RetryPolicy" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ds", "yesterday"], "Invalid value for --ds: Input should be a valid date"),
        (["--ds", "2026-04-30", "--limit", "many"], "Invalid value for --limit: Input should be a valid integer"),
        (["--ds", "2026-04-30", "--mode", "slow"], "Invalid value for --mode: Input should be 'fast' or 'safe'"),
        (["--ds", "2026-04-30", "--limti", "3"], "Unknown option: --limti. Did you mean --limit?"),
        ([], "Parameter --ds requires an argument"),
    ],
)
def test_wrong_parameters_are_named_before_anything_runs(capsys, shop, arguments, message):
    """Exit code 2, and the parameter with what it should be."""
    assert message in ran(capsys, "run", shop, *arguments, code=2)


@pytest.mark.usefixtures("prefect_server")
def test_another_flow_of_the_file(capsys, shop):
    """`FILE:FLOW` runs it, asynchronous or not; a list of reports is printed line by line."""
    with warnings.catch_warnings():
        # Prefect 3.8 leaves a client open that its async engine asks for the result storage.
        warnings.simplefilter("ignore", ResourceWarning)
        assert ran(capsys, "run", f"{shop}:later", "--word", "now") == "now\nor never\n"
        gc.collect()


def test_an_unknown_flow_is_named(capsys, shop):
    """With the ones that there are."""
    message = ran(capsys, "run", f"{shop}:sooner", code=1)
    assert "no flow named sooner" in message
    assert f"{shop}:later" in message
    assert "File not found" in ran(capsys, "run", "nowhere.py", code=1)


@pytest.mark.usefixtures("prefect_server")
def test_a_failure_is_one_line(capsys, shop):
    """The error of the connector, without a traceback; with `--debug` the error itself."""
    message = ran(capsys, "run", f"{shop}:broken", code=1)
    assert message.splitlines()[-1] == "error: There is no such thing. Look elsewhere."
    assert "Traceback" not in message
    with pytest.raises(Exception, match="There is no such thing"):
        main(["--debug", "run", f"{shop}:broken"])


# save


def toml(tmp_path, text: str) -> str:
    file = tmp_path / "blocks.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.usefixtures("prefect_server")
def test_save_creates_updates_and_leaves_alone(capsys, tmp_path, monkeypatch):
    """A second run changes nothing, a changed value is an update that names the field, and no secret is shown."""
    text = """
        [etl-postgres.cli-prod]
        host = "db.example.com"
        database = "shop"
        username = "loader"
        password = { env = "SHOP_PASSWORD" }
    """
    monkeypatch.setenv("SHOP_PASSWORD", CANARY)
    assert ran(capsys, "save", toml(tmp_path, text)) == "etl-postgres/cli-prod  created\n"
    assert ran(capsys, "save", toml(tmp_path, text)) == "etl-postgres/cli-prod  unchanged\n"
    assert Block.load("etl-postgres/cli-prod").password.get_secret_value() == CANARY
    monkeypatch.setenv("SHOP_PASSWORD", f"{CANARY}-2")
    assert ran(capsys, "save", toml(tmp_path, text)) == "etl-postgres/cli-prod  updated (password)\n"
    changed = text.replace("db.example.com", "db2.example.com")
    assert ran(capsys, "save", toml(tmp_path, changed)) == "etl-postgres/cli-prod  updated (host)\n"
    assert Block.load("etl-postgres/cli-prod").password.get_secret_value() == f"{CANARY}-2"


@pytest.mark.usefixtures("prefect_server")
def test_save_refers_to_other_blocks(capsys, tmp_path):
    """In any order within a file, to one saved before, or inline; a new key reaches whoever refers to it."""
    text = """
        [etl-s3-bucket.cli-raw]
        bucket_name = "raw"
        credentials = { block = "etl-aws-credentials/cli-main" }

        [etl-aws-credentials.cli-main]
        region_name = "eu-central-1"
    """
    created = ran(capsys, "save", toml(tmp_path, text)).splitlines()
    assert [line.split() for line in created] == [
        ["etl-aws-credentials/cli-main", "created"],
        ["etl-s3-bucket/cli-raw", "created"],
    ]
    assert ran(capsys, "save", toml(tmp_path, text)).count("unchanged") == 2
    key = '[etl-aws-credentials.cli-main]\nregion_name = "us-east-1"'
    assert "updated (region_name)" in ran(capsys, "save", toml(tmp_path, key))
    assert Block.load("etl-s3-bucket/cli-raw").credentials.region_name == "us-east-1"
    elsewhere = (
        '[etl-s3-bucket.cli-lake]\nbucket_name = "lake"\ncredentials = { block = "etl-aws-credentials/cli-main" }'
    )
    ran(capsys, "save", toml(tmp_path, elsewhere))
    assert Block.load("etl-s3-bucket/cli-lake").credentials.region_name == "us-east-1"
    inline = '[etl-s3-bucket.cli-in]\nbucket_name = "in"\ncredentials = { region_name = "eu-west-1" }'
    assert "created" in ran(capsys, "save", toml(tmp_path, inline))
    assert "unchanged" in ran(capsys, "save", toml(tmp_path, inline))
    assert Block.load("etl-s3-bucket/cli-in").credentials.region_name == "eu-west-1"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path = 'x", "is not valid TOML"),
        ("[etl-duckbd.x]\npath = 'x'", "unknown block type 'etl-duckbd'; did you mean etl-duckdb?"),
        ("[etl-duckdb.x]\npth = 'x'", "[etl-duckdb.x] DuckDB has no field 'pth'; did you mean 'path'?"),
        ("[etl-postgres]\nhost = 'x'", "write [etl-postgres.NAME]"),
        ("[etl-duckdb.'Up Per']\npath = 'x'", "consists of lowercase letters, digits and dashes"),
        ("[etl-postgres.x]\nhost = 'h'\nport = 'canary'", "[etl-postgres.x]"),
        ("[etl-postgres.x]\npassword = { env = 'NO_SUCH_VARIABLE' }", "NO_SUCH_VARIABLE is not set"),
        (
            "[etl-s3-bucket.x]\nbucket_name = 'b'\ncredentials = { block = 'etl-aws-credentials/none' }",
            "No saved block 'etl-aws-credentials/none'",
        ),
        (
            "etl-duckdb.x.path.block = 'etl-local-files/x'\netl-local-files.x.basepath.block = 'etl-duckdb/x'",
            "etl-duckdb/x -> etl-local-files/x -> etl-duckdb/x is a circular reference",
        ),
    ],
)
def test_save_is_all_or_nothing(capsys, tmp_path, text, message):
    """What is wrong is named, and not even the good block of the file is saved."""
    name = f"cli-{uuid.uuid4().hex}"
    error = ran(capsys, "save", toml(tmp_path, f"{text}\n[etl-duckdb.{name}]\npath = 'good'"), code=1)
    assert message in error
    assert "Nothing was saved." in error
    assert "canary" not in error
    with pytest.raises(ValueError, match="Unable to find block document"):
        Block.load(f"etl-duckdb/{name}")


@pytest.mark.usefixtures("prefect_server")
def test_save_renews_a_block_that_fits_no_more(capsys, tmp_path):
    """After an upgrade, `etl save` is the way out that the error names."""
    text = f'[etl-duckdb.cli-old]\npath = "{tmp_path}/x"'
    ran(capsys, "save", toml(tmp_path, text))
    outdate("etl-duckdb", "cli-old")
    assert "does not fit" in " ".join(check_lines(capsys, "etl-duckdb/cli-old", code=1))
    assert "updated" in ran(capsys, "save", toml(tmp_path, text))
    assert "unchanged" in ran(capsys, "save", toml(tmp_path, text))


def outdate(slug: str, name: str) -> None:
    """Rename a field of a saved block, as if an older version had saved it."""
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name(name, slug)
        data = BlockDocumentUpdate(
            block_schema_id=document.block_schema_id, data={"formerly": "x"}, merge_existing_data=False
        )
        client.update_block_document(document.id, data)


# check


def check_lines(capsys, *references: str, code: int) -> list[str]:
    """What `etl check` printed."""
    assert main(["check", *references]) == code
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("prefect_server")
def test_check_says_of_each_block_whether_it_works(capsys, tmp_path):
    """One line each, in the order asked for; the exit code is 0 only if all work."""
    DuckDB(path=str(tmp_path / "good.duckdb")).save("cli-good", overwrite=True)
    DuckDB(path=str(tmp_path / "no/such/folder/x.duckdb"), read_only=True).save("cli-bad", overwrite=True)
    good, bad, unknown = "etl-duckdb/cli-good", "etl-duckdb/cli-bad", "etl-duckdb/cli-unknown"
    (line,) = check_lines(capsys, good, code=0)
    assert line.split()[:2] == [good, "ok"]
    lines = check_lines(capsys, bad, good, unknown, code=1)
    assert [line.split()[:2] for line in lines] == [[bad, "FAILED"], [good, "ok"], [unknown, "FAILED"]]
    assert "No saved block" in lines[2]


@pytest.mark.usefixtures("prefect_server")
def test_check_without_names_checks_every_block_of_ours(capsys, tmp_path):
    """And no other collection's."""
    from prefect.blocks.system import Secret

    Secret(value="x").save("cli-foreign", overwrite=True)
    DuckDB(path=str(tmp_path / "x.duckdb")).save("cli-mine", overwrite=True)
    main(["check"])
    lines = capsys.readouterr().out.splitlines()
    assert "etl-duckdb/cli-mine" in [line.split()[0] for line in lines]
    assert all(line.startswith("etl-") for line in lines)


@pytest.mark.usefixtures("prefect_server")
def test_check_sweeps_what_killed_uploads_left(capsys, tmp_path):
    """Only when asked, only what is old enough, and only in buckets that are named."""
    left = tmp_path / f"x{PART_SUFFIX}"
    left.write_bytes(b"half of an objec")
    LocalFiles(basepath=str(tmp_path)).save("cli-swept", overwrite=True)
    DuckDB(path=str(tmp_path / "x.duckdb")).save("cli-unswept", overwrite=True)
    files, database = "etl-local-files/cli-swept", "etl-duckdb/cli-unswept"
    (line,) = check_lines(capsys, files, "--sweep", code=0)
    assert "removed: 0" in line
    assert left.exists()
    (line,) = check_lines(capsys, files, "--sweep", "--older-than", "0", code=0)
    assert "removed: 1" in line
    assert not left.exists()
    (line,) = check_lines(capsys, database, "--sweep", code=1)
    assert "nothing to sweep" in line
    assert "etl check --sweep BLOCK" in ran(capsys, "check", "--sweep", code=1)


# state


def test_a_state_is_shown_set_and_reset(capsys, tmp_path):
    """Each command prints from where the next load reads on; JSON has all that is known of it."""
    block = DuckDB(path=str(tmp_path / "shop.duckdb"))
    block.save(f"state-{uuid.uuid4().hex[:8]}")
    reference = f"etl-duckdb/{block._block_document_name}"
    block.load([{"id": 1, "seq": 41}], "src")
    block.load(block.scan_since("src", cursor="seq"), "t", state="t/by-seq")
    assert re.search(r"^t/by-seq  41 +append 1  t ", ran(capsys, "state", "show", reference), re.MULTILINE)
    assert re.search(
        r"^t/by-seq  -7 +set 2  t ", ran(capsys, "state", "set", reference, "t/by-seq", "-7"), re.MULTILINE
    )
    assert "reset 3" in ran(capsys, "state", "reset", reference, "t/by-seq")
    assert "41" in ran(capsys, "state", "set", reference, "t/by-seq", "--number", "1")
    (shown,) = json.loads(ran(capsys, "state", "show", reference, "t/by-seq", "--json"))
    assert (shown["number"], shown["mode"], shown["mark"]["value"]) == (4, "set", "41")
    assert "has no state 'other'" in ran(capsys, "state", "show", reference, "other", code=1)
    assert "has no state 'other'. Its states: 't/by-seq'" in ran(capsys, "state", "reset", reference, "other", code=1)
    assert "Give either a value" in ran(capsys, "state", "set", reference, "t/by-seq", code=1)


# the command itself


def test_help_and_wrong_commands(capsys):
    """Exit code 2 for arguments that do not fit, 0 for help."""
    assert "list" in ran(capsys, "--help")
    assert 'Unknown command "lsit". Did you mean "list"?' in ran(capsys, "lsit", code=2)
    assert "Usage: etl COMMAND" in ran(capsys, code=2)


def test_help_of_each_command(capsys):
    """It says what its arguments are; that of `run` is its own until a flow is named."""
    assert "etl list" in unboxed(ran(capsys, "save", "--help"))
    assert "such as etl-postgres/prod" in unboxed(ran(capsys, "check", "--help"))
    assert "where it has several flows, NAME:FLOW" in unboxed(ran(capsys, "run", "--help"))


def test_versions_for_a_report(capsys):
    """Ours, Prefect's and Python's."""
    line = ran(capsys, "--version")
    assert line == f"etl-blocks {version('etl-blocks')}, Prefect {version('prefect')}, Python {python_version()}\n"


def test_a_shell_completes_the_commands(tmp_path):
    """The script that is installed offers them, and asks nothing of this process."""
    script = tmp_path / "etl.bash"
    startup = tmp_path / ".bashrc"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "blocks.cli", "--install-completion", "--shell", "bash", "--output", str(script)]
    subprocess.run(command, env=environment, check=True, capture_output=True)  # noqa: S603
    assert str(script) in startup.read_text()
    offered = f"source {script}; COMP_WORDS=(etl ch); COMP_CWORD=1; _etl; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", offered], check=True, capture_output=True, text=True)  # noqa: S603, S607
    assert done.stdout.split() == ["check"]


def test_an_api_that_is_away_is_named(capsys):
    """By its URL, with what to do."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        message = ran(capsys, "check", code=1)
    assert "Prefect's API at http://127.0.0.1:9/api does not answer" in message
    assert "PREFECT_API_URL" in message
