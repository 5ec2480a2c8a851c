"""Secrets stay where they are: in no message, no variable that a traceback shows, and on no wire that anybody reads."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from blocks import ConnectorError, InvalidInputError, RetryPolicy
from blocks.base.addresses import is_this_machine
from blocks.credentials import (
    AwsCredentials,
    AzureBlobStorageCredentials,
    DbtCloudCredentials,
    GcpCredentials,
    SnowflakeCredentials,
)
from connectors.azure import AzureBlobContainer
from connectors.bigquery import BigQuery
from connectors.duckdb import DuckDB
from connectors.gcs import GcsBucket
from connectors.postgres import Postgres
from connectors.redshift import Redshift
from connectors.s3 import S3Bucket
from connectors.snowflake import Snowflake
from tests.shown import shown, shown_by_rich

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "hunter2-MARKER"
ONCE = RetryPolicy(attempts=1)
REMOTE = "http://192.0.2.1:9"
KEYS = {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}


MISPLACED: dict[str, Callable[[], Any]] = {
    "a field that is misspelt": lambda: Postgres(passwrd=SECRET),
    "beside a field that is wrong": lambda: Postgres(password=SECRET, port="many"),
    "as the value of another": lambda: Postgres(ssl_mode=SECRET),
    "a URL as the host": lambda: Postgres(host=f"postgresql://me:{SECRET}@db/shop"),
    "user and host": lambda: Postgres(host=f"me:{SECRET}@db"),
    "NUL in a password": lambda: Postgres(password=f"{SECRET}\0"),
    "half a character in a password": lambda: Postgres(password=f"{SECRET}\ud800"),
    "a URL as Redshift's host": lambda: Redshift(host=f"redshift://me:{SECRET}@db/shop", staging="etl-s3-bucket/x"),
    "in an endpoint of AWS": lambda: AwsCredentials(endpoint_url=f"http://me:{SECRET}@minio:9000"),
    "in an endpoint without its scheme": lambda: AwsCredentials(endpoint_url=f"me:{SECRET}@minio:9000"),
    "in an endpoint of Google": lambda: GcpCredentials(endpoint_url=f"https://me:{SECRET}@gcs"),
    "in an account of Azure": lambda: AzureBlobStorageCredentials(account_url=f"https://me:{SECRET}@a.blob.core.x"),
    "a SAS token in an account of Azure": lambda: AzureBlobStorageCredentials(account_url=f"https://a.x?sig={SECRET}"),
    "a broken connection string": lambda: AzureBlobStorageCredentials(connection_string=f"AccountKey={SECRET}"),
    "in a domain of dbt Cloud": lambda: DbtCloudCredentials(
        api_key="k", account_id=1, domain=f"https://me:{SECRET}@dbt"
    ),
    "in an address of dbt Cloud": lambda: DbtCloudCredentials(
        api_key="k", account_id=1, api_endpoint=f"https://me:{SECRET}@dbt"
    ),
    "a key of dbt Cloud that is none": lambda: DbtCloudCredentials(api_key=f"{SECRET} x", account_id=1),
    "in a host of Snowflake": lambda: SnowflakeCredentials(account="a", user="u", password="p", host=f"u:{SECRET}@x"),
    "a URL as Snowflake's account": lambda: SnowflakeCredentials(
        account=f"https://u:{SECRET}@a.x", user="u", password="p"
    ),
    "in an address of BigQuery's": lambda: BigQuery(dataset="d", storage_endpoint_url=f"https://me:{SECRET}@x"),
    "a service account that is none": lambda: GcpCredentials(service_account_info=f'{{"private_key": "{SECRET}'),
    "a list where a block belongs": lambda: Snowflake(credentials=[SECRET], database="d"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_a_secret_that_is_misplaced_is_not_shown(case: str) -> None:
    """Not in the error's words, its details, its chain, or the variables of its frames."""
    with pytest.raises(ValidationError) as caught:
        MISPLACED[case]()
    assert SECRET not in f"{caught.value} {caught.value.errors()} {shown(caught.value)}"


def azure(**fields: Any) -> AzureBlobStorageCredentials:
    return AzureBlobStorageCredentials(**fields)


