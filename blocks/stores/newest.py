"""Which day a run takes that nobody gave a day: the newest that was delivered."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

from blocks.base.arguments import checked
from blocks.base.errors import InvalidInputError, ObjectNotFoundError
from blocks.base.names import key_text

if TYPE_CHECKING:
    from blocks.base.names import Key
    from blocks.stores.object_store import ObjectStore

DAY = "{ds}"


@checked
def newest_day(store: ObjectStore, key: Key) -> date:
    """Return the newest day of which a store has a file.

    Args:
        store: The store.
        key: The key of a day's file with {ds} in place of the day, such as "source/orders_{ds}.csv". The day is written
            as in 2026-04-30.

    Raises:
        InvalidInputError: There is no {ds} in the key.
        ObjectNotFoundError: The store has no such file.
    """
    before, found, after = key_text(key).partition(DAY)
    if not found:
        raise InvalidInputError(f"key {key_text(key)!r} has no place for the day. Write {DAY} where it stands.")
    pattern = re.compile(
        re.escape(before) + r"(\d{4}-\d{2}-\d{2})" + re.escape(after.replace(DAY, "\0")).replace("\0", r"\1")
    )
    keys = [info.key for page in store.objects.list(before.rpartition("/")[0]) for info in page]
    days = [day for key in keys if (match := pattern.fullmatch(key)) and (day := _day(match[1]))]
    if not days:
        raise ObjectNotFoundError(f"There is no file of any day at {store.uri(key)}. Check the key, or give a day.")
    return max(days)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
