"""What a newcomer does wrong first, and the message that says what to do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from blocks import ConnectorError, CsvOptions, RetryPolicy
from connectors.duckdb import DuckDB
from connectors.local import LocalFiles
from connectors.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration_tests.standins.postgres import Address

ONCE = RetryPolicy(attempts=1)
ROWS = [{"id": 1, "name": "Ada"}]


class Here:
    """What a newcomer has: a file, a folder, an embedded database, and a server."""

    def __init__(self, folder: Path, address: Address) -> None:
        (folder / "orders.csv").write_text("id;name\n1;Ada\n2;Bob\n")
        self.files = LocalFiles(basepath=str(folder))
        self.duckdb = DuckDB(path=str(folder / "w.duckdb"), retry=ONCE)
        self.address = address

    def postgres(self, **fields: Any) -> Postgres:
        """Return a block of the server, with fields that are wrong."""
        return Postgres(**(self.address.fields() | {"retry": ONCE, "connect_timeout_s": 3} | fields))

    def load_by_comma(self) -> None:
        """Load the file, whose delimiter is another one."""
        self.duckdb.load(self.files.scan("orders.csv", options=CsvOptions(delimiter=","), schema=SCHEMA), "orders")


SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])
STEPS: dict[str, tuple[Callable[[Here], Any], str]] = {
    "a wrong delimiter": (Here.load_by_comma, r"delimiter"),
    "a wrong host": (
        lambda here: here.postgres(host="db.invalid").check(),
        r"Could not connect to postgres://db\.invalid:\d+/\w+: .*Are host and port right, and reachable from here\?$",
    ),
    "a URL as the host": (
        lambda here: here.postgres(host="postgresql://me:hunter2@db/shop"),
        r"is a name or an address, not a URL; user, password and database have fields of their own",
    ),
    "a wrong password": (
        lambda here: here.postgres(password="hunter2").check(),
        r'password authentication failed for user "postgres"\. Check username and password\.$',
    ),
    "no such database": (
        lambda here: here.postgres(database="shpo").check(),
        r'database "shpo" does not exist\. Check the database\'s name\.$',
    ),
    "no such schema": (
        lambda here: here.postgres(schema="sales").load(ROWS, "orders"),
        r"There is no schema 'sales' in \S+, or this login may not use it\. Create it, or grant USAGE on it\.$",
    ),
    "a missing driver": (
        lambda here: here.duckdb.check(),
        r"^duckdb is not installed\. Install it with: pip install 'etl-blocks\[duckdb\]'$",
    ),
    "a typo in an option": (
        lambda here: here.duckdb.load(ROWS, "orders", mod="append"),
        r"load\(\) has no argument 'mod'; did you mean 'mode'\?$",
    ),
    "another tool's word": (
        lambda here: here.duckdb.load(ROWS, "orders", mode="overwrite"),
        r"^Invalid mode 'overwrite': The choices: 'append', 'replace', 'upsert', 'replace_partition'\.$",
    ),
    "a typo in a field": (
        lambda _: Postgres(hots="db.example.com"),
        r"Postgres has no field 'hots'; did you mean 'host'\?",
    ),
    "a path for data": (
        lambda here: here.duckdb.load("orders.csv", "orders"),
        r"^str is not tabular data\. Pass a Scan, ",
    ),
    "no such file": (
        lambda here: here.files.scan("orders.cvs", schema=SCHEMA, format="csv").to_arrow(),
        r"There is nothing to read at file://.*/orders\.cvs: no such object, and no data in such a folder\.",
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_wrong_first_step_is_told(
    step: str, tmp_path: Path, pg_database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with what to do; a secret is not in it."""
    call, words = STEPS[step]
    here = Here(tmp_path, pg_database)
    if step == "a missing driver":
        monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises((ConnectorError, ValidationError), match=words) as caught:
        call(here)
    assert isinstance(caught.value, ValidationError) or "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
