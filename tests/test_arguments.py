"""Every argument of every public method is checked at the call, against what the signature declares."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args, get_origin, get_type_hints

import pyarrow as pa
import pytest
from pydantic import ValidationError

import blocks
from blocks import CsvOptions, InvalidInputError, ObjectStore, ParquetOptions, ReadableStore, RetryPolicy, Scan
from blocks.base.arguments import FITS, LISTS, MAPPINGS, _hints, checked
from blocks.base.operation import BoundOperation
from blocks.jobs.run import JobRun
from blocks.quality.report import QualityReport
from blocks.warehouses.load import LoadArguments, LoadOptions
from connectors.dbt import DbtResult
from connectors.dbt_cloud.run import DbtCloudRun
from connectors.duckdb import DuckDB
from connectors.local import MemoryFiles

if TYPE_CHECKING:
    from blocks.base.block import ConnectorBlock

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import tables


class Wrong:
    """A value that is right nowhere."""


def methods() -> list[tuple[type[ConnectorBlock], str]]:
    """The public methods of all blocks that take arguments, each where it is defined."""
    found = {}
    for kind in tables.block_types():
        for name in dir(kind):
            owner = next((each for each in kind.__mro__ if name in vars(each)), object)
            if name.startswith(("_", "model_", "register", "aregister")) or not owner.__module__.startswith(
                ("blocks.", "connectors.")
            ):
                continue
            value = inspect.getattr_static(kind, name)
            function = getattr(value, "fn", value)
            if inspect.isfunction(function) and len(inspect.signature(function).parameters) > 1:
                found[owner, name] = (kind, name)
    return list(found.values())


METHODS = methods()


def right(kind: Any) -> Any:
    """A value that fits an annotation."""
    values: dict[Any, Any] = {
        str: "x",
        bytes: b"",
        int: 1,
        bool: True,
        Any: [{"a": 1}],
        BinaryIO: io.BytesIO(),
        dt.timedelta: dt.timedelta(1),
        BaseException: OSError(),
        ObjectStore: MemoryFiles(),
        ReadableStore: MemoryFiles(),
        pa.Schema: pa.schema([]),
    }
    kinds = [kind, get_origin(kind), *get_args(kind)]
    if get_origin(kind) in LISTS:
        return [right(get_args(kind)[0])]
    if get_origin(kind) in MAPPINGS:
        return {}
    return next((values[each] for each in kinds if each in values), None)


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda value: getattr(value, "__name__", value))
def test_every_argument_is_checked(kind: type[ConnectorBlock], name: str) -> None:
    """A value of a wrong type, and a name that the signature lacks, are refused before anything is opened."""
    method = getattr(kind.model_construct(), name)
    function = method._op.fn if isinstance(method, BoundOperation) else inspect.unwrap(method.__func__)
    hints = _hints(function)
    given = {
        parameter.name: right(hints.get(parameter.name, Any))
        for parameter in list(inspect.signature(function).parameters.values())[1:]
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }

    def call(arguments: dict[str, Any]) -> Any:
        answer = method(**arguments)
        return asyncio.run(answer) if inspect.iscoroutine(answer) else answer

    checkable = [each for each, hint in hints.items() if hint is not Any and each != "self"]
    for argument in checkable:
        with pytest.raises(InvalidInputError, match=argument):
            call({**given, argument: Wrong()})
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in inspect.signature(function).parameters.values()):
        with pytest.raises(InvalidInputError, match="has no argument 'nope'"):
            call({**given, "nope": 1})


def test_every_annotation_is_understood() -> None:
    """No argument goes unchecked because the names in its annotation could not be found."""
    for kind, name in METHODS:
        value = inspect.getattr_static(kind, name)
        function = inspect.unwrap(getattr(value, "fn", value))
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                assert parameter.annotation == "Any" or _hints(function)[parameter.name] is not Any, (name, parameter)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MemoryFiles().scan("x", delimiter=";"), r"write options=CsvOptions\(delimiter=\.\.\.\)"),
        (lambda: MemoryFiles().scan("x", sep=";"), r"write options=CsvOptions\(delimiter=\.\.\.\)"),
        (lambda: MemoryFiles().scan("x", formt="csv"), "did you mean 'format'"),
        (lambda: MemoryFiles().scan("x", schema={"a": pa.int64()}), r"Write schema=pyarrow.schema\(...\) around it"),
        (lambda: MemoryFiles().scan("x", options={"delimiter": ";"}), r"Write options=CsvOptions\(...\)"),
        (lambda: MemoryFiles().scan("x", format="parket"), "did you mean 'parquet'"),
        (lambda: MemoryFiles().scan("x", on_error="fial"), "did you mean 'fail'"),
        (lambda: MemoryFiles().scan("x", where="a = 1"), "where is"),
        (lambda: MemoryFiles().scan(["x", None]), "keys is a list of texts or paths, and has None"),
        (lambda: MemoryFiles().write_path("x", "text"), "content is bytes"),
        (lambda: MemoryFiles().write_path("x", b"", metadata={"a": 1}), r"metadata\['a'\] is text"),
        (lambda: MemoryFiles().write_path("x", b"", if_absent="false"), "if_absent is True or False"),
        (lambda: MemoryFiles().read_path("x", start=-1), "start is -1, and has to be at least 0"),
        (lambda: DuckDB().load([{"a": 1}], "t", mode="upsrt"), "did you mean 'upsert'"),
        (lambda: DuckDB().load([{"a": 1}], "t", if_exists="append"), "did you mean 'mode'"),
        (lambda: DuckDB().load([{"a": 1}], "t", key="id"), r"write key=\['id'\]"),
        (lambda: DuckDB().load([{"a": 1}], "t", max_rejected=5), "max_rejected is 5, and has to be at least 0 and at"),
        (lambda: DuckDB().load([{"a": 1}]), "missing a required argument: 'table'"),
        (lambda: DuckDB().load([{"a": 1}], "t", key=["a", 1]), "key is a list of column names, and has a value of"),
        (lambda: DuckDB().fetch_many("select 1", size=0), "size is 0"),
        (lambda: DuckDB().scan_query("select 1", "x"), "parameters is"),
        (lambda: Scan(pa.schema([]), [], source="x"), "open_batches is a function"),
        (lambda: Scan(pa.schema([]), lambda _: [], source="x").select("a"), r"write columns=\['a'\]"),
        (lambda: Scan(pa.schema([]), lambda _: [], source="x").map_batches("a"), "fn is a function"),
    ],
)
def test_the_right_spelling_is_named(call: Any, words: str) -> None:
    """Also the name that another library has for it."""
    with pytest.raises(InvalidInputError, match=words):
        call()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CsvOptions(sep=";"), "CsvOptions has no field 'sep'; did you mean 'delimiter'"),
        (lambda: CsvOptions(delimeter=";"), "did you mean 'delimiter'"),
        (lambda: ParquetOptions(rows=1), "ParquetOptions has no field 'rows'; its fields are"),
        (lambda: RetryPolicy(atempts=1), "did you mean 'attempts'"),
    ],
)
def test_a_misspelt_option_is_named(make: Any, words: str) -> None:
    """As with the fields of blocks."""
    with pytest.raises(ValidationError, match=words):
        make()


def test_public_functions_are_checked() -> None:
    """Those that are no methods, too."""
    for name in blocks.__all__:
        function = getattr(blocks, name)
        if inspect.isfunction(function) and name not in (
            "operation",
            "resolve",
            "retry_if_transient",
        ):  # decorators, and what says more
            with pytest.raises(InvalidInputError, match="has no argument 'nope'"):
                function(nope=1)


RESULTS = [JobRun.watch, DbtCloudRun.watch, DbtResult.node, DbtResult.markdown, DbtResult.raise_for_failures]
RESULTS += [QualityReport.markdown, QualityReport.raise_for_failures]


@pytest.mark.parametrize("method", RESULTS, ids=lambda method: method.__qualname__)
def test_methods_of_runs_and_reports_are_checked(method: Any) -> None:
    """What an operation hands out checks its arguments as the operation does."""
    with pytest.raises(InvalidInputError, match="has no argument 'nope'"):
        method(None, nope=1)


def test_what_fits_is_taken() -> None:
    """Numbers of NumPy, tuples, generators, and subclasses are what they stand for."""
    np = pytest.importorskip("numpy")

    @checked
    def call(n: int = 1, share: float = 0.5, flag: bool = False, names: list[str] = [], at: Path | str = "") -> None:  # noqa: B006
        del n, share, flag, names, at

    call(np.int64(3), np.float32(0.5), np.bool_(True), ("a", "b"), Path("x"))
    call(names=(each for each in "ab"), share=1)
    for wrong in ({"n": True}, {"n": 1.5}, {"share": "1"}, {"flag": 1}, {"names": {"a": 1}}, {"at": 3}):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            call(**wrong)
    assert FITS


ROWS = [{"id": 1, "day": "mon"}]

LOADS = {
    "on_new_columns": ({"on_new_columns": "fial"}, "Invalid on_new_columns 'fial': did you mean 'fail'?"),
    "key": ({"mode": "upsert", "key": "id"}, r"key is a list of column names.* key=\['id'\]"),
    "partition_by": ({"mode": "replace_partition", "partition_by": "day"}, r"partition_by=\['day'\]"),
    "allow_loss": ({"allow_loss": "id"}, r"allow_loss=\['id'\]"),
    "names": ({"mode": "upsert", "key": ["id", 1]}, "key is a list of column names, and has a value of type int"),
}
NO_SUCH = ("plan", "allow_loss")
SCANS = {
    "on_error": ({"on_error": "fial"}, "Invalid on_error 'fial': did you mean 'fail'?"),
    "extra_columns": ({"extra_columns": "ignroe"}, "Invalid extra_columns 'ignroe': did you mean 'ignore'?"),
    "columns": ({"columns": "id"}, r"columns=\['id'\]"),
}


def unread():
    """A scan that fails the test when somebody opens it."""
    return Scan(lambda: pytest.fail("its schema was asked for"), lambda _: pytest.fail("it was read"), source="rows")


@pytest.mark.parametrize(
    ("call", "argument"),
    [(call, argument) for call in ("load", "plan", "publish") for argument in LOADS if (call, argument) != NO_SUCH],
)
def test_a_load_checks_its_arguments(call, argument):
    """Nothing is added, cast or upserted by a typing error."""
    arguments, message = LOADS[argument]
    warehouse = DuckDB()
    warehouse.load(ROWS, "t", load_id="first")
    data = "t" if call == "publish" else unread()
    more = {} if call == "plan" else {"load_id": "x"}
    with pytest.raises(InvalidInputError, match=message):
        getattr(warehouse, call)(data, "t", **arguments, **more)
    assert warehouse.fetch_all("select id, day from t") == [(1, "mon")]
    assert warehouse.load_report("x") is None


@pytest.mark.parametrize("argument", SCANS)
def test_a_scan_checks_its_arguments(argument):
    """Nothing is quarantined, or left out, by a typing error."""
    arguments, message = SCANS[argument]
    with pytest.raises(InvalidInputError, match=message):
        MemoryFiles().scan("orders/*.csv", **arguments)


def test_a_dataset_checks_its_arguments():
    """A single text is not a list of columns."""
    store = MemoryFiles()
    with pytest.raises(InvalidInputError, match=r"partition_by=\['day'\]"):
        store.write_table(unread(), "orders", partition_by="day")
    assert store.list_objects() == []


def test_options_of_a_load_are_stated_once() -> None:
    """What `load`, `publish` and `plan` take by name is what a load is asked for, checked as it is declared there."""
    assert get_type_hints(LoadArguments, include_extras=True) == get_type_hints(LoadOptions, include_extras=True)
    for name in ("load", "publish", "plan"):
        parameters = inspect.signature(getattr(DuckDB(), name)).parameters
        named = {each.name: each.default for each in parameters.values() if each.name in get_type_hints(LoadOptions)}
        assert LoadOptions(**named) == LoadOptions()
        assert named.keys() == get_type_hints(LoadOptions).keys()
