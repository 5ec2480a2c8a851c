"""HttpFiles: the files of an HTTP server as a store that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.types import SecretDict
from pydantic import Field, HttpUrl, SecretStr, model_validator

from blocks.base.addresses import Url
from blocks.base.live import live
from blocks.stores.readable_store import ReadableStore
from connectors.http.client import HttpClient
from connectors.http.login import Login

if TYPE_CHECKING:
    from typing import Self


class HttpFiles(ReadableStore):
    """Files on an HTTP or HTTPS server, which are read; a server has no listing, so every file is named.

    A key is what follows the url, as a person reads it: a space or a percent sign stands for itself, and a `?` begins a
    query. A file is known by its strong ETag, else by its Last-Modified and length, and is refused if it changes while
    it is read. It is read by ranges where the server has them, else in one answer.

    Example:
        ```python
        from connectors.http import HttpFiles

        shop = HttpFiles.load("BLOCK_NAME")
        orders = shop.scan("orders/2026-04-30.csv")
        ```
    """

    _block_type_name = "ETL HTTP Files"
    _block_type_slug = "etl-http-files"
    _documentation_url = HttpUrl("https://www.rfc-editor.org/rfc/rfc9110")

    url: Url = Field(
        description="Address that the files' names are appended to, such as https://data.example.com/shop. A proxy is "
        "taken from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, authorities other than the usual ones from SSL_CERT_FILE."
    )
    username: str | None = Field(default=None, description="Name to log in with (Basic). Defaults to no login.")
    password: SecretStr | None = Field(default=None, description="Password of the username. Defaults to an empty one.")
    token: SecretStr | None = Field(
        default=None, description="Token to log in with (Bearer), in place of a username. Defaults to none."
    )
    headers: SecretDict | None = Field(
        default=None,
        description='Headers to send with every request, such as {"X-Api-Key": "..."}. Defaults to none.',
    )
    query: SecretDict | None = Field(
        default=None,
        description="Fields to append to the query of every request, such as an API key or the parts of a signed URL; "
        "they are no part of a file's identity. Defaults to none.",
    )
    allow_http: bool = Field(
        default=False,
        description="Send credentials to another machine without encryption, over http://, and follow a redirect from "
        "https:// to http://. Defaults to false.",
    )
    read_timeout_s: float = Field(
        default=60.0, gt=0, description="Seconds the server may go without an answer. Defaults to 60."
    )

    @model_validator(mode="after")
    def _logs_in_one_way(self) -> Self:
        if self.token is not None and self.username is not None:
            raise ValueError("username and token are two ways to log in: enter one of them")
        if self.password is not None and self.username is None:
            raise ValueError("a password needs a username")
        return self

    @live
    def _client(self) -> HttpClient:
        login = Login(self.username, self.password, self.token, self.headers, self.query)
        return HttpClient(self.url, login, allow_http=self.allow_http, read_timeout_s=self.read_timeout_s)

    def check(self) -> str:
        """Check that the server answers, and does not refuse the login.

        No file is looked at, as none is known; `exists` looks at one.

        Returns:
            One sentence that says so.

        Raises:
            AuthError: The server does not accept the login.
            TransientError: It cannot be reached.
        """
        status = self._client.status()
        return f"{self.uri()} answers, with status {status}; which files there are shows when one is read."
