"""A column of every dtype of pandas and of polars, by name: what the frames of users may hold."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

UNITS: tuple[Any, ...] = ("ms", "us", "ns")


def pandas_columns() -> dict[str, pd.Series]:
    """A series of each dtype of this pandas, with a missing value where it has one."""
    moments = pd.to_datetime(["2026-04-30 12:00:00.000001", None])
    columns: dict[str, Any] = {
        **{name: pd.Series([1, 2], dtype=name) for name in ("int8", "int16", "int32", "int64")},
        **{name: pd.Series([1, 2], dtype=name) for name in ("uint8", "uint16", "uint32")},
        "uint64": pd.Series([2**64 - 1, 0], dtype="uint64"),
        **{name: pd.Series([1.5, np.nan], dtype=name) for name in ("float16", "float32", "float64")},
        "bool": pd.Series([True, False]),
        **{name: pd.Series([1, None], dtype=name) for name in ("Int8", "Int16", "Int32", "Int64")},
        **{name: pd.Series([1, None], dtype=name) for name in ("UInt8", "UInt16", "UInt32", "UInt64")},
        **{name: pd.Series([1.5, None], dtype=name) for name in ("Float32", "Float64")},
        "boolean": pd.Series([True, None], dtype="boolean"),
        "string": pd.Series(["ü", None], dtype="string"),
        "string[python]": pd.Series(["ü", None], dtype="string[python]"),
        "string[pyarrow]": pd.Series(["ü", None], dtype="string[pyarrow]"),
        "object of text": pd.Series(["ü", None], dtype=object),
        "object of bytes": pd.Series([b"\0", None], dtype=object),
        "object of int": pd.Series([1, None], dtype=object),
        "object of date": pd.Series([dt.date(2026, 4, 30), None], dtype=object),
        "object of time": pd.Series([dt.time(12), None], dtype=object),
        "object of decimal": pd.Series([Decimal("1.50"), None], dtype=object),
        "object of uuid": pd.Series([uuid.UUID(int=1), None], dtype=object),
        "object of list": pd.Series([[1, 2], None], dtype=object),
        "object of dict": pd.Series([{"a": 1}, None], dtype=object),
        "object of timedelta": pd.Series([dt.timedelta(1), None], dtype=object),
        "object mixed": pd.Series([1, "x"], dtype=object),
        "object of huge int": pd.Series([2**70, 1], dtype=object),
        "object of Python objects": pd.Series([object(), None], dtype=object),
        "complex128": pd.Series([1 + 2j, 0]),
        **{f"datetime64[{unit}]": pd.Series(moments.as_unit(unit)) for unit in ("s", "ms", "us", "ns")},
        "datetime64[us, Europe/Rome]": pd.Series(moments.as_unit("us").tz_localize("Europe/Rome")),
        "datetime64[ns, UTC]": pd.Series(moments.as_unit("ns").tz_localize("UTC")),
        **{
            f"timedelta64[{unit}]": pd.Series(pd.to_timedelta([1, None], unit="s").as_unit(unit))
            for unit in ("s", "ms", "us", "ns")
        },
        "category": pd.Series(["a", None], dtype="category"),
        "category of int": pd.Series([1, 2]).astype("category"),
        "period[D]": pd.Series(pd.period_range("2026-04-30", periods=2)),
        "interval": pd.Series(pd.interval_range(0, 2)),
        "Sparse[int64]": pd.Series(pd.arrays.SparseArray([0, 1])),
        "date32[pyarrow]": pd.Series([dt.date(2026, 4, 30), None], dtype=pd.ArrowDtype(pa.date32())),
        "decimal128(12, 2)[pyarrow]": pd.Series([Decimal("1.50"), None], dtype=pd.ArrowDtype(pa.decimal128(12, 2))),
        "list[pyarrow]": pd.Series([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
        "struct[pyarrow]": pd.Series([{"a": 1}, None], dtype=pd.ArrowDtype(pa.struct({"a": pa.int64()}))),
        "time64[pyarrow]": pd.Series([dt.time(12), None], dtype=pd.ArrowDtype(pa.time64("us"))),
        "binary[pyarrow]": pd.Series([b"\0", None], dtype=pd.ArrowDtype(pa.binary())),
        "duration[pyarrow]": pd.Series([dt.timedelta(1), None], dtype=pd.ArrowDtype(pa.duration("us"))),
        "null[pyarrow]": pd.Series([None, None], dtype=pd.ArrowDtype(pa.null())),
    }
    return columns


def polars_columns() -> dict[str, pl.Series]:
    """A series of each dtype of polars, with a missing value."""
    moment = dt.datetime(2026, 4, 30, 12, 0, 0, 1)  # noqa: DTZ001 (polars takes it as of the zone)
    integers = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
    more = [getattr(pl, name) for name in ("UInt128", "Float16") if hasattr(pl, name)]
    return {
        **{str(kind): pl.Series([1, None], dtype=kind) for kind in (*integers, *more, pl.Float32, pl.Float64)},
        "Boolean": pl.Series([True, None]),
        "String": pl.Series(["ü", None]),
        "Binary": pl.Series([b"\0", None]),
        "Date": pl.Series([dt.date(2026, 4, 30), None]),
        "Time": pl.Series([dt.time(12), None]),
        **{f"Datetime({unit})": pl.Series([moment, None], dtype=pl.Datetime(unit)) for unit in UNITS},
        "Datetime(us, Europe/Rome)": pl.Series([moment, None], dtype=pl.Datetime("us", "Europe/Rome")),
        **{f"Duration({unit})": pl.Series([dt.timedelta(1), None], dtype=pl.Duration(unit)) for unit in UNITS},
        "Decimal(12, 2)": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(12, 2)),
        "Categorical": pl.Series(["a", None], dtype=pl.Categorical),
        "Enum": pl.Series(["a", None], dtype=pl.Enum(["a", "b"])),
        "List(Int64)": pl.Series([[1, 2], None]),
        "List(List(Int64))": pl.Series([[[1], [2]], None]),
        "Array(Int64, 2)": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64, 2)),
        "Struct": pl.Series([{"a": 1}, None]),
        "Object": pl.Series([object(), None], dtype=pl.Object),
        "Null": pl.Series([None, None]),
    }


def columns_of(library: str) -> dict[str, Any]:
    """The series of one of the libraries."""
    return pandas_columns() if library == "pandas" else polars_columns()


def frame_of(series: Any) -> Any:
    """A frame with the series as its column `x`."""
    return pd.DataFrame({"x": series}) if isinstance(series, pd.Series) else pl.DataFrame({"x": series})
