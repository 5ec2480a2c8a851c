"""Quality: what was checked of some data, and how it went. One report, whoever did the checking.

A report holds counts, shares and the bounds that were declared. It never holds a value of a row, so that it can be
logged, kept as an artifact and sent in a mail; the rows themselves go to the quarantine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from blocks.base.arguments import checked
from blocks.base.artifacts import cell
from blocks.base.errors import QualityError
from blocks.base.parameter import Parameter

if TYPE_CHECKING:
    from typing import Self

    import pyarrow as pa

Severity = Literal["warn", "fail", "quarantine"]
"""What follows from a check that does not hold: nothing but a word of warning; the data is refused as a whole; or the
rows for which it does not hold are set aside and the rest may go on."""


class CheckResult(BaseModel):
    """How one check went."""

    model_config = ConfigDict(frozen=True)

    check: str = Field(description="What was checked, such as 'unique' or 'expect_column_values_to_be_unique'.")
    columns: tuple[str, ...] = Field(
        default=(), description="The columns that the check names; empty where it is of the table."
    )
    severity: Severity = "fail"
    passed: bool
    evaluated: bool = Field(
        default=True, description="Whether it could be asked of the data; what could not has not passed."
    )
    rows: int | None = Field(default=None, description="How many rows were looked at, where it looks at rows.")
    failed_rows: int | None = Field(default=None, description="For how many of them it does not hold.")
    detail: str = Field(
        default="", description="The bounds that were asked for and what was found: counts and statistics, no values."
    )

    @property
    def name(self) -> str:
        """`unique(order_id)`."""
        return f"{self.check}({', '.join(self.columns)})" if self.columns else self.check

    def __str__(self) -> str:
        found = [f"{self.failed_rows} of {self.rows} rows" if self.rows else f"{self.failed_rows} rows"]
        parts = [*(found if self.failed_rows else []), *([self.detail] if self.detail else [])]
        return self.name + (f": {', '.join(parts)}" if parts else "")


class QualityReport(BaseModel):
    """What was checked of some data, and how it went."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="Location of the data, without secrets.")
    suite: str = Field(description="The name of what was checked.")
    run_name: str = Field(default="", description="The name of this run of it, where it has one.")
    rows: int | None = Field(default=None, description="How many rows the data has, where they were counted.")
    checks: tuple[CheckResult, ...]
    rows_quarantined: int = Field(default=0, description="Rows for which a check of severity 'quarantine' fails.")
    docs: str | None = Field(default=None, description="Where the checks can be read as a page.")
    started_at: datetime
    finished_at: datetime

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that refuse the data: what does not hold, and what could not be asked, of any severity."""
        return tuple(
            check for check in self.checks if not check.passed and (check.severity == "fail" or not check.evaluated)
        )

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        """The checks that do not hold, which is only a warning."""
        return tuple(
            check for check in self.checks if not check.passed and check.evaluated and check.severity == "warn"
        )

    @property
    def unused(self) -> tuple[str, ...]:
        """What says nothing of the data: a suite without checks, or the checks that had no row to look at."""
        if not self.checks:
            return ("the suite has no checks",)
        if self.rows == 0:
            return ("there are no rows",)
        return tuple(
            f"{check.name} had no row to look at" for check in self.checks if check.evaluated and check.rows == 0
        )

    @property
    def passed(self) -> bool:
        """Whether the data may be used, apart from the rows that are quarantined."""
        return not self.failures

    @property
    def seconds(self) -> float:
        """How long the checks took."""
        return (self.finished_at - self.started_at).total_seconds()

    @checked
    def raise_for_failures(self) -> Self:
        """Return the report itself, if the data may be used.

        Raises:
            ChecksFailedError: A check of severity 'fail' does not hold; the error has the report.
        """
        if self.failures:
            raise ChecksFailedError(self)
        return self

    @checked
    def markdown(self) -> str:
        """Return the report as a page for people."""
        marks = {"fail": "failed", "warn": "warning", "quarantine": "quarantined"}
        lines = [
            f"# {self.suite}: {'passed' if self.passed else 'failed'}",
            "",
            f"{self.source}" + ("" if self.rows is None else f", {self.rows} rows") + f", {self.seconds:.2f} s",
            "",
            "| check | result | rows | detail |",
            "| --- | --- | --- | --- |",
        ]
        for check in self.checks:
            result = "ok" if check.passed else marks[check.severity] if check.evaluated else "not evaluated"
            rows = "" if check.failed_rows is None else f"{check.failed_rows} of {check.rows}"
            lines.append(f"| {cell(check.name)} | {result} | {rows} | {cell(check.detail)} |")
        lines += [line for reason in self.unused for line in ("", f"Nothing was checked: {reason}.")]
        if self.rows_quarantined:
            lines += ["", f"{self.rows_quarantined} rows are quarantined."]
        return "\n".join([*lines, *([] if self.docs is None else ["", f"[The whole page]({self.docs})"]), ""])

    def __str__(self) -> str:
        held = sum(check.passed for check in self.checks)
        text = f"{self.suite}: {held} of {len(self.checks)} checks hold for {self.source}"
        text += "" if self.rows is None else f" ({self.rows} rows)"
        for what, broken in (("failed", self.failures), ("warning", self.warnings)):
            text += "".join(f"; {what}: {check}" for check in broken)
        text += "".join(f"; nothing was checked: {reason}" for reason in self.unused)
        return text + (f"; {self.rows_quarantined} rows quarantined" if self.rows_quarantined else "")


@dataclass(frozen=True)
class Audit(Parameter):
    """A report, and the rows that a check of severity 'quarantine' sets aside.

    Attributes:
        report: What was checked, and how it went.
        rejected: An Arrow table of the columns that tell rows apart and `reason`, with a row for each row of the data
            and each check that does not hold for it. `Warehouse.publish(rejected=...)` takes it as it is. That of
            a table has the table's fingerprint with it, so that other rows are not published.
    """

    report: QualityReport
    rejected: pa.Table


class ChecksFailedError(QualityError):
    """The data is not what it has to be; `report` says in what."""

    def __init__(self, report: QualityReport) -> None:
        broken = "; ".join(map(str, report.failures))
        super().__init__(
            f"{report.suite} does not hold for {report.source}: {broken}. Correct the data where it comes from, or "
            "change the check if it asks too much."
        )
        self.report = report
