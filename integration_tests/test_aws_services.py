"""AwsSecret, LambdaFunction, EcsTask, BatchJob and GlueJob over the wire, on a stand-in for AWS."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import pickle
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from prefect import flow
from pydantic import ValidationError

from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    NotStartedError,
    TerminalError,
    TransientError,
)
from blocks.base.retry import RetryPolicy
from blocks.credentials.aws import AwsCredentials
from connectors import aws_lambda, aws_parameter, aws_secret, batch, ecs, glue
from connectors.aws_lambda import FunctionError, InvocationResult, LambdaFunction
from connectors.aws_parameter import AwsParameter
from connectors.aws_secret import AwsSecret
from connectors.batch import BatchJob
from connectors.ecs import EcsTask
from connectors.glue import GlueJob
from integration_tests.standins.aws import LOG, REGION
from tests.contracts.job import *  # noqa: F403
from tests.contracts.job import FOREVER, JobService, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blocks.jobs.job import Job
    from integration_tests.standins.aws import AwsServer

KEYS = {"aws_access_key_id": "id", "aws_secret_access_key": "secret"}
AT_ONCE = RetryPolicy(attempts=4, first_delay_s=0)
CANARY = f"canary-{uuid.uuid4().hex}"


@pytest.fixture
def aws(aws_server: AwsServer) -> AwsServer:
    """The stand-in, with nothing planned."""
    aws_server.reset()
    return aws_server


@pytest.fixture(autouse=True)
def _no_tries_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries are ours alone, so that none waits; `botocore_tries` brings the driver's own back."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.fixture
def botocore_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")


@pytest.fixture(scope="module")
def credentials(aws_server: AwsServer) -> AwsCredentials:
    return AwsCredentials(**KEYS, region_name=REGION, endpoint_url=aws_server.url)


@pytest.fixture(scope="module")
def client(credentials: AwsCredentials) -> Callable[[str], Any]:
    """boto3 clients of the stand-in, for what a test arranges or looks at."""
    return functools.cache(credentials.get_client)


def everything_of(error: BaseException | None) -> str:
    """All that a traceback of the error would show."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


@pytest.mark.parametrize(("module", "service"), [
    (aws_lambda, "lambda"), (aws_parameter, "ssm"), (aws_secret, "secretsmanager"),
    (batch, "batch"), (ecs, "ecs"), (glue, "glue"),
])  # fmt: skip
def test_every_error_of_the_service_has_a_class(module: Any, service: str, client: Callable[[str], Any]) -> None:
    """No exception that the service's own model names for the calls made here falls through the table."""
    source = inspect.getsource(module)
    model = client(service).meta.service_model
    unmapped = {
        shape.name
        for name, method in ((name, boto3_name(name)) for name in model.operation_names)
        if f".{method}(" in source
        for shape in model.operation_model(name).error_shapes
    } - set(module.ERRORS)
    # The first goes by its HTTP status, the second is for executions that got a name, which none gets here.
    assert unmapped <= {"ServiceException", "DurableExecutionAlreadyStartedException"}


def boto3_name(operation: str) -> str:
    from botocore import xform_name

    return str(xform_name(operation))


# Secrets


@pytest.fixture
def secret(credentials: AwsCredentials) -> AwsSecret:
    return AwsSecret(aws_credentials=credentials, secret_name=f"db-{uuid.uuid4().hex}", retry=AT_ONCE)


def versions(client: Callable[[str], Any], secret: AwsSecret) -> int:
    found = client("secretsmanager").list_secret_version_ids(SecretId=secret.secret_name, IncludeDeprecated=True)
    return len(found["Versions"])


def test_a_secret_is_written_read_and_deleted(aws: AwsServer, secret: AwsSecret, client: Callable[[str], Any]) -> None:
    """The first write creates it, the next makes a new version, and the one before can still be read."""
    assert secret.write_secret(b"\x00first") == secret.write_secret(b"second")
    assert secret.read_secret() == b"second"  # bytes over bytes stay bytes
    assert secret.read_secret(version_stage="AWSPREVIOUS") == b"\x00first"
    ids = client("secretsmanager").describe_secret(SecretId=secret.secret_name)["VersionIdsToStages"]
    previous = next(key for key, stages in ids.items() if "AWSPREVIOUS" in stages)
    assert secret.read_secret(version_id=previous) == b"\x00first"
    assert "is there" in secret.check()
    arn = secret.delete_secret()
    assert secret.secret_name in arn
    assert secret.delete_secret(recovery_window_in_days=7) == arn  # as a retry would
    with pytest.raises(NotFoundError, match=r"scheduled for deletion"):
        secret.check()
    aws.refuse_call("PutSecretValue", "InvalidRequestException", "It was marked for deletion.")  # moto writes it
    with pytest.raises(InvalidInputError, match="restore it first"):
        secret.write_secret(b"third")
    assert secret.delete_secret(force_delete_without_recovery=True) == arn
    with pytest.raises(NotFoundError, match="Check secret_name"):
        secret.read_secret()


def test_a_secret_that_is_text_is_read_as_text(secret: AwsSecret, client: Callable[[str], Any]) -> None:
    """As the console and most tools store it, and as prefect-aws reads it."""
    client("secretsmanager").create_secret(Name=secret.secret_name, SecretString='{"pässword": 1}')
    assert secret.read_secret() == '{"pässword": 1}'


