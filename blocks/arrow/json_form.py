"""Lists, structs and maps as JSON text, for columns that hold JSON and nothing else that is nested.

Integers, finite floats, truth values, text and null are JSON's own. What JSON lacks is text: decimals digit by digit,
because readers make floats of numbers with a point; dates, times and moments in ISO 8601, moments with a zone in UTC;
UUIDs. A map is an object. Bytes and spans of time have no form.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blocks.arrow.types import is_list, map_entries, plain_type
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


def as_json(values: pa.Array) -> pa.Array:
    """Return the text of each value; null stays null.

    >>> import pyarrow as pa
    >>> as_json(pa.array([{"a": 1, "b": ["x", None]}, None])).to_pylist()
    ['{"a": 1, "b": ["x", null]}', None]

    Raises:
        pyarrow.ArrowInvalid: A float is not finite, or a map has a key twice.
    """
    valid = values.is_valid().to_pylist()
    try:
        texts = [
            json.dumps(value, ensure_ascii=False, allow_nan=False) if there else None
            for value, there in zip(_python(values), valid, strict=True)
        ]
    except ValueError:
        raise pa.ArrowInvalid("no JSON") from None
    return pa.array(texts, pa.string())


def _python(values: pa.Array) -> Iterator[Any]:
    """Yield each value as what Python's json module writes."""
    kind, types = values.type, pa.types
    if types.is_dictionary(kind):
        yield from _python(values.dictionary.take(values.indices))
    elif types.is_struct(kind):
        fields = [_python(pc.struct_field(values, [at])) for at in range(kind.num_fields)]
        names = [field.name for field in kind]
        rows = zip(*fields, strict=True) if fields else iter([()] * len(values))
        for row, there in zip(rows, values.is_valid().to_pylist(), strict=True):
            yield dict(zip(names, row, strict=True)) if there else None
    elif types.is_map(kind):
        for entries in _python(map_entries(values)):
            value = None if entries is None else {entry["key"]: entry["value"] for entry in entries}
            if value is not None and len(value) < len(entries):
                raise pa.ArrowInvalid("a key comes twice")
            yield value
    elif is_list(kind):
        yield from _lists(values, _python(values.flatten()))
    else:
        yield from _leaves(values).to_pylist()


def _lists(values: pa.Array, items: Iterator[Any]) -> Iterator[list[Any] | None]:
    """Cut what is in lists, one behind the other, into each of them."""
    for value in values:
        yield [next(items) for _ in range(len(value))] if value.is_valid else None


def _leaves(values: pa.Array) -> pa.Array:
    kind, types = values.type, pa.types
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())
    if types.is_timestamp(kind):
        texts = values.cast(plain_type(kind)).cast(pa.string())
        return pc.replace_substring(texts, " ", "T")
    is_text = types.is_decimal(kind) or types.is_date(kind) or types.is_time(kind)
    return values.cast(pa.string()) if is_text else values
