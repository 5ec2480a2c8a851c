"""What an HTTP server knows somebody by, which is sent to no other one."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocks.base.errors import InvalidInputError

if TYPE_CHECKING:
    from prefect.types import SecretDict
    from pydantic import SecretStr


NAME, VALUE = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII), re.compile(r"[\t\x20-\x7e]*")
"""https://www.rfc-editor.org/rfc/rfc9110#section-5.5, without what is obsolete"""


@dataclass(frozen=True)
class Login:
    """A name and password, or a token, and whatever else has to go with each request."""

    username: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    extra_headers: SecretDict | None = None
    extra_query: SecretDict | None = None

    def __bool__(self) -> bool:
        return any((self.username, self.token, self.extra_headers, self.extra_query))

    def headers(self) -> dict[str, str]:
        """Return the headers of a request.

        Raises:
            InvalidInputError: One of them cannot be sent; httpx would show it.
        """
        headers = _texts(self.extra_headers)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        elif self.username is not None:
            password = self.password.get_secret_value() if self.password else ""
            headers["Authorization"] = f"Basic {b64encode(f'{self.username}:{password}'.encode()).decode()}"
        if not all(NAME.fullmatch(name) and VALUE.fullmatch(value) for name, value in headers.items()):
            raise InvalidInputError("Nothing was sent: headers or token have characters that a header cannot have.")
        return headers

    def query(self) -> dict[str, str]:
        """Return the fields to append to a query."""
        return _texts(self.extra_query)


def _texts(secrets: SecretDict | None) -> dict[str, str]:
    return {} if secrets is None else {name: str(value) for name, value in secrets.get_secret_value().items()}
