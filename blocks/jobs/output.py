"""What a run writes, passed on to the log of the flow while it runs. It is a help: whatever fails here fails no run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from blocks.base.errors import ConnectorError, NotFoundError, TransientError, one_line
from blocks.base.masking import Hiding

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGES_PER_LOOK = 10
MOST_LINES = 10_000
"""Lines of one run that are passed on; a log of gigabytes is read where it is kept."""
LONGEST_LINE = 2_000


class LogStream(NamedTuple):
    """Where a run writes what it says.

    Attributes:
        group: What it is part of, such as a log group of CloudWatch.
        name: Its name there.
        region: Where that is; empty means where the job is.
    """

    group: str
    name: str
    region: str = ""


class ReadsOutput(Protocol):
    """What passing on needs of a job."""

    def read_output(self, group: str, stream: str, position: str, *, region: str = "") -> tuple[list[str], str]:
        """Return the lines that follow a position of a stream, and the position after them."""


@dataclass
class Output:
    """What one run has written, as far as it was passed on.

    Attributes:
        lines: How many lines were.
        is_given_up: Whether no more will be.
    """

    lines: int = 0
    is_given_up: bool = False
    _positions: dict[LogStream, str] = field(default_factory=dict)

    def show(self, job: ReadsOutput, name: str, streams: Iterable[LogStream], logger: Any) -> None:
        """Log what the run has written since the last time.

        Args:
            job: Reads it; its secrets are masked.
            name: What to call the job.
            streams: Where the run writes.
            logger: The log.
        """
        for stream in streams:
            if self.is_given_up:
                return
            try:
                self._pass_on(job, name, stream, logger)
            except (NotFoundError, TransientError):
                continue  # nothing is written yet, or the next look will see it
            except ConnectorError as error:
                self._give_up(logger, f"Cannot read the log of {name}, and will not look again: {error}", job)
            except Exception as error:  # noqa: BLE001 (a log that cannot be read is no reason for a run to fail)
                why = type(error).__name__
                self._give_up(logger, f"Cannot read the log of {name}, and will not look again ({why}).", job)

    def _pass_on(self, job: ReadsOutput, name: str, stream: LogStream, logger: Any) -> None:
        hiding = Hiding(job)
        for _ in range(PAGES_PER_LOOK):
            before = self._positions.get(stream, "")
            lines, after = job.read_output(stream.group, stream.name, before, region=stream.region)
            for line in lines:
                if self.lines == MOST_LINES:
                    self._give_up(
                        logger, f"{name} has written more than {MOST_LINES:,} lines; see {stream.group} for more.", job
                    )
                    return
                logger.info("%s: %s", name, one_line(hiding.hide(line))[:LONGEST_LINE])
                self.lines += 1
            self._positions[stream] = after
            if after == before:
                return

    def _give_up(self, logger: Any, words: str, job: ReadsOutput) -> None:
        self.is_given_up = True
        logger.warning("%s", Hiding(job).hide(words))
