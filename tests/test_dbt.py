"""DbtProject without dbt: profiles, its log, what is tried again; and processes that do not outlive their owner."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import pickle
import random
import signal
import string
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.types.names import validate_valid_asset_key
from pydantic import SecretStr, ValidationError

from blocks.base.block import resolve
from blocks.base.errors import (
    AuthError,
    InvalidInputError,
    MissingDriverError,
    NotFoundError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.interruption import Interruption, set_interruption
from blocks.base.retry import is_transient
from blocks.credentials.gcp import GcpCredentials
from blocks.credentials.snowflake import SnowflakeCredentials
from blocks.jobs.node_runs import NodeRuns, asset_key
from blocks.jobs.process import Process
from connectors.bigquery import BigQuery
from connectors.dbt import DbtProject, record
from connectors.dbt.artifacts import artifacts_folder, prepare, publish
from connectors.dbt.log import Package, Watch, state_of
from connectors.dbt.nodes import dbt_node, nodes_of
from connectors.dbt.process import workplace
from connectors.dbt.profiles import duckdb_files, profile, refuse_readers_of_secrets
from connectors.dbt.request import Call, Request, as_yaml, nodes_to_retry
from connectors.dbt.secrets import Secrets
from connectors.duckdb import DuckDB
from connectors.local import MemoryFiles
from connectors.postgres import Postgres
from connectors.redshift import Redshift
from connectors.shared.dbt import (
    DbtFailedError,
    DbtNode,
    DbtResult,
    DbtTransientError,
    is_transient_message,
    without_values,
)
from connectors.snowflake import Snowflake

CANARY = "c4n4ry"
KEY = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"
RECORDED = Path(__file__).with_name("dbt_build.jsonl")
NOW = dt.datetime(2026, 4, 30, tzinfo=dt.UTC)


@pytest.fixture
def project(tmp_path: Path) -> DbtProject:
    (tmp_path / "dbt_project.yml").write_text("name: shop\n")
    return DbtProject(project_dir=tmp_path, target=DuckDB(path=str(tmp_path / "shop.duckdb")))


def node(key: str, status: str, **more: Any) -> DbtNode:
    kind, _, name = key.split(".")[:3]
    return DbtNode(unique_id=key, name=name, resource_type=kind, status=status, **more)


def result(*nodes: DbtNode) -> DbtResult:
    return DbtResult(project="shop", command="build", target="duckdb://x", nodes=nodes, started_at=NOW, finished_at=NOW)


# Profiles

SNOWFLAKE = {"account": "org-account", "user": "LOADER"}
LOGINS = [
    Postgres(host="h", database="d", username="u", password=CANARY, schema="s"),
    Snowflake(credentials=SnowflakeCredentials(**SNOWFLAKE, password=CANARY), database="d"),
    Snowflake(
        credentials=SnowflakeCredentials(**SNOWFLAKE, private_key=KEY, private_key_passphrase=CANARY), database="d"
    ),
    Snowflake(credentials=SnowflakeCredentials(**SNOWFLAKE, authenticator="oauth", token=CANARY), database="d"),
    BigQuery(gcp_credentials=GcpCredentials(access_token=CANARY, project="p"), dataset="d"),
    BigQuery(
        gcp_credentials=GcpCredentials(
            service_account_info={"type": "service_account", "private_key": KEY, "client_email": CANARY}, project="p"
        ),
        dataset="d",
    ),
]


@pytest.mark.parametrize("warehouse", LOGINS, ids=lambda each: type(each).__name__)
def test_no_secret_is_in_the_profile(warehouse: Any) -> None:
    """It is in the environment, under names that are not dbt's own prefix: that would rewrite its log."""
    text, secrets = profile(warehouse.dbt_output(), "prod", 4)
    assert CANARY not in text
    assert any(CANARY in value for value in secrets.values())
    output = json.loads(text)["etl"]["outputs"]["prod"]
    assert output["type"] == type(warehouse).__name__.lower()
    assert output["threads"] == 4
    assert all(f"{{{{ env_var('{name}') }}}}" in text and name.startswith("ETL_DBT_") for name in secrets)


def test_what_looks_like_a_template_is_not_rendered() -> None:
    """A name with braces reaches dbt as it is, by the environment."""
    text, secrets = profile({"type": "duckdb", "path": "/data/{{ x }}.duckdb"}, "prod", 1)
    assert secrets == {"ETL_DBT_0": "/data/{{ x }}.duckdb"}
    assert "{{ x }}" not in text


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ({"password": CANARY}, {"password"}),
        ({"private_key_path": "/k.p8"}, {"private_key_path"}),
        ({"private_key": KEY.replace("\n", "\\n")}, {"private_key"}),
        ({"authenticator": "externalbrowser"}, {"authenticator"}),
        ({"authenticator": "username_password_mfa", "password": CANARY}, {"authenticator", "password"}),
        (
            {"authenticator": "workload_identity", "workload_identity_provider": "aws"},
            {"authenticator", "workload_identity_provider"},
        ),
        (
            {"authenticator": "okta_endpoint", "endpoint": "https://o", "password": CANARY},
            {"authenticator", "password"},
        ),
    ],
)
def test_every_login_of_snowflake_is_said_to_dbt(credentials: dict[str, Any], expected: set[str]) -> None:
    """Exactly the fields that this login needs, beside those of every login."""
    block = Snowflake(credentials=SnowflakeCredentials(**SNOWFLAKE, **credentials), database="d", role="r")
    common = {
        "account", "user", "type", "database", "schema", "role", "query_tag", "client_session_keep_alive",
        "connect_timeout",
    }  # fmt: skip
    output = block.dbt_output()
    assert set(output) - common == expected
    if "private_key" in output:
        assert output["private_key"].get_secret_value() == KEY


