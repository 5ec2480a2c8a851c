"""Foreign inputs to every connector, in front of a real server or its stand-in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow

from blocks import ConnectorError, RetryPolicy
from connectors.mysql import MySQL
from connectors.postgres import Postgres
from integration_tests.stores import new_store
from tests.foreign import ROW, SECRET, attempt, cases, fill_store, fill_warehouse, kept, stored
from tests.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.standins.postgres import Address

ONCE = RetryPolicy(attempts=1)
EVERY_RUN = 24


@contextlib.contextmanager
def opened(kind: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty warehouse or store of that kind."""
    if kind == "postgres":
        fields = request.getfixturevalue("pg_database").fields()
        with contextlib.closing(Postgres(**fields, retry=ONCE, ssl_key_password=SECRET)) as block:
            yield block
    elif kind == "mysql":
        fields = request.getfixturevalue("maria_database").fields()
        with contextlib.closing(MySQL(**fields, retry=ONCE)) as block:
            yield block
    elif kind == "redshift":
        from integration_tests import test_redshift as of_redshift

        server = request.getfixturevalue("s3_server")
        of_redshift.stand_in(server.client(), request.getfixturevalue("monkeypatch"))
        with contextlib.closing(
            of_redshift.block(request.getfixturevalue("pg_database"), new_store("s3", request))
        ) as block:
            yield block.model_copy(update={"retry": ONCE})
    elif kind == "snowflake":
        from integration_tests import test_snowflake as of_snowflake

        login = of_snowflake.credentials(request.getfixturevalue("snowflake_server"))
        name = of_snowflake.new_schema_name()
        fields = {"credentials": login, **of_snowflake.fields(name), "network_timeout_s": 20}
        with contextlib.closing(of_snowflake.Snowflake(**fields, retry=ONCE)) as block:
            block.model_copy(update={"schema_": "public"}).execute(f"CREATE SCHEMA {name}")
            yield block
    elif kind == "bigquery":
        from integration_tests.test_bigquery import block as bigquery

        with contextlib.closing(bigquery(request.getfixturevalue("bigquery_server"), retry=ONCE)) as block:
            yield block
    else:
        with new_store(kind, request, retry=ONCE) as block:
            yield block


def run(kind: str, count: int, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
    request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))  # an upload's default is here
    with opened(kind, request) as block:
        is_warehouse = hasattr(block, "fetch_all")
        fill, state = (fill_warehouse, kept) if is_warehouse else (fill_store, stored)
        fill(block)
        refused = 0
        for case in cases(block, count, count):
            if attempt(block, case, caplog, state):
                refused += 1
            elif is_warehouse:
                fill(block)
        assert refused > count / 2


@pytest.mark.parametrize("kind", ["postgres", "s3"])
def test_foreign_inputs(kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
    """Only errors of ours, on one line, without a secret or a value of a row; nothing was written."""
    run(kind, EVERY_RUN, request, caplog)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("postgres", 400),
        ("redshift", 150),
        ("mysql", 150),
        ("s3", 250),
        ("gcs", 100),
        ("azure", 150),
        ("snowflake", 100),
        ("bigquery", 50),
    ],
)
def test_many_foreign_inputs(
    kind: str, count: int, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """The same, with as many as make 2,000 with those of what runs in the process."""
    run(kind, count, request, caplog)


@pytest.mark.usefixtures("prefect_server")
def test_what_prefect_keeps_of_a_failed_load_holds_no_row(
    pg_database: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its log nor the states of the runs; what a trigger says is the server's to tell."""
    warehouse = Postgres(**pg_database.fields(), retry=ONCE)
    with pg_database.connect() as connection:
        connection.execute(
            "create table audited (note text);"
            "create function audit() returns trigger language plpgsql as "
            "$$ begin raise exception E'no %\\n12:00 | INFO | all is well', new.note; end $$;"
            "create trigger audit before insert on audited for each row execute function audit()"
        )

    @flow
    def load() -> None:
        warehouse.load([{"note": ROW}], "audited")

    state = load(return_state=True)
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ConnectorError)
    assert "in function audit(), line 1" in str(error)
    assert ROW not in f"{state!r} {state.message} {shown(error)} {caplog.text}"
    assert not [line for line in caplog.text.splitlines() if line.startswith("12:00 | INFO")]
