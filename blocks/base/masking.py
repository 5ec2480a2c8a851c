"""Secrets in the words of others: how they may be written there, and what finds them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

LIKE_A_WORD = 12
"""A secret of fewer characters may be a part of words that have nothing to do with it."""


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
