"""Where a Postgres block connects to, by whatever a person has in hand: a URL, a service, the PG* variables, a key."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from blocks import ConnectorError, InvalidInputError, NotFoundError
from connectors.postgres import Postgres
from connectors.shared.libpq.block import LibpqWarehouse
from tests.shown import shown

if TYPE_CHECKING:
    from pathlib import Path

    from integration_tests.standins.postgres import Address

VARIABLES = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def works(warehouse: Postgres, address: Address) -> None:
    """It is connected by both drivers, and its messages say where."""
    with warehouse:
        place = f"postgres://{address.host}:{address.port}/{address.database}"
        assert warehouse.uri() == place
        assert warehouse.fetch_one("SELECT current_database()") == (address.database,)
        assert warehouse.load([{"a": 1}], "t", mode="replace").rows == 1
        assert warehouse.scan("t").to_arrow().num_rows == 1
        assert address.password not in f"{warehouse!r} {warehouse.model_dump(mode='json')}"


def test_a_url(pg_database: Address) -> None:
    """As a cloud's console shows it, and as SQLAlchemy has it; a field comes before what it says."""
    login = f"{pg_database.user}:{quote(pg_database.password, safe='')}@{pg_database.host}:{pg_database.port}"
    works(Postgres(connection_string=f"postgresql://{login}/{pg_database.database}?sslmode=prefer"), pg_database)
    works(Postgres(connection_string=f"postgresql+psycopg://{login}/other", database=pg_database.database), pg_database)


def test_keywords_and_values(pg_database: Address) -> None:
    """As psql takes them."""
    works(Postgres(connection_string=pg_database.dsn()), pg_database)


def test_a_service(pg_database: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file that libpq has for them, named by a field or by the environment."""
    names = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "database"}
    lines = [f"{name}={getattr(pg_database, attribute)}" for name, attribute in names.items()]
    (tmp_path / "services").write_text("\n".join(["# ours", "[shop]", *lines]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    works(Postgres(service="shop"), pg_database)
    monkeypatch.setenv("PGSERVICE", "shop")
    works(Postgres(), pg_database)
    with pytest.raises(NotFoundError, match=r"There is no service 'nope' in .*services\. Check service, PGSERVICE"):
        Postgres(service="nope").check()


def test_the_environment(pg_database: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a field is empty, as for every tool of PostgreSQL's."""
    values = (pg_database.host, pg_database.port, pg_database.database, pg_database.user, pg_database.password)
    for name, value in zip(VARIABLES, values, strict=False):
        monkeypatch.setenv(name, str(value))
    works(Postgres(), pg_database)
    assert Postgres(database="other", host="elsewhere").uri() == f"postgres://elsewhere:{pg_database.port}/other"


def test_options_and_limits_reach_the_server(pg_database: Address) -> None:
    """Settings of libpq's `options`, and the limits that have fields."""
    fields = pg_database.fields() | {"statement_timeout_s": 7.0, "lock_timeout_s": 3.0}
    with Postgres(**fields, options="-c work_mem=77MB") as warehouse:
        names = ("work_mem", "statement_timeout", "lock_timeout")
        values = ", ".join(f"current_setting('{name}')" for name in names)
        assert warehouse.fetch_one(f"SELECT {values}") == ("77MB", "7s", "3s")


def test_a_client_certificate_is_handed_over(pg_database: Address, tmp_path: Path) -> None:
    """Its file, its key and the password of that; the server asks for none, so a wrong key is what shows it."""
    if pg_database.ca_file is None:
        pytest.skip("this server has no TLS")
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, "-days", "2"]
    done = subprocess.run([*command, "-subj", "/CN=me", "-passout", "pass:hunter2"], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    key.chmod(0o600)
    fields = pg_database.fields() | {"ssl_mode": "require", "ssl_cert": str(certificate), "ssl_key": str(key)}
    works(Postgres(**fields, ssl_key_password="hunter2"), pg_database)
    with pytest.raises(ConnectorError, match=r"k\.pem") as caught:
        Postgres(**fields, ssl_key_password="hunter3").check()
    assert "hunter3" not in shown(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgresql://me:hunter2%zz@db/shop", "is not one that libpq takes"),
        ("postgresql://me:hunter2@db/shop?schema=public", "libpq has no parameter 'schema'"),
        ("host=db password=hunter2 schemas=x", "libpq has no parameter 'schemas'"),
        ("password = 'hunter2", "is not one that libpq takes"),
    ],
)
def test_a_wrong_connection_string_is_told_and_not_shown(text: str, words: str) -> None:
    """What libpq says of it would repeat it."""
    with pytest.raises(InvalidInputError, match=words) as caught:
        Postgres(connection_string=text).check()
    assert "hunter2" not in shown(caught.value)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({"host": "db.example.com"}, "require"),
        ({"host": "10.0.0.7"}, "require"),
        ({"connection_string": "postgresql://db.example.com/shop"}, "require"),
        ({"connection_string": "postgresql://db.example.com/shop?sslmode=disable"}, "disable"),
        ({"host": "db.example.com", "ssl_mode": "verify-full"}, "verify-full"),
        ({"host": "localhost"}, "prefer"),
        ({"host": "/var/run/postgresql"}, "prefer"),
        ({}, "prefer"),
    ],
)
def test_tls_is_required_of_other_machines(fields: dict[str, Any], mode: str) -> None:
    """Unless somebody says otherwise; what stays on this machine needs none."""
    assert LibpqWarehouse._settings(Postgres(**fields))["sslmode"] == mode


def test_check_says_what_was_verified(pg_database: Address) -> None:
    """Whether anybody listens, and whether it is the server."""
    if pg_database.ca_file is None:
        pytest.skip("this server has no TLS")
    fields = pg_database.fields()
    full = {"ssl_root_cert": str(pg_database.ca_file), "host": "localhost"}
    assert (
        Postgres(**fields, ssl_mode="disable").check().endswith("The connection is not encrypted (ssl_mode disable).")
    )
    assert (
        Postgres(**fields, ssl_mode="require")
        .check()
        .endswith("encrypted, but the server is not verified (ssl_mode require; use verify-full).")
    )
    assert Postgres(**(fields | full), ssl_mode="verify-ca").check().endswith("but not its name (verify-full).")
    assert Postgres(**(fields | full), ssl_mode="verify-full").check().endswith("certificate and name are verified.")
