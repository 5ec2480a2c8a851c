"""Bad input on this machine: a clear line and an exit code each, and nothing half-written.

`pytest -s tests/test_bad_input.py` prints what a user sees in each case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging.handlers import APILogHandler

from tests.etl_project import DAY, GOOD, HEADER, Outcome, Project

CANARY = "hunter2"
NO_NUMBER = f"10,{CANARY},Lima,{DAY}T07:00:00Z,paid,{CANARY}"
TOO_FEW = f"11,{CANARY}"
TOO_MANY = f"12,{CANARY},Cork,{DAY}T07:00:00Z,paid,1.00,{CANARY}"
LATIN_1 = f"13,{CANARY} Königlich,Köln,{DAY}T07:00:00Z,paid,1.00".encode("latin-1")
AT = f"data/source/orders_{DAY}.csv"

FILES = {
    "missing file": (None, ["Could not read", f"{AT}: no such file.", "Check the key"]),
    "empty file": ("", [AT, "is empty: no header.", "Was it written to the end?"]),
    "header only": (f"{HEADER}\n", [AT, "holds no orders.", "Nothing was loaded."]),
    "too many rows with too few or too many fields": (
        "\n".join([HEADER, *GOOD[:3], TOO_FEW, TOO_MANY]),
        [
            AT,
            "2 of 5 rows",
            "too few fields: 1, the first in line 5",
            "too many fields: 1, the first in line 6",
            "max_rejected",
        ],
    ),
    "amounts that are not numbers": (
        "\n".join([HEADER, *GOOD[:2], NO_NUMBER]),
        [AT, "1 of 3 rows", "amount is not a number: 1, the first in line 4", "25.00%"],
    ),
    "rows that are not UTF-8": (
        b"\n".join([HEADER.encode(), LATIN_1, LATIN_1]),
        [AT, "2 of 2 rows", "not UTF-8: 2, the first in line 2"],
    ),
    "a header that is not UTF-8": (
        f"{HEADER},größe\n".encode("latin-1"),
        [AT, "is not UTF-8 text", "Pass its encoding"],
    ),
    "UTF-16": ("\n".join([HEADER, *GOOD]).encode("utf-16"), [AT, "UTF-16", "pass its encoding"]),
    "no key column": (
        "\n".join([HEADER.replace("order_id", "id"), *GOOD, NO_NUMBER]),
        [AT, "lacks 'order_id'", "its columns are 'id'"],
    ),
    "a quote that is never closed": (
        "\n".join([HEADER, f'1,"{CANARY},Lima,{DAY}T07:00:00Z,paid,1.00', *GOOD]),
        [AT, "line 2", "a quote was opened and never closed"],
    ),
}

EDITS = {
    "lake below a file": (
        'LocalFiles(basepath="warehouse")',
        f'LocalFiles(basepath="{AT}/lake")',
        ["Could not write", f"{AT}/lake/orders", "Not a directory", "would have to be a folder"],
    ),
    "warehouse below a file": (
        'path="warehouse/warehouse.duckdb"',
        f'path="{AT}/warehouse.duckdb"',
        ["Could not open", f"{AT}/warehouse.duckdb: File exists.", "would have to be a directory"],
    ),
    "misspelt block field in Python": (
        'LocalFiles(basepath="warehouse")',
        'LocalFiles(base_path="warehouse")',
        ["orders_pipeline.py line {line}: LocalFiles has no field 'base_path'; did you mean 'basepath'?"],
    ),
    "a file that is no Python": (
        "MAX_REJECTED = ",
        "MAX_REJECTED = = ",
        ["orders_pipeline.py line {line}: invalid syntax."],
    ),
    "a module that is not there": (
        "import pyarrow as pa\n",
        "import pyarow as pa\n",
        ["orders_pipeline.py line {line}: ModuleNotFoundError: No module named 'pyarow'."],
    ),
}

ARGUMENTS = {
    "ds not a date": (["--ds", "yesterday"], 2, ["Invalid value for --ds", "valid date", "such as 2026-04-30"]),
    "unknown parameter": (["--day", DAY], 2, ["Unknown option: --day"]),
    "saved block missing": (
        ["--lake", "etl-local-files/nope"],
        1,
        ["No saved block 'etl-local-files/nope'", "etl save FILE.toml"],
    ),
    "not a block's name": (["--lake", "nope"], 1, ["ObjectStore", "such as 'etl-s3-bucket/raw'", "'nope'"]),
}

CLOSED = {
    "no write permission on the lake's directory": (
        'basepath="warehouse"',
        'basepath="closed/lake"',
        ["Could not write", "closed): Permission denied", "Give this user the right"],
    ),
    "no write permission on the warehouse's directory": (
        'path="warehouse/',
        'path="closed/',
        ["Could not open duckdb://closed/warehouse.duckdb", "Permission denied", "needs to write"],
    ),
}

WITHOUT_PRIVILEGE = """
import ctypes, os, sys
if os.geteuid() == 0:  # root may write anywhere, until its children lose CAP_DAC_OVERRIDE (prctl PR_CAPBSET_DROP)
    assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0
