"""The attack on loads: some of its cases in every run, and that it would notice if the protocol were broken."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from integration_tests.faults.attack import Attack, describe
from integration_tests.faults.campaign import Campaign
from integration_tests.faults.cases import draw
from integration_tests.faults.mutants import MUTANTS, mutated
from integration_tests.faults.targets.all import QUICK, TARGETS
from integration_tests.faults.targets.databases import SERVER_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from integration_tests.faults.cases import Case
    from integration_tests.standins.gcs import GcsServer
    from integration_tests.standins.postgres import PostgresServer
    from integration_tests.standins.s3 import S3Server

SEED, CASES = 12, 60
SLOW = {*SERVER_FAULTS, "no answer"}
KINDS = tuple(TARGETS.values())


def drawn(**wanted: set[Any]) -> Iterator[Case]:
    """The cases of the seed whose fields have one of these values."""
    cases = (draw(SEED, number, KINDS) for number in itertools.count())
    return (case for case in cases if all(getattr(case, name) in values for name, values in wanted.items()))


QUICK_CASES = [
    case
    for case in itertools.islice(drawn(target=set(QUICK)), 2 * CASES)
    if case.fault not in SLOW and case.way not in {"task", "flow"}
][:CASES]


@pytest.fixture(scope="module")
def campaign(postgres_server: PostgresServer, s3_server: S3Server, gcs_server: GcsServer) -> Iterator[Campaign]:
    servers = {"postgres": postgres_server, "s3": s3_server, "gcs": gcs_server}
    with Campaign(KINDS, servers=servers) as running:
        yield running


@pytest.mark.parametrize("case", QUICK_CASES, ids=lambda case: f"{case.number}-{'-'.join(case.combination)}")
def test_a_case_is_right(campaign: Campaign, case: Case) -> None:
    """Under the fault, and after the retry, each row is there once; nothing is left behind, and nothing is shown."""
    result = campaign.run(case)
    assert result is not None
    assert not result.wrong, describe(result)


CAUGHT: dict[str, dict[str, set[Any]]] = {
    "ledger outside the transaction": {"target": {"DuckDB"}, "fault": {"lost commit"}, "mode": {"append"}},
    "blind retry": {"target": {"DuckDB"}, "fault": {"lost commit"}, "mode": {"append"}},
    "load id per attempt": {"target": {"DuckDB"}, "fault": {"two loaders"}, "mode": {"append"}},
    "no staging clean up": {"target": {"Redshift"}, "fault": {"source breaks"}},
    "no lock": {"target": {"PostgreSQL"}, "fault": {"another load"}, "mode": {"replace_partition"}, "at": {"commit"}},
    "plan before the claim": {
        "target": {"DuckDB"},
        "fault": {"another load"},
        "mode": {"replace", "replace_partition"},
        "at": {"rows"},
        "fresh": {True},
    },
    "reader read twice": {
        "target": {"PostgreSQL"},
        "fault": {"lose answer", "cut request", "lose request"},
        "source": {"reader"},
        "way": {"retry"},
    },
}
"""Among which cases each mutant is looked for."""
WITHIN = 6
NOTICED = {"lost", "doubled", "changed", "torn", "ledger", "leftovers"}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_protocol_is_noticed(campaign: Campaign, mutant: str) -> None:
    """Each way to break it makes one of a few cases go wrong."""
    for case in itertools.islice(drawn(**CAUGHT[mutant]), WITHIN):
        attack = campaign.attack(case.target)
        assert attack is not None
        with mutated(mutant):
            wrong = Attack(attack.target, contextlib.nullcontext, mutant).run(case).wrong
        if wrong.keys() & NOTICED:
            return
    pytest.fail(f"{mutant}: none of {WITHIN} cases went wrong.")
