"""What an HTTP server answers, or httpx raises, as ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks.base.errors import (
    AccessDeniedError,
    AuthError,
    ConnectorError,
    InvalidInputError,
    ObjectNotFoundError,
    TerminalError,
    ThrottledError,
    TransientError,
    UnsupportedError,
    retry_after_s,
    service_error,
)

if TYPE_CHECKING:
    import httpx

ERRORS: dict[str, type[ConnectorError]] = {
    "400": InvalidInputError,
    "401": AuthError,
    "403": AccessDeniedError,
    "404": ObjectNotFoundError,
    "405": UnsupportedError,
    "407": AuthError,
    "408": TransientError,
    "410": ObjectNotFoundError,
    "412": TransientError,  # the file is not the one any more that was asked for
    "421": TransientError,
    "425": TransientError,
    "429": ThrottledError,
    "451": AccessDeniedError,
    "501": UnsupportedError,
    "5xx": TransientError,
    # Of httpx, by class name; a class without a line of its own takes its base's
    "CertificateError": TerminalError,
    "TransportError": TransientError,
    "LocalProtocolError": InvalidInputError,
    "UnsupportedProtocol": InvalidInputError,
    "InvalidURL": InvalidInputError,
    "StreamError": TransientError,
}
"""https://www.rfc-editor.org/rfc/rfc9110#section-15 and https://www.python-httpx.org/exceptions/"""

ADVICE: dict[str, str] = {
    "401": "Check username and password, token, headers or query.",
    "403": "The login may not read it; some servers answer so where there is no such file.",
    "404": "Check the key, and the url.",
    "407": "Enter the proxy's name and password in HTTPS_PROXY.",
    "410": "The server says that it is gone for good.",
    "412": "It changed while it was read. Try again.",
    "CertificateError": "Is it the right server? Authorities of your own go into the file that SSL_CERT_FILE names.",
    "ConnectError": "Is the url right, and reachable from here?",
}


def answer_error(place: str, answer: httpx.Response) -> ConnectorError:
    """Translate an answer other than the file."""
    status, wait = str(answer.status_code), answer.headers.get("Retry-After", "")
    codes = [status, *(["5xx"] if answer.is_server_error else [])]
    found = service_error("read", place, codes, answer.reason_phrase, table=ERRORS, advice=ADVICE, retry_after=wait)
    if type(found) is TransientError and (wait_s := retry_after_s(wait)) is not None:
        return ThrottledError(str(found), wait_s)
    return found


def raised_error(place: str, error: Exception) -> ConnectorError:
    """Translate what httpx raised."""
    codes, words = [kind.__name__ for kind in type(error).__mro__], str(error)
    if "CERTIFICATE_VERIFY_FAILED" in words:
        codes.insert(0, "CertificateError")
    if "ProxyError" in codes and words.startswith("407"):
        codes.insert(0, "407")
    if "LocalProtocolError" in codes:
        words = ""  # they repeat headers
    return service_error("read", place, codes, words, table=ERRORS, advice=ADVICE)