def test_text_stays_text(aws: AwsServer, secret: AwsSecret, client: Callable[[str], Any]) -> None:
    """Other readers look for SecretString where it was; a str is text, and bytes that are none are binary."""
    get = functools.partial(client("secretsmanager").get_secret_value, SecretId=secret.secret_name)
    client("secretsmanager").create_secret(Name=secret.secret_name, SecretString="before")
    secret.write_secret("pässword".encode())
    assert get()["SecretString"] == "pässword"
    assert "SecretBinary" not in get()
    secret.write_secret(b"\xff")
    assert get()["SecretBinary"] == b"\xff"
    secret.write_secret(b"over bytes")
    assert get()["SecretBinary"] == b"over bytes"
    secret.write_secret("text")
    assert get()["SecretString"] == "text"
    secret.write_secret(b"x", kind="binary")
    assert get()["SecretBinary"] == b"x"
    aws.refuse_call("GetSecretValue", "AccessDeniedException", "no", times=2)
    with pytest.raises(AccessDeniedError, match=r"needs secretsmanager:GetSecretValue.*pass a str, or kind='binary'"):
        secret.write_secret(b"y")
    aws.reset()
    aws.refuse_call("GetSecretValue", "AccessDeniedException", "no")
    secret.write_secret(b"y", kind="text")
    aws.reset()
    assert get()["SecretString"] == "y"
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        secret.write_secret(b"\xff", kind="text")


WHAT_AWS_SAYS = [
    (
        "GetSecretValue",
        "AccessDeniedException",
        "Access to KMS is not allowed",
        "needs kms:Decrypt",
    ),
    ("PutSecretValue", "AccessDeniedException", "Access to KMS is not allowed", "needs kms:GenerateDataKey"),
    (
        "GetSecretValue",
        "ResourceNotFoundException",
        "Secrets Manager can't find the specified secret value for staging label: x",
        "Check version_id and version_stage",
    ),
    (
        "GetSecretValue",
        "ResourceNotFoundException",
        "Secrets Manager can't find the specified secret.",
        "Check secret_name",
    ),
    (
        "GetSecretValue",
        "InvalidRequestException",
        "You provided a VersionStage that is not associated to the provided VersionId.",
        "Check version_id and version_stage",
    ),
    ("GetSecretValue", "InvalidRequestException", "It was marked for deletion.", "restore it first"),
    (
        "GetSecretValue",
        "AccessDeniedException",
        "User: x is not authorized to perform: secretsmanager:DescribeSecret on resource: y",
        "needs secretsmanager:DescribeSecret",
    ),
]


@pytest.mark.parametrize("case", WHAT_AWS_SAYS)
def test_advice_is_for_what_the_service_said(
    aws: AwsServer, secret: AwsSecret, case: tuple[str, str, str, str]
) -> None:
    """One code stands for several things; the words tell them apart, and are in the message."""
    action, code, words, advice = case
    aws.refuse_call(action, code, words)
    with pytest.raises(ConnectorError, match=advice) as caught:
        secret.read_secret() if action == "GetSecretValue" else secret.write_secret("x")
    masked = re.sub(r"\bsecret\b", "***", words.rstrip("."))  # the secret key of these tests is "secret"
    assert masked in str(caught.value)


def test_an_empty_secret_is_refused(aws: AwsServer, secret: AwsSecret) -> None:
    """Before anything is asked, and as what it is."""
    for empty in (b"", ""):
        with pytest.raises(InvalidInputError, match="the value is empty"):
            secret.write_secret(empty)
    assert not aws.calls


@pytest.mark.parametrize("exists", [True, False])
def test_a_lost_answer_makes_no_second_version(
    aws: AwsServer, secret: AwsSecret, client: Callable[[str], Any], exists: bool
) -> None:
    """The version's id is fixed before the first try, so that the service recognises the next."""
    action = "PutSecretValue" if exists else "CreateSecret"
    if exists:
        secret.write_secret(b"before")
    aws.lose_answer(action, times=2)
    secret.write_secret(b"after")
    assert aws.calls["PutSecretValue"] == (4 if exists else 2)
    assert (secret.read_secret(), versions(client, secret)) == (b"after", 2 if exists else 1)


def test_a_window_that_is_no_window_is_refused(aws: AwsServer, secret: AwsSecret) -> None:
    """Before anything is asked."""
    for days in (0, 6, 31):
        with pytest.raises(InvalidInputError, match=f"from 7 to 30, not {days}"):
            secret.delete_secret(recovery_window_in_days=days)
    assert aws.calls["DeleteSecret"] == 0


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ("GetSecretValue", lambda secret: secret.read_secret()),
        ("PutSecretValue", lambda secret: secret.write_secret(b"x")),
        ("DeleteSecret", lambda secret: secret.delete_secret()),
        ("DescribeSecret", lambda secret: secret.check()),
    ],
)
def test_a_right_that_is_missing_is_named(
    aws: AwsServer, secret: AwsSecret, action: str, call: Callable[[AwsSecret], Any]
) -> None:
    """The message says which IAM action the identity needs."""
    aws.refuse_call(action, "AccessDeniedException", "User: x is not authorized")
    with pytest.raises(AccessDeniedError, match=f"needs secretsmanager:{action}"):
        call(secret)


def test_throttled_secrets_are_tried_again(aws: AwsServer, secret: AwsSecret) -> None:
    """By the block's policy."""
    secret.write_secret(b"x")
    aws.refuse_call("GetSecretValue", "ThrottlingException", "Rate exceeded", times=3)
    assert secret.read_secret() == b"x"


