"""AwsJob: what the jobs of AWS's services share: pages in the console, and what a run writes to CloudWatch Logs."""

from __future__ import annotations

from abc import ABC
from typing import Any
from urllib.parse import quote

from blocks.base.errors import ConnectorError, InvalidInputError, NotFoundError, TerminalError
from blocks.base.live import live
from blocks.base.optional import require
from blocks.credentials.aws import AWS_ERRORS
from blocks.jobs.job import Job
from connectors.shared.aws import AwsService, give_up_on_silence

LOG_ERRORS: dict[str, type[ConnectorError]] = AWS_ERRORS | {
    "ResourceNotFoundException": NotFoundError,
    "InvalidParameterException": InvalidInputError,
    "InvalidOperationException": TerminalError,
    "ServiceUnavailableException": AWS_ERRORS["ServiceUnavailable"],
}
"""https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html"""

LINES_PER_PAGE = 1_000
CONSOLES = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}
"""By partition: https://docs.aws.amazon.com/general/latest/gr/rande.html"""


class AwsJob(AwsService, Job, ABC):
    """A job of one of AWS's services.

    A child's `get_status` says to which log streams a run writes, and its `run_url` gives the run's page by `_page`.
    """

    def read_output(self, group: str, stream: str, position: str, *, region: str = "") -> tuple[list[str], str]:
        """Return the lines that follow a position of a log stream, and the position after them.

        Args:
            group: The log group.
            stream: The name of the stream.
            position: The token with which the last call ended, empty at first.
            region: The region of the group; by default that of the job.

        Raises:
            NotFoundError: There is no such stream, or not yet.
            AccessDeniedError: The identity may not read it.
        """
        where = {"logGroupName": group, "logStreamName": stream}
        start: dict[str, Any] = {"nextToken": position} if position else {"startFromHead": True}
        place = f"the log {group}/{stream}"
        with self._errors("read", place, "logs:GetLogEvents", table=LOG_ERRORS):
            answer = self._logs_client(region).get_log_events(**where, **start, limit=LINES_PER_PAGE)
        return [event["message"].rstrip() for event in answer["events"]], answer["nextForwardToken"]

    def _page(self, service: str, path: str) -> str:
        """Return the address of a page of AWS's console; empty where the region is not known.

        Args:
            service: The part of the console, such as "ecs/v2".
            path: The rest, in which `{region}` stands for the region.
        """
        try:
            session = self.aws_credentials.get_boto3_session()
            region = self.get_client().meta.region_name
            partition = session.get_partition_for_region(region)
        except Exception:  # noqa: BLE001 (a message is no worse without the page)
            return ""
        host = CONSOLES.get(partition, CONSOLES["aws"])
        return f"https://{region}.{host}/{service}{path.replace('{region}', quote(region))}"

    @live
    def _logs_clients(self) -> dict[str, Any]:
        return {}

    def _logs_client(self, region: str) -> Any:
        """Return a client of CloudWatch Logs in a region, which the block keeps; empty means that of the job."""
        with self._lock:
            if region not in self._logs_clients:
                config = require("botocore.config", extra="aws").Config(read_timeout=self.read_timeout_s)
                where = {"region_name": region} if region else {}
                client = self.aws_credentials.get_client("logs", config=config, **where)
                self._logs_clients[region] = give_up_on_silence(client, self.read_timeout_s)
            return self._logs_clients[region]

    def close(self) -> None:
        """Close what the block keeps open: its clients. The next call opens them again."""
        for client in self._logs_clients.values():
            client.close()
        super().close()
