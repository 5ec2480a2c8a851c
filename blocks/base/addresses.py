"""Addresses in fields: what can be one, and which of them a secret may be sent to."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from blocks.base.errors import InvalidInputError

PORT = re.compile(r"[^:]*:\d*")


def check_host(text: str) -> str:
    """Return the name or address of a server, or a folder of Unix sockets.

    Raises:
        ValueError: It is something else, such as a URL; the message does not show it, as a URL may hold a password.
    """
    if text.startswith("/"):
        return text
    if "://" in text or "@" in text:
        raise ValueError("is a name or an address, not a URL; user, password and database have fields of their own")
    if PORT.fullmatch(text):
        raise ValueError("is a name or an address; the port has a field of its own")
    if not text.strip() or re.search(r"[\s/?#=&]", text):
        raise ValueError("is a name or an address, without whitespace, paths and options")
    return text


def check_address(text: str) -> str:
    """Return the address of a server, with or without a scheme.

    Raises:
        ValueError: It holds a user or a password, so that it is not shown.
    """
    if "@" in text:
        raise ValueError("holds a user or a password, which have fields of their own")
    return text


def check_url(text: str) -> str:
    """Return the URL of a server.

    Raises:
        ValueError: It is none, or holds a user or a password; the message does not show it.
    """
    check_address(text)
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text):
        raise ValueError("is a URL such as https://s3.example.com:9000")
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise ValueError("is a URL such as https://s3.example.com:9000, whose port is a number") from None
    return text


Host = Annotated[str, AfterValidator(check_host)]
"""The name or address of a server."""
Address = Annotated[str, AfterValidator(check_address)]
"""The address of a server, without user and password."""
Url = Annotated[str, AfterValidator(check_url)]
"""The URL of a server, without user and password."""


def is_this_machine(host: str) -> bool:
    """Tell whether what is sent to a host does not leave this machine.

    >>> [is_this_machine(host) for host in ("localhost", "127.0.0.1", "::1", "/run/postgresql", "minio")]
    [True, True, True, True, False]
    """
    name = host.strip("[]").lower()
    if name in ("", "localhost") or name.endswith(".localhost") or name.startswith(("/", "@")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def check_encrypted(url: str | None, *, allow_http: bool | None) -> None:
    """Refuse to send credentials over a network without encryption.

    Args:
        url: Where they would be sent.
        allow_http: The block's field that allows it; None where there is none.

    Raises:
        InvalidInputError: The URL is a plain http:// one of another machine, and that is not allowed.
    """
    address = urlsplit(url or "")
    if address.scheme == "http" and not allow_http and not is_this_machine(address.hostname or ""):
        raise InvalidInputError(
            f"Nothing was sent to http://{address.netloc.rpartition('@')[2]}: anyone on the network could read the "
            "credentials. Use https://"
            + (", or set allow_http=True where the network is trusted." if allow_http is not None else ".")
        )
