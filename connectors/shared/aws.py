"""AwsService: what the blocks for AWS's services share, and its answers as our errors without anybody's values."""

from __future__ import annotations

import contextlib
import re
from abc import ABC
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from blocks.base.block import ConnectorBlock
from blocks.base.errors import ConnectorError, InvalidInputError, TransientError
from blocks.base.live import live
from blocks.base.optional import require
from blocks.credentials.aws import AWS_ADVICE, AWS_ERRORS, AwsCredentials, aws_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHORTEST_HIDDEN = 6
"""Shorter values, such as "1" or "prod", are in a service's words by chance."""
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"}


def give_up_on_silence(client: Any, read_timeout_s: float) -> Any:
    """Return a boto3 client that does not wait for an answer again where none came in time.

    botocore would wait as long as that for each of its attempts; what else fails it sends again, as before.
    """
    silence = require("botocore.exceptions", extra="aws").ReadTimeoutError
    send = client._endpoint.http_session.send  # noqa: SLF001 (`before-send` is public, and how to send is not)

    def send_once(request: Any, **_: Any) -> Any:
        try:
            return send(request)
        except silence:
            address = request.url.partition("?")[0]
            raise TransientError(f"No answer to {request.method} {address} in {read_timeout_s:g} s.") from None

    client.meta.events.register("before-send", send_once)
    return client


class AwsService(ConnectorBlock, ABC):
    """A block for one thing of one of AWS's services.

    A child says which service, by boto3's name, what that service's own codes mean, and how long its answers may take.
    """

    _service: ClassVar[str]
    _errors_table: ClassVar[dict[str, type[ConnectorError]]] = AWS_ERRORS
    _advice: ClassVar[dict[str, str]] = AWS_ADVICE
    _longest_answer_s: ClassVar[float] = 0.0
    """How long the service itself may be silent before it answers."""

    aws_credentials: AwsCredentials = Field(
        default_factory=AwsCredentials,
        description="AWS credentials. Defaults to the ambient identity (environment, profile or instance role).",
    )

    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer, or a byte of it. Defaults to 60."
    )

    def get_client(self) -> Any:
        """Return a boto3 client of the service with this block's identity, for everything that has no method here.

        The block keeps one; `close()` of the block closes it.
        """
        return self._client

    @live
    def _client(self) -> Any:
        config = require("botocore.config", extra="aws").Config(read_timeout=self.read_timeout_s, tcp_keepalive=True)
        return give_up_on_silence(self.aws_credentials.get_client(self._service, config=config), self.read_timeout_s)

    @live
    def _single_attempt_client(self) -> Any:
        """A client that sends a request once only, for what must not be done twice; botocore retries by itself."""
        config = require("botocore.config", extra="aws").Config(
            retries={"total_max_attempts": 1},
            read_timeout=max(self.read_timeout_s, self._longest_answer_s),
            tcp_keepalive=True,
        )
        return self.aws_credentials.get_client(self._service, config=config)

    @contextlib.contextmanager
    def _errors(
        self,
        verb: str,
        place: str,
        action: str,
        *,
        hidden: Iterable[str] = (),
        table: dict[str, type[ConnectorError]] | None = None,
    ) -> Iterator[None]:
        """Turn what botocore raises into our errors.

        Args:
            verb: What was attempted, such as "read".
            place: What it was attempted on, such as "secret db".
            action: The IAM action that this takes, such as "secretsmanager:GetSecretValue".
            hidden: Values that were sent and may be nowhere in an error.
            table: What the codes mean, where another service is asked.
        """
        try:
            yield
        except ConnectorError:
            raise
        except Exception as error:
            if type(error).__name__ == "ParamValidationError":  # it repeats the values
                raise InvalidInputError(
                    f"Could not {verb} {place}: {_wrong_parameters(str(error))} Check the fields of the block."
                ) from None
            answer = (getattr(error, "response", None) or {}).get("Error", {})
            code, words = answer.get("Code", ""), answer.get("Message", "")
            advice = self._advice | dict.fromkeys(DENIED, f"The identity needs {_denied_action(words) or action}.")
            if (better := self._advise(verb, code, words)) is not None:
                advice |= {code: better}
            known = self._errors_table if table is None else table
            if _hide(error, hidden):
                raise aws_error(verb, place, error, table=known, advice=advice) from None
            raise aws_error(verb, place, error, table=known, advice=advice) from error

    def _advise(self, verb: str, code: str, words: str) -> str | None:  # noqa: ARG002 (a child's)
        """Return the advice for an answer whose code has several meanings, which its words tell apart; None else."""
        return None


def _denied_action(words: str) -> str:
    """Return the IAM action that the service itself says is missing; empty where it does not say.

    >>> _denied_action("User: arn:aws:iam::1:user/me is not authorized to perform: iam:PassRole on resource: role/x")
    'iam:PassRole'
    """
    found = re.search(r"not authorized to perform:? ([\w-]+:\w+)", words)
    return found[1] if found else ""


def _hide(error: Exception, hidden: Iterable[str]) -> bool:
    """Whether the service's words held a value that was sent; there are stars in its place now."""
    answer = (getattr(error, "response", None) or {}).get("Error", {})
    words = said = answer.get("Message", "")
    for value in hidden:
        if len(value) >= SHORTEST_HIDDEN:
            words = words.replace(value, "***")
    if words != said:
        answer["Message"] = words
    return bool(words != said)


def _wrong_parameters(words: str) -> str:
    """Which parameters botocore complained about, without their values.

    >>> _wrong_parameters('Invalid type for parameter overrides.cpu, value: 5, type: int, valid types: str')
    'wrong are: overrides.cpu.'
    """
    names = re.findall(r"parameter:? \"?([\w.\[\]]+)", words)
    return f"wrong are: {', '.join(dict.fromkeys(names))}." if names else "a parameter is missing or wrong."