@pytest.mark.parametrize(
    ("identity", "method"),
    [
        ({}, "oauth"),
        ({"service_account_file": "/k.json"}, "service-account"),
        ({"service_account_info": {"type": "x"}}, "service-account-json"),
        ({"access_token": CANARY, "impersonate_service_account": "a@b", "quota_project_id": "q"}, "oauth-secrets"),
        ({"anonymous": True, "endpoint_url": "http://localhost:1"}, "oauth-secrets"),
    ],
)
def test_every_identity_of_google_is_said_to_dbt(identity: dict[str, Any], method: str) -> None:
    """Also whom it acts as, and who pays."""
    output = BigQuery(gcp_credentials=GcpCredentials(project="p", **identity), dataset="d", location="EU").dbt_output()
    assert output["method"] == method
    assert (output["project"], output["dataset"], output["location"]) == ("p", "d", "EU")
    assert output.get("impersonate_service_account") == identity.get("impersonate_service_account")
    assert output.get("quota_project") == identity.get("quota_project_id")
    assert output.get("api_endpoint") == identity.get("endpoint_url")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (DuckDB(), "process of its own"),
        (DuckDB(path="x.duckdb", read_only=True), "read_only"),
        (Redshift(host="h", staging="etl-s3-bucket/x"), "Redshift cannot be the target of a dbt project"),
        (BigQuery(gcp_credentials=GcpCredentials(anonymous=True, project="p"), dataset="d"), "no anonymous access"),
        (
            Snowflake(
                credentials=SnowflakeCredentials(**SNOWFLAKE, password="p"),
                database="d",
                session_parameters={"WEEK_START": 1},
            ),
            "no session parameters",
        ),
    ],
)
def test_what_dbt_cannot_use_is_refused(tmp_path: Path, block: Any, why: str) -> None:
    """With the reason, before anything runs."""
    place = workplace(tmp_path, block)
    with pytest.raises(UnsupportedError, match=why), place:
        pytest.fail("dbt would run")


def test_a_key_that_is_none_says_so() -> None:
    """And does not show it."""
    block = Snowflake(credentials=SnowflakeCredentials(**SNOWFLAKE, private_key=CANARY), database="d")
    with pytest.raises(AuthError, match="private key") as caught:
        block.dbt_output()
    assert CANARY not in str(caught.value)


# Words

KEPT = {
    'Database Error in model a (models/a.sql)\n  relation "raw.orders" does not exist\n  LINE 3: select 1 from x\n'
    "                 ^\n  compiled code at target/run/a.sql": 'relation "raw.orders" does not exist',
    'Database Error in model a\n  column "totl" does not exist': 'column "totl" does not exist',
    "Database Error in model a\n  permission denied for schema raw": "permission denied for schema raw",
    'Database Error in model a\n  duplicate key value violates unique constraint "pk"\n'
    f"  DETAIL:  Key ({CANARY})":
        'duplicate key value violates unique constraint "pk"',
    "Runtime Error in model a\n  Catalog Error: Table with name raw does not exist!\n  Did you mean x":
        "Table with name raw does not exist!",
    "Database Error in model a\n  002003 (42S02): SQL compilation error:\n  Object 'D.S.T' does not exist or not "
    "authorized.": "002003 (42S02): SQL compilation error: Object 'D.S.T' does not exist or not authorized",
    "Database Error in model a\n  Not found: Table p:d.t was not found in location US\n  compiled code at x":
        "Not found: Table p:d.t was not found in location US",
    "Compilation Error in model a\n  'ref_' is undefined. This can happen when": "'ref_' is undefined",
    "Got 3 results, configured to fail if != 0": "Got 3 results, configured to fail if != 0",
    "PARTIAL SUCCESS (4/5)": "PARTIAL SUCCESS (4/5)",
    "Couldn't read 3 of 5 files": "Couldn't read 3 of 5 files",
    'Runtime Error in model a\n  Binder Error: Table "o" does not have a column named "totl"':
        'Table "o" does not have a column named "totl"',
    'Runtime Error in model a\n  IO Error: No files found that match the pattern "data/x.csv"': '"data/x.csv"',
    'Runtime Error in model py (models/py.py)\n  Python model failed:\n  Traceback (most recent call last):\n'
    '    File "/tmp/m.py", line 2, in model\n      x = int("c4n4ry")\n          ^^^\n'
    f"  ValueError: invalid literal for int() with base 10: '{CANARY}'":
        "Runtime Error in model py (models/py.py): Python model failed: ValueError: invalid literal for int() with "
        "base 10: … (line 2, in model)",
}  # fmt: skip
HIDDEN = [
    f"Runtime Error in model a\n  Conversion Error: Could not convert string '{CANARY}' to INT32",
    f'Runtime Error in model a\n  Constraint Error: Duplicate key "id: {CANARY}" violates primary key constraint',
    f'Database Error in model a\n  invalid input syntax for type integer: "{CANARY}"',
    f'Database Error in model a\n  value "{CANARY}" is out of range for type integer',
    f'Database Error in model a\n  division by zero\n  CONTEXT:  SQL function "f" {CANARY}',
    f"Database Error in model a\n  null value violates\n  DETAIL:  Failing row contains ({CANARY}, 1).",
    f"Database Error in model a\n  100038 (22018): Numeric value '{CANARY}' is not recognized",
    f"Database Error in model a\n  100090 (42P18): Duplicate row detected\n  Row Values: [{CANARY}]",
    f"Database Error in model a\n  Failed to cast variant value {CANARY} to FIXED",
    f"Database Error in model a\n  Bad int64 value: {CANARY}",
    f"Database Error in model a\n  Invalid date: '{CANARY}'",
    f"Database Error in model a\n  UPDATE/MERGE must match at most one source row for each target row: {CANARY!r}",
    f"actual differs from expected:\n\n@@ ,id\n,{CANARY}",
    f'Database Error\n  connection to server at "{CANARY}", port 5432 failed',
]


