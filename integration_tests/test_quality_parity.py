"""Every core expectation in every place, beside plain Great Expectations: the same verdict and the same counts.

`ETL_RECORD_QUALITY=1 pytest --thorough integration_tests/test_quality_parity.py && python docs/tables.py` writes the
table of docs/quality.md anew.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from connectors.duckdb import DuckDB
from connectors.great_expectations import DataQuality
from connectors.great_expectations.engine import known_types
from connectors.local import MemoryFiles
from connectors.postgres import Postgres
from integration_tests.quality_parity import CASES, DATA, PLACES, Verdict, expected, ours, plain, record, recorded

gx = pytest.importorskip("great_expectations")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from integration_tests.standins.postgres import Address

KINDS = sorted({case.kind for case in CASES})


@pytest.fixture
def postgres(pg_database: Address) -> Iterator[Postgres]:
    with contextlib.closing(Postgres(**pg_database.fields())) as block:
        block.load(DATA, "orders")
        yield block


@pytest.fixture
def batches(postgres: Postgres, pg_database: Address) -> dict[str, Any]:
    """The data as Great Expectations itself has it, in memory and in PostgreSQL."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    frames = context.data_sources.add_pandas("frames").add_dataframe_asset("data")
    whole = frames.add_batch_definition_whole_dataframe("all")
    place = f"{pg_database.host}:{pg_database.port}/{postgres.database}"
    url = f"postgresql+psycopg2://{pg_database.user}:{pg_database.password}@{place}"
    return {
        "pandas": whole.get_batch(batch_parameters={"dataframe": DATA.to_pandas()}),
        "PostgreSQL": context.data_sources.add_postgres("tables", connection_string=url)
        .add_table_asset("data", table_name="orders")
        .add_batch_definition_whole_table("all")
        .get_batch(),
    }


@pytest.fixture
def places(postgres: Postgres, tmp_path: Path) -> Iterator[dict[str, tuple[Any, dict[str, str]]]]:
    bucket = MemoryFiles()
    bucket.write_table(DATA, "orders")
    with contextlib.closing(DuckDB(path=str(tmp_path / "shop.duckdb"))) as duckdb:
        duckdb.load(DATA, "orders")
        yield dict(
            zip(
                PLACES,
                [
                    (DATA.to_pandas(), {}),
                    (DATA, {}),
                    (bucket, {"prefix": "orders"}),
                    (duckdb, {"table": "orders"}),
                    (postgres, {"table": "orders"}),
                ],
                strict=True,
            )
        )


def test_every_core_expectation_is_asked() -> None:
    """But for the one that compares two data sources, which a block of ours does not know."""
    assert set(known_types()) - set(KINDS) <= {"expect_query_results_to_match_comparison"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_ours_says_what_great_expectations_says(
    batches: dict[str, Any], places: dict[str, tuple[Any, dict[str, str]]], kind: str
) -> None:
    """Asked together, as a suite, of what can be asked and what cannot; never passed where it has an exception."""
    cases = [case for case in CASES if case.kind == kind]
    suite = DataQuality(
        suite_name="parity",
        raise_on_failure=False,
        expectations=[{"type": case.kind, "kwargs": case.kwargs} for case in cases],
    )
    said = [{name: plain(batch, case) for name, batch in batches.items()} for case in cases]
    found = {place: ours(suite.validate(data, **where)) for place, (data, where) in places.items()}
    assert {place: list(zip(cases, verdicts, strict=True)) for place, verdicts in found.items()} == {
        place: [(case, expected(case, place, each)) for case, each in zip(cases, said, strict=True)] for place in found
    }
    asked = [
        place
        for place, verdicts in found.items()
        if any(verdict.success is not None for case, verdict in zip(cases, verdicts, strict=True) if case.askable)
    ]
    if os.environ.get("ETL_RECORD_QUALITY"):
        record(kind, asked)
    assert recorded()[kind] == asked
    assert Verdict(None) in found["PostgreSQL"] or all(case.askable for case in cases)