UNREACHABLE: dict[str, Callable[[], Any]] = {
    "postgres": lambda: Postgres(
        host="127.0.0.1", port=9, username="me", password=SECRET, retry=ONCE, connect_timeout_s=1
    ),
    "postgres by ADBC": lambda: Postgres(host="127.0.0.1", port=9, password=SECRET, retry=ONCE, connect_timeout_s=1),
    "redshift": lambda: Redshift(
        host="127.0.0.1", port=9, password=SECRET, staging="etl-s3-bucket/x", retry=ONCE, connect_timeout_s=1
    ),
    "snowflake": lambda: Snowflake(
        credentials=SnowflakeCredentials(
            account="a", user="me", password=SECRET, host="127.0.0.1", port=9, protocol="http"
        ),
        database="d",
        login_timeout_s=1,
        retry=ONCE,
    ),
    "bigquery": lambda: BigQuery(
        gcp_credentials=GcpCredentials(access_token=SECRET, endpoint_url="http://127.0.0.1:9", project="p"),
        dataset="d",
        retry=ONCE.model_copy(update={"deadline_s": 1.0}),
    ),
    "s3": lambda: S3Bucket(
        bucket_name="raw",
        credentials=AwsCredentials(endpoint_url="http://127.0.0.1:9", aws_session_token=SECRET, **KEYS),
        retry=ONCE,
    ),
    "gcs": lambda: GcsBucket(
        bucket="raw", gcp_credentials=GcpCredentials(access_token=SECRET, endpoint_url="http://127.0.0.1:9"), retry=ONCE
    ),
    "azure": lambda: AzureBlobContainer(
        container_name="raw",
        credentials=azure(account_url="http://127.0.0.1:9/a", sas_token=f"sv=1&sig={SECRET}"),
        retry=ONCE,
    ),
    "dbt cloud": lambda: DbtCloudCredentials(api_key=SECRET, account_id=1, api_endpoint="http://127.0.0.1:9"),
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_a_connection_that_fails_shows_no_secret(case: str) -> None:
    """Each identity of each block, where its server does not answer."""
    block = UNREACHABLE[case]()
    with pytest.raises(ConnectorError) as caught:
        block.load([{"a": 1}], "t") if "ADBC" in case else block.check()
    assert "\n" not in str(caught.value)
    assert SECRET not in shown(caught.value) + shown_by_rich(caught.value)


PLAIN: dict[str, Callable[[], Any]] = {
    "aws": lambda: AwsCredentials(endpoint_url=REMOTE, **KEYS).get_client("sqs"),
    "aws, of the environment": lambda: AwsCredentials(**KEYS).get_client("s3"),
    "aws, a role": lambda: AwsCredentials(endpoint_url=REMOTE, assume_role_arn="arn:aws:iam::1:role/r", **KEYS).check(),
    "s3": lambda: bucket(REMOTE).read_path("a"),
    "s3, a list": lambda: bucket(REMOTE).list_objects(),
    "s3, a URL": lambda: bucket(REMOTE).presigned_url("a"),
    "s3, its resource": lambda: bucket(REMOTE).get_bucket(),
    "gcs": lambda: GcsBucket(
        bucket="raw", gcp_credentials=GcpCredentials(access_token=SECRET, endpoint_url=REMOTE), retry=ONCE
    ).read_path("a"),
    "gcs, of the environment": lambda: GcpCredentials(access_token=SECRET).get_cloud_storage_client(),
    "bigquery": lambda: GcpCredentials(access_token=SECRET, endpoint_url=REMOTE, project="p").get_bigquery_client(),
    "secret manager": lambda: GcpCredentials(access_token=SECRET, endpoint_url=REMOTE).get_secret_manager_client(),
    "azure": lambda: AzureBlobContainer(
        container_name="raw", credentials=azure(account_url=f"{REMOTE}/a", sas_token=f"sig={SECRET}"), retry=ONCE
    ).read_path("a"),
    "azure, a connection string": lambda: azure(
        connection_string=f"AccountName=a;AccountKey=eA==;BlobEndpoint={REMOTE}/a"
    ).check(),
    "snowflake": lambda: SnowflakeCredentials(
        account="a", user="u", password=SECRET, host="192.0.2.1", port=9, protocol="http"
    ).get_client(),
}


def bucket(endpoint: str, **fields: Any) -> S3Bucket:
    credentials = AwsCredentials(endpoint_url=endpoint, aws_session_token=SECRET, **KEYS, **fields)
    return S3Bucket(bucket_name="raw", credentials=credentials, retry=ONCE)


@pytest.mark.parametrize("case", PLAIN)
def test_no_secret_goes_over_a_network_in_clear(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain http:// address of another machine is refused before anything is sent, whoever names it."""
    if "environment" in case:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3" if "aws" in case else "STORAGE_EMULATOR_HOST", REMOTE)
    with pytest.raises(
        InvalidInputError, match=r"Nothing was sent to http://192\.0\.2\.1:9: .* Use https://"
    ) as caught:
        PLAIN[case]()
    assert SECRET not in shown(caught.value)


def test_a_field_allows_it_and_this_machine_needs_none() -> None:
    """Private networks are a choice that somebody makes; what stays on this machine is not sent."""
    assert AwsCredentials(endpoint_url=REMOTE, allow_http=True, **KEYS).get_client("s3").meta.endpoint_url == REMOTE
    assert AwsCredentials(endpoint_url="http://localhost:9", **KEYS).get_client("s3")
    assert azure(account_url=f"{REMOTE}/a", account_key="eA==", allow_http=True).account().url == f"{REMOTE}/a"
    assert GcpCredentials(anonymous=True, endpoint_url=REMOTE).get_cloud_storage_client()
    machines = ("localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "a.localhost")
    assert all(map(is_this_machine, machines))
    others = ("minio", "10.0.0.1", "localhost.example.com", "::2", "127.0.0.1.example.com")
    assert not any(map(is_this_machine, others))


class Redirecting(ThreadingHTTPServer):
    """Answers each request with a redirect to another server, or, without one, remembers it."""

    def __init__(self, other: str = "") -> None:
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                server.requests.append(f"{self.command} {self.path} {self.headers}")
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(307 if other else 404)
                if other:
                    self.send_header("Location", other + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 (the names of http.server)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


@pytest.fixture
def redirected() -> Iterator[tuple[str, Redirecting]]:
    """The address of a server that points to another one, and that one."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(Redirecting())
        stack.callback(other.shutdown)
        server = stack.enter_context(Redirecting(f"http://localhost:{other.port}"))
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.port}", other


REQUESTS: dict[str, Callable[[S3Bucket], Any]] = {
    "read": lambda bucket: bucket.read_path("a"),
    "write": lambda bucket: bucket.write_path("a", b"x"),
    "list": lambda bucket: bucket.list_objects(),
    "head": lambda bucket: bucket.head_object("a"),
    "delete": lambda bucket: bucket.delete_objects(["a"]),
    "copy": lambda bucket: bucket.copy_object("a", "b"),
    "check": lambda bucket: bucket.check(),
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_redirect_to_another_server_is_not_followed(request_: str, redirected: tuple[str, Redirecting]) -> None:
    """It would be given the session token; what the user reads is that the server points elsewhere."""
    address, other = redirected
    with pytest.raises(ConnectorError, match="points to another one: give that as endpoint_url") as caught:
        REQUESTS[request_](bucket(address))
    assert other.requests == []
    assert SECRET not in shown(caught.value)


def test_a_redirect_gives_no_signature_away(redirected: tuple[str, Redirecting]) -> None:
    """Where there is no session token, objects are read by a driver that follows redirects, without the signature."""
    address, other = redirected
    with pytest.raises(ConnectorError):
        S3Bucket(bucket_name="raw", credentials=AwsCredentials(endpoint_url=address, **KEYS), retry=ONCE).read_path("a")
    assert "AKIA" not in "".join(other.requests)


def test_rows_are_in_no_variable_of_a_traceback(tmp_path: Any) -> None:
    """What was to be loaded is not what an error is about: the frames that had it in hand are emptied."""
    warehouse = DuckDB(path=str(tmp_path / "w.duckdb"))
    warehouse.execute("CREATE TABLE t (a INTEGER CHECK (a < 5))")
    with pytest.raises(ConnectorError) as caught:
        warehouse.load([{"a": 12345678}], "t")
    assert "12345678" not in shown(caught.value)
    with pytest.raises(ConnectorError) as caught:
        warehouse.fetch_all("select cast(:x as integer)", {"x": SECRET})
    assert SECRET not in shown(caught.value)
