"""What dbt is told in secret, kept out of all that is logged, raised and published."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from blocks.base.masking import LIKE_A_WORD, forms_of, pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "*****"
SHORT = 4
"""A secret of fewer characters is masked where it stands as a word of its own: it may be a part of any other."""
SETTINGS = {"", "0", "1", "false", "no", "none", "null", "off", "on", "true", "yes"}
"""Values of environment variables that are no secrets."""
WORDS = {
    "compiled_code",
    "compiled_sql",
    "description",
    "error",
    "invocation_command",
    "message",
    "raw_code",
    "raw_sql",
}
"""The fields of dbt's artifacts that are texts; what is in others may be a name that only looks like a secret."""
NAMES = {
    "alias",
    "child_map",
    "database",
    "fqn",
    "identifier",
    "macros",
    "name",
    "nodes",
    "parent_map",
    "relation_name",
    "schema",
    "unique_id",
}
"""The fields by which dbt finds nodes and tables again: a schema that `environment` names is one, and no secret."""
GIVEN = {"args", "config", "env", "meta", "unrendered_config", "vars"}
"""The fields that hold what users write, under names of their own."""


class Secrets:
    """Values that are replaced by asterisks.

    Args:
        values: The secrets. Of one that has several lines each line counts.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        whole = {value for value in values if value.strip()}
        parts = {line.strip() for value in whole for line in re.split(r"\r?\n|\\n", value) if len(line.strip()) > SHORT}
        self._shown = {form for value in whole | parts for form in forms_of(value)}
        self._rare = {form for form in self._shown if len(form) >= LIKE_A_WORD}
        self._pattern = pattern_of(self._shown, alone=SHORT)
        self._in_names = pattern_of(self._rare, alone=0)

    def mask(self, text: str) -> str:
        """Return the text without secrets.

        >>> Secrets(["s3cret", "1"]).mask("s3cret: 1 of 12")
        '*****: ***** of 12'
        """
        return self._pattern.sub(MASK, text) if self._pattern else text

    def mask_artifact(self, value: Any, key: str = "") -> Any:
        """Return what an artifact holds without secrets: the names in it, by which dbt goes, stay as they are.

        >>> Secrets(["model"]).mask_artifact({"unique_id": "model.a", "message": "model"})
        {'unique_id': 'model.a', 'message': '*****'}
        """
        if isinstance(value, dict):
            inside = key if key in GIVEN or key.endswith("_map") else ""
            return {name: self.mask_artifact(each, inside or name) for name, each in value.items()}
        if isinstance(value, list):
            return [self.mask_artifact(each, key) for each in value]
        if not isinstance(value, str) or key in NAMES:
            return value
        pattern = self._pattern if key in WORDS else self._in_names
        return pattern.sub(MASK, value) if pattern else value

    def are_in(self, data: bytes) -> bool:
        """Tell whether one of them is in the content of a file."""
        return any(form.encode("utf-8", "replace") in data for form in self._shown)

    def are_surely_in(self, data: bytes) -> bool:
        """Tell the same of those that cannot be there by chance."""
        return any(form.encode("utf-8", "replace") in data for form in self._rare)
