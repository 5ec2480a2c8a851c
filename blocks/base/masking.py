"""Secrets in the words of others: how they may be written there, what finds them, and what hides them.

What a service, a driver or a program says may quote what it was given. `hide` is what all of it passes before it is
logged, raised or kept: the secrets that a block holds are found as they are, others by how they look.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
LIKE_A_WORD = 12
"""A secret of fewer characters may be a part of words that have nothing to do with it."""
SHORTEST_SECRET = 4
"""A shorter one would be found in words that have nothing to do with it."""

PART = re.compile(r"(?:^|[?&;\s])(?:sig|accountkey|sharedaccesssignature|password)=([^&;\s]+)", re.IGNORECASE)
"""What is secret of a token or a connection string, and may come without the rest."""
PASSWORD_OF_URL = re.compile(r"://[^\s/@:]*:(\S+)@")
NAME = re.compile(
    r"password|passwd|pwd$|passphrase|secret|token$|credential|(?:api|private|access|account)[_-]?key", re.IGNORECASE
)
"""How an entry is called, such as `--db-password`, whose value is a secret although its field is not one."""

COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LOOKS = (
    (re.compile(r"://\S+@"), f"://{MASK}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    # After a colon only where a value follows, as it does not in arn:aws:secretsmanager:eu-central-1:1:secret:name.
    (
        re.compile(
            r"""((?:password|passwd|pwd|passphrase|secret|token|credentials?|signature|sig|accountkey"""
            r"""|(?:api|private|(?:secret_?)?access)_?key)(?![A-Za-z])[\w-]*"""
            r"""(?:["']?\s*=\s*|["']\s*:\s*|\s*:\s+))(?:"[^"]*"|'[^']*'|[^\s,;&]+)""",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)
"""How secrets look in logs, and what they become."""


def forms_of(secret: str) -> set[str]:
    """Return how a secret is written as it is, in URLs, in JSON and by Python."""
    quoted = quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")
    return {secret, *quoted, json.dumps(secret)[1:-1], repr(secret)[1:-1]}


def pattern_of(forms: Iterable[str], *, alone: int) -> re.Pattern[str] | None:
    """Return what finds secrets, the longest first; None where there are none.

    >>> pattern = pattern_of({"secret"}, alone=LIKE_A_WORD)
    >>> pattern.sub("***", "secret: needs secretsmanager")
    '***: needs secretsmanager'

    Args:
        forms: How they are written.
        alone: Those of fewer characters are found only where they stand alone.
    """
    words = [
        rf"(?<!\w){re.escape(form)}(?!\w)" if len(form) < alone else re.escape(form)
        for form in sorted(forms, key=lambda form: (-len(form), form))
    ]
    return re.compile("|".join(words)) if words else None


def secrets_of(value: object) -> set[str]:
    """Return the secrets in the fields of a block, and in those of the blocks within it, as drivers may print them."""
    texts = list(_secrets(value))
    texts += [part for text in texts for pattern in (PART, PASSWORD_OF_URL) for part in pattern.findall(text)]
    return {form for text in texts if len(text) >= SHORTEST_SECRET for form in forms_of(text)}


def hide(text: str, owner: object = None) -> str:
    r"""Return the words of another system without colors, and with stars in place of secrets.

    >>> hide("\x1b[31mpostgres://me:pw@db/x\x1b[0m password: 'hunter 2', aws_secret_key=abc")
    'postgres://***@db/x password: ***, aws_secret_key=***'

    Args:
        text: The words.
        owner: The block, or the run of one, whose secrets may be among them.
    """
    return Hiding(owner).hide(text)


class Hiding:
    """Hides secrets in the words of another system, of which many come.

    Args:
        owner: The block, or the run of one, whose secrets may be among them.
    """

    def __init__(self, owner: object = None) -> None:
        self._known = pattern_of(secrets_of(owner), alone=LIKE_A_WORD)

    def hide(self, text: str) -> str:
        """Return the words without colors, and with stars in place of secrets."""
        text = COLORS.sub("", text)
        if self._known:
            text = self._known.sub(MASK, text)
        for looks, mask in LOOKS:
            text = looks.sub(mask, text)
        return text


def _secrets(value: object) -> Iterator[str]:  # noqa: C901, PLR0912 (one kind of value a branch)
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode(errors="replace")
    elif isinstance(value, Secret):
        inner = value.get_secret_value()
        yield from map(_text, inner.values()) if isinstance(inner, dict) else ()
    elif isinstance(value, BaseModel):
        for _, each in value:
            yield from _secrets(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        blocks = (getattr(value, field.name) for field in dataclasses.fields(value))
        for each in blocks:
            yield from _secrets(each) if isinstance(each, BaseModel) else ()
    elif isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, str) and isinstance(name, str) and NAME.search(name):
                yield each
            else:
                yield from _secrets(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each)


def _text(value: Any) -> str:
    """Return a value as a container gets it."""
    return value if isinstance(value, str) else str(value)
