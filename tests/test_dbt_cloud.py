"""DbtCloudJob without dbt Cloud: what is refused before anything is sent, and what becomes of httpx's errors."""

from __future__ import annotations

import datetime as dt
import pickle
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from blocks.base.errors import (
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    TerminalError,
    TransientError,
    UnsupportedError,
)
from blocks.base.masking import hide
from blocks.credentials.dbt_cloud import DBT_CLOUD_ERRORS, DbtCloudCredentials
from connectors.dbt_cloud import DbtCloudJob, DbtCloudStatus, DbtCloudStep
from connectors.dbt_cloud.status import step_of

CANARY = "dbtc_canary-of-a-token"
SCHEMA_OF_A_RUN = {"index": 4, "name": "Invoke dbt with `dbt build`", "status": 3}


def credentials(**fields: Any) -> DbtCloudCredentials:
    return DbtCloudCredentials(**{"api_key": CANARY, "account_id": 1, **fields})


def errors_of_httpx() -> list[type[Exception]]:
    """Every exception that httpx can raise."""
    kinds = [getattr(httpx, name) for name in httpx.__all__]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]


def raised(kind: type[Exception]) -> Exception:
    """One of them, made without what its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("words of the network",)
    return error


@pytest.mark.parametrize("kind", errors_of_httpx())
def test_no_error_of_httpx_is_unmapped(kind: type[Exception]) -> None:
    """The table has it or one of its classes, but for the bases that nobody raises."""
    is_base = kind.__name__ in {"HTTPError", "RequestError"}
    known = [each.__name__ for each in kind.__mro__ if each.__name__ in DBT_CLOUD_ERRORS]
    assert bool(known) != is_base


NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
REFUSED_HERE = {
    "LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "TooManyRedirects", "CookieConflict", "HTTPStatusError",
    "HTTPError", "RequestError",
}  # fmt: skip


@pytest.mark.parametrize("kind", errors_of_httpx())
def test_a_start_is_sent_again_only_where_it_was_never_sent(kind: type[Exception]) -> None:
    """Whatever else the network says, dbt Cloud may have seen it; a look may be tried again anyway."""
    start = credentials()._error("start", "the job", "a right", raised(kind), once=True)
    look = credentials()._error("look at", "the run", "a right", raised(kind))
    if kind.__name__ in REFUSED_HERE:
        assert isinstance(start, TerminalError)
        assert type(look) is type(start)
    else:
        assert type(start) is (TransientError if kind.__name__ in NEVER_SENT else AmbiguousError)
        assert type(look) is TransientError


def test_what_is_none_of_httpxs_is_terminal() -> None:
    """A full disk under a download, a certificate of a stranger; neither gets better by itself."""
    full = credentials()._error("read", "manifest.json", "a right", OSError(28, "No space left on device"))
    assert str(full) == "Could not read manifest.json: OSError: [Errno 28] No space left on device."
    stranger = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    for error in (full, credentials()._error("see", "it", "a right", stranger, once=True)):
        assert isinstance(error, TerminalError)


def test_headers_and_the_token_show_nowhere() -> None:
    """Not in the words of the network, not in what is printed, saved or refused."""
    block = credentials()
    for kind in (httpx.LocalProtocolError, httpx.ReadError):
        error: ConnectorError = block._error("see", "it", "a right", kind(f"Illegal header value b'Bearer {CANARY}'"))
        assert CANARY not in str(error)
    job = DbtCloudJob(dbt_cloud_credentials=block, job_id=1)
    for text in (repr(block), block.model_dump_json(), repr(job), repr(job.get_run(1)), job.model_dump_json()):
        assert CANARY not in text
    for wrong in (f"{CANARY}\n", f"Bearer {CANARY}", "", "schlüssel"):
        with pytest.raises(ValidationError, match="api_key is empty or has whitespace") as caught:
            credentials(api_key=wrong)
        assert CANARY not in str(caught.value)


def test_the_client_is_of_the_administrative_api() -> None:
    """As prefect-dbt names it; its other API is refused by name."""
    for arguments in ([], ["administrative"]):
        with credentials().get_client(*arguments) as client:
            assert client.base_url == "https://cloud.getdbt.com/api/v2/accounts/1/"
    for other in ("metadata", "semantic"):
        with pytest.raises(UnsupportedError, match=f"no client of type '{other}'"):
            credentials().get_client(other)


def test_an_address_is_a_host() -> None:
    """As people copy it from the browser; the token goes nowhere without TLS but to this machine."""
    for domain in ("ab123.us1.dbt.com", "https://ab123.us1.dbt.com/", " ab123.us1.dbt.com"):
        assert credentials(domain=domain).base_url == "https://ab123.us1.dbt.com/api/v2/accounts/1/"
    assert credentials().base_url == "https://cloud.getdbt.com/api/v2/accounts/1/"
    for domain in ("ab123.us1.dbt.com/deploy", "http://ab123.us1.dbt.com", "me@dbt.com", ""):
        with pytest.raises(ValidationError, match="is not a host"):
            credentials(domain=domain)
    for endpoint in ("https://proxy.example/dbt/", "http://127.0.0.1:80/", "http://localhost:80"):
        assert credentials(api_endpoint=endpoint).base_url == f"{endpoint.rstrip('/')}/api/v2/accounts/1/"
    for endpoint in (
        "http://proxy.example",
        "http://127.0.0.1.example:80",
        "http://127.0.0.1:80@x.example/",
        "ftp://x",
    ):
        with pytest.raises(ValidationError, match=r"without TLS only this machine|a user or a password|is a URL"):
            credentials(api_endpoint=endpoint)


def test_a_run_survives_a_process_boundary() -> None:
    """It is started in one task and waited for in another, with what was already told."""
    run = DbtCloudJob(dbt_cloud_credentials=credentials(), job_id=7).get_run(1001)
    copy = pickle.loads(pickle.dumps(run))  # noqa: S301 (our own)
    assert (copy.run_id, copy.name) == ("1001", "dbt Cloud job 7 (1001)")
    assert copy.job == run.job


def test_a_token_fits() -> None:
    """It has to be in the cause as it is."""
    job = DbtCloudJob(dbt_cloud_credentials=credentials(), job_id=7)
    with pytest.raises(InvalidInputError, match="32 letters and digits"):
        job.trigger(token="a [b]")


def test_a_step_needs_no_more_than_is_documented() -> None:
    """The word for its state, and its times, are on the wire and not in the API's description."""
    assert step_of(SCHEMA_OF_A_RUN) == DbtCloudStep(4, "Invoke dbt with `dbt build`", "Running", "running")
    assert step_of(SCHEMA_OF_A_RUN | {"status": 20}).outcome == "failed"
    assert step_of(SCHEMA_OF_A_RUN | {"name": "dbt run --vars '{api_key: x}'"}).name == "dbt run --vars '{api_key: ***"
    assert step_of(SCHEMA_OF_A_RUN | {"status": 77, "started_at": "soon"}) == DbtCloudStep(
        4, "Invoke dbt with `dbt build`", "77", "running"
    )
    at = dt.datetime(2026, 4, 30, 6, tzinfo=dt.UTC)
    for text in ("2026-04-30T06:00:00.000Z", "2026-04-30 06:00:00", "2026-04-30 06:00:00+00:00"):
        assert step_of(SCHEMA_OF_A_RUN | {"started_at": text}).started_at == at


