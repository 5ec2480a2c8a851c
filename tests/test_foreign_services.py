"""Foreign answers: what a service, or something in front of it, may say that is nothing of its own."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from blocks import ConnectorError, RetryPolicy
from blocks.credentials import AwsCredentials, AzureBlobStorageCredentials, DbtCloudCredentials, GcpCredentials
from connectors.aws_lambda import LambdaFunction
from connectors.aws_secret import AwsSecret
from connectors.azure import AzureBlobContainer
from connectors.batch import BatchJob
from connectors.bigquery import BigQuery
from connectors.dbt_cloud import DbtCloudJob
from connectors.ecs import EcsTask
from connectors.gcp_secret import GcpSecret
from connectors.gcs import GcsBucket
from connectors.glue import GlueJob
from connectors.s3 import S3Bucket
from tests.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "secret-9d2e"
ONCE = RetryPolicy(attempts=1)
LINES = "a\n12:00 | INFO | all is well\r\x1b[2K"
ANSWERS: dict[str, tuple[int, str]] = {
    "nothing": (200, ""),
    "a page": (200, "<html><body>Log in</body></html>"),
    "a number": (200, "42"),
    "an empty list": (200, "[]"),
    "an empty object": (200, "{}"),
    "half an object": (200, '{"a": '),
    "lines of a log": (400, f'{{"error": {{"message": "{LINES}"}}, "message": "{LINES}"}}'),
    "lines of a log in XML": (400, f"<Error><Code>Odd\nCode</Code><Message>{LINES}</Message></Error>"),
    "what was sent": (403, f"<Error><Code>AccessDenied</Code><Message>token {SECRET}</Message></Error>"),
    "what was sent as JSON": (401, f'{{"error": {{"message": "{SECRET}"}}, "message": "{SECRET}"}}'),
    "no such thing": (404, "\0\1\2"),
    "a teapot": (418, "I'm a teapot\n\n\n"),
    "not to be served": (501, "no"),
}


class Answering(ThreadingHTTPServer):
    """Answers each request with the same."""

    def __init__(self) -> None:
        self.answer = (200, "")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = server.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(b"" if self.command == "HEAD" else body.encode())

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = respond  # noqa: N815 (http.server's names)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with Answering() as running:
        yield running
        running.shutdown()


def aws(url: str) -> AwsCredentials:
    keys = {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET, "aws_session_token": SECRET}
    return AwsCredentials(**keys, region_name="us-east-1", endpoint_url=url)


def google(url: str) -> GcpCredentials:
    return GcpCredentials(access_token=SECRET, endpoint_url=url, project="p")


CALLS: dict[str, Callable[[str], Callable[[], Any]]] = {
    "lambda": lambda url: LambdaFunction(aws_credentials=aws(url), function_name="f", retry=ONCE).invoke,
    "lambda, check": lambda url: LambdaFunction(aws_credentials=aws(url), function_name="f", retry=ONCE).check,
    "secret": lambda url: AwsSecret(aws_credentials=aws(url), secret_name="s", retry=ONCE).read_secret,
    "secret, check": lambda url: AwsSecret(aws_credentials=aws(url), secret_name="s", retry=ONCE).check,
    "batch": lambda url: (
        BatchJob(aws_credentials=aws(url), job_name="j", job_queue="q", job_definition="d", retry=ONCE).check
    ),
    "ecs": lambda url: EcsTask(aws_credentials=aws(url), task_definition="t", retry=ONCE).check,
    "glue": lambda url: GlueJob(aws_credentials=aws(url), job_name="j", retry=ONCE).check,
    "aws": lambda url: aws(url).check,
    "s3, read": lambda url: lambda: S3Bucket(bucket_name="raw", credentials=aws(url), retry=ONCE).head_object("a"),
    "s3, list": lambda url: S3Bucket(bucket_name="raw", credentials=aws(url), retry=ONCE).list_objects,
    "gcs, head": lambda url: lambda: GcsBucket(bucket="raw", gcp_credentials=google(url), retry=ONCE).head_object("a"),
    "gcs, list": lambda url: GcsBucket(bucket="raw", gcp_credentials=google(url), retry=ONCE).list_objects,
    "bigquery": lambda url: BigQuery(gcp_credentials=google(url), dataset="d", retry=ONCE).check,
    "google secret": lambda url: GcpSecret(gcp_credentials=google(url), secret_name="s", retry=ONCE).read_secret,
    "azure, list": lambda url: (
        AzureBlobContainer(
            container_name="raw",
            credentials=AzureBlobStorageCredentials(account_url=f"{url}/a", sas_token=f"sig={SECRET}"),
            retry=ONCE,
        ).list_objects
    ),
    "dbt cloud": lambda url: (
        DbtCloudJob(
            dbt_cloud_credentials=DbtCloudCredentials(api_key=SECRET, account_id=1, api_endpoint=url),
            job_id=1,
            retry=ONCE,
        ).check
    ),
}


EVERY_RUN = ("azure, list", "dbt cloud", "secret")


@pytest.mark.parametrize(
    "call", [each if each in EVERY_RUN else pytest.param(each, marks=pytest.mark.thorough) for each in CALLS]
)
def test_a_foreign_answer_is_an_error_of_ours(call: str, server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one line, without what was sent; or it is taken for what it may be, such as an empty list."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, answer in ANSWERS.items():
        server.answer = answer
        try:
            CALLS[call](server.url)()
        except ConnectorError as error:
            found = error
        else:
            assert answer[0] == 200, (name, "was taken for an answer")
            continue
        assert len(str(found).splitlines()) == 1, name
        assert str(found).isprintable(), name
        assert SECRET not in shown(found), name