etl = "import sys; from blocks.cli import main; sys.exit(main())"
os.execv(sys.executable, [sys.executable, "-c", etl, *sys.argv[1:]])
"""


@pytest.fixture
def project(tmp_path, prefect_server):
    """A copy of the pipeline, with a good file to begin with."""
    assert prefect_server
    return Project(tmp_path / "project")


def is_refused(case: str, outcome: Outcome, words: list[str], *, code: int = 1) -> None:
    """The command failed with one line that holds the words; no traceback, no value of a row."""
    print(f"\n| {case} | {outcome.code} | {outcome.message} |")  # noqa: T201
    assert outcome.code == code, outcome.output
    for word in words:
        assert word in outcome.message
    assert "Traceback" not in outcome.output
    assert CANARY not in outcome.output


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused_whole(case, project):
    """A file that cannot be used fails the run with its name and the reason, and leaves nothing behind."""
    content, words = FILES[case]
    if content is None:
        project.source.unlink()
    else:
        project.write(content)
    is_refused(case, project.run("--ds", DAY), words)
    assert not project.written()


def test_a_few_bad_rows_are_quarantined_by_line_and_reason(project):
    """The good rows are loaded; each bad one is in the quarantine with its line, and in the report by reason."""
    text = "\n".join([HEADER, *GOOD[:4], TOO_FEW, *GOOD[4:], TOO_MANY]).encode()
    project.write(text + b"\n" + LATIN_1)
    outcome = project.run()
    assert outcome.code == 0, outcome.output
    assert "9 of 12 rows written" in outcome.output
    assert CANARY not in outcome.output
    assert {"table orders", "table _etl_loads"} <= project.written()
    quarantine = project.folder / f"warehouse/orders/_quarantine/date={DAY}.jsonl"
    rows = [json.loads(line) for line in quarantine.read_text("utf-8").splitlines()]
    assert [(row["line"], row["reason"]) for row in rows] == [
        (6, "too few fields"),
        (12, "too many fields"),
        (13, "not UTF-8"),
    ]
    assert [row["row"] for row in rows[:2]] == [TOO_FEW, TOO_MANY]


def test_the_log_of_a_failed_run_holds_no_row(project):
    """Not even the traceback that Prefect's API keeps."""
    project.write("\n".join([HEADER, GOOD[0], NO_NUMBER, TOO_MANY]))
    assert project.run().code == 1
    APILogHandler().flush()
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200, offset=0)
    assert any("Traceback" in log.message for log in logs)
    assert CANARY not in f"{logs} {run.model_dump()}"


@pytest.mark.parametrize("case", EDITS)
def test_a_wrong_edit_is_named(case, project):
    """A mistake in the user's own copy is told in one line, and nothing is written."""
    old, new, words = EDITS[case]
    line = project.change(old, new)
    is_refused(case, project.run(), [word.format(line=line) for word in words])
    assert not project.written()


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_wrong_argument_is_named(case, project):
    """A mistake on the command line is told in one line, and nothing is written."""
    arguments, code, words = ARGUMENTS[case]
    is_refused(case, project.run(*arguments), words, code=code)
    assert not project.written()


def test_a_misspelt_field_saves_no_block(project):
    """`etl save` names the nearest field and saves none of the file's blocks."""
    file = project.folder / "blocks.toml"
    file.write_text('[etl-local-files.fine]\nbasepath = "a"\n\n[etl-local-files.misspelt]\nbase_path = "b"\n')
    outcome = project.etl("save", "blocks.toml")
    words = ["blocks.toml: [etl-local-files.misspelt]", "no field 'base_path'; did you mean 'basepath'?", "Nothing"]
    is_refused("misspelt block field in TOML", outcome, words)
    assert "No saved block" in project.run("--lake", "etl-local-files/fine").message


@pytest.mark.skipif(sys.platform != "linux", reason="root loses its right by a Linux call")
@pytest.mark.parametrize("case", CLOSED)
def test_no_write_permission_on_the_directory(case, project, prefect_server):
    """The run fails by naming the directory; in a process of its own, whose output holds no traceback either."""
    old, new, words = CLOSED[case]
    project.change(old, new)
    closed = project.folder / "closed"
    closed.mkdir(mode=0o555)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", WITHOUT_PRIVILEGE, "run", "orders_pipeline.py"],
        check=False,
        cwd=project.folder,
        env=os.environ | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    is_refused(case, Outcome(done.returncode, done.stdout + done.stderr), words)
    assert not project.written()