@pytest.mark.parametrize("message", KEPT, ids=range(len(KEPT)))
def test_names_are_said(message: str) -> None:
    """What helps, and is no row: names of tables and columns, and dbt's own words."""
    said = without_values(message)
    assert KEPT[message] in said
    assert CANARY not in said
    assert "\n" not in said


@pytest.mark.parametrize("message", HIDDEN, ids=range(len(HIDDEN)))
def test_values_are_not_said(message: str) -> None:
    """What a database quotes of rows goes no further; where the node is stays."""
    said = without_values(message)
    assert CANARY not in said
    assert message.partition("\n")[0].partition(" in ")[0] in said or "differs" in said


@pytest.mark.parametrize(
    "words",
    [
        "deadlock detected",
        "could not serialize access due to concurrent update",
        "canceling statement due to lock timeout",
        "SSL connection has been closed unexpectedly",
        "server closed the connection unexpectedly",
        'connection to server at "db", port 5432 failed: Connection refused',
        'could not translate host name "db" to address: Temporary failure in name resolution',
        "FATAL:  sorry, too many clients already",
        "the database system is starting up",
        'IO Error: Could not set lock on file "x.duckdb": Conflicting lock is held in python (PID 1)',
        "TransactionContext Error: Conflict on update!",
        "000625 (57014): Statement 'x' has locked table 'T' in transaction 1 and this lock has not yet been released.",
        "250001 (08001): Failed to connect to DB",
        "250001: Could not connect to Snowflake backend after 2 attempt(s).Aborting.",
        "390114 (08001): Authentication token has expired.",
        "Could not serialize access to table p:d.t due to concurrent update",
        "503 POST https://bigquery.googleapis.com: Visibility check was unavailable",
        "Exceeded rate limits: too many table update operations for this table",
        "The job encountered an internal error during execution and was unable to complete successfully.",
    ],
)
def test_what_passes_is_tried_again(words: str) -> None:
    """Lost connections, locks, deadlocks, throttling, servers that start."""
    assert is_transient_message(f"Database Error in model a (a.sql)\n  {words}")


@pytest.mark.parametrize(
    "words",
    [
        'Database Error in model a (a.sql)\n  relation "raw" does not exist',
        "Database Error in model a (a.sql)\n  002003 (42S02): SQL compilation error:\n  Object 'T' does not exist",
        "Database Error in model a (a.sql)\n  100038 (22018): Numeric value 'connection refused' is not recognized",
        "Compilation Error in model a (a.sql)\n  connection refused is undefined",
        "Got 503 results, configured to fail if != 0",
        "Database Error in model a (a.sql)\n  Resources exceeded during query execution",
    ],
)
def test_what_does_not_pass_is_not(words: str) -> None:
    """Wrong SQL, wrong data and failed tests stay wrong."""
    assert not is_transient_message(words)


# Its log


class Runs(NodeRuns):
    """Node runs outside of a run, whose states are kept."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("test.dbt"), tool="dbt")
        self.started: list[str] = []
        self.states: dict[str, Any] = {}

    def start(self, name: str, **_: Any) -> None:
        """Keep its name."""
        self.started.append(name)

    def finish(self, name: str, state: Any, metadata: Any = None) -> None:
        """Keep its state."""
        self.states[name] = (state.name, state.type.name, metadata["rows"])


def test_a_recorded_build_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """The log of a real build: each node, how it ended, and no statement and no value of a row."""
    runs, watch = Runs(), Watch("build")
    with caplog.at_level(logging.DEBUG):
        for line in (*RECORDED.read_text().splitlines(), "no json", "[]", '{"info": 1}', ""):
            watch.read(line, runs)
    assert watch.unread == 3
    assert watch.version == "dbt 1.11.16"
    assert set(runs.started) == set(runs.states) == set(watch.nodes)
    assert runs.states["seed.shop.raw"] == ("Completed", "COMPLETED", 3)
    assert runs.states["model.shop.bad"] == ("Failed", "FAILED", None)
    assert runs.states["model.shop.child"] == ("Skipped", "CANCELLED", None)
    warned = next(each for each in watch.nodes.values() if each.status == "warn")
    assert runs.states[warned.unique_id][:2] == ("Warned", "COMPLETED")
    assert (warned.failures, warned.message) == (2, "Got 2 results, configured to warn if != 0")
    orders = watch.nodes["model.shop.orders"]
    assert (orders.relation, orders.name, orders.resource_type) == ("main.orders", "orders", "model")
    assert orders.started_at < orders.finished_at
    assert "START sql table model main.orders" in caplog.text
    assert "Conversion Error: Could not convert string … to INT32" in caplog.text
    assert "canary-value" in RECORDED.read_text()
    for text in (caplog.text, *(each.model_dump_json() for each in watch.nodes.values())):
        assert "canary-value" not in text
        assert "select" not in text.lower()


def passwords() -> list[str]:
    """Every key and short text of dbt's log, and 200 random words of one to three characters."""
    found: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            found.update(value)
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)
        elif isinstance(value, str) and value.isidentifier():
            found.add(value)

    for line in RECORDED.read_text().splitlines():
        collect(json.loads(line))
    chance = random.Random(15)
    letters = string.ascii_letters + string.digits + "{}[]\":,'\\*. "
    short = ["".join(chance.choices(letters, k=chance.randint(1, 3))) for _ in range(200)]
    return [*sorted(found), *(word for word in short if word.strip())]


