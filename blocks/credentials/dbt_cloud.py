"""DbtCloudCredentials: an identity at dbt Cloud, and what its Administrative API answers as our errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr, field_validator

from blocks.base.addresses import Url, is_this_machine
from blocks.base.block import ConnectorBlock
from blocks.base.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AmbiguousError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    NotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
    retry_after_s,
    service_error,
)
from blocks.base.live import live

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import IO

    import httpx

COOLDOWN_S = 300
"""For how long dbt Cloud answers 429 once it began to: https://docs.getdbt.com/docs/dbt-apis/rate-limits"""

DBT_CLOUD_ERRORS: dict[str, type[ConnectorError]] = {
    # HTTP statuses.
    **dict.fromkeys(["301", "302", "303", "307", "308"], InvalidInputError),
    "400": InvalidInputError,
    "401": AuthError,
    "403": AccessDeniedError,
    "404": NotFoundError,
    "405": UnsupportedError,
    "408": TransientError,
    "409": AlreadyExistsError,
    "413": InvalidInputError,
    "422": InvalidInputError,
    "429": ThrottledError,
    "500": TransientError,
    "503": TransientError,
    "5xx": TransientError,
    # What httpx raises, by class; of an error's classes the nearest that is here counts.
    "ConnectError": TransientError,
    "ConnectTimeout": TransientError,
    "PoolTimeout": TransientError,
    "ProxyError": TransientError,
    "TransportError": TransientError,
    "DecodingError": TransientError,
    "StreamError": TransientError,
    "LocalProtocolError": InvalidInputError,
    "UnsupportedProtocol": InvalidInputError,
    "InvalidURL": InvalidInputError,
    "TooManyRedirects": InvalidInputError,
    "CookieConflict": TerminalError,
    "HTTPStatusError": TerminalError,
    # What has no class or status of its own.
    "CertificateError": TerminalError,
    "UnknownAnswer": TransientError,
}
"""https://docs.getdbt.com/dbt-cloud/api-v2 and https://www.python-httpx.org/exceptions/"""

MOVED = "Check domain: it is the host of your account's access URL."
DBT_CLOUD_ADVICE: dict[str, str] = {
    **dict.fromkeys(["301", "302", "303", "307", "308"], MOVED),
    "401": "Check api_key, and domain: to the host of another region the token is unknown.",
    "404": "Check account_id, job_id and domain, and that the token may see the job's project.",
    "429": f"An account that asks too much is shut out for {COOLDOWN_S // 60} minutes; look less often.",
    "CertificateError": "Check domain, and SSL_CERT_FILE if your network has an authority of its own.",
    "ConnectError": "Check domain, and that this machine may reach it.",
    "UnsupportedProtocol": "Check domain.",
    "InvalidURL": "Check domain.",
}

LOST = {"408", "5xx", "TransportError", "DecodingError", "StreamError", "UnknownAnswer"}
"""Errors after which dbt Cloud may have done what it was asked, or still be at it; 5xx came from in front of it."""


