"""What leaves a method of ours: errors of ours, fit to be shown; the user's own errors pass as they are."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from blocks import ConnectorBlock, ConnectorError, InvalidInputError, RetryPolicy, TerminalError, operation
from blocks.arrow.scan import Scan, as_scan
from blocks.base import errors
from blocks.base.boundary import SHORTEST_SECRET, bounded
from connectors.duckdb import DuckDB
from tests.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2"
VALUE = "row-7c1f"


class Faulty(ConnectorBlock):
    """A block whose methods raise what drivers do."""

    _block_type_name: ClassVar[str] = "Faulty"
    _block_type_slug: ClassVar[str] = "etl-tests-faulty"

    password: SecretStr = Field(default=SecretStr(SECRET), description="A secret.")

    @operation
    def check(self) -> str:
        """Fail as a driver that repeats the password would."""
        raise TerminalError(f"Could not log in with {SECRET} or {SECRET}%21.")

    @operation
    def circular(self) -> None:
        """Fail with an error that is kept, and raised from what arose while it was handled."""
        kept = TerminalError(f"The password is {SECRET}.")
        kept.__cause__ = TerminalError(f"It was {SECRET}.")
        kept.__cause__.__context__ = kept
        raise kept

    @operation
    def chained(self, data: Any) -> None:
        """Fail with an error of a driver behind ours, which quotes a row."""
        try:
            {}[f"{data}"]
        except LookupError:
            raise TerminalError("Could not do it.") from None


FAULTY = Faulty(retry=RetryPolicy(attempts=1))


@given(st.text())
def test_a_message_is_one_line(text: str) -> None:
    """Whatever a server says: no line of the log is its own, and none is hidden."""
    said = str(TerminalError(f"Could not do it: {text}."))
    assert len(said.splitlines()) == 1
    assert not [each for each in said if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a\n12:00 | INFO | all is well", r"a\n12:00 | INFO | all is well"),
        ("a\x1b[2Kb\r\u2028c\u202ed", r"a\x1b[2Kb\r\u2028c\u202ed"),
        ("no http://me:hunter2@minio:9000/x", "no http://***@minio:9000/x"),
        ("no postgresql://me:hun/ter2@db/shop", "no postgresql://***@db/shop"),
        ("password=hunter2 host=db", "password=*** host=db"),
        ("GET /a?X-Amz-Security-Token=hunter2&a=1", "GET /a?X-Amz-Security-Token=***&a=1"),
        ("'Authorization': 'Bearer hunter2'", "'Authorization': '***'"),
        ('relation "_etl_stage" lacks it', "relation the staged rows lacks it"),
        ("s3://raw/a:b@c.csv", "s3://raw/a:b@c.csv"),
        ("Check username and password. Or the token.", "Check username and password. Or the token."),
    ],
)
def test_foreign_words_are_made_fit(words: str, message: str) -> None:
    """Control characters are escaped, secrets masked by their form, and what is ours alone has another name."""
    assert str(errors.InvalidInputError(words)) == message


def test_the_secrets_of_a_block_are_masked() -> None:
    """Should a driver repeat one, whatever it writes around it."""
    with pytest.raises(TerminalError, match=r"^Could not log in with \*\*\* or \*\*\*%21\.$") as caught:
        FAULTY.check()
    assert SECRET not in shown(caught.value)
    assert len(SECRET) > SHORTEST_SECRET


def test_a_chain_that_leads_back_to_itself_is_walked_once() -> None:
    """All of it is masked, and it ends."""
    with pytest.raises(TerminalError, match=r"^The password is \*\*\*\.$") as caught:
        FAULTY.circular()
    assert str(caught.value.__cause__) == "It was ***."


def test_no_value_is_behind_an_error_nor_beside_it() -> None:
    """Neither in the errors that it replaced, also those that `from None` only hides, nor in a variable of a frame."""
    with pytest.raises(ConnectorError) as caught:
        FAULTY.chained([VALUE])
    assert VALUE not in shown(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__traceback__ is not None


OURS = """
def parse(texts):
    return pa.array(texts).cast(pa.int64())
"""


def test_what_nobody_expected_is_an_error_of_ours() -> None:
    """It says what was called, and where to look; the words, which may quote a value, it leaves out."""
    module: dict[str, Any] = {"__name__": "blocks.parsing", "pa": pa}
    exec(OURS, module)  # noqa: S102 (as if it stood in a module of ours)
    words = (
        r"^Could not run parse: an argument or the data has something that it cannot take \(ArrowInvalid in "
        r"blocks\.parsing, line 3\)\. The words of the error may quote a value, so they are not shown\.$"
    )
    with pytest.raises(InvalidInputError, match=words) as caught:
        bounded(module["parse"])([VALUE])
    assert VALUE not in shown(caught.value)


OWN: dict[str, Callable[[DuckDB], Any]] = {
    "a function": lambda warehouse: warehouse.load(as_scan(pa.table({"a": [1]})).map_batches(_fail), "t"),
    "a stream": lambda warehouse: warehouse.load(
        pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), map(_fail, [1])), "t"
    ),
    "a scan": lambda warehouse: warehouse.load(Scan(pa.schema([("a", pa.int64())]), _fail, source="mine"), "t"),
    "a scan that is read": lambda _: Scan(pa.schema([("a", pa.int64())]), _fail, source="mine").to_arrow(),
}


def _fail(_: Any) -> Any:
    raise KeyError("mine")


@pytest.mark.parametrize("case", OWN)
def test_an_error_of_the_user_passes_as_it_is(case: str, tmp_path: Path) -> None:
    """What a function, a stream or a scan of the user's raises is for the user to see, with all its frames."""
    with DuckDB(path=str(tmp_path / "w.duckdb")) as warehouse, pytest.raises(KeyError, match="mine"):
        OWN[case](warehouse)


FULL = """
import resource, signal, sys
import pyarrow as pa
from connectors.local import LocalFiles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    LocalFiles(basepath=sys.argv[1]).write_table(pa.table({"a": list(range(200_000))}), "orders")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="its files have no limit")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """Where the temporary files are, and what to do."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert "TerminalError: Could not run LocalFiles.write_table: File too large. Temporary files go to" in done.stdout
    assert InvalidInputError.__name__ not in done.stdout
