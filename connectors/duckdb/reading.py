"""What DuckDB hands out by Arrow, made exact: the casts that a query needs for it, and the types that come of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blocks.base.optional import lazy

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = lazy("pyarrow")

# Types that Arrow lacks, and that DuckDB would hand out as other values: a large number as a negative one, bits and
# shapes as bytes, a time without its zone. A VARIANT as text would not tell a number from a text within it.
READ_AS = {
    "bignum": "VARCHAR",
    "bit": "VARCHAR",
    "geometry": "VARCHAR",
    "time with time zone": "VARCHAR",
    "type": "VARCHAR",
    "uhugeint": "VARCHAR",
    "variant": "JSON",
}


def readable(kind: Any) -> str | None:
    """Return the type to which a column is cast where Arrow does not hold its own exactly; None where it does.

    Args:
        kind: A `DuckDBPyType`; what is within a list, a struct, a map or a union counts.
    """
    if kind.id not in ("list", "array", "struct", "tuple", "map", "union"):
        return READ_AS.get(kind.id)
    within = [(name, child) for name, child in kind.children if name != "size" or kind.id != "array"]
    if kind.id == "union":
        within = within[1:]  # its tag
    casts = [readable(child) for _, child in within]
    if not any(casts):
        return None
    parts = [cast or str(child) for cast, (_, child) in zip(casts, within, strict=True)]
    if kind.id == "list":
        return f"{parts[0]}[]"
    if kind.id == "array":
        return f"{parts[0]}[{dict(kind.children)['size']}]"
    if kind.id in ("struct", "union"):
        quoted = ['"' + name.replace('"', '""') + '"' for name, _ in within]
        parts = [f"{name} {part}" for name, part in zip(quoted, parts, strict=True)]
    return f"{kind.id.upper()}({', '.join(parts)})"


def bounds(kind: pa.DataType) -> tuple[int, int]:
    """Return the first and the last tick of a type that are a time: the ends of its bits are DuckDB's infinities."""
    infinite = 2 ** (kind.bit_width - 1) - 1
    return 1 - infinite, infinite - 1


def exact_type(sql_type: str, kind: pa.DataType) -> pa.DataType:
    """Return the Arrow type of a column that DuckDB hands out as `kind`: it gives JSON and UUID as text."""
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    return {"JSON": pa.json_(), "UUID": pa.uuid()}.get(sql_type, kind)