def test_no_password_changes_what_is_read() -> None:
    """Whatever it is: the same nodes, statuses and counts, in the log and in the artifacts, and it is in no line."""

    def read(secrets: Secrets) -> tuple[list[Any], dict[str, Any]]:
        runs, watch = Runs(), Watch("build", secrets=secrets)
        for line in lines:
            watch.read(line, runs)
        assert watch.unread == 0
        nodes = [each.model_dump(exclude={"message"}) for each in watch.nodes.values()]
        return nodes, {"started": runs.started, "states": runs.states}

    lines = RECORDED.read_text().splitlines()
    expected = read(Secrets())
    statuses = {each["unique_id"]: each["status"] for each in expected[0]}
    results = {"results": [record.new_row(key, status, "m") for key, status in statuses.items()]}
    for password in passwords():
        secrets = Secrets([password])
        assert read(secrets) == expected, password
        kept = nodes_of(secrets.mask_artifact(results), {}, without_values)
        assert {key: each.status for key, each in kept.items()} == statuses, password
        assert secrets.mask(f"user {password} failed") == "user ***** failed", password


@pytest.mark.parametrize(
    ("event", "said", "kind", "match"),
    [
        (
            "Encountered an error:\nRuntime Error\n  Could not find profile named 'x'",
            "",
            InvalidInputError,
            "named 'x'",
        ),
        ("Encountered an error:\nDatabase Error\n  Connection refused", "", TransientError, "refused"),
        ('Encountered an error:\nCompilation Error\n  Run "dbt deps" to install', "", InvalidInputError, r"deps\(\)"),
        ("", "Usage: x\nError: No such option '--x'.", InvalidInputError, "No such option"),
        ("", "ModuleNotFoundError: No module named 'dbt'", MissingDriverError, r"etl-blocks\[dbt\]"),
        ("", "Traceback\n  secret line", TerminalError, "code 2"),
    ],
)
def test_an_invocation_that_fails_as_a_whole(event: str, said: str, kind: type, match: str) -> None:
    """The error has dbt's words, or the last ones of the command line; never a traceback."""
    watch = Watch("build")
    if event:
        watch.read(
            json.dumps({"info": {"name": "MainEncounteredError", "level": "error", "msg": event}, "data": {}}), Runs()
        )
    with pytest.raises(kind, match=match) as caught:
        raise watch.error("build", "shop", 2, said)
    assert "secret line" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        (
            "dbt looked for a profiles.yml file in /h/.dbt, but did\nnot find one.",
            InvalidInputError,
            "did not find one",
        ),
        (
            (
                "Unable to connect.\nThe database returned the following error:\n\n  >Database Error\n"
                "  250001: Could not connect to Snowflake backend after 2 attempt(s)."
            ),
            TransientError,
            "250001: Could not connect",
        ),
    ],
)
def test_what_debug_finds_is_said(said: str, kind: type, match: str) -> None:
    """It is no error of dbt's log; a warehouse that cannot be reached is one that passes."""
    watch = Watch("debug")
    for text in (" - git [OK found]\n", "1 check failed:", said):
        info = {"name": "DebugCmdResult", "level": "info", "msg": text}
        watch.read(json.dumps({"data": {"msg": text}, "info": info}), Runs())
    with pytest.raises(kind, match=match):
        raise watch.error("debug", "shop", 1, "")


def test_hooks_are_nodes_of_the_results() -> None:
    """They are the only place that tells of them; the words of a failed one stay readable."""
    rows = [
        record.new_row(
            "operation.shop.shop-on-run-end-0",
            "error",
            f"shop.on-run-end.0 failed, error:\n Catalog Error: Table with name gone does not exist!\n{CANARY}",
        ),
        record.new_row("operation.shop.shop-on-run-end-1", "success"),
    ]
    found = nodes_of({"results": rows}, {}, without_values)
    assert [(node.name, node.status) for node in found.values()] == [
        ("shop-on-run-end-0", "error"),
        ("shop-on-run-end-1", "success"),
    ]
    assert "shop.on-run-end.0 failed, error: Catalog Error: Table with name gone does not exist!" in str(found)
    assert CANARY not in str(found)


def test_a_stale_source_has_its_age() -> None:
    """And the limit that it is beyond."""
    row = {
        "unique_id": "source.shop.given.orders",
        "status": "warn",
        "max_loaded_at_time_ago_in_s": 93_784.2,
        "criteria": {"warn_after": {"count": 1, "period": "day"}},
    }
    node = nodes_of({"results": [row]}, {}, without_values)[row["unique_id"]]
    assert node.message == "Its newest row is 1 days 2 hours old; warn_after is 1 days."


# What is tried again

PARENTS = {
    "model.s.a": [], "model.s.b": [], "model.s.c": ["model.s.a"], "model.s.d": ["model.s.b"],
    "model.s.e": ["model.s.c", "model.s.d"], "model.s.f": ["model.s.t"], "test.s.x": ["model.s.t"], "model.s.t": [],
    "model.s.g": ["model.s.c"],
}  # fmt: skip


def call_of(**statuses: str) -> Call:
    """A call after a try; a transient failure is written as 'passes'."""
    nodes = {}
    for name, status in statuses.items():
        key = f"{'test' if name == 'x' else 'model'}.s.{name}"
        nodes[key] = node(key, "error" if status == "passes" else status, is_transient=status == "passes")
    return Call(nodes=nodes)


CASES = [
    ("transient", {"a": "passes", "b": "error", "c": "skipped", "d": "skipped", "e": "skipped", "g": "skipped"}, "acg"),
    ("any", {"a": "passes", "b": "error", "c": "skipped", "d": "skipped", "e": "skipped"}, "abcde"),
    ("never", {"a": "passes", "c": "skipped"}, ""),
    ("transient", {"a": "success", "b": "error", "d": "skipped"}, ""),
    ("transient", {"a": "passes", "t": "success", "x": "fail", "f": "skipped", "c": "skipped"}, "ac"),
    ("any", {"t": "success", "x": "fail", "f": "skipped"}, ""),
    ("any", {"a": "error", "t": "success", "x": "error", "f": "skipped"}, "axf"),
]


