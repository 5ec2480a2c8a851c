"""What dbt did: its nodes and how each ended, in words that hold no value of a row.

Results: https://docs.getdbt.com/reference/artifacts/run-results-json
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from blocks.base.arguments import checked
from blocks.base.artifacts import cell
from blocks.base.errors import JobFailedError, NotFoundError, TransientError, lookup
from blocks.credentials.snowflake import SNOWFLAKE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Self

GOOD = ("success", "pass", "no-op")
WARNED = ("warn",)
SKIPPED = ("skipped",)

# dbt's own words, which are about the project. Everything else comes from a database or a driver.
OWN_WORDS = re.compile(
    r"(Compilation|Dependency|Parsing|Project|Profile|Validation|YAML|Semantic Validation) Error\b|"
    r"Got \d+ results?, configured to |Nothing to do|The selection criterion|"
    r"PARTIAL SUCCESS \(\d+/\d+\)$|(ERROR|SUCCESS|SKIPPED)$|Skipping due to fail_fast$|"
    r"Runtime Error\n(?!\s*(Python model failed|Traceback|[A-Z][\w ]* (Error|Exception): ))"
)
HOOK_WORDS = re.compile(r"([\w.-]+ failed, error:)\s*(.+)", re.DOTALL)
COLORS = re.compile(r"\x1b\[[0-9;]*m")

# What databases say that holds names and no values.
NAMES_ONLY = re.compile(
    r"""(?ix)
    # PostgreSQL
    (relation|schema|table|view|column|function|role|database|type|operator|constraint|index|sequence|extension)
        \ [^\s'();]+(\ of\ relation\ "[^"]*")?\ (does\ not\ exist|already\ exists)
    | permission\ denied\ for\ (schema|table|relation|database|function|view|sequence)\ \S+
    | column\ \S+\ must\ appear\ in\ the\ group\ by\ clause.*
    | column\ reference\ "[^"]*"\ is\ ambiguous
    | duplicate\ key\ value\ violates\ unique\ constraint\ "[^"]*"
    | null\ value\ in\ column\ "[^"]*"\ (of\ relation\ "[^"]*"\ )?violates\ not-null\ constraint
    | new\ row\ for\ relation\ "[^"]*"\ violates\ check\ constraint\ "[^"]*"
    | cannot\ drop\ (table|view|schema)\ \S+\ because\ other\ objects\ depend\ on\ it
    | canceling\ statement\ due\ to\ [a-z ]+
    # DuckDB
    | (table|view|schema|sequence|(scalar|table)\ function)\ with\ name\ "?[\w.]+"?
        \ (does\ not\ exist.*|already\ exists)!?
    | referenced\ (column|table)\ "[^"]*"\ not\ found(\ in\ FROM\ clause)?!?
    # Snowflake
    | (object|schema|database|table|view)\ '[\w."$-]+'\ (does\ not\ exist(\ or\ not\ authorized)?|already\ exists)
    | invalid\ identifier\ '[\w."$-]+'
    # BigQuery
    | not\ found:\ (table|dataset|project|job|location|view|routine|function)\b[^\n'"]*
    | already\ exists:\ [^\n'"]*
    | unrecognized\ name:\ [^\n'"]*
    | access\ denied:\ [^\n'"]*
    | quota\ exceeded:\ [^\n'"]*
    """
)

# Where the rest of a message may quote rows or statements.
REST = re.compile(r"\n\s*(DETAIL|CONTEXT|QUERY|HINT|LINE \d+|compiled code at|\^)", re.IGNORECASE)
LABEL = re.compile(
    r"(\d{6}(?: \(\w{5}\))?: )?(SQL compilation error:\s*(error line \d+ at position \d+\s*)?)?([A-Z][\w ]+ Error: )?"
)
NAMED = (
    "attribute|catalog|column|constraint|database|extension|file|function|index|keyword argument|macro|model|module|"
    "named|relation|role|schema|sequence|source|table|user|view"
)
FILE = r"[\w .\-/*:{}=]+\.(?:sql|py|csv|tsv|ya?ml|parquet|json|jsonl|txt|xlsx|duckdb|db|gz|zst)"
COUNTED = (
    "arguments?|attempts?|batch(?:es)?|bytes|columns?|days?|errors?|failures?|fields?|files?|hours?|items?|KB|MB|GB|ms|minutes?|"
    "models?|nodes?|of|parameters?|records?|results?|rows?|seconds?|tests?|times?|warnings?|weeks?"
)
# What may be said, then what may not.
VALUES = re.compile(
    rf"""(?P<said>
      \b(?i:{NAMED})\ (?:"[^"\n]*" | '[^'\n]*' | `[^`\n]*`)
    | "{FILE}" | '{FILE}' | \(\) | \(\d+/\d+\) | \b(?:line|position|base)\ \d+\b | \b\d+\ (?={COUNTED}\b)
    )
    | (?P<quoted>(?<!\w)'(?:[^']|'')*'? | "[^"]*"? | `[^`]*`?) | \$\$.*
    | (?<=[Vv]alue\ )\S+ | (?<=[Vv]alues\ ).* | (?<=[Vv]alue:\ ).* | (?<=[Vv]alues:\ ).* | (?<=[Ll]iteral\ )(?!for\ )\S+
    | [(\[{{].* | (?<![\w])[-+]?\d[\w.,:+-]*""",
    re.VERBOSE | re.DOTALL,
)
TRACEBACK = re.compile(r"Traceback \(most recent call last\):")
FRAME = re.compile(r'File "[^"\n]*", line (\d+), in (\S+)')
RAISED = re.compile(r"([A-Za-z_][\w.]*)(?:: (.*))?")

TRANSIENT = re.compile(
    r"""(?ix)
    # The network, and servers that come and go.
    connection\ (was\ |has\ been\ |is\ )?(refused|reset|closed|aborted|timed\ out|lost|terminated|not\ open)
    | (server|peer)\ closed\ the\ connection | closed\ the\ connection\ unexpectedly | terminating\ connection
    | could\ not\ (connect\ to\ server|translate\ host\ name|receive\ data\ from\ server|send\ data\ to\ server)
    | connection\ already\ closed | ssl\ syscall\ error | broken\ pipe | remote\ end\ closed | read\ timed\ out
    | timeout\ expired | temporary\ failure\ in\ name\ resolution | max\ retries\ exceeded | remotedisconnected
    | \b(429|500|502|503|504)\b[^\n]{0,40}(error|unavailable|gateway|too\ many|timeout|POST|GET) | service\ unavailable
    | too\ many\ requests | the\ database\ system\ is\ (starting|shutting|in\ recovery)
    # PostgreSQL
    | deadlock\ detected | could\ not\ serialize\ access | could\ not\ obtain\ lock | due\ to\ lock\ timeout
    | too\ many\ clients | remaining\ connection\ slots | conflict\ with\ recovery | cached\ plan\ must\ not\ change
    # DuckDB
    | could\ not\ set\ lock\ on\ file | conflicting\ lock | write-write\ conflict | transaction\ conflict
    | transactioncontext\ error | catalog\ write-write
    # Snowflake
    | number\ of\ waiters\ for\ this\ lock | lock\ .{0,40}\ timed\ out
    # BigQuery
    | concurrent\ update | could\ not\ serialize | retrying\ the\ job\ may | exceeded\ rate\ limits
    | (job)?(backend|internal|rateLimit)(Error|Exceeded)\b | badGateway
    | encountered\ an\ (internal\ )?error\ during\ execution
    """
)
NUMBER = re.compile(r"\b(\d{6})(?: \((\w{5})\)|: )")


def is_transient_message(message: str) -> bool:
    r"""Whether what dbt says of a failure is something that passes: a lost connection, a deadlock, throttling, a lock.

    >>> is_transient_message("Database Error in model orders (models/orders.sql)\n  deadlock detected")
    True
    >>> is_transient_message("Compilation Error in model orders\n  'deadlock detected' is undefined")
    False
    """
    if OWN_WORDS.match(message.strip()) and not message.strip().startswith("Runtime Error"):
        return False
    if found := NUMBER.search(message):
        kind = lookup(SNOWFLAKE_ERRORS, found[1]) or lookup(SNOWFLAKE_ERRORS, found[2] or "")
        return kind is not None and issubclass(kind, TransientError)
    return TRANSIENT.search(message) is not None


def without_values(message: str, names: Container[str] = ()) -> str:
    r"""The words of dbt in one line, without what a database may have quoted of rows or statements.

    Names of relations, columns and files, counts, and classes of exceptions stay.

    Args:
        message: What dbt says of a failure.
        names: What is known to be a name: it stays also where nothing else tells that it is one.

    >>> without_values('Database Error in model a (a.sql)\n  relation "raw" does not exist\n  LINE 1: select 1')
    'Database Error in model a (a.sql): relation "raw" does not exist'
    >>> without_values("Runtime Error in model a (a.sql)\n  Conversion Error: Could not convert string 'x y' to INT32")
    'Runtime Error in model a (a.sql): Conversion Error: Could not convert string … to INT32'
    >>> without_values("shop.on-run-end.0 failed, error:\n Catalog Error: Table with name gone does not exist!")
    'shop.on-run-end.0 failed, error: Catalog Error: Table with name gone does not exist!'
    """
    text = COLORS.sub("", message).strip().removeprefix("Exception on worker thread. ")
    if OWN_WORDS.match(text):
        return " ".join(text.split())
    if hook := HOOK_WORDS.fullmatch(text):
        return f"{hook[1]} {without_values(hook[2], names)}"
    head, _, rest = text.partition("\n")
    if not re.match(r"(Database|Runtime) Error\b", head):
        head, rest = "", text if TRACEBACK.search(text) else head  # further lines may be rows
    if traceback := TRACEBACK.search(rest):
        words = _raised(rest[: traceback.start()], rest[traceback.end() :], names)
    else:
        said = " ".join(REST.split(rest, maxsplit=1)[0].split())
        label = LABEL.match(said)
        end = label.end() if label else 0
        found = NAMES_ONLY.match(said[end:])
        words = said[:end] + (found[0] if found else _masked(said[end:], names))
    return ": ".join(part for part in (head.strip().rstrip(":"), words.strip()) if part)


def _raised(before: str, traceback: str, names: Container[str]) -> str:
    """What a traceback ends with: the class of the exception, its words without values, and where it was raised."""
    lines = [line.strip() for line in traceback.strip().splitlines() if line.strip()]
    depths = [len(line) - len(line.lstrip()) for line in traceback.splitlines() if line.strip()]
    ends = [line for line, depth in zip(lines, depths, strict=True) if depth <= min(depths) and RAISED.fullmatch(line)]
    raised = RAISED.fullmatch(ends[-1]) if ends else None
    words = _masked(" ".join(before.split()), names)
    if raised is None:
        return f"{words} …".strip()
    said = f"{raised[1]}: {_masked(raised[2], names)}" if raised[2] else raised[1]
    frames = FRAME.findall(traceback)
    where = f" (line {frames[-1][0]}, in {frames[-1][1]})" if frames else ""
    return f"{words} {said}{where}".strip()


def _masked(words: str, names: Container[str]) -> str:
    def shown(found: re.Match[str]) -> str:
        if found["said"] or (found["quoted"] and found["quoted"][1:-1] in names):
            return found[0]
        return "…"

    return VALUES.sub(shown, words)


class DbtNode(BaseModel):
    """How one node of a dbt project ended: a model, a seed, a snapshot, a test, or a source and its freshness."""

    model_config = ConfigDict(frozen=True)

    unique_id: str = Field(description="dbt's name for it, such as 'model.shop.orders'.")
    name: str = Field(description="Its own name.")
    resource_type: str = Field(description="What it is, such as 'model'.")
    status: str = Field(description="dbt's word for how it ended: success, pass, warn, error, fail, skipped, ...")
    seconds: float = 0.0
    rows: int | None = Field(default=None, description="How many rows the database counted, where it did.")
    message: str = Field(default="", description="dbt's words, without values of rows.")
    relation: str | None = Field(default=None, description="The table or view, as 'schema.name'.")
    failures: int | None = Field(default=None, description="For a test: for how many rows it does not hold.")
    is_transient: bool = Field(default=False, description="Whether it failed with something that passes.")
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_failed(self) -> bool:
        """Whether it went wrong itself; a skipped one did not."""
        return self.status not in GOOD + WARNED + SKIPPED

    @property
    def is_optional(self) -> bool:
        """Whether dbt calls a command a success where this was skipped."""
        return self.resource_type == "exposure"

    def __str__(self) -> str:
        return f"{self.unique_id}: {self.status}" + (f" ({self.message})" if self.message else "")


class DbtResult(BaseModel):
    """What one command of dbt did, all of its attempts together."""

    model_config = ConfigDict(frozen=True)

    project: str = Field(description="The name of the project's directory.")
    command: str = Field(description="The command, such as 'build'.")
    target: str = Field(description="Where it was built, without secrets.")
    nodes: tuple[DbtNode, ...]
    exit_code: int | None = Field(default=None, description="dbt's own exit code; None where it was stopped.")
    attempts: int = Field(default=1, description="How often dbt was run for it; later attempts take only what failed.")
    artifacts: dict[str, Path] = Field(default_factory=dict, description="The files that dbt wrote, by name.")
    started_at: datetime
    finished_at: datetime

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes ended how, by dbt's words."""
        return dict(sorted(Counter(node.status for node in self.nodes).items()))

    @property
    def failures(self) -> tuple[DbtNode, ...]:
        """The nodes that went wrong."""
        return tuple(node for node in self.nodes if node.is_failed)

    @property
    def skipped(self) -> tuple[DbtNode, ...]:
        """The nodes that did not run because something before them went wrong."""
        return tuple(node for node in self.nodes if node.status in SKIPPED)

    @property
    def warnings(self) -> tuple[DbtNode, ...]:
        """The nodes with a warning."""
        return tuple(node for node in self.nodes if node.status in WARNED)

    @property
    def passed(self) -> bool:
        """Whether nothing went wrong: as dbt's own exit code says it."""
        return not self.exit_code and not self.failures and all(node.is_optional for node in self.skipped)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.finished_at - self.started_at).total_seconds()

    @checked
    def node(self, name: str) -> DbtNode:
        """Return the node of that name, or of that unique_id.

        Raises:
            NotFoundError: There is none, or more than one.
        """
        found = [node for node in self.nodes if name in (node.name, node.unique_id)]
        if len(found) != 1:
            raise NotFoundError(f"{len(found)} nodes are called {name!r} in {self.project}. Give the unique_id of one.")
        return found[0]

    @checked
    def raise_for_failures(self) -> Self:
        """Return the result itself, if nothing went wrong.

        Raises:
            DbtFailedError: A node failed; the error has the result.
        """
        if not self.passed:
            raise DbtFailedError(str(self), self)
        return self

    @checked
    def markdown(self) -> str:
        """Return the result as a page for people."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        lines = [
            f"# dbt {self.command} of {self.project}: {'passed' if self.passed else 'failed'}",
            "",
            f"{self.target}, {len(self.nodes)} nodes ({counts}), "
            f"{self.seconds:.2f} s" + (f", {self.attempts} attempts" if self.attempts > 1 else ""),
            "",
            "| node | status | rows | seconds | message |",
            "| --- | --- | --- | --- | --- |",
        ]
        for node in sorted(self.nodes, key=_urgency):
            rows = "" if node.rows is None else str(node.rows)
            lines.append(f"| {node.unique_id} | {node.status} | {rows} | {node.seconds:.2f} | {cell(node.message)} |")
        return "\n".join([*lines, ""])

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items()) or "nothing to do"
        text = f"dbt {self.command} of {self.project}: {counts} in {self.seconds:.1f} s"
        if self.exit_code and not self.failures:
            text += f"; dbt ended with exit code {self.exit_code}"
        return text + "".join(f"; {node}" for node in self.failures)


def _urgency(node: DbtNode) -> int:
    """Return where a node stands on the page: failures, then warnings, then what was skipped for them."""
    return 0 if node.is_failed else {"warn": 1, "skipped": 2}.get(node.status, 3)


class DbtFailedError(JobFailedError):
    """A node of a dbt project failed, or dbt took too long; `result` says how each node ended."""

    result: DbtResult


class DbtTransientError(TransientError):
    """Nodes of a dbt project failed with something that passes; the next attempt takes them and what they kept back."""

    def __init__(self, message: str, result: DbtResult) -> None:
        super().__init__(message)
        self.result = result
