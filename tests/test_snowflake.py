"""Snowflake without a server: settings, errors, types, names and statements."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from blocks.base.errors import (
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    TypeLossError,
)
from blocks.credentials.snowflake import SNOWFLAKE_ERRORS, SnowflakeCredentials, snowflake_error, without_data
from connectors.snowflake import Snowflake
from connectors.snowflake.dialect import SnowflakeDialect

if TYPE_CHECKING:
    from pathlib import Path

LOGIN: dict[str, Any] = {"account": "org-acc", "user": "loader", "password": "s3cret"}


def block(**changes: Any) -> Snowflake:
    return Snowflake(**{"credentials": LOGIN, "database": "db", **changes})


def test_building_imports_no_driver() -> None:
    """Neither a block nor its plan of a connection needs the driver, or anything slow."""
    code = (
        "import sys; from connectors.snowflake import Snowflake;"
        "Snowflake(credentials={'account': 'a', 'user': 'u', 'password': 'p'}, database='d').uri('t');"
        "print([name for name in ('snowflake', 'cryptography', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_fields_have_prefects_names() -> None:
    """What was saved for prefect-snowflake fits: `schema` as well as its Python name."""
    for name in ("schema", "schema_"):
        assert block(**{name: "sales"}, warehouse="wh").uri("t") == "snowflake://org-acc/db/sales.t"
    assert "s3cret" not in repr(block())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"account": "a", "user": "u"}, "Give a password, or a private_key"),
        ({"account": "a", "password": "p"}, "needs user"),
        ({"account": "a", "user": "u", "authenticator": "oauth"}, "'oauth' needs token"),
        ({"account": "a", "user": "u", "authenticator": "username_password_mfa"}, "needs password"),
        ({"account": "a", "authenticator": "workload_identity"}, "needs workload_identity_provider"),
        ({"account": "a", "user": "u", "authenticator": "okta_endpoint"}, "needs endpoint and password"),
        ({"account": "a", "user": "u", "private_key": "x", "private_key_path": "y"}, "not both"),
        ({**LOGIN, "pasword": "p"}, "did you mean 'password'"),
    ],
)
def test_what_a_login_needs_is_said(fields: dict[str, Any], words: str) -> None:
    """A login that cannot work is an error when the block is built, and names the field."""
    with pytest.raises(ValidationError, match=words):
        SnowflakeCredentials(**fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"password": "p"}, {"authenticator": "snowflake", "password": "p"}),
        ({"authenticator": "oauth", "token": "t"}, {"authenticator": "oauth", "token": "t"}),
        ({"authenticator": "externalbrowser"}, {"client_store_temporary_credential": True}),
        ({"authenticator": "username_password_mfa", "password": "p"}, {"client_request_mfa_token": True}),
        (
            {"authenticator": "workload_identity", "workload_identity_provider": "aws", "user": None},
            {"authenticator": "workload_identity", "workload_identity_provider": "AWS"},
        ),
        (
            {"authenticator": "okta_endpoint", "endpoint": "https://acme.okta.com", "password": "p"},
            {"authenticator": "https://acme.okta.com"},
        ),
    ],
)
def test_each_way_to_log_in_is_the_drivers(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """The driver gets what it documents for this way, and nothing that is empty."""
    arguments = SnowflakeCredentials(**{"account": "a", "user": "u", **fields})._login()
    assert expected.items() <= arguments.items()
    assert None not in arguments.values()


def test_a_private_key_may_be_text_or_a_file(tmp_path: Path) -> None:
    """PEM text, also with its line ends lost, and a file, with a passphrase and without, are one key to the driver."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = rsa.generate_private_key(65537, 2048)
    form, pem = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    text = key.private_bytes(pem, form, serialization.NoEncryption()).decode()
    file = tmp_path / "key.p8"
    file.write_bytes(key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"pass")))
    traditional = serialization.PrivateFormat.TraditionalOpenSSL  # its headers say that it is encrypted
    old = key.private_bytes(pem, traditional, serialization.BestAvailableEncryption(b"pass")).decode()
    given: list[dict[str, Any]] = [
        {"private_key": text},
        {"private_key": text.replace("\n", " ")},
        {"private_key": text.replace("\n", "\\n")},
        {"private_key_path": file, "private_key_passphrase": "pass"},
        *({"private_key": each, "private_key_passphrase": "pass"} for each in (old, old.replace("\n", " "))),
    ]
    logins = [SnowflakeCredentials(account="a", user="u", **fields)._login() for fields in given]
    assert len({login["private_key"] for login in logins}) == 1
    assert {login["authenticator"] for login in logins} == {"snowflake_jwt"}