@pytest.mark.parametrize(("which", "statuses", "expected"), CASES)
def test_only_what_failed_and_what_that_kept_back(which: Any, statuses: dict[str, str], expected: str) -> None:
    """A skipped node is run again where every failure before it is; a failed test never is."""
    again = nodes_to_retry(Request("build"), call_of(**statuses), {"parent_map": PARENTS}, which)
    assert {key.rpartition(".")[2] for key in again} == set(expected)


def test_results_of_all_tries_are_one() -> None:
    """Newer ones take the place of older ones; what the call was asked stays that of the first."""
    call = Call()
    call.take(None, {})
    call.take({"args": {"which": "build"}, "results": [{"unique_id": "a", "status": "error"}, {"unique_id": "b"}]}, {})
    call.take({"args": {"which": "retry"}, "results": [{"unique_id": "a", "status": "success"}]}, {})
    assert call.results == {
        "args": {"which": "build"},
        "elapsed_time": 0.0,
        "results": [{"unique_id": "a", "status": "success"}, {"unique_id": "b"}],
    }


# What a command that ended by force leaves


def test_a_record_tells_what_is_missing(tmp_path: Path) -> None:
    """What ended stays as it ended; what had started failed, and what had not was skipped."""
    asked = {"args": {"which": "build", "vars": "{}"}, "listing": ["list"], "continues": None}
    kept = record.Record(tmp_path, asked, None)
    kept.begin()
    kept.start_hook("operation.s.on-run-start")
    kept.start("model.s.a")
    kept.end(node("model.s.a", "success"))
    kept.start("model.s.b")
    assert record.is_running(tmp_path)
    kept.stay()
    assert not record.is_running(tmp_path)
    with (tmp_path / record.FILE).open("a") as file:
        file.write('{"ended": "model.s.b", "sta')  # cut off where the process was killed
    last = record.interrupted(tmp_path)
    assert last is not None
    assert last.asked == asked
    rows = last.results(["model.s.a", "model.s.b", "model.s.c"])["results"]
    assert {row["unique_id"]: row["status"] for row in rows} == {
        "model.s.a": "success",
        "model.s.b": "error",
        "model.s.c": "skipped",
    }


def test_a_command_that_ends_leaves_no_record(tmp_path: Path) -> None:
    """And it does not take away that of another one, which began meanwhile."""
    asked = {"args": {"which": "run"}, "listing": [], "continues": None}
    first, second = record.Record(tmp_path, asked, None), record.Record(tmp_path, asked, ["model.s.b"])
    first.begin()
    first.start("model.s.a")
    second.begin()
    second.start("model.s.b")
    first.remove()
    last = record.interrupted(tmp_path)
    assert last is not None
    assert last.started == {"model.s.b"}
    second.remove()
    assert record.interrupted(tmp_path) is None


def test_a_command_that_did_nothing_leaves_the_record_before(tmp_path: Path) -> None:
    """A typo in a selection does not make an interrupted day forgotten; a command that was stopped early does."""
    yesterday, typo, today = (
        record.Record(tmp_path, {"args": {"which": which}, "listing": [], "continues": None}, None)
        for which in ("build", "run", "test")
    )
    yesterday.begin()
    yesterday.start("model.s.a")
    yesterday.stay()
    before = record.interrupted(tmp_path)
    typo.begin()
    assert record.is_running(tmp_path)
    typo.withdraw()
    assert record.interrupted(tmp_path) == before
    today.begin()
    today.stay()
    last = record.interrupted(tmp_path)
    assert last is not None
    assert (last.asked["args"]["which"], last.started) == ("test", set())
    assert [path.name for path in tmp_path.iterdir()] == [record.FILE]


def test_a_batch_does_not_end_its_model() -> None:
    """A microbatch model is done with its own end; the error of a batch is in its message."""
    watch, runs = Watch("run"), Runs()
    info = {"unique_id": "model.s.m", "resource_type": "model", "node_name": "m"}

    def say(name: str, level: str = "debug", **data: Any) -> None:
        data = {"node_info": info, **data}
        watch.read(json.dumps({"data": data, "info": {"name": name, "level": level, "msg": name}}), runs)

    say("NodeStart")
    for status in ("success", "error"):
        say("NodeStart")
        if status == "error":
            say("GenericExceptionOnRun", "error", exc="Exception on worker thread. Runtime Error\n  deadlock detected")
        say("NodeFinished", run_result={"status": status, "message": status.upper()})
        assert runs.states == {}
    say("NodeFinished", run_result={"status": "partial success", "message": "PARTIAL SUCCESS (1/2)"})
    assert runs.started == ["model.s.m"]
    assert runs.states["model.s.m"][:2] == ("Failed", "FAILED")
    ended = watch.nodes["model.s.m"]
    assert ended.message == "PARTIAL SUCCESS (1/2): Runtime Error deadlock detected"
    assert ended.is_transient


def test_a_source_that_cannot_be_read_is_a_failure() -> None:
    """`sources.json` has no row of it: what the log said of it stands."""
    watch, runs = Watch("source freshness"), Runs()
    info = {"unique_id": "source.s.g.given", "resource_type": "source", "node_name": "given"}
    for name, result in (("NodeStart", {}), ("NodeFinished", {"status": "runtime error", "message": "no such table"})):
        data = {"node_info": info, "run_result": result}
        watch.read(json.dumps({"data": data, "info": {"name": name, "level": "debug", "msg": name}}), runs)
    assert watch.settle({}, runs)["source.s.g.given"].is_failed
    assert runs.states["source.s.g.given"][0] == "Failed"


