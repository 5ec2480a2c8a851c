"""The rows that a stream rejected, kept for the quarantine."""

from __future__ import annotations

import json
import tempfile
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING

from blocks.base.errors import InvalidInputError, QualityError
from blocks.base.optional import lazy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa = lazy("pyarrow")
    pc = lazy("pyarrow.compute")


class Rejects:
    """The rows that a stream rejected, in bounded memory, and their number by reason.

    A row is `(line, column, reason, row)`: the 1-based line of the file if known, the column at fault, why, and the
    row as it was (text of a file, else JSON). Rows go to quarantines only, never into a message or a log.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._first_lines: dict[str, int] = {}
        self._spool: tempfile.SpooledTemporaryFile[str] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=2**20, mode="w+", encoding="utf-8"
        )
        self._lock = threading.Lock()
        weakref.finalize(self, self._spool.close)

    @property
    def total(self) -> int:
        """The number of rejected rows."""
        return self.reasons.total()

    def add(self, reason: str, row: str, *, line: int | None = None, column: str | None = None) -> None:
        """Reject one row."""
        record = json.dumps({"line": line, "column": column, "reason": reason, "row": row}, ensure_ascii=False)
        with self._lock:
            self.reasons[reason] += 1
            if line is not None:
                self._first_lines.setdefault(reason, line)
            self._spool.write(record + "\n")

    def add_rows(self, rows: pa.RecordBatch, reason: str, *, column: str | None = None) -> None:
        """Reject all rows of a batch."""
        for row in rows.to_pylist():
            self.add(reason, json.dumps(row, default=str, ensure_ascii=False), column=column)

    def json_lines(self) -> Iterator[str]:
        """Yield the rejected rows, one JSON object per line, in their order."""
        with self._lock:
            self._spool.flush()
            self._spool.seek(0)
            try:
                yield from self._spool
            finally:
                self._spool.seek(0, 2)

    def check(self, *, accepted: int, max_rejected: float, source: str) -> None:
        """Compare with the share that the caller allows.

        Raises:
            QualityError: More than `max_rejected` (0 to 1) of all rows were refused.
        """
        seen = accepted + self.total
        if self.total and self.total > max_rejected * seen:
            lines = {reason: f", the first in line {line}" for reason, line in self._first_lines.items()}
            reasons = "; ".join(
                f"{reason}: {count}{lines.get(reason, '')}" for reason, count in self.reasons.most_common()
            )
            raise QualityError(
                f"{source}: {self.total} of {seen} rows were refused ({reasons}), and max_rejected allows "
                f"{max_rejected:.2%}. Nothing was applied. Correct the data, or allow more."
            )


def bad_row_error(source: str, reason: str, line: int | None = None, unit: str = "line") -> InvalidInputError:
    """Return the error for a bad row without a quarantine to go to; `unit` is what `line` counts."""
    place = f" {unit} {line}" if line is not None else ""
    return InvalidInputError(
        f"{source}{place}: {reason}. Correct the data, or use on_error='quarantine' with load() or write_table()."
    )


REASON = "reason"
"""The column of rejected rows that says why."""

AUDITED = b"etl.audited"
"""Where the schema of rejected rows keeps the fingerprint of the table that they were found in."""