@pytest.mark.parametrize("fields", [{"private_key": "no key"}, {"private_key_path": "/nowhere"}])
def test_a_private_key_that_is_none_says_so(fields: dict[str, Any]) -> None:
    """The message names the account and not the key."""
    pytest.importorskip("snowflake.connector")
    with pytest.raises(AuthError, match="Could not use the private key for snowflake://a") as caught:
        SnowflakeCredentials(account="a", user="u", **fields).get_client()
    assert "no key" not in str(caught.value)


def test_the_drivers_log_shows_no_values(caplog: pytest.LogCaptureFixture) -> None:
    """What it says of a request that hangs ends where the statement and its values would begin."""
    logger = logging.getLogger("snowflake.connector.network")
    logger.addFilter(without_data)
    logger.error("Failed to get the response. Hanging? method: post, url: https://x, headers:{}, data: {'1': 'c4n4ry'}")
    logger.error("Another word")
    assert caplog.messages == ["Failed to get the response. Hanging? method: post, url: https://x", "Another word"]


def test_every_error_of_the_driver_is_known() -> None:
    """No exception class and no number of the driver is without a class of ours."""
    connector = pytest.importorskip("snowflake.connector")
    codes = pytest.importorskip("snowflake.connector.errorcode")
    raised = [
        kind for kind in vars(connector.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    kinds = [kind for kind in raised if issubclass(kind, connector.Error)]
    assert len(kinds) > 20
    for kind in kinds:
        names = [base.__name__ for base in kind.__mro__ if base is not connector.Error]
        assert kind is connector.Error or any(name in SNOWFLAKE_ERRORS for name in names), kind
        error = kind.__new__(kind)
        connector.Error.__init__(error, msg="what happened")
        found = snowflake_error("read", "snowflake://x", error)
        assert isinstance(found, ConnectorError)
        assert "snowflake://x" in str(found)
    numbers = [value for name, value in vars(codes).items() if name.startswith("ER_")]
    assert len(numbers) > 50
    for number in numbers:
        error = connector.DatabaseError(msg="what happened", errno=number)
        assert type(snowflake_error("read", "x", error)) is not TerminalError, number


@pytest.mark.parametrize(
    ("errno", "state", "words", "expected"),
    [
        (2003, "42S02", "SQL compilation error:\nObject 'DB.T' does not exist or not authorized.", NotFoundError),
        (904, "42000", "SQL compilation error: error line 1 at position 7\ninvalid identifier 'X'", NotFoundError),
        (1003, "42000", "SQL compilation error:\nsyntax error", InvalidInputError),
        (100038, "22018", "Numeric value 'c4n4ry' is not recognized", InvalidInputError),
        (100072, "22000", "NULL result in a non-nullable column c4n4ry", InvalidInputError),
        (625, "57014", "Statement was aborted because the lock has not been released", TransientError),
        (390112, "08001", "Your session has expired", TransientError),
        (390144, "08001", "JWT token is invalid", AuthError),
        (290429, None, "HTTP 429", ThrottledError),
        (580503, None, "HTTP 503", TransientError),
    ],
)
def test_errors_of_the_service_are_told_apart(errno: int, state: str, words: str, expected: type[Exception]) -> None:
    """Number first, then SQLSTATE; what may quote a value is said in our words, and names are in lower case."""
    connector = pytest.importorskip("snowflake.connector")
    error = connector.ProgrammingError(msg=words, errno=errno, sqlstate=state)
    found = snowflake_error("run a statement in", "snowflake://x", error)
    assert type(found) is expected
    assert "c4n4ry" not in str(found)
    if "DB.T" in words:
        assert "Object 'db.t' does not exist" in str(found)


TYPES = {
    pa.bool_(): ("BOOLEAN", pa.bool_()),
    pa.int8(): ("NUMBER(19,0)", pa.int64()),
    pa.uint32(): ("NUMBER(19,0)", pa.int64()),
    pa.int64(): ("NUMBER(19,0)", pa.int64()),
    pa.uint64(): ("NUMBER(20,0)", pa.decimal128(20, 0)),
    pa.float32(): ("FLOAT", pa.float64()),
    pa.decimal128(12, 2): ("NUMBER(12,2)", pa.decimal128(12, 2)),
    pa.decimal128(9, 0): ("NUMBER(19,0)", pa.int64()),
    pa.decimal128(19, 0): ("NUMBER(20,0)", pa.decimal128(20, 0)),
    pa.decimal128(38, 0): ("NUMBER(38,0)", pa.decimal128(38, 0)),
    pa.large_string(): ("VARCHAR", pa.string()),
    pa.binary(3): ("BINARY", pa.binary()),
    pa.date64(): ("DATE", pa.date32()),
    pa.time32("s"): ("TIME(6)", pa.time64("us")),
    pa.timestamp("ms"): ("TIMESTAMP_NTZ(6)", pa.timestamp("us")),
    pa.timestamp("s", "Europe/Rome"): ("TIMESTAMP_TZ(6)", pa.timestamp("us", "UTC")),
    pa.json_(): ("VARIANT", pa.json_()),
    pa.list_(pa.int64()): ("VARIANT", pa.json_()),
    pa.timestamp("ns"): ("TIMESTAMP_NTZ(6)", pa.timestamp("us")),
    pa.uuid(): ("VARCHAR", pa.string()),
    pa.null(): ("VARCHAR", pa.string()),
}


@pytest.mark.parametrize(("kind", "expected"), TYPES.items(), ids=str)
def test_types_have_columns(kind: pa.DataType, expected: tuple[str, pa.DataType]) -> None:
    """Each Arrow type has the column that holds all its values, and comes back in the type of that column."""
    column = SnowflakeDialect().column("x", kind)
    assert (column.sql_type, column.arrow_type) == expected


@pytest.mark.parametrize("kind", [pa.decimal256(39, 0), pa.duration("s"), pa.list_(pa.binary())])
def test_types_without_a_column_are_refused(kind: pa.DataType) -> None:
    """The message says what to do."""
    with pytest.raises(TypeLossError, match=r"no type that holds every .* Cast it"):
        SnowflakeDialect().column("x", kind)


def test_statements_name_columns_by_one_rule() -> None:
    """Lower case is Snowflake's unquoted name, JSON is parsed on its way, and partitions are matched as a whole."""
    dialect = SnowflakeDialect()
    columns = [dialect.column("id", pa.int64()), dialect.column("Day", pa.date32()), dialect.column("doc", pa.json_())]
    assert dialect.create_table("s.t", columns, key=["id"]) == (
        'CREATE TABLE IF NOT EXISTS "S"."T" ("ID" NUMBER(19,0) NOT NULL, "Day" DATE, "DOC" VARIANT)'
    )
    assert dialect.merge("t", columns, ["id"], "_etl_stage") == (
        'MERGE INTO "T" AS t USING (SELECT s."ID" AS "ID", s."Day" AS "Day", PARSE_JSON(s."DOC") AS "DOC" '
        'FROM "_ETL_STAGE" AS s) AS s ON t."ID" = s."ID" '
        'WHEN MATCHED THEN UPDATE SET "Day" = s."Day", "DOC" = s."DOC" '
        'WHEN NOT MATCHED THEN INSERT ("ID", "Day", "DOC") VALUES (s."ID", s."Day", s."DOC")'
    )
    assert dialect.delete_partitions("t", columns, ["Day", "id"], "_etl_stage") == (
        'DELETE FROM "T" WHERE ("Day", "ID") IN (SELECT DISTINCT s."Day", s."ID" FROM "_ETL_STAGE" AS s)'
    )
    assert dialect.truncate("t") == 'DELETE FROM "T"'