def test_secrets_show_nowhere(
    aws: AwsServer, secret: AwsSecret, prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In no log, of ours or of others, in no error, and not in what Prefect prints of a flow."""
    assert prefect_server
    caplog.set_level(logging.INFO)

    @flow
    def rotate() -> int:
        secret.write_secret(CANARY.encode())
        return len(secret.read_secret())

    assert rotate() == len(CANARY)
    aws.refuse_call("PutSecretValue", "InvalidParameterException", "bad value")
    with pytest.raises(InvalidInputError) as refused:
        secret.write_secret(CANARY.encode())
    with pytest.raises(InvalidInputError, match="secret_data is bytes") as wrong:
        secret.write_secret({"password": CANARY})  # type: ignore[arg-type]
    for text in (caplog.text, everything_of(refused.value), everything_of(wrong.value), repr(secret)):
        assert CANARY not in text


# Parameters


@pytest.fixture
def parameter(credentials: AwsCredentials) -> AwsParameter:
    return AwsParameter(aws_credentials=credentials, parameter_name=f"/shop/{uuid.uuid4().hex}", retry=AT_ONCE)


def test_a_parameter_is_written_read_and_deleted(parameter: AwsParameter) -> None:
    """Each write is a version, encrypted by default; versions are read by number and by label."""
    assert (parameter.write_parameter("first", label="prod"), parameter.write_parameter("zweites ä")) == (1, 2)
    assert parameter.read_parameter() == "zweites ä"
    assert parameter.read_secret() == "zweites ä".encode()
    assert parameter.read_parameter(version=1) == parameter.read_parameter(label="prod") == "first"
    assert parameter.list_versions() == {1: ["prod"], 2: []}
    assert parameter.label_version("prod") == 2
    assert parameter.read_parameter(label="prod") == "zweites ä"
    assert parameter.check().endswith("is there as SecureString, version 2.")
    assert parameter.write_secret(b"third") == f"{parameter.parameter_name}:3"
    parameter.delete_parameter()
    parameter.delete_parameter()
    for call in (parameter.read_parameter, parameter.check, parameter.list_versions):
        with pytest.raises(NotFoundError, match="Check parameter_name"):
            call()


def test_a_parameter_keeps_its_type(parameter: AwsParameter, client: Callable[[str], Any]) -> None:
    """As its other readers know it; a new one has that of the block."""
    client("ssm").put_parameter(Name=parameter.parameter_name, Value="a,b", Type="StringList")
    parameter.write_parameter("a,b,c")
    assert client("ssm").get_parameter(Name=parameter.parameter_name)["Parameter"]["Type"] == "StringList"
    other = parameter.model_copy(update={"parameter_name": "/plain", "parameter_type": "String"})
    other.write_parameter("x")
    assert client("ssm").get_parameter(Name="/plain")["Parameter"]["Type"] == "String"


@pytest.mark.usefixtures("botocore_tries")
def test_a_lost_answer_makes_no_second_version_of_a_parameter(aws: AwsServer, parameter: AwsParameter) -> None:
    """It is read again before it is written again; one that was refused is written."""
    aws.lose_answer("PutParameter")
    assert parameter.write_parameter("x") == 1
    aws.refuse_call("PutParameter", "InternalServerError", "oops", status=500, times=2)
    aws.refuse_call("PutParameter", "TooManyUpdates", "slow")
    assert parameter.write_parameter("y") == 2
    aws.lose_answer("PutParameter")
    aws.change_answer("GetParameter", lambda _: None)
    aws.refuse_call("GetParameter", "AccessDeniedException", "no")
    with pytest.raises(AmbiguousError, match="may have been written"):
        parameter.write_parameter("z")
    assert list(parameter.list_versions()) == [1, 2, 3]


def test_wrong_parameters_are_refused(aws: AwsServer, parameter: AwsParameter) -> None:
    """Each with the right advice, and never with the value."""
    for empty in ("", b""):
        with pytest.raises(InvalidInputError, match="the value is empty"):
            parameter.write_secret(empty)
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        parameter.write_secret(b"\xff")
    with pytest.raises(InvalidInputError, match="a version or a label"):
        parameter.read_parameter(version=1, label="x")
    parameter.write_parameter("x")
    with pytest.raises(InvalidInputError, match="is not a label"):
        parameter.label_version("aws-label")
    with pytest.raises(NotFoundError):
        parameter.read_parameter(version=7)
    aws.refuse_call("GetParameter", "AccessDeniedException", "The ciphertext refers to a KMS key that you may not use")
    with pytest.raises(AccessDeniedError, match="needs kms:Decrypt on the parameter's key"):
        parameter.read_parameter()
    aws.refuse_call("GetParameter", "AccessDeniedException", "no")
    with pytest.raises(AccessDeniedError, match="needs ssm:GetParameter"):
        parameter.read_parameter()
    aws.refuse_call("PutParameter", "ValidationException", f"{CANARY} does not fit")
    with pytest.raises(InvalidInputError) as caught:
        parameter.write_parameter(CANARY)
    assert CANARY not in everything_of(caught.value)


# Lambda


@pytest.fixture
def function(credentials: AwsCredentials) -> Callable[..., LambdaFunction]:
    def make(name: str, **fields: Any) -> LambdaFunction:
        return LambdaFunction(aws_credentials=credentials, function_name=name, retry=AT_ONCE, **fields)

    return make


def test_a_function_answers(function: Callable[..., LambdaFunction]) -> None:
    """The payload goes and comes as JSON, the client's context in base64, and the log where it is asked for."""
    result = function("echo", qualifier="7").invoke({"day": [1, "ä"]}, tail=True, client_context={"custom": {}})
    assert result.payload == {"payload": {"day": [1, "ä"]}, "context": "eyJjdXN0b20iOiB7fX0="}
    assert (result.status_code, result.log_tail, result.executed_version) == (200, LOG.decode(), "7")
    assert function("echo").invoke() == InvocationResult(200, {"payload": None, "context": None}, None, "$LATEST")


def test_other_kinds_of_invocation(function: Callable[..., LambdaFunction]) -> None:
    """One that is queued, and one that only proves that it could be."""
    assert function("echo").invoke({"x": 1}, invocation_type="Event") == InvocationResult(202)
    assert function("echo").invoke({"x": 1}, "DryRun") == InvocationResult(204)
    assert "may invoke it" in function("echo").check()


@pytest.mark.parametrize(("name", "error_type"), [("raises", "KeyError"), ("exits", "Runtime.ExitError")])
def test_a_function_that_fails_raises(
    aws: AwsServer, function: Callable[..., LambdaFunction], name: str, error_type: str
) -> None:
    """Once; the message names function and type, and nothing of what the function got or said."""
    with pytest.raises(FunctionError, match=f"function {name} failed with {error_type} .unhandled.") as caught:
        function(name).invoke({"row": CANARY})
    assert aws.calls["Invoke"] == 1
    assert CANARY not in everything_of(caught.value) + repr(caught.value.result)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (our own)
    assert (copy.error_type, CANARY in copy.result.payload["errorMessage"]) == (error_type, True)


@pytest.mark.parametrize("code", ["TooManyRequestsException", "EC2ThrottledException", "ENINotReadyException"])
@pytest.mark.usefixtures("botocore_tries")
def test_what_was_refused_before_it_ran_is_tried_again(
    aws: AwsServer, function: Callable[..., LambdaFunction], code: str
) -> None:
    """Throttled, or not ready yet: nothing has happened, and each try is one request."""
    aws.refuse_call("Invoke", code, "not now", status=429 if "Many" in code else 502, times=3)
    assert function("echo").invoke(1).payload["payload"] == 1
    assert (aws.calls["Invoke"], aws.done["Invoke"]) == (4, 1)


@pytest.mark.usefixtures("botocore_tries")
def test_a_lost_answer_is_not_asked_for_twice(aws: AwsServer, function: Callable[..., LambdaFunction]) -> None:
    """The function may have run: neither botocore nor we invoke it again, unless the caller says that it may be."""
    aws.lose_answer("Invoke")
    with pytest.raises(AmbiguousError, match="may have run"):
        function("echo").invoke(1)
    assert aws.done["Invoke"] == 1
    aws.refuse_call("Invoke", "ServiceException", "oops", status=500)
    with pytest.raises(AmbiguousError):
        function("echo").invoke(1)
    aws.lose_answer("Invoke", times=2)
    assert function("echo").invoke(1, idempotent=True).payload["payload"] == 1


def test_a_function_that_cannot_be_reached_did_not_run() -> None:
    """A connection that was never made is tried again."""
    nowhere = AwsCredentials(**KEYS, region_name=REGION, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(NotStartedError, match="endpoint_url"):
        LambdaFunction(aws_credentials=nowhere, function_name="echo", retry=AT_ONCE).invoke()


def test_wrong_functions(function: Callable[..., LambdaFunction]) -> None:
    """A name that is not there, a right that is missing, a payload that JSON cannot hold."""
    with pytest.raises(NotFoundError, match="Check function_name"):
        function("missing").check()
    with pytest.raises(AccessDeniedError, match="needs lambda:InvokeFunction"):
        function("forbidden").invoke()
    for payload in ({"x": object()}, float("nan")):
        with pytest.raises(InvalidInputError, match="JSON cannot hold payload"):
            function("echo").invoke(payload)
    with pytest.raises(InvalidInputError, match="3583 bytes"):
        function("echo").invoke(client_context={"x": "y" * 3000})


def test_payloads_show_nowhere(
    aws: AwsServer, function: Callable[..., LambdaFunction], caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the log, and not where Lambda repeats a piece of it in its own words."""
    caplog.set_level(logging.INFO)
    function("echo").invoke({"password": CANARY}, client_context={"token": CANARY})
    aws.refuse_call("Invoke", "InvalidRequestContentException", f"Could not parse '{CANARY}'")
    with pytest.raises(InvalidInputError, match=r"Could not parse '\*\*\*'") as caught:
        function("echo").invoke({"password": CANARY})
    assert CANARY not in caplog.text + everything_of(caught.value)


# Jobs


@pytest.fixture
def task(credentials: AwsCredentials, client: Callable[[str], Any]) -> EcsTask:
    """A task of one container that counts and one beside it; moto shows the first one only."""
    family, service = f"load-{uuid.uuid4().hex[:8]}", client("ecs")
    service.create_cluster(clusterName="jobs")
    containers: list[dict[str, Any]] = [
        {"name": "main", "image": "load", "memory": 64},
        {"name": "sidecar", "image": "log", "memory": 64, "essential": False},
    ]
    service.register_task_definition(family=family, containerDefinitions=containers)
    return EcsTask(
        aws_credentials=credentials,
        task_definition=family,
        cluster="jobs",
        launch_type="FARGATE",
        retry=AT_ONCE,
        job_watch_poll_interval=0.001,
    )


@pytest.fixture
def batch_job(credentials: AwsCredentials, client: Callable[[str], Any]) -> BatchJob:
    name, service = f"load-{uuid.uuid4().hex[:8]}", client("batch")
    document = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    service.create_compute_environment(computeEnvironmentName=name, type="UNMANAGED", state="ENABLED", serviceRole=role)
    order = [{"order": 1, "computeEnvironment": name}]
    service.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    container = {"image": "load", "vcpus": 1, "memory": 64, "command": ["load", "Ref::day"]}
    service.register_job_definition(jobDefinitionName=name, type="container", containerProperties=container)
    return BatchJob(
        aws_credentials=credentials,
        job_name=name,
        job_queue=name,
        job_definition=name,
        retry=AT_ONCE,
        job_watch_poll_interval=0.001,
    )


@pytest.fixture
def glue_job(credentials: AwsCredentials, client: Callable[[str], Any]) -> GlueJob:
    name = f"load-{uuid.uuid4().hex[:8]}"
    client("glue").create_job(
        Name=name, Role="r", Command={"Name": "glueetl"}, ExecutionProperty={"MaxConcurrentRuns": 1}
    )
    return GlueJob(aws_credentials=credentials, job_name=name, retry=AT_ONCE, job_watch_poll_interval=0.001)


START = {"task": "RunTask", "batch_job": "SubmitJob", "glue_job": "StartJobRun"}
SERVICE = {"task": "ecs", "batch_job": "batch", "glue_job": "glue"}
LOOK = {"task": "DescribeTasks", "batch_job": "DescribeJobs", "glue_job": "GetJobRun"}
STOP = {"task": "StopTask", "batch_job": "TerminateJob", "glue_job": "BatchStopJobRun"}


@pytest.fixture(params=START)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def job(kind: str, request: pytest.FixtureRequest) -> Job:
    """Each kind of job."""
    found: Job = request.getfixturevalue(kind)
    return found


def keep_running(kind: str) -> Callable[[dict[str, Any]], None]:
    """An answer that says that the run goes on."""

    def change(answer: dict[str, Any]) -> None:
        if kind == "task":
            answer["tasks"][0]["lastStatus"] = "RUNNING"
        elif kind == "batch_job":
            answer["jobs"][0]["status"] = "RUNNING"
        else:
            answer["JobRun"]["JobRunState"] = "RUNNING"

    return change


REFUSED: dict[Refusal, tuple[str, int]] = {
    "expired": ("ExpiredTokenException", 400),
    "unauthorized": ("UnrecognizedClientException", 401),
    "denied": ("AccessDeniedException", 403),
}
PAGES = {
    "task": f"https://{REGION}.console.aws.amazon.com/ecs/v2/clusters/jobs/tasks/",
    "batch_job": f"https://{REGION}.console.aws.amazon.com/batch/home?region={REGION}#jobs/detail/",
    "glue_job": f"https://{REGION}.console.aws.amazon.com/gluestudio/home?region={REGION}#/job/",
}


class AwsJobService(JobService):
    """A job of AWS, on the stand-in."""

    def __init__(self, aws: AwsServer, kind: str, job: Job) -> None:
        self.aws, self.kind, self.job, self.page = aws, kind, job, PAGES[kind]

    @property
    def starts(self) -> int:
        """How many runs were started."""
        return self.aws.done[START[self.kind]]

    @property
    def stops(self) -> int:
        """How many runs were told to stop."""
        return self.aws.done[STOP[self.kind]]

    def keep_running(self, looks: int = 1) -> None:
        """Have the next looks see a run that goes on."""
        self.aws.change_answer(LOOK[self.kind], keep_running(self.kind), times=looks)

    def refuse_looks(self, refusal: Refusal, looks: int) -> None:
        """Have the looks after that be answered so."""
        if refusal == "malformed":
            nothing: dict[str, Any] = {"tasks": [{}], "jobs": [{}], "JobRun": {}}
            self.aws.change_answer(LOOK[self.kind], lambda answer: answer.update(nothing), times=looks)
        elif refusal != "missing":
            code, status = REFUSED[refusal]
            self.aws.refuse_call(LOOK[self.kind], code, "no", status=status, times=looks)
        elif self.kind == "glue_job":
            self.aws.refuse_call(LOOK[self.kind], "EntityNotFoundException", "no such run", times=looks)
        else:
            self.aws.change_answer(LOOK[self.kind], lambda answer: answer.update(tasks=[], jobs=[]), times=looks)

    def fail(self, reason: str) -> None:
        """Have the look after that, and all later ones, see a run that failed, in these words."""
        self.aws.fail_run(LOOK[self.kind], reason)

    def forget(self) -> None:
        """Forget what was planned."""
        self.aws.forget_plans()


@pytest.fixture
def service(aws: AwsServer, kind: str, job: Job) -> JobService:
    """Each kind of job, and its service."""
    return AwsJobService(aws, kind, job)


def test_a_job_runs_to_its_end(aws: AwsServer, kind: str, job: Job) -> None:
    """Started, watched and succeeded, by one call; and by three."""
    assert job.check()
    status = job.run()
    assert (status.outcome, status.exit_code) == ("succeeded", 0 if kind == "task" else None)  # moto's Batch gives none
    run = job.trigger()
    run.wait_for_completion()
    assert run.fetch_result().state == status.state
    assert run.run_id != status.run_id
    assert aws.done[START[kind]] == 2


@pytest.mark.usefixtures("botocore_tries")
def test_a_job_whose_start_was_not_heard_of_runs_once(aws: AwsServer, kind: str, job: Job) -> None:
    """The answer is lost: what was started is found again, and not started by botocore either."""
    aws.lose_answer(START[kind])
    assert job.run().outcome == "succeeded"
    assert aws.done[START[kind]] == 1


def test_a_throttled_start_is_tried_again(aws: AwsServer, kind: str, job: Job) -> None:
    """It did not happen."""
    aws.refuse_call(START[kind], "ThrottlingException", "Rate exceeded", times=3)
    assert job.run().outcome == "succeeded"
    assert aws.done[START[kind]] == 1


def test_a_named_start_happens_once(aws: AwsServer, kind: str, job: Job) -> None:
    """A second call with the token of the first gets its run."""
    assert job.trigger(token="day1").run_id == job.trigger(token="day1").run_id
    assert aws.done[START[kind]] == 1


def test_a_job_that_cannot_be_seen_for_a_while_is_not_lost(aws: AwsServer, kind: str, job: Job) -> None:
    """Throttled, unavailable, and connections that break."""
    aws.refuse_call(LOOK[kind], "ThrottlingException", "Rate exceeded", times=6)
    aws.refuse_call(LOOK[kind], "InternalFailure", "oops", status=500, times=6)
    aws.lose_answer(LOOK[kind], times=6)
    assert job.run().outcome == "succeeded"
    assert aws.done[START[kind]] == 1


def test_a_job_that_is_not_waited_for_any_more_is_stopped(aws: AwsServer, kind: str, job: Job) -> None:
    """After its time, by the service's own call, which is tried again."""
    aws.change_answer(LOOK[kind], keep_running(kind), times=1_000)
    aws.refuse_call(STOP[kind], "ThrottlingException", "Rate exceeded", times=3)
    job.timeout_s = 0.1
    with pytest.raises(JobFailedError, match=r"longer than 0.1 s and was last seen RUNNING\. It was told to stop\."):
        job.run()
    assert aws.done[STOP[kind]] == 1


@pytest.mark.parametrize("calls", [START, LOOK, STOP])
def test_a_right_that_a_job_lacks_is_named(aws: AwsServer, kind: str, job: Job, calls: dict[str, str]) -> None:
    """Of starting, looking and stopping."""
    run = job.trigger() if calls is STOP else None
    aws.refuse_call(calls[kind], "AccessDeniedException", "no", status=403)
    with pytest.raises(AccessDeniedError, match=f"needs {SERVICE[kind]}:{calls[kind]}"):
        run.cancel() if run else job.run()


def test_jobs_in_a_flow(kind: str, job: Job, prefect_server: str) -> None:
    """One task run, named after the block's type."""
    assert kind
    assert prefect_server

    @flow
    def nightly() -> str:
        return job.run().outcome

    assert nightly() == "succeeded"


def test_an_identity_that_was_renewed_is_used(
    aws: AwsServer, kind: str, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile's token runs out amid the wait, and whoever keeps the file writes a new one."""
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[night]\naws_access_key_id = old\naws_secret_access_key = x\n")
    credentials = AwsCredentials(profile_name="night", region_name=REGION, endpoint_url=aws.url)
    job = job.model_copy(update={"aws_credentials": credentials})

    def renew(answer: dict[str, Any]) -> None:
        keep_running(kind)(answer)
        file.write_text("[night]\naws_access_key_id = new\naws_secret_access_key = y\n")

    aws.change_answer(LOOK[kind], renew)
    aws.refuse_call(LOOK[kind], "ExpiredTokenException", "no")
    assert job.run().outcome == "succeeded"
    assert credentials.frozen()["access_key_id"] == "new"


# Output


@pytest.fixture
def writes(aws: AwsServer, kind: str, job: Job, client: Callable[[str], Any]) -> Callable[..., None]:
    """Plan a look amid which the run writes some lines."""
    group, logs = f"/jobs/{uuid.uuid4().hex}", client("logs")
    logs.create_log_group(logGroupName=f"{group}/output")
    if kind == "task":
        assert isinstance(job, EcsTask)
        options = {"awslogs-group": f"{group}/output", "awslogs-stream-prefix": "x", "awslogs-region": REGION}
        log = {"logDriver": "awslogs", "options": options}
        containers = [{"name": "main", "image": "load", "memory": 64, "logConfiguration": log}]
        client("ecs").register_task_definition(family=job.task_definition, containerDefinitions=containers)

    def plan(*lines: str) -> None:
        def change(answer: dict[str, Any]) -> None:
            if kind == "task":
                name = f"x/main/{answer['tasks'][0]['taskArn'].rpartition('/')[2]}"
            elif kind == "batch_job":
                options = {"awslogs-group": f"{group}/output"}
                name = f"load/default/{answer['jobs'][0]['jobId']}"
                log = {"logConfiguration": {"logDriver": "awslogs", "options": options}, "logStreamName": name}
                answer["jobs"][0]["container"] = answer["jobs"][0].get("container", {}) | log
            else:
                name = answer["JobRun"]["Id"]
                answer["JobRun"]["LogGroupName"] = group
            keep_running(kind)(answer)
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_stream(logGroupName=f"{group}/output", logStreamName=name)
            events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
            if events:
                logs.put_log_events(logGroupName=f"{group}/output", logStreamName=name, logEvents=events)

        aws.change_answer(LOOK[kind], change)

    return plan


def shown(job: Job, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of a run that were passed on to the log."""
    messages = [record.message for record in caplog.records if record.name.endswith(type(job).__name__)]
    return [each.removeprefix(f"{job.name}: ") for each in messages if each.startswith(f"{job.name}: ")]


def test_what_a_run_writes_is_in_the_log(
    job: Job, writes: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each line once and in order, while the run goes on, without secrets; more than a page of them too."""
    caplog.set_level("INFO")
    many = [f"row group {number}" for number in range(1_200)]
    writes("begin", f"password={CANARY}")
    writes()
    writes(*many)
    writes("two\nlines")
    assert job.run().outcome == "succeeded"
    assert shown(job, caplog) == ["begin", "password=***", *many, "two\\nlines"]


def test_a_log_that_cannot_be_read_fails_no_run(
    aws: AwsServer, job: Job, writes: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names the right that is missing; a log that is throttled or not there yet is looked at again."""
    aws.refuse_call("GetLogEvents", "ThrottlingException", "Rate exceeded")
    aws.refuse_call("GetLogEvents", "ResourceNotFoundException", "The specified log stream does not exist.")
    for _ in range(3):
        writes("line")
    assert job.run().outcome == "succeeded"
    caplog.clear()
    aws.refuse_call("GetLogEvents", "AccessDeniedException", "no", times=FOREVER)
    for _ in range(3):
        writes("line")
    assert job.run().outcome == "succeeded"
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert "needs logs:GetLogEvents" in warned[0]
    aws.reset()
    writes("line")
    quiet = job.model_copy(update={"stream_output": False})
    assert quiet.run().outcome == "succeeded"
    assert aws.calls["GetLogEvents"] == 0


# ECS


def stopped(code: int | None, stop_code: str, reason: str, container_reason: str = "") -> Callable[[Any], None]:
    """A task that has stopped, with a sidecar that was killed after the main container had ended."""

    def change(answer: dict[str, Any]) -> None:
        answer["tasks"][0] |= {
            "lastStatus": "STOPPED",
            "stopCode": stop_code,
            "stoppedReason": reason,
            "containers": [
                {"name": "sidecar", "exitCode": 137},
                {"name": "main", "reason": container_reason} | ({} if code is None else {"exitCode": code}),
            ],
        }

    return change


@pytest.mark.parametrize(
    "end",
    [
        (3, "EssentialContainerExited", "Essential container in task exited", ""),
        (137, "EssentialContainerExited", "Essential container in task exited", "OutOfMemoryError: killed"),
        (None, "TaskFailedToStart", "CannotPullContainerError: no such image", ""),
        (0, "UserInitiated", "Task stopped by user", ""),
        (143, "SpotInterruption", "Your Spot Task was interrupted", ""),
    ],
)
def test_an_ecs_task_fails_with_its_reason(
    aws: AwsServer, task: EcsTask, end: tuple[int | None, str, str, str]
) -> None:
    """The service's words on the task and on the container that counts, and that one's exit code."""
    aws.change_answer("DescribeTasks", stopped(*end))
    with pytest.raises(JobFailedError, match=f"{end[1]}; {end[2]}.*{end[3]}") as caught:
        task.run()
    assert caught.value.result.exit_code == end[0]
    assert aws.done["RunTask"] == 1


def test_the_container_that_counts(aws: AwsServer, task: EcsTask, client: Callable[[str], Any]) -> None:
    """The first essential one: a sidecar that is killed at the end is no failure, unless it is named."""
    containers: list[dict[str, Any]] = [
        {"name": "sidecar", "image": "log", "memory": 64, "essential": False},
        {"name": "main", "image": "load", "memory": 64},
        {"name": "other", "image": "load", "memory": 64},
    ]
    client("ecs").register_task_definition(family=task.task_definition, containerDefinitions=containers)
    ended = stopped(0, "EssentialContainerExited", "Essential container in task exited")
    aws.change_answer("DescribeTasks", ended)
    assert task.run().exit_code == 0
    aws.change_answer("DescribeTasks", ended)
    task.container_name = "sidecar"
    with pytest.raises(JobFailedError, match="Exit code 137"):
        task.run()


def test_an_ecs_task_gets_what_the_block_says(aws: AwsServer, task: EcsTask) -> None:
    """Network, capacity and every override, each where ECS looks for it."""
    fields = {
        "launch_type": None,
        "capacity_provider": "FARGATE_SPOT",
        "subnets": ["subnet-1"],
        "security_groups": ["sg-1"],
        "assign_public_ip": True,
        "command": ["load", "2026-04-30"],
        "environment": {"PASSWORD": CANARY},
        "cpu": 512,
        "memory": 1024,
        "task_role_arn": "arn:aws:iam::123456789012:role/task",
        "execution_role_arn": "arn:aws:iam::123456789012:role/execution",
        "tags": {"team": "data"},
    }
    own = {name: getattr(task, name) for name in ("aws_credentials", "task_definition", "cluster")}
    EcsTask(**own, **fields).trigger()
    sent = aws.requests["RunTask"][-1]
    token = sent.pop("clientToken")
    assert len(token) == 32
    container = {"command": ["load", "2026-04-30"], "environment": [{"name": "PASSWORD", "value": CANARY}]}
    roles = {"taskRoleArn": fields["task_role_arn"], "executionRoleArn": fields["execution_role_arn"]}
    network = {"subnets": ["subnet-1"], "securityGroups": ["sg-1"], "assignPublicIp": "ENABLED"}
    assert sent == {
        "cluster": "jobs",
        "taskDefinition": task.task_definition,
        "count": 1,
        "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
        "networkConfiguration": {"awsvpcConfiguration": network},
        "overrides": {
            "cpu": "512",
            "memory": "1024",
            **roles,
            "containerOverrides": [{"name": "main", **container}],
        },
        "tags": [{"key": "team", "value": "data"}],
    }


@pytest.mark.parametrize(
    ("reason", "kind_of_error"),
    [
        ("RESOURCE:MEMORY", TransientError),
        ("Capacity is unavailable at this time. Please try again later", TransientError),
        ("ATTRIBUTE", TerminalError),
    ],
)
def test_a_task_that_is_not_placed(
    aws: AwsServer, task: EcsTask, reason: str, kind_of_error: type[ConnectorError]
) -> None:
    """Without room another try may help; the error has the cluster's reason."""

    def refuse(answer: dict[str, Any]) -> None:
        answer.update(tasks=[], failures=[{"reason": reason, "detail": "no place"}])

    aws.change_answer("RunTask", refuse, times=4)
    with pytest.raises(kind_of_error, match=f"Could not start ECS task .*{reason}"):
        task.run()
    assert aws.calls["RunTask"] == (4 if kind_of_error is TransientError else 1)


def test_a_task_that_is_not_shown_yet(aws: AwsServer, task: EcsTask) -> None:
    """ECS is eventually consistent: right after the start it may know nothing of it."""
    aws.change_answer("DescribeTasks", lambda answer: answer.update(tasks=[], failures=[{"reason": "MISSING"}]))
    assert task.run().outcome == "succeeded"


def test_wrong_tasks(aws: AwsServer, task: EcsTask) -> None:
    """No such cluster, no such definition, a token with other settings, settings that exclude each other."""
    with pytest.raises(NotFoundError, match="cluster nowhere is missing"):
        task.model_copy(update={"cluster": "nowhere"}).check()
    with pytest.raises(InvalidInputError, match="Check task_definition"):
        task.model_copy(update={"task_definition": "nothing"}).check()
    aws.refuse_call("RunTask", "ConflictException", "in use")
    with pytest.raises(AlreadyExistsError, match="Use another one"):
        task.trigger(token="x")
    with pytest.raises(ValidationError, match="exclude each other"):
        EcsTask(task_definition="x", launch_type="EC2", capacity_provider="y")
    with pytest.raises(ValidationError, match="go with subnets"):
        EcsTask(task_definition="x", security_groups=["sg-1"])


# Batch


def test_a_batch_job_gets_what_the_block_says(aws: AwsServer, batch_job: BatchJob) -> None:
    """Each setting where Batch looks for it; the name has the token behind, by which the run is found again."""
    fields = {
        "parameters": {"day": "2026-04-30"},
        "command": ["load"],
        "environment": {"PASSWORD": CANARY},
        "vcpus": 0.5,
        "memory": 1024,
        "array_size": 2,
        "attempts": 3,
        "attempt_timeout_s": 600,
        "tags": {"team": "data"},
    }
    own = {name: getattr(batch_job, name) for name in ("aws_credentials", "job_name", "job_queue", "job_definition")}
    BatchJob(**own, **fields).trigger(token="day1")
    assert aws.requests["SubmitJob"][-1] == {
        "jobName": f"{batch_job.job_name}-day1",
        "jobQueue": batch_job.job_queue,
        "jobDefinition": batch_job.job_definition,
        "parameters": {"day": "2026-04-30"},
        "containerOverrides": {
            "command": ["load"],
            "environment": [{"name": "PASSWORD", "value": CANARY}],
            "resourceRequirements": [{"type": "VCPU", "value": "0.5"}, {"type": "MEMORY", "value": "1024"}],
        },
        "arrayProperties": {"size": 2},
        "retryStrategy": {"attempts": 3},
        "timeout": {"attemptDurationSeconds": 600},
        "tags": {"team": "data"},
    }


def test_a_batch_job_fails_with_its_reason(aws: AwsServer, batch_job: BatchJob) -> None:
    """Batch's words on the job and on its container, and the exit code."""

    def fail(answer: dict[str, Any]) -> None:
        container = {"exitCode": 1, "reason": "OutOfMemoryError: killed"}
        answer["jobs"][0] |= {"status": "FAILED", "statusReason": "Essential container exited", "container": container}

    aws.change_answer("DescribeJobs", fail)
    with pytest.raises(
        JobFailedError, match=r"FAILED: Essential container exited; OutOfMemoryError: killed. Exit code 1"
    ):
        batch_job.run()
    assert aws.done["SubmitJob"] == 1


def test_wrong_batch_jobs(batch_job: BatchJob) -> None:
    """No such queue, no such definition, a name that Batch would refuse."""
    with pytest.raises(NotFoundError, match="nowhere is missing"):
        batch_job.model_copy(update={"job_queue": "nowhere"}).check()
    with pytest.raises(NotFoundError, match="no active Batch job definition nothing"):
        batch_job.model_copy(update={"job_definition": "nothing"}).check()
    with pytest.raises(InvalidInputError, match="Check job_queue and job_definition"):
        batch_job.model_copy(update={"job_definition": "nothing"}).trigger()
    with pytest.raises(ValidationError, match="job_name"):
        BatchJob(job_name="a b", job_queue="q", job_definition="d")


# Glue


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "STOPPED", "ERROR", "EXPIRED"])
def test_a_glue_job_fails_with_its_reason(aws: AwsServer, glue_job: GlueJob, state: str) -> None:
    """Glue's own message, in every state that is an end."""
    said = {"JobRunState": state, "ErrorMessage": "Command failed with exit code 1"}
    aws.change_answer("GetJobRun", lambda answer: answer["JobRun"].update(said))
    with pytest.raises(JobFailedError, match=f"failed with {state}: Command failed with exit code 1"):
        glue_job.run()
    assert aws.done["StartJobRun"] == 1


def test_a_glue_job_gets_what_the_block_says(aws: AwsServer, glue_job: GlueJob) -> None:
    """The arguments, with the token among them, and the workers."""
    changes = {"arguments": {"--day": "2026-04-30"}, "worker_type": "G.1X", "number_of_workers": 2}
    glue_job.model_copy(update=changes).trigger(token="day1")
    assert aws.requests["StartJobRun"][-1] == {
        "JobName": glue_job.job_name,
        "Arguments": {"--day": "2026-04-30", "--etl-run-token": "day1"},
        "WorkerType": "G.1X",
        "NumberOfWorkers": 2,
    }


def test_a_glue_job_that_runs_already(aws: AwsServer, glue_job: GlueJob) -> None:
    """Another run is in the way; the error says so after some tries."""
    aws.refuse_call("StartJobRun", "ConcurrentRunsExceededException", "1 of 1", times=4)
    with pytest.raises(TransientError, match=r"ConcurrentRunsExceeded.*maximum concurrency"):
        glue_job.trigger()


def test_a_glue_run_that_cannot_be_stopped(aws: AwsServer, glue_job: GlueJob) -> None:
    """What Glue says about it is an error, unless the run has ended meanwhile."""
    run = glue_job.trigger()
    detail = {"ErrorCode": "InvalidInputException", "ErrorMessage": "not now"}
    no = {"SuccessfulSubmissions": [], "Errors": [{"JobRunId": run.run_id, "ErrorDetail": detail}]}
    aws.change_answer("BatchStopJobRun", lambda answer: answer.update(no), times=2)
    aws.change_answer("GetJobRun", keep_running("glue_job"))
    with pytest.raises(InvalidInputError, match=r"Could not stop Glue job .*not now"):
        run.cancel()
    run.wait_for_completion()
    run.cancel()


def test_a_missing_glue_job(glue_job: GlueJob) -> None:
    """It is named, with where to look."""
    for call in (GlueJob.check, lambda job: job.trigger()):
        with pytest.raises(NotFoundError, match=r"Glue job nothing.*Check job_name"):
            call(glue_job.model_copy(update={"job_name": "nothing"}))


# Secrets


@pytest.mark.parametrize("name", ["task", "batch_job"])
def test_environments_show_nowhere(
    aws: AwsServer, name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """Values given to containers: not in the block's text, not in its saved form, in no log and in no error."""
    caplog.set_level(logging.INFO)
    job = request.getfixturevalue(name)
    fields = {key: getattr(job, key) for key in type(job).model_fields}
    job = type(job)(**{**fields, "environment": {"PASSWORD": CANARY}})
    job.run()
    aws.refuse_call(START[name], "ClientException", f"The value {CANARY} is not to my taste")
    with pytest.raises(InvalidInputError, match=r"value \*\*\* is") as refused:
        job.run()
    assert CANARY in str(aws.requests[START[name]])
    for text in (caplog.text, everything_of(refused.value), repr(job), job.model_dump_json()):
        assert CANARY not in text