class DbtCloudCredentials(ConnectorBlock, CredentialsBlock):
    """A token for an account of dbt Cloud.

    Example:
        ```python
        from blocks.credentials import DbtCloudCredentials

        credentials = DbtCloudCredentials.load("BLOCK_NAME")
        with credentials.get_client() as client:
            jobs = client.get("jobs/").json()["data"]
        ```
    """

    _block_type_name = "ETL dbt Cloud Credentials"
    _block_type_slug = "etl-dbt-cloud-credentials"
    _documentation_url = HttpUrl("https://docs.getdbt.com/docs/dbt-apis/authentication")
    _renamed: ClassVar[dict[str, str]] = {"request_timeout_s": "read_timeout_s"}

    api_key: SecretStr = Field(
        description="Service token or personal access token. To run jobs it needs Job Admin or Job Runner."
    )
    account_id: int = Field(description="Number of the account, as in the URL of each of its pages.")
    domain: str = Field(
        default="cloud.getdbt.com",
        description="Host of the account's access URL, such as ab123.us1.dbt.com. Defaults to cloud.getdbt.com.",
    )
    api_endpoint: Url | None = Field(
        default=None,
        description="URL of a server with the dbt Cloud API, for tests and proxies. Defaults to https://domain.",
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds a request may go without an answer, or a byte of it. Defaults to 60."
    )

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("api_key is empty or has whitespace in it")
        return value

    @field_validator("domain")
    @classmethod
    def _only_a_host(cls, value: str) -> str:
        host = value.strip().removeprefix("https://").rstrip("/")
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", host):
            raise ValueError("is not a host; give it without a path, such as ab123.us1.dbt.com")
        return host

    @field_validator("api_endpoint")
    @classmethod
    def _keeps_the_token(cls, value: str | None) -> str | None:
        address = urlsplit(value or "https:")
        here = address.scheme == "http" and is_this_machine(address.hostname or "?")
        if not (here or address.scheme == "https"):
            raise ValueError("api_endpoint has to be an https:// URL; without TLS only this machine is allowed")
        return value and value.rstrip("/")

    def check(self) -> str:
        """Ask dbt Cloud for the account, and return one sentence that says that the token may see it.

        Raises:
            AuthError: dbt Cloud does not know the token.
            NotFoundError: There is no such account, or the token may not see it.
        """
        account = self.ask("GET", "", verb="see", place=self.place, permission="any permission set in the account")
        return f"dbt Cloud knows the token, and it may see {self.place} ({account.get('name', '')})."

    @property
    def place(self) -> str:
        """The account, as messages name it."""
        return f"dbt Cloud account {self.account_id}"

    @property
    def base_url(self) -> str:
        """The URL of the account in the API."""
        return f"{self.api_endpoint or f'https://{self.domain}'}/api/v2/accounts/{self.account_id}/"

    @live
    def _authorities(self) -> Any:
        return _authorities()

    def get_client(self, client_type: str = "administrative") -> httpx.Client:
        """Return a new `httpx.Client` for the account's part of the Administrative API, which the caller closes.

        Args:
            client_type: The API, as prefect-dbt takes it; there is no client for its other one, "metadata".

        Raises:
            UnsupportedError: It is another API.
        """
        import httpx

        if client_type != "administrative":
            raise UnsupportedError(
                f"There is no client of type {client_type!r:.50} here, only of 'administrative'. For the Discovery API "
                "('metadata') use dbt Cloud's own client, or send its GraphQL with httpx."
            )

        return httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self.api_key.get_secret_value()}", "Accept": "application/json"},
            timeout=self.read_timeout_s,
            verify=self._authorities,
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        place: str,
        permission: str,
        params: Mapping[str, str | int] | None = None,
        json: Mapping[str, Any] | None = None,
        once: bool = False,
    ) -> Any:
        """Send one request, and return the `data` of its answer.

        Args:
            method: The HTTP method.
            path: Below the account, such as "jobs/42/".
            verb: What is attempted, for messages, such as "start".
            place: What it is attempted on, for messages.
            permission: What the token needs for it, for messages.
            params: The query.
            json: The body.
            once: Whether it must not happen twice, so that a lost answer does not justify another attempt.

        Raises:
            AmbiguousError: With `once`: nobody knows whether it happened.
            ConnectorError: dbt Cloud did not do it.
        """
        try:
            with self.get_client() as client:
                answer = client.request(method, path, params=params, json=json)
        except Exception as error:
            raise self._error(verb, place, permission, error, once=once) from error
        data = _data(answer)
        if data is None:
            raise self._error(verb, place, permission, answer, once=once)
        return data

    def download(
        self, path: str, into: IO[bytes], *, place: str, permission: str, params: Mapping[str, str | int]
    ) -> None:
        """Write the content of a file as it arrives.

        Raises:
            NotFoundError: There is no such file.
        """
        try:
            with self.get_client() as client, client.stream("GET", path, params=params) as answer:
                if not answer.is_success:
                    answer.read()
                else:
                    for chunk in answer.iter_bytes():
                        into.write(chunk)
        except Exception as error:
            raise self._error("read", place, permission, error) from error
        if not answer.is_success:
            raise self._error("read", place, permission, answer)

    def hide(self, text: str) -> str:
        """Return the text without the token, should it be in it."""
        return text.replace(self.api_key.get_secret_value(), "***")

    def _error(
        self, verb: str, place: str, permission: str, problem: Exception | httpx.Response, *, once: bool = False
    ) -> ConnectorError:
        codes, words, wait = _told(problem)
        wait_s = retry_after_s(wait)
        found = service_error(
            verb,
            place,
            codes,
            self.hide(words),
            table=DBT_CLOUD_ERRORS,
            advice=DBT_CLOUD_ADVICE | {"403": f"The token needs {permission}."},
            retry_after=str(COOLDOWN_S) if wait_s is None else wait,
        )
        if once and next((code for code in codes if code in DBT_CLOUD_ERRORS), "") in LOST:
            return AmbiguousError(f"{found} The answer is lost, so it may have happened.")
        if type(found) is TransientError and wait_s is not None:
            return ThrottledError(str(found), wait_s)
        return found


def _data(answer: httpx.Response) -> Any:
    """Return what dbt Cloud wraps in an answer; None if it refused, or something in front of it answered."""
    try:
        return answer.json()["data"] if answer.is_success else None
    except (ValueError, TypeError, LookupError):
        return None


def _told(problem: Exception | httpx.Response) -> tuple[list[str], str, str]:
    """Return the codes of a failure or of an unwanted answer in the tables, its words, and its Retry-After header."""
    if isinstance(problem, Exception):
        codes = [each.__name__ for each in type(problem).__mro__]
        words = "" if "LocalProtocolError" in codes else str(problem)  # its words repeat headers
        return ["CertificateError", *codes] if "CERTIFICATE_VERIFY_FAILED" in words else codes, words, ""
    if problem.is_success:
        return ["UnknownAnswer"], "this is not how dbt Cloud answers", ""
    codes = [str(problem.status_code), *(["5xx"] if problem.is_server_error else [])]
    return codes, _words(problem), problem.headers.get("Retry-After", "")


def _words(answer: httpx.Response) -> str:
    """Return the words of dbt Cloud in an answer; none if something in front of it answered."""
    try:
        status = answer.json()["status"]
        said = [status.get("user_message"), status.get("developer_message")]
    except (ValueError, TypeError, LookupError, AttributeError):
        return ""
    return "; ".join(dict.fromkeys(text.strip() for text in said if isinstance(text, str) and text.strip()))


def _authorities() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()