def test_a_page_has_the_steps() -> None:
    """As a table, whatever is in a name."""
    steps = (DbtCloudStep(1, "dbt run -s 'a|b'\n--full-refresh", "Skipped", "skipped"),)
    page = DbtCloudStatus("1001", "Error", "failed", steps=steps, url="https://x.example/1001/").markdown()
    assert page == (
        "# dbt Cloud run 1001: Error\n\n[Its page](https://x.example/1001/)\n\n"
        "| # | step | state | time |\n| --- | --- | --- | --- |\n"
        "| 1 | dbt run -s 'a\\|b' --full-refresh | Skipped |  |\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        f"password={CANARY}",
        f"PGPASSWORD: '{CANARY} and more'",
        f'{{"private_key": "{CANARY}", "x": 1}}',
        f"AWS_SECRET_ACCESS_KEY={CANARY};",
        f"snowflake://me:{CANARY}@account/db",
        f"postgres://me:a/b@{CANARY}@host/db",
        f"Authorization: Bearer {CANARY}",
        f"--token \x1b[1m= {CANARY}",
    ],
)
def test_what_looks_like_a_secret_is_not_shown(text: str) -> None:
    """In the end of a log that an error shows."""
    assert CANARY not in hide(text)


def test_a_log_stays_a_log() -> None:
    """What is no secret is as it was."""
    text = "06:00:06  Database Error in model orders: column token_count has 3 values, see https://docs.getdbt.com"
    assert hide(text) == text