def test_what_dbt_masks_in_names_is_counted_and_the_results_decide() -> None:
    """A secret of the user's that is a word of dbt's rewrites lines of its log."""
    watch, runs = Watch("run"), Runs()
    info = {"unique_id": "*****.s.m", "resource_type": "*****", "node_name": "m"}
    lines = [
        json.dumps({"data": {"node_info": info}, "info": {"name": "NodeStart", "level": "debug", "msg": ""}}),
        '{"data": {"run_result": {"num_failures": *****}}, "info": {"name": "NodeFinished"}}',
        "printed by a model",
    ]
    for line in lines:
        watch.read(line, runs)
    assert (watch.unread, runs.started) == (3, [])
    nodes = nodes_of({"results": [record.new_row("model.s.m", "success")]}, {}, without_values)
    assert watch.settle(nodes, runs)["model.s.m"].status == "success"
    assert runs.states["model.s.m"][0] == "Completed"


# Places and secrets


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["/data/a.duckdb", "{project}/shop.duckdb"]),
        ({"DBT_TARGET": "two"}, ["{project}/two.duckdb"]),
        ({"DBT_ENGINE_TARGET": "two", "DBT_TARGET": "one"}, ["{project}/two.duckdb"]),
        ({"DBT_PROFILE": "nobody"}, []),
        ({"FILE": "sub/../named.duckdb"}, ["/data/a.duckdb", "{project}/named.duckdb"]),
    ],
)
def test_the_files_of_a_profile_are_found(tmp_path: Path, environment: dict[str, str], expected: list[str]) -> None:
    """As dbt finds them: from the project's directory, with its variables; none where they cannot be told."""
    profiles = """
shop:
  target: one
  outputs:
    one: {type: duckdb, path: "{{ env_var('FILE', 'shop.duckdb') }}", attach: [{path: /data/a.duckdb}, {path: "md:x"}]}
    two: {type: duckdb, path: two.duckdb}
"""
    project = write(tmp_path, profiles__yml=profiles, dbt_project__yml="profile: shop")
    found = duckdb_files(project, None, None, {"HOME": "/nowhere", **environment}, {})
    assert [str(path) for path in found] == [each.format(project=tmp_path.resolve()) for each in expected]


def test_a_project_that_reads_our_variables_is_refused(tmp_path: Path) -> None:
    """Also where a package of it does, through a link: dbt would keep the value in what it has parsed."""
    (tmp_path / "models").mkdir()
    refuse_readers_of_secrets(tmp_path)
    package = tmp_path.with_name(f"{tmp_path.name}-package")
    package.mkdir()
    write(package, m__sql="select '{{ env_var('etl_dbt_0' | upper) }}'")
    (tmp_path / "packages").symlink_to(package)
    (package / "loop").symlink_to(package)
    with pytest.raises(InvalidInputError, match=r"packages/m.sql reads a variable ETL_DBT_"):
        refuse_readers_of_secrets(tmp_path)


def test_secrets_are_masked_and_names_are_not(tmp_path: Path) -> None:
    """In texts everywhere; in artifacts a common word stays a name."""
    secrets = Secrets(["model", "a", f"{CANARY}-long/secret", KEY])
    said = secrets.mask(f"postgres://u:{CANARY}-long%2Fsecret@h a model, {CANARY}-long/secret, {CANARY} table")
    assert said == "postgres://u:*****@h ***** *****, *****, ***** table"
    assert CANARY not in Secrets([KEY]).mask(KEY.replace("\n", " "))
    made, kept = tmp_path / "made", tmp_path / "kept"
    (made / "compiled").mkdir(parents=True)
    results = {"results": [{"unique_id": "model.s.a", "status": "success", "message": "a model"}]}
    (made / "run_results.json").write_text(json.dumps(results))
    (made / "compiled" / "a.sql").write_text(f"select '{CANARY}-long/secret' from model")
    (made / "partial_parse.msgpack").write_bytes(f"{CANARY}-long/secret".encode())
    found = publish(made, kept, secrets)
    assert set(found) == {"run_results", "compiled"}
    row = json.loads((kept / "run_results.json").read_text())["results"][0]
    assert row == {"unique_id": "model.s.a", "status": "success", "message": "***** *****"}
    assert (kept / "compiled" / "a.sql").read_text() == "select '*****' from *****"


def test_a_schema_that_the_environment_names_is_found_again() -> None:
    """Of an artifact dbt takes tables and nodes by their names; what users write into it is masked all the same."""
    node = {"unique_id": "model.s.a", "schema": "analytics_prod", "relation_name": '"d"."analytics_prod"."a"'}
    node |= {"depends_on": {"nodes": ["model.analytics_prod.b"]}}
    given = {"meta": {"name": "analytics_prod"}, "config": {"schema": {"name": "in analytics_prod"}}}
    manifest = {"nodes": {"model.s.a": node | given}, "parent_map": {"model.s.a": ["model.analytics_prod.b"]}}
    kept = Secrets(["analytics_prod"]).mask_artifact(manifest)
    masked = {"meta": {"name": "*****"}, "config": {"schema": {"name": "in *****"}}}
    assert kept == {**manifest, "nodes": {"model.s.a": node | masked}}


def test_artifacts_are_kept_where_dbt_keeps_them(tmp_path: Path) -> None:
    """By the block, the environment, the project, in this order; a place that cannot be written to is named early."""
    project = write(tmp_path, dbt_project__yml="name: shop\ntarget-path: out\n")
    assert artifacts_folder(project, tmp_path / "x", {"DBT_TARGET_PATH": "y"}) == tmp_path / "x"
    assert artifacts_folder(project, None, {"DBT_TARGET_PATH": "y"}) == project.resolve() / "y"
    assert artifacts_folder(project, None, {}) == project.resolve() / "out"
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be kept in"):
        prepare(tmp_path / "file")


