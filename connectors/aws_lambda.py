"""A function of AWS Lambda."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, HttpUrl

from blocks.base.errors import (
    AccessDeniedError,
    AmbiguousError,
    ConnectorError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    NotStartedError,
    TerminalError,
    ThrottledError,
    TransientError,
)
from blocks.base.operation import AsyncName, operation
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS
from connectors.shared.aws import AwsService

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_RUN_S = 900
CONTEXT_BYTES = 3583


NOT_STARTED = {
    "CodeArtifactUserPendingException",
    "EFSMountConnectivityException",
    "EFSMountTimeoutException",
    "ENINotReadyException",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "ProxyConnectionError",
    "ResourceConflictException",
    "ResourceNotReadyException",
    "S3FilesMountConnectivityException",
    "S3FilesMountTimeoutException",
    "SnapStartNotReadyException",
    "SubnetIPAddressLimitReachedException",
}

ERRORS: dict[str, type[ConnectorError]] = (
    AWS_ERRORS
    | dict.fromkeys(NOT_STARTED, NotStartedError)
    | {
        "ResourceNotFoundException": NotFoundError,
        "NoPublishedVersionException": NotFoundError,
        "InvalidParameterValueException": InvalidInputError,
        "InvalidRequestContentException": InvalidInputError,
        "ModeNotSupportedException": InvalidInputError,
        "RequestTooLargeException": InvalidInputError,
        "SerializedRequestEntityTooLargeException": InvalidInputError,
        "UnsupportedMediaTypeException": InvalidInputError,
        "EC2AccessDeniedException": AccessDeniedError,
        "KMSAccessDeniedException": AccessDeniedError,
        # The function's own set-up is wrong; the HTTP status of these says 502.
        "CodeArtifactUserDeletedException": TerminalError,
        "CodeArtifactUserFailedException": TerminalError,
        "EC2UnexpectedException": TerminalError,
        "EFSIOException": TerminalError,
        "EFSMountFailureException": TerminalError,
        "ENILimitReachedException": TerminalError,
        "InvalidRuntimeException": TerminalError,
        "InvalidSecurityGroupIDException": TerminalError,
        "InvalidSubnetIDException": TerminalError,
        "InvalidZipFileException": TerminalError,
        "KMSDisabledException": TerminalError,
        "KMSInvalidStateException": TerminalError,
        "KMSNotFoundException": TerminalError,
        "RecursiveInvocationException": TerminalError,
        "RuntimeAliasDeletedException": TerminalError,
        "RuntimeVersionDeletedException": TerminalError,
        "S3FilesMountFailureException": TerminalError,
        "ServiceQuotaExceededException": TerminalError,
        "SnapStartException": TerminalError,
        "SnapStartRegenerationFailureException": TerminalError,
        "SnapStartTimeoutException": TerminalError,
    }
)
"""https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors"""

ADVICE: dict[str, str] = AWS_ADVICE | {
    "ResourceNotFoundException": "Check function_name and qualifier, and the region_name of the credentials.",
    "RequestTooLargeException": "Put the data into a bucket and send its key.",
}


@dataclass(frozen=True)
class InvocationResult:
    """What came of an invocation.

    Attributes:
        status_code: 200 after the function ran, 202 when it was put into its queue, 204 after a dry run.
        payload: What the function returned, decoded from JSON; None where nothing was.
        log_tail: The end of its log, up to 4 KB, where that was asked for.
        executed_version: The version that ran.
    """

    status_code: int
    payload: Any = field(default=None, repr=False)
    log_tail: str | None = field(default=None, repr=False)
    executed_version: str | None = None


class FunctionError(JobFailedError):
    """The function ran and failed.

    Attributes:
        error_type: The type that the function or its runtime gave, such as "KeyError" or "Sandbox.Timedout".
        result: An InvocationResult. What the function said is data, and so is in no message.
    """

    result: InvocationResult

    def __init__(self, message: str, error_type: str, result: InvocationResult) -> None:
        super().__init__(message, result)
        self.error_type = error_type


class LambdaFunction(AwsService):
    """A function of AWS Lambda.

    Example:
        ```python
        from connectors.aws_lambda import LambdaFunction

        function = LambdaFunction.load("BLOCK_NAME")
        answer = function.invoke({"day": "2026-04-30"}).payload
        ```
    """

    _block_type_name = "ETL Lambda Function"
    _block_type_slug = "etl-lambda-function"
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/lambda/latest/dg/lambda-invocation.html")
    _service: ClassVar[str] = "lambda"
    _errors_table = ERRORS
    _advice = ADVICE
    _longest_answer_s = LONGEST_RUN_S + 10.0

    function_name: str = Field(min_length=1, description="The function's name, partial ARN or full ARN.")
    qualifier: str | None = Field(
        default=None, description="The version or alias to invoke. Defaults to the unpublished version, $LATEST."
    )

    def check(self) -> str:
        """Check that the function is there and the identity may invoke it, and say so in one sentence; it does not run.

        Raises:
            NotFoundError: There is no such function, version or alias.
            AccessDeniedError: The identity may not invoke it.
        """
        self._invoke({"InvocationType": "DryRun"}, idempotent=True)
        return f"{self._place} is there and the credentials may invoke it."

    @operation(prefects=True)
    def invoke(
        self,
        payload: Any = None,
        invocation_type: Literal["RequestResponse", "Event", "DryRun"] = "RequestResponse",
        tail: bool = False,
        client_context: dict[str, Any] | None = None,
        *,
        idempotent: bool = False,
    ) -> InvocationResult:
        """Invoke the function, and return what came of it.

        botocore's own retries are off, because an invocation whose answer was lost may have run. It is tried again, by
        the block's policy, only where `idempotent` allows it; what Lambda refused before the function ran always is.

        Args:
            payload: What the function gets, anything that JSON can hold; None sends nothing.
            invocation_type: "RequestResponse" waits for the function, "Event" puts the payload into its queue, "DryRun"
                proves that it may be invoked.
            tail: Whether to fetch the end of the log.
            client_context: What the function finds as its client's context, up to 3,583 bytes of base64.
            idempotent: Whether the function may run twice for one call without harm.

        Raises:
            FunctionError: The function ran and failed.
            AmbiguousError: The answer was lost; the function may have run.
            InvalidInputError: JSON cannot hold the payload, or Lambda refused it.
        """
        request: dict[str, Any] = {"InvocationType": invocation_type}
        if payload is not None:
            request["Payload"] = _json("payload", payload)
        if client_context is not None:
            request["ClientContext"] = base64.b64encode(_json("client_context", client_context)).decode()
            if len(request["ClientContext"]) > CONTEXT_BYTES:
                raise InvalidInputError(f"client_context takes up to {CONTEXT_BYTES} bytes of base64.")
        if tail:
            request["LogType"] = "Tail"
        return self._invoke(request, idempotent=idempotent, hidden=_texts([payload, client_context]))

    ainvoke: ClassVar = AsyncName(invoke)

    def _invoke(self, request: dict[str, Any], *, idempotent: bool, hidden: Iterable[str] = ()) -> InvocationResult:
        if self.qualifier is not None:
            request["Qualifier"] = self.qualifier
        try:
            with self._errors("invoke", self._place, "lambda:InvokeFunction", hidden=hidden):
                answer = self._single_attempt_client.invoke(FunctionName=self.function_name, **request)
                content = answer["Payload"].read()
        except (ThrottledError, NotStartedError):
            raise
        except TransientError as error:
            if idempotent:
                raise
            raise AmbiguousError(f"{error} The function may have run: the answer was lost.") from error
        result = InvocationResult(
            answer["StatusCode"],
            _decoded(content),
            base64.b64decode(answer["LogResult"]).decode(errors="replace") if "LogResult" in answer else None,
            answer.get("ExecutedVersion"),
        )
        if kind := answer.get("FunctionError"):
            error_type = _error_type(result.payload)
            request_id = answer["ResponseMetadata"].get("RequestId", "unknown")
            raise FunctionError(
                f"{self._place} failed with {error_type} ({kind.lower()}). Its log says more, at request {request_id}.",
                error_type,
                result,
            )
        return result

    @property
    def _place(self) -> str:
        return f"Lambda function {self.function_name}{f':{self.qualifier}' if self.qualifier else ''}"


def _json(name: str, value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"JSON cannot hold {name}: {type(error).__name__}.") from None


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value that JSON can hold.

    >>> list(_texts({"day": ["2026-04-30", {"n": 7}]}))
    ['2026-04-30']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _decoded(content: bytes) -> Any:
    """What the function returned: Lambda's runtimes write JSON, a custom one may write anything.

    >>> _decoded(b'{"rows": 3}'), _decoded(b""), _decoded(b"not JSON")
    ({'rows': 3}, None, 'not JSON')
    """
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _error_type(payload: Any) -> str:
    """The error's type, unless what the function gave as one is not a name.

    >>> _error_type({"errorType": "Sandbox.Timedout"}), _error_type({"errorType": "row 7: a b"}), _error_type(None)
    ('Sandbox.Timedout', 'an error', 'an error')
    """
    found = payload.get("errorType") if isinstance(payload, dict) else None
    return found if isinstance(found, str) and re.fullmatch(r"[\w.$:]{1,200}", found) else "an error"