@pytest.mark.parametrize("value", [Decimal("0.1000000000000000000001"), Decimal("NaN"), object(), {1j}])
def test_variables_that_yaml_cannot_hold_are_refused(value: Any) -> None:
    """Rather than changed on the way."""
    with pytest.raises(InvalidInputError, match="Give it as text"):
        as_yaml("vars", {"x": value})


@given(
    st.dictionaries(
        st.text(),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.dates()
        | st.datetimes(),
    )
)
def test_variables_arrive_as_they_are(values: dict[str, Any]) -> None:
    """What dbt reads of its command line is what was given."""
    assert yaml.safe_load(as_yaml("vars", values)) == values


# Requests, results


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (lambda: Request("drop"), "No command 'drop'"),
        (lambda: Request("test", full_refresh=True), "no full_refresh"),
        (lambda: Request("run", select="--vars x").arguments(1), "begins like an option"),
        (lambda: Request("run", exclude=["-x"]).arguments(1), "begins like an option"),
        (lambda: Request("run", selector="--x"), "begins like an option"),
        (lambda: Request("run", select="a", selector="b"), "Give one of the two"),
        (lambda: Request("run", options=["-x"]), "written --name"),
        (lambda: Request("run", options=["--target-path=/x"]), "--target-path has an argument or a field"),
    ],
)
def test_what_dbt_has_not_is_refused(request_: Any, match: str) -> None:
    """Before anything is started."""
    with pytest.raises(InvalidInputError, match=match):
        request_()


def test_a_result_reads_well() -> None:
    """One line for a log, a page for people, nodes by name."""
    good = node("model.shop.a", "success", rows=3, seconds=0.5)
    bad = node("model.shop.b", "error", message="relation | gone")
    late = node("model.shop.c", "skipped")
    whole = result(good, bad, late)
    assert str(whole) == (
        "dbt build of shop: 1 error, 1 skipped, 1 success in 0.0 s; model.shop.b: error (relation | gone)"
    )
    assert whole.counts == {"success": 1, "error": 1, "skipped": 1}
    assert (whole.failures, whole.skipped, whole.warnings, whole.passed) == ((bad,), (late,), (), False)
    assert whole.node("a") == whole.node("model.shop.a") == good
    with pytest.raises(NotFoundError, match="0 nodes are called 'nobody'"):
        whole.node("nobody")
    page = whole.markdown().splitlines()
    assert page[0] == "# dbt build of shop: failed"
    assert page[6] == r"| model.shop.b | error |  | 0.00 | relation \| gone |"
    doubtful = node("test.shop.d", "warn", message="3 rows")
    page = result(good, late, doubtful, bad).markdown().splitlines()
    assert [line.split("|")[2].strip() for line in page[6:]] == ["error", "warn", "skipped", "success"]
    assert "4 nodes (1 error, 1 skipped, 1 success, 1 warn)" in page[2]
    assert result(good).raise_for_failures().passed


@pytest.mark.parametrize("kind", [DbtFailedError, DbtTransientError])
def test_errors_travel_between_processes(kind: Any) -> None:
    """With the result; one of them is worth another try, the other is not."""
    error = kind("why", result(node("model.shop.b", "error")))
    other = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(other), other.result, is_transient(other)) == ("why", error.result, kind is DbtTransientError)


def test_a_nodes_state_says_what_it_did() -> None:
    """Rows where the database counted them."""
    info = {"unique_id": "model.s.a", "node_name": "a", "resource_type": "model"}
    result_ = {"status": "success", "adapter_response": {"rows_affected": 12.0}, "execution_time": 0.25}
    made = dbt_node(info, result_, without_values)
    assert state_of(made).message == "12 rows in 0.25 s"
    assert state_of(node("model.s.a", "success", seconds=1)).message == "success in 1.00 s"


# The block


def test_it_needs_a_project(tmp_path: Path) -> None:
    """A directory without dbt_project.yml is an error that says so, before dbt is started."""
    with pytest.raises(NotFoundError, match=r"no dbt_project.yml"):
        DbtProject(project_dir=tmp_path).build()
    with pytest.raises(ValidationError, match="did you mean 'threads'"):
        DbtProject(project_dir=tmp_path, thread=1)


def test_it_needs_dbt(project: DbtProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dbt, or its adapter, the error has the pip line; a command that is not there is named."""
    monkeypatch.setattr("connectors.dbt.process.DBT", Package("dbt-nowhere", extra="dbt"))
    with pytest.raises(MissingDriverError, match=r"pip install 'etl-blocks\[dbt\]'"):
        project.build()
    with pytest.raises(NotFoundError, match="no command /nowhere/dbt"):
        project.model_copy(update={"executable": Path("/nowhere/dbt")}).build()


def test_nothing_can_be_retried_before_a_build(project: DbtProject) -> None:
    """There are no artifacts yet."""
    with pytest.raises(NotFoundError, match="Build first"):
        project.retry_failed()


def test_a_hook_that_failed_alone_cannot_be_retried(project: DbtProject) -> None:
    """It is said which one, and what to call: dbt runs hooks with nodes only."""
    rows = [record.new_row("model.shop.a", "success"), record.new_row("operation.shop.shop-on-run-end-0", "error")]
    folder = project.project_dir / "target"
    folder.mkdir()
    results = record.new_results({"which": "build"}) | {"results": rows}
    (folder / "run_results.json").write_text(json.dumps(results))
    with pytest.raises(InvalidInputError, match=r"only shop-on-run-end-0 failed, .* Call build\(\) again"):
        project.retry_failed()
    kept = record.Record(folder, {"args": {"which": "build"}, "listing": [], "continues": None}, ["model.shop.a"])
    kept.begin()
    with pytest.raises(InvalidInputError, match="still runs"):
        project.retry_failed()
    kept.remove()


@pytest.mark.usefixtures("prefect_server")
def test_it_is_saved_with_its_target(tmp_path: Path) -> None:
    """By the name of a saved warehouse, or with a saved one; one that is not saved would show its secrets."""
    warehouse = Postgres(host="h", database="d", username="u", password=CANARY)
    with pytest.raises(InvalidInputError, match="Save the block in target"):
        DbtProject(project_dir=tmp_path, target=warehouse).save("unsaved")
    warehouse.save("dbt-shop", overwrite=True)
    saved = Postgres.load("dbt-shop")
    for name, target in (("by-name", "etl-postgres/dbt-shop"), ("by-block", saved)):
        DbtProject(project_dir=tmp_path, target=target, environment={"TOKEN": CANARY}).save(name, overwrite=True)
        loaded = resolve(f"etl-dbt-project/{name}", DbtProject)
        found = loaded.warehouse()
        assert type(found) is Postgres
        assert found.password == SecretStr(CANARY)
        assert CANARY not in repr(loaded)
    with pytest.raises(NotFoundError, match="No saved block"):
        DbtProject(project_dir=tmp_path, target="etl-postgres/nobody").warehouse()
    MemoryFiles().save("dbt-files", overwrite=True)
    with pytest.raises(InvalidInputError, match="type Warehouse is needed"):
        DbtProject(project_dir=tmp_path, target="etl-memory-files/dbt-files").warehouse()


def test_addresses_become_keys_of_assets() -> None:
    """Whatever is in them, Prefect takes them."""
    for uri in ("duckdb:///a b/c#d.duckdb/main.x", f"Postgres://h:1/d/s.{'x' * 600}", "bigquery://p/d.t"):
        assert validate_valid_asset_key(asset_key(uri))


# Processes

TALKS = "import time\nprint('ready', flush=True)\ntime.sleep(600)"
STUBBORN = (
    "import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\ntime.sleep(600)"
)


def start(code: str, folder: Path, grace_s: float = 5) -> Process:
    command = [sys.executable, "-c", code]
    return Process(command, folder=folder, environment=dict(os.environ), errors=folder / "stderr", grace_s=grace_s)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def until(condition: Any) -> None:
    done = threading.Event()
    for _ in range(600):
        if condition():
            return
        done.wait(0.05)
    raise AssertionError("it did not happen")


def test_a_process_is_read_to_its_end(tmp_path: Path) -> None:
    """Its lines, its exit code, its standard error."""
    process = start("import sys; print('a'); print('ä'); print('no', file=sys.stderr); sys.exit(3)", tmp_path)
    assert list(process.lines()) == ["a\n", "ä\n"]
    assert process.close() == 3
    assert (tmp_path / "stderr").read_text() == "no\n"


def test_a_process_may_clean_up_when_its_time_is_over(tmp_path: Path) -> None:
    """It gets SIGINT first; what it says then is read as well."""
    code = "import time\ntry:\n print('ready', flush=True)\n time.sleep(600)\nexcept KeyboardInterrupt:\n print('bye')"
    process = start(code, tmp_path)
    seen: list[str] = []
    with pytest.raises(TimeoutError):
        seen.extend(process.lines(timeout_s=10, clock=lambda: 11.0 if seen else 0.0))
    assert seen == ["ready\n", "bye\n"]
    assert process.close() == 0


def test_a_process_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    """After the time of grace, all of its group."""
    process = start(STUBBORN, tmp_path, grace_s=0.1)
    child = int(next(process.lines()))
    assert is_running(child)
    assert process.close() is None
    until(lambda: not is_running(child))


def test_an_interrupted_wait_ends_the_process(tmp_path: Path) -> None:
    """As when an awaitable is cancelled."""
    event, ended = Interruption(), []

    def work() -> None:
        set_interruption(event)
        process = start(TALKS, tmp_path)
        try:
            for _ in process.lines():
                event.set()
        except BaseException as error:  # noqa: BLE001 (what it is, is the question)
            ended.append((type(error).__name__, process.close()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended[0][0] == "CancelledError"


def test_a_process_goes_with_its_guard(tmp_path: Path) -> None:
    """Where somebody kills the guard, the rest of the group is killed by us."""
    process = start(STUBBORN, tmp_path)
    lines = process.lines()
    child = int(next(lines))
    process._guard.send_signal(signal.SIGKILL)
    assert list(lines) == []
    assert process.close() is None
    until(lambda: not is_running(child))


OWNER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_dbt import STUBBORN, start
process = start(STUBBORN, Path(sys.argv[1]), grace_s=0.1)
print(next(process.lines()), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_process_goes_with_its_owner(tmp_path: Path) -> None:
    """Also after kill -9 of the owner nothing of it runs on."""
    root = str(Path(__file__).parents[1])
    owner = subprocess.run(  # noqa: S603
        [sys.executable, "-c", OWNER.format(root=root), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert owner.returncode == -signal.SIGKILL, owner.stderr
    until(lambda: not is_running(int(owner.stdout)))


@pytest.mark.usefixtures("prefect_server")
def test_a_node_that_is_never_finished_failed(caplog: pytest.LogCaptureFixture) -> None:
    """Where the work was stopped, the task runs of its nodes do not stay as running."""

    @flow
    def stops() -> None:
        with NodeRuns(logging.getLogger("test.dbt"), tool="dbt") as runs:
            runs.start("model.{shop}.a")
            runs.log("model.{shop}.a", logging.INFO, "100 %s done")

    stops()
    assert "100 %s done" in caplog.text
    assert "It was stopped before it ended." in caplog.text
